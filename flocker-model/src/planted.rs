//! Bugs planted on purpose, to see whether the checks bite.
//!
//! Each is what somebody could well write, or has written. It is there only
//! under the feature `planted` and only while it is the one that was asked
//! for; without the feature [`is_planted`] is a constant, and what depends on
//! it is not in the program.

use std::fmt;

/// Declares all bugs in one table.
macro_rules! bugs {
    ($($bug:ident $name:literal $what:literal,)*) => {
        /// A bug that can be planted.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Bug {
            $(#[doc = $what] $bug,)*
        }

        impl Bug {
            /// Every one of them.
            pub const ALL: &'static [Self] = &[$(Self::$bug,)*];

            /// Returns what it is called on a command line.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$bug => $name,)*
                }
            }

            /// Says what is wrong with it.
            #[must_use]
            pub fn what(self) -> &'static str {
                match self {
                    $(Self::$bug => $what,)*
                }
            }
        }
    };
}

bugs! {
    SilenceIsAbsence "silence-is-absence" "A silent node is taken to have nothing.",
    OldestReleaseCounts "oldest-release-counts" "Of two releases the older one is finished.",
    TakerUnseen "taker-unseen" "A release is taken back though its taker is not seen.",
    EpochStays "epoch-stays" "A new ownership has the number of the last one.",
    AcquireBeforeRelease "acquire-before-release" "Neither the copy nor the acquisition waits for the release.",
    ReleaseBeforeStop "release-before-stop" "The release does not wait for the stop.",
    StopForgotten "stop-forgotten" "Nothing is stopped before a release.",
    StartBeforeAcquire "start-before-acquire" "The start does not wait for the acquisition.",
    AcquireBeforeComplete "acquire-before-complete" "The acquisition does not wait for the last increment.",
    StaleCopyTakesOver "stale-copy-takes-over" "Whatever newest snapshot the taker has is good enough.",
    WrongBase "wrong-base" "An increment starts from what only the sender has.",
    DivergedKept "diverged-kept" "A copy into which no increment fits is not set aside.",
    DestroyedUnreceived "destroyed-unreceived" "The old copy is destroyed once it is released.",
    LastCopyTrashed "last-copy-trashed" "Spare copies are looked for without leaving the owner's out.",
    DefinitionIgnored "definition-ignored" "A container is known by its name alone.",
    ResizeForgotten "resize-forgotten" "A changed limit is not carried out.",
    DeleteLeavesCopies "delete-leaves-copies" "Copies of deleted data that nobody owned stay.",
    AbsenceDeletes "absence-deletes" "Data that nothing placed uses is destroyed.",
    RemovedRunsOn "removed-runs-on" "What was removed from the files is not stopped.",
    RouteBeforeStart "route-before-start" "A route does not wait for what it leads to.",
    RoutesNotDropped "routes-not-dropped" "A route to what was removed stays.",
    OlderGenerationObeyed "older-generation-obeyed" "An order of an older configuration is carried out.",
    GenerationForgotten "generation-forgotten" "The obeyed generation is not written down.",
    LockNotChecked "lock-not-checked" "Orders are carried out under any lock, or none.",
    LockGivenTwice "lock-given-twice" "The deploy lock is given to whoever asks.",
    StopUnconfirmed "stop-unconfirmed" "A stop is answered before it is made.",
    StopFailureIgnored "stop-failure-ignored" "A stop that failed is said to be done.",
    StartFailureIgnored "start-failure-ignored" "A start that failed is said to be done.",
    SentIsReceived "sent-is-received" "A copy is done when its last byte is sent.",
    PlanOfAnOldLook "plan-of-an-old-look" "A plan is made from what was seen before the lock was taken.",
    FailureIsDone "failure-is-done" "What needs a step goes on though the step failed.",
    GenerationStays "generation-stays" "A command takes the generation that is obeyed already.",
    AlwaysMade "always-made" "What was so already is said to have been changed.",
    BrokenListIsEmpty "broken-list-is-empty" "A list of datasets that could not be read is taken as empty.",
    ReleaseStaysWritable "release-stays-writable" "A release changes nothing on the disk.",
    ReleaseNotDurable "release-not-durable" "A loss of power takes a release back.",
    ReleaseWithoutLastWrites "release-without-last-writes" "The last snapshot lacks what was not synced.",
    DamageAccepted "damage-accepted" "What arrives is not compared with what was sent.",
    SnapshotTwice "snapshot-twice" "A snapshot that is there already is taken again.",
    SyncDoesNothing "sync-does-nothing" "What is acknowledged is not durable.",
}

impl fmt::Display for Bug {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(feature = "planted")]
mod selected {
    use std::cell::Cell;

    use super::Bug;

    thread_local! {
        static PLANTED: Cell<Option<Bug>> = const { Cell::new(None) };
    }

    /// Plants a bug on this thread in place of the one that was, or none.
    pub fn plant(bug: Option<Bug>) {
        PLANTED.set(bug);
    }

    /// Says whether a bug is the one that is planted on this thread.
    #[must_use]
    pub fn is_planted(bug: Bug) -> bool {
        PLANTED.get() == Some(bug)
    }
}

#[cfg(feature = "planted")]
pub use selected::{is_planted, plant};

/// Says that no bug is planted: this program has none.
#[cfg(not(feature = "planted"))]
#[must_use]
#[inline]
pub const fn is_planted(_: Bug) -> bool {
    false
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_bug_has_a_name_of_its_own_and_none_is_planted() {
        let names: BTreeSet<&str> = Bug::ALL.iter().map(|bug| bug.name()).collect();
        assert_eq!(names.len(), Bug::ALL.len());
        assert!(Bug::ALL.iter().all(|bug| !is_planted(*bug)));
    }
}
