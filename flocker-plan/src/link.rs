//! Facts become edges: a step that needs a fact comes after the step that makes it.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::hash::Hash as _;
use std::hash::Hasher as _;
use std::mem::Discriminant;
use std::mem::discriminant;

use crate::fact::Fact;
use crate::step::Step;
use crate::view::number;

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
    let mut edges = Edges {
        starts: Vec::with_capacity(steps.len() + 1),
        makers: Vec::new(),
    };
    let mut distant = Distant::default();
    edges.starts.push(0);
    for (position, step) in steps.iter().enumerate() {
        for need in &step.needs {
            let nearby = (position.saturating_sub(NEIGHBOURS)..position)
                .rev()
                .find(|&earlier| steps[earlier].makes.contains(&need.fact));
            edges.makers.push(match nearby {
                Some(maker) => number(maker),
                None => distant.ask(&need.fact, edges.makers.len()),
            });
        }
        edges.starts.push(number(edges.makers.len()));
    }
    distant.answer(steps, &mut edges);
    edges
}

/// No step, or none that is known yet.
const NONE: u32 = u32::MAX;

/// The needs that no neighbour makes: few different facts, each needed by many. Only these are looked for in all steps.
#[derive(Default)]
struct Distant<'a> {
    /// The facts by their hash, which is compared before they are, each with its maker.
    makers: BTreeMap<(u64, &'a Fact), u32>,
    /// Which kinds of facts are among them.
    kinds: Vec<Discriminant<Fact>>,
    /// Where in the list of all makers which fact's is missing.
    missing: Vec<(usize, u64, &'a Fact)>,
}

impl<'a> Distant<'a> {
    /// Notes that the maker of a fact is missing, and returns what stands for it.
    fn ask(&mut self, fact: &'a Fact, place: usize) -> u32 {
        let hash = hash(fact);
        let kind = discriminant(fact);
        if !self.kinds.contains(&kind) {
            self.kinds.push(kind);
        }
        self.makers.insert((hash, fact), NONE);
        self.missing.push((place, hash, fact));
        NONE
    }

    /// Finds the first maker of each missing fact, and leaves out the needs that no other step makes.
    fn answer(mut self, steps: &'a [Step], edges: &mut Edges) {
        if self.missing.is_empty() {
            return;
        }
        for (maker, step) in steps.iter().enumerate() {
            for fact in step
                .makes
                .iter()
                .filter(|fact| self.kinds.contains(&discriminant(fact)))
            {
                if let Some(first) = self.makers.get_mut(&(hash(fact), fact)) {
                    *first = (*first).min(number(maker));
                }
            }
        }
        for (place, hash, fact) in self.missing {
            edges.makers[place] = self.makers[&(hash, fact)];
        }
        let mut n_kept = 0;
        for position in 0..steps.len() {
            let range = edges.starts[position] as usize..edges.starts[position + 1] as usize;
            edges.starts[position] = number(n_kept);
            for place in range {
                let maker = edges.makers[place];
                if maker != NONE && maker != number(position) {
                    edges.makers[n_kept] = maker;
                    n_kept += 1;
                }
            }
        }
        edges.makers.truncate(n_kept);
        edges.starts[steps.len()] = number(n_kept);
    }
}

fn hash(fact: &Fact) -> u64 {
    let mut hasher = std::hash::DefaultHasher::new();
    fact.hash(&mut hasher);
    hasher.finish()
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
