//! Properties of the choice of keys.

use kms_wrap::core::{
    policy::{self, Candidate, Draw, Role, Selection},
    slot::SlotNo,
};
use proptest::{collection::vec, prelude::*};
use std::collections::BTreeSet;

const SELECTIONS: [Selection; 4] = [Selection::Defined, Selection::RoundRobin, Selection::Random, Selection::HashMod];

/// A policy's keys: ids are distinct, as the catalog's unique key makes them.
fn candidates() -> impl Strategy<Value = Vec<Candidate>> {
    let roles = prop::sample::select(&[Role::Kms1, Role::Kms2, Role::Layer, Role::Layer][..]);
    let candidate = (roles, -2..3_i32, prop_oneof![1..5_u32, Just(u32::MAX)], prop::bool::weighted(0.7));
    vec(candidate, 0..40).prop_map(|all| {
        let numbered = all.into_iter().zip(1..);
        numbered.map(|((role, priority, weight, usable), key)| Candidate { key, role, priority, weight, usable, healthy: true }).collect()
    })
}

prop_compose! {
    fn draws()(selection in prop::sample::select(&SELECTIONS[..]), turn in any::<u64>(), random in any::<u64>(), hash in any::<u64>()) -> Draw {
        Draw { selection, turn, random, hash }
    }
}

fn usable(candidates: &[Candidate], role: Role) -> Vec<&Candidate> {
    candidates.iter().filter(|c| c.role == role && c.usable).collect()
}

/// Priorities of chosen keys; panics for a key that may not be chosen in that role.
fn priorities(candidates: &[Candidate], role: Role, chosen: &[i64]) -> Vec<i32> {
    let pool = usable(candidates, role);
    chosen.iter().map(|key| pool.iter().find(|c| c.key == *key).expect("a usable key of that role").priority).collect()
}

fn best_first(candidates: &[Candidate], role: Role) -> Vec<i32> {
    let mut all: Vec<_> = usable(candidates, role).iter().map(|c| c.priority).collect();
    all.sort_unstable_by(|a, b| b.cmp(a));
    all
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_choice_keeps_every_rule(candidates in candidates(), min in 0..6_usize, extra in 0..30_usize, draw in draws()) {
        let max = min + extra;
        let have = |role| usable(&candidates, role).len();
        match policy::choose(&candidates, min, max, draw) {
            Ok(choice) => {
                for (role, chosen) in [(Role::Kms1, vec![choice.kms1]), (Role::Kms2, vec![choice.kms2]), (Role::Layer, choice.layers.clone())] {
                    // Usable, of its role, and none of a lower priority before one of a higher.
                    prop_assert_eq!(&priorities(&candidates, role, &chosen)[..], &best_first(&candidates, role)[..chosen.len()]);
                }
                let distinct: BTreeSet<_> = choice.layers.iter().collect();
                prop_assert_eq!(distinct.len(), choice.layers.len());
                prop_assert_eq!(choice.layers.len(), have(Role::Layer).min(max));
                prop_assert!(choice.layers.len() >= min);
            }
            Err(refused) => {
                let needed = if refused.role == Role::Layer { min } else { 1 };
                prop_assert_eq!((refused.needed, refused.usable), (needed, have(refused.role)));
                prop_assert!(refused.usable < refused.needed);
            }
        }
    }

    #[test]
    fn a_choice_depends_on_nothing_but_its_arguments(candidates in candidates(), draw in draws(), order in any::<u64>()) {
        let mut shuffled = candidates.clone();
        shuffled.sort_by_key(|c| c.key.unsigned_abs().wrapping_mul(order | 1));
        prop_assert_eq!(policy::choose(&candidates, 0, 4, draw), policy::choose(&shuffled, 0, 4, draw));
    }

    #[test]
    fn defined_never_moves(candidates in candidates(), a in draws(), b in draws()) {
        let defined = |d| Draw { selection: Selection::Defined, ..d };
        prop_assert_eq!(policy::choose(&candidates, 0, 4, defined(a)), policy::choose(&candidates, 0, 4, defined(b)));
    }
}

#[test]
fn turns_of_a_whole_round_are_as_weights_say() {
    let key = |key, weight| Candidate { key, role: Role::Kms1, priority: 0, weight, usable: true, healthy: true };
    let other = Candidate { key: 9, role: Role::Kms2, priority: 0, weight: 1, usable: true, healthy: true };
    let candidates = [key(1, 5), key(2, 1), key(3, 4), other];
    for selection in [Selection::RoundRobin, Selection::HashMod, Selection::Random] {
        let mut counts = [0; 3];
        for n in 0..10 {
            let draw = Draw { selection, turn: n, random: n, hash: n };
            let kms1 = policy::choose(&candidates, 0, 0, draw).unwrap().kms1;
            counts[usize::try_from(kms1).unwrap() - 1] += 1;
        }
        assert_eq!(counts, [5, 1, 4], "{selection:?}");
    }
}

/// Weights are at least 1 by the catalog's CHECK. Should one be 0 all the same, a policy that asks for layers gets them or nothing.
#[test]
fn weightless_layer_keys_do_not_lower_the_number_of_layers() {
    let key = |key, role, weight| Candidate { key, role, priority: 0, weight, usable: true, healthy: true };
    let candidates = [key(1, Role::Kms1, 1), key(2, Role::Kms2, 1), key(3, Role::Layer, 0)];
    for selection in SELECTIONS {
        let draw = Draw { selection, turn: 0, random: 0, hash: 0 };
        let chosen = policy::choose(&candidates, 1, 1, draw);
        assert!(chosen.as_ref().map_or(true, |c| c.layers.len() == 1), "{selection:?}: {chosen:?}");
    }
}

#[test]
fn layer_keys_get_the_slots_in_order() {
    let keys: Vec<i64> = (1..=32).collect();
    let expected: Vec<_> = (1..=32).map(|n| (SlotNo::layer(n).unwrap(), i64::from(n))).collect();
    assert_eq!(policy::layer_slots(&keys).collect::<Vec<_>>(), expected);
}

/// More keys than slots must not end in a wrapper with fewer layers than were chosen.
#[test]
fn no_more_layers_are_chosen_than_there_are_slots() {
    let layers = (10..50).map(|key| Candidate { key, role: Role::Layer, priority: 0, weight: 1, usable: true, healthy: true });
    let kms =
        [(1, Role::Kms1), (2, Role::Kms2)].map(|(key, role)| Candidate { key, role, priority: 0, weight: 1, usable: true, healthy: true });
    let candidates: Vec<_> = kms.into_iter().chain(layers).collect();
    let draw = Draw { selection: Selection::Defined, turn: 0, random: 0, hash: 0 };
    if let Ok(choice) = policy::choose(&candidates, 33, 40, draw) {
        assert_eq!(policy::layer_slots(&choice.layers).count(), choice.layers.len());
    }
}
