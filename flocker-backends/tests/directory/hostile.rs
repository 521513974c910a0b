//! A stream may come from anybody.

use flocker_backends::VolumeBackend as _;
use proptest::prelude::*;

use crate::node::ID;
use crate::node::Node;
use crate::node::noise;
use crate::node::picture;

/// A change of a stream that its digests do not show: they are made to fit again.
#[derive(Clone, Debug)]
enum Mutation {
    Flip {
        place: prop::sample::Index,
        bit: u8,
    },
    Cut {
        place: prop::sample::Index,
    },
    Insert {
        place: prop::sample::Index,
        bytes: Vec<u8>,
    },
    Overwrite {
        place: prop::sample::Index,
        bytes: Vec<u8>,
    },
}

fn mutation() -> impl Strategy<Value = Mutation> {
    let place = any::<prop::sample::Index>;
    let bytes = || prop::collection::vec(any::<u8>(), 1..9);
    let odd = || {
        prop::sample::select(vec![
            b"../".to_vec(),
            b"/etc".to_vec(),
            vec![0],
            vec![0xff; 8],
            vec![0, 0, 0, 0, 0, 0, 0, 0x80],
        ])
    };
    prop_oneof![
        (place(), 0..8_u8).prop_map(|(place, bit)| Mutation::Flip { place, bit }),
        place().prop_map(|place| Mutation::Cut { place }),
        (place(), bytes()).prop_map(|(place, bytes)| Mutation::Insert { place, bytes }),
        (place(), prop_oneof![bytes(), odd()])
            .prop_map(|(place, bytes)| Mutation::Overwrite { place, bytes }),
    ]
}

/// Header and manifest of the stream are its first bytes; the blocks after them are far longer.
fn mutate(bytes: &mut Vec<u8>, reach: usize, mutation: &Mutation) {
    match mutation {
        Mutation::Flip { place, bit } => {
            let place = place.index(reach);
            bytes[place] ^= 1 << bit;
        }
        Mutation::Cut { place } => bytes.truncate(place.index(reach)),
        Mutation::Insert { place, bytes: more } => {
            let place = place.index(reach);
            bytes.splice(place..place, more.iter().copied());
        }
        Mutation::Overwrite { place, bytes: more } => {
            let place = place.index(reach);
            let end = bytes.len().min(place + more.len());
            bytes.splice(place..end, more.iter().copied());
        }
    }
}

/// Where a stream spells the guid of its manifest, and how long its manifest is.
const PLAN: std::ops::Range<usize> = 106..122;
pub(crate) const LENGTH: std::ops::Range<usize> = 130..138;

/// Makes the guid of a changed manifest fit, as somebody would who means harm.
pub(crate) fn sign(bytes: &mut [u8], snapshot: &[u8]) {
    let Some(length) = bytes.get(LENGTH) else { return };
    let length = usize::try_from(u64::from_le_bytes(length.try_into().unwrap())).unwrap_or(usize::MAX);
    let Some(manifest) = bytes.get(138..138_usize.saturating_add(length)) else {
        return;
    };
    let mut hasher = blake3::Hasher::new();
    hasher.update(&(snapshot.len() as u64).to_le_bytes());
    hasher.update(snapshot);
    hasher.update(manifest);
    let guid: [u8; 16] = hasher.finalize().as_bytes()[..16].try_into().unwrap();
    bytes[PLAN].copy_from_slice(&guid);
    let end = bytes.len();
    bytes[end - 16..].copy_from_slice(&guid);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn no_stream_writes_outside_of_its_dataset_or_makes_us_panic(
        mutations in prop::collection::vec(mutation(), 1..5),
        is_signed in any::<bool>(),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (alpha, beta) = (Node::primary().await, Node::new());
            alpha.write("a/b", noise(1, 200));
            alpha.write("a/c", noise(2, 300));
            std::os::unix::fs::symlink("a", alpha.data().join("link")).unwrap();
            std::fs::hard_link(alpha.data().join("a/b"), alpha.data().join("second")).unwrap();
            alpha.snapshot("warm-2-1").await;
            let mut bytes = alpha.send("warm-2-1", None, None).await.unwrap();
            let outside = |node: &Node| {
                let mut lines = picture(node.root.path());
                // What is in the dataset may change; so may the times of what it is in.
                lines.retain(|line| !line.contains("datasets") && !line.contains("locks"));
                let names = lines.into_iter().map(|line| line.split(' ').take(2).collect::<String>());
                names.collect::<Vec<_>>()
            };
            let before = outside(&beta);
            for mutation in &mutations {
                if bytes.len() > 200 {
                    let reach = bytes.len();
                    mutate(&mut bytes, reach, mutation);
                }
            }
            if is_signed && bytes.len() > 200 {
                sign(&mut bytes, b"warm-2-1");
            }
            // Whatever it answers, it answers.
            drop(beta.receive("warm-2-1", None, bytes).await);
            assert_eq!(outside(&beta), before);
            let inventory = beta.volumes.inventory().await.unwrap();
            assert!(inventory.datasets.keys().all(|&dataset| dataset == ID));
        });
    }
}
