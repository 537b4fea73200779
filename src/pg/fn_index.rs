//! SQL functions on blind indexes. Their reference is COMMENT ON FUNCTION in `sql/finalize.sql`.

use super::{
    deks::{self, Scope},
    grants::{self, Privilege},
    oid_arg::Regclass,
    protected::{self, Column},
    report::{Failure, required},
    revocation, rotate, seal,
};
use crate::core::scope;
use pgrx::{pg_extern, pg_sys::panic::ErrorReport, search_path};

#[pg_extern(stable, parallel_safe, cost = 100)]
fn kw_blind_index(relation: Option<Regclass>, column_name: Option<&str>, value: Option<&str>) -> Result<Option<Vec<Vec<u8>>>, ErrorReport> {
    Ok(entries(relation, column_name, value.map(str::as_bytes), true)?)
}

#[pg_extern(stable, parallel_safe, cost = 100)]
fn kw_blind_index_bytea(
    relation: Option<Regclass>,
    column_name: Option<&str>,
    value: Option<&[u8]>,
) -> Result<Option<Vec<Vec<u8>>>, ErrorReport> {
    Ok(entries(relation, column_name, value, false)?)
}

#[pg_extern(parallel_unsafe, cost = 100)]
#[search_path(pg_catalog, pg_temp)]
fn kw_rotate_column_index(relation: Option<Regclass>, column_name: Option<&str>) -> Result<i16, ErrorReport> {
    let (relation, name) = (required("relation", relation)?, required("column_name", column_name)?);
    Ok(rotate::rotate_index(relation.0, name)?)
}

/// The generation that a rotation of a column's blind index leads to; NULL when none is going on.
#[pg_extern(stable, parallel_unsafe, cost = 100)]
#[search_path(pg_catalog, pg_temp)]
fn kw_column_index_generation(relation: Option<Regclass>, column_name: Option<&str>) -> Result<Option<i16>, ErrorReport> {
    let (relation, name) = (required("relation", relation)?, required("column_name", column_name)?);
    let column = protected::column(&protected::by_name(relation.0, name)?)?;
    Ok(column.index.as_ref().filter(|index| index.old_generation.is_some()).map(|index| i16::from(index.generation)))
}

#[pg_extern(parallel_unsafe, cost = 100)]
#[search_path(pg_catalog, pg_temp)]
fn kw_column_settle_index(relation: Option<Regclass>, column_name: Option<&str>) -> Result<(), ErrorReport> {
    let (relation, name) = (required("relation", relation)?, required("column_name", column_name)?);
    Ok(rotate::settle_index(relation.0, name)?)
}

/// One entry for each generation that rows may have.
fn entries(relation: Option<Regclass>, name: Option<&str>, value: Option<&[u8]>, is_text: bool) -> Result<Option<Vec<Vec<u8>>>, Failure> {
    revocation::poll();
    let (relation, name) = (required("relation", relation)?, required("column_name", name)?);
    let Some(value) = value else { return Ok(None) };
    let column = protected::column(&protected::by_name(relation.0, name)?)?;
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
    Ok(Some(entries))
}

/// `None` when no row can have an entry of the generation: there is no key yet.
fn entry(column: &Column, index: &protected::Index, generation: u8, value: &[u8]) -> Result<Option<Vec<u8>>, Failure> {
    let ctx_sha256 = scope::of_index(&column.uuid, generation);
    let current = deks::current(&Scope { policy: &column.policy, ctx_sha256, column: Some((column.uuid, Some(generation))) })?;
    current.map(|wrapper| seal::entry_with(column, index, generation, &wrapper, Privilege::Index, value)).transpose()
}
