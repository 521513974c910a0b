//! Images of this node: told of, given away, and taken in.

use flocker_backends::ByteStream;
use flocker_backends::Change;
use flocker_backends::Channel;
use flocker_backends::ImageId;
use flocker_backends::ImageStore;
use flocker_backends::transport::direct::DoorAddress;
use flocker_backends::transport::direct::KeyPin;
use flocker_model::Image;
use tokio::io::ReadHalf;
use tokio::io::WriteHalf;

use super::LocalNode;
use crate::clock;
use crate::delivery::Delivery;
use crate::node::ImageCargo;
use crate::node::ImagePush;
use crate::node::Progress;
use crate::node::no_images;
use crate::node_error::NodeError;
use crate::wire;
use crate::wire::FrameReader;
use crate::wire::FrameWriter;
use crate::wire::Incoming;
use crate::wire::ToSender;
use crate::wire::WireError;

/// How many chunks are read ahead of the engine that takes them.
const AHEAD: usize = 8;

impl LocalNode {
    fn images(&self) -> Result<&dyn ImageStore, NodeError> {
        self.parts.runtime.images().ok_or_else(no_images)
    }

    pub(super) async fn own_image(&self, image: &Image) -> Result<Option<ImageId>, NodeError> {
        let what = format!("a look for the image `{image}`");
        let limit = self.parts.deadlines.answer;
        self.within(what, limit, self.images()?.present(image)).await
    }

    pub(super) fn give_image(&self, image: &Image) -> Result<ByteStream, NodeError> {
        Ok(self.images()?.export(image))
    }

    /// Takes an image in. How long that takes is a matter of its size; a stream that stalls is ended by who reads it.
    pub(super) async fn keep_image(
        &self,
        cargo: &ImageCargo,
        stream: ByteStream,
    ) -> Result<Change, NodeError> {
        let imported = self.images()?.import(&cargo.image, &cargo.id, stream).await;
        imported.map_err(|error| NodeError::backend(&error))
    }

    /// Opens a door for an image, where this node opens any.
    pub(super) async fn await_image(
        &self,
        cargo: &ImageCargo,
        sender: KeyPin,
    ) -> Result<Option<DoorAddress>, NodeError> {
        self.images()?;
        let Some(porch) = &self.porch else {
            return Ok(None);
        };
        let Some(ajar) = porch.open(sender).await else {
            return Ok(None);
        };
        let address = ajar.door.address();
        ajar.await_image(cargo.clone(), self.parts.deadlines.ticket);
        Ok(Some(address))
    }

    /// Sends an image through the door of the node that awaits it.
    pub(super) async fn send_image(
        &self,
        push: &ImagePush,
        progress: &dyn Progress,
    ) -> Result<Change, NodeError> {
        let channel = self.go_in(&push.to, &push.door).await?;
        let delivery = Delivery {
            node: &push.to,
            cargo: &push.cargo,
            deadlines: &self.parts.deadlines,
            bandwidth: push.bandwidth,
            leaves: !push.door.socket.ip().is_loopback(),
            progress,
        };
        delivery
            .deliver(channel, self.give_image(&push.cargo.image)?)
            .await
    }

    /// Takes in an image that comes by a connection of its own, and tells its sender how it went.
    ///
    /// A sender that says something senseless, or goes away, leaves no image.
    /// Where it came in by a door, `only` is the one image that may come there.
    pub(crate) async fn take_image(
        &self,
        mut reader: FrameReader<ReadHalf<Channel>>,
        mut writer: FrameWriter<WriteHalf<Channel>>,
        only: Option<&ImageCargo>,
    ) -> Result<(), WireError> {
        let limit = self.parts.deadlines.answer;
        let first = clock::timeout(limit, reader.next())
            .await
            .map_err(|_| WireError::Silent(limit))??;
        let cargo: ImageCargo = match first {
            Some(Incoming::Message(text)) => wire::read("the announcement of an image", &text)?,
            Some(_) => return Err(WireError::Unexpected { what: "a frame" }),
            None => return Err(WireError::Closed),
        };
        if only.is_some_and(|only| *only != cargo) {
            return Err(WireError::Unexpected {
                what: "another image than the one that the door is for",
            });
        }
        let say = match self.take_image_in(&cargo, &mut reader, &mut writer).await {
            Ok(change) => ToSender::Received(change),
            Err(error) => ToSender::Failed(error),
        };
        self.last_word(&say, reader, writer).await
    }

    async fn take_image_in(
        &self,
        cargo: &ImageCargo,
        reader: &mut FrameReader<ReadHalf<Channel>>,
        writer: &mut FrameWriter<WriteHalf<Channel>>,
    ) -> Result<Change, NodeError> {
        let (sender, stream) = wire::chunk_pipe(AHEAD);
        let keep = self.keep_image(cargo, Box::pin(stream));
        let pump = self.pump(reader, sender);
        tokio::pin!(keep, pump);
        let work = async {
            tokio::select! {
                biased;
                kept = &mut keep => return kept,
                () = &mut pump => {}
            }
            let limit = self.parts.deadlines.work;
            let late = |_| NodeError::Deadline {
                what: format!("the runtime to take the image `{}` in", cargo.image),
                after: limit,
            };
            clock::timeout(limit, keep).await.map_err(late)?
        };
        self.with_signs_of_life(writer, work).await
    }
}
