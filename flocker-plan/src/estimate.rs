//! A forecast: how much is copied, how long that takes, how long each application is away.
//!
//! It says with which inputs it was made, so that afterwards forecast and
//! actual can be held side by side.

use std::time::Duration;

use flocker_model::ApplicationName;
use flocker_model::ByteSize;
use flocker_model::ClusterState;
use flocker_model::NodeName;
use serde::Deserialize;
use serde::Serialize;

use crate::action::Action;
use crate::plan::Plan;
use crate::policy::Policy;
use crate::policy::Rates;
use crate::replicate::expected_since;
use crate::replicate::least_round;
use crate::step::Reason;

/// What a plan is expected to cost.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Estimate {
    /// How much is copied.
    pub bytes: ByteSize,
    /// How long copying takes, one copy after the other.
    pub copying: Duration,
    /// What it means for each application that is away for a while.
    pub applications: Vec<ApplicationEstimate>,
    /// With which speeds this was worked out.
    pub rates: Rates,
}

/// What a plan is expected to cost one application.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApplicationEstimate {
    /// The application.
    pub application: ApplicationName,
    /// From where it moves; nothing where it restarts in place.
    pub from: Option<NodeName>,
    /// Where it runs afterwards.
    pub to: NodeName,
    /// How much is copied while it still runs.
    pub ahead: ByteSize,
    /// How much is left to copy after it was stopped.
    pub last_round: ByteSize,
    /// Whether the last round is a guess, because it lies behind copies that are not made yet.
    pub last_round_is_guessed: bool,
    /// How long the last round takes whatever is copied, because every file is looked at.
    #[serde(default, skip_serializing_if = "Duration::is_zero")]
    pub round: Duration,
    /// How long it is away.
    pub downtime: Duration,
}

/// Forecasts a plan from the state that it was made from.
#[must_use]
pub fn estimate(plan: &Plan, actual: &ClusterState, policy: &Policy) -> Estimate {
    let mut made = Estimate {
        bytes: ByteSize(0),
        copying: Duration::ZERO,
        applications: Vec::new(),
        rates: policy.rates.clone(),
    };
    for step in plan.steps() {
        match (&step.action, &*step.reason) {
            (
                Action::Push {
                    dataset,
                    snapshot,
                    base,
                    to,
                },
                Reason::Moves {
                    application, from, ..
                },
            ) => {
                let source = actual
                    .known(&step.actor)
                    .and_then(|node| node.datasets.get(&dataset.id));
                let target = actual.known(to).and_then(|node| node.datasets.get(&dataset.id));
                let arrived = target
                    .and_then(|copy| copy.partial.as_ref())
                    .filter(|partial| partial.snapshot == *snapshot)
                    .map_or(0, |partial| partial.received.0);
                let epoch = snapshot.epoch().unwrap_or_default();
                let delta = source.map_or(ByteSize(0), |source| {
                    expected_since(source, base.as_deref(), epoch)
                });
                let bytes = ByteSize(delta.0.saturating_sub(arrived));
                made.bytes = made.bytes.plus(bytes);
                let is_ahead = plan
                    .waiting()
                    .iter()
                    .any(|waiting| waiting.application() == Some(application));
                // What is written while the copies are made is not known before they are.
                let last_round = if is_ahead { ByteSize(0) } else { bytes };
                let round = source.map_or(Duration::ZERO, |source| least_round(source, target));
                made.applications.push(ApplicationEstimate {
                    application: application.clone(),
                    from: Some(from.clone()),
                    to: to.clone(),
                    ahead: if is_ahead { bytes } else { ByteSize(0) },
                    last_round,
                    last_round_is_guessed: is_ahead,
                    round,
                    downtime: policy.rates.downtime(last_round, round),
                });
            }
            (Action::Start { application, .. }, Reason::Restarts { on, .. }) => {
                made.applications.push(ApplicationEstimate {
                    application: application.clone(),
                    from: None,
                    to: on.clone(),
                    ahead: ByteSize(0),
                    last_round: ByteSize(0),
                    last_round_is_guessed: false,
                    round: Duration::ZERO,
                    downtime: policy.rates.stop.saturating_add(policy.rates.start),
                });
            }
            (_, _) => {}
        }
    }
    made.copying = policy.rates.copying(made.bytes);
    made
}
