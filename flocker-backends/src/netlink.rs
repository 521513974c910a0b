//! Asking the kernel by its own messages, where no program does it or a program is too slow.

use std::io;
use std::os::fd::AsRawFd as _;
use std::os::fd::OwnedFd;

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
const REPLACE: u16 = 0x100 | 0x400;
/// What is listed has changed meanwhile.
const INTERRUPTED: u16 = 0x10;
const NESTED: u16 = 0x8000;
const KIND_BITS: u16 = 0x3fff;

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ask {
    /// One of something, or a change.
    One,
    /// All of something.
    All,
    /// That one is there as it is told, in the place of any other.
    Replace,
}

/// One message as it came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Message<'a> {
    pub(crate) kind: u16,
    pub(crate) flags: u16,
    pub(crate) number: u32,
    pub(crate) body: &'a [u8],
}

/// A connection to a part of the kernel, of the network in which we are.
#[derive(Debug)]
pub(crate) struct Netlink {
    socket: OwnedFd,
    number: u32,
}

impl Netlink {
    pub(crate) fn to(part: SockProtocol) -> io::Result<Self> {
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
    pub(crate) fn ask(
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
    pub(crate) fn ask_of(
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
            Ask::Replace => REQUEST | ACKNOWLEDGE | REPLACE,
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
    pub(crate) fn carry_out(&mut self, batch: &[u8], last: u32) -> io::Result<()> {
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
pub(crate) fn attribute(kind: u16, is_nested: Nested, value: &[u8]) -> Vec<u8> {
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
pub(crate) enum Nested {
    Yes,
    No,
}

/// Reads messages one after the other, up to what is none.
pub(crate) fn messages(bytes: &[u8]) -> impl Iterator<Item = Message<'_>> {
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
pub(crate) fn attributes(bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let length = usize::from(u16::from_ne_bytes(*rest.first_chunk()?));
        let attribute = rest.get(..length).filter(|attribute| attribute.len() >= 4)?;
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        let kind = u16::from_ne_bytes(*attribute.get(2..)?.first_chunk()?);
        Some((kind & KIND_BITS, attribute.get(4..)?))
    })
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
