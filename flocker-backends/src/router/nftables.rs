//! Routes in the kernel, by `nft`: one private table, whose rules are as many for one route as for sixty thousand.
//!
//! A packet finds its port in a map, not in a list of rules, and a change
//! writes only what it changes, in one transaction: a message to the kernel
//! where that takes it, and else a run of `nft`, which also makes the rules. Nobody else's rules are
//! touched. What is in force is read from the kernel and nowhere else.
//!
//! Clients on this node reach every port at the node's own address and at
//! `127.0.0.1` (or `::1`) alike; no interface is opened to loopback addresses
//! for that, because the addresses of such a packet are exchanged before it
//! leaves.

mod batch;
mod dump;
mod element;
mod listing;
mod rules;
mod there;

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;

use async_trait::async_trait;
use flocker_model::ApplicationName;
use flocker_model::RouteChange;
use flocker_model::RouteTable;
use tokio::sync::Mutex;

use self::rules::Difference;
use super::kernel;
use super::kernel::Found;
use super::kernel::Local;
use super::kernel::State;
use super::kernel::neighbours::Network;
use super::kernel::netlink::Kept;
use super::kernel::placed::Placed;
use super::kernel::switch;
#[cfg(feature = "iptables")]
use super::passage;
use crate::change::Change;
use crate::netlink::Netlink;
use crate::process::ProcessError;
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
    state: Mutex<State<Seen>>,
}

/// What was found in the kernel, and what is true as long as that stays so.
#[derive(Debug)]
struct Seen {
    /// The number of the packet filter's last change at that time; nothing where it changed meanwhile.
    generation: Option<u32>,
    found: Found,
    /// For what the ends of all routes were worked out, if they were since it was read.
    around: Option<Around>,
    /// Whether a firewall of the older kind lets our packets pass, once it was asked.
    #[cfg(feature = "iptables")]
    passes: Option<bool>,
}

/// What a change is bound to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Bound {
    /// It is refused where anybody has changed any rule since ours were looked at, and is made after another look.
    ToWhatIsSeen,
    /// Where others change rules all the time.
    ToNothing,
}

/// What the kernel says to a change that is bound to a state that is over.
const CHANGED: i32 = nix::errno::Errno::ERESTART as i32;

/// What the ends of routes depend on besides the routes.
#[derive(Debug, PartialEq, Eq)]
struct Around {
    local: Local,
    networks: BTreeSet<Network>,
}

fn nft() -> Program {
    Program::new("nft").argument("--json")
}

/// Returns the number of the packet filter's last change; nothing where the kernel does not tell.
fn generation(netlink: &Kept) -> Option<u32> {
    netlink.with(Netlink::generation).ok()
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
        let state = self.state.lock().await;
        self.read(&state.netlink).await?.refuse_foreign()
    }

    /// Takes all routes back, and everything else that this router has made but forwarding.
    ///
    /// For a node that leaves. Connections that were led somewhere go on until they end.
    pub async fn withdraw(&self) -> Result<Change, RouterError> {
        let mut state = self.state.lock().await;
        let state = &mut *state;
        state.seen = None;
        state.owed.clear();
        #[cfg(feature = "iptables")]
        passage::close().await?;
        let is_there = match state.netlink.with(dump::has_our_table) {
            Ok(is_there) => is_there,
            Err(error) if dump::is_unknown(&error) => false,
            Err(_) => self.is_listed().await?,
        };
        if !is_there || self.read(&state.netlink).await?.foreign.is_some() {
            return Ok(Change::AlreadySo);
        }
        match self.execute(rules::REMOVAL).await {
            Ok(_) => Ok(Change::Made),
            // The table is in force without the program that made it.
            Err(RouterError::Program {
                what,
                source: ProcessError::NotFound { .. },
            }) => Err(RouterError::Io {
                what: format!(
                    "{what}: the table `inet {}` is there, and the program is not",
                    rules::TABLE
                ),
                source: io::ErrorKind::NotFound.into(),
            }),
            Err(error) => Err(error),
        }
    }

    async fn execute(&self, rules: &str) -> Result<Vec<u8>, RouterError> {
        let program = Program::new("nft").arguments(["--file", "-"]);
        kernel::run(program, rules, "change the routes with `nft`").await
    }

    async fn is_listed(&self) -> Result<bool, RouterError> {
        let program = nft().arguments(["list", "tables", "inet"]);
        let tables = kernel::run(program, "", "list the tables of the packet filter").await?;
        listing::has_our_table(&tables)
    }

    async fn read(&self, netlink: &Kept) -> Result<Found, RouterError> {
        let (own, kept) = (self.own, netlink.clone());
        match kernel::blocking("read the routes", move || dump::read(own, &kept)).await {
            Ok(found) => return Ok(found),
            Err(error) => tracing::debug!(%error, "routes are read by `nft`"),
        }
        if !self.is_listed().await? {
            return Ok(Found::default());
        }
        let program = nft().arguments(["list", "table", "inet", rules::TABLE]);
        let listing = kernel::run(program, "", "read the routes with `nft`").await?;
        listing::read(self.own, &listing)
    }

    /// Returns what is in the kernel. It is only read again where somebody has changed any rule.
    async fn look(&self, seen: Option<Seen>, netlink: &Kept) -> Result<Seen, RouterError> {
        // One message to the kernel and back; a kernel that does not answer is asked for everything each time.
        let before = generation(netlink);
        if let Some(seen) = seen
            && before.is_some()
            && before == seen.generation
        {
            return Ok(seen);
        }
        let found = self.read(netlink).await?;
        Ok(Seen {
            // What was changed while it was read is read again next time.
            generation: before.filter(|before| generation(netlink) == Some(*before)),
            found,
            around: None,
            #[cfg(feature = "iptables")]
            passes: None,
        })
    }

    /// Makes a change once, or nothing of it where somebody else has changed any rule since ours were looked at.
    async fn try_to_apply(
        &self,
        state: &mut State<Seen>,
        change: &RouteChange,
        local: &Local,
        bound: Bound,
    ) -> Result<Option<Change>, RouterError> {
        let mut seen = self.look(state.seen.take(), &state.netlink).await?;
        seen.found.refuse_foreign()?;
        let is_open = seen.is_open(&state.netlink).await?;
        let networks = kernel::networks()?;
        let around = Around {
            local: local.clone(),
            networks,
        };
        let found = &seen.found;
        let is_part = is_open && seen.is_settled(&around);
        let (before, after) = if is_part {
            found.placed.turned(self.own, change, local, &around.networks)
        } else {
            let after = found.placed.changed(self.own, change, local, &around.networks);
            (found.placed.clone(), after)
        };
        let is_as_wanted = before == after && (found.is_whole && found.is_in_force || after.is_empty());
        if is_as_wanted && is_open {
            seen.around = Some(around);
            state.seen = Some(seen);
            return Ok(Some(Change::AlreadySo));
        }
        kernel::refuse_used_ports(self.own, &before, &after)?;
        switch::turn_forwarding_on(&after)?;
        #[cfg(feature = "iptables")]
        if !after.is_empty() && (!is_open || found.placed.is_empty()) {
            passage::open(&state.netlink).await?;
            let before = seen.generation;
            seen.generation = generation(&state.netlink);
            // Where it had to change any rule, it is looked at again.
            seen.passes = (before.is_some() && seen.generation == before).then_some(true);
        }
        // Noted before it is done: where this is dropped in between, the next call ends them.
        state.owed.extend(kernel::moved(&before, &after));
        let n_changes = if is_as_wanted {
            0
        } else {
            let written = self.write(&state.netlink, &seen, bound, &before, &after).await?;
            let Some(n_changes) = written else {
                return Ok(None);
            };
            seen.found.is_whole = true;
            seen.found.is_in_force = true;
            n_changes
        };
        // Exactly as many changes as ours: what is there now need not be read.
        let generation = generation(&state.netlink);
        seen.generation = seen
            .generation
            .map(|before| before.wrapping_add(n_changes))
            .filter(|expected| Some(*expected) == generation);
        if is_part {
            seen.found.placed.replace(change, after);
        } else {
            seen.found.placed = after;
        }
        seen.around = Some(around);
        state.seen = Some(seen);
        Ok(Some(Change::Made))
    }

    /// Brings what is wanted into the kernel, and returns how many changes of the packet filter that took.
    ///
    /// Nothing where it was refused because the packet filter is no longer as it was seen.
    async fn write(
        &self,
        netlink: &Kept,
        seen: &Seen,
        bound: Bound,
        before: &Placed,
        after: &Placed,
    ) -> Result<Option<u32>, RouterError> {
        let found = &seen.found;
        let generation = match bound {
            Bound::ToWhatIsSeen => seen.generation,
            Bound::ToNothing => None,
        };
        if found.is_whole && found.is_in_force {
            let difference = rules::difference(before, after);
            let is_done = self.carry_out(netlink, &difference, generation).await?;
            return Ok(is_done.then_some(1));
        }
        if !found.placed.is_empty() {
            drop(self.execute(&rules::whole(self.own, after)).await?);
            return Ok(Some(1));
        }
        // Where nothing is led yet, nothing is lost between the rules and the routes.
        let empty = Placed::default();
        drop(self.execute(&rules::whole(self.own, &empty)).await?);
        let generation = generation.map(|before| before.wrapping_add(1));
        let difference = rules::difference(&empty, after);
        let is_done = self.carry_out(netlink, &difference, generation).await?;
        Ok(is_done.then_some(2))
    }

    /// Carries a difference out, and says whether it was: it is not where the packet filter has changed since this generation.
    async fn carry_out(
        &self,
        netlink: &Kept,
        difference: &Difference,
        generation: Option<u32>,
    ) -> Result<bool, RouterError> {
        let (batch, netlink) = (difference.batch(generation), netlink.clone());
        match kernel::blocking("change the routes", move || Ok(batch.commit(&netlink))).await? {
            Ok(()) => return Ok(true),
            Err(error) if error.raw_os_error() == Some(CHANGED) => return Ok(false),
            // It is all or nothing, so that `nft` finds everything as it was, and says better what is wrong.
            Err(error) => tracing::debug!(%error, "routes are changed by `nft`"),
        }
        drop(self.execute(&difference.text()).await?);
        Ok(true)
    }
}

impl Seen {
    /// Says whether everything besides our table is as it has to be.
    #[cfg_attr(
        not(feature = "iptables"),
        expect(
            unused_variables,
            clippy::unused_async,
            reason = "there is only the switch to be read"
        )
    )]
    async fn is_open(&mut self, netlink: &Kept) -> Result<bool, RouterError> {
        if !switch::is_forwarding(&self.found.placed) {
            return Ok(false);
        }
        #[cfg(feature = "iptables")]
        if !self.found.placed.is_empty() {
            // The number tells of all rules but those of the oldest kind.
            if let Some(passes) = self.passes
                && !passage::has_oldest_filter()
            {
                return Ok(passes);
            }
            let passes = passage::is_open(netlink).await?;
            self.passes = Some(passes);
            return Ok(passes);
        }
        Ok(true)
    }

    /// Says whether a change concerns no other ports than it names.
    fn is_settled(&self, around: &Around) -> bool {
        let Found {
            placed,
            is_in_force,
            is_whole,
            foreign: _,
        } = &self.found;
        *is_in_force && *is_whole && !placed.is_empty() && self.around.as_ref() == Some(around)
    }
}

#[async_trait]
impl Router for NftablesRouter {
    async fn current(&self) -> Result<RouteTable, RouterError> {
        let mut state = self.state.lock().await;
        let seen = state.seen.take();
        let mut seen = self.look(seen, &state.netlink).await?;
        let is_open = seen.is_open(&state.netlink).await?;
        let seen = state.seen.insert(seen);
        if is_open {
            Ok(seen.found.routes())
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
        state.end_moved().await?;
        for bound in [Bound::ToWhatIsSeen; 4].into_iter().chain([Bound::ToNothing]) {
            if let Some(made) = self.try_to_apply(state, change, local, bound).await? {
                state.end_moved().await?;
                return Ok(made);
            }
        }
        let refused = RouterError::Io {
            what: "change the routes".into(),
            source: io::ErrorKind::Interrupted.into(),
        };
        Err(refused)
    }
}
