//! Attacks around a rewrap: a wrong share, a stale blob or container, a slot that changes its class.

use super::{
    entropy::Stream,
    fixtures::{self, Fixture},
    kms::{Kms, Reach, key_ref},
    row::Row,
};
use kms_wrap::core::{
    error::Error,
    path::Mode,
    secret::Share,
    slot::{KeyRef, SlotNo},
    suite::Algorithm,
    wrapper::{Outcome, Wrapper},
};

/// Rewraps a slot to the key of that name with whatever share the worker was given. New generation: the row's and one.
pub fn rewrap(kms: &Kms, row: &Row, slot: SlotNo, to: &str, share: &Share) -> Row {
    rewrap_to(kms, row, slot, &key_ref(to), share)
}

/// Likewise, the key by all its names.
pub fn rewrap_to(kms: &Kms, row: &Row, slot: SlotNo, to: &KeyRef, share: &Share) -> Row {
    let generation = row.generation + 1;
    let mut entropy = Stream::new(&format!("rewrap {} {}", slot.name(), to.external_key_ref));
    let wrapper = Wrapper::parse(&row.stored()).unwrap();
    let algorithm = row.container(slot).header.algorithm;
    let rewrap = wrapper.rewrap(kms.spec(slot, algorithm, to.clone()), generation).unwrap();
    let blob = match slot.layer_no() {
        Some(_) => rewrap.seal_layer(share, &mut entropy).unwrap(),
        None => kms.wrap(to, algorithm, rewrap.aad(), share, &mut entropy),
    };
    let container = rewrap.finish(blob).unwrap();
    row.but(|r| {
        r.put(slot, container);
        r.generation = generation;
    })
}

/// A fixture of its own with one more key for each slot.
fn with_spare_keys(f: &Fixture) -> Fixture {
    let layers: Vec<_> = f.row.layer_slots().iter().map(|s| f.row.container(*s).header.algorithm).collect();
    let mut own = Fixture::new(f.mode, &layers, 32);
    for slot in own.row.some_slots() {
        own.kms.create(&format!("new {}", slot.name()), own.row.container(slot).header.algorithm);
    }
    own
}

fn fixtures() -> Vec<Fixture> {
    fixtures::all().iter().map(with_spare_keys).collect()
}

fn new_key(slot: SlotNo) -> String {
    format!("new {}", slot.name())
}

#[test]
fn honest_rewrap_of_each_slot_opens() {
    for f in fixtures() {
        let mut row = f.row.clone();
        for slot in f.row.some_slots() {
            let share = f.kms.share(&row, slot);
            row = rewrap(&f.kms, &row, slot, &new_key(slot), &share);
            assert_eq!(f.kms.open(&row, Reach::All).as_ref(), Ok(&f.dek), "{}", f.name);
        }
    }
}

/// What the worker checks instead of reading everything again.
#[test]
fn rewritten_is_what_would_be_read_and_takes_no_other_bytes() {
    for f in fixtures() {
        for slot in f.row.some_slots() {
            let parsed = || Wrapper::parse(&f.row.stored()).unwrap();
            let new = rewrap(&f.kms, &f.row, slot, &new_key(slot), &f.kms.share(&f.row, slot));
            let generation = new.generation;
            let put = |slot, bytes: Vec<u8>, generation| parsed().rewritten([(slot, bytes.as_slice())].into_iter(), generation);
            let rewritten = put(slot, new.container(slot).encode().unwrap(), generation).unwrap();
            assert_eq!(rewritten.slots(), Wrapper::parse(&new.stored()).unwrap().slots(), "{}", f.name);
            let refused = |slot, bytes, generation| assert!(put(slot, bytes, generation).is_err(), "{}: {}", f.name, new_key(slot));
            refused(slot, new.container(slot).encode().unwrap(), generation + 1);
            refused(slot, f.row.container(slot).encode().unwrap(), generation);
            refused(slot, Vec::new(), generation);
            let other = f.row.some_slots().into_iter().find(|o| *o != slot).unwrap();
            refused(other, new.container(slot).encode().unwrap(), generation);
            if f.row.container(slot).path.is_some() {
                let twin = rewrap(&f.kms, &f.twin, slot, &new_key(slot), &f.kms.share(&f.twin, slot));
                refused(slot, twin.container(slot).encode().unwrap(), twin.generation);
            }
        }
    }
}

#[test]
fn rewrap_of_a_wrong_share() {
    for f in fixtures() {
        let slots = f.row.some_slots();
        for (slot, other) in slots.iter().zip(slots.iter().cycle().skip(1)) {
            for share in [f.kms.share(&f.row, *other), f.kms.share(&f.twin, *slot), Share::zero()] {
                let row = rewrap(&f.kms, &f.row, *slot, &new_key(*slot), &share);
                let wrapper = Wrapper::parse(&row.stored()).unwrap();
                // What the worker checks before it writes; and if it did not, the wrapper still gives no other DEK.
                assert!(!wrapper.share_is_committed(*slot, &share), "{}", f.name);
                assert!(matches!(f.kms.ask(&wrapper, *slot), Outcome::Share(_)), "{}", f.name);
                f.refuse_all_up("wrong share", &row);
            }
        }
    }
}

#[test]
fn committed_share_is_known_in_its_own_slot_only() {
    for f in fixtures() {
        let wrapper = Wrapper::parse(&f.row.stored()).unwrap();
        let slots = f.row.some_slots();
        for slot in &slots {
            let share = f.kms.share(&f.row, *slot);
            for other in &slots {
                assert_eq!(wrapper.share_is_committed(*other, &share), slot == other, "{}", f.name);
            }
        }
        if f.row.layers.len() < 32 {
            assert!(!wrapper.share_is_committed(SlotNo::layer(32).unwrap(), &Share::zero()), "{}: no such slot", f.name);
        }
    }
}

#[test]
fn old_blob_without_its_header() {
    for f in fixtures() {
        for slot in f.row.some_slots() {
            let new = rewrap(&f.kms, &f.row, slot, &new_key(slot), &f.kms.share(&f.row, slot));
            let old = f.row.container(slot);
            let refuse = |what, row: &Row| if slot.layer_no().is_some() { f.refuse(what, row) } else { f.refuse_all_up(what, row) };
            refuse("blob", &new.but(|r| r.edit(slot, |c| c.blob.clone_from(&old.blob))));
            let with_key = new.but(|r| {
                r.edit(slot, |c| {
                    c.blob.clone_from(&old.blob);
                    c.header.key_ref = old.header.key_ref.clone();
                    c.header.ek_sha256 = old.header.ek_sha256;
                });
            });
            refuse("blob and its key, under the new generation", &with_key);
            let with_generation = new.but(|r| {
                r.edit(slot, |c| {
                    c.blob.clone_from(&old.blob);
                    c.header.generation = old.header.generation;
                });
                r.generation = old.header.generation;
            });
            refuse("blob and its generation, under the new key", &with_generation);
        }
    }
}

#[test]
fn new_header_around_a_blob_of_the_same_key() {
    for f in fixtures() {
        for slot in f.row.some_slots() {
            let again = rewrap(&f.kms, &f.row, slot, &slot.name(), &f.kms.share(&f.row, slot));
            assert_eq!(f.kms.open(&again, Reach::All).as_ref(), Ok(&f.dek), "{}: rewrapped to the key it had", f.name);
            let stale = again.but(|r| r.edit(slot, |c| c.blob = f.row.container(slot).blob));
            f.refuse_all_up("the older blob of one key", &stale);
        }
    }
}

#[test]
fn old_container_under_the_new_generation() {
    for f in fixtures() {
        for slot in f.row.some_slots() {
            let new = rewrap(&f.kms, &f.row, slot, &new_key(slot), &f.kms.share(&f.row, slot));
            f.refuse("container", &new.but(|r| r.put(slot, f.row.bytes(slot).to_vec())));
        }
    }
}

#[test]
fn rewrapped_slot_of_another_wrapper() {
    for f in fixtures() {
        for slot in f.row.some_slots() {
            let theirs = rewrap(&f.kms, &f.twin, slot, &new_key(slot), &f.kms.share(&f.twin, slot));
            let row = f.row.but(|r| {
                r.put(slot, theirs.bytes(slot).to_vec());
                r.generation = theirs.generation;
            });
            f.refuse_all_up("container of another wrapper's rewrap", &row);
        }
    }
}

/// The limit that the design names: bytes that were a whole wrapper once are one again while their keys live.
#[test]
fn a_whole_old_row_opens_while_its_keys_live() {
    for f in fixtures() {
        let new = rewrap(&f.kms, &f.row, SlotNo::KMS1, "new kms1", &f.kms.share(&f.row, SlotNo::KMS1));
        assert_eq!(f.kms.open(&new, Reach::All).as_ref(), Ok(&f.dek));
        assert_eq!(f.kms.open(&f.row, Reach::All).as_ref(), Ok(&f.dek));
    }
}

/// The same limit for one slot: a newer write of another slot carries the generation, so the older container fits below it.
#[test]
fn an_old_slot_with_its_header_opens_below_a_newer_write_of_another_slot() {
    for f in fixtures() {
        let first = rewrap(&f.kms, &f.row, SlotNo::KMS1, "new kms1", &f.kms.share(&f.row, SlotNo::KMS1));
        let second = rewrap(&f.kms, &first, SlotNo::KMS2, "new kms2", &f.kms.share(&first, SlotNo::KMS2));
        let mixed = second.but(|r| r.put(SlotNo::KMS1, f.row.dek_wrap1.clone()));
        assert_eq!(f.kms.open(&mixed, Reach::All).as_ref(), Ok(&f.dek), "{}", f.name);
    }
}

#[test]
fn rewrap_to_another_class() {
    for f in fixtures() {
        let wrapper = Wrapper::parse(&f.row.stored()).unwrap();
        for slot in f.row.some_slots() {
            let own = f.row.container(slot).header.algorithm;
            for other in Algorithm::ALL {
                let mut kms = Kms::default();
                let key = kms.create("other", other);
                let rewrap = wrapper.rewrap(kms.spec(slot, other, key), 8);
                assert_eq!(rewrap.is_ok(), own.class() == other.class(), "{} {} {other:?}", f.name, slot.name());
            }
        }
    }
}

/// ML-KEM-768 to ML-KEM-1024 is a rewrap: one class.
#[test]
fn rewrap_to_a_stronger_algorithm_of_the_class() {
    let mut f = Fixture::new(Mode::Split, &[Algorithm::MlKem768], 32);
    let slot = SlotNo::layer(1).unwrap();
    let key = f.kms.create("stronger", Algorithm::MlKem1024);
    let wrapper = Wrapper::parse(&f.row.stored()).unwrap();
    let rewrap = wrapper.rewrap(f.kms.spec(slot, Algorithm::MlKem1024, key), 8).unwrap();
    let blob = rewrap.seal_layer(&f.kms.share(&f.row, slot), &mut Stream::new("stronger")).unwrap();
    let container = rewrap.finish(blob).unwrap();
    let row = f.row.but(|r| {
        r.put(slot, container);
        r.generation = 8;
    });
    assert_eq!(f.kms.open(&row, Reach::All).as_ref(), Ok(&f.dek));
}

#[test]
fn rewrap_of_what_is_not_there() {
    for f in fixtures().iter().filter(|f| f.row.layers.is_empty()) {
        let wrapper = Wrapper::parse(&f.row.stored()).unwrap();
        let mut kms = Kms::default();
        let key = kms.create("layer1", Algorithm::MlKem768);
        let layer = SlotNo::layer(1).unwrap();
        assert!(matches!(wrapper.rewrap(kms.spec(layer, Algorithm::MlKem768, key.clone()), 8), Err(Error::Invariant(_))));
        let mut without_key = kms.spec(layer, Algorithm::MlKem768, key);
        without_key.public_key = None;
        assert!(matches!(wrapper.rewrap(without_key, 8), Err(Error::Invariant(_))));
        let rewrap = wrapper.rewrap(f.kms.spec(SlotNo::KMS1, Algorithm::Xaes256Gcm, key_ref("kms1")), 8).unwrap();
        assert!(matches!(rewrap.seal_layer(&Share::zero(), &mut Stream::new("")), Err(Error::Invariant(_))), "a KMS slot is no layer");
    }
}
