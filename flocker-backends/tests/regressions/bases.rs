//! A common base is one by its identity: not by its name, and not by when it was taken.

use std::time::Duration;
use std::time::UNIX_EPOCH;

use flocker_backends::Acquisition;
use flocker_backends::VolumeBackend as _;
use flocker_backends::VolumeError;
use flocker_model::Epoch;
use flocker_model::SnapshotName;

use crate::node::ID;
use crate::node::Node;
use crate::node::dataset;
use crate::node::name;
use crate::node::picture;

/// Makes every file that is kept of the snapshots one of the same second.
fn taken_in_one_second(node: &Node) {
    let second = UNIX_EPOCH + Duration::from_secs(1_400_000_000);
    let snapshots = node.data().with_file_name("snapshots");
    for entry in std::fs::read_dir(snapshots).unwrap() {
        let file = std::fs::File::options()
            .write(true)
            .open(entry.unwrap().path())
            .unwrap();
        file.set_modified(second).unwrap();
    }
}

#[tokio::test]
async fn l10_snapshots_of_one_second_are_never_confused() {
    let (alpha, beta) = (Node::primary().await, Node::new());
    // Their names are not in their order either.
    let names = ["warm-2-7", "warm-2-1", "warm-2-9", "warm-2-4"];
    let mut guids = Vec::new();
    for (number, snapshot) in names.iter().enumerate() {
        alpha.write("file", format!("content {number}"));
        guids.push(alpha.snapshot(snapshot).await);
        taken_in_one_second(&alpha);
    }
    let listed: Vec<SnapshotName> = alpha
        .manifestation()
        .await
        .snapshots
        .into_iter()
        .map(|snapshot| snapshot.name)
        .collect();
    assert_eq!(listed, names.map(name));
    let mut distinct = guids.clone();
    distinct.sort_unstable();
    distinct.dedup();
    assert_eq!(distinct.len(), names.len());

    // The last one is what is there now; the newest that both have is what it is sent from.
    alpha.volumes.destroy(ID).await.unwrap();
    alpha.volumes.create(&dataset(), Epoch(2)).await.unwrap();
    let mut base = None;
    for (number, snapshot) in names.iter().enumerate() {
        alpha.write("file", format!("content {number}"));
        let guid = alpha.snapshot(snapshot).await;
        taken_in_one_second(&alpha);
        alpha.push(&beta, snapshot, base).await;
        taken_in_one_second(&beta);
        assert_eq!(picture(&beta.copy()), picture(&alpha.data()));
        if let Some(older) = base {
            // What both have had before is no base any more.
            alpha.write("file", b"later");
            let later = format!("warm-3-{number}");
            alpha.snapshot(&later).await;
            let bytes = alpha.send(&later, Some(older), None).await.unwrap();
            let refused = beta.receive(&later, Some(older), bytes).await;
            assert!(
                matches!(refused, Err(VolumeError::Diverged { .. })),
                "{refused:?}"
            );
        }
        base = Some(guid);
    }
}

#[tokio::test]
async fn l10_one_name_on_both_sides_makes_no_common_base() {
    let (alpha, beta) = (Node::primary().await, Node::new());
    alpha.write("file", b"first life");
    let known = alpha.snapshot("warm-2-1").await;
    alpha.push(&beta, "warm-2-1", None).await;
    let copy = picture(&beta.copy());
    // It begins again, and comes to have a snapshot of that name, as long and as old.
    alpha.volumes.destroy(ID).await.unwrap();
    alpha.volumes.create(&dataset(), Epoch(2)).await.unwrap();
    alpha.write("file", b"other life");
    let namesake = alpha.snapshot("warm-2-1").await;
    assert_ne!(namesake, known);
    let last = alpha.release(3).await.unwrap();

    let absent = alpha.send("handoff-3", Some(known), None).await;
    assert!(
        matches!(absent, Err(VolumeError::NoSnapshot { .. })),
        "{absent:?}"
    );
    for (snapshot, base) in [
        ("handoff-3", Some(namesake)),
        ("handoff-3", None),
        ("warm-2-1", None),
    ] {
        let bytes = alpha.send(snapshot, base, None).await.unwrap();
        let refused = beta.receive(snapshot, base, bytes).await;
        assert!(
            matches!(refused, Err(VolumeError::Diverged { .. })),
            "{snapshot}: {refused:?}"
        );
    }
    for (from, guid) in [("warm-2-1", namesake), ("handoff-3", last), ("handoff-3", known)] {
        let acquisition = Acquisition {
            dataset: ID,
            epoch: Epoch(3),
            from: name(from),
            guid: Some(guid),
        };
        let refused = beta.volumes.acquire(&acquisition).await;
        assert!(
            matches!(refused, Err(VolumeError::Diverged { .. })),
            "{from}: {refused:?}"
        );
    }
    assert_eq!(picture(&beta.copy()), copy);
    assert_eq!(beta.guid("warm-2-1").await, Some(known));
}
