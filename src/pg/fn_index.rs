//! SQL functions on blind indexes. Their reference is COMMENT ON FUNCTION, in `sql/protected.sql` of those declared there and in `sql/finalize.sql`.
#![allow(unsafe_code)]

use super::{
    deks::{self, Scope},
    grants::{self, Privilege},
    oid_arg::Regclass,
    protected::{self, Column},
    report::{Failure, required},
    revocation, rotate, seal,
    varlena::{self, Args, raw_function},
};
use crate::core::scope;
use pgrx::{pg_extern, pg_sys, pg_sys::panic::ErrorReport, search_path};

// These two read text as it is stored: it need not be UTF-8, which is all that pgrx takes.
raw_function!(kw_blind_index, pg_finfo_kw_blind_index, blind_index_text);
raw_function!(kw_blind_index_bytea, pg_finfo_kw_blind_index_bytea, blind_index_bytea);

fn blind_index_text(args: &Args) -> Result<pg_sys::Datum, Failure> {
    blind_index(args, true)
}

fn blind_index_bytea(args: &Args) -> Result<pg_sys::Datum, Failure> {
    blind_index(args, false)
}

fn blind_index(args: &Args, is_text: bool) -> Result<pg_sys::Datum, Failure> {
    revocation::poll();
    let relation = required("relation", args.oid(0))?;
    let name = required("column_name", args.bytes(1))?;
    let name = std::str::from_utf8(name).map_err(|_| Failure::unknown("column", String::from_utf8_lossy(name)))?;
    let Some(value) = args.bytes(2) else { return Ok(args.null()) };
    varlena::array_of(entries(relation, name, value, is_text)?)
}

#[pg_extern(parallel_unsafe, cost = 100)]
#[search_path(pg_catalog, pg_temp)]
fn kw_rotate_column_index(relation: Option<Regclass>, column_name: Option<&str>) -> Result<i16, ErrorReport> {
    let (relation, name) = (required("relation", relation)?, required("column_name", column_name)?);
    Ok(rotate::rotate_index(relation.0, name)?)
}

#[pg_extern(parallel_unsafe, cost = 100)]
#[search_path(pg_catalog, pg_temp)]
fn kw_column_settle_index(relation: Option<Regclass>, column_name: Option<&str>) -> Result<(), ErrorReport> {
    let (relation, name) = (required("relation", relation)?, required("column_name", column_name)?);
    Ok(rotate::settle_index(relation.0, name)?)
}

/// One entry for each generation that rows may have.
fn entries(relation: pg_sys::Oid, name: &str, value: &[u8], is_text: bool) -> Result<Vec<Vec<u8>>, Failure> {
    let column = protected::column(&protected::by_name(relation, name)?)?;
    grants::require(column.policy.id, &column.policy.name, Privilege::Index)?;
    let Some(index) = &column.index else {
        let hint = "Protect it with blind_index => 'index' or 'unique'.";
        return Err(Failure::state(format!("column \"{name}\" has no blind index"), hint));
    };
    if column.is_text != is_text {
        let hint = if is_text { "kms_wrap.kw_blind_index_bytea() takes bytes." } else { "kms_wrap.kw_blind_index() takes text." };
        return Err(Failure::bad_argument(format!("column \"{name}\" holds values of another type"), hint));
    }
    let mut entries = Vec::new();
    for generation in [Some(index.generation), index.old_generation].into_iter().flatten() {
        entries.extend(entry(&column, index, generation, value)?);
    }
    Ok(entries)
}

/// `None` when no row can have an entry of the generation: there is no key yet.
fn entry(column: &Column, index: &protected::Index, generation: u8, value: &[u8]) -> Result<Option<Vec<u8>>, Failure> {
    let ctx_sha256 = scope::of_index(&column.uuid, generation);
    let current = deks::current(&Scope { policy: &column.policy, ctx_sha256, column: Some((column.uuid, Some(generation))) })?;
    current.map(|wrapper| seal::entry_with(column, index, generation, &wrapper, Privilege::Index, value)).transpose()
}
