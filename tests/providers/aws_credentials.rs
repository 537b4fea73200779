//! Where the identities of provider kind `aws` come from, and what its configuration refuses.

use crate::{
    aws::{ID, SECRET, aes, check_text, directory, double, profile, share},
    aws_double::{Double, Fault, Identity, REGION},
    fixture::run,
};
use kms_wrap::{
    core::suite::Algorithm,
    provider::{
        Provider,
        config::{self, ConfigError},
    },
};
use serde_json::{Value, json};
use std::{fs, os::unix::fs::PermissionsExt, time::Duration};

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
