//! Many hosts at once: looking at all of them from a cold start, beside others who only run `true` there, and deploying to more and more.
//!
//! All are asked in turn, by a new process over new connections, and nothing
//! of one turn is left when the next begins.

use std::fmt::Write as _;
use std::io;
use std::path::Path;
use std::path::PathBuf;
use std::process::Output;
use std::time::Instant;

use clap::Args;
use nix::sys::resource::UsageWho;
use nix::sys::resource::getrusage;
use nix::sys::time::TimeValLike as _;

use crate::child;
use crate::figure::Figure;
use crate::figure::Figures;
use crate::figure::Unit;
use crate::planning::Effort;
use crate::sshd;
use crate::sshd::Hosts;
use crate::sshd::PORT;
use crate::sshd::Way;

/// How many hosts are deployed to at once, each number beside hosts of its own: nodes remember whom they were told of.
const DEPLOYED_TO: [u8; 3] = [1, 10, 50];

/// What runs `true` on hosts by the library asyncssh.
const ASYNCSSH: &str = "\
import asyncio, asyncssh, sys
files, port, hosts = sys.argv[1], int(sys.argv[2]), sys.argv[3:]
async def one(host):
    known, key = files + '/known_hosts', files + '/client'
    async with asyncssh.connect(host, port=port, username='root', known_hosts=known, client_keys=[key], config=None, agent_path=None) as it:
        await it.run('true', check=True)
async def main():
    await asyncio.gather(*map(one, hosts))
asyncio.run(main())
";

/// Which hosts, and with what.
#[derive(Debug, Args)]
#[group(id = "many hosts")]
pub struct Options {
    /// The `flocker` to look at many hosts and to deploy to them with; by `--only hosts` also the one built beside this
    #[arg(long, value_name = "PROGRAM")]
    operator: Option<PathBuf>,
    /// How many hosts are looked at, up to 150
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u8).range(1..=150))]
    hosts: u8,
    /// A Python that has the library asyncssh
    #[arg(long, value_name = "PROGRAM", default_value = "python3")]
    python: PathBuf,
}

/// Whether these figures were asked for by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// They were.
    ByName,
    /// They are among all.
    AmongAll,
}

/// Who goes to all hosts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Peer {
    Flocker(Way),
    Pssh,
    Xargs,
    Asyncssh,
}

/// What one turn took.
#[derive(Clone, Copy, Debug)]
struct Turn {
    seconds: f64,
    /// Processor time on this side, and on that of the hosts.
    here: f64,
    there: f64,
}

/// Measures how long it takes to look at many hosts, and to deploy to them.
pub fn measure(options: &Options, asked: Asked, effort: Effort, figures: &mut Figures) -> io::Result<()> {
    let operator = match (&options.operator, asked) {
        (Some(operator), _) => std::path::absolute(operator)?,
        (None, Asked::ByName) => child::sibling("flocker")?,
        (None, Asked::AmongAll) => {
            figures.note("left out: fifty hosts; `--operator target/release/flocker` measures them");
            return Ok(());
        }
    };
    if !nix::unistd::Uid::effective().is_root() {
        figures.note("left out: fifty hosts, which take root");
        return Ok(());
    }
    let (n_turns, largest) = match effort {
        Effort::Quick => (3, 10),
        Effort::Full => (7, 50),
    };
    let deployed_to: Vec<u8> = DEPLOYED_TO.into_iter().filter(|n| *n <= largest).collect();
    let n_others: u8 = deployed_to.iter().sum();
    let hosts = Hosts::start(&operator, options.hosts + n_others)?;
    look(&hosts, options, n_turns, figures)?;
    deploy(&hosts, options.hosts + 1, &deployed_to, n_turns, figures)
}

/// Looks at all hosts in turn with everybody else who is installed.
fn look(hosts: &Hosts, options: &Options, n_turns: usize, figures: &mut Figures) -> io::Result<()> {
    let n_hosts = options.hosts;
    let names = sshd::names(1, n_hosts);
    hosts.write("hosts", &names.join("\n"))?;
    hosts.write("deployment.yml", &deployment(&names, ""))?;
    hosts.write("application.yml", "version: 1\napplications: {}\n")?;
    hosts.write("fan_out.py", ASYNCSSH)?;
    let python = child::find(&options.python.display().to_string()).unwrap_or_else(|| options.python.clone());
    let mut peers = vec![Peer::Flocker(Way::Any)];
    // The nodes are set up and started, and have seen that our program is whole.
    let first = turn(hosts, Peer::Flocker(Way::Any), &names, &python)?;
    let name = |what: &str| format!("{n_hosts} hosts: {what}");
    let what = "the very first `flocker status`, which starts the nodes";
    figures.add(figure(name(what), &[first]));
    let is_library = !hosts.has_used_program(Way::Any, "look");
    if is_library {
        peers.push(Peer::Flocker(Way::Program));
    } else {
        figures.note("this `flocker` is built without `ssh2`: it reaches hosts by the program `ssh` alone");
    }
    for (peer, needs) in [(Peer::Pssh, "parallel-ssh"), (Peer::Xargs, "xargs")] {
        match child::find(needs) {
            Some(_) => peers.push(peer),
            None => figures.note(format!("left out, not installed: `{needs}`")),
        }
    }
    let import = [
        python.display().to_string(),
        "-c".into(),
        "import asyncssh".into(),
    ];
    let import: Vec<&str> = import.iter().map(String::as_str).collect();
    if hosts.run(&import)?.status.success() {
        peers.push(Peer::Asyncssh);
    } else {
        let python = options.python.display();
        figures.note(format!(
            "left out: `{python}` has no asyncssh; `--python` names one that has"
        ));
    }
    let mut turns = vec![Vec::new(); peers.len()];
    // Once for each does not count.
    for round in 0..=n_turns {
        for (peer, turns) in peers.iter().zip(&mut turns) {
            let took = turn(hosts, *peer, &names, &python)?;
            if round > 0 {
                turns.push(took);
            }
        }
    }
    let median = |peer: Peer, of: fn(&Turn) -> f64| {
        let at = peers.iter().position(|known| *known == peer)?;
        Some(Figure::new("", Unit::Seconds, turns[at].iter().map(of).collect()).median)
    };
    for (peer, turns) in peers.iter().zip(&turns) {
        let said = peer.said(is_library);
        let mut took = figure(name(&said), turns);
        if said.ends_with("by `ssh`") {
            // An `ssh` that stays for the next command is waited for by nobody, and so not counted.
            took.processor = None;
        }
        figures.add(took);
        let there = turns.iter().map(|turn| turn.there).collect();
        let there = Figure::new(
            name(&format!("{said}: processor of the hosts")),
            Unit::Seconds,
            there,
        );
        figures.add(there);
    }
    for way in [Way::Any, Way::Program] {
        let Some(ours) = median(Peer::Flocker(way), |turn| turn.seconds) else {
            continue;
        };
        let said = Peer::Flocker(way).said(is_library);
        for (peer, target) in [(Peer::Pssh, 0.35), (Peer::Xargs, f64::NAN), (Peer::Asyncssh, 1.1)] {
            let Some(theirs) = median(peer, |turn| turn.seconds) else {
                continue;
            };
            let name = name(&format!("{said} / {}", peer.said(is_library)));
            let ratio = Figure::new(name, Unit::Ratio, vec![ours / theirs]);
            // What was promised is for the way that is taken where nothing stands in it.
            let is_promised = way == Way::Any && !target.is_nan();
            figures.add(if is_promised { ratio.at_most(target) } else { ratio });
        }
    }
    Ok(())
}

impl Peer {
    fn said(self, is_library: bool) -> String {
        match self {
            Self::Flocker(Way::Any) if is_library => "`flocker status`, by libssh2".into(),
            Self::Flocker(Way::Any | Way::Program) => "`flocker status`, by `ssh`".into(),
            Self::Pssh => "`parallel-ssh true`".into(),
            Self::Xargs => "`xargs -P ssh true`".into(),
            Self::Asyncssh => "asyncssh, `true`".into(),
        }
    }
}

fn figure(name: String, turns: &[Turn]) -> Figure {
    let here = turns.iter().map(|turn| turn.here).collect();
    let seconds = turns.iter().map(|turn| turn.seconds).collect();
    Figure {
        processor: Some(Figure::new("", Unit::Seconds, here).median),
        ..Figure::new(name, Unit::Seconds, seconds)
    }
}

/// Lets one go to all hosts, once, and waits until nothing of it is left.
fn turn(hosts: &Hosts, peer: Peer, names: &[String], python: &Path) -> io::Result<Turn> {
    let config = hosts.ssh_config(Way::Any);
    let (list, n_hosts) = (hosts.at("hosts"), names.len().to_string());
    let run = || match peer {
        Peer::Flocker(way) => {
            let [deployment, application] = ["deployment.yml", "application.yml"];
            hosts.flocker(way, "look", &["status", deployment, application])
        }
        Peer::Pssh => {
            let options = format!("-F {config}");
            hosts.run(&[
                "parallel-ssh",
                "-h",
                &list,
                "-p",
                &n_hosts,
                "-x",
                &options,
                "true",
            ])
        }
        Peer::Xargs => hosts.run(&[
            "xargs", "-a", &list, "-P", &n_hosts, "-I{}", "ssh", "-n", "-F", &config, "{}", "true",
        ]),
        Peer::Asyncssh => {
            let addresses = (1..=names.len()).map(|host| format!("127.0.0.{host}"));
            let before = [
                python.display().to_string(),
                hosts.at("fan_out.py"),
                hosts.at(""),
                PORT.to_string(),
            ];
            let words: Vec<String> = before.into_iter().chain(addresses).collect();
            hosts.run(&words.iter().map(String::as_str).collect::<Vec<_>>())
        }
    };
    timed(hosts, run)
}

fn timed(hosts: &Hosts, run: impl FnOnce() -> io::Result<Output>) -> io::Result<Turn> {
    let before = (hosts.processor()?, waited_for()?);
    let began = Instant::now();
    let output = run()?;
    let seconds = began.elapsed().as_secs_f64();
    let here = waited_for()? - before.1;
    if !output.status.success() {
        let said = [&output.stdout, &output.stderr].map(|said| String::from_utf8_lossy(said).into_owned());
        return Err(io::Error::other(said.concat()));
    }
    hosts.hang_up()?;
    Ok(Turn {
        seconds,
        here,
        there: hosts.processor()? - before.0,
    })
}

/// Returns the seconds of processor time of all programs that were waited for, and of those that they waited for.
fn waited_for() -> io::Result<f64> {
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN)?;
    let microseconds = usage.user_time().num_microseconds() + usage.system_time().num_microseconds();
    Ok(std::time::Duration::from_micros(microseconds.unsigned_abs()).as_secs_f64())
}

/// Returns a deployment of these hosts, each with one application of a name that begins so; of nothing, without.
fn deployment(names: &[String], application: &str) -> String {
    let mut text = String::from("version: 1\nnodes:\n");
    for name in names {
        let here = match application {
            "" => String::new(),
            application => format!("{application}-{name}"),
        };
        writeln!(
            text,
            "  {name}: {{volumes: directory, runtime: process, router: proxy, applications: [{here}]}}"
        )
        .unwrap_or_default();
    }
    text
}

/// Starts an application on each of so many hosts, for each number in turn.
fn deploy(hosts: &Hosts, first: u8, numbers: &[u8], n_turns: usize, figures: &mut Figures) -> io::Result<()> {
    hosts.write("nothing.yml", "version: 1\napplications: {}\n")?;
    let mut turns = vec![Vec::new(); numbers.len()];
    for round in 0..=n_turns {
        let mut next = first;
        for (n_hosts, turns) in numbers.iter().zip(&mut turns) {
            let names = sshd::names(next, *n_hosts);
            next += n_hosts;
            let group = format!("deploy{n_hosts}");
            let mut applications = String::from("version: 1\napplications:\n");
            for name in &names {
                writeln!(
                    applications,
                    "  sleep-{name}: {{image: /bin/sleep, command_line: [infinity]}}"
                )
                .unwrap_or_default();
            }
            hosts.write("sleeping.yml", &applications)?;
            hosts.write("asleep.yml", &deployment(&names, "sleep"))?;
            hosts.write("awake.yml", &deployment(&names, ""))?;
            let deploy = |files: [&str; 2]| {
                let words = ["deploy", "--yes", "--allow-stop-all", files[0], files[1]];
                timed(hosts, || hosts.flocker(Way::Any, &group, &words))
            };
            let took = deploy(["asleep.yml", "sleeping.yml"])?;
            if round > 0 {
                turns.push(took);
            }
            deploy(["awake.yml", "nothing.yml"])?;
        }
    }
    let of = |n_hosts: u8| {
        let hosts = if n_hosts == 1 { "host" } else { "hosts" };
        format!("deploy of an application to each of {n_hosts} {hosts}")
    };
    let mut one = None;
    for (n_hosts, turns) in numbers.iter().zip(&turns) {
        let deploy = figure(of(*n_hosts), turns);
        let median = deploy.median;
        figures.add(deploy);
        match one {
            None => one = Some(median),
            Some(one) => {
                let name = format!("{} / to 1", of(*n_hosts));
                figures.add(Figure::new(name, Unit::Ratio, vec![median / one]));
            }
        }
    }
    Ok(())
}
