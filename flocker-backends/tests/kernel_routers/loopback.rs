//! What listens at 127.0.0.1 is nobody else's business, also when the rules that see to that are taken away.

use std::net::SocketAddr;
use std::time::Duration;

use flocker_backends::Change;
use flocker_backends::conformance::run;
use flocker_backends::router::choice::Preference;
use flocker_backends::router::choice::choose;
use flocker_model::RouteChange;

use crate::foreign::withdraw;
use crate::network::ALPHA;
use crate::network::BETA;
use crate::network::CLIENT;
use crate::network::Ip;
use crate::network::Kind;
use crate::network::apply;
use crate::network::arrives;
use crate::network::build;
use crate::network::connect;
use crate::network::for_each_router;
use crate::network::on;
use crate::network::port;
use crate::network::ports;
use crate::network::serve;
use crate::network::set;
use crate::private::call;
use crate::private::privately;

for_each_router!(iptables_nft, IptablesNft,
    l15_an_interface_is_closed_to_loopback_addresses_before_its_guard_goes
    l15_an_interface_without_its_guard_is_closed_at_the_next_look
    l15_what_others_have_opened_to_loopback_addresses_stays_open
);
for_each_router!(iptables_legacy, IptablesLegacy,
    l15_an_interface_is_closed_to_loopback_addresses_before_its_guard_goes
    l15_an_interface_without_its_guard_is_closed_at_the_next_look
    l15_what_others_have_opened_to_loopback_addresses_stays_open
);

/// Makes the client a machine that sends packets for its loopback addresses out by wire, to beta.
pub(crate) fn send_loopback_to_beta() {
    on(CLIENT, || {
        call("sysctl -q -w net.ipv4.conf.all.route_localnet=1");
        call("ip route del local 127.0.0.0/8 dev lo table local");
        call("ip route del local 127.0.0.1 dev lo table local");
        call("ip route add 127.0.0.1 via 10.77.0.2 dev eth0 src 10.77.0.9");
    });
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

/// Says whether such a packet comes to beta and goes no further.
pub(crate) fn is_closed_to_the_client(number: u16) -> bool {
    let before = received(BETA);
    let patience = Duration::from_millis(500);
    let connected = connect(CLIENT, SocketAddr::new(Ip::V4.loopback(), number), patience);
    assert!(received(BETA) > before, "it was not even sent");
    connected.is_none()
}

fn switch(interface: &str) -> String {
    let says = on(BETA, || {
        call(&format!("sysctl -n net.ipv4.conf.{interface}.route_localnet"))
    });
    says.trim().to_owned()
}

/// Beta serves something for itself alone, and leads port 80 to alpha.
fn serve_both() {
    build();
    serve(BETA, SocketAddr::new(Ip::V4.loopback(), 7000));
    serve(ALPHA, SocketAddr::new(Ip::V4.machine(1), 80));
    send_loopback_to_beta();
}

fn own_client_arrives() -> bool {
    arrives(BETA, SocketAddr::new(Ip::V4.loopback(), 80)).starts_with("alpha ")
}

fn l15_an_interface_is_closed_to_loopback_addresses_before_its_guard_goes(kind: Kind) {
    serve_both();
    let router = kind.router(Ip::V4.machine(2));
    let change = set(80, &[Ip::V4.machine(1)]);
    apply(BETA, &router, &change, None);
    assert_ne!(switch("eth0"), "0");
    assert!(own_client_arrives());
    // Another run of ours, which knows of nothing but what it finds.
    assert_eq!(on(BETA, || withdraw(kind)), Change::Made);
    assert_eq!(switch("eth0"), "0");
    assert!(is_closed_to_the_client(7000));
    assert_eq!(on(BETA, || withdraw(kind)), Change::AlreadySo);
    // Where nothing is led out any more, it is closed, too.
    apply(BETA, &router, &change, None);
    assert!(own_client_arrives());
    let dropped = RouteChange {
        drop: [port(80)].into(),
        ..RouteChange::default()
    };
    apply(BETA, &router, &dropped, None);
    assert_eq!(switch("eth0"), "0");
    // What ends at this node itself leaves it by no interface.
    apply(
        BETA,
        &router,
        &set(80, &[Ip::V4.machine(2)]),
        Some(Ip::V4.machine(2)),
    );
    assert_eq!(switch("eth0"), "0");
    assert_eq!(ports(BETA, &router), [80]);
}

fn l15_an_interface_without_its_guard_is_closed_at_the_next_look(kind: Kind) {
    serve_both();
    let router = kind.router(Ip::V4.machine(2));
    let change = set(80, &[Ip::V4.machine(1)]);
    apply(BETA, &router, &change, None);
    let raw = format!("{} -w -t raw", kind.iptables());
    let ways = [
        format!("{raw} -F"),
        format!("{raw} -F PREROUTING"),
        format!("{raw} -F FLOCKER-GUARD"),
        format!("{raw} -D FLOCKER-GUARD 1"),
    ];
    for flush in ways {
        on(BETA, || call(&flush));
        assert!(ports(BETA, &router).is_empty(), "after `{flush}`");
        assert_eq!(switch("eth0"), "0", "after `{flush}`");
        assert!(is_closed_to_the_client(7000), "after `{flush}`");
        assert_eq!(apply(BETA, &router, &change, None), Change::Made);
        assert_ne!(switch("eth0"), "0", "repaired after `{flush}`");
        assert!(is_closed_to_the_client(7000), "repaired after `{flush}`");
        assert!(own_client_arrives(), "repaired after `{flush}`");
    }
    // Also where nothing of ours is left but the switch.
    for table in ["raw", "filter", "mangle", "nat"] {
        let tool = kind.iptables();
        on(BETA, || {
            call(&format!("{tool} -w -t {table} -F"));
            call(&format!("{tool} -w -t {table} -X"));
        });
    }
    assert_eq!(on(BETA, || withdraw(kind)), Change::Made);
    assert_eq!(switch("eth0"), "0");
}

fn l15_what_others_have_opened_to_loopback_addresses_stays_open(kind: Kind) {
    serve_both();
    on(BETA, || {
        call("sysctl -q -w net.ipv4.conf.eth0.route_localnet=1");
    });
    let router = kind.router(Ip::V4.machine(2));
    let change = set(80, &[Ip::V4.machine(1)]);
    apply(BETA, &router, &change, None);
    assert!(is_closed_to_the_client(7000));
    assert_eq!(on(BETA, || withdraw(kind)), Change::Made);
    assert_eq!(switch("eth0"), "1");
}

#[test]
fn l15_the_newer_filter_leaves_no_interface_open_that_the_older_has_opened() {
    privately(|| {
        let own = Ip::V4.machine(1);
        call("ip link add eth0 type veth peer name far");
        call("ip addr add 10.77.0.1/24 dev eth0");
        call("ip link set eth0 up");
        call("ip link set far up");
        let switch = || {
            call("sysctl -n net.ipv4.conf.eth0.route_localnet")
                .trim()
                .to_owned()
        };
        run(async {
            let older = choose(Preference::Iptables, own).await.unwrap();
            older
                .apply(&set(80, &[Ip::V4.machine(2)]), &[].into())
                .await
                .unwrap();
            assert_ne!(switch(), "0");
            choose(Preference::Auto, own).await.unwrap();
            assert_eq!(switch(), "0");
        });
    });
}
