//! Attacks on single fields: downgrades, edited references, edited commitments. Each edit is made in every place that must agree.

use super::{
    fixtures::{self, Fixture},
    kms::{Kms, Reach, Refused},
    row::Row,
    tlv,
};
use kms_wrap::core::{
    context::Context,
    error::Error,
    kdf,
    slot::{KeyRef, SlotNo},
    suite::{Algorithm, Class},
};

fn refused_at_parsing(f: &Fixture, row: &Row, error: Error) {
    assert_eq!(f.kms.open(row, Reach::All), Err(Refused::Parse(error)), "{}", f.name);
}

/// Overwrites a value in place.
fn patch(row: &mut Row, slot: SlotNo, place: std::ops::Range<usize>, value: &[u8]) {
    let mut bytes = row.bytes(slot).to_vec();
    bytes[place].copy_from_slice(value);
    row.put(slot, bytes);
}

#[test]
fn unknown_format() {
    for f in fixtures::all() {
        for slot in f.row.some_slots() {
            for format in [0, 2, 0xff] {
                refused_at_parsing(f, &f.row.but(|r| patch(r, slot, 4..5, &[format])), Error::UnsupportedFormat(format));
            }
            for kind in [0, 4, 0xff] {
                refused_at_parsing(f, &f.row.but(|r| patch(r, slot, 5..6, &[kind])), Error::NotAContainer);
            }
        }
    }
}

#[test]
fn suite_downgrade() {
    for f in fixtures::all() {
        for leader in f.row.leaders() {
            let place = tlv::path_field(f.row.bytes(leader), 0x04);
            for suite in [0, 2, 0x0100, 0xffff_u16] {
                let row = f.row.but(|r| patch(r, leader, place.clone(), &suite.to_be_bytes()));
                refused_at_parsing(f, &row, Error::UnsupportedSuite(suite));
            }
        }
    }
}

#[test]
fn unknown_algorithm() {
    for f in fixtures::all() {
        for slot in f.row.some_slots() {
            let place = tlv::slot_field(f.row.bytes(slot), 0x04);
            for code in [0, 0x0100, 0x0300, 0xffff_u16] {
                let row = f.row.but(|r| patch(r, slot, place.clone(), &code.to_be_bytes()));
                refused_at_parsing(f, &row, Error::UnsupportedAlgorithm(code));
            }
        }
    }
}

/// To each algorithm that the slot does not have, alone and with the class in the headers.
#[test]
fn algorithm_downgrade() {
    for f in fixtures::all() {
        for slot in f.row.some_slots() {
            let own = f.row.container(slot).header.algorithm;
            for other in Algorithm::ALL.into_iter().filter(|a| *a != own) {
                let header = f.row.but(|r| r.edit(slot, |c| c.header.algorithm = other));
                if own.class() == other.class() {
                    // Of a key that is not asked only the class is in the path; its algorithm is compared with the catalog's.
                    f.refuse_all_up("algorithm", &header);
                    continue;
                }
                f.refuse("algorithm", &header);
                f.refuse("algorithm and class", &with_class(&header, slot, other.class().code()));
                // Shaped as the other algorithm's blob would be.
                if let Some(sizes) = kms_wrap::core::kem::sizes(other) {
                    let fits = header.but(|r| r.edit(slot, |c| c.blob.resize(sizes.ciphertext + 48, 0)));
                    f.refuse("algorithm, class and length", &with_class(&fits, slot, other.class().code()));
                }
            }
        }
    }
}

fn with_class(row: &Row, slot: SlotNo, class: u8) -> Row {
    row.but(|r| r.edit_paths(|p| p.header.slots.iter_mut().filter(|e| e.slot == slot).for_each(|e| e.class = class)))
}

#[test]
fn class_downgrade() {
    let classes = [Class::KmsSym, Class::KmsPk, Class::KemPq, Class::KemHybrid].map(Class::code);
    for f in fixtures::all() {
        for slot in f.row.some_slots() {
            let own = f.row.container(slot).header.algorithm.class().code();
            for class in classes.into_iter().chain([0, 5, 0xff]).filter(|c| *c != own) {
                f.refuse("class", &with_class(&f.row, slot, class));
            }
        }
    }
}

#[test]
fn epoch_downgrade() {
    for f in fixtures::all() {
        for epoch in [0, 2, u32::MAX] {
            let column = f.row.but(|r| r.epoch = epoch);
            f.refuse("column", &column);
            f.refuse("header", &f.row.but(|r| r.edit_paths(|p| p.header.epoch = epoch)));
            f.refuse("column and header", &column.but(|r| r.edit_paths(|p| p.header.epoch = epoch)));
        }
    }
}

#[test]
fn edited_key_ref() {
    let edits: [fn(&mut KeyRef) -> &mut String; 5] =
        [|r| &mut r.kind, |r| &mut r.location, |r| &mut r.project_tenant, |r| &mut r.external_key_ref, |r| &mut r.key_version];
    for f in fixtures::all() {
        for slot in f.row.some_slots() {
            for field in edits {
                // The version is not looked at by the KMS double, so here the bytes alone must tell.
                let edited = f.row.but(|r| r.edit(slot, |c| field(&mut c.header.key_ref).push('x')));
                check_slot(f, slot, "key reference", &edited);
                let emptied = f.row.but(|r| r.edit(slot, |c| field(&mut c.header.key_ref).clear()));
                check_slot(f, slot, "emptied key reference", &emptied);
            }
        }
    }
}

/// What happens to a KMS slot of a redundant wrapper shows when that KMS is asked.
fn check_slot(f: &Fixture, slot: SlotNo, attack: &str, row: &Row) {
    if slot.layer_no().is_some() { f.refuse(attack, row) } else { f.refuse_all_up(attack, row) }
}

#[test]
fn key_ref_of_another_slot() {
    for f in fixtures::all() {
        let slots = f.row.some_slots();
        for (slot, other) in slots.iter().zip(slots.iter().cycle().skip(1)) {
            let theirs = f.row.container(*other).header.key_ref;
            check_slot(f, *slot, "key of another slot", &f.row.but(|r| r.edit(*slot, |c| c.header.key_ref = theirs)));
        }
    }
}

#[test]
fn edited_public_key() {
    let mut thief = Kms::default();
    let owns = thief.create("thief", Algorithm::MlKem768);
    let ek_sha256 = kdf::sha256(&[&thief.encapsulation_key(&owns).unwrap()]);
    for f in fixtures::all() {
        for slot in f.row.some_slots() {
            let replaced = f.row.but(|r| r.edit(slot, |c| c.header.ek_sha256 = Some(ek_sha256)));
            if slot.layer_no().is_some() {
                f.refuse("public key of the thief", &replaced);
                refused_at_parsing(f, &f.row.but(|r| r.edit(slot, |c| c.header.ek_sha256 = None)), Error::DoesNotOpen);
            } else {
                refused_at_parsing(f, &replaced, Error::DoesNotOpen);
            }
        }
    }
}

#[test]
fn edited_policy() {
    for f in fixtures::all() {
        let column = f.row.but(|r| r.policy_uuid[0] ^= 1);
        f.refuse("column", &column);
        let other = column.policy_uuid;
        f.refuse("header", &f.row.but(|r| r.edit_paths(|p| p.header.policy_uuid = other)));
        f.refuse("column and header", &column.but(|r| r.edit_paths(|p| p.header.policy_uuid = other)));
    }
}

#[test]
fn edited_context() {
    for f in fixtures::all() {
        for other in [Context::default().sha256(), [0; 32]] {
            f.refuse("header", &f.row.but(|r| r.edit_paths(|p| p.header.ctx_sha256 = other)));
        }
    }
}

#[test]
fn edited_uuid() {
    for f in fixtures::all() {
        f.refuse("column", &f.row.but(|r| r.uuid[15] ^= 0x80));
    }
}

#[test]
fn edited_generation() {
    for f in fixtures::all() {
        for generation in [0, 6, 8, u64::MAX] {
            let column = f.row.but(|r| r.generation = generation);
            f.refuse("column", &column);
            for slot in f.row.some_slots() {
                let header = |r: &mut Row| r.edit(slot, |c| c.header.generation = generation);
                check_slot(f, slot, "one slot", &f.row.but(header));
                check_slot(f, slot, "one slot and column", &column.but(header));
            }
            let everywhere = column.but(|r| r.slots().into_iter().for_each(|s| r.edit(s, |c| c.header.generation = generation)));
            f.refuse("every slot and column", &everywhere);
        }
    }
}

#[test]
fn edited_share_commitment() {
    for f in fixtures::all() {
        for slot in f.row.some_slots() {
            let edited = f.row.but(|r| {
                r.edit_paths(|p| p.header.slots.iter_mut().filter(|e| e.slot == slot).for_each(|e| e.share_commit[31] ^= 1));
            });
            check_slot(f, slot, "share_commit", &edited);
        }
    }
}

#[test]
fn edited_dek_commitment() {
    for f in fixtures::all() {
        let header = f.row.but(|r| r.edit_paths(|p| p.header.dek_commit[0] ^= 1));
        f.refuse("dek_commit", &header);
        f.refuse("dek_commit and fingerprint", &header.but(|r| r.dek_fingerprint[0] ^= 1));
        f.refuse("dek_commit behind the fingerprint", &f.row.but(|r| r.edit_paths(|p| p.header.dek_commit[31] ^= 1)));
    }
}

#[test]
fn edited_fingerprint() {
    for f in fixtures::all() {
        f.refuse("fingerprint", &f.row.but(|r| r.dek_fingerprint[15] ^= 1));
        f.refuse("fingerprint cut", &f.row.but(|r| r.dek_fingerprint.truncate(15)));
        f.refuse("fingerprint empty", &f.row.but(|r| r.dek_fingerprint.clear()));
        let whole = f.row.path(SlotNo::KMS1).header.dek_commit.to_vec();
        f.refuse("fingerprint too long", &f.row.but(|r| r.dek_fingerprint = whole));
    }
}

#[test]
fn edited_path_commitment() {
    for f in fixtures::all() {
        f.refuse("commit", &f.row.but(|r| r.edit_paths(|p| p.commit[0] ^= 1)));
        f.refuse("salt", &f.row.but(|r| r.edit_paths(|p| p.header.salt[0] ^= 1)));
    }
}

#[test]
fn edited_seal() {
    for f in fixtures::all() {
        f.refuse("seal", &f.row.but(|r| r.edit_paths(|p| p.seal[0] ^= 1)));
        f.refuse("seal cut", &f.row.but(|r| r.edit_paths(|p| p.seal.truncate(15))));
        f.refuse("no seal", &f.row.but(|r| r.edit_paths(|p| p.seal.clear())));
        f.refuse("seal with a byte more", &f.row.but(|r| r.edit_paths(|p| p.seal.push(0))));
    }
}

#[test]
fn edited_dek_length() {
    for f in fixtures::all() {
        for dek_len in [0, 16, 24, 31, 64, u16::MAX] {
            f.refuse("dek_len", &f.row.but(|r| r.edit_paths(|p| p.header.dek_len = dek_len)));
        }
    }
}

#[test]
fn edited_blob() {
    for f in fixtures::all() {
        for slot in f.row.some_slots() {
            check_slot(f, slot, "blob cut", &f.row.but(|r| r.edit(slot, |c| c.blob.truncate(20))));
            check_slot(f, slot, "no blob", &f.row.but(|r| r.edit(slot, |c| c.blob.clear())));
            check_slot(f, slot, "blob with a byte more", &f.row.but(|r| r.edit(slot, |c| c.blob.push(0))));
        }
    }
}
