//! Reads arbitrary bytes as everything that a node finds on its disk or is sent by a peer's volumes.
//!
//! Records, labels, manifests, snapshots, notes, headers, tokens and standings
//! of the directory and the ZFS backend, and a node's own record: nothing may
//! panic, take memory beyond its input, or be written otherwise than it was
//! read. Then one file of a real volume is replaced by the bytes: an inventory
//! may fail, but a dataset that is there is never said not to be.

#![no_main]

use std::fs;
use std::path::Path;
use std::sync::LazyLock;

use flocker_backends::VolumeBackend as _;
use flocker_backends::volume::directory;
use flocker_backends::volume::directory::DirectoryOptions;
use flocker_backends::volume::directory::DirectoryVolumes;
use flocker_backends::volume::zfs;
use flocker_engine::FileRecord;
use flocker_engine::RecordStore as _;
use flocker_model::Dataset;
use flocker_model::DatasetId;
use flocker_model::Epoch;
use libfuzzer_sys::fuzz_target;
use tempfile::TempDir;
use tokio::runtime::Runtime;

static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| {
    tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .expect("a runtime can be made")
});

fn in_memory() -> TempDir {
    tempfile::tempdir_in("/dev/shm")
        .or_else(|_| tempfile::tempdir())
        .expect("a directory can be made")
}

fn open(root: &Path) -> DirectoryVolumes {
    DirectoryVolumes::open(root, &DirectoryOptions::cautious()).expect("volumes can be opened")
}

fn dataset() -> Dataset {
    Dataset {
        id: DatasetId::derived(&"web".parse().expect("it is a name")),
        owner: "web".parse().expect("it is a name"),
        maximum_size: None,
    }
}

fuzz_target!(|data: &[u8]| {
    let name = "warm-2-1".parse().expect("it is a name");
    directory::fuzzing::read_all(data, dataset().id, &name);
    zfs::fuzzing::read_all(data);
    zfs::fuzzing::read_sealed(data);
    if let Ok(text) = std::str::from_utf8(data) {
        let _n_blocks = directory::fuzzing::read_token(text);
    }
    let Some((which, rest)) = data.split_first() else {
        return;
    };
    match which % 4 {
        0 => as_node_record(rest),
        1 => as_file(usize::from(which / 4), rest),
        _ => {}
    }
});

fn as_node_record(bytes: &[u8]) {
    static PLACE: LazyLock<TempDir> = LazyLock::new(in_memory);
    let file = PLACE.path().join("node.json");
    fs::write(&file, bytes).expect("it can be written");
    let store = FileRecord::new(PLACE.path());
    let Ok(read) = store.load() else {
        return;
    };
    // A damaged record is never a new identity.
    let read = read.expect("a record that is there is not absent");
    store.save(&read).expect("it can be saved");
    assert_eq!(store.load().expect("what is saved can be read"), Some(read));
}

/// Makes a volume with one dataset and one snapshot, and puts the bytes in the place of one of its files.
fn as_file(which: usize, bytes: &[u8]) {
    const FILES: [&str; 8] = [
        "record.json",
        "snapshots/warm-2-1.manifest",
        "snapshots/warm-3-1.manifest",
        "incoming/label",
        "incoming/progress",
        "incoming/torn",
        "incoming/commit",
        "../../fences/",
    ];
    let root = in_memory();
    let id = dataset().id;
    RUNTIME.block_on(async {
        let volumes = open(root.path());
        volumes
            .create(&dataset(), Epoch(1))
            .await
            .expect("it can be created");
        fs::write(volumes.path(id).join("file"), "some data").expect("it can be written");
        let name = "warm-2-1".parse().expect("it is a name");
        volumes
            .snapshot(id, &name)
            .await
            .expect("a snapshot can be taken");

        let home = root.path().join("datasets").join(id.to_string());
        let mut file = home.join(FILES[which % FILES.len()]);
        if file.is_dir() {
            file.push(id.to_string());
        }
        fs::create_dir_all(file.parent().expect("it is in a directory")).expect("it can be made");
        fs::write(file, bytes).expect("it can be written");
        for _ in 0..2 {
            if let Ok(inventory) = open(root.path()).inventory().await {
                let is_there = inventory.datasets.contains_key(&id) || inventory.unreadable.contains_key(&id);
                assert!(is_there, "a dataset that is there is said not to be");
            }
        }
    });
}
