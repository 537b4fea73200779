//! Envelopes that were stored although their wrappers are not here: counted in memory, and written once when the transaction ends. With a
//! statement for each, every one would search past the versions that all before it have left of the column's row.
#![allow(unsafe_code)]

use super::{catalog::protected as rows, owner, report::Failure, revocation};
use pgrx::{Uuid, pg_sys};
use std::cell::RefCell;

/// Of one column, in one subtransaction.
struct Count {
    column: [u8; 16],
    subtransaction: pg_sys::SubTransactionId,
    envelopes: i64,
}

thread_local! {
    static COUNTS: RefCell<Vec<Count>> = const { RefCell::new(Vec::new()) };
}

fn add(counts: &mut Vec<Count>, new: Count) {
    match counts.iter_mut().find(|c| c.column == new.column && c.subtransaction == new.subtransaction) {
        Some(count) => count.envelopes += new.envelopes,
        None => counts.push(new),
    }
}

/// Counts one.
pub(crate) fn count(column: [u8; 16]) -> Result<(), Failure> {
    // Or nobody would tell of the transaction's end.
    revocation::listen()?;
    // SAFETY: reads a variable of this process.
    let subtransaction = unsafe { pg_sys::GetCurrentSubTransactionId() };
    COUNTS.with_borrow_mut(|counts| add(counts, Count { column, subtransaction, envelopes: 1 }));
    Ok(())
}

/// What a subtransaction counted is its parent's now.
pub(super) fn hand_up(subtransaction: pg_sys::SubTransactionId, parent: pg_sys::SubTransactionId) {
    COUNTS.with_borrow_mut(|counts| {
        let (own, mut rest): (Vec<_>, Vec<_>) = counts.drain(..).partition(|c| c.subtransaction == subtransaction);
        for count in own {
            add(&mut rest, Count { subtransaction: parent, ..count });
        }
        *counts = rest;
    });
}

/// The rows of a subtransaction are gone.
pub(super) fn forget_of(subtransaction: pg_sys::SubTransactionId) {
    COUNTS.with_borrow_mut(|counts| counts.retain(|c| c.subtransaction != subtransaction));
}

/// The transaction has ended.
pub(super) fn forget() {
    COUNTS.take();
}

/// Writes what the transaction has counted, before it commits or is prepared.
pub(super) fn write() -> Result<(), Failure> {
    let mut counts = COUNTS.take();
    if counts.is_empty() {
        return Ok(());
    }
    // In one order, so that two transactions don't wait for each other.
    counts.sort_by_key(|c| c.column);
    // The transaction's last statement has ended, and its snapshot is gone. An error leaves this one to the roll-back.
    // SAFETY: in a transaction that can still read and write; popped below.
    unsafe { pg_sys::PushActiveSnapshot(pg_sys::GetTransactionSnapshot()) };
    owner::as_owner(|| counts.iter().try_for_each(|c| rows::count_unknown(Uuid::from_bytes(c.column), c.envelopes)))?;
    // SAFETY: the one pushed above: statements under it have popped theirs.
    unsafe { pg_sys::PopActiveSnapshot() };
    Ok(())
}
