//! What goes wrong in a simulated cluster, by name.

use std::fmt;

/// On which side of the effect that it strikes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// Nothing of the effect was done.
    Before,
    /// The effect was done, and nobody was told.
    After,
}

/// Something that goes wrong.
///
/// Where one names another node, it does so by its distance from the node that
/// acts. Where it passes by itself, it says after how many seconds; where it
/// does not, it lasts until everything is repaired.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mishap {
    /// The acting machine loses power, and boots again after so long.
    PowerLoss(When, Option<u32>),
    /// The program of the acting node is killed, and started again after so long. Containers run on.
    ProcessKill(When, Option<u32>),
    /// Another machine loses power.
    OtherPowerLoss(usize, Option<u32>),
    /// Another machine is switched off and on: it comes back at once, with another boot.
    OtherReboot(usize),
    /// The command of the operator is killed.
    CommandKill(When),
    /// The effect is made, and its answer is lost.
    LostReply,
    /// The effect fails, and may succeed the next time.
    Failure,
    /// There is no room for the effect.
    NoRoom,
    /// The acting node's disk has room for so many bytes more, until it is repaired.
    SmallDisk(u32),
    /// The effect takes longer than anybody waits.
    Hang,
    /// The effect takes so many turns of the scheduler longer.
    Slow(u32),
    /// The next so many orders to the acting node take a minute each to arrive.
    SlowNode(u32),
    /// Everything that is open between the acting node and all others breaks.
    Cut,
    /// What is open from the acting node to another breaks after so many bytes more.
    CutAfter(usize, u32),
    /// The next copy that the acting node sends has one byte changed, so far in.
    Damage(u32),
    /// The next copy that the acting node sends ends cleanly, so far in.
    Truncation(u32),
    /// The acting node and another do not reach each other.
    Parting(usize, Option<u32>),
    /// The operator does not reach the acting node.
    PartingFromOperator(Option<u32>),
    /// No application passes its health check on the acting node.
    Sickness(Option<u32>),
    /// A second operator deploys the same files.
    SecondCommand,
    /// A second operator deploys the files of the stage before.
    OlderCommand,
    /// An order that was given long ago arrives once more.
    StaleOrder,
    /// The orders that nobody has answered arrive after all.
    LateOrders,
    /// The next look at the acting node shows what was seen of it before.
    StaleLook,
    /// The next look at the acting node shows nothing.
    HiddenLook,
    /// The next so many lists of the acting node's datasets are cut short.
    BrokenList(u32),
    /// The clock of the acting node jumps ahead by so many hours.
    ClockJump(u32),
}

impl fmt::Display for Mishap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }
}

/// A mishap and the effect that it strikes: the first of all effects in the cluster has number 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Planned {
    /// The number of the effect.
    pub at: u64,
    /// What happens.
    pub mishap: Mishap,
}

impl fmt::Display for Planned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "at effect {}: {}", self.at, self.mishap)
    }
}
