//! Taking a stream in, which may come from anybody.
//!
//! Nothing of it is believed. The pool gets a piece only when everything up to
//! it was found right, the first one only when its record says that it is the
//! one snapshot that was asked for, and the last one only when the sender has
//! said that this was all. It counts when it is marked as ours.
//!
//! From before the pool gets anything a note says into which filesystem it
//! goes, so that whoever comes after a crash can tell it from what others made,
//! and complete it.

use std::io;
use std::sync::Arc;

use flocker_model::ByteSize;
use flocker_model::DatasetId;
use flocker_model::Epoch;
use flocker_model::Role;
use flocker_model::SnapshotGuid;
use tokio::io::AsyncReadExt as _;
use tokio::sync::mpsc;
use tokio::sync::oneshot;

use super::frame::CHUNK;
use super::frame::DIGEST;
use super::frame::HEADER;
use super::frame::Header;
use super::frame::LENGTH;
use super::listing;
use super::listing::Filesystem;
use super::lock::Scope;
use super::seen::Ours;
use super::seen::Seen;
use super::seen::diverged;
use super::seen::guid_of;
use super::seen::wrong_role;
use super::shared::Shared;
use super::spool::Arrival;
use super::spool::Note;
use super::standing::Standing;
use super::taking;
use super::tool::Context as _;
use super::tool::says;
use crate::change::Change;
use crate::volume::ByteStream;
use crate::volume::ReceiveRequest;
use crate::volume::VolumeError;

/// How many chunks are read ahead of the pool that takes them.
const AHEAD: usize = 4;

/// One piece of what arrives.
pub(super) enum Piece {
    Begin(Header),
    /// Bytes, and the digest of everything up to their end.
    Chunk(Vec<u8>, blake3::Hash),
    /// That was all, and this is its digest.
    End(blake3::Hash),
    /// The rest cannot be read.
    Broken(VolumeError),
}

/// Takes the whole stream.
///
/// Dropped half way, what has arrived is kept, as where the stream is cut.
pub(super) async fn receive(
    shared: &Arc<Shared>,
    request: &ReceiveRequest,
    stream: ByteStream,
) -> Result<Change, VolumeError> {
    let dataset = request.dataset.id;
    let arrival = shared.lock(dataset, Scope::Arrival).await?;
    let (pieces, queue) = mpsc::channel(AHEAD);
    let wanted = request.clone();
    // It lives as long as this call.
    let (_caller, calling) = oneshot::channel();
    let taken = shared.change(dataset, move |shared| async move {
        let taken = taking::take(&shared, &wanted, queue, calling).await;
        drop(arrival);
        taken
    });
    let mut incoming = Incoming {
        dataset,
        stream,
        n_arrived: 0,
    };
    let read = incoming.hand_over(request, pieces);
    tokio::pin!(taken);
    // Whoever takes it may have all it wants before it was read, and says why it takes no more.
    tokio::select! {
        biased;
        taken = &mut taken => return taken,
        () = read => {}
    }
    taken.await
}

/// Refuses what does not fit onto what is here. Returns the identity of a snapshot of that name that is here already.
pub(super) fn require_wanted(
    seen: &Seen,
    request: &ReceiveRequest,
) -> Result<Option<SnapshotGuid>, VolumeError> {
    let dataset = request.dataset.id;
    let not_newest = |base| {
        let reason = format!("the stream starts from {base}, which is not its newest snapshot");
        diverged(dataset, reason)
    };
    let Some(ours) = seen.here.get(&dataset) else {
        return match request.base {
            Some(base) => Err(not_newest(base)),
            None => Ok(None),
        };
    };
    if let Some(known) = ours.snapshot(&request.snapshot) {
        return Ok(Some(guid_of(known)));
    }
    match ours.standing.role {
        Role::Primary { .. } => return Err(wrong_role(ours, "receive into")),
        Role::Released { .. } | Role::Replica => {}
    }
    match (ours.newest().map(guid_of), request.base) {
        (Some(newest), Some(base)) if newest == base => Ok(None),
        (_, Some(base)) => Err(not_newest(base)),
        (_, None) => Err(diverged(
            dataset,
            "it has snapshots already, and a full copy would overwrite them",
        )),
    }
}

/// A stream while it is read.
struct Incoming {
    dataset: DatasetId,
    stream: ByteStream,
    /// How much of what the sender's tool wrote has arrived.
    n_arrived: u64,
}

impl Incoming {
    async fn read(&mut self, buffer: &mut [u8]) -> Result<(), VolumeError> {
        let read = self.stream.read_exact(buffer).await;
        read.map(drop).map_err(|source| self.cut(source))
    }

    async fn read_bytes(&mut self, n_bytes: usize) -> Result<Vec<u8>, VolumeError> {
        let mut bytes = Vec::with_capacity(n_bytes);
        while bytes.len() < n_bytes {
            let left = (n_bytes - bytes.len()) as u64;
            match (&mut self.stream).take(left).read_buf(&mut bytes).await {
                Ok(0) => return Err(self.cut(io::ErrorKind::UnexpectedEof.into())),
                Ok(_) => {}
                Err(error) => return Err(self.cut(error)),
            }
        }
        Ok(bytes)
    }

    fn cut(&self, source: io::Error) -> VolumeError {
        VolumeError::Cut {
            dataset: self.dataset,
            received: ByteSize(self.n_arrived),
            source,
        }
    }

    async fn read_digest(&mut self) -> Result<blake3::Hash, VolumeError> {
        let mut digest = [0; DIGEST];
        self.read(&mut digest).await?;
        Ok(digest.into())
    }

    async fn read_header(&mut self, request: &ReceiveRequest) -> Result<Header, VolumeError> {
        let mut bytes = [0; HEADER];
        self.read(&mut bytes).await?;
        let refused = |reason: String| taking::refused(self.dataset, reason);
        let header = Header::decode(&bytes).map_err(|reason| refused(reason.into()))?;
        let ReceiveRequest {
            dataset,
            snapshot,
            base,
        } = request;
        if header.dataset != dataset.id {
            return Err(refused(format!("it is of dataset {}", header.dataset)));
        }
        if header.snapshot != *snapshot {
            return Err(refused(format!("it is of snapshot {}", header.snapshot)));
        }
        if header.base != *base {
            return Err(refused(
                "it starts from another snapshot than was asked for".into(),
            ));
        }
        self.n_arrived = header.first;
        Ok(header)
    }

    async fn read_piece(&mut self) -> Result<Piece, VolumeError> {
        let mut length = [0; LENGTH];
        self.read(&mut length).await?;
        let n_bytes = u32::from_be_bytes(length);
        if n_bytes == 0 {
            return Ok(Piece::End(self.read_digest().await?));
        }
        let n_bytes = usize::try_from(n_bytes).ok().filter(|n_bytes| *n_bytes <= CHUNK);
        let Some(n_bytes) = n_bytes else {
            return Err(taking::refused(self.dataset, "it has a chunk that is too long"));
        };
        let bytes = self.read_bytes(n_bytes).await?;
        let digest = self.read_digest().await?;
        // Where it begins is what the peer says.
        self.n_arrived = self.n_arrived.saturating_add(n_bytes as u64);
        Ok(Piece::Chunk(bytes, digest))
    }

    /// Hands everything over, until somebody wants no more.
    async fn hand_over(&mut self, request: &ReceiveRequest, pieces: mpsc::Sender<Piece>) {
        let mut next = self.read_header(request).await.map(Piece::Begin);
        loop {
            let piece = next.unwrap_or_else(Piece::Broken);
            let is_last = matches!(piece, Piece::End(_) | Piece::Broken(_));
            if pieces.send(piece).await.is_err() || is_last {
                return;
            }
            next = self.read_piece().await;
        }
    }
}

/// Where the pool has what it was given.
enum Arrived<'a> {
    Here(&'a Ours),
    /// Under this name, and nobody's yet.
    New(&'a str, &'a Filesystem),
}

/// Finds what a note says that the pool was given. Nothing where it never came to it, where the receiver took back what it had
/// begun, or where one that nobody waits for is at it yet.
fn find<'a>(seen: &'a Seen, note: &'a Note) -> Option<(&'a Arrival, Arrived<'a>)> {
    let arrival = note.arrival.as_ref()?;
    let into = arrival.into.as_ref()?;
    let ours = seen.here.get(&note.dataset.id);
    if let Some(ours) = ours.filter(|ours| has(&ours.filesystem, arrival)) {
        return Some((arrival, Arrived::Here(ours)));
    }
    let new = seen.foreign.get(into).filter(|new| has(new, arrival))?;
    Some((arrival, Arrived::New(into, new)))
}

/// Says whether there is anything to [`complete`].
pub(super) fn has_arrived(seen: &Seen, note: &Note) -> bool {
    find(seen, note).is_some()
}

/// Completes what the pool has received, and says whether there was anything. Needs the lock of the dataset's state.
///
/// Everything here can be done again from its beginning.
pub(super) async fn complete(
    shared: &Shared,
    seen: &Seen,
    dataset: DatasetId,
) -> Result<Change, VolumeError> {
    let what = || format!("complete the copy of dataset {dataset}");
    let Some(spool) = shared.spool(seen).await? else {
        return Ok(Change::AlreadySo);
    };
    let Some(note) = spool.note(dataset).to(what)? else {
        return Ok(Change::AlreadySo);
    };
    match find(seen, &note) {
        None => return Ok(Change::AlreadySo),
        // It was acquired since: only the note was left behind.
        Some((_, Arrived::Here(ours))) if matches!(ours.standing.role, Role::Primary { .. }) => {}
        Some((arrival, Arrived::Here(ours))) => accept(shared, ours, arrival).await?,
        Some((arrival, Arrived::New(name, new))) => {
            adopt(shared, (name, new), seen.fence_left(dataset), &note, arrival).await?;
        }
    }
    spool.remove(dataset).to(what)?;
    Ok(Change::Made)
}

/// Says whether just what arrived is the newest thing there.
fn has(filesystem: &Filesystem, arrival: &Arrival) -> bool {
    let newest = filesystem.snapshots.last();
    newest.is_some_and(|newest| guid_of(newest) == arrival.guid && newest.name == arrival.snapshot.as_str())
}

/// Makes an increment count.
async fn accept(shared: &Shared, ours: &Ours, arrival: &Arrival) -> Result<(), VolumeError> {
    mark(shared, &ours.name, &ours.filesystem, arrival).await?;
    let is_written_down = ours.filesystem.own.get(listing::ROLE) == Some(&ours.standing.to_text());
    if ours.standing.role == Role::Replica && is_written_down {
        return Ok(());
    }
    let standing = Standing::new(Role::Replica, ours.standing.fence, shared.now()?);
    shared.set_standing(ours, &standing).await
}

/// Makes what was just received a dataset of ours.
async fn adopt(
    shared: &Shared,
    (name, new): (&str, &Filesystem),
    fence: Epoch,
    note: &Note,
    arrival: &Arrival,
) -> Result<(), VolumeError> {
    let dataset = note.dataset.id;
    mark(shared, name, new, arrival).await?;
    let standing = Standing::new(Role::Replica, fence, shared.now()?);
    for setting in shared.settings(&note.dataset, &standing) {
        match shared.tool.run(["set", &setting, name]).await {
            // It takes more room here than where it comes from; whoever
            // resizes it will be told.
            Err(error) if setting.starts_with("refquota=") && says(&error, "size is less than") => {
                tracing::warn!(%dataset, "the copy is larger than the dataset may be");
            }
            other => drop(other.to(|| format!("set `{setting}` for dataset {dataset}"))?),
        }
    }
    Ok(())
}

async fn mark(
    shared: &Shared,
    name: &str,
    filesystem: &Filesystem,
    arrival: &Arrival,
) -> Result<(), VolumeError> {
    let full_name = format!("{name}@{}", arrival.snapshot);
    let what = || format!("mark snapshot `{full_name}`");
    let newest = filesystem.snapshots.last();
    let hold = async {
        match newest {
            Some(newest) if newest.n_holds == 0 => shared.hold(&full_name).await,
            Some(_) | None => Ok(()),
        }
    };
    let mark = async {
        match newest {
            Some(newest) if newest.is_ours => Ok(()),
            Some(_) | None => shared.tool.set(listing::SNAPSHOT, "1", &full_name).await.to(what),
        }
    };
    // Applications wait for both, and each waits for the pool to close a transaction.
    tokio::try_join!(hold, mark)?;
    Ok(())
}
