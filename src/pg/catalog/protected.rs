//! Protected columns as sealing and opening their values needs them, and where a table has them.

use crate::pg::{
    report::Failure,
    spi::{self, Row},
};
use pgrx::{Uuid, pg_sys};

/// A row of protected_columns.
#[allow(clippy::struct_excessive_bools)] // columns of a table
pub(crate) struct ColumnRow {
    pub(crate) policy_id: i64,
    pub(crate) has_tenant: bool,
    pub(crate) original_type: String,
    pub(crate) is_text: bool,
    pub(crate) is_encrypting: bool,
    pub(crate) index_bytes: Option<i16>,
    pub(crate) index_is_unique: bool,
    pub(crate) index_normalisation: Option<String>,
    pub(crate) index_generation: i16,
    pub(crate) index_old_generation: Option<i16>,
    pub(crate) key_forms: Vec<String>,
}

const COLUMN: &str = "SELECT policy_id, tenant_column IS NOT NULL, original_type, storage OPERATOR(pg_catalog.=) 'text',
            status OPERATOR(pg_catalog.<>) 'protected', index_bytes, COALESCE(index_unique, false), index_normalisation,
            index_generation, index_old_generation, key_forms
     FROM kms_wrap.protected_columns WHERE column_uuid OPERATOR(pg_catalog.=) $1";

/// A column by its uuid.
pub(crate) fn column(uuid: Uuid) -> Result<ColumnRow, Failure> {
    let read = |row: &mut Row| {
        Ok(ColumnRow {
            policy_id: row.next()?,
            has_tenant: row.next()?,
            original_type: row.next()?,
            is_text: row.next()?,
            is_encrypting: row.next()?,
            index_bytes: row.opt()?,
            index_is_unique: row.next()?,
            index_normalisation: row.opt()?,
            index_generation: row.next()?,
            index_old_generation: row.opt()?,
            key_forms: row.next()?,
        })
    };
    spi::first(spi::select(COLUMN, &[uuid.into()], read)?).ok_or_else(|| Failure::unknown("protected column", uuid))
}

// Constraints follow every renaming, and are dumped and cloned to partitions with the table.
const CONSTRAINTS: &str = "SELECT conname::pg_catalog.text, a.attnum, a.atttypid, a.atttypmod
     FROM pg_catalog.pg_constraint c
     JOIN pg_catalog.pg_attribute a ON a.attrelid OPERATOR(pg_catalog.=) c.conrelid AND a.attnum OPERATOR(pg_catalog.=) c.conkey[1]
     WHERE c.conrelid OPERATOR(pg_catalog.=) $1 AND c.contype OPERATOR(pg_catalog.=) 'c'
       AND pg_catalog.starts_with(c.conname::pg_catalog.text, 'kw_')";

/// A column of a relation.
#[derive(Clone, Copy)]
pub(crate) struct Attribute {
    pub(crate) number: i16,
    pub(crate) type_oid: pg_sys::Oid,
    pub(crate) type_modifier: i32,
}

impl Attribute {
    fn read(row: &mut Row) -> Result<Self, Failure> {
        Ok(Self { number: row.next()?, type_oid: row.next()?, type_modifier: row.next()? })
    }
}

/// CHECK constraints of a relation that mark columns, by name.
pub(crate) fn marks(relation: pg_sys::Oid) -> Result<Vec<(String, Attribute)>, Failure> {
    spi::select(CONSTRAINTS, &[relation.into()], |row| Ok((row.next()?, Attribute::read(row)?)))
}

const BY_NAME: &str = "SELECT a.attnum, a.atttypid, a.atttypmod FROM pg_catalog.pg_attribute a
     WHERE a.attrelid OPERATOR(pg_catalog.=) $1 AND a.attname OPERATOR(pg_catalog.=) $2::pg_catalog.name AND NOT a.attisdropped";

/// A column by its name.
pub(crate) fn attribute(relation: pg_sys::Oid, name: &str) -> Result<Attribute, Failure> {
    spi::first(spi::select(BY_NAME, &[relation.into(), name.into()], Attribute::read)?).ok_or_else(|| Failure::unknown("column", name))
}

const PRIMARY_KEY: &str = "SELECT a.attnum, a.atttypid, a.atttypmod
     FROM pg_catalog.pg_index i
     CROSS JOIN LATERAL pg_catalog.generate_series(0, i.indnkeyatts::pg_catalog.int4 OPERATOR(pg_catalog.-) 1) n (n)
     JOIN pg_catalog.pg_attribute a ON a.attrelid OPERATOR(pg_catalog.=) i.indrelid AND a.attnum OPERATOR(pg_catalog.=) i.indkey[n.n]
     WHERE i.indrelid OPERATOR(pg_catalog.=) $1 AND i.indisprimary ORDER BY n.n";

/// The columns of a relation's primary key, in the order of its index.
pub(crate) fn primary_key(relation: pg_sys::Oid) -> Result<Vec<Attribute>, Failure> {
    spi::select(PRIMARY_KEY, &[relation.into()], Attribute::read)
}

const COUNT_UNKNOWN: &str = "SELECT kms_wrap.kw_column_count_unknown($1, $2)";

/// Counts envelopes that were stored although their wrappers are not here.
pub(crate) fn count_unknown(uuid: Uuid, envelopes: i64) -> Result<(), Failure> {
    spi::write(COUNT_UNKNOWN, &[uuid.into(), envelopes.into()], |_| Ok(()))?;
    Ok(())
}

const BIND: &str = "INSERT INTO kms_wrap.encryption_bindings (entity_table, entity_pk, field_name, key_wrapper_id)
     SELECT $1::pg_catalog.uuid::pg_catalog.text, COALESCE('index ' OPERATOR(pg_catalog.||) $4::pg_catalog.text, pg_catalog.encode(w.scope_key, 'hex')),
            w.wrapper_uuid::pg_catalog.text, w.id
     FROM kms_wrap.key_wrappers w
     WHERE w.policy_id OPERATOR(pg_catalog.=) $2 AND COALESCE(w.scope_key, ''::pg_catalog.bytea) OPERATOR(pg_catalog.=) $3
       AND w.purpose OPERATOR(pg_catalog.=) 'values' AND w.status OPERATOR(pg_catalog.=) 'active'
     ON CONFLICT DO NOTHING";

/// Says which column the current wrapper of a scope serves, its values or a generation of its index, and with that keeps the wrapper from
/// being deleted.
pub(crate) fn bind(column: Uuid, policy: i64, scope_key: &[u8], generation: Option<u8>) -> Result<(), Failure> {
    let generation = generation.map(i16::from);
    spi::execute(BIND, &[column.into(), policy.into(), scope_key.to_vec().into(), generation.into()])?;
    Ok(())
}

const BIND_LIKE: &str = "INSERT INTO kms_wrap.encryption_bindings (entity_table, entity_pk, field_name, key_wrapper_id)
     SELECT b.entity_table, b.entity_pk, n.wrapper_uuid::pg_catalog.text, n.id
     FROM kms_wrap.encryption_bindings b, kms_wrap.key_wrappers n
     WHERE b.key_wrapper_id OPERATOR(pg_catalog.=) $1 AND n.wrapper_uuid OPERATOR(pg_catalog.=) $2::pg_catalog.text::pg_catalog.bpchar
     ON CONFLICT DO NOTHING";

/// A rotated wrapper's successor serves what it served.
pub(crate) fn bind_like(old: i64, new: Uuid) -> Result<(), Failure> {
    spi::execute(BIND_LIKE, &[old.into(), new.into()])?;
    Ok(())
}

const IS_INDEX_KEY: &str = "SELECT EXISTS (SELECT FROM kms_wrap.encryption_bindings
     WHERE key_wrapper_id OPERATOR(pg_catalog.=) $1 AND pg_catalog.starts_with(entity_pk::pg_catalog.text, 'index '))";

/// Whether a wrapper holds the key of a blind index.
pub(crate) fn is_index_key(wrapper: i64) -> Result<bool, Failure> {
    Ok(spi::first(spi::select(IS_INDEX_KEY, &[wrapper.into()], |row| row.next())?).unwrap_or(false))
}

const NEXT_GENERATION: &str = "UPDATE kms_wrap.protected_columns
     SET index_old_generation = index_generation, index_generation = (index_generation OPERATOR(pg_catalog.+) 1)::pg_catalog.int2
     WHERE column_uuid OPERATOR(pg_catalog.=) $1 AND index_old_generation IS NULL AND index_generation OPERATOR(pg_catalog.<) 255
     RETURNING index_generation";

/// Begins a new generation of a blind index; `None` while the last rotation is not finished.
pub(crate) fn next_generation(column: Uuid) -> Result<Option<i16>, Failure> {
    Ok(spi::first(spi::write(NEXT_GENERATION, &[column.into()], |row| row.next())?))
}

const SETTLE_GENERATION: &str = "UPDATE kms_wrap.protected_columns SET index_old_generation = NULL
     WHERE column_uuid OPERATOR(pg_catalog.=) $1 AND index_old_generation IS NOT NULL";

/// Forgets the old generation of a blind index.
pub(crate) fn settle_generation(column: Uuid) -> Result<(), Failure> {
    spi::execute(SETTLE_GENERATION, &[column.into()])?;
    Ok(())
}

// The recorded table if it still exists; else the one of the recorded name, or the only one with the constraint.
const ON_RECORD: &str = "WITH r AS (SELECT COALESCE(pg_catalog.pg_partition_root($2)::pg_catalog.oid, $2) AS root),
     k AS (SELECT x.relation, x.key_columns FROM kms_wrap.column_relations x JOIN pg_catalog.pg_class c ON c.oid OPERATOR(pg_catalog.=) x.relation
           WHERE x.column_uuid OPERATOR(pg_catalog.=) $1)
     SELECT r.root, EXISTS (SELECT FROM k) AND EXISTS (
                SELECT FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid OPERATOR(pg_catalog.=) c.relnamespace
                JOIN kms_wrap.protected_columns p ON p.table_name OPERATOR(pg_catalog.=) c.relname AND p.schema_name OPERATOR(pg_catalog.=) n.nspname
                WHERE p.column_uuid OPERATOR(pg_catalog.=) $1 AND c.oid OPERATOR(pg_catalog.=) r.root),
            CASE WHEN EXISTS (SELECT FROM k) THEN r.root OPERATOR(pg_catalog.=) (SELECT k.relation FROM k)
                 ELSE EXISTS (SELECT FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid OPERATOR(pg_catalog.=) c.relnamespace
                              JOIN kms_wrap.protected_columns p ON p.table_name OPERATOR(pg_catalog.=) c.relname
                                   AND p.schema_name OPERATOR(pg_catalog.=) n.nspname
                              WHERE p.column_uuid OPERATOR(pg_catalog.=) $1 AND c.oid OPERATOR(pg_catalog.=) r.root)
                   OR (SELECT pg_catalog.count(*) FROM pg_catalog.pg_constraint s
                       WHERE s.conname OPERATOR(pg_catalog.=) $3::pg_catalog.name AND s.contype OPERATOR(pg_catalog.=) 'c'
                         AND s.coninhcount OPERATOR(pg_catalog.=) 0 AND s.conrelid OPERATOR(pg_catalog.<>) 0::pg_catalog.oid) OPERATOR(pg_catalog.=) 1
            END,
            (SELECT k.key_columns FROM k)
     FROM r";

/// What is on record of a column's table, compared with a relation.
pub(crate) struct OnRecord {
    /// The relation, or the root that it is a partition of.
    pub(crate) root: pg_sys::Oid,
    /// Whether that and its name are on record.
    pub(crate) is_recorded: bool,
    /// Whether that is the column's table.
    pub(crate) is_its_table: bool,
    /// Numbers of its key columns, if on record.
    pub(crate) key_columns: Option<Vec<i16>>,
}

/// Whether a relation is the table of a column, or a partition of that.
pub(crate) fn on_record(column: Uuid, relation: pg_sys::Oid, mark: &str) -> Result<OnRecord, Failure> {
    let read =
        |row: &mut Row| Ok(OnRecord { root: row.next()?, is_recorded: row.next()?, is_its_table: row.next()?, key_columns: row.opt()? });
    let rows = spi::select(ON_RECORD, &[column.into(), relation.into(), mark.into()], read)?;
    spi::first(rows).ok_or_else(|| Failure::internal("table of a protected column"))
}

// One session does it; the others need not wait for its end.
const RECORD: &str = "INSERT INTO kms_wrap.column_relations (column_uuid, relation, key_columns)
     SELECT $1, $2, $3 WHERE pg_catalog.pg_try_advisory_xact_lock(1263227731, pg_catalog.hashtext($1::pg_catalog.text))
     ON CONFLICT (column_uuid) DO UPDATE SET relation = EXCLUDED.relation, key_columns = EXCLUDED.key_columns
     WHERE column_relations.key_columns IS NULL AND EXCLUDED.key_columns IS NOT NULL OR NOT EXISTS (SELECT FROM pg_catalog.pg_class c WHERE c.oid OPERATOR(pg_catalog.=) column_relations.relation)";

const RENAME: &str = "UPDATE kms_wrap.protected_columns p SET schema_name = n.nspname, table_name = c.relname
     FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid OPERATOR(pg_catalog.=) c.relnamespace
     WHERE p.column_uuid OPERATOR(pg_catalog.=) $1 AND c.oid OPERATOR(pg_catalog.=) $2
       AND (p.schema_name OPERATOR(pg_catalog.<>) n.nspname OR p.table_name OPERATOR(pg_catalog.<>) c.relname)
       AND pg_catalog.pg_try_advisory_xact_lock(1263227731, pg_catalog.hashtext($1::pg_catalog.text))";

/// Puts on record which table has a column, with the numbers of its key columns if it has a key, and what it is called now: by the name it is found
/// after a restore.
pub(crate) fn record(column: Uuid, relation: pg_sys::Oid, key_columns: Option<Vec<i16>>) -> Result<(), Failure> {
    spi::execute(RECORD, &[column.into(), relation.into(), key_columns.into()])?;
    spi::execute(RENAME, &[column.into(), relation.into()])?;
    Ok(())
}
