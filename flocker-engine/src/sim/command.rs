//! Commands of operators: pushes that can be killed, doubled and overtaken.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use flocker_model::ClusterState;
use flocker_model::Deployment;
use flocker_plan::Plan;
use flocker_plan::Policy;
use tokio::task::JoinSet;

use super::cluster::Cluster;
use super::mishap::Mishap;
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
use crate::handles::Handles;
use crate::stop::Stop;

/// How long a command may take by the simulated clock. One that takes longer waits for ever.
const FOR_EVER: Duration = Duration::from_secs(7 * 24 * 3600);

/// How a command ended.
#[derive(Clone, Debug)]
pub enum Given {
    /// It was killed, or never came to its end.
    Killed,
    /// It ended by itself.
    Ended(Result<Outcome, PushError>),
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
    desired: Deployment,
}

#[async_trait]
impl Confirm for Checking {
    async fn confirm(&self, plan: &Plan, actual: &ClusterState) -> Answer {
        if let Err(violation) = flocker_plan::check::plan(plan, &self.desired, actual) {
            self.cluster.break_by(format!("plan: {violation}"));
        }
        Answer::Go
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
                        self.note("the command is killed");
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
                            self.note(format!("{holder}: {}", describe(&given)));
                            if holder == "ann@laptop" {
                                first = Some(Given::Ended(given));
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
        commands.spawn(async move {
            let mut options = PushOptions::new(holder, 0, Stop::never());
            options.lock_wait = Some(Duration::from_secs(3600));
            let teller = Arc::clone(&me);
            let listener = Arc::new(move |event: &Event| {
                if let Some(line) = tell(event) {
                    teller.note(format!("     {holder}: {line}"));
                }
            });
            let checking = Checking {
                cluster: Arc::clone(&me),
                desired: desired.clone(),
            };
            let handles = Handles::new(Arc::new(Ways(me)));
            let given = push(&desired, &handles, &policy, &options, &checking, listener).await;
            (holder, given)
        });
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
        | Event::LockTaken { .. }
        | Event::LockAwaited { .. }
        | Event::StepStarted { .. }
        | Event::StepProgress { .. }
        | Event::StepCarried { .. }
        | Event::ImageBrought { .. }
        | Event::StepSkipped { .. }
        | Event::BackingOff { .. }
        | Event::Stopping => None,
    }
}
