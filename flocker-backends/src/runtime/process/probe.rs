//! One probe of a health check: does the application serve?

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use flocker_model::HealthProbe;
use nix::sys::signal::Signal;
use nix::sys::signal::killpg;
use nix::unistd::Pid;
use tokio::io::AsyncReadExt;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use super::launch::Launch;
use super::reaper::Ending;
use super::reaper::Reaper;
use crate::process::Program;

/// How much of an answer is read before it must have said its status.
const LONGEST_STATUS_LINE: u64 = 1024;

/// Probes once. `Err` says why it does not serve.
pub(super) async fn probe(
    probe: &HealthProbe,
    timeout: Duration,
    launch: &Launch,
    reaper: &Reaper,
) -> Result<(), String> {
    let work = async {
        match probe {
            HealthProbe::Tcp { port } => {
                let address = SocketAddr::new(launch.address, port.get());
                let connected = TcpStream::connect(address).await;
                connected.map(drop).map_err(|error| format!("{address}: {error}"))
            }
            HealthProbe::Http { port, path } => {
                let address = SocketAddr::new(launch.address, port.get());
                let status = http_status(address, path).await;
                match status.map_err(|error| format!("http://{address}{path}: {error}"))? {
                    200..=399 => Ok(()),
                    status => Err(format!(
                        "http://{address}{path} was answered with status {status}"
                    )),
                }
            }
            HealthProbe::Command(command) => run(command, launch, reaper).await,
        }
    };
    match tokio::time::timeout(timeout, work).await {
        Ok(result) => result,
        Err(_) => Err(format!("no answer within {timeout:?}")),
    }
}

/// Asks for a path and returns the status of the answer. The rest of the answer is not read.
pub(in crate::runtime) async fn http_status(address: SocketAddr, path: &str) -> io::Result<u16> {
    let malformed = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what.to_owned());
    // A line break in the path would begin another header.
    if path.chars().any(|c| c.is_whitespace() || c.is_control()) {
        return Err(malformed("the path has a blank or control character"));
    }
    let mut stream = TcpStream::connect(address).await?;
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: {address}\r\nUser-Agent: flocker\r\nAccept: */*\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await?;
    let mut line = Vec::new();
    let mut answer = stream.take(LONGEST_STATUS_LINE);
    loop {
        match answer.read_u8().await {
            Ok(b'\n') => break,
            Ok(byte) => line.push(byte),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                return Err(malformed("the answer ended before its status"));
            }
            Err(error) => return Err(error),
        }
    }
    let line = String::from_utf8_lossy(&line);
    let mut words = line.split_ascii_whitespace();
    let is_http = words.next().is_some_and(|word| word.starts_with("HTTP/1."));
    let status = words.next().and_then(|word| word.parse().ok());
    status
        .filter(|_| is_http)
        .ok_or_else(|| malformed("the answer is not HTTP"))
}

/// Kills the command's processes when its probe is over, whichever way that came.
struct Group(Pid);

impl Drop for Group {
    fn drop(&mut self) {
        let _ = killpg(self.0, Signal::SIGKILL);
    }
}

async fn run(command: &[Box<str>], launch: &Launch, reaper: &Reaper) -> Result<(), String> {
    let Some((program, arguments)) = command.split_first() else {
        return Err("its command is empty".into());
    };
    let process = Program::new(Path::new(&**program))
        .arguments(arguments.iter().map(|argument| &**argument))
        .variables(&launch.environment)
        .directory(&launch.working_directory)
        .own_group()
        .spawn_unwatched()
        .map_err(|error| chain(&error))?;
    let group = Group(process);
    let ending = reaper.ending_of(process).await;
    drop(group);
    match ending {
        Ending::Exited(0) => Ok(()),
        ending @ (Ending::Exited(_) | Ending::Killed(_) | Ending::Unseen) => {
            Err(format!("`{program}` ended with {ending}"))
        }
    }
}

/// Returns what an error says, with its causes.
pub(in crate::runtime) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
