//! What a node starts again by itself: a table over its data and its containers.

use std::collections::BTreeMap;
use std::net::IpAddr;

use flocker_model::{
    ApplicationName, ContainerStatus, ExternalPort, Home, NodeState, PortNumber, RestartPolicy, Role,
    RouteChange, RouteTable, RouteTarget, SnapshotGuid,
};
use flocker_plan::boot::{Again, Stays, routes_again, start_again};

use crate::world::{application, application_name, container, copy, dataset_id, node_name};
use crate::{holder, world};

const LOST: ContainerStatus = ContainerStatus::Exited { code: None };
const KILLED: ContainerStatus = ContainerStatus::Exited { code: Some(137) };
const WELL: ContainerStatus = ContainerStatus::Exited { code: Some(0) };
const NEVER: Option<RestartPolicy> = Some(RestartPolicy::Never);
const ALWAYS: Option<RestartPolicy> = Some(RestartPolicy::Always);
const ON_FAILURE: Option<RestartPolicy> = Some(RestartPolicy::OnFailure {
    maximum_retry_count: None,
});

fn primary() -> Role {
    Role::Primary {
        epoch: flocker_model::Epoch(7),
    }
}

fn released() -> Role {
    Role::Released {
        epoch: flocker_model::Epoch(8),
        to: node_name(1),
        last: "handoff-8".parse().unwrap(),
        guid: SnapshotGuid(1),
    }
}

/// What becomes of the first application of a node, with such a container.
fn becomes(
    mut node: NodeState,
    has_data: bool,
    status: ContainerStatus,
    policy: Option<RestartPolicy>,
) -> Again {
    let name = application_name(0);
    let mut seen = container(Some(&application(0, 0, has_data)), &node);
    seen.status = status;
    node.containers.insert(name.clone(), seen);
    let policies: BTreeMap<ApplicationName, RestartPolicy> =
        policy.map(|policy| (name.clone(), policy)).into_iter().collect();
    let mut decided = start_again(&node, &policies);
    assert_eq!(decided.len(), node.containers.len());
    decided.remove(&name).unwrap()
}

/// Every state of the data under every state of the container: nothing runs on data that is not surely this node's.
#[test]
fn only_what_ran_here_on_data_that_is_owned_here_is_started_again() {
    let unreadable = || {
        let mut node = holder(0, primary(), 0, Vec::new());
        node.unreadable.insert(dataset_id(0), "damaged".into());
        node
    };
    let data = [
        (true, holder(0, primary(), 0, Vec::new()), None),
        (false, world::node(0), None),
        (true, world::node(0), Some(Stays::NoData)),
        (true, unreadable(), Some(Stays::Unreadable)),
        (true, holder(0, Role::Replica, 7, Vec::new()), Some(Stays::Copy)),
        (
            true,
            holder(0, released(), 0, Vec::new()),
            Some(Stays::LetGo { to: node_name(1) }),
        ),
        (
            true,
            holder(0, primary(), 8, Vec::new()),
            Some(Stays::Doubt {
                newer: flocker_model::Epoch(8),
            }),
        ),
    ];
    let containers = [
        (ContainerStatus::Running, None, Some(Again::Runs)),
        (ContainerStatus::Restarting, ALWAYS, Some(Again::Runs)),
        (
            ContainerStatus::Prepared,
            ALWAYS,
            Some(Again::Stays(Stays::NeverRan)),
        ),
        (LOST, None, Some(Again::Stays(Stays::Stopped))),
        (WELL, None, Some(Again::Stays(Stays::Stopped))),
        (WELL, NEVER, Some(Again::Stays(Stays::Done))),
        (WELL, ON_FAILURE, Some(Again::Stays(Stays::Done))),
        (WELL, ALWAYS, None),
        (KILLED, NEVER, None),
        (KILLED, ON_FAILURE, None),
        (KILLED, ALWAYS, None),
        (LOST, NEVER, None),
        (LOST, ALWAYS, None),
    ];
    for (has_data, node, withheld) in &data {
        for (status, policy, settled) in &containers {
            let expected = settled.clone().unwrap_or_else(|| {
                let withheld = withheld.clone();
                withheld.map_or(Again::Start, Again::Stays)
            });
            let found = becomes(node.clone(), *has_data, *status, *policy);
            assert_eq!(found, expected, "{withheld:?}, {status:?}, {policy:?}");
        }
    }
}

#[test]
fn two_applications_with_the_same_data_both_wait() {
    let mut node = holder(0, primary(), 0, Vec::new());
    let other = container(Some(&application(0, 0, true)), &node);
    node.containers.insert(application_name(1), other);
    let found = becomes(node, true, KILLED, ALWAYS);
    let with = application_name(1);
    assert_eq!(found, Again::Stays(Stays::Shared { with }));
}

#[test]
fn what_is_wrong_with_one_application_does_not_keep_another_from_starting() {
    let mut node = holder(0, Role::Replica, 7, Vec::new());
    node.datasets
        .insert(dataset_id(1), copy(primary(), 0, Vec::new()));
    let mut other = container(Some(&application(1, 0, true)), &node);
    other.status = LOST;
    node.containers.insert(application_name(1), other);
    let mut seen = container(Some(&application(0, 0, true)), &node);
    seen.status = LOST;
    node.containers.insert(application_name(0), seen);
    let policies = [0, 1].map(|number| (application_name(number), RestartPolicy::Always));
    let decided = start_again(&node, &policies.into());
    assert_eq!(decided[&application_name(0)], Again::Stays(Stays::Copy));
    assert_eq!(decided[&application_name(1)], Again::Start);
}

#[test]
fn only_routes_that_lead_somewhere_and_are_nobody_elses_are_put_back() {
    let port = |number: u16| format!("{number}/tcp").parse::<ExternalPort>().unwrap();
    let leads = |application: usize, home: usize| RouteTarget {
        application: application_name(application),
        internal: PortNumber::new(80).unwrap(),
        homes: vec![Home {
            node: node_name(home),
            address: IpAddr::from([10, 0, 0, 1]),
        }],
    };
    let mut node = holder(0, primary(), 0, Vec::new());
    node.routes = RouteTable::default();
    let mut before = RouteTable::default();
    let table = [
        (port(1001), leads(0, 0)),
        (port(1002), leads(1, 0)),
        (port(1003), leads(1, 1)),
        (port(1004), leads(1, 1)),
        (port(1005), leads(1, 1)),
    ];
    before.apply(&RouteChange {
        set: table.into(),
        ..RouteChange::default()
    });
    // Somebody has led one elsewhere since, and another program has one.
    node.routes.apply(&RouteChange {
        set: [(port(1004), leads(2, 1))].into(),
        ..RouteChange::default()
    });
    node.foreign_ports.insert(port(1005));
    let again = routes_again(&node_name(0), &node, &before, |name| *name == application_name(0));
    assert_eq!(
        again.set.keys().copied().collect::<Vec<_>>(),
        [port(1001), port(1003)]
    );
    assert_eq!(again.taken, [port(1005)].into());
}
