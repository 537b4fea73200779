//! Attacks on the composition: forcing the other path, two DEKs in one wrapper, turning one mode into the other.

use super::{
    entropy::Stream,
    fixtures::{self, Fixture},
    forge::Forgery,
    kms::{Kms, Reach, Refused},
    row::Row,
};
use kms_wrap::core::{
    error::Error,
    path::{Mode, PathData, PathHeader, SlotEntry},
    slot::SlotNo,
    wrapper::{Outcome, Unopened, Wrapper},
};

fn redundant() -> impl Iterator<Item = &'static Fixture> {
    fixtures::of_mode(Mode::Redundant)
}

fn split() -> impl Iterator<Item = &'static Fixture> {
    fixtures::of_mode(Mode::Split)
}

/// Corrupts one path, or what leads it, in every way that the other path does not see.
fn corrupted(f: &Fixture, leader: SlotNo) -> Vec<(&'static str, Row)> {
    let path = |change: fn(&mut PathData)| f.row.but(|r| r.edit_path(leader, change));
    vec![
        ("salt", path(|p| p.header.salt[0] ^= 1)),
        ("seal", path(|p| p.seal[0] ^= 1)),
        ("seal cut", path(|p| p.seal.clear())),
        ("commit", path(|p| p.commit[0] ^= 1)),
        ("share_commit", path(|p| p.header.slots[0].share_commit[0] ^= 1)),
        ("blob", f.row.but(|r| r.edit(leader, |c| c.blob[0] ^= 1))),
        ("key version", f.row.but(|r| r.edit(leader, |c| c.header.key_ref.key_version.push('2')))),
    ]
}

#[test]
fn corrupted_path_does_not_force_the_other() {
    for f in redundant() {
        for (leader, other) in [(SlotNo::KMS1, Reach::Kms2), (SlotNo::KMS2, Reach::Kms1)] {
            for (what, row) in corrupted(f, leader) {
                f.refuse_all_up(what, &row);
                // The other path was left whole: what was refused is the fail-over, not damage to both.
                assert_eq!(f.kms.open(&row, other).as_ref(), Ok(&f.dek), "{}: {what}", f.name);
            }
        }
    }
}

#[test]
fn rejected_share_does_not_force_the_other_path() {
    for f in redundant() {
        let wrapper = Wrapper::parse(&f.row.stored()).unwrap();
        for failed in 0..wrapper.slots().len() {
            let mut outcomes = f.kms.ask_all(&wrapper, Reach::All);
            outcomes[failed] = Outcome::Failed;
            assert!(matches!(wrapper.open(&outcomes), Err(Unopened::DoesNotOpen)), "{} slot {failed}", f.name);
        }
    }
}

#[test]
fn failure_wins_over_an_unreachable_provider() {
    for f in fixtures::all() {
        let wrapper = Wrapper::parse(&f.row.stored()).unwrap();
        let n = wrapper.slots().len();
        for failed in 0..n {
            let rest_missing: Vec<_> = (0..n).map(|i| if i == failed { Outcome::Failed } else { Outcome::Missing }).collect();
            assert!(matches!(wrapper.open(&rest_missing), Err(Unopened::DoesNotOpen)), "{} slot {failed}", f.name);
        }
        let all_missing: Vec<_> = (0..n).map(|_| Outcome::Missing).collect();
        assert!(matches!(wrapper.open(&all_missing), Err(Unopened::Incomplete)), "{}", f.name);
    }
}

#[test]
fn missing_layer_leaves_no_path() {
    for f in fixtures::all() {
        let wrapper = Wrapper::parse(&f.row.stored()).unwrap();
        for missing in 2..wrapper.slots().len() {
            let mut outcomes = f.kms.ask_all(&wrapper, Reach::All);
            outcomes[missing] = Outcome::Missing;
            assert!(matches!(wrapper.open(&outcomes), Err(Unopened::Incomplete)), "{} slot {missing}", f.name);
        }
    }
}

#[test]
fn answers_for_another_number_of_slots() {
    for f in fixtures::all() {
        let wrapper = Wrapper::parse(&f.row.stored()).unwrap();
        let mut outcomes = f.kms.ask_all(&wrapper, Reach::All);
        outcomes.pop();
        assert!(matches!(wrapper.open(&outcomes), Err(Unopened::DoesNotOpen)));
        outcomes.extend([Outcome::Missing, Outcome::Missing]);
        assert!(matches!(wrapper.open(&outcomes), Err(Unopened::DoesNotOpen)));
    }
}

/// Made by one who holds every key: two applications, each reaching one KMS, would read two values.
#[test]
fn two_paths_with_two_deks() {
    let deks = [Stream::new("first").bytes(32), Stream::new("second").bytes(32)];
    let both = [deks[0].as_slice(), deks[1].as_slice()];
    for layers in [&[][..], &fixtures::KEMS[..1], &fixtures::KEMS[..]] {
        let forged = |deks, committed| {
            let mut kms = Kms::default();
            let forgery = Forgery { mode: Mode::Redundant, epoch: 1, layers, deks, committed, label: "two deks" };
            let row = forgery.row(&mut kms);
            (kms, row)
        };
        let (kms, honest) = forged([both[0]; 2], Some(0));
        for reach in [Reach::All, Reach::Kms1, Reach::Kms2] {
            assert_eq!(kms.open(&honest, reach).as_deref(), Ok(both[0]), "by hand, but honest");
        }
        let (kms, row) = forged(both, None);
        for reach in [Reach::All, Reach::Kms1, Reach::Kms2] {
            kms.refuse("each path commits to its own DEK", &row, reach);
        }
        for committed in [0, 1] {
            let (kms, row) = forged(both, Some(committed));
            let (agrees, lies) = if committed == 0 { (Reach::Kms1, Reach::Kms2) } else { (Reach::Kms2, Reach::Kms1) };
            kms.refuse("headers agree, seals do not", &row, Reach::All);
            kms.refuse("the path that lies", &row, lies);
            assert_eq!(kms.open(&row, agrees).as_deref(), Ok(both[committed]), "the committed DEK, and no other");
        }
    }
}

#[test]
fn two_paths_with_deks_of_two_lengths() {
    let dek = Stream::new("long").bytes(64);
    for (deks, committed) in [([&dek[..32], &dek[..]], Some(0)), ([&dek[..], &dek[..32]], None)] {
        let mut kms = Kms::default();
        let row = Forgery { mode: Mode::Redundant, epoch: 1, layers: &[], deks, committed, label: "lengths" }.row(&mut kms);
        kms.refuse("two lengths", &row, Reach::All);
    }
}

/// Parts of the epoch before a reseal, whose shares an attacker may have learnt, in the epoch after it.
#[test]
fn parts_of_an_older_epoch() {
    let dek = Stream::new("dek").bytes(32);
    for mode in [Mode::Split, Mode::Redundant] {
        let mut kms = Kms::default();
        // One label, so both rows have one uuid, one set of shares and one opening: only the epoch parts them.
        let mut resealed =
            |epoch| Forgery { mode, epoch, layers: &fixtures::KEMS, deks: [&dek; 2], committed: Some(0), label: "epochs" }.row(&mut kms);
        let (old, new) = (resealed(1), resealed(2));
        assert_eq!(old.uuid, new.uuid);
        assert_eq!(kms.open(&new, Reach::All).as_ref(), Ok(&dek));
        for slot in new.slots() {
            kms.refuse("container", &new.but(|r| r.put(slot, old.bytes(slot).to_vec())), Reach::All);
            kms.refuse("blob", &new.but(|r| r.edit(slot, |c| c.blob = old.container(slot).blob)), Reach::All);
        }
        for leader in new.leaders() {
            kms.refuse("path", &new.but(|r| r.edit_path(leader, |p| *p = old.path(leader))), Reach::All);
        }
        kms.refuse("all bytes, with today's column", &Row { epoch: new.epoch, ..old.clone() }, Reach::All);
    }
}

fn entries(row: &Row) -> Vec<SlotEntry> {
    let mut all: Vec<_> = row.leaders().into_iter().flat_map(|leader| row.path(leader).header.slots).collect();
    all.sort_by_key(|e| e.slot);
    all.dedup();
    all
}

#[test]
fn split_turned_redundant() {
    for f in split() {
        let relabelled = f.row.but(|r| r.edit_paths(|p| p.header.mode = Mode::Redundant));
        f.kms.refuse("mode", &relabelled, Reach::All);
        let all = entries(&f.row);
        let without = |slot| all.iter().filter(|e| e.slot != slot).copied().collect::<Vec<_>>();
        let two_paths = relabelled.but(|r| {
            let mut second = r.path(SlotNo::KMS1);
            second.header.path = 2;
            second.header.slots = without(SlotNo::KMS1);
            r.edit(SlotNo::KMS2, |c| c.path = Some(second));
            r.edit_path(SlotNo::KMS1, |p| p.header.slots = without(SlotNo::KMS2));
        });
        assert!(Wrapper::parse(&two_paths.stored()).is_ok(), "the edit is complete, only the keys tell");
        for reach in [Reach::All, Reach::Kms1, Reach::Kms2] {
            f.kms.refuse("mode, both paths and their lists", &two_paths, reach);
        }
    }
}

#[test]
fn redundant_turned_split() {
    for f in redundant() {
        let relabelled = f.row.but(|r| r.edit_paths(|p| p.header.mode = Mode::Split));
        f.refuse_all_up("mode", &relabelled);
        let one_path = relabelled.but(|r| {
            r.edit(SlotNo::KMS2, |c| c.path = None);
            r.edit_path(SlotNo::KMS1, |p| p.header.slots = entries(&f.row));
        });
        assert!(Wrapper::parse(&one_path.stored()).is_ok(), "the edit is complete, only the keys tell");
        f.refuse_all_up("mode, one path and its list", &one_path);
    }
}

#[test]
fn stripped_path() {
    for f in fixtures::all() {
        for leader in f.row.leaders() {
            f.refuse("a path gone", &f.row.but(|r| r.edit(leader, |c| c.path = None)));
        }
    }
}

#[test]
fn renumbered_path() {
    for f in fixtures::all() {
        for leader in f.row.leaders() {
            let own = f.row.path(leader).header.path;
            for no in [0, 1, 2, 3, 0xff].into_iter().filter(|no| *no != own) {
                f.refuse("number of a path", &f.row.but(|r| r.edit_path(leader, |p| p.header.path = no)));
            }
        }
    }
}

#[test]
fn swapped_paths() {
    for f in redundant() {
        let (first, second) = (f.row.path(SlotNo::KMS1), f.row.path(SlotNo::KMS2));
        let swapped = f.row.but(|r| {
            r.edit_path(SlotNo::KMS1, |p| p.clone_from(&second));
            r.edit_path(SlotNo::KMS2, |p| p.clone_from(&first));
        });
        f.refuse("paths", &swapped);
        let relabelled = swapped.but(|r| {
            r.edit_path(SlotNo::KMS1, |p| (p.header.path, p.header.slots[0]) = (1, first.header.slots[0]));
            r.edit_path(SlotNo::KMS2, |p| (p.header.path, p.header.slots[0]) = (2, second.header.slots[0]));
        });
        f.refuse("paths under each other's number and slot", &relabelled);
        let copied = f.row.but(|r| r.edit_path(SlotNo::KMS2, |p| p.clone_from(&first)));
        f.refuse("path 1 twice", &copied);
        for (what, change) in [("seals", true), ("commits", false)] {
            let row = f.row.but(|r| {
                for (leader, theirs) in [(SlotNo::KMS1, &second), (SlotNo::KMS2, &first)] {
                    r.edit_path(leader, |p| if change { p.seal.clone_from(&theirs.seal) } else { p.commit = theirs.commit });
                }
            });
            f.refuse(what, &row);
        }
    }
}

type Edit = fn(&mut PathHeader);

/// What both paths must say alike, said by one of them differently.
#[test]
fn disagreeing_paths() {
    let edits: [(&str, Edit); 7] = [
        ("mode", |h| h.mode = Mode::Split),
        ("epoch", |h| h.epoch += 1),
        ("dek_len", |h| h.dek_len = 16),
        ("policy", |h| h.policy_uuid[0] ^= 1),
        ("context", |h| h.ctx_sha256[0] ^= 1),
        ("dek_commit", |h| h.dek_commit[31] ^= 1),
        ("last entry", |h| h.slots.last_mut().unwrap().share_commit[0] ^= 1),
    ];
    for f in redundant().filter(|f| !f.row.layers.is_empty()) {
        for leader in f.row.leaders() {
            for (what, edit) in edits {
                f.refuse(what, &f.row.but(|r| r.edit_path(leader, |p| edit(&mut p.header))));
            }
            let shorter = f.row.but(|r| r.edit_path(leader, |p| p.header.slots.truncate(p.header.slots.len() - 1)));
            f.refuse("a list without its last layer", &shorter);
        }
    }
    // Unused by the honest shapes, and still refused: a redundant row that says so in one place only.
    for f in split() {
        let row = f.row.but(|r| r.edit_path(SlotNo::KMS1, |p| p.header.slots.retain(|e| e.slot != SlotNo::KMS2)));
        assert_eq!(f.kms.open(&row, Reach::All), Err(Refused::Parse(Error::DoesNotOpen)));
    }
}
