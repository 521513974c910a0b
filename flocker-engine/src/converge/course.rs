//! How moves go: what each round copied, how long the application was away, and when to turn back.

use std::collections::BTreeMap;
use std::time::Duration;

use flocker_backends::Classify as _;
use flocker_backends::ErrorClass;
use flocker_model::ApplicationName;
use flocker_model::ByteSize;
use flocker_model::ClusterState;
use flocker_model::ContainerState;
use flocker_model::ContainerStatus;
use flocker_model::DatasetId;
use flocker_model::Health;
use flocker_model::NodeName;
use flocker_plan::Action;
use flocker_plan::Estimate;
use flocker_plan::Reason;
use tokio::time::Instant;

use crate::fault::one_line;
use crate::node_error::NodeError;
use crate::passage::Carrier;
use crate::report::Ending;
use crate::report::Report;
use crate::report::StepReport;

/// What a move cost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Move {
    /// The application.
    pub application: ApplicationName,
    /// From where it moved.
    pub from: NodeName,
    /// To where.
    pub to: NodeName,
    /// How much each copy sent that was made while it still ran.
    pub rounds: Vec<ByteSize>,
    /// How much the last copy sent, which was made after it was stopped; of what never ran, how much all of them did.
    pub last_round: Option<ByteSize>,
    /// By what the newest copy was carried, if it went to another machine.
    pub carrier: Option<Carrier>,
    /// How long it was expected to be away, by the plan that stopped it.
    pub forecast: Option<Duration>,
    /// How long it was away: from the beginning of its stop until every route led to its new home.
    pub downtime: Option<Duration>,
}

/// A move that was given up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RolledBack {
    /// The application.
    pub application: ApplicationName,
    /// Where it was to go.
    pub from: NodeName,
    /// Where it came from, and is again.
    pub to: NodeName,
    /// What could not be done there.
    pub cause: NodeError,
}

impl RolledBack {
    /// Returns the cause with its own causes, on one line.
    #[must_use]
    pub fn cause_text(&self) -> String {
        one_line(&self.cause)
    }
}

/// One move under way.
#[derive(Debug)]
struct Track {
    seen: Move,
    dataset: Option<DatasetId>,
    /// Whether it ran where it came from when this began.
    ran: bool,
    stopped: Option<Instant>,
    started: bool,
    /// How many routes to its new home are planned, and were not seen to be made.
    n_routes_left: usize,
    has_let_go: bool,
    n_failures: u32,
    cause: Option<NodeError>,
}

/// All moves of a push.
#[derive(Debug)]
pub(super) struct Course {
    roll_back_after: Option<u32>,
    tracks: BTreeMap<ApplicationName, Track>,
    rolled_back: Vec<RolledBack>,
}

impl Course {
    pub(super) fn new(roll_back_after: Option<u32>) -> Self {
        Self {
            roll_back_after,
            tracks: BTreeMap::new(),
            rolled_back: Vec::new(),
        }
    }

    /// Takes note of one turn.
    ///
    /// `before` was seen before it.
    pub(super) fn follow(&mut self, forecast: &Estimate, report: &Report, before: &ClusterState) {
        for step in &report.steps {
            self.begin(step, before);
        }
        for expected in &forecast.applications {
            if let Some(track) = self.tracks.get_mut(&expected.application)
                && track.stopped.is_none()
                && !expected.last_round_is_guessed
            {
                track.seen.forecast = Some(expected.downtime);
            }
        }
        for (application, track) in &mut self.tracks {
            for step in &report.steps {
                track.follow(application, step);
            }
            let routes = report
                .steps
                .iter()
                .filter(|step| step.step.action.leads_to(application));
            track.n_routes_left = routes
                .filter(|step| !matches!(step.ending, Ending::Done(_)))
                .count();
            track.count_failures(report);
        }
    }

    /// Takes note that nothing is left to do, so that every route leads where it is to.
    pub(super) fn settle(&mut self) {
        for track in self.tracks.values_mut() {
            track.n_routes_left = 0;
        }
    }

    /// Takes note of applications that serve although the step that started them failed, or its answer was lost.
    pub(super) fn see(&mut self, actual: &ClusterState, now: Instant) {
        for (application, track) in &mut self.tracks {
            let at_home = actual.known(&track.seen.to);
            let container = at_home.and_then(|state| state.containers.get(application));
            if container.is_some_and(serves) && track.stopped.is_some() && track.has_let_go && !track.started
            {
                track.started = true;
                track.serves_since(Some(now));
            }
        }
    }

    fn begin(&mut self, step: &StepReport, before: &ClusterState) {
        let Reason::Moves {
            application,
            from,
            to,
        } = &*step.step.reason
        else {
            return;
        };
        let is_rolled_back = self
            .rolled_back
            .iter()
            .any(|back| back.application == *application);
        if is_rolled_back {
            return;
        }
        let there = before
            .known(from)
            .and_then(|state| state.containers.get(application));
        let track = self.tracks.entry(application.clone()).or_insert_with(|| Track {
            seen: Move {
                application: application.clone(),
                from: from.clone(),
                to: to.clone(),
                rounds: Vec::new(),
                last_round: None,
                carrier: None,
                forecast: None,
                downtime: None,
            },
            dataset: None,
            ran: there.is_some_and(ContainerState::is_alive),
            stopped: None,
            started: false,
            n_routes_left: 0,
            has_let_go: false,
            n_failures: 0,
            cause: None,
        });
        track.dataset = track.dataset.or(step.step.action.dataset());
    }

    /// Says whether a move is to be rolled back as soon as both its ends are seen.
    pub(super) fn wants_back(&self) -> bool {
        self.next_back().is_some()
    }

    fn next_back(&self) -> Option<&Track> {
        let after = self.roll_back_after?;
        self.tracks.values().find(|track| {
            let is_final = track
                .cause
                .as_ref()
                .is_some_and(|cause| cause.class() == ErrorClass::Permanent);
            track.has_let_go && (is_final || track.n_failures >= after) && track.cause.is_some()
        })
    }

    /// Returns the next move that is to be rolled back, once for each, if both its ends are seen.
    pub(super) fn roll_back(&mut self, actual: &ClusterState) -> Option<RolledBack> {
        let track = self.next_back()?;
        let is_seen = |node| actual.known(node).is_some();
        if !is_seen(&track.seen.from) || !is_seen(&track.seen.to) {
            return None;
        }
        let back = RolledBack {
            application: track.seen.application.clone(),
            from: track.seen.to.clone(),
            to: track.seen.from.clone(),
            cause: track.cause.clone()?,
        };
        let track = self.tracks.get_mut(&back.application)?;
        track.has_let_go = false;
        track.cause = None;
        self.rolled_back.push(back.clone());
        Some(back)
    }

    pub(super) fn finish(self) -> (Vec<Move>, Vec<RolledBack>) {
        let moves = self.tracks.into_values().map(|track| Move {
            // Whom no route leads to is still away.
            downtime: track.seen.downtime.filter(|_| track.n_routes_left == 0),
            ..track.seen
        });
        (moves.collect(), self.rolled_back)
    }
}

impl Track {
    fn follow(&mut self, application: &ApplicationName, report: &StepReport) {
        let is_done = matches!(report.ending, Ending::Done(_));
        let step = &report.step;
        match &step.action {
            Action::Stop {
                application: stopped, ..
            } if stopped == application && step.actor == self.seen.from && self.stopped.is_none() => {
                self.stopped = report.began;
            }
            Action::Push { dataset, .. } if Some(dataset.id) == self.dataset && is_done => {
                self.seen.carrier = report.carrier;
                // What never ran here is not stopped, and lets go all the same.
                if !self.ran {
                    let before = self.seen.last_round.unwrap_or_default();
                    self.seen.last_round = Some(before.plus(report.sent));
                } else if self.stopped.is_some() || self.has_let_go {
                    self.seen.last_round = Some(report.sent);
                } else {
                    self.seen.rounds.push(report.sent);
                }
            }
            Action::Release { dataset, .. } if Some(*dataset) == self.dataset && is_done => {
                self.has_let_go |= step.actor == self.seen.from;
            }
            Action::Start {
                application: started, ..
            } if started == application && is_done => {
                self.started = true;
                self.serves_since(report.ended);
            }
            Action::Route { .. } if is_done && self.started => {
                if step.action.leads_to(application) {
                    self.serves_since(report.ended);
                }
            }
            Action::Create { .. }
            | Action::Resize { .. }
            | Action::Take { .. }
            | Action::Push { .. }
            | Action::Release { .. }
            | Action::Acquire { .. }
            | Action::Renounce { .. }
            | Action::Destroy { .. }
            | Action::Trim { .. }
            | Action::DropPartial { .. }
            | Action::Restore { .. }
            | Action::EmptyTrash { .. }
            | Action::Prepare { .. }
            | Action::Start { .. }
            | Action::Stop { .. }
            | Action::Route { .. } => {}
        }
    }

    fn serves_since(&mut self, since: Option<Instant>) {
        if let Some((stopped, since)) = self.stopped.zip(since) {
            let away = since.saturating_duration_since(stopped);
            self.seen.downtime = Some(self.seen.downtime.map_or(away, |before| before.max(away)));
        }
    }

    /// Counts the turns in a row in which the target could not take over.
    fn count_failures(&mut self, report: &Report) {
        let failure = report.failures().find(|(step, error)| {
            let concerns = match &step.action {
                Action::Push { dataset, to, .. } => Some(dataset.id) == self.dataset && *to == self.seen.to,
                Action::Acquire { dataset, .. } => {
                    Some(*dataset) == self.dataset && step.actor == self.seen.to
                }
                Action::Start { application, .. } => {
                    *application == self.seen.application && step.actor == self.seen.to
                }
                Action::Create { .. }
                | Action::Resize { .. }
                | Action::Take { .. }
                | Action::Release { .. }
                | Action::Renounce { .. }
                | Action::Destroy { .. }
                | Action::Trim { .. }
                | Action::DropPartial { .. }
                | Action::Restore { .. }
                | Action::EmptyTrash { .. }
                | Action::Prepare { .. }
                | Action::Stop { .. }
                | Action::Route { .. } => false,
            };
            // A newer configuration is no reason to go back, and neither is a lost lock.
            concerns && !error.is_stale() && **error != NodeError::LockLost
        });
        if let Some((_, error)) = failure {
            self.n_failures += 1;
            self.cause = Some(error.clone());
        } else {
            self.n_failures = 0;
            self.cause = None;
        }
    }
}

/// Says whether somebody who connects is answered, as far as it can be seen.
pub(super) fn serves(container: &ContainerState) -> bool {
    container.status == ContainerStatus::Running && container.health != Health::Unhealthy
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use flocker_backends::Change;
    use flocker_model::Dataset;
    use flocker_model::Epoch;
    use flocker_model::SnapshotName;
    use flocker_plan::Step;

    use super::*;

    #[test]
    fn what_is_copied_of_an_application_that_never_ran_is_not_copied_while_it_ran() {
        let [alpha, beta]: [NodeName; 2] = ["alpha", "beta"].map(|name| name.parse().unwrap());
        let application: ApplicationName = "ledger".parse().unwrap();
        let dataset = DatasetId::derived(&application);
        let epoch = Epoch::FIRST;
        let release = Action::Release {
            dataset,
            epoch,
            to: beta.clone(),
            last: SnapshotName::handoff(epoch),
        };
        let push = Action::Push {
            dataset: Dataset {
                id: dataset,
                owner: application.clone(),
                maximum_size: None,
            },
            snapshot: SnapshotName::handoff(epoch),
            base: None,
            to: beta.clone(),
        };
        let reason = Arc::new(Reason::Moves {
            application: application.clone(),
            from: alpha.clone(),
            to: beta,
        });
        let done = |action, sent| StepReport {
            step: Step {
                actor: alpha.clone(),
                action,
                reason: Arc::clone(&reason),
                needs: flocker_plan::Needs::default(),
            },
            ending: Ending::Done(Change::Made),
            began: None,
            ended: None,
            sent: ByteSize(sent),
            carrier: None,
        };
        let mut course = Course::new(None);
        let report = Report {
            steps: vec![done(push.clone(), 100), done(release, 0), done(push, 9)],
            was_interrupted: false,
        };
        for step in &report.steps {
            course.begin(step, &ClusterState::default());
        }
        let track = course.tracks.get_mut(&application).unwrap();
        for step in &report.steps {
            track.follow(&application, step);
        }
        assert_eq!(track.seen.rounds, []);
        assert_eq!(track.seen.last_round, Some(ByteSize(109)));
    }
}
