//! Images of this node: told of, given away, and taken in.

use flocker_backends::ByteStream;
use flocker_backends::Change;
use flocker_backends::Channel;
use flocker_backends::ImageId;
use flocker_backends::ImageStore;
use flocker_model::Image;
use tokio::io::ReadHalf;
use tokio::io::WriteHalf;

use super::LocalNode;
use crate::node::ImageCargo;
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

    /// Takes in an image that comes by a connection of its own, and tells its sender how it went.
    ///
    /// A sender that says something senseless, or goes away, leaves no image.
    pub(crate) async fn take_image(
        &self,
        mut reader: FrameReader<ReadHalf<Channel>>,
        mut writer: FrameWriter<WriteHalf<Channel>>,
    ) -> Result<(), WireError> {
        let limit = self.parts.deadlines.answer;
        let first = tokio::time::timeout(limit, reader.next())
            .await
            .map_err(|_| WireError::Silent(limit))??;
        let cargo: ImageCargo = match first {
            Some(Incoming::Message(text)) => wire::read("the announcement of an image", &text)?,
            Some(_) => return Err(WireError::Unexpected { what: "a frame" }),
            None => return Err(WireError::Closed),
        };
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
            tokio::time::timeout(limit, keep).await.map_err(late)?
        };
        self.with_signs_of_life(writer, work).await
    }
}
