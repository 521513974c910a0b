//! The answer to `flocker why`, from what is wanted and what is seen.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::path::Path;

use flocker_model::ApplicationName;
use flocker_model::ClusterState;
use flocker_model::ContainerState;
use flocker_model::ContainerStatus;
use flocker_model::DatasetId;
use flocker_model::Deployment;
use flocker_model::NodeName;
use flocker_model::Observed;
use flocker_model::Role;
use flocker_model::Silence;
use flocker_plan::Plan;
use flocker_plan::Policy;
use flocker_plan::Step;
use flocker_plan::StepId;
use flocker_plan::Waiting;
use flocker_plan::blocked::list;
use flocker_plan::blocked::seconds;
use flocker_plan::holds;

use super::told::Answer;
use super::told::Held;
use super::told::Kind;
use super::told::Needed;
use crate::cluster;
use crate::cluster::Sight;
use crate::commands::status::health;
use crate::commands::status::owner;
use crate::commands::status::role;
use crate::commands::status::status;
use crate::commands::validate::counted;
use crate::error::Failure;
use crate::shown;
use crate::since;
use crate::since::Obstacle;
use crate::since::Since;

/// What is wanted and what is seen, and the plan that follows.
#[derive(Debug)]
pub(super) struct View<'a> {
    sight: &'a Sight,
    desired: &'a Deployment,
    actual: &'a ClusterState,
    has_files: bool,
    plan: Plan,
    deploy: String,
    /// What the last deploy could not do, by step or application.
    failures: BTreeMap<String, String>,
    /// What is waited for because nobody is served, whatever the plan.
    unserved: Vec<Waiting>,
    since: Since,
}

impl<'a> View<'a> {
    /// Plans where there are files; without them there is nothing that should be done.
    pub(super) fn new(
        sight: &'a Sight,
        policy: &Policy,
        deploy: String,
        failures: BTreeMap<String, String>,
    ) -> Self {
        let Sight {
            desired,
            actual,
            has_files,
            ..
        } = sight;
        let plan = if *has_files {
            flocker_plan::plan(desired, actual, policy)
        } else {
            Plan::default()
        };
        Self {
            sight,
            desired,
            actual,
            has_files: *has_files,
            unserved: shown::unserved(actual, Some(&plan)),
            plan,
            deploy,
            failures,
            since: sight.since.clone(),
        }
    }

    /// Takes note of what is waited for now, and remembers since when it is.
    pub(super) fn note(&mut self, state_dir: &Path) {
        if self.has_files {
            let obstacles = since::obstacles(&self.plan, &self.unserved);
            self.since = since::note(state_dir, self.desired, self.actual, &obstacles);
        }
    }

    /// Answers, if there is such a thing.
    pub(super) fn answer(&self, thing: &str) -> Option<Answer> {
        self.step(thing)
            .or_else(|| self.application(thing))
            .or_else(|| self.node(thing))
            .or_else(|| self.dataset(thing))
    }

    /// Says that there is no such thing, and what there is.
    pub(super) fn unknown(&self, thing: &str) -> Failure {
        let applications = self.all_applications();
        let applications: Vec<&str> = applications.iter().map(ApplicationName::as_str).collect();
        let nodes: Vec<NodeName> = self.actual.nodes.keys().cloned().collect();
        let applications = if applications.is_empty() {
            "none".into()
        } else {
            applications.join(", ")
        };
        let kind = if thing.contains('/') {
            "no step of this name is to be done now; it may have been done"
        } else {
            "there is no application, dataset, node or step of this name"
        };
        Failure::usage(format!("`{thing}`: {kind}")).hint(format!(
            "applications: {applications}; nodes: {}; `flocker plan --json` has the ids of steps",
            list(&nodes)
        ))
    }

    fn all_applications(&self) -> Vec<ApplicationName> {
        let running = self
            .actual
            .all_known()
            .flat_map(|(_, state)| state.containers.keys());
        let mut names: Vec<ApplicationName> = self
            .desired
            .applications()
            .keys()
            .chain(running)
            .cloned()
            .collect();
        names.sort_unstable();
        names.dedup();
        names
    }

    fn step(&self, thing: &str) -> Option<Answer> {
        let steps = self.plan.steps();
        let position = steps.iter().position(|step| step.id().0 == thing)?;
        let step = &steps[position];
        let mut known = vec![format!("{}: {}", step.actor, step.reason)];
        if self.actual.known(&step.actor).is_none() {
            known.push(self.sight(&step.actor));
        }
        if let Some(error) = self.failures.get(thing) {
            known.push(format!("the last deploy could not do it: {error}"));
        }
        let needs: Vec<Needed> = step.needs.iter().map(|need| self.needed(need)).collect();
        let is_ready = self.plan.edges().makers(position).next().is_none();
        known.push(if is_ready {
            "it waits for no other step: the next deploy begins with it".into()
        } else {
            "it is done by the next deploy, after what it needs".into()
        });
        Some(Answer {
            thing: thing.into(),
            kind: Kind::Step,
            known,
            needs,
            blocked: self.blocked(|application| step.action.application() == Some(application)),
            steps: Vec::new(),
            next: vec![self.deploy.clone()],
            has_files: self.has_files,
        })
    }

    fn needed(&self, need: &flocker_plan::Need) -> Needed {
        let maker = self.plan.steps().iter().find(|step| step.is_maker_of(&need.fact));
        Needed {
            fact: need.fact.to_string(),
            because: need.because.to_string(),
            holds: holds(&need.fact, self.actual),
            made_by: maker.map(Step::id),
        }
    }

    fn application(&self, thing: &str) -> Option<Answer> {
        let name: ApplicationName = thing.parse().ok()?;
        if !self.all_applications().contains(&name) {
            return None;
        }
        let mut known = Vec::new();
        let homes: Vec<NodeName> = self.desired.homes(&name).cloned().collect();
        if !self.has_files {
            known.push("there are no files to say what it is to be".into());
        } else if self.desired.application(&name).is_none() {
            known.push("the files do not have it".into());
        } else if homes.is_empty() {
            known.push("it is to run nowhere".into());
        } else {
            known.push(format!("it is to run on {}", list(&homes)));
        }
        let mut next = Vec::new();
        for (node, state) in self.actual.all_known() {
            let Some(container) = state.containers.get(&name) else {
                continue;
            };
            let restarts = match container.restarts {
                0 => String::new(),
                restarts => format!("; it was restarted {}", counted(restarts as usize, "time")),
            };
            let health = match health(container) {
                "-" => String::new(),
                health => format!(", {health}"),
            };
            let status = status(container.status);
            known.push(format!("on {node} it is {status}{health}{restarts}"));
            next.push(format!("flocker logs {name} --on {node} --tail 50"));
        }
        if next.is_empty() {
            known.push("no seen node has it".into());
        }
        known.extend(
            homes
                .iter()
                .filter(|node| self.actual.known(node).is_none())
                .map(|node| self.sight(node)),
        );
        let definition = self.desired.application(&name);
        let dataset = definition.and_then(|definition| Some(definition.volume.as_ref()?.dataset));
        if let Some(dataset) = dataset {
            known.extend(self.copies(dataset));
        }
        let steps = self.steps_of(|step| {
            let of_data = dataset.is_some() && step.action.dataset() == dataset;
            step.action.application() == Some(&name) || of_data || step.action.leads_to(&name)
        });
        known.extend(self.not_led_to(&name, &homes));
        let blocked = self.blocked(|application| *application == name);
        let is_running = |container: &ContainerState| container.status == ContainerStatus::Running;
        let mut seen = self.actual.all_known();
        let is_well = seen.any(|(_, state)| state.containers.get(&name).is_some_and(is_running));
        if !steps.is_empty() || !blocked.is_empty() || !is_well {
            known.extend(self.failures_of(&name, dataset));
        }
        next.extend(self.look_at_silent(&blocked));
        self.add_deploy(&steps, &mut next);
        Some(Answer {
            thing: thing.into(),
            kind: Kind::Application,
            known,
            needs: Vec::new(),
            blocked,
            steps,
            next,
            has_files: self.has_files,
        })
    }

    /// Says which nodes do not send connections yet to where an application runs already.
    fn not_led_to(&self, name: &ApplicationName, homes: &[NodeName]) -> Option<String> {
        let runs_on = |home: &NodeName| {
            let state = self.actual.known(home);
            let container = state.and_then(|state| state.containers.get(name));
            container.is_some_and(|container| container.status == ContainerStatus::Running)
        };
        let steps = self.plan.steps().iter();
        let astray: BTreeSet<&NodeName> = steps
            .filter(|step| step.action.leads_to(name))
            .map(|step| &step.actor)
            .collect();
        if astray.is_empty() || !homes.iter().any(runs_on) {
            return None;
        }
        if self.actual.all_known().all(|(node, _)| astray.contains(node)) {
            return Some("no node sends anybody to it yet".into());
        }
        let astray: Vec<NodeName> = astray.into_iter().cloned().collect();
        let send = if astray.len() == 1 { "sends" } else { "send" };
        Some(format!("{} {send} nobody to it yet", list(&astray)))
    }

    /// Says what the last deploy could not do about an application or its data.
    fn failures_of(&self, name: &ApplicationName, dataset: Option<DatasetId>) -> Vec<String> {
        let dataset = dataset.map(|dataset| dataset.to_string());
        let is_meant = |about: &str| match about.splitn(3, '/').nth(2) {
            None => about == name.as_str(),
            Some(object) => {
                let is_its_data = |dataset: &String| object.contains(dataset.as_str());
                object == name.as_str() || dataset.as_ref().is_some_and(is_its_data)
            }
        };
        let meant = self.failures.iter().filter(|(about, _)| is_meant(about));
        meant
            .map(|(about, error)| {
                if about == name.as_str() {
                    format!("at the last deploy {error}")
                } else {
                    format!("the last deploy could not do {about}: {error}")
                }
            })
            .collect()
    }

    fn dataset(&self, thing: &str) -> Option<Answer> {
        let dataset: DatasetId = thing.parse().ok()?;
        let copies = self.copies(dataset);
        let user = self.user(dataset);
        if copies.is_empty() && user.is_none() {
            return None;
        }
        let mut known = vec![match &user {
            Some(user) => format!("it is the data of {user}"),
            None => "no application uses it".into(),
        }];
        known.extend(copies);
        let steps = self.steps_of(|step| step.action.dataset() == Some(dataset));
        let mut next = Vec::new();
        self.add_deploy(&steps, &mut next);
        Some(Answer {
            thing: thing.into(),
            kind: Kind::Dataset,
            known,
            needs: Vec::new(),
            blocked: self.blocked(|application| Some(application) == user.as_ref()),
            steps,
            next,
            has_files: self.has_files,
        })
    }

    fn user(&self, dataset: DatasetId) -> Option<ApplicationName> {
        let by_files = self.desired.applications().iter().find(|(_, application)| {
            let volume = application.volume.as_ref();
            volume.is_some_and(|volume| volume.dataset == dataset)
        });
        let by_mount = || {
            let mut known = self.actual.all_known();
            known.find_map(|(_, state)| owner(dataset, self.desired, state))
        };
        by_files.map(|(name, _)| name).or_else(by_mount).cloned()
    }

    /// Says where copies of a dataset are, what each may do, and for how long.
    fn copies(&self, dataset: DatasetId) -> Vec<String> {
        let mut said = Vec::new();
        for (node, state) in self.actual.all_known() {
            if let Some(copy) = state.datasets.get(&dataset) {
                // Of what only follows an owner, nothing is newer than its snapshots.
                let newer = match &copy.role {
                    Role::Primary { .. } => format!(", {} newer than its last snapshot", copy.unsent),
                    Role::Released { .. } | Role::Replica => {
                        let altered = copy.altered();
                        altered.map_or_else(String::new, |what| format!("; changed by hand: {what}"))
                    }
                };
                said.push(format!(
                    "data on {node}: {}, for {}; {} in all{newer}",
                    role(copy),
                    seconds(copy.age),
                    copy.used
                ));
            }
            if let Some(reason) = state.unreadable.get(&dataset) {
                said.push(format!("data on {node}: cannot be read: {reason}"));
            }
            for piece in state.trash.iter().filter(|piece| piece.dataset == dataset) {
                said.push(format!(
                    "data in the trash of {node}: {}, for {}",
                    piece.used,
                    seconds(piece.age)
                ));
            }
        }
        said
    }

    fn node(&self, thing: &str) -> Option<Answer> {
        let node: NodeName = thing.parse().ok()?;
        self.actual.nodes.get(&node)?;
        let mut known = vec![self.sight(&node)];
        let mut next = Vec::new();
        if self.actual.is_forgotten(&node) {
            known.push("it was declared lost for ever".into());
            next.push(format!("flocker node remember {node}"));
        } else if let Some(Observed::Unknown(silence)) = self.actual.nodes.get(&node) {
            match silence {
                Silence::Impostor { .. } => next.push(format!("flocker node forget {node}")),
                Silence::PutBack { silent, .. } => {
                    next.extend(silent.iter().map(|silent| format!("flocker why {silent}")));
                }
                Silence::NotAsked
                | Silence::Unreachable { .. }
                | Silence::Unreadable { .. }
                | Silence::WrongNode { .. }
                | Silence::SameNode { .. }
                | Silence::Forgotten => next.extend(cluster::way_out(&node, self.sight.address(&node))),
            }
        }
        for contradicted in shown::contradicted(self.actual, self.desired) {
            if contradicted.node == node {
                known.push(contradicted.to_string());
                next.push(contradicted.command());
            }
        }
        let steps = self.steps_of(|step| step.actor == node);
        self.add_deploy(&steps, &mut next);
        let blocked = self
            .blocked(|_| true)
            .into_iter()
            .chain(self.blocked_alone())
            .filter(|held| names(&held.message, &node));
        Some(Answer {
            thing: thing.into(),
            kind: Kind::Node,
            known,
            needs: Vec::new(),
            blocked: blocked.collect(),
            steps,
            next,
            has_files: self.has_files,
        })
    }

    /// Returns how to learn more of silent nodes that something waits for.
    fn look_at_silent(&self, blocked: &[Held]) -> Vec<String> {
        let silent = self
            .actual
            .nodes
            .iter()
            .filter(|(_, look)| look.known().is_none());
        let silent = silent.filter(|(node, _)| blocked.iter().any(|held| names(&held.message, node)));
        silent.map(|(node, _)| format!("flocker why {node}")).collect()
    }

    fn sight(&self, node: &NodeName) -> String {
        match self.actual.nodes.get(node) {
            Some(Observed::Known(state)) => format!(
                "{node} answers from {}, as node {}, and obeys generation {}",
                state.address, state.id, state.generation
            ),
            Some(Observed::Unknown(silence)) => {
                let answered = self.sight.since.answered_before(node);
                let answered = answered.map_or_else(String::new, |before| {
                    format!("; it answered this machine last {} ago", seconds(before))
                });
                format!("{node} was not seen: {silence}{answered}")
            }
            None => format!("{node} is not known"),
        }
    }

    fn steps_of(&self, is_meant: impl Fn(&Step) -> bool) -> Vec<StepId> {
        let steps = self.plan.steps().iter();
        steps.filter(|step| is_meant(step)).map(Step::id).collect()
    }

    /// Returns what keeps applications waiting.
    fn blocked(&self, is_meant: impl Fn(&ApplicationName) -> bool) -> Vec<Held> {
        self.held(|application| application.is_some_and(&is_meant))
    }

    /// Returns what belongs to no application.
    fn blocked_alone(&self) -> Vec<Held> {
        self.held(|application| application.is_none())
    }

    fn held(&self, is_meant: impl Fn(Option<&ApplicationName>) -> bool) -> Vec<Held> {
        let waiting = self.plan.waiting().iter().chain(&self.unserved);
        let waiting = waiting.filter(|waiting| is_meant(waiting.application()));
        let refused = self.plan.refused().iter();
        let refused = refused.filter(|refused| is_meant(refused.application()));
        let waiting = waiting.map(|waiting| Held {
            message: format!("waiting: {waiting}"),
            hint: waiting.hint(),
            seen_for_ms: self.seen_for(Obstacle::Waiting(waiting)),
        });
        let refused = refused.map(|refused| Held {
            message: format!("refused: {refused}"),
            hint: refused.hint(),
            seen_for_ms: self.seen_for(Obstacle::Refused(refused)),
        });
        waiting.chain(refused).collect()
    }

    /// Returns for how long commands of this machine have seen it, in milliseconds.
    fn seen_for(&self, obstacle: Obstacle<'_>) -> Option<u64> {
        let seen_for = self.since.blocked_for(obstacle)?;
        u64::try_from(seen_for.as_millis()).ok()
    }

    fn add_deploy(&self, steps: &[StepId], next: &mut Vec<String>) {
        if let Some(first) = steps.first() {
            next.push(format!("flocker why '{first}'"));
            next.push(self.deploy.clone());
        }
    }
}

/// Says whether a sentence names a node: a wait names those that it waits for.
fn names(sentence: &str, node: &NodeName) -> bool {
    sentence.split([' ', ',', ':']).any(|word| word == node.as_str())
}
