//! SSH as it is: a server of its own for each test, on this machine, as whoever runs the test.
//!
//! It needs OpenSSH's server, client and `ssh-keygen`, and says so where they are missing.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on panics")]

use std::ffi::OsString;
use std::net::TcpListener;
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;

use async_trait::async_trait;
use flocker_backends::Purpose;
use flocker_backends::Transport;
use flocker_backends::TransportError;
use flocker_backends::conformance::TransportHarness;
use flocker_backends::process::DEFAULT_PATH;
use flocker_backends::process::Program;
use flocker_backends::process::find_program;
use flocker_backends::transport::ssh::NodeProgram;
use flocker_backends::transport::ssh::SshOptions;
use flocker_backends::transport::ssh::SshTransport;
use flocker_model::NodeAddress;
use tokio::io::AsyncReadExt as _;
use tokio::io::AsyncWriteExt as _;

/// What stands in for our program on the node: it sends back what it gets.
const ECHO: &str = "#!/bin/sh\nexec cat\n";

/// How long a server may take to start.
const PATIENCE: Duration = Duration::from_secs(20);

/// A line of the client's configuration that changes nothing here, but needs the program `ssh`.
const BY_PROGRAM: &str = "AddressFamily inet";

struct Server {
    place: tempfile::TempDir,
    port: u16,
    configuration: &'static str,
    _sshd: tokio::process::Child,
}

fn tool(name: &str) -> PathBuf {
    find_program(Path::new(name), DEFAULT_PATH.as_ref())
        .unwrap_or_else(|| panic!("`{name}` is needed: install openssh-server and openssh-client"))
}

async fn key(path: &Path) {
    let made = Program::new(tool("ssh-keygen"))
        .arguments(["-q", "-t", "ed25519", "-N", "", "-C", "a test", "-f"])
        .argument(path)
        .run(b"", 4096, PATIENCE)
        .await;
    made.unwrap().success().unwrap();
}

fn is_root() -> bool {
    nix::unistd::Uid::effective().is_root()
}

impl Server {
    async fn start(configuration: &'static str) -> Self {
        let server = tool("sshd");
        tool("ssh");
        if is_root() {
            // OpenSSH's server wants it where it runs as root, and the service makes it when it starts.
            std::fs::create_dir_all("/run/sshd").unwrap();
        }
        let place = tempfile::tempdir().unwrap();
        let at = |name: &str| place.path().join(name);
        key(&at("host")).await;
        key(&at("client")).await;
        std::fs::copy(at("client.pub"), at("authorized")).unwrap();
        std::fs::write(at("echo"), ECHO).unwrap();
        let port = TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        let written = format!(
            "ListenAddress 127.0.0.1\nPort {port}\nHostKey {host}\nAuthorizedKeysFile {authorized}\nPidFile none\n\
             StrictModes no\nUsePAM {pam}\nPasswordAuthentication no\nKbdInteractiveAuthentication no\n\
             PermitRootLogin yes\nSetEnv FLOCKER_NODE_DIR={node}\n",
            host = at("host").display(),
            authorized = at("authorized").display(),
            node = at("node").display(),
            pam = if is_root() { "yes" } else { "no" },
        );
        std::fs::write(at("sshd_config"), written).unwrap();
        let started = Program::new(server)
            .arguments([
                OsString::from("-D"),
                "-e".into(),
                "-f".into(),
                at("sshd_config").into(),
            ])
            .spawn()
            .unwrap();
        let end = Instant::now() + PATIENCE;
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(Instant::now() < end, "sshd does not listen");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let server = Self {
            place,
            port,
            configuration,
            _sshd: started,
        };
        server.know(&server.host_key());
        server
    }

    fn at(&self, name: &str) -> PathBuf {
        self.place.path().join(name)
    }

    fn host_key(&self) -> String {
        let key = std::fs::read_to_string(self.at("host.pub")).unwrap();
        format!("[127.0.0.1]:{} {key}", self.port)
    }

    fn know(&self, lines: &str) {
        std::fs::write(self.at("known_hosts"), lines).unwrap();
    }

    fn transport(&self) -> SshTransport {
        let user = nix::unistd::User::from_uid(nix::unistd::Uid::effective())
            .unwrap()
            .unwrap();
        let configuration = format!(
            "Host node nobody\n  HostName 127.0.0.1\n  User {user}\n  IdentityFile {client}\n  IdentitiesOnly yes\n  \
             UserKnownHostsFile {known}\n  GlobalKnownHostsFile /dev/null\n  {more}\nHost node\n  Port {port}\nHost nobody\n  Port 1\n",
            user = user.name,
            client = self.at("client").display(),
            known = self.at("known_hosts").display(),
            more = self.configuration,
            port = self.port,
        );
        std::fs::write(self.at("ssh_config"), configuration).unwrap();
        let mut options = SshOptions::new();
        options.configuration = Some(self.at("ssh_config"));
        options.environment = vec![("HOME".into(), self.place.path().into())];
        options.control_directory = Some(self.at("control"));
        options.keep_connection = Duration::from_secs(1);
        SshTransport::new(options, NodeProgram::new(self.at("echo")))
    }

    async fn refusal(&self) -> TransportError {
        match self.transport().open(&node(), Purpose::Control).await {
            Ok(_) => panic!("it was let in"),
            Err(error) => error,
        }
    }

    /// Returns the only program that was copied to the node.
    fn copied(&self) -> PathBuf {
        let mut found: Vec<PathBuf> = std::fs::read_dir(self.at("node/bin"))
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .collect();
        assert_eq!(found.len(), 1, "{found:?}");
        found.remove(0)
    }
}

fn ssh(host: &str) -> NodeAddress {
    NodeAddress::Ssh {
        host: host.into(),
        user: None,
        port: None,
    }
}

fn node() -> NodeAddress {
    ssh("node")
}

#[async_trait]
impl TransportHarness for Server {
    fn transport(&self) -> Arc<dyn Transport> {
        Arc::new(Server::transport(self))
    }

    async fn echo(&self) -> NodeAddress {
        node()
    }

    fn nobody(&self) -> NodeAddress {
        ssh("nobody")
    }

    fn unsupported(&self) -> NodeAddress {
        NodeAddress::Local {
            directory: "/nonexistent".into(),
        }
    }
}

async fn say_hello(transport: &SshTransport) {
    let mut channel = transport.open(&node(), Purpose::Control).await.unwrap();
    channel.write_all(b"hello").await.unwrap();
    channel.flush().await.unwrap();
    let mut answer = [0; 5];
    channel.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"hello");
}

async fn the_program_is_copied_once_and_again_where_it_was_changed(way: &'static str) {
    let server = Server::start(way).await;
    let transport = Server::transport(&server);
    say_hello(&transport).await;
    let copied = server.copied();
    let hash = transport.program().hash().await.unwrap();
    assert!(copied.to_str().unwrap().ends_with(&format!("/flocker-{hash}")));
    let mode = copied.metadata().unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o700);
    let first = copied.metadata().unwrap().modified().unwrap();
    say_hello(&transport).await;
    assert_eq!(copied.metadata().unwrap().modified().unwrap(), first);
    // Whoever changes it does not get it run.
    std::fs::write(&copied, "#!/bin/sh\necho flocker: intruder\n").unwrap();
    say_hello(&transport).await;
    assert_eq!(std::fs::read_to_string(server.copied()).unwrap(), ECHO);
    // Only the program `ssh` has connections to share.
    assert_eq!(server.at("control").exists(), way == BY_PROGRAM);
}

async fn a_program_that_was_found_whole_is_not_read_again_until_something_changed(way: &'static str) {
    let server = Server::start(way).await;
    let transport = Server::transport(&server);
    let proof = || std::fs::read_to_string(server.at("node/proved")).unwrap();
    let set_mode = |mode: u32| {
        let mode = std::fs::Permissions::from_mode(mode);
        std::fs::set_permissions(server.at("node/bin"), mode).unwrap();
    };
    say_hello(&transport).await;
    // What arrives was never read from where it lies now.
    assert!(!server.at("node/proved").exists());
    say_hello(&transport).await;
    let first = proof();
    let when = || server.at("node/proved").metadata().unwrap().modified().unwrap();
    let written = when();
    say_hello(&transport).await;
    assert_eq!(when(), written, "it was read again");
    // Its times are those that it had, and its size too.
    let copied = server.copied();
    let modified = copied.metadata().unwrap().modified().unwrap();
    std::fs::write(&copied, ECHO.replace("cat", "tac")).unwrap();
    let file = std::fs::File::options().write(true).open(&copied).unwrap();
    file.set_modified(modified).unwrap();
    drop(file);
    say_hello(&transport).await;
    assert_eq!(std::fs::read_to_string(server.copied()).unwrap(), ECHO);
    say_hello(&transport).await;
    assert_ne!(proof(), first);
    // What is written of another boot says nothing of this one.
    let (before, after) = first.split_once(',').unwrap();
    let (_, files) = after.split_once(',').unwrap();
    std::fs::write(server.at("node/proved"), format!("{before},another,{files}")).unwrap();
    say_hello(&transport).await;
    assert!(!proof().contains("another"));
    // Where others may enter, nothing that is written counts.
    set_mode(0o755);
    std::fs::remove_file(server.at("node/proved")).unwrap();
    say_hello(&transport).await;
    assert!(!server.at("node/proved").exists());
    set_mode(0o700);
    say_hello(&transport).await;
    assert!(server.at("node/proved").exists());
}

async fn a_program_that_changes_while_it_is_copied_is_never_run(way: &'static str) {
    let server = Server::start(way).await;
    let transport = Server::transport(&server);
    transport.program().hash().await.unwrap();
    // As long as before, and not the same.
    std::fs::write(server.at("echo"), ECHO.replace("cat", "tac")).unwrap();
    let refused = transport.open(&node(), Purpose::Control).await;
    assert!(matches!(refused, Err(TransportError::NotInstalled { .. })));
    assert_eq!(std::fs::read_dir(server.at("node/bin")).unwrap().count(), 0);
}

async fn a_host_that_is_not_known_is_refused(way: &'static str) {
    let server = Server::start(way).await;
    server.know("");
    assert!(matches!(
        server.refusal().await,
        TransportError::UnknownHostKey { .. }
    ));
    assert!(!server.at("node").exists(), "something was done on it");
    assert_eq!(
        std::fs::read_to_string(server.at("known_hosts")).unwrap(),
        "",
        "it was taken as known"
    );
}

async fn a_host_that_shows_another_key_is_refused(way: &'static str) {
    let server = Server::start(way).await;
    key(&server.at("other")).await;
    let other = std::fs::read_to_string(server.at("other.pub")).unwrap();
    server.know(&format!("[127.0.0.1]:{} {other}", server.port));
    let refusal = server.refusal().await;
    assert!(
        matches!(refusal, TransportError::ChangedHostKey { .. }),
        "{refusal}"
    );
    assert!(refusal.hint().is_some());
}

async fn a_revoked_key_is_refused_also_where_it_is_known(way: &'static str) {
    let server = Server::start(way).await;
    let key = std::fs::read_to_string(server.at("host.pub")).unwrap();
    server.know(&format!("{}@revoked * {key}", server.host_key()));
    let refusal = server.refusal().await;
    assert!(
        matches!(refusal, TransportError::RevokedHostKey { .. }),
        "{refusal}"
    );
}

async fn a_hashed_name_is_known(way: &'static str) {
    let server = Server::start(way).await;
    let hashed = Program::new(tool("ssh-keygen"))
        .arguments(["-q", "-H", "-f"])
        .argument(server.at("known_hosts"))
        .run(b"", 4096, PATIENCE)
        .await;
    hashed.unwrap().success().unwrap();
    let written = std::fs::read_to_string(server.at("known_hosts")).unwrap();
    assert!(written.starts_with("|1|"), "{written}");
    say_hello(&Server::transport(&server)).await;
}

async fn who_has_no_key_is_told_so(way: &'static str) {
    let server = Server::start(way).await;
    std::fs::write(server.at("authorized"), "").unwrap();
    let refusal = server.refusal().await;
    assert!(matches!(refusal, TransportError::Denied { .. }), "{refusal}");
}

macro_rules! by_each_way {
    ($($test:ident)*) => {
        mod by_program {
            $(#[tokio::test]
            async fn $test() {
                super::$test(super::BY_PROGRAM).await;
            })*

            flocker_backends::transport_conformance!(super::Server::start(super::BY_PROGRAM).await);
        }

        #[cfg(feature = "ssh2")]
        mod by_library {
            $(#[tokio::test]
            async fn $test() {
                super::$test("").await;
            })*

            flocker_backends::transport_conformance!(super::Server::start("").await);
        }
    };
}

by_each_way! {
    the_program_is_copied_once_and_again_where_it_was_changed
    a_program_that_was_found_whole_is_not_read_again_until_something_changed
    a_program_that_changes_while_it_is_copied_is_never_run
    a_host_that_is_not_known_is_refused
    a_host_that_shows_another_key_is_refused
    a_revoked_key_is_refused_also_where_it_is_known
    a_hashed_name_is_known
    who_has_no_key_is_told_so
}
