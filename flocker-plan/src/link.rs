//! Facts become edges: a step that needs a fact comes after the step that makes it.

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

/// Steps in an order in which they can be done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Linked {
    /// Those that can be done; each comes after the makers of its needs.
    pub steps: Vec<Step>,
    /// Which of these make what which of these need.
    pub edges: Edges,
    /// Those that can not: they wait for each other, or for one that does.
    pub in_circle: Vec<Step>,
}

/// Orders steps so that each comes after the makers of its needs, and otherwise as they came.
///
/// Steps that wait for each other in a circle, and those that wait for them, can never come; they are returned apart.
#[must_use]
pub fn link(steps: Vec<Step>) -> Linked {
    let edges = find(&steps);
    let in_order = (0..steps.len()).all(|position| edges.makers(position).all(|maker| maker < position));
    if in_order {
        return Linked {
            steps,
            edges,
            in_circle: Vec::new(),
        };
    }
    let order = sort(&edges, steps.len());
    let mut slots: Vec<Option<Step>> = steps.into_iter().map(Some).collect();
    let sorted: Vec<Step> = order
        .into_iter()
        .filter_map(|position| slots[position].take())
        .collect();
    let edges = find(&sorted);
    Linked {
        steps: sorted,
        edges,
        in_circle: slots.into_iter().flatten().collect(),
    }
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
            let kind = discriminant(&need.fact);
            let is_it = |made: &Fact| discriminant(made) == kind && *made == need.fact;
            let nearby = (position.saturating_sub(NEIGHBOURS)..position)
                .rev()
                .find(|&earlier| steps[earlier].makes.iter().any(is_it));
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

/// No step, no fact, or none that is known yet.
const NONE: u32 = u32::MAX;

/// The needs that no neighbour makes: few different facts, each needed by many. Only these are looked for in all steps.
#[derive(Default)]
struct Distant<'a> {
    /// The different facts, each with its hash and its maker.
    facts: Vec<(u64, &'a Fact, u32)>,
    /// Open addressing: hash of a fact to its place in `facts`.
    slots: Vec<u32>,
    /// Which kinds of facts are among them.
    kinds: Vec<Discriminant<Fact>>,
    /// Where in the list of all makers the maker of which fact is missing.
    missing: Vec<(usize, u32)>,
}

impl<'a> Distant<'a> {
    /// Notes that the maker of a fact is missing at a place, and returns what stands for it.
    fn ask(&mut self, fact: &'a Fact, place: usize) -> u32 {
        if self.slots.len() < self.facts.len() * 2 + 2 {
            self.grow();
        }
        let hash = hash(fact);
        let (slot, mut found) = self.find(hash, fact);
        if found == NONE {
            found = number(self.facts.len());
            self.facts.push((hash, fact, NONE));
            self.slots[slot] = found;
            let kind = discriminant(fact);
            if !self.kinds.contains(&kind) {
                self.kinds.push(kind);
            }
        }
        self.missing.push((place, found));
        NONE
    }

    fn grow(&mut self) {
        self.slots = vec![NONE; (self.facts.len() * 4 + 2).next_power_of_two()];
        for place in 0..self.facts.len() {
            let (hash, fact, _) = self.facts[place];
            let (slot, _) = self.find(hash, fact);
            self.slots[slot] = number(place);
        }
    }

    /// Returns the slot of a fact and its place in `facts`.
    fn find(&self, hash: u64, fact: &Fact) -> (usize, u32) {
        let mask = self.slots.len() - 1;
        let mut slot = usize::try_from(hash & 0xffff_ffff).unwrap_or(0) & mask;
        loop {
            let found = self.slots[slot];
            if found == NONE {
                return (slot, NONE);
            }
            let (own_hash, own, _) = self.facts[found as usize];
            if own_hash == hash && own == fact {
                return (slot, found);
            }
            slot = (slot + 1) & mask;
        }
    }

    /// Finds the first maker of each missing fact, and leaves out the needs that no other step makes.
    fn answer(mut self, steps: &[Step], edges: &mut Edges) {
        if self.missing.is_empty() {
            return;
        }
        for (maker, step) in steps.iter().enumerate() {
            for fact in &step.makes {
                if self.kinds.contains(&discriminant(fact)) {
                    let (_, found) = self.find(hash(fact), fact);
                    if found != NONE {
                        let (_, _, first) = &mut self.facts[found as usize];
                        *first = (*first).min(number(maker));
                    }
                }
            }
        }
        for (place, fact) in self.missing {
            edges.makers[place] = self.facts[fact as usize].2;
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
