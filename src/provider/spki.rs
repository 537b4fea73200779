//! Public KEM keys as PEM SubjectPublicKeyInfo (RFC 5280, section 4.1.2.7; RFC 7468), which OpenTDF's columns hold base64-encoded once more.

use crate::core::suite::Algorithm;
use base64::{Engine, engine::general_purpose::STANDARD};

/// Content octets of the algorithm's OBJECT IDENTIFIER, and the number that OpenTDF's `key_algorithm` gives it.
/// ML-KEM: NIST CSOR 2.16.840.1.101.3.4.4.2 and .3. X-Wing: 1.3.6.1.4.1.62253.25722.
const fn identifiers(algorithm: Algorithm) -> Option<(&'static [u8], i32)> {
    match algorithm {
        Algorithm::MlKem768 => Some((&[0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x04, 0x02], 20)),
        Algorithm::MlKem1024 => Some((&[0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x04, 0x03], 21)),
        Algorithm::XWing => Some((&[0x2b, 0x06, 0x01, 0x04, 0x01, 0x83, 0xe6, 0x2d, 0x81, 0xc8, 0x7a], 6)),
        Algorithm::Xaes256Gcm | Algorithm::Aes256Gcm | Algorithm::RsaOaepSha256 | Algorithm::RsaOaepSha1 => None,
    }
}

/// OpenTDF's number of a KEM; `None` for other algorithms.
#[must_use]
pub fn opentdf_number(algorithm: Algorithm) -> Option<i32> {
    identifiers(algorithm).map(|(_, number)| number)
}

/// The KEM of an OpenTDF number; `None` for numbers of algorithms that are not implemented.
#[must_use]
pub fn from_opentdf_number(number: i32) -> Option<Algorithm> {
    Algorithm::ALL.into_iter().find(|a| opentdf_number(*a) == Some(number))
}

/// The SubjectPublicKeyInfo (DER) of a KEM's public key; `None` for other algorithms.
#[must_use]
pub fn to_der(algorithm: Algorithm, key: &[u8]) -> Option<Vec<u8>> {
    let (oid, _) = identifiers(algorithm)?;
    let identifier = der(0x30, &der(0x06, oid)?)?;
    let bits = der(0x03, &[&[0], key].concat())?;
    der(0x30, &[identifier, bits].concat())
}

/// A KEM's public key out of what [`to_der`] made; `None` for anything else.
#[must_use]
pub fn from_der(algorithm: Algorithm, der: &[u8]) -> Option<Vec<u8>> {
    let len = crate::core::kem::sizes(algorithm)?.encapsulation_key;
    let key = der.get(der.len().checked_sub(len)?..)?;
    (to_der(algorithm, key)? == der).then(|| key.to_vec())
}

/// Base64 of the PEM text of a KEM's public key; `None` for other algorithms.
#[must_use]
pub fn encode_public_key(algorithm: Algorithm, key: &[u8]) -> Option<String> {
    let body = STANDARD.encode(to_der(algorithm, key)?);
    let lines: Vec<_> = body.as_bytes().chunks(64).map(String::from_utf8_lossy).collect();
    Some(STANDARD.encode(format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n", lines.join("\n"))))
}

/// The public key out of what [`encode_public_key`] made; `None` for anything else.
#[must_use]
pub fn decode_public_key(algorithm: Algorithm, encoded: &str) -> Option<Vec<u8>> {
    let pem = String::from_utf8(STANDARD.decode(encoded).ok()?).ok()?;
    let body: String = pem.lines().filter(|line| !line.starts_with("-----")).collect();
    let key = from_der(algorithm, &STANDARD.decode(body).ok()?)?;
    (encode_public_key(algorithm, &key)? == encoded).then_some(key)
}

/// An RSA public key as DER SubjectPublicKeyInfo (RFC 3279, section 2.3.1); `None` above 65,535 bytes. Takes the big-endian numbers with or
/// without zeros in front.
#[must_use]
pub fn rsa(modulus: &[u8], exponent: &[u8]) -> Option<Vec<u8>> {
    // 1.2.840.113549.1.1.1 with NULL parameters
    let identifier = der(0x30, &[der(0x06, &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01])?, der(0x05, &[])?].concat())?;
    let key = der(0x30, &[integer(modulus)?, integer(exponent)?].concat())?;
    der(0x30, &[identifier, der(0x03, &[&[0], key.as_slice()].concat())?].concat())
}

/// A positive INTEGER in as few octets as it takes (X.690, section 8.3.2); `None` for zero.
fn integer(number: &[u8]) -> Option<Vec<u8>> {
    let digits = number.get(number.iter().position(|byte| *byte != 0)?..)?;
    let sign: &[u8] = if digits.first()? & 0x80 == 0 { &[] } else { &[0] };
    der(0x02, &[sign, digits].concat())
}

/// One DER element with a definite length (X.690, section 8.1.3); `None` above 65,535 bytes.
fn der(tag: u8, content: &[u8]) -> Option<Vec<u8>> {
    let len = u16::try_from(content.len()).ok()?;
    let [high, low] = len.to_be_bytes();
    let length = match len {
        0..=0x7f => vec![low],
        0x80..=0xff => vec![0x81, low],
        _ => vec![0x82, high, low],
    };
    Some([&[tag], length.as_slice(), content].concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ml_kem_768_has_the_prefix_of_the_standard() {
        let pem = String::from_utf8(STANDARD.decode(encode_public_key(Algorithm::MlKem768, &[7; 1184]).unwrap()).unwrap()).unwrap();
        let body: String = pem.lines().filter(|l| !l.starts_with("-----")).collect();
        let der = STANDARD.decode(body).unwrap();
        assert_eq!(hex::encode(&der[..22]), "308204b2300b06096086480165030404020382 04a100".replace(' ', ""));
        assert_eq!(der.len(), 22 + 1184);
        assert_eq!(
            decode_public_key(Algorithm::MlKem768, &encode_public_key(Algorithm::MlKem768, &[7; 1184]).unwrap()),
            Some(vec![7; 1184])
        );
        assert_eq!(decode_public_key(Algorithm::MlKem1024, &encode_public_key(Algorithm::MlKem768, &[7; 1184]).unwrap()), None);
    }

    #[test]
    fn x_wing_oid_is_the_drafts() {
        // 62253 = 3*2^14 + 0x66*2^7 + 0x2d, 25722 = 1*2^14 + 0x48*2^7 + 0x7a (X.690, section 8.19.2).
        assert_eq!(3 * 16384 + 0x66 * 128 + 0x2d, 62253);
        assert_eq!(16384 + 0x48 * 128 + 0x7a, 25722);
        assert!(encode_public_key(Algorithm::XWing, &[0; 1216]).is_some());
        assert_eq!(from_opentdf_number(6), Some(Algorithm::XWing));
    }
}
