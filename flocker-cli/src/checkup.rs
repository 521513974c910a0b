//! What is found out about machines that are nodes or are to be: for `flocker doctor`, and before a deploy changes anything.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::net::IpAddr;

use flocker_backends::TransportError;
use flocker_engine::clock;
use flocker_engine::one_line;
use flocker_model::ExternalPort;
use flocker_model::NodeAddress;
use flocker_model::NodeName;

use crate::real::Closely;
use crate::real::Examination;
use crate::real::Finding;
use crate::real::Ways;
use crate::real::Weight;

/// How far apart two clocks may be before it is said.
const TOLERATED: u64 = 30;

/// Looks at a machine, whether or not it can be a node.
pub(crate) async fn by_ssh(
    ways: &Ways,
    address: &NodeAddress,
    closely: &Closely,
) -> (Vec<Finding>, Option<Examination>) {
    let began = clock::now();
    match ways.examine(address, closely).await {
        Ok(found) => {
            let reached = format!(
                "in {:.1} s, with our program there",
                began.elapsed().as_secs_f32()
            );
            let mut all = vec![Finding::new("ssh", Weight::Good, reached)];
            all.extend(clock_difference(found.time, clock::time_of_day()));
            all.extend(found.findings.iter().cloned());
            (all, Some(found))
        }
        Err(error) => (vec![unreached(&error)], None),
    }
}

fn unreached(error: &TransportError) -> Finding {
    let finding = Finding::new("ssh", Weight::Problem, one_line(error));
    match error.hint() {
        Some(hint) => finding.hint(hint),
        None => finding,
    }
}

fn clock_difference(theirs: u64, ours: u64) -> Option<Finding> {
    let apart = theirs.abs_diff(ours);
    let way = if theirs > ours { "ahead" } else { "behind" };
    (apart > TOLERATED).then(|| {
        let said = format!("{apart} s {way} of this machine's");
        Finding::new("clock", Weight::Note, said)
            .hint("no decision goes by it, but logs will be hard to compare")
    })
}

/// Writes one line of what is said of a machine; what belongs to it stands below it, without a mark or subject of its own.
pub(crate) fn write_line(text: &mut String, mark: &str, (subject, width): (&str, usize), said: &str) {
    // Writing to a string cannot fail.
    let _ = writeln!(text, "  {mark:<7}  {subject:<width$}  {said}");
}

/// Says which of the wanted ports are taken, and by whom where that is known.
pub(crate) fn in_use(
    wanted: &BTreeSet<ExternalPort>,
    taken: &BTreeSet<ExternalPort>,
    by: &BTreeMap<ExternalPort, String>,
) -> Option<Finding> {
    let both: Vec<String> = wanted
        .intersection(taken)
        .map(|port| match by.get(port) {
            Some(who) => format!("{port}, by {who}"),
            None => port.to_string(),
        })
        .collect();
    (!both.is_empty()).then(|| {
        let said = format!("in use by something else: {}", both.join("; "));
        Finding::new("ports", Weight::Problem, said)
            .hint("stop it there, or give the application another external port")
    })
}

/// Finds the nodes that the others would look for on themselves: where some are reached at addresses of a network,
/// and one at an address that means this very machine to each of them.
pub(crate) fn reached_from_itself(addresses: &BTreeMap<NodeName, IpAddr>) -> BTreeMap<NodeName, Finding> {
    if addresses.values().all(IpAddr::is_loopback) {
        return BTreeMap::new();
    }
    let alone = addresses.iter().filter(|(_, address)| address.is_loopback());
    alone
        .map(|(node, address)| {
            let said =
                format!("it is reached at {address}, at which each of the other machines finds itself");
            let hint =
                "write an address at which the others reach it into the deployment file, as its `address`";
            (
                node.clone(),
                Finding::new("address", Weight::Problem, said).hint(hint),
            )
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_that_the_others_would_look_for_on_themselves_is_told() {
        let nodes = |addresses: &[&str]| -> BTreeMap<NodeName, IpAddr> {
            let names = ["alpha", "beta", "gamma"].map(|name| name.parse().unwrap());
            let addresses = addresses.iter().map(|address| address.parse().unwrap());
            names.into_iter().zip(addresses).collect()
        };
        assert_eq!(
            reached_from_itself(&nodes(&["192.0.2.1", "fd00::2"])),
            BTreeMap::new()
        );
        // A cluster on one machine.
        assert_eq!(
            reached_from_itself(&nodes(&["127.0.0.11", "127.0.0.12"])),
            BTreeMap::new()
        );
        let found = reached_from_itself(&nodes(&["127.0.1.1", "192.0.2.2", "::1"]));
        let names: Vec<&str> = found.keys().map(NodeName::as_str).collect();
        assert_eq!(names, ["alpha", "gamma"]);
        assert!(found.values().all(|finding| finding.weight == Weight::Problem));
    }

    #[test]
    fn clocks_that_are_apart_are_told() {
        assert_eq!(clock_difference(1000, 1000 + TOLERATED), None);
        let behind = clock_difference(1000, 1100).unwrap();
        assert_eq!(
            (behind.weight, &*behind.said),
            (Weight::Note, "100 s behind of this machine's")
        );
        assert!(clock_difference(1100, 1000).unwrap().said.contains("ahead"));
    }

    #[test]
    fn only_ports_that_are_wanted_are_told() {
        let ports = |numbers: &[u16]| -> BTreeSet<ExternalPort> {
            let of_tcp = |number: &u16| number.to_string().parse().unwrap();
            numbers.iter().map(of_tcp).collect()
        };
        assert_eq!(in_use(&ports(&[80]), &ports(&[22]), &BTreeMap::new()), None);
        let datagrams = ["80/udp".parse().unwrap()].into();
        assert_eq!(in_use(&ports(&[80]), &datagrams, &BTreeMap::new()), None);
        let found = in_use(&ports(&[80, 443]), &ports(&[22, 80]), &BTreeMap::new()).unwrap();
        assert_eq!(found.said, "in use by something else: 80");
        let by = [("80".parse().unwrap(), "`nginx` (process 7)".to_owned())].into();
        let found = in_use(&ports(&[80, 443]), &ports(&[22, 80]), &by).unwrap();
        assert_eq!(found.said, "in use by something else: 80, by `nginx` (process 7)");
    }
}
