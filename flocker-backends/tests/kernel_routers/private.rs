//! A network of its own for each test.

use std::path::Path;
use std::time::Duration;

use flocker_backends::conformance::run;
use flocker_backends::process::Program;

/// Made in the namespace of a test, and nowhere else.
const MARK: &str = "/run/flocker-test";

/// Has a `/run` of its own, for the lock of `iptables` and the names of networks.
const ENTER: &str =
    "mount -t tmpfs none /run && mkdir /run/flocker-test /run/netns && ip link set lo up && exec \"$@\"";

/// Runs a test in a network of its own: starts this program again in one, for this test alone.
pub(crate) fn privately(body: impl FnOnce()) {
    if Path::new(MARK).exists() {
        return body();
    }
    let thread = std::thread::current();
    let test = thread.name().expect("a test's thread has its name");
    let program = Program::new("unshare")
        // The network comes second: its files belong to whoever is root when it is made.
        .arguments(["--map-root-user", "--mount", "unshare", "--net"])
        .arguments(["sh", "-c", ENTER, "sh"])
        .argument(std::env::current_exe().unwrap())
        .arguments(["--exact", test, "--nocapture"]);
    run(async {
        let ended = program
            .run(&[], 16 << 20, Duration::from_secs(120))
            .await
            .unwrap();
        let said = [ended.stdout, ended.stderr].concat();
        let said = String::from_utf8_lossy(&said);
        assert!(
            ended.status.success(),
            "in a network of its own (which takes the right to make user namespaces, `ip` and `mount`):\n{said}"
        );
        assert!(said.contains("1 passed"), "`{test}` was not run:\n{said}");
    });
}

/// Runs a program of a test and returns what it wrote; panics where it fails.
pub(crate) fn call(line: &str) -> String {
    call_with(line, "")
}

/// The same with something to read.
pub(crate) fn call_with(line: &str, input: &str) -> String {
    let mut words = line.split_whitespace();
    let program = Program::new(words.next().unwrap()).arguments(words);
    let mut wrote = String::new();
    let call = || {
        run(async {
            let ended = program
                .run(input.as_bytes(), 64 << 20, Duration::from_secs(60))
                .await;
            let ended = ended.and_then(flocker_backends::process::Output::success);
            wrote = String::from_utf8(ended.unwrap_or_else(|error| panic!("{line}: {error}"))).unwrap();
        });
    };
    // A thread of its own, in the same network, because a test may be inside a runtime already.
    std::thread::scope(|scope| scope.spawn(call).join())
        .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    wrote
}
