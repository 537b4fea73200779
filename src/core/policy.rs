//! Which of a policy's keys a new wrapper gets. Pure: candidates and numbers in, choice out.

use super::slot::SlotNo;

/// How a key is chosen among those of the highest priority that has a usable one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Selection {
    /// The heaviest, then the oldest key: always the same.
    Defined,
    /// In turn, as often as its weight says.
    RoundRobin,
    /// By chance, in proportion to weight.
    Random,
    /// By the hash of the context, in proportion to weight: one context, one choice.
    HashMod,
}

impl Selection {
    /// The selection of its name in `encryption_policies.layer_selection`.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        match name {
            "defined" => Some(Self::Defined),
            "round_robin" => Some(Self::RoundRobin),
            "random" => Some(Self::Random),
            "hash_mod" => Some(Self::HashMod),
            _ => None,
        }
    }
}

/// The part that a policy gives a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// A candidate for slot kms1.
    Kms1,
    /// A candidate for slot kms2.
    Kms2,
    /// A candidate for any layer.
    Layer,
}

impl Role {
    /// The role of its name in `policy_kms_keys.slot`.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        match name {
            "kms1" => Some(Self::Kms1),
            "kms2" => Some(Self::Kms2),
            "layer" => Some(Self::Layer),
            _ => None,
        }
    }

    /// Its name, for messages.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Kms1 => "kms1",
            Self::Kms2 => "kms2",
            Self::Layer => "layer",
        }
    }
}

/// A key that a policy lists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Candidate {
    /// `kms_keys.id`.
    pub key: i64,
    /// What it may be used for.
    pub role: Role,
    /// Higher first.
    pub priority: i32,
    /// Share among keys of one priority; at least 1.
    pub weight: u32,
    /// Active, and its provider enabled and not suspended.
    pub usable: bool,
    /// It did not fail lately, and neither did its provider.
    pub healthy: bool,
}

/// A slot for which a policy has no usable key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NoKey {
    /// The slot.
    pub role: Role,
    /// Usable keys that it has.
    pub usable: usize,
    /// Keys that it needs.
    pub needed: usize,
}

/// Where the number comes from that turns weights into a choice.
#[derive(Debug, Clone, Copy)]
pub struct Draw {
    /// How to choose.
    pub selection: Selection,
    /// Counts wrappers (round_robin).
    pub turn: u64,
    /// Fresh and random (random).
    pub random: u64,
    /// Hash of the context (hash_mod).
    pub hash: u64,
}

/// A choice of keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choice {
    /// Key of kms1.
    pub kms1: i64,
    /// Key of kms2.
    pub kms2: i64,
    /// Keys of layer 1, 2 and so on.
    pub layers: Vec<i64>,
}

/// Chooses kms1, kms2 and between `min_layers` and `max_layers` layer keys, as many as are usable. Fails closed.
///
/// Keys that are not healthy are passed over where the others of their role suffice, and never for fewer layers: where they do not, one that
/// fails is asked, and says why.
///
/// # Errors
/// [`NoKey`] names the slot that got none.
pub fn choose(candidates: &[Candidate], min_layers: usize, max_layers: usize, draw: Draw) -> Result<Choice, NoKey> {
    let one = |role| {
        let mut pool = healthy(usable(candidates, role), 1);
        take_one(&mut pool, draw, 0).ok_or(NoKey { role, usable: 0, needed: 1 })
    };
    let (kms1, kms2) = (one(Role::Kms1)?, one(Role::Kms2)?);
    let mut pool = usable(candidates, Role::Layer);
    let usable = pool.len();
    let count = usable.min(max_layers).min(usize::from(super::slot::MAX_LAYERS));
    if count < min_layers {
        return Err(NoKey { role: Role::Layer, usable, needed: min_layers });
    }
    pool = healthy(pool, count);
    let layers: Vec<i64> = (0..count).filter_map(|n| take_one(&mut pool, draw, n)).collect();
    // A key without weight cannot be drawn; fewer layers than there should be is not an answer.
    if layers.len() < count {
        Err(NoKey { role: Role::Layer, usable: layers.len(), needed: count })
    } else {
        Ok(Choice { kms1, kms2, layers })
    }
}

/// The layer slots of a choice, with their numbers.
pub fn layer_slots(layers: &[i64]) -> impl Iterator<Item = (SlotNo, i64)> + '_ {
    (1..=super::slot::MAX_LAYERS).filter_map(SlotNo::layer).zip(layers.iter().copied())
}

/// Usable keys of a role, best priority first, then heaviest, then oldest.
fn usable(candidates: &[Candidate], role: Role) -> Vec<Candidate> {
    let mut pool: Vec<_> = candidates.iter().filter(|c| c.role == role && c.usable).copied().collect();
    pool.sort_by_key(|c| (std::cmp::Reverse(c.priority), std::cmp::Reverse(c.weight), c.key));
    pool
}

/// Those of a pool that are healthy, if they are as many as are wanted; else all.
fn healthy(pool: Vec<Candidate>, wanted: usize) -> Vec<Candidate> {
    if pool.iter().filter(|c| c.healthy).count() < wanted {
        return pool;
    }
    pool.into_iter().filter(|c| c.healthy).collect()
}

/// Takes a key of the best priority out of the pool. `nth` tells apart the picks of one wrapper.
fn take_one(pool: &mut Vec<Candidate>, draw: Draw, nth: usize) -> Option<i64> {
    let best = pool.first()?.priority;
    let tier: Vec<_> = pool.iter().take_while(|c| c.priority == best).copied().collect();
    let total: u64 = tier.iter().map(|c| u64::from(c.weight)).fold(0, u64::saturating_add);
    let number = match draw.selection {
        Selection::Defined => 0,
        Selection::RoundRobin => draw.turn,
        Selection::Random => draw.random.rotate_left(u32::try_from(nth).unwrap_or(0).wrapping_mul(17)),
        Selection::HashMod => draw.hash,
    };
    let mut rest = number.checked_rem(total)?;
    let at = tier.iter().position(|c| match rest.checked_sub(u64::from(c.weight)) {
        Some(left) => {
            rest = left;
            false
        }
        None => true,
    })?;
    Some(pool.remove(at).key)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidate(key: i64, role: Role, priority: i32, weight: u32) -> Candidate {
        Candidate { key, role, priority, weight, usable: true, healthy: true }
    }

    fn draw(selection: Selection, number: u64) -> Draw {
        Draw { selection, turn: number, random: number, hash: number }
    }

    fn pool() -> Vec<Candidate> {
        vec![
            candidate(1, Role::Kms1, 0, 1),
            candidate(2, Role::Kms1, 5, 1),
            candidate(3, Role::Kms1, 5, 3),
            candidate(4, Role::Kms2, 0, 1),
            candidate(5, Role::Layer, 0, 1),
            candidate(6, Role::Layer, 0, 1),
            candidate(7, Role::Layer, 1, 1),
        ]
    }

    #[test]
    fn defined_takes_the_heaviest_of_the_highest_priority() {
        let choice = choose(&pool(), 1, 2, draw(Selection::Defined, 99)).unwrap();
        assert_eq!(choice, Choice { kms1: 3, kms2: 4, layers: vec![7, 5] });
    }

    #[test]
    fn an_unusable_tier_gives_way_to_the_next() {
        let mut pool = pool();
        pool[1].usable = false;
        pool[2].usable = false;
        assert_eq!(choose(&pool, 1, 1, draw(Selection::Random, 7)).unwrap().kms1, 1);
    }

    #[test]
    fn round_robin_follows_weights() {
        let pool = pool();
        let kms1 = |turn| choose(&pool, 0, 0, draw(Selection::RoundRobin, turn)).unwrap().kms1;
        let picks: Vec<_> = (0..8).map(kms1).collect();
        assert_eq!(picks, [3, 3, 3, 2, 3, 3, 3, 2]);
    }

    #[test]
    fn random_and_hash_follow_weights() {
        for selection in [Selection::Random, Selection::HashMod] {
            let heavy = (0..4000u64).filter(|n| choose(&pool(), 0, 0, draw(selection, *n)).unwrap().kms1 == 3).count();
            assert_eq!(heavy, 3000);
        }
    }

    #[test]
    fn layers_are_distinct_and_counted() {
        for selection in [Selection::Defined, Selection::RoundRobin, Selection::Random, Selection::HashMod] {
            for n in 0..50 {
                let mut layers = choose(&pool(), 1, 32, draw(selection, n)).unwrap().layers;
                layers.sort_unstable();
                assert_eq!(layers, [5, 6, 7]);
            }
        }
    }

    #[test]
    fn a_slot_without_a_key_is_named() {
        let mut pool = pool();
        pool[3].usable = false;
        let refused = choose(&pool, 1, 1, draw(Selection::Defined, 0)).unwrap_err();
        assert_eq!(refused.role, Role::Kms2);
        let refused = choose(&self::pool(), 4, 32, draw(Selection::Defined, 0)).unwrap_err();
        assert_eq!((refused.role, refused.usable, refused.needed), (Role::Layer, 3, 4));
    }

    #[test]
    fn keys_that_fail_are_passed_over_where_others_suffice() {
        let ailing =
            |keys: &[i64]| -> Vec<Candidate> { pool().into_iter().map(|c| Candidate { healthy: !keys.contains(&c.key), ..c }).collect() };
        let choice = |keys: &[i64], layers| choose(&ailing(keys), layers, 3, draw(Selection::Defined, 0)).unwrap();
        assert_eq!(choice(&[3], 1).kms1, 2);
        assert_eq!(choice(&[2, 3], 1).kms1, 1, "of a lower priority");
        // The only one of its role is asked, and the others of another role are none the worse for it.
        assert_eq!((choice(&[3, 4], 1).kms1, choice(&[3, 4], 1).kms2), (2, 4));
        assert_eq!(choice(&[1, 2, 3], 1).kms1, 3);
        // Not fewer layers than there would be.
        assert_eq!(choice(&[7], 1).layers, [7, 5, 6]);
        assert_eq!(choose(&ailing(&[7]), 1, 2, draw(Selection::Defined, 0)).unwrap().layers, [5, 6]);
    }
}
