//! How a change of rights or keys reaches what other backends hold in memory.
//!
//! Triggers on the tables that decide send a relcache invalidation of one tiny table (`kw_revoked`); PostgreSQL carries it to every backend at
//! commit, and in the WAL to every standby. Changes of roles come the same way, by the syscache. Here they move a counter that everything
//! held is compared with.
#![allow(unsafe_code)]

use super::{breaker, owner, report::Failure, transaction, varlena};
use pgrx::{pg_guard, pg_sys};
use std::cell::Cell;

/// Messages are taken in at the start of a statement, and within one after so many calls.
const CALLS_BETWEEN_POLLS: u32 = 64;

thread_local! {
    /// Moves with every change of rights or keys; and one that moves with every change of any table's definition.
    static EPOCHS: Cell<(u64, u64)> = const { Cell::new((1, 1)) };
    static MARKER: Cell<pg_sys::Oid> = const { Cell::new(pg_sys::InvalidOid) };
    static REGISTERED: Cell<bool> = const { Cell::new(false) };
    static CALLS: Cell<u32> = const { Cell::new(0) };
    static STATEMENT: Cell<i64> = const { Cell::new(i64::MIN) };
    /// Changes of providers' states that were taken in.
    static OUTAGES: Cell<u64> = const { Cell::new(0) };
    static NOW: Cell<i64> = const { Cell::new(0) };
}

/// The state of rights and keys: what was read under another number has to be read again.
pub(crate) fn epoch() -> u64 {
    EPOCHS.get().0
}

/// The state of table definitions.
pub(crate) fn definitions() -> u64 {
    EPOCHS.get().1
}

unsafe extern "C" {
    /// Without pgrx's guard against errors, of which it raises none: this is asked once a row.
    fn GetCurrentStatementStartTimestamp() -> pg_sys::TimestampTz;
}

/// When the statement began: what tells one from the next.
pub(crate) fn statement() -> i64 {
    // SAFETY: reads a variable of this process.
    unsafe { GetCurrentStatementStartTimestamp() }
}

/// Takes in what other sessions have changed: at the first call of a statement, and at every 64th after it.
pub(crate) fn poll() {
    let statement = statement();
    let calls = CALLS.get().wrapping_add(1);
    CALLS.set(calls);
    if STATEMENT.replace(statement) != statement || calls.is_multiple_of(CALLS_BETWEEN_POLLS) {
        take_in();
    }
}

/// Takes in what other sessions have changed, and looks at the clock.
pub(crate) fn take_in() {
    // SAFETY: as before taking any lock on a table; needs a transaction, which every function call is in.
    unsafe {
        pg_sys::AcceptInvalidationMessages();
        NOW.set(pg_sys::GetCurrentTimestamp());
    }
    // What a policy lets be served from memory may depend on whether its providers answer.
    let outages = breaker::changes();
    if OUTAGES.replace(outages) != outages {
        bump();
    }
}

/// The clock at the last look, in microseconds.
pub(crate) fn now() -> i64 {
    NOW.get()
}

/// Makes sure that changes are heard of. Called before anything is read that is going to be held.
pub(crate) fn listen() -> Result<(), Failure> {
    MARKER.set(owner::marker()?);
    if !REGISTERED.replace(true) {
        // SAFETY: once a backend, callbacks that live as long as the library; the slots are few but not that few.
        unsafe {
            pg_sys::CacheRegisterRelcacheCallback(Some(on_relcache), pg_sys::Datum::null());
            // Who owns the database is a membership too, in pg_database_owner.
            for cache in
                [pg_sys::SysCacheIdentifier::AUTHOID, pg_sys::SysCacheIdentifier::AUTHMEMMEMROLE, pg_sys::SysCacheIdentifier::DATABASEOID]
            {
                pg_sys::CacheRegisterSyscacheCallback(cache.cast_signed(), Some(on_syscache), pg_sys::Datum::null());
            }
        }
        transaction::listen();
    }
    Ok(())
}

/// Tells every backend, at commit, and this one at once.
pub(crate) fn announce() -> Result<(), Failure> {
    let marker = owner::marker()?;
    // SAFETY: a table that exists, in a transaction.
    unsafe { pg_sys::CacheInvalidateRelcacheByRelid(marker) };
    Ok(())
}

/// Counts what is held from before as outdated.
pub(crate) fn bump() {
    let (rights, definitions) = EPOCHS.get();
    EPOCHS.set((rights.wrapping_add(1), definitions.wrapping_add(1)));
}

#[pg_guard]
unsafe extern "C-unwind" fn on_relcache(_arg: pg_sys::Datum, relation: pg_sys::Oid) {
    // InvalidOid stands for all tables: messages were lost.
    if relation == MARKER.get() || relation == pg_sys::InvalidOid {
        bump();
    } else {
        let (rights, definitions) = EPOCHS.get();
        EPOCHS.set((rights, definitions.wrapping_add(1)));
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn on_syscache(_arg: pg_sys::Datum, _cache: i32, _hash: u32) {
    bump();
}

/// The trigger that tells: fired by changes of the tables that decide.
fn on_change(args: &varlena::Args) -> Result<pg_sys::Datum, Failure> {
    announce()?;
    // The result of an AFTER trigger is not looked at.
    Ok(args.no_row())
}

varlena::raw_function!(kw_revoked, pg_finfo_kw_revoked, on_change);
