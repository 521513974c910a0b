//! Somebody who stands beside the machines and logs who could write: not Flocker, and none of the machines, is asked.
//!
//! Each look finds, by every process of every node, where it has the dataset
//! mounted, be that for the node or in a container, and asks the filesystem to
//! remove a directory there that is not empty. That fails in any case, and says
//! why: ZFS by way of FUSE shows what is read-only as mounted writable, and even
//! opens files of it for writing.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::fmt;
use std::io::ErrorKind;
use std::path::Path;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::Instant;

use flocker_model::DatasetId;

use crate::support::Operator;

/// How long it rests between two looks; the machine has other work to do.
const REST: Duration = Duration::from_millis(5);

/// The nodes that could write at one look.
type Writers = BTreeSet<usize>;

/// Watches an application's dataset while `work` is done, prints who could write from when on, and fails if two could at once.
///
/// It has to have this directory, which must never be empty: it would be removed.
#[track_caller]
pub(crate) fn watched<T>(
    operator: &Operator,
    application: &str,
    directory: &str,
    work: impl FnOnce() -> T,
) -> T {
    let watch = Watch {
        directory: directory.into(),
        cgroup: format!("/{}/node", operator.bed.name()),
        source: format!("/{}", DatasetId::derived(&application.parse().unwrap())),
    };
    let is_over = AtomicBool::new(false);
    let (worked, log) = std::thread::scope(|scope| {
        let watching = scope.spawn(|| watch.until(&is_over));
        let over = Over(&is_over);
        let worked = work();
        drop(over);
        (worked, watching.join().unwrap())
    });
    println!("{log}");
    assert!(
        log.two_at_once.is_empty(),
        "two nodes could write {application} at once, first at {:?}",
        log.two_at_once[0]
    );
    assert!(log.n_changes() > 0, "nobody was ever seen with {application}");
    worked
}

struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

struct Watch {
    /// With what the cgroups of the nodes' processes begin, but for the number.
    cgroup: String,
    /// What the name of the mounted filesystem has in it.
    source: String,
    /// The directory there that is not empty.
    directory: String,
}

/// Where something is mounted.
struct Place<'a> {
    device: &'a str,
    path: &'a str,
}

/// What was seen.
#[derive(Debug, Default)]
struct Log {
    n_looks: usize,
    longest_look: Duration,
    /// Who could write, from which moment on.
    changes: Vec<(Duration, Writers)>,
    two_at_once: Vec<(Duration, Writers)>,
}

impl Log {
    fn n_changes(&self) -> usize {
        self.changes
            .iter()
            .filter(|(_, writers)| !writers.is_empty())
            .count()
    }
}

impl fmt::Display for Log {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            n_looks,
            longest_look,
            changes,
            two_at_once,
        } = self;
        for (since, writers) in changes {
            let names: Vec<_> = writers.iter().map(|node| format!("node{node}")).collect();
            let names = if names.is_empty() {
                "nobody".into()
            } else {
                names.join(" and ")
            };
            writeln!(f, "observer: {:9.3} s  {names} could write", since.as_secs_f64())?;
        }
        write!(
            f,
            "observer: {n_looks} looks of {longest_look:.0?} at most; two at once: {}",
            two_at_once.len()
        )
    }
}

impl Watch {
    fn until(&self, is_over: &AtomicBool) -> Log {
        let mut log = Log::default();
        let began = Instant::now();
        while !is_over.load(Ordering::SeqCst) {
            let looked = Instant::now();
            let mut writers = self.writers();
            log.longest_look = log.longest_look.max(looked.elapsed());
            log.n_looks += 1;
            if writers.len() > 1 {
                // A hand-off may lie within one look. Who could write before and after another could surely could beside it.
                writers = &writers & &self.writers();
                if writers.len() > 1 {
                    log.two_at_once.push((looked - began, writers.clone()));
                }
            }
            if log.changes.last().is_none_or(|(_, last)| *last != writers) {
                log.changes.push((looked - began, writers));
            }
            std::thread::sleep(REST);
        }
        log
    }

    /// Returns the nodes of which any process has the dataset mounted so that it can be written.
    fn writers(&self) -> Writers {
        let mut namespaces: BTreeMap<PathBuf, Vec<PathBuf>> = BTreeMap::new();
        for process in std::fs::read_dir("/proc").unwrap() {
            let process = process.unwrap().path();
            // Whoever ends while it is looked at holds nothing.
            if let Ok(namespace) = std::fs::read_link(process.join("ns/mnt")) {
                namespaces.entry(namespace).or_default().push(process);
            }
        }
        let mut refused = BTreeSet::new();
        let mut writers = Writers::new();
        for processes in namespaces.into_values() {
            let read = |process: &PathBuf| {
                let mounts = std::fs::read_to_string(process.join("mountinfo")).ok()?;
                Some((process.clone(), mounts))
            };
            let Some((process, mounts)) = processes.iter().find_map(read) else {
                continue;
            };
            for place in mounts.lines().filter_map(|line| self.place(line)) {
                let Some(node) = self.node_of(&process) else { break };
                if writers.contains(&node) || refused.contains(&(node, place.device.to_owned())) {
                    continue;
                }
                let path = format!("{}/root{}/{}", process.display(), place.path, self.directory);
                match std::fs::remove_dir(path) {
                    Err(error) if error.kind() == ErrorKind::DirectoryNotEmpty => {
                        writers.insert(node);
                    }
                    Err(_) => {
                        refused.insert((node, place.device.to_owned()));
                    }
                    Ok(()) => panic!("`{}` was empty", self.directory),
                }
            }
        }
        writers
    }

    /// Reads a line of `mountinfo`, if it is of the dataset and does not say that it is read-only.
    fn place<'a>(&self, line: &'a str) -> Option<Place<'a>> {
        let (place, filesystem) = line.split_once(" - ")?;
        let mut filesystem = filesystem.split(' ').skip(1);
        // A number may follow the id.
        if !filesystem.next()?.contains(&self.source) {
            return None;
        }
        let place: Vec<_> = place.split(' ').collect();
        let may_write = |options: &str| options.split(',').any(|option| option == "rw");
        let [_, _, device, _, path, options, ..] = place[..] else {
            return None;
        };
        (may_write(options) && may_write(filesystem.next()?)).then_some(Place { device, path })
    }

    fn node_of(&self, process: &Path) -> Option<usize> {
        let cgroups = std::fs::read_to_string(process.join("cgroup")).ok()?;
        let (_, after) = cgroups.split_once(&self.cgroup)?;
        let digits: String = after.chars().take_while(char::is_ascii_digit).collect();
        digits.parse().ok()
    }
}
