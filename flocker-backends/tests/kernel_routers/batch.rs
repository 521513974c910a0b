//! Routes are changed by a message to the kernel where it takes one, and by `nft` where it does not.

use std::net::SocketAddr;

use crate::network::ALPHA;
use crate::network::BETA;
use crate::network::BOX;
use crate::network::CLIENT;
use crate::network::GAMMA;
use crate::network::Ip;
use crate::network::Kind;
use crate::network::apply;
use crate::network::arrives;
use crate::network::build;
use crate::network::on;
use crate::network::ports;
use crate::network::serve;
use crate::network::set;
use crate::private::call;
use crate::private::privately;

/// Runs something where `nft` fails, whatever it is asked.
fn without_nft(work: impl FnOnce()) {
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
    serve(BETA, SocketAddr::new(beta, 80));
    serve(GAMMA, SocketAddr::new(gamma, 80));
    serve(BOX, SocketAddr::new(ip.container(2), 8080));
    let router = Kind::Nftables.router(ip.machine(1));
    // The rules, and the networks beside us, are made by `nft`.
    apply(ALPHA, &router, &set(80, &[beta]), None);
    apply(ALPHA, &router, &set(90, &[ip.machine(1)]), here);
    let to = |port| SocketAddr::new(ip.machine(1), port);
    without_nft(|| {
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
