//! The table of what is wanted of a dataset against what is seen of it. The two great dangers come first.

use std::collections::BTreeSet;

use flocker_model::ApplicationName;
use flocker_model::ContainerState;
use flocker_model::DatasetId;
use flocker_model::Epoch;
use flocker_model::Manifestation;
use flocker_model::NodeName;
use flocker_model::NodeState;
use flocker_model::Role;
use flocker_model::SnapshotGuid;
use flocker_model::SnapshotName;
use flocker_model::Trashed;
use flocker_model::planted::Bug;
use flocker_model::planted::is_planted;

use super::Rules;
use super::need;
use crate::action::Action;
use crate::blocked::Kept;
use crate::blocked::Refusal;
use crate::blocked::Waiting;
use crate::fact::Fact;
use crate::step::Because;
use crate::step::Need;
use crate::step::Reason;
use crate::view::CopyView;
use crate::view::NodeView;
use crate::view::View;

/// What is seen of a dataset, over the whole cluster.
#[derive(Clone, Debug)]
pub(super) enum Seen<'a> {
    /// More than one node may believe that it alone writes.
    Split { owners: Vec<(NodeName, Epoch)> },
    /// One node writes. A seen owner is authoritative: nobody can acquire before it releases.
    Primary { on: u32, what: &'a Manifestation },
    /// The last writer has let go, and no new one is seen.
    Released {
        by: u32,
        what: &'a Manifestation,
        epoch: Epoch,
        to: &'a NodeName,
        last: &'a SnapshotName,
        guid: SnapshotGuid,
    },
    /// No owner is seen, and a silent node may be it, or one of which what it has cannot be read.
    OwnerHidden,
    /// All nodes are seen; there are copies, and no owner.
    CopiesOnly { nodes: Vec<NodeName> },
    /// All nodes are seen, and none has a trace of it.
    Nowhere,
}

/// Works out what is seen, in a fixed order: danger, owner, release, silence, copies, nothing.
pub(super) fn see<'a>(view: &View<'a>, dataset: DatasetId) -> Seen<'a> {
    let copies = view.copies_of(dataset);
    let mut primaries = copies.iter().filter_map(|copy| match copy.what.role {
        Role::Primary { epoch } => Some((copy, epoch)),
        Role::Released { .. } | Role::Replica => None,
    });
    let newest_release = copies
        .iter()
        .filter_map(|copy| match &copy.what.role {
            Role::Released {
                epoch,
                to,
                last,
                guid,
            } => Some((copy, *epoch, to, last, *guid)),
            Role::Primary { .. } | Role::Replica => None,
        })
        .max_by_key(|(_, epoch, ..)| {
            if is_planted(Bug::OldestReleaseCounts) {
                Epoch(u64::MAX - epoch.0)
            } else {
                *epoch
            }
        });
    let split = |others: &[(&CopyView<'a>, Epoch)]| Seen::Split {
        owners: others
            .iter()
            .map(|(copy, epoch)| (view.name(copy.node), *epoch))
            .collect(),
    };
    match ((primaries.next(), primaries.next()), newest_release) {
        ((Some(first), Some(second)), _) => {
            let all: Vec<_> = [first, second].into_iter().chain(primaries).collect();
            split(&all)
        }
        // A release for a newer epoch than the owner's comes from an ownership that this owner has lost.
        ((Some((primary, own)), None), Some((release, epoch, ..))) if epoch > own => {
            split(&[(primary, own), (release, epoch)])
        }
        ((Some((primary, _)), None), _) => Seen::Primary {
            on: primary.node,
            what: primary.what,
        },
        // A copy knows of a newer ownership: its owner is not seen, and what was let go before is old.
        ((None, _), Some((_, epoch, ..))) if newest_epoch(view, dataset) > epoch => {
            without_owner(view, dataset, copies)
        }
        ((None, _), Some((release, epoch, to, last, guid))) => {
            let same = copies.iter().filter(
                |copy| matches!(&copy.what.role, Role::Released { epoch: other, .. } if *other == epoch),
            );
            let same: Vec<(&CopyView<'a>, Epoch)> = same.map(|copy| (copy, epoch)).collect();
            if same.len() > 1 {
                return split(&same);
            }
            let taker = view.find(to).and_then(|node| view.node(node).seen);
            let threw_away = taker.is_some_and(|taker| has_thrown_away(taker, dataset, release.what, epoch));
            let hidden = view.may_hide(dataset);
            // What it has may be what it was to take.
            let taken_unseen = view
                .find(to)
                .is_some_and(|taker| view.unreadable_on(dataset).any(|node| node == taker));
            if threw_away
                || taken_unseen
                || (hidden && taker.is_some_and(|taker| has_more(taker, dataset, release.what)))
            {
                return without_owner(view, dataset, copies);
            }
            Seen::Released {
                by: release.node,
                what: release.what,
                epoch,
                to,
                last,
                guid,
            }
        }
        ((None, _), None) => without_owner(view, dataset, copies),
    }
}

/// No owner is seen, and no release that counts.
fn without_owner<'a>(view: &View<'a>, dataset: DatasetId, copies: &[CopyView<'a>]) -> Seen<'a> {
    if view.may_hide(dataset) && !is_planted(Bug::SilenceIsAbsence) {
        Seen::OwnerHidden
    } else if copies.is_empty() {
        Seen::Nowhere
    } else {
        Seen::CopiesOnly {
            nodes: copies.iter().map(|copy| view.name(copy.node)).collect(),
        }
    }
}

/// Says whether the node that a release was made to has thrown a copy away since: it may have been the owner's.
///
/// One that was set aside before the release is older than it, and one that
/// was only a copy when it went was never written. Where the trash was emptied
/// since, what the node still knows of the ownership says that it was there.
fn has_thrown_away(taker: &NodeState, dataset: DatasetId, released: &Manifestation, epoch: Epoch) -> bool {
    if taker.datasets.contains_key(&dataset) {
        return false;
    }
    let trash = || taker.trash.iter().filter(|trash| trash.dataset == dataset);
    let was_copy = |trash: &Trashed| trash.role == Some(Role::Replica);
    let knew = taker.fences.get(&dataset).is_some_and(|fence| *fence >= epoch);
    trash().any(|trash| !was_copy(trash) && trash.age < released.age) || (knew && !trash().any(was_copy))
}

/// Says whether the node that a release was made to has data that did not come from it.
fn has_more(taker: &NodeState, dataset: DatasetId, released: &Manifestation) -> bool {
    let copy = taker.datasets.get(&dataset);
    let newest = copy.and_then(|copy| copy.snapshots.last());
    let mut sent = released.snapshots.iter().map(|snapshot| snapshot.guid);
    newest.is_some_and(|newest| !sent.any(|sent| sent == newest.guid))
}

/// Returns the ownership after the newest that any seen node knows of.
pub(super) fn next_epoch(view: &View<'_>, dataset: DatasetId) -> Epoch {
    if is_planted(Bug::EpochStays) {
        return newest_epoch(view, dataset);
    }
    newest_epoch(view, dataset).next()
}

/// Returns the newest ownership that any seen node knows of, whether it has a copy by now or not.
pub(super) fn newest_epoch(view: &View<'_>, dataset: DatasetId) -> Epoch {
    let fences = view.copies_of(dataset).iter().map(|copy| match copy.what.role {
        Role::Primary { epoch } | Role::Released { epoch, .. } => epoch.max(copy.what.fence),
        Role::Replica => copy.what.fence,
    });
    fences.chain(view.fence_left(dataset)).max().unwrap_or_default()
}

impl Rules<'_> {
    /// Looks at an application of which anything is not as it is to be.
    pub(super) fn apply(&mut self, application: u32) {
        let members = self.view.desired.placements().homes(application);
        let volume = self.view.definitions[application as usize].volume.as_ref();
        match (members, volume) {
            ([], _) => self.stop_everywhere(application),
            (&[member], Some(volume)) => {
                let home = self.view.members[member as usize];
                let dataset = volume.dataset;
                if !self.obeys(home) {
                    self.wait_for_sight(application, true, vec![self.node(home)]);
                    self.stays(application);
                    return;
                }
                let unreadable_at_home = self.view.unreadable_on(dataset).any(|node| node == home);
                match see(&self.view, dataset) {
                    Seen::Split { owners } => {
                        let application_name = Some(self.application(application));
                        self.refused.push(Refusal::SplitOwnership {
                            application: application_name,
                            dataset,
                            owners,
                        });
                        self.stays(application);
                    }
                    Seen::OwnerHidden => {
                        if !self.view.silent.is_empty() {
                            self.wait_for_sight(application, true, self.view.silent.clone());
                        }
                        self.refuse_unreadable(Some(application), dataset);
                        self.stays(application);
                    }
                    // Nothing can be put where something is that cannot be read.
                    Seen::Nowhere
                    | Seen::Primary { .. }
                    | Seen::Released { .. }
                    | Seen::CopiesOnly { .. }
                        if unreadable_at_home =>
                    {
                        self.refuse_unreadable(Some(application), dataset);
                        self.stays(application);
                    }
                    Seen::Nowhere => self.create(application, home),
                    Seen::Primary { on, what } if on == home => self.run_beside_data(application, home, what),
                    Seen::Primary { on, what } => self.hand_off(application, on, what, home),
                    Seen::Released {
                        by,
                        what,
                        epoch,
                        to,
                        last,
                        guid,
                    } => {
                        let offer = super::offer::Offer {
                            by,
                            what,
                            epoch,
                            to,
                            last,
                            guid,
                        };
                        self.finish_hand_off(application, &offer, home);
                    }
                    Seen::CopiesOnly { nodes } => self.refuse_without_owner(application, dataset, nodes),
                }
            }
            (_, _) => {
                let homes: Vec<u32> = self.view.homes(application).collect();
                self.run_stateless(application, &homes);
            }
        }
    }

    /// Says of every node that has something of a dataset that cannot be read that nothing is done about it.
    pub(super) fn refuse_unreadable(&mut self, application: Option<u32>, dataset: DatasetId) {
        for node in self.view.unreadable_on(dataset) {
            let NodeView { name, seen, .. } = self.view.node(node);
            let reason = seen.and_then(|state| state.unreadable.get(&dataset));
            self.refused.push(Refusal::Unreadable {
                application: application.map(|application| self.application(application)),
                dataset,
                on: (*name).clone(),
                reason: reason.cloned().unwrap_or_default(),
            });
        }
    }

    /// A new dataset, unless its name has a past: what was trashed is not replaced by something empty.
    fn create(&mut self, application: u32, home: u32) {
        let name = self.application(application);
        let Some(dataset) = self.dataset(application) else {
            return;
        };
        let nodes: Vec<NodeName> = self
            .view
            .trash_of(dataset.id)
            .map(|node| self.node(node))
            .collect();
        if !nodes.is_empty() {
            self.refused.push(Refusal::InTrash {
                application: name,
                dataset: dataset.id,
                nodes,
            });
            return self.stays(application);
        }
        if self.port_is_taken(application, home) {
            return self.stays(application);
        }
        let reason = Reason::Starts {
            application: name,
            on: self.node(home),
        };
        let epoch = next_epoch(&self.view, dataset.id);
        let made = Fact::Primary {
            dataset: dataset.id,
            on: self.node(home),
            epoch,
        };
        let goes_anyway = self.is_stopped(self.view.names[application as usize], home);
        let prepared = (!goes_anyway)
            .then(|| self.prepare(application, home, &reason))
            .flatten();
        let before: Vec<Need> = prepared
            .iter()
            .map(|fact| need(fact.clone(), Because::NothingStopsInVain))
            .collect();
        // What runs already, here or elsewhere, runs without the data that it is to have.
        let there = self.container(application, home);
        let is_alive = there.is_some_and(ContainerState::is_alive);
        let prepared = prepared.filter(|_| !is_alive);
        let mut needs = self.stop_other_users(application, home, false, prepared);
        if self.restarts_any(&needs) {
            return self.stays(application);
        }
        let action = Action::Create { dataset, epoch };
        let listed = self.gathered.list(before.iter().cloned());
        self.act(home, action, &reason, listed);
        needs.push(need(made.clone(), Because::DataThere));
        if is_alive {
            let mut before = before;
            before.push(need(made, Because::DataThere));
            let name = self.view.names[application as usize];
            let stopped = self.stop(name, home, &reason, before);
            needs.push(need(stopped, Because::OneCopy));
        }
        let needs = self.gathered.list(needs);
        self.start(application, home, &reason, needs);
    }

    /// Returns the dataset of an application as a backend is asked for it.
    pub(super) fn dataset(&self, application: u32) -> Option<flocker_model::Dataset> {
        let volume = self.view.definitions[application as usize].volume.as_ref()?;
        let owner = self.application(application);
        Some(flocker_model::Dataset {
            id: volume.dataset,
            owner,
            maximum_size: volume.maximum_size,
        })
    }

    /// Destroys what is to be deleted by name; everything else is kept, and said to be.
    pub(super) fn delete(&mut self) {
        let mut datasets: Vec<DatasetId> = self.view.desired.deleted().iter().copied().collect();
        if is_planted(Bug::AbsenceDeletes) {
            let placements = self.view.desired.placements();
            let all = placements.datasets().iter();
            let unplaced = all.filter(|(_, application)| placements.homes(*application).is_empty());
            datasets.extend(unplaced.map(|(dataset, _)| *dataset));
        }
        let mut in_use = BTreeSet::new();
        for dataset in datasets {
            let reason = Reason::Deletes { dataset };
            for copy in self.view.copies_of(dataset).to_vec() {
                let is_left = copy.what.role == Role::Replica && is_planted(Bug::DeleteLeavesCopies);
                if is_left || !self.obeys(copy.node) {
                    continue;
                }
                let on = self.node(copy.node);
                let users = self
                    .view
                    .node(copy.node)
                    .seen
                    .into_iter()
                    .flat_map(|state| &state.containers);
                let users =
                    users.filter(|(_, container)| container.dataset == Some(dataset) && container.is_alive());
                let ended: Option<Vec<_>> = users.map(|(name, _)| self.ended(name, copy.node)).collect();
                let Some(ended) = ended else {
                    in_use.insert(dataset);
                    continue;
                };
                let needs = ended
                    .into_iter()
                    .map(|fact| need(fact, Because::NotInUse))
                    .collect();
                let gone = Fact::Gone { dataset, on };
                self.step(copy.node, Action::Destroy { dataset }, &reason, needs, vec![gone]);
            }
            self.refuse_unreadable(None, dataset);
            if !self.view.silent.is_empty() {
                let nodes = self.view.silent.clone();
                self.waiting.push(Waiting::ForSight {
                    application: None,
                    dataset: Some(dataset),
                    nodes,
                });
            }
        }
        self.keep(&in_use);
    }

    /// Returns the fact that tells when this plan has ended what runs now, or nothing where it does not.
    pub(super) fn ended(&self, name: &ApplicationName, node: u32) -> Option<Fact> {
        if !self.is_stopped(name, node) {
            return None;
        }
        let on = self.node(node);
        let application = name.clone();
        let number = self.view.desired.placements().find(name, &self.view.names);
        Some(if number.is_some_and(|number| self.starts(number, node)) {
            Fact::Healthy { application, on }
        } else {
            Fact::Stopped { application, on }
        })
    }

    /// Reports the data that no placed application uses, and what is to be deleted and is in use.
    fn keep(&mut self, in_use: &BTreeSet<DatasetId>) {
        let view = &self.view;
        let mut claims = view.desired.placements().datasets().iter().peekable();
        let mut copies = view.copies.all();
        while let Some(first) = copies.first() {
            let dataset = first.dataset;
            let n_copies = copies.iter().take_while(|copy| copy.dataset == dataset).count();
            let (group, rest) = copies.split_at(n_copies);
            copies = rest;
            while claims.next_if(|(claimed, _)| *claimed < dataset).is_some() {}
            let claim = claims
                .next_if(|(claimed, _)| *claimed == dataset)
                .map(|(_, application)| *application);
            let placed = claim.is_some_and(|number| !view.desired.placements().homes(number).is_empty());
            let goes = view.desired.deleted().contains(&dataset) && !in_use.contains(&dataset);
            if placed || goes {
                continue;
            }
            let application = claim.map(|number| view.names[number as usize].clone());
            let nodes = group.iter().map(|copy| view.name(copy.node)).collect();
            let used = group.iter().map(|copy| copy.what.used).max().unwrap_or_default();
            self.kept.push(Kept {
                dataset,
                application,
                nodes,
                used,
            });
        }
    }
}
