//! Tickets: which transfers may come in, once each, and not for long.

use std::collections::BTreeMap;
use std::sync::PoisonError;
use std::time::Duration;

use flocker_backends::ErrorClass;
use flocker_model::DatasetId;
use flocker_model::Generation;
use flocker_model::SnapshotName;
use tokio::time::Instant;

use super::doors::Doorstop;
use crate::clock;
use crate::fault::Fault;
use crate::node::Pass;
use crate::node::Transfer;
use crate::node_error::NodeError;
use crate::sync::Mutex;

/// How many tickets may be open at once.
const MAX_OPEN: usize = 1024;

/// A transfer that may come in.
#[derive(Debug)]
pub(crate) struct Admitted {
    pub(crate) transfer: Transfer,
    pub(crate) generation: Generation,
    expires: Instant,
    /// It goes away with the ticket: a door is open no longer than its ticket is good.
    _doorstop: Option<Doorstop>,
}

/// The open tickets.
#[derive(Debug, Default)]
pub(crate) struct Admissions(Mutex<BTreeMap<Pass, Admitted>>);

impl Admissions {
    /// Opens a ticket, and closes an unused one for the same dataset. Who has a door for it is told the pass.
    pub(crate) fn open(
        &self,
        transfer: &Transfer,
        generation: Generation,
        lifetime: Duration,
        watch: impl FnOnce(Pass) -> Option<Doorstop>,
    ) -> Result<Pass, NodeError> {
        let mut bytes = [0; 16];
        getrandom::fill(&mut bytes).map_err(|error| {
            let cause = std::io::Error::other(error);
            NodeError::Backend(Fault::with_class(&cause, ErrorClass::Transient))
        })?;
        let pass = Pass(u128::from_be_bytes(bytes));
        let now = clock::now();
        let mut open = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        open.retain(|_, admitted| {
            admitted.expires > now && admitted.transfer.dataset.id != transfer.dataset.id
        });
        if open.len() >= MAX_OPEN {
            return Err(NodeError::NotAdmitted {
                reason: format!("{MAX_OPEN} transfers are announced already"),
            });
        }
        open.insert(
            pass,
            Admitted {
                transfer: transfer.clone(),
                generation,
                expires: now + lifetime,
                _doorstop: watch(pass),
            },
        );
        Ok(pass)
    }

    /// Takes a ticket in. Whatever is presented with it, it is good for no second time.
    pub(crate) fn redeem(
        &self,
        pass: Pass,
        dataset: DatasetId,
        snapshot: &SnapshotName,
    ) -> Result<Admitted, NodeError> {
        let refuse = |reason: &str| {
            Err(NodeError::NotAdmitted {
                reason: reason.into(),
            })
        };
        let taken = self
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&pass);
        let Some(admitted) = taken else {
            return refuse("its ticket is not known, or was used");
        };
        if admitted.expires <= clock::now() {
            return refuse("its ticket has expired");
        }
        if admitted.transfer.dataset.id != dataset {
            return refuse("its ticket is for another dataset");
        }
        if admitted.transfer.snapshot != *snapshot {
            return refuse("its ticket is for another snapshot");
        }
        Ok(admitted)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use flocker_model::Dataset;
    use uuid::Uuid;

    fn transfer() -> Transfer {
        Transfer {
            dataset: Dataset {
                id: DatasetId(Uuid::from_u128(1)),
                owner: "mongodb".parse().unwrap(),
                maximum_size: None,
            },
            snapshot: "warm-2-1".parse().unwrap(),
            base: None,
            sender: None,
        }
    }

    const LIFETIME: Duration = Duration::from_secs(60);

    #[tokio::test(start_paused = true)]
    async fn a_ticket_is_good_once_and_only_for_what_it_says() {
        let admissions = Admissions::default();
        let transfer = transfer();
        let (dataset, snapshot) = (transfer.dataset.id, &transfer.snapshot);
        let open = || {
            admissions
                .open(&transfer, Generation(1), LIFETIME, |_| None)
                .unwrap()
        };

        let pass = open();
        assert!(admissions.redeem(pass, dataset, snapshot).is_ok());
        assert!(admissions.redeem(pass, dataset, snapshot).is_err());

        let other = DatasetId(Uuid::from_u128(2));
        let pass = open();
        assert!(admissions.redeem(pass, other, snapshot).is_err());
        assert!(
            admissions.redeem(pass, dataset, snapshot).is_err(),
            "it was presented once"
        );

        let pass = open();
        assert!(
            admissions
                .redeem(pass, dataset, &"warm-2-2".parse().unwrap())
                .is_err()
        );

        let pass = open();
        tokio::time::advance(LIFETIME).await;
        assert!(admissions.redeem(pass, dataset, snapshot).is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn a_second_announcement_closes_the_first() {
        let admissions = Admissions::default();
        let transfer = transfer();
        let first = admissions
            .open(&transfer, Generation(1), LIFETIME, |_| None)
            .unwrap();
        let second = admissions
            .open(&transfer, Generation(1), LIFETIME, |_| None)
            .unwrap();
        assert!(
            admissions
                .redeem(first, transfer.dataset.id, &transfer.snapshot)
                .is_err()
        );
        assert!(
            admissions
                .redeem(second, transfer.dataset.id, &transfer.snapshot)
                .is_ok()
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_ticket_that_has_expired_takes_nobodys_place() {
        let admissions = Admissions::default();
        let open = |number| {
            let mut transfer = transfer();
            transfer.dataset.id = DatasetId(Uuid::from_u128(number));
            admissions.open(&transfer, Generation(1), LIFETIME, |_| None)
        };
        for number in 0..MAX_OPEN {
            assert!(open(number as u128).is_ok());
        }
        tokio::time::advance(LIFETIME / 2).await;
        assert!(open(u128::MAX).is_err(), "all of them are good yet");
        tokio::time::advance(LIFETIME / 2).await;
        assert!(open(u128::MAX).is_ok());
    }
}
