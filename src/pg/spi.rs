//! Running the extension's own statements: prepared once a backend, parameters only, rows read column by column in order.
#![allow(unsafe_code)]

use super::{report::Failure, varlena::bytes_of};
use pgrx::{
    FromDatum, IntoDatum, Spi,
    datum::{DatumWithOid, TimestampWithTimeZone},
    pg_sys,
};
use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    ffi::{CStr, CString},
};

thread_local! {
    /// Plans by the place of their text in the program: each statement is one `const`.
    static PLANS: RefCell<HashMap<(*const u8, usize), pg_sys::SPIPlanPtr>> = RefCell::new(HashMap::new());
    /// Whether reads use the active snapshot as it is.
    static ACTIVE_SNAPSHOT: Cell<bool> = const { Cell::new(false) };
}

/// A result row, taken apart at once. Columns are taken in the order of the SELECT list.
pub(crate) struct Row {
    types: Vec<pg_sys::Oid>,
    values: Vec<pg_sys::Datum>,
    nulls: Vec<bool>,
    column: usize,
    /// The last JSON of each column that was printed, with its text.
    printed: HashMap<usize, (Vec<u8>, String)>,
}

impl Row {
    /// The next column, which may be NULL.
    pub(crate) fn opt<T: FromDatum + IntoDatum>(&mut self) -> Result<Option<T>, Failure> {
        let (value, is_null, found) = self.take(T::is_compatible_with)?;
        // SAFETY: the value is of the type found, in a result that lives until the statement's connection ends.
        Ok(unsafe { T::from_polymorphic_datum(value, is_null, found) })
    }

    fn take(&mut self, is_expected: impl FnOnce(pg_sys::Oid) -> bool) -> Result<(pg_sys::Datum, bool, pg_sys::Oid), Failure> {
        let place = self.column;
        let (Some(value), Some(is_null), Some(found)) = (self.values.get(place), self.nulls.get(place), self.types.get(place)) else {
            return Err(Failure::internal(format!("column {place} is missing")));
        };
        self.column += 1;
        if !is_expected(*found) {
            return Err(Failure::internal(format!("column {place} is of type {}", found.to_u32())));
        }
        Ok((*value, *is_null, *found))
    }

    /// The next column, a `jsonb` that may be NULL, as text. What stands in row after row is printed once: printing takes twice as long as reading
    /// the whole row.
    pub(crate) fn opt_json(&mut self) -> Result<Option<String>, Failure> {
        let place = self.column;
        let (datum, is_null, _) = self.take(|found| found == pg_sys::JSONBOID)?;
        if is_null {
            return Ok(None);
        }
        // SAFETY: of the type asked for, which is a variable-length one, and it lives until the statement's connection ends.
        let stored = unsafe { bytes_of(datum) };
        if let Some((last, text)) = self.printed.get(&place)
            && last == stored
        {
            return Ok(Some(text.clone()));
        }
        // SAFETY: jsonb_out() takes a jsonb and returns a new NUL-terminated string.
        let text: Option<&CStr> = unsafe { pgrx::direct_function_call(pg_sys::jsonb_out, &[Some(datum)]) };
        // Another encoding than UTF-8 may hold what was edited there: it then agrees with nothing.
        let text = text.ok_or_else(|| Failure::internal("jsonb"))?.to_string_lossy().into_owned();
        self.printed.insert(place, (stored.to_vec(), text.clone()));
        Ok(Some(text))
    }

    /// The next column, which is never NULL.
    pub(crate) fn next<T: FromDatum + IntoDatum>(&mut self) -> Result<T, Failure> {
        self.opt()?.ok_or_else(|| Failure::internal(format!("column {} is null", self.column)))
    }
}

/// Lets reads in `f` see what the active snapshot shows, and nothing newer.
pub(super) fn with_active_snapshot<T>(f: impl FnOnce() -> Result<T, Failure>) -> Result<T, Failure> {
    struct Reset(bool);
    impl Drop for Reset {
        fn drop(&mut self) {
            ACTIVE_SNAPSHOT.set(self.0);
        }
    }
    let reset = Reset(ACTIVE_SNAPSHOT.replace(true));
    let result = f();
    drop(reset);
    result
}

/// Runs a statement that changes nothing.
pub(crate) fn select<T>(
    sql: &'static str,
    args: &[DatumWithOid<'_>],
    read: impl FnMut(&mut Row) -> Result<T, Failure>,
) -> Result<Vec<T>, Failure> {
    run(sql, args, false, read)
}

/// Runs a statement that writes.
pub(crate) fn write<T>(
    sql: &'static str,
    args: &[DatumWithOid<'_>],
    read: impl FnMut(&mut Row) -> Result<T, Failure>,
) -> Result<Vec<T>, Failure> {
    run(sql, args, true, read)
}

/// Runs a statement that writes and returns how many rows it touched.
pub(crate) fn execute(sql: &'static str, args: &[DatumWithOid<'_>]) -> Result<usize, Failure> {
    not_on_standby()?;
    Spi::connect_mut(|_| Ok(run_plan(sql, args, false)?.1))
}

/// The first row.
pub(crate) fn first<T>(rows: Vec<T>) -> Option<T> {
    rows.into_iter().next()
}

fn run<T>(
    sql: &'static str,
    args: &[DatumWithOid<'_>],
    writes: bool,
    mut read: impl FnMut(&mut Row) -> Result<T, Failure>,
) -> Result<Vec<T>, Failure> {
    if writes {
        not_on_standby()?;
    }
    Spi::connect_mut(|_| {
        let (table, rows) = run_plan(sql, args, !writes && ACTIVE_SNAPSHOT.get())?;
        let mut results = Vec::with_capacity(rows);
        if rows > 0 {
            // SAFETY: a statement with rows has a table of them.
            let descriptor = unsafe { (*table).tupdesc };
            // SAFETY: as above; asked for its columns, which count from 1.
            let types: Vec<pg_sys::Oid> = unsafe { (1..=(*descriptor).natts).map(|n| pg_sys::SPI_gettypeid(descriptor, n)).collect() };
            let columns = types.len();
            let mut row =
                Row { types, values: vec![pg_sys::Datum::null(); columns], nulls: vec![true; columns], column: 0, printed: HashMap::new() };
            for i in 0..rows {
                // SAFETY: the table has so many rows of this type and lives until the connection ends; both arrays have a place for each column.
                unsafe { pg_sys::heap_deform_tuple(*(*table).vals.add(i), descriptor, row.values.as_mut_ptr(), row.nulls.as_mut_ptr()) };
                row.column = 0;
                results.push(read(&mut row)?);
            }
        }
        // SAFETY: nothing of it is used any more; results own what they hold.
        unsafe { pg_sys::SPI_freetuptable(table) };
        Ok(results)
    })
}

/// Runs a prepared statement within a connection; returns its result table, NULL if it has none, and the number of rows.
///
/// `read_only` reads with the active snapshot; otherwise the statement sees what was committed before it, within the transaction's isolation.
fn run_plan(sql: &'static str, args: &[DatumWithOid<'_>], read_only: bool) -> Result<(*mut pg_sys::SPITupleTable, usize), Failure> {
    let plan = plan(sql, args)?;
    let mut values: Vec<pg_sys::Datum> = args.iter().map(|arg| arg.datum().map_or(pg_sys::Datum::null(), |d| d.sans_lifetime())).collect();
    let nulls: Vec<std::ffi::c_char> = args.iter().map(|arg| if arg.datum().is_some() { b' ' } else { b'n' }.cast_signed()).collect();
    // SAFETY: the plan has been kept, and was prepared for arguments of these types; both arrays have one item for each.
    unsafe {
        pg_sys::SPI_tuptable = std::ptr::null_mut();
        let code = pg_sys::SPI_execute_plan(plan, values.as_mut_ptr(), nulls.as_ptr(), read_only, 0);
        if code < 0 {
            return Err(Failure::internal(format!("statement ended with code {code}")));
        }
        Ok((pg_sys::SPI_tuptable, usize::try_from(pg_sys::SPI_processed).map_err(Failure::internal)?))
    }
}

/// The next value of a sequence of the extension's. A statement around it would take longer than drawing it.
pub(crate) fn next_value(sequence: &CStr) -> Result<i64, Failure> {
    not_on_standby()?;
    // SAFETY: look-ups by NUL-terminated names; drawing from what is not there raises an ERROR.
    let value = unsafe {
        let schema = pg_sys::get_namespace_oid(c"kms_wrap".as_ptr(), false);
        let sequence = pg_sys::get_relname_relid(sequence.as_ptr(), schema);
        pgrx::direct_function_call(pg_sys::nextval_oid, &[sequence.into_datum()])
    };
    value.ok_or_else(|| Failure::internal("sequence"))
}

/// PostgreSQL's own check comes only when a row is written, after nextval() has failed with an internal error.
fn not_on_standby() -> Result<(), Failure> {
    if in_recovery() { Err(Failure::read_only()) } else { Ok(()) }
}

/// Whether all statements of this transaction see one snapshot (repeatable read, serializable).
pub(crate) fn has_transaction_snapshot() -> bool {
    // SAFETY: reads a variable of this process.
    let level = unsafe { pg_sys::XactIsoLevel };
    u32::try_from(level).is_ok_and(|level| level >= pg_sys::XACT_REPEATABLE_READ)
}

/// When this process started.
pub(crate) fn session_start() -> Option<TimestampWithTimeZone> {
    // SAFETY: set once when the process starts.
    let start = unsafe { pg_sys::MyStartTimestamp };
    TimestampWithTimeZone::try_from(start).ok()
}

/// Whether this transaction may write.
pub(crate) fn may_write() -> bool {
    // SAFETY: reads a variable of this process.
    !in_recovery() && !unsafe { pg_sys::XactReadOnly }
}

/// Whether this server is a standby.
pub(crate) fn in_recovery() -> bool {
    // SAFETY: reads a flag in shared memory.
    unsafe { pg_sys::RecoveryInProgress() }
}

fn plan(sql: &'static str, args: &[DatumWithOid<'_>]) -> Result<pg_sys::SPIPlanPtr, Failure> {
    let place = (sql.as_ptr(), sql.len());
    if let Some(plan) = PLANS.with_borrow(|plans| plans.get(&place).copied()) {
        return Ok(plan);
    }
    let mut types: Vec<pg_sys::Oid> = args.iter().map(|arg| arg.oid()).collect();
    let text = CString::new(sql).map_err(Failure::internal)?;
    let n = i32::try_from(types.len()).map_err(Failure::internal)?;
    // SAFETY: within a connection; text and types outlive the call, and the plan is copied to where it stays for the backend's life.
    let plan = unsafe {
        let plan = pg_sys::SPI_prepare(text.as_ptr(), n, types.as_mut_ptr());
        if plan.is_null() || pg_sys::SPI_keepplan(plan) != 0 {
            return Err(Failure::internal("statement cannot be prepared"));
        }
        plan
    };
    PLANS.with_borrow_mut(|plans| plans.insert(place, plan));
    Ok(plan)
}
