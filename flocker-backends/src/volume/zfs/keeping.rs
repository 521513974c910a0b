//! Keeping what arrives beside the tool that receives it, for the case that the stream is cut.
//!
//! It never holds the tool up, and hardly ever the disk or the processors. What
//! comes so fast that all that would be kept of it comes again in a minute is not
//! kept from there on, nor is what the disk takes more than half of the time to
//! keep. Nor is more kept than is read again in the time that both ends wait for
//! each other, or than leaves room for the copy itself.

use std::io;
use std::mem;
use std::time::Duration;
use std::time::Instant;

use tokio::task::JoinHandle;

use super::spool::Note;
use super::spool::Spool;
use crate::blocking::blocking;

/// How much is kept at once. As much again may be on its way to the disk.
const PIECE: usize = 8 << 20;

/// How much is kept at most: whoever goes on reads all of it again, at both ends, before a byte travels.
const MOST: u64 = 4 << 30;

/// Pieces of which each arrives within this, in the mean, are not worth keeping: so [`MOST`] arrives in about a minute.
const FAST: Duration = Duration::from_millis(125);

/// From how many pieces on that is known. What is empty, or was packed on the way, may come first.
const ENOUGH: u32 = 4;

/// What is kept of one stream.
pub(super) struct Keeper {
    spool: Spool,
    /// As it was written last.
    note: Note,
    /// Where `piece` begins.
    at: u64,
    piece: Vec<u8>,
    /// The digest of everything up to the end of `piece`.
    digest: blake3::Hash,
    /// What is being written, and how long that took.
    writing: Option<JoinHandle<io::Result<(Note, Duration)>>>,
    /// Since when `piece` arrives.
    since: Instant,
    /// When this stream began to arrive, and how many pieces of it have.
    began: Instant,
    n_pieces: u32,
    /// Within what a piece arrives, in the mean, that is not worth keeping.
    fast: Duration,
    /// Up to where it is kept.
    most: u64,
    has_ended: bool,
}

impl Keeper {
    /// Goes on behind what is kept already, in a quarter of the room that there is. The note is written before anything else is.
    pub(super) async fn begin(spool: &Spool, note: Note, at: u64, available: u64) -> io::Result<Self> {
        let keeper = Self {
            spool: spool.clone(),
            note,
            at,
            piece: Vec::new(),
            digest: blake3::hash(b""),
            writing: None,
            since: Instant::now(),
            began: Instant::now(),
            n_pieces: 0,
            fast: FAST,
            most: MOST.min(at.saturating_add(available / 4)),
            has_ended: false,
        };
        let (spool, note) = (spool.clone(), keeper.note.clone());
        blocking(move || spool.set_note(&note)).await?;
        Ok(keeper)
    }

    /// Keeps what comes next, if it can be.
    pub(super) async fn keep(&mut self, bytes: &[u8], digest: blake3::Hash) {
        if self.has_ended {
            return;
        }
        self.piece.extend_from_slice(bytes);
        self.digest = digest;
        if self.piece.len() < PIECE {
            return;
        }
        let is_busy = self
            .writing
            .as_ref()
            .is_some_and(|writing| !writing.is_finished());
        self.n_pieces = self.n_pieces.saturating_add(1);
        let is_fast =
            self.n_pieces >= ENOUGH && self.began.elapsed() < self.fast.saturating_mul(self.n_pieces);
        if is_fast || is_busy || self.at + self.piece.len() as u64 > self.most {
            self.give_up();
            return;
        }
        match self.settle().await {
            Ok(took) if took > self.since.elapsed() / 2 => self.give_up(),
            Ok(_) => self.write(),
            Err(error) => {
                let dataset = self.note.dataset.id;
                tracing::warn!(%dataset, %error, "what arrives is not kept: where it is cut, it begins anew");
            }
        }
    }

    /// Keeps the rest. Where it was to go stays noted: a tool that nobody waited for may bring it there yet.
    pub(super) async fn save(mut self) -> io::Result<()> {
        self.settle().await?;
        if !self.piece.is_empty() {
            self.write();
            self.settle().await?;
        }
        Ok(())
    }

    /// Waits for what is being written, and returns how long that took. Where it could not be, nothing more is kept.
    pub(super) async fn settle(&mut self) -> io::Result<Duration> {
        let Some(writing) = self.writing.take() else {
            return Ok(Duration::ZERO);
        };
        match writing.await.map_err(io::Error::other).flatten() {
            Ok((note, took)) => {
                self.note = note;
                Ok(took)
            }
            Err(error) => {
                // What comes after a gap is of no use.
                self.give_up();
                Err(error)
            }
        }
    }

    fn give_up(&mut self) {
        self.has_ended = true;
        self.piece = Vec::new();
    }

    fn write(&mut self) {
        let (spool, at) = (self.spool.clone(), self.at);
        let piece = mem::take(&mut self.piece);
        self.at += piece.len() as u64;
        let mut note = self.note.clone();
        if let Some(arrival) = &mut note.arrival {
            arrival.kept = self.at;
            arrival.digest = self.digest.to_hex().to_string();
        }
        self.since = Instant::now();
        let began = self.since;
        self.writing = Some(tokio::task::spawn_blocking(move || {
            spool.write(note.dataset.id, at, &piece)?;
            spool.set_note(&note)?;
            Ok((note, began.elapsed()))
        }));
    }
}

#[cfg(test)]
mod tests {
    use flocker_model::Dataset;
    use flocker_model::DatasetId;
    use flocker_model::SnapshotGuid;

    use super::super::able::Blocks;
    use super::super::frame::Header;
    use super::super::frame::Pooling;
    use super::super::spool::Arrival;
    use super::*;

    const ID: DatasetId = DatasetId(uuid::Uuid::from_u128(7));

    fn note() -> Note {
        let dataset = Dataset {
            id: ID,
            owner: "mongodb".parse().unwrap(),
            maximum_size: None,
        };
        let mut note = Note::new(&dataset, 5);
        note.arrival = Some(Arrival {
            into: Some("pool/flocker/7".into()),
            ..Arrival::of(&Header {
                dataset: ID,
                snapshot: "warm-2-1".parse().unwrap(),
                guid: SnapshotGuid(9),
                base: None,
                first: 0,
                blocks: Blocks::default(),
                pooling: Pooling::Impossible,
            })
        });
        note
    }

    /// A keeper of what comes at any rate.
    async fn keeper(spool: &Spool, available: u64) -> Keeper {
        let keeper = Keeper::begin(spool, note(), 0, available).await.unwrap();
        Keeper {
            fast: Duration::ZERO,
            ..keeper
        }
    }

    /// Keeps so many chunks that come at once, and returns what is kept of them and what is noted.
    async fn kept(n_chunks: u8, n_bytes: usize) -> (Vec<u8>, Arrival) {
        let root = tempfile::tempdir().unwrap();
        let spool = Spool(root.path().to_owned());
        let mut keeper = keeper(&spool, u64::MAX).await;
        let mut hasher = blake3::Hasher::new();
        for chunk in 0..n_chunks {
            let bytes = vec![chunk; n_bytes];
            hasher.update(&bytes);
            keeper.keep(&bytes, hasher.finalize()).await;
        }
        keeper.save().await.unwrap();
        let arrival = spool.note(ID).unwrap().unwrap().arrival.unwrap();
        let bytes = std::fs::read(root.path().join(ID.to_string()).join("stream")).unwrap();
        (bytes, arrival)
    }

    #[tokio::test]
    async fn the_little_that_came_before_a_cut_is_kept() {
        let (bytes, arrival) = kept(3, 1000).await;
        let sent = [0, 1, 2].map(|chunk| vec![chunk; 1000]).concat();
        assert_eq!(bytes, sent);
        assert_eq!(arrival.kept, 3000);
        assert_eq!(arrival.digest, blake3::hash(&sent).to_hex().to_string());
        assert_eq!(arrival.into, note().arrival.unwrap().into);
    }

    #[tokio::test]
    async fn what_comes_after_a_gap_is_not_kept() {
        let root = tempfile::tempdir().unwrap();
        let spool = Spool(root.path().to_owned());
        let mut keeper = keeper(&spool, u64::MAX).await;
        // A directory in the place of the stream: the first piece cannot be written.
        let stream = root.path().join(ID.to_string()).join("stream");
        std::fs::create_dir(&stream).unwrap();
        keeper.keep(&vec![1; PIECE], blake3::hash(b"1")).await;
        keeper.settle().await.unwrap_err();
        std::fs::remove_dir(&stream).unwrap();
        keeper.keep(b"2", blake3::hash(b"2")).await;
        keeper.save().await.unwrap();
        assert_eq!(spool.note(ID).unwrap().unwrap().arrival.unwrap().kept, 0);
    }

    #[tokio::test]
    async fn no_more_is_kept_than_leaves_room_for_the_copy() {
        let root = tempfile::tempdir().unwrap();
        let spool = Spool(root.path().to_owned());
        let available = 4 * PIECE as u64;
        let mut keeper = keeper(&spool, available).await;
        for _ in 0..3 {
            keeper.keep(&vec![1; PIECE], blake3::hash(b"1")).await;
            drop(keeper.settle().await);
        }
        keeper.save().await.unwrap();
        let arrival = spool.note(ID).unwrap().unwrap().arrival.unwrap();
        assert_eq!(arrival.kept, PIECE as u64);
    }

    /// Keeps so many whole pieces, and returns how many of them are kept.
    async fn n_kept(mut keeper: Keeper, n_pieces: usize) -> u64 {
        let spool = keeper.spool.clone();
        for _ in 0..n_pieces {
            keeper.keep(&vec![1; PIECE], blake3::hash(b"1")).await;
            drop(keeper.settle().await);
            // As if it had come slowly for a disk.
            keeper.since = keeper.began;
        }
        keeper.save().await.unwrap();
        spool.note(ID).unwrap().unwrap().arrival.unwrap().kept / PIECE as u64
    }

    #[tokio::test]
    async fn what_would_come_again_soon_is_not_kept() {
        let root = tempfile::tempdir().unwrap();
        let fast = Keeper {
            fast: Duration::MAX,
            ..keeper(&Spool(root.path().to_owned()), u64::MAX).await
        };
        assert_eq!(n_kept(fast, 6).await, u64::from(ENOUGH) - 1);
    }

    #[tokio::test]
    async fn what_comes_slowly_is_kept_though_some_of_it_comes_fast() {
        let root = tempfile::tempdir().unwrap();
        let spool = Spool(root.path().to_owned());
        let slow = Keeper {
            began: Instant::now().checked_sub(Duration::from_secs(100)).unwrap(),
            ..Keeper::begin(&spool, note(), 0, u64::MAX).await.unwrap()
        };
        assert_eq!(n_kept(slow, 6).await, 6);
    }

    #[tokio::test]
    async fn what_is_noted_of_what_came_too_fast_is_true() {
        const CHUNK: usize = 1 << 20;
        let (bytes, arrival) = kept(40, CHUNK).await;
        let kept = usize::try_from(arrival.kept).unwrap();
        assert!((PIECE..=40 * CHUNK).contains(&kept), "{kept}");
        let sent: Vec<u8> = (0..40).flat_map(|chunk| vec![chunk; CHUNK]).collect();
        assert_eq!(bytes[..kept], sent[..kept]);
        assert_eq!(arrival.digest, blake3::hash(&sent[..kept]).to_hex().to_string());
    }
}
