//! Asking what runs to come to an end.

use tokio::sync::watch;

/// The end that asks.
#[derive(Clone, Debug)]
pub struct Stopper(watch::Sender<bool>);

/// The end that is asked. Where its stopper was dropped, it is never asked.
#[derive(Clone, Debug)]
pub struct Stop(watch::Receiver<bool>);

/// Makes both ends.
#[must_use]
pub fn stopper() -> (Stopper, Stop) {
    let (sender, receiver) = watch::channel(false);
    (Stopper(sender), Stop(receiver))
}

impl Stopper {
    /// Asks. It can not be taken back.
    pub fn stop(&self) {
        self.0.send_replace(true);
    }
}

impl Stop {
    /// Returns one that is never asked.
    #[must_use]
    pub fn never() -> Self {
        stopper().1
    }

    /// Says whether it was asked.
    #[must_use]
    pub fn is_asked(&self) -> bool {
        *self.0.borrow()
    }

    /// Returns when it is asked, which may be never.
    pub async fn asked(&self) {
        let mut receiver = self.0.clone();
        if receiver.wait_for(|asked| *asked).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}
