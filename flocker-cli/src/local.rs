//! Nodes on this machine: each a directory, an address and a process in the background.
//!
//! They need no root, no containers and no network, and are nodes like any
//! others: the same planner, the same protocol, real programs and real files.

mod address;
mod live;
mod log;
mod place;
mod ports;
mod serve;

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use flocker_backends::ContainerRuntime as _;
use flocker_backends::Transport;
use flocker_backends::VolumeBackend as _;
use flocker_backends::runtime::process::ProcessRuntime;
use flocker_backends::transport::local::LocalTransport;
use flocker_backends::transport::local::serving_process;
use flocker_engine::Deadlines;
use flocker_engine::NodeError;
use flocker_engine::NodeHandle as _;
use flocker_engine::RemoteNode;
use flocker_model::ApplicationName;
use flocker_model::ByteSize;
use flocker_model::ContainerState;
use flocker_model::NodeAddress;
use flocker_model::NodeName;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::error::Failure;
use place::Root;

pub(crate) use address::FIRST;
pub(crate) use live::Live;
pub(crate) use live::Pulse;
pub(crate) use log::NodeLog;
pub(crate) use log::open as open_log;
pub(crate) use place::Place;
pub(crate) use ports::Listening;
pub(crate) use ports::SOCKET_TABLES;
pub(crate) use ports::listening_at;
pub(crate) use serve::LAST_ORDERS;
pub(crate) use serve::Serving;
pub(crate) use serve::environment;
pub(crate) use serve::finish;
pub(crate) use serve::in_time;
pub(crate) use serve::note;
pub(crate) use serve::serve;

/// How long a node may take until it answers for the first time.
const UNTIL_IT_ANSWERS: Duration = Duration::from_secs(15);

/// How long a node may take to answer whether it is there.
const ANSWER: Duration = Duration::from_secs(2);

/// How long a node may take to end before it is killed.
const UNTIL_IT_ENDS: Duration = Duration::from_secs(10);

/// How long the process that was a node before may take to vanish, its last orders included.
const LAST_BREATH: Duration = Duration::from_secs(4);

/// How often it is looked again while somebody waits.
const LOOK_INTERVAL: Duration = Duration::from_millis(10);

/// Returns the local nodes that were made, whether they run or not, and how to reach each.
pub(crate) fn known(state_dir: &Path) -> Result<BTreeMap<NodeName, NodeAddress>, Failure> {
    let places = Root::of(state_dir)?.places()?;
    Ok(places
        .into_iter()
        .map(|place| (place.name.clone(), place.reached_at()))
        .collect())
}

/// Sees to it that these nodes exist and answer, and returns all that there are.
pub(crate) async fn ensure(
    state_dir: &Path,
    names: impl Iterator<Item = &NodeName>,
) -> Result<BTreeMap<NodeName, NodeAddress>, Failure> {
    let names: Vec<NodeName> = names.cloned().collect();
    up(state_dir, &names, FIRST).await?;
    known(state_dir)
}

/// Returns the way to local nodes.
pub(crate) fn transport() -> Arc<dyn Transport> {
    Arc::new(LocalTransport)
}

/// Returns where a node would be reached if it were made.
pub(crate) fn would_be_at(state_dir: &Path, name: &NodeName) -> Result<NodeAddress, Failure> {
    Ok(Root::of(state_dir)?.would_be(name))
}

/// Returns the process that has the socket of a node open, whether it answers or not, and what the kernel says of it.
pub(crate) fn serving(directory: &Path) -> Option<(u32, Pulse)> {
    let process = serving_process(directory).ok().flatten()?;
    Some((process, Pulse::of(process)))
}

/// Returns where a node is, if it was made.
pub(crate) fn place(state_dir: &Path, name: &NodeName) -> Result<Option<Place>, Failure> {
    Root::of(state_dir)?.place(name)
}

/// A node that was to be started.
#[derive(Debug)]
pub(crate) struct Up {
    pub(crate) place: Place,
    /// Its process, where that is known.
    pub(crate) process: Option<u32>,
    /// Whether it was started now.
    pub(crate) was_started: bool,
}

/// Makes and starts what is missing of these nodes, and returns when all of them answer.
///
/// Nodes that run are left as they are. Dropped half way, some are started; the next call goes on.
pub(crate) async fn up(state_dir: &Path, names: &[NodeName], first: Ipv4Addr) -> Result<Vec<Up>, Failure> {
    let root = Root::of(state_dir)?;
    let _lock = root.lock().await?;
    let mut started = Vec::new();
    // A name that was said twice is one node.
    for name in names.iter().collect::<BTreeSet<_>>() {
        let place = match root.place(name)? {
            Some(place) => place,
            None => root.make(name, choose_address(&root, first)?)?,
        };
        if let Some(running) = find(&place)? {
            started.push((place, Some(running), false));
        } else {
            let place = with_free_address(&root, place, first).await?;
            let live = serve::start(&place)?;
            started.push((place, live, true));
        }
    }
    let mut up = Vec::new();
    for (place, live, was_started) in started {
        up.push(see_through(&root, place, live, was_started, first).await?);
    }
    Ok(up)
}

/// Returns when a node answers that was found or started, and starts it again where that is worth a try.
async fn see_through(
    root: &Root,
    mut place: Place,
    mut live: Option<Live>,
    mut was_started: bool,
    first: Ipv4Addr,
) -> Result<Up, Failure> {
    let mut tries_left = 2;
    while until_it_answers(&place, live.as_ref()).await? == Wait::Ended {
        // It was about to end when it was found, or somebody else was faster at its address, which happens as often as there are others.
        let again = with_free_address(root, place.clone(), first).await?;
        if again.address == place.address {
            if tries_left == 0 {
                let what = format!("node {} ended right after its start", place.name);
                return Err(last_words(&place, what));
            }
            tries_left -= 1;
        }
        place = again;
        live = serve::start(&place)?;
        was_started = true;
    }
    Ok(Up {
        process: live.map(|live| live.id),
        place,
        was_started,
    })
}

fn choose_address(root: &Root, first: Ipv4Addr) -> Result<Ipv4Addr, Failure> {
    let taken: BTreeSet<Ipv4Addr> = root.places()?.iter().map(|place| place.address).collect();
    address::choose(first, &taken)
}

/// Gives a node that does not run another address where somebody else has taken its own meanwhile.
async fn with_free_address(root: &Root, place: Place, first: Ipv4Addr) -> Result<Place, Failure> {
    // The process that was this node before may just be ending.
    let end = Instant::now() + LAST_BREATH;
    loop {
        let is_free = address::is_free(place.address).map_err(|error| {
            Failure::failed(format!("could not find out whether {} is free", place.address)).because(&error)
        })?;
        if is_free {
            return Ok(place);
        }
        if Instant::now() >= end {
            return root.make(&place.name, choose_address(root, first)?);
        }
        tokio::time::sleep(LOOK_INTERVAL).await;
    }
}

fn find(place: &Place) -> Result<Option<Live>, Failure> {
    Live::find(&place.directory).map_err(|error| {
        Failure::failed(format!("could not find out whether {} runs", place.name)).because(&error)
    })
}

/// Asks a node for a report, which it can give as soon as it serves.
async fn ask(place: &Place) -> Result<(), NodeError> {
    let deadlines = Deadlines {
        answer: ANSWER,
        ..Deadlines::default()
    };
    let node = RemoteNode::new(place.name.clone(), place.reached_at(), transport(), deadlines);
    node.observe().await.map(drop)
}

/// What came of waiting for a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wait {
    Answers,
    Ended,
}

async fn until_it_answers(place: &Place, live: Option<&Live>) -> Result<Wait, Failure> {
    let end = Instant::now() + UNTIL_IT_ANSWERS;
    loop {
        let Err(error) = ask(place).await else {
            return Ok(Wait::Answers);
        };
        let ended = match live {
            Some(live) => tokio::time::timeout(LOOK_INTERVAL, live.ended()).await.is_ok(),
            None => true,
        };
        if ended && serving_process(&place.directory).ok().flatten().is_none() {
            return Ok(Wait::Ended);
        }
        if Instant::now() >= end {
            return Err(last_words(place, format!("node {} does not answer", place.name)).because(&error));
        }
    }
}

/// Says why a node does not serve, by the end of its log.
fn last_words(place: &Place, what: String) -> Failure {
    let mut failure = Failure::failed(what);
    let log = std::fs::read_to_string(place.log()).unwrap_or_default();
    let lines: Vec<&str> = log.lines().collect();
    let last = lines.iter().skip(lines.len().saturating_sub(4));
    failure.causes.extend(last.map(|line| line.trim().to_owned()));
    failure.hint(format!("its log is `{}`", place.log().display()))
}

/// What is seen of a node from outside.
#[derive(Debug)]
pub(crate) struct Seen {
    pub(crate) place: Place,
    /// Its process, where it runs.
    pub(crate) process: Option<u32>,
    /// Whether its process runs another program than this one, where that can be told.
    pub(crate) is_other_program: Option<bool>,
    /// Why it does not answer, where it runs and does not.
    pub(crate) silence: Option<NodeError>,
    pub(crate) applications: BTreeMap<ApplicationName, ContainerState>,
    /// How much its datasets hold.
    pub(crate) data: ByteSize,
}

/// Looks at every node, at all of its programs and data, whether it runs or not.
pub(crate) async fn look(state_dir: &Path) -> Result<Vec<Seen>, Failure> {
    let mut looks = JoinSet::new();
    for place in Root::of(state_dir)?.places()? {
        looks.spawn(look_at(place));
    }
    let mut seen = looks
        .join_all()
        .await
        .into_iter()
        .collect::<Result<Vec<_>, _>>()?;
    seen.sort_by(|one, other| one.place.name.cmp(&other.place.name));
    Ok(seen)
}

async fn look_at(place: Place) -> Result<Seen, Failure> {
    let failed = || Failure::failed(format!("could not look at {}", place.name));
    let live = find(&place)?;
    let is_other_program = live.as_ref().and_then(Live::runs_our_program).map(|ours| !ours);
    let process = live.map(|live| live.id);
    let silence = match process {
        Some(_) => ask(&place).await.err(),
        None => None,
    };
    let applications = serve::programs(&place)?.list().await;
    let inventory = serve::datasets(&place)?.inventory().await;
    let datasets = inventory.map_err(|error| failed().because(&error))?.datasets;
    let data = datasets.values().fold(0, |sum, dataset| sum + dataset.used.0);
    Ok(Seen {
        process,
        is_other_program,
        silence,
        applications: applications.map_err(|error| failed().because(&error))?,
        data: ByteSize(data),
        place,
    })
}

/// Says whether the process of the node in this directory runs another program than this one; not so where none runs.
pub(crate) fn is_other_program(directory: &Path) -> bool {
    let live = Live::find(directory).ok().flatten();
    live.and_then(|live| live.runs_our_program()) == Some(false)
}

/// Ends the processes of these nodes and starts them as this program; returns when all of them answer.
///
/// What runs on them runs on, and their routes are kept; connections that go through them break. Those that run this
/// program already are left alone, and those that do not run are started. Dropped half way, some do not run: the next
/// call goes on.
pub(crate) async fn renew(state_dir: &Path, names: &[NodeName]) -> Result<Vec<Up>, Failure> {
    let root = Root::of(state_dir)?;
    let mut ends = JoinSet::new();
    {
        let _lock = root.lock().await?;
        for name in names.iter().collect::<BTreeSet<_>>() {
            let place = root.place(name)?.ok_or_else(|| no_such_node(name))?;
            if let Some(live) = find(&place)?.filter(|live| live.runs_our_program() != Some(true)) {
                ends.spawn(async move { (place, live.end(UNTIL_IT_ENDS).await) });
            }
        }
        for (place, ended) in ends.join_all().await {
            ended.map_err(|error| {
                Failure::failed(format!("could not end the process of {}", place.name)).because(&error)
            })?;
        }
    }
    up(state_dir, names, FIRST).await
}

/// What becomes of the data of a node that is taken down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Data {
    Keep,
    Delete,
}

/// A node that was taken down.
#[derive(Debug)]
pub(crate) struct Down {
    pub(crate) name: NodeName,
    /// Whether it ran.
    pub(crate) ran: bool,
    /// The applications that were stopped.
    pub(crate) stopped: Vec<ApplicationName>,
}

/// Stops the applications of these nodes, and then the nodes; returns when every process is confirmed gone.
///
/// Done half way, some still run, and no data is deleted of a node that does.
pub(crate) async fn down(state_dir: &Path, names: &[NodeName], data: Data) -> Result<Vec<Down>, Failure> {
    let root = Root::of(state_dir)?;
    let mut places = Vec::new();
    for name in names.iter().collect::<BTreeSet<_>>() {
        let place = root.place(name)?.ok_or_else(|| no_such_node(name))?;
        places.push(place);
    }
    if places.is_empty() {
        return Ok(Vec::new());
    }
    let _lock = root.lock().await?;
    let mut ends = JoinSet::new();
    for place in places {
        ends.spawn(end(place, data));
    }
    let mut all = ends.join_all().await.into_iter().collect::<Result<Vec<_>, _>>()?;
    all.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(all)
}

pub(crate) fn no_such_node(name: &NodeName) -> Failure {
    Failure::usage(format!("there is no local node `{name}`")).hint("`flocker local status` lists them")
}

async fn end(place: Place, data: Data) -> Result<Down, Failure> {
    let failed = |what: &str| Failure::failed(format!("could not {what} of {}", place.name));
    let programs = serve::programs(&place)?;
    let live = find(&place)?;
    // While the node runs, its clients see their connections end in order.
    let mut stopped = stop_all(&place, &programs).await?;
    if let Some(live) = &live {
        let ended = live.end(UNTIL_IT_ENDS).await;
        ended.map_err(|error| failed("end the process").because(&error))?;
    }
    // Somebody may have started one meanwhile; now nobody can any more.
    stopped.extend(stop_all(&place, &programs).await?);
    if data == Data::Delete {
        place.delete()?;
    }
    Ok(Down {
        name: place.name,
        ran: live.is_some(),
        stopped: stopped.into_iter().collect(),
    })
}

/// Stops every application at the same time; returns those that there were, when all are gone.
async fn stop_all(place: &Place, programs: &ProcessRuntime) -> Result<BTreeSet<ApplicationName>, Failure> {
    let listed = programs.list().await.map_err(|error| {
        Failure::failed(format!("could not list the applications of {}", place.name)).because(&error)
    })?;
    let mut stops = JoinSet::new();
    for (name, state) in listed {
        let programs = programs.clone();
        stops.spawn(async move {
            let stopped = programs.stop(&name, state.stop_grace).await;
            (name, stopped)
        });
    }
    let mut gone = BTreeSet::new();
    for (name, stopped) in stops.join_all().await {
        stopped.map_err(|error| {
            Failure::failed(format!("could not stop `{name}` on {}", place.name)).because(&error)
        })?;
        gone.insert(name);
    }
    Ok(gone)
}
