//! Cuts a copy between two directories anywhere, spoils what the receiver offers and what travels, and goes on.
//!
//! The input says what the files are, how they are written meanwhile, where
//! the stream is cut, and what becomes of the token and of the next stream.
//! Whatever arrives is what was sent, or is refused; and after any of this a
//! sender and a receiver that are left alone bring the copy to its end, with
//! every byte right.

#![no_main]

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::LazyLock;

use flocker_backends::Acquisition;
use flocker_backends::Handoff;
use flocker_backends::ReceiveRequest;
use flocker_backends::SendRequest;
use flocker_backends::VolumeBackend as _;
use flocker_backends::volume::directory::DirectoryOptions;
use flocker_backends::volume::directory::DirectoryVolumes;
use flocker_backends::volume::directory::fuzzing::read_token;
use flocker_model::Dataset;
use flocker_model::DatasetId;
use flocker_model::Epoch;
use flocker_model::Manifestation;
use flocker_model::Role;
use flocker_model::SnapshotGuid;
use flocker_model::SnapshotName;
use libfuzzer_sys::fuzz_target;
use tempfile::TempDir;
use tokio::io::AsyncReadExt as _;
use tokio::runtime::Runtime;

static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| {
    tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .expect("a runtime can be made")
});

/// How long a block is.
const BLOCK: u64 = 128 * 1024;

/// How many tries a copy may take that nobody disturbs, the look after the last of them counted.
const TRIES: usize = 5;

fuzz_target!(|data: &[u8]| {
    let (choices, text) = data.split_at(data.len().min(48));
    let text = String::from_utf8_lossy(text);
    let _n_blocks = read_token(&text);
    RUNTIME.block_on(copy(Choices(choices), &text));
});

/// Choices drawn from bytes; the first choice for ever once they are used up.
struct Choices<'a>(&'a [u8]);

impl Choices<'_> {
    fn byte(&mut self) -> u8 {
        let Some((byte, rest)) = self.0.split_first() else {
            return 0;
        };
        self.0 = rest;
        *byte
    }

    fn below(&mut self, sides: usize) -> usize {
        let number =
            usize::from(self.byte()) << 16 | usize::from(self.byte()) << 8 | usize::from(self.byte());
        number % sides.max(1)
    }
}

/// One end of the copy.
struct End {
    root: TempDir,
    volumes: DirectoryVolumes,
}

impl End {
    fn new() -> Self {
        let root = tempfile::tempdir_in("/dev/shm")
            .or_else(|_| tempfile::tempdir())
            .expect("a directory can be made");
        let volumes = DirectoryVolumes::open(root.path(), &DirectoryOptions::cautious());
        let volumes = volumes.expect("volumes can be opened");
        Self { root, volumes }
    }

    async fn seen(&self) -> Option<Manifestation> {
        let inventory = self.volumes.inventory().await.expect("it can be looked at");
        inventory.datasets.get(&dataset().id).cloned()
    }

    async fn guid(&self, name: &SnapshotName) -> Option<SnapshotGuid> {
        let snapshots = self.seen().await?.snapshots;
        let found = snapshots.iter().find(|snapshot| snapshot.name == *name);
        found.map(|snapshot| snapshot.guid)
    }

    /// Everything that the files hold, wherever they lie.
    fn content(&self) -> BTreeMap<String, Vec<u8>> {
        let home = self.root.path().join("datasets").join(dataset().id.to_string());
        let place = ["data", "copy"].map(|name| home.join(name));
        let place = place
            .iter()
            .find(|place| place.exists())
            .expect("the data is there");
        let files = fs::read_dir(place).expect("it can be listed");
        files
            .map(|file| {
                let file = file.expect("it can be listed").path();
                let name = file.file_name().expect("it has a name").to_string_lossy();
                (name.into_owned(), fs::read(&file).expect("it can be read"))
            })
            .collect()
    }
}

fn dataset() -> Dataset {
    Dataset {
        id: DatasetId::derived(&"web".parse().expect("it is a name")),
        owner: "web".parse().expect("it is a name"),
        maximum_size: None,
    }
}

async fn copy(mut choices: Choices<'_>, text: &str) {
    let (source, target) = (End::new(), End::new());
    let id = dataset().id;
    source
        .volumes
        .create(&dataset(), Epoch(1))
        .await
        .expect("it can be created");
    let data = source.volumes.path(id);
    fill(&mut choices, &data);
    let warm = SnapshotName::warm(Epoch(2), 1);
    let last = SnapshotName::handoff(Epoch(2));
    if choices.byte().is_multiple_of(2) {
        source
            .volumes
            .snapshot(id, &warm)
            .await
            .expect("a snapshot can be taken");
        write(&mut choices, &data);
        disturb(&source, &target, &warm, None, &mut choices, text, Some(&data)).await;
        arrive(&source, &target, &warm, None).await;
    }
    let base = source.guid(&warm).await;
    assert_eq!(target.guid(&warm).await, base, "both have the same");
    write(&mut choices, &data);
    let handoff = Handoff {
        dataset: id,
        epoch: Epoch(2),
        to: "beta".parse().expect("it is a name"),
        last: last.clone(),
    };
    source
        .volumes
        .release(&handoff)
        .await
        .expect("it can be released");
    disturb(&source, &target, &last, base, &mut choices, text, None).await;
    arrive(&source, &target, &last, base).await;
    let guid = source.guid(&last).await.expect("it was released with a snapshot");
    let acquisition = Acquisition {
        dataset: id,
        epoch: Epoch(2),
        from: last,
        guid: Some(guid),
    };
    target
        .volumes
        .acquire(&acquisition)
        .await
        .expect("what arrived can be acquired");
    let seen = target.seen().await.expect("it is there");
    assert_eq!(seen.role, Role::Primary { epoch: Epoch(2) });
    assert_eq!(source.content(), target.content(), "every byte is right");
}

/// Makes a few files of a few blocks.
fn fill(choices: &mut Choices<'_>, data: &Path) {
    for name in ["one", "two", "three"] {
        let file = fs::File::create(data.join(name)).expect("it can be made");
        let shape = choices.byte();
        let length = [0, 1, BLOCK, BLOCK + 1, 3 * BLOCK - 1][usize::from(shape % 5)];
        file.set_len(length).expect("it can be made longer");
        for block in 0..length.div_ceil(BLOCK) {
            // One of two is all zero.
            if shape >> (block + 3) & 1 == 1 {
                let n_bytes = usize::try_from((length - block * BLOCK).min(BLOCK)).expect("it is a block");
                file.write_all_at(&vec![shape; n_bytes], block * BLOCK)
                    .expect("it can be written");
            }
        }
    }
}

/// Writes here and there, as an application does.
fn write(choices: &mut Choices<'_>, data: &Path) {
    for _ in 0..choices.byte() % 4 {
        let how = choices.byte();
        let path = data.join(["one", "two", "three"][usize::from(how / 8 % 3)]);
        match how % 5 {
            0 => drop(fs::remove_file(path)),
            1 => drop(fs::write(path, [])),
            _ => {
                let mut options = fs::File::options();
                let file = options.create(true).truncate(false).write(true).open(path);
                let place = choices.below(usize::try_from(3 * BLOCK).expect("it is small"));
                file.expect("it can be opened")
                    .write_all_at(&[how % 3; 4], place as u64)
                    .expect("it can be written");
            }
        }
    }
}

/// Sends a part, and then goes on with what is not quite what was offered or not quite what was sent.
async fn disturb(
    source: &End,
    target: &End,
    name: &SnapshotName,
    base: Option<SnapshotGuid>,
    choices: &mut Choices<'_>,
    text: &str,
    writes: Option<&Path>,
) {
    let mut whole = sent(source, name, base, None).await;
    whole.truncate(choices.below(whole.len() + 1));
    if received(target, name, base, &whole).await {
        // What is there is not sent again: where it is blurred, the sender would take what was written since for it.
        return;
    }
    if let Some(data) = writes {
        write(choices, data);
    }
    let offered = target.seen().await.and_then(|seen| seen.partial);
    if let Some(offered) = &offered {
        assert_eq!(offered.snapshot, *name);
        assert!(read_token(&offered.token).is_some(), "an offer can be taken up");
    }
    let token = offered.map(|offered| offered.token);
    let token = match choices.byte() % 4 {
        0 => token,
        1 => Some(text.to_owned()),
        2 => token.map(|mut token| {
            let place = choices.below(token.len());
            let letter = char::from(b"0123456789abcdef:="[choices.below(18)]);
            token.replace_range(place..=place, letter.encode_utf8(&mut [0; 4]));
            token
        }),
        // What was offered, and more that is said of blocks before.
        _ => token.map(|token| token + text),
    };
    let mut stream = sent(source, name, base, token).await;
    for _ in 0..choices.byte() % 3 {
        let place = choices.below(stream.len());
        match choices.byte() % 3 {
            0 => stream.truncate(place),
            1 => stream.extend_from_within(place..),
            _ => {
                if let Some(byte) = stream.get_mut(place) {
                    *byte = byte.wrapping_add(choices.byte());
                }
            }
        }
    }
    if received(target, name, base, &stream).await {
        let guid = source.guid(name).await;
        assert_eq!(target.guid(name).await, guid, "what arrived is what was sent");
    }
}

/// Sends again and again from where it stopped, with nobody in the way, until all of it is there.
async fn arrive(source: &End, target: &End, name: &SnapshotName, base: Option<SnapshotGuid>) {
    for _ in 0..TRIES {
        if target.guid(name).await.is_some() {
            assert_eq!(target.guid(name).await, source.guid(name).await);
            return;
        }
        let partial = target.seen().await.and_then(|seen| seen.partial);
        let token = partial.map(|partial| partial.token);
        let stream = sent(source, name, base, token).await;
        received(target, name, base, &stream).await;
    }
    panic!("{name} does not arrive");
}

async fn sent(
    source: &End,
    name: &SnapshotName,
    base: Option<SnapshotGuid>,
    resume: Option<String>,
) -> Vec<u8> {
    let request = SendRequest {
        dataset: dataset().id,
        snapshot: name.clone(),
        base,
        resume,
    };
    let mut stream = source.volumes.send(&request).await.expect("it can be sent");
    let mut bytes = Vec::new();
    // A stream that fails half way has been a stream until then.
    drop(stream.read_to_end(&mut bytes).await);
    bytes
}

/// Says whether it was taken.
async fn received(target: &End, name: &SnapshotName, base: Option<SnapshotGuid>, stream: &[u8]) -> bool {
    let request = ReceiveRequest {
        dataset: dataset(),
        snapshot: name.clone(),
        base,
    };
    let stream = Box::pin(std::io::Cursor::new(stream.to_vec()));
    let received = target.volumes.receive(&request, stream).await;
    received.is_ok()
}
