//! The supervisor of host programs on its own, for tests and for programs that embed the process runtime.

use std::process::ExitCode;

fn main() -> ExitCode {
    flocker_backends::runtime::process::supervise(std::env::args_os().skip(1))
}
