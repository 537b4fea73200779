//! Set-up: root keys, local providers, their keys, and the change of a root key.

use super::{
    catalog::{
        key::{self, Key},
        local,
        setup::{self, NewProvider},
    },
    core_dump, kms, remote,
    report::Failure,
    setup_remote, spi,
};
use crate::{
    core::{entropy::Entropy, secret::Share, suite::Algorithm},
    provider::{
        ProviderError,
        entropy::SystemEntropy,
        local::{KIND, RootRef},
        root_key::{Fingerprint, MAX_NAME, RootKeyError},
    },
};
use serde_json::Value;

/// `provider_config.manager` of local providers.
const MANAGER: &str = "kms_wrap/local";

/// Algorithms that the local provider makes keys for.
const LOCAL_ALGORITHMS: &str = "XAES-256-GCM, ML-KEM-768, ML-KEM-1024, X-Wing";

/// Most characters of a key_id: OpenTDF's column.
pub(crate) const MAX_KEY_ID: usize = 36;

/// Makes a root key file; returns its fingerprint. Superusers only: it writes to the server's file system.
pub(crate) fn create_root_key(name: &str) -> Result<Fingerprint, Failure> {
    core_dump::leave_keys_out();
    superuser_only("kw_create_root_key")?;
    if spi::in_recovery() {
        return Err(Failure::read_only());
    }
    kms::key_directory().create(name, &mut SystemEntropy).map_err(|e| root_key_failure(KIND, name, e))
}

/// What looks at files of the server is for superusers, whatever rights on functions and tables were granted.
pub(crate) fn superuser_only(function: &str) -> Result<(), Failure> {
    // SAFETY: looks up the current user's attribute; called inside a transaction.
    #[allow(unsafe_code)]
    let superuser = unsafe { pgrx::pg_sys::superuser() };
    if superuser { Ok(()) } else { Err(Failure::superuser_only(function)) }
}

/// Reads a root key file's fingerprint.
pub(crate) fn root_ref(provider: &str, name: &str) -> Result<RootRef, Failure> {
    let (root, _) = kms::key_directory().load(name).map_err(|e| root_key_failure(provider, name, e))?;
    Ok(RootRef { name: name.to_owned(), fingerprint: root.fingerprint })
}

fn root_key_failure(provider: &str, name: &str, error: RootKeyError) -> Failure {
    match error {
        RootKeyError::BadName => Failure::bad_argument(
            format!("invalid root key name {name:?}"),
            format!("It must have 1 to {MAX_NAME} characters out of A-Z a-z 0-9 _ . - and must not start with a dot."),
        ),
        RootKeyError::Exists(_) => Failure::duplicate("root key", name),
        RootKeyError::Missing(detail) => Failure::provider(provider, &ProviderError::Unavailable(detail)),
        RootKeyError::Unfit(detail) => Failure::provider(provider, &ProviderError::Denied(detail)),
    }
}

/// Adds a local provider over a root key that exists. `config` is `{"root_key": "name"}`, with `"fingerprint"` to insist on one.
pub(crate) fn add_local_provider(
    name: &str,
    config: &Value,
    location: Option<&str>,
    project_tenant: Option<&str>,
    trust_domain: Option<&str>,
) -> Result<i64, Failure> {
    let bad = |field: &str, limit: &str| Failure::bad_argument(format!("invalid field \"{field}\" in argument \"config\""), limit);
    let object =
        config.as_object().ok_or_else(|| Failure::bad_argument("invalid value for argument \"config\"", "It must be a JSON object."))?;
    if let Some(field) = object.keys().find(|k| !matches!(k.as_str(), "root_key" | "fingerprint")) {
        return Err(bad(field, "Kind local knows \"root_key\" and \"fingerprint\"."));
    }
    let root = object
        .get("root_key")
        .and_then(Value::as_str)
        .ok_or_else(|| bad("root_key", "It is required: the name of a root key made with kw_create_root_key."))?;
    let root = root_ref(name, root)?;
    if let Some(expected) = object.get("fingerprint")
        && expected.as_str() != Some(&root.fingerprint.to_string())
    {
        let detail = format!("Root key \"{}\" has fingerprint {}; the argument says another.", root.name, root.fingerprint);
        return Err(Failure::provider(name, &ProviderError::Denied(detail)));
    }
    let domain = trust_domain.map_or_else(|| local::trust_domain(&root), str::to_owned);
    let new = NewProvider {
        name,
        kind: KIND,
        manager: MANAGER,
        config: local::config_json(&root),
        location: location.unwrap_or(name),
        project_tenant,
        trust_domain: &domain,
    };
    let taken = if setup::provider_id(name).is_ok() { ("key provider", name) } else { ("location", new.location) };
    setup::insert_provider(new)?.ok_or_else(|| Failure::duplicate(taken.0, taken.1))
}

/// The root key that a local provider's configuration names.
pub(crate) fn configured_root(provider: &str, config: &Value) -> Result<RootRef, Failure> {
    let field = |name: &str| config.get(name).and_then(Value::as_str);
    match (field("root_key"), field("fingerprint").and_then(Fingerprint::from_hex)) {
        (Some(name), Some(fingerprint)) => Ok(RootRef { name: name.to_owned(), fingerprint }),
        _ => Err(Failure::provider(provider, &ProviderError::Malformed("Its configuration names no root key.".to_owned()))),
    }
}

/// Makes a key at a local provider and registers it.
pub(crate) fn create_local_key(provider: &str, key_id: &str, algorithm: &str) -> Result<i64, Failure> {
    let found = local_provider(provider, false)?;
    let algorithm = local_algorithm(algorithm)?;
    let root = configured_root(provider, &found.config)?;
    let sealed = kms::with_local(|l| l.generate(key_id, algorithm, *found.config_id.as_bytes(), &root, &mut SystemEntropy))
        .map_err(|e| Failure::provider(provider, &e))?;
    if !local::insert(&sealed)? {
        return Err(Failure::duplicate("local key", key_id));
    }
    let id = setup::insert_key(found.id, key_id, "wrap", algorithm.name(), None, sealed.identity.public_key.clone())?;
    let id = id.ok_or_else(|| Failure::duplicate("KMS key", key_id))?;
    prove(&key::by_id(id)?)?;
    Ok(id)
}

/// Registers a key that its provider holds already.
pub(crate) fn add_kms_key(
    provider: &str,
    external_key_ref: &str,
    algorithm: &str,
    purpose: &str,
    key_version: Option<&str>,
) -> Result<i64, Failure> {
    if !matches!(purpose, "wrap" | "encrypt" | "both") {
        return Err(Failure::bad_argument("invalid value for argument \"purpose\"", "It must be wrap, encrypt or both."));
    }
    let found = setup::unlocked_provider(provider)?;
    if found.kind != KIND {
        return setup_remote::add_key(provider, &found, external_key_ref, algorithm_of(algorithm)?, purpose, key_version);
    }
    let found = local_provider(provider, false)?;
    if key_version.is_some() {
        return Err(Failure::bad_argument(
            "invalid value for argument \"key_version\"",
            "Keys of kind local have no versions; a new key is a new row.",
        ));
    }
    let algorithm = local_algorithm(algorithm)?;
    let root = configured_root(provider, &found.config)?;
    let held = local::sealed_keys(found.config_id, &root)?;
    let held = held.into_iter().find(|k| k.identity.key_id == external_key_ref && k.identity.algorithm == algorithm);
    let held = held.ok_or_else(|| Failure::unknown(&format!("{} key of provider \"{provider}\"", algorithm.name()), external_key_ref))?;
    let id = setup::insert_key(found.id, external_key_ref, purpose, algorithm.name(), None, held.identity.public_key)?;
    let id = id.ok_or_else(|| Failure::duplicate("KMS key", external_key_ref))?;
    prove(&key::by_id(id)?)?;
    Ok(id)
}

/// Seals every key of a local provider under another root key; returns how many. The old file stays, to be removed by hand.
pub(crate) fn rotate_root_key(provider: &str, new_root_key: &str) -> Result<i32, Failure> {
    if spi::has_transaction_snapshot() {
        // A key that was committed after the snapshot would be left under the old root key.
        return Err(Failure::state(
            "a root key can only be rotated in a read committed transaction",
            "Begin with START TRANSACTION ISOLATION LEVEL READ COMMITTED.",
        ));
    }
    let new = root_ref(provider, new_root_key)?;
    let found = local_provider(provider, true)?;
    let old = configured_root(provider, &found.config)?;
    if old == new {
        return Err(Failure::bad_argument(
            "invalid value for argument \"new_root_key\"",
            format!("Provider \"{provider}\" uses root key \"{}\" already.", new.name),
        ));
    }
    let mut count = 0;
    for key in local::sealed_keys(found.config_id, &old)? {
        let resealed = kms::with_local(|l| l.reseal(&key, &new, &mut SystemEntropy)).map_err(|e| Failure::provider(provider, &e))?;
        local::update(&resealed)?;
        count += 1;
    }
    local::point_to(found.config_id, &old, &new)?;
    let sharing = local::providers_under(&new, found.config_id)?;
    if let Some(other) = sharing.first() {
        pgrx::warning!(
            "key provider \"{other}\" is under root key \"{}\" too: together with \"{provider}\" it is one trust domain",
            new.name
        );
    }
    Ok(count)
}

fn local_provider(name: &str, for_update: bool) -> Result<setup::Provider, Failure> {
    let found = setup::provider(name, for_update)?;
    if found.kind == KIND {
        return Ok(found);
    }
    Err(Failure::bad_argument(
        format!("key provider \"{name}\" is of kind \"{}\"", found.kind),
        "Only kind local keeps its keys in the database.",
    ))
}

/// An algorithm that a slot may have, by name or alias.
fn algorithm_of(name: &str) -> Result<Algorithm, Failure> {
    // The catalogue has no class for RSA encryption, so those names are not in it.
    if let Some(algorithm) = Algorithm::from_name(name) {
        return Ok(algorithm);
    }
    let name = setup::algorithm_name(name)?;
    let all = Algorithm::ALL.map(Algorithm::name).join(", ");
    Algorithm::from_name(&name)
        .ok_or_else(|| Failure::bad_argument(format!("algorithm \"{name}\" cannot protect a share"), format!("It must be one of {all}.")))
}

/// An algorithm that a local key may have.
fn local_algorithm(name: &str) -> Result<Algorithm, Failure> {
    let algorithm = algorithm_of(name)?;
    if algorithm.is_kem() || algorithm == Algorithm::Xaes256Gcm {
        return Ok(algorithm);
    }
    Err(Failure::bad_argument(
        format!("the local provider has no keys of algorithm \"{}\"", algorithm.name()),
        format!("It must be one of {LOCAL_ALGORITHMS}."),
    ))
}

/// Wraps and opens a random share once, so that a key that does not work is not registered.
pub(super) fn prove(key: &Key) -> Result<(), Failure> {
    let failed = || {
        Failure::provider(
            &key.provider,
            &ProviderError::Malformed(format!("Key \"{}\" did not open what it wrapped.", key.key_ref.external_key_ref)),
        )
    };
    let share = Share::random(&mut SystemEntropy)?;
    let mut aad = [0; 32];
    SystemEntropy.fill(&mut aad)?;
    let blob = if key.algorithm.is_kem() {
        let ek = key.public_key.as_deref().unwrap_or_default();
        crate::core::slot::seal_layer(key.algorithm, ek, &aad, &share, &mut SystemEntropy)?
    } else {
        remote::wait(kms::wrap(key, &[(&share, &aad)]))??.pop().ok_or_else(failed)?
    };
    let opened = remote::wait(kms::open_shares(key, &[(&blob, &aad)]))??;
    match opened.into_iter().next().flatten() {
        Some(opened) if bool::from(opened.ct_eq(&share)) => Ok(()),
        _ => Err(failed()),
    }
}
