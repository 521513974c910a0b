//! What is looked at before a deploy changes anything: all that could stop it half way, at once.
//!
//! The machines are looked at as `flocker doctor` does it; beyond that, only
//! what the plan itself is about: room for what arrives, images, ports.

use std::collections::BTreeMap;
use std::collections::BTreeSet;

use flocker_model::ByteSize;
use flocker_model::ClusterState;
use flocker_model::DatasetId;
use flocker_model::Deployment;
use flocker_model::ExternalPort;
use flocker_model::Image;
use flocker_model::NodeAddress;
use flocker_model::NodeName;
use flocker_plan::Action;
use flocker_plan::Plan;
use tokio::task::JoinSet;

use crate::checkup::by_ssh;
use crate::checkup::in_use;
use crate::checkup::reached_from_itself;
use crate::cluster::Cluster;
use crate::error::Failure;
use crate::real::Closely;
use crate::real::Examination;
use crate::real::Finding;
use crate::real::ImageSight;
use crate::real::Weight;

/// So much more than what arrives must be free: snapshots are kept for a while, and file systems need some themselves.
const SLACK: u64 = 64 << 20;

/// What the room of a machine, or of its data, is called.
const ROOM: &str = "room";

/// What was found, by node.
#[derive(Debug, Default)]
pub(super) struct Preflight {
    found: Vec<(NodeName, Finding)>,
    /// The nodes that are processes of this machine: nothing has to be made ready for them.
    local: BTreeSet<NodeName>,
}

/// Looks at every node that a plan touches. Changes nothing.
pub(super) async fn look(cluster: &Cluster, plan: &Plan, actual: &ClusterState) -> Preflight {
    let desired = &cluster.desired;
    let starts = starts(plan, desired);
    let images: BTreeSet<Image> = starts.values().flatten().cloned().collect();
    let ports: BTreeSet<ExternalPort> = desired
        .applications()
        .values()
        .flat_map(|application| application.ports.iter().map(|port| port.external))
        .collect();
    // A node of which the plan leaves a port alone, because somebody else has it, is touched all the same.
    let is_taken = |name: &NodeName| {
        let state = actual.known(name);
        state.is_some_and(|state| !state.foreign_ports.is_disjoint(&ports))
    };
    let members = desired.members().keys().filter(|name| is_taken(name));
    let steps = plan.steps().iter();
    let touched: BTreeSet<&NodeName> = steps.map(|step| &step.actor).chain(members).collect();
    let mut looks = JoinSet::new();
    for (name, address) in cluster.addresses() {
        let is_asked = match address {
            NodeAddress::Ssh { .. } => {
                touched.contains(&name) || (!images.is_empty() && actual.known(&name).is_some())
            }
            // It is of this very program, and all its tools are this machine's.
            NodeAddress::Local { .. } => false,
        };
        if !is_asked {
            continue;
        }
        let ways = cluster.ways();
        let closely = Closely {
            images: images.clone(),
            ports: ports.clone(),
        };
        looks.spawn(async move {
            let seen = by_ssh(&ways, &address, &closely).await;
            (name, seen)
        });
    }
    let mut seen: BTreeMap<NodeName, (Vec<Finding>, Option<Examination>)> = BTreeMap::new();
    while let Some(look) = looks.join_next().await {
        seen.extend(look.ok());
    }
    let addresses = cluster.addresses().into_iter();
    let local = addresses.filter(|(_, address)| matches!(address, NodeAddress::Local { .. }));
    let mut preflight = Preflight {
        found: Vec::new(),
        local: local.map(|(name, _)| name).collect(),
    };
    for (name, (findings, examination)) in &seen {
        if !touched.contains(name) {
            continue;
        }
        preflight.add(name, findings.iter().cloned().map(as_here));
        let Some(examination) = examination else {
            continue;
        };
        if let Some(state) = actual.known(name) {
            preflight.add(name, in_use(&ports, &state.foreign_ports, &examination.listeners));
        }
        let wanted = starts.get(name).into_iter().flatten();
        preflight.add(
            name,
            wanted.filter_map(|image| image_for(name, image, examination, &seen)),
        );
    }
    let seen = actual.all_known();
    let addresses = seen.map(|(name, state)| (name.clone(), state.address)).collect();
    for (name, finding) in reached_from_itself(&addresses) {
        preflight.add(&name, [finding]);
    }
    for (name, needed) in arriving(plan, actual) {
        let free = actual.known(&name).and_then(|state| state.free);
        let more = if preflight.local.contains(&name) {
            "make room in the file system of the state directory"
        } else {
            "add a device to the pool"
        };
        preflight.add(&name, room(needed, free, more));
    }
    preflight
}

impl Preflight {
    fn add(&mut self, node: &NodeName, findings: impl IntoIterator<Item = Finding>) {
        let findings = findings
            .into_iter()
            .filter(|finding| finding.weight > Weight::Good);
        self.found.extend(findings.map(|finding| (node.clone(), finding)));
    }

    /// Returns what is good to know, a line each.
    pub(super) fn notes(&self) -> Vec<String> {
        self.of(Weight::Note)
    }

    /// Refuses where anything is in the way, and names all of it.
    pub(super) fn verdict(&self) -> Result<(), Failure> {
        let problems = self.of(Weight::Problem);
        if problems.is_empty() {
            return Ok(());
        }
        let n_problems = problems.len();
        let what = if n_problems == 1 { "thing is" } else { "things are" };
        let mut failure = Failure::failed(format!("{n_problems} {what} in the way, and nothing was changed"))
            .hint(self.next());
        failure.causes = problems;
        Err(failure)
    }

    /// Says what helps beside the hints of the problems themselves.
    fn next(&self) -> &'static str {
        let mut problems = self
            .found
            .iter()
            .filter(|(_, finding)| finding.weight == Weight::Problem);
        if problems.all(|(node, _)| self.local.contains(node)) {
            "`flocker doctor` looks again"
        } else {
            "`flocker doctor` looks again; `flocker node prepare NODE` sees to what is missing"
        }
    }

    fn of(&self, weight: Weight) -> Vec<String> {
        let found = self.found.iter().filter(|(_, finding)| finding.weight == weight);
        found
            .map(|(node, finding)| {
                let hint = finding
                    .hint
                    .as_ref()
                    .map_or(String::new(), |hint| format!(" ({hint})"));
                format!("{node}: {}: {}{hint}", finding.subject, finding.said)
            })
            .collect()
    }
}

/// Weighs a finding for a deploy: a machine that is nearly full may be left, and what arrives is counted for itself.
fn as_here(mut finding: Finding) -> Finding {
    if finding.subject == ROOM {
        finding.weight = finding.weight.min(Weight::Note);
    }
    finding
}

/// Returns the images of what is started, by node.
fn starts(plan: &Plan, desired: &Deployment) -> BTreeMap<NodeName, BTreeSet<Image>> {
    let mut starts: BTreeMap<NodeName, BTreeSet<Image>> = BTreeMap::new();
    for step in plan.steps() {
        if let Action::Prepare { application, .. } | Action::Start { application, .. } = &step.action
            && let Some(application) = desired.application(application)
        {
            let images = starts.entry(step.actor.clone()).or_default();
            images.insert(application.image.clone());
        }
    }
    starts
}

/// Says how a node gets an image that it lacks.
fn image_for(
    node: &NodeName,
    image: &Image,
    examination: &Examination,
    seen: &BTreeMap<NodeName, (Vec<Finding>, Option<Examination>)>,
) -> Option<Finding> {
    match examination.images.get(image)? {
        ImageSight::Here | ImageSight::Pullable => return None,
        ImageSight::Missing => {}
    }
    let has_it = |examination: &Examination| examination.images.get(image) == Some(&ImageSight::Here);
    let mut others = seen.iter().filter(|(other, _)| *other != node);
    let giver = others.find(|(_, (_, examination))| examination.as_ref().is_some_and(has_it));
    if let Some((giver, _)) = giver {
        let said = format!("`{image}` is not there and cannot be pulled; it is brought, as {giver} has it");
        return Some(Finding::new("image", Weight::Note, said));
    }
    let said = format!("`{image}` is not there, cannot be pulled, and no node has it");
    let finding = Finding::new("image", Weight::Problem, said);
    Some(
        finding.hint(
            "see that it is written right, and that the node may pull it; or `docker load` it on any node",
        ),
    )
}

/// Returns how much arrives at each node by this plan.
fn arriving(plan: &Plan, actual: &ClusterState) -> BTreeMap<NodeName, ByteSize> {
    let mut largest: BTreeMap<(NodeName, DatasetId), ByteSize> = BTreeMap::new();
    for step in plan.steps() {
        let Action::Push {
            dataset, base, to, ..
        } = &step.action
        else {
            continue;
        };
        let state = actual.known(&step.actor);
        let Some(seen) = state.and_then(|state| state.datasets.get(&dataset.id)) else {
            continue;
        };
        let size = match base {
            None => seen.used,
            Some(base) => {
                let newer = seen
                    .snapshots
                    .iter()
                    .skip_while(|snapshot| snapshot.guid != base.guid);
                newer
                    .skip(1)
                    .fold(seen.unsent, |sum, snapshot| sum.plus(snapshot.written))
            }
        };
        // What has arrived of it takes room already, or goes when another copy comes.
        let there = actual.known(to).and_then(|state| state.datasets.get(&dataset.id));
        let arrived = there.and_then(|copy| copy.partial.as_ref());
        let arrived = arrived.map_or(0, |partial| partial.received.0);
        let size = ByteSize(size.0.saturating_sub(arrived));
        let known = largest.entry((to.clone(), dataset.id)).or_insert(ByteSize(0));
        *known = (*known).max(size);
    }
    let mut arriving: BTreeMap<NodeName, ByteSize> = BTreeMap::new();
    for ((node, _), size) in largest {
        let sum = arriving.entry(node).or_insert(ByteSize(0));
        *sum = sum.plus(size);
    }
    arriving
}

/// Says where less is free than what arrives needs, and where `more` can be had. Where it is not known, nothing is said.
fn room(arriving: ByteSize, free: Option<ByteSize>, more: &str) -> Option<Finding> {
    let free = free?;
    let needed = arriving.plus(ByteSize(SLACK));
    (arriving > ByteSize(0) && free < needed).then(|| {
        let said = format!(
            "{free} are free for data, and {needed} are needed: {arriving} arrive, and {} are kept free for snapshots and for the file system itself",
            ByteSize(SLACK)
        );
        let hint = format!("`flocker gc` gives back what has been in the trash for long; or {more}");
        Finding::new(ROOM, Weight::Problem, said).hint(hint)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_is_told_before_it_is_sent() {
        let free = |n_mib: u64| Some(ByteSize(n_mib << 20));
        let arriving = ByteSize(100 << 20);
        let room = |arriving, free| room(arriving, free, "buy some");
        assert_eq!(room(arriving, None), None);
        assert_eq!(room(arriving, free(164)), None);
        assert_eq!(room(ByteSize(0), free(1)), None);
        let found = room(arriving, free(163)).unwrap();
        assert_eq!(found.weight, Weight::Problem);
        // It would fit, if nothing were kept free: that is part of the sum.
        assert!(
            found
                .said
                .contains("164.0 MiB are needed: 100.0 MiB arrive, and 64.0 MiB are kept free"),
            "{found:?}"
        );
    }

    #[test]
    fn a_machine_that_is_nearly_full_may_be_left() {
        let found = |subject| Finding::new(subject, Weight::Problem, "little");
        assert_eq!(as_here(found(ROOM)).weight, Weight::Note);
        assert_eq!(as_here(found("zfs")).weight, Weight::Problem);
    }

    #[test]
    fn all_that_is_in_the_way_is_told_at_once() {
        let mut preflight = Preflight::default();
        let node: NodeName = "alpha".parse().unwrap();
        preflight.add(
            &node,
            [
                Finding::new("ssh", Weight::Good, "fine"),
                Finding::new("clock", Weight::Note, "late"),
            ],
        );
        preflight.verdict().unwrap();
        assert_eq!(preflight.notes(), ["alpha: clock: late"]);
        let taken = Finding::new("ports", Weight::Problem, "80").hint("stop it");
        preflight.add(&node, [taken, Finding::new("room", Weight::Problem, "full")]);
        let failure = preflight.verdict().unwrap_err();
        assert_eq!(
            failure.message,
            "2 things are in the way, and nothing was changed"
        );
        assert_eq!(
            failure.causes,
            ["alpha: ports: 80 (stop it)", "alpha: room: full"]
        );
        assert!(failure.hint.unwrap().contains("node prepare"));
        // Nothing is made ready of what is a process of this machine.
        preflight.local.insert(node);
        let failure = preflight.verdict().unwrap_err();
        assert_eq!(failure.hint.unwrap(), "`flocker doctor` looks again");
    }
}
