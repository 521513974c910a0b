//! Whether a container serves. It is asked by us, because its image need not have anything to ask with.

use std::net::SocketAddr;
use std::sync::PoisonError;
use std::time::Duration;

use bollard::exec::StartExecOptions;
use bollard::models::ExecConfig;
use flocker_model::ContainerStatus;
use flocker_model::Health;
use flocker_model::HealthCheck;
use flocker_model::HealthProbe;
use nix::sys::signal::Signal;
use nix::unistd::Pid;
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::engine::Engine;
use super::engine::said;
use super::seen::Seen;
use crate::runtime::process::probe::http_status;

/// How often a command in a container is looked at.
const LOOK_INTERVAL: Duration = Duration::from_millis(10);

/// How soon a container that nobody has seen serving is asked again by who only looks.
const QUICK_PAUSE: Duration = Duration::from_millis(100);

/// How long whoever only looks waits for the health of one container.
const LOOK_PATIENCE: Duration = Duration::from_secs(3);

impl Engine {
    /// Probes once. `Err` says why it does not serve.
    pub(super) async fn probe(&self, seen: &Seen, check: &HealthCheck) -> Result<(), String> {
        let answer = tokio::time::timeout(check.timeout, self.ask(seen, check)).await;
        let answer = answer.unwrap_or_else(|_| Err(format!("no answer within {:?}", check.timeout)));
        if answer.is_ok() {
            let mut served = self.served.lock().unwrap_or_else(PoisonError::into_inner);
            served.insert(seen.id.clone(), Instant::now());
        }
        answer
    }

    async fn ask(&self, seen: &Seen, check: &HealthCheck) -> Result<(), String> {
        let address = |port: flocker_model::PortNumber| match seen.address {
            Some(address) => Ok(SocketAddr::new(address, port.get())),
            None => Err("it is in no network".to_owned()),
        };
        match &check.probe {
            HealthProbe::Tcp { port } => {
                let address = address(*port)?;
                let connected = TcpStream::connect(address).await;
                connected.map(drop).map_err(|error| format!("{address}: {error}"))
            }
            HealthProbe::Http { port, path } => {
                let address = address(*port)?;
                let status = http_status(address, path).await;
                match status.map_err(|error| format!("http://{address}{path}: {error}"))? {
                    200..=399 => Ok(()),
                    status => Err(format!(
                        "http://{address}{path} was answered with status {status}"
                    )),
                }
            }
            HealthProbe::Command(command) => self.run(seen, command).await,
        }
    }

    /// Runs a command in a container. Where this is dropped, the command is killed.
    async fn run(&self, seen: &Seen, command: &[Box<str>]) -> Result<(), String> {
        let program = command.first().ok_or("its command is empty")?;
        let config = ExecConfig {
            cmd: Some(command.iter().map(ToString::to_string).collect()),
            ..ExecConfig::default()
        };
        let told = |error| said(&error);
        let run = self.client.create_exec(&seen.id, config).await.map_err(told)?.id;
        let detached = StartExecOptions {
            detach: true,
            ..StartExecOptions::default()
        };
        self.client.start_exec(&run, Some(detached)).await.map_err(told)?;
        let mut running = Running(None);
        loop {
            let found = self.client.inspect_exec(&run).await.map_err(told)?;
            if found.running == Some(true) {
                let process = found.pid.and_then(|process| i32::try_from(process).ok());
                running.0 = process.filter(|&process| process > 0);
                tokio::time::sleep(LOOK_INTERVAL).await;
                continue;
            }
            running.0 = None;
            return match found.exit_code {
                Some(0) => Ok(()),
                Some(code) => Err(format!("`{program}` ended with status {code}")),
                None => Err(format!("`{program}` ended, and nobody saw how")),
            };
        }
    }

    /// Returns the health of a container as one look shows it.
    ///
    /// Who was seen serving within the time that its check allows is healthy.
    /// Who was not is asked as often as its check says, in quick succession,
    /// so that a look depends on nothing that an earlier one has written down.
    pub(super) async fn health(&self, seen: &Seen) -> Health {
        let Some(check) = &seen.labels.health_check else {
            return Health::NotChecked;
        };
        if seen.status != ContainerStatus::Running {
            return Health::Unhealthy;
        }
        let asking = async {
            for try_number in 0..check.retries.get() {
                if try_number > 0 {
                    tokio::time::sleep(QUICK_PAUSE.min(check.interval)).await;
                }
                if self.probe(seen, check).await.is_ok() || self.has_just_served(seen, check) {
                    return Health::Healthy;
                }
            }
            Health::Unhealthy
        };
        let asked = tokio::time::timeout(LOOK_PATIENCE, asking).await;
        asked.unwrap_or_else(|_| {
            if self.has_just_served(seen, check) {
                Health::Healthy
            } else {
                Health::Unhealthy
            }
        })
    }

    fn has_just_served(&self, seen: &Seen, check: &HealthCheck) -> bool {
        let patience = check.interval.saturating_mul(check.retries.get());
        let served = self.served.lock().unwrap_or_else(PoisonError::into_inner);
        served.get(&seen.id).is_some_and(|last| last.elapsed() < patience)
    }

    /// Forgets what is known of containers that are not there any more.
    pub(super) fn forget_all_but(&self, there: &[Seen]) {
        let mut served = self.served.lock().unwrap_or_else(PoisonError::into_inner);
        served.retain(|id, _| there.iter().any(|seen| seen.id == *id));
    }
}

/// A command in a container, by the process id that it has outside of it.
struct Running(Option<i32>);

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(process) = self.0 {
            // It may have ended by itself.
            let _ = nix::sys::signal::kill(Pid::from_raw(process), Signal::SIGKILL);
        }
    }
}
