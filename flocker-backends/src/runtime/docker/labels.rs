//! What a container says of itself, and how it is known as ours.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::net::Ipv4Addr;
use std::time::Duration;

use flocker_model::ApplicationName;
use flocker_model::DatasetId;
use flocker_model::DefinitionHash;
use flocker_model::HealthCheck;
use flocker_model::Image;
use flocker_model::RestartPolicy;

use crate::runtime::ContainerSpec;

pub(super) const APPLICATION: &str = "io.flocker.application";
pub(super) const NAMESPACE: &str = "io.flocker.namespace";
pub(super) const RUNTIME: &str = "io.flocker.runtime";
pub(super) const ADDRESS: &str = "io.flocker.address";
const DEFINITION: &str = "io.flocker.definition";
const DATASET: &str = "io.flocker.dataset";
const STOP_GRACE: &str = "io.flocker.stop-grace-ms";
const HEALTH_CHECK: &str = "io.flocker.health-check";
const IMAGE: &str = "io.flocker.image";
const RESTART_POLICY: &str = "io.flocker.restart-policy";
const NODE_ADDRESS: &str = "io.flocker.node-address";

/// Who starts a container again after its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::runtime) enum Manner {
    /// The engine, by its own restart policy.
    Engine,
    /// A unit of systemd.
    Unit,
}

impl Manner {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Engine => "docker",
            Self::Unit => "systemd",
        }
    }
}

/// By what the containers of one runtime are known.
#[derive(Clone, Debug)]
pub(super) struct Naming {
    pub(super) namespace: Option<ApplicationName>,
    pub(super) manner: Manner,
}

/// A container that is not ours. It is never touched.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Foreign;

/// A label of one of our containers that cannot be read.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct BadLabel(pub(super) &'static str);

impl Naming {
    /// Returns the name of the container of an application.
    pub(super) fn container(&self, application: &ApplicationName) -> String {
        match &self.namespace {
            None => format!("flocker--{application}"),
            Some(namespace) => format!("flocker--{namespace}--{application}"),
        }
    }

    fn namespace(&self) -> &str {
        self.namespace.as_ref().map_or("", ApplicationName::as_str)
    }

    /// Tells of which application a container is, if it is ours.
    ///
    /// Labels alone prove nothing: an image that was made from one of our
    /// containers hands them on to every container made from it. Nor does a
    /// name alone: anybody may choose one.
    pub(super) fn owner<'a>(
        &self,
        container: &str,
        label: impl Fn(&str) -> Option<&'a str>,
    ) -> Result<ApplicationName, Foreign> {
        let application = label(APPLICATION).and_then(|name| name.parse().ok());
        let application = application.ok_or(Foreign)?;
        let is_ours = label(RUNTIME) == Some(self.manner.as_str())
            && label(NAMESPACE) == Some(self.namespace())
            && container == self.container(&application);
        if is_ours { Ok(application) } else { Err(Foreign) }
    }
}

/// What a container of ours was made for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::runtime) struct Labels {
    pub(in crate::runtime) application: ApplicationName,
    pub(in crate::runtime) definition: DefinitionHash,
    pub(in crate::runtime) dataset: Option<DatasetId>,
    pub(super) stop_grace: Duration,
    pub(super) health_check: Option<HealthCheck>,
    /// The image as its definition names it; the container has the identity.
    pub(super) image: Image,
    pub(super) address: Ipv4Addr,
    pub(super) node_address: IpAddr,
    /// What the engine is to do when it ends, once it was started. Nothing for one that was made before this was written down.
    pub(super) restart_policy: Option<RestartPolicy>,
}

impl Labels {
    pub(super) fn new(spec: &ContainerSpec, address: Ipv4Addr) -> Self {
        let application = &spec.application;
        Self {
            application: spec.name.clone(),
            definition: spec.definition,
            dataset: application.volume.as_ref().map(|volume| volume.dataset),
            stop_grace: application.stop_grace,
            health_check: application.health_check.as_deref().cloned(),
            image: application.image.clone(),
            address,
            node_address: spec.node_address,
            restart_policy: Some(application.restart_policy),
        }
    }

    pub(super) fn to_map(&self, naming: &Naming) -> BTreeMap<String, String> {
        let Self {
            application,
            definition,
            dataset,
            stop_grace,
            health_check,
            image,
            address,
            node_address,
            restart_policy,
        } = self;
        let mut map = BTreeMap::from([
            (APPLICATION, application.to_string()),
            (NAMESPACE, naming.namespace().to_owned()),
            (RUNTIME, naming.manner.as_str().to_owned()),
            (DEFINITION, definition.to_string()),
            (STOP_GRACE, stop_grace.as_millis().to_string()),
            (IMAGE, image.to_string()),
            (ADDRESS, address.to_string()),
            (NODE_ADDRESS, node_address.to_string()),
        ]);
        if let Some(dataset) = dataset {
            map.insert(DATASET, dataset.to_string());
        }
        // A check always has a text: it holds no map with keys that are not texts.
        if let Some(text) = health_check
            .as_ref()
            .and_then(|check| serde_json::to_string(check).ok())
        {
            map.insert(HEALTH_CHECK, text);
        }
        // So has a policy.
        if let Some(text) = restart_policy.and_then(|policy| serde_json::to_string(&policy).ok()) {
            map.insert(RESTART_POLICY, text);
        }
        map.into_iter()
            .map(|(name, value)| (name.to_owned(), value))
            .collect()
    }

    /// Reads the labels of a container of which it is known that it is ours.
    pub(super) fn read<'a>(
        application: ApplicationName,
        label: impl Fn(&str) -> Option<&'a str>,
    ) -> Result<Self, BadLabel> {
        fn required<T: std::str::FromStr>(name: &'static str, text: Option<&str>) -> Result<T, BadLabel> {
            text.and_then(|text| text.parse().ok()).ok_or(BadLabel(name))
        }
        let dataset = label(DATASET);
        let check = label(HEALTH_CHECK);
        let policy = label(RESTART_POLICY);
        Ok(Self {
            application,
            definition: required(DEFINITION, label(DEFINITION))?,
            dataset: dataset.map(|text| required(DATASET, Some(text))).transpose()?,
            stop_grace: Duration::from_millis(required(STOP_GRACE, label(STOP_GRACE))?),
            health_check: check
                .map(|text| serde_json::from_str(text).map_err(|_| BadLabel(HEALTH_CHECK)))
                .transpose()?,
            image: required(IMAGE, label(IMAGE))?,
            address: required(ADDRESS, label(ADDRESS))?,
            node_address: required(NODE_ADDRESS, label(NODE_ADDRESS))?,
            restart_policy: policy
                .map(|text| serde_json::from_str(text).map_err(|_| BadLabel(RESTART_POLICY)))
                .transpose()?,
        })
    }
}

/// As much of the labels of a container of ours as can be read. Which dataset it has is never left open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::runtime) struct Part {
    pub(super) definition: Option<DefinitionHash>,
    pub(super) dataset: Option<DatasetId>,
    pub(super) stop_grace: Option<Duration>,
    pub(super) address: Option<Ipv4Addr>,
}

impl Part {
    pub(super) fn read<'a>(label: impl Fn(&str) -> Option<&'a str>) -> Result<Self, BadLabel> {
        let dataset = label(DATASET).map(|text| text.parse().map_err(|_| BadLabel(DATASET)));
        Ok(Self {
            definition: label(DEFINITION).and_then(|text| text.parse().ok()),
            dataset: dataset.transpose()?,
            stop_grace: label(STOP_GRACE)
                .and_then(|text| text.parse().ok())
                .map(Duration::from_millis),
            address: label(ADDRESS).and_then(|text| text.parse().ok()),
        })
    }
}

impl From<&Labels> for Part {
    fn from(labels: &Labels) -> Self {
        Self {
            definition: Some(labels.definition),
            dataset: labels.dataset,
            stop_grace: Some(labels.stop_grace),
            address: Some(labels.address),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use flocker_model::HealthProbe;

    use super::*;

    fn naming(namespace: Option<&str>) -> Naming {
        Naming {
            namespace: namespace.map(|name| name.parse().unwrap()),
            manner: Manner::Engine,
        }
    }

    fn labels() -> Labels {
        Labels {
            application: "web".parse().unwrap(),
            definition: DefinitionHash(7),
            dataset: Some(DatasetId::derived(&"web".parse().unwrap())),
            stop_grace: Duration::from_millis(1500),
            health_check: Some(HealthCheck {
                probe: HealthProbe::Command(vec!["pg_isready".into(), "-q".into()]),
                interval: Duration::from_secs(1),
                timeout: Duration::from_secs(2),
                retries: NonZeroU32::MIN,
            }),
            image: "example/web:1".parse().unwrap(),
            address: Ipv4Addr::new(10, 193, 1, 2),
            node_address: IpAddr::from([192, 0, 2, 1]),
            restart_policy: Some(RestartPolicy::OnFailure {
                maximum_retry_count: NonZeroU32::new(3),
            }),
        }
    }

    #[test]
    fn labels_come_back_as_they_were_written() {
        for labels in [
            labels(),
            Labels {
                dataset: None,
                health_check: None,
                restart_policy: None,
                ..labels()
            },
        ] {
            let map = labels.to_map(&naming(None));
            let label = |name: &str| map.get(name).map(String::as_str);
            let owner = naming(None).owner("flocker--web", label).unwrap();
            assert_eq!(Labels::read(owner, label), Ok(labels));
        }
    }

    #[test]
    fn a_damaged_label_is_told_and_never_guessed() {
        let whole = labels().to_map(&naming(None));
        for name in [
            DEFINITION,
            DATASET,
            STOP_GRACE,
            HEALTH_CHECK,
            ADDRESS,
            NODE_ADDRESS,
            RESTART_POLICY,
        ] {
            let mut map = whole.clone();
            map.insert(name.to_owned(), "?".to_owned());
            let label = |name: &str| map.get(name).map(String::as_str);
            let read = Labels::read("web".parse().unwrap(), label);
            assert_eq!(read, Err(BadLabel(name)));
        }
    }

    #[test]
    fn only_name_and_labels_together_make_a_container_ours() {
        let own = labels().to_map(&naming(None));
        let is_ours = |naming: &Naming, name: &str, map: &BTreeMap<String, String>| {
            naming
                .owner(name, |label| map.get(label).map(String::as_str))
                .is_ok()
        };
        assert!(is_ours(&naming(None), "flocker--web", &own));
        // A container of an image that was made from one of ours has its labels.
        assert!(!is_ours(&naming(None), "elegant_turing", &own));
        // Somebody has chosen a confusing name.
        assert!(!is_ours(&naming(None), "flocker--web", &BTreeMap::new()));
        // Another node of this engine, or another runtime of this node.
        assert!(!is_ours(&naming(Some("two")), "flocker--web", &own));
        let mut unit = naming(None);
        unit.manner = Manner::Unit;
        assert!(!is_ours(&unit, "flocker--web", &own));
        let other = labels().to_map(&naming(Some("two")));
        assert!(is_ours(&naming(Some("two")), "flocker--two--web", &other));
        assert!(!is_ours(&naming(None), "flocker--two--web", &other));
    }
}
