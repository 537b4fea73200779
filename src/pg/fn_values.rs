//! SQL functions on values. `sql/values.sql` declares them; their reference is COMMENT ON FUNCTION there.
#![allow(unsafe_code)]

use super::{
    contexts,
    report::Failure,
    values::{self, Form},
    varlena::{Args, MAX_BYTEA, MAX_TEXT, Output, raw_function},
};
use crate::core::{
    error::Error,
    value::{Envelope, is_armoured, unarmour},
};
use pgrx::pg_sys;
use std::cell::RefCell;

raw_function!(kw_encrypt, pg_finfo_kw_encrypt, encrypt);
raw_function!(kw_encrypt_text, pg_finfo_kw_encrypt_text, encrypt_text);
raw_function!(kw_decrypt, pg_finfo_kw_decrypt, decrypt);
raw_function!(kw_decrypt_text, pg_finfo_kw_decrypt_text, decrypt_text);
raw_function!(kw_is_sealed_bytea, pg_finfo_kw_is_sealed_bytea, is_sealed_bytea);
raw_function!(kw_is_sealed_text, pg_finfo_kw_is_sealed_text, is_sealed_text);

/// Most bytes of memory that are kept to be used again.
pub(crate) const KEPT: usize = 1 << 20;

thread_local! {
    /// Raw envelopes out of their armour.
    static UNARMOURED: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

fn encrypt(args: &Args) -> Result<pg_sys::Datum, Failure> {
    encrypt_as(args, MAX_BYTEA, Form::Raw)
}

fn encrypt_text(args: &Args) -> Result<pg_sys::Datum, Failure> {
    encrypt_as(args, MAX_TEXT, Form::Armoured)
}

fn encrypt_as(args: &Args, limit: usize, form: Form) -> Result<pg_sys::Datum, Failure> {
    let Some(value) = args.bytes_within(0, "value", limit)? else { return Ok(args.null()) };
    let policy = args.bytes(1).ok_or_else(|| Failure::null("policy"))?;
    let policy = std::str::from_utf8(policy).map_err(|_| Failure::unknown("policy", String::from_utf8_lossy(policy)))?;
    let context = contexts::of_argument(args.datum(2))?;
    Ok(values::encrypt(policy, args.uuid(3), &context, value, form)?.datum())
}

fn decrypt(args: &Args) -> Result<pg_sys::Datum, Failure> {
    let Some(sealed) = args.bytes(0) else { return Ok(args.null()) };
    let context = contexts::of_argument(args.datum(1))?;
    Ok(values::decrypt(&Envelope::parse(sealed)?, &context)?.datum())
}

fn decrypt_text(args: &Args) -> Result<pg_sys::Datum, Failure> {
    let Some(sealed) = args.bytes(0) else { return Ok(args.null()) };
    let context = contexts::of_argument(args.datum(1))?;
    let output = with_envelope(true, sealed, |envelope| values::decrypt(&envelope?, &context))?;
    Ok(checked_text(output)?.datum())
}

/// Reads an envelope, armoured if it `is_text`; `f` gets it, or what the bytes are instead.
pub(crate) fn with_envelope<T>(
    is_text: bool,
    value: &[u8],
    f: impl FnOnce(Result<Envelope<'_>, Error>) -> Result<T, Failure>,
) -> Result<T, Failure> {
    if !is_text {
        return f(Envelope::parse(value));
    }
    // Taken, not borrowed: f may come here again, for another value.
    let mut raw = UNARMOURED.take();
    let result = f(unarmour(value, &mut raw).and_then(|()| Envelope::parse(&raw)));
    // What one long value needed is not kept for ever.
    if raw.capacity() <= KEPT {
        UNARMOURED.set(raw);
    }
    result
}

/// What was encrypted as bytes need not be text.
pub(crate) fn checked_text(mut output: Output) -> Result<Output, Failure> {
    let bytes = output.bytes();
    let len = i32::try_from(bytes.len()).map_err(Failure::internal)?;
    // SAFETY: reads so many bytes; asked not to raise an error, which would show some of them.
    let valid = unsafe { pg_sys::pg_verifymbstr(bytes.as_ptr().cast(), len, true) };
    if valid { Ok(output) } else { Err(Failure::not_text()) }
}

#[allow(clippy::unnecessary_wraps)] // what a raw function returns
fn is_sealed_bytea(args: &Args) -> Result<pg_sys::Datum, Failure> {
    let Some(value) = args.bytes(0) else { return Ok(args.null()) };
    Ok(Envelope::parse(value).is_ok().into())
}

#[allow(clippy::unnecessary_wraps)] // as above
fn is_sealed_text(args: &Args) -> Result<pg_sys::Datum, Failure> {
    let Some(value) = args.bytes(0) else { return Ok(args.null()) };
    Ok(is_armoured(value).into())
}
