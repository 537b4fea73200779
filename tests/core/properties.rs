//! Properties of wrappers and containers over random shapes and random damage.

use super::{
    attacks_rewrap::rewrap,
    entropy::Stream,
    fixtures::{self, KEMS},
    kms::{Kms, Reach, key_ref},
    row::Row,
};
use kms_wrap::core::{
    context::Context,
    path::{Mode, PathData, PathHeader, SlotEntry},
    slot::{Container, KeyRef, SlotHeader, SlotNo},
    suite::Algorithm,
    wrapper::{Outcome, Wrapper},
};
use proptest::{collection::vec, prelude::*};
use std::{collections::BTreeMap, sync::LazyLock};

/// Keys for every slot, so that no case has to make some: `kms1`, `kms2`, `ML-KEM-768 1` and so on, each also as `new ...`.
static KMS: LazyLock<Kms> = LazyLock::new(|| {
    let mut kms = Kms::default();
    for age in ["", "new "] {
        for (slot, algorithm) in fixtures::slot_algorithms(&[]) {
            kms.create(&format!("{age}{}", slot.name()), algorithm);
        }
        for (kem, n) in KEMS.into_iter().flat_map(|kem| (1..=3).map(move |n| (kem, n))) {
            kms.create(&format!("{age}{} {n}", kem.name()), kem);
        }
    }
    kms
});

/// The name of a slot's key in [`KMS`].
fn key_name(slot: SlotNo, algorithm: Algorithm) -> String {
    slot.layer_no().map_or_else(|| slot.name(), |n| format!("{} {n}", algorithm.name()))
}

#[derive(Debug, Clone)]
struct Shape {
    mode: Mode,
    layers: Vec<Algorithm>,
    dek: Vec<u8>,
    context: BTreeMap<String, String>,
    seed: u64,
}

impl Shape {
    fn context(&self) -> Context {
        Context::from_json(&serde_json::to_value(&self.context).unwrap()).unwrap()
    }

    fn wrap(&self) -> Row {
        let slots = fixtures::slot_algorithms(&self.layers);
        let specs: Vec<_> = slots.into_iter().map(|(slot, a)| KMS.spec(slot, a, key_ref(&key_name(slot, a)))).collect();
        fixtures::wrap(&KMS, self.mode, &specs, &self.dek, self.context().sha256(), &mut Stream::new(&self.seed.to_string()))
    }
}

fn modes() -> impl Strategy<Value = Mode> {
    prop_oneof![Just(Mode::Split), Just(Mode::Redundant)]
}

prop_compose! {
    fn shapes()(
        mode in modes(),
        layers in vec(prop::sample::select(&KEMS[..]), 0..=3),
        dek in prop_oneof![vec(any::<u8>(), 16), vec(any::<u8>(), 24), vec(any::<u8>(), 32), vec(any::<u8>(), 64)],
        context in prop::collection::btree_map("[^\\x00]{0,12}", "\\PC{0,40}", 0..5),
        seed in any::<u64>(),
    ) -> Shape {
        Shape { mode, layers, dek, context, seed }
    }
}

prop_compose! {
    fn key_refs()(fields in prop::array::uniform5("[^\\x00]{0,8}")) -> KeyRef {
        let [kind, location, project_tenant, external_key_ref, key_version] = fields;
        KeyRef { kind, location, project_tenant, external_key_ref, key_version }
    }
}

prop_compose! {
    fn entries()(listed in prop::collection::btree_map(slot_numbers(), (any::<u8>(), any::<[u8; 32]>()), 0..6)) -> Vec<SlotEntry> {
        listed.into_iter().map(|(slot, (class, share_commit))| SlotEntry { slot: SlotNo::from_code(slot).unwrap(), class, share_commit }).collect()
    }
}

fn slot_numbers() -> impl Strategy<Value = u8> {
    prop_oneof![Just(1), Just(2), 0x11..=0x30_u8]
}

prop_compose! {
    fn paths()(
        mode in modes(), path in any::<u8>(), epoch in any::<u32>(), salt in any::<[u8; 32]>(), dek_len in any::<u16>(),
        policy_uuid in any::<[u8; 16]>(), ctx_sha256 in any::<[u8; 32]>(), dek_commit in any::<[u8; 32]>(), slots in entries(),
        seal in vec(any::<u8>(), 0..100), commit in any::<[u8; 32]>(),
    ) -> PathData {
        let header = PathHeader { mode, path, epoch, salt, dek_len, policy_uuid, ctx_sha256, dek_commit, slots };
        PathData { header, seal, commit }
    }
}

prop_compose! {
    fn containers()(
        slot in slot_numbers(), algorithm in prop::sample::select(&Algorithm::ALL[..]), key_ref in key_refs(),
        ek_sha256 in any::<Option<[u8; 32]>>(), generation in any::<u64>(), blob in vec(any::<u8>(), 0..200), path in prop::option::of(paths()),
    ) -> Container {
        let slot = SlotNo::from_code(slot).unwrap();
        let path = path.filter(|_| slot.layer_no().is_none());
        Container { header: SlotHeader { slot, algorithm, key_ref, ek_sha256, generation }, blob, path }
    }
}

/// Damage that keeps most of the bytes: what a parser that is too lenient would swallow.
fn damage(bytes: &mut Vec<u8>, edits: &[(usize, u8, u8)]) {
    for (at, how, byte) in edits {
        let at = at % bytes.len().max(1);
        match how % 4 {
            0 if at < bytes.len() => bytes[at] = *byte,
            1 if at < bytes.len() => bytes[at] ^= 1 << (byte % 8),
            2 if at < bytes.len() => drop(bytes.remove(at)),
            _ => bytes.insert(at.min(bytes.len()), *byte),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_was_built_parses_and_opens(shape in shapes()) {
        let row = shape.wrap();
        let wrapper = Wrapper::parse(&row.stored()).unwrap();
        prop_assert_eq!(wrapper.mode(), shape.mode);
        prop_assert_eq!(wrapper.ctx_sha256(), &shape.context().sha256());
        prop_assert_eq!(usize::from(wrapper.dek_len()), shape.dek.len());
        prop_assert_eq!(wrapper.generation(), fixtures::GENERATION);
        prop_assert_eq!(wrapper.slots().len(), 2 + shape.layers.len());
        prop_assert_eq!(KMS.open(&row, Reach::All), Ok(shape.dek.clone()));
        for slot in row.slots() {
            prop_assert_eq!(row.container(slot).encode().unwrap(), row.bytes(slot));
        }
    }

    #[test]
    fn rewrap_changes_one_slot_and_nothing_else(shape in shapes(), pick in any::<prop::sample::Index>()) {
        let row = shape.wrap();
        let slots = row.slots();
        let slot = slots[pick.index(slots.len())];
        let old = row.container(slot);
        let share = KMS.share(&row, slot);
        let new = rewrap(&KMS, &row, slot, &format!("new {}", old.header.key_ref.external_key_ref), &share);
        prop_assert_eq!(KMS.open(&new, Reach::All), Ok(shape.dek.clone()));
        prop_assert_eq!(&new.dek_fingerprint, &row.dek_fingerprint);
        for other in slots.iter().filter(|s| **s != slot) {
            prop_assert_eq!(new.bytes(*other), row.bytes(*other));
        }
        let rewrapped = new.container(slot);
        prop_assert_eq!(&rewrapped.path, &old.path);
        prop_assert_ne!(&rewrapped.blob, &old.blob);
        let wrapper = Wrapper::parse(&new.stored()).unwrap();
        prop_assert!(wrapper.share_is_committed(slot, &share));
        // The old key does not open the new blob.
        let by_the_old_key = new.but(|r| r.edit(slot, |c| {
            c.header.key_ref = old.header.key_ref.clone();
            c.header.ek_sha256 = old.header.ek_sha256;
        }));
        let wrapper = Wrapper::parse(&by_the_old_key.stored()).unwrap();
        prop_assert!(matches!(KMS.ask(&wrapper, slot), Outcome::Failed));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_container_has_one_encoding(container in containers()) {
        let bytes = container.encode().unwrap();
        prop_assert_eq!(Container::parse(&bytes), Ok(container.clone()));
        if let Some(path) = &container.path {
            prop_assert_eq!(PathData::parse(&path.encode()), Ok(path.clone()));
        }
    }

    #[test]
    fn damaged_bytes_parse_only_if_canonical(container in containers(), edits in vec((any::<usize>(), any::<u8>(), any::<u8>()), 1..4)) {
        let mut bytes = container.encode().unwrap();
        damage(&mut bytes, &edits);
        if let Ok(parsed) = Container::parse(&bytes) {
            prop_assert_eq!(parsed.encode().unwrap(), bytes);
        }
    }

    #[test]
    fn random_bytes_parse_only_if_canonical(head in 0..6_usize, tail in vec(any::<u8>(), 0..300)) {
        let bytes = [&b"KWRP\x01\x02"[..head], &tail].concat();
        if let Ok(parsed) = Container::parse(&bytes) {
            prop_assert_eq!(parsed.encode().unwrap(), bytes);
        }
    }

    #[test]
    fn two_contexts_have_two_hashes(a in shapes(), b in shapes()) {
        prop_assert_eq!(a.context == b.context, a.context().sha256() == b.context().sha256());
    }
}
