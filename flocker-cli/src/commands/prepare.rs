//! `flocker node prepare`: makes machines ready to be nodes.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use flocker_engine::clock;
use flocker_engine::one_line;
use flocker_model::NodeAddress;
use flocker_model::NodeName;
use flocker_model::PoolName;
use serde::Serialize;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::checkup::write_line;
use crate::cli::FilesOption;
use crate::cli::Global;
use crate::cluster;
use crate::cluster::Cluster;
use crate::deploy::nobody_to_ask;
use crate::error::Ending;
use crate::error::Failure;
use crate::real::AskedToPrepare;
use crate::real::Deed;
use crate::real::NewPool;
use crate::real::Progress;
use crate::real::State;
use crate::runtime;
use crate::ui::Ui;

/// Make machines ready to be nodes: tools, pool, Docker, forwarding
///
/// Looks at what each has, shows what would be done, asks, and does it. Done twice, the second time does nothing.
/// Packages are installed only with `--install`, and a device on which anything is found is never touched.
#[derive(Debug, Args)]
pub(super) struct Prepare {
    /// The machines; one that the files do not name is reached by its name
    #[arg(value_name = "NODE", required = true)]
    nodes: Vec<NodeName>,
    #[command(flatten)]
    files: FilesOption,
    /// Only show what would be done
    #[arg(long, conflicts_with = "yes")]
    plan: bool,
    /// Do not ask
    #[arg(short, long)]
    yes: bool,
    /// Install missing packages, with `apt-get`
    #[arg(long)]
    install: bool,
    /// Make this ZFS pool where there is none, of the devices that `--device` names
    #[arg(long, value_name = "NAME", requires = "device")]
    pool: Option<PoolName>,
    /// A device, or a file, that holds nothing; several make one pool
    #[arg(long, value_name = "PATH", requires = "pool")]
    device: Vec<PathBuf>,
}

#[derive(Serialize)]
struct Body {
    nodes: Vec<Prepared>,
}

#[derive(Serialize)]
struct Prepared {
    node: NodeName,
    /// Whether it can be a node now.
    ready: bool,
    deeds: Vec<Deed>,
}

impl Prepare {
    pub(super) fn run(self, global: &Global, ui: &Ui) -> Result<Ending, Failure> {
        if !self.plan && !self.yes && !ui.can_ask() {
            return Err(nobody_to_ask());
        }
        runtime::block_on(async {
            let cluster = cluster::connect_for_doctor(self.files.paths(), &self.nodes, global)?;
            let mut body = self.all(&cluster, false, ui).await?;
            let has_work = body.has(State::Planned);
            let goes = has_work && !self.plan && {
                if !ui.is_json() {
                    ui.say(body.text().trim_end());
                }
                self.yes || ui.confirm("do this?")
            };
            if goes {
                body = self.all(&cluster, true, ui).await?;
            }
            if ui.is_json() {
                ui.document(&body)?;
            } else {
                ui.data(&body.text());
            }
            let is_blocked = body.has(State::Refused) || body.has(State::Failed);
            let is_declined = has_work && !self.plan && !goes;
            Ok(if is_blocked || is_declined {
                Ending::Blocked
            } else {
                Ending::Done
            })
        })
    }

    /// Goes to all machines at the same time.
    async fn all(&self, cluster: &Cluster, go: bool, ui: &Ui) -> Result<Body, Failure> {
        let asked = AskedToPrepare {
            go,
            install: self.install,
            pool: self.pool.clone().map(|name| NewPool {
                name,
                devices: self.device.clone(),
            }),
        };
        let mut looks = JoinSet::new();
        for (name, address) in cluster.addresses() {
            if !self.nodes.contains(&name) {
                continue;
            }
            match &address {
                NodeAddress::Ssh { .. } => {}
                NodeAddress::Local { .. } => {
                    return Err(
                        Failure::usage(format!("{name} is a local node, and needs nothing"))
                            .hint("`flocker local status` lists the local nodes"),
                    );
                }
            }
            let (ways, asked) = (cluster.ways(), asked.clone());
            let mut talk = Talk::new(&name, ui);
            looks.spawn(async move {
                let deeds = match ways
                    .prepare(&address, &asked, |progress| talk.tell(progress))
                    .await
                {
                    Ok(deeds) => deeds,
                    Err(error) => {
                        let goes_on = || "what was begun there goes on; ask again".to_owned();
                        vec![Deed {
                            subject: "ssh".into(),
                            state: State::Failed,
                            said: one_line(&error),
                            command: Vec::new(),
                            hint: error.hint().or_else(|| talk.has_begun().then(goes_on)),
                        }]
                    }
                };
                (name, deeds)
            });
        }
        let mut found: BTreeMap<NodeName, Vec<Deed>> = BTreeMap::new();
        while let Some(look) = looks.join_next().await {
            found.extend(look.ok());
        }
        let nodes = found.into_iter().map(|(node, deeds)| Prepared {
            ready: deeds.iter().all(|deed| !deed.is_open()),
            node,
            deeds,
        });
        Ok(Body {
            nodes: nodes.collect(),
        })
    }
}

/// Where nobody sees a line that is written over and over, another one is said this often.
const BETWEEN_LINES: Duration = Duration::from_secs(10);

/// Tells a person how far a machine is.
struct Talk {
    node: NodeName,
    ui: Ui,
    began: Instant,
    /// When a line was last said.
    told: Option<Instant>,
}

impl Talk {
    fn new(node: &NodeName, ui: &Ui) -> Self {
        Self {
            node: node.clone(),
            ui: ui.clone(),
            began: clock::now(),
            told: None,
        }
    }

    fn tell(&mut self, progress: &Progress) {
        let Progress { subject, said } = progress;
        let now = clock::now();
        let is_due = self.told.is_none_or(|told| now - told >= BETWEEN_LINES);
        if is_due {
            self.told = Some(now);
        }
        if self.ui.is_json() {
            return;
        }
        let seconds = (now - self.began).as_secs();
        let line = format!("{} {subject}: {said} ({seconds} s)", self.node);
        if Ui::is_live() {
            self.ui.status(&line);
        } else if is_due {
            self.ui.say(&line);
        }
    }

    fn has_begun(&self) -> bool {
        self.told.is_some()
    }
}

impl Body {
    fn has(&self, state: State) -> bool {
        let mut deeds = self.nodes.iter().flat_map(|node| &node.deeds);
        deeds.any(|deed| deed.state == state)
    }

    fn text(&self) -> String {
        let mut text = String::new();
        let deeds = self.nodes.iter().flat_map(|node| &node.deeds);
        let width = deeds.map(|deed| deed.subject.len()).max().unwrap_or(0);
        for Prepared { node, ready, deeds } in &self.nodes {
            let verdict = if *ready { "ready" } else { "not ready" };
            // Writing to a string cannot fail.
            let _ = writeln!(text, "{node}: {verdict}");
            for Deed {
                subject,
                state,
                said,
                command,
                hint,
            } in deeds
            {
                let mark = match state {
                    State::AlreadySo => "ok",
                    State::Planned => "to do",
                    State::Done => "done",
                    State::Refused => "refused",
                    State::Failed => "failed",
                };
                write_line(&mut text, mark, (subject, width), said);
                if !command.is_empty() {
                    write_line(
                        &mut text,
                        "",
                        ("", width),
                        &format!("runs: {}", command.join(" ")),
                    );
                }
                if let Some(hint) = hint {
                    write_line(&mut text, "", ("", width), &format!("hint: {hint}"));
                }
            }
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_deed_is_a_line_with_what_it_runs() {
        let deed = |subject: &str, state, said: &str| Deed {
            subject: subject.into(),
            state,
            said: said.into(),
            command: Vec::new(),
            hint: None,
        };
        let mut pool = deed("pool", State::Planned, "pool `tank` of /dev/vdb");
        pool.command = ["zpool", "create", "tank", "/dev/vdb"].map(str::to_owned).into();
        let body = Body {
            nodes: vec![Prepared {
                node: "alpha".parse().unwrap(),
                ready: false,
                deeds: vec![deed("docker", State::AlreadySo, "version 20"), pool],
            }],
        };
        assert!(body.has(State::Planned) && !body.has(State::Failed));
        assert_eq!(
            body.text(),
            "alpha: not ready\n  ok       docker  version 20\n  to do    pool    pool `tank` of /dev/vdb\n\
             \x20                  runs: zpool create tank /dev/vdb\n"
        );
    }
}
