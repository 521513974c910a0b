//! What an application wrote: numbered files of bounded size, of which the newest two are kept.

use std::collections::BTreeSet;
use std::fs::File;
use std::fs::OpenOptions;
use std::io;
use std::io::Read;
use std::io::Seek;
use std::io::SeekFrom;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::path::PathBuf;
use std::pin::Pin;
use std::task::Context;
use std::task::Poll;
use std::time::Duration;

use tokio::io::AsyncRead;
use tokio::io::ReadBuf;
use tokio::time::Sleep;

/// How often a follower looks for more.
const FOLLOW_INTERVAL: Duration = Duration::from_millis(50);

fn path(directory: &Path, number: u64) -> PathBuf {
    directory.join(format!("{number:08}.log"))
}

/// Returns the numbers of the files that are kept.
fn numbers(directory: &Path) -> io::Result<BTreeSet<u64>> {
    let mut numbers = BTreeSet::new();
    for entry in std::fs::read_dir(directory)? {
        let name = entry?.file_name();
        let number = name.to_str().and_then(|name| name.strip_suffix(".log"));
        numbers.extend(number.and_then(|number| number.parse::<u64>().ok()));
    }
    Ok(numbers)
}

/// Appends to the newest file, and begins another when it is full.
#[derive(Debug)]
pub(in crate::runtime) struct LogWriter {
    directory: PathBuf,
    limit: u64,
    number: u64,
    file: File,
    size: u64,
}

impl LogWriter {
    /// Goes on where the last writer stopped. Two files of `limit` bytes are kept, or a little more to end a line.
    pub(in crate::runtime) fn open(directory: &Path, limit: u64) -> io::Result<Self> {
        let number = numbers(directory)?.last().copied().unwrap_or(0);
        let (file, size) = open_to_append(directory, number)?;
        Ok(Self {
            directory: directory.to_owned(),
            limit,
            number,
            file,
            size,
        })
    }

    /// Appends. A file is left at the end of a line, unless a line is as long as a whole file.
    pub(in crate::runtime) fn write(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let room = usize::try_from(self.limit.saturating_sub(self.size)).unwrap_or(usize::MAX);
            if room >= bytes.len() {
                return self.append(bytes);
            }
            // The line that crosses the limit still belongs to this file.
            let hard = usize::try_from(self.limit.saturating_mul(2).saturating_sub(self.size));
            let hard = hard.unwrap_or(usize::MAX).min(bytes.len());
            let from = room.min(hard);
            let cut = match bytes[from..hard].iter().position(|&byte| byte == b'\n') {
                Some(newline) => Some(from + newline + 1),
                None if hard < bytes.len() => Some(hard),
                None => None,
            };
            let Some(cut) = cut else {
                return self.append(bytes);
            };
            self.append(&bytes[..cut])?;
            bytes = &bytes[cut..];
            self.rotate()?;
        }
        Ok(())
    }

    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all(bytes)?;
        self.size += bytes.len() as u64;
        Ok(())
    }

    fn rotate(&mut self) -> io::Result<()> {
        let number = self.number + 1;
        (self.file, self.size) = open_to_append(&self.directory, number)?;
        self.number = number;
        for old in numbers(&self.directory)? {
            if old + 1 < number {
                std::fs::remove_file(path(&self.directory, old))?;
            }
        }
        Ok(())
    }
}

fn open_to_append(directory: &Path, number: u64) -> io::Result<(File, u64)> {
    let mut options = OpenOptions::new();
    options.create(true).append(true).mode(0o600);
    let file = options.open(path(directory, number))?;
    let size = file.metadata()?.len();
    Ok((file, size))
}

/// Reads what was written, oldest first, and goes on with what is still to come where asked.
pub(in crate::runtime) struct LogReader<A> {
    directory: PathBuf,
    number: u64,
    file: Option<File>,
    /// Says whether more may come; nothing where nobody waits for it.
    more_may_come: Option<A>,
    /// What was read after it was known that no more would come.
    at_the_end: bool,
    sleep: Pin<Box<Sleep>>,
}

impl<A: FnMut() -> bool> LogReader<A> {
    /// Begins at the last `tail` lines, or at all that is kept.
    ///
    /// At its end it waits for as long as `more_may_come` says so. Call it inside a tokio runtime.
    pub(in crate::runtime) fn open(
        directory: &Path,
        tail: Option<u32>,
        more_may_come: Option<A>,
    ) -> io::Result<Self> {
        let (number, offset) = match tail {
            None => (numbers(directory)?.first().copied().unwrap_or(0), 0),
            Some(lines) => start_of_tail(directory, lines)?,
        };
        let mut reader = Self {
            directory: directory.to_owned(),
            number,
            file: None,
            more_may_come,
            at_the_end: false,
            sleep: Box::pin(tokio::time::sleep(FOLLOW_INTERVAL)),
        };
        reader.file = reader.open_current()?;
        if let Some(file) = &mut reader.file {
            file.seek(SeekFrom::Start(offset))?;
        }
        Ok(reader)
    }

    fn open_current(&self) -> io::Result<Option<File>> {
        match File::open(path(&self.directory, self.number)) {
            Ok(file) => Ok(Some(file)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Reads what is there now: nothing at the end of all files.
    fn read_now(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            if self.file.is_none() {
                self.file = self.open_current()?;
            }
            // Whether there is a newer file is asked before the end of this one is
            // seen, because the writer leaves a file only when it is complete.
            let newer = numbers(&self.directory)?.range(self.number + 1..).next().copied();
            if let Some(file) = &mut self.file {
                let n_read = file.read(buffer)?;
                if n_read > 0 {
                    return Ok(n_read);
                }
            }
            match newer {
                None => return Ok(0),
                Some(newer) => {
                    self.number = newer;
                    self.file = None;
                }
            }
        }
    }
}

/// Finds where the last `lines` lines begin.
fn start_of_tail(directory: &Path, lines: u32) -> io::Result<(u64, u64)> {
    let numbers = numbers(directory)?;
    let newest = numbers.last().copied().unwrap_or(0);
    let mut missing = u64::from(lines);
    let mut is_last_byte = true;
    for &number in numbers.iter().rev() {
        let content = match std::fs::read(path(directory, number)) {
            Ok(content) => content,
            // The writer dropped it in the meantime: what is newer is all there is.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        if missing == 0 {
            return Ok((newest, content.len() as u64));
        }
        for (index, &byte) in content.iter().enumerate().rev() {
            // A newline at the very end ends the last line and begins none.
            if byte == b'\n' && !is_last_byte {
                missing -= 1;
                if missing == 0 {
                    return Ok((number, index as u64 + 1));
                }
            }
            is_last_byte = false;
        }
    }
    Ok((numbers.first().copied().unwrap_or(0), 0))
}

impl<A: FnMut() -> bool + Unpin> AsyncRead for LogReader<A> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        // The files are local and what is read at once is small: it does not
        // pay to send it through another thread.
        loop {
            let n_read = self.read_now(buffer.initialize_unfilled())?;
            if n_read > 0 {
                buffer.advance(n_read);
                return Poll::Ready(Ok(()));
            }
            let this = &mut *self;
            match &mut this.more_may_come {
                Some(more_may_come) if !this.at_the_end => {
                    std::task::ready!(this.sleep.as_mut().poll(context));
                    let next = tokio::time::Instant::now() + FOLLOW_INTERVAL;
                    this.sleep.as_mut().reset(next);
                    // What was written before the writer ended is still read once more.
                    this.at_the_end = !more_may_come();
                }
                Some(_) | None => return Poll::Ready(Ok(())),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt as _;

    use super::*;

    async fn read(directory: &Path, tail: Option<u32>) -> String {
        let mut reader = LogReader::open(directory, tail, None::<fn() -> bool>).unwrap();
        let mut text = String::new();
        reader.read_to_string(&mut text).await.unwrap();
        text
    }

    #[tokio::test]
    async fn the_last_lines_are_found_across_files() {
        let directory = tempfile::tempdir().unwrap();
        let directory = directory.path();
        let mut writer = LogWriter::open(directory, 10).unwrap();
        writer.write(b"one\ntwo\nthree\nfour\nfive").unwrap();
        assert_eq!(read(directory, None).await, "one\ntwo\nthree\nfour\nfive");
        for (lines, expected) in [
            (0, ""),
            (1, "five"),
            (2, "four\nfive"),
            (3, "three\nfour\nfive"),
            (99, "one\ntwo\nthree\nfour\nfive"),
        ] {
            assert_eq!(read(directory, Some(lines)).await, expected, "{lines} lines");
        }
        writer.write(b"\n").unwrap();
        assert_eq!(read(directory, Some(1)).await, "five\n");
    }

    #[tokio::test]
    async fn no_more_than_two_files_are_kept_and_lines_stay_whole() {
        let directory = tempfile::tempdir().unwrap();
        let directory = directory.path();
        for number in 0..1000 {
            let mut writer = LogWriter::open(directory, 100).unwrap();
            writer.write(format!("line {number}\n").as_bytes()).unwrap();
        }
        let text = read(directory, None).await;
        assert!(text.len() <= 220, "{} bytes", text.len());
        let kept: Vec<&str> = text.lines().collect();
        let first = 1000 - kept.len();
        let expected: Vec<String> = (first..1000).map(|number| format!("line {number}")).collect();
        assert_eq!(kept, expected);
    }

    #[tokio::test]
    async fn a_line_without_end_is_bounded_too() {
        let directory = tempfile::tempdir().unwrap();
        let directory = directory.path();
        let mut writer = LogWriter::open(directory, 100).unwrap();
        for _ in 0..100 {
            writer.write(&[b'x'; 77]).unwrap();
        }
        assert!(read(directory, None).await.len() <= 400);
    }

    #[tokio::test]
    async fn a_follower_sees_everything_and_then_the_end() {
        let directory = tempfile::tempdir().unwrap();
        let directory = directory.path();
        let mut writer = LogWriter::open(directory, 1000).unwrap();
        let mut left = 10;
        let more = move || {
            left -= 1;
            writer.write(format!("{left}\n").as_bytes()).unwrap();
            left > 0
        };
        let mut reader = LogReader::open(directory, None, Some(more)).unwrap();
        let mut text = String::new();
        reader.read_to_string(&mut text).await.unwrap();
        let expected: Vec<String> = (0..10).rev().map(|number| format!("{number}\n")).collect();
        assert_eq!(text, expected.concat());
    }
}
