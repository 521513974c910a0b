//! The packages of a machine by Debian's tools: who is at work on them, what was left half done, what is offered, and changing it.
//!
//! What changes packages is never killed, not even where nobody waits for it
//! any more, for that is what leaves them half done. It writes into a file
//! and not to us, so that it does not end with us either.

use std::fs::File;
use std::fs::OpenOptions;
use std::io::Read as _;
use std::io::Seek as _;
use std::io::SeekFrom;
use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;

use flocker_backends::process::DEFAULT_PATH;
use flocker_backends::process::Program;
use flocker_backends::process::Stream;
use flocker_backends::process::describe;
use flocker_engine::clock;
use flocker_engine::one_line;
use rustix::process::Flock;
use rustix::process::FlockType;
use rustix::process::fcntl_getlk;

use super::Tell;
use crate::real::machine::ask;

/// What whoever changes packages, or the lists of them, holds.
const LOCKS: [&str; 4] = [
    "/var/lib/dpkg/lock-frontend",
    "/var/lib/dpkg/lock",
    "/var/lib/apt/lists/lock",
    "/var/cache/apt/archives/lock",
];

/// How long somebody else may be at work on packages before we give up.
pub(super) const TURN: Duration = Duration::from_secs(300);

/// How long packages may take to come, and to be unpacked and built.
const PATIENCE: Duration = Duration::from_secs(1500);

/// How much of the command line of somebody else is told.
const LONGEST_NAME: usize = 40;

/// How often it is looked how far it is.
const LOOK_INTERVAL: Duration = Duration::from_millis(250);

/// How long nothing new is told before the same is told again, as a sign of life.
const SIGN_OF_LIFE: Duration = Duration::from_secs(10);

/// How much of the end of what was said is read, and how many lines of it are told where it failed.
const TAIL: u64 = 16 * 1024;
const LAST_WORDS: usize = 12;

/// How lines begin that say nothing of why something failed.
const ROUTINE: [&str; 8] = [
    "Get:",
    "Hit:",
    "Ign:",
    "Err:",
    "Reading ",
    "Building ",
    "(Reading ",
    "Preparing to unpack ",
];

/// What apt says where somebody was faster than us.
const LOCKED: [&str; 2] = ["Could not get lock", "Unable to lock"];

/// Who is at work on the packages of this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Holder {
    /// The command and its process, as far as they can be told.
    pub(super) who: String,
    lock: PathBuf,
}

/// Finds who is at work on the packages of this machine.
pub(super) fn holder() -> Option<Holder> {
    LOCKS.iter().find_map(|path| holder_of(Path::new(path)))
}

fn holder_of(path: &Path) -> Option<Holder> {
    let file = File::open(path).ok()?;
    let held = fcntl_getlk(&file, &Flock::from(FlockType::WriteLock)).ok()??;
    let who = match held.pid {
        Some(process) => {
            let id = process.as_raw_nonzero();
            let words = std::fs::read(format!("/proc/{id}/cmdline")).unwrap_or_default();
            let words = called(&String::from_utf8_lossy(&words));
            format!("`{words}` (process {id})")
        }
        None => "somebody".to_owned(),
    };
    Some(Holder {
        who,
        lock: path.to_owned(),
    })
}

/// Returns the beginning of a command line as a person would type it.
fn called(command_line: &str) -> String {
    let words = command_line.trim_end_matches('\0').replace('\0', " ");
    let path_ends = words.split(' ').next().unwrap_or_default().rfind('/');
    let words = &words[path_ends.map_or(0, |at| at + 1)..];
    let short: String = words.chars().take(LONGEST_NAME).collect();
    if short.len() < words.len() {
        format!("{short}…")
    } else {
        short
    }
}

/// Waits until nobody else is at work on packages, for so long. Returns as the error who still is.
pub(super) async fn wait_for_turn(patience: Duration, tell: &Tell<'_>) -> Result<(), String> {
    wait_while_held(holder, patience, tell).await
}

async fn wait_while_held(
    holder: impl Fn() -> Option<Holder>,
    patience: Duration,
    tell: &Tell<'_>,
) -> Result<(), String> {
    let began = clock::now();
    let mut told = None;
    while let Some(Holder { who, lock }) = holder() {
        if began.elapsed() >= patience {
            return Err(format!(
                "waited {} s for {who}, who is still at work on packages and holds `{}`",
                patience.as_secs(),
                lock.display()
            ));
        }
        if told.is_none_or(|told| clock::now() - told >= SIGN_OF_LIFE) {
            tell(&format!(
                "waits for {who}, who is at work on packages, {} s at most",
                patience.as_secs()
            ));
            told = Some(clock::now());
        }
        tokio::time::sleep(LOOK_INTERVAL).await;
    }
    Ok(())
}

/// A package that was left half way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct HalfDone {
    pub(super) name: String,
    /// Whether not even all of its files are there.
    pub(super) is_torn: bool,
}

/// Finds what was left half way, as after a loss of power.
pub(super) async fn half_done() -> Vec<HalfDone> {
    let said = ask("dpkg-query", &["-W", "-f", "${db:Status-Abbrev} ${Package}\\n"]).await;
    said.map_or_else(|_| Vec::new(), |said| half_done_in(&said))
}

/// Reads the second letter of each state: what became of the package.
fn half_done_in(listed: &str) -> Vec<HalfDone> {
    let read = listed.lines().filter_map(|line| {
        let (state, name) = line.split_once(' ')?;
        let is_torn = match state.chars().nth(1)? {
            // Half installed.
            'H' => true,
            // Unpacked, half configured, waiting for others or for work that others have to do for it.
            'U' | 'F' | 'W' | 't' => false,
            _ => return None,
        };
        Some(HalfDone {
            name: name.trim().to_owned(),
            is_torn,
        })
    });
    read.collect()
}

/// Says whether a package could be installed, by the lists that are there.
pub(super) async fn is_offered(package: &str) -> bool {
    let said = ask("apt-cache", &["policy", package]).await;
    said.is_ok_and(|said| said.contains("Candidate:") && !said.contains("Candidate: (none)"))
}

/// Runs what changes packages, once nobody else does, and tells how far it is. Nobody is asked anything.
///
/// All that it says is kept in `log`; its last words are the error.
pub(super) async fn run(command: &[String], log: &Path, tell: &Tell<'_>) -> Result<(), String> {
    let began = clock::now();
    loop {
        wait_for_turn(TURN.saturating_sub(began.elapsed()), tell).await?;
        let ran = run_once(command, log, tell).await;
        match ran {
            // Somebody began between our look and its start.
            Err(why) if LOCKED.iter().any(|said| why.contains(said)) && began.elapsed() < TURN => {
                tokio::time::sleep(LOOK_INTERVAL).await;
            }
            ran => return ran,
        }
    }
}

async fn run_once(command: &[String], log: &Path, tell: &Tell<'_>) -> Result<(), String> {
    let Some((tool, arguments)) = command.split_first() else {
        return Ok(());
    };
    let opened = OpenOptions::new()
        .create(true)
        .append(true)
        .open(log)
        .and_then(|out| {
            let began = out.metadata()?.len();
            Ok((out.try_clone()?, out, began))
        });
    let (out, err, began) = opened.map_err(|error| format!("`{}`: {error}", log.display()))?;
    let started = Program::new(tool.as_str())
        .arguments(arguments)
        .variable("PATH", DEFAULT_PATH)
        .variable("HOME", "/root")
        .variable("LC_ALL", "C")
        .variable("DEBIAN_FRONTEND", "noninteractive")
        .variable("APT_LISTCHANGES_FRONTEND", "none")
        .directory("/")
        .stdout(Stream::Descriptor(out.into()))
        .stderr(Stream::Descriptor(err.into()))
        .own_group()
        .spawn_lasting();
    let mut child = started.map_err(|error| one_line(&error))?;
    let start = clock::now();
    let mut told = (String::new(), start);
    loop {
        if let Ok(ended) = tokio::time::timeout(LOOK_INTERVAL, child.wait()).await {
            let status = ended.map_err(|error| error.to_string())?;
            if status.success() {
                return Ok(());
            }
            let mut said = said_since(log, began);
            said.retain(|line| !ROUTINE.iter().any(|routine| line.starts_with(routine)));
            said.dedup();
            let last = said.iter().skip(said.len().saturating_sub(LAST_WORDS));
            let last: Vec<&str> = last.map(String::as_str).collect();
            return Err(format!("{}: {}", describe(status), last.join("; ")));
        }
        if start.elapsed() >= PATIENCE {
            return Err(format!(
                "it has not ended within {} s, and goes on",
                PATIENCE.as_secs()
            ));
        }
        let now = said_since(log, began).pop().unwrap_or_else(|| tool.clone());
        if now != told.0 || told.1.elapsed() >= SIGN_OF_LIFE {
            tell(&now);
            told = (now, clock::now());
        }
    }
}

/// Reads the last lines that were written to a log since it had this length.
fn said_since(log: &Path, began: u64) -> Vec<String> {
    let read = || {
        let mut file = File::open(log)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(began.max(length.saturating_sub(TAIL))))?;
        let mut bytes = Vec::new();
        file.take(TAIL).read_to_end(&mut bytes)?;
        Ok::<_, std::io::Error>(bytes)
    };
    let bytes = read().unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    // What is written over and over on one line counts as lines.
    let lines = text.split(['\n', '\r']).map(str::trim);
    lines.filter(|line| !line.is_empty()).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::cell::RefCell;

    use super::*;
    use crate::error::Failure;
    use crate::runtime::block_on;

    fn words(command: &[&str]) -> Vec<String> {
        command.iter().map(|word| (*word).to_owned()).collect()
    }

    /// Runs it and returns how it ended and what was told.
    fn ran(command: &[&str], log: &Path) -> (Result<(), String>, Vec<String>) {
        let told = RefCell::new(Vec::new());
        let tell = |said: &str| told.borrow_mut().push(said.to_owned());
        let ended = block_on(async { Ok::<_, Failure>(run_once(&words(command), log, &tell).await) });
        (ended.unwrap(), told.into_inner())
    }

    #[test]
    fn what_fails_says_its_last_words_of_both_streams_and_all_is_kept() {
        let place = tempfile::tempdir().unwrap();
        let log = place.path().join("packages.log");
        std::fs::write(&log, "E: of an earlier time\n").unwrap();
        let script = "seq 30; echo 'Get:1 a'; echo 'E: no such thing' >&2; exit 100";
        let (ended, _) = ran(&["sh", "-c", script], &log);
        let why = ended.unwrap_err();
        assert!(why.starts_with("status 100: 20; 21; "), "{why}");
        assert!(why.ends_with("; 30; E: no such thing"), "{why}");
        assert!(!why.contains("earlier"));
        assert!(std::fs::read_to_string(&log).unwrap().contains("\n1\n2\n"));
        assert_eq!(ran(&["true"], &log).0, Ok(()));
    }

    #[test]
    fn how_far_it_is_is_told_while_it_runs() {
        let place = tempfile::tempdir().unwrap();
        let log = place.path().join("packages.log");
        let go_on = place.path().join("go-on");
        let script = format!(
            "printf 'Get:1 a\\rGet:2 b'; while [ ! -e {} ]; do sleep 0.01; done",
            go_on.display()
        );
        let told = RefCell::new(Vec::new());
        let tell = |said: &str| {
            told.borrow_mut().push(said.to_owned());
            if said == "Get:2 b" {
                std::fs::write(&go_on, "").unwrap();
            }
        };
        let command = words(&["sh", "-c", &script]);
        let ended = block_on(async { Ok::<_, Failure>(run_once(&command, &log, &tell).await) });
        assert_eq!(ended.unwrap(), Ok(()));
        assert_eq!(told.borrow().last().unwrap(), "Get:2 b");
    }

    #[test]
    fn somebody_else_is_waited_for_and_named_where_that_takes_too_long() {
        let other = || Holder {
            who: "`apt-get upgrade` (process 7)".into(),
            lock: "/var/lib/dpkg/lock".into(),
        };
        let told = RefCell::new(Vec::new());
        let tell = |said: &str| told.borrow_mut().push(said.to_owned());
        let waited = |times: usize, patience| {
            let left = Cell::new(times);
            let holder = || {
                let held = left.get() > 0;
                left.set(left.get().saturating_sub(1));
                held.then(other)
            };
            block_on(async { Ok::<_, Failure>(wait_while_held(holder, patience, &tell).await) }).unwrap()
        };
        assert_eq!(waited(2, Duration::from_secs(60)), Ok(()));
        assert_eq!(
            told.borrow()[..],
            ["waits for `apt-get upgrade` (process 7), who is at work on packages, 60 s at most"]
        );
        assert_eq!(
            waited(usize::MAX, Duration::ZERO),
            Err("waited 0 s for `apt-get upgrade` (process 7), who is still at work on packages and holds `/var/lib/dpkg/lock`".into())
        );
    }

    #[test]
    fn somebody_is_called_by_what_was_typed() {
        assert_eq!(called("/usr/bin/apt-get\0install\0vim\0"), "apt-get install vim");
        assert_eq!(called("apt\0-y\0/a/b\0"), "apt -y /a/b");
        assert_eq!(called(""), "");
        let long = called(&format!("/bin/dpkg\0{}", "x".repeat(90)));
        assert_eq!(long, format!("dpkg {}…", "x".repeat(35)));
    }

    #[test]
    fn a_lock_that_nobody_holds_is_nobodys() {
        let place = tempfile::tempdir().unwrap();
        let lock = place.path().join("lock");
        assert_eq!(holder_of(&lock), None);
        std::fs::write(&lock, "").unwrap();
        assert_eq!(holder_of(&lock), None);
    }

    #[test]
    fn what_was_left_half_way_is_told_from_what_is_whole_or_gone() {
        let listed = "ii  adduser\nrc  gone\niU  containerd\niHR docker.io\niF  zfs-fuse\nit  libc-bin\n\
                      un  never\nhi  held\niW  waiting\n";
        let found = half_done_in(listed);
        let names: Vec<(&str, bool)> = found
            .iter()
            .map(|half| (half.name.as_str(), half.is_torn))
            .collect();
        assert_eq!(
            names,
            [
                ("containerd", false),
                ("docker.io", true),
                ("zfs-fuse", false),
                ("libc-bin", false),
                ("waiting", false)
            ]
        );
    }
}
