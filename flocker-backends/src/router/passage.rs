//! One rule in the older packet filter, for hosts where that one drops what is forwarded.
//!
//! Several filters may look at one packet, and it is dropped if any of them
//! says so: that ours lets it pass is not enough where Docker or `ufw` has
//! made the policy of `iptables` a refusal. Where nobody uses that filter, it is
//! left alone.

use std::io;

use super::iptables::hooks::Hook;
use super::iptables::hooks::Place;
use super::iptables::hooks::Tool;
use super::kernel::PASS_MARK;

/// The name by which our rule is known again.
const NAME: &str = "flocker:pass";

/// The filters of both kinds of addresses.
const TOOLS: [Tool; 2] = [Tool::HOST_V4, Tool::HOST_V6];

/// The chains in which the rule has to stand. The second is the one that Docker keeps before its own rules for those of others.
const CHAINS: [&str; 2] = ["FORWARD", "DOCKER-USER"];

fn hook(chain: &'static str) -> Hook {
    Hook {
        table: "filter",
        chain,
        place: Place::First,
        rule: format!("-m mark --mark {PASS_MARK:#x}/{PASS_MARK:#x} -m comment --comment {NAME} -j ACCEPT"),
    }
}

/// Returns what is missing. Blocks.
fn missing() -> io::Result<Vec<(Tool, Hook)>> {
    let mut missing = Vec::new();
    for tool in TOOLS {
        // A filter that cannot be asked is not there, and drops nothing.
        let Ok(forward) = tool.list("filter", "FORWARD") else {
            continue;
        };
        let others = forward.iter().filter(|rule| !rule.contains(NAME));
        let is_used = others.clone().any(|rule| rule != "-P FORWARD ACCEPT");
        if !is_used {
            continue;
        }
        for chain in CHAINS {
            let rules = match chain {
                "FORWARD" => forward.clone(),
                _ if forward.iter().any(|rule| rule.ends_with(&format!("-j {chain}"))) => {
                    tool.list("filter", chain)?
                }
                _ => continue,
            };
            if !rules.iter().any(|rule| rule.contains(NAME)) {
                missing.push((tool, hook(chain)));
            }
        }
    }
    Ok(missing)
}

/// Says whether there may be rules that `nf_tables` knows nothing of, and does not count the changes of.
pub(super) fn has_oldest_tables() -> bool {
    ["ip_tables_names", "ip6_tables_names"].iter().any(|file| {
        // The network of this thread may be another than that of the process.
        match std::fs::read_to_string(format!("/proc/thread-self/net/{file}")) {
            Ok(names) => names.lines().any(|name| name == "filter"),
            Err(error) => error.kind() != io::ErrorKind::NotFound,
        }
    })
}

/// Says whether our packets pass. Blocks.
pub(super) fn is_open() -> io::Result<bool> {
    Ok(missing()?.is_empty())
}

/// Lets our packets pass. Blocks.
pub(super) fn open() -> io::Result<()> {
    missing()?
        .into_iter()
        .try_for_each(|(tool, hook)| tool.add(&hook))
}

/// Takes the rule back wherever it is. Blocks.
pub(super) fn close() -> io::Result<()> {
    for tool in TOOLS {
        for chain in CHAINS {
            let Ok(rules) = tool.list("filter", chain) else {
                continue;
            };
            if rules.iter().any(|rule| rule.contains(NAME)) {
                tool.remove(&hook(chain))?;
            }
        }
    }
    Ok(())
}
