//! Doors for one transfer: who gets in, who does not, and what happens to who tampers.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on panics")]

use std::io;
use std::net::IpAddr;
use std::net::Ipv4Addr;
use std::net::SocketAddr;
use std::time::Duration;

use flocker_backends::Channel;
use flocker_backends::transport::direct::DirectError;
use flocker_backends::transport::direct::Door;
use flocker_backends::transport::direct::DoorAddress;
use flocker_backends::transport::direct::Doorstep;
use flocker_backends::transport::direct::KeyPin;
use flocker_backends::transport::direct::TransferKey;
use flocker_backends::transport::direct::connect;
use tokio::io::AsyncReadExt as _;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpListener;
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const SOON: Duration = Duration::from_secs(5);

struct Opened {
    address: DoorAddress,
    entered: JoinHandle<Channel>,
}

async fn door_for(sender: KeyPin) -> Opened {
    let door = Door::open(&Doorstep::new(LOOPBACK), sender).await.unwrap();
    Opened {
        address: door.address(),
        entered: tokio::spawn(door.enter()),
    }
}

fn key() -> TransferKey {
    TransferKey::draw().unwrap()
}

/// Says something each way; works only when the two channels are ends of one pipe.
async fn talk(ours: &mut Channel, theirs: &mut Channel) {
    say(ours, theirs, b"there").await;
    say(theirs, ours, b"and back").await;
}

async fn say(from: &mut Channel, to: &mut Channel, words: &[u8]) {
    from.write_all(words).await.unwrap();
    from.flush().await.unwrap();
    let mut heard = vec![0; words.len()];
    to.read_exact(&mut heard).await.unwrap();
    assert_eq!(heard, words);
}

/// Returns why reading from a channel fails; it must not give any bytes.
async fn broken(mut channel: Channel) -> io::Error {
    let mut byte = [0];
    match channel.read(&mut byte).await {
        Ok(n_bytes) => panic!("{n_bytes} bytes came"),
        Err(error) => error,
    }
}

#[tokio::test]
async fn the_sender_gets_in_and_the_door_closes_behind_it() {
    let key = key();
    let opened = door_for(key.pin()).await;
    let mut ours = connect(&opened.address, &key, SOON).await.unwrap();
    let mut theirs = opened.entered.await.unwrap();
    talk(&mut ours, &mut theirs).await;
    let again = connect(&opened.address, &key, SOON).await.err().unwrap();
    assert!(matches!(again, DirectError::Unreachable { .. }), "{again:?}");
}

#[tokio::test]
async fn nothing_is_said_to_whoever_does_not_have_the_key_of_the_door() {
    let key = key();
    let meant = door_for(key.pin()).await;
    let other = door_for(key.pin()).await;
    let wrong = DoorAddress {
        socket: other.address.socket,
        key: meant.address.key,
    };
    let error = connect(&wrong, &key, SOON).await.err().unwrap();
    assert!(
        matches!(error, DirectError::OtherKey { address } if address == other.address.socket),
        "{error:?}"
    );
    assert!(!other.entered.is_finished(), "nobody was let in");
}

#[tokio::test]
async fn only_the_key_that_was_pinned_opens_a_door() {
    let key = key();
    let opened = door_for(key.pin()).await;
    let thief = TransferKey::draw().unwrap();
    // By the rules of TLS 1.3 the sender is the last to learn that it was turned away.
    match connect(&opened.address, &thief, SOON).await {
        Ok(channel) => drop(broken(channel).await),
        Err(error) => assert!(matches!(error, DirectError::Handshake { .. }), "{error:?}"),
    }
    assert!(!opened.entered.is_finished(), "the thief is outside");
    let mut ours = connect(&opened.address, &key, SOON).await.unwrap();
    let mut theirs = opened.entered.await.unwrap();
    talk(&mut ours, &mut theirs).await;
}

#[tokio::test]
async fn noise_and_silence_keep_nobody_out() {
    let key = key();
    let opened = door_for(key.pin()).await;
    let mut noisy = TcpStream::connect(opened.address.socket).await.unwrap();
    noisy.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    let _silent = TcpStream::connect(opened.address.socket).await.unwrap();
    let mut ours = connect(&opened.address, &key, SOON).await.unwrap();
    let mut theirs = opened.entered.await.unwrap();
    talk(&mut ours, &mut theirs).await;
}

#[tokio::test]
async fn a_dead_address_and_one_that_says_nothing_are_told_apart() {
    let key = key();
    let gone = TcpListener::bind((LOOPBACK, 0)).await.unwrap();
    let socket = gone.local_addr().unwrap();
    let address = DoorAddress {
        socket,
        key: key.pin(),
    };
    let short = Duration::from_millis(200);
    let error = connect(&address, &key, short).await.err().unwrap();
    assert!(matches!(error, DirectError::Late { .. }), "{error:?}");
    drop(gone);
    let error = connect(&address, &key, SOON).await.err().unwrap();
    assert!(matches!(error, DirectError::Unreachable { .. }), "{error:?}");
}

#[tokio::test]
async fn a_door_takes_a_free_port_of_those_that_it_may_take() {
    let taken = TcpListener::bind((LOOPBACK, 0)).await.unwrap();
    let port = taken.local_addr().unwrap().port();
    let mut doorstep = Doorstep::new(LOOPBACK);
    doorstep.ports = Some(port..=port);
    let error = Door::open(&doorstep, key().pin()).await.unwrap_err();
    assert!(matches!(error, DirectError::Listen { .. }), "{error:?}");
    drop(taken);
    let door = Door::open(&doorstep, key().pin()).await.unwrap();
    assert_eq!(door.address().socket, SocketAddr::new(LOOPBACK, port));
}

#[tokio::test]
async fn what_is_altered_on_the_way_never_arrives() {
    let key = key();
    let opened = door_for(key.pin()).await;
    let between = TcpListener::bind((LOOPBACK, 0)).await.unwrap();
    let address = DoorAddress {
        socket: between.local_addr().unwrap(),
        key: opened.address.key,
    };
    // The handshake passes unharmed; every byte of what is said after the sign is changed.
    let (sign, mut altering) = tokio::sync::watch::channel(false);
    let meddler = tokio::spawn(async move {
        let (mut near, _) = between.accept().await.unwrap();
        let mut far = TcpStream::connect(opened.address.socket).await.unwrap();
        let (mut near_reader, mut near_writer) = near.split();
        let (mut far_reader, mut far_writer) = far.split();
        let back = tokio::io::copy(&mut far_reader, &mut near_writer);
        let forth = async {
            let mut buffer = [0; 4096];
            loop {
                let n_bytes = near_reader.read(&mut buffer).await.unwrap_or(0);
                if n_bytes == 0 {
                    break;
                }
                if *altering.borrow_and_update() {
                    buffer[n_bytes - 1] ^= 1;
                }
                far_writer.write_all(&buffer[..n_bytes]).await.unwrap();
            }
        };
        tokio::select! {
            _ = back => {}
            () = forth => {}
        }
    });
    let mut ours = connect(&address, &key, SOON).await.unwrap();
    let mut theirs = opened.entered.await.unwrap();
    talk(&mut ours, &mut theirs).await;
    sign.send(true).unwrap();
    ours.write_all(b"pay ann").await.unwrap();
    ours.flush().await.unwrap();
    let error = broken(theirs).await;
    assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{error:?}");
    drop(ours);
    meddler.await.unwrap();
}

#[test]
fn a_pin_is_written_and_read_and_is_of_one_key() {
    let (one, other) = (key().pin(), key().pin());
    assert_ne!(one, other);
    assert_eq!(one.to_string().parse(), Ok(one));
    let written = serde_json::to_string(&one).unwrap();
    assert_eq!(serde_json::from_str::<KeyPin>(&written).unwrap(), one);
    for wrong in ["", "00", &"g".repeat(64), &"0".repeat(65)] {
        assert!(wrong.parse::<KeyPin>().is_err(), "{wrong}");
    }
}

#[test]
fn a_key_is_not_shown() {
    let shown = format!("{:?}", key());
    assert!(
        shown.starts_with("TransferKey { pin: KeyPin(") && shown.ends_with("), .. }"),
        "{shown}"
    );
}
