//! Arguments of the types `regrole` and `regclass`, which pgrx knows as `oid` only.
#![allow(unsafe_code)]

use pgrx::{
    FromDatum,
    callconv::{Arg, ArgAbi},
    nullable::Nullable,
    pg_sys,
    pgrx_sql_entity_graph::metadata::{ArgumentError, ReturnsError, ReturnsRef, SqlMappingRef, SqlTranslatable, TypeOrigin},
};

macro_rules! oid_type {
    ($name:ident, $sql:literal, $doc:literal) => {
        #[doc = $doc]
        pub(crate) struct $name(pub(crate) pg_sys::Oid);

        impl FromDatum for $name {
            unsafe fn from_polymorphic_datum(datum: pg_sys::Datum, is_null: bool, _: pg_sys::Oid) -> Option<Self> {
                // SAFETY: the caller vouches for a datum of a type that is an oid.
                unsafe { pg_sys::Oid::from_datum(datum, is_null) }.map(Self)
            }
        }

        // SAFETY: unboxed by FromDatum above; NULL is the oid of nothing.
        unsafe impl<'fcx> ArgAbi<'fcx> for $name {
            unsafe fn unbox_arg_unchecked(arg: Arg<'_, 'fcx>) -> Self {
                // SAFETY: the argument is of the type that SqlTranslatable says below.
                unsafe { arg.unbox_arg_using_from_datum() }.unwrap_or(Self(pg_sys::InvalidOid))
            }

            unsafe fn unbox_nullable_arg(arg: Arg<'_, 'fcx>) -> Nullable<Self> {
                // SAFETY: as above.
                unsafe { arg.unbox_arg_using_from_datum() }.into()
            }
        }

        // SAFETY: names the SQL type that FromDatum reads.
        unsafe impl SqlTranslatable for $name {
            const TYPE_IDENT: &'static str = pgrx::pgrx_resolved_type!($name);
            const TYPE_ORIGIN: TypeOrigin = TypeOrigin::External;
            const ARGUMENT_SQL: Result<SqlMappingRef, ArgumentError> = Ok(SqlMappingRef::literal($sql));
            const RETURN_SQL: Result<ReturnsRef, ReturnsError> = Ok(ReturnsRef::One(SqlMappingRef::literal($sql)));
        }
    };
}

oid_type!(Regrole, "regrole", "A role.");
oid_type!(Regclass, "regclass", "A relation.");
