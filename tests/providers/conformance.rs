//! What every provider must do. One suite for all of them.

use crate::fixture::{are, failure, shares, threads, to_open, to_wrap};
use kms_wrap::{
    core::{secret::Share, suite::Algorithm},
    provider::{Provider, ProviderKey},
};
use std::{rc::Rc, time::Duration};

/// The keys that the suite uses, as the provider's administrator made them.
pub(crate) struct Keys {
    /// Names that requests use, and the algorithm of both.
    pub(crate) key: String,
    /// Another key of the same algorithm.
    pub(crate) other: String,
    /// A name that no key has.
    pub(crate) unknown: String,
    pub(crate) algorithm: Algorithm,
    /// An algorithm that the keys are not of.
    pub(crate) wrong_algorithm: Algorithm,
    /// Whether the keys bind the AAD.
    pub(crate) binds: bool,
    /// Whether describe answers what wrap needs (keys of `local` are the caller's, and it has none).
    pub(crate) describes: bool,
    /// The most items of a call. RSA is slow.
    pub(crate) most: usize,
}

/// Wraps many shares at once, for a double that counts how many requests are under way together. To be done before [`run`], which drops calls
/// whose requests stay under way at the double.
pub(crate) async fn overlap(provider: &dyn Provider, name: &str) {
    let algorithm = Algorithm::Aes256Gcm;
    let described = provider.describe(name, None, algorithm).await.unwrap();
    let key = ProviderKey { name, version: &described.version, algorithm, public_key: None };
    provider.wrap(key, &to_wrap(&shares(40))).await.unwrap();
}

/// Runs the suite.
pub(crate) async fn run(provider: Rc<dyn Provider>, keys: Keys) {
    let suite = Suite { provider, keys };
    suite.provider.health().await.unwrap();
    let before = threads();
    let (version, public_key) = suite.describe().await;
    let key = ProviderKey { name: &suite.keys.key, version: &version, algorithm: suite.keys.algorithm, public_key: public_key.as_deref() };
    suite.batches(key).await;
    suite.rejections(key).await;
    suite.unknown(key).await;
    suite.interrupted(key).await;
    assert_eq!(threads(), before, "a call has left a thread behind");
}

struct Suite {
    provider: Rc<dyn Provider>,
    keys: Keys,
}

impl Suite {
    async fn describe(&self) -> (String, Option<Vec<u8>>) {
        if !self.keys.describes {
            return (String::new(), None);
        }
        let described = self.provider.describe(&self.keys.key, None, self.keys.algorithm).await.unwrap();
        assert_eq!((described.algorithm, described.public_key.is_some()), (self.keys.algorithm, self.keys.algorithm.has_public_key()));
        // What it said stays so when asked for by name and version.
        let asked = Some(described.version.as_str()).filter(|version| !version.is_empty());
        assert_eq!(self.provider.describe(&described.name, asked, self.keys.algorithm).await.as_ref(), Ok(&described));
        assert_eq!(failure(self.provider.describe(&self.keys.unknown, None, self.keys.algorithm).await, &[]), "not_found");
        let wrong = failure(self.provider.describe(&self.keys.key, None, self.keys.wrong_algorithm).await, &[]);
        assert!(["malformed", "denied"].contains(&wrong), "{wrong}");
        if self.provider.capabilities().shows_version {
            for version in ["999999", "0", "-1", "x", "1 ", "../1"] {
                let class = failure(self.provider.describe(&self.keys.key, Some(version), self.keys.algorithm).await, &[]);
                assert!(["not_found", "denied"].contains(&class), "version {version:?}: {class}");
            }
        }
        (described.version, described.public_key)
    }

    /// Order, and sizes around the limits of requests.
    async fn batches(&self, key: ProviderKey<'_>) {
        assert_eq!(self.provider.wrap(key, &[]).await, Ok(Vec::new()));
        assert!(self.provider.unwrap(key, &[]).await.unwrap().is_empty());
        let before = threads();
        for count in [1, 2, 151, 1000] {
            let count = count.min(self.keys.most);
            let items = shares(count);
            let blobs = self.provider.wrap(key, &to_wrap(&items)).await.unwrap();
            assert_eq!(blobs.len(), count);
            let opened = {
                let to_open = to_open(&blobs, &items);
                let mut call = self.provider.unwrap(key, &to_open);
                // In the middle of it, too.
                let _ = tokio::time::timeout(Duration::ZERO, &mut call).await;
                assert_eq!(threads(), before, "a call has started a thread");
                // A call that was done at once cannot be asked again.
                drop(call);
                self.provider.unwrap(key, &to_open).await.unwrap()
            };
            assert!(are(&opened, &items), "{count} shares");
        }
        // Equal shares under equal AAD make different blobs.
        let item = shares(1);
        let twice = [to_wrap(&item)[0], to_wrap(&item)[0]];
        let blobs = self.provider.wrap(key, &twice).await.unwrap();
        assert_ne!(blobs[0], blobs[1]);
        // What the wrapping key was pinned to is of no importance for opening.
        let unpinned = ProviderKey { version: "", public_key: None, ..key };
        let opened = self.provider.unwrap(unpinned, &[(&blobs[0], &item[0].1)]).await.unwrap();
        assert!(are(&opened, &item));
    }

    /// What does not verify is told item by item, and what stands beside it opens.
    async fn rejections(&self, key: ProviderKey<'_>) {
        let items = shares(3);
        let blobs = self.provider.wrap(key, &to_wrap(&items)).await.unwrap();
        let (good, aad) = (&blobs[1], &items[1].1);
        let mut bad: Vec<(String, Vec<u8>, Vec<u8>)> = Vec::new();
        if self.keys.binds {
            bad.push(("AAD of another".into(), good.clone(), items[2].1.clone()));
            bad.push(("no AAD".into(), good.clone(), Vec::new()));
            let mut longer = aad.clone();
            longer.push(0);
            bad.push(("longer AAD".into(), good.clone(), longer));
        }
        // A prime step, so that all places within groups of characters and bytes are met.
        let step = if good.len() > 200 { 13 } else { 1 };
        for at in (0..good.len()).step_by(step).chain([good.len() - 1]) {
            for mask in [1, 0x80] {
                let mut flipped = good.clone();
                flipped[at] ^= mask;
                bad.push((format!("byte {at} ^ {mask:#x}"), flipped, aad.clone()));
            }
        }
        for len in [0, 1, good.len() / 2, good.len() - 1] {
            bad.push((format!("cut to {len}"), good[..len].to_vec(), aad.clone()));
        }
        bad.push(("longer".into(), [good.as_slice(), b"\0"].concat(), aad.clone()));
        bad.push(("twice".into(), [good.as_slice(), good.as_slice()].concat(), aad.clone()));
        bad.push(("zeros".into(), vec![0; good.len()], aad.clone()));
        bad.push(("long".into(), vec![b'A'; 100_000], aad.clone()));
        bad.truncate(bad.len().min(self.keys.most.max(60)));
        let to_open: Vec<_> = [(good.as_slice(), aad.as_slice())]
            .into_iter()
            .chain(bad.iter().map(|(_, blob, aad)| (blob.as_slice(), aad.as_slice())))
            .chain([(good.as_slice(), aad.as_slice())])
            .collect();
        let opened = self.provider.unwrap(key, &to_open).await.unwrap();
        assert_eq!(opened.len(), bad.len() + 2);
        for place in [0, bad.len() + 1] {
            assert!(bool::from(opened[place].as_ref().expect("the good one beside bad ones").ct_eq(&items[1].0)));
        }
        for ((what, ..), opened) in bad.iter().zip(&opened[1..]) {
            assert!(opened.is_none(), "opened: {what}");
        }
        // Alone, too.
        let (_, blob, aad) = &bad[0];
        assert!(self.provider.unwrap(key, &[(blob, aad)]).await.unwrap()[0].is_none());
        // Of another key.
        let other = ProviderKey { name: &self.keys.other, ..key };
        let opened = self.provider.unwrap(other, &to_open[..1]).await.unwrap();
        assert!(opened[0].is_none(), "a blob opened under another key");
    }

    async fn unknown(&self, key: ProviderKey<'_>) {
        let items = shares(1);
        let blobs = self.provider.wrap(key, &to_wrap(&items)).await.unwrap();
        let nobody = ProviderKey { name: &self.keys.unknown, ..key };
        let secret = String::from_utf8_lossy(&blobs[0]);
        // A public key wraps without its provider, so that only opening may tell.
        let wrapped = failure(self.provider.wrap(nobody, &to_wrap(&items)).await, &[]);
        assert!(wrapped == "not_found" || (wrapped == "ok" && key.public_key.is_some()), "{wrapped}");
        assert_eq!(failure(self.provider.unwrap(nobody, &to_open(&blobs, &items)).await, &[&secret]), "not_found");
        // And was not made by having been asked for.
        if self.keys.describes {
            assert_eq!(failure(self.provider.describe(&self.keys.unknown, None, self.keys.algorithm).await, &[]), "not_found");
        }
        let wrong = ProviderKey { algorithm: Algorithm::XWing, ..key };
        assert_eq!(failure(self.provider.wrap(wrong, &to_wrap(&items)).await, &[]), "denied");
        assert_eq!(failure(self.provider.unwrap(wrong, &to_open(&blobs, &items)).await, &[]), "denied");
    }

    /// A call that is dropped at any moment leaves a provider that works.
    async fn interrupted(&self, key: ProviderKey<'_>) {
        let items = shares(200.min(self.keys.most));
        let blobs = self.provider.wrap(key, &to_wrap(&items)).await.unwrap();
        let to_open = to_open(&blobs, &items);
        for wait in [0, 100, 300, 700, 1500, 3000, 6000, 12_000] {
            let _ = tokio::time::timeout(Duration::from_micros(wait), self.provider.unwrap(key, &to_open)).await;
            let _ = tokio::time::timeout(Duration::from_micros(wait), self.provider.wrap(key, &to_wrap(&items))).await;
            let opened: Vec<Option<Share>> = self.provider.unwrap(key, &to_open[..2.min(items.len())]).await.unwrap();
            assert!(are(&opened, &items[..2.min(items.len())]), "after a call dropped at {wait} us");
        }
        self.provider.health().await.unwrap();
    }
}
