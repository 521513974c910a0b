//! The text that `iptables-restore` is given: all of our chains, or what leads from one content of them to another.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use super::super::kernel::piece::Piece;
use super::hooks::Hook;
use super::hooks::Place;
use super::rules::CHAINS;
use super::rules::Family;
use super::rules::Rules;
use super::rules::fixed_rules;
use super::rules::rules_of;

/// How many rules are at most taken out one by one. For each, all rules of its chain are looked through.
const MOST_REMOVED: usize = 16;

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

/// Returns what removes our chains, to which nothing leads any more, and no foreign one that has the name of one.
pub(super) fn removal(foreign: &BTreeSet<(String, String)>) -> String {
    let mut text = String::new();
    for (table, chains) in CHAINS {
        let is_foreign = |chain: &str| foreign.contains(&(table.to_owned(), chain.to_owned()));
        let chains: Vec<&str> = chains
            .iter()
            .copied()
            .filter(|chain| !is_foreign(chain))
            .collect();
        let removed: Vec<String> = chains.iter().map(|chain| format!("-X {chain}")).collect();
        write_table(&mut text, table, &chains, removed.iter());
    }
    text
}

#[cfg(test)]
mod tests {
    use flocker_model::ExternalPort;

    use super::super::super::kernel::piece::Way;
    use super::super::rules::hooks;
    use super::super::rules::read_target;
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
