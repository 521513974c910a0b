//! Taking a stream in, which may come from anybody.
//!
//! Nothing of it is believed: it is kept aside until its digest was found
//! right, and its first record says that it is the one snapshot that was asked
//! for. Only then the pool gets it. It counts when it is marked as ours.
//!
//! From there on a note says into which filesystem it goes, so that whoever
//! comes after a crash can tell it from what others made, and complete it.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;

use flocker_model::ByteSize;
use flocker_model::DatasetId;
use flocker_model::Epoch;
use flocker_model::Role;
use flocker_model::SnapshotGuid;
use tokio::io::AsyncReadExt as _;
use tokio::io::AsyncWriteExt as _;

use super::begin;
use super::begin::Begin;
use super::frame::CHUNK;
use super::frame::DIGEST;
use super::frame::HEADER;
use super::frame::Header;
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
use super::spool::Spool;
use super::standing::Standing;
use super::tool::Context as _;
use super::tool::broken;
use super::tool::or_no_space;
use super::tool::says;
use crate::change::Change;
use crate::volume::ByteStream;
use crate::volume::ReceiveRequest;
use crate::volume::VolumeError;

/// How much arrives until it is noted that it has.
const NOTED: u64 = 16 << 20;

/// Takes the whole stream.
pub(super) async fn receive(
    shared: &Arc<Shared>,
    request: &ReceiveRequest,
    stream: ByteStream,
) -> Result<Change, VolumeError> {
    let dataset = request.dataset.id;
    let arrival = shared.lock(dataset, Scope::Arrival).await?;
    let completed = shared.change(
        dataset,
        move |shared| async move { complete(&shared, dataset).await },
    );
    completed.await?;
    let seen = shared.look_at(dataset).await?;
    let known = require_wanted(&seen, request)?;
    let mut incoming = Incoming {
        dataset,
        stream,
        kept: 0,
    };
    let header = incoming.read_header(request).await?;
    match known {
        Some(guid) if guid == header.guid => return Ok(Change::AlreadySo),
        Some(_) => return Err(diverged(dataset, "it has another snapshot of that name")),
        None => {}
    }
    if !shared.tool.able.takes.cover(header.blocks) {
        return Err(incoming.refused("it has blocks that the pool of this node does not take"));
    }
    let spool = shared.require_spool(&seen).await?;
    incoming
        .fill(shared, &spool, request, &header)
        .await
        .map_err(|error| or_no_space(error, dataset, 0, seen.available))?;
    let request = request.clone();
    let committed = shared.change(dataset, move |shared| async move {
        let committed = commit(&shared, &spool, &request, header.guid).await;
        drop(arrival);
        committed
    });
    committed.await?;
    Ok(Change::Made)
}

/// Refuses what does not fit onto what is here. Returns the identity of a snapshot of that name that is here already.
fn require_wanted(seen: &Seen, request: &ReceiveRequest) -> Result<Option<SnapshotGuid>, VolumeError> {
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
    /// How much of what the sender's tool wrote is kept.
    kept: u64,
}

impl Incoming {
    async fn read(&mut self, buffer: &mut [u8]) -> Result<(), VolumeError> {
        let read = self.stream.read_exact(buffer).await;
        read.map(drop).map_err(|source| VolumeError::Cut {
            dataset: self.dataset,
            received: ByteSize(self.kept),
            source,
        })
    }

    fn refused(&self, reason: impl Into<String>) -> VolumeError {
        VolumeError::Stream {
            dataset: self.dataset,
            reason: reason.into(),
        }
    }

    async fn read_header(&mut self, request: &ReceiveRequest) -> Result<Header, VolumeError> {
        let mut bytes = [0; HEADER];
        self.read(&mut bytes).await?;
        let header = Header::decode(&bytes).map_err(|reason| self.refused(reason))?;
        let ReceiveRequest {
            dataset,
            snapshot,
            base,
        } = request;
        if header.dataset != dataset.id {
            return Err(self.refused(format!("it is of dataset {}", header.dataset)));
        }
        if header.snapshot != *snapshot {
            return Err(self.refused(format!("it is of snapshot {}", header.snapshot)));
        }
        if header.base != *base {
            return Err(self.refused("it starts from another snapshot than was asked for"));
        }
        Ok(header)
    }

    /// Keeps all that comes, until its digest was found right.
    async fn fill(
        &mut self,
        shared: &Arc<Shared>,
        spool: &Spool,
        request: &ReceiveRequest,
        header: &Header,
    ) -> Result<(), VolumeError> {
        let dataset = self.dataset;
        let what = || format!("keep what arrives of dataset {dataset}");
        let note = spool.note(dataset).to(what)?;
        if header.first > 0 {
            let kept = note.as_ref().and_then(|note| note.arrival.as_ref());
            let fits = kept.is_some_and(|kept| {
                (kept.guid, kept.base, kept.blocks) == (header.guid, header.base, header.blocks)
                    && header.first <= kept.kept
            });
            if !fits {
                return Err(self.refused("it goes on from something that has not arrived here"));
            }
        } else {
            note_arrival(shared, spool, request, &Arrival::of(header)).await?;
        }
        let (place, first) = (spool.clone(), header.first);
        let opened = tokio::task::spawn_blocking(move || place.go_on(dataset, first)).await;
        let opened = opened.map_err(io::Error::other).and_then(|opened| opened);
        if opened
            .as_ref()
            .is_err_and(|error| error.kind() == io::ErrorKind::InvalidData)
        {
            spool.remove(dataset).to(what)?;
        }
        let (file, hasher) = opened.to(what)?;
        self.kept = header.first;
        let mut kept = Kept {
            shared,
            spool,
            request,
            arrival: Arrival::of(header),
            file: file.into(),
            hasher,
        };
        let filled = self.fill_with(&mut kept).await;
        if filled.is_err() {
            // What was not noted is only sent again.
            drop(kept.note(self.kept).await);
        } else {
            // What an earlier stream left after the end of this one.
            kept.file.set_len(self.kept).await.to(what)?;
            kept.note(self.kept).await?;
        }
        match filled {
            Err(Spoilt::Cut(error)) => Err(error),
            Err(Spoilt::Damaged(error)) => {
                // Going on from here would end here again.
                spool.remove(dataset).to(what)?;
                Err(error)
            }
            Ok(()) => Ok(()),
        }
    }

    async fn fill_with(&mut self, kept: &mut Kept<'_>) -> Result<(), Spoilt> {
        let mut noted = self.kept;
        let mut buffer = vec![0; CHUNK];
        loop {
            let mut length = [0; 4];
            self.read(&mut length).await?;
            let n_bytes = u32::from_be_bytes(length);
            if n_bytes == 0 {
                break;
            }
            let chunk = usize::try_from(n_bytes)
                .ok()
                .and_then(|n_bytes| buffer.get_mut(..n_bytes));
            let Some(chunk) = chunk else {
                return Err(Spoilt::Damaged(self.refused("it has a chunk that is too long")));
            };
            self.read(chunk).await?;
            kept.hasher.update(chunk);
            let written = kept.file.write_all(chunk).await;
            written.to(|| format!("keep what arrives of dataset {}", self.dataset))?;
            self.kept += u64::from(n_bytes);
            if self.kept - noted >= NOTED {
                kept.note(self.kept).await?;
                noted = self.kept;
            }
        }
        let mut digest = [0; DIGEST];
        self.read(&mut digest).await?;
        if kept.hasher.finalize() != blake3::Hash::from_bytes(digest) {
            return Err(Spoilt::Damaged(self.refused("it was damaged on its way")));
        }
        Ok(())
    }
}

/// Why a stream did not come to its end.
enum Spoilt {
    /// What has arrived is right, as far as anybody knows.
    Cut(VolumeError),
    /// What has arrived is wrong.
    Damaged(VolumeError),
}

impl From<VolumeError> for Spoilt {
    fn from(error: VolumeError) -> Self {
        Self::Cut(error)
    }
}

/// What has arrived.
struct Kept<'a> {
    shared: &'a Arc<Shared>,
    spool: &'a Spool,
    request: &'a ReceiveRequest,
    arrival: Arrival,
    file: tokio::fs::File,
    hasher: blake3::Hasher,
}

impl Kept<'_> {
    /// Makes what has arrived durable, and notes that it has.
    async fn note(&mut self, kept: u64) -> Result<(), VolumeError> {
        let what = || format!("keep what arrives of dataset {}", self.request.dataset.id);
        self.file.flush().await.to(what)?;
        self.file.sync_data().await.to(what)?;
        self.arrival.kept = kept;
        self.arrival.digest = self.hasher.finalize().to_hex().to_string();
        note_arrival(self.shared, self.spool, self.request, &self.arrival).await
    }
}

/// Replaces what is noted of a stream, and nothing else of the note.
async fn note_arrival(
    shared: &Arc<Shared>,
    spool: &Spool,
    request: &ReceiveRequest,
    arrival: &Arrival,
) -> Result<(), VolumeError> {
    let (spool, dataset, arrival) = (spool.clone(), request.dataset.clone(), arrival.clone());
    let noted = shared.change(dataset.id, move |shared| async move {
        let now = shared.now()?;
        let write = move || {
            let note = spool.note(dataset.id)?;
            let mut note = note.unwrap_or_else(|| Note::new(&dataset, now));
            note.arrival = Some(arrival);
            spool.set_note(&note)
        };
        let written = tokio::task::spawn_blocking(write).await;
        written
            .map_err(io::Error::other)
            .and_then(|written| written)
            .to(|| "note what has arrived".into())
    });
    noted.await
}

/// Gives a complete stream to the pool.
async fn commit(
    shared: &Shared,
    spool: &Spool,
    request: &ReceiveRequest,
    guid: SnapshotGuid,
) -> Result<(), VolumeError> {
    let dataset = request.dataset.id;
    let what = || format!("take in snapshot {} of dataset {dataset}", request.snapshot);
    let seen = shared.look_at(dataset).await?;
    if require_wanted(&seen, request)?.is_some() {
        return Err(diverged(dataset, "it was changed while the stream arrived"));
    }
    let noted = spool.note(dataset).to(what)?;
    let Some(mut note) = noted.filter(|note| note.arrival.is_some()) else {
        return Err(VolumeError::NotHere { dataset });
    };
    let stream = spool.open(dataset).to(what)?;
    if let Err(reason) = require_asked_for(&stream, guid, request.base).to(what)? {
        spool.remove(dataset).to(what)?;
        return Err(VolumeError::Stream { dataset, reason });
    }
    let ours = seen.here.get(&dataset);
    let into = match ours {
        Some(ours) => ours.name.clone(),
        None => seen.free_name(&shared.parent, dataset),
    };
    if let Some(arrival) = &mut note.arrival {
        arrival.into = Some(into.clone());
    }
    spool.set_note(&note).to(what)?;
    if let Some(ours) = ours {
        // Readers would go on to see what was there before.
        shared.unmount(ours).await?;
    }
    let received = take_in(shared, &into, request, stream, ours.is_none()).await;
    let needed = note.arrival.as_ref().map_or(0, |arrival| arrival.kept);
    received.map_err(|error| or_no_space(error, dataset, needed, seen.available))?;
    match complete(shared, dataset).await? {
        Change::Made => Ok(()),
        Change::AlreadySo => Err(broken(what(), "the pool does not have what it has just received")),
    }
}

/// Sees that the first record is of the snapshot that was asked for; the reason where it is not.
fn require_asked_for(
    stream: &File,
    guid: SnapshotGuid,
    base: Option<SnapshotGuid>,
) -> io::Result<Result<(), String>> {
    let mut record = [0; begin::LENGTH];
    if let Err(error) = stream.read_exact_at(&mut record, 0) {
        if error.kind() == io::ErrorKind::UnexpectedEof {
            return Ok(Err("it is shorter than any stream of ZFS".into()));
        }
        return Err(error);
    }
    Ok(match Begin::parse(&record) {
        Err(reason) => Err(reason.into()),
        Ok(Begin { to, .. }) if guid != SnapshotGuid(to.into()) => {
            Err("it is of another snapshot than it says".into())
        }
        Ok(Begin { from, .. }) if base != from.map(|from| SnapshotGuid(from.into())) => {
            Err("it starts from another snapshot than it says".into())
        }
        Ok(_) => Ok(()),
    })
}

/// Runs the receiver. Never with the option that would let it roll back or destroy.
async fn take_in(
    shared: &Shared,
    into: &str,
    request: &ReceiveRequest,
    stream: File,
    is_new: bool,
) -> Result<(), VolumeError> {
    let able = &shared.tool.able;
    let mut arguments = vec!["receive"];
    if able.receives_unmounted {
        arguments.push("-u");
    }
    if is_new && able.receives_properties {
        arguments.extend(["-o", "canmount=noauto"]);
    }
    let target = format!("{into}@{}", request.snapshot);
    arguments.push(&target);
    let dataset = request.dataset.id;
    match shared.tool.receive(&arguments, stream).await {
        // No other attempt ends in another way.
        Err(error) if says(&error, "has been modified") => Err(diverged(
            dataset,
            "somebody has written into it since its newest snapshot",
        )),
        received => received.to(|| format!("receive snapshot {} of dataset {dataset}", request.snapshot)),
    }
}

/// Says whether a stream was complete and was being given to the pool.
pub(super) fn is_being_taken_in(note: &Note) -> bool {
    note.arrival
        .as_ref()
        .is_some_and(|arrival| arrival.into.is_some())
}

/// Completes what the pool has received, and says whether there was anything. Needs the lock of the dataset's state.
///
/// Everything here can be done again from its beginning.
pub(super) async fn complete(shared: &Shared, dataset: DatasetId) -> Result<Change, VolumeError> {
    let what = || format!("complete the copy of dataset {dataset}");
    let seen = shared.look_at(dataset).await?;
    let Some(spool) = shared.spool(&seen).await? else {
        return Ok(Change::AlreadySo);
    };
    let Some(mut note) = spool.note(dataset).to(what)? else {
        return Ok(Change::AlreadySo);
    };
    let Some((arrival, into)) = note.arrival.as_mut().and_then(|arrival| {
        let into = arrival.into.take()?;
        Some((arrival.clone(), into))
    }) else {
        return Ok(Change::AlreadySo);
    };
    if let Some(ours) = seen
        .here
        .get(&dataset)
        .filter(|ours| has(&ours.filesystem, &arrival))
    {
        accept(shared, ours, &arrival).await?;
    } else if let Some(new) = seen.foreign.get(&into).filter(|new| has(new, &arrival)) {
        adopt(shared, (&into, new), seen.fence_left(dataset), &note, &arrival).await?;
    } else {
        // It never came to it, or the receiver took back what it had begun.
        spool.set_note(&note).to(what)?;
        return Ok(Change::AlreadySo);
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
    if newest.is_some_and(|newest| newest.n_holds == 0) {
        match shared.tool.run(["hold", super::roles::HOLD, &full_name]).await {
            Err(error) if says(&error, "tag already exists") => {}
            other => drop(other.to(what)?),
        }
    }
    if newest.is_none_or(|newest| !newest.is_ours) {
        shared
            .tool
            .set(listing::SNAPSHOT, "1", &full_name)
            .await
            .to(what)?;
    }
    Ok(())
}
