//! Signed statements (RFC 7519, RFC 7518) that prove an identity to a token endpoint.

use aws_lc_rs::{
    rand::SystemRandom,
    signature::{RsaEncoding, RsaKeyPair},
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use rustls::pki_types::{PrivateKeyDer, pem::PemObject};
use serde_json::Value;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use zeroize::Zeroizing;

/// Reads a private RSA key in PEM.
pub(super) fn key(pem: &[u8]) -> Option<RsaKeyPair> {
    match PrivateKeyDer::from_pem_slice(pem).ok()? {
        PrivateKeyDer::Pkcs8(der) => RsaKeyPair::from_pkcs8(der.secret_pkcs8_der()).ok(),
        PrivateKeyDer::Pkcs1(der) => RsaKeyPair::from_der(der.secret_pkcs1_der()).ok(),
        _ => None,
    }
}

/// The statement, signed. The encoding is the header's algorithm: PKCS #1 of RS256, PSS of PS256.
pub(super) fn sign(header: &Value, claims: &Value, key: &RsaKeyPair, encoding: &'static dyn RsaEncoding) -> Option<Zeroizing<String>> {
    let encode = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
    let signed = format!("{}.{}", encode(header.to_string().as_bytes()), encode(claims.to_string().as_bytes()));
    let mut signature = vec![0; key.public_modulus_len()];
    key.sign(encoding, &SystemRandom::new(), signed.as_bytes(), &mut signature).ok()?;
    Some(Zeroizing::new(format!("{signed}.{}", encode(&signature))))
}

/// Now, and the end of what is signed now, in seconds since 1970.
pub(super) fn times(lifetime: Duration) -> Option<(u64, u64)> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).ok()?.as_secs();
    Some((now, now.checked_add(lifetime.as_secs())?))
}
