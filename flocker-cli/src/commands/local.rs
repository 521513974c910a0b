//! `flocker local`: nodes on this machine.

use std::fmt::Write as _;
use std::net::Ipv4Addr;
use std::num::NonZeroU8;
use std::path::Path;

use clap::Args;
use clap::Subcommand;
use flocker_model::ApplicationName;
use flocker_model::ContainerStatus;
use flocker_model::NodeName;
use serde_json::json;

use crate::cli::Global;
use crate::error::Ending;
use crate::error::Failure;
use crate::local;
use crate::local::Data;
use crate::local::Down;
use crate::local::Seen;
use crate::local::Up;
use crate::runtime::block_on;
use crate::table;
use crate::table::heading;
use crate::ui::Ui;

/// What nodes are called that nobody has named.
const NAMES: [&str; 12] = [
    "alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta", "iota", "kappa", "lambda", "mu",
];

/// Start, stop and list nodes on this machine
///
/// They need no root, no containers and no network. Each has its own loopback address, a directory
/// below the state directory and a process in the background; programs run on them as they are.
#[derive(Debug, Args)]
pub(crate) struct Local {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    Up(UpArguments),
    Down(DownArguments),
    Status(StatusArguments),
    Renew(RenewArguments),
}

/// Replace the processes of nodes that run another flocker by this one
///
/// What runs on them runs on, and their routes stay; connections that go through them break, and can be
/// made again at once. Nodes that run this program are left alone.
#[derive(Debug, Args)]
struct RenewArguments {
    /// Their names; all that there are if not given
    names: Vec<NodeName>,
}

/// Make and start nodes; those that run are left alone
#[derive(Debug, Args)]
struct UpArguments {
    /// Their names; alpha, beta and gamma if not given
    #[arg(conflicts_with = "nodes")]
    names: Vec<NodeName>,
    /// How many, with names from alpha on
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(NonZeroU8))]
    nodes: Option<NonZeroU8>,
    /// Where to begin to look for free addresses
    #[arg(long, value_name = "ADDRESS", default_value_t = local::FIRST, value_parser = loopback)]
    first_address: Ipv4Addr,
}

/// Stop nodes, and before that what runs on them
#[derive(Debug, Args)]
struct DownArguments {
    /// Their names; all that there are if not given
    names: Vec<NodeName>,
    /// Delete their data as well, for ever
    #[arg(long)]
    delete_data: bool,
    /// Do not ask before data is deleted
    #[arg(long, short)]
    yes: bool,
}

/// List nodes: address, process, applications, data
#[derive(Debug, Args)]
struct StatusArguments {}

fn loopback(text: &str) -> Result<Ipv4Addr, String> {
    let address: Ipv4Addr = text.parse().map_err(|_| "it is not an IPv4 address")?;
    if address.is_loopback() {
        Ok(address)
    } else {
        Err("it must be a loopback address, such as 127.0.1.1".into())
    }
}

impl Local {
    pub(crate) fn run(self, global: &Global, ui: &Ui) -> Result<Ending, Failure> {
        let state_dir = global.state_dir();
        match self.verb {
            Verb::Up(arguments) => arguments.run(&state_dir, ui),
            Verb::Down(arguments) => arguments.run(&state_dir, ui),
            Verb::Status(StatusArguments {}) => status(&state_dir, ui),
            Verb::Renew(arguments) => arguments.run(&state_dir, ui),
        }
    }
}

impl UpArguments {
    fn run(self, state_dir: &Path, ui: &Ui) -> Result<Ending, Failure> {
        let names = if self.names.is_empty() {
            default_names(self.nodes.map_or(3, NonZeroU8::get))?
        } else {
            self.names
        };
        let up = block_on(local::up(state_dir, &names, self.first_address))?;
        show_up(&up, ui)
    }
}

impl RenewArguments {
    fn run(self, state_dir: &Path, ui: &Ui) -> Result<Ending, Failure> {
        let names = if self.names.is_empty() {
            local::known(state_dir)?.into_keys().collect()
        } else {
            self.names
        };
        let up = block_on(local::renew(state_dir, &names))?;
        show_up(&up, ui)
    }
}

fn show_up(up: &[Up], ui: &Ui) -> Result<Ending, Failure> {
    if ui.is_json() {
        let nodes: Vec<_> = up.iter().map(up_json).collect();
        ui.document(&json!({ "nodes": nodes }))?;
        return Ok(Ending::Done);
    }
    let mut text = String::new();
    for Up {
        place, was_started, ..
    } in up
    {
        let what = if *was_started { "started" } else { "runs already" };
        writeln!(text, "{:<12}  {:<12}  {what}", place.name, place.address).unwrap_or_default();
    }
    ui.data(&text);
    for Up { place, .. } in up {
        if local::is_other_program(&place.directory) {
            ui.warn(&format!("{} runs another flocker than this one", place.name));
            ui.hint(&format!(
                "`flocker local renew {}` replaces it; what runs on it runs on",
                place.name
            ));
        }
    }
    Ok(Ending::Done)
}

fn default_names(count: u8) -> Result<Vec<NodeName>, Failure> {
    let count = usize::from(count);
    if count > NAMES.len() {
        let most = NAMES.len();
        return Err(Failure::usage(format!("there are names for {most} nodes only"))
            .hint("name them yourself: `flocker local up NAME…`"));
    }
    let names = NAMES.iter().take(count).map(|name| name.parse());
    names
        .collect::<Result<_, _>>()
        .map_err(|error| Failure::bug(format!("a name of ours cannot be used: {error}")))
}

fn up_json(up: &Up) -> serde_json::Value {
    let Up {
        place,
        process,
        was_started,
    } = up;
    json!({
        "name": place.name,
        "address": place.address,
        "directory": place.directory,
        "pid": process,
        "started": was_started,
    })
}

impl DownArguments {
    fn run(self, state_dir: &Path, ui: &Ui) -> Result<Ending, Failure> {
        let known: Vec<NodeName> = local::known(state_dir)?.into_keys().collect();
        if let Some(stranger) = self.names.iter().find(|name| !known.contains(name)) {
            return Err(local::no_such_node(stranger));
        }
        let names = if self.names.is_empty() {
            known.clone()
        } else {
            self.names
        };
        let data = if self.delete_data {
            Data::Delete
        } else {
            Data::Keep
        };
        if data == Data::Delete && !self.yes && !names.is_empty() {
            let list = flocker_plan::blocked::list(&names);
            if !ui.can_ask() {
                return Err(Failure::usage(format!("this deletes all data of {list}"))
                    .hint("add `--yes` if that is meant"));
            }
            if !ui.confirm(&format!("Delete {list} with all data, for ever?")) {
                ui.say("nothing was done");
                return Ok(Ending::Blocked);
            }
        }
        let down = block_on(local::down(state_dir, &names, data))?;
        if ui.is_json() {
            let nodes: Vec<_> = down.iter().map(down_json).collect();
            ui.document(&json!({ "nodes": nodes, "deleted": self.delete_data }))?;
        } else {
            ui.data(&down_text(&down, data));
        }
        let rest: Vec<&NodeName> = known.iter().filter(|name| !names.contains(name)).collect();
        if data == Data::Delete && !rest.is_empty() && !names.is_empty() {
            let list = flocker_plan::blocked::list(&names);
            ui.hint(&format!(
                "the other nodes still expect to hear of {list}; `flocker node forget NAME` tells them not to"
            ));
        }
        Ok(Ending::Done)
    }
}

fn down_text(down: &[Down], data: Data) -> String {
    let mut text = String::new();
    for Down { name, ran, stopped } in down {
        let what = match (ran, data) {
            (true, Data::Keep) => "stopped",
            (false, Data::Keep) => "did not run",
            (true, Data::Delete) => "stopped and deleted",
            (false, Data::Delete) => "deleted",
        };
        let with = if stopped.is_empty() {
            String::new()
        } else {
            let names: Vec<&str> = stopped.iter().map(ApplicationName::as_str).collect();
            format!(", and before that {}", names.join(", "))
        };
        writeln!(text, "{name:<12}  {what}{with}").unwrap_or_default();
    }
    text
}

fn down_json(down: &Down) -> serde_json::Value {
    let Down { name, ran, stopped } = down;
    json!({ "name": name, "ran": ran, "stopped_applications": stopped })
}

fn status(state_dir: &Path, ui: &Ui) -> Result<Ending, Failure> {
    let seen = block_on(local::look(state_dir))?;
    if ui.is_json() {
        let nodes: Vec<_> = seen.iter().map(seen_json).collect();
        ui.document(&json!({ "nodes": nodes }))?;
    } else if seen.is_empty() {
        ui.say("there are no local nodes");
        ui.hint("`flocker local up` makes three");
    } else {
        ui.data(&table(&seen));
        for node in seen.iter().filter(|node| node.is_other_program == Some(true)) {
            let name = &node.place.name;
            ui.warn(&format!("{name} runs another flocker than this one"));
            ui.hint(&format!(
                "`flocker local renew {name}` replaces it; what runs on it runs on"
            ));
        }
    }
    let is_silent = seen.iter().any(|node| node.silence.is_some());
    Ok(if is_silent { Ending::Blocked } else { Ending::Done })
}

fn state_of(seen: &Seen) -> &'static str {
    match (seen.process, &seen.silence) {
        (None, _) => "down",
        (Some(_), None) => "up",
        (Some(_), Some(_)) => "silent",
    }
}

fn status_word(status: ContainerStatus) -> &'static str {
    match status {
        ContainerStatus::Prepared => "prepared",
        ContainerStatus::Running => "running",
        ContainerStatus::Restarting => "restarting",
        ContainerStatus::Exited { .. } => "exited",
    }
}

fn table(seen: &[Seen]) -> String {
    let mut rows = vec![heading([
        "NODE",
        "ADDRESS",
        "STATE",
        "PID",
        "DATA",
        "APPLICATIONS",
    ])];
    for node in seen {
        let applications = node.applications.iter().map(|(name, state)| match state.status {
            ContainerStatus::Running => name.to_string(),
            ContainerStatus::Prepared | ContainerStatus::Restarting | ContainerStatus::Exited { .. } => {
                format!("{name} ({})", status_word(state.status))
            }
        });
        let applications: Vec<String> = applications.collect();
        rows.push([
            node.place.name.to_string(),
            node.place.address.to_string(),
            state_of(node).to_owned(),
            node.process
                .map_or_else(|| "-".into(), |process| process.to_string()),
            node.data.to_string(),
            if applications.is_empty() {
                "-".into()
            } else {
                applications.join(", ")
            },
        ]);
    }
    table::table(&rows)
}

fn seen_json(seen: &Seen) -> serde_json::Value {
    let Seen {
        place,
        process,
        is_other_program,
        silence,
        applications,
        data,
    } = seen;
    let applications: Vec<_> = applications
        .iter()
        .map(|(name, state)| json!({ "name": name, "status": status_word(state.status), "restarts": state.restarts }))
        .collect();
    json!({
        "name": place.name,
        "address": place.address,
        "directory": place.directory,
        "pid": process,
        "other_program": is_other_program,
        "state": state_of(seen),
        "silence": silence.as_ref().map(|error| flocker_engine::one_line(error)),
        "applications": applications,
        "data_bytes": data.0,
    })
}
