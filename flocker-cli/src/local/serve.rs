//! What the process of a local node does: it puts the node together and answers.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use flocker_backends::Classify as _;
use flocker_backends::ErrorClass;
use flocker_backends::process::Program;
use flocker_backends::process::Stream;
use flocker_backends::router::proxy::ProxyOptions;
use flocker_backends::router::proxy::ProxyRouter;
use flocker_backends::runtime::process::ProcessOptions;
use flocker_backends::runtime::process::ProcessRuntime;
use flocker_backends::transport::local::ListenError;
use flocker_backends::transport::local::LocalListener;
use flocker_backends::transport::local::LocalTransport;
use flocker_backends::transport::local::Seat;
use flocker_backends::volume::directory::DirectoryOptions;
use flocker_backends::volume::directory::DirectoryVolumes;
use flocker_engine::Deadlines;
use flocker_engine::FileRecord;
use flocker_engine::LocalNode;
use flocker_engine::NodeParts;
use flocker_engine::one_line;
use flocker_engine::this_boot;
use flocker_model::NodeName;
use tokio::signal::unix::SignalKind;
use tokio::signal::unix::signal;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::LAST_BREATH;
use super::LOOK_INTERVAL;
use super::address;
use super::live::Live;
use super::log;
use super::log::NodeLog;
use super::place::Place;
use super::ports::Listening;
use crate::cli;
use crate::commands::supervise::SUPERVISE;
use crate::error::Failure;

/// What of the operator's environment a node, and every program on it, is given.
const ENVIRONMENT: [&str; 4] = ["PATH", "HOME", "LANG", "TZ"];

/// How long orders that are under way get when a node is asked to end.
pub(crate) const LAST_ORDERS: Duration = Duration::from_secs(2);

/// Who serves, where and as what.
#[derive(Debug)]
pub(crate) struct Serving {
    pub(crate) name: NodeName,
    pub(crate) address: Ipv4Addr,
    pub(crate) directory: PathBuf,
}

fn own_program() -> Result<PathBuf, Failure> {
    std::env::current_exe().map_err(|error| Failure::failed("could not find our own program").because(&error))
}

pub(crate) fn environment() -> BTreeMap<String, String> {
    let variables = ENVIRONMENT.into_iter().filter_map(|name| {
        let value = cli::variable_os(name)?.into_string().ok()?;
        Some((name.to_owned(), value))
    });
    variables.collect()
}

/// Opens the programs of a node, whether it runs or not.
pub(super) fn programs(place: &Place) -> Result<ProcessRuntime, Failure> {
    let mut options = ProcessOptions::new(place.applications(), place.address.into(), own_program()?);
    options.supervisor_arguments = vec![SUPERVISE.into()];
    options.environment = environment();
    ProcessRuntime::new(options).map_err(|error| {
        Failure::failed(format!("could not get at the programs of {}", place.name)).because(&error)
    })
}

/// Opens the datasets of a node, whether it runs or not.
pub(super) fn datasets(place: &Place) -> Result<DirectoryVolumes, Failure> {
    DirectoryVolumes::open(&place.volumes(), &DirectoryOptions::cautious()).map_err(|error| {
        Failure::failed(format!("could not get at the datasets of {}", place.name)).because(&error)
    })
}

/// Starts the process of a node. It may end right away; its log says why.
pub(super) fn start(place: &Place) -> Result<Option<Live>, Failure> {
    let failed = || Failure::failed(format!("could not start node {}", place.name));
    let words = log::open(&place.log()).map_err(|error| failed().because(&error))?;
    let program = Program::new(own_program()?)
        .argument("node-serve")
        .argument("--directory")
        .argument(&place.directory)
        .argument("--name")
        .argument(place.name.as_str())
        .argument("--address")
        .argument(place.address.to_string())
        .variables(environment())
        .directory("/")
        .stderr(Stream::Descriptor(words.into()));
    let started = program
        .spawn_detached()
        .map_err(|error| failed().because(&error))?;
    let found = started.id.map_or(Ok(None), Live::of);
    found.map_err(|error| failed().because(&error))
}

/// Is a node until it is asked to end. Its programs run on.
pub(crate) async fn serve(serving: Serving) -> Result<(), Failure> {
    let Serving {
        name,
        address,
        directory,
    } = serving;
    let place = Place {
        name,
        address,
        directory,
    };
    // Only a test in the same process could have set another one before.
    drop(tracing::subscriber::set_global_default(NodeLog::new(place.log())));
    // Whoever started it may be interrupted from a terminal, which is none of its business.
    if let Err(error) = rustix::process::setsid() {
        tracing::warn!(%error, "the node shares a terminal with whoever started it");
    }
    let failed = || Failure::failed(format!("could not become node {}", place.name));
    let mut terminate = signal(SignalKind::terminate()).map_err(|error| failed().because(&error))?;
    let claimed = in_time(
        || address::claim(address),
        |error| error.kind() == ErrorKind::AddrInUse,
    );
    let _claimed = claimed.await.map_err(|error| {
        Failure::failed(format!("another node has the address {address}")).because(&error)
    })?;
    let bind = || LocalListener::bind(&place.directory);
    let bound = in_time(bind, |error| matches!(error, ListenError::InUse { .. }));
    let listener = bound.await.map_err(|error| failed().because(&error))?;
    let node = Arc::new(put_together(&place).await?);
    tracing::info!(name = %place.name, id = %node.id(), %address, "the node serves");
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            _ = terminate.recv() => break,
            accepted = listener.accept() => match accepted {
                Ok(channel) => {
                    connections.spawn(flocker_engine::serve(channel, Arc::clone(&node)));
                }
                Err(error) => {
                    tracing::warn!(%error, "could not accept a connection");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            },
            Some(ended) = connections.join_next() => note(ended),
        }
    }
    drop(finish(listener, connections, LAST_ORDERS).await);
    tracing::info!("the node ends");
    Ok(())
}

/// How a connection ended.
type Served = Result<(), flocker_engine::wire::WireError>;

/// Serves who is connected for a while, and drops what is left then.
///
/// No other process can be this node until what is returned is dropped: it
/// would not know what these last orders made the node obey. What is cut off
/// here is finished by the next plan, as after any crash.
pub(crate) async fn finish(
    listener: LocalListener,
    mut connections: JoinSet<Served>,
    patience: Duration,
) -> Seat {
    let seat = listener.close();
    let last_orders = async {
        while let Some(ended) = connections.join_next().await {
            note(ended);
        }
    };
    drop(tokio::time::timeout(patience, last_orders).await);
    connections.shutdown().await;
    seat
}

/// Tries something again for a while, since the process that was this node before may just be ending.
pub(crate) async fn in_time<T, E>(
    mut attempt: impl FnMut() -> Result<T, E>,
    may_pass: impl Fn(&E) -> bool,
) -> Result<T, E> {
    let end = Instant::now() + LAST_BREATH;
    loop {
        match attempt() {
            Err(error) if may_pass(&error) && Instant::now() < end => tokio::time::sleep(LOOK_INTERVAL).await,
            done => return done,
        }
    }
}

pub(crate) fn note(ended: Result<Served, tokio::task::JoinError>) {
    match ended {
        Ok(Ok(())) => {}
        // Clients come and go; only what they should not have said is worth a line.
        Ok(Err(error)) if error.class() == ErrorClass::Transient => {
            tracing::debug!(%error, "a connection broke");
        }
        Ok(Err(error)) => tracing::warn!(error = %one_line(&error), "a connection was ended"),
        Err(error) => tracing::error!(%error, "serving a connection broke down"),
    }
}

async fn put_together(place: &Place) -> Result<LocalNode, Failure> {
    let failed = || Failure::failed(format!("could not become node {}", place.name));
    let router = ProxyRouter::open(&place.routes(), place.address.into(), ProxyOptions::default())
        .await
        .map_err(|error| failed().because(&error))?;
    let router = Arc::new(router);
    let parts = NodeParts {
        name: place.name.clone(),
        reached_at: place.reached_at(),
        address: place.address.into(),
        boot: this_boot().map_err(|error| failed().because(&error))?,
        volumes: Arc::new(datasets(place)?),
        runtime: Arc::new(programs(place)?),
        router: Arc::<ProxyRouter>::clone(&router),
        transport: Arc::new(LocalTransport),
        record: Arc::new(FileRecord::new(&place.directory)),
        foreign_ports: Arc::new(Listening {
            address: place.address.into(),
            router: Some(router),
        }),
        deadlines: Deadlines::default(),
    };
    LocalNode::new(parts).map_err(|error| failed().because(&error))
}

#[cfg(test)]
mod tests {
    use super::*;
    use flocker_backends::transport::local::ListenError;

    #[tokio::test]
    async fn no_other_process_is_the_node_until_the_last_orders_of_this_one_are_over() {
        let place = tempfile::tempdir().unwrap();
        let is_taken = || {
            let bound = LocalListener::bind(place.path());
            matches!(bound, Err(ListenError::InUse { .. }))
        };
        let listener = LocalListener::bind(place.path()).unwrap();
        let (end, order) = tokio::sync::oneshot::channel::<()>();
        let mut connections = JoinSet::new();
        connections.spawn(async move {
            drop(order.await);
            Ok(())
        });
        let finishing = finish(listener, connections, Duration::from_secs(60));
        tokio::pin!(finishing);
        let half_way = tokio::time::timeout(Duration::from_millis(20), &mut finishing).await;
        assert!(half_way.is_err(), "an order is still under way");
        assert!(!place.path().join("node.sock").exists());
        assert!(is_taken());
        end.send(()).unwrap();
        let seat = finishing.await;
        assert!(is_taken());
        drop(seat);
        // A program that another test is just starting has the lock with everything else until it is that program.
        let end = tokio::time::Instant::now() + Duration::from_secs(20);
        while is_taken() {
            assert!(tokio::time::Instant::now() < end, "the lock was not given back");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}
