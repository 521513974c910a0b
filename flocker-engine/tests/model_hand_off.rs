//! Every order in which a hand-off can go, up to a small bound; `model-check` goes on from there.

#![expect(clippy::print_stdout, reason = "how much was searched is worth knowing")]

use flocker_engine::sim::model::Bounds;
use flocker_engine::sim::model::HandOff;
use stateright::Checker as _;
use stateright::Model as _;

/// Searches at most so many states, and says how many they were.
#[track_caller]
fn search(bounds: Bounds, most: usize) -> usize {
    let checker = HandOff::new(bounds)
        .checker()
        .threads(2)
        .target_state_count(most)
        .spawn_bfs()
        .join();
    let n_unique = checker.unique_state_count();
    println!(
        "{n_unique} unique states, to a depth of {}, of {bounds:?}",
        checker.max_depth()
    );
    for (name, path) in checker.discoveries() {
        assert!(
            name.starts_with("the ") || name.starts_with("it was "),
            "{name}: {:?}\n{}",
            path.clone().into_actions(),
            path.last_state().why(),
        );
    }
    n_unique
}

#[test]
fn one_operator_moves_it_whatever_is_lost() {
    let bounds = Bounds {
        second_operator: false,
        n_power_cuts: 1,
        n_hidden: 1,
        n_writes: 1,
        ..Bounds::small()
    };
    assert!(search(bounds, 20_000) > 1_000);
}

#[test]
fn a_second_operator_changes_everything_on_the_way() {
    assert!(search(Bounds::small(), 20_000) > 1_000);
}
