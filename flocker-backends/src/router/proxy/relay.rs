//! Datagrams: each client of a port is a session, with a socket of its own towards where the port leads.
//!
//! So the answers of an application find back to whom they are for. There is
//! no end of a session that anybody would tell of; it is over when neither
//! side has said anything for a while, or when the route has changed.

use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;
use std::net::Ipv4Addr;
use std::net::Ipv6Addr;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::time::Duration;

use flocker_model::ExternalPort;
use tokio::net::UdpSocket;
use tokio::sync::OwnedSemaphorePermit;
use tokio::sync::mpsc;
use tokio::sync::watch;
use tokio::time::MissedTickBehavior;
use tokio_util::task::AbortOnDropHandle;
use tokio_util::task::TaskTracker;

use super::count::Counted;
use super::count::Counters;
use super::hop::Hops;
use super::listen::Room;
use super::table::Direction;
use super::table::Table;

/// No datagram is larger.
const LARGEST: usize = 64 * 1024;

/// How many answers wait until they are sent. As on any wire, what is more is lost.
const MOST_WAITING: usize = 256;

/// How long to wait after a port could not be read.
const PAUSE: Duration = Duration::from_millis(5);

/// What all sessions of a port share.
#[derive(Debug)]
pub(super) struct Relaying {
    pub(super) own: IpAddr,
    pub(super) port: ExternalPort,
    pub(super) table: watch::Receiver<Arc<Table>>,
    pub(super) counters: Arc<Counters>,
    pub(super) room: Room,
    /// After how long without a word a session may be forgotten; it is by twice of that.
    pub(super) idle: Duration,
    pub(super) sessions: TaskTracker,
}

/// One client, and the way to where its datagrams go.
#[derive(Debug)]
struct Session {
    to: SocketAddr,
    socket: Arc<UdpSocket>,
    /// Whether anything was said since somebody last looked.
    is_used: Arc<AtomicBool>,
    _answering: AbortOnDropHandle<()>,
    _open: Counted,
    _room: (OwnedSemaphorePermit, OwnedSemaphorePermit),
}

/// An answer, and the client that it is for.
type Answer = (SocketAddr, Vec<u8>);

/// Relays for ever. Ends when the router is closed or this is dropped; then the port is free.
pub(super) async fn relay(port: UdpSocket, mut relaying: Relaying) {
    let mut sessions: BTreeMap<SocketAddr, Session> = BTreeMap::new();
    let (answers, mut answered) = mpsc::channel::<Answer>(MOST_WAITING);
    let mut look = tokio::time::interval(relaying.idle);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut buffer = vec![0; LARGEST];
    loop {
        tokio::select! {
            received = port.recv_from(&mut buffer) => match received {
                Ok((n_bytes, client)) => {
                    relaying.counters.receive(n_bytes);
                    relaying.pass_on(client, &buffer[..n_bytes], &mut sessions, &answers).await;
                }
                Err(error) => {
                    tracing::warn!(port = %relaying.port, %error, "could not receive a datagram");
                    tokio::time::sleep(PAUSE).await;
                }
            },
            Some((client, answer)) = answered.recv() => {
                // A client that has gone says so to nobody.
                if let Ok(n_bytes) = port.send_to(&answer, client).await {
                    relaying.counters.send(n_bytes);
                }
            }
            changed = relaying.table.changed() => {
                // Nobody changes it any more: the router is closed.
                let Ok(()) = changed else { return };
                sessions.retain(|client, session| relaying.direction(*client).is_some_and(|(to, _)| to == session.to));
            }
            _ = look.tick() => sessions.retain(|_, session| session.is_used.swap(false, Ordering::Relaxed)),
        }
    }
}

impl Relaying {
    /// Says where the datagrams of a client go, and from which address; nothing while that is nowhere.
    fn direction(&self, client: SocketAddr) -> Option<(SocketAddr, Option<Ipv4Addr>)> {
        let hops = Hops::of(client.ip());
        match self.table.borrow().direction(self.own, self.port, hops) {
            Direction::Connect { to, from } => Some((to, from)),
            Direction::Hold | Direction::Gone => None,
        }
    }

    /// Sends a datagram on. What cannot be sent is lost, as anywhere on its way, and its sender says it again.
    async fn pass_on(
        &self,
        client: SocketAddr,
        datagram: &[u8],
        sessions: &mut BTreeMap<SocketAddr, Session>,
        answers: &mpsc::Sender<Answer>,
    ) {
        let Some((to, from)) = self.direction(client) else {
            return;
        };
        if sessions.get(&client).is_none_or(|session| session.to != to) {
            match self.open(client, to, from, answers.clone()).await {
                Ok(Some(session)) => drop(sessions.insert(client, session)),
                Ok(None) => tracing::debug!(port = %self.port, "there is no room for another client"),
                Err(error) => tracing::warn!(port = %self.port, %error, "could not open a way for a client"),
            }
        }
        let session = sessions.get(&client).filter(|session| session.to == to);
        if let Some(session) = session {
            session.is_used.store(true, Ordering::Relaxed);
            // The first word after nobody was there fails with that; the one after it does not.
            if session.socket.send(datagram).await.is_err() {
                drop(session.socket.send(datagram).await);
            }
        }
    }

    /// Opens a session; nothing where there are too many.
    async fn open(
        &self,
        client: SocketAddr,
        to: SocketAddr,
        from: Option<Ipv4Addr>,
        answers: mpsc::Sender<Answer>,
    ) -> io::Result<Option<Session>> {
        let of_port = Arc::clone(&self.room.of_port).try_acquire_owned();
        let of_all = Arc::clone(&self.room.of_all).try_acquire_owned();
        let (Ok(of_port), Ok(of_all)) = (of_port, of_all) else {
            return Ok(None);
        };
        let any: IpAddr = match to {
            SocketAddr::V4(_) => from.unwrap_or(Ipv4Addr::UNSPECIFIED).into(),
            SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        let socket = Arc::new(UdpSocket::bind((any, 0)).await?);
        socket.connect(to).await?;
        let is_used = Arc::new(AtomicBool::new(true));
        let answering = answer(Arc::clone(&socket), client, Arc::clone(&is_used), answers);
        self.counters.accepted.fetch_add(1, Ordering::Relaxed);
        Ok(Some(Session {
            to,
            socket,
            is_used,
            _answering: AbortOnDropHandle::new(self.sessions.spawn(answering)),
            _open: Counted::new(&self.counters, |counters| &counters.open),
            _room: (of_port, of_all),
        }))
    }
}

/// Hands on what is answered, for as long as the session lives.
async fn answer(
    socket: Arc<UdpSocket>,
    client: SocketAddr,
    is_used: Arc<AtomicBool>,
    answers: mpsc::Sender<Answer>,
) {
    let mut buffer = vec![0; LARGEST];
    loop {
        match socket.recv(&mut buffer).await {
            Ok(n_bytes) => {
                is_used.store(true, Ordering::Relaxed);
                drop(answers.try_send((client, buffer[..n_bytes].to_vec())));
            }
            // Nobody is there yet, or no more; somebody may be when the client speaks again.
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {}
            Err(error) => {
                tracing::debug!(%error, "a session of datagrams has ended");
                return;
            }
        }
    }
}
