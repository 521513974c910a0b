//! Where the demonstration happens: a directory for the time being, with three nodes in it.

use std::fs::File;
use std::net::Ipv4Addr;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use flocker_engine::Answer;
use flocker_engine::Confirm;
use flocker_engine::Deadlines;
use flocker_engine::Elsewhere;
use flocker_engine::End;
use flocker_engine::Handles;
use flocker_engine::Listener;
use flocker_engine::Outcome;
use flocker_engine::PushOptions;
use flocker_engine::Stop;
use flocker_engine::clock;
use flocker_engine::one_line;
use flocker_engine::push;
use flocker_model::ClusterState;
use flocker_model::DatasetId;
use flocker_model::Deployment;
use flocker_model::NodeName;
use flocker_plan::Plan;
use flocker_plan::Policy;
use tempfile::TempDir;

use crate::cli;
use crate::error::Failure;
use crate::local;
use crate::local::Data;
use crate::local::Place;

pub(super) const NODES: [&str; 3] = ["alpha", "beta", "gamma"];

/// What the directory of a demonstration begins with.
const PREFIX: &str = "flocker-demo-";

/// The file that whoever demonstrates keeps locked for as long as he lives.
const OWNER: &str = "owner.lock";

/// A directory with nodes. Strike it when everything is over; dropped before that, the nodes run on, and the next
/// demonstration ends them.
#[derive(Debug)]
pub(super) struct Stage {
    directory: TempDir,
    names: Vec<NodeName>,
    /// Says that we live: the lock ends with us, whatever we die of.
    owner: File,
}

/// Shows the first plan of a push before it is carried out.
pub(super) struct Show<'a> {
    pub(super) desired: &'a Deployment,
    pub(super) show: &'a (dyn Fn(&str) + Send + Sync),
}

#[async_trait]
impl Confirm for Show<'_> {
    async fn confirm(&self, plan: &Plan, actual: &ClusterState) -> Answer {
        let estimate = flocker_plan::estimate(plan, actual, &Policy::default());
        (self.show)(&flocker_plan::render::text(plan, self.desired, &estimate));
        Answer::Go
    }
}

impl Stage {
    /// Makes the directory, and nothing that runs.
    pub(super) fn new() -> Result<Self, Failure> {
        let failed = || Failure::failed("could not make a directory for the demonstration");
        let directory = tempfile::Builder::new().prefix(PREFIX).tempdir();
        let directory = directory.map_err(|error| failed().because(&error))?;
        let owner = claim(directory.path()).map_err(|error| failed().because(&error))?;
        // A name without special characters, wherever our program lies.
        let own = std::env::current_exe().map_err(|error| failed().because(&error))?;
        let link = directory.path().join("flocker");
        std::os::unix::fs::symlink(own, link).map_err(|error| failed().because(&error))?;
        let names = NODES.iter().map(|name| name.parse());
        let names = names
            .collect::<Result<_, _>>()
            .map_err(|error| failed().because(&error))?;
        Ok(Self {
            directory,
            names,
            owner,
        })
    }

    /// Ends and removes what demonstrations have left that were killed. Returns their directories.
    pub(super) async fn clear() -> Vec<Result<PathBuf, Failure>> {
        let mut cleared = Vec::new();
        for directory in abandoned(&std::env::temp_dir()) {
            cleared.push(clear(&directory).await.map(|()| directory));
        }
        cleared
    }

    pub(super) fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Returns the path by which our program is run as an application.
    pub(super) fn program(&self) -> PathBuf {
        self.directory().join("flocker")
    }

    /// Starts the nodes. It must not be dropped half way: a node that has just begun to start would be overlooked.
    pub(super) async fn set(&self) -> Result<Vec<Place>, Failure> {
        let up = local::up(self.directory(), &self.names, local::FIRST).await?;
        Ok(up.into_iter().map(|up| up.place).collect())
    }

    fn place(&self, node: &str) -> Result<Place, Failure> {
        let place = match node.parse() {
            Ok(name) => local::place(self.directory(), &name)?,
            Err(_) => None,
        };
        place.ok_or_else(|| Failure::bug(format!("there is no node {node} in the demonstration")))
    }

    pub(super) fn address(&self, node: &str) -> Result<Ipv4Addr, Failure> {
        Ok(self.place(node)?.address)
    }

    /// Returns where the data of an application is on a node.
    pub(super) fn data(&self, node: &str, dataset: DatasetId) -> Result<PathBuf, Failure> {
        let volumes = self.place(node)?.volumes();
        Ok(volumes.join("datasets").join(dataset.to_string()).join("data"))
    }

    /// Brings the nodes to what is desired, as `flocker deploy` does.
    pub(super) async fn deploy(
        &self,
        desired: &Deployment,
        show: &(dyn Fn(&str) + Send + Sync),
        listener: Arc<dyn Listener>,
    ) -> Result<Outcome, Failure> {
        let handles = Handles::new(Arc::new(Elsewhere {
            transport: local::transport(),
            deadlines: Deadlines::default(),
        }));
        for (name, address) in local::known(self.directory())? {
            drop(handles.reach(&name, Some(&address)));
        }
        let holder = format!("{} (flocker demo)", cli::person());
        let options = PushOptions::new(holder, clock::time_of_day(), Stop::never());
        let confirm = Show { desired, show };
        let outcome = push(
            desired,
            &handles,
            &Policy::default(),
            &options,
            &confirm,
            listener,
        )
        .await;
        let outcome = outcome
            .map_err(|error| Failure::failed("the demonstration could not be deployed").because(&error))?;
        match &outcome.end {
            End::Settled if outcome.rolled_back.is_empty() => Ok(outcome),
            end @ (End::Settled | End::Partly { .. } | End::Interrupted { .. } | End::Declined) => {
                Err(unsettled(end, &outcome))
            }
        }
    }

    /// Ends everything and removes the directory, or leaves it where that is wanted.
    pub(super) async fn strike(self, keep: bool) -> Result<Option<PathBuf>, Failure> {
        let made: Vec<NodeName> = local::known(self.directory())?.into_keys().collect();
        let down = local::down(self.directory(), &made, Data::Keep).await;
        if keep || down.is_err() {
            // It is somebody's from now on, and no next demonstration clears it.
            drop(std::fs::remove_file(self.directory().join(OWNER)));
            let kept = self.directory.keep();
            let path = kept.display();
            let again = format!(
                "`flocker --state-dir {path} local down --delete-data` ends and removes what is left"
            );
            return down
                .map(|_| Some(kept.clone()))
                .map_err(|failure| failure.hint(again));
        }
        let path = self.directory().display().to_string();
        let closed = self.directory.close();
        drop(self.owner);
        closed.map_err(|error| Failure::failed(format!("could not remove `{path}`")).because(&error))?;
        Ok(None)
    }
}

/// Makes a directory ours for as long as we live.
fn claim(directory: &Path) -> std::io::Result<File> {
    // It gets its name only with its lock, so that nobody ever finds it free.
    let new = directory.join("owner.new");
    let file = File::create_new(&new)?;
    file.lock()?;
    std::fs::rename(new, directory.join(OWNER))?;
    Ok(file)
}

/// Returns the directories of demonstrations of ours whose owner is gone.
fn abandoned(temporary: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(temporary) else {
        return Vec::new();
    };
    let is_abandoned = |path: &Path| -> std::io::Result<bool> {
        let found = std::fs::symlink_metadata(path)?;
        if !found.is_dir() || found.uid() != rustix::process::geteuid().as_raw() {
            return Ok(false);
        }
        Ok(File::open(path.join(OWNER))?.try_lock().is_ok())
    };
    let named = entries.flatten().filter(|entry| {
        let name = entry.file_name();
        name.to_str().is_some_and(|name| name.starts_with(PREFIX))
    });
    let paths = named.map(|entry| entry.path());
    paths.filter(|path| is_abandoned(path).unwrap_or(false)).collect()
}

async fn clear(directory: &Path) -> Result<(), Failure> {
    let made: Vec<NodeName> = local::known(directory)?.into_keys().collect();
    local::down(directory, &made, Data::Delete).await?;
    std::fs::remove_dir_all(directory).map_err(|error| {
        Failure::failed(format!("could not remove `{}`", directory.display())).because(&error)
    })
}

fn unsettled(end: &End, outcome: &Outcome) -> Failure {
    let mut failure = Failure::failed("the demonstration did not come to rest");
    if let End::Partly {
        waiting,
        refused,
        failed,
    } = end
    {
        failure.causes.extend(waiting.iter().map(ToString::to_string));
        failure.causes.extend(refused.iter().map(ToString::to_string));
        let failed = failed
            .iter()
            .map(|(step, error)| format!("{step}: {}", one_line(error)));
        failure.causes.extend(failed);
    }
    for back in &outcome.rolled_back {
        failure.causes.push(format!(
            "{} was rolled back: {}",
            back.application,
            back.cause_text()
        ));
    }
    failure
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_nobody_owns_any_more_is_abandoned() {
        let temporary = tempfile::tempdir().unwrap();
        let [dead, alive, kept, other] = ["flocker-demo-1", "flocker-demo-2", "flocker-demo-3", "other"]
            .map(|name| temporary.path().join(name));
        for directory in [&dead, &alive, &kept, &other] {
            std::fs::create_dir(directory).unwrap();
        }
        drop(claim(&dead).unwrap());
        drop(claim(&other).unwrap());
        let _owner = claim(&alive).unwrap();
        assert_eq!(abandoned(temporary.path()), [dead]);
    }
}
