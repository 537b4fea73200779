//! SQL functions on values of protected columns, called once a row by triggers and decrypting views. `sql/protected.sql` declares them.
#![allow(unsafe_code)]

use super::{
    fn_values::{checked_text, with_envelope},
    protected::{self, Column, Place},
    remote,
    report::Failure,
    revocation,
    row_key::KeyKind,
    seal::{self, RowContext, Sealing},
    varlena::{self, Args, MAX_BYTEA, MAX_TEXT, raw_function},
};
use crate::core::error::Error;
use pgrx::{Uuid, pg_sys};
use std::ffi::CStr;

raw_function!(kw_open_column, pg_finfo_kw_open_column, open_bytea);
raw_function!(kw_open_column_text, pg_finfo_kw_open_column_text, open_text);
raw_function!(kw_is_current_bytea, pg_finfo_kw_is_current_bytea, is_current_bytea);
raw_function!(kw_is_current_text, pg_finfo_kw_is_current_text, is_current_text);
raw_function!(kw_belongs_bytea, pg_finfo_kw_belongs_bytea, belongs_bytea);
raw_function!(kw_belongs_text, pg_finfo_kw_belongs_text, belongs_text);
raw_function!(kw_wrapper_of_bytea, pg_finfo_kw_wrapper_of_bytea, wrapper_of_bytea);
raw_function!(kw_wrapper_of_text, pg_finfo_kw_wrapper_of_text, wrapper_of_text);
raw_function!(kw_seal_column, pg_finfo_kw_seal_column, seal_column);

fn open_bytea(args: &Args) -> Result<pg_sys::Datum, Failure> {
    let (Some(column), Some(sealed)) = (args.uuid(0), args.bytes(1)) else { return Ok(args.null()) };
    revocation::poll();
    let column = protected::column(&column)?;
    with_envelope(false, sealed, |envelope| match envelope {
        Ok(envelope) => Ok(seal::reveal(&row_of(args, &column)?, &envelope)?.datum()),
        Err(error) => plain_or(args, &column, error),
    })
}

fn open_text(args: &Args) -> Result<pg_sys::Datum, Failure> {
    let (Some(column), Some(sealed)) = (args.uuid(0), args.bytes(1)) else { return Ok(args.null()) };
    revocation::poll();
    let column = protected::column(&column)?;
    with_envelope(true, sealed, |envelope| match envelope {
        Ok(envelope) => Ok(checked_text(seal::reveal(&row_of(args, &column)?, &envelope)?)?.datum()),
        Err(error) => plain_or(args, &column, error),
    })
}

/// Old rows are plain until all are encrypted, and to old snapshots until the table is rewritten; after that, what is no envelope was
/// planted.
fn plain_or(args: &Args, column: &Column, error: Error) -> Result<pg_sys::Datum, Failure> {
    match args.datum(1) {
        Some(plain) if seal::is_plain(column, error) => Ok(plain),
        _ => Err(error.into()),
    }
}

fn is_current_bytea(args: &Args) -> Result<pg_sys::Datum, Failure> {
    is_current(args, false)
}

fn is_current_text(args: &Args) -> Result<pg_sys::Datum, Failure> {
    is_current(args, true)
}

fn is_current(args: &Args, is_text: bool) -> Result<pg_sys::Datum, Failure> {
    let (Some(column), Some(sealed)) = (args.uuid(0), args.bytes(1)) else { return Ok(args.null()) };
    revocation::poll();
    let column = protected::column(&column)?;
    with_envelope(is_text, sealed, |envelope| match envelope {
        Ok(envelope) => Ok(seal::is_current(&column, &row_of(args, &column)?, &envelope)?.into()),
        // A plain value is not under the current DEK either.
        Err(error) if error == Error::NotAnEnvelope || seal::is_plain(&column, error) => Ok(false.into()),
        Err(error) => Err(error.into()),
    })
}

fn belongs_bytea(args: &Args) -> Result<pg_sys::Datum, Failure> {
    belongs(args, false)
}

fn belongs_text(args: &Args) -> Result<pg_sys::Datum, Failure> {
    belongs(args, true)
}

fn belongs(args: &Args, is_text: bool) -> Result<pg_sys::Datum, Failure> {
    let (Some(column), Some(sealed)) = (args.uuid(0), args.bytes(1)) else { return Ok(args.null()) };
    revocation::poll();
    let column = protected::column(&column)?;
    with_envelope(is_text, sealed, |envelope| match envelope {
        Ok(envelope) => Ok(seal::belongs(&row_of(args, &column)?, &envelope)?.into()),
        // A plain value is its row's.
        Err(error) => Ok(seal::is_plain(&column, error).into()),
    })
}

fn wrapper_of_bytea(args: &Args) -> Result<pg_sys::Datum, Failure> {
    wrapper_of(args, false)
}

fn wrapper_of_text(args: &Args) -> Result<pg_sys::Datum, Failure> {
    wrapper_of(args, true)
}

fn wrapper_of(args: &Args, is_text: bool) -> Result<pg_sys::Datum, Failure> {
    let Some(sealed) = args.bytes(0) else { return Ok(args.null()) };
    with_envelope(is_text, sealed, |envelope| Ok(uuid_datum(envelope?.head.wrapper())))
}

fn uuid_datum(uuid: [u8; 16]) -> pg_sys::Datum {
    pgrx::IntoDatum::into_datum(Uuid::from_bytes(uuid)).unwrap_or(pg_sys::Datum::null())
}

/// The row that a call names: its key columns, and its tenant, are the arguments after the value.
fn row_of(args: &Args, column: &Column) -> Result<RowContext, Failure> {
    let kinds = args.remembered(|| (2..args.len()).map(|n| KeyKind::of(args.type_of(n))).collect())?;
    RowContext::new(column, kinds.len(), |n, give| {
        let datum = args.datum(n + 2).ok_or_else(|| Failure::null("row_key"))?;
        let kind = kinds.get(n).ok_or_else(|| Failure::internal("row_key"))?;
        // SAFETY: the argument is of the type that the kind was made of.
        unsafe { kind.with_bytes(datum, give) };
        Ok(())
    })
}

/// What PostgreSQL tells a trigger.
struct Call<'a> {
    data: &'a pg_sys::TriggerData,
    is_update: bool,
    column: [u8; 16],
}

fn call(args: &Args) -> Result<Call<'_>, Failure> {
    let wrong =
        || Failure::trigger_protocol("kw_seal_column must be a row trigger before INSERT or UPDATE, with the uuid of a protected column");
    let data = args.trigger().ok_or_else(wrong)?;
    let event = data.tg_event;
    let operation = event & pg_sys::TRIGGER_EVENT_OPMASK;
    let fired_right = event & pg_sys::TRIGGER_EVENT_ROW != 0
        && event & pg_sys::TRIGGER_EVENT_TIMINGMASK == pg_sys::TRIGGER_EVENT_BEFORE
        && matches!(operation, pg_sys::TRIGGER_EVENT_INSERT | pg_sys::TRIGGER_EVENT_UPDATE);
    if !fired_right {
        return Err(wrong());
    }
    // A trigger's argument is the same for all rows of a statement.
    let column = args.remembered(|| {
        // SAFETY: a trigger in progress; its arguments are NUL-terminated strings, as many as it says.
        let argument = unsafe {
            let trigger = &*data.tg_trigger;
            if trigger.tgnargs == 1 { Some(CStr::from_ptr(*trigger.tgargs).to_bytes()) } else { None }
        };
        argument.and_then(read_uuid).map(|uuid| vec![uuid]).ok_or_else(wrong)
    })?;
    let column = *column.first().ok_or_else(wrong)?;
    Ok(Call { data, is_update: operation == pg_sys::TRIGGER_EVENT_UPDATE, column })
}

/// A uuid as text.
fn read_uuid(text: &[u8]) -> Option<[u8; 16]> {
    let digits: Vec<u8> = text.iter().copied().filter(|c| *c != b'-').collect();
    let mut uuid = [0; 16];
    hex::decode_to_slice(digits, &mut uuid).ok()?;
    (text.len() == 36).then_some(uuid)
}

/// A row in the trigger's hands.
struct Tuple {
    tuple: pg_sys::HeapTuple,
    types: pg_sys::TupleDesc,
}

impl Tuple {
    fn get(&self, attribute: i16) -> Option<pg_sys::Datum> {
        let mut is_null = false;
        // SAFETY: tuple and descriptor belong together, and live as long as the trigger's call.
        let datum = unsafe { pg_sys::heap_getattr(self.tuple, attribute.into(), self.types, &mut is_null) };
        (!is_null).then_some(datum)
    }

    fn context(&self, column: &Column, place: &Place) -> Result<RowContext, Failure> {
        RowContext::new(column, place.keys.len(), |n, give| {
            let (attribute, kind) = place.keys.get(n).ok_or_else(|| Failure::internal("key column"))?;
            let datum = self.get(*attribute).ok_or_else(|| Failure::null("key or tenant column"))?;
            // SAFETY: the kind was made of this column's type.
            unsafe { kind.with_bytes(datum, give) };
            Ok(())
        })
    }
}

fn seal_column(args: &Args) -> Result<pg_sys::Datum, Failure> {
    remote::in_trigger(|| seal_row(args))
}

fn seal_row(args: &Args) -> Result<pg_sys::Datum, Failure> {
    let call = call(args)?;
    revocation::poll();
    // SAFETY: a trigger in progress has a relation with a descriptor, and the tuples of its event.
    let (relation, old, new, statement, is_replica) = unsafe {
        let relation = &*call.data.tg_relation;
        let tuple = |tuple| Tuple { tuple, types: relation.rd_att };
        let (old, new) = if call.is_update {
            (Some(tuple(call.data.tg_trigtuple)), tuple(call.data.tg_newtuple))
        } else {
            (None, tuple(call.data.tg_trigtuple))
        };
        let is_replica = pg_sys::SessionReplicationRole == pg_sys::SESSION_REPLICATION_ROLE_REPLICA.cast_signed();
        (relation.rd_id, old, new, revocation::statement(), is_replica)
    };
    let column = match protected::column(&call.column) {
        Err(failure) if failure.is_unknown() && is_replica => return keep_unregistered(relation, &call.column, &new, failure),
        column => column?,
    };
    let place = protected::place(relation, &column)?;
    let Some(value) = new.get(place.value) else {
        let index = place.index.filter(|n| new.get(*n).is_some());
        return Ok(index.map_or(pg_sys::Datum::from(new.tuple), |n| replaced(&new, [(n, None)])));
    };
    let row = new.context(&column, &place)?;
    let unchanged = old.as_ref().and_then(|old| old.get(place.value).filter(|o| is_same(*o, value)).map(|_| old));
    // SAFETY: the column is of type text or bytea, which whoever told its place has looked at.
    let bytes = || unsafe { varlena::bytes_of(value) };
    let sealed = match unchanged {
        Some(old) => {
            let old_row = old.context(&column, &place)?;
            let is_sealed = !column.is_encrypting || {
                check_plain_len(&column, value)?;
                seal::is_sealed(&column, bytes())?
            };
            match (is_sealed, old_row == row) {
                (false, _) => seal::seal(&column, &row, bytes())?,
                (true, false) => seal::seal_again(&column, &old_row, &row, bytes())?,
                // Replicated rows are as the publisher has them.
                (true, true) if is_replica => return Ok(with_index_of(old, &new, &place)),
                (true, true) => {
                    // SAFETY: as above.
                    let start = unsafe { varlena::start_of(value, seal::START_LEN) };
                    // SAFETY: the index column is of type bytea, which protected::place() has looked at.
                    let index_entry = place.index.and_then(|n| old.get(n)).map(|entry| unsafe { varlena::bytes_of(entry) });
                    match seal::refresh(&column, &row, start, index_entry, bytes)? {
                        Some(row) => row,
                        None => return Ok(with_index_of(old, &new, &place)),
                    }
                }
            }
        }
        None => check_plain_len(&column, value).and_then(|()| seal::seal_new(&column, &row, bytes(), statement, is_replica))?,
    };
    let value = match sealed.value {
        Sealing::Replace(output) => Some((place.value, Some(output.datum()))),
        Sealing::Keep => None,
    };
    let entry = place.index.zip(sealed.index).map(|(n, entry)| (n, Some(entry.datum())));
    Ok(match (value, entry) {
        (Some(value), Some(entry)) => replaced(&new, [value, entry]),
        (Some(one), None) | (None, Some(one)) => replaced(&new, [one]),
        (None, None) => pg_sys::Datum::from(new.tuple),
    })
}

/// Refuses a plain value whose envelope would not fit, before it is decompressed or read from its TOAST table. What begins as an envelope may be
/// longer.
fn check_plain_len(column: &Column, value: pg_sys::Datum) -> Result<(), Failure> {
    let limit = if column.is_text { MAX_TEXT } else { MAX_BYTEA };
    // SAFETY: the column is of type text or bytea, which whoever told its place has looked at.
    unsafe {
        varlena::check_len(value, "value", limit).or_else(|too_long| {
            let start = varlena::start_of(value, seal::START_LEN);
            seal::wrapper_of(column, start).map(drop).ok_or(too_long)
        })
    }
}

/// A row restored or replicated before the column's own row: what is an envelope stays one, and nothing else passes.
fn keep_unregistered(relation: pg_sys::Oid, column: &[u8; 16], new: &Tuple, unknown: Failure) -> Result<pg_sys::Datum, Failure> {
    let value = new.get(protected::unregistered_place(relation, column)?);
    // SAFETY: the column is of type text or bytea, which whoever told its place has looked at.
    let is_sealed = value.is_none_or(|value| unsafe {
        let bytes = varlena::bytes_of(value);
        [false, true].into_iter().any(|is_text| with_envelope(is_text, bytes, |envelope| Ok(envelope.is_ok())).unwrap_or(false))
    });
    if is_sealed { Ok(pg_sys::Datum::from(new.tuple)) } else { Err(unknown) }
}

/// Whether two values are the same bytes. Values in a TOAST table are compared by their pointers: a copy of one has the same.
fn is_same(a: pg_sys::Datum, b: pg_sys::Datum) -> bool {
    // SAFETY: both are of a variable-length type; flat values are as long as their headers say.
    unsafe {
        let (a, b) = (a.cast_mut_ptr::<pg_sys::varlena>(), b.cast_mut_ptr::<pg_sys::varlena>());
        let raw = |v: *mut pg_sys::varlena| std::slice::from_raw_parts(v.cast::<u8>(), pgrx::varlena::varsize_any(v));
        a == b || raw(a) == raw(b)
    }
}

/// The blind index column is the trigger's: nobody else sets it.
fn with_index_of(old: &Tuple, new: &Tuple, place: &Place) -> pg_sys::Datum {
    let Some(n) = place.index else { return pg_sys::Datum::from(new.tuple) };
    let (kept, given) = (old.get(n), new.get(n));
    let same = match (kept, given) {
        (None, None) => true,
        (Some(kept), Some(given)) => is_same(kept, given),
        _ => false,
    };
    if same { pg_sys::Datum::from(new.tuple) } else { replaced(new, [(n, kept)]) }
}

fn replaced<const N: usize>(tuple: &Tuple, changes: [(i16, Option<pg_sys::Datum>); N]) -> pg_sys::Datum {
    let mut columns = changes.map(|(n, _)| i32::from(n));
    let mut values = changes.map(|(_, value)| value.unwrap_or(pg_sys::Datum::null()));
    let mut nulls = changes.map(|(_, value)| value.is_none());
    // SAFETY: three arrays of so many items, columns that the descriptor has.
    let modified = unsafe {
        let n = i32::try_from(N).unwrap_or(0);
        pg_sys::heap_modify_tuple_by_cols(tuple.tuple, tuple.types, n, columns.as_mut_ptr(), values.as_mut_ptr(), nulls.as_mut_ptr())
    };
    pg_sys::Datum::from(modified)
}
