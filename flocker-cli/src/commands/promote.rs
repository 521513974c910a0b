//! `flocker promote`: a person decides whose copy counts.

use std::collections::BTreeSet;

use clap::Args;
use flocker_model::ApplicationName;
use flocker_model::ClusterState;
use flocker_model::DatasetId;
use flocker_model::Deployment;
use flocker_model::NodeName;
use flocker_plan::Policy;

use crate::cli::FilesOption;
use crate::cli::Global;
use crate::cluster;
use crate::deploy::OlderOwners;
use crate::deploy::Once;
use crate::deploy::carry_out_once;
use crate::deploy::nobody_to_ask;
use crate::error::Ending;
use crate::error::Failure;
use crate::runtime;
use crate::ui::Ui;

/// Make one node's copy of a dataset the one that counts
///
/// For the two cases that no plan decides: its owner is lost for ever, or two nodes say that they own it. Every other
/// copy that claims to be the owner's is set aside in the trash of its node.
#[derive(Debug, Args)]
pub(crate) struct Promote {
    /// The dataset, or the application whose data it is
    #[arg(value_name = "DATASET|APP")]
    what: String,
    /// The node whose copy is to count
    #[arg(long, value_name = "NODE")]
    on: NodeName,
    /// Do not ask
    #[arg(short, long)]
    yes: bool,
    #[command(flatten)]
    files: FilesOption,
}

impl Promote {
    pub(crate) fn run(self, global: &Global, ui: &Ui) -> Result<Ending, Failure> {
        runtime::block_on(async {
            let (cluster, _) = cluster::connect_with(self.files.paths(), global).await?;
            let dataset = dataset(&self.what, &cluster.desired)?;
            let actual = cluster.observe().await;
            if !is_known(dataset, &cluster.desired, &actual) {
                return Err(Failure::usage(format!(
                    "neither the files nor any node that was seen know of `{}`",
                    self.what
                ))
                .hint("`flocker status` lists what there is"));
            }
            if !actual.nodes.contains_key(&self.on) {
                return Err(Failure::usage(format!("there is no node `{}`", self.on))
                    .hint("`flocker status` lists the nodes that there are"));
            }
            let once = match (self.yes, ui.can_ask()) {
                (true, _) => Once::Go,
                (false, true) => Once::Ask,
                (false, false) => return Err(nobody_to_ask()),
            };
            for beware in lost(&actual)
                .into_iter()
                .filter_map(|name| cluster.comes_back_by_itself(name))
            {
                ui.warn(&beware);
            }
            let policy = Policy::default();
            let has_steps = std::cell::Cell::new(false);
            let ending = carry_out_once(
                &cluster,
                once,
                OlderOwners::Decided,
                |desired, actual| {
                    let plan = flocker_plan::promote(desired, actual, &policy, dataset, &self.on);
                    has_steps.set(!plan.is_settled());
                    plan
                },
                &format!("nothing to do: the copy on {} counts already", self.on),
                ui,
            )
            .await?;
            if has_steps.get() && ending == Ending::Done && !ui.is_json() {
                ui.hint("`flocker deploy` starts what uses it, where the files say");
            }
            if !has_steps.get() && !ui.is_json() {
                ui.hint(&format!(
                    "a copy is promoted only where nobody owns the data, or more than one node says so; `flocker why {}` shows who does",
                    self.what
                ));
            }
            Ok(ending)
        })
    }
}

/// Returns the dataset that is meant: by its id, or by the application that uses it.
fn dataset(what: &str, desired: &Deployment) -> Result<DatasetId, Failure> {
    if let Ok(dataset) = what.parse() {
        return Ok(dataset);
    }
    let name: ApplicationName = what.parse().map_err(|error| {
        Failure::usage(format!("`{what}` is neither a dataset nor an application")).because(&error)
    })?;
    dataset_of(&name, desired)
}

/// Returns the nodes that were not seen, those that were declared lost among them, whether or not the files name them.
fn lost(actual: &ClusterState) -> BTreeSet<&NodeName> {
    let named = actual.nodes.keys().chain(actual.forgotten());
    named.filter(|name| actual.known(name).is_none()).collect()
}

/// Says whether the files use a dataset, or any seen node has a trace of it.
fn is_known(dataset: DatasetId, desired: &Deployment, actual: &ClusterState) -> bool {
    let mut volumes = desired
        .applications()
        .values()
        .filter_map(|used| used.volume.as_ref());
    volumes.any(|volume| volume.dataset == dataset)
        || actual.all_known().any(|(_, state)| {
            state.datasets.contains_key(&dataset)
                || state.fences.contains_key(&dataset)
                || state.trash.iter().any(|piece| piece.dataset == dataset)
        })
}

/// Returns the dataset of an application.
pub(crate) fn dataset_of(name: &ApplicationName, desired: &Deployment) -> Result<DatasetId, Failure> {
    match desired.application(name) {
        Some(application) => {
            let volume = application.volume.as_ref();
            let dataset = volume.map(|volume| volume.dataset);
            dataset.ok_or_else(|| Failure::usage(format!("application `{name}` has no data")))
        }
        // Without the files, an application has the dataset that its name says.
        None => Ok(DatasetId::derived(name)),
    }
}
