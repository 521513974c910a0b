//! What happens while a plan is carried out, as it happens.

use std::fmt;
use std::time::Duration;

use flocker_backends::Change;
use flocker_backends::ImageId;
use flocker_model::ApplicationName;
use flocker_model::ByteSize;
use flocker_model::Generation;
use flocker_model::Image;
use flocker_model::NodeName;
use flocker_plan::StepId;
use serde::Serialize;

use crate::passage::Carrier;

/// Something that has happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "event")]
#[non_exhaustive]
pub enum Event {
    /// Nodes are looked at, and these have not answered for a while; they have time still.
    Awaited {
        /// Those that have not answered.
        nodes: Vec<NodeName>,
    },
    /// The nodes were looked at.
    Observed {
        /// Those that were seen.
        seen: Vec<NodeName>,
        /// Those that were not, and why.
        silent: Vec<(NodeName, String)>,
    },
    /// A node's deploy lock was taken.
    LockTaken {
        /// The node.
        node: NodeName,
    },
    /// Somebody else deploys, and is waited for.
    LockAwaited {
        /// The node.
        node: NodeName,
        /// Who holds its lock.
        holder: String,
    },
    /// A plan was made.
    PlanMade {
        /// The how manieth of this push, from 1.
        turn: u32,
        /// Which configuration it brings about.
        generation: Generation,
        /// How many steps it has.
        n_steps: usize,
        /// What it waits for.
        waiting: Vec<String>,
        /// What it refuses.
        refused: Vec<String>,
    },
    /// A step was started.
    StepStarted {
        /// The step.
        step: StepId,
        /// Who does it.
        node: NodeName,
    },
    /// A step is so far.
    StepProgress {
        /// The step.
        step: StepId,
        /// So many bytes are done.
        done: ByteSize,
        /// Of so many.
        total: Option<ByteSize>,
    },
    /// A step sends its bytes elsewhere than to a process of the same machine.
    StepCarried {
        /// The step.
        step: StepId,
        /// By what they are carried.
        by: Carrier,
        /// Why they do not go directly, where that was tried or known.
        because: Option<String>,
    },
    /// The image that a step needs could not be had on its node, and is brought there from another one.
    ImageBrought {
        /// The step. How far the bytes are is told as its progress.
        step: StepId,
        /// The image.
        image: Image,
        /// What it is, whatever it is called.
        id: ImageId,
        /// Who has it.
        from: NodeName,
    },
    /// A step was done.
    StepDone {
        /// The step.
        step: StepId,
        /// Whether it changed anything.
        change: Change,
        /// How long it took.
        took: Duration,
    },
    /// A step failed.
    StepFailed {
        /// The step.
        step: StepId,
        /// Why, with all causes.
        error: String,
        /// How long it took.
        took: Duration,
    },
    /// A step was not tried, because another failed.
    StepSkipped {
        /// The step.
        step: StepId,
        /// The step that failed.
        because: StepId,
    },
    /// A turn ended with failures that may pass; the next look is taken after a while.
    BackingOff {
        /// How long it is waited.
        pause: Duration,
    },
    /// A move was given up, and its application goes back where it came from.
    RolledBack {
        /// The application.
        application: ApplicationName,
        /// Where it goes back to.
        to: NodeName,
        /// What could not be done, with all causes.
        cause: String,
    },
    /// It was asked to stop: nothing more is started but what ends these cut-overs.
    Stopping {
        /// The applications that are away for a cut-over that has begun.
        finishing: Vec<ApplicationName>,
    },
}

/// Who is told what happens. It must not block.
pub trait Listener: Send + Sync {
    /// Takes note.
    fn on(&self, event: &Event);
}

impl<F: Fn(&Event) + Send + Sync> Listener for F {
    fn on(&self, event: &Event) {
        self(event);
    }
}

/// A listener who writes every event to the log of the program.
#[derive(Clone, Copy, Debug, Default)]
pub struct Logged;

impl Listener for Logged {
    fn on(&self, event: &Event) {
        tracing::debug!(?event);
    }
}

impl fmt::Debug for dyn Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Listener")
    }
}
