//! What goes into a container and what comes out of it.

use std::time::Duration;

use flocker_model::EnvironmentValue;
use flocker_model::Link;
use flocker_model::PortNumber;
use flocker_model::Secret;
use tokio::io::AsyncReadExt;

use super::Program;
use super::RuntimeHarness;
use super::steps::{GRACE, ended, name, output, spec, spec_of, wait_for_line};
use crate::conformance::made;
use crate::runtime::LogRequest;
use crate::runtime::RuntimeError;

/// What an application writes can be read while it runs.
pub async fn what_is_printed_is_read(harness: &dyn RuntimeHarness) {
    made(
        harness
            .runtime()
            .start(&spec(harness, &Program::Prints("hello".into())))
            .await,
    );
    wait_for_line(harness, "hello").await;
    made(harness.runtime().stop(&name(), GRACE).await);
}

/// Why something ended can be read after its end, and after it was stopped.
pub async fn output_outlives_the_container(harness: &dyn RuntimeHarness) {
    made(
        harness
            .runtime()
            .start(&spec(harness, &Program::Prints("last words".into())))
            .await,
    );
    wait_for_line(harness, "last words").await;
    made(harness.runtime().stop(&name(), GRACE).await);
    assert!(output(harness, None).await.contains("last words"));
    drop(harness.runtime().start(&spec(harness, &Program::Exits(3))).await);
    ended(harness).await;
    // The output of the one before it may be gone now; asking is no error.
    output(harness, None).await;
}

/// Output is kept by the node, not by our process.
pub async fn output_outlives_a_restart(harness: &dyn RuntimeHarness) {
    made(
        harness
            .runtime()
            .start(&spec(harness, &Program::Prints("hello".into())))
            .await,
    );
    wait_for_line(harness, "hello").await;
    harness.reopen().await;
    assert!(output(harness, None).await.contains("hello"));
    made(harness.runtime().stop(&name(), GRACE).await);
    harness.reopen().await;
    assert!(output(harness, None).await.contains("hello"));
}

/// Whoever asks for the last lines gets no others.
pub async fn the_last_lines_are_read(harness: &dyn RuntimeHarness) {
    made(
        harness
            .runtime()
            .start(&spec(harness, &Program::Prints("one\ntwo\nthree".into())))
            .await,
    );
    wait_for_line(harness, "three").await;
    assert_eq!(output(harness, Some(1)).await, "three\n");
    assert_eq!(output(harness, Some(2)).await, "two\nthree\n");
    assert!(output(harness, Some(99)).await.contains("one\ntwo\nthree\n"));
    made(harness.runtime().stop(&name(), GRACE).await);
}

/// Whoever follows reads what comes as it comes, waits where nothing does, and is let go when the application is gone.
pub async fn output_is_followed_to_the_end_of_the_application(harness: &dyn RuntimeHarness) {
    made(
        harness
            .runtime()
            .start(&spec(harness, &Program::Prints("one\ntwo".into())))
            .await,
    );
    wait_for_line(harness, "two").await;
    for (tail, expected) in [(None, "one\ntwo\n"), (Some(1), "two\n"), (Some(0), "")] {
        let request = LogRequest { tail, follow: true };
        let mut stream = harness.runtime().logs(&name(), request).await.unwrap();
        let mut text = vec![0; expected.len()];
        in_time(stream.read_exact(&mut text)).await.unwrap();
        assert_eq!(text, expected.as_bytes());
        let mut more = [0];
        let more = tokio::time::timeout(Duration::from_millis(200), stream.read(&mut more));
        assert!(
            more.await.is_err(),
            "the application still runs, and {tail:?} is at its end"
        );
    }
    let request = LogRequest {
        tail: None,
        follow: true,
    };
    let mut stream = harness.runtime().logs(&name(), request).await.unwrap();
    let mut text = String::new();
    let (runtime, application) = (harness.runtime(), name());
    let (stopped, read) = tokio::join!(
        runtime.stop(&application, GRACE),
        in_time(stream.read_to_string(&mut text)),
    );
    made(stopped);
    read.unwrap();
    assert!(text.starts_with("one\ntwo\n"), "{text:?}");
}

/// What is over is read, and not waited for.
pub async fn output_of_what_has_ended_is_not_waited_for(harness: &dyn RuntimeHarness) {
    drop(harness.runtime().start(&spec(harness, &Program::Exits(3))).await);
    ended(harness).await;
    let request = LogRequest {
        tail: None,
        follow: true,
    };
    let mut stream = harness.runtime().logs(&name(), request).await.unwrap();
    let mut text = String::new();
    in_time(stream.read_to_string(&mut text)).await.unwrap();
}

async fn in_time<T>(reading: impl Future<Output = T>) -> T {
    let read = tokio::time::timeout(Duration::from_secs(30), reading).await;
    read.unwrap_or_else(|_| panic!("whoever follows was kept waiting"))
}

/// Nothing was ever written by what never ran here.
pub async fn an_application_that_was_never_here_has_no_output(harness: &dyn RuntimeHarness) {
    let request = LogRequest {
        tail: None,
        follow: false,
    };
    let Err(refusal) = harness.runtime().logs(&name(), request).await else {
        panic!("there is output");
    };
    assert!(matches!(refusal, RuntimeError::NotHere { .. }), "{refusal}");
}

/// A value arrives as it was given, whatever a shell would make of it.
pub async fn the_environment_arrives(harness: &dyn RuntimeHarness) {
    let mut application = harness.application(&Program::PrintsVariable("GREETING".into()));
    let value = "a b  $HOME `id` 'x' \"y\" ; é = \\n";
    application
        .environment
        .insert("GREETING".into(), EnvironmentValue::Plain(value.into()));
    made(harness.runtime().start(&spec_of(harness, application)).await);
    wait_for_line(harness, value).await;
    made(harness.runtime().stop(&name(), GRACE).await);
}

/// A secret is known to the application.
pub async fn a_secret_arrives(harness: &dyn RuntimeHarness) {
    let mut application = harness.application(&Program::PrintsVariable("PASSWORD".into()));
    application.environment.insert(
        "PASSWORD".into(),
        EnvironmentValue::Secret(Secret::new("hunter2")),
    );
    made(harness.runtime().start(&spec_of(harness, application)).await);
    wait_for_line(harness, "hunter2").await;
    made(harness.runtime().stop(&name(), GRACE).await);
}

/// An application is told where the ones that it links to are reached: at its own node.
pub async fn the_way_to_a_linked_application_arrives(harness: &dyn RuntimeHarness) {
    let program = Program::PrintsVariable("DB_PORT_27017_TCP".into());
    let mut application = harness.application(&program);
    application.links.push(Link {
        local_port: PortNumber::new(27017).unwrap(),
        remote_port: "27018".parse().unwrap(),
        alias: "db".parse().unwrap(),
    });
    made(harness.runtime().start(&spec_of(harness, application)).await);
    let host = std::net::SocketAddr::new(harness.node_address(), 27018);
    wait_for_line(harness, &format!("tcp://{host}")).await;
    made(harness.runtime().stop(&name(), GRACE).await);
}
