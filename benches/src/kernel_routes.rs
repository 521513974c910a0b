//! Routes in the kernel: all of them from nothing, one of many, and reading them back.

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
pub const SIZES: [u16; 2] = [100, 10_000];

/// What `kernel_routes` has timed.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Measured {
    /// What was done.
    pub what: String,
    /// How long it took each time.
    pub seconds: Vec<f64>,
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

/// Measures in a network of its own, so that this machine's packet filter stays as it is.
pub fn measure(figures: &mut Figures) -> io::Result<()> {
    let program = child::sibling("kernel_routes")?.display().to_string();
    let output = child::output(Path::new("unshare"), &["--net".into(), program], Path::new("."))?;
    let Ok(measured) = serde_json::from_slice::<Vec<Measured>>(&output.stdout) else {
        let said = String::from_utf8_lossy(&output.stderr);
        figures.note(format!(
            "left out: routes in the kernel, which take root, `nft` and `iptables`: {}",
            said.trim()
        ));
        return Ok(());
    };
    let figure =
        |Measured { what, seconds }| Figure::new(format!("kernel routes, {what}"), Unit::Seconds, seconds);
    figures.figures.extend(measured.into_iter().map(figure));
    Ok(())
}
