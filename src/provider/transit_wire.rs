//! What goes over the wire to a transit engine: batches, their answers, and what the server's error texts come to.
//!
//! Requests are written and plaintexts are read without a copy that is not wiped. The server's texts are looked at, never passed on.

use super::{ProviderError, ToOpen, ToWrap, http::Reply};
use crate::core::secret::Share;
use base64::{Engine, engine::general_purpose::STANDARD};
use serde::Deserialize;
use std::{borrow::Cow, collections::BTreeMap};
use zeroize::Zeroizing;

/// Most items of a request. OpenBao counts a request's JSON strings: by default 199 items with version and associated data are too many.
pub(super) const BATCH: usize = 150;

/// The type that a key would be created with, had encryption to create one. There is none of that name, so nothing ever is created.
const NO_NEW_KEY: &str = "existing-keys-only";

/// Longest blob: that of a 4096-bit RSA key takes 700 characters.
const MAX_BLOB: usize = 1024;

/// One item of a batch answer.
#[derive(Deserialize)]
pub(super) struct Item<'a> {
    plaintext: Option<&'a str>,
    ciphertext: Option<&'a str>,
    key_version: Option<u64>,
    error: Option<Cow<'a, str>>,
}

#[derive(Deserialize)]
struct Answer<T> {
    data: T,
}

#[derive(Deserialize)]
struct Batch<'a> {
    #[serde(borrow)]
    batch_results: Vec<Item<'a>>,
}

#[derive(Deserialize)]
struct Errors<'a> {
    #[serde(borrow)]
    errors: Vec<Cow<'a, str>>,
}

/// What the engine says about a key.
#[derive(Deserialize)]
pub(super) struct KeyInfo {
    pub(super) name: String,
    #[serde(rename = "type")]
    pub(super) kind: String,
    pub(super) latest_version: u32,
    #[serde(default)]
    pub(super) min_decryption_version: u32,
    #[serde(default)]
    pub(super) min_encryption_version: u32,
    pub(super) derived: bool,
    #[serde(default)]
    pub(super) soft_deleted: bool,
    keys: BTreeMap<String, serde_json::Value>,
}

impl KeyInfo {
    /// The key in an answer; `None` when it is none.
    pub(super) fn read(body: &[u8]) -> Option<Self> {
        serde_json::from_slice::<Answer<Self>>(body).ok().map(|answer| answer.data)
    }

    pub(super) fn has(&self, version: u32) -> bool {
        self.keys.contains_key(&version.to_string())
    }

    /// The public key of a version, in PEM.
    pub(super) fn public_key(&self, version: u32) -> Option<&str> {
        self.keys.get(&version.to_string())?.get("public_key")?.as_str()
    }
}

/// What the server holds against one item.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refusal {
    /// The blob itself: it does not verify, or is no blob.
    Blob,
    /// The version, for it is below the least that the key's owner allows.
    TooOld,
    /// The version, for there is none.
    NoVersion,
    /// The whole key, for the time being.
    Disabled,
    /// Something else.
    Other,
}

impl Refusal {
    fn of(text: &str) -> Self {
        const TEXTS: [(&str, Refusal); 9] = [
            ("message authentication failed", Refusal::Blob),
            ("invalid ciphertext", Refusal::Blob),
            ("decryption error", Refusal::Blob),
            ("base64", Refusal::Blob),
            ("too old", Refusal::TooOld),
            ("minimum encryption key version", Refusal::TooOld),
            ("no such key version", Refusal::NoVersion),
            ("latest key version", Refusal::NoVersion),
            ("soft-deleted", Refusal::Disabled),
        ];
        TEXTS.iter().find(|(part, _)| text.contains(part)).map_or(Self::Other, |(_, refusal)| *refusal)
    }
}

impl<'a> Item<'a> {
    /// What the server holds against it.
    pub(super) fn refusal(&self) -> Option<Refusal> {
        // An empty error is none: Go's encoders write empty fields too.
        self.error.as_deref().filter(|text| !text.is_empty()).map(Refusal::of)
    }

    /// The share, when there is a text that decodes to one.
    pub(super) fn share(&self) -> Option<Share> {
        let mut bytes = Zeroizing::new([0; 48]);
        let len = STANDARD.decode_slice(self.plaintext?, bytes.as_mut_slice()).ok()?;
        Share::copy_from(bytes.get(..len)?)
    }

    /// The blob and its version, when it is one and the answer does not contradict itself.
    pub(super) fn blob(&self) -> Option<(&'a str, u32)> {
        let (text, version) = parse_blob(self.ciphertext?.as_bytes())?;
        self.key_version.is_none_or(|told| told == u64::from(version)).then_some((text, version))
    }
}

/// The items of an answer, in their order; `None` when it is not a batch answer of that many.
pub(super) fn read_batch(body: &[u8], count: usize) -> Option<Vec<Item<'_>>> {
    let items = serde_json::from_slice::<Answer<Batch<'_>>>(body).ok()?.data.batch_results;
    (items.len() == count).then_some(items)
}

/// A version number in the one way of writing it.
pub(super) fn parse_version(text: &str) -> Option<u32> {
    let fits = text.bytes().all(|b| b.is_ascii_digit()) && !text.starts_with('0');
    fits.then(|| text.parse().ok()).flatten()
}

/// A blob as transit makes them, `vault:v1:` and base64, and its version. Other spellings of the same bytes are refused: the server's decoder
/// is lenient, and a blob that was altered must not open.
pub(super) fn parse_blob(bytes: &[u8]) -> Option<(&str, u32)> {
    let text = std::str::from_utf8(bytes).ok().filter(|text| text.len() <= MAX_BLOB)?;
    let (version, sealed) = text.strip_prefix("vault:v")?.split_once(':')?;
    let decoded = STANDARD.decode(sealed).ok()?;
    if decoded.is_empty() {
        return None;
    }
    Some((text, parse_version(version)?))
}

/// A blob as transit makes them, of what the version's public key has encrypted.
pub(super) fn blob(version: u32, sealed: &[u8]) -> Vec<u8> {
    format!("vault:v{version}:{}", STANDARD.encode(sealed)).into_bytes()
}

/// The body of a request that encrypts shares with their associated data under an existing key's version.
pub(super) fn encrypt_body(items: &[ToWrap<'_>], version: u32) -> Zeroizing<Vec<u8>> {
    let aad_len: usize = items.iter().map(|(_, aad)| aad.len()).sum();
    let mut body = Writer::with_capacity(items.len(), aad_len);
    let version = version.to_string();
    body.text(&format!("{{\"type\":\"{NO_NEW_KEY}\",\"batch_input\":["));
    for (i, (share, aad)) in items.iter().enumerate() {
        body.text(if i == 0 { "{\"plaintext\":\"" } else { ",{\"plaintext\":\"" });
        body.base64(share.expose());
        body.text("\",\"key_version\":");
        body.text(&version);
        body.end_item(Some(*aad));
    }
    body.finish()
}

/// The body of a request that decrypts blobs, with their associated data for ciphers that authenticate it. [`parse_blob`] has seen them.
pub(super) fn decrypt_body(items: &[(&str, &[u8])], with_aad: bool) -> Zeroizing<Vec<u8>> {
    let len = items.iter().map(|(blob, aad)| blob.len().saturating_add(aad.len())).sum();
    let mut body = Writer::with_capacity(items.len(), len);
    body.text("{\"batch_input\":[");
    for (i, (blob, aad)) in items.iter().enumerate() {
        body.text(if i == 0 { "{\"ciphertext\":\"" } else { ",{\"ciphertext\":\"" });
        body.text(blob);
        body.text("\"");
        body.end_item(with_aad.then_some(*aad));
    }
    body.finish()
}

/// The blobs of a batch that are worth sending, each with its place.
pub(super) fn sendable<'a>(items: &[ToOpen<'a>]) -> Vec<(usize, (&'a str, &'a [u8]))> {
    items.iter().enumerate().filter_map(|(i, (blob, aad))| Some((i, (parse_blob(blob)?.0, *aad)))).collect()
}

/// The error of an answer that is not a batch's. `key` names key and place, as the beginning of a sentence.
pub(super) fn failure(reply: &Reply, key: &str) -> ProviderError {
    let errors = serde_json::from_slice::<Errors<'_>>(&reply.body).map(|answer| answer.errors).unwrap_or_default();
    let says = |part: &str| errors.iter().any(|text| text.contains(part));
    match reply.status {
        400 if says("encryption key not found") || says(NO_NEW_KEY) => ProviderError::NotFound(format!("{key} does not exist.")),
        status => status_error(status, key),
    }
}

/// The error of a status alone.
pub(super) fn status_error(status: u16, what: &str) -> ProviderError {
    match status {
        403 => ProviderError::Denied(format!("{what}: permission denied.")),
        404 => ProviderError::NotFound(format!("{what} does not exist, or nothing is mounted there.")),
        429 => ProviderError::Throttled(format!("{what}: too many requests.")),
        501 => ProviderError::Unavailable(format!("{what}: the server is not initialized.")),
        503 => ProviderError::Unavailable(format!("{what}: the server is sealed or in maintenance.")),
        // 412: a replica that has not caught up. 472 and 473: standbys that serve no requests.
        412 | 472 | 473 | 500..=599 => ProviderError::Unavailable(format!("{what}: the server answered with status {status}.")),
        400..=499 => ProviderError::Denied(format!("{what}: the server refused the request with status {status}.")),
        _ => ProviderError::Malformed(format!("{what}: the server answered with status {status}, which the protocol does not have.")),
    }
}

/// Writes JSON into a buffer that never grows, because growing leaves copies behind.
struct Writer(Zeroizing<Vec<u8>>);

impl Writer {
    /// For `items` items with `len` bytes beside what each item has anyway.
    fn with_capacity(items: usize, len: usize) -> Self {
        Self(Zeroizing::new(Vec::with_capacity(items.saturating_mul(160).saturating_add(len.saturating_mul(2)).saturating_add(64))))
    }

    fn text(&mut self, text: &str) {
        self.0.extend_from_slice(text.as_bytes());
    }

    fn base64(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(48) {
            let mut text = Zeroizing::new([0; 64]);
            // 48 bytes make 64 characters, and only the last chunk is shorter.
            if let Ok(len) = STANDARD.encode_slice(chunk, text.as_mut_slice()) {
                self.0.extend_from_slice(text.get(..len).unwrap_or_default());
            }
        }
    }

    fn end_item(&mut self, aad: Option<&[u8]>) {
        if let Some(aad) = aad {
            self.text(",\"associated_data\":\"");
            self.base64(aad);
            self.text("\"");
        }
        self.text("}");
    }

    fn finish(mut self) -> Zeroizing<Vec<u8>> {
        self.text("]}");
        self.0
    }
}
