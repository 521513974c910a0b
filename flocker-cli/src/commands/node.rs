//! `flocker node`: a person declares a node lost for ever, or takes that back.

use clap::Args;
use clap::Subcommand;
use flocker_backends::Change;
use flocker_engine::NodeError;
use flocker_engine::one_line;
use flocker_model::NodeName;
use serde::Serialize;

use crate::cli::Global;
use crate::cluster;
use crate::error::Ending;
use crate::error::Failure;
use crate::runtime;
use crate::ui::Ui;

/// Declare a node lost for ever, or take that back
#[derive(Debug, Args)]
pub(crate) struct Node {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Declare a node lost for ever: plans no longer wait to see it, and what it held is taken as gone
    Forget {
        /// The node
        name: NodeName,
    },
    /// Take that back: the node counts again
    Remember {
        /// The node
        name: NodeName,
    },
}

#[derive(Serialize)]
struct Told {
    node: NodeName,
    change: Option<Change>,
    error: Option<String>,
}

#[derive(Serialize)]
struct Body<'a> {
    verb: &'a str,
    name: &'a NodeName,
    told: Vec<Told>,
}

impl Node {
    pub(crate) fn run(self, global: &Global, ui: &Ui) -> Result<Ending, Failure> {
        let (verb, name) = match &self.verb {
            Verb::Forget { name } => ("forget", name),
            Verb::Remember { name } => ("remember", name),
        };
        let told = runtime::block_on(async {
            let cluster = cluster::connect_all(global).await?;
            let actual = cluster.observe().await;
            let is_forgetting = matches!(self.verb, Verb::Forget { .. });
            if is_forgetting && actual.known(name).is_some() {
                return Err(
                    Failure::usage(format!("{name} answers, and is not lost; nothing was changed"))
                        .hint("take it out of the deployment file to move everything away from it"),
                );
            }
            let mut told = Vec::new();
            for (node, _) in actual.all_known() {
                let handle = cluster.handle(node)?;
                let answer = if is_forgetting {
                    handle.forget(name).await
                } else {
                    handle.remember(name).await
                };
                told.push((node.clone(), answer));
            }
            Ok(told)
        })?;
        if told.is_empty() {
            return Err(
                Failure::failed(format!("no node answers, so none could be told to {verb} {name}"))
                    .hint("`flocker local up` starts local nodes that have stopped"),
            );
        }
        let has_failed = told.iter().any(|(_, answer)| answer.is_err());
        tell(verb, name, told, ui)?;
        Ok(if has_failed { Ending::Blocked } else { Ending::Done })
    }
}

fn tell(
    verb: &str,
    name: &NodeName,
    told: Vec<(NodeName, Result<Change, NodeError>)>,
    ui: &Ui,
) -> Result<(), Failure> {
    if ui.is_json() {
        let told = told.into_iter().map(|(node, answer)| Told {
            node,
            change: answer.as_ref().ok().copied(),
            error: answer.as_ref().err().map(|error| one_line(error)),
        });
        return ui.document(&Body {
            verb,
            name,
            told: told.collect(),
        });
    }
    let past = if verb == "forget" {
        "takes it as lost for ever"
    } else {
        "counts it again"
    };
    for (node, answer) in told {
        match answer {
            Ok(Change::Made) => ui.say(&format!("{node} {past}: {name}")),
            Ok(Change::AlreadySo) => ui.say(&format!("{node} {past} already: {name}")),
            Err(error) => ui.warn(&format!("{node} could not be told: {}", one_line(&error))),
        }
    }
    Ok(())
}
