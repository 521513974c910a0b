//! What is thrown away for ever is only what somebody else has.

use std::path::Path;
use std::path::PathBuf;

use flocker_backends::Change;
use flocker_backends::Reclaim;
use flocker_backends::VolumeBackend as _;
use flocker_backends::VolumeError;

use crate::node::ID;
use crate::node::Node;

/// What somebody does to a copy, and what is said of it.
type Harm = (fn(&Path), &'static str);

const HARMS: [Harm; 5] = [
    (
        |home| write(&home.join("copy/notes.txt")),
        "`copy/notes.txt` was added",
    ),
    (
        |home| write(&home.join("copy/dir/file")),
        "`copy/dir/file` was changed",
    ),
    (
        |home| append(&home.join("copy/dir/file")),
        "`copy/dir/file` was changed",
    ),
    (
        |home| std::os::unix::fs::symlink("elsewhere", home.join("copy/link")).unwrap(),
        "`copy/link` was added",
    ),
    (
        // Where an owner would have it.
        |home| {
            std::fs::create_dir(home.join("data")).unwrap();
            write(&home.join("data/stray"));
        },
        "`data/stray` was added",
    ),
];

fn write(path: &Path) {
    std::fs::write(path, b"precious").unwrap();
}

fn append(path: &Path) {
    use std::io::Write as _;
    let mut file = std::fs::File::options().append(true).open(path).unwrap();
    file.write_all(b"!").unwrap();
}

/// An owner that let go, and the replica of it that took over: the released copy is of no use any more.
async fn moved() -> (Node, Node) {
    let (alpha, beta) = (Node::primary().await, Node::new());
    alpha.write("dir/file", b"ordinary");
    alpha.write("other", b"more");
    alpha.hand_over(&beta, 2, None).await;
    (alpha, beta)
}

async fn entry(node: &Node) -> String {
    node.volumes.inventory().await.unwrap().trash[0].entry.clone()
}

fn home(node: &Node) -> PathBuf {
    node.data().parent().unwrap().to_owned()
}

async fn empty(node: &Node) -> Result<Change, VolumeError> {
    let entry = entry(node).await;
    node.volumes.reclaim(&Reclaim::Trash { entry }).await
}

#[track_caller]
fn assert_refused(refused: Result<Change, VolumeError>, said: &str) {
    let refusal = refused.unwrap_err();
    let VolumeError::Diverged { reason, .. } = &refusal else {
        panic!("{refusal}");
    };
    assert!(
        reason.contains("changed by hand") && reason.contains(said),
        "{reason}"
    );
    assert!(reason.contains("try again"), "{reason}");
}

#[tokio::test]
async fn a_copy_that_holds_more_than_its_snapshot_is_never_gone_for_ever() {
    for (harm, said) in HARMS {
        let (alpha, _beta) = moved().await;
        harm(&home(&alpha));
        // The way to the trash is a way back, so it is open.
        assert_eq!(alpha.volumes.destroy(ID).await.unwrap(), Change::Made);
        assert_refused(empty(&alpha).await, said);
        alpha.volumes.restore(&entry(&alpha).await).await.unwrap();
        // What somebody has done away with by hand is no loss.
        let (place, _) = said.trim_start_matches('`').split_once('`').unwrap();
        alpha.volumes.destroy(ID).await.unwrap();
        let thrown_away = alpha.root.path().join("trash").join(entry(&alpha).await);
        std::fs::remove_file(thrown_away.join(place)).unwrap();
        assert_eq!(empty(&alpha).await.unwrap(), Change::Made);
    }
}

#[tokio::test]
async fn what_is_changed_in_the_trash_is_seen_as_well() {
    let (alpha, _beta) = moved().await;
    alpha.volumes.destroy(ID).await.unwrap();
    let thrown_away = alpha.root.path().join("trash").join(entry(&alpha).await);
    write(&thrown_away.join("copy/late"));
    assert_refused(empty(&alpha).await, "`copy/late` was added");
}

#[tokio::test]
async fn copies_that_are_what_their_snapshots_say_are_gone_for_ever() {
    use std::os::unix::fs::PermissionsExt as _;
    let (alpha, beta) = moved().await;
    // Neither what is missing nor who may read it is anybody's data.
    std::fs::remove_file(home(&alpha).join("copy/other")).unwrap();
    let file = home(&alpha).join("copy/dir/file");
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
    std::fs::File::open(&file)
        .unwrap()
        .set_modified(std::time::UNIX_EPOCH)
        .unwrap();
    alpha.volumes.destroy(ID).await.unwrap();
    assert_eq!(empty(&alpha).await.unwrap(), Change::Made);
    let gamma = Node::new();
    beta.write("other", b"newer");
    let base = beta.snapshot("warm-3-1").await;
    beta.push(&gamma, "warm-3-1", None).await;
    beta.write("dir/file", b"newest");
    beta.snapshot("warm-3-2").await;
    beta.push(&gamma, "warm-3-2", Some(base)).await;
    gamma.volumes.destroy(ID).await.unwrap();
    assert_eq!(empty(&gamma).await.unwrap(), Change::Made);
}

#[tokio::test]
async fn data_that_its_owner_threw_away_needs_no_snapshot() {
    let alpha = Node::primary().await;
    alpha.write("file", b"content");
    alpha.volumes.destroy(ID).await.unwrap();
    assert_eq!(empty(&alpha).await.unwrap(), Change::Made);
    assert!(alpha.volumes.inventory().await.unwrap().trash.is_empty());
}
