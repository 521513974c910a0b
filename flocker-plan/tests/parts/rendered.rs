//! A plan as text: routes stand with whom they serve, and for nodes that are not all by name.

use std::collections::{BTreeMap, BTreeSet};

use flocker_model::{
    ByteSize, DefinitionHash, Deployment, ExternalPort, Generation, Home, PortNumber, RouteChange,
    RouteTarget, SnapshotName,
};
use flocker_plan::{Action, Plan, Policy, Reason, Step, Waiting, estimate, render};

use crate::world::{application_name, node_name};
use crate::{cluster, dataset, world};

fn text(n_nodes: usize, steps: Vec<Step>, waiting: Vec<Waiting>) -> String {
    let mut builder = Deployment::builder();
    for number in 0..n_nodes {
        builder = builder.node(node_name(number), flocker_model::Member::empty());
    }
    let desired = builder.build().unwrap().at(Generation(2));
    let plan = Plan::new(Generation(2), steps, waiting, Vec::new(), Vec::new());
    let estimate = estimate(&plan, &cluster((0..n_nodes).map(world::node)), &Policy::default());
    render::text(&plan, &desired, &estimate)
}

fn with_reason(actor: usize, action: Action, reason: Reason) -> Step {
    Step {
        actor: node_name(actor),
        action,
        reason: reason.into(),
        needs: Vec::new().into(),
    }
}

fn start(application: usize, on: usize) -> Step {
    let start = Action::Start {
        application: application_name(application),
        definition: DefinitionHash(1),
    };
    let reason = Reason::Starts {
        application: application_name(application),
        on: node_name(on),
    };
    with_reason(on, start, reason)
}

/// Ports that lead to applications on the first node, and ports that lead nowhere any more.
fn route(actor: usize, set: &[(u16, usize)], drop: &[u16]) -> Step {
    let port = |number: u16| PortNumber::new(number).unwrap();
    let target = |application| RouteTarget {
        application: application_name(application),
        internal: port(80),
        homes: vec![Home {
            node: node_name(0),
            address: [10, 0, 0, 1].into(),
        }],
    };
    let set: BTreeMap<_, _> = set
        .iter()
        .map(|&(number, application)| (ExternalPort::tcp(port(number)), target(application)))
        .collect();
    let drop: BTreeSet<_> = drop
        .iter()
        .map(|&number| ExternalPort::tcp(port(number)))
        .collect();
    let change = RouteChange { set, drop };
    let on = node_name(actor);
    with_reason(
        actor,
        Action::Route {
            change: change.into(),
        },
        Reason::Routes { on },
    )
}

/// Returns the lines that have a word in them.
fn lines<'a>(text: &'a str, word: &str) -> Vec<&'a str> {
    text.lines()
        .filter(|line| line.contains(word))
        .map(str::trim)
        .collect()
}

#[test]
fn routes_of_one_application_stand_with_it() {
    let both = [(8000, 0), (8001, 0)];
    let steps = vec![start(0, 0), route(0, &both, &[]), route(1, &both, &[])];
    let text = text(2, steps, vec![]);
    assert!(!text.contains("routes follow"), "{text}");
    assert_eq!(lines(&text, "  route  ").len(), 1, "{text}");
    assert!(lines(&text, "  route  ")[0].starts_with("all "), "{text}");
}

#[test]
fn routes_of_several_applications_or_of_none_stand_apart() {
    for (set, drop) in [(&[(8000, 0)][..], &[9000][..]), (&[(8000, 0), (8001, 1)], &[])] {
        let steps = vec![start(0, 0), start(1, 0), route(0, set, drop)];
        let text = text(2, steps, vec![]);
        assert!(text.contains("routes follow"), "{text}");
    }
}

#[test]
fn nodes_that_are_not_all_are_named_and_one_alone_is_never_all() {
    let set = [(8000, 0)];
    let of_two = text(2, vec![start(0, 0), route(1, &set, &[])], vec![]);
    assert!(lines(&of_two, "  route  ")[0].starts_with("n1 "), "{of_two}");
    let of_one = text(1, vec![start(0, 0), route(0, &set, &[])], vec![]);
    assert!(lines(&of_one, "  route  ")[0].starts_with("n0 "), "{of_one}");
}

#[test]
fn more_copies_are_said_to_follow_only_where_they_do() {
    let reason = Reason::Moves {
        application: application_name(0),
        from: node_name(0),
        to: node_name(1),
    };
    let push = Action::Push {
        dataset: dataset(),
        snapshot: SnapshotName::warm(flocker_model::Epoch(2), 1),
        base: None,
        to: node_name(1),
    };
    let pre_copy = |number| Waiting::PreCopy {
        application: application_name(number),
        from: node_name(0),
        to: node_name(1),
        round: 1,
        bytes: ByteSize(1),
        passed_over: Vec::new(),
    };
    let said = |number| {
        let step = with_reason(0, push.clone(), reason.clone());
        text(2, vec![step], vec![pre_copy(number)]).contains("more copies")
    };
    assert!(said(0));
    assert!(!said(1));
    let earlier = |number| Waiting::Earlier {
        application: application_name(number),
        from: node_name(0),
        to: node_name(1),
        snapshot: SnapshotName::handoff(flocker_model::Epoch(1)),
        bytes: ByteSize(1 << 20),
        also: vec![node_name(2), node_name(3)],
    };
    let said = |number| {
        let step = with_reason(0, push.clone(), reason.clone());
        text(2, vec![step], vec![earlier(number)]).contains("what was written since, then the cut-over")
    };
    assert!(said(0));
    assert!(!said(1));
    assert_eq!(
        earlier(0).to_string(),
        "the cut-over of a0 from n0 to n1 waits for a copy of handoff-1, 1.0 MiB, which is the newest that n2 and n3 have: \
         what comes after it fits there later"
    );
}
