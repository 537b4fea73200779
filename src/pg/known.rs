//! Keys as the catalog has them, kept until rights or keys change: reading them takes as long as most of what is done with them.

use super::{
    catalog::{
        Held,
        key::{self, Key, PolicyKey},
    },
    deks::settled,
    gucs, owner,
    report::Failure,
    revocation, transaction,
};
use std::{
    cell::RefCell,
    collections::{HashMap, HashSet},
    rc::Rc,
};

/// Sets of keys that are kept: one for each combination that a policy's wrappers have.
const SETS: usize = 100;

/// What was read, as of an epoch.
#[derive(Default)]
struct Known {
    epoch: u64,
    /// Of wrappers, by their ids in slot order.
    keys: HashMap<Vec<i64>, Rc<HashMap<i64, Key>>>,
    /// Of policies.
    listed: HashMap<i64, Rc<Vec<PolicyKey>>>,
    /// Keys that were found active and locked, and [`transaction::locks`] at that time.
    locked: (u64, HashSet<i64>),
}

thread_local! {
    static KNOWN: RefCell<Known> = RefCell::default();
}

fn with_known<T>(f: impl FnOnce(&mut Known) -> T) -> T {
    let epoch = revocation::epoch();
    KNOWN.with_borrow_mut(|known| {
        if known.epoch != epoch {
            *known = Known { epoch, ..Known::default() };
        }
        f(known)
    })
}

/// Keys by id. Unknown ids, and keys of algorithms that this version does not implement, are missing from the answer.
pub(crate) fn keys(ids: Vec<i64>) -> Result<Rc<HashMap<i64, Key>>, Failure> {
    if let Some(keys) = with_known(|known| known.keys.get(&ids).cloned()) {
        return Ok(keys);
    }
    let (keys, _) = settled(|| owner::reading_now(|| key::by_ids(&ids)))?;
    let keys = Rc::new(keys);
    // What is not here yet may come, and nobody tells of an insert.
    if !ids.iter().all(|id| keys.get(id).is_some_and(|key| !key.is_local() || key.sealed.is_some())) {
        return Ok(keys);
    }
    with_known(|known| {
        if known.keys.len() >= SETS {
            known.keys.clear();
        }
        known.keys.insert(ids, Rc::clone(&keys));
    });
    Ok(keys)
}

/// The keys of a policy, in no order.
pub(crate) fn listed(policy: i64) -> Result<Rc<Vec<PolicyKey>>, Failure> {
    if let Some(listed) = with_known(|known| known.listed.get(&policy).cloned()) {
        return Ok(listed);
    }
    let (listed, _) = settled(|| owner::reading_now(|| key::by_policy(policy, gucs::probes_count())))?;
    let listed = Rc::new(listed);
    // A suspension ends by the clock, as what a probe found does, and nobody tells.
    if !listed.iter().any(|pk| pk.key.provider_suspended || (pk.is_down && pk.is_usable())) {
        with_known(|known| known.listed.insert(policy, Rc::clone(&listed)));
    }
    Ok(listed)
}

/// What was found when keys were locked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lock {
    /// All are as they were read.
    Held,
    /// One is not active any more.
    OutOfUse,
    /// One has another version, which new shares go under.
    OtherVersion,
}

/// Locks the keys that a wrapper is about to be stored under, as [`key::lock_active`] does. What this transaction holds already is not locked
/// again, nor looked at again before something has changed: nobody else can set another version meanwhile.
pub(crate) fn lock_active(keys: &[&Key]) -> Result<Lock, Failure> {
    // Makes sure that the number moves when locks are given back.
    revocation::listen()?;
    let locks = transaction::locks();
    let is_held = |known: &mut Known| known.locked.0 == locks && keys.iter().all(|key| known.locked.1.contains(&key.id));
    if with_known(is_held) {
        return Ok(Lock::Held);
    }
    let mut ids: Vec<i64> = keys.iter().map(|key| key.id).collect();
    ids.sort_unstable();
    ids.dedup();
    let active = key::lock_active(&ids, Held::Wait)?;
    if !ids.iter().all(|id| active.contains_key(id)) {
        return Ok(Lock::OutOfUse);
    }
    if !keys.iter().all(|key| active.get(&key.id) == Some(&key.key_ref.key_version)) {
        return Ok(Lock::OtherVersion);
    }
    with_known(|known| {
        if known.locked.0 != locks {
            known.locked = (locks, HashSet::new());
        }
        known.locked.1.extend(ids);
    });
    Ok(Lock::Held)
}
