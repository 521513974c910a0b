//! Routes are read and changed by messages to the kernel where it takes them, and by programs where it does not.

use std::net::IpAddr;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;

use flocker_backends::Router;
use flocker_backends::conformance::run;
use flocker_backends::router::nftables::read_listing;

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
use crate::network::for_each_router;
use crate::network::on;
use crate::network::ports;
use crate::network::serve;
use crate::network::set;
use crate::network::set_udp;
use crate::private::call;
use crate::private::call_with;
use crate::private::privately;

/// Runs something where `nft` fails, whatever it is asked.
pub(crate) fn without_nft(work: impl FnOnce()) {
    let nft = call("which nft");
    let nft = nft.trim();
    call(&format!("mount --bind /bin/false {nft}"));
    work();
    call(&format!("umount {nft}"));
}

fn routes_are_changed_without_any_program(ip: Ip) {
    build();
    let [beta, gamma] = [2, 3].map(|number| ip.machine(number));
    let here = Some(ip.container(2));
    serve(BETA, SocketAddr::new(beta, 90));
    serve(GAMMA, SocketAddr::new(gamma, 80));
    serve(BOX, SocketAddr::new(ip.container(2), 8080));
    let router = Kind::Nftables.router(ip.machine(1));
    // The rules are made by `nft`.
    apply(ALPHA, &router, &set(80, &[beta]), None);
    let to = |port| SocketAddr::new(ip.machine(1), port);
    without_nft(|| {
        // The first container of this node, and so the first network beside us.
        apply(ALPHA, &router, &set(90, &[ip.machine(1)]), here);
        // A client beside it gets its answers by way of this node.
        let beside = format!("box {}", ip.container(1));
        assert_eq!(arrives(NEIGHBOUR, to(90)), beside);
        apply(ALPHA, &router, &set(90, &[beta]), None);
        assert!(arrives(NEIGHBOUR, to(90)).starts_with("beta "));
        apply(ALPHA, &router, &set(90, &[ip.machine(1)]), here);
        assert_eq!(arrives(NEIGHBOUR, to(90)), beside);
        apply(ALPHA, &router, &set(80, &[gamma]), here);
        assert!(arrives(CLIENT, to(80)).starts_with("gamma "));
        apply(ALPHA, &router, &set(91, &[ip.machine(1)]), here);
        assert!(arrives(CLIENT, to(91)).starts_with("box "));
        apply(ALPHA, &router, &set(92, &[]), here);
        let dropped = flocker_model::RouteChange {
            drop: [crate::network::port(90)].into(),
            ..Default::default()
        };
        apply(ALPHA, &router, &dropped, here);
        assert_eq!(ports(ALPHA, &router), [80, 91, 92]);
        let reader = Kind::Nftables.router(ip.machine(1));
        assert_eq!(ports(ALPHA, &reader), [80, 91, 92]);
    });
    // Whoever reads what is there finds what was written, and nothing else.
    let reader = Kind::Nftables.router(ip.machine(1));
    assert_eq!(ports(ALPHA, &reader), [80, 91, 92]);
    assert_eq!(
        apply(ALPHA, &reader, &set(80, &[gamma]), here),
        flocker_backends::Change::AlreadySo
    );
}

#[test]
fn routes_are_changed_without_any_program_v4() {
    privately(|| routes_are_changed_without_any_program(Ip::V4));
}

#[test]
fn routes_are_changed_without_any_program_v6() {
    privately(|| routes_are_changed_without_any_program(Ip::V6));
}

fn the_kernel_tells_what_nft_lists(ip: Ip) {
    build();
    let own = ip.machine(1);
    let router = Kind::Nftables.router(own);
    let reader = Kind::Nftables.router(own);
    let told = |router: &Arc<dyn Router>| {
        on(ALPHA, || {
            let mut told = None;
            run(async { told = Some(router.current().await.unwrap()) });
            told.unwrap()
        })
    };
    let many: Vec<IpAddr> = (2..=30).map(|number| ip.machine(number)).collect();
    let here = Some(ip.container(2));
    let changes = [
        set(80, &[ip.machine(2)]),
        set(90, &[own]),
        set_udp(90, &[own]),
        set_udp(80, &[ip.machine(3)]),
        set(25, &[]),
        // A record of many parts.
        set(65_535, &many),
        set(80, &[ip.machine(3)]),
        set_udp(90, &[]),
    ];
    for change in changes {
        apply(ALPHA, &router, &change, here);
        let listing = on(ALPHA, || call("nft --json list table inet flocker"));
        let listed = read_listing(own, listing.as_bytes()).unwrap();
        assert!(!listed.entries().is_empty());
        assert_eq!(told(&reader), listed);
        assert_eq!(told(&router), listed);
        assert_eq!(
            apply(ALPHA, &reader, &change, here),
            flocker_backends::Change::AlreadySo
        );
    }
}

#[test]
fn the_kernel_tells_what_nft_lists_v4() {
    privately(|| the_kernel_tells_what_nft_lists(Ip::V4));
}

#[test]
fn the_kernel_tells_what_nft_lists_v6() {
    privately(|| the_kernel_tells_what_nft_lists(Ip::V6));
}

#[test]
fn rules_of_iptables_are_not_read_again_while_nobody_changes_any() {
    privately(|| {
        build();
        let ip = Ip::V4;
        serve(BETA, SocketAddr::new(ip.machine(2), 80));
        serve(GAMMA, SocketAddr::new(ip.machine(3), 80));
        let router = Kind::IptablesNft.router(ip.machine(1));
        apply(ALPHA, &router, &set(80, &[ip.machine(2)]), None);
        // It comes first among the places where programs are looked for.
        call("mount -t tmpfs none /usr/local/sbin");
        call("ln -s /bin/false /usr/local/sbin/iptables-nft-save");
        for n in 1..=10 {
            apply(ALPHA, &router, &set(80, &[ip.machine(2 + n % 2)]), None);
            apply(ALPHA, &router, &set(80 + u16::from(n), &[]), None);
        }
        assert_eq!(ports(ALPHA, &router).len(), 11);
        assert!(arrives(CLIENT, SocketAddr::new(ip.machine(1), 80)).starts_with("beta "));
        call("umount /usr/local/sbin");
        // Whoever reads what is there finds what was written, and nothing else.
        let reader = Kind::IptablesNft.router(ip.machine(1));
        assert_eq!(ports(ALPHA, &reader), ports(ALPHA, &router));
        assert_eq!(
            apply(ALPHA, &reader, &set(80, &[ip.machine(2)]), None),
            flocker_backends::Change::AlreadySo
        );
    });
}

for_each_router! {
    others_may_change_rules_all_the_time
}

fn others_may_change_rules_all_the_time(kind: Kind) {
    build();
    let ip = Ip::V4;
    serve(BETA, SocketAddr::new(ip.machine(2), 80));
    let router = kind.router(ip.machine(1));
    apply(ALPHA, &router, &set(80, &[ip.machine(2)]), None);
    let is_done = AtomicBool::new(false);
    let n_others = std::thread::scope(|scope| {
        let others = scope.spawn(|| {
            let mut n_others = 0;
            while !is_done.load(Ordering::Relaxed) {
                on(ALPHA, || {
                    call_with("nft -f -", "add table inet other\ndelete table inet other\n")
                });
                n_others += 1;
            }
            n_others
        });
        for n in 0..20 {
            let change = set(81 + n % 2, &[ip.machine(2 + u8::from(n % 4 < 2))]);
            assert_eq!(
                apply(ALPHA, &router, &change, None),
                flocker_backends::Change::Made
            );
        }
        is_done.store(true, Ordering::Relaxed);
        others.join().unwrap()
    });
    assert!(n_others > 0);
    let reader = kind.router(ip.machine(1));
    assert_eq!(ports(ALPHA, &reader), [80, 81, 82]);
    assert_eq!(
        apply(ALPHA, &reader, &set(82, &[ip.machine(2)]), None),
        flocker_backends::Change::AlreadySo
    );
    assert!(arrives(CLIENT, SocketAddr::new(ip.machine(1), 80)).starts_with("beta "));
}

#[test]
fn what_somebody_else_has_changed_is_seen_before_a_change() {
    privately(|| {
        build();
        let ip = Ip::V4;
        serve(BETA, SocketAddr::new(ip.machine(2), 80));
        let router = Kind::Nftables.router(ip.machine(1));
        apply(ALPHA, &router, &set(80, &[ip.machine(2)]), None);
        apply(ALPHA, &router, &set(81, &[ip.machine(2)]), None);
        // The element that the next change would take out is gone: a message alone would be refused.
        on(ALPHA, || call("nft delete element inet flocker ends4 { 81 }"));
        apply(ALPHA, &router, &set(81, &[ip.machine(3)]), None);
        assert_eq!(ports(ALPHA, &router), [80, 81]);
        assert!(arrives(CLIENT, SocketAddr::new(ip.machine(1), 80)).starts_with("beta "));
    });
}
