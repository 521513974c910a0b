//! Routes in the kernel, by `nft`: one private table, whose rules are as many for one route as for sixty thousand.
//!
//! A packet finds its port in a map, not in a list of rules, and a change
//! writes only what it changes, in one transaction. Nobody else's rules are
//! touched. What is in force is read from the kernel and nowhere else.
//!
//! Clients on this node reach every port at the node's own address and at
//! `127.0.0.1` (or `::1`) alike; no interface is opened to loopback addresses
//! for that, because the addresses of such a packet are exchanged before it
//! leaves.

mod listing;
mod rules;

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use async_trait::async_trait;
use flocker_model::ApplicationName;
use flocker_model::RouteChange;
use flocker_model::RouteTable;
use tokio::sync::Mutex;

use super::kernel;
use super::kernel::Found;
use super::kernel::connections::Moved;
use super::kernel::neighbours::networks;
use super::kernel::netlink::generation;
use super::kernel::placed::Placed;
use super::kernel::switch;
#[cfg(feature = "iptables")]
use super::passage;
use crate::change::Change;
use crate::process::Program;
use crate::router::Router;
use crate::router::RouterError;

/// Reads a listing of our table, as `nft -j list table inet flocker` prints it, and returns the routes in force.
///
/// `own` is the address of the node on which it was made. For whoever wants
/// to look at such a listing elsewhere; a router reads its own.
pub fn read_listing(own: IpAddr, listing: &[u8]) -> Result<RouteTable, RouterError> {
    Ok(listing::read(own, listing)?.routes())
}

/// Carries connections and datagrams to wherever the routes of a node lead, by rules of the kernel.
///
/// A new connection follows a route as soon as it has changed. Established ones
/// to where an application was are broken: they get a reset as soon as either
/// side says something. While a port has no home yet, the first packet of a connection
/// is dropped rather than refused; the client's own system sends it again
/// after a second, and it goes through once there is a home. Datagrams are dropped
/// until then, and follow a route with the next one that their sender sends.
///
/// It needs the privilege to change the packet filter (`CAP_NET_ADMIN`), turns
/// forwarding on (`net.ipv4.ip_forward`, or its counterpart for IPv6) where
/// something is routed, and no other switch. A node whose firewall of the
/// older kind drops what is forwarded, as Docker's does, gets one rule there
/// that lets our packets pass. Applications must not listen at loopback
/// addresses for clients of other machines.
#[derive(Debug)]
pub struct NftablesRouter {
    own: IpAddr,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// What was found last, and the number of the packet filter's last change at that time.
    known: Option<(u32, Arc<Found>)>,
    /// Connections that are still to be ended.
    owed: BTreeSet<Moved>,
}

fn nft() -> Program {
    Program::new("nft").argument("--json")
}

impl NftablesRouter {
    /// Makes the router of the node with this address. Nothing is asked or changed yet.
    #[must_use]
    pub fn new(node_address: IpAddr) -> Self {
        Self {
            own: node_address,
            state: Mutex::default(),
        }
    }

    /// Asks `nft` whether our rules could be made here. Nothing is changed.
    pub async fn try_out(&self) -> Result<(), RouterError> {
        let program = Program::new("nft").arguments(["--check", "--file", "-"]);
        let rules = rules::whole(self.own, &Placed::default());
        drop(kernel::run(program, &rules, "try out our rules with `nft`").await?);
        Ok(())
    }

    /// Takes all routes back, and everything else that this router has made but forwarding.
    ///
    /// For a node that leaves. Connections that were led somewhere go on until they end.
    pub async fn withdraw(&self) -> Result<Change, RouterError> {
        let mut state = self.state.lock().await;
        let state = &mut *state;
        state.known = None;
        state.owed.clear();
        #[cfg(feature = "iptables")]
        kernel::blocking("take back what lets our packets pass", passage::close).await?;
        if !self.is_there().await? {
            return Ok(Change::AlreadySo);
        }
        drop(self.execute(rules::REMOVAL).await?);
        Ok(Change::Made)
    }

    async fn execute(&self, rules: &str) -> Result<Vec<u8>, RouterError> {
        let program = Program::new("nft").arguments(["--file", "-"]);
        kernel::run(program, rules, "change the routes with `nft`").await
    }

    async fn is_there(&self) -> Result<bool, RouterError> {
        let program = nft().arguments(["list", "tables", "inet"]);
        let tables = kernel::run(program, "", "list the tables of the packet filter").await?;
        listing::has_our_table(&tables)
    }

    async fn list(&self) -> Result<Found, RouterError> {
        // Before the first change there is no table, and looking does not make one.
        if !self.is_there().await? {
            return Ok(Found::default());
        }
        let program = nft().arguments(["list", "table", "inet", rules::TABLE]);
        let listing = kernel::run(program, "", "read the routes with `nft`").await?;
        listing::read(self.own, &listing)
    }

    /// Returns what is in the kernel. It is only listed again where somebody has changed any rule.
    async fn look(&self, state: &mut State) -> Result<Arc<Found>, RouterError> {
        // One message to the kernel and back; a kernel that does not answer is asked for everything each time.
        let before = generation().ok();
        if let Some((known, found)) = &state.known
            && before == Some(*known)
        {
            return Ok(Arc::clone(found));
        }
        let found = Arc::new(self.list().await?);
        // What was changed while it was listed is listed again next time.
        state.known = before
            .filter(|before| generation().ok() == Some(*before))
            .map(|generation| (generation, Arc::clone(&found)));
        Ok(found)
    }

    /// Brings what is wanted into the kernel.
    async fn write(&self, state: &mut State, found: &Found, wanted: Placed) -> Result<(), RouterError> {
        let before = generation().ok();
        let written = if found.is_whole && found.is_in_force {
            self.execute(&rules::difference(&found.placed, &wanted)).await
        } else {
            self.execute(&rules::whole(self.own, &wanted)).await
        };
        state.known = None;
        drop(written?);
        // Exactly one change, ours: what is there now need not be listed.
        let after = generation().ok();
        state.known = before
            .zip(after)
            .filter(|(before, after)| before.wrapping_add(1) == *after)
            .map(|(_, after)| {
                let found = Found {
                    placed: wanted,
                    is_in_force: true,
                    is_whole: true,
                };
                (after, Arc::new(found))
            });
        Ok(())
    }
}

/// Says whether everything besides our table is as it has to be.
async fn is_open(found: &Found) -> Result<bool, RouterError> {
    if !switch::is_forwarding(&found.placed) {
        return Ok(false);
    }
    #[cfg(feature = "iptables")]
    if !found.placed.ends.is_empty() {
        return kernel::blocking("read the rules that let our packets pass", passage::is_open).await;
    }
    Ok(true)
}

#[async_trait]
impl Router for NftablesRouter {
    async fn current(&self) -> Result<RouteTable, RouterError> {
        let mut state = self.state.lock().await;
        let found = self.look(&mut state).await?;
        if is_open(&found).await? {
            Ok(found.routes())
        } else {
            Ok(RouteTable::default())
        }
    }

    async fn apply(
        &self,
        change: &RouteChange,
        local: &BTreeMap<ApplicationName, IpAddr>,
    ) -> Result<Change, RouterError> {
        let mut state = self.state.lock().await;
        let state = &mut *state;
        // What an earlier call was dropped before.
        kernel::end_moved(&mut state.owed).await?;
        let found = self.look(state).await?;
        let is_open = is_open(&found).await?;
        let networks = networks().map_err(|source| RouterError::Io {
            what: "list the networks of this node".into(),
            source,
        })?;
        let wanted = found.placed.changed(self.own, change, local, &networks);
        let is_as_wanted =
            wanted == found.placed && (found.is_whole && found.is_in_force || wanted.is_empty());
        if is_as_wanted && is_open {
            return Ok(Change::AlreadySo);
        }
        kernel::refuse_used_ports(self.own, &found.placed, &wanted)?;
        switch::turn_forwarding_on(&wanted)?;
        #[cfg(feature = "iptables")]
        if !wanted.is_empty() && (!is_open || found.placed.is_empty()) {
            kernel::blocking("let our packets pass", passage::open).await?;
        }
        // Noted before it is done: where this is dropped in between, the next call ends them.
        state.owed = kernel::moved(&found.placed, &wanted);
        if !is_as_wanted {
            self.write(state, &found, wanted).await?;
        }
        kernel::end_moved(&mut state.owed).await?;
        Ok(Change::Made)
    }
}
