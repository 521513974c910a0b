//! What the operator allows, as it is typed.

use std::time::Duration;

use clap::Args;
use flocker_model::ByteSize;
use flocker_plan::CutOver;
use flocker_plan::Policy;
use flocker_plan::Rates;
use flocker_plan::StopAll;

use crate::cli;
use crate::error::Failure;

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
    pub(crate) fn policy(&self) -> Result<Policy, Failure> {
        let mut policy = Policy::default();
        if let Some(downtime) = self.max_downtime {
            check(downtime, &policy.rates)?;
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
        Ok(policy)
    }

    pub(crate) fn bandwidth(&self) -> Option<ByteSize> {
        self.bandwidth
    }
}

/// Refuses a pause in which nothing can move, however little there is to copy: copies would be made in vain.
fn check(downtime: Duration, rates: &Rates) -> Result<(), Failure> {
    let least = rates.downtime(ByteSize(0), Duration::ZERO);
    if downtime >= least {
        return Ok(());
    }
    let mut failure = Failure::usage(format!(
        "nothing moves with a pause of {}: {} is the shortest that is forecast",
        millis(downtime),
        millis(least)
    ))
    .hint("`--max-downtime 1s` leaves something for what is copied in the pause; `--hold` copies and does not cut over");
    failure.causes = vec![format!(
        "with nothing left to copy, {} are counted for the stop, {} for the hand-off, {} for the start and {} for the routes",
        millis(rates.stop),
        millis(rates.hand_off),
        millis(rates.start),
        millis(rates.route)
    )];
    Err(failure)
}

fn millis(duration: Duration) -> String {
    format!("{} ms", duration.as_millis())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_in_which_nothing_can_move_is_refused_with_what_it_is_made_of() {
        let rates = Policy::default().rates;
        let least = rates.downtime(ByteSize(0), Duration::ZERO);
        check(least, &rates).unwrap();
        for too_short in [Duration::ZERO, least.saturating_sub(Duration::from_millis(1))] {
            let failure = check(too_short, &rates).unwrap_err();
            assert!(failure.message.contains("500 ms is the shortest"), "{failure}");
            assert!(
                failure.causes[0].contains("250 ms for the start"),
                "{:?}",
                failure.causes
            );
        }
    }
}
