//! Who serves, listens and asks when the promises of routers are tried out.

use std::any::Any;
use std::net::Ipv4Addr;
use std::net::Ipv6Addr;
use std::net::SocketAddr;
use std::time::Duration;

use flocker_model::Protocol;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpListener;
use tokio::net::UdpSocket;
use tokio_util::task::AbortOnDropHandle;

/// Tells everybody who connects to this address, or says anything to it, where that has arrived.
pub(crate) async fn serve(at: SocketAddr) -> Box<dyn Any + Send> {
    let listener = TcpListener::bind(at).await.unwrap();
    let serving = async move {
        loop {
            let (mut client, _) = listener.accept().await.unwrap();
            client.write_all(at.to_string().as_bytes()).await.unwrap();
        }
    };
    let connections = AbortOnDropHandle::new(tokio::spawn(serving));
    Box::new((connections, serve_datagrams(at).await))
}

/// Takes a port, and says nothing there.
pub(crate) fn occupy(at: SocketAddr, protocol: Protocol) -> Box<dyn Any + Send> {
    match protocol {
        Protocol::Tcp => Box::new(std::net::TcpListener::bind(at).unwrap()),
        Protocol::Udp => Box::new(std::net::UdpSocket::bind(at).unwrap()),
    }
}

async fn serve_datagrams(at: SocketAddr) -> AbortOnDropHandle<()> {
    let socket = UdpSocket::bind(at).await.unwrap();
    AbortOnDropHandle::new(tokio::spawn(async move {
        let mut buffer = [0; 64];
        loop {
            let (_, client) = socket.recv_from(&mut buffer).await.unwrap();
            socket.send_to(at.to_string().as_bytes(), client).await.unwrap();
        }
    }))
}

/// Says something to an address, and returns where that has arrived; nothing where nobody answers.
pub(crate) async fn datagrams_end_at(to: SocketAddr) -> Option<SocketAddr> {
    let own: SocketAddr = match to {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = UdpSocket::bind(own).await.unwrap();
    socket.connect(to).await.unwrap();
    socket.send(b"who").await.ok()?;
    let mut buffer = [0; 64];
    // What is dropped is answered by nobody.
    let answered = tokio::time::timeout(Duration::from_millis(700), socket.recv(&mut buffer)).await;
    let n_bytes = answered.ok()?.ok()?;
    std::str::from_utf8(&buffer[..n_bytes]).unwrap().parse().ok()
}
