//! `flocker status`: what is where, and whether that is as it is to be.

use std::fmt::Write as _;
use std::path::PathBuf;

use clap::Args;
use flocker_model::ApplicationName;
use flocker_model::ByteSize;
use flocker_model::ClusterState;
use flocker_model::ContainerState;
use flocker_model::ContainerStatus;
use flocker_model::DatasetId;
use flocker_model::Deployment;
use flocker_model::Health;
use flocker_model::Manifestation;
use flocker_model::NodeAddress;
use flocker_model::NodeName;
use flocker_model::NodeState;
use flocker_model::Observed;
use flocker_model::Role;
use flocker_plan::Policy;
use flocker_plan::Refusal;
use flocker_plan::Waiting;
use flocker_plan::blocked::seconds;
use serde::Serialize;

use crate::cli::Global;
use crate::cli::OptionalFiles;
use crate::cluster;
use crate::cluster::Sight;
use crate::error::Ending;
use crate::error::Failure;
use crate::files;
use crate::local;
use crate::shown;
use crate::shown::Blocked;
use crate::table::heading;
use crate::table::table;
use crate::ui::Ui;

/// Show what is where, and whether that is what the files say
#[derive(Debug, Args)]
pub(crate) struct Status {
    #[command(flatten)]
    files: OptionalFiles,
    /// Look into what `flocker report-state --json` printed, instead of asking nodes; may be given several times
    #[arg(long, value_name = "FILE")]
    state: Vec<PathBuf>,
}

#[derive(Serialize)]
struct Body<'a> {
    nodes: Vec<NodeRow<'a>>,
    applications: Vec<ApplicationRow<'a>>,
    datasets: Vec<DatasetRow<'a>>,
    /// Data that is there and cannot be read.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    unreadable: Vec<UnreadableRow<'a>>,
    /// Nothing where there are no files to hold it against.
    plan: Option<PlanRow<'a>>,
    /// What could not be told, a sentence for each.
    unknown: &'a [String],
}

#[derive(Serialize)]
struct NodeRow<'a> {
    node: &'a NodeName,
    seen: bool,
    /// Whether a person has declared it lost for ever.
    forgotten: bool,
    silence: Option<String>,
    /// What to do about its silence, where that can be told.
    hint: Option<String>,
    id: Option<flocker_model::NodeId>,
    address: Option<std::net::IpAddr>,
    generation: Option<u64>,
    free: Option<ByteSize>,
    /// Whether it is a local node whose process runs another program than this one.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    other_program: bool,
}

#[derive(Serialize)]
struct ApplicationRow<'a> {
    application: &'a ApplicationName,
    node: &'a NodeName,
    #[serde(flatten)]
    container: &'a ContainerState,
}

#[derive(Serialize)]
struct DatasetRow<'a> {
    dataset: DatasetId,
    application: Option<&'a ApplicationName>,
    node: &'a NodeName,
    #[serde(flatten)]
    copy: &'a Manifestation,
}

#[derive(Serialize)]
struct UnreadableRow<'a> {
    dataset: DatasetId,
    application: Option<&'a ApplicationName>,
    node: &'a NodeName,
    reason: &'a str,
}

#[derive(Serialize)]
struct PlanRow<'a> {
    settled: bool,
    steps: usize,
    waiting: Vec<Blocked<&'a Waiting>>,
    refused: Vec<Blocked<&'a Refusal>>,
}

impl Status {
    pub(crate) fn run(self, global: &Global, ui: &Ui) -> Result<Ending, Failure> {
        let sight = cluster::sight(self.files.paths(), &self.state, global)?;
        // What was held is not about to move.
        let policy = files::last_policy(&global.state_dir(), self.files.paths());
        show(&sight, &policy, ui)
    }
}

fn show(sight: &Sight, policy: &Policy, ui: &Ui) -> Result<Ending, Failure> {
    let Sight {
        desired,
        actual,
        has_files,
        unknown,
        ..
    } = sight;
    let plan = has_files.then(|| flocker_plan::plan(desired, actual, policy));
    let is_blocked = plan.as_ref().is_some_and(shown::is_blocked);
    let unserved = shown::unserved(actual, plan.as_ref());
    // Of a node that was declared lost for ever nothing is awaited.
    let is_silent = shown::silent(actual).any(|(node, _)| !actual.is_forgotten(node));
    let body = Body {
        nodes: actual.nodes.iter().map(|look| node_row(look, sight)).collect(),
        applications: all_applications(actual).collect(),
        datasets: all_datasets(actual, desired).collect(),
        unreadable: all_unreadable(actual, desired).collect(),
        plan: plan.as_ref().map(|plan| PlanRow {
            settled: plan.is_settled(),
            steps: plan.steps().len(),
            waiting: plan.waiting().iter().map(Blocked::waiting).collect(),
            refused: plan.refused().iter().map(Blocked::refused).collect(),
        }),
        unknown,
    };
    if ui.is_json() {
        ui.document(&body)?;
    } else {
        let mut text = text(&body, plan.as_ref(), unserved.is_empty() && !is_silent);
        for waiting in &unserved {
            writeln!(text, "waiting: {waiting}\n   hint: {}", waiting.hint()).unwrap_or_default();
        }
        ui.data(&text);
        for unknown in unknown {
            ui.warn(unknown);
        }
        for caution in shown::cautions(actual, desired, plan.as_ref()) {
            ui.warn(&caution);
        }
    }
    let is_damaged = !body.unreadable.is_empty();
    Ok(if is_blocked || is_silent || is_damaged || !unserved.is_empty() {
        Ending::Blocked
    } else {
        Ending::Done
    })
}

fn node_row<'a>((node, look): (&'a NodeName, &'a Observed<NodeState>), sight: &Sight) -> NodeRow<'a> {
    let known = look.known();
    let is_forgotten = sight.actual.is_forgotten(node);
    let is_looked_at = sight.local.is_some();
    let (is_local, directory) = match sight.address(node) {
        Some(NodeAddress::Local { directory }) => (is_looked_at, Some(directory).filter(|_| is_looked_at)),
        None => (is_looked_at, None),
        Some(NodeAddress::Ssh { .. }) => (false, None),
    };
    NodeRow {
        node,
        seen: known.is_some(),
        forgotten: is_forgotten,
        silence: match look {
            Observed::Known(_) => None,
            Observed::Unknown(silence) => Some(silence.to_string()),
        },
        hint: match look {
            Observed::Known(_) => None,
            Observed::Unknown(silence) => silence
                .hint(node)
                .or_else(|| cluster::hung(node, directory?))
                .or_else(|| {
                    (is_local && !is_forgotten).then(|| {
                        format!("`flocker local up {node}` starts it, or makes it where there is none")
                    })
                })
                .or_else(|| {
                    (is_looked_at && !is_local && !is_forgotten)
                        .then(|| format!("`flocker doctor {node}` says what is in its way"))
                }),
        },
        id: known.map(|state| state.id),
        address: known.map(|state| state.address),
        generation: known.map(|state| state.generation.0),
        free: known.and_then(|state| state.free),
        other_program: directory.is_some_and(|directory| local::is_other_program(directory)),
    }
}

fn all_applications(actual: &ClusterState) -> impl Iterator<Item = ApplicationRow<'_>> {
    actual.all_known().flat_map(|(node, state)| {
        let containers = state.containers.iter();
        containers.map(move |(application, container)| ApplicationRow {
            application,
            node,
            container,
        })
    })
}

fn all_datasets<'a>(
    actual: &'a ClusterState,
    desired: &'a Deployment,
) -> impl Iterator<Item = DatasetRow<'a>> {
    actual.all_known().flat_map(move |(node, state)| {
        state.datasets.iter().map(move |(dataset, copy)| DatasetRow {
            dataset: *dataset,
            application: owner(*dataset, desired, state),
            node,
            copy,
        })
    })
}

fn all_unreadable<'a>(
    actual: &'a ClusterState,
    desired: &'a Deployment,
) -> impl Iterator<Item = UnreadableRow<'a>> {
    actual
        .all_unreadable()
        .map(move |(node, dataset, reason)| UnreadableRow {
            dataset,
            application: actual
                .known(node)
                .and_then(|state| owner(dataset, desired, state)),
            node,
            reason,
        })
}

/// Returns the application that uses a dataset: by the files, else by what has it mounted.
pub(crate) fn owner<'a>(
    dataset: DatasetId,
    desired: &'a Deployment,
    state: &'a NodeState,
) -> Option<&'a ApplicationName> {
    let by_files = desired.applications().iter().find(|(_, application)| {
        let volume = application.volume.as_ref();
        volume.is_some_and(|volume| volume.dataset == dataset)
    });
    let by_mount = || {
        let mut containers = state.containers.iter();
        containers.find(|(_, container)| container.dataset == Some(dataset))
    };
    by_files
        .map(|(name, _)| name)
        .or_else(|| by_mount().map(|(name, _)| name))
}

fn text(body: &Body<'_>, plan: Option<&flocker_plan::Plan>, all_is_well: bool) -> String {
    let mut rows = vec![heading(["NODE", "STATE", "ADDRESS", "GENERATION", "FREE"])];
    rows.extend(body.nodes.iter().map(|row| {
        let said = |value: Option<String>| value.unwrap_or_else(|| "-".into());
        [
            row.node.to_string(),
            match (row.forgotten, row.seen) {
                (true, _) => "forgotten",
                (false, true) => "seen",
                (false, false) => "silent",
            }
            .into(),
            said(row.address.map(|address| address.to_string())),
            said(row.generation.map(|generation| generation.to_string())),
            said(row.free.map(|free| free.to_string())),
        ]
    }));
    let mut text = table(&rows);
    for row in &body.nodes {
        if let Some(silence) = row.silence.as_ref().filter(|_| !row.forgotten) {
            writeln!(text, "{} was not seen: {silence}", row.node).unwrap_or_default();
            if let Some(hint) = &row.hint {
                writeln!(text, "   hint: {hint}").unwrap_or_default();
            }
        }
        if row.other_program {
            writeln!(
                text,
                "{} runs another flocker than this one\n   hint: `flocker local renew {}` replaces it; what runs on it runs on",
                row.node, row.node
            )
            .unwrap_or_default();
        }
    }
    if !body.applications.is_empty() {
        let mut rows = vec![heading(["APPLICATION", "NODE", "STATE", "HEALTH", "RESTARTS"])];
        rows.extend(body.applications.iter().map(|row| {
            [
                row.application.to_string(),
                row.node.to_string(),
                status(row.container.status),
                health(row.container).into(),
                row.container.restarts.to_string(),
            ]
        }));
        text.push('\n');
        text.push_str(&table(&rows));
    }
    if !body.datasets.is_empty() || !body.unreadable.is_empty() {
        let mut rows = vec![heading(["DATA OF", "NODE", "ROLE", "HOLDS", "SINCE"])];
        rows.extend(body.datasets.iter().map(|row| {
            let of = row
                .application
                .map_or_else(|| row.dataset.to_string(), ToString::to_string);
            [
                of,
                row.node.to_string(),
                role(row.copy),
                match row.copy.maximum_size {
                    Some(maximum) => format!("{} of {maximum}", row.copy.used),
                    None => row.copy.used.to_string(),
                },
                format!("{} ago", seconds(row.copy.age)),
            ]
        }));
        rows.extend(body.unreadable.iter().map(|row| {
            let of = row
                .application
                .map_or_else(|| row.dataset.to_string(), ToString::to_string);
            [
                of,
                row.node.to_string(),
                "cannot be read".into(),
                "-".into(),
                "-".into(),
            ]
        }));
        text.push('\n');
        text.push_str(&table(&rows));
    }
    if let Some(plan) = plan {
        text.push('\n');
        text.push_str(&verdict(plan, all_is_well));
    }
    text
}

fn verdict(plan: &flocker_plan::Plan, all_is_well: bool) -> String {
    if plan.is_settled() {
        let said = if all_is_well {
            "everything is as it is to be\n"
        } else {
            ""
        };
        return said.into();
    }
    let mut text = String::new();
    for waiting in plan.waiting() {
        writeln!(text, "waiting: {waiting}\n   hint: {}", waiting.hint()).unwrap_or_default();
    }
    for refusal in plan.refused() {
        writeln!(text, "refused: {refusal}\n   hint: {}", refusal.hint()).unwrap_or_default();
    }
    let n_steps = plan.steps().len();
    if n_steps > 0 {
        let steps = super::validate::counted(n_steps, "step");
        writeln!(
            text,
            "not as it is to be: {steps} to do\n   hint: `flocker plan` shows them"
        )
        .unwrap_or_default();
    }
    text
}

/// Writes whether a container runs.
pub(crate) fn status(status: ContainerStatus) -> String {
    match status {
        ContainerStatus::Prepared => "prepared".into(),
        ContainerStatus::Running => "running".into(),
        ContainerStatus::Restarting => "restarting".into(),
        ContainerStatus::Exited { code: Some(code) } => format!("exited with {code}"),
        ContainerStatus::Exited { code: None } => "exited".into(),
    }
}

/// Writes whether an application serves. Of one that does not run there is nothing to say.
pub(crate) fn health(container: &ContainerState) -> &'static str {
    match container.health {
        _ if container.status != ContainerStatus::Running => "-",
        Health::NotChecked => "not checked",
        Health::Healthy => "healthy",
        Health::Unhealthy => "unhealthy",
    }
}

/// Writes what a node may do with its copy.
pub(crate) fn role(copy: &Manifestation) -> String {
    let role = match &copy.role {
        Role::Primary { epoch } => format!("owner, epoch {epoch}"),
        Role::Released { epoch, to, .. } => format!("let go to {to} for epoch {epoch}"),
        Role::Replica => "copy".into(),
    };
    match &copy.partial {
        Some(partial) => format!("{role}; {} of {} arrived", partial.received, partial.snapshot),
        None => role,
    }
}
