//! Changes routes in the kernel and prints what that took, as JSON: seconds, by what was done.
//!
//! Run it in a network of its own (`unshare --net`): it writes to the packet
//! filter of the network in which it is, and refuses where there is more than loopback.

use std::collections::BTreeMap;
use std::future::Future;
use std::io;
use std::io::Write as _;
use std::net::IpAddr;
use std::time::Instant;

use flocker_backends::Router;
use flocker_backends::RouterError;
use flocker_backends::router::iptables::IptablesRouter;
use flocker_backends::router::iptables::Variant;
use flocker_backends::router::nftables::NftablesRouter;
use flocker_benches::kernel_routes::Measured;
use flocker_benches::kernel_routes::SIZES;
use flocker_benches::kernel_routes::change;
use flocker_model::RouteChange;

const OWN: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 1));

fn make(name: &str) -> Box<dyn Router> {
    match name {
        "nft" => Box::new(NftablesRouter::new(OWN)),
        _ => Box::new(IptablesRouter::new(OWN, Variant::Host)),
    }
}

async fn timed<T>(work: impl Future<Output = Result<T, RouterError>>) -> io::Result<f64> {
    let start = Instant::now();
    work.await.map_err(io::Error::other)?;
    Ok(start.elapsed().as_secs_f64())
}

async fn measure(name: &str, n_routes: u16, measured: &mut Vec<Measured>) -> io::Result<()> {
    let local = BTreeMap::new();
    let mut add = |what: &str, seconds: Vec<f64>| {
        measured.push(Measured {
            what: format!("{name}: {what} {n_routes}"),
            seconds,
        });
    };
    let all = change(1..=n_routes, 2);
    let drop = RouteChange {
        drop: all.set.keys().copied().collect(),
        ..RouteChange::default()
    };
    let router = make(name);
    let mut from_nothing = Vec::new();
    for _ in 0..3 {
        from_nothing.push(timed(router.apply(&all, &local)).await?);
        timed(router.apply(&drop, &local)).await?;
    }
    timed(router.apply(&all, &local)).await?;
    add("from nothing", from_nothing);
    let mut one = Vec::new();
    for n in 0..15 {
        one.push(timed(router.apply(&change(7..=7, 3 + n), &local)).await?);
    }
    add("change one of", one);
    let mut again = Vec::new();
    for _ in 0..15 {
        again.push(timed(router.current()).await?);
    }
    add("read again", again);
    let mut read = Vec::new();
    for _ in 0..3 {
        read.push(timed(make(name).current()).await?);
    }
    add("read after a restart", read);
    timed(router.apply(&drop, &local)).await?;
    Ok(())
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> io::Result<()> {
    let interfaces = std::fs::read_to_string("/proc/net/dev")?;
    if interfaces
        .lines()
        .skip(2)
        .any(|line| !line.trim_start().starts_with("lo:"))
    {
        return Err(io::Error::other("this is not a network of its own"));
    }
    let mut measured = Vec::new();
    for name in ["nft", "iptables"] {
        for n_routes in SIZES {
            measure(name, n_routes, &mut measured).await?;
        }
    }
    writeln!(io::stdout(), "{}", serde_json::to_string(&measured)?)
}
