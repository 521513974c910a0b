//! Other programs, run beside ours and measured: the one place in the benches that spawns.

use std::io;
use std::path::Path;
use std::path::PathBuf;
use std::process::Output;
use std::process::Stdio;
use std::time::Instant;

use nix::sys::resource::UsageWho;
use nix::sys::resource::getrusage;
use serde::Deserialize;
use serde::Serialize;

/// The option with which a program of ours is asked to run another and to say what it cost.
pub const MEASURE: &str = "--measure-child";

/// What one run of a program cost.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Cost {
    /// Wall-clock seconds from start to end.
    pub seconds: f64,
    /// The most memory that it had at once.
    pub bytes: f64,
    /// Its exit status; nothing where a signal ended it.
    pub status: Option<i32>,
}

#[expect(
    clippy::disallowed_methods,
    reason = "benches run a peer and a profiler beside our own program; nothing of the product is in this package"
)]
fn command(program: &Path) -> std::process::Command {
    std::process::Command::new(program)
}

/// Runs a program in a directory and returns its whole output.
pub fn output(program: &Path, arguments: &[String], directory: &Path) -> io::Result<Output> {
    command(program)
        .args(arguments)
        .current_dir(directory)
        .env("CHECKPOINT_DISABLE", "1")
        .env_remove("TF_CLI_CONFIG_FILE")
        .stdin(Stdio::null())
        .output()
}

/// Starts a program in a network that has a name, with pipes to it and from it.
pub fn start(network: &str, program: &Path, arguments: &[String]) -> io::Result<std::process::Child> {
    command(Path::new("ip"))
        .args(["netns", "exec", network])
        .arg(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
}

/// Runs a program and returns what it wrote, if it succeeded.
pub fn call(line: &str) -> io::Result<String> {
    let mut words = line.split(' ').map(String::from);
    let program = words.next().unwrap_or_default();
    let output = output(Path::new(&program), &words.collect::<Vec<_>>(), Path::new("."))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    Err(io::Error::other(format!("{line}: {}", said.trim())))
}

/// Runs a program and returns what it cost.
///
/// The figures program starts itself in between: the peak memory that the
/// kernel keeps is the largest of all children of a process.
pub fn cost(program: &Path, arguments: &[String], directory: &Path) -> io::Result<Cost> {
    let own = std::env::current_exe()?;
    let mut all = vec![MEASURE.to_owned(), program.display().to_string()];
    all.extend_from_slice(arguments);
    let Output { stdout, stderr, .. } = output(&own, &all, directory)?;
    serde_json::from_slice(&stdout)
        .map_err(|_| io::Error::other(String::from_utf8_lossy(&stderr).into_owned()))
}

/// The other end of [`cost`]: runs what stands after [`MEASURE`] and returns what to print.
pub fn measure(mut words: impl Iterator<Item = String>) -> io::Result<String> {
    let program = words.next().ok_or(io::ErrorKind::InvalidInput)?;
    let start = Instant::now();
    let status = command(Path::new(&program))
        .args(words)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()?;
    let seconds = start.elapsed().as_secs_f64();
    let peak = getrusage(UsageWho::RUSAGE_CHILDREN)?.max_rss();
    let kibibytes = u32::try_from(peak).unwrap_or(u32::MAX);
    let cost = Cost {
        seconds,
        bytes: f64::from(kibibytes) * 1024.0,
        status: status.code(),
    };
    Ok(serde_json::to_string(&cost)?)
}

/// Finds a program where the shell would.
#[must_use]
pub fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .map(|directory| directory.join(program))
        .find(|candidate| candidate.is_file())
}

/// Returns a program that was built beside this one.
pub fn sibling(program: &str) -> io::Result<PathBuf> {
    let own = std::env::current_exe()?;
    // The benches themselves stand one directory deeper.
    let found = own
        .ancestors()
        .skip(1)
        .take(2)
        .map(|directory| directory.join(program))
        .find(|candidate| candidate.is_file());
    found.ok_or_else(|| io::Error::other(format!("`{program}` was not built beside `{}`", own.display())))
}
