//! What encrypting and decrypting a value in PostgreSQL cannot cost less than: a call that reads its argument in place, does one AES-256-GCM
//! under a key that is there already, and writes its result once. No policy, no right, no DEK, no context, no derivation, no randomness.
//!
//! Rows are as long as the extension's: 44 bytes of which the last 12 are the nonce, the ciphertext, and the tag.

use aes_gcm::{
    AeadInOut, Aes256Gcm,
    aead::{KeyInit, inout::InOutBuf},
};
use pgrx::{pg_guard, pg_sys, varlena};
use std::cell::{Cell, OnceCell};

pgrx::pg_module_magic!();

const HEAD: usize = 44;
const TAG: usize = 16;

thread_local! {
    static KEY: OnceCell<Aes256Gcm> = const { OnceCell::new() };
    static COUNTER: Cell<u128> = const { Cell::new(0) };
}

fn with_key<T>(f: impl FnOnce(&Aes256Gcm) -> T) -> T {
    KEY.with(|key| f(key.get_or_init(|| Aes256Gcm::new(&[7; 32].into()))))
}

/// The bytes of the first argument.
///
/// # Safety
/// `fcinfo` must be that of a call of a strict function of a `bytea`.
unsafe fn argument<'a>(fcinfo: pg_sys::FunctionCallInfo) -> &'a [u8] {
    unsafe { bytes((*(*fcinfo).args.as_ptr()).value) }
}

/// # Safety
/// A `bytea` that is not NULL.
unsafe fn bytes<'a>(datum: pg_sys::Datum) -> &'a [u8] {
    unsafe {
        let value = pg_sys::pg_detoast_datum_packed(datum.cast_mut_ptr());
        std::slice::from_raw_parts(varlena::vardata_any(value).cast(), varlena::varsize_any_exhdr(value))
    }
}

/// A new result of `len` bytes.
unsafe fn result(len: usize) -> (*mut pg_sys::varlena, &'static mut [u8]) {
    unsafe {
        let result = pg_sys::palloc(len + pg_sys::VARHDRSZ).cast::<pg_sys::varlena>();
        varlena::set_varsize_4b(result, i32::try_from(len + pg_sys::VARHDRSZ).expect("under 1 GB"));
        (result, std::slice::from_raw_parts_mut(varlena::vardata_any(result).cast_mut().cast(), len))
    }
}

macro_rules! raw_function {
    ($name:ident, $finfo:ident) => {
        #[unsafe(no_mangle)]
        pub extern "C" fn $finfo() -> &'static pg_sys::Pg_finfo_record {
            const INFO: pg_sys::Pg_finfo_record = pg_sys::Pg_finfo_record { api_version: 1 };
            &INFO
        }
    };
}

raw_function!(floor_encrypt, pg_finfo_floor_encrypt);
raw_function!(floor_decrypt, pg_finfo_floor_decrypt);
raw_function!(floor_seal, pg_finfo_floor_seal);

fn encrypt(plaintext: &[u8]) -> pg_sys::Datum {
    let (datum, out) = unsafe { result(plaintext.len() + HEAD + TAG) };
    COUNTER.set(COUNTER.get() + 1);
    let (head, rest) = out.split_at_mut(HEAD);
    let (ciphertext, tag) = rest.split_at_mut(plaintext.len());
    head.fill(0);
    let nonce = head.last_chunk_mut::<12>().expect("44 bytes");
    nonce.copy_from_slice(&COUNTER.get().to_be_bytes()[4..]);
    let buffer = InOutBuf::new(plaintext, ciphertext).expect("equal lengths");
    tag.copy_from_slice(&with_key(|key| key.encrypt_inout_detached((&*nonce).into(), &[], buffer)).expect("under 64 GB"));
    pg_sys::Datum::from(datum)
}

/// `floor_encrypt(bytea) RETURNS bytea`
///
/// # Safety
/// PostgreSQL calls it.
#[unsafe(no_mangle)]
#[pg_guard]
pub unsafe extern "C-unwind" fn floor_encrypt(fcinfo: pg_sys::FunctionCallInfo) -> pg_sys::Datum {
    encrypt(unsafe { argument(fcinfo) })
}

/// `floor_seal() RETURNS trigger`: BEFORE INSERT on a table whose second column is a `bytea`. Looks at neither key nor rights.
///
/// # Safety
/// PostgreSQL calls it.
#[unsafe(no_mangle)]
#[pg_guard]
pub unsafe extern "C-unwind" fn floor_seal(fcinfo: pg_sys::FunctionCallInfo) -> pg_sys::Datum {
    unsafe {
        let trigger = (*fcinfo).context.cast::<pg_sys::TriggerData>();
        let (tuple, descriptor) = ((*trigger).tg_trigtuple, (*(*trigger).tg_relation).rd_att);
        let mut is_null = false;
        let value = pg_sys::SPI_getbinval(tuple, descriptor, 2, &raw mut is_null);
        assert!(!is_null, "the benchmark inserts no NULL");
        let value = bytes(value);
        let (mut column, mut sealed, mut no) = (2, encrypt(value), false);
        pg_sys::Datum::from(pg_sys::heap_modify_tuple_by_cols(tuple, descriptor, 1, &raw mut column, &raw mut sealed, &raw mut no))
    }
}

/// `floor_decrypt(bytea) RETURNS bytea`
///
/// # Safety
/// PostgreSQL calls it.
#[unsafe(no_mangle)]
#[pg_guard]
pub unsafe extern "C-unwind" fn floor_decrypt(fcinfo: pg_sys::FunctionCallInfo) -> pg_sys::Datum {
    let sealed = unsafe { argument(fcinfo) };
    let (head, rest) = sealed.split_at(HEAD);
    let (ciphertext, tag) = rest.split_last_chunk::<TAG>().expect("a tag");
    let nonce = head.last_chunk::<12>().expect("44 bytes");
    let (datum, out) = unsafe { result(ciphertext.len()) };
    let buffer = InOutBuf::new(ciphertext, out).expect("equal lengths");
    with_key(|key| key.decrypt_inout_detached(nonce.into(), &[], buffer, tag.into())).expect("a row of floor_encrypt");
    pg_sys::Datum::from(datum)
}
