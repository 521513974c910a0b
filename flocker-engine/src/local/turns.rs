//! Taking turns: one action at a time on one dataset, one application, the routes and the trash.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::PoisonError;
use std::time::Duration;

use flocker_model::ApplicationName;
use flocker_model::DatasetId;
use tokio::sync::OwnedRwLockReadGuard;
use tokio::sync::OwnedRwLockWriteGuard;
use tokio::sync::RwLock;

use crate::node_error::NodeError;
use crate::sync::Mutex;
use crate::sync::timeout;

/// What actions take turns on. An action that needs two takes them in this order.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Subject {
    Application(ApplicationName),
    Dataset(DatasetId),
    Routes,
    Trash,
}

impl Subject {
    fn wait(&self) -> String {
        match self {
            Self::Application(application) => format!("another order about `{application}`"),
            Self::Dataset(dataset) => format!("another order about dataset `{dataset}`"),
            Self::Routes => "another change of the routes".into(),
            Self::Trash => "another order about the trash".into(),
        }
    }
}

/// How an action uses its subject.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Use {
    /// It only relies on it: others that do may go on at once.
    Shared,
    /// It changes it.
    Alone,
}

/// A turn; it ends when this is dropped.
#[derive(Debug)]
#[expect(dead_code, reason = "the guards are held, never read")]
pub(crate) enum Turn {
    Shared(OwnedRwLockReadGuard<()>),
    Alone(OwnedRwLockWriteGuard<()>),
}

/// Gives turns.
#[derive(Debug, Default)]
pub(crate) struct Turns(Mutex<BTreeMap<Subject, Arc<RwLock<()>>>>);

impl Turns {
    /// Returns when it is this order's turn.
    pub(crate) async fn take(
        &self,
        subject: Subject,
        how: Use,
        patience: Duration,
    ) -> Result<Turn, NodeError> {
        let lock = {
            let mut locks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            locks.retain(|_, lock| Arc::strong_count(lock) > 1);
            Arc::clone(locks.entry(subject.clone()).or_default())
        };
        let turn = async {
            match how {
                Use::Shared => Turn::Shared(lock.read_owned().await),
                Use::Alone => Turn::Alone(lock.write_owned().await),
            }
        };
        timeout(patience, turn).await.map_err(|_| NodeError::Deadline {
            what: subject.wait(),
            after: patience,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    const PATIENCE: Duration = Duration::from_secs(10);

    fn subjects() -> [(Subject, &'static str); 4] {
        [
            (
                Subject::Application("mongodb".parse().unwrap()),
                "another order about `mongodb`",
            ),
            (
                Subject::Dataset(DatasetId(Uuid::nil())),
                "another order about dataset `00000000-0000-0000-0000-000000000000`",
            ),
            (Subject::Routes, "another change of the routes"),
            (Subject::Trash, "another order about the trash"),
        ]
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_in_vain_is_told_for_what() {
        let turns = Turns::default();
        for (subject, what) in subjects() {
            let _taken = turns.take(subject.clone(), Use::Alone, PATIENCE).await.unwrap();
            for how in [Use::Alone, Use::Shared] {
                let refusal = turns.take(subject.clone(), how, PATIENCE).await.unwrap_err();
                let told = NodeError::Deadline {
                    what: what.into(),
                    after: PATIENCE,
                };
                assert_eq!(refusal, told);
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_nobody_takes_turns_on_any_more_is_not_kept() {
        let turns = Turns::default();
        for (subject, _) in subjects() {
            let first = turns.take(subject.clone(), Use::Shared, PATIENCE).await;
            let second = turns.take(subject, Use::Shared, PATIENCE).await;
            assert!(first.is_ok() && second.is_ok(), "they may go on at once");
            assert_eq!(turns.0.lock().unwrap().len(), 1);
        }
    }
}
