//! Whose a volume is stands in its own record: neither its name nor its path says so.

use std::collections::BTreeMap;
use std::path::Path;

use flocker_backends::Change;
use flocker_backends::VolumeBackend as _;
use flocker_backends::VolumeError;
use flocker_backends::volume::directory::DirectoryOptions;
use flocker_backends::volume::directory::DirectoryVolumes;
use flocker_model::Dataset;
use flocker_model::DatasetId;
use flocker_model::Epoch;
use flocker_model::Role;
use flocker_model::SnapshotGuid;
use tokio::io::AsyncWriteExt as _;

use crate::node::ID;
use crate::node::Node;
use crate::node::dataset;
use crate::node::noise;
use crate::node::picture;

const BLOCK: usize = 128 * 1024;

/// What is on the disk at this moment, as a machine finds it whose power was cut now.
fn after_a_power_cut(node: &Node) -> Node {
    let root = tempfile::tempdir().unwrap();
    duplicate(node.root.path(), root.path());
    let volumes = DirectoryVolumes::open(root.path(), &DirectoryOptions::cautious()).unwrap();
    Node { root, volumes }
}

fn duplicate(from: &Path, to: &Path) {
    std::fs::set_permissions(to, from.metadata().unwrap().permissions()).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            std::fs::create_dir(&to).unwrap();
            duplicate(&entry.path(), &to);
        } else {
            std::fs::copy(entry.path(), &to).unwrap();
        }
    }
}

/// Cuts the power in the middle of a stream, and gives the node as it is afterwards.
async fn cut_the_power_during(to: &Node, snapshot: &str, base: Option<SnapshotGuid>, bytes: &[u8]) -> Node {
    // So small that what is written was read, but for this little.
    let (mut wire, end) = tokio::io::duplex(512);
    let meanwhile = async {
        wire.write_all(bytes).await.unwrap();
        let cut = after_a_power_cut(to);
        drop(wire);
        cut
    };
    let (received, cut) = tokio::join!(to.take(snapshot, base, Box::pin(end)), meanwhile);
    assert!(matches!(received, Err(VolumeError::Cut { .. })), "{received:?}");
    cut
}

#[tokio::test(flavor = "multi_thread")]
async fn l08_a_crash_in_the_middle_of_a_receive_makes_nobody_an_owner() {
    let (alpha, beta) = (Node::primary().await, Node::new());
    alpha.write("table", noise(1, 6 * BLOCK));
    let guid = alpha.release(2).await.unwrap();
    let bytes = alpha.send("handoff-2", None, None).await.unwrap();
    for place in [BLOCK, 3 * BLOCK + 100, bytes.len() - 30, bytes.len() - 1] {
        let cut = cut_the_power_during(&beta, "handoff-2", None, &bytes[..place]).await;
        let found = cut.manifestation().await;
        assert_eq!(found.role, Role::Replica, "at {place}");
        assert_eq!(found.snapshots, [], "at {place}");
        assert!(!cut.data().exists(), "at {place}");
        let early = cut.acquire(2, guid).await;
        assert!(
            matches!(early, Err(VolumeError::NoSnapshot { .. })),
            "at {place}: {early:?}"
        );
        let created = cut.volumes.create(&dataset(), Epoch(2)).await;
        assert!(
            matches!(created, Err(VolumeError::AlreadyHere { .. })),
            "at {place}: {created:?}"
        );

        let rest = alpha
            .send("handoff-2", None, found.partial.map(|partial| partial.token))
            .await
            .unwrap();
        assert_eq!(cut.receive("handoff-2", None, rest).await.unwrap(), Change::Made);
        assert_eq!(cut.acquire(2, guid).await.unwrap(), Change::Made);
        assert_eq!(picture(&cut.data()), picture(&alpha.copy()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn l08_a_crash_in_the_middle_of_a_receive_leaves_a_released_copy_what_it_was() {
    let (alpha, beta) = (Node::primary().await, Node::new());
    alpha.write("table", noise(1, 3 * BLOCK));
    alpha.hand_over(&beta, 2, None).await;
    let released = alpha.manifestation().await;
    beta.write("table", noise(2, 6 * BLOCK));
    let base = beta.guid("handoff-2").await;
    beta.snapshot("warm-3-1").await;
    let bytes = beta.send("warm-3-1", base, None).await.unwrap();
    for place in [BLOCK, 4 * BLOCK, bytes.len() - 1] {
        let cut = cut_the_power_during(&alpha, "warm-3-1", base, &bytes[..place]).await;
        let found = cut.manifestation().await;
        assert_eq!(found.role, released.role, "at {place}");
        assert_eq!(found.fence, Epoch(2), "at {place}");
        assert_eq!(found.snapshots, released.snapshots, "at {place}");
        assert_eq!(
            std::fs::read(cut.copy().join("table")).unwrap(),
            noise(1, 3 * BLOCK),
            "at {place}"
        );
        assert!(!cut.data().exists(), "at {place}");
    }
}

#[tokio::test]
async fn l08_a_path_makes_no_owner() {
    let alpha = Node::primary().await;
    alpha.write("file", b"content");
    alpha.release(2).await.unwrap();
    let released = alpha.manifestation().await.role;
    // As a crash between two renames left it, or somebody's hand.
    std::fs::rename(alpha.copy(), alpha.data()).unwrap();
    assert_eq!(alpha.manifestation().await.role, released);
    assert!(
        !alpha.data().exists(),
        "what is not the primary's is not where applications look"
    );
    assert_eq!(std::fs::read(alpha.copy().join("file")).unwrap(), b"content");
}

#[tokio::test]
async fn l08_a_renamed_dataset_is_not_taken_for_the_one_of_its_new_name() {
    let alpha = Node::primary().await;
    alpha.write("file", b"content");
    let other = Dataset {
        id: DatasetId(uuid::Uuid::from_u128(0xbad)),
        ..dataset()
    };
    let datasets = alpha.root.path().join("datasets");
    let (right, wrong) = (datasets.join(ID.to_string()), datasets.join(other.id.to_string()));
    std::fs::rename(&right, &wrong).unwrap();
    let before = picture(&wrong);
    // Neither the one nor the other is taken for absent.
    let seen = alpha.volumes.inventory().await.unwrap();
    assert_eq!(seen.datasets, BTreeMap::new());
    assert_eq!(seen.unreadable.keys().collect::<Vec<_>>(), [&other.id, &ID]);
    let said = &seen.unreadable[&ID];
    assert!(said.contains(&other.id.to_string()), "{said}");
    let said = &seen.unreadable[&other.id];
    assert!(said.contains(&ID.to_string()), "{said}");
    let created = alpha.volumes.create(&other, Epoch::FIRST).await.unwrap_err();
    assert_names_the_true_one(&created);
    let renounced = alpha.volumes.renounce(other.id, Epoch(7)).await.unwrap_err();
    assert_names_the_true_one(&renounced);
    assert_eq!(picture(&wrong), before);

    std::fs::rename(&wrong, &right).unwrap();
    assert_eq!(
        alpha.manifestation().await.role,
        Role::Primary { epoch: Epoch::FIRST }
    );
    assert_eq!(std::fs::read(alpha.data().join("file")).unwrap(), b"content");
}

fn assert_names_the_true_one(error: &VolumeError) {
    let VolumeError::Io { source, .. } = error else {
        panic!("{error:?}")
    };
    assert!(source.to_string().contains(&ID.to_string()), "{source}");
}

#[tokio::test]
async fn l08_a_foreign_directory_beside_the_datasets_is_not_taken_for_one() {
    let alpha = Node::primary().await;
    let stranger = DatasetId(uuid::Uuid::from_u128(0xbad));
    // The first is how the original spelled the owner in a path, and read it back from there.
    for name in [
        "alpha.mongodb",
        "mongodb",
        &stranger.to_string().to_uppercase(),
        &stranger.to_string(),
    ] {
        let foreign = alpha.root.path().join("datasets").join(name);
        std::fs::create_dir_all(foreign.join("data")).unwrap();
        std::fs::write(foreign.join("data/file"), b"not ours").unwrap();
        let before = picture(&foreign);
        let seen = alpha.volumes.inventory().await.unwrap();
        assert_eq!(seen.datasets.keys().collect::<Vec<_>>(), [&ID], "{name}");
        // What has the very name of a dataset may be one that was damaged, and is never passed over.
        let is_named_so = name == stranger.to_string();
        let unreadable: Vec<_> = seen.unreadable.keys().collect();
        assert_eq!(unreadable, [&stranger][..usize::from(is_named_so)], "{name}");
        assert_eq!(picture(&foreign), before, "{name}");
        std::fs::remove_dir_all(&foreign).unwrap();
    }
    // Further up, nobody looks for datasets.
    std::fs::create_dir(alpha.root.path().join("mongodb")).unwrap();
    let inventory = alpha.volumes.inventory().await.unwrap();
    assert_eq!(inventory.datasets.keys().collect::<Vec<_>>(), [&ID]);
}
