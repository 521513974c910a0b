//! The text that `nft` is given. It follows from the routes alone.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::net::IpAddr;

use flocker_model::Protocol;

use super::super::kernel::HOPS;
use super::super::kernel::PASS_MARK;
use super::super::kernel::piece::Piece;
use super::super::kernel::placed::Placed;
use super::batch::Batch;
use super::batch::Order;
use super::element::in_sets;
use crate::links;

/// The name of our table. It is for both kinds of addresses.
pub(super) const TABLE: &str = "flocker";

/// Removes the table. It is made first, because what is not there cannot be removed.
pub(super) const REMOVAL: &str = "add table inet flocker\ndelete table inet flocker\n";

/// What tells a connection of a loopback client from every other with the same addresses.
const LOOPBACK_ZONE: u16 = 61_708;

/// The first packet of a connection, whichever side looks at it.
const FIRST: &str = "tcp flags & (fin | syn | rst | ack) == syn";

/// A datagram between two that have not spoken to each other before.
const FIRST_DATAGRAM: &str = "meta l4proto udp ct state new";

/// Returns what finds the first packets of connections by this protocol, where it is known already which connection each is of.
fn first(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Tcp => FIRST,
        Protocol::Udp => FIRST_DATAGRAM,
    }
}

/// Returns what a set, a map or a rule is called that is for one protocol.
pub(super) fn name(protocol: Protocol, name: &str) -> String {
    match protocol {
        Protocol::Tcp => name.to_owned(),
        Protocol::Udp => format!("{protocol}_{name}"),
    }
}

/// Splits what is called so into the protocol and the rest.
pub(super) fn split_name(name: &str) -> (Protocol, &str) {
    match name.strip_prefix("udp_") {
        Some(rest) => (Protocol::Udp, rest),
        None => (Protocol::Tcp, name),
    }
}

/// What a connection was opened to, and who answers it: one element of `here4` and its like.
fn led(protocol: Protocol, ip: &str) -> String {
    format!("meta l4proto {protocol} ct original proto-dst . ct reply {ip} saddr . ct reply proto-src")
}

/// The same for a connection to an address that stands for a port: one element of `linkhere` or `linkthere`.
fn linked(protocol: Protocol) -> String {
    format!("meta l4proto {protocol} ct original ip daddr . ct reply ip saddr . ct reply proto-src")
}

/// What a container of ours says to an address that stands for a port.
fn to_link() -> String {
    let ((from, from_bits), (to, to_bits)) = (links::CONTAINERS, links::LINKS);
    format!("ip saddr {from}/{from_bits} ip daddr {to}/{to_bits}")
}

/// A chain: its name, where it is hooked in, if anywhere, and its rules.
pub(super) struct Chain {
    pub(super) name: &'static str,
    hook: Option<&'static str>,
    pub(super) rules: Vec<Rule>,
}

/// What a rule is called, and what it says. By its name it is known again.
type Rule = (String, String);

fn rule(name: &str, rule: &str) -> Rule {
    (name.to_owned(), rule.to_owned())
}

/// The kinds of addresses: what `nft` calls each, and what ends the names of its sets.
const KINDS: [(&str, u8); 2] = [("ip", 4), ("ip6", 6)];

/// Returns the rule that lets clients at loopback addresses be led elsewhere.
///
/// Routing would refuse a packet that leaves for another machine as from
/// loopback, so it is made one from the node's own address, and each answer is
/// changed back on its way to the client.
fn from_loopback(own: IpAddr, protocol: Protocol) -> Rule {
    let (ip, loopback, version) = match own {
        IpAddr::V4(_) => ("ip", "127.0.0.1", 4),
        IpAddr::V6(_) => ("ip6", "::1", 6),
    };
    let ends = name(protocol, &format!("ends{version}"));
    (
        name(protocol, &format!("loopback {own}")),
        format!(
            "{ip} saddr {loopback} {ip} daddr {loopback} {protocol} dport @{ends} ct original zone set {LOOPBACK_ZONE} {ip} saddr set {own} {ip} daddr set {own}"
        ),
    )
}

/// Returns the rule that changes back what such clients are answered.
fn to_loopback(own: IpAddr) -> Rule {
    let (ip, loopback) = match own {
        IpAddr::V4(_) => ("ip", "127.0.0.1"),
        IpAddr::V6(_) => ("ip6", "::1"),
    };
    (
        format!("loopback {loopback}"),
        format!(
            "ct original zone {LOOPBACK_ZONE} ct direction reply {ip} saddr set {loopback} {ip} daddr set {loopback}"
        ),
    )
}

/// Returns the rules that count how often the first packet of a connection was passed on.
fn hop_rules(protocol: Protocol) -> Vec<Rule> {
    let [once, twice] = HOPS;
    let first = first(protocol);
    let hop = |called: &str, says: &str| {
        KINDS.map(|(ip, _)| {
            (
                name(protocol, &format!("{called} {ip}")),
                format!("{first} {}", says.replace("dscp", &format!("{ip} dscp"))),
            )
        })
    };
    [
        hop("twice", &format!("dscp {twice} drop")),
        hop("once", &format!("dscp {once} dscp set {twice} return")),
        hop("never", &format!("dscp set {once}")),
    ]
    .concat()
}

/// Returns what leads packets that enter the node; `before` says which of each kind of addresses are not led.
fn enter_rules(protocol: Protocol, before: [&str; 2]) -> Vec<Rule> {
    let enter = KINDS.iter().zip(before).map(|((ip, version), before)| {
        let ends = name(protocol, &format!("ends{version}"));
        (
            name(protocol, &format!("enter {ip}")),
            format!("{before}fib daddr type local dnat {ip} to {protocol} dport map @{ends}"),
        )
    });
    enter.collect()
}

/// Returns what lets pass what is led, and counts what goes there.
fn forward_rules(protocol: Protocol) -> Vec<Rule> {
    let mut rules = Vec::new();
    for (way, target) in [("here", "pass"), ("there", "away")] {
        for (ip, version) in KINDS {
            let set = name(protocol, &format!("{way}{version}"));
            rules.push((
                name(protocol, &format!("{way} {ip}")),
                format!("{} @{set} jump {target}", led(protocol, ip)),
            ));
        }
    }
    for (way, target) in [("here", "pass"), ("there", "away")] {
        let set = name(protocol, &format!("link{way}"));
        rules.push((
            name(protocol, &format!("link {way}")),
            format!("{} @{set} jump {target}", linked(protocol)),
        ));
    }
    rules
}

/// Returns what makes answers come back this way, where they would not by themselves.
fn leave_rules(protocol: Protocol) -> Vec<Rule> {
    let mut rules = Vec::new();
    for (ip, version) in KINDS {
        let set = name(protocol, &format!("there{version}"));
        rules.push((
            name(protocol, &format!("there {ip}")),
            format!("{} @{set} masquerade", led(protocol, ip)),
        ));
    }
    for (ip, version) in KINDS {
        let set = name(protocol, &format!("here{version}"));
        rules.push((
            name(protocol, &format!("beside {ip}")),
            format!(
                "{ip} saddr @beside{version} {} @{set} masquerade",
                led(protocol, ip)
            ),
        ));
    }
    let linked = linked(protocol);
    let [here, there] = ["linkhere", "linkthere"].map(|set| name(protocol, set));
    rules.push((
        name(protocol, "link there"),
        format!("{linked} @{there} masquerade"),
    ));
    rules.push((
        name(protocol, "link beside"),
        format!("ip saddr @beside4 {linked} @{here} masquerade"),
    ));
    rules
}

/// Returns all chains of the table. They do not depend on any route.
pub(super) fn chains(own: IpAddr) -> Vec<Chain> {
    let chain = |name, hook, rules| Chain { name, hook, rules };
    let of_each = |rules: &dyn Fn(Protocol) -> Vec<Rule>| Protocol::ALL.into_iter().flat_map(rules).collect();
    let hold = rule(
        "hold",
        &format!("{FIRST} tcp dport @held fib daddr type local drop"),
    );
    let to_link = to_link();
    let pass = rule("pass", &format!("meta mark set meta mark | {PASS_MARK:#010x}"));
    vec![
        chain(
            "hold",
            Some("type filter hook prerouting priority raw"),
            vec![hold.clone()],
        ),
        chain(
            "hold_own",
            Some("type filter hook output priority raw"),
            [hold]
                .into_iter()
                .chain(Protocol::ALL.map(|protocol| from_loopback(own, protocol)))
                .collect(),
        ),
        chain(
            "hold_datagrams",
            // Where it is known which are answers to what was said from here. A client of this node comes by here too.
            Some("type filter hook prerouting priority mangle"),
            vec![rule(
                "hold",
                &format!("{FIRST_DATAGRAM} udp dport @udp_held fib daddr type local drop"),
            )],
        ),
        chain(
            "enter",
            Some("type nat hook prerouting priority dstnat"),
            of_each(&|protocol| {
                let mut rules = enter_rules(protocol, ["", ""]);
                let links = name(protocol, "links");
                rules.push((
                    name(protocol, "link"),
                    format!("{to_link} meta l4proto {protocol} dnat ip to ip daddr map @{links}"),
                ));
                rules
            }),
        ),
        chain(
            "nowhere",
            Some("type filter hook prerouting priority dstnat + 1"),
            // What is not led anywhere yet does not leave the node. The client says it again.
            vec![rule("link", &format!("{to_link} drop"))],
        ),
        chain(
            "enter_own",
            Some("type nat hook output priority -100"),
            // What still has a loopback address here could not be answered.
            of_each(&|protocol| enter_rules(protocol, ["ip daddr != 127.0.0.0/8 ", "ip6 daddr != ::1 "])),
        ),
        chain(
            "forward",
            Some("type filter hook forward priority filter - 5"),
            of_each(&forward_rules),
        ),
        chain("pass", None, vec![pass.clone()]),
        chain("away", None, [vec![pass], of_each(&hop_rules)].concat()),
        chain(
            "leave",
            Some("type nat hook postrouting priority srcnat"),
            of_each(&leave_rules),
        ),
        chain(
            "back",
            Some("type filter hook input priority 300"),
            vec![to_loopback(own)],
        ),
    ]
}

/// Every map and set that there is for each protocol, with what it consists of.
const SETS: [(&str, &str, &str); 11] = [
    ("set", "records", "type inet_service . inet_service;"),
    ("set", "held", "type inet_service;"),
    ("map", "ends4", "type inet_service : ipv4_addr . inet_service;"),
    ("map", "ends6", "type inet_service : ipv6_addr . inet_service;"),
    ("set", "here4", "type inet_service . ipv4_addr . inet_service;"),
    ("set", "here6", "type inet_service . ipv6_addr . inet_service;"),
    ("set", "there4", "type inet_service . ipv4_addr . inet_service;"),
    ("set", "there6", "type inet_service . ipv6_addr . inet_service;"),
    ("map", "links", "type ipv4_addr : ipv4_addr . inet_service;"),
    ("set", "linkhere", "type ipv4_addr . ipv4_addr . inet_service;"),
    ("set", "linkthere", "type ipv4_addr . ipv4_addr . inet_service;"),
];

/// The same for those of all protocols.
pub(super) const SHARED_SETS: [(&str, &str); 2] = [
    ("beside4", "type ipv4_addr; flags interval;"),
    ("beside6", "type ipv6_addr; flags interval;"),
];

/// Returns what is said of how many elements a set is to have room for.
///
/// Growing a set while it is filled takes the kernel longer than filling it. It makes room for every port at once, a
/// mebibyte for each set, where there is an element for each route of the usual kind.
fn room(protocol: Protocol, called: &str) -> &'static str {
    let is_usual = ["ends4", "here4", "there4", "links", "linkhere", "linkthere"].contains(&called);
    match protocol {
        Protocol::Tcp if is_usual => " size 65535;",
        Protocol::Tcp | Protocol::Udp => "",
    }
}

/// Returns the whole table, in place of whatever there is of it.
pub(super) fn whole(own: IpAddr, placed: &Placed) -> String {
    let mut text = format!("{REMOVAL}table inet {TABLE} {{\n");
    for protocol in Protocol::ALL {
        for (kind, called, says) in SETS {
            let room = room(protocol, called);
            writeln!(text, "\t{kind} {} {{ {says}{room} }}", name(protocol, called)).unwrap_or_default();
        }
    }
    for (called, says) in SHARED_SETS {
        writeln!(text, "\tset {called} {{ {says} }}").unwrap_or_default();
    }
    // A chain has to be there before a rule leads to it.
    for Chain { name, hook, .. } in chains(own) {
        let says = hook.map_or(String::new(), |hook| format!(" {hook}; policy accept; "));
        writeln!(text, "\tchain {name} {{{says}}}").unwrap_or_default();
    }
    text.push_str("}\n");
    for Chain { name, rules, .. } in chains(own) {
        for (comment, rule) in rules {
            writeln!(text, "add rule inet {TABLE} {name} {rule} comment \"{comment}\"").unwrap_or_default();
        }
    }
    elements(&mut text, Order::Add, &placed.pieces());
    text
}

/// What leads from one to the other.
#[derive(Debug)]
pub(super) struct Difference {
    removed: BTreeSet<Piece>,
    added: BTreeSet<Piece>,
}

/// Returns what leads from one to the other.
pub(super) fn difference(found: &Placed, wanted: &Placed) -> Difference {
    Difference {
        removed: found.pieces_without(wanted),
        added: wanted.pieces_without(found),
    }
}

impl Difference {
    /// Returns it as text for `nft`.
    pub(super) fn text(&self) -> String {
        let mut text = String::new();
        elements(&mut text, Order::Delete, &self.removed);
        elements(&mut text, Order::Add, &self.added);
        text
    }

    /// Returns it as messages to the kernel.
    ///
    /// `generation` is that of [`Batch::new`].
    pub(super) fn batch(&self, generation: Option<u32>) -> Batch {
        let mut batch = Batch::new(generation);
        batch.add(Order::Delete, &in_sets(&self.removed));
        batch.add(Order::Add, &in_sets(&self.added));
        batch
    }
}

/// Writes one order for each set of which it changes anything.
fn elements(text: &mut String, order: Order, pieces: &BTreeSet<Piece>) {
    let verb = match order {
        Order::Add => "add",
        Order::Delete => "delete",
    };
    for ((protocol, called), elements) in in_sets(pieces) {
        let set = name(protocol, called);
        write!(text, "{verb} element inet {TABLE} {set} {{ ").unwrap_or_default();
        for (n, element) in elements.iter().enumerate() {
            let comma = if n == 0 { "" } else { ", " };
            write!(text, "{comma}{element}").unwrap_or_default();
            // What is taken out is named by its key.
            if order == Order::Delete {
                continue;
            }
            if let Some(to) = element.leads_to() {
                write!(text, " : {} . {}", to.ip(), to.port()).unwrap_or_default();
            }
            if let Some(comment) = element.comment() {
                write!(text, " comment \"{comment}\"").unwrap_or_default();
            }
        }
        text.push_str(" }\n");
    }
}

#[cfg(test)]
mod tests {
    use flocker_model::ExternalPort;

    use super::super::super::kernel::piece::Way;
    use super::*;

    fn port(text: &str) -> ExternalPort {
        text.parse().unwrap()
    }

    fn pieces() -> BTreeSet<Piece> {
        [
            Piece::Record {
                port: port("80"),
                part: 0,
                text: "site/8080/alpha=10.0.0.1/".into(),
            },
            Piece::End {
                port: port("80"),
                to: ([172, 18, 0, 2], 8080).into(),
                way: Way::Here,
            },
            Piece::End {
                port: port("443"),
                to: "[fd00::2]:443".parse().unwrap(),
                way: Way::There,
            },
            Piece::Held { port: port("25") },
            Piece::Held { port: port("25/udp") },
            Piece::End {
                port: port("443/udp"),
                to: ([10, 0, 0, 2], 443).into(),
                way: Way::There,
            },
            Piece::Beside {
                network: "172.18.0.0/16".parse().unwrap(),
            },
        ]
        .into()
    }

    #[test]
    fn pieces_are_added_with_all_that_they_say_and_deleted_by_their_keys() {
        let mut added = String::new();
        elements(&mut added, Order::Add, &pieces());
        assert_eq!(
            added,
            "add element inet flocker beside4 { 172.18.0.0/16 }\n\
             add element inet flocker ends4 { 80 : 172.18.0.2 . 8080 }\n\
             add element inet flocker ends6 { 443 : fd00::2 . 443 }\n\
             add element inet flocker held { 25 }\n\
             add element inet flocker here4 { 80 . 172.18.0.2 . 8080 }\n\
             add element inet flocker linkhere { 10.194.0.80 . 172.18.0.2 . 8080 }\n\
             add element inet flocker links { 10.194.0.80 : 172.18.0.2 . 8080 }\n\
             add element inet flocker records { 80 . 0 comment \"site/8080/alpha=10.0.0.1/\" }\n\
             add element inet flocker there6 { 443 . fd00::2 . 443 }\n\
             add element inet flocker udp_ends4 { 443 : 10.0.0.2 . 443 }\n\
             add element inet flocker udp_held { 25 }\n\
             add element inet flocker udp_links { 10.194.1.187 : 10.0.0.2 . 443 }\n\
             add element inet flocker udp_linkthere { 10.194.1.187 . 10.0.0.2 . 443 }\n\
             add element inet flocker udp_there4 { 443 . 10.0.0.2 . 443 }\n"
        );
        let mut deleted = String::new();
        elements(&mut deleted, Order::Delete, &pieces());
        assert_eq!(
            deleted,
            "delete element inet flocker beside4 { 172.18.0.0/16 }\n\
             delete element inet flocker ends4 { 80 }\n\
             delete element inet flocker ends6 { 443 }\n\
             delete element inet flocker held { 25 }\n\
             delete element inet flocker here4 { 80 . 172.18.0.2 . 8080 }\n\
             delete element inet flocker linkhere { 10.194.0.80 . 172.18.0.2 . 8080 }\n\
             delete element inet flocker links { 10.194.0.80 }\n\
             delete element inet flocker records { 80 . 0 }\n\
             delete element inet flocker there6 { 443 . fd00::2 . 443 }\n\
             delete element inet flocker udp_ends4 { 443 }\n\
             delete element inet flocker udp_held { 25 }\n\
             delete element inet flocker udp_links { 10.194.1.187 }\n\
             delete element inet flocker udp_linkthere { 10.194.1.187 . 10.0.0.2 . 443 }\n\
             delete element inet flocker udp_there4 { 443 . 10.0.0.2 . 443 }\n"
        );
    }

    #[test]
    fn the_rules_are_as_many_for_no_route_as_for_any() {
        let own = IpAddr::from([10, 0, 0, 1]);
        let text = whole(own, &Placed::default());
        assert_eq!(text, include_str!("../../../tests/data/nftables/whole.nft"));
        let n_rules = text.lines().filter(|line| line.starts_with("add rule")).count();
        assert_eq!(
            n_rules,
            chains(own).iter().map(|chain| chain.rules.len()).sum::<usize>()
        );
    }
}
