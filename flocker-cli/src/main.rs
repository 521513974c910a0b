//! The command line of Flocker: what a person types and reads.
//!
//! Each verb is a file under `commands/`. [`cli`] says what can be typed,
//! [`error`] who must act when something goes wrong, and [`ui`] is the only
//! place that prints. Nothing here decides what happens to data: that is the
//! planner's, and how it is done is the engine's.

mod checkup;
mod cli;
mod cluster;
mod commands;
mod demo;
mod deploy;
mod error;
mod files;
mod json;
mod local;
mod policy;
mod progress;
mod real;
mod runtime;
mod shown;
mod since;
mod state_file;
mod table;
mod ui;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::error::ErrorKind;

use crate::cli::Called;
use crate::cli::Cli;
use crate::cli::Colour;
use crate::error::Ending;
use crate::error::Failure;
use crate::error::Who;
use crate::ui::Ui;

fn main() -> ExitCode {
    std::panic::set_hook(Box::new(|panic| {
        let payload = panic.payload();
        let text = payload.downcast_ref::<String>().map(String::as_str);
        let what = text.or_else(|| payload.downcast_ref::<&str>().copied());
        let what = what.unwrap_or("it does not say what");
        let place = panic
            .location()
            .map_or_else(|| "an unknown place".into(), ToString::to_string);
        ui::breakdown(what, &place);
    }));
    match std::panic::catch_unwind(run) {
        Ok(status) => status,
        Err(_) => Who::Us.exit_code(),
    }
}

fn run() -> ExitCode {
    let typed: Vec<OsString> = std::env::args_os().collect();
    match cli::read(typed.iter().cloned()) {
        Ok(Called::Flocker(cli)) => flocker(*cli),
        Ok(Called::Seed(seed)) => commands::seed::run(seed),
        Ok(Called::Supervise(supervise)) => supervise.run(),
        Err(error) => {
            if !error.use_stderr() {
                let ui = Ui::new("flocker", false, Colour::Auto);
                ui.help(&error);
                return ui.end(Ok(Ending::Done));
            }
            match cli::asked_for_json(&typed) {
                Some(command) => Ui::new(command, true, Colour::Auto).failure(&Failure::typed(&error)),
                None if error.kind() == ErrorKind::MissingSubcommand => {
                    ui::clap_talk(&cli::help_on_what_follows(&typed).unwrap_or(error));
                }
                None => ui::clap_problem(&error),
            }
            Who::User.exit_code()
        }
    }
}

fn flocker(cli: Cli) -> ExitCode {
    let Cli { global, command } = cli;
    let ui = Ui::new(command.name(), global.json, global.color);
    ui.end(commands::run(command, &global, &ui))
}
