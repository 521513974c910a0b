//! The unit that starts with the machine, as text.

use std::path::Path;
use std::path::PathBuf;

use flocker_backends::runtime::systemd::quoted;

/// The section by which the unit is known as ours; systemd passes over sections of this form.
const SECTION: &str = "[X-Flocker]";

/// Where systemd keeps what starts at boot, in the directory of the units.
pub(super) const WANTS: &str = "multi-user.target.wants";

/// What is said in the unit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Unit {
    /// The directory of the node.
    pub(super) directory: PathBuf,
    /// Our program: one of those that were copied there.
    pub(super) program: PathBuf,
}

impl Unit {
    /// Returns the text of the unit.
    ///
    /// It comes after everything else that starts with the machine. So a unit of an application was passed over by
    /// then, if its data was not mounted, and is started by who has looked at the data, as at a deploy. No unit of an
    /// application may wait for this one: it asks for their start, and waits for it.
    ///
    /// What it leaves running is the process of the node, where that keeps the routes.
    pub(super) fn text(&self) -> String {
        let Self { directory, program } = self;
        format!(
            "# Written by Flocker, which replaces and removes it. Changes by hand are lost.\n\
             {SECTION}\n\
             Directory={}\n\
             Program={}\n\
             \n\
             [Unit]\n\
             Description=Flocker starts the applications of this node again\n\
             Wants=network-online.target docker.service\n\
             After=multi-user.target network-online.target docker.service zfs-import.target zfs-mount.service zfs-fuse.service\n\
             \n\
             [Service]\n\
             Type=oneshot\n\
             RemainAfterExit=yes\n\
             KillMode=process\n\
             ExecStart={} node-boot --directory {}\n\
             \n\
             [Install]\n\
             WantedBy=multi-user.target\n",
            line(directory),
            line(program),
            quoted(program),
            quoted(directory),
        )
    }

    /// Reads it back; nothing where the unit is not exactly one of ours.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let section = text.lines().skip_while(|line| *line != SECTION).skip(1);
        let section: Vec<&str> = section.take_while(|line| !line.starts_with('[')).collect();
        let value = |key: &str| section.iter().find_map(|line| line.strip_prefix(key));
        Some(Self {
            directory: value("Directory=")?.into(),
            program: value("Program=")?.into(),
        })
    }
}

/// Says whether a path is read by every systemd as it is written: of a program's own path they undo less than of its
/// arguments.
pub(super) fn is_plain(path: &Path) -> bool {
    let bytes = path.as_os_str().as_encoded_bytes();
    bytes
        .iter()
        .all(|byte| byte.is_ascii_alphanumeric() || b"/._-+@,:=~".contains(byte))
}

/// Returns a path as a line that only we read.
fn line(path: &Path) -> String {
    path.to_string_lossy().replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_systemd_may_read_otherwise_is_not_plain() {
        assert!(is_plain(Path::new("/var/lib/flocker-2_a.b")));
        for c in ['$', '"', '\'', '\\', '\n', '%', ' ', ';', 'é'] {
            assert!(!is_plain(Path::new(&format!("/var/lib/x{c}y"))), "{c:?}");
        }
    }

    #[test]
    fn a_unit_reads_back_and_runs_a_constant_command() {
        let unit = Unit {
            directory: "/var/lib/100% flocker".into(),
            program: "/var/lib/100% flocker/bin/flocker-0123".into(),
        };
        let text = unit.text();
        assert_eq!(Unit::parse(&text), Some(unit));
        let run = "ExecStart=\"/var/lib/100%% flocker/bin/flocker-0123\" node-boot --directory \"/var/lib/100%% flocker\"";
        assert!(text.lines().any(|line| line == run), "{text}");
        for foreign in [
            "",
            "[X-Flocker]\nDirectory=/x\n",
            "[X-Flocker]\n[Unit]\nDirectory=/x\nProgram=/y\n",
            "[Unit]\nDirectory=/x\nProgram=/y\n",
        ] {
            assert_eq!(Unit::parse(foreign), None, "{foreign}");
        }
    }
}
