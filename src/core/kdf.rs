//! Hashing and key derivation: SHA-256 and SHA-384 (FIPS 180-4), HMAC (FIPS 198-1), HKDF (RFC 5869), always with SHA-384 for keys.

use super::error::Error;
use hkdf::Hkdf;
use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256, Sha384};

/// `H`, SHA-384 of the concatenated parts.
#[must_use]
pub fn sha384(parts: &[&[u8]]) -> [u8; 48] {
    let mut h = Sha384::new();
    for part in parts {
        h.update(part);
    }
    h.finalize().into()
}

/// SHA-256 of the concatenated parts.
#[must_use]
pub fn sha256(parts: &[&[u8]]) -> [u8; 32] {
    let mut h = Sha256::new();
    for part in parts {
        h.update(part);
    }
    h.finalize().into()
}

/// HKDF-SHA384 (RFC 5869, sections 2.2 and 2.3). `salt = None` is the all-zero salt of 48 bytes.
///
/// # Errors
/// [`Error::Invariant`] when `out` is longer than 255 * 48 bytes.
pub fn hkdf_sha384(salt: Option<&[u8]>, ikm: &[u8], info: &[&[u8]], out: &mut [u8]) -> Result<(), Error> {
    Hkdf::<Sha384>::new(salt, ikm).expand_multi_info(info, out).map_err(|_| Error::Invariant("HKDF output too long"))
}

/// HMAC-SHA-384 of the concatenated parts, cut to its first 32 bytes.
///
/// # Errors
/// Never in practice: HMAC takes keys of any length.
pub fn hmac_sha384_32(key: &[u8], parts: &[&[u8]]) -> Result<[u8; 32], Error> {
    let mut mac = Hmac::<Sha384>::new_from_slice(key).map_err(|_| Error::Invariant("HMAC key"))?;
    for part in parts {
        mac.update(part);
    }
    let tag: [u8; 48] = mac.finalize().into_bytes().into();
    tag.first_chunk::<32>().copied().ok_or(Error::Invariant("HMAC length"))
}
