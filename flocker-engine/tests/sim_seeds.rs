//! Whole clusters, seed after seed: no invariant is broken, and what is repaired comes to rest as desired.

#![expect(clippy::print_stdout, reason = "a run of many cases says how many there were")]

use flocker_engine::sim::Mode;
use flocker_engine::sim::Perturbation;
use flocker_engine::sim::Shape;
use flocker_engine::sim::Simulation;

/// How many lines of the history a failure shows.
const LINES: usize = 80;

fn check(mode: Mode, seeds: std::ops::Range<u64>) {
    let (mut n_effects, mut n_acknowledged, mut n_mishaps) = (0, 0, 0);
    let n_seeds = seeds.end - seeds.start;
    for seed in seeds {
        let simulation = Simulation::new(seed, mode);
        let verdict = simulation.run();
        assert!(verdict.broken.is_none(), "{}", simulation.shrink().explain(LINES));
        n_effects += verdict.n_effects;
        n_acknowledged += verdict.n_acknowledged;
        n_mishaps += verdict.mishaps.len();
    }
    println!(
        "{n_seeds} seeds, {n_mishaps} mishaps, {n_effects} effects, {n_acknowledged} writes acknowledged"
    );
    assert!(
        n_effects > n_seeds * 5 && n_acknowledged > n_seeds * 3,
        "the clusters do something"
    );
}

#[test]
fn i8_what_is_repaired_comes_to_rest_as_desired() {
    check(Mode::Repairable, 0..150);
}

#[test]
fn nothing_that_goes_wrong_breaks_an_invariant() {
    check(Mode::Unlimited, 0..150);
}

#[test]
fn every_plan_of_a_move_can_be_led_astray() {
    for seed in 0..12 {
        let undisturbed = Simulation {
            only: Some(Vec::new()),
            ..Simulation::new(seed, Mode::Repairable).of_shape(Shape::Move)
        };
        let verdict = undisturbed.run_quietly();
        assert!(verdict.broken.is_none(), "{}", verdict.explain(LINES));
        assert!(verdict.n_plans > 2, "seed {seed}");
        for plan in 1..=verdict.n_plans {
            for how in Perturbation::ALL {
                let perturbed = Simulation {
                    sieve: Some((plan, how)),
                    ..undisturbed.clone()
                };
                let verdict = perturbed.run_quietly();
                assert!(verdict.broken.is_none(), "{}", verdict.explain(LINES));
            }
        }
    }
}

/// Found among two million histories: programs that went on after their end, and a look from before a lock.
#[test]
fn what_many_seeds_have_found_does_not_come_back() {
    let found = [
        (151_103, Mode::Repairable),
        (569_152, Mode::Unlimited),
        (954_224, Mode::Unlimited),
        (874_088, Mode::Unlimited),
    ];
    for (seed, mode) in found {
        let verdict = Simulation::new(seed, mode).of_shape(Shape::Move).run_quietly();
        assert!(verdict.broken.is_none(), "{}", verdict.explain(LINES));
    }
}

#[test]
fn the_same_seed_gives_the_same_history() {
    for seed in 0..12 {
        for mode in [Mode::Repairable, Mode::Unlimited] {
            let simulation = Simulation::new(seed, mode);
            let (one, other) = (simulation.run(), simulation.run());
            assert_eq!(one.history, other.history, "seed {seed}");
        }
    }
}
