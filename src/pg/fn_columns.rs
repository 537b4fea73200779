//! SQL functions that kw_protect_column, kw_encrypt_column and kw_unprotect_column are made of. Their reference is COMMENT ON FUNCTION
//! in `sql/finalize.sql`.

use super::{
    catalog::column::{Index, NewColumn},
    columns, protected,
    report::required,
};
use pgrx::{
    Uuid, default,
    iter::TableIterator,
    name, pg_extern,
    pg_sys::{Oid, panic::ErrorReport},
    search_path,
};

#[pg_extern(parallel_unsafe, cost = 1000)]
#[search_path(pg_catalog, pg_temp)]
fn kw_column_check_rights(relation: Option<Oid>, policy: Option<&str>) -> Result<(), ErrorReport> {
    columns::check_rights(required("relation", relation)?, required("policy", policy)?)?;
    Ok(())
}

#[pg_extern(parallel_unsafe, cost = 1000)]
#[search_path(pg_catalog, pg_temp)]
fn kw_column_new_keys(
    relation: Option<Oid>,
    policy: Option<&str>,
    data_key: Option<bool>,
    index_key: Option<bool>,
) -> Result<Uuid, ErrorReport> {
    let (relation, policy) = (required("relation", relation)?, required("policy", policy)?);
    Ok(columns::new_keys(relation, policy, required("data_key", data_key)?, required("index_key", index_key)?)?)
}

#[pg_extern(parallel_unsafe, cost = 1000)]
#[search_path(pg_catalog, pg_temp)]
#[allow(clippy::too_many_arguments)] // a row
fn kw_column_register(
    column_uuid: Option<Uuid>,
    relation: Option<Oid>,
    column_name: Option<&str>,
    policy: Option<&str>,
    tenant_column: Option<&str>,
    status: Option<&str>,
    index_column: Option<&str>,
    index_bytes: Option<i32>,
    index_normalisation: Option<&str>,
    index_unique: Option<bool>,
    view_schema: Option<&str>,
    view_name: Option<&str>,
) -> Result<(), ErrorReport> {
    let relation = required("relation", relation)?;
    let index = match index_column {
        None => None,
        Some(column) => Some(Index {
            column,
            bytes: required("index_bytes", index_bytes)?,
            normalisation: required("index_normalisation", index_normalisation)?,
            unique: required("index_unique", index_unique)?,
        }),
    };
    Ok(columns::register(&NewColumn {
        uuid: required("column_uuid", column_uuid)?,
        relation,
        name: required("column_name", column_name)?,
        policy: columns::check_rights(relation, required("policy", policy)?)?,
        tenant_column,
        status: required("status", status)?,
        index,
        view_schema: required("view_schema", view_schema)?,
        view_name: required("view_name", view_name)?,
    })?)
}

#[pg_extern(parallel_unsafe, cost = 1000)]
#[search_path(pg_catalog, pg_temp)]
fn kw_column_lookup(
    relation: Option<Oid>,
    column_name: default!(Option<&str>, "NULL"),
) -> Result<
    TableIterator<
        'static,
        (
            name!(column_name, String),
            name!(column_uuid, Uuid),
            name!(policy, String),
            name!(tenant_column, Option<String>),
            name!(original_type, String),
            name!(original_statistics, i16),
            name!(original_storage, String),
            name!(original_compression, Option<String>),
            name!(storage, String),
            name!(status, String),
            name!(index_column, Option<String>),
            name!(decrypting_view, Option<Oid>),
            name!(rows_total, Option<i64>),
            name!(rows_done, Option<i64>),
            name!(last_key, Option<Vec<String>>),
            name!(trigger_state, String),
            name!(has_its_key, bool),
            name!(policy_is_enabled, bool),
            name!(has_old_deks, bool),
            name!(index_generation, i16),
            name!(has_old_index, bool),
            name!(unknown_envelopes, i64),
        ),
    >,
    ErrorReport,
> {
    let relation = required("relation", relation)?;
    let found = columns::lookup(relation, column_name)?;
    Ok(TableIterator::new(found.into_iter().map(move |c| {
        let has_its_key = protected::has_its_key(relation, c.tenant_column.as_deref(), &c.key_forms, c.key_columns.as_deref());
        (
            c.name,
            c.uuid,
            c.policy,
            c.tenant_column,
            c.original_type,
            c.original_statistics,
            c.original_storage,
            c.original_compression,
            c.storage,
            c.status,
            c.index_column,
            c.decrypting_view,
            c.rows_total,
            c.rows_done,
            c.last_key,
            c.trigger_state,
            has_its_key,
            c.policy_is_enabled,
            c.has_old_deks,
            c.index_generation,
            c.has_old_index,
            c.unknown_envelopes,
        )
    })))
}

#[pg_extern(parallel_unsafe, cost = 1000)]
#[search_path(pg_catalog, pg_temp)]
fn kw_column_progress(
    relation: Option<Oid>,
    column_name: Option<&str>,
    status: Option<&str>,
    rows_total: Option<i64>,
    rows_done: Option<i64>,
    last_key: Option<Vec<String>>,
) -> Result<(), ErrorReport> {
    let (relation, column_name) = (required("relation", relation)?, required("column_name", column_name)?);
    Ok(columns::progress(relation, column_name, status, (rows_total, rows_done), last_key)?)
}

#[pg_extern(parallel_unsafe, cost = 1000)]
#[search_path(pg_catalog, pg_temp)]
fn kw_column_unregister(column_uuid: Option<Uuid>) -> Result<Vec<String>, ErrorReport> {
    Ok(columns::unregister(required("column_uuid", column_uuid)?)?)
}

#[pg_extern(parallel_unsafe, cost = 1000)]
#[search_path(pg_catalog, pg_temp)]
fn kw_column_drop_statistics(relation: Option<Oid>, column_name: Option<&str>) -> Result<(), ErrorReport> {
    Ok(columns::drop_statistics(required("relation", relation)?, required("column_name", column_name)?)?)
}

#[pg_extern(parallel_unsafe, cost = 1000)]
fn kw_column_no_block() -> Result<(), ErrorReport> {
    Ok(columns::no_block("kw_encrypt_column")?)
}

#[pg_extern(parallel_unsafe, cost = 1000)]
fn kw_column_is_past(relation: Option<Oid>, boundary: Option<i64>) -> Result<bool, ErrorReport> {
    Ok(columns::is_past(required("relation", relation)?, required("boundary", boundary)?)?)
}
