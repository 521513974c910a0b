//! Commands of operators: pushes that can be killed, doubled and overtaken.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::Duration;

use async_trait::async_trait;
use flocker_model::ClusterState;
use flocker_model::Deployment;
use flocker_plan::Plan;
use flocker_plan::Policy;
use tokio::task::JoinSet;

use super::cluster::Cluster;
use super::dice::Dice;
use super::lookout;
use super::lookout::Following;
use super::mishap::Mishap;
use super::mishap::Planned;
use super::mishap::When;
use super::script::Wishes;
use super::script::application;
use super::way::Ways;
use crate::converge::Answer;
use crate::converge::Confirm;
use crate::converge::End;
use crate::converge::Outcome;
use crate::converge::PushError;
use crate::converge::PushOptions;
use crate::converge::push;
use crate::event::Event;
use crate::event::Logged;
use crate::execute::Execution;
use crate::execute::execute;
use crate::handles::Handles;
use crate::observe::Looking;
use crate::observe::observe;
use crate::stop::Stop;

/// How long a command may take by the simulated clock. One that takes longer waits for ever.
const FOR_EVER: Duration = Duration::from_secs(7 * 24 * 3600);

/// How a command ended.
#[derive(Clone, Debug)]
pub enum Given {
    /// It was killed, or never came to its end.
    Killed,
    /// It ended by itself.
    Ended(Result<Box<Outcome>, PushError>),
}

impl Given {
    /// Says whether everything is as it was to be, without anything rolled back.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        match self {
            Self::Ended(Ok(outcome)) => outcome.end == End::Settled && outcome.rolled_back.is_empty(),
            Self::Ended(Err(_)) | Self::Killed => false,
        }
    }

    /// Returns how many turns it took.
    #[must_use]
    pub fn n_turns(&self) -> usize {
        match self {
            Self::Ended(Ok(outcome)) => outcome.reports.len(),
            Self::Ended(Err(_)) | Self::Killed => 0,
        }
    }
}

/// Checks a plan before it is carried out, without trusting who made it.
struct Checking {
    cluster: Arc<Cluster>,
    /// What was asked for, of the generation of the plan that was seen last.
    desired: Mutex<Deployment>,
    following: Arc<Mutex<Option<Following>>>,
}

#[async_trait]
impl Confirm for Checking {
    async fn confirm(&self, _: &Plan, _: &ClusterState) -> Answer {
        Answer::Go
    }

    fn sees(&self, plan: &Plan, actual: &ClusterState) {
        let cluster = &self.cluster;
        let mut following = self.following.lock().unwrap_or_else(PoisonError::into_inner);
        let is_first = following.replace(Following::of(plan)).is_none();
        // A rolled back move is planned towards where it came from: its checks need the same.
        let mut desired = self.desired.lock().unwrap_or_else(PoisonError::into_inner);
        *desired = std::mem::take(&mut *desired).at(plan.generation());
        let mut dice = Dice::new(cluster.layout.seed, 5 + cluster.n_plans());
        let checked = lookout::check_plan(plan, &desired, actual, &mut dice)
            .and_then(|()| cluster.check_generation(plan, actual, is_first));
        if let Err(wrong) = checked {
            cluster.break_by(wrong);
        }
        let is_cut_short = cluster.looks().count_plan();
        if is_cut_short {
            let at = cluster.n_effects() + 1 + dice.throw() % 4;
            let mishap = Mishap::CommandKill(When::After);
            cluster.plan_mishaps([Planned { at, mishap }]);
        }
    }
}

impl Cluster {
    /// Lets the applications that are wished for write from now on, and misses nothing of what is to be deleted.
    pub fn serve(&self, wishes: &Wishes) {
        let mut clients = self.clients();
        for number in 0..wishes.applications.len() {
            if let Some(dataset) = wishes.dataset(number) {
                clients.serve(&application(number), dataset);
            }
        }
        for dataset in &wishes.deleted {
            clients.delete(*dataset);
        }
    }

    /// Lets the applications that run write bulk data.
    pub fn write_bulk(&self) {
        self.clients().write_bulk(&self.nodes(), &self.observer);
    }

    /// Says whether nothing has gone wrong so far that could make a step fail.
    fn is_untroubled(&self) -> bool {
        self.notes().n_struck == 0 && self.notes().n_deaths == 0 && !self.looks().has_misled
    }

    /// Drops what nobody needs any more, as `flocker gc` does.
    pub async fn reclaim(self: &Arc<Self>, desired: &Deployment, policy: &Policy) {
        let handles = Handles::new(Arc::new(Ways(Arc::clone(self))));
        let looking = Looking {
            deadline: Duration::from_secs(15),
            known: BTreeMap::new(),
        };
        let actual = observe(desired, &handles, &looking).await;
        let newest = actual.all_known().map(|(_, seen)| seen.generation).max();
        let desired = desired.clone().at(newest.unwrap_or_default());
        let plan = flocker_plan::reclaim(&desired, &actual, policy);
        let execution = Execution {
            ids: BTreeMap::new(),
            homes: Execution::homes_in(&actual),
            lock: None,
            per_node: 16,
            bandwidth: None,
            stop: Stop::never(),
            stop_grace: Duration::ZERO,
            listener: Arc::new(Logged),
        };
        execute(&plan, &desired, &handles, &execution).await;
        self.note(|| format!("{} spare things are dropped", plan.steps().len()));
        self.check();
    }

    /// Deploys, as one command does, with whatever is planned to go wrong.
    ///
    /// `older` is what a second operator may deploy meanwhile.
    pub async fn deploy(
        self: &Arc<Self>,
        desired: &Deployment,
        older: Option<&Deployment>,
        policy: &Policy,
    ) -> Given {
        let mut commands = JoinSet::new();
        self.give(&mut commands, "ann@laptop", desired, policy);
        let mut first = None;
        let ended = async {
            loop {
                tokio::select! {
                    biased;
                    () = self.kill.notified() => {
                        commands.shutdown().await;
                        self.forget_command();
                        self.note(|| "the command is killed");
                        first = Some(Given::Killed);
                        return;
                    }
                    () = self.second.notified() => {
                        let desired = match self.second_command() {
                            Some(Mishap::OlderCommand) => older.unwrap_or(desired),
                            Some(_) | None => desired,
                        };
                        self.give(&mut commands, "bob@desk", desired, policy);
                    }
                    given = commands.join_next() => match given {
                        Some(Ok((holder, given))) => {
                            self.note(|| format!("{holder}: {}", describe(&given)));
                            if holder == "ann@laptop" {
                                first = Some(Given::Ended(given.map(Box::new)));
                            }
                        }
                        Some(Err(error)) => {
                            self.break_by(format!("a command broke down: {error}"));
                        }
                        None => return,
                    },
                }
            }
        };
        if tokio::time::timeout(FOR_EVER, ended).await.is_err() {
            self.break_by("L12: a command waits for ever".into());
        }
        // A lock also ends with the connection that it was taken on.
        self.forget_out_of_reach();
        self.check();
        first.unwrap_or(Given::Killed)
    }

    fn give(
        self: &Arc<Self>,
        commands: &mut JoinSet<(&'static str, Result<Outcome, PushError>)>,
        holder: &'static str,
        desired: &Deployment,
        policy: &Policy,
    ) {
        let (me, desired, policy) = (Arc::clone(self), desired.clone(), policy.clone());
        // On the heap before it is handed over: it is large, and would be moved from hand to hand.
        commands.spawn(Box::pin(async move {
            let mut options = PushOptions::new(holder, 0, Stop::never());
            options.lock_wait = Some(Duration::from_secs(3600));
            let teller = Arc::clone(&me);
            let following: Arc<Mutex<Option<Following>>> = Arc::default();
            let followed = Arc::clone(&following);
            let listener = Arc::new(move |event: &Event| {
                if let Some(following) = &mut *followed.lock().unwrap_or_else(PoisonError::into_inner)
                    && let Err(wrong) = following.follow(event)
                {
                    teller.break_by(wrong);
                }
                if let Event::StepFailed { step, error, .. } = event
                    && teller.is_untroubled()
                {
                    teller.break_by(format!("I8: nothing went wrong, and `{step}` failed: {error}"));
                }
                if !teller.is_quiet()
                    && let Some(line) = tell(event)
                {
                    teller.note(|| format!("     {holder}: {line}"));
                }
            });
            let checking = Checking {
                cluster: Arc::clone(&me),
                desired: Mutex::new(desired.clone()),
                following,
            };
            let handles = Handles::new(Arc::new(Ways(me)));
            let given = push(&desired, &handles, &policy, &options, &checking, listener).await;
            (holder, given)
        }));
    }
}

fn describe(given: &Result<Outcome, PushError>) -> String {
    let outcome = match given {
        Ok(outcome) => outcome,
        Err(error) => return error.to_string(),
    };
    let back = outcome.rolled_back.len();
    match &outcome.end {
        End::Settled if back == 0 => "settled".into(),
        End::Settled => format!("settled, {back} rolled back"),
        End::Partly {
            waiting,
            refused,
            failed,
        } => {
            let waiting = waiting.iter().map(|waiting| format!("waits: {waiting}"));
            let refused = refused.iter().map(|refusal| format!("refused: {refusal}"));
            let failed = failed
                .iter()
                .map(|(step, error)| format!("failed: {step}: {error}"));
            let all: Vec<String> = waiting.chain(refused).chain(failed).collect();
            format!("partly; {}", all.join("; "))
        }
        End::Interrupted { .. } => "interrupted".into(),
        End::Declined => "declined".into(),
    }
}

/// Returns what stands in the history of an event, where something does.
fn tell(event: &Event) -> Option<String> {
    match event {
        Event::PlanMade {
            turn,
            generation,
            n_steps,
            waiting,
            refused,
        } => Some(format!(
            "turn {turn}, generation {generation:?}: {n_steps} steps, waiting {waiting:?}, refused {refused:?}"
        )),
        Event::Observed { silent, .. } if !silent.is_empty() => {
            let silent: Vec<String> = silent.iter().map(|(name, _)| name.to_string()).collect();
            Some(format!("silent: {}", silent.join(", ")))
        }
        Event::StepDone { step, change, .. } => Some(format!("{change:?} {step}")),
        Event::StepFailed { step, error, .. } => Some(format!("failed {step}: {error}")),
        Event::RolledBack { application, to, .. } => Some(format!("{application} goes back to {to}")),
        Event::Observed { .. }
        | Event::Awaited { .. }
        | Event::LockTaken { .. }
        | Event::LockAwaited { .. }
        | Event::StepStarted { .. }
        | Event::StepProgress { .. }
        | Event::StepCarried { .. }
        | Event::ImageBrought { .. }
        | Event::StepSkipped { .. }
        | Event::BackingOff { .. }
        | Event::Stopping { .. } => None,
    }
}
