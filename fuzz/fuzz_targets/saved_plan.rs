//! Reads arbitrary text as a saved plan, and spoils real ones.
//!
//! Input is a kind of case in its first byte. In one kind the rest is a text
//! that claims to be a saved plan: whatever is read is written and read again,
//! and can be compared with any cluster and shown. In the other kind the rest
//! is a cluster: its plan is saved, one piece of the text is replaced, and what
//! is read then either still holds and does just what the cluster's own plan
//! does, or says what is different.

#![no_main]

#[expect(dead_code, reason = "half of it is for other laws")]
#[path = "../../flocker-plan/tests/support/dice.rs"]
mod dice;
#[path = "../../flocker-plan/tests/support/walk.rs"]
mod walk;
#[expect(dead_code, reason = "half of it is for other laws")]
#[path = "../../flocker-plan/tests/support/world.rs"]
mod world;

use flocker_model::ClusterState;
use flocker_model::Deployment;
use flocker_plan::Frontier;
use flocker_plan::Outcome;
use flocker_plan::SavedPlan;
use flocker_plan::estimate;
use flocker_plan::plan;
use flocker_plan::render;
use libfuzzer_sys::fuzz_target;

use dice::Dice;
use dice::any_cluster;
use dice::any_deployment;
use dice::any_policy;
use walk::settle;
use walk::walk_in_order;
use world::amiss;

fuzz_target!(|data: &[u8]| {
    let Some((kind, rest)) = data.split_first() else {
        return;
    };
    if kind.is_multiple_of(2) {
        if let Ok(text) = std::str::from_utf8(rest) {
            read(text);
        }
    } else if rest.len() <= 1500 {
        spoil(Dice::new(rest.to_vec()));
    }
});

fn read(text: &str) {
    let Ok(saved) = SavedPlan::read(text) else {
        return;
    };
    let written = saved.write().expect("what was read can be written");
    let again = SavedPlan::read(&written).expect("what was written can be read");
    assert_eq!(again, saved);
    let nothing = (Deployment::default(), ClusterState::default());
    let differences = saved.check(&nothing.0, &nothing.1);
    assert!(
        saved.plan().steps().is_empty() || differences.is_err(),
        "nothing is to be done in an empty cluster"
    );
    let estimate = estimate(saved.plan(), &nothing.1, saved.policy());
    drop(render::text(saved.plan(), &nothing.0, &estimate));
    // Its steps come in an order in which all of them can.
    let mut frontier = Frontier::new(saved.plan());
    for position in 0..saved.plan().steps().len() {
        assert!(frontier.start(position), "each step comes after what it needs");
        frontier.settle(position, Outcome::Done);
    }
    assert!(frontier.is_finished());
}

fn spoil(mut dice: Dice) {
    let n_nodes = 1 + dice.roll(3);
    let n_applications = 1 + dice.roll(3);
    let desired = any_deployment(&mut dice, n_nodes, n_applications, 2);
    let actual = any_cluster(&mut dice, n_nodes, n_applications, &desired);
    let policy = any_policy(&mut dice);
    let made = plan(&desired, &actual, &policy);
    let saved = SavedPlan::new(made.clone(), policy.clone(), &actual);
    assert_eq!(
        saved.check(&desired, &actual),
        Ok(()),
        "it holds where it was made"
    );
    let mut text = saved.write().expect("a plan can be written");
    assert_eq!(
        SavedPlan::read(&text).expect("what was written can be read"),
        saved
    );

    // Words are replaced by words of the same text, so that much of what comes out can be read.
    for _ in 0..=dice.roll(3) {
        let pieces: Vec<&str> = text.split_inclusive([',', ':', '{', '[', '\n']).collect();
        let place = (dice.roll(256) * 256 + dice.roll(256)) % pieces.len();
        let other = (dice.roll(256) * 256 + dice.roll(256)) % pieces.len();
        let mut pieces = pieces;
        match dice.roll(4) {
            0 => pieces[place] = pieces[other],
            1 => pieces.swap(place, other),
            2 => pieces[place] = "",
            _ => pieces.insert(place, pieces[other]),
        }
        text = pieces.concat();
    }
    let Ok(spoilt) = SavedPlan::read(&text) else {
        return;
    };
    if spoilt.check(&desired, &actual).is_err() {
        return;
    }
    // It holds: what it does is what a plan made now with its policy does.
    let now = plan(&desired, &actual, spoilt.policy());
    let (mut by_saved, mut by_now) = (actual.clone(), actual);
    walk_in_order(spoilt.plan(), &desired, &mut by_saved).expect("what holds can be carried out");
    walk_in_order(&now, &desired, &mut by_now).expect("a plan can be carried out");
    assert_eq!(by_saved, by_now, "it holds and does something else");
    drop(settle(&desired, spoilt.policy(), &mut by_saved, 14));
    drop(amiss(&desired, &by_saved));
}
