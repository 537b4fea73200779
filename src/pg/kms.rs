//! This backend's providers: the one place where a catalog key meets the system that holds it.

use super::{
    breaker,
    catalog::key::Key,
    core_dump, gucs, pins,
    remote::{self, Remote},
    report::Failure,
};
use crate::{
    core::{kem::SharedSecret, secret::Share, slot},
    provider::{
        ProviderError, ToOpen, ToWrap,
        entropy::SystemEntropy,
        local::{Local, RootRef, SealedKey},
        root_key::KeyDirectory,
    },
};
use futures_util::{FutureExt, future::join_all};
use pgrx::{PgLogLevel, PgSqlErrorCode};
use std::{cell::RefCell, collections::HashMap, path::PathBuf};
use tokio::task::yield_now;

thread_local! {
    /// Made on first use in a backend, never in the postmaster: a forked child must not inherit opened keys.
    static LOCAL: RefCell<Option<Local>> = const { RefCell::new(None) };
    /// Keys under which this process has wrapped and opened once: by reference, with their public keys.
    static PROVEN: RefCell<HashMap<Vec<u8>, Option<Vec<u8>>>> = RefCell::default();
}

/// The key directory with what a base backup of this server copies.
pub(crate) fn key_directory() -> KeyDirectory {
    let data = gucs::data_directory();
    let mut copied_by_backups: Vec<PathBuf> = vec![data.join("pg_wal")];
    if let Ok(tablespaces) = std::fs::read_dir(data.join("pg_tblspc")) {
        copied_by_backups.extend(tablespaces.flatten().map(|entry| entry.path()));
    }
    copied_by_backups.push(data);
    KeyDirectory { path: gucs::key_directory(), copied_by_backups }
}

/// The local provider of this backend.
pub(crate) fn with_local<T>(f: impl FnOnce(&mut Local) -> T) -> T {
    LOCAL.with_borrow_mut(|slot| {
        // The administrator may have moved the key directory since.
        if slot.as_ref().is_some_and(|local| local.directory().path != gucs::key_directory()) {
            *slot = None;
        }
        f(slot.get_or_insert_with(|| {
            core_dump::leave_keys_out();
            Local::new(key_directory())
        }))
    })
}

/// Fails with the file and the expected fingerprint unless the provider's root key is there and right.
pub(crate) fn check_root(provider: &str, root: &RootRef) -> Result<(), Failure> {
    with_local(|local| local.check_root(root)).map_err(|e| Failure::provider(provider, &e))
}

/// Fails unless a local key's sealed bytes open under its root key.
pub(crate) fn check_key(provider: &str, key: &SealedKey) -> Result<(), Failure> {
    with_local(|local| local.check_key(key)).map_err(|e| Failure::provider(provider, &e))
}

/// One key's part of a call: shares to be wrapped, or blobs to be opened.
pub(crate) type Part<'a, I> = (&'a Key, Vec<I>);

/// What the key's provider answers, in the order of the items; or why it did not.
pub(crate) type Answered<T> = Result<Vec<T>, ProviderError>;

/// Wraps shares under a KMS key.
pub(crate) async fn wrap(key: &Key, items: &[ToWrap<'_>]) -> Result<Vec<Vec<u8>>, Failure> {
    only(key, each(&[(key, items.to_vec())], wrap_local, wrap_remote).await?)
}

/// Wraps shares under several KMS keys at once, and waits for it. Answers stand in the order of the parts.
pub(crate) fn wrap_all(parts: &[Part<'_, ToWrap<'_>>]) -> Result<Vec<Answered<Vec<u8>>>, Failure> {
    wait(parts, each(parts, wrap_local, wrap_remote))
}

/// Opens shares under a key: `(blob, slot_aad)` each. `None` for an item that the key rejects.
pub(crate) async fn open_shares(key: &Key, items: &[ToOpen<'_>]) -> Result<Vec<Option<Share>>, Failure> {
    only(key, each(&[(key, items.to_vec())], open_local, open_remote).await?)
}

/// Opens shares under several keys of any slots at once, and waits for it. Answers stand in the order of the parts.
pub(crate) fn open_all(parts: &[Part<'_, ToOpen<'_>>]) -> Result<Vec<Answered<Option<Share>>>, Failure> {
    wait(parts, each(parts, open_local, open_remote))
}

/// The answer about the only part.
fn only<T>(key: &Key, mut answers: Vec<Answered<T>>) -> Result<Vec<T>, Failure> {
    let answer = answers.pop().ok_or_else(|| Failure::internal("KMS answer"))?;
    answer.map_err(|e| Failure::provider(&key.provider, &e))
}

/// Waits for [`each`]. Local keys need no event loop, which would take as long as what they do.
fn wait<I, T>(
    parts: &[Part<'_, I>],
    answers: impl Future<Output = Result<Vec<Answered<T>>, Failure>>,
) -> Result<Vec<Answered<T>>, Failure> {
    if parts.iter().all(|(key, _)| key.is_local()) {
        return answers.now_or_never().unwrap_or_else(|| Err(Failure::internal("local keys")));
    }
    remote::wait(answers)?
}

fn wrap_local(key: &Key, items: &[ToWrap<'_>]) -> Answered<Vec<u8>> {
    with_local(|local| local.wrap(sealed(key)?, items, &mut SystemEntropy))
}

async fn wrap_remote(remote: &Remote, key: &Key, items: &[ToWrap<'_>]) -> Answered<Vec<u8>> {
    if remote.provider().wraps_here(key.algorithm) {
        // Nobody is asked: neither an outage nor its end shows by it.
        return remote.provider().wrap(key.at_provider(), items).await;
    }
    remote.call(items.len(), |provider| provider.wrap(key.at_provider(), items)).await
}

fn open_local(key: &Key, items: &[ToOpen<'_>]) -> Answered<Option<Share>> {
    let sealed = sealed(key)?;
    let shares = if key.algorithm.is_kem() {
        open_layers(key, items, with_local(|local| local.decapsulate(sealed, &ciphertexts(key, items)))?)
    } else {
        with_local(|local| local.unwrap(sealed, items))?
    };
    count_rejected(key, rejected(&shares));
    Ok(shares)
}

async fn open_remote(remote: &Remote, key: &Key, items: &[ToOpen<'_>]) -> Answered<Option<Share>> {
    let shares = if key.algorithm.is_kem() {
        let ciphertexts = ciphertexts(key, items);
        let shared = remote.call(items.len(), |provider| provider.decapsulate(key.at_provider(), &ciphertexts)).await?;
        open_layers(key, items, shared)
    } else {
        remote.call(items.len(), |provider| provider.unwrap(key.at_provider(), items)).await?
    };
    count_rejected(key, rejected(&shares));
    Ok(shares)
}

fn rejected(shares: &[Option<Share>]) -> usize {
    shares.iter().filter(|share| share.is_none()).count()
}

/// Counts shares that a key rejected, or opened to what does not verify: honest rows never have any.
pub(crate) fn count_rejected(key: &Key, n: usize) {
    if n > 0 {
        breaker::count_rejected(key.provider_id, n);
        let s = if n == 1 { "" } else { "s" };
        // Never to the client, whatever its client_min_messages: whoever tries altered bytes learns that they do not open, and no more.
        pgrx::ereport!(
            PgLogLevel::LOG_SERVER_ONLY,
            PgSqlErrorCode::ERRCODE_SUCCESSFUL_COMPLETION,
            format!("kms_wrap: {n} wrapped share{s} under KMS key {} did not verify", key.label())
        );
    }
}

/// The KEM ciphertexts of layers. A blob of the wrong length is asked for all the same, with none, so that answers stay aligned.
fn ciphertexts<'a>(key: &Key, items: &[ToOpen<'a>]) -> Vec<&'a [u8]> {
    items.iter().map(|(blob, _)| slot::split_layer_blob(key.algorithm, blob).map_or(&[][..], |(ct, _)| ct)).collect()
}

fn open_layers(key: &Key, items: &[ToOpen<'_>], shared: Vec<Option<SharedSecret>>) -> Vec<Option<Share>> {
    let ek = key.public_key.as_deref().unwrap_or_default();
    let opened = shared.into_iter().zip(items).map(|(shared, (blob, aad))| slot::open_layer(key.algorithm, ek, aad, blob, &shared?));
    opened.collect()
}

/// Asks all remote providers at once, and the local one on the spot.
async fn each<I, T>(
    parts: &[Part<'_, I>],
    local: impl Fn(&Key, &[I]) -> Answered<T>,
    remote: impl AsyncFn(&Remote, &Key, &[I]) -> Answered<T>,
) -> Result<Vec<Answered<T>>, Failure> {
    if parts.iter().all(|(key, _)| key.is_local()) {
        return Ok(parts.iter().map(|(key, items)| local(key, items)).collect());
    }
    for (key, _) in parts {
        pins::check_kind(&key.key_ref.kind)?;
    }
    let ask = async |(key, items): &Part<'_, I>| {
        if key.is_local() {
            // Requests of the other parts leave first: their servers work while this thread does.
            yield_now().await;
            return local(key, items);
        }
        let provider = remote::of_key(key)?;
        if !provider.gives_way() {
            yield_now().await;
        }
        let answer = remote(&provider, key, items).await?;
        if answer.len() == items.len() {
            Ok(answer)
        } else {
            Err(ProviderError::Malformed("It answered for another number of items.".to_owned()))
        }
    };
    Ok(join_all(parts.iter().map(ask)).await)
}

/// Whether this process has made a wrap-and-open round under the key.
pub(crate) fn is_proven(key: &Key) -> Result<bool, Failure> {
    let key_ref = key.key_ref.encode()?;
    Ok(PROVEN.with_borrow(|proven| proven.get(&key_ref) == Some(&key.public_key)))
}

/// Remembers that a blob made under the key was opened again by its provider.
pub(crate) fn set_proven(key: &Key) -> Result<(), Failure> {
    let key_ref = key.key_ref.encode()?;
    PROVEN.with_borrow_mut(|proven| proven.insert(key_ref, key.public_key.clone()));
    Ok(())
}

/// Forgets all rounds: a provider has another configuration, and may allow less.
pub(super) fn forget_proofs() {
    PROVEN.take();
}

fn sealed(key: &Key) -> Result<&SealedKey, ProviderError> {
    key.sealed.as_ref().ok_or_else(|| ProviderError::Malformed(format!("The provider holds no key \"{}\".", key.key_ref.external_key_ref)))
}
