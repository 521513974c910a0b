//! `flocker gc`: drops what nobody needs any more.

use std::time::Duration;

use clap::Args;
use flocker_plan::Policy;
use flocker_plan::blocked::seconds;

use crate::cli;
use crate::cli::FilesOption;
use crate::cli::Global;
use crate::cluster;
use crate::deploy::OlderOwners;
use crate::deploy::Once;
use crate::deploy::carry_out_once;
use crate::error::Ending;
use crate::error::Failure;
use crate::runtime;
use crate::ui::Ui;

/// Drop spare copies and trash that are older than a week
///
/// A spare copy goes to the trash, and only while its owner is seen and has everything that is in it; what has been in
/// the trash for long enough goes for ever. Shows what it would drop; drops it with `--yes`, or if asked on a terminal.
#[derive(Debug, Args)]
pub(crate) struct Gc {
    /// Only show
    #[arg(long, conflicts_with = "yes")]
    plan: bool,
    /// Do not ask
    #[arg(short, long)]
    yes: bool,
    /// Drop what is older than this
    #[arg(long, value_name = "DURATION", value_parser = cli::duration)]
    older_than: Option<Duration>,
    #[command(flatten)]
    files: FilesOption,
}

impl Gc {
    pub(crate) fn run(self, global: &Global, ui: &Ui) -> Result<Ending, Failure> {
        let once = match (self.plan, self.yes) {
            (false, true) => Once::Go,
            (false, false) if ui.can_ask() => Once::Ask,
            (true, _) => Once::Show,
            (false, false) => Once::Hint,
        };
        let age = self.older_than.map_or_else(|| "a week".into(), seconds);
        let mut policy = Policy::default();
        if let Some(grace) = self.older_than {
            policy.grace = grace;
        }
        runtime::block_on(async {
            let (cluster, _) = cluster::connect_with(self.files.paths(), global).await?;
            carry_out_once(
                &cluster,
                once,
                OlderOwners::LeftOut,
                |desired, actual| flocker_plan::reclaim(desired, actual, &policy),
                &format!("nothing to drop: no spare copy and no trash that is seen is older than {age}"),
                ui,
            )
            .await
        })
    }
}
