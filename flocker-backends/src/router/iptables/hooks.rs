//! Single rules in chains that are not ours: asking for them, adding and removing them.
//!
//! Each is one run of a program, so this is for the handful of rules that let our packets pass or
//! are taken back. What leads to our own chains is written together with them elsewhere.

use std::ffi::OsStr;
use std::io;
use std::path::Path;

use iptables::IPTables;

use crate::process::find_program;

/// A program by which single rules are asked for and added: `iptables` or one like it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::router) struct Tool {
    name: &'static str,
    /// Where it may be. The crate would look where our own environment says, which may know nothing of such programs.
    places: &'static [&'static str],
}

macro_rules! tools {
    ($($tool:ident $name:literal)*) => {
        impl Tool {$(
            pub(in crate::router) const $tool: Self = Self {
                name: $name,
                places: &[
                    concat!("/usr/local/sbin/", $name),
                    concat!("/usr/sbin/", $name),
                    concat!("/sbin/", $name),
                    concat!("/usr/local/bin/", $name),
                    concat!("/usr/bin/", $name),
                    concat!("/bin/", $name),
                ],
            };
        )*}
    };
}

tools! {
    HOST_V4 "iptables"
    HOST_V6 "ip6tables"
    NFT_V4 "iptables-nft"
    NFT_V6 "ip6tables-nft"
    LEGACY_V4 "iptables-legacy"
    LEGACY_V6 "ip6tables-legacy"
}

/// A rule of ours in somebody else's chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::router) struct Hook {
    pub(in crate::router) table: &'static str,
    pub(in crate::router) chain: &'static str,
    pub(in crate::router) place: Place,
    /// No word of it may contain a blank or a quote.
    pub(in crate::router) rule: String,
}

/// Where a rule goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::router) enum Place {
    /// Before all others.
    First,
    /// After all others.
    Last,
}

/// Errors of the crate cannot be handed to another thread; their text can.
#[expect(
    clippy::needless_pass_by_value,
    reason = "it stands in for a conversion, which takes the error"
)]
fn to_io(error: Box<dyn std::error::Error>) -> io::Error {
    io::Error::other(error.to_string().trim().to_owned())
}

impl Tool {
    pub(in crate::router) fn name(self) -> &'static str {
        self.name
    }

    /// Every version that is still about knows how to check and to wait.
    fn program(self) -> IPTables {
        let is_there = |place: &&&str| find_program(Path::new(place), OsStr::new("")).is_some();
        IPTables {
            cmd: self.places.iter().find(is_there).copied().unwrap_or(self.name),
            has_check: true,
            has_wait: true,
            is_numeric: true,
        }
    }

    /// Returns the rules of a chain, policy first. Blocks.
    #[cfg(feature = "nftables")]
    pub(in crate::router) fn list(self, table: &str, chain: &str) -> io::Result<Vec<String>> {
        // Asked directly: the crate's own list does not tell failure from emptiness.
        let output = self
            .program()
            .execute(table, &format!("-S {chain}"))
            .map_err(to_io)?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            return Err(io::Error::other(said.trim().to_owned()));
        }
        let rules = String::from_utf8_lossy(&output.stdout);
        Ok(rules.lines().map(str::to_owned).collect())
    }

    /// Adds a rule. Blocks.
    #[cfg(feature = "nftables")]
    pub(in crate::router) fn add(self, hook: &Hook) -> io::Result<()> {
        let Hook {
            table,
            chain,
            place,
            rule,
        } = hook;
        let added = match place {
            Place::First => self.program().insert(table, chain, rule, 1),
            Place::Last => self.program().append(table, chain, rule),
        };
        added.map_err(to_io)
    }

    /// Removes a rule that is there. Blocks.
    pub(in crate::router) fn remove(self, hook: &Hook) -> io::Result<()> {
        let Hook {
            table, chain, rule, ..
        } = hook;
        self.program().delete(table, chain, rule).map_err(to_io)
    }
}
