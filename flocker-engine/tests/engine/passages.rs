//! How bytes get from machine to machine: directly, and through the operator where they cannot.

use std::sync::Arc;
use std::time::Duration;

use flocker_backends::Change;
use flocker_backends::VolumeBackend;
use flocker_backends::memory::MemoryVolumes;
use flocker_backends::transport::direct;
use flocker_backends::transport::direct::DoorAddress;
use flocker_backends::transport::direct::Doorstep;
use flocker_backends::transport::direct::TransferKey;
use flocker_backends::volume::directory::DirectoryOptions;
use flocker_backends::volume::directory::DirectoryVolumes;
use flocker_engine::Carrier;
use flocker_engine::Deadlines;
use flocker_engine::Ending;
use flocker_engine::Event;
use flocker_engine::NodeError;
use flocker_engine::NodeHandle as _;
use flocker_engine::Order;
use flocker_engine::Passage;
use flocker_engine::Reach;
use flocker_engine::Report;
use flocker_engine::Ticket;
use flocker_engine::Transfer;
use flocker_engine::Unwatched;
use flocker_engine::explore;
use flocker_engine::one_line;
use flocker_engine::wire::Greeting;
use flocker_engine::wire::PROTOCOL;
use flocker_model::ByteSize;
use flocker_model::Epoch;
use flocker_model::Generation;
use flocker_model::SnapshotName;
use flocker_plan::Action;

use crate::cluster::OPERATOR;
use crate::cluster::dataset;
use crate::cluster::directory;
use crate::cluster::name;
use crate::machines::Between;
use crate::machines::LOOPBACK;
use crate::machines::Machines;
use crate::machines::Meddling;
use crate::machines::noise;
use crate::machines::plan_to_push;
use crate::machines::push;
use crate::machines::transfer;
use crate::machines::warm;
use crate::protocol::Raw;

const N_BYTES: usize = 2_000_000;

/// Alpha, with a snapshot of some data, and beta, which has nothing.
struct Pair {
    machines: Machines,
    alpha: MemoryVolumes,
    beta: MemoryVolumes,
}

async fn pair(beta: Option<Doorstep>, deadlines: Deadlines) -> Pair {
    let mut machines = Machines::with_deadlines(deadlines);
    let volumes = ["alpha", "beta"].map(|node| MemoryVolumes::new(name(node)));
    machines.add("alpha", Arc::new(volumes[0].clone()), None);
    machines.add("beta", Arc::new(volumes[1].clone()), beta);
    let create = Action::Create {
        dataset: dataset(),
        epoch: Epoch::FIRST,
    };
    machines.perform("alpha", create).await;
    for (number, part) in noise(N_BYTES).chunks(N_BYTES / 20).enumerate() {
        let file = format!("part-{number}");
        volumes[0].put(dataset().id, &file, part).unwrap();
    }
    take(&machines).await;
    let [alpha, beta] = volumes;
    Pair {
        machines,
        alpha,
        beta,
    }
}

async fn take(machines: &Machines) {
    let take = Action::Take {
        dataset: dataset().id,
        snapshot: warm(),
    };
    machines.perform("alpha", take).await;
}

impl Pair {
    #[track_caller]
    fn assert_arrived(&self) {
        let parts = (0..20).map(|number| self.beta.read(dataset().id, &format!("part-{number}")).unwrap());
        assert_eq!(parts.collect::<Vec<_>>().concat(), noise(N_BYTES));
    }

    /// Returns how many bytes the operator has sent to a machine.
    fn operator_sent(&self, to: &str) -> u64 {
        self.machines.network.carried(OPERATOR, directory(to))
    }

    /// Waits until the receiver has noticed that its sender is gone, and has kept what arrived.
    async fn wait_for_partial(&self) {
        let end = tokio::time::Instant::now() + Duration::from_secs(20);
        loop {
            let state = self.machines.node("beta").observe().await.unwrap();
            let seen = state.datasets.get(&dataset().id);
            if seen.is_some_and(|seen| seen.partial.is_some()) {
                return;
            }
            assert!(tokio::time::Instant::now() < end, "nothing is kept");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

#[track_caller]
fn assert_made(report: &Report) {
    assert_eq!(report.steps[0].ending, Ending::Done(Change::Made));
}

/// Returns what was told of how the bytes are carried.
fn carried(events: &[Event]) -> Vec<(Carrier, Option<String>)> {
    let carried = |event: &Event| match event {
        Event::StepCarried { by, because, .. } => Some((*by, because.clone())),
        _ => None,
    };
    events.iter().filter_map(carried).collect()
}

#[tokio::test]
async fn between_machines_bytes_go_directly_and_not_through_the_operator() {
    let pair = pair(Some(Doorstep::new(LOOPBACK)), Deadlines::default()).await;
    let (report, events) = pair.machines.push().await;
    assert_made(&report);
    pair.assert_arrived();
    assert_eq!(report.steps[0].carrier, Some(Carrier::DirectTls));
    assert!(report.steps[0].sent.0 >= N_BYTES as u64);
    assert_eq!(carried(&events), [(Carrier::DirectTls, None)]);
    assert!(pair.operator_sent("beta") < 10_000);
    let (report, _) = pair.machines.push().await;
    assert_eq!(report.steps[0].ending, Ending::Done(Change::AlreadySo));
}

#[tokio::test(start_paused = true)]
async fn a_receiver_without_doors_is_sent_to_through_the_operator() {
    let pair = pair(None, Deadlines::default()).await;
    let (report, events) = pair.machines.push().await;
    assert_made(&report);
    pair.assert_arrived();
    assert_eq!(report.steps[0].carrier, Some(Carrier::Relay));
    assert!(report.steps[0].sent.0 >= N_BYTES as u64);
    let because = "beta lets no transfer in directly".to_owned();
    assert_eq!(carried(&events), [(Carrier::Relay, Some(because))]);
    assert!(pair.operator_sent("beta") >= N_BYTES as u64);
}

// The clock stands still while it packs, so that packing always pays.
#[tokio::test(start_paused = true)]
async fn what_shrinks_goes_packed_and_arrives_as_it_is() {
    let n_bytes = 8 << 20;
    let pair = pair(None, Deadlines::default()).await;
    let log: Vec<u8> = (0_u32..)
        .flat_map(|number| format!("line {number} of a log\n").into_bytes())
        .take(n_bytes)
        .collect();
    pair.alpha.put(dataset().id, "log", &log).unwrap();
    let other = SnapshotName::warm(Epoch(2), 2);
    let take = Action::Take {
        dataset: dataset().id,
        snapshot: other.clone(),
    };
    pair.machines.perform("alpha", take).await;
    let (report, _) = pair.machines.push_of(&other).await;
    assert_made(&report);
    pair.assert_arrived();
    assert_eq!(pair.beta.read(dataset().id, "log").unwrap(), log);
    assert!(report.steps[0].sent.0 >= (N_BYTES + n_bytes) as u64);
    // What was sent before the receiver had introduced itself, and the noise, went as it was.
    let carried = pair.operator_sent("beta");
    assert!(carried < (N_BYTES + n_bytes / 2) as u64, "{carried}");
}

#[tokio::test]
async fn what_cannot_go_directly_is_relayed_and_the_next_push_knows() {
    let between = Between::new(Meddling::Refuse).await;
    let pair = pair(Some(between.doorstep.clone()), Deadlines::default()).await;
    let (report, events) = pair.machines.push().await;
    assert_made(&report);
    pair.assert_arrived();
    assert_eq!(report.steps[0].carrier, Some(Carrier::Relay));
    let told = carried(&events);
    assert!(
        matches!(&told[..], [(Carrier::Relay, Some(because))] if because.contains("127.0.0.1:")),
        "{told:?}"
    );
    let (report, events) = pair.machines.push().await;
    assert_eq!(report.steps[0].ending, Ending::Done(Change::AlreadySo));
    assert_eq!(carried(&events), told);
    assert_eq!(between.n_connections(), 1, "it was tried once");
}

#[tokio::test]
async fn how_bytes_would_go_is_found_out_without_sending_any() {
    let plan = plan_to_push(&warm());
    let found = async |doorstep| {
        let pair = pair(doorstep, Deadlines::default()).await;
        let reaches = explore(&plan, &pair.machines.handles).await;
        let [reach] = <[Reach; 1]>::try_from(reaches).expect("one pair");
        assert_eq!((&reach.from, &reach.to), (&name("alpha"), &name("beta")));
        let state = pair.machines.node("beta").observe().await.unwrap();
        assert!(state.datasets.is_empty(), "{state:?}");
        // What was found out is how it then goes.
        let (report, events) = pair.machines.push().await;
        assert_made(&report);
        assert_eq!(carried(&events), [(reach.by, reach.because.clone())]);
        pair.assert_arrived();
        reach
    };
    let direct = found(Some(Doorstep::new(LOOPBACK))).await;
    assert_eq!((direct.by, direct.because), (Carrier::DirectTls, None));
    let closed = found(None).await;
    let because = "beta lets no transfer in directly".to_owned();
    assert_eq!((closed.by, closed.because), (Carrier::Relay, Some(because)));
    let between = Between::new(Meddling::Refuse).await;
    let refused = found(Some(between.doorstep.clone())).await;
    assert_eq!(refused.by, Carrier::Relay);
    assert_eq!(between.n_connections(), 1, "the push did not try again");
}

#[tokio::test]
async fn by_a_door_to_knock_at_nothing_comes_in() {
    let pair = pair(Some(Doorstep::new(LOOPBACK)), Deadlines::default()).await;
    let key = TransferKey::draw().unwrap();
    for greeting in [Greeting::Transfer, Greeting::Image, Greeting::Control] {
        let door = pair.machines.remote("beta").admit_knock(key.pin()).await.unwrap();
        let door = door.expect("a door is open");
        let channel = direct::connect(&door, &key, Duration::from_secs(5))
            .await
            .unwrap();
        let mut raw = Raw::new(channel);
        raw.hello(PROTOCOL, Some(greeting)).await;
        assert_eq!(raw.next().await, None, "{greeting:?}");
        // It was good once.
        let again = direct::connect(&door, &key, Duration::from_secs(5)).await;
        assert!(again.is_err());
    }
}

#[tokio::test]
async fn a_dead_address_is_given_up_before_a_byte_was_sent() {
    let mut doorstep = Doorstep::new(LOOPBACK);
    doorstep.reached_at = [127, 0, 0, 3].into();
    let pair = pair(Some(doorstep), Deadlines::default()).await;
    let (report, _) = pair.machines.push().await;
    assert_made(&report);
    pair.assert_arrived();
    assert_eq!(report.steps[0].carrier, Some(Carrier::Relay));
}

#[tokio::test]
async fn nothing_is_sent_to_a_door_with_another_key_and_the_ticket_stays_good() {
    let pair = pair(Some(Doorstep::new(LOOPBACK)), Deadlines::default()).await;
    let (alpha, beta) = (pair.machines.remote("alpha"), pair.machines.remote("beta"));
    let announced = Transfer {
        sender: alpha.offer().await.unwrap(),
        ..transfer()
    };
    let ticket = beta.admit(&announced, Generation(1)).await.unwrap();
    let Passage::Door(door) = ticket.passage else {
        panic!("no door is open: {ticket:?}");
    };
    let mut order = Order::new(push(&warm()), Generation(1));
    let with = |passage| {
        Some(Ticket {
            passage,
            ..ticket.clone()
        })
    };
    order.ticket = with(Passage::Door(DoorAddress {
        key: TransferKey::draw().unwrap().pin(),
        ..door
    }));
    let error = alpha.perform(&order, &Unwatched).await.unwrap_err();
    assert!(matches!(error, NodeError::NotDirect { .. }), "{error:?}");
    assert!(
        one_line(&error).contains("does not have the key that was pinned"),
        "{error:?}"
    );
    order.ticket = with(Passage::Door(door));
    assert_eq!(alpha.perform(&order, &Unwatched).await, Ok(Change::Made));
    pair.assert_arrived();
}

#[tokio::test]
async fn a_direct_transfer_that_was_cut_goes_on_where_it_stopped() {
    let between = Between::new(Meddling::CutFirstAfter(N_BYTES / 2)).await;
    let pair = pair(Some(between.doorstep.clone()), Deadlines::default()).await;
    let (report, _) = pair.machines.push().await;
    let (_, error) = report.failures().next().unwrap();
    assert!(
        matches!(error, NodeError::Lost { .. } | NodeError::Receiver { .. }),
        "{error:?}"
    );
    pair.wait_for_partial().await;
    let (report, _) = pair.machines.push().await;
    assert_made(&report);
    pair.assert_arrived();
    assert_eq!(report.steps[0].carrier, Some(Carrier::DirectTls));
    assert!(
        report.steps[0].sent.0 < N_BYTES as u64,
        "{}",
        report.steps[0].sent
    );
    assert_eq!(between.n_connections(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_relay_that_was_cut_goes_on_where_it_stopped() {
    let pair = pair(None, Deadlines::default()).await;
    let network = &pair.machines.network;
    network.cut_after(directory("alpha"), OPERATOR, N_BYTES as u64 / 2);
    let (report, _) = pair.machines.push().await;
    assert_eq!(report.failures().count(), 1);
    pair.wait_for_partial().await;
    let (report, _) = pair.machines.push().await;
    assert_made(&report);
    pair.assert_arrived();
    assert!(
        report.steps[0].sent.0 < N_BYTES as u64,
        "{}",
        report.steps[0].sent
    );
}

#[tokio::test]
async fn a_slow_way_is_waited_for_as_long_as_it_moves() {
    let slow = Meddling::Slow(100_000, Duration::from_millis(100));
    let between = Between::new(slow).await;
    // The whole takes longer than any one silence may.
    let deadlines = Deadlines {
        stall: Duration::from_millis(1500),
        keep_alive: Duration::from_millis(100),
        ..Deadlines::default()
    };
    let pair = pair(Some(between.doorstep.clone()), deadlines).await;
    let began = tokio::time::Instant::now();
    let (report, _) = pair.machines.push().await;
    assert_made(&report);
    assert!(began.elapsed() > deadlines.stall, "{:?}", began.elapsed());
    pair.assert_arrived();
}

#[tokio::test]
async fn a_limit_of_bandwidth_is_kept_directly_and_through_the_operator() {
    for doorstep in [Some(Doorstep::new(LOOPBACK)), None] {
        let mut pair = pair(doorstep, Deadlines::default()).await;
        pair.machines.bandwidth = Some(ByteSize(2 * N_BYTES as u64));
        let began = tokio::time::Instant::now();
        let (report, _) = pair.machines.push().await;
        assert_made(&report);
        assert!(
            began.elapsed() >= Duration::from_millis(450),
            "{:?}",
            began.elapsed()
        );
    }
}

#[tokio::test]
async fn files_arrive_as_they_are_whichever_way_they_go() {
    for doorstep in [Some(Doorstep::new(LOOPBACK)), None] {
        let place = tempfile::tempdir().unwrap();
        let volumes = ["alpha", "beta"].map(|node| {
            let root = place.path().join(node);
            Arc::new(DirectoryVolumes::open(&root, &DirectoryOptions::cautious()).unwrap())
        });
        let mut machines = Machines::new();
        machines.add("alpha", Arc::<DirectoryVolumes>::clone(&volumes[0]), None);
        machines.add("beta", Arc::<DirectoryVolumes>::clone(&volumes[1]), doorstep);
        let create = Action::Create {
            dataset: dataset(),
            epoch: Epoch::FIRST,
        };
        machines.perform("alpha", create).await;
        let there = volumes[0].path(dataset().id);
        std::fs::write(there.join("large"), noise(1_500_000)).unwrap();
        std::fs::create_dir(there.join("deep")).unwrap();
        std::fs::write(there.join("deep/empty"), b"").unwrap();
        take(&machines).await;
        let (report, _) = machines.push().await;
        assert_made(&report);
        let here = machines.node("beta").observe().await.unwrap();
        let theirs = machines.node("alpha").observe().await.unwrap();
        let guids = |state: &flocker_model::NodeState| {
            let snapshots = &state.datasets[&dataset().id].snapshots;
            snapshots.iter().map(|snapshot| snapshot.guid).collect::<Vec<_>>()
        };
        assert_eq!(guids(&here), guids(&theirs));
    }
}
