//! What is started: a program, its arguments and its environment, worked out from a specification.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;

use flocker_model::ByteSize;
use flocker_model::EnvironmentValue;
use flocker_model::HealthCheck;
use flocker_model::HealthProbe;
use flocker_model::RestartPolicy;
use serde::Deserialize;
use serde::Serialize;

use super::RestartTiming;
use crate::process::DEFAULT_PATH;
use crate::process::find_program;
use crate::runtime::ContainerSpec;
use crate::runtime::RuntimeError;

/// The variable by which every process of an application is known as ours, whoever its parent is now.
pub(super) const MARKER: &str = "FLOCKER_INSTANCE";

/// Everything that a supervisor is told. It holds secrets: it travels through a pipe and is never written down.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct Launch {
    pub(super) program: PathBuf,
    pub(super) arguments: Vec<String>,
    pub(super) environment: BTreeMap<String, String>,
    pub(super) working_directory: PathBuf,
    pub(super) address: IpAddr,
    pub(super) memory: Option<ByteSize>,
    pub(super) nice: i32,
    pub(super) restart_policy: RestartPolicy,
    pub(super) restart_timing: RestartTiming,
    pub(super) health_check: Option<HealthCheck>,
    pub(super) settle: Duration,
    pub(super) stop_grace: Duration,
    pub(super) log_limit: ByteSize,
    /// What our own program has to be given before the name of a stage.
    pub(super) stage_arguments: Vec<String>,
}

impl fmt::Debug for Launch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Launch")
            .field("program", &self.program)
            .finish_non_exhaustive()
    }
}

/// What the arguments and the environment are made from, besides the specification.
pub(super) struct Surroundings<'a> {
    pub(super) address: IpAddr,
    pub(super) marker: &'a str,
    /// What every application of this node gets, such as `PATH`.
    pub(super) environment: &'a BTreeMap<String, String>,
}

/// The program with its arguments, environment and checks.
#[derive(Debug)]
pub(super) struct Resolved {
    pub(super) program: PathBuf,
    pub(super) arguments: Vec<String>,
    pub(super) environment: BTreeMap<String, String>,
    pub(super) health_check: Option<HealthCheck>,
}

/// Works out what is started. Changes nothing; fails where it could not be started here.
pub(super) fn resolve(spec: &ContainerSpec, around: &Surroundings<'_>) -> Result<Resolved, RuntimeError> {
    let refuse = |reason: String| RuntimeError::NoImage {
        application: spec.name.clone(),
        reason,
    };
    let environment = environment(spec, around);
    let path = environment.get("PATH").map_or(DEFAULT_PATH, String::as_str);
    let program = resolve_program(spec.application.image.as_str(), path).map_err(refuse)?;
    let fill_all = |texts: &[Box<str>]| {
        texts
            .iter()
            .map(|text| fill(text, spec, around.address))
            .collect::<Result<Vec<_>, _>>()
            .map_err(refuse)
    };
    let arguments = fill_all(&spec.application.command_line)?;
    let health_check = match spec.application.health_check.as_deref() {
        None => None,
        Some(check) => {
            let mut check = check.clone();
            if let HealthProbe::Command(command) = &check.probe {
                let filled = fill_all(command)?;
                let Some(first) = filled.first() else {
                    return Err(refuse("the command of its health check is empty".into()));
                };
                if find_program(Path::new(first), path.as_ref()).is_none() {
                    return Err(refuse(format!(
                        "the program `{first}` of its health check was not found, or may not be executed"
                    )));
                }
                check.probe = HealthProbe::Command(filled.into_iter().map(Into::into).collect());
            }
            Some(check)
        }
    };
    Ok(Resolved {
        program,
        arguments,
        environment,
        health_check,
    })
}

/// Finds the program that an image names.
fn resolve_program(image: &str, path: &str) -> Result<PathBuf, String> {
    if image.contains('/') && !image.starts_with('/') {
        return Err(format!(
            "`{image}` must be the absolute path of a program, or a name to be looked up in PATH"
        ));
    }
    if let Some(program) = find_program(Path::new(image), path.as_ref()) {
        return Ok(program);
    }
    match image.rsplit_once(':') {
        Some((_, tag)) if !tag.contains('/') => Err(format!(
            "`{image}` has the tag `{tag}`, but this node runs host programs, which have none"
        )),
        Some(_) | None => Err(format!(
            "the program `{image}` was not found, or may not be executed"
        )),
    }
}

/// Puts the volume, address and ports in the places that an argument leaves for them.
fn fill(text: &str, spec: &ContainerSpec, address: IpAddr) -> Result<String, String> {
    let mut filled = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find('{') {
        filled.push_str(&rest[..start]);
        rest = &rest[start..];
        let Some(end) = rest.find('}') else { break };
        let inside = &rest[1..end];
        let value = match inside {
            "volume" => match &spec.volume {
                Some(volume) => Some(utf8(volume)?),
                None => {
                    return Err(format!(
                        "its argument `{text}` asks for a volume, and it has none"
                    ));
                }
            },
            "address" => Some(address.to_string()),
            "port" => match spec.application.ports.first() {
                Some(port) => Some(port.internal.to_string()),
                None => return Err(format!("its argument `{text}` asks for a port, and it has none")),
            },
            _ => match inside.strip_prefix("port:") {
                Some(wanted) => {
                    let declared = spec.application.ports.iter();
                    let mut declared = declared.map(|port| port.internal.to_string());
                    match declared.find(|port| port == wanted) {
                        Some(port) => Some(port),
                        None => {
                            return Err(format!(
                                "its argument `{text}` asks for the internal port `{wanted}`, which it does not declare"
                            ));
                        }
                    }
                }
                None => None,
            },
        };
        if let Some(value) = value {
            filled.push_str(&value);
            rest = &rest[end + 1..];
        } else {
            // Not one of ours: the brace stands for itself.
            filled.push('{');
            rest = &rest[1..];
        }
    }
    filled.push_str(rest);
    Ok(filled)
}

fn utf8(path: &Path) -> Result<String, String> {
    match path.to_str() {
        Some(text) => Ok(text.to_owned()),
        None => Err(format!("the path `{}` is not UTF-8", path.display())),
    }
}

/// Returns the whole environment of an application. What it sets itself wins over all but the marker.
fn environment(spec: &ContainerSpec, around: &Surroundings<'_>) -> BTreeMap<String, String> {
    let mut environment = around.environment.clone();
    environment.insert("FLOCKER_APPLICATION".into(), spec.name.to_string());
    environment.insert("FLOCKER_NODE_ADDRESS".into(), spec.node_address.to_string());
    environment.insert("FLOCKER_ADDRESS".into(), around.address.to_string());
    if let Some(volume) = &spec.volume {
        environment.insert("FLOCKER_VOLUME".into(), volume.to_string_lossy().into_owned());
    }
    if let Some(port) = spec.application.ports.first() {
        environment.insert("FLOCKER_PORT".into(), port.internal.to_string());
    }
    environment.extend(spec.link_environment());
    for (name, value) in &spec.application.environment {
        let value = match value {
            EnvironmentValue::Plain(value) => value.to_string(),
            EnvironmentValue::Secret(secret) => secret.reveal().to_owned(),
        };
        environment.insert(name.to_string(), value);
    }
    environment.insert(MARKER.into(), around.marker.into());
    environment
}

/// Returns how nice a program with these shares is: 0 for a whole share (1024) or more, 19 for next to none.
///
/// One step of niceness is worth a factor of 1.25 to the scheduler. More than
/// a whole share would need a privilege, and is a whole share.
pub(super) fn niceness(cpu_shares: Option<u32>) -> i32 {
    let Some(shares) = cpu_shares else { return 0 };
    let mut nice = 0;
    // In 1/1024 of a share's weight, so that no floating point is needed.
    let mut weight: u64 = 1024 * 1024;
    while nice < 19 && weight > u64::from(shares) * 1024 {
        weight = weight * 4 / 5;
        nice += 1;
    }
    nice
}

#[cfg(test)]
mod tests {
    use flocker_model::Application;
    use flocker_model::DefinitionHash;
    use flocker_model::Port;
    use flocker_model::PortNumber;
    use flocker_model::Secret;

    use super::*;

    fn spec(image: &str, arguments: &[&str]) -> ContainerSpec {
        let mut application = Application::new(image.parse().unwrap());
        application.command_line = arguments.iter().map(|&text| text.into()).collect();
        application.ports = [(80, 8080), (443, 8443)]
            .map(|(internal, external)| Port {
                internal: PortNumber::new(internal).unwrap(),
                external: flocker_model::ExternalPort::tcp(PortNumber::new(external).unwrap()),
            })
            .into();
        ContainerSpec {
            name: "web".parse().unwrap(),
            application,
            definition: DefinitionHash(1),
            volume: Some("/data/web".into()),
            node_address: IpAddr::from([127, 0, 0, 2]),
        }
    }

    fn resolve_here(spec: &ContainerSpec) -> Result<Resolved, String> {
        let around = Surroundings {
            address: IpAddr::from([127, 130, 1, 2]),
            marker: "here/web",
            environment: &BTreeMap::from([("TZ".into(), "UTC".into())]),
        };
        resolve(spec, &around).map_err(|error| error.to_string())
    }

    #[test]
    fn places_in_arguments_are_filled_and_everything_else_is_left() {
        for (text, expected) in [
            ("--listen={address}:{port}", "--listen=127.130.1.2:80"),
            ("{port:443}{volume}/x", "443/data/web/x"),
            ("{}", "{}"),
            ("{\"a\": {port}}", "{\"a\": 80}"),
            ("{other} {volume", "{other} {volume"),
            ("$HOME `id` ; {PORT}", "$HOME `id` ; {PORT}"),
        ] {
            assert_eq!(resolve_here(&spec("sh", &[text])).unwrap().arguments, [expected]);
        }
    }

    #[test]
    fn a_place_for_what_is_not_there_is_refused() {
        let refusal = |spec: &ContainerSpec| resolve_here(spec).unwrap_err();
        assert!(refusal(&spec("sh", &["{port:81}"])).contains("internal port `81`"));
        let mut bare = spec("sh", &["{volume}"]);
        bare.volume = None;
        assert!(refusal(&bare).contains("asks for a volume"));
        let mut bare = spec("sh", &["{port}"]);
        bare.application.ports.clear();
        assert!(refusal(&bare).contains("asks for a port"));
    }

    #[test]
    fn only_a_program_that_is_here_is_taken() {
        assert!(resolve_here(&spec("/bin/sh", &[])).is_ok());
        for (image, reason) in [
            ("sh:latest", "has the tag `latest`"),
            ("bin/sh", "must be the absolute path"),
            ("/etc/passwd", "may not be executed"),
            ("/bin", "may not be executed"),
            ("no-such-program", "was not found"),
        ] {
            let refusal = resolve_here(&spec(image, &[])).unwrap_err();
            assert!(refusal.contains(reason), "{image}: {refusal}");
        }
    }

    #[test]
    fn a_colon_is_no_tag_where_the_file_has_it_in_its_name() {
        use std::os::unix::fs::PermissionsExt as _;
        let directory = tempfile::tempdir().unwrap();
        let program = directory.path().join("tool:2");
        std::fs::write(&program, "").unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        assert!(resolve_here(&spec(program.to_str().unwrap(), &[])).is_ok());
    }

    #[test]
    fn the_applications_own_environment_wins_but_not_over_the_marker() {
        let mut spec = spec("sh", &[]);
        for (name, value) in [("TZ", "Asia/Tokyo"), (MARKER, "forged"), ("FLOCKER_PORT", "1")] {
            let value = EnvironmentValue::Plain(value.into());
            spec.application.environment.insert(name.into(), value);
        }
        let secret = EnvironmentValue::Secret(Secret::new("hunter2"));
        spec.application.environment.insert("PASSWORD".into(), secret);
        let environment = resolve_here(&spec).unwrap().environment;
        for (name, value) in [
            ("TZ", "Asia/Tokyo"),
            (MARKER, "here/web"),
            ("FLOCKER_PORT", "1"),
            ("FLOCKER_VOLUME", "/data/web"),
            ("FLOCKER_ADDRESS", "127.130.1.2"),
            ("FLOCKER_NODE_ADDRESS", "127.0.0.2"),
            ("FLOCKER_APPLICATION", "web"),
            ("PASSWORD", "hunter2"),
        ] {
            assert_eq!(environment[name], value, "{name}");
        }
    }

    #[test]
    fn fewer_shares_are_nicer() {
        let nice: Vec<i32> = [4096, 1024, 512, 100, 2, 0]
            .map(|shares| niceness(Some(shares)))
            .into();
        assert_eq!(nice, [0, 0, 4, 11, 19, 19]);
        assert_eq!(niceness(None), 0);
    }
}
