//! Kinds `openbao` and `vault` on OpenBao: keys, their versions and their state.

use crate::{
    bao::{Bao, Clients},
    conformance::{self, Keys},
    fixture::{Directory, are, failure, run, shares, to_open, to_wrap},
};
use base64::{Engine, engine::general_purpose::STANDARD};
use kms_wrap::{
    core::suite::Algorithm,
    provider::{Provider, ProviderKey, config},
};
use serde_json::{Value, json};
use std::rc::Rc;

pub(crate) fn aes<'a>(name: &'a str, version: &'a str) -> ProviderKey<'a> {
    ProviderKey { name, version, algorithm: Algorithm::Aes256Gcm, public_key: None }
}

fn provider(bao: &Bao) -> Rc<dyn Provider> {
    bao.directory.provider("openbao", &bao.config())
}

#[test]
fn conformance_of_openbao() {
    run(|| async {
        let bao = Bao::start();
        for (key, kind) in [("k1", "aes256-gcm96"), ("k2", "aes256-gcm96"), ("r1", "rsa-2048"), ("r2", "rsa-2048"), ("r4", "rsa-4096")] {
            bao.key(key, kind);
        }
        let keys = |key: &str, other: &str, algorithm, wrong_algorithm, most| Keys {
            key: key.into(),
            other: other.into(),
            unknown: "nobody".into(),
            algorithm,
            wrong_algorithm,
            binds: algorithm == Algorithm::Aes256Gcm,
            describes: true,
            most,
        };
        let (aes, rsa) = (Algorithm::Aes256Gcm, Algorithm::RsaOaepSha256);
        conformance::run(provider(&bao), keys("k1", "k2", aes, rsa, 1000)).await;
        conformance::run(provider(&bao), keys("r1", "r2", rsa, aes, 160)).await;
        conformance::run(provider(&bao), keys("r4", "r1", rsa, Algorithm::RsaOaepSha1, 10)).await;
        // The same server as the other kind.
        conformance::run(bao.directory.provider("vault", &bao.config()), keys("k1", "k2", aes, Algorithm::Xaes256Gcm, 200)).await;
    });
}

#[test]
fn no_key_is_made_by_a_typing_error() {
    run(|| async {
        let bao = Bao::start();
        bao.key("k1", "aes256-gcm96");
        let items = shares(2);
        // As root, whom no policy keeps from creating keys.
        let provider = provider(&bao);
        assert_eq!(failure(provider.wrap(aes("k11", "1"), &to_wrap(&items)).await, &[]), "not_found");
        assert!(!bao.has_key("k11"));
        // The test can tell: what is refused here makes a key when it is sent as the manual has it.
        bao.api("POST", "transit/encrypt/k11", &json!({"plaintext": "AAAA", "key_version": 1}));
        assert!(bao.has_key("k11"));
        // And with the policy that README recommends.
        let policy = r#"path "transit/+/k*" { capabilities = ["read", "update"] }"#;
        bao.directory.write("token", bao.token(policy, "1h").as_bytes());
        assert_eq!(failure(provider.wrap(aes("k12", "1"), &to_wrap(&items)).await, &[]), "denied");
        assert!(!bao.has_key("k12"));
        provider.wrap(aes("k1", "1"), &to_wrap(&items)).await.unwrap();
    });
}

#[test]
fn names_stay_in_their_place() {
    run(|| async {
        let bao = Bao::start();
        bao.key("k1", "aes256-gcm96");
        let provider = provider(&bao);
        let items = shares(1);
        for name in
            ["", ".", "..", "../keys/k1", "k1/../k1", "k1/config", "%2e%2e", "k1%2Fconfig", "k1?x=1", "k1#", "k 1", "k\u{e9}", "k1\\"]
        {
            assert_eq!(failure(provider.wrap(aes(name, "1"), &to_wrap(&items)).await, &[]), "not_found", "{name}");
            assert_eq!(failure(provider.describe(name, None, Algorithm::Aes256Gcm).await, &[]), "not_found", "{name}");
        }
        for version in ["", "0", "01", "+1", "1.0", "1,", "v1", "99999999999"] {
            assert_eq!(failure(provider.wrap(aes("k1", version), &to_wrap(&items)).await, &[]), "denied", "{version}");
        }
        assert_eq!(failure(provider.wrap(aes("k1", "2"), &to_wrap(&items)).await, &[]), "not_found");
    });
}

#[test]
fn keys_of_another_nature_are_refused() {
    run(|| async {
        let bao = Bao::start();
        for kind in ["aes128-gcm96", "chacha20-poly1305", "xchacha20-poly1305", "ed25519", "ecdsa-p256", "rsa-2048", "aes256-gcm96"] {
            bao.key(kind, kind);
        }
        bao.api("POST", "transit/keys/derived", &json!({"type": "aes256-gcm96", "derived": true}));
        let provider = provider(&bao);
        let (aes_kind, rsa_kind) = (Algorithm::Aes256Gcm, Algorithm::RsaOaepSha256);
        for kind in ["aes128-gcm96", "chacha20-poly1305", "xchacha20-poly1305", "ed25519", "ecdsa-p256", "rsa-2048"] {
            let error = provider.describe(kind, None, aes_kind).await.unwrap_err();
            assert_eq!(error.class(), "malformed");
            assert!(error.detail().ends_with(&format!("is of type {kind}, not aes256-gcm96.")), "{}", error.detail());
        }
        assert_eq!(failure(provider.describe("aes256-gcm96", None, rsa_kind).await, &[]), "malformed");
        assert_eq!(failure(provider.describe("derived", None, aes_kind).await, &[]), "denied");
        for algorithm in [Algorithm::RsaOaepSha1, Algorithm::MlKem768, Algorithm::Xaes256Gcm] {
            assert_eq!(failure(provider.describe("rsa-2048", None, algorithm).await, &[]), "denied");
        }
        // Registered as what they are not, they wrap nothing.
        let items = shares(1);
        for kind in ["ed25519", "derived", "rsa-2048"] {
            assert_eq!(failure(provider.wrap(aes(kind, "1"), &to_wrap(&items)).await, &[]), "denied", "{kind}");
        }
    });
}

#[test]
fn the_public_key_is_the_keys_own() {
    run(|| async {
        let bao = Bao::start();
        bao.key("r1", "rsa-2048");
        bao.api("POST", "transit/keys/r1/rotate", &json!({}));
        let provider = provider(&bao);
        let first = provider.describe("r1", Some("1"), Algorithm::RsaOaepSha256).await.unwrap();
        let second = provider.describe("r1", None, Algorithm::RsaOaepSha256).await.unwrap();
        assert_eq!((first.version.as_str(), second.version.as_str()), ("1", "2"));
        assert_ne!(first.public_key, second.public_key);
        // What openssl wraps by it with OAEP and SHA-256 opens: that is the algorithm.
        let items = shares(1);
        let directory = Directory::new();
        directory.write("spki", first.public_key.as_deref().unwrap());
        directory.write("share", items[0].0.expose());
        let options = ["rsa_padding_mode:oaep", "rsa_oaep_md:sha256", "rsa_mgf1_md:sha256"].map(|option| ["-pkeyopt", option]);
        let mut openssl = std::process::Command::new("openssl");
        openssl.args(["pkeyutl", "-encrypt", "-pubin", "-keyform", "DER", "-inkey", "spki", "-in", "share"]).args(options.as_flattened());
        let output = openssl.current_dir(directory.path()).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let blob = format!("vault:v1:{}", STANDARD.encode(output.stdout)).into_bytes();
        let key = ProviderKey { algorithm: Algorithm::RsaOaepSha256, ..aes("r1", "2") };
        assert!(are(&provider.unwrap(key, &to_open(&[blob], &items)).await.unwrap(), &items));
    });
}

#[test]
fn an_rsa_share_is_wrapped_under_the_pinned_key_only() {
    run(|| async {
        let mut bao = Bao::start();
        bao.key("r1", "rsa-2048");
        let provider = provider(&bao);
        let pinned = provider.describe("r1", None, Algorithm::RsaOaepSha256).await.unwrap().public_key.unwrap();
        // Another key under the same name and version, as who holds the server could make one.
        bao.api("POST", "transit/keys/r1/config", &json!({"deletion_allowed": true}));
        bao.api("DELETE", "transit/keys/r1", &Value::Null);
        bao.key("r1", "rsa-2048");
        let other = provider.describe("r1", None, Algorithm::RsaOaepSha256).await.unwrap().public_key.unwrap();
        let items = shares(2);
        for (public_key, opens) in [(&pinned, false), (&other, true)] {
            let key = ProviderKey { algorithm: Algorithm::RsaOaepSha256, public_key: Some(public_key), ..aes("r1", "1") };
            let blobs = provider.wrap(key, &to_wrap(&items)).await.unwrap();
            let opened = provider.unwrap(key, &to_open(&blobs, &items)).await.unwrap();
            assert_eq!((are(&opened, &items), opened.iter().any(Option::is_some)), (opens, opens));
        }
        for bad in [None, Some(&b""[..]), Some(&pinned[..100])] {
            let key = ProviderKey { algorithm: Algorithm::RsaOaepSha256, public_key: bad, ..aes("r1", "1") };
            assert_eq!(failure(provider.wrap(key, &to_wrap(&items)).await, &[]), "malformed");
        }
        // Wrapping asks nobody: it goes on without a server, and nothing else does.
        bao.kill();
        let key = ProviderKey { algorithm: Algorithm::RsaOaepSha256, public_key: Some(&pinned), ..aes("r1", "1") };
        assert!(provider.wraps_here(key.algorithm) && !provider.wraps_here(Algorithm::Aes256Gcm));
        let blobs = provider.wrap(key, &to_wrap(&items)).await.unwrap();
        assert_eq!(failure(provider.unwrap(key, &to_open(&blobs, &items)).await, &[]), "unavailable");
    });
}

#[test]
fn versions_are_pinned_and_old_ones_open() {
    run(|| async {
        let bao = Bao::start();
        bao.key("k1", "aes256-gcm96");
        let provider = provider(&bao);
        let items = shares(3);
        let old = provider.wrap(aes("k1", "1"), &to_wrap(&items)).await.unwrap();
        bao.api("POST", "transit/keys/k1/rotate", &json!({}));
        // Whoever pinned the old version goes on with it.
        let still_old = provider.wrap(aes("k1", "1"), &to_wrap(&items)).await.unwrap();
        let new = provider.wrap(aes("k1", "2"), &to_wrap(&items)).await.unwrap();
        assert!(old.iter().chain(&still_old).all(|blob| blob.starts_with(b"vault:v1:")));
        assert!(new.iter().all(|blob| blob.starts_with(b"vault:v2:")));
        for blobs in [&old, &new] {
            for version in ["1", "2", "7", ""] {
                assert!(are(&provider.unwrap(aes("k1", version), &to_open(blobs, &items)).await.unwrap(), &items));
            }
        }
        let described = |version| provider.describe("k1", version, Algorithm::Aes256Gcm);
        assert_eq!(described(None).await.unwrap().version, "2");
        assert_eq!(described(Some("1")).await.unwrap().version, "1");
        assert_eq!(failure(described(Some("3")).await, &[]), "not_found");
        // The owner closes the old version for wrapping, then for opening too.
        bao.api("POST", "transit/keys/k1/config", &json!({"min_encryption_version": 2}));
        assert_eq!(failure(described(Some("1")).await, &[]), "denied");
        assert_eq!(failure(provider.wrap(aes("k1", "1"), &to_wrap(&items)).await, &[]), "denied");
        assert!(are(&provider.unwrap(aes("k1", "1"), &to_open(&old, &items)).await.unwrap(), &items));
        bao.api("POST", "transit/keys/k1/config", &json!({"min_encryption_version": 0, "min_decryption_version": 2}));
        assert_eq!(failure(described(Some("1")).await, &[]), "denied");
        assert_eq!(failure(provider.unwrap(aes("k1", "1"), &to_open(&old, &items)).await, &["vault:v1"]), "denied");
        // One of those among others does not keep the others from opening.
        let mixed = [old[0].clone(), new[1].clone(), new[2].clone()];
        let opened = provider.unwrap(aes("k1", "2"), &to_open(&mixed, &items)).await.unwrap();
        assert!(opened[0].is_none() && are(&opened[1..], &items[1..]));
        bao.api("POST", "transit/keys/k1/config", &json!({"min_decryption_version": 1}));
        assert!(are(&provider.unwrap(aes("k1", "2"), &to_open(&old, &items)).await.unwrap(), &items));
    });
}

#[test]
fn a_soft_deleted_key_is_denied_until_it_is_restored() {
    run(|| async {
        let bao = Bao::start();
        bao.key("k1", "aes256-gcm96");
        let provider = provider(&bao);
        let items = shares(2);
        let blobs = provider.wrap(aes("k1", "1"), &to_wrap(&items)).await.unwrap();
        bao.api("DELETE", "transit/keys/k1/soft-delete", &Value::Null);
        assert_eq!(failure(provider.wrap(aes("k1", "1"), &to_wrap(&items)).await, &[]), "denied");
        assert_eq!(failure(provider.unwrap(aes("k1", "1"), &to_open(&blobs, &items)).await, &["vault:v1"]), "denied");
        assert_eq!(failure(provider.describe("k1", None, Algorithm::Aes256Gcm).await, &[]), "denied");
        bao.api("POST", "transit/keys/k1/soft-delete-restore", &json!({}));
        assert!(are(&provider.unwrap(aes("k1", "1"), &to_open(&blobs, &items)).await.unwrap(), &items));
        // Deleted for good, the key is not found, and not made anew.
        bao.api("POST", "transit/keys/k1/config", &json!({"deletion_allowed": true}));
        bao.api("DELETE", "transit/keys/k1", &Value::Null);
        assert_eq!(failure(provider.unwrap(aes("k1", "1"), &to_open(&blobs, &items)).await, &[]), "not_found");
        assert_eq!(failure(provider.wrap(aes("k1", "1"), &to_wrap(&items)).await, &[]), "not_found");
        assert!(!bao.has_key("k1"));
    });
}

#[test]
fn mounts_and_certificates() {
    run(|| async {
        let bao = Bao::start_for(Clients::WithCertificate);
        bao.api("POST", "sys/mounts/team/keys", &json!({"type": "transit"}));
        bao.api("POST", "team/keys/keys/k1", &json!({"type": "aes256-gcm96"}));
        let with = |more: Value| {
            let mut config = bao.config();
            config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            bao.directory.provider("openbao", &config)
        };
        let certificate = json!({"client_cert_file": "client.pem", "client_key_file": "client.key", "mount": "team/keys"});
        let provider = with(certificate.clone());
        let items = shares(1);
        let blobs = provider.wrap(aes("k1", "1"), &to_wrap(&items)).await.unwrap();
        assert!(are(&provider.unwrap(aes("k1", "1"), &to_open(&blobs, &items)).await.unwrap(), &items));
        // Without a certificate, with a CA that did not sign the server's, with the system's CAs, without TLS.
        assert_eq!(failure(with(json!({})).health().await, &[]), "unavailable");
        let mut other = certificate.clone();
        other["ca_file"] = json!("other.pem");
        let error = with(other).health().await.unwrap_err();
        assert!(error.detail().ends_with("the server's certificate is not trusted."), "{}", error.detail());
        let mut none = bao.config();
        none.as_object_mut().unwrap().remove("ca_file");
        assert_eq!(failure(bao.directory.provider("openbao", &none).health().await, &[]), "unavailable");
        // A name that the system knows, and one that the certificate does not have.
        let mut name = certificate.clone();
        name["endpoint"] = json!(format!("https://localhost:{}", bao.port));
        with(name.clone()).health().await.unwrap();
        name["endpoint"] = json!(format!("https://other.localhost:{}", bao.port));
        let error = with(name).health().await.unwrap_err();
        assert!(error.detail().ends_with("the server's certificate is not trusted."), "{}", error.detail());
        let plain = json!({"endpoint": format!("http://127.0.0.1:{}", bao.port), "token_file": "token"});
        assert_eq!(failure(bao.directory.provider("openbao", &plain).health().await, &[]), "denied");
        // A mount that there is not; files that are not there or hold something else.
        let mut mount = certificate.clone();
        mount["mount"] = json!("nowhere");
        assert_eq!(failure(with(mount).describe("k1", None, Algorithm::Aes256Gcm).await, &[]), "not_found");
        for field in ["client_cert_file", "client_key_file", "ca_file", "token_file"] {
            for file in ["missing", "bao.hcl"] {
                let mut config = certificate.clone();
                config[field] = json!(file);
                assert_eq!(failure(with(config).health().await, &[]), "denied", "{field} {file}");
            }
        }
    });
}

#[test]
fn configurations() {
    let directory = Directory::new();
    let field = |config: &Value| config::provider("openbao", config, &directory.environment()).err().map(|error| error.field);
    let good = [
        json!({"endpoint": "https://kms.example:8200", "token_file": "t"}),
        json!({"endpoint": "https://kms.example:8200", "token_file": "t", "auth": "token", "mount": "a/b", "namespace": "x/y", "ca_file": "c"}),
        json!({"endpoint": "https://k", "auth": "approle", "role_id_file": "r", "secret_id_file": "s", "auth_mount": "a"}),
        json!({"endpoint": "https://k", "auth": "kubernetes", "role": "r", "jwt_file": "j"}),
    ];
    for config in &good {
        assert_eq!(field(config), None, "{config}");
        for name in config.as_object().unwrap().keys() {
            let mut bad = config.clone();
            bad[name] = json!(7);
            assert_eq!(field(&bad).as_ref(), Some(name));
            bad.as_object_mut().unwrap().remove(name);
            let optional = ["auth", "mount", "namespace", "ca_file", "auth_mount"].contains(&name.as_str());
            // Without "auth" the fields of its method are nobody's.
            assert!(optional || field(&bad).as_ref() == Some(name), "{bad}");
        }
    }
    for (name, value, at) in [
        ("endpoint", json!("http://kms.example"), "endpoint"),
        ("mount", json!("../sys"), "mount"),
        ("mount", json!("/transit"), "mount"),
        ("mount", json!("a//b"), "mount"),
        ("mount", json!("a b"), "mount"),
        ("namespace", json!("a b"), "namespace"),
        ("auth", json!("ldap"), "auth"),
        ("token_file", json!("../token"), "token_file"),
        ("token", json!("s.xyz"), "token"),
        ("role_id_file", json!("r"), "role_id_file"),
        ("auth_mount", json!("approle"), "auth_mount"),
        ("client_cert_file", json!("c"), "client_key_file"),
        ("client_key_file", json!("c"), "client_key_file"),
    ] {
        let mut config = good[0].clone();
        config[name] = value;
        assert_eq!(field(&config).as_deref(), Some(at), "{config}");
    }
}
