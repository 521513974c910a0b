//! Doors of a node: who is let in, for what, and how often.

use std::sync::Arc;
use std::time::Duration;

use flocker_backends::Channel;
use flocker_backends::Purpose;
use flocker_backends::memory::MemoryVolumes;
use flocker_backends::transport::direct;
use flocker_backends::transport::direct::DoorAddress;
use flocker_backends::transport::direct::Doorstep;
use flocker_backends::transport::direct::TransferKey;
use flocker_engine::Deadlines;
use flocker_engine::NodeError;
use flocker_engine::NodeHandle as _;
use flocker_engine::Pass;
use flocker_engine::Passage;
use flocker_engine::RemoteNode;
use flocker_engine::Ticket;
use flocker_engine::Transfer;
use flocker_engine::wire::Arrival;
use flocker_engine::wire::Ask;
use flocker_engine::wire::Frame;
use flocker_engine::wire::FromSender;
use flocker_engine::wire::Greeting;
use flocker_engine::wire::Pickup;
use flocker_engine::wire::Reply;
use flocker_engine::wire::Request;
use flocker_engine::wire::Say;
use flocker_engine::wire::ToSender;
use flocker_model::DatasetId;
use flocker_model::Epoch;
use flocker_model::Generation;
use flocker_model::SnapshotName;
use tokio::net::TcpStream;
use uuid::Uuid;

use crate::cluster::Cluster;
use crate::cluster::OPERATOR;
use crate::cluster::address;
use crate::cluster::dataset;
use crate::cluster::deadlines;
use crate::cluster::name;
use crate::machines::LOOPBACK;
use crate::machines::Machines;
use crate::machines::transfer;
use crate::machines::warm;
use crate::protocol::Raw;
use crate::protocol::open;

const SOON: Duration = Duration::from_secs(5);

fn beta(deadlines: Deadlines) -> Machines {
    let mut machines = Machines::with_deadlines(deadlines);
    let volumes = MemoryVolumes::new(name("beta"));
    machines.add("beta", Arc::new(volumes), Some(Doorstep::new(LOOPBACK)));
    machines
}

/// Announces a transfer of whoever has this key.
async fn admit(machines: &Machines, key: &TransferKey) -> (Ticket, DoorAddress) {
    let transfer = Transfer {
        sender: Some(key.pin()),
        ..transfer()
    };
    let ticket = machines
        .remote("beta")
        .admit(&transfer, Generation(1))
        .await
        .unwrap();
    let Passage::Door(door) = ticket.passage else {
        panic!("no door is open: {ticket:?}");
    };
    (ticket, door)
}

async fn enter(door: &DoorAddress, key: &TransferKey) -> Channel {
    direct::connect(door, key, SOON).await.unwrap()
}

/// Presents a pass, and returns what the receiver says to that.
async fn present(channel: Channel, pass: Pass, id: DatasetId, snapshot: SnapshotName) -> ToSender {
    let mut raw = Raw::greet_as(channel, Greeting::Transfer).await;
    let arrival = Arrival::new(pass, id, snapshot);
    raw.say(&FromSender::Arrival(arrival)).await;
    serde_json::from_slice(&raw.next_message().await.unwrap()).unwrap()
}

#[track_caller]
fn assert_not_admitted(said: &ToSender, why: &str) {
    assert!(
        matches!(said, ToSender::Failed(NodeError::NotAdmitted { reason }) if reason.contains(why)),
        "{said:?}"
    );
}

/// Waits until nobody answers at a door any more.
async fn wait_until_closed(door: &DoorAddress) {
    let end = tokio::time::Instant::now() + Duration::from_secs(20);
    while TcpStream::connect(door.socket).await.is_ok() {
        assert!(tokio::time::Instant::now() < end, "the door stays open");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn nothing_but_the_announced_transfer_comes_in_by_a_door() {
    let machines = beta(Deadlines::default());
    let key = TransferKey::draw().unwrap();
    for greeting in [Greeting::Control, Greeting::Relay] {
        let (_, door) = admit(&machines, &key).await;
        let mut raw = Raw::greet_as(enter(&door, &key).await, greeting).await;
        raw.ask(1, &Ask::Observe).await;
        assert_eq!(raw.next().await, None, "{greeting:?}");
    }
    assert!(machines.node("beta").observe().await.unwrap().datasets.is_empty());
}

#[tokio::test]
async fn another_pass_another_dataset_and_another_snapshot_are_refused_at_a_door() {
    let machines = beta(Deadlines::default());
    let key = TransferKey::draw().unwrap();
    let (ticket, door) = admit(&machines, &key).await;
    let wrong = Pass(ticket.pass.0 ^ 1);
    let said = present(enter(&door, &key).await, wrong, dataset().id, warm()).await;
    assert_not_admitted(&said, "not the one of the door");

    let (ticket, door) = admit(&machines, &key).await;
    let other = DatasetId(Uuid::from_u128(1));
    let said = present(enter(&door, &key).await, ticket.pass, other, warm()).await;
    assert_not_admitted(&said, "another dataset");

    let (ticket, door) = admit(&machines, &key).await;
    let other = SnapshotName::warm(Epoch(2), 2);
    let said = present(enter(&door, &key).await, ticket.pass, dataset().id, other).await;
    assert_not_admitted(&said, "another snapshot");
}

#[tokio::test]
async fn a_pass_is_good_at_its_own_door_only_and_stays_good_there() {
    let machines = beta(Deadlines::default());
    let key = TransferKey::draw().unwrap();
    let (first, first_door) = admit(&machines, &key).await;
    let mut other = transfer();
    other.dataset.id = DatasetId(Uuid::from_u128(1));
    other.sender = Some(key.pin());
    let second = machines
        .remote("beta")
        .admit(&other, Generation(1))
        .await
        .unwrap();
    let said = present(
        enter(&first_door, &key).await,
        second.pass,
        other.dataset.id,
        warm(),
    )
    .await;
    assert_not_admitted(&said, "not the one of the door");
    let Passage::Door(second_door) = second.passage else {
        panic!("no door is open");
    };
    let said = present(enter(&second_door, &key).await, first.pass, dataset().id, warm()).await;
    assert_not_admitted(&said, "not the one of the door");
}

#[tokio::test]
async fn a_ticket_lets_in_once_whichever_way_it_is_presented() {
    let machines = beta(Deadlines::default());
    let key = TransferKey::draw().unwrap();
    let (ticket, door) = admit(&machines, &key).await;
    let mut inside = Raw::greet_as(enter(&door, &key).await, Greeting::Transfer).await;
    let arrival = Arrival::new(ticket.pass, dataset().id, warm());
    inside.say(&FromSender::Arrival(arrival)).await;
    wait_until_closed(&door).await;
    // It says how it went once the stream has ended; until then the ticket is in use.
    let end = serde_json::to_vec(&FromSender::End {
        bytes: flocker_model::ByteSize(0),
    })
    .unwrap();
    inside.send(&Frame::Last(end.into()).encode()).await;
    inside.next_message().await.unwrap();
    let channel = machines
        .remote("beta")
        .pipe(flocker_engine::PipeEnd::Receiver)
        .await
        .unwrap();
    let said = present(channel, ticket.pass, dataset().id, warm()).await;
    assert_not_admitted(&said, "not known, or was used");
}

#[tokio::test]
async fn a_door_closes_with_its_ticket() {
    let machines = beta(Deadlines {
        ticket: Duration::from_millis(300),
        ..Deadlines::default()
    });
    let key = TransferKey::draw().unwrap();
    let (expired, door) = admit(&machines, &key).await;
    wait_until_closed(&door).await;
    let pipe = || async {
        let remote = machines.remote("beta");
        remote.pipe(flocker_engine::PipeEnd::Receiver).await.unwrap()
    };
    let said = present(pipe().await, expired.pass, dataset().id, warm()).await;
    assert_not_admitted(&said, "expired");

    // A second announcement closes the door of the first.
    let machines = beta(Deadlines::default());
    let (_, first) = admit(&machines, &key).await;
    let (_, second) = admit(&machines, &key).await;
    wait_until_closed(&first).await;
    drop(enter(&second, &key).await);

    // A ticket that was used another way needs no door any more.
    let (ticket, door) = admit(&machines, &key).await;
    let remote = machines.remote("beta");
    let channel = remote.pipe(flocker_engine::PipeEnd::Receiver).await.unwrap();
    let other = DatasetId(Uuid::from_u128(1));
    present(channel, ticket.pass, other, warm()).await;
    wait_until_closed(&door).await;
}

#[tokio::test(start_paused = true)]
async fn a_pipe_for_no_push_is_closed() {
    let cluster = Cluster::new(["alpha"]);
    let channel = open(&cluster, Purpose::Transfer).await;
    let mut raw = Raw::greet_as(channel, Greeting::Relay).await;
    raw.say(&Pickup::new(Pass(7))).await;
    let began = tokio::time::Instant::now();
    assert_eq!(raw.next().await, None);
    assert!(began.elapsed() <= deadlines().answer);
}

#[tokio::test(start_paused = true)]
async fn nothing_new_is_said_to_a_program_of_version_1() {
    let cluster = Cluster::new(["alpha"]);
    let mut acceptor = cluster.network.listen("/nodes/old");
    let old = tokio::spawn(async move {
        let incoming = acceptor.accept().await.unwrap();
        let mut raw = Raw::new(incoming.channel);
        raw.hello((1, 1), None).await;
        assert!(matches!(raw.next().await, Some(Frame::Hello(_))));
        let text = raw.next_message().await.unwrap();
        let Request { id, ask } = serde_json::from_slice(&text).unwrap();
        assert!(matches!(ask, Ask::Admit { .. }), "{ask:?}");
        assert!(!String::from_utf8(text).unwrap().contains("sender"));
        let ticket = serde_json::json!({"pass": "0".repeat(32), "resume": null, "received": 0});
        let say = Say::Admitted(serde_json::from_value(ticket).unwrap());
        raw.say(&Reply { id, say }).await;
        raw
    });
    let node = RemoteNode::new(
        name("old"),
        address("old"),
        Arc::new(cluster.network.transport(OPERATOR)),
        deadlines(),
    );
    assert_eq!(node.offer().await, Ok(None));
    let transfer = Transfer {
        sender: Some(TransferKey::draw().unwrap().pin()),
        ..transfer()
    };
    let ticket = node.admit(&transfer, Generation(1)).await.unwrap();
    assert_eq!(ticket.passage, Passage::Own);
    drop(old.await.unwrap());
}
