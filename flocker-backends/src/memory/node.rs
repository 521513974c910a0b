//! A whole node of twins: one disk, one set of containers, one set of routes, one fate.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::net::Ipv4Addr;
use std::ops::Deref;
use std::ops::DerefMut;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::time::Duration;

use flocker_model::BootId;
use flocker_model::ByteSize;
use flocker_model::NodeName;

use super::containers::Containers;
use super::containers::is_primary;
use super::disk::Disk;
use super::faults::After;
use super::faults::Effect;
use super::faults::Faults;
use super::faults::Injected;
use super::faults::Life;
use super::faults::Power;
use super::observer::NodeSeen;
use super::observer::Observer;
use super::router::MemoryRouter;
use super::router::Routes;
use super::runtime::MemoryRuntime;
use super::volumes::MemoryVolumes;
use crate::change::Change;

/// Everything that is true of a node.
#[derive(Clone, Debug)]
pub(super) struct State {
    pub(super) disk: Disk,
    pub(super) containers: Containers,
    pub(super) routes: Routes,
    n_boots: u64,
}

/// Everything that is on a node at one moment, as a value: to go on from it more than once.
#[derive(Clone, Debug)]
pub struct Picture(State);

/// What the twins of one node share.
#[derive(Debug)]
pub(super) struct Machine {
    pub(super) name: NodeName,
    pub(super) address: IpAddr,
    pub(super) faults: Faults,
    pub(super) observer: Observer,
    state: Mutex<Slot>,
}

/// A state, and how often it may have been changed.
#[derive(Debug)]
struct Slot {
    state: State,
    n_changes: u64,
}

/// The state of a node, which nobody else sees meanwhile.
pub(super) struct Locked<'a>(MutexGuard<'a, Slot>);

impl Deref for Locked<'_> {
    type Target = State;

    fn deref(&self) -> &State {
        &self.0.state
    }
}

impl DerefMut for Locked<'_> {
    fn deref_mut(&mut self) -> &mut State {
        self.0.n_changes += 1;
        &mut self.0.state
    }
}

/// An error that can say what came in the way of an effect.
pub(super) trait Inject {
    fn inject(injected: Injected, effect: &Effect) -> Self;
}

impl Machine {
    pub(super) fn lock(&self) -> Locked<'_> {
        Locked(self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Makes one effect, unless it is so already, is refused, or something goes wrong.
    ///
    /// `apply` is tried on a copy first: what changes nothing is no effect. The copy takes the place of the state where
    /// nobody has touched that meanwhile, so that what is costly is worked out once.
    pub(super) async fn effect<E: Inject>(
        &self,
        effect: Effect,
        life: &Life,
        apply: impl Fn(&mut State) -> Result<Change, E>,
    ) -> Result<Change, E> {
        let (mut trial, n_changes) = {
            let state = self.lock();
            (state.clone(), state.0.n_changes)
        };
        if apply(&mut trial)? == Change::AlreadySo {
            return Ok(Change::AlreadySo);
        }
        let inject = |injected| E::inject(injected, &effect);
        let before = self.faults.before(&effect, life).await;
        let after = before.map_err(|injected| {
            self.look_if_off();
            inject(injected)
        })?;
        let change = {
            let mut state = self.lock();
            let was_primary = effect
                .dataset()
                .is_some_and(|dataset| is_primary(&state.disk, dataset));
            let change = if state.0.n_changes == n_changes {
                *state = trial;
                Change::Made
            } else {
                apply(&mut state)?
            };
            self.witness(&state, &effect, was_primary);
            change
        };
        match after {
            After::Answer => Ok(change),
            After::LoseReply => Err(inject(Injected::ReplyLost)),
            After::Die(power) => {
                self.faults.set_power(power);
                self.look_if_off();
                Err(inject(Injected::Down))
            }
        }
    }

    /// Shows the observer what an effect has made true.
    fn witness(&self, state: &State, effect: &Effect, was_primary: bool) {
        self.look(state, Some(effect));
        let Some(dataset) = effect.dataset() else {
            return;
        };
        let Some(held) = state.disk.datasets.get(&dataset) else {
            return;
        };
        match effect {
            Effect::Create(_) => self.observer.acknowledge(dataset, &held.live),
            // A snapshot makes durable what was written and not yet synced.
            Effect::Snapshot(_) | Effect::Release(_) if was_primary => {
                self.observer.acknowledge(dataset, &held.live);
            }
            Effect::Acquire(_) => self.observer.expect_acknowledged(&self.name, dataset, &held.live),
            Effect::Snapshot(_)
            | Effect::Release(_)
            | Effect::Resize(_)
            | Effect::ReceivePart(_)
            | Effect::Receive(_)
            | Effect::Renounce(_)
            | Effect::Destroy(_)
            | Effect::Restore(_)
            | Effect::Reclaim
            | Effect::Prepare(_)
            | Effect::Start(_)
            | Effect::Stop(_)
            | Effect::Route => {}
        }
    }

    /// Shows the observer what is true now.
    pub(super) fn look(&self, state: &State, effect: Option<&Effect>) {
        let copies = state.disk.datasets.iter();
        let started = match self.faults.power() {
            Power::Up | Power::Killed => state.containers.datasets_in_use(),
            Power::Off => BTreeSet::new(),
        };
        let seen = NodeSeen {
            copies: copies.map(|(id, held)| (*id, held.seen())).collect(),
            started,
        };
        self.observer.look(&self.name, seen, effect);
    }

    /// A machine without power runs no containers.
    fn look_if_off(&self) {
        if self.faults.power() == Power::Off {
            self.look(&self.lock(), None);
        }
    }
}

/// A node whose volumes, containers and routes are in memory.
///
/// Cloning is cheap and gives the same node. Its twins are handles on it: they
/// go on after a [`restart`](Self::restart), as a disk does, except those
/// [of one process](Self::of_this_process).
#[derive(Clone, Debug)]
pub struct MemoryNode {
    machine: Arc<Machine>,
    /// The only run of our process that may do anything through it; nothing where every one may.
    process: Option<u64>,
}

impl MemoryNode {
    /// Makes a node of a cluster that this observer watches.
    #[must_use]
    pub fn new(name: NodeName, address: IpAddr, observer: &Observer) -> Self {
        let state = State {
            disk: Disk::new(name.clone()),
            containers: Containers::default(),
            routes: Routes::default(),
            n_boots: 1,
        };
        let machine = Machine {
            name,
            address,
            faults: Faults::default(),
            observer: observer.clone(),
            state: Mutex::new(Slot { state, n_changes: 0 }),
        };
        Self {
            machine: Arc::new(machine),
            process: None,
        }
    }

    /// Returns the node as our process that runs now has it.
    ///
    /// Once that process has ended nothing is done through it, and nothing
    /// seen, also where another one was started since.
    #[must_use]
    pub fn of_this_process(&self) -> Self {
        Self {
            machine: Arc::clone(&self.machine),
            process: Some(self.machine.faults.incarnation()),
        }
    }

    /// Says whether our process runs there; of a node of one process, whether that one does.
    #[must_use]
    pub fn is_up(&self) -> bool {
        self.machine.faults.life(self.process).is_ok()
    }

    /// Makes a node at the loopback address, watched by an observer of its own.
    #[must_use]
    pub fn alone(name: NodeName) -> Self {
        Self::new(name, Ipv4Addr::LOCALHOST.into(), &Observer::default())
    }

    /// Returns its name.
    #[must_use]
    pub fn name(&self) -> &NodeName {
        &self.machine.name
    }

    /// Returns its address.
    #[must_use]
    pub fn address(&self) -> IpAddr {
        self.machine.address
    }

    /// Returns its volumes.
    #[must_use]
    pub fn volumes(&self) -> MemoryVolumes {
        MemoryVolumes::of(Arc::clone(&self.machine), self.process)
    }

    /// Returns its containers.
    #[must_use]
    pub fn runtime(&self) -> MemoryRuntime {
        MemoryRuntime::of(Arc::clone(&self.machine), self.process)
    }

    /// Returns its routes.
    #[must_use]
    pub fn router(&self) -> MemoryRouter {
        MemoryRouter::of(Arc::clone(&self.machine), self.process)
    }

    /// Returns what goes wrong on it.
    #[must_use]
    pub fn faults(&self) -> &Faults {
        &self.machine.faults
    }

    /// Returns who watches it.
    #[must_use]
    pub fn observer(&self) -> &Observer {
        &self.machine.observer
    }

    /// Returns the identity of the current boot, the same for the same name and number of boots.
    #[must_use]
    pub fn boot(&self) -> BootId {
        let n_boots = self.machine.lock().n_boots;
        let mut first = [0; 16];
        let hash = blake3::hash(format!("{}/{n_boots}", self.machine.name).as_bytes());
        first.copy_from_slice(&hash.as_bytes()[..16]);
        BootId(uuid::Builder::from_random_bytes(first).into_uuid())
    }

    /// Kills our process: every call that is under way fails, and every new one until [`Self::restart`].
    ///
    /// Containers run on, and what was written stays written.
    pub fn kill(&self) {
        if self.machine.faults.power() != Power::Off {
            self.machine.faults.set_power(Power::Killed);
        }
    }

    /// Takes the power away: what was not durable is lost, and nothing runs until [`Self::restart`].
    pub fn crash(&self) {
        self.machine.faults.set_power(Power::Off);
        self.machine.look(&self.machine.lock(), None);
    }

    /// Brings our process back: after a loss of power by a new boot, else by a new start of the process alone.
    ///
    /// Does nothing where it is up.
    pub fn restart(&self) {
        match self.machine.faults.power() {
            Power::Up => {}
            Power::Killed => self.machine.faults.set_power(Power::Up),
            Power::Off => self.boot_again(),
        }
    }

    /// Takes the power away and brings it back: the boot is a new one.
    pub fn reboot(&self) {
        self.crash();
        self.boot_again();
    }

    fn boot_again(&self) {
        let mut state = self.machine.lock();
        state.n_boots += 1;
        for held in state.disk.datasets.values_mut() {
            Arc::make_mut(held).lose_power();
        }
        state.routes.lose_power();
        let State { disk, containers, .. } = &mut *state;
        for violation in containers.boot(disk) {
            self.machine.observer.add(violation);
        }
        self.machine.faults.set_power(Power::Up);
        for dataset in state.containers.datasets_in_use() {
            if let Some(held) = state.disk.datasets.get(&dataset) {
                let (name, observer) = (&self.machine.name, &self.machine.observer);
                observer.expect_acknowledged(name, dataset, &held.live);
            }
        }
        self.machine.look(&state, None);
    }

    /// Lets time pass by the node's own clock, which stands still otherwise.
    pub fn advance(&self, by: Duration) {
        self.machine.lock().disk.now += by;
    }

    /// Sets how much data the node can hold, or that there is no limit.
    pub fn set_capacity(&self, capacity: Option<ByteSize>) {
        self.machine.lock().disk.capacity = capacity;
    }

    /// Sets how long its end of a round of copying is said to take at least, as on a backend that looks at every file.
    pub fn set_round(&self, round: Duration) {
        self.machine.lock().disk.round = round;
    }

    /// Sets whether snapshots that are taken while a container is started on the dataset are blurred,
    /// as on a backend without atomic snapshots.
    pub fn set_blurred_snapshots(&self, blurred: bool) {
        self.machine.lock().disk.blurs = blurred;
    }

    /// Returns everything that is on the node.
    #[must_use]
    pub fn picture(&self) -> Picture {
        Picture(State::clone(&self.machine.lock()))
    }

    /// Makes the node what it was when the picture was taken, whichever node that was. The observer is told nothing.
    pub fn become_as(&self, picture: &Picture) {
        *self.machine.lock() = picture.0.clone();
    }

    /// Returns the files of every dataset, as applications see them: a picture for comparisons.
    #[must_use]
    pub fn contents(&self) -> BTreeMap<flocker_model::DatasetId, BTreeMap<String, Vec<u8>>> {
        let state = self.machine.lock();
        let datasets = state.disk.datasets.iter();
        datasets.map(|(id, held)| (*id, held.live.to_files())).collect()
    }
}
