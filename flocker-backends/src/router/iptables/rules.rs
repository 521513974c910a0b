//! The text that `iptables-restore` is given. It follows from the routes alone.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::fmt::Write as _;
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

/// Set for connections that go another way than to an application of this node.
const THERE_MARK: u32 = PASS_MARK << 1;
const MARK_BITS: u32 = PASS_MARK | THERE_MARK;

/// How many rules are at most taken out one by one. For each, all rules of its chain are looked through.
const MOST_REMOVED: usize = 16;

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
type Rules = BTreeMap<&'static str, Vec<String>>;

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
fn fixed_rules(family: Family) -> Rules {
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
        raw.push(fixed("FLOCKER-GUARD", "to-loopback", "-d 127.0.0.0/8", "DROP"));
        raw.push(fixed("FLOCKER-GUARD", "from-loopback", "-s 127.0.0.0/8", "DROP"));
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
            "guard",
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

fn rules_of(family: Family, piece: &Piece) -> Vec<(&'static str, String)> {
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

/// Returns the whole content of our chains, and what leads to them where that is missing.
///
/// Each table changes in one step, but not all in the same. So what is held
/// before or after is held from the first step to the last: there is no
/// instant in which a client would be refused.
pub(super) fn whole(
    family: Family,
    found: &BTreeSet<Piece>,
    wanted: &BTreeSet<Piece>,
    missing: &[Hook],
) -> String {
    let mut rules = fixed_rules(family);
    for (table, rule) in wanted.iter().flat_map(|piece| rules_of(family, piece)) {
        rules.entry(table).or_default().push(rule);
    }
    let is_held = |piece: &&Piece| matches!(piece, Piece::Held { .. });
    let mut released = Rules::new();
    for (table, rule) in found
        .difference(wanted)
        .filter(is_held)
        .flat_map(|piece| rules_of(family, piece))
    {
        released.entry(table).or_default().push(rule);
    }
    let mut text = String::new();
    for (table, chains) in CHAINS {
        let hooks: Vec<String> = missing
            .iter()
            .filter(|hook| hook.table == table)
            .map(hooked)
            .collect();
        let rules = rules.get(table).into_iter().chain(released.get(table)).flatten();
        write_table(&mut text, table, chains, rules.chain(&hooks));
    }
    for (table, chains) in CHAINS {
        if released.contains_key(table) {
            write_table(&mut text, table, chains, rules.get(table).into_iter().flatten());
        }
    }
    text
}

/// Returns what adds a rule to somebody else's chain.
fn hooked(hook: &Hook) -> String {
    let Hook {
        table: _,
        chain,
        place,
        rule,
    } = hook;
    match place {
        Place::First => format!("-I {chain} 1 {rule}"),
        Place::Last => format!("-A {chain} {rule}"),
    }
}

/// Returns what leads from one content of our chains to another; nothing where it takes less to write them anew.
///
/// As in [`whole`], what is held before or after is held from the first step to the last.
pub(super) fn difference(
    family: Family,
    found: &BTreeSet<Piece>,
    wanted: &BTreeSet<Piece>,
) -> Option<String> {
    let mut steps = [Rules::new(), Rules::new()];
    let mut n_removed = 0;
    for piece in found.difference(wanted) {
        let step = match piece {
            Piece::Held { .. } => 1,
            Piece::Record { .. } | Piece::End { .. } | Piece::Beside { .. } => 0,
        };
        for (table, rule) in rules_of(family, piece) {
            n_removed += 1;
            let removal = format!("-D{}", rule.strip_prefix("-A")?);
            steps.get_mut(step)?.entry(table).or_default().push(removal);
        }
    }
    if n_removed > MOST_REMOVED {
        return None;
    }
    for (table, rule) in wanted.difference(found).flat_map(|piece| rules_of(family, piece)) {
        steps.first_mut()?.entry(table).or_default().push(rule);
    }
    let mut text = String::new();
    for step in &steps {
        for (table, _) in CHAINS {
            if let Some(rules) = step.get(table) {
                write_table(&mut text, table, &[], rules.iter());
            }
        }
    }
    Some(text)
}

/// Returns how many changes of the packet filter a text makes.
pub(super) fn n_changes(text: &str) -> Option<u32> {
    u32::try_from(text.lines().filter(|line| *line == "COMMIT").count()).ok()
}

fn write_table<'r>(text: &mut String, table: &str, chains: &[&str], rules: impl Iterator<Item = &'r String>) {
    writeln!(text, "*{table}").unwrap_or_default();
    for chain in chains {
        // Said again, a chain is emptied.
        writeln!(text, ":{chain} - [0:0]").unwrap_or_default();
    }
    for rule in rules {
        writeln!(text, "{rule}").unwrap_or_default();
    }
    text.push_str("COMMIT\n");
}

/// Returns what removes our chains, to which nothing leads any more.
pub(super) fn removal() -> String {
    let mut text = String::new();
    for (table, chains) in CHAINS {
        writeln!(text, "*{table}").unwrap_or_default();
        for chain in chains {
            writeln!(text, ":{chain} - [0:0]").unwrap_or_default();
        }
        for chain in chains {
            writeln!(text, "-X {chain}").unwrap_or_default();
        }
        text.push_str("COMMIT\n");
    }
    text
}

/// Reads a target as `iptables-save` prints it.
pub(super) fn read_target(text: &str) -> Option<SocketAddr> {
    text.parse().ok()
}

#[cfg(test)]
mod tests {
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
                to: ([10, 0, 0, 2], 443).into(),
                way: Way::There,
            },
            Piece::Held { port: port("25") },
            Piece::Held { port: port("25/udp") },
            Piece::End {
                port: port("443/udp"),
                to: ([172, 18, 0, 3], 443).into(),
                way: Way::Here,
            },
            Piece::Beside {
                network: "172.18.0.0/16".parse().unwrap(),
            },
        ]
        .into()
    }

    #[test]
    fn all_chains_are_written_as_a_whole() {
        let text = whole(Family::V4, &pieces(), &pieces(), &[]);
        assert_eq!(text, include_str!("../../../tests/data/iptables/whole.rules"));
    }

    #[test]
    fn a_port_that_gets_a_home_is_held_until_it_has_one() {
        let found = [Piece::Held { port: port("25") }].into();
        let end = Piece::End {
            port: port("25"),
            to: ([10, 0, 0, 2], 25).into(),
            way: Way::There,
        };
        let text = whole(Family::V4, &found, &[end].into(), &[]);
        let at = |what: &str| text.find(what).unwrap();
        assert!(at("held:25") < at("end:25"));
        let last = text.rfind("*raw").unwrap();
        assert!(at("end:25") < last && !text[last..].contains("held:25"));
    }

    #[test]
    fn a_difference_leads_to_what_would_be_written_as_a_whole() {
        let all = pieces();
        let lines = |text: &str| -> BTreeSet<String> { text.lines().map(str::to_owned).collect() };
        for gone in &all {
            let less: BTreeSet<Piece> = all.iter().filter(|piece| *piece != gone).cloned().collect();
            for (found, wanted) in [(&all, &less), (&less, &all)] {
                let text = difference(Family::V4, found, wanted).unwrap();
                let mut there = lines(&whole(Family::V4, found, found, &[]));
                for line in text.lines() {
                    if let Some(rule) = line.strip_prefix("-D") {
                        assert!(there.remove(&format!("-A{rule}")), "{line}");
                    } else if line.starts_with("-A") {
                        assert!(there.insert(line.to_owned()), "{line}");
                    }
                }
                assert_eq!(there, lines(&whole(Family::V4, wanted, wanted, &[])));
                // No chain is emptied.
                assert!(!text.lines().any(|line| line.starts_with(':')), "{text}");
            }
        }
    }

    #[test]
    fn a_port_that_gets_or_loses_its_home_is_held_in_between() {
        let held = BTreeSet::from([Piece::Held { port: port("25") }]);
        let end = BTreeSet::from([Piece::End {
            port: port("25"),
            to: ([10, 0, 0, 2], 25).into(),
            way: Way::There,
        }]);
        let begun = difference(Family::V4, &held, &end).unwrap();
        let at = |text: &str, what: &str| text.find(what).unwrap();
        assert!(at(&begun, ":end:25 ") < at(&begun, "-D FLOCKER-HOLD "));
        let ended = difference(Family::V4, &end, &held).unwrap();
        assert!(at(&ended, "-A FLOCKER-HOLD ") < at(&ended, "-D FLOCKER-ENTER "));
        assert_eq!(n_changes(&ended), Some(2));
    }

    #[test]
    fn what_takes_out_too_much_is_written_anew() {
        let held = (1..=40).map(|number| Piece::Held {
            port: port(&number.to_string()),
        });
        let many: BTreeSet<Piece> = held.collect();
        assert_eq!(difference(Family::V4, &many, &BTreeSet::new()), None);
        assert!(difference(Family::V4, &BTreeSet::new(), &many).is_some());
    }

    #[test]
    fn what_leads_to_our_chains_comes_after_them_and_where_it_belongs() {
        let hooks: Vec<Hook> = hooks(Family::V4).into_iter().map(|(_, hook)| hook).collect();
        let text = whole(Family::V4, &BTreeSet::new(), &BTreeSet::new(), &hooks);
        for (table, chains) in CHAINS {
            let begin = text.find(&format!("*{table}\n")).unwrap();
            let part = &text[begin..begin + text[begin..].find("COMMIT").unwrap()];
            for hook in hooks.iter().filter(|hook| hook.table == table) {
                let line = match hook.place {
                    Place::First => format!("-I {} 1 {}\n", hook.chain, hook.rule),
                    Place::Last => format!("-A {} {}\n", hook.chain, hook.rule),
                };
                let at = part.find(&line).unwrap();
                assert!(
                    chains
                        .iter()
                        .all(|chain| part.find(&format!(":{chain} ")).unwrap() < at)
                );
            }
        }
    }

    #[test]
    fn newer_addresses_are_written_in_brackets() {
        let to = "[fd00::2]:80".parse().unwrap();
        let end = Piece::End {
            port: port("80"),
            to,
            way: Way::There,
        };
        let text = whole(Family::V6, &BTreeSet::new(), &[end].into(), &[]);
        assert!(text.contains("--to-destination [fd00::2]:80\n"), "{text}");
        assert!(!text.contains("127.0.0.0"), "{text}");
        assert_eq!(read_target("[fd00::2]:80"), Some(to));
    }
}
