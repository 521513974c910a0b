//! `flocker report-state`: what nodes have, for people and for programs.

use clap::Args;
use flocker_model::ClusterState;
use flocker_model::NodeName;

use crate::cli::Global;
use crate::cluster;
use crate::error::Ending;
use crate::error::Failure;
use crate::runtime;
use crate::shown;
use crate::state_file;
use crate::ui::Ui;

/// Print what nodes have; with --json, everything that a plan is made from
///
/// The JSON document is what `flocker plan --state` reads. No secret is in it, and nothing that a secret could be
/// found out by.
#[derive(Debug, Args)]
pub(crate) struct ReportState {
    /// Which nodes; all local ones if not given
    #[arg(value_name = "NODE")]
    nodes: Vec<NodeName>,
}

impl ReportState {
    pub(crate) fn run(self, global: &Global, ui: &Ui) -> Result<Ending, Failure> {
        let seen = look(&self.nodes, global)?;
        // Of a node that was declared lost for ever nothing is awaited, but by who asks for it.
        let is_awaited = |node: &NodeName| !self.nodes.is_empty() || !seen.is_forgotten(node);
        let is_complete = !shown::silent(&seen).any(|(node, _)| is_awaited(node));
        if ui.is_json() {
            ui.document(&state_file::Report::new(seen))?;
        } else {
            ui.data(&state_file::to_yaml(&seen));
            for (node, silence) in shown::silent(&seen) {
                ui.warn(&format!("{node} was not seen: {silence}"));
            }
        }
        Ok(if is_complete {
            Ending::Done
        } else {
            Ending::Blocked
        })
    }
}

/// Looks at nodes, or at all local ones.
pub(crate) fn look(nodes: &[NodeName], global: &Global) -> Result<ClusterState, Failure> {
    runtime::block_on(async {
        let cluster = cluster::connect_all(global).await?;
        for node in nodes {
            let _handle = cluster.handle(node)?;
        }
        let mut seen = cluster.observe().await;
        seen.nodes
            .retain(|node, _| nodes.is_empty() || nodes.contains(node));
        Ok(seen)
    })
}
