//! Programs of this machine: started without a shell, bounded, and ended with all that they started.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on panics")]

use std::os::fd::AsFd as _;
use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;
use std::time::Instant;

use flocker_backends::process::ProcessError;
use flocker_backends::process::Program;
use flocker_backends::process::Stream;
use flocker_backends::process::find_program;

const PATIENCE: Duration = Duration::from_secs(20);

fn script(script: &str) -> Program {
    Program::new("sh").argument("-c").argument(script)
}

async fn output(program: Program) -> String {
    let output = program.run(b"", 64 * 1024, PATIENCE).await.unwrap();
    String::from_utf8(output.success().unwrap()).unwrap()
}

#[tokio::test]
async fn arguments_arrive_as_they_are() {
    let hostile = ["a b", "$(id)", "; rm -rf /", "\n", "'\"`", "", "-x"];
    let program = Program::new("printf").argument("[%s]").arguments(hostile);
    let expected: Vec<String> = hostile.iter().map(|argument| format!("[{argument}]")).collect();
    assert_eq!(output(program).await, expected.concat());
}

#[tokio::test]
async fn the_environment_is_what_was_given_and_nothing_else() {
    let text = output(
        Program::new("/usr/bin/env")
            .variable("A", "1")
            .variables([("B", "2")]),
    )
    .await;
    assert_eq!(text, "A=1\nB=2\n");
}

#[tokio::test]
async fn input_output_and_directory_are_those_that_were_given() {
    let directory = tempfile::tempdir().unwrap();
    let program = script("cat; pwd").directory(directory.path());
    let output = program
        .run(b"hello\n", 1024, PATIENCE)
        .await
        .unwrap()
        .success()
        .unwrap();
    let expected = format!("hello\n{}\n", directory.path().display());
    assert_eq!(String::from_utf8(output).unwrap(), expected);
    // A program need not read what it is given.
    let much = vec![b'x'; 1024 * 1024];
    Program::new("true")
        .run(&much, 1024, PATIENCE)
        .await
        .unwrap()
        .success()
        .unwrap();
}

#[tokio::test]
async fn a_failure_has_the_programs_own_words() {
    let failed = script("echo this is why >&2; exit 3")
        .run(b"", 1024, PATIENCE)
        .await
        .unwrap();
    let error = failed.success().unwrap_err().to_string();
    assert!(error.ends_with("sh` ended with status 3: this is why"), "{error}");
    let failed = script("kill -9 $$").run(b"", 1024, PATIENCE).await.unwrap();
    let error = failed.success().unwrap_err().to_string();
    assert!(error.contains("signal 9"), "{error}");
}

#[tokio::test]
async fn a_list_that_would_lack_its_end_is_no_list() {
    let result = script("head -c 1025 /dev/zero").run(b"", 1024, PATIENCE).await;
    assert!(
        matches!(result, Err(ProcessError::TooMuch { limit: 1024, .. })),
        "{result:?}"
    );
    let just_fits = script("head -c 1024 /dev/zero; head -c 1000000 /dev/zero >&2");
    assert_eq!(output(just_fits).await.len(), 1024);
}

#[tokio::test]
async fn at_the_deadline_the_whole_group_ends() {
    let directory = tempfile::tempdir().unwrap();
    let alive = directory.path().join("alive");
    let program = script("sleep 1000 & echo $! > alive; wait")
        .directory(directory.path())
        .own_group();
    let result = program.run(b"", 1024, Duration::from_millis(300)).await;
    assert!(matches!(result, Err(ProcessError::Deadline { .. })), "{result:?}");
    let child: String = std::fs::read_to_string(alive).unwrap();
    let stat = PathBuf::from(format!("/proc/{}/stat", child.trim()));
    let begun = Instant::now();
    // A zombie is dead; who collects it is not our concern.
    while std::fs::read_to_string(&stat).is_ok_and(|stat| !stat.contains(") Z ")) {
        assert!(begun.elapsed() < PATIENCE, "the child is still there");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn what_changes_something_is_gone_when_its_deadline_is_told() {
    let directory = tempfile::tempdir().unwrap();
    let program = script("echo $$ > id; exec sleep 1000")
        .directory(directory.path())
        .until_gone();
    let result = program.run(b"", 1024, Duration::from_millis(300)).await;
    assert!(matches!(result, Err(ProcessError::Deadline { .. })), "{result:?}");
    let id = std::fs::read_to_string(directory.path().join("id")).unwrap();
    let entry = PathBuf::from(format!("/proc/{}", id.trim()));
    assert!(!entry.exists(), "not even its exit status is left");
}

#[tokio::test]
async fn a_detached_program_outlives_its_handle_and_reads_what_it_is_given() {
    use tokio::io::AsyncWriteExt as _;
    let directory = tempfile::tempdir().unwrap();
    let output = std::fs::File::create(directory.path().join("output")).unwrap();
    let program = Program::new("cat")
        .stdin(Stream::Piped)
        .stdout(Stream::Descriptor(output.as_fd().try_clone_to_owned().unwrap()));
    let detached = program.spawn_detached().unwrap();
    assert!(detached.id.is_some());
    let mut stdin = detached.stdin.unwrap();
    stdin.write_all(b"still alive").await.unwrap();
    drop(stdin);
    let begun = Instant::now();
    while std::fs::read(directory.path().join("output")).unwrap() != b"still alive" {
        assert!(begun.elapsed() < PATIENCE);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[test]
fn programs_are_looked_up_in_absolute_directories_only() {
    let find = |program: &str, path: &str| find_program(Path::new(program), path.as_ref());
    assert_eq!(find("sh", "/no/such:/bin"), Some("/bin/sh".into()));
    assert_eq!(find("sh", "bin:.:"), None);
    assert_eq!(find("", "/bin"), None);
    assert_eq!(find("passwd", "/etc"), None, "not executable");
    assert_eq!(find("/bin/sh", ""), Some("/bin/sh".into()));
}

#[test]
fn nothing_that_is_shown_of_a_program_is_secret() {
    let program = Program::new("sh")
        .argument("argument")
        .variable("PASSWORD", "hunter2");
    let shown = format!("{program:?}");
    assert!(
        shown.contains("sh") && !shown.contains("hunter2") && !shown.contains("\"argument\""),
        "{shown}"
    );
}

#[tokio::test]
async fn a_missing_program_is_said_to_be_missing() {
    let error = Program::new("no-such-program")
        .run(b"", 1, PATIENCE)
        .await
        .unwrap_err();
    assert!(matches!(error, ProcessError::NotFound { .. }), "{error}");
    let error = Program::new("/etc/passwd").exec();
    assert!(matches!(error, ProcessError::NotFound { .. }), "{error}");
}
