//! Elements put into maps and sets, and taken out, by one message to the kernel.
//!
//! `nft` would do the same. But it is a program to be started, it reads text,
//! and before it does anything it asks for all that is there. Tables, chains
//! and rules are made by it all the same; only what changes often and is much is
//! written here: a batch of `nf_tables` messages, of which the kernel carries out
//! all or none.

use std::io;

use super::super::kernel::netlink::Kept;
use super::element::Element;
use super::element::Sets;
use super::element::write_address;
use super::element::write_socket;
use super::rules::TABLE;
use super::rules::name;

/// Kinds of messages.
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
/// The attribute of a beginning.
const BATCH_GENERATION: u16 = 1;
/// The number of `nf_tables` among the parts of the packet filter.
pub(super) const NF_TABLES: u16 = 10;
const NEW_ELEMENTS: u16 = NF_TABLES << 8 | 0x0c;
const DELETE_ELEMENTS: u16 = NF_TABLES << 8 | 0x0e;

const REQUEST: u16 = 0x1;
const ACKNOWLEDGE: u16 = 0x4;
const CREATE: u16 = 0x400;

/// The kind of tables that are for both kinds of addresses.
pub(super) const INET: u8 = 1;

/// Attributes of a list of elements.
pub(super) const LIST_TABLE: u16 = 1;
pub(super) const LIST_SET: u16 = 2;
pub(super) const LIST_ELEMENTS: u16 = 3;
/// Attributes of an element, and the one attribute of a value.
pub(super) const ELEMENT: u16 = 1;
pub(super) const KEY: u16 = 1;
pub(super) const DATA: u16 = 2;
pub(super) const ELEMENT_FLAGS: u16 = 3;
pub(super) const NOTES: u16 = 6;
pub(super) const VALUE: u16 = 1;
/// The kind of note that `nft` shows as a comment. It ends with a zero.
pub(super) const COMMENT: u8 = 0;
/// The flag of an element that ends a range: what begins there belongs to none.
pub(super) const RANGE_END: u32 = 1;

const NESTED: u16 = 0x8000;

/// How long a list may become before another begins: its length has sixteen bits, and one more element has to fit.
const MOST_LIST: usize = 60 << 10;

/// What is to be done with elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Order {
    Add,
    Delete,
}

/// Changes of sets of our table, all or none of which are made.
#[derive(Debug)]
pub(super) struct Batch {
    bytes: Vec<u8>,
    /// The number of the last message.
    number: u32,
    /// Where the last message begins.
    last: usize,
}

impl Batch {
    /// Begins one, which the kernel refuses where this is no longer the number of the packet filter's last change.
    ///
    /// So what was dropped before it came to the kernel is not carried out behind the back of what came after it.
    pub(super) fn new(generation: Option<u32>) -> Self {
        let mut batch = Self {
            bytes: Vec::new(),
            number: 0,
            last: 0,
        };
        batch.begin(BATCH_BEGIN, 0, 0, NF_TABLES);
        if let Some(generation) = generation {
            let at = open(&mut batch.bytes, BATCH_GENERATION);
            batch.bytes.extend(generation.to_be_bytes());
            close(&mut batch.bytes, at);
        }
        batch.end();
        batch
    }

    /// Adds an order for each of these sets.
    pub(super) fn add(&mut self, order: Order, sets: &Sets<'_>) {
        for ((protocol, called), elements) in sets {
            let set = name(*protocol, called);
            let mut elements = elements.iter().peekable();
            while elements.peek().is_some() {
                match order {
                    Order::Add => self.begin(NEW_ELEMENTS, CREATE, INET, 0),
                    Order::Delete => self.begin(DELETE_ELEMENTS, 0, INET, 0),
                }
                for (kind, name) in [(LIST_TABLE, TABLE), (LIST_SET, set.as_str())] {
                    let at = open(&mut self.bytes, kind);
                    self.bytes.extend(name.bytes().chain([0]));
                    close(&mut self.bytes, at);
                }
                let list = open(&mut self.bytes, LIST_ELEMENTS | NESTED);
                while self.bytes.len() - list < MOST_LIST
                    && let Some(element) = elements.next()
                {
                    write(&mut self.bytes, order, element);
                }
                close(&mut self.bytes, list);
                self.end();
            }
        }
    }

    /// Carries everything out, or nothing of it. Blocks.
    ///
    /// The error is what the kernel said of the first order that it refused.
    pub(super) fn commit(mut self, netlink: &Kept) -> io::Result<()> {
        let last = self.number;
        // The begin alone changes nothing.
        if last == 1 {
            return Ok(());
        }
        let flags = self.last + 6;
        if let Some(byte) = self.bytes.get_mut(flags..flags + 2) {
            let asked = u16::from_ne_bytes([byte[0], byte[1]]) | ACKNOWLEDGE;
            byte.copy_from_slice(&asked.to_ne_bytes());
        }
        self.begin(BATCH_END, 0, 0, NF_TABLES);
        self.end();
        netlink.with(|netlink| netlink.carry_out(&self.bytes, last))
    }

    #[cfg(test)]
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    fn begin(&mut self, kind: u16, flags: u16, family: u8, part: u16) {
        self.number += 1;
        self.last = self.bytes.len();
        // The length comes when it is known.
        self.bytes.extend([0; 4]);
        self.bytes.extend(kind.to_ne_bytes());
        self.bytes.extend((flags | REQUEST).to_ne_bytes());
        self.bytes.extend(self.number.to_ne_bytes());
        self.bytes.extend([0; 4]);
        self.bytes.extend([family, 0]);
        self.bytes.extend(part.to_be_bytes());
    }

    fn end(&mut self) {
        let length = u32::try_from(self.bytes.len() - self.last).unwrap_or(u32::MAX);
        if let Some(place) = self.bytes.get_mut(self.last..self.last + 4) {
            place.copy_from_slice(&length.to_ne_bytes());
        }
    }
}

/// Begins an attribute. What is written until it is closed is its value.
fn open(bytes: &mut Vec<u8>, kind: u16) -> usize {
    let at = bytes.len();
    bytes.extend([0; 2]);
    bytes.extend(kind.to_ne_bytes());
    at
}

fn close(bytes: &mut Vec<u8>, at: usize) {
    let length = u16::try_from(bytes.len() - at).unwrap_or(u16::MAX);
    if let Some(place) = bytes.get_mut(at..at + 2) {
        place.copy_from_slice(&length.to_ne_bytes());
    }
    bytes.resize(bytes.len().next_multiple_of(4), 0);
}

fn write(bytes: &mut Vec<u8>, order: Order, element: &Element<'_>) {
    let whole = open(bytes, ELEMENT | NESTED);
    write_key(bytes, |bytes| element.write_key(bytes));
    // What is taken out is named by its key.
    if order == Order::Add {
        if let Some(to) = element.leads_to() {
            let (data, value) = (open(bytes, DATA | NESTED), open(bytes, VALUE));
            write_socket(bytes, to);
            close(bytes, value);
            close(bytes, data);
        }
        if let Some(text) = element.comment() {
            let notes = open(bytes, NOTES);
            bytes.push(COMMENT);
            bytes.push(u8::try_from(text.len() + 1).unwrap_or(u8::MAX));
            bytes.extend(text.bytes().chain([0]));
            close(bytes, notes);
        }
    }
    close(bytes, whole);
    // A range is two elements, and both are put in and taken out. Its end comes right after its beginning, because the
    // kernel takes no end where nothing has begun.
    if let Some(address) = element.ends_before() {
        let whole = open(bytes, ELEMENT | NESTED);
        let flags = open(bytes, ELEMENT_FLAGS);
        bytes.extend(RANGE_END.to_be_bytes());
        close(bytes, flags);
        write_key(bytes, |bytes| write_address(bytes, address));
        close(bytes, whole);
    }
}

fn write_key(bytes: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) {
    let (key, value) = (open(bytes, KEY | NESTED), open(bytes, VALUE));
    write(bytes);
    close(bytes, value);
    close(bytes, key);
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use flocker_model::ExternalPort;
    use flocker_model::PortNumber;

    use super::super::super::kernel::piece::Piece;
    use super::super::super::kernel::piece::Way;
    use super::super::element::in_sets;
    use super::*;
    use crate::netlink::attributes;
    use crate::netlink::messages;

    /// What the attributes of one message say: to which set, and the bytes of each element.
    fn lists(batch: &Batch) -> Vec<(u16, String, Vec<Vec<u8>>)> {
        let orders = messages(&batch.bytes).filter(|message| message.number > 1);
        orders
            .map(|message| {
                let get = |kind| attributes(&message.body[4..]).find(|(other, _)| *other == kind);
                let name = String::from_utf8(get(LIST_SET).unwrap().1.to_vec()).unwrap();
                let elements = attributes(get(LIST_ELEMENTS).unwrap().1);
                let elements = elements.map(|(_, value)| value.to_vec()).collect();
                (message.kind, name.trim_end_matches('\0').to_owned(), elements)
            })
            .collect()
    }

    fn port(number: u16) -> ExternalPort {
        ExternalPort::tcp(PortNumber::new(number).unwrap())
    }

    #[test]
    fn elements_are_written_as_nft_writes_them() {
        // What `nft` 1.0.6 was seen to send for `ends4 { 80 : 172.18.0.2 . 8080 }`, and the same without where it leads.
        let end = Piece::End {
            port: port(80),
            to: ([172, 18, 0, 2], 8080).into(),
            way: Way::Here,
        };
        let record = Piece::Record {
            port: port(80),
            part: 0,
            text: "site/80//".into(),
        };
        let pieces = BTreeSet::from([end, record]);
        let mut batch = Batch::new(None);
        batch.add(Order::Delete, &in_sets(&pieces));
        batch.add(Order::Add, &in_sets(&pieces));
        let lists = lists(&batch);
        let key = b"\x0c\0\x01\x80\x06\0\x01\0\0\x50\0\0";
        let data = b"\x10\0\x02\x80\x0c\0\x01\0\xac\x12\0\x02\x1f\x90\0\0";
        let of = |kind, name| {
            let mut found = lists.iter().filter(|list| list.0 == kind && list.1 == name);
            let elements = &found.next().unwrap().2;
            assert_eq!(elements.len(), 1);
            elements[0].clone()
        };
        assert_eq!(of(DELETE_ELEMENTS, "ends4"), key);
        assert_eq!(of(NEW_ELEMENTS, "ends4"), [&key[..], data].concat());
        assert_eq!(
            of(NEW_ELEMENTS, "here4"),
            b"\x14\0\x01\x80\x10\0\x01\0\0\x50\0\0\xac\x12\0\x02\x1f\x90\0\0"
        );
        assert_eq!(
            of(NEW_ELEMENTS, "records"),
            b"\x10\0\x01\x80\x0c\0\x01\0\0\x50\0\0\0\0\0\0\x10\0\x06\0\0\x0asite/80//\0"
        );
        assert_eq!(lists.len(), 10);
    }

    #[test]
    fn a_long_list_is_written_in_parts_of_one_transaction() {
        let pieces: BTreeSet<Piece> = (1..=u16::MAX)
            .map(|number| Piece::Held { port: port(number) })
            .collect();
        let mut batch = Batch::new(None);
        batch.add(Order::Add, &in_sets(&pieces));
        let n: usize = lists(&batch).iter().map(|(_, _, elements)| elements.len()).sum();
        assert_eq!(n, pieces.len());
        assert!(lists(&batch).len() > 1);
        let numbers: Vec<u32> = messages(&batch.bytes).map(|message| message.number).collect();
        assert_eq!(numbers, (1..=batch.number).collect::<Vec<_>>());
    }

    #[test]
    fn a_network_is_written_as_where_it_begins_and_where_it_ends() {
        // What `nft` 1.0.6 was seen to send for `beside4 { 172.18.0.0/16, 172.19.0.0/16 }`, whether put in or taken out.
        let networks = ["172.18.0.0/16", "172.19.0.0/16"].map(|text| text.parse().unwrap());
        let pieces = networks.map(|network| Piece::Beside { network }).into();
        let mut batch = Batch::new(None);
        batch.add(Order::Delete, &in_sets(&pieces));
        batch.add(Order::Add, &in_sets(&pieces));
        let elements = [
            b"\x0c\0\x01\x80\x08\0\x01\0\xac\x12\0\0".to_vec(),
            b"\x08\0\x03\0\0\0\0\x01\x0c\0\x01\x80\x08\0\x01\0\xac\x13\0\0".to_vec(),
            b"\x0c\0\x01\x80\x08\0\x01\0\xac\x13\0\0".to_vec(),
            b"\x08\0\x03\0\0\0\0\x01\x0c\0\x01\x80\x08\0\x01\0\xac\x14\0\0".to_vec(),
        ];
        let of = |kind| (kind, "beside4".to_owned(), elements.to_vec());
        assert_eq!(lists(&batch), [of(DELETE_ELEMENTS), of(NEW_ELEMENTS)]);
    }
}
