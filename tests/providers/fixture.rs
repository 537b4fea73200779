//! What every test here needs: a runtime like a backend's, a credential directory, and waits that end.

use kms_wrap::{
    core::secret::Share,
    provider::{
        Provider, ProviderError, config, config::Environment, credentials::CredentialDirectory, entropy::SystemEntropy, pkcs11_pin::Pins,
    },
};
use serde_json::Value;
use std::{
    fs,
    future::Future,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    rc::Rc,
    time::{Duration, Instant},
};

/// The longest that anything here takes before the test fails.
const PATIENCE: Duration = Duration::from_mins(2);

/// Runs a test as a backend would: on one thread, and not for ever.
pub(crate) fn run<F: Future<Output = ()>>(test: impl FnOnce() -> F) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build().unwrap();
    let tasks = tokio::task::LocalSet::new();
    tasks.block_on(&runtime, async { tokio::time::timeout(PATIENCE, test()).await.expect("the test takes too long") });
}

/// Calls `done` until it says yes.
pub(crate) fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < PATIENCE, "waited in vain until {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Threads of this process.
pub(crate) fn threads() -> usize {
    fs::read_dir("/proc/self/task").unwrap().count()
}

/// A directory that is removed with the test.
pub(crate) struct Directory(PathBuf);

impl Directory {
    pub(crate) fn new() -> Self {
        let mut name = [0; 8];
        getrandom::fill(&mut name).unwrap();
        let path = std::env::temp_dir().join(format!("kms_wrap_{}", hex::encode(name)));
        fs::create_dir(&path).unwrap();
        Self(path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// Writes a credential file. A new one each time, as `mv` would.
    pub(crate) fn write(&self, name: &str, contents: &[u8]) {
        let new = self.0.join(".new");
        fs::write(&new, contents).unwrap();
        fs::set_permissions(&new, fs::Permissions::from_mode(0o600)).unwrap();
        fs::rename(new, self.0.join(name)).unwrap();
    }

    pub(crate) fn environment(&self) -> Environment {
        Environment {
            credentials: CredentialDirectory(self.0.clone()),
            allowed_endpoints: Vec::new(),
            pkcs11_modules: Vec::new(),
            pins: Pins::default(),
            deadline: Duration::from_secs(2),
        }
    }

    pub(crate) fn provider(&self, kind: &str, config: &Value) -> Rc<dyn Provider> {
        config::provider(kind, config, &self.environment()).unwrap_or_else(|error| panic!("{}: {}", error.field, error.limit))
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Fresh shares, each with an AAD that is its own and as long as real ones.
pub(crate) fn shares(count: usize) -> Vec<(Share, Vec<u8>)> {
    (0..count)
        .map(|i| {
            let aad = [i.to_be_bytes().as_slice(), &[0xa5; 280]].concat();
            (Share::random(&mut SystemEntropy).unwrap(), aad)
        })
        .collect()
}

/// The parts of [`shares`] as [`Provider::wrap`] takes them.
pub(crate) fn to_wrap(items: &[(Share, Vec<u8>)]) -> Vec<(&Share, &[u8])> {
    items.iter().map(|(share, aad)| (share, aad.as_slice())).collect()
}

/// Blobs and the AADs of [`shares`] as [`Provider::unwrap`] takes them.
pub(crate) fn to_open<'a>(blobs: &'a [Vec<u8>], items: &'a [(Share, Vec<u8>)]) -> Vec<(&'a [u8], &'a [u8])> {
    blobs.iter().zip(items).map(|(blob, (_, aad))| (blob.as_slice(), aad.as_slice())).collect()
}

/// Whether each is the share that was wrapped.
pub(crate) fn are(opened: &[Option<Share>], items: &[(Share, Vec<u8>)]) -> bool {
    opened.len() == items.len()
        && opened.iter().zip(items).all(|(opened, (share, _))| opened.as_ref().is_some_and(|opened| bool::from(opened.ct_eq(share))))
}

/// The class of what a call gave, and its text, which must be a sentence that holds none of `secrets`.
pub(crate) fn failure<T>(result: Result<T, ProviderError>, secrets: &[&str]) -> &'static str {
    let Err(error) = result else { return "ok" };
    let text = error.detail();
    let begins = text.starts_with("https://") || text.starts_with("http://") || text.chars().next().is_some_and(|c| !c.is_lowercase());
    assert!(begins && text.ends_with('.') && !text.ends_with(".."), "no sentence: {text}");
    assert!(text.len() < 400, "too long: {text}");
    for secret in secrets {
        assert!(!text.contains(secret), "{text}");
    }
    error.class()
}
