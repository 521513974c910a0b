//! Containers of a real Docker engine keep the promises of every container runtime.
//!
//! Needs an engine and, in it, an image with a shell and `httpd` (such as
//! busybox), which `FLOCKER_TEST_DOCKER` names; and root, to open the gates to
//! volumes under `/run`. Behind the feature `real-docker`, so that nobody
//! takes it for passed who has not run it.

mod docker_support;

use docker_support::DockerNode;

flocker_backends::runtime_conformance!(DockerNode::new().await);
flocker_backends::runtime_resuming_conformance!(DockerNode::new().await);
