//! A terminal, for what is only asked where there is one.

use std::io::Read as _;
use std::path::Path;
use std::process::Stdio;
use std::sync::mpsc;
use std::time::Instant;

use rustix::process::Signal;

use super::Machine;
use super::PATIENCE;
use super::processes;
use super::processes_about;

impl Machine {
    /// Types a command on a terminal and presses Ctrl-C at the first question. Returns what was shown, and how it ended.
    #[track_caller]
    pub(crate) fn interrupted_at_a_question(&self, line: &str) -> (String, Option<i32>) {
        let program = self.path("flocker").display().to_string();
        let typed = format!("exec {program} {line}");
        let mut script = self.command(Path::new("script"));
        let script = script.args(["-qefc", &typed, "/dev/null"]);
        // What nobody types into stays open: an end of it would be an answer.
        let mut child = script
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdout = child.stdout.take().unwrap();
        let (sender, shown) = mpsc::channel();
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(n_read @ 1..) = stdout.read(&mut bytes) {
                if sender.send(bytes[..n_read].to_vec()).is_err() {
                    return;
                }
            }
        });
        let end = Instant::now() + PATIENCE;
        let mut text = String::new();
        let mut is_asked = false;
        loop {
            match shown.recv_timeout(end.saturating_duration_since(Instant::now())) {
                Ok(bytes) => text.push_str(&String::from_utf8_lossy(&bytes)),
                Err(mpsc::RecvTimeoutError::Disconnected) => break,
                Err(mpsc::RecvTimeoutError::Timeout) => {
                    processes::kill(i32::try_from(child.id()).unwrap());
                    panic!("it does not end: {text}");
                }
            }
            if text.contains("[y/N]") && !is_asked {
                is_asked = true;
                let all = processes_about(self.directory()).into_iter();
                let mut typed = all.filter(|(_, words)| words.starts_with(&format!("{program} {line}")));
                processes::signal(typed.next().unwrap().0, Signal::INT);
            }
        }
        assert!(is_asked, "{text}");
        (text, child.wait().unwrap().code())
    }
}
