//! Which keys a host is known by, as `ssh-keygen -F` finds them: also in hashed lines and by patterns.

use super::Effective;

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
