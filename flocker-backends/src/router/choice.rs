//! Choosing the router that works on this node.

use std::net::IpAddr;
use std::sync::Arc;

#[cfg(feature = "iptables")]
use super::iptables::IptablesRouter;
#[cfg(feature = "iptables")]
use super::iptables::Variant;
#[cfg(feature = "nftables")]
use super::nftables::NftablesRouter;
use crate::router::Router;
use crate::router::RouterError;

/// Which kernel router is wanted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Preference {
    /// `nft` where it works, else `iptables`.
    #[default]
    Auto,
    /// `nft` or none.
    #[cfg(feature = "nftables")]
    Nftables,
    /// `iptables` or none.
    #[cfg(feature = "iptables")]
    Iptables,
}

/// A router that works here.
enum Working {
    #[cfg(feature = "nftables")]
    Nftables(NftablesRouter),
    #[cfg(feature = "iptables")]
    Iptables(IptablesRouter),
}

/// Returns the router of the node with this address, after it was tried out without changing anything.
///
/// Refused where none of those that may be chosen works: the programs are not
/// installed, are too old, or we lack the privilege. Whatever another router
/// of ours left on this node is taken back, so that no two of them carry the same port; where that fails, it is refused.
pub async fn choose(preference: Preference, node_address: IpAddr) -> Result<Arc<dyn Router>, RouterError> {
    match find(preference, node_address).await? {
        #[cfg(feature = "nftables")]
        Working::Nftables(router) => {
            #[cfg(feature = "iptables")]
            take_back(
                IptablesRouter::new(node_address, Variant::Host).withdraw().await,
                "iptables",
            )?;
            Ok(Arc::new(router))
        }
        #[cfg(feature = "iptables")]
        Working::Iptables(router) => {
            #[cfg(feature = "nftables")]
            take_back(NftablesRouter::new(node_address).withdraw().await, "nft")?;
            Ok(Arc::new(router))
        }
    }
}

/// Returns the name of the router that [`choose`] would find to work, or its refusal. Nothing is changed.
pub async fn try_out(preference: Preference, node_address: IpAddr) -> Result<&'static str, RouterError> {
    Ok(match find(preference, node_address).await? {
        #[cfg(feature = "nftables")]
        Working::Nftables(_) => "nftables",
        #[cfg(feature = "iptables")]
        Working::Iptables(_) => "iptables",
    })
}

async fn find(preference: Preference, node_address: IpAddr) -> Result<Working, RouterError> {
    let mut tried = Vec::new();
    #[cfg(feature = "nftables")]
    if is_wanted_nftables(preference) {
        let router = NftablesRouter::new(node_address);
        match router.try_out().await {
            Ok(()) => return Ok(Working::Nftables(router)),
            Err(error) => tried.push(told(&error)),
        }
    }
    #[cfg(feature = "iptables")]
    if is_wanted_iptables(preference) {
        let router = IptablesRouter::new(node_address, Variant::Host);
        match router.try_out().await {
            Ok(()) => return Ok(Working::Iptables(router)),
            Err(error) => tried.push(told(&error)),
        }
    }
    Err(RouterError::NoFilter {
        tried: tried.join("; "),
    })
}

#[cfg(feature = "nftables")]
fn is_wanted_nftables(preference: Preference) -> bool {
    match preference {
        Preference::Auto | Preference::Nftables => true,
        #[cfg(feature = "iptables")]
        Preference::Iptables => false,
    }
}

#[cfg(feature = "iptables")]
fn is_wanted_iptables(preference: Preference) -> bool {
    match preference {
        Preference::Auto | Preference::Iptables => true,
        #[cfg(feature = "nftables")]
        Preference::Nftables => false,
    }
}

/// A program that is not installed has left nothing behind that could be taken back: where what it made is seen in the kernel
/// all the same, that is another error. After any other failure, what the other router has made may still be in force.
#[cfg(all(feature = "nftables", feature = "iptables"))]
fn take_back(
    withdrawn: Result<crate::change::Change, RouterError>,
    program: &'static str,
) -> Result<(), RouterError> {
    use crate::process::ProcessError;

    match withdrawn {
        Ok(_)
        | Err(RouterError::Program {
            source: ProcessError::NotFound { .. },
            ..
        }) => Ok(()),
        Err(source) => Err(RouterError::TwoRouters {
            program,
            source: Box::new(source),
        }),
    }
}

fn told(error: &RouterError) -> String {
    let mut told = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        told.push_str(": ");
        told.push_str(&cause.to_string());
        source = cause.source();
    }
    told
}
