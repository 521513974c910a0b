//! The plug is pulled at every durable change, and the old kernel's way of opening is tried.

use std::path::Path;

use flocker_model::Dataset;
use flocker_model::DatasetId;
use flocker_model::Epoch;
use flocker_model::Manifestation;
use flocker_model::Role;
use flocker_model::SnapshotGuid;
use flocker_model::SnapshotName;
use tokio::io::AsyncReadExt as _;

use super::DirectoryOptions;
use super::DirectoryVolumes;
use super::dir::Dir;
use super::effects::Effects;
use super::home::Home;
use super::scan::Seen;
use super::snapshots::Stored;
use super::snapshots::Version;
use crate::change::Change;
use crate::volume::Acquisition;
use crate::volume::Handoff;
use crate::volume::ReceiveRequest;
use crate::volume::Reclaim;
use crate::volume::SendRequest;
use crate::volume::VolumeBackend as _;
use crate::volume::VolumeError;

const ID: DatasetId = DatasetId(uuid::Uuid::from_u128(0x00c0_ffee));

fn open(root: &Path, effects: Effects) -> Result<DirectoryVolumes, VolumeError> {
    DirectoryVolumes::open_with(root, &DirectoryOptions::cautious(), effects)
}

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

fn handoff() -> Handoff {
    Handoff {
        dataset: ID,
        epoch: Epoch(2),
        to: "beta".parse().unwrap(),
        last: name("handoff-2"),
    }
}

/// Gives a copy the times of what it is a copy of: they are part of a snapshot, and of its guid.
fn keep_times(from: &Path, to: &Path) {
    use std::os::unix::fs::MetadataExt as _;
    let metadata = from.symlink_metadata().unwrap();
    let times = rustix::fs::Timestamps {
        last_access: rustix::fs::Timespec {
            tv_sec: metadata.atime(),
            tv_nsec: metadata.atime_nsec(),
        },
        last_modification: rustix::fs::Timespec {
            tv_sec: metadata.mtime(),
            tv_nsec: metadata.mtime_nsec(),
        },
    };
    rustix::fs::utimensat(rustix::fs::CWD, to, &times, rustix::fs::AtFlags::SYMLINK_NOFOLLOW).unwrap();
}

/// Copies a root with everything that counts, so that each try starts from the same.
fn copy_of(from: &Path) -> tempfile::TempDir {
    fn copy(from: &Path, to: &Path) {
        for entry in std::fs::read_dir(from).unwrap() {
            let entry = entry.unwrap();
            let to = to.join(entry.file_name());
            let kind = entry.file_type().unwrap();
            if kind.is_dir() {
                std::fs::create_dir(&to).unwrap();
                copy(&entry.path(), &to);
            } else if kind.is_symlink() {
                std::os::unix::fs::symlink(entry.path().read_link().unwrap(), &to).unwrap();
            } else {
                std::fs::copy(entry.path(), &to).unwrap();
            }
            keep_times(&entry.path(), &to);
        }
    }
    let to = tempfile::tempdir().unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o700);
    std::fs::set_permissions(to.path(), mode).unwrap();
    copy(from, to.path());
    to
}

/// What is promised of a root: roles, snapshots and fences, and the data byte for byte.
#[derive(Clone, Debug, PartialEq, Eq)]
struct State {
    role: Option<Role>,
    fence: Option<Epoch>,
    snapshots: Vec<(SnapshotName, SnapshotGuid)>,
    trash: usize,
    files: Vec<(String, String)>,
}

async fn state(volumes: &DirectoryVolumes) -> State {
    fn read(dir: &Path, files: &mut Vec<(String, String)>) {
        let Ok(entries) = std::fs::read_dir(dir) else {
            return;
        };
        for entry in entries {
            let path = entry.unwrap().path();
            let text = path.display().to_string();
            if path.is_symlink() {
                files.push((text, "link".into()));
            } else if path.is_dir() {
                files.push((text, "directory".into()));
                read(&path, files);
            } else {
                let content = std::fs::read(&path).unwrap();
                files.push((text, blake3::hash(&content).to_string()));
            }
        }
    }
    let inventory = volumes.inventory().await.unwrap();
    let seen: Option<&Manifestation> = inventory.datasets.get(&ID);
    let mut files = Vec::new();
    let data = volumes.path(ID);
    read(&data, &mut files);
    read(&data.with_file_name("copy"), &mut files);
    let root = volumes.shared.path.display().to_string();
    for (path, _) in &mut files {
        *path = path.replace(&root, "");
    }
    files.sort();
    State {
        role: seen.map(|seen| seen.role.clone()),
        fence: seen.map(|seen| seen.fence),
        snapshots: seen.map_or_else(Vec::new, |seen| {
            let snapshots = seen.snapshots.iter();
            snapshots.map(|known| (known.name.clone(), known.guid)).collect()
        }),
        trash: inventory.trash.len(),
        files,
    }
}

/// Pulls the plug before each durable change of an operation, and looks what a fresh start finds.
///
/// It finds the state before or the state after, and the operation done again makes it the state after.
async fn pull_the_plug(
    start: &Path,
    operation: impl AsyncFn(&DirectoryVolumes) -> Result<Change, VolumeError>,
) {
    let calm = copy_of(start);
    let volumes = open(calm.path(), Effects::default()).unwrap();
    let before = state(&volumes).await;
    operation(&volumes).await.unwrap();
    let after = state(&volumes).await;
    assert_ne!(before, after, "the operation does nothing");
    let mut n_effects = 0;
    loop {
        let root = copy_of(start);
        let effects = Effects::only(n_effects);
        let tried = match open(root.path(), effects.clone()) {
            Ok(volumes) => operation(&volumes).await,
            Err(error) => Err(error),
        };
        if !effects.is_spent() {
            tried.unwrap();
            break;
        }
        let volumes = open(root.path(), Effects::default()).unwrap();
        let found = state(&volumes).await;
        let mut same_but_for_nothing_yet = before.clone();
        // A place for a copy that begins to arrive is no copy.
        if before.role.is_none() && found.role == Some(Role::Replica) && found.snapshots.is_empty() {
            same_but_for_nothing_yet.role = found.role.clone();
            same_but_for_nothing_yet.fence = found.fence;
        }
        // A release that has taken its last snapshot may die before it lets go.
        if found.role == before.role && found.snapshots.len() == before.snapshots.len() + 1 {
            same_but_for_nothing_yet.snapshots.clone_from(&found.snapshots);
        }
        assert!(
            found == same_but_for_nothing_yet || found == after,
            "after {n_effects} changes ({tried:?}): {found:#?} is neither {before:#?} nor {after:#?}"
        );
        match operation(&volumes).await {
            Ok(_) => {}
            // What was in the trash is back already.
            Err(VolumeError::NoTrash { .. }) if found == after => {}
            Err(error) => panic!("again after {n_effects} changes: {error:?}"),
        }
        assert_eq!(state(&volumes).await, after, "again after {n_effects} changes");
        n_effects += 1;
    }
    assert!(n_effects > 2, "only {n_effects} changes were seen");
}

async fn primary() -> (tempfile::TempDir, DirectoryVolumes) {
    let root = tempfile::tempdir().unwrap();
    let volumes = open(root.path(), Effects::default()).unwrap();
    volumes.create(&dataset(), Epoch::FIRST).await.unwrap();
    let data = volumes.path(ID);
    std::fs::create_dir_all(data.join("a/b")).unwrap();
    std::fs::write(data.join("a/b/table"), vec![7; 300_000]).unwrap();
    std::fs::write(data.join("file"), b"first").unwrap();
    std::os::unix::fs::symlink("file", data.join("link")).unwrap();
    (root, volumes)
}

async fn stream(volumes: &DirectoryVolumes, snapshot: &str, base: Option<SnapshotGuid>) -> Vec<u8> {
    let request = SendRequest {
        dataset: ID,
        snapshot: name(snapshot),
        base,
        resume: None,
    };
    let mut bytes = Vec::new();
    let mut stream = volumes.send(&request).await.unwrap();
    stream.read_to_end(&mut bytes).await.unwrap();
    bytes
}

async fn receive(
    volumes: &DirectoryVolumes,
    snapshot: &str,
    base: Option<SnapshotGuid>,
    bytes: &[u8],
) -> Result<Change, VolumeError> {
    let request = ReceiveRequest {
        dataset: dataset(),
        snapshot: name(snapshot),
        base,
    };
    let stream = std::io::Cursor::new(bytes.to_vec());
    volumes.receive(&request, Box::pin(stream)).await
}

async fn newest(volumes: &DirectoryVolumes) -> SnapshotGuid {
    let inventory = volumes.inventory().await.unwrap();
    inventory.datasets[&ID].snapshots.last().unwrap().guid
}

#[tokio::test]
async fn a_crash_while_creating_leaves_nothing_or_the_whole() {
    let root = tempfile::tempdir().unwrap();
    drop(open(root.path(), Effects::default()).unwrap());
    pull_the_plug(root.path(), async |volumes| {
        volumes.create(&dataset(), Epoch::FIRST).await
    })
    .await;
}

#[tokio::test]
async fn a_crash_while_taking_a_snapshot_leaves_none_or_the_whole() {
    let (root, _) = primary().await;
    pull_the_plug(root.path(), async |volumes| {
        volumes.snapshot(ID, &name("fixed")).await
    })
    .await;
}

#[tokio::test]
async fn a_crash_while_releasing_leaves_a_primary_or_a_released_copy() {
    let (root, volumes) = primary().await;
    volumes.snapshot(ID, &name("warm-2-1")).await.unwrap();
    std::fs::write(volumes.path(ID).join("file"), b"second").unwrap();
    pull_the_plug(root.path(), async |volumes| volumes.release(&handoff()).await).await;
}

#[tokio::test]
async fn the_last_snapshot_of_a_release_that_crashed_counts_only_if_nothing_was_written_since() {
    let (start, volumes) = primary().await;
    volumes.snapshot(ID, &name("warm-2-1")).await.unwrap();
    std::fs::write(volumes.path(ID).join("file"), b"second").unwrap();
    let mut n_tried_again = 0;
    for n_effects in 0.. {
        let crashed = copy_of(start.path());
        let effects = Effects::only(n_effects);
        if let Ok(volumes) = open(crashed.path(), effects.clone()) {
            drop(volumes.release(&handoff()).await);
        }
        if !effects.is_spent() {
            break;
        }
        let found = state(&open(crashed.path(), Effects::default()).unwrap()).await;
        let is_taken = found.snapshots.iter().any(|(known, _)| *known == handoff().last);
        if found.role != Some(Role::Primary { epoch: Epoch::FIRST }) || !is_taken {
            continue;
        }
        for is_written in [false, true] {
            let root = copy_of(crashed.path());
            let volumes = open(root.path(), Effects::default()).unwrap();
            let taken = newest(&volumes).await;
            if is_written {
                std::fs::write(volumes.path(ID).join("file"), b"third").unwrap();
            }
            volumes.release(&handoff()).await.unwrap();
            let inventory = volumes.inventory().await.unwrap();
            let last = inventory.datasets[&ID].snapshots.last().unwrap();
            assert_eq!(last.guid == taken, !is_written, "after {n_effects} changes");
            assert!(last.written.0 > 0, "after {n_effects} changes");
            n_tried_again += 1;
        }
    }
    assert!(n_tried_again > 0, "it never died between the two");
}

#[tokio::test]
async fn a_crash_while_receiving_a_full_copy_leaves_no_copy_or_the_whole() {
    let (_root, alpha) = primary().await;
    alpha.release(&handoff()).await.unwrap();
    let bytes = stream(&alpha, "handoff-2", None).await;
    let root = tempfile::tempdir().unwrap();
    drop(open(root.path(), Effects::default()).unwrap());
    pull_the_plug(root.path(), async |volumes| {
        receive(volumes, "handoff-2", None, &bytes).await
    })
    .await;
}

#[tokio::test]
async fn a_crash_while_receiving_an_increment_leaves_the_last_copy_or_the_next() {
    let (_root, alpha) = primary().await;
    let data = alpha.path(ID);
    std::fs::write(data.join("renamed"), vec![9; 200_000]).unwrap();
    alpha.snapshot(ID, &name("warm-2-1")).await.unwrap();
    let first = stream(&alpha, "warm-2-1", None).await;
    let base = newest(&alpha).await;
    std::fs::rename(data.join("renamed"), data.join("a/anew")).unwrap();
    let mut table = vec![7; 300_000];
    table[200_000] = 8;
    table.truncate(280_000);
    std::fs::write(data.join("a/b/table"), table).unwrap();
    std::fs::remove_file(data.join("link")).unwrap();
    std::fs::create_dir(data.join("link")).unwrap();
    std::fs::write(data.join("link/new"), b"new").unwrap();
    std::fs::remove_file(data.join("file")).unwrap();
    std::fs::hard_link(data.join("link/new"), data.join("file")).unwrap();
    alpha.release(&handoff()).await.unwrap();
    let second = stream(&alpha, "handoff-2", Some(base)).await;
    let root = tempfile::tempdir().unwrap();
    let beta = open(root.path(), Effects::default()).unwrap();
    receive(&beta, "warm-2-1", None, &first).await.unwrap();
    pull_the_plug(root.path(), async |volumes| {
        receive(volumes, "handoff-2", Some(base), &second).await
    })
    .await;
}

/// Moves a dataset from alpha to beta, and has beta let go of it; returns beta, and the first of its two snapshots.
async fn moved_once() -> (tempfile::TempDir, DirectoryVolumes, SnapshotGuid) {
    let (_root, alpha) = primary().await;
    alpha.release(&handoff()).await.unwrap();
    let first = newest(&alpha).await;
    let root = tempfile::tempdir().unwrap();
    let beta = open(root.path(), Effects::default()).unwrap();
    let bytes = stream(&alpha, "handoff-2", None).await;
    receive(&beta, "handoff-2", None, &bytes).await.unwrap();
    let acquisition = Acquisition {
        dataset: ID,
        epoch: Epoch(2),
        from: name("handoff-2"),
        guid: Some(first),
    };
    beta.acquire(&acquisition).await.unwrap();
    std::fs::write(beta.path(ID).join("file"), b"of beta").unwrap();
    let last = Handoff {
        epoch: Epoch(3),
        last: name("handoff-3"),
        ..handoff()
    };
    beta.release(&last).await.unwrap();
    (root, beta, first)
}

#[tokio::test]
async fn a_crash_while_earlier_snapshots_come_along_leaves_no_copy_or_the_whole() {
    let (_root, beta, first) = moved_once().await;
    let bytes = stream(&beta, "handoff-3", None).await;
    let calm = tempfile::tempdir().unwrap();
    let gamma = open(calm.path(), Effects::default()).unwrap();
    receive(&gamma, "handoff-3", None, &bytes).await.unwrap();
    let both = [
        (name("handoff-2"), first),
        (name("handoff-3"), newest(&beta).await),
    ];
    assert_eq!(state(&gamma).await.snapshots, both);
    let root = tempfile::tempdir().unwrap();
    drop(open(root.path(), Effects::default()).unwrap());
    pull_the_plug(root.path(), async |volumes| {
        receive(volumes, "handoff-3", None, &bytes).await
    })
    .await;
}

#[tokio::test]
async fn an_earlier_snapshot_that_was_damaged_on_its_way_is_refused_and_one_that_cannot_be_read_stays() {
    let (place, beta, _) = moved_once().await;
    let whole = stream(&beta, "handoff-3", None).await;
    let mut damaged = whole.clone();
    // The list ends where the end of the stream begins: one byte and the guid.
    let of_list = damaged.len() - 18;
    damaged[of_list] ^= 1;
    let root = tempfile::tempdir().unwrap();
    let gamma = open(root.path(), Effects::default()).unwrap();
    let refusal = receive(&gamma, "handoff-3", None, &damaged).await.unwrap_err();
    assert!(matches!(refusal, VolumeError::Stream { .. }), "{refusal}");
    assert_eq!(state(&gamma).await.snapshots, []);
    let stored = place
        .path()
        .join(format!("datasets/{ID}/snapshots/handoff-2.manifest"));
    let mut bytes = std::fs::read(&stored).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&stored, bytes).unwrap();
    let without = stream(&beta, "handoff-3", None).await;
    assert!(without.len() < whole.len());
    receive(&gamma, "handoff-3", None, &without).await.unwrap();
    assert_eq!(state(&gamma).await.snapshots.len(), 1);
}

#[tokio::test]
async fn a_crash_while_a_snapshot_is_dropped_leaves_it_or_not() {
    let (root, volumes) = primary().await;
    for number in 1..4 {
        std::fs::write(volumes.path(ID).join("file"), [number; 1000]).unwrap();
        volumes
            .snapshot(ID, &name(&format!("warm-2-{number}")))
            .await
            .unwrap();
    }
    let reclaim = Reclaim::Snapshots {
        dataset: ID,
        names: vec![name("warm-2-2")],
    };
    pull_the_plug(root.path(), async |volumes| volumes.reclaim(&reclaim).await).await;
}

#[tokio::test]
async fn a_crash_while_acquiring_leaves_a_replica_or_a_primary() {
    let (root, alpha) = primary().await;
    alpha.release(&handoff()).await.unwrap();
    let acquisition = Acquisition {
        dataset: ID,
        epoch: Epoch(3),
        from: name("handoff-2"),
        guid: Some(newest(&alpha).await),
    };
    pull_the_plug(root.path(), async |volumes| volumes.acquire(&acquisition).await).await;
}

#[tokio::test]
async fn a_crash_on_the_way_to_the_trash_and_back_leaves_the_whole_on_one_side() {
    let (root, volumes) = primary().await;
    pull_the_plug(root.path(), async |volumes| volumes.destroy(ID).await).await;
    volumes.destroy(ID).await.unwrap();
    let entry = volumes.inventory().await.unwrap().trash.remove(0).entry;
    pull_the_plug(root.path(), async |volumes| volumes.restore(&entry).await).await;
    let reclaim = Reclaim::Trash { entry };
    pull_the_plug(root.path(), async |volumes| volumes.reclaim(&reclaim).await).await;
}

#[tokio::test]
async fn trash_is_counted_once_and_comes_back_as_it_was() {
    let (root, volumes) = primary().await;
    volumes.destroy(ID).await.unwrap();
    let look = async || volumes.inventory().await.unwrap().trash.remove(0);
    let first = look().await;
    assert!(first.used.0 >= 300_000, "{first:?}");
    let place = root.path().join("trash").join(&first.entry);
    // Nobody changes trash. Where somebody did all the same, that shows that it is not looked at again.
    std::fs::remove_file(place.join("data/a/b/table")).unwrap();
    assert_eq!(look().await.used, first.used);
    std::fs::write(place.join("used"), b"damaged").unwrap();
    assert!(look().await.used < first.used);
    volumes.restore(&first.entry).await.unwrap();
    let home = root.path().join("datasets").join(ID.to_string());
    assert!(home.join("record.json").exists() && !home.join("used").exists());
}

#[test]
fn without_the_kernels_help_nothing_leads_out_either() {
    let outside = tempfile::tempdir().unwrap();
    std::fs::write(outside.path().join("canary"), b"canary").unwrap();
    let root = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(root.path().join("a/b")).unwrap();
    std::fs::write(root.path().join("a/b/file"), b"inside").unwrap();
    std::os::unix::fs::symlink(outside.path(), root.path().join("a/out")).unwrap();
    std::os::unix::fs::symlink("b", root.path().join("a/in")).unwrap();
    let open = Dir::open(root.path(), Effects::default()).unwrap();
    for dir in [open.clone(), open.stepwise()] {
        assert!(dir.read(b"a/b/file").is_ok());
        assert!(dir.stat(b"a/b/file").unwrap().is_some());
        for path in [
            &b"a/out/canary"[..],
            b"a/in/file",
            b"a/../a/b/file",
            b"../x",
            b"/etc/passwd",
            b"a//b",
            b"a/b\0",
            b"a/./b",
        ] {
            assert!(dir.read(path).is_err(), "{}", path.escape_ascii());
            assert!(dir.write(path).is_err(), "{}", path.escape_ascii());
            assert!(dir.stat(path).is_err(), "{}", path.escape_ascii());
            assert!(dir.remove_file(path).is_err(), "{}", path.escape_ascii());
            assert!(dir.make_dir(path, 0o700).is_err(), "{}", path.escape_ascii());
            assert!(dir.rename(b"a/b", &dir, path).is_err(), "{}", path.escape_ascii());
        }
        assert!(dir.dir(b"a/out").is_err());
        assert!(dir.write(b"a/out").is_err());
    }
    assert_eq!(std::fs::read(outside.path().join("canary")).unwrap(), b"canary");
}

/// What a program makes durable without the times of its file is there after a crash, and the file looks as it did before.
#[tokio::test]
async fn after_a_boot_no_file_is_known_by_its_times() {
    for is_same_boot in [true, false] {
        let root = tempfile::tempdir().unwrap();
        let volumes = open(root.path(), Effects::default()).unwrap();
        volumes.create(&dataset(), Epoch::FIRST).await.unwrap();
        let data = volumes.path(ID);
        std::fs::write(data.join("file"), b"old").unwrap();
        volumes.snapshot(ID, &name("warm-1-1")).await.unwrap();
        std::fs::write(data.join("file"), b"new").unwrap();
        // As if its times were those that were seen.
        let home = Home::open(&volumes.shared.datasets, ID).unwrap().unwrap();
        let (taken, mut stored) = home.newest().unwrap().unwrap();
        let at = stored.scanned.manifest.find(b"file").unwrap();
        let stat = Dir::open(&data, Effects::default()).unwrap().stat(b"file");
        let stat = stat.unwrap().unwrap();
        stored.scanned.sight.started.seconds += 100;
        stored.scanned.sight.entries[at] = Seen::from(&stat);
        stored.scanned.manifest.entries[at].metadata.modified = stat.modified;
        let old = stored.scanned.manifest.entries[at].kind.clone();
        let as_seen = Stored::new(&taken, stored.scanned, stored.heading.sequence, 0);
        home.replace_snapshot(&taken, &as_seen, Version::Current).unwrap();
        if !is_same_boot {
            let boot = root.path().join(format!("datasets/{ID}/snapshots/warm-1-1.boot"));
            assert!(boot.exists());
            std::fs::write(boot, "another one").unwrap();
        }
        volumes.snapshot(ID, &name("warm-1-2")).await.unwrap();
        let (_, next) = home.newest().unwrap().unwrap();
        let is_believed = next.scanned.manifest.entries[at].kind == old;
        assert_eq!(is_believed, is_same_boot && volumes.shared.trusts_times);
    }
}
