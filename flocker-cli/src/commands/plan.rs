//! `flocker plan`: what would be done, and why.

use std::panic::resume_unwind;
use std::path::PathBuf;
use std::thread;

use clap::Args;
use flocker_engine::Reach;
use flocker_model::ApplicationName;
use flocker_model::ClusterState;
use flocker_model::Deployment;
use flocker_model::NodeName;
use flocker_plan::Policy;
use flocker_plan::SavedPlan;
use serde::Serialize;

use crate::cli::Global;
use crate::cli::OptionalFiles;
use crate::cluster;
use crate::cluster::Start;
use crate::cluster::at_next_generation;
use crate::error::Ending;
use crate::error::Failure;
use crate::files;
use crate::policy::Allowed;
use crate::runtime;
use crate::shown;
use crate::shown::Shown;
use crate::since;
use crate::state_file;
use crate::ui::Ui;

/// Show what would be done, in which order and why, and what it would cost
///
/// Changes nothing. With `--state`, contacts no node either: the plan is made from reports that were saved before.
#[derive(Debug, Args)]
pub(crate) struct Plan {
    #[command(flatten)]
    files: OptionalFiles,
    /// Save the plan, for `flocker deploy --plan FILE`; of files that are there, only a saved plan is replaced
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// End with status 3 if there is something to do, and with 1 if all of it is blocked
    #[arg(long)]
    exit_code: bool,
    /// Plan from what `flocker report-state --json` printed, instead of asking nodes; may be given several times
    #[arg(long, value_name = "FILE", conflicts_with = "out")]
    state: Vec<PathBuf>,
    #[command(flatten)]
    allowed: Allowed,
}

#[derive(Serialize)]
struct Body<'a> {
    #[serde(flatten)]
    plan: shown::Body<'a>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    copies: Vec<Reach>,
    unknown: Vec<Unknown>,
}

/// A plan, and what it was made from.
struct Seen {
    desired: Deployment,
    actual: ClusterState,
    plan: flocker_plan::Plan,
    copies: Vec<Reach>,
    /// What saved reports do not say.
    assumed: Vec<(ApplicationName, NodeName)>,
}

impl Seen {
    fn of(desired: Deployment, actual: ClusterState, policy: &Policy) -> Self {
        let desired = at_next_generation(desired, &actual);
        Self {
            plan: flocker_plan::plan(&desired, &actual, policy),
            desired,
            actual,
            copies: Vec::new(),
            assumed: Vec::new(),
        }
    }
}

/// Something that the plan could not be made from, because a saved report does not have it.
#[derive(Serialize)]
struct Unknown {
    application: ApplicationName,
    node: NodeName,
    what: &'static str,
}

const SECRETS: &str = "whether its secrets have changed";

impl Plan {
    pub(crate) fn run(self, global: &Global, ui: &Ui) -> Result<Ending, Failure> {
        let paths = self.files.named_or_last(global)?;
        if let Some(out) = &self.out {
            files::may_become_a_plan(out, &[&paths[0], &paths[1]])?;
        }
        // Each takes its time where there is much of it.
        let (configuration, reports) = thread::scope(|scope| {
            let reports = scope.spawn(|| state_file::read_reports(&self.state));
            let configuration = files::read([&paths[0], &paths[1]]);
            let reports = reports.join().unwrap_or_else(|panic| resume_unwind(panic));
            (configuration, reports)
        });
        let configuration = configuration?;
        if !ui.is_json() {
            ui.diagnostics(configuration.warnings(), configuration.sources());
        }
        let policy = self.allowed.policy()?;
        if self.state.is_empty() {
            let desired = configuration.resolve()?;
            let (cluster, seen) = runtime::block_on(async {
                let cluster = cluster::connect(desired, global, Start::Nothing).await?;
                let actual = cluster.observe().await;
                let mut seen = Seen::of(cluster.desired.clone(), actual, &policy);
                seen.copies = flocker_engine::explore(&seen.plan, &cluster.handles).await;
                Ok((cluster, seen))
            })?;
            let unsaid = shown::unsaid(&seen.plan, &seen.desired, &seen.actual);
            let obstacles = since::obstacles(&seen.plan, &unsaid);
            since::note(&global.state_dir(), &seen.desired, &seen.actual, &obstacles);
            let hint = cluster.hint_to_make(&seen.actual).filter(|_| !ui.is_json());
            let ending = self.show(seen, policy, &paths, ui)?;
            if let Some(hint) = hint {
                ui.hint(&hint);
            }
            return Ok(ending);
        }
        let desired = configuration.without_secrets()?;
        let mut actual = reports?;
        let assumed = state_file::complete(&mut actual, &desired);
        let mut seen = Seen::of(desired, actual, &policy);
        seen.assumed = assumed;
        self.show(seen, policy, &paths, ui)
    }

    fn show(&self, seen: Seen, policy: Policy, paths: &[PathBuf; 2], ui: &Ui) -> Result<Ending, Failure> {
        let Seen {
            desired,
            actual,
            plan,
            copies,
            assumed,
        } = seen;
        let shown = Shown {
            plan: &plan,
            desired: &desired,
            actual: &actual,
            policy: &policy,
        };
        let unsaid = shown::unsaid(&plan, &desired, &actual);
        if ui.is_json() {
            let unknown = assumed.into_iter().map(|(application, node)| Unknown {
                application,
                node,
                what: SECRETS,
            });
            ui.document(&Body {
                plan: shown.body().and_waits_for(&unsaid),
                copies,
                unknown: unknown.collect(),
            })?;
        } else {
            shown.text(&unsaid, ui);
            ui.data(&shown::copies(&copies));
            shown.warn(ui);
            for (application, node) in &assumed {
                ui.data(&format!("unknown: {SECRETS}: {application} on {node}\n"));
            }
        }
        let is_settled = plan.is_settled() && unsaid.is_empty();
        let ending = match (self.exit_code, is_settled, plan.steps().is_empty()) {
            (false, _, _) | (true, true, _) => Ending::Done,
            (true, false, false) => Ending::WorkFound,
            (true, false, true) => Ending::Blocked,
        };
        if let Some(path) = &self.out {
            let saved = SavedPlan::new(plan, policy, &actual);
            let text = saved
                .write()
                .map_err(|error| Failure::bug("the plan could not be written down").because(&error))?;
            files::write(path, &text)?;
            if !ui.is_json() {
                let [one, other] = paths;
                ui.hint(&format!(
                    "`flocker deploy --plan {} {} {}` carries this plan out, or says what is different",
                    path.display(),
                    one.display(),
                    other.display()
                ));
            }
        }
        Ok(ending)
    }
}
