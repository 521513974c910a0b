//! Whether a target has what a copy needs, asked before anything stops.

use flocker_model::ByteSize;
use flocker_model::Manifestation;

use super::Rules;
use super::handoff::Move;
use crate::blocked::Refusal;

impl Rules<'_> {
    /// Refuses, before anything stops, what could not end well at the target.
    pub(super) fn is_refused_at(&mut self, application: u32, source: &Manifestation, to: u32) -> bool {
        let limit = self.dataset(application).and_then(|dataset| dataset.maximum_size);
        if let Some(limit) = limit.filter(|limit| *limit < source.used) {
            self.refused.push(Refusal::LargerThanLimit {
                application: self.application(application),
                on: self.node(to),
                used: source.used,
                limit,
            });
            return true;
        }
        self.port_is_taken(application, to)
    }

    /// Promises space at the target, or refuses with numbers. Both copies stay, so swaps need room for both.
    pub(super) fn has_room(&mut self, move_: &Move<'_>, bytes: ByteSize, arrived: ByteSize) -> bool {
        let needed = ByteSize(bytes.0.saturating_sub(arrived.0));
        let Some(free) = self.lack_of_room(move_, bytes, arrived) else {
            let promised = &mut self.promised[move_.to as usize];
            *promised = promised.plus(needed);
            return true;
        };
        self.note_full(move_.to);
        let application = self.application(move_.application);
        let on = self.node(move_.to);
        self.refused.push(Refusal::NoRoom {
            application,
            on,
            needed,
            free,
        });
        false
    }

    /// Returns how much space there is at the target where that is too little.
    pub(super) fn lack_of_room(
        &self,
        move_: &Move<'_>,
        bytes: ByteSize,
        arrived: ByteSize,
    ) -> Option<ByteSize> {
        let state = self.view.node(move_.to).seen?;
        let promised = self.promised[move_.to as usize];
        let free = ByteSize(state.free?.0.saturating_sub(promised.0));
        let needed = ByteSize(bytes.0.saturating_sub(arrived.0));
        // The beginning of another copy goes when this one comes.
        let given_back = || {
            let partial = state.datasets.get(&move_.dataset.id)?.partial.as_ref()?;
            Some(partial.received).filter(|_| arrived == ByteSize(0))
        };
        let is_lacking = needed > free && needed > free.plus(given_back().unwrap_or_default());
        is_lacking.then_some(free)
    }
}
