//! The other end: a node that is told what to do over a byte pipe.

mod control;

use std::sync::Arc;

use flocker_backends::Channel;
use tokio::io::ReadHalf;
use tokio::io::WriteHalf;

use crate::clock;
use crate::local::Guest;
use crate::local::LocalNode;
use crate::wire;
use crate::wire::Frame;
use crate::wire::FrameReader;
use crate::wire::FrameWriter;
use crate::wire::Greeting;
use crate::wire::Hello;
use crate::wire::Incoming;
use crate::wire::WireError;

/// Serves one connection until it ends.
///
/// When a control connection ends, its orders get a short time to be finished
/// and are dropped then; after that, what it held of the deploy lock is given
/// back. Whatever comes in, only this connection can end by it.
pub async fn serve(channel: Channel, node: Arc<LocalNode>) -> Result<(), WireError> {
    let (reader, writer, greeting, version) = greet(channel, &node).await?;
    match greeting {
        Some(Greeting::Control) => control::serve(reader, writer, node, version).await,
        Some(Greeting::Transfer) => node.arrive(reader, writer, None).await,
        Some(Greeting::Relay) => node.take_pipe(reader, writer).await,
        Some(Greeting::Image) => node.take_image(reader, writer, None).await,
        None => Err(WireError::Invalid { what: "a greeting" }),
    }
}

/// Serves the sender who came in by a door; all that may be said there is what the door was opened for.
pub(crate) async fn serve_sender(
    channel: Channel,
    node: Arc<LocalNode>,
    guest: Guest,
) -> Result<(), WireError> {
    let (reader, writer, greeting, _) = greet(channel, &node).await?;
    match (greeting, guest) {
        (Some(Greeting::Transfer), Guest::Transfer(pass)) => node.arrive(reader, writer, Some(pass)).await,
        (Some(Greeting::Image), Guest::Image(cargo)) => node.take_image(reader, writer, Some(&cargo)).await,
        (Some(Greeting::Transfer | Greeting::Image | Greeting::Control | Greeting::Relay) | None, _) => {
            Err(WireError::Unexpected {
                what: "something else than what the door is for",
            })
        }
    }
}

type Greeted = (
    FrameReader<ReadHalf<Channel>>,
    FrameWriter<WriteHalf<Channel>>,
    Option<Greeting>,
    u32,
);

/// Introduces this node, and returns what the connection is for and which version of the protocol is spoken on it.
async fn greet(channel: Channel, node: &LocalNode) -> Result<Greeted, WireError> {
    let (reader, writer) = tokio::io::split(channel);
    let mut reader = FrameReader::new(reader);
    let mut writer = FrameWriter::new(writer);
    let limit = node.deadlines().answer;
    let greeted = clock::timeout(limit, async {
        let ours = wire::write(&wire::our_hello(None))?;
        writer.frame(&Frame::Hello(ours.into())).await?;
        writer.flush().await?;
        match reader.next().await? {
            Some(Incoming::Hello(text)) => wire::read::<Hello>("a greeting", &text),
            Some(_) => Err(WireError::Unexpected { what: "a frame" }),
            None => Err(WireError::Closed),
        }
    });
    let theirs = greeted.await.map_err(|_| WireError::Silent(limit))??;
    let version = wire::check_hello(&theirs)?;
    Ok((reader, writer, theirs.greeting, version))
}
