//! Planning: from two states in memory to an ordered plan, without reading or writing anything.

use flocker_plan::Policy;

use crate::cluster::Change;
use crate::cluster::Cluster;
use crate::cluster::Shape;
use crate::figure::Figure;
use crate::figure::Figures;

/// How much is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effort {
    /// What takes seconds.
    Quick,
    /// Everything.
    Full,
}

/// A cluster to plan for.
struct Size {
    shape: Shape,
    /// How many times to plan.
    n: usize,
    /// What a change may cost in seconds.
    target: fn(Change) -> Option<f64>,
}

fn sizes(effort: Effort) -> Vec<Size> {
    let mut sizes = vec![
        Size {
            shape: Shape::new(10, 100),
            n: 101,
            target: |_| None,
        },
        Size {
            shape: Shape::new(1000, 10_000),
            n: 15,
            target: |change| match change {
                Change::Settled | Change::One | Change::OnePercent => Some(0.015),
                Change::FromNothing | Change::Everything => None,
            },
        },
    ];
    if effort == Effort::Full {
        sizes.push(Size {
            shape: Shape::new(10_000, 1_000_000),
            n: 5,
            target: |change| match change {
                Change::FromNothing => None,
                Change::Settled | Change::One => Some(0.5),
                Change::OnePercent => Some(0.6),
                Change::Everything => Some(2.0),
            },
        });
    }
    sizes
}

/// Measures every change at every size.
pub fn measure(effort: Effort, figures: &mut Figures) {
    let policy = Policy::default();
    for Size { shape, n, target } in sizes(effort) {
        for change in Change::ALL {
            let figure = plan(&shape, change, n, &policy, figures);
            figures.add(Figure {
                target: target(change),
                ..figure
            });
        }
    }
    let shape = Shape {
        most_ports: 1000,
        ..Shape::new(1000, 10_000)
    };
    for change in [Change::Settled, Change::Everything] {
        let figure = plan(&shape, change, 5, &policy, figures);
        let name = format!("{}, with 1000 ports", figure.name);
        figures.add(Figure { name, ..figure });
    }
    figures.note(
        "a plan is timed from two states in memory until it stands in memory; dropping it is not timed",
    );
}

fn plan(shape: &Shape, change: Change, n: usize, policy: &Policy, figures: &mut Figures) -> Figure {
    let Cluster { desired, actual } = shape.cluster(change);
    let name = format!(
        "plan {} nodes, {} applications: {}",
        shape.n_nodes,
        shape.n_applications,
        change.name()
    );
    let mut n_steps = 0;
    let figure = Figure::time(name, n, || {
        let plan = flocker_plan::plan(&desired, &actual, policy);
        n_steps = plan.steps().len();
        plan
    });
    figures.note(format!(
        "{}, {} ports: {n_steps} steps",
        figure.name, shape.most_ports
    ));
    figure
}
