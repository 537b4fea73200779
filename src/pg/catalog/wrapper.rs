//! Wrappers and their layers: read and inserted. `rewritten` writes them back.

use crate::{
    core::suite::Algorithm,
    pg::{
        report::Failure,
        spi::{self, Row},
    },
};
use pgrx::Uuid;

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

// One statement for wrapper and layers: two could see the wrapper before a rewrap and its layers after it. JSON is handled as text: it is compared as
// such, and jsonb may hold what serde_json refuses, where a row that somebody edited must not end more than itself.
macro_rules! wrapper_select {
    ($described:literal) => {
        concat!(
            "SELECT w.id, w.wrapper_uuid::pg_catalog.uuid, w.policy_id, p.policy_uuid, p.policy_name::pg_catalog.text, w.kms1_key_id, w.kms2_key_id,
                w.dek_wrap1, w.dek_wrap2, w.crypto_suite, w.status, w.purpose, w.epoch, w.generation, w.dek_fingerprint,
                l.layer_no, l.kms_key_id, l.kem_algo_id, l.kem_ciphertext, l.encap_pubkey, ",
            $described,
            " FROM kms_wrap.key_wrappers w JOIN kms_wrap.encryption_policies p ON p.id OPERATOR(pg_catalog.=) w.policy_id
         LEFT JOIN kms_wrap.key_wrapper_layers l ON l.key_wrapper_id OPERATOR(pg_catalog.=) w.id "
        )
    };
}

const BY_UUID: &str = concat!(
    wrapper_select!("l.aad::pg_catalog.text, l.meta::pg_catalog.text"),
    "WHERE w.wrapper_uuid OPERATOR(pg_catalog.=) $1::pg_catalog.text::pg_catalog.bpchar"
);
const BY_IDS: &str =
    concat!(wrapper_select!("l.aad::pg_catalog.text, l.meta::pg_catalog.text"), "WHERE w.id OPERATOR(pg_catalog.=) ANY ($1) ORDER BY w.id");
// Printing the JSON of millions of layers that stay where they are would be a part of what a campaign costs.
const BY_IDS_TO_MOVE: &str = concat!(
    wrapper_select!(
        "CASE WHEN l.layer_no OPERATOR(pg_catalog.=) ANY ($2) THEN l.aad::pg_catalog.text END,
         CASE WHEN l.layer_no OPERATOR(pg_catalog.=) ANY ($2) THEN l.meta::pg_catalog.text END"
    ),
    "WHERE w.id OPERATOR(pg_catalog.=) ANY ($1) ORDER BY w.id"
);
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

/// The same for a rewrap that moves layers of these numbers at most: what describes the others is not read.
pub(crate) fn by_ids_to_move(ids: &[i64], layers: &[i16]) -> Result<Vec<WrapperRow>, Failure> {
    Ok(grouped(spi::select(BY_IDS_TO_MOVE, &[ids.to_vec().into(), layers.to_vec().into()], read)?))
}

const UNDER_KEY: &str =
    "(SELECT id FROM kms_wrap.key_wrappers WHERE kms1_key_id OPERATOR(pg_catalog.=) $1 AND status OPERATOR(pg_catalog.=) ANY ('{active,rotated}')
      ORDER BY kms2_key_id DESC, wrap_version DESC LIMIT 1)
     UNION ALL
     (SELECT id FROM kms_wrap.key_wrappers
      WHERE kms2_key_id OPERATOR(pg_catalog.>=) $1 AND kms2_key_id OPERATOR(pg_catalog.<=) $1 AND status OPERATOR(pg_catalog.=) ANY ('{active,rotated}')
      ORDER BY kms2_key_id LIMIT 1)
     LIMIT 1";

/// A wrapper in use that has the key in slot kms1, a late one, or kms2. Ordered, and a range of one key, so that an index is read and never the table.
pub(crate) fn one_under(key: i64) -> Result<Option<WrapperRow>, Failure> {
    match spi::first(spi::select(UNDER_KEY, &[key.into()], |row| row.next::<i64>())?) {
        Some(id) => Ok(spi::first(by_ids(&[id])?)),
        None => Ok(None),
    }
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
        crypto_suite: row.opt_json()?,
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

/// The shipped row of crypto_algorithms: ids below 1000 never change. 0, which no row has, for RSA: the catalogue's classes know no
/// public-key encryption, and no layer is of it.
pub(super) const fn algorithm_id(algorithm: Algorithm) -> i64 {
    match algorithm {
        Algorithm::MlKem768 => 1,
        Algorithm::MlKem1024 => 2,
        Algorithm::XWing => 3,
        Algorithm::Aes256Gcm => 10,
        Algorithm::Xaes256Gcm => 11,
        Algorithm::RsaOaepSha256 | Algorithm::RsaOaepSha1 => 0,
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

// One row a statement, which takes little to set up; a wrapper is never left without its layers, since an ERROR takes both back.
const INSERT: &str = "INSERT INTO kms_wrap.key_wrappers
            (wrapper_uuid, policy_id, purpose, kms1_key_id, kms2_key_id, dek_wrap1, dek_wrap2, crypto_suite,
             wrap_version, generation, dek_fingerprint, scope_key)
     VALUES ($1::pg_catalog.text::pg_catalog.bpchar, $2, $3, $4, $5, $6, $7, $8::pg_catalog.jsonb, $9, $10, $11, $12)
     ON CONFLICT DO NOTHING RETURNING id";

const INSERT_LAYER: &str =
    "INSERT INTO kms_wrap.key_wrapper_layers (key_wrapper_id, layer_no, kms_key_id, kem_algo_id, kem_ciphertext, aad, meta)
     VALUES ($1, $2, $3, $4, $5, $6::pg_catalog.jsonb, $7::pg_catalog.jsonb)";

/// Inserts a wrapper under keys that are locked. `false` when its wrap_version is taken for its pair of keys (after wrap-around), or its scope has
/// a current wrapper.
pub(crate) fn insert(new: NewWrapper) -> Result<bool, Failure> {
    let args = [
        Uuid::from_bytes(new.uuid).into(),
        new.policy_id.into(),
        new.purpose.into(),
        new.kms1.into(),
        new.kms2.into(),
        new.dek_wrap1.into(),
        new.dek_wrap2.into(),
        new.crypto_suite.into(),
        wrap_version(new.generation).into(),
        new.generation.into(),
        new.dek_fingerprint.into(),
        new.scope_key.into(),
    ];
    let Some(id) = spi::first(spi::write(INSERT, &args, |row| row.next::<i64>())?) else { return Ok(false) };
    for layer in new.layers {
        let args = [
            id.into(),
            layer.layer_no.into(),
            layer.key.into(),
            algorithm_id(layer.algorithm).into(),
            layer.kem_ciphertext.into(),
            layer.aad.into(),
            layer.meta.into(),
        ];
        spi::execute(INSERT_LAYER, &args)?;
    }
    Ok(true)
}
