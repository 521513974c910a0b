//! What the operator allows, as it is typed.

use std::time::Duration;

use clap::Args;
use flocker_model::ByteSize;
use flocker_plan::CutOver;
use flocker_plan::Policy;
use flocker_plan::StopAll;

use crate::cli;

/// What the operator allows.
#[derive(Clone, Debug, Args)]
pub(crate) struct Allowed {
    /// How long an application may be away while it moves
    #[arg(long, value_name = "DURATION", value_parser = cli::duration)]
    max_downtime: Option<Duration>,
    /// How many bytes one copy may send in a second, such as 50M
    #[arg(long, value_name = "BYTES", value_parser = cli::bandwidth)]
    bandwidth: Option<ByteSize>,
    /// Copy, and leave the cut-over for `flocker cutover`
    #[arg(long)]
    hold: bool,
    /// Stop more than half of what runs, if the files say so
    #[arg(long)]
    allow_stop_all: bool,
}

impl Allowed {
    /// Returns what is allowed, with the defaults for what was not said.
    pub(crate) fn policy(&self) -> Policy {
        let mut policy = Policy::default();
        if let Some(downtime) = self.max_downtime {
            policy.max_downtime = downtime;
        }
        if let Some(bandwidth) = self.bandwidth {
            policy.rates.bytes_per_second = policy.rates.bytes_per_second.min(bandwidth);
        }
        if self.hold {
            policy.cut_over = CutOver::Hold;
        }
        if self.allow_stop_all {
            policy.stop_all = StopAll::Allow;
        }
        policy
    }

    pub(crate) fn bandwidth(&self) -> Option<ByteSize> {
        self.bandwidth
    }
}
