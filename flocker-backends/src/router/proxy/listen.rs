//! Ports of the node's address: taking them, and accepting connections on them.

use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use flocker_model::ExternalPort;
use flocker_model::PortNumber;
use flocker_model::Protocol;
use tokio::net::TcpListener;
use tokio::net::TcpSocket;
use tokio::net::UdpSocket;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::forward::Forwarding;

/// How many clients the operating system keeps waiting before one is accepted.
const BACKLOG: u32 = 4096;

/// How long to wait after an accept failed, at first and at most.
const ACCEPT_PAUSES: (Duration, Duration) = (Duration::from_millis(5), Duration::from_secs(1));

/// A port that was taken.
#[derive(Debug)]
pub(super) enum Taken {
    Connections(TcpListener),
    Datagrams(UdpSocket),
}

/// Takes a port.
pub(super) fn listen(address: IpAddr, port: ExternalPort) -> io::Result<Taken> {
    match port.protocol {
        Protocol::Tcp => Ok(Taken::Connections(bind(address, port.number)?.listen(BACKLOG)?)),
        Protocol::Udp => Ok(Taken::Datagrams(UdpSocket::from_std(bind_datagrams(
            address,
            port.number,
        )?)?)),
    }
}

/// Returns those of `ports` that some program uses at `address`.
///
/// Each port is taken for an instant without listening on it, so nobody can be disturbed by it.
/// A port for which this could not be found out (one that needs a privilege) is not among them.
#[must_use]
pub fn used_ports(address: IpAddr, ports: impl IntoIterator<Item = ExternalPort>) -> BTreeSet<ExternalPort> {
    let is_used = |port: &ExternalPort| {
        let taken = match port.protocol {
            Protocol::Tcp => bind(address, port.number).map(drop),
            Protocol::Udp => bind_datagrams(address, port.number).map(drop),
        };
        taken.is_err_and(|error| error.kind() == io::ErrorKind::AddrInUse)
    };
    ports.into_iter().filter(is_used).collect()
}

fn bind(address: IpAddr, port: PortNumber) -> io::Result<TcpSocket> {
    let socket = match address {
        IpAddr::V4(_) => TcpSocket::new_v4()?,
        IpAddr::V6(_) => TcpSocket::new_v6()?,
    };
    // Connections of an earlier life of ours may still linger on the port.
    socket.set_reuseaddr(true)?;
    socket.bind(SocketAddr::new(address, port.get()))?;
    Ok(socket)
}

/// Takes a port of UDP. It is never shared: two who did would each get some of the datagrams.
fn bind_datagrams(address: IpAddr, port: PortNumber) -> io::Result<std::net::UdpSocket> {
    let socket = std::net::UdpSocket::bind(SocketAddr::new(address, port.get()))?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// How many connections there may be.
#[derive(Clone, Debug)]
pub(super) struct Room {
    pub(super) of_all: Arc<Semaphore>,
    /// No port takes all of it, so that a port whose connections are all held leaves the others alone.
    pub(super) of_port: Arc<Semaphore>,
}

/// Accepts connections for ever. Ends when the router is closed or this is dropped.
pub(super) async fn accept(
    listener: TcpListener,
    forwarding: Forwarding,
    room: Room,
    connections: TaskTracker,
    closed: CancellationToken,
) {
    let mut pause = ACCEPT_PAUSES.0;
    loop {
        // Who finds no room waits in the operating system's queue, and is not refused.
        let permits = async {
            let of_port = Arc::clone(&room.of_port).acquire_owned().await.ok()?;
            let of_all = Arc::clone(&room.of_all).acquire_owned().await.ok()?;
            Some((of_port, of_all))
        };
        let Some(permits) = permits.await else { return };
        match listener.accept().await {
            Ok((client, source)) => {
                pause = ACCEPT_PAUSES.0;
                let closed = closed.clone();
                let serve = forwarding.clone().serve(client, source.ip());
                connections.spawn(async move {
                    closed.run_until_cancelled(serve).await;
                    drop(permits);
                });
            }
            // The client left before it was accepted.
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(error) => {
                // Most of all: no more files can be opened. Others will be closed.
                tracing::warn!(port = %forwarding.port, %error, "could not accept a connection");
                drop(permits);
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(ACCEPT_PAUSES.1);
            }
        }
    }
}
