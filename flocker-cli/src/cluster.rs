//! Which nodes are meant, and how to get at them.
//!
//! A name that is a local node's is that node, a process on this machine. Any
//! other is reached by SSH: at the address of the files, or by the name itself.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;

use flocker_backends::transport::ssh::NodeProgram;
use flocker_backends::transport::ssh::SshOptions;
use flocker_backends::transport::ssh::SshTransport;
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
use crate::real::Wanted;
use crate::real::Ways;
use crate::since;
use crate::since::Since;
use crate::state_file;
use crate::ui;

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
    addresses: BTreeMap<NodeName, NodeAddress>,
    ways: Arc<Ways>,
    /// Whether nobody is to be told what takes long.
    is_json: bool,
}

/// Gets at the nodes of a deployment.
pub(crate) async fn connect(desired: Deployment, global: &Global, start: Start) -> Result<Cluster, Failure> {
    let state_dir = global.state_dir();
    let known = match start {
        Start::Missing => local::ensure(&state_dir, desired.members().keys()).await?,
        Start::Nothing => local::known(&state_dir)?,
        Start::Unseen => with_those_that_are_gone(&desired, &state_dir)?,
    };
    let cluster = reached(desired, &known, global)?;
    cluster.ways().go_ahead().await;
    Ok(cluster)
}

/// Returns the local nodes, and where those of the files would be that are gone.
///
/// A name that says no address is taken for a local node's where all the others are local nodes; else it is a host.
fn with_those_that_are_gone(
    desired: &Deployment,
    state_dir: &Path,
) -> Result<BTreeMap<NodeName, NodeAddress>, Failure> {
    let mut known = local::known(state_dir)?;
    let members = desired.members().iter();
    let gone: Vec<&NodeName> = members
        .filter(|(name, member)| !known.contains_key(*name) && member.address.is_none())
        .map(|(name, _)| name)
        .collect();
    let n_local = desired
        .members()
        .keys()
        .filter(|name| known.contains_key(*name))
        .count();
    if n_local > 0 && n_local + gone.len() == desired.members().len() {
        for name in gone {
            known.insert(name.clone(), local::would_be_at(state_dir, name)?);
        }
    }
    Ok(known)
}

/// Gets at every local node and every node of the last deploy, for commands that need no files.
pub(crate) async fn connect_all(global: &Global) -> Result<Cluster, Failure> {
    let known = local::known(&global.state_dir())?;
    let members = match files::last_used(&global.state_dir())? {
        Some(paths) => files::read([&paths[0], &paths[1]])?.without_secrets()?,
        None => Deployment::default(),
    };
    let cluster = reached(nobody(&known, &members)?, &known, global)?;
    cluster.ways().go_ahead().await;
    Ok(cluster)
}

/// Names the nodes to look at closely; nothing is contacted yet.
pub(crate) fn connect_for_doctor(
    paths: Option<[&Path; 2]>,
    only: &[NodeName],
    global: &Global,
) -> Result<Cluster, Failure> {
    let known = local::known(&global.state_dir())?;
    let desired = match named(paths, global)? {
        Some(paths) => files::read([&paths[0], &paths[1]])?.without_secrets()?,
        None => Deployment::default(),
    };
    if only.is_empty() && desired.members().is_empty() {
        return reached(nobody(&known, &desired)?, &known, global);
    }
    let mut cluster = reached(desired, &known, global)?;
    for name in only {
        if !cluster.addresses.contains_key(name) {
            let address = by_name(name);
            drop(cluster.handles.reach(name, Some(&address)));
            cluster.addresses.insert(name.clone(), address);
        }
    }
    Ok(cluster)
}

/// Returns a deployment of no applications on these nodes.
fn nobody(known: &BTreeMap<NodeName, NodeAddress>, members: &Deployment) -> Result<Deployment, Failure> {
    if known.is_empty() && members.members().is_empty() {
        return Err(Failure::usage("there are no local nodes").hint(
            "`flocker local up NAME…` makes some; so does `flocker deploy --local` with the nodes of the files",
        ));
    }
    let empty = known.keys().map(|name| (name.clone(), Member::empty()));
    let listed = members.members().iter().map(|(name, member)| {
        let member = Member {
            applications: BTreeSet::new(),
            ..member.clone()
        };
        (name.clone(), member)
    });
    empty
        .chain(listed)
        .fold(Deployment::builder(), |builder, (name, member)| {
            builder.node(name, member)
        })
        .build()
        .map_err(|_| Failure::bug("nodes without applications exclude each other"))
}

/// Returns the files that were named, or those of the last deploy.
fn named(paths: Option<[&Path; 2]>, global: &Global) -> Result<Option<[PathBuf; 2]>, Failure> {
    match paths {
        Some(paths) => Ok(Some(paths.map(Path::to_path_buf))),
        None => files::last_used(&global.state_dir()),
    }
}

/// Gets at the nodes of the files, or of the files of the last deploy.
///
/// Where there are neither, the result has every local node and no files. Nodes of the files that do not exist are
/// silent, and secrets that cannot be fetched are withheld: who starts something fetches them all.
pub(crate) async fn connect_with(
    paths: Option<[&Path; 2]>,
    global: &Global,
) -> Result<(Cluster, Option<Configuration>), Failure> {
    match named(paths, global)? {
        Some(paths) => {
            let configuration = files::read([&paths[0], &paths[1]])?;
            let known = configuration.resolve_what_can_be()?;
            let mut cluster = connect(known.deployment, global, Start::Unseen).await?;
            cluster.withheld = known.applications;
            Ok((cluster, Some(configuration)))
        }
        None => Ok((connect_all(global).await?, None)),
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
    /// When nodes answered, where they were asked now.
    pub(crate) since: Since,
    /// The local nodes that were made. Nothing for a saved report: whether a node of it runs is not to be seen from here.
    pub(crate) local: Option<BTreeMap<NodeName, NodeAddress>>,
}

impl Sight {
    /// Returns how a node is reached: as the local node that it is, else as the files say.
    pub(crate) fn address(&self, node: &NodeName) -> Option<&NodeAddress> {
        let local = self.local.as_ref().and_then(|local| local.get(node));
        local.or_else(|| self.desired.members().get(node)?.address.as_ref())
    }
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
        let desired = match named(paths, global)? {
            Some(paths) => Some(files::read([&paths[0], &paths[1]])?.without_secrets()?),
            None => None,
        };
        let has_files = desired.is_some();
        let desired = desired.unwrap_or_default();
        let (actual, _) = state_file::read_all(reports, &desired)?;
        (desired, actual, has_files, Vec::new())
    };
    let since = if reports.is_empty() {
        since::note_answers(&global.state_dir(), &actual)
    } else {
        Since::default()
    };
    Ok(Sight {
        since,
        desired: at_next_generation(desired, &actual),
        actual,
        has_files,
        unknown,
        local: reports
            .is_empty()
            .then(|| local::known(&global.state_dir()))
            .transpose()?,
    })
}

fn by_name(name: &NodeName) -> NodeAddress {
    NodeAddress::Ssh {
        host: name.to_string(),
        user: None,
        port: None,
    }
}

fn reached(
    desired: Deployment,
    known: &BTreeMap<NodeName, NodeAddress>,
    global: &Global,
) -> Result<Cluster, Failure> {
    let mut addresses = BTreeMap::new();
    let mut wanted = BTreeMap::new();
    for (name, member) in desired.members() {
        // Local nodes go before what the files say.
        if let Some(local) = known.get(name) {
            addresses.insert(name.clone(), local.clone());
            continue;
        }
        let address = member.address.clone().unwrap_or_else(|| by_name(name));
        let say = Wanted {
            name: name.clone(),
            setup: member.setup.clone(),
        };
        wanted.insert(address.clone(), say);
        addresses.insert(name.clone(), address);
    }
    let ways = Arc::new(Ways::new(ssh(global)?, wanted));
    let handles = Handles::new(Arc::new(Elsewhere {
        transport: Arc::<Ways>::clone(&ways),
        deadlines: Deadlines::default(),
    }));
    // The first look at a handle settles its address.
    for (name, address) in known.iter().chain(&addresses) {
        let _handle = handles.reach(name, Some(address));
    }
    Ok(Cluster {
        desired,
        handles,
        looking: Looking {
            deadline: std::time::Duration::from_secs(15),
            known: BTreeMap::new(),
        },
        withheld: BTreeSet::new(),
        addresses,
        ways,
        is_json: global.json,
    })
}

/// Returns the way to real machines. Nothing is opened yet.
fn ssh(global: &Global) -> Result<SshTransport, Failure> {
    let mut options = SshOptions::new();
    options.environment = Global::environment_for_ssh();
    let absolute = |path: &Path| {
        std::path::absolute(path).map_err(|error| {
            Failure::usage(format!("`{}` is no path that can be used", path.display())).because(&error)
        })
    };
    options.configuration = global.ssh_config().as_deref().map(absolute).transpose()?;
    options.control_directory = Some(absolute(&global.state_dir())?.join("ssh"));
    Ok(SshTransport::new(options, NodeProgram::running()))
}

impl Cluster {
    /// Looks at all nodes.
    pub(crate) async fn observe(&self) -> ClusterState {
        let late = |nodes: Vec<NodeName>| {
            if !self.is_json {
                ui::aside(&awaited(&nodes, &self.addresses));
            }
        };
        let mut actual =
            flocker_engine::observe_telling(&self.desired, &self.handles, &self.looking, late).await;
        state_file::assume_definitions(&mut actual, &self.desired, &self.withheld);
        actual
    }

    /// Says how to make the silent nodes here, where the files name no other machine and none of them was made.
    pub(crate) fn hint_to_make(&self, actual: &ClusterState) -> Option<String> {
        let is_local = |name: &NodeName| matches!(self.addresses.get(name), Some(NodeAddress::Local { .. }));
        let others = self.desired.members().iter().filter(|(name, _)| !is_local(name));
        let mut unmade: Vec<&str> = Vec::new();
        for (name, member) in others {
            let is_address = member.address.is_some() || name.as_str().contains(['.', ':']);
            if is_address || actual.known(name).is_some() || actual.is_forgotten(name) {
                return None;
            }
            unmade.push(name.as_str());
        }
        (!unmade.is_empty()).then(|| {
            let names = unmade.join(" ");
            format!("`flocker local up {names}` makes what is to be a node on this machine and is none yet")
        })
    }

    /// Returns where the nodes of the files are.
    pub(crate) fn addresses(&self) -> BTreeMap<NodeName, NodeAddress> {
        self.addresses.clone()
    }

    /// Returns the ways to them.
    pub(crate) fn ways(&self) -> Arc<Ways> {
        Arc::clone(&self.ways)
    }

    /// Returns the handle of a node that was seen or named.
    pub(crate) fn handle(&self, node: &NodeName) -> Result<Arc<dyn NodeHandle>, Failure> {
        self.handles.get(node).ok_or_else(|| {
            Failure::usage(format!("there is no node `{node}`"))
                .hint("`flocker status` lists the nodes that there are")
        })
    }
}

/// Says for whose answers we wait, and what can be done about a process of this machine that gives none.
pub(crate) fn awaited(nodes: &[NodeName], addresses: &BTreeMap<NodeName, NodeAddress>) -> String {
    let lines = nodes.iter().map(|name| {
        let waiting = format!("waiting for an answer of {name}");
        let Some(NodeAddress::Local { directory }) = addresses.get(name) else {
            return waiting;
        };
        match hung(name, directory) {
            Some(hung) => format!("{waiting}: {hung}"),
            None => waiting,
        }
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// Says what can be done about a local node that gives no answer although its process is there.
pub(crate) fn hung(name: &NodeName, directory: &Path) -> Option<String> {
    let (process, pulse) = local::serving(directory)?;
    Some(match pulse {
        local::Pulse::Halted => {
            format!("its process {process} was halted by a signal; `kill -CONT {process}` lets it go on")
        }
        local::Pulse::Beats => format!(
            "its process {process} is there; if it hangs, `kill -KILL {process}` ends it, and `flocker local up {name}` starts it anew"
        ),
    })
}

/// Returns what to type, in this order, for a silent node to answer again or to say what is in its way.
pub(crate) fn way_out(name: &NodeName, address: Option<&NodeAddress>) -> Vec<String> {
    let up = format!("flocker local up {name}");
    match address {
        Some(NodeAddress::Local { directory }) => match local::serving(directory) {
            Some((process, local::Pulse::Halted)) => vec![format!("kill -CONT {process}")],
            Some((process, local::Pulse::Beats)) => vec![format!("kill -KILL {process}"), up],
            None => vec![up],
        },
        Some(NodeAddress::Ssh { .. }) | None => vec![format!("flocker doctor {name}")],
    }
}

/// Returns the deployment as the configuration that the next deploy would make of it: newer than all that was seen.
pub(crate) fn at_next_generation(desired: Deployment, actual: &ClusterState) -> Deployment {
    let seen = actual.all_known().map(|(_, state)| state.generation);
    let newest: Generation = seen.fold(desired.generation(), Ord::max);
    desired.at(newest.next())
}
