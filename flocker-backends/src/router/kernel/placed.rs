//! Routes, and where each of them ends as seen from one node.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::net::SocketAddr;

use flocker_model::ExternalPort;
use flocker_model::RouteChange;
use flocker_model::RouteTable;
use flocker_model::RouteTarget;

use super::Local;
use super::neighbours::Network;
use super::piece::Piece;
use super::piece::Way;

/// Where connections to a port of this node go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::router) enum End {
    /// To an application of this node.
    Here(SocketAddr),
    /// To another node.
    There(SocketAddr),
    /// To nobody yet. Whoever tries is not refused: the first packet is dropped, and comes again by itself.
    Nowhere,
}

impl End {
    /// Works out where a port ends.
    fn of(own: IpAddr, port: ExternalPort, target: &RouteTarget, local: &Local) -> Self {
        if target.homes.iter().any(|home| home.address == own) {
            return match local.get(&target.application) {
                Some(&address) => Self::Here(SocketAddr::new(address, target.internal.get())),
                None => Self::Nowhere,
            };
        }
        match target.homes.first() {
            Some(home) => Self::There(SocketAddr::new(home.address, port.get())),
            None => Self::Nowhere,
        }
    }

    /// Says whether a route can end so.
    pub(super) fn fits(self, own: IpAddr, port: ExternalPort, target: &RouteTarget) -> bool {
        let is_here = target.homes.iter().any(|home| home.address == own);
        match self {
            Self::Here(address) => is_here && address.port() == target.internal.get(),
            Self::There(address) => {
                let first = target.homes.first();
                !is_here && first.is_some_and(|home| SocketAddr::new(home.address, port.get()) == address)
            }
            Self::Nowhere => is_here || target.homes.is_empty(),
        }
    }

    pub(in crate::router) fn address(self) -> Option<SocketAddr> {
        match self {
            Self::Here(address) | Self::There(address) => Some(address),
            Self::Nowhere => None,
        }
    }
}

/// Everything that a kernel router carries.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::router) struct Placed {
    pub(in crate::router) routes: RouteTable,
    /// One for each route.
    pub(in crate::router) ends: BTreeMap<ExternalPort, End>,
    /// The networks of this node in which applications of ours live.
    ///
    /// A client that lives there too would be answered past the router, and is
    /// therefore given the router's own address.
    pub(in crate::router) beside: BTreeSet<Network>,
}

impl Placed {
    /// Returns what is to be carried after a change. `networks` are those of this node.
    pub(in crate::router) fn changed(
        &self,
        own: IpAddr,
        change: &RouteChange,
        local: &Local,
        networks: &BTreeSet<Network>,
    ) -> Self {
        let mut routes = self.routes.clone();
        routes.apply(change);
        let entries = routes.entries().iter();
        let ends: BTreeMap<ExternalPort, End> = entries
            .map(|(port, target)| (*port, End::of(own, *port, target, local)))
            .collect();
        let beside = beside(ends.values().copied(), networks);
        Self { routes, ends, beside }
    }

    /// Returns what a change finds and leaves of the ports that it names, and no other port.
    ///
    /// That is all that changes, where `local` and `networks` are those for which all ends were worked out. It costs
    /// as much as the change is large, and not as the table is.
    #[cfg(feature = "nftables")]
    pub(in crate::router) fn turned(
        &self,
        own: IpAddr,
        change: &RouteChange,
        local: &Local,
        networks: &BTreeSet<Network>,
    ) -> (Self, Self) {
        let ports: BTreeSet<ExternalPort> = change.set.keys().chain(&change.drop).copied().collect();
        let routes = ports
            .iter()
            .filter_map(|port| Some((*port, self.routes.get(*port)?.clone())));
        let ends = ports
            .iter()
            .filter_map(|port| Some((*port, *self.ends.get(port)?)));
        let before = Self {
            routes: routes.collect::<BTreeMap<_, _>>().into(),
            ends: ends.collect(),
            beside: self.beside.clone(),
        };
        let mut after = before.changed(own, change, local, networks);
        let is_here = |placed: &Self| placed.ends.values().any(|end| end.here().is_some());
        after.beside = if is_here(&before) || is_here(&after) {
            let others = self.ends.iter().filter(|(port, _)| !ports.contains(port));
            beside(others.chain(&after.ends).map(|(_, end)| *end), networks)
        } else {
            before.beside.clone()
        };
        (before, after)
    }

    /// Puts what [`Self::turned`] has left in the place of what it has found.
    #[cfg(feature = "nftables")]
    pub(in crate::router) fn replace(&mut self, change: &RouteChange, after: Self) {
        let Self {
            routes: _,
            ends,
            beside,
        } = after;
        self.routes.apply(change);
        for port in &change.drop {
            self.ends.remove(port);
        }
        self.ends.extend(ends);
        self.beside = beside;
    }

    /// Returns the pieces of which one route consists.
    fn pieces_of(&self, port: ExternalPort) -> Vec<Piece> {
        let (Some(target), Some(end)) = (self.routes.get(port), self.ends.get(&port)) else {
            return Vec::new();
        };
        let mut pieces = Piece::record(port, target);
        pieces.push(match *end {
            End::Here(to) => Piece::End {
                port,
                to,
                way: Way::Here,
            },
            End::There(to) => Piece::End {
                port,
                to,
                way: Way::There,
            },
            End::Nowhere => Piece::Held { port },
        });
        pieces
    }

    /// Returns all pieces, in order.
    pub(in crate::router) fn pieces(&self) -> BTreeSet<Piece> {
        let routes = self.ends.keys().flat_map(|port| self.pieces_of(*port));
        let networks = self
            .beside
            .iter()
            .map(|network| Piece::Beside { network: *network });
        routes.chain(networks).collect()
    }

    /// Returns the pieces that are only in `self`, at the cost of comparing routes and not pieces.
    #[cfg(feature = "nftables")]
    pub(in crate::router) fn pieces_without(&self, other: &Self) -> BTreeSet<Piece> {
        let differs = |port: &&ExternalPort| {
            self.routes.get(**port) != other.routes.get(**port) || self.ends.get(port) != other.ends.get(port)
        };
        let mut pieces: BTreeSet<Piece> = BTreeSet::new();
        for port in self.ends.keys().filter(differs) {
            let theirs = other.pieces_of(*port);
            let own = self.pieces_of(*port);
            pieces.extend(own.into_iter().filter(|piece| !theirs.contains(piece)));
        }
        let networks = self.beside.difference(&other.beside);
        pieces.extend(networks.map(|network| Piece::Beside { network: *network }));
        pieces
    }

    /// Puts pieces together, and says whether there were these and no others.
    ///
    /// A route of which a piece lacks, or that contradicts itself, is left out.
    pub(in crate::router) fn of(own: IpAddr, pieces: &BTreeSet<Piece>) -> (Self, bool) {
        let mut ends = BTreeMap::new();
        let mut beside = BTreeSet::new();
        for piece in pieces {
            match piece {
                Piece::Record { .. } => {}
                Piece::End { port, to, way } => {
                    let end = match way {
                        Way::Here => End::Here(*to),
                        Way::There => End::There(*to),
                    };
                    ends.insert(*port, end);
                }
                Piece::Held { port } => drop(ends.insert(*port, End::Nowhere)),
                Piece::Beside { network } => drop(beside.insert(*network)),
            }
        }
        let records = Piece::read_records(pieces);
        let told: BTreeMap<ExternalPort, RouteTarget> = records
            .into_iter()
            .filter(|(port, target)| ends.get(port).is_some_and(|end| end.fits(own, *port, target)))
            .collect();
        ends.retain(|port, _| told.contains_key(port));
        let placed = Self {
            routes: told.into(),
            ends,
            beside,
        };
        let is_whole = placed.pieces() == *pieces;
        (placed, is_whole)
    }

    /// Says whether there is no route.
    #[cfg(feature = "nftables")]
    pub(in crate::router) fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// Says whether anything ends at an address of this kind.
    pub(in crate::router) fn has(&self, kind: fn(&IpAddr) -> bool) -> bool {
        let mut ends = self.ends.values().filter_map(|end| end.address());
        ends.any(|address| kind(&address.ip()))
    }
}

impl End {
    fn here(self) -> Option<IpAddr> {
        match self {
            Self::Here(address) => Some(address.ip()),
            Self::There(_) | Self::Nowhere => None,
        }
    }
}

/// Returns the networks in which anything of this node ends.
fn beside(ends: impl Iterator<Item = End>, networks: &BTreeSet<Network>) -> BTreeSet<Network> {
    let here: BTreeSet<IpAddr> = ends.filter_map(End::here).collect();
    let is_beside = |network: &&Network| here.iter().any(|address| network.contains(*address));
    networks.iter().filter(is_beside).copied().collect()
}

#[cfg(test)]
mod tests {
    use flocker_model::ApplicationName;
    use flocker_model::Home;
    use flocker_model::PortNumber;
    use flocker_model::Protocol;
    use proptest::prelude::*;

    use super::*;

    fn own() -> IpAddr {
        IpAddr::from([10, 0, 0, 1])
    }

    fn target(application: &str, homes: &[IpAddr]) -> RouteTarget {
        let homes = homes.iter().enumerate().map(|(n, address)| Home {
            node: format!("node-{n}.example.org").parse().unwrap(),
            address: *address,
        });
        RouteTarget {
            application: application.parse().unwrap(),
            internal: PortNumber::new(8080).unwrap(),
            homes: homes.collect(),
        }
    }

    fn any_placed() -> impl Strategy<Value = Placed> {
        let home = prop_oneof![
            Just(own()),
            any::<[u8; 4]>().prop_map(IpAddr::from),
            any::<[u8; 16]>().prop_map(IpAddr::from),
        ];
        let homes = prop::collection::vec(home, 0..12);
        let route = ("[a-z][a-z0-9_.-]{0,62}", homes).prop_map(|(name, homes)| target(&name, &homes));
        let protocol = prop_oneof![Just(Protocol::Tcp), Just(Protocol::Udp)];
        let port = (1..=u16::MAX, protocol).prop_map(|(number, protocol)| ExternalPort {
            number: PortNumber::new(number).unwrap(),
            protocol,
        });
        let routes = prop::collection::btree_map(port, route, 0..8);
        (routes, any::<bool>()).prop_map(|(set, is_local)| {
            let names = set.values().map(|target| target.application.clone());
            let local: Local = names
                .filter(|_| is_local)
                .map(|name| (name, IpAddr::from([172, 18, 0, 2])))
                .collect();
            let change = RouteChange {
                set,
                ..RouteChange::default()
            };
            let network = Network::new(IpAddr::from([172, 18, 0, 0]), 16).unwrap();
            Placed::default().changed(own(), &change, &local, &[network].into())
        })
    }

    proptest! {
        #[test]
        fn what_is_taken_to_pieces_is_put_together_again(placed in any_placed()) {
            prop_assert_eq!(Placed::of(own(), &placed.pieces()), (placed, true));
        }

        #[test]
        fn a_route_that_lacks_a_piece_is_not_told(placed in any_placed(), n in any::<prop::sample::Index>()) {
            let mut pieces = placed.pieces();
            prop_assume!(!placed.ends.is_empty());
            let piece = pieces.iter().nth(n.index(pieces.len())).unwrap().clone();
            pieces.remove(&piece);
            let (told, is_whole) = Placed::of(own(), &pieces);
            match piece {
                Piece::Record { port, .. } | Piece::End { port, .. } | Piece::Held { port } => {
                    prop_assert_eq!(told.routes.get(port), None);
                    prop_assert!(!is_whole);
                }
                Piece::Beside { .. } => prop_assert_eq!(told.routes, placed.routes),
            }
        }

        #[cfg(feature = "nftables")]
        #[test]
        fn what_a_change_turns_is_all_that_it_changes(placed in any_placed(), other in any_placed(), is_local in any::<bool>()) {
            let entries = placed.routes.entries().iter().chain(other.routes.entries());
            let local: Local = entries
                .filter(|_| is_local)
                .map(|(_, target)| (target.application.clone(), IpAddr::from([172, 18, 0, 2])))
                .collect();
            let networks = [Network::new(IpAddr::from([172, 18, 0, 0]), 16).unwrap()].into();
            let mut placed = placed.changed(own(), &RouteChange::default(), &local, &networks);
            let change = RouteChange {
                set: other.routes.entries().clone(),
                drop: placed.routes.entries().keys().copied().step_by(2).collect(),
            };
            let expected = placed.changed(own(), &change, &local, &networks);
            let (before, after) = placed.turned(own(), &change, &local, &networks);
            let difference = (placed.pieces_without(&expected), expected.pieces_without(&placed));
            prop_assert_eq!((before.pieces_without(&after), after.pieces_without(&before)), difference);
            placed.replace(&change, after);
            prop_assert_eq!(placed, expected);
        }

        #[cfg(feature = "nftables")]
        #[test]
        fn a_difference_leads_from_one_to_the_other(one in any_placed(), other in any_placed()) {
            let mut pieces = one.pieces();
            for piece in one.pieces_without(&other) {
                prop_assert!(pieces.remove(&piece));
            }
            for piece in other.pieces_without(&one) {
                prop_assert!(pieces.insert(piece));
            }
            prop_assert_eq!(pieces, other.pieces());
        }
    }

    #[test]
    fn a_node_among_the_homes_serves_itself_and_any_other_takes_the_first() {
        let other = IpAddr::from([10, 0, 0, 2]);
        let listens = IpAddr::from([172, 18, 0, 2]);
        let port: ExternalPort = "80/udp".parse().unwrap();
        let name: ApplicationName = "site".parse().unwrap();
        let local: Local = [(name, listens)].into();
        let end = |homes: &[IpAddr], local: &Local| End::of(own(), port, &target("site", homes), local);
        assert_eq!(end(&[other, own()], &local), End::Here((listens, 8080).into()));
        assert_eq!(end(&[other, listens], &local), End::There((other, 80).into()));
        assert_eq!(end(&[own()], &Local::new()), End::Nowhere);
        assert_eq!(end(&[], &local), End::Nowhere);
    }

    #[test]
    fn a_piece_that_belongs_to_no_route_is_noticed() {
        let port: ExternalPort = "80/udp".parse().unwrap();
        let stray = [Piece::Held { port }].into();
        assert_eq!(Placed::of(own(), &stray), (Placed::default(), false));
    }
}
