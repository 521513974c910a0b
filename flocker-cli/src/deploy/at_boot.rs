//! What nodes do by themselves when their machine starts anew: told to them last, once the rest is done as far as it can be.

use flocker_backends::Change;
use flocker_engine::End;
use flocker_engine::one_line;
use flocker_model::AtBoot;
use flocker_model::ClusterState;
use flocker_model::NodeAddress;
use tokio::task::JoinSet;

use crate::cluster::Cluster;
use crate::error::Failure;
use crate::ui::Ui;

/// Says whether nodes are told although nothing was done: who waits for a dead node, or is refused one thing, means the
/// rest all the same.
pub(super) fn is_told_after(end: &End) -> bool {
    match end {
        End::Settled | End::Partly { .. } => true,
        End::Interrupted { .. } | End::Declined => false,
    }
}

/// Tells every node that was seen what the files say, where they say anything. One that could not be told is a failure.
pub(super) async fn settle(cluster: &Cluster, actual: &ClusterState, ui: &Ui) -> Result<(), Failure> {
    let mut telling = JoinSet::new();
    for (name, address) in cluster.addresses() {
        let member = cluster.desired.members().get(&name);
        let at_boot = member.and_then(|member| member.setup.at_boot);
        let is_asked = match address {
            NodeAddress::Ssh { .. } => actual.known(&name).is_some(),
            // It is this machine's, and does what its person does.
            NodeAddress::Local { .. } => false,
        };
        if let Some(at_boot) = at_boot.filter(|_| is_asked) {
            let ways = cluster.ways();
            telling.spawn(async move { (name, at_boot, ways.settle_boot(&address).await) });
        }
    }
    let mut told = telling.join_all().await;
    told.sort_by(|(one, ..), (other, ..)| one.cmp(other));
    let mut failures = Vec::new();
    let mut is_new = false;
    for (name, at_boot, settled) in told {
        match (settled, at_boot) {
            (Ok(Change::AlreadySo), _) => {}
            (Ok(Change::Made), AtBoot::Start) => {
                is_new = true;
                if !ui.is_json() {
                    ui.say(&format!(
                        "{name} starts its applications by itself from now on, when its machine has started anew"
                    ));
                }
            }
            (Ok(Change::Made), AtBoot::Wait) => {
                if !ui.is_json() {
                    ui.say(&format!(
                        "{name} waits for a deploy from now on, when its machine has started anew"
                    ));
                }
            }
            (Err(error), _) => failures.push(format!("{name}: {}", one_line(&error))),
        }
    }
    if is_new {
        // What is looked at is written down for then.
        drop(cluster.observe().await);
        if !ui.is_json() {
            ui.hint("such a node asks nobody: before it is declared lost, see that it stays off");
        }
    }
    if failures.is_empty() {
        return Ok(());
    }
    let mut failure = Failure::failed("what nodes do when their machine starts anew could not be settled");
    failure.causes = failures;
    Err(failure)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_are_told_where_nothing_could_be_done_but_not_where_somebody_said_no() {
        let waits = End::Partly {
            waiting: Vec::new(),
            refused: Vec::new(),
            failed: std::collections::BTreeMap::new(),
        };
        assert!(is_told_after(&waits) && is_told_after(&End::Settled));
        assert!(!is_told_after(&End::Declined));
    }
}
