//! Which processes of the machine belong to a test.

use std::path::Path;

/// Returns the processes whose command line speaks of a directory, with what it says.
pub(crate) fn processes_about(directory: &Path) -> Vec<(i32, String)> {
    let directory = directory.display().to_string();
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let Some(id) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        // It may have ended meanwhile.
        let command_line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let command_line = String::from_utf8_lossy(&command_line).replace('\0', " ");
        if command_line.contains(&directory) {
            found.push((id, command_line));
        }
    }
    found
}

/// Says whether nothing of a process is left: one that is killed has no command line before its sockets are closed.
pub(crate) fn is_gone(id: i32) -> bool {
    let Ok(stat) = std::fs::read_to_string(format!("/proc/{id}/stat")) else {
        return true;
    };
    // Its name stands in brackets, and may have any in it.
    stat.rsplit_once(')')
        .is_none_or(|(_, rest)| rest.trim_start().starts_with('Z'))
}

/// Kills a process of ours.
pub(crate) fn kill(id: i32) {
    signal(id, rustix::process::Signal::KILL);
}

/// Signals a process of ours. That it has ended already is no error.
pub(crate) fn signal(id: i32, signal: rustix::process::Signal) {
    let id = rustix::process::Pid::from_raw(id).unwrap();
    match rustix::process::kill_process(id, signal) {
        Ok(()) | Err(rustix::io::Errno::SRCH) => {}
        Err(error) => panic!("{error}"),
    }
}
