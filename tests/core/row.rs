//! A wrapper as the catalog holds it, and the editor of a thief with write access: one part changes, framing stays valid.

use kms_wrap::core::{
    draft::Built,
    path::PathData,
    slot::{Container, SlotNo},
    wrapper::Stored,
};

/// What [`Stored`] borrows.
#[derive(Clone)]
pub struct Row {
    pub uuid: [u8; 16],
    pub policy_uuid: [u8; 16],
    pub epoch: u32,
    pub generation: u64,
    pub dek_fingerprint: Vec<u8>,
    pub dek_wrap1: Vec<u8>,
    pub dek_wrap2: Vec<u8>,
    pub layers: Vec<(u8, Vec<u8>)>,
}

impl Row {
    pub fn new(uuid: [u8; 16], policy_uuid: [u8; 16], generation: u64, built: Built) -> Self {
        Self {
            uuid,
            policy_uuid,
            epoch: 1,
            generation,
            dek_fingerprint: built.dek_fingerprint.to_vec(),
            dek_wrap1: built.dek_wrap1,
            dek_wrap2: built.dek_wrap2,
            layers: built.layers,
        }
    }

    pub fn stored(&self) -> Stored<'_> {
        Stored {
            uuid: self.uuid,
            policy_uuid: self.policy_uuid,
            epoch: self.epoch,
            generation: self.generation,
            dek_fingerprint: &self.dek_fingerprint,
            dek_wrap1: &self.dek_wrap1,
            dek_wrap2: &self.dek_wrap2,
            layers: self.layers.iter().map(|(n, bytes)| (*n, bytes.as_slice())).collect(),
        }
    }

    /// kms1, kms2, layers in the order of the row.
    pub fn slots(&self) -> Vec<SlotNo> {
        [SlotNo::KMS1, SlotNo::KMS2].into_iter().chain(self.layer_slots()).collect()
    }

    /// Of many layers only the first, the middle and the last.
    pub fn some_slots(&self) -> Vec<SlotNo> {
        let layers = self.layer_slots();
        let kept = [0, layers.len() / 2, layers.len().saturating_sub(1)];
        let some = layers.iter().enumerate().filter(|(i, _)| kept.contains(i)).map(|(_, slot)| *slot);
        [SlotNo::KMS1, SlotNo::KMS2].into_iter().chain(some).collect()
    }

    pub fn layer_slots(&self) -> Vec<SlotNo> {
        self.layers.iter().map(|(n, _)| SlotNo::layer(*n).unwrap()).collect()
    }

    pub fn bytes(&self, slot: SlotNo) -> &[u8] {
        match slot.layer_no() {
            None if slot == SlotNo::KMS1 => &self.dek_wrap1,
            None => &self.dek_wrap2,
            Some(n) => &self.layers.iter().find(|(no, _)| *no == n).unwrap().1,
        }
    }

    pub fn put(&mut self, slot: SlotNo, bytes: Vec<u8>) {
        match slot.layer_no() {
            None if slot == SlotNo::KMS1 => self.dek_wrap1 = bytes,
            None => self.dek_wrap2 = bytes,
            Some(n) => self.layers.iter_mut().find(|(no, _)| *no == n).unwrap().1 = bytes,
        }
    }

    pub fn container(&self, slot: SlotNo) -> Container {
        Container::parse(self.bytes(slot)).unwrap()
    }

    /// Changes one container.
    pub fn edit(&mut self, slot: SlotNo, change: impl FnOnce(&mut Container)) {
        let mut container = self.container(slot);
        change(&mut container);
        self.put(slot, container.encode().unwrap());
    }

    /// The slots that lead a path: kms1, and kms2 when redundant.
    pub fn leaders(&self) -> Vec<SlotNo> {
        [SlotNo::KMS1, SlotNo::KMS2].into_iter().filter(|s| self.container(*s).path.is_some()).collect()
    }

    pub fn path(&self, leader: SlotNo) -> PathData {
        self.container(leader).path.unwrap()
    }

    /// Changes one path.
    pub fn edit_path(&mut self, leader: SlotNo, change: impl FnOnce(&mut PathData)) {
        self.edit(leader, |c| change(c.path.as_mut().unwrap()));
    }

    /// Changes all paths alike, so that they keep agreeing.
    pub fn edit_paths(&mut self, change: impl Fn(&mut PathData)) {
        for leader in self.leaders() {
            self.edit_path(leader, &change);
        }
    }

    /// The row with one change.
    pub fn but(&self, change: impl FnOnce(&mut Self)) -> Self {
        let mut row = self.clone();
        change(&mut row);
        row
    }
}
