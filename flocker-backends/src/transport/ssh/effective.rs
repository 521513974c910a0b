//! What `ssh` would do for a host, read from `ssh -G`.
//!
//! The operator's configuration is read by `ssh` itself, with all its `Match`
//! and `Include`; here only its answer is looked at. What is not known here
//! counts as something that only `ssh` can do.

use std::path::PathBuf;

/// What `ssh -G` said of a host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Effective {
    /// Where it connects to.
    pub host: String,
    /// At which port.
    pub port: u16,
    /// As whom it logs in.
    pub user: String,
    /// The private keys that it tries, `~` and all.
    pub identity_files: Vec<PathBuf>,
    /// Whether it tries no other keys, also where an agent has some.
    pub identities_only: bool,
    /// The files of known host keys, `~` and all.
    pub known_hosts: Vec<PathBuf>,
    /// The first setting that only the program `ssh` can honour, if there is one.
    pub needs_program: Option<String>,
}

/// Settings that change how a host is reached or trusted, and what they say where they change nothing.
const PLAIN: &[(&str, &[&str])] = &[
    ("addressfamily", &["any"]),
    ("bindaddress", &[]),
    ("bindinterface", &[]),
    ("canonicalizehostname", &["false", "no", "none"]),
    ("certificatefile", &[]),
    ("checkhostip", &["no", "yes", "false", "true"]),
    ("hostkeyalias", &[]),
    ("identityagent", &["SSH_AUTH_SOCK"]),
    ("knownhostscommand", &["none"]),
    ("pkcs11provider", &["none"]),
    ("proxycommand", &["none"]),
    ("proxyjump", &["none"]),
    ("proxyusefdpass", &["no"]),
    ("pubkeyauthentication", &["yes", "true"]),
    ("revokedhostkeys", &["none"]),
    ("verifyhostkeydns", &["no", "false"]),
];

impl Effective {
    /// Reads the answer of `ssh -G`: one setting to a line, its name in lower case.
    ///
    /// Nothing where the answer lacks what every answer has.
    #[must_use]
    pub fn parse(answer: &str) -> Option<Self> {
        let mut effective = Self::default();
        for line in answer.lines() {
            let (name, value) = line.trim().split_once(' ').unwrap_or((line.trim(), ""));
            let value = value.trim();
            match name {
                "hostname" => value.clone_into(&mut effective.host),
                "user" => value.clone_into(&mut effective.user),
                "port" => effective.port = value.parse().ok()?,
                "identitiesonly" => effective.identities_only = matches!(value, "yes" | "true"),
                "identityfile" => {
                    let is_hardware = value.ends_with("_sk");
                    // `ssh` names the keys that it would look for; a default one of hardware need not exist.
                    if is_hardware && !is_default(value) {
                        effective.refuse(name, value);
                    }
                    if !is_hardware {
                        effective.identity_files.push(value.into());
                    }
                }
                "userknownhostsfile" | "globalknownhostsfile" => {
                    let files = value.split_ascii_whitespace().filter(|file| *file != "none");
                    effective.known_hosts.extend(files.map(PathBuf::from));
                }
                _ => {
                    if let Some((_, plain)) = PLAIN.iter().find(|(known, _)| *known == name)
                        && !plain.contains(&value)
                    {
                        effective.refuse(name, value);
                    }
                }
            }
        }
        let is_whole = !effective.host.is_empty() && !effective.user.is_empty() && effective.port != 0;
        is_whole.then_some(effective)
    }

    fn refuse(&mut self, name: &str, value: &str) {
        self.needs_program
            .get_or_insert_with(|| format!("{name} {value}"));
    }
}

fn is_default(identity: &str) -> bool {
    matches!(
        identity,
        "~/.ssh/id_ecdsa_sk" | "~/.ssh/id_ed25519_sk" | "~/.ssh/id_xmss"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What OpenSSH 9.2 says, with a file of its own for the host.
    const ANSWER: &str = include_str!("../../../tests/data/ssh-9.2/plain.txt");

    fn with(line: &str) -> Effective {
        Effective::parse(&format!("{ANSWER}{line}\n")).unwrap()
    }

    #[test]
    fn a_plain_host_needs_nothing_that_only_ssh_can_do() {
        let effective = Effective::parse(ANSWER).unwrap();
        assert_eq!(effective.needs_program, None);
        assert_eq!((&*effective.host, effective.port), ("192.0.2.7", 2222));
        assert_eq!(effective.user, "operator");
        assert!(effective.identities_only);
        assert_eq!(effective.identity_files, [PathBuf::from("/keys/id_ed25519")]);
        let known: Vec<_> = effective
            .known_hosts
            .iter()
            .map(|file| file.to_str().unwrap())
            .collect();
        assert_eq!(
            known,
            [
                "/etc/ssh/ssh_known_hosts",
                "/etc/ssh/ssh_known_hosts2",
                "/keys/known_hosts"
            ]
        );
    }

    #[test]
    fn what_only_ssh_can_do_is_named() {
        for line in [
            "proxyjump jump.example.com",
            "proxycommand nc %h %p",
            "certificatefile ~/.ssh/id_ed25519-cert.pub",
            "identityfile ~/.ssh/work_sk",
            "identityagent /run/agent",
            "hostkeyalias cluster",
            "revokedhostkeys /etc/ssh/revoked",
            "knownhostscommand /usr/bin/keys",
            "addressfamily inet6",
            "pkcs11provider /usr/lib/token.so",
        ] {
            assert_eq!(with(line).needs_program.as_deref(), Some(line));
        }
        assert_eq!(with("identityfile ~/.ssh/id_ed25519_sk").needs_program, None);
        assert_eq!(with("proxyjump none").needs_program, None);
    }

    #[test]
    fn half_an_answer_is_none() {
        assert_eq!(Effective::parse(""), None);
        assert_eq!(Effective::parse("hostname x\nuser y\n"), None);
        assert_eq!(Effective::parse("hostname x\nuser y\nport many\n"), None);
    }
}
