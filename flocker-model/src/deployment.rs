//! Desired state: which applications there are, and which node runs which.
//!
//! A [`Deployment`] is valid by construction: no two claims on one dataset,
//! no two applications on one external port, no application that is placed
//! but not defined. Building one reports all problems, not the first.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::path::PathBuf;

use serde::Deserialize;
use serde::Serialize;
use thiserror::Error;

use crate::application::Application;
use crate::id::ApplicationName;
use crate::id::DatasetId;
use crate::id::NodeId;
use crate::id::NodeName;
use crate::number::Generation;
use crate::number::PortNumber;
use crate::placements::Placements;
use crate::port::ExternalPort;
use crate::setup::NodeSetup;
use crate::shared::Shared;

/// How to reach a node.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "transport")]
pub enum NodeAddress {
    /// By SSH.
    Ssh {
        /// Host name or address.
        host: String,
        /// User to log in as; nothing for SSH's own choice.
        user: Option<String>,
        /// Port; nothing for SSH's own choice.
        port: Option<PortNumber>,
    },
    /// A process on this machine, by its state directory.
    Local {
        /// Its state directory.
        directory: PathBuf,
    },
}

/// A node that the deployment speaks of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// How to reach it; nothing where the name says it all.
    pub address: Option<NodeAddress>,
    /// Who it must be; nothing where whoever answers is taken at its word.
    pub id: Option<NodeId>,
    /// What it is put together from, as far as that is said.
    pub setup: NodeSetup,
    /// What runs there, in order of name.
    pub applications: BTreeSet<ApplicationName>,
}

impl Member {
    /// Returns a node with nothing on it.
    #[must_use]
    pub fn empty() -> Self {
        Self {
            address: None,
            id: None,
            setup: NodeSetup::default(),
            applications: BTreeSet::new(),
        }
    }
}

/// What is wrong with a desired state as a whole.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum DeploymentError {
    /// A node is to run an application that is not defined.
    #[error("node `{node}` is to run `{application}`, which is not defined")]
    UnknownApplication {
        /// The node.
        node: NodeName,
        /// The application.
        application: ApplicationName,
    },
    /// Two applications claim one dataset.
    #[error("applications `{first}` and `{second}` both claim dataset `{dataset}`")]
    DatasetClaimedTwice {
        /// The dataset.
        dataset: DatasetId,
        /// One application.
        first: ApplicationName,
        /// The other.
        second: ApplicationName,
    },
    /// An application with data is placed on two nodes.
    #[error("application `{application}` has a volume, and cannot run on both `{first}` and `{second}`")]
    VolumeOnTwoNodes {
        /// The application.
        application: ApplicationName,
        /// One node.
        first: NodeName,
        /// The other.
        second: NodeName,
    },
    /// Two applications, or one twice, claim one external port.
    #[error("applications `{first}` and `{second}` both claim external port {port}")]
    PortClaimedTwice {
        /// The port.
        port: ExternalPort,
        /// One application.
        first: ApplicationName,
        /// The other.
        second: ApplicationName,
    },
    /// A dataset is to be deleted and to be used.
    #[error("dataset `{dataset}` is to be deleted, but application `{application}` uses it")]
    DeletedInUse {
        /// The dataset.
        dataset: DatasetId,
        /// Its application.
        application: ApplicationName,
    },
}

/// The desired state of a cluster.
#[derive(Clone, Debug, Default)]
pub struct Deployment {
    applications: BTreeMap<ApplicationName, Application>,
    members: BTreeMap<NodeName, Member>,
    deleted: BTreeSet<DatasetId>,
    generation: Generation,
    placements: Placements,
}

impl Deployment {
    /// Starts to build one.
    #[must_use]
    pub fn builder() -> DeploymentBuilder {
        DeploymentBuilder::default()
    }

    /// Returns every defined application, placed or not.
    #[must_use]
    pub fn applications(&self) -> &BTreeMap<ApplicationName, Application> {
        &self.applications
    }

    /// Returns the definition of an application.
    #[must_use]
    pub fn application(&self, name: &ApplicationName) -> Option<&Application> {
        self.applications.get(name)
    }

    /// Returns every node that the deployment speaks of.
    #[must_use]
    pub fn members(&self) -> &BTreeMap<NodeName, Member> {
        &self.members
    }

    /// Returns the nodes on which an application is placed, in order of name.
    pub fn homes<'a>(&'a self, application: &'a ApplicationName) -> impl Iterator<Item = &'a NodeName> {
        self.members
            .iter()
            .filter(move |(_, member)| member.applications.contains(application))
            .map(|(node, _)| node)
    }

    /// Returns the datasets that are to be destroyed.
    #[must_use]
    pub fn deleted(&self) -> &BTreeSet<DatasetId> {
        &self.deleted
    }

    /// Returns which configuration this is.
    #[must_use]
    pub fn generation(&self) -> Generation {
        self.generation
    }

    /// Returns the same deployment as this configuration.
    #[must_use]
    pub fn at(mut self, generation: Generation) -> Self {
        self.generation = generation;
        self
    }

    /// Returns the same deployment with one application placed on `node` alone.
    ///
    /// A node that the deployment did not speak of becomes a member.
    #[must_use]
    pub fn with_placement(mut self, application: &ApplicationName, node: &NodeName) -> Self {
        for member in self.members.values_mut() {
            member.applications.remove(application);
        }
        let member = self.members.entry(node.clone()).or_insert_with(Member::empty);
        member.applications.insert(application.clone());
        self.placements = Placements::new(&self.applications, &self.members);
        self
    }

    /// Returns who is where by number instead of by name, for those who compare whole clusters.
    #[must_use]
    pub fn placements(&self) -> &Placements {
        &self.placements
    }

    /// Says whether nothing is wrong, where that is seen by number; names are compared only where something may be.
    fn is_surely_right(&self, placements: &Placements) -> bool {
        let mut ports: Vec<ExternalPort> = Vec::new();
        for application in self.applications.values() {
            ports.extend(application.ports.iter().map(|port| port.external));
        }
        ports.sort_unstable();
        self.deleted.is_empty()
            && placements.is_each_once(&self.members)
            && ports.windows(2).all(|pair| pair[0] != pair[1])
    }

    /// Returns everything that is wrong with the whole.
    fn errors(&self) -> Vec<DeploymentError> {
        let Deployment {
            applications,
            members,
            deleted,
            generation: _,
            placements: _,
        } = self;
        let mut errors = Vec::new();
        let mut homes: BTreeMap<&ApplicationName, &NodeName> = BTreeMap::new();
        for (node, member) in members {
            for name in &member.applications {
                let Some(application) = applications.get(name) else {
                    errors.push(DeploymentError::UnknownApplication {
                        node: node.clone(),
                        application: name.clone(),
                    });
                    continue;
                };
                match homes.get(name) {
                    Some(first) if application.volume.is_some() => {
                        errors.push(DeploymentError::VolumeOnTwoNodes {
                            application: name.clone(),
                            first: (*first).clone(),
                            second: node.clone(),
                        });
                    }
                    Some(_) => {}
                    None => {
                        homes.insert(name, node);
                    }
                }
            }
        }
        let mut claims: BTreeMap<DatasetId, &ApplicationName> = BTreeMap::new();
        let mut ports: BTreeMap<ExternalPort, &ApplicationName> = BTreeMap::new();
        for (name, application) in applications {
            if let Some(volume) = &application.volume {
                if let Some(first) = claims.insert(volume.dataset, name) {
                    errors.push(DeploymentError::DatasetClaimedTwice {
                        dataset: volume.dataset,
                        first: first.clone(),
                        second: name.clone(),
                    });
                }
                if deleted.contains(&volume.dataset) && homes.contains_key(name) {
                    errors.push(DeploymentError::DeletedInUse {
                        dataset: volume.dataset,
                        application: name.clone(),
                    });
                }
            }
            for port in &application.ports {
                if let Some(first) = ports.insert(port.external, name) {
                    errors.push(DeploymentError::PortClaimedTwice {
                        port: port.external,
                        first: first.clone(),
                        second: name.clone(),
                    });
                }
            }
        }
        errors
    }
}

/// Collects a desired state and checks it as a whole.
#[derive(Clone, Debug, Default)]
pub struct DeploymentBuilder {
    deployment: Deployment,
}

impl DeploymentBuilder {
    /// Defines an application. A second definition of one name replaces the first.
    #[must_use]
    pub fn application(mut self, name: ApplicationName, application: Application) -> Self {
        self.deployment.applications.insert(name, application);
        self
    }

    /// Defines many applications, where none is defined yet: quicker than one by one.
    #[must_use]
    pub(crate) fn applications(mut self, applications: BTreeMap<ApplicationName, Application>) -> Self {
        self.deployment.applications = applications;
        self
    }

    /// Adds a node. A second node of one name replaces the first.
    #[must_use]
    pub fn node(mut self, name: NodeName, member: Member) -> Self {
        self.deployment.members.insert(name, member);
        self
    }

    /// Places an application on a node, which becomes a member if it was not.
    #[must_use]
    pub fn place(mut self, application: &ApplicationName, node: &NodeName) -> Self {
        let member = self
            .deployment
            .members
            .entry(node.clone())
            .or_insert_with(Member::empty);
        member.applications.insert(application.clone());
        self
    }

    /// Says that a dataset is to be destroyed. Without this, none ever is.
    #[must_use]
    pub fn delete(mut self, dataset: DatasetId) -> Self {
        self.deployment.deleted.insert(dataset);
        self
    }

    /// Checks the whole and returns it, or everything that is wrong with it.
    pub fn build(mut self) -> Result<Deployment, Vec<DeploymentError>> {
        let Deployment {
            applications,
            members,
            ..
        } = &self.deployment;
        let placements = Placements::new(applications, members);
        if !self.deployment.is_surely_right(&placements) {
            let errors = self.deployment.errors();
            if !errors.is_empty() {
                return Err(errors);
            }
        }
        self.deployment.placements = placements;
        // What was inserted one by one stands in half-empty nodes; what is collected at once fills them.
        let applications = std::mem::take(&mut self.deployment.applications);
        let mut shared = Shared::new(applications.len());
        let compact = applications.into_iter().map(|(name, mut application)| {
            shared.compact(&mut application);
            (name, application)
        });
        self.deployment.applications = compact.collect();
        for member in self.deployment.members.values_mut() {
            let applications = std::mem::take(&mut member.applications);
            member.applications = applications.into_iter().collect();
        }
        Ok(self.deployment)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::application::Port;
    use crate::number::PortNumber;
    use crate::volume::Volume;

    /// Two applications on two nodes, with what each of them is given.
    fn build(change: impl FnOnce(DeploymentBuilder, [Application; 2]) -> DeploymentBuilder) -> Vec<String> {
        let number = |number| PortNumber::new(number).unwrap();
        let application = |own: &str, external| {
            let mut application = Application::new("x".parse().unwrap());
            application.volume = Some(Volume {
                dataset: DatasetId::derived(&own.parse().unwrap()),
                mountpoint: "/data".into(),
                maximum_size: None,
            });
            application.ports.push(Port {
                internal: number(80),
                external: ExternalPort::tcp(number(external)),
            });
            application
        };
        let [one, two] = ["one", "two"].map(|name| name.parse::<ApplicationName>().unwrap());
        let builder = Deployment::builder()
            .place(&one, &"alpha".parse().unwrap())
            .place(&two, &"beta".parse().unwrap());
        match change(builder, [application("one", 80), application("two", 81)]).build() {
            Ok(_) => Vec::new(),
            Err(errors) => errors.iter().map(ToString::to_string).collect(),
        }
    }

    #[test]
    fn whatever_alone_is_wrong_with_the_whole_is_found() {
        let name = |name: &str| name.parse::<ApplicationName>().unwrap();
        let both = |builder: DeploymentBuilder, [one, two]: [Application; 2]| {
            builder
                .application(name("one"), one)
                .application(name("two"), two)
        };
        assert_eq!(build(both), [""; 0]);

        let found = build(|builder, [one, _]| builder.application(name("one"), one));
        assert_eq!(found, ["node `beta` is to run `two`, which is not defined"]);

        let found = build(|builder, all| both(builder, all).place(&name("one"), &"beta".parse().unwrap()));
        assert_eq!(
            found,
            ["application `one` has a volume, and cannot run on both `alpha` and `beta`"]
        );

        let found = build(|builder, [one, mut two]| {
            two.volume = one.volume.clone();
            both(builder, [one, two])
        });
        assert!(found.len() == 1 && found[0].starts_with("applications `one` and `two` both claim dataset"));

        let found = build(|builder, [one, mut two]| {
            two.ports = one.ports.clone();
            both(builder, [one, two])
        });
        assert_eq!(
            found,
            ["applications `one` and `two` both claim external port 80"]
        );

        let found = build(|builder, all| both(builder, all).delete(DatasetId::derived(&name("two"))));
        assert!(found.len() == 1 && found[0].ends_with("but application `two` uses it"));
    }
}
