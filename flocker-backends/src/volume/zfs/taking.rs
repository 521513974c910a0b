//! Giving what arrives to the pool, piece by piece, as it is found right.
//!
//! It holds the lock of the dataset's state all the time: nothing else changes
//! a dataset that is being received.

use std::io;
use std::io::Read as _;
use std::mem;
use std::time::Duration;

use flocker_model::ByteSize;
use flocker_model::DatasetId;
use flocker_model::SnapshotGuid;
use tokio::io::AsyncWriteExt as _;
use tokio::process::Child;
use tokio::process::ChildStdin;
use tokio::sync::mpsc;
use tokio::sync::oneshot;

use super::begin;
use super::begin::Begin;
use super::frame::CHUNK;
use super::frame::Header;
use super::frame::Pooling;
use super::keeping::Keeper;
use super::partial;
use super::receiving::Piece;
use super::receiving::complete;
use super::receiving::require_wanted;
use super::seen::Seen;
use super::seen::diverged;
use super::shared::Shared;
use super::spool::Arrival;
use super::spool::Note;
use super::spool::Spool;
use super::tool::Context as _;
use super::tool::broken;
use super::tool::is_refusal;
use super::tool::or_no_space;
use super::tool::says;
use crate::blocking::blocking;
use crate::change::Change;
use crate::volume::ReceiveRequest;
use crate::volume::VolumeError;

/// How long the pool may take to accept a piece, or to take back what it had begun.
const PATIENCE: Duration = Duration::from_secs(120);

/// How long the pool may take to finish after it was given everything.
const LAST_PATIENCE: Duration = Duration::from_secs(15 * 60);

/// How long what is kept may take to be given to the pool: the sender waits, and not much longer.
const REPLAY: Duration = Duration::from_secs(40);

/// Takes what comes in, to its end.
pub(super) async fn take(
    shared: &Shared,
    request: &ReceiveRequest,
    mut queue: mpsc::Receiver<Piece>,
    mut caller: oneshot::Receiver<()>,
) -> Result<Change, VolumeError> {
    let dataset = request.dataset.id;
    let mut seen = shared.look_for(dataset).await?;
    if complete(shared, &seen, dataset).await? == Change::Made {
        seen = shared.look_for(dataset).await?;
    }
    let known = require_wanted(&seen, request)?;
    let header = match queue.recv().await {
        Some(Piece::Begin(header)) => header,
        Some(Piece::Broken(error)) => return Err(error),
        Some(Piece::Chunk(..) | Piece::End(_)) | None => return Err(abandoned(dataset, 0)),
    };
    match known {
        Some(guid) if guid == header.guid => return Ok(Change::AlreadySo),
        Some(_) => return Err(diverged(dataset, "it has another snapshot of that name")),
        None => {}
    }
    if !shared.tool.able.takes.cover(header.blocks) {
        // What is kept of it would be asked for again and again.
        shared.drop_partial(dataset).await?;
        return Err(refused(
            dataset,
            "it has blocks that the pool of this node does not take",
        ));
    }
    if !header.is_rest() {
        let note = shared.note(&seen, dataset).await?;
        if shared.drop_pooled(&seen, dataset, note.as_ref()).await? == Change::Made {
            // Nothing else is received where the pool keeps the beginning of a stream.
            seen = shared.look_for(dataset).await?;
        }
    }
    let mut taking = Taking::begin(shared, request, &seen, header).await?;
    match taking.run(&mut queue, &mut caller).await {
        Ok(()) => taking.finish().await,
        Err(error) => taking.give_up(error).await,
    }
}

/// Says why a stream is not taken.
pub(super) fn refused(dataset: DatasetId, reason: impl Into<String>) -> VolumeError {
    VolumeError::Stream {
        dataset,
        reason: reason.into(),
    }
}

/// Whoever handed the stream over has gone away.
fn abandoned(dataset: DatasetId, received: u64) -> VolumeError {
    VolumeError::Cut {
        dataset,
        received: ByteSize(received),
        source: io::ErrorKind::UnexpectedEof.into(),
    }
}

/// The tool that receives, as far as it has been started.
enum Receiver {
    /// It is not started before the record that begins a stream is there.
    Awaits(Vec<u8>),
    Runs(Box<Child>, ChildStdin),
    Ended,
}

/// Where it is kept what has arrived, for the case that the stream is cut.
enum Keeping {
    /// The tool itself does that.
    InPool,
    Beside(Box<Keeper>),
}

/// A stream that is being given to the pool.
struct Taking<'a> {
    shared: &'a Shared,
    request: &'a ReceiveRequest,
    seen: &'a Seen,
    header: Header,
    spool: Spool,
    into: String,
    hasher: blake3::Hasher,
    n_taken: u64,
    /// The newest chunk. The pool gets it when it is known that it is not the last one, or that it is.
    held_back: Vec<u8>,
    receiver: Receiver,
    /// Whether the tool has ended by itself and says that it takes no more of this: nobody has killed it, and nothing was busy.
    has_refused: bool,
    keeping: Keeping,
}

impl<'a> Taking<'a> {
    /// Notes where it goes.
    async fn begin(
        shared: &'a Shared,
        request: &'a ReceiveRequest,
        seen: &'a Seen,
        header: Header,
    ) -> Result<Self, VolumeError> {
        let dataset = request.dataset.id;
        let what = || format!("keep what arrives of dataset {dataset}");
        let spool = shared.require_spool(seen).await?;
        let known = spool.note(dataset).to(what)?;
        let mut note = match known {
            Some(note) => note,
            None => Note::new(&request.dataset, shared.now()?),
        };
        let pooled = partial::of_note(seen, &note);
        let kept = note
            .arrival
            .take()
            .filter(|kept| (kept.guid, kept.base, kept.blocks) == (header.guid, header.base, header.blocks));
        let free = || match seen.here.get(&dataset) {
            Some(ours) => ours.name.clone(),
            None => seen.free_name(&shared.parent, dataset),
        };
        let found = match header.pooling {
            Pooling::Rest(digest) => {
                let pooled = pooled.filter(|pooled| pooled.token.digest() == digest);
                kept.zip(pooled).map(|(kept, pooled)| (kept, pooled.into))
            }
            Pooling::Impossible | Pooling::Possible if header.first > 0 => kept
                .filter(|kept| header.first <= kept.kept)
                .map(|kept| (kept, free())),
            Pooling::Impossible | Pooling::Possible => Some((Arrival::of(&header), free())),
        };
        let Some((mut arrival, into)) = found else {
            return Err(refused(
                dataset,
                "it goes on from something that has not arrived here",
            ));
        };
        arrival.into = Some(into.clone());
        note.arrival = Some(arrival);
        let keeping = if is_kept_in_pool(shared, &header) {
            blocking({
                let spool = spool.clone();
                let is_rest = header.is_rest();
                move || {
                    spool.set_note(&note)?;
                    if !is_rest {
                        // What was kept beside the pool of another is not gone on with.
                        spool.remove_stream(dataset)?;
                    }
                    Ok(())
                }
            })
            .await
            .to(what)?;
            Keeping::InPool
        } else {
            let keeper = Keeper::begin(&spool, note, header.first, seen.available);
            Keeping::Beside(keeper.await.to(what)?.into())
        };
        let n_taken = if header.is_rest() { header.first } else { 0 };
        Ok(Self {
            shared,
            request,
            seen,
            header,
            spool,
            into,
            hasher: blake3::Hasher::new(),
            n_taken,
            held_back: Vec::new(),
            receiver: Receiver::Awaits(Vec::new()),
            has_refused: false,
            keeping,
        })
    }

    fn dataset(&self) -> DatasetId {
        self.request.dataset.id
    }

    fn what(&self) -> String {
        format!(
            "receive snapshot {} of dataset {}",
            self.request.snapshot,
            self.dataset()
        )
    }

    /// Gives everything to the pool, and waits until it has it.
    async fn run(
        &mut self,
        queue: &mut mpsc::Receiver<Piece>,
        caller: &mut oneshot::Receiver<()>,
    ) -> Result<(), VolumeError> {
        if let Some(ours) = self.seen.here.get(&self.dataset()) {
            // Readers would go on to see what was there before.
            self.shared.unmount(ours).await?;
        }
        let kept = self.give_what_is_kept(caller);
        match tokio::time::timeout(REPLAY, kept).await {
            Ok(Ok(())) => {}
            // To go on from here would end here again.
            Ok(Err(VolumeError::Io { what, source })) if !is_full(&source) => {
                return Err(refused(self.dataset(), format!("could not {what}: {source}")));
            }
            Ok(Err(error)) => return Err(error),
            Err(_) => {
                let reason = "what has arrived of it cannot be read again soon enough";
                return Err(refused(self.dataset(), reason));
            }
        }
        let damaged = || refused(self.request.dataset.id, "it was damaged on its way");
        loop {
            match queue.recv().await {
                Some(Piece::Chunk(bytes, digest)) => {
                    self.hasher.update(&bytes);
                    if self.hasher.finalize() != digest {
                        return Err(damaged());
                    }
                    if let Keeping::Beside(keeper) = &mut self.keeping {
                        keeper.keep(&bytes, digest).await;
                    }
                    self.offer(bytes).await?;
                }
                Some(Piece::End(digest)) => {
                    if self.hasher.finalize() != digest {
                        return Err(damaged());
                    }
                    return self.end().await;
                }
                Some(Piece::Broken(error)) => return Err(error),
                Some(Piece::Begin(_)) | None => return Err(abandoned(self.dataset(), self.n_taken)),
            }
        }
    }

    /// Begins with what has arrived earlier. That it is right was found out then.
    async fn give_what_is_kept(&mut self, caller: &mut oneshot::Receiver<()>) -> Result<(), VolumeError> {
        let dataset = self.dataset();
        let what = || format!("read what has arrived of dataset {dataset}");
        let mut left = self.header.first;
        if left == 0 || self.header.is_rest() {
            return Ok(());
        }
        let spool = self.spool.clone();
        let mut file = blocking(move || spool.open(dataset)).await.to(what)?;
        while left > 0 {
            if matches!(caller.try_recv(), Err(oneshot::error::TryRecvError::Closed)) {
                return Err(abandoned(dataset, self.n_taken));
            }
            let most = usize::try_from(left).unwrap_or(CHUNK).min(CHUNK);
            let read = blocking(move || {
                let mut bytes = vec![0; most];
                file.read_exact(&mut bytes)?;
                Ok((file, bytes))
            });
            let bytes;
            (file, bytes) = read.await.to(what)?;
            left -= most as u64;
            self.hasher.update(&bytes);
            self.offer(bytes).await?;
        }
        Ok(())
    }

    /// Gives the chunk before this one to the pool.
    async fn offer(&mut self, bytes: Vec<u8>) -> Result<(), VolumeError> {
        self.n_taken = self.n_taken.saturating_add(bytes.len() as u64);
        let before = mem::replace(&mut self.held_back, bytes);
        self.give(&before).await
    }

    async fn give(&mut self, bytes: &[u8]) -> Result<(), VolumeError> {
        if let Receiver::Awaits(beginning) = &mut self.receiver {
            beginning.extend_from_slice(bytes);
            let Some(record) = beginning.first_chunk() else {
                return Ok(());
            };
            require_asked_for(record, &self.header)
                .map_err(|reason| refused(self.request.dataset.id, reason))?;
            let beginning = mem::take(beginning);
            let (child, stdin) = self.start()?;
            self.receiver = Receiver::Runs(child.into(), stdin);
            return self.write(&beginning).await;
        }
        self.write(bytes).await
    }

    async fn write(&mut self, bytes: &[u8]) -> Result<(), VolumeError> {
        let Receiver::Runs(_, stdin) = &mut self.receiver else {
            return Ok(());
        };
        match tokio::time::timeout(PATIENCE, stdin.write_all(bytes)).await {
            Ok(Ok(())) => Ok(()),
            // It has ended, and says why.
            Ok(Err(_)) => {
                self.wait_for_word().await?;
                Err(broken(self.what(), "the pool took no more of it"))
            }
            Err(_) => Err(broken(
                self.what(),
                format!("the pool took nothing for {PATIENCE:?}"),
            )),
        }
    }

    /// Starts the tool. Never with the option that would let it roll back or destroy.
    fn start(&self) -> Result<(Child, ChildStdin), VolumeError> {
        let able = &self.shared.tool.able;
        let mut arguments = vec!["receive"];
        if able.receives_unmounted {
            arguments.push("-u");
        }
        if matches!(self.keeping, Keeping::InPool) {
            arguments.push("-s");
        }
        let is_new = !self.seen.here.contains_key(&self.dataset()) && !self.header.is_rest();
        if is_new && able.receives_properties {
            arguments.extend(["-o", "canmount=noauto"]);
        }
        let target = format!("{}@{}", self.into, self.request.snapshot);
        arguments.push(&target);
        self.shared.tool.receive(&arguments).to(|| self.what())
    }

    /// Gives the last chunk to the pool, and waits until it has everything.
    async fn end(&mut self) -> Result<(), VolumeError> {
        let last = mem::take(&mut self.held_back);
        self.give(&last).await?;
        match self.receiver {
            Receiver::Awaits(_) => Err(refused(self.dataset(), "it is shorter than any stream of ZFS")),
            Receiver::Runs(..) | Receiver::Ended => self.wait_for_word().await,
        }
    }

    /// Waits for the end of a tool that had everything, or wanted no more.
    async fn wait_for_word(&mut self) -> Result<(), VolumeError> {
        let ended = self.wait().await;
        self.has_refused |= match &ended {
            Err(VolumeError::Io { source, .. }) => is_refusal(source),
            ended => matches!(ended, Err(VolumeError::Diverged { .. })),
        };
        ended
    }

    /// Lets the tool see that there is no more, and waits for its end.
    async fn wait(&mut self) -> Result<(), VolumeError> {
        let Receiver::Runs(child, stdin) = mem::replace(&mut self.receiver, Receiver::Ended) else {
            return Ok(());
        };
        drop(stdin);
        let finished = tokio::time::timeout(LAST_PATIENCE, self.shared.tool.finish(*child)).await;
        let Ok(finished) = finished else {
            let reason = format!("the pool did not finish within {LAST_PATIENCE:?}");
            return Err(broken(self.what(), reason));
        };
        match finished {
            // No other attempt ends in another way.
            Err(error) if says(&error, "has been modified") => Err(diverged(
                self.dataset(),
                "somebody has written into it since its newest snapshot",
            )),
            received => received.to(|| self.what()),
        }
    }

    /// Makes what the pool has received count.
    async fn finish(mut self) -> Result<Change, VolumeError> {
        let dataset = self.dataset();
        // What could not be kept is not needed any more.
        self.settle().await;
        let seen = self.shared.look_for(dataset).await?;
        match complete(self.shared, &seen, dataset).await? {
            Change::Made => Ok(Change::Made),
            Change::AlreadySo => Err(broken(
                self.what(),
                "the pool does not have what it has just received",
            )),
        }
    }

    /// Waits for what is being kept beside the pool, whatever becomes of it.
    async fn settle(&mut self) {
        match &mut self.keeping {
            Keeping::InPool => {}
            Keeping::Beside(keeper) => drop(keeper.settle().await),
        }
    }

    /// Gives what was held back of a stream that was cut to a pool that keeps it, without what might be its end: with that,
    /// the pool would have a snapshot, and the sender has not said that it is one.
    async fn give_what_is_no_end(&mut self) -> Result<(), VolumeError> {
        let mut last = mem::take(&mut self.held_back);
        last.truncate(last.len().saturating_sub(begin::LENGTH));
        self.give(&last).await
    }

    /// Says whether this went on from what the pool has kept, and has brought it no further.
    fn is_as_it_was(&self, seen: &Seen) -> bool {
        let Pooling::Rest(begun) = self.header.pooling else {
            return false;
        };
        let token = partial::token_in(seen, self.dataset(), &self.into);
        token.is_some_and(|token| token.digest() == begun)
    }

    /// Has the pool take back what it had begun, or keep it, and keeps what can be gone on with.
    async fn give_up(mut self, error: VolumeError) -> Result<Change, VolumeError> {
        let (dataset, n_taken) = (self.dataset(), self.n_taken);
        let mut is_stuck = self.has_refused;
        if matches!(
            (&self.keeping, &error),
            (Keeping::InPool, VolumeError::Cut { .. })
        ) {
            // Where the pool takes no more, it has what it has.
            drop(self.give_what_is_no_end().await);
        }
        let was_started = !matches!(self.receiver, Receiver::Awaits(_));
        // It fails, since it lacks the end; dropped, it is killed.
        drop(tokio::time::timeout(PATIENCE, self.wait()).await);
        if was_started {
            self.settle().await;
            // ZFS by way of FUSE may have everything, and fail to mount what it was still unmounting (2026-11-21).
            let seen = self.shared.look_for(dataset).await?;
            if complete(self.shared, &seen, dataset).await? == Change::Made {
                return Ok(Change::Made);
            }
            is_stuck &= self.is_as_it_was(&seen);
        }
        let is_no_use = matches!(&error, VolumeError::Stream { .. })
            || matches!(&error, VolumeError::Io { source, .. } if is_full(source))
            || is_stuck;
        let available = self.seen.available;
        let kept = if is_no_use {
            // Going on from here would end here again, or what is kept takes the room of the copy.
            self.settle().await;
            self.shared.drop_partial(dataset).await.map(drop)
        } else {
            match self.keeping {
                Keeping::InPool => Ok(()),
                Keeping::Beside(keeper) => {
                    let saved = keeper.save().await;
                    saved.to(|| format!("keep what has arrived of dataset {dataset}"))
                }
            }
        };
        if let Err(error) = kept {
            let error: &dyn std::error::Error = &error;
            tracing::warn!(%dataset, error, "what has arrived could not be kept, or not be dropped");
        }
        Err(or_no_space(error, dataset, n_taken, available))
    }
}

/// Says whether the tool itself keeps what has arrived: only where the sender's can go on from that.
fn is_kept_in_pool(shared: &Shared, header: &Header) -> bool {
    match header.pooling {
        Pooling::Impossible => false,
        // What was begun beside the pool goes on there.
        Pooling::Possible => shared.tool.able.keeps_partial && header.first == 0,
        Pooling::Rest(_) => true,
    }
}

/// Says whether there is no room for more.
fn is_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
    )
}

/// Sees that a stream is the one that was asked for; the reason where it is not.
fn require_asked_for(record: &[u8; begin::LENGTH], header: &Header) -> Result<(), &'static str> {
    let Begin { to, from, is_rest } = Begin::parse(record)?;
    if is_rest != header.is_rest() {
        return Err("it begins elsewhere than it says");
    }
    if header.guid != SnapshotGuid(to.into()) {
        return Err("it is of another snapshot than it says");
    }
    if header.base != from.map(|from| SnapshotGuid(from.into())) {
        return Err("it starts from another snapshot than it says");
    }
    Ok(())
}
