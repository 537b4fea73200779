//! Provider kind `aws`: against moto, which verifies signatures and rights, and against a double for what moto lacks.

use crate::{
    aws_double::{self, Double, Fault, Identity, REGION},
    conformance::{self, Keys},
    fixture::{Directory, run, threads},
};
use kms_wrap::{
    core::{kem, secret::Share, suite::Algorithm},
    provider::{
        Provider, ProviderError, ProviderKey,
        config::{self, ConfigError},
        credentials::CredentialDirectory,
        endpoint::Endpoint,
        entropy::SystemEntropy,
        http::{Http, Tls},
    },
};
use serde_json::{Value, json};
use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Child, Command, Stdio},
    rc::Rc,
    time::{Duration, Instant},
};

const ID: &str = "AKIAEXAMPLE";
const SECRET: &str = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY";

fn directory() -> Directory {
    let directory = Directory::new();
    directory.write("aws", profile("default", ID, SECRET).as_bytes());
    directory
}

fn profile(name: &str, id: &str, secret: &str) -> String {
    format!("[{name}]\naws_access_key_id = {id}\naws_secret_access_key = {secret}\n")
}

fn key(name: &str, algorithm: Algorithm) -> ProviderKey<'_> {
    ProviderKey { name, version: "", algorithm, public_key: None }
}

fn aes(name: &str) -> ProviderKey<'_> {
    key(name, Algorithm::Aes256Gcm)
}

fn share() -> Share {
    Share::random(&mut SystemEntropy).unwrap()
}

/// No secret, no text of a server.
fn check_text(error: &ProviderError, needed: &[&str]) {
    let text = error.detail();
    for word in needed {
        assert!(text.contains(word), "{word} is missing in: {text}");
    }
    for word in ["secret words", SECRET, "user/u", "security token included", "customer master key", "refers to", "calculated"] {
        assert!(!text.contains(word), "{text}");
    }
    assert!(text.ends_with('.') && !text.ends_with(".."), "{text}");
}

async fn double() -> (Double, Directory, Rc<dyn Provider>) {
    let (double, directory) = (Double::start().await, directory());
    double.identity(ID, SECRET, None);
    let provider = directory.provider("aws", &json!({"region": REGION, "endpoint": double.url, "credentials_file": "aws"}));
    (double, directory, provider)
}

fn keys(key: &str, other: &str, algorithm: Algorithm) -> Keys {
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
fn unknown(arn: &str) -> String {
    format!("{}{:012}", &arn[..arn.len() - 12], 0)
}

/// What is said about a symmetric key.
async fn described(provider: &dyn Provider, name: &str) {
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
        conformance::run(Rc::clone(&provider), keys(&name, &other, Algorithm::Aes256Gcm)).await;
        described(&*provider, &name).await;
        assert!((2..=8).contains(&double.state.most_at_once.get()), "{}", double.state.most_at_once.get());

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

#[test]
fn credentials_of_a_file_follow_the_file() {
    run(|| async {
        let (double, directory, provider) = double().await;
        let name = double.symmetric();
        let wraps = || async { provider.wrap(aes(&name), &[(&share(), b"")]).await.map(|_| ()) };
        wraps().await.unwrap();
        // Rotated by hand: the old pair is gone, the new one is in the file.
        double.state.identities.borrow_mut().clear();
        let error = wraps().await.unwrap_err();
        assert_eq!(error.class(), "denied");
        check_text(&error, &["access key", &name]);
        double.identity("AKIANEW", "new/secret", Some("ses+sion=="));
        directory.write("aws", format!("{}aws_session_token = ses+sion==\n", profile("default", "AKIANEW", "new/secret")).as_bytes());
        wraps().await.unwrap();
        directory.write("aws", profile("default", "AKIANEW", "other").as_bytes());
        assert_eq!(wraps().await.unwrap_err().class(), "denied");
        directory.write("aws", profile("other", "AKIANEW", "new/secret").as_bytes());
        check_text(&wraps().await.unwrap_err(), &["profile \"default\"", "\"aws\""]);
        directory.write("aws", b"[default]\naws_access_key_id = A\n");
        check_text(&wraps().await.unwrap_err(), &["aws_secret_access_key"]);
        fs::set_permissions(directory.path().join("aws"), fs::Permissions::from_mode(0o644)).unwrap();
        let error = wraps().await.unwrap_err();
        assert_eq!(error.class(), "denied");
        check_text(&error, &["0644"]);
        // Rights: the key's own, and those that a health check needs not have.
        directory.write("aws", profile("default", ID, SECRET).as_bytes());
        let identity = Identity { secret: SECRET.to_owned(), token: None, expired: false, allowed: false };
        double.state.identities.borrow_mut().insert(ID.to_owned(), identity);
        assert_eq!(wraps().await.unwrap_err().class(), "denied");
        assert_eq!(provider.describe(&name, None, Algorithm::Aes256Gcm).await.unwrap_err().class(), "denied");
        provider.health().await.unwrap();
        double.state.identities.borrow_mut().clear();
        assert_eq!(provider.health().await.unwrap_err().class(), "denied");
    });
}

fn expire_all(double: &Double) {
    double.state.identities.borrow_mut().values_mut().for_each(|i| i.expired = true);
}

/// Temporary keys of one source: fetched once, kept, renewed in time and when AWS says that they have expired.
async fn temporary(double: &Double, provider: &dyn Provider, fetch: &str) {
    let name = double.symmetric();
    let share = share();
    let items: Vec<_> = (0..20).map(|_| (&share, &b""[..])).collect();
    let wrap = || async { provider.wrap(aes(&name), &items).await.map(|blobs| blobs.len()) };
    assert_eq!(wrap().await.unwrap(), 20);
    assert_eq!(wrap().await.unwrap(), 20);
    assert_eq!(double.count(fetch), 1);
    expire_all(double);
    assert_eq!(wrap().await.unwrap(), 20);
    assert_eq!(double.count(fetch), 2);
    expire_all(double);
    provider.health().await.unwrap();
    assert_eq!(double.count(fetch), 3);
    // Fewer than five minutes left: new ones at each call.
    double.state.lifetime.set(299);
    expire_all(double);
    wrap().await.unwrap();
    wrap().await.unwrap();
    assert_eq!(double.count(fetch), 5);
    // While there are no new ones, those serve.
    double.fault(Fault::Raw(503, ""));
    wrap().await.unwrap();
    double.fault(Fault::Raw(400, "secret words"));
    check_text(&wrap().await.unwrap_err(), &[]);
    // Once only: what is stale at once is an error, not a loop.
    double.state.lifetime.set(3600);
    wrap().await.unwrap();
    let before = double.count(fetch);
    for _ in 0..9 {
        double.fault(Fault::Error(400, "ExpiredTokenException", "secret words"));
    }
    // The nine meet eight requests at once, or the fetch between them.
    let _ = wrap().await;
    double.state.faults.borrow_mut().clear();
    assert!(double.count(fetch) <= before + 1);
    wrap().await.unwrap();
    // One that does not answer takes a part of the time.
    double.state.lifetime.set(299);
    expire_all(double);
    wrap().await.unwrap();
    double.fault(Fault::Hang);
    tokio::time::timeout(Duration::from_secs(1), wrap()).await.unwrap().unwrap();
}

#[test]
fn web_identity_takes_a_role() {
    run(|| async {
        let (double, directory, _) = double().await;
        directory.write("token", b"eyJ.web+identity/token.x=\n");
        let role = "arn:aws:iam::111122223333:role/wrap";
        let mut config = json!({"region": REGION, "endpoint": double.url, "sts_endpoint": double.url, "web_identity_token_file": "token",
            "role_arn": role});
        temporary(&double, &*directory.provider("aws", &config), "AssumeRoleWithWebIdentity").await;
        directory.write("token", b"another\n");
        let error = directory.provider("aws", &config).health().await.unwrap_err();
        assert_eq!(error.class(), "denied");
        check_text(&error, &["\"token\"", role, &double.url]);
        directory.write("token", b"eyJ.web+identity/token.x=");
        config["role_arn"] = json!("arn:aws:iam::111122223333:role/other");
        assert_eq!(directory.provider("aws", &config).health().await.unwrap_err().class(), "denied");
        config["role_arn"] = json!(role);
        for (status, text, class) in [(200, "<Credentials></Credentials>", "malformed"), (503, "", "unavailable"), (200, "", "malformed")] {
            double.fault(Fault::Raw(status, text));
            assert_eq!(directory.provider("aws", &config).health().await.unwrap_err().class(), class);
        }
    });
}

#[test]
fn instance_role_needs_the_token_of_version_2() {
    run(|| async {
        let (double, directory, _) = double().await;
        let config = json!({"region": REGION, "endpoint": double.url, "credentials": "instance", "metadata_endpoint": double.url});
        temporary(&double, &*directory.provider("aws", &config), "PUT /latest/api/token").await;
        let fetched = double.state.log.borrow().iter().filter(|a| a.contains("/latest/")).take(3).cloned().collect::<Vec<_>>();
        assert_eq!(
            fetched,
            [
                "PUT /latest/api/token",
                "GET /latest/meta-data/iam/security-credentials/",
                "GET /latest/meta-data/iam/security-credentials/wrap-role"
            ]
        );
        for (after, status, text, class) in [
            (0, 404, "secret words", "denied"),
            (0, 403, "secret words", "denied"),
            (0, 500, "secret words", "unavailable"),
            (1, 404, "secret words", "denied"),
            (1, 200, "", "malformed"),
            (1, 200, "../../user-data", "malformed"),
            (1, 200, "a/b", "malformed"),
            (2, 200, "secret words", "malformed"),
            (2, 200, "{\"Code\":\"Failed\"}", "malformed"),
        ] {
            for _ in 0..after {
                double.fault(Fault::Delay(0));
            }
            double.fault(Fault::Raw(status, text));
            let error = directory.provider("aws", &config).health().await.unwrap_err();
            assert_eq!(error.class(), class, "{after} {text}");
            check_text(&error, &[&double.url]);
        }
    });
}

#[test]
fn configurations_say_what_is_wrong() {
    let directory = directory();
    let check = |config: Value, allowed: &[&str]| -> Result<(), ConfigError> {
        let mut environment = directory.environment();
        environment.allowed_endpoints = allowed.iter().map(|&pattern| pattern.to_owned()).collect();
        config::provider("aws", &config, &environment).map(|_| ())
    };
    let good = [
        json!({"region": "eu-west-1", "credentials_file": "aws"}),
        json!({"region": "eu-west-1", "credentials_file": "aws", "profile": "p", "ca_file": "ca.pem", "credentials": "file"}),
        json!({"region": "eu-west-1", "credentials": "environment"}),
        json!({"region": "eu-west-1", "credentials": "instance"}),
        json!({"region": "cn-north-1", "web_identity_token_file": "t", "role_arn": "arn:aws:iam::1:role/r"}),
        json!({"region": "eu-west-1", "credentials": "instance", "metadata_endpoint": "http://169.254.169.254"}),
    ];
    for config in good {
        assert_eq!(check(config.clone(), &[]), Ok(()), "{config}");
    }
    let bad = [
        ("region", json!({"credentials_file": "aws"})),
        ("region", json!({"region": "eu-west-1.evil.example/", "credentials_file": "aws"})),
        ("region", json!({"region": "", "credentials_file": "aws"})),
        ("credentials", json!({"region": "eu-west-1"})),
        ("credentials", json!({"region": "eu-west-1", "credentials": "all"})),
        ("credentials", json!({"region": "eu-west-1", "credentials_file": "a", "web_identity_token_file": "b", "role_arn": "c"})),
        ("credentials_file", json!({"region": "eu-west-1", "credentials": "file"})),
        ("credentials_file", json!({"region": "eu-west-1", "credentials_file": "../aws"})),
        ("credentials_file", json!({"region": "eu-west-1", "credentials": "environment", "credentials_file": "aws"})),
        ("profile", json!({"region": "eu-west-1", "credentials": "instance", "profile": "p"})),
        ("role_arn", json!({"region": "eu-west-1", "web_identity_token_file": "t"})),
        ("sts_endpoint", json!({"region": "eu-west-1", "credentials_file": "aws", "sts_endpoint": "https://sts.example"})),
        ("metadata_endpoint", json!({"region": "eu-west-1", "credentials": "instance", "metadata_endpoint": "http://169.254.169.253"})),
        ("endpoint", json!({"region": "eu-west-1", "credentials_file": "aws", "endpoint": "http://kms.example"})),
        ("endpoint", json!({"region": "eu-west-1", "credentials_file": "aws", "endpoint": "http://169.254.169.254"})),
        ("secret", json!({"region": "eu-west-1", "credentials_file": "aws", "secret": "x"})),
    ];
    for (field, config) in bad {
        assert_eq!(check(config.clone(), &[]).map_err(|e| e.field), Err(field.to_owned()), "{config}");
    }
    // Every address must be allowed, also those that a field need not name.
    let kms = "https://kms.eu-west-1.amazonaws.com";
    let file = json!({"region": "eu-west-1", "credentials_file": "aws"});
    assert_eq!(check(file.clone(), &[kms]), Ok(()));
    assert_eq!(check(file, &["https://kms.example"]).map_err(|e| e.field), Err("endpoint".to_owned()));
    let role = json!({"region": "eu-west-1", "web_identity_token_file": "t", "role_arn": "arn:aws:iam::1:role/r"});
    assert_eq!(check(role.clone(), &[kms]).map_err(|e| e.field), Err("sts_endpoint".to_owned()));
    assert_eq!(check(role, &["https://*.eu-west-1.amazonaws.com"]), Ok(()));
    let instance = json!({"region": "eu-west-1", "credentials": "instance"});
    assert_eq!(check(instance.clone(), &[kms]).map_err(|e| e.field), Err("metadata_endpoint".to_owned()));
    assert_eq!(check(instance, &[kms, "http://169.254.169.254"]), Ok(()));
    assert!(config::capabilities("aws").is_some());
    assert!(config::capabilities("aws").is_some_and(|c| c.binds_context && !c.shows_version));
}

/// A moto server; stopped by its process id.
struct Moto {
    child: Child,
    url: String,
    http: Http,
}

impl Drop for Moto {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Moto {
    async fn start() -> Self {
        let program = std::env::var("KMS_WRAP_MOTO").expect("KMS_WRAP_MOTO names the moto_server program; tests/run providers sets it");
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let child = Command::new(program)
            .args(["-H", "127.0.0.1", "-p", &port.to_string()])
            .env("INITIAL_NO_AUTH_ACTION_COUNT", "3")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let url = format!("http://127.0.0.1:{port}");
        let nowhere = CredentialDirectory(Path::new("/nonexistent").to_owned());
        let moto = Self { child, http: Http::new(Endpoint::parse(&url).unwrap(), &Tls::default(), &nowhere).unwrap(), url };
        for _ in 0..300 {
            if moto.http.send(reqwest::Method::GET, "/moto-api/", &[], None).await.is_ok_and(|r| r.status == 200) {
                return moto;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        panic!("moto does not answer within 30 s");
    }

    /// A request that sets moto up. Those are not verified.
    async fn set_up(&self, service: &str, target: Option<&str>, body: &str) -> String {
        self.verify_after(1).await;
        let kind = if target.is_some() { "application/x-amz-json-1.1" } else { "application/x-www-form-urlencoded" };
        let scope = format!("AWS4-HMAC-SHA256 Credential=none/20260101/{REGION}/{service}/aws4_request, SignedHeaders=host, Signature=00");
        let mut headers = vec![(reqwest::header::CONTENT_TYPE, kind), (reqwest::header::AUTHORIZATION, scope.as_str())];
        headers.extend(target.map(|t| (reqwest::header::HeaderName::from_static("x-amz-target"), t)));
        let body = zeroize::Zeroizing::new(body.as_bytes().to_vec());
        let reply = self.http.send(reqwest::Method::POST, "/", &headers, Some(body)).await.unwrap();
        let text = String::from_utf8(reply.body.to_vec()).unwrap();
        assert_eq!(reply.status, 200, "{text}");
        text
    }

    async fn verify_after(&self, requests: u32) {
        let body = zeroize::Zeroizing::new(requests.to_string().into_bytes());
        let reply = self.http.send(reqwest::Method::POST, "/moto-api/reset-auth", &[], Some(body)).await.unwrap();
        assert_eq!(reply.status, 200);
    }

    async fn symmetric(&self) -> String {
        let answer = self.set_up("kms", Some("TrentService.CreateKey"), "{}").await;
        serde_json::from_str::<Value>(&answer).unwrap()["KeyMetadata"]["Arn"].as_str().unwrap().to_owned()
    }

    /// An IAM user with these rights: access key and secret.
    async fn user(&self, name: &str, actions: &str) -> (String, String) {
        let policy =
            format!("{{\"Version\":\"2012-10-17\",\"Statement\":[{{\"Effect\":\"Allow\",\"Action\":[{actions}],\"Resource\":\"*\"}}]}}");
        let form = |pairs: &[(&str, &str)]| url::form_urlencoded::Serializer::new(String::new()).extend_pairs(pairs).finish();
        let version = ("Version", "2010-05-08");
        self.set_up("iam", None, &form(&[("Action", "CreateUser"), version, ("UserName", name)])).await;
        let put = [("Action", "PutUserPolicy"), version, ("UserName", name), ("PolicyName", "p"), ("PolicyDocument", &policy)];
        self.set_up("iam", None, &form(&put)).await;
        let made = self.set_up("iam", None, &form(&[("Action", "CreateAccessKey"), version, ("UserName", name)])).await;
        let part = |tag: &str| made.split_once(&format!("<{tag}>")).unwrap().1.split_once('<').unwrap().0.to_owned();
        (part("AccessKeyId"), part("SecretAccessKey"))
    }
}

#[test]
fn moto_verifies_signatures_and_rights() {
    run(|| async {
        let (moto, directory) = (Moto::start().await, directory());
        let (name, other) = (moto.symmetric().await, moto.symmetric().await);
        let alias = format!("{{\"AliasName\":\"alias/app\",\"TargetKeyId\":\"{name}\"}}");
        moto.set_up("kms", Some("TrentService.CreateAlias"), &alias).await;
        let (id, secret) = moto.user("wrapper", "\"kms:*\"").await;
        let (poor_id, poor_secret) = moto.user("poor", "\"s3:*\"").await;
        moto.verify_after(0).await;
        let profiles = [
            profile("good", &id, &secret),
            profile("wrong", &id, SECRET),
            profile("unknown", ID, SECRET),
            profile("poor", &poor_id, &poor_secret),
        ];
        directory.write("aws", profiles.concat().as_bytes());
        let with = |profile: &str| {
            directory.provider("aws", &json!({"region": REGION, "endpoint": moto.url, "credentials_file": "aws", "profile": profile}))
        };
        let good = with("good");
        conformance::run(Rc::clone(&good), Keys { most: 151, ..keys(&name, &other, Algorithm::Aes256Gcm) }).await;
        described(&*good, &name).await;
        assert_eq!(good.describe("alias/app", None, Algorithm::Aes256Gcm).await.unwrap().name, name);
        let share = share();
        for (profile, words) in [("wrong", "signature"), ("unknown", "access key"), ("poor", "not allowed")] {
            let provider = with(profile);
            let error = provider.wrap(aes(&name), &[(&share, b"")]).await.unwrap_err();
            assert_eq!(error.class(), "denied", "{profile}");
            check_text(&error, &[words, &name]);
            assert_eq!(provider.health().await.is_ok(), profile == "poor", "{profile}");
        }
        // Another region than the endpoint's own has other keys.
        let elsewhere =
            directory.provider("aws", &json!({"region": "us-east-2", "endpoint": moto.url, "credentials_file": "aws", "profile": "good"}));
        let id = name.rsplit('/').next().unwrap();
        assert_eq!(elsewhere.describe(id, None, Algorithm::Aes256Gcm).await.unwrap_err().class(), "not_found");
    });
}
