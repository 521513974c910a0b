//! Moves between real machines: how long, how long clients wait, how much is sent, and beside what.
//!
//! Everything that is compared is measured in the same run: each part of a
//! move alone, and the same data through stock `ssh` and through a bare door.

use std::io;
use std::path::PathBuf;
use std::time::Duration;
use std::time::Instant;

use clap::Args;
use serde_json::Value;

use crate::bed::Bed;
use crate::bed::Store;
use crate::child;
use crate::figure::Figure;
use crate::figure::Figures;
use crate::figure::Unit;
use crate::prober::N_BYTES;
use crate::prober::Prober;

/// How long anything may take before it is given up.
const PATIENCE: Duration = Duration::from_secs(300);

/// How often each size moves, there and back.
const N_MOVES: u8 = 3;

/// How often a client writes in the moves of all sizes.
const WRITES_PER_SECOND: u32 = 100;

/// The size that others are compared with, and that moves under other rates of writing.
const BASE_MEBIBYTES: u32 = 256;

/// How often each raw pipe is measured.
const N_PIPES: usize = 3;

/// Above this, once is enough: it takes half a minute.
const LARGE_MEBIBYTES: u32 = 1024;

/// Takes away what was made in a node to compare with. What was unmounted just now stays busy for a moment.
const CLEAN: &str = "docker rm -f alone >/dev/null 2>&1; \
    for dataset in alone raw; do \
      for n in $(seq 20); do \
        zfs list flocker/$dataset >/dev/null 2>&1 || break; zfs destroy -r flocker/$dataset 2>/dev/null || sleep 0.5; \
      done; \
    done; true";

/// Where the container is that is started and stopped alone: nobody else gets this address so soon.
const ALONE: &str = "10.193.255.250";

/// Which machines, and what is moved there.
#[derive(Debug, Args)]
#[group(id = "real nodes")]
pub struct Options {
    /// The programs of a bed of which three nodes are up
    #[arg(long, value_name = "DIRECTORY")]
    bed: Option<PathBuf>,
    /// The `flocker` to move with
    #[arg(long, value_name = "PROGRAM")]
    mover: Option<PathBuf>,
    /// How much is in the volumes that are moved, in MiB
    #[arg(long, value_name = "MIB", value_delimiter = ',', default_values_t = [64, 256, 1024])]
    volumes: Vec<u32>,
    /// How often a client writes 4 KiB while 256 MiB move once more, in times a second
    #[arg(long, value_name = "RATE", value_delimiter = ',', value_parser = clap::value_parser!(u32).range(1..=10_000))]
    write_rates: Vec<u32>,
}

impl Options {
    /// Returns what is moved: each size under the usual rate, then one size under the others.
    fn stores(&self) -> Vec<Store> {
        let sizes = self
            .volumes
            .iter()
            .map(|mebibytes| (*mebibytes, WRITES_PER_SECOND));
        let rates = self.write_rates.iter().map(|rate| (BASE_MEBIBYTES, *rate));
        let mut stores: Vec<Store> = Vec::new();
        for ((mebibytes, writes_per_second), port) in sizes.chain(rates).zip(6600..) {
            let is_there =
                |store: &Store| store.mebibytes == mebibytes && store.writes_per_second == writes_per_second;
            if !stores.iter().any(is_there) {
                stores.push(Store {
                    mebibytes,
                    port,
                    writes_per_second,
                });
            }
        }
        stores
    }
}

/// What one move was.
#[derive(Debug)]
struct Moved {
    whole: f64,
    pause: f64,
    said_pause: f64,
    sent: f64,
    written: f64,
    last_round: f64,
    /// Bytes a second of the first copy, while it was made.
    rate: Option<f64>,
}

/// Measures moves of all sizes, and their parts alone.
pub fn measure(options: &Options, figures: &mut Figures) -> io::Result<()> {
    let (Some(programs), Some(flocker)) = (&options.bed, &options.mover) else {
        figures.note("left out: moves between real machines; `flocker-cli/tests/real/figures` measures them");
        return Ok(());
    };
    let bed = Bed::find(programs, flocker)?;
    let bed = &bed;
    bed.copy(&child::sibling("door")?, "/root/door")?;
    let stores = options.stores();
    touch(bed, &stores)?;
    let mut rates = Vec::new();
    let mut pauses = Vec::new();
    let mut last_rounds = Vec::new();
    for store in stores {
        let moves = moves(bed, store)?;
        let Store {
            mebibytes,
            port: _,
            writes_per_second,
        } = store;
        let is_usual = writes_per_second == WRITES_PER_SECOND;
        let rate = if is_usual {
            String::new()
        } else {
            format!(", {writes_per_second} writes a second")
        };
        let name = |what: &str| format!("real nodes, {mebibytes} MiB{rate}: {what}");
        let column = |of: fn(&Moved) -> f64| moves.iter().map(of).collect::<Vec<_>>();
        // Only the first one sends everything.
        let used = f64::from(mebibytes) * 1_048_576.0;
        if let Some(first) = moves.first() {
            figures.add(Figure::new(name("whole move"), Unit::Seconds, vec![first.whole]));
            let ratio = first.sent / (used + first.written);
            let sent = Figure::new(
                name("sent / (used + written meanwhile)"),
                Unit::Ratio,
                vec![ratio],
            );
            figures.add(sent.at_most(1.15));
            if is_usual {
                rates.extend(first.rate.map(|rate| (mebibytes, rate)));
            }
            // A disk may be too slow for the rate that was asked for.
            let answered = Figure::new(
                name("writes a second that were answered"),
                Unit::Count,
                vec![first.written / bytes(N_BYTES) / first.whole],
            );
            figures.add(answered);
        }
        let pause = Figure::new(
            name("pause that clients see"),
            Unit::Seconds,
            column(|moved| moved.pause),
        );
        if is_usual {
            pauses.push((mebibytes, pause.median));
        }
        figures.add(pause);
        figures.add(Figure::new(
            name("pause that the command says"),
            Unit::Seconds,
            column(|moved| moved.said_pause),
        ));
        let last = Figure::new(name("last round"), Unit::Bytes, column(|moved| moved.last_round));
        if is_usual {
            last_rounds.push(last.median);
        }
        figures.add(last);
    }
    // What was measured before is not lost with what could not be.
    for (what, measured) in [
        ("the parts of a pause", parts(bed, &last_rounds, &pauses, figures)),
        ("raw pipes", while_written(bed, || pipes(bed, &rates, figures))),
        ("reports", reports(bed, figures)),
    ] {
        if let Err(error) = measured {
            figures.note(format!("FAILED: {what}: {error}"));
        }
    }
    for node in 1..=3 {
        bed.exec(node, CLEAN)?;
    }
    Ok(())
}

/// Has both pools write once where the copies will be: a file that is a pool gets its memory, or its blocks, only then,
/// and whatever arrives there first takes twice as long as what comes after it.
fn touch(bed: &Bed, stores: &[Store]) -> io::Result<()> {
    let largest = stores
        .iter()
        .map(|store| store.mebibytes)
        .max()
        .unwrap_or_default();
    let mebibytes = largest + stores.iter().map(|store| store.mebibytes).sum::<u32>();
    for node in 1..=2 {
        bed.exec(
            node,
            &format!("zfs create -o mountpoint=/srv/raw flocker/raw && head -c {mebibytes}M /dev/zero > /srv/raw/all && sync"),
        )?;
        drop_raw(bed, node)?;
    }
    Ok(())
}

fn seconds(duration: Duration) -> f64 {
    duration.as_secs_f64()
}

fn bytes(n_bytes: usize) -> f64 {
    f64::from(u32::try_from(n_bytes).unwrap_or(u32::MAX))
}

/// Reads a number of a JSON document.
fn number(value: &Value, name: &str) -> f64 {
    value.get(name).and_then(Value::as_f64).unwrap_or_default()
}

/// Moves a store there, back and there again while a client writes, and takes it away.
fn moves(bed: &Bed, store: Store) -> io::Result<Vec<Moved>> {
    bed.deploy(&[(store, 1)])?;
    let Store { mebibytes, .. } = store;
    let name = store.name();
    // What a pool was given is written before anything of it is sent, as where a snapshot is taken for a raw pipe.
    bed.exec(
        1,
        &format!(
            "docker exec flocker--{name} sh -c 'head -c {mebibytes}M /dev/urandom > /data/ballast; sync' && \
             zfs create flocker/settled && zfs destroy flocker/settled"
        ),
    )?;
    let mut moves = Vec::new();
    for n in 0..N_MOVES {
        let prober = Prober::start(bed.socket(3, store.port)?, store.writes_per_second, PATIENCE)?;
        // What a client sees where nothing is moved comes first.
        std::thread::sleep(Duration::from_secs(1));
        let began = Instant::now();
        let said = bed.deploy(&[(store, 2 - n % 2)])?;
        let whole = seconds(began.elapsed());
        prober.answered_after(Instant::now(), PATIENCE)?;
        let written = prober.n_answers(began) * N_BYTES;
        moves.push(moved(&said, &prober, began, whole, written)?);
    }
    bed.deploy(&[])?;
    Ok(moves)
}

fn moved(said: &[Value], prober: &Prober, began: Instant, whole: f64, written: usize) -> io::Result<Moved> {
    let nothing = || io::Error::other("the command says nothing of a move");
    let last = said.last().ok_or_else(nothing)?;
    let of = last
        .get("moves")
        .and_then(|moves| moves.get(0))
        .ok_or_else(nothing)?;
    let rounds = of.get("rounds").and_then(Value::as_array).ok_or_else(nothing)?;
    let rounds: Vec<f64> = rounds.iter().filter_map(Value::as_f64).collect();
    let last_round = number(of, "last_round");
    // The longest push is the first of a volume that was not there.
    let pushes = said.iter().filter(|line| {
        let step = line.get("step").and_then(Value::as_str).unwrap_or_default();
        line.get("event").and_then(Value::as_str) == Some("step_done") && step.contains("/push/")
    });
    let took = pushes.filter_map(|line| {
        let took = line.get("took")?;
        Some(number(took, "secs") + number(took, "nanos") / 1e9)
    });
    for line in said {
        // For whoever wants to know where a pause comes from.
        if line.get("event").and_then(Value::as_str) == Some("step_done") {
            eprint_step(line);
        }
    }
    let first = rounds.first().copied().zip(took.reduce(f64::max));
    Ok(Moved {
        whole,
        pause: seconds(prober.longest_wait(began)),
        said_pause: number(of, "downtime_ms") / 1000.0,
        sent: rounds.iter().sum::<f64>() + last_round,
        written: bytes(written),
        last_round,
        rate: first.map(|(bytes, seconds)| bytes / seconds),
    })
}

#[expect(
    clippy::print_stderr,
    reason = "this program is for whoever measures, and its table comes last"
)]
fn eprint_step(line: &Value) {
    let step = line.get("step").and_then(Value::as_str).unwrap_or_default();
    let took = line
        .get("took")
        .map_or(0.0, |took| number(took, "secs") + number(took, "nanos") / 1e9);
    eprintln!("{took:9.3} s  {step}");
}

/// Measures what a pause consists of, each alone: a container that stops, a last round over open connections, a container that starts.
fn parts(bed: &Bed, last_rounds: &[f64], pauses: &[(u32, f64)], figures: &mut Figures) -> io::Result<()> {
    let dirty = last_rounds.iter().copied().fold(0.0, f64::max);
    let kibibytes = (dirty / 1024.0).ceil();
    // In the network that its fellows are in: what the engine does for that is part of a start.
    bed.exec(
        1,
        &format!(
            "zfs create -o mountpoint=/srv/alone flocker/alone && \
             docker create --name alone --network flocker --ip {ALONE} -v /srv/alone:/data database redis-server \
             --port 6379 --dir /data --appendonly yes --appendfsync always --auto-aof-rewrite-min-size 1mb --save '' --protected-mode no --bind 0.0.0.0 \
             >/dev/null && \
             head -c 64M /dev/urandom > /srv/alone/ballast && zfs snapshot flocker/alone@0 && \
             zfs send flocker/alone@0 | ssh node2 zfs receive flocker/alone && \
             ssh -fN -o ControlMaster=yes -o ControlPath=/root/alone.ctl node2 </dev/null >/dev/null 2>&1"
        ),
    )?;
    let timed = |script: &str| -> io::Result<f64> {
        let clock = "$(date +%s%N)";
        let script = format!("set -e; began={clock}; {script}; echo $(( {clock} - began ))");
        let took = bed.exec(1, &script)?;
        let nanoseconds: f64 = took
            .lines()
            .last()
            .unwrap_or_default()
            .trim()
            .parse()
            .map_err(io::Error::other)?;
        Ok(nanoseconds / 1e9)
    };
    let (mut stops, mut rounds, mut starts) = (Vec::new(), Vec::new(), Vec::new());
    for n in 1..=5 {
        starts.push(timed(&format!(
            "docker start alone >/dev/null; until (exec 3<>/dev/tcp/{ALONE}/6379) 2>/dev/null; do sleep 0.005; done"
        ))?);
        std::thread::sleep(Duration::from_secs(1));
        stops.push(timed("docker stop -t 10 alone >/dev/null")?);
        // Everything that was written since counts as much as what is told of it, and no more.
        let before = n - 1;
        bed.exec(
            1,
            &format!(
                "set -e; zfs snapshot flocker/alone@s{n}; [ {n} = 1 ] && base=0 || base=d{before}; \
                 zfs send -i @$base flocker/alone@s{n} | ssh -o ControlPath=/root/alone.ctl node2 zfs receive -F flocker/alone; \
                 head -c {kibibytes}K /dev/urandom > /srv/alone/dirty; sync"
            ),
        )?;
        rounds.push(timed(&format!(
            "zfs snapshot flocker/alone@d{n}; \
             zfs send -i @s{n} flocker/alone@d{n} | ssh -o ControlPath=/root/alone.ctl node2 zfs receive -F flocker/alone"
        ))?);
    }
    bed.exec(
        1,
        "ssh -o ControlPath=/root/alone.ctl -O exit node2 2>/dev/null; true",
    )?;
    let stop = Figure::new("real nodes, alone: stop of a container", Unit::Seconds, stops);
    let round = Figure::new(
        "real nodes, alone: last round, by `ssh` that is open already",
        Unit::Seconds,
        rounds,
    );
    let start = Figure::new(
        "real nodes, alone: start, until it answers",
        Unit::Seconds,
        starts,
    );
    let alone = stop.median + round.median + start.median;
    figures.figures.extend([stop, round, start]);
    for (mebibytes, pause) in pauses {
        let name = format!("real nodes, {mebibytes} MiB: pause / its parts alone");
        figures.add(Figure::new(name, Unit::Ratio, vec![pause / alone]).at_most(1.25));
    }
    if let [first, others @ .., last] = pauses {
        // What is smaller still says more of the machine than of the volume.
        let base = others.iter().find(|(mebibytes, _)| *mebibytes == BASE_MEBIBYTES);
        let base = base.unwrap_or(first);
        let name = format!("real nodes: pause with {} MiB / with {} MiB", last.0, base.0);
        figures.add(Figure::new(name, Unit::Ratio, vec![last.1 / base.1]).at_most(1.2));
    }
    Ok(())
}

/// How a raw pipe goes from one machine to the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pipe {
    Ssh,
    Door,
}

/// Measures while a client writes as often as one did while there were moves: the two share the processors then too.
fn while_written(bed: &Bed, measure: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
    let store = Store {
        mebibytes: 1,
        port: 6599,
        writes_per_second: WRITES_PER_SECOND,
    };
    bed.deploy(&[(store, 1)])?;
    let prober = Prober::start(bed.socket(3, store.port)?, store.writes_per_second, PATIENCE)?;
    let measured = measure();
    drop(prober);
    bed.deploy(&[])?;
    measured
}

/// Sends as much through stock `ssh` and through a bare door, in turn, and compares the copies of Flocker with both.
///
/// As much, because a pool takes in faster what it has room for in memory than what it has to write meanwhile.
fn pipes(bed: &Bed, rates: &[(u32, f64)], figures: &mut Figures) -> io::Result<()> {
    for &(mebibytes, rate) in rates {
        bed.exec(
            1,
            &format!(
                "zfs create -o mountpoint=/srv/raw flocker/raw && head -c {mebibytes}M /dev/urandom > /srv/raw/ballast && \
                 sync && zfs snapshot flocker/raw@0"
            ),
        )?;
        let mut samples = [Vec::new(), Vec::new()];
        let n_samples = if mebibytes > LARGE_MEBIBYTES { 1 } else { N_PIPES };
        for _ in 0..n_samples {
            for (pipe, samples) in [Pipe::Ssh, Pipe::Door].into_iter().zip(&mut samples) {
                let seconds = through(bed, pipe)?;
                samples.push(f64::from(mebibytes) * 1.048_576 / seconds);
                drop_raw(bed, 2)?;
            }
        }
        drop_raw(bed, 1)?;
        let name = |what: &str| format!("real nodes, {mebibytes} MiB: {what}");
        let [ssh, door] = samples;
        let ssh = Figure::new(
            name("`zfs send | ssh | zfs receive`"),
            Unit::MegabytesPerSecond,
            ssh,
        );
        let door = Figure::new(
            name("`zfs send`, a bare door, `zfs receive`"),
            Unit::MegabytesPerSecond,
            door,
        );
        let rate = rate / 1e6;
        let of_door = vec![door.median / rate];
        let of_ssh = vec![ssh.median / rate];
        figures.figures.extend([ssh, door]);
        figures.add(Figure::new(
            name("first copy"),
            Unit::MegabytesPerSecond,
            vec![rate],
        ));
        let slower = Figure::new(name("bare door / first copy"), Unit::Ratio, of_door);
        figures.add(slower.at_most(1.0 / 0.95));
        let slower = Figure::new(name("stock `ssh` / first copy"), Unit::Ratio, of_ssh);
        figures.add(slower.at_most(1.0 / 1.5));
    }
    Ok(())
}

fn drop_raw(bed: &Bed, node: u8) -> io::Result<String> {
    bed.exec(
        node,
        "for n in $(seq 20); do zfs destroy -r flocker/raw 2>/dev/null && exit; sleep 0.5; done; exit 1",
    )
}

/// Sends the volume one way and returns how long it took.
fn through(bed: &Bed, pipe: Pipe) -> io::Result<f64> {
    let took = match pipe {
        Pipe::Ssh => bed.exec(
            1,
            "set -e -o pipefail; began=$(date +%s%N); zfs send flocker/raw@0 | ssh node2 zfs receive flocker/raw; \
             echo $(( $(date +%s%N) - began ))",
        )?,
        // Two connections carry the pin and the address; the clock runs while the bytes do.
        Pipe::Door => bed.exec(
            1,
            &format!(
                "set -e -o pipefail; cd /root; rm -f pin address arrived; \
                 ssh node2 'rm -f pin address'; \
                 began=$(date +%s%N); (zfs send flocker/raw@0 | ./door send pin address) & \
                 until [ -s pin ]; do sleep 0.005; done; \
                 scp -q pin node2:pin; \
                 ssh node2 'set -o pipefail; ./door receive {} pin address | zfs receive flocker/raw; date +%s%N > ended' & \
                 until scp -q node2:address arrived 2>/dev/null && [ -s arrived ]; do sleep 0.02; done; \
                 began=$(date +%s%N); mv arrived address; wait; \
                 echo $(( $(ssh node2 cat ended) - began ))",
                bed.address(2)
            ),
        )?,
    };
    let nanoseconds: f64 = took.trim().parse().map_err(io::Error::other)?;
    Ok(nanoseconds / 1e9)
}

/// Measures looking at one node and at three, and deploying where there is nothing to do.
fn reports(bed: &Bed, figures: &mut Figures) -> io::Result<()> {
    let mut samples = [Vec::new(), Vec::new()];
    let nodes: [&[&str]; 2] = [
        &["report-state", "node1"],
        &["report-state", "node1", "node2", "node3"],
    ];
    for round in 0..=5 {
        for (words, samples) in nodes.iter().zip(&mut samples) {
            let began = Instant::now();
            let output = bed.flocker(words)?;
            if !output.status.success() {
                return Err(io::Error::other(
                    String::from_utf8_lossy(&output.stderr).into_owned(),
                ));
            }
            // The first time, the program may have to be brought there.
            if round > 0 {
                samples.push(seconds(began.elapsed()));
            }
        }
    }
    let [one, three] = samples;
    let one = Figure::new("real nodes: `report-state` of one", Unit::Seconds, one);
    let three = Figure::new("real nodes: `report-state` of three", Unit::Seconds, three);
    let ratio = three.median / one.median;
    figures.figures.extend([one, three]);
    figures.add(Figure::new(
        "real nodes: `report-state` of three / of one",
        Unit::Ratio,
        vec![ratio],
    ));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_move_under_the_usual_rate_and_one_size_under_others() {
        let options = Options {
            bed: None,
            mover: None,
            volumes: vec![64, 256],
            write_rates: vec![10, 100],
        };
        let stores: Vec<_> = options
            .stores()
            .iter()
            .map(|store| (store.name(), store.port))
            .collect();
        // What was moved under the usual rate is not moved under it again.
        let expected = [
            ("store64-100", 6600),
            ("store256-100", 6601),
            ("store256-10", 6602),
        ];
        assert_eq!(stores, expected.map(|(name, port)| (name.to_owned(), port)));
    }
}
