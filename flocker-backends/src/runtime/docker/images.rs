//! Images: which one a name means here, and how one is brought here.

use std::io;

use async_trait::async_trait;
use bollard::errors::Error;
use bollard::query_parameters::CreateImageOptionsBuilder;
use bollard::query_parameters::ImportImageOptionsBuilder;
use flocker_model::Image;
use futures_util::FutureExt as _;
use futures_util::StreamExt as _;
use futures_util::TryStreamExt as _;
use tokio::sync::oneshot;
use tokio_util::io::ReaderStream;
use tokio_util::io::StreamReader;

use super::Pull;
use super::archive;
use super::archive::Store;
use super::engine::Engine;
use super::engine::failed;
use super::engine::said;
use super::engine::status;
use crate::change::Change;
use crate::pipe;
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
        self.take_in(image, id, stream).await?;
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
        Ok(self.find_image(image).await?.map(|(_, id)| id))
    }

    /// Returns by which name an image is here, and what it is; nothing where it is not here.
    async fn find_image(&self, image: &Image) -> Result<Option<(String, ImageId)>, RuntimeError> {
        for name in std::iter::once(image.to_string()).chain(name_of_pinned(image)) {
            let what = || format!("look for the image `{image}`");
            match self.client.inspect_image(&name).await {
                Ok(found) => {
                    let id = found.id.unwrap_or_default().parse();
                    let id = id.map_err(|error: ImageIdError| RuntimeError::Io {
                        what: what(),
                        source: io::Error::new(io::ErrorKind::InvalidData, error),
                    })?;
                    return Ok(Some((name, id)));
                }
                Err(error) if status(&error) == Some(404) => {}
                Err(error) => return Err(failed(what)(error)),
            }
        }
        Ok(None)
    }

    pub(super) fn export_image(&self, image: &Image) -> ByteStream {
        let (engine, image) = (self.clone(), image.clone());
        let stream = futures_util::stream::once(async move {
            let found = engine.find_image(&image).await.map_err(io::Error::other)?;
            let name = found.map_or_else(|| image.to_string(), |(name, _)| name);
            let stream = engine.client.export_image(&name);
            Ok::<_, io::Error>(stream.map_err(|error| io::Error::other(said(&error))))
        });
        Box::pin(StreamReader::new(Box::pin(stream.try_flatten())))
    }

    /// Gives the engine the one image that was announced, under the name by which it is found here, whatever else may come.
    async fn take_in(&self, image: &Image, id: &ImageId, stream: ByteStream) -> Result<(), RuntimeError> {
        let what = || format!("take in the image `{image}`");
        let refused = |source| RuntimeError::Io { what: what(), source };
        let store = self.store().await.map_err(failed(what))?;
        let (id, name) = (id.clone(), name_here(image));
        let (pump, intake) = pipe::intake();
        let (mut outlet, checked) = pipe::stream();
        let (told, why) = oneshot::channel();
        // It ends with either stream: what is dropped here cuts them both.
        drop(tokio::task::spawn_blocking(move || {
            match archive::pass(intake, &mut outlet, &id, &name, store) {
                // Where nobody reads any more, the engine says why.
                Ok(()) => drop(outlet.end()),
                Err(error) if error.is_unread() => {}
                Err(error) => {
                    let kind = io::ErrorKind::InvalidData;
                    // It is told before the engine's stream breaks, of which the engine only says that it broke.
                    drop(told.send(io::Error::new(kind, error)));
                    outlet.fail(kind.into());
                }
            }
        }));
        let load = async {
            let options = ImportImageOptionsBuilder::new().quiet(true).build();
            let bytes = ReaderStream::with_capacity(checked, 64 * 1024);
            let mut answers = self.client.import_image_stream(options, bytes, None);
            while let Some(answer) = answers.next().await {
                answer?;
            }
            Ok::<_, Error>(())
        };
        let feed = async {
            pump.run(stream).await;
            std::future::pending().await
        };
        let loaded = tokio::select! {
            loaded = load => loaded,
            never = feed => never,
        };
        match (loaded, why.now_or_never()) {
            (_, Some(Ok(error))) => Err(refused(error)),
            (loaded, Some(Err(_)) | None) => loaded.map_err(failed(what)),
        }
    }

    /// Returns what the engine knows images by.
    async fn store(&self) -> Result<Store, Error> {
        let info = self.client.info().await?;
        let is_containerd = |pair: &Vec<String>| matches!(pair.as_slice(), [name, value] if name == "driver-type" && value == "io.containerd.snapshotter.v1");
        let is_containerd = info.driver_status.unwrap_or_default().iter().any(is_containerd);
        Ok(if is_containerd {
            Store::Containerd
        } else {
            Store::Classic
        })
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

/// Returns the name that an image gets which was brought here: that by which it is looked for.
fn name_here(image: &Image) -> String {
    name_of_pinned(image).unwrap_or_else(|| {
        let (repository, tag) = split(image.as_str());
        format!("{repository}:{tag}")
    })
}

/// Returns the name that we give to an image which is pinned by a digest where it was not pulled; nothing where it has a tag.
///
/// An engine knows by which digest it has pulled an image, and neither gives that on nor lets anybody say it.
fn name_of_pinned(image: &Image) -> Option<String> {
    let (_, digest) = image.as_str().rsplit_once('@')?;
    let digest: ImageId = digest.parse().ok()?;
    // Nobody has this domain, so nothing is ever pulled from there.
    let digest = digest.as_str().replace(':', "-");
    Some(format!("flocker.invalid/pinned:{digest}"))
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
    fn what_is_pinned_has_a_name_of_ours_and_nothing_else_has() {
        let digest = "0123456789abcdef".repeat(4);
        let name_of = |image: &str| name_of_pinned(&image.parse().unwrap());
        let expected = format!("flocker.invalid/pinned:sha256-{digest}");
        for image in ["postgres@sha256:", "example.org:5000/web:3@sha256:"] {
            assert_eq!(name_of(&format!("{image}{digest}")), Some(expected.clone()));
        }
        assert_eq!(name_of(&format!("postgres:{digest}")), None);
        assert_eq!(name_of("postgres@sha256:0123"), None);
    }

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
