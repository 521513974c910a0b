//! Telling the kernel of this machine where a container is that has just been started.
//!
//! As long as somebody sends to an address of which nobody knows who has it, the
//! kernel asks once a second, and holds back what is sent. So a container that
//! was away for a moment, while clients tried to reach it, would be found again
//! up to a second after it is back.

use std::io;
use std::net::IpAddr;
use std::net::Ipv4Addr;
use std::os::fd::AsRawFd as _;

use nix::ifaddrs::getifaddrs;
use nix::net::if_::if_nametoindex;
use nix::sys::socket::AddressFamily;
use nix::sys::socket::MsgFlags;
use nix::sys::socket::NetlinkAddr;
use nix::sys::socket::SockFlag;
use nix::sys::socket::SockProtocol;
use nix::sys::socket::SockType;
use nix::sys::socket::SockaddrStorage;
use nix::sys::socket::bind;
use nix::sys::socket::recv;
use nix::sys::socket::send;
use nix::sys::socket::setsockopt;
use nix::sys::socket::socket;
use nix::sys::socket::sockopt::ReceiveTimeout;
use nix::sys::time::TimeVal;

use super::seen::Seen;
use crate::blocking::blocking;

const NEW_NEIGHBOUR: u16 = 28;
const REQUEST: u16 = 0x1;
const ACKNOWLEDGE: u16 = 0x4;
const REPLACE: u16 = 0x100;
const CREATE: u16 = 0x400;
const IPV4: u8 = 2;
/// It was true once, and is asked for again when it has been used for a while.
const STALE: u16 = 0x04;
const ADDRESS: u16 = 1;
const HARDWARE_ADDRESS: u16 = 2;
/// A message begins with its length, kind, flags, number and sender.
const HEADER: usize = 16;
const ERROR: u16 = 2;

/// What a container is called by the hardware of its network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct HardwareAddress([u8; 6]);

impl HardwareAddress {
    /// Reads `02:42:0a:c1:01:02`; nothing where it is anything else.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let mut address = [0; 6];
        let mut parts = text.split(':');
        for byte in &mut address {
            // Numbers may have a sign otherwise.
            let part = parts
                .next()
                .filter(|part| part.len() == 2 && !part.starts_with('+'))?;
            *byte = u8::from_str_radix(part, 16).ok()?;
        }
        parts.next().is_none().then_some(Self(address))
    }
}

/// Tells the kernel where a container is, so that what it holds back for it arrives at once.
///
/// Where that cannot be done, or is not so, the kernel finds out by itself.
pub(super) async fn introduce(seen: &Seen) {
    let (Some(IpAddr::V4(address)), Some(hardware)) = (seen.address, seen.hardware_address) else {
        return;
    };
    if let Err(error) = blocking(move || tell(address, hardware)).await {
        tracing::debug!(%address, %error, "the kernel is not told where a container is");
    }
}

fn tell(address: Ipv4Addr, hardware: HardwareAddress) -> io::Result<()> {
    let interface = interface_to(address)?.ok_or(io::ErrorKind::NetworkUnreachable)?;
    let socket = socket(
        AddressFamily::Netlink,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC,
        SockProtocol::NetlinkRoute,
    )?;
    bind(socket.as_raw_fd(), &NetlinkAddr::new(0, 0))?;
    setsockopt(&socket, ReceiveTimeout, &TimeVal::new(1, 0))?;
    send(
        socket.as_raw_fd(),
        &message(interface, address, hardware),
        MsgFlags::empty(),
    )?;
    let mut buffer = [0; 4096];
    let n_read = recv(socket.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
    outcome(buffer.get(..n_read).unwrap_or_default())
}

/// Finds the interface in whose own network an address is.
fn interface_to(address: Ipv4Addr) -> io::Result<Option<u32>> {
    let ipv4 = |found: Option<SockaddrStorage>| Some(found?.as_sockaddr_in()?.ip());
    let mut nearest: Option<(u32, String)> = None;
    for interface in getifaddrs()? {
        let (Some(own), Some(mask)) = (ipv4(interface.address), ipv4(interface.netmask)) else {
            continue;
        };
        let mask = mask.to_bits();
        if (own.to_bits() ^ address.to_bits()) & mask == 0
            && nearest.as_ref().is_none_or(|(known, _)| *known < mask)
        {
            nearest = Some((mask, interface.interface_name));
        }
    }
    let index = nearest.map(|(_, name)| if_nametoindex(name.as_str()));
    Ok(index.transpose()?)
}

fn message(interface: u32, address: Ipv4Addr, hardware: HardwareAddress) -> Vec<u8> {
    let mut body = vec![IPV4, 0, 0, 0];
    body.extend(interface.to_ne_bytes());
    body.extend(STALE.to_ne_bytes());
    body.extend([0, 0]);
    for (kind, value) in [
        (ADDRESS, &address.octets()[..]),
        (HARDWARE_ADDRESS, &hardware.0[..]),
    ] {
        let length = u16::try_from(4 + value.len()).unwrap_or(u16::MAX);
        body.extend(length.to_ne_bytes());
        body.extend(kind.to_ne_bytes());
        body.extend(value);
        body.resize(body.len().next_multiple_of(4), 0);
    }
    let length = u32::try_from(HEADER + body.len()).unwrap_or(u32::MAX);
    let mut message = Vec::new();
    message.extend(length.to_ne_bytes());
    message.extend(NEW_NEIGHBOUR.to_ne_bytes());
    message.extend((REQUEST | ACKNOWLEDGE | REPLACE | CREATE).to_ne_bytes());
    message.extend([0; 8]);
    message.extend(body);
    message
}

/// An acknowledgement is an error with the number 0.
fn outcome(answer: &[u8]) -> io::Result<()> {
    let kind = answer.get(4..).and_then(<[u8]>::first_chunk);
    let number = answer.get(HEADER..).and_then(<[u8]>::first_chunk);
    match (kind.map(|kind| u16::from_ne_bytes(*kind)), number) {
        (Some(ERROR), Some(number)) => match i32::from_ne_bytes(*number) {
            0 => Ok(()),
            number => Err(io::Error::from_raw_os_error(number.wrapping_neg())),
        },
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_hardware_address_has_six_bytes_and_nothing_else() {
        let expected = HardwareAddress([2, 0x42, 0x0a, 0xc1, 1, 2]);
        assert_eq!(HardwareAddress::parse("02:42:0a:c1:01:02"), Some(expected));
        for text in [
            "",
            "02:42:0a:c1:01",
            "02:42:0a:c1:01:02:03",
            "2:42:0a:c1:01:02",
            "02:42:0a:c1:01:+2",
        ] {
            assert_eq!(HardwareAddress::parse(text), None, "{text}");
        }
    }

    #[test]
    fn loopback_is_the_interface_to_itself() {
        let loopback = if_nametoindex("lo").unwrap();
        assert_eq!(interface_to(Ipv4Addr::new(127, 1, 2, 3)).unwrap(), Some(loopback));
    }

    #[test]
    fn what_is_sent_is_as_long_as_it_says() {
        let message = message(
            7,
            Ipv4Addr::new(10, 193, 1, 2),
            HardwareAddress([2, 0x42, 10, 193, 1, 2]),
        );
        assert_eq!(message.len(), 48);
        assert_eq!(message[..4], 48_u32.to_ne_bytes());
        assert_eq!(message[20..24], 7_u32.to_ne_bytes());
        assert_eq!(message[32..36], [10, 193, 1, 2]);
        assert_eq!(message[40..48], [2, 0x42, 10, 193, 1, 2, 0, 0]);
    }

    proptest! {
        #[test]
        fn anything_may_be_answered(answer in prop::collection::vec(any::<u8>(), 0..64)) {
            drop(outcome(&answer));
        }
    }
}
