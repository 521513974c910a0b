//! The hand-off, model-checked: every order in which things can happen, up to a bound.
//!
//! The states are whole worlds: what is on every node's disk, which
//! containers run there, what each node's record says, what each operator has
//! seen and is doing, and which orders are still under way. The transitions
//! are not a retelling: an operator looks with [`NodeHandle::observe`],
//! decides with [`flocker_plan::plan()`], follows a [`Frontier`], and every
//! order is carried out by a [`LocalNode`] on the memory twins, whose calls
//! change values. What is left out is named in [`Bounds`] and in
//! `docs/proof.md`.
//!
//! Two operators give two configurations, the second of which may be the
//! first one's change of mind: no lock keeps them apart, so that nothing but
//! generations, epochs and fences protects the data. An order can be lost with
//! its reply, arrive late, arrive twice and after orders that were given
//! later; a node can lose its power at any point between two effects; a look
//! can be stale by any number of events, or not succeed at all.
//!
//! [`NodeHandle::observe`]: crate::node::NodeHandle::observe
//! [`Frontier`]: flocker_plan::Frontier
//! [`LocalNode`]: crate::local::LocalNode

mod act;
mod world;

use std::fmt;

use flocker_model::Deployment;
use flocker_model::Generation;
use flocker_model::Observed;
use flocker_model::Silence;
use flocker_plan::Frontier;
use flocker_plan::Outcome;
use flocker_plan::Policy;
use flocker_plan::Standing;
use stateright::Model;
use stateright::Property;

use super::script;
use super::script::Wishes;
use act::Cut;
use world::Doing;
use world::Late;
use world::Phase;
pub use world::World;

/// How far the search goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// How many nodes there are.
    pub n_nodes: usize,
    /// Whether there is a second operator, who wants something else.
    pub second_operator: bool,
    /// How often one operator looks and plans, at most.
    pub n_turns: u8,
    /// How many orders may be lost with their replies; each may still arrive later.
    pub n_lost: u8,
    /// How many late orders may arrive once more.
    pub n_doubled: u8,
    /// How many times a node may lose its power.
    pub n_power_cuts: u8,
    /// How many looks at a node may fail.
    pub n_hidden: u8,
    /// How many records the application may write.
    pub n_writes: u8,
}

impl Bounds {
    /// Bounds for an ordinary test run: seconds.
    #[must_use]
    pub fn small() -> Self {
        Self {
            n_nodes: 2,
            second_operator: true,
            n_turns: 3,
            n_lost: 1,
            n_doubled: 0,
            n_power_cuts: 0,
            n_hidden: 0,
            n_writes: 0,
        }
    }

    /// Bounds within which every state is reached, to the end of every order of events: minutes.
    #[must_use]
    pub fn deep() -> Self {
        Self {
            n_power_cuts: 1,
            n_writes: 1,
            ..Self::small()
        }
    }

    /// Bounds wider than what can be searched to the end: as far as the time allows.
    #[must_use]
    pub fn wide() -> Self {
        Self {
            n_nodes: 3,
            second_operator: true,
            n_turns: 5,
            n_lost: 2,
            n_doubled: 1,
            n_power_cuts: 1,
            n_hidden: 1,
            n_writes: 2,
        }
    }
}

/// Something that can happen next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Happens {
    /// An operator looks at a node; the last look makes the plan.
    Look {
        /// Which operator.
        operator: usize,
        /// Which node.
        node: usize,
    },
    /// An operator looks at a node in vain.
    Hidden {
        /// Which operator.
        operator: usize,
        /// Which node.
        node: usize,
    },
    /// An operator gives an order, it is carried out, and the answer comes back.
    Carry {
        /// Which operator.
        operator: usize,
        /// Which step of the plan.
        position: usize,
    },
    /// The stream of a push breaks half way.
    Cut {
        /// Which operator.
        operator: usize,
        /// Which step of the plan.
        position: usize,
    },
    /// An order is given and nothing comes back; it may arrive later.
    Lose {
        /// Which operator.
        operator: usize,
        /// Which step of the plan.
        position: usize,
    },
    /// An order that was given up arrives.
    Arrive {
        /// Which of them.
        late: usize,
        /// Whether it will arrive once more.
        again: bool,
    },
    /// A node loses its power and boots.
    PowerCut {
        /// Which node.
        node: usize,
    },
    /// The application writes a record and is told that it is durable.
    Write {
        /// On which node.
        node: usize,
    },
}

/// The hand-off of one dataset between nodes.
pub struct HandOff {
    bounds: Bounds,
    policy: Policy,
    /// What was wanted first, and what each operator wants.
    wanted: Vec<Deployment>,
    first: World,
}

impl fmt::Debug for HandOff {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HandOff")
            .field("bounds", &self.bounds)
            .finish_non_exhaustive()
    }
}

/// One state in so many is tried for whether it converges from there.
const SHARE_THAT_RECOVERS: u64 = 64;

/// How many turns a cluster may take to come to rest when nothing goes wrong any more.
const TURNS_TO_RECOVER: usize = 12;

impl HandOff {
    /// Makes the world from which everything begins: the application runs on the first node with one record.
    ///
    /// # Panics
    ///
    /// Where that world cannot be made, which would be a defect of its own.
    #[must_use]
    pub fn new(bounds: Bounds) -> Self {
        let nodes: Vec<_> = (0..bounds.n_nodes).map(script::node).collect();
        // First here, then there, then back again or, with a third node, on to it.
        let homes = [0, 1, if bounds.n_nodes > 2 { 2 } else { 0 }];
        let n_wanted = if bounds.second_operator { 3 } else { 2 };
        let wanted = homes
            .into_iter()
            .take(n_wanted)
            .zip(1..)
            .map(|(home, generation)| {
                let wishes = Wishes::at(&[Some(home)]);
                act::without_ports(&wishes.deployment(&nodes)).at(Generation(generation))
            });
        let mut hand_off = Self {
            bounds,
            policy: Policy::default(),
            wanted: wanted.collect(),
            first: World::empty(&bounds),
        };
        let mut world = hand_off.first.clone();
        assert!(
            hand_off.comes_to_rest(&mut world, 0),
            "the first deployment does not come to rest"
        );
        act::write(&mut world, 0);
        hand_off.first = world;
        hand_off
    }

    /// Gives one configuration until nothing is left to do, with nothing going wrong; says whether it is then as wanted.
    fn comes_to_rest(&self, world: &mut World, wanted: usize) -> bool {
        let desired = &self.wanted[wanted];
        for _ in 0..TURNS_TO_RECOVER {
            let seen = (0..self.bounds.n_nodes).map(|node| Observed::Known(act::look(world, node)));
            let actual = world.named(seen);
            let plan = flocker_plan::plan(desired, &actual, &self.policy);
            if plan.is_settled() {
                return world.is_served_with_all(wanted, desired);
            }
            let mut frontier = Frontier::new(&plan);
            loop {
                let ready = frontier.ready().next();
                let Some(position) = ready else {
                    break;
                };
                frontier.start(position);
                let done = act::carry(world, &plan, desired, position, Cut::Never);
                frontier.settle(position, outcome(done));
            }
        }
        false
    }

    /// Says whether the newest configuration that any node has obeyed comes to rest from here, when it is given again.
    fn recovers(&self, world: &World) -> bool {
        let newest = world.newest_obeyed();
        let Some(wanted) = self
            .wanted
            .iter()
            .position(|wanted| wanted.generation() == newest)
        else {
            return false;
        };
        self.comes_to_rest(&mut world.clone(), wanted)
    }

    fn take_look(&self, world: &mut World, operator: usize, node: usize, hidden: bool) {
        let state = if hidden {
            world.left.hidden -= 1;
            Observed::Unknown(Silence::Unreachable {
                reason: "nobody answers".into(),
            })
        } else {
            Observed::Known(act::look(world, node))
        };
        let mut seen = match std::mem::replace(&mut world.operators[operator].phase, Phase::Rest) {
            Phase::Looking(seen) => seen,
            Phase::Rest | Phase::Doing(_) => vec![None; self.bounds.n_nodes],
        };
        seen[node] = Some(state);
        world.operators[operator].phase = if seen.iter().all(Option::is_some) {
            self.decide(world, operator, seen.into_iter().flatten())
        } else {
            Phase::Looking(seen)
        };
        world.operators[operator].seal();
    }

    fn decide(
        &self,
        world: &mut World,
        operator: usize,
        seen: impl Iterator<Item = Observed<flocker_model::NodeState>>,
    ) -> Phase {
        let actual = world.named(seen);
        let desired = &self.wanted[operator + 1];
        let plan = flocker_plan::plan(desired, &actual, &self.policy);
        if let Err(violation) = flocker_plan::check::plan(&plan, desired, &actual) {
            world.break_by(format!("the plan: {violation}"));
        }
        world.operators[operator].turns_left -= 1;
        if plan.steps().is_empty() {
            Phase::Rest
        } else {
            Phase::Doing(Doing::begin(plan))
        }
    }

    /// Notes how a step ended for the operator who gave it, who looks again when the plan is at its end.
    fn settle(world: &mut World, operator: usize, position: usize, outcome: Outcome) {
        let operator = &mut world.operators[operator];
        if let Phase::Doing(doing) = &mut operator.phase {
            doing.frontier.start(position);
            doing.frontier.settle(position, outcome);
            if doing.frontier.is_finished() {
                operator.phase = Phase::Rest;
            }
        }
        operator.seal();
    }
}

fn outcome(is_done: bool) -> Outcome {
    if is_done { Outcome::Done } else { Outcome::Failed }
}

impl Model for HandOff {
    type State = World;
    type Action = Happens;

    fn init_states(&self) -> Vec<World> {
        vec![self.first.clone()]
    }

    fn actions(&self, world: &World, happens: &mut Vec<Happens>) {
        if world.broken.is_some() {
            return;
        }
        for (operator, who) in world.operators.iter().enumerate() {
            match &who.phase {
                Phase::Rest | Phase::Looking(_) => {
                    let seen = |node: usize| match &who.phase {
                        Phase::Looking(seen) => seen[node].is_some(),
                        Phase::Rest | Phase::Doing(_) => false,
                    };
                    if who.turns_left > 0 {
                        for node in (0..self.bounds.n_nodes).filter(|node| !seen(*node)) {
                            happens.push(Happens::Look { operator, node });
                            if world.left.hidden > 0 {
                                happens.push(Happens::Hidden { operator, node });
                            }
                        }
                    }
                }
                Phase::Doing(doing) => {
                    for position in doing.frontier.ready() {
                        happens.push(Happens::Carry { operator, position });
                        if world.left.lost > 0 {
                            happens.push(Happens::Lose { operator, position });
                            if act::is_push(&doing.plan, position) {
                                happens.push(Happens::Cut { operator, position });
                            }
                        }
                    }
                }
            }
        }
        for late in 0..world.late.len() {
            happens.push(Happens::Arrive { late, again: false });
            if world.left.doubled > 0 {
                happens.push(Happens::Arrive { late, again: true });
            }
        }
        for node in 0..self.bounds.n_nodes {
            if world.left.power_cuts > 0 {
                happens.push(Happens::PowerCut { node });
            }
            if world.left.writes > 0 && world.serves(node) {
                happens.push(Happens::Write { node });
            }
        }
    }

    fn next_state(&self, before: &World, happens: Happens) -> Option<World> {
        let mut world = before.clone();
        match happens {
            Happens::Look { operator, node } => self.take_look(&mut world, operator, node, false),
            Happens::Hidden { operator, node } => self.take_look(&mut world, operator, node, true),
            Happens::Carry { operator, position } | Happens::Cut { operator, position } => {
                let cut = if matches!(happens, Happens::Cut { .. }) {
                    world.left.lost -= 1;
                    Cut::HalfWay
                } else {
                    Cut::Never
                };
                let Phase::Doing(doing) = &before.operators[operator].phase else {
                    return None;
                };
                let desired = &self.wanted[operator + 1];
                let done = act::carry(&mut world, &doing.plan, desired, position, cut);
                Self::settle(&mut world, operator, position, outcome(done));
            }
            Happens::Lose { operator, position } => {
                let Phase::Doing(doing) = &before.operators[operator].phase else {
                    return None;
                };
                world.left.lost -= 1;
                world.late.push(Late::new(operator, doing, position));
                world.late.sort_by_key(|late| late.digest);
                Self::settle(&mut world, operator, position, Outcome::Failed);
            }
            Happens::Arrive { late, again } => {
                let arrived = before.late.get(late)?;
                if again {
                    world.left.doubled -= 1;
                } else {
                    world.late.remove(late);
                }
                let desired = &self.wanted[arrived.operator + 1];
                act::carry(&mut world, &arrived.plan, desired, arrived.position, Cut::Never);
            }
            Happens::PowerCut { node } => {
                world.left.power_cuts -= 1;
                act::cut_power(&mut world, node);
            }
            Happens::Write { node } => {
                world.left.writes -= 1;
                act::write(&mut world, node);
            }
        }
        Some(world)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("I1: one node at most may write", |_, world: &World| {
                world.has_one_writer()
            }),
            Property::always(
                "I2, I3, I6: every acknowledged record is kept",
                |_, world: &World| world.keeps_what_was_acknowledged(),
            ),
            Property::always(
                "I4, I5: epochs only grow, and nothing forbidden was tried",
                |_, world: &World| world.broken.is_none(),
            ),
            Property::always("I8: it converges from here", |hand_off: &Self, world: &World| {
                !world.digest().is_multiple_of(SHARE_THAT_RECOVERS)
                    || world.broken.is_some()
                    || hand_off.recovers(world)
            }),
            Property::sometimes("the application was moved", |_, world: &World| world.serves(1)),
            Property::sometimes(
                "it was moved on by the second configuration",
                |hand_off: &Self, world: &World| {
                    !hand_off.bounds.second_operator
                        || (world.newest_obeyed() == Generation(3) && world.serves(world.n_nodes() % 2 * 2))
                },
            ),
        ]
    }
}

/// Says how a step stands, in one letter, for the digest of a state.
fn letter(standing: &Standing) -> u8 {
    match standing {
        Standing::Blocked => b'b',
        Standing::Ready => b'r',
        Standing::Running => b'R',
        Standing::Done => b'd',
        Standing::Failed => b'f',
        Standing::Skipped { .. } => b's',
    }
}
