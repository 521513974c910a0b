//! The way by libssh2: one session and one thread for each host, which carries all its pipes.
//!
//! A session of libssh2 is one lock, so nobody but its thread ever touches it,
//! and that thread never waits for one pipe while another has something to
//! do. A pipe is a pair of sockets: one end is read and written by whoever
//! opened it, the other by the thread.

use std::io;
use std::io::Read as _;
use std::net::TcpStream;
use std::net::ToSocketAddrs as _;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::sync::mpsc;
use std::time::Duration;

use rustix::event::PollFd;
use rustix::event::PollFlags;
use rustix::event::Timespec;
use rustix::event::poll;
use ssh2::BlockDirections;
use ssh2::CheckResult;
use ssh2::KnownHostFileKind;
use ssh2::MethodType;
use ssh2::Session;
use tokio::sync::oneshot;

use super::Effective;
use super::known::Known;
use super::known::KnownKey;
use super::lane::Flow;
use super::lane::Lane;
use crate::transport::TransportError;

/// How often a sign of life is sent, in seconds.
const KEEP_ALIVE: u32 = 5;

/// How long the thread sleeps at most.
const NAP: Timespec = Timespec {
    tv_sec: KEEP_ALIVE as i64,
    tv_nsec: 0,
};

/// How to get into a host.
pub(super) struct Entrance {
    /// As the operator calls it, for messages.
    pub(super) host: String,
    pub(super) effective: Effective,
    pub(super) known: Known,
    pub(super) home: Option<PathBuf>,
    /// The socket of the agent, where one is to be asked.
    pub(super) agent: Option<PathBuf>,
    pub(super) connect_timeout: Duration,
    pub(super) answer_timeout: Duration,
}

/// One end of a pipe to a command on the host, and what the command says of its errors.
pub(super) struct Opened {
    pub(super) pipe: UnixStream,
    pub(super) said: Arc<Mutex<Vec<u8>>>,
}

struct Request {
    command: String,
    reply: oneshot::Sender<Result<Opened, TransportError>>,
}

/// A connected host. Its thread ends when this is dropped and its pipes have ended.
#[derive(Debug)]
pub(super) struct Host {
    requests: mpsc::Sender<Request>,
    bell: UnixStream,
    is_alive: Arc<AtomicBool>,
}

impl Host {
    /// Connects. The thread that does it stays with the connection.
    pub(super) async fn connect(entrance: Entrance) -> Result<Self, TransportError> {
        let host = entrance.host.clone();
        let failed = |source| unreachable(&host, source);
        let (bell, heard) = UnixStream::pair().map_err(failed)?;
        bell.set_nonblocking(true).map_err(failed)?;
        heard.set_nonblocking(true).map_err(failed)?;
        let (requests, asked) = mpsc::channel();
        let (connected, answer) = oneshot::channel();
        let is_alive = Arc::new(AtomicBool::new(true));
        let alive = Arc::clone(&is_alive);
        let thread = std::thread::Builder::new().name(format!("ssh {host}"));
        let work = move || {
            match connect(&entrance) {
                Ok((session, socket)) => {
                    if connected.send(Ok(())).is_ok() {
                        carry(&entrance, &session, &socket, &asked, &heard);
                    }
                }
                // Whoever waited may have given up.
                Err(error) => drop(connected.send(Err(error))),
            }
            alive.store(false, Ordering::Release);
        };
        drop(thread.spawn(work).map_err(failed)?);
        match answer.await {
            Ok(Ok(())) => Ok(Self {
                requests,
                bell,
                is_alive,
            }),
            Ok(Err(error)) => Err(error),
            Err(_) => Err(failed(io::ErrorKind::BrokenPipe.into())),
        }
    }

    pub(super) fn is_alive(&self) -> bool {
        self.is_alive.load(Ordering::Acquire)
    }

    /// Starts a command there.
    pub(super) async fn open(&self, host: &str, command: String) -> Result<Opened, TransportError> {
        let gone = || unreachable(host, io::ErrorKind::ConnectionAborted.into());
        let (reply, answer) = oneshot::channel();
        self.requests
            .send(Request { command, reply })
            .map_err(|_| gone())?;
        self.ring();
        answer.await.map_err(|_| gone())?
    }

    fn ring(&self) {
        // Where the bell is full, it has not been heard yet, and will be.
        drop(io::Write::write(&mut &self.bell, b"!"));
    }
}

fn unreachable(host: &str, source: io::Error) -> TransportError {
    TransportError::Unreachable {
        address: format!("`{host}`"),
        source,
    }
}

fn connect(entrance: &Entrance) -> Result<(Session, TcpStream), TransportError> {
    let Entrance { host, .. } = entrance;
    let failed = |source| unreachable(host, source);
    let socket = dial(entrance)?;
    socket.set_nodelay(true).map_err(failed)?;
    let mut session = Session::new().map_err(|error| failed(error.into()))?;
    session.set_timeout(milliseconds(entrance.connect_timeout));
    session.set_tcp_stream(socket.try_clone().map_err(failed)?);
    // A host has keys of several kinds; it is to show one that is known.
    let kinds = entrance.known.kinds();
    if kinds.is_empty() {
        return Err(TransportError::UnknownHostKey { host: host.clone() });
    }
    session
        .method_pref(MethodType::HostKey, &kinds)
        .map_err(|error| failed(error.into()))?;
    session.handshake().map_err(|error| failed(error.into()))?;
    check_key(entrance, &session)?;
    authenticate(entrance, &session)?;
    session.set_keepalive(true, KEEP_ALIVE);
    session.set_timeout(milliseconds(entrance.answer_timeout));
    session.set_blocking(false);
    Ok((session, socket))
}

fn milliseconds(duration: Duration) -> u32 {
    u32::try_from(duration.as_millis()).unwrap_or(u32::MAX)
}

fn dial(entrance: &Entrance) -> Result<TcpStream, TransportError> {
    let Effective { host, port, .. } = &entrance.effective;
    let addresses = (host.as_str(), *port).to_socket_addrs();
    let Ok(addresses) = addresses else {
        return Err(TransportError::NoSuchHost {
            host: entrance.host.clone(),
        });
    };
    let mut last = io::ErrorKind::AddrNotAvailable.into();
    for address in addresses {
        match TcpStream::connect_timeout(&address, entrance.connect_timeout) {
            Ok(socket) => return Ok(socket),
            Err(error) => last = error,
        }
    }
    Err(unreachable(&entrance.host, last))
}

/// Refuses a host that does not show the key it is known by.
fn check_key(entrance: &Entrance, session: &Session) -> Result<(), TransportError> {
    let host = entrance.host.clone();
    let Some((shown, _)) = session.host_key() else {
        return Err(TransportError::UnknownHostKey { host });
    };
    let is_one_of = |keys: &[KnownKey]| matches_one(entrance, session, shown, keys);
    let failed = |error: ssh2::Error| unreachable(&entrance.host, error.into());
    match is_one_of(&entrance.known.revoked).map_err(failed)? {
        CheckResult::Match => return Err(TransportError::RevokedHostKey { host }),
        CheckResult::Mismatch | CheckResult::NotFound => {}
        // Who cannot be told from a revoked one is none that is let through.
        CheckResult::Failure => return Err(TransportError::UnknownHostKey { host }),
    }
    match is_one_of(&entrance.known.keys).map_err(failed)? {
        CheckResult::Match => Ok(()),
        CheckResult::Mismatch => Err(TransportError::ChangedHostKey { host }),
        CheckResult::NotFound | CheckResult::Failure => Err(TransportError::UnknownHostKey { host }),
    }
}

fn matches_one(
    entrance: &Entrance,
    session: &Session,
    shown: &[u8],
    keys: &[KnownKey],
) -> Result<CheckResult, ssh2::Error> {
    let mut known = session.known_hosts()?;
    let host = &entrance.effective.host;
    for KnownKey { kind, key } in keys {
        known.read_str(&format!("{host} {kind} {key}\n"), KnownHostFileKind::OpenSSH)?;
    }
    Ok(known.check(host, shown))
}

fn authenticate(entrance: &Entrance, session: &Session) -> Result<(), TransportError> {
    let user = &entrance.effective.user;
    let mut said = Vec::new();
    if let Some(agent) = &entrance.agent {
        match by_agent(session, user, agent) {
            Ok(()) => return Ok(()),
            Err(error) => said.push(format!("agent: {}", error.message())),
        }
    }
    for file in &entrance.effective.identity_files {
        let file = at_home(file, entrance.home.as_deref());
        if !file.exists() {
            continue;
        }
        match session.userauth_pubkey_file(user, None, &file, None) {
            Ok(()) => return Ok(()),
            Err(error) => said.push(format!("{}: {}", file.display(), error.message())),
        }
    }
    if said.is_empty() {
        said.push("there is no key to show".into());
    }
    Err(TransportError::Denied {
        host: entrance.host.clone(),
        said: super::refusal::repeat(&said.join("\n")),
    })
}

fn by_agent(session: &Session, user: &str, socket: &Path) -> Result<(), ssh2::Error> {
    let mut agent = session.agent()?;
    agent.set_identity_path(socket)?;
    agent.connect()?;
    agent.list_identities()?;
    let mut last = ssh2::Error::eof();
    for identity in agent.identities()? {
        match agent.userauth(user, &identity) {
            Ok(()) => return Ok(()),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// Resolves the `~` that `ssh -G` leaves in the paths of keys.
pub(super) fn at_home(path: &Path, home: Option<&Path>) -> PathBuf {
    match (path.strip_prefix("~"), home) {
        (Ok(rest), Some(home)) => home.join(rest),
        (Ok(_), None) | (Err(_), _) => path.to_owned(),
    }
}

/// Carries all pipes of one session, until nobody wants any more or it breaks.
fn carry(
    entrance: &Entrance,
    session: &Session,
    socket: &TcpStream,
    requests: &mpsc::Receiver<Request>,
    bell: &UnixStream,
) {
    let mut lanes: Vec<Lane> = Vec::new();
    let mut is_wanted = true;
    while is_wanted || !lanes.is_empty() {
        let mut heard = [0; 64];
        // The bell only wakes; a closed one is heard below.
        drop((&mut &*bell).read(&mut heard));
        loop {
            match requests.try_recv() {
                Ok(Request { command, reply }) => match start(entrance, session, &command) {
                    Ok((lane, opened)) => {
                        lanes.push(lane);
                        // Where nobody takes it, its end is seen as that of any other.
                        drop(reply.send(Ok(opened)));
                    }
                    Err(error) => drop(reply.send(Err(error))),
                },
                Err(mpsc::TryRecvError::Empty) => break,
                Err(mpsc::TryRecvError::Disconnected) => {
                    is_wanted = false;
                    break;
                }
            }
        }
        // What one lane reads from the session may be for another: all go on until none can.
        let mut is_moving = true;
        while is_moving {
            is_moving = false;
            let mut at = 0;
            while let Some(lane) = lanes.get_mut(at) {
                match lane.advance() {
                    Ok(Flow::Moved) => is_moving = true,
                    Ok(Flow::Waits) => {}
                    Ok(Flow::Ended) => {
                        close(session, lanes.swap_remove(at));
                        continue;
                    }
                    Err(error) => {
                        tracing::debug!(%error, "the SSH connection broke");
                        return;
                    }
                }
                at += 1;
            }
        }
        match session.keepalive_send() {
            Ok(_) => {}
            Err(error) if would_block(&error) => {}
            Err(error) => {
                tracing::debug!(%error, "the SSH connection broke");
                return;
            }
        }
        if wait(session, socket, is_wanted.then_some(bell), &mut lanes).is_err() {
            return;
        }
    }
}

pub(super) fn would_block(error: &ssh2::Error) -> bool {
    io::Error::from(ssh2::Error::from_errno(error.code())).kind() == io::ErrorKind::WouldBlock
}

/// Starts a command. Nothing else goes on while the host answers, which takes one round trip.
fn start(entrance: &Entrance, session: &Session, command: &str) -> Result<(Lane, Opened), TransportError> {
    let failed = |source| unreachable(&entrance.host, source);
    let (ours, theirs) = UnixStream::pair().map_err(failed)?;
    ours.set_nonblocking(true).map_err(failed)?;
    theirs.set_nonblocking(true).map_err(failed)?;
    session.set_blocking(true);
    let started = session.channel_session().and_then(|mut channel| {
        channel.exec(command)?;
        Ok(channel)
    });
    session.set_blocking(false);
    let channel = started.map_err(|error| failed(error.into()))?;
    let said = Arc::new(Mutex::new(Vec::new()));
    let lane = Lane::new(channel, ours, Arc::clone(&said));
    Ok((lane, Opened { pipe: theirs, said }))
}

fn close(session: &Session, lane: Lane) {
    // Without waiting, what belongs to the channel would stay with the session.
    session.set_blocking(true);
    lane.close();
    session.set_blocking(false);
}

/// Sleeps until something can go on.
fn wait(
    session: &Session,
    socket: &TcpStream,
    bell: Option<&UnixStream>,
    lanes: &mut [Lane],
) -> io::Result<()> {
    // What a host says while no pipe is open is read with the first that is. Until then it would wake
    // this thread again and again, and that of every other host.
    let is_idle = lanes.is_empty();
    let mut of_session = if is_idle { PollFlags::RDHUP } else { PollFlags::IN };
    match session.block_directions() {
        BlockDirections::Outbound | BlockDirections::Both if !is_idle => of_session |= PollFlags::OUT,
        BlockDirections::Outbound
        | BlockDirections::Both
        | BlockDirections::None
        | BlockDirections::Inbound => {}
    }
    let waiting: Vec<(UnixStream, PollFlags)> = lanes
        .iter()
        .map(|lane| Ok((lane.local()?, lane.awaits())))
        .collect::<io::Result<_>>()?;
    let of_lanes = waiting.iter().map(|(local, flags)| PollFd::new(local, *flags));
    let mut descriptors: Vec<PollFd<'_>> = of_lanes.collect();
    descriptors.push(PollFd::new(socket, of_session));
    // A bell that nobody can ring any more would ring for ever.
    descriptors.extend(bell.map(|bell| PollFd::new(bell, PollFlags::IN)));
    match poll(&mut descriptors, Some(&NAP)) {
        Ok(_) | Err(rustix::io::Errno::INTR) => {}
        Err(errno) => return Err(errno.into()),
    }
    let is_over = descriptors.get(waiting.len()).is_some_and(|session| {
        let over = PollFlags::RDHUP | PollFlags::HUP | PollFlags::ERR;
        session.revents().intersects(over)
    });
    if is_idle && is_over {
        return Err(io::ErrorKind::ConnectionAborted.into());
    }
    let hung_up: Vec<bool> = descriptors
        .iter()
        .take(waiting.len())
        .map(|descriptor| descriptor.revents().intersects(PollFlags::HUP | PollFlags::ERR))
        .collect();
    drop(descriptors);
    for (lane, is_hung_up) in lanes.iter_mut().zip(hung_up) {
        if is_hung_up {
            lane.abandon();
        }
    }
    Ok(())
}

/// Returns what was said on the error stream of a command.
pub(super) fn said(said: &Mutex<Vec<u8>>) -> String {
    let said = said.lock().unwrap_or_else(PoisonError::into_inner);
    String::from_utf8_lossy(&said).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tilde_is_the_home() {
        let home = Some(Path::new("/home/operator"));
        assert_eq!(
            at_home(Path::new("~/.ssh/id"), home),
            Path::new("/home/operator/.ssh/id")
        );
        assert_eq!(at_home(Path::new("/keys/id"), home), Path::new("/keys/id"));
        assert_eq!(at_home(Path::new("~/x"), None), Path::new("~/x"));
    }
}
