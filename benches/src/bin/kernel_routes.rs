//! Changes routes in the kernel and prints what that took, as JSON.
//!
//! Run it in a network of its own (`unshare --net`): it writes to the packet
//! filter of the network in which it is, and refuses where there is more than
//! loopback. It starts itself as the clients and servers that send through it.

use std::collections::BTreeMap;
use std::future::Future;
use std::io;
use std::io::Write as _;
use std::net::IpAddr;
use std::path::Path;
use std::time::Instant;

use flocker_backends::Router;
use flocker_backends::RouterError;
use flocker_backends::router::iptables::IptablesRouter;
use flocker_backends::router::iptables::Variant;
use flocker_backends::router::nftables::NftablesRouter;
use flocker_benches::child;
use flocker_benches::figure::Figure;
use flocker_benches::figure::Unit;
use flocker_benches::kernel_routes::Measured;
use flocker_benches::kernel_routes::SIZES;
use flocker_benches::kernel_routes::change;
use flocker_benches::kernel_routes::three_rules_each;
use flocker_benches::packets;
use flocker_benches::packets::Running;
use flocker_model::RouteChange;

const OWN: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 1));

/// The port that packets go through. All others lead somewhere else.
const PORT: u16 = 77;

/// The library of `nft`, in process: the elements of one route taken out and put in, as often as it is told.
const LIBRARY: &str = r#"
import ctypes, json, sys, time
nft = ctypes.CDLL("libnftables.so.1")
nft.nft_ctx_new.restype = ctypes.c_void_p
context = ctypes.c_void_p(nft.nft_ctx_new(0))
def elements(verb, to):
    led = f"10.0.0.{to} . 7"
    is_new = verb == "add"
    ends = f" : {led}" if is_new else ""
    comment = f' comment "app-7/7/beta=10.0.0.{to}/"' if is_new else ""
    sets = [("ends4", f"7{ends}"), ("there4", f"7 . {led}"), ("links", f"10.194.0.7{ends}"),
            ("linkthere", f"10.194.0.7 . {led}"), ("records", f"7 . 0{comment}")]
    return "".join(f"{verb} element inet flocker {name} {{ {says} }}\n" for name, says in sets)
took, to = [], int(sys.argv[1])
for n in range(15):
    other = 5 - to
    text = (elements("delete", to) + elements("add", other)).encode()
    began = time.perf_counter()
    if nft.nft_run_cmd_from_buffer(context, text):
        sys.exit("nft refuses")
    took.append(time.perf_counter() - began)
    to = other
print(json.dumps(took))
"#;

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

fn drop_all(change: &RouteChange) -> RouteChange {
    RouteChange {
        drop: change.set.keys().copied().collect(),
        ..RouteChange::default()
    }
}

/// Times `iptables-restore --noflush`, and takes away what it has written.
fn restore(rules: &str) -> io::Result<f64> {
    let file = tempfile::NamedTempFile::new()?;
    std::fs::write(file.path(), rules)?;
    let start = Instant::now();
    child::call(&format!("iptables-restore --noflush {}", file.path().display()))?;
    let seconds = start.elapsed().as_secs_f64();
    child::call("iptables -w -t nat -F")?;
    Ok(seconds)
}

/// Returns what `iptables-restore` reads for the rules that are in our chains now: all that routes have are in this table.
fn rules_of_ours() -> io::Result<String> {
    let words = ["-t", "nat"].map(String::from);
    let output = child::output(Path::new("iptables-save"), &words, Path::new("."))?;
    let saved = String::from_utf8_lossy(&output.stdout);
    let ours = saved
        .lines()
        .filter(|line| line.starts_with(":FLOCKER-") || line.starts_with("-A FLOCKER-"));
    let lines: Vec<&str> = ["*nat"].into_iter().chain(ours).chain(["COMMIT\n"]).collect();
    Ok(lines.join("\n"))
}

async fn measure(name: &str, n_routes: u16, measured: &mut Vec<Measured>) -> io::Result<()> {
    let local = BTreeMap::new();
    let call = |what: &str| format!("{name}: {what} {n_routes}");
    let all = change(1..=n_routes, 2);
    let none = drop_all(&all);
    let router = make(name);
    let (mut from_nothing, mut restored, mut same) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..5 {
        // In turn, so that what else the machine does falls on all.
        restored.push(restore(&three_rules_each(n_routes))?);
        from_nothing.push(timed(router.apply(&all, &local)).await?);
        let rules = rules_of_ours()?;
        timed(router.apply(&none, &local)).await?;
        if name == "iptables" {
            same.push(restore(&rules)?);
        }
    }
    timed(router.apply(&all, &local)).await?;
    let restored = Measured::seconds(
        format!("{name}: `iptables-restore` of three rules for each of {n_routes}, in turn"),
        restored,
    );
    let mut from_nothing = Measured::seconds(call("from nothing"), from_nothing);
    if name == "nft" && n_routes == 10_000 {
        from_nothing = from_nothing.at_most(restored.median() / 10.0);
    }
    if name == "iptables" {
        let same = Measured::seconds(call("`iptables-restore` of the same rules, for"), same);
        if n_routes == 10_000 {
            from_nothing = from_nothing.at_most(same.median());
        }
        measured.push(same);
    }
    let mut one = Vec::new();
    for n in 0..30 {
        one.push(timed(router.apply(&change(7..=7, 3 - n % 2), &local)).await?);
    }
    let mut one = Measured::seconds(call("change one of"), one);
    measured.extend([restored, from_nothing]);
    if name == "nft" {
        let words = ["-c", LIBRARY, "2"].map(String::from);
        let output = child::output(Path::new("python3"), &words, Path::new("."))?;
        // Without Python or the library there is nothing to compare with.
        if let Ok(took) = serde_json::from_slice(&output.stdout) {
            let took = Measured::seconds(
                call("the library of `nft`, in process, for the elements of one of"),
                took,
            );
            if n_routes == 10_000 {
                one = one.at_most(2.0 * took.median());
            }
            measured.push(took);
        }
    }
    measured.push(one);
    // What somebody else has changed is read again first.
    timed(router.current()).await?;
    let mut again = Vec::new();
    for _ in 0..15 {
        again.push(timed(router.current()).await?);
    }
    measured.push(Measured::seconds(call("read again"), again));
    let mut read = Vec::new();
    for _ in 0..3 {
        read.push(timed(make(name).current()).await?);
    }
    measured.push(Measured::seconds(call("read after a restart"), read));
    timed(router.apply(&none, &local)).await?;
    Ok(())
}

/// Measures how long a client waits for its first answer where there is one route, and where there are ten thousand.
async fn first_packets(name: &str, measured: &mut Vec<Measured>) -> io::Result<()> {
    let local = BTreeMap::new();
    let router = make(name);
    let many = change(1_000..=10_998, 2);
    let mut waits = [Vec::new(), Vec::new()];
    timed(router.apply(&change(PORT..=PORT, 2), &local)).await?;
    for n in 0..14 {
        let change = if n % 2 == 0 { drop_all(&many) } else { many.clone() };
        timed(router.apply(&change, &local)).await?;
        let met = Running::connect(PORT, Some(500))?.end()?;
        let median = Figure::new("", Unit::Seconds, met.seconds).median;
        // The first round of each does not count.
        if let (Some(waits), 2..) = (waits.get_mut(n % 2), n) {
            waits.push(median);
        }
    }
    let [one, many] = waits;
    let one = Measured::seconds(format!("{name}: first packet with one route"), one);
    let mut many = Measured::seconds(format!("{name}: first packet with 10 000 routes"), many);
    if name == "nft" {
        many = many.at_most(1.15 * one.median());
    }
    measured.extend([one, many]);
    Ok(())
}

/// Retargets one port a thousand times while a client connects to another.
async fn retarget(measured: &mut Vec<Measured>) -> io::Result<()> {
    let local = BTreeMap::new();
    let router = make("nft");
    timed(router.current()).await?;
    let client = Running::connect(PORT, None)?;
    let mut took = Vec::new();
    for n in 0..1_000_u16 {
        let node = if n % 2 == 0 { 3 } else { 2 };
        took.push(timed(router.apply(&change(1_000..=1_000, node), &local)).await?);
    }
    let met = client.end()?;
    let what = |what: &str| format!("nft: during 1 000 retargets of one of 10 000 routes: {what}");
    let count = |name: &str, count: f64| Measured {
        what: what(name),
        unit: Unit::Count,
        samples: vec![count],
        target: None,
    };
    let n_made = u32::try_from(met.seconds.len()).unwrap_or(u32::MAX);
    let n_again = u32::try_from(met.n_sent_again).unwrap_or(u32::MAX);
    measured.extend([
        Measured::seconds(what("each"), took),
        count("connections to another port that were made", n_made.into()),
        count("connections to another port that were lost", met.n_lost.into()).at_most(0.0),
        count("packets sent again", n_again.into()),
    ]);
    Ok(())
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> io::Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words[..] {
        ["serve", port] => return packets::serve(port.parse().map_err(io::Error::other)?),
        ["connect", to] => return packets::connect(to, None),
        ["connect", to, times] => {
            return packets::connect(to, Some(times.parse().map_err(io::Error::other)?));
        }
        _ => {}
    }
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
    packets::build()?;
    let server = Running::serve(PORT)?;
    first_packets("nft", &mut measured).await?;
    retarget(&mut measured).await?;
    drop(server);
    writeln!(io::stdout(), "{}", serde_json::to_string(&measured)?)
}
