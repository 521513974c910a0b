//! The way from node to node for the bytes of one transfer: TLS 1.3 between keys that know each other.
//!
//! Nodes have no standing trust in each other. The receiver of a transfer
//! opens a [`Door`] for it, with a key that is drawn for this door and a
//! listener that lives no longer than it. Both ends pin the other's key, and
//! the pins come over the control channels of whoever ordered the transfer:
//! [`DoorAddress`] to the sender, [`KeyPin`] of the sender's [`TransferKey`] to the
//! receiver. Because the sender proves a key that never leaves its process, a
//! ticket that leaks lets nobody in; because the receiver does, nothing is said
//! to a stranger.
//!
//! There is no certificate, so there is nothing in one to be read, to expire or
//! to be signed by somebody: keys are shown bare (RFC 7250). There is no older
//! version of TLS, no resumption, no early data and no name to be asked for.
//!
//! This module knows nothing of what goes through a door.

mod pinned;

use std::fmt;
use std::io;
use std::net::IpAddr;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use ring::rand::SystemRandom;
use ring::signature::Ed25519KeyPair;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::PrivatePkcs8KeyDer;
use rustls::pki_types::ServerName;
use rustls::sign::CertifiedKey;
use serde::Deserialize;
use serde::Serialize;
use thiserror::Error;
use tokio::net::TcpListener;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::TlsConnector;

use crate::class::Classify;
use crate::class::ErrorClass;
use crate::transport::Channel;

/// How long one who knocks may take to prove who it is.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// How many may be proving who they are at once; more wait outside.
const MAX_KNOCKING: usize = 16;

/// How long nobody is let in after the operating system could not.
const PAUSE: Duration = Duration::from_millis(100);

/// What a public key is known by: the BLAKE3 hash of its standard form. It is no secret.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct KeyPin([u8; 32]);

impl KeyPin {
    fn of(public_key: &[u8]) -> Self {
        Self(*blake3::hash(public_key).as_bytes())
    }
}

impl fmt::Display for KeyPin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&blake3::Hash::from_bytes(self.0).to_hex())
    }
}

impl fmt::Debug for KeyPin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyPin({self})")
    }
}

impl From<KeyPin> for String {
    fn from(pin: KeyPin) -> Self {
        pin.to_string()
    }
}

/// A text is not the pin of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("the pin of a key is 64 hexadecimal digits")]
pub struct NotAPin;

impl FromStr for KeyPin {
    type Err = NotAPin;

    fn from_str(text: &str) -> Result<Self, NotAPin> {
        let hash = blake3::Hash::from_hex(text).map_err(|_| NotAPin)?;
        Ok(Self(*hash.as_bytes()))
    }
}

impl TryFrom<String> for KeyPin {
    type Error = NotAPin;

    fn try_from(text: String) -> Result<Self, NotAPin> {
        text.parse()
    }
}

/// A key that proves who one end of a transfer is. It is never written down and never leaves the process.
#[derive(Clone)]
pub struct TransferKey {
    key: Arc<CertifiedKey>,
    pin: KeyPin,
}

impl fmt::Debug for TransferKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TransferKey")
            .field("pin", &self.pin)
            .finish_non_exhaustive()
    }
}

impl TransferKey {
    /// Draws a new one.
    pub fn draw() -> Result<Self, DirectError> {
        let failed = |cause: &'static str| DirectError::Key {
            source: io::Error::other(cause),
        };
        let written = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new())
            .map_err(|_| failed("the operating system gave no randomness"))?;
        let der = PrivatePkcs8KeyDer::from(written.as_ref());
        let key = rustls::crypto::ring::sign::any_eddsa_type(&der)
            .map_err(|_| failed("the key that was drawn cannot be read"))?;
        let public = key
            .public_key()
            .ok_or_else(|| failed("the key that was drawn has no public part"))?
            .to_vec();
        let pin = KeyPin::of(&public);
        let key = CertifiedKey::new(vec![CertificateDer::from(public)], key);
        Ok(Self {
            key: Arc::new(key),
            pin,
        })
    }

    /// Returns what it is known by.
    #[must_use]
    pub fn pin(&self) -> KeyPin {
        self.pin
    }
}

/// Where the doors of a node are opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Doorstep {
    /// On which of its own addresses it listens.
    pub listens_on: IpAddr,
    /// At which address the other nodes reach it: the same, unless addresses are translated on the way.
    pub reached_at: IpAddr,
    /// Which ports it may take; nothing for any that is free. A firewall has to let the other nodes in here.
    pub ports: Option<RangeInclusive<u16>>,
}

impl Doorstep {
    /// Returns the doorstep of a node that is reached where it listens, on any port.
    #[must_use]
    pub fn new(address: IpAddr) -> Self {
        Self {
            listens_on: address,
            reached_at: address,
            ports: None,
        }
    }
}

/// Where a door is, and by which key it is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DoorAddress {
    /// Where it is.
    pub socket: SocketAddr,
    /// The key of whoever opened it.
    pub key: KeyPin,
}

/// A door for one sender. Dropping it closes it.
#[derive(Debug)]
pub struct Door {
    listener: TcpListener,
    acceptor: Acceptor,
    address: DoorAddress,
}

/// Who checks those who knock.
#[derive(Clone)]
struct Acceptor(TlsAcceptor);

impl fmt::Debug for Acceptor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Acceptor")
    }
}

impl Door {
    /// Opens a door for whoever has the key of this pin, with a key of its own.
    ///
    /// Nobody is let in before [`Door::enter`] is called; they wait.
    pub async fn open(at: &Doorstep, sender: KeyPin) -> Result<Self, DirectError> {
        let key = TransferKey::draw()?;
        let listener = listen(at).await.map_err(|source| DirectError::Listen {
            address: at.listens_on,
            source,
        })?;
        let port = listener
            .local_addr()
            .map_err(|source| DirectError::Listen {
                address: at.listens_on,
                source,
            })?
            .port();
        let config = pinned::server(&key, sender)?;
        Ok(Self {
            listener,
            acceptor: Acceptor(TlsAcceptor::from(Arc::new(config))),
            address: DoorAddress {
                socket: SocketAddr::new(at.reached_at, port),
                key: key.pin,
            },
        })
    }

    /// Returns where it is and what it is known by.
    #[must_use]
    pub fn address(&self) -> DoorAddress {
        self.address
    }

    /// Waits until the sender has come and has proved that it has its key, and closes the door behind it.
    ///
    /// Everybody else is turned away, for as long as it takes. Dropped, the
    /// door is closed and nobody was let in.
    pub async fn enter(self) -> Channel {
        let mut knocking: JoinSet<Result<Channel, DirectError>> = JoinSet::new();
        loop {
            tokio::select! {
                biased;
                Some(knocked) = knocking.join_next() => match knocked {
                    Ok(Ok(channel)) => return channel,
                    Ok(Err(error)) => {
                        let cause = error.cause();
                        tracing::warn!(%error, cause, "somebody was turned away from a door for a transfer");
                    }
                    Err(error) => tracing::error!(%error, "letting somebody in broke down"),
                },
                accepted = self.listener.accept(), if knocking.len() < MAX_KNOCKING => match accepted {
                    Ok((stream, from)) => {
                        let acceptor = self.acceptor.clone();
                        knocking.spawn(let_in(acceptor, stream, from));
                    }
                    Err(error) => {
                        tracing::warn!(%error, "nobody can be let in for a transfer now");
                        tokio::time::sleep(PAUSE).await;
                    }
                },
            }
        }
    }
}

async fn listen(at: &Doorstep) -> io::Result<TcpListener> {
    let Some(ports) = &at.ports else {
        return TcpListener::bind((at.listens_on, 0)).await;
    };
    for port in ports.clone() {
        match TcpListener::bind((at.listens_on, port)).await {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
            done => return done,
        }
    }
    let (first, last) = (ports.start(), ports.end());
    let what = format!("none of the ports {first} to {last} is free");
    Err(io::Error::new(io::ErrorKind::AddrInUse, what))
}

async fn let_in(acceptor: Acceptor, stream: TcpStream, from: SocketAddr) -> Result<Channel, DirectError> {
    at_once(&stream);
    match tokio::time::timeout(HANDSHAKE, acceptor.0.accept(stream)).await {
        Ok(Ok(stream)) => Ok(Box::new(stream)),
        Ok(Err(error)) => Err(refused(from, error)),
        Err(_) => Err(DirectError::Late {
            address: from,
            after: HANDSHAKE,
        }),
    }
}

/// Opens a byte pipe to a door, with the sender's key, within a time.
///
/// Nothing is said there before whoever answers has proved that it has the
/// door's key. Whether the receiver knows *our* key shows in the first bytes
/// that it says. Dropped half way: nothing remains.
pub async fn connect(to: &DoorAddress, key: &TransferKey, within: Duration) -> Result<Channel, DirectError> {
    let address = to.socket;
    let config = pinned::client(key, to.key)?;
    let knock = async {
        let stream = TcpStream::connect(address)
            .await
            .map_err(|source| DirectError::Unreachable { address, source })?;
        at_once(&stream);
        let name = ServerName::from(address.ip());
        let connected = TlsConnector::from(Arc::new(config)).connect(name, stream).await;
        connected.map_err(|error| refused(address, error))
    };
    match tokio::time::timeout(within, knock).await {
        Ok(connected) => Ok(Box::new(connected?)),
        Err(_) => Err(DirectError::Late {
            address,
            after: within,
        }),
    }
}

/// Sends small messages at once. Where that cannot be had, they come a little later.
fn at_once(stream: &TcpStream) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "small messages may be held back");
    }
}

fn refused(address: SocketAddr, error: io::Error) -> DirectError {
    let cause = error.get_ref().and_then(|cause| cause.downcast_ref());
    match cause {
        Some(rustls::Error::InvalidCertificate(_)) => DirectError::OtherKey { address },
        Some(_) | None => DirectError::Handshake {
            address,
            source: error,
        },
    }
}

/// Why a transfer could not go directly.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum DirectError {
    /// Nobody answers.
    #[error("nobody answers at {address}")]
    Unreachable {
        /// Where.
        address: SocketAddr,
        /// What the operating system said.
        source: io::Error,
    },
    /// Somebody answers who is not who was meant.
    #[error("whoever is at {address} does not have the key that was pinned for this transfer")]
    OtherKey {
        /// Where.
        address: SocketAddr,
    },
    /// The two sides did not come to an understanding.
    #[error("no secure channel could be agreed on with {address}")]
    Handshake {
        /// With whom.
        address: SocketAddr,
        /// What went wrong.
        source: io::Error,
    },
    /// It took too long.
    #[error("{address} did not prove who it is within {} s", after.as_secs())]
    Late {
        /// Who.
        address: SocketAddr,
        /// How long it had.
        after: Duration,
    },
    /// A door could not be opened.
    #[error("could not listen on {address} for a transfer")]
    Listen {
        /// Where.
        address: IpAddr,
        /// What the operating system said.
        source: io::Error,
    },
    /// A key could not be drawn or used.
    #[error("could not make a key for a transfer")]
    Key {
        /// Why not.
        source: io::Error,
    },
}

impl DirectError {
    fn cause(&self) -> Option<String> {
        std::error::Error::source(self).map(ToString::to_string)
    }
}

impl Classify for DirectError {
    /// Another try has another door, another key and perhaps a better way.
    fn class(&self) -> ErrorClass {
        ErrorClass::Transient
    }
}
