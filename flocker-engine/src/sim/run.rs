//! One seed, one history.

use std::sync::Arc;

use flocker_model::Deployment;
use flocker_model::NodeName;

use super::cluster::Cluster;
use super::mishap::Mishap;
use super::mishap::Planned;
use super::mishap::When;
use super::script::Mode;
use super::script::Script;
use super::script::Shape;
use super::script::Stage;
use super::script::node;
use super::sieve::Perturbation;
use crate::converge::End;
use crate::node::NodeHandle as _;

use super::command::Given;

/// How many commands it may take until a repaired cluster is as desired.
const MAX_COMMANDS: usize = 6;

/// One simulation: everything in it is decided by its seed.
#[derive(Clone, Debug)]
pub struct Simulation {
    /// The seed.
    pub seed: u64,
    /// How bad things may get.
    pub mode: Mode,
    /// Which clusters and histories.
    pub shape: Shape,
    /// Which of its mishaps happen, by position; nothing for all.
    pub only: Option<Vec<usize>>,
    /// Which of its plans is led astray, from 1, and how.
    pub sieve: Option<(u64, Perturbation)>,
}

/// What came of a simulation.
#[derive(Clone, Debug)]
pub struct Verdict {
    /// The simulation.
    pub simulation: Simulation,
    /// What was planned to go wrong, with its position in the script.
    pub mishaps: Vec<(usize, Planned)>,
    /// What happened, line by line.
    pub history: Vec<String>,
    /// The first thing that must not have happened and has.
    pub broken: Option<String>,
    /// How many effects were tried.
    pub n_effects: u64,
    /// How many writes were acknowledged to applications.
    pub n_acknowledged: u64,
    /// How many plans were made.
    pub n_plans: u64,
}

impl Simulation {
    /// Returns the simulation of a seed.
    #[must_use]
    pub fn new(seed: u64, mode: Mode) -> Self {
        Self {
            seed,
            mode,
            shape: Shape::Mixed,
            only: None,
            sieve: None,
        }
    }

    /// Returns it in another shape.
    #[must_use]
    pub fn of_shape(self, shape: Shape) -> Self {
        Self { shape, ..self }
    }

    /// Lets it happen, and tells what happens only where something is wrong.
    #[must_use]
    pub fn run_quietly(&self) -> Verdict {
        let quiet = self.go_through(true);
        if quiet.broken.is_some() { self.run() } else { quiet }
    }

    /// Lets it happen, and keeps of the history only what is broken.
    #[must_use]
    pub fn run_unheard(&self) -> Verdict {
        self.go_through(true)
    }

    /// Lets it happen.
    #[must_use]
    pub fn run(&self) -> Verdict {
        self.go_through(false)
    }

    fn go_through(&self, quietly: bool) -> Verdict {
        let script = Script::of(self.seed, self.mode, self.shape);
        let all = script.mishaps.iter().copied().enumerate();
        let mishaps: Vec<(usize, Planned)> = all
            .filter(|(position, _)| self.only.as_ref().is_none_or(|only| only.contains(position)))
            .collect();
        let cluster = in_stopped_time(async {
            let cluster = Cluster::new(script.layout.clone());
            if quietly {
                cluster.be_quiet();
            }
            cluster.clients().set_bulk(script.bulk);
            if let Some((plan, how)) = self.sieve {
                cluster.perturb(plan, how);
            }
            cluster.plan_mishaps(mishaps.iter().map(|(_, planned)| *planned));
            Course {
                cluster: Arc::clone(&cluster),
                script: &script,
                mode: self.mode,
            }
            .run()
            .await;
            cluster
        });
        Verdict {
            simulation: self.clone(),
            mishaps,
            history: cluster.history(),
            broken: cluster.broken(),
            n_effects: cluster.n_effects(),
            n_acknowledged: cluster.n_acknowledged(),
            n_plans: cluster.n_plans(),
        }
    }

    /// Leaves out, one after the other, every mishap without which it fails all the same.
    #[must_use]
    pub fn shrink(&self) -> Verdict {
        let mut smallest = self.run();
        for position in (0..smallest.mishaps.len()).rev() {
            let without: Vec<usize> = smallest
                .mishaps
                .iter()
                .map(|(at, _)| *at)
                .enumerate()
                .filter(|(index, _)| *index != position)
                .map(|(_, at)| at)
                .collect();
            let smaller = Self {
                only: Some(without),
                ..self.clone()
            }
            .run();
            if smaller.broken.is_some() {
                smallest = smaller;
            }
        }
        smallest
    }

    /// Returns the command that lets it happen again.
    #[must_use]
    pub fn command(&self) -> String {
        let mode = match self.mode {
            Mode::Repairable => "repairable",
            Mode::Unlimited => "unlimited",
        };
        let only = self.only.as_ref().map_or_else(String::new, |only| {
            let only: Vec<String> = only.iter().map(usize::to_string).collect();
            format!(
                " --only {}",
                if only.is_empty() {
                    "none".into()
                } else {
                    only.join(",")
                }
            )
        });
        let shape = match self.shape {
            Shape::Mixed => "",
            Shape::Move => " --shape move",
        };
        let sieve = self
            .sieve
            .map_or_else(String::new, |(plan, how)| format!(" --perturb {plan},{how}"));
        format!(
            "cargo run --release -p flocker-engine --features sim --bin simulate -- --seed {} --mode \
             {mode}{shape}{only}{sieve}",
            self.seed
        )
    }
}

impl Verdict {
    /// Returns what a person needs in order to understand a failure, with so many last lines of the history.
    #[must_use]
    pub fn explain(&self, n_lines: usize) -> String {
        let mut text = format!("seed {}: ", self.simulation.seed);
        text.push_str(self.broken.as_deref().unwrap_or("all is well"));
        for (position, planned) in &self.mishaps {
            text.push_str("\n  mishap ");
            text.push_str(&position.to_string());
            text.push(' ');
            text.push_str(&planned.to_string());
        }
        let first = self.history.len().saturating_sub(n_lines);
        for line in &self.history[first..] {
            text.push_str("\n  | ");
            text.push_str(line);
        }
        text.push_str("\n  ");
        text.push_str(&self.simulation.command());
        text
    }
}

/// Runs a future to its end on a clock that stands still while anything can go on.
///
/// # Panics
///
/// Where the future does.
pub fn in_stopped_time<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime without input and output can always be made")
        .block_on(work)
}

struct Course<'a> {
    cluster: Arc<Cluster>,
    script: &'a Script,
    mode: Mode,
}

impl Course<'_> {
    fn deployment(&self, stage: &Stage) -> Deployment {
        stage.wishes.deployment(&self.script.layout.nodes)
    }

    async fn run(&self) {
        let mut older: Option<Deployment> = None;
        for stage in &self.script.stages {
            let desired = self.deployment(stage);
            self.stage(stage, &desired, older.as_ref()).await;
            older = Some(desired);
            if self.cluster.is_broken() {
                return;
            }
        }
        let Some(last) = self.script.stages.last() else {
            return;
        };
        let desired = match &older {
            Some(older) if last.wishes.without.is_none() => older.clone(),
            Some(_) | None => {
                let mut wishes = last.wishes.clone();
                wishes.without = None;
                wishes.deployment(&self.script.layout.nodes)
            }
        };
        match self.mode {
            Mode::Repairable => self.come_to_rest(&desired).await,
            Mode::Unlimited => {
                self.cluster
                    .deploy(&desired, older.as_ref(), &self.script.policy)
                    .await;
                self.cluster.check_records();
            }
        }
    }

    async fn stage(&self, stage: &Stage, desired: &Deployment, older: Option<&Deployment>) {
        let cluster = &self.cluster;
        cluster.note(|| format!("--- {}: {}", stage.what, describe(desired)));
        cluster.serve(&stage.wishes);
        let lost = stage.lost.filter(|lost| self.may_be_lost(*lost));
        if let Some(lost) = lost {
            self.lose(lost).await;
        }
        for n_try in 0..stage.tries {
            if let Some(n_effects) = stage.change_of_mind
                && n_try == 0
            {
                cluster.plan_mishaps([Planned {
                    at: cluster.n_effects() + n_effects,
                    mishap: Mishap::CommandKill(When::After),
                }]);
            }
            let given = cluster.deploy(desired, older, &self.script.policy).await;
            self.explains(&given);
            let gives_up = stage.change_of_mind.is_some() && matches!(given, Given::Killed);
            if given.is_settled() || gives_up || cluster.is_broken() {
                break;
            }
        }
        cluster.write_bulk();
        for (_, node) in cluster.nodes() {
            node.advance(stage.pause);
        }
        if stage.repaired {
            cluster.note(|| "repaired");
            cluster.repair();
        }
        if let Some(lost) = lost {
            self.find_again(lost).await;
        }
    }

    /// I9: what is not as desired has a reason that is told.
    fn explains(&self, given: &Given) {
        if let Given::Ended(Ok(outcome)) = given
            && let End::Partly {
                waiting,
                refused,
                failed,
            } = &outcome.end
            && waiting.is_empty()
            && refused.is_empty()
            && failed.is_empty()
        {
            self.cluster
                .break_by("I9: a command ended without being settled, and without a reason".into());
        }
    }

    /// Says whether nothing is lost with a node: it owns nothing.
    fn may_be_lost(&self, lost: usize) -> bool {
        let state = self.cluster.node(&node(lost));
        state.is_some_and(|node| node.contents().is_empty())
    }

    async fn lose(&self, lost: usize) {
        let name = node(lost);
        self.cluster.note(|| format!("{name} is lost, and forgotten"));
        self.cluster.take_power(&name);
        for other in self.cluster.machines.keys().filter(|other| **other != name) {
            if let Some(program) = self.cluster.program(other) {
                // A record in memory cannot fail to be saved.
                drop(program.forget(&name, None).await);
            }
        }
    }

    async fn find_again(&self, lost: usize) {
        let name = node(lost);
        self.cluster.note(|| format!("{name} is found again"));
        self.cluster.start(&name);
        self.remember(&name).await;
    }

    /// Takes back, on every node that is up, that a node is lost.
    async fn remember(&self, name: &NodeName) {
        let up = self.cluster.machines.keys();
        for program in up.filter_map(|other| self.cluster.program(other)) {
            // A record in memory cannot fail to be saved.
            drop(program.remember(name).await);
        }
    }

    /// I8: once everything is repaired, the cluster becomes as desired, and stays so.
    async fn come_to_rest(&self, desired: &Deployment) {
        let cluster = &self.cluster;
        cluster.note(|| "--- everything is repaired");
        cluster.cancel_mishaps();
        cluster.repair();
        for name in cluster.machines.keys() {
            self.remember(name).await;
        }
        let mut n_commands = 0;
        loop {
            let given = cluster.deploy(desired, None, &self.script.policy).await;
            n_commands += 1;
            if cluster.is_broken() {
                return;
            }
            if given.is_settled() {
                break;
            }
            if n_commands == MAX_COMMANDS {
                cluster.break_by(format!("I8: it is not as desired after {n_commands} commands"));
                return;
            }
            self.explains(&given);
            cluster.repair();
        }
        cluster.check_at_rest(desired);
        let n_made = cluster.observer.n_made();
        let again = cluster.deploy(desired, None, &self.script.policy).await;
        if again.n_turns() > 0 || cluster.observer.n_made() != n_made {
            cluster.break_by("I7: a cluster at rest was changed".into());
        }
        cluster.check_at_rest(desired);
        if self.script.policy.grace.is_zero() {
            cluster.reclaim(desired, &self.script.policy).await;
            cluster.check_at_rest(desired);
        }
    }
}

fn describe(desired: &Deployment) -> String {
    let homes = desired.applications().keys().map(|name| {
        let home = desired.homes(name).next().map_or("nowhere", |home| home.as_str());
        format!("{name} on {home}")
    });
    homes.collect::<Vec<String>>().join(", ")
}
