//! Tests that need whole servers of their own: start, crash, dump, restore, back up.
//!
//! `tests/run cluster` builds and installs the extension first. By hand:
//!
//! ```text
//! make install
//! KMS_WRAP_PG_CONFIG=/path/to/pg_config cargo test --no-default-features --features clouds --test cluster
//! ```

// A test stops at the first thing that is not as it should be.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, clippy::arithmetic_side_effects)]
// A test that fails shows the server's log.
#![allow(clippy::print_stderr)]
// Not every test file uses every part of the harness.
#![allow(dead_code)]

#[cfg(feature = "aws")]
mod cloud;
mod columns;
mod crash;
mod deadlines;
mod dump;
mod fixture;
mod harness;
mod install;
mod jobs;
mod key_versions;
mod leaks;
mod overlap;
mod probes;
mod process;
mod psql;
mod remote;
mod remote_health;
mod remote_kem;
mod servers;
mod slow;
mod smoke;
mod system_calls;
mod values_concurrency;
mod values_dump;
mod values_replication;
mod values_revocation;
mod values_standby;
mod worker;
