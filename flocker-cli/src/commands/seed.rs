//! The programs of Flocker 0.1 to 0.4 under their old names.
//!
//! They take what they took. What they did wrong is put right: a node that
//! failed makes the exit status say so, and each is reported on standard
//! error; nothing is printed where all went well.

mod volume;

use std::path::Path;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::ArgAction;
use clap::Args;
use clap::Parser;
use flocker_engine::IfHeld;
use flocker_model::NodeName;
use flocker_model::config::Source;
use flocker_plan::CutOver;
use flocker_plan::Policy;

use super::change_state::Orders;
use super::change_state::take_turn;
use crate::cli::Global;
use crate::cluster;
use crate::cluster::Start;
use crate::deploy;
use crate::deploy::Consent;
use crate::deploy::Wish;
use crate::error::Ending;
use crate::error::Failure;
use crate::files;
use crate::progress::Loudness;
use crate::runtime;
use crate::shown;
use crate::state_file;
use crate::ui::Ui;

/// One of the old programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Program {
    Deploy,
    ReportState,
    ChangeState,
    Volume,
}

/// One of the old programs, with what was typed.
#[derive(Debug)]
pub(crate) enum Seed {
    Deploy(Deploy),
    ReportState(ReportState),
    ChangeState(Box<ChangeState>),
    Volume(Box<volume::Volume>),
}

/// What the old programs took and is of no use any more: nobody who passes it is turned away.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Without effect")]
struct Unused {
    /// Where a node wrote who it is
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The ZFS pool; the deployment file says it
    #[arg(long, global = true, value_name = "POOL")]
    pool: Option<String>,
    /// Where the pool is mounted
    #[arg(long, global = true, value_name = "DIR")]
    mountpoint: Option<PathBuf>,
    #[command(flatten)]
    verbosity: Verbosity,
}

/// How much more was to be said, which the old programs counted and did nothing about.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Without effect")]
struct Verbosity {
    /// Say more
    #[arg(short, long, global = true, action = ArgAction::Count)]
    verbose: u8,
}

impl Unused {
    /// Says of what was passed that it changes nothing.
    fn warn(&self, ui: &Ui) {
        let Self {
            config,
            pool,
            mountpoint,
            verbosity: _,
        } = self;
        for (option, is_said, instead) in [
            ("--config", config.is_some(), "a node itself knows who it is"),
            (
                "--pool",
                pool.is_some(),
                "`pool` of a node in the deployment file says it",
            ),
            (
                "--mountpoint",
                mountpoint.is_some(),
                "each volume is mounted where its node keeps it",
            ),
        ] {
            if is_said {
                ui.warn(&format!("`{option}` has no effect: {instead}"));
            }
        }
    }
}

/// Bring the nodes to what the files say.
#[derive(Debug, Parser)]
#[command(name = "flocker-deploy", version, max_term_width = 100)]
pub(crate) struct Deploy {
    /// The deployment file
    #[arg(value_name = "DEPLOYMENT_CONFIGURATION_PATH")]
    deployment: PathBuf,
    /// The application file
    #[arg(value_name = "APPLICATION_CONFIGURATION_PATH")]
    application: PathBuf,
    #[command(flatten)]
    verbosity: Verbosity,
    #[command(flatten)]
    global: Global,
}

/// Print what a node has, as JSON, which is YAML.
#[derive(Debug, Parser)]
#[command(name = "flocker-reportstate", version, max_term_width = 100)]
pub(crate) struct ReportState {
    /// Which node; all local ones if not given
    #[arg(value_name = "HOSTNAME")]
    node: Option<NodeName>,
    #[command(flatten)]
    unused: Unused,
    #[command(flatten)]
    global: Global,
}

/// Let one node do its own part of what the configuration says.
#[derive(Debug, Parser)]
#[command(name = "flocker-changestate", version, max_term_width = 100)]
pub(crate) struct ChangeState {
    /// The deployment configuration itself
    #[arg(value_name = "DEPLOYMENT")]
    deployment: String,
    /// The application configuration itself
    #[arg(value_name = "APPLICATION")]
    application: String,
    /// What the nodes have, as `flocker-reportstate` prints it
    #[arg(value_name = "CURRENT")]
    current: String,
    /// What the deployment configuration calls this node
    #[arg(value_name = "HOSTNAME")]
    hostname: NodeName,
    #[command(flatten)]
    unused: Unused,
    #[command(flatten)]
    global: Global,
}

impl Program {
    /// Returns the program of this name.
    pub(crate) fn named(called: &str) -> Option<Self> {
        match called {
            "flocker-deploy" => Some(Self::Deploy),
            "flocker-reportstate" => Some(Self::ReportState),
            "flocker-changestate" => Some(Self::ChangeState),
            "flocker-volume" => Some(Self::Volume),
            _ => None,
        }
    }

    /// Returns the name of the command that does what it did, as its JSON document says it.
    pub(crate) fn command(self) -> &'static str {
        match self {
            Self::Deploy => "deploy",
            Self::ReportState => "report-state",
            Self::ChangeState => "change-state",
            Self::Volume => "volume",
        }
    }
}

/// Reads what was typed for one of them.
pub(crate) fn read(program: Program, arguments: impl Iterator<Item = OsString>) -> Result<Seed, clap::Error> {
    match program {
        Program::Deploy => Deploy::try_parse_from(arguments).map(Seed::Deploy),
        Program::ReportState => ReportState::try_parse_from(arguments).map(Seed::ReportState),
        Program::ChangeState => {
            ChangeState::try_parse_from(arguments).map(|change| Seed::ChangeState(Box::new(change)))
        }
        Program::Volume => {
            volume::Volume::try_parse_from(arguments).map(|volume| Seed::Volume(Box::new(volume)))
        }
    }
}

/// Does what one of them did.
pub(crate) fn run(seed: Seed) -> ExitCode {
    let (global, name) = match &seed {
        Seed::Deploy(deploy) => (deploy.global.clone(), "deploy"),
        Seed::ReportState(report) => (report.global.clone(), "report-state"),
        Seed::ChangeState(change) => (change.global.clone(), "change-state"),
        Seed::Volume(volume) => (volume.global.clone(), "volume"),
    };
    let ui = Ui::new(name, global.json, global.color);
    let ended = match seed {
        Seed::Deploy(deploy) => deploy.run(&global, &ui),
        Seed::ReportState(report) => report.run(&global, &ui),
        Seed::ChangeState(change) => change.run(&global, &ui),
        Seed::Volume(volume) => volume.run(&global, &ui),
    };
    ui.end(ended)
}

impl Deploy {
    fn run(self, global: &Global, ui: &Ui) -> Result<Ending, Failure> {
        let paths = [self.deployment.as_path(), self.application.as_path()];
        let configuration = files::read(paths)?;
        let desired = configuration.resolve()?;
        let wish = Wish {
            policy: Policy::default(),
            bandwidth: None,
            lock_wait: None,
            if_held: IfHeld::Refuse,
            consent: Consent::Given,
            left_held: CutOver::WhenReady,
            loudness: Loudness::Failures,
            remember: Some((global.state_dir(), paths.map(Path::to_path_buf))),
        };
        runtime::block_on(async {
            let cluster = cluster::connect(desired, global, Start::Nothing).await?;
            // As it always was: where a node does not report, nothing is changed.
            let actual = cluster.observe().await;
            let mut silent = shown::silent(&actual)
                .filter(|(node, _)| cluster.desired.members().contains_key(*node))
                .peekable();
            if silent.peek().is_some() {
                let mut failure = Failure::failed("Error connecting to cluster node: nothing was changed")
                    .hint("`flocker status` shows which nodes answer");
                failure.causes = silent.map(|(node, why)| format!("{node}: {why}")).collect();
                return Err(failure);
            }
            deploy::carry_out(&cluster, &wish, ui).await
        })
    }
}

impl ReportState {
    fn run(self, global: &Global, ui: &Ui) -> Result<Ending, Failure> {
        self.unused.warn(ui);
        let nodes: Vec<NodeName> = self.node.into_iter().collect();
        let seen = super::report_state::look(&nodes, global)?;
        let silent: Vec<String> = shown::silent(&seen)
            .map(|(node, why)| format!("{node} was not seen: {why}"))
            .collect();
        ui.document(&state_file::Report::with_seed(seen))?;
        for line in &silent {
            ui.warn(line);
        }
        Ok(if silent.is_empty() {
            Ending::Done
        } else {
            Ending::Blocked
        })
    }
}

impl ChangeState {
    fn run(self, global: &Global, ui: &Ui) -> Result<Ending, Failure> {
        self.unused.warn(ui);
        let deployment = Source::new("DEPLOYMENT", self.deployment);
        let application = Source::new("APPLICATION", self.application);
        let configuration = files::load([deployment, application])?;
        for name in configuration.with_plain_values()? {
            ui.warn(&format!(
                "the environment of {name} stands in the arguments of this command, which everybody on this machine can read: `from_file` or `from_environment` keeps a secret out of them"
            ));
        }
        let orders = Orders {
            configuration,
            current: Source::new("CURRENT", self.current),
            hostname: self.hostname,
        };
        take_turn(orders, Loudness::Failures, global, ui)
    }
}
