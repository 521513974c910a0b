//! How often a connection has been passed on, carried where nothing has to be added to its bytes.
//!
//! Nodes whose tables disagree for a moment could pass a connection round for
//! ever. On loopback, where local nodes live, a router therefore connects from
//! `127.(240+hops).a.b`; `a.b` is taken from its own address, for people who
//! look. Between real machines the source address cannot be chosen, and a loop
//! is bounded only by the limit on connections.

use std::net::IpAddr;
use std::net::Ipv4Addr;
use std::time::Duration;

/// How often a connection was passed on from one node to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Hops(u8);

impl Hops {
    /// With so many it is not passed on any more.
    pub(super) const MOST: Self = Self(8);

    const FIRST_OCTET: u8 = 240;

    /// Reads the hops from where a connection comes from.
    pub(super) fn of(source: IpAddr) -> Self {
        match source {
            IpAddr::V4(address) => match address.octets() {
                [127, octet, _, _] => Self(octet.saturating_sub(Self::FIRST_OCTET)),
                _ => Self(0),
            },
            IpAddr::V6(_) => Self(0),
        }
    }

    /// Returns how long to wait before it is passed on once more.
    ///
    /// Two hops are what a move of the application explains. Who comes round
    /// more often meets tables that disagree, and waits longer each time for
    /// them to agree, so that it is not out of hops when they do.
    pub(super) fn pause(self) -> Duration {
        match self.0.checked_sub(2) {
            None => Duration::ZERO,
            Some(more) => Duration::from_millis(4 << more.min(6)),
        }
    }

    /// Returns where a connection has to come from when it is passed on once more; nothing off loopback.
    pub(super) fn next_source(self, from: IpAddr, to: IpAddr) -> Option<Ipv4Addr> {
        match (from, to) {
            (IpAddr::V4(from), IpAddr::V4(to)) if from.is_loopback() && to.is_loopback() => {
                let [_, _, third, fourth] = from.octets();
                let octet = Self::FIRST_OCTET.saturating_add(self.0).saturating_add(1);
                Some(Ipv4Addr::new(127, octet, third, fourth))
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hops_add_up_from_node_to_node() {
        let [alpha, beta]: [IpAddr; 2] = [[127, 0, 0, 2], [127, 0, 0, 3]].map(Into::into);
        let mut hops = Hops::of(IpAddr::from([127, 0, 0, 1]));
        assert_eq!(hops, Hops(0));
        for expected in 1..=8 {
            let source = hops.next_source(alpha, beta).unwrap();
            assert_eq!(source, Ipv4Addr::new(127, 240 + expected, 0, 2));
            hops = Hops::of(source.into());
            assert_eq!(hops, Hops(expected));
        }
        assert_eq!(hops, Hops::MOST);
    }

    #[test]
    fn who_comes_round_again_waits_longer() {
        let pauses: Vec<u128> = (0..9).map(|hops| Hops(hops).pause().as_millis()).collect();
        assert_eq!(pauses, [0, 0, 4, 8, 16, 32, 64, 128, 256]);
    }

    #[test]
    fn other_machines_are_connected_from_wherever_the_route_leads() {
        let [alpha, real]: [IpAddr; 2] = [[127, 0, 0, 2], [192, 0, 2, 1]].map(Into::into);
        assert_eq!(Hops(0).next_source(alpha, real), None);
        assert_eq!(Hops(0).next_source(real, alpha), None);
        assert_eq!(Hops::of(real), Hops(0));
        assert_eq!(Hops::of("::1".parse().unwrap()), Hops(0));
    }
}
