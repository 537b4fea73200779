//! Set-up of remote providers and of the keys that they hold.

use super::{
    breaker,
    catalog::{
        key::{self, Key, KeyStatus},
        setup::{self, NewProvider, Provider},
    },
    gucs,
    interrupt::block_on,
    open::{Intent, barred},
    pins,
    remote::{self, Remote},
    report::Failure,
    setup::prove,
};
use crate::{
    core::{slot::KeyRef, suite::Algorithm},
    provider::{
        Description, ProviderError,
        config::{self, ConfigError},
    },
};
use serde_json::Value;

/// Adds a remote provider. Its configuration is checked, but nobody is asked yet.
pub(crate) fn add_provider(
    name: &str,
    kind: &str,
    config: Value,
    location: Option<&str>,
    project_tenant: Option<&str>,
    trust_domain: Option<&str>,
) -> Result<i64, Failure> {
    check_config(kind, &config)?;
    pins::check_kind(kind)?;
    let domain = trust_domain.map_or_else(|| config::trust_domain(kind, &config, project_tenant), str::to_owned);
    let new = NewProvider {
        name,
        kind,
        manager: &format!("kms_wrap/{kind}"),
        config,
        location: location.unwrap_or(name),
        project_tenant,
        trust_domain: &domain,
    };
    let taken = if setup::provider_id(name).is_ok() { ("key provider", name) } else { ("location", new.location) };
    setup::insert_provider(new)?.ok_or_else(|| Failure::duplicate(taken.0, taken.1))
}

/// Gives a remote provider another configuration; a trust domain that was computed from the old one follows. In force at commit.
pub(crate) fn set_config(name: &str, config: Value) -> Result<(), Failure> {
    let found = setup::provider(name, true)?;
    if found.kind == crate::provider::local::KIND {
        return Err(Failure::bad_argument(
            format!("key provider \"{name}\" is of kind \"local\""),
            "Its configuration is its root key, which kms_wrap.kw_rotate_root_key() changes.",
        ));
    }
    check_config(&found.kind, &config)?;
    let tenant = found.project_tenant.as_deref();
    let domains = [&found.config, &config].map(|c| config::trust_domain(&found.kind, c, tenant));
    setup::set_config(found.config_id, config, &domains)
}

fn check_config(kind: &str, value: &Value) -> Result<(), Failure> {
    let bad = |e: ConfigError| match e.field.as_str() {
        "kind" => Failure::bad_argument(format!("key provider kind \"{kind}\" is not supported"), e.limit),
        "config" => Failure::bad_argument("invalid value for argument \"config\"", e.limit),
        field => Failure::bad_argument(format!("invalid field \"{field}\" in argument \"config\""), e.limit),
    };
    config::provider(kind, value, &gucs::environment()).map(drop).map_err(bad)
}

/// Registers a key that a remote provider holds: asks what it is, pins what it says, and wraps and opens a share with it.
pub(crate) fn add_key(
    provider: &str,
    found: &Provider,
    external_key_ref: &str,
    algorithm: Algorithm,
    purpose: &str,
    key_version: Option<&str>,
) -> Result<i64, Failure> {
    pins::check_kind(&found.kind)?;
    let failed = |e: ProviderError| Failure::provider(provider, &e);
    let config = found.config.to_string();
    let remote = remote::of(found.id, provider, &found.kind, &config).map_err(failed)?;
    let described = match described(&remote, external_key_ref, key_version, algorithm)? {
        Err(ProviderError::NotFound(_)) => {
            return Err(Failure::unknown(&format!("{} key of provider \"{provider}\"", algorithm.name()), external_key_ref));
        }
        described => described.map_err(failed)?,
    };
    if !remote::is_allowed(&described.name) {
        let limit = "The setting \"kms_wrap.allowed_keys\" does not allow it.";
        return Err(Failure::bad_argument(format!("key reference \"{}\" is not allowed", described.name), limit));
    }
    let key = Key {
        id: 0,
        provider: provider.to_owned(),
        provider_id: found.id,
        config: Some(config),
        config_fingerprint: breaker::fingerprint(&found.config),
        provider_enabled: true,
        provider_suspended: false,
        trust_domain: String::new(),
        key_ref: KeyRef {
            kind: found.kind.clone(),
            location: found.location.clone(),
            project_tenant: found.project_tenant.clone().unwrap_or_default(),
            external_key_ref: described.name,
            key_version: described.version,
        },
        algorithm,
        status: KeyStatus::Active,
        purpose: purpose.to_owned(),
        public_key: described.public_key,
        sealed: None,
    };
    // Before it is inserted, which locks the provider's row.
    prove(&key)?;
    let (name, version) = (&key.key_ref.external_key_ref, &key.key_ref.key_version);
    let version = (!version.is_empty()).then_some(version.as_str());
    let id = setup::insert_key(found.id, name, purpose, algorithm.name(), version, key.public_key.clone())?;
    id.ok_or_else(|| Failure::duplicate("KMS key", name))
}

/// Asks a provider what a key is. An answer for something else is none.
fn described(
    remote: &Remote,
    name: &str,
    version: Option<&str>,
    algorithm: Algorithm,
) -> Result<Result<Description, ProviderError>, Failure> {
    let described = block_on(remote.call(1, |p| p.describe(name, version, algorithm)))?;
    Ok(described.and_then(|found| {
        let unlike = if found.algorithm != algorithm {
            format!("It is a key of algorithm {}.", found.algorithm.name())
        } else if version.is_some_and(|version| version != found.version) {
            "It is of another version.".to_owned()
        } else {
            return Ok(found);
        };
        Err(ProviderError::Malformed(format!("Key \"{name}\" is not what was asked for. {unlike}")))
    }))
}

/// Lets new shares go under another version of a key, `None`: its provider's latest. Returns the version, and whether it is another one.
pub(crate) fn set_key_version(id: i64, version: Option<&str>) -> Result<(String, bool), Failure> {
    let mut key = key::by_id(id)?;
    if config::capabilities(&key.key_ref.kind).is_some_and(|c| !c.shows_version) {
        return Err(Failure::state(
            format!("keys of kind \"{}\" have no versions that can be set", key.key_ref.kind),
            "Make another key, register it, and rewrap to it with kms_wrap.kw_schedule_rewrap().",
        ));
    }
    pins::check_kind(&key.key_ref.kind)?;
    if let Some(failure) = barred(&key, Intent::Use) {
        return Err(failure);
    }
    let failed = |e: ProviderError| Failure::provider(&key.provider, &e);
    let remote = remote::of_key(&key).map_err(failed)?;
    let name = &key.key_ref.external_key_ref;
    let found = match described(&remote, name, version, key.algorithm)? {
        Err(ProviderError::NotFound(detail)) => {
            let what = format!("version of KMS key {}", key.label());
            return Err(Failure::unknown(&what, version.unwrap_or("latest")).detail(detail));
        }
        found => found.map_err(failed)?,
    };
    if found.name != *name {
        return Err(failed(ProviderError::Malformed(format!("Key \"{name}\" is now a name for another key."))));
    }
    if found.version == key.key_ref.key_version {
        return Ok((found.version, false));
    }
    // It stands in the slots of wrappers, and shares are wrapped to it.
    if found.public_key != key.public_key {
        return Err(Failure::state(
            format!("version \"{}\" of KMS key {} has another public key", found.version, key.label()),
            "That makes it another key: make one of another name at the provider, add it with kms_wrap.kw_add_kms_key(), and rewrap to it with kms_wrap.kw_schedule_rewrap().",
        ));
    }
    let old = key.clone();
    key.key_ref.key_version = found.version;
    // Before its row is locked.
    prove(&key)?;
    if !setup::set_key_version(&old, &key.key_ref.key_version)? {
        return Err(Failure::policy_changed());
    }
    Ok((key.key_ref.key_version, true))
}
