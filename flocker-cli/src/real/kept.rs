//! A router of the kernel of which the routes outlive the machine's start, where the node puts them back by itself.
//!
//! What is kept may be older than what is true by then: then it leads to where
//! an application was. Every node leads on from there, and what would go
//! round is marked by the routers and stopped.

use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;

use async_trait::async_trait;
use flocker_backends::Change;
use flocker_backends::Router;
use flocker_backends::RouterError;
use flocker_backends::durable;
use flocker_model::ApplicationName;
use flocker_model::RouteChange;
use flocker_model::RouteTable;

use super::boot;

const FILE: &str = "routes.json";

/// A router, and where its routes are written down.
#[derive(Debug)]
pub(super) struct KeptRouter {
    router: Arc<dyn Router>,
    directory: PathBuf,
    /// Which table was written down last.
    kept: Mutex<Option<u64>>,
}

impl KeptRouter {
    pub(super) fn new(router: Arc<dyn Router>, directory: PathBuf) -> Self {
        Self {
            router,
            directory,
            kept: Mutex::default(),
        }
    }

    /// Says whether the node puts its routes back by itself.
    fn is_asked(&self) -> bool {
        boot::program_of(&self.directory).is_some()
    }

    /// Writes a table down. That it cannot be is no reason to have no routes now.
    fn keep(&self, table: &RouteTable) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        // Another process of ours takes it away, where the node is to wait.
        if *kept == Some(table.digest()) && self.directory.join(FILE).exists() {
            return;
        }
        *kept = match save(&self.directory, table) {
            Ok(()) => Some(table.digest()),
            Err(error) => {
                tracing::warn!(%error, "the routes cannot be written down for the next start of the machine");
                None
            }
        };
    }
}

#[async_trait]
impl Router for KeptRouter {
    async fn current(&self) -> Result<RouteTable, RouterError> {
        let table = self.router.current().await?;
        // After a boot there are none until they are put back.
        if !table.entries().is_empty() && self.is_asked() {
            self.keep(&table);
        }
        Ok(table)
    }

    /// Dropped half way, what is written down may be older than what is in force.
    async fn apply(
        &self,
        change: &RouteChange,
        local: &BTreeMap<ApplicationName, IpAddr>,
    ) -> Result<Change, RouterError> {
        let changed = self.router.apply(change, local).await?;
        if !self.is_asked() {
            return Ok(changed);
        }
        match self.router.current().await {
            Ok(table) => self.keep(&table),
            Err(error) => {
                tracing::warn!(%error, "the routes cannot be written down for the next start of the machine");
            }
        }
        Ok(changed)
    }
}

/// Returns the routes that were written down; none where nobody did.
pub(super) fn load(directory: &Path) -> io::Result<RouteTable> {
    match std::fs::read(directory.join(FILE)) {
        Ok(text) => Ok(serde_json::from_slice(&text)?),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(RouteTable::default()),
        Err(error) => Err(error),
    }
}

/// Takes away what was written down.
pub(super) fn forget(directory: &Path) -> io::Result<()> {
    match std::fs::remove_file(directory.join(FILE)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Replaces what was written down in one step, durably.
fn save(directory: &Path, table: &RouteTable) -> io::Result<()> {
    durable::replace(&directory.join(FILE), 0o600, &serde_json::to_vec(table)?)
}

#[cfg(test)]
mod tests {
    use flocker_model::Home;
    use flocker_model::PortNumber;
    use flocker_model::RouteTarget;

    use super::*;

    /// A router that is never asked.
    #[derive(Debug)]
    struct NoRouter;

    #[async_trait]
    impl Router for NoRouter {
        async fn current(&self) -> Result<RouteTable, RouterError> {
            Ok(RouteTable::default())
        }

        async fn apply(
            &self,
            _: &RouteChange,
            _: &BTreeMap<ApplicationName, IpAddr>,
        ) -> Result<Change, RouterError> {
            Ok(Change::AlreadySo)
        }
    }

    #[test]
    fn routes_that_were_taken_away_meanwhile_are_written_down_again() {
        let place = tempfile::tempdir().unwrap();
        let router = KeptRouter::new(Arc::new(NoRouter), place.path().to_owned());
        for _ in 0..2 {
            router.keep(&RouteTable::default());
            assert!(place.path().join(FILE).exists());
            forget(place.path()).unwrap();
        }
    }

    #[test]
    fn routes_that_were_written_down_are_read_back() {
        let place = tempfile::tempdir().unwrap();
        assert!(load(place.path()).unwrap().entries().is_empty());
        let target = RouteTarget {
            application: "web".parse().unwrap(),
            internal: PortNumber::new(8080).unwrap(),
            homes: vec![Home {
                node: "alpha".parse().unwrap(),
                address: IpAddr::from([192, 0, 2, 7]),
            }],
        };
        let mut table = RouteTable::default();
        table.apply(&RouteChange {
            set: [("80/udp".parse().unwrap(), target)].into(),
            ..RouteChange::default()
        });
        save(place.path(), &table).unwrap();
        assert_eq!(load(place.path()).unwrap(), table);
        std::fs::write(place.path().join(FILE), "{").unwrap();
        load(place.path()).unwrap_err();
        forget(place.path()).unwrap();
        forget(place.path()).unwrap();
        assert!(load(place.path()).unwrap().entries().is_empty());
    }
}
