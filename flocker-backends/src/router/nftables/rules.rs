//! The text that `nft` is given. It follows from the routes alone.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::net::IpAddr;

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

/// What a connection was opened to, and who answers it: one element of `here4` and its like.
const LED_4: &str = "meta l4proto tcp ct original proto-dst . ct reply ip saddr . ct reply proto-src";
const LED_6: &str = "meta l4proto tcp ct original proto-dst . ct reply ip6 saddr . ct reply proto-src";

/// The same for a connection to an address that stands for a port: one element of `linkhere` or `linkthere`.
const LINKED: &str = "meta l4proto tcp ct original ip daddr . ct reply ip saddr . ct reply proto-src";

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

/// Returns the rules that let clients at loopback addresses be led elsewhere: for what they send, and for what they are answered.
///
/// Routing would refuse a packet that leaves for another machine as from
/// loopback, so it is made one from the node's own address, and each answer is
/// changed back on its way to the client.
fn loopback_rules(own: IpAddr) -> [Rule; 2] {
    let (ip, loopback, ends) = match own {
        IpAddr::V4(_) => ("ip", "127.0.0.1", "ends4"),
        IpAddr::V6(_) => ("ip6", "::1", "ends6"),
    };
    let from_loopback = (
        format!("loopback {own}"),
        format!(
            "{ip} saddr {loopback} {ip} daddr {loopback} tcp dport @{ends} ct original zone set {LOOPBACK_ZONE} {ip} saddr set {own} {ip} daddr set {own}"
        ),
    );
    let to_loopback = (
        format!("loopback {loopback}"),
        format!(
            "ct original zone {LOOPBACK_ZONE} ct direction reply {ip} saddr set {loopback} {ip} daddr set {loopback}"
        ),
    );
    [from_loopback, to_loopback]
}

/// Returns the rules that count how often the first packet of a connection was passed on.
fn hop_rules() -> Vec<Rule> {
    let [once, twice] = HOPS;
    let hop = |name: &str, ip: &str, says: &str| {
        rule(
            &format!("{name} {ip}"),
            &format!("{FIRST} {}", says.replace("dscp", &format!("{ip} dscp"))),
        )
    };
    vec![
        hop("twice", "ip", &format!("dscp {twice} drop")),
        hop("twice", "ip6", &format!("dscp {twice} drop")),
        hop("once", "ip", &format!("dscp {once} dscp set {twice} return")),
        hop("once", "ip6", &format!("dscp {once} dscp set {twice} return")),
        hop("never", "ip", &format!("dscp set {once}")),
        hop("never", "ip6", &format!("dscp set {once}")),
    ]
}

/// Returns all chains of the table. They do not depend on any route.
pub(super) fn chains(own: IpAddr) -> Vec<Chain> {
    let chain = |name, hook, rules| Chain { name, hook, rules };
    let hold = rule(
        "hold",
        &format!("{FIRST} tcp dport @held fib daddr type local drop"),
    );
    let [from_loopback, to_loopback] = loopback_rules(own);
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
            vec![hold, from_loopback],
        ),
        chain(
            "enter",
            Some("type nat hook prerouting priority dstnat"),
            vec![
                rule("enter ip", "fib daddr type local dnat ip to tcp dport map @ends4"),
                rule(
                    "enter ip6",
                    "fib daddr type local dnat ip6 to tcp dport map @ends6",
                ),
                rule(
                    "link",
                    &format!("{to_link} meta l4proto tcp dnat ip to ip daddr map @links"),
                ),
            ],
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
            vec![
                // What still has a loopback address here could not be answered.
                rule(
                    "enter ip",
                    "ip daddr != 127.0.0.0/8 fib daddr type local dnat ip to tcp dport map @ends4",
                ),
                rule(
                    "enter ip6",
                    "ip6 daddr != ::1 fib daddr type local dnat ip6 to tcp dport map @ends6",
                ),
            ],
        ),
        chain(
            "forward",
            Some("type filter hook forward priority filter - 5"),
            vec![
                rule("here ip", &format!("{LED_4} @here4 jump pass")),
                rule("here ip6", &format!("{LED_6} @here6 jump pass")),
                rule("there ip", &format!("{LED_4} @there4 jump away")),
                rule("there ip6", &format!("{LED_6} @there6 jump away")),
                rule("link here", &format!("{LINKED} @linkhere jump pass")),
                rule("link there", &format!("{LINKED} @linkthere jump away")),
            ],
        ),
        chain("pass", None, vec![pass.clone()]),
        chain("away", None, [vec![pass], hop_rules()].concat()),
        chain(
            "leave",
            Some("type nat hook postrouting priority srcnat"),
            vec![
                rule("there ip", &format!("{LED_4} @there4 masquerade")),
                rule("there ip6", &format!("{LED_6} @there6 masquerade")),
                rule(
                    "beside ip",
                    &format!("ip saddr @beside4 {LED_4} @here4 masquerade"),
                ),
                rule(
                    "beside ip6",
                    &format!("ip6 saddr @beside6 {LED_6} @here6 masquerade"),
                ),
                rule("link there", &format!("{LINKED} @linkthere masquerade")),
                rule(
                    "link beside",
                    &format!("ip saddr @beside4 {LINKED} @linkhere masquerade"),
                ),
            ],
        ),
        chain(
            "back",
            Some("type filter hook input priority 300"),
            vec![to_loopback],
        ),
    ]
}

/// Every map and set, with what it consists of.
///
/// For those that have as many elements as there are routes, the kernel makes room for every port there is at once, a
/// mebibyte for each: growing them while they are filled takes it longer than the filling.
pub(super) const SETS: [(&str, &str); 13] = [
    ("set records", "type inet_service . inet_service;"),
    ("set held", "type inet_service;"),
    (
        "map ends4",
        "type inet_service : ipv4_addr . inet_service; size 65535;",
    ),
    ("map ends6", "type inet_service : ipv6_addr . inet_service;"),
    (
        "set here4",
        "type inet_service . ipv4_addr . inet_service; size 65535;",
    ),
    ("set here6", "type inet_service . ipv6_addr . inet_service;"),
    (
        "set there4",
        "type inet_service . ipv4_addr . inet_service; size 65535;",
    ),
    ("set there6", "type inet_service . ipv6_addr . inet_service;"),
    (
        "map links",
        "type ipv4_addr : ipv4_addr . inet_service; size 65535;",
    ),
    (
        "set linkhere",
        "type ipv4_addr . ipv4_addr . inet_service; size 65535;",
    ),
    (
        "set linkthere",
        "type ipv4_addr . ipv4_addr . inet_service; size 65535;",
    ),
    ("set beside4", "type ipv4_addr; flags interval;"),
    ("set beside6", "type ipv6_addr; flags interval;"),
];

/// Returns the whole table, in place of whatever there is of it.
pub(super) fn whole(own: IpAddr, placed: &Placed) -> String {
    let mut text = format!("{REMOVAL}table inet {TABLE} {{\n");
    for (name, says) in SETS {
        writeln!(text, "\t{name} {{ {says} }}").unwrap_or_default();
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

    /// Returns it as messages to the kernel; nothing where there are networks in it, which only `nft` can write.
    ///
    /// `generation` is that of [`Batch::new`].
    pub(super) fn batch(&self, generation: Option<u32>) -> Option<Batch> {
        let mut batch = Batch::new(generation);
        batch.add(Order::Delete, &in_sets(&self.removed))?;
        batch.add(Order::Add, &in_sets(&self.added))?;
        Some(batch)
    }
}

/// Writes one order for each set of which it changes anything.
fn elements(text: &mut String, order: Order, pieces: &BTreeSet<Piece>) {
    let verb = match order {
        Order::Add => "add",
        Order::Delete => "delete",
    };
    for (set, elements) in in_sets(pieces) {
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
    use flocker_model::PortNumber;

    use super::super::super::kernel::piece::Way;
    use super::*;

    fn port(number: u16) -> PortNumber {
        PortNumber::new(number).unwrap()
    }

    fn pieces() -> BTreeSet<Piece> {
        [
            Piece::Record {
                port: port(80),
                part: 0,
                text: "site/8080/alpha=10.0.0.1/".into(),
            },
            Piece::End {
                port: port(80),
                to: ([172, 18, 0, 2], 8080).into(),
                way: Way::Here,
            },
            Piece::End {
                port: port(443),
                to: "[fd00::2]:443".parse().unwrap(),
                way: Way::There,
            },
            Piece::Held { port: port(25) },
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
             add element inet flocker there6 { 443 . fd00::2 . 443 }\n"
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
             delete element inet flocker there6 { 443 . fd00::2 . 443 }\n"
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
