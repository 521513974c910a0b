//! Which of the two ways a host is reached by: said by the configuration, never found out by trying.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use super::Effective;
use super::LONGEST_ANSWER;
use super::READING;
use super::SshTransport;
use super::Target;
use super::bootstrap;
use super::known;
use super::known::Known;
use super::library;
use super::library::Entrance;
use super::library::Host;
use crate::process::Program;
use crate::transport::Channel;
use crate::transport::TransportError;

/// How a host was found to be reached, and the connection to it.
#[derive(Clone, Debug)]
enum Way {
    Program,
    Library(Arc<Host>),
}

/// The hosts that were reached so far.
#[derive(Debug, Default)]
pub(super) struct Hosts(tokio::sync::Mutex<BTreeMap<Target, Arc<tokio::sync::Mutex<Option<Way>>>>>);

impl SshTransport {
    /// Opens a pipe by the library; nothing where the host is one for the program.
    pub(super) async fn by_library(&self, target: &Target) -> Option<Result<Channel, TransportError>> {
        match self.way(target).await {
            Ok(Way::Program) => None,
            Ok(Way::Library(host)) => Some(self.over(&host, target).await),
            Err(error) => Some(Err(error)),
        }
    }

    async fn way(&self, target: &Target) -> Result<Way, TransportError> {
        let place = {
            let mut hosts = self.hosts.0.lock().await;
            Arc::clone(hosts.entry(target.clone()).or_default())
        };
        // Held while the host is connected to, so that pipes at the same time share one connection.
        let mut place = place.lock().await;
        match &*place {
            Some(Way::Program) => return Ok(Way::Program),
            Some(Way::Library(host)) if host.is_alive() => return Ok(Way::Library(Arc::clone(host))),
            Some(Way::Library(_)) | None => {}
        }
        let way = self.choose(target).await?;
        *place = Some(way.clone());
        Ok(way)
    }

    async fn choose(&self, target: &Target) -> Result<Way, TransportError> {
        let effective = self.ask(target.clone()).await?;
        if let Some(why) = &effective.needs_program {
            tracing::debug!(host = target.host, why, "reached by the program ssh");
            return Ok(Way::Program);
        }
        let agent = self.variable("SSH_AUTH_SOCK").map(PathBuf::from);
        if effective.identities_only && agent.is_some() {
            // Which keys of the agent are meant is said by the public halves of the files.
            return Ok(Way::Program);
        }
        let known = self.known(&effective).await;
        if known.has_authority {
            return Ok(Way::Program);
        }
        let entrance = Entrance {
            host: target.host.clone(),
            effective,
            known,
            home: self.variable("HOME").map(PathBuf::from),
            agent,
            connect_timeout: self.options.connect_timeout,
            answer_timeout: self.options.answer_timeout,
        };
        Host::connect(entrance)
            .await
            .map(|host| Way::Library(Arc::new(host)))
    }

    fn variable(&self, name: &str) -> Option<&OsStr> {
        let mut environment = self.options.environment.iter();
        let found = environment.find(|(known, _)| known == name);
        found
            .map(|(_, value)| value.as_os_str())
            .filter(|value| !value.is_empty())
    }

    /// Looks a host up in all files of known hosts. A file that cannot be read knows nobody.
    async fn known(&self, effective: &Effective) -> Known {
        let mut known = Known::default();
        let name = known::name(effective);
        for file in &effective.known_hosts {
            let file = library::at_home(file, self.variable("HOME").map(std::path::Path::new));
            match tokio::fs::read(&file).await {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Ok(content) if known.read(&content, &name) => continue,
                Ok(_) | Err(_) => {}
            }
            let asked = Program::new("ssh-keygen")
                .arguments(["-F", &name, "-f"])
                .argument(file)
                .variables(self.options.environment.clone())
                .run(b"", LONGEST_ANSWER, READING)
                .await;
            match asked {
                // Where it finds nothing, it fails, and prints nothing.
                Ok(found) => known.add(&String::from_utf8_lossy(&found.stdout)),
                Err(error) => tracing::warn!(%error, "known hosts could not be looked up"),
            }
        }
        known
    }

    async fn over(&self, host: &Host, target: &Target) -> Result<Channel, TransportError> {
        let unreadable = |source| TransportError::OwnProgram { source };
        let command = bootstrap::command(self.program.content().await.map_err(unreadable)?);
        let opened = host.open(&target.host, command).await?;
        let broken = |source| TransportError::Unreachable {
            address: format!("`{}`", target.host),
            source,
        };
        let mut pipe = tokio::net::UnixStream::from_std(opened.pipe).map_err(broken)?;
        let brought = bootstrap::bring(&mut pipe, &self.program, self.options.answer_timeout).await;
        match brought {
            Ok(()) => Ok(Box::new(pipe)),
            Err(setback) => Err(setback.explain(&target.host, &library::said(&opened.said))),
        }
    }
}
