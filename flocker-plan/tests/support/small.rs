//! Small clusters by number: every node is a letter, a cluster a word of them.

use std::time::Duration;

use flocker_model::{
    ByteSize, ClusterState, ContainerStatus, Deployment, Epoch, Generation, Manifestation, NodeState,
    Observed, PartialReceive, Role, SnapshotName, Trashed,
};

use crate::world::{
    application, application_name, container, copy, dataset_id, node, node_name, silent, snapshot,
};

/// Whether a node is seen, and what it obeys.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Sight {
    /// It is seen, and obeys an older configuration than the wanted one.
    Behind,
    /// It is seen, and obeys the wanted configuration already: somebody began to bring it about.
    Begun,
    /// It is seen, and obeys a newer one.
    Ahead,
    /// It does not answer.
    Silent,
    /// It does not answer, and every seen node has it on record as lost for ever.
    Lost,
    /// It was declared lost for ever, and answers.
    Returned,
}

/// What a node has of a dataset. The newest ownership that is spoken of is 3 or, where it was withdrawn, 4.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Copy {
    Absent,
    /// A copy without any snapshot.
    Bare,
    /// The last snapshot of the ownership before.
    Base,
    /// That and a warm one.
    Warm,
    /// It has renounced ownership 3.
    Renounced,
    /// The last snapshot for ownership 3: everything.
    Complete,
    /// Everything, and it has renounced ownership 3 and 4.
    CompleteRenounced,
    /// A snapshot of the same name and other content.
    Other,
    /// The beginning of a warm snapshot.
    PartialWarm,
    /// The beginning of the last one.
    PartialLast,
    /// It owns since 2.
    Owner,
    /// It owns since 2, and a warm snapshot for 3 was taken.
    OwnerWarm,
    /// It owns since 2 and has written much since.
    OwnerBusy,
    /// It owns since 1, and no snapshot was ever taken.
    OwnerFirst,
    /// It owns since 3.
    OwnerNext,
    /// It owns since 2 what is of other content.
    OwnerOther,
    /// It let go for ownership 2 a while ago.
    LetEarlier(usize),
    /// It let go for ownership 3.
    Let(usize),
    /// It let go for ownership 4 what it had let go for 3 before.
    LetAgain(usize),
    /// A copy is in its trash.
    Trashed,
    /// What it owned is in its trash, thrown away after what was let go.
    TrashedOwner,
    /// What it owned is in its trash, thrown away before that.
    TrashedOwnerBefore,
    /// Nothing is left but the memory of ownership 3.
    Fenced,
}

/// How far an application is on a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Run {
    Nothing,
    Prepared,
    Running,
    /// It runs as it was defined before.
    RunningOther,
    Restarting,
    Exited,
}

/// A node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Letter {
    pub(crate) sight: Sight,
    pub(crate) copies: [Copy; 2],
    pub(crate) runs: [Run; 2],
}

impl Letter {
    pub(crate) fn unseen(sight: Sight) -> Self {
        Self {
            sight,
            copies: [Copy::Absent; 2],
            runs: [Run::Nothing; 2],
        }
    }

    /// The same where nodes have changed their numbers.
    fn renumbered(mut self, numbers: &[usize]) -> Self {
        for copy in &mut self.copies {
            if let Copy::LetEarlier(to) | Copy::Let(to) | Copy::LetAgain(to) = copy {
                *to = numbers[*to];
            }
        }
        self
    }

    /// The same where the two datasets, and the two applications, have changed their numbers.
    fn swapped(mut self) -> Self {
        self.copies.swap(0, 1);
        self.runs.swap(0, 1);
        self
    }
}

impl Copy {
    pub(crate) fn is_owner(self) -> bool {
        matches!(
            self,
            Self::Owner
                | Self::OwnerWarm
                | Self::OwnerBusy
                | Self::OwnerFirst
                | Self::OwnerNext
                | Self::OwnerOther
        )
    }
}

/// Which clusters are one and the same under other numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Symmetry {
    /// None: every cluster is looked at.
    None,
    /// Nodes may change places.
    Nodes,
    /// Nodes, and the two applications with their data.
    NodesAndApplications,
}

/// Says whether a cluster comes first among those that are the same under other numbers.
pub(crate) fn comes_first(word: &[Letter], symmetry: Symmetry) -> bool {
    if symmetry == Symmetry::None {
        return true;
    }
    let orders: &[&[usize]] = match word.len() {
        2 => &[&[0, 1], &[1, 0]],
        3 => &[
            &[0, 1, 2],
            &[0, 2, 1],
            &[1, 0, 2],
            &[1, 2, 0],
            &[2, 0, 1],
            &[2, 1, 0],
        ],
        _ => &[&[0]],
    };
    orders.iter().all(|order| {
        // `order[place]` is who stands there now; `numbers[who]` the number it has by that.
        let mut numbers = [0; 3];
        for (place, &who) in order.iter().enumerate() {
            numbers[who] = place;
        }
        let moved = || order.iter().map(|&who| word[who].renumbered(&numbers));
        let first = word.iter().copied().le(moved());
        let also = symmetry == Symmetry::Nodes || word.iter().copied().le(moved().map(Letter::swapped));
        first && also
    })
}

/// Builds the cluster that a word says.
pub(crate) fn cluster(word: &[Letter], defined: &Deployment) -> ClusterState {
    let mut state = ClusterState::default();
    let lost: Vec<usize> = (0..word.len())
        .filter(|&number| matches!(word[number].sight, Sight::Lost | Sight::Returned))
        .collect();
    for (number, letter) in word.iter().enumerate() {
        let observed = match letter.sight {
            Sight::Silent | Sight::Lost => silent(),
            Sight::Behind | Sight::Begun | Sight::Ahead | Sight::Returned => {
                let mut seen = seen(number, letter, defined);
                for &lost in lost.iter().filter(|lost| **lost != number) {
                    seen.forgotten.insert(node_name(lost), [node(lost).id].into());
                }
                Observed::Known(seen)
            }
        };
        state.nodes.insert(node_name(number), observed);
    }
    state
}

fn seen(number: usize, letter: &Letter, defined: &Deployment) -> NodeState {
    let mut seen = node(number);
    seen.generation = match letter.sight {
        Sight::Begun => Generation(2),
        Sight::Ahead => Generation(9),
        Sight::Behind | Sight::Silent | Sight::Lost | Sight::Returned => Generation(1),
    };
    for (dataset, copy) in letter.copies.into_iter().enumerate() {
        place_copy(&mut seen, dataset, copy);
    }
    for (number, run) in letter.runs.into_iter().enumerate() {
        let name = application_name(number);
        let known = defined.application(&name);
        let has_data = known.is_some_and(|known| known.volume.is_some());
        let before = application(number, 1, has_data);
        let mut made = container(
            if run == Run::RunningOther {
                Some(&before)
            } else {
                known
            },
            &seen,
        );
        made.status = match run {
            Run::Nothing => continue,
            Run::Prepared => ContainerStatus::Prepared,
            Run::Running | Run::RunningOther => ContainerStatus::Running,
            Run::Restarting => ContainerStatus::Restarting,
            Run::Exited => ContainerStatus::Exited { code: Some(1) },
        };
        if run == Run::Prepared {
            made.dataset = None;
        }
        seen.containers.insert(name, made);
    }
    seen
}

/// How old what was let go is; what is thrown away afterwards is younger.
const AGE: Duration = Duration::from_secs(600);

fn place_copy(seen: &mut NodeState, dataset: usize, letter: Copy) {
    let base = || snapshot(SnapshotName::handoff(Epoch(2)), 0);
    let other = || snapshot(SnapshotName::handoff(Epoch(2)), 1);
    let warm = || snapshot(SnapshotName::warm(Epoch(3), 1), 0);
    let last = || snapshot(SnapshotName::handoff(Epoch(3)), 0);
    let replica = |fence, snapshots| copy(Role::Replica, fence, snapshots);
    let owner = |epoch: u64, snapshots| copy(Role::Primary { epoch: Epoch(epoch) }, epoch, snapshots);
    let let_go = |epoch: u64, to, snapshots: Vec<_>| {
        let last: &flocker_model::Snapshot = &snapshots[snapshots.len() - 1];
        let role = Role::Released {
            epoch: Epoch(epoch),
            to: node_name(to),
            last: last.name.clone(),
            guid: last.guid,
        };
        let mut copy = copy(role, epoch - 1, snapshots);
        copy.age = AGE;
        copy
    };
    let partial = |snapshot| {
        let mut copy = replica(0, vec![base()]);
        copy.partial = Some(Box::new(PartialReceive {
            snapshot,
            received: ByteSize(1 << 20),
            token: "token".into(),
        }));
        copy
    };
    let mut thrown_away = |role: Role, fence, age| {
        seen.trash.push(Trashed {
            entry: format!("trash-{dataset}"),
            dataset: dataset_id(dataset),
            role: Some(role),
            used: ByteSize(10 << 20),
            age,
        });
        if fence > 0 {
            seen.fences.insert(dataset_id(dataset), Epoch(fence));
        }
    };
    let mut made = match letter {
        Copy::Absent => return,
        Copy::Bare => replica(0, Vec::new()),
        Copy::Base => replica(0, vec![base()]),
        Copy::Warm => replica(2, vec![base(), warm()]),
        Copy::Renounced => replica(3, vec![base()]),
        Copy::Complete => replica(2, vec![base(), last()]),
        Copy::CompleteRenounced => replica(4, vec![base(), last()]),
        Copy::Other => replica(0, vec![other()]),
        Copy::PartialWarm => partial(warm().name),
        Copy::PartialLast => partial(last().name),
        Copy::Owner => owner(2, vec![base()]),
        Copy::OwnerWarm => owner(2, vec![base(), warm()]),
        Copy::OwnerBusy => {
            let mut busy = owner(2, vec![base()]);
            busy.unsent = ByteSize(1 << 30);
            busy
        }
        Copy::OwnerFirst => owner(1, Vec::new()),
        Copy::OwnerNext => owner(3, vec![base(), last()]),
        Copy::OwnerOther => owner(2, vec![other()]),
        Copy::LetEarlier(to) => let_go(2, to, vec![base()]),
        Copy::Let(to) => let_go(3, to, vec![base(), last()]),
        Copy::LetAgain(to) => let_go(4, to, vec![base(), last()]),
        Copy::Trashed => return thrown_away(Role::Replica, 0, AGE / 2),
        Copy::TrashedOwner => return thrown_away(Role::Primary { epoch: Epoch(3) }, 3, AGE / 2),
        Copy::TrashedOwnerBefore => return thrown_away(Role::Primary { epoch: Epoch(2) }, 2, AGE * 2),
        Copy::Fenced => {
            seen.fences.insert(dataset_id(dataset), Epoch(3));
            return;
        }
    };
    made.used = content(&made);
    seen.datasets.insert(dataset_id(dataset), made);
}

/// How much a copy holds says what it holds: equal content has equal size here, and other content another.
///
/// What is received takes the size of what was sent, and what is created
/// holds nothing; so a size tells whose data a copy is.
fn content(copy: &Manifestation) -> ByteSize {
    let newest = copy
        .snapshots
        .last()
        .map_or(0, |newest| newest.guid.0 % 0xffff + 1);
    let partly = u64::from(!matches!(copy.role, Role::Primary { .. }) && copy.snapshots.is_empty());
    let newest = u64::try_from(newest).unwrap();
    ByteSize((10 << 20) + (newest << 2) + partly + (u64::from(copy.unsent > ByteSize(0)) << 1))
}
