//! `flocker doctor`: what is in the way of machines that are to be nodes.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::sync::Arc;

use clap::Args;
use flocker_backends::TransportError;
use flocker_engine::clock;
use flocker_engine::one_line;
use flocker_model::NodeAddress;
use flocker_model::NodeName;
use flocker_model::PortNumber;
use serde::Serialize;
use tokio::task::JoinSet;

use crate::cli::FilesOption;
use crate::cli::Global;
use crate::cluster;
use crate::cluster::Cluster;
use crate::error::Ending;
use crate::error::Failure;
use crate::real::Examination;
use crate::real::Finding;
use crate::real::Ways;
use crate::real::Weight;
use crate::runtime;
use crate::ui::Ui;

/// How far apart two clocks may be before it is said.
const TOLERATED: u64 = 30;

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
    let ports: BTreeSet<PortNumber> = cluster
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
            let (mut findings, listening) = match &address {
                NodeAddress::Ssh { .. } => by_ssh(&ways, &address).await,
                NodeAddress::Local { .. } => (Vec::new(), None),
            };
            // A machine that is no node yet would be made one by being asked.
            let may_answer = findings.iter().all(|finding| match finding.subject.as_str() {
                "set-up" => finding.weight == Weight::Good,
                _ => finding.weight < Weight::Problem,
            });
            if let (true, Ok(handle)) = (may_answer, handle) {
                findings.extend(answer(&*handle, &ports).await);
            } else if let Some(listening) = listening {
                findings.extend(in_use(&ports, &listening));
            }
            (name, findings)
        });
    }
    let mut found: BTreeMap<NodeName, Vec<Finding>> = BTreeMap::new();
    while let Some(look) = looks.join_next().await {
        found.extend(look.ok());
    }
    let patients = found.into_iter().map(|(node, findings)| Patient {
        healthy: findings.iter().all(|finding| finding.weight < Weight::Problem),
        node,
        findings,
    });
    patients.collect()
}

/// Looks at a machine, whether or not it can be a node.
async fn by_ssh(ways: &Ways, address: &NodeAddress) -> (Vec<Finding>, Option<BTreeSet<PortNumber>>) {
    let began = clock::now();
    match ways.examine(address).await {
        Ok(found) => {
            let Examination {
                time,
                findings,
                listening,
            } = found;
            let reached = format!(
                "in {:.1} s, with our program there",
                began.elapsed().as_secs_f32()
            );
            let mut all = vec![Finding::new("ssh", Weight::Good, reached)];
            all.extend(clock_difference(time, clock::time_of_day()));
            all.extend(findings);
            (all, Some(listening))
        }
        Err(error) => (vec![unreached(&error)], None),
    }
}

fn unreached(error: &TransportError) -> Finding {
    let finding = Finding::new("ssh", Weight::Problem, one_line(error));
    match error.hint() {
        Some(hint) => finding.hint(hint),
        None => finding,
    }
}

fn clock_difference(theirs: u64, ours: u64) -> Option<Finding> {
    let apart = theirs.abs_diff(ours);
    let way = if theirs > ours { "ahead" } else { "behind" };
    (apart > TOLERATED).then(|| {
        let said = format!("{apart} s {way} of this machine's");
        Finding::new("clock", Weight::Note, said)
            .hint("no decision goes by it, but logs will be hard to compare")
    })
}

/// Asks the node itself, which proves that it can be put together.
async fn answer(handle: &dyn flocker_engine::NodeHandle, ports: &BTreeSet<PortNumber>) -> Vec<Finding> {
    match handle.observe().await {
        Ok(state) => {
            let n_applications = state.containers.len();
            let n_datasets = state.datasets.len();
            let said = format!(
                "it answers at {}: {n_applications} applications, {n_datasets} datasets",
                state.address
            );
            let mut all = vec![Finding::new("node", Weight::Good, said)];
            all.extend(in_use(ports, &state.foreign_ports));
            all
        }
        Err(error) => vec![Finding::new("node", Weight::Problem, one_line(&error))],
    }
}

fn in_use(wanted: &BTreeSet<PortNumber>, taken: &BTreeSet<PortNumber>) -> Option<Finding> {
    let both: Vec<String> = wanted.intersection(taken).map(ToString::to_string).collect();
    (!both.is_empty()).then(|| {
        let said = format!("something else listens on {}", both.join(", "));
        Finding::new("ports", Weight::Problem, said).hint("`ss -ltnp` there says what")
    })
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
                Weight::Good => "ok     ",
                Weight::Note => "note   ",
                Weight::Problem => "problem",
            };
            let _ = writeln!(text, "  {mark}  {subject:<width$}  {said}");
            if let Some(hint) = hint {
                let _ = writeln!(text, "           {:<width$}  hint: {hint}", "");
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clocks_that_are_apart_are_told() {
        assert_eq!(clock_difference(1000, 1000 + TOLERATED), None);
        let behind = clock_difference(1000, 1100).unwrap();
        assert_eq!(
            (behind.weight, &*behind.said),
            (Weight::Note, "100 s behind of this machine's")
        );
        assert!(clock_difference(1100, 1000).unwrap().said.contains("ahead"));
    }

    #[test]
    fn only_ports_that_are_wanted_are_told() {
        let ports = |numbers: &[u16]| numbers.iter().filter_map(|n| PortNumber::new(*n)).collect();
        assert_eq!(in_use(&ports(&[80]), &ports(&[22])), None);
        let found = in_use(&ports(&[80, 443]), &ports(&[22, 80])).unwrap();
        assert_eq!(found.said, "something else listens on 80");
    }

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
