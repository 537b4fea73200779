//! Where the local provider's sealed keys lie: OpenTDF's `sym_key` and `asym_key`.

use crate::{
    core::suite::Algorithm,
    pg::{report::Failure, spi},
    provider::{
        local::{KEY_MODE, KeyIdentity, RootRef, SealedKey},
        spki,
    },
};
use base64::{Engine, engine::general_purpose::STANDARD};
use pgrx::{JsonB, Uuid};
use serde_json::json;

/// OpenTDF's key status ACTIVE.
const ACTIVE: i32 = 1;

const INSERT_SYM: &str = "INSERT INTO kms_wrap.sym_key
       (key_id, key_status, key_mode, key_value, provider_config_id, algorithm, created_at, updated_at)
     VALUES ($1, $2, $3, $4, $5, $6, pg_catalog.now(), pg_catalog.now()) ON CONFLICT DO NOTHING";
const INSERT_ASYM: &str = "INSERT INTO kms_wrap.asym_key
       (key_id, key_algorithm, key_status, key_mode, public_key_ctx, private_key_ctx, provider_config_id)
     VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT DO NOTHING";

/// Stores a new sealed key; `false` when its key_id is taken.
pub(crate) fn insert(key: &SealedKey) -> Result<bool, Failure> {
    let (id, config) = (&key.identity, Uuid::from_bytes(key.identity.provider_config));
    let key_id = id.key_id.as_str();
    let inserted = if let (Some(public), Some(number)) = (&id.public_key, spki::opentdf_number(id.algorithm)) {
        let pem = spki::encode_public_key(id.algorithm, public).ok_or_else(|| Failure::internal("public key"))?;
        let args = [
            key_id.into(),
            number.into(),
            ACTIVE.into(),
            KEY_MODE.into(),
            JsonB(json!({ "pem": pem })).into(),
            JsonB(private_key_ctx(key)).into(),
            config.into(),
        ];
        spi::execute(INSERT_ASYM, &args)?
    } else {
        let args = [key_id.into(), ACTIVE.into(), KEY_MODE.into(), key.sealed.clone().into(), config.into(), id.algorithm.name().into()];
        spi::execute(INSERT_SYM, &args)?
    };
    Ok(inserted > 0)
}

/// OpenTDF's form: which key wraps, and the wrapped bytes.
fn private_key_ctx(key: &SealedKey) -> serde_json::Value {
    json!({ "key_id": key.root.name, "wrapped_key": STANDARD.encode(&key.sealed) })
}

const SYM_OF_PROVIDER: &str = "SELECT key_id::pg_catalog.text, algorithm::pg_catalog.text, key_value FROM kms_wrap.sym_key
     WHERE provider_config_id OPERATOR(pg_catalog.=) $1 AND key_mode OPERATOR(pg_catalog.=) 1 ORDER BY key_id";
const ASYM_OF_PROVIDER: &str = "SELECT key_id::pg_catalog.text, key_algorithm, public_key_ctx OPERATOR(pg_catalog.->>) 'pem',
            pg_catalog.decode(private_key_ctx OPERATOR(pg_catalog.->>) 'wrapped_key', 'base64')
     FROM kms_wrap.asym_key WHERE provider_config_id OPERATOR(pg_catalog.=) $1 AND key_mode OPERATOR(pg_catalog.=) 1 ORDER BY key_id";

/// All sealed keys of a provider's configuration, registered in kms_keys or not.
pub(crate) fn sealed_keys(config: Uuid, root: &RootRef) -> Result<Vec<SealedKey>, Failure> {
    let unknown = |key_id: &str| {
        Failure::state(
            format!("local key \"{key_id}\" has an algorithm or public key that this version cannot read"),
            "Update kms_wrap, or delete the row if nothing needs it.",
        )
    };
    let sealed = |key_id: String, algorithm, public_key, sealed| SealedKey {
        identity: KeyIdentity { key_id, algorithm, provider_config: *config.as_bytes(), public_key },
        sealed,
        root: root.clone(),
    };
    let mut keys = spi::select(SYM_OF_PROVIDER, &[config.into()], |row| {
        let (key_id, algorithm): (String, String) = (row.next()?, row.next()?);
        let algorithm = Algorithm::from_name(&algorithm).ok_or_else(|| unknown(&key_id))?;
        Ok(sealed(key_id, algorithm, None, row.next()?))
    })?;
    keys.extend(spi::select(ASYM_OF_PROVIDER, &[config.into()], |row| {
        let (key_id, number, pem): (String, i32, String) = (row.next()?, row.next()?, row.next()?);
        let algorithm = spki::from_opentdf_number(number).ok_or_else(|| unknown(&key_id))?;
        let public = spki::decode_public_key(algorithm, &pem).ok_or_else(|| unknown(&key_id))?;
        Ok(sealed(key_id, algorithm, Some(public), row.next()?))
    })?);
    Ok(keys)
}

const UPDATE_SYM: &str = "UPDATE kms_wrap.sym_key SET key_value = $2, updated_at = pg_catalog.now() WHERE key_id OPERATOR(pg_catalog.=) $1";
const UPDATE_ASYM: &str = "UPDATE kms_wrap.asym_key SET private_key_ctx = $2 WHERE key_id OPERATOR(pg_catalog.=) $1";
const UPDATE_CONFIG: &str = "UPDATE kms_wrap.provider_config SET config = $2 WHERE id OPERATOR(pg_catalog.=) $1";
const UPDATE_DOMAIN: &str = "UPDATE kms_wrap.kms_providers SET trust_domain = $3
     WHERE provider_config_id OPERATOR(pg_catalog.=) $1 AND trust_domain OPERATOR(pg_catalog.=) $2";

/// Writes a key that was sealed anew.
pub(crate) fn update(key: &SealedKey) -> Result<(), Failure> {
    let key_id = key.identity.key_id.as_str();
    let updated = if key.identity.public_key.is_some() {
        spi::execute(UPDATE_ASYM, &[key_id.into(), JsonB(private_key_ctx(key)).into()])?
    } else {
        spi::execute(UPDATE_SYM, &[key_id.into(), key.sealed.clone().into()])?
    };
    if updated == 1 { Ok(()) } else { Err(Failure::internal("local key")) }
}

/// Points a provider at another root key. A trust domain that was computed from the old one follows; a stated one stays.
pub(crate) fn point_to(config: Uuid, old: &RootRef, new: &RootRef) -> Result<(), Failure> {
    spi::execute(UPDATE_CONFIG, &[config.into(), JsonB(config_json(new)).into()])?;
    spi::execute(UPDATE_DOMAIN, &[config.into(), trust_domain(old).into(), trust_domain(new).into()])?;
    Ok(())
}

const PROVIDERS_UNDER: &str = "SELECT p.name::pg_catalog.text FROM kms_wrap.kms_providers p
     JOIN kms_wrap.provider_config c ON c.id OPERATOR(pg_catalog.=) p.provider_config_id
     WHERE p.provider OPERATOR(pg_catalog.=) 'local' AND (c.config OPERATOR(pg_catalog.->>) 'fingerprint') OPERATOR(pg_catalog.=) $1
       AND c.id OPERATOR(pg_catalog.<>) $2 ORDER BY p.id";

/// Other providers under a root key.
pub(crate) fn providers_under(root: &RootRef, but: Uuid) -> Result<Vec<String>, Failure> {
    spi::select(PROVIDERS_UNDER, &[root.fingerprint.to_string().into(), but.into()], |row| row.next())
}

/// `provider_config.config` of a local provider.
pub(crate) fn config_json(root: &RootRef) -> serde_json::Value {
    json!({ "root_key": root.name, "fingerprint": root.fingerprint.to_string() })
}

/// Who holds the root key holds every key under it: providers with one root key are one domain.
pub(crate) fn trust_domain(root: &RootRef) -> String {
    format!("local:{}", root.fingerprint)
}
