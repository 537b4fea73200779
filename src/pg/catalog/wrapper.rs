//! Wrappers and their layers: read, inserted, and written back with compare-and-swap.

use crate::{
    core::suite::Algorithm,
    pg::{
        report::Failure,
        spi::{self, Row},
    },
};
use pgrx::Uuid;
use std::collections::HashSet;

/// What a wrapper may still be used for (`key_wrappers.status`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum WrapperStatus {
    Active,
    Rotated,
    Retired,
    Invalid,
}

impl WrapperStatus {
    fn from_name(name: &str) -> Result<Self, Failure> {
        Ok(match name {
            "active" => Self::Active,
            "rotated" => Self::Rotated,
            "retired" => Self::Retired,
            "invalid" => Self::Invalid,
            _ => return Err(Failure::internal("wrapper status")),
        })
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Rotated => "rotated",
            Self::Retired => "retired",
            Self::Invalid => "invalid",
        }
    }
}

/// A row of key_wrappers with its layers.
#[derive(Debug, Clone)]
pub(crate) struct WrapperRow {
    pub(crate) id: i64,
    pub(crate) uuid: [u8; 16],
    pub(crate) policy_id: i64,
    pub(crate) policy_uuid: [u8; 16],
    pub(crate) policy_name: String,
    pub(crate) kms1: i64,
    pub(crate) kms2: i64,
    pub(crate) dek_wrap1: Vec<u8>,
    pub(crate) dek_wrap2: Vec<u8>,
    pub(crate) crypto_suite: Option<String>,
    pub(crate) status: WrapperStatus,
    pub(crate) purpose: String,
    pub(crate) epoch: i32,
    pub(crate) generation: i64,
    pub(crate) dek_fingerprint: Vec<u8>,
    pub(crate) layers: Vec<LayerRow>,
}

/// A row of key_wrapper_layers.
#[derive(Debug, Clone)]
pub(crate) struct LayerRow {
    pub(crate) layer_no: i16,
    pub(crate) key: Option<i64>,
    /// `None` for a row of crypto_algorithms that is not shipped.
    pub(crate) algorithm: Option<Algorithm>,
    pub(crate) kem_ciphertext: Vec<u8>,
    pub(crate) encap_pubkey: Option<Vec<u8>>,
    pub(crate) aad: Option<String>,
    pub(crate) meta: Option<String>,
}

impl WrapperRow {
    pub(crate) fn label(&self) -> Uuid {
        Uuid::from_bytes(self.uuid)
    }

    /// Ids of the keys that protect its slots. A layer whose key row was deleted has none.
    pub(crate) fn key_ids(&self) -> impl Iterator<Item = i64> + '_ {
        [self.kms1, self.kms2].into_iter().chain(self.layers.iter().filter_map(|l| l.key))
    }
}

// One statement for wrapper and layers: two could see the wrapper before a rewrap and its layers after it. JSON comes and goes as text: it is compared as
// such, and jsonb may hold what serde_json refuses, where a row that somebody edited must not end more than itself.
macro_rules! wrapper_select {
    () => {
        "SELECT w.id, w.wrapper_uuid::pg_catalog.uuid, w.policy_id, p.policy_uuid, p.policy_name::pg_catalog.text, w.kms1_key_id, w.kms2_key_id,
                w.dek_wrap1, w.dek_wrap2, w.crypto_suite::pg_catalog.text, w.status, w.purpose, w.epoch, w.generation, w.dek_fingerprint,
                l.layer_no, l.kms_key_id, l.kem_algo_id, l.kem_ciphertext, l.encap_pubkey, l.aad::pg_catalog.text, l.meta::pg_catalog.text
         FROM kms_wrap.key_wrappers w JOIN kms_wrap.encryption_policies p ON p.id OPERATOR(pg_catalog.=) w.policy_id
         LEFT JOIN kms_wrap.key_wrapper_layers l ON l.key_wrapper_id OPERATOR(pg_catalog.=) w.id "
    };
}

const BY_UUID: &str = concat!(wrapper_select!(), "WHERE w.wrapper_uuid OPERATOR(pg_catalog.=) $1::pg_catalog.text::pg_catalog.bpchar");
const BY_IDS: &str = concat!(wrapper_select!(), "WHERE w.id OPERATOR(pg_catalog.=) ANY ($1) ORDER BY w.id");
const NEXT_GENERATIONS: &str = "SELECT pg_catalog.nextval('kms_wrap.wrapper_generation_seq') FROM pg_catalog.generate_series(1, $1)";

const CURRENT: &str = "SELECT wrapper_uuid::pg_catalog.uuid FROM kms_wrap.key_wrappers
     WHERE policy_id OPERATOR(pg_catalog.=) $1 AND COALESCE(scope_key, ''::pg_catalog.bytea) OPERATOR(pg_catalog.=) COALESCE($2, ''::pg_catalog.bytea)
       AND purpose OPERATOR(pg_catalog.=) 'values' AND status OPERATOR(pg_catalog.=) 'active'";

/// The wrapper whose DEK encrypts new values of a policy's scope.
pub(crate) fn current(policy: i64, scope_key: Option<&[u8]>) -> Result<Option<[u8; 16]>, Failure> {
    let found = spi::select(CURRENT, &[policy.into(), scope_key.map(<[u8]>::to_vec).into()], |row| row.next::<Uuid>())?;
    Ok(spi::first(found).map(|uuid| *uuid.as_bytes()))
}

const POLICY_OF: &str =
    "SELECT policy_id FROM kms_wrap.key_wrappers WHERE wrapper_uuid OPERATOR(pg_catalog.=) $1::pg_catalog.text::pg_catalog.bpchar";

/// The id of a wrapper's policy.
pub(crate) fn policy_of(uuid: Uuid) -> Result<i64, Failure> {
    spi::first(spi::select(POLICY_OF, &[uuid.into()], |row| row.next())?).ok_or_else(|| Failure::unknown("wrapper", uuid))
}

const SCOPE_KEY: &str = "SELECT scope_key FROM kms_wrap.key_wrappers WHERE id OPERATOR(pg_catalog.=) $1";
const SET_ROTATED: &str = "UPDATE kms_wrap.key_wrappers SET status = 'rotated'
     WHERE id OPERATOR(pg_catalog.=) $1 AND status OPERATOR(pg_catalog.=) 'active'";
const SET_SUCCESSOR: &str = "UPDATE kms_wrap.key_wrappers w SET successor_id = n.id FROM kms_wrap.key_wrappers n
     WHERE w.id OPERATOR(pg_catalog.=) $1 AND n.wrapper_uuid OPERATOR(pg_catalog.=) $2::pg_catalog.text::pg_catalog.bpchar";

/// The scope that a wrapper's DEK serves.
pub(crate) fn scope_key(id: i64) -> Result<Option<Vec<u8>>, Failure> {
    Ok(spi::first(spi::select(SCOPE_KEY, &[id.into()], |row| row.opt())?).flatten())
}

/// An active wrapper is superseded; `false` when it is not active any more.
pub(crate) fn set_rotated(id: i64) -> Result<bool, Failure> {
    Ok(spi::execute(SET_ROTATED, &[id.into()])? > 0)
}

/// Names the wrapper that came after.
pub(crate) fn set_successor(id: i64, successor: Uuid) -> Result<bool, Failure> {
    Ok(spi::execute(SET_SUCCESSOR, &[id.into(), successor.into()])? > 0)
}

/// One wrapper.
pub(crate) fn by_uuid(uuid: Uuid) -> Result<WrapperRow, Failure> {
    let rows = grouped(spi::select(BY_UUID, &[uuid.into()], read)?);
    spi::first(rows).ok_or_else(|| Failure::unknown("wrapper", uuid))
}

/// Wrappers by id, in the order of their ids. Unknown ids are missing from the answer.
pub(crate) fn by_ids(ids: &[i64]) -> Result<Vec<WrapperRow>, Failure> {
    Ok(grouped(spi::select(BY_IDS, &[ids.to_vec().into()], read)?))
}

/// A wrapper with at most one of its layers.
fn read(row: &mut Row) -> Result<WrapperRow, Failure> {
    let mut wrapper = WrapperRow {
        id: row.next()?,
        uuid: *row.next::<Uuid>()?.as_bytes(),
        policy_id: row.next()?,
        policy_uuid: *row.next::<Uuid>()?.as_bytes(),
        policy_name: row.next()?,
        kms1: row.next()?,
        kms2: row.next()?,
        dek_wrap1: row.next()?,
        dek_wrap2: row.next()?,
        crypto_suite: row.opt()?,
        status: WrapperStatus::from_name(&row.next::<String>()?)?,
        purpose: row.next()?,
        epoch: row.next()?,
        generation: row.next()?,
        dek_fingerprint: row.next()?,
        layers: Vec::new(),
    };
    if let Some(layer_no) = row.opt()? {
        wrapper.layers.push(LayerRow {
            layer_no,
            key: row.opt()?,
            algorithm: algorithm(row.next()?),
            kem_ciphertext: row.next()?,
            encap_pubkey: row.opt()?,
            aad: row.opt()?,
            meta: row.opt()?,
        });
    }
    Ok(wrapper)
}

/// Joins the rows of one wrapper, which follow each other.
fn grouped(rows: Vec<WrapperRow>) -> Vec<WrapperRow> {
    let mut wrappers: Vec<WrapperRow> = Vec::new();
    for row in rows {
        match wrappers.last_mut() {
            Some(last) if last.id == row.id => last.layers.extend(row.layers),
            _ => wrappers.push(row),
        }
    }
    // Here and not in the statement, where sorting a row or two takes longer than reading them.
    for wrapper in &mut wrappers {
        wrapper.layers.sort_by_key(|layer| layer.layer_no);
    }
    wrappers
}

/// The shipped row of crypto_algorithms: ids below 1000 never change.
const fn algorithm_id(algorithm: Algorithm) -> i64 {
    match algorithm {
        Algorithm::MlKem768 => 1,
        Algorithm::MlKem1024 => 2,
        Algorithm::XWing => 3,
        Algorithm::Xaes256Gcm => 11,
    }
}

fn algorithm(id: i64) -> Option<Algorithm> {
    Algorithm::ALL.into_iter().find(|a| algorithm_id(*a) == id)
}

/// Draws `n` generation numbers.
pub(crate) fn next_generations(n: usize) -> Result<Vec<i64>, Failure> {
    let n = i32::try_from(n).map_err(Failure::internal)?;
    spi::write(NEXT_GENERATIONS, &[n.into()], |row| row.next())
}

/// Draws a generation number.
pub(crate) fn next_generation() -> Result<i64, Failure> {
    spi::next_value(c"wrapper_generation_seq")
}

/// `wrap_version` of a generation: the seed's column is an integer, so it starts again after 2^31 - 1 writes.
pub(crate) fn wrap_version(generation: i64) -> i32 {
    let version = (generation - 1).rem_euclid(i64::from(i32::MAX)) + 1;
    i32::try_from(version).unwrap_or(i32::MAX)
}

/// A new row of key_wrapper_layers.
pub(crate) struct NewLayer {
    pub(crate) layer_no: i16,
    pub(crate) key: i64,
    pub(crate) algorithm: Algorithm,
    pub(crate) kem_ciphertext: Vec<u8>,
    pub(crate) aad: String,
    pub(crate) meta: String,
}

/// A new wrapper's columns.
pub(crate) struct NewWrapper {
    pub(crate) uuid: [u8; 16],
    pub(crate) policy_id: i64,
    pub(crate) purpose: &'static str,
    pub(crate) scope_key: Option<Vec<u8>>,
    pub(crate) kms1: i64,
    pub(crate) kms2: i64,
    pub(crate) dek_wrap1: Vec<u8>,
    pub(crate) dek_wrap2: Vec<u8>,
    pub(crate) crypto_suite: String,
    pub(crate) generation: i64,
    pub(crate) dek_fingerprint: Vec<u8>,
    pub(crate) layers: Vec<NewLayer>,
}

// One statement for both tables: a wrapper is there with all its layers or not at all. Its keys are locked first, as lock_active() does, since one
// may have been put out of use while it worked for us: nothing may be stored under a key that is destroyed.
const INSERT: &str = "WITH k AS MATERIALIZED (
       SELECT id FROM kms_wrap.kms_keys
       WHERE id OPERATOR(pg_catalog.=) ANY ($19) AND status OPERATOR(pg_catalog.=) 'active' ORDER BY id FOR KEY SHARE),
     w AS (
       INSERT INTO kms_wrap.key_wrappers
              (wrapper_uuid, policy_id, purpose, kms1_key_id, kms2_key_id, dek_wrap1, dek_wrap2, crypto_suite,
               wrap_version, generation, dek_fingerprint, scope_key)
       SELECT $1::pg_catalog.text::pg_catalog.bpchar, $2, $17, $3, $4, $5, $6, $7::pg_catalog.jsonb, $8, $9, $10, $18
       WHERE (SELECT pg_catalog.count(*) FROM k) OPERATOR(pg_catalog.=) pg_catalog.cardinality($19)
       ON CONFLICT DO NOTHING RETURNING id),
     l AS (
       INSERT INTO kms_wrap.key_wrapper_layers (key_wrapper_id, layer_no, kms_key_id, kem_algo_id, kem_ciphertext, aad, meta)
       SELECT w.id, ($11)[i], ($12)[i], ($13)[i], ($14)[i], ($15)[i]::pg_catalog.jsonb, ($16)[i]::pg_catalog.jsonb
       FROM w, pg_catalog.generate_series(1, pg_catalog.cardinality($11)) i)
     SELECT (SELECT pg_catalog.count(*) FROM k) OPERATOR(pg_catalog.=) pg_catalog.cardinality($19), EXISTS (SELECT FROM w)";

/// What became of a new wrapper.
pub(crate) enum Inserted {
    Done,
    /// Its wrap_version is taken for its pair of keys (after wrap-around), or its scope has a current wrapper.
    Taken,
    /// A key of it was put out of use meanwhile.
    KeyNotActive,
}

/// Inserts a wrapper.
pub(crate) fn insert(new: NewWrapper) -> Result<Inserted, Failure> {
    let mut keys: Vec<i64> = [new.kms1, new.kms2].into_iter().chain(new.layers.iter().map(|l| l.key)).collect();
    keys.sort_unstable();
    keys.dedup();
    let mut columns = (Vec::new(), Vec::new(), Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for layer in new.layers {
        columns.0.push(layer.layer_no);
        columns.1.push(layer.key);
        columns.2.push(algorithm_id(layer.algorithm));
        columns.3.push(layer.kem_ciphertext);
        columns.4.push(layer.aad);
        columns.5.push(layer.meta);
    }
    let args = [
        Uuid::from_bytes(new.uuid).into(),
        new.policy_id.into(),
        new.kms1.into(),
        new.kms2.into(),
        new.dek_wrap1.into(),
        new.dek_wrap2.into(),
        new.crypto_suite.into(),
        wrap_version(new.generation).into(),
        new.generation.into(),
        new.dek_fingerprint.into(),
        columns.0.into(),
        columns.1.into(),
        columns.2.into(),
        columns.3.into(),
        columns.4.into(),
        columns.5.into(),
        new.purpose.into(),
        new.scope_key.into(),
        keys.into(),
    ];
    let outcome = spi::first(spi::write(INSERT, &args, |row| Ok((row.next::<bool>()?, row.next::<bool>()?)))?);
    Ok(match outcome.ok_or_else(|| Failure::internal("insert"))? {
        (_, true) => Inserted::Done,
        (true, false) => Inserted::Taken,
        (false, false) => Inserted::KeyNotActive,
    })
}

/// What a rewrap changes of a wrapper.
pub(crate) struct Rewritten {
    pub(crate) id: i64,
    pub(crate) old_generation: i64,
    pub(crate) generation: i64,
    pub(crate) kms1: i64,
    pub(crate) kms2: i64,
    /// `None` where nothing changes.
    pub(crate) dek_wrap1: Option<Vec<u8>>,
    pub(crate) dek_wrap2: Option<Vec<u8>>,
    pub(crate) crypto_suite: Option<String>,
    pub(crate) layers: Vec<NewLayer>,
    /// Keys that took a share.
    pub(crate) moved_to: Vec<i64>,
}

// Compare-and-swap on generation. Only active and rotated wrappers: a status change that came first wins.
const UPDATE: &str = "UPDATE kms_wrap.key_wrappers w
     SET kms1_key_id = n.kms1, kms2_key_id = n.kms2, dek_wrap1 = COALESCE(n.dek_wrap1, w.dek_wrap1),
         dek_wrap2 = COALESCE(n.dek_wrap2, w.dek_wrap2), crypto_suite = COALESCE(n.crypto_suite::pg_catalog.jsonb, w.crypto_suite),
         generation = n.generation, wrap_version = n.wrap_version
     FROM ROWS FROM (pg_catalog.unnest($1), pg_catalog.unnest($2), pg_catalog.unnest($3), pg_catalog.unnest($4), pg_catalog.unnest($5),
                     pg_catalog.unnest($6), pg_catalog.unnest($7), pg_catalog.unnest($8), pg_catalog.unnest($9))
          AS n (id, old_generation, generation, wrap_version, kms1, kms2, dek_wrap1, dek_wrap2, crypto_suite)
     WHERE w.id OPERATOR(pg_catalog.=) n.id AND w.generation OPERATOR(pg_catalog.=) n.old_generation
       AND w.status OPERATOR(pg_catalog.=) ANY ('{active,rotated}')
     RETURNING w.id";

const UPDATE_LAYERS: &str = "UPDATE kms_wrap.key_wrapper_layers l
     SET kms_key_id = n.key, kem_algo_id = n.algorithm, kem_ciphertext = n.ct, encap_pubkey = NULL,
         aad = n.aad::pg_catalog.jsonb, meta = n.meta::pg_catalog.jsonb
     FROM ROWS FROM (pg_catalog.unnest($1), pg_catalog.unnest($2), pg_catalog.unnest($3), pg_catalog.unnest($4), pg_catalog.unnest($5),
                     pg_catalog.unnest($6), pg_catalog.unnest($7)) AS n (wrapper, layer_no, key, algorithm, ct, aad, meta)
     WHERE l.key_wrapper_id OPERATOR(pg_catalog.=) n.wrapper AND l.layer_no OPERATOR(pg_catalog.=) n.layer_no";

// Concurrent writers draw from one sequence, so only a wrap-around can make two rows of a pair meet; those are 2^31 writes apart.
const TAKEN_VERSIONS: &str = "SELECT n.id
     FROM ROWS FROM (pg_catalog.unnest($1), pg_catalog.unnest($2), pg_catalog.unnest($3), pg_catalog.unnest($4)) AS n (id, kms1, kms2, version)
     WHERE EXISTS (SELECT FROM kms_wrap.key_wrappers w
                   WHERE w.kms1_key_id OPERATOR(pg_catalog.=) n.kms1 AND w.kms2_key_id OPERATOR(pg_catalog.=) n.kms2
                     AND w.wrap_version OPERATOR(pg_catalog.=) n.version AND w.id OPERATOR(pg_catalog.<>) n.id)";

/// Which of these `(wrapper, kms1, kms2, generation)` would meet another row's wrap_version.
pub(crate) fn taken_versions(rows: &[(i64, i64, i64, i64)]) -> Result<HashSet<i64>, Failure> {
    let column = |f: fn(&(i64, i64, i64, i64)) -> i64| rows.iter().map(f).collect::<Vec<_>>();
    let versions: Vec<i32> = rows.iter().map(|r| wrap_version(r.3)).collect();
    let args = [column(|r| r.0).into(), column(|r| r.1).into(), column(|r| r.2).into(), versions.into()];
    Ok(spi::select(TAKEN_VERSIONS, &args, |row| row.next())?.into_iter().collect())
}

const UNLOCKED: &str = "SELECT id FROM kms_wrap.key_wrappers WHERE id OPERATOR(pg_catalog.=) ANY ($1) ORDER BY id FOR UPDATE SKIP LOCKED";

/// Locks these wrappers, but for those that another session holds: a job waits for nobody.
pub(crate) fn lock_free(ids: &[i64]) -> Result<HashSet<i64>, Failure> {
    Ok(spi::write(UNLOCKED, &[ids.to_vec().into()], |row| row.next())?.into_iter().collect())
}

/// Writes rewrapped wrappers back; returns the ids that were written. The others changed meanwhile and are as they were.
pub(crate) fn update(rewritten: Vec<Rewritten>) -> Result<HashSet<i64>, Failure> {
    let mut w = (Vec::new(), Vec::new(), Vec::new(), Vec::new(), Vec::new(), Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let mut layers = Vec::new();
    for row in rewritten {
        w.0.push(row.id);
        w.1.push(row.old_generation);
        w.2.push(row.generation);
        w.3.push(wrap_version(row.generation));
        w.4.push(row.kms1);
        w.5.push(row.kms2);
        w.6.push(row.dek_wrap1);
        w.7.push(row.dek_wrap2);
        w.8.push(row.crypto_suite);
        layers.extend(row.layers.into_iter().map(|layer| (row.id, layer)));
    }
    let args = [w.0.into(), w.1.into(), w.2.into(), w.3.into(), w.4.into(), w.5.into(), w.6.into(), w.7.into(), w.8.into()];
    let written: HashSet<i64> = spi::write(UPDATE, &args, |row| row.next())?.into_iter().collect();
    layers.retain(|(id, _)| written.contains(id));
    if !layers.is_empty() {
        update_layers(layers)?;
    }
    Ok(written)
}

fn update_layers(layers: Vec<(i64, NewLayer)>) -> Result<(), Failure> {
    let mut l = (Vec::new(), Vec::new(), Vec::new(), Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let expected = layers.len();
    for (wrapper, layer) in layers {
        l.0.push(wrapper);
        l.1.push(layer.layer_no);
        l.2.push(layer.key);
        l.3.push(algorithm_id(layer.algorithm));
        l.4.push(layer.kem_ciphertext);
        l.5.push(layer.aad);
        l.6.push(layer.meta);
    }
    let args = [l.0.into(), l.1.into(), l.2.into(), l.3.into(), l.4.into(), l.5.into(), l.6.into()];
    if spi::execute(UPDATE_LAYERS, &args)? == expected { Ok(()) } else { Err(Failure::changed()) }
}
