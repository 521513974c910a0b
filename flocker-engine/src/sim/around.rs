//! Mishaps that do not strike the effect itself, but what is around it.

use flocker_model::ByteSize;
use flocker_model::NodeName;

use super::cluster::Cluster;
use super::cluster::OPERATOR;
use super::cluster::directory;
use super::harm::Harm;
use super::mishap::Mishap;
use crate::node::NodeHandle as _;
use crate::node::Unwatched;
use crate::record::RecordStore as _;

impl Cluster {
    /// Lets a mishap happen around the acting node.
    pub(super) fn strike_around(&self, name: &NodeName, mishap: Mishap) {
        let Some(machine) = self.machines.get(name) else {
            return;
        };
        match mishap {
            Mishap::SmallDisk(room) => {
                let used: usize = machine
                    .memory
                    .contents()
                    .values()
                    .flatten()
                    .map(|(_, b)| b.len())
                    .sum();
                let capacity = (used as u64).saturating_add(room.into());
                machine.memory.set_capacity(Some(ByteSize(capacity)));
            }
            Mishap::SlowNode(orders) => {
                self.troubles().slow.insert(name.clone(), orders);
            }
            Mishap::Cut => {
                for other in self.machines.keys().filter(|other| *other != name) {
                    self.network.cut(directory(name), directory(other));
                }
                self.network.cut(directory(name), OPERATOR);
            }
            Mishap::CutAfter(distance, bytes) => {
                let other = self.other(name, distance);
                self.network
                    .cut_after(directory(name), directory(&other), bytes.into());
            }
            Mishap::Damage(place) => machine.volumes.set(Some(Harm::Damage(place.into()))),
            Mishap::Truncation(place) => machine.volumes.set(Some(Harm::Truncation(place.into()))),
            Mishap::Parting(distance, after) => {
                let (one, other) = (directory(name), directory(&self.other(name, distance)));
                self.network.part(&one, &other);
                self.passes(after, move |cluster| cluster.network.join(one, other));
            }
            Mishap::PartingFromOperator(after) => {
                self.network.part(directory(name), OPERATOR);
                self.troubles().unreached.insert(name.clone());
                let name = name.clone();
                self.passes(after, move |cluster| {
                    cluster.network.join(directory(&name), OPERATOR);
                    cluster.troubles().unreached.remove(&name);
                });
            }
            Mishap::Sickness(after) => {
                self.troubles().sick.insert(name.clone());
                let name = name.clone();
                self.passes(after, move |cluster| {
                    cluster.troubles().sick.remove(&name);
                });
            }
            Mishap::SecondCommand | Mishap::OlderCommand => {
                self.troubles().second = Some(mishap);
                self.second.notify_one();
            }
            Mishap::StaleOrder => self.deliver_late(),
            Mishap::PowerLoss(..)
            | Mishap::ProcessKill(..)
            | Mishap::OtherPowerLoss(..)
            | Mishap::OtherReboot(_)
            | Mishap::CommandKill(_)
            | Mishap::LostReply
            | Mishap::Failure
            | Mishap::NoRoom
            | Mishap::Hang
            | Mishap::Slow(_) => {}
        }
    }

    /// Delivers every order that a node must not obey any more once again: each has to be refused (I4).
    fn deliver_late(&self) {
        for (name, order) in self.orders() {
            let Some(machine) = self.machines.get(&name) else {
                continue;
            };
            let record = machine.record.load().ok().flatten();
            let obeyed = record.map(|record| record.generation).unwrap_or_default();
            let Some(local) = self.program(&name).filter(|_| order.generation < obeyed) else {
                continue;
            };
            let me = self.me();
            self.aside(async move {
                let done = local.perform(&order, &Unwatched).await;
                if let (Ok(change), Some(cluster)) = (done, me.upgrade()) {
                    let action = &order.action;
                    let older = order.generation.0;
                    cluster.break_by(format!(
                        "I4: {name} obeyed `{} {action}` of generation {older} ({change:?}) while it obeys {}",
                        action.verb(),
                        obeyed.0
                    ));
                }
            });
        }
    }
}
