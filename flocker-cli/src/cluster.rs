//! Which nodes are meant, and how to get at them.
//!
//! In this version every node is a local one: a process on this machine. A
//! name that is none is refused here, before anything is contacted.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;

use flocker_engine::Deadlines;
use flocker_engine::Elsewhere;
use flocker_engine::Handles;
use flocker_engine::Looking;
use flocker_engine::NodeHandle;
use flocker_model::ApplicationName;
use flocker_model::ClusterState;
use flocker_model::Deployment;
use flocker_model::Generation;
use flocker_model::Member;
use flocker_model::NodeAddress;
use flocker_model::NodeName;

use crate::cli::Global;
use crate::error::Failure;
use crate::files;
use crate::files::Configuration;
use crate::local;
use crate::state_file;

/// What to do about nodes of the files that do not exist.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Start {
    /// Say so.
    Nothing,
    /// Go on without them: they are silent.
    Unseen,
    /// Make and start them, on this machine.
    Missing,
}

/// The nodes that are meant, and what they are to be.
#[derive(Debug)]
pub(crate) struct Cluster {
    pub(crate) desired: Deployment,
    pub(crate) handles: Handles,
    looking: Looking,
    /// The applications of which a secret could not be fetched, and so is taken to be what it was.
    withheld: BTreeSet<ApplicationName>,
}

/// Gets at the nodes of a deployment.
pub(crate) async fn connect(desired: Deployment, global: &Global, start: Start) -> Result<Cluster, Failure> {
    let state_dir = global.state_dir();
    let mut known = local::known(&state_dir)?;
    let missing: Vec<NodeName> = desired
        .members()
        .keys()
        .filter(|name| !known.contains_key(*name))
        .cloned()
        .collect();
    match start {
        Start::Missing => known = local::ensure(&state_dir, desired.members().keys()).await?,
        Start::Unseen => {
            for name in &missing {
                let member = desired.members().get(name);
                if member.is_none_or(|member| member.address.is_none()) {
                    known.insert(name.clone(), local::would_be_at(&state_dir, name)?);
                }
            }
        }
        Start::Nothing if missing.is_empty() => {}
        Start::Nothing => return Err(not_local(&desired, &missing)),
    }
    Ok(reached(desired, &known))
}

/// Gets at every local node that there is, for commands that need no files.
pub(crate) fn connect_all(global: &Global) -> Result<Cluster, Failure> {
    let known = all(&global.state_dir())?;
    let nodes = known.keys().fold(Deployment::builder(), |builder, name| {
        builder.node(name.clone(), Member::empty())
    });
    let nobody = nodes
        .build()
        .map_err(|_| Failure::bug("local nodes exclude each other"))?;
    Ok(reached(nobody, &known))
}

/// Returns the files that were named, or those of the last deploy.
fn named(paths: Option<[&Path; 2]>, global: &Global) -> Option<[PathBuf; 2]> {
    let named = paths.map(|paths| paths.map(Path::to_path_buf));
    named.or_else(|| files::last_used(&global.state_dir()))
}

/// Gets at the nodes of the files, or of the files of the last deploy.
///
/// Where there are neither, the result has every local node and no files. Nodes of the files that do not exist are
/// silent, and secrets that cannot be fetched are withheld: who starts something fetches them all.
pub(crate) async fn connect_with(
    paths: Option<[&Path; 2]>,
    global: &Global,
) -> Result<(Cluster, Option<Configuration>), Failure> {
    match named(paths, global) {
        Some(paths) => {
            let configuration = files::read([&paths[0], &paths[1]])?;
            let known = configuration.resolve_what_can_be()?;
            let mut cluster = connect(known.deployment, global, Start::Unseen).await?;
            cluster.withheld = known.applications;
            Ok((cluster, Some(configuration)))
        }
        None => Ok((connect_all(global)?, None)),
    }
}

/// What is wanted and what is there, for commands that change nothing.
#[derive(Debug)]
pub(crate) struct Sight {
    /// As the configuration that the next deploy would make of it; empty where there are no files.
    pub(crate) desired: Deployment,
    pub(crate) actual: ClusterState,
    pub(crate) has_files: bool,
    /// What could not be told, a sentence for each.
    pub(crate) unknown: Vec<String>,
}

/// Looks at the nodes, or into reports of them that were saved.
pub(crate) fn sight(
    paths: Option<[&Path; 2]>,
    reports: &[PathBuf],
    global: &Global,
) -> Result<Sight, Failure> {
    let (desired, actual, has_files, unknown) = if reports.is_empty() {
        crate::runtime::block_on(async {
            let (cluster, files) = connect_with(paths, global).await?;
            let actual = cluster.observe().await;
            let unknown = match &files {
                Some(files) => files.resolve_what_can_be()?.withheld,
                None => Vec::new(),
            };
            Ok((cluster.desired, actual, files.is_some(), unknown))
        })?
    } else {
        let desired = match named(paths, global) {
            Some(paths) => Some(files::read([&paths[0], &paths[1]])?.without_secrets()?),
            None => None,
        };
        let has_files = desired.is_some();
        let desired = desired.unwrap_or_default();
        let (actual, _) = state_file::read_all(reports, &desired)?;
        (desired, actual, has_files, Vec::new())
    };
    Ok(Sight {
        desired: at_next_generation(desired, &actual),
        actual,
        has_files,
        unknown,
    })
}

fn all(state_dir: &Path) -> Result<BTreeMap<NodeName, NodeAddress>, Failure> {
    let known = local::known(state_dir)?;
    if known.is_empty() {
        return Err(Failure::usage("there are no local nodes").hint(
            "`flocker local up NAME…` makes some; so does `flocker deploy --local` with the nodes of the files",
        ));
    }
    Ok(known)
}

fn reached(desired: Deployment, known: &BTreeMap<NodeName, NodeAddress>) -> Cluster {
    let elsewhere = Elsewhere {
        transport: local::transport(),
        deadlines: Deadlines::default(),
    };
    let handles = Handles::new(Arc::new(elsewhere));
    for (name, address) in known {
        // The first look at a handle settles its address: local nodes go before what the files say.
        let _handle = handles.reach(name, Some(address));
    }
    Cluster {
        desired,
        handles,
        looking: Looking {
            deadline: std::time::Duration::from_secs(15),
            known: BTreeMap::new(),
        },
        withheld: BTreeSet::new(),
    }
}

fn not_local(desired: &Deployment, missing: &[NodeName]) -> Failure {
    let names = flocker_plan::blocked::list(missing);
    let first = missing.first().map_or("NODE", NodeName::as_str);
    let by_ssh = missing.iter().find_map(|name| match desired.members().get(name) {
        Some(Member {
            address: Some(NodeAddress::Ssh { host, .. }),
            ..
        }) => Some(host.as_str()),
        Some(_) | None => None,
    });
    let (verb, them) = if missing.len() == 1 {
        ("is not a local node", "it")
    } else {
        ("are no local nodes", "them")
    };
    let why = match by_ssh {
        Some(host) => {
            format!("this version reaches no node by SSH, as the deployment file asks for `{host}`")
        }
        None => "this version reaches only nodes on this machine".into(),
    };
    let mut failure = Failure::usage(format!("cannot reach {names}: {first} {verb}"));
    if missing.len() > 1 {
        failure.message = format!("cannot reach {names}: they {verb}");
    }
    failure.causes.push(why);
    failure.hint(format!(
        "`flocker deploy --local` makes {them} on this machine, to try the files out; `flocker local up {first}` makes one by hand"
    ))
}

impl Cluster {
    /// Looks at all nodes.
    pub(crate) async fn observe(&self) -> ClusterState {
        let mut actual = flocker_engine::observe(&self.desired, &self.handles, &self.looking).await;
        state_file::assume_definitions(&mut actual, &self.desired, &self.withheld);
        actual
    }

    /// Returns the handle of a node that was seen or named.
    pub(crate) fn handle(&self, node: &NodeName) -> Result<Arc<dyn NodeHandle>, Failure> {
        self.handles.get(node).ok_or_else(|| {
            Failure::usage(format!("there is no node `{node}`"))
                .hint("`flocker status` lists the nodes that there are")
        })
    }
}

/// Returns the deployment as the configuration that the next deploy would make of it: newer than all that was seen.
pub(crate) fn at_next_generation(desired: Deployment, actual: &ClusterState) -> Deployment {
    let seen = actual.all_known().map(|(_, state)| state.generation);
    let newest: Generation = seen.fold(desired.generation(), Ord::max);
    desired.at(newest.next())
}
