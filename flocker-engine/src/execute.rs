//! Doing: one plan, every ready step at once, in the order that its facts give.
//!
//! Which step is ready is the frontier's to say, what a step means the
//! node's, and whether to try again the loop's. Nothing is chosen here.

mod begun;
mod images;
#[cfg(all(test, feature = "shuttle"))]
mod interleavings;

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::PoisonError;
use std::time::Duration;

use flocker_backends::Change;
use flocker_backends::ErrorClass;
use flocker_model::ApplicationName;
use flocker_model::ByteSize;
use flocker_model::ClusterState;
use flocker_model::Deployment;
use flocker_model::NodeId;
use flocker_model::NodeName;
use flocker_model::planted::Bug;
use flocker_model::planted::is_planted;
use flocker_plan::Action;
use flocker_plan::Frontier;
use flocker_plan::Outcome;
use flocker_plan::Plan;
use flocker_plan::Standing;
use flocker_plan::Step;
use flocker_plan::StepId;
use tokio::time::Instant;

use self::begun::Begun;
pub(crate) use self::begun::all_stops;
pub(crate) use self::begun::copies_all;
pub(crate) use self::begun::stops_before;
pub(crate) use self::begun::was_stopped_before;
use self::images::Sources;
use crate::clock;
use crate::event::Event;
use crate::event::Listener;
use crate::fault::Fault;
use crate::fault::one_line;
use crate::handles::Handles;
use crate::node::LockToken;
use crate::node::NodeHandle;
use crate::node::Order;
use crate::node::Progress;
use crate::node::Transfer;
use crate::node_error::NodeError;
use crate::passage::Carriage;
use crate::passage::Carrier;
use crate::passage::Detours;
use crate::passage::Watcher;
use crate::report::Ending;
use crate::report::Report;
use crate::report::StepReport;
use crate::stop::Stop;
use crate::sync::JoinError;
use crate::sync::JoinSet;
use crate::sync::Mutex;
use crate::sync::MutexGuard;
use crate::sync::timeout_at;

/// Everything about carrying a plan out that does not stand in it.
#[derive(Clone, Debug)]
pub struct Execution {
    /// Who the nodes were when they were looked at; an order to another machine is refused.
    pub ids: BTreeMap<NodeName, NodeId>,
    /// Where the applications were when the nodes were looked at: the images that they run are there.
    pub homes: BTreeMap<ApplicationName, BTreeSet<NodeName>>,
    /// Under which deploy lock the orders are given, if under one.
    pub lock: Option<LockToken>,
    /// How many steps one node does at once.
    pub per_node: usize,
    /// How many bytes one push, or one image, may send in a second, or no limit.
    pub bandwidth: Option<ByteSize>,
    /// What asks it to stop.
    pub stop: Stop,
    /// How long running steps get after that.
    pub stop_grace: Duration,
    /// Who is told what happens.
    pub listener: Arc<dyn Listener>,
}

/// Carries a plan out, and says how every step ended.
///
/// A failed step takes with it what needed its facts, and nothing else. Asked
/// to stop, it carries the cut-overs to their end that have begun, starts
/// nothing else, gives what runs a short time, drops it then, and reports what
/// is left. Dropped half way, running steps are dropped.
pub async fn execute(plan: &Plan, desired: &Deployment, handles: &Handles, execution: &Execution) -> Report {
    let mut run = Run {
        plan,
        desired,
        handles,
        execution,
        frontier: Frontier::new(plan),
        begun: None,
        queues: BTreeMap::new(),
        running: JoinSet::new(),
        notes: vec![Note::default(); plan.steps().len()],
        everyone: execution
            .ids
            .keys()
            .filter_map(|name| handles.get(name))
            .collect(),
    };
    let ready: Vec<usize> = run.frontier.ready().collect();
    run.enqueue(ready);
    let mut interrupted = false;
    loop {
        if execution.stop.is_asked() {
            interrupted = true;
            run.wind_down().await;
            break;
        }
        run.start_what_may();
        if run.running.is_empty() {
            break;
        }
        tokio::select! {
            biased;
            done = run.running.join_next() => run.take_in(done),
            () = execution.stop.asked() => {}
        }
    }
    run.report(interrupted)
}

impl Execution {
    /// Returns where the applications are by what was seen, as [`Execution::homes`] has it.
    #[must_use]
    pub fn homes_in(actual: &ClusterState) -> BTreeMap<ApplicationName, BTreeSet<NodeName>> {
        let mut homes: BTreeMap<ApplicationName, BTreeSet<NodeName>> = BTreeMap::new();
        for (node, state) in actual.all_known() {
            for application in state.containers.keys() {
                homes.entry(application.clone()).or_default().insert(node.clone());
            }
        }
        homes
    }
}

/// What is noted of a step.
#[derive(Clone, Debug, Default)]
struct Note {
    began: Option<Instant>,
    ended: Option<Instant>,
    result: Option<Result<Change, NodeError>>,
    sent: ByteSize,
    carrier: Option<Carrier>,
}

/// The steps of one node that may start, and how many run.
#[derive(Debug, Default)]
struct Queue {
    ready: VecDeque<usize>,
    n_running: usize,
}

/// How a step that ran ended.
struct Done {
    position: usize,
    step: StepId,
    result: Result<Change, NodeError>,
    sent: ByteSize,
    carrier: Option<Carrier>,
}

struct Run<'a> {
    plan: &'a Plan,
    desired: &'a Deployment,
    handles: &'a Handles,
    execution: &'a Execution,
    frontier: Frontier,
    /// The cut-overs that had begun when it was asked to stop: nothing else is started since.
    begun: Option<Begun>,
    queues: BTreeMap<NodeName, Queue>,
    running: JoinSet<Done>,
    notes: Vec<Note>,
    /// All nodes that were seen, by name. Any of them may have the image that another one lacks.
    everyone: Arc<[Arc<dyn NodeHandle>]>,
}

impl Run<'_> {
    fn enqueue(&mut self, ready: Vec<usize>) {
        for position in ready {
            if !self.may_start(position) {
                continue;
            }
            let actor = &self.plan.steps()[position].actor;
            let queue = self.queues.entry(actor.clone()).or_default();
            queue.ready.push_back(position);
        }
    }

    fn may_start(&self, position: usize) -> bool {
        self.begun.as_ref().is_none_or(|begun| begun.is_theirs[position])
    }

    /// Starts as many ready steps as each node may do at once.
    fn start_what_may(&mut self) {
        let limit = match self.begun {
            None => self.execution.per_node.max(1),
            // What is only waited for must not stand in the way of who is away.
            Some(_) => usize::MAX,
        };
        let mut starting = Vec::new();
        for queue in self.queues.values_mut() {
            while queue.n_running < limit {
                let Some(position) = queue.ready.pop_front() else {
                    break;
                };
                queue.n_running += 1;
                starting.push(position);
            }
        }
        for position in starting {
            self.start(position);
        }
    }

    fn start(&mut self, position: usize) {
        let step = &self.plan.steps()[position];
        self.frontier.start(position);
        self.notes[position].began = Some(clock::now());
        let id = step.id();
        self.execution.listener.on(&Event::StepStarted {
            step: id.clone(),
            node: step.actor.clone(),
        });
        let errand = Errand {
            step: step.clone(),
            order: self.order(step),
            actor: self.handles.get(&step.actor),
            receiver: step
                .action
                .receiver()
                .map(|to| (to.clone(), self.handles.get(to))),
            sources: self.sources(step),
            detours: Arc::clone(self.handles.detours()),
            listener: Arc::clone(&self.execution.listener),
        };
        // On the heap before it is handed over: it is large, and would be moved from hand to hand.
        self.running.spawn(Box::pin(async move {
            let watch = Watch {
                step: id,
                listener: Arc::clone(&errand.listener),
                seen: Mutex::default(),
            };
            let result = errand.run(&watch).await;
            let Seen { sent, carrier, .. } = *watch.seen();
            Done {
                position,
                step: watch.step,
                result,
                sent,
                carrier,
            }
        }));
    }

    fn order(&self, step: &Step) -> Order {
        let mut order = Order::new(step.action.clone(), self.plan.generation());
        order.expects = self.execution.ids.get(&step.actor).copied();
        order.lock = self.execution.lock;
        order.bandwidth = self.execution.bandwidth;
        if let Action::Start { application, .. } | Action::Prepare { application, .. } = &step.action {
            order.application = self.desired.application(application).cloned();
        }
        order
    }

    /// Returns who may have the image that a step needs.
    fn sources(&self, step: &Step) -> Option<Sources> {
        let (Action::Start { application, .. } | Action::Prepare { application, .. }) = &step.action else {
            return None;
        };
        let image = self.desired.application(application)?.image.clone();
        let homes = self.execution.homes.get(application).into_iter().flatten();
        Some(Sources {
            image,
            homes: homes.filter_map(|name| self.handles.get(name)).collect(),
            everyone: Arc::clone(&self.everyone),
            detours: Arc::clone(self.handles.detours()),
            bandwidth: self.execution.bandwidth,
        })
    }

    /// Notes how a step ended, and lets in what it made ready.
    fn take_in(&mut self, done: Option<Result<Done, JoinError>>) {
        let Some(Ok(done)) = done else {
            // A step that broke down settles with the others that have no ending, in the report.
            return;
        };
        let Done {
            position,
            step: id,
            result,
            sent,
            carrier,
        } = done;
        let step = &self.plan.steps()[position];
        if let Some(queue) = self.queues.get_mut(&step.actor) {
            queue.n_running -= 1;
        }
        let note = &mut self.notes[position];
        let now = clock::now();
        note.ended = Some(now);
        note.sent = sent;
        note.carrier = carrier;
        let took = note
            .began
            .map_or(Duration::ZERO, |began| now.duration_since(began));
        let listener = &self.execution.listener;
        let outcome = match &result {
            Ok(change) => {
                listener.on(&Event::StepDone {
                    step: id,
                    change: *change,
                    took,
                });
                Outcome::Done
            }
            Err(error) => {
                listener.on(&Event::StepFailed {
                    step: id,
                    error: one_line(error),
                    took,
                });
                if is_planted(Bug::FailureIsDone) {
                    Outcome::Done
                } else {
                    Outcome::Failed
                }
            }
        };
        note.result = Some(result);
        let ready = self.frontier.settle(position, outcome);
        self.enqueue(ready);
        if outcome == Outcome::Failed {
            let because = step.id();
            for (taker, standing) in self.frontier.standings().iter().enumerate() {
                if *standing == (Standing::Skipped { because: position }) {
                    listener.on(&Event::StepSkipped {
                        step: self.plan.steps()[taker].id(),
                        because: because.clone(),
                    });
                }
            }
        }
    }

    /// Carries the cut-overs to their end that have begun; lets what else runs finish for a while, and drops it then.
    async fn wind_down(&mut self) {
        let begun = Begun::of(self.plan, &self.frontier);
        if !(self.running.is_empty() && begun.applications.is_empty()) {
            self.execution.listener.on(&Event::Stopping {
                finishing: begun.applications.iter().cloned().collect(),
            });
        }
        for queue in self.queues.values_mut() {
            queue.ready.retain(|&position| begun.is_theirs[position]);
        }
        self.begun = Some(begun);
        let end = clock::now() + self.execution.stop_grace;
        loop {
            self.start_what_may();
            if self.running.is_empty() {
                break;
            }
            if self.carries_a_cut_over() {
                let done = self.running.join_next().await;
                self.take_in(done);
                continue;
            }
            match timeout_at(end, self.running.join_next()).await {
                Ok(done) => self.take_in(done),
                Err(_) => self.running.shutdown().await,
            }
        }
    }

    /// Says whether a step of a cut-over runs that is carried to its end.
    fn carries_a_cut_over(&self) -> bool {
        let standings = self.frontier.standings().iter().enumerate();
        let mut running = standings.filter(|(_, standing)| **standing == Standing::Running);
        running.any(|(position, _)| self.may_start(position))
    }

    fn report(self, was_interrupted: bool) -> Report {
        let steps = self.plan.steps();
        let notes = self.notes.into_iter().enumerate();
        let steps = notes.map(|(position, note)| {
            let ending = match (note.result, self.frontier.standing(position)) {
                (Some(Ok(change)), _) => Ending::Done(change),
                (Some(Err(error)), _) => Ending::Failed(error),
                (None, Standing::Skipped { because }) => Ending::Skipped {
                    because: steps[because].id(),
                },
                (None, Standing::Running) if !was_interrupted => Ending::Failed(NodeError::Backend(
                    Fault::new("the step broke down", ErrorClass::Permanent),
                )),
                (None, Standing::Running) => Ending::Interrupted,
                (None, Standing::Blocked | Standing::Ready | Standing::Done | Standing::Failed) => {
                    Ending::Left
                }
            };
            StepReport {
                step: steps[position].clone(),
                ending,
                began: note.began,
                ended: note.ended,
                sent: note.sent,
                carrier: note.carrier,
            }
        });
        Report {
            steps: steps.collect(),
            was_interrupted,
        }
    }
}

/// One step on its way to its node.
struct Errand {
    step: Step,
    order: Order,
    actor: Option<Arc<dyn NodeHandle>>,
    receiver: Option<(NodeName, Option<Arc<dyn NodeHandle>>)>,
    sources: Option<Sources>,
    detours: Arc<Detours>,
    listener: Arc<dyn Listener>,
}

impl Errand {
    async fn run(self, watch: &Watch) -> Result<Change, NodeError> {
        let actor = self.actor.as_ref().ok_or_else(|| no_way(&self.step.actor))?;
        if let (Some((name, receiver)), Some(transfer)) = (&self.receiver, transfer(&self.step.action)) {
            let carriage = Carriage {
                sender: &**actor,
                receiver: &**receiver.as_ref().ok_or_else(|| no_way(name))?,
                detours: &self.detours,
            };
            return carriage.carry(transfer, self.order, watch).await;
        }
        let performed = actor.perform(&self.order, watch).await;
        let (Err(error), Some(sources)) = (&performed, &self.sources) else {
            return performed;
        };
        match sources.bring_to(&**actor, watch).await {
            Ok(true) => actor.perform(&self.order, watch).await,
            Ok(false) => performed,
            Err(not_brought) => {
                let (error, not_brought) = (one_line(error), one_line(&not_brought));
                tracing::info!(error, not_brought, "an image could not be brought");
                performed
            }
        }
    }
}

fn transfer(action: &Action) -> Option<Transfer> {
    if let Action::Push {
        dataset,
        snapshot,
        base,
        to: _,
    } = action
    {
        Some(Transfer {
            dataset: dataset.clone(),
            snapshot: snapshot.clone(),
            base: base.as_ref().map(|base| base.guid),
            sender: None,
        })
    } else {
        None
    }
}

fn no_way(node: &NodeName) -> NodeError {
    NodeError::Unreachable {
        node: node.clone(),
        source: Fault::new("nobody has told how to reach it", ErrorClass::Permanent),
    }
}

/// Passes a step's progress on, and keeps the last of it.
struct Watch {
    step: StepId,
    listener: Arc<dyn Listener>,
    seen: Mutex<Seen>,
}

/// What was seen of a step.
#[derive(Default)]
struct Seen {
    sent: ByteSize,
    carrier: Option<Carrier>,
    /// What carries it, until that is seen to work.
    tried: Option<Carrier>,
}

impl Watch {
    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell_carrier(&self, by: Carrier, because: Option<String>) {
        self.listener.on(&Event::StepCarried {
            step: self.step.clone(),
            by,
            because,
        });
    }
}

impl Progress for Watch {
    fn report(&self, done: ByteSize, total: Option<ByteSize>) {
        let confirmed = {
            let mut seen = self.seen();
            seen.sent = done;
            let confirmed = seen.tried.take();
            seen.carrier = seen.carrier.or(confirmed);
            confirmed
        };
        if let Some(by) = confirmed {
            self.tell_carrier(by, None);
        }
        self.listener.on(&Event::StepProgress {
            step: self.step.clone(),
            done,
            total,
        });
    }
}

impl Watcher for Watch {
    fn carried(&self, by: Carrier, because: Option<String>) {
        match by {
            Carrier::DirectTls => self.seen().tried = Some(by),
            Carrier::Relay => {
                {
                    let mut seen = self.seen();
                    seen.tried = None;
                    seen.carrier = Some(by);
                }
                self.tell_carrier(by, because);
            }
        }
    }
}
