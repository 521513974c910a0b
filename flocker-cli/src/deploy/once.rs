//! One plan, carried out once: what a person asked for by name, not the files.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use flocker_engine::Claim;
use flocker_engine::Execution;
use flocker_engine::LockToken;
use flocker_engine::NodeError;
use flocker_engine::Peer;
use flocker_engine::Report;
use flocker_engine::StepReport;
use flocker_engine::announce;
use flocker_engine::behind;
use flocker_engine::clock;
use flocker_engine::has_caught_up;
use flocker_engine::leave_out_older_owners;
use flocker_engine::older_owners;
use flocker_engine::one_line;
use flocker_engine::stopper;
use flocker_model::ClusterState;
use flocker_model::Deployment;
use flocker_model::Generation;
use flocker_model::NodeName;
use flocker_plan::Plan;
use flocker_plan::Policy;
use flocker_plan::blocked::seconds;
use serde::Serialize;

use crate::cli;
use crate::cluster::Cluster;
use crate::cluster::at_next_generation;
use crate::error::Ending;
use crate::error::Failure;
use crate::progress::Loudness;
use crate::progress::Progress;
use crate::shown;
use crate::shown::Shown;
use crate::ui::Ui;

/// What is to happen to a plan that was made for a person.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Once {
    /// It is shown.
    Show,
    /// It is shown, and how to have it carried out.
    Hint,
    /// It is shown, asked about and carried out.
    Ask,
    /// It is shown and carried out.
    Go,
}

/// What becomes of nodes that were put back and say that they own what was taken over from them since.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OlderOwners {
    /// The plan decides on them.
    Decided,
    /// They are told nothing: it would hide that they were put back.
    LeftOut,
}

#[derive(Serialize)]
struct Body<'a> {
    #[serde(flatten)]
    plan: shown::Body<'a>,
    carried_out: bool,
    failed: Vec<Failed>,
    left: Vec<String>,
}

#[derive(Serialize)]
struct Failed {
    step: String,
    error: String,
}

/// Makes a plan of what is seen under the deploy locks, shows it, and carries it out if that is wanted.
///
/// Who was put back and owns what is another's by now is planned with only where that is what the plan decides.
/// Just to show it, no lock is taken. `nothing` is what to say where there is nothing in it.
pub(crate) async fn carry_out_once(
    cluster: &Cluster,
    once: Once,
    older_owners: OlderOwners,
    make: impl Fn(&Deployment, &ClusterState) -> Plan,
    nothing: &str,
    ui: &Ui,
) -> Result<Ending, Failure> {
    let policy = Policy::default();
    let observe = async || {
        let mut actual = cluster.observe().await;
        match older_owners {
            OlderOwners::Decided => {}
            OlderOwners::LeftOut => leave_out_older_owners(&mut actual),
        }
        actual
    };
    let mut actual = observe().await;
    let token = LockToken::random();
    let is_locked = matches!(once, Once::Ask | Once::Go);
    if is_locked {
        lock(cluster, &actual, token).await?;
        actual = observe().await;
    }
    let desired = at_next_generation(cluster.desired.clone(), &actual);
    let plan = make(&desired, &actual);
    let shown = Shown {
        plan: &plan,
        desired: &desired,
        actual: &actual,
        policy: &policy,
    };
    if !ui.is_json() {
        // That nothing is left to do for the files was not asked.
        if plan.is_settled() && plan.kept().is_empty() {
            ui.data(&format!("{nothing}\n"));
            shown.silent(ui);
        } else {
            shown.text(&[], ui);
        }
    }
    let is_wanted = !plan.steps().is_empty()
        && match once {
            Once::Show => false,
            Once::Hint => {
                if !ui.is_json() {
                    ui.hint("the same command with `--yes` does this");
                }
                false
            }
            Once::Ask => super::agrees(ui).await,
            Once::Go => true,
        };
    let report = if is_wanted {
        match begin(cluster, &actual, token, desired.generation()).await {
            Ok(()) => execute(cluster, &plan, &desired, &actual, token, ui).await,
            Err(failure) => Err(failure),
        }
    } else {
        Ok(Report::default())
    };
    let after = if is_wanted && report.is_ok() {
        catch_up(cluster, &actual, token, desired.generation()).await
    } else {
        None
    };
    if is_locked {
        unlock(cluster, &actual, token).await;
    }
    let report = report?;
    tell(&shown, is_wanted, &report, ui)?;
    if let Some(after) = after.filter(|_| !ui.is_json()) {
        for contradicted in shown::contradicted(&after, &desired) {
            ui.warn(&contradicted.to_string());
        }
    }
    let is_complete = report.failures().next().is_none() && report.left().next().is_none();
    let is_declined = once == Once::Ask && !is_wanted && !plan.steps().is_empty();
    if is_declined {
        ui.say("nothing was done");
    }
    Ok(if is_complete && !is_declined && !shown::is_blocked(&plan) {
        Ending::Done
    } else {
        Ending::Blocked
    })
}

fn tell(shown: &Shown<'_>, carried_out: bool, report: &Report, ui: &Ui) -> Result<(), Failure> {
    if ui.is_json() {
        let failed = report.failures().map(|(step, error)| Failed {
            step: step.id().to_string(),
            error: one_line(error),
        });
        return ui.line(&Body {
            plan: shown.body(),
            carried_out,
            failed: failed.collect(),
            left: report.left().map(|step| step.id().to_string()).collect(),
        });
    }
    for step in report.left() {
        ui.say(&format!("left: {}", step.id()));
    }
    let is_done = |step: &StepReport| matches!(step.ending, flocker_engine::Ending::Done(_));
    if carried_out && report.steps.iter().all(is_done) {
        ui.say("done");
    }
    Ok(())
}

async fn execute(
    cluster: &Cluster,
    plan: &Plan,
    desired: &Deployment,
    actual: &ClusterState,
    token: LockToken,
    ui: &Ui,
) -> Result<Report, Failure> {
    let (stopper, stop) = stopper();
    let ids: BTreeMap<_, _> = actual
        .all_known()
        .map(|(name, state)| (name.clone(), state.id))
        .collect();
    let execution = Execution {
        ids,
        homes: Execution::homes_in(actual),
        lock: Some(token),
        per_node: 16,
        bandwidth: None,
        stop,
        stop_grace: std::time::Duration::from_secs(10),
        listener: Arc::new(Progress::new(ui.clone(), desired, Loudness::All)),
    };
    tokio::select! {
        report = flocker_engine::execute(plan, desired, &cluster.handles, &execution) => Ok(report),
        () = super::interrupts(&stopper) => Err(super::stopped_at_once()),
    }
}

/// Takes the deploy lock of every seen node, in order of name; where one is held, gives the others back.
async fn lock(cluster: &Cluster, actual: &ClusterState, token: LockToken) -> Result<(), Failure> {
    for (name, _) in actual.all_known() {
        let locked = cluster
            .handle(name)?
            .lock(&claim(cluster, actual, name, token))
            .await;
        if let Err(error) = locked {
            unlock(cluster, actual, token).await;
            let hint = if let NodeError::Held { since, .. } = error {
                let ago = Duration::from_secs(clock::time_of_day().saturating_sub(since));
                format!(
                    "it has been held for {}; wait for that deploy to end; if it is gone, `flocker deploy --break-lock` takes its lock away",
                    seconds(ago)
                )
            } else {
                "`flocker status` shows which nodes answer".into()
            };
            return Err(
                Failure::failed(format!("could not take the deploy lock of {name}"))
                    .because(&error)
                    .hint(hint),
            );
        }
    }
    Ok(())
}

/// Tells every seen node that a generation begins, as every command does before the first order of it.
async fn begin(
    cluster: &Cluster,
    actual: &ClusterState,
    token: LockToken,
    generation: Generation,
) -> Result<(), Failure> {
    let mut held = Vec::new();
    for (name, _) in actual.all_known() {
        held.push((cluster.handle(name)?, claim(cluster, actual, name, token)));
    }
    let failed = announce(generation, &held, &behind(actual)).await;
    let Some((node, error)) = failed.first_key_value() else {
        return Ok(());
    };
    Err(Failure::failed(format!(
        "could not tell {node} what is to be done; nothing was done"
    ))
    .because(error)
    .hint("`flocker status` shows which nodes answer"))
}

/// Tells who was put back that it counts again, once nobody contradicts it any more and no old offer is left; returns what is
/// seen then, where there was something to decide.
///
/// Where this does not come about, the next deploy that tells the nodes anything does it.
async fn catch_up(
    cluster: &Cluster,
    before: &ClusterState,
    token: LockToken,
    generation: Generation,
) -> Option<ClusterState> {
    if behind(before).is_empty() {
        return None;
    }
    let after = cluster.observe().await;
    if has_caught_up(before, &after) {
        // That it could not be said makes nothing of what was done undone.
        begin(cluster, &after, token, generation.next()).await.ok();
    }
    (!older_owners(before).is_empty()).then_some(after)
}

fn claim(cluster: &Cluster, actual: &ClusterState, node: &NodeName, token: LockToken) -> Claim {
    Claim {
        token,
        holder: cli::person(),
        since: clock::time_of_day(),
        peers: peers(cluster, actual, node),
    }
}

fn peers(cluster: &Cluster, actual: &ClusterState, of: &NodeName) -> BTreeMap<NodeName, Peer> {
    let others = actual.all_known().filter(|(name, _)| *name != of);
    let others = others.filter_map(|(name, state)| {
        let peer = Peer {
            address: cluster.handles.get(name)?.address().clone(),
            id: Some(state.id),
            generation: Generation::default(),
        };
        Some((name.clone(), peer))
    });
    others.collect()
}

async fn unlock(cluster: &Cluster, actual: &ClusterState, token: LockToken) {
    for (name, _) in actual.all_known() {
        if let Some(handle) = cluster.handles.get(name) {
            // One that cannot be given back ends with its connection.
            handle.unlock(token).await.ok();
        }
    }
}
