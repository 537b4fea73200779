//! KMS keys with their provider and, for the local provider, their sealed bytes.

use super::Held;
use crate::{
    core::{slot::KeyRef, suite::Algorithm},
    pg::{
        breaker,
        report::Failure,
        spi::{self, Row},
    },
    provider::{
        ProviderKey,
        local::{KIND, KeyIdentity, RootRef, SealedKey},
        root_key::Fingerprint,
    },
};
use pgrx::Uuid;
use std::collections::HashMap;

/// What a key may still be used for (`kms_keys.status`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum KeyStatus {
    Active,
    Retired,
    Disabled,
    Compromised,
    Destroyed,
}

impl KeyStatus {
    fn from_name(name: &str) -> Result<Self, Failure> {
        Ok(match name {
            "active" => Self::Active,
            "retired" => Self::Retired,
            "disabled" => Self::Disabled,
            "compromised" => Self::Compromised,
            "destroyed" => Self::Destroyed,
            _ => return Err(Failure::internal("key status")),
        })
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Retired => "retired",
            Self::Disabled => "disabled",
            Self::Compromised => "compromised",
            Self::Destroyed => "destroyed",
        }
    }
}

/// A key as the catalog has it.
#[derive(Debug, Clone)]
#[allow(clippy::struct_field_names)] // key_ref and public_key are the field's words
pub(crate) struct Key {
    pub(crate) id: i64,
    pub(crate) provider: String,
    pub(crate) provider_id: i64,
    /// The provider's configuration as JSON text; `None` for the local provider.
    pub(crate) config: Option<String>,
    /// What tells it from another one; 0 for the local provider.
    pub(crate) config_fingerprint: u64,
    pub(crate) provider_enabled: bool,
    pub(crate) provider_suspended: bool,
    pub(crate) trust_domain: String,
    pub(crate) key_ref: KeyRef,
    pub(crate) algorithm: Algorithm,
    pub(crate) status: KeyStatus,
    pub(crate) purpose: String,
    pub(crate) public_key: Option<Vec<u8>>,
    /// How the local provider keeps it; `None` when its row is gone.
    pub(crate) sealed: Option<SealedKey>,
}

impl Key {
    /// Whether the embedded provider holds it.
    pub(crate) fn is_local(&self) -> bool {
        self.key_ref.kind == KIND
    }

    /// The key as its provider is asked for it.
    pub(crate) fn at_provider(&self) -> ProviderKey<'_> {
        ProviderKey {
            name: &self.key_ref.external_key_ref,
            version: &self.key_ref.key_version,
            algorithm: self.algorithm,
            public_key: self.public_key.as_deref(),
        }
    }

    /// Whether new shares may be put under it.
    pub(crate) fn is_usable(&self) -> bool {
        self.would_be_usable() && !self.provider_suspended
    }

    /// The same but for a suspension of its provider.
    pub(crate) fn would_be_usable(&self) -> bool {
        self.status == KeyStatus::Active && self.provider_enabled && self.purpose != "encrypt"
    }

    /// For messages: `1003 ("provider"/"key")`.
    pub(crate) fn label(&self) -> String {
        format!("{} (\"{}\" at \"{}\")", self.id, self.key_ref.external_key_ref, self.provider)
    }
}

/// Select list of [`read`]; `k` is kms_keys.
macro_rules! key_columns {
    () => {
        "k.id, p.name::pg_catalog.text, p.id, CASE WHEN p.provider OPERATOR(pg_catalog.<>) 'local' THEN c.config::pg_catalog.text END, p.is_enabled, COALESCE(p.suspended_until OPERATOR(pg_catalog.>) pg_catalog.clock_timestamp(), false),
         p.trust_domain::pg_catalog.text, p.provider, COALESCE(p.location, '')::pg_catalog.text, COALESCE(p.project_tenant, '')::pg_catalog.text,
         k.external_key_ref::pg_catalog.text, COALESCE(k.key_version, '')::pg_catalog.text, k.algorithm::pg_catalog.text, k.status, k.purpose, k.public_key,
         c.id, c.config OPERATOR(pg_catalog.->>) 'root_key', c.config OPERATOR(pg_catalog.->>) 'fingerprint',
         COALESCE(s.key_value, pg_catalog.decode(a.private_key_ctx OPERATOR(pg_catalog.->>) 'wrapped_key', 'base64'))"
    };
}

/// Joins of [`key_columns`]; `k` is kms_keys.
macro_rules! key_joins {
    () => {
        " JOIN kms_wrap.kms_providers p ON p.id OPERATOR(pg_catalog.=) k.provider_id
          LEFT JOIN kms_wrap.provider_config c ON c.id OPERATOR(pg_catalog.=) p.provider_config_id
          LEFT JOIN kms_wrap.sym_key s ON p.provider OPERATOR(pg_catalog.=) 'local' AND k.public_key IS NULL
               AND s.key_id OPERATOR(pg_catalog.=) k.external_key_ref AND s.provider_config_id OPERATOR(pg_catalog.=) c.id
          LEFT JOIN kms_wrap.asym_key a ON p.provider OPERATOR(pg_catalog.=) 'local' AND k.public_key IS NOT NULL
               AND a.key_id OPERATOR(pg_catalog.=) k.external_key_ref AND a.provider_config_id OPERATOR(pg_catalog.=) c.id "
    };
}

const BY_IDS: &str =
    concat!("SELECT ", key_columns!(), " FROM kms_wrap.kms_keys k", key_joins!(), "WHERE k.id OPERATOR(pg_catalog.=) ANY ($1)");

const BY_POLICY: &str = concat!(
    "SELECT pk.slot, pk.priority, pk.weight, ",
    super::policy::algorithm_allowed!(),
    ", ",
    super::health::is_down!("k.id", "$2"),
    ", ",
    key_columns!(),
    " FROM kms_wrap.policy_kms_keys pk JOIN kms_wrap.kms_keys k ON k.id OPERATOR(pg_catalog.=) pk.kms_key_id",
    key_joins!(),
    "WHERE pk.policy_id OPERATOR(pg_catalog.=) $1"
);

const ALL: &str = concat!("SELECT ", key_columns!(), " FROM kms_wrap.kms_keys k", key_joins!(), "ORDER BY k.id");

/// A key that a policy lists, with the part that it has there.
pub(crate) struct PolicyKey {
    pub(crate) slot: String,
    pub(crate) priority: i32,
    pub(crate) weight: i32,
    algorithm_allowed: bool,
    /// Whether the latest probe found it down, not too long ago.
    pub(crate) is_down: bool,
    pub(crate) key: Key,
}

impl PolicyKey {
    /// Whether the policy may put new shares under it now.
    pub(crate) fn is_usable(&self) -> bool {
        self.algorithm_allowed && self.key.is_usable()
    }
}

/// Keys by id. Unknown ids, and keys of algorithms that this version does not implement, are missing from the answer.
pub(crate) fn by_ids(ids: &[i64]) -> Result<HashMap<i64, Key>, Failure> {
    let keys = spi::select(BY_IDS, &[ids.to_vec().into()], read)?;
    Ok(keys.into_iter().flatten().map(|key| (key.id, key)).collect())
}

/// One key.
pub(crate) fn by_id(id: i64) -> Result<Key, Failure> {
    let key = spi::first(spi::select(BY_IDS, &[vec![id].into()], read)?).ok_or_else(|| Failure::unknown("KMS key", id))?;
    key.ok_or_else(|| {
        Failure::state(
            format!("KMS key {id} has an algorithm that this version does not implement"),
            "See kms_wrap.crypto_algorithms for those that it does.",
        )
    })
}

/// The keys of a policy, in no order. What a probe found counts for so many seconds.
pub(crate) fn by_policy(policy_id: i64, probes_count: u32) -> Result<Vec<PolicyKey>, Failure> {
    let keys = spi::select(BY_POLICY, &[policy_id.into(), f64::from(probes_count).into()], |row| {
        let (slot, priority, weight, algorithm_allowed, is_down) = (row.next()?, row.next()?, row.next()?, row.next()?, row.next()?);
        Ok(read(row)?.map(|key| PolicyKey { slot, priority, weight, algorithm_allowed, is_down, key }))
    })?;
    Ok(keys.into_iter().flatten().collect())
}

macro_rules! lock_active {
    ($held:literal) => {
        concat!(
            "SELECT id, COALESCE(key_version, '')::pg_catalog.text FROM kms_wrap.kms_keys
     WHERE id OPERATOR(pg_catalog.=) ANY ($1) AND status OPERATOR(pg_catalog.=) 'active' ORDER BY id FOR KEY SHARE",
            $held
        )
    };
}

const LOCK_ACTIVE: &str = lock_active!("");
const LOCK_ACTIVE_FREE: &str = lock_active!(" SKIP LOCKED");

/// Which of these keys are still active, with their versions, held so until the transaction ends as far as another version, destroying and
/// deleting them goes. Called after the providers have answered, right before wrappers under the keys are written; disabling a key is not held
/// up by it.
pub(crate) fn lock_active(ids: &[i64], held: Held) -> Result<HashMap<i64, String>, Failure> {
    let sql = if held == Held::Wait { LOCK_ACTIVE } else { LOCK_ACTIVE_FREE };
    Ok(spi::write(sql, &[ids.to_vec().into()], |row| Ok((row.next()?, row.next()?)))?.into_iter().collect())
}

const IN_USE: &str = concat!(
    "SELECT ",
    key_columns!(),
    " FROM kms_wrap.kms_keys k",
    key_joins!(),
    "WHERE k.provider_id OPERATOR(pg_catalog.=) $1 AND k.status OPERATOR(pg_catalog.=) ANY ('{active,retired}') ORDER BY k.id"
);

/// The keys of a provider that new or old wrappers may need.
pub(crate) fn in_use(provider: i64) -> Result<Vec<Key>, Failure> {
    Ok(spi::select(IN_USE, &[provider.into()], read)?.into_iter().flatten().collect())
}

/// All keys, in the order of their ids.
pub(crate) fn all() -> Result<Vec<Key>, Failure> {
    Ok(spi::select(ALL, &[], read)?.into_iter().flatten().collect())
}

fn read(row: &mut Row) -> Result<Option<Key>, Failure> {
    let (id, provider, provider_id, config) = (row.next()?, row.next()?, row.next()?, row.opt()?);
    let (provider_enabled, provider_suspended, trust_domain) = (row.next()?, row.next()?, row.next()?);
    let key_ref = KeyRef {
        kind: row.next()?,
        location: row.next()?,
        project_tenant: row.next()?,
        external_key_ref: row.next()?,
        key_version: row.next()?,
    };
    let algorithm: Option<String> = row.opt()?;
    let Some(algorithm) = algorithm.as_deref().and_then(Algorithm::from_name) else { return Ok(None) };
    let status = KeyStatus::from_name(&row.next::<String>()?)?;
    let (purpose, public_key) = (row.next()?, row.opt::<Vec<u8>>()?);
    let config_id: Option<Uuid> = row.opt()?;
    let (root, fingerprint, sealed): (Option<String>, Option<String>, Option<Vec<u8>>) = (row.opt()?, row.opt()?, row.opt()?);
    let sealed = match (config_id, root, fingerprint.as_deref().and_then(Fingerprint::from_hex), sealed) {
        (Some(config_id), Some(name), Some(fingerprint), Some(sealed)) if key_ref.kind == KIND => Some(SealedKey {
            identity: KeyIdentity {
                key_id: key_ref.external_key_ref.clone(),
                algorithm,
                provider_config: *config_id.as_bytes(),
                public_key: public_key.clone(),
            },
            sealed,
            root: RootRef { name, fingerprint },
        }),
        _ => None,
    };
    let config_fingerprint = config.as_deref().and_then(|text| serde_json::from_str(text).ok()).as_ref().map_or(0, breaker::fingerprint);
    Ok(Some(Key {
        id,
        provider,
        provider_id,
        config,
        config_fingerprint,
        provider_enabled,
        provider_suspended,
        trust_domain,
        key_ref,
        algorithm,
        status,
        purpose,
        public_key,
        sealed,
    }))
}
