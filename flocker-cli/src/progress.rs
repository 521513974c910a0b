//! Progress, from what the engine says happens.
//!
//! On a terminal one line is written over and over; elsewhere there is a line
//! for each step that ends, and one now and then for a long copy. Our own few
//! lines instead of a progress-bar crate: one line needs no thread that draws,
//! and every word of it is checked by a test that has no clock.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::Duration;

use flocker_engine::Carrier;
use flocker_engine::Event;
use flocker_engine::Listener;
use flocker_engine::clock;
use flocker_model::ApplicationName;
use flocker_model::ByteSize;
use flocker_model::DatasetId;
use flocker_model::Deployment;
use flocker_model::NodeAddress;
use flocker_model::NodeName;
use flocker_plan::Estimate;
use flocker_plan::StepId;
use flocker_plan::blocked::seconds;

use crate::cluster::awaited;
use crate::ui::Ui;

/// How often a line that is written over is written.
const LIVE: Duration = Duration::from_millis(100);
/// How often a line that stays is written for a copy.
const PLAIN: Duration = Duration::from_secs(5);

/// How much is said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Loudness {
    /// Everything.
    All,
    /// Only what goes wrong, as the seeds did.
    Failures,
}

/// Tells a person, or a program, how far a deploy is.
#[derive(Debug)]
pub(crate) struct Progress {
    ui: Ui,
    loudness: Loudness,
    /// People know data by who uses it.
    names: BTreeMap<String, ApplicationName>,
    /// Where nodes are, as far as that was said.
    addresses: BTreeMap<NodeName, NodeAddress>,
    seen: Mutex<Seen>,
}

/// What was seen so far.
#[derive(Debug, Default)]
struct Seen {
    n_steps: usize,
    n_ended: usize,
    running: BTreeMap<StepId, Copy>,
    told: Option<Duration>,
    /// What was said last of nodes that are silent.
    silent: Vec<(NodeName, String)>,
    /// Whose answers were said last to be waited for.
    awaited: Vec<NodeName>,
    /// How long an application is expected to be away once the copies that it waits for are made.
    forecast: Option<Duration>,
    epoch: Option<tokio::time::Instant>,
}

/// A step under way, and how far it is if it is a copy.
#[derive(Clone, Debug, Default)]
struct Copy {
    since: Duration,
    /// How much there was when progress was first told: what an earlier try had sent counts for no speed.
    before: Option<ByteSize>,
    done: ByteSize,
    total: Option<ByteSize>,
    /// What carries it, if it goes to another machine.
    carrier: Option<Carrier>,
}

impl Progress {
    pub(crate) fn new(ui: Ui, desired: &Deployment, loudness: Loudness) -> Self {
        let claimed = desired.applications().iter();
        let names = claimed.filter_map(|(name, application)| {
            let dataset: DatasetId = application.volume.as_ref()?.dataset;
            Some((dataset.to_string(), name.clone()))
        });
        Self {
            ui,
            loudness,
            names: names.collect(),
            addresses: BTreeMap::new(),
            seen: Mutex::default(),
        }
    }

    /// Takes note of where nodes are, for what can be said of one that does not answer.
    pub(crate) fn with_addresses(self, addresses: BTreeMap<NodeName, NodeAddress>) -> Self {
        Self { addresses, ..self }
    }

    /// Takes note of the forecast of the plan that is about to be carried out.
    pub(crate) fn forecast(&self, estimate: &Estimate) {
        let ahead = estimate.applications.iter();
        let ahead = ahead.filter(|application| application.last_round_is_guessed);
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.forecast = ahead.map(|application| application.downtime).max();
    }

    /// Says whether a step is about the data of an application.
    pub(crate) fn is_about(&self, step: &StepId, application: &ApplicationName) -> bool {
        let mut data = self.names.iter().filter(|(_, name)| *name == application);
        data.any(|(dataset, _)| step.0.contains(dataset.as_str()))
    }

    /// Writes a step as people read it: `alpha push mongodb@warm-8-1 to beta`.
    pub(crate) fn readable(&self, step: &StepId) -> String {
        readable(step, &self.names)
    }
}

fn readable(step: &StepId, names: &BTreeMap<String, ApplicationName>) -> String {
    let mut text = step.to_string();
    for (dataset, name) in names {
        if text.contains(dataset.as_str()) {
            text = text.replace(dataset.as_str(), name.as_str());
        }
    }
    let mut parts = text.splitn(3, '/');
    let words = [parts.next(), parts.next(), parts.next()];
    let [Some(node), Some(verb), Some(object)] = words else {
        return text;
    };
    match (verb, object.rsplit_once('/')) {
        ("push", Some((what, receiver))) => format!("{node} push {what} to {receiver}"),
        ("release" | "acquire" | "renounce", _) => {
            format!("{node} {verb} {}", object.replace(':', ", epoch "))
        }
        ("route", _) => match object.split_once('>') {
            Some((port, "none")) => format!("{node} route {port} to nobody"),
            _ => format!("{node} route {}", object.replace('>', " to ")),
        },
        _ => format!("{node} {verb} {object}"),
    }
}

impl Listener for Progress {
    fn on(&self, event: &Event) {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let epoch = *seen.epoch.get_or_insert_with(clock::now);
        let now = clock::now().saturating_duration_since(epoch);
        let is_progress = matches!(event, Event::StepProgress { .. });
        let is_known = matches!(event, Event::Observed { silent, .. } if *silent == seen.silent)
            || matches!(event, Event::Awaited { nodes } if *nodes == seen.awaited);
        seen.note(event, now);
        let pause = if Ui::is_live() && !self.ui.is_json() {
            LIVE
        } else {
            PLAIN
        };
        if is_progress && seen.told.is_some_and(|told| now < told + pause) {
            return;
        }
        if is_progress {
            seen.told = Some(now);
        }
        if self.ui.is_json() {
            // Whoever stops reading has enough; the deploy goes on.
            self.ui.line(event).ok();
            return;
        }
        if let Some(line) = self.line(event).filter(|_| !is_known) {
            self.ui.say(&line);
        }
        if self.loudness == Loudness::Failures {
            return;
        }
        let status = seen.status(now, &self.names);
        if Ui::is_live() {
            match status {
                Some(status) => self.ui.status(&status),
                None => self.ui.clear_status(),
            }
        } else if is_progress && let Some(status) = status {
            self.ui.say(&status);
        }
    }
}

impl Progress {
    /// Returns the line that stays for an event, if it is worth one.
    fn line(&self, event: &Event) -> Option<String> {
        let quiet = self.loudness == Loudness::Failures;
        let line = match event {
            Event::StepFailed { step, error, took } => {
                return Some(format!(
                    "failed  {} after {}: {error}",
                    self.readable(step),
                    seconds(*took)
                ));
            }
            Event::RolledBack {
                application,
                to,
                cause,
            } => {
                return Some(format!("{application} goes back to {to}: {cause}"));
            }
            Event::Observed { silent, .. } if !silent.is_empty() => {
                let said: Vec<String> = silent
                    .iter()
                    .map(|(node, why)| format!("{node} was not seen: {why}"))
                    .collect();
                said.join("\n")
            }
            Event::Awaited { nodes } => awaited(nodes, &self.addresses),
            Event::LockAwaited { node, holder } => {
                format!("waiting for the deploy lock of {node}, which {holder} holds")
            }
            Event::PlanMade {
                turn,
                n_steps,
                waiting,
                ..
            } if *turn > 1 && *n_steps > 0 => {
                let steps = if *n_steps == 1 { "step" } else { "steps" };
                let because = waiting.first().map_or_else(String::new, |why| format!(": {why}"));
                format!("next: {n_steps} {steps}{because}")
            }
            Event::StepDone { step, took, change } => {
                let already = match change {
                    flocker_backends::Change::Made => "",
                    flocker_backends::Change::AlreadySo => ", it was so already",
                };
                format!("done    {} in {}{already}", self.readable(step), seconds(*took))
            }
            Event::StepSkipped { step, because } => {
                format!(
                    "skipped {}, because of {}",
                    self.readable(step),
                    self.readable(because)
                )
            }
            Event::BackingOff { pause } => format!("looking again in {}", seconds(*pause)),
            Event::Stopping { finishing } if finishing.is_empty() => {
                "stopping: what runs gets 10 s to finish; once more Ctrl-C stops at once".into()
            }
            Event::Stopping { finishing } => {
                let names: Vec<&str> = finishing.iter().map(ApplicationName::as_str).collect();
                format!(
                    "stopping: {} is away, so its cut-over is carried to its end first; once more Ctrl-C stops at once",
                    names.join(", ")
                )
            }
            Event::StepCarried {
                step,
                by: Carrier::Relay,
                because: Some(because),
            } => format!("through this machine: {}, because {because}", self.readable(step)),
            Event::ImageBrought { image, from, .. } => {
                format!("the image `{image}` is brought from {from}, because it could not be had otherwise")
            }
            // What comes all the time stands on the line that is written over; events are added without notice.
            Event::LockTaken { .. }
            | Event::Observed { .. }
            | Event::PlanMade { .. }
            | Event::StepStarted { .. }
            | Event::StepProgress { .. }
            | Event::StepCarried { .. }
            | _ => return None,
        };
        (!quiet).then_some(line)
    }
}

impl Seen {
    fn note(&mut self, event: &Event, now: Duration) {
        match event {
            Event::PlanMade {
                turn,
                n_steps,
                waiting,
                ..
            } => {
                // Once nothing waits for a copy any more, the forecast is what happens.
                if *turn > 1 && waiting.is_empty() {
                    self.forecast = None;
                }
                self.n_steps = *n_steps;
                self.n_ended = 0;
                self.running.clear();
            }
            Event::Observed { silent, .. } => self.silent.clone_from(silent),
            Event::Awaited { nodes } => self.awaited.clone_from(nodes),
            Event::StepStarted { step, .. } => {
                let copy = Copy {
                    since: now,
                    ..Copy::default()
                };
                self.running.insert(step.clone(), copy);
            }
            Event::StepProgress { step, done, total } => {
                let copy = self.running.entry(step.clone()).or_default();
                copy.before.get_or_insert(*done);
                copy.done = *done;
                copy.total = *total;
            }
            Event::StepCarried { step, by, .. } => {
                self.running.entry(step.clone()).or_default().carrier = Some(*by);
            }
            Event::StepDone { step, .. }
            | Event::StepFailed { step, .. }
            | Event::StepSkipped { step, .. } => {
                self.n_ended += 1;
                self.running.remove(step);
            }
            Event::LockTaken { .. }
            | Event::LockAwaited { .. }
            | Event::BackingOff { .. }
            | Event::RolledBack { .. }
            | Event::Stopping { .. }
            | _ => {}
        }
    }

    /// Returns what is under way, in one line.
    fn status(&self, now: Duration, names: &BTreeMap<String, ApplicationName>) -> Option<String> {
        let copies: Vec<(&StepId, &Copy)> = self
            .running
            .iter()
            .filter(|(_, copy)| copy.before.is_some())
            .collect();
        let ahead = match self.n_steps {
            // Nobody has said how many there are.
            0 => String::new(),
            n_steps => format!("[{}/{n_steps}] ", self.n_ended),
        };
        if copies.is_empty() {
            let mut running = self.running.keys();
            let first = readable(running.next()?, names);
            let more = match running.count() {
                0 => String::new(),
                n_more => format!(" and {n_more} more"),
            };
            return Some(format!("{ahead}{first}{more}"));
        }
        let what = match copies.as_slice() {
            [(step, copy)] => {
                let carrier = copy.carrier.map_or_else(String::new, |by| format!(" ({by})"));
                format!("{}{carrier}", readable(step, names))
            }
            several => format!("{} copies", several.len()),
        };
        let sum = |part: fn(&Copy) -> u64| copies.iter().map(|(_, copy)| part(copy)).sum::<u64>();
        let done = sum(|copy| copy.done.0);
        let sent = done - sum(|copy| copy.before.unwrap_or_default().0).min(done);
        let since = copies.iter().map(|(_, copy)| copy.since).min().unwrap_or(now);
        let millis = now.saturating_sub(since).as_millis();
        let rate = u64::try_from(u128::from(sent) * 1000 / millis.max(1)).unwrap_or(u64::MAX);
        let total = copies
            .iter()
            .map(|(_, copy)| copy.total)
            .collect::<Option<Vec<_>>>();
        let total = total.map(|totals| totals.iter().map(|total| total.0).sum::<u64>());
        // What is to come is an estimate; one that was passed is of no use.
        let total = total.filter(|total| *total >= done);
        let mut line = format!("{ahead}{what}  {}", ByteSize(done));
        if let Some(total) = total {
            write!(line, " of {}", ByteSize(total)).unwrap_or_default();
        }
        if rate > 0 {
            write!(line, ", {}/s", ByteSize(rate)).unwrap_or_default();
            if let Some(total) = total {
                let left = Duration::from_secs(total.saturating_sub(done).div_ceil(rate));
                write!(line, ", {} left", seconds(left)).unwrap_or_default();
            }
        }
        if let Some(downtime) = self.forecast {
            write!(line, "; then about {} of downtime", seconds(downtime)).unwrap_or_default();
        }
        Some(line)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(text: &str) -> StepId {
        StepId(text.into())
    }

    fn names() -> BTreeMap<String, ApplicationName> {
        let dataset = "e83b21be-2d1a-4bd5-bee3-43dfa025f6e8".to_owned();
        BTreeMap::from([(dataset, "mongodb".parse().unwrap())])
    }

    const PUSH: &str = "alpha/push/e83b21be-2d1a-4bd5-bee3-43dfa025f6e8@warm-2-1/beta";

    #[test]
    fn a_step_is_named_by_the_application_that_its_data_belongs_to() {
        assert_eq!(
            readable(&step(PUSH), &names()),
            "alpha push mongodb@warm-2-1 to beta"
        );
        assert_eq!(
            readable(&step("beta/start/mongodb"), &names()),
            "beta start mongodb"
        );
        assert_eq!(
            readable(&step("beta/route/27017>alpha"), &names()),
            "beta route 27017 to alpha"
        );
        assert_eq!(
            readable(&step("beta/route/27017>none"), &names()),
            "beta route 27017 to nobody"
        );
        assert_eq!(
            readable(
                &step("beta/acquire/e83b21be-2d1a-4bd5-bee3-43dfa025f6e8:8"),
                &names()
            ),
            "beta acquire mongodb, epoch 8"
        );
    }

    #[test]
    fn a_copy_says_how_much_how_fast_and_how_long() {
        let mut seen = Seen::default();
        let at = Duration::from_secs;
        seen.note(
            &Event::PlanMade {
                turn: 1,
                generation: flocker_model::Generation(2),
                n_steps: 3,
                waiting: Vec::new(),
                refused: Vec::new(),
            },
            at(0),
        );
        seen.note(
            &Event::StepStarted {
                step: step(PUSH),
                node: "alpha".parse().unwrap(),
            },
            at(0),
        );
        assert_eq!(
            seen.status(at(0), &names()).unwrap(),
            "[0/3] alpha push mongodb@warm-2-1 to beta"
        );
        let progress = |done: u64| Event::StepProgress {
            step: step(PUSH),
            done: ByteSize(done << 20),
            total: Some(ByteSize(700 << 20)),
        };
        // What an earlier try had sent is no speed of this one.
        seen.note(&progress(100), at(0));
        seen.note(&progress(300), at(2));
        assert_eq!(
            seen.status(at(2), &names()).unwrap(),
            "[0/3] alpha push mongodb@warm-2-1 to beta  300.0 MiB of 700.0 MiB, 100.0 MiB/s, 4.0 s left"
        );
        seen.forecast = Some(Duration::from_millis(900));
        assert_eq!(
            seen.status(at(2), &names()).unwrap(),
            "[0/3] alpha push mongodb@warm-2-1 to beta  300.0 MiB of 700.0 MiB, 100.0 MiB/s, 4.0 s left; then about 0.9 s of downtime"
        );
        seen.forecast = None;
        seen.note(
            &Event::StepCarried {
                step: step(PUSH),
                by: Carrier::DirectTls,
                because: None,
            },
            at(2),
        );
        assert_eq!(
            seen.status(at(2), &names()).unwrap(),
            "[0/3] alpha push mongodb@warm-2-1 to beta (direct TLS)  300.0 MiB of 700.0 MiB, 100.0 MiB/s, 4.0 s left"
        );
        let other = step("alpha/push/00000000-0000-4000-8000-000000000001@warm-1-1/beta");
        seen.note(
            &Event::StepProgress {
                step: other.clone(),
                done: ByteSize(0),
                total: None,
            },
            at(2),
        );
        assert_eq!(
            seen.status(at(2), &names()).unwrap(),
            "[0/3] 2 copies  300.0 MiB, 100.0 MiB/s"
        );
        for ended in [other, step(PUSH)] {
            seen.note(
                &Event::StepDone {
                    step: ended,
                    change: flocker_backends::Change::Made,
                    took: at(1),
                },
                at(3),
            );
        }
        assert_eq!(seen.status(at(3), &names()), None);
    }
}
