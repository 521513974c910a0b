//! Reading our table by messages from the kernel, as `nft` would.
//!
//! It is not one instant that is read: whoever reads compares the number of the packet filter's last change before and
//! after. As in a listing, what is not exactly as we write it counts as damage.

use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;

use nix::errno::Errno;

use super::super::kernel::Found;
use super::super::kernel::neighbours::Network;
use super::super::kernel::netlink::GET_CHAIN;
use super::super::kernel::netlink::GET_TABLE;
use super::super::kernel::netlink::Kept;
use super::super::kernel::netlink::named;
use super::super::kernel::netlink::number;
use super::batch::COMMENT;
use super::batch::DATA;
use super::batch::ELEMENT;
use super::batch::ELEMENT_FLAGS;
use super::batch::INET;
use super::batch::KEY;
use super::batch::LIST_ELEMENTS;
use super::batch::LIST_SET;
use super::batch::LIST_TABLE;
use super::batch::NF_TABLES;
use super::batch::NOTES;
use super::batch::RANGE_END;
use super::batch::VALUE;
use super::element::Element;
use super::element::read_address;
use super::rules::SHARED_SETS;
use super::rules::TABLE;
use super::there::There;
use crate::netlink::Ask;
use crate::netlink::Netlink;
use crate::netlink::attributes;

const GET_RULE: u16 = NF_TABLES << 8 | 0x07;
const GET_SET: u16 = NF_TABLES << 8 | 0x0a;
const GET_ELEMENTS: u16 = NF_TABLES << 8 | 0x0d;

/// The name of a table, and, of anything that is in one, the name of that table.
const OF_TABLE: u16 = 1;
const CHAIN_NAME: u16 = 3;
const RULE_CHAIN: u16 = 2;
const RULE_NOTES: u16 = 7;
const SET_NAME: u16 = 2;
const SET_FLAGS: u16 = 3;
/// A set that is part of a rule.
const ANONYMOUS: u32 = 1;

fn get(bytes: &[u8], kind: u16) -> Option<&[u8]> {
    let mut found = attributes(bytes).filter(|(other, _)| *other == kind);
    found.next().map(|(_, value)| value)
}

/// Reads a name, which ends with a zero.
fn name(bytes: &[u8], kind: u16) -> Option<&str> {
    str::from_utf8(get(bytes, kind)?.strip_suffix(b"\0")?).ok()
}

/// Says whether our table is there.
pub(super) fn has_our_table(netlink: &mut Netlink) -> io::Result<bool> {
    netlink.has(GET_TABLE, INET, &[(OF_TABLE, TABLE)])
}

/// Says whether that is how a kernel answers that knows no such packet filter, and so has none of its tables.
pub(super) fn is_unknown(error: &io::Error) -> bool {
    let unknown = [
        Errno::EINVAL,
        Errno::EOPNOTSUPP,
        Errno::EPROTONOSUPPORT,
        Errno::EAFNOSUPPORT,
    ];
    error
        .raw_os_error()
        .is_some_and(|raw| unknown.contains(&Errno::from_raw(raw)))
}

/// Reads our table. Blocks.
pub(super) fn read(own: IpAddr, netlink: &Kept) -> io::Result<Found> {
    netlink.with(|netlink| {
        // Before the first change there is no table, and looking does not make one.
        if !has_our_table(netlink)? {
            return Ok(Found::default());
        }
        let mut there = There::default();
        of_table(netlink, GET_CHAIN, |answer| {
            if let Some(name) = name(answer, CHAIN_NAME) {
                there.chain(name.to_owned());
            }
        })?;
        of_table(netlink, GET_RULE, |answer| {
            let comment = get(answer, RULE_NOTES).and_then(comment).unwrap_or_default();
            there.rule(
                name(answer, RULE_CHAIN).unwrap_or_default().to_owned(),
                comment.to_owned(),
            );
        })?;
        let mut sets = Vec::new();
        of_table(netlink, GET_SET, |answer| {
            let is_anonymous = number(answer, SET_FLAGS).is_some_and(|flags| flags & ANONYMOUS != 0);
            if !is_anonymous {
                sets.extend(name(answer, SET_NAME).map(str::to_owned));
            }
        })?;
        for set in &sets {
            read_set(netlink, set, &mut there)?;
        }
        Ok(there.found(own))
    })
}

/// Asks for everything of a kind that is in our table.
fn of_table(netlink: &mut Netlink, kind: u16, mut answer: impl FnMut(&[u8])) -> io::Result<()> {
    let asked = named(&[(OF_TABLE, TABLE)]);
    netlink.ask(kind, Ask::All, INET, &asked, |_, attributes| {
        // Not every kind of thing is left out by the kernel that is of another table.
        if name(attributes, OF_TABLE) == Some(TABLE) {
            answer(attributes);
        }
    })
}

fn read_set(netlink: &mut Netlink, set: &str, there: &mut There) -> io::Result<()> {
    let asked = named(&[(LIST_TABLE, TABLE), (LIST_SET, set)]);
    let is_of_ranges = SHARED_SETS.iter().any(|(name, _)| *name == set);
    let mut bounds = BTreeSet::new();
    netlink.ask(GET_ELEMENTS, Ask::All, INET, &asked, |_, answer| {
        let elements = attributes(get(answer, LIST_ELEMENTS).unwrap_or_default());
        for (_, element) in elements.filter(|(kind, _)| *kind == ELEMENT) {
            if is_of_ranges {
                bounds.insert(bound(element));
            } else {
                let value = |kind| get(element, kind).and_then(|value| get(value, VALUE));
                let key = value(KEY).unwrap_or_default();
                let comment = get(element, NOTES).and_then(comment);
                there.element(Element::read(set, key, value(DATA).unwrap_or_default(), comment));
            }
        }
    })?;
    for network in networks(&bounds) {
        there.element(network.map(|network| Element::Beside { network }));
    }
    Ok(())
}

/// Reads the note that is shown as a comment.
fn comment(mut notes: &[u8]) -> Option<&str> {
    loop {
        let (&kind, rest) = notes.split_first()?;
        let (&length, rest) = rest.split_first()?;
        let (value, rest) = rest.split_at_checked(length.into())?;
        if kind == COMMENT {
            return str::from_utf8(value.strip_suffix(b"\0")?).ok();
        }
        notes = rest;
    }
}

/// Reads an element of a set of ranges: a bound, and whether something begins there.
///
/// Where one range ends and another begins, the end comes first.
fn bound(element: &[u8]) -> (Vec<u8>, bool) {
    let key = get(element, KEY).and_then(|value| get(value, VALUE));
    let is_end = number(element, ELEMENT_FLAGS).is_some_and(|flags| flags & RANGE_END != 0);
    (key.unwrap_or_default().to_vec(), !is_end)
}

/// Puts the bounds of ranges together: each with whether something begins there. Nothing stands for a range that is no network.
fn networks(bounds: &BTreeSet<(Vec<u8>, bool)>) -> Vec<Option<Network>> {
    let mut networks = Vec::new();
    let mut bounds = bounds.iter().peekable();
    while let Some((first, begins)) = bounds.next() {
        if *begins {
            let next = bounds.peek().map(|(next, _)| next.as_slice());
            networks.push(network(first, next));
        }
    }
    networks
}

/// Returns the network that begins here and ends before the next bound, or where all addresses end.
fn network(first: &[u8], next: Option<&[u8]>) -> Option<Network> {
    let address = read_address(first)?;
    let width = u8::try_from(first.len() * 8).ok()?;
    let as_number = |bytes: &[u8]| {
        bytes
            .iter()
            .fold(0, |number: u128, byte| number << 8 | u128::from(*byte))
    };
    let begin = as_number(first);
    let last = match next {
        Some(next) => as_number(next).checked_sub(1)?,
        None => u128::MAX >> (128 - u32::from(width)),
    };
    let differing = 128 - (begin ^ last).leading_zeros();
    let network = Network::new(address, width.checked_sub(u8::try_from(differing).ok()?)?)?;
    let is_all_of_it = begin | (u128::MAX.checked_shr(128 - differing).unwrap_or(0)) == last;
    (network.first() == address && is_all_of_it).then_some(network)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::super::kernel::piece::Piece;
    use super::super::super::kernel::piece::Way;
    use super::super::batch::Batch;
    use super::super::batch::Order;
    use super::super::element::in_sets;
    use super::*;
    use crate::netlink::messages;

    fn bound_at(text: &str, begins: bool) -> (Vec<u8>, bool) {
        let bytes = match text.parse().unwrap() {
            IpAddr::V4(address) => address.octets().to_vec(),
            IpAddr::V6(address) => address.octets().to_vec(),
        };
        (bytes, begins)
    }

    fn read(bounds: &[(&str, bool)]) -> Vec<Option<String>> {
        let bounds = bounds
            .iter()
            .map(|(text, begins)| bound_at(text, *begins))
            .collect();
        let read = networks(&bounds).into_iter();
        read.map(|network| network.map(|network| network.to_string()))
            .collect()
    }

    fn some(networks: &[&str]) -> Vec<Option<String>> {
        networks
            .iter()
            .map(|network| Some((*network).to_owned()))
            .collect()
    }

    #[test]
    fn ranges_are_read_as_networks() {
        // As `nft` 1.0.6 was seen to write 0.0.0.0, 10.0.0.0/24, 10.0.1.0/24, 172.18.0.0/16 and 255.0.0.0/8.
        let four = [
            ("0.0.0.0", true),
            ("0.0.0.1", false),
            ("10.0.0.0", true),
            ("10.0.1.0", false),
            ("10.0.1.0", true),
            ("10.0.2.0", false),
            ("172.18.0.0", true),
            ("172.19.0.0", false),
            ("255.0.0.0", true),
        ];
        let expected = [
            "0.0.0.0/32",
            "10.0.0.0/24",
            "10.0.1.0/24",
            "172.18.0.0/16",
            "255.0.0.0/8",
        ];
        assert_eq!(read(&four), some(&expected));
        let six = [("::", false), ("fd00::", true), ("fd00:0:0:1::", false)];
        assert_eq!(read(&six), some(&["fd00::/64"]));
        assert_eq!(read(&[("::", true)]), some(&["::/0"]));
        assert_eq!(read(&[("0.0.0.0", true)]), some(&["0.0.0.0/0"]));
        // What nobody of us would have put there.
        assert_eq!(read(&[("10.0.0.0", true), ("10.0.0.3", false)]), [None]);
        assert_eq!(read(&[("10.0.0.1", true), ("10.0.0.3", false)]), [None]);
    }

    #[test]
    fn the_comment_is_found_among_notes() {
        assert_eq!(comment(b"\x01\x02ab\x00\x03xy\0"), Some("xy"));
        for notes in [&b""[..], b"\0", b"\0\x04xy\0", b"\x01\x01a", b"\0\x02xy"] {
            assert_eq!(comment(notes), None, "{notes:?}");
        }
    }

    fn any_piece() -> impl Strategy<Value = Piece> {
        let address = prop_oneof![
            any::<[u8; 4]>().prop_map(IpAddr::from),
            any::<[u8; 16]>().prop_map(IpAddr::from)
        ];
        let port = (1..=u16::MAX, any::<bool>()).prop_map(|(number, is_udp)| {
            let udp = if is_udp { "/udp" } else { "" };
            format!("{number}{udp}").parse().unwrap()
        });
        (port, address, 1..=u16::MAX, 0..4).prop_map(|(port, address, at, kind)| {
            let to = (address, at).into();
            match kind {
                0 => Piece::Held { port },
                1 => Piece::Record {
                    port,
                    part: at,
                    text: format!("site/{at}//"),
                },
                2 => Piece::End {
                    port,
                    to,
                    way: Way::Here,
                },
                _ => Piece::End {
                    port,
                    to,
                    way: Way::There,
                },
            }
        })
    }

    fn any_network() -> impl Strategy<Value = Network> {
        let four =
            (any::<[u8; 4]>(), 0..=32_u8).prop_map(|(address, length)| (IpAddr::from(address), length));
        let six =
            (any::<[u8; 16]>(), 0..=128_u8).prop_map(|(address, length)| (IpAddr::from(address), length));
        prop_oneof![four, six].prop_map(|(address, length)| Network::new(address, length).unwrap())
    }

    proptest! {
        #[test]
        fn networks_that_are_written_are_read(many in prop::collection::btree_set(any_network(), 0..8)) {
            // With each, the address that comes after it.
            let next = |network: &Network| network.after_last()?.to_string().parse().ok();
            let mut apart: BTreeSet<Network> = BTreeSet::new();
            for network in many.iter().copied().chain(many.iter().filter_map(next)) {
                let is_apart = |other: &Network| !other.contains(network.first()) && !network.contains(other.first());
                if apart.iter().all(is_apart) {
                    apart.insert(network);
                }
            }
            let pieces = apart.iter().map(|network| Piece::Beside { network: *network }).collect();
            let mut batch = Batch::new(None);
            batch.add(Order::Add, &in_sets(&pieces));
            let mut read = Vec::new();
            for message in messages(batch.bytes()).filter(|message| message.number > 1) {
                let elements = attributes(get(&message.body[4..], LIST_ELEMENTS).unwrap());
                read.extend(networks(&elements.map(|(_, element)| bound(element)).collect()));
            }
            let read: Option<BTreeSet<Network>> = read.into_iter().collect();
            prop_assert_eq!(read, Some(apart));
        }

        #[test]
        fn what_is_written_is_read(pieces in prop::collection::btree_set(any_piece(), 0..8), flip in any::<Option<(prop::sample::Index, u8)>>()) {
            let sets = in_sets(&pieces);
            let mut batch = Batch::new(None);
            batch.add(Order::Add, &sets);
            let mut bytes = batch.bytes().to_vec();
            if let Some((at, with)) = flip {
                let at = at.index(bytes.len());
                bytes[at] = with;
            }
            let mut read = Vec::new();
            for message in messages(&bytes).filter(|message| message.number > 1 || flip.is_some()) {
                let body = message.body.get(4..).unwrap_or_default();
                let set = name(body, LIST_SET).unwrap_or_default();
                for (_, element) in attributes(get(body, LIST_ELEMENTS).unwrap_or_default()) {
                    let value = |kind| get(element, kind).and_then(|value| get(value, VALUE)).unwrap_or_default();
                    let comment = get(element, NOTES).and_then(comment);
                    read.push(format!("{:?}", Element::read(set, value(KEY), value(DATA), comment)));
                }
            }
            // What was changed on its way is read as something else, or as nothing.
            if flip.is_none() {
                let written = sets.values().flatten().map(|element| format!("{:?}", Some(element)));
                prop_assert_eq!(read, written.collect::<Vec<_>>());
            }
        }
    }
}
