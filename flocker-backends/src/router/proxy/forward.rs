//! One connection: held until there is somewhere to go, then passed on until it ends.

use std::io;
use std::net::IpAddr;
use std::net::Ipv4Addr;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use flocker_model::ExternalPort;
use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt;
use tokio::net::TcpSocket;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::Instant;

use super::count::Counted;
use super::count::CountedStream;
use super::count::Counters;
use super::hop::Hops;
use super::table::Direction;
use super::table::Table;
use crate::deadline;

/// How long a held connection waits before it tries again, at first and at most.
const RETRY_PAUSES: (Duration, Duration) = (Duration::from_millis(2), Duration::from_millis(100));

/// How much of a connection is in memory, each way.
const BUFFER: usize = 32 * 1024;

/// What all connections of a port share.
#[derive(Clone, Debug)]
pub(super) struct Forwarding {
    pub(super) own: IpAddr,
    pub(super) port: ExternalPort,
    pub(super) table: watch::Receiver<Arc<Table>>,
    pub(super) counters: Arc<Counters>,
    pub(super) hold_limit: Duration,
    pub(super) connect_timeout: Duration,
}

impl Forwarding {
    /// Serves one client to its end.
    pub(super) async fn serve(mut self, client: TcpStream, source: IpAddr) {
        self.counters.accepted.fetch_add(1, Ordering::Relaxed);
        let open = Counted::new(&self.counters, |counters| &counters.open);
        if let Some(mut server) = self.reach_target(Hops::of(source)).await {
            // Without it small answers wait for one another; where it is refused they do.
            drop((client.set_nodelay(true), server.set_nodelay(true)));
            let mut client = CountedStream {
                stream: client,
                counters: Arc::clone(&self.counters),
            };
            // It has ended, whichever way; both sides have seen how.
            drop(tokio::io::copy_bidirectional_with_sizes(&mut client, &mut server, BUFFER, BUFFER).await);
        }
        drop(open);
    }

    /// Connects to where the table says, again and again until it works or the time is over.
    async fn reach_target(&mut self, hops: Hops) -> Option<TcpStream> {
        let deadline = deadline::after(self.hold_limit);
        let mut pause = RETRY_PAUSES.0;
        let mut held = None;
        loop {
            let table = Arc::clone(&self.table.borrow_and_update());
            match table.direction(self.own, self.port, hops) {
                Direction::Gone => return None,
                Direction::Hold => {}
                Direction::Connect { to, from } => {
                    let until = deadline.min(deadline::after(self.connect_timeout));
                    let connecting = async {
                        if from.is_some() {
                            tokio::time::sleep(hops.pause()).await;
                        }
                        connect(to, from).await
                    };
                    tokio::select! {
                        connected = tokio::time::timeout_at(until, connecting) => {
                            if let Ok(Ok(server)) = connected {
                                return Some(server);
                            }
                        }
                        // The old target may never answer any more; the new one may at once.
                        changed = self.table.changed() => {
                            changed.ok()?;
                            // So that the wait below ends at once.
                            self.table.mark_changed();
                        }
                    }
                }
            }
            let _ = held.get_or_insert_with(|| Counted::new(&self.counters, |counters| &counters.held));
            if Instant::now() >= deadline {
                self.counters.given_up.fetch_add(1, Ordering::Relaxed);
                tracing::debug!(port = %self.port, "a connection was held for too long");
                return None;
            }
            tokio::select! {
                () = tokio::time::sleep_until(deadline.min(deadline::after(pause))) => {
                    pause = (pause * 2).min(RETRY_PAUSES.1);
                }
                changed = self.table.changed() => {
                    // Nobody changes it any more: the router is closed.
                    changed.ok()?;
                    pause = RETRY_PAUSES.0;
                }
            }
        }
    }
}

async fn connect(to: SocketAddr, from: Option<Ipv4Addr>) -> io::Result<TcpStream> {
    let Some(from) = from else {
        return TcpStream::connect(to).await;
    };
    let socket = TcpSocket::new_v4()?;
    // The port is chosen when it connects, so that there is one for each target and not one for all.
    setsockopt(&socket, sockopt::IpBindAddressNoPort, &true)?;
    socket.bind(SocketAddr::new(from.into(), 0))?;
    socket.connect(to).await
}
