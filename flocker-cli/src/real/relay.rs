//! The node's end of an SSH pipe: what comes in goes to the one process that is the node, and back.

use std::cell::RefCell;
use std::fs::File;
use std::io;
use std::io::Read as _;
use std::io::Write as _;
use std::net::IpAddr;
use std::net::Shutdown;
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;

use flocker_backends::transport::local::connect_now;
use tokio::time::Instant;

use super::boot;
use super::examine;
use super::introduction;
use super::introduction::Answer;
use super::introduction::Introduction;
use super::prepare;
use super::prepare::Progress;
use super::process;
use super::settings::Settings;
use super::settings::Wanted;
use crate::error::Ending;
use crate::error::Failure;
use crate::local::Live;
use crate::runtime::block_on;

/// How long the node may take until it says its first word.
const FIRST_WORD: Duration = Duration::from_secs(20);

/// How long a process of another version may take to end when nobody uses it.
const UNTIL_IT_RETIRES: Duration = Duration::from_secs(1);

/// How often it is looked again while somebody waits.
const LOOK_INTERVAL: Duration = Duration::from_millis(10);

/// How many lines of the log are told when the node does not start.
const LAST_WORDS: usize = 6;

/// Passes bytes between our input and output and the process of the node, which is started if none runs.
///
/// What is wrong is told to the other side, in its own language.
pub(crate) fn relay(directory: &Path, connection: &str) -> Result<Ending, Failure> {
    let failed = |error: io::Error| Failure::failed("could not talk over SSH").because(&error);
    let own = |descriptor: std::os::fd::BorrowedFd<'_>| descriptor.try_clone_to_owned().map(File::from);
    let mut input = own(io::stdin().as_fd()).map_err(failed)?;
    let mut output = own(io::stdout().as_fd()).map_err(failed)?;
    let line = first_line(&mut input).map_err(failed)?;
    let answer = |output: &mut File, answer: &Answer| -> io::Result<()> {
        output.write_all(&introduction::written(answer)?)?;
        output.flush()
    };
    let introduced: Introduction = introduction::read(&line)
        .map_err(|error| Failure::failed("what came over SSH is no introduction").because(&error))?;
    let wanted = match introduced {
        Introduction::Talk(wanted) => wanted,
        Introduction::Examine(request) => {
            let found = examine::examine(directory, &request, reached_at(connection));
            answer(&mut output, &Answer::Examined(found)).map_err(failed)?;
            return Ok(Ending::Done);
        }
        Introduction::SettleBoot(wanted) => {
            let settled = block_on(boot::settle(directory, &wanted));
            let told = settled.map_or_else(Answer::from, Answer::Settled);
            answer(&mut output, &told).map_err(failed)?;
            return Ok(Ending::Done);
        }
        Introduction::Prepare(preparation) => {
            let (told, out) = (&answer, RefCell::new(&mut output));
            // Whoever asked may be gone; what was begun is brought to its end all the same.
            let tell = |progress: Progress| drop(told(&mut out.borrow_mut(), &Answer::Preparing(progress)));
            let deeds = prepare::prepare(directory, &preparation, reached_at(connection), &tell);
            answer(&mut output, &Answer::Prepared(deeds)).map_err(failed)?;
            return Ok(Ending::Done);
        }
    };
    match find_node(directory, wanted.as_ref(), reached_at(connection)) {
        Ok((node, first)) => {
            answer(&mut output, &Answer::Ready).map_err(failed)?;
            output.write_all(&first).map_err(failed)?;
            pass(input, output, &node).map_err(failed)?;
            Ok(Ending::Done)
        }
        Err(failure) => {
            answer(&mut output, &failure.into()).map_err(failed)?;
            Ok(Ending::Blocked)
        }
    }
}

/// Reads one line and nothing beyond it.
fn first_line(input: &mut File) -> io::Result<Vec<u8>> {
    let mut line = Vec::new();
    let mut byte = [0];
    loop {
        input.read_exact(&mut byte)?;
        if byte == *b"\n" {
            return Ok(line);
        }
        line.extend(byte);
        if line.len() > introduction::LONGEST {
            return Err(io::ErrorKind::InvalidData.into());
        }
    }
}

/// Passes bytes on in both directions, until the node has said all.
fn pass(mut input: File, mut output: File, node: &UnixStream) -> io::Result<()> {
    let mut to_node = node.try_clone()?;
    let mut from_node = node.try_clone()?;
    // It ends with the process where the other side never closes its end.
    drop(std::thread::spawn(move || {
        drop(copy(&mut input, &mut to_node));
        // Where the node has closed already, there is nothing to shut.
        drop(to_node.shutdown(Shutdown::Write));
    }));
    match copy(&mut from_node, &mut output) {
        // Whoever listened is gone.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        copied => copied,
    }
}

/// Passes bytes on as they come.
///
/// The copy of the standard library would let the kernel move them. It then
/// waits for bytes with the pipe locked, and SSH's server, which looks into
/// that pipe for what there is, is stuck for as long, in both directions.
fn copy(from: &mut impl io::Read, to: &mut impl io::Write) -> io::Result<()> {
    let mut buffer = vec![0; 128 * 1024];
    loop {
        match from.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(n_read) => to.write_all(&buffer[..n_read])?,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// Reads at which of its addresses the machine was reached, from what SSH says of a connection.
fn reached_at(connection: &str) -> Option<IpAddr> {
    connection.split_ascii_whitespace().nth(2)?.parse().ok()
}

/// Sees to it that the node runs with these settings; returns a connection to it and its first words.
fn find_node(
    directory: &Path,
    wanted: Option<&Wanted>,
    reached_at: Option<IpAddr>,
) -> Result<(UnixStream, Vec<u8>), Failure> {
    let failed =
        |error: &io::Error| Failure::failed("could not connect to the process of the node").because(error);
    let before = Settings::load(directory)?;
    let settings = Settings::settle(before.as_ref(), wanted, reached_at)?;
    let is_changed = before.as_ref() != Some(&settings);
    let log = process::log(directory);
    let began = std::fs::metadata(&log).map_or(0, |metadata| metadata.len());
    if is_changed {
        if !block_on(make_way(directory, Way::ForOtherSettings))? {
            return Err(Failure::failed(
                "the node is in use under other settings; try again when it is not",
            ));
        }
        settings.save(directory)?;
    } else {
        // Where somebody uses it, an older one does as well.
        block_on(make_way(directory, Way::ForOtherProgram))?;
    }
    let mut last = None;
    for _ in 0..3 {
        block_on(until_it_listens(directory))?;
        let connected = connect_now(directory).and_then(first_word);
        match connected {
            Ok(Some(found)) => return Ok(found),
            // It ended before it spoke: because nobody used it any more, or because it could not become the node.
            Ok(None) => {}
            Err(error) => last = Some(error),
        }
    }
    let mut failure = match &last {
        Some(error) => failed(error),
        None => Failure::failed("the process of the node ended right after its start"),
    };
    failure.causes.extend(said_since(&log, began));
    Err(failure.hint(format!("its log there is `{}`", log.display())))
}

/// Waits until a node speaks; nothing where it closes without a word.
fn first_word(mut node: UnixStream) -> io::Result<Option<(UnixStream, Vec<u8>)>> {
    node.set_read_timeout(Some(FIRST_WORD))?;
    let mut buffer = vec![0; 4096];
    let n_read = loop {
        match node.read(&mut buffer) {
            // A process that we started and that ended right away is told by a signal.
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => break 0,
            read => break read?,
        }
    };
    node.set_read_timeout(None)?;
    buffer.truncate(n_read);
    Ok((n_read > 0).then_some((node, buffer)))
}

/// Why a process should make way for another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    ForOtherProgram,
    ForOtherSettings,
}

/// Asks the process that is the node to end when nobody uses it; says whether none is left.
async fn make_way(directory: &Path, way: Way) -> Result<bool, Failure> {
    let failed =
        |error: &io::Error| Failure::failed("could not look for the process of the node").because(error);
    let Some(live) = Live::find(directory).map_err(|error| failed(&error))? else {
        return Ok(true);
    };
    if way == Way::ForOtherProgram && runs_our_program(&live) {
        return Ok(false);
    }
    live.retire().map_err(|error| failed(&error))?;
    match tokio::time::timeout(UNTIL_IT_RETIRES, live.ended()).await {
        Ok(ended) => ended.map(|()| true).map_err(|error| failed(&error)),
        Err(_) => Ok(false),
    }
}

fn runs_our_program(live: &Live) -> bool {
    let program = |process: &str| std::fs::read_link(format!("/proc/{process}/exe"));
    match (program(&live.id.to_string()), program("self")) {
        (Ok(theirs), Ok(ours)) => theirs == ours,
        (Err(_), _) | (_, Err(_)) => false,
    }
}

/// Starts the process of the node if none answers, and waits until one does or the started one has ended.
async fn until_it_listens(directory: &Path) -> Result<(), Failure> {
    let failed =
        |error: &io::Error| Failure::failed("could not start the process of the node").because(error);
    let find = || Live::find(directory).map_err(|error| failed(&error));
    if find()?.is_some() {
        return Ok(());
    }
    let started = process::start(directory)?;
    let end = Instant::now() + FIRST_WORD;
    loop {
        if find()?.is_some() {
            return Ok(());
        }
        let has_ended = match &started {
            Some(started) => tokio::time::timeout(LOOK_INTERVAL, started.ended()).await.is_ok(),
            None => true,
        };
        // Somebody else may have been faster.
        if has_ended && find()?.is_none() {
            return Ok(());
        }
        if Instant::now() >= end {
            return Err(Failure::failed("the process of the node does not answer"));
        }
    }
}

/// Returns the end of what was written to a log since it had this length.
fn said_since(log: &PathBuf, began: u64) -> Vec<String> {
    let text = std::fs::read(log).unwrap_or_default();
    let began = usize::try_from(began).unwrap_or(usize::MAX);
    // A log that was begun anew meanwhile is all new.
    let new = text.get(began..).unwrap_or(&text);
    let new = String::from_utf8_lossy(new);
    let lines: Vec<&str> = new
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .collect();
    let last = lines.iter().skip(lines.len().saturating_sub(LAST_WORDS));
    last.map(|line| (*line).to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ssh_says_where_the_machine_was_reached() {
        assert_eq!(
            reached_at("198.51.100.4 50022 192.0.2.7 22"),
            Some("192.0.2.7".parse().unwrap())
        );
        assert_eq!(
            reached_at("fd00::1 50022 fd00::2 22"),
            Some("fd00::2".parse().unwrap())
        );
        assert_eq!(reached_at(""), None);
        assert_eq!(reached_at("UNKNOWN 65535 UNKNOWN 65535"), None);
    }

    #[test]
    fn only_what_was_said_since_is_told() {
        let place = tempfile::tempdir().unwrap();
        let log = place.path().join("node.log");
        std::fs::write(&log, "old\nnew\n\n  newer\n").unwrap();
        assert_eq!(said_since(&log, 4), ["new", "newer"]);
        assert_eq!(said_since(&log, 4000), ["old", "new", "newer"]);
        assert_eq!(said_since(&place.path().join("none"), 0), Vec::<String>::new());
    }
}
