//! What the provider costs beyond an HTTP client that sends the same requests and throws the answers away. Timed by `make bench`, since a test
//! that depends on what else the machine does is none.

use crate::{
    bao::Bao,
    fixture::{are, run, shares, to_open, to_wrap},
    transit::aes,
};
use base64::{Engine, engine::general_purpose::STANDARD};
use rustls::pki_types::{CertificateDer, pem::PemObject};
use serde_json::{Value, json};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};

const SHARES: usize = 10_000;
const ROUNDS: usize = 5;

/// A client with the same TLS and nothing else.
fn bare(bao: &Bao) -> reqwest::Client {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(bao.directory.path().join("ca.pem")).unwrap()).unwrap();
    let tls = rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    reqwest::Client::builder().tls_backend_preconfigured(tls).no_proxy().http1_only().tcp_nodelay(true).build().unwrap()
}

#[test]
#[ignore = "a measurement: make bench runs it"]
fn unwrapping_takes_hardly_longer_than_the_requests() {
    run(|| async {
        let bao = Bao::start();
        bao.key("k1", "aes256-gcm96");
        let provider = bao.directory.provider("openbao", &bao.config());
        let items = shares(SHARES);
        let blobs = provider.wrap(aes("k1", "1"), &to_wrap(&items)).await.unwrap();
        let to_open = to_open(&blobs, &items);
        let token = std::fs::read_to_string(bao.directory.path().join("token")).unwrap();
        let url = format!("https://127.0.0.1:{}/v1/transit/decrypt/k1", bao.port);
        let bodies: Vec<String> = to_open
            .chunks(150)
            .map(|batch| {
                let item = |(blob, aad): &(&[u8], &[u8])| json!({"ciphertext": std::str::from_utf8(blob).unwrap(), "associated_data": STANDARD.encode(aad)});
                json!({"batch_input": batch.iter().map(item).collect::<Vec<Value>>()}).to_string()
            })
            .collect();
        let client = bare(&bao);
        let (mut ours, mut theirs) = (Duration::MAX, Duration::MAX);
        // In turn, and the best of each, so that what else runs on the machine hits both alike.
        for _ in 0..ROUNDS {
            let start = Instant::now();
            for body in &bodies {
                let response = client.post(&url).header("X-Vault-Token", token.trim()).body(body.clone()).send().await.unwrap();
                assert_eq!(response.status().as_u16(), 200);
                response.bytes().await.unwrap();
            }
            theirs = theirs.min(start.elapsed());
            let start = Instant::now();
            let opened = provider.unwrap(aes("k1", "1"), &to_open).await.unwrap();
            ours = ours.min(start.elapsed());
            assert!(are(&opened, &items));
        }
        // Read by tests/bench/kms.sh.
        eprintln!("transit_speed: {SHARES} shares, bare {} us, provider {} us", theirs.as_micros(), ours.as_micros());
    });
}
