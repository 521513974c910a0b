//! The unit of an application, as text.

use std::num::NonZeroU32;
use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;

use flocker_model::ApplicationName;
use flocker_model::DefinitionHash;
use flocker_model::RestartPolicy;

use crate::runtime::docker::whole_seconds;

/// The section by which a unit is known as ours; systemd passes over sections of this form.
const SECTION: &str = "[X-Flocker]";

/// What units are wanted by that are enabled.
const TARGET: &str = "multi-user.target";

/// Where systemd keeps what starts at boot, in the directory of the units.
pub(super) const WANTS: &str = "multi-user.target.wants";

/// How often systemd starts a unit at most.
const BURST: &str = "StartLimitBurst=";

/// What systemd does when a unit has ended.
const RESTART: &str = "Restart=";

/// How long systemd waits before it starts an application again.
const PAUSE: &str = "100ms";

/// The programs that a unit runs, by their absolute paths.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Programs {
    pub(super) docker: PathBuf,
    pub(super) ln: PathBuf,
    pub(super) mkdir: PathBuf,
    pub(super) systemd_cat: PathBuf,
}

/// A volume and what stands before it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Guarded {
    pub(super) volume: PathBuf,
    pub(super) gate: PathBuf,
    /// Whether the volume is a file system of its own, which has to be mounted first.
    pub(super) is_mount: bool,
}

/// What is said in a unit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Unit<'a> {
    pub(super) name: &'a str,
    pub(super) application: &'a ApplicationName,
    pub(super) definition: DefinitionHash,
    pub(super) container: &'a str,
    pub(super) socket: &'a Path,
    pub(super) programs: &'a Programs,
    pub(super) guarded: Option<Guarded>,
    pub(super) policy: RestartPolicy,
    pub(super) stop_grace: Duration,
    /// How long the engine may take beyond the grace.
    pub(super) margin: Duration,
}

impl Unit<'_> {
    /// Returns the text of the unit.
    pub(super) fn text(&self) -> String {
        let Self {
            name,
            application,
            definition,
            container,
            socket,
            programs,
            guarded,
            policy,
            stop_grace,
            margin,
        } = self;
        let mut text = String::new();
        let mut line = |line: &str| {
            text.push_str(line);
            text.push('\n');
        };
        line("# Written by Flocker, which replaces and removes it. Changes by hand are lost.");
        line(SECTION);
        line(&format!("Application={application}"));
        line(&format!("Definition={definition}"));
        line("");
        line("[Unit]");
        line(&format!("Description=Flocker application {application}"));
        line("Requires=docker.service");
        line("After=docker.service network-online.target zfs-mount.service");
        line("Wants=network-online.target");
        if let Some(Guarded { volume, is_mount, .. }) = guarded {
            line(&format!("RequiresMountsFor={}", quoted(volume)));
            if *is_mount {
                // Not a command that fails: after a boot it would fail many times a second until somebody has seen the
                // data, and use up the starts that the policy allows.
                line(&format!("ConditionPathIsMountPoint={}", bare(volume)));
            }
        }
        let (restart, burst) = match policy {
            RestartPolicy::Never => ("no", None),
            RestartPolicy::Always => ("always", None),
            RestartPolicy::OnFailure { maximum_retry_count } => ("on-failure", *maximum_retry_count),
        };
        match burst {
            // The first start counts too.
            Some(count) => {
                line("StartLimitIntervalSec=infinity");
                line(&format!("{BURST}{}", count.saturating_add(1)));
            }
            None => line("StartLimitIntervalSec=0"),
        }
        line("");
        line("[Service]");
        line("Type=exec");
        line(&format!("SyslogIdentifier={name}"));
        line("SyslogLevelPrefix=no");
        line("Environment=HOME=/");
        if let Some(Guarded { volume, gate, .. }) = guarded {
            let mut before = |program: &Path, arguments: &[&str], paths: &[&Path]| {
                let mut words = vec![quoted(program)];
                words.extend(arguments.iter().map(|&word| word.to_owned()));
                words.extend(paths.iter().map(|path| quoted(path)));
                line(&format!("ExecStartPre={}", words.join(" ")));
            };
            let directory = gate.parent().unwrap_or(gate);
            before(&programs.mkdir, &["-p", "-m", "0700"], &[directory]);
            before(&programs.ln, &["-sfn"], &[volume, gate]);
        }
        let docker = quoted(&programs.docker);
        let host = quoted(Path::new(&format!("unix://{}", socket.display())));
        line(&format!(
            "ExecStart={docker} --host {host} start --attach {container}"
        ));
        // What is said while it stops must not read as what the application says.
        line(&format!(
            "ExecStop={} --identifier=flocker-stop {docker} --host {host} stop --time {} {container}",
            quoted(&programs.systemd_cat),
            whole_seconds(*stop_grace)
        ));
        let patience = stop_grace.saturating_add(*margin);
        line(&format!("TimeoutStopSec={}", whole_seconds(patience)));
        line(&format!("{RESTART}{restart}"));
        line(&format!("RestartSec={PAUSE}"));
        line("");
        line("[Install]");
        line(&format!("WantedBy={TARGET}"));
        text
    }
}

/// Returns a path as a word of a unit: quoted, with nothing in it that systemd would replace.
#[must_use]
pub fn quoted(path: &Path) -> String {
    let mut word = String::from("\"");
    for c in path.to_string_lossy().chars() {
        match c {
            '"' => word.push_str("\\\""),
            '\\' => word.push_str("\\\\"),
            '%' => word.push_str("%%"),
            '$' => word.push_str("$$"),
            '\n' => word.push_str("\\n"),
            c => word.push(c),
        }
    }
    word.push('"');
    word
}

/// Returns a path as the whole of a setting that knows no quotes.
///
/// What no such setting can say becomes the path of nothing: the unit then
/// does not start.
fn bare(path: &Path) -> String {
    path.to_string_lossy().replace('%', "%%").replace('\n', "\\n")
}

/// Returns the application of a unit, if the unit is ours.
pub(super) fn application_of(text: &str) -> Option<ApplicationName> {
    of_section(text, "Application=")?.parse().ok()
}

/// Returns the definition that a unit was written for, if the unit is ours.
pub(super) fn definition_of(text: &str) -> Option<DefinitionHash> {
    of_section(text, "Definition=")?.parse().ok()
}

/// Returns how often a unit starts its container again at most.
///
/// systemd also counts the restart that it then refuses.
pub(super) fn most_restarts(text: &str) -> Option<u32> {
    let burst = text.lines().find_map(|line| line.strip_prefix(BURST))?;
    Some(burst.parse::<u32>().ok()?.saturating_sub(1))
}

/// Returns what a unit does when its container ends.
pub(super) fn policy_of(text: &str) -> Option<RestartPolicy> {
    match text.lines().find_map(|line| line.strip_prefix(RESTART))? {
        "no" => Some(RestartPolicy::Never),
        "always" => Some(RestartPolicy::Always),
        "on-failure" => Some(RestartPolicy::OnFailure {
            maximum_retry_count: most_restarts(text).and_then(NonZeroU32::new),
        }),
        _ => None,
    }
}

fn of_section<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    let lines = text
        .lines()
        .map(str::trim)
        .skip_while(|&line| line != SECTION)
        .skip(1);
    let mut lines = lines.take_while(|line| !line.starts_with('['));
    lines.find_map(|line| line.strip_prefix(key))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn programs() -> Programs {
        let program = |name: &str| Path::new("/usr/bin").join(name);
        Programs {
            docker: program("docker"),
            ln: program("ln"),
            mkdir: program("mkdir"),
            systemd_cat: program("systemd-cat"),
        }
    }

    fn text(policy: RestartPolicy, volume: Option<&str>) -> String {
        Unit {
            name: "flocker-web",
            application: &"web".parse().unwrap(),
            definition: DefinitionHash(7),
            container: "flocker--web",
            socket: Path::new("/var/run/docker.sock"),
            programs: &programs(),
            guarded: volume.map(|volume| Guarded {
                volume: volume.into(),
                gate: "/run/flocker/docker/volumes/flocker--web".into(),
                is_mount: true,
            }),
            policy,
            stop_grace: Duration::from_millis(1500),
            margin: Duration::from_secs(10),
        }
        .text()
    }

    #[test]
    fn a_unit_is_passed_over_where_its_volume_is_not_mounted() {
        let policy = RestartPolicy::OnFailure {
            maximum_retry_count: NonZeroU32::new(2),
        };
        let expected = include_str!("../../../tests/data/systemd-252/flocker-web.service");
        assert_eq!(text(policy, Some("/flocker/web")), expected);
        assert_eq!(most_restarts(expected), Some(2));
        assert_eq!(most_restarts(&text(RestartPolicy::Always, None)), None);
    }

    #[test]
    fn a_policy_is_read_back_from_its_unit() {
        let on_failure = |count| RestartPolicy::OnFailure {
            maximum_retry_count: NonZeroU32::new(count),
        };
        for policy in [
            RestartPolicy::Never,
            RestartPolicy::Always,
            on_failure(0),
            on_failure(1),
            on_failure(7),
        ] {
            assert_eq!(policy_of(&text(policy, Some("/flocker/web"))), Some(policy));
        }
        assert_eq!(policy_of("[Service]\nRestart=on-abort\n"), None);
        assert_eq!(policy_of("[Service]\n"), None);
    }

    #[test]
    fn every_policy_has_its_words() {
        for (policy, restart, limit) in [
            (RestartPolicy::Never, "Restart=no", "StartLimitIntervalSec=0"),
            (RestartPolicy::Always, "Restart=always", "StartLimitIntervalSec=0"),
            (
                RestartPolicy::OnFailure {
                    maximum_retry_count: None,
                },
                "Restart=on-failure",
                "StartLimitIntervalSec=0",
            ),
            (
                RestartPolicy::OnFailure {
                    maximum_retry_count: Some(NonZeroU32::MAX),
                },
                "Restart=on-failure",
                "StartLimitBurst=4294967295",
            ),
        ] {
            let text = text(policy, None);
            for wanted in [restart, limit] {
                assert!(text.lines().any(|line| line == wanted), "{wanted} in {text}");
            }
            for unwanted in ["ExecStartPre", "RequiresMountsFor", "Condition"] {
                assert!(!text.contains(unwanted), "{unwanted} in {text}");
            }
        }
    }

    #[test]
    fn a_path_stays_one_word_and_means_itself() {
        for (path, expected) in [
            ("/a b", "\"/a b\""),
            ("/100%/$HOME", "\"/100%%/$$HOME\""),
            ("/x\"y\\z", "\"/x\\\"y\\\\z\""),
            ("/line\nExecStart=/bin/evil", "\"/line\\nExecStart=/bin/evil\""),
        ] {
            assert_eq!(quoted(Path::new(path)), expected);
        }
        for (path, expected) in [
            ("/a \"b\"", "/a \"b\""),
            ("/100%/$HOME", "/100%%/$HOME"),
            ("/line\nExecStart=/bin/evil", "/line\\nExecStart=/bin/evil"),
        ] {
            assert_eq!(bare(Path::new(path)), expected);
        }
    }

    #[test]
    fn only_a_unit_with_our_section_is_ours() {
        let own = text(RestartPolicy::Never, None);
        assert_eq!(application_of(&own), Some("web".parse().unwrap()));
        assert_eq!(definition_of(&own), Some(DefinitionHash(7)));
        for foreign in [
            "",
            "[Unit]\nDescription=Flocker application web\n",
            "[Unit]\nApplication=web\n",
            "[X-Flocker]\nDefinition=7\n",
            "[X-Flocker]\nApplication=\n",
            "[X-Flocker]\n[Unit]\nApplication=web\n",
        ] {
            assert_eq!(application_of(foreign), None, "{foreign}");
        }
    }
}
