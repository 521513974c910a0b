//! One volume for one dataset, and a new one under an old id.

use std::os::unix::fs::MetadataExt as _;
use std::sync::Arc;

use flocker_backends::Change;
use flocker_backends::VolumeBackend as _;
use flocker_backends::VolumeError;
use flocker_backends::volume::directory::DirectoryOptions;
use flocker_backends::volume::directory::DirectoryVolumes;
use flocker_model::Dataset;
use flocker_model::DatasetId;
use flocker_model::Epoch;
use flocker_model::Role;
use tokio::sync::Barrier;

use crate::node::ID;
use crate::node::Node;
use crate::node::dataset;
use crate::node::picture;

const N_CREATORS: usize = 6;

/// Creates a dataset by several that know nothing of each other, all at once.
async fn create_at_once(
    node: &Node,
    dataset: &Dataset,
    epochs: [u64; N_CREATORS],
) -> Vec<Result<Change, VolumeError>> {
    let start = Arc::new(Barrier::new(N_CREATORS));
    let creators = epochs.map(|epoch| {
        let volumes = DirectoryVolumes::open(node.root.path(), &DirectoryOptions::cautious()).unwrap();
        let (start, dataset) = (Arc::clone(&start), dataset.clone());
        tokio::spawn(async move {
            start.wait().await;
            volumes.create(&dataset, Epoch(epoch)).await
        })
    });
    let mut answers = Vec::new();
    for creator in creators {
        answers.push(creator.await.unwrap());
    }
    answers
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn l03_creates_at_once_give_one_volume() {
    let node = Node::new();
    for round in 1..=20 {
        let dataset = Dataset {
            id: DatasetId(uuid::Uuid::from_u128(round)),
            ..dataset()
        };
        let answers = create_at_once(&node, &dataset, [1; N_CREATORS]).await;
        let n_made = answers
            .iter()
            .filter(|&answer| matches!(answer, Ok(Change::Made)))
            .count();
        let n_so = answers
            .iter()
            .filter(|&answer| matches!(answer, Ok(Change::AlreadySo)))
            .count();
        assert_eq!((n_made, n_so), (1, N_CREATORS - 1), "{answers:?}");
        // Whoever asks, and whenever, it is the same one.
        let path = node.volumes.path(dataset.id);
        let inode = path.metadata().unwrap().ino();
        std::fs::write(path.join("file"), b"written").unwrap();
        let change = node.volumes.create(&dataset, Epoch::FIRST).await.unwrap();
        assert_eq!(change, Change::AlreadySo);
        assert_eq!(path.metadata().unwrap().ino(), inode);
        assert_eq!(std::fs::read(path.join("file")).unwrap(), b"written");
        let n_volumes = std::fs::read_dir(node.root.path().join("datasets"))
            .unwrap()
            .count();
        assert_eq!(n_volumes as u128, round);
        let n_staged = std::fs::read_dir(node.root.path().join("staging"))
            .unwrap()
            .count();
        assert_eq!(n_staged, 0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn l03_of_creates_for_several_owners_one_wins_and_the_others_are_refused() {
    let node = Node::new();
    for round in 1..=20 {
        let dataset = Dataset {
            id: DatasetId(uuid::Uuid::from_u128(round)),
            ..dataset()
        };
        let epochs = [1, 2, 3, 4, 5, 6];
        let answers = create_at_once(&node, &dataset, epochs).await;
        let mut winner = None;
        for (answer, epoch) in answers.iter().zip(epochs) {
            match answer {
                Ok(Change::Made) => assert_eq!(winner.replace(Epoch(epoch)), None, "{answers:?}"),
                Ok(Change::AlreadySo) => panic!("{answers:?}"),
                Err(error) => assert!(matches!(error, VolumeError::AlreadyHere { .. }), "{error}"),
            }
        }
        let inventory = node.volumes.inventory().await.unwrap();
        let epoch = winner.unwrap();
        assert_eq!(inventory.datasets[&dataset.id].role, Role::Primary { epoch });
    }
}

#[tokio::test]
async fn l23_a_destroyed_dataset_is_created_again_under_its_id() {
    let (alpha, beta) = (Node::primary().await, Node::new());
    alpha.write("file", b"old");
    let old = alpha.snapshot("warm-2-1").await;
    alpha.push(&beta, "warm-2-1", None).await;
    // Something still has a file of it open, as what kept the original's destruction waiting.
    let held = std::fs::File::open(alpha.data().join("file")).unwrap();
    for node in [&alpha, &beta] {
        assert_eq!(node.volumes.destroy(ID).await.unwrap(), Change::Made);
        assert_eq!(node.volumes.destroy(ID).await.unwrap(), Change::AlreadySo);
        assert!(node.volumes.inventory().await.unwrap().datasets.is_empty());
    }

    let change = alpha.volumes.create(&dataset(), Epoch(2)).await.unwrap();
    assert_eq!(change, Change::Made);
    assert_eq!(std::fs::read_dir(alpha.data()).unwrap().count(), 0);
    assert_eq!(alpha.manifestation().await.snapshots, []);
    // Nothing of the old one is in the way: neither its snapshots here nor its copy there.
    alpha.write("file", b"new");
    let new = alpha.snapshot("warm-2-1").await;
    assert_ne!(new, old);
    alpha.push(&beta, "warm-2-1", None).await;
    alpha.hand_over(&beta, 3, Some(new)).await;
    assert_eq!(std::fs::read(beta.data().join("file")).unwrap(), b"new");
    drop(held);
}

#[tokio::test]
async fn l23_every_destroyed_one_of_an_id_is_kept_and_can_be_told_apart() {
    let alpha = Node::new();
    let mut pictures = Vec::new();
    for generation in 1..=4 {
        let change = alpha.volumes.create(&dataset(), Epoch(generation)).await.unwrap();
        assert_eq!(change, Change::Made);
        alpha.write("generation", generation.to_string());
        pictures.push(picture(&alpha.data()));
        assert_eq!(alpha.volumes.destroy(ID).await.unwrap(), Change::Made);
    }
    alpha.volumes.create(&dataset(), Epoch(5)).await.unwrap();
    let trash = alpha.volumes.inventory().await.unwrap().trash;
    assert_eq!(trash.len(), pictures.len());
    for trashed in &trash {
        assert_eq!(trashed.dataset, ID);
        let refused = alpha.volumes.restore(&trashed.entry).await;
        assert!(
            matches!(refused, Err(VolumeError::AlreadyHere { .. })),
            "{refused:?}"
        );
    }
    let mut found = Vec::new();
    for trashed in &trash {
        found.push(picture(
            &alpha.root.path().join("trash").join(&trashed.entry).join("data"),
        ));
    }
    found.sort();
    pictures.sort();
    assert_eq!(found, pictures);
    // The newest comes back once nothing newer has been here.
    let beta = Node::new();
    beta.volumes.create(&dataset(), Epoch(4)).await.unwrap();
    beta.write("generation", "4");
    let newest = picture(&beta.data());
    beta.volumes.destroy(ID).await.unwrap();
    let entry = beta.volumes.inventory().await.unwrap().trash.remove(0).entry;
    assert_eq!(beta.volumes.restore(&entry).await.unwrap(), Change::Made);
    assert_eq!(picture(&beta.data()), newest);
}
