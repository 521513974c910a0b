//! A program that knows nothing of Flocker, with data of its own.

use std::fmt::Write as _;
use std::net::Ipv4Addr;
use std::path::Path;
use std::path::PathBuf;

use flocker_backends::process::DEFAULT_PATH;
use flocker_backends::process::find_program;

use super::files::quoted;
use super::talk::exchange;
use crate::cli;
use crate::error::Failure;

/// What it is given to keep.
const KEY: &str = "greeting";

/// A program that is installed on this machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stranger {
    /// The database Redis, with every write on disk before it is answered.
    Redis,
    /// The web server that comes with Python.
    Python,
}

impl Stranger {
    /// Returns one that is installed here, and what it is run by.
    pub(super) fn installed() -> Option<Self> {
        [Self::Redis, Self::Python]
            .into_iter()
            .find(|stranger| stranger.program().is_some())
    }

    fn program(self) -> Option<PathBuf> {
        let program = Path::new(match self {
            Self::Redis => "redis-server",
            Self::Python => "python3",
        });
        // The machine's own is preferred to wrappers that come earlier in the operator's path.
        let theirs = || find_program(program, &cli::variable_os("PATH")?);
        find_program(program, DEFAULT_PATH.as_ref()).or_else(theirs)
    }

    /// Says what it is, for people.
    pub(super) fn title(self) -> &'static str {
        match self {
            Self::Redis => "redis-server, a database",
            Self::Python => "python3 -m http.server, a web server",
        }
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Redis => "redis",
            Self::Python => "files",
        }
    }

    pub(super) fn port(self) -> u16 {
        match self {
            Self::Redis => 6379,
            Self::Python => 8000,
        }
    }

    /// Returns its part of the application file.
    pub(super) fn application(self) -> String {
        let program = self.program().unwrap_or_default();
        let image = quoted(&program.display().to_string());
        let (name, port) = (self.name(), self.port());
        let command_line = match self {
            Self::Redis => {
                r#"[--bind, "{address}", --port, "{port}", --dir, "{volume}", --appendonly, "yes", --appendfsync, always, --save, ""]"#
            }
            Self::Python => r#"[-m, http.server, "{port}", --bind, "{address}", --directory, "{volume}"]"#,
        };
        format!(
            "  {name}:
    image: {image}
    command_line: {command_line}
    ports: [{{internal: {port}, external: {port}}}]
    volume: {{mountpoint: /data}}
    health_check: {{tcp: {port}, interval: 50ms, timeout: 1s, retries: 200}}
"
        )
    }

    /// Gives it something to keep: over its own protocol, or where it has none for that, in its volume.
    pub(super) async fn give(self, address: Ipv4Addr, volume: &Path, what: &str) -> Result<(), Failure> {
        let failed = || Failure::failed(format!("could not give {} anything to keep", self.name()));
        match self {
            Self::Redis => {
                let answer = self.ask(address, &redis(&["SET", KEY, what])).await?;
                if answer == "+OK" {
                    return Ok(());
                }
                let mut failure = failed();
                failure.causes.push(answer);
                Err(failure)
            }
            Self::Python => std::fs::write(volume.join(KEY), what).map_err(|error| failed().because(&error)),
        }
    }

    /// Asks it for what it was given.
    pub(super) async fn take(self, address: Ipv4Addr) -> Result<String, Failure> {
        let request = match self {
            Self::Redis => redis(&["GET", KEY]),
            Self::Python => format!("GET /{KEY} HTTP/1.0\r\n\r\n"),
        };
        let answer = self.ask(address, &request).await?;
        Ok(answer.lines().last().unwrap_or_default().to_owned())
    }

    async fn ask(self, address: Ipv4Addr, request: &str) -> Result<String, Failure> {
        let is_enough: fn(&[u8]) -> bool = match self {
            Self::Redis => |answer| {
                // A short text comes as a line with its length and a line with itself.
                let n_lines = if answer.starts_with(b"$") { 2 } else { 1 };
                answer.split_inclusive(|byte| *byte == b'\n').count() >= n_lines && answer.ends_with(b"\n")
            },
            Self::Python => |_| false,
        };
        let answer = exchange(address, self.port(), request.as_bytes(), is_enough).await;
        let answer = answer.map_err(|error| {
            Failure::failed(format!("{} does not answer at {address}", self.name())).because(&error)
        })?;
        Ok(String::from_utf8_lossy(&answer).trim_end().to_owned())
    }
}

/// Writes a command as Redis reads it.
fn redis(words: &[&str]) -> String {
    let mut request = format!("*{}\r\n", words.len());
    for word in words {
        write!(request, "${}\r\n{word}\r\n", word.len()).unwrap_or_default();
    }
    request
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_written_as_redis_reads_it() {
        assert_eq!(
            redis(&["GET", "greeting"]),
            "*2\r\n$3\r\nGET\r\n$8\r\ngreeting\r\n"
        );
    }
}
