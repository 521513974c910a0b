//! What only a real pool can show: other people's filesystems, mounts, and what a crash leaves.
//!
//! See `zfs_conformance` for what it needs.

#![expect(clippy::unwrap_used, reason = "a step that fails is a test that fails")]

mod zfs_looks;
mod zfs_partial;
mod zfs_support;

use std::io::Cursor;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;

use flocker_backends::Change;
use flocker_backends::Handoff;
use flocker_backends::ReceiveRequest;
use flocker_backends::Reclaim;
use flocker_backends::SendRequest;
use flocker_backends::VolumeBackend as _;
use flocker_backends::VolumeError;
use flocker_backends::conformance::VolumeHarness;
use flocker_backends::conformance::run;
use flocker_backends::volume::zfs::ZfsVolumes;
use flocker_model::Dataset;
use flocker_model::DatasetId;
use flocker_model::Epoch;
use flocker_model::Role;
use flocker_model::SnapshotGuid;
use flocker_model::SnapshotName;
use tokio::io::AsyncReadExt as _;
use zfs_support::Parent;
use zfs_support::zfs;
use zfs_support::zfs_says;

const ID: DatasetId = DatasetId(uuid::Uuid::from_u128(7));

fn dataset() -> Dataset {
    Dataset {
        id: ID,
        owner: "mongodb".parse().unwrap(),
        maximum_size: None,
    }
}

fn name(text: &str) -> SnapshotName {
    text.parse().unwrap()
}

async fn create(parent: &Parent) {
    parent.backend().create(&dataset(), Epoch::FIRST).await.unwrap();
    parent.write(ID, "file", b"one").await.unwrap();
}

/// What the pool calls the one dataset of a parent.
fn filesystem(parent: &Parent) -> String {
    format!("{}/{ID}", parent.options.parent)
}

async fn release(parent: &Parent) {
    let handoff = Handoff {
        dataset: ID,
        epoch: Epoch(2),
        to: "beta".parse().unwrap(),
        last: name("handoff-2"),
    };
    parent.backend().release(&handoff).await.unwrap();
}

async fn role(parent: &Parent) -> Role {
    parent.backend().inventory().await.unwrap().datasets[&ID]
        .role
        .clone()
}

#[test]
fn a_parent_that_is_not_marked_is_left_alone() {
    run(async {
        let parent = Parent::new().await;
        let mut options = parent.options.clone();
        let foreign = format!("{}/foreign", parent.options.parent);
        zfs_says(&["create", &foreign]).await;
        options.parent = foreign.parse().unwrap();
        // It inherits the mark of the one above it, which says nothing of itself.
        ZfsVolumes::open(&options).await.unwrap_err();
        let inherited = zfs_says(&["get", "-H", "-o", "value", "flocker:root", &foreign]).await;
        assert_eq!(inherited, "1\n");
    });
}

#[test]
fn where_streams_wait_is_there_before_anything_arrives_and_is_closed_to_others() {
    run(async {
        let parent = Parent::new().await;
        let place = parent.options.mounts.join(".incoming");
        let mode = || std::fs::metadata(&place).unwrap().permissions().mode() & 0o777;
        let spool = format!("{}/incoming", parent.options.parent);
        let mounted = || async { zfs_says(&["get", "-H", "-o", "value", "mounted", &spool]).await };
        assert_eq!((mounted().await.as_str(), mode()), ("yes\n", 0o700));
        // As a crash leaves it that came before it was closed.
        std::fs::set_permissions(&place, std::fs::Permissions::from_mode(0o755)).unwrap();
        zfs_says(&["unmount", &spool]).await;
        parent.backend().inventory().await.unwrap();
        assert_eq!((mounted().await.as_str(), mode()), ("yes\n", 0o700));
    });
}

#[test]
fn what_is_not_ours_is_never_touched_whatever_its_name() {
    run(async {
        let parent = Parent::new().await;
        let foreign = filesystem(&parent);
        zfs_says(&["create", &foreign]).await;
        zfs_says(&["snapshot", &format!("{foreign}@theirs")]).await;
        assert!(parent.backend().inventory().await.unwrap().datasets.is_empty());
        create(&parent).await;
        let child = format!("{foreign}.2/child");
        zfs_says(&["create", &child]).await;
        assert_eq!(parent.backend().inventory().await.unwrap().datasets.len(), 1);
        parent.backend().destroy(ID).await.unwrap();
        let trash = parent.backend().inventory().await.unwrap().trash;
        let entry = trash[0].entry.clone();
        // A filesystem of theirs is below ours: ours stays, and so does theirs.
        let refusal = parent
            .backend()
            .reclaim(&Reclaim::Trash { entry: entry.clone() })
            .await;
        refusal.unwrap_err();
        zfs_says(&["get", "-H", "-o", "value", "type", &child]).await;
        zfs_says(&["destroy", &child]).await;
        let change = parent.backend().reclaim(&Reclaim::Trash { entry }).await.unwrap();
        assert_eq!(change, Change::Made);
        zfs_says(&["get", "-H", "-o", "value", "type", &format!("{foreign}@theirs")]).await;
    });
}

#[test]
fn a_snapshot_of_theirs_is_neither_listed_nor_reclaimed() {
    run(async {
        let parent = Parent::new().await;
        create(&parent).await;
        let theirs = format!("{}@theirs", filesystem(&parent));
        parent.backend().snapshot(ID, &name("warm-2-1")).await.unwrap();
        zfs_says(&["snapshot", &theirs]).await;
        parent.backend().snapshot(ID, &name("warm-2-2")).await.unwrap();
        let seen = parent
            .backend()
            .inventory()
            .await
            .unwrap()
            .datasets
            .remove(&ID)
            .unwrap();
        let names: Vec<_> = seen.snapshots.iter().map(|taken| taken.name.as_str()).collect();
        assert_eq!(names, ["warm-2-1", "warm-2-2"]);
        let reclaim = Reclaim::Snapshots {
            dataset: ID,
            names: vec![name("warm-2-1"), name("theirs")],
        };
        assert_eq!(parent.backend().reclaim(&reclaim).await.unwrap(), Change::Made);
        zfs_says(&["get", "-H", "-o", "value", "type", &theirs]).await;
    });
}

#[test]
fn nobody_destroys_a_base_by_accident() {
    run(async {
        let parent = Parent::new().await;
        create(&parent).await;
        parent.backend().snapshot(ID, &name("warm-2-1")).await.unwrap();
        let destroyed = zfs(&["destroy", &format!("{}@warm-2-1", filesystem(&parent))]).await;
        assert!(!destroyed.status.success());
        assert_eq!(
            parent.backend().inventory().await.unwrap().datasets[&ID]
                .snapshots
                .len(),
            1
        );
    });
}

/// What a crash left in the intent log is in the filesystem only once that is mounted.
#[test]
fn what_is_not_mounted_is_mounted_before_a_snapshot_of_it_is_taken() {
    run(async {
        let parent = Parent::new().await;
        create(&parent).await;
        let filesystem = filesystem(&parent);
        let is_mounted = async || zfs_says(&["get", "-H", "-o", "value", "mounted", &filesystem]).await;
        zfs_says(&["unmount", &filesystem]).await;
        assert_eq!(is_mounted().await, "no\n");
        let taken = parent.backend().snapshot(ID, &name("warm-1-1")).await;
        assert_eq!(taken.unwrap(), Change::Made);
        assert_eq!(is_mounted().await, "yes\n");
        zfs_says(&["unmount", &filesystem]).await;
        release(&parent).await;
        assert_eq!(is_mounted().await, "yes\n");
    });
}

#[test]
fn a_primary_is_mounted_before_a_program_is_started_on_it_or_the_start_fails() {
    run(async {
        let parent = Parent::new().await;
        create(&parent).await;
        let filesystem = filesystem(&parent);
        let primary = Some(Role::Primary { epoch: Epoch::FIRST });
        assert_eq!(parent.backend().ready(ID).await.unwrap(), primary);
        zfs_says(&["unmount", &filesystem]).await;
        assert_eq!(parent.backend().ready(ID).await.unwrap(), primary);
        assert_eq!(parent.read(ID, "file").await.as_deref(), Some(b"one".as_slice()));
        // A release that failed may leave only the kernel refusing to write.
        let path = parent.backend().path(ID);
        rustix::mount::mount_remount(&path, rustix::mount::MountFlags::RDONLY, "").unwrap();
        parent.write(ID, "file", b"two").await.unwrap_err();
        assert_eq!(parent.backend().ready(ID).await.unwrap(), primary);
        parent.write(ID, "file", b"two").await.unwrap();
        // It is mounted, and elsewhere.
        zfs_says(&["unmount", &filesystem]).await;
        let elsewhere = tempfile::tempdir().unwrap();
        let elsewhere = elsewhere.path().join("data");
        let mountpoint = zfs_says(&["get", "-H", "-o", "value", "mountpoint", &filesystem]).await;
        zfs_says(&["set", &format!("mountpoint={}", elsewhere.display()), &filesystem]).await;
        zfs_says(&["mount", &filesystem]).await;
        parent.backend().ready(ID).await.unwrap_err();
        zfs_says(&["unmount", &filesystem]).await;
        zfs_says(&["set", &format!("mountpoint={}", mountpoint.trim()), &filesystem]).await;
        assert_eq!(parent.backend().ready(ID).await.unwrap(), primary);
    });
}

#[test]
fn nothing_is_written_beneath_a_dataset_that_is_not_mounted() {
    run(async {
        let parent = Parent::new().await;
        create(&parent).await;
        zfs_says(&["unmount", &filesystem(&parent)]).await;
        parent.write(ID, "file", b"lost").await.unwrap_err();
        // Whoever looks next mounts it again, as after a restart of the machine.
        assert_eq!(role(&parent).await, Role::Primary { epoch: Epoch::FIRST });
        assert_eq!(parent.read(ID, "file").await.as_deref(), Some(b"one".as_slice()));
    });
}

#[test]
fn a_primary_that_a_dropped_release_left_read_only_is_writable_again() {
    run(async {
        let parent = Parent::new().await;
        create(&parent).await;
        zfs_says(&["set", "readonly=on", &filesystem(&parent)]).await;
        parent.write(ID, "file", b"two").await.unwrap_err();
        assert_eq!(role(&parent).await, Role::Primary { epoch: Epoch::FIRST });
        parent.write(ID, "file", b"two").await.unwrap();
    });
}

#[test]
fn who_has_a_file_open_for_writing_is_in_the_way_of_a_release_and_nobody_writes_after_it() {
    run(async {
        let parent = Parent::new().await;
        create(&parent).await;
        let path = parent.backend().path(ID).join("file");
        let append = || std::fs::File::options().append(true).open(&path);
        let mut open = append().unwrap();
        open.write_all(b"two").unwrap();
        let handoff = Handoff {
            dataset: ID,
            epoch: Epoch(2),
            to: "beta".parse().unwrap(),
            last: name("handoff-2"),
        };
        parent.backend().release(&handoff).await.unwrap_err();
        // Another process is named.
        let other = flocker_backends::process::Program::new("sleep").argument("600");
        let stdout = flocker_backends::process::Stream::Descriptor(append().unwrap().into());
        let other = other.directory("/").stdout(stdout).spawn().unwrap();
        let refusal = parent.backend().release(&handoff).await.unwrap_err();
        let named = std::error::Error::source(&refusal).unwrap().to_string();
        let expected = format!(
            "process {} (`sleep`) has `data/file` open for writing",
            other.id().unwrap()
        );
        assert!(named.contains(&expected), "{named}");
        drop(other);
        // It stays what it was, for whoever writes.
        open.write_all(b"three").unwrap();
        open.sync_all().unwrap();
        drop(open);
        flocker_backends::conformance::eventually("it is let go", || async {
            parent.backend().release(&handoff).await.ok()
        })
        .await;
        append().unwrap_err();
        assert_eq!(
            parent.read(ID, "file").await.as_deref(),
            Some(b"onetwothree".as_slice())
        );
    });
}

#[test]
fn what_is_only_in_memory_when_the_data_is_let_go_is_in_the_last_snapshot() {
    run(async {
        let (parent, beta) = (Parent::new().await, Parent::new().await);
        create(&parent).await;
        parent.write(ID, "file", &vec![b'x'; 1 << 20]).await.unwrap();
        // As a database that maps its file and ends without a word to the disk.
        let script = "import mmap, os, sys\nwith open(sys.argv[1], 'r+b') as file:\n    \
                      mapped = mmap.mmap(file.fileno(), 0)\nmapped[:] = b'y' * len(mapped)\nos._exit(0)";
        let path = parent.file(ID, "file");
        let writer = flocker_backends::process::Program::new("python3");
        let writer = writer.arguments(["-c", script, path.to_str().unwrap()]);
        let wrote = writer.run(&[], 1 << 20, std::time::Duration::from_secs(60)).await;
        wrote.unwrap().success().unwrap();
        release(&parent).await;
        send(&parent, &beta, "handoff-2", None).await.unwrap();
        let seen_at = beta.options.mounts.join("copy");
        let mountpoint = format!("mountpoint={}", seen_at.display());
        zfs_says(&["set", &mountpoint, &filesystem(&beta)]).await;
        zfs_says(&["mount", &filesystem(&beta)]).await;
        let arrived = std::fs::read(seen_at.join("file")).unwrap();
        assert!(
            arrived == vec![b'y'; 1 << 20],
            "what was in memory did not arrive"
        );
    });
}

#[test]
fn the_last_snapshot_of_a_release_that_never_ended_is_taken_again() {
    run(async {
        let (parent, beta) = (Parent::new().await, Parent::new().await);
        create(&parent).await;
        // As far as it came: the snapshot was taken, and nobody was told.
        parent.backend().snapshot(ID, &name("handoff-2")).await.unwrap();
        parent.write(ID, "file", b"acknowledged").await.unwrap();
        release(&parent).await;
        send(&parent, &beta, "handoff-2", None).await.unwrap();
        let seen_at = beta.options.mounts.join("copy");
        let mountpoint = format!("mountpoint={}", seen_at.display());
        zfs_says(&["set", &mountpoint, &filesystem(&beta)]).await;
        zfs_says(&["mount", &filesystem(&beta)]).await;
        assert_eq!(std::fs::read(seen_at.join("file")).unwrap(), b"acknowledged");
    });
}

fn send_request(snapshot: &str, base: Option<SnapshotGuid>) -> SendRequest {
    SendRequest {
        dataset: ID,
        snapshot: name(snapshot),
        base,
        resume: None,
    }
}

/// Sends a snapshot, whole or from the one before it.
async fn send(from: &Parent, to: &Parent, snapshot: &str, base: Option<&str>) -> Result<Change, VolumeError> {
    let taken = from.backend().inventory().await.unwrap().datasets[&ID]
        .snapshots
        .clone();
    let base = base.map(|base| {
        taken
            .iter()
            .find(|taken| taken.name.as_str() == base)
            .unwrap()
            .guid
    });
    let request = send_request(snapshot, base);
    let stream = from.backend().send(&request).await.unwrap();
    let request = ReceiveRequest {
        dataset: dataset(),
        snapshot: name(snapshot),
        base,
    };
    to.backend().receive(&request, stream).await
}

#[test]
fn l11_a_copy_on_a_pool_that_was_changed_by_hand_is_refused_for_good_and_stays() {
    run(async {
        let (parent, beta) = (Parent::new().await, Parent::new().await);
        create(&parent).await;
        parent.backend().snapshot(ID, &name("warm-2-1")).await.unwrap();
        send(&parent, &beta, "warm-2-1", None).await.unwrap();
        let copy = filesystem(&beta);
        zfs_says(&["set", "readonly=off", &copy]).await;
        zfs_says(&["mount", &copy]).await;
        beta.write(ID, "by-hand", b"changed").await.unwrap();
        release(&parent).await;
        let refused = send(&parent, &beta, "handoff-2", Some("warm-2-1"))
            .await
            .unwrap_err();
        assert!(matches!(refused, VolumeError::Diverged { .. }), "{refused:?}");
        let snapshots = zfs_says(&["list", "-rHt", "snapshot", "-o", "name", &copy]).await;
        assert_eq!(snapshots.lines().count(), 1, "{snapshots}");
        zfs_says(&["mount", &copy]).await;
        assert_eq!(
            beta.read(ID, "by-hand").await.as_deref(),
            Some(b"changed".as_slice())
        );
    });
}

/// Returns all of a stream for whoever takes this.
async fn stream(from: &Parent, snapshot: &str, takes: Option<String>) -> Vec<u8> {
    let request = SendRequest {
        resume: takes,
        ..send_request(snapshot, None)
    };
    let mut bytes = Vec::new();
    let mut stream = from.backend().send(&request).await.unwrap();
    stream.read_to_end(&mut bytes).await.unwrap();
    bytes
}

#[test]
fn blocks_travel_as_they_lie_on_the_disk_to_a_pool_that_takes_them_and_to_no_other() {
    run(async {
        let (parent, beta) = (Parent::new().await, Parent::new().await);
        create(&parent).await;
        zfs_says(&["set", "compression=on", &filesystem(&parent)]).await;
        parent.write(ID, "large", &vec![b'x'; 4 << 20]).await.unwrap();
        release(&parent).await;
        let takes = beta.backend().takes();
        let plain = stream(&parent, "handoff-2", None).await;
        let packed = stream(&parent, "handoff-2", takes).await;
        assert!(plain.len() > 4 << 20, "{}", plain.len());
        // The tool says which letters it does not know before it looks for the snapshot.
        let refused = zfs(&["send", "-c", "nowhere@nothing"]).await;
        let is_old = String::from_utf8_lossy(&refused.stderr).contains("invalid option");
        let is_packed = packed.len() < 1 << 20;
        assert_eq!(is_packed, !is_old, "{} and {}", plain.len(), packed.len());
        let packed = Box::pin(Cursor::new(packed));
        beta.backend().receive(&receive_request(), packed).await.unwrap();
    });
}

#[test]
fn what_was_received_is_not_mounted_and_gives_nobody_the_rights_of_its_owner() {
    run(async {
        let (parent, beta) = (Parent::new().await, Parent::new().await);
        create(&parent).await;
        for property in ["setuid=on", "devices=on"] {
            zfs_says(&["set", property, &filesystem(&parent)]).await;
        }
        release(&parent).await;
        send(&parent, &beta, "handoff-2", None).await.unwrap();
        let properties = "mounted,canmount,readonly,setuid,devices,mountpoint";
        let copy = filesystem(&beta);
        let found = zfs_says(&["get", "-H", "-o", "value", properties, &copy]).await;
        let path = beta.backend().path(ID);
        assert_eq!(found, format!("no\nnoauto\non\noff\noff\n{}\n", path.display()));
    });
}

fn receive_request() -> ReceiveRequest {
    ReceiveRequest {
        dataset: dataset(),
        snapshot: name("handoff-2"),
        base: None,
    }
}

#[test]
fn a_copy_that_a_crash_left_unmarked_is_completed() {
    run(async {
        let (parent, beta) = (Parent::new().await, Parent::new().await);
        create(&parent).await;
        release(&parent).await;
        let mut bytes = stream(&parent, "handoff-2", None).await;
        // All but the digest at its end: it waits.
        bytes.truncate(bytes.len() - 32);
        let cut = Box::pin(Cursor::new(bytes));
        beta.backend().receive(&receive_request(), cut).await.unwrap_err();
        assert!(
            beta.backend().inventory().await.unwrap().datasets[&ID]
                .partial
                .is_some()
        );
        // Go on by hand as far as the crash, or as a receiver that outlives it: the note says where it goes, whoever
        // has looked in between; the pool has it, nothing is marked.
        let place = beta.options.mounts.join(".incoming").join(ID.to_string());
        let waiting = match zfs_partial::pooled(&filesystem(&beta)).await {
            Some(token) => zfs_partial::written(["send", "-t", &token]).await,
            None => std::fs::read(place.join("stream")).unwrap(),
        };
        let target = format!("{}@handoff-2", filesystem(&beta));
        let receive = flocker_backends::process::Program::new("zfs").arguments(["receive", &target]);
        let received = receive
            .run(&waiting, 1 << 20, std::time::Duration::from_secs(60))
            .await;
        received.unwrap().success().unwrap();
        beta.reopen().await;
        let seen = beta
            .backend()
            .inventory()
            .await
            .unwrap()
            .datasets
            .remove(&ID)
            .unwrap();
        assert_eq!((seen.role, seen.partial), (Role::Replica, None));
        let ours = parent
            .backend()
            .inventory()
            .await
            .unwrap()
            .datasets
            .remove(&ID)
            .unwrap();
        assert_eq!(seen.snapshots[0].guid, ours.snapshots[0].guid);
        assert!(place.symlink_metadata().is_err(), "the stream waits no more");
    });
}

#[test]
fn what_the_pool_has_counts_whatever_the_tool_says_last() {
    run(async {
        let (parent, beta) = (Parent::new().await, Parent::new().await);
        create(&parent).await;
        release(&parent).await;
        let mut options = beta.options.clone();
        options.program = options.state.join("zfs");
        let says_it_failed = "#!/bin/sh\nzfs \"$@\" || exit\n[ \"$1\" != receive ]\n";
        std::fs::write(&options.program, says_it_failed).unwrap();
        std::fs::set_permissions(&options.program, std::fs::Permissions::from_mode(0o700)).unwrap();
        let doubtful = ZfsVolumes::open(&options).await.unwrap();
        let stream = parent
            .backend()
            .send(&send_request("handoff-2", None))
            .await
            .unwrap();
        let change = doubtful.receive(&receive_request(), stream).await.unwrap();
        assert_eq!(change, Change::Made);
        let change = send(&parent, &beta, "handoff-2", None).await.unwrap();
        assert_eq!(change, Change::AlreadySo);
    });
}
