//! What is here, read from the directories themselves.

use std::collections::BTreeSet;
use std::io::Read as _;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::Instant;

use flocker_model::ByteSize;
use flocker_model::DatasetId;
use flocker_model::Findings;
use flocker_model::Manifestation;
use flocker_model::PartialReceive;
use flocker_model::Role;
use flocker_model::Snapshot;

use super::Shared;
use super::context::Context as _;
use super::context::broken;
use super::counted::Count;
use super::dir::Dir;
use super::home::Home;
use super::incoming;
use super::lock::Held;
use super::lock::Scope;
use super::record::Record;
use super::scan;
use super::scan::Scanned;
use super::stream::Token;
use super::trash;
use crate::volume::Inventory;
use crate::volume::VolumeError;

/// Entries that are not ours and that were told of.
#[derive(Debug, Default)]
pub(super) struct Foreign(Mutex<BTreeSet<Vec<u8>>>);

impl Foreign {
    fn tell(&self, place: &'static str, name: &[u8]) {
        let path = [place.as_bytes(), b"/", name].concat();
        let shown = super::codec::show(&path);
        let mut told = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Nodes look often, and whoever fills a directory must not fill our memory.
        if told.len() < MOST_FOREIGN && told.insert(path) {
            tracing::warn!(entry = %shown, "this is not ours, and is left alone");
        }
    }
}

/// How much of what may be a record is read.
const LONGEST_RECORD: u64 = 64 * 1024;

/// How many entries that are not ours are told of.
const MOST_FOREIGN: usize = 100;

/// How often a dataset is read again that changes while it is read.
const TRIES: u32 = 5;

/// Lists everything of ours. What is not named as we name things is somebody else's: it is told once, and left alone.
///
/// What is named so is ours, and where it cannot be read that is said of it, and of nothing else: it may be somebody's
/// only copy, and all the others are as they were.
pub(super) fn take(shared: &Shared) -> Result<Inventory, VolumeError> {
    // What was given up is kept again once there is room.
    shared.reserve.make();
    let mut inventory = Inventory {
        free: Some(ByteSize(shared.free()?)),
        ..Inventory::default()
    };
    let names = shared.datasets.names().to(|| "list the datasets".into())?;
    for name in names {
        let Some(dataset) = parse_id(&name) else {
            match displaced(shared, &name)? {
                None => shared.foreign.tell("datasets", &name),
                found => inventory.unreadable.extend(found),
            }
            continue;
        };
        match look(shared, dataset, None) {
            Ok(Some(manifestation)) => drop(inventory.datasets.insert(dataset, manifestation)),
            Ok(None) => {}
            Err(error) => {
                inventory.unreadable.insert(dataset, said(&error));
                // What stands in its place may be another, which then is nowhere else.
                inventory.unreadable.extend(displaced(shared, &name)?);
            }
        }
    }
    shared
        .counted
        .retain(|dataset| inventory.datasets.contains_key(dataset));
    for name in shared.trash.names().to(|| "list the trash".into())? {
        let Some(piece) = parse_trash(&name) else {
            shared.foreign.tell("trash", &name);
            continue;
        };
        // Emptied or brought back meanwhile: not there any more.
        if let Some(trashed) = trash::look(shared, piece)? {
            inventory.trash.push(trashed);
        }
    }
    // Read last: whatever was destroyed meanwhile has left its fence before.
    for dataset in shared.fences.datasets()? {
        // The record of what is here is newer.
        if inventory.datasets.contains_key(&dataset) || inventory.unreadable.contains_key(&dataset) {
            continue;
        }
        match shared.fences.of(dataset) {
            Ok(fence) => drop(inventory.fences.insert(dataset, fence)),
            Err(error) => drop(inventory.unreadable.insert(dataset, said(&error))),
        }
    }
    Ok(inventory)
}

/// Writes an error with its causes on one line.
fn said(error: &VolumeError) -> String {
    let causes = std::iter::successors(Some(error as &dyn std::error::Error), |error| error.source());
    let said: Vec<String> = causes.map(ToString::to_string).collect();
    said.join(": ")
}

/// Returns which dataset an entry is that is not where it belongs, and says so: taken from its place, it would seem to
/// be nowhere, and be created anew. Nothing where an entry is no dataset, or one of which another is in its place.
fn displaced(shared: &Shared, name: &[u8]) -> Result<Option<(DatasetId, String)>, VolumeError> {
    let record = shared.datasets.dir(name).and_then(|entry| {
        let mut text = Vec::new();
        entry
            .read(b"record.json")?
            .take(LONGEST_RECORD)
            .read_to_end(&mut text)?;
        Ok(text)
    });
    if let Some(dataset) = record.ok().and_then(|text| Record::dataset_of(&text))
        && !is_accounted_for(shared, dataset)?
    {
        let found = super::codec::show(name);
        let reason = format!(
            "it is not in its place, but in datasets/{found}: move it back, or out of there if it is a copy"
        );
        return Ok(Some((dataset, reason)));
    }
    Ok(None)
}

/// Says whether a dataset is where we have put it: in its place, or in the trash.
fn is_accounted_for(shared: &Shared, dataset: DatasetId) -> Result<bool, VolumeError> {
    let what = || format!("look for dataset {dataset}");
    let place = dataset.to_string();
    if shared.datasets.stat(place.as_bytes()).to(what)?.is_some() {
        return Ok(true);
    }
    let thrown_away = shared.trash.names().to(what)?;
    let mut ours = thrown_away.iter().filter_map(|name| parse_trash(name));
    Ok(ours.any(|(_, thrown_away, _)| thrown_away == dataset))
}

/// Looks at one dataset, and does not count again what it holds where that was counted before.
pub(super) fn find(shared: &Shared, dataset: DatasetId) -> Result<Option<Manifestation>, VolumeError> {
    let found = look(shared, dataset, shared.counted.of(dataset).as_ref())?;
    if found.is_some() {
        return Ok(found);
    }
    // Whoever is told that it is not here may create it.
    for name in shared.datasets.names().to(|| "list the datasets".into())? {
        if let Some((displaced, reason)) = displaced(shared, &name)?
            && displaced == dataset
        {
            return Err(broken(format!("find dataset {dataset}"), reason));
        }
    }
    Ok(None)
}

/// Looks at one dataset, and does not wait for a change of it that takes long.
fn look(
    shared: &Shared,
    dataset: DatasetId,
    counted: Option<&Count>,
) -> Result<Option<Manifestation>, VolumeError> {
    let mut tries = 0;
    loop {
        let Some(home) = Home::open(&shared.datasets, dataset)? else {
            return Ok(None);
        };
        let state = shared
            .locks
            .try_lock(dataset, Scope::State)
            .to(|| format!("lock dataset {dataset}"))?;
        let seen = match &state {
            Some(_) => shared.settle(&home),
            None => home.record(),
        }
        .and_then(|record| describe(shared, &home, &record, counted, state.as_ref()));
        tries += 1;
        match seen {
            // Somebody changes it just now; what we read may have been between two steps.
            Err(_) if state.is_none() && tries < TRIES => {}
            other => return other.map(Some),
        }
    }
}

fn describe(
    shared: &Shared,
    home: &Home,
    record: &Record,
    counted: Option<&Count>,
    state: Option<&Held>,
) -> Result<Manifestation, VolumeError> {
    let dataset = home.dataset;
    require_data(shared, home, record)?;
    let snapshots: Vec<Snapshot> = home
        .snapshots()?
        .into_iter()
        .map(|(name, heading)| Snapshot {
            name,
            guid: heading.guid,
            written: ByteSize(heading.written),
        })
        .collect();
    let count = match counted {
        Some(count) => count.clone(),
        None => count(shared, home, record, state)?,
    };
    let partial = partial(home).to(|| format!("find what has arrived of dataset {dataset}"))?;
    Ok(Manifestation {
        role: record.role.clone(),
        snapshots,
        maximum_size: record.maximum_size,
        used: ByteSize(count.used),
        unsent: ByteSize(if record.is_primary() { count.unsent } else { 0 }),
        findings: Findings {
            round: count.round(),
            altered: count.altered,
        }
        .boxed(),
        partial,
        fence: record.fence,
        age: shared.since(record.since)?,
    })
}

/// Counts what a dataset holds, and remembers that.
fn count(shared: &Shared, home: &Home, record: &Record, state: Option<&Held>) -> Result<Count, VolumeError> {
    let dataset = home.dataset;
    let what = || format!("measure the data of dataset {dataset}");
    let begun = Instant::now();
    let newest = home.newest()?.map(|(_, stored)| stored.scanned);
    let (used, unsent) = measure(&home.dir, newest.as_ref()).to(what)?;
    let took = begun.elapsed();
    let mut altered = None;
    // Without the lock it may be half way to its next snapshot.
    if let (Some(newest), Some(_), false) = (&newest, state, record.is_primary()) {
        let keep_set_id = shared.options.keep_set_id;
        let copy = home.data(record)?;
        altered = scan::verify(&copy, newest, scan::Reading::OfModified, keep_set_id).to(what)?;
    }
    let count = Count {
        used,
        unsent,
        altered: altered.map(String::into_boxed_str),
        took,
    };
    shared.counted.set(dataset, count.clone());
    Ok(count)
}

/// Fails where the data of a dataset is not where it has to be: nothing to be seen is not the same as nothing.
///
/// A replica of which nothing has arrived whole has none yet.
fn require_data(shared: &Shared, home: &Home, record: &Record) -> Result<(), VolumeError> {
    let dataset = home.dataset;
    let what = || format!("find the data of dataset {dataset}");
    let has_some = match record.role {
        Role::Primary { .. } | Role::Released { .. } => true,
        Role::Replica => !home.snapshots()?.is_empty(),
    };
    if !has_some || has_data(&home.dir).to(what)? {
        return Ok(());
    }
    let place = std::str::from_utf8(record.place()).unwrap_or("data");
    let path = shared.path.join("datasets").join(dataset.to_string()).join(place);
    let reason = format!(
        "`{}` is missing, and it is {} here: put it back where it was",
        path.display(),
        record.role_word()
    );
    Err(broken(what(), reason))
}

fn partial(home: &Home) -> std::io::Result<Option<Box<PartialReceive>>> {
    let Some(label) = incoming::label(&home.dir)? else {
        return Ok(None);
    };
    let progress = incoming::progress(&home.dir)?;
    let token = Token::new(label.plan, progress.next, &progress.torn);
    Ok(Some(Box::new(PartialReceive {
        snapshot: label.name,
        received: ByteSize(progress.received),
        token: token.to_text(),
    })))
}

/// Says whether there is data of a dataset, in either of its places.
pub(super) fn has_data(home: &Dir) -> std::io::Result<bool> {
    Ok(home.stat(b"data")?.is_some() || home.stat(b"copy")?.is_some())
}

/// How much the data of a dataset is, and how much of it is not in its newest snapshot.
pub(super) fn measure(home: &Dir, newest: Option<&Scanned>) -> std::io::Result<(u64, u64)> {
    for place in [&b"data"[..], b"copy"] {
        match home.dir(place) {
            Ok(data) => return scan::measure(&data, newest),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok((0, 0))
}

/// Names a piece of trash: the dataset, when it was thrown away, and which of several that is.
pub(super) fn trash_name(dataset: DatasetId, since: i64, number: u32) -> String {
    format!("{dataset}.{since}.{number}")
}

/// Reads the name of a piece of trash: itself, the dataset, and when it was thrown away.
pub(super) fn parse_trash(name: &[u8]) -> Option<(String, DatasetId, i64)> {
    let text = std::str::from_utf8(name).ok()?;
    let mut parts = text.split('.');
    let dataset: DatasetId = parts.next()?.parse().ok()?;
    let since: i64 = parts.next()?.parse().ok()?;
    let number: u32 = parts.next()?.parse().ok()?;
    (trash_name(dataset, since, number) == text).then(|| (text.into(), dataset, since))
}

pub(super) fn parse_id(name: &[u8]) -> Option<DatasetId> {
    let text = std::str::from_utf8(name).ok()?;
    let dataset: DatasetId = text.parse().ok()?;
    (dataset.to_string() == text).then_some(dataset)
}
