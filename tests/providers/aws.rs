//! Keys of provider kind `aws`, against a double that answers as the API reference says: what moto lacks is in here too.

use crate::{
    aws_double::{self, Double, Fault, REGION},
    conformance::{self, Keys},
    fixture::{Directory, run, threads},
};
use kms_wrap::{
    core::{kem, secret::Share, suite::Algorithm},
    provider::{Provider, ProviderError, ProviderKey, entropy::SystemEntropy},
};
use serde_json::json;
use std::{
    rc::Rc,
    time::{Duration, Instant},
};

pub(crate) const ID: &str = "AKIAEXAMPLE";
pub(crate) const SECRET: &str = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY";

pub(crate) fn directory() -> Directory {
    let directory = Directory::new();
    directory.write("aws", profile("default", ID, SECRET).as_bytes());
    directory
}

pub(crate) fn profile(name: &str, id: &str, secret: &str) -> String {
    format!("[{name}]\naws_access_key_id = {id}\naws_secret_access_key = {secret}\n")
}

pub(crate) fn key(name: &str, algorithm: Algorithm) -> ProviderKey<'_> {
    ProviderKey { name, version: "", algorithm, public_key: None }
}

pub(crate) fn aes(name: &str) -> ProviderKey<'_> {
    key(name, Algorithm::Aes256Gcm)
}

pub(crate) fn share() -> Share {
    Share::random(&mut SystemEntropy).unwrap()
}

/// No secret, no text of a server.
pub(crate) fn check_text(error: &ProviderError, needed: &[&str]) {
    let text = error.detail();
    for word in needed {
        assert!(text.contains(word), "{word} is missing in: {text}");
    }
    for word in ["secret words", SECRET, "user/u", "security token included", "customer master key", "refers to", "calculated"] {
        assert!(!text.contains(word), "{text}");
    }
    assert!(text.ends_with('.') && !text.ends_with(".."), "{text}");
}

pub(crate) async fn double() -> (Double, Directory, Rc<dyn Provider>) {
    let (double, directory) = (Double::start().await, directory());
    double.identity(ID, SECRET, None);
    let provider = directory.provider("aws", &json!({"region": REGION, "endpoint": double.url, "credentials_file": "aws"}));
    (double, directory, provider)
}

pub(crate) fn keys(key: &str, other: &str, algorithm: Algorithm) -> Keys {
    let wrong_algorithm = if algorithm == Algorithm::Aes256Gcm { Algorithm::RsaOaepSha256 } else { Algorithm::Aes256Gcm };
    Keys {
        key: key.to_owned(),
        other: other.to_owned(),
        unknown: unknown(key),
        algorithm,
        wrong_algorithm,
        binds: algorithm == Algorithm::Aes256Gcm,
        describes: true,
        most: 1000,
    }
}

/// An ARN that no key has.
pub(crate) fn unknown(arn: &str) -> String {
    format!("{}{:012}", &arn[..arn.len() - 12], 0)
}

/// What is said about a symmetric key.
pub(crate) async fn described(provider: &dyn Provider, name: &str) {
    let one = share();
    let described = provider.describe(name, None, Algorithm::Aes256Gcm).await.unwrap();
    assert_eq!((described.name.as_str(), described.version.as_str(), described.public_key), (name, "", None));
    assert_eq!(described.algorithm, Algorithm::Aes256Gcm);
    let id = name.rsplit('/').next().unwrap();
    assert_eq!(provider.describe(id, None, Algorithm::Aes256Gcm).await.unwrap().name, name);
    let wrong = provider.describe(name, None, Algorithm::RsaOaepSha256).await.unwrap_err();
    assert_eq!(wrong.class(), "malformed");
    check_text(&wrong, &["of type AES-256-GCM, not RSA-OAEP-SHA256", name]);
    assert_eq!(provider.describe(name, Some("2"), Algorithm::Aes256Gcm).await.unwrap_err().class(), "not_found");

    let unknown = unknown(name);
    for name in [unknown.as_str(), "alias/none", "../../../etc/passwd", "alias/../x?y#z"] {
        let error = provider.describe(name, None, Algorithm::Aes256Gcm).await.unwrap_err();
        assert_eq!(error.class(), "not_found", "{name}: {}", error.detail());
        check_text(&error, &[name]);
    }
    for algorithm in [Algorithm::Xaes256Gcm, Algorithm::MlKem768, Algorithm::XWing] {
        let error = provider.wrap(key(name, algorithm), &[(&one, b"")]).await.unwrap_err();
        assert_eq!(error.class(), "denied");
    }
    provider.health().await.unwrap();
}

#[test]
fn double_symmetric_keys() {
    run(|| async {
        let (double, _directory, provider) = double().await;
        let (name, other) = (double.symmetric(), double.symmetric());
        conformance::overlap(&*provider, &name).await;
        assert!((2..=8).contains(&double.state.most_at_once.get()), "{}", double.state.most_at_once.get());
        conformance::run(Rc::clone(&provider), keys(&name, &other, Algorithm::Aes256Gcm)).await;
        described(&*provider, &name).await;

        // A plaintext that is no share.
        let blob = provider.wrap(aes(&name), &[(&share(), b"")]).await.unwrap();
        for wrong in ["", "AAAA", &"A".repeat(88)] {
            double.fault(Fault::Field("Plaintext", json!(wrong)));
            assert!(provider.unwrap(aes(&name), &[(&blob[0], b"")]).await.unwrap()[0].is_none());
        }
        assert!(provider.unwrap(aes(&name), &[(&blob[0], b"")]).await.unwrap()[0].is_some());
    });
}

#[test]
fn a_thousand_items_keep_their_order() {
    run(|| async {
        let (double, _directory, provider) = double().await;
        let name = double.symmetric();
        let shares: Vec<_> = (0..1000).map(|_| share()).collect();
        // The first ones are answered last.
        for ms in [40, 30, 20, 10] {
            double.fault(Fault::Delay(ms));
        }
        let items: Vec<_> = shares.iter().map(|s| (s, &b"aad"[..])).collect();
        let blobs = provider.wrap(aes(&name), &items).await.unwrap();
        let open: Vec<_> = blobs.iter().map(|b| (b.as_slice(), &b"aad"[..])).collect();
        for (share, opened) in shares.iter().zip(provider.unwrap(aes(&name), &open).await.unwrap()) {
            assert!(bool::from(share.ct_eq(&opened.unwrap())));
        }
    });
}

#[test]
fn aliases_are_resolved() {
    run(|| async {
        let (double, _directory, provider) = double().await;
        let name = double.symmetric();
        double.state.aliases.borrow_mut().insert("alias/app".to_owned(), name.clone());
        assert_eq!(provider.describe("alias/app", Some(""), Algorithm::Aes256Gcm).await.unwrap().name, name);
        // An alias is no name to wrap under: it may lead elsewhere tomorrow.
        let error = provider.wrap(aes("alias/app"), &[(&share(), b"")]).await.unwrap_err();
        assert_eq!(error.class(), "malformed");
    });
}

#[test]
fn rsa_keys_are_pinned_by_their_public_key() {
    run(|| async {
        let (double, _directory, provider) = double().await;
        let (name, other) = (double.rsa(), double.rsa());
        for algorithm in [Algorithm::RsaOaepSha256, Algorithm::RsaOaepSha1] {
            let described = provider.describe(&name, None, algorithm).await.unwrap();
            assert_eq!((&described.name, described.algorithm), (&name, algorithm));
            let public = described.public_key.unwrap();
            let key = ProviderKey { public_key: Some(&public), ..key(&name, algorithm) };
            let (one, two) = (share(), share());
            let blobs = provider.wrap(key, &[(&one, b"1"), (&two, b"2")]).await.unwrap();
            assert_eq!(blobs[0].len(), 256);
            let mut flipped = blobs[0].clone();
            flipped[100] ^= 1;
            let items: Vec<(&[u8], &[u8])> =
                vec![(&blobs[1], b"2"), (&flipped, b"1"), (&blobs[0][..255], b"1"), (&blobs[0], b"1"), (b"", b"")];
            let opened = provider.unwrap(key, &items).await.unwrap();
            assert_eq!(opened.iter().map(Option::is_some).collect::<Vec<_>>(), [true, false, false, true, false]);
            assert!(bool::from(opened[0].as_ref().unwrap().ct_eq(&two)) && bool::from(opened[3].as_ref().unwrap().ct_eq(&one)));
            // Under the pinned key, whatever the KMS says that the name means today.
            let other = self::key(&other, algorithm);
            assert!(provider.unwrap(other, &[(&blobs[0], b"1")]).await.unwrap()[0].is_none());
            for bad in [None, Some(&b""[..]), Some(&public[..100])] {
                let error = provider.wrap(ProviderKey { public_key: bad, ..key }, &[(&one, b"1")]).await.unwrap_err();
                assert_eq!(error.class(), "malformed");
            }
        }
        assert_eq!(double.count("Encrypt"), 0);
        double.fault(Fault::Raw(200, "{}"));
        assert_eq!(provider.describe(&name, None, Algorithm::RsaOaepSha256).await.unwrap_err().class(), "malformed");
        let wrong = provider.describe(&name, None, Algorithm::Aes256Gcm).await.unwrap_err();
        check_text(&wrong, &["of type RSA, not AES-256-GCM"]);
    });
}

#[test]
fn ml_kem_keys_decapsulate() {
    run(|| async {
        let (double, _directory, provider) = double().await;
        for algorithm in [Algorithm::MlKem768, Algorithm::MlKem1024] {
            let name = double.kem(algorithm);
            let described = provider.describe(&name, None, algorithm).await.unwrap();
            let public = described.public_key.unwrap();
            assert_eq!(public.len(), kem::sizes(algorithm).unwrap().encapsulation_key);
            let made: Vec<_> = (0..3).map(|_| kem::encapsulate(algorithm, &public, &mut SystemEntropy).unwrap()).collect();
            let mut altered = made[2].0.clone();
            altered[9] ^= 1;
            let cts: Vec<&[u8]> = vec![&made[0].0, b"short", &made[1].0, &altered, &made[2].0[1..]];
            let key = ProviderKey { public_key: Some(&public), ..key(&name, algorithm) };
            let opened = provider.decapsulate(key, &cts).await.unwrap();
            assert_eq!(opened.iter().map(Option::is_some).collect::<Vec<_>>(), [true, false, true, true, false]);
            let same = |i: usize, j: usize| bool::from(opened[i].as_ref().unwrap().ct_eq(&made[j].1));
            assert!(same(0, 0) && same(2, 1) && !same(3, 2));
            let wrong = if algorithm == Algorithm::MlKem768 { Algorithm::MlKem1024 } else { Algorithm::MlKem768 };
            assert_eq!(provider.describe(&name, None, wrong).await.unwrap_err().class(), "malformed");
            assert_eq!(provider.decapsulate(aes(&name), &cts).await.err().unwrap().class(), "denied");
            double.fault(Fault::Field("KeyId", json!(aws_double::arn("other"))));
            assert_eq!(provider.decapsulate(key, &cts).await.err().unwrap().class(), "malformed");
        }
    });
}

#[test]
fn states_of_a_key_are_told_apart() {
    run(|| async {
        let (double, _directory, provider) = double().await;
        let name = double.symmetric();
        let blob = provider.wrap(aes(&name), &[(&share(), b"")]).await.unwrap();
        for (state, words) in [("Disabled", "disabled"), ("PendingDeletion", "deletion"), ("PendingImport", "key")] {
            double.set_state(&name, state);
            let errors = [
                provider.wrap(aes(&name), &[(&share(), b"")]).await.err(),
                provider.unwrap(aes(&name), &[(&blob[0], b"")]).await.err(),
                provider.describe(&name, None, Algorithm::Aes256Gcm).await.err(),
            ];
            for error in errors {
                let error = error.unwrap();
                assert_eq!(error.class(), "denied");
                check_text(&error, &[words, &name, &double.url]);
            }
            provider.health().await.unwrap();
        }
        double.set_state(&name, "Enabled");
        assert!(provider.unwrap(aes(&name), &[(&blob[0], b"")]).await.unwrap()[0].is_some());
    });
}

#[test]
fn errors_have_their_class_and_none_of_the_servers_text() {
    run(|| async {
        let (double, _directory, provider) = double().await;
        let name = double.symmetric();
        let share = share();
        let blob = provider.wrap(aes(&name), &[(&share, b"")]).await.unwrap();
        let namespaced = "com.amazonaws.kms#ThrottlingException";
        let cases = [
            (400, "ThrottlingException", "secret words", "throttled"),
            (400, namespaced, "secret words", "throttled"),
            (400, "LimitExceededException", "secret words", "throttled"),
            (429, "x", "secret words", "throttled"),
            (500, "KMSInternalException", "secret words", "unavailable"),
            (500, "DependencyTimeoutException", "secret words", "unavailable"),
            (500, "KeyUnavailableException", "secret words", "unavailable"),
            (503, "SomethingNewException", "secret words", "unavailable"),
            (400, "AccessDeniedException", "User: secret words is not authorized to perform: kms:Decrypt", "denied"),
            (400, "InvalidSignatureException", "secret words", "denied"),
            (400, "InvalidKeyUsageException", "secret words", "malformed"),
            (400, "ValidationException", "secret words", "malformed"),
            (418, "x", "secret words", "malformed"),
            (403, "x", "secret words", "denied"),
        ];
        for (status, code, message, class) in cases {
            for wraps in [true, false] {
                double.fault(Fault::Error(status, code, message));
                let error = if wraps {
                    provider.wrap(aes(&name), &[(&share, b"")]).await.err()
                } else {
                    provider.unwrap(aes(&name), &[(&blob[0], b"")]).await.err()
                };
                let error = error.unwrap();
                assert_eq!(error.class(), class, "{code}: {}", error.detail());
                check_text(&error, &[&name, &double.url]);
            }
        }
        // What only says that bytes are bad is about an item where bytes are opened, and a fault anywhere else.
        for (code, class) in
            [("InvalidCiphertextException", "malformed"), ("IncorrectKeyException", "malformed"), ("AccessDeniedException", "denied")]
        {
            double.fault(Fault::Error(400, code, "secret words"));
            assert!(provider.unwrap(aes(&name), &[(&blob[0], b"")]).await.unwrap()[0].is_none());
            double.fault(Fault::Error(400, code, "secret words"));
            assert_eq!(provider.wrap(aes(&name), &[(&share, b"")]).await.unwrap_err().class(), class);
        }
        let xml = "<ErrorResponse><Errors><Error><Code>SignatureDoesNotMatch</Code><Message>secret words</Message></Error></Errors></ErrorResponse>";
        let raw = [
            (403, xml, "denied"),
            (400, "secret words", "malformed"),
            (502, "<html>secret words</html>", "unavailable"),
            (200, "secret words", "malformed"),
            (200, "[]", "malformed"),
            (200, "{}", "malformed"),
            (200, "", "malformed"),
            (307, "", "malformed"),
        ];
        for (status, text, class) in raw {
            double.fault(Fault::Raw(status, text));
            let error = provider.unwrap(aes(&name), &[(&blob[0], b"")]).await.err().unwrap();
            assert_eq!(error.class(), class, "{text}");
            check_text(&error, &[&double.url]);
        }
        // One fault in a batch is the batch's.
        let items: Vec<_> = (0..20).map(|_| (&share, &b""[..])).collect();
        for _ in 0..10 {
            double.fault(Fault::Delay(0));
        }
        double.fault(Fault::Error(400, "ThrottlingException", ""));
        assert_eq!(provider.wrap(aes(&name), &items).await.unwrap_err().class(), "throttled");
    });
}

#[test]
fn an_answer_of_another_key_is_refused() {
    run(|| async {
        let (double, _directory, provider) = double().await;
        let (name, other) = (double.symmetric(), double.symmetric());
        let share = share();
        let blob = provider.wrap(aes(&name), &[(&share, b"")]).await.unwrap();
        for fault in [Fault::Field("KeyId", json!(other)), Fault::Field("KeyId", json!(null)), Fault::Without("KeyId")] {
            double.fault(fault.clone());
            let error = provider.wrap(aes(&name), &[(&share, b"")]).await.unwrap_err();
            assert_eq!(error.class(), "malformed");
            check_text(&error, &["another key", &name]);
            double.fault(fault);
            assert_eq!(provider.unwrap(aes(&name), &[(&blob[0], b"")]).await.err().unwrap().class(), "malformed");
        }
        for blob in [json!(""), json!("*"), json!(3), json!(null)] {
            double.fault(Fault::Field("CiphertextBlob", blob));
            assert_eq!(provider.wrap(aes(&name), &[(&share, b"")]).await.unwrap_err().class(), "malformed");
        }
        for plaintext in [json!("*"), json!(3), json!(null)] {
            double.fault(Fault::Field("Plaintext", plaintext));
            assert_eq!(provider.unwrap(aes(&name), &[(&blob[0], b"")]).await.err().unwrap().class(), "malformed");
        }
        let metadata = |arn: &str| json!({"Arn": arn, "KeySpec": "SYMMETRIC_DEFAULT", "KeyState": "Enabled", "EncryptionAlgorithms": ["SYMMETRIC_DEFAULT"]});
        for arn in [other.as_str(), "", "arn:aws:kms:eu-west-1:1:alias/x", "secret words"] {
            double.fault(Fault::Field("KeyMetadata", metadata(arn)));
            let error = provider.describe(&name, None, Algorithm::Aes256Gcm).await.unwrap_err();
            assert_eq!(error.class(), "malformed");
            check_text(&error, &[&name]);
        }
    });
}

#[test]
fn clocks_that_differ_are_named() {
    run(|| async {
        let (double, _directory, provider) = double().await;
        let name = double.symmetric();
        for ahead in [3600, -3600] {
            double.state.ahead.set(ahead);
            let error = provider.wrap(aes(&name), &[(&share(), b"")]).await.unwrap_err();
            assert_eq!(error.class(), "denied");
            check_text(&error, &["clocks", "differ"]);
            assert_eq!(provider.health().await.unwrap_err().class(), "denied");
        }
        double.state.ahead.set(200);
        provider.wrap(aes(&name), &[(&share(), b"")]).await.unwrap();
    });
}

#[test]
fn a_dropped_call_leaves_the_provider_usable() {
    run(|| async {
        let (double, _directory, provider) = double().await;
        let name = double.symmetric();
        let share = share();
        let items: Vec<_> = (0..30).map(|_| (&share, &b""[..])).collect();
        let before = threads();
        for hanging in [0, 1, 5, 12] {
            for _ in 0..hanging {
                double.fault(Fault::Delay(0));
            }
            double.fault(Fault::Hang);
            let started = Instant::now();
            assert!(tokio::time::timeout(Duration::from_millis(200), provider.wrap(aes(&name), &items)).await.is_err());
            assert!(started.elapsed() < Duration::from_secs(2));
            double.state.faults.borrow_mut().clear();
            assert_eq!(provider.wrap(aes(&name), &items).await.unwrap().len(), 30);
        }
        assert_eq!(threads(), before);
        let (url, state) = (double.url.clone(), Rc::clone(&double.state));
        drop(double);
        drop(state);
        tokio::time::sleep(Duration::from_millis(50)).await;
        let directory = directory();
        let provider = directory.provider("aws", &json!({"region": REGION, "endpoint": url, "credentials_file": "aws"}));
        let error = provider.wrap(aes(&name), &items).await.unwrap_err();
        assert_eq!(error.class(), "unavailable");
        check_text(&error, &[&url]);
        assert!(provider.health().await.unwrap_err().is_outage());
    });
}
