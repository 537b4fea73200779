//! Providers against servers that speak their protocols, and against doubles for what real servers cannot be made to do.
//!
//! `tests/run providers` fetches the servers and says by environment variables where they are. Tests run one at a time, since they count the
//! threads of the process.

// A test stops at the first thing that is not as it should be.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, clippy::arithmetic_side_effects)]
// Measurements are shown.
#![allow(clippy::print_stderr)]

#[cfg(feature = "aws")]
mod aws;
#[cfg(feature = "aws")]
mod aws_credentials;
#[cfg(feature = "aws")]
mod aws_double;
#[cfg(feature = "aws")]
mod aws_moto;
#[cfg(feature = "azure")]
mod azure;
#[cfg(feature = "azure")]
mod azure_double;
mod bao;
mod conformance;
mod double;
mod fixture;
#[cfg(feature = "gcp")]
mod gcp;
#[cfg(feature = "gcp")]
mod gcp_double;
mod local;
mod pkcs11;
mod pkcs11_processes;
mod pkcs11_token;
mod transit;
mod transit_auth;
mod transit_double;
mod transit_outage;
mod transit_speed;
#[cfg(any(feature = "azure", feature = "gcp"))]
mod web_double;
