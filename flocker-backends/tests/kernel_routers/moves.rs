//! What becomes of connections when a route changes.

use std::io::ErrorKind;
use std::io::Read as _;
use std::io::Write as _;
use std::net::IpAddr;
use std::net::SocketAddr;
use std::net::TcpStream;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::Instant;

use crate::network::ALPHA;
use crate::network::BETA;
use crate::network::CLIENT;
use crate::network::GAMMA;
use crate::network::Ip;
use crate::network::Kind;
use crate::network::apply;
use crate::network::arrives;
use crate::network::build;
use crate::network::connect;
use crate::network::counter;
use crate::network::for_each_router;
use crate::network::on;
use crate::network::ports;
use crate::network::serve;
use crate::network::set;
use crate::private::call;

for_each_router! {
    only_connections_of_a_moved_port_are_broken
    a_client_that_waits_arrives_when_there_is_a_home
    a_client_that_waits_for_a_silent_home_arrives_at_the_new_one
    no_connection_to_any_other_port_is_lost_while_routes_change
}

const PATIENCE: Duration = Duration::from_secs(4);

/// Says whether the other side still repeats what it is told. An answer or an end has to come.
fn is_alive(stream: &mut TcpStream) -> bool {
    let mut answer = [0; 4];
    let told = stream
        .write_all(b"ping")
        .and_then(|()| stream.read_exact(&mut answer));
    match told {
        Ok(()) => answer == *b"ping",
        Err(error) => {
            let is_silence = matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut);
            assert!(!is_silence, "neither an answer nor an end");
            false
        }
    }
}

fn only_connections_of_a_moved_port_are_broken(kind: Kind) {
    build();
    let ip = Ip::V4;
    let [beta, gamma] = [2, 3].map(|number| ip.machine(number));
    serve(BETA, SocketAddr::new(beta, 80));
    serve(BETA, SocketAddr::new(beta, 81));
    serve(GAMMA, SocketAddr::new(gamma, 80));
    let router = kind.router(ip.machine(1));
    apply(ALPHA, &router, &set(80, &[beta]), None);
    apply(ALPHA, &router, &set(81, &[beta]), None);
    // Somebody else leads another port to the same place.
    let foreign = "-d 10.77.0.1 -p tcp --dport 9080 -j DNAT --to-destination 10.77.0.2:80";
    let iptables = kind.iptables();
    on(ALPHA, || {
        call(&format!("{iptables} -w -t nat -A PREROUTING {foreign}"));
        call(&format!(
            "{iptables} -w -t nat -A POSTROUTING -p tcp -d 10.77.0.2 --dport 80 -j MASQUERADE"
        ));
    });
    let open = |from, address: IpAddr, port| {
        let (mut stream, greeting) = connect(from, SocketAddr::new(address, port), PATIENCE).unwrap();
        assert!(greeting.starts_with("beta "), "{greeting}");
        assert!(is_alive(&mut stream));
        stream
    };
    let mut moved = [
        open(CLIENT, ip.machine(1), 80),
        open(ALPHA, ip.machine(1), 80),
        open(ALPHA, ip.loopback(), 80),
    ];
    let mut others = [
        open(CLIENT, ip.machine(1), 81),
        open(CLIENT, ip.machine(1), 9080),
        open(CLIENT, beta, 80),
        open(ALPHA, beta, 80),
    ];
    apply(ALPHA, &router, &set(80, &[gamma]), None);
    for (n, stream) in moved.iter_mut().enumerate() {
        assert!(
            !is_alive(stream),
            "connection {n} goes on to where the application was"
        );
    }
    for (n, stream) in others.iter_mut().enumerate() {
        assert!(is_alive(stream), "connection {n} was not to be touched");
    }
    assert!(arrives(CLIENT, SocketAddr::new(ip.machine(1), 80)).starts_with("gamma "));
    // A port that is dropped breaks what goes through it, too.
    let (mut last, _) = connect(CLIENT, SocketAddr::new(ip.machine(1), 80), PATIENCE).unwrap();
    let dropped = flocker_model::RouteChange {
        drop: [crate::network::port(80)].into(),
        ..Default::default()
    };
    apply(ALPHA, &router, &dropped, None);
    assert!(!is_alive(&mut last));
    assert_eq!(ports(ALPHA, &router), [81]);
}

/// Connects while a route leads to `before`, which is nowhere or does not answer, and changes it to beta once the first packet was sent.
fn wait_for_a_home(kind: Kind, before: &[IpAddr]) {
    build();
    let ip = Ip::V4;
    let beta = ip.machine(2);
    serve(BETA, SocketAddr::new(beta, 80));
    on(GAMMA, || call("iptables -w -A INPUT -p tcp --dport 80 -j DROP"));
    let router = kind.router(ip.machine(1));
    apply(ALPHA, &router, &set(80, before), None);
    let clients = [
        (CLIENT, ip.machine(1)),
        (ALPHA, ip.machine(1)),
        (ALPHA, ip.loopback()),
    ];
    std::thread::scope(|scope| {
        let waiting: Vec<_> = clients
            .into_iter()
            .map(|(from, to)| scope.spawn(move || arrives(from, SocketAddr::new(to, 80))))
            .collect();
        for from in [CLIENT, ALPHA] {
            let deadline = Instant::now() + PATIENCE;
            while !on(from, || call("ss -Htn state syn-sent")).contains(":80") {
                assert!(Instant::now() < deadline, "{from} has not begun");
            }
        }
        apply(ALPHA, &router, &set(80, &[beta]), None);
        for (client, (from, to)) in waiting.into_iter().zip(clients) {
            let arrived = client.join().unwrap();
            assert!(arrived.starts_with("beta "), "from {from} to {to}: {arrived}");
        }
    });
}

fn a_client_that_waits_arrives_when_there_is_a_home(kind: Kind) {
    wait_for_a_home(kind, &[]);
}

fn a_client_that_waits_for_a_silent_home_arrives_at_the_new_one(kind: Kind) {
    wait_for_a_home(kind, &[Ip::V4.machine(3)]);
}

fn no_connection_to_any_other_port_is_lost_while_routes_change(kind: Kind) {
    build();
    let ip = Ip::V4;
    serve(BETA, SocketAddr::new(ip.machine(2), 81));
    let router = kind.router(ip.machine(1));
    apply(ALPHA, &router, &set(81, &[ip.machine(2)]), None);
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let clients = scope.spawn(|| {
            let mut n_arrived = 0;
            while !is_over.load(Ordering::Relaxed) {
                assert!(arrives(CLIENT, SocketAddr::new(ip.machine(1), 81)).starts_with("beta "));
                n_arrived += 1;
            }
            n_arrived
        });
        for n in 0..20 {
            apply(ALPHA, &router, &set(80, &[ip.machine(2 + n % 2)]), None);
        }
        is_over.store(true, Ordering::Relaxed);
        let n_arrived = clients.join().unwrap();
        assert!(n_arrived > 20, "only {n_arrived} connections");
        assert_eq!(counter(CLIENT, "Tcp", "RetransSegs"), 0, "packets were lost");
    });
}
