//! One rule in the older packet filter, for hosts where that one drops what is forwarded.
//!
//! Several filters may look at one packet, and it is dropped if any of them
//! says so: that ours lets it pass is not enough where Docker or `ufw` has
//! made the policy of `iptables` a refusal. Where nobody uses that filter, it is
//! left alone.

use super::iptables::hooks::Hook;
use super::iptables::hooks::Place;
use super::iptables::hooks::Tool;
use super::kernel::PASS_MARK;
use super::kernel::netlink::GET_CHAIN;
use super::kernel::netlink::Kept;
use super::kernel::switch::has_oldest_tables;
use crate::router::RouterError;

/// The name by which our rule is known again.
const NAME: &str = "flocker:pass";

/// The filters of both kinds of addresses, and what the kernel calls each kind.
const TOOLS: [(Tool, u8); 2] = [(Tool::HOST_V4, 2), (Tool::HOST_V6, 10)];

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

/// Says whether there may be rules that `nf_tables` knows nothing of, and does not count the changes of.
pub(super) fn has_oldest_filter() -> bool {
    has_oldest_tables(&["filter"])
}

/// Says whether there is a filter that may drop what is forwarded. To ask the program instead would take as long as all else.
fn is_there(netlink: &Kept, family: u8) -> bool {
    let names = [(1, "filter"), (3, "FORWARD")];
    let asked = netlink.with(|netlink| netlink.has(GET_CHAIN, family, &names));
    has_oldest_filter() || asked.unwrap_or(true)
}

/// Returns what is missing.
async fn missing(netlink: &Kept) -> Result<Vec<(Tool, Hook)>, RouterError> {
    let mut missing = Vec::new();
    for (tool, family) in TOOLS {
        if !is_there(netlink, family) {
            continue;
        }
        // Without a program, or a filter that it knows, nothing is dropped.
        let Some(forward) = tool.list("filter", "FORWARD").await? else {
            continue;
        };
        let others = forward.iter().filter(|rule| !rule.contains(NAME));
        let is_used = others.clone().any(|rule| rule != "-P FORWARD ACCEPT");
        if !is_used {
            continue;
        }
        for chain in CHAINS {
            let rules = match chain {
                "FORWARD" => Some(forward.clone()),
                _ if forward.iter().any(|rule| rule.ends_with(&format!("-j {chain}"))) => {
                    tool.list("filter", chain).await?
                }
                _ => None,
            };
            if rules.is_some_and(|rules| !rules.iter().any(|rule| rule.contains(NAME))) {
                missing.push((tool, hook(chain)));
            }
        }
    }
    Ok(missing)
}

/// Says whether our packets pass.
pub(super) async fn is_open(netlink: &Kept) -> Result<bool, RouterError> {
    Ok(missing(netlink).await?.is_empty())
}

/// Lets our packets pass.
pub(super) async fn open(netlink: &Kept) -> Result<(), RouterError> {
    for (tool, hook) in missing(netlink).await? {
        tool.add(&hook).await?;
    }
    Ok(())
}

/// Takes the rule back wherever it is.
pub(super) async fn close() -> Result<(), RouterError> {
    for (tool, _) in TOOLS {
        for chain in CHAINS {
            let rules = tool.list("filter", chain).await?.unwrap_or_default();
            if rules.iter().any(|rule| rule.contains(NAME)) {
                tool.remove(&hook(chain)).await?;
            }
        }
    }
    Ok(())
}
