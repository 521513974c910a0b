//! Planning alone: two values in, one value out, and no input or output.
//!
//! An application moves from alpha to beta. A first copy of its data has
//! arrived already, so that the plan is the cut-over.

#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::time::Duration;

use flocker_examples::Outcome;
use flocker_examples::check;
use flocker_examples::mongodb;
use flocker_model::BootId;
use flocker_model::ByteSize;
use flocker_model::ClusterState;
use flocker_model::ContainerState;
use flocker_model::ContainerStatus;
use flocker_model::DatasetId;
use flocker_model::DefinitionKey;
use flocker_model::Deployment;
use flocker_model::Epoch;
use flocker_model::Generation;
use flocker_model::Health;
use flocker_model::Manifestation;
use flocker_model::Member;
use flocker_model::NodeId;
use flocker_model::NodeState;
use flocker_model::Observed;
use flocker_model::Role;
use flocker_model::RouteTable;
use flocker_model::Snapshot;
use flocker_model::SnapshotGuid;
use flocker_model::SnapshotName;
use flocker_plan::Policy;
use flocker_plan::render;
use uuid::Uuid;

/// A node that was seen, with nothing on it.
fn node(number: u8) -> NodeState {
    NodeState {
        id: NodeId(Uuid::from_u128(number.into())),
        boot: BootId(Uuid::from_u128(number.into())),
        address: [192, 0, 2, number].into(),
        generation: Generation(1),
        key: DefinitionKey::new([number; 32]),
        datasets: BTreeMap::new(),
        containers: BTreeMap::new(),
        routes: RouteTable::default(),
        trash: Vec::new(),
        fences: BTreeMap::new(),
        unreadable: BTreeMap::new(),
        free: None,
        keeps: flocker_model::Keeps::Lists,
        foreign_ports: BTreeSet::new(),
        peers: BTreeMap::new(),
        forgotten: BTreeMap::new(),
    }
}

fn main() -> Outcome {
    let (alpha, beta) = ("alpha".parse()?, "beta".parse()?);
    let name = "mongodb".parse()?;
    let dataset = DatasetId::derived(&name);
    let desired = Deployment::builder()
        .application(name.clone(), mongodb()?)
        .node(alpha, Member::empty())
        .place(&name, &beta)
        .build()
        .map_err(|errors| errors[0].clone())?
        .at(Generation(2));

    // What both nodes hold: the first copy that was made while the application ran.
    let warm = Snapshot {
        name: SnapshotName::warm(Epoch(2), 1),
        guid: SnapshotGuid(0x5eed),
        written: ByteSize(1 << 30),
    };
    let owned = Manifestation {
        role: Role::Primary { epoch: Epoch(1) },
        snapshots: vec![warm],
        maximum_size: None,
        used: ByteSize(1 << 30),
        unsent: ByteSize(3 << 20),
        findings: None,
        partial: None,
        fence: Epoch(1),
        age: Duration::from_secs(3600),
    };
    let copy = Manifestation {
        role: Role::Replica,
        unsent: ByteSize(0),
        ..owned.clone()
    };
    let (mut on_alpha, mut on_beta) = (node(1), node(2));
    let container = ContainerState {
        status: ContainerStatus::Running,
        health: Health::NotChecked,
        definition: mongodb()?.definition_hash(&on_alpha.key),
        dataset: Some(dataset),
        address: None,
        stop_grace: Duration::from_secs(10),
        restarts: 0,
    };
    on_alpha.containers.insert(name, container);
    on_alpha.datasets.insert(dataset, owned);
    on_beta.datasets.insert(dataset, copy);
    let actual = ClusterState {
        nodes: [
            ("alpha".parse()?, Observed::Known(on_alpha)),
            ("beta".parse()?, Observed::Known(on_beta)),
        ]
        .into(),
    };

    let policy = Policy::default();
    let plan = flocker_plan::plan(&desired, &actual, &policy);
    let estimate = flocker_plan::estimate(&plan, &actual, &policy);
    print!("{}", render::text(&plan, &desired, &estimate));

    println!("\nthe same, as an orchestrator reads it:");
    for (position, step) in plan.steps().iter().enumerate() {
        let makers: Vec<usize> = plan.edges().makers(position).collect();
        println!("  {position}: {} after {makers:?}", step.id());
    }
    let verbs: Vec<&str> = plan.steps().iter().map(|step| step.action.verb()).collect();
    let place = |verb| verbs.iter().position(|other| *other == verb);
    check(
        place("release").is_some() && place("release") < place("acquire"),
        "one node lets go before the other one takes over",
    )?;
    let again = flocker_plan::plan(&desired, &actual, &policy);
    check(plan == again, "the same input gives the same plan")
}
