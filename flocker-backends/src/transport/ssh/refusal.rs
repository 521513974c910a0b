//! What `ssh` says when it fails, read for what it means.

use std::io;

use crate::transport::TransportError;

/// How much of what was said is repeated.
const REPEATED: usize = 600;

/// What went wrong, by the first of these texts that is in what `ssh` said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Meaning {
    Revoked,
    Changed,
    Unknown,
    Denied,
    NoSuchHost,
    Unreachable(io::ErrorKind),
}

const TEXTS: &[(&str, Meaning)] = &[
    ("REVOKED HOST KEY DETECTED", Meaning::Revoked),
    ("is marked as revoked", Meaning::Revoked),
    ("REMOTE HOST IDENTIFICATION HAS CHANGED", Meaning::Changed),
    (
        "has changed and you have requested strict checking",
        Meaning::Changed,
    ),
    ("host key is known for", Meaning::Unknown),
    ("Host key verification failed", Meaning::Unknown),
    ("Permission denied", Meaning::Denied),
    ("Too many authentication failures", Meaning::Denied),
    ("Could not resolve hostname", Meaning::NoSuchHost),
    (
        "Connection refused",
        Meaning::Unreachable(io::ErrorKind::ConnectionRefused),
    ),
    ("timed out", Meaning::Unreachable(io::ErrorKind::TimedOut)),
    ("not responding", Meaning::Unreachable(io::ErrorKind::TimedOut)),
    (
        "No route to host",
        Meaning::Unreachable(io::ErrorKind::HostUnreachable),
    ),
    (
        "Network is unreachable",
        Meaning::Unreachable(io::ErrorKind::NetworkUnreachable),
    ),
    (
        "Connection reset",
        Meaning::Unreachable(io::ErrorKind::ConnectionReset),
    ),
    (
        "Connection closed",
        Meaning::Unreachable(io::ErrorKind::ConnectionAborted),
    ),
    ("Broken pipe", Meaning::Unreachable(io::ErrorKind::BrokenPipe)),
];

/// Says what the words of an `ssh` mean that could not connect.
pub(super) fn read(host: &str, said: &str) -> TransportError {
    let host = host.to_owned();
    let meaning = TEXTS.iter().find(|(text, _)| said.contains(text));
    let said = repeat(said);
    match meaning.map(|(_, meaning)| *meaning) {
        Some(Meaning::Revoked) => TransportError::RevokedHostKey { host },
        Some(Meaning::Changed) => TransportError::ChangedHostKey { host },
        Some(Meaning::Unknown) => TransportError::UnknownHostKey { host },
        Some(Meaning::Denied) => TransportError::Denied { host, said },
        Some(Meaning::NoSuchHost) => TransportError::NoSuchHost { host },
        Some(Meaning::Unreachable(kind)) => TransportError::Unreachable {
            address: format!("`{host}`"),
            source: io::Error::new(kind, said),
        },
        None => TransportError::Refused { host, said },
    }
}

/// Returns the last of what was said, on one line.
pub(super) fn repeat(said: &str) -> String {
    let lines: Vec<&str> = said
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with('@'))
        .collect();
    let whole = lines.join("; ");
    let n_characters = whole.chars().count();
    let kept: String = whole
        .chars()
        .skip(n_characters.saturating_sub(REPEATED))
        .collect();
    kept.chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What OpenSSH 9.2 said, and what it means.
    #[test]
    fn what_ssh_says_is_understood() {
        let unknown = "No ED25519 host key is known for 192.0.2.7 and you have requested strict checking.\r\n\
            Host key verification failed.\r\n";
        assert!(matches!(read("a", unknown), TransportError::UnknownHostKey { host } if host == "a"));
        let changed = "@@@@@@@@@@@\n@    WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED!     @\n@@@@@@@@@@@\n\
            Host key for 192.0.2.7 has changed and you have requested strict checking.\nHost key verification failed.\n";
        assert!(matches!(
            read("a", changed),
            TransportError::ChangedHostKey { .. }
        ));
        let revoked = "@@@@@@@@@@@\n@       WARNING: REVOKED HOST KEY DETECTED!               @\n@@@@@@@@@@@\n\
            The ED25519 host key for 192.0.2.7 is marked as revoked.\nHost key verification failed.\n";
        assert!(matches!(
            read("a", revoked),
            TransportError::RevokedHostKey { .. }
        ));
        let denied = "root@192.0.2.7: Permission denied (publickey,password).\r\n";
        assert!(matches!(
            read("a", denied),
            TransportError::Denied { said, .. } if said == "root@192.0.2.7: Permission denied (publickey,password)."
        ));
        let nobody = "ssh: Could not resolve hostname nohost.invalid: Name or service not known\r\n";
        assert!(matches!(read("a", nobody), TransportError::NoSuchHost { .. }));
        for (said, kind) in [
            (
                "ssh: connect to host 127.0.0.1 port 1: Connection refused\r\n",
                io::ErrorKind::ConnectionRefused,
            ),
            (
                "ssh: connect to host 192.0.2.1 port 22: Connection timed out\r\n",
                io::ErrorKind::TimedOut,
            ),
            (
                "ssh: connect to host 192.0.2.1 port 22: No route to host\r\n",
                io::ErrorKind::HostUnreachable,
            ),
            (
                "Timeout, server 192.0.2.1 not responding.\r\n",
                io::ErrorKind::TimedOut,
            ),
            (
                "kex_exchange_identification: Connection closed by remote host\nConnection closed by 192.0.2.1 port 22\n",
                io::ErrorKind::ConnectionAborted,
            ),
        ] {
            let refusal = read("a", said);
            let TransportError::Unreachable { source, .. } = &refusal else {
                panic!("{said}: {refusal}");
            };
            assert_eq!(source.kind(), kind, "{said}");
        }
        assert!(matches!(
            read("a", "Bad owner or permissions on /home/operator/.ssh/config\n"),
            TransportError::Refused { .. }
        ));
    }

    #[test]
    fn what_is_repeated_is_one_short_line_of_plain_characters() {
        assert_eq!(repeat("@@@@\none\r\n\n  two\x1b[31m\n"), "one; two [31m");
        assert_eq!(repeat(&"x".repeat(10_000)).len(), REPEATED);
    }
}
