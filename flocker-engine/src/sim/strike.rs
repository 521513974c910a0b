//! Mishaps that strike an effect, or the machine that makes it.

use flocker_backends::memory::Fault;
use flocker_model::NodeName;

use super::cluster::Cluster;
use super::mishap::Mishap;
use super::mishap::When;

impl Cluster {
    /// Returns the node at a distance from another, in order of name.
    pub(super) fn other(&self, name: &NodeName, distance: usize) -> NodeName {
        let position = self.machines.keys().position(|other| other == name).unwrap_or(0);
        let n_nodes = self.machines.len();
        let far = 1 + distance % n_nodes.saturating_sub(1).max(1);
        let other = self.machines.keys().nth((position + far) % n_nodes);
        other.unwrap_or(name).clone()
    }

    /// Lets a mishap happen; returns what of it happens to the effect itself.
    pub(super) fn strike(&self, name: &NodeName, mishap: Mishap) -> Option<Fault> {
        match mishap {
            Mishap::PowerLoss(when, back) => {
                self.falls(name, back);
                Some(match when {
                    When::Before => Fault::PowerLossBefore,
                    When::After => Fault::PowerLossAfter,
                })
            }
            Mishap::ProcessKill(when, back) => {
                self.falls(name, back);
                Some(match when {
                    When::Before => Fault::KillBefore,
                    When::After => Fault::KillAfter,
                })
            }
            Mishap::OtherPowerLoss(distance, back) => {
                let other = self.other(name, distance);
                if other != *name {
                    self.take_power(&other);
                    self.falls(&other, back);
                }
                None
            }
            Mishap::OtherReboot(distance) => {
                let other = self.other(name, distance);
                if other != *name {
                    self.take_power(&other);
                    self.start(&other);
                }
                None
            }
            Mishap::CommandKill(when) => {
                self.kill.notify_one();
                // It hangs until the command that waits for it is gone.
                (when == When::Before).then_some(Fault::Hang)
            }
            Mishap::LostReply => Some(Fault::LoseReply),
            Mishap::Failure => Some(Fault::Fail),
            Mishap::NoRoom => Some(Fault::DiskFull),
            Mishap::Hang => Some(Fault::Hang),
            Mishap::Slow(turns) => Some(Fault::Slow { turns }),
            Mishap::SmallDisk(_)
            | Mishap::SlowNode(_)
            | Mishap::Cut
            | Mishap::CutAfter(..)
            | Mishap::Damage(_)
            | Mishap::Truncation(_)
            | Mishap::Parting(..)
            | Mishap::PartingFromOperator(_)
            | Mishap::Sickness(_)
            | Mishap::SecondCommand
            | Mishap::OlderCommand
            | Mishap::StaleOrder
            | Mishap::LateOrders
            | Mishap::StaleLook
            | Mishap::HiddenLook
            | Mishap::BrokenList(_)
            | Mishap::ClockJump(_) => {
                self.strike_around(name, mishap);
                None
            }
        }
    }
}
