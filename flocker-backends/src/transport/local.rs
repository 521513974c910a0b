//! The way to a node on this machine: a Unix socket in its state directory.
//!
//! The directory is private to its user, and so is the socket; each side
//! checks in addition that the other runs as the same user. A lock on the
//! directory makes sure that one process at most is that node.

use std::fs::DirBuilder;
use std::fs::File;
use std::fs::OpenOptions;
use std::fs::Permissions;
use std::fs::TryLockError;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::fs::MetadataExt;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::path::PathBuf;

use async_trait::async_trait;
use flocker_model::NodeAddress;
use nix::sys::socket::getsockopt;
use nix::sys::socket::sockopt::PeerCredentials;
use nix::unistd::Uid;
use thiserror::Error;
use tokio::net::UnixListener;
use tokio::net::UnixStream;

use crate::transport::Channel;
use crate::transport::Purpose;
use crate::transport::Transport;
use crate::transport::TransportError;

/// The socket of a node, in its state directory.
const SOCKET: &str = "node.sock";

/// The lock of a node, in its state directory.
const LOCK: &str = "node.lock";

/// Reaches nodes on this machine by their state directories.
#[derive(Clone, Copy, Debug, Default)]
pub struct LocalTransport;

#[async_trait]
impl Transport for LocalTransport {
    /// Opens a byte pipe to the node of a directory. Both purposes use the same socket.
    async fn open(&self, node: &NodeAddress, _purpose: Purpose) -> Result<Channel, TransportError> {
        match node {
            NodeAddress::Local { directory } => match connect(directory).await {
                Ok(stream) => Ok(Box::new(stream)),
                Err(source) => Err(TransportError::Unreachable {
                    address: format!("`{}`", directory.display()),
                    source,
                }),
            },
            NodeAddress::Ssh { host, .. } => Err(TransportError::Unsupported {
                address: format!("host `{host}`"),
            }),
        }
    }
}

async fn connect(directory: &Path) -> io::Result<UnixStream> {
    let directory = File::open(directory)?;
    let stream = UnixStream::connect(socket_in(&directory)).await?;
    check_peer(&stream)?;
    Ok(stream)
}

/// Returns the process that answers at the state directory of a node, or nothing where none does.
///
/// It is the one that began to listen; it may be about to end. Nothing is said to it.
pub fn serving_process(directory: &Path) -> io::Result<Option<u32>> {
    let nobody = |error: &io::Error| {
        matches!(
            error.kind(),
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused
        )
    };
    let connect = || std::os::unix::net::UnixStream::connect(socket_in(&File::open(directory)?));
    let stream = match connect() {
        Ok(stream) => stream,
        Err(error) if nobody(&error) => return Ok(None),
        Err(error) => return Err(error),
    };
    let peer = getsockopt(&stream, PeerCredentials)?;
    Ok(u32::try_from(peer.pid()).ok().filter(|process| *process != 0))
}

/// Connects to whoever answers at the state directory of a node, for programs that wait in threads of their own.
pub fn connect_now(directory: &Path) -> io::Result<std::os::unix::net::UnixStream> {
    let stream = std::os::unix::net::UnixStream::connect(socket_in(&File::open(directory)?))?;
    check_user(getsockopt(&stream, PeerCredentials)?.uid())?;
    Ok(stream)
}

/// Returns a path of the socket that is short enough for a socket address, however deep its directory is.
///
/// It is valid for as long as the directory is kept open.
fn socket_in(directory: &File) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}/{SOCKET}", directory.as_raw_fd()))
}

/// Refuses a peer that runs as another user.
fn check_peer(stream: &UnixStream) -> io::Result<()> {
    check_user(stream.peer_cred()?.uid())
}

fn check_user(peer: u32) -> io::Result<()> {
    let own = Uid::effective().as_raw();
    if peer == own {
        return Ok(());
    }
    let what = format!("the other side runs as user {peer}, and this one as user {own}");
    Err(io::Error::new(io::ErrorKind::PermissionDenied, what))
}

/// Answers at the state directory of a node. While it lives, no other process can.
#[derive(Debug)]
pub struct LocalListener {
    // In this order they go: clients see at once that nobody is here, and the seat is free last.
    listener: UnixListener,
    socket: Socket,
    seat: Seat,
}

/// The right to be the node of a state directory. While it lives, no other process can.
#[derive(Debug)]
pub struct Seat {
    _lock: File,
}

/// The socket in a directory; it is removed when this is dropped.
#[derive(Debug)]
struct Socket(File);

impl LocalListener {
    /// Becomes the one who answers for a directory, which is made where it is missing.
    ///
    /// The socket of a node that died is replaced; that it died is proved by
    /// its lock. Call it inside a tokio runtime.
    pub fn bind(directory: &Path) -> Result<Self, ListenError> {
        let failed = |source| ListenError::Io {
            directory: directory.to_owned(),
            source,
        };
        let open = open_private(directory).map_err(failed)?;
        let mut options = OpenOptions::new();
        options.create(true).append(true).mode(0o600);
        let lock = options.open(directory.join(LOCK)).map_err(failed)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(ListenError::InUse {
                    directory: directory.to_owned(),
                });
            }
            Err(TryLockError::Error(error)) => return Err(failed(error)),
        }
        let socket = socket_in(&open);
        remove_socket(&socket).map_err(failed)?;
        let listener = UnixListener::bind(&socket).map_err(failed)?;
        // Until here the directory alone kept others out.
        std::fs::set_permissions(&socket, Permissions::from_mode(0o600)).map_err(failed)?;
        Ok(Self {
            listener,
            socket: Socket(open),
            seat: Seat { _lock: lock },
        })
    }

    /// Stops answering, and keeps others out still: who is at its last orders is the node until they are over.
    #[must_use = "once it is dropped, another process can be the node"]
    pub fn close(self) -> Seat {
        let Self {
            listener,
            socket,
            seat,
        } = self;
        drop(listener);
        drop(socket);
        seat
    }

    /// Waits for the next one who wants to talk to this node.
    ///
    /// Other users are turned away. An error means that none can be accepted
    /// now; try again after a pause. Safe to drop.
    pub async fn accept(&self) -> io::Result<Channel> {
        loop {
            let (stream, _) = self.listener.accept().await?;
            match check_peer(&stream) {
                Ok(()) => return Ok(Box::new(stream)),
                Err(error) => tracing::warn!(%error, "a client was turned away"),
            }
        }
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        if let Err(error) = remove_socket(&socket_in(&self.0)) {
            tracing::warn!(%error, "the socket of the node could not be removed");
        }
    }
}

/// Opens a directory that belongs to us and that nobody else may enter.
fn open_private(directory: &Path) -> io::Result<File> {
    DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
    let open = File::open(directory)?;
    let metadata = open.metadata()?;
    if metadata.uid() != Uid::effective().as_raw() {
        let what = format!("it belongs to user {}", metadata.uid());
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, what));
    }
    if metadata.mode() & 0o077 != 0 {
        open.set_permissions(Permissions::from_mode(0o700))?;
    }
    Ok(open)
}

/// Removes a socket, and nothing that is none.
fn remove_socket(socket: &Path) -> io::Result<()> {
    match std::fs::symlink_metadata(socket) {
        Ok(metadata) if metadata.file_type().is_socket() => std::fs::remove_file(socket),
        Ok(_) => Err(io::Error::new(
            io::ErrorKind::AlreadyExists,
            format!("`{SOCKET}` there is not a socket"),
        )),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

/// Why a node cannot answer at its directory.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ListenError {
    /// Another process is this node.
    #[error("a node already runs in `{}`", directory.display())]
    InUse {
        /// The directory.
        directory: PathBuf,
    },
    /// The operating system refused.
    #[error("could not listen in `{}`", directory.display())]
    Io {
        /// The directory.
        directory: PathBuf,
        /// Why not.
        source: io::Error,
    },
}
