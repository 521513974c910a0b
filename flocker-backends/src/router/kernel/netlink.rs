//! Asking the kernel's packet filter by its own messages, where no program does it or a program is too slow.

use std::io;
use std::os::fd::AsRawFd as _;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;

use nix::sys::socket::AddressFamily;
use nix::sys::socket::MsgFlags;
use nix::sys::socket::NetlinkAddr;
use nix::sys::socket::SockFlag;
use nix::sys::socket::SockProtocol;
use nix::sys::socket::SockType;
use nix::sys::socket::bind;
use nix::sys::socket::recv;
use nix::sys::socket::send;
use nix::sys::socket::setsockopt;
use nix::sys::socket::socket;
use nix::sys::socket::sockopt::ReceiveTimeout;
#[cfg(feature = "nftables")]
use nix::sys::socket::sockopt::SndBuf;
#[cfg(feature = "nftables")]
use nix::sys::socket::sockopt::SndBufForce;
use nix::sys::time::TimeVal;

/// A message begins with its length, kind, flags, number and sender.
const HEADER: usize = 16;
/// Then comes the kind of addresses, a version and a number that nobody uses.
const PREFIX: usize = 4;
const ERROR: u16 = 2;
const DONE: u16 = 3;
const REQUEST: u16 = 0x1;
const ACKNOWLEDGE: u16 = 0x4;
const ALL: u16 = 0x300;
/// What is listed has changed meanwhile.
const INTERRUPTED: u16 = 0x10;
const NESTED: u16 = 0x8000;
const KIND_BITS: u16 = 0x3fff;

/// How many of something are asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::router) enum Ask {
    One,
    All,
}

/// One message as it came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::router) struct Message<'a> {
    pub(in crate::router) kind: u16,
    pub(in crate::router) flags: u16,
    pub(in crate::router) number: u32,
    pub(in crate::router) body: &'a [u8],
}

/// A connection to the packet filter of the network in which we are.
#[derive(Debug)]
pub(in crate::router) struct Netlink {
    socket: OwnedFd,
    number: u32,
}

impl Netlink {
    fn open() -> io::Result<Self> {
        Self::to(SockProtocol::NetlinkNetFilter)
    }

    /// Opens a connection to what keeps the sockets of the network in which we are.
    pub(super) fn to_sockets() -> io::Result<Self> {
        Self::to(SockProtocol::NetlinkSockDiag)
    }

    fn to(part: SockProtocol) -> io::Result<Self> {
        let socket = socket(
            AddressFamily::Netlink,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC,
            part,
        )?;
        bind(socket.as_raw_fd(), &NetlinkAddr::new(0, 0))?;
        setsockopt(&socket, ReceiveTimeout, &TimeVal::new(10, 0))?;
        Ok(Self { socket, number: 0 })
    }

    /// Asks, and hands on every answer: the kind of its addresses and its attributes.
    ///
    /// What changes while all of it is listed is an error of the kind `Interrupted`.
    pub(in crate::router) fn ask(
        &mut self,
        kind: u16,
        ask: Ask,
        family: u8,
        attributes: &[u8],
        answer: impl FnMut(u8, &[u8]),
    ) -> io::Result<()> {
        self.ask_of(kind, ask, [family, 0, 0, 0], attributes, answer)
    }

    /// The same where more is said before the rest than the kind of addresses.
    pub(super) fn ask_of(
        &mut self,
        kind: u16,
        ask: Ask,
        prefix: [u8; PREFIX],
        rest: &[u8],
        mut answer: impl FnMut(u8, &[u8]),
    ) -> io::Result<()> {
        self.number += 1;
        let flags = match ask {
            Ask::One => REQUEST | ACKNOWLEDGE,
            Ask::All => REQUEST | ALL,
        };
        let message = message(kind, flags, self.number, prefix, rest);
        send(self.socket.as_raw_fd(), &message, MsgFlags::empty())?;
        let mut buffer = vec![0; 256 << 10];
        loop {
            let n_read = recv(self.socket.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
            for message in messages(buffer.get(..n_read).unwrap_or_default()) {
                let Message {
                    kind,
                    flags,
                    number,
                    body,
                } = message;
                if number != self.number {
                    continue;
                }
                if flags & INTERRUPTED != 0 {
                    return Err(io::ErrorKind::Interrupted.into());
                }
                match kind {
                    ERROR => return outcome(body),
                    DONE => return Ok(()),
                    _ => {
                        if let Some((prefix, attributes)) = body.split_at_checked(PREFIX) {
                            answer(prefix[0], attributes);
                        }
                    }
                }
            }
        }
    }

    /// Sends messages of which all or none are carried out, and waits until the one with this number is.
    ///
    /// That one has to ask for an acknowledgement. The error is that of the first message that was refused.
    #[cfg(feature = "nftables")]
    pub(in crate::router) fn carry_out(&mut self, batch: &[u8], last: u32) -> io::Result<()> {
        // What belongs together is sent together, however much it is. Whoever is root only in a
        // namespace of users may not ask for more than others, and is told when it is too much.
        let room = batch.len() + HEADER;
        setsockopt(&self.socket, SndBufForce, &room).or_else(|_| setsockopt(&self.socket, SndBuf, &room))?;
        send(self.socket.as_raw_fd(), batch, MsgFlags::empty())?;
        let mut buffer = vec![0; 16 << 10];
        loop {
            let n_read = recv(self.socket.as_raw_fd(), &mut buffer, MsgFlags::MSG_TRUNC)?;
            let read = buffer.get(..n_read).unwrap_or(&buffer);
            // A refusal repeats the whole message, which may be longer than what is read of it.
            let Some((header, body)) = read.split_at_checked(HEADER) else {
                continue;
            };
            let kind = header.get(4..).and_then(<[u8]>::first_chunk);
            let number = header.get(8..).and_then(<[u8]>::first_chunk);
            if kind.map(|kind| u16::from_ne_bytes(*kind)) == Some(ERROR) {
                outcome(body)?;
                if number.map(|number| u32::from_ne_bytes(*number)) == Some(last) {
                    return Ok(());
                }
            }
        }
    }
}

/// A connection to the packet filter that is kept from one question to the next.
///
/// It belongs to the network in which it was first used. To close one after a change takes
/// longer than the change: the kernel first forgets all that was taken out.
#[derive(Clone, Debug, Default)]
pub(in crate::router) struct Kept(Arc<Mutex<Option<Netlink>>>);

impl Kept {
    /// Asks by it. It is opened where there is none, and closed where anything goes wrong.
    pub(in crate::router) fn with<T>(
        &self,
        ask: impl FnOnce(&mut Netlink) -> io::Result<T>,
    ) -> io::Result<T> {
        let mut netlink = match self.place().take() {
            Some(netlink) => netlink,
            None => Netlink::open()?,
        };
        let answer = ask(&mut netlink)?;
        *self.place() = Some(netlink);
        Ok(answer)
    }

    /// Never held while something is asked: who comes meanwhile opens another.
    fn place(&self) -> std::sync::MutexGuard<'_, Option<Netlink>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An acknowledgement is an error with the number 0.
fn outcome(body: &[u8]) -> io::Result<()> {
    match body.first_chunk().map(|number| i32::from_ne_bytes(*number)) {
        Some(0) => Ok(()),
        Some(number) => Err(io::Error::from_raw_os_error(number.wrapping_neg())),
        None => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

fn message(kind: u16, flags: u16, number: u32, prefix: [u8; PREFIX], rest: &[u8]) -> Vec<u8> {
    let length = u32::try_from(HEADER + PREFIX + rest.len()).unwrap_or(u32::MAX);
    let mut message = Vec::new();
    message.extend(length.to_ne_bytes());
    message.extend(kind.to_ne_bytes());
    message.extend(flags.to_ne_bytes());
    message.extend(number.to_ne_bytes());
    message.extend([0; 4]);
    message.extend(prefix);
    message.extend(rest);
    message
}

/// Writes an attribute as it is sent.
pub(in crate::router) fn attribute(kind: u16, is_nested: Nested, value: &[u8]) -> Vec<u8> {
    let kind = match is_nested {
        Nested::Yes => kind | NESTED,
        Nested::No => kind,
    };
    let length = u16::try_from(4 + value.len()).unwrap_or(u16::MAX);
    let mut attribute = Vec::new();
    attribute.extend(length.to_ne_bytes());
    attribute.extend(kind.to_ne_bytes());
    attribute.extend(value);
    attribute.resize(attribute.len().next_multiple_of(4), 0);
    attribute
}

/// Whether the value of an attribute consists of attributes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::router) enum Nested {
    Yes,
    No,
}

/// Reads messages one after the other, up to what is none.
pub(in crate::router) fn messages(bytes: &[u8]) -> impl Iterator<Item = Message<'_>> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let length = usize::try_from(u32::from_ne_bytes(*rest.first_chunk()?)).ok()?;
        let message = rest.get(..length).filter(|message| message.len() >= HEADER)?;
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(Message {
            kind: u16::from_ne_bytes(*message.get(4..)?.first_chunk()?),
            flags: u16::from_ne_bytes(*message.get(6..)?.first_chunk()?),
            number: u32::from_ne_bytes(*message.get(8..)?.first_chunk()?),
            body: message.get(HEADER..)?,
        })
    })
}

/// Reads attributes one after the other, up to what is none: the kind and the value of each.
pub(in crate::router) fn attributes(bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let length = usize::from(u16::from_ne_bytes(*rest.first_chunk()?));
        let attribute = rest.get(..length).filter(|attribute| attribute.len() >= 4)?;
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        let kind = u16::from_ne_bytes(*attribute.get(2..)?.first_chunk()?);
        Some((kind & KIND_BITS, attribute.get(4..)?))
    })
}

/// Messages of `nf_tables`.
#[cfg(feature = "nftables")]
pub(in crate::router) const GET_TABLE: u16 = 0x0a << 8 | 0x01;
pub(in crate::router) const GET_CHAIN: u16 = 0x0a << 8 | 0x04;
const GET_GENERATION: u16 = 0x0a << 8 | 0x10;
/// What is asked for by its name is not there.
const NO_SUCH: i32 = 2;

impl Netlink {
    /// Returns the number of the packet filter's last change.
    ///
    /// While it stays the same, nobody has changed any rule of this network, but for those of the oldest kind.
    pub(in crate::router) fn generation(&mut self) -> io::Result<u32> {
        const NUMBER: u16 = 1;
        let mut found = None;
        self.ask(GET_GENERATION, Ask::One, 0, &[], |_, answer| {
            found = number(answer, NUMBER);
        })?;
        found.ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
    }

    /// Says whether there is one of what is asked for by its name.
    pub(in crate::router) fn has(
        &mut self,
        kind: u16,
        family: u8,
        names: &[(u16, &str)],
    ) -> io::Result<bool> {
        match self.ask(kind, Ask::One, family, &named(names), |_, _| {}) {
            Err(error) if error.raw_os_error() == Some(NO_SUCH) => Ok(false),
            other => other.map(|()| true),
        }
    }
}

/// Writes names as attributes. Each ends with a zero.
pub(in crate::router) fn named(names: &[(u16, &str)]) -> Vec<u8> {
    let one = |(kind, name): &(u16, &str)| {
        let value: Vec<u8> = name.bytes().chain([0]).collect();
        attribute(*kind, Nested::No, &value)
    };
    names.iter().flat_map(one).collect()
}

/// Reads the attribute that is a number.
pub(in crate::router) fn number(bytes: &[u8], kind: u16) -> Option<u32> {
    let (_, value) = attributes(bytes).find(|(other, _)| *other == kind)?;
    value.first_chunk().map(|bytes| u32::from_be_bytes(*bytes))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let inner = attribute(2, Nested::No, &[1, 2, 3]);
        let outer = [attribute(1, Nested::Yes, &inner), attribute(7, Nested::No, &[])].concat();
        let read: Vec<(u16, &[u8])> = attributes(&outer).collect();
        assert_eq!(read, [(1, &*inner), (7, &[])]);
        assert_eq!(attributes(&inner).collect::<Vec<_>>(), [(2, &[1, 2, 3][..])]);
        let sent = message(5, REQUEST, 9, [2, 0, 0, 0], &outer);
        let twice = [&*sent, &*sent].concat();
        let read: Vec<Message<'_>> = messages(&twice).collect();
        assert_eq!(read.len(), 2);
        assert_eq!((read[1].kind, read[1].number), (5, 9));
        assert_eq!(read[1].body, [&[2, 0, 0, 0], &*outer].concat());
    }

    proptest! {
        #[test]
        fn anything_can_be_read(bytes in prop::collection::vec(any::<u8>(), 0..256)) {
            for message in messages(&bytes) {
                for (_, value) in attributes(message.body) {
                    attributes(value).for_each(drop);
                }
            }
            attributes(&bytes).for_each(drop);
        }
    }
}
