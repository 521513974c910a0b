//! Doors: where transfers come in directly, each for one sender, one pass and not for long.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use flocker_backends::Classify as _;
use flocker_backends::ErrorClass;
use flocker_backends::transport::direct::Door;
use flocker_backends::transport::direct::DoorAddress;
use flocker_backends::transport::direct::Doorstep;
use flocker_backends::transport::direct::KeyPin;
use tokio::sync::mpsc;
use tokio::sync::oneshot;
use tokio::task::JoinSet;

use super::LocalNode;
use crate::clock;
use crate::fault::one_line;
use crate::node::ImageCargo;
use crate::node::Pass;
use crate::serve::serve_sender;
use crate::wire::WireError;

/// How many doors may be open at once; a transfer beyond that has to come another way.
const MAX_OPEN: usize = 64;

/// Keeps a door open. Dropping it closes the door, unless its sender is inside already.
pub(crate) struct Doorstop(oneshot::Sender<()>);

impl fmt::Debug for Doorstop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Doorstop")
            .field("is_shut", &self.0.is_closed())
            .finish()
    }
}

/// What a door was opened for.
#[derive(Debug)]
pub(crate) enum Guest {
    /// The transfer with this pass.
    Transfer(Pass),
    /// This image.
    Image(ImageCargo),
}

/// A door, and who watches when it is to be closed.
struct Watched {
    door: Door,
    /// Nobody, where it is only knocked at.
    guest: Option<Guest>,
    lifetime: Duration,
    /// Closes the door before its time.
    stop: Option<oneshot::Receiver<()>>,
}

/// Where a node opens its doors, and to whom it gives them.
#[derive(Debug)]
pub(super) struct Porch {
    doorstep: Doorstep,
    keeper: mpsc::Sender<Watched>,
}

/// A door that was opened for an announced transfer, and is not watched yet.
pub(super) struct Ajar<'a> {
    pub(super) door: Door,
    place: mpsc::Permit<'a, Watched>,
}

impl Porch {
    /// Opens a door, or says in the log why there is none: a transfer that cannot come directly comes another way.
    pub(super) async fn open(&self, sender: KeyPin) -> Option<Ajar<'_>> {
        let Ok(place) = self.keeper.try_reserve() else {
            tracing::warn!("a transfer cannot come directly: nobody keeps more doors");
            return None;
        };
        match Door::open(&self.doorstep, sender).await {
            Ok(door) => Some(Ajar { door, place }),
            Err(error) => {
                tracing::warn!(error = %one_line(&error), "a transfer cannot come directly");
                None
            }
        }
    }
}

impl Ajar<'_> {
    /// Lets the sender in who has this pass, for so long and while the stop is kept.
    pub(super) fn await_transfer(self, pass: Pass, lifetime: Duration) -> Doorstop {
        let (doorstop, stop) = oneshot::channel();
        self.place.send(Watched {
            door: self.door,
            guest: Some(Guest::Transfer(pass)),
            lifetime,
            stop: Some(stop),
        });
        Doorstop(doorstop)
    }

    /// Lets the sender in with this image, for so long.
    pub(super) fn await_image(self, cargo: ImageCargo, lifetime: Duration) {
        self.place.send(Watched {
            door: self.door,
            guest: Some(Guest::Image(cargo)),
            lifetime,
            stop: None,
        });
    }

    /// Lets the sender know for so long that it is there, and nothing in.
    fn await_knock(self, lifetime: Duration) {
        self.place.send(Watched {
            door: self.door,
            guest: None,
            lifetime,
            stop: None,
        });
    }
}

/// Who keeps the doors of a node. Without it none is opened.
#[must_use = "nobody is let in unless the doors are kept"]
pub struct Doors {
    watched: mpsc::Receiver<Watched>,
}

impl fmt::Debug for Doors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Doors")
    }
}

impl LocalNode {
    /// Lets transfers come in directly, too, through doors that are opened here for one transfer each.
    ///
    /// Nothing listens until a transfer is announced whose sender has said by
    /// which key it is known. The doors have to be kept, with [`Doors::keep`].
    #[must_use = "nobody is let in unless the doors are kept"]
    pub fn with_doors(mut self, doorstep: Doorstep) -> (Self, Doors) {
        let (keeper, watched) = mpsc::channel(MAX_OPEN);
        self.porch = Some(Porch { doorstep, keeper });
        (self, Doors { watched })
    }

    /// Opens a door to knock at, where this node opens any.
    pub(super) async fn await_knock(&self, sender: KeyPin) -> Option<DoorAddress> {
        let ajar = self.porch.as_ref()?.open(sender).await?;
        let address = ajar.door.address();
        ajar.await_knock(self.parts.deadlines.ticket);
        Some(address)
    }
}

impl Doors {
    /// Lets in who comes, until it is dropped; transfers that came in by it break with it.
    ///
    /// The node must be the one that these doors are of.
    pub async fn keep(mut self, node: Arc<LocalNode>) {
        let mut open = JoinSet::new();
        loop {
            tokio::select! {
                biased;
                Some(ended) = open.join_next() => note(ended),
                watched = self.watched.recv(), if open.len() < MAX_OPEN => match watched {
                    Some(watched) => {
                        open.spawn(attend(watched, Arc::clone(&node)));
                    }
                    None => break,
                },
            }
        }
    }
}

async fn attend(watched: Watched, node: Arc<LocalNode>) -> Result<(), WireError> {
    let Watched {
        door,
        guest,
        lifetime,
        stop,
    } = watched;
    let stopped = async {
        match stop {
            Some(stop) => drop(stop.await),
            None => std::future::pending().await,
        }
    };
    let end = clock::now() + lifetime;
    let channel = tokio::select! {
        biased;
        // The ticket was used another way, or another one is in its place.
        () = stopped => return Ok(()),
        () = tokio::time::sleep_until(end) => return Ok(()),
        channel = door.enter() => channel,
    };
    match guest {
        Some(guest) => serve_sender(channel, node, guest).await,
        None => Ok(()),
    }
}

fn note(ended: Result<Result<(), WireError>, tokio::task::JoinError>) {
    match ended {
        Ok(Ok(())) => {}
        Ok(Err(error)) if error.class() == ErrorClass::Transient => {
            tracing::debug!(error = %one_line(&error), "a direct transfer broke");
        }
        Ok(Err(error)) => tracing::warn!(error = %one_line(&error), "a direct transfer was ended"),
        Err(error) => tracing::error!(%error, "a direct transfer broke down"),
    }
}
