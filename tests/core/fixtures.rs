//! Wrappers of every shape that matters, made once: split and redundant, with 0, 1, 3 and 32 layers, each KEM alone and together.

use super::{
    entropy::Stream,
    kms::{Kms, Reach, Refused},
    row::Row,
};
use kms_wrap::core::{
    context::Context,
    draft::{Draft, Spec},
    kdf,
    path::Mode,
    secret::Dek,
    slot::{SlotNo, SlotSpec},
    suite::Algorithm,
    wrapper::Unopened,
};
use serde_json::json;
use std::sync::LazyLock;
use zeroize::Zeroizing;

pub const GENERATION: u64 = 7;
pub const KEMS: [Algorithm; 3] = [Algorithm::MlKem768, Algorithm::MlKem1024, Algorithm::XWing];
pub const POLICY: [u8; 16] = *b"policy..policy..";

/// A wrapper with all its keys, and a twin: another DEK of the same policy, context and keys.
pub struct Fixture {
    pub name: String,
    pub mode: Mode,
    pub kms: Kms,
    pub row: Row,
    pub twin: Row,
    pub dek: Vec<u8>,
}

pub fn context() -> [u8; 32] {
    Context::from_json(&json!({"tenant": "acme", "purpose": "test"})).unwrap().sha256()
}

/// Makes a wrapper as an application would, honest keys answering.
pub fn wrap(kms: &Kms, mode: Mode, slots: &[SlotSpec], dek: &[u8], ctx_sha256: [u8; 32], entropy: &mut Stream) -> Row {
    let (uuid, generation, policy_uuid) = (entropy.array(), GENERATION, POLICY);
    let spec = Spec { uuid, mode, policy_uuid, ctx_sha256, generation, slots: slots.to_vec() };
    let draft = Draft::new(spec, Dek::from_bytes(Zeroizing::new(dek.to_vec())).unwrap(), entropy).unwrap();
    let blobs = draft.kms_slots().zip(slots).map(|((share, aad), slot)| {
        let mut nonce = Stream::new(&format!("nonce {}", hex::encode(kdf::sha256(&[aad]))));
        kms.wrap(&slot.key_ref, slot.algorithm, aad, share, &mut nonce)
    });
    let blobs: [Vec<u8>; 2] = blobs.collect::<Vec<_>>().try_into().unwrap();
    Row::new(uuid, policy_uuid, generation, draft.finish(blobs, entropy).unwrap())
}

impl Fixture {
    pub fn new(mode: Mode, layers: &[Algorithm], dek_len: usize) -> Self {
        let name = format!("{} {layers:?} {dek_len}", mode.name());
        let mut entropy = Stream::new(&name);
        let mut kms = Kms::default();
        let mut slots = Vec::new();
        for (slot, algorithm) in slot_algorithms(layers) {
            let key_ref = kms.create(&slot.name(), algorithm);
            slots.push(kms.spec(slot, algorithm, key_ref));
        }
        let dek = entropy.bytes(dek_len);
        let row = wrap(&kms, mode, &slots, &dek, context(), &mut entropy);
        let twin = wrap(&kms, mode, &slots, &entropy.bytes(dek_len), context(), &mut entropy);
        Self { name, mode, kms, row, twin, dek }
    }

    /// The attack must end in the one error whichever KMS answers, as long as a path could open at all.
    #[track_caller]
    pub fn refuse(&self, attack: &str, row: &Row) {
        self.refuse_all_up(attack, row);
        if self.mode == Mode::Redundant {
            for reach in [Reach::Kms1, Reach::Kms2] {
                self.kms.refuse(&format!("{}: {attack}", self.name), row, reach);
            }
        }
    }

    /// Likewise, when both KMS answer.
    #[track_caller]
    pub fn refuse_all_up(&self, attack: &str, row: &Row) {
        self.kms.refuse(&format!("{}: {attack}", self.name), row, Reach::All);
    }
}

/// kms1, kms2 and the layers.
pub fn slot_algorithms(layers: &[Algorithm]) -> Vec<(SlotNo, Algorithm)> {
    let kms = [SlotNo::KMS1, SlotNo::KMS2].map(|slot| (slot, Algorithm::Xaes256Gcm));
    kms.into_iter().chain((1..=32).filter_map(SlotNo::layer).zip(layers.iter().copied())).collect()
}

/// All shapes.
pub fn all() -> &'static [Fixture] {
    static ALL: LazyLock<Vec<Fixture>> = LazyLock::new(|| {
        let many: Vec<_> = KEMS.into_iter().cycle().take(32).collect();
        let shapes: [&[Algorithm]; 6] = [&[], &KEMS[..1], &KEMS[1..2], &KEMS[2..], &KEMS, &many];
        let modes = [Mode::Split, Mode::Redundant];
        modes.into_iter().flat_map(|mode| shapes.map(|layers| Fixture::new(mode, layers, 32))).collect()
    });
    &ALL
}

pub fn of_mode(mode: Mode) -> impl Iterator<Item = &'static Fixture> {
    all().iter().filter(move |f| f.mode == mode)
}

#[test]
fn honest_wrappers_open_on_every_path() {
    for f in all() {
        assert_eq!(f.kms.open(&f.row, Reach::All).as_ref(), Ok(&f.dek), "{}", f.name);
        assert!(f.kms.open(&f.twin, Reach::All).is_ok_and(|dek| dek != f.dek), "{}", f.name);
        for reach in [Reach::Kms1, Reach::Kms2] {
            let expected = match f.mode {
                Mode::Redundant => Ok(f.dek.clone()),
                Mode::Split => Err(Refused::Open(Unopened::Incomplete)),
            };
            assert_eq!(f.kms.open(&f.row, reach), expected, "{} {reach:?}", f.name);
        }
    }
}

#[test]
fn order_of_layer_rows_does_not_matter() {
    for f in all() {
        let reversed = f.row.but(|r| r.layers.reverse());
        assert_eq!(f.kms.open(&reversed, Reach::All).as_ref(), Ok(&f.dek), "{}", f.name);
    }
}
