//! Orders that arrive late.

use std::sync::PoisonError;

use flocker_model::NodeName;

use super::cluster::Cluster;
use crate::local::Session;
use crate::node::Order;

/// An order that was sent to a node.
#[derive(Clone, Debug)]
pub(super) struct Sent {
    number: u64,
    pub(super) node: NodeName,
    pub(super) order: Order,
    /// Over which connection it was sent, where that is known.
    pub(super) session: Option<Session>,
    pub(super) is_answered: bool,
}

/// How many of the orders that were sent last may still arrive.
const MAX_LATE: usize = 40;

impl Cluster {
    pub(super) fn orders(&self) -> Vec<Sent> {
        self.orders.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Keeps an order, so that it can arrive again late; returns its number, where it was kept.
    pub(crate) fn keep_order(&self, node: &NodeName, order: &Order, session: Option<Session>) -> Option<u64> {
        if !self.troubles().keeps_orders {
            return None;
        }
        let mut orders = self.orders.lock().unwrap_or_else(PoisonError::into_inner);
        let number = orders.last().map_or(0, |last| last.number) + 1;
        if orders.len() == MAX_LATE {
            orders.remove(0);
        }
        orders.push(Sent {
            number,
            node: node.clone(),
            order: order.clone(),
            session,
            is_answered: false,
        });
        Some(number)
    }

    /// Notes that an order was answered: it does not arrive later.
    pub(crate) fn note_answer(&self, number: Option<u64>) {
        let mut orders = self.orders.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(sent) = orders.iter_mut().find(|sent| Some(sent.number) == number) {
            sent.is_answered = true;
        }
    }
}
