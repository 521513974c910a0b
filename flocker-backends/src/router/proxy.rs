//! Routes in user space: a forwarder at the node's address, without root.
//!
//! Each port of the table is listened on at the node's own address. Whoever
//! connects while the application is between two nodes is not refused but
//! *held*, until it serves again; see [`ProxyRouter`].

mod count;
mod forward;
mod hop;
mod listen;
mod relay;
mod table;

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::fmt;
use std::io;
use std::net::IpAddr;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use flocker_model::ApplicationName;
use flocker_model::ExternalPort;
use flocker_model::RouteChange;
use flocker_model::RouteTable;
use nix::sys::resource::Resource;
use nix::sys::resource::getrlimit;
use tokio::sync::Mutex;
use tokio::sync::Semaphore;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::sync::DropGuard;
use tokio_util::task::AbortOnDropHandle;
use tokio_util::task::TaskTracker;

use self::count::Counters;
pub use self::count::PortStatistics;
use self::forward::Forwarding;
use self::listen::Room;
use self::listen::Taken;
pub use self::listen::used_ports;
use self::relay::Relaying;
use self::table::Table;
use crate::change::Change;
use crate::router::Router;
use crate::router::RouterError;

/// How a [`ProxyRouter`] deals with connections.
#[derive(Clone, Debug)]
pub struct ProxyOptions {
    /// How long a connection is held while there is nowhere to go.
    pub hold_limit: Duration,
    /// How long one try to connect may take.
    pub connect_timeout: Duration,
    /// How many connections there may be at once; one port may have three quarters of them. A client of UDP is one.
    pub max_connections: usize,
    /// For how long datagrams may pause and still be answered; never 0. It may be up to twice of that.
    pub idle_limit: Duration,
}

impl Default for ProxyOptions {
    /// 15 seconds; 3 seconds; as many connections as take half of the files that we may open; and 30 seconds.
    fn default() -> Self {
        let files = getrlimit(Resource::RLIMIT_NOFILE).map_or(1024, |(soft, _)| soft);
        let quarter = usize::try_from(files / 4).unwrap_or(usize::MAX);
        Self {
            hold_limit: Duration::from_secs(15),
            connect_timeout: Duration::from_secs(3),
            max_connections: quarter.clamp(16, 16 * 1024),
            idle_limit: Duration::from_secs(30),
        }
    }
}

/// Forwards connections and datagrams to wherever the routes of a node lead.
///
/// A new connection is held for as long as its target refuses or does not
/// answer, and goes on as soon as it serves or the route changes, up to
/// [`ProxyOptions::hold_limit`]. A connection that is through stays where it
/// is until one side ends it, also where the route changes or is dropped.
/// Routes change as a whole: every connection sees the table before or after.
///
/// Datagrams are not held: what finds nobody is lost, as it may be anywhere on
/// its way. Between the same two they take the same way until neither has said
/// anything for [`ProxyOptions::idle_limit`], or the route changes; the next one
/// then goes where it leads.
///
/// The routes are saved before they come into force, and are back after a
/// restart. Dropping the router ends all its connections.
pub struct ProxyRouter {
    own: IpAddr,
    options: ProxyOptions,
    saved: PathBuf,
    table: watch::Sender<Arc<Table>>,
    ports: Mutex<Ports>,
    of_all: Arc<Semaphore>,
    connections: TaskTracker,
    closed: DropGuard,
}

#[derive(Debug, Default)]
struct Ports {
    open: BTreeMap<ExternalPort, OpenPort>,
    /// Ports that were told to close and may not have done so yet.
    closing: Vec<AbortOnDropHandle<()>>,
    /// Whether what is in force may differ from what is saved.
    is_unsaved: bool,
    /// What is being saved. It goes on where the change that wanted it was dropped, so the next one waits for it.
    saving: Option<JoinHandle<io::Result<()>>>,
}

#[derive(Debug)]
struct OpenPort {
    counters: Arc<Counters>,
    /// Ends when it is dropped.
    serving: AbortOnDropHandle<()>,
}

impl Ports {
    /// Closes a port that nobody may be accepted on any more.
    fn close(&mut self, port: ExternalPort) {
        if let Some(open) = self.open.remove(&port) {
            open.serving.abort();
            self.closing.push(open.serving);
        }
    }

    /// Waits until nothing is being saved, and returns how that went. Safe to drop.
    async fn wait_until_saved(&mut self) -> io::Result<()> {
        match &mut self.saving {
            None => Ok(()),
            Some(saving) => {
                let saved = saving.await;
                self.saving = None;
                saved.map_err(io::Error::other)?
            }
        }
    }

    /// Waits until every port that was told to close is closed. Safe to drop.
    async fn wait_until_closed(&mut self) {
        while let Some(closing) = self.closing.last_mut() {
            // It was told to end early; how it did says nothing.
            drop(closing.await);
            self.closing.pop();
        }
    }
}

impl fmt::Debug for ProxyRouter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProxyRouter")
            .field("own", &self.own)
            .field("saved", &self.saved)
            .finish_non_exhaustive()
    }
}

impl ProxyRouter {
    /// Opens the router of a node and brings its saved routes into force.
    ///
    /// A route whose port was taken by somebody else meanwhile is dropped, as
    /// [`Router::current`] will tell. Call it inside a tokio runtime.
    pub async fn open(
        state_directory: &Path,
        node_address: IpAddr,
        options: ProxyOptions,
    ) -> Result<Self, RouterError> {
        let failed = |source| RouterError::Io {
            what: format!("open the routes in `{}`", state_directory.display()),
            source,
        };
        std::fs::create_dir_all(state_directory).map_err(failed)?;
        let saved = state_directory.join("routes.json");
        let table = match Table::load(&saved) {
            Ok(table) => table.unwrap_or_default(),
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof
                ) =>
            {
                tracing::warn!(path = %saved.display(), %error, "the saved routes cannot be read and are dropped");
                Table::default()
            }
            Err(error) => return Err(failed(error)),
        };
        let router = Self {
            own: node_address,
            saved,
            table: watch::Sender::new(Arc::default()),
            ports: Mutex::default(),
            of_all: Arc::new(Semaphore::new(options.max_connections)),
            connections: TaskTracker::new(),
            closed: CancellationToken::new().drop_guard(),
            options,
        };
        let mut listeners = BTreeMap::new();
        let mut lost = BTreeSet::new();
        for &port in table.routes.entries().keys() {
            match listen::listen(node_address, port) {
                Ok(listener) => drop(listeners.insert(port, listener)),
                Err(error) => {
                    tracing::warn!(%port, %error, "a saved route could not be brought back");
                    lost.insert(port);
                }
            }
        }
        let is_unsaved = !lost.is_empty();
        router.table.send_replace(Arc::new(table.without(lost)));
        let mut ports = router.ports.lock().await;
        ports.is_unsaved = is_unsaved;
        for (port, listener) in listeners {
            ports.open.insert(port, router.open_port(port, listener));
        }
        drop(ports);
        Ok(router)
    }

    /// Returns what went through each port that has a route.
    pub async fn statistics(&self) -> BTreeMap<ExternalPort, PortStatistics> {
        let ports = self.ports.lock().await;
        let read = |(port, open): (&ExternalPort, &OpenPort)| (*port, open.counters.read());
        ports.open.iter().map(read).collect()
    }

    /// Returns those of `ports` that another program uses at this node's address.
    pub async fn foreign_ports(
        &self,
        ports: impl IntoIterator<Item = ExternalPort>,
    ) -> BTreeSet<ExternalPort> {
        // Held throughout, so that no port becomes ours while it is asked for.
        let ours = self.ports.lock().await;
        let others = ports.into_iter().filter(|port| !ours.open.contains_key(port));
        used_ports(self.own, others)
    }

    /// Closes all ports and connections, and returns when nothing of it is left. The saved routes stay.
    pub async fn close(self) {
        let mut ports = self.ports.into_inner();
        ports.open.clear();
        drop(ports.wait_until_saved().await);
        drop(self.closed);
        self.connections.close();
        self.connections.wait().await;
    }

    fn open_port(&self, port: ExternalPort, taken: Taken) -> OpenPort {
        let counters = Arc::<Counters>::default();
        let room = Room {
            of_all: Arc::clone(&self.of_all),
            of_port: Arc::new(Semaphore::new((self.options.max_connections * 3 / 4).max(1))),
        };
        let closed = self.closed.token().clone();
        let serving = match taken {
            Taken::Connections(listener) => {
                let forwarding = Forwarding {
                    own: self.own,
                    port,
                    table: self.table.subscribe(),
                    counters: Arc::clone(&counters),
                    hold_limit: self.options.hold_limit,
                    connect_timeout: self.options.connect_timeout,
                };
                let connections = self.connections.clone();
                let accepting = listen::accept(listener, forwarding, room, connections, closed);
                self.connections.spawn(accepting)
            }
            Taken::Datagrams(socket) => {
                let relaying = Relaying {
                    own: self.own,
                    port,
                    table: self.table.subscribe(),
                    counters: Arc::clone(&counters),
                    room,
                    idle: self.options.idle_limit,
                    sessions: self.connections.clone(),
                };
                self.connections.spawn(relay::relay(socket, relaying))
            }
        };
        OpenPort {
            counters,
            serving: AbortOnDropHandle::new(serving),
        }
    }
}

#[async_trait]
impl Router for ProxyRouter {
    async fn current(&self) -> Result<RouteTable, RouterError> {
        Ok(self.table.borrow().routes.clone())
    }

    async fn apply(
        &self,
        change: &RouteChange,
        local: &BTreeMap<ApplicationName, IpAddr>,
    ) -> Result<Change, RouterError> {
        let mut ports = self.ports.lock().await;
        ports.wait_until_closed().await;
        // Saved or not, what was dropped half way is not in force, and is saved over.
        drop(ports.wait_until_saved().await);
        let before = Arc::clone(&self.table.borrow());
        let table = before.changed(change, local);
        if table == *before && !ports.is_unsaved {
            return Ok(Change::AlreadySo);
        }
        // Everything that can be refused comes before anything is changed.
        let mut listeners = BTreeMap::new();
        for &port in table.routes.entries().keys() {
            if !ports.open.contains_key(&port) {
                listeners.insert(
                    port,
                    listen::listen(self.own, port).map_err(|source| refused(port, source))?,
                );
            }
        }
        // Where this is dropped while it saves, the next change saves again.
        ports.is_unsaved = true;
        let (to_save, path) = (table.clone(), self.saved.clone());
        ports.saving = Some(tokio::task::spawn_blocking(move || to_save.save(&path)));
        ports.wait_until_saved().await.map_err(|source| RouterError::Io {
            what: format!("save the routes in `{}`", self.saved.display()),
            source,
        })?;
        ports.is_unsaved = false;
        // From here on nothing waits, so it happens as a whole or not at all.
        let table = Arc::new(table);
        self.table.send_replace(Arc::clone(&table));
        let unrouted = ports
            .open
            .keys()
            .filter(|port| table.routes.get(**port).is_none());
        for port in unrouted.copied().collect::<Vec<_>>() {
            ports.close(port);
        }
        for (port, listener) in listeners {
            let open = self.open_port(port, listener);
            ports.open.insert(port, open);
        }
        // It has happened; only that old ports are free again is still to come.
        ports.wait_until_closed().await;
        Ok(if *table == *before {
            Change::AlreadySo
        } else {
            Change::Made
        })
    }
}

fn refused(port: ExternalPort, source: io::Error) -> RouterError {
    if source.kind() == io::ErrorKind::AddrInUse {
        RouterError::PortInUse { port, source }
    } else {
        RouterError::Io {
            what: format!("listen on port {port}"),
            source,
        }
    }
}
