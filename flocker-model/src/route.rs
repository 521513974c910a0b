//! Routes: which application a port belongs to, and where that application is.
//!
//! A route says the same on every node. Whether its target is here or
//! elsewhere is for the node that carries it to see, so that one desired table
//! serves the whole cluster and two tables are compared by one number.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use serde::Deserialize;
use serde::Serialize;

use crate::id::ApplicationName;
use crate::id::NodeName;
use crate::number::PortNumber;
use crate::port::ExternalPort;

/// Where connections to a port are to go.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct RouteTarget {
    /// The application that owns the port.
    pub application: ApplicationName,
    /// The port on which the application itself listens, for what is spoken on the port that is routed.
    pub internal: PortNumber,
    /// The nodes on which it is served, in order of name; a node that is among them serves itself, any other takes the first.
    pub homes: Vec<Home>,
}

/// A node that serves an application.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Home {
    /// The node.
    pub node: NodeName,
    /// Where the other nodes reach it.
    pub address: IpAddr,
}

/// What to set and what to drop in a node's routes, in one transaction.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct RouteChange {
    /// Ports to add or to retarget.
    pub set: BTreeMap<ExternalPort, RouteTarget>,
    /// Ports to drop.
    pub drop: BTreeSet<ExternalPort>,
}

impl RouteChange {
    /// Says whether there is nothing to do.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.set.is_empty() && self.drop.is_empty()
    }

    /// Returns the applications to which the new routes lead, one for each port.
    pub fn applications(&self) -> impl Iterator<Item = &ApplicationName> {
        self.set.values().map(|target| &target.application)
    }
}

/// All routes of one node. Cloning is cheap, and so is comparing.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(
    from = "BTreeMap<ExternalPort, RouteTarget>",
    into = "BTreeMap<ExternalPort, RouteTarget>"
)]
pub struct RouteTable {
    entries: Arc<BTreeMap<ExternalPort, RouteTarget>>,
    digest: u64,
}

/// One entry's part in the digest of a table. The parts are added, so that a change costs only what it changes.
fn digest(port: ExternalPort, target: &RouteTarget) -> u64 {
    use std::hash::Hash as _;
    use std::hash::Hasher as _;
    let mut hasher = std::hash::DefaultHasher::new();
    (port, target).hash(&mut hasher);
    hasher.finish()
}

impl RouteTable {
    /// Returns the routes in order of port.
    #[must_use]
    pub fn entries(&self) -> &BTreeMap<ExternalPort, RouteTarget> {
        &self.entries
    }

    /// Returns the target of a port.
    #[must_use]
    pub fn get(&self, port: ExternalPort) -> Option<&RouteTarget> {
        self.entries.get(&port)
    }

    /// Returns a number that two equal tables share, and two different ones almost never do.
    #[must_use]
    pub fn digest(&self) -> u64 {
        self.digest
    }

    /// Says whether two tables are surely different, at the cost of comparing two numbers.
    #[must_use]
    pub fn differs_at_a_glance(&self, other: &Self) -> bool {
        self.digest != other.digest || self.entries.len() != other.entries.len()
    }

    /// Makes a change.
    pub fn apply(&mut self, change: &RouteChange) {
        let entries = Arc::make_mut(&mut self.entries);
        for port in &change.drop {
            if let Some(old) = entries.remove(port) {
                self.digest = self.digest.wrapping_sub(digest(*port, &old));
            }
        }
        for (port, target) in &change.set {
            if let Some(old) = entries.insert(*port, target.clone()) {
                self.digest = self.digest.wrapping_sub(digest(*port, &old));
            }
            self.digest = self.digest.wrapping_add(digest(*port, target));
        }
    }
}

/// Tables that were met before: the nodes of a cluster mostly have the same, and each reports its own.
#[derive(Clone, Debug, Default)]
pub struct KnownTables(BTreeMap<u64, RouteTable>);

impl KnownTables {
    /// Puts an equal table that was met before in the place of this one, so that both stand in memory once.
    pub fn share(&mut self, table: &mut RouteTable) {
        let known = self.0.entry(table.digest).or_insert_with(|| table.clone());
        if known == table {
            *table = known.clone();
        }
    }
}

impl PartialEq for RouteTable {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.entries, &other.entries)
            || (!self.differs_at_a_glance(other) && self.entries == other.entries)
    }
}

impl Eq for RouteTable {}

impl From<BTreeMap<ExternalPort, RouteTarget>> for RouteTable {
    fn from(entries: BTreeMap<ExternalPort, RouteTarget>) -> Self {
        let digest = entries.iter().fold(0, |sum: u64, (port, target)| {
            sum.wrapping_add(digest(*port, target))
        });
        Self {
            entries: Arc::new(entries),
            digest,
        }
    }
}

impl From<RouteTable> for BTreeMap<ExternalPort, RouteTarget> {
    fn from(table: RouteTable) -> Self {
        Arc::unwrap_or_clone(table.entries)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_equal_table_is_shared_and_another_is_not() {
        let table = |internal: u16| {
            let target = RouteTarget {
                application: "web".parse().unwrap(),
                internal: PortNumber::new(internal).unwrap(),
                homes: Vec::new(),
            };
            RouteTable::from(BTreeMap::from([(
                ExternalPort::tcp(PortNumber::new(80).unwrap()),
                target,
            )]))
        };
        let mut known = KnownTables::default();
        let (mut one, mut same, mut other) = (table(1), table(1), table(2));
        for table in [&mut one, &mut same, &mut other] {
            known.share(table);
        }
        assert!(Arc::ptr_eq(&one.entries, &same.entries));
        assert_eq!(other, table(2));
    }
}
