//! DEKs of values: from memory, or else read, opened and kept; and the one that encrypts a scope's new values.

use super::{
    cache::{self, Entry, Found, NewEntry},
    catalog::{
        key,
        policy::{self, Policy},
        protected,
        wrapper::{self, WrapperRow, WrapperStatus},
    },
    grants::{self, Privilege},
    gucs, make, open, owner,
    report::Failure,
    revocation, spi, transaction,
};
use pgrx::Uuid;
use std::{cell::RefCell, collections::HashMap, rc::Rc};

/// What was read of policies, as of an epoch.
#[derive(Default)]
struct Held {
    epoch: u64,
    policies: HashMap<String, Rc<Policy>>,
    /// Of opened DEKs, by id: tens of thousands may have one policy.
    shared: HashMap<i64, Rc<Policy>>,
    /// Policy and scope to the wrapper that encrypts its new values.
    current: HashMap<(i64, [u8; 32]), [u8; 16]>,
    /// The one that was asked for last: most rows are of one scope.
    last: Option<((i64, [u8; 32]), [u8; 16])>,
}

thread_local! {
    static HELD: RefCell<Held> = RefCell::new(Held::default());
}

fn with_held<T>(f: impl FnOnce(&mut Held) -> T) -> T {
    let epoch = revocation::epoch();
    HELD.with_borrow_mut(|held| {
        if held.epoch != epoch {
            *held = Held { epoch, ..Held::default() };
        }
        f(held)
    })
}

/// Reads until nothing changed meanwhile; returns what was read and the epoch of it.
pub(crate) fn settled<T>(read: impl Fn() -> Result<T, Failure>) -> Result<(T, u64), Failure> {
    loop {
        revocation::listen()?;
        revocation::take_in();
        let epoch = revocation::epoch();
        let result = read();
        revocation::take_in();
        if epoch == revocation::epoch() {
            // Remembered, so that a roll-back of rows read here moves the epoch.
            transaction::is_tentative();
            return Ok((result?, epoch));
        }
        pgrx::check_for_interrupts!();
    }
}

/// A policy by name.
pub(crate) fn policy(name: &str) -> Result<Rc<Policy>, Failure> {
    if let Some(policy) = with_held(|held| held.policies.get(name).cloned()) {
        return Ok(policy);
    }
    let (policy, _) = settled(|| owner::reading_now(|| policy::by_name(name)))?;
    let policy = Rc::new(policy);
    with_held(|held| held.policies.insert(name.to_owned(), Rc::clone(&policy)));
    Ok(policy)
}

/// A policy by id, as it is now.
pub(crate) fn policy_by_id(id: i64) -> Result<Policy, Failure> {
    owner::reading_now(|| policy::by_id(id))
}

/// The policy of a wrapper, whose rights guard it.
fn policy_of(wrapper: &[u8; 16]) -> Result<Policy, Failure> {
    let (policy, _) = settled(|| {
        owner::reading_now(|| {
            let id = wrapper::policy_of(Uuid::from_bytes(*wrapper))?;
            policy::by_id(id)
        })
    })?;
    Ok(policy)
}

/// What a look into memory came to.
enum Try<T> {
    Done(Result<T, Failure>),
    /// The answer about the right is not held.
    Ask(Rc<Policy>),
}

/// Uses a wrapper's DEK, if the current role has the privilege on its policy. `f` may not come back here.
pub(crate) fn with_dek<T>(
    wrapper: &[u8; 16],
    privilege: Privilege,
    f: impl FnOnce(&mut Entry) -> Result<T, Failure>,
) -> Result<T, Failure> {
    let mut f = Some(f);
    let mut hit = || {
        cache::find(wrapper, |entry| match grants::held(entry.policy.id, privilege) {
            Some(true) => Try::Done(f.take().map_or_else(|| Err(Failure::internal("DEK used twice")), |f| f(entry))),
            Some(false) => Try::Done(Err(Failure::no_right(&entry.policy.name, privilege.name()))),
            None => Try::Ask(Rc::clone(&entry.policy)),
        })
    };
    // Rights and keys may change between two looks, again and again if somebody is at it.
    for _ in 0..16 {
        match hit() {
            Found::Fresh(Try::Done(result)) => return result,
            Found::Fresh(Try::Ask(policy)) => grants::require(policy.id, &policy.name, privilege)?,
            Found::Outdated => {
                let policy = policy_of(wrapper)?;
                grants::require(policy.id, &policy.name, privilege)?;
                confirm(wrapper)?;
            }
            Found::Stale => {
                let policy = policy_of(wrapper)?;
                grants::require(policy.id, &policy.name, privilege)?;
                match fill(wrapper) {
                    Err(failure) if failure.is_outage() => {
                        confirm(wrapper)?;
                        cache::extend(wrapper);
                    }
                    // It has answered: an outage that comes after does not make up for that.
                    Err(failure) => {
                        cache::forget(wrapper);
                        return Err(failure);
                    }
                    Ok(()) => {}
                }
            }
            Found::Nothing => {
                // The right comes before the provider is asked.
                let policy = policy_of(wrapper)?;
                grants::require(policy.id, &policy.name, privilege)?;
                fill(wrapper)?;
            }
        }
    }
    Err(Failure::policy_changed())
}

fn read(wrapper: &[u8; 16]) -> Result<(WrapperRow, HashMap<i64, key::Key>, Policy), Failure> {
    owner::reading_now(|| {
        let row = wrapper::by_uuid(Uuid::from_bytes(*wrapper))?;
        open::check_status(&row)?;
        let keys = key::by_ids(&row.key_ids().collect::<Vec<_>>())?;
        let policy = policy::by_id(row.policy_id)?;
        Ok((row, keys, policy))
    })
}

/// One copy of a policy for all that was read at its epoch.
fn shared(policy: Policy, epoch: u64) -> Rc<Policy> {
    with_held(|held| {
        if held.epoch != epoch {
            return Rc::new(policy);
        }
        Rc::clone(held.shared.entry(policy.id).or_insert_with(|| Rc::new(policy)))
    })
}

fn fill(wrapper: &[u8; 16]) -> Result<(), Failure> {
    let ((row, policy, ctx_sha256, dek), epoch) = settled(|| {
        let (row, keys, policy) = read(wrapper)?;
        let parsed = open::parse(&row)?;
        let dek = open::open(&row, &parsed, &keys, false)?;
        Ok((row, policy, *parsed.ctx_sha256(), dek))
    })?;
    cache::insert(NewEntry {
        wrapper: *wrapper,
        policy: shared(policy, epoch),
        is_callers: row.purpose == "caller",
        ctx_sha256,
        is_active: row.status == WrapperStatus::Active,
        dek,
        epoch,
    });
    Ok(())
}

/// Looks again whether a held DEK may still be opened, without asking a provider for it.
fn confirm(wrapper: &[u8; 16]) -> Result<(), Failure> {
    let checked = settled(|| {
        let (row, keys, policy) = read(wrapper)?;
        let parsed = open::parse(&row)?;
        open::check_keys(&row, &parsed, &keys, policy.outage)?;
        Ok((policy, row.status == WrapperStatus::Active))
    });
    match checked {
        Ok(((policy, is_active), epoch)) => {
            cache::confirm(wrapper, epoch, shared(policy, epoch), is_active);
            Ok(())
        }
        Err(failure) => {
            cache::forget(wrapper);
            Err(failure)
        }
    }
}

/// What a DEK of values is for.
pub(crate) struct Scope<'a> {
    pub(crate) policy: &'a Policy,
    pub(crate) ctx_sha256: [u8; 32],
    /// The protected column, and the generation if it is for its blind index; `None` for free values.
    pub(crate) column: Option<([u8; 16], Option<u8>)>,
}

impl Scope<'_> {
    /// What stands in `key_wrappers.scope_key`.
    fn key(&self) -> Option<&[u8]> {
        let is_scoped = self.column.is_some() || !self.policy.dek_scope.is_empty();
        is_scoped.then_some(self.ctx_sha256.as_slice())
    }
}

/// The wrapper that encrypts a scope's new values, if there is one.
pub(crate) fn current(scope: &Scope<'_>) -> Result<Option<[u8; 16]>, Failure> {
    let index = (scope.policy.id, scope.ctx_sha256);
    let known = with_held(|held| match held.last {
        Some((last, wrapper)) if last == index => Some(wrapper),
        _ => {
            let wrapper = held.current.get(&index).copied()?;
            held.last = Some((index, wrapper));
            Some(wrapper)
        }
    });
    if known.is_some() {
        return Ok(known);
    }
    let (found, _) = settled(|| owner::reading_now(|| wrapper::current(scope.policy.id, scope.key())))?;
    if let Some(wrapper) = found {
        with_held(|held| {
            if held.current.len() >= gucs::cache_entries() {
                held.current.clear();
            }
            held.current.insert(index, wrapper)
        });
    }
    Ok(found)
}

/// The same, made now if there is none.
pub(crate) fn current_or_new(scope: &Scope<'_>) -> Result<[u8; 16], Failure> {
    loop {
        if let Some(wrapper) = current(scope)? {
            return Ok(wrapper);
        }
        if spi::in_recovery() {
            return Err(Failure::read_only());
        }
        // Another session may be making it too: one of both is stored, and both look again.
        owner::as_owner(|| {
            make::values_wrapper(scope.policy, scope.ctx_sha256, scope.key().is_some())?;
            // The wrapper's foreign key holds the policy now; before that its scope may have been changed.
            if policy_by_id(scope.policy.id)?.dek_scope != scope.policy.dek_scope {
                return Err(Failure::policy_changed());
            }
            match (scope.column, scope.key()) {
                (Some((column, generation)), Some(key)) => protected::bind(Uuid::from_bytes(column), scope.policy.id, key, generation),
                _ => Ok(()),
            }
        })?;
    }
}
