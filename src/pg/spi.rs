//! Running the extension's own statements: prepared once a backend, parameters only, rows read column by column in order.

use super::report::Failure;
use pgrx::{
    FromDatum, IntoDatum, PgOid, Spi,
    datum::{DatumWithOid, TimestampWithTimeZone},
    spi::{OwnedPreparedStatement, SpiHeapTupleData},
};
use std::{cell::RefCell, collections::HashMap, rc::Rc};

thread_local! {
    /// Plans by the place of their text in the program: each statement is one `const`.
    static PLANS: RefCell<HashMap<(*const u8, usize), Rc<OwnedPreparedStatement>>> = RefCell::new(HashMap::new());
}

/// A result row. Columns are taken in the order of the SELECT list.
pub(crate) struct Row<'a> {
    tuple: SpiHeapTupleData<'a>,
    column: usize,
}

impl Row<'_> {
    /// The next column, which may be NULL.
    pub(crate) fn opt<T: FromDatum + IntoDatum>(&mut self) -> Result<Option<T>, Failure> {
        self.column += 1;
        Ok(self.tuple.get(self.column)?)
    }

    /// The next column, which is never NULL.
    pub(crate) fn next<T: FromDatum + IntoDatum>(&mut self) -> Result<T, Failure> {
        self.opt()?.ok_or_else(|| Failure::internal(format!("column {} is null", self.column)))
    }
}

/// Runs a statement that changes nothing.
pub(crate) fn select<T>(
    sql: &'static str,
    args: &[DatumWithOid<'_>],
    read: impl FnMut(&mut Row<'_>) -> Result<T, Failure>,
) -> Result<Vec<T>, Failure> {
    run(sql, args, false, read)
}

/// Runs a statement that writes.
pub(crate) fn write<T>(
    sql: &'static str,
    args: &[DatumWithOid<'_>],
    read: impl FnMut(&mut Row<'_>) -> Result<T, Failure>,
) -> Result<Vec<T>, Failure> {
    run(sql, args, true, read)
}

/// Runs a statement that writes and returns how many rows it touched.
pub(crate) fn execute(sql: &'static str, args: &[DatumWithOid<'_>]) -> Result<usize, Failure> {
    not_on_standby()?;
    Spi::connect_mut(|client| {
        let plan = plan(client, sql, args, true)?;
        Ok(client.update(&*plan, None, args)?.len())
    })
}

/// The first row.
pub(crate) fn first<T>(rows: Vec<T>) -> Option<T> {
    rows.into_iter().next()
}

fn run<T>(
    sql: &'static str,
    args: &[DatumWithOid<'_>],
    writes: bool,
    mut read: impl FnMut(&mut Row<'_>) -> Result<T, Failure>,
) -> Result<Vec<T>, Failure> {
    if writes {
        not_on_standby()?;
    }
    Spi::connect_mut(|client| {
        let plan = plan(client, sql, args, writes)?;
        let table = if writes { client.update(&*plan, None, args)? } else { client.select(&*plan, None, args)? };
        table.map(|tuple| read(&mut Row { tuple, column: 0 })).collect()
    })
}

/// PostgreSQL's own check comes only when a row is written, after nextval() has failed with an internal error.
fn not_on_standby() -> Result<(), Failure> {
    if in_recovery() { Err(Failure::read_only()) } else { Ok(()) }
}

/// Whether all statements of this transaction see one snapshot (repeatable read, serializable).
pub(crate) fn has_transaction_snapshot() -> bool {
    // SAFETY: reads a variable of this process.
    #[allow(unsafe_code)]
    let level = unsafe { pgrx::pg_sys::XactIsoLevel };
    u32::try_from(level).is_ok_and(|level| level >= pgrx::pg_sys::XACT_REPEATABLE_READ)
}

/// When this process started.
pub(crate) fn session_start() -> Option<TimestampWithTimeZone> {
    // SAFETY: set once when the process starts.
    #[allow(unsafe_code)]
    let start = unsafe { pgrx::pg_sys::MyStartTimestamp };
    TimestampWithTimeZone::try_from(start).ok()
}

/// Whether this server is a standby.
pub(crate) fn in_recovery() -> bool {
    // SAFETY: reads a flag in shared memory.
    #[allow(unsafe_code)]
    unsafe {
        pgrx::pg_sys::RecoveryInProgress()
    }
}

fn plan(
    client: &pgrx::spi::SpiClient<'_>,
    sql: &'static str,
    args: &[DatumWithOid<'_>],
    writes: bool,
) -> Result<Rc<OwnedPreparedStatement>, Failure> {
    if let Some(plan) = PLANS.with_borrow(|plans| plans.get(&(sql.as_ptr(), sql.len())).cloned()) {
        return Ok(plan);
    }
    let types: Vec<_> = args.iter().map(|arg| PgOid::from(arg.oid())).collect();
    let prepared = if writes { client.prepare_mut(sql, &types)? } else { client.prepare(sql, &types)? };
    let plan = Rc::new(prepared.keep());
    PLANS.with_borrow_mut(|plans| plans.insert((sql.as_ptr(), sql.len()), Rc::clone(&plan)));
    Ok(plan)
}
