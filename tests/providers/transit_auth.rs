//! Logging in to OpenBao, and what comes of tokens that end.

use crate::{
    bao::Bao,
    fixture::{failure, run, shares, to_wrap},
    transit::aes,
};
use serde_json::{Value, json};
use std::{fs, os::unix::fs::PermissionsExt, time::Duration};

const POLICY: &str = r#"path "transit/encrypt/k1" { capabilities = ["update"] } path "transit/decrypt/k1" { capabilities = ["update"] }"#;

/// An AppRole with its credential files, and the configuration that uses it.
fn approle(bao: &Bao) -> Value {
    bao.api("PUT", "sys/policy/app", &json!({"policy": POLICY}));
    bao.api("POST", "sys/auth/approle", &json!({"type": "approle"}));
    bao.api("POST", "auth/approle/role/db", &json!({"token_policies": "app", "token_ttl": "1h"}));
    let role = bao.api("GET", "auth/approle/role/db/role-id", &Value::Null)["data"]["role_id"].as_str().unwrap().to_owned();
    let id = bao.api("POST", "auth/approle/role/db/secret-id", &json!({}))["data"]["secret_id"].as_str().unwrap().to_owned();
    bao.directory.write("role", role.as_bytes());
    bao.directory.write("id", format!("{id}\n").as_bytes());
    let mut config = bao.config();
    let fields = config.as_object_mut().unwrap();
    fields.remove("token_file");
    fields.extend(json!({"auth": "approle", "role_id_file": "role", "secret_id_file": "id"}).as_object().unwrap().clone());
    config
}

/// Accessors of the tokens that AppRole has given out.
fn logins(bao: &Bao) -> Vec<Value> {
    let all = bao.api("LIST", "auth/token/accessors", &Value::Null);
    let is_login = |accessor: &&Value| {
        bao.api("POST", "auth/token/lookup-accessor", &json!({"accessor": accessor}))["data"]["path"] == json!("auth/approle/login")
    };
    all["data"]["keys"].as_array().unwrap().iter().filter(is_login).cloned().collect()
}

#[test]
fn approle_logs_in_once_and_again_when_revoked() {
    run(|| async {
        let bao = Bao::start();
        bao.key("k1", "aes256-gcm96");
        let provider = bao.directory.provider("openbao", &approle(&bao));
        let items = shares(1);
        provider.health().await.unwrap();
        for _ in 0..3 {
            provider.wrap(aes("k1", "1"), &to_wrap(&items)).await.unwrap();
        }
        assert_eq!(logins(&bao).len(), 1);
        // What the policy forbids is no reason to log in again.
        assert_eq!(failure(provider.wrap(aes("k2", "1"), &to_wrap(&items)).await, &[]), "denied");
        assert_eq!(logins(&bao).len(), 1);
        let first = logins(&bao).remove(0);
        bao.api("POST", "auth/token/revoke-accessor", &json!({"accessor": first}));
        provider.wrap(aes("k1", "1"), &to_wrap(&items)).await.unwrap();
        let second = logins(&bao);
        assert!(second.len() == 1 && second[0] != first);
        // Revoked again, and the secret id is no longer good.
        bao.api("POST", "auth/token/revoke-accessor", &json!({"accessor": second[0]}));
        bao.directory.write("id", b"00000000-0000-0000-0000-000000000000");
        assert_eq!(failure(provider.wrap(aes("k1", "1"), &to_wrap(&items)).await, &["00000000"]), "denied");
        assert_eq!(failure(provider.health().await, &["00000000"]), "denied");
    });
}

#[test]
fn short_leases_last() {
    run(|| async {
        let bao = Bao::start();
        bao.key("k1", "aes256-gcm96");
        let config = approle(&bao);
        bao.api("POST", "auth/approle/role/db", &json!({"token_policies": "app", "token_ttl": "2s", "token_max_ttl": "4s"}));
        let provider = bao.directory.provider("openbao", &config);
        let items = shares(1);
        for round in 0..20 {
            provider.wrap(aes("k1", "1"), &to_wrap(&items)).await.unwrap_or_else(|error| panic!("round {round}: {error:?}"));
            tokio::time::sleep(Duration::from_millis(400)).await;
        }
        // A pause in which the lease ended.
        tokio::time::sleep(Duration::from_secs(3)).await;
        provider.wrap(aes("k1", "1"), &to_wrap(&items)).await.unwrap();
    });
}

#[test]
fn a_token_file_is_read_again_when_it_changes() {
    run(|| async {
        let bao = Bao::start();
        bao.key("k1", "aes256-gcm96");
        let provider = bao.directory.provider("openbao", &bao.config());
        let items = shares(1);
        let wrap = async || provider.wrap(aes("k1", "1"), &to_wrap(&items)).await;
        wrap().await.unwrap();
        let short = bao.token(POLICY, "1s");
        bao.directory.write("token", short.as_bytes());
        wrap().await.unwrap();
        tokio::time::sleep(Duration::from_millis(1500)).await;
        assert_eq!(failure(wrap().await, &[&short]), "denied");
        assert_eq!(failure(provider.health().await, &[&short]), "denied");
        bao.directory.write("token", bao.token(POLICY, "1h").as_bytes());
        wrap().await.unwrap();
        provider.health().await.unwrap();
        let path = bao.directory.path().join("token");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        assert_eq!(failure(wrap().await, &[]), "denied");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        wrap().await.unwrap();
        for contents in ["", "\n", "two\nlines", "s.\u{e9}\u{7f}"] {
            bao.directory.write("token", contents.as_bytes());
            assert_eq!(failure(wrap().await, &["two"]), "denied", "{contents:?}");
        }
        fs::remove_file(&path).unwrap();
        assert_eq!(failure(wrap().await, &[]), "denied");
    });
}

/// Whoever probes renews the token of a file for all that use it, when two thirds of its time are over.
#[test]
fn a_token_file_is_renewed_by_probes() {
    run(|| async {
        let bao = Bao::start();
        bao.key("k1", "aes256-gcm96");
        let ttl = |token: &str| {
            let told = bao.api("POST", "auth/token/lookup", &json!({"token": token}));
            told["data"]["ttl"].as_u64().unwrap_or(0)
        };
        let token = bao.token(POLICY, "15s");
        bao.directory.write("token", token.as_bytes());
        let provider = bao.directory.provider("openbao", &bao.config());
        provider.health().await.unwrap();
        let start = std::time::Instant::now();
        while start.elapsed() < Duration::from_secs(18) {
            std::thread::sleep(Duration::from_millis(500));
            provider.health().await.unwrap();
        }
        assert!(ttl(&token) > 0, "it has outlived its first time to live");
        provider.wrap(aes("k1", "1"), &to_wrap(&shares(1))).await.unwrap();

        // One that may not renew itself: said while it is still good.
        bao.api("PUT", "sys/policy/t", &json!({"policy": POLICY}));
        let rules = "path \"auth/token/lookup-self\" { capabilities = [\"read\"] }";
        bao.api("PUT", "sys/policy/l", &json!({"policy": rules}));
        let body = json!({"policies": ["t", "l"], "ttl": "15s", "no_default_policy": true});
        let made = bao.api("POST", "auth/token/create", &body)["auth"]["client_token"].as_str().unwrap().to_owned();
        bao.directory.write("token", made.as_bytes());
        provider.health().await.unwrap();
        std::thread::sleep(Duration::from_secs(11));
        let error = provider.health().await.unwrap_err();
        assert!(error.detail().ends_with(" s, and renewing it gives nothing."), "{}", error.detail());
        provider.wrap(aes("k1", "1"), &to_wrap(&shares(1))).await.unwrap();
    });
}
