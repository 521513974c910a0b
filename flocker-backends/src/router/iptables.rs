//! Routes in the kernel, by `iptables`: for hosts that have no `nft`.
//!
//! Chains of our own, to which one rule leads from each built-in chain that
//! they have to do with. A change is one run of `iptables-restore --noflush`: it takes out and adds
//! the rules of a few routes, or replaces the whole content of our chains. Nobody else's rules are touched. What is in
//! force is read from the kernel and nowhere else, and read again where somebody has changed any rule since.
//!
//! The cost of a first packet grows with the number of routes; that of every
//! other packet does not. Where there are thousands, prefer
//! [`NftablesRouter`](super::nftables::NftablesRouter).

pub(super) mod hooks;
mod localnet;
mod rules;
mod save;
mod text;

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;

use async_trait::async_trait;
use flocker_model::ApplicationName;
use flocker_model::RouteChange;
use flocker_model::RouteTable;
use tokio::sync::Mutex;

use self::hooks::Hook;
use self::hooks::Tool;
use self::rules::CHAINS;
use self::rules::Family;
use self::save::Saved;
use super::kernel;
use super::kernel::Found;
use super::kernel::State;
use super::kernel::netlink::GET_CHAIN;
use super::kernel::netlink::Kept;
use super::kernel::piece::Piece;
use super::kernel::placed::Placed;
use super::kernel::switch;
use super::kernel::switch::has_oldest_tables;
use crate::change::Change;
use crate::netlink::Netlink;
use crate::process::ProcessError;
use crate::process::Program;
use crate::router::Router;
use crate::router::RouterError;

/// Which of the programs called `iptables` to use. The same must be used by everybody on a host.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Variant {
    /// The one that the host has made its own.
    #[default]
    Host,
    /// The one that writes rules for the newer packet filter.
    Nft,
    /// The one that writes rules for the older.
    Legacy,
}

impl Variant {
    fn tool(self, family: Family) -> Tool {
        match (self, family) {
            (Self::Host, Family::V4) => Tool::HOST_V4,
            (Self::Host, Family::V6) => Tool::HOST_V6,
            (Self::Nft, Family::V4) => Tool::NFT_V4,
            (Self::Nft, Family::V6) => Tool::NFT_V6,
            (Self::Legacy, Family::V4) => Tool::LEGACY_V4,
            (Self::Legacy, Family::V6) => Tool::LEGACY_V6,
        }
    }

    fn save(self, family: Family) -> Program {
        Program::new(format!("{}-save", self.tool(family).name()))
    }

    fn restore(self, family: Family) -> Program {
        Program::new(format!("{}-restore", self.tool(family).name()))
            .argument("--noflush")
            .arguments(hooks::WAIT)
    }
}

/// Reads what `iptables-save` prints and returns the routes in force by it; for IPv6, what `ip6tables-save` prints.
///
/// `own` is the address of the node on which it was printed; its kind says
/// which of both it is. For whoever wants to look at such rules elsewhere; a
/// router reads its own.
#[must_use]
pub fn read_saved(own: IpAddr, saved: &str) -> RouteTable {
    let family = Family::of(own);
    assemble(own, &[(family, save::read(family, saved))].into()).routes()
}

/// Carries connections and datagrams to wherever the routes of a node lead, by rules of `iptables`.
///
/// It keeps the promises of
/// [`NftablesRouter`](super::nftables::NftablesRouter), with these
/// differences. Each table changes in one step, but not all of them in the
/// same; a port is held in between. Clients at `127.0.0.1` need
/// `net.ipv4.conf.*.route_localnet`, which is turned on for the interfaces by
/// which an application is reached and no other, and off again where it is no longer needed; what then comes in there
/// with a loopback address is dropped by a rule of ours, which is there before and stays until after. Where somebody
/// else removes that rule, nothing stops it before this router looks again: it then turns the switch off until the rule
/// is back.
/// Clients at `::1` are refused. Connections of ours carry two bits of the
/// connection mark, `0x3000000`.
#[derive(Debug)]
pub struct IptablesRouter {
    own: IpAddr,
    variant: Variant,
    state: Mutex<State<Seen>>,
}

/// What was found in the kernel.
#[derive(Debug)]
struct Seen {
    /// The number of the packet filter's last change at that time; nothing where it changed meanwhile, or does not count.
    generation: Option<u32>,
    tables: Tables,
    found: Found,
}

/// The chain of the table `nat` by which connections come to ours.
const ENTRANCE: &str = "FLOCKER-ENTER";

/// Says whether our chains are there, where `nf_tables` knows of them: of the oldest tables nothing but their program tells.
fn are_in_force(netlink: &Kept) -> bool {
    let names = [(1, "nat"), (3, ENTRANCE)];
    let is_there = |family: u8| netlink.with(|netlink| netlink.has(GET_CHAIN, family, &names));
    // The kinds of addresses, as the kernel counts them.
    [2, 10]
        .into_iter()
        .any(|family| is_there(family).unwrap_or(false))
}

/// What was found, by kind of addresses. A kind for which there is no program is left out.
type Tables = BTreeMap<Family, Saved>;

impl IptablesRouter {
    /// Makes the router of the node with this address. Nothing is asked or changed yet.
    #[must_use]
    pub fn new(node_address: IpAddr, variant: Variant) -> Self {
        Self {
            own: node_address,
            variant,
            state: Mutex::default(),
        }
    }

    /// Asks `iptables` whether our rules could be made here. Nothing is changed.
    pub async fn try_out(&self) -> Result<(), RouterError> {
        let family = Family::of(self.own);
        let program = self.variant.restore(family).argument("--test");
        let rules = text::whole(family, &BTreeSet::new(), &BTreeSet::new(), &[]);
        drop(kernel::run(program, &rules, "try out our rules with `iptables`").await?);
        assemble(self.own, &self.tables().await?).refuse_foreign()
    }

    /// Takes all routes back, and everything else that this router has made but forwarding.
    ///
    /// For a node that leaves. Connections that were led somewhere go on until they end.
    pub async fn withdraw(&self) -> Result<Change, RouterError> {
        let mut state = self.state.lock().await;
        state.owed.clear();
        state.seen = None;
        // Before the guard goes, and also where the programs have gone or somebody has removed our rules.
        let mut change = if localnet::close()? {
            Change::Made
        } else {
            Change::AlreadySo
        };
        let tables = match self.tables().await {
            // Our chains are in force without the program that made them.
            Err(RouterError::Program {
                what,
                source: ProcessError::NotFound { .. },
            }) if are_in_force(&state.netlink) => {
                return Err(RouterError::Io {
                    what: format!(
                        "{what}: the chain `{ENTRANCE}` is there, and the program is not; install it again, or delete our chains"
                    ),
                    source: io::ErrorKind::NotFound.into(),
                });
            }
            tables => tables?,
        };
        for (family, saved) in tables {
            if !saved.is_there {
                continue;
            }
            change = Change::Made;
            let tool = self.variant.tool(family);
            for (name, hook) in all_hooks(family, &saved) {
                if is_hooked(&saved, name, &hook) {
                    tool.remove(&hook).await?;
                }
            }
            let program = self.variant.restore(family);
            drop(kernel::run(program, &text::removal(&saved.foreign), "remove our chains").await?);
        }
        Ok(change)
    }

    async fn tables(&self) -> Result<Tables, RouterError> {
        let mut tables = Tables::new();
        for family in Family::ALL {
            let read = kernel::run(
                self.variant.save(family),
                "",
                "read the routes with `iptables-save`",
            )
            .await;
            match read {
                Ok(text) => {
                    let saved = save::read(family, &String::from_utf8_lossy(&text));
                    tables.insert(family, saved);
                }
                // A host may well have the programs for its own kind of addresses only.
                Err(error) if family != Family::of(self.own) => {
                    tracing::debug!(?family, %error, "there are no rules for addresses of this kind");
                }
                Err(error) => return Err(error),
            }
        }
        Ok(tables)
    }

    /// Returns the number of the packet filter's last change; nothing where not every change of our rules counts.
    fn generation(&self, netlink: &Kept) -> Option<u32> {
        let is_counted = match self.variant {
            Variant::Host => !has_oldest_tables(&CHAINS.map(|(table, _)| table)),
            Variant::Nft => true,
            Variant::Legacy => false,
        };
        netlink.with(Netlink::generation).ok().filter(|_| is_counted)
    }

    /// Returns what is in the kernel. It is only read again where somebody has changed any rule.
    async fn look(&self, seen: Option<Seen>, netlink: &Kept) -> Result<Seen, RouterError> {
        let before = self.generation(netlink);
        if let Some(seen) = seen
            && before.is_some()
            && before == seen.generation
        {
            return Ok(seen);
        }
        let tables = self.tables().await?;
        if !is_guarded(&tables) && localnet::close()? {
            tracing::warn!(
                "somebody has removed the rules that keep neighbours from 127.0.0.1: interfaces are closed to such addresses until the next change"
            );
        }
        Ok(Seen {
            generation: before.filter(|before| self.generation(netlink) == Some(*before)),
            found: assemble(self.own, &tables),
            tables,
        })
    }

    /// Writes our chains for one kind of addresses, and what leads to them, and returns how many changes that takes.
    ///
    /// Nothing where that is not known.
    async fn write(
        &self,
        family: Family,
        saved: &Saved,
        wanted: &BTreeSet<Piece>,
    ) -> Result<Option<u32>, RouterError> {
        if is_in_force(family, saved)
            && let Some(rules) = text::difference(family, &saved.pieces, wanted)
        {
            match self.restore(family, &rules).await {
                Ok(()) => return Ok(text::n_changes(&rules)),
                // A rule that was to go may be gone already.
                Err(error) => tracing::debug!(%error, "our chains are written anew"),
            }
            let rules = text::whole(family, &saved.pieces, wanted, &[]);
            self.restore(family, &rules).await?;
            return Ok(None);
        }
        let missing: Vec<Hook> = all_hooks(family, saved)
            .into_iter()
            .filter(|(name, hook)| !is_hooked(saved, name, hook))
            .map(|(_, hook)| hook)
            .collect();
        let rules = text::whole(family, &saved.pieces, wanted, &missing);
        self.restore(family, &rules).await?;
        Ok(text::n_changes(&rules))
    }

    async fn restore(&self, family: Family, rules: &str) -> Result<(), RouterError> {
        let program = self.variant.restore(family);
        drop(kernel::run(program, rules, "change the routes with `iptables-restore`").await?);
        Ok(())
    }
}

impl Saved {
    /// Returns what is there once these pieces and all that leads to them were written.
    fn written(mut self, family: Family, pieces: BTreeSet<Piece>) -> Self {
        for (name, hook) in all_hooks(family, &self) {
            let Hook { table, chain, .. } = hook;
            self.hooks
                .insert((table.to_owned(), chain.to_owned(), name.to_owned()));
        }
        Self {
            pieces,
            hooks: self.hooks,
            foreign: self.foreign,
            is_there: true,
            has_docker: self.has_docker,
            guard: match family {
                Family::V4 => rules::GUARD.into(),
                Family::V6 => BTreeSet::new(),
            },
            is_whole: true,
        }
    }
}

fn all_hooks(family: Family, saved: &Saved) -> Vec<(&'static str, Hook)> {
    let mut hooks = rules::hooks(family);
    if saved.has_docker {
        hooks.push(rules::docker_hook());
    }
    hooks
}

fn is_hooked(saved: &Saved, name: &str, hook: &Hook) -> bool {
    let hook = (hook.table.to_owned(), hook.chain.to_owned(), name.to_owned());
    saved.hooks.contains(&hook)
}

/// Says whether nothing comes in by wire with a loopback address, whatever the switches say.
fn is_guarded(tables: &Tables) -> bool {
    let hooks = rules::hooks(Family::V4);
    let mut guard = hooks.iter().filter(|(name, _)| *name == rules::GUARD_HOOK);
    tables.get(&Family::V4).is_some_and(|saved| {
        saved.guard == rules::GUARD.into() && guard.all(|(name, hook)| is_hooked(saved, name, hook))
    })
}

fn is_in_force(family: Family, saved: &Saved) -> bool {
    let mut hooks = all_hooks(family, saved).into_iter();
    saved.is_whole && hooks.all(|(name, hook)| is_hooked(saved, name, &hook))
}

/// Puts together what was found.
fn assemble(own: IpAddr, tables: &Tables) -> Found {
    let pieces = tables
        .values()
        .flat_map(|saved| saved.pieces.iter().cloned())
        .collect();
    let (placed, is_whole) = Placed::of(own, &pieces);
    // Tables in which there is nothing of ours need nothing.
    let mut used = tables.iter().filter(|(_, saved)| saved.is_there);
    Found {
        placed,
        is_in_force: used.all(|(family, saved)| is_in_force(*family, saved)),
        is_whole,
        foreign: tables
            .values()
            .flat_map(|saved| &saved.foreign)
            .map(|(table, chain)| format!("the chain `{chain}` of the table `{table}`"))
            .next(),
    }
}

/// Says whether everything besides our chains is as it has to be for these routes.
fn is_open(placed: &Placed) -> Result<bool, RouterError> {
    Ok(switch::is_forwarding(placed) && localnet::is_as_needed(placed)?)
}

#[async_trait]
impl Router for IptablesRouter {
    async fn current(&self) -> Result<RouteTable, RouterError> {
        let mut state = self.state.lock().await;
        let seen = state.seen.take();
        let seen = self.look(seen, &state.netlink).await?;
        let found = &state.seen.insert(seen).found;
        if is_open(&found.placed)? {
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
        state.end_moved().await?;
        let mut seen = self.look(state.seen.take(), &state.netlink).await?;
        seen.found.refuse_foreign()?;
        let networks = kernel::networks()?;
        let found = &seen.found;
        let wanted = found.placed.changed(self.own, change, local, &networks);
        let is_whole = found.is_whole && found.is_in_force && is_open(&found.placed)?;
        if is_whole && wanted == found.placed {
            state.seen = Some(seen);
            return Ok(Change::AlreadySo);
        }
        kernel::refuse_used_ports(self.own, &found.placed, &wanted)?;
        switch::turn_forwarding_on(&wanted)?;
        // Noted before it is done: where this is dropped in between, the next call ends them.
        state.owed = kernel::moved(&found.placed, &wanted);
        let own = Family::of(self.own);
        let pieces = wanted.pieces();
        // The own kind comes last: what a route says of itself is there, and is written when all else is.
        let families = Family::ALL
            .into_iter()
            .filter(|family| *family != own)
            .chain([own]);
        let mut expected = seen.generation;
        for family in families {
            let of_family: BTreeSet<Piece> = pieces
                .iter()
                .filter(|piece| family.has(own, piece))
                .cloned()
                .collect();
            let mut saved = seen.tables.remove(&family).unwrap_or_default();
            let is_so = saved.pieces == of_family
                && (is_in_force(family, &saved) || !saved.is_there && family != own);
            if !is_so {
                let n_changes = self.write(family, &saved, &of_family).await?;
                expected = expected
                    .zip(n_changes)
                    .map(|(before, n_changes)| before.wrapping_add(n_changes));
                saved = saved.written(family, of_family);
            }
            seen.tables.insert(family, saved);
        }
        localnet::open(&wanted)?;
        // Exactly as many changes as ours: what is there now need not be read.
        seen.generation = expected.filter(|expected| self.generation(&state.netlink) == Some(*expected));
        seen.found = Found {
            placed: wanted,
            is_in_force: true,
            is_whole: true,
            foreign: None,
        };
        state.seen = Some(seen);
        state.end_moved().await?;
        Ok(Change::Made)
    }
}
