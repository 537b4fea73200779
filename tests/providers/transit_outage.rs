//! OpenBao sealed, killed, frozen: what is said meanwhile, and that the same provider works afterwards.

use crate::{
    bao::Bao,
    fixture::{are, failure, run, shares, threads, to_open, to_wrap},
    transit::aes,
};
use serde_json::json;
use std::time::{Duration, Instant};
use tokio::time::timeout;

#[test]
fn sealed_killed_and_back() {
    run(|| async {
        let mut bao = Bao::start();
        bao.key("k1", "aes256-gcm96");
        let provider = bao.directory.provider("openbao", &bao.config());
        let items = shares(151);
        let blobs = provider.wrap(aes("k1", "1"), &to_wrap(&items)).await.unwrap();
        let before = threads();
        for outage in ["seal", "kill"] {
            if outage == "seal" {
                bao.api("PUT", "sys/seal", &json!({}));
            } else {
                bao.kill();
            }
            let start = Instant::now();
            assert_eq!(failure(provider.wrap(aes("k1", "1"), &to_wrap(&items)).await, &[]), "unavailable", "{outage}");
            assert_eq!(failure(provider.unwrap(aes("k1", "1"), &to_open(&blobs, &items)).await, &[]), "unavailable", "{outage}");
            assert_eq!(failure(provider.health().await, &[]), "unavailable", "{outage}");
            assert!(start.elapsed() < Duration::from_secs(10), "an outage is noticed at once");
            if outage == "seal" {
                bao.kill();
            }
            bao.start_again();
            // Its connections have ended meanwhile. The first call after that is not the one to find out.
            tokio::task::yield_now().await;
            tokio::task::yield_now().await;
            let opened = provider.unwrap(aes("k1", "1"), &to_open(&blobs, &items)).await.unwrap();
            assert!(are(&opened, &items));
            provider.health().await.unwrap();
        }
        assert_eq!(threads(), before);
    });
}

#[test]
fn frozen() {
    run(|| async {
        let bao = Bao::start();
        bao.key("k1", "aes256-gcm96");
        let provider = bao.directory.provider("openbao", &bao.config());
        let items = shares(2);
        let blobs = provider.wrap(aes("k1", "1"), &to_wrap(&items)).await.unwrap();
        bao.signal("STOP");
        for _ in 0..2 {
            let start = Instant::now();
            let to_open = to_open(&blobs, &items);
            let call = timeout(Duration::from_millis(300), provider.unwrap(aes("k1", "1"), &to_open)).await;
            assert!(call.is_err(), "a frozen server does not answer");
            assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
        }
        // Without a deadline of the caller's a new connection is given up by itself.
        let fresh = bao.directory.provider("openbao", &bao.config());
        assert_eq!(failure(fresh.health().await, &[]), "unavailable");
        bao.signal("CONT");
        for provider in [&provider, &fresh] {
            assert!(are(&provider.unwrap(aes("k1", "1"), &to_open(&blobs, &items)).await.unwrap(), &items));
        }
    });
}
