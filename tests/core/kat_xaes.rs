//! XAES-256-GCM against the vectors of the C2SP specification (c2sp.org/XAES-256-GCM, "Test vectors" and the accumulated test).

use super::entropy::{Scripted, Stream};
use kms_wrap::core::{aead, entropy::Entropy, error::Error};
use shake::{
    Shake128,
    digest::{ExtendableOutput, Update, XofReader},
};

const NONCE: &[u8; 24] = b"ABCDEFGHIJKLMNOPQRSTUVWX";

#[test]
fn c2sp_single_vectors() {
    let vectors: [(u8, &[u8], &str); 2] = [
        (0x01, b"", "ce546ef63c9cc60765923609b33a9a1974e96e52daf2fcf7075e2271"),
        (0x03, b"c2sp.org/XAES-256-GCM", "986ec1832593df5443a179437fd083bf3fdb41abd740a21f71eb769d"),
    ];
    for (key, aad, expected) in vectors {
        let sealed = aead::xaes_seal(&[key; 32], aad, b"XAES-256-GCM", &mut Scripted(NONCE)).unwrap();
        assert_eq!(sealed[..24], NONCE[..]);
        assert_eq!(hex::encode(&sealed[24..]), expected);
        assert_eq!(aead::xaes_open(&[key; 32], aad, &sealed).unwrap().as_slice(), b"XAES-256-GCM");
        assert!(aead::xaes_open(&[key; 32], b"another", &sealed).is_none());
    }
}

#[test]
fn c2sp_accumulated_10_000() {
    let mut stream = Stream::new("");
    let mut results = Shake128::default();
    for _ in 0..10_000 {
        let key: [u8; 32] = stream.array();
        let nonce: [u8; 24] = stream.array();
        let [len] = stream.array();
        let plaintext = stream.bytes(usize::from(len));
        let [len] = stream.array();
        let aad = stream.bytes(usize::from(len));
        let sealed = aead::xaes_seal(&key, &aad, &plaintext, &mut Scripted(&nonce)).unwrap();
        assert_eq!(aead::xaes_open(&key, &aad, &sealed).unwrap().as_slice(), plaintext);
        results.update(&sealed[24..]);
    }
    let mut digest = [0; 32];
    results.finalize_xof().read(&mut digest);
    assert_eq!(hex::encode(digest), "e6b9edf2df6cec60c8cbd864e2211b597fb69a529160cd040d56c0c210081939");
}

#[test]
fn a_failing_source_of_randomness_seals_nothing() {
    assert_eq!(aead::xaes_seal(&[1; 32], b"", b"x", &mut Scripted(&NONCE[1..])), Err(Error::Entropy));
}

/// The scripted source is no weaker than the trait: what it did not give stays an error.
#[test]
fn a_script_that_ran_out_fails() {
    let mut script = Scripted(b"abc");
    let mut out = [0; 2];
    assert_eq!(script.fill(&mut out), Ok(()));
    assert_eq!(script.fill(&mut out), Err(Error::Entropy));
}
