//! What can be typed, and the only place that reads the environment.

use std::ffi::OsString;
use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use clap::CommandFactory as _;
use clap::Parser;
use clap::Subcommand;
use clap::ValueEnum;
use clap::error::ErrorKind;
use flocker_model::ByteSize;

use crate::commands;
use crate::error::Failure;
use crate::files;

const AFTER_HELP: &str = "\
Exit status:
  0    done, or there was nothing to do
  1    something failed or is blocked; the report names each
  2    what was typed, or a configuration file, is wrong
  3    `plan --exit-code` found work to do
  101  a bug in flocker itself

Start with `flocker demo`, or with `flocker local up` and `flocker deploy`.";

/// Moves containers together with their data between hosts.
#[derive(Debug, Parser)]
#[command(
    name = "flocker",
    version,
    max_term_width = 100,
    propagate_version = true,
    infer_long_args = false,
    after_help = AFTER_HELP
)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What every command understands.
#[derive(Clone, Debug, Args)]
pub(crate) struct Global {
    /// Print JSON on standard output instead of text
    #[arg(long, global = true, help_heading = "Global options")]
    pub(crate) json: bool,
    /// Whether to use colours
    #[arg(
        long,
        global = true,
        value_enum,
        value_name = "WHEN",
        default_value = "auto",
        hide_possible_values = true,
        help = "Whether to use colours: auto, always or never",
        help_heading = "Global options"
    )]
    pub(crate) color: Colour,
    /// Where local nodes live, and what was used last is kept
    #[arg(
        long,
        global = true,
        value_name = "DIR",
        help = "Where local nodes live, and what was used last is kept [env: FLOCKER_STATE_DIR]",
        help_heading = "Global options"
    )]
    state_dir: Option<PathBuf>,
    /// The configuration of SSH to read in place of your own; also said by `FLOCKER_SSH_CONFIG`
    #[arg(
        long,
        global = true,
        value_name = "FILE",
        help = "The configuration of SSH to read in place of your own [env: FLOCKER_SSH_CONFIG]",
        help_heading = "Global options"
    )]
    ssh_config: Option<PathBuf>,
}

/// When to use colours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Colour {
    /// On a terminal that can show them, unless `NO_COLOR` is set.
    Auto,
    Always,
    Never,
}

/// What of the operator's environment the program `ssh` is given, to find its configuration, keys and agent.
const FOR_SSH: &[&str] = &[
    "PATH",
    "HOME",
    "USER",
    "LOGNAME",
    "SHELL",
    "LANG",
    "TZ",
    "SSH_AUTH_SOCK",
    "SSH_AGENT_PID",
    "KRB5CCNAME",
    "KRB5_CONFIG",
    "XDG_CONFIG_HOME",
    "XDG_RUNTIME_DIR",
    // Programs that the configuration names to get at a host of a cloud.
    "AWS_PROFILE",
    "AWS_REGION",
    "AWS_CONFIG_FILE",
    "CLOUDSDK_CONFIG",
    "AZURE_CONFIG_DIR",
];

impl Global {
    /// Returns which configuration of SSH to read in place of the usual ones.
    pub(crate) fn ssh_config(&self) -> Option<PathBuf> {
        // Read here and not by clap, to whom a variable is as good as something that was typed.
        let named = || variable_os("FLOCKER_SSH_CONFIG").filter(|value| !value.is_empty());
        self.ssh_config.clone().or_else(|| named().map(PathBuf::from))
    }

    /// Returns the environment of the program `ssh`.
    pub(crate) fn environment_for_ssh() -> Vec<(OsString, OsString)> {
        let set = FOR_SSH
            .iter()
            .filter_map(|name| Some(((*name).into(), variable_os(name)?)));
        set.collect()
    }

    /// Returns where local nodes live: what was said, else what the platform says, else a directory beside the current one.
    pub(crate) fn state_dir(&self) -> PathBuf {
        if let Some(said) = &self.state_dir {
            return said.clone();
        }
        let named = |variable: &str| variable_os(variable).filter(|value| !value.is_empty());
        // Read here and not by clap, to whom a variable is as good as something that was typed.
        if let Some(said) = named("FLOCKER_STATE_DIR") {
            return said.into();
        }
        let state = named("XDG_STATE_HOME").map(PathBuf::from);
        let home = || Some(PathBuf::from(named("HOME")?).join(".local/state"));
        state
            .or_else(home)
            .unwrap_or_else(|| PathBuf::from("."))
            .join("flocker")
    }
}

/// What can be done.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Validate(commands::validate::Validate),
    Plan(commands::plan::Plan),
    Deploy(commands::deploy::Deploy),
    Cutover(commands::cutover::Cutover),
    Status(commands::status::Status),
    Why(commands::why::Why),
    Logs(commands::logs::Logs),
    Undo(commands::undo::Undo),
    Gc(commands::gc::Gc),
    Node(commands::node::Node),
    Doctor(commands::doctor::Doctor),
    Promote(commands::promote::Promote),
    ReportState(commands::report_state::ReportState),
    ChangeState(commands::change_state::ChangeState),
    Local(commands::local::Local),
    Demo(commands::demo::Demo),
    #[command(hide = true)]
    NodeStdio(commands::node_stdio::NodeStdio),
    #[command(hide = true)]
    NodeProcess(commands::node_process::NodeProcess),
    #[command(hide = true)]
    NodeBoot(commands::node_boot::NodeBoot),
    #[command(hide = true)]
    NodeServe(commands::node_serve::NodeServe),
    #[command(hide = true)]
    DemoProgram(commands::demo_program::DemoProgram),
    Schema(commands::schema::Schema),
    Completions(commands::completions::Completions),
    Man(commands::man::Man),
}

impl Command {
    /// Returns the name of the command, as its JSON document says it.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Validate(_) => "validate",
            Self::Plan(_) => "plan",
            Self::Deploy(_) => "deploy",
            Self::Cutover(_) => "cutover",
            Self::Status(_) => "status",
            Self::Why(_) => "why",
            Self::Logs(_) => "logs",
            Self::Undo(_) => "undo",
            Self::Gc(_) => "gc",
            Self::Node(_) => "node",
            Self::Doctor(_) => "doctor",
            Self::NodeStdio(_) => "node-stdio",
            Self::NodeProcess(_) => "node-process",
            Self::NodeBoot(_) => "node-boot",
            Self::Promote(_) => "promote",
            Self::ReportState(_) => "report-state",
            Self::ChangeState(_) => "change-state",
            Self::Local(_) => "local",
            Self::Demo(_) => "demo",
            Self::NodeServe(_) => "node-serve",
            Self::DemoProgram(_) => "demo-program",
            Self::Schema(_) => "schema",
            Self::Completions(_) => "completions",
            Self::Man(_) => "man",
        }
    }
}

/// The two configuration files.
#[derive(Clone, Debug, Args)]
pub(crate) struct Files {
    /// The deployment file; the two files may come in either order
    #[arg(value_name = "DEPLOYMENT")]
    deployment: PathBuf,
    /// The application file: Flocker's own format, Docker Compose or Fig
    #[arg(value_name = "APPLICATION")]
    application: PathBuf,
}

impl Files {
    pub(crate) fn paths(&self) -> [&Path; 2] {
        [&self.deployment, &self.application]
    }
}

/// The two configuration files, where those of the last deploy will do as well.
#[derive(Clone, Debug, Args)]
pub(crate) struct OptionalFiles {
    /// The deployment file; both files are those of the last deploy if not given
    #[arg(value_name = "DEPLOYMENT", requires = "application")]
    deployment: Option<PathBuf>,
    /// The application file; the two files may come in either order
    #[arg(value_name = "APPLICATION")]
    application: Option<PathBuf>,
}

impl OptionalFiles {
    pub(crate) fn paths(&self) -> Option<[&Path; 2]> {
        Some([self.deployment.as_deref()?, self.application.as_deref()?])
    }

    /// Returns the files that were named, or else those of the last deploy.
    pub(crate) fn named_or_last(&self, global: &Global) -> Result<[PathBuf; 2], Failure> {
        files::named_or_last(&global.state_dir(), self.paths())
    }
}

/// The two configuration files behind an option, for commands that begin with another argument.
#[derive(Clone, Debug, Args)]
pub(crate) struct FilesOption {
    /// The deployment file and the application file, in either order; those of the last deploy if not given
    #[arg(long, num_args = 2, value_names = ["DEPLOYMENT", "APPLICATION"])]
    files: Vec<PathBuf>,
}

impl FilesOption {
    pub(crate) fn paths(&self) -> Option<[&Path; 2]> {
        match self.files.as_slice() {
            [one, other] => Some([one, other]),
            _ => None,
        }
    }
}

/// Reads a duration: `2s`, `500ms`, `1m30s`.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    flocker_model::config::duration(text).map_err(|what| format!("it {what}"))
}

/// Reads a number of bytes a second: `50M`, `50MiB/s`.
pub(crate) fn bandwidth(text: &str) -> Result<ByteSize, String> {
    let text = text.strip_suffix("/s").unwrap_or(text);
    flocker_model::config::size(text).map_err(|what| format!("it {what}"))
}

/// Returns a variable of the operator's environment.
pub(crate) fn variable_os(name: &str) -> Option<OsString> {
    std::env::var_os(name)
}

/// Returns who types, where, and as which process: for people who wait for a deploy lock.
pub(crate) fn person() -> String {
    let named = |name| {
        variable_os(name)
            .filter(|value| !value.is_empty())
            .map(|value| value.to_string_lossy().into_owned())
    };
    let user = named("USER").or_else(|| named("LOGNAME"));
    let user = user.unwrap_or_else(|| format!("user {}", rustix::process::getuid().as_raw()));
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let on = match host.trim() {
        "" => String::new(),
        host => format!(" on {host}"),
    };
    format!("{user}{on}, process {}", std::process::id())
}

/// Which program this was called as.
#[derive(Debug)]
pub(crate) enum Called {
    /// As `flocker`.
    Flocker(Box<Cli>),
    /// As one of the programs of Flocker 0.1 to 0.4.
    Seed(commands::seed::Seed),
    /// By a node, to stay with one of its programs.
    Supervise(commands::supervise::Supervise),
}

/// Reads what was typed. What is wrong with it comes back as clap says it, and so does the text of `--help`.
pub(crate) fn read(mut arguments: impl Iterator<Item = OsString>) -> Result<Called, clap::Error> {
    let program = arguments.next().unwrap_or_else(|| "flocker".into());
    let called = Path::new(&program)
        .file_name()
        .map_or_else(String::new, |name| name.to_string_lossy().into_owned());
    let all = std::iter::once(program).chain(arguments);
    let all: Vec<OsString> = all.collect();
    // Nodes start it for every program: it is not worth the reading of all that can be typed.
    if let Some(supervise) = commands::supervise::Supervise::read(&all) {
        return Ok(Called::Supervise(supervise));
    }
    match commands::seed::Program::named(&called) {
        Some(program) => commands::seed::read(program, all.into_iter()).map(Called::Seed),
        None => Cli::try_parse_from(all).map(|cli| Called::Flocker(Box::new(cli))),
    }
}

/// Returns what can follow, for whoever typed only the beginning of a command.
pub(crate) fn help_on_what_follows(typed: &[OsString]) -> Option<clap::Error> {
    let asked = typed.iter().cloned().chain(["-h".into()]);
    read(asked)
        .err()
        .filter(|help| help.kind() == ErrorKind::DisplayHelp)
}

/// Says whether JSON was asked for, and by which command, where what was typed could not be read.
pub(crate) fn asked_for_json(typed: &[OsString]) -> Option<String> {
    let (program, arguments) = typed.split_first()?;
    // What follows this is for a program that is not ours.
    let mut ours = arguments.iter().take_while(|word| *word != "--");
    if !ours.clone().any(|word| word == "--json") {
        return None;
    }
    let called = Path::new(program).file_name().and_then(|name| name.to_str());
    if let Some(seed) = called.and_then(commands::seed::Program::named) {
        return Some(seed.command().to_owned());
    }
    let all = command();
    let is_command = |name: &&str| all.find_subcommand(name).is_some();
    let name = ours.find_map(|word| word.to_str().filter(is_command));
    Some(name.unwrap_or("flocker").to_owned())
}

/// Returns everything that can be typed, for help, completions and manual pages.
pub(crate) fn command() -> clap::Command {
    Cli::command()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_that_can_be_typed_is_declared_without_contradiction() {
        command().debug_assert();
        for program in [
            "flocker-deploy",
            "flocker-reportstate",
            "flocker-changestate",
            "flocker-volume",
        ] {
            let help = [program, "--help"].map(OsString::from);
            let error = read(help.into_iter()).unwrap_err();
            assert_eq!(error.kind(), clap::error::ErrorKind::DisplayHelp);
        }
    }

    #[test]
    fn the_files_may_come_in_either_order_and_both_must_come() {
        let read = |line: &str| read(line.split(' ').map(OsString::from));
        assert!(read("flocker plan a b").is_ok());
        assert!(read("flocker status").is_ok());
        assert!(read("flocker status a b").is_ok());
        assert!(read("flocker status a").is_err());
        assert!(read("flocker undo --files a b").is_ok());
        assert!(read("flocker undo --files a").is_err());
    }

    #[test]
    fn the_state_directory_is_what_was_said() {
        let typed = ["flocker", "--state-dir", "/x", "status"].map(OsString::from);
        let Ok(Called::Flocker(cli)) = read(typed.into_iter()) else {
            panic!("`flocker status` was not read");
        };
        assert_eq!(cli.global.state_dir(), Path::new("/x"));
    }
}
