//! The rules: from what is wanted and what is seen to steps, and to what is left undone.
//!
//! One pass finds the applications of which anything is not as it is to be;
//! only those are looked at by rule. The rules are `dataset` (the table of
//! what is wanted against what is `seen`), `handoff`, `room`, `warm`, `earlier`
//! and `offer` (how data changes hands), `writers` (one at a time), `application`
//! (start, restart, stop), `order`, `route` and `tidy`. What only a person
//! decides stands beside them: [`promote`](mod@promote), [`reclaim`](mod@reclaim) and
//! [`undo`](mod@undo).

mod application;
mod dataset;
mod earlier;
mod handoff;
mod offer;
mod order;
pub mod promote;
pub mod reclaim;
mod restore;
mod room;
mod route;
mod seen;
mod settled;
mod tidy;
mod together;
pub mod undo;
mod warm;
mod writers;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use flocker_model::ApplicationName;
use flocker_model::ByteSize;
use flocker_model::ClusterState;
use flocker_model::ContainerState;
use flocker_model::ContainerStatus;
use flocker_model::DatasetId;
use flocker_model::Deployment;
use flocker_model::Epoch;
use flocker_model::Generation;
use flocker_model::NodeName;
use flocker_model::SnapshotName;

use self::together::Beside;
use crate::action::Action;
use crate::blocked::Kept;
use crate::blocked::Refusal;
use crate::blocked::Waiting;
use crate::fact::Fact;
use crate::needs::Gathered;
use crate::needs::Listed;
use crate::needs::Needs;
use crate::plan::Plan;
use crate::policy::Policy;
use crate::policy::StopAll;
use crate::shares::Workers;
use crate::step::Because;
use crate::step::Need;
use crate::step::Reason;
use crate::step::Step;
use crate::view::Extra;
use crate::view::View;

pub(crate) fn plan(desired: &Deployment, actual: &ClusterState, policy: &Policy, workers: Workers) -> Plan {
    let mut rules = Rules::new(desired, actual, policy, workers);
    rules.refuse_returned();
    if rules.is_outdated() {
        return rules.finish();
    }
    rules.find_settled_data();
    rules.find_containers();
    if rules.stops_too_much() {
        return rules.finish();
    }
    let unsettled = rules.find_unsettled();
    rules.apply_all(&unsettled);
    rules.stop_undefined();
    rules.start_again_last();
    rules.delete();
    rules.route();
    rules.tidy();
    rules.order();
    rules.finish()
}

/// Where an application serves once the steps of a plan are done.
#[derive(Clone, Debug)]
struct Serving {
    homes: Vec<u32>,
    /// Whether steps of the plan bring it there, so that routes wait for it.
    begins: bool,
}

/// What is stopped on one node, in order of name.
///
/// The names are those of what is wanted or seen. To keep each once more would be one more way to far-off memory, when it is
/// kept and when it is dropped.
#[derive(Clone, Debug, Default)]
struct Stopped<'a>(Vec<&'a ApplicationName>);

impl<'a> Stopped<'a> {
    fn find(&self, name: &ApplicationName) -> Result<usize, usize> {
        match self.0.last() {
            // Applications are looked at in order of name, so that most come last.
            Some(&last) if last < name => Err(self.0.len()),
            Some(_) | None => self.0.binary_search(&name),
        }
    }

    /// Adds what is stopped by later rules.
    fn append(&mut self, more: Self) {
        let is_after = self
            .0
            .last()
            .zip(more.0.first())
            .is_none_or(|(last, first)| last < first);
        if self.0.is_empty() {
            *self = more;
        } else if is_after {
            self.0.extend(more.0);
        } else {
            for name in more.0 {
                self.insert(name);
            }
        }
    }

    /// Adds an application, and says whether it was not there.
    fn insert(&mut self, name: &'a ApplicationName) -> bool {
        let place = self.find(name);
        if let Err(place) = place {
            self.0.insert(place, name);
        }
        place.is_err()
    }
}

/// What a look at everything has found, before any rule.
#[derive(Debug, Default)]
struct Found<'a> {
    /// By number of application: whether its data is where it is to be, as it is to be.
    data_settled: Vec<bool>,
    /// By number of application: whether all its homes run it as it is to be.
    runs_settled: Vec<bool>,
    /// By number of application: whether a container of it is on any of its homes; empty before anybody has looked.
    seen_at_home: Vec<bool>,
    /// Containers where they are not placed, in order of application.
    extras: Vec<Extra<'a>>,
    /// By number of application: where its own begin among them; empty where there are none.
    extra_starts: Vec<u32>,
}

/// What the rules read and what they have written so far.
struct Rules<'a> {
    view: Arc<View<'a>>,
    policy: &'a Policy,
    found: Arc<Found<'a>>,
    /// Where the applications serve of which anything changes.
    serving: BTreeMap<u32, Serving>,
    /// What is started, and by which step; in order of application.
    started: Vec<(u32, usize)>,
    /// By number of node: what is stopped there.
    stopped: Vec<Stopped<'a>>,
    /// What is started and depends on others, or links to them; in order, and perhaps twice.
    uses_others: Vec<u32>,
    /// Steps that need a stop after which the same application could start again too early for them.
    after_stops: Vec<usize>,
    /// What stops once nobody is sent there, and by which step.
    leaving: Vec<(u32, usize)>,
    /// By number of node: how much of its free space is promised to data on its way.
    promised: Vec<ByteSize>,
    /// The newest name that was made for a last snapshot.
    handoff: Option<(Epoch, SnapshotName)>,
    /// What the rules have asked of applications that they were not looking at.
    beside: Beside,
    /// The application that the rules are looking at.
    looked_at: Option<u32>,
    steps: Vec<Step>,
    /// What the newest steps need, until it is handed out to them.
    gathered: Gathered,
    waiting: Vec<Waiting>,
    refused: Vec<Refusal>,
    kept: Vec<Kept>,
}

impl<'a> Rules<'a> {
    fn new(desired: &'a Deployment, actual: &'a ClusterState, policy: &'a Policy, workers: Workers) -> Self {
        let view = View::new(desired, actual, workers);
        let found = Found {
            data_settled: vec![true; view.names.len()],
            runs_settled: vec![false; view.names.len()],
            ..Found::default()
        };
        Self::with(Arc::new(view), policy, Arc::new(found))
    }

    fn with(view: Arc<View<'a>>, policy: &'a Policy, found: Arc<Found<'a>>) -> Self {
        let n_nodes = view.nodes.len();
        Self {
            view,
            policy,
            found,
            serving: BTreeMap::new(),
            started: Vec::new(),
            uses_others: Vec::new(),
            stopped: vec![Stopped::default(); n_nodes],
            after_stops: Vec::new(),
            leaving: Vec::new(),
            promised: vec![ByteSize(0); n_nodes],
            handoff: None,
            beside: Beside::default(),
            looked_at: None,
            steps: Vec::new(),
            gathered: Gathered::default(),
            waiting: Vec::new(),
            refused: Vec::new(),
            kept: Vec::new(),
        }
    }

    /// A node that was declared lost and answers again may hold old data: nothing is planned for it.
    fn refuse_returned(&mut self) {
        let returned = self
            .view
            .nodes
            .iter()
            .filter(|node| node.forgotten && node.seen.is_some());
        self.refused.extend(returned.map(|node| Refusal::Returned {
            node: node.name.clone(),
        }));
    }

    /// Refuses everything where a node obeys a newer configuration by now: it is somebody else's turn.
    fn is_outdated(&mut self) -> bool {
        let generation = self.view.desired.generation();
        let nodes = self.view.nodes.iter().filter(|node| !node.forgotten);
        let obeyed = nodes.filter_map(|node| Some((node.seen?.generation, node.name)));
        let newer: Vec<(Generation, &NodeName)> = obeyed.filter(|(obeyed, _)| *obeyed > generation).collect();
        let Some(&(newest, _)) = newer.iter().max() else {
            return false;
        };
        let nodes = newer.iter().map(|(_, name)| (*name).clone()).collect();
        self.refused.push(Refusal::Outdated {
            generation,
            newest,
            nodes,
        });
        true
    }

    /// Returns the placed application that claims the data with which another one is left running: its new name.
    fn heir(&self, extra: &Extra<'_>) -> Option<u32> {
        let placements = self.view.desired.placements();
        let claims = placements.datasets();
        let dataset = extra.container.dataset?;
        let position = claims
            .binary_search_by_key(&dataset, |(claimed, _)| *claimed)
            .ok()?;
        let (_, heir) = claims[position];
        (Some(heir) != extra.application && !placements.homes(heir).is_empty()).then_some(heir)
    }

    /// Says whether the rules of another application decide when this container stops: it has its data.
    fn is_left_to_heir(&self, extra: &Extra<'_>) -> bool {
        self.heir(extra).is_some_and(|heir| !self.is_settled(heir))
    }

    /// Says whether this plan starts an application on a node.
    fn starts(&self, application: u32, node: u32) -> bool {
        self.find_start(application, self.view.node(node).name).is_some()
    }

    /// Refuses everything where more than half of what runs would be stopped: the file may be empty, or a name mistyped.
    ///
    /// Nothing of such a file is carried out. What it starts would make what
    /// it stops less than half, and the same file typed again would be obeyed.
    fn stops_too_much(&mut self) -> bool {
        let listed = |node: u32| self.view.node(node).member.is_some();
        let alive = |container: &ContainerState| container.is_alive();
        let n_stopping = self
            .found
            .extras
            .iter()
            .filter(|extra| listed(extra.node) && alive(extra.container))
            .filter(|extra| match extra.application {
                Some(application) => self.view.desired.placements().homes(application).is_empty(),
                None => true,
            })
            .filter(|extra| self.heir(extra).is_none())
            .count();
        if n_stopping == 0 || self.policy.stop_all == StopAll::Allow {
            return false;
        }
        let states = self
            .view
            .nodes
            .iter()
            .filter(|node| node.member.is_some())
            .filter_map(|node| node.seen);
        let n_running = states
            .flat_map(|state| state.containers.values())
            .filter(|container| alive(container))
            .count();
        let too_much = n_stopping * 2 > n_running;
        if too_much {
            self.refused.push(Refusal::StopAll {
                stopping: n_stopping,
                running: n_running,
            });
        }
        too_much
    }

    fn finish(mut self) -> Plan {
        self.hand_out();
        Plan::linked_by(
            self.view.workers,
            self.view.desired.generation(),
            self.steps,
            (self.waiting, self.refused, self.kept),
        )
    }

    // What the rules are written with.

    fn application(&self, application: u32) -> ApplicationName {
        self.view.names[application as usize].clone()
    }

    fn node(&self, node: u32) -> NodeName {
        self.view.name(node)
    }

    /// Says whether orders may be given to a node: it was seen, and nobody has declared it lost.
    fn obeys(&self, node: u32) -> bool {
        let node = self.view.node(node);
        node.seen.is_some() && !node.forgotten
    }

    fn container(&self, application: u32, node: u32) -> Option<&'a ContainerState> {
        let lookup = || {
            let state = self.view.node(node).seen?;
            state.containers.get(self.view.names[application as usize])
        };
        let Some(&is_at_home) = self.found.seen_at_home.get(application as usize) else {
            return lookup();
        };
        if self.view.homes(application).any(|home| home == node) {
            return is_at_home.then(lookup).flatten();
        }
        let mut extras = self.extras_of(application).iter();
        extras
            .find(|extra| extra.node == node)
            .map(|extra| extra.container)
    }

    /// Returns every container on a node that obeys which has a dataset or an application's name; in order of node, then name.
    fn users(
        &self,
        application: u32,
        dataset: DatasetId,
    ) -> Vec<(u32, &'a ApplicationName, &'a ContainerState)> {
        let users = self.view.users_of(dataset).iter();
        let extras = self.extras_of(application).iter();
        let name = self.view.names[application as usize];
        let at_home = self.view.homes(application).filter_map(|home| {
            let container = self.container(application, home)?;
            Some((home, name, container))
        });
        let mut users: Vec<_> = users
            .map(|user| (user.node, user.name, user.container))
            .chain(extras.map(|extra| (extra.node, extra.name, extra.container)))
            .chain(at_home)
            .filter(|(node, ..)| self.obeys(*node))
            .collect();
        users.sort_unstable_by_key(|(node, name, _)| (*node, *name));
        users.dedup_by_key(|(node, name, _)| (*node, *name));
        users
    }

    fn wait_for_sight(&mut self, application: u32, dataset: bool, nodes: Vec<NodeName>) {
        let volume = self.view.definitions[application as usize].volume.as_ref();
        self.waiting.push(Waiting::ForSight {
            application: Some(self.application(application)),
            dataset: volume.filter(|_| dataset).map(|volume| volume.dataset),
            nodes,
        });
    }

    /// Adds a step, and says what it makes: that is what follows from its action.
    fn step(&mut self, actor: u32, action: Action, reason: &Reason, needs: Vec<Need>, makes: Vec<Fact>) {
        let needs = self.gathered.list(needs);
        self.act(actor, action, reason, needs);
        let is_made = |fact| self.steps.last().is_some_and(|step| step.is_maker_of(fact));
        debug_assert!(makes.iter().all(is_made), "{makes:?}");
        drop(makes);
    }

    /// Adds a step.
    fn act(&mut self, actor: u32, action: Action, reason: &Reason, needs: Listed) {
        // Steps of one reason come together, and share it.
        let before = self.steps.last().map(|step| &step.reason);
        let reason = match before.filter(|before| ***before == *reason) {
            Some(same) => Arc::clone(same),
            None => Arc::new(reason.clone()),
        };
        let step = Step {
            actor: self.node(actor),
            action,
            reason,
            needs: Needs::default(),
        };
        let needed = self.gathered.get(needs);
        if needed.iter().any(|need| order::may_be_cut_short(&step, need)) {
            self.after_stops.push(self.steps.len());
        }
        self.gathered.give(self.steps.len(), needs);
        self.steps.push(step);
    }

    /// Gives the newest steps what they need. Before that, nobody may read or change it.
    fn hand_out(&mut self) {
        self.gathered.hand_out(0, &mut self.steps);
    }

    fn is_stopped(&self, name: &ApplicationName, node: u32) -> bool {
        self.stopped[node as usize].find(name).is_ok()
    }

    /// Notes where an application serves, if anybody is sent to it.
    fn serve(&mut self, application: u32, homes: Vec<u32>, begins: bool) {
        if !self.view.definitions[application as usize].ports.is_empty() {
            self.serving.insert(application, Serving { homes, begins });
        }
    }

    /// Removes a container, alive or not.
    fn stop(&mut self, name: &'a ApplicationName, node: u32, reason: &Reason, needs: Vec<Need>) -> Fact {
        let state = self.view.node(node).seen;
        let grace = state
            .and_then(|state| state.containers.get(name))
            .map_or(flocker_model::Application::DEFAULT_STOP_GRACE, |container| {
                container.stop_grace
            });
        let needs = self.gathered.list(needs);
        self.stop_within(name, node, grace, reason, needs)
    }

    /// Removes a container, alive or not, of which it is known how long it may take to end.
    fn stop_within(
        &mut self,
        name: &'a ApplicationName,
        node: u32,
        grace: Duration,
        reason: &Reason,
        needs: Listed,
    ) -> Fact {
        let on = self.node(node);
        let stopped = Fact::Stopped {
            application: name.clone(),
            on,
        };
        self.note_stop(name, node);
        if self.stopped[node as usize].insert(name) {
            let action = Action::Stop {
                application: name.clone(),
                grace,
            };
            self.act(node, action, reason, needs);
        }
        stopped
    }
}

fn need(fact: Fact, because: Because) -> Need {
    Need { fact, because }
}

/// Says whether a container was made ready and not started.
fn is_prepared(container: &ContainerState) -> bool {
    container.status == ContainerStatus::Prepared
}
