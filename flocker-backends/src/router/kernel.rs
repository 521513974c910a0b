//! What both kernel routers share: where each port ends, and how that is kept in the kernel itself.
//!
//! A kernel router has no file. What a route says is written into the kernel
//! beside what carries it out, in small [`Piece`]s; both are read back
//! together, and a route of which a piece is missing is not told as being in
//! force. What was flushed, by a reboot or by somebody's hand, is therefore
//! seen as lost and set again.

pub(super) mod connections;
pub(super) mod neighbours;
pub(super) mod netlink;
pub(super) mod piece;
pub(super) mod placed;
pub(super) mod served;
pub(super) mod switch;

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;
use std::net::Ipv4Addr;
use std::net::Ipv6Addr;
use std::time::Duration;

use flocker_model::ExternalPort;
use flocker_model::Protocol;
use flocker_model::RouteTable;

use self::connections::Moved;
use self::neighbours::Network;
use self::netlink::Kept;
use self::placed::End;
use self::placed::Placed;
use self::served::served_of;
use crate::process::Program;
use crate::router::RouterError;
use crate::router::proxy::used_ports;

/// Packets that a kernel router lets through are marked with this bit where a firewall of the other kind has to know them.
pub(super) const PASS_MARK: u32 = 0x0100_0000;

/// The class of a first packet that a node has passed on once, and twice. There is no third time.
///
/// Two nodes whose tables disagree for a moment would pass a connection round
/// until its time to live ends. Both values are of the pool that is left to
/// local use.
pub(super) const HOPS: [u8; 2] = [43, 47];

/// What a program may write at most: 65 535 routes of a few pieces each, and what others have in the same list.
const MOST_OUTPUT: usize = 512 << 20;

/// From how many ports on it is quicker to ask who listens than to try each.
const MANY_PORTS: usize = 64;

/// How long one program may take.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);

/// What was found in the kernel.
#[derive(Clone, Debug, Default)]
pub(super) struct Found {
    /// The routes of which every piece is there.
    pub(super) placed: Placed,
    /// Whether the rules that make use of the pieces are there.
    pub(super) is_in_force: bool,
    /// Whether nothing is there that must not be, and nothing lacks.
    pub(super) is_whole: bool,
    /// What has a name of ours and is somebody else's: it holds something, and nothing of that is as we mark it.
    pub(super) foreign: Option<String>,
}

impl Found {
    /// Returns the routes that are in force.
    pub(super) fn routes(&self) -> RouteTable {
        if self.is_in_force {
            self.placed.routes.clone()
        } else {
            RouteTable::default()
        }
    }

    /// Refuses to go on where somebody else's would be written over. A name alone makes nothing ours.
    pub(super) fn refuse_foreign(&self) -> Result<(), RouterError> {
        match self.foreign.clone() {
            Some(what) => Err(RouterError::Foreign { what }),
            None => Ok(()),
        }
    }
}

/// Runs a program to its end and returns what it wrote.
pub(super) async fn run(program: Program, input: &str, what: &str) -> Result<Vec<u8>, RouterError> {
    let ran = end(program, input).await;
    ran.and_then(crate::process::Output::success)
        .map_err(|source| RouterError::Program {
            what: what.into(),
            source,
        })
}

/// Runs a program to its end, whichever that is. None has longer than a minute.
pub(super) async fn end(
    program: Program,
    input: &str,
) -> Result<crate::process::Output, crate::process::ProcessError> {
    program.run(input.as_bytes(), MOST_OUTPUT, PATIENCE).await
}

/// Runs what waits for the kernel where it keeps nobody else waiting.
pub(super) async fn blocking<T: Send + 'static>(
    what: &str,
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T, RouterError> {
    let done = crate::blocking::blocking(work).await;
    done.map_err(|source| RouterError::Io {
        what: what.into(),
        source,
    })
}

/// Refuses a change that would take a port away from a program of this node.
///
/// The kernel would let us: its rules come before any program. A port that is
/// routed already is not asked for again.
pub(super) fn refuse_used_ports(own: IpAddr, before: &Placed, after: &Placed) -> Result<(), RouterError> {
    let is_new = |port: &ExternalPort| before.routes.get(*port).is_none();
    // An application that serves at the node's own address may have the port itself.
    let is_its_own = |port: ExternalPort, end: &End| match end {
        End::Here(address) => address.port() == port.get(),
        End::There(_) | End::Nowhere => false,
    };
    let new: BTreeSet<ExternalPort> = after
        .ends
        .iter()
        .filter(|(port, end)| is_new(port) && !is_its_own(**port, end))
        .map(|(port, _)| *port)
        .collect();
    let loopback = match own {
        IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::LOCALHOST),
    };
    let new = if new.len() > MANY_PORTS {
        served_of(new)
    } else {
        new
    };
    let mut used = used_ports(own, new.iter().copied());
    used.extend(used_ports(loopback, new));
    match used.first() {
        None => Ok(()),
        Some(&port) => Err(RouterError::PortInUse {
            port,
            source: io::ErrorKind::AddrInUse.into(),
        }),
    }
}

/// What a router keeps from one call to the next.
#[derive(Debug)]
pub(super) struct State<S> {
    /// What was found last, and is so as long as the packet filter does not change; nothing where it was left half changed.
    pub(super) seen: Option<S>,
    /// Connections that are still to be ended: what earlier calls have not come to.
    pub(super) owed: BTreeSet<Moved>,
    pub(super) netlink: Kept,
}

impl<S> Default for State<S> {
    fn default() -> Self {
        Self {
            seen: None,
            owed: BTreeSet::new(),
            netlink: Kept::default(),
        }
    }
}

impl<S> State<S> {
    /// Ends the connections that still go where a route led before, and forgets them.
    ///
    /// What is owed is only given up where all of it was done.
    pub(super) async fn end_moved(&mut self) -> Result<(), RouterError> {
        if self.owed.is_empty() {
            return Ok(());
        }
        let (netlink, moved) = (self.netlink.clone(), self.owed.clone());
        let n_ended = blocking(
            "end the connections that lead to where an application was",
            move || connections::end(&netlink, &moved),
        )
        .await?;
        tracing::debug!(n_ended, "connections to where an application was are ended");
        self.owed.clear();
        Ok(())
    }
}

/// Returns the networks of this node.
pub(super) fn networks() -> Result<BTreeSet<Network>, RouterError> {
    neighbours::networks().map_err(|source| RouterError::Io {
        what: "list the networks of this node".into(),
        source,
    })
}

/// Returns the ports that end somewhere else than before, with where they ended.
///
/// Datagrams that came while a port ended nowhere are remembered as led
/// nowhere, for as long as their sender goes on: that has to be forgotten, too.
pub(super) fn moved(before: &Placed, after: &Placed) -> BTreeSet<Moved> {
    let ended = before.ends.iter();
    let ended = ended
        .filter(|(port, end)| after.ends.get(port) != Some(end))
        .filter_map(|(port, end)| {
            Some(Moved {
                port: *port,
                to: Some(end.address()?),
            })
        });
    let led_nowhere = |port: &ExternalPort| before.ends.get(port).and_then(|end| end.address()).is_none();
    let begun = after
        .ends
        .iter()
        .filter(|(port, end)| port.protocol == Protocol::Udp && end.address().is_some() && led_nowhere(port))
        .map(|(port, _)| Moved {
            port: *port,
            to: None,
        });
    ended.chain(begun).collect()
}

/// Where the applications of this node listen.
pub(super) type Local = BTreeMap<flocker_model::ApplicationName, IpAddr>;
