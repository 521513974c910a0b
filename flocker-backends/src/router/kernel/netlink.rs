//! Asking the kernel's packet filter.

use std::io;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;

use nix::sys::socket::SockProtocol;

use crate::netlink::Ask;
use crate::netlink::Nested;
use crate::netlink::Netlink;
use crate::netlink::attribute;
use crate::netlink::attributes;

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
            None => Netlink::to(SockProtocol::NetlinkNetFilter)?,
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
