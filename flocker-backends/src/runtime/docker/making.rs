//! How a container comes to be, from nothing to prepared.

use std::collections::BTreeSet;
use std::io;
use std::net::Ipv4Addr;
use std::time::Duration;

use bollard::errors::Error;
use bollard::models::Ipam;
use bollard::models::IpamConfig;
use bollard::models::NetworkCreateRequest;
use bollard::models::NetworkInspect;
use bollard::query_parameters::CreateContainerOptionsBuilder;
use bollard::query_parameters::InspectNetworkOptions;
use flocker_model::ContainerStatus;
use tokio::time::Instant;

use super::body;
use super::engine::Engine;
use super::engine::failed;
use super::engine::said;
use super::engine::status;
use super::labels;
use super::labels::Labels;
use super::seen::Owned;
use super::seen::Seen;
use super::serving::Sight;
use crate::deadline;
use crate::runtime::ContainerSpec;
use crate::runtime::ImageId;
use crate::runtime::RuntimeError;

/// The label of our network.
const NETWORK: &str = "io.flocker.network";

/// How soon a network that somebody else makes is looked for again.
const NETWORK_PAUSE: Duration = Duration::from_millis(50);

/// A container of the wanted definition, as it was found or made.
#[derive(Debug)]
pub(in crate::runtime) enum Taken {
    /// It is alive.
    Alive(Seen),
    /// It was prepared before.
    Prepared(Seen),
    /// It was made just now.
    Made(Seen),
}

impl Engine {
    /// Sees to it that there is a container of this definition, alive or prepared.
    ///
    /// What has ended is replaced. `Taken` where the name is somebody else's,
    /// `OtherDefinition` where another definition is alive.
    pub(in crate::runtime) async fn take(
        &self,
        spec: &ContainerSpec,
        sight: &dyn Sight,
    ) -> Result<Taken, RuntimeError> {
        let mut deadline = deadline::after(self.options.margin);
        let mut was_made = false;
        loop {
            let seen = match self.look(&spec.name).await? {
                Some(Owned::Foreign) => return Err(self.taken(spec)),
                Some(Owned::Ours(_)) => sight.see(&spec.name).await?,
                None => None,
            };
            match seen {
                None => {
                    let begun = Instant::now();
                    let image = self.resolve(spec).await?;
                    // A pull has a limit of its own, which is longer than this one.
                    deadline += begun.elapsed();
                    was_made = self.make(spec, &image).await?;
                }
                Some(seen) if seen.is_alive() => {
                    return if seen.labels.definition == spec.definition {
                        Ok(Taken::Alive(seen))
                    } else {
                        Err(RuntimeError::OtherDefinition {
                            application: spec.name.clone(),
                        })
                    };
                }
                Some(seen) if is_prepared(&seen, spec) => {
                    return Ok(if was_made {
                        Taken::Made(seen)
                    } else {
                        Taken::Prepared(seen)
                    });
                }
                Some(seen) => self.discard(&seen).await?,
            }
            if Instant::now() >= deadline {
                return Err(RuntimeError::NotGone {
                    application: spec.name.clone(),
                    reason: "the engine neither makes nor removes its container".into(),
                });
            }
        }
    }

    /// Makes a container, and says whether it was this call that did.
    async fn make(&self, spec: &ContainerSpec, image: &ImageId) -> Result<bool, RuntimeError> {
        let what = || format!("make the container of `{}`", spec.name);
        self.ensure_network().await?;
        let container = self.container(&spec.name);
        let taken = self.addresses().await?;
        let address = self
            .options
            .subnet
            .choose(&container, &taken)
            .ok_or_else(|| RuntimeError::Io {
                what: what(),
                source: io::Error::other(format!("no address of {} is left", self.options.subnet)),
            })?;
        let failed_gate = |source| RuntimeError::Io {
            what: format!("place the gate to the volume of `{}`", spec.name),
            source,
        };
        let has_volume = spec.application.volume.is_some();
        if has_volume {
            self.gates.show(&container).map_err(failed_gate)?;
        }
        let created = self.create(spec, &container, image, address).await;
        if has_volume {
            self.gates.close(&container).map_err(failed_gate)?;
        }
        match created {
            Ok(()) => Ok(true),
            // Somebody else has just made it, perhaps a call of ours that was dropped.
            Err(error) if status(&error) == Some(409) => Ok(false),
            Err(error) if matches!(status(&error), Some(400 | 404)) => Err(RuntimeError::NoImage {
                application: spec.name.clone(),
                reason: said(&error),
            }),
            Err(error) => Err(failed(what)(error)),
        }
    }

    async fn create(
        &self,
        spec: &ContainerSpec,
        container: &str,
        image: &ImageId,
        address: Ipv4Addr,
    ) -> Result<(), Error> {
        let labels = Labels::new(spec, address);
        let body = body::body(
            spec,
            &body::Around {
                options: &self.options,
                naming: &self.naming,
                labels: &labels,
                image: image.as_str(),
                gate: &self.gates.path(container),
            },
        );
        let options = CreateContainerOptionsBuilder::new().name(container).build();
        let made = self.client.create_container(Some(options), body).await?;
        for warning in made.warnings {
            tracing::warn!(application = %spec.name, warning, "the engine warns");
        }
        Ok(())
    }

    /// Returns the addresses that containers of any node on this engine have.
    async fn addresses(&self) -> Result<BTreeSet<Ipv4Addr>, RuntimeError> {
        let labelled = self.labelled(&[labels::ADDRESS.to_owned()]).await?;
        let addresses = labelled
            .iter()
            .filter_map(|listed| listed.labels.get(labels::ADDRESS));
        Ok(addresses.filter_map(|address| address.parse().ok()).collect())
    }

    /// Sees to it that our network is there.
    async fn ensure_network(&self) -> Result<(), RuntimeError> {
        let network = &self.options.network;
        let what = || format!("use the network `{network}`");
        let deadline = deadline::after(self.options.margin);
        loop {
            match self
                .client
                .inspect_network(network, None::<InspectNetworkOptions>)
                .await
            {
                Ok(found) => {
                    return self.check_network(&found).map_err(|reason| RuntimeError::Io {
                        what: what(),
                        source: io::Error::other(reason),
                    });
                }
                Err(error) if status(&error) == Some(404) => {}
                Err(error) => return Err(failed(what)(error)),
            }
            let config = IpamConfig {
                subnet: Some(self.options.subnet.to_string()),
                gateway: Some(self.options.subnet.gateway().to_string()),
                ..IpamConfig::default()
            };
            let request = NetworkCreateRequest {
                name: network.clone(),
                driver: Some("bridge".into()),
                ipam: Some(Ipam {
                    config: Some(vec![config]),
                    ..Ipam::default()
                }),
                labels: Some(std::iter::once((NETWORK.to_owned(), "1".to_owned())).collect()),
                ..NetworkCreateRequest::default()
            };
            match self.client.create_network(request).await {
                Ok(_) => return Ok(()),
                // Somebody else is just making it: two with the same addresses cannot be. Else the
                // addresses are used by another network, and will be.
                Err(error) if matches!(status(&error), Some(403 | 409)) && Instant::now() < deadline => {
                    tokio::time::sleep(NETWORK_PAUSE).await;
                }
                Err(error) => return Err(failed(what)(error)),
            }
        }
    }

    fn check_network(&self, found: &NetworkInspect) -> Result<(), String> {
        if !found
            .labels
            .as_ref()
            .is_some_and(|labels| labels.contains_key(NETWORK))
        {
            return Err("it is not ours and is left alone".into());
        }
        let config = found.ipam.as_ref().and_then(|ipam| ipam.config.as_ref());
        let subnets = config
            .into_iter()
            .flatten()
            .filter_map(|config| config.subnet.as_deref());
        let wanted = self.options.subnet.to_string();
        if subnets.into_iter().any(|subnet| subnet == wanted) {
            Ok(())
        } else {
            Err(format!("it has other addresses than {wanted}"))
        }
    }

    /// Says that somebody else has the name of a container.
    pub(in crate::runtime) fn taken(&self, spec: &ContainerSpec) -> RuntimeError {
        RuntimeError::Taken {
            application: spec.name.clone(),
            place: format!("the container `{}`", self.container(&spec.name)),
        }
    }
}

/// Says whether a container was prepared from just this and never started.
fn is_prepared(seen: &Seen, spec: &ContainerSpec) -> bool {
    seen.status == ContainerStatus::Prepared
        && seen.labels.definition == spec.definition
        // It is in the environment of the container.
        && seen.labels.node_address == spec.node_address
}
