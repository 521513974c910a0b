//! What `ssh` would do for a host, read from `ssh -G`.
//!
//! The operator's configuration is read by `ssh` itself, with all its `Match`
//! and `Include`; here only its answer is looked at. What is not known here to
//! be harmless counts as something that only `ssh` can do, unless it is as `ssh` has it without any
//! configuration: who allows fewer ciphers, or larger keys only, means it.

use std::collections::BTreeSet;
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

/// Settings that neither lead elsewhere nor make anything stricter that we do: they are about a terminal, about what is
/// forwarded, about ways to log in that are never tried here, or about the program itself.
///
/// A host key that is not known is refused here whatever `stricthostkeychecking` says.
const HARMLESS: &[&str] = &[
    "addkeystoagent",
    "batchmode",
    "canonicaldomains",
    "canonicalizefallbacklocal",
    "canonicalizemaxdots",
    "canonicalizepermittedcnames",
    "challengeresponseauthentication",
    "clearallforwardings",
    "compression",
    "connectionattempts",
    "connecttimeout",
    "controlmaster",
    "controlpath",
    "controlpersist",
    "dynamicforward",
    "enableescapecommandline",
    "enablesshkeysign",
    "escapechar",
    "exitonforwardfailure",
    "fingerprinthash",
    "forkafterauthentication",
    "forwardagent",
    "forwardx11",
    "forwardx11timeout",
    "forwardx11trusted",
    "gatewayports",
    "gssapiauthentication",
    "gssapiclientidentity",
    "gssapidelegatecredentials",
    "gssapikexalgorithms",
    "gssapikeyexchange",
    "gssapirenewalforcesrekey",
    "gssapiserveridentity",
    "gssapitrustdns",
    "hashknownhosts",
    "host",
    "hostbasedacceptedalgorithms",
    "hostbasedauthentication",
    "ipqos",
    "kbdinteractiveauthentication",
    "localforward",
    "loglevel",
    "logverbose",
    "numberofpasswordprompts",
    "passwordauthentication",
    "permitremoteopen",
    "remoteforward",
    "requesttty",
    "securitykeyprovider",
    "sendenv",
    "serveralivecountmax",
    "serveraliveinterval",
    "setenv",
    "stdinnull",
    "streamlocalbindmask",
    "streamlocalbindunlink",
    "stricthostkeychecking",
    "syslogfacility",
    "tcpkeepalive",
    "updatehostkeys",
    "visualhostkey",
    "xauthlocation",
];

/// Splits a line of an answer into the name of a setting, in lower case, and what it says.
fn setting(line: &str) -> (String, &str) {
    let (name, value) = line.trim().split_once(' ').unwrap_or((line.trim(), ""));
    (name.to_ascii_lowercase(), value.trim())
}

impl Effective {
    /// Reads the answer of `ssh -G`: one setting to a line. `default` is its answer without any configuration.
    ///
    /// Nothing where the answer lacks what every answer has.
    #[must_use]
    pub fn parse(answer: &str, default: &str) -> Option<Self> {
        let default: BTreeSet<(String, &str)> = default.lines().map(setting).collect();
        let mut effective = Self::default();
        for line in answer.lines() {
            let (name, value) = setting(line);
            let name = name.as_str();
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
                    let is_plain = match PLAIN.iter().find(|(known, _)| *known == name) {
                        Some((_, plain)) => plain.contains(&value),
                        None => HARMLESS.contains(&name) || default.contains(&(name.to_owned(), value)),
                    };
                    if !is_plain {
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

    /// What it says without any file, and with the one that comes with Debian 12.
    const DEFAULT: &str = include_str!("../../../tests/data/ssh-9.2/default.txt");
    const DEBIAN: &str = include_str!("../../../tests/data/ssh-9.2/debian.txt");

    fn parse(answer: &str) -> Option<Effective> {
        Effective::parse(answer, DEFAULT)
    }

    fn with(line: &str) -> Effective {
        parse(&format!("{ANSWER}{line}\n")).unwrap()
    }

    /// The answer with another value of a setting that it has.
    fn changed(name: &str, value: &str) -> Effective {
        let lines = ANSWER.lines().map(|line| match setting(line) {
            (known, _) if known == name => format!("{name} {value}\n"),
            _ => format!("{line}\n"),
        });
        let answer: String = lines.collect();
        assert!(answer.contains(&format!("\n{name} {value}\n")), "{name}");
        parse(&answer).unwrap()
    }

    #[test]
    fn a_plain_host_needs_nothing_that_only_ssh_can_do() {
        let effective = parse(ANSWER).unwrap();
        assert_eq!(effective.needs_program, None);
        assert_eq!(parse(DEBIAN).unwrap().needs_program, None);
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
        assert_eq!(parse(""), None);
        assert_eq!(parse("hostname x\nuser y\n"), None);
        assert_eq!(parse("hostname x\nuser y\nport many\n"), None);
    }

    #[test]
    fn what_is_stricter_than_without_a_configuration_is_for_ssh() {
        for (name, value) in [
            ("ciphers", "aes256-gcm@openssh.com"),
            ("kexalgorithms", "sntrup761x25519-sha512"),
            ("macs", "hmac-sha2-512-etm@openssh.com"),
            ("hostkeyalgorithms", "ssh-ed25519"),
            ("pubkeyacceptedalgorithms", "ssh-ed25519"),
            ("casignaturealgorithms", "ssh-ed25519"),
            ("requiredrsasize", "3072"),
            ("rekeylimit", "1073741824 3600"),
            ("nohostauthenticationforlocalhost", "yes"),
        ] {
            let needs = changed(name, value).needs_program;
            assert_eq!(needs, Some(format!("{name} {value}")));
        }
        // Named only where it is set, and what this version does not know.
        for line in ["preferredauthentications publickey", "somethingnew yes"] {
            assert_eq!(with(line).needs_program.as_deref(), Some(line));
        }
    }

    #[test]
    fn what_makes_nothing_stricter_is_harmless() {
        for (name, value) in [
            ("stricthostkeychecking", "true"),
            ("serveraliveinterval", "15"),
            ("forwardagent", "yes"),
            ("controlmaster", "auto"),
            ("compression", "yes"),
        ] {
            assert_eq!(changed(name, value).needs_program, None, "{name}");
        }
        assert_eq!(with("sendenv LC_*").needs_program, None);
    }

    #[test]
    fn every_setting_of_a_default_is_known_to_be_one() {
        let effective = Effective::parse(DEFAULT, DEFAULT).unwrap();
        assert_eq!(effective.needs_program, None);
        // Without the default to compare with, nothing is taken for it.
        let unknown = Effective::parse(DEFAULT, "").unwrap().needs_program;
        assert!(unknown.is_some());
    }
}
