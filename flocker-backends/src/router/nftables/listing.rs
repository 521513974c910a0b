//! Reading what `nft -j` prints of our table.
//!
//! What is not exactly as we write it is not understood as something similar:
//! the table then counts as damaged, and the next change writes it anew.

use std::net::IpAddr;
use std::net::Ipv4Addr;
use std::net::SocketAddr;

use flocker_model::ExternalPort;
use flocker_model::PortNumber;
use flocker_model::Protocol;
use serde::Deserialize;
use serde_json::Value;

use super::super::kernel::Found;
use super::super::kernel::piece::Way;
use super::element::Element;
use super::rules;
use super::there::There;
use crate::router::RouterError;

#[derive(Deserialize)]
struct Listing {
    nftables: Vec<Object>,
}

/// One thing of the listing: exactly one of these, or something that we do not know.
#[derive(Deserialize)]
struct Object {
    table: Option<Named>,
    chain: Option<Named>,
    rule: Option<Rule>,
    set: Option<Set>,
    map: Option<Set>,
}

#[derive(Deserialize)]
struct Named {
    name: String,
}

#[derive(Deserialize)]
struct Rule {
    chain: String,
    #[serde(default)]
    comment: String,
}

#[derive(Deserialize)]
struct Set {
    name: String,
    #[serde(default)]
    elem: Vec<Value>,
}

fn parse(text: &[u8]) -> Result<Vec<Object>, RouterError> {
    // To serde a list of the right values is a `Listing` too, so `[[]]` would be a table without anything.
    let read: Result<Listing, _> = if text.trim_ascii_start().starts_with(b"{") {
        serde_json::from_slice(text)
    } else {
        Err(serde::de::Error::custom("it is no JSON object"))
    };
    read.map(|listing| listing.nftables)
        .map_err(|error| RouterError::Io {
            what: "understand what `nft` says of the routes".into(),
            source: error.into(),
        })
}

/// Says whether our table is in a list of tables.
pub(super) fn has_our_table(text: &[u8]) -> Result<bool, RouterError> {
    let objects = parse(text)?;
    let mut tables = objects.iter().filter_map(|object| object.table.as_ref());
    Ok(tables.any(|table| table.name == rules::TABLE))
}

/// Reads a listing of our table.
pub(super) fn read(own: IpAddr, text: &[u8]) -> Result<Found, RouterError> {
    let mut there = There::default();
    for object in parse(text)? {
        if let Some(Named { name }) = object.chain {
            there.chain(name);
        }
        if let Some(Rule { chain, comment }) = object.rule {
            there.rule(chain, comment);
        }
        for Set { name, elem } in object.set.into_iter().chain(object.map) {
            for value in &elem {
                there.element(element(&name, value));
            }
        }
    }
    Ok(there.found(own))
}

/// Reads an element of a set; nothing where we would not have put it there.
fn element<'v>(set: &str, element: &'v Value) -> Option<Element<'v>> {
    let (value, comment) = match element.get("elem") {
        Some(inner) => (inner.get("val")?, inner.get("comment").and_then(Value::as_str)),
        None => (element, None),
    };
    let (protocol, set) = rules::split_name(set);
    let external = |value| {
        let number = number(value)?;
        Some(ExternalPort { number, protocol })
    };
    let element = match set {
        "records" => {
            let [of, part] = concatenated(value)? else {
                return None;
            };
            Element::Record {
                port: external(of)?,
                part: u16::try_from(part.as_u64()?).ok()?,
                text: comment?,
            }
        }
        "held" => Element::Held {
            port: external(value)?,
        },
        "beside4" | "beside6" if protocol == Protocol::Tcp => {
            let network = match value.get("prefix") {
                Some(prefix) => {
                    let (address, length) = (prefix.get("addr")?.as_str()?, prefix.get("len")?.as_u64()?);
                    format!("{address}/{length}")
                }
                None => value.as_str()?.to_owned(),
            };
            let network = network.parse().ok()?;
            Element::Beside { network }
        }
        "ends4" | "ends6" => {
            let [key, to] = value.as_array()?.as_slice() else {
                return None;
            };
            let [address, at] = concatenated(to)? else {
                return None;
            };
            Element::End {
                port: external(key)?,
                to: socket(address, at)?,
            }
        }
        "here4" | "here6" | "there4" | "there6" => {
            let [of, address, at] = concatenated(value)? else {
                return None;
            };
            let way = if set.starts_with("here") {
                Way::Here
            } else {
                Way::There
            };
            Element::Led {
                port: external(of)?,
                to: socket(address, at)?,
                way,
            }
        }
        "links" => {
            let [key, to] = value.as_array()?.as_slice() else {
                return None;
            };
            let [address, at] = concatenated(to)? else {
                return None;
            };
            Element::Link {
                protocol,
                link: link(key)?,
                to: socket(address, at)?,
            }
        }
        "linkhere" | "linkthere" => {
            let [of, address, at] = concatenated(value)? else {
                return None;
            };
            let way = if set == "linkhere" { Way::Here } else { Way::There };
            Element::Linked {
                protocol,
                link: link(of)?,
                to: socket(address, at)?,
                way,
            }
        }
        _ => return None,
    };
    Some(element)
}

fn concatenated(value: &Value) -> Option<&[Value]> {
    value.get("concat")?.as_array().map(Vec::as_slice)
}

fn number(value: &Value) -> Option<PortNumber> {
    PortNumber::new(u16::try_from(value.as_u64()?).ok()?)
}

fn link(value: &Value) -> Option<Ipv4Addr> {
    value.as_str()?.parse().ok()
}

fn socket(address: &Value, at: &Value) -> Option<SocketAddr> {
    Some(SocketAddr::new(
        address.as_str()?.parse().ok()?,
        number(at)?.get(),
    ))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::super::kernel::placed::End;
    use super::*;

    /// Made by version 1.0.6 of what alpha carries: of each protocol one route that ends here, one elsewhere and one nowhere.
    const LISTING: &str = include_str!("../../../tests/data/nftables-1.0.6/listing.json");

    fn own() -> IpAddr {
        IpAddr::from([10, 77, 0, 1])
    }

    fn listed(text: &str) -> Found {
        read(own(), text.as_bytes()).unwrap()
    }

    #[test]
    fn what_is_no_object_is_no_empty_table() {
        for text in ["", "[]", "[[]]", " [ [ ] ] ", "null", "0"] {
            assert!(read(own(), text.as_bytes()).is_err(), "{text:?}");
        }
        assert!(read(own(), br#" {"nftables": []}"#).is_ok());
    }

    #[test]
    fn a_table_of_somebody_else_is_told_from_one_that_is_damaged() {
        let foreign = |objects: &str| {
            listed(&format!(
                r#"{{"nftables": [{{"table": {{"family": "inet", "name": "flocker"}}}}, {objects}]}}"#
            ))
            .foreign
        };
        let named = Some("the table `inet flocker`".to_owned());
        let chain = |name: &str| format!(r#"{{"chain": {{"name": "{name}"}}}}"#);
        let rule = |chain: &str, comment: &str| {
            format!(r#"{{"rule": {{"chain": "{chain}", "comment": "{comment}"}}}}"#)
        };
        let set =
            |name: &str, element: &str| format!(r#"{{"set": {{"name": "{name}", "elem": [{element}]}}}}"#);
        assert_eq!(foreign(&chain("input")), named);
        assert_eq!(foreign(&rule("input", "")), named);
        assert_eq!(foreign(&rule("enter", "")), named);
        assert_eq!(foreign(&rule("input", "hold")), named);
        assert_eq!(foreign(&set("blocked", "\"192.0.2.1\"")), named);
        // What a flush leaves, and what somebody has put into ours.
        assert_eq!(foreign(&chain("enter")), None);
        assert_eq!(
            foreign(&[rule("enter", ""), rule("hold", "hold")].join(",")),
            None
        );
        assert_eq!(foreign(&[set("held", "80"), chain("input")].join(",")), None);
        assert_eq!(listed(LISTING).foreign, None);
    }

    #[test]
    fn a_listing_says_everything_that_is_carried() {
        let found = listed(LISTING);
        assert!(found.is_in_force && found.is_whole);
        let ends: Vec<(String, End)> = found
            .placed
            .ends
            .iter()
            .map(|(port, end)| (port.to_string(), *end))
            .collect();
        let here = End::Here(([172, 18, 0, 2], 8080).into());
        let there = |port| End::There(([10, 77, 0, 2], port).into());
        let expected = [
            ("25", End::Nowhere),
            ("25/udp", End::Nowhere),
            ("80", here),
            ("80/udp", there(80)),
            ("443", there(443)),
            ("443/udp", here),
        ];
        assert_eq!(ends, expected.map(|(port, end)| (port.to_owned(), end)));
        assert_eq!(found.routes().entries().len(), expected.len());
        assert_eq!(found.placed.beside, ["172.18.0.0/24".parse().unwrap()].into());
    }

    #[test]
    fn every_element_and_every_rule_counts() {
        let intact = listed(LISTING).placed;
        let mut listing: Value = serde_json::from_str(LISTING).unwrap();
        let objects = listing["nftables"].as_array().unwrap().clone();
        let is_damage = |listing: &Value| {
            let found = listed(&listing.to_string());
            !found.is_in_force || !found.is_whole || found.placed != intact
        };
        for (n, object) in objects.iter().enumerate() {
            let kind = object.as_object().unwrap().keys().next().unwrap().as_str();
            if kind == "rule" {
                let mut rest = objects.clone();
                rest.remove(n);
                listing["nftables"] = rest.into();
                assert!(is_damage(&listing), "without {object}");
            }
            let elements = object[kind]["elem"].as_array();
            for m in 0..elements.map_or(0, Vec::len) {
                let mut changed = objects.clone();
                changed[n][kind]["elem"].as_array_mut().unwrap().remove(m);
                listing["nftables"] = changed.into();
                assert!(is_damage(&listing), "element {m} of {object}");
            }
        }
    }

    #[test]
    fn rules_for_another_address_are_not_in_force() {
        let found = read(IpAddr::from([10, 77, 0, 7]), LISTING.as_bytes()).unwrap();
        assert!(!found.is_in_force);
    }

    #[test]
    fn a_table_of_this_name_is_found_among_others() {
        let tables = |names: &[&str]| {
            let table =
                |name: &&str| format!(r#"{{"table": {{"family": "inet", "name": "{name}", "handle": 1}}}}"#);
            let tables: Vec<String> = names.iter().map(table).collect();
            let text = format!(r#"{{"nftables": [{{"metainfo": {{}}}}, {}]}}"#, tables.join(", "));
            has_our_table(text.as_bytes()).unwrap()
        };
        assert!(tables(&["firewalld", "flocker"]));
        assert!(!tables(&["firewalld", "flocker2"]));
    }

    proptest! {
        #[test]
        fn anything_can_be_listed(at in any::<prop::sample::Index>(), with in any::<u8>()) {
            let mut bytes = LISTING.as_bytes().to_vec();
            let at = at.index(bytes.len());
            bytes[at] = with;
            drop(read(own(), &bytes));
        }
    }
}
