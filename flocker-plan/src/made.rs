//! What a step makes true: it follows from its action and its actor, and is not kept.
//!
//! A plan of a million moves has eight million facts that its steps make.
//! Almost all of them are only ever compared with what other steps need.

use flocker_model::DatasetId;
use flocker_model::Epoch;
use flocker_model::NodeName;
use flocker_model::RouteTarget;
use flocker_model::SnapshotName;

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
        let owned = |dataset: DatasetId, epoch: Epoch| Fact::Primary {
            dataset,
            on: on(),
            epoch,
        };
        let complete = |dataset: DatasetId, on: NodeName, name: &SnapshotName| Fact::Snapshot {
            dataset,
            on,
            name: name.clone(),
        };
        match &self.action {
            Action::Create { dataset, epoch } => vec![owned(dataset.id, *epoch)],
            Action::Take { dataset, snapshot } => vec![complete(*dataset, on(), snapshot)],
            Action::Push {
                dataset,
                snapshot,
                to,
                ..
            } => vec![complete(dataset.id, to.clone(), snapshot)],
            Action::Release {
                dataset, epoch, last, ..
            } => {
                let released = Fact::Released {
                    dataset: *dataset,
                    by: on(),
                    epoch: *epoch,
                };
                vec![released, complete(*dataset, on(), last)]
            }
            Action::Acquire { dataset, epoch, .. } => vec![owned(*dataset, *epoch)],
            Action::Renounce { dataset, epoch } => vec![Fact::Renounced {
                dataset: *dataset,
                by: on(),
                epoch: *epoch,
            }],
            Action::Destroy { dataset } => vec![Fact::Gone {
                dataset: *dataset,
                on: on(),
            }],
            Action::Prepare { application, .. } => vec![Fact::Prepared {
                application: application.clone(),
                on: on(),
            }],
            Action::Start { application, .. } => {
                let running = Fact::Running {
                    application: application.clone(),
                    on: on(),
                };
                let healthy = Fact::Healthy {
                    application: application.clone(),
                    on: on(),
                };
                vec![running, healthy]
            }
            Action::Stop { application, .. } => vec![Fact::Stopped {
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

    /// Says whether a fact is among those that [`Step::makes`] returns, without making them.
    #[must_use]
    pub fn is_maker_of(&self, fact: &Fact) -> bool {
        let Self { actor, action, .. } = self;
        match fact {
            Fact::Prepared { application, on } => {
                matches!(action, Action::Prepare { application: own, .. } if own == application)
                    && actor == on
            }
            Fact::Running { application, on } | Fact::Healthy { application, on } => {
                matches!(action, Action::Start { application: own, .. } if own == application) && actor == on
            }
            Fact::Stopped { application, on } => {
                matches!(action, Action::Stop { application: own, .. } if own == application) && actor == on
            }
            Fact::Primary { dataset, on, epoch } => {
                let created = matches!(action, Action::Create { dataset: own, epoch: since }
                    if own.id == *dataset && since == epoch);
                let acquired = matches!(action, Action::Acquire { dataset: own, epoch: since, .. }
                    if own == dataset && since == epoch);
                (created || acquired) && actor == on
            }
            Fact::Released { dataset, by, epoch } => {
                matches!(action, Action::Release { dataset: own, epoch: for_, .. }
                    if own == dataset && for_ == epoch)
                    && actor == by
            }
            Fact::Renounced { dataset, by, epoch } => {
                matches!(action, Action::Renounce { dataset: own, epoch: given_up }
                    if own == dataset && given_up == epoch)
                    && actor == by
            }
            Fact::Snapshot { dataset, on, name } => {
                let sent = matches!(action, Action::Push { dataset: own, snapshot, to, .. }
                    if own.id == *dataset && snapshot == name && to == on);
                let taken = matches!(action, Action::Take { dataset: own, snapshot }
                    | Action::Release { dataset: own, last: snapshot, .. }
                    if own == dataset && snapshot == name);
                sent || (taken && actor == on)
            }
            Fact::Gone { dataset, on } => {
                matches!(action, Action::Destroy { dataset: own } if own == dataset) && actor == on
            }
            Fact::Routed { port, on, to } => {
                let leads_there = |target| end(target, on) == Some(to);
                matches!(action, Action::Route { change } if change.set.get(port).is_some_and(leads_there))
                    && actor == on
            }
            Fact::Obeys { .. } => false,
        }
    }

    /// Returns the node on which it makes something true: the receiver's of a copy, else its actor's.
    pub(crate) fn place(&self) -> &NodeName {
        self.action.receiver().unwrap_or(&self.actor)
    }
}

/// Returns where a node's own route to a target leads: to itself where it is a home, else to the first home.
fn end<'a>(target: &'a RouteTarget, on: &NodeName) -> Option<&'a NodeName> {
    let here = target.homes.iter().find(|home| home.node == *on);
    here.or(target.homes.first()).map(|home| &home.node)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Needs;
    use crate::Reason;

    #[test]
    fn a_step_is_the_maker_of_just_what_it_makes() {
        let dataset = flocker_model::Dataset {
            id: DatasetId(uuid::Uuid::from_u128(1)),
            owner: "web".parse().unwrap(),
            maximum_size: None,
        };
        let (id, epoch, last) = (dataset.id, Epoch(2), SnapshotName::handoff(Epoch(2)));
        let application: flocker_model::ApplicationName = "web".parse().unwrap();
        let definition = flocker_model::DefinitionHash(1);
        let [alpha, beta] = ["alpha", "beta"].map(|name| name.parse::<NodeName>().unwrap());
        let home = |node: &NodeName| flocker_model::Home {
            node: node.clone(),
            address: [10, 0, 0, 1].into(),
        };
        let internal = flocker_model::PortNumber::new(80).unwrap();
        let port = flocker_model::ExternalPort::tcp(internal);
        let target = RouteTarget {
            application: application.clone(),
            internal,
            homes: vec![home(&beta)],
        };
        let change = flocker_model::RouteChange {
            set: [(port, target)].into(),
            drop: [].into(),
        };
        let actions = [
            Action::Create {
                dataset: dataset.clone(),
                epoch,
            },
            Action::Take {
                dataset: id,
                snapshot: SnapshotName::warm(epoch, 1),
            },
            Action::Push {
                dataset,
                snapshot: last.clone(),
                base: None,
                to: beta.clone(),
            },
            Action::Release {
                dataset: id,
                epoch,
                to: beta.clone(),
                last: last.clone(),
            },
            Action::Acquire {
                dataset: id,
                epoch: Epoch(3),
                from: last,
                guid: None,
            },
            Action::Renounce { dataset: id, epoch },
            Action::Destroy { dataset: id },
            Action::Prepare {
                application: application.clone(),
                definition,
            },
            Action::Start {
                application: application.clone(),
                definition,
            },
            Action::Stop {
                application,
                grace: std::time::Duration::ZERO,
            },
            Action::Route {
                change: change.into(),
            },
            Action::DropPartial { dataset: id },
        ];
        let steps = actions.map(|action| Step {
            actor: alpha.clone(),
            action,
            reason: Reason::Tidies { dataset: None }.into(),
            needs: Needs::default(),
        });
        let facts: Vec<Fact> = steps.iter().flat_map(Step::makes).collect();
        assert_eq!(facts.len(), 13);
        for step in &steps {
            let made = step.makes();
            for fact in &facts {
                assert_eq!(
                    step.is_maker_of(fact),
                    made.contains(fact),
                    "{}: {fact}",
                    step.id()
                );
            }
            assert!(made.iter().all(|fact| fact.place() == step.place()));
        }
    }
}
