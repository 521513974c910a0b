//! Who still has something of a dataset open is in the way of letting go of it.

use std::path::Path;
use std::time::Duration;

use flocker_backends::VolumeError;
use flocker_backends::process::Program;
use flocker_backends::process::Stream;
use flocker_model::Epoch;
use flocker_model::Role;
use tokio::io::AsyncReadExt as _;
use tokio::io::AsyncWriteExt as _;
use tokio::process::Child;

use crate::node::Node;

/// A program that has done something with a path, and waits with it until it is told to end.
struct Waiting(Child);

impl Waiting {
    async fn shell(script: &str, path: &Path) -> Self {
        let program =
            Program::new("/bin/sh").arguments(["-c", &format!("{script}; echo; read more; {LAST}")]);
        Self::of(program.argument("sh").argument(path)).await
    }

    async fn of(program: Program) -> Self {
        let mut child = program
            .directory("/")
            .stdin(Stream::Piped)
            .stdout(Stream::Piped)
            .spawn()
            .unwrap();
        let mut ready = [0];
        child
            .stdout
            .as_mut()
            .unwrap()
            .read_exact(&mut ready)
            .await
            .unwrap();
        Self(child)
    }

    fn id(&self) -> u32 {
        self.0.id().unwrap()
    }

    async fn end(mut self) {
        self.0.stdin.take().unwrap().write_all(b"\n").await.unwrap();
        self.0.wait().await.unwrap();
    }
}

/// What the writer below does last: it has its file open as its third descriptor.
const LAST: &str = "{ echo more >&3; } 2>/dev/null; true";

async fn primary() -> Node {
    let alpha = Node::primary().await;
    alpha.write("dir/file", b"one\n");
    alpha
}

#[track_caller]
fn assert_names(refusal: &VolumeError, holder: &Waiting, said: &str) {
    let VolumeError::Io { source, .. } = refusal else {
        panic!("{refusal}");
    };
    let reason = source.to_string();
    assert_eq!(source.kind(), std::io::ErrorKind::ResourceBusy, "{reason}");
    assert!(
        reason.contains(&format!("process {} (`", holder.id())),
        "{reason}"
    );
    assert!(reason.contains(said) && reason.contains("try again"), "{reason}");
}

#[tokio::test]
async fn who_has_a_file_open_for_writing_is_in_the_way_of_a_release_and_loses_nothing() {
    let (alpha, beta) = (primary().await, Node::new());
    let writer = Waiting::shell("exec 3>>\"$1\"", &alpha.data().join("dir/file")).await;
    let refusal = alpha.release(2).await.unwrap_err();
    assert_names(&refusal, &writer, "has `data/dir/file` open for writing");
    // It stays what it was, for whoever writes.
    let seen = alpha.manifestation().await;
    assert_eq!(
        (seen.role, seen.fence),
        (Role::Primary { epoch: Epoch::FIRST }, Epoch::FIRST)
    );
    assert!(seen.snapshots.is_empty());
    writer.end().await;
    assert_eq!(
        std::fs::read(alpha.data().join("dir/file")).unwrap(),
        b"one\nmore\n"
    );
    alpha.hand_over(&beta, 2, None).await;
    assert_eq!(
        std::fs::read(beta.data().join("dir/file")).unwrap(),
        b"one\nmore\n"
    );
}

#[tokio::test]
async fn who_works_in_a_directory_is_in_the_way_of_a_release() {
    let alpha = primary().await;
    for place in ["", "dir"] {
        let worker = Waiting::shell("cd \"$1\"", &alpha.data().join(place)).await;
        let refusal = alpha.release(2).await.unwrap_err();
        assert_names(&refusal, &worker, "as its working directory");
        worker.end().await;
    }
    alpha.release(2).await.unwrap();
}

#[tokio::test]
async fn who_has_mapped_a_file_and_closed_it_is_in_the_way_of_a_release() {
    if !Path::new("/usr/bin/python3").exists() {
        eprintln!("NOT TESTED: there is no python3 to map a file");
        return;
    }
    let alpha = primary().await;
    // What it has mapped keeps a descriptor of its own, which is closed as well.
    let script = "import mmap, os, sys\nwith open(sys.argv[1], 'r+b') as file:\n    \
                  mapped = mmap.mmap(file.fileno(), 0)\nos.closerange(3, 99)\nprint('', flush=True)\nsys.stdin.readline()";
    let mapped = |path: &Path| {
        let python = Program::new("/usr/bin/python3");
        Waiting::of(python.arguments(["-c", script]).argument(path))
    };
    let writer = mapped(&alpha.data().join("dir/file")).await;
    let refusal = alpha.release(2).await.unwrap_err();
    assert_names(&refusal, &writer, "mapped for writing");
    writer.end().await;
    alpha.release(2).await.unwrap();
}

#[tokio::test]
async fn who_reads_or_writes_elsewhere_is_not_in_the_way_of_a_release() {
    let (alpha, other) = (primary().await, primary().await);
    let beside = alpha.data().with_file_name("data-of-another");
    std::fs::write(&beside, b"").unwrap();
    let gone = alpha.data().join("gone");
    let strangers = [
        Waiting::shell("exec 4<\"$1\"", &alpha.data().join("dir/file")).await,
        Waiting::shell("exec 3>>\"$1\"", &other.data().join("dir/file")).await,
        Waiting::shell("exec 3>>\"$1\"", &beside).await,
        // Nobody ever finds what is written to a file without a name.
        Waiting::shell("exec 3>>\"$1\"; /bin/rm \"$1\"", &gone).await,
    ];
    let released = tokio::time::timeout(Duration::from_secs(60), alpha.release(2)).await;
    released.unwrap().unwrap();
    for stranger in strangers {
        stranger.end().await;
    }
}
