//! X-Wing against the vectors of draft-connolly-cfrg-xwing-kem (tests/vectors/xwing.json).

use super::entropy::Scripted;
use kms_wrap::core::{
    error::Error,
    kem::{self, PrivateKey},
    suite::Algorithm::XWing,
};
use serde_json::Value;

fn vectors() -> Vec<Value> {
    let file: Value = serde_json::from_str(include_str!("../vectors/xwing.json")).unwrap();
    file["vectors"].as_array().unwrap().clone()
}

fn bytes(vector: &Value, name: &str) -> Vec<u8> {
    hex::decode(vector[name].as_str().unwrap()).unwrap()
}

#[test]
fn draft_vectors() {
    let vectors = vectors();
    assert_eq!(vectors.len(), 3);
    for vector in &vectors {
        let key = PrivateKey::from_seed(XWing, &bytes(vector, "seed")).unwrap();
        assert_eq!(key.encapsulation_key(), bytes(vector, "pk"));
        let (ciphertext, secret) = kem::encapsulate(XWing, &bytes(vector, "pk"), &mut Scripted(&bytes(vector, "eseed"))).unwrap();
        assert_eq!(ciphertext, bytes(vector, "ct"));
        assert_eq!(secret.expose().as_slice(), bytes(vector, "ss"));
        assert_eq!(key.decapsulate(&ciphertext).unwrap().expose().as_slice(), bytes(vector, "ss"));
    }
}

#[test]
fn altered_ciphertext_gives_another_secret() {
    let vector = &vectors()[0];
    let key = PrivateKey::from_seed(XWing, &bytes(vector, "seed")).unwrap();
    // In the ML-KEM part and in the X25519 part.
    for at in [0, 1087, 1088, 1119] {
        let mut altered = bytes(vector, "ct");
        altered[at] ^= 1;
        assert_ne!(key.decapsulate(&altered).unwrap().expose().as_slice(), bytes(vector, "ss"), "offset {at}");
    }
}

/// The ML-KEM half of the key is under the modulus check of FIPS 203 like any other.
#[test]
fn a_key_with_coefficients_past_the_modulus_is_refused() {
    let mut pk = bytes(&vectors()[0], "pk");
    pk[..3].copy_from_slice(&[0xff; 3]);
    assert!(!kem::is_valid_encapsulation_key(XWing, &pk));
    assert!(matches!(kem::encapsulate(XWing, &pk, &mut Scripted(&[0; 64])), Err(Error::InvalidPublicKey)));
}
