//! Policies as making and rewrapping a wrapper needs them.

use crate::{
    core::{path::Mode, policy::Selection},
    pg::{
        report::Failure,
        spi::{self, Row},
    },
};
use pgrx::Uuid;
use std::collections::{HashMap, HashSet};

/// `encryption_policies.outage`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outage {
    /// Nothing is served while a provider that is needed cannot be reached.
    Fail,
    /// What is held is served until its time to live is over.
    Cache,
    /// And for so many microseconds longer, as long as the outage lasts.
    Stale(i64),
}

/// A row of encryption_policies.
#[derive(Debug, Clone)]
#[allow(clippy::struct_excessive_bools)] // columns of a table
pub(crate) struct Policy {
    pub(crate) id: i64,
    pub(crate) uuid: [u8; 16],
    pub(crate) name: String,
    pub(crate) mode: Mode,
    pub(crate) selection: Selection,
    pub(crate) min_layers: i16,
    pub(crate) max_layers: i16,
    pub(crate) min_nist_level: Option<i16>,
    pub(crate) require_origin: bool,
    pub(crate) allow_same_trust_domain: bool,
    pub(crate) is_enabled: bool,
    /// Names of the context pairs that choose the DEK of values.
    pub(crate) dek_scope: Vec<String>,
    /// Longest time that an opened DEK is kept, in microseconds.
    pub(crate) cache_ttl: i64,
    /// Most uses of an opened DEK.
    pub(crate) cache_uses: Option<i32>,
    /// What a KMS outage means for what is held.
    pub(crate) outage: Outage,
    /// Whether every new share is opened again by its remote provider before the wrapper is stored, and not one a session and key.
    pub(crate) verify_every_wrap: bool,
    /// Values are padded to a multiple of so many bytes; 1 for none.
    pub(crate) value_pad_to: i32,
}

macro_rules! policy_select {
    () => {
        "SELECT id, policy_uuid, policy_name::pg_catalog.text, composition, layer_selection, min_layers, max_layers, min_nist_level,
                require_origin, allow_same_trust_domain, is_enabled, dek_scope,
                (EXTRACT(epoch FROM cache_ttl) OPERATOR(pg_catalog.*) 1000000)::pg_catalog.int8, cache_uses,
                outage, (EXTRACT(epoch FROM stale_for) OPERATOR(pg_catalog.*) 1000000)::pg_catalog.int8, verify_every_wrap, value_pad_to
         FROM kms_wrap.encryption_policies "
    };
}

const BY_NAME: &str = concat!(policy_select!(), "WHERE policy_name OPERATOR(pg_catalog.=) $1");
const BY_IDS: &str = concat!(policy_select!(), "WHERE id OPERATOR(pg_catalog.=) ANY ($1)");
/// Whether policy_algorithms lets the key `k` of policy key `pk` be used: a role without a row allows every algorithm.
macro_rules! algorithm_allowed {
    () => {
        "(NOT EXISTS (SELECT FROM kms_wrap.policy_algorithms pa WHERE pa.policy_id OPERATOR(pg_catalog.=) pk.policy_id
              AND pa.role OPERATOR(pg_catalog.=) CASE WHEN pk.slot OPERATOR(pg_catalog.=) 'layer' THEN 'kem' ELSE 'symmetric' END)
          OR EXISTS (SELECT FROM kms_wrap.policy_algorithms pa
              JOIN kms_wrap.crypto_algorithms ca ON ca.id OPERATOR(pg_catalog.=) pa.algo_id
              WHERE pa.policy_id OPERATOR(pg_catalog.=) pk.policy_id AND ca.name OPERATOR(pg_catalog.=) k.algorithm
                AND pa.role OPERATOR(pg_catalog.=) CASE WHEN pk.slot OPERATOR(pg_catalog.=) 'layer' THEN 'kem' ELSE 'symmetric' END))"
    };
}
pub(super) use algorithm_allowed;

const MEMBERS: &str = concat!(
    "SELECT pk.policy_id, pk.kms_key_id, pk.slot
     FROM kms_wrap.policy_kms_keys pk JOIN kms_wrap.kms_keys k ON k.id OPERATOR(pg_catalog.=) pk.kms_key_id
     WHERE pk.policy_id OPERATOR(pg_catalog.=) ANY ($1) AND ",
    algorithm_allowed!()
);

/// A policy by name.
pub(crate) fn by_name(name: &str) -> Result<Policy, Failure> {
    spi::first(spi::select(BY_NAME, &[name.into()], read)?).ok_or_else(|| Failure::unknown("policy", name))
}

/// A policy that something refers to, by id.
pub(crate) fn by_id(id: i64) -> Result<Policy, Failure> {
    spi::first(spi::select(BY_IDS, &[vec![id].into()], read)?).ok_or_else(|| Failure::internal("policy"))
}

/// Policies by id.
pub(crate) fn by_ids(ids: &[i64]) -> Result<HashMap<i64, Policy>, Failure> {
    Ok(spi::select(BY_IDS, &[ids.to_vec().into()], read)?.into_iter().map(|p| (p.id, p)).collect())
}

/// Which keys policies list, and whose algorithm they allow, for which slot: `(policy, key, slot name)`.
pub(crate) fn members(policies: &[i64]) -> Result<HashSet<(i64, i64, String)>, Failure> {
    let rows = spi::select(MEMBERS, &[policies.to_vec().into()], |row| Ok((row.next()?, row.next()?, row.next()?)))?;
    Ok(rows.into_iter().collect())
}

fn outage(name: &str, stale_for: i64) -> Result<Outage, Failure> {
    match name {
        "fail" => Ok(Outage::Fail),
        "cache" => Ok(Outage::Cache),
        "stale" => Ok(Outage::Stale(stale_for)),
        _ => Err(Failure::internal("outage")),
    }
}

fn read(row: &mut Row) -> Result<Policy, Failure> {
    let (id, uuid, name) = (row.next()?, row.next::<Uuid>()?, row.next()?);
    let (mode, selection): (String, String) = (row.next()?, row.next()?);
    Ok(Policy {
        id,
        uuid: *uuid.as_bytes(),
        name,
        mode: Mode::from_name(&mode).ok_or_else(|| Failure::internal("composition"))?,
        selection: Selection::from_name(&selection).ok_or_else(|| Failure::internal("layer_selection"))?,
        min_layers: row.next()?,
        max_layers: row.next()?,
        min_nist_level: row.opt()?,
        require_origin: row.next()?,
        allow_same_trust_domain: row.next()?,
        is_enabled: row.next()?,
        dek_scope: row.next()?,
        cache_ttl: row.next()?,
        cache_uses: row.opt()?,
        outage: outage(&row.next::<String>()?, row.next()?)?,
        verify_every_wrap: row.next()?,
        value_pad_to: row.next()?,
    })
}
