//! The verbs, one to a file.

pub(crate) mod change_state;
pub(crate) mod completions;
pub(crate) mod cutover;
pub(crate) mod demo;
pub(crate) mod demo_program;
pub(crate) mod deploy;
pub(crate) mod doctor;
pub(crate) mod gc;
pub(crate) mod local;
pub(crate) mod logs;
pub(crate) mod man;
pub(crate) mod node;
pub(crate) mod node_boot;
pub(crate) mod node_process;
pub(crate) mod node_serve;
pub(crate) mod node_stdio;
pub(crate) mod plan;
mod prepare;
pub(crate) mod promote;
pub(crate) mod report_state;
pub(crate) mod schema;
pub(crate) mod seed;
pub(crate) mod status;
pub(crate) mod supervise;
pub(crate) mod undo;
pub(crate) mod validate;
pub(crate) mod why;

use crate::cli::Command;
use crate::cli::Global;
use crate::error::Ending;
use crate::error::Failure;
use crate::ui::Ui;

/// Does what was typed.
pub(crate) fn run(command: Command, global: &Global, ui: &Ui) -> Result<Ending, Failure> {
    match command {
        Command::Validate(validate) => validate.run(ui),
        Command::Plan(plan) => plan.run(global, ui),
        Command::Deploy(deploy) => deploy.run(global, ui),
        Command::Cutover(cutover) => cutover.run(global, ui),
        Command::Status(status) => status.run(global, ui),
        Command::Why(why) => why.run(global, ui),
        Command::Logs(logs) => logs.run(global, ui),
        Command::Undo(undo) => undo.run(global, ui),
        Command::Gc(gc) => gc.run(global, ui),
        Command::Node(node) => node.run(global, ui),
        Command::Promote(promote) => promote.run(global, ui),
        Command::ReportState(report) => report.run(global, ui),
        Command::ChangeState(change) => change.run(global, ui),
        Command::Schema(schema) => {
            schema.run(ui);
            Ok(Ending::Done)
        }
        Command::Completions(completions) => {
            completions.run(ui);
            Ok(Ending::Done)
        }
        Command::Local(local) => local.run(global, ui),
        Command::Demo(demo) => demo.run(ui),
        Command::Doctor(doctor) => doctor.run(global, ui),
        Command::NodeServe(node) => node.run(),
        Command::NodeStdio(node) => node.run(),
        Command::NodeProcess(node) => node.run(),
        Command::NodeBoot(node) => node.run(ui),
        Command::DemoProgram(program) => program.run(),
        Command::Man(man) => man.run(ui),
    }
}
