//! Provider kind `azure` against a double that Microsoft's own client library has judged.

use crate::{
    azure_double::{CLIENT, Double, FEDERATED, SECRET, TENANT},
    conformance::{self, Keys},
    fixture::{Directory, failure, run, threads},
    web_double::Fault,
};
use aws_lc_rs::{
    encoding::{AsDer, Pkcs8V1Der},
    rsa::{KeyPair, KeySize},
    signature::KeyPair as _,
};
use base64::{
    Engine,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use kms_wrap::{
    core::{kdf, secret::Share, suite::Algorithm},
    provider::{
        Provider, ProviderError, ProviderKey,
        config::{self, ConfigError},
        entropy::SystemEntropy,
    },
};
use serde_json::{Value, json};
use std::{fs, process::Command, rc::Rc, time::Duration};

const SECRETS: [&str; 4] = ["secret words", "eyJ", SECRET, "PRIVATE"];
const RESOURCE: &str = "https://managedhsm.azure.net";

fn key<'a>(name: &'a str, version: &'a str, algorithm: Algorithm) -> ProviderKey<'a> {
    ProviderKey { name, version, algorithm, public_key: None }
}

fn share() -> Share {
    Share::random(&mut SystemEntropy).unwrap()
}

fn class<T>(result: Result<T, ProviderError>) -> &'static str {
    failure(result, &SECRETS)
}

fn config(url: &str) -> Value {
    json!({"vault_url": url, "resource": RESOURCE, "authority": url, "tenant_id": TENANT, "client_id": CLIENT, "client_secret_file": "azure"})
}

async fn double() -> (Double, Directory, Rc<dyn Provider>) {
    let (double, directory) = (Double::start().await, Directory::new());
    directory.write("azure", format!("{SECRET}\n").as_bytes());
    let provider = directory.provider("azure", &config(&double.web.url));
    (double, directory, provider)
}

#[test]
fn azure_keeps_the_contract() {
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
        assert_eq!(double.web.wire.count("/oauth2/v2.0/token"), 1);
    });
}

#[test]
fn azure_rsa_keys_are_pinned_by_their_public_key() {
    run(|| async {
        let (double, _directory, provider) = double().await;
        let (name, other) = (double.rsa(), double.rsa());
        let algorithm = Algorithm::RsaOaepSha256;
        let old = provider.describe(&name, None, algorithm).await.unwrap();
        double.rotate(&name);
        let new = provider.describe(&name, None, algorithm).await.unwrap();
        assert!(old.version != new.version && old.public_key != new.public_key);
        assert_eq!(provider.describe(&name, Some(&old.version), algorithm).await.unwrap(), old);
        let (one, two) = (share(), share());
        let first = ProviderKey { public_key: old.public_key.as_deref(), ..key(&name, &old.version, algorithm) };
        let second = ProviderKey { public_key: new.public_key.as_deref(), ..key(&name, &new.version, algorithm) };
        let a = provider.wrap(first, &[(&one, b"1")]).await.unwrap().remove(0);
        let b = provider.wrap(second, &[(&two, b"2")]).await.unwrap().remove(0);
        assert_eq!((double.web.wire.count("wrapkey"), a.len()), (0, 33 + 256));
        // Each blob opens by the version that it names.
        let mut flipped = a.clone();
        flipped[100] ^= 1;
        let mut of_new = a.clone();
        of_new[..32].copy_from_slice(new.version.as_bytes());
        let mut of_none = a.clone();
        of_none[0] ^= 1;
        let items: Vec<(&[u8], &[u8])> =
            vec![(&b, b"2"), (&flipped, b"1"), (&of_new, b"1"), (&of_none, b"1"), (&a[..33], b"1"), (b"", b""), (&a, b"1")];
        let opened = provider.unwrap(second, &items).await.unwrap();
        assert_eq!(opened.iter().map(Option::is_some).collect::<Vec<_>>(), [true, false, false, false, false, false, true]);
        assert!(bool::from(opened[0].as_ref().unwrap().ct_eq(&two)) && bool::from(opened[6].as_ref().unwrap().ct_eq(&one)));
        let elsewhere = key(&other, "", algorithm);
        assert!(provider.unwrap(elsewhere, &items[..1]).await.unwrap()[0].is_none());
        let nobody = format!("{name}x");
        assert_eq!(class(provider.unwrap(key(&nobody, "", algorithm), &items[..1]).await), "not_found");
        for bad in [None, Some(&b""[..])] {
            assert_eq!(class(provider.wrap(ProviderKey { public_key: bad, ..first }, &[(&one, b"1")]).await), "malformed");
        }
        assert_eq!(class(provider.wrap(ProviderKey { version: "", ..first }, &[(&one, b"1")]).await), "denied");
        assert_eq!(class(provider.describe(&name, None, Algorithm::Aes256Gcm).await), "malformed");
        double.set(&name, |key| key.operations = json!(["wrapKey"]));
        assert_eq!(class(provider.describe(&name, None, algorithm).await), "denied");
        assert_eq!(class(provider.unwrap(second, &items[..1]).await), "denied");
        double.set(&other, |key| key.enabled = false);
        assert_eq!(class(provider.describe(&other, None, algorithm).await), "denied");
        assert_eq!(class(provider.unwrap(key(&other, "", algorithm), &items[..0]).await), "ok");
    });
}

#[test]
fn azure_answers_are_checked() {
    run(|| async {
        let (double, _directory, provider) = double().await;
        let (name, other) = (double.symmetric(), double.symmetric());
        let algorithm = Algorithm::Aes256Gcm;
        let old = provider.describe(&name, None, algorithm).await.unwrap().version;
        double.rotate(&name);
        let new = provider.describe(&name, None, algorithm).await.unwrap().version;
        let one = share();
        let pinned = key(&name, &old, algorithm);
        // The pinned version, not the newest one.
        let blob = provider.wrap(pinned, &[(&one, b"a")]).await.unwrap().remove(0);
        assert!(blob.starts_with(old.as_bytes()));
        assert!(provider.unwrap(key(&name, &new, algorithm), &[(&blob, b"a")]).await.unwrap()[0].is_some());
        let url = &double.web.url;
        let kids = [
            Fault::Field("kid", json!(format!("{url}/keys/{name}/{new}"))),
            Fault::Field("kid", json!(format!("{url}/keys/{other}/{old}"))),
            Fault::Field("kid", json!(format!("{url}/keys/{name}"))),
            Fault::Field("kid", json!("secret words")),
            Fault::Without("kid"),
            Fault::Without("value"),
            Fault::Field("value", json!("*")),
            Fault::Field("value", json!(3)),
            Fault::Raw(200, "secret words".to_owned()),
        ];
        for fault in kids {
            double.web.wire.fault(fault.clone());
            assert_eq!(class(provider.wrap(pinned, &[(&one, b"a")]).await), "malformed");
            double.web.wire.fault(fault);
            assert_eq!(class(provider.unwrap(pinned, &[(&blob, b"a")]).await), "malformed");
        }
        for fault in [Fault::Without("iv"), Fault::Without("tag"), Fault::Field("tag", json!("AAAA")), Fault::Field("value", json!(""))] {
            double.web.wire.fault(fault);
            assert_eq!(class(provider.wrap(pinned, &[(&one, b"a")]).await), "malformed");
        }
        double.web.wire.fault(Fault::Field("value", json!("AAAA")));
        assert!(provider.unwrap(pinned, &[(&blob, b"a")]).await.unwrap()[0].is_none());
        let jwk = |kid: String| json!({"kid": kid, "kty": "oct-HSM", "key_ops": ["encrypt", "decrypt"]});
        for kid in [format!("{url}/keys/{other}/{new}"), format!("{url}/keys/{name}"), String::new()] {
            double.web.wire.fault(Fault::Field("key", jwk(kid)));
            assert_eq!(class(provider.describe(&name, None, algorithm).await), "malformed");
        }
        for name in ["", "..", "a/b", "a?b#c", "../../x"] {
            assert_eq!(class(provider.describe(name, None, algorithm).await), "not_found");
        }
        assert_eq!(class(provider.describe(&name, None, Algorithm::RsaOaepSha256).await), "malformed");
        double.set(&name, |key| key.enabled = false);
        for result in [
            class(provider.wrap(pinned, &[(&one, b"a")]).await),
            class(provider.unwrap(pinned, &[(&blob, b"a")]).await),
            class(provider.describe(&name, None, algorithm).await),
        ] {
            assert_eq!(result, "denied");
        }
    });
}

#[test]
fn azure_errors_have_their_class() {
    run(|| async {
        let (double, _directory, provider) = double().await;
        let name = double.symmetric();
        let version = provider.describe(&name, None, Algorithm::Aes256Gcm).await.unwrap().version;
        let pinned = key(&name, &version, Algorithm::Aes256Gcm);
        let one = share();
        let blob = provider.wrap(pinned, &[(&one, b"a")]).await.unwrap().remove(0);
        let error = |status: u16, code: &str, inner: &str| {
            Fault::Raw(status, json!({"error": {"code": code, "message": "secret words", "innererror": {"code": inner}}}).to_string())
        };
        for (status, code, inner, expected) in [
            (429, "Throttled", "", "throttled"),
            (403, "Forbidden", "KeyDisabled", "denied"),
            (403, "Forbidden", "ForbiddenByRbac", "denied"),
            (403, "Forbidden", "ForbiddenByFirewall", "denied"),
            (403, "Forbidden", "KeyExpired", "denied"),
            (500, "InternalError", "", "unavailable"),
            (503, "ServiceUnavailable", "", "unavailable"),
            (400, "Other", "", "malformed"),
            (418, "Other", "", "malformed"),
            (404, "Other", "", "not_found"),
        ] {
            double.web.wire.fault(error(status, code, inner));
            assert_eq!(class(provider.wrap(pinned, &[(&one, b"a")]).await), expected, "{status} {code} {inner}");
            double.web.wire.fault(error(status, code, inner));
            assert_eq!(class(provider.unwrap(pinned, &[(&blob, b"a")]).await), expected, "{status} {code} {inner}");
        }
        for (status, code, expected) in [(400, "BadParameter", "malformed"), (404, "KeyNotFound", "not_found")] {
            double.web.wire.fault(error(status, code, ""));
            assert!(provider.unwrap(pinned, &[(&blob, b"a")]).await.unwrap()[0].is_none());
            double.web.wire.fault(error(status, code, ""));
            assert_eq!(class(provider.wrap(pinned, &[(&one, b"a")]).await), expected);
        }
        double.state.forbidden.set(true);
        assert_eq!(class(provider.wrap(pinned, &[(&one, b"a")]).await), "denied");
        provider.health().await.unwrap();
        double.state.forbidden.set(false);
        // One fresh token, no loop.
        let fetched = double.web.wire.count("/oauth2/v2.0/token");
        double.state.tokens.borrow_mut().clear();
        provider.wrap(pinned, &[(&one, b"a")]).await.unwrap();
        assert_eq!(double.web.wire.count("/oauth2/v2.0/token"), fetched + 1);
        double.state.tokens.borrow_mut().clear();
        double.web.wire.fault(Fault::Delay(0));
        double.web.wire.fault(Fault::Delay(0));
        double.web.wire.fault(error(401, "Unauthorized", ""));
        assert_eq!(class(provider.health().await), "denied");
        assert_eq!(double.web.wire.count("/oauth2/v2.0/token"), fetched + 2);

        let before = threads();
        let items: Vec<_> = (0..30).map(|_| (&one, &b"a"[..])).collect();
        double.web.wire.fault(Fault::Hang);
        assert!(tokio::time::timeout(Duration::from_millis(200), provider.wrap(pinned, &items)).await.is_err());
        assert_eq!(provider.wrap(pinned, &items).await.unwrap().len(), 30);
        assert_eq!(threads(), before);
    });
}

#[test]
fn azure_identities_sign_in() {
    run(|| async {
        let (double, directory, _) = double().await;
        let url = double.web.url.clone();
        let pair = KeyPair::generate(KeySize::Rsa2048).unwrap();
        let der: Pkcs8V1Der<'_> = pair.as_der().unwrap();
        let pem = |kind: &str, der: &[u8]| format!("-----BEGIN {kind}-----\n{}\n-----END {kind}-----\n", STANDARD.encode(der));
        // Only its hash matters to anyone here.
        let certificate = b"a certificate in DER";
        directory.write("cert", pem("CERTIFICATE", certificate).as_bytes());
        directory.write("key", pem("PRIVATE KEY", der.as_ref()).as_bytes());
        directory.write("federated", FEDERATED.as_bytes());
        let thumbprint = URL_SAFE_NO_PAD.encode(kdf::sha256(&[certificate]));
        *double.state.certificate.borrow_mut() = (pair.public_key().as_ref().to_vec(), thumbprint);
        let application = |more: Value| {
            let mut config = config(&url);
            config.as_object_mut().unwrap().remove("client_secret_file");
            config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            config
        };
        let managed = |more: Value| {
            let mut config = json!({"vault_url": url, "resource": RESOURCE, "credentials": "managed", "metadata_endpoint": url});
            config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            config
        };
        for config in [
            application(json!({"client_secret_file": "azure"})),
            application(json!({"client_cert_file": "cert", "client_key_file": "key"})),
            application(json!({"federated_token_file": "federated"})),
            managed(json!({})),
            managed(json!({"client_id": CLIENT})),
        ] {
            let provider = directory.provider("azure", &config);
            provider.health().await.unwrap_or_else(|error| panic!("{config}: {}", error.detail()));
            for (status, text, expected) in [(200, "{}", "malformed"), (429, "secret words", "throttled"), (503, "", "unavailable")] {
                double.web.wire.fault(Fault::Raw(status, text.to_owned()));
                assert_eq!(class(directory.provider("azure", &config).health().await), expected, "{config}");
            }
        }
        directory.write("other", b"other");
        for config in [
            application(json!({"client_secret_file": "other"})),
            application(json!({"client_secret_file": "azure", "client_id": TENANT})),
            application(json!({"client_secret_file": "azure", "tenant_id": CLIENT})),
            application(json!({"client_secret_file": "missing"})),
            application(json!({"client_cert_file": "other", "client_key_file": "key"})),
            application(json!({"client_cert_file": "cert", "client_key_file": "other"})),
            application(json!({"federated_token_file": "other"})),
            managed(json!({"client_id": TENANT})),
        ] {
            assert_eq!(class(directory.provider("azure", &config).health().await), "denied", "{config}");
        }
        // What Entra ID says of a statement that is not of its time.
        let statement = application(json!({"client_cert_file": "cert", "client_key_file": "key"}));
        let text =
            r#"{"error": "invalid_client", "error_description": "AADSTS700024: Client assertion is not within its valid time range."}"#;
        double.web.wire.fault(Fault::Raw(401, text.to_owned()));
        let error = directory.provider("azure", &statement).health().await.unwrap_err();
        assert_eq!((error.class(), error.detail().contains("clocks of this server and of Azure differ")), ("denied", true), "{error:?}");
        // A new secret in the file is used at once.
        let provider = directory.provider("azure", &config(&url));
        provider.health().await.unwrap();
        directory.write("azure", b"another");
        assert_eq!(class(provider.health().await), "denied");
        directory.write("azure", SECRET.as_bytes());
        provider.health().await.unwrap();
    });
}

#[test]
fn azure_configurations_say_what_is_wrong() {
    let directory = Directory::new();
    let check = |config: &Value, allowed: &[&str]| -> Result<(), ConfigError> {
        let mut environment = directory.environment();
        environment.allowed_endpoints = allowed.iter().map(|&pattern| pattern.to_owned()).collect();
        config::provider("azure", config, &environment).map(|_| ())
    };
    let with = |more: Value| {
        let mut config = json!({"vault_url": "https://v.vault.azure.net"});
        config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        config
    };
    let secret = json!({"tenant_id": TENANT, "client_id": CLIENT, "client_secret_file": "s"});
    for config in [
        with(secret.clone()),
        with(json!({"tenant_id": "example.onmicrosoft.com", "client_id": CLIENT, "federated_token_file": "t", "credentials": "federated"})),
        with(json!({"tenant_id": TENANT, "client_id": CLIENT, "client_cert_file": "c", "client_key_file": "k"})),
        with(json!({"credentials": "managed"})),
        with(json!({"credentials": "managed", "client_id": CLIENT, "vault_url": "https://v.managedhsm.azure.net"})),
        with(json!({"credentials": "managed", "vault_url": "https://vault.example", "resource": "https://vault.azure.net"})),
    ] {
        assert_eq!(check(&config, &[]), Ok(()), "{config}");
    }
    for (field, config) in [
        ("vault_url", json!({"credentials": "managed"})),
        ("vault_url", with(json!({"credentials": "managed", "vault_url": "http://v.vault.azure.net"}))),
        ("resource", with(json!({"credentials": "managed", "vault_url": "https://vault.example"}))),
        ("resource", with(json!({"credentials": "managed", "vault_url": "https://vault.azure.net.example"}))),
        ("resource", with(json!({"credentials": "managed", "resource": "https://graph.microsoft.com"}))),
        ("credentials", with(json!({}))),
        ("credentials", with(json!({"credentials": "all"}))),
        ("credentials", with(json!({"client_secret_file": "s", "federated_token_file": "t"}))),
        ("client_secret_file", with(json!({"credentials": "secret", "tenant_id": TENANT, "client_id": CLIENT}))),
        ("client_secret_file", with(json!({"client_secret_file": "../s"}))),
        ("client_key_file", with(json!({"tenant_id": TENANT, "client_id": CLIENT, "client_cert_file": "c"}))),
        ("tenant_id", with(json!({"client_id": CLIENT, "client_secret_file": "s"}))),
        ("tenant_id", with(json!({"tenant_id": "..", "client_id": CLIENT, "client_secret_file": "s"}))),
        ("tenant_id", with(json!({"tenant_id": "a/b", "client_id": CLIENT, "client_secret_file": "s"}))),
        ("client_id", with(json!({"tenant_id": TENANT, "client_secret_file": "s"}))),
        ("tenant_id", with(json!({"tenant_id": TENANT, "credentials": "managed"}))),
        ("metadata_endpoint", with(json!({"credentials": "managed", "metadata_endpoint": "http://10.0.0.1"}))),
        ("secret", with(json!({"credentials": "managed", "secret": "x"}))),
    ] {
        assert_eq!(check(&config, &[]).map_err(|e| e.field), Err(field.to_owned()), "{config}");
    }
    let vault = "https://*.vault.azure.net";
    assert_eq!(check(&with(secret.clone()), &[vault]).map_err(|e| e.field), Err("authority".to_owned()));
    assert_eq!(check(&with(secret), &[vault, "https://login.microsoftonline.com"]), Ok(()));
    assert_eq!(check(&with(json!({"credentials": "managed"})), &[vault]).map_err(|e| e.field), Err("metadata_endpoint".to_owned()));
    assert!(config::capabilities("azure").is_some());
    assert!(config::capabilities("azure").is_some_and(|c| c.binds_context && c.shows_version));
}

#[test]
fn microsofts_library_takes_the_double_for_a_managed_hsm() {
    run(|| async {
        let (double, directory, provider) = double().await;
        let (symmetric, rsa, disabled) = (double.symmetric(), double.rsa(), double.rsa());
        double.set(&disabled, |key| key.enabled = false);
        let one = share();
        let sym = provider.describe(&symmetric, None, Algorithm::Aes256Gcm).await.unwrap();
        let asym = provider.describe(&rsa, None, Algorithm::RsaOaepSha256).await.unwrap();
        let sym = key(&symmetric, &sym.version, Algorithm::Aes256Gcm);
        let public_key = asym.public_key.as_deref();
        let asym = ProviderKey { public_key, ..key(&rsa, &asym.version, Algorithm::RsaOaepSha256) };
        let sealed = provider.wrap(sym, &[(&one, b"slot")]).await.unwrap();
        let wrapped = provider.wrap(asym, &[(&one, b"slot")]).await.unwrap();
        let python = std::env::var("KMS_WRAP_CLOUD_SDKS").expect("KMS_WRAP_CLOUD_SDKS names a Python; tests/run providers sets it");
        let output = directory.path().join("output");
        let token = double.state.tokens.borrow().iter().next().unwrap().clone();
        let mut child = Command::new(python)
            .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/providers/azure_sdk.py"))
            .args([&double.web.url, &token, &symmetric, &rsa, &disabled])
            .args([hex::encode(&sealed[0]), hex::encode(&wrapped[0]), hex::encode(one.expose()), hex::encode("slot")])
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
        let theirs: Vec<_> = fs::read_to_string(output).unwrap().lines().map(|line| hex::decode(line).unwrap()).collect();
        for (key, blob) in [(sym, &theirs[0]), (asym, &theirs[1])] {
            let opened = provider.unwrap(key, &[(blob, b"slot")]).await.unwrap();
            assert!(bool::from(opened[0].as_ref().unwrap().ct_eq(&one)));
        }
    });
}
