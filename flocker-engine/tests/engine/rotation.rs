//! Data that goes round: after the first round each node has an older copy, and only what changed since travels.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use flocker_backends::ByteStream;
use flocker_backends::Change;
use flocker_backends::ContainerRuntime;
use flocker_backends::ContainerSpec;
use flocker_backends::LogRequest;
use flocker_backends::RuntimeError;
use flocker_backends::VolumeBackend;
use flocker_backends::memory::Effect;
use flocker_backends::memory::Fault;
use flocker_backends::memory::MemoryNode;
use flocker_backends::memory::Observer;
use flocker_backends::volume::directory::DirectoryOptions;
use flocker_backends::volume::directory::DirectoryVolumes;
use flocker_engine::End;
use flocker_engine::Event;
use flocker_engine::Go;
use flocker_engine::Outcome;
use flocker_engine::PushOptions;
use flocker_engine::Stop;
use flocker_engine::converge::push;
use flocker_model::ApplicationName;
use flocker_model::ContainerState;
use flocker_model::Deployment;
use flocker_model::Epoch;
use flocker_model::Member;
use flocker_plan::Policy;

use crate::cluster::Cluster;
use crate::cluster::Recorder;
use crate::cluster::app;
use crate::cluster::dataset;
use crate::cluster::mongodb;
use crate::cluster::name;
use crate::converge::push_to;
use crate::machines::LOOPBACK;
use crate::machines::Machines;
use crate::machines::host;
use crate::machines::noise;

const NODES: [&str; 3] = ["alpha", "beta", "gamma"];

/// How much data there is.
const ALL: usize = 3_000_000;

/// How much of it each home writes.
const WRITTEN: usize = 50_000;

/// A runtime in memory beside volumes that are real: its own volume is always there.
#[derive(Debug)]
struct Beside(MemoryNode);

impl Beside {
    async fn new(node: &str) -> Self {
        let memory = MemoryNode::new(name(node), LOOPBACK, &Observer::default());
        memory.volumes().create(&dataset(), Epoch::FIRST).await.unwrap();
        Self(memory)
    }

    fn spec(&self, spec: &ContainerSpec) -> ContainerSpec {
        ContainerSpec {
            volume: Some(self.0.volumes().path(dataset().id)),
            ..spec.clone()
        }
    }
}

#[async_trait]
impl ContainerRuntime for Beside {
    async fn list(&self) -> Result<BTreeMap<ApplicationName, ContainerState>, RuntimeError> {
        self.0.runtime().list().await
    }

    async fn prepare(&self, spec: &ContainerSpec) -> Result<Change, RuntimeError> {
        self.0.runtime().prepare(&self.spec(spec)).await
    }

    async fn start(&self, spec: &ContainerSpec) -> Result<Change, RuntimeError> {
        self.0.runtime().start(&self.spec(spec)).await
    }

    async fn stop(&self, application: &ApplicationName, grace: Duration) -> Result<Change, RuntimeError> {
        self.0.runtime().stop(application, grace).await
    }

    async fn logs(
        &self,
        application: &ApplicationName,
        request: LogRequest,
    ) -> Result<ByteStream, RuntimeError> {
        self.0.runtime().logs(application, request).await
    }
}

fn deployment(home: &str) -> Deployment {
    let mut builder = Deployment::builder().application(app("mongodb"), mongodb());
    for node in NODES {
        let member = Member {
            address: Some(host(node)),
            ..Member::empty()
        };
        builder = builder.node(name(node), member);
    }
    builder.place(&app("mongodb"), &name(home)).build().unwrap()
}

/// Returns how many bytes a move has sent, all rounds together.
fn sent(outcome: &Outcome) -> usize {
    assert_eq!(outcome.end, End::Settled, "{outcome:#?}");
    let moves = outcome.moves.iter();
    let rounds = moves.flat_map(|moved| moved.rounds.iter().chain(&moved.last_round));
    rounds.map(|bytes| usize::try_from(bytes.0).unwrap()).sum()
}

fn files(data: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = std::fs::read_dir(data).unwrap();
    let read = entries.map(|entry| {
        let path = entry.unwrap().path();
        let file = path.file_name().unwrap().to_str().unwrap().to_owned();
        (file, std::fs::read(path).unwrap())
    });
    read.collect()
}

#[tokio::test]
async fn i12_what_goes_round_three_directories_travels_once_and_fills_no_trash() {
    let place = tempfile::tempdir().unwrap();
    let mut machines = Machines::new();
    let mut volumes = BTreeMap::new();
    for node in NODES {
        let opened = DirectoryVolumes::open(&place.path().join(node), &DirectoryOptions::cautious());
        let opened = Arc::new(opened.unwrap());
        let runtime = Arc::new(Beside::new(node).await);
        machines.add_with_runtime(node, Arc::<DirectoryVolumes>::clone(&opened), runtime, None);
        volumes.insert(node, opened);
    }
    let go_to = async |home: &str| {
        push(
            &deployment(home),
            &machines.handles,
            &Policy::default(),
            &PushOptions::new("ann@laptop", 0, Stop::never()),
            &Go,
            Recorder::default().listener(),
        )
        .await
        .unwrap()
    };
    go_to("alpha").await;
    let mut written = BTreeMap::new();
    let mut write = |home: &str, file: &str, bytes: &[u8]| {
        std::fs::write(volumes[home].path(dataset().id).join(file), bytes).unwrap();
        written.insert(file.to_owned(), bytes.to_vec());
        written.clone()
    };
    write("alpha", "all", &noise(ALL));
    for turn in 1..10 {
        let (from, home) = (NODES[(turn - 1) % 3], NODES[turn % 3]);
        let fresh = noise(ALL + turn * WRITTEN).split_off(ALL + (turn - 1) * WRITTEN);
        let written = write(from, &format!("of-{turn}"), &fresh);
        let sent = sent(&go_to(home).await);
        // Who has never had a copy gets all of it. Who has an older one lacks what the two other homes wrote.
        let expected = if turn < 3 {
            ALL + turn * WRITTEN
        } else {
            2 * WRITTEN
        };
        let as_expected = expected..expected + WRITTEN;
        assert!(
            as_expected.contains(&sent),
            "turn {turn}, to {home}: {sent} bytes"
        );
        assert!(files(&volumes[home].path(dataset().id)) == written, "turn {turn}");
        for (node, volumes) in &volumes {
            keeps_little(&**volumes, NODES.len(), &format!("turn {turn}, on {node}")).await;
        }
    }
}

/// Moves what alpha and beta have had to gamma, where the first copies fail; returns what gamma was sent, and in which turns.
async fn to_gamma(n_failures: u32, fault: Fault) -> (Cluster, Outcome, Vec<String>) {
    let cluster = Cluster::new(NODES);
    push_to(&cluster, "alpha").await;
    cluster.write("alpha", "all", &noise(ALL));
    push_to(&cluster, "beta").await;
    cluster.write("beta", "of-beta", &vec![7; WRITTEN]);
    let mut n_left = n_failures;
    cluster.machine("gamma").memory.faults().decide(move |attempt| {
        let fails = n_left > 0 && matches!(attempt.effect, Effect::Receive(_));
        n_left -= u32::from(fails);
        fails.then_some(fault)
    });
    let recorder = Recorder::default();
    let outcome = push(
        &cluster.deployment("gamma"),
        &cluster.handles(),
        &Policy::default(),
        &PushOptions::new("ann@laptop", 0, Stop::never()),
        &Go,
        recorder.listener(),
    )
    .await
    .unwrap();
    let waiting = recorder.events().into_iter().filter_map(|event| match event {
        Event::PlanMade { waiting, .. } => Some(waiting),
        _ => None,
    });
    let waiting = waiting.flatten().collect();
    (cluster, outcome, waiting)
}

#[tokio::test(start_paused = true)]
async fn an_earlier_snapshot_that_cannot_be_sent_holds_nothing_up() {
    for (n_failures, fault) in [(3, Fault::Fail), (1, Fault::Refuse)] {
        let (cluster, outcome, waiting) = to_gamma(n_failures, fault).await;
        assert_eq!(outcome.end, End::Settled, "{outcome:#?}");
        let volumes = cluster.machine("gamma").memory.volumes();
        assert!(volumes.read(dataset().id, "of-beta").is_some());
        let earlier = waiting
            .iter()
            .filter(|waiting| waiting.contains("copy of handoff-2"));
        assert_eq!(
            earlier.count(),
            usize::try_from(n_failures).unwrap(),
            "{waiting:#?}"
        );
        let is_said = |waiting: &String| waiting.contains("handoff-2 could not be sent before it");
        assert!(waiting.iter().any(is_said), "{waiting:#?}");
        cluster.assert_nothing_bad();
    }
}

#[tokio::test(start_paused = true)]
async fn an_earlier_snapshot_is_tried_again_before_it_is_passed_over() {
    let (cluster, outcome, waiting) = to_gamma(2, Fault::Fail).await;
    assert_eq!(outcome.end, End::Settled, "{outcome:#?}");
    assert!(
        !waiting
            .iter()
            .any(|waiting| waiting.contains("could not be sent")),
        "{waiting:#?}"
    );
    // So that alpha can be next, with what has changed since and no more.
    let sent = sent(&push_to(&cluster, "alpha").await);
    assert!(sent < 3 * WRITTEN, "{sent} bytes");
    cluster.assert_nothing_bad();
}

/// Demands that nothing is in the trash, and that no more snapshots are kept than there are nodes.
async fn keeps_little(volumes: &dyn VolumeBackend, n_nodes: usize, when: &str) {
    let inventory = volumes.inventory().await.unwrap();
    assert_eq!(inventory.trash, [], "{when}");
    let copy = inventory.datasets.get(&dataset().id);
    assert!(copy.is_none_or(|copy| copy.snapshots.len() <= n_nodes), "{when}");
}

/// Lets every home in turn write something and pass all of it on, and demands of each turn that it sends what is expected.
async fn go_round(
    cluster: &Cluster,
    nodes: &[&str],
    n_turns: usize,
    expected: impl Fn(usize) -> Range<usize>,
) {
    let n_nodes = nodes.len();
    push_to(cluster, nodes[0]).await;
    cluster.write(nodes[0], "all", &noise(ALL));
    for turn in 1..=n_turns {
        let (from, home) = (nodes[(turn - 1) % n_nodes], nodes[turn % n_nodes]);
        cluster.write(from, &format!("of-{turn}"), &vec![7; WRITTEN]);
        let sent = sent(&push_to(cluster, home).await);
        assert!(
            expected(turn).contains(&sent),
            "turn {turn}, to {home}: {sent} bytes"
        );
        let is_there = |file: &str| cluster.machine(home).memory.volumes().read(dataset().id, file);
        assert!((1..=turn).all(|turn| is_there(&format!("of-{turn}")).is_some()));
        for (node, machine) in &cluster.machines {
            let when = format!("turn {turn}, on {node}");
            keeps_little(&machine.memory.volumes(), n_nodes, &when).await;
        }
    }
    cluster.assert_nothing_bad();
}

#[tokio::test(start_paused = true)]
async fn what_goes_round_three_twins_of_directories_travels_once() {
    let cluster = Cluster::new(NODES);
    for machine in cluster.machines.values() {
        machine.memory.set_blurred_snapshots(true);
    }
    let expected = |turn| {
        if turn < NODES.len() {
            0..usize::MAX
        } else {
            0..6 * WRITTEN
        }
    };
    go_round(&cluster, &NODES, 9, expected).await;
}

#[tokio::test(start_paused = true)]
async fn what_goes_round_nodes_that_keep_old_snapshots_travels_once_and_fills_no_trash() {
    let five = ["alpha", "beta", "gamma", "delta", "epsilon"];
    for (cluster, nodes) in [(Cluster::new(NODES), &NODES[..]), (Cluster::new(five), &five[..])] {
        let n_nodes = nodes.len();
        // Who has never had a copy gets all of it. Who has an older one lacks what the other homes wrote.
        let expected = |turn| {
            let least = if turn < n_nodes {
                ALL + turn * WRITTEN
            } else {
                (n_nodes - 1) * WRITTEN
            };
            least..least + WRITTEN
        };
        go_round(&cluster, nodes, 3 * n_nodes, expected).await;
    }
}
