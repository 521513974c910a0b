//! Runs simulations of whole clusters, seed after seed, and says which seeds fail and how to see it again.
//!
//! `simulate --seeds N [--from S] [--mode repairable|unlimited] [--shape move|mixed] [--jobs J]` runs many;
//! `simulate --seed X [--mode M] [--only 0,2|none] [--perturb PLAN,stale|unobserved|intermediate] [--history]` runs one;
//! `simulate --sieve --seeds N` leads every plan of each seed astray in each of three ways;
//! `simulate --planted [NAME]`, with the feature `planted`, runs each planted bug until it is found.

use std::io::Write as _;
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::time::Instant;

use flocker_engine::sim::Mode;
use flocker_engine::sim::Perturbation;
use flocker_engine::sim::Shape;
use flocker_engine::sim::Simulation;

/// Much of what a history takes is memory that lives for a moment; this allocator has it back sooner than the system's.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

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
    shape: Shape,
    perturb: Option<(u64, Perturbation)>,
    sieve: bool,
    /// The planted bug that is searched for, or `all`.
    planted: Option<String>,
}

fn main() -> ExitCode {
    match parse(std::env::args().skip(1)) {
        Ok(wanted) if wanted.planted.is_some() => find_planted(&wanted),
        Ok(wanted) if wanted.history => show(&wanted),
        Ok(wanted) => run(&wanted),
        Err(wrong) => {
            say(&format!(
                "{wrong}\nusage: simulate (--seeds N [--from S] | --seed X [--only 0,2|none] [--history]) \
                 [--mode repairable|unlimited] [--shape move|mixed] [--jobs J] [--sieve | --perturb PLAN,HOW] | \
                 --planted [NAME]"
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
        n_jobs: std::thread::available_parallelism().map_or(1, usize::from),
        shape: Shape::Mixed,
        perturb: None,
        sieve: false,
        planted: None,
    };
    while let Some(option) = words.next() {
        match option.as_str() {
            "--history" => wanted.history = true,
            "--sieve" => wanted.sieve = true,
            "--planted" => wanted.planted = Some(words.next().unwrap_or_else(|| "all".into())),
            _ => {}
        }
        if matches!(option.as_str(), "--history" | "--sieve" | "--planted") {
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
            "--shape" => {
                wanted.shape = match value.as_str() {
                    "move" => Shape::Move,
                    "mixed" => Shape::Mixed,
                    _ => return Err(format!("there is no shape `{value}`")),
                }
            }
            "--perturb" => {
                let (plan, how) = value.split_once(',').ok_or("`--perturb` takes `PLAN,HOW`")?;
                let plan = plan.parse().map_err(|_| format!("`{plan}` is no number"))?;
                let mut all = Perturbation::ALL.into_iter();
                let how = all.find(|one| one.name() == how);
                wanted.perturb = Some((plan, how.ok_or_else(|| format!("there is no `{value}`"))?));
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

impl Wanted {
    fn simulation(&self, seed: u64, mode: Mode) -> Simulation {
        Simulation {
            only: self.only.clone(),
            sieve: self.perturb,
            ..Simulation::new(seed, mode).of_shape(self.shape)
        }
    }
}

fn show(wanted: &Wanted) -> ExitCode {
    let mut is_well = true;
    for mode in &wanted.modes {
        let verdict = wanted.simulation(wanted.from, *mode).run();
        say(&verdict.explain(usize::MAX));
        is_well &= verdict.broken.is_none();
    }
    if is_well {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// How much was done, by all threads.
#[derive(Default)]
struct Tally {
    n_histories: AtomicU64,
    n_effects: AtomicU64,
    n_acknowledged: AtomicU64,
    n_plans: AtomicU64,
    /// How long all threads together had a core, in nanoseconds.
    busy: AtomicU64,
    failing: Mutex<Vec<u64>>,
}

impl Tally {
    fn failing(&self) -> MutexGuard<'_, Vec<u64>> {
        self.failing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets one history happen; returns how many plans were made in it.
    fn take(&self, simulation: &Simulation) -> u64 {
        let verdict = simulation.run_quietly();
        self.n_histories.fetch_add(1, Ordering::Relaxed);
        self.n_effects.fetch_add(verdict.n_effects, Ordering::Relaxed);
        self.n_acknowledged
            .fetch_add(verdict.n_acknowledged, Ordering::Relaxed);
        self.n_plans.fetch_add(verdict.n_plans, Ordering::Relaxed);
        if verdict.broken.is_some() {
            say(&simulation.shrink().explain(LINES));
            self.failing().push(simulation.seed);
        }
        verdict.n_plans
    }

    fn progress(&self, n_seeds: u64, began: Instant) -> String {
        let millis = began.elapsed().as_millis().max(1);
        let n_histories = self.n_histories.load(Ordering::Relaxed);
        let busy = u128::from(self.busy.load(Ordering::Relaxed) / 1_000_000).max(1);
        format!(
            "{n_seeds} seeds, {n_histories} histories in {}.{:03} s: {} seeds/s; {} histories/s for each core that it had",
            millis / 1000,
            millis % 1000,
            u128::from(n_seeds) * 1000 / millis,
            u128::from(n_histories) * 1000 / busy,
        )
    }
}

/// Returns how long this thread has had a core, in nanoseconds; nothing where the system does not tell.
fn busy() -> u64 {
    let told = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let first = told.split(' ').next().and_then(|word| word.parse().ok());
    first.unwrap_or(0)
}

fn run(wanted: &Wanted) -> ExitCode {
    let began = Instant::now();
    let next = AtomicU64::new(wanted.from);
    let end = wanted.from.saturating_add(wanted.n_seeds);
    let tally = Tally::default();
    std::thread::scope(|scope| {
        for _ in 0..wanted.n_jobs.max(1) {
            scope.spawn(|| {
                let mut busy_before = busy();
                for n_run in 1_u64.. {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    let is_over = seed >= end || tally.failing().len() >= ENOUGH;
                    // Asking takes a while, too.
                    if is_over || n_run.is_multiple_of(64) {
                        let busy_now = busy();
                        tally.busy.fetch_add(busy_now - busy_before, Ordering::Relaxed);
                        busy_before = busy_now;
                    }
                    if is_over {
                        return;
                    }
                    for mode in &wanted.modes {
                        run_seed(wanted, seed, *mode, &tally);
                    }
                    let n_done = seed + 1 - wanted.from;
                    if n_done.is_multiple_of(10_000) {
                        say(&tally.progress(n_done, began));
                    }
                }
            });
        }
    });
    let n_done = next.load(Ordering::Relaxed).min(end) - wanted.from;
    say(&format!(
        "{}, {} plans, {} effects, {} writes acknowledged, {} failing",
        tally.progress(n_done, began),
        tally.n_plans.load(Ordering::Relaxed),
        tally.n_effects.load(Ordering::Relaxed),
        tally.n_acknowledged.load(Ordering::Relaxed),
        tally.failing().len(),
    ));
    if tally.failing().is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// Lets the histories of one seed happen: one, or each that leads one of its plans astray.
fn run_seed(wanted: &Wanted, seed: u64, mode: Mode, tally: &Tally) {
    let simulation = wanted.simulation(seed, mode);
    if !wanted.sieve {
        tally.take(&simulation);
        return;
    }
    let undisturbed = Simulation {
        only: Some(Vec::new()),
        ..simulation
    };
    let n_plans = tally.take(&undisturbed);
    for plan in 1..=n_plans {
        for how in Perturbation::ALL {
            tally.take(&Simulation {
                sieve: Some((plan, how)),
                ..undisturbed.clone()
            });
        }
    }
}

#[cfg(feature = "planted")]
use planted::find as find_planted;

#[cfg(not(feature = "planted"))]
fn find_planted(_: &Wanted) -> ExitCode {
    say("this program has no planted bugs: build it with `--features planted`");
    ExitCode::from(2)
}

/// Whether the checks bite: one bug after the other, until it is found.
#[cfg(feature = "planted")]
mod planted {
    use std::panic::AssertUnwindSafe;
    use std::panic::catch_unwind;
    use std::process::ExitCode;
    use std::sync::Mutex;
    use std::sync::PoisonError;
    use std::sync::atomic::AtomicUsize;
    use std::sync::atomic::Ordering;
    use std::time::Duration;

    use flocker_engine::sim::Mode;
    use flocker_engine::sim::Perturbation;
    use flocker_engine::sim::Shape;
    use flocker_engine::sim::Simulation;
    use flocker_model::planted::Bug;
    use flocker_model::planted::plant;

    use super::Wanted;
    use super::busy;
    use super::say;

    /// After how many seeds a bug counts as not found.
    const MOST: u64 = 20_000;

    /// How a bug was found.
    struct Found {
        seeds: u64,
        took: Duration,
        by: Option<String>,
    }

    pub(super) fn find(wanted: &Wanted) -> ExitCode {
        let name = wanted.planted.as_deref().unwrap_or("all");
        let bugs: Vec<Bug> = Bug::ALL
            .iter()
            .copied()
            .filter(|bug| name == "all" || bug.name() == name)
            .collect();
        let next = AtomicUsize::new(0);
        let found = Mutex::new(Vec::new());
        // A panic is one of the ways in which a bug shows; it needs no report of its own.
        std::panic::set_hook(Box::new(|_| {}));
        std::thread::scope(|scope| {
            for _ in 0..wanted.n_jobs.max(1) {
                scope.spawn(|| {
                    while let Some(bug) = bugs.get(next.fetch_add(1, Ordering::Relaxed)) {
                        let one = search(*bug);
                        let mut found = found.lock().unwrap_or_else(PoisonError::into_inner);
                        found.push((*bug, one));
                    }
                });
            }
        });
        let mut found = found.into_inner().unwrap_or_else(PoisonError::into_inner);
        found.sort_by_key(|(bug, _)| *bug);
        say("| bug | what is wrong | seeds | ms | found by |\n|---|---|---|---|---|");
        let mut n_missed = 0;
        for (bug, one) in &found {
            n_missed += usize::from(one.by.is_none());
            say(&format!(
                "| {bug} | {} | {} | {} | {} |",
                bug.what(),
                one.seeds,
                one.took.as_millis(),
                one.by.as_deref().unwrap_or("**nothing**"),
            ));
        }
        say(&format!("{} of {} found", found.len() - n_missed, found.len()));
        if n_missed == 0 && !found.is_empty() {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        }
    }

    /// Runs seeds with a bug until something is broken: both shapes, both modes, and one plan of each led astray.
    fn search(bug: Bug) -> Found {
        plant(Some(bug));
        let began = busy();
        let mut by = None;
        let mut seeds = 0;
        while by.is_none() && seeds < MOST {
            by = tries(seeds).find_map(|simulation| broken(&simulation));
            seeds += 1;
        }
        plant(None);
        Found {
            seeds,
            took: Duration::from_nanos(busy() - began),
            by,
        }
    }

    fn tries(seed: u64) -> impl Iterator<Item = Simulation> {
        let shape = if seed.is_multiple_of(2) {
            Shape::Move
        } else {
            Shape::Mixed
        };
        let modes = [Mode::Repairable, Mode::Unlimited];
        let plain = modes.map(|mode| Simulation::new(seed, mode).of_shape(shape));
        let [repairable, _] = plain.clone();
        let astray = Perturbation::ALL.map(|how| Simulation {
            sieve: Some((1 + seed / 2 % 8, how)),
            only: Some(Vec::new()),
            ..repairable.clone()
        });
        plain.into_iter().chain(astray)
    }

    /// Returns what is broken, without what is another each time.
    fn broken(simulation: &Simulation) -> Option<String> {
        let verdict = catch_unwind(AssertUnwindSafe(|| simulation.run_unheard()));
        match verdict {
            Ok(verdict) => verdict.broken.map(|broken| broken.replace('|', "/")),
            Err(_) => Some("a panic".into()),
        }
    }
}
