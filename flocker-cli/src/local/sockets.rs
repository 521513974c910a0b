//! Which sockets wait for whoever comes, as the kernel answers that question alone.
//!
//! Its tables in `/proc` say the same. But to write them it goes through every
//! place where a connection could be, which takes it milliseconds however few
//! there are; and every look at a node asks.

use std::io;
use std::net::IpAddr;
use std::net::Ipv4Addr;
use std::net::Ipv6Addr;
use std::os::fd::AsRawFd as _;

use flocker_model::PortNumber;
use flocker_model::Protocol;
use nix::sys::socket::AddressFamily;
use nix::sys::socket::MsgFlags;
use nix::sys::socket::SockFlag;
use nix::sys::socket::SockProtocol;
use nix::sys::socket::SockType;
use nix::sys::socket::recv;
use nix::sys::socket::send;
use nix::sys::socket::setsockopt;
use nix::sys::socket::socket;
use nix::sys::socket::sockopt::ReceiveTimeout;
use nix::sys::time::TimeVal;

/// A message begins with its length, kind, flags, number and sender.
const HEADER: usize = 16;
const ERROR: u16 = 2;
const DONE: u16 = 3;
const BY_FAMILY: u16 = 20;
/// Asks for all that there are.
const ALL: u16 = 0x301;

/// The kind of addresses of a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Family {
    V4,
    V6,
}

impl Family {
    fn number(self) -> u8 {
        match self {
            Self::V4 => 2,
            Self::V6 => 10,
        }
    }
}

/// Returns where sockets wait; an error where this kernel does not tell.
pub(super) fn waiting(family: Family, protocol: Protocol) -> io::Result<Vec<(IpAddr, PortNumber)>> {
    let socket = socket(
        AddressFamily::Netlink,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC,
        SockProtocol::NetlinkSockDiag,
    )?;
    setsockopt(&socket, ReceiveTimeout, &TimeVal::new(10, 0))?;
    send(socket.as_raw_fd(), &question(family, protocol), MsgFlags::empty())?;
    let mut found = Vec::new();
    let mut buffer = vec![0; 64 << 10];
    loop {
        let n_read = recv(socket.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
        if read(buffer.get(..n_read).unwrap_or_default(), &mut found)? {
            return Ok(found);
        }
    }
}

/// Writes the question: all sockets of this kind that are in the state of one that waits.
fn question(family: Family, protocol: Protocol) -> Vec<u8> {
    // A socket of UDP that is for anybody is in the state of a closed one of TCP.
    let (number, state): (u8, u32) = match protocol {
        Protocol::Tcp => (6, 10),
        Protocol::Udp => (17, 7),
    };
    let any_socket = [0; 48];
    let length = HEADER + 8 + any_socket.len();
    let mut question = Vec::new();
    question.extend(u32::try_from(length).unwrap_or_default().to_ne_bytes());
    question.extend(BY_FAMILY.to_ne_bytes());
    question.extend(ALL.to_ne_bytes());
    question.extend([0; 8]);
    question.extend([family.number(), number, 0, 0]);
    question.extend((1_u32 << state).to_ne_bytes());
    question.extend(any_socket);
    question
}

/// Reads what has come; says whether that was all.
fn read(answers: &[u8], found: &mut Vec<(IpAddr, PortNumber)>) -> io::Result<bool> {
    let mut rest = answers;
    while let Some(length) = rest.first_chunk().map(|length| u32::from_ne_bytes(*length)) {
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        let message = rest
            .get(..length)
            .and_then(|message| message.split_at_checked(HEADER));
        let Some((header, body)) = message else {
            return Err(io::ErrorKind::InvalidData.into());
        };
        let kind = header.get(4..).and_then(<[u8]>::first_chunk);
        match kind.map(|kind| u16::from_ne_bytes(*kind)) {
            Some(ERROR | DONE) => {
                let number = body.first_chunk().map(|number| i32::from_ne_bytes(*number));
                return match number {
                    Some(number) if number < 0 => Err(io::Error::from_raw_os_error(number.wrapping_neg())),
                    Some(_) | None => Ok(true),
                };
            }
            Some(_) | None => found.extend(place(body)),
        }
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(false)
}

/// Reads the address and the port of a socket, which come as they travel.
fn place(body: &[u8]) -> Option<(IpAddr, PortNumber)> {
    let family = *body.first()?;
    let port = PortNumber::new(u16::from_be_bytes(*body.get(4..)?.first_chunk()?))?;
    let address = body.get(8..)?;
    if family == Family::V4.number() {
        let octets: [u8; 4] = *address.first_chunk()?;
        return Some((Ipv4Addr::from(octets).into(), port));
    }
    let octets: [u8; 16] = *address.first_chunk()?;
    Some((Ipv6Addr::from(octets).into(), port))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: u16, body: &[u8]) -> Vec<u8> {
        let length = u32::try_from(HEADER + body.len()).unwrap();
        let head = [&length.to_ne_bytes()[..], &kind.to_ne_bytes()[..], &[0; 10][..]];
        [&head.concat(), body].concat()
    }

    fn socket_at(family: Family, port: u16, address: &[u8]) -> Vec<u8> {
        let mut body = vec![family.number(), 10, 0, 0];
        body.extend(port.to_be_bytes());
        body.extend([0; 2]);
        body.extend(address);
        body.resize(72, 0);
        message(BY_FAMILY, &body)
    }

    #[test]
    fn what_the_kernel_answers_is_read_to_its_end() {
        let mut found = Vec::new();
        let answers = [
            socket_at(Family::V4, 8080, &[127, 0, 0, 11]),
            socket_at(Family::V6, 80, &[0; 16]),
            socket_at(Family::V4, 0, &[0; 4]),
        ];
        assert!(!read(&answers.concat(), &mut found).unwrap());
        assert!(read(&message(DONE, &0_i32.to_ne_bytes()), &mut found).unwrap());
        let expected: Vec<(IpAddr, PortNumber)> = [("127.0.0.11", 8080), ("::", 80)]
            .map(|(address, port)| (address.parse().unwrap(), PortNumber::new(port).unwrap()))
            .into();
        assert_eq!(found, expected);
    }

    #[test]
    fn a_kernel_that_does_not_tell_is_understood() {
        let refusal = (-nix::libc::ENOENT).to_ne_bytes();
        for kind in [ERROR, DONE] {
            let error = read(&message(kind, &refusal), &mut Vec::new()).unwrap_err();
            assert_eq!(error.raw_os_error(), Some(nix::libc::ENOENT));
        }
        let mut cut = socket_at(Family::V4, 1, &[0; 4]);
        cut.truncate(30);
        read(&cut, &mut Vec::new()).unwrap_err();
    }
}
