//! What the unit does: it is the node for as long as it takes to start what was running.

use std::path::Path;
use std::time::Duration;

use flocker_backends::Classify as _;
use flocker_backends::ErrorClass;
use flocker_engine::Awakening;
use flocker_engine::NodeError;
use flocker_engine::Woken;
use flocker_engine::clock;
use flocker_engine::one_line;
use flocker_model::ApplicationName;
use flocker_model::RouteTable;
use tokio::signal::unix::SignalKind;
use tokio::signal::unix::signal;
use tokio::time::Instant;

use crate::error::Failure;
use crate::local::Live;
use crate::local::NodeLog;
use crate::real::kept;
use crate::real::process;

/// How long the process that is the node may be in use, and what it needs may not be there.
const PATIENCE: Duration = Duration::from_secs(120);

/// How soon it is tried again meanwhile.
const PAUSE: Duration = Duration::from_secs(1);

/// Starts again what the node may start, and tells what became of it, a line for each application.
///
/// What could not be started is the failure, once all was tried.
pub(crate) async fn wake(directory: &Path, tell: impl Fn(&str)) -> Result<(), Failure> {
    // Only a test in the same process could have set another one before.
    drop(tracing::subscriber::set_global_default(NodeLog::new(
        process::log(directory),
    )));
    let awakening = match be_the_node(directory).await {
        Ok(awakening) => awakening,
        Err(failure) => {
            tracing::error!(causes = failure.causes.join(": "), "{}", failure.message);
            return Err(failure);
        }
    };
    let (lines, failures) = told(&awakening);
    for line in &lines {
        tracing::info!("{line}");
        tell(line);
    }
    for line in &failures {
        tracing::warn!("{line}");
    }
    if failures.is_empty() {
        return Ok(());
    }
    let mut failure = Failure::failed("not all that was running could be started again")
        .hint("`flocker deploy` tries again");
    failure.causes = failures;
    Err(failure)
}

async fn be_the_node(directory: &Path) -> Result<Awakening, Failure> {
    let failed = |error| asked_to_end().because(&error);
    let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
    let end = Instant::now() + PATIENCE;
    loop {
        tokio::select! {
            () = make_way(directory, end) => {}
            _ = terminate.recv() => return Err(asked_to_end()),
        }
        let woken = process::errand(directory, |node| async move {
            let since = clock::time_of_day();
            loop {
                match node.start_again(|| routes_of_before(directory), since).await {
                    // Whoever deploys knows more. What is left afterwards is ours.
                    Err(NodeError::Held { .. }) => tokio::time::sleep(PAUSE).await,
                    // What it asks may be about to start as well.
                    Err(error) if error.class() == ErrorClass::Transient && Instant::now() < end => {
                        tracing::warn!("{}", one_line(&error));
                        tokio::time::sleep(PAUSE).await;
                    }
                    awakening => return awakening,
                }
            }
        });
        match woken.await {
            Ok(Some(woken)) => return woken.map_err(|error| refused(&error)),
            // The machine may be about to end again: nothing is begun anew.
            Ok(None) => return Err(asked_to_end()),
            // What it is put together from may be about to start, or somebody else was faster.
            Err(failure) if Instant::now() < end => {
                tracing::warn!(causes = failure.causes.join(": "), "{}", failure.message);
                tokio::select! {
                    () = tokio::time::sleep(PAUSE) => {}
                    _ = terminate.recv() => return Err(asked_to_end()),
                }
            }
            Err(failure) => return Err(failure),
        }
    }
}

/// Returns the routes that were in force before, or were made by who has deployed since.
fn routes_of_before(directory: &Path) -> RouteTable {
    kept::load(directory).unwrap_or_else(|error| {
        tracing::warn!(%error, "the routes of before cannot be read, and wait for the next deploy");
        RouteTable::default()
    })
}

/// Has the process that is the node by now end, once nobody uses it.
async fn make_way(directory: &Path, end: Instant) {
    // Where it cannot be asked, it is found to be in the way.
    while let Ok(Some(live)) = Live::find(directory)
        && Instant::now() < end
    {
        drop(live.retire());
        drop(tokio::time::timeout(PAUSE, live.ended()).await);
    }
}

fn asked_to_end() -> Failure {
    Failure::failed("the start of the applications was asked to end")
        .hint("`flocker deploy` starts what is to run")
}

fn refused(error: &NodeError) -> Failure {
    Failure::failed("nothing was started again")
        .because(error)
        .hint("`systemctl restart flocker` tries again; `flocker deploy` looks at all nodes first")
}

/// Says what became of everything: what is as it may be, and what is not.
fn told(awakening: &Awakening) -> (Vec<String>, Vec<String>) {
    let Awakening {
        applications,
        routes,
        taken,
    } = awakening;
    let (mut lines, mut failures) = (Vec::new(), Vec::new());
    for (name, woken) in applications {
        match said(name, woken) {
            Ok(line) => lines.push(line),
            Err(line) => failures.push(line),
        }
    }
    match routes {
        Ok(0) => {}
        Ok(1) => lines.push("1 route was put back".into()),
        Ok(n_routes) => lines.push(format!("{n_routes} routes were put back")),
        Err(error) => failures.push(format!("the routes could not be put back: {}", one_line(error))),
    }
    for port in taken {
        failures.push(format!(
            "port {port} belongs to something else of this machine by now, and its route waits for the next deploy"
        ));
    }
    (lines, failures)
}

fn said(name: &ApplicationName, woken: &Woken) -> Result<String, String> {
    match woken {
        Woken::Started => Ok(format!("`{name}` was started again")),
        Woken::Runs => Ok(format!("`{name}` runs already")),
        Woken::Stays(why) => Ok(format!("`{name}` waits for the next deploy: {why}")),
        Woken::Failed(error) => Err(format!(
            "`{name}` could not be started again: {}",
            one_line(error)
        )),
    }
}

#[cfg(test)]
mod tests {
    use flocker_plan::boot::Stays;

    use super::*;

    #[test]
    fn what_became_of_each_application_is_told_in_a_line() {
        let application = |text: &str| text.parse::<ApplicationName>().unwrap();
        let awakening = Awakening {
            applications: [
                (application("accounts"), Woken::Started),
                (application("shop"), Woken::Runs),
                (application("stock"), Woken::Stays(Stays::Copy)),
                (application("web"), Woken::Failed(NodeError::LockLost)),
            ]
            .into(),
            routes: Ok(2),
            taken: ["80".parse().unwrap()].into(),
        };
        let (lines, failures) = told(&awakening);
        assert_eq!(
            lines,
            [
                "`accounts` was started again",
                "`shop` runs already",
                "`stock` waits for the next deploy: its data here is a copy of another node's",
                "2 routes were put back",
            ]
        );
        assert_eq!(failures.len(), 2);
        assert!(failures[1].starts_with("port 80 belongs"), "{failures:?}");
        assert!(
            failures[0].starts_with("`web` could not be started again: "),
            "{failures:?}"
        );
    }
}
