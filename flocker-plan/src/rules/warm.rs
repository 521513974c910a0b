//! Copies made while the application still runs, so that the pause is short.

use std::time::Duration;

use flocker_model::ByteSize;
use flocker_model::Manifestation;
use flocker_model::SnapshotName;

use super::Rules;
use super::handoff::Move;
use super::handoff::base_of;
use super::need;
use crate::action::Action;
use crate::blocked::Waiting;
use crate::fact::Fact;
use crate::policy::CutOver;
use crate::policy::NotConverging;
use crate::policy::Policy;
use crate::replicate::Common;
use crate::step::Because;

/// What a move still lacks before the application may be stopped for it.
pub(super) enum Readiness {
    /// A copy made while it still runs.
    Round {
        number: u32,
        take: bool,
        bytes: ByteSize,
    },
    /// Nothing.
    Ready,
    /// The operator's word.
    Held,
    /// A way to catch up.
    NotConverging { rounds: u32 },
    /// A longer pause: no round is as short as the one that is allowed.
    TooManyFiles,
}

impl Readiness {
    /// Says whether copies are not made in vain.
    pub(super) fn lets_copy(&self) -> bool {
        match self {
            Self::Round { .. } | Self::Ready | Self::Held => true,
            Self::NotConverging { .. } | Self::TooManyFiles => false,
        }
    }
}

impl<'a> Rules<'a> {
    /// One more copy while the application still runs.
    pub(super) fn warm_round(
        &mut self,
        move_: &Move<'a>,
        base: &Common<'_>,
        number: u32,
        take: bool,
        bytes: ByteSize,
    ) {
        let id = move_.dataset.id;
        let target = self
            .view
            .node(move_.to)
            .seen
            .and_then(|state| state.datasets.get(&id));
        let snapshot = SnapshotName::warm(move_.epoch, number);
        let arrived = arrived(target, &snapshot);
        self.stays(move_.application);
        if !self.has_room(move_, bytes, arrived) {
            return;
        }
        self.prepare_beside(move_.application, move_.to, &move_.reason);
        let set_aside = self.set_aside(move_, base);
        let mut needs = Vec::new();
        if take {
            let on = self.node(move_.from);
            let taken = Fact::Snapshot {
                dataset: id,
                on,
                name: snapshot.clone(),
            };
            let action = Action::Take {
                dataset: id,
                snapshot: snapshot.clone(),
            };
            self.step(move_.from, action, &move_.reason, Vec::new(), vec![taken.clone()]);
            needs.push(need(taken, Because::TakenFirst));
        }
        needs.extend(set_aside);
        let needs = self.gathered.list(needs);
        self.push(move_, &snapshot, base, needs);
        self.waiting.push(Waiting::PreCopy {
            application: self.application(move_.application),
            from: self.node(move_.from),
            to: self.node(move_.to),
            round: number,
            bytes,
            passed_over: self.passed_over(move_),
        });
    }

    /// Another round, or the cut-over: as many rounds as bring the pause under the budget, while they shrink.
    ///
    /// `delta` was written since the base, of which so much is `expected` to be sent; a `round` takes so long whatever is.
    pub(super) fn readiness(
        &self,
        move_: &Move<'_>,
        base: &Common<'_>,
        delta: ByteSize,
        expected: ByteSize,
        round: Duration,
    ) -> Readiness {
        let Policy {
            rates,
            max_downtime,
            cut_over,
            not_converging,
            ..
        } = self.policy;
        let shortest = rates.downtime(ByteSize(0), round);
        let is_beyond = !round.is_zero() && shortest > *max_downtime;
        if is_beyond && (*cut_over, *not_converging) == (CutOver::WhenReady, NotConverging::Ask) {
            // Copies would be made in vain.
            return Readiness::TooManyFiles;
        }
        let newest = move_.source.snapshots.last();
        let rounds = newest
            .and_then(|snapshot| snapshot.name.warm_round(move_.epoch))
            .unwrap_or(0);
        let unsent_round =
            newest.filter(|newest| rounds > 0 && base_of(base).map(|base| base.guid) != Some(newest.guid));
        if unsent_round.is_some() {
            return Readiness::Round {
                number: rounds,
                take: false,
                bytes: match base {
                    // All rounds that the copy has missed, without what no round holds yet.
                    Common::Base(_) => ByteSize(delta.0.saturating_sub(move_.source.unsent.0)),
                    Common::Nothing | Common::Diverged => delta,
                },
            };
        }
        let next = Readiness::Round {
            number: rounds + 1,
            take: true,
            bytes: expected,
        };
        if base_of(base).is_none() {
            return next;
        }
        // Who decides for himself is not kept from it by what no round can change.
        let budget = if is_beyond { shortest } else { *max_downtime };
        let fits = rates.downtime(expected, round) <= budget;
        let mut made = move_.source.snapshots.iter().rev().take(rounds as usize);
        let shrank = |from: ByteSize, to: ByteSize| u128::from(to.0) * 4 <= u128::from(from.0) * 3;
        let shrinks = match (made.next(), made.next()) {
            (Some(last), Some(before)) => {
                shrank(last.written, expected) || (expected < delta && shrank(before.written, last.written))
            }
            // One round shows no trend.
            (_, _) => true,
        };
        match (fits, *cut_over, *not_converging) {
            (true, CutOver::Hold, _) => Readiness::Held,
            (false, _, _) if shrinks && rounds < self.policy.max_rounds => next,
            (true, CutOver::WhenReady, _) | (false, CutOver::WhenReady, NotConverging::Accept) => {
                Readiness::Ready
            }
            (false, _, _) => Readiness::NotConverging { rounds },
        }
    }
}

/// Returns how much of a snapshot has arrived: only what is to become that very snapshot counts.
pub(super) fn arrived(target: Option<&Manifestation>, snapshot: &SnapshotName) -> ByteSize {
    target
        .and_then(|copy| copy.partial.as_ref())
        .filter(|partial| partial.snapshot == *snapshot)
        .map_or(ByteSize(0), |partial| partial.received)
}
