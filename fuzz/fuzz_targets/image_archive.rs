//! Passes on the archive of an image that arbitrary bytes describe.
//!
//! Nothing may panic. What comes to its end has one image, the announced one,
//! under our name; every part that has its digest in its name has that digest,
//! and nothing else is in it. What is refused has no list of what it has.

#![no_main]

use std::collections::BTreeMap;
use std::io::Read as _;

use flocker_backends::runtime::docker::fuzzing::pass_image;
use libfuzzer_sys::fuzz_target;
use serde_json::Value;
use serde_json::json;
use sha2::Digest as _;
use sha2::Sha256;
use tar::Archive;
use tar::EntryType;
use tar::Header;

const NAME: &str = "example.org/web:1";

const LISTS: [&str; 4] = ["manifest.json", "index.json", "oci-layout", "repositories"];

fuzz_target!(|data: &[u8]| {
    let [how, rest @ ..] = data else { return };
    let image = Image::new(usize::from(how >> 2 & 3));
    let archive = if how & 1 == 0 {
        rest.to_vec()
    } else {
        image.archive(rest)
    };
    let is_containerd = how & 2 != 0;
    let announced = if is_containerd {
        &image.manifest
    } else {
        &image.config
    };
    let digits = hash(announced.as_bytes());
    let (refused, passed) = pass_image(&archive, &format!("sha256:{digits}"), NAME, is_containerd);
    let members = read(&passed, refused.is_none());
    for (path, content) in &members {
        if let Some(said) = path.strip_prefix("blobs/sha256/") {
            // The last one of what is refused may be what it was refused for.
            assert!(refused.is_some() || said == hash(content), "it is something else");
        }
    }
    if refused.is_some() {
        assert!(
            LISTS.iter().all(|list| !members.contains_key(*list)),
            "its parts mean something"
        );
        return;
    }
    let listed = |path: &str| serde_json::from_slice::<Value>(&members[path]).expect("it is ours");
    if is_containerd {
        let index = listed("index.json");
        let [only] = &index["manifests"].as_array().expect("it is ours")[..] else {
            panic!("there are several");
        };
        assert_eq!(only["digest"], format!("sha256:{digits}"));
        assert_eq!(only["annotations"]["io.containerd.image.name"], NAME);
        assert!(!members.contains_key("manifest.json"));
    } else {
        let list = listed("manifest.json");
        let [only] = &list.as_array().expect("it is ours")[..] else {
            panic!("there are several");
        };
        assert_eq!(only["RepoTags"], json!([NAME]));
        let config = only["Config"].as_str().expect("it is a path");
        assert_eq!(hash(&members[config]), digits);
        for layer in only["Layers"].as_array().expect("it is ours") {
            assert!(members.contains_key(layer.as_str().expect("it is a path")));
        }
        assert!(LISTS[1..].iter().all(|list| !members.contains_key(*list)));
    }
});

fn hash(content: &[u8]) -> String {
    Sha256::digest(content)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// Reads what was passed on: up to anywhere where it was refused.
fn read(passed: &[u8], is_whole: bool) -> BTreeMap<String, Vec<u8>> {
    let mut members = BTreeMap::new();
    for entry in Archive::new(passed).entries().expect("it is memory") {
        let Ok(mut entry) = entry else {
            assert!(!is_whole, "we wrote it");
            break;
        };
        assert_eq!(entry.header().entry_type(), EntryType::Regular);
        let path = String::from_utf8(entry.path_bytes().into_owned()).expect("it is one of ours");
        let is_known = LISTS.contains(&&*path)
            || path.len() == 77 && path.starts_with("blobs/sha256/")
            || path.len() == 74 && path.ends_with("/layer.tar")
            || path.len() == 69 && path.ends_with(".json");
        assert!(is_known, "{path}");
        let mut content = Vec::new();
        entry.read_to_end(&mut content).expect("it is memory");
        assert!(members.insert(path, content).is_none(), "it is there twice");
    }
    members
}

/// An image that archives are made from, for mutations seldom find a digest.
struct Image {
    layers: Vec<String>,
    config: String,
    manifest: String,
}

impl Image {
    fn new(n_layers: usize) -> Self {
        let layers: Vec<String> = (0..n_layers)
            .map(|number| format!("layer {}", number % 2))
            .collect();
        let digests: Vec<String> = layers
            .iter()
            .map(|layer| format!("sha256:{}", hash(layer.as_bytes())))
            .collect();
        let config = json!({"rootfs": {"diff_ids": digests}}).to_string();
        let manifest = json!({"config": {"digest": hash(config.as_bytes())}}).to_string();
        Self {
            layers,
            config,
            manifest,
        }
    }

    /// Puts an archive together: a byte for the path of each member, one for its kind, one for what it contains, and its length.
    fn archive(&self, script: &[u8]) -> Vec<u8> {
        let config = hash(self.config.as_bytes());
        let folder = |number: u8| char::from(b'a' + number % 3).to_string().repeat(64);
        let mut archive = Vec::new();
        let mut script = script;
        while let [path, kind, content, length, rest @ ..] = script {
            let own = rest
                .split_at_checked(usize::from(*length))
                .unwrap_or((rest, &[]))
                .0;
            let pick = |number: u8| {
                self.layers
                    .get(usize::from(number))
                    .map_or(own, |layer| layer.as_bytes())
            };
            let layer_paths = |blobs: bool| -> Vec<String> {
                let path = |(number, layer): (usize, &String)| match blobs {
                    true => format!("blobs/sha256/{}", hash(layer.as_bytes())),
                    false => format!("{}/layer.tar", folder(number as u8)),
                };
                self.layers.iter().enumerate().map(path).collect()
            };
            let list = |config: String, blobs: bool| {
                json!([{"Config": config, "RepoTags": ["postgres:latest"], "Layers": layer_paths(blobs)}])
                    .to_string()
            };
            let text = match content % 8 {
                0 => self.config.clone().into_bytes(),
                1 => self.manifest.clone().into_bytes(),
                2 => list(format!("{config}.json"), false).into_bytes(),
                3 => list(format!("blobs/sha256/{config}"), true).into_bytes(),
                4..=6 => pick(content % 8 - 4).to_vec(),
                _ => own.to_vec(),
            };
            let path = match path % 16 {
                0 => "manifest.json".to_owned(),
                1 => "index.json".to_owned(),
                2 => "repositories".to_owned(),
                3 => format!("{config}.json"),
                4..=6 => format!("{}/layer.tar", folder(path % 16 - 4)),
                7..=9 => folder(path % 16 - 7),
                10 => format!("blobs/sha256/{}", hash(&text)),
                11 => format!("blobs/sha256/{config}"),
                12 => "blobs/sha256".to_owned(),
                13 => format!("{}/json", folder(0)),
                14 => "../manifest.json".to_owned(),
                _ => String::from_utf8_lossy(own).chars().take(30).collect(),
            };
            let mut header = Header::new_gnu();
            let fields = header.as_gnu_mut().expect("it is one of GNU");
            fields.name[..path.len()].copy_from_slice(path.as_bytes());
            let link = format!("../{}/layer.tar", folder(*content));
            fields.linkname[..link.len()].copy_from_slice(link.as_bytes());
            let is_file = *kind < 128;
            let kind = match kind % 8 {
                _ if is_file => EntryType::Regular,
                0..=2 => EntryType::Symlink,
                3..=5 => EntryType::Directory,
                6 => EntryType::XHeader,
                _ => EntryType::new(*content),
            };
            let text = if is_file || kind == EntryType::XHeader {
                text
            } else {
                Vec::new()
            };
            header.set_entry_type(kind);
            header.set_size(text.len() as u64);
            header.set_cksum();
            archive.extend_from_slice(header.as_bytes());
            archive.extend_from_slice(&text);
            archive.resize(archive.len().next_multiple_of(512), 0);
            script = rest
                .split_at_checked(usize::from(*length))
                .map_or(&[], |(_, rest)| rest);
        }
        archive.resize(archive.len() + 1024, 0);
        archive
    }
}
