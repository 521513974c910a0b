//! What a step makes true: it follows from its action and its actor, and is not kept.
//!
//! A plan of a million moves has eight million facts that its steps make.
//! Almost all of them are only ever compared with what other steps need.

use flocker_model::NodeName;
use flocker_model::RouteTarget;

use crate::action::Action;
use crate::fact::Fact;
use crate::step::Step;

impl Step {
    /// Returns what is true once it is done.
    ///
    /// That its node then obeys the plan's configuration is true of every step and not listed.
    #[must_use]
    pub fn makes(&self) -> Vec<Fact> {
        let on = || self.actor.clone();
        match &self.action {
            Action::Create { dataset, epoch } => vec![Fact::Primary {
                dataset: dataset.id,
                on: on(),
                epoch: *epoch,
            }],
            Action::Take { dataset, snapshot } => vec![Fact::Snapshot {
                dataset: *dataset,
                on: on(),
                name: snapshot.clone(),
            }],
            Action::Push {
                dataset,
                snapshot,
                base: _,
                to,
            } => vec![Fact::Snapshot {
                dataset: dataset.id,
                on: to.clone(),
                name: snapshot.clone(),
            }],
            Action::Release {
                dataset,
                epoch,
                to: _,
                last,
            } => vec![
                Fact::Released {
                    dataset: *dataset,
                    by: on(),
                    epoch: *epoch,
                },
                Fact::Snapshot {
                    dataset: *dataset,
                    on: on(),
                    name: last.clone(),
                },
            ],
            Action::Acquire {
                dataset,
                epoch,
                from: _,
                guid: _,
            } => vec![Fact::Primary {
                dataset: *dataset,
                on: on(),
                epoch: *epoch,
            }],
            Action::Renounce { dataset, epoch } => vec![Fact::Renounced {
                dataset: *dataset,
                by: on(),
                epoch: *epoch,
            }],
            Action::Destroy { dataset } => vec![Fact::Gone {
                dataset: *dataset,
                on: on(),
            }],
            Action::Prepare {
                application,
                definition: _,
            } => vec![Fact::Prepared {
                application: application.clone(),
                on: on(),
            }],
            Action::Start {
                application,
                definition: _,
            } => vec![
                Fact::Running {
                    application: application.clone(),
                    on: on(),
                },
                Fact::Healthy {
                    application: application.clone(),
                    on: on(),
                },
            ],
            Action::Stop {
                application,
                grace: _,
            } => vec![Fact::Stopped {
                application: application.clone(),
                on: on(),
            }],
            Action::Route { change } => {
                let routed = change.set.iter().filter_map(|(port, target)| {
                    Some(Fact::Routed {
                        port: *port,
                        on: on(),
                        to: end(target, &self.actor)?.clone(),
                    })
                });
                routed.collect()
            }
            Action::Resize { .. }
            | Action::Trim { .. }
            | Action::DropPartial { .. }
            | Action::Restore { .. }
            | Action::EmptyTrash { .. } => Vec::new(),
        }
    }

    /// Returns the node on which it makes something true: the receiver's of a copy, else its actor's.
    pub(crate) fn place(&self) -> &NodeName {
        match &self.action {
            Action::Push { to, .. } => to,
            Action::Create { .. }
            | Action::Resize { .. }
            | Action::Take { .. }
            | Action::Release { .. }
            | Action::Acquire { .. }
            | Action::Renounce { .. }
            | Action::Destroy { .. }
            | Action::Trim { .. }
            | Action::DropPartial { .. }
            | Action::Restore { .. }
            | Action::EmptyTrash { .. }
            | Action::Prepare { .. }
            | Action::Start { .. }
            | Action::Stop { .. }
            | Action::Route { .. } => &self.actor,
        }
    }

    /// Says whether a fact is among those that [`Step::makes`] returns, without making them.
    #[must_use]
    pub fn is_maker_of(&self, fact: &Fact) -> bool {
        match (&self.action, fact) {
            (
                Action::Create { dataset, epoch },
                Fact::Primary {
                    dataset: made,
                    on,
                    epoch: since,
                },
            ) => dataset.id == *made && epoch == since && self.actor == *on,
            (
                Action::Take { dataset, snapshot },
                Fact::Snapshot {
                    dataset: made,
                    on,
                    name,
                },
            )
            | (
                Action::Release {
                    dataset,
                    last: snapshot,
                    ..
                },
                Fact::Snapshot {
                    dataset: made,
                    on,
                    name,
                },
            ) => dataset == made && self.actor == *on && snapshot == name,
            (
                Action::Push {
                    dataset,
                    snapshot,
                    to,
                    ..
                },
                Fact::Snapshot {
                    dataset: made,
                    on,
                    name,
                },
            ) => dataset.id == *made && to == on && snapshot == name,
            (
                Action::Release { dataset, epoch, .. },
                Fact::Released {
                    dataset: made,
                    by,
                    epoch: for_,
                },
            )
            | (
                Action::Renounce { dataset, epoch },
                Fact::Renounced {
                    dataset: made,
                    by,
                    epoch: for_,
                },
            )
            | (
                Action::Acquire { dataset, epoch, .. },
                Fact::Primary {
                    dataset: made,
                    on: by,
                    epoch: for_,
                },
            ) => dataset == made && epoch == for_ && self.actor == *by,
            (Action::Destroy { dataset }, Fact::Gone { dataset: made, on }) => {
                dataset == made && self.actor == *on
            }
            (
                Action::Prepare { application, .. },
                Fact::Prepared {
                    application: made,
                    on,
                },
            )
            | (
                Action::Start { application, .. },
                Fact::Running {
                    application: made,
                    on,
                }
                | Fact::Healthy {
                    application: made,
                    on,
                },
            )
            | (
                Action::Stop { application, .. },
                Fact::Stopped {
                    application: made,
                    on,
                },
            ) => self.actor == *on && application == made,
            (Action::Route { change }, Fact::Routed { port, on, to }) => {
                self.actor == *on
                    && change
                        .set
                        .get(port)
                        .is_some_and(|target| end(target, on) == Some(to))
            }
            (_, _) => false,
        }
    }
}

/// Returns where a node's own route to a target leads: to itself where it is a home, else to the first home.
fn end<'a>(target: &'a RouteTarget, on: &NodeName) -> Option<&'a NodeName> {
    let here = target.homes.iter().find(|home| home.node == *on);
    here.or(target.homes.first()).map(|home| &home.node)
}
