//! The embedded provider: AES-256 and KEM keys kept in the database, sealed under a root key file that is not in the database.
//!
//! Root seals and wraps are XAES-256-GCM with 24 random nonce bytes in front, so neither key has a message limit that anyone could reach.

use super::{
    Capabilities, ProviderError,
    root_key::{Fingerprint, KeyDirectory, RootKey, RootKeyError, Stamp},
};
use crate::core::{
    aead,
    codec::Writer,
    entropy::Entropy,
    error::Error,
    kdf,
    kem::{PrivateKey, SharedSecret},
    secret::{Secret, Share},
    suite::Algorithm,
};
use std::collections::HashMap;
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

/// Name of this kind in `kms_providers.provider`.
pub const KIND: &str = "local";

/// What the embedded provider can do.
pub const CAPABILITIES: Capabilities = Capabilities { binds_context: true, shows_version: false, batches: true, interruptible: false };

/// OpenTDF's key mode 1, CONFIG_ROOT_KEY: the key is in the database, wrapped by a key of the configuration.
pub const KEY_MODE: i32 = 1;

const LABEL_ROOT: &[u8] = b"kms_wrap/v1/root\0";

/// Which table holds a sealed key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Table {
    /// `sym_key`.
    Sym,
    /// `asym_key`.
    Asym,
}

impl Table {
    /// The table that holds keys of an algorithm.
    #[must_use]
    pub const fn of(algorithm: Algorithm) -> Self {
        if algorithm.is_kem() { Self::Asym } else { Self::Sym }
    }

    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Sym => "sym_key",
            Self::Asym => "asym_key",
        }
    }
}

/// Which root key a provider's keys are sealed under.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RootRef {
    /// Name of the file.
    pub name: String,
    /// Fingerprint that the file must have.
    pub fingerprint: Fingerprint,
}

/// What says which key a sealed key is. Authenticated by the root seal, so a row cannot pass for another one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyIdentity {
    /// `key_id`, the name under which `kms_keys.external_key_ref` knows it.
    pub key_id: String,
    /// Its algorithm.
    pub algorithm: Algorithm,
    /// `provider_config.id`.
    pub provider_config: [u8; 16],
    /// Encapsulation key of a KEM.
    pub public_key: Option<Vec<u8>>,
}

impl KeyIdentity {
    /// AAD of the root seal: table, key_id, algorithm, mode, provider, SHA-256 of the public key (empty if none), root fingerprint.
    fn root_aad(&self, root: &Fingerprint) -> Vec<u8> {
        let public = self.public_key.as_ref().map(|key| kdf::sha256(&[key]));
        Writer::new(LABEL_ROOT)
            .field(0x01, Table::of(self.algorithm).name().as_bytes())
            .field(0x02, self.key_id.as_bytes())
            .field(0x03, self.algorithm.name().as_bytes())
            .field(0x04, &KEY_MODE.to_be_bytes())
            .field(0x05, &self.provider_config)
            .field(0x06, public.as_ref().map_or(&[], |h| h.as_slice()))
            .field(0x07, root.bytes())
            .finish()
    }
}

/// A key as the database holds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SealedKey {
    /// Which key.
    pub identity: KeyIdentity,
    /// Nonce, ciphertext and tag of the root seal.
    pub sealed: Vec<u8>,
    /// The root key of the seal.
    pub root: RootRef,
}

/// A key ready for use.
enum OpenKey {
    Symmetric(Secret<32>),
    Kem(PrivateKey),
}

/// The provider in one process. Keeps opened keys for as long as the sealed bytes and the root key file stay what they were.
pub struct Local {
    directory: KeyDirectory,
    roots: HashMap<String, (RootKey, Stamp)>,
    keys: HashMap<(Table, String), (SealedKey, OpenKey)>,
}

impl Local {
    /// A provider over a key directory. Reads nothing yet.
    #[must_use]
    pub fn new(directory: KeyDirectory) -> Self {
        Self { directory, roots: HashMap::new(), keys: HashMap::new() }
    }

    /// Where its root keys lie.
    #[must_use]
    pub fn directory(&self) -> &KeyDirectory {
        &self.directory
    }

    /// Makes sure that the root key is there and is the one that the configuration names.
    ///
    /// # Errors
    /// [`ProviderError`] with the file and the expected fingerprint.
    pub fn check_root(&mut self, root: &RootRef) -> Result<(), ProviderError> {
        self.root(root).map(|_| ())
    }

    /// Makes sure that a key's sealed bytes open under its root key.
    ///
    /// # Errors
    /// [`ProviderError`] about root key or key.
    pub fn check_key(&mut self, key: &SealedKey) -> Result<(), ProviderError> {
        self.open_key(key).map(|_| ())
    }

    /// Makes a new key and seals it.
    ///
    /// # Errors
    /// [`ProviderError`] about the root key.
    pub fn generate(
        &mut self,
        key_id: &str,
        algorithm: Algorithm,
        provider_config: [u8; 16],
        root: &RootRef,
        entropy: &mut impl Entropy,
    ) -> Result<SealedKey, ProviderError> {
        let seed_len = crate::core::kem::sizes(algorithm).map_or(32, |s| s.seed);
        let mut secret = Zeroizing::new(vec![0; seed_len]);
        entropy.fill(&mut secret).map_err(internal)?;
        let public_key = PrivateKey::from_seed(algorithm, &secret).map(|key| key.encapsulation_key());
        let identity = KeyIdentity { key_id: key_id.to_owned(), algorithm, provider_config, public_key };
        let aad = identity.root_aad(&root.fingerprint);
        let sealed = aead::xaes_seal(self.root(root)?.key.expose(), &aad, &secret, entropy).map_err(internal)?;
        Ok(SealedKey { identity, sealed, root: root.clone() })
    }

    /// The same key sealed under another root key.
    ///
    /// # Errors
    /// [`ProviderError`] about either root key, or about the sealed key.
    pub fn reseal(&mut self, key: &SealedKey, new_root: &RootRef, entropy: &mut impl Entropy) -> Result<SealedKey, ProviderError> {
        let secret = self.unseal(key)?;
        let aad = key.identity.root_aad(&new_root.fingerprint);
        let sealed = aead::xaes_seal(self.root(new_root)?.key.expose(), &aad, &secret, entropy).map_err(internal)?;
        let resealed = SealedKey { sealed, root: new_root.clone(), ..key.clone() };
        if bool::from(self.unseal(&resealed)?.ct_eq(&secret)) { Ok(resealed) } else { Err(malformed(key)) }
    }

    /// Wraps shares under a symmetric key, each with its AAD.
    ///
    /// # Errors
    /// [`ProviderError`] about root key or key.
    pub fn wrap(&mut self, key: &SealedKey, items: &[(&Share, &[u8])], entropy: &mut impl Entropy) -> Result<Vec<Vec<u8>>, ProviderError> {
        let OpenKey::Symmetric(kek) = self.open_key(key)? else { return Err(malformed(key)) };
        items.iter().map(|(share, aad)| aead::xaes_seal(kek.expose(), aad, share.expose(), entropy).map_err(internal)).collect()
    }

    /// Unwraps shares under a symmetric key; `None` for an item that does not verify or is not a share.
    ///
    /// # Errors
    /// [`ProviderError`] about root key or key.
    pub fn unwrap(&mut self, key: &SealedKey, items: &[(&[u8], &[u8])]) -> Result<Vec<Option<Share>>, ProviderError> {
        let OpenKey::Symmetric(kek) = self.open_key(key)? else { return Err(malformed(key)) };
        Ok(items.iter().map(|(blob, aad)| Share::copy_from(&aead::xaes_open(kek.expose(), aad, blob)?)).collect())
    }

    /// Decapsulates with a KEM key; `None` for a ciphertext of the wrong length.
    ///
    /// # Errors
    /// [`ProviderError`] about root key or key.
    pub fn decapsulate(&mut self, key: &SealedKey, ciphertexts: &[&[u8]]) -> Result<Vec<Option<SharedSecret>>, ProviderError> {
        let OpenKey::Kem(private) = self.open_key(key)? else { return Err(malformed(key)) };
        Ok(ciphertexts.iter().map(|ct| private.decapsulate(ct)).collect())
    }

    fn open_key(&mut self, key: &SealedKey) -> Result<&OpenKey, ProviderError> {
        self.root(&key.root)?;
        let index = (Table::of(key.identity.algorithm), key.identity.key_id.clone());
        let known = self.keys.get(&index).is_some_and(|(sealed, _)| sealed == key);
        if !known {
            let secret = self.unseal(key)?;
            let open = if key.identity.algorithm.is_kem() {
                let private = PrivateKey::from_seed(key.identity.algorithm, &secret).ok_or_else(|| malformed(key))?;
                // The public key that others encapsulate to must be this private key's, or layers could be made that nobody can open.
                if key.identity.public_key.as_ref() != Some(&private.encapsulation_key()) {
                    return Err(malformed(key));
                }
                OpenKey::Kem(private)
            } else {
                OpenKey::Symmetric(Secret::copy_from(&secret).ok_or_else(|| malformed(key))?)
            };
            self.keys.insert(index.clone(), (key.clone(), open));
        }
        self.keys.get(&index).map(|(_, open)| open).ok_or_else(|| malformed(key))
    }

    fn unseal(&mut self, key: &SealedKey) -> Result<Zeroizing<Vec<u8>>, ProviderError> {
        let aad = key.identity.root_aad(&key.root.fingerprint);
        let root = self.root(&key.root)?;
        aead::xaes_open(root.key.expose(), &aad, &key.sealed).ok_or_else(|| malformed(key))
    }

    /// The root key, read again whenever its file is not the one that was read before.
    fn root(&mut self, root: &RootRef) -> Result<&RootKey, ProviderError> {
        let expected = |e: RootKeyError| root_error(e, root);
        let now = self.directory.stamp(&root.name);
        let fresh = now.is_some() && self.roots.get(&root.name).map(|(_, stamp)| *stamp) == now;
        if !fresh {
            self.roots.remove(&root.name);
            self.keys.retain(|_, (sealed, _)| sealed.root.name != root.name);
            let loaded = self.directory.load(&root.name).map_err(expected)?;
            self.roots.insert(root.name.clone(), loaded);
        }
        match self.roots.get(&root.name) {
            Some((loaded, _)) if loaded.fingerprint == root.fingerprint => Ok(loaded),
            Some((loaded, _)) => Err(ProviderError::Denied(format!(
                "Root key file \"{}\" has fingerprint {}; expected {}.",
                self.directory.path.join(&root.name).display(),
                loaded.fingerprint,
                root.fingerprint
            ))),
            None => Err(expected(RootKeyError::BadName)),
        }
    }
}

fn root_error(error: RootKeyError, root: &RootRef) -> ProviderError {
    let expected = format!("The expected fingerprint is {}.", root.fingerprint);
    match error {
        RootKeyError::Missing(text) => ProviderError::Unavailable(format!("{text} {expected}")),
        RootKeyError::Unfit(text) => ProviderError::Denied(format!("{text} {expected}")),
        RootKeyError::BadName | RootKeyError::Exists(_) => {
            ProviderError::Denied(format!("The provider's configuration has no usable root key name. {expected}"))
        }
    }
}

fn malformed(key: &SealedKey) -> ProviderError {
    ProviderError::Malformed(format!(
        "Local key \"{}\" in {} is not what was sealed under root key \"{}\" ({}).",
        key.identity.key_id,
        Table::of(key.identity.algorithm).name(),
        key.root.name,
        key.root.fingerprint
    ))
}

fn internal(error: Error) -> ProviderError {
    ProviderError::Unavailable(format!("The local provider failed: {error}."))
}
