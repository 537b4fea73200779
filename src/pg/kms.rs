//! This backend's providers: the one place where a catalog key meets the system that holds it.

use super::{catalog::key::Key, gucs, report::Failure};
use crate::{
    core::{kem::SharedSecret, secret::Share, slot, suite::Algorithm},
    provider::{
        ProviderError,
        entropy::SystemEntropy,
        local::{Local, RootRef, SealedKey},
        root_key::KeyDirectory,
    },
};
use std::{cell::RefCell, collections::HashMap, path::PathBuf};

thread_local! {
    /// Made on first use in a backend, never in the postmaster: a forked child must not inherit opened keys.
    static LOCAL: RefCell<Option<Local>> = const { RefCell::new(None) };
    /// Keys under which this process has wrapped and opened once: by reference, with their encapsulation keys.
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
        f(slot.get_or_insert_with(|| Local::new(key_directory())))
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

/// Wraps shares under a KMS key.
pub(crate) fn wrap(key: &Key, items: &[(&Share, &[u8])]) -> Result<Vec<Vec<u8>>, Failure> {
    let sealed = sealed(key).map_err(|e| Failure::provider(&key.provider, &e))?;
    with_local(|local| local.wrap(sealed, items, &mut SystemEntropy)).map_err(|e| Failure::provider(&key.provider, &e))
}

/// Unwraps shares of KMS slots: `(blob, slot_aad)` each. `None` for an item that the key rejects.
pub(crate) fn unwrap(key: &Key, items: &[(&[u8], &[u8])]) -> Result<Vec<Option<Share>>, ProviderError> {
    let sealed = sealed(key)?;
    with_local(|local| local.unwrap(sealed, items))
}

/// Opens shares of layers: `(blob, slot_aad)` each. `None` for an item that does not verify.
pub(crate) fn open_layers(key: &Key, items: &[(&[u8], &[u8])]) -> Result<Vec<Option<Share>>, ProviderError> {
    let sealed = sealed(key)?;
    let ek = key.public_key.as_deref().unwrap_or_default();
    let open = |algorithm: Algorithm, shared: Option<SharedSecret>, (blob, aad): &(&[u8], &[u8])| {
        slot::open_layer(algorithm, ek, aad, blob, &shared?)
    };
    let split: Vec<_> = items.iter().map(|(blob, _)| slot::split_layer_blob(key.algorithm, blob)).collect();
    // A blob of the wrong length is asked for all the same, with no ciphertext, so that answers stay aligned.
    let ciphertexts: Vec<&[u8]> = split.iter().map(|s| s.map_or(&[][..], |(ct, _)| ct)).collect();
    let shared = with_local(|local| local.decapsulate(sealed, &ciphertexts))?;
    Ok(shared.into_iter().zip(items).map(|(shared, item)| open(key.algorithm, shared, item)).collect())
}

/// Opens shares of any slot.
pub(crate) fn open_shares(key: &Key, items: &[(&[u8], &[u8])]) -> Result<Vec<Option<Share>>, ProviderError> {
    if key.algorithm.is_kem() { open_layers(key, items) } else { unwrap(key, items) }
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

fn sealed(key: &Key) -> Result<&SealedKey, ProviderError> {
    key.sealed.as_ref().ok_or_else(|| ProviderError::Malformed(format!("The provider holds no key \"{}\".", key.key_ref.external_key_ref)))
}
