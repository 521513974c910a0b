//! What happens in the demonstration, in order, and how it is told.

use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::Duration;

use flocker_engine::Event;
use flocker_engine::Listener;
use flocker_engine::Move;
use flocker_engine::Outcome;
use flocker_model::ApplicationName;
use flocker_model::ByteSize;
use flocker_model::DatasetId;
use flocker_model::Deployment;
use serde::Serialize;
use serde_json::json;
use tokio::signal::unix::SignalKind;
use tokio::signal::unix::signal;
use tokio::time::Instant;

use super::check;
use super::check::Proof;
use super::files::FILLING;
use super::files::Files;
use super::files::LEDGER;
use super::files::LEDGER_PORT;
use super::files::Placement;
use super::program;
use super::stage::NODES;
use super::stage::Stage;
use super::stranger::Stranger;
use super::writer::Writer;
use super::writer::Written;
use crate::error::Ending;
use crate::error::Failure;
use crate::progress::Loudness;
use crate::progress::Progress;
use crate::ui::Ui;

/// Tells the story, and leaves nothing behind, however it ends.
pub(crate) async fn tell(ui: &Ui, keep: bool) -> Result<Ending, Failure> {
    let mut interrupted = Interrupted::new()?;
    let began = Instant::now();
    for cleared in Stage::clear().await {
        match cleared {
            Ok(directory) => say(
                ui,
                &format!(
                    "Removed what a demonstration that was killed had left in {}.",
                    directory.display()
                ),
            ),
            Err(failure) => ui.warn(&format!(
                "what a demonstration that was killed has left is still there: {failure}"
            )),
        }
    }
    let stage = Stage::new()?;
    let told = match stage.set().await {
        Ok(_) => tokio::select! {
            told = act(&stage, ui) => told,
            name = interrupted.wait() => Err(Failure::failed(format!("interrupted by {name}"))),
        },
        Err(failure) => Err(failure),
    };
    let kept = stage.strike(keep).await;
    let (told, kept) = match (told, kept) {
        (Ok(told), Ok(kept)) => (told, kept),
        (Err(mut failure), Err(left)) => {
            failure.causes.push(format!("afterwards: {}", left.message));
            failure.hint = left.hint;
            return Err(failure);
        }
        (Err(failure), Ok(_)) | (Ok(_), Err(failure)) => return Err(failure),
    };
    match &kept {
        Some(directory) => {
            say(
                ui,
                &format!(
                    "Kept in {}; remove it when you have seen enough.",
                    directory.display()
                ),
            );
        }
        None => say(ui, "Everything was stopped and removed."),
    }
    say(ui, &format!("It took {} s.", seconds(began.elapsed())));
    if ui.is_json() {
        ui.line(&told)?;
    }
    Ok(if told.proof.holds() && told.stranger_is_well() {
        Ending::Done
    } else {
        Ending::Blocked
    })
}

/// What asks to stop in the middle.
struct Interrupted([(&'static str, tokio::signal::unix::Signal); 3]);

impl Interrupted {
    fn new() -> Result<Self, Failure> {
        let listen = |kind: SignalKind| {
            signal(kind).map_err(|error| Failure::failed("could not wait for signals").because(&error))
        };
        Ok(Self([
            ("SIGINT", listen(SignalKind::interrupt())?),
            ("SIGTERM", listen(SignalKind::terminate())?),
            ("SIGHUP", listen(SignalKind::hangup())?),
        ]))
    }

    async fn wait(&mut self) -> &'static str {
        let [(one, first), (two, second), (three, third)] = &mut self.0;
        tokio::select! {
            _ = first.recv() => *one,
            _ = second.recv() => *two,
            _ = third.recv() => *three,
        }
    }
}

fn say(ui: &Ui, text: &str) {
    if !ui.is_json() {
        ui.data(&format!("{text}\n"));
    }
}

fn seconds(duration: Duration) -> String {
    format!("{:.2}", duration.as_secs_f64())
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Everything that was measured.
#[derive(Debug, Serialize)]
struct Told {
    proof: Proof,
    /// Each copy that was made, in order; the last after the program was stopped.
    rounds: Vec<Round>,
    /// What the program was expected to be away for, and what the nodes measured.
    forecast_ms: Option<u64>,
    downtime_ms: Option<u64>,
    /// How long the whole move took, copies included.
    move_ms: u64,
    timeline: Vec<Moment>,
    stranger: serde_json::Value,
}

impl Told {
    fn stranger_is_well(&self) -> bool {
        self.stranger.get("kept").and_then(serde_json::Value::as_bool) != Some(false)
    }
}

#[derive(Debug, Serialize)]
struct Round {
    bytes: u64,
    /// Whether the program still ran.
    warm: bool,
}

/// One step that was done, or failed.
#[derive(Clone, Debug, Serialize)]
struct Moment {
    /// When, since the move began.
    at_ms: u64,
    step: String,
    took_ms: u64,
    /// Why it failed, where it did; the next plan goes on from there.
    error: Option<String>,
}

/// Takes down every step that is done or fails, with the time.
fn timeline(ui: &Ui, desired: &Deployment) -> (Arc<Mutex<Vec<Moment>>>, impl Listener + 'static) {
    let words = Progress::new(ui.clone(), desired, Loudness::Failures);
    let moments = Arc::new(Mutex::new(Vec::new()));
    let kept = Arc::clone(&moments);
    let began = Instant::now();
    let listener = move |event: &Event| {
        let (step, took, error) = if let Event::StepDone { step, took, .. } = event {
            (step, took, None)
        } else if let Event::StepFailed { step, took, error } = event {
            (step, took, Some(error.clone()))
        } else {
            // What does not end a step has no moment of its own.
            return;
        };
        let mut moments = moments.lock().unwrap_or_else(PoisonError::into_inner);
        moments.push(Moment {
            at_ms: millis(began.elapsed()),
            step: words.readable(step),
            took_ms: millis(*took),
            error,
        });
    };
    (kept, listener)
}

async fn act(stage: &Stage, ui: &Ui) -> Result<Told, Failure> {
    let mut places = String::from("Three nodes on this machine:");
    for node in NODES {
        write!(places, " {node} {}", stage.address(node)?).unwrap_or_default();
    }
    say(ui, &places);
    let placement = Placement {
        ledger: "alpha",
        stranger: None,
    };
    let files = Files::new(&stage.program(), &NODES, placement);
    say(ui, &format!("\ndeployment.yml\n{}", indented(&files.deployment)));
    say(ui, &format!("application.yml\n{}", indented(&files.application)));
    let desired = files.read()?;
    let dataset = dataset(&desired, LEDGER)?;
    say(ui, "$ flocker deploy deployment.yml application.yml");
    stage
        .deploy(&desired, &|plan| say(ui, plan), Arc::new(flocker_engine::Logged))
        .await?;
    // Whoever asks beta is led to alpha, where the program runs.
    let mut through_beta = Writer::start("through-beta", stage.address("beta")?, LEDGER_PORT);
    through_beta.writes(20).await?;
    let through_beta = through_beta.finish().await?;
    let n_beta = through_beta.acknowledged.len();
    say(
        ui,
        &format!(
            "{n_beta} records were written through beta. The program runs on alpha; its volume holds {}.\n",
            ByteSize(
                std::fs::metadata(stage.data("alpha", dataset)?.join(program::RECORDS))
                    .map_or(0, |file| file.len())
            )
        ),
    );
    let (moved, through_gamma, timeline, took) = move_ledger(stage, ui).await?;
    let file = stage.data("beta", dataset)?.join(program::RECORDS);
    let proof = check::check(&file, FILLING, &[through_beta, through_gamma])
        .map_err(|error| Failure::failed(format!("could not read `{}`", file.display())).because(&error))?;
    say(ui, &proof_text(&proof));
    let stranger = if let Some(stranger) = Stranger::installed() {
        move_stranger(stage, ui, stranger).await?
    } else {
        let why = "neither redis-server nor python3 is installed";
        say(ui, &format!("No program that is not ours was moved: {why}."));
        json!({ "program": null, "why": why })
    };
    let warm = moved.rounds.iter().map(|bytes| (bytes, true));
    let last = moved.last_round.iter().map(|bytes| (bytes, false));
    Ok(Told {
        proof,
        rounds: warm
            .chain(last)
            .map(|(bytes, warm)| Round { bytes: bytes.0, warm })
            .collect(),
        forecast_ms: moved.forecast.map(millis),
        downtime_ms: moved.downtime.map(millis),
        move_ms: millis(took),
        timeline,
        stranger,
    })
}

async fn move_ledger(stage: &Stage, ui: &Ui) -> Result<(Move, Written, Vec<Moment>, Duration), Failure> {
    let placement = Placement {
        ledger: "beta",
        stranger: None,
    };
    let files = Files::new(&stage.program(), &NODES, placement);
    let desired = files.read()?;
    say(
        ui,
        "A client writes through gamma, without end. Now deployment.yml says beta:\n",
    );
    say(ui, &indented(&files.deployment));
    say(ui, "$ flocker deploy deployment.yml application.yml");
    let mut writer = Writer::start("through-gamma", stage.address("gamma")?, LEDGER_PORT);
    writer.writes(50).await?;
    let (moments, listener) = timeline(ui, &desired);
    let began = Instant::now();
    let outcome = stage
        .deploy(&desired, &|plan| say(ui, plan), Arc::new(listener))
        .await?;
    let took = began.elapsed();
    writer.writes(50).await?;
    let written = writer.finish().await?;
    let moments = moments.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let mut text = String::from("What was done, and when:\n");
    for moment in &moments {
        let Moment {
            at_ms,
            step,
            took_ms,
            error,
        } = moment;
        let failed = error
            .as_ref()
            .map_or_else(String::new, |error| format!("  failed: {error}"));
        writeln!(text, "  {at_ms:>6} ms  {step}  ({took_ms} ms){failed}").unwrap_or_default();
    }
    let moved = the_move(outcome, LEDGER)?;
    writeln!(text, "\nWhat was copied:").unwrap_or_default();
    for (bytes, round) in moved.rounds.iter().zip(1..) {
        writeln!(text, "  round {round}, while it ran   {bytes}").unwrap_or_default();
    }
    if let Some(bytes) = moved.last_round {
        writeln!(text, "  last, after it stopped  {bytes}").unwrap_or_default();
    }
    say(ui, &text);
    Ok((moved, written, moments, took))
}

fn proof_text(proof: &Proof) -> String {
    let Proof {
        acknowledged,
        present,
        lost,
        duplicated,
        filling_lost,
        pause_ms,
        retries,
    } = proof;
    format!(
        "The longest that the client waited for an acknowledgement: {pause_ms} ms.
Records sent again because their acknowledgement did not come: {retries}. A record that is sent
again is known by its number, and is not written twice.

Counted in the file on beta, by a reader of its own:
  acknowledged {acknowledged}   present {present}   lost {lost}   duplicated {duplicated}   lost of those before {filling_lost}
"
    )
}

/// Moves a program that is not ours, and asks it for its data at its new home, through a third node.
async fn move_stranger(stage: &Stage, ui: &Ui, stranger: Stranger) -> Result<serde_json::Value, Failure> {
    let at = |home| {
        Files::new(
            &stage.program(),
            &NODES,
            Placement {
                ledger: "beta",
                stranger: Some((stranger, home)),
            },
        )
    };
    let before = at("alpha").read()?;
    let dataset = dataset(&before, stranger.name())?;
    let quiet = |_: &str| {};
    stage
        .deploy(&before, &quiet, Arc::new(flocker_engine::Logged))
        .await?;
    let what = format!("kept since {}", uuid::Uuid::new_v4());
    stranger
        .give(stage.address("beta")?, &stage.data("alpha", dataset)?, &what)
        .await?;
    let after = at("gamma").read()?;
    let outcome = stage
        .deploy(&after, &quiet, Arc::new(flocker_engine::Logged))
        .await?;
    let moved = the_move(outcome, stranger.name())?;
    let found = stranger.take(stage.address("beta")?).await?;
    let kept = found == what;
    let (title, away) = (stranger.title(), moved.downtime.map(millis));
    let verdict = if kept {
        "answers with the data it was given"
    } else {
        "has lost its data"
    };
    let pause = away.map_or_else(String::new, |away| format!(", {away} ms away"));
    say(
        ui,
        &format!(
            "A program that is not ours ({title}) moved from alpha to gamma{pause}.\nAsked through beta, it {verdict}.\n"
        ),
    );
    Ok(json!({ "program": stranger.name(), "title": title, "downtime_ms": away, "kept": kept }))
}

fn the_move(outcome: Outcome, application: &str) -> Result<Move, Failure> {
    let moved = outcome
        .moves
        .into_iter()
        .find(|one| one.application.as_str() == application);
    moved.ok_or_else(|| Failure::failed(format!("{application} did not move")))
}

fn dataset(desired: &Deployment, application: &str) -> Result<DatasetId, Failure> {
    let name: Option<ApplicationName> = application.parse().ok();
    let definition = name.and_then(|name| desired.application(&name)?.volume.clone());
    let missing = || Failure::bug(format!("{application} has no volume"));
    definition.map(|volume| volume.dataset).ok_or_else(missing)
}

fn indented(text: &str) -> String {
    text.split_inclusive('\n').flat_map(|line| ["  ", line]).collect()
}
