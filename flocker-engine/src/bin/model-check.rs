//! Searches the states of the hand-off for one that must not be, and says how many there were.
//!
//! `model-check [--small | --deep | --wide] [--states N] [--threads T]`; without a choice, first deep, then wide.

use std::io::Write as _;
use std::process::ExitCode;
use std::time::Instant;

use flocker_engine::sim::model::Bounds;
use flocker_engine::sim::model::HandOff;
use stateright::Checker as _;
use stateright::Model as _;

fn say(line: &str) {
    // Whoever does not listen misses nothing but words.
    drop(writeln!(std::io::stdout().lock(), "{line}"));
}

fn main() -> ExitCode {
    let mut searches = vec![Bounds::deep(), Bounds::wide()];
    let (mut n_states, mut n_threads) = (6_000_000, 2);
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let mut number = || words.next().and_then(|value| value.parse::<usize>().ok());
        match word.as_str() {
            "--small" => searches = vec![Bounds::small()],
            "--deep" => searches = vec![Bounds::deep()],
            "--wide" => searches = vec![Bounds::wide()],
            "--states" => n_states = number().unwrap_or(n_states),
            "--threads" => n_threads = number().unwrap_or(n_threads),
            _ => {
                say("usage: model-check [--small | --deep | --wide] [--states N] [--threads T]");
                return ExitCode::from(2);
            }
        }
    }
    let mut is_sound = true;
    for bounds in searches {
        is_sound &= search(bounds, n_states, n_threads);
    }
    if is_sound {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// Searches until every state was seen or so many were made; says whether nothing was found.
fn search(bounds: Bounds, n_states: usize, n_threads: usize) -> bool {
    say(&format!("{bounds:?}"));
    let began = Instant::now();
    let checker = HandOff::new(bounds)
        .checker()
        .threads(n_threads)
        .target_state_count(n_states)
        .spawn_bfs()
        .join();
    let how_far = if checker.state_count() < n_states {
        "all of them"
    } else {
        "as far as was asked"
    };
    say(&format!(
        "{} unique states ({} reached, depth {}) in {:.1} s: {how_far}",
        checker.unique_state_count(),
        checker.state_count(),
        checker.max_depth(),
        began.elapsed().as_secs_f64(),
    ));
    let mut is_sound = true;
    for (name, path) in checker.discoveries() {
        if name.starts_with("the ") || name.starts_with("it was ") {
            let n_events = path.into_actions().len();
            say(&format!("seen: {name}, after {n_events} events"));
            continue;
        }
        is_sound = false;
        say(&format!("BROKEN: {name}"));
        let why = path.last_state().why();
        for action in path.into_actions() {
            say(&format!("  {action:?}"));
        }
        say(&format!("  {why}"));
    }
    is_sound
}
