//! Runs simulations of whole clusters, seed after seed, and says which seeds fail and how to see it again.
//!
//! `simulate --seeds N [--from S] [--mode repairable|unlimited] [--jobs J]` runs many;
//! `simulate --seed X [--mode M] [--only 0,2|none] [--history]` runs one.

use std::io::Write as _;
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::time::Instant;

use flocker_engine::sim::Mode;
use flocker_engine::sim::Simulation;

/// How many lines of the history a failure shows.
const LINES: usize = 60;

/// How many failing seeds are enough.
const ENOUGH: usize = 10;

struct Wanted {
    from: u64,
    n_seeds: u64,
    modes: Vec<Mode>,
    only: Option<Vec<usize>>,
    history: bool,
    n_jobs: usize,
}

fn main() -> ExitCode {
    match parse(std::env::args().skip(1)) {
        Ok(wanted) if wanted.history => show(&wanted),
        Ok(wanted) => run(&wanted),
        Err(wrong) => {
            say(&format!(
                "{wrong}\nusage: simulate (--seeds N [--from S] | --seed X [--only 0,2|none] [--history]) \
                 [--mode repairable|unlimited] [--jobs J]"
            ));
            ExitCode::from(2)
        }
    }
}

fn parse(mut words: impl Iterator<Item = String>) -> Result<Wanted, String> {
    let mut wanted = Wanted {
        from: 0,
        n_seeds: 1000,
        modes: vec![Mode::Repairable, Mode::Unlimited],
        only: None,
        history: false,
        n_jobs: 1,
    };
    while let Some(option) = words.next() {
        if option == "--history" {
            wanted.history = true;
            continue;
        }
        let value = words
            .next()
            .ok_or_else(|| format!("`{option}` lacks its value"))?;
        let number = || {
            value
                .parse::<u64>()
                .map_err(|_| format!("`{value}` is no number"))
        };
        match option.as_str() {
            "--seeds" => wanted.n_seeds = number()?,
            "--from" => wanted.from = number()?,
            "--jobs" => wanted.n_jobs = usize::try_from(number()?).unwrap_or(1),
            "--seed" => {
                wanted.from = number()?;
                wanted.n_seeds = 1;
            }
            "--mode" => {
                wanted.modes = match value.as_str() {
                    "repairable" => vec![Mode::Repairable],
                    "unlimited" => vec![Mode::Unlimited],
                    _ => return Err(format!("there is no mode `{value}`")),
                }
            }
            "--only" if value == "none" => wanted.only = Some(Vec::new()),
            "--only" => {
                let positions = value.split(',').map(str::parse);
                let positions: Result<_, _> = positions.collect();
                wanted.only = Some(positions.map_err(|_| format!("`{value}` is no list of numbers"))?);
            }
            _ => return Err(format!("there is no option `{option}`")),
        }
    }
    Ok(wanted)
}

fn say(line: &str) {
    // Where nobody reads what is said, the exit code still tells.
    drop(writeln!(std::io::stdout().lock(), "{line}"));
}

fn show(wanted: &Wanted) -> ExitCode {
    let mut is_well = true;
    for mode in &wanted.modes {
        let mut simulation = Simulation::new(wanted.from, *mode);
        simulation.only.clone_from(&wanted.only);
        let verdict = simulation.run();
        say(&verdict.explain(usize::MAX));
        is_well &= verdict.broken.is_none();
    }
    if is_well {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn run(wanted: &Wanted) -> ExitCode {
    let began = Instant::now();
    let next = AtomicU64::new(wanted.from);
    let end = wanted.from.saturating_add(wanted.n_seeds);
    let failures = Mutex::new(Vec::new());
    let n_effects = AtomicU64::new(0);
    let n_acknowledged = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for _ in 0..wanted.n_jobs.max(1) {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    let n_failures = failures.lock().unwrap_or_else(PoisonError::into_inner).len();
                    if seed >= end || n_failures >= ENOUGH {
                        return;
                    }
                    for mode in &wanted.modes {
                        let mut simulation = Simulation::new(seed, *mode);
                        simulation.only.clone_from(&wanted.only);
                        let verdict = simulation.run();
                        n_effects.fetch_add(verdict.n_effects, Ordering::Relaxed);
                        n_acknowledged.fetch_add(verdict.n_acknowledged, Ordering::Relaxed);
                        if verdict.broken.is_some() {
                            let smallest = simulation.shrink();
                            say(&smallest.explain(LINES));
                            failures.lock().unwrap_or_else(PoisonError::into_inner).push(seed);
                        }
                    }
                    let n_done = seed + 1 - wanted.from;
                    if n_done.is_multiple_of(1000) {
                        say(&progress(n_done, began));
                    }
                }
            });
        }
    });
    let failures = failures.into_inner().unwrap_or_else(PoisonError::into_inner);
    let n_done = next.into_inner().min(end) - wanted.from;
    say(&format!(
        "{}, {} effects, {} writes acknowledged, {} failing",
        progress(n_done, began),
        n_effects.into_inner(),
        n_acknowledged.into_inner(),
        failures.len(),
    ));
    if failures.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn progress(n_done: u64, began: Instant) -> String {
    let millis = began.elapsed().as_millis().max(1);
    let rate = u128::from(n_done) * 1000 / millis;
    format!(
        "{n_done} seeds in {}.{:03} s, {rate} seeds/s",
        millis / 1000,
        millis % 1000
    )
}
