//! A plan: a value that says what to do, in which order, and what is left undone.

use flocker_model::Generation;
use flocker_model::NodeName;
use serde::Deserialize;
use serde::Serialize;

use crate::blocked::Kept;
use crate::blocked::Refusal;
use crate::blocked::Waiting;
use crate::link::Edges;
use crate::link::Linked;
use crate::shares::Workers;
use crate::step::Step;

/// What to do, in which order, and what is left undone and why.
#[must_use = "a plan does nothing until it is executed or shown"]
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Written", into = "Written")]
pub struct Plan {
    generation: Generation,
    steps: Vec<Step>,
    edges: Edges,
    waiting: Vec<Waiting>,
    refused: Vec<Refusal>,
    kept: Vec<Kept>,
}

impl Plan {
    /// Puts steps into a stable topological order and keeps them with what is left undone.
    ///
    /// A step that needs a fact which another step makes comes after it. Steps
    /// in a circle, which no rule produces, are left out and refused by name.
    pub fn new(
        generation: Generation,
        steps: Vec<Step>,
        waiting: Vec<Waiting>,
        refused: Vec<Refusal>,
        kept: Vec<Kept>,
    ) -> Self {
        let workers = Workers::of_this_machine();
        Self::linked_by(workers, generation, steps, (waiting, refused, kept))
    }

    /// Does what [`Plan::new`] does, by these workers.
    pub(crate) fn linked_by(
        workers: Workers,
        generation: Generation,
        steps: Vec<Step>,
        (waiting, mut refused, kept): (Vec<Waiting>, Vec<Refusal>, Vec<Kept>),
    ) -> Self {
        let Linked {
            steps,
            edges,
            in_circle,
        } = crate::link::link_by(workers, steps);
        if !in_circle.is_empty() {
            let steps = in_circle.iter().map(Step::id).collect();
            refused.push(Refusal::Circle { steps });
        }
        Self {
            generation,
            steps,
            edges,
            waiting,
            refused,
            kept,
        }
    }

    /// Returns which configuration it brings about.
    #[must_use]
    pub fn generation(&self) -> Generation {
        self.generation
    }

    /// Returns the steps; each comes after those that make what it needs.
    #[must_use]
    pub fn steps(&self) -> &[Step] {
        &self.steps
    }

    /// Returns which steps make what which steps need.
    #[must_use]
    pub fn edges(&self) -> &Edges {
        &self.edges
    }

    /// Returns what is to be and cannot be brought about yet.
    #[must_use]
    pub fn waiting(&self) -> &[Waiting] {
        &self.waiting
    }

    /// Returns what is to be and only a person may decide.
    #[must_use]
    pub fn refused(&self) -> &[Refusal] {
        &self.refused
    }

    /// Returns the data that no application of the files uses.
    #[must_use]
    pub fn kept(&self) -> &[Kept] {
        &self.kept
    }

    /// Returns the steps of one node.
    pub fn for_node<'a>(&'a self, node: &'a NodeName) -> impl Iterator<Item = &'a Step> {
        self.steps.iter().filter(move |step| step.actor == *node)
    }

    /// Says whether everything is as it is to be.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.steps.is_empty() && self.waiting.is_empty() && self.refused.is_empty()
    }
}

/// A plan as it is written down: without what can be computed again.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    generation: Generation,
    steps: Vec<Step>,
    waiting: Vec<Waiting>,
    refused: Vec<Refusal>,
    kept: Vec<Kept>,
}

impl From<Written> for Plan {
    fn from(
        Written {
            generation,
            steps,
            waiting,
            refused,
            kept,
        }: Written,
    ) -> Self {
        Self::new(generation, steps, waiting, refused, kept)
    }
}

impl From<Plan> for Written {
    fn from(
        Plan {
            generation,
            steps,
            edges: _,
            waiting,
            refused,
            kept,
        }: Plan,
    ) -> Self {
        Self {
            generation,
            steps,
            waiting,
            refused,
            kept,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_of_nothing_reads_as_it_was_written() {
        let written = serde_json::to_string(&Plan::default()).unwrap();
        let read: Plan = serde_json::from_str(&written).unwrap();
        assert_eq!(read, Plan::default());
    }
}
