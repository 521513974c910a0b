//! Which ports of a node's address something else than Flocker listens on.

use std::collections::BTreeSet;
use std::fmt;
use std::io;
use std::net::IpAddr;
use std::net::Ipv4Addr;
use std::net::Ipv6Addr;
use std::sync::Arc;

use async_trait::async_trait;
use flocker_backends::ErrorClass;
use flocker_backends::router;
use flocker_backends::router::proxy::ProxyRouter;
use flocker_engine::Fault;
use flocker_engine::ForeignPorts;
use flocker_model::ExternalPort;
use flocker_model::PortNumber;
use flocker_model::Protocol;

/// The kernel's tables of sockets, and how one that listens is marked in each.
pub(crate) const SOCKET_TABLES: [(&str, Protocol, &str); 4] = [
    ("/proc/net/tcp", Protocol::Tcp, "0A"),
    ("/proc/net/tcp6", Protocol::Tcp, "0A"),
    ("/proc/net/udp", Protocol::Udp, "07"),
    ("/proc/net/udp6", Protocol::Udp, "07"),
];

/// Asks the kernel, and leaves out what our own router listens on.
pub(crate) struct Listening {
    pub(crate) address: IpAddr,
    /// Our own router, where it listens itself.
    pub(crate) router: Option<Arc<ProxyRouter>>,
}

impl fmt::Debug for Listening {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Listening")
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}

#[async_trait]
impl ForeignPorts for Listening {
    async fn foreign_ports(&self) -> Result<BTreeSet<ExternalPort>, Fault> {
        // Who listens at every address has the port here as well.
        let ports = listening_at_any(&[self.address, everywhere(self.address)]);
        let ports = ports.map_err(|error| Fault::with_class(&error, ErrorClass::Transient))?;
        match &self.router {
            // It knows its own, and tries the others: a socket for IPv6 alone leaves the port free.
            Some(router) => Ok(router.foreign_ports(ports).await),
            None => Ok(ports),
        }
    }
}

/// Returns what stands for all addresses of this kind.
fn everywhere(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    }
}

/// Returns the ports on which anybody listens at exactly this address.
pub(crate) fn listening_at(address: IpAddr) -> io::Result<BTreeSet<ExternalPort>> {
    listening_at_any(&[address])
}

fn listening_at_any(wanted: &[IpAddr]) -> io::Result<BTreeSet<ExternalPort>> {
    let found = router::waiting().or_else(|_| in_tables())?;
    let here = found
        .into_iter()
        .filter(|(address, _)| wanted.iter().any(|wanted| is_at(*address, *wanted)));
    Ok(here.map(|(_, port)| port).collect())
}

/// Reads the same from the tables, which every kernel has.
fn in_tables() -> io::Result<Vec<(IpAddr, ExternalPort)>> {
    let mut found = Vec::new();
    for (table, protocol, mark) in SOCKET_TABLES {
        let listed = listed(table, mark)?.into_iter();
        found.extend(listed.map(|(address, number)| (address, ExternalPort { number, protocol })));
    }
    Ok(found)
}

/// Says whether a socket at the one address is one at the other, exactly.
fn is_at(address: IpAddr, wanted: IpAddr) -> bool {
    match address {
        IpAddr::V6(v6) if v6.is_unspecified() => wanted.is_unspecified(),
        // A socket for both kinds of addresses has those of the older kind mapped.
        IpAddr::V6(v6) => v6.to_canonical() == wanted,
        IpAddr::V4(v4) => IpAddr::V4(v4) == wanted,
    }
}

fn listed(table: &str, mark: &str) -> io::Result<Vec<(IpAddr, PortNumber)>> {
    match std::fs::read_to_string(table) {
        Ok(text) => Ok(parse(&text, mark)),
        // A machine without IPv6 has no table of it.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

fn parse(table: &str, mark: &str) -> Vec<(IpAddr, PortNumber)> {
    let listening = |line: &str| {
        let mut fields = line.split_ascii_whitespace().skip(1);
        let (address, port) = fields.next()?.split_once(':')?;
        let is_listening = fields.nth(1)? == mark;
        let port = PortNumber::new(u16::from_str_radix(port, 16).ok()?)?;
        is_listening.then_some((read_address(address)?, port))
    };
    table.lines().skip(1).filter_map(listening).collect()
}

/// Reads an address as the kernel writes it: words of 32 bits, each in the order of this machine.
fn read_address(text: &str) -> Option<IpAddr> {
    let word = |position: usize| {
        let digits = text.get(8 * position..8 * position + 8)?;
        Some(u32::from_str_radix(digits, 16).ok()?.to_ne_bytes())
    };
    match text.len() {
        8 => Some(Ipv4Addr::from(word(0)?).into()),
        32 => {
            let mut octets = [0; 16];
            for (position, four) in octets.chunks_exact_mut(4).enumerate() {
                four.copy_from_slice(&word(position)?);
            }
            Some(Ipv6Addr::from(octets).into())
        }
        _ => None,
    }
}

#[cfg(test)]
#[cfg(target_endian = "little")]
mod tests {
    use super::*;

    const TCP: &str = "\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0B00007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 123 1
   1: 0B00007F:1F91 0100007F:C000 01 00000000:00000000 00:00000000 00000000  1000        0 124 1
   2: 00000000:0016 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 125 1
";
    const TCP6: &str = "\
  sl  local_address                         remote_address                        st tx_queue rx_queue
   0: 00000000000000000000000000000000:0050 00000000000000000000000000000000:0000 0A 00000000:00000000
   1: 0000000000000000FFFF00000B00007F:1F92 00000000000000000000000000000000:0000 0A 00000000:00000000
   2: 00000000000000000000000001000000:1F93 00000000000000000000000000000000:0000 0A 00000000:00000000
";

    fn ports(table: &str, address: &str) -> Vec<u16> {
        let wanted = address.parse().unwrap();
        let found = parse(table, "0A");
        let here = found.into_iter().filter(|(address, _)| is_at(*address, wanted));
        here.map(|(_, port)| port.get()).collect()
    }

    #[test]
    fn only_who_listens_at_the_address_has_the_port() {
        assert_eq!(ports(TCP, "127.0.0.11"), [8080]);
        assert_eq!(ports(TCP, "0.0.0.0"), [22]);
        assert_eq!(ports(TCP6, "127.0.0.11"), [8082]);
        assert_eq!(ports(TCP6, "0.0.0.0"), [80]);
        assert!(ports("", "127.0.0.11").is_empty());
    }

    #[test]
    fn a_listener_of_this_machine_is_found() {
        let address = Ipv4Addr::new(127, 113, 9, 1);
        let listener = std::net::TcpListener::bind((address, 0)).unwrap();
        let socket = std::net::UdpSocket::bind((address, 0)).unwrap();
        // It has its port for one who answers it, and is no service.
        let client = std::net::UdpSocket::bind((address, 0)).unwrap();
        client.connect(socket.local_addr().unwrap()).unwrap();
        let number = |at: std::io::Result<std::net::SocketAddr>| PortNumber::new(at.unwrap().port()).unwrap();
        let expected = [
            ExternalPort::tcp(number(listener.local_addr())),
            ExternalPort::udp(number(socket.local_addr())),
        ];
        assert_eq!(listening_at(address.into()).unwrap(), BTreeSet::from(expected));
        // The tables, which are read where the kernel does not answer, say the same of them.
        let listed = in_tables().unwrap().into_iter();
        let listed: BTreeSet<_> = listed.filter(|(at, _)| *at == IpAddr::from(address)).collect();
        assert_eq!(listed, expected.map(|port| (address.into(), port)).into());
    }
}
