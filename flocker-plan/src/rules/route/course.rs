//! What changes in the routes of many nodes at once, and the steps with which each makes it.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::sync::Arc;

use flocker_model::ExternalPort;
use flocker_model::NodeName;
use flocker_model::RouteChange;
use flocker_model::RouteTarget;

use super::super::need;
use super::Wanted;
use crate::action::Action;
use crate::fact::Fact;
use crate::needs::Needs;
use crate::step::Because;
use crate::step::Need;
use crate::step::Reason;
use crate::step::Step;

/// An application that has ports, by number: every node's routes are made with it.
pub(super) struct Owner {
    pub(super) application: u32,
    /// Where it serves, and whether this plan starts it there; in the order of its routes' homes.
    pub(super) homes: Vec<(u32, bool)>,
    /// Whether steps of the plan bring it there.
    pub(super) begins: bool,
}

impl Owner {
    /// Returns the place in `homes` to which a node's own route leads: itself, or else the first.
    pub(super) fn place(&self, node: u32) -> usize {
        self.homes
            .iter()
            .position(|&(home, _)| home == node)
            .unwrap_or_default()
    }

    /// Returns what a node waits for before it sends connections for these ports to the home at a place.
    ///
    /// `turns` says for which ports that home changes its own route in this plan.
    pub(super) fn needs(
        &self,
        place: usize,
        set: &BTreeMap<ExternalPort, RouteTarget>,
        turns: impl Fn(ExternalPort) -> bool,
    ) -> Needs {
        let mut needs: Vec<Need> = Vec::new();
        let starts = self.begins && self.homes.get(place).is_some_and(|&(_, starts)| starts);
        for (&port, target) in set {
            let home = &target.homes[place].node;
            if starts {
                let healthy = Fact::Healthy {
                    application: target.application.clone(),
                    on: home.clone(),
                };
                if !needs.iter().any(|need| need.fact == healthy) {
                    needs.push(need(healthy, Because::ServedThere));
                }
            }
            if turns(port) {
                let routed = Fact::Routed {
                    port,
                    on: home.clone(),
                    to: home.clone(),
                };
                needs.push(need(routed, Because::NoCircle));
            }
        }
        needs.into()
    }
}

/// What changes in the routes of every node that has the same routes now.
pub(super) struct Change<'w> {
    pub(super) set: Vec<(ExternalPort, &'w RouteTarget)>,
    pub(super) drop: BTreeSet<ExternalPort>,
    /// Which of the ports in `set` were not routed before, in order: something else may use them.
    pub(super) fresh: Vec<ExternalPort>,
}

impl Change<'_> {
    pub(super) fn is_empty(&self) -> bool {
        self.set.is_empty() && self.drop.is_empty()
    }

    /// Returns which of the ports something else uses already.
    pub(super) fn taken(&self, foreign: &BTreeSet<ExternalPort>) -> Vec<ExternalPort> {
        let is_foreign = |port: &&ExternalPort| foreign.contains(*port);
        self.fresh.iter().filter(is_foreign).copied().collect()
    }

    /// Returns the change of a node that does not set these ports.
    pub(super) fn without(&self, taken: &[ExternalPort]) -> Self {
        let set = self.set.iter().filter(|(port, _)| !taken.contains(port));
        Self {
            set: set.copied().collect(),
            drop: self.drop.clone(),
            fresh: Vec::new(),
        }
    }

    /// Returns which nodes are homes of what is behind which ports, in order of node.
    pub(super) fn homes(&self, wanted: &Wanted) -> Vec<(u32, ExternalPort)> {
        let ports = self.set.iter().map(|&(port, _)| port);
        let homes = ports.flat_map(|port| {
            wanted.owners[&port]
                .homes
                .iter()
                .map(move |&(home, _)| (home, port))
        });
        let mut homes: Vec<_> = homes.collect();
        homes.sort_unstable();
        homes
    }
}

/// The steps with which nodes make one change, apart from what differs on the homes of what is routed.
///
/// All other nodes share them: a step on each costs no more than to say that it is there.
pub(super) struct Course<'w> {
    /// What is dropped later than at once, each with what it waits for.
    pub(super) drops: Vec<(Arc<RouteChange>, Needs)>,
    /// What waits for nothing.
    pub(super) at_once: Arc<RouteChange>,
    /// What waits, by application.
    pub(super) groups: Vec<Group<'w>>,
    /// Which nodes are homes of what is in which group, in order.
    pub(super) homes: Vec<(u32, usize)>,
}

/// What a node that is no home of an application sets in its routes to it later than at once, and for what it waits.
pub(super) struct Group<'w> {
    pub(super) owner: &'w Owner,
    pub(super) change: Arc<RouteChange>,
    pub(super) needs: Needs,
    /// The step that it comes after, where a home changes its own route first.
    pub(super) turn: Option<Turn>,
}

impl Course<'_> {
    /// Returns how many steps it has at most.
    pub(super) fn len(&self) -> usize {
        self.drops.len() + 1 + self.groups.len()
    }
}

/// The step with which a home changes its own route: the home, and the application if the step is about nothing else.
pub(super) type Turn = (u32, Option<u32>);

/// What nodes wait with that were passed before the home after whose own step it comes: the place of each, and which group.
///
/// Each would be put behind that step anyway, once steps are put into order; there are hundreds of thousands of them.
pub(super) type Late = BTreeMap<Turn, Vec<(usize, usize)>>;

/// A node whose routes change.
pub(super) struct Turning<'c> {
    pub(super) node: u32,
    actor: NodeName,
    reason: Arc<Reason>,
    pub(super) course: &'c Course<'c>,
}

impl<'c> Turning<'c> {
    pub(super) fn new(node: u32, actor: NodeName, course: &'c Course<'c>) -> Self {
        let reason = Reason::Routes { on: actor.clone() };
        Self {
            node,
            actor,
            reason: reason.into(),
            course,
        }
    }

    pub(super) fn step(&self, change: &Arc<RouteChange>, needs: Needs) -> Step {
        let change = Arc::clone(change);
        Step {
            actor: self.actor.clone(),
            action: Action::Route { change },
            reason: Arc::clone(&self.reason),
            needs,
        }
    }

    /// Returns the step of a node that is no home of the application of a group.
    pub(super) fn follow(&self, group: usize) -> Step {
        let Group { change, needs, .. } = &self.course.groups[group];
        self.step(change, needs.clone())
    }
}

/// Returns what belongs to a node in a list that is in order of node.
pub(super) fn of<T>(all: &[(u32, T)], node: u32) -> &[(u32, T)] {
    let start = all.partition_point(|(other, _)| *other < node);
    let n_own = all[start..].partition_point(|(other, _)| *other == node);
    &all[start..start + n_own]
}
