//! The rules for many applications, by several threads at once.
//!
//! What the rules decide of one application hardly ever depends on another:
//! only space that was promised, and containers that were stopped for
//! somebody else's data, do. Each share is planned as if nothing were decided
//! before it. Where that turns out to be wrong, what it gave is thrown away,
//! and it is planned again after the shares before it. The plan is the
//! same as if one thread had made all of it.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;
use std::sync::Mutex;

use flocker_model::ApplicationName;

use super::Rules;
use super::settled::BLOCK;
use crate::shares::in_turn;
use crate::step::Step;

/// How much more there is to do for an application by rule than to look at it.
const BY_RULE: usize = 8;

/// What one share may have in common with another.
#[derive(Debug, Default)]
pub(super) struct Beside {
    /// What was stopped, or was to be, by the rules of an application of another name, and where.
    stopped: Vec<(u32, ApplicationName)>,
    /// The numbers of those of them that are wanted.
    wanted: BTreeSet<u32>,
    /// Nodes that had no room for something.
    full: Vec<u32>,
}

impl<'a> Rules<'a> {
    /// Looks at these applications, in order, by rule.
    pub(super) fn apply_all(&mut self, unsettled: &[u32]) {
        let workers = self.view.workers;
        let pieces = workers.pieces(unsettled.len(), unsettled.len() * BY_RULE);
        if let [_] = pieces.as_slice() {
            return self.apply_some(unsettled);
        }
        self.view.find_all_users();
        let (view, policy, found) = (Arc::clone(&self.view), self.policy, Arc::clone(&self.found));
        // Room for steps goes round: memory that nobody has used yet takes longer than to plan what stands in it.
        let spare: Mutex<Vec<Vec<Step>>> = Mutex::default();
        let plan_some = |piece: Range<usize>| {
            let mut rules = Rules::with(Arc::clone(&view), policy, Arc::clone(&found));
            rules.steps = spare
                .lock()
                .ok()
                .and_then(|mut spare| spare.pop())
                .unwrap_or_default();
            let some = &unsettled[piece];
            rules.apply_some(some);
            (some, rules)
        };
        in_turn(workers.most(), pieces, plan_some, |(some, mut planned)| {
            let mut room = if self.holds_after_this(&planned, some) {
                self.append(planned)
            } else {
                let room = std::mem::take(&mut planned.steps);
                drop(planned);
                self.apply_some(some);
                room
            };
            room.clear();
            if let Ok(mut spare) = spare.lock() {
                spare.push(room);
            }
        });
    }

    fn apply_some(&mut self, applications: &[u32]) {
        for some in applications.chunks(BLOCK) {
            self.look_ahead(some);
            for &application in some {
                self.looked_at = Some(application);
                self.apply(application);
            }
            self.hand_out();
        }
        self.looked_at = None;
    }

    /// Notes what is stopped by the rules of an application of another name.
    ///
    /// Rules ask whether something is stopped only where it has the
    /// application's own name, or where they are about to stop it.
    pub(super) fn note_stop(&mut self, name: &ApplicationName, node: u32) {
        if let Some(own) = self.looked_at
            && self.view.names[own as usize] != name
        {
            self.beside.stopped.push((node, name.clone()));
            let wanted = self.view.desired.placements().find(name, &self.view.names);
            self.beside.wanted.extend(wanted);
        }
    }

    /// Notes that a node has no room for something: the reader is told how much it has.
    pub(super) fn note_full(&mut self, node: u32) {
        self.beside.full.push(node);
    }

    /// Says whether the rules would have decided the same of a share after everything that is decided already.
    fn holds_after_this(&self, planned: &Rules<'_>, share: &[u32]) -> bool {
        let is_free = |&node: &u32| self.promised[node as usize].0 == 0;
        let promised = (0_u32..).zip(self.promised.iter().zip(&planned.promised));
        let mut both = promised.filter(|(_, (before, more))| before.0 > 0 && more.0 > 0);
        let has_room = both.all(|(node, (before, more))| {
            let free = self.view.node(node).seen.and_then(|state| state.free);
            let sum = before.0.checked_add(more.0);
            sum.zip(free).is_some_and(|(sum, free)| sum <= free.0)
        });
        let bounds = share.first().zip(share.last());
        let mut between = bounds
            .into_iter()
            .flat_map(|(first, last)| self.beside.wanted.range(first..=last));
        has_room
            && planned.beside.full.iter().all(is_free)
            && planned
                .beside
                .stopped
                .iter()
                .all(|(node, name)| !self.is_stopped(name, *node))
            && between.all(|wanted| share.binary_search(wanted).is_err())
    }

    /// Adds what was decided of a share to what was decided before, and returns the room where its steps were.
    fn append(&mut self, planned: Rules<'a>) -> Vec<Step> {
        let Rules {
            view: _,
            policy: _,
            found: _,
            serving,
            started,
            uses_others,
            stopped,
            after_stops,
            leaving,
            promised,
            handoff: _,
            beside,
            looked_at: _,
            mut steps,
            gathered: _,
            waiting,
            refused,
            kept,
        } = planned;
        let n_before = self.steps.len();
        let later = |(application, position): (u32, usize)| (application, n_before + position);
        self.serving.extend(serving);
        self.started.extend(started.into_iter().map(later));
        self.uses_others.extend(uses_others);
        for (all, more) in self.stopped.iter_mut().zip(stopped) {
            all.append(more);
        }
        let after_stops = after_stops.into_iter().map(|position| n_before + position);
        self.after_stops.extend(after_stops);
        self.leaving.extend(leaving.into_iter().map(later));
        for (all, more) in self.promised.iter_mut().zip(promised) {
            *all = all.plus(more);
        }
        self.beside.wanted.extend(beside.wanted);
        // The first share stays where it is.
        if self.steps.is_empty() {
            std::mem::swap(&mut self.steps, &mut steps);
        } else {
            self.steps.append(&mut steps);
        }
        self.waiting.extend(waiting);
        self.refused.extend(refused);
        self.kept.extend(kept);
        steps
    }
}
