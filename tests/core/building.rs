//! What the making of a wrapper refuses.

use super::{
    entropy::{Scripted, Stream},
    kms::{Kms, key_ref},
};
use kms_wrap::core::{
    draft::{Draft, Spec},
    error::Error,
    path::Mode,
    secret::Dek,
    slot::{SlotNo, SlotSpec},
    suite::Algorithm,
};

fn spec(mode: Mode, slots: Vec<SlotSpec>) -> Spec {
    Spec { uuid: [1; 16], mode, policy_uuid: [2; 16], ctx_sha256: [3; 32], generation: 1, slots }
}

fn kms_spec(slot: SlotNo) -> SlotSpec {
    SlotSpec { slot, algorithm: Algorithm::Xaes256Gcm, key_ref: key_ref("kms"), public_key: None }
}

fn draft(slots: Vec<SlotSpec>) -> Result<Draft, Error> {
    let mut entropy = Stream::new("draft");
    Draft::new(spec(Mode::Split, slots), Dek::generate(&mut entropy).unwrap(), &mut entropy)
}

fn layer_spec() -> SlotSpec {
    let mut kms = Kms::default();
    let key = kms.create("layer1", Algorithm::MlKem768);
    kms.spec(SlotNo::layer(1).unwrap(), Algorithm::MlKem768, key)
}

#[test]
fn slots_out_of_place_make_no_wrapper() {
    let (kms1, kms2, layer) = (kms_spec(SlotNo::KMS1), kms_spec(SlotNo::KMS2), layer_spec());
    assert!(draft(vec![kms1.clone(), kms2.clone(), layer.clone()]).is_ok());
    for slots in [
        vec![],
        vec![kms1.clone()],
        vec![kms2.clone(), kms1.clone()],
        vec![kms1.clone(), layer.clone()],
        vec![kms1.clone(), kms2.clone(), layer.clone(), layer.clone()],
        vec![layer.clone(), kms1.clone(), kms2.clone()],
        vec![kms1.clone(), kms1.clone(), kms2.clone()],
    ] {
        assert!(matches!(draft(slots), Err(Error::Invariant(_))));
    }
}

#[test]
fn algorithm_that_does_not_fit_its_slot_makes_no_wrapper() {
    let (kms1, kms2, layer) = (kms_spec(SlotNo::KMS1), kms_spec(SlotNo::KMS2), layer_spec());
    let without_key = SlotSpec { public_key: None, ..layer.clone() };
    let symmetric_layer = SlotSpec { algorithm: Algorithm::Xaes256Gcm, public_key: None, ..layer.clone() };
    let kem_as_kms = SlotSpec { slot: SlotNo::KMS2, ..layer.clone() };
    let kms_with_key = SlotSpec { public_key: layer.public_key.clone(), ..kms2.clone() };
    let mut nul = kms2.clone();
    nul.key_ref.location.push('\0');
    for slots in [
        vec![kms1.clone(), kms2.clone(), without_key],
        vec![kms1.clone(), kms2, symmetric_layer],
        vec![kms1.clone(), kem_as_kms],
        vec![kms1.clone(), kms_with_key],
        vec![kms1, nul],
    ] {
        assert!(matches!(draft(slots), Err(Error::Invariant(_))));
    }
}

#[test]
fn invalid_encapsulation_key_makes_no_wrapper() {
    let layer = layer_spec();
    let mut past_the_modulus = layer.public_key.clone().unwrap();
    past_the_modulus[..3].fill(0xff);
    for ek in [vec![], layer.public_key.clone().unwrap()[1..].to_vec(), past_the_modulus] {
        let bad = SlotSpec { public_key: Some(ek), ..layer.clone() };
        let draft = draft(vec![kms_spec(SlotNo::KMS1), kms_spec(SlotNo::KMS2), bad]).unwrap();
        assert!(matches!(draft.finish([vec![1], vec![2]], &mut Stream::new("finish")), Err(Error::InvalidPublicKey)));
    }
}

/// Wherever the source fails, nothing is made of the bytes it did give.
#[test]
fn failing_randomness_makes_no_wrapper() {
    let slots = || vec![kms_spec(SlotNo::KMS1), kms_spec(SlotNo::KMS2), layer_spec()];
    // Shares of three slots; opening, two salts, 64 bytes of one encapsulation.
    let needed = 3 * 32 + 32 + 2 * 32 + 64;
    let script = Stream::new("script").bytes(needed);
    for n in (0..=needed).step_by(16) {
        let entropy = &mut Scripted(&script[..n]);
        let dek = Dek::generate(&mut Stream::new("dek")).unwrap();
        let made = Draft::new(spec(Mode::Redundant, slots()), dek, entropy).and_then(|d| d.finish([vec![1], vec![2]], entropy));
        assert_eq!(made.map(|_| ()), if n == needed { Ok(()) } else { Err(Error::Entropy) }, "{n} bytes");
    }
    assert!(matches!(Dek::generate(&mut Scripted(&[0; 31])), Err(Error::Entropy)));
}
