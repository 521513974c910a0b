//! `flocker change-state`: one node brings itself to what is desired, as far as it need not wait for others.

use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;
use flocker_engine::Execution;
use flocker_engine::Report;
use flocker_engine::one_line;
use flocker_engine::stopper;
use flocker_model::ClusterState;
use flocker_model::NodeName;
use flocker_model::config::Source;
use flocker_plan::Policy;
use serde::Serialize;

use crate::cli::Global;
use crate::cluster;
use crate::cluster::Start;
use crate::cluster::at_next_generation;
use crate::deploy;
use crate::error::Ending;
use crate::error::Failure;
use crate::files;
use crate::files::Configuration;
use crate::progress::Loudness;
use crate::progress::Progress;
use crate::runtime;
use crate::state_file;
use crate::ui::Ui;

/// Let one node do its own part of what the files say, once
///
/// What another node has to do first is left for a later turn. No deploy lock is taken: `flocker deploy` is the safer
/// way for everything but programs that drive nodes themselves.
#[derive(Debug, Args)]
pub(crate) struct ChangeState {
    /// The deployment file
    deployment: PathBuf,
    /// The application file
    application: PathBuf,
    /// What the nodes have, as `flocker report-state --json` prints it
    current: PathBuf,
    /// What the deployment file calls the node
    hostname: NodeName,
}

/// What a node is to go by.
#[derive(Debug)]
pub(crate) struct Orders {
    pub(crate) configuration: Configuration,
    pub(crate) current: Source,
    pub(crate) hostname: NodeName,
}

#[derive(Serialize)]
struct Body {
    node: NodeName,
    done: Vec<String>,
    failed: Vec<Failed>,
    left: Vec<String>,
}

#[derive(Serialize)]
struct Failed {
    step: String,
    error: String,
}

impl ChangeState {
    pub(crate) fn run(self, global: &Global, ui: &Ui) -> Result<Ending, Failure> {
        let source = |path: &PathBuf, what| {
            let text = files::text(path, what)?;
            Ok(Source::new(path.display().to_string(), text))
        };
        let deployment = source(&self.deployment, "the deployment file")?;
        let application = source(&self.application, "the application file")?;
        let orders = Orders {
            configuration: files::load([deployment, application])?,
            current: source(&self.current, "the report of the nodes")?,
            hostname: self.hostname,
        };
        take_turn(orders, Loudness::All, global, ui)
    }
}

/// Lets a node take one turn.
pub(crate) fn take_turn(
    orders: Orders,
    loudness: Loudness,
    global: &Global,
    ui: &Ui,
) -> Result<Ending, Failure> {
    let Orders {
        configuration,
        current,
        hostname,
    } = orders;
    let mut others = ClusterState::default();
    state_file::read(&current.text, &current.name, &mut others)?;
    let desired = at_next_generation(configuration.resolve()?, &others);
    // The node itself is looked at anew, key and all; of the others nothing is decided here.
    let _assumed = state_file::assume_secrets(&mut others, &desired);
    if !desired.members().contains_key(&hostname) {
        return Err(Failure::usage(format!(
            "the deployment file has no node `{hostname}`"
        )));
    }
    let report = runtime::block_on(async {
        let cluster = cluster::connect(desired, global, Start::Nothing).await?;
        let (stopper, stop) = stopper();
        let execution = Execution {
            ids: others
                .all_known()
                .map(|(name, state)| (name.clone(), state.id))
                .collect(),
            homes: Execution::homes_in(&others),
            lock: None,
            per_node: 16,
            bandwidth: None,
            stop,
            stop_grace: std::time::Duration::from_secs(10),
            listener: Arc::new(Progress::new(ui.clone(), &cluster.desired, loudness)),
        };
        let policy = Policy::default();
        let turn = flocker_engine::agent_turn(
            &hostname,
            &cluster.desired,
            &others,
            &cluster.handles,
            &policy,
            &execution,
        );
        tokio::select! {
            turn = turn => turn.map(|turn| turn.report).map_err(|error| {
                Failure::failed(format!("could not look at {hostname}")).because(&error)
            }),
            () = deploy::interrupts(&stopper) => Err(deploy::stopped_at_once()),
        }
    })?;
    ui.clear_status();
    tell(hostname, &report, loudness, ui)?;
    let is_complete = report.failures().next().is_none() && report.left().next().is_none();
    Ok(if is_complete {
        Ending::Done
    } else {
        Ending::Blocked
    })
}

fn tell(node: NodeName, report: &Report, loudness: Loudness, ui: &Ui) -> Result<(), Failure> {
    if !ui.is_json() {
        if report.steps.is_empty() && loudness == Loudness::All {
            ui.say(&format!("nothing to do on {node} as things stand"));
            ui.hint(&format!("`flocker why {node}` says what waits, and for whom"));
        }
        return Ok(());
    }
    let done = report.steps.iter();
    let done = done.filter(|step| matches!(step.ending, flocker_engine::Ending::Done(_)));
    ui.line(&Body {
        node,
        done: done.map(|step| step.step.id().to_string()).collect(),
        failed: report
            .failures()
            .map(|(step, error)| Failed {
                step: step.id().to_string(),
                error: one_line(error),
            })
            .collect(),
        left: report.left().map(|step| step.id().to_string()).collect(),
    })
}
