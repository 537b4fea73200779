//! Provider kind `aws` against moto, which verifies signatures and rights.

use crate::{
    aws::{ID, SECRET, aes, check_text, described, directory, keys, profile, share},
    aws_double::REGION,
    conformance::{self, Keys},
    fixture::run,
};
use kms_wrap::{
    core::suite::Algorithm,
    provider::{
        credentials::CredentialDirectory,
        endpoint::Endpoint,
        http::{Http, Tls},
    },
};
use serde_json::{Value, json};
use std::{
    path::Path,
    process::{Child, Command, Stdio},
    rc::Rc,
    time::Duration,
};

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
