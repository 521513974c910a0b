//! Networks in which applications of a node live are written by messages to the kernel, as `nft` writes them.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use flocker_backends::Change;
use flocker_backends::Router;
use flocker_backends::conformance::run;
use flocker_backends::router::nftables::read_listing;
use flocker_model::ApplicationName;
use flocker_model::RouteChange;

use crate::batch::without_nft;
use crate::network::ALPHA;
use crate::network::Ip;
use crate::network::Kind;
use crate::network::apply;
use crate::network::build;
use crate::network::on;
use crate::network::port;
use crate::network::ports;
use crate::network::set;
use crate::network::target;
use crate::private::call;
use crate::private::call_with;
use crate::private::privately;

/// Networks, each with the address of alpha there and that of an application.
const NETWORKS: [(&str, &str, &str); 9] = [
    ("172.18.0.0/16", "172.18.0.1/16", "172.18.0.2"),
    ("172.19.0.0/16", "172.19.0.1/16", "172.19.0.2"),
    ("172.17.255.0/24", "172.17.255.1/24", "172.17.255.2"),
    ("10.9.9.9", "10.9.9.9/32", "10.9.9.9"),
    ("10.9.9.10", "10.9.9.10/32", "10.9.9.10"),
    // It has no end: it reaches to the highest address.
    ("240.0.0.0/4", "240.0.0.1/4", "240.0.0.2"),
    ("fd19::/64", "fd19::1/64", "fd19::2"),
    ("fd19:0:0:1::/64", "fd19:0:0:1::1/64", "fd19:0:0:1::2"),
    ("fd1a::9", "fd1a::9/128", "fd1a::9"),
];

fn own() -> IpAddr {
    Ip::V4.machine(1)
}

fn address(verb: &str, address: &str) {
    let nodad = if address.contains(':') && verb == "add" {
        " nodad"
    } else {
        ""
    };
    call(&format!("ip -n alpha addr {verb} {address} dev docker0{nodad}"));
}

/// Builds the machines, with these networks on alpha and a router that has made its rules there.
fn with_networks() -> Arc<dyn Router> {
    build();
    address("del", "172.18.0.1/24");
    for (_, of_alpha, _) in NETWORKS {
        address("add", of_alpha);
    }
    let router = Kind::Nftables.router(own());
    apply(ALPHA, &router, &set(80, &[Ip::V4.machine(2)]), None);
    router
}

fn without(number: u16) -> RouteChange {
    RouteChange {
        drop: [port(number)].into(),
        ..RouteChange::default()
    }
}

fn nft(order: &str) {
    on(ALPHA, || call_with("nft --file -", order));
}

/// Returns what `nft` shows of a set, and the elements of which it consists in the kernel.
fn shown(set: &str) -> (String, BTreeSet<String>) {
    let list = format!("nft --debug=netlink list set inet flocker {set}");
    let said = on(ALPHA, || call(&list));
    let is_element = |line: &&str| line.trim_start().starts_with("element ");
    // `nft` ends a range that is none at the lowest address, where a set was empty. Nothing follows from it.
    let is_lowest_end = |line: &str| {
        line.split_whitespace()
            .nth(1)
            .is_some_and(|key| key.bytes().all(|c| c == b'0'))
    };
    let (elements, rest): (Vec<&str>, Vec<&str>) = said.lines().partition(is_element);
    // It notes for itself where a range reaches to the highest address.
    let told = |line: &str| {
        line.split("userdata")
            .next()
            .unwrap_or_default()
            .trim()
            .to_owned()
    };
    let elements = elements.into_iter().map(told);
    (
        rest.join("\n"),
        elements.filter(|line| !is_lowest_end(line)).collect(),
    )
}

/// Says whether a router that has seen nothing yet finds everything as it is to be.
fn is_settled(change: &RouteChange, local: Option<IpAddr>) -> bool {
    let listing = on(ALPHA, || call("nft --json list table inet flocker"));
    let listed = read_listing(own(), listing.as_bytes()).unwrap();
    let router = Kind::Nftables.router(own());
    let told = ports(ALPHA, &router);
    assert_eq!(
        listed.entries().keys().map(|port| port.get()).collect::<Vec<_>>(),
        told
    );
    apply(ALPHA, &router, change, local) == Change::AlreadySo
}

#[test]
fn networks_are_written_as_nft_writes_them() {
    privately(|| {
        let router = with_networks();
        let both = || ["beside4", "beside6"].map(shown);
        let empty = both();
        for (network, _, application) in NETWORKS {
            let application: IpAddr = application.parse().unwrap();
            let set_name = if application.is_ipv4() {
                "beside4"
            } else {
                "beside6"
            };
            without_nft(|| {
                apply(ALPHA, &router, &set(90, &[own()]), Some(application));
            });
            let (text, elements) = shown(set_name);
            assert!(text.contains(&format!("elements = {{ {network} }}")), "{text}");
            let has_end = application != IpAddr::from([240, 0, 0, 2]);
            assert_eq!(
                elements.len(),
                1 + usize::from(has_end),
                "{network}: {elements:?}"
            );
            assert!(is_settled(&set(90, &[own()]), Some(application)), "{network}");
            // `nft` in our place.
            nft(&format!("flush set inet flocker {set_name}\n"));
            nft(&format!("add element inet flocker {set_name} {{ {network} }}\n"));
            assert_eq!(shown(set_name), (text, elements), "{network}");
            assert!(is_settled(&set(90, &[own()]), Some(application)), "{network}");
            // What it put in, we take out.
            assert_eq!(ports(ALPHA, &router), [80, 90]);
            without_nft(|| {
                apply(ALPHA, &router, &without(90), None);
            });
            assert_eq!(both(), empty, "{network}");
            // What we put in, it takes out, and we put in again.
            without_nft(|| {
                apply(ALPHA, &router, &set(90, &[own()]), Some(application));
            });
            nft(&format!(
                "delete element inet flocker {set_name} {{ {network} }}\n"
            ));
            assert_eq!(both(), empty, "{network}");
            without_nft(|| {
                assert_eq!(
                    apply(ALPHA, &router, &set(90, &[own()]), Some(application)),
                    Change::Made
                );
                apply(ALPHA, &router, &without(90), None);
            });
            assert_eq!(both(), empty, "{network}");
        }
    });
}

/// Makes a change where these applications are on this node, without `nft`.
fn apply_with(router: &Arc<dyn Router>, change: &RouteChange, local: &[(&str, &str)]) -> Change {
    let local: BTreeMap<ApplicationName, IpAddr> = local
        .iter()
        .map(|(name, address)| (name.parse().unwrap(), address.parse().unwrap()))
        .collect();
    let mut made = None;
    without_nft(|| {
        made = on(ALPHA, || {
            let mut made = None;
            run(async { made = Some(router.apply(change, &local).await.unwrap()) });
            made
        });
    });
    made.unwrap()
}

#[test]
fn networks_next_to_each_other_come_and_go_by_themselves() {
    privately(|| {
        let router = with_networks();
        let mut other = target(&[own()]);
        other.application = "other".parse().unwrap();
        let mut both = set(90, &[own()]);
        both.set.insert(port(91), other);
        let in_set = |networks: &str| {
            let (text, _) = shown("beside4");
            let words: Vec<&str> = text.split_whitespace().collect();
            let networks = format!("elements = {{ {networks} }}");
            assert!(words.join(" ").contains(&networks), "{text}");
        };
        for [one, another] in [
            ["172.18.0.2", "172.19.0.2"],
            ["172.19.0.2", "172.18.0.2"],
            ["172.19.0.2", "172.17.255.2"],
        ] {
            let network = |address| NETWORKS.iter().find(|(_, _, of)| *of == address).unwrap().0;
            let (first, second) = (network(one), network(another));
            let mut sorted = [first, second];
            sorted.sort_unstable();
            // Together, then the one without the other.
            apply_with(&router, &both, &[("site", one), ("other", another)]);
            in_set(&sorted.join(", "));
            apply_with(&router, &without(91), &[("site", one)]);
            in_set(first);
            // The one in place of the other, in one change, and back.
            apply_with(&router, &set(90, &[own()]), &[("site", another)]);
            in_set(second);
            apply_with(&router, &set(90, &[own()]), &[("site", one)]);
            in_set(first);
            // To what is there comes what is next to it, from `nft`, and is taken out by us.
            nft(&format!("add element inet flocker beside4 {{ {second} }}\n"));
            in_set(&sorted.join(", "));
            apply_with(&router, &set(90, &[own()]), &[("site", one)]);
            in_set(first);
        }
        // A network becomes part of a wider one, and alone again.
        in_set("172.19.0.0/16");
        address("add", "172.16.0.1/12");
        assert_eq!(
            apply_with(&router, &set(90, &[own()]), &[("site", "172.19.0.2")]),
            Change::Made
        );
        in_set("172.16.0.0/12");
        address("del", "172.16.0.1/12");
        assert_eq!(
            apply_with(&router, &set(90, &[own()]), &[("site", "172.19.0.2")]),
            Change::Made
        );
        in_set("172.19.0.0/16");
    });
}
