//! Authenticated encryption: AES-256-GCM (NIST SP 800-38D) and XAES-256-GCM (C2SP XAES-256-GCM).

use super::{entropy::Entropy, error::Error};
use aes_gcm::{
    Aes256Gcm,
    aead::{Aead, KeyInit, Payload},
};
use xaes_256_gcm::Xaes256Gcm;
use zeroize::Zeroizing;

/// Bytes that a GCM tag adds to a plaintext.
pub const TAG_LEN: usize = 16;

/// Bytes of an XAES-256-GCM nonce, which [`xaes_seal`] puts in front.
pub const XAES_NONCE_LEN: usize = 24;

/// AES-256-GCM; returns ciphertext and tag. The caller owes that a key and nonce pair is used once.
///
/// # Errors
/// [`Error::Invariant`] when the plaintext is longer than GCM allows (2^36 - 32 bytes).
pub fn gcm_seal(key: &[u8; 32], nonce: &[u8; 12], aad: &[u8], plaintext: &[u8]) -> Result<Vec<u8>, Error> {
    Aes256Gcm::new(key.into()).encrypt(nonce.into(), Payload { msg: plaintext, aad }).map_err(|_| Error::Invariant("AES-GCM limit"))
}

/// AES-256-GCM; `None` when the tag does not verify.
#[must_use]
pub fn gcm_open(key: &[u8; 32], nonce: &[u8; 12], aad: &[u8], sealed: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    Aes256Gcm::new(key.into()).decrypt(nonce.into(), Payload { msg: sealed, aad }).ok().map(Zeroizing::new)
}

/// XAES-256-GCM with 24 random nonce bytes; returns nonce, ciphertext and tag. One key serves 2^80 messages (C2SP XAES-256-GCM, "Overview").
///
/// # Errors
/// [`Error::Entropy`] when the source fails; [`Error::Invariant`] when the plaintext is longer than GCM allows.
pub fn xaes_seal(key: &[u8; 32], aad: &[u8], plaintext: &[u8], entropy: &mut impl Entropy) -> Result<Vec<u8>, Error> {
    let mut nonce = [0; XAES_NONCE_LEN];
    entropy.fill(&mut nonce)?;
    let sealed = Xaes256Gcm::new(key.into())
        .encrypt((&nonce).into(), Payload { msg: plaintext, aad })
        .map_err(|_| Error::Invariant("XAES-256-GCM limit"))?;
    Ok([nonce.as_slice(), &sealed].concat())
}

/// XAES-256-GCM over nonce, ciphertext and tag; `None` when it is too short or the tag does not verify.
#[must_use]
pub fn xaes_open(key: &[u8; 32], aad: &[u8], sealed: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    let (nonce, sealed) = sealed.split_first_chunk::<XAES_NONCE_LEN>()?;
    Xaes256Gcm::new(key.into()).decrypt(nonce.into(), Payload { msg: sealed, aad }).ok().map(Zeroizing::new)
}
