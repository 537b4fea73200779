//! Providers, keys and policies as the set-up functions write them. Names that exist already are reported by no row coming back.

use super::key::Key;
use crate::pg::{
    report::Failure,
    spi::{self, Row},
};
use pgrx::{JsonB, Uuid};
use serde_json::Value;

const INSERT_CONFIG: &str = "INSERT INTO kms_wrap.provider_config (provider_name, manager, config) VALUES ($1, $2, $3)
     ON CONFLICT DO NOTHING RETURNING id";
const INSERT_PROVIDER: &str =
    "INSERT INTO kms_wrap.kms_providers (name, provider, location, project_tenant, provider_config_id, trust_domain)
     VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT DO NOTHING RETURNING id";

/// A provider to be added.
pub(crate) struct NewProvider<'a> {
    pub(crate) name: &'a str,
    pub(crate) kind: &'a str,
    pub(crate) manager: &'a str,
    pub(crate) config: Value,
    pub(crate) location: &'a str,
    pub(crate) project_tenant: Option<&'a str>,
    pub(crate) trust_domain: &'a str,
}

/// Inserts a provider with its configuration; `None` when its name or place is taken.
pub(crate) fn insert_provider(new: NewProvider<'_>) -> Result<Option<i64>, Failure> {
    let args = [new.name.into(), new.manager.into(), JsonB(new.config).into()];
    let Some(config) = spi::first(spi::write(INSERT_CONFIG, &args, |row| row.next::<Uuid>())?) else { return Ok(None) };
    let args = [new.name.into(), new.kind.into(), new.location.into(), new.project_tenant.into(), config.into(), new.trust_domain.into()];
    Ok(spi::first(spi::write(INSERT_PROVIDER, &args, |row| row.next())?))
}

// Locked against kw_rotate_root_key: a key sealed under the old root key must not appear beside a configuration that names the new one.
const PROVIDER: &str =
    "SELECT p.id, p.provider, COALESCE(p.location, '')::pg_catalog.text, p.project_tenant::pg_catalog.text, c.id, c.config
     FROM kms_wrap.kms_providers p JOIN kms_wrap.provider_config c ON c.id OPERATOR(pg_catalog.=) p.provider_config_id
     WHERE p.name OPERATOR(pg_catalog.=) $1 FOR SHARE OF c";
const PROVIDER_FOR_UPDATE: &str =
    "SELECT p.id, p.provider, COALESCE(p.location, '')::pg_catalog.text, p.project_tenant::pg_catalog.text, c.id, c.config
     FROM kms_wrap.kms_providers p JOIN kms_wrap.provider_config c ON c.id OPERATOR(pg_catalog.=) p.provider_config_id
     WHERE p.name OPERATOR(pg_catalog.=) $1 FOR UPDATE OF c";

const UNLOCKED: &str =
    "SELECT p.id, p.provider, COALESCE(p.location, '')::pg_catalog.text, p.project_tenant::pg_catalog.text, c.id, c.config
     FROM kms_wrap.kms_providers p JOIN kms_wrap.provider_config c ON c.id OPERATOR(pg_catalog.=) p.provider_config_id
     WHERE p.name OPERATOR(pg_catalog.=) $1";

/// A provider as set-up needs it.
pub(crate) struct Provider {
    pub(crate) id: i64,
    pub(crate) kind: String,
    pub(crate) location: String,
    pub(crate) project_tenant: Option<String>,
    pub(crate) config_id: Uuid,
    pub(crate) config: Value,
}

/// A provider by name as it is, held by nobody: what a remote provider is asked for takes a while.
pub(crate) fn unlocked_provider(name: &str) -> Result<Provider, Failure> {
    spi::first(spi::select(UNLOCKED, &[name.into()], read_provider)?).ok_or_else(|| Failure::unknown("key provider", name))
}

/// A provider by name, its configuration locked: shared, or exclusively for a change of root key.
pub(crate) fn provider(name: &str, for_update: bool) -> Result<Provider, Failure> {
    let sql = if for_update { PROVIDER_FOR_UPDATE } else { PROVIDER };
    spi::first(spi::write(sql, &[name.into()], read_provider)?).ok_or_else(|| Failure::unknown("key provider", name))
}

fn read_provider(row: &mut Row) -> Result<Provider, Failure> {
    let (id, kind, location, project_tenant, config_id) = (row.next()?, row.next()?, row.next()?, row.opt()?, row.next()?);
    Ok(Provider { id, kind, location, project_tenant, config_id, config: row.next::<JsonB>()?.0 })
}

const SET_CONFIG: &str =
    "UPDATE kms_wrap.provider_config SET config = $2, updated_at = pg_catalog.now() WHERE id OPERATOR(pg_catalog.=) $1";
const SET_DOMAIN: &str = "UPDATE kms_wrap.kms_providers SET trust_domain = $3
     WHERE provider_config_id OPERATOR(pg_catalog.=) $1 AND trust_domain OPERATOR(pg_catalog.=) $2";

/// Changes a provider's configuration, and its trust domain from the first to the second if it is the first.
pub(crate) fn set_config(config_id: Uuid, config: Value, domains: &[String; 2]) -> Result<(), Failure> {
    spi::execute(SET_CONFIG, &[config_id.into(), JsonB(config).into()])?;
    let [old, new] = domains;
    spi::execute(SET_DOMAIN, &[config_id.into(), old.as_str().into(), new.as_str().into()])?;
    Ok(())
}

const INSERT_KEY: &str = "INSERT INTO kms_wrap.kms_keys
       (provider_id, external_key_ref, purpose, algorithm, key_version, public_key, public_key_sha256)
     VALUES ($1, $2, $3, $4, $5, $6, pg_catalog.sha256($6)) ON CONFLICT DO NOTHING RETURNING id";

/// Registers a key; `None` when its provider has one of that name.
pub(crate) fn insert_key(
    provider: i64,
    external_key_ref: &str,
    purpose: &str,
    algorithm: &str,
    key_version: Option<&str>,
    public_key: Option<Vec<u8>>,
) -> Result<Option<i64>, Failure> {
    let args = [provider.into(), external_key_ref.into(), purpose.into(), algorithm.into(), key_version.into(), public_key.into()];
    Ok(spi::first(spi::write(INSERT_KEY, &args, |row| row.next())?))
}

const ALGORITHM: &str = "SELECT name::pg_catalog.text FROM kms_wrap.crypto_algorithms WHERE name OPERATOR(pg_catalog.=) $1
     UNION ALL
     SELECT a.name::pg_catalog.text FROM kms_wrap.crypto_standard_aliases s JOIN kms_wrap.crypto_algorithms a ON a.id OPERATOR(pg_catalog.=) s.algo_id
     WHERE s.alias OPERATOR(pg_catalog.=) pg_catalog.lower($1)
     LIMIT 1";

/// The catalog's name of an algorithm, by name or alias.
pub(crate) fn algorithm_name(name: &str) -> Result<String, Failure> {
    spi::first(spi::select(ALGORITHM, &[name.into()], |row| row.next())?).ok_or_else(|| Failure::unknown("algorithm", name))
}

const SET_KEY_STATUS: &str = "UPDATE kms_wrap.kms_keys SET status = $2 WHERE id OPERATOR(pg_catalog.=) $1";

/// Sets a key's status; a trigger refuses what is not a legal transition. `false` when there is no such key.
pub(crate) fn set_key_status(key: i64, status: &str) -> Result<bool, Failure> {
    Ok(spi::execute(SET_KEY_STATUS, &[key.into(), status.into()])? > 0)
}

const SET_KEY_VERSION: &str = "UPDATE kms_wrap.kms_keys SET key_version = $2
     WHERE id OPERATOR(pg_catalog.=) $1 AND key_version OPERATOR(pg_catalog.=) $3 AND provider_id OPERATOR(pg_catalog.=) $4
       AND external_key_ref OPERATOR(pg_catalog.=) $5";

/// Sets the version of a key that is still as it was read. `false` when it is not.
pub(crate) fn set_key_version(key: &Key, version: &str) -> Result<bool, Failure> {
    let (name, old) = (key.key_ref.external_key_ref.as_str(), key.key_ref.key_version.as_str());
    let args = [key.id.into(), version.into(), old.into(), key.provider_id.into(), name.into()];
    Ok(spi::execute(SET_KEY_VERSION, &args)? > 0)
}

/// A policy to be made.
pub(crate) struct NewPolicy<'a> {
    pub(crate) name: &'a str,
    pub(crate) composition: &'a str,
    pub(crate) min_layers: i16,
    pub(crate) max_layers: i16,
    pub(crate) layer_selection: &'a str,
    pub(crate) mode: &'a str,
    pub(crate) min_nist_level: Option<i16>,
    pub(crate) require_origin: bool,
    pub(crate) allow_same_trust_domain: bool,
    pub(crate) notes: Option<&'a str>,
}

const INSERT_POLICY: &str = "INSERT INTO kms_wrap.encryption_policies
       (policy_name, mode, layer_selection, min_layers, max_layers, composition, min_nist_level, require_origin, allow_same_trust_domain, notes)
     VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10) ON CONFLICT (policy_name) DO NOTHING RETURNING id";

/// Inserts a policy; `None` when there is one of that name.
pub(crate) fn insert_policy(new: NewPolicy<'_>) -> Result<Option<i64>, Failure> {
    let args = [
        new.name.into(),
        new.mode.into(),
        new.layer_selection.into(),
        new.min_layers.into(),
        new.max_layers.into(),
        new.composition.into(),
        new.min_nist_level.into(),
        new.require_origin.into(),
        new.allow_same_trust_domain.into(),
        new.notes.into(),
    ];
    Ok(spi::first(spi::write(INSERT_POLICY, &args, |row| row.next())?))
}

const ADD_POLICY_KEY: &str = "INSERT INTO kms_wrap.policy_kms_keys (policy_id, kms_key_id, slot, priority, weight)
     VALUES ($1, $2, $3, $4, $5) ON CONFLICT DO NOTHING";
const REMOVE_POLICY_KEY: &str =
    "DELETE FROM kms_wrap.policy_kms_keys WHERE policy_id OPERATOR(pg_catalog.=) $1 AND kms_key_id OPERATOR(pg_catalog.=) $2";

/// Gives a policy a key; `false` when it has it already.
pub(crate) fn add_policy_key(policy: i64, key: i64, slot: &str, priority: i32, weight: i32) -> Result<bool, Failure> {
    Ok(spi::execute(ADD_POLICY_KEY, &[policy.into(), key.into(), slot.into(), priority.into(), weight.into()])? > 0)
}

/// Takes a key from a policy; `false` when it does not have it.
pub(crate) fn remove_policy_key(policy: i64, key: i64) -> Result<bool, Failure> {
    Ok(spi::execute(REMOVE_POLICY_KEY, &[policy.into(), key.into()])? > 0)
}

const PROVIDER_ID: &str = "SELECT id FROM kms_wrap.kms_providers WHERE name OPERATOR(pg_catalog.=) $1";

/// A provider's id by name.
pub(crate) fn provider_id(name: &str) -> Result<i64, Failure> {
    spi::first(spi::select(PROVIDER_ID, &[name.into()], |row| row.next())?).ok_or_else(|| Failure::unknown("key provider", name))
}

const PICKING_POLICIES: &str = "SELECT p.policy_name::pg_catalog.text
     FROM kms_wrap.policy_kms_keys pk JOIN kms_wrap.encryption_policies p ON p.id OPERATOR(pg_catalog.=) pk.policy_id
     JOIN kms_wrap.kms_keys k ON k.id OPERATOR(pg_catalog.=) pk.kms_key_id
     WHERE pk.kms_key_id OPERATOR(pg_catalog.=) $1 AND k.status OPERATOR(pg_catalog.=) 'active' AND p.is_enabled ORDER BY p.id";

/// Policies that would still put new shares under a key.
pub(crate) fn policies_that_pick(key: i64) -> Result<Vec<String>, Failure> {
    spi::select(PICKING_POLICIES, &[key.into()], |row| row.next())
}
