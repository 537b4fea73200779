//! Protected columns: their rows, and where they are today.

use crate::pg::{report::Failure, spi};
use pgrx::{Uuid, pg_sys::Oid};

const OWNED: &str = "SELECT c.oid::pg_catalog.regclass::pg_catalog.text, pg_catalog.pg_has_role(c.relowner, 'USAGE')
     FROM pg_catalog.pg_class c WHERE c.oid OPERATOR(pg_catalog.=) $1";

/// A relation's name, and whether the current role owns it.
pub(crate) fn owned(relation: Oid) -> Result<Option<(String, bool)>, Failure> {
    Ok(spi::first(spi::select(OWNED, &[relation.into()], |row| Ok((row.next()?, row.next()?)))?))
}

#[allow(clippy::struct_field_names, clippy::struct_excessive_bools)] // columns of a table have their names
/// A protected column as the steps of protecting, encrypting and giving back need it.
pub(crate) struct Protected {
    pub(crate) name: String,
    pub(crate) uuid: Uuid,
    pub(crate) policy: String,
    pub(crate) tenant_column: Option<String>,
    pub(crate) original_type: String,
    pub(crate) original_statistics: i16,
    pub(crate) original_storage: String,
    pub(crate) original_compression: Option<String>,
    pub(crate) storage: String,
    pub(crate) status: String,
    pub(crate) index_column: Option<String>,
    pub(crate) decrypting_view: Option<Oid>,
    pub(crate) rows_total: Option<i64>,
    pub(crate) rows_done: Option<i64>,
    pub(crate) last_key: Option<Vec<String>>,
    pub(crate) trigger_state: String,
    pub(crate) is_validated: bool,
    /// Whether this is the table that was protected, as far as can be told: a copy of its definition has the constraint too.
    pub(crate) is_genuine: bool,
    /// Whether a table is on record as the one that was protected.
    pub(crate) is_recorded: bool,
    /// What its values are bound to.
    pub(crate) key_forms: Vec<String>,
    pub(crate) key_columns: Option<Vec<i16>>,
    pub(crate) policy_is_enabled: bool,
    /// Whether values may be under a DEK that was rotated.
    pub(crate) has_old_deks: bool,
    /// Of the entries that the blind index gets now.
    pub(crate) index_generation: i16,
    /// Whether the blind index may have entries of an older generation.
    pub(crate) has_old_index: bool,
    /// Envelopes that came before their wrappers.
    pub(crate) unknown_envelopes: i64,
}

// As sealing tells the table: the recorded one if it still exists; else the one of the recorded name, or the only one with the constraint.
const FIND: &str = "SELECT v.column_name::pg_catalog.text, v.column_uuid, v.policy_name::pg_catalog.text, v.tenant_column::pg_catalog.text,
            v.original_type, p.original_statistics, p.original_storage, p.original_compression, v.storage, v.status, v.index_column::pg_catalog.text, v.decrypting_view::pg_catalog.oid,
            v.rows_total, v.rows_done, p.last_key, v.trigger_state, v.is_validated,
            CASE WHEN k.oid IS NULL THEN v.has_recorded_name OR NOT v.has_copies ELSE k.oid OPERATOR(pg_catalog.=) v.relation END, k.oid IS NOT NULL,
            p.key_forms, CASE WHEN k.oid OPERATOR(pg_catalog.=) v.relation THEN x.key_columns END, e.is_enabled,
            EXISTS (SELECT FROM kms_wrap.encryption_bindings b JOIN kms_wrap.key_wrappers w ON w.id OPERATOR(pg_catalog.=) b.key_wrapper_id
                    WHERE b.entity_table OPERATOR(pg_catalog.=) v.column_uuid::pg_catalog.text AND w.status OPERATOR(pg_catalog.=) 'rotated'
                      AND NOT pg_catalog.starts_with(b.entity_pk::pg_catalog.text, 'index ')),
            p.index_generation, p.index_old_generation IS NOT NULL, p.unknown_envelopes
     FROM kms_wrap.kw_protected_columns v
     JOIN kms_wrap.protected_columns p ON p.column_uuid OPERATOR(pg_catalog.=) v.column_uuid
     JOIN kms_wrap.encryption_policies e ON e.id OPERATOR(pg_catalog.=) p.policy_id
     LEFT JOIN kms_wrap.column_relations x ON x.column_uuid OPERATOR(pg_catalog.=) v.column_uuid
     LEFT JOIN pg_catalog.pg_class k ON k.oid OPERATOR(pg_catalog.=) x.relation
     WHERE v.relation OPERATOR(pg_catalog.=) $1 AND ($2 IS NULL OR v.column_name OPERATOR(pg_catalog.=) $2::pg_catalog.name)
     ORDER BY v.column_name";

/// The protected columns of a table, or the one of that name.
pub(crate) fn find(relation: Oid, column_name: Option<&str>) -> Result<Vec<Protected>, Failure> {
    spi::select(FIND, &[relation.into(), column_name.into()], |row| {
        Ok(Protected {
            name: row.next()?,
            uuid: row.next()?,
            policy: row.next()?,
            tenant_column: row.opt()?,
            original_type: row.next()?,
            original_statistics: row.next()?,
            original_storage: row.next()?,
            original_compression: row.opt()?,
            storage: row.next()?,
            status: row.next()?,
            index_column: row.opt()?,
            decrypting_view: row.opt()?,
            rows_total: row.opt()?,
            rows_done: row.opt()?,
            last_key: row.opt()?,
            trigger_state: row.next()?,
            is_validated: row.next()?,
            is_genuine: row.next()?,
            is_recorded: row.next()?,
            key_forms: row.next()?,
            key_columns: row.opt()?,
            policy_is_enabled: row.next()?,
            has_old_deks: row.next()?,
            index_generation: row.next()?,
            has_old_index: row.next()?,
            unknown_envelopes: row.next()?,
        })
    })
}

const NEW_UUID: &str = "SELECT pg_catalog.gen_random_uuid()";

/// A uuid for a column. Random from its first digit, since these stand in the names of triggers.
pub(crate) fn new_uuid() -> Result<Uuid, Failure> {
    spi::first(spi::select(NEW_UUID, &[], |row| row.next())?).ok_or_else(|| Failure::internal("uuid"))
}

/// A column to be registered. What its type is the catalog says.
pub(crate) struct NewColumn<'a> {
    pub(crate) uuid: Uuid,
    pub(crate) relation: Oid,
    pub(crate) name: &'a str,
    pub(crate) policy: i64,
    pub(crate) tenant_column: Option<&'a str>,
    pub(crate) status: &'a str,
    pub(crate) index: Option<Index<'a>>,
    pub(crate) view_schema: &'a str,
    pub(crate) view_name: &'a str,
}

/// A blind index.
pub(crate) struct Index<'a> {
    pub(crate) column: &'a str,
    pub(crate) bytes: i32,
    pub(crate) normalisation: &'a str,
    pub(crate) unique: bool,
}

const INSERT: &str = "INSERT INTO kms_wrap.protected_columns
       (schema_name, table_name, column_name, policy_id, tenant_column, original_type, storage, status, index_column, index_bytes,
        index_normalisation, index_unique, view_schema, view_name, finished_at, column_uuid, key_forms,
        original_statistics, original_storage, original_compression)
     SELECT n.nspname, c.relname, a.attname, $3, $4::pg_catalog.name, pg_catalog.format_type(a.atttypid, a.atttypmod),
            CASE WHEN a.atttypid OPERATOR(pg_catalog.=) 'pg_catalog.bytea'::pg_catalog.regtype THEN 'bytea' ELSE 'text' END, $5,
            $6::pg_catalog.name, $7::pg_catalog.int2, $8, $9, $10::pg_catalog.name, $11::pg_catalog.name,
            CASE WHEN $5 OPERATOR(pg_catalog.=) 'protected' THEN CURRENT_TIMESTAMP(6) END, $12, $13,
            COALESCE(a.attstattarget, -1)::pg_catalog.int2,
            CASE a.attstorage WHEN 'p' THEN 'plain' WHEN 'e' THEN 'external' WHEN 'm' THEN 'main' ELSE 'extended' END,
            CASE a.attcompression WHEN 'p' THEN 'pglz' WHEN 'l' THEN 'lz4' END
     FROM pg_catalog.pg_attribute a
     JOIN pg_catalog.pg_class c ON c.oid OPERATOR(pg_catalog.=) a.attrelid
     JOIN pg_catalog.pg_namespace n ON n.oid OPERATOR(pg_catalog.=) c.relnamespace
     WHERE a.attrelid OPERATOR(pg_catalog.=) $1 AND a.attname OPERATOR(pg_catalog.=) $2::pg_catalog.name AND NOT a.attisdropped
       AND a.atttypid OPERATOR(pg_catalog.=) ANY ('{text,varchar,bpchar,bytea}'::pg_catalog.regtype[])
     ON CONFLICT DO NOTHING";

/// Registers a column whose values are bound to keys of these forms; `false` when the table has no such column, or of another type, or the uuid is
/// taken.
pub(crate) fn insert(new: &NewColumn<'_>, key_forms: Vec<String>) -> Result<bool, Failure> {
    let index = new.index.as_ref();
    let args = [
        new.relation.into(),
        new.name.into(),
        new.policy.into(),
        new.tenant_column.into(),
        new.status.into(),
        index.map(|i| i.column).into(),
        index.map(|i| i.bytes).into(),
        index.map(|i| i.normalisation).into(),
        index.map(|i| i.unique).into(),
        new.view_schema.into(),
        new.view_name.into(),
        new.uuid.into(),
        key_forms.into(),
    ];
    Ok(spi::execute(INSERT, &args)? > 0)
}

const PROGRESS: &str = "UPDATE kms_wrap.protected_columns
     SET status = COALESCE($2, status), rows_total = COALESCE($3, rows_total), rows_done = COALESCE($4, rows_done), last_key = $5,
         finished_at = CASE WHEN $2 OPERATOR(pg_catalog.=) 'protected' THEN pg_catalog.clock_timestamp() ELSE finished_at END
     WHERE column_uuid OPERATOR(pg_catalog.=) $1";

/// Records how far the encryption of existing rows is.
pub(crate) fn progress(
    column: Uuid,
    status: Option<&str>,
    rows_total: Option<i64>,
    rows_done: Option<i64>,
    last_key: Option<Vec<String>>,
) -> Result<(), Failure> {
    spi::execute(PROGRESS, &[column.into(), status.into(), rows_total.into(), rows_done.into(), last_key.into()])?;
    Ok(())
}

const POLICY: &str = "SELECT e.id, e.policy_name::pg_catalog.text FROM kms_wrap.protected_columns p
     JOIN kms_wrap.encryption_policies e ON e.id OPERATOR(pg_catalog.=) p.policy_id WHERE p.column_uuid OPERATOR(pg_catalog.=) $1";

/// Id and name of a column's policy.
pub(crate) fn policy(column: Uuid) -> Result<Option<(i64, String)>, Failure> {
    Ok(spi::first(spi::select(POLICY, &[column.into()], |row| Ok((row.next()?, row.next()?)))?))
}

const HOLDERS: &str = "SELECT t.oid::pg_catalog.regclass::pg_catalog.text,
            COALESCE((SELECT pg_catalog.pg_has_role(k.relowner, t.relowner, 'USAGE')
                      FROM kms_wrap.column_relations x JOIN pg_catalog.pg_class k ON k.oid OPERATOR(pg_catalog.=) x.relation
                      WHERE x.column_uuid OPERATOR(pg_catalog.=) $1), true)
     FROM pg_catalog.pg_constraint c JOIN pg_catalog.pg_class t ON t.oid OPERATOR(pg_catalog.=) c.conrelid
     WHERE c.conname OPERATOR(pg_catalog.=)
         pg_catalog.concat('kw_sealed_', pg_catalog.replace($1::pg_catalog.text, '-', ''))::pg_catalog.name
       AND c.contype OPERATOR(pg_catalog.=) 'c' ORDER BY 1";

/// Tables with the constraint that marks the column, and whether the owner of the one that was protected is an owner of them too.
pub(crate) fn holders(column: Uuid) -> Result<Vec<(String, bool)>, Failure> {
    spi::select(HOLDERS, &[column.into()], |row| Ok((row.next()?, row.next()?)))
}

const DELETE: &str = "DELETE FROM kms_wrap.protected_columns WHERE column_uuid OPERATOR(pg_catalog.=) $1";

/// Forgets a column.
pub(crate) fn delete(column: Uuid) -> Result<(), Failure> {
    spi::execute(DELETE, &[column.into()])?;
    Ok(())
}
