//! A plan whose steps end in every order: each is done once, after what it needs, and the execution ends.

#![expect(
    clippy::unwrap_used,
    reason = "a test that cannot go on says where it stopped"
)]

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::Mutex;
use std::time::Duration;

use async_trait::async_trait;
use flocker_backends::ByteStream;
use flocker_backends::Change;
use flocker_backends::ErrorClass;
use flocker_backends::LogRequest;
use flocker_model::ApplicationName;
use flocker_model::Deployment;
use flocker_model::Generation;
use flocker_model::NodeAddress;
use flocker_model::NodeId;
use flocker_model::NodeName;
use flocker_model::NodeState;
use flocker_plan::Action;
use flocker_plan::Because;
use flocker_plan::Fact;
use flocker_plan::Need;
use flocker_plan::Plan;
use flocker_plan::Reason;
use flocker_plan::Step;
use shuttle::future::block_on;
use shuttle::future::spawn;
use shuttle::future::yield_now;
use shuttle::rand::Rng as _;

use super::Execution;
use super::execute;
use crate::event::Event;
use crate::event::Listener;
use crate::fault::Fault;
use crate::handles::Connect;
use crate::handles::Handles;
use crate::interleavings::try_out;
use crate::node::Claim;
use crate::node::LockToken;
use crate::node::NodeHandle;
use crate::node::Order;
use crate::node::Progress;
use crate::node::Ticket;
use crate::node::Transfer;
use crate::node_error::NodeError;
use crate::report::Ending;
use crate::report::Report;
use crate::stop::Stop;
use crate::stop::stopper;

const NODES: [&str; 2] = ["alpha", "beta"];

fn name(name: &str) -> NodeName {
    name.parse().unwrap()
}

fn application(number: usize) -> ApplicationName {
    format!("a{number}").parse().unwrap()
}

fn stop(node: &str, number: usize, after: &[(&str, usize)]) -> Step {
    let needs = after.iter().map(|(node, number)| Need {
        fact: Fact::Stopped {
            application: application(*number),
            on: name(node),
        },
        because: Because::OneCopy,
    });
    Step {
        actor: name(node),
        action: Action::Stop {
            application: application(number),
            grace: Duration::ZERO,
        },
        reason: Arc::new(Reason::Stops {
            application: application(number),
            on: name(node),
        }),
        needs: needs.collect(),
    }
}

/// Two at once on each node, one that needs both of two nodes, and one after that.
fn plan() -> Plan {
    let steps = vec![
        stop("alpha", 1, &[]),
        stop("alpha", 2, &[]),
        stop("beta", 3, &[]),
        stop("beta", 4, &[("alpha", 1), ("beta", 3)]),
        stop("alpha", 5, &[("alpha", 2)]),
        stop("beta", 6, &[("beta", 4), ("alpha", 5)]),
    ];
    Plan::new(Generation(1), steps, Vec::new(), Vec::new(), Vec::new())
}

/// What was begun and what has ended well, by all nodes together.
#[derive(Debug, Default)]
struct Ledger {
    begun: Vec<String>,
    done: BTreeSet<String>,
}

/// A node that does everything in two moments, or breaks down between them.
#[derive(Debug)]
struct Node {
    name: NodeName,
    address: NodeAddress,
    may_fail: bool,
    ledger: Arc<Mutex<Ledger>>,
}

fn failure() -> NodeError {
    NodeError::Backend(Fault::new("it is broken", ErrorClass::Permanent))
}

#[async_trait]
impl NodeHandle for Node {
    fn name(&self) -> &NodeName {
        &self.name
    }

    fn address(&self) -> &NodeAddress {
        &self.address
    }

    async fn observe(&self) -> Result<NodeState, NodeError> {
        Err(failure())
    }

    async fn admit(&self, _: &Transfer, _: Generation) -> Result<Ticket, NodeError> {
        Err(failure())
    }

    async fn perform(&self, order: &Order, _: &dyn Progress) -> Result<Change, NodeError> {
        let what = format!("{}/{}", self.name, order.action);
        self.ledger.lock().unwrap().begun.push(what.clone());
        yield_now().await;
        if self.may_fail && shuttle::rand::thread_rng().gen_range(0..4) == 0 {
            return Err(failure());
        }
        self.ledger.lock().unwrap().done.insert(what);
        yield_now().await;
        Ok(Change::Made)
    }

    async fn lock(&self, _: &Claim) -> Result<Change, NodeError> {
        Err(failure())
    }

    async fn obey(&self, _: Generation, _: LockToken) -> Result<Option<Change>, NodeError> {
        Err(failure())
    }

    async fn unlock(&self, _: LockToken) -> Result<Change, NodeError> {
        Err(failure())
    }

    async fn break_lock(&self) -> Result<Change, NodeError> {
        Err(failure())
    }

    async fn forget(&self, _: &NodeName, _: Option<NodeId>) -> Result<Change, NodeError> {
        Err(failure())
    }

    async fn remember(&self, _: &NodeName) -> Result<Change, NodeError> {
        Err(failure())
    }

    async fn logs(&self, _: &ApplicationName, _: LogRequest) -> Result<ByteStream, NodeError> {
        Err(failure())
    }
}

#[derive(Debug)]
struct Here {
    may_fail: bool,
    ledger: Arc<Mutex<Ledger>>,
}

impl Connect for Here {
    fn handle(&self, name: &NodeName, address: &NodeAddress) -> Arc<dyn NodeHandle> {
        Arc::new(Node {
            name: name.clone(),
            address: address.clone(),
            may_fail: self.may_fail,
            ledger: Arc::clone(&self.ledger),
        })
    }
}

/// Notes which steps are said to start.
#[derive(Debug, Default)]
struct Heard(Mutex<Vec<String>>);

impl Listener for Heard {
    fn on(&self, event: &Event) {
        if let Event::StepStarted { step, .. } = event {
            self.0.lock().unwrap().push(step.to_string());
        }
    }
}

/// Carries the plan out and checks what holds however it ends.
fn carry_out(may_fail: bool, stop: Stop, per_node: usize) -> Report {
    let ledger: Arc<Mutex<Ledger>> = Arc::default();
    let handles = Handles::new(Arc::new(Here {
        may_fail,
        ledger: Arc::clone(&ledger),
    }));
    for node in NODES {
        drop(handles.reach(&name(node), None));
    }
    let heard = Arc::new(Heard::default());
    let execution = Execution {
        ids: BTreeMap::new(),
        homes: BTreeMap::new(),
        lock: None,
        per_node,
        bandwidth: None,
        stop,
        stop_grace: Duration::from_secs(1),
        listener: Arc::clone(&heard) as Arc<dyn Listener>,
    };
    let plan = plan();
    let nothing = Deployment::builder().build().unwrap();
    let report = block_on(execute(&plan, &nothing, &handles, &execution));
    let Ledger { begun, done } = std::mem::take(&mut *ledger.lock().unwrap());
    let once: BTreeSet<&String> = begun.iter().collect();
    assert_eq!(once.len(), begun.len(), "a step came twice");
    assert!(begun.len() <= heard.0.lock().unwrap().len(), "a step came unsaid");
    assert_eq!(report.steps.len(), plan.steps().len());
    let what = |step: &Step| format!("{}/{}", step.actor, step.action);
    for (position, told) in report.steps.iter().enumerate() {
        let makers: Vec<usize> = plan.edges().makers(position).collect();
        if begun.contains(&what(&told.step)) {
            for maker in makers {
                let maker = what(&plan.steps()[maker]);
                assert!(done.contains(&maker), "{} before {maker}", what(&told.step));
            }
        }
        match &told.ending {
            Ending::Done(_) => assert!(done.contains(&what(&told.step))),
            Ending::Failed(_) => assert!(may_fail && !done.contains(&what(&told.step))),
            Ending::Skipped { .. } => assert!(may_fail && !begun.contains(&what(&told.step))),
            Ending::Left => assert!(report.was_interrupted && !begun.contains(&what(&told.step))),
            Ending::Interrupted => assert!(report.was_interrupted),
        }
    }
    report
}

#[test]
fn each_step_is_done_once_after_what_it_needs() {
    try_out(|| {
        let report = carry_out(false, Stop::never(), 2);
        assert!(
            report
                .steps
                .iter()
                .all(|told| matches!(told.ending, Ending::Done(_)))
        );
    });
    try_out(|| {
        let report = carry_out(false, Stop::never(), 1);
        assert!(
            report
                .steps
                .iter()
                .all(|told| matches!(told.ending, Ending::Done(_)))
        );
    });
}

#[test]
fn whatever_fails_the_execution_ends_and_says_how_each_step_did() {
    try_out(|| drop(carry_out(true, Stop::never(), 2)));
}

#[test]
fn asked_to_stop_at_any_moment_it_ends_and_starts_nothing_more() {
    try_out(|| {
        let (stopper, stop) = stopper();
        let asks = spawn(async move {
            yield_now().await;
            stopper.stop();
        });
        drop(carry_out(false, stop, 2));
        block_on(asks).unwrap();
    });
}
