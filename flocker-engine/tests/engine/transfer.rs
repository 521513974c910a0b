//! Transfers from node to node: admitted once, resumed where they were cut.

use std::sync::Mutex;

use flocker_backends::Change;
use flocker_backends::Purpose;
use flocker_backends::SendRequest;
use flocker_backends::Transport as _;
use flocker_backends::VolumeBackend as _;
use flocker_engine::NodeError;
use flocker_engine::NodeHandle;
use flocker_engine::Order;
use flocker_engine::Pass;
use flocker_engine::Passage;
use flocker_engine::Progress;
use flocker_engine::Ticket;
use flocker_engine::Transfer;
use flocker_engine::Unwatched;
use flocker_engine::wire::Arrival;
use flocker_engine::wire::Frame;
use flocker_engine::wire::FromSender;
use flocker_engine::wire::Greeting;
use flocker_engine::wire::ToSender;
use flocker_model::ByteSize;
use flocker_model::DatasetId;
use flocker_model::Epoch;
use flocker_model::Generation;
use flocker_model::SnapshotName;
use flocker_plan::Action;
use tokio::io::AsyncReadExt as _;
use uuid::Uuid;

use crate::cluster::Cluster;
use crate::cluster::OPERATOR;
use crate::cluster::address;
use crate::cluster::dataset;
use crate::cluster::directory;
use crate::cluster::name;
use crate::protocol::Raw;
use crate::protocol::open;

fn warm() -> SnapshotName {
    SnapshotName::warm(Epoch(2), 1)
}

fn transfer() -> Transfer {
    Transfer {
        dataset: dataset(),
        snapshot: warm(),
        base: None,
        sender: None,
    }
}

fn push(ticket: Ticket) -> Order {
    let action = Action::Push {
        dataset: dataset(),
        snapshot: warm(),
        base: None,
        to: name("beta"),
    };
    let mut order = Order::new(action, Generation(1));
    order.ticket = Some(ticket);
    order
}

/// A cluster whose alpha has data and a snapshot of it.
async fn with_data(n_bytes: usize) -> Cluster {
    let cluster = Cluster::new(["alpha", "beta"]);
    let create = Action::Create {
        dataset: dataset(),
        epoch: Epoch::FIRST,
    };
    let take = Action::Take {
        dataset: dataset().id,
        snapshot: warm(),
    };
    cluster.perform("alpha", 1, [create]).await;
    let data: Vec<u8> = (0..n_bytes).map(|at| u8::try_from(at % 251).unwrap()).collect();
    let volumes = cluster.machine("alpha").memory.volumes();
    for (number, part) in data.chunks(50_000).enumerate() {
        volumes
            .put(dataset().id, &format!("part-{number}"), part)
            .unwrap();
    }
    cluster.perform("alpha", 1, [take]).await;
    cluster
}

/// Keeps what it is told.
#[derive(Default)]
struct Told(Mutex<Vec<(ByteSize, Option<ByteSize>)>>);

impl Progress for Told {
    fn report(&self, done: ByteSize, total: Option<ByteSize>) {
        self.0.lock().unwrap().push((done, total));
    }
}

impl Told {
    fn last(&self) -> (ByteSize, Option<ByteSize>) {
        *self.0.lock().unwrap().last().unwrap()
    }
}

#[tokio::test(start_paused = true)]
async fn a_snapshot_goes_from_node_to_node_and_not_through_the_operator() {
    let cluster = with_data(1_000_000).await;
    let (alpha, beta) = (cluster.remote("alpha"), cluster.remote("beta"));
    let ticket = beta.admit(&transfer(), Generation(1)).await.unwrap();
    let told = Told::default();
    assert_eq!(alpha.perform(&push(ticket), &told).await, Ok(Change::Made));
    let (done, total) = told.last();
    assert!(done.0 >= 1_000_000, "{done}");
    assert_eq!(total, None, "it was over before anybody could read that");
    assert!(cluster.network.carried(directory("alpha"), directory("beta")) >= 1_000_000);
    assert!(
        cluster
            .network
            .carried(crate::cluster::OPERATOR, directory("beta"))
            < 10_000
    );
    let volumes = cluster.machine("beta").memory.volumes();
    assert_eq!(volumes.read(dataset().id, "part-19").unwrap().len(), 50_000);

    let again = beta.admit(&transfer(), Generation(1)).await.unwrap();
    assert_eq!(
        alpha.perform(&push(again), &Unwatched).await,
        Ok(Change::AlreadySo)
    );
}

#[tokio::test(start_paused = true)]
async fn of_a_copy_that_takes_a_while_it_is_told_how_much_it_is() {
    let cluster = with_data(1_000_000).await;
    let (alpha, beta) = (cluster.remote("alpha"), cluster.remote("beta"));
    let ticket = beta.admit(&transfer(), Generation(1)).await.unwrap();
    let mut order = push(ticket);
    order.bandwidth = Some(ByteSize(1_000_000));
    let told = Told::default();
    assert_eq!(alpha.perform(&order, &told).await, Ok(Change::Made));
    let (done, total) = told.last();
    assert!(done.0 >= 1_000_000, "{done}");
    assert_eq!(total, Some(ByteSize(1_000_000)));
}

#[tokio::test(start_paused = true)]
async fn a_ticket_lets_in_once() {
    let cluster = with_data(10_000).await;
    let (alpha, beta) = (cluster.remote("alpha"), cluster.remote("beta"));
    let ticket = beta.admit(&transfer(), Generation(1)).await.unwrap();
    alpha.perform(&push(ticket.clone()), &Unwatched).await.unwrap();
    let replayed = alpha.perform(&push(ticket), &Unwatched).await;
    assert!(is_not_admitted(&replayed), "{replayed:?}");
}

fn is_not_admitted(result: &Result<Change, NodeError>) -> bool {
    matches!(result, Err(NodeError::Receiver { source, .. })
        if matches!(**source, NodeError::NotAdmitted { .. }))
}

#[tokio::test(start_paused = true)]
async fn a_ticket_that_is_old_or_invented_lets_nobody_in() {
    let cluster = with_data(10_000).await;
    let (alpha, beta) = (cluster.remote("alpha"), cluster.remote("beta"));
    let ticket = beta.admit(&transfer(), Generation(1)).await.unwrap();
    let invented = Ticket {
        pass: Pass(ticket.pass.0 ^ 1),
        ..ticket.clone()
    };
    let result = alpha.perform(&push(invented), &Unwatched).await;
    assert!(is_not_admitted(&result), "{result:?}");
    tokio::time::sleep(crate::cluster::deadlines().ticket).await;
    let result = alpha.perform(&push(ticket), &Unwatched).await;
    assert!(is_not_admitted(&result), "{result:?}");
}

#[tokio::test(start_paused = true)]
async fn a_ticket_is_for_one_snapshot_of_one_dataset() {
    let cluster = Cluster::new(["alpha"]);
    let alpha = cluster.remote("alpha");
    let other_dataset = DatasetId(Uuid::from_u128(1));
    let other_snapshot = SnapshotName::warm(Epoch(2), 2);
    for (id, snapshot) in [(other_dataset, warm()), (dataset().id, other_snapshot)] {
        let ticket = alpha.admit(&transfer(), Generation(1)).await.unwrap();
        let channel = open(&cluster, Purpose::Transfer).await;
        let mut thief = Raw::greet_as(channel, Greeting::Transfer).await;
        thief
            .say(&FromSender::Arrival(Arrival::new(ticket.pass, id, snapshot)))
            .await;
        let said: ToSender = serde_json::from_slice(&thief.next_message().await.unwrap()).unwrap();
        assert!(
            matches!(said, ToSender::Failed(NodeError::NotAdmitted { .. })),
            "{said:?}"
        );
    }
    assert!(alpha.observe().await.unwrap().datasets.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_sender_that_talks_nonsense_leaves_no_snapshot() {
    let cluster = Cluster::new(["alpha"]);
    let alpha = cluster.remote("alpha");
    let end = |bytes| {
        let text = serde_json::to_vec(&FromSender::End { bytes }).unwrap();
        Frame::Last(text.into()).encode()
    };
    let chunk = Frame::Chunk(vec![7; 1000].into()).encode();
    let packed = |n_bytes| zstd::bulk::compress(&vec![7; n_bytes], 1).unwrap();
    let bomb = packed(64 << 20);
    assert!(bomb.len() < 10_000);
    let cases = [
        Frame::Packed(vec![7; 1000].into()).encode(),
        Frame::Packed(bomb.into()).encode(),
        [Frame::Packed(packed(1000).into()).encode(), end(ByteSize(1001))].concat(),
        [chunk.clone(), end(ByteSize(1000))].concat(),
        [chunk.clone(), end(ByteSize(999))].concat(),
        [chunk, Frame::Hello("{}".into()).encode()].concat(),
        b"\xff\xff\xff\xff\xff".to_vec(),
    ];
    for case in cases {
        let ticket = alpha.admit(&transfer(), Generation(1)).await.unwrap();
        let channel = open(&cluster, Purpose::Transfer).await;
        let mut liar = Raw::greet_as(channel, Greeting::Transfer).await;
        let arrival = Arrival::new(ticket.pass, dataset().id, warm());
        liar.say(&FromSender::Arrival(arrival)).await;
        liar.send(&case).await;
        let said: ToSender = serde_json::from_slice(&liar.next_message().await.unwrap()).unwrap();
        assert!(
            matches!(said, ToSender::Failed(NodeError::Backend(_))),
            "{said:?}"
        );
        let state = alpha.observe().await.unwrap();
        let seen = state.datasets.get(&dataset().id);
        assert!(seen.is_none_or(|seen| seen.snapshots.is_empty()));
    }
}

#[tokio::test(start_paused = true)]
async fn a_sender_that_has_sent_less_than_it_says_is_told_so() {
    let cluster = with_data(10_000).await;
    let request = SendRequest {
        dataset: dataset().id,
        snapshot: warm(),
        base: None,
        resume: None,
    };
    let mut stream = cluster
        .machine("alpha")
        .memory
        .volumes()
        .send(&request)
        .await
        .unwrap();
    let mut half = vec![0; 5000];
    stream.read_exact(&mut half).await.unwrap();
    let beta = cluster.remote("beta");
    for (says, is_noticed) in [(4999, true), (5000, false), (5001, true)] {
        let ticket = beta.admit(&transfer(), Generation(1)).await.unwrap();
        let transport = cluster.network.transport(OPERATOR);
        let channel = transport.open(&address("beta"), Purpose::Transfer).await.unwrap();
        let mut sender = Raw::greet_as(channel, Greeting::Transfer).await;
        let arrival = Arrival::new(ticket.pass, dataset().id, warm());
        sender.say(&FromSender::Arrival(arrival)).await;
        sender.send(&Frame::Chunk(half.clone().into()).encode()).await;
        sender
            .say(&FromSender::End {
                bytes: ByteSize(says),
            })
            .await;
        let said = sender.next_message().await.unwrap();
        let ToSender::Failed(error) = serde_json::from_slice(&said).unwrap() else {
            panic!("half of a snapshot was taken for the whole");
        };
        let text = flocker_engine::one_line(&error);
        assert_eq!(
            text.contains("the length of a transfer"),
            is_noticed,
            "{says}: {text}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_push_that_was_cut_goes_on_where_it_stopped() {
    let cluster = with_data(2_000_000).await;
    let (alpha, beta) = (cluster.remote("alpha"), cluster.remote("beta"));
    let ticket = beta.admit(&transfer(), Generation(1)).await.unwrap();
    // Nothing has arrived yet, and what it takes is told all the same.
    assert_eq!(ticket.resume.as_deref(), Some("everything"));
    cluster
        .network
        .cut_after(directory("alpha"), directory("beta"), 1_000_000);
    let cut = alpha.perform(&push(ticket), &Unwatched).await.unwrap_err();
    assert!(
        matches!(cut, NodeError::Lost { .. } | NodeError::Receiver { .. }),
        "{cut:?}"
    );
    // The receiver finds out by itself that its sender is gone.
    let mut ticket = beta.admit(&transfer(), Generation(1)).await.unwrap();
    for _ in 0..100 {
        if ticket.received.0 > 0 {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        ticket = beta.admit(&transfer(), Generation(1)).await.unwrap();
    }
    assert!(ticket.received.0 > 500_000, "{}", ticket.received);
    assert_ne!(ticket.resume.as_deref(), Some("everything"));
    let told = Told::default();
    assert_eq!(alpha.perform(&push(ticket), &told).await, Ok(Change::Made));
    assert!(told.last().0.0 < 1_500_000, "{}", told.last().0);
    cluster.assert_nothing_bad();
}

#[tokio::test(start_paused = true)]
async fn a_limit_of_bandwidth_is_kept() {
    let cluster = with_data(2_000_000).await;
    let (alpha, beta) = (cluster.remote("alpha"), cluster.remote("beta"));
    let ticket = beta.admit(&transfer(), Generation(1)).await.unwrap();
    let mut order = push(ticket);
    order.bandwidth = Some(ByteSize(100_000));
    let began = tokio::time::Instant::now();
    assert_eq!(alpha.perform(&order, &Unwatched).await, Ok(Change::Made));
    let took = began.elapsed().as_secs();
    assert!((15..30).contains(&took), "{took} s");
}

#[tokio::test(start_paused = true)]
async fn a_receiver_that_is_not_there_is_named() {
    let cluster = with_data(10_000).await;
    let alpha = cluster.remote("alpha");
    let ticket = Ticket {
        address: address("nowhere"),
        passage: Passage::Own,
        pass: Pass(1),
        resume: None,
        received: ByteSize(0),
    };
    let error = alpha.perform(&push(ticket), &Unwatched).await.unwrap_err();
    assert!(matches!(error, NodeError::Unreachable { node, .. } if node == name("beta")));
}

#[tokio::test(start_paused = true)]
async fn what_the_receiver_refuses_is_told_as_its_own_words() {
    let cluster = with_data(100_000).await;
    cluster.machine("beta").memory.set_capacity(Some(ByteSize(1000)));
    let (alpha, beta) = (cluster.remote("alpha"), cluster.remote("beta"));
    let ticket = beta.admit(&transfer(), Generation(1)).await.unwrap();
    let error = alpha.perform(&push(ticket), &Unwatched).await.unwrap_err();
    assert!(
        flocker_engine::one_line(&error).contains("does not fit"),
        "{error:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_newer_generation_ends_a_transfer_and_keeps_what_arrived() {
    let cluster = with_data(2_000_000).await;
    let (alpha, beta) = (cluster.remote("alpha"), cluster.remote("beta"));
    let ticket = beta.admit(&transfer(), Generation(1)).await.unwrap();
    let mut order = push(ticket);
    order.bandwidth = Some(ByteSize(100_000));
    let perform = alpha.perform(&order, &Unwatched);
    let newer = async {
        tokio::time::sleep(std::time::Duration::from_secs(8)).await;
        let renounce = Action::Renounce {
            dataset: dataset().id,
            epoch: Epoch(2),
        };
        beta.perform(&Order::new(renounce, Generation(2)), &Unwatched)
            .await
    };
    let (performed, renounced) = tokio::join!(perform, newer);
    assert!(
        matches!(performed, Err(NodeError::Receiver { source, .. }) if source.is_stale()),
        "the transfer ends"
    );
    assert!(renounced.is_ok(), "{renounced:?}");
    let state = beta.observe().await.unwrap();
    assert!(state.datasets[&dataset().id].partial.is_some());
}
