//! Taking a stream in, which may come from anybody.
//!
//! Nothing of it is believed: the manifest passes the [door](super::codec),
//! every block is compared with its digest when it arrives, and the whole with
//! the guid in the trailer. Until then the last complete copy is not touched.

use std::fs::File;
use std::io;
use std::sync::Arc;

use flocker_model::ByteSize;
use flocker_model::DatasetId;
use flocker_model::Role;
use flocker_model::SnapshotGuid;

use super::Shared;
use super::codec;
use super::codec::Malformed;
use super::context::Context as _;
use super::context::or_no_space;
use super::difference::Difference;
use super::dir::Dir;
use super::earlier;
use super::home::Home;
use super::incoming;
use super::incoming::Arrival;
use super::incoming::Label;
use super::lock::Scope;
use super::manifest::BLOCK;
use super::manifest::Digest;
use super::manifest::Manifest;
use super::record::Record;
use super::scan;
use super::scan::is_zero;
use super::scan::read_block;
use super::stream;
use super::stream::Header;
use crate::change::Change;
use crate::pipe::Intake;
use crate::volume::ReceiveRequest;
use crate::volume::VolumeError;

/// What a stream goes on from: the newest snapshot here.
#[derive(Debug)]
struct Base {
    guid: SnapshotGuid,
    manifest: Manifest,
    /// Its files, which nobody writes.
    copy: Dir,
}

/// What is here when a stream comes.
#[derive(Debug)]
enum Found {
    /// A snapshot of the stream's name.
    Known(SnapshotGuid),
    /// What the stream goes on from, if anything is.
    Wanting(Option<Home>, Option<Base>),
}

/// A stream that is being taken in.
#[derive(Debug)]
pub(super) struct Receiving {
    pub(super) shared: Arc<Shared>,
    pub(super) request: ReceiveRequest,
}

impl Receiving {
    fn dataset(&self) -> DatasetId {
        self.request.dataset.id
    }

    /// Takes the whole stream. Needs the lock of what arrives.
    pub(super) fn run(&self, intake: &mut Intake) -> Result<Change, VolumeError> {
        let found = self.look()?;
        let header = self.read_header(intake)?;
        let (home, base) = match found {
            Found::Known(guid) if guid == header.plan => return Ok(Change::AlreadySo),
            Found::Known(_) => {
                return Err(self.diverged("it has another snapshot of that name"));
            }
            Found::Wanting(home, base) => (home, base),
        };
        let label = Label {
            name: header.snapshot.clone(),
            base: header.base,
            plan: header.plan,
        };
        let base_manifest = base.as_ref().map(|base| &base.manifest);
        let (home, manifest) = if header.first == 0 {
            self.begin(intake, home, &header, &label, base_manifest)?
        } else {
            self.resume(home, &header, &label)?
        };
        let dataset = self.dataset();
        let what = || format!("take in snapshot {} of dataset {dataset}", label.name);
        let mut arrival = Arrival::open(&home.dir, &label, manifest, base_manifest, header.first).to(what)?;
        let guid = self.read_blocks(intake, &mut arrival, base.as_ref())?;
        self.finish(
            &home,
            &label,
            base.as_ref().map(|base| base.guid),
            &arrival,
            header.first,
            guid,
        )?;
        Ok(Change::Made)
    }

    /// Looks whether the stream is wanted, and what it goes on from.
    fn look(&self) -> Result<Found, VolumeError> {
        let dataset = self.dataset();
        let _state = self.shared.lock_blocking(dataset, Scope::State)?;
        let Some(home) = Home::open(&self.shared.datasets, dataset)? else {
            return match self.request.base {
                Some(base) => Err(self.not_newest(base)),
                None => Ok(Found::Wanting(None, None)),
            };
        };
        let record = self.shared.settle(&home)?;
        let known = home.snapshots()?;
        if let Some((_, heading)) = known.iter().find(|(name, _)| *name == self.request.snapshot) {
            return Ok(Found::Known(heading.guid));
        }
        self.require_receiver(&record)?;
        let newest = home.newest()?.map(|(_, stored)| stored);
        if newest.as_ref().map(|newest| newest.heading.guid) != self.request.base {
            return Err(match self.request.base {
                Some(base) => self.not_newest(base),
                None => self.diverged("it has snapshots already, and a full copy would overwrite them"),
            });
        }
        let Some(newest) = newest else {
            return Ok(Found::Wanting(Some(home), None));
        };
        let copy = home.data(&record)?;
        let odd = scan::verify(
            &copy,
            &newest.scanned,
            scan::Reading::OfAll,
            self.shared.options.keep_set_id,
        )
        .to(|| format!("verify the copy of dataset {dataset}"))?;
        if let Some(odd) = odd {
            return Err(self.diverged(&format!("it was changed by hand: {odd}")));
        }
        let base = Base {
            guid: newest.heading.guid,
            manifest: newest.scanned.manifest,
            copy,
        };
        Ok(Found::Wanting(Some(home), Some(base)))
    }

    fn require_receiver(&self, record: &Record) -> Result<(), VolumeError> {
        match record.role {
            Role::Released { .. } | Role::Replica => Ok(()),
            Role::Primary { .. } => Err(VolumeError::WrongRole {
                dataset: self.dataset(),
                verb: "receive into",
                role: record.role_word(),
            }),
        }
    }

    fn read_header(&self, intake: &mut Intake) -> Result<Header, VolumeError> {
        let mut bytes = [0; stream::HEADER];
        self.read(intake, &mut bytes, 0)?;
        let header = Header::decode(&bytes).map_err(|Malformed(reason)| self.refused(reason))?;
        let ReceiveRequest {
            dataset,
            snapshot,
            base,
        } = &self.request;
        if header.dataset != dataset.id {
            return Err(self.refused(format!("it is of dataset {}", header.dataset)));
        }
        if header.snapshot != *snapshot {
            return Err(self.refused(format!("it is of snapshot {}", header.snapshot)));
        }
        if header.base != *base {
            return Err(self.refused("it starts from another snapshot than was asked for".into()));
        }
        Ok(header)
    }

    /// Reads the manifest of a stream from its beginning, and sets up a place for the copy.
    fn begin(
        &self,
        intake: &mut Intake,
        home: Option<Home>,
        header: &Header,
        label: &Label,
        base: Option<&Manifest>,
    ) -> Result<(Home, Manifest), VolumeError> {
        let dataset = self.dataset();
        let limit = self.shared.options.manifest_limit;
        if ByteSize(header.manifest_length) > limit {
            return Err(self.refused(format!("its manifest is longer than {limit}")));
        }
        let encoded = intake
            .read_vec(header.manifest_length)
            .map_err(|source| self.cut(0, source))?;
        if Manifest::guid(&label.name, &encoded) != label.plan {
            return Err(self.refused("its manifest was damaged on its way".into()));
        }
        let manifest = codec::decode(&encoded).map_err(|Malformed(reason)| self.refused(reason))?;
        let _state = self.shared.lock_blocking(dataset, Scope::State)?;
        // Whoever asks may have allowed more by now than when the copy was begun, which is not yet written down here.
        let asked = self.request.dataset.maximum_size;
        let maximum = match &home {
            Some(home) => home
                .record()?
                .maximum_size
                .zip(asked)
                .map(|(own, asked)| own.max(asked)),
            None => asked,
        };
        let needed = Difference::between(base, &manifest).total;
        self.require_room(&manifest, maximum, needed)?;
        let home = if let Some(home) = home {
            self.require_unmoved(&home)?;
            home
        } else {
            let since = self.shared.now()?;
            let fence = self.shared.fences.of(dataset)?;
            let record = Record::new(&self.request.dataset, Role::Replica, fence, since);
            Home::create(&self.shared.datasets, &self.shared.staging, &record)?
        };
        incoming::begin(&home.dir, label, &encoded)
            .to(|| format!("make a place for the copy of dataset {dataset}"))
            .map_err(|error| or_no_space(error, dataset, needed, 0))?;
        Ok((home, manifest))
    }

    fn require_room(
        &self,
        manifest: &Manifest,
        maximum: Option<ByteSize>,
        needed: u64,
    ) -> Result<(), VolumeError> {
        let dataset = self.dataset();
        let no_space = |needed, available| VolumeError::NoSpace {
            dataset,
            needed: ByteSize(needed),
            available: ByteSize(available),
        };
        let held = manifest.held();
        if let Some(maximum) = maximum.filter(|maximum| maximum.0 < held) {
            return Err(no_space(held, maximum.0));
        }
        let free = self.shared.free()?;
        // The blocks of an increment are on the disk twice while they are applied.
        let needed = match self.request.base {
            Some(_) => needed.saturating_mul(2),
            None => needed,
        };
        if needed > free {
            return Err(no_space(needed, free));
        }
        Ok(())
    }

    /// Finds what has arrived earlier, of just this stream and at least as far.
    fn resume(
        &self,
        home: Option<Home>,
        header: &Header,
        label: &Label,
    ) -> Result<(Home, Manifest), VolumeError> {
        let dataset = self.dataset();
        let what = || format!("find what has arrived of dataset {dataset}");
        let misfit = || self.refused("it goes on from something that has not arrived here".into());
        let home = home.ok_or_else(misfit)?;
        let _state = self.shared.lock_blocking(dataset, Scope::State)?;
        if incoming::label(&home.dir).to(what)?.as_ref() != Some(label) {
            return Err(misfit());
        }
        let progress = incoming::progress(&home.dir).to(what)?;
        let manifest = incoming::manifest(&home.dir, label).to(what)?;
        if header.first > progress.next {
            return Err(misfit());
        }
        Ok((home, manifest))
    }

    fn read_blocks(
        &self,
        intake: &mut Intake,
        arrival: &mut Arrival,
        base: Option<&Base>,
    ) -> Result<SnapshotGuid, VolumeError> {
        let result = self.take_blocks(intake, arrival, base);
        if result.is_err() {
            // What was not noted is only sent again.
            drop(arrival.note());
        }
        result
    }

    fn take_blocks(
        &self,
        intake: &mut Intake,
        arrival: &mut Arrival,
        base: Option<&Base>,
    ) -> Result<SnapshotGuid, VolumeError> {
        let dataset = self.dataset();
        let kept = |result: io::Result<()>, arrival: &Arrival| {
            let left = arrival.difference.total.saturating_sub(arrival.progress.received);
            result
                .to(|| format!("keep what arrives of dataset {dataset}"))
                .map_err(|error| or_no_space(error, dataset, left, self.shared.free().unwrap_or(0)))
        };
        let mut open = None;
        let mut n_earlier = 0;
        loop {
            let received = arrival.progress.received;
            let mut how = [0];
            self.read(intake, &mut how, received)?;
            let Some((needed, announced)) = arrival.wanted() else {
                if how == [stream::EARLIER] {
                    let kept = self.take_earlier(intake, arrival, n_earlier)?;
                    kept.to(|| format!("keep what arrives of dataset {dataset}"))?;
                    n_earlier += 1;
                    continue;
                }
                if how != [stream::END] {
                    return Err(self.refused("it has more blocks than its manifest".into()));
                }
                let mut guid = [0; 16];
                self.read(intake, &mut guid, received)?;
                return Ok(SnapshotGuid(u128::from_be_bytes(guid)));
            };
            let mut block = vec![0; needed.length];
            match how[0] {
                stream::AS_ANNOUNCED => {
                    self.read(intake, &mut block, received)?;
                    self.require_digest(&block, &announced)?;
                    let put = arrival.put(&needed, &block);
                    kept(put, arrival)?;
                }
                stream::TORN => {
                    let mut digest = [0; 32];
                    self.read(intake, &mut digest, received)?;
                    self.read(intake, &mut block, received)?;
                    self.require_digest(&block, &digest)?;
                    if is_zero(&block) {
                        return Err(self.refused("it spells out a block of zeros".into()));
                    }
                    let put = arrival.put_torn(&needed, &block, Some(digest));
                    kept(put, arrival)?;
                }
                stream::ZERO => {
                    let put = arrival.put_torn(&needed, &block, None);
                    kept(put, arrival)?;
                }
                stream::ELSEWHERE => {
                    let place = arrival.elsewhere.place(&announced);
                    let (Some(place), Some(base)) = (place, base) else {
                        return Err(self.refused("it speaks of a block that is not here".into()));
                    };
                    self.read_from_base(base, place, &mut open, &mut block)?;
                    if blake3::hash(&block) != announced {
                        return Err(self.diverged("a block of its copy has changed on the disk"));
                    }
                    let put = arrival.put(&needed, &block);
                    kept(put, arrival)?;
                }
                stream::END | stream::EARLIER => {
                    return Err(self.refused("it has fewer blocks than its manifest".into()));
                }
                other => return Err(self.refused(format!("it has a part of the unknown kind {other}"))),
            }
        }
    }

    /// Takes in the list of an earlier snapshot, which is none of the copy's data.
    fn take_earlier(
        &self,
        intake: &mut Intake,
        arrival: &Arrival,
        number: usize,
    ) -> Result<io::Result<()>, VolumeError> {
        let received = arrival.progress.received;
        let refused = |Malformed(reason)| self.refused(reason);
        let mut head = [0; earlier::HEAD];
        self.read(intake, &mut head, received)?;
        let head = earlier::Head::decode(&head).map_err(refused)?;
        let limit = self.shared.options.manifest_limit;
        if number >= earlier::MOST || ByteSize(head.length) > limit {
            let reason = format!(
                "it brings more than {} earlier snapshots, or one whose list is longer than {limit}",
                earlier::MOST
            );
            return Err(self.refused(reason));
        }
        let encoded = intake.read_vec(head.length);
        let encoded = encoded.map_err(|source| self.cut(received, source))?;
        arrival.keep_earlier(number, &head, &encoded).map_err(refused)
    }

    /// Reads a block of the copy that is here. The file of the last one stays open.
    fn read_from_base(
        &self,
        base: &Base,
        (entry, index): (usize, u64),
        open: &mut Option<(usize, File)>,
        block: &mut [u8],
    ) -> Result<(), VolumeError> {
        let mut read = || {
            let file = match &*open {
                Some((opened, file)) if *opened == entry => file,
                _ => {
                    let file = base.copy.read(&base.manifest.entries[entry].path)?;
                    &open.insert((entry, file)).1
                }
            };
            read_block(file, block, index * BLOCK)
        };
        read().to(|| format!("read the copy of dataset {}", self.dataset()))
    }

    fn require_digest(&self, block: &[u8], digest: &Digest) -> Result<(), VolumeError> {
        if blake3::hash(block) == *digest {
            return Ok(());
        }
        Err(self.refused("a block was damaged on its way".into()))
    }

    /// Verifies the whole, decides that it is complete, and puts it in place.
    fn finish(
        &self,
        home: &Home,
        label: &Label,
        base: Option<SnapshotGuid>,
        arrival: &Arrival,
        first: u64,
        guid: SnapshotGuid,
    ) -> Result<(), VolumeError> {
        let dataset = self.dataset();
        let what = || format!("verify what has arrived of dataset {dataset}");
        let torn = &arrival.progress.torn;
        let sent = arrival.manifest.as_sent(&arrival.difference, torn);
        let is_whole = Manifest::guid(&label.name, &codec::encode(&sent)) == guid;
        let is_honest = torn.is_empty() || !sent.exact;
        let is_intact = is_whole && is_honest && arrival.is_intact(first).to(what)?;
        let _state = self.shared.lock_blocking(dataset, Scope::State)?;
        self.require_unmoved(home)?;
        let record = home.record()?;
        self.require_receiver(&record)?;
        let newest = home.snapshots()?.last().map(|(_, heading)| heading.guid);
        if newest != base {
            return Err(self.diverged("it was changed while the stream arrived"));
        }
        if !is_intact {
            // Going on from here would end here again.
            incoming::discard(&home.dir).to(what)?;
            return Err(self.refused(if is_whole && is_honest {
                "what arrived earlier was damaged on the disk".into()
            } else {
                "it is not what its trailer says".into()
            }));
        }
        let keep_set_id = self.shared.options.keep_set_id;
        home.prepare(label, &sent, keep_set_id)
            .and_then(|()| arrival.commit(&sent, guid))
            .to(|| format!("make the copy of dataset {dataset} what was sent"))
            .map_err(|error| or_no_space(error, dataset, sent.held(), self.shared.free().unwrap_or(0)))?;
        home.finish_receive(&record, &self.shared.clock, keep_set_id)?;
        Ok(())
    }

    /// Refuses to go on where the dataset was destroyed or replaced meanwhile.
    fn require_unmoved(&self, home: &Home) -> Result<(), VolumeError> {
        let dataset = self.dataset();
        let what = || format!("look for dataset {dataset}");
        let now = self
            .shared
            .datasets
            .stat(dataset.to_string().as_bytes())
            .to(what)?;
        let ours = home.dir.stat(b"").to(what)?;
        if now.is_none() || now.map(|now| now.inode) != ours.map(|ours| ours.inode) {
            return Err(VolumeError::NotHere { dataset });
        }
        Ok(())
    }

    fn read(&self, intake: &mut Intake, buffer: &mut [u8], received: u64) -> Result<(), VolumeError> {
        intake
            .read_exact(buffer)
            .map_err(|source| self.cut(received, source))
    }

    fn cut(&self, received: u64, source: io::Error) -> VolumeError {
        VolumeError::Cut {
            dataset: self.dataset(),
            received: ByteSize(received),
            source,
        }
    }

    fn refused(&self, reason: String) -> VolumeError {
        VolumeError::Stream {
            dataset: self.dataset(),
            reason,
        }
    }

    fn diverged(&self, reason: &str) -> VolumeError {
        VolumeError::Diverged {
            dataset: self.dataset(),
            reason: reason.into(),
        }
    }

    fn not_newest(&self, base: SnapshotGuid) -> VolumeError {
        self.diverged(&format!(
            "the stream starts from {base}, which is not its newest snapshot"
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::super::DirectoryOptions;
    use super::super::effects::Effects;
    use super::*;

    #[test]
    fn what_the_filesystem_has_no_room_for_is_refused() {
        let root = tempfile::tempdir().unwrap();
        let shared = Shared::open(root.path(), &DirectoryOptions::cautious(), Effects::default()).unwrap();
        let receiving = Receiving {
            shared: Arc::new(shared),
            request: ReceiveRequest {
                dataset: flocker_model::Dataset {
                    id: DatasetId(uuid::Uuid::nil()),
                    owner: "mongodb".parse().unwrap(),
                    maximum_size: None,
                },
                snapshot: "warm-2-1".parse().unwrap(),
                base: None,
            },
        };
        let manifest = Manifest {
            exact: true,
            entries: Vec::new(),
            skipped: Vec::new(),
        };
        assert!(receiving.require_room(&manifest, None, 0).is_ok());
        let refusal = receiving.require_room(&manifest, None, u64::MAX).unwrap_err();
        let VolumeError::NoSpace {
            needed, available, ..
        } = refusal
        else {
            panic!("{refusal}")
        };
        assert_eq!(needed, ByteSize(u64::MAX));
        assert!(available > ByteSize(0));
    }
}
