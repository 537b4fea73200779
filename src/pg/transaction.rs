//! What ends with a transaction: runs of nonces, what was read from rows that may never be committed, and what was counted.
#![allow(unsafe_code)]

use super::{cache, revocation, unknown};
use pgrx::{pg_guard, pg_sys};
use std::cell::Cell;

thread_local! {
    /// Number of the top-level transaction, in this process.
    static SERIAL: Cell<u64> = const { Cell::new(0) };
    /// Moves whenever this process may have given row locks back.
    static LOCKS: Cell<u64> = const { Cell::new(0) };
    /// Whether something held was read while this transaction had written.
    static TENTATIVE: Cell<bool> = const { Cell::new(false) };
}

/// Registers for the ends of transactions and of the process. Called once a backend.
pub(super) fn listen() {
    // SAFETY: callbacks that live as long as the library.
    unsafe {
        pg_sys::RegisterXactCallback(Some(on_end), std::ptr::null_mut());
        pg_sys::RegisterSubXactCallback(Some(on_subtransaction_end), std::ptr::null_mut());
        pg_sys::on_proc_exit(Some(on_exit), pg_sys::Datum::null());
    }
}

/// A number that no other top-level transaction of this process has.
pub(crate) fn serial() -> u64 {
    SERIAL.get()
}

/// A number that stays as long as row locks taken since are held for sure: until the transaction ends or a part of it is rolled back.
pub(crate) fn locks() -> u64 {
    LOCKS.get()
}

/// Whether this transaction has written, so that what it reads now may be its own and be rolled back. Remembered until its end.
pub(crate) fn is_tentative() -> bool {
    // SAFETY: reads a variable of this process.
    let has_written = unsafe { pg_sys::GetTopTransactionIdIfAny() } != pg_sys::TransactionId::INVALID;
    if has_written {
        TENTATIVE.set(true);
    }
    has_written
}

/// Rows that this transaction wrote are gone: so is all that was read from them.
fn forget_tentative() {
    if TENTATIVE.replace(false) {
        cache::drop_tentative();
        revocation::bump();
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn on_end(event: pg_sys::XactEvent::Type, _arg: *mut std::ffi::c_void) {
    use pg_sys::XactEvent::{
        XACT_EVENT_ABORT, XACT_EVENT_COMMIT, XACT_EVENT_PARALLEL_ABORT, XACT_EVENT_PARALLEL_COMMIT, XACT_EVENT_PRE_COMMIT,
        XACT_EVENT_PRE_PREPARE, XACT_EVENT_PREPARE,
    };
    match event {
        // Statements can still run, and their errors roll it back.
        XACT_EVENT_PRE_COMMIT | XACT_EVENT_PRE_PREPARE => return unknown::write().unwrap_or_else(|failure| failure.raise()),
        XACT_EVENT_COMMIT | XACT_EVENT_PARALLEL_COMMIT => {
            if TENTATIVE.replace(false) {
                cache::promote_tentative();
            }
        }
        // A prepared transaction may still be rolled back, by anybody.
        XACT_EVENT_ABORT | XACT_EVENT_PARALLEL_ABORT | XACT_EVENT_PREPARE => forget_tentative(),
        _ => return,
    }
    unknown::forget();
    SERIAL.set(SERIAL.get().wrapping_add(1));
    LOCKS.set(LOCKS.get().wrapping_add(1));
}

#[pg_guard]
unsafe extern "C-unwind" fn on_subtransaction_end(
    event: pg_sys::SubXactEvent::Type,
    subtransaction: pg_sys::SubTransactionId,
    parent: pg_sys::SubTransactionId,
    _arg: *mut std::ffi::c_void,
) {
    use pg_sys::SubXactEvent::{SUBXACT_EVENT_ABORT_SUB, SUBXACT_EVENT_COMMIT_SUB};
    match event {
        SUBXACT_EVENT_ABORT_SUB => {
            LOCKS.set(LOCKS.get().wrapping_add(1));
            forget_tentative();
            unknown::forget_of(subtransaction);
        }
        SUBXACT_EVENT_COMMIT_SUB => unknown::hand_up(subtransaction, parent),
        _ => {}
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn on_exit(_code: i32, _arg: pg_sys::Datum) {
    cache::wipe();
}
