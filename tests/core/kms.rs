//! The KMS double: honest keys that bind the slot's AAD. A KMS key is an XAES-256-GCM key, a layer's key is a KEM private key.

use super::{entropy::Stream, row::Row};
use kms_wrap::core::{
    aead,
    error::Error,
    kem::{self, PrivateKey},
    secret::Share,
    slot::{self, Container, KeyRef, SlotNo, SlotSpec},
    suite::Algorithm,
    wrapper::{Outcome, Unopened, Wrapper},
};

pub enum Key {
    Xaes([u8; 32]),
    Kem { private: PrivateKey, encapsulation_key: Vec<u8> },
}

/// All keys that exist, of all providers.
#[derive(Default)]
pub struct Kms(Vec<(KeyRef, Key)>);

/// Which KMS answers. Layer keys always do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    All,
    Kms1,
    Kms2,
}

/// Where a wrapper was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    Parse(Error),
    Open(Unopened),
}

impl Refused {
    /// The one error of everything after framing.
    pub fn does_not_open(self) -> bool {
        matches!(self, Self::Parse(Error::DoesNotOpen) | Self::Open(Unopened::DoesNotOpen))
    }
}

pub fn key_ref(name: &str) -> KeyRef {
    let [kind, location, project_tenant, key_version] = ["local", "here", "acme", "1"].map(str::to_owned);
    KeyRef { kind, location, project_tenant, external_key_ref: name.to_owned(), key_version }
}

impl Kms {
    /// A key whose secret comes from its name.
    pub fn create(&mut self, name: &str, algorithm: Algorithm) -> KeyRef {
        let secret_len = kem::sizes(algorithm).map_or(32, |sizes| sizes.seed);
        self.add(key_ref(name), algorithm, &Stream::new(&format!("key {name}")).bytes(secret_len));
        key_ref(name)
    }

    /// A key of that secret: an XAES-256-GCM key or a KEM's seed.
    pub fn add(&mut self, key_ref: KeyRef, algorithm: Algorithm, secret: &[u8]) {
        let key = match PrivateKey::from_seed(algorithm, secret) {
            None => Key::Xaes(secret.try_into().unwrap()),
            Some(private) => Key::Kem { encapsulation_key: private.encapsulation_key(), private },
        };
        self.0.push((key_ref, key));
    }

    /// A KMS finds a key by name; it knows nothing of versions in the request.
    pub fn key(&self, wanted: &KeyRef) -> Option<&Key> {
        self.0.iter().find(|(r, _)| r.same_key(wanted)).map(|(_, key)| key)
    }

    pub fn encapsulation_key(&self, key: &KeyRef) -> Option<Vec<u8>> {
        match self.key(key)? {
            Key::Xaes(_) => None,
            Key::Kem { encapsulation_key, .. } => Some(encapsulation_key.clone()),
        }
    }

    pub fn spec(&self, slot: SlotNo, algorithm: Algorithm, key_ref: KeyRef) -> SlotSpec {
        SlotSpec { slot, algorithm, public_key: self.encapsulation_key(&key_ref), key_ref }
    }

    /// Wraps a share as the provider of that key would.
    pub fn wrap(&self, key: &KeyRef, algorithm: Algorithm, aad: &[u8], share: &Share, entropy: &mut Stream) -> Vec<u8> {
        match self.key(key).unwrap() {
            Key::Xaes(key) => aead::xaes_seal(key, aad, share.expose(), entropy).unwrap(),
            Key::Kem { encapsulation_key, .. } => slot::seal_layer(algorithm, encapsulation_key, aad, share, entropy).unwrap(),
        }
    }

    fn unwrap(&self, container: &Container, aad: &[u8]) -> Option<Share> {
        let algorithm = container.header.algorithm;
        match self.key(&container.header.key_ref)? {
            Key::Xaes(key) => Share::copy_from(&aead::xaes_open(key, aad, &container.blob)?),
            Key::Kem { private, encapsulation_key, .. } => {
                let (ciphertext, _) = slot::split_layer_blob(algorithm, &container.blob)?;
                let shared = private.decapsulate(ciphertext)?;
                slot::open_layer(algorithm, encapsulation_key, aad, &container.blob, &shared)
            }
        }
    }

    pub fn ask(&self, wrapper: &Wrapper, slot: SlotNo) -> Outcome {
        let aad = wrapper.slot_aad(slot).unwrap();
        self.unwrap(wrapper.slot(slot).unwrap(), &aad).map_or(Outcome::Failed, Outcome::Share)
    }

    pub fn ask_all(&self, wrapper: &Wrapper, reach: Reach) -> Vec<Outcome> {
        let missing = |slot| match reach {
            Reach::All => false,
            Reach::Kms1 => slot == SlotNo::KMS2,
            Reach::Kms2 => slot == SlotNo::KMS1,
        };
        let slots = wrapper.slots().iter().map(|s| s.header.slot);
        slots.map(|slot| if missing(slot) { Outcome::Missing } else { self.ask(wrapper, slot) }).collect()
    }

    pub fn share(&self, row: &Row, slot: SlotNo) -> Share {
        match self.ask(&Wrapper::parse(&row.stored()).unwrap(), slot) {
            Outcome::Share(share) => share,
            Outcome::Failed | Outcome::Missing => panic!("{} does not open", slot.name()),
        }
    }

    /// The DEK of a row.
    pub fn open(&self, row: &Row, reach: Reach) -> Result<Vec<u8>, Refused> {
        let wrapper = Wrapper::parse(&row.stored()).map_err(Refused::Parse)?;
        wrapper.open(&self.ask_all(&wrapper, reach)).map(|dek| dek.expose().to_vec()).map_err(Refused::Open)
    }

    /// The attack must end in the one error.
    #[track_caller]
    pub fn refuse(&self, attack: &str, row: &Row, reach: Reach) {
        match self.open(row, reach) {
            Ok(_) => panic!("{attack}, {reach:?}: opened"),
            Err(refused) => assert!(refused.does_not_open(), "{attack}, {reach:?}: {refused:?}"),
        }
    }
}
