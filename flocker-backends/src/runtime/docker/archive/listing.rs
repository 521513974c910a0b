//! What the engine is told that an archive has: one image, under one name.

use serde::Deserialize;
use serde_json::json;

use super::ArchiveError;
use super::Held;
use super::Passage;
use super::Store;
use crate::runtime::ImageId;

const LIST: &str = "manifest.json";

/// A member of ours: its path, and what it says.
type Written = (&'static str, Vec<u8>);

/// One image of the sender's list. What it is called there is not looked at.
#[derive(Deserialize)]
struct Listed {
    #[serde(rename = "Config")]
    config: String,
    #[serde(rename = "Layers")]
    layers: Option<Vec<String>>,
}

/// What images are known by, of either kind.
#[derive(Deserialize)]
struct Announced {
    rootfs: Option<RootFilesystem>,
    #[serde(rename = "mediaType")]
    media_type: Option<String>,
    config: Option<serde_json::Value>,
    manifests: Option<serde_json::Value>,
}

#[derive(Deserialize)]
struct RootFilesystem {
    diff_ids: Option<Vec<ImageId>>,
}

/// Returns the members that say what an archive has, from what was announced, its path, and what was passed on.
pub(super) fn write<W>(
    passage: &Passage<'_, W>,
    path: &str,
    content: &[u8],
    name: &str,
    store: Store,
) -> Result<Vec<Written>, ArchiveError> {
    let announced: Announced =
        serde_json::from_slice(content).map_err(|error| ArchiveError::senseless(path, &error))?;
    let is_index = announced.manifests.is_some();
    match (announced.rootfs, store) {
        (Some(root), Store::Classic) => {
            let layers = layers(passage, path, &root.diff_ids.unwrap_or_default())?;
            let list = json!([{"Config": path, "RepoTags": [name], "Layers": layers}]);
            Ok(vec![(LIST, list.to_string().into_bytes())])
        }
        (None, Store::Containerd) if is_index || announced.config.is_some() => {
            let kind = announced.media_type.unwrap_or_else(|| {
                let kind = if is_index { "index" } else { "manifest" };
                format!("application/vnd.oci.image.{kind}.v1+json")
            });
            let name = full(name);
            let tag = name.rsplit_once(':').map_or("", |(_, tag)| tag);
            let index = json!({
                "schemaVersion": 2,
                "mediaType": "application/vnd.oci.image.index.v1+json",
                "manifests": [{
                    "mediaType": kind,
                    "digest": format!("sha256:{}", passage.image),
                    "size": content.len(),
                    "annotations": {
                        "io.containerd.image.name": name,
                        "org.opencontainers.image.ref.name": tag,
                    },
                }],
            });
            Ok(vec![
                ("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec()),
                ("index.json", index.to_string().into_bytes()),
            ])
        }
        (Some(_), Store::Containerd) => Err(ArchiveError::OtherStore),
        (None, Store::Classic) if is_index || announced.config.is_some() => Err(ArchiveError::OtherStore),
        (None, Store::Classic | Store::Containerd) => Err(ArchiveError::senseless(path, "it is no image")),
    }
}

/// Returns where the layers are, in their order, each found to be what the image says.
fn layers<'a, W>(
    passage: &'a Passage<'_, W>,
    config: &str,
    digests: &[ImageId],
) -> Result<Vec<&'a str>, ArchiveError> {
    let list = passage.list.as_deref();
    let list = list.ok_or_else(|| ArchiveError::senseless(LIST, "it is not there"))?;
    let mut list: Vec<Listed> =
        serde_json::from_slice(list).map_err(|error| ArchiveError::senseless(LIST, &error))?;
    let (Some(listed), true) = (list.pop(), list.is_empty()) else {
        return Err(ArchiveError::senseless(
            LIST,
            "it does not list exactly one image",
        ));
    };
    if listed.config != config {
        return Err(ArchiveError::Other { path: LIST.into() });
    }
    let paths = listed.layers.unwrap_or_default();
    if paths.len() != digests.len() {
        return Err(ArchiveError::senseless(
            LIST,
            "it lists other layers than the image has",
        ));
    }
    let layer = |(path, digest): (&String, &ImageId)| {
        let absent = || ArchiveError::senseless(LIST, "it lists a layer that is not there");
        let (mut path, mut held) = passage.held.get_key_value(path).ok_or_else(absent)?;
        if let Held::Same(other) = held {
            (path, held) = passage.held.get_key_value(other).ok_or_else(absent)?;
        }
        match held {
            // It may be packed: then the engine finds out what it unpacks to.
            Held::Blob => Ok(path.as_str()),
            Held::Layer(found) if digest.as_str().strip_prefix("sha256:") == Some(found) => Ok(path.as_str()),
            Held::Layer(_) => Err(ArchiveError::Digest { path: path.clone() }),
            Held::Seen | Held::Same(_) => Err(absent()),
        }
    };
    paths.iter().zip(digests).map(layer).collect()
}

/// Returns a name as containerd has it, which knows no registry that goes without saying.
fn full(name: &str) -> String {
    match name.split_once('/') {
        Some((first, _)) if first == "localhost" || first.contains(['.', ':']) => name.to_owned(),
        Some(_) => format!("docker.io/{name}"),
        None => format!("docker.io/library/{name}"),
    }
}
