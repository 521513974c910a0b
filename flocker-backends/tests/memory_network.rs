//! How pipes between nodes of twins break.

use std::io::ErrorKind;

use flocker_backends::Purpose;
use flocker_backends::Transport;
use flocker_backends::TransportError;
use flocker_backends::memory::MemoryNetwork;
use flocker_model::NodeAddress;
use tokio::io::AsyncReadExt;
use tokio::io::AsyncWriteExt;

fn beta() -> NodeAddress {
    NodeAddress::Local {
        directory: "beta".into(),
    }
}

#[tokio::test]
async fn parted_nodes_do_not_reach_each_other_until_they_are_joined() {
    let network = MemoryNetwork::new();
    let mut acceptor = network.listen("beta");
    let transport = network.transport("alpha");
    let mut channel = transport.open(&beta(), Purpose::Control).await.unwrap();
    let mut far = acceptor.accept().await.unwrap();
    assert_eq!(far.from.to_str(), Some("alpha"));
    // Who waits for a byte learns of the break at once.
    let (read, ()) = tokio::join!(far.channel.read_u8(), async { network.part("beta", "alpha") });
    assert_eq!(read.unwrap_err().kind(), ErrorKind::ConnectionReset);
    channel.write_u8(1).await.unwrap_err();
    let Err(failure) = transport.open(&beta(), Purpose::Control).await else {
        panic!("it was opened");
    };
    assert!(matches!(failure, TransportError::Unreachable { .. }), "{failure}");
    network.join("alpha", "beta");
    channel.write_u8(1).await.unwrap_err();
    let mut channel = transport.open(&beta(), Purpose::Transfer).await.unwrap();
    let mut far = acceptor.accept().await.unwrap();
    channel.write_u8(7).await.unwrap();
    assert_eq!(far.channel.read_u8().await.unwrap(), 7);
}

#[tokio::test]
async fn a_node_that_is_cut_off_loses_what_is_open_and_others_nothing() {
    let network = MemoryNetwork::new();
    let mut acceptor = network.listen("beta");
    let open = async |from: &str| {
        let transport = network.transport(from);
        transport.open(&beta(), Purpose::Control).await.unwrap()
    };
    let mut cut = open("alpha").await;
    let mut cut_far = acceptor.accept().await.unwrap();
    let mut other = open("gamma").await;
    let _other_far = acceptor.accept().await.unwrap();
    let (read, ()) = tokio::join!(cut_far.channel.read_u8(), async { network.cut_off("alpha") });
    assert_eq!(read.unwrap_err().kind(), ErrorKind::ConnectionReset);
    cut.write_u8(1).await.unwrap_err();
    other.write_u8(1).await.unwrap();
    open("alpha").await.write_u8(1).await.unwrap();
}

#[tokio::test]
async fn all_that_were_parted_reach_each_other_again_and_what_broke_stays_broken() {
    let network = MemoryNetwork::new();
    let _acceptor = network.listen("beta");
    let transports = ["alpha", "gamma"].map(|from| network.transport(from));
    let mut broken = transports[0].open(&beta(), Purpose::Control).await.unwrap();
    for from in ["alpha", "gamma"] {
        network.part(from, "beta");
    }
    network.join_all();
    broken.write_u8(1).await.unwrap_err();
    for transport in &transports {
        let mut channel = transport.open(&beta(), Purpose::Control).await.unwrap();
        channel.write_u8(1).await.unwrap();
    }
}

#[tokio::test]
async fn a_pipe_breaks_after_exactly_so_many_bytes_and_the_next_one_does_not() {
    let network = MemoryNetwork::new();
    let mut acceptor = network.listen("beta");
    let transport = network.transport("alpha");
    network.cut_after("alpha", "beta", 10);
    for (n_bytes, breaks) in [(100, true), (100, false)] {
        let before = network.carried("alpha", "beta");
        let mut channel = transport.open(&beta(), Purpose::Transfer).await.unwrap();
        let mut far = acceptor.accept().await.unwrap();
        let sent = channel.write_all(&vec![1; n_bytes]).await;
        assert_eq!(sent.is_err(), breaks);
        drop(channel);
        let read = far.channel.read_to_end(&mut Vec::new()).await;
        assert_eq!(read.is_err(), breaks);
        let expected = if breaks { 10 } else { n_bytes as u64 };
        assert_eq!(network.carried("alpha", "beta") - before, expected);
    }
}

#[tokio::test]
async fn a_slow_way_takes_more_turns_and_carries_the_same() {
    let network = MemoryNetwork::new();
    let mut acceptor = network.listen("beta");
    let transport = network.transport("alpha");
    network.slow("alpha", "beta", 20);
    let mut channel = transport.open(&beta(), Purpose::Control).await.unwrap();
    let mut far = acceptor.accept().await.unwrap();
    let mut n_turns = 0;
    tokio::select! {
        written = channel.write_all(b"slow") => written.unwrap(),
        () = async { loop { n_turns += 1; tokio::task::yield_now().await; } } => {}
    }
    assert!(n_turns >= 20, "{n_turns}");
    let mut text = [0; 4];
    far.channel.read_exact(&mut text).await.unwrap();
    assert_eq!(&text, b"slow");
}

#[tokio::test]
async fn a_node_that_listens_no_more_is_unreachable() {
    let network = MemoryNetwork::new();
    let transport = network.transport("alpha");
    drop(network.listen("beta"));
    assert!(transport.open(&beta(), Purpose::Control).await.is_err());
    let mut acceptor = network.listen("beta");
    let _channel = transport.open(&beta(), Purpose::Control).await.unwrap();
    assert!(acceptor.accept().await.is_some());
}
