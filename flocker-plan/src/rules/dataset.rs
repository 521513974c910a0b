//! The table of what is wanted of a dataset against what is seen of it.

use std::collections::BTreeSet;

use flocker_model::ApplicationName;
use flocker_model::ContainerState;
use flocker_model::DatasetId;
use flocker_model::NodeName;
use flocker_model::Role;
use flocker_model::planted::Bug;
use flocker_model::planted::is_planted;

use super::Rules;
use super::need;
use super::seen::Seen;
use super::seen::next_epoch;
use super::seen::see;
use crate::action::Action;
use crate::blocked::Kept;
use crate::blocked::Refusal;
use crate::blocked::Waiting;
use crate::fact::Fact;
use crate::step::Because;
use crate::step::Need;
use crate::step::Reason;
use crate::view::NodeView;

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
