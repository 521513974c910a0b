//! `flocker deploy`: makes it so.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use flocker_engine::IfHeld;
use flocker_plan::SavedPlan;

use crate::cli;
use crate::cli::Global;
use crate::cli::OptionalFiles;
use crate::cluster;
use crate::cluster::Start;
use crate::deploy;
use crate::deploy::Consent;
use crate::deploy::Wish;
use crate::error::Ending;
use crate::error::Failure;
use crate::files;
use crate::policy::Allowed;
use crate::progress::Loudness;
use crate::runtime;
use crate::ui::Ui;

/// Bring the nodes to what the files say
///
/// Shows the plan with its forecast, asks, and carries it out. Done twice, the second time does nothing. Stopped
/// half way, by Ctrl-C or otherwise, the next deploy goes on from there. At the first Ctrl-C, a
/// cut-over that has begun is carried to its end first, by further tries or back where it was; the second stops at once.
#[derive(Debug, Args)]
pub(crate) struct Deploy {
    #[command(flatten)]
    files: OptionalFiles,
    /// Carry out this saved plan and nothing else: refused if the nodes are not as they were. Later turns go on with
    /// its applications and what these need; what else there is to do is told
    #[arg(long, value_name = "FILE", conflicts_with_all = ["max_downtime", "hold", "allow_stop_all"])]
    plan: Option<PathBuf>,
    #[command(flatten)]
    allowed: Allowed,
    /// Make and start nodes of the files that do not exist, as local nodes on this machine
    #[arg(long)]
    local: bool,
    #[command(flatten)]
    locking: Locking,
}

/// What to ask, and what to do about other deploys.
#[derive(Clone, Debug, Args)]
pub(crate) struct Locking {
    /// Do not ask
    #[arg(short, long)]
    pub(crate) yes: bool,
    /// How long to wait for another deploy to end
    #[arg(long, value_name = "DURATION", value_parser = cli::duration)]
    lock_wait: Option<Duration>,
    /// Take the deploy lock away from a deploy that is gone; its orders are refused from then on
    #[arg(long)]
    break_lock: bool,
}

impl Locking {
    pub(crate) fn lock_wait(&self) -> Option<Duration> {
        self.lock_wait
    }

    pub(crate) fn if_held(&self) -> IfHeld {
        if self.break_lock {
            IfHeld::Break
        } else {
            IfHeld::Refuse
        }
    }

    pub(crate) fn consent(&self) -> Consent {
        if self.yes { Consent::Given } else { Consent::Ask }
    }
}

impl Deploy {
    pub(crate) fn run(self, global: &Global, ui: &Ui) -> Result<Ending, Failure> {
        let [one, other] = self.files.named_or_last(global)?;
        let configuration = files::read([&one, &other])?;
        if !ui.is_json() {
            ui.diagnostics(configuration.warnings(), configuration.sources());
        }
        let mut wish = self.wish()?;
        wish.remember = Some((global.state_dir(), [one, other]));
        wish.check(ui)?;
        let desired = configuration.resolve()?;
        let start = if self.local {
            Start::Missing
        } else {
            Start::Nothing
        };
        runtime::block_on(async {
            let cluster = cluster::connect(desired, global, start).await?;
            deploy::carry_out(&cluster, &wish, ui).await
        })
    }

    fn wish(&self) -> Result<Wish, Failure> {
        let mut policy = self.allowed.policy()?;
        let mut consent = self.locking.consent();
        if let Some(path) = &self.plan {
            let text = files::text(path, "the saved plan")?;
            let saved = SavedPlan::read(&text).map_err(|error| {
                Failure::usage(format!("`{}` cannot be carried out", path.display()))
                    .because(&error)
                    .hint("`flocker plan --out FILE` writes a plan that can")
            })?;
            policy = saved.policy().clone();
            consent = Consent::Saved(Box::new(saved));
        }
        Ok(Wish {
            bandwidth: self.allowed.bandwidth(),
            lock_wait: self.locking.lock_wait(),
            if_held: self.locking.if_held(),
            consent,
            left_held: policy.cut_over,
            policy,
            loudness: Loudness::All,
            remember: None,
        })
    }
}
