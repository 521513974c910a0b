//! Which copy is the owner's, where nobody but a person can tell.
//!
//! A decision that no rule may take, made by name beside the deployment, as
//! [reclaiming](super::reclaim) and [undoing](super::undo) are. Each is a plan
//! like any other: shown first, executed by the same executor, done twice
//! without harm.

use flocker_model::ClusterState;
use flocker_model::DatasetId;
use flocker_model::Deployment;
use flocker_model::Epoch;
use flocker_model::Manifestation;
use flocker_model::NodeName;
use flocker_model::Role;
use flocker_model::SnapshotName;

use super::Rules;
use super::need;
use super::seen::Seen;
use super::seen::newest_epoch;
use super::seen::next_epoch;
use super::seen::see;
use crate::action::Action;
use crate::blocked::Refusal;
use crate::blocked::Waiting;
use crate::fact::Fact;
use crate::obstacle::NotPromoted;
use crate::plan::Plan;
use crate::policy::Policy;
use crate::shares::Workers;
use crate::step::Because;
use crate::step::Need;
use crate::step::Reason;

/// Makes one node's copy of a dataset the owner's, and sets every other copy that claims to be aside.
///
/// For the two cases that planning refuses: nobody owns the dataset, or more
/// than one node says so. Where more than one does and one of them is chosen,
/// the others are stopped and set aside before it goes on. Where a copy is
/// chosen that never was the owner's, all who claim to be let go first, and are
/// set aside once it owns: where it cannot, what they have is still there.
/// While a node is silent that nobody has declared lost, the plan waits: it may
/// be the owner. One that was declared lost, and answers all the same as one of
/// several owners, is told nothing, and so nobody becomes the owner beside it.
pub fn promote(
    desired: &Deployment,
    actual: &ClusterState,
    policy: &Policy,
    dataset: DatasetId,
    on: &NodeName,
) -> Plan {
    let mut rules = Rules::new(desired, actual, policy, Workers::ALONE);
    if rules.is_outdated() {
        return rules.finish();
    }
    let node = rules.view.find(on).filter(|&node| rules.obeys(node));
    let seen = see(&rules.view, dataset);
    let may_be_hidden = !rules.view.silent.is_empty();
    let Some(node) = node.filter(|_| !may_be_hidden) else {
        let nodes = if may_be_hidden {
            rules.view.silent.clone()
        } else {
            vec![on.clone()]
        };
        rules.waiting.push(Waiting::ForSight {
            application: None,
            dataset: Some(dataset),
            nodes,
        });
        return rules.finish();
    };
    // An owner that is seen counts, unless a newer ownership is known of whose owner is gone.
    let newest = newest_epoch(&rules.view, dataset);
    let is_outlived = |what: &Manifestation| matches!(what.role, Role::Primary { epoch } if epoch < newest);
    let counts = matches!(&seen, Seen::Primary { what, .. } if !is_outlived(what));
    if !counts && rules.view.unreadable_on(dataset).next().is_some() {
        rules.refuse_unreadable(None, dataset);
        return rules.finish();
    }
    let has_copy = rules.view.copies_of(dataset).iter().any(|copy| {
        let can_count = match copy.what.role {
            Role::Primary { .. } => true,
            Role::Released { .. } | Role::Replica => !copy.what.snapshots.is_empty(),
        };
        copy.node == node && can_count
    });
    let obstacle = match seen {
        Seen::Primary { on: owner, what } if owner == node => {
            // It takes an ownership that is newer than all, as it does where the newer owner is still there.
            if is_outlived(what) {
                rules.promote_copy(dataset, node, Vec::new());
            }
            None
        }
        Seen::Primary { on: owner, .. } => Some(NotPromoted::Owned {
            by: rules.node(owner),
        }),
        // While its taker is there, a release is finished or taken back by deploying, never by force.
        Seen::Released { to, .. } if !rules.was_made_to_lost(dataset, to) => {
            Some(NotPromoted::Offered { to: to.clone() })
        }
        Seen::Split { .. } | Seen::CopiesOnly { .. } | Seen::Released { .. } if !has_copy => {
            Some(NotPromoted::NoCopy)
        }
        Seen::Split { .. } => {
            let claims = rules.claims(dataset);
            let returned = claims.iter().find(|(claiming, _)| !rules.obeys(*claiming));
            let returned = returned.map(|(claiming, _)| rules.node(*claiming));
            if returned.is_none() {
                rules.settle_split(dataset, node, &claims);
            }
            returned.map(|by| NotPromoted::Returned { by })
        }
        Seen::CopiesOnly { .. } | Seen::Released { .. } => {
            rules.promote_copy(dataset, node, Vec::new());
            None
        }
        // Nobody is silent, and everything can be read: this was asked above.
        Seen::OwnerHidden | Seen::Nowhere => Some(NotPromoted::NoCopy),
    };
    if let Some(because) = obstacle {
        rules.refused.push(Refusal::NotPromoted {
            dataset,
            on: on.clone(),
            because,
        });
    }
    rules.finish()
}

impl Rules<'_> {
    /// Returns who says to be or to have been the owner, and in which ownership.
    fn claims(&self, dataset: DatasetId) -> Vec<(u32, Epoch)> {
        let copies = self.view.copies_of(dataset).iter();
        let claims = copies.filter_map(|copy| match copy.what.role {
            Role::Primary { epoch } | Role::Released { epoch, .. } => Some((copy.node, epoch)),
            Role::Replica => None,
        });
        claims.collect()
    }

    /// The chosen owner stays or becomes it under a newer ownership; the others are stopped and set aside.
    fn settle_split(&mut self, dataset: DatasetId, chosen: u32, claims: &[(u32, Epoch)]) {
        if claims.iter().all(|(node, _)| *node != chosen) {
            return self.take_over_from_all(dataset, chosen, claims);
        }
        let newest = claims
            .iter()
            .map(|(_, epoch)| *epoch)
            .max()
            .unwrap_or(Epoch::FIRST);
        let mut before = Vec::new();
        for &(node, _) in claims.iter().filter(|(node, _)| *node != chosen) {
            let needs = self.stop_all_users(dataset, node);
            let gone = self.put_aside(dataset, node, needs);
            before.push(need(gone, Because::OneWriter));
        }
        let own = claims
            .iter()
            .find(|(node, _)| *node == chosen)
            .map(|(_, epoch)| *epoch);
        if own != Some(newest) || claims.iter().filter(|(_, epoch)| *epoch == newest).count() > 1 {
            self.promote_copy(dataset, chosen, before);
        }
    }

    /// All who claim to be the owner let go; a copy that never was the owner's takes over; only then are they set aside.
    fn take_over_from_all(&mut self, dataset: DatasetId, chosen: u32, claims: &[(u32, Epoch)]) {
        let epoch = next_epoch(&self.view, dataset);
        let to = self.node(chosen);
        let mut before = Vec::new();
        for &(node, _) in claims {
            let needs = self.stop_all_users(dataset, node);
            let copy = self.view.copy_on(dataset, node);
            if !copy.is_some_and(|copy| matches!(copy.role, Role::Primary { .. })) {
                before.extend(needs);
                continue;
            }
            let released = self.let_go(dataset, node, epoch, &to, needs);
            before.push(need(released, Because::OneWriter));
        }
        self.promote_copy(dataset, chosen, before);
        let owns = Fact::Primary {
            dataset,
            on: to,
            epoch,
        };
        for &(node, _) in claims {
            let needs = vec![need(owns.clone(), Because::DataThere)];
            self.put_aside(dataset, node, needs);
        }
    }

    fn put_aside(&mut self, dataset: DatasetId, node: u32, needs: Vec<Need>) -> Fact {
        let gone = Fact::Gone {
            dataset,
            on: self.node(node),
        };
        let reason = Reason::Tidies {
            dataset: Some(dataset),
        };
        let action = Action::Destroy { dataset };
        self.step(node, action, &reason, needs, vec![gone.clone()]);
        gone
    }

    fn let_go(
        &mut self,
        dataset: DatasetId,
        node: u32,
        epoch: Epoch,
        to: &NodeName,
        needs: Vec<Need>,
    ) -> Fact {
        let released = Fact::Released {
            dataset,
            by: self.node(node),
            epoch,
        };
        let reason = Reason::Tidies {
            dataset: Some(dataset),
        };
        let action = Action::Release {
            dataset,
            epoch,
            to: to.clone(),
            last: SnapshotName::handoff(epoch),
        };
        self.step(node, action, &reason, needs, vec![released.clone()]);
        released
    }

    /// A copy becomes the owner's under an ownership that nobody has seen yet.
    fn promote_copy(&mut self, dataset: DatasetId, node: u32, before: Vec<Need>) {
        let copies = self.view.copies_of(dataset);
        let Some(copy) = copies.iter().find(|copy| copy.node == node).map(|copy| copy.what) else {
            return;
        };
        let epoch = next_epoch(&self.view, dataset);
        let reason = Reason::Tidies {
            dataset: Some(dataset),
        };
        let on = self.node(node);
        let mut needs = before;
        let (from, guid, epoch) = match &copy.role {
            Role::Primary { .. } => {
                needs.extend(self.stop_all_users(dataset, node));
                let released = self.let_go(dataset, node, epoch, &on, needs);
                needs = vec![need(released, Because::OneWriter)];
                // What was let go under an ownership is fenced against it, also here.
                (SnapshotName::handoff(epoch), None, epoch.next())
            }
            Role::Released { .. } | Role::Replica => {
                let Some(newest) = copy.snapshots.last() else {
                    return;
                };
                (newest.name.clone(), Some(newest.guid), epoch)
            }
        };
        let owns = Fact::Primary { dataset, on, epoch };
        self.step(
            node,
            Action::Acquire {
                dataset,
                epoch,
                from,
                guid,
            },
            &reason,
            needs,
            vec![owns],
        );
    }

    fn stop_all_users(&mut self, dataset: DatasetId, node: u32) -> Vec<Need> {
        let reason = Reason::Tidies {
            dataset: Some(dataset),
        };
        let containers = self
            .view
            .node(node)
            .seen
            .into_iter()
            .flat_map(|state| &state.containers);
        let users = containers.filter(|(_, container)| container.dataset == Some(dataset));
        users
            .map(|(user, _)| need(self.stop(user, node, &reason, Vec::new()), Because::OneWriter))
            .collect()
    }
}
