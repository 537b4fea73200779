//! A transit engine that misbehaves: each fault ends in the right class, and nothing of it gets into a text.

use crate::{
    double::{Act, Double, answer},
    fixture::{Directory, failure, run, shares, to_wrap},
    transit::aes,
};
use aws_lc_rs::{
    encoding::{AsDer, PublicKeyX509Der},
    rsa::{KeySize, PrivateDecryptingKey},
};
use base64::{Engine, engine::general_purpose::STANDARD};
use kms_wrap::{
    core::suite::Algorithm,
    provider::{Provider, ProviderKey},
};
use serde_json::{Value, json};
use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    time::Duration,
};
use tokio::time::timeout;

/// Stands in answers where a secret may stand, and is the token.
const SECRET: &str = "s.MARKER";
const BLOB: &str = "vault:v1:c2VhbGVk";

fn batch(results: &Value) -> String {
    json!({"data": {"batch_results": results}, "request_id": SECRET}).to_string()
}

/// The public key of a new RSA key.
fn spki(size: KeySize) -> Vec<u8> {
    let spki: PublicKeyX509Der<'_> = PrivateDecryptingKey::generate(size).unwrap().public_key().as_der().unwrap();
    spki.as_ref().to_vec()
}

/// A double that does what `next` holds, and a provider of it.
async fn misbehaving() -> (Directory, Double, Rc<dyn Provider>, Rc<RefCell<Option<Act>>>) {
    let directory = Directory::new();
    directory.write("token", SECRET.as_bytes());
    let next: Rc<RefCell<Option<Act>>> = Rc::new(RefCell::new(None));
    let acts = Rc::clone(&next);
    let double = Double::start(move |_| acts.borrow_mut().take().unwrap_or_else(|| answer(500, SECRET))).await;
    let provider = directory.provider("vault", &json!({"endpoint": double.url(), "token_file": "token"}));
    (directory, double, provider, next)
}

#[test]
fn faults_of_the_connection() {
    run(|| async {
        let (_directory, double, provider, next) = misbehaving().await;
        let elsewhere = Double::start(|_| answer(200, "{}")).await;
        let items = shares(2);
        let good = batch(&json!([{"ciphertext": BLOB, "key_version": 1}, {"ciphertext": BLOB}]));
        let whole = |body: &str| format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len()).into_bytes();
        let long =
            format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{}", format!("10000\r\n{}\r\n", "x".repeat(65536)).repeat(80));
        let redirect = |code: u16| {
            format!("HTTP/1.1 {code} X\r\nLocation: {}/v1/transit/encrypt/k1?{SECRET}\r\nContent-Length: 0\r\n\r\n", elsewhere.url())
                .into_bytes()
        };
        let cases: Vec<(&str, Act, &str)> = vec![
            ("301", Act::Send(redirect(301)), "malformed"),
            ("307", Act::Send(redirect(307)), "malformed"),
            ("308", Act::Send(redirect(308)), "malformed"),
            ("closed at once", Act::Close(Vec::new()), "unavailable"),
            ("reset at once", Act::Reset(Vec::new()), "unavailable"),
            ("reset in the status", Act::Reset(b"HTTP/1.1 20".to_vec()), "unavailable"),
            ("reset in the headers", Act::Reset(b"HTTP/1.1 200 OK\r\nContent-Le".to_vec()), "unavailable"),
            ("reset before the body", Act::Reset(b"HTTP/1.1 200 OK\r\nContent-Length: 90\r\n\r\n".to_vec()), "unavailable"),
            ("reset in the body", Act::Reset(whole(&good)[..90].to_vec()), "unavailable"),
            ("closed in the body", Act::Close(whole(&good)[..90].to_vec()), "unavailable"),
            ("closed in a chunk", Act::Close(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n90\r\n{\"da".to_vec()), "unavailable"),
            ("no HTTP", Act::Close(format!("SSH-2.0-{SECRET}\r\n").into_bytes()), "unavailable"),
            ("no length", Act::Send(format!("HTTP/1.1 200 OK\r\nContent-Length: {SECRET}\r\n\r\n").into_bytes()), "unavailable"),
            ("5 MiB", Act::Send(long.into_bytes()), "malformed"),
            ("5 MiB announced", Act::Send(whole(&"x".repeat(5 << 20))), "malformed"),
        ];
        for (what, act, class) in cases {
            *next.borrow_mut() = Some(act);
            assert_eq!(failure(provider.wrap(aes("k1", "1"), &to_wrap(&items)).await, &[SECRET]), class, "{what}");
            assert_eq!(double.lines(), ["POST /v1/transit/encrypt/k1"], "{what}: asked once");
            // The provider is as good as new.
            *next.borrow_mut() = Some(Act::Send(whole(&good)));
            assert_eq!(provider.wrap(aes("k1", "1"), &to_wrap(&items)).await, Ok(vec![BLOB.as_bytes().to_vec(); 2]), "after {what}");
            double.take();
        }
        assert!(elsewhere.take().is_empty(), "a redirect was followed");
        // Slow or silent: the caller's deadline ends it, and the next call works.
        for act in [
            Act::Wait,
            Act::Drip(whole(&good), Duration::from_millis(20)),
            Act::Drip(b"HTTP/1.1 100 Continue\r\n\r\n".repeat(50), Duration::from_millis(1)),
        ] {
            *next.borrow_mut() = Some(act);
            assert!(timeout(Duration::from_millis(300), provider.wrap(aes("k1", "1"), &to_wrap(&items))).await.is_err());
            *next.borrow_mut() = Some(Act::Send(whole(&good)));
            assert!(provider.wrap(aes("k1", "1"), &to_wrap(&items)).await.is_ok());
        }
        // Slow but whole in time.
        *next.borrow_mut() = Some(Act::Drip(whole(&good), Duration::from_millis(1)));
        assert!(provider.wrap(aes("k1", "1"), &to_wrap(&items)).await.is_ok());
        drop(double);
        tokio::task::yield_now().await;
        assert_eq!(failure(provider.health().await, &[SECRET]), "unavailable");
    });
}

#[test]
fn answers_to_wrapping() {
    run(|| async {
        let (_directory, _double, provider, next) = misbehaving().await;
        let items = shares(2);
        let ok = || json!({"ciphertext": BLOB, "key_version": 1});
        let two = |other: Value| batch(&json!([ok(), other]));
        let cases = [
            (200, "<html>s.MARKER</html>".to_owned(), "malformed"),
            (200, String::new(), "malformed"),
            (200, "null".to_owned(), "malformed"),
            (200, json!({"data": null}).to_string(), "malformed"),
            (200, json!({"errors": [SECRET]}).to_string(), "malformed"),
            (200, "[".repeat(100_000), "malformed"),
            (200, batch(&json!([])), "malformed"),
            (200, batch(&json!([ok()])), "malformed"),
            (200, batch(&json!([ok(), ok(), ok()])), "malformed"),
            (200, batch(&json!({"0": ok(), "1": ok()})), "malformed"),
            (200, two(json!({})), "malformed"),
            (200, two(json!({"ciphertext": SECRET})), "malformed"),
            (200, two(json!({"ciphertext": 7})), "malformed"),
            (200, two(json!({"ciphertext": "vault:v2:c2VhbGVk", "key_version": 2})), "malformed"),
            (200, two(json!({"ciphertext": "vault:v2:c2VhbGVk"})), "malformed"),
            (200, two(json!({"ciphertext": BLOB, "key_version": 2})), "malformed"),
            (200, two(json!({"ciphertext": "vault:v1:"})), "malformed"),
            (200, two(json!({"error": SECRET})), "denied"),
            (400, two(json!({"error": SECRET})), "denied"),
            (400, two(json!({"error": "no such key version"})), "not_found"),
            (500, two(json!({"error": SECRET})), "unavailable"),
            (400, json!({"errors": [SECRET]}).to_string(), "denied"),
            (400, json!({"errors": ["encryption key not found"]}).to_string(), "not_found"),
            (400, "<html>".to_owned(), "denied"),
            (403, json!({"errors": [SECRET]}).to_string(), "denied"),
            // A proxy's idea of an answer to what was forbidden.
            (403, two(ok()), "denied"),
            (404, json!({"errors": [SECRET]}).to_string(), "not_found"),
            (405, String::new(), "denied"),
            (412, String::new(), "unavailable"),
            (429, json!({"errors": [SECRET]}).to_string(), "throttled"),
            (429, two(ok()), "throttled"),
            (473, String::new(), "unavailable"),
            (500, json!({"errors": [SECRET]}).to_string(), "unavailable"),
            (501, String::new(), "unavailable"),
            (502, "<html>s.MARKER</html>".to_owned(), "unavailable"),
            (503, json!({"errors": ["Vault is sealed"]}).to_string(), "unavailable"),
            (504, String::new(), "unavailable"),
            (204, String::new(), "malformed"),
            (299, two(ok()), "malformed"),
            (999, String::new(), "malformed"),
            (200, two(ok()), "ok"),
        ];
        for (status, body, class) in cases {
            *next.borrow_mut() = Some(answer(status, &body));
            let shown = &body[..body.len().min(100)];
            assert_eq!(failure(provider.wrap(aes("k1", "1"), &to_wrap(&items)).await, &[SECRET]), class, "{status} {shown}");
        }
    });
}

#[test]
fn answers_to_opening() {
    run(|| async {
        let (_directory, double, provider, next) = misbehaving().await;
        let share = shares(1).remove(0).0;
        let good = STANDARD.encode(share.expose());
        let to_open: [(&[u8], &[u8]); 2] = [(BLOB.as_bytes(), b"a"), (BLOB.as_bytes(), b"b")];
        // Of the second item: whether it opened; the first always does.
        let cases = [
            (200, json!({"plaintext": good}), true),
            (200, json!({"plaintext": good, "error": ""}), true),
            (200, json!({"plaintext": good, "error": SECRET}), false),
            (200, json!({"plaintext": ""}), false),
            (200, json!({}), false),
            (200, json!({"plaintext": "!"}), false),
            (200, json!({"plaintext": STANDARD.encode([7; 31])}), false),
            (200, json!({"plaintext": STANDARD.encode([7; 33])}), false),
            (200, json!({"plaintext": STANDARD.encode([7; 3200])}), false),
            (400, json!({"plaintext": "", "error": "cipher: message authentication failed"}), false),
            (400, json!({"error": "unheard of"}), false),
            (500, json!({"error": "failed to RSA decrypt the ciphertext: crypto/rsa: decryption error"}), false),
        ];
        for (status, second, opens) in cases {
            *next.borrow_mut() = Some(answer(status, &batch(&json!([{"plaintext": good}, second]))));
            let opened = provider.unwrap(aes("k1", "1"), &to_open).await.unwrap();
            assert!(bool::from(opened[0].as_ref().unwrap().ct_eq(&share)), "{second}");
            assert_eq!(opened[1].is_some(), opens, "{status} {second}");
        }
        for (status, body, class) in [
            (200, batch(&json!([{"plaintext": good}])), "malformed"),
            (200, batch(&json!([{"plaintext": good}, {"plaintext": 7}])), "malformed"),
            (200, format!("{{\"data\":{{\"batch_results\":[{{\"plaintext\":\"{good}"), "malformed"),
            (500, batch(&json!([{"plaintext": good}, {"error": SECRET}])), "unavailable"),
            (503, batch(&json!([{"plaintext": good}, {"plaintext": good}])), "unavailable"),
            (400, batch(&json!([{"plaintext": good}, {"error": "refusing to use soft-deleted key"}])), "denied"),
            (400, batch(&json!([{"error": "x (too old)"}, {"error": "x (too old)"}])), "denied"),
        ] {
            *next.borrow_mut() = Some(answer(status, &body));
            assert_eq!(failure(provider.unwrap(aes("k1", "1"), &to_open).await, &[SECRET, BLOB, &good]), class, "{status} {body}");
        }
        double.take();
        // What is no blob is not even sent.
        let others: Vec<&[u8]> = vec![
            b"",
            b"vault:v1:",
            b"vault:v0:AAAA",
            b"vault:v01:AAAA",
            b"vault:1:AAAA",
            b"vault:v1:AAA",
            b"vault:v1:AAB=",
            b"vault:v1:AA\nAA",
            b" vault:v1:AAAA",
            b"VAULT:v1:AAAA",
            b"vault:v1:AAAA\",\"x\":\"",
            b"\xff\xfe",
            b"vault:v4294967296:AAAA",
        ];
        let to_open: Vec<(&[u8], &[u8])> = others.iter().map(|blob| (*blob, b"a".as_slice())).collect();
        let opened = provider.unwrap(aes("k1", "1"), &to_open).await.unwrap();
        assert!(opened.len() == others.len() && opened.iter().all(Option::is_none));
        assert!(double.take().is_empty());
    });
}

#[test]
fn answers_to_describing() {
    run(|| async {
        let (_directory, _double, provider, next) = misbehaving().await;
        let good = json!({"name": "k1", "type": "aes256-gcm96", "latest_version": 3, "min_decryption_version": 1, "min_encryption_version": 0,
            "derived": false, "keys": {"1": 0, "2": 0, "3": 0}, "new_field": SECRET});
        let with = |field: &str, value: Value| {
            let mut data = good.clone();
            data[field] = value;
            data
        };
        let cases = [
            (good.clone(), "ok"),
            (with("name", json!("k2")), "malformed"),
            (with("name", Value::Null), "malformed"),
            (with("type", json!(SECRET)), "malformed"),
            (with("latest_version", json!(0)), "not_found"),
            (with("latest_version", json!(-1)), "malformed"),
            (with("latest_version", json!(4)), "malformed"),
            (with("min_encryption_version", json!(4)), "denied"),
            (with("derived", Value::Null), "malformed"),
            (with("derived", json!(true)), "denied"),
            (with("soft_deleted", json!(true)), "denied"),
            (with("keys", json!({})), "malformed"),
            (with("keys", json!([SECRET])), "malformed"),
            (Value::Null, "malformed"),
        ];
        for (data, class) in cases {
            *next.borrow_mut() = Some(answer(200, &json!({"data": data}).to_string()));
            assert_eq!(failure(provider.describe("k1", None, Algorithm::Aes256Gcm).await, &[SECRET]), class, "{data}");
        }
        let rsa = |public_key: Value| {
            let mut data = with("type", json!("rsa-4096"));
            data["keys"]["3"] = json!({"public_key": public_key});
            json!({"data": data}).to_string()
        };
        let pem = |der: &[u8]| format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n", STANDARD.encode(der));
        let (good, short) = (pem(&spki(KeySize::Rsa2048)), pem(&kms_wrap::provider::spki::rsa(&[0xff; 128], &[1, 0, 1]).unwrap()));
        for (key, class) in [
            (json!(good), "ok"),
            (json!(short), "malformed"),
            (json!(pem(b"\x30\x03\x02\x01\x07")), "malformed"),
            (json!(SECRET), "malformed"),
            (json!(good.replace("PUBLIC", "PRIVATE")), "malformed"),
            (json!(7), "malformed"),
        ] {
            *next.borrow_mut() = Some(answer(200, &rsa(key)));
            assert_eq!(failure(provider.describe("k1", None, Algorithm::RsaOaepSha256).await, &[SECRET]), class);
        }
    });
}

#[test]
fn what_is_asked() {
    run(|| async {
        let directory = Directory::new();
        directory.write("token", SECRET.as_bytes());
        let double = Double::start(|request| {
            let items =
                serde_json::from_str::<Value>(&request.body).ok().map_or(0, |body| body["batch_input"].as_array().map_or(0, Vec::len));
            answer(200, &batch(&vec![json!({"ciphertext": "vault:v7:c2VhbGVk", "plaintext": ""}); items].into()))
        })
        .await;
        let config = json!({"endpoint": format!("{}/prefix/", double.url()), "token_file": "token", "namespace": "a/b", "mount": "m/n"});
        let provider = directory.provider("openbao", &config);
        let items = shares(301);
        provider.wrap(aes("k1", "7"), &to_wrap(&items)).await.unwrap();
        let requests = double.take();
        let bodies: Vec<Value> = requests.iter().map(|request| serde_json::from_str(&request.body).unwrap()).collect();
        assert_eq!(bodies.iter().map(|body| body["batch_input"].as_array().unwrap().len()).collect::<Vec<_>>(), [150, 150, 1]);
        for request in &requests {
            assert_eq!(request.line(), "POST /prefix/v1/m/n/encrypt/k1");
            assert_eq!(request.header("x-vault-token"), Some(SECRET));
            assert_eq!(request.header("x-vault-namespace"), Some("a/b"));
        }
        for (item, (share, aad)) in bodies.iter().flat_map(|body| body["batch_input"].as_array().unwrap()).zip(&items) {
            let wanted = json!({"plaintext": STANDARD.encode(share.expose()), "associated_data": STANDARD.encode(aad), "key_version": 7});
            assert_eq!(item, &wanted);
        }
        // RSA has no associated data, and needs nobody for wrapping.
        let public_key = spki(KeySize::Rsa4096);
        let rsa = ProviderKey { algorithm: Algorithm::RsaOaepSha256, public_key: Some(&public_key), ..aes("r1", "7") };
        let blobs = provider.wrap(rsa, &to_wrap(&items[..2])).await.unwrap();
        assert!(blobs.iter().all(|blob| blob.starts_with(b"vault:v7:") && blob.len() == 9 + 684));
        assert_eq!(double.take().len(), 0);
        provider.unwrap(rsa, &[(&blobs[0], &items[0].1)]).await.unwrap();
        provider.unwrap(aes("k1", ""), &[(BLOB.as_bytes(), &items[0].1)]).await.unwrap();
        let requests = double.take();
        assert!(!requests[0].body.contains("associated_data"));
        let body: Value = serde_json::from_str(&requests[1].body).unwrap();
        assert_eq!(body, json!({"batch_input": [{"ciphertext": BLOB, "associated_data": STANDARD.encode(&items[0].1)}]}));
        // The server's state is asked without token and namespace.
        provider.health().await.unwrap();
        let requests = double.take();
        assert_eq!(requests[0].line(), "GET /prefix/v1/sys/health?standbyok=true&perfstandbyok=true");
        assert_eq!((requests[0].header("x-vault-token"), requests[0].header("x-vault-namespace")), (None, None));
        assert_eq!(requests[1].line(), "GET /prefix/v1/auth/token/lookup-self");
    });
}

#[test]
fn leases_are_renewed_and_then_replaced() {
    run(|| async {
        let directory = Directory::new();
        directory.write("jwt", b"a.b.c\n");
        let (lease, reachable) = (Rc::new(Cell::new(3)), Rc::new(Cell::new(true)));
        let (given, up) = (Rc::clone(&lease), Rc::clone(&reachable));
        let double = Double::start(move |request| match request.line() {
            "POST /v1/transit/encrypt/k1" => answer(200, &batch(&json!([{"ciphertext": BLOB}]))),
            _ if !up.get() => answer(502, SECRET),
            _ => answer(200, &json!({"auth": {"client_token": SECRET, "lease_duration": given.get(), "renewable": true}}).to_string()),
        })
        .await;
        let config = json!({"endpoint": double.url(), "auth": "kubernetes", "role": "a \"b\"", "jwt_file": "jwt", "auth_mount": "k8s/eu"});
        let provider = directory.provider("vault", &config);
        let items = shares(1);
        let wrap = async || provider.wrap(aes("k1", "1"), &to_wrap(&items)).await.map(|_| ());
        let (log_in, renew, use_it) = ("POST /v1/auth/k8s/eu/login", "POST /v1/auth/token/renew-self", "POST /v1/transit/encrypt/k1");
        wrap().await.unwrap();
        let requests = double.take();
        assert_eq!(requests.iter().map(crate::double::Request::line).collect::<Vec<_>>(), [log_in, use_it]);
        assert_eq!(serde_json::from_str::<Value>(&requests[0].body).unwrap(), json!({"role": "a \"b\"", "jwt": "a.b.c"}));
        assert_eq!(requests[0].header("x-vault-token"), None);
        wrap().await.unwrap();
        assert_eq!(double.lines(), [use_it]);
        // Two thirds over.
        let later = Duration::from_millis(2100);
        tokio::time::sleep(later).await;
        wrap().await.unwrap();
        assert_eq!(double.lines(), [renew, use_it]);
        // Neither renewal nor login: the token goes on while it is good.
        reachable.set(false);
        tokio::time::sleep(later).await;
        wrap().await.unwrap();
        assert_eq!(double.lines(), [renew, log_in, use_it]);
        // And not longer.
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(failure(wrap().await, &[SECRET, "a.b.c"]), "unavailable");
        assert_eq!(double.lines(), [log_in]);
        // A renewal that hardly gives anything means that the token's time is over.
        reachable.set(true);
        wrap().await.unwrap();
        lease.set(1);
        tokio::time::sleep(later).await;
        double.take();
        wrap().await.unwrap();
        assert_eq!(double.lines(), [renew, log_in, use_it]);
    });
}

#[test]
fn a_login_that_hangs_takes_a_part_of_the_time_while_the_token_is_good() {
    run(|| async {
        let directory = Directory::new();
        directory.write("jwt", b"a.b.c");
        let hangs = Rc::new(Cell::new(false));
        let hung = Rc::clone(&hangs);
        let double = Double::start(move |request| match request.line() {
            "POST /v1/transit/encrypt/k1" => answer(200, &batch(&json!([{"ciphertext": BLOB}]))),
            _ if hung.get() => Act::Wait,
            _ => answer(200, &json!({"auth": {"client_token": SECRET, "lease_duration": 4}}).to_string()),
        })
        .await;
        let provider =
            directory.provider("vault", &json!({"endpoint": double.url(), "auth": "kubernetes", "role": "r", "jwt_file": "jwt"}));
        let items = shares(1);
        let wrap = async || timeout(Duration::from_secs(1), provider.wrap(aes("k1", "1"), &to_wrap(&items))).await;
        wrap().await.unwrap().unwrap();
        hangs.set(true);
        tokio::time::sleep(Duration::from_millis(2700)).await;
        double.take();
        wrap().await.unwrap().unwrap();
        let (log_in, use_it) = ("POST /v1/auth/kubernetes/login", "POST /v1/transit/encrypt/k1");
        assert_eq!(double.lines(), [log_in, use_it]);
        // Not every call waits.
        wrap().await.unwrap().unwrap();
        assert_eq!(double.lines(), [use_it]);
        // Nothing serves any more.
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert!(wrap().await.is_err());
        hangs.set(false);
        wrap().await.unwrap().unwrap();
    });
}

#[test]
fn answers_to_a_login() {
    run(|| async {
        let directory = Directory::new();
        directory.write("role", b"role-MARKER");
        directory.write("id", b"id-MARKER");
        let next = Rc::new(RefCell::new(answer(500, "")));
        let acts = Rc::clone(&next);
        let double = Double::start(move |_| acts.replace(answer(500, ""))).await;
        let config = json!({"endpoint": double.url(), "auth": "approle", "role_id_file": "role", "secret_id_file": "id"});
        let provider = directory.provider("vault", &config);
        let granted = |token: Value| json!({"auth": {"client_token": token, "lease_duration": 60}}).to_string();
        for (status, body, class) in [
            (200, "{}".to_owned(), "malformed"),
            (200, json!({"auth": null}).to_string(), "malformed"),
            (200, granted(Value::Null), "malformed"),
            (200, granted(json!("")), "malformed"),
            (200, granted(json!(7)), "malformed"),
            (200, granted(json!("s.MARKER\u{1}")), "malformed"),
            (200, granted(json!("s.MARKER\u{7f}")), "malformed"),
            (400, json!({"errors": ["invalid role or secret ID MARKER"]}).to_string(), "denied"),
            (403, "MARKER".to_owned(), "denied"),
            (404, "MARKER".to_owned(), "denied"),
            (429, "MARKER".to_owned(), "throttled"),
            (503, "MARKER".to_owned(), "unavailable"),
        ] {
            *next.borrow_mut() = answer(status, &body);
            let class_of = failure(provider.describe("k1", None, Algorithm::Aes256Gcm).await, &["MARKER"]);
            assert_eq!(class_of, class, "{status} {body}");
        }
        // Nothing was asked without a token.
        assert!(double.lines().iter().all(|line| line == "POST /v1/auth/approle/login"));
    });
}
