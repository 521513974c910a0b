//! What every router promises.

use std::any::Any;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::net::SocketAddr;
use std::sync::Arc;

use async_trait::async_trait;
use flocker_model::ApplicationName;
use flocker_model::ExternalPort;
use flocker_model::Home;
use flocker_model::PortNumber;
use flocker_model::RouteChange;
use flocker_model::RouteTable;
use flocker_model::RouteTarget;

use super::already_so;
use super::drop_after;
use super::made;
use crate::router::Router;
use crate::router::RouterError;

/// A node that carries routes, and on which the promises are tried out.
///
/// It is new: no route of ours is here.
#[async_trait]
pub trait RouterHarness: Send + Sync {
    /// Returns the router as it is open now.
    fn router(&self) -> Arc<dyn Router>;

    /// Forgets everything that is not durable and opens the router again, as after our process was killed.
    async fn reopen(&self);

    /// Returns the address of this node.
    fn node_address(&self) -> IpAddr;

    /// Returns the address at which applications of this node listen.
    fn local_address(&self) -> IpAddr;

    /// Returns the address of another node, a different one for each number.
    fn other_node(&self, number: u8) -> IpAddr;

    /// Returns a port that nobody uses, a different one for each number.
    fn port(&self, number: u8) -> PortNumber;

    /// Serves at an address, by TCP and by UDP, until what is returned is dropped.
    async fn serve(&self, at: SocketAddr) -> Box<dyn Any + Send>;

    /// Takes a port of this node's address for a program that is not ours, until what is returned is dropped.
    ///
    /// Nothing, where the routes of this kind go before any program.
    async fn occupy(&self, port: ExternalPort) -> Option<Box<dyn Any + Send>>;

    /// Opens a connection to a port of this node's address, or sends a datagram there, and tells at which served address that ends, if at any.
    async fn ends_at(&self, port: ExternalPort) -> Option<SocketAddr>;
}

/// Declares a test for every promise of [`Router`]; give it an expression that makes a [`RouterHarness`].
///
/// Give it a function as well where a test needs something around it, a
/// network of its own for example: it is called with the test as a closure.
#[macro_export]
macro_rules! router_conformance {
    ($harness:expr) => {
        $crate::router_conformance!($harness, within $crate::conformance::as_it_is);
    };
    ($harness:expr, within $surroundings:path) => {
        $crate::conformance_tests! { within $surroundings, $crate::conformance::router, $harness,
            a_new_node_has_no_routes
            a_route_is_in_force_when_it_was_applied
            applying_twice_is_applying_once
            a_home_that_is_here_is_served_here
            a_home_that_is_elsewhere_is_reached_there
            of_several_homes_this_node_comes_first
            a_route_is_retargeted
            a_dropped_route_is_gone_and_the_others_stay
            dropping_what_is_not_there_changes_nothing
            one_change_adds_retargets_and_drops
            a_route_without_a_home_ends_nowhere
            a_change_with_a_foreign_port_is_refused_whole
            one_number_is_a_port_of_each_protocol
            a_port_is_foreign_by_its_protocol
            the_routes_in_force_are_told_after_a_restart
            a_dropped_change_leaves_the_old_routes_or_the_new
        }
    };
}

const INTERNAL: u16 = 9000;

fn application() -> ApplicationName {
    "site".parse().unwrap()
}

fn target(homes: &[IpAddr]) -> RouteTarget {
    let homes = homes.iter().enumerate().map(|(n, address)| Home {
        node: format!("node-{n}").parse().unwrap(),
        address: *address,
    });
    RouteTarget {
        application: application(),
        internal: PortNumber::new(INTERNAL).unwrap(),
        homes: homes.collect(),
    }
}

fn tcp(harness: &dyn RouterHarness, number: u8) -> ExternalPort {
    ExternalPort::tcp(harness.port(number))
}

fn udp(harness: &dyn RouterHarness, number: u8) -> ExternalPort {
    ExternalPort::udp(harness.port(number))
}

fn set(port: ExternalPort, target: RouteTarget) -> RouteChange {
    RouteChange {
        set: [(port, target)].into(),
        ..RouteChange::default()
    }
}

fn remove(port: ExternalPort) -> RouteChange {
    RouteChange {
        drop: [port].into(),
        ..RouteChange::default()
    }
}

fn local(harness: &dyn RouterHarness) -> BTreeMap<ApplicationName, IpAddr> {
    [(application(), harness.local_address())].into()
}

async fn apply(harness: &dyn RouterHarness, change: &RouteChange) -> Result<crate::Change, RouterError> {
    harness.router().apply(change, &local(harness)).await
}

async fn current(harness: &dyn RouterHarness) -> RouteTable {
    harness.router().current().await.unwrap()
}

fn here(harness: &dyn RouterHarness) -> SocketAddr {
    SocketAddr::new(harness.local_address(), INTERNAL)
}

/// A new node carries nothing of ours.
pub async fn a_new_node_has_no_routes(harness: &dyn RouterHarness) {
    assert_eq!(current(harness).await, RouteTable::default());
    already_so(apply(harness, &RouteChange::default()).await);
}

/// What was applied is what is told.
pub async fn a_route_is_in_force_when_it_was_applied(harness: &dyn RouterHarness) {
    let change = set(tcp(harness, 1), target(&[harness.other_node(1)]));
    made(apply(harness, &change).await);
    let mut expected = RouteTable::default();
    expected.apply(&change);
    assert_eq!(current(harness).await, expected);
}

/// What is in force is not changed.
pub async fn applying_twice_is_applying_once(harness: &dyn RouterHarness) {
    let change = set(tcp(harness, 1), target(&[harness.node_address()]));
    made(apply(harness, &change).await);
    already_so(apply(harness, &change).await);
    harness.reopen().await;
    already_so(apply(harness, &change).await);
}

/// Connections to an application of this node end at it, at the port on which it listens.
pub async fn a_home_that_is_here_is_served_here(harness: &dyn RouterHarness) {
    let _server = harness.serve(here(harness)).await;
    let port = tcp(harness, 1);
    assert_eq!(harness.ends_at(port).await, None);
    made(apply(harness, &set(port, target(&[harness.node_address()]))).await);
    assert_eq!(harness.ends_at(port).await, Some(here(harness)));
}

/// Connections to an application of another node end at that node, at the same external port.
pub async fn a_home_that_is_elsewhere_is_reached_there(harness: &dyn RouterHarness) {
    let port = tcp(harness, 1);
    let there = SocketAddr::new(harness.other_node(1), port.get());
    let _server = harness.serve(there).await;
    made(apply(harness, &set(port, target(&[harness.other_node(1)]))).await);
    assert_eq!(harness.ends_at(port).await, Some(there));
}

/// Whoever serves an application asks no other node for it; whoever does not asks the first.
pub async fn of_several_homes_this_node_comes_first(harness: &dyn RouterHarness) {
    let (one, two) = (tcp(harness, 1), tcp(harness, 2));
    let there = SocketAddr::new(harness.other_node(1), two.get());
    let _servers = (harness.serve(here(harness)).await, harness.serve(there).await);
    let homes = [
        harness.other_node(1),
        harness.other_node(2),
        harness.node_address(),
    ];
    made(apply(harness, &set(one, target(&homes))).await);
    assert_eq!(harness.ends_at(one).await, Some(here(harness)));
    made(apply(harness, &set(two, target(&homes[..2]))).await);
    assert_eq!(harness.ends_at(two).await, Some(there));
}

/// New connections follow an application that has moved.
pub async fn a_route_is_retargeted(harness: &dyn RouterHarness) {
    let port = tcp(harness, 1);
    let there = SocketAddr::new(harness.other_node(1), port.get());
    let _servers = (harness.serve(here(harness)).await, harness.serve(there).await);
    made(apply(harness, &set(port, target(&[harness.node_address()]))).await);
    let moved = set(port, target(&[harness.other_node(1)]));
    made(apply(harness, &moved).await);
    assert_eq!(harness.ends_at(port).await, Some(there));
    let mut expected = RouteTable::default();
    expected.apply(&moved);
    assert_eq!(current(harness).await, expected);
}

/// A port that is dropped answers no more, and the others do.
pub async fn a_dropped_route_is_gone_and_the_others_stay(harness: &dyn RouterHarness) {
    let _server = harness.serve(here(harness)).await;
    let (one, two) = (tcp(harness, 1), tcp(harness, 2));
    made(apply(harness, &set(one, target(&[harness.node_address()]))).await);
    made(apply(harness, &set(two, target(&[harness.node_address()]))).await);
    made(apply(harness, &remove(one)).await);
    assert_eq!(harness.ends_at(one).await, None);
    assert_eq!(harness.ends_at(two).await, Some(here(harness)));
    let ports: Vec<ExternalPort> = current(harness).await.entries().keys().copied().collect();
    assert_eq!(ports, [two]);
}

/// What is not there is dropped.
pub async fn dropping_what_is_not_there_changes_nothing(harness: &dyn RouterHarness) {
    already_so(apply(harness, &remove(tcp(harness, 1))).await);
    made(apply(harness, &set(tcp(harness, 1), target(&[harness.node_address()]))).await);
    made(apply(harness, &remove(tcp(harness, 1))).await);
    already_so(apply(harness, &remove(tcp(harness, 1))).await);
    assert_eq!(current(harness).await, RouteTable::default());
}

/// A change is one transaction, whatever it consists of.
pub async fn one_change_adds_retargets_and_drops(harness: &dyn RouterHarness) {
    let (one, two, three) = (tcp(harness, 1), tcp(harness, 2), tcp(harness, 3));
    let mut expected = RouteTable::default();
    let mut change = set(one, target(&[harness.node_address()]));
    change.set.insert(two, target(&[harness.node_address()]));
    made(apply(harness, &change).await);
    expected.apply(&change);
    let mut change = set(two, target(&[harness.other_node(1)]));
    change.set.insert(three, target(&[harness.node_address()]));
    change.drop.insert(one);
    made(apply(harness, &change).await);
    expected.apply(&change);
    assert_eq!(current(harness).await, expected);
    already_so(apply(harness, &change).await);
}

/// An application that nobody serves yet has its port, and a connection to it fails.
pub async fn a_route_without_a_home_ends_nowhere(harness: &dyn RouterHarness) {
    let change = set(tcp(harness, 1), target(&[]));
    made(apply(harness, &change).await);
    already_so(apply(harness, &change).await);
    assert_eq!(harness.ends_at(tcp(harness, 1)).await, None);
}

/// One port that is somebody else's, and none of the change is made.
pub async fn a_change_with_a_foreign_port_is_refused_whole(harness: &dyn RouterHarness) {
    let _server = harness.serve(here(harness)).await;
    let (one, two, foreign) = (tcp(harness, 1), tcp(harness, 2), tcp(harness, 3));
    made(apply(harness, &set(one, target(&[harness.node_address()]))).await);
    let before = current(harness).await;
    let Some(program) = harness.occupy(foreign).await else {
        return;
    };
    let mut change = set(foreign, target(&[harness.node_address()]));
    change.set.insert(two, target(&[harness.node_address()]));
    change.drop.insert(one);
    let refusal = apply(harness, &change).await.unwrap_err();
    assert!(
        matches!(refusal, RouterError::PortInUse { port, .. } if port == foreign),
        "{refusal}"
    );
    assert_eq!(current(harness).await, before);
    assert_eq!(harness.ends_at(one).await, Some(here(harness)));
    assert_ne!(harness.ends_at(two).await, Some(here(harness)));
    drop(program);
    made(apply(harness, &change).await);
    assert_eq!(harness.ends_at(foreign).await, Some(here(harness)));
}

/// Datagrams follow the route of their port, and connections to the same number another.
pub async fn one_number_is_a_port_of_each_protocol(harness: &dyn RouterHarness) {
    let (tcp, udp) = (tcp(harness, 1), udp(harness, 1));
    let there = SocketAddr::new(harness.other_node(1), tcp.get());
    let _servers = (harness.serve(here(harness)).await, harness.serve(there).await);
    made(apply(harness, &set(tcp, target(&[harness.node_address()]))).await);
    assert_eq!(harness.ends_at(udp).await, None);
    made(apply(harness, &set(udp, target(&[harness.other_node(1)]))).await);
    assert_eq!(harness.ends_at(udp).await, Some(there));
    assert_eq!(harness.ends_at(tcp).await, Some(here(harness)));
    made(apply(harness, &set(udp, target(&[harness.node_address()]))).await);
    assert_eq!(harness.ends_at(udp).await, Some(here(harness)));
    made(apply(harness, &set(tcp, target(&[harness.other_node(1)]))).await);
    assert_eq!(harness.ends_at(udp).await, Some(here(harness)));
    assert_eq!(harness.ends_at(tcp).await, Some(there));
    harness.reopen().await;
    assert_eq!(harness.ends_at(udp).await, Some(here(harness)));
    made(apply(harness, &remove(tcp)).await);
    assert_eq!(harness.ends_at(tcp).await, None);
    assert_eq!(harness.ends_at(udp).await, Some(here(harness)));
    let ports: Vec<ExternalPort> = current(harness).await.entries().keys().copied().collect();
    assert_eq!(ports, [udp]);
    made(apply(harness, &set(udp, target(&[]))).await);
    assert_eq!(harness.ends_at(udp).await, None);
    made(apply(harness, &set(udp, target(&[harness.other_node(1)]))).await);
    assert_eq!(harness.ends_at(udp).await, Some(there));
    made(apply(harness, &remove(udp)).await);
    assert_eq!(harness.ends_at(udp).await, None);
}

/// Whoever has a port of UDP does not have that of TCP.
pub async fn a_port_is_foreign_by_its_protocol(harness: &dyn RouterHarness) {
    let (tcp, udp) = (tcp(harness, 1), udp(harness, 1));
    let Some(_program) = harness.occupy(udp).await else {
        return;
    };
    made(apply(harness, &set(tcp, target(&[harness.node_address()]))).await);
    let refused = apply(harness, &set(udp, target(&[harness.node_address()]))).await;
    assert!(matches!(refused, Err(RouterError::PortInUse { port, .. }) if port == udp));
}

/// What is told after a restart is what is in force.
pub async fn the_routes_in_force_are_told_after_a_restart(harness: &dyn RouterHarness) {
    let _server = harness.serve(here(harness)).await;
    let port = tcp(harness, 1);
    made(apply(harness, &set(port, target(&[harness.node_address()]))).await);
    let before = current(harness).await;
    harness.reopen().await;
    assert_eq!(current(harness).await, before);
    assert_eq!(harness.ends_at(port).await, Some(here(harness)));
    made(apply(harness, &remove(port)).await);
    harness.reopen().await;
    assert_eq!(current(harness).await, RouteTable::default());
    assert_eq!(harness.ends_at(port).await, None);
}

/// However far a change has come when it is dropped, it is in force whole or not at all.
pub async fn a_dropped_change_leaves_the_old_routes_or_the_new(harness: &dyn RouterHarness) {
    let mut new = set(tcp(harness, 1), target(&[harness.node_address()]));
    new.set.insert(tcp(harness, 2), target(&[harness.node_address()]));
    for n_steps in 0..6 {
        drop(drop_after(n_steps, apply(harness, &new)).await);
        let n_routes = current(harness).await.entries().len();
        assert!(n_routes == 0 || n_routes == 2, "{n_routes} of 2 routes");
        apply(harness, &new).await.unwrap();
        assert_eq!(current(harness).await.entries().len(), 2);
        let old = RouteChange {
            drop: new.set.keys().copied().collect(),
            ..RouteChange::default()
        };
        made(apply(harness, &old).await);
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn every_promise_is_in_the_list_of_tests() {
        let source = include_str!("router.rs");
        let promises: Vec<&str> = source
            .lines()
            .filter_map(|line| line.strip_prefix("pub async fn ")?.split('(').next())
            .collect();
        assert!(!promises.is_empty());
        for promise in promises {
            assert!(
                source.lines().any(|line| line.trim() == promise),
                "`{promise}` is never tried"
            );
        }
    }
}
