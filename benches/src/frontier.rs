//! The frontier: settling every step of a plan, each as soon as it is ready.

use std::time::Instant;

use flocker_plan::Frontier;
use flocker_plan::Outcome;
use flocker_plan::Plan;
use flocker_plan::Policy;

use crate::cluster::Change;
use crate::cluster::Cluster;
use crate::cluster::Shape;
use crate::figure::Figure;
use crate::figure::Figures;
use crate::figure::Unit;
use crate::planning::Effort;

/// Settles a whole plan and returns how many steps that took.
///
/// # Panics
///
/// Where the frontier never comes to its end.
#[must_use]
pub fn settle(plan: &Plan) -> usize {
    let mut frontier = Frontier::new(plan);
    let mut ready: Vec<usize> = frontier.ready().collect();
    let mut n_settled = 0;
    while let Some(position) = ready.pop() {
        assert!(frontier.start(position), "a step that is ready can be started");
        ready.extend(frontier.settle(position, Outcome::Done));
        n_settled += 1;
    }
    assert!(frontier.is_finished(), "every step settles");
    n_settled
}

/// Measures a cluster of which everything moves; a million moves are more than five million steps.
///
/// # Panics
///
/// Where a step settles twice or never.
pub fn measure(effort: Effort, figures: &mut Figures) {
    let (shape, n) = match effort {
        Effort::Quick => (Shape::new(1000, 10_000), 5),
        Effort::Full => (Shape::new(10_000, 1_000_000), 3),
    };
    let Cluster { desired, actual } = shape.cluster(Change::Everything);
    let plan = flocker_plan::plan(&desired, &actual, &Policy::default());
    drop((desired, actual));
    let n_steps = plan.steps().len();
    let samples = (0..n).map(|_| {
        let start = Instant::now();
        assert_eq!(settle(&plan), n_steps, "every step settles once");
        start.elapsed().as_secs_f64()
    });
    let name = format!("frontier: settle {n_steps} steps");
    figures.add(Figure::new(name, Unit::Seconds, samples.collect()));
}
