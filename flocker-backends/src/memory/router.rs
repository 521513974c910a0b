//! The twin of a router.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;
use std::net::SocketAddr;
use std::sync::Arc;

use async_trait::async_trait;
use flocker_model::ApplicationName;
use flocker_model::ExternalPort;
use flocker_model::RouteChange;
use flocker_model::RouteTable;
use flocker_model::RouteTarget;

use super::faults::Effect;
use super::faults::Injected;
use super::node::Inject;
use super::node::Machine;
use crate::change::Change;
use crate::router::Router;
use crate::router::RouterError;

/// The routes of a node. Cloning is cheap.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Routes {
    table: RouteTable,
    /// Where each port ends, as it was worked out when its route was set.
    ends: Arc<BTreeMap<ExternalPort, SocketAddr>>,
    foreign: BTreeSet<ExternalPort>,
}

impl Routes {
    fn apply(
        &mut self,
        change: &RouteChange,
        local: &BTreeMap<ApplicationName, IpAddr>,
        node: IpAddr,
    ) -> Result<Change, RouterError> {
        if let Some(port) = change.set.keys().find(|port| self.foreign.contains(port)) {
            return Err(RouterError::PortInUse {
                port: *port,
                source: io::ErrorKind::AddrInUse.into(),
            });
        }
        let before = self.clone();
        let ends = Arc::make_mut(&mut self.ends);
        for port in &change.drop {
            ends.remove(port);
        }
        for (port, target) in &change.set {
            match end(*port, target, local, node) {
                Some(end) => ends.insert(*port, end),
                None => ends.remove(port),
            };
        }
        self.table.apply(change);
        Ok(if *self == before {
            Change::AlreadySo
        } else {
            Change::Made
        })
    }

    /// Loses what a loss of power takes: routes are kept by the kernel, not on the disk.
    pub(super) fn lose_power(&mut self) {
        self.table = RouteTable::default();
        self.ends = Arc::default();
    }
}

fn end(
    port: ExternalPort,
    target: &RouteTarget,
    local: &BTreeMap<ApplicationName, IpAddr>,
    node: IpAddr,
) -> Option<SocketAddr> {
    if target.homes.iter().any(|home| home.address == node) {
        let address = local.get(&target.application)?;
        return Some(SocketAddr::new(*address, target.internal.get()));
    }
    let first = target.homes.first()?;
    Some(SocketAddr::new(first.address, port.get()))
}

/// Routes in memory. Cloning is cheap and gives the same routes.
#[derive(Clone, Debug)]
pub struct MemoryRouter {
    machine: Arc<Machine>,
}

impl Inject for RouterError {
    fn inject(injected: Injected, effect: &Effect) -> Self {
        Self::Io {
            what: format!("make {effect:?}"),
            source: injected.to_io(),
        }
    }
}

impl MemoryRouter {
    pub(super) fn of(machine: Arc<Machine>) -> Self {
        Self { machine }
    }

    /// Gives a port to a program that is not ours.
    pub fn occupy(&self, port: ExternalPort) {
        self.machine.lock().routes.foreign.insert(port);
    }

    /// Takes a port back from a program that is not ours.
    pub fn vacate(&self, port: ExternalPort) {
        self.machine.lock().routes.foreign.remove(&port);
    }

    /// Returns the ports that programs which are not ours have.
    #[must_use]
    pub fn foreign_ports(&self) -> BTreeSet<ExternalPort> {
        self.machine.lock().routes.foreign.clone()
    }

    /// Returns where a connection to a port of this node is sent: to an application here, or to another node.
    #[must_use]
    pub fn ends_at(&self, port: ExternalPort) -> Option<SocketAddr> {
        self.machine.lock().routes.ends.get(&port).copied()
    }
}

#[async_trait]
impl Router for MemoryRouter {
    async fn current(&self) -> Result<RouteTable, RouterError> {
        let life = self.machine.faults.life();
        life.map_err(|injected| RouterError::Io {
            what: "read routes".into(),
            source: injected.to_io(),
        })?;
        Ok(self.machine.lock().routes.table.clone())
    }

    async fn apply(
        &self,
        change: &RouteChange,
        local: &BTreeMap<ApplicationName, IpAddr>,
    ) -> Result<Change, RouterError> {
        let life = self.machine.faults.life();
        let life = life.map_err(|injected| RouterError::inject(injected, &Effect::Route))?;
        let (machine, node) = (&self.machine, self.machine.address);
        let apply = |state: &mut super::node::State| state.routes.apply(change, local, node);
        machine.effect(Effect::Route, &life, apply).await
    }
}
