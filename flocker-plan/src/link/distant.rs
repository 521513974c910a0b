//! The needs that no neighbour makes: their makers are looked for in all steps.

use std::hash::Hash;
use std::hash::Hasher;
use std::mem::Discriminant;
use std::mem::discriminant;
use std::ops::Range;

use flocker_model::NodeName;

use crate::action::Action;
use crate::fact::Fact;
use crate::shares::each;
use crate::step::Step;
use crate::view::number;

/// No step, no fact, or none that is known yet.
pub(super) const NONE: u32 = u32::MAX;

/// Marks the number of a fact that stands in the place of its maker. No memory holds two thousand million steps.
pub(super) const DISTANT: u32 = 1 << 31;

/// The needs that no neighbour makes: few different facts, each needed by many. Only these are looked for in all steps.
#[derive(Default)]
pub(super) struct Distant<'a> {
    /// The different facts, each with its hash.
    pub(super) facts: Vec<(u64, &'a Fact)>,
    /// Open addressing: hash of a fact to its place in `facts`.
    slots: Vec<u32>,
    /// Which kinds of facts are among them.
    kinds: Vec<Discriminant<Fact>>,
}

impl<'a> Distant<'a> {
    /// Returns the number of a fact whose maker is to be looked for.
    pub(super) fn ask(&mut self, fact: &'a Fact) -> u32 {
        if self.slots.len() < self.facts.len() * 2 + 2 {
            self.grow();
        }
        let hash = hash(fact);
        let (slot, mut found) = self.find(hash, fact);
        if found == NONE {
            found = number(self.facts.len());
            self.facts.push((hash, fact));
            self.slots[slot] = found;
            let kind = discriminant(fact);
            if !self.kinds.contains(&kind) {
                self.kinds.push(kind);
            }
        }
        found
    }

    fn grow(&mut self) {
        self.slots = vec![NONE; (self.facts.len() * 4 + 2).next_power_of_two()];
        for place in 0..self.facts.len() {
            let (hash, fact) = self.facts[place];
            let (slot, _) = self.find(hash, fact);
            self.slots[slot] = number(place);
        }
    }

    /// Returns the slot of a fact and its place in `facts`.
    fn find(&self, hash: u64, fact: &Fact) -> (usize, u32) {
        let mask = self.slots.len() - 1;
        let mut slot = usize::try_from(hash >> 32).unwrap_or(0) & mask;
        loop {
            let found = self.slots[slot];
            if found == NONE {
                return (slot, NONE);
            }
            let (own_hash, own) = self.facts[found as usize];
            if own_hash == hash && own == fact {
                return (slot, found);
            }
            slot = (slot + 1) & mask;
        }
    }

    /// Returns which step is the first to make each fact.
    pub(super) fn first_makers(&self, steps: &[Step], shares: &[Range<usize>]) -> Vec<u32> {
        if self.facts.is_empty() {
            return Vec::new();
        }
        let asked = Asked::new(self.facts.iter().map(|(_, fact)| fact.place()));
        let mut firsts = vec![NONE; self.facts.len()];
        for makers in each(shares, |share| self.first_makers_among(steps, share, &asked)) {
            for (first, maker) in firsts.iter_mut().zip(makers) {
                *first = (*first).min(maker);
            }
        }
        firsts
    }

    /// Returns which of some steps is the first to make each fact.
    fn first_makers_among(&self, steps: &[Step], share: Range<usize>, asked: &Asked) -> Vec<u32> {
        let mut makers = vec![NONE; self.facts.len()];
        // An action of one kind always makes facts of the same kinds: whether they are asked for is found out once.
        let mut matters: Vec<(Discriminant<Action>, bool)> = Vec::new();
        for maker in share {
            let step = &steps[maker];
            let kind = discriminant(&step.action);
            let known = matters.iter().find(|(known, _)| *known == kind);
            if known.is_some_and(|(_, matters)| !matters) || !asked.has(step.place()) {
                continue;
            }
            let made = step.makes();
            if known.is_none() && !made.is_empty() {
                let is_asked = |fact| self.kinds.contains(&discriminant(fact));
                matters.push((kind, made.iter().any(is_asked)));
            }
            for fact in made {
                if self.kinds.contains(&discriminant(&fact)) {
                    let (_, found) = self.find(hash(&fact), &fact);
                    if let Some(first) = makers.get_mut(found as usize) {
                        *first = (*first).min(number(maker));
                    }
                }
            }
        }
        makers
    }
}

/// The nodes on which what is asked for is made true: says surely which are not among them.
struct Asked(Vec<bool>);

impl Asked {
    fn new<'n>(nodes: impl ExactSizeIterator<Item = &'n NodeName>) -> Self {
        let mut made = Self(vec![false; (nodes.len() * 8).next_power_of_two()]);
        for node in nodes {
            let place = made.place(node);
            made.0[place] = true;
        }
        made
    }

    fn place(&self, node: &NodeName) -> usize {
        // Names of nodes differ at their ends, which stand lowest here so that all bits follow from them.
        let name = node.as_str().as_bytes();
        let hash = match name.last_chunk() {
            Some(&end) => Quick(0).mixed(u64::from_be_bytes(end)),
            None => hash(node),
        };
        usize::try_from(hash >> 32).unwrap_or(0) & (self.0.len() - 1)
    }

    fn has(&self, node: &NodeName) -> bool {
        self.0[self.place(node)]
    }
}

/// A hash that is quick and the same on every machine. Nobody gains by choosing what falls on one place.
struct Quick(u64);

impl Quick {
    fn mixed(&self, word: u64) -> u64 {
        (self.0.rotate_left(5) ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15)
    }
}

impl Hasher for Quick {
    fn finish(&self) -> u64 {
        self.0 ^ self.0 >> 29
    }

    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.write_u64(u64::from_le_bytes(word));
        }
    }

    fn write_u8(&mut self, word: u8) {
        self.write_u64(word.into());
    }

    fn write_isize(&mut self, word: isize) {
        self.write_u64(word.unsigned_abs() as u64);
    }

    fn write_u64(&mut self, word: u64) {
        self.0 = self.mixed(word);
    }
}

fn hash(value: &impl Hash) -> u64 {
    let mut hasher = Quick(0);
    value.hash(&mut hasher);
    hasher.finish()
}
