//! Mishaps that do not strike the effect itself, but what is around it.

use std::time::Duration;

use flocker_model::ByteSize;
use flocker_model::NodeName;
use flocker_plan::Action;

use super::cluster::Cluster;
use super::cluster::OPERATOR;
use super::cluster::directory;
use super::harm::Harm;
use super::late::Sent;
use super::mishap::Mishap;
use super::sieve::Perturbation;
use crate::local::Session;
use crate::node::NodeHandle as _;
use crate::node::Unwatched;

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
            Mishap::StaleOrder => self.deliver_stale(),
            Mishap::LateOrders => self.deliver_late(),
            Mishap::StaleLook => self.looks().mislead(name, Perturbation::Stale),
            Mishap::HiddenLook => self.looks().mislead(name, Perturbation::Unobserved),
            Mishap::BrokenList(n_lists) => machine.volumes.unlist(n_lists),
            Mishap::ClockJump(hours) => {
                machine
                    .memory
                    .advance(Duration::from_secs(3600 * u64::from(hours)));
            }
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
    fn deliver_stale(&self) {
        for Sent {
            node: name,
            mut order,
            ..
        } in self.orders()
        {
            order.lock = None;
            order.ticket = None;
            let Some(machine) = self.machines.get(&name) else {
                continue;
            };
            let obeyed = machine.record.generation();
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

    /// Delivers what was sent and never answered, as it was sent. Whatever comes of it must be safe.
    ///
    /// Most come as if over the connection by which their lock is held now,
    /// which none of ours can: they are safe all the same. Routes have no order
    /// of their own, and come over the connection that they were sent on.
    fn deliver_late(&self) {
        for Sent {
            node,
            order,
            session,
            is_answered,
            ..
        } in self.orders()
        {
            let is_route = matches!(order.action, Action::Route { .. });
            if is_answered || (is_route && session.is_none()) {
                continue;
            }
            let Some(local) = self.program(&node) else {
                continue;
            };
            let held_over = order.lock.and_then(|token| local.session_of(token));
            let session = session.filter(|_| is_route).or(held_over);
            self.aside(async move {
                let session = session.unwrap_or(Session::HERE);
                // To be refused is as good as to be done.
                drop(local.perform_over(session, &order, &Unwatched).await);
            });
        }
    }
}
