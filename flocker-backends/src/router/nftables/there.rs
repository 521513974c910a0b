//! What is in our table, from whomever it was read: put together to routes, and compared with what we would have written.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::net::Ipv4Addr;
use std::net::SocketAddr;

use flocker_model::ExternalPort;
use flocker_model::Protocol;

use super::super::kernel::Found;
use super::super::kernel::piece::Piece;
use super::super::kernel::piece::Way;
use super::super::kernel::placed::Placed;
use super::element::Element;
use super::rules;
use crate::links::LINKS;
use crate::links::link_address;

/// The chains with their rules, and the elements of all sets and maps.
#[derive(Debug, Default)]
pub(super) struct There {
    /// What the rules of each chain are called, in order.
    chains: BTreeMap<String, Vec<String>>,
    pieces: BTreeSet<Piece>,
    ends: BTreeSet<(ExternalPort, SocketAddr)>,
    led: BTreeSet<(ExternalPort, SocketAddr, Way)>,
    links: BTreeSet<(Protocol, Ipv4Addr, SocketAddr)>,
    linked: BTreeSet<(Protocol, Ipv4Addr, SocketAddr, Way)>,
    /// Whether there is anything that we would not have put there.
    has_strange: bool,
}

impl There {
    pub(super) fn chain(&mut self, name: String) {
        self.chains.entry(name).or_default();
    }

    /// Takes the next rule of a chain, by its comment.
    pub(super) fn rule(&mut self, chain: String, comment: String) {
        self.chains.entry(chain).or_default().push(comment);
    }

    /// Takes an element of a set; nothing stands for one that we would not have put there.
    pub(super) fn element(&mut self, element: Option<Element<'_>>) {
        match element {
            None => self.has_strange = true,
            Some(Element::Record { port, part, text }) => {
                let text = text.to_owned();
                self.pieces.insert(Piece::Record { port, part, text });
            }
            Some(Element::Held { port }) => drop(self.pieces.insert(Piece::Held { port })),
            Some(Element::Beside { network }) => drop(self.pieces.insert(Piece::Beside { network })),
            Some(Element::End { port, to }) => drop(self.ends.insert((port, to))),
            Some(Element::Led { port, to, way }) => drop(self.led.insert((port, to, way))),
            Some(Element::Link { protocol, link, to }) => drop(self.links.insert((protocol, link, to))),
            Some(Element::Linked {
                protocol,
                link,
                to,
                way,
            }) => drop(self.linked.insert((protocol, link, to, way))),
        }
    }

    /// Returns what that is, on the node with this address.
    pub(super) fn found(mut self, own: IpAddr) -> Found {
        let expected: BTreeMap<String, Vec<String>> = rules::chains(own)
            .into_iter()
            .map(|chain| {
                let names = chain.rules.into_iter().map(|(comment, _)| comment);
                (chain.name.to_owned(), names.collect())
            })
            .collect();
        let foreign = self
            .is_foreign(&expected)
            .then(|| format!("the table `inet {}`", rules::TABLE));
        let is_in_force = std::mem::take(&mut self.chains) == expected;
        let (pieces, are_paired) = self.pieces();
        let (placed, are_whole) = Placed::of(own, &pieces);
        Found {
            placed,
            is_in_force,
            is_whole: are_paired && are_whole,
            foreign,
        }
    }

    /// Says whether there is something, and nothing of it is as we would have made it.
    fn is_foreign(&self, expected: &BTreeMap<String, Vec<String>>) -> bool {
        let Self {
            chains,
            pieces,
            ends,
            led,
            links,
            linked,
            has_strange,
        } = self;
        let has_elements = !pieces.is_empty()
            || !ends.is_empty()
            || !led.is_empty()
            || !links.is_empty()
            || !linked.is_empty();
        let is_ours = |(name, rules): (&String, &Vec<String>)| {
            expected
                .get(name)
                .is_some_and(|expected| rules.iter().any(|rule| expected.contains(rule)))
        };
        // An empty chain of a name of ours is what a flush leaves.
        let holds =
            |(name, rules): (&String, &Vec<String>)| !rules.is_empty() || !expected.contains_key(name);
        (*has_strange || chains.iter().any(holds)) && !has_elements && !chains.iter().any(is_ours)
    }

    /// Returns the pieces of which every element is there, and whether there was nothing else.
    fn pieces(self) -> (BTreeSet<Piece>, bool) {
        let Self {
            chains: _,
            mut pieces,
            ends,
            led,
            links,
            linked,
            has_strange,
        } = self;
        let n_ends = ends.len();
        let n_led = led.len();
        let (mut n_paired, mut n_linked) = (0, 0);
        for (port, to) in ends {
            let ExternalPort { number, protocol } = port;
            let link = link_address(LINKS.0, number);
            for way in Way::ALL {
                if !led.contains(&(port, to, way)) {
                    continue;
                }
                if to.is_ipv4() {
                    if !links.contains(&(protocol, link, to)) || !linked.contains(&(protocol, link, to, way))
                    {
                        continue;
                    }
                    n_linked += 1;
                }
                n_paired += 1;
                pieces.insert(Piece::End { port, to, way });
            }
        }
        let are_paired = n_paired == n_ends && n_paired == n_led;
        let are_linked = n_linked == links.len() && n_linked == linked.len();
        (pieces, !has_strange && are_paired && are_linked)
    }
}
