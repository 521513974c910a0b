//! Which applications a node starts again by itself, after its machine has started anew.
//!
//! The node has heard of nobody else yet, so it goes by what is here alone, and
//! does less than a plan would: it starts what ran here, on data that it owns,
//! and takes, gives and changes nothing. Whether another node owns the data by now cannot
//! be told from here; a person who has a node do this answers for that.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::fmt;

use flocker_model::ApplicationName;
use flocker_model::ContainerState;
use flocker_model::ContainerStatus;
use flocker_model::DatasetId;
use flocker_model::Epoch;
use flocker_model::ExternalPort;
use flocker_model::NodeName;
use flocker_model::NodeState;
use flocker_model::RestartPolicy;
use flocker_model::Role;
use flocker_model::RouteTable;
use flocker_model::RouteTarget;

/// What becomes of an application of a node whose machine has started anew.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Again {
    /// It is started.
    Start,
    /// It runs already.
    Runs,
    /// It waits for the next deploy.
    Stays(Stays),
}

/// Why an application is not started before a deploy has looked at all nodes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stays {
    /// It was prepared and never ran: a deploy was about to start it.
    NeverRan,
    /// It ended well, and its restart policy leaves it at that.
    Done,
    /// What was to be done at its end is not known, or somebody has begun to stop it.
    Stopped,
    /// Nothing of its data is here.
    NoData,
    /// Something of its data is here and cannot be read.
    Unreadable,
    /// What is here is a copy of another node's data.
    Copy,
    /// This node has let go of its data.
    LetGo {
        /// Who may take it.
        to: NodeName,
    },
    /// This node owns its data, and knows of an ownership that is newer.
    Doubt {
        /// That ownership.
        newer: Epoch,
    },
    /// Another application here has the same data.
    Shared {
        /// That application.
        with: ApplicationName,
    },
}

impl fmt::Display for Stays {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NeverRan => f.write_str("it was prepared and has never run"),
            Self::Done => f.write_str("it had ended well"),
            Self::Stopped => f.write_str("it had been stopped"),
            Self::NoData => f.write_str("its data is not here"),
            Self::Unreadable => f.write_str("its data cannot be read"),
            Self::Copy => f.write_str("its data here is a copy of another node's"),
            Self::LetGo { to } => write!(f, "its data was let go to {to}"),
            Self::Doubt { newer } => write!(
                f,
                "its data is this node's by an ownership that is older than {newer}, of which it knows"
            ),
            Self::Shared { with } => write!(f, "`{with}` has the same data"),
        }
    }
}

/// Decides about every application of which a container is on a node.
///
/// `policies` says what was to be done when a container ended, for those that nobody has begun to stop. One that has
/// ended and is not among them is not started.
#[must_use]
pub fn start_again(
    node: &NodeState,
    policies: &BTreeMap<ApplicationName, RestartPolicy>,
) -> BTreeMap<ApplicationName, Again> {
    let decided = node.containers.iter().map(|(name, container)| {
        let again = decide(node, name, container, policies.get(name).copied());
        (name.clone(), again)
    });
    decided.collect()
}

fn decide(
    node: &NodeState,
    name: &ApplicationName,
    container: &ContainerState,
    policy: Option<RestartPolicy>,
) -> Again {
    let stays = match (container.status, policy) {
        (ContainerStatus::Running | ContainerStatus::Restarting, _) => return Again::Runs,
        (ContainerStatus::Prepared, _) => Some(Stays::NeverRan),
        (ContainerStatus::Exited { .. }, None) => Some(Stays::Stopped),
        (
            ContainerStatus::Exited { code: Some(0) },
            Some(RestartPolicy::Never | RestartPolicy::OnFailure { .. }),
        ) => Some(Stays::Done),
        (ContainerStatus::Exited { .. }, Some(_)) => None,
    };
    let stays = stays.or_else(|| withheld(node, name, container.dataset?));
    stays.map_or(Again::Start, Again::Stays)
}

/// Returns why an application may not write a dataset; nothing where it may.
fn withheld(node: &NodeState, name: &ApplicationName, dataset: DatasetId) -> Option<Stays> {
    if node.unreadable.contains_key(&dataset) {
        return Some(Stays::Unreadable);
    }
    let Some(copy) = node.datasets.get(&dataset) else {
        return Some(Stays::NoData);
    };
    match &copy.role {
        Role::Replica => return Some(Stays::Copy),
        Role::Released { to, .. } => return Some(Stays::LetGo { to: to.clone() }),
        Role::Primary { epoch } if copy.fence > *epoch => return Some(Stays::Doubt { newer: copy.fence }),
        Role::Primary { .. } => {}
    }
    let mut others = node.containers.iter().filter(|(other, _)| *other != name);
    let user = others.find(|(_, other)| other.dataset == Some(dataset));
    user.map(|(with, _)| Stays::Shared { with: with.clone() })
}

/// Which routes of before a node puts back.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RoutesAgain {
    /// Those that are not in force and may be.
    pub set: BTreeMap<ExternalPort, RouteTarget>,
    /// The ports that something else of the machine has by now: they wait for the next deploy.
    pub taken: BTreeSet<ExternalPort>,
}

/// Returns which of the routes of before a node puts back, where `serves` says what runs on it by now.
///
/// What somebody has led elsewhere meanwhile stays there. Whoever connects to what does not run here is told so, as by a
/// port without a route.
#[must_use]
pub fn routes_again(
    name: &NodeName,
    node: &NodeState,
    before: &RouteTable,
    serves: impl Fn(&ApplicationName) -> bool,
) -> RoutesAgain {
    let mut again = RoutesAgain::default();
    for (port, target) in before.entries() {
        let is_here = target.homes.iter().any(|home| home.node == *name);
        if node.routes.get(*port).is_some() || (is_here && !serves(&target.application)) {
            continue;
        }
        if node.foreign_ports.contains(port) {
            again.taken.insert(*port);
        } else {
            again.set.insert(*port, target.clone());
        }
    }
    again
}
