//! What kw_health and kw_describe_wrapper look at beyond keys and wrappers.

use crate::pg::{report::Failure, spi};
use pgrx::{JsonB, pg_sys::Oid};
use serde_json::Value;

const PROVIDERS: &str = "SELECT p.id, p.name::pg_catalog.text, p.provider, p.is_enabled,
            CASE WHEN p.suspended_until OPERATOR(pg_catalog.>) pg_catalog.now() THEN p.suspended_until::pg_catalog.text END, p.suspend_reason,
            p.trust_domain::pg_catalog.text, c.config,
            (SELECT pg_catalog.count(*) FROM kms_wrap.kms_keys k WHERE k.provider_id OPERATOR(pg_catalog.=) p.id)
     FROM kms_wrap.kms_providers p LEFT JOIN kms_wrap.provider_config c ON c.id OPERATOR(pg_catalog.=) p.provider_config_id ORDER BY p.id";

/// A provider as kw_health shows it.
pub(crate) struct ProviderRow {
    pub(crate) id: i64,
    pub(crate) name: String,
    pub(crate) kind: String,
    pub(crate) is_enabled: bool,
    pub(crate) suspended_until: Option<String>,
    pub(crate) suspend_reason: Option<String>,
    pub(crate) trust_domain: String,
    pub(crate) config: Option<Value>,
    pub(crate) keys: i64,
}

/// All providers.
pub(crate) fn providers() -> Result<Vec<ProviderRow>, Failure> {
    spi::select(PROVIDERS, &[], |row| {
        Ok(ProviderRow {
            id: row.next()?,
            name: row.next()?,
            kind: row.next()?,
            is_enabled: row.next()?,
            suspended_until: row.opt()?,
            suspend_reason: row.opt()?,
            trust_domain: row.next()?,
            config: row.opt::<JsonB>()?.map(|json| json.0),
            keys: row.next()?,
        })
    })
}

const POLICY_NAMES: &str = "SELECT policy_name::pg_catalog.text FROM kms_wrap.encryption_policies ORDER BY id";

/// Names of all policies.
pub(crate) fn policy_names() -> Result<Vec<String>, Failure> {
    spi::select(POLICY_NAMES, &[], |row| row.next())
}

const WORKERS: &str = "SELECT pg_catalog.count(*) FROM pg_catalog.pg_stat_get_activity(NULL) a
     JOIN pg_catalog.pg_database d ON d.oid OPERATOR(pg_catalog.=) a.datid
     WHERE a.backend_type OPERATOR(pg_catalog.=) 'kms_wrap worker' AND d.datname OPERATOR(pg_catalog.=) pg_catalog.current_database()";
const DATABASE: &str = "SELECT pg_catalog.current_database()::pg_catalog.text";

/// Name of this database, and how many workers serve it.
pub(crate) fn worker() -> Result<(String, i64), Failure> {
    let database = spi::first(spi::select(DATABASE, &[], |row| row.next())?).unwrap_or_default();
    Ok((database, spi::first(spi::select(WORKERS, &[], |row| row.next())?).unwrap_or(0)))
}

const JOBS: &str = "SELECT (SELECT pg_catalog.count(*) FROM kms_wrap.rewrap_campaigns WHERE status OPERATOR(pg_catalog.=) 'running'),
            (SELECT pg_catalog.count(*) FROM kms_wrap.rewrap_campaigns WHERE status OPERATOR(pg_catalog.=) 'paused'),
            (SELECT pg_catalog.count(*) FROM kms_wrap.rewrap_jobs WHERE status OPERATOR(pg_catalog.=) ANY ('{pending,running}')),
            (SELECT pg_catalog.count(*) FROM kms_wrap.rewrap_jobs WHERE status OPERATOR(pg_catalog.=) 'failed')";

/// Running campaigns, paused campaigns, open jobs, failed jobs.
pub(crate) fn jobs() -> Result<(i64, i64, i64, i64), Failure> {
    let rows = spi::select(JOBS, &[], |row| Ok((row.next()?, row.next()?, row.next()?, row.next()?)))?;
    Ok(spi::first(rows).unwrap_or_default())
}

const BELOW_PQ: &str = "SELECT pg_catalog.count(*) FROM kms_wrap.key_wrappers w
     WHERE w.status OPERATOR(pg_catalog.=) ANY ('{active,rotated}')
       AND NOT EXISTS (SELECT FROM kms_wrap.key_wrapper_layers l WHERE l.key_wrapper_id OPERATOR(pg_catalog.=) w.id)";

/// Live wrappers without any layer, so without post-quantum protection.
pub(crate) fn without_layers() -> Result<i64, Failure> {
    Ok(spi::first(spi::select(BELOW_PQ, &[], |row| row.next())?).unwrap_or(0))
}

const MISSING_SEALED: &str = "SELECT pg_catalog.count(*) FROM kms_wrap.kms_keys k
     JOIN kms_wrap.kms_providers p ON p.id OPERATOR(pg_catalog.=) k.provider_id
     WHERE p.provider OPERATOR(pg_catalog.=) 'local' AND p.name OPERATOR(pg_catalog.=) $1 AND k.status OPERATOR(pg_catalog.<>) 'destroyed'
       AND NOT EXISTS (SELECT FROM kms_wrap.sym_key s WHERE s.key_id OPERATOR(pg_catalog.=) k.external_key_ref
                       AND s.provider_config_id OPERATOR(pg_catalog.=) p.provider_config_id)
       AND NOT EXISTS (SELECT FROM kms_wrap.asym_key a WHERE a.key_id OPERATOR(pg_catalog.=) k.external_key_ref
                       AND a.provider_config_id OPERATOR(pg_catalog.=) p.provider_config_id)";

/// Keys of a local provider whose sealed bytes are gone.
pub(crate) fn missing_sealed(provider: &str) -> Result<i64, Failure> {
    Ok(spi::first(spi::select(MISSING_SEALED, &[provider.into()], |row| row.next())?).unwrap_or(0))
}

const INSTALLED: &str = "SELECT pg_catalog.to_regclass('kms_wrap.rewrap_jobs') IS NOT NULL";

/// Whether the extension is in this database.
pub(crate) fn is_installed() -> Result<bool, Failure> {
    Ok(spi::first(spi::select(INSTALLED, &[], |row| row.next())?).unwrap_or(false))
}

const PROTECTED_COLUMNS: &str = "SELECT v.schema_name::pg_catalog.text, v.table_name::pg_catalog.text, v.column_name::pg_catalog.text,
            v.policy_name::pg_catalog.text, v.status, v.trigger_state, COALESCE(v.has_primary_key, false), v.unknown_envelopes,
            p.index_old_generation IS NOT NULL, v.relation::pg_catalog.oid, v.tenant_column::pg_catalog.text, p.key_forms, x.key_columns
     FROM kms_wrap.kw_protected_columns v JOIN kms_wrap.protected_columns p ON p.column_uuid OPERATOR(pg_catalog.=) v.column_uuid
     LEFT JOIN kms_wrap.column_relations x ON x.column_uuid OPERATOR(pg_catalog.=) v.column_uuid AND x.relation OPERATOR(pg_catalog.=) v.relation::pg_catalog.oid
     ORDER BY p.id";

/// A protected column as kw_health shows it.
pub(crate) struct ColumnRow {
    pub(crate) schema: String,
    pub(crate) table: String,
    pub(crate) column: String,
    pub(crate) policy: String,
    pub(crate) status: String,
    pub(crate) trigger_state: Option<String>,
    pub(crate) has_primary_key: bool,
    pub(crate) unknown_envelopes: i64,
    pub(crate) has_old_index: bool,
    /// `None` when no table has the column.
    pub(crate) relation: Option<Oid>,
    pub(crate) tenant_column: Option<String>,
    pub(crate) key_forms: Vec<String>,
    pub(crate) key_columns: Option<Vec<i16>>,
}

/// All protected columns.
pub(crate) fn protected_columns() -> Result<Vec<ColumnRow>, Failure> {
    spi::select(PROTECTED_COLUMNS, &[], |row| {
        Ok(ColumnRow {
            schema: row.next()?,
            table: row.next()?,
            column: row.next()?,
            policy: row.next()?,
            status: row.next()?,
            trigger_state: row.opt()?,
            has_primary_key: row.next()?,
            unknown_envelopes: row.next()?,
            has_old_index: row.next()?,
            relation: row.opt()?,
            tenant_column: row.opt()?,
            key_forms: row.next()?,
            key_columns: row.opt()?,
        })
    })
}

const LOST_GRANTS: &str = "SELECT g.role_name::pg_catalog.text, p.policy_name::pg_catalog.text, g.privilege
     FROM kms_wrap.policy_grants g JOIN kms_wrap.encryption_policies p ON p.id OPERATOR(pg_catalog.=) g.policy_id
     WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_roles r WHERE r.rolname OPERATOR(pg_catalog.=) g.role_name)
     ORDER BY g.role_name, p.id, g.privilege";

/// Grants to names that are no roles: role, policy, privilege.
pub(crate) fn grants_without_role() -> Result<Vec<(String, String, String)>, Failure> {
    spi::select(LOST_GRANTS, &[], |row| Ok((row.next()?, row.next()?, row.next()?)))
}
