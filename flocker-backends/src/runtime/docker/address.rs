//! Where containers are, and what their links stand for.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;
use std::net::Ipv4Addr;
use std::str::FromStr;

use flocker_model::ApplicationName;
use flocker_model::Link;
use flocker_model::PortNumber;
use thiserror::Error;

use crate::links;
use crate::links::link_address;

/// The addresses of a network: `10.193.0.0/16`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subnet {
    base: Ipv4Addr,
    prefix: u8,
}

/// Why a text is not a subnet.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("`{0}` is not a subnet: it must have the form `10.193.0.0/16`, with a prefix from 8 to 28")]
pub struct SubnetError(Box<str>);

impl FromStr for Subnet {
    type Err = SubnetError;

    fn from_str(text: &str) -> Result<Self, SubnetError> {
        let parse = || {
            let (base, prefix) = text.split_once('/')?;
            let (base, prefix) = (base.parse().ok()?, prefix.parse().ok()?);
            let subnet = Self { base, prefix };
            let is_right = (8..=28).contains(&prefix) && u32::from(base).is_multiple_of(subnet.size());
            is_right.then_some(subnet)
        };
        parse().ok_or_else(|| SubnetError(text.chars().take(80).collect::<String>().into()))
    }
}

impl fmt::Display for Subnet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.base, self.prefix)
    }
}

impl Subnet {
    /// 65 534 addresses of a private range that engines do not take by themselves.
    pub(super) const DEFAULT: Self = Self {
        base: links::CONTAINERS.0,
        prefix: links::CONTAINERS.1,
    };

    fn size(self) -> u32 {
        1 << (32 - u32::from(self.prefix))
    }

    /// The node's own address in the network.
    pub(super) fn gateway(self) -> Ipv4Addr {
        Ipv4Addr::from(u32::from(self.base) + 1)
    }

    /// Returns an address for a container: the same as before where nobody has taken it. Nothing where none is left.
    pub(super) fn choose(self, container: &str, taken: &BTreeSet<Ipv4Addr>) -> Option<Ipv4Addr> {
        // The first is the network's, the second the node's, the last one the broadcast's.
        let usable = self.size() - 3;
        let [first, second, third, fourth, ..] = *blake3::hash(container.as_bytes()).as_bytes();
        let start = u32::from_be_bytes([first, second, third, fourth]) % usable;
        (0..usable)
            .map(|step| Ipv4Addr::from(u32::from(self.base) + 2 + (start + step) % usable))
            .find(|address| !taken.contains(address))
    }
}

/// Returns the alias names of an application with the addresses that they stand for, as `/etc/hosts` has them.
///
/// Where one alias has several links, they must all have the same port on
/// both sides, or the same number of external port: one address cannot lead to
/// two applications by one protocol. An alias of which that is not true is left
/// out, so that it is missed instead of leading to the wrong one.
pub(super) fn hosts(links: &[Link], node: IpAddr, network: Ipv4Addr) -> Vec<(ApplicationName, IpAddr)> {
    let mut by_alias: BTreeMap<&ApplicationName, Vec<&Link>> = BTreeMap::new();
    for link in links {
        by_alias.entry(&link.alias).or_default().push(link);
    }
    let address = |alias: &ApplicationName, links: &[&Link]| {
        let numbers: BTreeSet<PortNumber> = links.iter().map(|link| link.remote_port.number).collect();
        if links
            .iter()
            .all(|link| link.local_port == link.remote_port.number)
        {
            Some(node)
        } else if let Some(number) = numbers.first().filter(|_| numbers.len() == 1) {
            Some(link_address(network, *number).into())
        } else {
            tracing::warn!(%alias, "an alias with links to several ports cannot be reached by its name");
            None
        }
    };
    by_alias
        .into_iter()
        .filter_map(|(alias, links)| Some((alias.clone(), address(alias, &links)?)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subnet_is_read_strictly() {
        for text in ["10.193.0.0/16", "10.0.0.0/8", "192.168.7.16/28"] {
            assert_eq!(text.parse::<Subnet>().unwrap().to_string(), text);
        }
        for text in [
            "",
            "10.193.0.0",
            "10.193.0.1/16",
            "10.0.0.0/7",
            "10.0.0.0/29",
            "10.0.0.0/x",
            "::/64",
        ] {
            assert!(text.parse::<Subnet>().is_err(), "{text}");
        }
        assert_eq!("10.193.0.0/16".parse(), Ok(Subnet::DEFAULT));
    }

    #[test]
    fn every_container_gets_its_own_address_until_none_is_left() {
        let subnet: Subnet = "10.9.8.16/28".parse().unwrap();
        let mut taken = BTreeSet::new();
        for number in 0..13 {
            let address = subnet.choose(&format!("flocker--{number}"), &taken).unwrap();
            assert!(taken.insert(address), "{address} twice");
        }
        let reserved = [16, 17, 31].map(|last| Ipv4Addr::new(10, 9, 8, last));
        assert!(reserved.iter().all(|address| !taken.contains(address)));
        assert_eq!(subnet.choose("flocker--one-more", &taken), None);
        let again = subnet.choose("flocker--web", &BTreeSet::new());
        assert_eq!(again, subnet.choose("flocker--web", &BTreeSet::new()));
    }

    #[test]
    fn an_alias_leads_to_the_node_or_to_the_address_of_the_port() {
        let node = IpAddr::from([192, 0, 2, 7]);
        let network = Ipv4Addr::new(10, 194, 0, 0);
        let link = |alias: &str, local, remote: &str| Link {
            local_port: PortNumber::new(local).unwrap(),
            remote_port: remote.parse().unwrap(),
            alias: alias.parse().unwrap(),
        };
        let links = [
            link("es", 9200, "9200"),
            link("es", 9300, "9300"),
            link("db", 5432, "5433"),
            link("dns", 53, "5353"),
            link("dns", 53, "5353/udp"),
            link("log", 514, "514/udp"),
            link("two", 80, "8080"),
            link("two", 81, "8081/udp"),
        ];
        let expected = [
            ("db".parse().unwrap(), IpAddr::from([10, 194, 21, 57])),
            ("dns".parse().unwrap(), IpAddr::from([10, 194, 20, 233])),
            ("es".parse().unwrap(), node),
            ("log".parse().unwrap(), node),
        ];
        assert_eq!(hosts(&links, node, network), expected);
    }
}
