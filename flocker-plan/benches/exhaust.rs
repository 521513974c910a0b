//! Proves every plan of every small cluster, up to the full bound: `cargo bench -p flocker-plan --bench exhaust`.
//!
//! `-- --small` goes as far as the ordinary tests do, `-- --json` prints
//! figures for programs, `-- --family NAME` looks at one family only, and
//! `-- --case NAME:NUMBER` at one cluster: it is what a failure says to run.

#![expect(
    clippy::unwrap_used,
    reason = "a test that cannot go on says where it stopped"
)]

#[path = "../tests/support/digest.rs"]
mod digest;
#[path = "../tests/support/families.rs"]
mod families;
#[path = "../tests/support/proof.rs"]
mod proof;
#[path = "../tests/support/small.rs"]
mod small;
#[path = "../tests/support/walk.rs"]
mod walk;
#[path = "../tests/support/world.rs"]
mod world;

use std::io::Write as _;
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use families::{Bound, Family, families};
use proof::{Count, prove};

/// How many clusters a thread takes at a time.
const PORTION: u64 = 256;
/// How many failures are enough.
const ENOUGH: usize = 5;

struct Wanted {
    bound: Bound,
    json: bool,
    family: Option<String>,
    case: Option<u64>,
    every: u64,
}

fn main() -> ExitCode {
    let wanted = match parse(std::env::args().skip(1)) {
        Ok(wanted) => wanted,
        Err(wrong) => {
            say(&format!(
                "{wrong}\nusage: exhaust [--small] [--json] [--family NAME | --case NAME:NUMBER] [--every N]"
            ));
            return ExitCode::from(2);
        }
    };
    let families: Vec<Family> = families(wanted.bound)
        .into_iter()
        .filter(|family| wanted.family.as_ref().is_none_or(|name| family.name == name))
        .collect();
    if families.is_empty() {
        say("there is no such family");
        return ExitCode::from(2);
    }
    let mut total = Count::default();
    let began = Instant::now();
    for family in &families {
        let began = Instant::now();
        let (count, failures) = search(family, &wanted);
        total.add(count);
        tell(family.name, count, began.elapsed(), wanted.json);
        for (number, wrong) in &failures {
            let small = if wanted.bound == Bound::Small {
                " --small"
            } else {
                ""
            };
            let name = family.name;
            say(&format!(
                "FAILED {name}:{number}: {wrong}\nsee it again: cargo bench -p flocker-plan --bench exhaust --{small} --case {name}:{number}"
            ));
        }
        if !failures.is_empty() {
            return ExitCode::FAILURE;
        }
    }
    tell("all", total, began.elapsed(), wanted.json);
    ExitCode::SUCCESS
}

fn parse(mut words: impl Iterator<Item = String>) -> Result<Wanted, String> {
    let mut wanted = Wanted {
        bound: Bound::Full,
        json: false,
        family: None,
        case: None,
        every: 1,
    };
    while let Some(word) = words.next() {
        let mut value = || words.next().ok_or_else(|| format!("{word} of what?"));
        match word.as_str() {
            // Cargo says so to every bench.
            "--bench" => {}
            "--small" => wanted.bound = Bound::Small,
            "--json" => wanted.json = true,
            "--family" => wanted.family = Some(value()?),
            "--every" => wanted.every = value()?.parse().map_err(|_| "--every takes a number")?,
            "--case" => {
                let case = value()?;
                let (family, number) = case.split_once(':').ok_or("a case is NAME:NUMBER")?;
                wanted.family = Some(family.into());
                wanted.case = Some(number.parse().map_err(|_| "a case is NAME:NUMBER")?);
            }
            other => return Err(format!("{other} is not known")),
        }
    }
    Ok(wanted)
}

type Failures = Vec<(u64, String)>;

/// Proves every cluster of a family, on all processors.
fn search(family: &Family, wanted: &Wanted) -> (Count, Failures) {
    let next = AtomicU64::new(0);
    let found: Mutex<(Count, Failures)> = Mutex::default();
    let n_threads = std::thread::available_parallelism().map_or(1, usize::from);
    let work = || {
        let mut count = Count::default();
        loop {
            let first = next.fetch_add(PORTION, Ordering::Relaxed);
            let enough = found.lock().unwrap().1.len() >= ENOUGH;
            if first >= family.n_words() || enough {
                break;
            }
            for number in first..family.n_words().min(first + PORTION) {
                let is_wanted = wanted
                    .case
                    .map_or(number % wanted.every == 0, |case| case == number);
                let Some(state) = is_wanted.then(|| family.cluster(number)).flatten() else {
                    continue;
                };
                if let Err(wrong) = prove(&state, &family.wishes, family.half_way, &mut count) {
                    found.lock().unwrap().1.push((number, wrong));
                }
            }
        }
        found.lock().unwrap().0.add(count);
    };
    std::thread::scope(|scope| {
        for _ in 0..n_threads {
            scope.spawn(work);
        }
    });
    let (count, mut failures) = found.into_inner().unwrap();
    failures.sort_unstable();
    failures.truncate(ENOUGH);
    (count, failures)
}

fn tell(name: &str, count: Count, took: Duration, json: bool) {
    let Count {
        clusters,
        pairs,
        plans,
        steps,
        crashes,
        detours,
    } = count;
    let seconds = took.as_secs_f64();
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a figure for people"
    )]
    let rate = (pairs as f64 / seconds.max(0.001)) as u64;
    if json {
        say(&format!(
            "{{\"family\":\"{name}\",\"clusters\":{clusters},\"pairs\":{pairs},\"plans\":{plans},\"steps\":{steps},\
             \"crashes\":{crashes},\"detours\":{detours},\"seconds\":{seconds:.1},\"pairs_per_second\":{rate}}}"
        ));
    } else {
        say(&format!(
            "{name}: {clusters} clusters, {pairs} pairs of cluster and wish, {plans} plans, {steps} steps in every order, \
             {crashes} crashes, {detours} detours; {seconds:.1} s, {rate} pairs/s"
        ));
    }
}

fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    // Whoever stops listening does not want to know.
    drop(writeln!(out, "{line}"));
}
