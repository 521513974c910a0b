//! How the bytes of a push, or of an image, get from node to node: announced, sent directly, and relayed where that cannot be.
//!
//! What is tried first is settled by the addresses: between two processes of one
//! machine the sender's own transport, between anything else the receiver's
//! door. What could not be sent directly goes through this process, which
//! reaches both. A push finds that out in a few seconds and before a byte was
//! sent; the pushes of those two nodes that follow know it, and so do all where
//! somebody asked beforehand. The first push of a move goes while its application
//! still runs, so it is that one which pays where nobody did.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;

use flocker_backends::Change;
use flocker_backends::Channel;
use flocker_backends::transport::direct::KeyPin;
use flocker_model::ByteSize;
use flocker_model::NodeAddress;
use flocker_model::NodeName;
use flocker_plan::Action;
use flocker_plan::Plan;
use serde::Serialize;
use tokio::task::JoinSet;

use crate::fault::Fault;
use crate::fault::one_line;
use crate::handles::Handles;
use crate::node::ImageCargo;
use crate::node::ImagePush;
use crate::node::NodeHandle;
use crate::node::Order;
use crate::node::Passage;
use crate::node::PipeEnd;
use crate::node::Progress;
use crate::node::Transfer;
use crate::node_error::NodeError;

/// How many bytes a relay holds for one direction.
const BUFFER: usize = 256 << 10;

/// What carries the bytes of a push from one machine to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Carrier {
    /// A connection of the two nodes' own, with keys pinned for it.
    DirectTls,
    /// Whoever ordered it, over its own connections to both.
    Relay,
}

impl fmt::Display for Carrier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::DirectTls => "direct TLS",
            Self::Relay => "relayed",
        })
    }
}

/// Which senders do not reach which receivers directly, and why not. It is forgotten with the command that found out.
#[derive(Debug, Default)]
pub(crate) struct Detours(Mutex<BTreeMap<(NodeName, NodeName), Fault>>);

impl Detours {
    fn why(&self, from: &NodeName, to: &NodeName) -> Option<Fault> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.get(&(from.clone(), to.clone())).cloned()
    }

    fn note(&self, from: &NodeName, to: &NodeName, why: &Fault) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.insert((from.clone(), to.clone()), why.clone());
    }
}

/// How the bytes of a plan's copies would get from one node to another, as it was found by trying.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Reach {
    /// Who has the data.
    pub from: NodeName,
    /// Who is to have a copy.
    pub to: NodeName,
    /// What would carry it.
    pub by: Carrier,
    /// Why it is not carried directly.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub because: Option<String>,
}

/// Finds out how the bytes of a plan would be carried: every sender knocks at a door of each node that it is to copy to.
///
/// Sends nothing and changes nothing. A push by the same handles knows what was found out and does not try again what did not
/// work. A pair of which one is not reached, or both are processes of one machine, is left out. Takes some seconds at most, where
/// packets get lost.
pub async fn explore(plan: &Plan, handles: &Handles) -> Vec<Reach> {
    let mut pairs: BTreeSet<(&NodeName, &NodeName)> = BTreeSet::new();
    for step in plan.steps() {
        if let Action::Push { to, .. } = &step.action {
            pairs.insert((&step.actor, to));
        }
    }
    let mut knocks = JoinSet::new();
    for (from, to) in pairs {
        let (Some(sender), Some(receiver)) = (handles.get(from), handles.get(to)) else {
            continue;
        };
        let detours = Arc::clone(handles.detours());
        knocks.spawn(async move {
            let carriage = Carriage {
                sender: &*sender,
                receiver: &*receiver,
                detours: &detours,
            };
            carriage.reach().await
        });
    }
    let mut found: Vec<Reach> = knocks.join_all().await.into_iter().flatten().collect();
    found.sort_by(|one, other| (&one.from, &one.to).cmp(&(&other.from, &other.to)));
    found
}

/// Who is told how a push is carried, beside how far it is.
pub(crate) trait Watcher: Progress {
    /// Takes note of what carries it. Where that may still turn out not to work, what is reported next confirms it.
    fn carried(&self, by: Carrier, because: Option<String>);
}

/// A push, and all who take part in it.
pub(crate) struct Carriage<'a> {
    pub(crate) sender: &'a dyn NodeHandle,
    pub(crate) receiver: &'a dyn NodeHandle,
    pub(crate) detours: &'a Detours,
}

impl Carriage<'_> {
    /// Announces a transfer to its receiver and has it sent.
    pub(crate) async fn carry(
        &self,
        mut transfer: Transfer,
        mut order: Order,
        watcher: &dyn Watcher,
    ) -> Result<Change, NodeError> {
        if self.is_on_one_machine() {
            order.ticket = Some(self.admit(&transfer, &order).await?);
            return self.sender.perform(&order, watcher).await;
        }
        let (from, to) = (self.sender.name(), self.receiver.name());
        let known = self.detours.why(from, to);
        if known.is_none() {
            transfer.sender = self.sender.offer().await?;
        }
        let mut ticket = self.admit(&transfer, &order).await?;
        let because = if let Passage::Door(_) = ticket.passage {
            order.ticket = Some(ticket.clone());
            watcher.carried(Carrier::DirectTls, None);
            match self.sender.perform(&order, watcher).await {
                Err(NodeError::NotDirect { source, .. }) => {
                    self.detours.note(from, to, &source);
                    Some(source)
                }
                done => return done,
            }
        } else {
            known
        };
        let because = because.map_or_else(
            || format!("{to} lets no transfer in directly"),
            |why| one_line(&why),
        );
        watcher.carried(Carrier::Relay, Some(because));
        ticket.passage = Passage::Relay;
        let ends = tokio::try_join!(
            self.receiver.pipe(PipeEnd::Receiver),
            self.sender.pipe(PipeEnd::Sender(ticket.pass)),
        );
        let (to_receiver, to_sender) = ends?;
        order.ticket = Some(ticket);
        let sending = self.sender.perform(&order, watcher);
        let relaying = relay(to_sender, to_receiver);
        tokio::pin!(sending);
        tokio::select! {
            biased;
            done = &mut sending => return done,
            () = relaying => {}
        }
        // One end is gone, and with the relay so is the other: both sides find out and say so.
        sending.await
    }

    /// Finds out how bytes would be carried, without sending any.
    async fn reach(&self) -> Option<Reach> {
        if self.is_on_one_machine() {
            return None;
        }
        let (from, to) = (self.sender.name(), self.receiver.name());
        let (by, because) = match self.knock().await {
            Ok(Direct::Done(())) => (Carrier::DirectTls, None),
            Ok(Direct::Not(because)) => (Carrier::Relay, Some(because)),
            Err(error) => {
                tracing::debug!(%from, %to, error = %one_line(&error), "how bytes get there is not known");
                return None;
            }
        };
        Some(Reach {
            from: from.clone(),
            to: to.clone(),
            by,
            because,
        })
    }

    /// Has the sender knock at a door of the receiver.
    async fn knock(&self) -> Result<Direct<()>, NodeError> {
        let to = self.receiver.name();
        let sender = match self.key_of_sender().await? {
            Direct::Done(sender) => sender,
            Direct::Not(because) => return Ok(Direct::Not(because)),
        };
        let Some(door) = self.receiver.admit_knock(sender).await? else {
            return Ok(Direct::Not(format!("{to} lets no transfer in directly")));
        };
        self.found_out(self.sender.knock(to, &door).await)
    }

    /// Asks the sender by which key it is known, unless it is known not to get there.
    async fn key_of_sender(&self) -> Result<Direct<KeyPin>, NodeError> {
        let (from, to) = (self.sender.name(), self.receiver.name());
        if let Some(why) = self.detours.why(from, to) {
            return Ok(Direct::Not(one_line(&why)));
        }
        let sender = self.sender.offer().await?;
        Ok(sender.map_or_else(
            || Direct::Not(format!("{from} sends nothing directly")),
            Direct::Done,
        ))
    }

    /// Takes note where the sender did not get to the receiver.
    fn found_out<T>(&self, done: Result<T, NodeError>) -> Result<Direct<T>, NodeError> {
        match done {
            Err(NodeError::NotDirect { source, .. }) => {
                self.detours
                    .note(self.sender.name(), self.receiver.name(), &source);
                Ok(Direct::Not(one_line(&source)))
            }
            done => done.map(Direct::Done),
        }
    }

    /// Brings an image from the sender to the receiver.
    pub(crate) async fn carry_image(
        &self,
        cargo: &ImageCargo,
        bandwidth: Option<ByteSize>,
        watcher: &dyn Watcher,
    ) -> Result<Change, NodeError> {
        if !self.is_on_one_machine() {
            match self.carry_image_directly(cargo, bandwidth, watcher).await? {
                Direct::Done(change) => return Ok(change),
                Direct::Not(because) => watcher.carried(Carrier::Relay, Some(because)),
            }
        }
        let stream = self.sender.export_image(&cargo.image).await?;
        self.receiver
            .import_image(cargo, stream, bandwidth, watcher)
            .await
    }

    async fn carry_image_directly(
        &self,
        cargo: &ImageCargo,
        bandwidth: Option<ByteSize>,
        watcher: &dyn Watcher,
    ) -> Result<Direct<Change>, NodeError> {
        let to = self.receiver.name();
        let sender = match self.key_of_sender().await? {
            Direct::Done(sender) => sender,
            Direct::Not(because) => return Ok(Direct::Not(because)),
        };
        let Some(door) = self.receiver.admit_image(cargo, sender).await? else {
            return Ok(Direct::Not(format!("{to} lets nothing in directly")));
        };
        watcher.carried(Carrier::DirectTls, None);
        let push = ImagePush {
            cargo: cargo.clone(),
            to: to.clone(),
            door,
            bandwidth,
        };
        self.found_out(self.sender.push_image(&push, watcher).await)
    }

    fn is_on_one_machine(&self) -> bool {
        matches!(
            (self.sender.address(), self.receiver.address()),
            (NodeAddress::Local { .. }, NodeAddress::Local { .. })
        )
    }

    async fn admit(&self, transfer: &Transfer, order: &Order) -> Result<crate::node::Ticket, NodeError> {
        let admitted = self.receiver.admit(transfer, order.generation).await;
        admitted.map_err(|error| NodeError::Receiver {
            node: self.receiver.name().clone(),
            source: Box::new(error),
        })
    }
}

/// What became of the direct way.
enum Direct<T> {
    /// It was taken, to the end.
    Done(T),
    /// There is none, and why.
    Not(String),
}

/// Pipes between two ends until one of them is gone or both have said all, and closes both.
async fn relay(mut sender: Channel, mut receiver: Channel) {
    let copied = tokio::io::copy_bidirectional_with_sizes(&mut sender, &mut receiver, BUFFER, BUFFER).await;
    match copied {
        Ok((n_sent, n_answered)) => tracing::debug!(n_sent, n_answered, "a relay ended"),
        Err(error) => tracing::debug!(%error, "a relay broke"),
    }
}
