//! The way to a node on this machine.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on panics")]

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use flocker_backends::Classify as _;
use flocker_backends::ErrorClass;
use flocker_backends::Purpose;
use flocker_backends::Transport as _;
use flocker_backends::TransportError;
use flocker_backends::transport::local::ListenError;
use flocker_backends::transport::local::LocalListener;
use flocker_backends::transport::local::LocalTransport;
use flocker_backends::transport::local::serving_process;
use flocker_model::NodeAddress;
use tokio::io::AsyncReadExt as _;
use tokio::io::AsyncWriteExt as _;

fn at(directory: &Path) -> NodeAddress {
    NodeAddress::Local {
        directory: directory.to_owned(),
    }
}

/// Sends a question through and an answer back.
async fn talk(listener: &LocalListener, directory: &Path) {
    for purpose in [Purpose::Control, Purpose::Transfer] {
        let node = async {
            let mut channel = listener.accept().await.unwrap();
            let mut question = String::new();
            channel.read_to_string(&mut question).await.unwrap();
            channel
                .write_all(question.to_uppercase().as_bytes())
                .await
                .unwrap();
        };
        let client = async {
            let mut channel = LocalTransport.open(&at(directory), purpose).await.unwrap();
            channel.write_all(b"who is there?").await.unwrap();
            channel.shutdown().await.unwrap();
            let mut answer = String::new();
            channel.read_to_string(&mut answer).await.unwrap();
            answer
        };
        let ((), answer) = tokio::join!(node, client);
        assert_eq!(answer, "WHO IS THERE?");
    }
}

#[tokio::test]
async fn a_pipe_goes_both_ways() {
    let directory = tempfile::tempdir().unwrap();
    let listener = LocalListener::bind(directory.path()).unwrap();
    talk(&listener, directory.path()).await;
}

#[tokio::test]
async fn the_process_behind_a_socket_is_known_and_a_dead_socket_has_none() {
    let directory = tempfile::tempdir().unwrap();
    assert_eq!(serving_process(directory.path()).unwrap(), None);
    assert_eq!(serving_process(&directory.path().join("missing")).unwrap(), None);
    let listener = LocalListener::bind(directory.path()).unwrap();
    assert_eq!(
        serving_process(directory.path()).unwrap(),
        Some(std::process::id())
    );
    drop(listener);
    assert_eq!(serving_process(directory.path()).unwrap(), None);
    // What a killed node leaves: a socket that nobody listens on.
    drop(std::os::unix::net::UnixListener::bind(directory.path().join("node.sock")).unwrap());
    assert_eq!(serving_process(directory.path()).unwrap(), None);
}

#[tokio::test]
async fn a_directory_may_be_deeper_than_a_socket_address_is_long() {
    let directory = tempfile::tempdir().unwrap();
    let deep = directory.path().join("x".repeat(100)).join("y".repeat(100));
    let listener = LocalListener::bind(&deep).unwrap();
    talk(&listener, &deep).await;
}

#[tokio::test]
async fn one_process_at_most_is_a_node() {
    let directory = tempfile::tempdir().unwrap();
    let listener = LocalListener::bind(directory.path()).unwrap();
    let refusal = LocalListener::bind(directory.path()).unwrap_err();
    assert!(matches!(refusal, ListenError::InUse { .. }), "{refusal}");
    // The refused one has not harmed the first.
    talk(&listener, directory.path()).await;
    drop(listener);
    assert!(!directory.path().join("node.sock").exists());
    drop(LocalListener::bind(directory.path()).unwrap());
}

#[tokio::test]
async fn the_socket_of_a_dead_node_is_replaced_and_nothing_else_is() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("node.sock");
    // Dropping it closes the socket and leaves its file, as a kill does.
    drop(std::os::unix::net::UnixListener::bind(&socket).unwrap());
    assert!(socket.exists());
    let listener = LocalListener::bind(directory.path()).unwrap();
    talk(&listener, directory.path()).await;
    drop(listener);
    std::fs::write(&socket, "precious").unwrap();
    LocalListener::bind(directory.path()).unwrap_err();
    assert_eq!(std::fs::read_to_string(&socket).unwrap(), "precious");
}

#[tokio::test]
async fn nobody_else_may_enter() {
    let directory = tempfile::tempdir().unwrap();
    let open = directory.path().join("open");
    std::fs::create_dir(&open).unwrap();
    std::fs::set_permissions(&open, std::fs::Permissions::from_mode(0o755)).unwrap();
    let listener = LocalListener::bind(&open).unwrap();
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&open), 0o700);
    assert_eq!(mode(&open.join("node.sock")), 0o600);
    assert_eq!(mode(&open.join("node.lock")), 0o600);
    drop(listener);
}

#[tokio::test]
async fn where_no_node_answers_it_may_later_and_elsewhere_it_never_will() {
    let directory = tempfile::tempdir().unwrap();
    let open = async |address: &NodeAddress| {
        LocalTransport
            .open(address, Purpose::Control)
            .await
            .err()
            .unwrap()
    };
    for path in [directory.path().to_owned(), directory.path().join("missing")] {
        let error = open(&at(&path)).await;
        assert!(matches!(error, TransportError::Unreachable { .. }), "{error}");
        assert_eq!(error.class(), ErrorClass::Transient);
    }
    drop(std::os::unix::net::UnixListener::bind(directory.path().join("node.sock")).unwrap());
    assert_eq!(open(&at(directory.path())).await.class(), ErrorClass::Transient);
    let ssh = NodeAddress::Ssh {
        host: "alpha".into(),
        user: None,
        port: None,
    };
    assert_eq!(open(&ssh).await.class(), ErrorClass::Permanent);
}
