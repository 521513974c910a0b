//! Single rules in chains that are not ours: asking for them, adding and removing them.
//!
//! Each is one run of a program, so this is for the handful of rules that let our packets pass or
//! are taken back. What leads to our own chains is written together with them elsewhere.

use std::ffi::OsStr;
use std::io;
use std::path::Path;
use std::process::Output;

use iptables::IPTables;
use tokio::time::timeout;

use super::super::kernel;
use crate::process::describe;
use crate::process::find_program;
use crate::router::RouterError;

/// How many seconds a program waits for others that change rules at the same time: Docker does whenever a container
/// starts. After that it says who is in the way, and fails.
pub(super) const WAIT: [&str; 2] = ["-w", "30"];

/// How a program ends where there is no such chain, and where there is no such table. Any other failure says nothing of
/// what is there: somebody else has kept it from the rules, say, or it was killed.
#[cfg(feature = "nftables")]
const ABSENT: [Option<i32>; 2] = [Some(1), Some(3)];

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

/// Returns what a program wrote, or its own words where it failed.
fn success(output: &Output) -> io::Result<String> {
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(io::Error::other(format!(
        "it ended with {}: {}",
        describe(output.status),
        said.trim()
    )))
}

impl Tool {
    pub(in crate::router) fn name(self) -> &'static str {
        self.name
    }

    /// Every version that is still about knows how to check.
    fn program(self) -> Option<IPTables> {
        let is_there = |place: &&&str| find_program(Path::new(place), OsStr::new("")).is_some();
        Some(IPTables {
            cmd: self.places.iter().find(is_there)?,
            has_check: true,
            // The crate would have it wait for as long as others change rules; it is told for how long instead.
            has_wait: false,
            is_numeric: true,
        })
    }

    /// Runs it in a table, to its end, whichever that is.
    async fn run(self, table: &'static str, words: String) -> io::Result<Output> {
        let program = self.program().ok_or(io::ErrorKind::NotFound)?;
        let words = format!("{} {words}", WAIT.join(" "));
        let ran = crate::blocking::blocking(move || program.execute(table, &words).map_err(to_io));
        timeout(kernel::PATIENCE, ran).await?
    }

    /// Returns the rules of a chain, policy first; nothing where there is no such chain, or no such program.
    ///
    /// Where somebody else keeps it from the rules, that is an error: what could not be read is not absent.
    #[cfg(feature = "nftables")]
    pub(in crate::router) async fn list(
        self,
        table: &'static str,
        chain: &str,
    ) -> Result<Option<Vec<String>>, RouterError> {
        let rules = match self.run(table, format!("-S {chain}")).await {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Ok(output) if ABSENT.contains(&output.status.code()) => return Ok(None),
            ran => ran.and_then(|output| success(&output)),
        };
        let rules = rules.map_err(|source| RouterError::Io {
            what: format!(
                "read the rules of `{chain}` in the table `{table}` with `{}`",
                self.name
            ),
            source,
        })?;
        Ok(Some(rules.lines().map(str::to_owned).collect()))
    }

    /// Adds a rule.
    #[cfg(feature = "nftables")]
    pub(in crate::router) async fn add(self, hook: &Hook) -> Result<(), RouterError> {
        let Hook {
            table,
            chain,
            place,
            rule,
        } = hook;
        let words = match place {
            Place::First => format!("-I {chain} 1 {rule}"),
            Place::Last => format!("-A {chain} {rule}"),
        };
        self.change((table, chain), words, "add a rule to").await
    }

    /// Removes a rule that is there.
    pub(in crate::router) async fn remove(self, hook: &Hook) -> Result<(), RouterError> {
        let Hook {
            table,
            chain,
            place: _,
            rule,
        } = hook;
        let words = format!("-D {chain} {rule}");
        self.change((table, chain), words, "remove our rule from").await
    }

    async fn change(
        self,
        (table, chain): (&'static str, &str),
        words: String,
        what: &str,
    ) -> Result<(), RouterError> {
        let ran = self.run(table, words).await;
        let changed = ran.and_then(|output| success(&output));
        changed.map(drop).map_err(|source| RouterError::Io {
            what: format!("{what} `{chain}` in the table `{table}` with `{}`", self.name),
            source,
        })
    }
}
