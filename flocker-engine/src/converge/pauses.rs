//! How long applications were away that were started anew where they are.

use std::collections::BTreeMap;
use std::time::Duration;

use flocker_model::ApplicationName;
use flocker_model::ClusterState;
use flocker_model::NodeName;
use flocker_plan::Action;
use flocker_plan::Estimate;
use flocker_plan::Reason;
use tokio::time::Instant;

use super::course::serves;
use crate::report::Ending;
use crate::report::Report;
use crate::report::StepReport;

/// What it cost to start an application anew, because its definition has changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Restart {
    /// The application.
    pub application: ApplicationName,
    /// Where it runs.
    pub on: NodeName,
    /// How long it was expected to be away, by the plan that stopped it.
    pub forecast: Option<Duration>,
    /// How long it was away: from the beginning of its stop until it served again. Nothing where it does not yet.
    pub downtime: Option<Duration>,
}

/// One restart under way.
#[derive(Debug)]
struct Pause {
    stopped: Instant,
    forecast: Option<Duration>,
    /// Whether a start was begun since.
    is_started: bool,
    downtime: Option<Duration>,
}

impl Pause {
    fn end(&mut self, at: Option<Instant>) {
        let away = at.map(|at| at.saturating_duration_since(self.stopped));
        self.downtime = self.downtime.or(away);
    }
}

/// All restarts of a push.
#[derive(Debug, Default)]
pub(super) struct Pauses(BTreeMap<(ApplicationName, NodeName), Pause>);

impl Pauses {
    /// Takes note of one turn.
    pub(super) fn follow(&mut self, forecast: &Estimate, report: &Report) {
        for report in &report.steps {
            let node = &report.step.actor;
            if let Action::Stop { application, .. } = &report.step.action
                && matches!(*report.step.reason, Reason::Restarts { .. })
            {
                self.begin(application, node, report, forecast);
            }
            // What could not be started at once is started later, for its own sake.
            if let Action::Start { application, .. } = &report.step.action
                && let Some(pause) = self.0.get_mut(&(application.clone(), node.clone()))
            {
                pause.is_started |= report.began.is_some();
                if matches!(report.ending, Ending::Done(_)) {
                    pause.end(report.ended);
                }
            }
        }
    }

    /// A stop that is tried once more was begun the first time.
    fn begin(
        &mut self,
        application: &ApplicationName,
        on: &NodeName,
        report: &StepReport,
        forecast: &Estimate,
    ) {
        let Some(stopped) = report.began else {
            return;
        };
        let expected = forecast.applications.iter().find(|expected| {
            expected.application == *application && expected.from.is_none() && expected.to == *on
        });
        let key = (application.clone(), on.clone());
        self.0.entry(key).or_insert(Pause {
            stopped,
            forecast: expected.map(|expected| expected.downtime),
            is_started: false,
            downtime: None,
        });
    }

    /// Takes note of applications that serve although the step that started them failed, or its answer was lost.
    pub(super) fn see(&mut self, actual: &ClusterState, now: Instant) {
        for ((application, on), pause) in &mut self.0 {
            let container = actual
                .known(on)
                .and_then(|state| state.containers.get(application));
            if pause.is_started && container.is_some_and(serves) {
                pause.end(Some(now));
            }
        }
    }

    pub(super) fn finish(self) -> Vec<Restart> {
        let told = self.0.into_iter().map(|((application, on), pause)| Restart {
            application,
            on,
            forecast: pause.forecast,
            downtime: pause.downtime,
        });
        told.collect()
    }
}
