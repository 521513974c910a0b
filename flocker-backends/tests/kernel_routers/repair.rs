//! What somebody flushes is seen as lost, and comes back with the next change.

use std::net::SocketAddr;

use flocker_backends::Change;

use crate::network::ALPHA;
use crate::network::BETA;
use crate::network::CLIENT;
use crate::network::Ip;
use crate::network::Kind;
use crate::network::apply;
use crate::network::arrives;
use crate::network::build;
use crate::network::for_each_router;
use crate::network::on;
use crate::network::ports;
use crate::network::serve;
use crate::network::set;
use crate::private::call;

for_each_router! {
    whatever_is_flushed_comes_back
    what_is_flushed_between_two_changes_comes_back
}

const ANY: &[&str] = &["sysctl -q -w net.ipv4.ip_forward=0"];

const NFTABLES: &[&str] = &[
    "nft flush ruleset",
    "nft delete table inet flocker",
    "nft flush table inet flocker",
    "nft flush chain inet flocker leave",
    "nft flush map inet flocker ends4",
    "nft flush set inet flocker records",
    "nft flush set inet flocker there4",
    "nft insert rule inet flocker enter accept",
    // A firewall of the other kind comes up, and is emptied again.
    "iptables -w -P FORWARD DROP",
    "iptables -w -F",
];

const IPTABLES: &[&str] = &[
    "IPTABLES -w -F",
    "IPTABLES -w -t nat -F",
    "IPTABLES -w -t nat -F FLOCKER-ENTER",
    "IPTABLES -w -t nat -F FLOCKER-LEAVE",
    "IPTABLES -w -t nat -F FLOCKER-RECORDS",
    "IPTABLES -w -t nat -D FLOCKER-ENTER 1",
    "IPTABLES -w -t raw -F PREROUTING",
    "IPTABLES -w -t mangle -F FORWARD",
    "IPTABLES -w -F FORWARD",
    "IPTABLES -w -t nat -I FLOCKER-ENTER -j RETURN",
    "sysctl -q -w net.ipv4.conf.eth0.route_localnet=0",
];

fn whatever_is_flushed_comes_back(kind: Kind) {
    build();
    let ip = Ip::V4;
    let router = kind.router(ip.machine(1));
    serve(BETA, SocketAddr::new(ip.machine(2), 80));
    let change = set(80, &[ip.machine(2)]);
    assert_eq!(apply(ALPHA, &router, &change, None), Change::Made);
    let own = match kind {
        Kind::Nftables => NFTABLES,
        Kind::IptablesNft | Kind::IptablesLegacy => IPTABLES,
    };
    for line in ANY.iter().chain(own) {
        assert_eq!(ports(ALPHA, &router), [80], "before `{line}`");
        on(ALPHA, || call(&line.replace("IPTABLES", kind.iptables())));
        assert_eq!(ports(ALPHA, &router), [0; 0], "after `{line}`");
        assert_eq!(
            apply(ALPHA, &router, &change, None),
            Change::Made,
            "after `{line}`"
        );
        assert_eq!(ports(ALPHA, &router), [80], "repaired after `{line}`");
        assert!(
            arrives(CLIENT, SocketAddr::new(ip.machine(1), 80)).starts_with("beta "),
            "after `{line}`"
        );
        assert_eq!(
            apply(ALPHA, &router, &change, None),
            Change::AlreadySo,
            "after `{line}`"
        );
    }
}

/// Nobody looks in between: it is the change itself that has to notice.
fn what_is_flushed_between_two_changes_comes_back(kind: Kind) {
    build();
    let ip = Ip::V4;
    let router = kind.router(ip.machine(1));
    serve(BETA, SocketAddr::new(ip.machine(2), 80));
    assert_eq!(
        apply(ALPHA, &router, &set(80, &[ip.machine(2)]), None),
        Change::Made
    );
    let own = match kind {
        Kind::Nftables => NFTABLES,
        Kind::IptablesNft | Kind::IptablesLegacy => IPTABLES,
    };
    for (line, n) in own.iter().zip(2..) {
        on(ALPHA, || call(&line.replace("IPTABLES", kind.iptables())));
        // What was lost is said again with what is new, as whoever converges says it.
        let mut change = set(81, &[ip.machine(n)]);
        change.set.extend(set(80, &[ip.machine(2)]).set);
        assert_eq!(
            apply(ALPHA, &router, &change, None),
            Change::Made,
            "after `{line}`"
        );
        assert!(
            arrives(CLIENT, SocketAddr::new(ip.machine(1), 80)).starts_with("beta "),
            "after `{line}`"
        );
        assert_eq!(
            ports(ALPHA, &kind.router(ip.machine(1))),
            [80, 81],
            "after `{line}`"
        );
    }
}
