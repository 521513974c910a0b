//! Where an application listens: a loopback address of its own.

use std::net::IpAddr;
use std::net::Ipv4Addr;

use flocker_model::ApplicationName;

/// Returns the loopback address of an application on a node: always the same, and hardly ever that of another.
///
/// It is `127.128.x.y` to `127.239.x.y`, so that two applications with the
/// same internal port do not meet on one node, and neither takes the node's
/// own port from its router. The range above is left to routers, which carry
/// hop counts in it.
#[must_use]
pub fn application_address(node: IpAddr, application: &ApplicationName) -> IpAddr {
    let mut hasher = blake3::Hasher::new();
    hasher.update(node.to_string().as_bytes());
    hasher.update(b"/");
    hasher.update(application.as_str().as_bytes());
    let hash = hasher.finalize();
    let [first, second, third, ..] = *hash.as_bytes();
    // The last octets keep clear of 0 and 255, which look like networks and broadcasts.
    let inner = |byte: u8| 1 + byte % 254;
    IpAddr::V4(Ipv4Addr::new(127, 128 + first % 112, inner(second), inner(third)))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_application_of_every_node_has_its_own_usable_address() {
        let mut seen = BTreeSet::new();
        for node in 2..6 {
            for number in 0..50 {
                let name = format!("app-{number}").parse().unwrap();
                let node = IpAddr::from([127, 0, 0, node]);
                let address = application_address(node, &name);
                assert_eq!(address, application_address(node, &name));
                let IpAddr::V4(v4) = address else {
                    panic!("{address} is not IPv4")
                };
                let [first, second, third, fourth] = v4.octets();
                assert!(first == 127 && (128..240).contains(&second));
                assert!(![0, 255].contains(&third) && ![0, 255].contains(&fourth));
                assert!(seen.insert(address), "{address} twice");
            }
        }
    }
}
