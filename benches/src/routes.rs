//! Route tables: equal ones are told by their digest, different ones by their entries.

use std::collections::BTreeMap;
use std::num::NonZeroU16;

use flocker_model::ExternalPort;
use flocker_model::PortNumber;
use flocker_model::RouteChange;
use flocker_model::RouteTable;
use flocker_model::RouteTarget;

use crate::cluster::application_name;
use crate::figure::Figure;
use crate::figure::Figures;

/// The largest table that is measured. There can be no more than 65 535 ports.
const N_ROUTES: u16 = 40_000;

/// The port whose route changes.
const PORT: ExternalPort = ExternalPort::tcp(PortNumber(NonZeroU16::MIN));

fn target(application: u32) -> RouteTarget {
    RouteTarget {
        application: application_name(application),
        internal: PORT.number,
        homes: Vec::new(),
    }
}

fn table(n_routes: u16) -> RouteTable {
    let ports = (1..=n_routes).filter_map(PortNumber::new).map(ExternalPort::tcp);
    let entries: BTreeMap<ExternalPort, RouteTarget> =
        ports.map(|port| (port, target(port.get().into()))).collect();
    entries.into()
}

/// Measures comparing and changing.
pub fn measure(figures: &mut Figures) {
    let (one, same) = (table(N_ROUTES), table(N_ROUTES));
    let change = RouteChange {
        set: [(PORT, target(0))].into(),
        ..RouteChange::default()
    };
    let mut other = same.clone();
    other.apply(&change);
    let glance = Figure::time(format!("routes: a glance at {N_ROUTES} different"), 101, || {
        std::hint::black_box(&one).differs_at_a_glance(std::hint::black_box(&other))
    });
    figures.add(glance);
    let compare = Figure::time(
        format!("routes: compare {N_ROUTES} equal, entry by entry"),
        15,
        || std::hint::black_box(&one) == std::hint::black_box(&same),
    );
    figures.add(compare);
    for n_routes in [100, N_ROUTES] {
        let mut own = table(n_routes);
        let back = RouteChange {
            set: [(PORT, target(7))].into(),
            ..RouteChange::default()
        };
        let name = format!("routes: change one of {n_routes} and change it back");
        figures.add(Figure::time(name, 101, || {
            own.apply(&change);
            own.apply(&back);
        }));
    }
}
