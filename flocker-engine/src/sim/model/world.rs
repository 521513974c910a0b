//! The states of the search: whole worlds as values.

use std::collections::BTreeMap;
use std::fmt;
use std::fmt::Write as _;
use std::hash::DefaultHasher;
use std::hash::Hash;
use std::hash::Hasher;
use std::sync::Arc;

use flocker_backends::memory::MemoryNode;
use flocker_backends::memory::Observer;
use flocker_backends::memory::Picture;
use flocker_model::ClusterState;
use flocker_model::DatasetId;
use flocker_model::DefinitionKey;
use flocker_model::Deployment;
use flocker_model::Epoch;
use flocker_model::Generation;
use flocker_model::NodeId;
use flocker_model::NodeState;
use flocker_model::Observed;
use flocker_model::Role;
use flocker_plan::Frontier;
use flocker_plan::Plan;
use uuid::Uuid;

use super::Bounds;
use super::act;
use super::letter;
use crate::record::NodeRecord;
use crate::sim::script;

/// Feeds what is formatted to a hash, without making the text.
struct Digest(DefaultHasher);

impl fmt::Write for Digest {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0.write(text.as_bytes());
        Ok(())
    }
}

fn digest(value: &impl fmt::Debug) -> u64 {
    let mut digest = Digest(DefaultHasher::new());
    // Nothing of ours fails to be formatted, and feeding a hash cannot fail.
    let _ = write!(digest, "{value:?}");
    digest.0.finish()
}

/// One node: what is on it, and what it remembers.
#[derive(Clone, Debug)]
pub(super) struct Machine {
    pub(super) picture: Arc<Picture>,
    pub(super) record: Arc<NodeRecord>,
    /// What a look at it shows.
    pub(super) state: Arc<NodeState>,
    /// Its files, as the application sees them.
    records: usize,
    digest: u64,
}

impl Machine {
    pub(super) fn new(picture: Picture, record: NodeRecord, state: NodeState, records: usize) -> Self {
        let digest = digest(&(&picture, &record));
        Self {
            picture: Arc::new(picture),
            record: Arc::new(record),
            state: Arc::new(state),
            records,
            digest,
        }
    }
}

/// A plan under way.
#[derive(Clone, Debug)]
pub(super) struct Doing {
    pub(super) plan: Arc<Plan>,
    pub(super) frontier: Frontier,
    digest: u64,
}

impl Doing {
    pub(super) fn begin(plan: Plan) -> Self {
        Self {
            frontier: Frontier::new(&plan),
            digest: digest(&plan),
            plan: Arc::new(plan),
        }
    }
}

/// What an operator is about.
#[derive(Clone, Debug)]
pub(super) enum Phase {
    Rest,
    Looking(Vec<Option<Observed<NodeState>>>),
    Doing(Doing),
}

/// Somebody who wants a configuration.
#[derive(Clone, Debug)]
pub(super) struct Operator {
    pub(super) phase: Phase,
    pub(super) turns_left: u8,
    digest: u64,
}

impl Operator {
    /// Works out again what it is compared by.
    pub(super) fn seal(&mut self) {
        self.digest = match &self.phase {
            Phase::Rest => 0,
            Phase::Looking(seen) => digest(seen),
            Phase::Doing(doing) => {
                let mut hasher = DefaultHasher::new();
                doing.digest.hash(&mut hasher);
                for standing in doing.frontier.standings() {
                    hasher.write_u8(letter(standing));
                }
                hasher.finish()
            }
        };
    }
}

/// An order that was given up and is still under way.
#[derive(Clone, Debug)]
pub(super) struct Late {
    pub(super) operator: usize,
    pub(super) plan: Arc<Plan>,
    pub(super) position: usize,
    pub(super) digest: u64,
}

impl Late {
    pub(super) fn new(operator: usize, doing: &Doing, position: usize) -> Self {
        let step = &doing.plan.steps()[position];
        Self {
            operator,
            plan: Arc::clone(&doing.plan),
            position,
            digest: digest(&(operator, &step.actor, &step.action)),
        }
    }
}

/// What may still go wrong, and be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Left {
    pub(super) lost: u8,
    pub(super) doubled: u8,
    pub(super) power_cuts: u8,
    pub(super) hidden: u8,
    pub(super) writes: u8,
}

/// A whole world at one moment.
#[derive(Clone, Debug)]
pub struct World {
    pub(super) nodes: Vec<Machine>,
    pub(super) operators: Vec<Operator>,
    pub(super) late: Vec<Late>,
    pub(super) left: Left,
    pub(super) acknowledged: usize,
    /// The newest ownership that was ever taken.
    pub(super) newest: Epoch,
    pub(super) broken: Option<String>,
}

impl PartialEq for World {
    fn eq(&self, other: &Self) -> bool {
        self.digest() == other.digest()
    }
}

impl Hash for World {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        for node in &self.nodes {
            node.digest.hash(hasher);
        }
        for operator in &self.operators {
            (operator.digest, operator.turns_left).hash(hasher);
        }
        for late in &self.late {
            late.digest.hash(hasher);
        }
        (self.left, self.acknowledged, self.newest, &self.broken).hash(hasher);
    }
}

impl World {
    /// Makes nodes on which there is nothing, and operators who have done nothing.
    pub(super) fn empty(bounds: &Bounds) -> Self {
        let n_operators = if bounds.second_operator { 2 } else { 1 };
        let operator = Operator {
            phase: Phase::Rest,
            turns_left: bounds.n_turns,
            digest: 0,
        };
        let nodes = (0..bounds.n_nodes).map(|number| {
            let memory = MemoryNode::new(script::node(number), act::address(number), &Observer::default());
            let record = NodeRecord {
                id: NodeId(Uuid::from_u128(number as u128 + 1)),
                key: DefinitionKey::new([1; 32]),
                generation: Generation::default(),
                peers: BTreeMap::new(),
                forgotten: BTreeMap::new(),
                outlived: BTreeMap::new(),
            };
            act::machine(number, memory, &record)
        });
        Self {
            nodes: nodes.collect(),
            operators: vec![operator; n_operators],
            late: Vec::new(),
            left: Left {
                lost: bounds.n_lost,
                doubled: bounds.n_doubled,
                power_cuts: bounds.n_power_cuts,
                hidden: bounds.n_hidden,
                writes: bounds.n_writes,
            },
            acknowledged: 0,
            newest: Epoch(0),
            broken: None,
        }
    }

    /// Says what is wrong with it, if something is.
    #[must_use]
    pub fn why(&self) -> String {
        let roles = self
            .nodes
            .iter()
            .map(|node| format!("{:?} {:?}", node.state.datasets, node.state.containers));
        let roles: Vec<_> = roles.collect();
        format!(
            "{:?}; {} acknowledged; {}",
            self.broken,
            self.acknowledged,
            roles.join(" | ")
        )
    }

    pub(super) fn digest(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.hash(&mut hasher);
        hasher.finish()
    }

    pub(super) fn n_nodes(&self) -> usize {
        self.nodes.len()
    }

    pub(super) fn break_by(&mut self, what: String) {
        self.broken.get_or_insert(what);
    }

    /// Gives what was seen of the nodes, in their order, their names.
    pub(super) fn named(&self, seen: impl Iterator<Item = Observed<NodeState>>) -> ClusterState {
        ClusterState {
            nodes: (0..self.n_nodes()).map(script::node).zip(seen).collect(),
        }
    }

    pub(super) fn newest_obeyed(&self) -> Generation {
        let obeyed = self.nodes.iter().map(|node| node.record.generation);
        obeyed.fold(Generation::default(), Ord::max)
    }

    fn dataset() -> DatasetId {
        act::dataset()
    }

    fn primary(state: &NodeState) -> Option<Epoch> {
        match state.datasets.get(&Self::dataset())?.role {
            Role::Primary { epoch } => Some(epoch),
            Role::Released { .. } | Role::Replica => None,
        }
    }

    /// Says whether the application runs on a node that owns its data.
    pub(super) fn serves(&self, node: usize) -> bool {
        let state = &self.nodes[node].state;
        Self::primary(state).is_some()
            && state
                .containers
                .values()
                .any(flocker_model::ContainerState::is_alive)
    }

    /// I1: one owner at most, and nothing runs on data that its node does not own.
    pub(super) fn has_one_writer(&self) -> bool {
        let owners = self
            .nodes
            .iter()
            .filter(|node| Self::primary(&node.state).is_some());
        let runs_unowned = self.nodes.iter().any(|node| {
            Self::primary(&node.state).is_none()
                && node
                    .state
                    .containers
                    .values()
                    .any(flocker_model::ContainerState::is_alive)
        });
        owners.count() <= 1 && !runs_unowned
    }

    /// I2, I3 and I6: some copy has every acknowledged record, and the owner, where there is one, is such a copy.
    pub(super) fn keeps_what_was_acknowledged(&self) -> bool {
        let has_all = |node: &Machine| node.records >= self.acknowledged;
        let mut owners = self
            .nodes
            .iter()
            .filter(|node| Self::primary(&node.state).is_some());
        self.nodes.iter().any(has_all) && owners.all(has_all)
    }

    /// Says whether the application runs where it is wanted, with all its records, and nowhere else.
    pub(super) fn is_served_with_all(&self, wanted: usize, desired: &Deployment) -> bool {
        let application = script::application(0);
        let homes: Vec<_> = desired.homes(&application).collect();
        let right = (0..self.n_nodes()).all(|node| {
            let is_home = homes.contains(&&script::node(node));
            self.serves(node) == is_home && (!is_home || self.nodes[node].records >= self.acknowledged)
        });
        right && desired.generation() == Generation(wanted as u64 + 1)
    }

    /// Puts a node in the place of what it was, and compares the two.
    pub(super) fn replace(&mut self, node: usize, new: Machine) {
        let old = std::mem::replace(&mut self.nodes[node], new);
        let new = &self.nodes[node];
        let fence = |state: &NodeState| state.datasets.get(&Self::dataset()).map(|seen| seen.fence);
        if new.record.generation < old.record.generation {
            self.break_by(format!("I4: {} obeys an older configuration", script::node(node)));
            return;
        }
        if let (Some(before), Some(after)) = (fence(&old.state), fence(&new.state))
            && after < before
        {
            self.break_by(format!("I4: the fence of {} went back", script::node(node)));
            return;
        }
        let (before, after) = (Self::primary(&old.state), Self::primary(&new.state));
        if let Some(epoch) = after.filter(|_| before != after) {
            if epoch <= self.newest {
                let newest = self.newest;
                self.break_by(format!(
                    "I4: {} took epoch {epoch} after {newest}",
                    script::node(node)
                ));
                return;
            }
            self.newest = epoch;
        }
    }
}
