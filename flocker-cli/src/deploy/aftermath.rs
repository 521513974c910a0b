//! How a deploy went: what it forecast and what it cost, what is left and what to do about it.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use flocker_backends::Classify as _;
use flocker_backends::ErrorClass;
use flocker_engine::Carrier;
use flocker_engine::End;
use flocker_engine::Move;
use flocker_engine::NodeError;
use flocker_engine::Outcome;
use flocker_engine::Restart;
use flocker_engine::one_line;
use flocker_model::ApplicationName;
use flocker_model::ByteSize;
use flocker_model::NodeName;
use flocker_plan::Refusal;
use flocker_plan::StepId;
use flocker_plan::Waiting;
use flocker_plan::blocked::seconds;
use serde::Serialize;

use crate::progress::Loudness;
use crate::progress::Progress;
use crate::shown;
use crate::shown::Blocked;
use crate::ui::Ui;

/// How a deploy went. It is the last document of `deploy --json`.
#[derive(Debug, Serialize)]
pub(super) struct Aftermath<'a> {
    #[serde(rename = "result")]
    ending: Word,
    generation: u64,
    moves: Vec<Moved<'a>>,
    restarts: Vec<Restarted<'a>>,
    rolled_back: Vec<Back<'a>>,
    waiting: Vec<Blocked<&'a Waiting>>,
    refused: Vec<Blocked<&'a Refusal>>,
    failed: Vec<Failed>,
    left: Vec<StepId>,
    /// What is to be done and is not in the saved plan that was carried out.
    beyond: &'a [StepId],
    silent: Vec<Silent<'a>>,
    #[serde(skip)]
    lines: Vec<String>,
}

/// How it ended, in one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Word {
    Settled,
    Partly,
    Interrupted,
    Declined,
}

#[derive(Debug, Serialize)]
struct Moved<'a> {
    application: &'a ApplicationName,
    from: &'a NodeName,
    to: &'a NodeName,
    /// How many bytes each copy sent that was made while it still ran.
    rounds: &'a [ByteSize],
    /// How many the last one sent.
    last_round: Option<ByteSize>,
    /// What carried the newest of them, if it went to another machine.
    #[serde(skip_serializing_if = "Option::is_none")]
    carried_by: Option<Carrier>,
    forecast_ms: Option<u64>,
    downtime_ms: Option<u64>,
}

#[derive(Debug, Serialize)]
struct Restarted<'a> {
    application: &'a ApplicationName,
    on: &'a NodeName,
    forecast_ms: Option<u64>,
    downtime_ms: Option<u64>,
}

#[derive(Debug, Serialize)]
struct Back<'a> {
    application: &'a ApplicationName,
    to: &'a NodeName,
    cause: String,
}

#[derive(Debug, Serialize)]
struct Failed {
    step: StepId,
    error: String,
}

#[derive(Debug, Serialize)]
struct Silent<'a> {
    node: &'a NodeName,
    reason: String,
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

impl<'a> Aftermath<'a> {
    pub(super) fn new(outcome: &'a Outcome, progress: &Progress) -> Self {
        let mut aftermath = Self {
            ending: Word::Settled,
            generation: outcome.generation.0,
            moves: outcome.moves.iter().map(Moved::new).collect(),
            restarts: outcome.restarts.iter().map(Restarted::new).collect(),
            rolled_back: Vec::new(),
            waiting: Vec::new(),
            refused: Vec::new(),
            failed: Vec::new(),
            left: Vec::new(),
            beyond: &outcome.beyond,
            silent: shown::silent(&outcome.actual)
                .map(|(node, silence)| Silent {
                    node,
                    reason: silence.to_string(),
                })
                .collect(),
            lines: outcome
                .moves
                .iter()
                .filter(|moved| !was_given_up(moved, outcome))
                .filter_map(|moved| told(moved, outcome.end == End::Settled))
                .chain(outcome.restarts.iter().filter_map(restarted))
                .collect(),
        };
        for back in &outcome.rolled_back {
            let cause = back.cause_text();
            let line = format!(
                "{} was moved back to {}: {cause}\n   hint: `flocker why {}` shows what it could not do on {}",
                back.application, back.to, back.application, back.from
            );
            aftermath.lines.push(line);
            aftermath.rolled_back.push(Back {
                application: &back.application,
                to: &back.to,
                cause,
            });
        }
        match &outcome.end {
            End::Settled => {}
            End::Partly {
                waiting,
                refused,
                failed,
            } => {
                aftermath.ending = Word::Partly;
                let told = |waiting| waits(waiting, failed, progress);
                aftermath.waiting = waiting.iter().map(told).collect();
                aftermath.refused = refused.iter().map(Blocked::refused).collect();
                let told = aftermath.waiting.iter();
                let told = told
                    .map(|waiting| format!("waiting: {}\n   hint: {}", waiting.message(), waiting.hint()));
                aftermath.lines.extend(told);
                for refusal in refused {
                    let line = format!("refused: {refusal}\n   hint: {}", refusal.hint());
                    aftermath.lines.push(line);
                }
                for (step, error) in failed {
                    let next = if may_pass(error) {
                        "deploying again goes on from here"
                    } else {
                        "it does not pass by itself: once the cause is put right, deploying again goes on from here"
                    };
                    let error = one_line(error);
                    let line = format!(
                        "failed: {}: {error}\n   hint: `flocker why {step}` shows what it needs; {next}",
                        progress.readable(step)
                    );
                    aftermath.lines.push(line);
                    aftermath.failed.push(Failed {
                        step: step.clone(),
                        error,
                    });
                }
            }
            End::Interrupted { left, cut_overs } => {
                aftermath.ending = Word::Interrupted;
                aftermath.left.clone_from(left);
                let left = left
                    .iter()
                    .map(|step| format!("left: {}", progress.readable(step)));
                aftermath.lines.extend(left);
                let left = cut_overs.iter().filter_map(Waiting::application);
                let left = left.map(|application| format!("left: the cut-over of {application}"));
                aftermath.lines.extend(left);
                let waiting = cut_overs.iter();
                aftermath.waiting = waiting
                    .map(|waiting| Blocked::waiting(waiting).with_hint(GO_ON))
                    .collect();
                aftermath.lines.push(format!("stopped; {GO_ON}"));
            }
            End::Declined => {
                aftermath.ending = Word::Declined;
                aftermath.lines.push("nothing was done".into());
            }
        }
        aftermath.lines.extend(not_agreed_to(&outcome.beyond, progress));
        aftermath
    }

    /// Tells people.
    pub(super) fn tell(&self, ui: &Ui, loudness: Loudness) {
        let is_settled = self.ending == Word::Settled && self.rolled_back.is_empty();
        if loudness == Loudness::Failures && is_settled {
            return;
        }
        for line in &self.lines {
            ui.say(line);
        }
        if is_settled {
            ui.say("everything is as it is to be");
        }
    }
}

impl<'a> Moved<'a> {
    fn new(moved: &'a Move) -> Self {
        Self {
            application: &moved.application,
            from: &moved.from,
            to: &moved.to,
            rounds: &moved.rounds,
            last_round: moved.last_round,
            carried_by: moved.carrier,
            forecast_ms: moved.forecast.map(millis),
            downtime_ms: moved.downtime.map(millis),
        }
    }
}

impl<'a> Restarted<'a> {
    fn new(restart: &'a Restart) -> Self {
        Self {
            application: &restart.application,
            on: &restart.on,
            forecast_ms: restart.forecast.map(millis),
            downtime_ms: restart.downtime.map(millis),
        }
    }
}

/// What to do after a stop.
const GO_ON: &str = "the same command looks at what there is and goes on from there";

/// What to do about a cut-over that waits for a copy which cannot be made.
const STUCK: &str = "the copy that it waits for cannot be made as things are: see what failed";

/// Says what is waited for. A copy that cannot be made does not come by waiting.
fn waits<'a>(
    waiting: &'a Waiting,
    failed: &BTreeMap<StepId, NodeError>,
    progress: &Progress,
) -> Blocked<&'a Waiting> {
    let told = Blocked::waiting(waiting);
    let copied = match waiting {
        Waiting::PreCopy { application, .. } | Waiting::Earlier { application, .. } => application,
        Waiting::ForSight { .. }
        | Waiting::ForHealth { .. }
        | Waiting::Held { .. }
        | Waiting::NotConverging { .. }
        | Waiting::TooManyFiles { .. } => return told,
    };
    let mut failed = failed.iter().filter(|(_, error)| !may_pass(error));
    if failed.any(|(step, _)| progress.is_about(step, copied)) {
        told.with_hint(STUCK)
    } else {
        told
    }
}

/// Says whether trying once more may help.
fn may_pass(error: &NodeError) -> bool {
    error.class() == ErrorClass::Transient
}

/// Says what a move cost, if it got so far.
fn told(moved: &Move, is_settled: bool) -> Option<String> {
    let Move {
        application,
        from,
        to,
        rounds,
        last_round,
        carrier,
        forecast,
        downtime,
    } = moved;
    let sent = |bytes: &ByteSize| bytes.to_string();
    let ahead: Vec<String> = rounds.iter().map(sent).collect();
    let mut copied = match (ahead.as_slice(), last_round) {
        ([], None) => String::new(),
        ([], Some(last)) => format!("; copied {last} after it was stopped"),
        (ahead, None) => format!("; copied {} while it ran", ahead.join(", ")),
        (ahead, Some(last)) => format!("; copied {} while it ran, then {last}", ahead.join(", ")),
    };
    if let Some(carrier) = carrier
        && !copied.is_empty()
    {
        write!(copied, " ({carrier})").unwrap_or_default();
    }
    match downtime {
        Some(downtime) => Some(format!(
            "{application} moved from {from} to {to}: {}{copied}",
            away(*downtime, *forecast)
        )),
        None if copied.is_empty() => None,
        None if is_settled => Some(format!(
            "{application} moved from {from} to {to}: for how long it was away was not measured{copied}"
        )),
        None => Some(format!("{application} is on its way from {from} to {to}{copied}")),
    }
}

/// Says what a restart cost, if it serves again.
fn restarted(restart: &Restart) -> Option<String> {
    let away = away(restart.downtime?, restart.forecast);
    Some(format!(
        "{} restarted on {}: {away}",
        restart.application, restart.on
    ))
}

fn away(downtime: Duration, forecast: Option<Duration>) -> String {
    let forecast = forecast.map_or_else(String::new, |forecast| {
        format!(", where {} were forecast", seconds(forecast))
    });
    format!("away for {}{forecast}", seconds(downtime))
}

/// Says what there is to do that the saved plan does not have, and what does it.
fn not_agreed_to(beyond: &[StepId], progress: &Progress) -> Vec<String> {
    let told = |step| format!("not in the saved plan, and not done: {}", progress.readable(step));
    let mut lines: Vec<String> = beyond.iter().map(told).collect();
    if !lines.is_empty() {
        let hint = "   hint: `flocker plan` shows what there is to do now; `flocker deploy` does it";
        lines.push(hint.into());
    }
    lines
}

/// Says whether an application was on its way and turned round.
fn was_given_up(moved: &Move, outcome: &Outcome) -> bool {
    let mut given_up = outcome.rolled_back.iter();
    given_up.any(|back| back.application == moved.application && back.from == moved.to)
}

#[cfg(test)]
mod tests {
    use flocker_engine::Fault;
    use flocker_model::ClusterState;
    use flocker_model::Deployment;
    use flocker_model::Generation;

    use super::*;

    fn outcome(end: End) -> Outcome {
        let moved = Move {
            application: "mongodb".parse().unwrap(),
            from: "alpha".parse().unwrap(),
            to: "beta".parse().unwrap(),
            rounds: vec![ByteSize(1 << 30), ByteSize(3 << 20)],
            last_round: Some(ByteSize(40 << 10)),
            carrier: None,
            forecast: Some(Duration::from_millis(900)),
            downtime: Some(Duration::from_millis(640)),
        };
        Outcome {
            end,
            generation: Generation(4),
            reports: Vec::new(),
            moves: vec![moved],
            restarts: Vec::new(),
            rolled_back: Vec::new(),
            beyond: Vec::new(),
            actual: ClusterState::default(),
        }
    }

    fn lines(outcome: &Outcome) -> Vec<String> {
        let ui = Ui::new("deploy", false, crate::cli::Colour::Never);
        let progress = Progress::new(ui, &Deployment::default(), Loudness::All);
        Aftermath::new(outcome, &progress).lines
    }

    #[test]
    fn a_move_is_told_with_its_forecast_and_every_copy() {
        assert_eq!(
            lines(&outcome(End::Settled)),
            [
                "mongodb moved from alpha to beta: away for 0.7 s, where 0.9 s were forecast; copied 1.0 GiB, 3.0 MiB while it ran, then 40.0 KiB"
            ]
        );
        let mut far = outcome(End::Settled);
        far.moves[0].carrier = Some(Carrier::Relay);
        assert!(lines(&far)[0].ends_with("while it ran, then 40.0 KiB (relayed)"));
        let mut early = outcome(End::Interrupted {
            left: Vec::new(),
            cut_overs: vec![Waiting::PreCopy {
                application: "mongodb".parse().unwrap(),
                from: "alpha".parse().unwrap(),
                to: "beta".parse().unwrap(),
                round: 3,
                bytes: ByteSize(1),
                passed_over: Vec::new(),
            }],
        });
        early.moves[0].downtime = None;
        early.moves[0].last_round = None;
        assert_eq!(
            lines(&early),
            [
                "mongodb is on its way from alpha to beta; copied 1.0 GiB, 3.0 MiB while it ran",
                "left: the cut-over of mongodb",
                "stopped; the same command looks at what there is and goes on from there",
            ]
        );
    }

    #[test]
    fn a_restart_is_told_with_its_forecast_once_it_serves() {
        let restart = |application: &str, downtime| Restart {
            application: application.parse().unwrap(),
            on: "beta".parse().unwrap(),
            forecast: Some(Duration::from_secs(2)),
            downtime,
        };
        let mut outcome = outcome(End::Settled);
        outcome.moves.clear();
        let away = Duration::from_millis(1340);
        outcome.restarts = vec![restart("web", Some(away)), restart("site", None)];
        assert_eq!(
            lines(&outcome),
            ["web restarted on beta: away for 1.4 s, where 2.0 s were forecast"]
        );
    }

    #[test]
    fn what_the_saved_plan_does_not_have_is_told_with_what_does_it() {
        let mut beyond = outcome(End::Partly {
            waiting: Vec::new(),
            refused: Vec::new(),
            failed: BTreeMap::new(),
        });
        beyond.beyond = vec![StepId("alpha/start/note".into())];
        let lines = lines(&beyond);
        assert_eq!(
            lines[1..],
            [
                "not in the saved plan, and not done: alpha start note",
                "   hint: `flocker plan` shows what there is to do now; `flocker deploy` does it",
            ]
        );
    }

    #[test]
    fn what_was_moved_back_is_not_said_to_be_on_its_way() {
        let mut outcome = outcome(End::Settled);
        // Until it served at its old home again it was away, or the target served for a moment: it did not move.
        assert!(outcome.moves[0].downtime.is_some());
        let Move {
            application,
            from,
            to,
            ..
        } = outcome.moves[0].clone();
        outcome.rolled_back.push(flocker_engine::RolledBack {
            application,
            from: to,
            to: from,
            cause: NodeError::LockLost,
        });
        let lines = lines(&outcome);
        assert_eq!(lines.len(), 1, "{lines:?}");
        assert!(
            lines[0].starts_with("mongodb was moved back to alpha"),
            "{lines:?}"
        );
    }

    #[test]
    fn what_failed_and_what_waits_comes_with_what_to_do() {
        let step = StepId("beta/start/mongodb".into());
        let end = End::Partly {
            waiting: vec![Waiting::ForSight {
                application: None,
                dataset: None,
                nodes: vec!["gamma".parse().unwrap()],
            }],
            refused: Vec::new(),
            failed: BTreeMap::from([(step, NodeError::LockLost)]),
        };
        let mut outcome = outcome(end);
        outcome.moves.clear();
        let lines = lines(&outcome);
        assert!(lines[0].starts_with("waiting: the deploy waits to see gamma\n   hint: bring gamma back"));
        assert!(
            lines[1].starts_with(
                "failed: beta start mongodb: the deploy lock of this order is no longer held\n   hint: `flocker why beta/start/mongodb`"
            ),
            "{}",
            lines[1]
        );
    }

    #[test]
    fn what_does_not_pass_by_itself_is_not_said_to() {
        let step = |id: &str| StepId(id.into());
        let device = Fault::new("dev: devices are not data; remove it", ErrorClass::Permanent);
        let end = |application: &str| End::Partly {
            waiting: vec![Waiting::PreCopy {
                application: application.parse().unwrap(),
                from: "alpha".parse().unwrap(),
                to: "beta".parse().unwrap(),
                round: 1,
                bytes: ByteSize(1),
                passed_over: Vec::new(),
            }],
            refused: Vec::new(),
            failed: BTreeMap::from([(
                step("alpha/take/e83b21be-2d1a-4bd5-bee3-43dfa025f6e8@warm-2-1"),
                NodeError::Backend(device.clone()),
            )]),
        };
        let names = "version: 1\napplications: {mongodb: {image: m, volume: {mountpoint: /data, dataset_id: e83b21be-2d1a-4bd5-bee3-43dfa025f6e8}}}\n";
        let source = |name: &str, text: &str| flocker_model::config::Source::new(name, text);
        let nodes = source("d", "version: 1\nnodes: {alpha: [mongodb]}\n");
        let desired = crate::files::load([source("a", names), nodes])
            .unwrap()
            .without_secrets()
            .unwrap();
        let ui = Ui::new("deploy", false, crate::cli::Colour::Never);
        let progress = Progress::new(ui, &desired, Loudness::All);
        let lines = |application| {
            let mut outcome = outcome(end(application));
            outcome.moves.clear();
            Aftermath::new(&outcome, &progress).lines
        };
        let [waiting, failed] = lines("mongodb").try_into().unwrap();
        assert!(waiting.ends_with(STUCK), "{waiting}");
        assert!(failed.contains("remove it\n"), "{failed}");
        assert!(failed.contains("it does not pass by itself"), "{failed}");
        assert!(lines("other")[0].contains("the cut-over follows"));
    }

    #[test]
    fn the_last_document_of_a_deploy_has_what_is_described() {
        let ui = Ui::new("deploy", true, crate::cli::Colour::Never);
        let progress = Progress::new(ui, &Deployment::default(), Loudness::All);
        let outcome = outcome(End::Settled);
        let aftermath = Aftermath::new(&outcome, &progress);
        let document = crate::json::Document::new("deploy", &aftermath);
        let written = serde_json::to_value(&document).unwrap();
        let described = include_str!("../../../docs/json.md");
        let described = described
            .lines()
            .find(|line| line.contains(r#""result":"settled""#));
        let described: serde_json::Value = serde_json::from_str(described.unwrap()).unwrap();
        let keys = |value: &serde_json::Value| {
            let keys = value.as_object().unwrap().keys();
            keys.cloned().collect::<Vec<String>>()
        };
        assert_eq!(keys(&written), keys(&described));
        assert_eq!(keys(&written["moves"][0]), keys(&described["moves"][0]));
    }
}
