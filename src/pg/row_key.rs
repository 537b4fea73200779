//! Key and tenant columns as bytes: the binary send form of their types, of which equal values have one.
//!
//! Text is taken in the database's encoding, where the send functions would turn it into the client's.
#![allow(unsafe_code)]

use super::{report::Failure, varlena};
use pgrx::pg_sys;

/// What a type modifier of `char(n)` counts besides n.
const VARHDRSZ: i32 = 4;

/// How a column's values become bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum KeyKind {
    Bool,
    Int2,
    /// Also `date`.
    Int4,
    /// Also `time`, `timestamp` and `timestamptz`.
    Int8,
    Oid,
    Uuid,
    /// `text`, `varchar`, `char` and `bytea`: the bytes themselves.
    Bytes,
}

impl KeyKind {
    /// Of a type; a domain is what it is over.
    pub(crate) fn of(type_oid: pg_sys::Oid) -> Result<Self, Failure> {
        // SAFETY: a syscache look-up.
        let base = unsafe { pg_sys::getBaseType(type_oid) };
        Ok(match base {
            pg_sys::BOOLOID => Self::Bool,
            pg_sys::INT2OID => Self::Int2,
            pg_sys::INT4OID | pg_sys::DATEOID => Self::Int4,
            pg_sys::INT8OID | pg_sys::TIMEOID | pg_sys::TIMESTAMPOID | pg_sys::TIMESTAMPTZOID => Self::Int8,
            pg_sys::OIDOID => Self::Oid,
            pg_sys::UUIDOID => Self::Uuid,
            pg_sys::TEXTOID | pg_sys::VARCHAROID | pg_sys::BPCHAROID | pg_sys::BYTEAOID => Self::Bytes,
            _ => {
                return Err(Failure::bad_argument(
                    "a key column is of a type whose equal values have several forms",
                    "Possible: boolean, smallint, integer, bigint, oid, uuid, text, varchar, char, bytea, date, time, timestamp, timestamptz.",
                ));
            }
        })
    }

    /// What the bytes of a column's values depend on: if it changes, what was bound to them before does not open any more.
    pub(crate) fn form(type_oid: pg_sys::Oid, type_modifier: i32) -> Result<String, Failure> {
        let mut modifier = type_modifier;
        // SAFETY: a syscache look-up, which puts a domain's modifier in the place of its own.
        let base = unsafe { pg_sys::getBaseTypeAndTypmod(type_oid, &raw mut modifier) };
        let name = match base {
            pg_sys::BOOLOID => "boolean",
            pg_sys::INT2OID => "smallint",
            pg_sys::INT4OID => "integer",
            pg_sys::INT8OID => "bigint",
            pg_sys::OIDOID => "oid",
            pg_sys::UUIDOID => "uuid",
            pg_sys::DATEOID => "date",
            pg_sys::TIMEOID => "time",
            pg_sys::TIMESTAMPOID => "timestamp",
            // As long as one without a zone, but what becomes of it depends on the zone.
            pg_sys::TIMESTAMPTZOID => "timestamptz",
            // Padded to its length.
            pg_sys::BPCHAROID => return Ok(format!("char({})", modifier - VARHDRSZ)),
            pg_sys::TEXTOID | pg_sys::VARCHAROID | pg_sys::BYTEAOID => "bytes",
            _ => return Err(Failure::internal("form of a key column")),
        };
        Ok(name.to_owned())
    }

    /// Hands a value's bytes to `f`.
    ///
    /// # Safety
    /// The datum must be of the type that this was made of.
    pub(crate) unsafe fn with_bytes(self, datum: pg_sys::Datum, f: &mut dyn FnMut(&[u8])) {
        // By-value types lie in the low bytes of the datum.
        let low = datum.value().to_be_bytes();
        match self {
            Self::Bool => f(&[u8::from(datum.value() & 0xff != 0)]),
            Self::Int2 => f(low.last_chunk::<2>().map_or(&[][..], |b| b)),
            Self::Int4 | Self::Oid => f(low.last_chunk::<4>().map_or(&[][..], |b| b)),
            Self::Int8 => f(low.last_chunk::<8>().map_or(&[][..], |b| b)),
            // SAFETY: by the caller; a uuid is passed as a pointer to its 16 bytes.
            Self::Uuid => f(unsafe { &*datum.cast_mut_ptr::<[u8; 16]>() }),
            // SAFETY: by the caller.
            Self::Bytes => f(unsafe { varlena::bytes_of(datum) }),
        }
    }
}
