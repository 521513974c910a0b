//! A copy that somebody has changed is not taken for the copy that it was.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use flocker_backends::VolumeError;
use rustix::fs::XattrFlags;

use crate::node::Node;

/// What somebody does to a copy, and what is said of it.
type Harm = (fn(&Path), &'static str);

#[expect(clippy::print_stderr, reason = "what was left out has to be said")]
fn harms() -> Vec<Harm> {
    let mut harms: Vec<Harm> = vec![
        (|copy| set_mode(&copy.join("file"), 0o666), "the mode of"),
        (|copy| set_mode(&copy.join("file"), 0o4644), "the mode of"),
        (|copy| set_mode(&copy.join("dir"), 0o777), "the mode of"),
        (|copy| set_mode(copy, 0o777), "the mode of"),
        (
            |copy| {
                let file = std::fs::File::open(copy.join("file")).unwrap();
                rustix::fs::fsetxattr(&file, "user.colour", b"red", XattrFlags::empty()).unwrap();
            },
            "an attribute of",
        ),
        (
            |copy| {
                let file = std::fs::File::open(copy.join("file")).unwrap();
                rustix::fs::fremovexattr(&file, "user.colour").unwrap();
            },
            "an attribute of",
        ),
        (
            |copy| {
                let dir = std::fs::File::open(copy.join("dir")).unwrap();
                rustix::fs::fsetxattr(&dir, "user.new", b"1", XattrFlags::empty()).unwrap();
            },
            "an attribute of",
        ),
    ];
    if rustix::process::geteuid().is_root() {
        harms.push((
            |copy| std::os::unix::fs::chown(copy.join("file"), Some(12), None).unwrap(),
            "the owner of",
        ));
        harms.push((
            |copy| std::os::unix::fs::chown(copy.join("dir"), None, Some(12)).unwrap(),
            "the owner of",
        ));
    } else {
        eprintln!("NOT TESTED: who is not root cannot give files away");
    }
    harms
}

fn set_mode(path: &Path, mode: u32) {
    std::fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

async fn furnished() -> Node {
    let alpha = Node::primary().await;
    alpha.write("file", b"content");
    alpha.write("dir/inside", b"content");
    set_mode(&alpha.data().join("file"), 0o644);
    let file = std::fs::File::open(alpha.data().join("file")).unwrap();
    rustix::fs::fsetxattr(&file, "user.colour", b"blue", XattrFlags::empty()).unwrap();
    alpha
}

#[track_caller]
fn assert_by_hand(refusal: &VolumeError, said: &str, number: usize) {
    let VolumeError::Diverged { reason, .. } = refusal else {
        panic!("{number}: {refusal}");
    };
    assert!(
        reason.starts_with("it was changed by hand: ") && reason.contains(said),
        "{number}: {reason}"
    );
}

#[tokio::test]
async fn a_copy_is_not_acquired_whose_modes_owners_or_attributes_were_changed() {
    for (number, (harm, said)) in harms().into_iter().enumerate() {
        let (alpha, beta) = (furnished().await, Node::new());
        let guid = alpha.release(2).await.unwrap();
        alpha.push(&beta, "handoff-2", None).await;
        harm(&beta.copy());
        let refusal = beta.acquire(2, guid).await.unwrap_err();
        assert_by_hand(&refusal, said, number);
    }
}

#[tokio::test]
async fn a_copy_is_no_base_whose_modes_owners_or_attributes_were_changed() {
    for (number, (harm, said)) in harms().into_iter().enumerate() {
        let (alpha, beta) = (furnished().await, Node::new());
        let base = alpha.snapshot("warm-2-1").await;
        alpha.push(&beta, "warm-2-1", None).await;
        harm(&beta.copy());
        alpha.write("more", b"more");
        alpha.release(2).await.unwrap();
        let bytes = alpha.send("handoff-2", Some(base), None).await.unwrap();
        let refusal = beta.receive("handoff-2", Some(base), bytes).await.unwrap_err();
        assert_by_hand(&refusal, said, number);
    }
}

#[tokio::test]
async fn what_was_changed_and_changed_back_is_what_it_was() {
    let (alpha, beta) = (furnished().await, Node::new());
    // Its set-id bit stays behind, and is no change either.
    set_mode(&alpha.data().join("dir/inside"), 0o4755);
    let guid = alpha.release(2).await.unwrap();
    alpha.push(&beta, "handoff-2", None).await;
    for path in ["file", "dir/inside"] {
        let path = beta.copy().join(path);
        let mode = path.metadata().unwrap().permissions();
        set_mode(&path, 0o600);
        std::fs::set_permissions(&path, mode).unwrap();
    }
    beta.acquire(2, guid).await.unwrap();
    let inside = beta.data().join("dir/inside").metadata().unwrap();
    assert_eq!(inside.permissions().mode() & 0o7777, 0o755);
}

#[tokio::test]
async fn whoever_looks_is_told_what_was_changed_in_a_copy() {
    let (alpha, beta) = (Node::primary().await, Node::new());
    alpha.write("file", b"content");
    alpha.write("another", b"content");
    let last = alpha.release(2).await.unwrap();
    alpha.push(&beta, "handoff-2", None).await;
    let altered = async |node: &Node| node.manifestation().await.altered().map(String::from);
    assert_eq!((altered(&alpha).await, altered(&beta).await), (None, None));
    let harms: [Harm; 4] = [
        (
            |copy| std::fs::write(copy.join("new"), b"").unwrap(),
            "`new` was added",
        ),
        (
            |copy| std::fs::write(copy.join("file"), b"CONTENT").unwrap(),
            "`file` was changed",
        ),
        (
            |copy| set_mode(&copy.join("file"), 0o600),
            "the mode of `file` was changed",
        ),
        (
            |copy| std::fs::remove_file(copy.join("another")).unwrap(),
            "`another` is missing",
        ),
    ];
    let mend = |copy: &Path| {
        drop(std::fs::remove_file(copy.join("new")));
        std::fs::write(copy.join("file"), b"content").unwrap();
        set_mode(&copy.join("file"), 0o644);
        std::fs::write(copy.join("another"), b"content").unwrap();
    };
    // What was let go of, and what only follows its owner.
    for node in [&alpha, &beta] {
        mend(&node.copy());
        for (harm, what) in harms {
            harm(&node.copy());
            let found = altered(node).await;
            assert!(
                found.as_deref().is_some_and(|found| found.contains(what)),
                "{found:?}"
            );
            mend(&node.copy());
            assert_eq!(altered(node).await, None, "after {what}");
        }
    }
    // An owner's data is there to be changed.
    beta.acquire(2, last).await.unwrap();
    beta.write("file", b"CONTENT");
    assert_eq!(altered(&beta).await, None);
}
