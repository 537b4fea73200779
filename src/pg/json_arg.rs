//! A `jsonb` argument. pgrx's own type panics on what `jsonb` may hold and serde_json does not read: numbers such as 1e400, and deep nesting.
#![allow(unsafe_code)]

use super::report::Failure;
use pgrx::{
    FromDatum, IntoDatum,
    callconv::{Arg, ArgAbi},
    direct_function_call,
    nullable::Nullable,
    pg_sys,
    pgrx_sql_entity_graph::metadata::{ArgumentError, ReturnsError, ReturnsRef, SqlMappingRef, SqlTranslatable, TypeOrigin},
};
use serde_json::Value;
use std::ffi::CStr;

/// JSON that was read, or was not readable.
pub(crate) struct JsonArg(Option<Value>);

impl JsonArg {
    /// The value.
    ///
    /// # Errors
    /// 22023 when it cannot be read.
    pub(crate) fn value(self, argument: &str) -> Result<Value, Failure> {
        self.0.ok_or_else(|| {
            Failure::bad_argument(
                format!("invalid value for argument \"{argument}\""),
                "It must be JSON of at most 127 levels, with numbers that fit double precision.",
            )
        })
    }
}

impl FromDatum for JsonArg {
    unsafe fn from_polymorphic_datum(datum: pg_sys::Datum, is_null: bool, _: pg_sys::Oid) -> Option<Self> {
        if is_null {
            return None;
        }
        // SAFETY: the caller vouches for a jsonb datum; jsonb_out detoasts it itself and returns a NUL-terminated string.
        let text = unsafe { direct_function_call::<&CStr>(pg_sys::jsonb_out, &[Some(datum)]) }?;
        Some(Self(serde_json::from_slice(text.to_bytes()).ok()))
    }
}

impl IntoDatum for JsonArg {
    fn into_datum(self) -> Option<pg_sys::Datum> {
        pgrx::JsonB(self.0?).into_datum()
    }

    fn type_oid() -> pg_sys::Oid {
        pg_sys::JSONBOID
    }
}

// SAFETY: unboxed by FromDatum above, as pgrx does for its own JSON types.
unsafe impl<'fcx> ArgAbi<'fcx> for JsonArg {
    unsafe fn unbox_arg_unchecked(arg: Arg<'_, 'fcx>) -> Self {
        // SAFETY: the argument is of type jsonb, as SqlTranslatable says below.
        unsafe { arg.unbox_arg_using_from_datum() }.unwrap_or(Self(None))
    }

    unsafe fn unbox_nullable_arg(arg: Arg<'_, 'fcx>) -> Nullable<Self> {
        // SAFETY: as above.
        unsafe { arg.unbox_arg_using_from_datum() }.into()
    }
}

// SAFETY: names the SQL type that FromDatum reads.
unsafe impl SqlTranslatable for JsonArg {
    const TYPE_IDENT: &'static str = pgrx::pgrx_resolved_type!(JsonArg);
    const TYPE_ORIGIN: TypeOrigin = TypeOrigin::External;
    const ARGUMENT_SQL: Result<SqlMappingRef, ArgumentError> = Ok(SqlMappingRef::literal("jsonb"));
    const RETURN_SQL: Result<ReturnsRef, ReturnsError> = Ok(ReturnsRef::One(SqlMappingRef::literal("jsonb")));
}
