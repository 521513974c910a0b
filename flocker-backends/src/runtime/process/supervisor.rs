//! The life of one application: a process of ours between the node and the program.
//!
//! It outlives the node. It holds the container's lock from birth to death,
//! adopts every orphan of the program, and leaves only when none of them is
//! left. Where it is itself killed, the program dies with it.

use std::fs::File;
use std::io;
use std::io::Read;
use std::os::fd::AsFd;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::Mutex;
use std::time::Duration;

use flocker_model::RestartPolicy;
use nix::sys::signal::Signal;
use nix::sys::signal::kill;
use nix::sys::signal::killpg;
use nix::unistd::Pid;
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;
use tokio::signal::unix::SignalKind;
use tokio::signal::unix::signal;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::kin;
use super::launch::Launch;
use super::launch::MARKER;
use super::log::LogWriter;
use super::orders::Orders;
use super::place::Container;
use super::place::Phase;
use super::place::Probing;
use super::place::Status;
use super::probe;
use super::reaper::Children;
use super::reaper::Ending;
use super::reaper::Reaper;
use super::watch::Book;
use super::watch::append;
use super::watch::watch;
use crate::deadline;
use crate::process::Program;
use crate::process::Stream;

/// The order to a supervisor is never longer than this.
const LONGEST_ORDER: u64 = 64 * 1024 * 1024;

/// Supervises the application of a container directory until it has ended for good.
pub(super) fn supervise(directory: &Path) -> ExitCode {
    match prepare(directory) {
        Ok((launch, lock)) => match run(directory, launch, lock) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => fail(&error),
        },
        Err(error) => fail(&error),
    }
}

fn fail(error: &io::Error) -> ExitCode {
    tracing::error!(%error, "the supervisor broke");
    ExitCode::FAILURE
}

/// Becomes a supervisor: takes over the lock, leaves the node's session, and reads the order.
fn prepare(directory: &Path) -> io::Result<(Launch, File)> {
    // The lock came as standard output. The copy is not inherited by anybody.
    let lock = File::from(io::stdout().as_fd().try_clone_to_owned()?);
    nix::unistd::dup2_stdout(File::open("/dev/null")?)?;
    nix::unistd::setsid()?;
    nix::sys::prctl::set_child_subreaper(true)?;
    std::env::set_current_dir(directory)?;
    let mut order = Vec::new();
    io::stdin().take(LONGEST_ORDER).read_to_end(&mut order)?;
    // An order that was cut, because the node died, does not parse.
    Ok((serde_json::from_slice(&order)?, lock))
}

/// Lives for the application. The lock is free when this returns, and not before.
fn run(directory: &Path, launch: Launch, lock: File) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    // One thread: the program is bound to the death of the thread that starts it.
    runtime.block_on(async {
        let reaper = Reaper::default();
        let mut children = signal(SignalKind::child())?;
        let reaping = reaper.clone();
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            while children.recv().await.is_some() {
                reaping.reap();
            }
        });
        let supervisor = Supervisor::new(directory, launch, lock, reaper)?;
        supervisor.live().await
    })
}

/// What became of one run of the program.
struct Run {
    ending: Ending,
    lasted: Duration,
    was_stopped: bool,
}

struct Supervisor {
    launch: Launch,
    book: Book,
    orders: Orders,
    reaper: Reaper,
    log: Arc<Mutex<LogWriter>>,
    pumps: JoinSet<()>,
}

impl Supervisor {
    fn new(directory: &Path, launch: Launch, lock: File, reaper: Reaper) -> io::Result<Self> {
        let container = Container(directory.to_owned());
        let logs = directory.with_file_name("logs");
        let log = LogWriter::open(&logs, launch.log_limit.0)?;
        let status = container.status()?.unwrap_or_else(Status::starting);
        Ok(Self {
            orders: Orders::open(container.clone(), lock, launch.stop_grace)?,
            book: Book { container, status },
            launch,
            reaper,
            log: Arc::new(Mutex::new(log)),
            pumps: JoinSet::new(),
        })
    }

    async fn live(mut self) -> io::Result<()> {
        let timing = self.launch.restart_timing.clone();
        let mut pause = timing.first;
        let mut failures_in_a_row = 0;
        let mut code = None;
        while self.orders.stop()?.is_none() {
            let run = self.run_once().await?;
            self.bury().await?;
            code = run.ending.code();
            let lasted_long = run.lasted >= timing.reset_after;
            self.book.update(|status| {
                status.ends_in_a_row = if lasted_long {
                    0
                } else {
                    status.ends_in_a_row.saturating_add(1)
                };
            });
            if lasted_long {
                pause = timing.first;
                failures_in_a_row = 0;
            }
            if run.was_stopped || !wants_restart(self.launch.restart_policy, code, failures_in_a_row) {
                break;
            }
            failures_in_a_row += 1;
            self.book.update(|status| status.phase = Phase::Restarting);
            if self.orders.stop_within(pause).await?.is_some() {
                break;
            }
            pause = pause.saturating_mul(2).min(timing.longest);
            self.book.update(|status| {
                status.restarts = status.restarts.saturating_add(1);
                status.probing = Probing::Pending;
            });
        }
        self.book.update(|status| status.phase = Phase::Ended { code });
        Ok(())
    }

    /// Starts the program and stays with it until it ends.
    async fn run_once(&mut self) -> io::Result<Run> {
        let began = Instant::now();
        let (process, socket) = match self.start() {
            Ok(started) => started,
            Err(reason) => {
                self.say(&reason);
                self.book.update(|status| status.last_end = Some(reason));
                return Ok(Run {
                    ending: Ending::Unseen,
                    lasted: Duration::ZERO,
                    was_stopped: false,
                });
            }
        };
        let ending = self.reaper.ending_of(process);
        tokio::pin!(ending);
        self.book.update(|status| {
            status.phase = Phase::Running {
                process: process.as_raw(),
                started: kin::start_tick(process.as_raw()),
            };
        });
        let log = Arc::clone(&self.log);
        let mut life = Box::pin(watch(&self.launch, &self.reaper, &mut self.book, socket, &log));
        let mut was_stopped = false;
        let mut force_at: Option<Instant> = None;
        let ending = loop {
            let force = async {
                match force_at {
                    Some(instant) => tokio::time::sleep_until(instant).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                ending = &mut ending => break ending,
                grace = self.orders.wait() => {
                    let forced = deadline::after(grace?);
                    force_at = Some(force_at.map_or(forced, |earlier| earlier.min(forced)));
                    if !was_stopped {
                        was_stopped = true;
                        signal_all(process, Signal::SIGTERM);
                    }
                }
                () = force => {
                    signal_all(process, Signal::SIGKILL);
                    force_at = None;
                }
                never = &mut life, if !was_stopped => match never {},
            }
        };
        drop(life);
        self.book.update(|status| {
            let exec_failure = status.last_end.take().filter(|_| ending == Ending::Exited(127));
            status.last_end = Some(exec_failure.unwrap_or_else(|| ending.to_string()));
        });
        Ok(Run {
            ending,
            lasted: began.elapsed(),
            was_stopped,
        })
    }

    /// Starts the process that becomes the program.
    fn start(&mut self) -> Result<(Pid, std::os::unix::net::UnixStream), String> {
        let failed = |error: io::Error| format!("it could not be started: {error}");
        let (ours, theirs) = std::os::unix::net::UnixStream::pair().map_err(failed)?;
        // One pipe for both streams, so that their lines stay in order.
        let (reader, writer) = io::pipe().map_err(failed)?;
        let marker = self.launch.environment.get(MARKER).cloned().unwrap_or_default();
        let program = Program::new("/proc/self/exe")
            .arguments(&self.launch.stage_arguments)
            .argument(super::ENTER)
            .variable(MARKER, marker)
            .stdin(Stream::Descriptor(theirs.into()))
            .stdout(Stream::Descriptor(writer.try_clone().map_err(failed)?.into()))
            .stderr(Stream::Descriptor(writer.into()))
            .own_group();
        let process = program.spawn_unwatched().map_err(|error| probe::chain(&error))?;
        let log = Arc::clone(&self.log);
        match pipe::Receiver::from_owned_fd(reader.into()) {
            Ok(reader) => drop(self.pumps.spawn(pump(reader, log))),
            Err(error) => tracing::error!(%error, "the output is lost"),
        }
        Ok((process, ours))
    }

    /// Kills whatever the program left behind, until nothing of it is left.
    async fn bury(&mut self) -> io::Result<()> {
        let mut pause = Duration::from_millis(1);
        while self.reaper.reap() == Children::Some {
            kin::kill_descendants()?;
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_millis(50));
        }
        // Nobody has the pipes any more, unless somebody passed one on to a stranger.
        let drained = async { while self.pumps.join_next().await.is_some() {} };
        if tokio::time::timeout(Duration::from_secs(1), drained)
            .await
            .is_err()
        {
            self.pumps.shutdown().await;
        }
        Ok(())
    }

    fn say(&self, text: &str) {
        append(&self.log, format!("flocker: {text}\n").as_bytes());
    }
}

fn wants_restart(policy: RestartPolicy, code: Option<i32>, failures_in_a_row: u32) -> bool {
    match policy {
        RestartPolicy::Never => false,
        RestartPolicy::Always => true,
        RestartPolicy::OnFailure { maximum_retry_count } => {
            code != Some(0) && maximum_retry_count.is_none_or(|maximum| failures_in_a_row < maximum.get())
        }
    }
}

/// Signals a program with its group, and alone where it left that.
fn signal_all(process: Pid, signal: Signal) {
    if killpg(process, signal).is_err() || signal == Signal::SIGKILL {
        // It may have ended by itself.
        let _ = kill(process, signal);
    }
}

async fn pump(mut reader: pipe::Receiver, log: Arc<Mutex<LogWriter>>) {
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(n_read) = reader.read(&mut buffer).await {
        if n_read == 0 {
            break;
        }
        append(&log, &buffer[..n_read]);
    }
}
