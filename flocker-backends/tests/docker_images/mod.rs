//! Images that travel from engine to engine.

use flocker_backends::ByteStream;
use flocker_model::Image;
use sha2::Digest as _;

use super::*;

/// Adds a file to an archive.
fn add(archive: &mut tar::Builder<Vec<u8>>, path: &str, content: &[u8]) {
    let mut header = tar::Header::new_gnu();
    header.set_size(content.len() as u64);
    archive.append_data(&mut header, path, content).unwrap();
}

/// Gives the engine an archive as it is.
fn load(archive: &[u8]) {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), archive).unwrap();
    docker(&["load", "--input", file.path().to_str().unwrap()]);
}

/// Makes an image that has a layer twice, which Docker 20.10 writes as a link to what it has written before.
fn make_image(tag: &str, mark: &str) {
    let mut layer = tar::Builder::new(Vec::new());
    add(&mut layer, "mark", mark.as_bytes());
    let layer = layer.into_inner().unwrap();
    let digest = format!("sha256:{:x}", sha2::Sha256::digest(&layer));
    let config = serde_json::json!({
        "architecture": "amd64",
        "os": "linux",
        "config": {"Cmd": ["/bin/sh"]},
        "rootfs": {"type": "layers", "diff_ids": [digest, digest]},
    })
    .to_string();
    let path = format!("{:x}.json", sha2::Sha256::digest(&config));
    let list = serde_json::json!([{"Config": path, "RepoTags": [tag], "Layers": ["layer.tar", "layer.tar"]}]);
    let mut image = tar::Builder::new(Vec::new());
    add(&mut image, "layer.tar", &layer);
    add(&mut image, &path, config.as_bytes());
    add(&mut image, "manifest.json", list.to_string().as_bytes());
    load(&image.into_inner().unwrap());
}

async fn exported(node: &DockerNode, name: &Image) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut stream = node.docker().export_image(name);
    stream.read_to_end(&mut bytes).await.unwrap();
    bytes
}

fn stream(bytes: &[u8]) -> ByteStream {
    Box::pin(std::io::Cursor::new(bytes.to_vec()))
}

/// What an engine gives out, another takes in: here the same one, which has lost it in the meantime.
#[tokio::test]
async fn an_image_travels_as_a_stream() {
    let node = DockerNode::new().await;
    let tag = format!("flocker-travelling-{}:1", node.namespace);
    make_image(&tag, "travelling");
    let name = tag.parse().unwrap();
    let before = node.docker().image_present(&name).await.unwrap().unwrap();
    let bytes = exported(&node, &name).await;
    // Engines up to 24 write the older form.
    let (mut is_old, mut is_linked) = (false, false);
    for entry in tar::Archive::new(&*bytes).entries().unwrap() {
        let entry = entry.unwrap();
        is_old |= entry.path_bytes().ends_with(b"/VERSION");
        is_linked |= entry.header().entry_type() == tar::EntryType::Symlink;
    }
    assert_eq!(is_old, is_linked);
    docker(&["rmi", &tag]);
    assert_eq!(node.docker().image_present(&name).await.unwrap(), None);
    let mut nothing = Vec::new();
    let missing = node.docker().export_image(&name).read_to_end(&mut nothing).await;
    missing.unwrap_err();
    let runtime = node.docker();
    let images = runtime.images().unwrap();
    let cut = stream(&bytes[..bytes.len() / 2]);
    images.import(&name, &before, cut).await.unwrap_err();
    assert_eq!(node.docker().image_present(&name).await.unwrap(), None);
    for change in [Change::Made, Change::AlreadySo] {
        let imported = images.import(&name, &before, stream(&bytes)).await;
        assert_eq!(imported.unwrap(), change);
    }
    assert_eq!(
        node.docker().image_present(&name).await.unwrap().as_ref(),
        Some(&before)
    );
    // One that is pinned is found by the name that it gets here, and travels on from there.
    let pinned: Image = format!("{}@{before}", tag.trim_end_matches(":1"))
        .parse()
        .unwrap();
    let imported = images.import(&pinned, &before, stream(&bytes)).await;
    assert_eq!(imported.unwrap(), Change::Made);
    let again = exported(&node, &pinned).await;
    let name_here = format!("flocker.invalid/pinned:{}", before.as_str().replace(':', "-"));
    docker(&["rmi", &tag, &name_here]);
    let imported = images.import(&pinned, &before, stream(&again)).await;
    assert_eq!(imported.unwrap(), Change::Made);
    docker(&["rmi", &name_here]);
}

/// A sender that is to give one image gives it other names, or another image its name: what the receiver has stays as it is.
#[tokio::test]
async fn an_image_that_arrives_changes_no_other_name() {
    let node = DockerNode::new().await;
    let tag = |name: &str| format!("flocker-{name}-{}:1", node.namespace);
    let [wanted, victim, evil] = ["wanted", "victim", "evil"].map(tag);
    for (tag, mark) in [(&wanted, "wanted"), (&victim, "victim"), (&evil, "evil")] {
        make_image(tag, mark);
    }
    let runtime = node.docker();
    let images = runtime.images().unwrap();
    let [wanted_name, victim_name, evil_name]: [Image; 3] =
        [&wanted, &victim, &evil].map(|tag| tag.parse().unwrap());
    let id = async |name: &Image| node.docker().image_present(name).await.unwrap();
    let (wanted_id, victim_id) = (id(&wanted_name).await.unwrap(), id(&victim_name).await);
    let [honest, other] = [&wanted_name, &evil_name].map(async |name| exported(&node, name).await);
    let (honest, other) = (honest.await, other.await);
    let renamed = |bytes: &[u8], from: &str| {
        rewritten(bytes, |path, content| match path {
            "manifest.json" | "repositories" => {
                let text = String::from_utf8(content).unwrap();
                let named = text.replace(from.trim_end_matches(":1"), victim.trim_end_matches(":1"));
                assert_ne!(text, named);
                named.into_bytes()
            }
            _ => content,
        })
    };
    docker(&["rmi", &wanted, &evil]);

    // The announced image, under the name of another one.
    let imported = images
        .import(&wanted_name, &wanted_id, stream(&renamed(&honest, &wanted)))
        .await;
    assert_eq!(imported.unwrap(), Change::Made);
    assert_eq!(id(&victim_name).await, victim_id);
    assert_eq!(id(&wanted_name).await.as_ref(), Some(&wanted_id));
    docker(&["rmi", &wanted]);

    // Another image, whole and cut anywhere before its end.
    let other = renamed(&other, &evil);
    for length in [other.len(), other.len() - 2048, other.len() / 2] {
        let refusal = images
            .import(&wanted_name, &wanted_id, stream(&other[..length]))
            .await;
        let refusal = refusal.unwrap_err();
        assert!(matches!(refusal, RuntimeError::Io { .. }), "{refusal}");
        assert_eq!(id(&victim_name).await, victim_id);
        assert_eq!((id(&wanted_name).await, id(&evil_name).await), (None, None));
        // Nothing without a name either.
        assert!(!docker(&["images", "--all", "--no-trunc", "--quiet"]).contains(wanted_id.as_str()));
    }
    // Without our filter the engine does take it.
    load(&other);
    assert_ne!(id(&victim_name).await, victim_id);
    docker(&["rmi", &victim, victim_id.unwrap().as_str()]);
}

/// Returns an archive with the content of its files changed.
fn rewritten(bytes: &[u8], change: impl Fn(&str, Vec<u8>) -> Vec<u8>) -> Vec<u8> {
    let mut written = tar::Builder::new(Vec::new());
    for entry in tar::Archive::new(bytes).entries().unwrap() {
        let mut entry = entry.unwrap();
        let path = entry.path().unwrap().to_str().unwrap().to_owned();
        let mut header = entry.header().clone();
        let mut content = Vec::new();
        std::io::Read::read_to_end(&mut entry, &mut content).unwrap();
        let content = change(&path, content);
        header.set_size(content.len() as u64);
        header.set_cksum();
        written.append(&header, &*content).unwrap();
    }
    written.into_inner().unwrap()
}
