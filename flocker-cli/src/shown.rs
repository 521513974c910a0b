//! A plan as it is shown: as text, and as the body of a JSON document.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::fmt;
use std::fmt::Write as _;

use flocker_engine::Reach;
use flocker_engine::older_owners;
use flocker_model::ApplicationName;
use flocker_model::ClusterState;
use flocker_model::ContainerStatus;
use flocker_model::DatasetId;
use flocker_model::Deployment;
use flocker_model::Health;
use flocker_model::NodeName;
use flocker_model::NodeState;
use flocker_model::Observed;
use flocker_model::Role;
use flocker_model::Silence;
use flocker_plan::Estimate;
use flocker_plan::Kept;
use flocker_plan::Plan;
use flocker_plan::Policy;
use flocker_plan::Refusal;
use flocker_plan::Step;
use flocker_plan::StepId;
use flocker_plan::Waiting;
use flocker_plan::render;
use serde::Serialize;

use crate::commands::status::owner;
use crate::ui::Ui;

/// A plan with what it was made from.
#[derive(Debug)]
pub(crate) struct Shown<'a> {
    pub(crate) plan: &'a Plan,
    pub(crate) desired: &'a Deployment,
    pub(crate) actual: &'a ClusterState,
    pub(crate) policy: &'a Policy,
}

impl Shown<'_> {
    /// Prints the plan for people, and says what it waits for besides and which nodes were not seen.
    pub(crate) fn text(&self, unsaid: &[Waiting], ui: &Ui) {
        ui.data(&render::text_and(
            self.plan,
            self.desired,
            &self.estimate(),
            unsaid,
        ));
        self.silent(ui);
    }

    /// Says which nodes were not seen.
    pub(crate) fn silent(&self, ui: &Ui) {
        for (node, silence) in silent(self.actual) {
            ui.warn(&format!("{node} was not seen: {silence}"));
            if let Some(hint) = silence.hint(node) {
                ui.hint(&hint);
            }
        }
    }

    /// Prints what nobody does anything about, and somebody should know.
    pub(crate) fn warn(&self, ui: &Ui) {
        for caution in cautions(self.actual, self.desired, Some(self.plan)) {
            ui.warn(&caution);
        }
    }

    pub(crate) fn to_text(&self) -> String {
        render::text(self.plan, self.desired, &self.estimate())
    }

    pub(crate) fn estimate(&self) -> Estimate {
        flocker_plan::estimate(self.plan, self.actual, self.policy)
    }

    /// Returns the plan as the body of a JSON document.
    pub(crate) fn body(&self) -> Body<'_> {
        Body {
            generation: self.plan.generation().0,
            settled: self.plan.is_settled(),
            steps: self.plan.steps().iter().map(ShownStep::new).collect(),
            waiting: self.plan.waiting().iter().map(Blocked::waiting).collect(),
            refused: self.plan.refused().iter().map(Blocked::refused).collect(),
            kept: self.plan.kept(),
            estimate: self.estimate(),
            silent: silent(self.actual)
                .map(|(node, cause)| Silent { node, cause })
                .collect(),
            warnings: cautions(self.actual, self.desired, Some(self.plan)),
        }
    }
}

/// Says what carries the copies of a plan; nothing where there are none between machines.
pub(crate) fn copies(copies: &[Reach]) -> String {
    let mut text = String::new();
    for Reach {
        from,
        to,
        by,
        because,
    } in copies
    {
        // Writing to a string cannot fail.
        let _ = match because {
            None => writeln!(text, "copies from {from} to {to} go by {by}"),
            Some(because) => writeln!(
                text,
                "copies from {from} to {to} are {by} by this machine: {because}"
            ),
        };
    }
    text
}

/// Returns the nodes that were not seen, and why.
pub(crate) fn silent(actual: &ClusterState) -> impl Iterator<Item = (&NodeName, &Silence)> {
    actual.nodes.iter().filter_map(|(node, look)| match look {
        Observed::Known(_) => None,
        Observed::Unknown(silence) => Some((node, silence)),
    })
}

/// Returns what serves nobody although it runs, because it is not healthy or ends again and again, and is not said in the
/// plan: no step mends that.
pub(crate) fn unserved(actual: &ClusterState, plan: Option<&Plan>) -> Vec<Waiting> {
    let mut all: BTreeMap<&ApplicationName, Vec<NodeName>> = BTreeMap::new();
    for (node, state) in actual.all_known() {
        for (application, container) in &state.containers {
            match (container.status, container.health) {
                (ContainerStatus::Restarting, _) | (ContainerStatus::Running, Health::Unhealthy) => {
                    all.entry(application).or_default().push(node.clone());
                }
                (ContainerStatus::Running, Health::Healthy | Health::NotChecked)
                | (ContainerStatus::Prepared | ContainerStatus::Exited { .. }, _) => {}
            }
        }
    }
    let waiting = all.into_iter().map(|(application, on)| Waiting::ForHealth {
        application: application.clone(),
        on,
    });
    waiting
        .filter(|waiting| !plan.is_some_and(|plan| plan.waiting().contains(waiting)))
        .collect()
}

/// Returns the wait for nodes of the files that were not seen, if there are any: their routes are as old as they are.
pub(crate) fn unseen(desired: &Deployment, actual: &ClusterState) -> Option<Waiting> {
    let is_awaited = |node: &&NodeName| desired.members().contains_key(*node) && !actual.is_forgotten(node);
    let silent = silent(actual).map(|(node, _)| node).filter(is_awaited);
    let nodes: Vec<NodeName> = silent.cloned().collect();
    (!nodes.is_empty()).then_some(Waiting::ForSight {
        application: None,
        dataset: None,
        nodes,
    })
}

/// Returns what a plan waits for and does not say: no step of it would mend that.
pub(crate) fn unsaid(plan: &Plan, desired: &Deployment, actual: &ClusterState) -> Vec<Waiting> {
    let mut all = unserved(actual, Some(plan));
    let is_said = |waiting: &Waiting| matches!(waiting, Waiting::ForSight { .. });
    if !plan.waiting().iter().any(is_said) {
        all.extend(unseen(desired, actual));
    }
    all
}

/// Says which data holds more than it may, cannot be read and stands in no plan's way, or was taken over from who still says
/// that it owns it.
pub(crate) fn cautions(actual: &ClusterState, desired: &Deployment, plan: Option<&Plan>) -> Vec<String> {
    let of = |dataset: DatasetId, state: &NodeState| match owner(dataset, desired, state) {
        Some(application) => format!("the data of {application}"),
        None => format!("dataset {dataset}"),
    };
    let mut cautions = Vec::new();
    for (node, state) in actual.all_known() {
        for (dataset, copy) in &state.datasets {
            let used = copy.used;
            // Not every kind of volume keeps it from that.
            if let Some(maximum) = copy.maximum_size.filter(|maximum| *maximum < used) {
                let of = of(*dataset, state);
                cautions.push(format!(
                    "{of} on {node} holds {used}, more than the {maximum} that it may: this node does not keep it from growing, and hands it over to nobody until it fits"
                ));
            }
        }
        for (dataset, reason) in &state.unreadable {
            let is_said = |refusal: &Refusal| matches!(refusal, Refusal::Unreadable { dataset: of, on, .. } if of == dataset && on == node);
            if !plan.is_some_and(|plan| plan.refused().iter().any(is_said)) {
                let of = of(*dataset, state);
                cautions.push(format!(
                    "{of} on {node} cannot be read, and is left alone: {reason}"
                ));
            }
        }
    }
    cautions.extend(contradicted(actual, desired).iter().map(ToString::to_string));
    cautions
}

/// What a node that was put back says it owns, and others know to be another's.
#[derive(Debug)]
pub(crate) struct Contradicted {
    pub(crate) node: NodeName,
    /// The application, or the dataset where that is not known: as `promote` takes it.
    what: String,
    against: Against,
}

/// What is seen beside such a claim.
#[derive(Debug, PartialEq, Eq)]
enum Against {
    /// The copy of an owner of a newer ownership.
    Newer(NodeName),
    /// A copy that was let go for a newer ownership, which nobody has begun.
    LetGo { by: NodeName, to: NodeName },
    /// The copy of an owner of an older ownership.
    Older(NodeName),
    /// The copy of an owner of the very same: nothing says which is newer.
    Same(NodeName),
    /// Something of it that cannot be read.
    Unreadable(NodeName),
    /// That there was a newer ownership, and no copy of it.
    Memory,
}

impl Contradicted {
    /// Returns what decides it in favour of the newest copy that is left.
    pub(crate) fn command(&self) -> String {
        let on = match &self.against {
            Against::LetGo { .. } => return "flocker deploy".into(),
            Against::Unreadable(_) => return "flocker status".into(),
            Against::Newer(owner) | Against::Same(owner) => owner,
            Against::Older(_) | Against::Memory => &self.node,
        };
        format!("flocker promote {} --on {on}", self.what)
    }
}

impl fmt::Display for Contradicted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { node, what, against } = self;
        let command = self.command();
        write!(
            f,
            "{node} was put back from an older copy and says that it owns the data of {what}, "
        )?;
        match against {
            Against::Newer(_) => write!(
                f,
                "which was taken over from it since: `{command}` keeps the newer copy, and `--on {node}` the older one"
            ),
            Against::LetGo { by, to } => write!(
                f,
                "which {by} has let go to {to} since: `{command}` finishes that, with the newest copy"
            ),
            Against::Older(other) => write!(
                f,
                "and {other} says so with less right: `{command}` keeps the newer copy, and `--on {other}` the older one"
            ),
            Against::Same(other) => write!(
                f,
                "and {other} says so with the same right: `{command}` keeps that copy, and `--on {node}` the other one; look at both before"
            ),
            Against::Unreadable(on) => write!(
                f,
                "and {on} has something of it that cannot be read: `{command}` says what, and nothing is decided before"
            ),
            Against::Memory => write!(
                f,
                "which was taken over from it since, and no newer copy is seen: where none can be brought back, `{command}` lets it own that again"
            ),
        }
    }
}

/// Finds the newest that is seen beside the claim of one node.
fn against(actual: &ClusterState, node: &NodeName, dataset: DatasetId) -> Against {
    let epoch_of = |role: &Role| match role {
        Role::Primary { epoch } | Role::Released { epoch, .. } => Some(*epoch),
        Role::Replica => None,
    };
    let own = actual.known(node).and_then(|state| state.datasets.get(&dataset));
    let own = own.and_then(|copy| epoch_of(&copy.role));
    let others = || actual.all_known().filter(|(other, _)| *other != node);
    if let Some((on, _)) = others().find(|(_, state)| state.unreadable.contains_key(&dataset)) {
        return Against::Unreadable(on.clone());
    }
    let claims = others().filter_map(|(other, state)| {
        let role = &state.datasets.get(&dataset)?.role;
        // Of two with the same right, who has taken it over goes before who has let it go.
        Some((
            (epoch_of(role)?, matches!(role, Role::Primary { .. })),
            other,
            role,
        ))
    });
    let newest = claims.max_by_key(|(right, other, _)| (*right, *other));
    match newest {
        Some(((epoch, _), by, Role::Released { to, .. })) if Some(epoch) > own => Against::LetGo {
            by: by.clone(),
            to: to.clone(),
        },
        Some(((epoch, true), other, _)) => match Some(epoch).cmp(&own) {
            Ordering::Greater => Against::Newer(other.clone()),
            Ordering::Equal => Against::Same(other.clone()),
            Ordering::Less => Against::Older(other.clone()),
        },
        Some(_) | None => Against::Memory,
    }
}

/// Returns what is contradicted of all that nodes which were put back say they own.
pub(crate) fn contradicted(actual: &ClusterState, desired: &Deployment) -> Vec<Contradicted> {
    let mut all = Vec::new();
    for (node, datasets) in older_owners(actual) {
        for dataset in datasets {
            // Only by the files is a name surely that of this data.
            let user = desired.applications().iter().find(|(_, application)| {
                let volume = application.volume.as_ref();
                volume.is_some_and(|volume| volume.dataset == dataset)
            });
            all.push(Contradicted {
                what: user.map_or_else(|| dataset.to_string(), |(name, _)| name.to_string()),
                against: against(actual, &node, dataset),
                node: node.clone(),
            });
        }
    }
    all
}

/// Says whether a plan leaves something undone that no next plan does by itself.
pub(crate) fn is_blocked(plan: &Plan) -> bool {
    // Another copy round follows by itself.
    let waits = |waiting: &Waiting| !waiting.is_for_a_copy();
    plan.waiting().iter().any(waits) || !plan.refused().is_empty()
}

/// The body of a JSON document that has a plan in it.
#[derive(Debug, Serialize)]
pub(crate) struct Body<'a> {
    generation: u64,
    settled: bool,
    steps: Vec<ShownStep<'a>>,
    waiting: Vec<Blocked<&'a Waiting>>,
    refused: Vec<Blocked<&'a Refusal>>,
    kept: &'a [Kept],
    estimate: Estimate,
    silent: Vec<Silent<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    warnings: Vec<String>,
}

impl<'a> Body<'a> {
    /// Adds what the plan waits for and does not say itself.
    pub(crate) fn and_waits_for(mut self, unsaid: &'a [Waiting]) -> Self {
        self.settled &= unsaid.is_empty();
        self.waiting.extend(unsaid.iter().map(Blocked::waiting));
        self
    }
}

#[derive(Debug, Serialize)]
struct ShownStep<'a> {
    id: StepId,
    why: String,
    #[serde(flatten)]
    step: &'a Step,
}

impl<'a> ShownStep<'a> {
    fn new(step: &'a Step) -> Self {
        Self {
            id: step.id(),
            why: step.reason.to_string(),
            step,
        }
    }
}

/// Something left undone, with the sentence and the hint that people read.
#[derive(Debug, Serialize)]
pub(crate) struct Blocked<T> {
    #[serde(flatten)]
    what: T,
    message: String,
    hint: String,
}

impl<T> Blocked<T> {
    pub(crate) fn message(&self) -> &str {
        &self.message
    }

    pub(crate) fn hint(&self) -> &str {
        &self.hint
    }

    /// Says something else about what can be done, where more is known than the plan knows.
    pub(crate) fn with_hint(self, hint: &str) -> Self {
        Self {
            hint: hint.into(),
            ..self
        }
    }
}

impl<'a> Blocked<&'a Waiting> {
    pub(crate) fn waiting(what: &'a Waiting) -> Self {
        Self {
            what,
            message: what.to_string(),
            hint: what.hint(),
        }
    }
}

impl<'a> Blocked<&'a Refusal> {
    pub(crate) fn refused(what: &'a Refusal) -> Self {
        Self {
            what,
            message: what.to_string(),
            hint: what.hint(),
        }
    }
}

#[derive(Debug, Serialize)]
struct Silent<'a> {
    node: &'a NodeName,
    #[serde(flatten)]
    cause: &'a Silence,
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::net::IpAddr;
    use std::time::Duration;

    use flocker_model::BootId;
    use flocker_model::ByteSize;
    use flocker_model::DefinitionKey;
    use flocker_model::Epoch;
    use flocker_model::Generation;
    use flocker_model::Keeps;
    use flocker_model::Manifestation;
    use flocker_model::NodeId;
    use flocker_model::RouteTable;
    use flocker_model::SnapshotGuid;
    use flocker_model::SnapshotName;

    use super::*;

    fn dataset() -> DatasetId {
        DatasetId(uuid::Uuid::from_u128(1))
    }

    fn owns(epoch: u64) -> Role {
        Role::Primary { epoch: Epoch(epoch) }
    }

    fn let_go(epoch: u64, to: &str) -> Role {
        Role::Released {
            epoch: Epoch(epoch),
            to: to.parse().unwrap(),
            last: SnapshotName::warm(Epoch(epoch), 1),
            guid: SnapshotGuid(1),
        }
    }

    /// A node with a copy in some role, or with something that cannot be read.
    fn node(number: u128, role: Option<Role>) -> NodeState {
        let unreadable = role.is_none().then(|| (dataset(), "it is damaged".to_owned()));
        let copy = role.map(|role| Manifestation {
            role,
            snapshots: Vec::new(),
            maximum_size: None,
            used: ByteSize(0),
            unsent: ByteSize(0),
            findings: None,
            partial: None,
            fence: Epoch(0),
            age: Duration::ZERO,
        });
        NodeState {
            id: NodeId(uuid::Uuid::from_u128(number)),
            boot: BootId(uuid::Uuid::from_u128(number)),
            address: IpAddr::from([192, 0, 2, 1]),
            generation: Generation(1),
            key: DefinitionKey::new([0; 32]),
            datasets: copy.map(|copy| (dataset(), copy)).into_iter().collect(),
            containers: BTreeMap::new(),
            routes: RouteTable::default(),
            trash: Vec::new(),
            fences: BTreeMap::new(),
            unreadable: unreadable.into_iter().collect(),
            free: None,
            keeps: Keeps::Lists,
            foreign_ports: BTreeSet::new(),
            peers: BTreeMap::new(),
            forgotten: BTreeMap::new(),
        }
    }

    /// Which copy is the newest is told by its right, whoever has it, and whatever became of that right.
    #[test]
    fn the_newest_copy_is_the_one_that_is_named() {
        let beta: NodeName = "beta".parse().unwrap();
        let gamma = || "gamma".parse().unwrap();
        let found = |alpha: Role, beta: Option<Role>| {
            let nodes = [("alpha", node(1, Some(alpha))), ("beta", node(2, beta))];
            let nodes = nodes.map(|(name, state)| (name.parse().unwrap(), Observed::Known(state)));
            let actual = ClusterState { nodes: nodes.into() };
            against(&actual, &"alpha".parse().unwrap(), dataset())
        };
        assert_eq!(found(owns(3), Some(owns(4))), Against::Newer(beta.clone()));
        assert_eq!(found(owns(3), Some(owns(2))), Against::Older(beta.clone()));
        assert_eq!(found(owns(3), Some(owns(3))), Against::Same(beta.clone()));
        let by_beta = Against::LetGo {
            by: beta.clone(),
            to: gamma(),
        };
        assert_eq!(found(owns(3), Some(let_go(5, "gamma"))), by_beta);
        assert_eq!(
            found(let_go(5, "gamma"), Some(owns(3))),
            Against::Older(beta.clone())
        );
        assert_eq!(found(owns(3), Some(Role::Replica)), Against::Memory);
        assert_eq!(found(owns(3), None), Against::Unreadable(beta));
    }
}
