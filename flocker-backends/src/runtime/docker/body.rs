//! What the engine is asked to make from a specification.

use std::collections::BTreeMap;
use std::path::Path;

use bollard::models::ContainerCreateBody;
use bollard::models::EndpointIpamConfig;
use bollard::models::EndpointSettings;
use bollard::models::HealthConfig;
use bollard::models::HostConfig;
use bollard::models::HostConfigLogConfig;
use bollard::models::Mount;
use bollard::models::MountType;
use bollard::models::NetworkingConfig;
use bollard::models::RestartPolicy as EnginePolicy;
use bollard::models::RestartPolicyNameEnum;
use flocker_model::EnvironmentValue;
use flocker_model::RestartPolicy;

use super::DockerOptions;
use super::address::hosts;
use super::labels::Labels;
use super::labels::Manner;
use super::labels::Naming;
use crate::runtime::ContainerSpec;

/// Everything that a container is made from, besides its specification.
pub(super) struct Around<'a> {
    pub(super) options: &'a DockerOptions,
    pub(super) naming: &'a Naming,
    pub(super) labels: &'a Labels,
    /// The identity of the image.
    pub(super) image: &'a str,
    /// What is mounted for its volume.
    pub(super) gate: &'a Path,
}

/// Returns what the engine is asked to make. It holds secrets.
///
/// It never restarts by itself: its policy comes when it is started. The
/// image's own health check is off, because ours is asked by us.
pub(super) fn body(spec: &ContainerSpec, around: &Around<'_>) -> ContainerCreateBody {
    let application = &spec.application;
    let mut environment = spec.link_environment();
    for (name, value) in &application.environment {
        let value = match value {
            EnvironmentValue::Plain(value) => value.to_string(),
            EnvironmentValue::Secret(secret) => secret.reveal().to_owned(),
        };
        environment.insert(name.to_string(), value);
    }
    let environment = environment
        .into_iter()
        .map(|(name, value)| format!("{name}={value}"));
    let command: Vec<String> = application.command_line.iter().map(ToString::to_string).collect();
    let endpoint = EndpointSettings {
        ipam_config: Some(EndpointIpamConfig {
            ipv4_address: Some(around.labels.address.to_string()),
            ..EndpointIpamConfig::default()
        }),
        ..EndpointSettings::default()
    };
    let network = around.options.network.clone();
    ContainerCreateBody {
        image: Some(around.image.to_owned()),
        cmd: (!command.is_empty()).then_some(command),
        env: Some(environment.collect()),
        labels: Some(around.labels.to_map(around.naming).into_iter().collect()),
        // Whoever stops it by hand gives it as long as we would.
        stop_timeout: i64::try_from(whole_seconds(application.stop_grace)).ok(),
        healthcheck: Some(HealthConfig {
            test: Some(vec!["NONE".into()]),
            ..HealthConfig::default()
        }),
        host_config: Some(host_config(spec, around)),
        networking_config: Some(NetworkingConfig {
            endpoints_config: Some([(network, endpoint)].into_iter().collect()),
        }),
        ..ContainerCreateBody::default()
    }
}

fn host_config(spec: &ContainerSpec, around: &Around<'_>) -> HostConfig {
    let application = &spec.application;
    let links = hosts(&application.links, spec.node_address, around.options.links);
    let mount = application.volume.as_ref().map(|volume| Mount {
        typ: Some(MountType::BIND),
        // Not as `Binds`: for those the engine makes a directory where there is none.
        source: Some(around.gate.to_string_lossy().into_owned()),
        target: Some(volume.mountpoint.to_string()),
        ..Mount::default()
    });
    HostConfig {
        network_mode: Some(around.options.network.clone()),
        restart_policy: Some(policy(RestartPolicy::Never)),
        mounts: mount.map(|mount| vec![mount]),
        memory: application
            .limits
            .memory
            .map(|memory| i64::try_from(memory.0).unwrap_or(i64::MAX)),
        cpu_shares: application.limits.cpu_shares.map(i64::from),
        extra_hosts: Some(
            links
                .iter()
                .map(|(alias, address)| format!("{alias}:{address}"))
                .collect(),
        ),
        log_config: Some(log_config(around)),
        ..HostConfig::default()
    }
}

/// What a unit runs says everything to the journal already.
fn log_config(around: &Around<'_>) -> HostConfigLogConfig {
    let (driver, config) = match around.naming.manner {
        Manner::Engine => (
            "json-file",
            BTreeMap::from([
                ("max-size".to_owned(), around.options.log_limit.0.to_string()),
                ("max-file".to_owned(), "2".to_owned()),
            ]),
        ),
        Manner::Unit => ("none", BTreeMap::new()),
    };
    HostConfigLogConfig {
        typ: Some(driver.into()),
        config: Some(config.into_iter().collect()),
    }
}

/// Returns a restart policy as the engine has it.
pub(super) fn policy(policy: RestartPolicy) -> EnginePolicy {
    let (name, count) = match policy {
        RestartPolicy::Never => (RestartPolicyNameEnum::NO, None),
        RestartPolicy::Always => (RestartPolicyNameEnum::ALWAYS, None),
        RestartPolicy::OnFailure { maximum_retry_count } => (
            RestartPolicyNameEnum::ON_FAILURE,
            maximum_retry_count.map(|count| i64::from(count.get())),
        ),
    };
    EnginePolicy {
        name: Some(name),
        maximum_retry_count: count,
    }
}

/// Returns a time in seconds, never less than it is.
pub(in crate::runtime) fn whole_seconds(time: std::time::Duration) -> u64 {
    time.as_secs().saturating_add(u64::from(time.subsec_nanos() > 0))
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;
    use std::net::Ipv4Addr;
    use std::time::Duration;

    use flocker_model::Application;
    use flocker_model::ByteSize;
    use flocker_model::DatasetId;
    use flocker_model::DefinitionHash;
    use flocker_model::Link;
    use flocker_model::PortNumber;
    use flocker_model::Secret;
    use flocker_model::Volume;

    use super::*;

    fn spec() -> ContainerSpec {
        let mut application = Application::new("example/web:1".parse().unwrap());
        application.command_line = ["serve".into(), "--all $x".into()].into();
        application.volume = Some(Volume {
            dataset: DatasetId::derived(&"web".parse().unwrap()),
            mountpoint: "/var/lib/web".into(),
            maximum_size: None,
        });
        application.limits.memory = Some(ByteSize(64 << 20));
        application.limits.cpu_shares = Some(512);
        application.restart_policy = RestartPolicy::Always;
        application.stop_grace = Duration::from_millis(1500);
        application
            .environment
            .insert("GREETING".into(), EnvironmentValue::Plain("a b".into()));
        let secret = EnvironmentValue::Secret(Secret::new("hunter2"));
        application.environment.insert("PASSWORD".into(), secret);
        application.links = [Link {
            local_port: PortNumber::new(5432).unwrap(),
            remote_port: "5433".parse().unwrap(),
            alias: "db".parse().unwrap(),
        }]
        .into();
        ContainerSpec {
            name: "web".parse().unwrap(),
            application,
            definition: DefinitionHash(7),
            volume: Some("/flocker/web".into()),
            node_address: IpAddr::from([192, 0, 2, 1]),
        }
    }

    fn text(spec: &ContainerSpec, manner: Manner) -> String {
        let options = DockerOptions::new("/var/lib/flocker/docker".into());
        let naming = Naming {
            namespace: None,
            manner,
        };
        let labels = Labels::new(spec, Ipv4Addr::new(10, 193, 1, 2));
        let body = body(
            spec,
            &Around {
                options: &options,
                naming: &naming,
                labels: &labels,
                image: "sha256:0123",
                gate: Path::new("/run/flocker/docker/volumes/flocker--web"),
            },
        );
        // Sorted: the client keeps maps in a random order.
        let value = serde_json::to_value(body).unwrap();
        serde_json::to_string_pretty(&value).unwrap() + "\n"
    }

    #[test]
    fn a_specification_becomes_what_the_engine_is_asked_for() {
        let expected = include_str!("../../../tests/data/docker-20.10/create-web.json");
        assert_eq!(text(&spec(), Manner::Engine), expected);
    }

    #[test]
    fn an_application_with_nothing_around_it_asks_for_nothing() {
        let mut spec = spec();
        spec.application = Application::new("busybox".parse().unwrap());
        spec.volume = None;
        let value: serde_json::Value = serde_json::from_str(&text(&spec, Manner::Unit)).unwrap();
        for absent in ["Cmd", "ExposedPorts", "Entrypoint", "User"] {
            assert_eq!(value.get(absent), None, "{absent}");
        }
        for absent in [
            "Mounts",
            "Binds",
            "Memory",
            "CpuShares",
            "PortBindings",
            "Privileged",
        ] {
            assert_eq!(value["HostConfig"].get(absent), None, "{absent}");
        }
        assert_eq!(value["HostConfig"]["LogConfig"]["Type"], "none");
    }
}
