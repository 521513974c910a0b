//! `flocker logs`: what an application has printed.

use clap::Args;
use flocker_backends::LogRequest;
use flocker_model::ApplicationName;
use flocker_model::NodeName;
use flocker_plan::blocked::list;
use serde::Serialize;
use tokio::io::AsyncReadExt as _;

use crate::cli::Global;
use crate::cluster;
use crate::error::Ending;
use crate::error::Failure;
use crate::runtime;
use crate::shown;
use crate::ui::Ui;

/// Print what an application has printed, wherever it runs
///
/// The output is passed on byte for byte; with `--json`, one document to a line of it.
#[derive(Debug, Args)]
pub(crate) struct Logs {
    /// The application
    #[arg(value_name = "APP")]
    application: ApplicationName,
    /// Only the last so many lines
    #[arg(long, value_name = "N")]
    tail: Option<u32>,
    /// Go on with what is still to come
    #[arg(short, long)]
    follow: bool,
    /// On which node, where it runs on several
    #[arg(long, value_name = "NODE")]
    on: Option<NodeName>,
}

/// How long a line may be before it is printed in pieces.
const LONGEST_LINE: usize = 64 * 1024;

/// One line of the output. What is not UTF-8 in it is replaced.
#[derive(Serialize)]
struct Line<'a> {
    line: &'a str,
}

/// The last document.
#[derive(Serialize)]
struct End {
    result: &'static str,
    lines: u64,
}

/// Makes one document of each line.
#[derive(Debug, Default)]
struct Lines {
    begun: Vec<u8>,
    n_lines: u64,
}

impl Lines {
    fn take(&mut self, bytes: &[u8], ui: &Ui) -> Result<(), Failure> {
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            self.begun.extend_from_slice(piece);
            if self.begun.last() == Some(&b'\n') {
                self.begun.pop();
                self.print(ui)?;
            } else if self.begun.len() >= LONGEST_LINE {
                self.print(ui)?;
            }
        }
        Ok(())
    }

    fn print(&mut self, ui: &Ui) -> Result<(), Failure> {
        let line = std::mem::take(&mut self.begun);
        self.n_lines += 1;
        ui.line(&Line {
            line: &String::from_utf8_lossy(&line),
        })
    }

    fn end(mut self, ui: &Ui) -> Result<(), Failure> {
        if !self.begun.is_empty() {
            self.print(ui)?;
        }
        ui.line(&End {
            result: "complete",
            lines: self.n_lines,
        })
    }
}

impl Logs {
    pub(crate) fn run(self, global: &Global, ui: &Ui) -> Result<Ending, Failure> {
        runtime::block_on(async {
            let cluster = cluster::connect_all(global).await?;
            let node = match &self.on {
                Some(node) => node.clone(),
                None => self.home(&cluster.observe().await)?,
            };
            let request = LogRequest {
                tail: self.tail,
                follow: self.follow,
            };
            let stream = cluster.handle(&node)?.logs(&self.application, request).await;
            let mut stream = stream.map_err(|error| {
                Failure::failed(format!(
                    "could not read the output of `{}` on {node}",
                    self.application
                ))
                .because(&error)
                .hint(format!("`flocker why {node}` shows what is known of the node"))
            })?;
            let mut chunk = vec![0; 64 * 1024];
            let mut lines = Lines::default();
            loop {
                let read = tokio::select! {
                    read = stream.read(&mut chunk) => read,
                    _ = tokio::signal::ctrl_c() => Ok(0),
                };
                match read {
                    Ok(0) if ui.is_json() => {
                        lines.end(ui)?;
                        return Ok(Ending::Done);
                    }
                    Ok(0) => return Ok(Ending::Done),
                    Ok(n_bytes) if ui.is_json() => lines.take(&chunk[..n_bytes], ui)?,
                    Ok(n_bytes) if Ui::bytes(&chunk[..n_bytes]) => {}
                    // Nobody reads any more.
                    Ok(_) => return Ok(Ending::Done),
                    Err(error) => {
                        return Err(Failure::failed(format!(
                            "the output of `{}` on {node} broke off",
                            self.application
                        ))
                        .because(&error));
                    }
                }
            }
        })
    }

    /// Returns the one node that has the application; its output outlives the container, so one that had it will do.
    fn home(&self, actual: &flocker_model::ClusterState) -> Result<NodeName, Failure> {
        let has = actual
            .all_known()
            .filter(|(_, state)| state.containers.contains_key(&self.application));
        let nodes: Vec<NodeName> = has.map(|(node, _)| node.clone()).collect();
        match nodes.as_slice() {
            [only] => Ok(only.clone()),
            [] => {
                let unseen: Vec<NodeName> = shown::silent(actual)
                    .map(|(node, _)| node.clone())
                    .filter(|node| !actual.is_forgotten(node))
                    .collect();
                if !unseen.is_empty() {
                    let unseen = list(&unseen);
                    return Err(Failure::failed(format!(
                        "no node that was seen runs `{}`, and {unseen} was not seen",
                        self.application
                    ))
                    .hint("`flocker status` says why a node was not seen; `--on NODE` asks that one alone"));
                }
                Err(Failure::usage(format!("no seen node runs `{}`", self.application)).hint(
                    "`flocker status` shows what runs where; `--on NODE` prints what it printed there before it was stopped",
                ))
            }
            several => Err(
                Failure::usage(format!("`{}` runs on {}", self.application, list(several)))
                    .hint("`--on NODE` says which is meant"),
            ),
        }
    }
}
