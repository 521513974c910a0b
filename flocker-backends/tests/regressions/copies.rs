//! What is not the primary's cannot be written, and where it was all the same, that is found first.

use std::os::unix::fs::MetadataExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use flocker_backends::VolumeBackend as _;
use flocker_backends::VolumeError;
use flocker_backends::volume::directory::DirectoryOptions;
use flocker_backends::volume::directory::DirectoryVolumes;

use crate::node::ID;
use crate::node::Node;
use crate::node::picture;

/// Tries all ways to write below the place of the data, and demands that none leads anywhere.
fn assert_unwritable(data: &Path) {
    let not_found = |result: std::io::Result<()>, what: &str| {
        let kind = result.unwrap_err().kind();
        assert_eq!(kind, std::io::ErrorKind::NotFound, "{what}");
    };
    not_found(std::fs::write(data.join("file"), b"stray"), "write");
    not_found(std::fs::write(data.join("new"), b"stray"), "create");
    not_found(std::fs::create_dir(data.join("new")), "make a directory");
    not_found(std::fs::remove_file(data.join("file")), "remove");
    not_found(std::fs::rename(data.join("file"), data.join("other")), "rename");
    assert!(!data.exists());
}

#[tokio::test]
async fn l11_a_copy_is_not_written_through_its_mount_path() {
    let (alpha, beta) = (Node::primary().await, Node::new());
    alpha.write("file", b"one");
    let base = alpha.snapshot("warm-2-1").await;
    alpha.push(&beta, "warm-2-1", None).await;
    assert_unwritable(&beta.data());
    alpha.write("file", b"two");
    let last = alpha.release(2).await.unwrap();
    assert_unwritable(&alpha.data());
    // The original's next receive broke here.
    alpha.push(&beta, "handoff-2", Some(base)).await;
    assert_unwritable(&beta.data());
    beta.acquire(2, last).await.unwrap();
    assert_unwritable(&alpha.data());
    assert_eq!(std::fs::read(beta.data().join("file")).unwrap(), b"two");
}

/// Does something to a copy.
type Hand = fn(&Path);

/// Ways to change a copy by hand; the first keeps length and times.
const CHANGES: [(&str, Hand); 4] = [
    ("content", |copy| {
        let path = copy.join("file");
        let modified = path.metadata().unwrap().modified().unwrap();
        std::fs::write(&path, b"WRITTEN").unwrap();
        let file = std::fs::File::options().write(true).open(&path).unwrap();
        file.set_modified(modified).unwrap();
    }),
    ("a new file", |copy| {
        std::fs::write(copy.join("new"), b"new").unwrap();
    }),
    ("a removed file", |copy| {
        std::fs::remove_file(copy.join("file")).unwrap();
    }),
    ("a link", |copy| {
        std::os::unix::fs::symlink("file", copy.join("link")).unwrap();
    }),
];

#[tokio::test]
async fn l11_a_received_copy_that_was_changed_by_hand_is_found_before_it_counts() {
    for (what, change) in CHANGES {
        let (alpha, beta) = (Node::primary().await, Node::new());
        alpha.write("file", b"written");
        let base = alpha.snapshot("warm-2-1").await;
        alpha.push(&beta, "warm-2-1", None).await;
        change(&beta.copy());
        let changed = picture(&beta.copy());
        let last = alpha.release(2).await.unwrap();
        let bytes = alpha.send("handoff-2", Some(base), None).await.unwrap();
        let received = beta.receive("handoff-2", Some(base), bytes).await;
        assert!(
            matches!(received, Err(VolumeError::Diverged { .. })),
            "{what}: {received:?}"
        );
        assert_eq!(picture(&beta.copy()), changed, "{what} is not ours to remove");

        // A full copy to a third node, and by hand after the last snapshot has arrived.
        let gamma = Node::new();
        alpha.push(&gamma, "handoff-2", None).await;
        change(&gamma.copy());
        let acquired = gamma.acquire(2, last).await;
        assert!(
            matches!(acquired, Err(VolumeError::Diverged { .. })),
            "{what}: {acquired:?}"
        );
        assert!(!gamma.data().exists());
    }
}

#[tokio::test]
async fn l11_a_released_copy_that_was_changed_by_hand_is_not_sent_as_what_it_was() {
    let alpha = Node::primary().await;
    alpha.write("file", b"written");
    alpha.release(2).await.unwrap();
    alpha.send("handoff-2", None, None).await.unwrap();
    let (_, change) = CHANGES[0];
    change(&alpha.copy());
    alpha.send("handoff-2", None, None).await.unwrap_err();
}

fn mode(path: &Path) -> u32 {
    path.metadata().unwrap().mode() & 0o7777
}

#[tokio::test]
async fn l25_no_volume_is_open_to_everybody() {
    let parent = tempfile::tempdir().unwrap();
    let (alpha, beta) = (Node::primary().await, Node::new());
    for fresh in ["new", "new/and/deep"] {
        let root = parent.path().join(fresh).join("root");
        DirectoryVolumes::open(&root, &DirectoryOptions::cautious()).unwrap();
        assert_eq!(mode(&root), 0o700);
    }
    let open_to_nobody_else = |node: &Node| {
        assert_eq!(mode(node.root.path()), 0o700);
        for below in ["datasets", "trash", "staging", "locks"] {
            assert_eq!(mode(&node.root.path().join(below)), 0o700, "{below}");
        }
        let home = node.root.path().join("datasets").join(ID.to_string());
        assert_eq!(mode(&home), 0o700);
    };
    assert_eq!(mode(&alpha.data()), 0o755);
    open_to_nobody_else(&alpha);
    alpha.hand_over(&beta, 2, None).await;
    assert_eq!(mode(&beta.data()), 0o755);
    open_to_nobody_else(&beta);
    open_to_nobody_else(&alpha);
    beta.volumes.destroy(ID).await.unwrap();
    let entry = beta.volumes.inventory().await.unwrap().trash.remove(0).entry;
    assert_eq!(mode(&beta.root.path().join("trash").join(entry)), 0o700);

    // One that others may enter is not used, and not closed behind the back of whoever opened it.
    for open in [0o777, 0o755, 0o710, 0o701] {
        std::fs::set_permissions(alpha.root.path(), std::fs::Permissions::from_mode(open)).unwrap();
        let refused = DirectoryVolumes::open(alpha.root.path(), &DirectoryOptions::cautious());
        assert!(
            matches!(refused, Err(VolumeError::Io { .. })),
            "{open:o}: {refused:?}"
        );
        assert_eq!(mode(alpha.root.path()), open);
    }
}
