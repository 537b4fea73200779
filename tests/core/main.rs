//! Tests of the cryptographic core: published vectors, frozen vectors, attacks, corruption, properties.
#![allow(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    unreachable_pub,
    reason = "a test stops at what it did not expect, and a test target exports nothing"
)]

mod attacks;
mod attacks_fields;
mod attacks_paths;
mod attacks_rewrap;
mod building;
mod claims;
mod corruption;
mod entropy;
mod fixtures;
mod forge;
mod frozen;
mod frozen_values;
mod fuzz_corpus;
mod kat_aead;
mod kat_kdf;
mod kat_mlkem;
mod kat_xaes;
mod kat_xwing;
mod kms;
mod probe;
mod properties;
mod properties_policy;
mod row;
mod sealer;
mod tlv;
mod values;
mod values_index;
mod values_runs;
mod values_text;
