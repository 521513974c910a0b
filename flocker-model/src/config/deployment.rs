//! The deployment file: which node runs which applications.

use std::collections::BTreeMap;
use std::collections::btree_map;
use std::net::IpAddr;
use std::str::FromStr;

use super::diagnostic::Code;
use super::diagnostic::Span;
use super::order::Order;
use super::reader::Fields;
use super::reader::Keys;
use super::reader::Reader;
use super::yaml::Entry;
use super::yaml::Kind;
use super::yaml::Node;
use super::yaml::Scalar;
use super::yaml::Value;
use super::yaml::shorten;
use crate::deployment::Member;
use crate::deployment::NodeAddress;
use crate::id::ApplicationName;
use crate::id::NodeId;
use crate::id::NodeName;
use crate::number::PortNumber;
use crate::setup::AtBoot;
use crate::setup::ChoiceError;
use crate::setup::NodeSetup;
use crate::setup::RuntimeKind;
use crate::setup::VolumeKind;

const TOP: Keys = Keys {
    what: "a deployment file",
    known: &["version", "nodes"],
    unsupported: &[],
    extensions: true,
};
const NODE: Keys = Keys {
    what: "a node",
    known: &[
        "applications",
        "address",
        "user",
        "port",
        "id",
        "volumes",
        "pool",
        "runtime",
        "router",
        "transfer_ports",
        "at_boot",
    ],
    unsupported: &[],
    extensions: false,
};

/// Everything that a deployment file says.
#[derive(Debug, Default)]
pub(crate) struct Nodes {
    pub(crate) members: BTreeMap<NodeName, Member>,
    /// Every placement, in the order of the file.
    pub(crate) placements: Vec<Placement>,
}

#[derive(Debug)]
pub(crate) struct Placement {
    pub(crate) application: ApplicationName,
    pub(crate) node: NodeName,
    pub(crate) span: Span,
}

/// What tells one node from another, and where it was said of which.
#[derive(Default)]
struct Claims {
    ids: BTreeMap<NodeId, Span>,
    addresses: BTreeMap<(Host, u16), Span>,
}

/// A host, which is the same however it is written.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Host {
    Address(IpAddr),
    Name(String),
}

impl From<&str> for Host {
    fn from(text: &str) -> Self {
        match text.parse::<IpAddr>() {
            Ok(address) => Self::Address(address.to_canonical()),
            Err(_) => Self::Name(text.to_ascii_lowercase()),
        }
    }
}

impl Reader<'_, '_, '_> {
    pub(crate) fn nodes(&mut self, root: &Node<'_>) -> Nodes {
        let mut nodes = Nodes::default();
        let Some(top) = self.fields(root, &TOP) else {
            return nodes;
        };
        self.version_one(&top);
        let Some(node) = self.required(&top, "nodes") else {
            return nodes;
        };
        let mut claims = Claims::default();
        let mut members = Vec::new();
        for Entry { key, node } in self.mapping(node, "`nodes`").unwrap_or_default() {
            let Some(name) = self.parse::<NodeName>(&key.text, key.span, Code::BadName) else {
                continue;
            };
            let mut member = Member::empty();
            match &node.value {
                Value::Sequence(items) => {
                    self.claim_host((name.as_str(), key.span), None, &mut claims);
                    self.place(items, &name, &mut member, &mut nodes.placements);
                }
                Value::Mapping(_) => {
                    let placed = self.member(node, (&name, key.span), &mut member, &mut claims);
                    self.place(placed, &name, &mut member, &mut nodes.placements);
                }
                Value::Scalar(_) => {
                    let message = format!("node `{name}` takes a list of applications");
                    self.error_with(
                        Code::WrongType,
                        key.span,
                        message,
                        "write `[]` for a node with none",
                    );
                }
            }
            members.push((name, member));
        }
        // Collected at once, which is quick for what stands in order of name.
        nodes.members = members.into_iter().collect();
        nodes
    }

    /// Reads the long form of a node; returns the list of its applications.
    fn member<'n, 'a>(
        &mut self,
        node: &'n Node<'a>,
        (name, named): (&NodeName, Span),
        member: &mut Member,
        claims: &mut Claims,
    ) -> &'n [Node<'a>] {
        let Some(fields) = self.fields(node, &NODE) else {
            return &[];
        };
        let host = fields.get("address");
        let place = host.map_or(named, |node| node.span);
        let host = host.and_then(|node| {
            let text = self.string(node, "`address`")?;
            let found: Result<NodeName, _> = text.parse();
            if found.is_err() {
                let message = format!("`{}` is not a host name or an address", shorten(text));
                self.error(Code::BadAddress, node.span, message);
            }
            found.ok().map(|_| text.to_owned())
        });
        let user = fields.get("user").and_then(|node| self.user(node));
        let port = fields.get("port").and_then(|node| self.port(node, "`port`"));
        let claimed = host.as_deref().unwrap_or(name.as_str());
        self.claim_host((claimed, place), port, claims);
        if host.is_some() || user.is_some() || port.is_some() {
            let host = host.unwrap_or_else(|| name.to_string());
            member.address = Some(NodeAddress::Ssh { host, user, port });
        }
        if let Some(node) = fields.get("id")
            && let Some(text) = self.string(node, "`id`")
            && let Some(id) = self.uuid::<NodeId>(text, node.span)
        {
            if let Some(&first) = claims.ids.get(&id) {
                let message = || format!("`{id}` is the id of two nodes");
                self.conflict(Code::NodeNamedTwice, node.span, message, (first, "first here"));
            }
            claims.ids.insert(id, node.span);
            member.id = Some(id);
        }
        member.setup = self.setup(&fields);
        let placed = fields.get("applications");
        placed
            .and_then(|node| self.list(node, "`applications`"))
            .unwrap_or_default()
    }

    /// Takes a host for a node. On another port another node may answer.
    fn claim_host(&mut self, (host, place): (&str, Span), port: Option<PortNumber>, claims: &mut Claims) {
        let claim = (Host::from(host), port.map_or(22, PortNumber::get));
        match claims.addresses.entry(claim) {
            btree_map::Entry::Vacant(free) => {
                free.insert(place);
            }
            btree_map::Entry::Occupied(taken) => {
                let message = || format!("`{host}` is the address of two nodes");
                self.conflict(Code::NodeNamedTwice, place, message, (*taken.get(), "first here"));
            }
        }
    }

    /// Reads what a node is put together from.
    fn setup(&mut self, fields: &Fields<'_, '_>) -> NodeSetup {
        let volumes = self.choice(fields, "volumes");
        let pool = fields.get("pool");
        if let (Some(VolumeKind::Directory), Some(node)) = (volumes, pool) {
            self.error_with(
                Code::ExclusiveKeys,
                node.span,
                "`pool` is for `volumes: zfs`, and this node keeps its data in directories".into(),
                "leave out one of the two",
            );
        }
        let runtime = self.choice(fields, "runtime");
        let at_boot = self.choice(fields, "at_boot");
        if let (Some(RuntimeKind::Process), Some(AtBoot::Start), Some(node)) =
            (runtime, at_boot, fields.get("at_boot"))
        {
            self.error_with(
                Code::ExclusiveKeys,
                node.span,
                "`at_boot: start` is for `runtime: docker` and `runtime: systemd`".into(),
                "write `at_boot: wait`, or leave it out",
            );
        }
        NodeSetup {
            volumes,
            pool: pool.and_then(|node| self.parsed(node, "`pool`", Code::BadName)),
            runtime,
            router: self.choice(fields, "router"),
            transfer_ports: fields
                .get("transfer_ports")
                .and_then(|node| self.parsed(node, "`transfer_ports`", Code::BadPort)),
            at_boot,
        }
    }

    fn choice<T>(&mut self, fields: &Fields<'_, '_>, key: &str) -> Option<T>
    where
        T: FromStr<Err = ChoiceError>,
    {
        let node = fields.get(key)?;
        self.parsed(node, &format!("`{key}`"), Code::BadChoice)
    }

    fn user(&mut self, node: &Node<'_>) -> Option<String> {
        let text = self.string(node, "`user`")?;
        let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
        if text.is_empty() || text.len() > 64 || text.starts_with('-') || !text.chars().all(is_name) {
            let message = format!("`{}` is not the name of a user", shorten(text));
            self.error(Code::BadAddress, node.span, message);
            return None;
        }
        Some(text.to_owned())
    }

    fn place(
        &mut self,
        items: &[Node<'_>],
        node: &NodeName,
        member: &mut Member,
        placements: &mut Vec<Placement>,
    ) {
        // What is no text is no name, and not the same as a name that looks like it.
        let text = |at: usize| match &items[at].value {
            Value::Scalar(Scalar {
                text,
                kind: Kind::Text | Kind::Ambiguous,
            }) => text.as_ref(),
            Value::Scalar(_) | Value::Sequence(_) | Value::Mapping(_) => "",
        };
        // Sorted once, and as texts: a tree that grows, or a name for each, costs a hostile file much more.
        let order = Order::new(items.len(), text);
        let mut first: Vec<usize> = (0..items.len()).collect();
        for same in order.groups(text) {
            for position in same {
                first[position.index()] = same[0].index();
            }
        }
        let mut names: Vec<Option<ApplicationName>> = vec![None; items.len()];
        let mut repeated = Vec::new();
        for (at, item) in items.iter().enumerate() {
            let Some(text) = self.string(item, "the name of an application") else {
                continue;
            };
            if names[first[at]].is_some() {
                repeated.push(at);
            } else {
                names[at] = self.parse(text, item.span, Code::BadName);
            }
        }
        let in_order = order.positions().filter_map(|at| names[at].clone());
        member.applications = in_order.collect();
        placements.reserve(items.len() - repeated.len());
        for (item, application) in items.iter().zip(names) {
            placements.extend(application.map(|application| Placement {
                application,
                node: node.clone(),
                span: item.span,
            }));
        }
        for at in repeated {
            let message = || {
                let application = text(at);
                format!("application `{application}` is listed twice for node `{node}`")
            };
            let first = (items[first[at]].span, "first here");
            self.conflict(Code::PlacedTwice, items[at].span, message, first);
        }
    }
}
