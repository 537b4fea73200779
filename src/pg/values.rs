//! Encrypting and decrypting values: envelope, DEK, rights and context brought together.

use super::{
    cache::Entry,
    catalog::policy::Policy,
    contexts::CallerContext,
    deks::{self, Scope},
    fn_values::KEPT,
    grants::{self, Privilege},
    report::Failure,
    revocation,
    varlena::Output,
};
use crate::core::{
    error::Error,
    value::{self, Envelope, HEAD_LEN, Head, OVERHEAD, ValueContext, armour, armoured_len, pad, unpadded_len},
};
use std::{cell::RefCell, rc::Rc};
use subtle::ConstantTimeEq;
use zeroize::{Zeroize, Zeroizing};

thread_local! {
    /// Buffers that are used again: for AAD, and for raw envelopes on their way to or from armour.
    static AAD: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
    static RAW: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// What an envelope becomes: raw in a `bytea`, armoured in a `text`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    Raw,
    Armoured,
}

/// Whether text of this database is UTF-8.
#[allow(unsafe_code)]
pub(crate) fn is_utf8() -> bool {
    // SAFETY: reads a variable of this process.
    unsafe { pgrx::pg_sys::GetDatabaseEncoding() == pgrx::pg_sys::pg_enc::PG_UTF8.cast_signed() }
}

/// Characters of a text.
#[allow(unsafe_code)]
pub(crate) fn chars(text: &[u8]) -> Result<usize, Failure> {
    let len = i32::try_from(text.len()).map_err(Failure::internal)?;
    // SAFETY: reads so many bytes, which are text of the database's encoding.
    usize::try_from(unsafe { pgrx::pg_sys::pg_mbstrlen_with_len(text.as_ptr().cast(), len) }).map_err(Failure::internal)
}

/// The first characters of a text.
#[allow(unsafe_code)]
pub(crate) fn first_chars(text: &[u8], count: usize) -> Result<&[u8], Failure> {
    let len = i32::try_from(text.len()).map_err(Failure::internal)?;
    let count = i32::try_from(count).map_err(Failure::internal)?;
    // SAFETY: reads so many bytes, which are text of the database's encoding.
    let clipped = unsafe { pgrx::pg_sys::pg_mbcharcliplen(text.as_ptr().cast(), len, count) };
    usize::try_from(clipped).ok().and_then(|n| text.get(..n)).ok_or_else(|| Failure::internal("clipped text"))
}

/// Encrypts a value under an opened DEK that is for it; returns the envelope, and its head.
pub(crate) fn seal(entry: &mut Entry, context: &ValueContext, value: &[u8], pad_to: i32, form: Form) -> Result<(Output, Head), Failure> {
    let pad_to = usize::try_from(pad_to).unwrap_or(1);
    let padded = (pad_to > 1).then(|| pad(value, pad_to)).transpose()?;
    let plaintext = padded.as_ref().map_or(value, |p| p.as_slice());
    let wrapper = entry.wrapper;
    let (prefix, nonce, key) = entry.next_nonce()?;
    let head = Head::new(&wrapper, padded.is_some(), &prefix, &nonce);
    let len = plaintext.len() + OVERHEAD;
    AAD.with_borrow_mut(|aad| {
        value::aad(&head, context, aad);
        let write = |out: &mut [u8]| {
            let (start, rest) = out.split_first_chunk_mut::<HEAD_LEN>().ok_or(Error::Invariant("envelope length"))?;
            let (ciphertext, tag) = rest.split_last_chunk_mut().ok_or(Error::Invariant("envelope length"))?;
            *start = *head.as_bytes();
            *tag = key.seal(&nonce, aad, plaintext, ciphertext)?;
            Ok::<_, Error>(())
        };
        match form {
            Form::Raw => {
                let mut output = Output::new(len)?;
                write(output.bytes())?;
                Ok((output, head))
            }
            Form::Armoured => {
                let mut output = Output::new(armoured_len(len))?;
                RAW.with_borrow_mut(|raw| {
                    raw.clear();
                    raw.try_reserve_exact(len).map_err(|_| Error::OutOfMemory)?;
                    raw.resize(len, 0);
                    write(raw)?;
                    armour(raw, output.bytes())?;
                    if raw.capacity() > KEPT {
                        *raw = Vec::new();
                    }
                    Ok::<_, Error>(())
                })?;
                Ok((output, head))
            }
        }
    })
}

/// Decrypts an envelope with the DEK that it names. The caller has checked rights, and that the DEK is for this place.
pub(crate) fn open(entry: &mut Entry, context: &ValueContext, envelope: &Envelope<'_>) -> Result<Output, Failure> {
    let mut output = Output::new(envelope.ciphertext.len())?;
    open_into(entry, context, envelope, output.bytes())?;
    if envelope.head.is_padded() {
        let len = unpadded_len(output.bytes())?;
        output.truncate(len);
    }
    Ok(output)
}

fn open_into(entry: &mut Entry, context: &ValueContext, envelope: &Envelope<'_>, out: &mut [u8]) -> Result<(), Failure> {
    let head = &envelope.head;
    let key = entry.message_key(&head.prefix())?;
    AAD.with_borrow_mut(|aad| {
        value::aad(head, context, aad);
        Ok(key.open(&head.gcm_nonce(), aad, envelope.ciphertext, envelope.tag, out)?)
    })
}

/// As [`open`], into memory that is wiped.
pub(crate) fn open_secretly(entry: &mut Entry, context: &ValueContext, envelope: &Envelope<'_>) -> Result<Zeroizing<Vec<u8>>, Failure> {
    let mut plaintext = Zeroizing::new(Vec::new());
    plaintext.try_reserve_exact(envelope.ciphertext.len()).map_err(|_| Error::OutOfMemory)?;
    plaintext.resize(envelope.ciphertext.len(), 0);
    open_into(entry, context, envelope, &mut plaintext)?;
    if envelope.head.is_padded() {
        let len = unpadded_len(&plaintext)?;
        if let Some(rest) = plaintext.get_mut(len..) {
            rest.zeroize();
        }
        plaintext.truncate(len);
    }
    Ok(plaintext)
}

/// Encrypts by policy, or with a wrapper that the caller names.
pub(crate) fn encrypt(
    policy: &str,
    wrapper: Option<[u8; 16]>,
    context: &CallerContext,
    value: &[u8],
    form: Form,
) -> Result<Output, Failure> {
    revocation::poll();
    if let Some(wrapper) = wrapper {
        return encrypt_with(&wrapper, context, value, form);
    }
    let policy = deks::policy(policy)?;
    grants::require(policy.id, &policy.name, Privilege::Encrypt)?;
    check_enabled(&policy)?;
    let scope = context.scope(&policy)?;
    let wrapper = deks::current_or_new(&Scope { policy: &policy, ctx_sha256: scope, column: None })?;
    deks::with_dek(&wrapper, Privilege::Encrypt, |entry| {
        check_bound(entry, &scope)?;
        Ok(seal(entry, &context.value, value, policy.value_pad_to, form)?.0)
    })
}

fn encrypt_with(wrapper: &[u8; 16], context: &CallerContext, value: &[u8], form: Form) -> Result<Output, Failure> {
    deks::with_dek(wrapper, Privilege::Encrypt, |entry| {
        let policy = Rc::clone(&entry.policy);
        check_enabled(&policy)?;
        if !entry.is_active {
            let hint = "It opens values; new ones need an active wrapper. kw_encrypt() by policy takes the current one.";
            return Err(Failure::state(format!("wrapper \"{}\" encrypts no new values", pgrx::Uuid::from_bytes(*wrapper)), hint));
        }
        check_caller_bound(entry, context)?;
        Ok(seal(entry, &context.value, value, policy.value_pad_to, form)?.0)
    })
}

/// Decrypts a free value.
pub(crate) fn decrypt(envelope: &Envelope<'_>, context: &CallerContext) -> Result<Output, Failure> {
    revocation::poll();
    deks::with_dek(&envelope.head.wrapper(), Privilege::Decrypt, |entry| {
        check_caller_bound(entry, context)?;
        open(entry, &context.value, envelope)
    })
}

/// A wrapper of kw_wrap_dek wants the whole context that it was made with, one of a policy's values the pairs that chose it.
fn check_caller_bound(entry: &Entry, context: &CallerContext) -> Result<(), Failure> {
    if entry.is_callers { check_bound(entry, &context.sha256) } else { check_bound(entry, &context.scope(&entry.policy)?) }
}

/// A DEK serves only what its wrapper was made for.
pub(crate) fn check_bound(entry: &Entry, ctx_sha256: &[u8; 32]) -> Result<(), Failure> {
    // Four words and one comparison, all in constant time: byte by byte takes as long as decrypting a short value.
    let words = |hash: &[u8; 32]| -> [u64; 4] {
        std::array::from_fn(|i| hash.chunks_exact(8).nth(i).map_or(0, |c| u64::from_ne_bytes(c.try_into().unwrap_or([0; 8]))))
    };
    let difference = words(&entry.ctx_sha256).iter().zip(words(ctx_sha256)).fold(0, |sum, (a, b)| sum | (a ^ b));
    if bool::from(difference.ct_eq(&0)) { Ok(()) } else { Err(Error::DoesNotDecrypt.into()) }
}

pub(crate) fn check_enabled(policy: &Policy) -> Result<(), Failure> {
    if policy.is_enabled { Ok(()) } else { Err(Failure::policy_disabled(&policy.name)) }
}
