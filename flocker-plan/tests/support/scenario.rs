//! The text of a scenario: what is wanted, what is seen, and the plan that is expected.
//!
//! One thing a line. Wanted: `generation N`, `app NAME key=value...`,
//! `on NODE: APP...`, `delete N`, `policy key=value...`, and `ask` for what a
//! person asks for beside the files. Seen: `seen NODE
//! key=value...` and, below it, `data N ROLE...`, `unreadable N WHY`, `run APP...`, `routes as
//! desired`, `route PORT:PORT APP NODE+NODE`, `trash N ROLE...`, `fence N EPOCH`; or `silent NODE`. A
//! dataset is a number and stands in a plan as `d1`. What follows the line
//! `plan` is expected.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::net::Ipv4Addr;
use std::str::FromStr;
use std::time::Duration;

use flocker_model::{
    Application, ApplicationName, BootId, ByteSize, ClusterState, ContainerState, ContainerStatus, DatasetId,
    DefinitionHash, DefinitionKey, Deployment, EnvironmentValue, Epoch, ExternalPort, Generation, Health,
    Home, Keeps, Link, Manifestation, Member, NodeId, NodeName, NodeState, Observed, PartialReceive, Port,
    PortNumber, RestartPolicy, Role, RouteTable, RouteTarget, Secret, Silence, Snapshot, SnapshotGuid,
    SnapshotName, Trashed, Volume,
};
use flocker_plan::{CutOver, NotConverging, Policy, StopAll};

pub(crate) struct Scenario {
    pub(crate) desired: Deployment,
    pub(crate) actual: ClusterState,
    pub(crate) policy: Policy,
    pub(crate) ask: Ask,
    /// Everything up to the expected plan, as it stands in the file.
    pub(crate) given: String,
    pub(crate) expected: String,
}

/// What is asked for.
pub(crate) enum Ask {
    /// What the files say.
    Deploy,
    /// `ask hints`: the same, with what a person can do about what is not done.
    Hints,
    /// `ask reclaim`: what nobody needs any more.
    Reclaim,
    /// `ask promote N NODE`
    Promote { dataset: DatasetId, on: NodeName },
    /// `ask undo APP [NODE]`
    Undo {
        application: ApplicationName,
        on: Option<NodeName>,
    },
}

fn ask(words: &[&str]) -> Ask {
    match words {
        ["hints"] => Ask::Hints,
        ["reclaim"] => Ask::Reclaim,
        ["promote", number, on] => Ask::Promote {
            dataset: dataset(number),
            on: value(on),
        },
        ["undo", application, rest @ ..] => Ask::Undo {
            application: value(application),
            on: rest.first().map(|on| value(on)),
        },
        other => panic!("nobody asks for {other:?}"),
    }
}

/// Parses what is known to be well-formed; the line is in the panic of the test otherwise.
fn value<T: FromStr<Err: std::fmt::Debug>>(text: &str) -> T {
    text.parse().unwrap_or_else(|error| panic!("{text:?}: {error:?}"))
}

pub(crate) fn dataset(number: &str) -> DatasetId {
    value(&format!("00000000-0000-0000-0000-{:012}", value::<u64>(number)))
}

fn port(text: &str) -> PortNumber {
    PortNumber::new(value(text)).unwrap()
}

/// Reads `8080:80` or `53/udp:5353`; a port alone is both.
fn mapped(text: &str) -> Port {
    let (external, internal) = text.split_once(':').unwrap_or((text, ""));
    let external: ExternalPort = value(external);
    let internal = if internal.is_empty() {
        external.number
    } else {
        port(internal)
    };
    Port { internal, external }
}

fn size(text: &str) -> ByteSize {
    let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
    let shift = match &text[digits.len()..] {
        "" => 0,
        "K" => 10,
        "M" => 20,
        "G" => 30,
        unit => panic!("{unit:?} is not a unit"),
    };
    ByteSize(value::<u64>(digits) << shift)
}

/// The identity of a snapshot that is not given one: from its name, so that equal names are equal snapshots.
fn guid_of(name: &str) -> u128 {
    name.bytes()
        .fold(0, |sum: u128, byte| sum.wrapping_mul(257) + u128::from(byte))
}

/// `key=value` words, in order.
fn pairs<'a>(words: &[&'a str]) -> Vec<(&'a str, &'a str)> {
    words
        .iter()
        .map(|word| word.split_once('=').unwrap_or((word, "")))
        .collect()
}

fn application(words: &[&str]) -> Application {
    let mut application = Application::new(value("image"));
    for (key, text) in pairs(words) {
        match key {
            "image" => application.image = value(text),
            "port" => {
                application.ports.push(mapped(text));
            }
            "volume" => {
                application.volume = Some(Volume {
                    dataset: dataset(text),
                    mountpoint: "/data".into(),
                    maximum_size: None,
                });
            }
            "max" => application.volume.as_mut().unwrap().maximum_size = Some(size(text)),
            "link" => {
                let parts: Vec<&str> = text.split(':').collect();
                application.links.push(Link {
                    local_port: port(parts[0]),
                    remote_port: value(parts[1]),
                    alias: value(parts[2]),
                });
            }
            "depends" => application.depends_on.push(value(text)),
            "restart" => {
                application.restart_policy = match text {
                    "never" => RestartPolicy::Never,
                    "always" => RestartPolicy::Always,
                    "on-failure" => RestartPolicy::OnFailure {
                        maximum_retry_count: None,
                    },
                    other => panic!("{other:?} is not a restart policy"),
                }
            }
            "secret" => {
                let secret = EnvironmentValue::Secret(Secret::new(text));
                application.environment.insert("SECRET".into(), secret);
            }
            "env" => {
                let plain = EnvironmentValue::Plain(text.into());
                application.environment.insert("PLAIN".into(), plain);
            }
            "grace" => application.stop_grace = Duration::from_secs(value(text)),
            other => panic!("an application has no {other:?}"),
        }
    }
    application
}

fn policy(words: &[&str], policy: &mut Policy) {
    for (key, text) in pairs(words) {
        match key {
            "downtime" => policy.max_downtime = Duration::from_millis(value(text)),
            "rounds" => policy.max_rounds = value(text),
            "hold" => policy.cut_over = CutOver::Hold,
            "accept" => policy.not_converging = NotConverging::Accept,
            "grace" => policy.grace = Duration::from_secs(value(text)),
            "pass-over" => {
                let (number, snapshot) = text.split_once('@').unwrap();
                let of_dataset = policy.passed_over.entry(dataset(number)).or_default();
                of_dataset.insert(value(snapshot));
            }
            "allow-stop-all" => policy.stop_all = StopAll::Allow,
            other => panic!("a policy has no {other:?}"),
        }
    }
}

/// Nodes are numbered as they are listed; any other number is another machine.
fn node_id(number: usize) -> NodeId {
    value(&format!("00000000-0000-4000-8000-{number:012}"))
}

fn node(number: usize, words: &[&str]) -> NodeState {
    let id = node_id(number);
    let mut state = NodeState {
        id,
        boot: BootId(id.0),
        address: address(number),
        generation: Generation(1),
        key: DefinitionKey::new([1; 32]),
        datasets: BTreeMap::new(),
        containers: BTreeMap::new(),
        routes: RouteTable::default(),
        trash: Vec::new(),
        fences: BTreeMap::new(),
        unreadable: BTreeMap::new(),
        free: None,
        keeps: Keeps::Lists,
        foreign_ports: std::collections::BTreeSet::new(),
        peers: BTreeMap::new(),
        forgotten: BTreeMap::new(),
    };
    for (key, text) in pairs(words) {
        match key {
            "generation" => state.generation = Generation(value(text)),
            "free" => state.free = Some(size(text)),
            "keeps" => {
                assert_eq!(text, "content", "that is all it can say");
                state.keeps = Keeps::Content;
            }
            "foreign" => state.foreign_ports = text.split(',').map(value).collect(),
            "forgot" => {
                for name in text.split(',') {
                    let (name, number) = name.split_once('#').unwrap_or((name, ""));
                    let ids = state.forgotten.entry(value(name)).or_default();
                    if !number.is_empty() {
                        ids.insert(node_id(value(number)));
                    }
                }
            }
            "key" => state.key = DefinitionKey::new([value(text); 32]),
            other => panic!("a node has no {other:?}"),
        }
    }
    state
}

fn address(number: usize) -> IpAddr {
    Ipv4Addr::new(10, 0, 0, u8::try_from(number).unwrap()).into()
}

fn snapshots(text: &str) -> Vec<Snapshot> {
    let each = |one: &str| {
        let (rest, written) = one.split_once(':').unwrap_or((one, "1M"));
        let (name, guid) = rest
            .split_once('#')
            .map_or((rest, guid_of(rest)), |(name, guid)| (name, value(guid)));
        Snapshot {
            name: value(name),
            guid: SnapshotGuid(guid),
            written: size(written),
        }
    };
    text.split(',').map(each).collect()
}

fn manifestation(words: &[&str]) -> Manifestation {
    let (role, rest) = match words {
        ["primary", epoch, rest @ ..] => (
            Role::Primary {
                epoch: Epoch(value(epoch)),
            },
            rest,
        ),
        ["released", epoch, "to", to, rest @ ..] => {
            let epoch = Epoch(value(epoch));
            let last = SnapshotName::handoff(epoch);
            let released = Role::Released {
                epoch,
                to: value(to),
                guid: SnapshotGuid(guid_of(last.as_str())),
                last,
            };
            (released, rest)
        }
        ["replica", rest @ ..] => (Role::Replica, rest),
        other => panic!("{other:?} is no role"),
    };
    let fence = match &role {
        Role::Primary { epoch } => *epoch,
        Role::Released { epoch, .. } => Epoch(epoch.0 - 1),
        Role::Replica => Epoch(0),
    };
    let mut copy = Manifestation {
        role,
        snapshots: Vec::new(),
        maximum_size: None,
        used: ByteSize(1 << 20),
        unsent: ByteSize(0),
        findings: None,
        partial: None,
        fence,
        age: Duration::ZERO,
    };
    for (key, text) in pairs(rest) {
        match key {
            "snaps" => copy.snapshots = snapshots(text),
            "max" => copy.maximum_size = Some(size(text)),
            "used" => copy.used = size(text),
            "unsent" => copy.unsent = size(text),
            "altered" => copy.findings.get_or_insert_default().altered = Some(text.into()),
            "round" => copy.findings.get_or_insert_default().round = Duration::from_millis(value(text)),
            "age" => copy.age = Duration::from_secs(value(text)),
            "fence" => copy.fence = Epoch(value(text)),
            "partial" => {
                let (name, received) = text.split_once(':').unwrap();
                copy.partial = Some(Box::new(PartialReceive {
                    snapshot: value(name),
                    received: size(received),
                    token: "token".into(),
                }));
            }
            "last" => {
                if let Role::Released { last, guid, .. } = &mut copy.role {
                    *last = value(text);
                    *guid = SnapshotGuid(guid_of(text));
                }
            }
            other => panic!("a copy has no {other:?}"),
        }
    }
    copy
}

fn container(
    definition: Option<&Application>,
    key: &DefinitionKey,
    address: IpAddr,
    words: &[&str],
) -> ContainerState {
    let mut container = ContainerState {
        status: ContainerStatus::Running,
        health: Health::NotChecked,
        definition: definition.map_or(DefinitionHash(1), |definition| definition.definition_hash(key)),
        dataset: definition
            .and_then(|definition| definition.volume.as_ref())
            .map(|volume| volume.dataset),
        address: Some(address),
        stop_grace: definition.map_or(Application::DEFAULT_STOP_GRACE, |definition| {
            definition.stop_grace
        }),
        restarts: 0,
    };
    for (key, text) in pairs(words) {
        match key {
            "old" => container.definition = DefinitionHash(1),
            "prepared" => {
                container.status = ContainerStatus::Prepared;
                container.dataset = None;
            }
            "restarting" => container.status = ContainerStatus::Restarting,
            "exited" => {
                container.status = ContainerStatus::Exited {
                    code: Some(value(text)),
                }
            }
            "unhealthy" => container.health = Health::Unhealthy,
            "dataset" => container.dataset = (text != "none").then(|| dataset(text)),
            other => panic!("a container has no {other:?}"),
        }
    }
    container
}

/// The routes that a settled cluster has: every placed application at all its homes.
fn desired_routes(desired: &Deployment, addresses: &BTreeMap<NodeName, IpAddr>) -> RouteTable {
    let mut entries = BTreeMap::new();
    for (name, application) in desired.applications() {
        let homes: Vec<Home> = desired.homes(name).map(|node| home(node, addresses)).collect();
        for port in application.ports.iter().filter(|_| !homes.is_empty()) {
            entries.insert(port.external, target(name, port.internal, homes.clone()));
        }
    }
    entries.into()
}

fn home(node: &NodeName, addresses: &BTreeMap<NodeName, IpAddr>) -> Home {
    Home {
        node: node.clone(),
        address: addresses[node],
    }
}

fn target(application: &ApplicationName, internal: PortNumber, homes: Vec<Home>) -> RouteTarget {
    RouteTarget {
        application: application.clone(),
        internal,
        homes,
    }
}

impl FromStr for Scenario {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (given, expected) = text.split_once("\nplan\n").unwrap_or((text, ""));
        let lines: Vec<Vec<&str>> = given
            .lines()
            .filter(|line| !line.starts_with('#') && !line.trim().is_empty())
            .map(|line| line.split_whitespace().collect())
            .collect();
        let (desired, mut plan_policy) = (desired(&lines), Policy::default());
        for words in lines.iter().filter(|words| words[0] == "policy") {
            policy(&words[1..], &mut plan_policy);
        }
        Ok(Self {
            actual: actual(&lines, &desired),
            desired,
            policy: plan_policy,
            ask: lines
                .iter()
                .find(|words| words[0] == "ask")
                .map_or(Ask::Deploy, |words| ask(&words[1..])),
            given: given.trim_end().into(),
            expected: expected.into(),
        })
    }
}

fn desired(lines: &[Vec<&str>]) -> Deployment {
    let mut builder = Deployment::builder();
    let mut generation = Generation(2);
    for words in lines {
        match words.as_slice() {
            ["generation", number] => generation = Generation(value(number)),
            ["app", name, rest @ ..] => builder = builder.application(value(name), application(rest)),
            ["on", node, applications @ ..] => {
                let mut member = Member::empty();
                member.applications = applications.iter().map(|name| value(name)).collect();
                builder = builder.node(value(node.trim_end_matches(':')), member);
            }
            ["delete", number] => builder = builder.delete(dataset(number)),
            _ => {}
        }
    }
    builder.build().unwrap().at(generation)
}

fn actual(lines: &[Vec<&str>], desired: &Deployment) -> ClusterState {
    let named = lines.iter().filter_map(|words| match words.as_slice() {
        ["seen" | "silent", node, ..] => Some(value::<NodeName>(node)),
        _ => None,
    });
    let addresses: BTreeMap<NodeName, IpAddr> = named
        .enumerate()
        .map(|(number, node)| (node, address(number + 1)))
        .collect();
    let mut state = ClusterState::default();
    let mut last: Option<(NodeName, NodeState)> = None;
    let mut n_nodes = 0;
    for words in lines {
        match words.as_slice() {
            ["seen", name, rest @ ..] => {
                n_nodes += 1;
                let seen = (value(name), node(n_nodes, rest));
                state.nodes.extend(
                    last.replace(seen)
                        .map(|(name, seen)| (name, Observed::Known(seen))),
                );
            }
            ["silent", name] => {
                n_nodes += 1;
                let silence = Silence::Unreachable {
                    reason: "no route to host".into(),
                };
                state.nodes.insert(value(name), Observed::Unknown(silence));
            }
            [
                "data" | "unreadable" | "run" | "routes" | "route" | "trash" | "fence",
                ..,
            ] => {
                let (_, seen) = last.as_mut().unwrap();
                below(seen, words, desired, &addresses);
            }
            ["generation" | "app" | "on" | "delete" | "policy" | "ask", ..] => {}
            other => panic!("{other:?} is not a line of a scenario"),
        }
    }
    state
        .nodes
        .extend(last.map(|(name, seen)| (name, Observed::Known(seen))));
    state
}

/// What stands below a node.
fn below(seen: &mut NodeState, words: &[&str], desired: &Deployment, addresses: &BTreeMap<NodeName, IpAddr>) {
    match words {
        ["data", number, rest @ ..] => {
            seen.datasets.insert(dataset(number), manifestation(rest));
        }
        ["unreadable", number, reason @ ..] => {
            seen.unreadable.insert(dataset(number), reason.join(" "));
        }
        ["run", name, rest @ ..] => {
            let name: ApplicationName = value(name);
            let container = container(desired.application(&name), &seen.key, seen.address, rest);
            seen.containers.insert(name, container);
        }
        ["routes", "as", "desired"] => seen.routes = desired_routes(desired, addresses),
        ["route", ports, name, homes] => {
            let Port { internal, external } = mapped(ports);
            let homes = homes
                .split('+')
                .map(|node| home(&value(node), addresses))
                .collect();
            let mut entries = seen.routes.entries().clone();
            entries.insert(external, target(&value(name), internal, homes));
            seen.routes = entries.into();
        }
        ["trash", number, rest @ ..] => {
            let n_before = seen.trash.len();
            let was = (!rest.is_empty()).then(|| manifestation(rest));
            seen.trash.push(Trashed {
                entry: format!("trash-{}", n_before + 1),
                dataset: dataset(number),
                used: ByteSize(1 << 20),
                age: was.as_ref().map_or(Duration::ZERO, |was| was.age),
                role: was.map(|was| was.role),
            });
        }
        ["fence", number, epoch] => {
            seen.fences.insert(dataset(number), Epoch(value(epoch)));
        }
        other => panic!("{other:?} is not a line of a node"),
    }
}
