//! The tools of this machine: whether they are there, and what they say.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::path::Path;
use std::time::Duration;

use flocker_backends::process::DEFAULT_PATH;
use flocker_backends::process::Program;
use flocker_backends::process::find_program;
use flocker_engine::one_line;
use flocker_model::ExternalPort;
use flocker_model::PortNumber;

use crate::local::SOCKET_TABLES;

/// How long a tool may take to answer.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);

/// How much it may say.
const LONGEST: usize = 4 * 1024 * 1024;

pub(super) fn has(tool: &str) -> bool {
    find_program(Path::new(tool), OsStr::new(DEFAULT_PATH)).is_some()
}

/// Runs a tool and returns what it says, or why it does not.
pub(super) async fn ask(tool: &str, arguments: &[&str]) -> Result<String, String> {
    ask_for(tool, arguments, PATIENCE).await
}

/// The same, for one that may take longer.
pub(super) async fn ask_for(tool: &str, arguments: &[&str], patience: Duration) -> Result<String, String> {
    let asked = Program::new(tool)
        .arguments(arguments.iter().copied())
        .variable("PATH", DEFAULT_PATH)
        .variable("DEBIAN_FRONTEND", "noninteractive")
        .variable("LC_ALL", "C")
        .run(b"", LONGEST, patience)
        .await
        .and_then(flocker_backends::process::Output::success);
    match asked {
        Ok(said) => Ok(String::from_utf8_lossy(&said).trim().to_owned()),
        Err(error) => Err(one_line(&error)),
    }
}

/// Says who listens on these ports: the program and its process, and the container where it is Docker that listens for one.
///
/// Who cannot be told is left out.
pub(super) async fn listeners(ports: &BTreeSet<ExternalPort>) -> BTreeMap<ExternalPort, String> {
    let mut told = BTreeMap::new();
    if ports.is_empty() {
        return told;
    }
    let mut sockets: BTreeMap<String, ExternalPort> = BTreeMap::new();
    for (table, protocol, mark) in SOCKET_TABLES {
        let text = std::fs::read_to_string(table).unwrap_or_default();
        let listening =
            listening(&text, mark).map(|(socket, number)| (socket, ExternalPort { number, protocol }));
        sockets.extend(listening.filter(|(_, port)| ports.contains(port)));
    }
    for (port, process, program) in holders(&sockets) {
        told.entry(port)
            .or_insert_with(|| format!("`{program}` (process {process})"));
    }
    for (port, who) in &mut told {
        if !who.starts_with("`docker-proxy`") {
            continue;
        }
        let filter = format!("publish={port}");
        let named = ask("docker", &["ps", "--filter", &filter, "--format", "{{.Names}}"]).await;
        if let Some(name) = named.ok().as_deref().and_then(|names| names.lines().next()) {
            *who = format!("the container `{name}`");
        }
    }
    told
}

/// Reads which sockets listen, by the number that the kernel gave them.
fn listening<'t>(table: &'t str, mark: &'t str) -> impl Iterator<Item = (String, PortNumber)> + 't {
    table.lines().skip(1).filter_map(move |line| {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        let (_, port) = fields.get(1)?.split_once(':')?;
        let port = PortNumber::new(u16::from_str_radix(port, 16).ok()?)?;
        let is_listening = *fields.get(3)? == mark;
        is_listening.then_some(((*fields.get(9)?).to_owned(), port))
    })
}

/// Finds the processes that have these sockets open.
fn holders(sockets: &BTreeMap<String, ExternalPort>) -> Vec<(ExternalPort, u32, String)> {
    let mut found = Vec::new();
    let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    for process in processes {
        let Some(id) = process.file_name().to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        let open = std::fs::read_dir(process.path().join("fd"))
            .into_iter()
            .flatten()
            .flatten();
        for descriptor in open {
            let Ok(target) = std::fs::read_link(descriptor.path()) else {
                continue;
            };
            let socket = target
                .to_str()
                .and_then(|name| name.strip_prefix("socket:[")?.strip_suffix(']'));
            if let Some(port) = socket.and_then(|socket| sockets.get(socket)) {
                let program = std::fs::read_to_string(process.path().join("comm")).unwrap_or_default();
                found.push((*port, id, program.trim().to_owned()));
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_listens_is_named() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = ExternalPort::tcp(PortNumber::new(listener.local_addr().unwrap().port()).unwrap());
        let told = crate::runtime::block_on(async { Ok(listeners(&[port].into()).await) }).unwrap();
        let process = format!("(process {})", std::process::id());
        assert!(told[&port].ends_with(&process), "{told:?}");
        drop(listener);
    }
}
