//! What goes wrong, by name, at a numbered effect.
//!
//! Every change that a twin makes passes through one place, which counts it
//! and asks the script what is to go wrong with it. There is no clock and no
//! die: the same script and the same calls give the same history.

use std::collections::BTreeMap;
use std::fmt;
use std::pin::pin;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;

use flocker_model::ApplicationName;
use flocker_model::DatasetId;
use tokio::sync::Notify;

/// A change of the world that a twin is about to make.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Effect {
    /// A dataset is created.
    Create(DatasetId),
    /// A dataset is resized.
    Resize(DatasetId),
    /// A snapshot is taken.
    Snapshot(DatasetId),
    /// A part of a stream becomes durable.
    ReceivePart(DatasetId),
    /// A stream is complete and becomes a snapshot.
    Receive(DatasetId),
    /// A dataset is released.
    Release(DatasetId),
    /// A dataset is acquired.
    Acquire(DatasetId),
    /// An epoch is renounced.
    Renounce(DatasetId),
    /// A copy goes to the trash.
    Destroy(DatasetId),
    /// A piece of trash comes back.
    Restore(String),
    /// Something is dropped for ever.
    Reclaim,
    /// A container is prepared.
    Prepare(ApplicationName),
    /// A container is started.
    Start(ApplicationName),
    /// A container is stopped.
    Stop(ApplicationName),
    /// Routes are changed.
    Route,
}

impl Effect {
    /// Returns the dataset that it is about, where it is about one.
    #[must_use]
    pub fn dataset(&self) -> Option<DatasetId> {
        match self {
            Self::Create(dataset)
            | Self::Resize(dataset)
            | Self::Snapshot(dataset)
            | Self::ReceivePart(dataset)
            | Self::Receive(dataset)
            | Self::Release(dataset)
            | Self::Acquire(dataset)
            | Self::Renounce(dataset)
            | Self::Destroy(dataset) => Some(*dataset),
            Self::Restore(_)
            | Self::Reclaim
            | Self::Prepare(_)
            | Self::Start(_)
            | Self::Stop(_)
            | Self::Route => None,
        }
    }
}

/// What goes wrong with an effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// It fails before anything is done, and may succeed the next time.
    Fail,
    /// It is refused before anything is done, and would be again.
    Refuse,
    /// There is no room for it.
    DiskFull,
    /// It is done, and the answer is lost.
    LoseReply,
    /// It waits before anything is done until [`Faults::let_go`] is called.
    Hang,
    /// It takes so many turns of the scheduler longer.
    Slow {
        /// How many.
        turns: u32,
    },
    /// Our process is killed before anything is done. Containers run on.
    KillBefore,
    /// Our process is killed when it is done and before it is answered. Containers run on.
    KillAfter,
    /// The machine loses power before anything is done.
    PowerLossBefore,
    /// The machine loses power when it is done and before it is answered.
    PowerLossAfter,
}

/// An effect that is about to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attempt {
    /// How many effects of this node were tried before it, and one: the first has number 1.
    pub number: u64,
    /// The effect.
    pub effect: Effect,
}

type Decision = Box<dyn FnMut(&Attempt) -> Option<Fault> + Send>;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Power {
    Up,
    Killed,
    Off,
}

struct Inner {
    n_effects: u64,
    script: BTreeMap<u64, Fault>,
    decision: Option<Decision>,
    power: Power,
    incarnation: u64,
    n_let_go: u64,
    n_hanging: usize,
}

/// The faults of one node, shared by its twins. Cloning is cheap and gives the same faults.
#[derive(Clone)]
pub struct Faults(Arc<Shared>);

struct Shared {
    inner: Mutex<Inner>,
    changed: Notify,
}

impl fmt::Debug for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let inner = self.lock();
        f.debug_struct("Faults")
            .field("n_effects", &inner.n_effects)
            .field("script", &inner.script)
            .field("power", &inner.power)
            .finish_non_exhaustive()
    }
}

impl Default for Faults {
    fn default() -> Self {
        Self(Arc::new(Shared {
            inner: Mutex::new(Inner {
                n_effects: 0,
                script: BTreeMap::new(),
                decision: None,
                power: Power::Up,
                incarnation: 0,
                n_let_go: 0,
                n_hanging: 0,
            }),
            changed: Notify::new(),
        }))
    }
}

impl Faults {
    /// Sets which effects go wrong, by number, in place of what was set before.
    pub fn script(&self, script: BTreeMap<u64, Fault>) {
        self.lock().script = script;
    }

    /// Sets who is asked about every effect that the script says nothing of.
    ///
    /// It may look at any node, this one too, and act as its applications do.
    pub fn decide(&self, decision: impl FnMut(&Attempt) -> Option<Fault> + Send + 'static) {
        self.lock().decision = Some(Box::new(decision));
    }

    /// Returns how many effects were tried.
    #[must_use]
    pub fn n_effects(&self) -> u64 {
        self.lock().n_effects
    }

    /// Returns how many effects hang.
    #[must_use]
    pub fn n_hanging(&self) -> usize {
        self.lock().n_hanging
    }

    /// Lets everything that hangs go on.
    pub fn let_go(&self) {
        self.lock().n_let_go += 1;
        self.0.changed.notify_waiters();
    }

    /// Says whether our process runs there.
    #[must_use]
    pub fn is_up(&self) -> bool {
        self.power() == Power::Up
    }

    pub(super) fn power(&self) -> Power {
        self.lock().power
    }

    /// Ends every life that began before; a new one begins only while the power is up.
    pub(super) fn set_power(&self, power: Power) {
        let mut inner = self.lock();
        inner.power = power;
        inner.incarnation += 1;
        drop(inner);
        self.0.changed.notify_waiters();
    }

    /// Returns which run of our process this is.
    pub(super) fn incarnation(&self) -> u64 {
        self.lock().incarnation
    }

    /// Begins a call: what it does is done only as long as the process that began it lives.
    ///
    /// Where `only` says which run of our process may begin one, any later one may not.
    pub(super) fn life(&self, only: Option<u64>) -> Result<Life, Injected> {
        let inner = self.lock();
        match inner.power {
            Power::Up if only.is_none_or(|only| only == inner.incarnation) => Ok(Life {
                faults: self.clone(),
                incarnation: inner.incarnation,
            }),
            Power::Up | Power::Killed | Power::Off => Err(Injected::Down),
        }
    }

    /// Counts an effect and lets happen what is to happen before it; returns what is to happen after it.
    pub(super) async fn before(&self, effect: &Effect, life: &Life) -> Result<After, Injected> {
        if life.is_over() {
            return Err(Injected::Down);
        }
        let Some(fault) = self.ask(effect) else {
            return Ok(After::Answer);
        };
        match fault {
            Fault::Fail => Err(Injected::Failed),
            Fault::Refuse => Err(Injected::Refused),
            Fault::DiskFull => Err(Injected::DiskFull),
            Fault::LoseReply => Ok(After::LoseReply),
            Fault::Hang => self.hang(life).await,
            Fault::Slow { turns } => {
                for _ in 0..turns {
                    tokio::task::yield_now().await;
                }
                life.go_on()
            }
            Fault::KillBefore => {
                self.set_power(Power::Killed);
                Err(Injected::Down)
            }
            Fault::PowerLossBefore => {
                self.set_power(Power::Off);
                Err(Injected::Down)
            }
            Fault::KillAfter => Ok(After::Die(Power::Killed)),
            Fault::PowerLossAfter => Ok(After::Die(Power::Off)),
        }
    }

    /// Counts an effect, and asks the script and then the decision what goes wrong with it.
    fn ask(&self, effect: &Effect) -> Option<Fault> {
        let (attempt, mut decide) = {
            let mut inner = self.lock();
            inner.n_effects += 1;
            let number = inner.n_effects;
            if let Some(fault) = inner.script.get(&number) {
                return Some(*fault);
            }
            let effect = effect.clone();
            (Attempt { number, effect }, inner.decision.take()?)
        };
        // It is asked without the lock, so that it may look at the very node that it decides on.
        let fault = decide(&attempt);
        self.lock().decision.get_or_insert(decide);
        fault
    }

    async fn hang(&self, life: &Life) -> Result<After, Injected> {
        let _hanging = Hanging::begin(self);
        let n_let_go = self.lock().n_let_go;
        loop {
            let mut changed = pin!(self.0.changed.notified());
            // Listening begins before looking, so that no change is missed.
            changed.as_mut().enable();
            if life.is_over() || self.lock().n_let_go > n_let_go {
                return life.go_on();
            }
            changed.await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Counts a call as hanging until it goes on or is dropped.
struct Hanging<'a>(&'a Faults);

impl<'a> Hanging<'a> {
    fn begin(faults: &'a Faults) -> Self {
        faults.lock().n_hanging += 1;
        Self(faults)
    }
}

impl Drop for Hanging<'_> {
    fn drop(&mut self) {
        self.0.lock().n_hanging -= 1;
    }
}

/// What is to happen when an effect is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum After {
    Answer,
    LoseReply,
    Die(Power),
}

/// What came in the way of an effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Injected {
    Down,
    Failed,
    Refused,
    DiskFull,
    ReplyLost,
}

impl Injected {
    /// Returns it as the operating system would say it.
    pub(super) fn to_io(self) -> std::io::Error {
        use std::io::ErrorKind;
        match self {
            Self::Down => std::io::Error::new(ErrorKind::ConnectionAborted, "the node is down"),
            Self::Failed => ErrorKind::Interrupted.into(),
            Self::Refused => ErrorKind::PermissionDenied.into(),
            Self::DiskFull => ErrorKind::StorageFull.into(),
            Self::ReplyLost => std::io::Error::new(ErrorKind::TimedOut, "the answer was lost"),
        }
    }
}

/// One run of our process on a node.
#[derive(Clone, Debug)]
pub(super) struct Life {
    faults: Faults,
    incarnation: u64,
}

impl Life {
    pub(super) fn is_over(&self) -> bool {
        let inner = self.faults.lock();
        inner.power != Power::Up || inner.incarnation != self.incarnation
    }

    fn go_on(&self) -> Result<After, Injected> {
        if self.is_over() {
            Err(Injected::Down)
        } else {
            Ok(After::Answer)
        }
    }
}
