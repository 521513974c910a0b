//! Who moves off a full disk: letting go is written down there all the same.

use std::io::Write as _;
use std::path::Path;
use std::time::Duration;

use flocker_backends::conformance::run;
use flocker_backends::process::Program;

use crate::node::Node;

/// A small disk of the test's own, made in its namespace and nowhere else.
const DISK: &str = "/run/flocker-disk";

const ENTER: &str = "mount -t tmpfs none /run && mkdir /run/flocker-disk && mount -t tmpfs -o size=32m none /run/flocker-disk && exec \"$@\"";

/// Runs a test with a small disk: starts this program again in a namespace that has one, for this test alone.
fn with_a_small_disk(body: impl FnOnce(&Path)) {
    let disk = Path::new(DISK);
    if disk.exists() {
        return body(disk);
    }
    let thread = std::thread::current();
    let test = thread.name().expect("a test's thread has its name");
    let program = Program::new("unshare")
        .arguments(["--map-root-user", "--mount", "sh", "-c", ENTER, "sh"])
        .argument(std::env::current_exe().unwrap())
        .arguments(["--exact", test, "--nocapture"]);
    run(async {
        let ended = program
            .run(&[], 16 << 20, Duration::from_secs(120))
            .await
            .unwrap();
        let said = [ended.stdout, ended.stderr].concat();
        let said = String::from_utf8_lossy(&said);
        assert!(
            ended.status.success(),
            "with a small disk (which takes the right to make user namespaces, and `mount`):\n{said}"
        );
        assert!(said.contains("1 passed"), "`{test}` was not run:\n{said}");
    });
}

/// Writes until nothing more fits.
fn fill(file: &Path) {
    let mut file = std::fs::File::create(file).unwrap();
    let mut block = vec![7; 64 << 10];
    while !block.is_empty() {
        if file.write_all(&block).is_err() {
            block.truncate(block.len() / 2);
        }
    }
}

#[test]
fn data_leaves_a_full_disk() {
    with_a_small_disk(|disk| {
        run(async {
            let (alpha, beta) = (Node::below(disk).create().await, Node::new());
            for number in 0..1000 {
                alpha.write(&format!("file-{number}"), number.to_string());
            }
            fill(&alpha.data().join("filling"));
            let more = std::fs::write(alpha.data().join("more"), [1; 8192]);
            assert_eq!(more.unwrap_err().kind(), std::io::ErrorKind::StorageFull);

            let warm = alpha.snapshot("warm-2-1").await;
            alpha.push(&beta, "warm-2-1", None).await;
            fill(&alpha.data().join("more"));
            let last = alpha.release(2).await.unwrap();
            alpha.push(&beta, "handoff-2", Some(warm)).await;
            beta.acquire(2, last).await.unwrap();
            let written = std::fs::read(beta.data().join("file-999")).unwrap();
            assert_eq!(written, b"999");

            // What was given up is kept again once there is room.
            let kept = || -> u64 {
                let files = std::fs::read_dir(alpha.root.path().join("reserve")).unwrap();
                files.map(|file| file.unwrap().metadata().unwrap().len()).sum()
            };
            let left = kept();
            std::fs::remove_file(alpha.copy().join("filling")).unwrap();
            alpha.manifestation().await;
            assert!(kept() > left, "{left}");
        });
    });
}

#[test]
fn without_room_and_without_reserve_the_old_record_stays_whole() {
    with_a_small_disk(|disk| {
        run(async {
            let alpha = Node::below(disk).create().await;
            alpha.write("file", b"content");
            std::fs::remove_dir_all(alpha.root.path().join("reserve")).unwrap();
            std::fs::create_dir(alpha.root.path().join("reserve")).unwrap();
            fill(&alpha.data().join("filling"));
            alpha.release(2).await.unwrap_err();
            std::fs::remove_file(alpha.data().join("filling")).unwrap();
            let role = alpha.manifestation().await.role;
            assert!(matches!(role, flocker_model::Role::Primary { .. }), "{role:?}");
            assert_eq!(std::fs::read(alpha.data().join("file")).unwrap(), b"content");
            alpha.release(2).await.unwrap();
        });
    });
}
