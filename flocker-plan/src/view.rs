//! A cluster by number: the planner compares records and numbers, and reads a name only to write it into a step.

use std::cmp::Ordering;
use std::ops::Range;
use std::sync::OnceLock;

use flocker_model::Application;
use flocker_model::ApplicationName;
use flocker_model::ClusterState;
use flocker_model::ContainerState;
use flocker_model::DatasetId;
use flocker_model::DefinitionHash;
use flocker_model::Deployment;
use flocker_model::Epoch;
use flocker_model::Manifestation;
use flocker_model::NodeName;
use flocker_model::NodeState;
use flocker_model::Observed;
use flocker_model::Role;

use crate::by_dataset::ByDataset;
use crate::by_dataset::OfDataset;
use crate::by_dataset::sort;
use crate::shares::Workers;
use crate::shares::each;

/// One node, wanted or seen.
#[derive(Debug)]
pub(crate) struct NodeView<'a> {
    pub(crate) name: &'a NodeName,
    /// What was seen of it.
    pub(crate) seen: Option<&'a NodeState>,
    /// Its number in the deployment; nothing where the deployment does not speak of it.
    pub(crate) member: Option<u32>,
    /// Whether a person has declared it lost for ever.
    pub(crate) forgotten: bool,
}

/// A copy of a dataset on a seen node.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CopyView<'a> {
    pub(crate) dataset: DatasetId,
    pub(crate) node: u32,
    /// Whether it is, or was until it let go, the one that is written.
    pub(crate) ownership: Ownership,
    /// Whether how much it may hold is limited.
    pub(crate) is_limited: bool,
    /// Whether it has more than one snapshot.
    pub(crate) is_crowded: bool,
    pub(crate) what: &'a Manifestation,
}

/// A [`Role`] without what belongs to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ownership {
    Primary,
    Released,
    None,
}

impl<'a> CopyView<'a> {
    /// Copies out what is asked of every dataset: a look at the copy itself is a look at far-off memory.
    fn new(dataset: DatasetId, node: u32, what: &'a Manifestation) -> Self {
        Self {
            dataset,
            node,
            ownership: match what.role {
                Role::Primary { .. } => Ownership::Primary,
                Role::Released { .. } => Ownership::Released,
                Role::Replica => Ownership::None,
            },
            is_limited: what.maximum_size.is_some(),
            is_crowded: what.snapshots.len() > 1,
            what,
        }
    }
}

impl OfDataset for CopyView<'_> {
    fn dataset(&self) -> DatasetId {
        self.dataset
    }

    fn order(&self, other: &Self) -> Ordering {
        self.node.cmp(&other.node)
    }
}

/// A container on a node where its application is not placed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Extra<'a> {
    /// The number of its application; nothing where the deployment does not define it.
    pub(crate) application: Option<u32>,
    pub(crate) name: &'a ApplicationName,
    pub(crate) node: u32,
    pub(crate) container: &'a ContainerState,
}

/// A container that has a dataset mounted, or would have when it starts.
#[derive(Clone, Copy, Debug)]
pub(crate) struct UserView<'a> {
    pub(crate) dataset: DatasetId,
    pub(crate) node: u32,
    pub(crate) name: &'a ApplicationName,
    pub(crate) container: &'a ContainerState,
}

impl OfDataset for UserView<'_> {
    fn dataset(&self) -> DatasetId {
        self.dataset
    }

    fn order(&self, other: &Self) -> Ordering {
        self.node.cmp(&other.node).then_with(|| self.name.cmp(other.name))
    }
}

/// A few datasets among many: says surely which are not among them.
#[derive(Debug)]
struct Sought {
    bits: Vec<u64>,
}

impl Sought {
    fn new(datasets: impl ExactSizeIterator<Item = DatasetId>) -> Self {
        let n_words = (datasets.len() / 4 + 1).next_power_of_two();
        let mut made = Self {
            bits: vec![0; n_words],
        };
        for dataset in datasets {
            let (word, bit) = made.place(dataset);
            made.bits[word] |= 1 << bit;
        }
        made
    }

    fn place(&self, dataset: DatasetId) -> (usize, u64) {
        let (first, last) = dataset.0.as_u64_pair();
        let mixed = (first ^ last).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let word = usize::try_from(mixed >> 32).unwrap_or(0) & (self.bits.len() - 1);
        (word, mixed >> 26 & 63)
    }

    fn has(&self, dataset: DatasetId) -> bool {
        let (word, bit) = self.place(dataset);
        self.bits[word] >> bit & 1 == 1
    }
}

/// Desired and actual state by number.
#[derive(Debug)]
pub(crate) struct View<'a> {
    pub(crate) desired: &'a Deployment,
    pub(crate) names: Vec<&'a ApplicationName>,
    pub(crate) definitions: Vec<&'a Application>,
    /// All nodes, in order of name.
    pub(crate) nodes: Vec<NodeView<'a>>,
    /// By number of member: number of node.
    pub(crate) members: Vec<u32>,
    /// All copies, in order of dataset, then node.
    pub(crate) copies: ByDataset<CopyView<'a>>,
    /// Silent nodes that are not known to be lost.
    pub(crate) silent: Vec<NodeName>,
    /// Which datasets are in the trash of which seen nodes, in order of both.
    trashed: Vec<(DatasetId, u32)>,
    /// What seen nodes know of the ownerships of datasets of which they have no copy, in order of both.
    fences: Vec<(DatasetId, Epoch)>,
    /// Which datasets cannot be read on which seen nodes, in order of both.
    unreadable: Vec<(DatasetId, u32)>,
    /// The only datasets whose users anybody asks for; nothing where that may be any.
    sought: Option<Sought>,
    /// All containers with a dataset, in order of dataset, node and name; made when the first move asks.
    users: OnceLock<ByDataset<UserView<'a>>>,
    /// Nodes that a person has declared lost, whether anybody else speaks of them or not; in order.
    lost: Vec<&'a NodeName>,
    /// Who looks at it.
    pub(crate) workers: Workers,
}

impl<'a> View<'a> {
    pub(crate) fn new(desired: &'a Deployment, actual: &'a ClusterState, workers: Workers) -> Self {
        let (names, definitions) = desired.applications().iter().unzip();
        let forgotten: Vec<&NodeName> = actual.forgotten().into_iter().collect();
        let mut nodes: Vec<NodeView<'a>> = Vec::with_capacity(actual.nodes.len());
        let mut members = Vec::with_capacity(desired.members().len());
        let mut listed = (0_u32..).zip(desired.members().keys()).peekable();
        let mut view = |name: &'a NodeName, seen: Option<&'a NodeState>, member: Option<u32>| {
            if member.is_some() {
                members.push(number(nodes.len()));
            }
            nodes.push(NodeView {
                name,
                seen,
                member,
                forgotten: forgotten.binary_search(&name).is_ok(),
            });
        };
        for (name, observed) in &actual.nodes {
            while let Some((member, earlier)) = listed.next_if(|(_, listed)| *listed < name) {
                view(earlier, None, Some(member));
            }
            let member = listed
                .next_if(|(_, listed)| *listed == name)
                .map(|(member, _)| member);
            view(name, observed.known(), member);
        }
        for (member, name) in listed {
            view(name, None, Some(member));
        }
        let n_copies = count_copies(&nodes);
        let shares = workers.shares(nodes.len(), n_copies);
        let copies = each(&shares, |share| {
            // The first share finds room for all: the others are put behind it.
            let room = if share.start == 0 {
                n_copies
            } else {
                count_copies(&nodes[share.clone()])
            };
            find_copies(&nodes, share, room)
        });
        let mut trashed = Vec::new();
        for (node, NodeView { seen, .. }) in (0_u32..).zip(&nodes) {
            let trash = seen.iter().flat_map(|state| &state.trash);
            trashed.extend(trash.map(|piece| (piece.dataset, node)));
        }
        trashed.sort_unstable();
        trashed.dedup();
        let mut unreadable = Vec::new();
        for (node, NodeView { seen, .. }) in (0_u32..).zip(&nodes) {
            let datasets = seen.iter().flat_map(|state| state.unreadable.keys());
            unreadable.extend(datasets.map(|dataset| (*dataset, node)));
        }
        unreadable.sort_unstable();
        let states = nodes.iter().filter_map(|node| node.seen);
        let fences = states.flat_map(|state| &state.fences);
        let mut fences: Vec<(DatasetId, Epoch)> = fences.map(|(dataset, fence)| (*dataset, *fence)).collect();
        fences.sort_unstable();
        let silent = actual
            .nodes
            .iter()
            .filter(|(_, observed)| matches!(observed, Observed::Unknown(_)))
            .map(|(name, _)| name)
            .chain(
                desired
                    .members()
                    .keys()
                    .filter(|name| !actual.nodes.contains_key(*name)),
            )
            .filter(|name| forgotten.binary_search(name).is_err())
            .cloned();
        let mut silent: Vec<NodeName> = silent.collect();
        silent.sort_unstable();
        Self {
            desired,
            names,
            definitions,
            nodes,
            members,
            copies: ByDataset::of_sorted(copies),
            silent,
            trashed,
            fences,
            unreadable,
            sought: None,
            users: OnceLock::new(),
            lost: forgotten,
            workers,
        }
    }

    /// Says whether a person has declared a node lost for ever.
    pub(crate) fn is_lost(&self, name: &NodeName) -> bool {
        self.lost.binary_search(&name).is_ok()
    }

    /// Says whether a machine that was called so was declared lost, whoever is called so by now.
    pub(crate) fn has_lost(&self, name: &NodeName) -> bool {
        let mut states = self.nodes.iter().filter_map(|node| node.seen);
        states.any(|state| state.forgotten.contains_key(name))
    }

    pub(crate) fn node(&self, node: u32) -> &NodeView<'a> {
        &self.nodes[node as usize]
    }

    /// Returns the number of a node by its name.
    pub(crate) fn find(&self, name: &NodeName) -> Option<u32> {
        self.nodes
            .binary_search_by(|node| node.name.cmp(name))
            .ok()
            .map(number)
    }

    pub(crate) fn name(&self, node: u32) -> NodeName {
        self.node(node).name.clone()
    }

    /// Returns the dataset of an application.
    pub(crate) fn dataset(&self, application: u32) -> Option<DatasetId> {
        let volume = self.definitions[application as usize].volume.as_ref();
        volume.map(|volume| volume.dataset)
    }

    /// Returns the nodes on which an application is placed.
    pub(crate) fn homes(&self, application: u32) -> impl Iterator<Item = u32> {
        self.desired
            .placements()
            .homes(application)
            .iter()
            .map(|&member| self.members[member as usize])
    }

    /// Returns the copies of a dataset on seen nodes.
    pub(crate) fn copies_of(&self, dataset: DatasetId) -> &[CopyView<'a>] {
        self.copies.of(dataset)
    }

    /// Returns the seen nodes that have a dataset in their trash.
    pub(crate) fn trash_of(&self, dataset: DatasetId) -> impl Iterator<Item = u32> {
        let start = self.trashed.partition_point(|(trashed, _)| *trashed < dataset);
        let found = self.trashed[start..].iter();
        found
            .take_while(move |(trashed, _)| *trashed == dataset)
            .map(|(_, node)| *node)
    }

    /// Returns the seen nodes that have something of a dataset that cannot be read.
    pub(crate) fn unreadable_on(&self, dataset: DatasetId) -> impl Iterator<Item = u32> {
        let start = self.unreadable.partition_point(|(known, _)| *known < dataset);
        let found = self.unreadable[start..].iter();
        found
            .take_while(move |(known, _)| *known == dataset)
            .map(|(_, node)| *node)
    }

    /// Says whether an owner of a dataset may be where nobody can see it: on a silent node, or in what cannot be read.
    pub(crate) fn may_hide(&self, dataset: DatasetId) -> bool {
        !self.silent.is_empty() || self.unreadable_on(dataset).next().is_some()
    }

    /// Returns the copy of a dataset on a seen node.
    pub(crate) fn copy_on(&self, dataset: DatasetId, node: u32) -> Option<&'a Manifestation> {
        let copies = self.copies_of(dataset).iter();
        copies
            .filter(|copy| copy.node == node)
            .map(|copy| copy.what)
            .next()
    }

    /// Says that only the users of these datasets will be asked for.
    pub(crate) fn seek(&mut self, datasets: impl ExactSizeIterator<Item = DatasetId>) {
        self.sought = Some(Sought::new(datasets));
    }

    /// Returns the newest ownership of a dataset that a seen node without a copy of it knows of.
    pub(crate) fn fence_left(&self, dataset: DatasetId) -> Option<Epoch> {
        let n_before = self.fences.partition_point(|(known, _)| *known <= dataset);
        let last = self.fences[..n_before].last();
        last.filter(|(known, _)| *known == dataset)
            .map(|(_, fence)| *fence)
    }

    /// Returns the containers, of whatever name, that have a dataset, in order of node, then name.
    pub(crate) fn users_of(&self, dataset: DatasetId) -> &[UserView<'a>] {
        debug_assert!(self.sought.as_ref().is_none_or(|sought| sought.has(dataset)));
        self.users.get_or_init(|| self.find_users()).of(dataset)
    }

    /// Reads what it takes to find the copies and the users of some datasets; see [`ByDataset::look_ahead`].
    pub(crate) fn look_ahead(&self, datasets: &[DatasetId]) -> u64 {
        let users = self.users.get_or_init(|| self.find_users());
        self.copies.look_ahead(datasets) ^ users.look_ahead(datasets)
    }

    fn find_users(&self) -> ByDataset<UserView<'a>> {
        let shares = self.workers.shares(self.nodes.len(), self.names.len());
        ByDataset::of_sorted(each(&shares, |share| {
            let mut users = Vec::new();
            for (node, NodeView { seen, .. }) in (number(share.start)..).zip(&self.nodes[share]) {
                let containers = seen.iter().flat_map(|state| &state.containers);
                users.extend(containers.filter_map(|(name, container)| {
                    let dataset = container.dataset?;
                    let is_sought = self.sought.as_ref().is_none_or(|sought| sought.has(dataset));
                    is_sought.then_some(UserView {
                        dataset,
                        node,
                        name,
                        container,
                    })
                }));
            }
            sort(&mut users);
            users
        }))
    }

    /// Finds the users of the datasets that are sought, before anybody asks for those of one.
    pub(crate) fn find_all_users(&self) {
        self.users.get_or_init(|| self.find_users());
    }

    /// Returns the fingerprint that an application's definition has on a seen node.
    pub(crate) fn definition_on(&self, application: u32, state: &NodeState) -> DefinitionHash {
        self.desired
            .placements()
            .definition(application)
            .unwrap_or_else(|| self.definitions[application as usize].definition_hash(&state.key))
    }
}

fn count_copies(nodes: &[NodeView<'_>]) -> usize {
    let states = nodes.iter().filter_map(|node| node.seen);
    states.map(|state| state.datasets.len()).sum()
}

/// Returns the copies on some nodes, in order, with room for so many.
fn find_copies<'a>(nodes: &[NodeView<'a>], share: Range<usize>, room: usize) -> Vec<CopyView<'a>> {
    let mut copies = Vec::with_capacity(room);
    for (node, NodeView { seen, .. }) in (number(share.start)..).zip(&nodes[share]) {
        let datasets = seen.iter().flat_map(|state| &state.datasets);
        copies.extend(datasets.map(|(dataset, what)| CopyView::new(*dataset, node, what)));
    }
    sort(&mut copies);
    copies
}

/// Turns a position into a number. There are never four billion nodes or applications in one memory.
pub(crate) fn number(position: usize) -> u32 {
    u32::try_from(position).unwrap_or(u32::MAX)
}
