//! Searches the states of the hand-off for one that must not be, and says how many there were.
//!
//! `model-check [--small] [--states N] [--threads T]`

use std::io::Write as _;
use std::process::ExitCode;
use std::time::Instant;

use flocker_engine::sim::model::Bounds;
use flocker_engine::sim::model::HandOff;
use stateright::Checker as _;
use stateright::Model as _;

fn say(line: &str) {
    // Whoever does not listen misses nothing but words.
    drop(writeln!(std::io::stdout(), "{line}"));
}

fn main() -> ExitCode {
    let mut bounds = Bounds::full();
    let (mut n_states, mut n_threads) = (1_500_000, 2);
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let mut number = || words.next().and_then(|value| value.parse::<usize>().ok());
        match word.as_str() {
            "--small" => bounds = Bounds::small(),
            "--states" => n_states = number().unwrap_or(n_states),
            "--threads" => n_threads = number().unwrap_or(n_threads),
            _ => {
                say("usage: model-check [--small] [--states N] [--threads T]");
                return ExitCode::from(2);
            }
        }
    }
    say(&format!("{bounds:?}"));
    let began = Instant::now();
    let checker = HandOff::new(bounds)
        .checker()
        .threads(n_threads)
        .target_state_count(n_states)
        .spawn_bfs()
        .join();
    let seconds = began.elapsed().as_secs_f64();
    say(&format!(
        "{} unique states of {} reached, to a depth of {}, in {seconds:.1} s",
        checker.unique_state_count(),
        checker.state_count(),
        checker.max_depth(),
    ));
    let mut is_broken = false;
    for (name, path) in checker.discoveries() {
        let is_example = name.starts_with("the ") || name.starts_with("it was ");
        if is_example {
            say(&format!(
                "example: {name}, after {} events",
                path.clone().into_actions().len()
            ));
            continue;
        }
        is_broken = true;
        say(&format!("BROKEN: {name}"));
        let last = path.last_state().clone();
        for action in path.into_actions() {
            say(&format!("  {action:?}"));
        }
        say(&format!("  {}", last.why()));
    }
    if is_broken {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    }
}
