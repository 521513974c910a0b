//! What the engine says of one container, read strictly.
//!
//! A container is ours, or it is not, or what the engine says of it cannot be
//! read, which is an error: a container that is overlooked reads as absent.

use std::net::IpAddr;

use bollard::models::ContainerInspectResponse;
use bollard::models::ContainerStateStatusEnum;
use bollard::models::RestartPolicyNameEnum;
use flocker_model::ContainerState;
use flocker_model::ContainerStatus;
use flocker_model::Health;
use flocker_model::RestartPolicy;
use thiserror::Error;

use super::labels::Labels;
use super::labels::Naming;
use super::neighbour::HardwareAddress;

/// One of our containers.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::runtime) struct Seen {
    /// The engine's identity of this very container.
    pub(in crate::runtime) id: String,
    pub(in crate::runtime) labels: Labels,
    pub(in crate::runtime) status: ContainerStatus,
    pub(in crate::runtime) restarts: u32,
    /// With what it ended the last time, while it does not run and is to be started again.
    pub(super) ended_with: Option<i32>,
    /// The process id of its first process, where it runs.
    pub(super) process: Option<u32>,
    pub(super) is_paused: bool,
    /// Whether it ever ran and so may have said something.
    pub(super) has_run: bool,
    /// What the engine does when it ends.
    pub(in crate::runtime) policy: RestartPolicy,
    /// The signal that asks it to end, where it is not `SIGTERM`.
    pub(super) stop_signal: Option<String>,
    pub(super) address: Option<IpAddr>,
    /// What its network's hardware calls it, while it runs.
    pub(super) hardware_address: Option<HardwareAddress>,
    /// Why the engine could not start it the last time.
    pub(super) refusal: Option<String>,
}

/// What the engine says of a container and cannot be understood.
#[derive(Debug, PartialEq, Eq, Error)]
#[error("what the engine says of the container `{container}` cannot be read: {what}")]
pub(super) struct Unreadable {
    container: String,
    what: String,
}

/// Whose a container is.
#[derive(Debug, PartialEq)]
pub(super) enum Owned {
    /// It is ours.
    Ours(Box<Seen>),
    /// It is somebody else's, and never touched.
    Foreign,
}

impl Seen {
    /// Says whether it runs, or may run again without being asked.
    pub(in crate::runtime) fn is_alive(&self) -> bool {
        match self.status {
            ContainerStatus::Running | ContainerStatus::Restarting => true,
            ContainerStatus::Prepared | ContainerStatus::Exited { .. } => false,
        }
    }

    /// Returns what is reported of it.
    pub(super) fn state(&self, health: Health) -> ContainerState {
        ContainerState {
            status: self.status,
            health,
            definition: self.labels.definition,
            dataset: self.labels.dataset,
            address: self.address,
            stop_grace: self.labels.stop_grace,
            restarts: self.restarts,
        }
    }
}

/// Reads what the engine says of a container.
pub(super) fn read(
    container: &ContainerInspectResponse,
    naming: &Naming,
    network: &str,
) -> Result<Owned, Unreadable> {
    let name = container.name.as_deref().unwrap_or_default();
    // The engine writes names as paths.
    let name = name.strip_prefix('/').unwrap_or(name);
    let labels = container
        .config
        .as_ref()
        .and_then(|config| config.labels.as_ref());
    let label = |key: &str| labels.and_then(|labels| labels.get(key)).map(String::as_str);
    let Ok(application) = naming.owner(name, label) else {
        return Ok(Owned::Foreign);
    };
    let unreadable = |what: String| Unreadable {
        container: name.to_owned(),
        what,
    };
    let lacks = |what: &str| unreadable(format!("it lacks {what}"));
    let labels = Labels::read(application, label)
        .map_err(|label| unreadable(format!("its label `{}` is damaged", label.0)))?;
    let state = container.state.as_ref().ok_or_else(|| lacks("its state"))?;
    let exit_code = state.exit_code.and_then(|code| i32::try_from(code).ok());
    let status = match state.status.ok_or_else(|| lacks("its status"))? {
        ContainerStateStatusEnum::CREATED => ContainerStatus::Prepared,
        ContainerStateStatusEnum::RUNNING
        | ContainerStateStatusEnum::PAUSED
        | ContainerStateStatusEnum::STOPPING => ContainerStatus::Running,
        ContainerStateStatusEnum::RESTARTING => ContainerStatus::Restarting,
        ContainerStateStatusEnum::EXITED
        | ContainerStateStatusEnum::REMOVING
        | ContainerStateStatusEnum::DEAD => ContainerStatus::Exited { code: exit_code },
        ContainerStateStatusEnum::EMPTY => return Err(lacks("its status")),
    };
    let restarts = container.restart_count.ok_or_else(|| lacks("its restarts"))?;
    let process = state.pid.and_then(|process| u32::try_from(process).ok());
    let host = container
        .host_config
        .as_ref()
        .ok_or_else(|| lacks("its configuration"))?;
    let policy = match &host.restart_policy {
        None => RestartPolicy::Never,
        Some(policy) => match policy.name {
            None | Some(RestartPolicyNameEnum::EMPTY | RestartPolicyNameEnum::NO) => RestartPolicy::Never,
            Some(RestartPolicyNameEnum::ALWAYS | RestartPolicyNameEnum::UNLESS_STOPPED) => {
                RestartPolicy::Always
            }
            Some(RestartPolicyNameEnum::ON_FAILURE) => {
                let count = policy.maximum_retry_count.unwrap_or(0);
                let count = u32::try_from(count)
                    .map_err(|_| unreadable(format!("`{count}` is no number of restarts")))?;
                RestartPolicy::OnFailure {
                    maximum_retry_count: std::num::NonZeroU32::new(count),
                }
            }
        },
    };
    // A container that does not run has only the address that it was given.
    let endpoint = container.network_settings.as_ref();
    let endpoint = endpoint.and_then(|settings| settings.networks.as_ref()?.get(network));
    let address = endpoint.and_then(|endpoint| {
        let given = endpoint
            .ipam_config
            .as_ref()
            .and_then(|config| config.ipv4_address.as_deref());
        let found = endpoint
            .ip_address
            .as_deref()
            .filter(|address| !address.is_empty());
        found.or(given)
    });
    let hardware_address = endpoint
        .and_then(|endpoint| endpoint.mac_address.as_deref())
        .and_then(HardwareAddress::parse);
    let address = address
        .map(|text| {
            text.parse()
                .map_err(|_| unreadable(format!("`{text}` is no address")))
        })
        .transpose()?;
    Ok(Owned::Ours(Box::new(Seen {
        id: container.id.clone().ok_or_else(|| lacks("its identity"))?,
        labels,
        status,
        restarts: u32::try_from(restarts)
            .map_err(|_| unreadable(format!("`{restarts}` is no number of restarts")))?,
        ended_with: exit_code.filter(|_| matches!(status, ContainerStatus::Restarting)),
        process: process.filter(|&process| process != 0),
        is_paused: state.paused.unwrap_or(false),
        has_run: state
            .started_at
            .as_deref()
            .is_some_and(|time| !time.starts_with("0001-")),
        policy,
        stop_signal: container
            .config
            .as_ref()
            .and_then(|config| config.stop_signal.clone()),
        address,
        hardware_address,
        refusal: state.error.clone().filter(|reason| !reason.is_empty()),
    })))
}

#[cfg(test)]
mod tests {
    use serde_json::Value;
    use serde_json::json;

    use super::super::labels::Manner;
    use super::*;

    /// What Docker 20.10.24 says of a container of ours that runs.
    const RUNNING: &str = include_str!("../../../tests/data/docker-20.10/inspect-running.json");

    fn naming() -> Naming {
        Naming {
            namespace: None,
            manner: Manner::Engine,
        }
    }

    fn running() -> Value {
        serde_json::from_str::<Value>(RUNNING).unwrap()[0].clone()
    }

    fn read_value(value: &Value) -> Result<Owned, Unreadable> {
        let container = serde_json::from_value(value.clone()).unwrap();
        read(&container, &naming(), "flocker")
    }

    #[track_caller]
    fn ours(value: &Value) -> Seen {
        match read_value(value).unwrap() {
            Owned::Ours(seen) => *seen,
            Owned::Foreign => panic!("it is foreign"),
        }
    }

    #[test]
    fn what_the_engine_says_is_read() {
        let seen = ours(&running());
        assert_eq!(seen.labels.application.as_str(), "web");
        assert_eq!(seen.status, ContainerStatus::Running);
        assert!(seen.process.is_some() && seen.has_run && !seen.is_paused);
        assert_eq!(seen.policy, RestartPolicy::Always);
        assert_eq!(seen.address, Some(seen.labels.address.into()));
        assert_eq!(seen.hardware_address, HardwareAddress::parse("02:42:0a:c1:01:02"));
        let state = seen.state(Health::NotChecked);
        assert_eq!(state.definition, seen.labels.definition);
        assert_eq!(state.dataset, seen.labels.dataset);
    }

    #[test]
    fn every_status_has_its_meaning() {
        for (status, expected) in [
            ("created", ContainerStatus::Prepared),
            ("running", ContainerStatus::Running),
            ("paused", ContainerStatus::Running),
            ("restarting", ContainerStatus::Restarting),
            ("exited", ContainerStatus::Exited { code: Some(137) }),
            ("removing", ContainerStatus::Exited { code: Some(137) }),
            ("dead", ContainerStatus::Exited { code: Some(137) }),
        ] {
            let mut value = running();
            value["State"]["Status"] = status.into();
            value["State"]["ExitCode"] = 137.into();
            assert_eq!(ours(&value).status, expected, "{status}");
        }
    }

    #[test]
    fn a_container_that_does_not_run_has_the_address_that_it_was_given() {
        let mut value = running();
        let endpoint = &mut value["NetworkSettings"]["Networks"]["flocker"];
        endpoint["IPAddress"] = "".into();
        let seen = ours(&value);
        assert_eq!(seen.address, Some(seen.labels.address.into()));
        value["NetworkSettings"]["Networks"] = json!({});
        assert_eq!(ours(&value).address, None);
    }

    #[test]
    fn what_is_not_understood_is_an_error_and_never_an_absence() {
        let spoil: [fn(&mut Value); 8] = [
            |value| value["State"] = Value::Null,
            |value| value["State"]["Status"] = "".into(),
            |value| value["RestartCount"] = Value::Null,
            |value| value["RestartCount"] = (-1).into(),
            |value| value["HostConfig"] = Value::Null,
            |value| value["Id"] = Value::Null,
            |value| value["Config"]["Labels"]["io.flocker.definition"] = "?".into(),
            |value| value["NetworkSettings"]["Networks"]["flocker"]["IPAddress"] = "?".into(),
        ];
        for (number, spoil) in spoil.into_iter().enumerate() {
            let mut value = running();
            spoil(&mut value);
            assert!(read_value(&value).is_err(), "case {number}");
        }
    }

    #[test]
    fn a_foreign_container_is_foreign_whatever_it_is_called() {
        let mut renamed = running();
        renamed["Name"] = "/elegant_turing".into();
        assert_eq!(read_value(&renamed), Ok(Owned::Foreign));
        let mut unlabelled = running();
        unlabelled["Config"]["Labels"] = Value::Null;
        assert_eq!(read_value(&unlabelled), Ok(Owned::Foreign));
    }

    proptest::proptest! {
        /// Whatever the engine might say is read, foreign or refused.
        #[test]
        fn nothing_that_an_engine_may_say_is_too_much(
            status in "(|created|running|exited|dead|removing|restarting|paused)",
            restarts in proptest::option::of(proptest::num::i64::ANY),
            process in proptest::option::of(proptest::num::i64::ANY),
            code in proptest::option::of(proptest::num::i64::ANY),
            count in proptest::option::of(proptest::num::i64::ANY),
            text in "\\PC{0,20}",
        ) {
            let mut value = running();
            value["State"]["Status"] = status.into();
            value["RestartCount"] = restarts.into();
            value["State"]["Pid"] = process.into();
            value["State"]["ExitCode"] = code.into();
            value["HostConfig"]["RestartPolicy"] = json!({"Name": "on-failure", "MaximumRetryCount": count});
            value["Config"]["Labels"]["io.flocker.health-check"] = text.clone().into();
            if let Ok(Owned::Ours(seen)) = read_value(&value) {
                proptest::prop_assert_eq!(Some(i64::from(seen.restarts)), restarts);
            }
            value["Name"] = text.into();
            proptest::prop_assert_eq!(read_value(&value), Ok(Owned::Foreign));
        }
    }
}
