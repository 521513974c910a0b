//! What Flocker made and nobody needs any more. Snapshots stay bounded; data stays.

use flocker_model::DatasetId;
use flocker_model::Role;
use flocker_model::SnapshotName;

use super::Rules;
use super::seen::Seen;
use super::seen::see;
use crate::action::Action;
use crate::step::Reason;

impl Rules<'_> {
    /// Drops the snapshots that no copy needs, of datasets that are where they are to be.
    ///
    /// Kept are, on the owner, the newest and what it has in common with the
    /// newest of each copy; on a copy, the newest and what it has of these: it
    /// may be the owner next, and has to bring the other copies up to date
    /// then. While a node is silent, everything is kept: it may have a copy.
    pub(super) fn tidy(&mut self) {
        if !self.view.silent.is_empty() {
            return;
        }
        let settled = self
            .view
            .desired
            .placements()
            .datasets()
            .iter()
            .filter(|(_, application)| self.found.data_settled[*application as usize])
            .map(|(dataset, _)| *dataset);
        let mut copies = self.view.copies.all();
        let mut crowded = Vec::new();
        for dataset in settled {
            let n_before = copies.iter().take_while(|copy| copy.dataset < dataset).count();
            copies = &copies[n_before..];
            let group = copies.iter().take_while(|copy| copy.dataset == dataset);
            if group.into_iter().any(|copy| copy.is_crowded) {
                crowded.push(dataset);
            }
        }
        // So may what cannot be read be one.
        crowded.retain(|dataset| self.view.unreadable_on(*dataset).next().is_none());
        for dataset in crowded {
            self.tidy_dataset(dataset);
        }
    }

    fn tidy_dataset(&mut self, dataset: DatasetId) {
        let Seen::Primary { on, what: owner, .. } = see(&self.view, dataset) else {
            return;
        };
        let copies = self.view.copies_of(dataset).to_vec();
        let bases: Vec<_> = copies
            .iter()
            .filter(|copy| copy.node != on)
            .filter_map(|copy| copy.what.snapshots.last())
            .map(|newest| newest.guid)
            .filter(|base| owner.snapshots.iter().any(|own| own.guid == *base))
            .collect();
        for copy in &copies {
            let newest = copy.what.snapshots.last().map(|newest| newest.guid);
            let is_needed = |snapshot: &flocker_model::Snapshot| {
                let is_last =
                    matches!(&copy.what.role, Role::Released { last, .. } if *last == snapshot.name);
                Some(snapshot.guid) == newest || is_last || bases.contains(&snapshot.guid)
            };
            let snapshots: Vec<SnapshotName> = copy
                .what
                .snapshots
                .iter()
                .filter(|snapshot| !is_needed(snapshot))
                .map(|snapshot| snapshot.name.clone())
                .collect();
            if !snapshots.is_empty() && self.obeys(copy.node) {
                let reason = Reason::Tidies {
                    dataset: Some(dataset),
                };
                self.step(
                    copy.node,
                    Action::Trim { dataset, snapshots },
                    &reason,
                    Vec::new(),
                    Vec::new(),
                );
            }
        }
        debug_assert!(matches!(owner.role, Role::Primary { .. }));
    }
}
