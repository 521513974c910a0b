//! The gate that every order goes through: no order of an older generation is under way once a newer one is obeyed.
//!
//! This makes a renunciation a real fence. Without it, an acquisition of the
//! generation before could be half way through while the new one says that it
//! will never happen.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::PoisonError;
use std::time::Duration;

use flocker_model::Generation;
use flocker_model::planted::Bug;
use flocker_model::planted::is_planted;

use crate::node_error::NodeError;
use crate::sync::Mutex;
use crate::sync::MutexGuard;
use crate::sync::Notify;
use crate::sync::timeout;

/// Who is inside, by generation.
#[derive(Debug, Default)]
struct Inside {
    obeyed: Generation,
    orders: BTreeMap<Generation, usize>,
}

impl Inside {
    fn has_older(&self, generation: Generation) -> bool {
        self.orders.range(..generation).next().is_some()
    }
}

/// Lets orders in.
#[derive(Debug, Default)]
pub(crate) struct Gate {
    inside: Mutex<Inside>,
    changed: Notify,
}

impl Gate {
    /// Starts with the generation that was obeyed before.
    pub(crate) fn new(obeyed: Generation) -> Self {
        Self {
            inside: Mutex::new(Inside {
                obeyed,
                orders: BTreeMap::new(),
            }),
            changed: Notify::new(),
        }
    }

    fn inside(&self) -> MutexGuard<'_, Inside> {
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets an order in, or refuses it because a newer generation is obeyed.
    ///
    /// `record` writes a newer generation down, durably, before it is obeyed.
    /// Returns once no order of an older generation is inside.
    pub(crate) async fn enter(
        self: &Arc<Self>,
        generation: Generation,
        patience: Duration,
        record: impl FnOnce(Generation) -> Result<(), NodeError>,
    ) -> Result<Entry, NodeError> {
        let entry = {
            let mut inside = self.inside();
            if generation < inside.obeyed && !is_planted(Bug::OlderGenerationObeyed) {
                return Err(NodeError::Stale {
                    ours: inside.obeyed,
                    theirs: generation,
                });
            }
            if generation > inside.obeyed {
                if !is_planted(Bug::GenerationForgotten) {
                    record(generation)?;
                }
                inside.obeyed = generation;
            }
            *inside.orders.entry(generation).or_default() += 1;
            Entry {
                gate: Arc::clone(self),
                generation,
            }
        };
        self.changed.notify_waiters();
        let what = || format!("the end of the orders before generation {generation}");
        self.wait_until(what, patience, |inside| !inside.has_older(generation))
            .await?;
        // A still newer one may have come while this one waited; it waits for this one in turn.
        entry.check()?;
        Ok(entry)
    }

    /// Returns once nobody is inside.
    pub(crate) async fn drained(&self, patience: Duration) -> Result<(), NodeError> {
        self.wait_until(
            || "the end of the orders under way".into(),
            patience,
            |inside| inside.orders.is_empty(),
        )
        .await
    }

    async fn wait_until(
        &self,
        what: impl Fn() -> String,
        patience: Duration,
        test: impl Fn(&Inside) -> bool,
    ) -> Result<(), NodeError> {
        let wait = async {
            loop {
                let changed = self.changed.notified();
                tokio::pin!(changed);
                changed.as_mut().enable();
                if test(&self.inside()) {
                    return;
                }
                changed.await;
            }
        };
        timeout(patience, wait).await.map_err(|_| NodeError::Deadline {
            what: what(),
            after: patience,
        })
    }

    /// Returns the generation that is obeyed.
    pub(crate) fn obeyed(&self) -> Generation {
        self.inside().obeyed
    }
}

/// An order's presence inside; it leaves when this is dropped.
#[derive(Debug)]
pub(crate) struct Entry {
    gate: Arc<Gate>,
    generation: Generation,
}

impl Entry {
    fn check(&self) -> Result<(), NodeError> {
        let obeyed = self.gate.obeyed();
        if obeyed > self.generation && !is_planted(Bug::OlderGenerationObeyed) {
            Err(NodeError::Stale {
                ours: obeyed,
                theirs: self.generation,
            })
        } else {
            Ok(())
        }
    }

    /// Returns, with the refusal, once a newer generation wants in. A transfer, which can be resumed, leaves then.
    pub(crate) async fn superseded(&self) -> NodeError {
        loop {
            let changed = self.gate.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if let Err(refusal) = self.check() {
                return refusal;
            }
            changed.await;
        }
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        {
            let mut inside = self.gate.inside();
            if let Some(n_orders) = inside.orders.get_mut(&self.generation) {
                *n_orders -= 1;
                if *n_orders == 0 {
                    inside.orders.remove(&self.generation);
                }
            }
        }
        self.gate.changed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(10);

    async fn enter(gate: &Arc<Gate>, generation: u64) -> Result<Entry, NodeError> {
        gate.enter(Generation(generation), PATIENCE, |_| Ok(())).await
    }

    #[tokio::test(start_paused = true)]
    async fn an_older_generation_is_refused() {
        let gate = Arc::new(Gate::new(Generation(4)));
        let refusal = enter(&gate, 3).await.unwrap_err();
        assert_eq!(
            refusal,
            NodeError::Stale {
                ours: Generation(4),
                theirs: Generation(3)
            }
        );
        assert!(enter(&gate, 4).await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn a_newer_generation_waits_for_the_orders_of_older_ones() {
        let gate = Arc::new(Gate::default());
        let old = enter(&gate, 1).await.unwrap();
        let waiting = enter(&gate, 2);
        tokio::pin!(waiting);
        assert!(
            tokio::time::timeout(Duration::from_secs(1), &mut waiting)
                .await
                .is_err(),
            "the older order is still inside"
        );
        assert!(enter(&gate, 1).await.unwrap_err().is_stale());
        drop(old);
        assert!(waiting.await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn who_comes_too_late_is_not_kept_waiting_for_the_refusal() {
        let gate = Arc::new(Gate::default());
        let _oldest = enter(&gate, 1).await.unwrap();
        let newest = enter(&gate, 3);
        tokio::pin!(newest);
        let waited = tokio::time::timeout(Duration::from_secs(1), &mut newest).await;
        assert!(waited.is_err(), "the oldest order is still inside");
        assert!(enter(&gate, 2).await.unwrap_err().is_stale());
    }

    #[tokio::test(start_paused = true)]
    async fn a_wait_for_an_order_that_never_ends_has_a_limit() {
        let gate = Arc::new(Gate::default());
        let _old = enter(&gate, 1).await.unwrap();
        assert!(matches!(
            enter(&gate, 2).await.unwrap_err(),
            NodeError::Deadline { .. }
        ));
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_for_the_last_order_waits_until_it_ends() {
        let gate = Arc::new(Gate::default());
        let inside = enter(&gate, 1).await.unwrap();
        assert!(matches!(
            gate.drained(PATIENCE).await.unwrap_err(),
            NodeError::Deadline { .. }
        ));
        drop(inside);
        assert!(gate.drained(PATIENCE).await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_obeyed_already_is_not_recorded_again() {
        let gate = Arc::new(Gate::new(Generation(4)));
        let again = gate
            .enter(Generation(4), PATIENCE, |_| Err(NodeError::LockLost))
            .await;
        assert!(again.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn a_generation_that_could_not_be_recorded_is_not_obeyed() {
        let gate = Arc::new(Gate::default());
        let refused = gate
            .enter(Generation(2), PATIENCE, |_| Err(NodeError::LockLost))
            .await;
        assert!(refused.is_err());
        assert_eq!(gate.obeyed(), Generation(0));
    }
}
