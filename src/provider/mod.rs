//! Key providers: who protects a slot's share. One seam, one file a kind; no PostgreSQL.
//!
//! A provider gets a batch for one key and answers item by item. An item that the key rejects is a value (`None`), not an error: only the
//! caller may decide what a wrapper that does not open means. Calls are futures that the caller drives on its own thread, and drops when its
//! deadline has passed or its user has cancelled; none of them starts a thread, and none outlives the call.
#![forbid(unsafe_code)]

mod ahead;
#[cfg(feature = "aws")]
pub mod aws;
#[cfg(feature = "aws")]
mod aws_config;
#[cfg(feature = "aws")]
mod aws_credentials;
#[cfg(feature = "aws")]
mod aws_request;
#[cfg(feature = "azure")]
pub mod azure;
#[cfg(feature = "azure")]
mod azure_config;
#[cfg(feature = "azure")]
mod azure_credentials;
#[cfg(any(feature = "azure", feature = "gcp"))]
// Each kind uses a part of it.
#[cfg_attr(not(feature = "gcp"), allow(dead_code))]
mod bearer;
pub mod breaker;
#[cfg(any(feature = "aws", feature = "azure", feature = "gcp"))]
mod cloud;
pub mod config;
#[cfg(feature = "gcp")]
mod crc32c;
pub mod credentials;
pub mod endpoint;
pub mod entropy;
#[cfg(feature = "gcp")]
pub mod gcp;
#[cfg(feature = "gcp")]
mod gcp_config;
#[cfg(feature = "gcp")]
mod gcp_credentials;
pub mod http;
#[cfg(any(feature = "azure", feature = "gcp"))]
mod jwt;
pub mod local;
pub mod oaep;
pub mod patience;
pub mod pkcs11;
pub mod pkcs11_crypto;
pub mod pkcs11_error;
pub mod pkcs11_keys;
pub mod pkcs11_module;
pub mod pkcs11_pin;
pub mod probe;
pub mod root_key;
#[cfg(any(feature = "aws", feature = "azure", feature = "gcp"))]
// Likewise.
#[cfg_attr(not(any(feature = "azure", feature = "gcp")), allow(dead_code))]
mod secret_json;
pub mod spki;
pub mod transit;
mod transit_auth;
mod transit_wire;

use crate::core::{kem::SharedSecret, secret::Share, slot::KeyRef, suite::Algorithm};
use std::{future::Future, pin::Pin};

/// A key at a provider, as the catalog pins it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProviderKey<'a> {
    /// The provider's name for the key.
    pub name: &'a str,
    /// The version that new shares are wrapped under; empty where the provider cannot pin one. What was wrapped opens by the version that
    /// the blob itself names.
    pub version: &'a str,
    /// Its algorithm.
    pub algorithm: Algorithm,
    /// The public key that was registered: of a KEM its encapsulation key, of RSA a DER SubjectPublicKeyInfo.
    pub public_key: Option<&'a [u8]>,
}

/// A share to be wrapped, and the slot's AAD that it is bound to.
pub type ToWrap<'a> = (&'a Share, &'a [u8]);

/// A blob as [`Provider::wrap`] returned it, and the slot's AAD that it must be bound to.
pub type ToOpen<'a> = (&'a [u8], &'a [u8]);

/// What a call gives in the end.
pub type Answer<'a, T> = Pin<Box<dyn Future<Output = Result<T, ProviderError>> + 'a>>;

/// What a kind of provider can do. The same for every provider of a kind, since it decides what a wrapper proves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(clippy::struct_excessive_bools)] // a table of independent facts
pub struct Capabilities {
    /// Its symmetric keys authenticate the slot's AAD, or a hash of it, along with the share.
    pub binds_context: bool,
    /// A request can pin the key's version, and the answer shows it.
    pub shows_version: bool,
    /// One request carries several items.
    pub batches: bool,
    /// Calls give way while they wait, so that they end with a deadline or a cancel.
    pub interruptible: bool,
}

/// What a provider says about a key when it is registered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Description {
    /// The name that requests must use: aliases are resolved.
    pub name: String,
    /// The current version; empty where the provider has none.
    pub version: String,
    /// What the key does.
    pub algorithm: Algorithm,
    /// The public key of an asymmetric key: of a KEM its encapsulation key, of RSA a DER SubjectPublicKeyInfo.
    pub public_key: Option<Vec<u8>>,
}

/// One KMS with one configuration.
pub trait Provider {
    /// What its kind can do.
    fn capabilities(&self) -> Capabilities;

    /// Whether keys of this algorithm wrap here, under their registered public keys: that the KMS answers is not shown by it.
    fn wraps_here(&self, _algorithm: Algorithm) -> bool {
        false
    }

    /// Wraps shares, each bound to its AAD, under the key's pinned version. Answers stand in the order of the items.
    fn wrap<'a>(&'a self, key: ProviderKey<'a>, items: &'a [ToWrap<'a>]) -> Answer<'a, Vec<Vec<u8>>>;

    /// Unwraps shares; `None` for an item that does not verify or is not a share. Answers stand in the order of the items.
    fn unwrap<'a>(&'a self, key: ProviderKey<'a>, items: &'a [ToOpen<'a>]) -> Answer<'a, Vec<Option<Share>>>;

    /// Decapsulates with a KEM key; `None` for a ciphertext of the wrong length. Answers stand in the order of the ciphertexts.
    fn decapsulate<'a>(&'a self, key: ProviderKey<'a>, _ciphertexts: &'a [&'a [u8]]) -> Answer<'a, Vec<Option<SharedSecret>>> {
        Box::pin(async move { Err(ProviderError::Denied(format!("Key \"{}\" is not a KEM key.", key.name))) })
    }

    /// Looks a key up. Never creates one.
    fn describe<'a>(&'a self, name: &'a str, version: Option<&'a str>, algorithm: Algorithm) -> Answer<'a, Description>;

    /// Whether the KMS answers and accepts the credentials. Asks for no key.
    fn health(&self) -> Answer<'_, ()>;
}

/// Whether the symmetric keys of a provider kind authenticate `slot_aad` along with the share.
#[must_use]
pub fn binds_aad(key_ref: &KeyRef) -> bool {
    config::capabilities(&key_ref.kind).is_some_and(|c| c.binds_context)
}

/// Why a provider gave no answer. Never holds bytes or text that a provider sent.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum ProviderError {
    /// Cannot be reached now: another path may be tried, or the same again later. The text says what was looked for.
    Unavailable(String),
    /// Wants fewer requests: like [`Self::Unavailable`].
    Throttled(String),
    /// Refuses: wrong root key, wrong rights, disabled key. The text says what is wrong and what was expected.
    Denied(String),
    /// Has no such key.
    NotFound(String),
    /// Its answer is not what the protocol or the registered key promises.
    Malformed(String),
}

impl ProviderError {
    /// What is wrong, as a full sentence.
    #[must_use]
    pub fn detail(&self) -> &str {
        match self {
            Self::Unavailable(text) | Self::Throttled(text) | Self::Denied(text) | Self::NotFound(text) | Self::Malformed(text) => text,
        }
    }

    /// The word that health checks and jobs keep: `unavailable`, `throttled`, `denied`, `not_found` or `malformed`.
    #[must_use]
    pub const fn class(&self) -> &'static str {
        match self {
            Self::Unavailable(_) => "unavailable",
            Self::Throttled(_) => "throttled",
            Self::Denied(_) => "denied",
            Self::NotFound(_) => "not_found",
            Self::Malformed(_) => "malformed",
        }
    }

    /// Whether the same call may work a moment later, or by another path.
    #[must_use]
    pub const fn is_outage(&self) -> bool {
        matches!(self, Self::Unavailable(_) | Self::Throttled(_))
    }

    /// The same with another text.
    #[must_use]
    pub fn with_detail(self, text: String) -> Self {
        match self {
            Self::Unavailable(_) => Self::Unavailable(text),
            Self::Throttled(_) => Self::Throttled(text),
            Self::Denied(_) => Self::Denied(text),
            Self::NotFound(_) => Self::NotFound(text),
            Self::Malformed(_) => Self::Malformed(text),
        }
    }
}
