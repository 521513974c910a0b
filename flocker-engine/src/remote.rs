//! A node elsewhere, told over a transport what to do.

mod connection;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use flocker_backends::ByteStream;
use flocker_backends::Change;
use flocker_backends::Channel;
use flocker_backends::ErrorClass;
use flocker_backends::ImageId;
use flocker_backends::LogRequest;
use flocker_backends::Transport;
use flocker_backends::transport::direct::DoorAddress;
use flocker_backends::transport::direct::KeyPin;
use flocker_model::ApplicationName;
use flocker_model::ByteSize;
use flocker_model::Generation;
use flocker_model::Image;
use flocker_model::NodeAddress;
use flocker_model::NodeId;
use flocker_model::NodeName;
use flocker_model::NodeState;
use flocker_plan::Action;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::clock;
use crate::clock::Deadlines;
use crate::delivery::Delivery;
use crate::fault::Fault;
use crate::local::stop_limit;
use crate::node::Claim;
use crate::node::ImageCargo;
use crate::node::ImagePush;
use crate::node::LockToken;
use crate::node::NodeHandle;
use crate::node::Order;
use crate::node::PipeEnd;
use crate::node::Progress;
use crate::node::Ticket;
use crate::node::Transfer;
use crate::node::no_images;
use crate::node_error::NodeError;
use crate::wire;
use crate::wire::Ask;
use crate::wire::GENERATIONS;
use crate::wire::IMAGES;
use crate::wire::KNOCKS;
use crate::wire::PASSAGES;
use crate::wire::Piece;
use crate::wire::Say;
use crate::wire::WireError;
pub(crate) use connection::greet;
pub(crate) use connection::not_greeted;

use connection::Call;
use connection::Connection;
use connection::Said;

/// How many chunks of an output are read ahead of who reads it.
const AHEAD: usize = 8;

/// A node elsewhere.
///
/// All calls share one connection, which is opened by the first and opened
/// again by the next one after it broke. A deploy lock that was taken over it
/// ends with it, and with this value.
pub struct RemoteNode {
    name: NodeName,
    address: NodeAddress,
    transport: Arc<dyn Transport>,
    deadlines: Deadlines,
    // Held while a connection is opened, so that calls at the same time open one and not several.
    link: tokio::sync::Mutex<Link>,
}

/// What became of the newest try to open a connection.
#[derive(Default)]
struct Link {
    connection: Option<Arc<Connection>>,
    failure: Option<(Instant, NodeError)>,
}

impl fmt::Debug for RemoteNode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RemoteNode")
            .field("name", &self.name)
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}

impl RemoteNode {
    /// Names a node and how to reach it. Nothing is opened yet.
    #[must_use]
    pub fn new(
        name: NodeName,
        address: NodeAddress,
        transport: Arc<dyn Transport>,
        deadlines: Deadlines,
    ) -> Self {
        Self {
            name,
            address,
            transport,
            deadlines,
            link: tokio::sync::Mutex::new(Link::default()),
        }
    }

    async fn open(&self) -> Result<Connection, NodeError> {
        Connection::open(&self.name, &self.address, &*self.transport, &self.deadlines).await
    }

    async fn call(&self, ask: Ask) -> Result<Call, NodeError> {
        Call::begin(self.connection().await?, &self.name, ask)
    }

    /// Returns the connection that all calls share, opened now if there is none.
    async fn connection(&self) -> Result<Arc<Connection>, NodeError> {
        let began = clock::now();
        let mut link = self.link.lock().await;
        let alive = link
            .connection
            .as_ref()
            .filter(|connection| connection.is_alive());
        let connection = match (alive, &link.failure) {
            (Some(connection), _) => Arc::clone(connection),
            // Who waited while another call tried in vain does not try the same again.
            (None, Some((when, error))) if *when > began => return Err(error.clone()),
            (None, _) => match self.open().await {
                Ok(connection) => Arc::clone(link.connection.insert(Arc::new(connection))),
                Err(error) => {
                    link.failure = Some((clock::now(), error.clone()));
                    return Err(error);
                }
            },
        };
        Ok(connection)
    }

    /// Asks something that is answered at once.
    async fn ask(&self, what: &str, ask: Ask) -> Result<Say, NodeError> {
        // The node itself may wait as long before it gives up and says so.
        let limit = self.deadlines.answer.saturating_mul(2);
        match self.call(ask).await?.next(what, limit).await? {
            Said::Say(Say::Failed(error)) => Err(error),
            Said::Say(say) => Ok(say),
            Said::Output(_) => Err(self.unexpected()),
        }
    }

    async fn ask_change(&self, what: &str, ask: Ask) -> Result<Change, NodeError> {
        let Say::Changed(change) = self.ask(what, ask).await? else {
            return Err(self.unexpected());
        };
        Ok(change)
    }

    /// Asks for something that tells how far it is, and waits so long for its first word and for each that follows.
    async fn ask_watched(
        &self,
        what: &str,
        ask: Ask,
        (first, later): (Duration, Duration),
        progress: &dyn Progress,
    ) -> Result<Change, NodeError> {
        let mut call = self.call(ask).await?;
        let mut limit = first;
        loop {
            match call.next(what, limit).await? {
                Said::Say(Say::Progress { done, total }) => {
                    progress.report(done, total);
                    limit = later;
                }
                Said::Say(Say::Changed(change)) => return Ok(change),
                Said::Say(Say::Failed(error)) => return Err(error),
                Said::Say(_) | Said::Output(_) => return Err(self.unexpected()),
            }
        }
    }

    /// Refuses where the node has never heard of images that travel.
    async fn knows_images(&self) -> Result<(), NodeError> {
        if self.connection().await?.version() < IMAGES {
            return Err(no_images());
        }
        Ok(())
    }

    /// Opens an output over a connection of its own, so that one who reads slowly holds up nobody.
    async fn output(&self, what: &str, ask: Ask) -> Result<ByteStream, NodeError> {
        let connection = Arc::new(self.open().await?);
        let mut call = Call::begin(connection, &self.name, ask)?;
        match call.next(what, self.deadlines.answer.saturating_mul(2)).await? {
            Said::Say(Say::Opened) => {}
            Said::Say(Say::Failed(error)) => return Err(error),
            Said::Say(_) | Said::Output(_) => return Err(self.unexpected()),
        }
        let (sender, reader) = wire::chunk_pipe(AHEAD);
        let mut pump = JoinSet::new();
        let unexpected = self.unexpected();
        pump.spawn(async move {
            let broken = loop {
                match call.unhurried().await {
                    Ok(Said::Output(bytes)) => {
                        if sender.send(Piece::Bytes(bytes)).await.is_err() {
                            return;
                        }
                    }
                    Ok(Said::Say(Say::Ended(None))) => {
                        drop(sender.send(Piece::End).await);
                        return;
                    }
                    Ok(Said::Say(Say::Ended(Some(error)) | Say::Failed(error))) | Err(error) => break error,
                    Ok(Said::Say(_)) => break unexpected,
                }
            };
            drop(sender.send(Piece::Broken(std::io::Error::other(broken))).await);
        });
        Ok(Box::pin(connection::Output::new(reader, pump)))
    }

    fn unexpected(&self) -> NodeError {
        self.protocol(&WireError::Unexpected { what: "an answer" })
    }

    fn protocol(&self, error: &WireError) -> NodeError {
        NodeError::Protocol {
            node: self.name.clone(),
            source: Fault::of(error),
        }
    }

    /// Returns how long to wait for the first word about an action, and for each after that.
    ///
    /// The node has its own limits and says when one is reached; these are
    /// longer, for a node that lives and says nothing.
    fn patience(&self, action: &Action) -> (Duration, Duration) {
        let Deadlines {
            answer, work, stall, ..
        } = self.deadlines;
        let turn = work.saturating_add(answer.saturating_mul(2));
        match action {
            Action::Push { .. } => {
                let first = turn.saturating_add(work);
                (first, stall.saturating_mul(2))
            }
            Action::Stop { grace, .. } => {
                let limit = turn.saturating_add(stop_limit(*grace, answer));
                (limit, limit)
            }
            Action::Create { .. }
            | Action::Resize { .. }
            | Action::Take { .. }
            | Action::Release { .. }
            | Action::Acquire { .. }
            | Action::Renounce { .. }
            | Action::Destroy { .. }
            | Action::Trim { .. }
            | Action::DropPartial { .. }
            | Action::Restore { .. }
            | Action::EmptyTrash { .. }
            | Action::Prepare { .. }
            | Action::Start { .. }
            | Action::Route { .. } => {
                let limit = turn.saturating_add(work);
                (limit, limit)
            }
        }
    }
}

#[async_trait]
impl NodeHandle for RemoteNode {
    fn name(&self) -> &NodeName {
        &self.name
    }

    fn address(&self) -> &NodeAddress {
        &self.address
    }

    async fn observe(&self) -> Result<NodeState, NodeError> {
        let Say::State(state) = self.ask("a report", Ask::Observe).await? else {
            return Err(self.unexpected());
        };
        NodeState::try_from(*state).map_err(|error| self.protocol(&error))
    }

    async fn offer(&self) -> Result<Option<KeyPin>, NodeError> {
        if self.connection().await?.version() < PASSAGES {
            return Ok(None);
        }
        let Say::Offered(pin) = self.ask("the key of a sender", Ask::Offer).await? else {
            return Err(self.unexpected());
        };
        Ok(pin)
    }

    async fn pipe(&self, end: PipeEnd) -> Result<Channel, NodeError> {
        connection::open_pipe(&self.name, &self.address, &*self.transport, &self.deadlines, end).await
    }

    async fn admit(&self, transfer: &Transfer, generation: Generation) -> Result<Ticket, NodeError> {
        let mut transfer = transfer.clone();
        if self.connection().await?.version() < PASSAGES {
            transfer.sender = None;
        }
        let ask = Ask::Admit { transfer, generation };
        let Say::Admitted(ticket) = self.ask("the admission of a transfer", ask).await? else {
            return Err(self.unexpected());
        };
        // A node that said where it is could send its data elsewhere; it is where it was asked.
        ticket
            .read(self.address.clone())
            .map_err(|error| self.protocol(&error))
    }

    async fn perform(&self, order: &Order, progress: &dyn Progress) -> Result<Change, NodeError> {
        let what = format!("`{} {}` on {}", order.action.verb(), order.action, self.name);
        let patience = self.patience(&order.action);
        self.ask_watched(&what, Ask::Perform(Box::new(order.into())), patience, progress)
            .await
    }

    async fn lock(&self, claim: &Claim) -> Result<Change, NodeError> {
        let mut claim = claim.clone();
        if self.connection().await?.version() < GENERATIONS {
            claim.keep_generations_out();
        }
        self.ask_change("the deploy lock", Ask::Lock(claim)).await
    }

    async fn obey(&self, generation: Generation, lock: LockToken) -> Result<Option<Change>, NodeError> {
        if self.connection().await?.version() < GENERATIONS {
            return Ok(None);
        }
        let what = format!("generation {} to be obeyed", generation.0);
        let ask = Ask::Obey { generation, lock };
        self.ask_change(&what, ask).await.map(Some)
    }

    async fn unlock(&self, token: LockToken) -> Result<Change, NodeError> {
        self.ask_change("the deploy lock to be given back", Ask::Unlock(token))
            .await
    }

    async fn break_lock(&self) -> Result<Change, NodeError> {
        self.ask_change("the deploy lock to be broken", Ask::BreakLock)
            .await
    }

    async fn forget(&self, node: &NodeName, instead: Option<NodeId>) -> Result<Change, NodeError> {
        let what = format!("{node} to be forgotten");
        let ask = Ask::Forget {
            node: node.clone(),
            instead,
        };
        self.ask_change(&what, ask).await
    }

    async fn remember(&self, node: &NodeName) -> Result<Change, NodeError> {
        let what = format!("{node} to be remembered");
        self.ask_change(&what, Ask::Remember(node.clone())).await
    }

    async fn logs(
        &self,
        application: &ApplicationName,
        request: LogRequest,
    ) -> Result<ByteStream, NodeError> {
        let what = format!("the output of `{application}`");
        let ask = Ask::Logs {
            application: application.clone(),
            request,
        };
        self.output(&what, ask).await
    }

    async fn image(&self, image: &Image) -> Result<Option<ImageId>, NodeError> {
        self.knows_images().await?;
        let what = format!("a look for the image `{image}`");
        let Say::Image(id) = self.ask(&what, Ask::Image(image.clone())).await? else {
            return Err(self.unexpected());
        };
        Ok(id)
    }

    async fn admit_image(
        &self,
        cargo: &ImageCargo,
        sender: KeyPin,
    ) -> Result<Option<DoorAddress>, NodeError> {
        self.knows_images().await?;
        let what = format!("the admission of the image `{}`", cargo.image);
        let ask = Ask::AdmitImage {
            cargo: cargo.clone(),
            sender,
        };
        let Say::ImageAdmitted(door) = self.ask(&what, ask).await? else {
            return Err(self.unexpected());
        };
        Ok(door)
    }

    async fn push_image(&self, push: &ImagePush, progress: &dyn Progress) -> Result<Change, NodeError> {
        self.knows_images().await?;
        let what = format!("the image `{}` to be sent to {}", push.cargo.image, push.to);
        let Deadlines {
            answer, work, stall, ..
        } = self.deadlines;
        let patience = (
            work.saturating_add(answer.saturating_mul(2)),
            stall.saturating_mul(2),
        );
        let ask = Ask::PushImage(push.clone());
        self.ask_watched(&what, ask, patience, progress).await
    }

    async fn admit_knock(&self, sender: KeyPin) -> Result<Option<DoorAddress>, NodeError> {
        if self.connection().await?.version() < KNOCKS {
            return Ok(None);
        }
        let what = "a door to knock at";
        let Say::KnockAdmitted(door) = self.ask(what, Ask::AdmitKnock { sender }).await? else {
            return Err(self.unexpected());
        };
        Ok(door)
    }

    async fn knock(&self, at: &NodeName, door: &DoorAddress) -> Result<(), NodeError> {
        if self.connection().await?.version() < KNOCKS {
            return Err(NodeError::NotDirect {
                node: at.clone(),
                source: Fault::new("its program is older than that", ErrorClass::Permanent),
            });
        }
        let what = format!("a knock at a door of {at}");
        let ask = Ask::Knock {
            at: at.clone(),
            door: *door,
        };
        let Say::Knocked = self.ask(&what, ask).await? else {
            return Err(self.unexpected());
        };
        Ok(())
    }

    /// Opens it over a connection of its own, as an output is.
    async fn export_image(&self, image: &Image) -> Result<ByteStream, NodeError> {
        self.knows_images().await?;
        let what = format!("the image `{image}`");
        self.output(&what, Ask::ExportImage(image.clone())).await
    }

    async fn import_image(
        &self,
        cargo: &ImageCargo,
        stream: ByteStream,
        bandwidth: Option<ByteSize>,
        progress: &dyn Progress,
    ) -> Result<Change, NodeError> {
        self.knows_images().await?;
        let channel = self.pipe(PipeEnd::Receiver).await?;
        let delivery = Delivery {
            node: &self.name,
            cargo,
            deadlines: &self.deadlines,
            bandwidth,
            leaves: !matches!(self.address, NodeAddress::Local { .. }),
            progress,
        };
        delivery.deliver(channel, stream).await
    }
}
