//! Connections from everywhere end where the route says, past a firewall that drops what it does not know.

use std::net::SocketAddr;
use std::time::Duration;

use crate::loopback::is_closed_to_the_client;
use crate::loopback::send_loopback_to_beta;
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
    a_link_leads_to_its_application_wherever_it_is
    what_goes_round_is_dropped
    services_at_loopback_stay_unreachable_for_others
}

/// Docker's way: what is forwarded is dropped unless somebody lets it pass.
pub(crate) fn drop_what_is_forwarded(kind: Kind) {
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

/// Makes a machine's container a neighbour in the network of our containers.
pub(crate) fn join_containers(container: &str, number: u8) {
    on(ALPHA, || call("ip addr replace 10.193.0.1/16 dev docker0"));
    on(container, || {
        call(&format!("ip addr add 10.193.0.{number}/16 dev eth0"));
        call(&format!(
            "ip route add 10.194.0.0/16 via 10.193.0.1 src 10.193.0.{number}"
        ));
    });
}

fn a_link_leads_to_its_application_wherever_it_is(kind: Kind) {
    build();
    drop_what_is_forwarded(kind);
    let ip = Ip::V4;
    for (container, number) in [(BOX, 2), (NEIGHBOUR, 3)] {
        join_containers(container, number);
    }
    serve(BOX, ([10, 193, 0, 2], 8080).into());
    serve(BETA, SocketAddr::new(ip.machine(2), 5433));
    serve(GAMMA, SocketAddr::new(ip.machine(3), 5433));
    let router = kind.router(ip.machine(1));
    // Whatever port its clients expect; the address says which one of the node is meant, 5433.
    let link = |port: u16| SocketAddr::from(([10, 194, 21, 57], port));
    let patience = Duration::from_millis(500);
    let is_silent = |to| connect(NEIGHBOUR, to, patience).is_none() && !is_refused(NEIGHBOUR, to);
    let home = Some([10, 193, 0, 2].into());
    apply(ALPHA, &router, &set(5433, &[ip.machine(1)]), home);
    assert!(arrives(NEIGHBOUR, link(5432)).starts_with("box "));
    assert!(arrives(NEIGHBOUR, link(80)).starts_with("box "));
    let (mut before, _) = connect(NEIGHBOUR, link(5432), Duration::from_secs(4)).unwrap();
    for (machine, number) in [(BETA, 2), (GAMMA, 3)] {
        apply(ALPHA, &router, &set(5433, &[ip.machine(number)]), None);
        let expected = format!("{machine} {}", ip.machine(1));
        assert_eq!(arrives(NEIGHBOUR, link(5432)), expected);
        assert_eq!(
            ports(ALPHA, &kind.router(ip.machine(1))),
            [5433],
            "what is read is what was set"
        );
    }
    // A connection to where it was is ended with its first word.
    let told = std::io::Write::write_all(&mut before, b"ping");
    let answered = told.and_then(|()| std::io::Read::read_exact(&mut before, &mut [0; 4]));
    assert!(answered.is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionReset));
    on(ALPHA, || call("ip route add default via 10.77.0.2"));
    // A port that is not routed leads nowhere, and nothing leaves the node for it.
    let unknown = SocketAddr::from(([10, 194, 21, 58], 5432));
    let sent = || counter(BETA, "Ip", "InReceives");
    // The last words of the connections above may still be on their way the first time. What leaves does so each time.
    let leaves_nothing = || {
        let before = sent();
        assert!(connect(NEIGHBOUR, unknown, patience).is_none());
        sent() == before
    };
    assert!((0..5).any(|_| leaves_nothing()), "packets leave the node");
    // Nor does one whose application has no home yet; the client goes on trying.
    apply(ALPHA, &router, &set(5433, &[]), None);
    assert!(is_silent(link(5432)));
    // Others do not enter so.
    apply(ALPHA, &router, &set(5433, &[ip.machine(2)]), None);
    on(CLIENT, || call("ip route add 10.194.0.0/16 via 10.77.0.1"));
    assert!(connect(CLIENT, link(5432), patience).is_none());
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
    send_loopback_to_beta();
    assert!(is_closed_to_the_client(7000));
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
