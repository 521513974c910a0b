//! The frontier: what is ready, what settles, what is skipped because of what.
//!
//! This is the only scheduler. The executor, the simulation and the property
//! tests drive it; none of them chooses.

use crate::link::Takers;
use crate::plan::Plan;
use crate::view::number;

/// How a step stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// What it needs is not there yet.
    Blocked,
    /// It may start.
    Ready,
    /// It was started.
    Running,
    /// It was done.
    Done,
    /// It was tried and failed.
    Failed,
    /// It was not tried, because the step at this position failed.
    Skipped {
        /// The position of the step that failed.
        because: usize,
    },
}

/// How a step ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// What it makes is true.
    Done,
    /// What it makes is not true, or nobody knows.
    Failed,
}

/// The state of a plan's execution.
#[derive(Clone, Debug)]
pub struct Frontier {
    standings: Vec<Standing>,
    n_open_makers: Vec<u32>,
    takers: Takers,
    n_open: usize,
}

impl Frontier {
    /// Begins a plan: everything that needs no other step is ready.
    #[must_use]
    pub fn new(plan: &Plan) -> Self {
        let n_steps = plan.steps().len();
        let mut n_open_makers = vec![0; n_steps];
        for (position, n_open) in n_open_makers.iter_mut().enumerate() {
            *n_open = number(plan.edges().makers(position).count());
        }
        let standings = n_open_makers
            .iter()
            .map(|&n_open| {
                if n_open == 0 {
                    Standing::Ready
                } else {
                    Standing::Blocked
                }
            })
            .collect();
        Self {
            standings,
            n_open_makers,
            takers: plan.edges().turned(),
            n_open: n_steps,
        }
    }

    /// Returns the positions of the steps that may start, in order of the plan.
    ///
    /// This looks at every step; an executor of a large plan asks once and then
    /// follows what [`Frontier::settle`] returns.
    pub fn ready(&self) -> impl Iterator<Item = usize> {
        self.standings
            .iter()
            .enumerate()
            .filter(|(_, standing)| **standing == Standing::Ready)
            .map(|(position, _)| position)
    }

    /// Says how a step stands.
    #[must_use]
    pub fn standing(&self, position: usize) -> Standing {
        self.standings[position]
    }

    /// Notes that a step was started. Only a ready step can be; for any other nothing happens and `false` is returned.
    pub fn start(&mut self, position: usize) -> bool {
        let ready = self.standings[position] == Standing::Ready;
        if ready {
            self.standings[position] = Standing::Running;
        }
        ready
    }

    /// Notes how a started step ended, and returns the steps that became ready by it.
    ///
    /// After a failure, everything that needed its facts, directly or not, is skipped because of it.
    pub fn settle(&mut self, position: usize, outcome: Outcome) -> Vec<usize> {
        if self.standings[position] != Standing::Running {
            return Vec::new();
        }
        self.n_open -= 1;
        match outcome {
            Outcome::Done => {
                self.standings[position] = Standing::Done;
                let mut ready = Vec::new();
                for &taker in self.takers.of(position) {
                    let taker = taker as usize;
                    self.n_open_makers[taker] -= 1;
                    if self.n_open_makers[taker] == 0 && self.standings[taker] == Standing::Blocked {
                        self.standings[taker] = Standing::Ready;
                        ready.push(taker);
                    }
                }
                ready
            }
            Outcome::Failed => {
                self.standings[position] = Standing::Failed;
                let mut stack = vec![position];
                while let Some(failed) = stack.pop() {
                    for &taker in self.takers.of(failed) {
                        let taker = taker as usize;
                        if self.standings[taker] == Standing::Blocked {
                            self.standings[taker] = Standing::Skipped { because: position };
                            self.n_open -= 1;
                            stack.push(taker);
                        }
                    }
                }
                Vec::new()
            }
        }
    }

    /// Says whether every step was done, has failed or was skipped.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.n_open == 0
    }

    /// Returns how every step stands, in order of the plan.
    #[must_use]
    pub fn standings(&self) -> &[Standing] {
        &self.standings
    }
}
