//! Which keys a host is known by, as `ssh-keygen -F` finds them: also in hashed lines and by patterns.
//!
//! To start that program for each host takes longer than to connect to it, so
//! lines that name hosts, in plain words or hashed, are compared here. It is
//! asked about every file that says anything else.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use ring::hmac;

use super::Effective;

/// What begins the name of a kind of key.
const KINDS: &[&str] = &["ssh-", "ecdsa-", "sk-"];

/// A host key as files of known hosts have it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct KnownKey {
    pub(super) kind: String,
    /// In base 64.
    pub(super) key: String,
}

/// What is known of a host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Known {
    pub(super) keys: Vec<KnownKey>,
    /// Keys that must never be taken.
    pub(super) revoked: Vec<KnownKey>,
    /// Whether it may show a certificate of an authority, which only the program `ssh` can check.
    pub(super) has_authority: bool,
}

impl Known {
    /// Adds what `ssh-keygen -F` printed of one file.
    pub(super) fn add(&mut self, printed: &str) {
        for line in printed.lines() {
            let mut words = line.split_ascii_whitespace().peekable();
            let marker = words.next_if(|word| word.starts_with('@'));
            let (Some(host), Some(kind), Some(key)) = (words.next(), words.next(), words.next()) else {
                continue;
            };
            if host.starts_with('#') {
                continue;
            }
            let key = KnownKey {
                kind: kind.to_owned(),
                key: key.to_owned(),
            };
            match marker {
                None => self.keys.push(key),
                Some("@revoked") => self.revoked.push(key),
                // What is not understood is left to the program as well.
                Some(_) => self.has_authority = true,
            }
        }
    }

    /// Adds what a file of known hosts says of a name; says whether it could, without `ssh-keygen`.
    ///
    /// Where it could not, nothing was added.
    pub(super) fn read(&mut self, file: &[u8], name: &str) -> bool {
        let lines = str::from_utf8(file).ok().and_then(|text| lines_about(text, name));
        let Some(lines) = lines else {
            return false;
        };
        self.add(&lines.join("\n"));
        true
    }

    /// Returns the kinds of keys that the host may show, as they are agreed on with it.
    pub(super) fn kinds(&self) -> String {
        let mut kinds: Vec<&str> = Vec::new();
        for KnownKey { kind, key: _ } in &self.keys {
            let names: &[&str] = match kind.as_str() {
                "ssh-rsa" => &["rsa-sha2-512", "rsa-sha2-256"],
                other => &[other],
            };
            for name in names {
                if !kinds.contains(name) {
                    kinds.push(name);
                }
            }
        }
        kinds.join(",")
    }
}

/// Finds the lines about a name; nothing where there is any line that only `ssh-keygen` understands.
fn lines_about<'a>(text: &'a str, name: &str) -> Option<Vec<&'a str>> {
    let mut found = Vec::new();
    for line in text.lines() {
        let line = line.trim_start_matches([' ', '\t']);
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let mut words = line.split([' ', '\t']).filter(|word| !word.is_empty());
        let (names, kind) = (words.next()?, words.next()?);
        let is_key = KINDS.iter().any(|known| kind.starts_with(known));
        let is_pattern = names.starts_with('@') || names.contains(['*', '?', '!', '"']);
        if is_pattern || !is_key {
            return None;
        }
        let is_about = match names.strip_prefix('|') {
            Some(hashed) => is_hash_of(hashed, name)?,
            None => names.split(',').any(|known| known.eq_ignore_ascii_case(name)),
        };
        if is_about {
            found.push(line);
        }
    }
    Some(found)
}

/// Says whether a name was hashed to this; nothing where it was hashed in a way that is not known.
fn is_hash_of(hashed: &str, name: &str) -> Option<bool> {
    let (salt, hash) = hashed.strip_prefix("1|")?.split_once('|')?;
    let salt = BASE64_STANDARD.decode(salt).ok()?;
    let hash = BASE64_STANDARD.decode(hash).ok()?;
    let key = hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, &salt);
    Some(hmac::verify(&key, name.as_bytes(), &hash).is_ok())
}

/// Returns the name under which a host is known.
pub(super) fn name(effective: &Effective) -> String {
    let host = effective.host.to_ascii_lowercase();
    match effective.port {
        22 => host,
        port => format!("[{host}]:{port}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PRINTED: &str = "\
# Host alpha found: line 1
alpha ssh-ed25519 AAAAC3Nza
# Host alpha found: line 2
|1|c2FsdA==|aGFzaA== ssh-rsa AAAAB3Nza
# Host alpha found: line 3 REVOKED
@revoked * ssh-ed25519 AAAAC3Old
";

    #[test]
    fn keys_revoked_keys_and_authorities_are_told_apart() {
        let mut known = Known::default();
        known.add(PRINTED);
        assert_eq!(known.kinds(), "ssh-ed25519,rsa-sha2-512,rsa-sha2-256");
        assert_eq!(known.revoked.len(), 1);
        assert_eq!(known.revoked[0].key, "AAAAC3Old");
        assert!(!known.has_authority);
        known.add("# Host alpha found: line 4 CA\n@cert-authority *.example.com ssh-ed25519 AAAA\n");
        assert!(known.has_authority);
        assert_eq!(known.keys.len(), 2);
        let mut none = Known::default();
        none.add("");
        assert_eq!(none, Known::default());
    }

    /// `ssh-keygen -H` of OpenSSH 9.2 made the second line of `[alpha]:2222`.
    const PLAIN: &str = "\
# made by hand
beta,Alpha ssh-ed25519 AAAAbeta a comment
|1|TVbvDvtAPSiGOGwtn/FCHR7a4Lc=|D4LwcD7bZS8eUk5nH2lvVN8i5SQ= ssh-ed25519 AAAAhashed
[beta]:2222\tecdsa-sha2-nistp256 AAAAport
";

    fn keys(text: &str, name: &str) -> Option<Vec<String>> {
        let mut known = Known::default();
        let could = known.read(text.as_bytes(), name);
        assert!(could || known == Known::default());
        could.then(|| known.keys.into_iter().map(|key| key.key).collect())
    }

    #[test]
    fn names_that_are_spelled_out_or_hashed_are_compared() {
        assert_eq!(keys(PLAIN, "alpha").unwrap(), ["AAAAbeta"]);
        assert_eq!(keys(PLAIN, "beta").unwrap(), ["AAAAbeta"]);
        assert_eq!(keys(PLAIN, "[alpha]:2222").unwrap(), ["AAAAhashed"]);
        assert_eq!(keys(PLAIN, "[beta]:2222").unwrap(), ["AAAAport"]);
        assert!(keys(PLAIN, "gamma").unwrap().is_empty());
        assert!(keys(PLAIN, "alph").unwrap().is_empty());
        assert!(keys("", "alpha").unwrap().is_empty());
    }

    #[test]
    fn whatever_else_a_file_says_is_for_the_program() {
        for line in [
            "*.example.com ssh-ed25519 AAAA",
            "alph? ssh-ed25519 AAAA",
            "*,!alpha ssh-ed25519 AAAA",
            "@revoked * ssh-ed25519 AAAA",
            "@cert-authority alpha ssh-ed25519 AAAA",
            "|2|c2FsdA==|aGFzaA== ssh-ed25519 AAAA",
            "|1|c2FsdA== ssh-ed25519 AAAA",
            "|1|?|? ssh-ed25519 AAAA",
            "alpha 1024 35 1234",
            "alpha",
        ] {
            assert_eq!(keys(&format!("{PLAIN}{line}\n"), "alpha"), None, "{line}");
        }
        assert!(!Known::default().read(b"\xff ssh-ed25519 AAAA", "alpha"));
    }

    #[test]
    fn another_port_is_part_of_the_name() {
        let mut effective = Effective {
            host: "Alpha".into(),
            port: 22,
            ..Effective::default()
        };
        assert_eq!(name(&effective), "alpha");
        effective.port = 2222;
        assert_eq!(name(&effective), "[alpha]:2222");
    }
}
