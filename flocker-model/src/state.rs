//! Actual state: what was seen, where, and what could not be seen.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use serde::Deserialize;
use serde::Serialize;

use crate::deployment::NodeAddress;
use crate::id::ApplicationName;
use crate::id::BootId;
use crate::id::DatasetId;
use crate::id::DefinitionHash;
use crate::id::NodeId;
use crate::id::NodeName;
use crate::id::SnapshotGuid;
use crate::id::SnapshotName;
use crate::number::ByteSize;
use crate::number::Epoch;
use crate::number::Generation;
use crate::port::ExternalPort;
use crate::route::RouteTable;
use crate::secret::DefinitionKey;

/// What a node was last seen to have, or why we could not look.
///
/// Absence is only ever read from `Known`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Observed<T> {
    /// It was seen.
    Known(T),
    /// It was not seen, which says nothing of what is there.
    Unknown(Silence),
}

impl<T> Observed<T> {
    /// Returns what was seen.
    pub fn known(&self) -> Option<&T> {
        match self {
            Self::Known(seen) => Some(seen),
            Self::Unknown(_) => None,
        }
    }
}

/// Why a node could not be looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "cause")]
pub enum Silence {
    /// Nobody has asked it yet.
    NotAsked,
    /// It could not be reached, or did not answer in time.
    Unreachable {
        /// What went wrong, for people.
        reason: String,
    },
    /// It answered something that is not a report.
    Unreadable {
        /// What was wrong with it, for people.
        reason: String,
    },
    /// Another machine answers under this name.
    WrongNode {
        /// Who was expected.
        expected: NodeId,
        /// Who answered.
        found: NodeId,
    },
    /// The same machine answers under another name too.
    SameNode {
        /// The other name.
        other: NodeName,
    },
    /// Who answers is not who other nodes remember under this name, or they do not agree on who that is.
    Impostor {
        /// Who answered.
        found: NodeId,
        /// Which nodes remember whom under this name.
        remembered: BTreeMap<NodeName, NodeId>,
    },
    /// It says less than others know of it: it was put back from an older copy, and what it owned may be another's by now.
    PutBack {
        /// The generation that it says it obeys.
        obeys: Generation,
        /// Which nodes remember it to have obeyed which newer one.
        remembered: BTreeMap<NodeName, Generation>,
        /// The nodes that are silent, any of which may have what it had; none where one that has it is seen.
        silent: BTreeSet<NodeName>,
        /// What it says it owns and is seen to be another's: a person has to decide each of these.
        #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
        owns: BTreeSet<DatasetId>,
    },
    /// A person has declared it lost for ever, so nobody asks it.
    Forgotten,
}

impl Silence {
    /// Returns what a person can do about it, where that is more than bringing the node back.
    #[must_use]
    pub fn hint(&self, node: &NodeName) -> Option<String> {
        match self {
            Self::Impostor { found, remembered } => {
                let who: BTreeSet<&str> = remembered
                    .iter()
                    .filter(|(_, id)| *id != found)
                    .map(|(who, _)| who.as_str())
                    .collect();
                let who: Vec<&str> = who.into_iter().collect();
                Some(format!(
                    "if the {node} that {who} knew is lost for ever, `flocker node forget {node}` says so, and lets in the one that answers; if it is {who} who is wrong, `id: {found}` at {node} in the deployment file says who is right; else bring the old one back under this name",
                    who = who.join(" and ")
                ))
            }
            Self::PutBack { silent, owns, .. } if silent.is_empty() => {
                let decide: Vec<String> = owns
                    .iter()
                    .map(|dataset| format!("`flocker promote {dataset} --on NODE`"))
                    .collect();
                Some(format!(
                    "`flocker plan` shows who else owns it, and {} decides which copy counts; {node} counts again once all is decided",
                    if decide.is_empty() {
                        "`flocker promote`".into()
                    } else {
                        decide.join(" and ")
                    }
                ))
            }
            Self::PutBack { silent, .. } => {
                let forget: Vec<String> = silent
                    .iter()
                    .map(|silent| format!("`flocker node forget {silent}`"))
                    .collect();
                Some(format!(
                    "bring {} back, and {node} counts again; what is lost for ever is given up by {}, and then what {node} has counts, however old it is",
                    listed(silent),
                    forget.join(" and ")
                ))
            }
            Self::NotAsked
            | Self::Unreachable { .. }
            | Self::Unreadable { .. }
            | Self::WrongNode { .. }
            | Self::SameNode { .. }
            | Self::Forgotten => None,
        }
    }
}

impl fmt::Display for Silence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotAsked => f.write_str("it was not asked"),
            Self::Unreachable { reason } => write!(f, "it did not answer: {reason}"),
            Self::Unreadable { reason } => write!(f, "its answer could not be read: {reason}"),
            Self::WrongNode { expected, found } => {
                write!(
                    f,
                    "another machine answers: expected node {expected}, found node {found}"
                )
            }
            Self::SameNode { other } => write!(f, "it is the same machine as {other}"),
            Self::Impostor { found, remembered } => {
                write!(f, "node {found} answers under this name")?;
                let mut by_id: BTreeMap<NodeId, Vec<&str>> = BTreeMap::new();
                for (who, id) in remembered {
                    by_id.entry(*id).or_default().push(who.as_str());
                }
                for (id, who) in by_id {
                    let (who, verb) = (
                        who.join(" and "),
                        if who.len() == 1 { "remembers" } else { "remember" },
                    );
                    if id == *found {
                        write!(f, ", as {who} {verb}")?;
                    } else {
                        write!(f, ", but {who} {verb} node {id}")?;
                    }
                }
                Ok(())
            }
            Self::PutBack {
                obeys,
                remembered,
                silent,
                owns,
            } => {
                let who: BTreeSet<NodeName> = remembered.keys().cloned().collect();
                let newest = remembered.values().max().copied().unwrap_or_default();
                write!(
                    f,
                    "it was put back from an older copy: it says that it obeys generation {}, and {} {} that it obeyed {}; ",
                    obeys,
                    listed(&who),
                    if who.len() == 1 { "remembers" } else { "remember" },
                    newest,
                )?;
                if silent.is_empty() {
                    f.write_str("it says that it owns what was taken over from it since")?;
                    let owns: Vec<String> = owns.iter().map(ToString::to_string).collect();
                    return if owns.is_empty() {
                        Ok(())
                    } else {
                        write!(f, ": {}", owns.join(" and "))
                    };
                }
                write!(
                    f,
                    "while {} {} silent, nobody can tell what was taken over from it since",
                    listed(silent),
                    if silent.len() == 1 { "is" } else { "are" },
                )
            }
            Self::Forgotten => f.write_str("it was declared lost for ever"),
        }
    }
}

fn listed(nodes: &BTreeSet<NodeName>) -> String {
    let nodes: Vec<&str> = nodes.iter().map(NodeName::as_str).collect();
    nodes.join(" and ")
}

/// Everything that was seen of a cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClusterState {
    /// Every node that is known to exist, whether it could be seen or not.
    pub nodes: BTreeMap<NodeName, Observed<NodeState>>,
}

impl NodeState {
    /// Returns the same state in as little memory as it can stand in.
    ///
    /// What was inserted one by one stands in half-empty nodes; what is
    /// collected at once fills them. Whoever keeps the states of a large
    /// cluster calls this on each when it arrives.
    #[must_use]
    pub fn compact(mut self) -> Self {
        self.datasets = self.datasets.into_iter().collect();
        for copy in self.datasets.values_mut() {
            copy.snapshots.shrink_to_fit();
        }
        self.containers = self.containers.into_iter().collect();
        self.trash.shrink_to_fit();
        self
    }
}

impl ClusterState {
    /// Returns what was seen of a node, or nothing where it was not seen.
    #[must_use]
    pub fn known(&self, node: &NodeName) -> Option<&NodeState> {
        self.nodes.get(node).and_then(Observed::known)
    }

    /// Returns every dataset of which a seen node has something that cannot be read: the node, the dataset and the reason.
    pub fn all_unreadable(&self) -> impl Iterator<Item = (&NodeName, DatasetId, &str)> {
        self.all_known().flat_map(|(node, state)| {
            let unreadable = state.unreadable.iter();
            unreadable.map(move |(dataset, reason)| (node, *dataset, reason.as_str()))
        })
    }

    /// Returns all nodes that were seen, in order of name.
    pub fn all_known(&self) -> impl Iterator<Item = (&NodeName, &NodeState)> {
        self.nodes
            .iter()
            .filter_map(|(name, seen)| seen.known().map(|state| (name, state)))
    }

    /// Says whether a person has declared this node lost for ever, and some seen node has recorded it.
    ///
    /// What is lost is a machine, not a name: one that answers with another
    /// identity than the lost one, or is remembered by a seen node with another, is not forgotten.
    #[must_use]
    pub fn is_forgotten(&self, node: &NodeName) -> bool {
        let mut records = self
            .all_known()
            .filter_map(|(_, state)| state.forgotten.get(node))
            .peekable();
        if records.peek().is_none() {
            return false;
        }
        let lost: BTreeSet<&NodeId> = records.flatten().collect();
        // Nobody knew who it was: it may be anybody.
        if lost.is_empty() {
            return true;
        }
        if let Some(state) = self.known(node) {
            return lost.contains(&state.id);
        }
        let mut remembered = self
            .all_known()
            .filter_map(|(_, state)| state.peers.get(node)?.id.as_ref());
        remembered.all(|id| lost.contains(id))
    }

    /// Returns every node that is forgotten, whether anybody else speaks of it or not.
    #[must_use]
    pub fn forgotten(&self) -> BTreeSet<&NodeName> {
        let recorded: BTreeSet<&NodeName> = self
            .all_known()
            .flat_map(|(_, state)| state.forgotten.keys())
            .collect();
        recorded
            .into_iter()
            .filter(|name| self.is_forgotten(name))
            .collect()
    }
}

/// What was seen of one node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeState {
    /// Who it is.
    pub id: NodeId,
    /// Which boot of it was seen.
    pub boot: BootId,
    /// Where the other nodes reach it.
    pub address: IpAddr,
    /// The newest generation that it has obeyed.
    pub generation: Generation,
    /// The key of its definition hashes.
    pub key: DefinitionKey,
    /// Every dataset of ours that it has any trace of, independent of containers.
    pub datasets: BTreeMap<DatasetId, Manifestation>,
    /// Every container of ours, running or not.
    pub containers: BTreeMap<ApplicationName, ContainerState>,
    /// Its routes.
    pub routes: RouteTable,
    /// Copies that were destroyed and can still be brought back.
    pub trash: Vec<Trashed>,
    /// Of datasets that it has no trace of any more: the newest ownership that it knew of. It never takes this one or an older one.
    pub fences: BTreeMap<DatasetId, Epoch>,
    /// Datasets of which something is here that cannot be read, and why. What it is, be it the owner's, is not known.
    pub unreadable: BTreeMap<DatasetId, String>,
    /// How much more data it can take, if it can tell.
    pub free: Option<ByteSize>,
    /// What it keeps of snapshots that are not the newest of their copy.
    pub keeps: Keeps,
    /// Ports of its address that something else than Flocker uses.
    pub foreign_ports: BTreeSet<ExternalPort>,
    /// The other nodes that it has been told of.
    pub peers: BTreeMap<NodeName, Peer>,
    /// Nodes that a person has declared lost for ever, and who they were; nobody where that was not known.
    pub forgotten: BTreeMap<NodeName, BTreeSet<NodeId>>,
}

/// What a node keeps of a snapshot once there is a newer one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Keeps {
    /// A list of what it held: an increment can start from it, and it can be sent no more. So say older versions of every node.
    #[default]
    Lists,
    /// Everything that it held: it can be sent like the newest.
    Content,
}

impl Keeps {
    /// Says whether it is what is said by who says nothing.
    #[must_use]
    pub fn is_lists(&self) -> bool {
        *self == Self::Lists
    }
}

/// Another node, as a node is told of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Peer {
    /// Where it is reached.
    pub address: NodeAddress,
    /// Who answered there first. It stays until the node is forgotten.
    pub id: Option<NodeId>,
    /// The newest generation that just this machine is known to have obeyed. It says of no other one anything.
    ///
    /// While a machine that was put back from an older copy owns what is another's by now, it is one more than
    /// it was told: so it stays known for what it is.
    // Left out where there is none: who does not know of it would refuse the whole.
    #[serde(default, skip_serializing_if = "Generation::is_none")]
    pub generation: Generation,
}

/// A dataset's presence on a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifestation {
    /// What this node may do with it.
    pub role: Role,
    /// The complete snapshots that it has here, oldest first.
    pub snapshots: Vec<Snapshot>,
    /// How much it may hold, or no limit.
    pub maximum_size: Option<ByteSize>,
    /// How much it holds.
    pub used: ByteSize,
    /// How much was written since the newest snapshot; an estimate.
    pub unsent: ByteSize,
    /// What else was found while it was looked at: mostly nothing, and what older versions say has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub findings: Option<Box<Findings>>,
    /// A copy that has begun to arrive and is not complete.
    pub partial: Option<Box<PartialReceive>>,
    /// The newest ownership that this node knows of or has renounced: it may never take this one or an older one.
    pub fence: Epoch,
    /// How long it has had this role by the node's own clock: for people, and for keeping spare copies a while.
    pub age: Duration,
}

impl Manifestation {
    /// Returns how long this end of a round of copying takes at least, however little was written: zero where that is next
    /// to nothing.
    #[must_use]
    pub fn round(&self) -> Duration {
        self.findings.as_ref().map_or(Duration::ZERO, |found| found.round)
    }

    /// Returns what somebody has changed in this copy by hand, where that was seen: no increment fits it any more.
    #[must_use]
    pub fn altered(&self) -> Option<&str> {
        self.findings.as_ref()?.altered.as_deref()
    }
}

/// What only some copies have. It is kept apart because there may be a million of the others.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Findings {
    /// How long this end of a round of copying takes at least, seen from how long it took to look at the dataset.
    #[serde(default, skip_serializing_if = "Duration::is_zero")]
    pub round: Duration,
    /// What somebody has changed in this copy by hand.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub altered: Option<Box<str>>,
}

impl Findings {
    /// Returns them as a copy has them: nothing where there are none.
    #[must_use]
    pub fn boxed(self) -> Option<Box<Self>> {
        (self != Self::default()).then(|| Box::new(self))
    }
}

/// What a node may do with a dataset.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "role")]
pub enum Role {
    /// It alone may write.
    Primary {
        /// Since which ownership.
        epoch: Epoch,
    },
    /// It has written last, has let go, and writes no more.
    Released {
        /// The ownership that it let go for.
        epoch: Epoch,
        /// Who may take that ownership.
        to: NodeName,
        /// The snapshot that holds everything ever written.
        last: SnapshotName,
        /// The identity of that snapshot.
        guid: SnapshotGuid,
    },
    /// It has a copy, or the beginning of one, and never writes.
    Replica,
}

/// A state of a dataset that stays as it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    /// What Flocker calls it.
    pub name: SnapshotName,
    /// What makes it the same on two nodes.
    pub guid: SnapshotGuid,
    /// How much was written between the snapshot before it and this one.
    pub written: ByteSize,
}

/// A copy that has begun to arrive.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartialReceive {
    /// Which snapshot it is to become.
    pub snapshot: SnapshotName,
    /// How much has arrived and is kept.
    pub received: ByteSize,
    /// What the sender needs in order to go on where it stopped; its meaning is the backend's own.
    pub token: String,
}

/// A copy of a dataset that was destroyed and can still be brought back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trashed {
    /// Which piece of trash it is, on this node.
    pub entry: String,
    /// The dataset.
    pub dataset: DatasetId,
    /// What its node might do with it; nothing where that can no longer be told.
    pub role: Option<Role>,
    /// How much it holds.
    pub used: ByteSize,
    /// How long it has been there, by the node's own clock.
    pub age: Duration,
}

/// A container as a node reports it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerState {
    /// Whether it runs.
    pub status: ContainerStatus,
    /// Whether it serves.
    pub health: Health,
    /// The fingerprint of the definition that it was started with.
    pub definition: DefinitionHash,
    /// The dataset that it has mounted.
    pub dataset: Option<DatasetId>,
    /// Where on its node its internal ports are reached.
    pub address: Option<IpAddr>,
    /// How long it may take to end.
    pub stop_grace: Duration,
    /// How often it was started again by its restart policy.
    pub restarts: u32,
}

impl ContainerState {
    /// Says whether it runs, or may run again without being asked.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        match self.status {
            ContainerStatus::Running | ContainerStatus::Restarting => true,
            ContainerStatus::Prepared | ContainerStatus::Exited { .. } => false,
        }
    }
}

/// Whether a container runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "status")]
pub enum ContainerStatus {
    /// Everything is in place for it to start, and it was not started yet.
    Prepared,
    /// It runs.
    Running,
    /// It has ended, and its restart policy will start it again.
    Restarting,
    /// It has ended and stays so.
    Exited {
        /// Its exit status; 128 and the signal's number where it was killed, nothing where nobody saw it end.
        code: Option<i32>,
    },
}

/// Whether an application serves, by its own health check.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Health {
    /// It has no health check.
    NotChecked,
    /// Its last probe succeeded.
    Healthy,
    /// Its probes failed, more in a row than it may.
    Unhealthy,
}
