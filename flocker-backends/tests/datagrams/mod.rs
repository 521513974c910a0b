//! Datagrams, as the promises of routers are tried out with them.

use std::net::Ipv4Addr;
use std::net::Ipv6Addr;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::UdpSocket;
use tokio_util::task::AbortOnDropHandle;

/// Tells everybody who says anything to this address where it has arrived.
pub(crate) async fn serve(at: SocketAddr) -> AbortOnDropHandle<()> {
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
pub(crate) async fn ends_at(to: SocketAddr) -> Option<SocketAddr> {
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
