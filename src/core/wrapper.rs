//! A stored composite wrapper: read, opened, and one slot of it rewrapped. [`super::draft`] makes them.
//!
//! KMS calls happen outside: this module hands out what each slot's key has to authenticate ([`Wrapper::slot_aad`]) and takes back what came of
//! it. Parsing is strict, and every disagreement between the parts is found before a key is used.

use super::{
    entropy::Entropy,
    error::Error,
    path::{Mode, PathData, PathHeader},
    secret::{Dek, Share},
    slot::{self, Binding, Container, KeyRef, SlotHeader, SlotNo, SlotSpec},
    suite::Class,
};
use subtle::ConstantTimeEq;

/// Bytes of `dek_fingerprint`: the start of `dek_commit`.
pub const FINGERPRINT_LEN: usize = 16;

/// Whether a slot belongs to a path.
pub(super) fn on_path(mode: Mode, path: u8, slot: SlotNo) -> bool {
    match mode {
        Mode::Split => true,
        Mode::Redundant => slot.layer_no().is_some() || slot.code() == path,
    }
}

pub(super) fn fingerprint(dek_commit: &[u8; 32]) -> [u8; FINGERPRINT_LEN] {
    dek_commit.first_chunk().copied().unwrap_or_default()
}

/// What the catalog holds of a wrapper: the bytes, and the columns that the bytes must agree with.
pub struct Stored<'a> {
    /// Wrapper uuid.
    pub uuid: [u8; 16],
    /// Its policy's uuid.
    pub policy_uuid: [u8; 16],
    /// Column `epoch`.
    pub epoch: u32,
    /// Column `generation`.
    pub generation: u64,
    /// Column `dek_fingerprint`.
    pub dek_fingerprint: &'a [u8],
    /// Column `dek_wrap1`.
    pub dek_wrap1: &'a [u8],
    /// Column `dek_wrap2`.
    pub dek_wrap2: &'a [u8],
    /// Layer number and `kem_ciphertext`, in any order.
    pub layers: Vec<(u8, &'a [u8])>,
}

/// A wrapper whose parts were read and found to belong together. Nothing is opened yet.
#[derive(Debug)]
pub struct Wrapper {
    binding: Binding,
    mode: Mode,
    slots: Vec<Container>,
}

/// What came of asking a slot's key for its share.
pub enum Outcome {
    /// A share; whether it is the right one shows when it is used.
    Share(Share),
    /// The key rejected the bytes, or returned what is not a share.
    Failed,
    /// Not asked, or not reachable.
    Missing,
}

/// Why a wrapper gave no DEK.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unopened {
    /// Something did not verify. Wins over everything else.
    DoesNotOpen,
    /// Nothing failed, but no path has all its shares.
    Incomplete,
}

impl Wrapper {
    /// Reads the parts and checks that they make one wrapper.
    ///
    /// # Errors
    /// Of [`Container::parse`] for bytes that cannot be read; [`Error::DoesNotOpen`] for parts that do not belong together.
    pub fn parse(stored: &Stored<'_>) -> Result<Self, Error> {
        let mut slots = vec![Container::parse(stored.dek_wrap1)?, Container::parse(stored.dek_wrap2)?];
        let mut expected = vec![Some(SlotNo::KMS1), Some(SlotNo::KMS2)];
        let mut layers = stored.layers.clone();
        layers.sort_by_key(|(layer_no, _)| *layer_no);
        for (layer_no, bytes) in layers {
            slots.push(Container::parse(bytes)?);
            expected.push(SlotNo::layer(layer_no));
        }
        let [first, ..] = slots.as_slice() else { return Err(Error::DoesNotOpen) };
        let Some(path1) = &first.path else { return Err(Error::DoesNotOpen) };
        let header = path1.header.clone();
        let wrapper =
            Self { binding: Binding { uuid: stored.uuid, epoch: header.epoch, ctx_sha256: header.ctx_sha256 }, mode: header.mode, slots };
        let in_place = wrapper.slots.iter().map(|s| Some(s.header.slot)).eq(expected)
            && wrapper.slots.iter().all(|s| s.header.slot.layer_no().is_some() == s.header.algorithm.is_kem())
            && wrapper.slots.iter().all(|s| s.header.algorithm.has_public_key() == s.header.ek_sha256.is_some());
        let columns_agree = header.epoch == stored.epoch
            && header.policy_uuid == stored.policy_uuid
            && wrapper.generation() == stored.generation
            && bool::from(fingerprint(&header.dek_commit).as_slice().ct_eq(stored.dek_fingerprint));
        if in_place && columns_agree && wrapper.paths_agree() { Ok(wrapper) } else { Err(Error::DoesNotOpen) }
    }

    /// Both KMS slots lead a path exactly when the mode says so, each path lists exactly its slots with their classes, and the two paths of
    /// `redundant` differ in nothing but number, salt, own KMS slot, seal and commit.
    fn paths_agree(&self) -> bool {
        let leads = |i: usize| self.slots.get(i).and_then(|s| s.path.as_ref());
        let (Some(path1), path2) = (leads(0), leads(1)) else { return false };
        let complete = |path: &PathData, no: u8| {
            let members = self.slots.iter().filter(|s| on_path(self.mode, no, s.header.slot));
            path.header.path == no
                && members.map(|s| (s.header.slot, s.header.algorithm.class().code())).eq(path
                    .header
                    .slots
                    .iter()
                    .map(|e| (e.slot, e.class)))
        };
        match (self.mode, path2) {
            (Mode::Split, None) => complete(path1, 1),
            (Mode::Redundant, Some(path2)) => {
                let shared = |p: &PathData| PathHeader {
                    path: 0,
                    salt: [0; 32],
                    slots: p.header.slots.iter().filter(|e| e.slot.layer_no().is_some()).copied().collect(),
                    ..p.header.clone()
                };
                complete(path1, 1) && complete(path2, 2) && shared(path1) == shared(path2)
            }
            _ => false,
        }
    }

    /// Composition.
    #[must_use]
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// Counts reseals.
    #[must_use]
    pub fn epoch(&self) -> u32 {
        self.binding.epoch
    }

    /// Hash of the context that it was made for.
    #[must_use]
    pub fn ctx_sha256(&self) -> &[u8; 32] {
        &self.binding.ctx_sha256
    }

    /// Bytes of its DEK.
    #[must_use]
    pub fn dek_len(&self) -> u16 {
        self.paths().next().map_or(0, |(_, p)| p.header.dek_len)
    }

    /// The newest write among its slots.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.slots.iter().map(|s| s.header.generation).max().unwrap_or(0)
    }

    /// Its slots: kms1, kms2, layers ascending.
    #[must_use]
    pub fn slots(&self) -> &[Container] {
        &self.slots
    }

    /// One slot.
    #[must_use]
    pub fn slot(&self, slot: SlotNo) -> Option<&Container> {
        self.slots.iter().find(|s| s.header.slot == slot)
    }

    /// The slots of each path, by number.
    #[must_use]
    pub fn path_slots(&self) -> Vec<(u8, Vec<&Container>)> {
        self.paths().map(|(no, _)| (no, self.slots.iter().filter(|s| on_path(self.mode, no, s.header.slot)).collect())).collect()
    }

    fn paths(&self) -> impl Iterator<Item = (u8, &PathData)> {
        self.slots.iter().zip([1, 2]).filter_map(|(s, no)| s.path.as_ref().map(|p| (no, p)))
    }

    /// Whether every path has a post-quantum layer of at least this NIST category.
    #[must_use]
    pub fn is_post_quantum(&self, min_nist_level: i16) -> bool {
        // Layers are common to all paths, so one look answers for each of them.
        self.slots.iter().any(|s| s.header.algorithm.nist_level().is_some_and(|level| level >= min_nist_level))
    }

    /// Whether every path has a symmetric KMS slot whose provider binds the slot's AAD: only its holders can have made the wrapper.
    #[must_use]
    pub fn has_origin(&self, binds_aad: impl Fn(&KeyRef) -> bool) -> bool {
        self.path_slots()
            .iter()
            .all(|(_, slots)| slots.iter().any(|s| s.header.algorithm.class() == Class::KmsSym && binds_aad(&s.header.key_ref)))
    }

    /// What the slot's key authenticates.
    ///
    /// # Errors
    /// [`Error::Invariant`] when the wrapper has no such slot.
    pub fn slot_aad(&self, slot: SlotNo) -> Result<Vec<u8>, Error> {
        self.binding.slot_aad(&self.slot(slot).ok_or(Error::Invariant("no such slot"))?.header)
    }

    /// Whether a share is the one that the slot committed to. Constant time.
    #[must_use]
    pub fn share_is_committed(&self, slot: SlotNo, share: &Share) -> bool {
        let commit = self.binding.share_commit(slot, share);
        self.paths()
            .flat_map(|(_, p)| &p.header.slots)
            .filter(|e| e.slot == slot)
            .map(|e| bool::from(e.share_commit.ct_eq(&commit)))
            .reduce(|a, b| a & b)
            .unwrap_or(false)
    }

    /// Opens the DEK. `outcomes` stand in the order of [`Self::slots`]. Every path that has all its shares is opened and must verify; a slot that
    /// failed takes part with a zero share, so that the work does not tell which slot it was.
    ///
    /// # Errors
    /// [`Unopened`].
    pub fn open(&self, outcomes: &[Outcome]) -> Result<Dek, Unopened> {
        if outcomes.len() != self.slots.len() {
            return Err(Unopened::DoesNotOpen);
        }
        let zero = Share::zero();
        let mut failed = outcomes.iter().any(|o| matches!(o, Outcome::Failed));
        let mut opened = None;
        for (no, path) in self.paths() {
            let members = self.slots.iter().zip(outcomes).filter(|(s, _)| on_path(self.mode, no, s.header.slot));
            let shares: Option<Vec<&Share>> = members
                .map(|(_, outcome)| match outcome {
                    Outcome::Share(share) => Some(share),
                    Outcome::Failed => Some(&zero),
                    Outcome::Missing => None,
                })
                .collect();
            let Some(shares) = shares else { continue };
            match path.open(&self.binding.uuid, &shares) {
                Ok(dek) => opened = Some(dek),
                Err(_) => failed = true,
            }
        }
        match (failed, opened) {
            (true, _) => Err(Unopened::DoesNotOpen),
            (false, Some(dek)) => Ok(dek),
            (false, None) => Err(Unopened::Incomplete),
        }
    }

    /// Prepares one slot for another key. DEK, other slots and seal stay as they are.
    ///
    /// # Errors
    /// [`Error::Invariant`] when there is no such slot, or the new key is of another class (that is a reseal).
    pub fn rewrap(&self, spec: SlotSpec, generation: u64) -> Result<SlotRewrap, Error> {
        let old = self.slot(spec.slot).ok_or(Error::Invariant("no such slot"))?;
        if old.header.algorithm.class() != spec.algorithm.class() {
            return Err(Error::Invariant("a rewrap keeps the slot's class"));
        }
        let header = spec.header(generation)?;
        let aad = self.binding.slot_aad(&header)?;
        Ok(SlotRewrap { header, aad, encapsulation_key: spec.public_key, path: old.path.clone() })
    }
}

impl Wrapper {
    /// The wrapper with the bytes of rewrapped slots in place of the old ones: what [`Self::parse`] would read, without reading the rest again.
    ///
    /// # Errors
    /// Of [`Container::parse`]; [`Error::DoesNotOpen`] for bytes that are not of this slot, class, path or generation.
    pub fn rewritten<'a>(mut self, moved: impl Iterator<Item = (SlotNo, &'a [u8])>, generation: u64) -> Result<Self, Error> {
        for (slot, bytes) in moved {
            let new = Container::parse(bytes)?;
            let old = self.slots.iter_mut().find(|s| s.header.slot == slot).ok_or(Error::DoesNotOpen)?;
            let is_same_place = new.header.slot == slot
                && new.header.algorithm.class() == old.header.algorithm.class()
                && new.header.algorithm.has_public_key() == new.header.ek_sha256.is_some()
                && new.header.generation == generation
                && new.path == old.path;
            if !is_same_place {
                return Err(Error::DoesNotOpen);
            }
            *old = new;
        }
        if self.generation() == generation { Ok(self) } else { Err(Error::DoesNotOpen) }
    }
}

/// A slot on its way to another key.
pub struct SlotRewrap {
    header: SlotHeader,
    aad: Vec<u8>,
    encapsulation_key: Option<Vec<u8>>,
    path: Option<PathData>,
}

impl SlotRewrap {
    /// What the new key has to authenticate.
    #[must_use]
    pub fn aad(&self) -> &[u8] {
        &self.aad
    }

    /// Seals the share for a new layer key: the blob for [`Self::finish`].
    ///
    /// # Errors
    /// [`Error::InvalidPublicKey`], [`Error::Entropy`]; [`Error::Invariant`] for a KMS slot.
    pub fn seal_layer(&self, share: &Share, entropy: &mut impl Entropy) -> Result<Vec<u8>, Error> {
        let ek = self.encapsulation_key.as_ref().ok_or(Error::Invariant("not a layer"))?;
        slot::seal_layer(self.header.algorithm, ek, &self.aad, share, entropy)
    }

    /// The slot's new container around what protects the share now.
    ///
    /// # Errors
    /// [`Error::Invariant`] only.
    pub fn finish(self, blob: Vec<u8>) -> Result<Vec<u8>, Error> {
        Container { header: self.header, blob, path: self.path }.encode()
    }
}
