//! Attacks with whole parts: layers stripped, added, reordered and renumbered, KMS slots swapped, parts of another wrapper.
//!
//! The thief may write every byte that the catalog holds, of every row, consistently; he holds no key of the policy.

use super::{
    entropy::Stream,
    fixtures::{self, Fixture},
    kms::{Kms, Reach, Refused},
    row::Row,
    tlv,
};
use kms_wrap::core::{
    error::Error,
    kdf,
    path::{Mode, SlotEntry},
    secret::Share,
    slot::{self, Binding, Container, SlotHeader, SlotNo},
    suite::Algorithm,
    wrapper::{Outcome, Unopened, Wrapper},
};

fn layered() -> impl Iterator<Item = &'static Fixture> {
    fixtures::all().iter().filter(|f| !f.row.layers.is_empty())
}

fn several_layers() -> impl Iterator<Item = &'static Fixture> {
    fixtures::all().iter().filter(|f| f.row.layers.len() > 1)
}

fn binding(row: &Row) -> Binding {
    Binding { uuid: row.uuid, epoch: row.epoch, ctx_sha256: row.path(SlotNo::KMS1).header.ctx_sha256 }
}

/// A share of the thief's own, in a layer that he seals to a public key. Anyone can do that.
fn seal_own_layer(row: &Row, kms: &Kms, slot: SlotNo, key_name: &str, algorithm: Algorithm) -> (Container, SlotEntry) {
    let mut entropy = Stream::new("thief");
    let key_ref = super::kms::key_ref(key_name);
    let ek = kms.encapsulation_key(&key_ref).unwrap();
    let header = SlotHeader { slot, algorithm, key_ref, ek_sha256: Some(kdf::sha256(&[&ek])), generation: row.generation };
    let share = Share::random(&mut entropy).unwrap();
    let aad = binding(row).slot_aad(&header).unwrap();
    let blob = slot::seal_layer(algorithm, &ek, &aad, &share, &mut entropy).unwrap();
    let entry = SlotEntry { slot, class: algorithm.class().code(), share_commit: binding(row).share_commit(slot, &share) };
    (Container { header, blob, path: None }, entry)
}

#[test]
fn stripped_layer() {
    for f in layered() {
        for slot in f.row.some_slots().into_iter().filter(|s| s.layer_no().is_some()) {
            let gone = f.row.but(|r| r.layers.retain(|(n, _)| Some(*n) != slot.layer_no()));
            f.refuse("row of a layer deleted", &gone);
            let unlisted = gone.but(|r| r.edit_paths(|p| p.header.slots.retain(|e| e.slot != slot)));
            f.refuse("deleted from the header as well", &unlisted);
        }
        let bare = f.row.but(|r| {
            r.layers.clear();
            r.edit_paths(|p| p.header.slots.retain(|e| e.slot.layer_no().is_none()));
        });
        f.refuse("all layers deleted", &bare);
    }
}

#[test]
fn added_layer() {
    for f in fixtures::all().iter().filter(|f| f.row.layers.len() < 32) {
        let slot = SlotNo::layer(u8::try_from(f.row.layers.len()).unwrap() + 1).unwrap();
        let own = Fixture::new(f.mode, &[fixtures::KEMS[0]], 32);
        let (container, entry) = seal_own_layer(&f.row, &own.kms, slot, "layer1", fixtures::KEMS[0]);
        let added = f.row.but(|r| r.layers.push((slot.layer_no().unwrap(), container.encode().unwrap())));
        f.refuse("a layer more than the header lists", &added);
        f.refuse("a layer more, listed", &added.but(|r| r.edit_paths(|p| p.header.slots.push(entry))));
    }
}

#[test]
fn doubled_layer() {
    for f in layered() {
        f.refuse("the same layer twice", &f.row.but(|r| r.layers.push(r.layers[0].clone())));
    }
}

#[test]
fn layer_number_outside_1_to_32() {
    for f in layered() {
        for n in [0, 33, 200, 255] {
            f.refuse("layer number column", &f.row.but(|r| r.layers[0].0 = n));
        }
    }
}

#[test]
fn reordered_layers() {
    for f in several_layers() {
        let (a, b) = (SlotNo::layer(1).unwrap(), SlotNo::layer(2).unwrap());
        let swapped = f.row.but(|r| {
            let first = r.bytes(a).to_vec();
            r.put(a, r.bytes(b).to_vec());
            r.put(b, first);
        });
        f.refuse("two layers swapped", &swapped);
        let renumbered = swapped.but(|r| {
            r.edit(a, |c| c.header.slot = a);
            r.edit(b, |c| c.header.slot = b);
        });
        f.refuse("their headers renumbered", &renumbered);
        let listed = renumbered.but(|r| {
            r.edit_paths(|p| {
                let at = p.header.slots.iter().position(|e| e.slot == a).unwrap();
                p.header.slots.swap(at, at + 1);
                (p.header.slots[at].slot, p.header.slots[at + 1].slot) = (a, b);
            });
        });
        f.refuse("their entries swapped", &listed);
        let mut descending = f.row.clone();
        let mut kms1 = descending.container(SlotNo::KMS1);
        kms1.path.as_mut().unwrap().header.slots.reverse();
        descending.put(SlotNo::KMS1, kms1.encode().unwrap());
        assert_eq!(f.kms.open(&descending, Reach::All), Err(Refused::Parse(Error::NotAContainer)), "entries that descend are no list");
    }
}

#[test]
fn renumbered_layer() {
    for f in layered().filter(|f| f.row.layers.len() < 32) {
        let last = *f.row.layer_slots().last().unwrap();
        let free = SlotNo::layer(32).unwrap();
        let column = f.row.but(|r| r.layers.last_mut().unwrap().0 = 32);
        f.refuse("column", &column);
        let header = column.but(|r| r.edit(free, |c| c.header.slot = free));
        f.refuse("column and slot", &header);
        let listed = header.but(|r| r.edit_paths(|p| p.header.slots.iter_mut().filter(|e| e.slot == last).for_each(|e| e.slot = free)));
        f.refuse("column, slot and entries", &listed);
    }
}

/// Anyone can seal to a public key, so a layer's share can be replaced; not without its sealed counterpart.
#[test]
fn layer_share_of_the_thief() {
    for f in layered() {
        let slot = f.row.layer_slots()[0];
        let algorithm = f.row.container(slot).header.algorithm;
        let (container, entry) = seal_own_layer(&f.row, &f.kms, slot, &slot.name(), algorithm);
        let replaced = f.row.but(|r| r.put(slot, container.encode().unwrap()));
        let wrapper = Wrapper::parse(&replaced.stored()).unwrap();
        assert!(matches!(f.kms.ask(&wrapper, slot), Outcome::Share(share) if !wrapper.share_is_committed(slot, &share)));
        f.refuse("share replaced", &replaced);
        let committed = replaced.but(|r| {
            r.edit_paths(|p| p.header.slots.iter_mut().filter(|e| e.slot == slot).for_each(|e| *e = entry));
        });
        f.refuse("share and its commitment replaced", &committed);
    }
}

#[test]
fn swapped_kms_slots() {
    for f in fixtures::all() {
        let (kms1, kms2) = (f.row.container(SlotNo::KMS1), f.row.container(SlotNo::KMS2));
        f.refuse("containers", &f.row.but(|r| std::mem::swap(&mut r.dek_wrap1, &mut r.dek_wrap2)));
        let blobs = f.row.but(|r| {
            r.edit(SlotNo::KMS1, |c| c.blob.clone_from(&kms2.blob));
            r.edit(SlotNo::KMS2, |c| c.blob.clone_from(&kms1.blob));
        });
        f.refuse("blobs", &blobs);
        // Each blob goes to the key that made it; the slot number in its AAD tells.
        let keys = blobs.but(|r| {
            r.edit(SlotNo::KMS1, |c| c.header.key_ref = kms2.header.key_ref.clone());
            r.edit(SlotNo::KMS2, |c| c.header.key_ref = kms1.header.key_ref.clone());
        });
        f.refuse("blobs and keys", &keys);
    }
}

#[test]
fn share_of_another_slot() {
    for f in fixtures::all() {
        let wrapper = Wrapper::parse(&f.row.stored()).unwrap();
        let last = *f.row.slots().last().unwrap();
        for (victim, donor) in [(0, last), (f.row.slots().len() - 1, SlotNo::KMS1)] {
            let mut outcomes = f.kms.ask_all(&wrapper, Reach::All);
            outcomes[victim] = Outcome::Share(f.kms.share(&f.row, donor));
            assert!(matches!(wrapper.open(&outcomes), Err(Unopened::DoesNotOpen)), "{}", f.name);
        }
    }
}

#[test]
fn parts_of_another_wrapper() {
    for f in fixtures::all() {
        for slot in f.row.some_slots() {
            let container = f.row.but(|r| r.put(slot, f.twin.bytes(slot).to_vec()));
            let blob = f.row.but(|r| r.edit(slot, |c| c.blob = f.twin.container(slot).blob));
            if slot.layer_no().is_some() {
                f.refuse("layer", &container);
                f.refuse("blob of a layer", &blob);
            } else {
                f.refuse_all_up("container of a KMS slot", &container);
                f.refuse_all_up("blob of a KMS slot", &blob);
            }
        }
        for leader in f.row.leaders() {
            let theirs = f.twin.path(leader);
            f.refuse_all_up("path", &f.row.but(|r| r.edit_path(leader, |p| p.clone_from(&theirs))));
            f.refuse_all_up("path's header", &f.row.but(|r| r.edit_path(leader, |p| p.header.clone_from(&theirs.header))));
            f.refuse_all_up("seal", &f.row.but(|r| r.edit_path(leader, |p| p.seal.clone_from(&theirs.seal))));
            let seal_and_commit = f.row.but(|r| {
                r.edit_path(leader, |p| {
                    p.seal.clone_from(&theirs.seal);
                    p.commit = theirs.commit;
                    p.header.salt = theirs.header.salt;
                });
            });
            f.refuse_all_up("seal, commitment and salt", &seal_and_commit);
        }
        let all_paths = f.row.but(|r| {
            for leader in r.leaders() {
                r.edit_path(leader, |p| *p = f.twin.path(leader));
            }
            r.dek_fingerprint.clone_from(&f.twin.dek_fingerprint);
        });
        f.refuse("all paths and the fingerprint", &all_paths);
        f.refuse("everything but the uuid", &Row { uuid: f.row.uuid, ..f.twin.clone() });
        f.refuse("everything but the policy", &Row { policy_uuid: [0; 16], ..f.twin.clone() });
    }
}

/// A container is no place for bytes behind its fields, wherever they come from.
#[test]
fn path_in_a_slot_that_leads_none() {
    for f in fixtures::of_mode(Mode::Split) {
        let led = f.row.but(|r| r.edit(SlotNo::KMS2, |c| c.path = Some(f.row.path(SlotNo::KMS1))));
        f.refuse("split with a second path", &led);
        let moved = led.but(|r| r.edit(SlotNo::KMS1, |c| c.path = None));
        f.refuse("path moved to kms2", &moved);
    }
    for f in layered() {
        let slot = f.row.layer_slots()[0];
        let led = f.row.but(|r| r.edit(slot, |c| c.path = Some(f.row.path(SlotNo::KMS1))));
        assert_eq!(tlv::slot_field(led.bytes(slot), tlv::PATH_DATA).end, led.bytes(slot).len());
        assert_eq!(f.kms.open(&led, Reach::All), Err(Refused::Parse(Error::NotAContainer)));
    }
}
