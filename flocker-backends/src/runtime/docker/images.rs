//! Images: which one a name means here, and how one is brought here.

use std::io;

use async_trait::async_trait;
use bollard::errors::Error;
use bollard::query_parameters::CreateImageOptionsBuilder;
use bollard::query_parameters::ImportImageOptionsBuilder;
use flocker_model::Image;
use futures_util::StreamExt as _;
use futures_util::TryStreamExt as _;
use tokio_util::io::ReaderStream;
use tokio_util::io::StreamReader;

use super::Pull;
use super::engine::Engine;
use super::engine::failed;
use super::engine::said;
use super::engine::status;
use crate::change::Change;
use crate::runtime::ContainerSpec;
use crate::runtime::ImageId;
use crate::runtime::ImageIdError;
use crate::runtime::ImageStore;
use crate::runtime::RuntimeError;
use crate::volume::ByteStream;

#[async_trait]
impl ImageStore for Engine {
    async fn present(&self, image: &Image) -> Result<Option<ImageId>, RuntimeError> {
        self.image_present(image).await
    }

    fn export(&self, image: &Image) -> ByteStream {
        self.export_image(image)
    }

    async fn import(&self, image: &Image, id: &ImageId, stream: ByteStream) -> Result<Change, RuntimeError> {
        if self.image_present(image).await?.as_ref() == Some(id) {
            return Ok(Change::AlreadySo);
        }
        self.import_image(stream).await?;
        let other = match self.image_present(image).await? {
            Some(found) if found == *id => return Ok(Change::Made),
            Some(found) => format!("what arrived is {found}, and {id} was announced"),
            None => "the stream ended, and did not contain it".to_owned(),
        };
        Err(RuntimeError::Io {
            what: format!("take in the image `{image}`"),
            source: io::Error::other(other),
        })
    }
}

impl Engine {
    pub(super) async fn image_present(&self, image: &Image) -> Result<Option<ImageId>, RuntimeError> {
        let what = || format!("look for the image `{image}`");
        match self.client.inspect_image(image.as_str()).await {
            Ok(found) => found
                .id
                .unwrap_or_default()
                .parse()
                .map(Some)
                .map_err(|error: ImageIdError| RuntimeError::Io {
                    what: what(),
                    source: io::Error::new(io::ErrorKind::InvalidData, error),
                }),
            Err(error) if status(&error) == Some(404) => Ok(None),
            Err(error) => Err(failed(what)(error)),
        }
    }

    pub(super) fn export_image(&self, image: &Image) -> ByteStream {
        let stream = self.client.export_image(image.as_str());
        let stream = stream.map_err(|error| io::Error::other(said(&error)));
        Box::pin(StreamReader::new(Box::pin(stream)))
    }

    pub(super) async fn import_image(&self, stream: ByteStream) -> Result<(), RuntimeError> {
        let options = ImportImageOptionsBuilder::new().quiet(true).build();
        let bytes = ReaderStream::with_capacity(stream, 64 * 1024);
        let mut answers = self.client.import_image_stream(options, bytes, None);
        while let Some(answer) = answers.next().await {
            answer.map_err(failed(|| "take an image in".into()))?;
        }
        Ok(())
    }

    /// Returns the image that a container is made from, and gets it where it is not here and may be pulled.
    pub(super) async fn resolve(&self, spec: &ContainerSpec) -> Result<ImageId, RuntimeError> {
        let image = &spec.application.image;
        if let Some(id) = self.image_present(image).await? {
            return Ok(id);
        }
        let no_image = |reason: String| RuntimeError::NoImage {
            application: spec.name.clone(),
            reason,
        };
        let patience = match self.options.pull {
            Pull::Never => return Err(no_image(format!("the image `{image}` is not here"))),
            Pull::WhereMissing(patience) => patience,
        };
        match tokio::time::timeout(patience, self.pull(image)).await {
            Err(_) => {
                return Err(no_image(format!(
                    "the image `{image}` is not here, and could not be pulled within {patience:?}"
                )));
            }
            Ok(Err(error)) => {
                return Err(no_image(format!(
                    "the image `{image}` is not here, and could not be pulled: {}",
                    said(&error)
                )));
            }
            Ok(Ok(())) => {}
        }
        let pulled = self.image_present(image).await?;
        pulled.ok_or_else(|| no_image(format!("the image `{image}` was pulled and is not here")))
    }

    async fn pull(&self, image: &Image) -> Result<(), Error> {
        let (repository, tag) = split(image.as_str());
        let options = CreateImageOptionsBuilder::new()
            .from_image(repository)
            .tag(tag)
            .build();
        let mut answers = self.client.create_image(Some(options), None, None);
        while let Some(answer) = answers.next().await {
            answer?;
        }
        Ok(())
    }
}

/// Splits an image into what is pulled and its tag. Without any tag, the engine would pull all that there are.
fn split(image: &str) -> (&str, &str) {
    if image.contains('@') {
        return (image, "");
    }
    match image.rsplit_once(':') {
        // What follows the last colon may be a port of the registry and a path.
        Some((repository, tag)) if !tag.contains('/') => (repository, tag),
        Some(_) | None => (image, "latest"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exactly_one_tag_is_pulled() {
        for (image, expected) in [
            ("busybox", ("busybox", "latest")),
            ("example/web:1.2", ("example/web", "1.2")),
            ("example.org:5000/web", ("example.org:5000/web", "latest")),
            ("example.org:5000/web:3", ("example.org:5000/web", "3")),
            ("example/web@sha256:0123", ("example/web@sha256:0123", "")),
        ] {
            assert_eq!(split(image), expected, "{image}");
        }
    }
}
