//! Carrying out: asks, watches, stops when asked to, and says afterwards how it went.
//!
//! The engine's push does the work. This is the person's side of it, shared by
//! every command that brings the files about.

mod aftermath;
mod once;
mod preflight;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::Duration;

use async_trait::async_trait;
use flocker_engine::Answer;
use flocker_engine::Confirm;
use flocker_engine::End;
use flocker_engine::Ending::{Done, Failed, Interrupted, Left, Skipped};
use flocker_engine::IfHeld;
use flocker_engine::NodeError;
use flocker_engine::Outcome;
use flocker_engine::PushError;
use flocker_engine::PushOptions;
use flocker_engine::RolledBack;
use flocker_engine::Stop;
use flocker_engine::Stopper;
use flocker_engine::clock;
use flocker_engine::one_line;
use flocker_engine::stopper;
use flocker_model::ApplicationName;
use flocker_model::ByteSize;
use flocker_model::ClusterState;
use flocker_model::Deployment;
use flocker_plan::Action;
use flocker_plan::CutOver;
use flocker_plan::Plan;
use flocker_plan::Policy;
use flocker_plan::SavedPlan;
use flocker_plan::StepId;
use flocker_plan::Waiting;
use flocker_plan::saved::Difference;
use tokio::signal::unix::SignalKind;
use tokio::signal::unix::signal;

use crate::cli;
use crate::cluster::Cluster;
use crate::cluster::at_next_generation;
use crate::error::Ending;
use crate::error::Failure;
use crate::files;
use crate::progress::Loudness;
use crate::progress::Progress;
use crate::shown;
use crate::shown::Shown;
use crate::since;
use crate::since::Obstacle;
use crate::ui::Ui;

pub(crate) use once::OlderOwners;
pub(crate) use once::Once;
pub(crate) use once::carry_out_once;

/// How the operator wants it done.
#[derive(Clone, Debug)]
pub(crate) struct Wish {
    pub(crate) policy: Policy,
    pub(crate) bandwidth: Option<ByteSize>,
    pub(crate) lock_wait: Option<Duration>,
    pub(crate) if_held: IfHeld,
    pub(crate) consent: Consent,
    pub(crate) loudness: Loudness,
    /// Whether cut-overs of these files are still left for `flocker cutover` afterwards.
    pub(crate) left_held: CutOver,
    /// The files that others may go by once they were obeyed, and where that is kept.
    pub(crate) remember: Option<(PathBuf, [PathBuf; 2])>,
}

/// Who has agreed to the plan.
#[derive(Clone, Debug)]
pub(crate) enum Consent {
    /// It is shown, and asked about.
    Ask,
    /// It is shown, and carried out.
    Given,
    /// It is carried out if it is the one that was saved.
    Saved(Box<SavedPlan>),
}

impl Wish {
    /// Refuses where a question would have to be asked and nobody is there to answer it.
    pub(crate) fn check(&self, ui: &Ui) -> Result<(), Failure> {
        match self.consent {
            Consent::Ask if !ui.can_ask() => Err(nobody_to_ask()),
            Consent::Ask | Consent::Given | Consent::Saved(_) => Ok(()),
        }
    }
}

/// What to say where a question cannot be asked.
pub(crate) fn nobody_to_ask() -> Failure {
    Failure::usage("this needs a yes, and there is nobody to ask: input or output is not a terminal")
        .hint("`--yes` agrees beforehand; `flocker plan` shows what would be done")
}

/// Brings a cluster to what is desired, and says how it went.
pub(crate) async fn carry_out(cluster: &Cluster, wish: &Wish, ui: &Ui) -> Result<Ending, Failure> {
    let (stopper, stop) = stopper();
    let options = options(wish, stop);
    let progress = Progress::new(ui.clone(), &cluster.desired, wish.loudness);
    let progress = Arc::new(progress.with_addresses(cluster.addresses()));
    let asking = Asking::new(ui, cluster, wish, &progress);
    let push = flocker_engine::push(
        &cluster.desired,
        &cluster.handles,
        &wish.policy,
        &options,
        &asking,
        progress.clone(),
    );
    let mut outcome = tokio::select! {
        outcome = push => outcome.map_err(|error| refused(&error))?,
        () = interrupts(&stopper) => return Err(stopped_at_once()),
    };
    ui.clear_status();
    asking.way_is_clear()?;
    // A file that was refused or declined is not what anybody asked for.
    let was_obeyed = outcome.end == End::Settled || !outcome.reports.is_empty() || is_only_held(&outcome.end);
    not_settled_where_somebody_is_not_served(&mut outcome, &cluster.desired);
    if let Some((state_dir, [one, other])) = &wish.remember {
        if was_obeyed {
            files::remember(state_dir, [one, other], wish.left_held, failures(&outcome));
        }
        if outcome.end != End::Declined {
            let obstacles = obstacles(&outcome.end);
            since::note(state_dir, &cluster.desired, &outcome.actual, &obstacles);
        }
    }
    asking.verdict(&outcome.actual)?;
    let aftermath = aftermath::Aftermath::new(&outcome, &progress);
    if ui.is_json() {
        ui.line(&aftermath)?;
    } else {
        aftermath.tell(ui, wish.loudness);
        if let Some(hint) = cluster.hint_to_make(&outcome.actual) {
            ui.hint(&hint);
        }
    }
    Ok(ending(&outcome, &wish.policy))
}

fn options(wish: &Wish, stop: Stop) -> PushOptions {
    let mut options = PushOptions::new(cli::person(), clock::time_of_day(), stop);
    options.lock_wait = wish.lock_wait;
    options.if_held = wish.if_held;
    options.bandwidth = wish.bandwidth;
    options
}

fn ending(outcome: &Outcome, policy: &Policy) -> Ending {
    let is_all = outcome.rolled_back.is_empty() && outcome.beyond.is_empty();
    let end = &outcome.end;
    match end {
        End::Settled if is_all => Ending::Done,
        // It was asked for, so it is no obstacle.
        End::Partly { .. }
            if policy.cut_over == CutOver::Hold && is_only_held(end) && outcome.beyond.is_empty() =>
        {
            Ending::Done
        }
        End::Settled | End::Partly { .. } | End::Interrupted { .. } | End::Declined => Ending::Blocked,
    }
}

/// Returns what keeps the files from being obeyed.
fn obstacles(end: &End) -> Vec<Obstacle<'_>> {
    match end {
        End::Partly { waiting, refused, .. } => {
            let waiting = waiting.iter().map(Obstacle::Waiting);
            waiting.chain(refused.iter().map(Obstacle::Refused)).collect()
        }
        End::Interrupted { cut_overs, .. } => cut_overs.iter().map(Obstacle::Waiting).collect(),
        End::Settled | End::Declined => Vec::new(),
    }
}

/// Returns what could not be done and why, by step, or by application where its move was given up.
fn failures(outcome: &Outcome) -> BTreeMap<String, String> {
    let given_up = outcome.rolled_back.iter().map(|back| {
        let RolledBack {
            application, from, ..
        } = back;
        let why = format!("the move to {from} was given up: {}", back.cause_text());
        (application.to_string(), why)
    });
    let mut failures: BTreeMap<String, String> = given_up.collect();
    match &outcome.end {
        End::Partly { failed, .. } => {
            let failed = failed.iter();
            failures.extend(failed.map(|(step, error)| (step.to_string(), one_line(error))));
        }
        End::Settled | End::Interrupted { .. } | End::Declined => {}
    }
    failures
}

/// Takes it back that all is as it is to be where there is nothing to plan and yet something is not: what serves nobody,
/// and who was not seen.
fn not_settled_where_somebody_is_not_served(outcome: &mut Outcome, desired: &Deployment) {
    if outcome.end != End::Settled {
        return;
    }
    let mut waiting = shown::unserved(&outcome.actual, None);
    let mut failed = BTreeMap::new();
    for report in outcome.reports.iter().flat_map(|report| &report.steps) {
        let Action::Start { application, .. } = &report.step.action else {
            continue;
        };
        let is_meant = |waiting: &Waiting| waiting.application() == Some(application);
        match &report.ending {
            Failed(error) if waiting.iter().any(is_meant) => {
                failed.insert(report.step.id(), (application, error.clone()));
            }
            // What counts is how it ended the last time.
            Failed(_) | Done(_) | Skipped { .. } | Interrupted | Left => {
                failed.remove(&report.step.id());
            }
        }
    }
    // Why it could not be started says more than that nobody is served.
    waiting.retain(|waiting| {
        let is_told = |application: &ApplicationName| waiting.application() == Some(application);
        !failed.values().any(|(application, _)| is_told(application))
    });
    let failed: BTreeMap<StepId, NodeError> = failed
        .into_iter()
        .map(|(step, (_, error))| (step, error))
        .collect();
    waiting.extend(shown::unseen(desired, &outcome.actual));
    if !(waiting.is_empty() && failed.is_empty()) {
        outcome.end = End::Partly {
            waiting,
            refused: Vec::new(),
            failed,
        };
    }
}

/// Says whether nothing but cut-overs that somebody wants to order is left to do.
fn is_only_held(end: &End) -> bool {
    let is_held = |waiting: &Waiting| matches!(waiting, Waiting::Held { .. });
    match end {
        End::Partly {
            waiting,
            refused,
            failed,
        } => refused.is_empty() && failed.is_empty() && waiting.iter().all(is_held),
        End::Settled | End::Interrupted { .. } | End::Declined => false,
    }
}

/// Passes the first request to end on, and returns at the second.
pub(crate) async fn interrupts(stopper: &Stopper) {
    if asked_to_end().await.is_ok() {
        stopper.stop();
        if asked_to_end().await.is_ok() {
            return;
        }
    }
    // Where signals cannot be listened to, they end the program as they always did.
    std::future::pending::<()>().await;
}

/// Asks whether a plan is to be carried out. Who asks to end instead does not agree.
///
/// Meanwhile the nodes are talked to as before, so that the locks are held for as long as it takes.
async fn agrees(ui: &Ui) -> bool {
    let (answer, answered) = tokio::sync::oneshot::channel();
    let asking = ui.clone();
    // Of the runtime's own threads, one that still reads would keep the program from ending.
    std::thread::spawn(move || answer.send(asking.confirm("carry this out?")));
    tokio::select! {
        answer = answered => answer.unwrap_or(false),
        Ok(()) = asked_to_end() => {
            ui.say("");
            false
        }
    }
}

async fn asked_to_end() -> std::io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        interrupt = tokio::signal::ctrl_c() => interrupt,
        _ = terminate.recv() => Ok(()),
    }
}

pub(crate) fn stopped_at_once() -> Failure {
    Failure::failed("stopped at once: steps that were running may be half done")
        .hint("nothing is lost by it: the same command looks at what there is and goes on from there; `--lock-wait 1m` waits for a node that is still at such a step")
}

/// Says why a push did not take place.
fn refused(error: &PushError) -> Failure {
    let mut failure = Failure::failed(format!("{error}; nothing more is done"));
    if let Some(cause) = std::error::Error::source(error) {
        failure = failure.because(cause);
    }
    match error {
        PushError::Held { since, .. } => {
            let ago = Duration::from_secs(clock::time_of_day().saturating_sub(*since));
            failure.hint(format!(
                "it has been held for {}; `--lock-wait 5m` waits for it, `--break-lock` takes it away from a deploy that is gone",
                flocker_plan::blocked::seconds(ago)
            ))
        }
        PushError::Superseded { .. } => failure
            .hint("somebody has deployed newer files; look at them, and deploy again if yours are right"),
        _ => failure,
    }
}

/// Shows the plan under the deploy locks, and gets an answer.
struct Asking<'a> {
    ui: &'a Ui,
    cluster: &'a Cluster,
    desired: &'a Deployment,
    wish: &'a Wish,
    progress: &'a Progress,
    /// What was found to be in the way before anything was changed.
    obstacles: Mutex<Option<Failure>>,
    /// What the saved plan was found to differ in, once it was held against what is there.
    differences: Mutex<Option<Vec<Difference>>>,
}

impl<'a> Asking<'a> {
    fn new(ui: &'a Ui, cluster: &'a Cluster, wish: &'a Wish, progress: &'a Progress) -> Self {
        Self {
            ui,
            cluster,
            desired: &cluster.desired,
            wish,
            progress,
            obstacles: Mutex::new(None),
            differences: Mutex::new(None),
        }
    }

    /// Looks at the machines before anything is changed, and says whether nothing is in the way.
    async fn looks_clear(&self, plan: &Plan, actual: &ClusterState) -> bool {
        let preflight = preflight::look(self.cluster, plan, actual).await;
        if !self.ui.is_json() {
            for note in preflight.notes() {
                self.ui.warn(&note);
            }
        }
        let verdict = preflight.verdict();
        let is_clear = verdict.is_ok();
        *self.obstacles.lock().unwrap_or_else(PoisonError::into_inner) = verdict.err();
        is_clear
    }

    /// Refuses where something was in the way.
    fn way_is_clear(&self) -> Result<(), Failure> {
        let found = self
            .obstacles
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        found.map_or(Ok(()), Err)
    }

    fn compare(&self, saved: &SavedPlan, actual: &ClusterState) -> Answer {
        let desired = at_next_generation(self.desired.clone(), actual);
        let differences = saved.check(&desired, actual).err().unwrap_or_default();
        let answer = if differences.is_empty() {
            Answer::Go
        } else {
            Answer::Decline
        };
        *self.differences.lock().unwrap_or_else(PoisonError::into_inner) = Some(differences);
        answer
    }

    /// Refuses a saved plan that no longer holds, also where there was nothing to ask about.
    fn verdict(&self, actual: &ClusterState) -> Result<(), Failure> {
        let Consent::Saved(saved) = &self.wish.consent else {
            return Ok(());
        };
        let compared = |asking: &Self| {
            asking
                .differences
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .take()
        };
        let differences = compared(self).unwrap_or_else(|| {
            let _nothing_to_do = self.compare(saved, actual);
            compared(self).unwrap_or_default()
        });
        if differences.is_empty() {
            return Ok(());
        }
        let mut failure = Failure::failed("the saved plan no longer holds, and nothing was done")
            .hint("`flocker plan --out` makes a new one of what is there now");
        failure.causes = differences.iter().map(ToString::to_string).collect();
        Err(failure)
    }
}

#[async_trait]
impl Confirm for Asking<'_> {
    async fn confirm(&self, plan: &Plan, actual: &ClusterState) -> Answer {
        let shown = Shown {
            plan,
            desired: self.desired,
            actual,
            policy: &self.wish.policy,
        };
        self.progress.forecast(&shown.estimate());
        if let Consent::Saved(saved) = &self.wish.consent
            && self.compare(saved, actual) == Answer::Decline
        {
            return Answer::Decline;
        }
        if !self.ui.is_json() && self.wish.loudness == Loudness::All {
            self.ui.say(shown.to_text().trim_end());
            let copies = flocker_engine::explore(plan, &self.cluster.handles).await;
            for line in shown::copies(&copies).lines() {
                self.ui.say(line);
            }
        }
        if !self.looks_clear(plan, actual).await {
            return Answer::Decline;
        }
        match &self.wish.consent {
            Consent::Given => Answer::Go,
            Consent::Saved(_) => Answer::GoNoFurther,
            Consent::Ask if agrees(self.ui).await => Answer::Go,
            Consent::Ask => Answer::Decline,
        }
    }
}
