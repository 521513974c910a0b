//! A router of one's own: a switchboard that connects ports by a table and carries no bytes.
//!
//! Two methods make a [`Router`], and the promises of the trait come as tests:
//! `cargo test -p flocker-examples --example custom_router`.

#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;

use async_trait::async_trait;
use flocker_backends::Change;
use flocker_backends::Router;
use flocker_backends::RouterError;
use flocker_examples::Outcome;
use flocker_examples::check;
use flocker_model::ApplicationName;
use flocker_model::ExternalPort;
use flocker_model::Home;
use flocker_model::PortNumber;
use flocker_model::RouteChange;
use flocker_model::RouteTable;
use flocker_model::RouteTarget;

/// The switchboard of one node.
#[derive(Debug)]
struct Switchboard {
    node: IpAddr,
    lines: Mutex<Lines>,
}

/// What is plugged in. It is changed as a whole or not at all.
#[derive(Clone, Debug, Default, PartialEq)]
struct Lines {
    table: RouteTable,
    /// Where each port ends, as it was plugged in.
    ends: BTreeMap<ExternalPort, SocketAddr>,
    taken: BTreeSet<ExternalPort>,
}

impl Switchboard {
    fn new(node: IpAddr) -> Self {
        Self {
            node,
            lines: Mutex::default(),
        }
    }

    /// A change is one assignment: even a panic leaves the old lines or the new ones.
    fn lines(&self) -> MutexGuard<'_, Lines> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says where a connection to a port of this node is sent.
    fn ends_at(&self, port: ExternalPort) -> Option<SocketAddr> {
        self.lines().ends.get(&port).copied()
    }

    /// A home that is here goes before any other.
    fn end(
        &self,
        port: ExternalPort,
        target: &RouteTarget,
        local: &BTreeMap<ApplicationName, IpAddr>,
    ) -> Option<SocketAddr> {
        if target.homes.iter().any(|home| home.address == self.node) {
            let here = local.get(&target.application)?;
            return Some(SocketAddr::new(*here, target.internal.get()));
        }
        let first = target.homes.first()?;
        Some(SocketAddr::new(first.address, port.get()))
    }
}

#[async_trait]
impl Router for Switchboard {
    async fn current(&self) -> Result<RouteTable, RouterError> {
        Ok(self.lines().table.clone())
    }

    async fn apply(
        &self,
        change: &RouteChange,
        local: &BTreeMap<ApplicationName, IpAddr>,
    ) -> Result<Change, RouterError> {
        let mut lines = self.lines();
        if let Some(port) = change.set.keys().find(|port| lines.taken.contains(port)) {
            return Err(RouterError::PortInUse {
                port: *port,
                source: io::ErrorKind::AddrInUse.into(),
            });
        }
        let mut new = lines.clone();
        new.table.apply(change);
        for port in &change.drop {
            new.ends.remove(port);
        }
        for (port, target) in &change.set {
            match self.end(*port, target, local) {
                Some(end) => new.ends.insert(*port, end),
                None => new.ends.remove(port),
            };
        }
        let is_new = *lines != new;
        *lines = new;
        Ok(if is_new { Change::Made } else { Change::AlreadySo })
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Outcome {
    let (alpha, beta) = (IpAddr::from([192, 0, 2, 1]), IpAddr::from([192, 0, 2, 2]));
    let router = Arc::new(Switchboard::new(alpha));
    let port: ExternalPort = "80".parse()?;
    let internal = PortNumber::new(8080).ok_or("a port is never 0")?;
    let site: ApplicationName = "site".parse()?;
    let local = BTreeMap::from([(site.clone(), IpAddr::from([172, 17, 0, 2]))]);
    let mut ends = Vec::new();
    for (home, address) in [("alpha", alpha), ("beta", beta)] {
        let target = RouteTarget {
            application: site.clone(),
            internal,
            homes: vec![Home {
                node: home.parse()?,
                address,
            }],
        };
        let change = RouteChange {
            set: [(port, target)].into(),
            ..RouteChange::default()
        };
        let first = router.apply(&change, &local).await?;
        let second = router.apply(&change, &local).await?;
        let end = router.ends_at(port).ok_or("the port ends nowhere")?;
        println!("the site runs on {home}: port {port} of alpha ends at {end} ({first:?}, then {second:?})");
        check(second == Change::AlreadySo, "applying twice is applying once")?;
        ends.push(end.to_string());
    }
    check(
        ends == ["172.17.0.2:8080", "192.0.2.2:80"],
        "the route follows the application",
    )?;
    println!("its promises: cargo test -p flocker-examples --example custom_router");
    Ok(())
}

#[cfg(test)]
mod promises {
    use std::any::Any;

    use flocker_backends::conformance::RouterHarness;

    use super::*;

    /// A node with a switchboard, and what is served around it.
    struct Node {
        router: Arc<Switchboard>,
        served: Arc<Mutex<BTreeSet<SocketAddr>>>,
    }

    /// Undoes something when it is dropped.
    struct Until<F: FnMut()>(F);

    impl<F: FnMut()> Drop for Until<F> {
        fn drop(&mut self) {
            (self.0)();
        }
    }

    impl Node {
        fn new() -> Self {
            Self {
                router: Arc::new(Switchboard::new([192, 0, 2, 1].into())),
                served: Arc::default(),
            }
        }
    }

    #[async_trait]
    impl RouterHarness for Node {
        fn router(&self) -> Arc<dyn Router> {
            Arc::clone(&self.router) as Arc<dyn Router>
        }

        /// Its lines stay plugged in whatever becomes of our process.
        async fn reopen(&self) {}

        fn node_address(&self) -> IpAddr {
            self.router.node
        }

        fn local_address(&self) -> IpAddr {
            [172, 17, 0, 2].into()
        }

        fn other_node(&self, number: u8) -> IpAddr {
            [192, 0, 2, 100 + number].into()
        }

        fn port(&self, number: u8) -> PortNumber {
            PortNumber::new(7000 + u16::from(number)).unwrap()
        }

        async fn serve(&self, at: SocketAddr) -> Box<dyn Any + Send> {
            let served = Arc::clone(&self.served);
            served.lock().unwrap().insert(at);
            Box::new(Until(move || {
                served.lock().unwrap().remove(&at);
            }))
        }

        async fn occupy(&self, port: ExternalPort) -> Option<Box<dyn Any + Send>> {
            let router = Arc::clone(&self.router);
            router.lines().taken.insert(port);
            Some(Box::new(Until(move || {
                router.lines().taken.remove(&port);
            })))
        }

        async fn ends_at(&self, port: ExternalPort) -> Option<SocketAddr> {
            let end = self.router.ends_at(port)?;
            self.served.lock().unwrap().contains(&end).then_some(end)
        }
    }

    flocker_backends::router_conformance!(Node::new());
}
