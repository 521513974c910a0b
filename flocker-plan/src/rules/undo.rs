//! How the last thing that happened to an application's data is undone.

use flocker_model::ApplicationName;
use flocker_model::ClusterState;
use flocker_model::DatasetId;
use flocker_model::Deployment;
use flocker_model::NodeName;
use flocker_model::Role;

use super::Rules;
use super::restore::Return;
use super::seen::Seen;
use super::seen::see;
use crate::blocked::Waiting;
use crate::plan::Plan;
use crate::policy::Policy;
use crate::shares::Workers;

/// How the last thing that happened to an application's data can be undone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Undo {
    /// It was destroyed: this plan brings it back from the trash, or says why it does not.
    Restore {
        /// The plan.
        plan: Plan,
        /// Where other copies stay in the trash: only the one that counted last comes back.
        left: Vec<NodeName>,
    },
    /// It was moved: this is where it came from. It goes back as it came, with everything written since.
    MoveBack {
        /// Where it came from.
        to: NodeName,
        /// Where it is.
        from: NodeName,
    },
    /// There is nothing to undo.
    Nothing,
}

/// Finds out how the last thing that happened to an application's data can be undone, from what is seen.
///
/// Of what is in the trash, the copy of the newest owner comes back, or that
/// of the node `on` where a person has said so.
#[must_use]
pub fn undo(
    desired: &Deployment,
    actual: &ClusterState,
    policy: &Policy,
    application: &ApplicationName,
    on: Option<&NodeName>,
) -> Undo {
    let volume = desired
        .application(application)
        .and_then(|definition| definition.volume.as_ref());
    let dataset = volume.map_or_else(|| DatasetId::derived(application), |volume| volume.dataset);
    let mut rules = Rules::new(desired, actual, policy, Workers::ALONE);
    if rules.is_outdated() {
        return Undo::Restore {
            plan: rules.finish(),
            left: Vec::new(),
        };
    }
    let only_on = on.map(|on| rules.view.find(on));
    let Some(only_on) = only_on.map_or(Some(None), |found| found.map(Some)) else {
        return Undo::Nothing;
    };
    let found = match see(&rules.view, dataset) {
        Seen::Primary { on, .. } => {
            let copies = rules.view.copies_of(dataset).iter();
            let earlier = copies.filter_map(|copy| match copy.what.role {
                Role::Released { epoch, .. } => Some((epoch, copy.node)),
                Role::Primary { .. } | Role::Replica => None,
            });
            return match earlier.max() {
                Some((_, node)) => Undo::MoveBack {
                    to: rules.node(node),
                    from: rules.node(on),
                },
                None => Undo::Nothing,
            };
        }
        // Whether it is gone is not known, and so not what would bring it back.
        Seen::OwnerHidden if rules.view.trash_of(dataset).next().is_some() => {
            let nodes = rules.view.silent.clone();
            if !nodes.is_empty() {
                rules.waiting.push(Waiting::ForSight {
                    application: Some(application.clone()),
                    dataset: Some(dataset),
                    nodes,
                });
            }
            rules.refuse_unreadable(None, dataset);
            return Undo::Restore {
                plan: rules.finish(),
                left: Vec::new(),
            };
        }
        Seen::Split { .. } | Seen::Released { .. } | Seen::OwnerHidden => return Undo::Nothing,
        Seen::Nowhere => rules.find_return(dataset, only_on),
        Seen::CopiesOnly { .. } => match rules.find_return(dataset, only_on) {
            // There are copies enough; what is missing is an owner.
            Return::Copies(_) => Return::Nothing,
            found @ (Return::Nothing | Return::Owner(_) | Return::Not { .. }) => found,
        },
    };
    if let Return::Nothing = found {
        return Undo::Nothing;
    }
    let left = rules.restore(application, dataset, found);
    Undo::Restore {
        plan: rules.finish(),
        left,
    }
}
