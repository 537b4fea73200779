//! Provider kind `gcp` against a double that Google's own client library has judged.

use crate::{
    conformance::{self, Keys},
    fixture::{Directory, failure, run, threads},
    gcp_double::{Double, PROJECT},
    web_double::Fault,
};
use base64::{Engine, engine::general_purpose::STANDARD};
use kms_wrap::{
    core::{secret::Share, suite::Algorithm},
    provider::{
        Provider, ProviderError, ProviderKey,
        config::{self, ConfigError},
        entropy::SystemEntropy,
    },
};
use serde_json::{Value, json};
use std::{fs, process::Command, rc::Rc, time::Duration};

const SECRETS: [&str; 4] = ["secret words", "ya29", "PRIVATE", "Decryption failed"];

fn aes<'a>(name: &'a str, version: &'a str) -> ProviderKey<'a> {
    ProviderKey { name, version, algorithm: Algorithm::Aes256Gcm, public_key: None }
}

fn share() -> Share {
    Share::random(&mut SystemEntropy).unwrap()
}

fn class<T>(result: Result<T, ProviderError>) -> &'static str {
    failure(result, &SECRETS)
}

async fn double() -> (Double, Directory, Rc<dyn Provider>) {
    let (double, directory) = (Double::start().await, Directory::new());
    directory.write("gcp.json", double.service_account().to_string().as_bytes());
    let provider = directory.provider("gcp", &json!({"endpoint": double.web.url, "credentials_file": "gcp.json"}));
    (double, directory, provider)
}

#[test]
fn gcp_keeps_the_contract() {
    run(|| async {
        let (double, _directory, provider) = double().await;
        let (key, other) = (double.symmetric(), double.symmetric());
        let keys = Keys {
            unknown: format!("{key}x"),
            key,
            other,
            algorithm: Algorithm::Aes256Gcm,
            wrong_algorithm: Algorithm::RsaOaepSha256,
            binds: true,
            describes: true,
            most: 1000,
        };
        conformance::overlap(&*provider, &keys.key).await;
        assert!((2..=8).contains(&double.web.wire.most_at_once.get()), "{}", double.web.wire.most_at_once.get());
        conformance::run(provider, keys).await;
        assert_eq!(double.web.wire.count("POST /token"), 1);
    });
}

#[test]
fn gcp_pins_a_version() {
    run(|| async {
        let (double, _directory, provider) = double().await;
        let name = double.symmetric();
        let one = share();
        let old = provider.wrap(aes(&name, "1"), &[(&one, b"a")]).await.unwrap();
        double.rotate(&name);
        let described = provider.describe(&name, None, Algorithm::Aes256Gcm).await.unwrap();
        assert_eq!((described.name.as_str(), described.version.as_str()), (name.as_str(), "2"));
        assert_eq!(provider.describe(&name, Some("1"), Algorithm::Aes256Gcm).await.unwrap().version, "1");
        // The pinned version, not the primary one; both open.
        let pinned = provider.wrap(aes(&name, "1"), &[(&one, b"a")]).await.unwrap();
        let new = provider.wrap(aes(&name, "2"), &[(&one, b"a")]).await.unwrap();
        assert_eq!([old[0][1], pinned[0][1], new[0][1]], [1, 1, 2]);
        let items: Vec<(&[u8], &[u8])> = vec![(&old[0], b"a"), (&new[0], b"a"), (&pinned[0], b"a")];
        for opened in provider.unwrap(aes(&name, "2"), &items).await.unwrap() {
            assert!(bool::from(opened.unwrap().ct_eq(&one)));
        }
        for version in ["", "0", "x", "1/../2"] {
            assert_eq!(class(provider.wrap(aes(&name, version), &[(&one, b"a")]).await), "denied", "{version}");
        }
        assert_eq!(class(provider.wrap(aes(&name, "3"), &[(&one, b"a")]).await), "not_found");
        for state in ["DISABLED", "DESTROYED", "DESTROY_SCHEDULED", "PENDING_GENERATION"] {
            double.set_state(&name, 1, state);
            assert_eq!(class(provider.wrap(aes(&name, "1"), &[(&one, b"a")]).await), "denied", "{state}");
            assert_eq!(class(provider.unwrap(aes(&name, "1"), &items[..1]).await), "denied", "{state}");
            assert_eq!(class(provider.describe(&name, Some("1"), Algorithm::Aes256Gcm).await), "denied", "{state}");
            // The other version is in use still.
            assert!(provider.unwrap(aes(&name, "1"), &items[1..2]).await.unwrap()[0].is_some());
            provider.describe(&name, None, Algorithm::Aes256Gcm).await.unwrap();
        }
    });
}

#[test]
fn gcp_takes_no_key_of_another_purpose() {
    run(|| async {
        let (double, _directory, provider) = double().await;
        for (purpose, algorithm) in [
            ("ASYMMETRIC_DECRYPT", "RSA_DECRYPT_OAEP_2048_SHA256"),
            ("MAC", "HMAC_SHA256"),
            ("RAW_ENCRYPT_DECRYPT", "AES_256_GCM"),
            ("ENCRYPT_DECRYPT", "EXTERNAL_SYMMETRIC_ENCRYPTION"),
        ] {
            let name = double.key(purpose, algorithm);
            for version in [None, Some("1")] {
                assert_eq!(class(provider.describe(&name, version, Algorithm::Aes256Gcm).await), "malformed", "{purpose}");
            }
        }
        let name = double.symmetric();
        double.state.keys.borrow_mut().get_mut(&name).unwrap().primary = 0;
        assert_eq!(class(provider.describe(&name, None, Algorithm::Aes256Gcm).await), "denied");
        for name in ["key", "", "projects/p/locations/l/keyRings/r/cryptoKeys/..", "../../token", "projects/p/x?y#z"] {
            assert_eq!(class(provider.describe(name, None, Algorithm::Aes256Gcm).await), "not_found", "{name}");
            assert_eq!(class(provider.unwrap(aes(name, ""), &[(b"x", b"")]).await), "not_found", "{name}");
        }
        // A project may be named by its number; what is kept is the name that answers have.
        let name = double.symmetric();
        let by_number = name.replace(PROJECT, "123456");
        let answer = json!({"name": name, "purpose": "ENCRYPT_DECRYPT", "primary": {"name": format!("{name}/cryptoKeyVersions/1"),
            "state": "ENABLED", "algorithm": "GOOGLE_SYMMETRIC_ENCRYPTION"}});
        double.web.wire.fault(Fault::Raw(200, answer.to_string()));
        assert_eq!(provider.describe(&by_number, None, Algorithm::Aes256Gcm).await.unwrap().name, name);
    });
}

#[test]
fn gcp_answers_are_checked() {
    run(|| async {
        let (double, _directory, provider) = double().await;
        let (name, other) = (double.symmetric(), double.symmetric());
        double.rotate(&name);
        let one = share();
        let blob = provider.wrap(aes(&name, "1"), &[(&one, b"a")]).await.unwrap();
        for fault in [
            Fault::Field("name", json!(format!("{name}/cryptoKeyVersions/2"))),
            Fault::Field("name", json!(format!("{other}/cryptoKeyVersions/1"))),
            Fault::Field("name", json!(name)),
            Fault::Without("name"),
            Fault::Field("ciphertext", json!("")),
            Fault::Field("ciphertext", json!("*")),
            Fault::Field("ciphertext", json!("AAAA")),
            Fault::Without("ciphertext"),
            Fault::Field("ciphertextCrc32c", json!("1")),
            Fault::Without("ciphertextCrc32c"),
            Fault::Without("verifiedPlaintextCrc32c"),
            Fault::Without("verifiedAdditionalAuthenticatedDataCrc32c"),
            Fault::Raw(200, "secret words".to_owned()),
            Fault::Raw(200, "[]".to_owned()),
        ] {
            double.web.wire.fault(fault);
            assert_eq!(class(provider.wrap(aes(&name, "1"), &[(&one, b"a")]).await), "malformed");
        }
        for fault in [
            Fault::Field("plaintext", json!("*")),
            Fault::Field("plaintext", json!(3)),
            Fault::Field("plaintext", json!(STANDARD.encode([1; 32]))),
            Fault::Field("plaintextCrc32c", json!("1")),
            Fault::Without("plaintextCrc32c"),
            Fault::Without("plaintext"),
            Fault::Raw(200, "{}".to_owned()),
        ] {
            double.web.wire.fault(fault);
            assert_eq!(class(provider.unwrap(aes(&name, "1"), &[(&blob[0], b"a")]).await), "malformed");
        }
        // What is none of ours, but of the key: no share.
        for plaintext in [json!({"plaintextCrc32c": "0"}), json!({"plaintext": "MTIzNDU2Nzg5", "plaintextCrc32c": 0xe306_9283_u32})] {
            double.web.wire.fault(Fault::Raw(200, plaintext.to_string()));
            assert!(provider.unwrap(aes(&name, "1"), &[(&blob[0], b"a")]).await.unwrap()[0].is_none());
        }
        for found in [format!("{other}/cryptoKeyVersions/2"), format!("{name}/cryptoKeyVersions/0"), name.clone(), String::new()] {
            let primary = json!({"name": found, "state": "ENABLED", "algorithm": "GOOGLE_SYMMETRIC_ENCRYPTION"});
            double.web.wire.fault(Fault::Field("primary", primary));
            assert_eq!(class(provider.describe(&name, None, Algorithm::Aes256Gcm).await), "malformed", "{found}");
        }
    });
}

#[test]
fn gcp_errors_have_their_class() {
    run(|| async {
        let (double, _directory, provider) = double().await;
        let name = double.symmetric();
        let one = share();
        let blob = provider.wrap(aes(&name, "1"), &[(&one, b"a")]).await.unwrap();
        let error = |code: u16, status: &str, message: &str| {
            Fault::Raw(code, json!({"error": {"code": code, "message": message, "status": status}}).to_string())
        };
        for (code, status, class_) in [
            (429, "RESOURCE_EXHAUSTED", "throttled"),
            (400, "FAILED_PRECONDITION", "denied"),
            (403, "PERMISSION_DENIED", "denied"),
            (404, "NOT_FOUND", "not_found"),
            (500, "INTERNAL", "unavailable"),
            (503, "UNAVAILABLE", "unavailable"),
            (504, "DEADLINE_EXCEEDED", "unavailable"),
            (409, "ABORTED", "unavailable"),
            (429, "?", "throttled"),
            (502, "?", "unavailable"),
            (403, "?", "denied"),
            (418, "?", "malformed"),
        ] {
            for wraps in [true, false] {
                double.web.wire.fault(error(code, status, "secret words"));
                let got = if wraps {
                    class(provider.wrap(aes(&name, "1"), &[(&one, b"a")]).await)
                } else {
                    class(provider.unwrap(aes(&name, "1"), &[(&blob[0], b"a")]).await)
                };
                assert_eq!(got, class_, "{code} {status}");
            }
        }
        // Bytes that do not open are about an item, but not where nothing is opened, nor when the checksum is at fault.
        let invalid = |message: &str| error(400, "INVALID_ARGUMENT", message);
        double.web.wire.fault(invalid("secret words"));
        assert!(provider.unwrap(aes(&name, "1"), &[(&blob[0], b"a")]).await.unwrap()[0].is_none());
        double.web.wire.fault(invalid("secret words"));
        assert_eq!(class(provider.wrap(aes(&name, "1"), &[(&one, b"a")]).await), "malformed");
        double.web.wire.fault(invalid("The checksum in field ciphertext_crc32c did not match the data in field ciphertext."));
        assert_eq!(class(provider.unwrap(aes(&name, "1"), &[(&blob[0], b"a")]).await), "malformed");
        double.web.wire.fault(Fault::Raw(503, "<html>secret words</html>".to_owned()));
        assert_eq!(class(provider.health().await), "unavailable");

        double.state.forbidden.set(true);
        assert_eq!(class(provider.wrap(aes(&name, "1"), &[(&one, b"a")]).await), "denied");
        assert_eq!(class(provider.describe(&name, None, Algorithm::Aes256Gcm).await), "denied");
        provider.health().await.unwrap();
    });
}

/// Tokens are fetched once, kept, renewed in time and when the API does not take them any more.
async fn tokens(double: &Double, provider: &dyn Provider, fetch: &str) {
    let name = double.symmetric();
    let one = share();
    let items: Vec<_> = (0..20).map(|_| (&one, &b"a"[..])).collect();
    let wrap = || async { provider.wrap(aes(&name, "1"), &items).await.map(|blobs| blobs.len()) };
    let fetched = || double.web.wire.count(fetch);
    assert_eq!(wrap().await.unwrap(), 20);
    assert_eq!(wrap().await.unwrap(), 20);
    assert_eq!(fetched(), 1);
    double.state.tokens.borrow_mut().clear();
    assert_eq!(wrap().await.unwrap(), 20);
    assert_eq!(fetched(), 2);
    double.state.tokens.borrow_mut().clear();
    provider.health().await.unwrap();
    assert_eq!(fetched(), 3);
    // Fewer than two minutes left: a new one at each call.
    double.state.lifetime.set(119);
    double.state.tokens.borrow_mut().clear();
    wrap().await.unwrap();
    wrap().await.unwrap();
    assert_eq!(fetched(), 5);
    // While there is no new one, that one serves.
    double.web.wire.fault(Fault::Raw(503, String::new()));
    wrap().await.unwrap();
    double.web.wire.fault(Fault::Raw(400, "secret words".to_owned()));
    assert_eq!(class(wrap().await), "denied");
    // Once only: what is refused at once is an error, not a loop.
    double.state.lifetime.set(3600);
    wrap().await.unwrap();
    let before = fetched();
    let refusal = json!({"error": {"code": 401, "status": "UNAUTHENTICATED", "message": "secret words"}}).to_string();
    double.web.wire.fault(Fault::Raw(401, refusal.clone()));
    for _ in 0..4 {
        double.web.wire.fault(Fault::Delay(0));
    }
    double.state.tokens.borrow_mut().clear();
    let _ = wrap().await;
    assert_eq!(fetched(), before + 1);
    double.web.wire.faults.borrow_mut().clear();
    wrap().await.unwrap();
    // One that does not answer takes a part of the time.
    double.state.lifetime.set(119);
    double.state.tokens.borrow_mut().clear();
    wrap().await.unwrap();
    double.web.wire.fault(Fault::Hang);
    tokio::time::timeout(Duration::from_secs(1), wrap()).await.unwrap().unwrap();
}

#[test]
fn gcp_service_accounts_sign_in() {
    run(|| async {
        let (double, directory, provider) = double().await;
        tokens(&double, &*provider, "POST /token").await;
        // Another key of the account, and the file follows.
        let file = double.service_account();
        double.state.tokens.borrow_mut().clear();
        assert_eq!(class(provider.health().await), "denied");
        directory.write("gcp.json", file.to_string().as_bytes());
        provider.health().await.unwrap();
        for (field, value) in [
            ("type", json!("authorized_user")),
            ("type", Value::Null),
            ("private_key", json!("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n")),
            ("private_key", Value::Null),
            ("client_email", json!("other@example.com")),
            ("client_email", Value::Null),
            ("private_key_id", Value::Null),
            ("project_id", json!("../x")),
            ("project_id", Value::Null),
            ("token_uri", json!("http://kms.example/token")),
            ("token_uri", json!("ftp://kms.example")),
            ("token_uri", Value::Null),
        ] {
            let mut wrong = file.clone();
            wrong[field] = value;
            directory.write("gcp.json", wrong.to_string().as_bytes());
            assert_eq!(class(provider.health().await), "denied", "{field}");
        }
        for text in ["secret words", "[]", "{}"] {
            directory.write("gcp.json", text.as_bytes());
            assert_eq!(class(provider.health().await), "denied");
        }
        directory.write("gcp.json", file.to_string().as_bytes());
        for (status, text, expected) in [
            (200, "{}", "malformed"),
            (200, "secret words", "malformed"),
            (200, r#"{"access_token":"x","expires_in":10,"token_type":"mac"}"#, "malformed"),
            (200, r#"{"access_token":"","expires_in":10,"token_type":"Bearer"}"#, "malformed"),
            (429, "secret words", "throttled"),
            (500, "secret words", "unavailable"),
            (401, "secret words", "denied"),
        ] {
            let provider = directory.provider("gcp", &json!({"endpoint": double.web.url, "credentials_file": "gcp.json"}));
            double.web.wire.fault(Fault::Raw(status, text.to_owned()));
            assert_eq!(class(provider.health().await), expected, "{text}");
        }
        double.state.ahead.set(7200);
        let provider = directory.provider("gcp", &json!({"endpoint": double.web.url, "credentials_file": "gcp.json"}));
        let error = provider.health().await.unwrap_err();
        assert!(error.class() == "denied" && error.detail().contains("clocks"), "{}", error.detail());
        // The file does not lead elsewhere than the settings allow.
        let mut environment = directory.environment();
        environment.allowed_endpoints = vec![double.web.url.clone()];
        double.state.ahead.set(0);
        let config = json!({"endpoint": double.web.url, "credentials_file": "gcp.json"});
        let provider = config::provider("gcp", &config, &environment).unwrap_or_else(|e| panic!("{}", e.limit));
        provider.health().await.unwrap();
        let mut elsewhere = file.clone();
        elsewhere["token_uri"] = json!("https://oauth2.example/token");
        directory.write("gcp.json", elsewhere.to_string().as_bytes());
        let error = provider.health().await.unwrap_err();
        assert!(error.class() == "denied" && error.detail().contains("allowed_endpoints"), "{}", error.detail());
    });
}

#[test]
fn gcp_machines_have_a_service_account() {
    run(|| async {
        let (double, directory, _) = double().await;
        let config = json!({"endpoint": double.web.url, "credentials": "metadata", "metadata_endpoint": double.web.url});
        tokens(&double, &*directory.provider("gcp", &config), "/default/token").await;
        for (after, status, text, expected) in [
            (0, 404, "secret words", "denied"),
            (0, 403, "secret words", "denied"),
            (0, 503, "secret words", "unavailable"),
            (0, 200, "secret words", "malformed"),
            (1, 200, "../../x", "malformed"),
            (1, 404, "", "denied"),
        ] {
            for _ in 0..after {
                double.web.wire.fault(Fault::Delay(0));
            }
            double.web.wire.fault(Fault::Raw(status, text.to_owned()));
            assert_eq!(class(directory.provider("gcp", &config).health().await), expected, "{after} {text}");
        }
        // A server that does not say that it is the metadata service.
        let plain = crate::web_double::Web::start(|_: &_| crate::web_double::Reply::json(200, &json!({}))).await;
        let config = json!({"endpoint": double.web.url, "credentials": "metadata", "metadata_endpoint": plain.url});
        assert_eq!(class(directory.provider("gcp", &config).health().await), "malformed");
    });
}

#[test]
fn gcp_calls_may_be_dropped() {
    run(|| async {
        let (double, directory, provider) = double().await;
        let name = double.symmetric();
        let one = share();
        let items: Vec<_> = (0..30).map(|_| (&one, &b"a"[..])).collect();
        let before = threads();
        for hanging in [0, 1, 5, 12] {
            for _ in 0..hanging {
                double.web.wire.fault(Fault::Delay(0));
            }
            double.web.wire.fault(Fault::Hang);
            assert!(tokio::time::timeout(Duration::from_millis(200), provider.wrap(aes(&name, "1"), &items)).await.is_err());
            double.web.wire.faults.borrow_mut().clear();
            assert_eq!(provider.wrap(aes(&name, "1"), &items).await.unwrap().len(), 30);
        }
        assert_eq!(threads(), before);
        let url = double.web.url.clone();
        drop(double);
        tokio::time::sleep(Duration::from_millis(50)).await;
        let provider = directory.provider("gcp", &json!({"endpoint": url, "credentials_file": "gcp.json"}));
        assert_eq!(class(provider.wrap(aes(&name, "1"), &items).await), "unavailable");
        assert_eq!(class(provider.health().await), "unavailable");
    });
}

#[test]
fn gcp_configurations_say_what_is_wrong() {
    let directory = Directory::new();
    let check = |config: &Value, allowed: &[&str]| -> Result<(), ConfigError> {
        let mut environment = directory.environment();
        environment.allowed_endpoints = allowed.iter().map(|&pattern| pattern.to_owned()).collect();
        config::provider("gcp", config, &environment).map(|_| ())
    };
    for config in [
        json!({"credentials_file": "gcp.json"}),
        json!({"credentials_file": "gcp.json", "credentials": "file", "ca_file": "ca.pem", "endpoint": "https://cloudkms.eu.rep.googleapis.com"}),
        json!({"credentials": "metadata"}),
        json!({"credentials": "metadata", "metadata_endpoint": "http://169.254.169.254"}),
    ] {
        assert_eq!(check(&config, &[]), Ok(()), "{config}");
    }
    for (field, config) in [
        ("credentials", json!({})),
        ("credentials", json!({"credentials": "environment"})),
        ("credentials_file", json!({"credentials": "file"})),
        ("credentials_file", json!({"credentials_file": "../gcp.json"})),
        ("credentials_file", json!({"credentials_file": "gcp.json", "credentials": "metadata"})),
        ("metadata_endpoint", json!({"credentials_file": "gcp.json", "metadata_endpoint": "http://169.254.169.254"})),
        ("metadata_endpoint", json!({"credentials": "metadata", "metadata_endpoint": "http://metadata.google.internal"})),
        ("endpoint", json!({"credentials": "metadata", "endpoint": "http://kms.example"})),
        ("secret", json!({"credentials": "metadata", "secret": "x"})),
    ] {
        assert_eq!(check(&config, &[]).map_err(|e| e.field), Err(field.to_owned()), "{config}");
    }
    let kms = "https://cloudkms.googleapis.com";
    assert_eq!(check(&json!({"credentials_file": "gcp.json"}), &[kms]), Ok(()));
    assert_eq!(check(&json!({"credentials_file": "gcp.json"}), &["https://kms.example"]).map_err(|e| e.field), Err("endpoint".to_owned()));
    assert_eq!(check(&json!({"credentials": "metadata"}), &[kms]).map_err(|e| e.field), Err("metadata_endpoint".to_owned()));
    assert_eq!(check(&json!({"credentials": "metadata"}), &[kms, "http://169.254.169.254"]), Ok(()));
    assert!(config::capabilities("gcp").is_some());
    assert!(config::capabilities("gcp").is_some_and(|c| c.binds_context && c.shows_version));
}

#[test]
fn googles_library_takes_the_double_for_cloud_kms() {
    run(|| async {
        let (double, directory, provider) = double().await;
        let (name, other, disabled) = (double.symmetric(), double.symmetric(), double.symmetric());
        double.set_state(&disabled, 1, "DISABLED");
        let one = share();
        let blob = provider.wrap(aes(&name, "1"), &[(&one, b"slot")]).await.unwrap();
        let python = std::env::var("KMS_WRAP_CLOUD_SDKS").expect("KMS_WRAP_CLOUD_SDKS names a Python; tests/run providers sets it");
        let output = directory.path().join("output");
        let mut child = Command::new(python)
            .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/providers/gcp_sdk.py"))
            .args([&double.web.url, directory.path().join("gcp.json").to_str().unwrap(), &name, &other, &disabled])
            .args([hex::encode(&blob[0]), hex::encode(one.expose()), hex::encode("slot")])
            .stdout(fs::File::create(&output).unwrap())
            .spawn()
            .unwrap();
        let status = loop {
            if let Some(status) = child.try_wait().unwrap() {
                break status;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        };
        assert!(status.success());
        // What the library wrapped is what the provider opens.
        let theirs = STANDARD.decode(fs::read_to_string(output).unwrap().trim()).unwrap();
        let opened = provider.unwrap(aes(&name, ""), &[(&theirs, b"slot")]).await.unwrap();
        assert!(bool::from(opened[0].as_ref().unwrap().ct_eq(&one)));
    });
}
