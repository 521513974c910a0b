//! Who may write: taking snapshots, letting go, taking over.

use std::io;
use std::os::fd::AsFd as _;
use std::time::Duration;

use flocker_model::Epoch;
use flocker_model::Role;
use flocker_model::SnapshotName;

use super::Shared;
use super::context::Context as _;
use super::difference::travelling;
use super::dir::Dir;
use super::home::Home;
use super::record::Record;
use super::scan;
use super::scan::Scanned;
use super::scan::Stillness;
use super::snapshots;
use super::snapshots::Stored;
use crate::change::Change;
use crate::volume::Acquisition;
use crate::volume::Handoff;
use crate::volume::VolumeError;
use crate::volume::holders;
use crate::volume::holders::Extent;

/// How often holders of a dataset are looked for before they count: what a program had that has just ended is closed
/// a little later, and whoever starts another shares its files with it for a moment.
const LOOKS: u32 = 20;

/// How long until they are looked for again.
const BETWEEN_LOOKS: Duration = Duration::from_millis(20);

/// Takes a blurred snapshot of a primary.
pub(super) fn snapshot(shared: &Shared, home: &Home, name: &SnapshotName) -> Result<Change, VolumeError> {
    let record = shared.settle(home)?;
    if home.snapshots()?.iter().any(|(known, _)| known == name) {
        return Ok(Change::AlreadySo);
    }
    if !record.is_primary() {
        return Err(wrong_role(home, "take a snapshot of", &record));
    }
    let data = home.data(&record)?;
    let newest = home.newest()?;
    let scanned = read(shared, home, &data, newest.as_ref(), Stillness::Blurred)?;
    let written = written(newest.as_ref().map(|(_, stored)| stored), &scanned);
    home.add_snapshot(name, scanned, written)?;
    Ok(Change::Made)
}

/// Lets go of a primary, or of a released copy for somebody else.
pub(super) fn release(shared: &Shared, home: &Home, handoff: &Handoff) -> Result<Change, VolumeError> {
    let mut record = shared.settle(home)?;
    let Handoff {
        dataset,
        epoch,
        to,
        last,
    } = handoff;
    let fenced = |fence| VolumeError::Fenced {
        dataset: *dataset,
        epoch: *epoch,
        fence,
    };
    let guid = match &record.role {
        Role::Replica => return Err(wrong_role(home, "release", &record)),
        Role::Released {
            epoch: released,
            to: taker,
            last: kept,
            guid,
        } => {
            if released == epoch && taker == to && kept == last {
                return Ok(Change::AlreadySo);
            }
            if epoch <= released {
                return Err(fenced(*released));
            }
            if kept != last {
                let reason = format!("its last snapshot is {kept}, not {last}");
                return Err(VolumeError::Diverged {
                    dataset: *dataset,
                    reason,
                });
            }
            *guid
        }
        Role::Primary { epoch: own } => {
            if epoch <= own {
                return Err(fenced(*own));
            }
            take_last(shared, home, &record, last)?.heading.guid
        }
    };
    record.role = Role::Released {
        epoch: *epoch,
        to: to.clone(),
        last: last.clone(),
        guid,
    };
    record.fence = record.fence.max(*epoch);
    record.since = shared.now()?;
    home.set_record(&record)?;
    Ok(Change::Made)
}

/// Moves the data out of the way of applications and takes the last snapshot of it.
fn take_last(
    shared: &Shared,
    home: &Home,
    record: &Record,
    last: &SnapshotName,
) -> Result<Stored, VolumeError> {
    let moved = || -> io::Result<Dir> {
        home.dir.rename(b"data", &home.dir, b"copy")?;
        home.dir.sync()?;
        home.dir.dir(b"copy")
    };
    let taken = moved()
        .to(|| format!("take dataset {} out of use", home.dataset))
        .and_then(|data| {
            // Nobody reaches it by its path any more. Who reached it before would write on.
            require_unheld(&data).to(|| format!("let go of dataset {}", home.dataset))?;
            take_last_of(shared, home, &data, last)
        });
    if taken.is_err() {
        // It stays primary, and its application may want to go on. Failing that, settling does it.
        home.put_in_place(record)?;
    }
    taken
}

/// Fails where anybody has something of the data in use so that he can change it, and goes on having it.
fn require_unheld(data: &Dir) -> io::Result<()> {
    let inodes = || {
        let found = scan::walk(data, Stillness::Blurred)?;
        Ok(found.iter().map(|(_, stat)| stat.inode).collect())
    };
    let look = || holders::of(data.as_fd(), Extent::Directory(&inodes));
    let mut holders = look()?;
    for _ in 1..LOOKS {
        if holders.is_empty() {
            break;
        }
        std::thread::sleep(BETWEEN_LOOKS);
        holders = look()?;
    }
    if holders.is_empty() {
        return Ok(());
    }
    Err(holders::in_the_way(&holders))
}

fn take_last_of(
    shared: &Shared,
    home: &Home,
    data: &Dir,
    last: &SnapshotName,
) -> Result<Stored, VolumeError> {
    let newest = home.newest()?;
    let before = newest.as_ref().map(|(_, stored)| stored);
    let scanned = read(shared, home, data, newest.as_ref(), Stillness::Exact)?;
    let what = || format!("take the last snapshot of dataset {}", home.dataset);
    data.sync_filesystem().to(what)?;
    // An earlier try may have come this far.
    if let Some((name, stored)) = newest.as_ref().filter(|(name, _)| name == last)
        && Stored::new(name, scanned.clone(), 0, 0).heading.guid == stored.heading.guid
    {
        return Ok(stored.clone());
    }
    let written = written(before, &scanned);
    snapshots::remove(&home.dir, last).to(what)?;
    home.add_snapshot(last, scanned, written)
}

/// Becomes the primary.
pub(super) fn acquire(
    shared: &Shared,
    home: &Home,
    acquisition: &Acquisition,
) -> Result<Change, VolumeError> {
    let mut record = shared.settle(home)?;
    let Acquisition {
        dataset,
        epoch,
        from,
        guid,
    } = acquisition;
    let diverged = |reason: String| VolumeError::Diverged {
        dataset: *dataset,
        reason,
    };
    if record.role == (Role::Primary { epoch: *epoch }) {
        return Ok(Change::AlreadySo);
    }
    if *epoch <= record.fence {
        return Err(VolumeError::Fenced {
            dataset: *dataset,
            epoch: *epoch,
            fence: record.fence,
        });
    }
    if record.is_primary() {
        return Err(wrong_role(home, "acquire", &record));
    }
    let Some((name, newest)) = home.newest()? else {
        return Err(VolumeError::NoSnapshot {
            dataset: *dataset,
            snapshot: format!("`{from}`"),
        });
    };
    if name != *from {
        return Err(diverged(format!("its newest snapshot is {name}, not {from}")));
    }
    let found = newest.heading.guid;
    if let Some(guid) = guid.filter(|guid| found != *guid) {
        return Err(diverged(format!("its snapshot {from} is {found}, not {guid}")));
    }
    if !newest.heading.exact {
        return Err(diverged(format!("{name} was taken while something wrote")));
    }
    let copy = home.data(&record)?;
    let odd = scan::verify(
        &copy,
        &newest.scanned,
        scan::Reading::OfAll,
        shared.options.keep_set_id,
    )
    .to(|| format!("verify the copy of dataset {dataset}"))?;
    if let Some(odd) = odd {
        return Err(diverged(format!("it was changed by hand: {odd}")));
    }
    if home
        .dir
        .stat(b"data")
        .to(|| format!("look for the data of dataset {dataset}"))?
        .is_some()
    {
        return Err(diverged(
            "something wrote to the place of its data while it had none".into(),
        ));
    }
    record.role = Role::Primary { epoch: *epoch };
    record.fence = *epoch;
    record.since = shared.now()?;
    home.set_record(&record)?;
    home.put_in_place(&record)?;
    shared.settle(home)?;
    Ok(Change::Made)
}

/// Gives up every ownership up to one.
pub(super) fn renounce(shared: &Shared, home: &Home, epoch: Epoch) -> Result<Change, VolumeError> {
    let mut record = shared.settle(home)?;
    if record.is_primary() {
        return Err(wrong_role(home, "renounce", &record));
    }
    if record.fence >= epoch {
        return Ok(Change::AlreadySo);
    }
    record.fence = epoch;
    home.set_record(&record)?;
    Ok(Change::Made)
}

/// Reads the data whole, but for what has not changed since a snapshot.
fn read(
    shared: &Shared,
    home: &Home,
    data: &Dir,
    earlier: Option<&(SnapshotName, Stored)>,
    stillness: Stillness,
) -> Result<Scanned, VolumeError> {
    let scanned = || -> io::Result<Scanned> {
        let started = shared.clock.now()?;
        // Pages that a program has mapped are watched again once they are written back.
        data.sync_filesystem()?;
        let earlier = match earlier {
            Some((name, stored)) if shared.trusts_times && snapshots::is_of_this_boot(&home.dir, name)? => {
                Some(&stored.scanned)
            }
            _ => None,
        };
        scan::scan(data, earlier, stillness, started)
    };
    scanned().to(|| format!("read the data of dataset {}", home.dataset))
}

fn written(before: Option<&Stored>, scanned: &Scanned) -> u64 {
    travelling(before.map(|stored| &stored.scanned.manifest), &scanned.manifest)
}

pub(super) fn wrong_role(home: &Home, verb: &'static str, record: &Record) -> VolumeError {
    VolumeError::WrongRole {
        dataset: home.dataset,
        verb,
        role: record.role_word(),
    }
}
