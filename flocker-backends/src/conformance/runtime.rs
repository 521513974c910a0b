//! What every container runtime promises.

pub mod output;
pub mod resuming;
pub mod running;
mod steps;

use std::net::IpAddr;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use flocker_model::Application;
use flocker_model::PortNumber;
use flocker_model::Volume;

use crate::runtime::ContainerRuntime;

/// What an application does that promises are tried out with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Program {
    /// It runs until it is asked to end, and then ends with status 0.
    RunsForEver,
    /// It runs and does not end when it is asked to.
    IgnoresTermination,
    /// It ends by itself, at once, with this status.
    Exits(u8),
    /// It writes this text and a line end to its standard output, and runs for ever.
    Prints(String),
    /// It writes the value of this variable of its environment and a line end, and runs for ever.
    PrintsVariable(String),
    /// It accepts connections at this port of its address, and runs for ever.
    Listens(PortNumber),
    /// Its image or program does not exist.
    IsMissing,
}

/// A node on which containers run, and on which the promises are tried out.
///
/// It is new: no container of ours is here.
#[async_trait]
pub trait RuntimeHarness: Send + Sync {
    /// Returns the runtime as it is open now.
    fn runtime(&self) -> Arc<dyn ContainerRuntime>;

    /// Forgets everything that is not durable and opens the runtime again, as after our process was killed.
    ///
    /// What runs goes on.
    async fn reopen(&self);

    /// Returns an application that does as the program says, with nothing around it.
    ///
    /// Two different programs are two different definitions.
    fn application(&self, program: &Program) -> Application;

    /// Returns a volume that a container may be started on, and where its data is on this node.
    async fn volume(&self) -> (Volume, PathBuf);

    /// Returns a port that nobody uses.
    fn free_port(&self) -> PortNumber;

    /// Returns the address of this node.
    fn node_address(&self) -> IpAddr {
        Ipv4Addr::LOCALHOST.into()
    }
}

/// Declares a test for every promise of [`ContainerRuntime`]; give it an expression that makes a [`RuntimeHarness`].
#[macro_export]
macro_rules! runtime_conformance {
    ($harness:expr) => {
        $crate::conformance_tests! { $crate::conformance::runtime::running, $harness,
            nothing_is_listed_where_nothing_is
            starting_twice_is_starting_once
            another_definition_is_refused_while_one_is_alive
            another_definition_is_prepared_beside_one_that_is_alive
            another_definition_is_started_after_the_end
            a_prepared_container_is_listed_and_does_not_run
            preparing_what_runs_changes_nothing
            what_is_missing_is_told_before_anything_is_stopped
            what_is_missing_is_not_started
            a_stopped_container_is_gone
            stopping_twice_is_stopping_once
            a_prepared_container_is_stopped
            who_ignores_termination_is_gone_all_the_same
            an_exit_status_is_seen
            what_has_ended_is_started_again
            what_always_restarts_is_alive_until_it_is_stopped
            what_restarts_on_failure_gives_up
            what_ended_well_is_not_restarted_on_failure
            the_definition_travels_with_the_container
            what_runs_is_listed_after_a_restart
            what_is_prepared_or_ended_is_listed_after_a_restart
            the_dataset_of_a_container_is_told
            applications_do_not_touch_each_other
            who_does_not_serve_is_unhealthy_and_left_as_it_is
            who_serves_is_healthy
            a_dropped_start_is_told_by_the_list
        }
        $crate::conformance_tests! { $crate::conformance::runtime::output, $harness,
            what_is_printed_is_read
            output_outlives_the_container
            output_outlives_a_restart
            the_last_lines_are_read
            output_is_followed_to_the_end_of_the_application
            output_of_what_has_ended_is_not_waited_for
            an_application_that_was_never_here_has_no_output
            the_environment_arrives
            a_secret_arrives
            the_way_to_a_linked_application_arrives
        }
    };
}

/// Declares a test for every promise of a [`ContainerRuntime`] that starts again what has ended, as it was made.
#[macro_export]
macro_rules! runtime_resuming_conformance {
    ($harness:expr) => {
        $crate::conformance_tests! { $crate::conformance::runtime::resuming, $harness,
            what_has_ended_is_resumed_as_it_was_made
            what_runs_is_not_resumed
            what_was_only_prepared_is_not_resumed
            what_was_stopped_is_not_resumed
            what_has_data_is_not_resumed_without_it
        }
    };
}

#[cfg(test)]
mod tests {
    #[test]
    fn every_promise_is_in_the_list_of_tests() {
        let list = include_str!("runtime.rs");
        for source in [
            include_str!("runtime/running.rs"),
            include_str!("runtime/output.rs"),
            include_str!("runtime/resuming.rs"),
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
