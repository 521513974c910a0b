//! Nothing outside of a dataset is read or written, whatever somebody puts into it meanwhile.

use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;

use crate::node::ID;
use crate::node::Node;
use crate::node::name;
use crate::node::noise;
use crate::node::picture;

const CANARY: &[u8] = b"THE-CANARY-THAT-NOBODY-MAY-SEE";

fn contains(bytes: &[u8], needle: &[u8]) -> bool {
    bytes.windows(needle.len()).any(|window| window == needle)
}

/// Ends the swapping, also where the test fails.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Swaps directories and files for links that lead outside, and back, until told to stop.
fn swap(data: &Path, outside: &Path, stop: &AtomicBool) {
    let (dir, dir_away) = (data.join("dir"), data.join("dir-away"));
    let (file, file_away) = (data.join("file"), data.join("file-away"));
    while !stop.load(Ordering::Relaxed) {
        std::fs::rename(&dir, &dir_away).unwrap();
        symlink(outside, &dir).unwrap();
        std::fs::rename(&file, &file_away).unwrap();
        symlink(outside.join("inner"), &file).unwrap();
        std::fs::remove_file(&dir).unwrap();
        std::fs::rename(&dir_away, &dir).unwrap();
        std::fs::remove_file(&file).unwrap();
        std::fs::rename(&file_away, &file).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn links_that_are_swapped_in_lead_nowhere() {
    use flocker_backends::VolumeBackend as _;
    let outside = tempfile::tempdir().unwrap();
    std::fs::write(outside.path().join("inner"), CANARY).unwrap();
    let canary = picture(outside.path());
    let alpha = Node::primary().await;
    alpha.write("dir/inner", noise(1, CANARY.len()));
    alpha.write("file", noise(2, CANARY.len()));
    let stop = AtomicBool::new(false);
    let swapped = alpha.data();
    std::thread::scope(|scope| {
        scope.spawn(|| swap(&swapped, outside.path(), &stop));
        let _stop = Stop(&stop);
        tokio::task::block_in_place(|| {
            tokio::runtime::Handle::current().block_on(async {
                for round in 0..150 {
                    let snapshot = format!("warm-2-{round}");
                    alpha.volumes.snapshot(ID, &name(&snapshot)).await.unwrap();
                    let bytes = alpha.send(&snapshot, None, None).await.unwrap();
                    assert!(!contains(&bytes, CANARY), "round {round}");
                }
            });
        });
    });
    assert_eq!(picture(outside.path()), canary);
}

#[tokio::test]
async fn a_copy_in_which_somebody_has_put_links_is_refused_and_they_are_not_followed() {
    let outside = tempfile::tempdir().unwrap();
    std::fs::write(outside.path().join("inner"), CANARY).unwrap();
    let canary = picture(outside.path());
    let (alpha, beta) = (Node::primary().await, Node::new());
    alpha.write("dir/inner", noise(1, 1000));
    let base = alpha.snapshot("warm-2-1").await;
    alpha.push(&beta, "warm-2-1", None).await;
    alpha.write("dir/inner", noise(2, 1000));
    alpha.snapshot("warm-2-2").await;
    let bytes = alpha.send("warm-2-2", Some(base), None).await.unwrap();
    let dir = beta.copy().join("dir");
    std::fs::remove_dir_all(&dir).unwrap();
    symlink(outside.path(), &dir).unwrap();
    beta.receive("warm-2-2", Some(base), bytes).await.unwrap_err();
    assert_eq!(picture(outside.path()), canary);
}
