//! Containers that units of a real systemd run keep the promises of every container runtime.
//!
//! Needs what `docker_conformance.rs` needs, and systemd as the first process.
//! Behind the feature `real-systemd`, so that nobody takes it for passed who
//! has not run it.

mod docker_support;
mod systemd_support;

use systemd_support::SystemdNode;

flocker_backends::runtime_conformance!(SystemdNode::new().await);
flocker_backends::runtime_resuming_conformance!(SystemdNode::new().await);
