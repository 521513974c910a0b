//! How our program comes to run on a node that has nothing of ours.
//!
//! The command line that is sent is a constant but for the hash and the size
//! of our program. It looks for the program by its hash, takes it from its
//! input where it is missing or damaged, proves that it has the hash where that
//! was not done since it was last changed, and becomes it. Each step is told on a line of its own, so that whatever a
//! login shell prints before is passed over.

use std::fmt;
use std::time::Duration;

use tokio::io::AsyncRead;
use tokio::io::AsyncReadExt as _;
use tokio::io::AsyncWrite;
use tokio::io::AsyncWriteExt as _;

use super::payload::Content;
use super::payload::NodeProgram;
use super::refusal;
use crate::transport::TransportError;

/// Decides where on the node it lives, and becomes root where that takes no password.
///
/// A machine may say in the environment of its logins where it is to live.
/// Neither of the two has an apostrophe or a line end: every login shell takes them as they are.
const OUTER: &str = "s=; d=/var/lib/flocker; \
if [ \"$(id -u)\" = 0 ]; then :; \
elif sudo -n true 2>/dev/null; then s=\"sudo -n\"; \
else d=$HOME/.local/state/flocker-node; fi; \
i=$1; set -- \"$2\" \"$3\" \"${FLOCKER_NODE_DIR:-$d}\" \"${SSH_CONNECTION:-}\"; \
if [ \"$s\" ]; then exec $s /bin/sh -c \"$i\" flocker \"$@\"; fi; eval \"$i\"";

/// Sees to it that the program is there and whole, and becomes it.
///
/// A copy that is cut off leaves nothing: it goes to a name of its own, which is renamed when it is whole.
///
/// To read the whole program takes longer than everything else here. So what
/// is written down when it was found whole is which file that was, when it was
/// last changed as the kernel keeps it (which no program can set), and in which
/// boot: what was read before a power failure need not be on the disk. While all
/// of that is the same, and nobody else may enter, it is not read again.
const INNER: &str = "umask 077; d=$3; p=$d/bin/flocker-$1; n=; \
whole() { echo \"$1  $2\" | sha256sum -c - >/dev/null 2>&1; }; \
if [ -O \"$d/bin\" ] && [ -O \"$p\" ] && [ -x \"$p\" ] && read -r n </proc/sys/kernel/random/boot_id; then \
n=$n,$(stat --printf \"%a:%u:%d:%i:%s:%.9Z,\" \"$d/bin\" \"$p\" 2>/dev/null); fi; \
case $n in *,700:*,700:*,) n=$1,$n;; *) n=;; esac; \
if [ \"$n\" ] && [ -f \"$d/proved\" ] && [ -O \"$d/proved\" ] && read -r o <\"$d/proved\" && [ \"$o\" = \"$n\" ]; then :; else \
echo \"flocker: on $(uname -sm)\"; \
if [ -x \"$p\" ] && whole \"$1\" \"$p\"; then if [ \"$n\" ]; then { echo \"$n\" >\"$d/proved\"; } 2>/dev/null; fi; else \
mkdir -p \"$d/bin\" || exit 1; t=$p.$$; trap \"rm -f \\\"\\$t\\\"; exit 1\" HUP INT TERM PIPE; \
echo \"flocker: wants\"; head -c \"$2\" >\"$t\"; \
if whole \"$1\" \"$t\" && chmod 700 \"$t\" && mv -f \"$t\" \"$p\"; then trap - HUP INT TERM PIPE; \
else rm -f \"$t\"; echo \"flocker: damaged\"; exit 1; fi; fi; fi; \
echo \"flocker: runs\"; exec \"$p\" node-stdio --directory \"$d\" --connection \"$4\"";

/// How much a login shell may print before our own words.
const PATIENCE: usize = 64 * 1024;

/// How much of our program is sent before it is looked whether it still goes on.
const PIECE: usize = 256 * 1024;

/// How long the next piece may take.
const STALL: Duration = Duration::from_secs(30);

/// Returns the command line that is sent to the node.
pub(super) fn command(content: &Content) -> String {
    let Content { hash, size } = content;
    format!("exec /bin/sh -c '{OUTER}' flocker '{INNER}' {hash} {size}")
}

/// Why our program did not come to run.
#[derive(Debug)]
pub(super) enum Setback {
    /// The other side closed the pipe, or it broke; what it said of its errors tells why.
    Ended,
    /// The machine is of another kind.
    Machine(String),
    /// What arrived is not what was sent.
    Damaged,
    /// Our own program could not be read.
    Unreadable(std::io::Error),
    /// Nothing was said, or taken, for so long.
    Stalled(&'static str, Duration),
}

impl Setback {
    /// Says what it means, with what was said on the error stream.
    pub(super) fn explain(self, host: &str, said: &str) -> TransportError {
        let host = host.to_owned();
        let said = refusal::repeat(said);
        match self {
            // A connection that broke before anybody said why.
            Self::Ended if said.is_empty() => TransportError::Unreachable {
                address: format!("`{host}`"),
                source: std::io::Error::new(
                    std::io::ErrorKind::ConnectionAborted,
                    "it hung up without a word",
                ),
            },
            Self::Ended => TransportError::Refused { host, said },
            Self::Damaged => TransportError::NotInstalled { host, said },
            Self::Machine(machine) => TransportError::OtherMachine { host, machine },
            Self::Unreadable(source) => TransportError::OwnProgram { source },
            Self::Stalled(what, after) => TransportError::Late { host, what, after },
        }
    }
}

/// Brings our program to run at the other end of a pipe, on which [`command`] was started.
///
/// When it returns, the next byte that is read was written by our program.
/// `limit` is for each answer; a copy goes on for as long as its bytes go.
pub(super) async fn bring(
    pipe: &mut (impl AsyncRead + AsyncWrite + Unpin),
    program: &NodeProgram,
    limit: Duration,
) -> Result<(), Setback> {
    let mut noise = PATIENCE;
    loop {
        let line = tokio::time::timeout(limit, line(pipe, &mut noise));
        let line = line.await.map_err(|_| Setback::Stalled("an answer", limit))??;
        let Some(word) = line.strip_prefix("flocker: ") else {
            continue;
        };
        match word {
            "runs" => return Ok(()),
            "wants" => send(pipe, program).await?,
            "damaged" => return Err(Setback::Damaged),
            _ => {
                if let Some(machine) = word.strip_prefix("on ")
                    && !is_ours(machine)
                {
                    return Err(Setback::Machine(machine.to_owned()));
                }
            }
        }
    }
}

/// Says whether a program that runs here runs on such a machine.
fn is_ours(machine: &str) -> bool {
    let ours = std::env::consts::ARCH;
    match machine.split_once(' ') {
        Some(("Linux", kind)) => kind == ours || (kind == "arm64" && ours == "aarch64"),
        Some(_) | None => false,
    }
}

async fn line(pipe: &mut (impl AsyncRead + Unpin), noise: &mut usize) -> Result<String, Setback> {
    let mut line = Vec::new();
    loop {
        // What comes after the line belongs to somebody else, so bytes are taken one by one.
        match pipe.read_u8().await {
            Ok(b'\n') => return Ok(String::from_utf8_lossy(&line).trim_end().to_owned()),
            Ok(byte) => line.push(byte),
            Err(_) => return Err(Setback::Ended),
        }
        *noise = noise.checked_sub(1).ok_or(Setback::Ended)?;
    }
}

async fn send(pipe: &mut (impl AsyncWrite + Unpin), program: &NodeProgram) -> Result<(), Setback> {
    let size = program.content().await.map_err(Setback::Unreadable)?.size;
    tracing::info!(size, "our program is copied to the node");
    let mut file = program.open().await.map_err(Setback::Unreadable)?.take(size);
    let mut buffer = vec![0; PIECE];
    loop {
        let n_read = file.read(&mut buffer).await.map_err(Setback::Unreadable)?;
        if n_read == 0 {
            break;
        }
        let sent = tokio::time::timeout(STALL, pipe.write_all(&buffer[..n_read])).await;
        sent.map_err(|_| Setback::Stalled("the copy of our program", STALL))?
            .map_err(|_| Setback::Ended)?;
    }
    let sent = tokio::time::timeout(STALL, pipe.flush()).await;
    sent.map_err(|_| Setback::Stalled("the copy of our program", STALL))?
        .map_err(|_| Setback::Ended)
}

impl fmt::Display for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.hash)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::duplex;

    #[test]
    fn the_command_line_has_nothing_of_ours_but_hash_and_size() {
        let content = Content {
            hash: "ab".repeat(32),
            size: 12,
        };
        let command = command(&content);
        assert!(
            command.starts_with("exec /bin/sh -c '") && command.ends_with(&format!("' {} 12", content.hash))
        );
        // Whatever shell the login has, it sees four texts in apostrophes at most, and one line.
        assert_eq!(command.matches('\'').count(), 4);
        assert!(!command.contains('\n'));
        assert!(!OUTER.contains('\\'));
    }

    async fn conversation(theirs: &'static [u8], program: &NodeProgram) -> (Result<(), Setback>, Vec<u8>) {
        let (mut ours, mut node) = duplex(1 << 20);
        node.write_all(theirs).await.unwrap();
        let (reader, mut writer) = tokio::io::split(node);
        writer.shutdown().await.unwrap();
        let brought = bring(&mut ours, program, Duration::from_secs(5)).await;
        let mut after = Vec::new();
        if brought.is_ok() {
            ours.read_to_end(&mut after).await.unwrap();
        }
        drop(reader);
        (brought, after)
    }

    #[tokio::test]
    async fn what_a_login_shell_prints_is_passed_over_and_what_comes_after_is_left() {
        let machine = format!(
            "Welcome!\nflocker: on Linux {}\nflocker: runs\n\0rest",
            std::env::consts::ARCH
        );
        let (brought, after) =
            conversation(machine.leak().as_bytes(), &NodeProgram::new("/nonexistent")).await;
        brought.unwrap();
        assert_eq!(after, b"\0rest");
    }

    #[tokio::test]
    async fn another_kind_of_machine_is_refused_before_anything_is_copied() {
        let program = NodeProgram::new("/nonexistent");
        let (brought, _) = conversation(b"flocker: on Linux s390x\nflocker: wants\n", &program).await;
        assert!(matches!(brought, Err(Setback::Machine(machine)) if machine == "Linux s390x"));
        let (brought, _) = conversation(b"flocker: on Darwin x86_64\nflocker: wants\n", &program).await;
        assert!(matches!(brought, Err(Setback::Machine(_))));
    }

    #[tokio::test]
    async fn a_pipe_that_ends_or_never_says_anything_of_ours_is_an_end() {
        let program = NodeProgram::new("/nonexistent");
        let (brought, _) = conversation(b"This account is not available.\n", &program).await;
        assert!(matches!(brought, Err(Setback::Ended)));
        let noise = vec![b'x'; PATIENCE + 10].leak();
        let (brought, _) = conversation(noise, &program).await;
        assert!(matches!(brought, Err(Setback::Ended)));
    }
}
