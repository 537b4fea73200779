//! Making a wrapper: shares are drawn, KMS keys protect theirs outside, layers and DEK are sealed here.

use super::{
    entropy::Entropy,
    error::Error,
    path::{Mode, PathData, PathHeader, SlotEntry, dek_commit},
    secret::{Dek, Secret, Share},
    slot::{self, Binding, Container, SlotHeader, SlotNo, SlotSpec},
    wrapper::{FINGERPRINT_LEN, fingerprint, on_path},
};

/// What a new wrapper is to be.
pub struct Spec {
    /// Its uuid.
    pub uuid: [u8; 16],
    /// How the two KMS keys compose.
    pub mode: Mode,
    /// The policy's uuid.
    pub policy_uuid: [u8; 16],
    /// Hash of the caller's context.
    pub ctx_sha256: [u8; 32],
    /// Number of this write.
    pub generation: u64,
    /// kms1, kms2, then layers ascending.
    pub slots: Vec<SlotSpec>,
}

/// A wrapper in the making: shares exist, KMS keys have not answered yet.
pub struct Draft {
    spec: Spec,
    binding: Binding,
    dek: Dek,
    slots: Vec<DraftSlot>,
}

struct DraftSlot {
    header: SlotHeader,
    aad: Vec<u8>,
    share: Share,
}

/// The bytes of a new wrapper.
pub struct Built {
    /// Container of kms1 with path 1.
    pub dek_wrap1: Vec<u8>,
    /// Container of kms2, with path 2 when redundant.
    pub dek_wrap2: Vec<u8>,
    /// Layer number and container, ascending.
    pub layers: Vec<(u8, Vec<u8>)>,
    /// The first bytes of the DEK's commitment.
    pub dek_fingerprint: [u8; FINGERPRINT_LEN],
}

/// The epoch of every new wrapper.
const FIRST_EPOCH: u32 = 1;

impl Draft {
    /// Draws a share for every slot.
    ///
    /// # Errors
    /// [`Error::Entropy`]; [`Error::Invariant`] when the slots are not kms1, kms2 and layers in order.
    pub fn new(spec: Spec, dek: Dek, entropy: &mut impl Entropy) -> Result<Self, Error> {
        let ordered = spec.slots.is_sorted_by(|a, b| a.slot < b.slot);
        let kms = |i: usize, no| spec.slots.get(i).is_some_and(|s| s.slot == no);
        if !ordered || !kms(0, SlotNo::KMS1) || !kms(1, SlotNo::KMS2) {
            return Err(Error::Invariant("slots of a new wrapper"));
        }
        let binding = Binding { uuid: spec.uuid, epoch: FIRST_EPOCH, ctx_sha256: spec.ctx_sha256 };
        let mut slots = Vec::new();
        for slot in &spec.slots {
            let header = slot.header(spec.generation)?;
            let aad = binding.slot_aad(&header)?;
            slots.push(DraftSlot { header, aad, share: Share::random(entropy)? });
        }
        Ok(Self { spec, binding, dek, slots })
    }

    /// What the two KMS keys have to protect: share and AAD of kms1, then of kms2.
    pub fn kms_slots(&self) -> impl Iterator<Item = (&Share, &[u8])> {
        self.slots.iter().take(2).map(|s| (&s.share, s.aad.as_slice()))
    }

    /// Seals the layers and the DEK and puts everything together.
    ///
    /// # Errors
    /// [`Error::Entropy`], [`Error::InvalidPublicKey`].
    pub fn finish(self, kms_blobs: [Vec<u8>; 2], entropy: &mut impl Entropy) -> Result<Built, Error> {
        let opening = Secret::random(entropy)?;
        let commit = dek_commit(&self.spec.uuid, &self.dek, &opening)?;
        let path1 = self.seal_path(1, commit, &opening, entropy)?;
        let path2 = match self.spec.mode {
            Mode::Split => None,
            Mode::Redundant => Some(self.seal_path(2, commit, &opening, entropy)?),
        };
        let mut layers = Vec::new();
        for (spec, drafted) in self.spec.slots.iter().zip(&self.slots) {
            if let (Some(layer_no), Some(ek)) = (spec.slot.layer_no(), &spec.public_key) {
                let blob = slot::seal_layer(spec.algorithm, ek, &drafted.aad, &drafted.share, entropy)?;
                layers.push((layer_no, Container { header: drafted.header.clone(), blob, path: None }.encode()?));
            }
        }
        let [blob1, blob2] = kms_blobs;
        let [kms1, kms2, ..] = self.slots.as_slice() else { return Err(Error::Invariant("slots")) };
        Ok(Built {
            dek_wrap1: Container { header: kms1.header.clone(), blob: blob1, path: Some(path1) }.encode()?,
            dek_wrap2: Container { header: kms2.header.clone(), blob: blob2, path: path2 }.encode()?,
            layers,
            dek_fingerprint: fingerprint(&commit),
        })
    }

    fn seal_path(&self, path: u8, dek_commit: [u8; 32], opening: &Secret<32>, entropy: &mut impl Entropy) -> Result<PathData, Error> {
        let mut salt = [0; 32];
        entropy.fill(&mut salt)?;
        let members: Vec<_> = self.slots.iter().filter(|s| on_path(self.spec.mode, path, s.header.slot)).collect();
        let entry = |s: &&DraftSlot| SlotEntry {
            slot: s.header.slot,
            class: s.header.algorithm.class().code(),
            share_commit: self.binding.share_commit(s.header.slot, &s.share),
        };
        let header = PathHeader {
            mode: self.spec.mode,
            path,
            epoch: self.binding.epoch,
            salt,
            dek_len: u16::try_from(self.dek.expose().len()).map_err(|_| Error::Invariant("DEK length"))?,
            policy_uuid: self.spec.policy_uuid,
            ctx_sha256: self.spec.ctx_sha256,
            dek_commit,
            slots: members.iter().map(entry).collect(),
        };
        let shares: Vec<_> = members.iter().map(|s| &s.share).collect();
        PathData::seal(header, &self.spec.uuid, &shares, &self.dek, opening)
    }
}
