//! The deploy locks of a push.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::time::Duration;

use flocker_model::ClusterState;
use flocker_model::Generation;
use flocker_model::NodeName;
use flocker_model::Silence;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::IfHeld;
use super::PushError;
use super::PushOptions;
use crate::announce::announce;
use crate::clock;
use crate::event::Event;
use crate::event::Listener;
use crate::fault::one_line;
use crate::handles::Handles;
use crate::local::STARTING;
use crate::node::Claim;
use crate::node::LockToken;
use crate::node::NodeHandle;
use crate::node::Peer;
use crate::node_error::NodeError;
use crate::observe::behind;
use crate::observe::leave_out;
use crate::report::Ending;
use crate::report::Report;

/// How long to wait before a lock that is held is asked for again.
const AGAIN: Duration = Duration::from_millis(250);

/// How long a push waits for a machine that has just started and holds its lock itself, whatever it waits for others.
const AT_BOOT: Duration = Duration::from_secs(60);

/// How often a node may fail to be told of the generation before it is left out.
const MAX_UNTOLD: u32 = 2;

/// The deploy locks that a push holds, as far as it knows.
#[derive(Debug)]
pub(super) struct Locks {
    token: LockToken,
    held: BTreeSet<NodeName>,
    /// The nodes whose lock was taken at any time: one that fell out of sight may still hold it for this push.
    taken: BTreeSet<NodeName>,
    /// The generation that was announced last, and the nodes all of which obey it and know that of each other.
    announced: (Generation, BTreeSet<NodeName>),
    /// How often in a row a node could not be told of the generation, and why.
    untold: BTreeMap<NodeName, (u32, NodeError)>,
}

impl Locks {
    pub(super) fn new(token: LockToken) -> Self {
        Self {
            token,
            held: BTreeSet::new(),
            taken: BTreeSet::new(),
            announced: (Generation::default(), BTreeSet::new()),
            untold: BTreeMap::new(),
        }
    }

    pub(super) fn token(&self) -> LockToken {
        self.token
    }

    /// Takes the locks of the seen nodes that are not held yet; says whether any was taken.
    ///
    /// They are taken one after the other in order of name, so that of two
    /// pushes one gets all of them. A node that cannot be reached is left out:
    /// it refuses orders under a lock that it has not given.
    pub(super) async fn take(
        &mut self,
        actual: &ClusterState,
        handles: &Handles,
        options: &PushOptions,
        listener: &dyn Listener,
    ) -> Result<bool, PushError> {
        let seen: BTreeSet<NodeName> = actual.all_known().map(|(name, _)| name.clone()).collect();
        // What is not seen now may come back as a program that knows of no lock.
        self.held.retain(|name| seen.contains(name));
        let end = options.lock_wait.map(|wait| clock::now() + wait);
        let mut took_one = false;
        let peers = all_peers(actual, handles);
        for name in seen {
            if self.held.contains(&name) || self.is_left_out(&name).is_some() {
                continue;
            }
            let Some(handle) = handles.get(&name) else {
                continue;
            };
            let claim = self.claim(&name, &peers, options);
            took_one |= self.take_one(&*handle, &claim, end, options, listener).await?;
        }
        Ok(took_one)
    }

    async fn take_one(
        &mut self,
        handle: &dyn NodeHandle,
        claim: &Claim,
        end: Option<Instant>,
        options: &PushOptions,
        listener: &dyn Listener,
    ) -> Result<bool, PushError> {
        let node = handle.name().clone();
        let begun = clock::now();
        let mut has_told = false;
        let mut may_break = options.if_held == IfHeld::Break;
        loop {
            match handle.lock(claim).await {
                Ok(_) => {
                    listener.on(&Event::LockTaken { node: node.clone() });
                    // Whatever it was told before, it may have been put back since.
                    self.announced.1.remove(&node);
                    self.taken.insert(node.clone());
                    self.held.insert(node);
                    return Ok(true);
                }
                Err(NodeError::Held { holder, since }) => {
                    // It gives it back by itself. Whose node has started anew goes on with the others meanwhile.
                    let starts = holder == STARTING;
                    let end = end.max(starts.then_some(begun + AT_BOOT));
                    if starts && self.taken.contains(&node) {
                        listener.on(&Event::LockAwaited { node, holder });
                        return Ok(false);
                    }
                    if end.is_some_and(|end| clock::now() < end) && !options.stop.is_asked() {
                        if !has_told {
                            listener.on(&Event::LockAwaited {
                                node: node.clone(),
                                holder,
                            });
                            has_told = true;
                        }
                        tokio::select! {
                            () = tokio::time::sleep(AGAIN) => {}
                            () = options.stop.asked() => {}
                        }
                    } else if may_break {
                        may_break = false;
                        // Where it cannot be broken, the next try says who holds it.
                        if let Err(error) = handle.break_lock().await {
                            tracing::warn!(%node, %error, "could not break the deploy lock");
                        }
                    } else {
                        return Err(PushError::Held { node, holder, since });
                    }
                }
                Err(error) => {
                    tracing::warn!(%node, %error, "could not take the deploy lock");
                    return Ok(false);
                }
            }
        }
    }

    fn claim(&self, node: &NodeName, all: &BTreeMap<NodeName, Peer>, options: &PushOptions) -> Claim {
        let mut peers = all.clone();
        peers.remove(node);
        Claim {
            token: self.token,
            holder: options.holder.clone(),
            since: options.since,
            peers,
        }
    }

    /// Tells every node whose lock is held that a generation begins, where that is not so yet; says whether all know it.
    ///
    /// The lock of a node that could not be told is doubted; one that cannot
    /// be told again and again is left out.
    pub(super) async fn announce(
        &mut self,
        generation: Generation,
        actual: &ClusterState,
        handles: &Handles,
        options: &PushOptions,
    ) -> bool {
        let (announced, told) = &self.announced;
        if *announced == generation && self.held.is_subset(told) {
            return true;
        }
        let peers = all_peers(actual, handles);
        let held = self
            .held
            .iter()
            .filter_map(|name| Some((handles.get(name)?, self.claim(name, &peers, options))));
        let held: Vec<_> = held.collect();
        let failed = announce(generation, &held, &behind(actual)).await;
        self.untold
            .retain(|node, (n_times, _)| *n_times >= MAX_UNTOLD || failed.contains_key(node));
        let is_known = failed.is_empty();
        for (node, error) in failed {
            tracing::warn!(%node, %error, "could not say that a generation begins");
            self.held.remove(&node);
            let n_before = self.untold.get(&node).map_or(0, |(n_times, _)| *n_times);
            self.untold.insert(node, (n_before + 1, error));
        }
        if is_known {
            self.announced = (generation, self.held.clone());
        }
        is_known
    }

    /// Returns why a node is left out, if it is.
    fn is_left_out(&self, node: &NodeName) -> Option<&NodeError> {
        let (n_times, error) = self.untold.get(node)?;
        (*n_times >= MAX_UNTOLD).then_some(error)
    }

    /// Takes the nodes whose lock is not held as not seen, and returns which these are.
    pub(super) fn leave_out_unlocked(&self, actual: &mut ClusterState) -> Vec<NodeName> {
        let seen = actual.all_known().map(|(name, _)| name.clone());
        let unlocked: Vec<NodeName> = seen.filter(|name| !self.held.contains(name)).collect();
        let left_out = unlocked.iter().map(|name| {
            let reason = match self.is_left_out(name) {
                Some(error) => format!("it could not be told what is deployed: {}", one_line(error)),
                None => "its deploy lock could not be taken".into(),
            };
            (name.clone(), Silence::Unreachable { reason })
        });
        leave_out(actual, left_out.collect());
        unlocked
    }

    /// Takes a lock as no longer held where a step's end says so, or a connection broke under it.
    pub(super) fn doubt(&mut self, report: &Report) {
        for step in &report.steps {
            if let Ending::Failed(
                NodeError::LockLost | NodeError::Lost { .. } | NodeError::Unreachable { .. },
            ) = &step.ending
            {
                self.held.remove(&step.step.actor);
            }
        }
    }

    /// Gives all locks back, within a limit. One that cannot be given back ends with its connection.
    pub(super) async fn give_back(&self, handles: &Handles, limit: Duration) {
        let mut giving = JoinSet::new();
        for name in &self.taken {
            if let Some(handle) = handles.get(name) {
                let token = self.token;
                giving.spawn(async move { handle.unlock(token).await });
            }
        }
        let all = async { while giving.join_next().await.is_some() {} };
        if clock::timeout(limit, all).await.is_err() {
            tracing::debug!("not every deploy lock could be given back");
        }
    }
}

/// Returns every node that is not lost for ever, as the others are told of it.
fn all_peers(actual: &ClusterState, handles: &Handles) -> BTreeMap<NodeName, Peer> {
    let forgotten = actual.forgotten();
    let counted = actual.nodes.keys().filter(|name| !forgotten.contains(name));
    let peers = counted.filter_map(|name| {
        let peer = Peer {
            address: handles.get(name)?.address().clone(),
            id: actual.known(name).map(|state| state.id),
            generation: Generation::default(),
        };
        Some((name.clone(), peer))
    });
    peers.collect()
}
