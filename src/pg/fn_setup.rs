//! SQL functions that set up root keys, providers, keys and policies. Their reference is COMMENT ON FUNCTION in `sql/finalize.sql`.

use super::{
    catalog::{
        key, policy,
        setup::{self as rows, NewPolicy},
    },
    json_arg::JsonArg,
    oid_arg::Regrole,
    quickstart,
    report::{Failure, name as checked, required},
    rights, setup, setup_remote,
};
use crate::core::{
    path::Mode,
    policy::{Role, Selection},
    slot::MAX_LAYERS,
};
use pgrx::{default, iter::TableIterator, name, notice, pg_extern, pg_sys::panic::ErrorReport, search_path};

#[pg_extern(parallel_unsafe, cost = 1000)]
fn kw_create_root_key(name: Option<&str>) -> Result<String, ErrorReport> {
    Ok(setup::create_root_key(required("name", name)?)?.to_string())
}

#[pg_extern(parallel_unsafe, cost = 1000)]
#[search_path(pg_catalog, pg_temp)]
fn kw_rotate_root_key(provider: Option<&str>, new_root_key: Option<&str>) -> Result<i32, ErrorReport> {
    setup::superuser_only("kw_rotate_root_key")?;
    Ok(setup::rotate_root_key(required("provider", provider)?, required("new_root_key", new_root_key)?)?)
}

#[pg_extern(parallel_unsafe, cost = 1000)]
#[search_path(pg_catalog, pg_temp)]
fn kw_add_provider(
    name: Option<&str>,
    kind: Option<&str>,
    config: default!(Option<JsonArg>, "'{}'"),
    location: default!(Option<&str>, "NULL"),
    project_tenant: default!(Option<&str>, "NULL"),
    trust_domain: default!(Option<&str>, "NULL"),
) -> Result<i64, ErrorReport> {
    setup::superuser_only("kw_add_provider")?;
    let name = checked("name", name, 100)?;
    let kind = required("kind", kind)?;
    let config = required("config", config)?.value("config")?;
    let optional = |argument, value: Option<_>, limit| value.map(|v| checked(argument, Some(v), limit)).transpose();
    let location = optional("location", location, 100)?;
    let project_tenant = optional("project_tenant", project_tenant, 150)?;
    let trust_domain = optional("trust_domain", trust_domain, 255)?;
    if kind != crate::provider::local::KIND {
        return Ok(setup_remote::add_provider(name, kind, config, location, project_tenant, trust_domain)?);
    }
    Ok(setup::add_local_provider(name, &config, location, project_tenant, trust_domain)?)
}

#[pg_extern(parallel_unsafe, cost = 1000)]
#[search_path(pg_catalog, pg_temp)]
fn kw_set_provider_config(provider: Option<&str>, config: Option<JsonArg>) -> Result<(), ErrorReport> {
    setup::superuser_only("kw_set_provider_config")?;
    Ok(setup_remote::set_config(required("provider", provider)?, required("config", config)?.value("config")?)?)
}

#[pg_extern(parallel_unsafe, cost = 1000)]
#[search_path(pg_catalog, pg_temp)]
fn kw_create_local_key(provider: Option<&str>, key_id: Option<&str>, algorithm: Option<&str>) -> Result<i64, ErrorReport> {
    let key_id = checked("key_id", key_id, setup::MAX_KEY_ID)?;
    Ok(setup::create_local_key(required("provider", provider)?, key_id, required("algorithm", algorithm)?)?)
}

#[pg_extern(parallel_unsafe, cost = 1000)]
#[search_path(pg_catalog, pg_temp)]
fn kw_add_kms_key(
    provider: Option<&str>,
    external_key_ref: Option<&str>,
    algorithm: Option<&str>,
    purpose: default!(Option<&str>, "'wrap'"),
    key_version: default!(Option<&str>, "NULL"),
) -> Result<i64, ErrorReport> {
    let external_key_ref = checked("external_key_ref", external_key_ref, 512)?;
    let (provider, algorithm, purpose) =
        (required("provider", provider)?, required("algorithm", algorithm)?, required("purpose", purpose)?);
    Ok(setup::add_kms_key(provider, external_key_ref, algorithm, purpose, key_version)?)
}

#[pg_extern(parallel_unsafe, cost = 1000)]
#[search_path(pg_catalog, pg_temp)]
fn kw_set_key_version(key: Option<i64>, key_version: default!(Option<&str>, "NULL")) -> Result<String, ErrorReport> {
    let key = required("key", key)?;
    let key_version = key_version.map(|version| checked("key_version", Some(version), 128)).transpose()?;
    let (version, changed) = setup_remote::set_key_version(key, key_version)?;
    if !changed {
        notice!("KMS key {key} is set to version \"{version}\" already: nothing to do");
    }
    Ok(version)
}

#[pg_extern(parallel_unsafe, cost = 100)]
#[search_path(pg_catalog, pg_temp)]
fn kw_set_key_status(key: Option<i64>, status: Option<&str>) -> Result<(), ErrorReport> {
    let (key, status) = (required("key", key)?, required("status", status)?);
    if !matches!(status, "active" | "retired" | "disabled" | "compromised" | "destroyed") {
        let limit = "It must be active, retired, disabled, compromised or destroyed.";
        return Err(Failure::bad_argument("invalid value for argument \"status\"", limit).into());
    }
    if rows::set_key_status(key, status)? { Ok(()) } else { Err(Failure::unknown("KMS key", key).into()) }
}

#[pg_extern(parallel_unsafe, cost = 100)]
#[search_path(pg_catalog, pg_temp)]
#[allow(clippy::too_many_arguments)] // SQL calls it by argument name
fn kw_create_policy(
    name: Option<&str>,
    composition: Option<&str>,
    min_layers: default!(Option<i32>, "1"),
    max_layers: default!(Option<i32>, "3"),
    layer_selection: default!(Option<&str>, "'defined'"),
    mode: default!(Option<&str>, "'multi-kms'"),
    min_nist_level: default!(Option<i32>, "NULL"),
    require_origin: default!(Option<bool>, "true"),
    allow_same_trust_domain: default!(Option<bool>, "false"),
    notes: default!(Option<&str>, "NULL"),
) -> Result<i64, ErrorReport> {
    let bad = |argument: &str, limit: &str| Failure::bad_argument(format!("invalid value for argument \"{argument}\""), limit);
    let name = checked("name", name, 100)?;
    let composition = required("composition", composition)?;
    Mode::from_name(composition).ok_or_else(|| bad("composition", "It must be split or redundant."))?;
    let layer_selection = required("layer_selection", layer_selection)?;
    Selection::from_name(layer_selection).ok_or_else(|| bad("layer_selection", "It must be defined, round_robin, random or hash_mod."))?;
    let mode = required("mode", mode)?;
    if !matches!(mode, "local" | "kms" | "multi-kms") {
        return Err(bad("mode", "It must be local, kms or multi-kms.").into());
    }
    let layers = |argument, value| {
        let n: i32 = required(argument, value)?;
        let limit = format!("It must be 0 to {MAX_LAYERS}.");
        i16::try_from(n).ok().filter(|n| (0..=i16::from(MAX_LAYERS)).contains(n)).ok_or_else(|| bad(argument, &limit))
    };
    let (min_layers, max_layers) = (layers("min_layers", min_layers)?, layers("max_layers", max_layers)?);
    if min_layers > max_layers {
        return Err(bad("min_layers", "It must not be greater than max_layers.").into());
    }
    let min_nist_level = min_nist_level
        .map(|n| i16::try_from(n).ok().filter(|n| (1..=5).contains(n)).ok_or_else(|| bad("min_nist_level", "It must be 1 to 5, or NULL.")))
        .transpose()?;
    let new = NewPolicy {
        name,
        composition,
        min_layers,
        max_layers,
        layer_selection,
        mode,
        min_nist_level,
        require_origin: required("require_origin", require_origin)?,
        allow_same_trust_domain: required("allow_same_trust_domain", allow_same_trust_domain)?,
        notes,
    };
    Ok(rows::insert_policy(new)?.ok_or_else(|| Failure::duplicate("policy", name))?)
}

#[pg_extern(parallel_unsafe, cost = 100)]
#[search_path(pg_catalog, pg_temp)]
fn kw_policy_add_key(
    policy: Option<&str>,
    slot: Option<&str>,
    key: Option<i64>,
    priority: default!(Option<i32>, "0"),
    weight: default!(Option<i32>, "1"),
) -> Result<(), ErrorReport> {
    let policy = policy::by_name(required("policy", policy)?)?;
    let slot = required("slot", slot)?;
    let role = Role::from_name(slot)
        .ok_or_else(|| Failure::bad_argument("invalid value for argument \"slot\"", "It must be kms1, kms2 or layer."))?;
    let key = key::by_id(required("key", key)?)?;
    let (priority, weight) = (required("priority", priority)?, required("weight", weight)?);
    if weight < 1 {
        return Err(Failure::bad_argument("invalid value for argument \"weight\"", "It must be at least 1.").into());
    }
    if key.algorithm.is_kem() != (role == Role::Layer) {
        let limit = "Slots kms1 and kms2 take symmetric and RSA keys, layers take keys of a KEM algorithm.";
        let message = format!("key {} of algorithm {} does not fit slot \"{slot}\"", key.label(), key.algorithm.name());
        return Err(Failure::bad_argument(message, limit).into());
    }
    if rows::add_policy_key(policy.id, key.id, slot, priority, weight)? {
        Ok(())
    } else {
        Err(Failure::duplicate(&format!("key of policy \"{}\"", policy.name), key.id).into())
    }
}

#[pg_extern(parallel_unsafe, cost = 100)]
#[search_path(pg_catalog, pg_temp)]
fn kw_policy_remove_key(policy: Option<&str>, key: Option<i64>) -> Result<(), ErrorReport> {
    let policy = policy::by_name(required("policy", policy)?)?;
    let key = required("key", key)?;
    if rows::remove_policy_key(policy.id, key)? {
        Ok(())
    } else {
        Err(Failure::unknown(&format!("key of policy \"{}\"", policy.name), key).into())
    }
}

#[pg_extern(parallel_unsafe, cost = 100)]
#[search_path(pg_catalog, pg_temp)]
fn kw_grant(privilege: Option<&str>, policy: Option<&str>, role: Option<Regrole>) -> Result<bool, ErrorReport> {
    let (privilege, policy, role) = (required("privilege", privilege)?, required("policy", policy)?, required("role", role)?);
    Ok(rights::grant(privilege, policy, role.0)?)
}

#[pg_extern(parallel_unsafe, cost = 100)]
#[search_path(pg_catalog, pg_temp)]
fn kw_revoke(privilege: Option<&str>, policy: Option<&str>, role: Option<Regrole>) -> Result<bool, ErrorReport> {
    let (privilege, policy, role) = (required("privilege", privilege)?, required("policy", policy)?, required("role", role)?);
    Ok(rights::revoke(privilege, policy, role.0)?)
}

#[pg_extern(parallel_unsafe, cost = 1000)]
#[search_path(pg_catalog, pg_temp)]
fn kw_quickstart() -> Result<TableIterator<'static, (name!(step, String), name!(result, String))>, ErrorReport> {
    Ok(TableIterator::new(quickstart::run()?))
}
