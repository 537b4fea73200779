//! The cryptographic core: formats and compositions, nothing else.
//!
//! Pure by rule: no I/O, no clock, no environment, no globals, no PostgreSQL. Randomness comes in through [`entropy::Entropy`], KMS answers
//! come in as values. Everything here is a composition of published primitives from maintained crates; the construction itself is described
//! in README, section "Format", completely enough to be implemented a second time.
#![forbid(unsafe_code)]
#![deny(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used
)]
#![cfg_attr(
    test,
    allow(
        clippy::arithmetic_side_effects,
        clippy::as_conversions,
        clippy::expect_used,
        clippy::indexing_slicing,
        clippy::panic,
        clippy::unwrap_used
    )
)]

pub mod aead;
pub mod blind_index;
pub mod codec;
pub mod context;
pub mod draft;
pub mod entropy;
pub mod error;
pub mod kdf;
pub mod kem;
pub mod path;
pub mod policy;
pub mod projection;
pub mod scope;
pub mod secret;
pub mod slot;
pub mod suite;
pub mod value;
pub mod value_key;
pub mod wrapper;
