//! An application with its secrets, as it is handed to the node that runs it.
//!
//! The model's own type cannot be written, on purpose. This is the one place
//! where its secrets become text.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use flocker_model::Application;
use flocker_model::ApplicationName;
use flocker_model::ByteSize;
use flocker_model::DatasetId;
use flocker_model::EnvironmentValue;
use flocker_model::HealthCheck;
use flocker_model::Image;
use flocker_model::Limits;
use flocker_model::Link;
use flocker_model::Port;
use flocker_model::RestartPolicy;
use flocker_model::Secret;
use flocker_model::Volume;
use serde::Deserialize;
use serde::Serialize;

use super::WireError;

/// A text that is written to the other side and nowhere else.
#[derive(Clone, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Revealed(Box<str>);

impl Revealed {
    pub(crate) fn new(text: impl Into<Box<str>>) -> Self {
        Self(text.into())
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Revealed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[secret]")
    }
}

/// An application as it is written, secrets and all.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WrittenApplication {
    image: Image,
    command_line: Vec<Box<str>>,
    ports: Vec<Port>,
    links: Vec<Link>,
    volume: Option<WrittenVolume>,
    environment: BTreeMap<Box<str>, WrittenValue>,
    limits: Limits,
    restart_policy: RestartPolicy,
    health_check: Option<Box<HealthCheck>>,
    stop_grace: Duration,
    depends_on: Vec<ApplicationName>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenVolume {
    dataset: DatasetId,
    mountpoint: Box<str>,
    maximum_size: Option<ByteSize>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum WrittenValue {
    Plain(Box<str>),
    Secret(Revealed),
}

impl From<&Application> for WrittenApplication {
    fn from(application: &Application) -> Self {
        let Application {
            image,
            command_line,
            ports,
            links,
            volume,
            environment,
            limits,
            restart_policy,
            health_check,
            stop_grace,
            depends_on,
        } = application;
        let environment = environment.iter().map(|(name, value)| {
            let value = match value {
                EnvironmentValue::Plain(text) => WrittenValue::Plain(text.clone()),
                EnvironmentValue::Secret(secret) => WrittenValue::Secret(Revealed::new(secret.reveal())),
            };
            (Box::from(name), value)
        });
        Self {
            image: image.clone(),
            command_line: command_line.to_vec(),
            ports: ports.to_vec(),
            links: links.to_vec(),
            volume: volume.as_ref().map(
                |Volume {
                     dataset,
                     mountpoint,
                     maximum_size,
                 }| WrittenVolume {
                    dataset: *dataset,
                    mountpoint: (&**mountpoint).into(),
                    maximum_size: *maximum_size,
                },
            ),
            environment: environment.collect(),
            limits: *limits,
            restart_policy: *restart_policy,
            health_check: health_check.clone(),
            stop_grace: *stop_grace,
            depends_on: depends_on.to_vec(),
        }
    }
}

impl TryFrom<WrittenApplication> for Application {
    type Error = WireError;

    fn try_from(application: WrittenApplication) -> Result<Self, WireError> {
        let WrittenApplication {
            image,
            command_line,
            ports,
            links,
            volume,
            environment,
            limits,
            restart_policy,
            health_check,
            stop_grace,
            depends_on,
        } = application;
        let volume = volume.map(
            |WrittenVolume {
                 dataset,
                 mountpoint,
                 maximum_size,
             }| Volume {
                dataset,
                mountpoint: mountpoint.into(),
                maximum_size,
            },
        );
        // A path that climbs out of the container, or starts in no certain place, is not one that the files can give.
        let is_plain = |path: &str| {
            path.starts_with('/') && !path.contains('\0') && !path.split('/').any(|part| part == "..")
        };
        if volume
            .as_ref()
            .is_some_and(|volume| !is_plain(&volume.mountpoint))
        {
            return Err(WireError::Invalid { what: "a mountpoint" });
        }
        let is_name = |name: &str| !name.is_empty() && !name.contains(['=', '\0']);
        if !environment.keys().all(|name| is_name(name)) {
            return Err(WireError::Invalid {
                what: "the name of a variable",
            });
        }
        let environment = environment.into_iter().map(|(name, value)| {
            let value = match value {
                WrittenValue::Plain(text) => EnvironmentValue::Plain(text),
                WrittenValue::Secret(text) => EnvironmentValue::Secret(Secret::new(text.0)),
            };
            (name, value)
        });
        Ok(Self {
            image,
            command_line: command_line.into(),
            ports: ports.into(),
            links: links.into(),
            volume,
            environment: environment.collect(),
            limits,
            restart_policy,
            health_check,
            stop_grace,
            depends_on: depends_on.into(),
        })
    }
}
