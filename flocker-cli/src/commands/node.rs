//! `flocker node`: a person has a machine made ready, declares a node lost for ever, or takes that back.

use std::collections::BTreeSet;

use clap::Args;
use clap::Subcommand;
use flocker_backends::Change;
use flocker_engine::NodeError;
use flocker_engine::one_line;
use flocker_model::ClusterState;
use flocker_model::NodeName;
use flocker_model::Observed;
use flocker_model::Role;
use flocker_model::Silence;
use serde::Serialize;

use crate::cli::Global;
use crate::cluster;
use crate::commands::prepare::Prepare;
use crate::error::Ending;
use crate::error::Failure;
use crate::runtime;
use crate::ui::Ui;

/// Make machines ready to be nodes; declare one lost for ever, or take that back
#[derive(Debug, Args)]
pub(crate) struct Node {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    Prepare(Prepare),
    /// Declare a node lost for ever: plans no longer wait to see it, and what it held is taken as gone
    ///
    /// Where another machine answers under its name by now, that one takes its place.
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
        let (verb, name, is_forgetting) = match self.verb {
            Verb::Prepare(prepare) => return prepare.run(global, ui),
            Verb::Forget { name } => ("forget", name, true),
            Verb::Remember { name } => ("remember", name, false),
        };
        let name = &name;
        let (told, is_replaced, beware) = runtime::block_on(async {
            let cluster = cluster::connect_all(global).await?;
            let actual = cluster.observe().await;
            if !is_spoken_of(name, &actual) {
                return Err(Failure::usage(format!("there is no node `{name}`"))
                    .hint("`flocker status` lists the nodes that there are"));
            }
            if is_forgetting && actual.known(name).is_some() {
                return Err(
                    Failure::usage(format!("{name} answers, and is not lost; nothing was changed"))
                        .hint("take it out of the deployment file to move everything away from it"),
                );
            }
            let mut listeners: BTreeSet<&NodeName> = actual.all_known().map(|(node, _)| node).collect();
            // Where another machine answers, the one that is remembered is lost, and this one takes its place.
            let instead = match actual.nodes.get(name) {
                Some(Observed::Unknown(Silence::Impostor { found, remembered })) if is_forgetting => {
                    listeners.extend(remembered.keys());
                    Some(*found)
                }
                Some(_) | None => None,
            };
            listeners.remove(name);
            let mut told = Vec::new();
            for node in listeners {
                let handle = cluster.handle(node)?;
                let answer = if is_forgetting {
                    handle.forget(name, instead).await
                } else {
                    handle.remember(name).await
                };
                told.push((node.clone(), answer));
            }
            let beware = cluster.comes_back_by_itself(name);
            Ok((told, instead.is_some(), beware.filter(|_| is_forgetting)))
        })?;
        if told.is_empty() {
            return Err(
                Failure::failed(format!("no node answers, so none could be told to {verb} {name}"))
                    .hint("`flocker local up` starts local nodes that have stopped"),
            );
        }
        let has_failed = told.iter().any(|(_, answer)| answer.is_err());
        tell(verb, name, told, ui)?;
        if let Some(beware) = beware {
            ui.warn(&beware);
        }
        if is_replaced && !has_failed && !ui.is_json() {
            ui.hint(&format!(
                "{name} is the machine that answers by now; `flocker status` shows what is to be done"
            ));
        }
        Ok(if has_failed { Ending::Blocked } else { Ending::Done })
    }
}

/// Says whether any seen node speaks of another: to ask it, to have forgotten it, or to have let go to it.
fn is_spoken_of(name: &NodeName, actual: &ClusterState) -> bool {
    let is_taker = |role: &Role| matches!(role, Role::Released { to, .. } if to == name);
    actual.nodes.contains_key(name)
        || actual.all_known().any(|(_, state)| {
            state.forgotten.contains_key(name) || state.datasets.values().any(|copy| is_taker(&copy.role))
        })
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
