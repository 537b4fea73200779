//! Sealing a row of a protected column: what the trigger does, apart from talking to PostgreSQL about tuples.

use super::{
    deks::{self, Scope},
    fn_values::with_envelope,
    grants::{self, Privilege},
    protected::{Column, Index},
    report::Failure,
    transaction, unknown,
    values::{self, Form},
    varlena::Output,
};
use crate::core::{
    blind_index::{Normalised, ValueType, normalise},
    error::Error,
    scope,
    value::{self, Envelope, Head, ValueContext},
};
use std::{cell::RefCell, collections::VecDeque};
use zeroize::Zeroizing;

/// Values sealed last, so that the same statement can seal one again under another row's key. More than one, since a row may have several
/// protected columns, and a trigger may write rows of its own.
const RECENT: usize = 32;

/// Where a value belongs: a row of a column.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct RowContext {
    pub(crate) value: ValueContext,
    /// What the DEK of the column, or of the row's tenant, is bound to.
    pub(crate) scope: [u8; 32],
}

impl RowContext {
    /// `keys` hands over the bytes of so many columns one by one: the primary key's, and then the tenant's if there is one.
    pub(crate) fn new(
        column: &Column,
        count: usize,
        mut keys: impl FnMut(usize, &mut dyn FnMut(&[u8])) -> Result<(), Failure>,
    ) -> Result<Self, Failure> {
        let mut row = Self { value: ValueContext::default(), scope: column.scope.unwrap_or_default() };
        let of_key = if column.scope.is_some() { count } else { count.checked_sub(1).ok_or_else(|| Failure::internal("tenant column"))? };
        row.value.begin_column(&column.uuid, u8::try_from(of_key).map_err(Failure::internal)?);
        for n in 0..of_key {
            keys(n, &mut |bytes| row.value.push(bytes))?;
        }
        if of_key < count {
            keys(of_key, &mut |tenant| row.scope = scope::of_column(&column.uuid, Some(tenant)))?;
        }
        Ok(row)
    }
}

/// A value that the caller gave plain, sealed by this process in the statement and transaction of this number. Never one that was stored: whoever may
/// only encrypt could have it sealed for a row of their own.
struct Sealed {
    nonce: ([u8; 12], [u8; 12]),
    transaction: u64,
    statement: i64,
    context: RowContext,
}

thread_local! {
    static SEALED: RefCell<VecDeque<Sealed>> = const { RefCell::new(VecDeque::new()) };
}

/// What becomes of a column's value.
pub(crate) enum Sealing {
    /// It stays.
    Keep,
    /// This takes its place.
    Replace(Output),
}

/// What a row gets: the sealed value, and the entry of the blind index if there is one.
pub(crate) struct Row {
    pub(crate) value: Sealing,
    pub(crate) index: Option<Output>,
}

/// Seals a value that was inserted or changed.
pub(crate) fn seal_new(column: &Column, row: &RowContext, value: &[u8], statement: i64, is_replica: bool) -> Result<Row, Failure> {
    with_envelope(column.is_text, value, |envelope| match envelope {
        Ok(envelope) => sealed_already(column, row, &envelope, statement, is_replica),
        Err(Error::NotAnEnvelope) => seal_given(column, row, value, statement),
        Err(error) => Err(error.into()),
    })
}

/// Whether a stored value that is no envelope, for this reason, is one from before its column was protected. One of a later version would
/// not have passed the CHECK constraint.
pub(crate) fn is_plain(column: &Column, error: Error) -> bool {
    column.is_encrypting && matches!(error, Error::NotAnEnvelope | Error::UnsupportedVersion(_) | Error::UnsupportedCipher(_))
}

/// Whether a stored value is an envelope, and not one from before its column was protected.
pub(crate) fn is_sealed(column: &Column, value: &[u8]) -> Result<bool, Failure> {
    with_envelope(column.is_text, value, |envelope| match envelope {
        Ok(_) => Ok(true),
        Err(error) if is_plain(column, error) => Ok(false),
        Err(error) => Err(error.into()),
    })
}

/// What becomes of a value that did not change, in a row whose key did not: it stays, unless its DEK or its index entry is of an older
/// generation. `start` is how the value begins, `bytes` all of it.
pub(crate) fn refresh<'a>(
    column: &Column,
    row: &RowContext,
    start: &[u8],
    index_entry: Option<&[u8]>,
    bytes: impl FnOnce() -> &'a [u8],
) -> Result<Option<Row>, Failure> {
    let policy = &column.policy;
    let current = deks::current(&Scope { policy, ctx_sha256: row.scope, column: Some((column.uuid, None)) })?;
    let is_current = current.is_none() || current == wrapper_of(column, start);
    let has_entry = column.index.as_ref().is_none_or(|index| index_entry.and_then(<[u8]>::first) == Some(&index.generation));
    // Whoever may not encrypt can still change the row's other columns.
    if (is_current && has_entry) || !policy.is_enabled || !grants::is_granted(policy.id, Privilege::Encrypt)? {
        return Ok(None);
    }
    if is_current {
        let index = column.index.as_ref();
        let plaintext = open(column, row, bytes())?;
        let index = index.map(|index| entry(column, index, index.generation, &plaintext)).transpose()?;
        return Ok(Some(Row { value: Sealing::Keep, index }));
    }
    seal_again(column, row, row, bytes()).map(Some)
}

/// Bytes of a stored value that name its wrapper: the head's first 20, armoured or not.
pub(crate) const START_LEN: usize = 32;

/// The wrapper that a value names that begins so, if it begins as an envelope does.
pub(crate) fn wrapper_of(column: &Column, start: &[u8]) -> Option<[u8; 16]> {
    if column.is_text { value::armoured_wrapper(start) } else { value::raw_wrapper(start) }
}

/// Seals a value for the row's new key; it was sealed for the old one.
pub(crate) fn seal_again(column: &Column, old: &RowContext, new: &RowContext, value: &[u8]) -> Result<Row, Failure> {
    let plaintext = open(column, old, value)?;
    seal(column, new, &plaintext)
}

fn open(column: &Column, row: &RowContext, value: &[u8]) -> Result<Zeroizing<Vec<u8>>, Failure> {
    with_envelope(column.is_text, value, |envelope| open_envelope(row, &envelope?))
}

/// With the right to encrypt alone: what is opened is sealed again, and never shown.
fn open_envelope(row: &RowContext, envelope: &Envelope<'_>) -> Result<Zeroizing<Vec<u8>>, Failure> {
    deks::with_dek(&envelope.head.wrapper(), Privilege::Encrypt, |entry| {
        values::check_bound(entry, &row.scope)?;
        values::open_secretly(entry, &row.value, envelope)
    })
}

/// A value that came as an envelope: fine if it is this row's, and never encrypted a second time.
fn sealed_already(column: &Column, row: &RowContext, envelope: &Envelope<'_>, statement: i64, is_replica: bool) -> Result<Row, Failure> {
    let nonce = (envelope.head.prefix(), envelope.head.gcm_nonce());
    match open_envelope(row, envelope) {
        Ok(plaintext) => {
            let index = column.index.as_ref().map(|index| entry(column, index, index.generation, &plaintext)).transpose()?;
            return Ok(Row { value: Sealing::Keep, index });
        }
        // Rows of another database, replicated or restored before their wrappers.
        Err(failure) if failure.is_unknown() && is_replica => {
            unknown::count(column.uuid)?;
            return Ok(Row { value: Sealing::Keep, index: None });
        }
        Err(failure) if !(failure.is_unknown() || failure.is_not_opened()) => return Err(failure),
        Err(_) => {}
    }
    // INSERT ... ON CONFLICT: sealed for the row that was to be inserted, and now on its way into another.
    let meant_for = SEALED.with_borrow(|sealed| {
        let mine = |s: &&Sealed| s.nonce == nonce && s.transaction == transaction::serial() && s.statement == statement;
        sealed.iter().find(mine).map(|s| s.context.clone())
    });
    match meant_for {
        Some(other) => seal_given(column, row, &open_envelope(&other, envelope)?, statement),
        None => Err(Failure::bad_argument(
            "value is an envelope that does not belong to this row",
            "A protected column takes plain values, and envelopes that were sealed for the same row.",
        )),
    }
}

/// The right to use a DEK is checked when it is used; the right to make one here.
fn current_or_new(scope: &Scope<'_>) -> Result<[u8; 16], Failure> {
    if let Some(wrapper) = deks::current(scope)? {
        return Ok(wrapper);
    }
    grants::require(scope.policy.id, &scope.policy.name, Privilege::Encrypt)?;
    deks::current_or_new(scope)
}

/// Seals a value that the caller gave.
fn seal_given(column: &Column, row: &RowContext, value: &[u8], statement: i64) -> Result<Row, Failure> {
    let (sealed, head) = seal_with_head(column, row, value)?;
    remember(&head, row, statement);
    Ok(sealed)
}

/// Seals a value that was stored.
pub(crate) fn seal(column: &Column, row: &RowContext, value: &[u8]) -> Result<Row, Failure> {
    Ok(seal_with_head(column, row, value)?.0)
}

fn seal_with_head(column: &Column, row: &RowContext, value: &[u8]) -> Result<(Row, Head), Failure> {
    let value = fitted(column, value)?;
    let policy = &column.policy;
    values::check_enabled(policy)?;
    let wrapper = current_or_new(&Scope { policy, ctx_sha256: row.scope, column: Some((column.uuid, None)) })?;
    let form = if column.is_text { Form::Armoured } else { Form::Raw };
    let (output, head) = deks::with_dek(&wrapper, Privilege::Encrypt, |entry| {
        values::check_bound(entry, &row.scope)?;
        values::seal(entry, &row.value, value, policy.value_pad_to, form)
    })?;
    let index = column.index.as_ref().map(|index| entry(column, index, index.generation, value)).transpose()?;
    Ok((Row { value: Sealing::Replace(output), index }, head))
}

/// Keeps in mind for which row a value was sealed.
fn remember(head: &Head, row: &RowContext, statement: i64) {
    SEALED.with_borrow_mut(|sealed| {
        let nonce = (head.prefix(), head.gcm_nonce());
        let transaction = transaction::serial();
        // The oldest gives its place, with its memory.
        if sealed.len() >= RECENT
            && let Some(mut oldest) = sealed.pop_front()
        {
            oldest.nonce = nonce;
            oldest.transaction = transaction;
            oldest.statement = statement;
            oldest.context.value.clone_from(&row.value);
            oldest.context.scope = row.scope;
            sealed.push_back(oldest);
        } else {
            sealed.push_back(Sealed { nonce, transaction, statement, context: row.clone() });
        }
    });
}

/// The value as the column's own type would store it, which no longer limits what its plain values may be.
fn fitted<'a>(column: &Column, value: &'a [u8]) -> Result<&'a [u8], Failure> {
    let value = without_padding(column, value);
    let Some(max) = column.max_chars else { return Ok(value) };
    if values::chars(value)? <= max {
        return Ok(value);
    }
    // As PostgreSQL does: blanks too many are cut off.
    let first = values::first_chars(value, max)?;
    match value.get(first.len()..) {
        Some(rest) if rest.iter().all(|byte| *byte == b' ') => Ok(first),
        _ => Err(Failure::too_many_chars(max)),
    }
}

/// Blanks at the end of a `char` are no part of it: equal values have equal entries in the blind index.
fn without_padding<'a>(column: &Column, value: &'a [u8]) -> &'a [u8] {
    if !column.is_blank_padded {
        return value;
    }
    let end = value.iter().rposition(|byte| *byte != b' ').map_or(0, |last| last + 1);
    value.get(..end).unwrap_or(value)
}

/// A value's entry in a blind index.
pub(crate) fn entry(column: &Column, index: &Index, generation: u8, value: &[u8]) -> Result<Output, Failure> {
    let scope = scope::of_index(&column.uuid, generation);
    let wrapper = current_or_new(&Scope { policy: &column.policy, ctx_sha256: scope, column: Some((column.uuid, Some(generation))) })?;
    let entry = entry_with(column, index, generation, &wrapper, Privilege::Encrypt, value)?;
    let mut output = Output::new(entry.len())?;
    output.bytes().copy_from_slice(&entry);
    Ok(output)
}

/// The same with a wrapper that is there already.
pub(crate) fn entry_with(
    column: &Column,
    index: &Index,
    generation: u8,
    wrapper: &[u8; 16],
    privilege: Privilege,
    value: &[u8],
) -> Result<Vec<u8>, Failure> {
    let scope = scope::of_index(&column.uuid, generation);
    let (kind, normalised) = if column.is_text {
        (ValueType::Text, normalise(index.normalisation, without_padding(column, value), values::is_utf8())?)
    } else {
        (ValueType::Bytea, Normalised::Same(value))
    };
    deks::with_dek(wrapper, privilege, |entry| {
        values::check_bound(entry, &scope)?;
        Ok(entry.index_key(&column.uuid, generation)?.entry(kind, &normalised, index.bytes)?)
    })
}

/// Whether an envelope was made with the DEK that new values of the row get.
pub(crate) fn is_current(column: &Column, row: &RowContext, envelope: &Envelope<'_>) -> Result<bool, Failure> {
    let current = deks::current(&Scope { policy: &column.policy, ctx_sha256: row.scope, column: Some((column.uuid, None)) })?;
    // As in refresh(): without a current DEK there is nothing to move a value to.
    Ok(current.is_none_or(|current| current == envelope.head.wrapper()))
}

/// Whether an envelope opens for its row, for whoever may encrypt: what is in it is not shown.
pub(crate) fn belongs(row: &RowContext, envelope: &Envelope<'_>) -> Result<bool, Failure> {
    match open_envelope(row, envelope) {
        Ok(_) => Ok(true),
        Err(failure) if failure.is_unknown() || failure.is_not_opened() => Ok(false),
        Err(failure) => Err(failure),
    }
}

/// Opens a value for whoever may decrypt.
pub(crate) fn reveal(row: &RowContext, envelope: &Envelope<'_>) -> Result<Output, Failure> {
    deks::with_dek(&envelope.head.wrapper(), Privilege::Decrypt, |entry| {
        values::check_bound(entry, &row.scope)?;
        values::open(entry, &row.value, envelope)
    })
}
