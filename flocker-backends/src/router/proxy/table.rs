//! What is in force: routes, and where the applications of this node listen.

use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;
use std::net::Ipv4Addr;
use std::net::SocketAddr;
use std::path::Path;

use flocker_model::ApplicationName;
use flocker_model::ExternalPort;
use flocker_model::RouteChange;
use flocker_model::RouteTable;
use serde::Deserialize;
use serde::Serialize;

use super::hop::Hops;
use crate::durable;

/// One consistent answer to all questions of where to connect to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Table {
    pub(super) routes: RouteTable,
    /// Only applications that have a route.
    local: BTreeMap<ApplicationName, IpAddr>,
}

/// What to do with a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Direction {
    /// Connect it to there, from there.
    Connect { to: SocketAddr, from: Option<Ipv4Addr> },
    /// Keep it: there is nowhere to connect it to now.
    Hold,
    /// Nobody owns its port any more.
    Gone,
}

impl Table {
    /// Returns the table after a change.
    pub(super) fn changed(&self, change: &RouteChange, local: &BTreeMap<ApplicationName, IpAddr>) -> Self {
        let mut routes = self.routes.clone();
        routes.apply(change);
        let targets = routes.entries().values();
        let local = targets
            .filter_map(|target| local.get_key_value(&target.application))
            .map(|(application, address)| (application.clone(), *address))
            .collect();
        Self { routes, local }
    }

    /// Drops the routes of some ports.
    pub(super) fn without(&self, ports: impl IntoIterator<Item = ExternalPort>) -> Self {
        let change = RouteChange {
            drop: ports.into_iter().collect(),
            ..RouteChange::default()
        };
        self.changed(&change, &self.local)
    }

    /// Says where a connection to `port` of the node `own` goes.
    pub(super) fn direction(&self, own: IpAddr, port: ExternalPort, hops: Hops) -> Direction {
        let Some(target) = self.routes.get(port) else {
            return Direction::Gone;
        };
        if target.homes.iter().any(|home| home.address == own) {
            return match self.local.get(&target.application) {
                Some(&address) => Direction::Connect {
                    to: SocketAddr::new(address, target.internal.get()),
                    from: None,
                },
                None => Direction::Hold,
            };
        }
        match target.homes.first() {
            Some(home) if hops < Hops::MOST => Direction::Connect {
                to: SocketAddr::new(home.address, port.get()),
                from: hops.next_source(own, home.address),
            },
            Some(_) | None => Direction::Hold,
        }
    }

    /// Reads the table that was last saved; nothing where there is none.
    pub(super) fn load(path: &Path) -> io::Result<Option<Self>> {
        match std::fs::read(path) {
            Ok(text) => Ok(Some(serde_json::from_slice(&text)?)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Replaces the saved table in one step, durably.
    pub(super) fn save(&self, path: &Path) -> io::Result<()> {
        durable::replace(path, 0o600, &serde_json::to_vec(self)?)
    }
}

#[cfg(test)]
mod tests {
    use flocker_model::Home;
    use flocker_model::RouteTarget;

    use super::*;

    const OWN: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2));
    const OTHER: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 3));
    const LISTENS: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 130, 1, 1));

    fn direction(homes: &[IpAddr], is_local: bool, from: IpAddr) -> Direction {
        let port: ExternalPort = "80/udp".parse().unwrap();
        let application: ApplicationName = "web".parse().unwrap();
        let homes = homes.iter().map(|&address| Home {
            node: "node".parse().unwrap(),
            address,
        });
        let target = RouteTarget {
            application: application.clone(),
            internal: flocker_model::PortNumber::new(8080).unwrap(),
            homes: homes.collect(),
        };
        let change = RouteChange {
            set: [(port, target)].into(),
            ..RouteChange::default()
        };
        let local = is_local.then_some((application, LISTENS)).into_iter().collect();
        let table = Table::default().changed(&change, &local);
        table.direction(OWN, port, Hops::of(from))
    }

    #[test]
    fn a_node_among_the_homes_serves_itself_and_any_other_takes_the_first() {
        let client = IpAddr::from([127, 0, 0, 1]);
        let here = Direction::Connect {
            to: SocketAddr::new(LISTENS, 8080),
            from: None,
        };
        let there = Direction::Connect {
            to: SocketAddr::new(OTHER, 80),
            from: Some(Ipv4Addr::new(127, 241, 0, 2)),
        };
        assert_eq!(direction(&[OTHER, OWN], true, client), here);
        assert_eq!(direction(&[OTHER], true, client), there);
        assert_eq!(direction(&[OTHER, OWN], false, client), Direction::Hold);
        assert_eq!(direction(&[], true, client), Direction::Hold);
    }

    #[test]
    fn a_connection_that_went_round_is_served_here_or_held() {
        let passed_on = IpAddr::from([127, 248, 0, 3]);
        assert_eq!(direction(&[OTHER], false, passed_on), Direction::Hold);
        assert!(matches!(
            direction(&[OWN], true, passed_on),
            Direction::Connect { from: None, .. }
        ));
    }

    #[test]
    fn a_port_without_a_route_is_gone() {
        let port = "80".parse().unwrap();
        let hops = Hops::of(OTHER);
        assert_eq!(Table::default().direction(OWN, port, hops), Direction::Gone);
    }
}
