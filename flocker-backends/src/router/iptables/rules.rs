//! The rules by which routes are carried out. They follow from the routes alone.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::net::SocketAddr;

use flocker_model::ExternalPort;
use flocker_model::Protocol;

use super::super::kernel::HOPS;
use super::super::kernel::PASS_MARK;
use super::super::kernel::piece::Piece;
use super::super::kernel::piece::Way;
use super::hooks::Hook;
use super::hooks::Place;
use crate::links;
use crate::links::link_address;

/// A kind of addresses. Each has programs and tables of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Family {
    V4,
    V6,
}

impl Family {
    pub(super) const ALL: [Self; 2] = [Self::V4, Self::V6];

    pub(super) fn of(address: IpAddr) -> Self {
        if address.is_ipv4() { Self::V4 } else { Self::V6 }
    }

    /// Says whether a piece belongs to its tables, on a node whose own address is of this kind.
    pub(super) fn has(self, own: Self, piece: &Piece) -> bool {
        match piece {
            Piece::Record { .. } | Piece::Held { .. } => self == own,
            Piece::End { to, .. } => self == Self::of(to.ip()),
            Piece::Beside { network } => network.is_ipv4() == (self == Self::V4),
        }
    }
}

/// Every mark of ours begins so.
pub(super) const OURS: &str = "flocker:";

/// What the rules are called by which nothing comes in by wire with a loopback address.
pub(super) const GUARD: [&str; 2] = ["to-loopback", "from-loopback"];

/// What the hook is called that leads to them.
pub(super) const GUARD_HOOK: &str = "guard";

/// Set for connections that go another way than to an application of this node.
const THERE_MARK: u32 = PASS_MARK << 1;
const MARK_BITS: u32 = PASS_MARK | THERE_MARK;

/// Returns what the first packets of connections by this protocol are, once the connection of each is known.
fn first(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Tcp => "-p tcp -m tcp --tcp-flags FIN,SYN,RST,ACK SYN",
        Protocol::Udp => "-p udp -m conntrack --ctstate NEW",
    }
}

/// Returns what a rule is called that is for one protocol.
fn named(protocol: Protocol, name: &str) -> String {
    match protocol {
        Protocol::Tcp => name.to_owned(),
        Protocol::Udp => format!("{name}-{protocol}"),
    }
}

/// Our chains, by table. Tables are written in this order: what a route needs before the route itself.
pub(super) const CHAINS: [(&str, &[&str]); 4] = [
    ("raw", &["FLOCKER-HOLD", "FLOCKER-HOLD-LINK", "FLOCKER-GUARD"]),
    ("filter", &["FLOCKER-FORWARD"]),
    ("mangle", &["FLOCKER-HOPS", "FLOCKER-HOLD-UDP"]),
    (
        "nat",
        &[
            "FLOCKER-ENTER",
            "FLOCKER-LEAVE",
            "FLOCKER-LINK",
            "FLOCKER-RECORDS",
        ],
    ),
];

/// Returns the mark of the connections that go this way.
fn mark(way: Way) -> u32 {
    match way {
        Way::Here => PASS_MARK,
        Way::There => MARK_BITS,
    }
}

/// Reads a mark as `iptables-save` prints it: `0x1000000/0x3000000`.
pub(super) fn read_mark(text: &str) -> Option<Way> {
    Way::ALL
        .into_iter()
        .find(|way| text == format!("{:#x}/{MARK_BITS:#x}", mark(*way)))
}

/// A rule of one of our chains: where it is and all that follows `-A`.
pub(super) type Rules = BTreeMap<&'static str, Vec<String>>;

/// Returns a rule that is there whatever the routes are. Its name is its mark.
fn fixed(chain: &str, name: &str, says: &str, target: &str) -> String {
    format!("-A {chain} {says} -m comment --comment {OURS}{name} -j {target}")
}

/// What a container of ours says to an address that stands for a port.
fn to_link() -> String {
    let ((from, from_bits), (to, to_bits)) = (links::CONTAINERS, links::LINKS);
    format!("-s {from}/{from_bits} -d {to}/{to_bits}")
}

/// Returns the rules that are there whatever the routes are, by table.
pub(super) fn fixed_rules(family: Family) -> Rules {
    let led = |way| format!("-m connmark --mark {:#x}/{MARK_BITS:#x}", mark(way));
    let [once, twice] = HOPS;
    let there = led(Way::There);
    let hop = |protocol: Protocol, name: &str, dscp: String, target: String| {
        let says = format!("{} {there} -m dscp {dscp}", first(protocol));
        fixed("FLOCKER-HOPS", &named(protocol, name), &says, &target)
    };
    let hops = Protocol::ALL.map(|protocol| {
        [
            hop(protocol, "twice", format!("--dscp {twice:#04x}"), "DROP".into()),
            hop(
                protocol,
                "once",
                format!("--dscp {once:#04x}"),
                format!("DSCP --set-dscp {twice:#04x}"),
            ),
            hop(
                protocol,
                "never",
                format!("! --dscp {twice:#04x}"),
                format!("DSCP --set-dscp {once:#04x}"),
            ),
        ]
    });
    let mut leave = vec![fixed("FLOCKER-LEAVE", "there", &there, "MASQUERADE")];
    let mut raw = Vec::new();
    let mut filter = vec![fixed(
        "FLOCKER-FORWARD",
        "forward",
        &format!("-m connmark --mark {PASS_MARK:#x}/{PASS_MARK:#x}"),
        "ACCEPT",
    )];
    if family == Family::V4 {
        // A client at a loopback address would not be answered.
        let says = format!("-s 127.0.0.0/8 {}", led(Way::Here));
        leave.push(fixed("FLOCKER-LEAVE", "loopback", &says, "MASQUERADE"));
        // What comes by wire with a loopback address is refused as before.
        filter.push(fixed("FLOCKER-FORWARD", "link-nowhere", &to_link(), "DROP"));
        let [to, from] = GUARD;
        raw.push(fixed("FLOCKER-GUARD", to, "-d 127.0.0.0/8", "DROP"));
        raw.push(fixed("FLOCKER-GUARD", from, "-s 127.0.0.0/8", "DROP"));
    }
    [
        ("raw", raw),
        ("filter", filter),
        ("mangle", hops.concat()),
        ("nat", leave),
    ]
    .into()
}

/// Returns the names of the rules that are there whatever the routes are.
pub(super) fn fixed_names(family: Family) -> BTreeSet<String> {
    let rules = fixed_rules(family).into_values().flatten();
    rules
        .filter_map(|rule| {
            let (_, rest) = rule.split_once(OURS)?;
            Some(rest.split(' ').next()?.to_owned())
        })
        .collect()
}

/// Returns what leads to our chains. Each hook is known again by its chain and the name in its mark.
pub(super) fn hooks(family: Family) -> Vec<(&'static str, Hook)> {
    let hook = |table, chain, place, name: &'static str, says: &str, target: &str| {
        let rule = format!("{says} -m comment --comment {OURS}{name} -j {target}");
        (
            name,
            Hook {
                table,
                chain,
                place,
                rule: rule.trim_start().to_owned(),
            },
        )
    };
    let local = "-p tcp -m addrtype --dst-type LOCAL";
    let local_udp = "-p udp -m addrtype --dst-type LOCAL";
    // A client at the loopback address of the newer kind cannot be led elsewhere: it is refused, and tries the older.
    let own_clients = |local: &str| match family {
        Family::V4 => local.to_owned(),
        Family::V6 => format!("! -d ::1/128 {local}"),
    };
    let mut hooks = vec![
        hook("raw", "PREROUTING", Place::First, "hold", local, "FLOCKER-HOLD"),
        hook("raw", "OUTPUT", Place::First, "hold", local, "FLOCKER-HOLD"),
        hook(
            "filter",
            "FORWARD",
            Place::First,
            "forward",
            "",
            "FLOCKER-FORWARD",
        ),
        hook("mangle", "FORWARD", Place::Last, "hops", "", "FLOCKER-HOPS"),
        hook("nat", "PREROUTING", Place::Last, "enter", local, "FLOCKER-ENTER"),
        hook(
            "nat",
            "OUTPUT",
            Place::Last,
            "enter",
            &own_clients(local),
            "FLOCKER-ENTER",
        ),
        // What is answered to those who spoke first is known only where connections are, and so not in `raw`.
        hook(
            "mangle",
            "PREROUTING",
            Place::First,
            "hold-udp",
            local_udp,
            "FLOCKER-HOLD-UDP",
        ),
        hook(
            "nat",
            "PREROUTING",
            Place::Last,
            "enter-udp",
            local_udp,
            "FLOCKER-ENTER",
        ),
        hook(
            "nat",
            "OUTPUT",
            Place::Last,
            "enter-udp",
            &own_clients(local_udp),
            "FLOCKER-ENTER",
        ),
        hook("nat", "POSTROUTING", Place::Last, "leave", "", "FLOCKER-LEAVE"),
    ];
    if family == Family::V4 {
        let guard = hook(
            "raw",
            "PREROUTING",
            Place::First,
            GUARD_HOOK,
            "! -i lo",
            "FLOCKER-GUARD",
        );
        hooks.insert(0, guard);
        for (protocol, hold, link) in [
            (Protocol::Tcp, "hold-link", "link"),
            (Protocol::Udp, "hold-link-udp", "link-udp"),
        ] {
            let says = format!("{} -p {protocol}", to_link());
            hooks.push(hook(
                "raw",
                "PREROUTING",
                Place::First,
                hold,
                &says,
                "FLOCKER-HOLD-LINK",
            ));
            hooks.push(hook(
                "nat",
                "PREROUTING",
                Place::Last,
                link,
                &says,
                "FLOCKER-LINK",
            ));
        }
    }
    hooks
}

/// Returns the hook in the chain that Docker keeps before its own rules for those of others.
pub(super) fn docker_hook() -> (&'static str, Hook) {
    let rule = format!("-m comment --comment {OURS}forward -j FLOCKER-FORWARD");
    let hook = Hook {
        table: "filter",
        chain: "DOCKER-USER",
        place: Place::First,
        rule,
    };
    ("forward", hook)
}

/// Returns the rules of which a piece consists, each with its table.
pub(super) fn rules_of(family: Family, piece: &Piece) -> Vec<(&'static str, String)> {
    match piece {
        Piece::Record { port, part, text } => {
            let rule = format!("-A FLOCKER-RECORDS -m comment --comment {OURS}record:{port}:{part}:{text}");
            vec![("nat", rule)]
        }
        Piece::End { port, to, way } => {
            let ExternalPort { number, protocol } = port;
            let says = format!("-A FLOCKER-ENTER -p {protocol} -m {protocol} --dport {number}");
            let mut rules = led(&says, "", *port, *to, *way);
            if to.is_ipv4() {
                // The protocol is named again: without it a rule cannot name the port that it leads to.
                let link = link_address(links::LINKS.0, *number);
                let says = format!("-A FLOCKER-LINK -d {link}/32 -p {protocol}");
                rules.extend(led(&says, "link-", *port, *to, *way));
            }
            rules
        }
        Piece::Held { port } => {
            let mut rules = vec![held(*port)];
            if family == Family::V4 {
                let link = link_address(links::LINKS.0, port.number);
                let first = match port.protocol {
                    Protocol::Tcp => first(Protocol::Tcp),
                    // Nobody is answered at these addresses.
                    Protocol::Udp => "-p udp",
                };
                let says = format!("-A FLOCKER-HOLD-LINK -d {link}/32 {first}");
                let rule = format!("{says} -m comment --comment {OURS}link-held:{port} -j DROP");
                rules.push(("raw", rule));
            }
            rules
        }
        Piece::Beside { network } => {
            let mark = mark(Way::Here);
            let rule = format!(
                "-A FLOCKER-LEAVE -s {network} -m connmark --mark {mark:#x}/{MARK_BITS:#x} -m comment --comment {OURS}beside:{network} -j MASQUERADE"
            );
            vec![("nat", rule)]
        }
    }
}

/// Returns the two rules that lead what fits `says`: one marks the connection, and one replaces its target.
fn led(says: &str, name: &str, port: ExternalPort, to: SocketAddr, way: Way) -> Vec<(&'static str, String)> {
    let mark = mark(way);
    let marked = format!(
        "{says} -m comment --comment {OURS}{name}mark:{port} -j CONNMARK --set-xmark {mark:#x}/{MARK_BITS:#x}"
    );
    let ended = format!("{says} -m comment --comment {OURS}{name}end:{port} -j DNAT --to-destination {to}");
    vec![("nat", marked), ("nat", ended)]
}

fn held(port: ExternalPort) -> (&'static str, String) {
    let ExternalPort { number, protocol } = port;
    let (table, says) = match protocol {
        Protocol::Tcp => (
            "raw",
            format!("-A FLOCKER-HOLD -p tcp -m tcp --dport {number} --tcp-flags FIN,SYN,RST,ACK SYN"),
        ),
        Protocol::Udp => (
            "mangle",
            format!("-A FLOCKER-HOLD-UDP -p udp -m udp --dport {number} -m conntrack --ctstate NEW"),
        ),
    };
    (
        table,
        format!("{says} -m comment --comment {OURS}held:{port} -j DROP"),
    )
}

/// Reads a target as `iptables-save` prints it.
pub(super) fn read_target(text: &str) -> Option<SocketAddr> {
    text.parse().ok()
}
