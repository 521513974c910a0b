//! Memory: what desired state, actual state and the planner's index take for each application.

use std::io;
use std::path::Path;

use serde::Deserialize;
use serde::Serialize;

use crate::child;
use crate::cluster::Shape;
use crate::figure::Figure;
use crate::figure::Figures;
use crate::figure::Unit;
use crate::planning::Effort;

/// What `plan_once --memory` counted, in bytes.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Memory {
    /// What the desired state has asked of the allocator.
    pub desired: f64,
    /// What the actual state has asked of the allocator.
    pub actual: f64,
    /// The most that planning had on top of both at once, the plan included.
    pub planning: f64,
    /// What the process had resident with both states, the allocator's own part included.
    pub resident: f64,
}

/// Measures a settled cluster; the plan of one has no steps, so that what planning takes is its index.
pub fn measure(effort: Effort, figures: &mut Figures) -> io::Result<()> {
    let shape = match effort {
        Effort::Quick => Shape::new(1000, 10_000),
        Effort::Full => Shape::new(10_000, 1_000_000),
    };
    let Shape {
        n_nodes,
        n_applications,
        most_ports: _,
        seed: _,
    } = shape;
    let arguments = [
        format!("--nodes={n_nodes}"),
        format!("--applications={n_applications}"),
        "--memory".into(),
    ];
    let output = child::output(&child::sibling("plan_once")?, &arguments, Path::new("."))?;
    let Memory {
        desired,
        actual,
        planning,
        resident,
    } = serde_json::from_slice(&output.stdout)?;
    let each = |what: &str, bytes: f64| {
        let name = format!("bytes per application of {n_applications}: {what}");
        Figure::new(name, Unit::Bytes, vec![bytes / f64::from(n_applications)])
    };
    let parts = [
        each("desired, with its placements by number", desired),
        each("actual", actual),
        each("the planner's index while it plans", planning),
        each("desired, actual and index together", desired + actual + planning).at_most(700.0),
        each("resident, with the allocator's own part", resident),
    ];
    figures.figures.extend(parts);
    Ok(())
}
