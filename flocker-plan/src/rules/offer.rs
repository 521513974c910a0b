//! A release that nobody has taken up: the hand-off is finished, made to another node, or taken back.

use flocker_model::DatasetId;
use flocker_model::Epoch;
use flocker_model::Manifestation;
use flocker_model::NodeName;
use flocker_model::NodeState;
use flocker_model::SnapshotGuid;
use flocker_model::SnapshotName;
use flocker_model::planted::Bug;
use flocker_model::planted::is_planted;

use super::Rules;
use super::handoff::Move;
use super::handoff::base_of;
use super::need;
use super::seen::next_epoch;
use super::warm::arrived;
use crate::action::Action;
use crate::blocked::Refusal;
use crate::fact::Fact;
use crate::needs::Listed;
use crate::replicate::Common;
use crate::replicate::common;
use crate::replicate::written_since;
use crate::step::Because;
use crate::step::Need;
use crate::step::Reason;

/// A release that nobody is seen to have taken up.
pub(super) struct Offer<'a> {
    pub(super) by: u32,
    pub(super) what: &'a Manifestation,
    pub(super) epoch: Epoch,
    pub(super) to: &'a NodeName,
    pub(super) last: &'a SnapshotName,
    pub(super) guid: SnapshotGuid,
}

impl Offer<'_> {
    /// Says whether the newest snapshot there is the one with which it was let go; only then can it be taken back.
    fn ends_with_its_last(&self) -> bool {
        let newest = self.what.snapshots.last();
        newest.is_some_and(|newest| newest.name == *self.last && newest.guid == self.guid)
    }
}

impl<'a> Rules<'a> {
    /// A release is seen and nobody has taken it up: finish it, redirect it, or take it back.
    pub(super) fn finish_hand_off(&mut self, application: u32, offer: &Offer<'a>, home: u32) {
        let Some(dataset) = self.dataset(application) else {
            return;
        };
        let taker = self.view.find(offer.to).filter(|&node| self.obeys(node));
        if let Some(node) = self.unseen_of(offer, taker) {
            self.wait_for_sight(application, true, vec![node]);
            return self.stays(application);
        }
        let is_lost = taker.is_none() && !is_planted(Bug::TakerUnseen);
        if is_lost || self.was_made_to_lost(dataset.id, offer.to) {
            return self.refuse_lost_offer(application, dataset.id, offer.by);
        }
        if self.cannot_go_back(application, offer, home) || self.port_is_taken(application, home) {
            return self.stays(application);
        }
        let name = self.application(application);
        let reason = if home == offer.by {
            Reason::Starts {
                application: name,
                on: self.node(home),
            }
        } else {
            Reason::Moves {
                application: name,
                from: self.node(offer.by),
                to: self.node(home),
            }
        };
        let id = dataset.id;
        let state = self.view.node(home).seen;
        let target = state.and_then(|state| state.datasets.get(&id));
        // Who has given an offer up needs a newer one, also where the copy is gone with which it did.
        let left = state.and_then(|state| state.fences.get(&id));
        let fence = target.map(|copy| copy.fence).max(left.copied());
        let has_renounced = fence.is_some_and(|fence| fence >= offer.epoch);
        let offered_elsewhere = *offer.to != self.node(home);
        let redirected = offered_elsewhere || has_renounced;
        let epoch = if redirected {
            next_epoch(&self.view, dataset.id)
        } else {
            offer.epoch
        };
        let move_ = Move {
            application,
            dataset,
            from: offer.by,
            source: offer.what,
            to: home,
            epoch,
            reason,
        };
        let base = common(offer.what, target);
        let is_complete = target.is_some_and(|copy| {
            copy.snapshots
                .last()
                .is_some_and(|newest| newest.guid == offer.guid)
        });
        let delta = written_since(offer.what, base_of(&base));
        let resumed = arrived(target, offer.last);
        if home != offer.by && !is_complete && !self.has_room(&move_, delta, resumed) {
            return self.stays(application);
        }
        if base == Common::Diverged && self.clear_target(&move_) {
            return self.stays(application);
        }
        let mut needs = Vec::new();
        if offered_elsewhere && let Some(taker) = taker {
            needs.extend(self.renounce(&move_, offer, taker));
        }
        let stopped = self.stop_users(&move_, Listed::default());
        needs.extend_from_slice(self.gathered.get(stopped));
        if home == offer.by {
            let needs = self.gathered.list(needs);
            return self.take_over(&move_, offer.last, Some(offer.guid), needs);
        }
        if is_planted(Bug::StaleCopyTakesOver)
            && let Some(newest) = target.and_then(|copy| copy.snapshots.last())
        {
            let needs = self.gathered.list(needs);
            return self.take_over(&move_, &newest.name, None, needs);
        }
        let set_aside = if is_complete {
            None
        } else {
            self.set_aside(&move_, &base)
        };
        if redirected {
            // Seen beside an offer that is made to it, what the taker has of other content could be more than was offered.
            needs.extend(set_aside.clone());
            needs = vec![self.offer_anew(&move_, offer, needs)];
        }
        if !is_complete {
            let mut before_push = needs.clone();
            before_push.extend(set_aside);
            let before_push = self.gathered.list(before_push);
            let complete = self.push(&move_, offer.last, &base, before_push);
            needs.push(need(complete, Because::DataComplete));
        }
        let needs = self.gathered.list(needs);
        self.take_over(&move_, offer.last, Some(offer.guid), needs);
    }

    /// Refuses to take back what its node would refuse to own again.
    fn cannot_go_back(&mut self, application: u32, offer: &Offer<'_>, home: u32) -> bool {
        let cannot = home == offer.by && !offer.ends_with_its_last();
        if cannot {
            self.refused.push(Refusal::LastSnapshot {
                application: self.application(application),
                on: self.node(home),
                last: offer.last.clone(),
            });
        }
        cannot
    }

    /// The offer is made to the new home instead, for an ownership of its own.
    fn offer_anew(&mut self, move_: &Move<'a>, offer: &Offer<'a>, needs: Vec<Need>) -> Need {
        let (dataset, epoch) = (move_.dataset.id, move_.epoch);
        let released = Fact::Released {
            dataset,
            by: self.node(offer.by),
            epoch,
        };
        let action = Action::Release {
            dataset,
            epoch,
            to: self.node(move_.to),
            last: offer.last.clone(),
        };
        self.step(offer.by, action, &move_.reason, needs, vec![released.clone()]);
        need(released, Because::OneWriter)
    }

    /// The taker is lost for ever, and may have acquired and written before. That the copy left here is good enough is
    /// for a person to say.
    fn refuse_lost_offer(&mut self, application: u32, dataset: DatasetId, by: u32) {
        self.refuse_without_owner(application, dataset, vec![self.node(by)]);
    }

    /// Says whether a release was made to a machine that is lost for ever, though another one may have its name by now.
    ///
    /// One that has any trace of the dataset is who it was made to: it has begun to receive it.
    pub(super) fn was_made_to_lost(&self, dataset: DatasetId, to: &NodeName) -> bool {
        let taker = self.view.find(to).and_then(|node| self.view.node(node).seen);
        let has_trace =
            |state: &NodeState| state.datasets.contains_key(&dataset) || state.fences.contains_key(&dataset);
        self.view.is_lost(to) || (self.view.has_lost(to) && !taker.is_some_and(has_trace))
    }

    /// Returns the node without which nothing can be said of an offer: its taker, who may have acquired already, or its maker.
    fn unseen_of(&self, offer: &Offer<'_>, seen_taker: Option<u32>) -> Option<NodeName> {
        if is_planted(Bug::TakerUnseen) {
            None
        } else if seen_taker.is_none() && !self.view.is_lost(offer.to) {
            Some(offer.to.clone())
        } else if self.obeys(offer.by) {
            None
        } else {
            Some(self.node(offer.by))
        }
    }

    /// The node to which the dataset was offered gives the offer up, so that it can be made to another.
    fn renounce(&mut self, move_: &Move<'a>, offer: &Offer<'_>, taker: u32) -> Vec<Need> {
        let id = move_.dataset.id;
        let node = self.node(taker);
        let generation = self.view.desired.generation();
        let renounced = Fact::Renounced {
            dataset: id,
            by: node,
            epoch: offer.epoch,
        };
        let state = self.view.node(taker).seen;
        let is_fenced = state.is_some_and(|state| {
            state.generation >= generation
                && state
                    .datasets
                    .get(&id)
                    .is_none_or(|copy| copy.fence >= offer.epoch)
        });
        if !is_fenced {
            let action = Action::Renounce {
                dataset: id,
                epoch: offer.epoch,
            };
            self.step(taker, action, &move_.reason, Vec::new(), vec![renounced.clone()]);
        }
        vec![need(renounced, Because::OfferWithdrawn)]
    }
}
