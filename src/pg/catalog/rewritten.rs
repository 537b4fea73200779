//! Wrappers that a rewrap has changed: locked, and written back with compare-and-swap.

use super::{
    Held,
    wrapper::{NewLayer, algorithm_id, wrap_version},
};
use crate::pg::{report::Failure, spi};
use std::collections::{HashMap, HashSet};

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
    /// Keys that took a share, with the versions that they took it under.
    pub(crate) moved_to: Vec<(i64, String)>,
}

// Compare-and-swap on generation. Only active and rotated wrappers: a status change that came first wins.
macro_rules! update {
    ($place:literal) => {
        concat!(
            "UPDATE kms_wrap.key_wrappers w
             SET kms1_key_id = n.kms1, kms2_key_id = n.kms2, dek_wrap1 = COALESCE(n.dek_wrap1, w.dek_wrap1),
                 dek_wrap2 = COALESCE(n.dek_wrap2, w.dek_wrap2), crypto_suite = COALESCE(n.crypto_suite::pg_catalog.jsonb, w.crypto_suite),
                 generation = n.generation, wrap_version = n.wrap_version
             FROM ROWS FROM (pg_catalog.unnest($1), pg_catalog.unnest($2), pg_catalog.unnest($3), pg_catalog.unnest($4), pg_catalog.unnest($5),
                             pg_catalog.unnest($6), pg_catalog.unnest($7), pg_catalog.unnest($8), pg_catalog.unnest($9))
                  AS n (id, old_generation, generation, wrap_version, kms1, kms2, dek_wrap1, dek_wrap2, crypto_suite)",
            $place,
            " AND w.generation OPERATOR(pg_catalog.=) n.old_generation AND w.status OPERATOR(pg_catalog.=) ANY ('{active,rotated}')
             RETURNING w.id"
        )
    };
}

const UPDATE: &str = update!(" WHERE w.id OPERATOR(pg_catalog.=) n.id");

// By its place, where it was just locked. A row that changed between snapshot and lock has another place by then, and is left alone.
const UPDATE_FREE: &str = update!(
    ", LATERAL (SELECT f.ctid AS place FROM kms_wrap.key_wrappers f WHERE f.id OPERATOR(pg_catalog.=) n.id FOR UPDATE SKIP LOCKED) f
     WHERE w.ctid OPERATOR(pg_catalog.=) f.place"
);

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

const ANY_VERSION: &str = "SELECT EXISTS (SELECT FROM kms_wrap.key_wrappers
     WHERE kms1_key_id OPERATOR(pg_catalog.=) $1 AND kms2_key_id OPERATOR(pg_catalog.=) $2 AND wrap_version OPERATOR(pg_catalog.>=) $3
       AND wrap_version OPERATOR(pg_catalog.<=) $4)";

/// Which of these wrappers would meet another row's wrap_version.
pub(crate) fn taken_versions(rows: &[Rewritten]) -> Result<HashSet<i64>, Failure> {
    // One look at the index for a whole batch of one pair, which nearly always finds nothing; row by row only if it finds something.
    let mut ranges: HashMap<(i64, i64), (i32, i32)> = HashMap::new();
    for row in rows {
        let version = wrap_version(row.generation);
        let range = ranges.entry((row.kms1, row.kms2)).or_insert((version, version));
        *range = (range.0.min(version), range.1.max(version));
    }
    let mut is_suspect = false;
    for ((kms1, kms2), (least, most)) in ranges {
        let found = spi::select(ANY_VERSION, &[kms1.into(), kms2.into(), least.into(), most.into()], |row| row.next::<bool>())?;
        is_suspect |= found.contains(&true);
    }
    if !is_suspect {
        return Ok(HashSet::new());
    }
    let column = |f: fn(&Rewritten) -> i64| rows.iter().map(f).collect::<Vec<_>>();
    let versions: Vec<i32> = rows.iter().map(|r| wrap_version(r.generation)).collect();
    let args = [column(|r| r.id).into(), column(|r| r.kms1).into(), column(|r| r.kms2).into(), versions.into()];
    Ok(spi::select(TAKEN_VERSIONS, &args, |row| row.next())?.into_iter().collect())
}

/// Writes rewrapped wrappers back; returns the ids that were written. The others changed meanwhile, or are held, and are as they were.
pub(crate) fn update(rewritten: Vec<Rewritten>, held: Held) -> Result<HashSet<i64>, Failure> {
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
    let written: HashSet<i64> =
        spi::write(if held == Held::Wait { UPDATE } else { UPDATE_FREE }, &args, |row| row.next())?.into_iter().collect();
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
