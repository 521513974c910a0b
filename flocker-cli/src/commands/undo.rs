//! `flocker undo`: takes the last thing that happened to an application's data back.

use clap::Args;
use flocker_model::ApplicationName;
use flocker_model::ClusterState;
use flocker_model::NodeName;
use flocker_plan::CutOver;
use flocker_plan::Plan;
use flocker_plan::Policy;
use flocker_plan::Undo as Way;

use crate::cli::FilesOption;
use crate::cli::Global;
use crate::cluster;
use crate::cluster::Cluster;
use crate::cluster::at_next_generation;
use crate::commands::cutover::all_others_stay;
use crate::commands::deploy::Locking;
use crate::deploy;
use crate::deploy::Consent;
use crate::deploy::Once;
use crate::deploy::Wish;
use crate::deploy::carry_out_once;
use crate::error::Ending;
use crate::error::Failure;
use crate::progress::Loudness;
use crate::runtime;
use crate::ui::Ui;

/// Take the last thing that happened to an application's data back
///
/// A move: it goes back where it came from, with everything that was written since. A deletion: it comes back from the
/// trash, as it was.
#[derive(Debug, Args)]
pub(crate) struct Undo {
    /// The application; may be left out where only one has something to undo
    #[arg(value_name = "APP")]
    application: Option<ApplicationName>,
    #[command(flatten)]
    locking: Locking,
    #[command(flatten)]
    files: FilesOption,
}

impl Undo {
    pub(crate) fn run(self, global: &Global, ui: &Ui) -> Result<Ending, Failure> {
        let wish = Wish {
            policy: Policy::default(),
            bandwidth: None,
            lock_wait: self.locking.lock_wait(),
            if_held: self.locking.if_held(),
            consent: self.locking.consent(),
            left_held: CutOver::WhenReady,
            loudness: Loudness::All,
            remember: None,
        };
        wish.check(ui)?;
        runtime::block_on(async {
            let (cluster, files) = cluster::connect_with(self.files.paths(), global).await?;
            let actual = cluster.observe().await;
            let application = self.which(&cluster, &actual)?;
            match way(&cluster, &actual, &application) {
                Way::Nothing => {
                    ui.say(&format!(
                        "there is nothing to undo for {application}: no copy of its data is left where it was before, and none is in the trash"
                    ));
                    Ok(Ending::Done)
                }
                Way::Restore(_) => restore(&cluster, &wish, &application, ui).await,
                Way::MoveBack { to, from } => {
                    let files = files.ok_or_else(|| {
                        Failure::usage(format!("cannot move {application} back without its definition"))
                            .hint("`--files DEPLOYMENT APPLICATION` names the files that were deployed")
                    })?;
                    let mut cluster = cluster;
                    // What is started there needs its secrets.
                    cluster.desired = files.resolve()?;
                    // Only this one goes back; what the files say of the others is not what was asked for.
                    cluster.desired = all_others_stay(cluster.desired, &actual, &application);
                    move_back(cluster, &wish, &application, (&from, &to), ui).await
                }
            }
        })
    }

    fn which(&self, cluster: &Cluster, actual: &ClusterState) -> Result<ApplicationName, Failure> {
        if let Some(application) = &self.application {
            return Ok(application.clone());
        }
        let all = cluster.desired.applications().keys();
        let undoable: Vec<&ApplicationName> = all
            .filter(|name| way(cluster, actual, name) != Way::Nothing)
            .collect();
        match undoable.as_slice() {
            [only] => Ok((*only).clone()),
            [] => Err(
                Failure::usage("there is nothing to undo for any application of the files")
                    .hint("`flocker undo APP` names one"),
            ),
            several => {
                let names: Vec<&str> = several.iter().map(|name| name.as_str()).collect();
                Err(Failure::usage("it is not clear which application is meant")
                    .hint(format!("`flocker undo APP` names one of {}", names.join(", "))))
            }
        }
    }
}

fn way(cluster: &Cluster, actual: &ClusterState, application: &ApplicationName) -> Way {
    let desired = at_next_generation(cluster.desired.clone(), actual);
    flocker_plan::undo(&desired, actual, &Policy::default(), application)
}

async fn restore(
    cluster: &Cluster,
    wish: &Wish,
    application: &ApplicationName,
    ui: &Ui,
) -> Result<Ending, Failure> {
    let once = match wish.consent {
        Consent::Ask => Once::Ask,
        Consent::Given | Consent::Saved(_) => Once::Go,
    };
    let policy = Policy::default();
    carry_out_once(
        cluster,
        once,
        |desired, actual| match flocker_plan::undo(desired, actual, &policy, application) {
            Way::Restore(plan) => plan,
            Way::MoveBack { .. } | Way::Nothing => Plan::default(),
        },
        ui,
    )
    .await
}

async fn move_back(
    mut cluster: Cluster,
    wish: &Wish,
    application: &ApplicationName,
    (from, to): (&NodeName, &NodeName),
    ui: &Ui,
) -> Result<Ending, Failure> {
    cluster.desired = cluster.desired.with_placement(application, to);
    let ending = deploy::carry_out(&cluster, wish, ui).await?;
    if ending == Ending::Done && !ui.is_json() {
        ui.hint(&format!(
            "the deployment file still says that {application} is on {from}: change it, or the next deploy moves it there again"
        ));
    }
    Ok(ending)
}
