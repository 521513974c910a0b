//! Measures everything and prints one table.

use std::fs;
use std::io;
use std::io::Write as _;
use std::path::PathBuf;

use clap::Parser;
use clap::ValueEnum;
use flocker_benches::child;
use flocker_benches::copies;
use flocker_benches::figure::Figures;
use flocker_benches::frontier;
use flocker_benches::growth;
use flocker_benches::hostile;
use flocker_benches::hosts;
use flocker_benches::kernel_routes;
use flocker_benches::memory;
use flocker_benches::parsing;
use flocker_benches::planning;
use flocker_benches::planning::Effort;
use flocker_benches::real;
use flocker_benches::routes;
use flocker_benches::terraform;
use flocker_benches::transfer;

/// Measure everything and print one table
#[derive(Debug, Parser)]
struct Arguments {
    /// Write the figures there as JSON too
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Leave out what takes minutes
    #[arg(long)]
    quick: bool,
    /// Measure only these
    #[arg(long, value_name = "GROUP", value_delimiter = ',')]
    only: Vec<Group>,
    /// Run `terraform plan` beside `flocker plan`
    #[arg(long)]
    with_terraform: bool,
    #[command(flatten)]
    peer: terraform::Options,
    #[command(flatten)]
    real: real::Options,
    #[command(flatten)]
    hosts: hosts::Options,
}

/// What belongs together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Group {
    Planning,
    Frontier,
    Routes,
    Parsing,
    Memory,
    Transfer,
    Copies,
    KernelRoutes,
    RealNodes,
    Hosts,
    Growth,
}

fn main() -> io::Result<()> {
    let mut words = std::env::args().skip(1).peekable();
    if words.next_if(|word| word == child::MEASURE).is_some() {
        return writeln!(io::stdout(), "{}", child::measure(words)?);
    }
    let Arguments {
        json,
        quick,
        only,
        with_terraform,
        peer,
        real,
        hosts,
    } = Arguments::parse();
    let effort = if quick { Effort::Quick } else { Effort::Full };
    let mut figures = Figures::default();
    let wants = |group: Group| only.is_empty() || only.contains(&group);
    if wants(Group::Planning) {
        planning::measure(effort, &mut figures);
    }
    if wants(Group::Frontier) {
        frontier::measure(effort, &mut figures);
    }
    if wants(Group::Routes) {
        routes::measure(&mut figures);
    }
    if wants(Group::Parsing) {
        parsing::measure(effort, &mut figures);
        hostile::measure(effort, &mut figures);
    }
    if wants(Group::Memory) {
        memory::measure(effort, &mut figures)?;
    }
    if wants(Group::Transfer) {
        transfer::measure(&mut figures)?;
    }
    if wants(Group::Copies) {
        copies::measure(effort, &mut figures)?;
    }
    if wants(Group::KernelRoutes) {
        kernel_routes::measure(&mut figures)?;
    }
    if wants(Group::RealNodes) {
        real::measure(&real, &mut figures)?;
    }
    if wants(Group::Hosts) {
        let asked = if only.contains(&Group::Hosts) {
            hosts::Asked::ByName
        } else {
            hosts::Asked::AmongAll
        };
        hosts::measure(&hosts, asked, effort, &mut figures)?;
    }
    if wants(Group::Growth) {
        match effort {
            Effort::Quick => {
                figures.note("left out by --quick: a million applications, growth of instructions");
            }
            Effort::Full => growth::measure(&mut figures)?,
        }
    }
    if with_terraform {
        terraform::measure(effort, &peer, &mut figures)?;
    }
    if let Ok(load) = fs::read_to_string("/proc/loadavg") {
        figures.note(format!("load of the machine at the end: {}", load.trim()));
    }
    if let Some(file) = json {
        fs::write(file, serde_json::to_vec_pretty(&figures)?)?;
    }
    write!(io::stdout(), "{figures}")
}
