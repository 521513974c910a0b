//! A whole cluster in memory: nodes, the network between them, their applications, and what goes wrong.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::sync::Weak;
use std::time::Duration;

use flocker_backends::memory::Effect;
use flocker_backends::memory::Fault;
use flocker_backends::memory::MemoryNetwork;
use flocker_backends::memory::MemoryNode;
use flocker_backends::memory::Observer;
use flocker_model::BootId;
use flocker_model::DatasetId;
use flocker_model::DefinitionKey;
use flocker_model::Epoch;
use flocker_model::Generation;
use flocker_model::NodeAddress;
use flocker_model::NodeId;
use flocker_model::NodeName;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use uuid::Uuid;

use super::client::Clients;
use super::harm::Harmed;
use super::late::Sent;
use super::living::LivingRecord;
use super::mishap::Mishap;
use super::mishap::Planned;
use super::sieve::Looks;
use super::sieve::Perturbation;
use crate::clock::Deadlines;
use crate::local::LocalNode;
use crate::local::NoForeignPorts;
use crate::local::NodeParts;
use crate::node::LockToken;
use crate::record::MemoryRecord;
use crate::record::NodeRecord;
use crate::record::RecordStore as _;
use crate::serve::serve;
use crate::stop::Stop;
use crate::stop::Stopper;
use crate::stop::stopper;

/// Where the operator sits in the network.
pub(super) const OPERATOR: &str = "/operator";

/// How a command reaches the nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// By calls in the same process.
    Calls,
    /// By the protocol, over connections that can break.
    Protocol,
}

/// What a cluster is made of.
#[derive(Clone, Debug)]
pub struct Layout {
    /// Its nodes.
    pub nodes: Vec<NodeName>,
    /// How a command reaches them.
    pub reach: Reach,
    /// Whether snapshots of what is written meanwhile are blurred, as on a backend without atomic ones.
    pub blurred: bool,
    /// Whether everything that was done is done again at once, which must change nothing.
    pub twice: bool,
    /// What decides when clients write.
    pub seed: u64,
}

/// One machine, and our program on it.
#[derive(Debug)]
pub(crate) struct Machine {
    pub(crate) memory: MemoryNode,
    pub(crate) volumes: Harmed,
    pub(crate) record: Arc<MemoryRecord>,
    program: Mutex<Option<Program>>,
}

#[derive(Debug)]
struct Program {
    local: Arc<LocalNode>,
    boot: BootId,
    /// Asked when it ends: what was called in it ends with it.
    ending: (Stopper, Stop),
    _server: JoinSet<()>,
}

/// What was noted.
#[derive(Debug, Default)]
pub(super) struct Notes {
    history: Vec<String>,
    broken: Option<String>,
    n_effects: u64,
    pub(super) n_violations: usize,
    pub(super) n_losses: usize,
    pub(super) epochs: BTreeMap<DatasetId, Epoch>,
    pub(super) generations: BTreeMap<NodeName, Generation>,
    /// The newest generation that each node has said to obey.
    pub(super) answered: BTreeMap<NodeName, Generation>,
    /// Of which generation the last order was that each node carried out for a command.
    pub(super) carried: BTreeMap<NodeName, Generation>,
    /// How many mishaps have struck.
    pub(super) n_struck: u64,
    /// How often a program of ours has ended.
    pub(super) n_deaths: u64,
    /// Whether nobody reads the history.
    is_quiet: bool,
    /// Whether routes were changed since they were followed to their ends.
    pub(super) has_rerouted: bool,
}

/// What lasts until it is repaired.
#[derive(Debug, Default)]
pub(super) struct Troubles {
    planned: Vec<Planned>,
    pub(super) unreached: BTreeSet<NodeName>,
    pub(super) slow: BTreeMap<NodeName, u32>,
    pub(super) sick: BTreeSet<NodeName>,
    pub(super) second: Option<Mishap>,
    /// Whether orders are kept, because one may arrive again.
    pub(super) keeps_orders: bool,
}

/// A whole cluster in memory. It checks what must always hold at every effect.
#[derive(Debug)]
pub struct Cluster {
    pub(crate) layout: Layout,
    pub(crate) network: MemoryNetwork,
    pub(crate) observer: Observer,
    pub(crate) machines: BTreeMap<NodeName, Machine>,
    clients: Mutex<Clients>,
    notes: Mutex<Notes>,
    troubles: Mutex<Troubles>,
    pub(super) orders: Mutex<Vec<Sent>>,
    /// Which claim holds the deploy lock of which node, as far as answers tell.
    holders: Mutex<BTreeMap<NodeName, LockToken>>,
    looks: Mutex<Looks>,
    /// Told when the command is to be killed.
    pub(crate) kill: Notify,
    /// Told when a second command is to be given.
    pub(crate) second: Notify,
    tasks: Mutex<JoinSet<()>>,
    me: Weak<Cluster>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Returns where a node is in the network.
pub(crate) fn directory(node: &NodeName) -> PathBuf {
    PathBuf::from("/nodes").join(node.as_str())
}

/// Returns how a node is reached.
#[must_use]
pub fn address(node: &NodeName) -> NodeAddress {
    NodeAddress::Local {
        directory: directory(node),
    }
}

impl Cluster {
    /// Makes a cluster of nodes that have nothing yet, all up. It must be made inside a runtime whose clock stands still.
    #[must_use]
    pub fn new(layout: Layout) -> Arc<Self> {
        let observer = Observer::default();
        let mut machines = BTreeMap::new();
        for (position, name) in (1_u8..).zip(&layout.nodes) {
            let memory = MemoryNode::new(name.clone(), [192, 0, 2, position].into(), &observer);
            memory.set_blurred_snapshots(layout.blurred);
            let record = NodeRecord {
                id: NodeId(Uuid::from_u128(u128::from(position))),
                key: DefinitionKey::new([position; 32]),
                generation: Generation::default(),
                peers: BTreeMap::new(),
                forgotten: BTreeMap::new(),
                outlived: BTreeMap::new(),
            };
            let store = MemoryRecord::default();
            // A record in memory cannot fail to be saved.
            drop(store.save(&record));
            let machine = Machine {
                volumes: Harmed::new(memory.volumes()),
                memory,
                record: Arc::new(store),
                program: Mutex::new(None),
            };
            machines.insert(name.clone(), machine);
        }
        let cluster = Arc::new_cyclic(|me| Self {
            clients: Mutex::new(Clients::new(layout.seed)),
            layout,
            network: MemoryNetwork::new(),
            observer,
            machines,
            notes: Mutex::default(),
            troubles: Mutex::default(),
            orders: Mutex::default(),
            holders: Mutex::default(),
            looks: Mutex::default(),
            kill: Notify::new(),
            second: Notify::new(),
            tasks: Mutex::default(),
            me: me.clone(),
        });
        for (name, machine) in &cluster.machines {
            let (me, name) = (Arc::downgrade(&cluster), name.clone());
            machine.memory.faults().decide(move |attempt| {
                let cluster = me.upgrade()?;
                cluster.on_effect(&name, &attempt.effect)
            });
        }
        for name in cluster.machines.keys() {
            cluster.start(name);
        }
        cluster
    }

    /// Says what goes wrong, and when.
    pub fn plan_mishaps(&self, planned: impl IntoIterator<Item = Planned>) {
        let planned: Vec<Planned> = planned.into_iter().collect();
        lock(&self.looks).keeps |= planned.iter().any(|planned| planned.mishap == Mishap::StaleLook);
        let mut troubles = lock(&self.troubles);
        let tells = |planned: &Planned| matches!(planned.mishap, Mishap::StaleOrder | Mishap::LateOrders);
        troubles.keeps_orders |= planned.iter().any(tells);
        troubles.planned.extend(planned);
    }

    /// Returns the world of a node, to look at it or to change it by hand.
    #[must_use]
    pub fn node(&self, name: &NodeName) -> Option<&MemoryNode> {
        self.machines.get(name).map(|machine| &machine.memory)
    }

    /// Returns our program on a node, where it runs.
    #[must_use]
    pub fn program(&self, name: &NodeName) -> Option<Arc<LocalNode>> {
        self.program_until(name).map(|(program, _)| program)
    }

    /// Returns our program on a node, where it runs, and what is asked when it ends.
    pub(super) fn program_until(&self, name: &NodeName) -> Option<(Arc<LocalNode>, Stop)> {
        let machine = self.machines.get(name)?;
        let program = lock(&machine.program);
        let is_up = machine.memory.faults().is_up();
        program
            .as_ref()
            .filter(|_| is_up)
            .map(|program| (Arc::clone(&program.local), program.ending.1.clone()))
    }

    /// Says whether our program runs on a node.
    pub(super) fn is_running(&self, name: &NodeName) -> bool {
        let machine = self.machines.get(name);
        machine.is_some_and(|machine| lock(&machine.program).is_some() && machine.memory.faults().is_up())
    }

    pub(super) fn me(&self) -> Weak<Self> {
        self.me.clone()
    }

    pub(super) fn notes(&self) -> MutexGuard<'_, Notes> {
        lock(&self.notes)
    }

    pub(super) fn troubles(&self) -> MutexGuard<'_, Troubles> {
        lock(&self.troubles)
    }

    pub(super) fn holders(&self) -> MutexGuard<'_, BTreeMap<NodeName, LockToken>> {
        lock(&self.holders)
    }

    pub(super) fn looks(&self) -> MutexGuard<'_, Looks> {
        lock(&self.looks)
    }

    /// Leads one plan of the history astray.
    pub fn perturb(&self, plan: u64, how: Perturbation) {
        let mut looks = lock(&self.looks);
        looks.sieve = Some((plan, how));
        looks.keeps = true;
    }

    /// Returns how many plans were made.
    #[must_use]
    pub fn n_plans(&self) -> u64 {
        lock(&self.looks).n_plans
    }

    /// Leaves out of the history what is only for people.
    pub fn be_quiet(&self) {
        lock(&self.notes).is_quiet = true;
    }

    pub(super) fn is_quiet(&self) -> bool {
        lock(&self.notes).is_quiet
    }

    pub(crate) fn nodes(&self) -> impl Iterator<Item = (&NodeName, &MemoryNode)> + Clone {
        self.machines
            .iter()
            .map(|(name, machine)| (name, &machine.memory))
    }

    pub(crate) fn clients(&self) -> MutexGuard<'_, Clients> {
        lock(&self.clients)
    }

    /// Returns how many effects were tried in the whole cluster.
    #[must_use]
    pub fn n_effects(&self) -> u64 {
        lock(&self.notes).n_effects
    }

    /// Returns how many writes were acknowledged to applications.
    #[must_use]
    pub fn n_acknowledged(&self) -> u64 {
        self.clients().n_acknowledged()
    }

    /// Adds a line to the history, which is only for people: where nobody reads it, it is not written.
    pub fn note<T: Into<String>>(&self, line: impl FnOnce() -> T) {
        if !self.is_quiet() {
            let line = line().into();
            lock(&self.notes).history.push(line);
        }
    }

    /// Returns what happened so far.
    #[must_use]
    pub fn history(&self) -> Vec<String> {
        lock(&self.notes).history.clone()
    }

    /// Returns the first thing that must not have happened and has.
    #[must_use]
    pub fn broken(&self) -> Option<String> {
        lock(&self.notes).broken.clone()
    }

    pub(super) fn is_broken(&self) -> bool {
        lock(&self.notes).broken.is_some()
    }

    /// Takes note of something that must not have happened.
    pub fn break_by(&self, what: String) {
        let mut notes = lock(&self.notes);
        notes.history.push(format!("BROKEN {what}"));
        notes.broken.get_or_insert(what);
    }

    /// Starts our program on a node, after a boot of the machine where it was off. Does nothing where it runs.
    pub fn start(&self, name: &NodeName) {
        let Some(machine) = self.machines.get(name) else {
            return;
        };
        let mut program = lock(&machine.program);
        machine.memory.restart();
        let boot = machine.memory.boot();
        if program.as_ref().is_some_and(|program| program.boot == boot) {
            return;
        }
        // What was begun in a program that has ended is polled once more, maybe: it does nothing any more.
        let memory = machine.memory.of_this_process();
        let parts = NodeParts {
            name: name.clone(),
            reached_at: address(name),
            address: memory.address(),
            boot,
            volumes: Arc::new(machine.volumes.of(memory.volumes())),
            runtime: Arc::new(memory.runtime()),
            router: Arc::new(memory.router()),
            transport: Arc::new(self.network.transport(directory(name))),
            record: Arc::new(LivingRecord {
                store: Arc::clone(&machine.record),
                process: memory,
            }),
            foreign_ports: Arc::new(NoForeignPorts),
            deadlines: Deadlines::default(),
        };
        let Ok(local) = LocalNode::new(parts).map(Arc::new) else {
            return;
        };
        let mut acceptor = self.network.listen(directory(name));
        let mut server = JoinSet::new();
        let node = Arc::clone(&local);
        server.spawn(async move {
            let mut connections = JoinSet::new();
            while let Some(incoming) = acceptor.accept().await {
                while connections.try_join_next().is_some() {}
                let node = Arc::clone(&node);
                // On the heap before it is handed over: it is large, and would be moved from hand to hand.
                connections.spawn(Box::pin(async move {
                    // A connection that ends badly is the concern of who opened it.
                    drop(serve(incoming.channel, node).await);
                }));
            }
        });
        *program = Some(Program {
            local,
            boot,
            ending: stopper(),
            _server: server,
        });
    }

    /// Ends our program on a node with all its connections.
    fn end(&self, name: &NodeName) {
        if let Some(machine) = self.machines.get(name) {
            if let Some(ended) = lock(&machine.program).take() {
                ended.ending.0.stop();
            }
            lock(&self.notes).n_deaths += 1;
            lock(&self.holders).remove(name);
            self.network.cut_off(directory(name));
        }
    }

    /// Kills our program on a node. Containers run on.
    pub fn kill_program(&self, name: &NodeName) {
        if let Some(machine) = self.machines.get(name) {
            machine.memory.kill();
            self.end(name);
        }
    }

    /// Takes the power of a machine away.
    pub fn take_power(&self, name: &NodeName) {
        if let Some(machine) = self.machines.get(name) {
            machine.memory.crash();
            self.end(name);
        }
    }

    /// Repairs everything: all nodes are up, all reach each other, nothing is slow, sick, full or planned to go wrong.
    pub fn repair(&self) {
        {
            let mut troubles = lock(&self.troubles);
            let planned = std::mem::take(&mut troubles.planned);
            let keeps_orders = troubles.keeps_orders;
            *troubles = Troubles::default();
            troubles.planned = planned;
            troubles.keeps_orders = keeps_orders;
        }
        self.network.join_all();
        for (name, machine) in &self.machines {
            machine.memory.set_capacity(None);
            machine.volumes.set(None);
            machine.volumes.unlist(0);
            machine.memory.faults().let_go();
            self.start(name);
        }
    }

    /// Forgets what was still planned to go wrong.
    pub fn cancel_mishaps(&self) {
        lock(&self.troubles).planned.clear();
        lock(&self.looks).see_clearly();
    }

    pub(crate) fn is_reached(&self, name: &NodeName) -> bool {
        !lock(&self.troubles).unreached.contains(name)
    }

    pub(crate) fn is_sick(&self, name: &NodeName) -> bool {
        lock(&self.troubles).sick.contains(name)
    }

    /// Says whether the next order to a node is slow.
    pub(crate) fn takes_its_time(&self, name: &NodeName) -> bool {
        let mut troubles = lock(&self.troubles);
        match troubles.slow.get_mut(name) {
            Some(left) if *left > 0 => {
                *left -= 1;
                true
            }
            Some(_) | None => false,
        }
    }

    /// Returns which second command was asked for.
    pub(crate) fn second_command(&self) -> Option<Mishap> {
        lock(&self.troubles).second.take()
    }

    /// Lets the locks of a command that was killed go, as connections that end do.
    pub(crate) fn forget_command(&self) {
        self.end_sessions(|_| true);
    }

    /// Lets the locks go that a command could not give back, because it no longer reaches the nodes.
    pub(crate) fn forget_out_of_reach(&self) {
        self.end_sessions(|name| !self.is_reached(name));
    }

    /// Stands for the end of connections where there are none; a real one keeps its lock until its orders are at an end.
    fn end_sessions(&self, of: impl Fn(&NodeName) -> bool) {
        if self.layout.reach == Reach::Protocol {
            return;
        }
        for (_, machine) in self.machines.iter().filter(|(name, _)| of(name)) {
            if let Some(program) = lock(&machine.program).as_ref() {
                program.local.end_all_sessions();
            }
            lock(&self.holders).remove(machine.memory.name());
        }
    }

    /// Returns the way by which the operator reaches the nodes.
    pub(crate) fn operator(&self) -> flocker_backends::memory::MemoryTransport {
        self.network.transport(OPERATOR)
    }

    /// Lets something happen beside everything else.
    pub(super) fn aside(&self, work: impl Future<Output = ()> + Send + 'static) {
        lock(&self.tasks).spawn(work);
    }

    /// Ends our program on a node whose twin has died, and starts it again after a while.
    pub(super) fn falls(&self, name: &NodeName, back: Option<u32>) {
        let (me, name) = (self.me.clone(), name.clone());
        self.aside(async move {
            if let Some(cluster) = me.upgrade() {
                cluster.end(&name);
            }
            if let Some(seconds) = back {
                tokio::time::sleep(Duration::from_secs(seconds.into())).await;
                if let Some(cluster) = me.upgrade() {
                    cluster.note(|| format!("{name} comes back"));
                    cluster.start(&name);
                }
            }
        });
    }

    /// Undoes something after a while, where it passes by itself.
    pub(super) fn passes(&self, after: Option<u32>, undo: impl FnOnce(&Self) + Send + 'static) {
        let Some(seconds) = after else {
            return;
        };
        let me = self.me.clone();
        self.aside(async move {
            tokio::time::sleep(Duration::from_secs(seconds.into())).await;
            if let Some(cluster) = me.upgrade() {
                undo(&cluster);
            }
        });
    }

    /// Is told of every effect before it is made; says what goes wrong with it.
    fn on_effect(&self, name: &NodeName, effect: &Effect) -> Option<Fault> {
        self.clients().write(&self.nodes(), &self.observer);
        self.check();
        let (number, struck) = {
            let mut notes = lock(&self.notes);
            notes.n_effects += 1;
            let number = notes.n_effects;
            notes.has_rerouted |= matches!(effect, Effect::Route);
            if !notes.is_quiet {
                notes.history.push(format!("{number:4} {name} {effect:?}"));
            }
            let mut troubles = lock(&self.troubles);
            let struck = troubles.planned.extract_if(.., |planned| planned.at == number);
            let struck: Vec<Planned> = struck.collect();
            notes.n_struck += struck.len() as u64;
            (number, struck)
        };
        let mut fault = None;
        for Planned { at, mishap } in struck {
            debug_assert_eq!(at, number);
            self.note(|| format!("     {mishap}"));
            fault = self.strike(name, mishap).or(fault);
        }
        fault.or_else(|| {
            let starts = matches!(effect, Effect::Start(_));
            (starts && self.is_sick(name)).then_some(Fault::Fail)
        })
    }
}
