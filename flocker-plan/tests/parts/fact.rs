//! Facts are seen as they are, and of a silent node nothing is known.

use flocker_model::{
    ClusterState, ContainerStatus, Epoch, Generation, Health, NodeState, Role, RouteTable, RouteTarget,
    SnapshotName,
};
use flocker_plan::{Fact, holds};

use crate::world::{application, application_name, container, dataset_id, node_name, port_of, silent};
use crate::{cluster, holder, world};

fn so(fact: &Fact, node: NodeState) -> bool {
    holds(fact, &cluster([node])).unwrap()
}

#[test]
fn of_a_silent_node_nothing_is_known() {
    let fact = Fact::Gone {
        dataset: dataset_id(0),
        on: node_name(0),
    };
    let mut actual = ClusterState::default();
    assert_eq!(holds(&fact, &actual), None);
    actual.nodes.insert(node_name(0), silent());
    assert_eq!(holds(&fact, &actual), None);
    assert_eq!(holds(&fact, &cluster([world::node(0)])), Some(true));
}

/// Whether an application is prepared, runs, is stopped, is healthy.
fn ways(status: Option<ContainerStatus>, health: Health) -> [bool; 4] {
    let (name, on) = (application_name(0), node_name(0));
    let mut node = world::node(0);
    if let Some(status) = status {
        let mut seen = container(Some(&application(0, 0, false)), &node);
        (seen.status, seen.health) = (status, health);
        node.containers.insert(name.clone(), seen);
    }
    let (application, on) = (|| name.clone(), || on.clone());
    let facts = [
        Fact::Prepared {
            application: application(),
            on: on(),
        },
        Fact::Running {
            application: application(),
            on: on(),
        },
        Fact::Stopped {
            application: application(),
            on: on(),
        },
        Fact::Healthy {
            application: application(),
            on: on(),
        },
    ];
    facts.map(|fact| so(&fact, node.clone()))
}

#[test]
fn a_container_is_seen_as_it_stands() {
    let not_checked = Health::NotChecked;
    assert_eq!(ways(None, not_checked), [false, false, true, false]);
    assert_eq!(
        ways(Some(ContainerStatus::Running), not_checked),
        [true, true, false, true]
    );
    assert_eq!(
        ways(Some(ContainerStatus::Running), Health::Unhealthy),
        [true, true, false, false]
    );
    assert_eq!(
        ways(Some(ContainerStatus::Prepared), not_checked),
        [true, false, true, false]
    );
    assert_eq!(
        ways(Some(ContainerStatus::Restarting), not_checked),
        [true, false, false, false]
    );
    assert_eq!(
        ways(Some(ContainerStatus::Exited { code: None }), not_checked),
        [false, false, true, false]
    );
}

#[test]
fn an_ownership_is_that_of_its_epoch_and_no_other() {
    let owns = |epoch| Fact::Primary {
        dataset: dataset_id(0),
        on: node_name(0),
        epoch: Epoch(epoch),
    };
    let has_released = |epoch| Fact::Released {
        dataset: dataset_id(0),
        by: node_name(0),
        epoch: Epoch(epoch),
    };
    let owner = || holder(0, Role::Primary { epoch: Epoch(2) }, 2, vec![]);
    assert!(so(&owns(2), owner()));
    assert!(!so(&owns(1), owner()) && !so(&owns(3), owner()) && !so(&has_released(2), owner()));
    assert!(!so(&owns(2), world::node(0)));
    let last = world::snapshot(SnapshotName::handoff(Epoch(3)), 1);
    let role = Role::Released {
        epoch: Epoch(3),
        to: node_name(1),
        last: last.name.clone(),
        guid: last.guid,
    };
    let released = || holder(0, role.clone(), 2, vec![last.clone()]);
    assert!(so(&has_released(3), released()));
    assert!(!so(&has_released(2), released()) && !so(&owns(3), released()));
}

#[test]
fn an_offer_is_given_up_by_who_can_no_longer_take_it() {
    let renounced = |epoch| Fact::Renounced {
        dataset: dataset_id(0),
        by: node_name(0),
        epoch: Epoch(epoch),
    };
    assert!(so(&renounced(2), world::node(0)));
    let copy = || holder(0, Role::Replica, 2, vec![]);
    assert!(so(&renounced(1), copy()) && so(&renounced(2), copy()));
    assert!(!so(&renounced(3), copy()));
    // Who has taken it up has not given it up; who owns an older one has let go of what came between.
    let owner = |own, fence| holder(0, Role::Primary { epoch: Epoch(own) }, fence, vec![]);
    assert!(!so(&renounced(2), owner(2, 2)));
    assert!(!so(&renounced(2), owner(3, 3)));
    assert!(so(&renounced(2), owner(1, 2)));
}

#[test]
fn a_snapshot_is_known_by_its_name_and_a_node_obeys_what_it_has_seen() {
    let warm = world::snapshot(SnapshotName::warm(Epoch(2), 1), 1);
    let complete = |round| Fact::Snapshot {
        dataset: dataset_id(0),
        on: node_name(0),
        name: SnapshotName::warm(Epoch(2), round),
    };
    let node = || holder(0, Role::Replica, 0, vec![warm.clone()]);
    assert!(so(&complete(1), node()));
    assert!(!so(&complete(2), node()) && !so(&complete(1), world::node(0)));
    let obeys = |generation| Fact::Obeys {
        node: node_name(0),
        generation: Generation(generation),
    };
    let node = || NodeState {
        generation: Generation(2),
        ..world::node(0)
    };
    assert!(so(&obeys(1), node()) && so(&obeys(2), node()));
    assert!(!so(&obeys(3), node()));
}

#[test]
fn a_route_leads_to_each_of_its_homes() {
    let home = |number| flocker_model::Home {
        node: node_name(number),
        address: [10, 0, 0, 9].into(),
    };
    let target = RouteTarget {
        application: application_name(0),
        internal: port_of(0).number,
        homes: vec![home(1), home(2)],
    };
    let mut node = world::node(0);
    node.routes = RouteTable::from(std::collections::BTreeMap::from([(port_of(0), target)]));
    let routed = |port, to| Fact::Routed {
        port: port_of(port),
        on: node_name(0),
        to: node_name(to),
    };
    assert!(so(&routed(0, 1), node.clone()) && so(&routed(0, 2), node.clone()));
    assert!(!so(&routed(0, 3), node.clone()) && !so(&routed(1, 1), node));
}
