//! `flocker-volume`: what nodes said to each other about one volume.
//!
//! It listed snapshots, and that it still does. The rest changed whose data
//! was whose on the word of whoever called: a stream was received over what was there,
//! and an ownership was taken while the owner still wrote. Nothing of that is
//! done here; what is to be typed instead is said.

use std::fmt;
use std::str::FromStr;

use clap::Parser;
use clap::Subcommand;
use flocker_model::ApplicationName;
use flocker_model::ClusterState;
use flocker_model::DatasetId;
use flocker_model::Deployment;
use flocker_model::Manifestation;
use flocker_model::NodeId;
use flocker_model::NodeName;
use flocker_model::NodeState;
use flocker_model::Observed;
use flocker_model::Role;
use flocker_model::SnapshotName;
use flocker_plan::blocked::list;
use serde::Serialize;

use super::Unused;
use crate::cli::Global;
use crate::cluster;
use crate::commands::promote::dataset_of;
use crate::error::Ending;
use crate::error::Failure;
use crate::runtime;
use crate::ui::Ui;

/// Look at the snapshots of a volume on one node.
///
/// Without a command it looks whether the node answers, or all of them, and says nothing if so.
#[derive(Debug, Parser)]
#[command(
    name = "flocker-volume",
    version,
    max_term_width = 100,
    propagate_version = true
)]
pub(crate) struct Volume {
    #[command(subcommand)]
    verb: Option<Verb>,
    /// What the deployment file calls the node; may be left out where there is only one
    #[arg(long, global = true, value_name = "HOSTNAME")]
    node: Option<NodeName>,
    #[command(flatten)]
    unused: Unused,
    #[command(flatten)]
    pub(super) global: Global,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Print the names of a volume's snapshots, oldest first; nothing where it is not there
    Snapshots(Of),
    /// Refused: data is received by `flocker deploy` alone, which knows that it is whole and may come
    Receive(Of),
    /// Refused: an ownership is taken by `flocker deploy` alone, once its owner has let go
    Acquire(Of),
    /// Refused: a volume is not made out of another
    #[command(name = "clone_to", visible_alias = "clone-to")]
    CloneTo {
        #[command(flatten)]
        parent: Of,
        /// The name of the volume to be made
        #[arg(value_name = "CHILD_NAME")]
        child: VolumeName,
    },
}

/// A volume, as it was said from node to node.
#[derive(Clone, Debug, clap::Args)]
struct Of {
    /// The identity of the node that owns it
    #[arg(value_name = "OWNER_NODE_ID", value_parser = node_id)]
    owner: NodeId,
    /// Its name: an application or `default.APPLICATION`, or `default.DATASET_ID`
    #[arg(value_name = "VOLUME_NAME")]
    volume: VolumeName,
}

fn node_id(text: &str) -> Result<NodeId, String> {
    let id = text.parse();
    id.map_err(|_| "it is not the identity of a node, which is a UUID".into())
}

/// The name of a volume, as any version said it: with or without the one namespace that there was.
#[derive(Clone, Debug, PartialEq, Eq)]
enum VolumeName {
    Dataset(DatasetId),
    Application(ApplicationName),
}

impl FromStr for VolumeName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let id = text.strip_prefix("default.").unwrap_or(text);
        if let Ok(dataset) = id.parse() {
            return Ok(Self::Dataset(dataset));
        }
        let application = id.parse().map(Self::Application);
        application.map_err(|error| format!("it is neither a dataset nor an application: {error}"))
    }
}

impl fmt::Display for VolumeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dataset(dataset) => dataset.fmt(f),
            Self::Application(application) => application.fmt(f),
        }
    }
}

#[derive(Serialize)]
struct Listed {
    node: NodeName,
    dataset: DatasetId,
    snapshots: Vec<SnapshotName>,
}

impl Volume {
    pub(super) fn run(self, global: &Global, ui: &Ui) -> Result<Ending, Failure> {
        self.unused.warn(ui);
        match self.verb {
            None => all_answer(self.node, &look(global)?.1),
            Some(Verb::Snapshots(of)) => {
                let (desired, actual) = look(global)?;
                let (node, state) = meant(self.node, &actual)?;
                let dataset = of.dataset(&desired)?;
                show(node, dataset, snapshots(&of, dataset, state, &actual), ui)
            }
            Some(Verb::Acquire(of)) => {
                let (desired, actual) = look(global)?;
                let (node, state) = meant(self.node, &actual)?;
                let dataset = of.dataset(&desired)?;
                Err(not_acquired(&of, &node, state.datasets.get(&dataset)))
            }
            // These are refused whatever there is, so nobody is asked.
            Some(Verb::Receive(of)) => Err(not_received(&of)),
            Some(Verb::CloneTo { parent, child }) => Err(not_cloned(&parent, &child)),
        }
    }
}

fn look(global: &Global) -> Result<(Deployment, ClusterState), Failure> {
    runtime::block_on(async {
        let (cluster, _) = cluster::connect_with(None, global).await?;
        let actual = cluster.observe().await;
        Ok((cluster.desired, actual))
    })
}

impl Of {
    fn dataset(&self, desired: &Deployment) -> Result<DatasetId, Failure> {
        match &self.volume {
            VolumeName::Dataset(dataset) => Ok(*dataset),
            VolumeName::Application(application) => dataset_of(application, desired),
        }
    }
}

/// Looks whether the node answers, or all of them where none is named.
fn all_answer(named: Option<NodeName>, actual: &ClusterState) -> Result<Ending, Failure> {
    let all = actual.nodes.keys();
    let nodes = named.map_or_else(|| all.cloned().collect(), |node| vec![node]);
    for node in nodes {
        meant(Some(node), actual)?;
    }
    Ok(Ending::Done)
}

/// Returns the node that is meant, which must be seen: what it has is never taken as nothing.
fn meant(named: Option<NodeName>, actual: &ClusterState) -> Result<(NodeName, &NodeState), Failure> {
    let all: Vec<NodeName> = actual.nodes.keys().cloned().collect();
    let node = match (named, all.as_slice()) {
        (Some(node), _) => node,
        (None, [only]) => only.clone(),
        (None, _) => {
            return Err(
                Failure::usage(format!("it is not clear which node is meant: {}", list(&all)))
                    .hint("`--node` names one"),
            );
        }
    };
    match actual.nodes.get(&node) {
        Some(Observed::Known(state)) => Ok((node, state)),
        Some(Observed::Unknown(silence)) => Err(Failure::failed(format!("{node} was not seen: {silence}"))
            .hint(format!("`flocker why {node}` says more"))),
        None => Err(Failure::usage(format!("there is no node `{node}`"))
            .hint("`flocker status` lists the nodes that there are")),
    }
}

/// Returns the snapshots on a node, if the volume is there and nobody else is seen to own it.
fn snapshots(of: &Of, dataset: DatasetId, state: &NodeState, actual: &ClusterState) -> Vec<SnapshotName> {
    let is_owner = |state: &&NodeState| {
        let copy = state.datasets.get(&dataset);
        copy.is_some_and(|copy| matches!(copy.role, Role::Primary { .. }))
    };
    let owners = actual.all_known().map(|(_, state)| state).filter(is_owner);
    let owners: Vec<NodeId> = owners.map(|state| state.id).collect();
    if !owners.is_empty() && !owners.contains(&of.owner) {
        return Vec::new();
    }
    let copy = state.datasets.get(&dataset);
    copy.map_or_else(Vec::new, |copy| {
        let names = copy.snapshots.iter().map(|snapshot| snapshot.name.clone());
        names.collect()
    })
}

fn show(
    node: NodeName,
    dataset: DatasetId,
    snapshots: Vec<SnapshotName>,
    ui: &Ui,
) -> Result<Ending, Failure> {
    if ui.is_json() {
        ui.document(&Listed {
            node,
            dataset,
            snapshots,
        })?;
    } else {
        let lines = snapshots.iter().map(|name| format!("{name}\n"));
        ui.data(&lines.collect::<String>());
    }
    Ok(Ending::Done)
}

fn not_received(of: &Of) -> Failure {
    Failure::failed(format!(
        "nothing is received into `{}`: a stream by itself does not say that it is whole, nor that it may come",
        of.volume
    ))
    .hint("`flocker deploy` sends data from node to node and checks it before it counts")
}

fn not_acquired(of: &Of, node: &NodeName, copy: Option<&Manifestation>) -> Failure {
    let volume = &of.volume;
    let Some(copy) = copy else {
        return Failure::failed(format!("there is no copy of `{volume}` on {node}"))
            .hint("`flocker status` shows where data is");
    };
    if matches!(copy.role, Role::Primary { .. }) {
        return Failure::failed("Can't acquire already-owned volume")
            .hint(format!("nothing is needed: {node} owns it"));
    }
    Failure::failed(format!(
        "`{volume}` is not acquired on {node}: its owner has to let go first, or two nodes would write it"
    ))
    .hint(format!(
        "`flocker deploy` hands it over; if its owner is lost for ever, `flocker promote {volume} --on {node}` makes this copy the one that counts"
    ))
}

fn not_cloned(parent: &Of, child: &VolumeName) -> Failure {
    Failure::failed(format!(
        "`{child}` is not made out of `{}`: a volume begins empty, or moves",
        parent.volume
    ))
    .hint("give the other application a volume of its own, deploy it, and copy the files into that")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_volume_is_called_as_any_version_called_it() {
        let id = "9f4ec2d8-2fee-4c05-91f7-6d300f4425c1";
        let dataset = VolumeName::Dataset(id.parse().unwrap());
        let application = VolumeName::Application("mongodb".parse().unwrap());
        for (text, volume) in [
            ("mongodb", &application),
            ("default.mongodb", &application),
            (&format!("default.{id}"), &dataset),
            (id, &dataset),
        ] {
            assert_eq!(text.parse().as_ref(), Ok(volume), "{text}");
        }
        assert!("default.".parse::<VolumeName>().is_err());
        assert!("../etc".parse::<VolumeName>().is_err());
    }
}
