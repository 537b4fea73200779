//! Every byte of every blob: cut, extended or flipped, a wrapper never opens and nothing panics.

use super::{
    fixtures::{Fixture, GENERATION},
    kms::{Reach, Refused},
    row::Row,
    tlv,
};
use kms_wrap::core::{
    error::Error,
    kem,
    path::Mode,
    secret::Share,
    slot::{self, Container, KeyRef, SlotNo},
    suite::Algorithm,
    wrapper::{Outcome, Unopened, Wrapper},
};
use std::{collections::BTreeSet, ops::Range};

const MASKS: [u8; 3] = [0x01, 0x80, 0xff];

fn subject(mode: Mode) -> Fixture {
    Fixture::new(mode, &[Algorithm::MlKem768, Algorithm::XWing], 32)
}

#[test]
fn truncation_at_every_length() {
    for mode in [Mode::Split, Mode::Redundant] {
        let f = subject(mode);
        for slot in f.row.slots() {
            let whole = f.row.bytes(slot);
            for n in 0..whole.len() {
                assert_eq!(Container::parse(&whole[..n]), Err(Error::NotAContainer), "{} at {n}", slot.name());
                let row = f.row.but(|r| r.put(slot, whole[..n].to_vec()));
                assert!(matches!(Wrapper::parse(&row.stored()), Err(Error::NotAContainer)), "{} at {n}", slot.name());
            }
        }
    }
}

#[test]
fn extension_by_any_byte() {
    for mode in [Mode::Split, Mode::Redundant] {
        let f = subject(mode);
        for slot in f.row.slots() {
            for byte in 0..=u8::MAX {
                let longer = [f.row.bytes(slot), &[byte]].concat();
                assert_eq!(Container::parse(&longer), Err(Error::NotAContainer), "{} and {byte}", slot.name());
            }
        }
    }
}

/// Opens as an unwrap does: the catalog's key of every slot is compared before any call. Only the slot under test is asked again, unless the
/// edit changed what all slots authenticate.
struct Opener<'a> {
    fixture: &'a Fixture,
    keys: Vec<KeyRef>,
    shares: Vec<Share>,
    epoch_and_context: (u32, [u8; 32]),
}

impl<'a> Opener<'a> {
    fn new(fixture: &'a Fixture) -> Self {
        let slots = fixture.row.slots();
        let keys = slots.iter().map(|s| fixture.row.container(*s).header.key_ref).collect();
        let shares = slots.iter().map(|s| fixture.kms.share(&fixture.row, *s)).collect();
        let header = fixture.row.path(SlotNo::KMS1).header;
        Self { fixture, keys, shares, epoch_and_context: (header.epoch, header.ctx_sha256) }
    }

    /// The results with every KMS up, with kms1 alone and with kms2 alone.
    fn open(&self, row: &Row, edited: SlotNo) -> Result<[Result<Vec<u8>, Unopened>; 3], Error> {
        let wrapper = Wrapper::parse(&row.stored())?;
        if !wrapper.slots().iter().zip(&self.keys).all(|(s, key)| s.header.key_ref.same_key(key)) {
            return Err(Error::DoesNotOpen);
        }
        let ask_all = (wrapper.epoch(), *wrapper.ctx_sha256()) != self.epoch_and_context;
        let asked = |i: usize, slot: SlotNo| {
            if ask_all || slot == edited { self.fixture.kms.ask(&wrapper, slot) } else { Outcome::Share(copy(&self.shares[i])) }
        };
        let all: Vec<Outcome> = row.slots().into_iter().enumerate().map(|(i, slot)| asked(i, slot)).collect();
        Ok([Reach::All, Reach::Kms1, Reach::Kms2].map(|reach| {
            let outcomes: Vec<_> =
                all.iter().enumerate().map(|(i, o)| if unreachable(reach, i) { Outcome::Missing } else { again(o) }).collect();
            wrapper.open(&outcomes).map(|dek| dek.expose().to_vec())
        }))
    }
}

fn unreachable(reach: Reach, index: usize) -> bool {
    matches!((reach, index), (Reach::Kms1, 1) | (Reach::Kms2, 0))
}

fn copy(share: &Share) -> Share {
    Share::copy_from(share.expose()).unwrap()
}

fn again(outcome: &Outcome) -> Outcome {
    match outcome {
        Outcome::Share(share) => Outcome::Share(copy(share)),
        Outcome::Failed => Outcome::Failed,
        Outcome::Missing => Outcome::Missing,
    }
}

/// Flips bits of every byte of a container. Gives the flips that went unnoticed, by which KMS answered.
fn unnoticed(opener: &Opener<'_>, slot: SlotNo) -> [BTreeSet<(usize, u8)>; 3] {
    let f = opener.fixture;
    let mut unnoticed: [BTreeSet<(usize, u8)>; 3] = Default::default();
    for offset in 0..f.row.bytes(slot).len() {
        for mask in MASKS {
            let row = f.row.but(|r| {
                let mut bytes = r.bytes(slot).to_vec();
                bytes[offset] ^= mask;
                r.put(slot, bytes);
            });
            match opener.open(&row, slot) {
                Err(Error::Entropy | Error::Invariant(_) | Error::InvalidPublicKey) => panic!("{} {offset} {mask:#x}", slot.name()),
                Err(_) => {}
                Ok(results) => {
                    for (result, unnoticed) in results.into_iter().zip(&mut unnoticed) {
                        if let Ok(dek) = result {
                            assert_eq!(dek, f.dek, "{} {offset} {mask:#x}: another DEK", slot.name());
                            unnoticed.insert((offset, mask));
                        }
                    }
                }
            }
        }
    }
    unnoticed
}

fn every_flip(place: Range<usize>) -> impl Iterator<Item = (usize, u8)> {
    place.flat_map(|offset| MASKS.map(|mask| (offset, mask)))
}

/// What a KMS slot that is not asked may hold without anybody noticing: what only its own path reads, and in its header what stays well-formed,
/// names the same key and lies below the row's generation.
fn private_to_the_path(bytes: &[u8]) -> BTreeSet<(usize, u8)> {
    let own_share_commit = tlv::path_field(bytes, 0x0b).start + 2;
    let places = [
        tlv::slot_field(bytes, 0x09),
        tlv::path_field(bytes, 0x06),
        own_share_commit..own_share_commit + 32,
        tlv::path_field(bytes, 0x0c),
        tlv::path_field(bytes, 0x0d),
    ];
    let mut flips: BTreeSet<_> = places.into_iter().flat_map(every_flip).collect();
    // The key version "1" stays text under 0x01 only; of generation 7, only that flip makes a smaller number.
    let (key_ref, generation) = (tlv::slot_field(bytes, 0x05), tlv::slot_field(bytes, 0x08));
    assert_eq!((bytes[key_ref.end - 2], bytes[generation.end - 1]), (b'1', u8::try_from(GENERATION).unwrap()));
    flips.extend([(key_ref.end - 2, 0x01), (generation.end - 1, 0x01)]);
    flips
}

fn corrupt_every_byte(mode: Mode, slots: &[SlotNo]) {
    let f = subject(mode);
    let opener = Opener::new(&f);
    for slot in slots {
        let [all, kms1, kms2] = unnoticed(&opener, *slot);
        let may = |when: bool| if when { private_to_the_path(f.row.bytes(*slot)) } else { BTreeSet::new() };
        let redundant = mode == Mode::Redundant;
        assert_eq!(all, BTreeSet::new(), "{} {}", f.name, slot.name());
        assert_eq!(kms1, may(redundant && *slot == SlotNo::KMS2), "{} {}, kms2 not asked", f.name, slot.name());
        assert_eq!(kms2, may(redundant && *slot == SlotNo::KMS1), "{} {}, kms1 not asked", f.name, slot.name());
    }
}

#[test]
fn every_byte_of_the_kms_slots_of_split() {
    corrupt_every_byte(Mode::Split, &[SlotNo::KMS1, SlotNo::KMS2]);
}

#[test]
fn every_byte_of_the_kms_slots_of_redundant() {
    corrupt_every_byte(Mode::Redundant, &[SlotNo::KMS1, SlotNo::KMS2]);
}

#[test]
fn every_byte_of_the_ml_kem_layer() {
    for mode in [Mode::Split, Mode::Redundant] {
        corrupt_every_byte(mode, &[SlotNo::layer(1).unwrap()]);
    }
}

#[test]
fn every_byte_of_the_x_wing_layer() {
    for mode in [Mode::Split, Mode::Redundant] {
        corrupt_every_byte(mode, &[SlotNo::layer(2).unwrap()]);
    }
}

type Flip = fn(&mut Row, usize, u8);

#[test]
fn every_byte_of_the_columns() {
    for mode in [Mode::Split, Mode::Redundant] {
        let f = subject(mode);
        let flips: [(&str, usize, Flip); 5] = [
            ("uuid", 16, |r, i, mask| r.uuid[i] ^= mask),
            ("policy_uuid", 16, |r, i, mask| r.policy_uuid[i] ^= mask),
            ("dek_fingerprint", 16, |r, i, mask| r.dek_fingerprint[i] ^= mask),
            ("epoch", 4, |r, i, mask| r.epoch ^= u32::from(mask) << (8 * i)),
            ("generation", 8, |r, i, mask| r.generation ^= u64::from(mask) << (8 * i)),
        ];
        for (column, len, flip) in flips {
            for (i, mask) in every_flip(0..len) {
                let refused = f.kms.open(&f.row.but(|r| flip(r, i, mask)), Reach::All);
                assert!(refused.as_ref().is_err_and(|e| Refused::does_not_open(*e)), "{column} {i} {mask:#x}: {refused:?}");
            }
        }
    }
}

#[test]
fn layer_blob_of_a_wrong_length_is_not_taken_apart() {
    let f = subject(Mode::Split);
    for slot in f.row.layer_slots() {
        let Container { header, blob, .. } = f.row.container(slot);
        let ciphertext = kem::sizes(header.algorithm).unwrap().ciphertext;
        let (head, tail) = slot::split_layer_blob(header.algorithm, &blob).unwrap();
        assert_eq!((head.len(), tail.len()), (ciphertext, 48));
        for n in [0, ciphertext, ciphertext + 47] {
            assert_eq!(slot::split_layer_blob(header.algorithm, &blob[..n]), None);
        }
        assert_eq!(slot::split_layer_blob(header.algorithm, &[blob.as_slice(), &[0]].concat()), None);
        assert_eq!(slot::split_layer_blob(Algorithm::Xaes256Gcm, &blob), None);
    }
}
