//! Other people's rules stay as they are, to the byte, and ours work among them.

use std::net::SocketAddr;

use flocker_backends::Change;
use flocker_backends::RouterError;
use flocker_backends::conformance::run;
use flocker_backends::router::choice::Preference;
use flocker_backends::router::choice::choose;
use flocker_backends::router::choice::try_out;
use flocker_backends::router::iptables::IptablesRouter;
use flocker_backends::router::iptables::Variant;
use flocker_backends::router::nftables::NftablesRouter;

use crate::network::ALPHA;
use crate::network::BETA;
use crate::network::BOX;
use crate::network::CLIENT;
use crate::network::Ip;
use crate::network::Kind;
use crate::network::NEIGHBOUR;
use crate::network::apply;
use crate::network::arrives;
use crate::network::build;
use crate::network::for_each_router;
use crate::network::on;
use crate::network::ports;
use crate::network::serve;
use crate::network::set;
use crate::private::call;
use crate::private::call_with;
use crate::private::privately;

const DOCKER: &str = include_str!("../data/foreign/docker.rules");
const FIREWALLD: &str = include_str!("../data/foreign/firewalld.nft");

for_each_router! {
    rules_of_others_stay_as_they_are
    what_others_have_made_by_a_name_of_ours_stays_as_it_is
}

fn save(kind: Kind) -> String {
    call(&format!("{}-save", kind.iptables()))
}

/// The rules and chains of a saved text that are not ours, each with its table. What only says that a built-in chain is there is left out.
fn foreign(saved: &str) -> Vec<String> {
    let mut table = "";
    let mut kept = Vec::new();
    for line in saved.lines() {
        if let Some(name) = line.strip_prefix('*') {
            table = name;
        }
        let is_ours = line.contains("FLOCKER-") || line.contains("flocker:");
        if line.starts_with("-A") && !is_ours {
            kept.push(format!("{table} {line}"));
        }
        // Its counters go on counting.
        if line.starts_with(':') && !line.contains(" ACCEPT ") && !is_ours {
            let chain: Vec<&str> = line.split(' ').take(2).collect();
            kept.push(format!("{table} {}", chain.join(" ")));
        }
    }
    kept
}

pub(crate) fn withdraw(kind: Kind) -> Change {
    let own = Ip::V4.machine(1);
    let mut change = None;
    run(async {
        let withdrawn = match kind {
            Kind::Nftables => NftablesRouter::new(own).withdraw().await,
            Kind::IptablesNft => IptablesRouter::new(own, Variant::Nft).withdraw().await,
            Kind::IptablesLegacy => IptablesRouter::new(own, Variant::Legacy).withdraw().await,
        };
        change = Some(withdrawn.unwrap());
    });
    change.unwrap()
}

fn rules_of_others_stay_as_they_are(kind: Kind) {
    build();
    let ip = Ip::V4;
    on(ALPHA, || {
        call_with(&format!("{}-restore", kind.iptables()), DOCKER);
        call_with("nft -f -", FIREWALLD);
        call("sysctl -q -w net.ipv4.ip_forward=1");
    });
    serve(BOX, SocketAddr::new(ip.container(2), 8080));
    serve(NEIGHBOUR, SocketAddr::new(ip.container(3), 80));
    serve(BETA, SocketAddr::new(ip.machine(2), 81));
    let firewalld = || on(ALPHA, || call("nft list table inet firewalld"));
    let saved = || foreign(&on(ALPHA, || save(kind)));
    let (before, firewalld_before) = (saved(), firewalld());
    assert!(before.len() > 20, "{before:?}");

    let router = kind.router(ip.machine(1));
    apply(ALPHA, &router, &set(80, &[ip.machine(1)]), Some(ip.container(2)));
    apply(ALPHA, &router, &set(81, &[ip.machine(2)]), Some(ip.container(2)));
    assert_eq!((saved(), firewalld()), (before.clone(), firewalld_before.clone()));
    let at = |port| SocketAddr::new(ip.machine(1), port);
    assert!(arrives(CLIENT, at(80)).starts_with("box "));
    assert!(arrives(CLIENT, at(81)).starts_with("beta "));
    // What others do goes on as before, the client's own address included.
    assert_eq!(arrives(CLIENT, at(9080)), format!("neighbour {}", ip.machine(9)));

    // Dropped and set again, it is all in the same place.
    apply(ALPHA, &router, &set(80, &[]), None);
    assert_eq!((saved(), firewalld()), (before.clone(), firewalld_before.clone()));
    assert_eq!(on(ALPHA, || withdraw(kind)), Change::Made);
    assert_eq!(on(ALPHA, || withdraw(kind)), Change::AlreadySo);
    assert_eq!((saved(), firewalld()), (before, firewalld_before));
    let left = on(ALPHA, || [save(kind), call("nft list ruleset")].concat());
    assert!(!left.to_lowercase().contains("flocker"), "{left}");
    assert_eq!(arrives(CLIENT, at(9080)), format!("neighbour {}", ip.machine(9)));
    assert_eq!(ports(ALPHA, &router), [0; 0]);
}

const BLOCKLIST: &str = "table inet flocker {
    set blocked { type ipv4_addr; elements = { 192.0.2.1, 192.0.2.2 }; }
    chain input { type filter hook input priority 0; ip saddr @blocked drop; }
}";

/// What somebody has made that is called as ours is, how it is listed, and how it is called.
fn make_foreign(kind: Kind) -> (Vec<String>, &'static str) {
    let tool = kind.iptables();
    if kind == Kind::Nftables {
        call_with("nft -f -", BLOCKLIST);
        return (
            vec!["nft list table inet flocker".into()],
            "the table `inet flocker`",
        );
    }
    call(&format!("{tool} -w -t raw -N FLOCKER-HOLD"));
    call(&format!("{tool} -w -t raw -A FLOCKER-HOLD -s 192.0.2.1 -j DROP"));
    call(&format!("{tool} -w -t raw -A PREROUTING -j FLOCKER-HOLD"));
    (
        vec![format!("{tool} -w -t raw -S")],
        "the chain `FLOCKER-HOLD` of the table `raw`",
    )
}

fn remove_foreign(kind: Kind) {
    let tool = kind.iptables();
    if kind == Kind::Nftables {
        call("nft delete table inet flocker");
    } else {
        call(&format!("{tool} -w -t raw -F"));
        call(&format!("{tool} -w -t raw -X FLOCKER-HOLD"));
    }
}

fn what_others_have_made_by_a_name_of_ours_stays_as_it_is(kind: Kind) {
    build();
    let router = kind.router(Ip::V4.machine(1));
    let change = set(80, &[Ip::V4.machine(2)]);
    on(ALPHA, || {
        let (listings, called) = make_foreign(kind);
        let listed = || listings.iter().map(|line| call(line)).collect::<String>();
        let before = listed();
        assert!(before.contains("192.0.2.1"), "{before}");
        run(async {
            let refused = router.apply(&change, &[].into()).await.unwrap_err();
            assert!(
                matches!(&refused, RouterError::Foreign { what } if what == called),
                "{refused:?}"
            );
            assert!(refused.to_string().starts_with(called), "{refused}");
            assert!(router.current().await.unwrap().entries().is_empty());
        });
        assert_eq!(listed(), before);
        assert_eq!(withdraw(kind), Change::AlreadySo);
        assert_eq!(listed(), before);
        remove_foreign(kind);
    });
    assert_eq!(apply(ALPHA, &router, &change, None), Change::Made);
    assert_eq!(ports(ALPHA, &router), [80]);
    // What is ours stays so, also with a rule of somebody else in it.
    let others = if kind == Kind::Nftables {
        "nft add rule inet flocker leave ip saddr 192.0.2.1 drop".to_owned()
    } else {
        format!(
            "{} -w -t raw -A FLOCKER-HOLD -s 192.0.2.1 -j DROP",
            kind.iptables()
        )
    };
    on(ALPHA, || call(&others));
    assert_eq!(apply(ALPHA, &router, &change, None), Change::Made);
    assert_eq!(on(ALPHA, || withdraw(kind)), Change::Made);
}

#[test]
fn a_filter_in_which_somebody_else_has_our_name_is_not_chosen() {
    privately(|| {
        let own = Ip::V4.machine(1);
        call_with("nft -f -", BLOCKLIST);
        let before = call("nft list table inet flocker");
        run(async {
            // That `nft` lists tables says nothing of whether it can carry ours.
            let refused = choose(Preference::Nftables, own).await.unwrap_err();
            let told = refused.to_string();
            assert!(told.contains("the table `inet flocker` is in the way"), "{told}");
            let tried = try_out(Preference::Nftables, own).await.unwrap_err();
            assert_eq!(tried.to_string(), told);
            assert_eq!(try_out(Preference::Auto, own).await.unwrap(), "iptables");
            let other = choose(Preference::Auto, own).await.unwrap();
            assert!(format!("{other:?}").starts_with("IptablesRouter"), "{other:?}");
        });
        assert_eq!(call("nft list table inet flocker"), before);
    });
}

#[test]
fn the_newer_filter_is_chosen_where_it_works_and_what_the_older_carried_is_taken_back() {
    privately(|| {
        let own = Ip::V4.machine(1);
        call("ip link add eth0 type veth peer name far");
        call("ip addr add 10.77.0.1/24 dev eth0");
        run(async {
            let older = choose(Preference::Iptables, own).await.unwrap();
            let change = set(80, &[Ip::V4.machine(2)]);
            older.apply(&change, &[].into()).await.unwrap();
            assert!(call("iptables-save").contains("FLOCKER-ENTER"));
            let newer = choose(Preference::Auto, own).await.unwrap();
            assert!(!call("iptables-save").contains("FLOCKER"));
            newer.apply(&change, &[].into()).await.unwrap();
            assert!(call("nft list tables").contains("inet flocker"));
            choose(Preference::Iptables, own).await.unwrap();
            assert!(!call("nft list tables").contains("inet flocker"));
        });
    });
}
