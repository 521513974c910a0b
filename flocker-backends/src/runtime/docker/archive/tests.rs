use std::collections::BTreeMap;
use std::io::Read as _;

use serde_json::Value;
use serde_json::json;
use tar::Builder;
use tar::EntryType;
use tar::Header;

use super::*;

const NAME: &str = "example.org/web:1";

fn digest(content: &[u8]) -> String {
    format!("{:x}", Sha256::digest(content))
}

/// An archive that is put together member by member, the good and the bad ones alike.
struct Archived {
    tar: Builder<Vec<u8>>,
}

impl Archived {
    fn new() -> Self {
        let tar = Builder::new(Vec::new());
        Self { tar }
    }

    /// Adds what the checks of a builder would not let in.
    fn add(mut self, kind: EntryType, path: &str, link: &str, content: &[u8]) -> Self {
        let mut header = Header::new_gnu();
        let fields = header.as_gnu_mut().unwrap();
        fields.name[..path.len()].copy_from_slice(path.as_bytes());
        fields.linkname[..link.len()].copy_from_slice(link.as_bytes());
        header.set_entry_type(kind);
        header.set_size(content.len() as u64);
        header.as_gnu_mut().unwrap().set_real_size(content.len() as u64);
        header.set_mode(0o4777);
        header.set_cksum();
        self.tar.append(&header, content).unwrap();
        self
    }

    fn file(self, path: &str, content: impl AsRef<[u8]>) -> Self {
        self.add(EntryType::Regular, path, "", content.as_ref())
    }

    fn blob(self, content: &[u8]) -> Self {
        let path = format!("blobs/sha256/{}", digest(content));
        self.file(&path, content)
    }

    fn folder(self, path: &str) -> Self {
        self.add(EntryType::Directory, path, "", b"")
    }

    fn bytes(self) -> Vec<u8> {
        self.tar.into_inner().unwrap()
    }
}

/// An image of two layers.
struct Sample {
    config: Vec<u8>,
    layers: [&'static [u8]; 2],
}

impl Sample {
    fn new() -> Self {
        let layers: [&[u8]; 2] = [b"the first layer", b"another layer"];
        let digests = layers.map(|layer| format!("sha256:{}", digest(layer)));
        let config = json!({"architecture": "amd64", "rootfs": {"type": "layers", "diff_ids": digests}});
        let config = config.to_string().into_bytes();
        Self { config, layers }
    }

    fn digits(&self) -> String {
        digest(&self.config)
    }

    fn id(&self) -> ImageId {
        format!("sha256:{}", self.digits()).parse().unwrap()
    }

    /// Where the layers are in archives of old.
    fn folders() -> [String; 2] {
        ["a".repeat(64), "b".repeat(64)]
    }

    fn list_of(config: &str, layers: &[String]) -> Value {
        json!([{"Config": config, "RepoTags": ["postgres:latest"], "Layers": layers}])
    }

    fn old_list(&self) -> Value {
        let layers = Self::folders().map(|folder| format!("{folder}/layer.tar"));
        Self::list_of(&format!("{}.json", self.digits()), &layers)
    }

    /// All of an archive of Docker 20.10, but for its lists.
    fn old(&self) -> Archived {
        let mut archived = Archived::new().file(&format!("{}.json", self.digits()), &self.config);
        for (folder, layer) in Self::folders().iter().zip(self.layers) {
            archived = archived
                .folder(&format!("{folder}/"))
                .file(&format!("{folder}/VERSION"), "1.0")
                .file(&format!("{folder}/json"), "{}")
                .file(&format!("{folder}/layer.tar"), layer);
        }
        archived
    }

    fn new_list(&self) -> Value {
        let layers = self.layers.map(|layer| format!("blobs/sha256/{}", digest(layer)));
        Self::list_of(&format!("blobs/sha256/{}", self.digits()), &layers)
    }

    /// All of an archive of Docker 25 and later, but for its lists.
    fn new_form(&self) -> Archived {
        let archived = Archived::new().folder("blobs/").folder("blobs/sha256/");
        let [first, second] = self.layers;
        archived.blob(first).blob(&self.config).blob(second)
    }
}

/// What the engine would find: whether it comes to its end, and each member.
struct Passed {
    result: Result<(), ArchiveError>,
    members: BTreeMap<String, Vec<u8>>,
}

impl Passed {
    fn json(&self, path: &str) -> Value {
        serde_json::from_slice(&self.members[path]).unwrap()
    }
}

fn pass_to(bytes: &[u8], id: &ImageId, store: Store) -> Passed {
    let mut written = Vec::new();
    let result = pass(bytes, &mut written, id, NAME, store);
    let mut members = BTreeMap::new();
    for entry in Archive::new(&*written).entries().unwrap() {
        // What is broken off ends anywhere.
        let Ok(mut entry) = entry else { break };
        assert_eq!(entry.header().entry_type(), EntryType::Regular);
        assert_eq!(entry.header().mode().unwrap(), 0o644);
        let path = String::from_utf8(entry.path_bytes().into_owned()).unwrap();
        let mut content = Vec::new();
        entry.read_to_end(&mut content).unwrap();
        assert_eq!(members.insert(path, content), None);
    }
    Passed { result, members }
}

#[track_caller]
fn accepted(bytes: &[u8], sample: &Sample) -> Passed {
    let passed = pass_to(bytes, &sample.id(), Store::Classic);
    passed.result.as_ref().unwrap();
    passed
}

/// Checks that an archive is refused for a reason, and that no list of it got through.
#[track_caller]
fn refused(bytes: &[u8], id: &ImageId, reason: &str) {
    let passed = pass_to(bytes, id, Store::Classic);
    let error = passed.result.unwrap_err();
    let said = crate::runtime::process::probe::chain(&error);
    assert!(said.contains(reason), "{said}");
    for list in ["manifest.json", "index.json", "repositories", "oci-layout"] {
        assert!(!passed.members.contains_key(list), "{list}");
    }
}

#[test]
fn one_image_is_passed_on_under_one_name_wherever_its_list_stands() {
    let sample = Sample::new();
    let lists = |archived: Archived, list: &Value| {
        archived
            .file("manifest.json", list.to_string())
            .file("repositories", r#"{"postgres":{"latest":"b"}}"#)
            .file(
                "index.json",
                r#"{"manifests":[{"annotations":{"io.containerd.image.name":"x"}}]}"#,
            )
            .file("oci-layout", "{}")
    };
    let end = lists(sample.old(), &sample.old_list()).bytes();
    let begin = lists(Archived::new(), &sample.old_list()).bytes();
    let begin = [&begin[..begin.len() - 1024], &*sample.old().bytes()].concat();
    let new = lists(sample.new_form(), &sample.new_list()).bytes();
    for (bytes, mut list) in [
        (end, sample.old_list()),
        (begin, sample.old_list()),
        (new, sample.new_list()),
    ] {
        let passed = accepted(&bytes, &sample);
        list[0]["RepoTags"] = json!([NAME]);
        assert_eq!(passed.json("manifest.json"), list);
        assert_eq!(passed.members[list[0]["Config"].as_str().unwrap()], sample.config);
        for (path, layer) in list[0]["Layers"].as_array().unwrap().iter().zip(sample.layers) {
            assert_eq!(passed.members[path.as_str().unwrap()], layer);
        }
        assert_eq!(passed.members.len(), 4, "{:?}", passed.members.keys());
    }
}

/// Docker 20.10 writes a layer that is there twice as a link from the one to the other.
#[test]
fn a_layer_that_is_linked_is_found_where_it_is() {
    let mut sample = Sample::new();
    let layer = format!("sha256:{}", digest(b"layer"));
    sample.config = json!({"rootfs": {"diff_ids": [layer, layer]}})
        .to_string()
        .into_bytes();
    let [first, second] = Sample::folders();
    let linked = |to: &str| {
        Archived::new()
            .add(EntryType::Symlink, &format!("{first}/layer.tar"), to, b"")
            .file(&format!("{second}/layer.tar"), "layer")
            .file(&format!("{}.json", sample.digits()), &sample.config)
            .file("manifest.json", sample.old_list().to_string())
            .bytes()
    };
    let passed = accepted(&linked(&format!("../{second}/layer.tar")), &sample);
    let path = format!("{second}/layer.tar");
    assert_eq!(passed.json("manifest.json")[0]["Layers"], json!([path, path]));
    for to in [
        "",
        "/etc/shadow",
        "../../etc/shadow",
        &path,
        "../manifest.json",
        &format!("../{second}/../layer.tar"),
        &format!("../{second}"),
    ] {
        refused(&linked(to), &sample.id(), "is nothing that");
    }
    let in_a_circle = linked(&format!("../{first}/layer.tar"));
    refused(&in_a_circle, &sample.id(), "a layer that is not there");
}

#[test]
fn what_no_image_has_is_refused() {
    let sample = Sample::new();
    let whole = || sample.old().file("manifest.json", sample.old_list().to_string());
    accepted(&whole().bytes(), &sample);
    let digits = "c".repeat(64);
    for path in [
        "etc/passwd",
        "/etc/passwd",
        "../manifest.json",
        "./manifest.json",
        "manifest.json/",
        "blobs/sha256/../sha256/x",
        "blobs/sha512/x",
        &format!("blobs/sha256/{}", "C".repeat(64)),
        &format!("{digits}/layer.tar/"),
        &format!("{digits}/../layer.tar"),
        &format!("/{digits}/layer.tar"),
        &format!("{digits}/root"),
    ] {
        refused(&whole().file(path, "").bytes(), &sample.id(), "is nothing that");
    }
    let escaping = whole().file("\u{1b}[2J", "").bytes();
    refused(&escaping, &sample.id(), "`\\u{1b}[2J`");
    let layer = format!("{digits}/layer.tar");
    for (kind, path) in [
        (EntryType::Link, &*layer),
        (EntryType::Char, &layer),
        (EntryType::Block, &layer),
        (EntryType::Fifo, &layer),
        (EntryType::Continuous, &layer),
        (EntryType::Directory, &layer),
        (EntryType::XGlobalHeader, &layer),
        (EntryType::Symlink, "repositories"),
        (EntryType::Regular, &digits),
        (EntryType::Symlink, "blobs"),
    ] {
        let bytes = whole()
            .add(kind, path, &format!("../{digits}/layer.tar"), b"")
            .bytes();
        refused(&bytes, &sample.id(), "is of another kind");
    }
    let sparse = whole().add(EntryType::GNUSparse, &layer, "", b"").bytes();
    refused(&sparse, &sample.id(), "is of another kind");
    let twice = whole().file("manifest.json", "[]").bytes();
    refused(&twice, &sample.id(), "is there twice");
}

#[test]
fn another_image_than_the_announced_one_is_refused() {
    let sample = Sample::new();
    let list = sample.old_list().to_string();
    let whole = || sample.old().file("manifest.json", &list);
    let other = format!("sha256:{}", "0".repeat(64)).parse().unwrap();
    refused(&whole().bytes(), &other, "is of another image");
    let foreign = sample
        .new_form()
        .file("manifest.json", sample.new_list().to_string());
    refused(&foreign.bytes(), &other, "does not have the image");
    let beside = whole().file(&format!("{}.json", "0".repeat(64)), "{}").bytes();
    refused(&beside, &sample.id(), "is of another image");
    refused(&Archived::new().bytes(), &sample.id(), "does not have the image");
    refused(
        &sample.old().bytes(),
        &sample.id(),
        "`manifest.json` does not say",
    );

    let [first, second] = Sample::folders().map(|folder| format!("{folder}/layer.tar"));
    let config = format!("{}.json", sample.digits());
    let item = |config: &str, layers: &[&String]| json!({"Config": config, "Layers": layers});
    let good = item(&config, &[&first, &second]);
    for (list, reason) in [
        (json!([good, good]), "exactly one image"),
        (json!([]), "exactly one image"),
        (json!(null), "does not say"),
        (json!({"Config": config}), "does not say"),
        (json!([item("0.json", &[&first, &second])]), "is of another image"),
        (json!([item(&config, &[&first])]), "other layers"),
        (
            json!([item(&config, &[&second, &first])]),
            "does not have the digest",
        ),
        (json!([item(&config, &[&first, &config])]), "not there"),
        (json!([item(&config, &[&first, &"../x".to_owned()])]), "not there"),
    ] {
        let bytes = sample.old().file("manifest.json", list.to_string()).bytes();
        refused(&bytes, &sample.id(), reason);
    }
}

#[test]
fn what_is_not_what_its_name_says_is_refused() {
    let sample = Sample::new();
    for path in [
        format!("{}.json", sample.digits()),
        format!("blobs/sha256/{}", sample.digits()),
        format!("blobs/sha256/{}", "0".repeat(64)),
    ] {
        let bytes = Archived::new().file(&path, "something else").bytes();
        refused(&bytes, &sample.id(), "does not have the digest");
    }
    let [first, _] = Sample::folders();
    let changed = Sample {
        layers: [b"the first lager", b"another layer"],
        ..Sample::new()
    };
    let bytes = changed
        .old()
        .file("manifest.json", sample.old_list().to_string())
        .bytes();
    refused(
        &bytes,
        &sample.id(),
        &format!("`{first}/layer.tar` does not have the digest"),
    );
    let nonsense = b"[]";
    let id = format!("sha256:{}", digest(nonsense)).parse().unwrap();
    refused(&Archived::new().blob(nonsense).bytes(), &id, "does not say");
}

#[test]
fn a_stream_that_is_cut_anywhere_is_refused() {
    let sample = Sample::new();
    let bytes = sample
        .old()
        .file("manifest.json", sample.old_list().to_string())
        .bytes();
    // The end itself says nothing.
    for length in (0..bytes.len() - 1024 - BLOCK).step_by(61) {
        let passed = pass_to(&bytes[..length], &sample.id(), Store::Classic);
        assert!(passed.result.is_err(), "{length}");
        assert!(!passed.members.contains_key("manifest.json"), "{length}");
    }
}

/// Says how long a member is, and goes on for as long as anybody reads.
fn endless(kind: EntryType, path: &str, size: u64) -> impl Read {
    let mut header = Header::new_ustar();
    header.set_path(path).unwrap();
    header.set_entry_type(kind);
    header.set_size(size);
    header.set_cksum();
    io::Cursor::new(header.as_bytes().to_vec()).chain(io::repeat(b'1').take(1 << 26))
}

#[test]
fn nothing_long_is_kept_in_memory() {
    let sample = Sample::new();
    let config = format!("{}.json", sample.digits());
    for (kind, path, reason) in [
        (
            EntryType::XHeader,
            "pax",
            "what comes before a member is too long",
        ),
        (
            EntryType::GNULongName,
            "long",
            "what comes before a member is too long",
        ),
        (
            EntryType::GNULongLink,
            "long",
            "what comes before a member is too long",
        ),
        (
            EntryType::Directory,
            "blobs",
            "what comes before a member is too long",
        ),
        (EntryType::Regular, "manifest.json", "is too long"),
        (EntryType::Regular, "repositories", "is too long"),
        (EntryType::Regular, &config, "is too long"),
    ] {
        let mut from = endless(kind, path, 1 << 25);
        let error = pass(&mut from, io::sink(), &sample.id(), NAME, Store::Classic).unwrap_err();
        let said = crate::runtime::process::probe::chain(&error);
        assert!(said.contains(reason), "{path}: {said}");
        let left = io::copy(&mut from, &mut io::sink()).unwrap();
        assert!(left > (1 << 26) - (1 << 20), "{path}: so little was left: {left}");
    }
    let mut many = Archived::new();
    for number in 0..=MEMBERS {
        many = many.folder(&format!("{number:064x}"));
    }
    refused(&many.bytes(), &sample.id(), "too many members");
    let mut longer = sample
        .old()
        .file("manifest.json", sample.old_list().to_string())
        .bytes();
    longer.resize(longer.len() + 8192, 0);
    accepted(&longer, &sample);
    longer.resize(longer.len() + (2 << 20), 0);
    refused(&longer, &sample.id(), "follows the end");
}

/// A size that its field does not hold stands before the member.
#[test]
fn the_size_of_a_large_layer_is_read_where_it_stands() {
    let sample = Sample::new();
    let [first, second] = sample.layers;
    let size = format!("{} size={}\n", 11, first.len());
    let attributes = size.as_bytes();
    assert_eq!(attributes.len(), 11);
    let mut large = Archived::new()
        .add(EntryType::XHeader, "PaxHeaders", "", attributes)
        .tar;
    let mut header = Header::new_ustar();
    header
        .set_path(format!("blobs/sha256/{}", digest(first)))
        .unwrap();
    header.set_size(0);
    header.set_cksum();
    large.append(&header, first).unwrap();
    let bytes = Archived { tar: large }
        .blob(second)
        .blob(&sample.config)
        .file("manifest.json", sample.new_list().to_string())
        .bytes();
    accepted(&bytes, &sample);
}

/// An engine that keeps its images in containerd knows them by their manifests, and finds names in the index.
#[test]
fn a_manifest_goes_to_containerd_and_nowhere_else() {
    let sample = Sample::new();
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.docker.distribution.manifest.v2+json",
        "config": {"digest": sample.id()},
        "layers": [],
    });
    let manifest = manifest.to_string();
    let id: ImageId = format!("sha256:{}", digest(manifest.as_bytes())).parse().unwrap();
    let archived = sample.new_form().blob(manifest.as_bytes());
    let bytes = archived
        .file("manifest.json", sample.new_list().to_string())
        .file(
            "index.json",
            r#"{"manifests":[{"annotations":{"io.containerd.image.name":"x"}}]}"#,
        )
        .bytes();
    let passed = pass_to(&bytes, &id, Store::Containerd);
    passed.result.unwrap();
    assert!(!passed.members.contains_key("manifest.json"));
    let index = serde_json::from_slice::<Value>(&passed.members["index.json"]).unwrap();
    let expected = json!([{
        "mediaType": "application/vnd.docker.distribution.manifest.v2+json",
        "digest": id,
        "size": manifest.len(),
        "annotations": {"io.containerd.image.name": NAME, "org.opencontainers.image.ref.name": "1"},
    }]);
    assert_eq!(index["manifests"], expected);
    refused(&bytes, &id, "the two engines");
    let other = pass_to(&bytes, &sample.id(), Store::Containerd).result;
    assert!(matches!(other, Err(ArchiveError::OtherStore)));
}
