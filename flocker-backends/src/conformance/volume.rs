//! What every volume backend promises.

pub mod copying;
pub mod creation;
pub mod interruption;
pub mod keeping;
pub mod ownership;
mod steps;

use std::io;
use std::sync::Arc;

use async_trait::async_trait;
use flocker_model::ByteSize;
use flocker_model::DatasetId;
use flocker_model::SnapshotName;

use crate::volume::VolumeBackend;

/// A node with volumes, on which the promises are tried out.
///
/// It is new: no dataset is here, and nobody else uses it.
#[async_trait]
pub trait VolumeHarness: Send + Sync {
    /// Returns the backend as it is open now.
    fn backend(&self) -> Arc<dyn VolumeBackend>;

    /// Forgets everything that is not durable and opens the backend again, as after the process was killed.
    async fn reopen(&self);

    /// Makes another, independent node of the same kind.
    async fn second(&self) -> Box<dyn VolumeHarness>;

    /// Writes a file as the application would, in place of what it held, and makes it durable.
    async fn write(&self, dataset: DatasetId, file: &str, bytes: &[u8]) -> io::Result<()>;

    /// Removes a file as the application would.
    async fn remove(&self, dataset: DatasetId, file: &str) -> io::Result<()>;

    /// Reads a file as the application would. Asked only of a primary and of a released copy.
    async fn read(&self, dataset: DatasetId, file: &str) -> Option<Vec<u8>>;

    /// Takes a snapshot in such a way that it is blurred, and says whether it could.
    ///
    /// `false`, with nothing done, where the backend's snapshots are always atomic.
    async fn take_blurred(&self, dataset: DatasetId, name: &SnapshotName) -> bool {
        let _ = (dataset, name);
        false
    }

    /// Sees to it that no more than so many bytes are free, or takes that back, and says whether it could.
    ///
    /// `false`, with nothing done, where nobody can say how large the disk is.
    async fn leave_free(&self, room: Option<ByteSize>) -> bool {
        let _ = room;
        false
    }

    /// Says whether a write beyond the dataset's maximum size fails.
    fn enforces_sizes(&self) -> bool;

    /// Sees to it that earlier snapshots travel along with what is sent from here, and says whether it could.
    ///
    /// `false`, with nothing done, where only the data of a snapshot can be sent.
    async fn bring_earlier(&self) -> bool {
        false
    }

    /// Says whether an increment carries only what differs inside one file too, not just the files that differ.
    fn sends_blocks(&self) -> bool {
        false
    }
}

/// Declares a test for every promise of [`VolumeBackend`]; give it an expression that makes a [`VolumeHarness`].
#[macro_export]
macro_rules! volume_conformance {
    ($harness:expr) => {
        $crate::conformance_tests! { $crate::conformance::volume::creation, $harness,
            a_created_dataset_is_primary_and_empty
            creating_twice_is_creating_once
            a_primary_is_never_created_again
            a_released_copy_is_never_hidden_by_a_new_volume
            a_replica_is_never_hidden_by_a_new_volume
            the_beginning_of_a_copy_is_never_hidden_by_a_new_volume
            a_dataset_is_listed_after_a_restart
            a_path_does_not_depend_on_the_owner
            a_dropped_create_leaves_nothing_or_the_whole
            one_dataset_is_found_as_it_is_listed
        }
        $crate::conformance_tests! { $crate::conformance::volume::ownership, $harness,
            only_a_newer_epoch_is_released_for
            a_released_dataset_is_never_written
            a_release_outlives_a_restart
            releasing_twice_is_releasing_once
            a_released_copy_is_released_again_for_another_taker
            an_epoch_is_never_promised_twice
            a_new_release_never_makes_another_last_snapshot
            only_a_primary_takes_snapshots
            a_release_of_what_is_not_here_is_refused
            an_epoch_at_or_below_the_fence_is_never_taken
            only_the_newest_snapshot_is_acquired
            a_snapshot_of_another_identity_is_never_acquired
            a_snapshot_may_be_known_by_its_name_alone
            acquiring_twice_is_acquiring_once
            an_acquisition_outlives_a_restart
            a_released_copy_is_taken_back_with_a_newer_epoch
            a_renounced_epoch_is_never_taken
            a_primary_refuses_to_renounce
            renouncing_leaves_no_trace_where_nothing_is
            a_blurred_snapshot_is_never_acquired
            a_dropped_release_leaves_it_primary_or_released
            a_dropped_acquire_leaves_it_as_before_or_primary
        }
        $crate::conformance_tests! { $crate::conformance::volume::copying, $harness,
            a_full_copy_carries_everything
            an_increment_carries_what_was_written_and_removed
            an_increment_carries_only_the_difference
            receiving_twice_is_receiving_once
            a_primary_refuses_to_receive
            a_stream_from_another_base_is_refused_and_changes_nothing
            a_full_stream_never_overwrites_a_copy
            a_stream_of_another_snapshot_is_refused
            a_stream_of_another_dataset_is_refused
            a_snapshot_of_the_same_name_with_other_content_is_refused
            a_released_copy_that_receives_becomes_a_replica_and_keeps_its_fence
            a_dataset_moves_there_and_back
            a_dataset_goes_round_by_increments
            a_dataset_goes_round_by_way_of_older_snapshots
            a_replica_is_never_sent
            what_is_not_here_is_not_sent
        }
        $crate::conformance_tests! { $crate::conformance::volume::interruption, $harness,
            a_cut_stream_leaves_the_last_complete_snapshot_and_a_partial
            a_stream_that_ends_early_never_counts
            a_cut_copy_goes_on_where_it_stopped
            a_token_that_does_not_fit_is_ignored
            a_copy_goes_on_from_an_older_token_too
            the_rest_of_a_copy_is_refused_without_its_beginning
            a_damaged_stream_is_refused
            two_receives_at_once_make_one_snapshot
            two_full_copies_at_once_make_one_dataset
            a_dropped_receive_can_be_done_again
        }
        $crate::conformance_tests! { $crate::conformance::volume::keeping, $harness,
            taking_a_snapshot_twice_is_taking_it_once
            snapshots_are_listed_oldest_first
            what_was_written_since_the_newest_snapshot_is_told
            what_was_written_before_a_dropped_snapshot_counts_for_the_next
            a_dataset_is_resized
            a_dataset_is_never_resized_below_what_it_holds
            a_dataset_never_holds_more_than_it_may
            what_fits_was_said_to_be_free
            a_copy_that_does_not_fit_is_refused
            what_is_not_here_is_not_resized
            a_destroyed_copy_is_in_the_trash
            a_destroyed_primary_comes_back_as_it_was
            a_destroyed_replica_keeps_its_fence
            trash_never_replaces_a_copy
            a_destroyed_dataset_can_be_created_again
            there_is_no_such_trash
            reclaimed_trash_is_gone_for_ever
            a_fence_outlives_its_copy_and_its_trash
            a_copy_that_comes_anew_begins_with_the_old_fence
            an_owner_that_was_followed_never_comes_back_from_the_trash
            reclaimed_snapshots_are_gone
            the_newest_complete_snapshot_is_never_reclaimed
            a_reclaimed_partial_is_gone_and_the_copy_can_begin_again
        }
    };
}

#[cfg(test)]
mod tests {
    #[test]
    fn every_promise_is_in_the_list_of_tests() {
        let list = include_str!("volume.rs");
        for source in [
            include_str!("volume/ownership.rs"),
            include_str!("volume/copying.rs"),
            include_str!("volume/creation.rs"),
            include_str!("volume/interruption.rs"),
            include_str!("volume/keeping.rs"),
        ] {
            let promises: Vec<&str> = source
                .lines()
                .filter_map(|line| line.strip_prefix("pub async fn ")?.split('(').next())
                .collect();
            assert!(!promises.is_empty());
            for promise in promises {
                assert!(
                    list.lines().any(|line| line.trim() == promise),
                    "`{promise}` is never tried"
                );
            }
        }
    }
}
