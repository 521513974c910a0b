//! Facts become edges: a step that needs a fact comes after the step that makes it.

mod distant;

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::collections::BinaryHeap;
use std::ops::Range;

use self::distant::DISTANT;
use self::distant::Distant;
use self::distant::NONE;
use crate::needs::Needs;
use crate::shares::Workers;
use crate::shares::each;
use crate::shares::each_of;
use crate::step::Step;
use crate::view::number;

/// How many steps to look back before the index of all facts is asked: the steps of one move stand together.
const NEIGHBOURS: usize = 12;

/// Which steps make what which steps need, by position in the plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Edges {
    /// Where the makers of each step begin in `makers`; one more than there are steps.
    starts: Vec<u32>,
    makers: Vec<u32>,
}

impl Default for Edges {
    /// The edges of no steps, spelled as [`link`] spells them.
    fn default() -> Self {
        Self {
            starts: vec![0],
            makers: Vec::new(),
        }
    }
}

impl Edges {
    /// Returns the positions of the steps that make what the step at `position` needs.
    pub fn makers(&self, position: usize) -> impl Iterator<Item = usize> {
        self.makers_of(position).iter().map(|&maker| maker as usize)
    }

    /// Adds to steps that are chosen, by position, all that they need.
    #[must_use]
    pub fn and_makers(&self, mut chosen: Vec<bool>) -> Vec<bool> {
        // From the last to the first: what a step needs comes before it.
        for position in (0..chosen.len()).rev() {
            if chosen[position] {
                for maker in self.makers(position) {
                    chosen[maker] = true;
                }
            }
        }
        chosen
    }

    fn makers_of(&self, position: usize) -> &[u32] {
        let bounds = self.starts.get(position).zip(self.starts.get(position + 1));
        let range = bounds.map_or(0..0, |(start, end)| *start as usize..*end as usize);
        &self.makers[range]
    }

    /// Puts makers in the places of the facts that were asked for, and leaves out the needs that no other step makes.
    ///
    /// The first of these steps stands at `first` among all.
    fn answer(&mut self, first: usize, makers_of_facts: &[u32]) {
        // Where nothing was asked for, neighbours make everything.
        let Some((_, ends)) = self
            .starts
            .split_first_mut()
            .filter(|_| !makers_of_facts.is_empty())
        else {
            return;
        };
        let (mut start, mut n_makers) = (0, 0);
        for (position, end) in (first..).zip(ends) {
            for place in start..*end as usize {
                let maker = match self.makers[place] {
                    fact if fact & DISTANT != 0 => makers_of_facts[(fact & !DISTANT) as usize],
                    maker => maker,
                };
                if maker != NONE && maker != number(position) {
                    self.makers[n_makers] = maker;
                    n_makers += 1;
                }
            }
            start = *end as usize;
            *end = number(n_makers);
        }
        self.makers.truncate(n_makers);
    }

    /// Returns the edges between some steps that follow each other, by position among them.
    fn within(&self, window: &Range<usize>) -> Self {
        let mut within = Self::default();
        for position in window.clone() {
            let makers = self.makers_of(position).iter();
            let own = makers.filter_map(|&maker| (maker as usize).checked_sub(window.start));
            within.makers.extend(own.map(number));
            within.starts.push(number(within.makers.len()));
        }
        within
    }

    /// Returns the same edges from their other end: which steps need what a step makes.
    pub(crate) fn turned(&self) -> Takers {
        let n_steps = self.starts.len().saturating_sub(1);
        let mut starts = vec![0; n_steps + 1];
        for &maker in &self.makers {
            starts[maker as usize + 1] += 1;
        }
        for position in 0..n_steps {
            starts[position + 1] += starts[position];
        }
        let mut takers = vec![0; self.makers.len()];
        let mut free = starts.clone();
        for position in 0..n_steps {
            for &maker in self.makers_of(position) {
                let place = &mut free[maker as usize];
                takers[*place as usize] = number(position);
                *place += 1;
            }
        }
        Takers { starts, takers }
    }
}

/// Which steps need what which steps make, by position in the plan.
#[derive(Clone, Debug)]
pub(crate) struct Takers {
    starts: Vec<u32>,
    takers: Vec<u32>,
}

impl Takers {
    /// Returns the positions of the steps that need what the step at `position` makes, in order.
    pub(crate) fn of(&self, position: usize) -> &[u32] {
        &self.takers[self.starts[position] as usize..self.starts[position + 1] as usize]
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
    link_by(Workers::of_this_machine(), steps)
}

/// Does what [`link`] does, by these workers.
pub(crate) fn link_by(workers: Workers, mut steps: Vec<Step>) -> Linked {
    let edges = find(workers, &steps);
    let windows = tangled(&edges);
    let mut orders = Vec::with_capacity(windows.len());
    for window in &windows {
        let order = sort(&edges.within(window), window.len());
        if order.len() < window.len() {
            return without_circle(workers, steps, &edges);
        }
        orders.push(order);
    }
    let edges = renumber(edges, &windows, &orders);
    for (window, order) in windows.into_iter().zip(orders) {
        arrange(&mut steps[window], order);
    }
    Linked {
        steps,
        edges,
        in_circle: Vec::new(),
    }
}

/// Returns the stretches of steps that have to be put into order: those from a step to one that it needs.
///
/// Each needs nothing of those after it, and all steps between them come in order.
fn tangled(edges: &Edges) -> Vec<Range<usize>> {
    let mut windows: Vec<Range<usize>> = Vec::new();
    for (position, bounds) in edges.starts.windows(2).enumerate() {
        let last = edges.makers[bounds[0] as usize..bounds[1] as usize].iter().max();
        let Some(&last) = last.filter(|&&last| last as usize >= position) else {
            continue;
        };
        let end = last as usize + 1;
        match windows.last_mut().filter(|window| position < window.end) {
            Some(window) => window.end = window.end.max(end),
            None => windows.push(position..end),
        }
    }
    windows
}

/// Leaves out the steps that wait for each other, and those that wait for them.
fn without_circle(workers: Workers, steps: Vec<Step>, edges: &Edges) -> Linked {
    let order = sort(edges, steps.len());
    let mut slots: Vec<Option<Step>> = steps.into_iter().map(Some).collect();
    let kept = order
        .into_iter()
        .filter_map(|position| slots[position as usize].take());
    let kept: Vec<Step> = kept.collect();
    Linked {
        edges: find(workers, &kept),
        steps: kept,
        in_circle: slots.into_iter().flatten().collect(),
    }
}

/// Puts each step where `order` has its position.
fn arrange(steps: &mut [Step], mut order: Vec<u32>) {
    for start in 0..order.len() {
        let mut place = start;
        loop {
            let from = order[place] as usize;
            order[place] = number(place);
            if from == start {
                break;
            }
            steps.swap(place, from);
            place = from;
        }
    }
}

/// Returns the edges of the same steps with some stretches of them in another order.
fn renumber(mut edges: Edges, windows: &[Range<usize>], orders: &[Vec<u32>]) -> Edges {
    let (Some(first), Some(last)) = (windows.first(), windows.last()) else {
        return edges;
    };
    let moved = number(first.start)..number(last.end);
    let mut places: Vec<Vec<u32>> = Vec::with_capacity(windows.len());
    for (window, order) in windows.iter().zip(orders) {
        let mut own = vec![0; order.len()];
        let mut starts = Vec::with_capacity(order.len());
        let mut makers = Vec::new();
        let first = edges.starts[window.start];
        for (place, &position) in (window.start..).zip(order) {
            own[position as usize] = number(place);
            starts.push(first + number(makers.len()));
            makers.extend_from_slice(edges.makers_of(window.start + position as usize));
        }
        edges.starts[window.clone()].copy_from_slice(&starts);
        edges.makers[first as usize..][..makers.len()].copy_from_slice(&makers);
        places.push(own);
    }
    for maker in edges.makers.iter_mut().filter(|maker| moved.contains(*maker)) {
        let position = *maker as usize;
        let after = windows.partition_point(|window| window.start <= position);
        let Some(at) = after.checked_sub(1) else { continue };
        if let Some(place) = places[at].get(position - windows[at].start) {
            *maker = *place;
        }
    }
    edges
}

/// What a share of the steps needs: their edges, with the numbers of facts where no neighbour makes what they need.
struct Needed<'a> {
    edges: Edges,
    distant: Distant<'a>,
}

fn find(workers: Workers, steps: &[Step]) -> Edges {
    let shares = workers.shares(steps.len(), steps.len());
    let mut needed = each(&shares, |share| needed(steps, share));
    if let [all] = needed.as_mut_slice() {
        let makers = all.distant.first_makers(steps, &shares);
        let mut edges = std::mem::take(&mut all.edges);
        edges.answer(0, &makers);
        return edges;
    }
    let mut distant = Distant::default();
    let asked = needed.iter().map(|share| {
        let facts = share.distant.facts.iter();
        facts.map(|(_, fact)| distant.ask(fact)).collect::<Vec<u32>>()
    });
    let asked: Vec<Vec<u32>> = asked.collect();
    let makers = distant.first_makers(steps, &shares);
    let firsts = shares.iter().map(|share| share.start);
    let unanswered = needed.into_iter().map(|share| share.edges);
    let unanswered: Vec<_> = firsts.zip(unanswered.zip(asked)).collect();
    let mut answered = each_of(unanswered, |(first, (mut edges, asked))| {
        let makers: Vec<u32> = asked.iter().map(|&fact| makers[fact as usize]).collect();
        edges.answer(first, &makers);
        edges
    })
    .into_iter();
    let mut edges = answered.next().unwrap_or_default();
    for share in answered {
        let n_before = number(edges.makers.len());
        let starts = share.starts.iter().skip(1);
        edges.starts.extend(starts.map(|start| n_before + start));
        edges.makers.extend(share.makers);
    }
    edges
}

/// Where the makers of needs stand that several steps share: all nodes wait for the same before they switch a route.
#[derive(Default)]
struct Shared {
    /// Where the needs stand in memory, and their makers among those of all steps.
    found: Vec<(usize, Range<usize>)>,
    places: BTreeMap<usize, usize>,
    /// The place in `found` of what was asked for last.
    last: usize,
}

impl Shared {
    fn find(&mut self, address: usize) -> Option<Range<usize>> {
        // One node after the other waits for the same in the same order.
        let is_at = |place: &usize| self.found.get(*place).is_some_and(|(own, _)| *own == address);
        let near = [self.last + 1, self.last].into_iter().find(is_at);
        self.last = near.or_else(|| self.places.get(&address).copied())?;
        Some(self.found[self.last].1.clone())
    }

    fn insert(&mut self, address: usize, makers: Range<usize>) {
        self.last = self.found.len();
        self.places.insert(address, self.last);
        self.found.push((address, makers));
    }
}

fn needed(steps: &[Step], share: Range<usize>) -> Needed<'_> {
    let mut edges = Edges {
        starts: Vec::with_capacity(share.len() + 1),
        makers: Vec::with_capacity(share.len()),
    };
    let mut distant = Distant::default();
    let mut shared = Shared::default();
    edges.starts.push(0);
    for position in share {
        let step = &steps[position];
        let start = edges.makers.len();
        let address = step.needs.shared();
        if let Some(known) = address.and_then(|address| shared.find(address)) {
            edges.makers.extend_from_within(known);
        } else {
            find_makers(steps, position, &step.needs, &mut distant, &mut edges.makers);
            if let Some(address) = address {
                shared.insert(address, start..edges.makers.len());
            }
        }
        edges.starts.push(number(edges.makers.len()));
    }
    Needed { edges, distant }
}

fn find_makers<'a>(
    steps: &'a [Step],
    position: usize,
    needs: &'a Needs,
    distant: &mut Distant<'a>,
    makers: &mut Vec<u32>,
) {
    for need in needs {
        let nearby = (position.saturating_sub(NEIGHBOURS)..position)
            .rev()
            .find(|&earlier| steps[earlier].is_maker_of(&need.fact));
        makers.push(match nearby {
            Some(maker) => number(maker),
            None => DISTANT | distant.ask(&need.fact),
        });
    }
}

/// Kahn's algorithm; among the steps that may come next, the one that came first.
///
/// Steps are passed in the order in which they came, so that only those that
/// had to wait when they were passed have to be kept in order.
fn sort(edges: &Edges, n_steps: usize) -> Vec<u32> {
    let mut n_makers: Vec<u32> = (0..n_steps)
        .map(|position| number(edges.makers_of(position).len()))
        .collect();
    let takers = edges.turned();
    let mut late: BinaryHeap<Reverse<u32>> = BinaryHeap::new();
    let mut order = Vec::with_capacity(n_steps);
    let mut passed = 0..number(n_steps);
    loop {
        let position = match late.pop() {
            Some(Reverse(position)) => position,
            None => match passed.find(|&position| n_makers[position as usize] == 0) {
                Some(position) => position,
                None => break,
            },
        };
        order.push(position);
        for &taker in takers.of(position as usize) {
            n_makers[taker as usize] -= 1;
            if n_makers[taker as usize] == 0 && taker < passed.start {
                late.push(Reverse(taker));
            }
        }
    }
    order
}

#[cfg(test)]
mod tests {
    use flocker_model::ApplicationName;

    use super::*;
    use crate::Action;
    use crate::Because;
    use crate::Fact;
    use crate::Need;
    use crate::Reason;

    fn stop(number: usize, needs: &[usize]) -> Step {
        let name = |number: usize| -> ApplicationName { format!("a{number:03}").parse().unwrap() };
        let stopped = |&number: &usize| Need {
            fact: Fact::Stopped {
                application: name(number),
                on: "alpha".parse().unwrap(),
            },
            because: Because::OneCopy,
        };
        Step {
            actor: "alpha".parse().unwrap(),
            action: Action::Stop {
                application: name(number),
                grace: std::time::Duration::ZERO,
            },
            reason: Reason::Tidies { dataset: None }.into(),
            needs: needs.iter().map(stopped).collect(),
        }
    }

    /// What is near, far, later, shared and nowhere is found alike; a circle is left out and nothing else.
    #[test]
    fn the_first_that_may_come_comes_first() {
        let mut steps: Vec<Step> = (0..60)
            .map(|number| match number {
                0 => stop(0, &[40, 41]),
                1 => stop(1, &[0]),
                7 => stop(7, &[999, 6]),
                20 => stop(20, &[21]),
                21 => stop(21, &[22]),
                50 => stop(50, &[51]),
                51 => stop(51, &[50]),
                52 => stop(52, &[51]),
                number => stop(number, &[]),
            })
            .collect();
        steps[59].needs = steps[0].needs.clone();
        let name = |step: &Step| {
            step.action.application().unwrap().as_str()[1..]
                .parse::<usize>()
                .unwrap()
        };
        let Linked {
            steps: linked, edges, ..
        } = link(steps);
        let order: Vec<usize> = linked.iter().map(name).collect();
        let mut expected: Vec<usize> = (2..=19)
            .chain([22, 21, 20])
            .chain(23..=41)
            .chain([0, 1])
            .collect();
        expected.extend((42..=49).chain(53..=59));
        assert_eq!(order, expected);
        let makers = |number| {
            let position = order.iter().position(|&other| other == number).unwrap();
            edges
                .makers(position)
                .map(|maker| order[maker])
                .collect::<Vec<_>>()
        };
        assert_eq!(makers(0), [40, 41]);
        assert_eq!(makers(59), [40, 41]);
        assert_eq!(makers(1), [0]);
        assert_eq!(makers(7), [6]);
        assert_eq!(makers(2), [0; 0]);
        assert_eq!(edges, find(Workers::ALONE, &linked));
        let takers = edges.turned();
        let of_first: Vec<usize> = takers
            .of(order.iter().position(|&other| other == 40).unwrap())
            .iter()
            .map(|&taker| order[taker as usize])
            .collect();
        assert_eq!(of_first, [0, 59]);
    }

    #[test]
    fn what_is_linked_in_another_order_has_the_same_edges() {
        let needs = |number: usize| match number % 3 {
            0 => vec![(number * 7 + 5) % 90],
            1 => vec![number - 1, (number + 40) % 90],
            _ => vec![],
        };
        let steps: Vec<Step> = (0..90)
            .filter(|number| number % 2 == 0 || number % 5 != 0)
            .map(|number| stop(number, &needs(number)))
            .collect();
        let Linked {
            steps: linked, edges, ..
        } = link(steps);
        assert_eq!(edges, find(Workers::ALONE, &linked));
    }
}
