//! Real pools keep every promise of a volume backend.
//!
//! Needs root, a ZFS and a pool that may be filled: name it in
//! `FLOCKER_TEST_ZFS_POOL`. Behind the feature `real-zfs`, so that nobody
//! takes a run without a pool for a run that passed; with the feature and
//! without the pool, every test fails.
//! `flocker-cli/tests/real/bed/conformance` runs it where there is one.

mod zfs_support;

use zfs_support::Parent;

flocker_backends::volume_conformance!(Parent::new().await);
