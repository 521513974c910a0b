//! Single rules in chains that are not ours: asking for them, adding and removing them.
//!
//! Each is one run of a program, so this is for the handful of rules that let our packets pass or
//! are taken back. What leads to our own chains is written together with them elsewhere.

use super::super::kernel;
#[cfg(feature = "nftables")]
use crate::process::ProcessError;
use crate::process::Program;
use crate::router::RouterError;

/// How many seconds a program waits for others that change rules at the same time: Docker does whenever a container
/// starts. After that it says who is in the way, and fails.
pub(super) const WAIT: [&str; 2] = ["-w", "30"];

/// How a program ends that somebody else has kept from the rules.
#[cfg(feature = "nftables")]
const KEPT_OUT: i32 = 4;

/// A program by which single rules are asked for and added: `iptables` or one like it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::router) struct Tool {
    name: &'static str,
}

macro_rules! tools {
    ($($tool:ident $name:literal)*) => {
        impl Tool {$(
            pub(in crate::router) const $tool: Self = Self { name: $name };
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

impl Tool {
    pub(in crate::router) fn name(self) -> &'static str {
        self.name
    }

    fn program(self, table: &str) -> Program {
        Program::new(self.name).arguments(WAIT).arguments(["-t", table])
    }

    /// Returns the rules of a chain, policy first; nothing where there is no such chain, or no such program.
    ///
    /// Where somebody else keeps it from the rules, that is an error: what could not be read is not absent.
    #[cfg(feature = "nftables")]
    pub(in crate::router) async fn list(
        self,
        table: &str,
        chain: &str,
    ) -> Result<Option<Vec<String>>, RouterError> {
        let failed = |source| RouterError::Program {
            what: format!(
                "read the rules of `{chain}` in the table `{table}` with `{}`",
                self.name
            ),
            source,
        };
        let ran = self.program(table).arguments(["-S", chain]);
        let output = match kernel::end(ran, "").await {
            Err(ProcessError::NotFound { .. }) => return Ok(None),
            other => other.map_err(failed)?,
        };
        if !output.status.success() && output.status.code() != Some(KEPT_OUT) {
            return Ok(None);
        }
        let rules = output.success().map_err(failed)?;
        let rules = String::from_utf8_lossy(&rules);
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
        let program = self.program(table);
        let program = match place {
            Place::First => program.arguments(["-I", chain, "1"]),
            Place::Last => program.arguments(["-A", chain]),
        };
        let what = format!(
            "add a rule to `{chain}` in the table `{table}` with `{}`",
            self.name
        );
        drop(kernel::run(program.arguments(rule.split_whitespace()), "", &what).await?);
        Ok(())
    }

    /// Removes a rule that is there.
    pub(in crate::router) async fn remove(self, hook: &Hook) -> Result<(), RouterError> {
        let Hook {
            table,
            chain,
            place: _,
            rule,
        } = hook;
        let program = self.program(table).arguments(["-D", chain]);
        let what = format!(
            "remove our rule from `{chain}` in the table `{table}` with `{}`",
            self.name
        );
        drop(kernel::run(program.arguments(rule.split_whitespace()), "", &what).await?);
        Ok(())
    }
}
