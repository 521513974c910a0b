//! Makes one cluster and plans it a given number of times: for those who count instructions or bytes.

use std::io;
use std::io::Write as _;

use clap::Parser;
use clap::builder::PossibleValuesParser;
use clap::builder::TypedValueParser as _;
use flocker_benches::cluster::Change;
use flocker_benches::cluster::Cluster;
use flocker_benches::cluster::Shape;
use flocker_benches::figure::processor;
use flocker_benches::memory::Memory;
use flocker_plan::Policy;
use peak_alloc::PeakAlloc;

#[global_allocator]
static ALLOCATED: PeakAlloc = PeakAlloc;

/// Plan one generated cluster
#[derive(Debug, Parser)]
struct Arguments {
    /// How many nodes
    #[arg(long, default_value_t = 1000)]
    nodes: u32,
    /// How many applications
    #[arg(long, default_value_t = 10_000)]
    applications: u32,
    /// What is to be done to them
    #[arg(long, default_value = Change::Settled.name(), value_parser = change())]
    change: Change,
    /// How many times to plan
    #[arg(long, default_value_t = 1)]
    plans: u32,
    /// Print the processor time of each planning, without the dropping of the plan
    #[arg(long)]
    seconds: bool,
    /// Print as JSON what it took in memory instead
    #[arg(long)]
    memory: bool,
}

fn change() -> impl clap::builder::TypedValueParser<Value = Change> {
    PossibleValuesParser::new(Change::ALL.map(Change::name)).map(|name| {
        let found = Change::ALL.into_iter().find(|change| change.name() == name);
        found.unwrap_or(Change::Settled)
    })
}

fn main() -> io::Result<()> {
    let Arguments {
        nodes,
        applications,
        change,
        plans,
        seconds,
        memory,
    } = Arguments::parse();
    let shape = Shape::new(nodes, applications);
    let before = allocated();
    let desired = shape.desired(change);
    let with_desired = allocated();
    let actual = shape.actual(change);
    let with_actual = allocated();
    let resident = resident()?;
    let cluster = Cluster { desired, actual };
    ALLOCATED.reset_peak_usage();
    let mut n = 0;
    for _ in 0..plans {
        let start = processor();
        let plan = flocker_plan::plan(&cluster.desired, &cluster.actual, &Policy::default());
        if seconds {
            writeln!(io::stdout(), "{:.3?}", processor().saturating_sub(start))?;
        }
        n = plan.steps().len();
    }
    if memory {
        let memory = Memory {
            desired: with_desired - before,
            actual: with_actual - with_desired,
            planning: bytes(ALLOCATED.peak_usage()) - with_actual,
            resident,
        };
        serde_json::to_writer(io::stdout(), &memory)?;
        writeln!(io::stdout())
    } else {
        writeln!(io::stdout(), "{n} steps")
    }
}

/// How many bytes were asked of the allocator and not given back.
fn allocated() -> f64 {
    bytes(ALLOCATED.current_usage())
}

/// Turns a number of bytes into one that can be divided, in steps of 1024.
fn bytes(count: usize) -> f64 {
    f64::from(u32::try_from(count / 1024).unwrap_or(u32::MAX)) * 1024.0
}

/// How many bytes of this process stand in memory.
fn resident() -> io::Result<f64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kibibytes = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<f64>().ok());
    kibibytes
        .map(|kibibytes| kibibytes * 1024.0)
        .ok_or_else(|| io::Error::other("the kernel does not say how much memory this process has"))
}
