//! A node on a real machine, put together from what it was set up with.
//!
//! This is the one place that knows which backend goes by which word.

use std::fmt;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;

use flocker_backends::ContainerRuntime;
use flocker_backends::Router;
use flocker_backends::VolumeBackend;
use flocker_backends::router::choice;
use flocker_backends::router::choice::Preference;
use flocker_backends::router::proxy::ProxyOptions;
use flocker_backends::router::proxy::ProxyRouter;
use flocker_backends::runtime::docker::DockerOptions;
use flocker_backends::runtime::docker::DockerRuntime;
use flocker_backends::runtime::process::ProcessOptions;
use flocker_backends::runtime::process::ProcessRuntime;
use flocker_backends::runtime::systemd::SystemdOptions;
use flocker_backends::runtime::systemd::SystemdRuntime;
use flocker_backends::transport::local::LocalTransport;
use flocker_backends::volume::directory::DirectoryOptions;
use flocker_backends::volume::directory::DirectoryVolumes;
use flocker_backends::volume::zfs::ParentName;
use flocker_backends::volume::zfs::ParentNameError;
use flocker_backends::volume::zfs::ZfsOptions;
use flocker_backends::volume::zfs::ZfsVolumes;
use flocker_engine::Deadlines;
use flocker_engine::FileRecord;
use flocker_engine::ForeignPorts;
use flocker_engine::LocalNode;
use flocker_engine::NodeParts;
use flocker_engine::this_boot;
use flocker_model::NodeAddress;
use flocker_model::PoolName;
use flocker_model::RouterKind;
use flocker_model::RuntimeKind;
use flocker_model::VolumeKind;

use super::kept::KeptRouter;
use super::settings::Settings;
use crate::commands::supervise::SUPERVISE;
use crate::error::Failure;
use crate::local;
use crate::local::Listening;

/// A node, and what would end with its process.
#[derive(Debug)]
pub(super) struct Assembled {
    pub(super) node: LocalNode,
    pub(super) needs_process: NeedsProcess,
}

/// Knows whether something of the node lives in its process alone.
pub(super) struct NeedsProcess(Option<Arc<ProxyRouter>>);

impl fmt::Debug for NeedsProcess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("NeedsProcess").field(&self.0.is_some()).finish()
    }
}

impl NeedsProcess {
    /// Says whether applications could not be reached any more if the process ended.
    pub(super) async fn is_needed(&self) -> bool {
        match &self.0 {
            // Where it cannot be told, it stays.
            Some(proxy) => proxy
                .current()
                .await
                .map_or(true, |routes| !routes.entries().is_empty()),
            None => false,
        }
    }
}

/// Puts a node together.
pub(super) async fn assemble(settings: &Settings, directory: &Path) -> Result<Assembled, Failure> {
    let failed = || Failure::failed(format!("could not become node {}", settings.name));
    let Routing {
        router,
        foreign_ports,
        proxy,
    } = routing(settings, directory).await?;
    let parts = NodeParts {
        name: settings.name.clone(),
        reached_at: NodeAddress::Local {
            directory: directory.to_owned(),
        },
        address: settings.address,
        boot: this_boot().map_err(|error| failed().because(&error))?,
        volumes: volumes(settings, directory).await?,
        runtime: runtime(settings, directory).await?,
        router,
        transport: Arc::new(LocalTransport),
        record: Arc::new(FileRecord::new(directory)),
        foreign_ports,
        deadlines: Deadlines::default(),
    };
    Ok(Assembled {
        node: LocalNode::new(parts).map_err(|error| failed().because(&error))?,
        needs_process: NeedsProcess(proxy),
    })
}

async fn volumes(settings: &Settings, directory: &Path) -> Result<Arc<dyn VolumeBackend>, Failure> {
    let Settings { name, volumes, .. } = settings;
    let failed = || Failure::failed(format!("{name} cannot keep data with `volumes: {volumes}`"));
    match volumes {
        VolumeKind::Directory => {
            let opened = DirectoryVolumes::open(&directory.join("volumes"), &DirectoryOptions::cautious());
            Ok(Arc::new(opened.map_err(|error| failed().because(&error))?))
        }
        VolumeKind::Zfs => {
            let parent = parent(&settings.pool).map_err(|error| failed().because(&error))?;
            let opened = ZfsVolumes::open(&ZfsOptions::new(parent)).await;
            Ok(Arc::new(opened.map_err(|error| failed().because(&error))?))
        }
    }
}

/// Returns the file system below which the datasets are: the one that is named, or one of ours in the pool that is.
fn parent(pool: &PoolName) -> Result<ParentName, ParentNameError> {
    match pool.as_str() {
        named if named.contains('/') => named.parse(),
        alone => format!("{alone}/flocker").parse(),
    }
}

async fn runtime(settings: &Settings, directory: &Path) -> Result<Arc<dyn ContainerRuntime>, Failure> {
    let Settings { name, runtime, .. } = settings;
    let failed = || {
        Failure::failed(format!(
            "{name} cannot run applications with `runtime: {runtime}`"
        ))
    };
    let of_docker = || DockerOptions::new(directory.join("docker"));
    match runtime {
        RuntimeKind::Process => {
            let program = own_program().map_err(|error| failed().because(&error))?;
            let mut options = ProcessOptions::new(directory.join("applications"), settings.address, program);
            options.supervisor_arguments = vec![SUPERVISE.into()];
            options.environment = local::environment();
            let opened = ProcessRuntime::new(options);
            Ok(Arc::new(opened.map_err(|error| failed().because(&error))?))
        }
        RuntimeKind::Docker => {
            let opened = DockerRuntime::open(of_docker()).await;
            Ok(Arc::new(opened.map_err(|error| failed().because(&error))?))
        }
        RuntimeKind::Systemd => {
            let opened = SystemdRuntime::open(SystemdOptions::new(of_docker())).await;
            Ok(Arc::new(opened.map_err(|error| failed().because(&error))?))
        }
    }
}

fn own_program() -> std::io::Result<PathBuf> {
    std::env::current_exe()
}

/// What answers for the ports of a node, and who knows which others are in use.
struct Routing {
    router: Arc<dyn Router>,
    foreign_ports: Arc<dyn ForeignPorts>,
    proxy: Option<Arc<ProxyRouter>>,
}

/// Returns which packet filter of the kernel a node uses that is set up so; nothing where it uses the proxy.
pub(super) fn packet_filter(router: RouterKind, runtime: RuntimeKind) -> Option<Preference> {
    match (router, runtime) {
        // Programs of the machine itself listen at its own address, where a connection can be held for them.
        (RouterKind::Proxy, _) | (RouterKind::Auto, RuntimeKind::Process) => None,
        (RouterKind::Auto, RuntimeKind::Docker | RuntimeKind::Systemd) => Some(Preference::Auto),
        (RouterKind::Nftables, _) => Some(Preference::Nftables),
        (RouterKind::Iptables, _) => Some(Preference::Iptables),
    }
}

async fn routing(settings: &Settings, directory: &Path) -> Result<Routing, Failure> {
    let Settings {
        name,
        router,
        address,
        ..
    } = settings;
    let failed = || Failure::failed(format!("{name} cannot route with `router: {router}`"));
    if let Some(preference) = packet_filter(*router, settings.runtime) {
        let chosen = choice::choose(preference, *address).await;
        let chosen = chosen.map_err(|error| failed().because(&error))?;
        return Ok(Routing {
            router: Arc::new(KeptRouter::new(chosen, directory.to_owned())),
            foreign_ports: Arc::new(Listening {
                address: *address,
                router: None,
            }),
            proxy: None,
        });
    }
    let opened = ProxyRouter::open(&directory.join("routes"), *address, ProxyOptions::default()).await;
    let proxy = Arc::new(opened.map_err(|error| failed().because(&error))?);
    Ok(Routing {
        router: Arc::<ProxyRouter>::clone(&proxy),
        foreign_ports: Arc::new(Listening {
            address: *address,
            router: Some(Arc::clone(&proxy)),
        }),
        proxy: Some(proxy),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pool_alone_gets_a_file_system_of_ours() {
        let parent = |pool: &str| parent(&pool.parse().unwrap()).map(|parent| parent.to_string());
        assert_eq!(parent("tank").unwrap(), "tank/flocker");
        assert_eq!(parent("tank/data/ours").unwrap(), "tank/data/ours");
        parent("tank//ours").unwrap_err();
    }
}
