//! How a simulated command reaches the nodes: by calls or by the protocol, with all that can go wrong on the way.

use std::fmt;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::time::Duration;

use async_trait::async_trait;
use flocker_backends::ByteStream;
use flocker_backends::Change;
use flocker_backends::ErrorClass;
use flocker_backends::LogRequest;
use flocker_model::ApplicationName;
use flocker_model::Generation;
use flocker_model::NodeAddress;
use flocker_model::NodeId;
use flocker_model::NodeName;
use flocker_model::NodeState;
use flocker_plan::Action;

use super::cluster::Cluster;
use super::cluster::Reach;
use super::sieve::Seen;
use crate::clock::Deadlines;
use crate::fault::Fault;
use crate::handles::Connect;
use crate::local::LocalNode;
use crate::local::Session;
use crate::node::Claim;
use crate::node::LockToken;
use crate::node::NodeHandle;
use crate::node::Order;
use crate::node::Progress;
use crate::node::Ticket;
use crate::node::Transfer;
use crate::node_error::NodeError;
use crate::remote::RemoteNode;
use crate::stop::Stop;

/// Makes the handles of one command.
#[derive(Debug)]
pub(crate) struct Ways(pub(crate) Arc<Cluster>);

impl Connect for Ways {
    fn handle(&self, name: &NodeName, address: &NodeAddress) -> Arc<dyn NodeHandle> {
        let remote = match self.0.layout.reach {
            Reach::Calls => None,
            Reach::Protocol => Some(RemoteNode::new(
                name.clone(),
                address.clone(),
                Arc::new(self.0.operator()),
                Deadlines::default(),
            )),
        };
        Arc::new(Way {
            cluster: Arc::clone(&self.0),
            name: name.clone(),
            address: address.clone(),
            remote,
            session: Mutex::new(Session::new()),
        })
    }
}

/// The way of one command to one node.
struct Way {
    cluster: Arc<Cluster>,
    name: NodeName,
    address: NodeAddress,
    remote: Option<RemoteNode>,
    /// What stands for the connection, where there is none: when an answer is lost, the next call is made over a new one.
    session: Mutex<Session>,
}

impl fmt::Debug for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Way")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

/// What answers at the end of a way.
enum End<'a> {
    Here(Arc<LocalNode>, Stop),
    There(&'a RemoteNode),
}

impl End<'_> {
    fn node(&self) -> &dyn NodeHandle {
        match self {
            Self::Here(local, _) => &**local,
            Self::There(remote) => *remote,
        }
    }
}

impl Way {
    fn end(&self) -> Result<End<'_>, NodeError> {
        if let Some(remote) = &self.remote {
            return Ok(End::There(remote));
        }
        let program = self.cluster.program_until(&self.name);
        program
            .filter(|_| self.cluster.is_reached(&self.name))
            .map(|(program, until)| End::Here(program, until))
            .ok_or_else(|| self.unreached())
    }

    /// Says whether there is an end.
    fn is_there(&self) -> bool {
        self.remote.is_some() || (self.cluster.is_running(&self.name) && self.cluster.is_reached(&self.name))
    }

    fn session(&self) -> MutexGuard<'_, Session> {
        self.session.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn unreached(&self) -> NodeError {
        NodeError::Unreachable {
            node: self.name.clone(),
            source: Fault::new("nobody answers", ErrorClass::Transient),
        }
    }

    /// Returns an answer, unless it cannot come back because the way is gone.
    fn answer<T>(&self, answer: Result<T, NodeError>) -> Result<T, NodeError> {
        if self.is_there() { answer } else { Err(self.lost()) }
    }

    fn lost(&self) -> NodeError {
        NodeError::Lost {
            node: self.name.clone(),
            source: Fault::new("the way is gone", ErrorClass::Transient),
        }
    }

    /// Carries an order out at the end of the way; a call ends with the program that it was made in.
    async fn perform_there(&self, order: &Order, progress: &dyn Progress) -> Result<Change, NodeError> {
        match self.end()? {
            End::There(remote) => remote.perform(order, progress).await,
            End::Here(local, until) => {
                let session = *self.session();
                tokio::select! {
                    biased;
                    () = until.asked() => Err(self.lost()),
                    done = local.perform_over(session, order, progress) => {
                        if done.is_ok() {
                            self.cluster.check_receipt(&self.name, order);
                        }
                        done
                    }
                }
            }
        }
    }

    /// I7: what was done is done again, and must change nothing.
    async fn do_again(&self, order: &Order, progress: &dyn Progress) {
        let mut order = order.clone();
        if let Action::Push {
            dataset,
            snapshot,
            base,
            to,
        } = &order.action
        {
            let transfer = Transfer {
                dataset: dataset.clone(),
                snapshot: snapshot.clone(),
                base: base.as_ref().map(|base| base.guid),
                sender: None,
            };
            let Some(receiver) = self.cluster.program(to) else {
                return;
            };
            let Ok(ticket) = receiver.admit(&transfer, order.generation).await else {
                return;
            };
            order.ticket = Some(ticket);
        }
        match self.perform_there(&order, progress).await {
            Ok(Change::AlreadySo) | Err(_) => {}
            Ok(Change::Made) => self.cluster.break_by(format!(
                "I7: {} `{} {}` done twice changed something twice",
                self.name,
                order.action.verb(),
                order.action
            )),
        }
    }
}

#[async_trait]
impl NodeHandle for Way {
    fn name(&self) -> &NodeName {
        &self.name
    }

    fn address(&self) -> &NodeAddress {
        &self.address
    }

    async fn observe(&self) -> Result<NodeState, NodeError> {
        if self.cluster.takes_its_time(&self.name) {
            tokio::time::sleep(Duration::from_secs(60)).await;
        }
        let position = self
            .cluster
            .layout
            .nodes
            .iter()
            .position(|name| *name == self.name);
        let n_nodes = self.cluster.layout.nodes.len() as u64;
        let chosen = position.is_some_and(|position| self.cluster.layout.seed % n_nodes == position as u64);
        match self.cluster.looks().instead(&self.name, chosen) {
            Some(Seen::Before(state)) => return Ok(*state),
            Some(Seen::Nothing) => return Err(self.unreached()),
            None => {}
        }
        let end = self.end()?;
        let is_call = matches!(end, End::Here(..));
        let state = self.answer(end.node().observe().await)?;
        if is_call {
            self.cluster.check_answer(&self.name, &state);
        }
        self.cluster.looks().keep(&self.name, &state);
        Ok(state)
    }

    async fn admit(&self, transfer: &Transfer, generation: Generation) -> Result<Ticket, NodeError> {
        self.answer(self.end()?.node().admit(transfer, generation).await)
    }

    async fn perform(&self, order: &Order, progress: &dyn Progress) -> Result<Change, NodeError> {
        let session = self.remote.is_none().then(|| *self.session());
        let kept = self.cluster.keep_order(&self.name, order, session);
        if self.cluster.takes_its_time(&self.name) {
            tokio::time::sleep(Duration::from_secs(60)).await;
        }
        let done = self.perform_there(order, progress).await;
        if self.cluster.layout.twice && done.is_ok() {
            self.do_again(order, progress).await;
        }
        let answer = self.answer(done);
        let is_lost = matches!(
            answer,
            Err(NodeError::Lost { .. } | NodeError::Unreachable { .. })
        );
        if is_lost {
            *self.session() = Session::new();
        }
        // Who gives an order up takes it back on the same connection, before anything that follows.
        let is_route = matches!(order.action, Action::Route { .. });
        let is_given_up = matches!(answer, Err(NodeError::Deadline { .. })) && !is_route;
        if !is_lost && !is_given_up {
            self.cluster.note_answer(kept);
        }
        answer
    }

    async fn lock(&self, claim: &Claim) -> Result<Change, NodeError> {
        let taken = match self.end()? {
            End::There(remote) => remote.lock(claim).await,
            End::Here(local, until) => {
                let session = *self.session();
                let taken = tokio::select! {
                    biased;
                    () = until.asked() => Err(self.lost()),
                    taken = local.lock_over(session, claim) => taken,
                };
                if taken.is_ok() {
                    self.cluster.note_lock(&self.name, claim.token);
                }
                taken
            }
        };
        self.answer(taken)
    }

    async fn obey(&self, generation: Generation, lock: LockToken) -> Result<Option<Change>, NodeError> {
        let obeyed = match self.end()? {
            End::There(remote) => remote.obey(generation, lock).await,
            End::Here(local, until) => {
                let session = *self.session();
                tokio::select! {
                    biased;
                    () = until.asked() => Err(self.lost()),
                    obeyed = local.obey_over(session, generation, lock) => obeyed.map(Some),
                }
            }
        };
        self.answer(obeyed)
    }

    async fn unlock(&self, token: LockToken) -> Result<Change, NodeError> {
        let given_back = self.end()?.node().unlock(token).await;
        if given_back.is_ok() && self.cluster.holders().get(&self.name) == Some(&token) {
            self.cluster.holders().remove(&self.name);
        }
        self.answer(given_back)
    }

    async fn break_lock(&self) -> Result<Change, NodeError> {
        self.cluster.holders().remove(&self.name);
        self.answer(self.end()?.node().break_lock().await)
    }

    async fn forget(&self, node: &NodeName, instead: Option<NodeId>) -> Result<Change, NodeError> {
        self.answer(self.end()?.node().forget(node, instead).await)
    }

    async fn remember(&self, node: &NodeName) -> Result<Change, NodeError> {
        self.answer(self.end()?.node().remember(node).await)
    }

    async fn logs(
        &self,
        application: &ApplicationName,
        request: LogRequest,
    ) -> Result<ByteStream, NodeError> {
        self.end()?.node().logs(application, request).await
    }
}
