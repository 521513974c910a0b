//! The networks to which this node is attached.

use std::collections::BTreeSet;
use std::fmt;
use std::io;
use std::net::IpAddr;
use std::net::Ipv4Addr;
use std::net::Ipv6Addr;
#[cfg(feature = "iptables")]
use std::net::UdpSocket;
use std::str::FromStr;

use nix::ifaddrs::getifaddrs;
use nix::net::if_::InterfaceFlags;
use nix::sys::socket::SockaddrStorage;

/// A network: addresses that begin with the same bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::router) struct Network {
    first: IpAddr,
    length: u8,
}

/// Returns an address as a number, and how many bits it has.
fn bits(address: IpAddr) -> (u128, u8) {
    match address {
        IpAddr::V4(address) => (address.to_bits().into(), 32),
        IpAddr::V6(address) => (address.to_bits(), 128),
    }
}

impl Network {
    /// Returns the network of an address; nothing where it has not so many bits.
    pub(in crate::router) fn new(address: IpAddr, length: u8) -> Option<Self> {
        let (number, width) = bits(address);
        let rest = width.checked_sub(length)?;
        let kept = u128::MAX.checked_shl(rest.into()).unwrap_or(0);
        let first = match address {
            IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::from_bits(u32::try_from(number & kept).ok()?)),
            IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::from_bits(number & kept)),
        };
        Some(Self { first, length })
    }

    /// Says whether an address belongs to it.
    pub(in crate::router) fn contains(self, address: IpAddr) -> bool {
        Self::new(address, self.length).is_some_and(|network| network.first == self.first)
    }

    #[cfg(feature = "nftables")]
    pub(in crate::router) fn first(self) -> IpAddr {
        self.first
    }

    /// Returns the address after the last; nothing where it reaches to the highest.
    #[cfg(feature = "nftables")]
    pub(in crate::router) fn after_last(self) -> Option<IpAddr> {
        let (number, width) = bits(self.first);
        let size = 1_u128.checked_shl(width.checked_sub(self.length)?.into())?;
        let after = number.checked_add(size)?;
        match self.first {
            IpAddr::V4(_) => Some(IpAddr::V4(Ipv4Addr::from_bits(u32::try_from(after).ok()?))),
            IpAddr::V6(_) => Some(IpAddr::V6(Ipv6Addr::from_bits(after))),
        }
    }

    pub(in crate::router) fn is_ipv4(self) -> bool {
        self.first.is_ipv4()
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.first, self.length)
    }
}

impl FromStr for Network {
    type Err = ();

    /// Reads `10.0.0.0/8`; an address alone is a network of one.
    fn from_str(text: &str) -> Result<Self, ()> {
        let (address, length) = match text.split_once('/') {
            Some((address, length)) => (address, Some(length)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| ())?;
        let length = match length {
            Some(length) => length.parse().map_err(|_| ())?,
            None => bits(address).1,
        };
        let network = Self::new(address, length).ok_or(())?;
        // Any other way to write it is not ours.
        (network.first == address).then_some(network).ok_or(())
    }
}

fn ip(address: Option<SockaddrStorage>) -> Option<IpAddr> {
    let address = address?;
    let v4 = address.as_sockaddr_in().map(|address| IpAddr::V4(address.ip()));
    v4.or_else(|| address.as_sockaddr_in6().map(|address| IpAddr::V6(address.ip())))
}

/// Returns the networks that this node reaches without anybody's help, loopback left out.
///
/// One that lies within another is left out: whoever is in it is in the other, too.
pub(in crate::router) fn networks() -> io::Result<BTreeSet<Network>> {
    let mut networks = BTreeSet::new();
    for interface in getifaddrs()? {
        if interface.flags.contains(InterfaceFlags::IFF_LOOPBACK) {
            continue;
        }
        let (Some(address), Some(mask)) = (ip(interface.address), ip(interface.netmask)) else {
            continue;
        };
        let length = u8::try_from(bits(mask).0.count_ones()).unwrap_or(u8::MAX);
        networks.extend(Network::new(address, length));
    }
    Ok(outermost(&networks))
}

/// Returns the addresses of this node, those of loopback among them.
pub(in crate::router) fn addresses() -> io::Result<BTreeSet<IpAddr>> {
    Ok(getifaddrs()?
        .filter_map(|interface| ip(interface.address))
        .collect())
}

fn outermost(networks: &BTreeSet<Network>) -> BTreeSet<Network> {
    let is_within = |one: &Network| {
        let wider = networks.iter().filter(|other| other.length < one.length);
        wider.clone().any(|other| other.contains(one.first))
    };
    networks
        .iter()
        .filter(|network| !is_within(network))
        .copied()
        .collect()
}

/// Returns the names of the interfaces by which these addresses are reached, loopback left out.
///
/// Nothing is sent: the kernel is asked from where it would.
#[cfg(feature = "iptables")]
pub(in crate::router) fn interfaces_towards(addresses: &BTreeSet<Ipv4Addr>) -> io::Result<BTreeSet<String>> {
    let mut from = BTreeSet::new();
    for address in addresses {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
        // An address to which no way leads now has no interface.
        if socket.connect((*address, 9)).is_ok() {
            from.insert(socket.local_addr()?.ip());
        }
    }
    let interfaces = getifaddrs()?.filter(|interface| {
        !interface.flags.contains(InterfaceFlags::IFF_LOOPBACK)
            && ip(interface.address).is_some_and(|address| from.contains(&address))
    });
    Ok(interfaces.map(|interface| interface.interface_name).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network(text: &str) -> Network {
        text.parse().unwrap()
    }

    #[test]
    fn a_network_contains_what_begins_like_it() {
        let bridge = network("172.18.0.0/16");
        assert!(bridge.contains(IpAddr::from([172, 18, 255, 1])));
        assert!(!bridge.contains(IpAddr::from([172, 19, 0, 1])));
        assert!(network("0.0.0.0/0").contains(IpAddr::from([1, 2, 3, 4])));
        assert!(!network("0.0.0.0/0").contains("::1".parse().unwrap()));
        assert!(network("fd00::/64").contains("fd00::7".parse().unwrap()));
    }

    #[cfg(feature = "nftables")]
    #[test]
    fn a_network_ends_before_the_address_after_its_last() {
        let ends = [
            ("172.18.0.0/16", Some("172.19.0.0")),
            ("10.0.0.255/32", Some("10.0.1.0")),
            ("0.0.0.0/1", Some("128.0.0.0")),
            ("255.255.255.254/32", Some("255.255.255.255")),
            ("fd00::/64", Some("fd00:0:0:1::")),
            ("fd00::1/128", Some("fd00::2")),
            ("::/1", Some("8000::")),
            ("255.255.255.255/32", None),
            ("240.0.0.0/4", None),
            ("0.0.0.0/0", None),
            ("fe00::/7", None),
            ("::/0", None),
        ];
        for (text, end) in ends {
            let end = end.map(|end| end.parse().unwrap());
            assert_eq!(network(text).after_last(), end, "{text}");
        }
    }

    #[test]
    fn a_network_is_read_as_it_is_written() {
        for text in ["10.0.0.0/8", "10.1.2.3/32", "fd00::/64", "::1/128", "0.0.0.0/0"] {
            assert_eq!(network(text).to_string(), text);
        }
        assert_eq!(network("10.1.2.3"), network("10.1.2.3/32"));
        for text in ["10.0.0.1/8", "10.0.0.0/33", "x", "", "10.0.0.0/"] {
            assert!(text.parse::<Network>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_network_within_another_is_left_out() {
        let all = ["10.0.0.0/8", "10.1.0.0/16", "172.18.0.0/16"].map(network).into();
        assert_eq!(
            outermost(&all),
            ["10.0.0.0/8", "172.18.0.0/16"].map(network).into()
        );
    }
}
