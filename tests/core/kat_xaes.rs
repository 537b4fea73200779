//! XAES-256-GCM against the vectors of the C2SP specification (c2sp.org/XAES-256-GCM, "Test vectors" and the accumulated test): whole, as the
//! crate does it, and in two steps, as values are sealed.

use super::entropy::{Scripted, Stream};
use kms_wrap::core::{aead, entropy::Entropy, error::Error, value_key::ValueKey};
use proptest::{collection::vec, prelude::*};
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
        assert_eq!(hex::encode(in_two_steps(&[key; 32], NONCE, aad, b"XAES-256-GCM")), expected);
    }
}

type Sealer = fn(key: &[u8; 32], nonce: &[u8; 24], aad: &[u8], plaintext: &[u8]) -> Vec<u8>;

/// Ciphertext and tag by the crate; opened again.
fn whole(key: &[u8; 32], nonce: &[u8; 24], aad: &[u8], plaintext: &[u8]) -> Vec<u8> {
    let sealed = aead::xaes_seal(key, aad, plaintext, &mut Scripted(nonce)).unwrap();
    assert_eq!(aead::xaes_open(key, aad, &sealed).unwrap().as_slice(), plaintext);
    sealed[24..].to_vec()
}

/// Ciphertext and tag by a message key.
fn sealed_in_two_steps(key: &[u8; 32], nonce: &[u8; 24], aad: &[u8], plaintext: &[u8]) -> Vec<u8> {
    let (prefix, counter) = (nonce[..12].try_into().unwrap(), nonce[12..].try_into().unwrap());
    let mut sealed = vec![0; plaintext.len()];
    let tag = ValueKey::new(key).message_key(prefix).seal(counter, aad, plaintext, &mut sealed).unwrap();
    sealed.extend_from_slice(&tag);
    sealed
}

/// Likewise; opened again by another message key of the same nonce.
fn in_two_steps(key: &[u8; 32], nonce: &[u8; 24], aad: &[u8], plaintext: &[u8]) -> Vec<u8> {
    let (prefix, counter) = (nonce[..12].try_into().unwrap(), nonce[12..].try_into().unwrap());
    let sealed = sealed_in_two_steps(key, nonce, aad, plaintext);
    let (ciphertext, tag) = sealed.split_last_chunk().unwrap();
    let mut opened = vec![0; plaintext.len()];
    assert_eq!(ValueKey::new(key).message_key(prefix).open(counter, aad, ciphertext, tag, &mut opened), Ok(()));
    assert_eq!(opened, plaintext);
    sealed
}

fn accumulated(rounds: usize, seal: Sealer) -> String {
    let mut stream = Stream::new("");
    let mut results = Shake128::default();
    for _ in 0..rounds {
        let key: [u8; 32] = stream.array();
        let nonce: [u8; 24] = stream.array();
        let [len] = stream.array();
        let plaintext = stream.bytes(usize::from(len));
        let [len] = stream.array();
        let aad = stream.bytes(usize::from(len));
        results.update(&seal(&key, &nonce, &aad, &plaintext));
    }
    let mut digest = [0; 32];
    results.finalize_xof().read(&mut digest);
    hex::encode(digest)
}

#[test]
fn c2sp_accumulated_10_000() {
    for seal in [whole, in_two_steps] {
        assert_eq!(accumulated(10_000, seal), "e6b9edf2df6cec60c8cbd864e2211b597fb69a529160cd040d56c0c210081939");
    }
}

#[test]
fn c2sp_accumulated_1_000_000() {
    assert_eq!(accumulated(1_000_000, sealed_in_two_steps), "2163ae1445985a30b60585ee67daa55674df06901b890593e824b8a7c885ab15");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn message_keys_are_those_of_the_crate(
        key in any::<[u8; 32]>(), nonce in any::<[u8; 24]>(), aad in vec(any::<u8>(), 0..400), plaintext in vec(any::<u8>(), 0..2000),
    ) {
        prop_assert_eq!(in_two_steps(&key, &nonce, &aad, &plaintext), whole(&key, &nonce, &aad, &plaintext));
    }

    #[test]
    fn one_message_key_serves_all_nonces_of_its_prefix(
        key in any::<[u8; 32]>(), prefix in any::<[u8; 12]>(), counters in vec(any::<[u8; 12]>(), 1..20), plaintext in vec(any::<u8>(), 0..100),
    ) {
        let message_key = ValueKey::new(&key).message_key(&prefix);
        for counter in counters {
            let nonce: [u8; 24] = [prefix, counter].concat().try_into().unwrap();
            let expected = whole(&key, &nonce, b"aad", &plaintext);
            let mut sealed = vec![0; plaintext.len()];
            let tag = message_key.seal(&counter, b"aad", &plaintext, &mut sealed).unwrap();
            prop_assert_eq!([sealed.as_slice(), &tag].concat(), expected);
        }
    }
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
