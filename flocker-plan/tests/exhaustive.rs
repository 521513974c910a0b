//! Every small cluster, as far as an ordinary test run has time for; `benches/exhaust.rs` goes on to the full bound.
//!
//! Of each, every order of ready steps, every point at which the plug can be
//! pulled, again and again, and every change of mind.

#![expect(
    clippy::unwrap_used,
    reason = "a test that cannot go on says where it stopped"
)]

#[path = "support/digest.rs"]
mod digest;
#[path = "support/families.rs"]
mod families;
#[path = "support/proof.rs"]
mod proof;
#[path = "support/small.rs"]
mod small;
#[path = "support/walk.rs"]
mod walk;
#[path = "support/world.rs"]
mod world;

use std::collections::BTreeSet;

use families::{Bound, families};
use proof::{Count, prove};

/// Proves one cluster in `one_in` of a family, and returns how much that was.
fn search(name: &str, one_in: usize) -> Count {
    let family = families(Bound::Small)
        .into_iter()
        .find(|family| family.name == name)
        .unwrap();
    let mut count = Count::default();
    for number in (0..family.n_words()).step_by(one_in) {
        let Some(state) = family.cluster(number) else {
            continue;
        };
        if let Err(wrong) = prove(&state, &family.wishes, family.half_way, &mut count) {
            panic!(
                "{wrong}\nsee it again: cargo bench -p flocker-plan --bench exhaust -- --small --case {name}:{number}"
            );
        }
    }
    assert!(
        count.pairs > 100 && count.crashes > 100,
        "hardly anything was tried"
    );
    count
}

#[test]
fn every_small_cluster_is_safe_in_every_order_and_after_every_crash() {
    let mut total = Count::default();
    for (name, one_in) in [
        ("one-node", 3),
        ("two-nodes-one-dataset", 3),
        ("two-nodes-new-names", 5),
        ("two-nodes-two-datasets", 13),
        ("three-nodes-one-dataset", 3),
    ] {
        let count = search(name, one_in);
        println!("{name}: {count:?}");
        total.add(count);
    }
    println!("all: {total:?}");
}

#[test]
fn every_small_cluster_with_routes_is_safe_in_every_order_and_after_every_crash() {
    println!("{:?}", search("two-nodes-routes", 23));
}

#[test]
fn no_cluster_has_two_numbers() {
    for family in families(Bound::Small) {
        let numbers = (0..family.n_words()).step_by(5);
        let mut seen = BTreeSet::new();
        for state in numbers.filter_map(|number| family.cluster(number)) {
            assert!(seen.insert(digest::digest(&state)), "{}", family.name);
        }
        assert!(!family.wishes.is_empty());
    }
}
