//! A plan that was written down, and is carried out later: exactly, or not at all.
//!
//! A saved plan still holds when planning again gives the same plan. What
//! changes without changing the plan (ages, byte counts, a node's free space)
//! is noise; anything else is shown as a difference.

use std::collections::BTreeMap;

use flocker_model::BootId;
use flocker_model::ByteSize;
use flocker_model::ClusterState;
use flocker_model::Deployment;
use flocker_model::NodeId;
use flocker_model::NodeName;
use serde::Deserialize;
use serde::Serialize;
use thiserror::Error;

use crate::action::Action;
use crate::blocked::Refusal;
use crate::plan::Plan;
use crate::policy::Policy;
use crate::step::Step;

/// The version of the format that this program writes and reads.
pub const VERSION: u32 = 1;

/// A plan with what it takes to see later whether it still holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SavedPlan {
    version: u32,
    plan: Plan,
    policy: Policy,
    nodes: BTreeMap<NodeName, Machine>,
}

/// Which machine a node was, in which boot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Machine {
    /// Who it was.
    pub id: NodeId,
    /// Which boot of it.
    pub boot: BootId,
}

/// Why a saved plan cannot be read.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum SavedPlanError {
    /// It is not a saved plan.
    #[error("this is not a saved plan")]
    Format {
        /// What is wrong with it.
        source: serde_json::Error,
    },
    /// Another version of this program wrote it.
    #[error("this plan has format version {found}; this program reads version {VERSION}")]
    Version {
        /// Its version.
        found: u64,
    },
}

/// How the cluster differs from what a saved plan was made for.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum Difference {
    /// A step of the saved plan would not be made now.
    #[error("no longer to be done: {0}")]
    Gone(String),
    /// A step would be made now that the saved plan does not have.
    #[error("now to be done as well: {0}")]
    New(String),
    /// A node is another machine, was started again, or is silent.
    #[error("{node} {what}")]
    Node {
        /// The node.
        node: NodeName,
        /// What is different about it.
        what: &'static str,
    },
    /// Something waits or is refused now that was not, or the other way round.
    #[error("{0}")]
    Blocked(String),
}

impl SavedPlan {
    /// Keeps a plan with what it was made from.
    #[must_use]
    pub fn new(plan: Plan, policy: Policy, actual: &ClusterState) -> Self {
        let nodes = actual
            .all_known()
            .map(|(name, node)| {
                (
                    name.clone(),
                    Machine {
                        id: node.id,
                        boot: node.boot,
                    },
                )
            })
            .collect();
        Self {
            version: VERSION,
            plan,
            policy,
            nodes,
        }
    }

    /// Reads what [`SavedPlan::write`] wrote.
    pub fn read(text: &str) -> Result<Self, SavedPlanError> {
        let format = |source| SavedPlanError::Format { source };
        let value: serde_json::Value = serde_json::from_str(text).map_err(format)?;
        match value.get("version").and_then(serde_json::Value::as_u64) {
            Some(version) if version != u64::from(VERSION) => Err(SavedPlanError::Version { found: version }),
            Some(_) | None => serde_json::from_value(value).map_err(format),
        }
    }

    /// Writes it down. No secret is in it: definitions are there as fingerprints only.
    pub fn write(&self) -> Result<String, serde_json::Error> {
        serde_json::to_string_pretty(self).map(|text| text + "\n")
    }

    /// Returns the plan as it was saved.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Returns the policy with which it was made, and with which it is carried out.
    #[must_use]
    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    /// Says whether the plan still holds, or everything that is different.
    pub fn check(&self, desired: &Deployment, actual: &ClusterState) -> Result<(), Vec<Difference>> {
        let mut differences = Vec::new();
        for (node, machine) in &self.nodes {
            let what = match actual.known(node) {
                None => Some("is silent now"),
                Some(now) if now.id != machine.id => Some("is another machine now"),
                Some(now) if now.boot != machine.boot => Some("was started again since"),
                Some(_) => None,
            };
            differences.extend(what.map(|what| Difference::Node {
                node: node.clone(),
                what,
            }));
        }
        let now = crate::plan(desired, actual, &self.policy);
        let saved_steps: BTreeMap<_, _> = self.plan.steps().iter().map(|step| (step.id(), step)).collect();
        let steps: BTreeMap<_, _> = now.steps().iter().map(|step| (step.id(), step)).collect();
        for (id, step) in &saved_steps {
            if !steps.get(id).is_some_and(|now| is_same(step, now)) {
                differences.push(Difference::Gone(id.to_string()));
            }
        }
        for (id, step) in &steps {
            if !saved_steps.get(id).is_some_and(|saved| is_same(saved, step)) {
                differences.push(Difference::New(id.to_string()));
            }
        }
        // What waits has byte counts in it, which are noise.
        let waiting = |plan: &Plan| {
            let all = plan.waiting().iter();
            all.map(|waiting| (std::mem::discriminant(waiting), waiting.application().cloned()))
                .collect::<Vec<_>>()
        };
        let refused = |plan: &Plan| plan.refused().iter().map(without_noise).collect::<Vec<_>>();
        if waiting(&self.plan) != waiting(&now) || refused(&self.plan) != refused(&now) {
            let said = now.waiting().iter().map(ToString::to_string);
            let said: Vec<String> = said
                .chain(now.refused().iter().map(ToString::to_string))
                .collect();
            let said = if said.is_empty() {
                "nothing waits any more".into()
            } else {
                said.join("; ")
            };
            differences.push(Difference::Blocked(said));
        }
        if differences.is_empty() {
            Ok(())
        } else {
            Err(differences)
        }
    }
}

/// Returns a refusal without what changes while nothing does: how much data is there and is free, and how it is told.
fn without_noise(refusal: &Refusal) -> Refusal {
    let mut refusal = refusal.clone();
    match &mut refusal {
        Refusal::NoRoom { needed, free, .. } => (*needed, *free) = (ByteSize(0), ByteSize(0)),
        Refusal::LargerThanLimit { used, .. } => *used = ByteSize(0),
        Refusal::Unreadable { reason, .. } => reason.clear(),
        Refusal::SplitOwnership { .. }
        | Refusal::NoOwner { .. }
        | Refusal::LastSnapshot { .. }
        | Refusal::InTrash { .. }
        | Refusal::PortTaken { .. }
        | Refusal::StopAll { .. }
        | Refusal::Returned { .. }
        | Refusal::Outdated { .. }
        | Refusal::Circle { .. }
        | Refusal::NotPromoted { .. }
        | Refusal::NotRestored { .. } => {}
    }
    refusal
}

/// Compares two steps of one name; how much was written into a base snapshot is for forecasts only.
fn is_same(saved: &Step, now: &Step) -> bool {
    let action = match (&saved.action, &now.action) {
        (
            Action::Push {
                dataset,
                snapshot,
                base,
                to,
            },
            Action::Push {
                dataset: dataset_now,
                snapshot: snapshot_now,
                base: base_now,
                to: to_now,
            },
        ) => {
            let guid = |base: &Option<Box<flocker_model::Snapshot>>| base.as_ref().map(|base| base.guid);
            dataset == dataset_now && snapshot == snapshot_now && guid(base) == guid(base_now) && to == to_now
        }
        (saved, now) => saved == now,
    };
    let needs = |step: &Step| {
        step.needs
            .iter()
            .map(|need| need.fact.clone())
            .collect::<Vec<_>>()
    };
    action && needs(saved) == needs(now)
}
