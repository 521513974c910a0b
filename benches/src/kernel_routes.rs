//! Routes in the kernel: all of them from nothing, one of many, reading them back, and what packets see of it.

use std::fmt::Write as _;
use std::io;
use std::ops::RangeInclusive;
use std::path::Path;

use flocker_model::ExternalPort;
use flocker_model::Home;
use flocker_model::PortNumber;
use flocker_model::RouteChange;
use flocker_model::RouteTarget;
use serde::Deserialize;
use serde::Serialize;

use crate::child;
use crate::cluster::application_name;
use crate::figure::Figure;
use crate::figure::Figures;
use crate::figure::Unit;

/// How many routes there are.
pub const SIZES: [u16; 3] = [100, 1_000, 10_000];

/// Runs a program in a network of its own, with other networks that it makes for itself.
const ENTER: &str = "mount -t tmpfs none /run && mkdir /run/netns && ip link set lo up && exec \"$0\" \"$@\"";

/// What `kernel_routes` has measured.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Measured {
    /// What was done.
    pub what: String,
    /// In what it was measured.
    pub unit: Unit,
    /// What came out each time.
    pub samples: Vec<f64>,
    /// What the median must not exceed, where something was promised.
    pub target: Option<f64>,
}

impl Measured {
    /// Makes one of seconds, of which nothing was promised.
    #[must_use]
    pub fn seconds(what: impl Into<String>, samples: Vec<f64>) -> Self {
        Self {
            what: what.into(),
            unit: Unit::Seconds,
            samples,
            target: None,
        }
    }

    /// Returns the sample in the middle.
    #[must_use]
    pub fn median(&self) -> f64 {
        Figure::new("", self.unit, self.samples.clone()).median
    }

    /// Returns the same with what it must not exceed.
    #[must_use]
    pub fn at_most(mut self, target: f64) -> Self {
        self.target = Some(target);
        self
    }
}

/// Returns a change that leads these ports to a node.
#[must_use]
pub fn change(ports: RangeInclusive<u16>, node: u8) -> RouteChange {
    let home = |address: [u8; 4]| {
        Some(Home {
            node: "beta".parse().ok()?,
            address: address.into(),
        })
    };
    let route = |number: u16| {
        let port = PortNumber::new(number)?;
        let target = RouteTarget {
            application: application_name(number.into()),
            internal: port,
            homes: home([10, 0, 0, node]).into_iter().collect(),
        };
        Some((ExternalPort::tcp(port), target))
    };
    RouteChange {
        set: ports.filter_map(route).collect(),
        ..RouteChange::default()
    }
}

/// Returns what `iptables-restore` reads for as many routes, three rules for each, as Flocker once wrote them.
#[must_use]
pub fn three_rules_each(n_routes: u16) -> String {
    let mut text = String::from("*nat\n");
    for port in 1..=n_routes {
        for chain in ["PREROUTING", "OUTPUT"] {
            writeln!(
                text,
                "-A {chain} -p tcp -m addrtype --dst-type LOCAL -m tcp --dport {port} -j DNAT --to-destination 10.0.0.2:{port}"
            )
            .unwrap_or_default();
        }
        writeln!(
            text,
            "-A POSTROUTING -d 10.0.0.2/32 -p tcp -m tcp --dport {port} -j MASQUERADE"
        )
        .unwrap_or_default();
    }
    text.push_str("COMMIT\n");
    text
}

/// Measures in a network of its own, so that this machine's packet filter stays as it is.
pub fn measure(figures: &mut Figures) -> io::Result<()> {
    let program = child::sibling("kernel_routes")?.display().to_string();
    let words = ["--mount", "--net", "sh", "-c", ENTER].map(String::from);
    let words: Vec<String> = words.into_iter().chain([program]).collect();
    let output = child::output(Path::new("unshare"), &words, Path::new("."))?;
    let Ok(measured) = serde_json::from_slice::<Vec<Measured>>(&output.stdout) else {
        let said = String::from_utf8_lossy(&output.stderr);
        figures.note(format!(
            "left out: routes in the kernel, which take root, `ip`, `nft` and `iptables`: {}",
            said.trim()
        ));
        return Ok(());
    };
    let figure = |measured: Measured| {
        let Measured {
            what,
            unit,
            samples,
            target,
        } = measured;
        let figure = Figure::new(format!("kernel routes, {what}"), unit, samples);
        match target {
            Some(target) => figure.at_most(target),
            None => figure,
        }
    };
    figures.figures.extend(measured.into_iter().map(figure));
    Ok(())
}
