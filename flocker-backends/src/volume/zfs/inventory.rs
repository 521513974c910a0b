//! What is here, read from the pool.

use std::sync::Arc;
use std::time::Duration;

use flocker_model::ByteSize;
use flocker_model::DatasetId;
use flocker_model::Epoch;
use flocker_model::Keeps;
use flocker_model::Manifestation;
use flocker_model::PartialReceive;
use flocker_model::Role;
use flocker_model::Trashed;

use super::frame::Begun;
use super::frame::Token;
use super::lock::Scope;
use super::partial;
use super::receiving;
use super::seen::Ours;
use super::seen::Seen;
use super::shared::Shared;
use super::spool::Arrival;
use super::spool::Note;
use super::spool::Notes;
use super::tool::Context as _;
use crate::change::Change;
use crate::volume::Inventory;
use crate::volume::VolumeError;

/// Lists everything, and puts right what a call that was dropped or a restart of the machine left half done.
pub(super) async fn take(shared: &Arc<Shared>) -> Result<Inventory, VolumeError> {
    let mut seen = shared.look().await?;
    let mut notes = notes(shared, &seen).await?;
    if settle(shared, &seen, &notes.read).await? {
        seen = shared.look().await?;
        notes = self::notes(shared, &seen).await?;
    }
    let has_primary = seen
        .here
        .values()
        .any(|ours| matches!(ours.standing.role, Role::Primary { .. }));
    if has_primary {
        // A pool without room closes no transaction for anybody. It is to be seen all the same, with the sizes of the one before.
        if let Err(error) = shared.tool.settle(&shared.parent).await {
            let error: &dyn std::error::Error = &error;
            tracing::warn!(error, "what was written last may not be counted yet");
        }
    }
    if has_primary || !seen.foreign.is_empty() {
        // Also because what was nobody's when it was listed, and was complete when the notes were read, is in neither.
        seen = shared.look().await?;
    }
    let now = shared.now()?;
    let mut inventory = Inventory {
        free: Some(ByteSize(seen.available)),
        keeps: Keeps::Content,
        ..Inventory::default()
    };
    for (dataset, ours) in &seen.here {
        inventory.datasets.insert(*dataset, describe(ours, now));
    }
    for (entry, ours) in &seen.trash {
        inventory.trash.push(Trashed {
            entry: entry.clone(),
            dataset: ours.dataset,
            role: Some(ours.standing.role.clone()),
            used: ByteSize(ours.filesystem.referenced),
            age: since(ours.trashed.unwrap_or(now), now),
        });
    }
    for note in notes.read {
        if seen.unreadable.contains_key(&note.dataset.id) {
            continue;
        }
        let dataset = note.dataset.id;
        let held = shared.locks.try_lock(dataset, Scope::State);
        let is_arriving = held.to(|| format!("lock dataset {dataset}"))?.is_none();
        let partial = if is_arriving {
            // The pool's token is another one with each look, and nobody goes on from it.
            arriving(shared, &note)
        } else {
            partial(shared, &seen, &note).await
        };
        let manifestation = inventory
            .datasets
            .entry(dataset)
            .or_insert_with(|| beginning(&note, partial.as_deref(), seen.fence_left(dataset), now));
        manifestation.partial = partial;
    }
    inventory.unreadable = notes.unreadable;
    inventory.unreadable.extend(seen.unreadable);
    for dataset in inventory.unreadable.keys() {
        inventory.datasets.remove(dataset);
    }
    // Of what is here, even if it cannot be read, its own record is the newer one.
    inventory.fences = seen.fences;
    inventory.fences.retain(|dataset, _| {
        !inventory.datasets.contains_key(dataset) && !inventory.unreadable.contains_key(dataset)
    });
    Ok(inventory)
}

/// Lists one dataset. What was left half done stays so.
pub(super) async fn find(shared: &Shared, dataset: DatasetId) -> Result<Option<Manifestation>, VolumeError> {
    let mut seen = shared.look_for(dataset).await?;
    let now = shared.now()?;
    let note = shared.note(&seen, dataset).await?;
    if note.is_none() && !seen.here.contains_key(&dataset) && !seen.foreign.is_empty() {
        // What was nobody's when it was listed, and is complete now, is in neither.
        seen = shared.look_for(dataset).await?;
    }
    let found = seen.here.get(&dataset).map(|ours| describe(ours, now));
    let Some(note) = note else {
        return Ok(found);
    };
    let partial = partial(shared, &seen, &note).await;
    let fence = seen.fence_left(dataset);
    let mut found = found.unwrap_or_else(|| beginning(&note, partial.as_deref(), fence, now));
    found.partial = partial;
    Ok(Some(found))
}

/// Says what one dataset is here. A primary is mounted and writable then.
///
/// Nothing else of it is put right: an application waits for this.
pub(super) async fn ready(shared: &Arc<Shared>, dataset: DatasetId) -> Result<Option<Role>, VolumeError> {
    let is_primary = |ours: &Ours| matches!(ours.standing.role, Role::Primary { .. });
    let mut seen = shared.look_for(dataset).await?;
    if let Some(ours) = seen.here.get(&dataset)
        // A release that failed may have left the kernel refusing what the pool would take.
        && (!Shared::is_as_its_role_says(ours)
            || is_primary(ours) && shared.require_writable(dataset).await.is_err())
    {
        let change = shared.change(dataset, move |shared| async move {
            // It may have been let go meanwhile.
            let seen = shared.look_for(dataset).await?;
            shared.settle(seen.require(dataset)?).await?;
            Ok(seen)
        });
        seen = change.await?;
        if seen.here.get(&dataset).is_some_and(is_primary) {
            shared.require_writable(dataset).await?;
        }
    }
    match seen.here.get(&dataset) {
        Some(ours) => Ok(Some(ours.standing.role.clone())),
        None => Ok(find(shared, dataset).await?.map(|found| found.role)),
    }
}

/// Returns what senders have to know of this pool.
pub(super) fn takes(shared: &Shared) -> String {
    let token = Token {
        takes: shared.tool.able.takes,
        begun: None,
    };
    token.to_text()
}

async fn notes(shared: &Shared, seen: &Seen) -> Result<Notes, VolumeError> {
    match shared.spool(seen).await? {
        Some(spool) => spool.notes().to(|| "find what has arrived".into()),
        None => Ok(Notes::default()),
    }
}

/// Puts right what nobody is just about, and says whether anything was to be done.
///
/// What cannot be put right is left and told to the log: one dataset that
/// cannot be mounted does not hide the others.
async fn settle(shared: &Arc<Shared>, seen: &Seen, notes: &[Note]) -> Result<bool, VolumeError> {
    let mut did = false;
    let interrupted = notes.iter().filter(|note| receiving::has_arrived(seen, note));
    let here = seen.here.values().filter(|ours| !Shared::is_settled(ours));
    let trash = seen.trash.values().filter(|ours| ours.filesystem.is_mounted);
    let datasets = interrupted
        .map(|note| note.dataset.id)
        .chain(here.map(|ours| ours.dataset))
        .chain(trash.map(|ours| ours.dataset));
    for dataset in datasets {
        let what = || format!("lock dataset {dataset}");
        let Some(held) = shared.locks.try_lock(dataset, Scope::State).to(what)? else {
            continue;
        };
        did = true;
        if let Err(error) = settle_one(shared, dataset).await {
            let error: &dyn std::error::Error = &error;
            tracing::warn!(%dataset, error, "a dataset could not be put right");
        }
        drop(held);
    }
    Ok(did)
}

async fn settle_one(shared: &Arc<Shared>, dataset: DatasetId) -> Result<(), VolumeError> {
    let mut seen = shared.look_at(dataset).await?;
    if receiving::complete(shared, &seen, dataset).await? == Change::Made {
        seen = shared.look().await?;
    }
    for ours in seen.trash.values().filter(|ours| ours.dataset == dataset) {
        shared.unmount(ours).await?;
    }
    match seen.here.get(&dataset) {
        Some(ours) => {
            shared.settle(ours).await?;
            if Shared::has_left(ours) {
                shared.drop_arrival(&seen, dataset).await?;
            }
            Ok(())
        }
        None => Ok(()),
    }
}

fn describe(ours: &Ours, now: i64) -> Manifestation {
    let is_primary = matches!(ours.standing.role, Role::Primary { .. });
    Manifestation {
        role: ours.standing.role.clone(),
        snapshots: ours.model_snapshots(),
        maximum_size: ours.filesystem.quota.map(ByteSize),
        used: ByteSize(ours.filesystem.referenced),
        unsent: ByteSize(if is_primary { ours.unsent() } else { 0 }),
        findings: None,
        partial: None,
        fence: ours.standing.fence,
        age: since(ours.standing.since, now),
    }
}

/// A copy of which nothing is complete yet.
fn beginning(note: &Note, partial: Option<&PartialReceive>, fence: Epoch, now: i64) -> Manifestation {
    Manifestation {
        role: Role::Replica,
        snapshots: Vec::new(),
        maximum_size: note.dataset.maximum_size,
        used: partial.map_or(ByteSize(0), |partial| partial.received),
        unsent: ByteSize(0),
        findings: None,
        partial: None,
        fence,
        age: since(note.since, now),
    }
}

/// Tells what a note speaks of, and how its sender goes on.
async fn partial(shared: &Shared, seen: &Seen, note: &Note) -> Option<Box<PartialReceive>> {
    let arrival = note.arrival.as_ref()?;
    if let Some(pooled) = partial::of_note(seen, note) {
        let dataset = note.dataset.id;
        match shared.rest_of(dataset, &pooled.token).await {
            Ok(Some(rest)) if (rest.to, rest.from) == (arrival.guid, arrival.base) => {
                return describe_partial(arrival, rest.arrived, Some(Begun::InPool(pooled.token)));
            }
            // It is of no use to the sender, and goes when the copy begins anew.
            Ok(_) => {}
            Err(error) => {
                let error: &dyn std::error::Error = &error;
                tracing::warn!(%dataset, error, "the pool does not tell what has arrived");
            }
        }
    }
    describe_partial(arrival, arrival.kept, None)
}

/// Tells the same of what arrives just now, without asking: at least what the pool had when it was asked last.
fn arriving(shared: &Shared, note: &Note) -> Option<Box<PartialReceive>> {
    let arrival = note.arrival.as_ref()?;
    let rest = shared.rests.last(note.dataset.id);
    let rest = rest.filter(|rest| (rest.to, rest.from) == (arrival.guid, arrival.base));
    describe_partial(arrival, rest.map_or(arrival.kept, |rest| rest.arrived), None)
}

fn describe_partial(arrival: &Arrival, received: u64, pooled: Option<Begun>) -> Option<Box<PartialReceive>> {
    let mut token = arrival.token()?;
    token.begun = pooled.or(token.begun);
    Some(Box::new(PartialReceive {
        snapshot: arrival.snapshot.clone(),
        received: ByteSize(received),
        token: token.to_text(),
    }))
}

fn since(then: i64, now: i64) -> Duration {
    let passed = now.saturating_sub(then);
    Duration::from_secs(u64::try_from(passed).unwrap_or(0))
}
