//! What the cryptography of one wrapper costs without PostgreSQL: a part of the floors that `tests/bench/run` compares with.
//!
//! The same calls into `core` and `provider::local`, in the same order and batches, as the extension makes under the policy of kw_quickstart:
//! split, two symmetric keys of two local providers, one ML-KEM-768 layer. Prints `name microseconds` for each operation on one wrapper.
//! Parsing, rows and JSON are left out, so that what they cost counts as the extension's own.
#![allow(
    missing_docs,
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::cast_precision_loss,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "a benchmark stops at what it did not expect"
)]

use kms_wrap::{
    core::{
        context::Context,
        draft::{Built, Draft, Spec},
        entropy::Entropy,
        path::Mode,
        secret::{Dek, Share},
        slot::{self, KeyRef, SlotNo, SlotSpec},
        suite::Algorithm,
        wrapper::{Outcome, Stored, Wrapper},
    },
    provider::{
        entropy::SystemEntropy,
        local::{KIND, Local, RootRef, SealedKey},
        root_key::KeyDirectory,
    },
};
use std::{
    fs,
    hint::black_box,
    os::unix::fs::DirBuilderExt,
    path::PathBuf,
    time::{Duration, Instant},
};

/// Wrappers of one measurement, unless the first argument says otherwise.
const WRAPPERS: usize = 4000;

/// Jobs of one step of the worker.
const BATCH: usize = 500;

const POLICY: [u8; 16] = *b"policy..policy..";

fn main() {
    // cargo puts --bench among the arguments.
    let wrappers = std::env::args().skip(1).find_map(|arg| arg.parse().ok()).unwrap_or(WRAPPERS);
    let directory = Directory::make();
    let mut bench = Bench::new(directory.0.clone());
    let print = |name: &str, time: Duration| println!("{name} {:.2}", time.as_secs_f64() * 1e6 / wrappers as f64);

    let start = Instant::now();
    let rows: Vec<Row> = (0..wrappers).map(|n| bench.wrap(n as u64 + 1)).collect();
    print("wrap", start.elapsed());

    let parsed: Vec<Wrapper> = rows.iter().map(Row::parse).collect();
    let start = Instant::now();
    for wrapper in &parsed {
        black_box(bench.open(wrapper));
    }
    print("open", start.elapsed());

    let start = Instant::now();
    for batch in parsed.chunks(BATCH) {
        black_box(bench.rewrap(batch));
    }
    print("rewrap", start.elapsed());
}

/// A key directory that goes when the program ends.
struct Directory(PathBuf);

impl Directory {
    fn make() -> Self {
        let path = std::env::temp_dir().join(format!("kms_wrap-bench-{}", std::process::id()));
        fs::DirBuilder::new().mode(0o700).create(&path).unwrap();
        Self(path)
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        // A copy that stays behind holds keys of this run only.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A key with what the catalog says about it.
struct Key {
    sealed: SealedKey,
    key_ref: KeyRef,
}

impl Key {
    fn spec(&self, slot: SlotNo) -> SlotSpec {
        let id = &self.sealed.identity;
        SlotSpec { slot, algorithm: id.algorithm, key_ref: self.key_ref.clone(), public_key: id.public_key.clone() }
    }
}

/// What is stored of a wrapper.
struct Row {
    uuid: [u8; 16],
    generation: u64,
    built: Built,
}

impl Row {
    fn parse(&self) -> Wrapper {
        let built = &self.built;
        Wrapper::parse(&Stored {
            uuid: self.uuid,
            policy_uuid: POLICY,
            epoch: 1,
            generation: self.generation,
            dek_fingerprint: &built.dek_fingerprint,
            dek_wrap1: &built.dek_wrap1,
            dek_wrap2: &built.dek_wrap2,
            layers: built.layers.iter().map(|(n, bytes)| (*n, bytes.as_slice())).collect(),
        })
        .unwrap()
    }
}

struct Bench {
    local: Local,
    kms1: Key,
    kms2: Key,
    layer: Key,
    /// Where a rewrap moves kms1.
    next: Key,
    context: [u8; 32],
}

impl Bench {
    fn new(path: PathBuf) -> Self {
        let mut local = Local::new(KeyDirectory { path, copied_by_backups: Vec::new() });
        let roots = ["a", "b"].map(|name| {
            let fingerprint = local.directory().create(name, &mut SystemEntropy).unwrap();
            RootRef { name: name.to_owned(), fingerprint }
        });
        let mut key = |key_id: &str, root: &RootRef, algorithm| {
            let sealed = local.generate(key_id, algorithm, *b"provider.config.", root, &mut SystemEntropy).unwrap();
            let key_ref = KeyRef {
                kind: KIND.to_owned(),
                location: format!("local-{}", root.name),
                project_tenant: String::new(),
                external_key_ref: key_id.to_owned(),
                key_version: String::new(),
            };
            Key { sealed, key_ref }
        };
        let kms1 = key("local-a-kek-1", &roots[0], Algorithm::Xaes256Gcm);
        let kms2 = key("local-b-kek-1", &roots[1], Algorithm::Xaes256Gcm);
        let layer = key("local-a-mlkem-1", &roots[0], Algorithm::MlKem768);
        let next = key("local-a-kek-2", &roots[0], Algorithm::Xaes256Gcm);
        Self { local, kms1, kms2, layer, next, context: Context::default().sha256() }
    }

    fn wrap(&mut self, generation: u64) -> Row {
        let mut uuid = [0; 16];
        SystemEntropy.fill(&mut uuid).unwrap();
        let slots = vec![self.kms1.spec(SlotNo::KMS1), self.kms2.spec(SlotNo::KMS2), self.layer.spec(SlotNo::layer(1).unwrap())];
        let spec = Spec { uuid, mode: Mode::Split, policy_uuid: POLICY, ctx_sha256: self.context, generation, slots };
        let draft = Draft::new(spec, Dek::generate(&mut SystemEntropy).unwrap(), &mut SystemEntropy).unwrap();
        let mut blobs = Vec::new();
        for (item, key) in draft.kms_slots().zip([&self.kms1, &self.kms2]) {
            blobs.extend(self.local.wrap(&key.sealed, &[item], &mut SystemEntropy).unwrap());
        }
        let built = draft.finish(blobs.try_into().unwrap(), &mut SystemEntropy).unwrap();
        Row { uuid, generation, built }
    }

    fn open(&mut self, wrapper: &Wrapper) -> Dek {
        let mut outcomes = Vec::new();
        for (slot, key) in wrapper.slots().iter().zip([&self.kms1, &self.kms2, &self.layer]) {
            let aad = wrapper.slot_aad(slot.header.slot).unwrap();
            let share = if let Some(ek) = &key.sealed.identity.public_key {
                let (ciphertext, _) = slot::split_layer_blob(slot.header.algorithm, &slot.blob).unwrap();
                let shared = self.local.decapsulate(&key.sealed, &[ciphertext]).unwrap().pop().flatten().unwrap();
                slot::open_layer(slot.header.algorithm, ek, &aad, &slot.blob, &shared)
            } else {
                self.local.unwrap(&key.sealed, &[(&slot.blob, &aad)]).unwrap().pop().flatten()
            };
            outcomes.push(Outcome::Share(share.unwrap()));
        }
        wrapper.open(&outcomes).ok().unwrap()
    }

    /// Moves kms1 of a batch: opens each share, checks it, protects it under the next key, opens and checks that again.
    fn rewrap(&mut self, batch: &[Wrapper]) -> Vec<Vec<u8>> {
        let aads: Vec<_> = batch.iter().map(|w| w.slot_aad(SlotNo::KMS1).unwrap()).collect();
        let blobs = batch.iter().map(|w| w.slots()[0].blob.as_slice());
        let items: Vec<(&[u8], &[u8])> = blobs.zip(aads.iter().map(Vec::as_slice)).collect();
        let shares = committed(batch, self.local.unwrap(&self.kms1.sealed, &items).unwrap());

        let rewraps: Vec<_> = batch.iter().map(|w| w.rewrap(self.next.spec(SlotNo::KMS1), w.generation() + 1_000_000).unwrap()).collect();
        let items: Vec<(&Share, &[u8])> = shares.iter().zip(&rewraps).map(|(share, r)| (share, r.aad())).collect();
        let blobs = self.local.wrap(&self.next.sealed, &items, &mut SystemEntropy).unwrap();

        let items: Vec<(&[u8], &[u8])> = blobs.iter().zip(&rewraps).map(|(blob, r)| (blob.as_slice(), r.aad())).collect();
        black_box(committed(batch, self.local.unwrap(&self.next.sealed, &items).unwrap()));
        rewraps.into_iter().zip(blobs).map(|(r, blob)| r.finish(blob).unwrap()).collect()
    }
}

fn committed(batch: &[Wrapper], shares: Vec<Option<Share>>) -> Vec<Share> {
    let shares: Vec<Share> = shares.into_iter().map(Option::unwrap).collect();
    assert!(batch.iter().zip(&shares).all(|(w, share)| w.share_is_committed(SlotNo::KMS1, share)));
    shares
}
