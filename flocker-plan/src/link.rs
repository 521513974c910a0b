//! Facts become edges: a step that needs a fact comes after the step that makes it.

use std::collections::BTreeMap;
use std::collections::BTreeSet;

use crate::fact::Fact;
use crate::step::Step;

/// How many steps to look back before the index of all facts is asked: the steps of one move stand together.
const NEIGHBOURS: usize = 12;

/// Which steps make what which steps need, by position in the plan.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Edges {
    /// Where the makers of each step begin in `makers`; one more than there are steps.
    starts: Vec<u32>,
    makers: Vec<u32>,
}

impl Edges {
    /// Returns the positions of the steps that make what the step at `position` needs.
    pub fn makers(&self, position: usize) -> impl Iterator<Item = usize> {
        let bounds = self.starts.get(position).zip(self.starts.get(position + 1));
        let range = bounds.map_or(0..0, |(start, end)| *start as usize..*end as usize);
        self.makers[range].iter().map(|&maker| maker as usize)
    }
}

/// Orders steps so that each comes after the makers of its needs, and otherwise as they came.
///
/// Steps that wait for each other in a circle are left out.
#[must_use]
pub fn link(steps: Vec<Step>) -> (Vec<Step>, Edges) {
    let edges = find(&steps);
    let in_order = (0..steps.len()).all(|position| edges.makers(position).all(|maker| maker < position));
    if in_order {
        return (steps, edges);
    }
    let order = sort(&edges, steps.len());
    let mut slots: Vec<Option<Step>> = steps.into_iter().map(Some).collect();
    let sorted: Vec<Step> = order
        .into_iter()
        .filter_map(|position| slots[position].take())
        .collect();
    let edges = find(&sorted);
    (sorted, edges)
}

fn find(steps: &[Step]) -> Edges {
    let mut index: Option<BTreeMap<&Fact, usize>> = None;
    let mut edges = Edges {
        starts: Vec::with_capacity(steps.len() + 1),
        makers: Vec::new(),
    };
    edges.starts.push(0);
    for (position, step) in steps.iter().enumerate() {
        for need in &step.needs {
            let nearby = (position.saturating_sub(NEIGHBOURS)..position)
                .rev()
                .find(|&earlier| steps[earlier].makes.contains(&need.fact));
            let maker = nearby.or_else(|| {
                let index = index.get_or_insert_with(|| {
                    let all = steps.iter().enumerate().rev();
                    all.flat_map(|(maker, step)| step.makes.iter().map(move |fact| (fact, maker)))
                        .collect()
                });
                index.get(&need.fact).copied()
            });
            if let Some(maker) = maker.filter(|&maker| maker != position) {
                edges.makers.push(u32::try_from(maker).unwrap_or(u32::MAX));
            }
        }
        edges
            .starts
            .push(u32::try_from(edges.makers.len()).unwrap_or(u32::MAX));
    }
    edges
}

/// Kahn's algorithm; among the steps that may come next, the one that came first.
fn sort(edges: &Edges, n_steps: usize) -> Vec<usize> {
    let mut n_makers: Vec<usize> = (0..n_steps)
        .map(|position| edges.makers(position).count())
        .collect();
    let mut takers: Vec<Vec<usize>> = vec![Vec::new(); n_steps];
    for position in 0..n_steps {
        for maker in edges.makers(position) {
            takers[maker].push(position);
        }
    }
    let mut ready: BTreeSet<usize> = (0..n_steps).filter(|&position| n_makers[position] == 0).collect();
    let mut order = Vec::with_capacity(n_steps);
    while let Some(position) = ready.pop_first() {
        order.push(position);
        for &taker in &takers[position] {
            n_makers[taker] -= 1;
            if n_makers[taker] == 0 {
                ready.insert(taker);
            }
        }
    }
    order
}
