//! What a planner does not see: three perturbations of every plan, after Sieve (OSDI 2022).

use std::collections::BTreeMap;
use std::fmt;

use flocker_model::NodeName;
use flocker_model::NodeState;

/// In which way one plan is led astray.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Perturbation {
    /// One node is seen as it was at the look before.
    Stale,
    /// One node is not seen.
    Unobserved,
    /// The command is killed between two of the plan's effects.
    Intermediate,
}

impl Perturbation {
    /// Every one of them.
    pub const ALL: [Self; 3] = [Self::Stale, Self::Unobserved, Self::Intermediate];

    /// Returns what it is called on a command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Stale => "stale",
            Self::Unobserved => "unobserved",
            Self::Intermediate => "intermediate",
        }
    }
}

impl fmt::Display for Perturbation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What a look at a node gives instead of what is there.
pub(super) enum Seen {
    Before(Box<NodeState>),
    Nothing,
}

/// What was seen of nodes, and what of it is shown again.
#[derive(Debug, Default)]
pub(super) struct Looks {
    /// Which plan is led astray, and how.
    pub(super) sieve: Option<(u64, Perturbation)>,
    pub(super) n_plans: u64,
    /// Whether answers are kept, because one may be shown again.
    pub(super) keeps: bool,
    last: BTreeMap<NodeName, NodeState>,
    /// The nodes whose next look is led astray.
    next: BTreeMap<NodeName, Perturbation>,
    /// Whether anything that was not so was shown.
    pub(super) has_misled: bool,
}

impl Looks {
    /// Leads the next look at a node astray.
    pub(super) fn mislead(&mut self, node: &NodeName, how: Perturbation) {
        self.next.insert(node.clone(), how);
    }

    /// Returns what a look at a node gives instead of what is there, if anything; `chosen` says whether the plan that
    /// is led astray is so at this node.
    pub(super) fn instead(&mut self, node: &NodeName, chosen: bool) -> Option<Seen> {
        let planned = self
            .sieve
            .filter(|(plan, _)| chosen && *plan == self.n_plans + 1)
            .map(|(_, how)| how);
        let how = self.next.remove(node).or(planned)?;
        let seen = match how {
            Perturbation::Stale => Seen::Before(Box::new(self.last.get(node)?.clone())),
            Perturbation::Unobserved => Seen::Nothing,
            Perturbation::Intermediate => return None,
        };
        self.has_misled = true;
        Some(seen)
    }

    /// Leads nothing astray any more.
    pub(super) fn see_clearly(&mut self) {
        self.sieve = None;
        self.next.clear();
    }

    /// Keeps an answer.
    pub(super) fn keep(&mut self, node: &NodeName, state: &NodeState) {
        if self.keeps {
            self.last.insert(node.clone(), state.clone());
        }
    }

    /// Counts a plan; says whether it is the one whose command is killed half way.
    pub(super) fn count_plan(&mut self) -> bool {
        self.n_plans += 1;
        self.sieve == Some((self.n_plans, Perturbation::Intermediate))
    }
}
