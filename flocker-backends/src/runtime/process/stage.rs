//! The last moment before a program: bound to its supervisor, limited, and then replaced by it.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io;
use std::io::Read;
use std::io::Write;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::process::ExitCode;

use flocker_model::ByteSize;
use nix::sys::resource::Resource;
use nix::sys::resource::setrlimit;
use nix::sys::signal::Signal;
use serde::Deserialize;
use serde::Serialize;

use super::launch::Launch;
use super::probe::chain;
use crate::process::Program;

/// The exit status of a program that could not be run, as shells have it.
const NOT_RUN: u8 = 127;

/// What is told to the process that becomes the program. It holds secrets.
#[derive(Serialize, Deserialize)]
pub(super) struct Stage {
    supervisor: i32,
    program: PathBuf,
    arguments: Vec<String>,
    environment: BTreeMap<String, String>,
    directory: PathBuf,
    memory: Option<ByteSize>,
    nice: i32,
}

impl fmt::Debug for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stage")
            .field("program", &self.program)
            .finish_non_exhaustive()
    }
}

impl Stage {
    pub(super) fn new(launch: &Launch) -> Self {
        Self {
            supervisor: nix::unistd::getpid().as_raw(),
            program: launch.program.clone(),
            arguments: launch.arguments.clone(),
            environment: launch.environment.clone(),
            directory: launch.working_directory.clone(),
            memory: launch.memory,
            nice: launch.nice,
        }
    }

    fn enter(self) -> String {
        // Its parent may have died before it could be bound to its death.
        if nix::unistd::getppid().as_raw() != self.supervisor {
            return "its supervisor is gone".into();
        }
        if let Some(ByteSize(memory)) = self.memory
            && let Err(errno) = setrlimit(Resource::RLIMIT_AS, memory, memory)
        {
            return format!("its memory could not be limited: {errno}");
        }
        if self.nice > 0
            && let Err(errno) = rustix::process::nice(self.nice)
        {
            return format!("its processor time could not be limited: {errno}");
        }
        // Where the kernel groups processes by session, niceness counts only within a session,
        // and this is how the session as a whole is nice. Elsewhere there is no such file.
        drop(std::fs::write("/proc/self/autogroup", self.nice.to_string()));
        let program = Program::new(self.program)
            .arguments(self.arguments)
            .variables(self.environment)
            .directory(self.directory);
        match inherit_output(program) {
            Ok(program) => chain(&program.exec()),
            Err(error) => error.to_string(),
        }
    }
}

fn inherit_output(program: Program) -> io::Result<Program> {
    use crate::process::Stream;
    let stdout = io::stdout().as_fd().try_clone_to_owned()?;
    let stderr = io::stderr().as_fd().try_clone_to_owned()?;
    Ok(program
        .stdout(Stream::Descriptor(stdout))
        .stderr(Stream::Descriptor(stderr)))
}

/// Becomes the program that standard input tells of.
///
/// Standard input is a socket. A copy of it, which the program does not
/// inherit, closes in the very moment in which the program takes over; where
/// that fails, the reason is written to it first.
pub(super) fn enter() -> ExitCode {
    // From here on this process dies when its supervisor does, however that dies.
    let bound = nix::sys::prctl::set_pdeathsig(Signal::SIGKILL);
    let Ok(socket) = io::stdin().as_fd().try_clone_to_owned() else {
        return ExitCode::from(NOT_RUN);
    };
    let mut socket = File::from(socket);
    let mut text = Vec::new();
    let reason = match (bound, socket.read_to_end(&mut text)) {
        (Err(errno), _) => format!("it could not be bound to its supervisor: {errno}"),
        (Ok(()), Err(error)) => error.to_string(),
        (Ok(()), Ok(_)) => match serde_json::from_slice::<Stage>(&text) {
            Ok(stage) => stage.enter(),
            Err(error) => format!("its order could not be read: {error}"),
        },
    };
    // Where nobody listens any more, the exit status says enough.
    drop(socket.write_all(reason.as_bytes()));
    ExitCode::from(NOT_RUN)
}
