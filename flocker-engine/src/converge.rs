//! Going on until what is to be is so: look, plan, do, look again.
//!
//! There is no retry but this loop, and no memory but the world: what was cut
//! short is finished by the next plan, whoever makes it.

mod agent;
mod away;
mod confirm;
mod course;
mod earlier;
mod locks;
mod pauses;
mod scope;

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use flocker_backends::Classify as _;
use flocker_backends::ErrorClass;
use flocker_model::ByteSize;
use flocker_model::ClusterState;
use flocker_model::Deployment;
use flocker_model::Generation;
use flocker_model::NodeName;
use flocker_model::Observed;
use flocker_model::planted::Bug;
use flocker_model::planted::is_planted;
use flocker_plan::Plan;
use flocker_plan::Policy;
use flocker_plan::Refusal;
use flocker_plan::StepId;
use flocker_plan::Waiting;
use thiserror::Error;

use crate::clock;
use crate::event::Event;
use crate::event::Listener;
use crate::execute::Execution;
use crate::execute::execute;
use crate::handles::Handles;
use crate::node::LockToken;
use crate::node_error::NodeError;
use crate::observe::Looking;
use crate::observe::leave_out_older_owners;
use crate::observe::observe_telling;
use crate::report::Report;
use crate::stop::Stop;

pub use agent::{AgentTurn, agent_turn};
use away::Away;
use away::cut_overs;
pub use confirm::{Answer, Confirm, Go};
use course::Course;
pub use course::{Move, RolledBack};
use earlier::Tries;
use locks::Locks;
use pauses::Pauses;
pub use pauses::Restart;
use scope::Scope;

/// The longest pause between two turns.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// How often a turn looks again because a node came into sight whose lock was not held.
const MAX_LOOKS: u32 = 4;

/// How a push goes about it.
#[derive(Clone, Debug)]
pub struct PushOptions {
    /// Who pushes, for those who find the lock taken: `ann@laptop`.
    pub holder: String,
    /// Since when, in seconds since 1970: for people.
    pub since: u64,
    /// How long to wait for a deploy lock that somebody else holds; nothing for not at all.
    pub lock_wait: Option<Duration>,
    /// What to do with a lock that is still held after that.
    pub if_held: IfHeld,
    /// How many turns to take at most.
    pub max_turns: u32,
    /// How many turns in a row may change nothing before it is given up.
    pub max_idle_turns: u32,
    /// How often a step of a cut-over may fail before the move is rolled back; nothing for never.
    pub roll_back_after: Option<u32>,
    /// How long to wait after a turn that changed nothing; twice as long after the next.
    pub back_off: Duration,
    /// How long one node may take to report.
    pub look: Duration,
    /// How many steps one node does at once.
    pub per_node: usize,
    /// How many bytes one push may send in a second, or no limit.
    pub bandwidth: Option<ByteSize>,
    /// What asks it to stop.
    pub stop: Stop,
    /// How long running steps get after that.
    pub stop_grace: Duration,
}

impl PushOptions {
    /// Returns what suits most, for this holder.
    #[must_use]
    pub fn new(holder: impl Into<String>, since: u64, stop: Stop) -> Self {
        Self {
            holder: holder.into(),
            since,
            lock_wait: None,
            if_held: IfHeld::Refuse,
            max_turns: 100,
            max_idle_turns: 5,
            roll_back_after: Some(3),
            back_off: Duration::from_millis(500),
            look: Duration::from_secs(15),
            per_node: 16,
            bandwidth: None,
            stop,
            stop_grace: Duration::from_secs(10),
        }
    }
}

/// What to do with a deploy lock that somebody else holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IfHeld {
    /// Give up.
    Refuse,
    /// Take it away: the other one's orders are refused from then on.
    Break,
}

/// How a push ended.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// How it ended.
    pub end: End,
    /// Which configuration the nodes obey now.
    pub generation: Generation,
    /// How the steps of every turn ended.
    pub reports: Vec<Report>,
    /// What the moves cost.
    pub moves: Vec<Move>,
    /// What it cost to start applications anew where they are.
    pub restarts: Vec<Restart>,
    /// The moves that were given up.
    pub rolled_back: Vec<RolledBack>,
    /// The steps that are to be done and are beyond what was agreed to, where that was one plan.
    pub beyond: Vec<StepId>,
    /// What was seen last.
    pub actual: ClusterState,
}

/// In what state a push left the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// Everything is as it is to be; where a move was rolled back, as it was before it.
    Settled,
    /// Not everything is; where nothing waits, is refused or has failed, there is what was not agreed to.
    Partly {
        /// What waits, and for what.
        waiting: Vec<Waiting>,
        /// What only a person may decide.
        refused: Vec<Refusal>,
        /// What failed, and why.
        failed: BTreeMap<StepId, NodeError>,
    },
    /// It was asked to stop.
    Interrupted {
        /// The steps that were not begun or not finished.
        left: Vec<StepId>,
        /// The cut-overs that would have followed the copies.
        cut_overs: Vec<Waiting>,
    },
    /// The plan was shown and declined.
    Declined,
}

/// Why a push did not take place, or was given up.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum PushError {
    /// Somebody else deploys.
    #[error("could not take the deploy lock of {node}: {holder} holds it")]
    Held {
        /// The node.
        node: NodeName,
        /// Who holds its lock.
        holder: String,
        /// Since when, in seconds since 1970.
        since: u64,
    },
    /// Somebody else has deployed meanwhile, in spite of the lock.
    #[error("{node} obeys generation {theirs} by now, which is newer than this push's {ours}")]
    Superseded {
        /// The node.
        node: NodeName,
        /// The generation of this push.
        ours: Generation,
        /// The generation that the node obeys.
        theirs: Generation,
    },
}

/// Brings a cluster to what is desired, and goes on until it is or nothing changes any more.
///
/// It takes the deploy lock of every node that it sees, in order of name, and
/// gives them back at the end; a lock also ends with its connection. Dropped
/// half way, the nodes finish or drop what they are at, and the next push goes
/// on from there.
///
/// A move that fails after its cut-over, again and again, is rolled back once:
/// the application is planned back where it came from, which the planner does
/// by a newer ownership, so that the target can never take up the older one.
///
/// Asked to stop, it begins nothing more. Whoever it has stopped to be started
/// again is carried to that end, by as many turns as that takes or as there is
/// a way: at the target, or back where it was.
pub async fn push(
    desired: &Deployment,
    handles: &Handles,
    policy: &Policy,
    options: &PushOptions,
    confirm: &dyn Confirm,
    listener: Arc<dyn Listener>,
) -> Result<Outcome, PushError> {
    let mut push = Push {
        desired: desired.clone(),
        policy: policy.clone(),
        handles,
        options,
        listener,
        locks: Locks::new(LockToken::random()),
        looking: Looking {
            deadline: options.look,
            known: BTreeMap::new(),
        },
        generation: None,
        seen: BTreeSet::new(),
        unlocked: BTreeSet::new(),
        course: Course::new(options.roll_back_after),
        pauses: Pauses::default(),
        scope: None,
        beyond: Vec::new(),
        tries: Tries::default(),
        has_told_rest: false,
        reports: Vec::new(),
        actual: ClusterState::default(),
    };
    let end = push.run(confirm).await;
    push.locks.give_back(handles, options.look).await;
    let end = end?;
    let Push {
        generation,
        course,
        pauses,
        beyond,
        reports,
        actual,
        ..
    } = push;
    let (moves, rolled_back) = course.finish();
    Ok(Outcome {
        end,
        generation: generation.unwrap_or_default(),
        reports,
        moves,
        restarts: pauses.finish(),
        rolled_back,
        beyond,
        actual,
    })
}

struct Push<'a> {
    desired: Deployment,
    policy: Policy,
    handles: &'a Handles,
    options: &'a PushOptions,
    listener: Arc<dyn Listener>,
    locks: Locks,
    looking: Looking,
    generation: Option<Generation>,
    /// The nodes that were seen at this generation or before.
    seen: BTreeSet<NodeName>,
    /// The nodes that answered and whose lock could not be had.
    unlocked: BTreeSet<NodeName>,
    course: Course,
    pauses: Pauses,
    /// What was agreed to, where that was one plan and no more.
    scope: Option<Scope>,
    /// What the plan of this turn has beyond that.
    beyond: Vec<StepId>,
    /// How often earlier snapshots could not be sent.
    tries: Tries,
    /// Whether it was told what it still does although it was asked to stop.
    has_told_rest: bool,
    reports: Vec<Report>,
    actual: ClusterState,
}

impl Push<'_> {
    async fn run(&mut self, confirm: &dyn Confirm) -> Result<End, PushError> {
        self.look().await;
        let mut idle_turns = 0;
        let mut failed = BTreeMap::new();
        let mut is_agreed = false;
        for turn in 1.. {
            let away = self
                .options
                .stop
                .is_asked()
                .then(|| Away::by(&self.reports, &self.actual));
            if away.as_ref().is_some_and(Away::is_empty) {
                return Ok(self.interrupted());
            }
            self.take_locks().await?;
            let generation = self.agree_on_generation()?;
            if self.turn_back() {
                idle_turns = 0;
            }
            self.desired = std::mem::take(&mut self.desired).at(generation);
            let mut plan = self.plan();
            if let Some(away) = &away {
                plan = self.rest_of(&plan, away);
            }
            self.tell_plan(turn, &plan);
            confirm.sees(&plan, &self.actual);
            if plan.steps().is_empty() {
                if plan.is_settled() && away.is_none() {
                    self.course.settle();
                    if self.beyond.is_empty() {
                        return Ok(End::Settled);
                    }
                }
                // A node that this push has seen may only have been started again: it gets a while to come back.
                if idle_turns < self.options.max_idle_turns && self.waits_for_who_was_seen(&plan) {
                    idle_turns += 1;
                    self.pause(idle_turns).await;
                    self.look().await;
                    continue;
                }
                return Ok(self.unfinished(&plan, failed));
            }
            if turn > self.options.max_turns || idle_turns > self.options.max_idle_turns {
                return Ok(self.unfinished(&plan, failed));
            }
            if !is_agreed {
                match confirm.confirm(&plan, &self.actual).await {
                    Answer::Go => {}
                    Answer::GoNoFurther => self.scope = Some(Scope::of(&plan)),
                    Answer::Decline => return Ok(End::Declined),
                }
                is_agreed = true;
            }
            let announced = self
                .locks
                .announce(generation, &self.actual, self.handles, self.options);
            if !announced.await {
                // Nothing of it may be done before all that are planned with know of it.
                idle_turns += 1;
                self.pause(idle_turns).await;
                self.look().await;
                continue;
            }
            let forecast = flocker_plan::estimate(&plan, &self.actual, &self.policy);
            let mut execution = self.execution();
            if away.is_some() {
                // Nothing else is in this plan.
                execution.stop = Stop::never();
            }
            let report = execute(&plan, &self.desired, self.handles, &execution).await;
            self.course.follow(&forecast, &report, &self.actual);
            self.pauses.follow(&forecast, &report);
            self.locks.doubt(&report);
            let passes_over = self.tries.follow(&plan, &report, &mut self.policy);
            self.policy.rates.bytes_per_second = report
                .measured_rate()
                .unwrap_or(self.policy.rates.bytes_per_second);
            failed = report.failed();
            let was_interrupted = report.was_interrupted;
            let changed = report.changed_something();
            let left = report.left().map(flocker_plan::Step::id).collect();
            self.reports.push(report);
            if was_interrupted && Away::by(&self.reports, &self.actual).is_empty() {
                let cut_overs = cut_overs(&plan);
                return Ok(End::Interrupted { left, cut_overs });
            }
            if changed || was_interrupted || passes_over {
                idle_turns = 0;
            } else {
                idle_turns += 1;
                let may_pass = failed
                    .values()
                    .any(|error| error.class() == ErrorClass::Transient);
                if !may_pass && !self.course.wants_back() && idle_turns > 1 {
                    return Ok(self.unfinished(&plan, failed));
                }
                self.pause(idle_turns).await;
            }
            self.look().await;
        }
        Ok(self.interrupted())
    }

    /// Rolls the next move back that cannot end, and says whether there was one.
    fn turn_back(&mut self) -> bool {
        let Some(back) = self.course.roll_back(&self.actual) else {
            return false;
        };
        self.listener.on(&Event::RolledBack {
            application: back.application.clone(),
            to: back.to.clone(),
            cause: back.cause_text(),
        });
        self.desired = self.desired.clone().with_placement(&back.application, &back.to);
        true
    }

    /// Returns what is done of a plan after it was asked to stop.
    fn rest_of(&mut self, plan: &Plan, away: &Away) -> Plan {
        let rest = away.rest_of(plan, &self.desired, &self.actual);
        let finishing = away.finishing(&rest, &self.desired, &self.actual);
        if !(finishing.is_empty() || std::mem::replace(&mut self.has_told_rest, true)) {
            self.listener.on(&Event::Stopping { finishing });
        }
        rest
    }

    /// Says what is not as it is to be, and why.
    fn unfinished(&mut self, plan: &Plan, failed: BTreeMap<StepId, NodeError>) -> End {
        if self.options.stop.is_asked() {
            return self.interrupted();
        }
        End::Partly {
            waiting: plan.waiting().to_vec(),
            refused: plan.refused().to_vec(),
            failed,
        }
    }

    /// Says what is left to do of what was begun.
    fn interrupted(&mut self) -> End {
        if self.reports.is_empty() {
            return End::Interrupted {
                left: Vec::new(),
                cut_overs: Vec::new(),
            };
        }
        let plan = self.plan();
        End::Interrupted {
            left: plan.steps().iter().map(flocker_plan::Step::id).collect(),
            cut_overs: cut_overs(&plan),
        }
    }

    /// Plans, as far as it was agreed to.
    fn plan(&mut self) -> Plan {
        let plan = flocker_plan::plan(&self.desired, &self.actual, &self.policy);
        let Some(scope) = &mut self.scope else {
            return plan;
        };
        let (plan, beyond) = scope.part_of(&plan);
        self.beyond = beyond;
        plan
    }

    async fn look(&mut self) {
        let listener = &self.listener;
        let late = |nodes| listener.on(&Event::Awaited { nodes });
        self.actual = observe_telling(&self.desired, self.handles, &self.looking, late).await;
        leave_out_older_owners(&mut self.actual);
        self.course.see(&self.actual, clock::now());
        self.pauses.see(&self.actual, clock::now());
        let mut silent = Vec::new();
        for (name, look) in &self.actual.nodes {
            if let Observed::Unknown(silence) = look {
                silent.push((name.clone(), silence.to_string()));
            }
        }
        self.listener.on(&Event::Observed {
            seen: self.actual.all_known().map(|(name, _)| name.clone()).collect(),
            silent,
        });
    }

    /// Takes the locks that are not held yet, and looks again until what is seen was seen under them.
    ///
    /// Before a lock was taken somebody else may have changed what was seen
    /// there. A node that comes into sight meanwhile may just be in somebody
    /// else's hands: as long as its lock is not held, what it has is not known.
    async fn take_locks(&mut self) -> Result<(), PushError> {
        for _ in 0..MAX_LOOKS {
            let took_one = self
                .locks
                .take(&self.actual, self.handles, self.options, &*self.listener)
                .await?;
            if !took_one || is_planted(Bug::PlanOfAnOldLook) {
                break;
            }
            self.look().await;
        }
        let unlocked = self.locks.leave_out_unlocked(&mut self.actual);
        self.unlocked.extend(unlocked);
        Ok(())
    }

    /// Works out which configuration this push is: newer than all that the nodes obey, and the same for its life.
    fn agree_on_generation(&mut self) -> Result<Generation, PushError> {
        let mut newest = self.desired.generation();
        for (name, state) in self.actual.all_known() {
            if let Some(ours) = self.generation
                && self.seen.contains(name)
                && state.generation > ours
            {
                return Err(PushError::Superseded {
                    node: name.clone(),
                    ours,
                    theirs: state.generation,
                });
            }
            newest = newest.max(state.generation);
        }
        self.seen
            .extend(self.actual.all_known().map(|(name, _)| name.clone()));
        let generation = match self.generation {
            // A node that was silent until now may have obeyed a newer one; this push goes beyond it.
            Some(ours) if newest <= ours => ours,
            Some(_) | None if is_planted(Bug::GenerationStays) => newest,
            Some(_) | None => newest.next(),
        };
        self.generation = Some(generation);
        Ok(generation)
    }

    fn waits_for_who_was_seen(&self, plan: &Plan) -> bool {
        let was_seen = |node: &NodeName| self.seen.contains(node) || self.unlocked.contains(node);
        plan.waiting().iter().any(|waiting| match waiting {
            Waiting::ForSight { nodes, .. } => nodes.iter().any(was_seen),
            Waiting::PreCopy { .. }
            | Waiting::Earlier { .. }
            | Waiting::Held { .. }
            | Waiting::NotConverging { .. }
            | Waiting::TooManyFiles { .. }
            | Waiting::ForHealth { .. } => false,
        })
    }

    fn tell_plan(&self, turn: u32, plan: &Plan) {
        self.listener.on(&Event::PlanMade {
            turn,
            generation: plan.generation(),
            n_steps: plan.steps().len(),
            waiting: plan.waiting().iter().map(ToString::to_string).collect(),
            refused: plan.refused().iter().map(ToString::to_string).collect(),
        });
    }

    fn execution(&self) -> Execution {
        Execution {
            ids: self
                .actual
                .all_known()
                .map(|(name, state)| (name.clone(), state.id))
                .collect(),
            homes: Execution::homes_in(&self.actual),
            lock: Some(self.locks.token()),
            per_node: self.options.per_node,
            bandwidth: self.options.bandwidth,
            stop: self.options.stop.clone(),
            stop_grace: self.options.stop_grace,
            listener: Arc::clone(&self.listener),
        }
    }

    async fn pause(&self, idle_turns: u32) {
        let factor = 1_u32
            .checked_shl(idle_turns.saturating_sub(1))
            .unwrap_or(u32::MAX);
        let pause = self.options.back_off.saturating_mul(factor).min(LONGEST_PAUSE);
        let was_asked = self.options.stop.is_asked();
        self.listener.on(&Event::BackingOff { pause });
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = self.options.stop.asked(), if !was_asked => {}
        }
    }
}
