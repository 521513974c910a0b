//! Only what changed travels, and a block that changes under way is told as it is.

use std::os::unix::fs::FileExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;

use flocker_backends::Change;
use flocker_backends::VolumeError;
use flocker_model::ByteSize;

use crate::node::Node;
use crate::node::noise;
use crate::node::picture;

const BLOCK: usize = 128 * 1024;

/// Ends the writing, also where the test fails.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[tokio::test]
async fn only_blocks_that_changed_travel() {
    let (alpha, beta) = (Node::primary().await, Node::new());
    alpha.write("table", noise(1, 40 * BLOCK));
    let first = alpha.snapshot("warm-2-1").await;
    let full = alpha.push(&beta, "warm-2-1", None).await;
    assert!(full > 40 * BLOCK && full < 41 * BLOCK, "{full}");

    let table = std::fs::File::options()
        .write(true)
        .open(alpha.data().join("table"))
        .unwrap();
    table.write_all_at(b"x", 7 * BLOCK as u64).unwrap();
    table.write_all_at(b"y", 30 * BLOCK as u64 + 5).unwrap();
    let second = alpha.snapshot("warm-2-2").await;
    let increment = alpha.push(&beta, "warm-2-2", Some(first)).await;
    assert!(
        increment > 2 * BLOCK && increment < 2 * BLOCK + 8192,
        "{increment}"
    );
    let written = alpha.manifestation().await.snapshots[1].written;
    assert_eq!(written, ByteSize(2 * BLOCK as u64));

    let mode = std::fs::Permissions::from_mode(0o600);
    std::fs::set_permissions(alpha.data().join("table"), mode).unwrap();
    alpha.snapshot("warm-2-3").await;
    let metadata = alpha.push(&beta, "warm-2-3", Some(second)).await;
    assert!(metadata < 8192, "{metadata}");
    assert_eq!(picture(&beta.copy()), picture(&alpha.data()));
}

#[tokio::test]
async fn what_was_renamed_does_not_travel_again() {
    let (alpha, beta) = (Node::primary().await, Node::new());
    alpha.write("log", noise(1, 20 * BLOCK + 17));
    alpha.write("table", noise(2, 10 * BLOCK));
    let first = alpha.snapshot("warm-2-1").await;
    alpha.push(&beta, "warm-2-1", None).await;

    // As a log is turned over: the old one has another name, and a new one has its name.
    std::fs::rename(alpha.data().join("log"), alpha.data().join("log.1")).unwrap();
    alpha.write("log", noise(3, 1000));
    std::fs::create_dir(alpha.data().join("old")).unwrap();
    std::fs::rename(alpha.data().join("table"), alpha.data().join("old/table")).unwrap();
    std::fs::copy(alpha.data().join("old/table"), alpha.data().join("copy")).unwrap();
    let second = alpha.snapshot("warm-2-2").await;
    let increment = alpha.push(&beta, "warm-2-2", Some(first)).await;
    assert!(increment < 8192, "{increment}");
    assert_eq!(picture(&beta.copy()), picture(&alpha.data()));
    let written = |of: flocker_model::Manifestation| of.snapshots[1].written;
    assert_eq!(written(alpha.manifestation().await), ByteSize(1000));
    assert_eq!(written(beta.manifestation().await), ByteSize(1000));

    // What was renamed and is written to travels where it was written to.
    std::fs::rename(alpha.data().join("log.1"), alpha.data().join("log.2")).unwrap();
    let table = std::fs::File::options()
        .write(true)
        .open(alpha.data().join("log.2"))
        .unwrap();
    table.write_all_at(b"x", 7 * BLOCK as u64).unwrap();
    let before = picture(&alpha.data());
    let guid = alpha.release(2).await.unwrap();
    let last = alpha.push(&beta, "handoff-2", Some(second)).await;
    assert!(last > BLOCK && last < BLOCK + 8192, "{last}");
    assert_eq!(beta.acquire(2, guid).await.unwrap(), Change::Made);
    assert_eq!(picture(&beta.data()), before);
}

#[tokio::test]
async fn a_renamed_file_that_is_written_under_way_is_told_as_it_is() {
    let (alpha, beta) = (Node::primary().await, Node::new());
    alpha.write("log", noise(1, 3 * BLOCK));
    let first = alpha.snapshot("warm-2-1").await;
    alpha.push(&beta, "warm-2-1", None).await;
    std::fs::rename(alpha.data().join("log"), alpha.data().join("log.1")).unwrap();
    alpha.snapshot("warm-2-2").await;
    alpha.write("log.1", [noise(1, BLOCK), noise(9, BLOCK)].concat());
    alpha.push(&beta, "warm-2-2", Some(first)).await;
    let sent = std::fs::read(beta.copy().join("log.1")).unwrap();
    let as_it_was = [noise(1, BLOCK), noise(9, BLOCK), vec![0; BLOCK]].concat();
    assert!(sent == as_it_was, "the length is that of the snapshot");
    let sent = beta.guid("warm-2-2").await;
    let before = picture(&alpha.data());
    alpha.hand_over(&beta, 2, sent).await;
    assert_eq!(picture(&beta.data()), before);
}

#[tokio::test]
async fn a_stream_that_speaks_of_blocks_that_are_not_here_is_refused() {
    let (alpha, beta) = (Node::primary().await, Node::new());
    alpha.write("table", noise(1, 3 * BLOCK));
    let first = alpha.snapshot("warm-2-1").await;
    alpha.push(&beta, "warm-2-1", None).await;
    alpha.write("table", noise(2, BLOCK));
    alpha.snapshot("warm-2-2").await;
    let mut increment = alpha.send("warm-2-2", Some(first), None).await.unwrap();
    let length: [u8; 8] = increment[130..138].try_into().unwrap();
    let blocks = 138 + usize::try_from(u64::from_le_bytes(length)).unwrap();
    // In place of the block: that the receiver has it.
    assert_eq!(increment[blocks], 1);
    increment.splice(blocks..=blocks + BLOCK, [5]);
    let before = picture(&beta.copy());
    let refused = beta.receive("warm-2-2", Some(first), increment).await;
    assert!(matches!(refused, Err(VolumeError::Stream { .. })), "{refused:?}");
    assert_eq!(picture(&beta.copy()), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_block_that_is_written_while_it_is_sent_is_told_as_it_is() {
    let (alpha, beta) = (Node::primary().await, Node::new());
    alpha.write("table", noise(1, 200 * BLOCK));
    let planned = alpha.snapshot("warm-2-1").await;
    let stop = AtomicBool::new(false);
    let path = alpha.data().join("table");
    // At least one block is certain to differ.
    let table = std::fs::File::options().write(true).open(&path).unwrap();
    table.write_all_at(b"torn", 100 * BLOCK as u64).unwrap();
    let sent = std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut number = 0_u64;
            while !stop.load(Ordering::Relaxed) {
                number += 1;
                let place = number.wrapping_mul(7919) % (200 * BLOCK as u64 - 8);
                table.write_all_at(&number.to_le_bytes(), place).unwrap();
            }
        });
        let _stop = Stop(&stop);
        let runtime = tokio::runtime::Handle::current();
        tokio::task::block_in_place(|| {
            runtime.block_on(async {
                alpha.push(&beta, "warm-2-1", None).await;
                alpha.guid("warm-2-1").await.unwrap()
            })
        })
    });
    assert_ne!(
        sent, planned,
        "what was sent is another content under another guid"
    );

    // It cannot be acquired, and it serves as a base for what can.
    let acquisition = flocker_backends::Acquisition {
        dataset: crate::node::ID,
        epoch: flocker_model::Epoch(2),
        from: crate::node::name("warm-2-1"),
        guid: Some(sent),
    };
    let refused = flocker_backends::VolumeBackend::acquire(&beta.volumes, &acquisition).await;
    assert!(
        matches!(refused, Err(VolumeError::Diverged { .. })),
        "{refused:?}"
    );
    let before = picture(&alpha.data());
    alpha.hand_over(&beta, 2, Some(sent)).await;
    assert_eq!(picture(&beta.data()), before);
}

#[tokio::test]
async fn files_that_vanish_while_they_are_sent_do_no_harm() {
    let (alpha, beta) = (Node::primary().await, Node::new());
    alpha.write("gone", noise(1, 300_000));
    alpha.write("shrunk", noise(2, 300_000));
    alpha.write("stays", noise(3, 300_000));
    alpha.write("dir/file", noise(4, 1000));
    alpha.snapshot("warm-2-1").await;
    std::fs::remove_file(alpha.data().join("gone")).unwrap();
    std::fs::remove_dir_all(alpha.data().join("dir")).unwrap();
    alpha.write("dir", b"a file now");
    alpha.write("shrunk", noise(2, 150_000));
    alpha.push(&beta, "warm-2-1", None).await;
    let sent = beta.guid("warm-2-1").await;
    assert_eq!(
        std::fs::read(beta.copy().join("stays")).unwrap(),
        noise(3, 300_000)
    );
    let before = picture(&alpha.data());
    alpha.hand_over(&beta, 2, sent).await;
    assert_eq!(picture(&beta.data()), before);
}

#[tokio::test]
async fn an_exact_snapshot_that_was_written_to_is_not_sent() {
    let (alpha, beta) = (Node::primary().await, Node::new());
    alpha.write("table", noise(1, 3 * BLOCK));
    alpha.release(2).await.unwrap();
    let table = std::fs::File::options()
        .write(true)
        .open(alpha.copy().join("table"))
        .unwrap();
    table.write_all_at(b"a program that did not stop", 9).unwrap();
    let failed = alpha.send("handoff-2", None, None).await.unwrap_err();
    assert!(
        format!("{failed:?}").contains("written after the release"),
        "{failed:?}"
    );

    let stream = alpha.open("handoff-2", None, None).await.unwrap();
    let cut = beta.take("handoff-2", None, stream).await;
    assert!(matches!(cut, Err(VolumeError::Cut { .. })), "{cut:?}");
    assert!(beta.manifestation().await.snapshots.is_empty());
}

#[tokio::test]
async fn a_stream_from_another_base_is_refused() {
    let (alpha, beta) = (Node::primary().await, Node::new());
    alpha.write("table", noise(1, 2 * BLOCK));
    let first = alpha.snapshot("warm-2-1").await;
    alpha.push(&beta, "warm-2-1", None).await;
    alpha.write("table", noise(2, 2 * BLOCK));
    let second = alpha.snapshot("warm-2-2").await;
    alpha.write("table", noise(3, 2 * BLOCK));
    alpha.snapshot("warm-2-3").await;
    let picture_before = picture(&beta.copy());

    let bytes = alpha.send("warm-2-3", Some(second), None).await.unwrap();
    let refused = beta.receive("warm-2-3", Some(second), bytes.clone()).await;
    assert!(
        matches!(refused, Err(VolumeError::Diverged { .. })),
        "{refused:?}"
    );
    let refused = beta.receive("warm-2-3", Some(first), bytes).await;
    assert!(matches!(refused, Err(VolumeError::Stream { .. })), "{refused:?}");
    let full = alpha.send("warm-2-3", None, None).await.unwrap();
    let refused = beta.receive("warm-2-3", None, full).await;
    assert!(
        matches!(refused, Err(VolumeError::Diverged { .. })),
        "{refused:?}"
    );
    assert_eq!(picture(&beta.copy()), picture_before);
}

#[tokio::test]
async fn a_copy_that_was_changed_by_hand_is_refused() {
    let (alpha, beta) = (Node::primary().await, Node::new());
    alpha.write("table", noise(1, 2 * BLOCK));
    let guid = alpha.release(2).await.unwrap();
    alpha.push(&beta, "handoff-2", None).await;
    std::fs::write(beta.copy().join("table"), noise(9, 2 * BLOCK)).unwrap();
    let refused = beta.acquire(2, guid).await;
    assert!(
        matches!(refused, Err(VolumeError::Diverged { .. })),
        "{refused:?}"
    );
    // The same content again is the same copy, whatever its times are.
    std::fs::write(beta.copy().join("table"), noise(1, 2 * BLOCK)).unwrap();
    assert_eq!(beta.acquire(2, guid).await.unwrap(), Change::Made);
}
