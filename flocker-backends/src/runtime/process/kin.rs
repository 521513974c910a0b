//! The processes of an application, by descent and by mark, and their certain end.
//!
//! A process is signalled through a descriptor that was opened before it was
//! looked at, so that a reused process id can never hit a stranger.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::fs;
use std::io;

use rustix::process::Pid;
use rustix::process::PidfdFlags;
use rustix::process::Signal;

use super::launch::MARKER;

/// The parts of `/proc/<id>/stat` that matter here.
struct Stat {
    parent: i32,
    is_zombie: bool,
    started: Option<u64>,
}

fn stat(process: i32) -> Option<Stat> {
    let text = fs::read(format!("/proc/{process}/stat")).ok()?;
    let text = String::from_utf8_lossy(&text);
    // The second field is the program's name, in parentheses, and may hold anything.
    let (_, rest) = text.rsplit_once(')')?;
    let mut fields = rest.split_ascii_whitespace();
    let state = fields.next()?;
    let parent = fields.next()?.parse().ok()?;
    let started = fields.nth(17).and_then(|field| field.parse().ok());
    Some(Stat {
        parent,
        is_zombie: matches!(state, "Z" | "X"),
        started,
    })
}

/// Returns when a process began, in ticks since the machine did.
pub(super) fn start_tick(process: i32) -> Option<u64> {
    stat(process)?.started
}

fn all_processes() -> io::Result<Vec<i32>> {
    let mut processes = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let name = entry?.file_name();
        processes.extend(name.to_str().and_then(|name| name.parse::<i32>().ok()));
    }
    Ok(processes)
}

/// Kills every living descendant of this process and says how many there were.
pub(super) fn kill_descendants() -> io::Result<usize> {
    let me = nix::unistd::getpid().as_raw();
    let mut children: BTreeMap<i32, Vec<i32>> = BTreeMap::new();
    for process in all_processes()? {
        if let Some(stat) = stat(process) {
            children.entry(stat.parent).or_default().push(process);
        }
    }
    let mut found = BTreeSet::new();
    let mut open = vec![me];
    while let Some(parent) = open.pop() {
        for &child in children.get(&parent).into_iter().flatten() {
            if found.insert(child) {
                open.push(child);
            }
        }
    }
    let mut n_killed = 0;
    for process in found {
        n_killed += usize::from(kill_if(process, || {
            // Its parent may have died just now; then it is ours, or dead as well.
            stat(process).is_some_and(|stat| !stat.is_zombie)
        }));
    }
    Ok(n_killed)
}

/// Kills every living process with this mark and says how many there were.
pub(super) fn kill_marked(marker: &str) -> io::Result<usize> {
    let me = nix::unistd::getpid().as_raw();
    let entry = format!("{MARKER}={marker}");
    let mut n_killed = 0;
    for process in all_processes()? {
        let is_marked = || process != me && has_entry(process, entry.as_bytes());
        if is_marked() {
            n_killed += usize::from(kill_if(process, is_marked));
        }
    }
    Ok(n_killed)
}

/// Says whether a living process was started with this in its environment. A zombie has none.
fn has_entry(process: i32, entry: &[u8]) -> bool {
    // Not readable means that it belongs to another user, or is gone: not one of ours.
    let Ok(environment) = fs::read(format!("/proc/{process}/environ")) else {
        return false;
    };
    environment.split(|&byte| byte == 0).any(|found| found == entry)
}

/// Kills a process if this is true of it now, and says whether it did.
fn kill_if(process: i32, condition: impl FnOnce() -> bool) -> bool {
    let Some(id) = Pid::from_raw(process) else {
        return false;
    };
    let Ok(descriptor) = rustix::process::pidfd_open(id, PidfdFlags::empty()) else {
        return false;
    };
    condition() && rustix::process::pidfd_send_signal(&descriptor, Signal::KILL).is_ok()
}
