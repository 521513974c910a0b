//! Datagrams go where the route of their port says, and connections to the same number elsewhere.

use std::io::Read as _;
use std::io::Write as _;
use std::net::IpAddr;
use std::net::SocketAddr;
use std::net::UdpSocket;
use std::time::Duration;
use std::time::Instant;

use flocker_model::ExternalPort;
use flocker_model::RouteChange;

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
use crate::network::on;
use crate::network::port;
use crate::network::serve;
use crate::network::set;
use crate::network::set_udp;
use crate::paths::drop_what_is_forwarded;
use crate::paths::join_containers;
use crate::private::call;

for_each_router! {
    datagrams_of_every_client_arrive
    datagrams_of_the_newer_addresses_arrive
    only_the_datagrams_of_a_moved_port_follow
    whoever_speaks_on_is_heard_when_there_is_a_home
    datagrams_to_a_link_arrive_wherever_its_application_is
    datagrams_that_go_round_are_dropped
    who_has_the_number_of_a_held_port_is_still_answered
}

/// How long an answer may take. Within one machine it takes none of it.
const PATIENCE: Duration = Duration::from_millis(400);

/// Answers on a machine for as long as the test lives: says where a datagram arrived and who it seems to be from.
fn answer(machine: &'static str, at: SocketAddr) {
    let socket = on(machine, || UdpSocket::bind(at).unwrap());
    std::thread::spawn(move || {
        let mut buffer = [0; 64];
        while let Ok((_, client)) = socket.recv_from(&mut buffer) {
            let said = format!("{machine} {}", client.ip());
            // A client that is gone says so here.
            drop(socket.send_to(said.as_bytes(), client));
        }
    });
}

/// Somebody who speaks to one address, and goes on.
struct Talk(UdpSocket);

impl Talk {
    fn new(from: &str, to: SocketAddr) -> Self {
        Self::with(from, to, 0)
    }

    /// One with a port of its own choice.
    fn with(from: &str, to: SocketAddr, own_port: u16) -> Self {
        on(from, || {
            let any = if to.is_ipv4() { "0.0.0.0" } else { "::" };
            let socket = UdpSocket::bind((any.parse::<IpAddr>().unwrap(), own_port)).unwrap();
            socket.connect(to).unwrap();
            socket.set_read_timeout(Some(PATIENCE)).unwrap();
            Self(socket)
        })
    }

    /// Says something and returns what is answered; that it is refused is no answer.
    fn ask(&self) -> String {
        let mut buffer = [0; 64];
        drop(self.0.send(b"who"));
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            if let Ok(n_bytes) = self.0.recv(&mut buffer) {
                return String::from_utf8_lossy(&buffer[..n_bytes]).into_owned();
            }
        }
        "nothing".into()
    }
}

/// What is answered to somebody who asks until it is: the first word may be lost while machines still look for each other.
fn asked(from: &str, to: SocketAddr) -> String {
    let talk = Talk::new(from, to);
    let answers = (0..10).map(|_| talk.ask());
    let mut heard = answers.filter(|answer| answer != "nothing");
    heard.next().unwrap_or_else(|| "nothing".into())
}

/// What is answered to somebody who asks once.
fn asked_once(from: &str, to: SocketAddr) -> String {
    Talk::new(from, to).ask()
}

/// Alpha serves port 80 of UDP by a container that listens at 8080, and that of TCP is beta's.
fn every_client_of(kind: Kind, ip: Ip) {
    build();
    drop_what_is_forwarded(kind);
    answer(BOX, SocketAddr::new(ip.container(2), 8080));
    serve(BETA, SocketAddr::new(ip.machine(2), 80));
    for (machine, number) in [(ALPHA, 1), (GAMMA, 3)] {
        let router = kind.router(ip.machine(number));
        let local = (machine == ALPHA).then(|| ip.container(2));
        let mut change = set(80, &[ip.machine(2)]);
        change.set.extend(set_udp(80, &[ip.machine(1)]).set);
        apply(machine, &router, &change, local);
    }
    let at = |number| SocketAddr::new(ip.machine(number), 80);
    assert_eq!(asked(CLIENT, at(1)), format!("box {}", ip.machine(9)));
    assert_eq!(asked(CLIENT, at(3)), format!("box {}", ip.machine(3)));
    assert_eq!(asked(BETA, at(1)), format!("box {}", ip.machine(2)));
    // Nodes are clients too: of others, and of themselves by any of their addresses.
    assert_eq!(asked(GAMMA, at(1)), format!("box {}", ip.machine(3)));
    assert_eq!(asked(GAMMA, at(3)), format!("box {}", ip.machine(3)));
    assert!(asked(ALPHA, at(1)).starts_with("box "));
    assert!(asked(ALPHA, SocketAddr::new(ip.container(1), 80)).starts_with("box "));
    for machine in [ALPHA, GAMMA] {
        let loopback = SocketAddr::new(ip.loopback(), 80);
        if ip == Ip::V6 && kind != Kind::Nftables {
            assert_eq!(asked_once(machine, loopback), "nothing", "{machine}");
        } else {
            assert!(asked(machine, loopback).starts_with("box "), "{machine}");
        }
    }
    // Containers: another one on the same bridge, and the very one that serves.
    assert!(asked(NEIGHBOUR, at(1)).starts_with("box "));
    on(ALPHA, || {
        for tables in ["ip", "ip6"] {
            call(&format!(
                "sysctl -q -e -w net.bridge.bridge-nf-call-{tables}tables=0"
            ));
        }
    });
    assert!(asked(BOX, at(1)).starts_with("box "));
    // Connections to the same number are another application's, and a number without a route is nobody's.
    assert!(arrives(CLIENT, at(1)).starts_with("beta "));
    assert!(arrives(ALPHA, at(1)).starts_with("beta "));
    assert_eq!(asked_once(CLIENT, SocketAddr::new(ip.machine(1), 81)), "nothing");
    if kind == Kind::Nftables {
        let open = on(GAMMA, || call("sysctl -n -a -r ^net.ipv4.conf.*route_localnet"));
        assert!(!open.contains('1'), "{open}");
    }
}

fn datagrams_of_every_client_arrive(kind: Kind) {
    every_client_of(kind, Ip::V4);
}

fn datagrams_of_the_newer_addresses_arrive(kind: Kind) {
    every_client_of(kind, Ip::V6);
}

fn only_the_datagrams_of_a_moved_port_follow(kind: Kind) {
    build();
    let ip = Ip::V4;
    let [beta, gamma] = [2, 3].map(|number| ip.machine(number));
    for port in [80, 81] {
        answer(BETA, SocketAddr::new(beta, port));
    }
    answer(GAMMA, SocketAddr::new(gamma, 80));
    serve(BETA, SocketAddr::new(beta, 80));
    let router = kind.router(ip.machine(1));
    let mut change = set(80, &[beta]);
    change.set.extend(set_udp(80, &[beta]).set);
    change.set.extend(set_udp(81, &[beta]).set);
    apply(ALPHA, &router, &change, None);
    // Somebody else leads another port to the same place.
    let foreign = "PREROUTING -d 10.77.0.1 -p udp --dport 9080 -j DNAT --to-destination 10.77.0.2:80";
    let iptables = kind.iptables();
    on(ALPHA, || {
        call(&format!("{iptables} -w -t nat -A {foreign}"));
        call(&format!(
            "{iptables} -w -t nat -A POSTROUTING -p udp -d 10.77.0.2 --dport 80 -j MASQUERADE"
        ));
    });
    let moved = [
        Talk::new(CLIENT, SocketAddr::new(ip.machine(1), 80)),
        Talk::new(ALPHA, SocketAddr::new(ip.machine(1), 80)),
        Talk::new(ALPHA, SocketAddr::new(ip.loopback(), 80)),
    ];
    let others = [
        Talk::new(CLIENT, SocketAddr::new(ip.machine(1), 81)),
        Talk::new(CLIENT, SocketAddr::new(ip.machine(1), 9080)),
        Talk::new(ALPHA, SocketAddr::new(beta, 80)),
    ];
    for talk in moved.iter().chain(&others) {
        assert!(talk.ask().starts_with("beta "));
    }
    let patience = Duration::from_secs(4);
    let (mut connection, _) = connect(CLIENT, SocketAddr::new(ip.machine(1), 80), patience).unwrap();
    // Whoever is forgotten by the kernel is not led there any more.
    on(ALPHA, || call(&format!("{iptables} -w -t nat -D {foreign}")));
    apply(ALPHA, &router, &set_udp(80, &[gamma]), None);
    for talk in &moved {
        assert!(talk.ask().starts_with("gamma "));
    }
    for talk in &others {
        assert!(talk.ask().starts_with("beta "), "somebody else's was forgotten");
    }
    let mut answer = [0; 4];
    connection.write_all(b"ping").unwrap();
    connection.read_exact(&mut answer).unwrap();
    // What is dropped answers no more.
    let dropped = RouteChange {
        drop: [ExternalPort::udp(port(80).number)].into(),
        ..RouteChange::default()
    };
    apply(ALPHA, &router, &dropped, None);
    for talk in &moved {
        assert_eq!(talk.ask(), "nothing");
    }
    assert!(arrives(CLIENT, SocketAddr::new(ip.machine(1), 80)).starts_with("beta "));
}

fn whoever_speaks_on_is_heard_when_there_is_a_home(kind: Kind) {
    build();
    let ip = Ip::V4;
    answer(BETA, SocketAddr::new(ip.machine(2), 80));
    let talks = [
        Talk::new(CLIENT, SocketAddr::new(ip.machine(1), 80)),
        Talk::new(ALPHA, SocketAddr::new(ip.machine(1), 80)),
        Talk::new(ALPHA, SocketAddr::new(ip.loopback(), 80)),
    ];
    let router = kind.router(ip.machine(1));
    let is_unheard = || talks.iter().all(|talk| talk.ask() == "nothing");
    let is_heard = || talks.iter().all(|talk| talk.ask().starts_with("beta "));
    // Before there is a route, while its application has no home, and when it has lost the one that it had.
    assert!(is_unheard());
    apply(ALPHA, &router, &set_udp(80, &[ip.machine(2)]), None);
    assert!(is_heard());
    apply(ALPHA, &router, &set_udp(80, &[]), None);
    assert!(is_unheard());
    apply(ALPHA, &router, &set_udp(80, &[ip.machine(2)]), None);
    assert!(is_heard());
}

fn datagrams_to_a_link_arrive_wherever_its_application_is(kind: Kind) {
    build();
    drop_what_is_forwarded(kind);
    let ip = Ip::V4;
    for (container, number) in [(BOX, 2), (NEIGHBOUR, 3)] {
        join_containers(container, number);
    }
    answer(BOX, ([10, 193, 0, 2], 8080).into());
    answer(BETA, SocketAddr::new(ip.machine(2), 5433));
    let router = kind.router(ip.machine(1));
    // Whatever port its clients expect; the address says which one of the node is meant, 5433.
    let talk = Talk::new(NEIGHBOUR, ([10, 194, 21, 57], 53).into());
    assert_eq!(talk.ask(), "nothing");
    let home = Some([10, 193, 0, 2].into());
    apply(ALPHA, &router, &set_udp(5433, &[ip.machine(1)]), home);
    assert!(talk.ask().starts_with("box "));
    apply(ALPHA, &router, &set_udp(5433, &[]), None);
    assert_eq!(talk.ask(), "nothing");
    apply(ALPHA, &router, &set_udp(5433, &[ip.machine(2)]), None);
    assert!(talk.ask().starts_with("beta "));
    // A connection would need a route of its own.
    let link = SocketAddr::from(([10, 194, 21, 57], 53));
    assert!(connect(NEIGHBOUR, link, PATIENCE).is_none());
}

fn datagrams_that_go_round_are_dropped(kind: Kind) {
    build();
    let ip = Ip::V4;
    // Each thinks that the other has it.
    for (machine, own, other) in [(ALPHA, 1, 2), (BETA, 2, 1)] {
        let router = kind.router(ip.machine(own));
        apply(machine, &router, &set_udp(80, &[ip.machine(other)]), None);
    }
    let talk = Talk::new(CLIENT, SocketAddr::new(ip.machine(1), 80));
    assert_eq!(talk.ask(), "nothing");
    let passed_on = |machine| counter(machine, "Ip", "ForwDatagrams");
    let n_passed = passed_on(ALPHA) + passed_on(BETA);
    assert!((1..=3).contains(&n_passed), "passed on {n_passed} times");
    // Two hops are what a move explains: alpha does not know yet that gamma has it.
    answer(GAMMA, SocketAddr::new(ip.machine(3), 80));
    let router = kind.router(ip.machine(2));
    apply(BETA, &router, &set_udp(80, &[ip.machine(3)]), None);
    assert!(talk.ask().starts_with("gamma "));
}

fn who_has_the_number_of_a_held_port_is_still_answered(kind: Kind) {
    build();
    let ip = Ip::V4;
    answer(BETA, SocketAddr::new(ip.machine(2), 7000));
    let router = kind.router(ip.machine(1));
    apply(ALPHA, &router, &set_udp(45_000, &[]), None);
    // The kernel may have given it just this number.
    let talk = Talk::with(ALPHA, SocketAddr::new(ip.machine(2), 7000), 45_000);
    assert!(talk.ask().starts_with("beta "));
}
