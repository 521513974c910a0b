//! What an application is: an image or program, and what it needs around it.

use std::fmt;
use std::num::NonZeroU32;
use std::str::FromStr;
use std::time::Duration;

use arcstr::ArcStr;
use serde::Deserialize;
use serde::Serialize;
use thin_vec::ThinVec;
use thiserror::Error;

use crate::environment::Environment;
use crate::environment::EnvironmentValue;
use crate::id::ApplicationName;
use crate::id::DefinitionHash;
use crate::number::ByteSize;
use crate::number::PortNumber;
use crate::port::ExternalPort;
use crate::port::Protocol;
use crate::secret::DefinitionKey;
use crate::volume::Volume;

/// An image, `repository[:tag]`; to the process runtime, a program.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Image(ArcStr);

/// Why a text is not an image.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("`{0}` is not an image: it must have the form `repository[:tag]`, without blanks")]
pub struct ImageError(Box<str>);

impl Image {
    /// Returns the image as it was written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Image {
    type Err = ImageError;

    fn from_str(text: &str) -> Result<Self, ImageError> {
        let refused = text.is_empty()
            || text.len() > 4096
            || text.starts_with([':', '-'])
            || text.ends_with(':')
            || text.chars().any(|c| c.is_whitespace() || c.is_control());
        if refused {
            Err(ImageError(text.chars().take(80).collect::<String>().into()))
        } else {
            Ok(Self(text.into()))
        }
    }
}

impl TryFrom<String> for Image {
    type Error = ImageError;

    fn try_from(text: String) -> Result<Self, ImageError> {
        text.parse()
    }
}

impl From<Image> for String {
    fn from(image: Image) -> Self {
        image.0.as_str().into()
    }
}

impl fmt::Display for Image {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// A port on which an application listens, and the port under which every node of the cluster offers it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Port {
    /// Where the application listens.
    pub internal: PortNumber,
    /// Where every node of the cluster answers, and what is spoken at both.
    pub external: ExternalPort,
}

/// A connection that an application opens to its own node and that ends at another application.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Link {
    /// The port that the linked application's clients expect; part of the variables' names.
    pub local_port: PortNumber,
    /// The external port of the linked application, and what is spoken at both.
    pub remote_port: ExternalPort,
    /// What this application calls the other one.
    pub alias: ApplicationName,
}

/// What happens when a program ends by itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(tag = "name", rename_all = "kebab-case", deny_unknown_fields)]
pub enum RestartPolicy {
    /// It stays ended.
    #[default]
    Never,
    /// It is started again.
    Always,
    /// It is started again when it failed, at most so many times in a row, or without limit.
    OnFailure {
        /// How many times in a row.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        maximum_retry_count: Option<NonZeroU32>,
    },
}

/// How much of a machine an application may use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Limits {
    /// Memory, or no limit.
    pub memory: Option<ByteSize>,
    /// Relative weight of its processor time (1024 is one share), or the runtime's default.
    pub cpu_shares: Option<u32>,
}

/// How to see that an application serves.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct HealthCheck {
    /// What is asked.
    pub probe: HealthProbe,
    /// How long to wait from one probe to the next, and for the answer of one.
    pub interval: Duration,
    /// How long one probe may take.
    pub timeout: Duration,
    /// After how many failed probes in a row it counts as unhealthy.
    pub retries: NonZeroU32,
}

/// What a health check asks.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HealthProbe {
    /// The internal port accepts a connection.
    Tcp {
        /// The internal port.
        port: PortNumber,
    },
    /// A `GET` of the path is answered with a status from 200 to 399.
    Http {
        /// The internal port.
        port: PortNumber,
        /// The path, starting with `/`.
        path: Box<str>,
    },
    /// The command ends with status 0. It is a list of arguments; no shell reads it.
    Command(Vec<Box<str>>),
}

/// An application as the operator defines it.
#[derive(Clone, Debug)]
pub struct Application {
    /// What it runs.
    pub image: Image,
    /// Its arguments, or the image's own; no shell reads them.
    pub command_line: ThinVec<Box<str>>,
    /// The ports that it serves.
    pub ports: ThinVec<Port>,
    /// The connections that it opens to others.
    pub links: ThinVec<Link>,
    /// Its data.
    pub volume: Option<Volume>,
    /// Its environment.
    pub environment: Environment,
    /// How much it may use.
    pub limits: Limits,
    /// What happens when it ends by itself.
    pub restart_policy: RestartPolicy,
    /// How to see that it serves; without one it counts as healthy while it runs.
    pub health_check: Option<Box<HealthCheck>>,
    /// How long it may take to end after it was asked to, before it is made to.
    pub stop_grace: Duration,
    /// The applications that are started before it, when both are to be started.
    pub depends_on: ThinVec<ApplicationName>,
}

impl Application {
    /// How long an application may take to end unless it says otherwise, as Docker has it.
    pub const DEFAULT_STOP_GRACE: Duration = Duration::from_secs(10);

    /// Returns an application of this image with nothing around it.
    #[must_use]
    pub fn new(image: Image) -> Self {
        Self {
            image,
            command_line: ThinVec::new(),
            ports: ThinVec::new(),
            links: ThinVec::new(),
            volume: None,
            environment: Environment::new(),
            limits: Limits::default(),
            restart_policy: RestartPolicy::Never,
            health_check: None,
            stop_grace: Self::DEFAULT_STOP_GRACE,
            depends_on: ThinVec::new(),
        }
    }

    /// Says whether part of the environment must not be shown.
    #[must_use]
    pub fn has_secrets(&self) -> bool {
        self.environment
            .values()
            .any(|value| matches!(value, EnvironmentValue::Secret(_)))
    }

    /// Returns the fingerprint of everything that a running copy has to be restarted for.
    ///
    /// Lists whose order means nothing are sorted first. Left out is what
    /// changes without a restart: the volume's size, the stop grace and the
    /// order of starting. `key` guards the secrets; a definition without
    /// secrets has the same fingerprint under every key.
    #[must_use]
    pub fn definition_hash(&self, key: &DefinitionKey) -> DefinitionHash {
        let Self {
            image,
            command_line,
            ports,
            links,
            volume,
            environment,
            limits,
            restart_policy,
            health_check,
            stop_grace: _,
            depends_on: _,
        } = self;
        let mut writer = Canonical::new(if self.has_secrets() {
            blake3::Hasher::new_keyed(key.reveal())
        } else {
            blake3::Hasher::new()
        });
        writer.text(image.as_str());
        writer.list(command_line, |writer, argument| writer.text(argument));
        let mut ports = ports.clone();
        ports.sort_unstable();
        writer.list(&ports, |writer, Port { internal, external }| {
            writer.number(internal.get().into());
            writer.port(*external);
        });
        let mut links: Vec<&Link> = links.iter().collect();
        links.sort_unstable();
        writer.list(
            &links,
            |writer,
             Link {
                 local_port,
                 remote_port,
                 alias,
             }| {
                writer.number(local_port.get().into());
                writer.port(*remote_port);
                writer.text(alias.as_str());
            },
        );
        writer.option(
            volume.as_ref(),
            |writer,
             Volume {
                 dataset,
                 mountpoint,
                 maximum_size: _,
             }| {
                writer.bytes(dataset.0.as_bytes());
                writer.text(mountpoint);
            },
        );
        writer.number(environment.len() as u64);
        for (name, value) in environment {
            writer.text(name);
            match value {
                EnvironmentValue::Plain(value) => {
                    writer.number(0);
                    writer.text(value);
                }
                EnvironmentValue::Secret(value) => {
                    writer.number(1);
                    writer.secret(value.reveal());
                }
            }
        }
        let Limits { memory, cpu_shares } = limits;
        writer.option(memory.as_ref(), |writer, memory| writer.number(memory.0));
        writer.option(cpu_shares.as_ref(), |writer, shares| {
            writer.number((*shares).into());
        });
        writer.number(match restart_policy {
            RestartPolicy::Never => 0,
            RestartPolicy::Always => 1,
            RestartPolicy::OnFailure {
                maximum_retry_count: None,
            } => 2,
            RestartPolicy::OnFailure {
                maximum_retry_count: Some(count),
            } => 3 + u64::from(count.get()),
        });
        writer.option(health_check.as_deref(), Canonical::health_check);
        let mut first = [0; 16];
        first.copy_from_slice(&writer.finish().as_bytes()[..16]);
        DefinitionHash(u128::from_be_bytes(first))
    }
}

/// Feeds values to a hash so that no two different sequences feed the same bytes.
struct Canonical {
    hasher: blake3::Hasher,
    /// What the hasher is given next: it takes much at once more quickly than piece by piece.
    pieces: [u8; Self::ROOM],
    n_bytes: usize,
}

impl Canonical {
    const ROOM: usize = 512;

    fn new(hasher: blake3::Hasher) -> Self {
        Self {
            hasher,
            pieces: [0; Self::ROOM],
            n_bytes: 0,
        }
    }

    fn write(&mut self, bytes: &[u8]) {
        if bytes.len() > Self::ROOM - self.n_bytes {
            self.flush();
        }
        match self.pieces.get_mut(self.n_bytes..self.n_bytes + bytes.len()) {
            Some(room) => {
                room.copy_from_slice(bytes);
                self.n_bytes += bytes.len();
            }
            None => {
                self.hasher.update(bytes);
            }
        }
    }

    fn flush(&mut self) {
        self.hasher.update(&self.pieces[..self.n_bytes]);
        self.n_bytes = 0;
    }

    fn finish(mut self) -> blake3::Hash {
        self.flush();
        self.hasher.finalize()
    }

    fn number(&mut self, number: u64) {
        self.write(&number.to_be_bytes());
    }

    /// Writes a port of TCP as it was written before there were others: by its number.
    fn port(&mut self, ExternalPort { number, protocol }: ExternalPort) {
        let beyond_numbers = match protocol {
            Protocol::Tcp => 0,
            Protocol::Udp => 1 << 16,
        };
        self.number(beyond_numbers | u64::from(number.get()));
    }

    fn duration(&mut self, duration: Duration) {
        self.number(duration.as_secs());
        self.number(duration.subsec_nanos().into());
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.number(bytes.len() as u64);
        self.write(bytes);
    }

    /// Writes a text of which no copy is made.
    fn secret(&mut self, text: &str) {
        self.number(text.len() as u64);
        self.flush();
        self.hasher.update(text.as_bytes());
    }

    fn text(&mut self, text: &str) {
        self.bytes(text.as_bytes());
    }

    fn health_check(
        &mut self,
        HealthCheck {
            probe,
            interval,
            timeout,
            retries,
        }: &HealthCheck,
    ) {
        match probe {
            HealthProbe::Tcp { port } => {
                self.number(0);
                self.number(port.get().into());
            }
            HealthProbe::Http { port, path } => {
                self.number(1);
                self.number(port.get().into());
                self.text(path);
            }
            HealthProbe::Command(command) => {
                self.number(2);
                self.list(command, |writer, argument| writer.text(argument));
            }
        }
        self.duration(*interval);
        self.duration(*timeout);
        self.number(retries.get().into());
    }

    fn list<T>(&mut self, items: &[T], write: impl Fn(&mut Self, &T)) {
        self.number(items.len() as u64);
        for item in items {
            write(self, item);
        }
    }

    fn option<T>(&mut self, item: Option<&T>, write: impl Fn(&mut Self, &T)) {
        self.number(item.is_some().into());
        if let Some(item) = item {
            write(self, item);
        }
    }
}
