//! Earlier snapshots, which are sent before what was written since, because other nodes have them as well.
//!
//! An increment fits onto a copy only where its sender has the newest snapshot of that copy. Who becomes the owner next can
//! bring the copies of third nodes up to date if it gets these snapshots on the way, in their order: each is a copy of its
//! own, of something that is there already, and the next plan goes on from it. Where nodes keep lists of older
//! snapshots, the lists travel along with a later one instead.
//!
//! One that no try could send is passed over, so that it holds nothing up: it costs the third node a full copy later.

use flocker_model::ByteSize;
use flocker_model::Keeps;
use flocker_model::NodeName;
use flocker_model::Snapshot;
use flocker_model::SnapshotName;

use super::Rules;
use super::handoff::Move;
use super::handoff::base_of;
use super::warm::arrived;
use crate::blocked::Waiting;
use crate::replicate::Common;
use crate::replicate::by_way_of;
use crate::replicate::is_worth_a_stop;

/// A snapshot to be sent before any other.
pub(super) struct Earlier<'a> {
    snapshot: &'a Snapshot,
    /// How much it is.
    bytes: ByteSize,
    /// How much it is with what was written since.
    all: ByteSize,
    /// Whose newest snapshot it is.
    also: Vec<u32>,
}

impl<'a> Rules<'a> {
    /// Returns the oldest snapshot after the base that a third node has as its newest, if the way over it costs little.
    ///
    /// What its target has begun to receive is gone on with, and nothing else is begun.
    pub(super) fn earlier(&self, move_: &Move<'a>, base: &Common<'_>) -> Option<Earlier<'a>> {
        if self.view.node(move_.from).seen?.keeps != Keeps::Content {
            return None;
        }
        let id = move_.dataset.id;
        let target = match base {
            Common::Diverged => None,
            Common::Nothing | Common::Base(_) => self.view.copy_on(id, move_.to),
        };
        let base = base_of(base);
        let snapshots = &move_.source.snapshots;
        let first = base.map_or(0, |base| {
            let at = snapshots.iter().rposition(|own| own.guid == base.guid);
            at.map_or(0, |at| at + 1)
        });
        let begun = target.and_then(|copy| copy.partial.as_ref());
        let begun = begun.filter(|begun| snapshots.iter().any(|own| own.name == begun.snapshot));
        let is_there = |own: &Snapshot| {
            let mut there = target.iter().flat_map(|copy| &copy.snapshots);
            there.any(|there| there.guid == own.guid || there.name == own.name)
        };
        // The newest warm one is sent anyway.
        let n_earlier = snapshots.len() - usize::from(ends_with_a_round(move_));
        let wanted = snapshots[..n_earlier].iter().skip(first).filter(|own| {
            let is_other = begun.is_some_and(|begun| begun.snapshot != own.name);
            !is_other && !is_there(own) && !self.policy.passes_over(id, &own.name)
        });
        wanted
            .filter_map(|own| self.worth_a_stop(move_, base, own))
            .find(|earlier| {
                self.lack_of_room(move_, earlier.all, arrived(target, &earlier.snapshot.name))
                    .is_none()
            })
    }

    /// Says what a stop at a snapshot costs; nothing where no third node has it as its newest, or it costs too much.
    fn worth_a_stop(
        &self,
        move_: &Move<'a>,
        base: Option<&Snapshot>,
        own: &'a Snapshot,
    ) -> Option<Earlier<'a>> {
        let copies = self.view.copies_of(move_.dataset.id).iter();
        let thirds = copies.filter(|copy| copy.node != move_.from && copy.node != move_.to);
        let alike = thirds.filter(|copy| {
            let newest = copy.what.snapshots.last();
            newest.is_some_and(|newest| newest.guid == own.guid) && copy.what.altered().is_none()
        });
        let (also, held): (Vec<u32>, Vec<ByteSize>) = alike.map(|copy| (copy.node, copy.what.used)).unzip();
        let held = held.into_iter().max()?;
        let fits = move_.dataset.maximum_size.is_none_or(|limit| held <= limit);
        let (bytes, all) = by_way_of(move_.source, base, own, held);
        (fits && is_worth_a_stop(all, move_.source.used)).then_some(Earlier {
            snapshot: own,
            bytes,
            all,
            also,
        })
    }

    /// Returns the snapshots that would come first and cannot be sent.
    pub(super) fn passed_over(&self, move_: &Move<'a>) -> Vec<SnapshotName> {
        let own = move_.source.snapshots.iter().map(|own| &own.name);
        let passed_over = own.filter(|own| self.policy.passes_over(move_.dataset.id, own));
        passed_over.cloned().collect()
    }

    /// A copy of something that is there already: nothing is taken, and what runs goes on.
    pub(super) fn earlier_round(&mut self, move_: &Move<'a>, base: &Common<'_>, earlier: &Earlier<'a>) {
        let Earlier {
            snapshot,
            bytes,
            all,
            also,
        } = earlier;
        let target = self.view.copy_on(move_.dataset.id, move_.to);
        self.stays(move_.application);
        if !self.has_room(move_, *all, arrived(target, &snapshot.name)) {
            return;
        }
        self.prepare_beside(move_.application, move_.to, &move_.reason);
        let set_aside = self.set_aside(move_, base);
        let needs = self.gathered.list(set_aside);
        self.push(move_, &snapshot.name, base, needs);
        let also: Vec<NodeName> = also.iter().map(|&node| self.node(node)).collect();
        self.waiting.push(Waiting::Earlier {
            application: self.application(move_.application),
            from: self.node(move_.from),
            to: self.node(move_.to),
            snapshot: snapshot.name.clone(),
            bytes: *bytes,
            also,
        });
    }
}

fn ends_with_a_round(move_: &Move<'_>) -> bool {
    let newest = move_.source.snapshots.last();
    newest.is_some_and(|newest| newest.name.warm_round(move_.epoch).is_some())
}
