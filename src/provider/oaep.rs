//! RSA-OAEP (RFC 8017, section 7.1) under a registered public key.
//!
//! Wrapping needs no secret, so it happens here, under the very key that the slot's header pins: a KMS that was led astray cannot have a share
//! encrypted to somebody else's key.

use super::{ProviderError, ProviderKey};
use crate::core::{secret::Share, suite::Algorithm};
use aws_lc_rs::rsa::{OAEP_SHA1_MGF1SHA1, OAEP_SHA256_MGF1SHA256, OaepAlgorithm, OaepPublicEncryptingKey, PublicEncryptingKey};

/// Shortest and longest modulus in bits.
const BITS: std::ops::RangeInclusive<usize> = 2048..=8192;

fn scheme(algorithm: Algorithm) -> Option<&'static OaepAlgorithm> {
    match algorithm {
        Algorithm::RsaOaepSha256 => Some(&OAEP_SHA256_MGF1SHA256),
        Algorithm::RsaOaepSha1 => Some(&OAEP_SHA1_MGF1SHA1),
        _ => None,
    }
}

fn parse(spki: &[u8]) -> Option<OaepPublicEncryptingKey> {
    let key = PublicEncryptingKey::from_der(spki).and_then(|key| Ok(OaepPublicEncryptingKey::new(key)?)).ok()?;
    BITS.contains(&key.key_size_bits()).then_some(key)
}

/// Whether the bytes are the DER SubjectPublicKeyInfo of an RSA key that may be used.
#[must_use]
pub fn is_valid_public_key(spki: &[u8]) -> bool {
    parse(spki).is_some()
}

/// Encrypts a share under the key's registered public key.
///
/// # Errors
/// [`ProviderError::Malformed`] when it has none that is an RSA key.
pub fn wrap(key: ProviderKey<'_>, share: &Share) -> Result<Vec<u8>, ProviderError> {
    let encrypted = || {
        let public = parse(key.public_key?)?;
        let mut blob = vec![0; public.ciphertext_size()];
        let len = public.encrypt(scheme(key.algorithm)?, share.expose(), &mut blob, None).ok()?.len();
        (len == blob.len()).then_some(blob)
    };
    encrypted().ok_or_else(|| ProviderError::Malformed(format!("Key \"{}\" was registered without a usable RSA public key.", key.name)))
}
