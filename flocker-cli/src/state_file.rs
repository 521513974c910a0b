//! What nodes have, as `report-state --json` writes it and `plan --state` reads it.
//!
//! It says everything that a plan is made from except each node's definition
//! key, in whose place stands `"withheld"`. Without the key nobody can find
//! out a secret by trying; with it missing, whether a *secret* of a running
//! application has changed cannot be told, and is reported as unknown.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::fmt;
use std::fmt::Write as _;
use std::net::IpAddr;
use std::path::PathBuf;

use flocker_model::ApplicationName;
use flocker_model::BootId;
use flocker_model::ByteSize;
use flocker_model::ClusterState;
use flocker_model::ContainerState;
use flocker_model::DatasetId;
use flocker_model::DefinitionKey;
use flocker_model::Deployment;
use flocker_model::Epoch;
use flocker_model::ExternalPort;
use flocker_model::Generation;
use flocker_model::Keeps;
use flocker_model::KnownTables;
use flocker_model::Manifestation;
use flocker_model::NodeId;
use flocker_model::NodeName;
use flocker_model::NodeState;
use flocker_model::Observed;
use flocker_model::Peer;
use flocker_model::Port;
use flocker_model::Protocol;
use flocker_model::RouteTable;
use flocker_model::Silence;
use flocker_model::Trashed;
use serde::Deserialize;
use serde::Deserializer;
use serde::Serialize;
use serde::de::IgnoredAny;
use serde::de::MapAccess;
use serde::de::Visitor;

use crate::error::Failure;
use crate::files;
use crate::json;

/// The nodes of a report.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    nodes: BTreeMap<NodeName, WrittenNode>,
    #[serde(flatten)]
    seed: Option<Seed>,
}

/// One node as Flocker 0.1 to 0.4 reported it, for programs that read that: images and mountpoints are not known.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Seed {
    applications: BTreeMap<ApplicationName, SeedApplication>,
    used_ports: BTreeSet<ExternalPort>,
}

#[derive(Clone, Debug, Serialize)]
struct SeedApplication {
    image: &'static str,
    ports: Vec<Port>,
    volume: Option<SeedVolume>,
}

#[derive(Clone, Debug, Serialize)]
struct SeedVolume {
    /// How many bytes it may hold, in decimal digits.
    #[serde(skip_serializing_if = "Option::is_none")]
    maximum_size: Option<String>,
    mountpoint: Option<String>,
}

impl SeedVolume {
    fn of(dataset: DatasetId, state: &NodeState) -> Self {
        let maximum_size = state.datasets.get(&dataset).and_then(|copy| copy.maximum_size);
        Self {
            maximum_size: maximum_size.map(|maximum_size| maximum_size.0.to_string()),
            mountpoint: None,
        }
    }
}

impl Seed {
    fn new(state: &NodeState) -> Self {
        let applications = state.containers.iter().map(|(name, container)| {
            let routes = state.routes.entries().iter();
            let ports = routes.filter(|(_, target)| target.application == *name);
            let application = SeedApplication {
                image: "unknown",
                ports: ports
                    .map(|(external, target)| Port {
                        internal: target.internal,
                        external: *external,
                    })
                    .collect(),
                volume: container.dataset.map(|dataset| SeedVolume::of(dataset, state)),
            };
            (name.clone(), application)
        });
        let used = state.routes.entries().keys().chain(&state.foreign_ports);
        Self {
            applications: applications.collect(),
            used_ports: used.copied().collect(),
        }
    }

    /// Writes it as YAML, indented; every name is quoted, so that none is read as a number.
    pub(crate) fn to_yaml(&self, indent: &str) -> String {
        let mut text = format!("{indent}version: 1\n");
        if self.applications.is_empty() {
            writeln!(text, "{indent}applications: {{}}").unwrap_or_default();
        } else {
            writeln!(text, "{indent}applications:").unwrap_or_default();
        }
        for (name, application) in &self.applications {
            let SeedApplication { image, ports, volume } = application;
            let ports: Vec<String> = ports
                .iter()
                .map(|Port { internal, external }| {
                    let protocol = match external.protocol {
                        Protocol::Tcp => "",
                        Protocol::Udp => ", protocol: udp",
                    };
                    format!(
                        "{{internal: {internal}, external: {}{protocol}}}",
                        external.number
                    )
                })
                .collect();
            writeln!(
                text,
                "{indent}  \"{name}\":\n{indent}    image: {image}\n{indent}    ports: [{}]",
                ports.join(", ")
            )
            .unwrap_or_default();
            if let Some(SeedVolume { maximum_size, .. }) = volume {
                let maximum_size = maximum_size.as_ref();
                let maximum_size =
                    maximum_size.map_or_else(String::new, |size| format!("maximum_size: '{size}', "));
                writeln!(text, "{indent}    volume: {{{maximum_size}mountpoint: null}}").unwrap_or_default();
            }
        }
        let used: Vec<String> = self.used_ports.iter().map(ToString::to_string).collect();
        writeln!(text, "{indent}used_ports: [{}]", used.join(", ")).unwrap_or_default();
        text
    }
}

/// A whole document, as it is read back.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Read {
    version: u32,
    command: String,
    nodes: Looks,
    // What stands there for other programs is also in the nodes.
    #[serde(default, rename = "applications")]
    _applications: IgnoredAny,
    #[serde(default, rename = "used_ports")]
    _used_ports: IgnoredAny,
}

/// What was seen of each node. Each is taken as it is read, so that what is written does not stand in memory as well.
struct Looks(BTreeMap<NodeName, Observed<NodeState>>);

impl<'de> Deserialize<'de> for Looks {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Each;

        impl<'de> Visitor<'de> for Each {
            type Value = Looks;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("the nodes by name")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut nodes: A) -> Result<Looks, A::Error> {
                let mut looks = BTreeMap::new();
                let mut tables = KnownTables::default();
                while let Some((name, look)) = nodes.next_entry()? {
                    let look = match look {
                        WrittenNode::Seen(state) => {
                            let mut state = NodeState::from(*state).compact();
                            tables.share(&mut state.routes);
                            Observed::Known(state)
                        }
                        WrittenNode::Silent(silence) => Observed::Unknown(silence),
                    };
                    looks.insert(name, look);
                }
                Ok(Looks(looks))
            }
        }

        deserializer.deserialize_map(Each)
    }
}

/// What is looked at before the rest of a document.
#[derive(Deserialize)]
struct Head {
    version: u32,
    command: String,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum WrittenNode {
    Seen(Box<WrittenState>),
    Silent(Silence),
}

#[derive(Debug, Serialize, Deserialize)]
enum Withheld {
    #[serde(rename = "withheld")]
    Withheld,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenState {
    id: NodeId,
    boot: BootId,
    address: IpAddr,
    generation: Generation,
    key: Withheld,
    datasets: BTreeMap<DatasetId, Manifestation>,
    containers: BTreeMap<ApplicationName, ContainerState>,
    routes: RouteTable,
    trash: Vec<Trashed>,
    fences: BTreeMap<DatasetId, Epoch>,
    // Left out where there is none: who does not know of it would refuse the whole.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    unreadable: BTreeMap<DatasetId, String>,
    free: Option<ByteSize>,
    #[serde(default, skip_serializing_if = "Keeps::is_lists")]
    keeps: Keeps,
    foreign_ports: BTreeSet<ExternalPort>,
    peers: BTreeMap<NodeName, Peer>,
    forgotten: BTreeMap<NodeName, BTreeSet<NodeId>>,
}

/// The key in the place of one that was withheld.
fn no_key() -> DefinitionKey {
    DefinitionKey::new([0; 32])
}

impl From<NodeState> for WrittenState {
    fn from(state: NodeState) -> Self {
        let NodeState {
            id,
            boot,
            address,
            generation,
            key: _,
            datasets,
            containers,
            routes,
            trash,
            fences,
            unreadable,
            free,
            keeps,
            foreign_ports,
            peers,
            forgotten,
        } = state;
        Self {
            id,
            boot,
            address,
            generation,
            key: Withheld::Withheld,
            datasets,
            containers,
            routes,
            trash,
            fences,
            unreadable,
            free,
            keeps,
            foreign_ports,
            peers,
            forgotten,
        }
    }
}

impl From<WrittenState> for NodeState {
    fn from(state: WrittenState) -> Self {
        let WrittenState {
            id,
            boot,
            address,
            generation,
            key: Withheld::Withheld,
            datasets,
            containers,
            routes,
            trash,
            fences,
            unreadable,
            free,
            keeps,
            foreign_ports,
            peers,
            forgotten,
        } = state;
        Self {
            id,
            boot,
            address,
            generation,
            key: no_key(),
            datasets,
            containers,
            routes,
            trash,
            fences,
            unreadable,
            free,
            keeps,
            foreign_ports,
            peers,
            forgotten,
        }
    }
}

impl Report {
    /// Takes what was seen, without the keys.
    pub(crate) fn new(seen: ClusterState) -> Self {
        let nodes = seen.nodes.into_iter().map(|(name, look)| {
            let look = match look {
                Observed::Known(state) => WrittenNode::Seen(Box::new(state.into())),
                Observed::Unknown(silence) => WrittenNode::Silent(silence),
            };
            (name, look)
        });
        Self {
            nodes: nodes.collect(),
            seed: None,
        }
    }

    /// Takes what was seen of one node, and says it once more as Flocker 0.1 did.
    pub(crate) fn with_seed(seen: ClusterState) -> Self {
        let mut nodes = seen.all_known();
        let only = match (nodes.next(), nodes.next()) {
            (Some((_, only)), None) => Some(Seed::new(only)),
            _ => None,
        };
        drop(nodes);
        Self {
            seed: only,
            ..Self::new(seen)
        }
    }
}

/// Writes what was seen as people read it.
pub(crate) fn to_yaml(seen: &ClusterState) -> String {
    let mut text = String::new();
    for (name, look) in &seen.nodes {
        match look {
            Observed::Known(state) => {
                write!(text, "\"{name}\":\n{}", Seed::new(state).to_yaml("  ")).unwrap_or_default();
            }
            Observed::Unknown(silence) => {
                writeln!(
                    text,
                    "\"{name}\": null  # {}",
                    silence.to_string().replace('\n', " ")
                )
                .unwrap_or_default();
            }
        }
    }
    text
}

/// Reads a document and adds its nodes to what is known already. A node that stands in two documents is an error.
pub(crate) fn read(text: &str, name: &str, into: &mut ClusterState) -> Result<(), Failure> {
    let malformed = |error: &serde_json::Error| {
        Failure::usage(format!("`{name}` is not a report of nodes"))
            .because(error)
            .hint("`flocker report-state --json` writes one")
    };
    let report: Read = serde_json::from_str(text).map_err(|error| match serde_json::from_str(text) {
        Ok(head) => check(&head, name).err().unwrap_or_else(|| malformed(&error)),
        Err(_) => malformed(&error),
    })?;
    check(
        &Head {
            version: report.version,
            command: report.command,
        },
        name,
    )?;
    for (node, look) in report.nodes.0 {
        if into.nodes.contains_key(&node) {
            return Err(Failure::usage(format!(
                "node `{node}` stands in `{name}` and in another report"
            )));
        }
        into.nodes.insert(node, look);
    }
    Ok(())
}

/// Reads the reports of all nodes of a deployment. A node that is in none of them was not asked.
///
/// Returns as well of which applications it is not known whether their secrets have changed.
pub(crate) fn read_all(
    paths: &[PathBuf],
    desired: &Deployment,
) -> Result<(ClusterState, Vec<(ApplicationName, NodeName)>), Failure> {
    let mut actual = read_reports(paths)?;
    let assumed = complete(&mut actual, desired);
    Ok((actual, assumed))
}

/// Reads reports alone.
pub(crate) fn read_reports(paths: &[PathBuf]) -> Result<ClusterState, Failure> {
    let mut actual = ClusterState::default();
    for path in paths {
        let text = files::text(path, "the report")?;
        read(&text, &path.display().to_string(), &mut actual)?;
    }
    Ok(actual)
}

/// Adds the nodes of a deployment that are in no report, and returns of which applications the secrets are unknown.
pub(crate) fn complete(actual: &mut ClusterState, desired: &Deployment) -> Vec<(ApplicationName, NodeName)> {
    for node in desired.members().keys() {
        let unasked = || Observed::Unknown(Silence::NotAsked);
        actual.nodes.entry(node.clone()).or_insert_with(unasked);
    }
    assume_secrets(actual, desired)
}

fn check(head: &Head, name: &str) -> Result<(), Failure> {
    let Head { version, command } = head;
    if *version != json::VERSION {
        let ours = json::VERSION;
        return Err(Failure::usage(format!(
            "`{name}` has format version {version}; this program reads version {ours}"
        )));
    }
    if command != "report-state" {
        return Err(
            Failure::usage(format!("`{name}` is a document of `flocker {command}`"))
                .hint("`flocker report-state --json` writes the one that is needed"),
        );
    }
    Ok(())
}

/// Takes it that the secrets of running applications are as the files say, where a report without keys cannot tell.
///
/// Returns the applications of which that was assumed, and where they run.
pub(crate) fn assume_secrets(
    actual: &mut ClusterState,
    desired: &Deployment,
) -> Vec<(ApplicationName, NodeName)> {
    let mut assumed = Vec::new();
    for (node, look) in &mut actual.nodes {
        let Observed::Known(state) = look else {
            continue;
        };
        if state.key != no_key() {
            continue;
        }
        for (name, container) in &mut state.containers {
            let definition = desired
                .application(name)
                .filter(|definition| definition.has_secrets());
            if let Some(definition) = definition {
                container.definition = definition.definition_hash(&state.key);
                assumed.push((name.clone(), node.clone()));
            }
        }
    }
    assumed
}

/// Takes it that these applications run as the files say, where they run: a secret of each could not be fetched.
pub(crate) fn assume_definitions(
    actual: &mut ClusterState,
    desired: &Deployment,
    withheld: &BTreeSet<ApplicationName>,
) {
    for look in actual.nodes.values_mut() {
        let Observed::Known(state) = look else {
            continue;
        };
        for (name, container) in &mut state.containers {
            let definition = desired.application(name).filter(|_| withheld.contains(name));
            if let Some(definition) = definition {
                container.definition = definition.definition_hash(&state.key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REPORT: &str = include_str!("../tests/files/mongodb-on-alpha.json");

    fn read_one(text: &str) -> Result<ClusterState, Failure> {
        let mut state = ClusterState::default();
        read(text, "state.json", &mut state).map(|()| state)
    }

    #[test]
    fn a_report_reads_back_as_what_was_seen() {
        let seen = read_one(REPORT).unwrap();
        assert!(seen.all_known().count() >= 2);
        let written =
            serde_json::to_string(&json::Document::new("report-state", &Report::new(seen.clone()))).unwrap();
        assert_eq!(read_one(&written).unwrap(), seen);
    }

    #[test]
    fn a_report_never_has_a_key_in_it() {
        let mut seen = read_one(REPORT).unwrap();
        for look in seen.nodes.values_mut() {
            if let Observed::Known(state) = look {
                state.key = DefinitionKey::new([0xab; 32]);
            }
        }
        let written = serde_json::to_string(&Report::new(seen)).unwrap();
        assert!(written.contains(r#""key":"withheld""#));
        assert!(!written.contains("abab") && !written.contains("171,171"));
    }

    #[test]
    fn a_document_of_another_version_or_command_says_so() {
        let newer = REPORT.replacen("\"version\": 1", "\"version\": 2", 1);
        assert_eq!(
            read_one(&newer).unwrap_err().message,
            "`state.json` has format version 2; this program reads version 1"
        );
        let other = r#"{"version": 1, "command": "status", "anything": []}"#;
        assert_eq!(
            read_one(other).unwrap_err().message,
            "`state.json` is a document of `flocker status`"
        );
        assert_eq!(
            read_one("{}").unwrap_err().message,
            "`state.json` is not a report of nodes"
        );
    }

    #[test]
    fn a_node_in_two_reports_is_an_error() {
        let mut state = read_one(REPORT).unwrap();
        assert!(read(REPORT, "again.json", &mut state).is_err());
    }
}
