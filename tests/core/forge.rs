//! A wrapper put together by hand, by somebody who holds all keys: what [`kms_wrap::core::draft::Draft`] would never make.

use super::{entropy::Stream, fixtures, kms::Kms, row::Row};
use kms_wrap::core::{
    kdf,
    path::{Mode, PathData, PathHeader, SlotEntry, dek_commit},
    secret::{Dek, Secret, Share},
    slot::{Binding, Container, SlotHeader, SlotNo},
    suite::Algorithm,
};
use zeroize::Zeroizing;

/// What goes into it.
pub struct Forgery<'a> {
    pub mode: Mode,
    pub epoch: u32,
    pub layers: &'a [Algorithm],
    /// The DEK of path 1 and of path 2.
    pub deks: [&'a [u8]; 2],
    /// The path whose DEK both headers commit to; `None`: each to its own.
    pub committed: Option<usize>,
    pub label: &'a str,
}

fn dek(bytes: &[u8]) -> Dek {
    Dek::from_bytes(Zeroizing::new(bytes.to_vec())).unwrap()
}

impl Forgery<'_> {
    /// Makes the row. Keys are created in `kms` under the names of the slots.
    pub fn row(&self, kms: &mut Kms) -> Row {
        let mut entropy = Stream::new(self.label);
        let uuid = entropy.array();
        let ctx_sha256 = fixtures::context();
        let binding = Binding { uuid, epoch: self.epoch, ctx_sha256 };
        let mut slots: Vec<(Container, Share)> = Vec::new();
        for (slot, algorithm) in fixtures::slot_algorithms(self.layers) {
            let key_ref = kms.create(&slot.name(), algorithm);
            let ek_sha256 = kms.encapsulation_key(&key_ref).map(|ek| kdf::sha256(&[&ek]));
            let header = SlotHeader { slot, algorithm, key_ref, ek_sha256, generation: fixtures::GENERATION };
            let share = Share::random(&mut entropy).unwrap();
            let blob = kms.wrap(&header.key_ref, algorithm, &binding.slot_aad(&header).unwrap(), &share, &mut entropy);
            slots.push((Container { header, blob, path: None }, share));
        }
        let opening = Secret::random(&mut entropy).unwrap();
        let mut fingerprint = Vec::new();
        for path in 1..=(if self.mode == Mode::Split { 1 } else { 2 }) {
            let own = &dek(self.deks[path - 1]);
            let committed = dek(self.deks[self.committed.unwrap_or(path - 1)]);
            let commit = dek_commit(&uuid, &committed, &opening).unwrap();
            let on_path = |s: &SlotNo| self.mode == Mode::Split || s.layer_no().is_some() || usize::from(s.code()) == path;
            let members: Vec<_> = slots.iter().filter(|(c, _)| on_path(&c.header.slot)).collect();
            let entry = |(c, share): &&(Container, Share)| SlotEntry {
                slot: c.header.slot,
                class: c.header.algorithm.class().code(),
                share_commit: binding.share_commit(c.header.slot, share),
            };
            let header = PathHeader {
                mode: self.mode,
                path: u8::try_from(path).unwrap(),
                epoch: self.epoch,
                salt: entropy.array(),
                dek_len: u16::try_from(own.expose().len()).unwrap(),
                policy_uuid: fixtures::POLICY,
                ctx_sha256,
                dek_commit: commit,
                slots: members.iter().map(entry).collect(),
            };
            let shares: Vec<_> = members.iter().map(|(_, share)| share).collect();
            let sealed = PathData::seal(header, &uuid, &shares, own, &opening).unwrap();
            slots[path - 1].0.path = Some(sealed);
            if path == 1 {
                fingerprint = commit[..16].to_vec();
            }
        }
        let encoded = |i: usize| slots[i].0.encode().unwrap();
        Row {
            uuid,
            policy_uuid: fixtures::POLICY,
            epoch: self.epoch,
            generation: fixtures::GENERATION,
            dek_fingerprint: fingerprint,
            dek_wrap1: encoded(0),
            dek_wrap2: encoded(1),
            layers: (2..slots.len()).map(|i| (slots[i].0.header.slot.layer_no().unwrap(), encoded(i))).collect(),
        }
    }
}
