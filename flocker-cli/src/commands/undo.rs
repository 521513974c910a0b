//! `flocker undo`: takes the last thing that happened to an application's data back.

use std::time::Duration;

use clap::Args;
use flocker_model::ApplicationName;
use flocker_model::ClusterState;
use flocker_model::DatasetId;
use flocker_model::NodeAddress;
use flocker_model::NodeName;
use flocker_model::Role;
use flocker_plan::CutOver;
use flocker_plan::Plan;
use flocker_plan::Policy;
use flocker_plan::Undo as Way;
use flocker_plan::blocked::list;
use flocker_plan::blocked::seconds;

use crate::cli::FilesOption;
use crate::cli::Global;
use crate::cluster;
use crate::cluster::Cluster;
use crate::cluster::at_next_generation;
use crate::commands::cutover::all_others_stay;
use crate::commands::deploy::Locking;
use crate::deploy;
use crate::deploy::Consent;
use crate::deploy::OlderOwners;
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
/// trash, as it was; only the copy that counted last, where several are there. What was set aside for another copy that
/// counts by now stays in the trash: where it lies is said.
#[derive(Debug, Args)]
pub(crate) struct Undo {
    /// The application; may be left out where only one has something to undo
    #[arg(value_name = "APP")]
    application: Option<ApplicationName>,
    /// Of what is in the trash of several nodes, bring back what this one has
    #[arg(long, value_name = "NODE", requires = "application")]
    on: Option<NodeName>,
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
        runtime::block_on(async {
            let (cluster, files) = cluster::connect_with(self.files.paths(), global).await?;
            let actual = cluster.observe().await;
            if let Some(on) = self.on.as_ref().filter(|on| !actual.nodes.contains_key(*on)) {
                return Err(Failure::usage(format!("there is no node `{on}`"))
                    .hint("`flocker status` lists the nodes that there are"));
            }
            let application = self.which(&cluster, &actual)?;
            if !is_known(&application, &cluster, &actual) {
                return Err(Failure::usage(format!("there is no application `{application}`"))
                    .hint("`flocker status` lists what there is; `--files DEPLOYMENT APPLICATION` names files that define it"));
            }
            let way = way(&cluster, &actual, &application, self.on.as_ref());
            if let Some(refusal) = self.refusal(&way, &application, &cluster, &actual) {
                return Err(refusal);
            }
            if way != Way::Nothing {
                wish.check(ui)?;
            }
            match way {
                Way::Nothing => {
                    ui.say(&format!(
                        "there is nothing to undo for {application}: no copy of its data is left where it was before, and none is in the trash"
                    ));
                    Ok(Ending::Done)
                }
                Way::Restore { .. } => restore(&cluster, &wish, (&application, self.on.as_ref()), ui).await,
                Way::MoveBack { to, from } => {
                    let files = files.ok_or_else(|| {
                        Failure::usage(format!("cannot move {application} back without its definition"))
                            .hint("`--files DEPLOYMENT APPLICATION` names the files that were deployed")
                    })?;
                    let mut cluster = cluster;
                    // What is started there needs its secrets.
                    cluster.desired = files.resolve()?;
                    let said: Vec<NodeName> = cluster.desired.homes(&application).cloned().collect();
                    // Only this one goes back; what the files say of the others is not what was asked for.
                    cluster.desired = all_others_stay(cluster.desired, &actual, &application);
                    let ending = move_back(cluster, &wish, &application, &to, ui).await?;
                    if ending == Ending::Done && said.contains(&from) && !ui.is_json() {
                        ui.hint(&format!(
                            "the deployment file still says that {application} is on {from}: change it, or the next deploy moves it there again"
                        ));
                    }
                    Ok(ending)
                }
            }
        })
    }

    /// Says why what is there to be undone is not.
    fn refusal(
        &self,
        way: &Way,
        application: &ApplicationName,
        cluster: &Cluster,
        actual: &ClusterState,
    ) -> Option<Failure> {
        match (way, &self.on) {
            (Way::Nothing, _) => stays_in_trash(application, cluster, actual),
            (Way::MoveBack { to, .. }, Some(on)) if on != to => {
                let stays = stays_in_trash(application, cluster, actual);
                Some(stays.unwrap_or_else(|| {
                    Failure::failed(format!("nothing of {application} is in the trash of {on}")).hint(
                        format!("`flocker undo {application}` moves it back to {to}, where it came from"),
                    )
                }))
            }
            (Way::MoveBack { .. } | Way::Restore { .. }, _) => None,
        }
    }

    fn which(&self, cluster: &Cluster, actual: &ClusterState) -> Result<ApplicationName, Failure> {
        if let Some(application) = &self.application {
            return Ok(application.clone());
        }
        let all = cluster.desired.applications().keys();
        let undoable: Vec<&ApplicationName> = all
            .filter(|name| way(cluster, actual, name, None) != Way::Nothing)
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

/// Says what of an application's data is in which trash, where it does not come back because the data has an owner.
///
/// A second owner beside it is what must never be; which of both counts is for whoever looks into them to say.
fn stays_in_trash(
    application: &ApplicationName,
    cluster: &Cluster,
    actual: &ClusterState,
) -> Option<Failure> {
    let dataset = match cluster.desired.application(application) {
        Some(definition) => definition.volume.as_ref()?.dataset,
        None => DatasetId::derived(application),
    };
    let addresses = cluster.addresses();
    let mut lies = Vec::new();
    let mut owners = Vec::new();
    for (node, state) in actual.all_known() {
        let copy = state.datasets.get(&dataset);
        if copy.is_some_and(|copy| matches!(copy.role, Role::Primary { .. })) {
            owners.push(node.clone());
        }
        for piece in state.trash.iter().filter(|piece| piece.dataset == dataset) {
            let place = match addresses.get(node) {
                Some(NodeAddress::Local { directory }) => {
                    let place = directory.join("volumes/trash").join(&piece.entry);
                    format!("`{}`", place.display())
                }
                Some(NodeAddress::Ssh { .. }) | None => format!("`{}`", piece.entry),
            };
            let grace = Policy::default().grace;
            let stays = if piece.age < grace {
                format!(
                    "only `flocker gc` drops it, in {} at the earliest",
                    days(grace.saturating_sub(piece.age))
                )
            } else {
                "the next `flocker gc` drops it".into()
            };
            lies.push(format!(
                "{} have been in the trash of {node} for {}, as {place}; {stays}",
                piece.used,
                days(piece.age)
            ));
        }
    }
    if lies.is_empty() {
        return None;
    }
    let why = if owners.is_empty() {
        "as things stand".to_owned()
    } else {
        format!("while {} owns the data", list(&owners))
    };
    let mut failure = Failure::failed(format!(
        "what is in the trash of {application} does not come back {why}: it would be a second owner"
    ))
    .hint(format!(
        "copy what you need of it by hand, as reading does it no harm; `flocker undo {application} --on NODE` brings it back once nobody has the data any more, and `flocker why {application}` shows who has"
    ));
    failure.causes = lies;
    Some(failure)
}

/// Writes a duration that may be long: `6 days`, or as [`seconds`] does.
fn days(duration: Duration) -> String {
    match duration.as_secs() / (24 * 60 * 60) {
        0 | 1 => seconds(duration),
        days => format!("{days} days"),
    }
}

fn way(
    cluster: &Cluster,
    actual: &ClusterState,
    application: &ApplicationName,
    on: Option<&NodeName>,
) -> Way {
    let desired = at_next_generation(cluster.desired.clone(), actual);
    flocker_plan::undo(&desired, actual, &Policy::default(), application, on)
}

/// Says whether the files define an application, or any seen node has a trace of it or of its data.
fn is_known(application: &ApplicationName, cluster: &Cluster, actual: &ClusterState) -> bool {
    let dataset = DatasetId::derived(application);
    cluster.desired.application(application).is_some()
        || actual.all_known().any(|(_, state)| {
            state.containers.contains_key(application)
                || state.datasets.contains_key(&dataset)
                || state.fences.contains_key(&dataset)
                || state.trash.iter().any(|piece| piece.dataset == dataset)
        })
}

async fn restore(
    cluster: &Cluster,
    wish: &Wish,
    (application, on): (&ApplicationName, Option<&NodeName>),
    ui: &Ui,
) -> Result<Ending, Failure> {
    let once = match wish.consent {
        Consent::Ask => Once::Ask,
        Consent::Given | Consent::Saved(_) => Once::Go,
    };
    let policy = Policy::default();
    let stays = std::cell::RefCell::new(Vec::new());
    let ending = carry_out_once(
        cluster,
        once,
        OlderOwners::LeftOut,
        |desired, actual| match flocker_plan::undo(desired, actual, &policy, application, on) {
            Way::Restore { plan, left } => {
                stays.replace(left);
                plan
            }
            Way::MoveBack { .. } | Way::Nothing => Plan::default(),
        },
        &format!("nothing to undo for {application} any more"),
        ui,
    )
    .await?;
    let stays = stays.into_inner();
    if ending == Ending::Done && !stays.is_empty() && !ui.is_json() {
        ui.say(&format!(
            "only the copy that counted last comes back; others stay in the trash on {}",
            list(&stays)
        ));
    }
    Ok(ending)
}

async fn move_back(
    mut cluster: Cluster,
    wish: &Wish,
    application: &ApplicationName,
    to: &NodeName,
    ui: &Ui,
) -> Result<Ending, Failure> {
    cluster.desired = cluster.desired.with_placement(application, to);
    deploy::carry_out(&cluster, wish, ui).await
}
