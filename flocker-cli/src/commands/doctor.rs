//! `flocker doctor`: what is in the way of machines that are to be nodes.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::net::IpAddr;
use std::sync::Arc;

use clap::Args;
use flocker_engine::one_line;
use flocker_model::ExternalPort;
use flocker_model::NodeAddress;
use flocker_model::NodeName;
use serde::Serialize;
use tokio::task::JoinSet;

use crate::checkup::by_ssh;
use crate::checkup::in_use;
use crate::checkup::reached_from_itself;
use crate::checkup::write_line;
use crate::cli::FilesOption;
use crate::cli::Global;
use crate::cluster;
use crate::cluster::Cluster;
use crate::commands::validate::counted;
use crate::error::Ending;
use crate::error::Failure;
use crate::real::Closely;
use crate::real::Finding;
use crate::real::Weight;
use crate::runtime;
use crate::ui::Ui;

/// Find everything that keeps machines from being nodes
///
/// Looks at every node of the files, or at those that are named, all at the same time, and prints all that is found.
/// Nothing is changed there, but that flocker's own program is copied to where it is missing.
#[derive(Debug, Args)]
pub(crate) struct Doctor {
    /// Only these nodes; one that the files do not name is looked for by its name
    #[arg(value_name = "NODE")]
    nodes: Vec<NodeName>,
    #[command(flatten)]
    files: FilesOption,
}

#[derive(Serialize)]
struct Body {
    nodes: Vec<Patient>,
}

#[derive(Serialize)]
struct Patient {
    node: NodeName,
    /// Whether nothing is in its way.
    healthy: bool,
    findings: Vec<Finding>,
}

impl Doctor {
    pub(crate) fn run(self, global: &Global, ui: &Ui) -> Result<Ending, Failure> {
        let nodes = runtime::block_on(async {
            let cluster = cluster::connect_for_doctor(self.files.paths(), &self.nodes, global)?;
            Ok(examine_all(&cluster, &self.nodes).await)
        })?;
        let is_healthy = nodes.iter().all(|patient| patient.healthy);
        let body = Body { nodes };
        if ui.is_json() {
            ui.document(&body)?;
        } else {
            ui.data(&text(&body));
        }
        Ok(if is_healthy { Ending::Done } else { Ending::Blocked })
    }
}

async fn examine_all(cluster: &Cluster, only: &[NodeName]) -> Vec<Patient> {
    let ports: BTreeSet<ExternalPort> = cluster
        .desired
        .applications()
        .values()
        .flat_map(|application| application.ports.iter().map(|port| port.external))
        .collect();
    let ports = Arc::new(ports);
    let mut looks = JoinSet::new();
    for (name, address) in cluster.addresses() {
        if !only.is_empty() && !only.contains(&name) {
            continue;
        }
        let ways = cluster.ways();
        let handle = cluster.handle(&name);
        let ports = Arc::clone(&ports);
        looks.spawn(async move {
            let closely = Closely {
                ports: (*ports).clone(),
                ..Closely::default()
            };
            let (mut findings, found) = match &address {
                NodeAddress::Ssh { .. } => by_ssh(&ways, &address, &closely).await,
                NodeAddress::Local { .. } => (Vec::new(), None),
            };
            let mut reached = found.as_ref().and_then(|found| found.address);
            let (listening, by) = found.map_or((None, BTreeMap::new()), |found| {
                (Some(found.listening), found.listeners)
            });
            // A machine that is no node yet would be made one by being asked.
            let may_answer = findings.iter().all(|finding| match finding.subject.as_str() {
                "set-up" => finding.weight == Weight::Good,
                _ => finding.weight < Weight::Problem,
            });
            if let (true, Ok(handle)) = (may_answer, handle) {
                let (answer, at) = answer(&*handle, &ports, &by).await;
                findings.extend(answer);
                reached = at.or(reached);
            } else if let Some(listening) = listening {
                findings.extend(in_use(&ports, &listening, &by));
            }
            (name, findings, reached)
        });
    }
    let mut found: BTreeMap<NodeName, Vec<Finding>> = BTreeMap::new();
    let mut addresses = BTreeMap::new();
    while let Some(look) = looks.join_next().await {
        let Ok((name, findings, reached)) = look else {
            continue;
        };
        addresses.extend(reached.map(|address| (name.clone(), address)));
        found.insert(name, findings);
    }
    for (node, finding) in reached_from_itself(&addresses) {
        found.entry(node).or_default().push(finding);
    }
    let patients = found.into_iter().map(|(node, findings)| Patient {
        healthy: findings.iter().all(|finding| finding.weight < Weight::Problem),
        node,
        findings,
    });
    patients.collect()
}

/// Asks the node itself, which proves that it can be put together; returns also the address that it goes by.
async fn answer(
    handle: &dyn flocker_engine::NodeHandle,
    ports: &BTreeSet<ExternalPort>,
    by: &BTreeMap<ExternalPort, String>,
) -> (Vec<Finding>, Option<IpAddr>) {
    match handle.observe().await {
        Ok(state) => {
            let said = format!(
                "it answers at {}: {}, {}",
                state.address,
                counted(state.containers.len(), "application"),
                counted(state.datasets.len(), "dataset")
            );
            let mut all = vec![Finding::new("node", Weight::Good, said)];
            all.extend(in_use(ports, &state.foreign_ports, by));
            (all, Some(state.address))
        }
        Err(error) => (
            vec![Finding::new("node", Weight::Problem, one_line(&error))],
            None,
        ),
    }
}

fn text(body: &Body) -> String {
    let mut text = String::new();
    let findings = body.nodes.iter().flat_map(|patient| &patient.findings);
    let width = findings.map(|finding| finding.subject.len()).max().unwrap_or(0);
    for Patient {
        node,
        healthy,
        findings,
    } in &body.nodes
    {
        let verdict = if *healthy { "well" } else { "has problems" };
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{node}: {verdict}");
        for Finding {
            subject,
            weight,
            said,
            hint,
        } in findings
        {
            let mark = match weight {
                Weight::Good => "ok",
                Weight::Note => "note",
                Weight::Problem => "problem",
            };
            write_line(&mut text, mark, (subject, width), said);
            if let Some(hint) = hint {
                write_line(&mut text, "", ("", width), &format!("hint: {hint}"));
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_finding_is_a_line_under_its_node() {
        let body = Body {
            nodes: vec![Patient {
                node: "alpha".parse().unwrap(),
                healthy: false,
                findings: vec![
                    Finding::new("ssh", Weight::Good, "in 0.1 s"),
                    Finding::new("docker", Weight::Problem, "`docker` is not installed").hint("install it"),
                ],
            }],
        };
        assert_eq!(
            text(&body),
            "alpha: has problems\n  ok       ssh     in 0.1 s\n  problem  docker  `docker` is not installed\n\
             \x20                  hint: install it\n"
        );
    }
}
