//! A control connection: requests come in, each is worked on by itself, replies go out as they come.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;

use bytes::Bytes;
use bytes::BytesMut;
use flocker_backends::ByteStream;
use flocker_backends::Channel;
use flocker_model::ByteSize;
use flocker_model::Generation;
use flocker_model::Keeps;
use tokio::io::AsyncReadExt as _;
use tokio::io::ReadHalf;
use tokio::io::WriteHalf;
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tokio::task::JoinSet;

use crate::clock;
use crate::local::LocalNode;
use crate::local::Session;
use crate::node::NodeHandle as _;
use crate::node::Progress;
use crate::node_error::NodeError;
use crate::wire;
use crate::wire::Ask;
use crate::wire::Frame;
use crate::wire::FrameReader;
use crate::wire::FrameWriter;
use crate::wire::GENERATIONS;
use crate::wire::Incoming;
use crate::wire::KEEPS;
use crate::wire::MAX_CHUNK;
use crate::wire::Reply;
use crate::wire::Request;
use crate::wire::Say;
use crate::wire::WireError;

/// How many replies may wait to be written before those who say more wait, too.
const QUEUE: usize = 64;

/// How many requests of one connection may be worked on at once.
const MAX_REQUESTS: usize = 1024;

/// What is to be written.
enum Outgoing {
    Reply(Reply),
    Output { id: u64, bytes: Bytes },
}

/// Serves one control connection until it ends, and cleans up after it.
pub(super) async fn serve(
    mut reader: FrameReader<ReadHalf<Channel>>,
    writer: FrameWriter<WriteHalf<Channel>>,
    node: Arc<LocalNode>,
    version: u32,
) -> Result<(), WireError> {
    let session = Session::new();
    let _ending = Ending {
        node: Arc::clone(&node),
        session,
    };
    let (replies, queue) = mpsc::channel(QUEUE);
    let mut requests = Requests {
        node: Arc::clone(&node),
        session,
        version,
        replies,
        tasks: JoinSet::new(),
        running: BTreeMap::new(),
    };
    let (ended, orders) = {
        let write = write_all(writer, queue);
        tokio::pin!(write);
        let dead = node.deadlines().dead;
        let ended = loop {
            tokio::select! {
                biased;
                written = &mut write => break written,
                Some(_) = requests.tasks.join_next_with_id() => requests.sweep(),
                incoming = clock::timeout(dead, reader.next()) => {
                    match incoming {
                        Ok(Ok(Some(incoming))) => if let Err(error) = requests.take(incoming) {
                            break Err(error);
                        },
                        Ok(Ok(None)) => break Ok(()),
                        Ok(Err(error)) => break Err(error),
                        Err(_) => break Err(WireError::Silent(dead)),
                    }
                }
            }
        };
        (ended, requests.tasks)
    };
    finish(orders, node.deadlines().closing).await;
    ended
}

/// Lets what is under way come to its end for a while, and drops it then.
async fn finish(mut orders: JoinSet<()>, patience: std::time::Duration) {
    let finished = async { while orders.join_next().await.is_some() {} };
    if clock::timeout(patience, finished).await.is_err() {
        orders.shutdown().await;
    }
}

/// Gives the deploy lock back once nothing of its connection is under way, however the connection ended.
struct Ending {
    node: Arc<LocalNode>,
    session: Session,
}

impl Drop for Ending {
    fn drop(&mut self) {
        self.node.end_session(self.session);
    }
}

struct Requests {
    node: Arc<LocalNode>,
    session: Session,
    /// The version of the protocol that is spoken on this connection.
    version: u32,
    replies: mpsc::Sender<Outgoing>,
    tasks: JoinSet<()>,
    running: BTreeMap<u64, AbortHandle>,
}

impl Requests {
    fn sweep(&mut self) {
        self.running.retain(|_, task| !task.is_finished());
    }

    /// Begins to work on what came in.
    fn take(&mut self, incoming: Incoming) -> Result<(), WireError> {
        let Incoming::Message(text) = incoming else {
            return Err(WireError::Unexpected { what: "a frame" });
        };
        let Request { id, ask } = wire::read("a request", &text)?;
        if matches!(ask, Ask::Cancel) {
            if let Some(task) = self.running.remove(&id) {
                task.abort();
            }
            return Ok(());
        }
        if matches!(ask, Ask::Ping) {
            // Where replies are waiting to be written, they are sign of life enough.
            drop(
                self.replies
                    .try_send(Outgoing::Reply(Reply { id, say: Say::Pong })),
            );
            return Ok(());
        }
        if self.running.contains_key(&id) {
            return Err(WireError::Unexpected {
                what: "a second request of one id",
            });
        }
        if self.running.len() >= MAX_REQUESTS {
            return Err(WireError::Unexpected {
                what: "one more request",
            });
        }
        let work = answer(
            Arc::clone(&self.node),
            (self.session, self.version),
            id,
            ask,
            self.replies.clone(),
        );
        // On the heap before it is handed over: it is large, and would be moved from hand to hand.
        let task = self.tasks.spawn(Box::pin(work));
        self.running.insert(id, task);
        Ok(())
    }
}

async fn answer(
    node: Arc<LocalNode>,
    over: (Session, u32),
    id: u64,
    ask: Ask,
    replies: mpsc::Sender<Outgoing>,
) {
    let say = match reply(&node, over, id, ask, &replies).await {
        Ok(say) => say,
        Err(error) => Say::Failed(error),
    };
    // When nobody is left to be told, the connection has ended.
    drop(replies.send(Outgoing::Reply(Reply { id, say })).await);
}

async fn reply(
    node: &LocalNode,
    (session, version): (Session, u32),
    id: u64,
    ask: Ask,
    replies: &mpsc::Sender<Outgoing>,
) -> Result<Say, NodeError> {
    Ok(match ask {
        Ask::Ping | Ask::Cancel => Say::Pong,
        Ask::Observe => {
            let mut state = node.observe().await?;
            if version < GENERATIONS {
                // Who does not know of them would refuse the whole report.
                for peer in state.peers.values_mut() {
                    peer.generation = Generation::default();
                }
            }
            if version < KEEPS {
                // The same.
                state.keeps = Keeps::default();
            }
            Say::State(Box::new(state.into()))
        }
        Ask::Offer => Say::Offered(node.offer().await?),
        Ask::Admit { transfer, generation } => {
            Say::Admitted((&node.admit(&transfer, generation).await?).into())
        }
        Ask::Perform(order) => {
            let order = (*order).try_into().map_err(|error| not_an_order(&error))?;
            let told = Told::default();
            // On the heap: it is larger than all else together, and room for it would be made in every request.
            let perform = Box::pin(node.perform_over(session, &order, &told));
            let change = tell_progress(&told, id, replies, perform).await?;
            Say::Changed(change)
        }
        Ask::Lock(claim) => Say::Changed(node.lock_over(session, &claim).await?),
        Ask::Obey { generation, lock } => Say::Changed(node.obey_over(session, generation, lock).await?),
        Ask::Unlock(token) => Say::Changed(node.unlock(token).await?),
        Ask::BreakLock => Say::Changed(node.break_lock().await?),
        Ask::Forget { node: name, instead } => Say::Changed(node.forget(&name, instead).await?),
        Ask::Remember(name) => Say::Changed(node.remember(&name).await?),
        Ask::Logs { application, request } => {
            let output = node.logs(&application, request).await?;
            tell_output(
                id,
                output,
                &format!("read the output of `{application}`"),
                replies,
            )
            .await
        }
        Ask::Image(image) => Say::Image(node.image(&image).await?),
        Ask::ExportImage(image) => {
            let output = node.export_image(&image).await?;
            tell_output(id, output, &format!("read the image `{image}`"), replies).await
        }
        Ask::AdmitImage { cargo, sender } => Say::ImageAdmitted(node.admit_image(&cargo, sender).await?),
        Ask::PushImage(push) => {
            let told = Told::default();
            let push = Box::pin(node.push_image(&push, &told));
            let change = tell_progress(&told, id, replies, push).await?;
            Say::Changed(change)
        }
        Ask::AdmitKnock { sender } => Say::KnockAdmitted(node.admit_knock(sender).await?),
        Ask::Knock { at, door } => {
            node.knock(&at, &door).await?;
            Say::Knocked
        }
    })
}

/// Passes an output on to its end, and returns the last word of it.
async fn tell_output(id: u64, mut output: ByteStream, what: &str, replies: &mpsc::Sender<Outgoing>) -> Say {
    let opened = Outgoing::Reply(Reply { id, say: Say::Opened });
    drop(replies.send(opened).await);
    let mut buffer = BytesMut::new();
    loop {
        buffer.reserve(MAX_CHUNK);
        match (&mut output).take(MAX_CHUNK as u64).read_buf(&mut buffer).await {
            Ok(0) => break Say::Ended(None),
            Ok(_) => {
                let bytes = buffer.split().freeze();
                if replies.send(Outgoing::Output { id, bytes }).await.is_err() {
                    break Say::Ended(None);
                }
            }
            Err(source) => {
                let what = what.to_owned();
                let error = flocker_backends::RuntimeError::Io { what, source };
                break Say::Ended(Some(NodeError::backend(&error)));
            }
        }
    }
}

fn not_an_order(error: &WireError) -> NodeError {
    NodeError::Incomplete {
        what: format!("sense: {error}"),
    }
}

/// What an action last told of its progress, and has not been passed on.
#[derive(Default)]
struct Told {
    last: Mutex<Option<(ByteSize, Option<ByteSize>)>>,
    changed: tokio::sync::Notify,
}

impl Progress for Told {
    fn report(&self, done: ByteSize, total: Option<ByteSize>) {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Some((done, total));
        self.changed.notify_one();
    }
}

impl Told {
    async fn pass_on(&self, id: u64, replies: &mpsc::Sender<Outgoing>) {
        let last = self.last.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some((done, total)) = last {
            let say = Say::Progress { done, total };
            // When nobody is left to be told, the connection has ended, and the work ends by that.
            drop(replies.send(Outgoing::Reply(Reply { id, say })).await);
        }
    }
}

/// Passes progress on while an action works. When the way is slow, only the newest is.
async fn tell_progress<T>(
    told: &Told,
    id: u64,
    replies: &mpsc::Sender<Outgoing>,
    work: impl Future<Output = T>,
) -> T {
    let tell = async {
        loop {
            told.changed.notified().await;
            told.pass_on(id, replies).await;
        }
        #[expect(unreachable_code, reason = "it names the type of what never comes")]
        std::future::pending::<std::convert::Infallible>().await
    };
    let done = tokio::select! {
        biased;
        done = work => done,
        never = tell => match never {},
    };
    // An action that ends at once has still told how far it came.
    told.pass_on(id, replies).await;
    done
}

async fn write_all(
    mut writer: FrameWriter<WriteHalf<Channel>>,
    mut queue: mpsc::Receiver<Outgoing>,
) -> Result<(), WireError> {
    while let Some(outgoing) = queue.recv().await {
        let mut next = Some(outgoing);
        while let Some(outgoing) = next {
            match outgoing {
                Outgoing::Reply(reply) => writer.message(&wire::write(&reply)?).await?,
                Outgoing::Output { id, bytes } => writer.frame(&Frame::Output { id, bytes }).await?,
            }
            next = queue.try_recv().ok();
        }
        writer.flush().await?;
    }
    Ok(())
}
