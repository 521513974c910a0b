//! Who may write, and what is kept of whom.

use std::os::unix::fs::MetadataExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use flocker_backends::Change;
use flocker_backends::Handoff;
use flocker_backends::Reclaim;
use flocker_backends::VolumeBackend as _;
use flocker_backends::VolumeError;
use flocker_backends::volume::directory::DirectoryOptions;
use flocker_backends::volume::directory::DirectoryVolumes;
use flocker_model::Dataset;
use flocker_model::DatasetId;
use flocker_model::Epoch;
use flocker_model::Role;

use crate::node::ID;
use crate::node::Node;
use crate::node::dataset;
use crate::node::name;
use crate::node::noise;

#[tokio::test]
async fn a_new_dataset_is_open_to_its_application_and_to_nobody_through_the_root() {
    let node = Node::primary().await;
    assert_eq!(node.data().metadata().unwrap().mode() & 0o7777, 0o755);
    assert_eq!(node.root.path().metadata().unwrap().mode() & 0o7777, 0o700);
}

#[tokio::test]
async fn a_root_that_others_may_enter_is_refused() {
    let root = tempfile::tempdir().unwrap();
    std::fs::write(root.path().join("something"), b"of somebody").unwrap();
    std::fs::set_permissions(root.path(), std::fs::Permissions::from_mode(0o711)).unwrap();
    let refused = DirectoryVolumes::open(root.path(), &DirectoryOptions::cautious());
    assert!(matches!(refused, Err(VolumeError::Io { .. })), "{refused:?}");
}

#[tokio::test]
async fn data_goes_there_and_back_again() {
    let (alpha, beta) = (Node::primary().await, Node::new());
    alpha.write("file", b"from alpha");
    alpha.hand_over(&beta, 2, None).await;
    beta.write("file", b"from beta");
    let base = beta.guid("handoff-2").await;
    beta.hand_over(&alpha, 3, base).await;
    assert_eq!(std::fs::read(alpha.data().join("file")).unwrap(), b"from beta");
    assert!(!beta.data().exists());
    let fences = [
        alpha.manifestation().await.fence,
        beta.manifestation().await.fence,
    ];
    assert_eq!(fences, [Epoch(3), Epoch(3)]);
}

#[tokio::test]
async fn nobody_can_write_by_path_to_a_copy() {
    let (alpha, beta) = (Node::primary().await, Node::new());
    alpha.write("file", b"content");
    alpha.snapshot("warm-2-1").await;
    alpha.push(&beta, "warm-2-1", None).await;
    alpha.release(2).await.unwrap();
    for node in [&alpha, &beta] {
        assert!(std::fs::write(node.data().join("file"), b"stray").is_err());
        assert_eq!(std::fs::read(node.copy().join("file")).unwrap(), b"content");
    }
}

#[tokio::test]
async fn an_empty_place_that_a_program_made_for_itself_does_no_harm() {
    let (alpha, beta) = (Node::primary().await, Node::new());
    alpha.write("file", b"content");
    let guid = alpha.release(2).await.unwrap();
    alpha.push(&beta, "handoff-2", None).await;
    std::fs::create_dir(beta.data()).unwrap();
    beta.acquire(2, guid).await.unwrap();
    assert_eq!(std::fs::read(beta.data().join("file")).unwrap(), b"content");
}

#[tokio::test]
async fn what_a_stray_program_wrote_is_neither_taken_for_data_nor_removed() {
    let (alpha, beta) = (Node::primary().await, Node::new());
    alpha.write("file", b"content");
    let guid = alpha.release(2).await.unwrap();
    alpha.push(&beta, "handoff-2", None).await;
    beta.write("stray", b"written too early");
    let refused = beta.acquire(2, guid).await;
    assert!(
        matches!(refused, Err(VolumeError::Diverged { .. })),
        "{refused:?}"
    );
    assert_eq!(beta.manifestation().await.role, Role::Replica);
    assert_eq!(
        std::fs::read(beta.data().join("stray")).unwrap(),
        b"written too early"
    );
}

#[tokio::test]
async fn trash_keeps_everything_until_it_is_emptied() {
    let alpha = Node::primary().await;
    alpha.write("file", noise(1, 5000));
    let before = alpha.manifestation().await;
    assert_eq!(alpha.volumes.destroy(ID).await.unwrap(), Change::Made);
    assert_eq!(alpha.volumes.destroy(ID).await.unwrap(), Change::AlreadySo);
    let inventory = alpha.volumes.inventory().await.unwrap();
    assert!(inventory.datasets.is_empty());
    let [trashed] = inventory.trash.as_slice() else {
        panic!("{:?}", inventory.trash)
    };
    assert_eq!((trashed.dataset, trashed.used), (ID, before.used));

    // The name of a destroyed dataset is free, and its trash comes back only where it hides nothing.
    alpha.volumes.create(&dataset(), Epoch(5)).await.unwrap();
    let refused = alpha.volumes.restore(&trashed.entry).await;
    assert!(
        matches!(refused, Err(VolumeError::AlreadyHere { .. })),
        "{refused:?}"
    );
    alpha.volumes.destroy(ID).await.unwrap();
    // Nor where a newer owner has been here since.
    let refused = alpha.volumes.restore(&trashed.entry).await;
    assert!(
        matches!(refused, Err(VolumeError::Fenced { fence: Epoch(5), .. })),
        "{refused:?}"
    );
    let alpha = Node::primary().await;
    alpha.write("file", noise(1, 5000));
    alpha.volumes.destroy(ID).await.unwrap();
    let entry = alpha.volumes.inventory().await.unwrap().trash.remove(0).entry;
    assert_eq!(alpha.volumes.restore(&entry).await.unwrap(), Change::Made);
    let after = alpha.manifestation().await;
    assert_eq!((after.role, after.used), (before.role, before.used));
    assert_eq!(std::fs::read(alpha.data().join("file")).unwrap(), noise(1, 5000));

    alpha.volumes.destroy(ID).await.unwrap();
    alpha.volumes.create(&dataset(), Epoch(5)).await.unwrap();
    alpha.write("file", noise(1, 5000));
    let other = alpha.volumes.inventory().await.unwrap().trash.remove(0).entry;
    let reclaim = Reclaim::Trash { entry: other };
    assert_eq!(alpha.volumes.reclaim(&reclaim).await.unwrap(), Change::Made);
    assert_eq!(alpha.volumes.reclaim(&reclaim).await.unwrap(), Change::AlreadySo);
    for entry in ["", "..", "../datasets", "nothing"] {
        let refused = alpha.volumes.restore(entry).await;
        assert!(matches!(refused, Err(VolumeError::NoTrash { .. })), "{refused:?}");
        let reclaim = Reclaim::Trash { entry: entry.into() };
        assert_eq!(alpha.volumes.reclaim(&reclaim).await.unwrap(), Change::AlreadySo);
    }
    assert!(alpha.data().join("file").exists());
}

#[tokio::test]
async fn the_newest_snapshot_is_never_dropped() {
    let alpha = Node::primary().await;
    for snapshot in ["warm-2-1", "warm-2-2", "warm-2-3"] {
        alpha.snapshot(snapshot).await;
    }
    let reclaim = Reclaim::Snapshots {
        dataset: ID,
        names: ["warm-2-1", "warm-2-3", "warm-9-9"].map(name).to_vec(),
    };
    assert_eq!(alpha.volumes.reclaim(&reclaim).await.unwrap(), Change::Made);
    let kept: Vec<_> = alpha.manifestation().await.snapshots;
    let kept: Vec<_> = kept.iter().map(|snapshot| snapshot.name.as_str()).collect();
    assert_eq!(kept, ["warm-2-2", "warm-2-3"]);
    assert_eq!(alpha.volumes.reclaim(&reclaim).await.unwrap(), Change::AlreadySo);
}

#[tokio::test]
async fn two_calls_at_once_are_as_two_one_after_the_other() {
    let alpha = Node::primary().await;
    alpha.write("table", noise(1, 3_000_000));
    let again = DirectoryVolumes::open(alpha.root.path(), &DirectoryOptions::cautious()).unwrap();
    let handoff = |to: &str| Handoff {
        dataset: ID,
        epoch: Epoch(2),
        to: to.parse().unwrap(),
        last: name("handoff-2"),
    };
    let (to_beta, to_gamma) = (handoff("beta"), handoff("gamma"));
    let (one, two, three) = tokio::join!(
        alpha.volumes.release(&to_beta),
        again.release(&to_gamma),
        alpha.volumes.release(&to_beta),
    );
    let made = |done: &Result<Change, VolumeError>| matches!(done, Ok(Change::Made));
    let n_made = [&one, &two, &three].into_iter().filter(|done| made(done)).count();
    assert_eq!(n_made, 1, "{one:?} {two:?} {three:?}");
    assert_ne!(made(&one) || made(&three), made(&two));
}

#[tokio::test]
async fn what_is_damaged_is_said_to_be_by_name_and_hides_nothing_else() {
    let other = Dataset {
        id: DatasetId(uuid::Uuid::from_u128(0x07)),
        ..dataset()
    };
    // A record that is cut, data that cannot be entered, a snapshot that is none, a name that leads nowhere.
    let harms: [fn(&Path); 4] = [
        |home| std::fs::write(home.join("record.json"), b"{\"for").unwrap(),
        |home| {
            std::fs::remove_dir_all(home.join("data")).unwrap();
            std::fs::write(home.join("data"), b"").unwrap();
        },
        |home| std::fs::write(home.join("record.json"), b"").unwrap(),
        |home| {
            std::fs::remove_dir_all(home).unwrap();
            std::os::unix::fs::symlink("/nowhere", home).unwrap();
        },
    ];
    for (number, harm) in harms.into_iter().enumerate() {
        let alpha = Node::primary().await;
        alpha.volumes.create(&other, Epoch(3)).await.unwrap();
        let before = alpha.manifestation().await;
        let home = alpha.volumes.path(other.id);
        harm(home.parent().unwrap());
        let seen = alpha.volumes.inventory().await.unwrap();
        assert_eq!(seen.datasets.keys().collect::<Vec<_>>(), [&ID], "{number}");
        assert_eq!(seen.datasets[&ID].role, before.role, "{number}");
        let said = &seen.unreadable[&other.id];
        assert!(said.contains(&other.id.to_string()), "{number}: {said}");
        let refused = alpha.volumes.create(&other, Epoch(9)).await;
        assert!(refused.is_err(), "{number}: {refused:?}");
        alpha
            .volumes
            .snapshot(ID, &"warm-2-1".parse().unwrap())
            .await
            .unwrap();
    }
}

#[tokio::test]
async fn a_damaged_fence_or_piece_of_trash_hides_nothing_else() {
    let alpha = Node::primary().await;
    let gone = Dataset {
        id: DatasetId(uuid::Uuid::from_u128(0x07)),
        ..dataset()
    };
    alpha.volumes.create(&gone, Epoch(3)).await.unwrap();
    alpha.volumes.destroy(gone.id).await.unwrap();
    let entry = alpha.volumes.inventory().await.unwrap().trash.remove(0).entry;
    let thrown_away = alpha.root.path().join("trash").join(&entry);
    std::fs::remove_dir_all(&thrown_away).unwrap();
    std::fs::write(&thrown_away, b"").unwrap();
    let fence = alpha.root.path().join("fences").join(gone.id.to_string());
    std::fs::write(fence, b"").unwrap();
    let seen = alpha.volumes.inventory().await.unwrap();
    assert_eq!(seen.datasets.keys().collect::<Vec<_>>(), [&ID]);
    assert_eq!(seen.trash[0].entry, entry);
    assert_eq!(seen.trash[0].role, None);
    // Which ownership it never takes again is not known: nothing of the dataset is begun here.
    assert_eq!(seen.unreadable.keys().collect::<Vec<_>>(), [&gone.id]);
}

#[tokio::test]
async fn a_fence_that_cannot_be_read_is_not_taken_for_none() {
    let alpha = Node::primary().await;
    alpha.volumes.destroy(ID).await.unwrap();
    let fence = alpha.root.path().join("fences").join(ID.to_string());
    std::fs::remove_file(&fence).unwrap();
    std::fs::create_dir(&fence).unwrap();
    let refused = alpha.volumes.create(&dataset(), Epoch(9)).await;
    assert!(matches!(refused, Err(VolumeError::Io { .. })), "{refused:?}");
    assert!(!alpha.data().exists());
}

#[tokio::test]
async fn a_refusal_says_what_the_copy_is() {
    let (alpha, beta) = (Node::primary().await, Node::new());
    let said = async |node: &Node| match node.volumes.create(&dataset(), Epoch(9)).await {
        Err(VolumeError::AlreadyHere { role, .. }) => role,
        other => panic!("{other:?}"),
    };
    assert_eq!(said(&alpha).await, "primary");
    alpha.release(2).await.unwrap();
    alpha.push(&beta, "handoff-2", None).await;
    assert_eq!((said(&alpha).await, said(&beta).await), ("released", "replica"));
}

#[tokio::test]
async fn what_was_written_since_the_last_snapshot_is_estimated() {
    let alpha = Node::primary().await;
    alpha.write("one", noise(1, 1_000_000));
    alpha.write("two", noise(2, 500_000));
    let manifestation = alpha.manifestation().await;
    assert_eq!(manifestation.unsent, manifestation.used);
    assert!(manifestation.used.0 >= 1_500_000, "{}", manifestation.used);
    alpha.snapshot("warm-2-1").await;
    assert_eq!(alpha.manifestation().await.unsent.0, 0);
    alpha.write("two", noise(3, 500_000));
    let unsent = alpha.manifestation().await.unsent.0;
    assert!((500_000..600_000).contains(&unsent), "{unsent}");
}

#[tokio::test]
async fn what_is_not_ours_hides_nothing_and_is_left_alone() {
    let alpha = Node::primary().await;
    let seen = alpha.manifestation().await;
    let (datasets, trash) = (
        alpha.root.path().join("datasets"),
        alpha.root.path().join("trash"),
    );
    for place in [&datasets, &trash] {
        std::fs::create_dir(place.join("lost+found")).unwrap();
        std::fs::write(place.join("notes.txt"), b"somebody's").unwrap();
        std::os::unix::fs::symlink("/nowhere", place.join("link")).unwrap();
    }
    // A copy that somebody has made for himself, records and all.
    let backup = datasets.join("backup");
    std::fs::create_dir(&backup).unwrap();
    let record = alpha.data().with_file_name("record.json");
    std::fs::copy(&record, backup.join("record.json")).unwrap();
    for _ in 0..2 {
        let inventory = alpha.volumes.inventory().await.unwrap();
        assert_eq!(inventory.datasets.keys().collect::<Vec<_>>(), [&ID]);
        assert_eq!(inventory.datasets[&ID].role, seen.role);
        assert_eq!(inventory.trash, []);
    }
    alpha.volumes.destroy(ID).await.unwrap();
    for place in [&datasets, &trash] {
        assert_eq!(std::fs::read(place.join("notes.txt")).unwrap(), b"somebody's");
        assert!(place.join("lost+found").is_dir() && place.join("link").is_symlink());
    }
    assert!(backup.join("record.json").is_file());
    assert_eq!(alpha.volumes.inventory().await.unwrap().trash.len(), 1);
}

#[tokio::test]
async fn a_dataset_that_was_taken_from_its_place_is_never_an_absence() {
    let alpha = Node::primary().await;
    let home = alpha.data().parent().unwrap().to_owned();
    for elsewhere in ["aside", &ID.to_string().to_uppercase()] {
        let elsewhere = home.with_file_name(elsewhere);
        std::fs::rename(&home, &elsewhere).unwrap();
        let seen = alpha.volumes.inventory().await.unwrap();
        let said = &seen.unreadable[&ID];
        assert!(said.contains("it is not in its place"), "{said}");
        std::fs::rename(&elsewhere, &home).unwrap();
        let seen = alpha.volumes.inventory().await.unwrap();
        assert!(seen.unreadable.is_empty() && seen.datasets.contains_key(&ID));
    }
}

async fn assert_missed(node: &Node, place: &Path) {
    let aside = node.root.path().join("aside");
    std::fs::rename(place, &aside).unwrap();
    let seen = node.volumes.inventory().await.unwrap();
    assert!(seen.datasets.is_empty());
    let said = &seen.unreadable[&ID];
    let missing = format!("`{}` is missing", place.display());
    assert!(said.contains(&missing), "{said}");
    // Whoever looks at this dataset alone is told the same.
    node.volumes.find(ID).await.unwrap_err();
    std::fs::rename(&aside, place).unwrap();
    let seen = node.volumes.inventory().await.unwrap();
    assert!(seen.unreadable.is_empty() && seen.datasets.contains_key(&ID));
}

#[tokio::test]
async fn data_that_was_taken_from_its_place_is_never_nothing() {
    let (alpha, beta) = (Node::primary().await, Node::new());
    alpha.write("file", b"content");
    alpha.snapshot("warm-2-1").await;
    alpha.push(&beta, "warm-2-1", None).await;
    assert_missed(&alpha, &alpha.data()).await;
    assert_missed(&beta, &beta.copy()).await;
    alpha.release(2).await.unwrap();
    assert_missed(&alpha, &alpha.copy()).await;
}

#[tokio::test]
async fn who_asks_for_one_dataset_is_told_sizes_of_the_last_look_at_all() {
    let alpha = Node::primary().await;
    alpha.write("file", noise(1, 1000));
    // Nobody has looked yet: it is counted.
    let found = alpha.volumes.find(ID).await.unwrap().unwrap();
    alpha.write("file", noise(2, 100_000));
    // An application may be away meanwhile: its files are not all looked at again.
    let again = alpha.volumes.find(ID).await.unwrap().unwrap();
    assert_eq!(again.used, found.used);
    let listed = alpha.manifestation().await;
    assert!(listed.used > found.used);
    let again = alpha.volumes.find(ID).await.unwrap().unwrap();
    assert_eq!(again.used, listed.used);
}

#[tokio::test]
async fn one_dataset_that_is_not_in_its_place_is_not_nowhere() {
    let alpha = Node::primary().await;
    let home = alpha.data().parent().unwrap().to_owned();
    std::fs::rename(&home, home.with_file_name("aside")).unwrap();
    let error = alpha.volumes.find(ID).await.unwrap_err();
    assert!(error.to_string().contains("find dataset"), "{error}");
}
