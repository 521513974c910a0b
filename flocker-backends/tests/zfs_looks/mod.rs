//! What is seen of a pool, and what is not asked for.

use std::os::unix::fs::PermissionsExt as _;

use flocker_backends::VolumeBackend as _;
use flocker_backends::conformance::VolumeHarness as _;
use flocker_backends::conformance::run;
use flocker_backends::volume::zfs::ZfsVolumes;
use flocker_model::Dataset;
use flocker_model::DatasetId;
use flocker_model::Epoch;

use crate::ID;
use crate::create;
use crate::dataset;
use crate::filesystem;
use crate::name;
use crate::zfs_support::Parent;
use crate::zfs_support::zfs_says;

#[test]
fn a_dataset_that_cannot_be_read_is_named_hides_no_other_and_is_not_touched() {
    run(async {
        let parent = Parent::new().await;
        create(&parent).await;
        let other = Dataset {
            id: DatasetId(uuid::Uuid::from_u128(8)),
            ..dataset()
        };
        parent.backend().create(&other, Epoch::FIRST).await.unwrap();
        let ours = filesystem(&parent);
        let role = zfs_says(&["get", "-H", "-o", "value", "flocker:role", &ours]).await;
        zfs_says(&["set", "flocker:role=nonsense", &ours]).await;
        let seen = parent.backend().inventory().await.unwrap();
        assert_eq!(seen.datasets.keys().collect::<Vec<_>>(), [&other.id]);
        assert_eq!(seen.unreadable.keys().collect::<Vec<_>>(), [&ID]);
        assert!(seen.unreadable[&ID].contains(&ours), "{}", seen.unreadable[&ID]);
        parent
            .backend()
            .create(&dataset(), Epoch::FIRST)
            .await
            .unwrap_err();
        parent.backend().destroy(ID).await.unwrap_err();
        zfs_says(&["set", &format!("flocker:role={}", role.trim()), &ours]).await;
        // Two that say that they are the same: nobody knows which is.
        let twin = format!("{}/twin", parent.options.parent);
        zfs_says(&["create", "-o", &format!("flocker:role={}", role.trim()), &twin]).await;
        zfs_says(&["set", &format!("flocker:dataset={ID}"), &twin]).await;
        let seen = parent.backend().inventory().await.unwrap();
        assert_eq!(seen.datasets.keys().collect::<Vec<_>>(), [&other.id]);
        let said = &seen.unreadable[&ID];
        assert!(said.contains(&ours) && said.contains(&twin), "{said}");
        parent.backend().find(ID).await.unwrap_err();
        let taken = parent.backend().snapshot(ID, &name("warm-2-1")).await;
        taken.unwrap_err();
        zfs_says(&["destroy", &twin]).await;
        let seen = parent.backend().inventory().await.unwrap();
        assert!(seen.unreadable.is_empty() && seen.datasets.contains_key(&ID));
        assert_eq!(parent.read(ID, "file").await.as_deref(), Some(b"one".as_slice()));
    });
}

/// How long a look at one takes must not grow with the snapshots of all others: an application waits for it.
#[test]
fn one_dataset_is_seen_by_itself_as_it_is_among_all_others() {
    run(async {
        let parent = Parent::new().await;
        create(&parent).await;
        let other = Dataset {
            id: DatasetId(uuid::Uuid::from_u128(8)),
            ..dataset()
        };
        parent.backend().create(&other, Epoch::FIRST).await.unwrap();
        for taken in ["warm-2-1", "warm-2-2"] {
            parent.backend().snapshot(ID, &name(taken)).await.unwrap();
            parent.backend().snapshot(other.id, &name(taken)).await.unwrap();
        }
        let tool = parent.options.state.join("zfs");
        let said = parent.options.state.join("said");
        let script = format!(
            "#!/bin/sh\necho \"$@\" >> '{}'\nexec zfs \"$@\"\n",
            said.display()
        );
        std::fs::write(&tool, script).unwrap();
        std::fs::set_permissions(&tool, std::fs::Permissions::from_mode(0o700)).unwrap();
        let mut options = parent.options.clone();
        options.program = tool;
        let listening = ZfsVolumes::open(&options).await.unwrap();
        let alone = listening.find(ID).await.unwrap().unwrap();
        let words = std::fs::read_to_string(&said).unwrap();
        assert!(!words.contains("-rHp"), "{words}");
        let among_all = parent.backend().inventory().await.unwrap().datasets;
        assert_eq!(alone.snapshots.len(), 2);
        assert_eq!(alone.snapshots, among_all[&ID].snapshots);
        assert_eq!(
            (alone.role, alone.used),
            (among_all[&ID].role.clone(), among_all[&ID].used)
        );
        // Its name says nothing.
        let renamed = format!("{}/renamed", parent.options.parent);
        zfs_says(&["unmount", &filesystem(&parent)]).await;
        zfs_says(&["rename", &filesystem(&parent), &renamed]).await;
        let found = listening.find(ID).await.unwrap().unwrap();
        assert_eq!(found.snapshots, among_all[&ID].snapshots);
        assert!(std::fs::read_to_string(&said).unwrap().contains("-rHp"));
    });
}
