//! One turn of an agent: a node that brings itself to what is desired.

use std::sync::Arc;

use flocker_model::ClusterState;
use flocker_model::Deployment;
use flocker_model::NodeName;
use flocker_model::Observed;
use flocker_plan::Plan;
use flocker_plan::Policy;

use crate::execute::Execution;
use crate::execute::execute;
use crate::handles::Handles;
use crate::node_error::NodeError;
use crate::report::Report;

/// What a node planned for the cluster, and how its own part of that went.
#[derive(Clone, Debug)]
pub struct AgentTurn {
    /// The plan for the whole cluster.
    pub plan: Plan,
    /// How the steps of this node ended that waited for no other node.
    pub report: Report,
}

/// Takes one turn: looks at this node, plans, and does what is this node's and waits for nobody.
///
/// `others` is what the other nodes have reported; what it says of this node
/// is replaced by a fresh look. Agents hold no locks and wait for each other
/// only by facts: what another node has to do first is left for a later turn.
pub async fn agent_turn(
    me: &NodeName,
    desired: &Deployment,
    others: &ClusterState,
    handles: &Handles,
    policy: &Policy,
    execution: &Execution,
) -> Result<AgentTurn, NodeError> {
    let address = desired
        .members()
        .get(me)
        .and_then(|member| member.address.as_ref());
    let node = handles.reach(me, address);
    let mut actual = others.clone();
    let seen = Arc::clone(&node).observe().await?;
    actual.nodes.insert(me.clone(), Observed::Known(seen));
    let plan = flocker_plan::plan(desired, &actual, policy);
    let mine = own_part(&plan, me);
    let report = execute(&mine, desired, handles, execution).await;
    Ok(AgentTurn { plan, report })
}

/// Returns the steps of one node that need nothing which a step of another node makes.
fn own_part(plan: &Plan, me: &NodeName) -> Plan {
    let mut is_mine: Vec<bool> = Vec::with_capacity(plan.steps().len());
    for (position, step) in plan.steps().iter().enumerate() {
        let makers_are_mine = plan
            .edges()
            .makers(position)
            .all(|maker| is_mine.get(maker).copied().unwrap_or(false));
        is_mine.push(step.actor == *me && makers_are_mine);
    }
    let steps = plan.steps().iter().zip(is_mine);
    Plan::new(
        plan.generation(),
        steps
            .filter(|(_, is_mine)| *is_mine)
            .map(|(step, _)| step.clone())
            .collect(),
        Vec::new(),
        Vec::new(),
        Vec::new(),
    )
}
