//! What nobody needs any more, dropped where a person asks for it.

use flocker_model::ClusterState;
use flocker_model::DatasetId;
use flocker_model::Deployment;
use flocker_model::planted::Bug;
use flocker_model::planted::is_planted;

use super::Rules;
use super::seen::Seen;
use super::seen::see;
use crate::action::Action;
use crate::fact::Fact;
use crate::plan::Plan;
use crate::policy::Policy;
use crate::shares::Workers;
use crate::step::Reason;

/// Drops what Flocker made and nobody needs any more, once it is older than the grace:
/// spare copies to the trash, old trash for ever, copies that never became complete.
///
/// A spare copy goes only while its owner is seen and every complete snapshot of it lives on there.
pub fn reclaim(desired: &Deployment, actual: &ClusterState, policy: &Policy) -> Plan {
    let mut rules = Rules::new(desired, actual, policy, Workers::ALONE);
    if rules.is_outdated() {
        return rules.finish();
    }
    let mut datasets: Vec<DatasetId> = rules.view.copies.all().iter().map(|copy| copy.dataset).collect();
    datasets.dedup();
    for dataset in datasets {
        rules.reclaim_copies(dataset);
    }
    for node in 0..crate::view::number(rules.view.nodes.len()) {
        if !rules.obeys(node) {
            continue;
        }
        let trash = rules
            .view
            .node(node)
            .seen
            .map(|state| state.trash.clone())
            .unwrap_or_default();
        for piece in trash.into_iter().filter(|piece| piece.age >= policy.grace) {
            let reason = Reason::Tidies {
                dataset: Some(piece.dataset),
            };
            rules.step(
                node,
                Action::EmptyTrash { entry: piece.entry },
                &reason,
                Vec::new(),
                Vec::new(),
            );
        }
    }
    rules.finish()
}

impl Rules<'_> {
    fn reclaim_copies(&mut self, dataset: DatasetId) {
        let Seen::Primary { on, what: owner } = see(&self.view, dataset) else {
            return;
        };
        let grace = self.policy.grace;
        let reason = Reason::Tidies {
            dataset: Some(dataset),
        };
        for copy in self.view.copies_of(dataset).to_vec() {
            let is_owner = copy.node == on && !is_planted(Bug::LastCopyTrashed);
            if is_owner || !self.obeys(copy.node) || copy.what.age < grace {
                continue;
            }
            let lives_on = |guid| owner.snapshots.iter().any(|snapshot| snapshot.guid == guid);
            let newest = copy.what.snapshots.last();
            if newest.is_none_or(|newest| lives_on(newest.guid)) {
                let gone = Fact::Gone {
                    dataset,
                    on: self.node(copy.node),
                };
                self.step(
                    copy.node,
                    Action::Destroy { dataset },
                    &reason,
                    Vec::new(),
                    vec![gone],
                );
            } else if copy.what.partial.is_some() {
                self.step(
                    copy.node,
                    Action::DropPartial { dataset },
                    &reason,
                    Vec::new(),
                    Vec::new(),
                );
            }
        }
    }
}
