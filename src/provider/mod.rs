//! Key providers: who protects a slot's share. One seam, one file a kind; no PostgreSQL.
//!
//! A provider gets a batch for one key and answers item by item. It may do I/O; the embedded `local` kind reads its root key file, nothing else.
//! An item that the key rejects is a value (`None`), not an error: only the caller may decide what a wrapper that does not open means.
#![forbid(unsafe_code)]

pub mod entropy;
pub mod local;
pub mod root_key;
pub mod spki;

use crate::core::slot::KeyRef;

/// Whether a provider kind authenticates `slot_aad` along with the share.
#[must_use]
pub fn binds_aad(key_ref: &KeyRef) -> bool {
    key_ref.kind == local::KIND
}

/// Why a provider gave no answer. Never holds bytes or text that a provider sent.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum ProviderError {
    /// Cannot be reached now: another path may be tried, or the same again later. The text says what was looked for.
    Unavailable(String),
    /// Refuses: wrong root key, wrong rights. The text says what is wrong and what was expected.
    Denied(String),
    /// What it holds of the key is not what was registered.
    Malformed(String),
}

impl ProviderError {
    /// What is wrong, as a full sentence.
    #[must_use]
    pub fn detail(&self) -> &str {
        match self {
            Self::Unavailable(text) | Self::Denied(text) | Self::Malformed(text) => text,
        }
    }
}
