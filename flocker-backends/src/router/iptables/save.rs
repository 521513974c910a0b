//! Reading what `iptables-save` prints.
//!
//! Only rules in our chains, and those that lead to them, are looked at. One
//! that is not as we write it counts as damage, which the next change repairs.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::net::SocketAddr;

use flocker_model::ExternalPort;

use super::super::kernel::piece::Piece;
use super::super::kernel::piece::Way;
use super::rules;
use super::rules::Family;
use crate::links::LINKS;
use crate::links::link_address;

/// What was found of ours in the tables of one kind of addresses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Saved {
    pub(super) pieces: BTreeSet<Piece>,
    /// Where something leads to our chains: table, chain and name.
    pub(super) hooks: BTreeSet<(String, String, String)>,
    /// The chains that have a name of ours, hold rules, and bear no mark of ours: each with its table.
    pub(super) foreign: BTreeSet<(String, String)>,
    /// Whether there is any chain of ours.
    pub(super) is_there: bool,
    /// Whether Docker's chain for the rules of others is there.
    pub(super) has_docker: bool,
    /// Those rules by name that are there of the ones that stop what comes by wire with a loopback address.
    pub(super) guard: BTreeSet<&'static str>,
    /// Whether every rule of our chains is ours, and all are there that do not depend on routes.
    pub(super) is_whole: bool,
}

/// By what a connection is led: the port of the node, or the address that stands for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Led {
    ByPort,
    ByLink,
}

/// A rule that depends on a route, or does not.
enum Rule {
    Fixed(String),
    Mark(Led, ExternalPort, Way),
    End(Led, ExternalPort, SocketAddr),
    HeldLink(ExternalPort),
    Piece(Piece),
}

/// Reads it.
pub(super) fn read(family: Family, text: &str) -> Saved {
    let mut saved = Saved {
        is_whole: true,
        ..Saved::default()
    };
    let mut names = BTreeSet::new();
    let mut marks = BTreeMap::new();
    let mut ends = BTreeMap::new();
    let mut held_links = BTreeSet::new();
    let mut table = "";
    let (mut there, mut marked, mut unmarked) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    let is_ours = |table: &str, chain: &str| {
        rules::CHAINS
            .iter()
            .any(|(of, chains)| *of == table && chains.contains(&chain))
    };
    for line in text.lines() {
        if let Some(name) = line.strip_prefix('*') {
            table = name;
        } else if let Some(chain) = line.strip_prefix(':') {
            let chain = chain.split(' ').next().unwrap_or_default();
            if is_ours(table, chain) {
                there.insert((table.to_owned(), chain.to_owned()));
            }
            saved.has_docker |= table == "filter" && chain == "DOCKER-USER";
        } else if let Some(rule) = line.strip_prefix("-A ") {
            let words = words(rule);
            let Some((chain, words)) = words.split_first() else {
                continue;
            };
            if !is_ours(table, chain) {
                if let Some(name) = name(words) {
                    let to = option(words, "-j").unwrap_or_default();
                    marked.insert((table.to_owned(), to.to_owned()));
                    saved
                        .hooks
                        .insert((table.to_owned(), chain.clone(), name.to_owned()));
                }
                continue;
            }
            let of = if name(words).is_some() {
                &mut marked
            } else {
                &mut unmarked
            };
            of.insert((table.to_owned(), chain.clone()));
            match read_rule(words) {
                Some(Rule::Fixed(name)) => drop(names.insert(name)),
                Some(Rule::Mark(led, port, way)) => {
                    saved.is_whole &= marks.insert((led, port), way).is_none();
                }
                Some(Rule::End(led, port, to)) => saved.is_whole &= ends.insert((led, port), to).is_none(),
                Some(Rule::HeldLink(port)) => saved.is_whole &= held_links.insert(port),
                Some(Rule::Piece(piece)) => saved.is_whole &= saved.pieces.insert(piece),
                None => saved.is_whole = false,
            }
        }
    }
    saved.foreign = unmarked.difference(&marked).cloned().collect();
    saved.is_there = there.difference(&saved.foreign).next().is_some();
    saved.guard = rules::GUARD
        .into_iter()
        .filter(|name| names.contains(*name))
        .collect();
    saved.is_whole &= names == rules::fixed_names(family) && marks.keys().eq(ends.keys());
    let mut n_linked = 0;
    let of = |led| ends.iter().filter(move |((by, _), _)| *by == led);
    for ((_, port), to) in of(Led::ByPort) {
        let Some(&way) = marks.get(&(Led::ByPort, *port)) else {
            continue;
        };
        if to.is_ipv4() {
            // Both ways in have to lead to the same place.
            let link = (Led::ByLink, *port);
            if ends.get(&link) != Some(to) || marks.get(&link) != Some(&way) {
                saved.is_whole = false;
                continue;
            }
            n_linked += 1;
        }
        let (port, to) = (*port, *to);
        saved.pieces.insert(Piece::End { port, to, way });
    }
    saved.is_whole &= n_linked == of(Led::ByLink).count();
    let held = saved.pieces.iter().filter_map(Piece::held);
    saved.is_whole &= family == Family::V6 || held.eq(held_links);
    saved
}

/// Returns the words of a rule. Blanks within double quotes belong to a word; a backslash takes the next sign as it is.
fn words(rule: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word = String::new();
    let mut has_word = false;
    let mut is_quoted = false;
    let mut signs = rule.chars();
    while let Some(sign) = signs.next() {
        match sign {
            '"' => {
                is_quoted = !is_quoted;
                has_word = true;
            }
            '\\' => {
                word.extend(signs.next());
                has_word = true;
            }
            ' ' if !is_quoted => {
                if std::mem::take(&mut has_word) {
                    words.push(std::mem::take(&mut word));
                }
            }
            other => {
                word.push(other);
                has_word = true;
            }
        }
    }
    if has_word {
        words.push(word);
    }
    words
}

fn option<'a>(words: &'a [String], name: &str) -> Option<&'a str> {
    let at = words.iter().position(|word| word == name)?;
    words.get(at + 1).map(String::as_str)
}

/// Returns the name in our mark.
fn name(words: &[String]) -> Option<&str> {
    option(words, "--comment")?.strip_prefix(rules::OURS)
}

fn read_rule(words: &[String]) -> Option<Rule> {
    let name = name(words)?;
    let target = option(words, "-j");
    let port = |text: &str| text.parse::<ExternalPort>().ok();
    // What the mark says has to be what the rule does.
    let spoken = |port: &ExternalPort| option(words, "-p") == Some(port.protocol.as_str());
    let same = |text: &str| {
        let number = port(text)?.number.to_string();
        port(text).filter(|port| option(words, "--dport") == Some(&number) && spoken(port))
    };
    let linked = |text: &str| {
        let link = format!("{}/32", link_address(LINKS.0, port(text)?.number));
        port(text).filter(|port| option(words, "-d") == Some(&link) && spoken(port))
    };
    match name.split_once(':') {
        None => Some(Rule::Fixed(name.to_owned())),
        Some(("mark", of)) if target == Some("CONNMARK") => {
            let way = rules::read_mark(option(words, "--set-xmark")?)?;
            Some(Rule::Mark(Led::ByPort, same(of)?, way))
        }
        Some(("link-mark", of)) if target == Some("CONNMARK") => {
            let way = rules::read_mark(option(words, "--set-xmark")?)?;
            Some(Rule::Mark(Led::ByLink, linked(of)?, way))
        }
        Some(("link-end", of)) if target == Some("DNAT") => {
            let to = rules::read_target(option(words, "--to-destination")?)?;
            Some(Rule::End(Led::ByLink, linked(of)?, to))
        }
        Some(("end", of)) if target == Some("DNAT") => {
            let to = rules::read_target(option(words, "--to-destination")?)?;
            Some(Rule::End(Led::ByPort, same(of)?, to))
        }
        Some(("held", of)) if target == Some("DROP") => Some(Rule::Piece(Piece::Held { port: same(of)? })),
        Some(("link-held", of)) if target == Some("DROP") => Some(Rule::HeldLink(linked(of)?)),
        Some(("beside", network)) if target == Some("MASQUERADE") => {
            let network = network.parse().ok()?;
            let is_same = option(words, "-s")?.parse() == Ok(network);
            is_same.then_some(Rule::Piece(Piece::Beside { network }))
        }
        Some(("record", rest)) if target.is_none() => {
            let mut fields = rest.splitn(3, ':');
            Some(Rule::Piece(Piece::Record {
                port: port(fields.next()?)?,
                part: fields.next()?.parse().ok()?,
                text: fields.next()?.to_owned(),
            }))
        }
        Some(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::text;
    use super::*;

    const NFT: &str = include_str!("../../../tests/data/iptables-1.8.9/nft.save");
    const LEGACY: &str = include_str!("../../../tests/data/iptables-1.8.9/legacy.save");

    #[test]
    fn what_both_variants_print_is_read_alike() {
        let read_nft = read(Family::V4, NFT);
        assert!(read_nft.is_whole && read_nft.is_there && read_nft.has_docker);
        assert_eq!(read_nft, read(Family::V4, LEGACY));
        let n_hooks = rules::hooks(Family::V4).len() + 1;
        assert_eq!(read_nft.hooks.len(), n_hooks, "{:?}", read_nft.hooks);
        let ends = read_nft
            .pieces
            .iter()
            .filter(|piece| matches!(piece, Piece::End { .. }));
        assert_eq!(ends.count(), 4, "{:?}", read_nft.pieces);
    }

    #[test]
    fn what_is_written_is_read() {
        let saved = read(Family::V4, NFT);
        let text = text::whole(Family::V4, &BTreeSet::new(), &saved.pieces, &[]);
        assert_eq!(read(Family::V4, &text).pieces, saved.pieces);
    }

    #[test]
    fn a_rule_that_lacks_or_differs_is_damage() {
        let is_ours = |line: &&str| line.starts_with("-A FLOCKER");
        for line in NFT.lines().filter(is_ours) {
            let without = NFT.replace(&format!("{line}\n"), "");
            let saved = read(Family::V4, &without);
            let intact = read(Family::V4, NFT);
            assert!(!saved.is_whole || saved.pieces != intact.pieces, "{line}");
        }
        let foreign = NFT.replace(
            "-A FLOCKER-ENTER ",
            "-A FLOCKER-ENTER -s 10.0.0.9 -j RETURN\n-A FLOCKER-ENTER ",
        );
        assert!(!read(Family::V4, &foreign).is_whole);
    }

    #[test]
    fn a_chain_of_somebody_else_is_told_from_one_that_is_damaged() {
        let foreign = |rules: &str| {
            read(
                Family::V4,
                &format!("*raw\n:FLOCKER-HOLD - [0:0]\n{rules}COMMIT\n"),
            )
        };
        let stranger = "-A FLOCKER-HOLD -s 192.0.2.1/32 -j DROP\n";
        let hook = "-A PREROUTING -m comment --comment flocker:hold -j FLOCKER-HOLD\n";
        let theirs = foreign(&format!("-A PREROUTING -j FLOCKER-HOLD\n{stranger}"));
        let called = ("raw".to_owned(), "FLOCKER-HOLD".to_owned());
        assert_eq!(theirs.foreign, [called].into());
        assert!(!theirs.is_there);
        for ours in [String::new(), hook.to_owned(), format!("{hook}{stranger}")] {
            let saved = foreign(&ours);
            assert!(saved.foreign.is_empty() && saved.is_there, "{ours}");
        }
        assert!(read(Family::V4, NFT).foreign.is_empty());
    }

    #[test]
    fn words_are_read_as_they_are_quoted() {
        assert_eq!(
            words(r#"FORWARD -m comment --comment "a \"b\"  c" -j ACCEPT"#),
            [
                "FORWARD",
                "-m",
                "comment",
                "--comment",
                "a \"b\"  c",
                "-j",
                "ACCEPT"
            ]
        );
        assert_eq!(words(r#"--comment "" x"#), ["--comment", "", "x"]);
    }

    proptest! {
        #[test]
        fn anything_can_be_read(text in "(\\*(nat|raw)\n|:FLOCKER-ENTER -\n|-A FLOCKER-(ENTER|HOLD|LEAVE|RECORDS) [ -~]{0,60}\n|[ -~]{0,20}\n){0,12}") {
            read(Family::V4, &text);
        }
    }
}
