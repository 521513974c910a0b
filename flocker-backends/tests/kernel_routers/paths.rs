//! Connections from everywhere end where the route says, past a firewall that drops what it does not know.

use std::net::SocketAddr;
use std::time::Duration;

use crate::network::ALPHA;
use crate::network::BETA;
use crate::network::BOX;
use crate::network::CLIENT;
use crate::network::GAMMA;
use crate::network::Ip;
use crate::network::Kind;
use crate::network::NEIGHBOUR;
use crate::network::apply;
use crate::network::arrives;
use crate::network::build;
use crate::network::connect;
use crate::network::counter;
use crate::network::for_each_router;
use crate::network::is_refused;
use crate::network::on;
use crate::network::ports;
use crate::network::serve;
use crate::network::set;
use crate::private::call;

for_each_router! {
    every_client_arrives
    every_client_of_the_newer_addresses_arrives
    what_goes_round_is_dropped
    services_at_loopback_stay_unreachable_for_others
}

/// Docker's way: what is forwarded is dropped unless somebody lets it pass.
fn drop_what_is_forwarded(kind: Kind) {
    for machine in [ALPHA, BETA, GAMMA] {
        for version in ["iptables", "ip6tables"] {
            let program = kind.iptables().replace("iptables", version);
            on(machine, || call(&format!("{program} -w -P FORWARD DROP")));
        }
    }
}

/// Alpha serves port 80 by a container that listens at 8080.
fn every_client_of(kind: Kind, ip: Ip) {
    build();
    drop_what_is_forwarded(kind);
    serve(BOX, SocketAddr::new(ip.container(2), 8080));
    for (machine, number) in [(ALPHA, 1), (BETA, 2), (GAMMA, 3)] {
        let router = kind.router(ip.machine(number));
        let local = (machine == ALPHA).then(|| ip.container(2));
        apply(machine, &router, &set(80, &[ip.machine(1)]), local);
        assert_eq!(ports(machine, &router), [80]);
    }
    let at = |number| SocketAddr::new(ip.machine(number), 80);
    // The container sees who it is that comes by its own node.
    assert_eq!(arrives(CLIENT, at(1)), format!("box {}", ip.machine(9)));
    assert_eq!(arrives(CLIENT, at(2)), format!("box {}", ip.machine(2)));
    assert_eq!(arrives(CLIENT, at(3)), format!("box {}", ip.machine(3)));
    // Nodes are clients too: of others, and of themselves by any of their addresses.
    assert_eq!(arrives(BETA, at(1)), format!("box {}", ip.machine(2)));
    assert_eq!(arrives(BETA, at(2)), format!("box {}", ip.machine(2)));
    assert_eq!(arrives(BETA, at(3)), format!("box {}", ip.machine(3)));
    assert!(arrives(ALPHA, at(1)).starts_with("box "));
    assert!(arrives(ALPHA, SocketAddr::new(ip.container(1), 80)).starts_with("box "));
    for machine in [ALPHA, BETA] {
        let loopback = SocketAddr::new(ip.loopback(), 80);
        if ip == Ip::V6 && kind != Kind::Nftables {
            assert!(is_refused(machine, loopback), "{machine}");
        } else {
            assert!(arrives(machine, loopback).starts_with("box "), "{machine}");
        }
    }
    // Containers: another one on the same bridge, and the very one that serves.
    assert!(arrives(NEIGHBOUR, at(1)).starts_with("box "));
    assert!(arrives(NEIGHBOUR, SocketAddr::new(ip.container(1), 80)).starts_with("box "));
    // Where bridges pass packets through the filter as well, the latter takes a bridge that sends back where something came from.
    on(ALPHA, || {
        for tables in ["ip", "ip6"] {
            call(&format!(
                "sysctl -q -e -w net.bridge.bridge-nf-call-{tables}tables=0"
            ));
        }
    });
    assert!(arrives(BOX, at(1)).starts_with("box "));
    // A port without a route is nobody's.
    assert!(is_refused(CLIENT, SocketAddr::new(ip.machine(1), 81)));
}

fn every_client_arrives(kind: Kind) {
    every_client_of(kind, Ip::V4);
}

fn every_client_of_the_newer_addresses_arrives(kind: Kind) {
    every_client_of(kind, Ip::V6);
}

/// How many packets a machine has received by wire.
fn received(machine: &str) -> u64 {
    let counter = || std::fs::read_to_string("/proc/thread-self/net/dev").unwrap();
    let counters = on(machine, counter);
    let wire = counters
        .lines()
        .find_map(|line| line.trim().strip_prefix("eth0:"))
        .unwrap();
    wire.split_whitespace().nth(1).unwrap().parse().unwrap()
}

fn what_goes_round_is_dropped(kind: Kind) {
    build();
    let ip = Ip::V4;
    // Each thinks that the other has it.
    apply(
        ALPHA,
        &kind.router(ip.machine(1)),
        &set(80, &[ip.machine(2)]),
        None,
    );
    apply(
        BETA,
        &kind.router(ip.machine(2)),
        &set(80, &[ip.machine(1)]),
        None,
    );
    let patience = Duration::from_millis(500);
    assert!(connect(CLIENT, SocketAddr::new(ip.machine(1), 80), patience).is_none());
    // By alpha, by beta, and no further.
    let passed_on = |machine| counter(machine, "Ip", "ForwDatagrams");
    let n_passed = passed_on(ALPHA) + passed_on(BETA);
    assert!((1..=3).contains(&n_passed), "passed on {n_passed} times");
    // Two hops are what a move explains: alpha does not know yet that gamma has it.
    apply(
        BETA,
        &kind.router(ip.machine(2)),
        &set(80, &[ip.machine(3)]),
        None,
    );
    serve(GAMMA, SocketAddr::new(ip.machine(3), 80));
    assert!(arrives(CLIENT, SocketAddr::new(ip.machine(1), 80)).starts_with("gamma "));
}

fn services_at_loopback_stay_unreachable_for_others(kind: Kind) {
    build();
    let ip = Ip::V4;
    serve(BETA, SocketAddr::new(ip.loopback(), 7000));
    serve(ALPHA, SocketAddr::new(ip.machine(1), 80));
    apply(
        BETA,
        &kind.router(ip.machine(2)),
        &set(80, &[ip.machine(1)]),
        None,
    );
    // A machine that sends packets for loopback addresses out by wire.
    on(CLIENT, || {
        call("sysctl -q -w net.ipv4.conf.all.route_localnet=1");
        call("ip route del local 127.0.0.0/8 dev lo table local");
        call("ip route del local 127.0.0.1 dev lo table local");
        call("ip route add 127.0.0.1 via 10.77.0.2 dev eth0 src 10.77.0.9");
    });
    let before = received(BETA);
    let patience = Duration::from_millis(500);
    assert!(connect(CLIENT, SocketAddr::new(ip.loopback(), 7000), patience).is_none());
    assert!(received(BETA) > before, "it was not even sent");
    // Its own clients reach both.
    assert!(arrives(BETA, SocketAddr::new(ip.loopback(), 7000)).starts_with("beta "));
    assert!(arrives(BETA, SocketAddr::new(ip.loopback(), 80)).starts_with("alpha "));
    if kind == Kind::Nftables {
        let open = on(BETA, || call("sysctl -n -a -r ^net.ipv4.conf.*route_localnet"));
        assert!(!open.contains('1'), "{open}");
    } else {
        let open = on(BETA, || call("sysctl -n net.ipv4.conf.all.route_localnet"));
        assert_eq!(open.trim(), "0");
    }
}
