//! The process that is a node on a real machine, while somebody uses it.

use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use flocker_backends::process::Program;
use flocker_backends::process::Stream;
use flocker_backends::transport::direct::Doorstep;
use flocker_backends::transport::local::ListenError;
use flocker_backends::transport::local::LocalListener;
use flocker_engine::LocalNode;
use flocker_model::PortRange;
use tokio::signal::unix::SignalKind;
use tokio::signal::unix::signal;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::assemble;
use super::boot;
use super::settings::Settings;
use crate::error::Failure;
use crate::local;
use crate::local::Live;
use crate::local::NodeLog;

/// How long it stays when nobody talks to it.
const IDLE: Duration = Duration::from_secs(60);

/// How many of our programs are kept on the machine.
const KEPT_PROGRAMS: usize = 4;

/// Returns where the node writes what it says.
pub(super) fn log(directory: &Path) -> PathBuf {
    directory.join("node.log")
}

/// Starts the process. It may end right away; its log says why.
///
/// Call it inside a tokio runtime.
pub(super) fn start(directory: &Path) -> Result<Option<Live>, Failure> {
    let failed = || Failure::failed("could not start the process of the node");
    let words = local::open_log(&log(directory)).map_err(|error| failed().because(&error))?;
    let program = std::env::current_exe().map_err(|error| failed().because(&error))?;
    let started = Program::new(program)
        .argument("node-process")
        .argument("--directory")
        .argument(directory)
        .variables(local::environment())
        .directory("/")
        .stderr(Stream::Descriptor(words.into()))
        .spawn_detached()
        .map_err(|error| failed().because(&error))?;
    let found = started.id.map_or(Ok(None), Live::of);
    found.map_err(|error| failed().because(&error))
}

/// Is the node until it is asked to end, or until nobody has talked to it for a while and nothing needs it.
///
/// Its applications run on. Asked by `SIGUSR1` it ends once nobody talks to it and nothing needs it.
pub(crate) async fn serve(directory: &Path) -> Result<(), Failure> {
    // Only a test in the same process could have set another one before.
    drop(tracing::subscriber::set_global_default(NodeLog::new(log(
        directory,
    ))));
    // The login that started it may end at any time, which is none of its business.
    if let Err(error) = rustix::process::setsid() {
        tracing::warn!(%error, "the node shares a session with whoever started it");
    }
    let nothing = |_| std::future::pending::<()>();
    be_the_node(directory, Stay::WhileUsed, nothing).await.map(|_| ())
}

/// Is the node for as long as an errand takes, and who talks to it meanwhile; returns what came of it, and nothing where
/// it was asked to end before.
///
/// Where something needs the process of the node, another one is started once the errand is done.
pub(super) async fn errand<T, R>(
    directory: &Path,
    errand: impl FnOnce(Arc<LocalNode>) -> R,
) -> Result<Option<T>, Failure>
where
    R: Future<Output = T>,
{
    let Ended { done, is_needed } = be_the_node(directory, Stay::ForTheErrand, errand).await?;
    if is_needed && done.is_some() {
        start(directory)?;
    }
    Ok(done)
}

/// How long a process is the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stay {
    /// While somebody uses it, or needs it, and a little longer.
    WhileUsed,
    /// Until its errand is done, and nobody talks to it.
    ForTheErrand,
}

/// How a process ended that was the node.
#[derive(Debug)]
struct Ended<T> {
    /// What came of its errand, where that was done.
    done: Option<T>,
    /// Whether applications cannot be reached until there is another one.
    is_needed: bool,
}

async fn be_the_node<T, R>(
    directory: &Path,
    stay: Stay,
    errand: impl FnOnce(Arc<LocalNode>) -> R,
) -> Result<Ended<T>, Failure>
where
    R: Future<Output = T>,
{
    let failed = || Failure::failed("could not become the node");
    let handler = |kind| signal(kind).map_err(|error| failed().because(&error));
    let mut terminate = handler(SignalKind::terminate())?;
    let mut retire = handler(SignalKind::user_defined1())?;
    let _hang_up = handler(SignalKind::hangup())?;
    let settings = Settings::load(directory)?.ok_or_else(|| failed().hint("it has no `settings.json`"))?;
    let bind = || LocalListener::bind(directory);
    let bound = local::in_time(bind, |error| matches!(error, ListenError::InUse { .. }));
    let listener = bound.await.map_err(|error| failed().because(&error))?;
    let assembled = assemble::assemble(&settings, directory).await?;
    let mut doorstep = Doorstep::new(settings.address);
    doorstep.ports = settings.transfer_ports.map(PortRange::numbers);
    let (node, doors) = assembled.node.with_doors(doorstep);
    let node = Arc::new(node);
    // Data comes straight from other nodes through doors that are opened for it; it ends with us.
    let mut background = JoinSet::new();
    background.spawn(doors.keep(Arc::clone(&node)));
    let program = env!("CARGO_PKG_VERSION");
    tracing::info!(name = %settings.name, id = %node.id(), address = %settings.address, program, "the node serves");
    let place = directory.to_owned();
    background.spawn(async move {
        // It may take systemd a while, and nobody waits for it.
        boot::follow(&place).await;
        drop_old_programs(&place, boot::program_of(&place).as_deref());
    });
    let mut connections = JoinSet::new();
    let mut last_used = Instant::now();
    let mut is_retiring = false;
    let mut errand = std::pin::pin!(errand(Arc::clone(&node)));
    let mut done = None;
    loop {
        match stay {
            Stay::ForTheErrand if done.is_some() && connections.is_empty() => break,
            Stay::WhileUsed if is_retiring && connections.is_empty() => {
                // Another version is no reason to cut off those who talk to applications.
                if !assembled.needs_process.is_needed().await {
                    break;
                }
                is_retiring = false;
            }
            Stay::ForTheErrand | Stay::WhileUsed => {}
        }
        tokio::select! {
            _ = terminate.recv() => break,
            _ = retire.recv() => is_retiring = true,
            came_of_it = &mut errand, if done.is_none() => done = Some(came_of_it),
            accepted = listener.accept() => match accepted {
                Ok(channel) => {
                    connections.spawn(flocker_engine::serve(channel, Arc::clone(&node)));
                }
                Err(error) => {
                    tracing::warn!(%error, "could not accept a connection");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            },
            Some(ended) = connections.join_next() => {
                local::note(ended);
                last_used = Instant::now();
            }
            () = tokio::time::sleep_until(last_used + IDLE), if connections.is_empty() && stay == Stay::WhileUsed => {
                if !assembled.needs_process.is_needed().await {
                    break;
                }
                last_used = Instant::now();
            }
        }
    }
    let seat = local::finish(listener, connections, local::LAST_ORDERS).await;
    background.shutdown().await;
    let is_needed = assembled.needs_process.is_needed().await;
    drop(seat);
    tracing::info!("the node ends");
    Ok(Ended { done, is_needed })
}

/// Removes all but the newest of our programs, and the one that starts with the machine. A process that runs one keeps it.
fn drop_old_programs(directory: &Path, at_boot: Option<&Path>) {
    let own = std::env::current_exe().ok();
    let Ok(entries) = std::fs::read_dir(directory.join("bin")) else {
        return;
    };
    let mut others: Vec<_> = entries
        .filter_map(|entry| {
            let entry = entry.ok()?;
            let is_ours = entry.file_name().to_str()?.starts_with("flocker-");
            let when = entry.metadata().ok()?.modified().ok()?;
            let is_kept = [own.as_deref(), at_boot].contains(&Some(&*entry.path()));
            (is_ours && !is_kept).then(|| (when, entry.path()))
        })
        .collect();
    others.sort_unstable();
    let n_old = others.len().saturating_sub(KEPT_PROGRAMS - 1);
    for (_, path) in others.into_iter().take(n_old) {
        if let Err(error) = std::fs::remove_file(&path) {
            tracing::warn!(%error, path = %path.display(), "an old program could not be removed");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_newest_programs_are_kept() {
        let place = tempfile::tempdir().unwrap();
        let bin = place.path().join("bin");
        std::fs::create_dir(&bin).unwrap();
        let time = |age: u64| std::time::SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000 - age);
        for age in 0..6 {
            let file = std::fs::File::create(bin.join(format!("flocker-{age}"))).unwrap();
            file.set_modified(time(age)).unwrap();
        }
        std::fs::write(bin.join("other"), "").unwrap();
        drop_old_programs(place.path(), Some(&bin.join("flocker-5")));
        let mut left: Vec<_> = std::fs::read_dir(&bin)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        left.sort_unstable();
        assert_eq!(
            left,
            ["flocker-0", "flocker-1", "flocker-2", "flocker-5", "other"]
        );
    }
}
