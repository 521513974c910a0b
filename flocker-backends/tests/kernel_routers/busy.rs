//! Somebody else keeps us from the rules: what is to be done fails in time, with who and what, and nothing is done by halves.

use std::fs::File;
use std::fs::OpenOptions;
use std::net::IpAddr;
use std::net::Ipv4Addr;
use std::time::Duration;
use std::time::Instant;

use flocker_backends::Router as _;
use flocker_backends::RouterError;
use flocker_backends::conformance::run;
use flocker_backends::router::choice::Preference;
use flocker_backends::router::choice::choose;
use flocker_backends::router::nftables::NftablesRouter;
use nix::fcntl::Flock;
use nix::fcntl::FlockArg;

use crate::network::Ip;
use crate::network::set;
use crate::private::call;
use crate::private::privately;

/// Longer than a program waits, and than it takes to end it.
const PATIENCE: Duration = Duration::from_secs(80);

/// Makes the older variant of `iptables` the one of this host, and connects it.
fn host_of_the_older_variant() -> IpAddr {
    call("mount -t tmpfs none /usr/local/sbin");
    for version in ["iptables", "ip6tables"] {
        for part in ["", "-save", "-restore"] {
            call(&format!(
                "ln -s /usr/sbin/xtables-legacy-multi /usr/local/sbin/{version}{part}"
            ));
        }
    }
    call("ip link add eth0 type veth peer name far");
    call("ip addr add 10.77.0.1/24 dev eth0");
    call("ip link set eth0 up");
    call("ip link set far up");
    Ip::V4.machine(1)
}

/// Holds what every program of the older variant waits for.
fn hold() -> Flock<File> {
    let lock = OpenOptions::new()
        .create(true)
        .append(true)
        .open("/run/xtables.lock")
        .unwrap();
    Flock::lock(lock, FlockArg::LockExclusiveNonblock).unwrap()
}

/// Everything that an error says.
fn told(error: &RouterError) -> String {
    let mut told = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        told = format!("{told}: {cause}");
        source = cause.source();
    }
    told
}

#[test]
fn no_router_is_chosen_while_what_another_has_made_cannot_be_taken_back() {
    privately(|| {
        let own = host_of_the_older_variant();
        run(async {
            let older = choose(Preference::Iptables, own).await.unwrap();
            let change = set(80, &[Ip::V4.machine(2)]);
            older.apply(&change, &[].into()).await.unwrap();
            let held = hold();
            let begun = Instant::now();
            let refused = choose(Preference::Auto, own).await.unwrap_err();
            assert!(begun.elapsed() < PATIENCE, "{:?}", begun.elapsed());
            assert!(
                matches!(
                    refused,
                    RouterError::TwoRouters {
                        program: "iptables",
                        ..
                    }
                ),
                "{refused:?}"
            );
            let told = told(&refused);
            assert!(told.contains("xtables lock"), "{told}");
            assert!(
                told.contains("remove our rule from `PREROUTING` in the table `raw`"),
                "{told}"
            );
            // It is all as it was, for the router that goes on.
            assert!(call("iptables-legacy-save").contains("FLOCKER-ENTER"));
            assert!(!call("nft list tables").contains("flocker"));
            drop(held);
            choose(Preference::Auto, own).await.unwrap();
            assert!(!call("iptables-legacy-save").contains("FLOCKER"));
        });
    });
}

#[test]
fn a_router_is_chosen_where_the_program_of_the_other_is_not_installed() {
    privately(|| {
        call("mount --bind /dev/null /usr/sbin/xtables-nft-multi");
        run(async {
            choose(Preference::Auto, IpAddr::V4(Ipv4Addr::LOCALHOST))
                .await
                .unwrap();
        });
    });
}

#[test]
fn no_router_is_chosen_while_the_rules_of_another_are_in_force_whose_program_has_gone() {
    privately(|| {
        call("ip link add eth0 type veth peer name far");
        call("ip addr add 10.77.0.1/24 dev eth0");
        call("ip link set eth0 up");
        let own = Ip::V4.machine(1);
        run(async {
            let older = choose(Preference::Iptables, own).await.unwrap();
            let change = set(80, &[Ip::V4.machine(2)]);
            older.apply(&change, &[].into()).await.unwrap();
            call("mount --bind /dev/null /usr/sbin/xtables-nft-multi");
            let refused = choose(Preference::Auto, own).await.unwrap_err();
            let is_two = matches!(
                refused,
                RouterError::TwoRouters {
                    program: "iptables",
                    ..
                }
            );
            assert!(is_two, "{refused:?}");
            let told = told(&refused);
            assert!(told.contains("the chain `FLOCKER-ENTER` is there"), "{told}");
            assert!(told.contains("install it again"), "{told}");
            assert!(!call("nft list tables").contains("flocker"));
            call("umount /usr/sbin/xtables-nft-multi");
            choose(Preference::Auto, own).await.unwrap();
            assert!(!call("iptables-save").contains("FLOCKER"));
        });
    });
}

#[test]
fn rules_that_cannot_be_read_in_time_are_not_taken_for_none() {
    privately(|| {
        let own = host_of_the_older_variant();
        call("iptables-legacy -w -P FORWARD DROP");
        run(async {
            let held = hold();
            let router = NftablesRouter::new(own);
            let change = set(80, &[Ip::V4.machine(2)]);
            let begun = Instant::now();
            let refused = router.apply(&change, &[].into()).await.unwrap_err();
            assert!(begun.elapsed() < PATIENCE, "{:?}", begun.elapsed());
            let told = told(&refused);
            assert!(
                told.contains("read the rules of `FORWARD` in the table `filter`"),
                "{told}"
            );
            assert!(told.contains("xtables lock"), "{told}");
            drop(held);
            router.apply(&change, &[].into()).await.unwrap();
            assert!(call("iptables-legacy-save").contains("flocker:pass"));
        });
    });
}
