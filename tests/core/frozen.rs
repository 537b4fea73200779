//! `tests/vectors/wrappers_v1.json`: whole wrappers with all their keys and every value in between. The file never changes; a format that needs
//! another file is another format. `tests/vectors/open_wrappers.py` opens the same file without this crate.

use super::{
    attacks_rewrap::rewrap_to,
    entropy::Stream,
    fixtures::{self, GENERATION, KEMS},
    kms::{Kms, Reach},
    row::Row,
};
use kms_wrap::core::{
    aead,
    context::Context,
    kdf,
    kem::{self, PrivateKey},
    path::{Mode, dek_commit},
    secret::{Dek, Secret, Share},
    slot::{self, KeyRef, SlotNo},
    suite::Algorithm,
    wrapper::{Outcome, Wrapper},
};
use serde_json::{Map, Value, json};
use zeroize::Zeroizing;

const FILE: &str = include_str!("../vectors/wrappers_v1.json");

fn text<'a>(v: &'a Value, name: &str) -> &'a str {
    v[name].as_str().unwrap_or_else(|| panic!("{name} is text"))
}

fn bytes(v: &Value, name: &str) -> Vec<u8> {
    hex::decode(text(v, name)).unwrap()
}

fn array<const N: usize>(v: &Value, name: &str) -> [u8; N] {
    bytes(v, name).try_into().unwrap()
}

fn key_ref(key: &Value) -> KeyRef {
    let field = |i: usize| key["key_ref"][i].as_str().unwrap().to_owned();
    KeyRef { kind: field(0), location: field(1), project_tenant: field(2), external_key_ref: field(3), key_version: field(4) }
}

fn row(v: &Value) -> Row {
    let layer = |l: &Value| (u8::try_from(l["layer_no"].as_u64().unwrap()).unwrap(), bytes(l, "kem_ciphertext"));
    Row {
        uuid: array(v, "uuid"),
        policy_uuid: array(v, "policy_uuid"),
        epoch: u32::try_from(v["epoch"].as_u64().unwrap()).unwrap(),
        generation: v["generation"].as_u64().unwrap(),
        dek_fingerprint: bytes(v, "dek_fingerprint"),
        dek_wrap1: bytes(v, "dek_wrap1"),
        dek_wrap2: bytes(v, "dek_wrap2"),
        layers: v["layers"].as_array().unwrap().iter().map(layer).collect(),
    }
}

#[test]
fn frozen_wrappers_open_and_every_value_comes_out_again() {
    let file: Value = serde_json::from_str(FILE).unwrap();
    let wrappers = file["wrappers"].as_array().unwrap();
    assert_eq!(wrappers.len(), 8);
    for v in wrappers {
        check(v);
    }
}

fn check(v: &Value) {
    let what = text(v, "description");
    let row = row(v);
    let wrapper = Wrapper::parse(&row.stored()).unwrap();
    assert_eq!(wrapper.mode().name(), text(v, "composition"), "{what}");
    assert_eq!(wrapper.ctx_sha256(), &array(v, "ctx_sha256"), "{what}");
    assert_eq!(wrapper.ctx_sha256(), &Context::from_json(&v["context"]).unwrap().sha256(), "{what}");

    let mut kms = Kms::default();
    for key in v["keys"].as_array().unwrap() {
        let algorithm = Algorithm::from_name(text(key, "algorithm")).unwrap();
        kms.add(key_ref(key), algorithm, &bytes(key, "key"));
    }
    for (container, key) in wrapper.slots().iter().zip(v["keys"].as_array().unwrap()) {
        let header = &container.header;
        let name = header.slot.name();
        assert_eq!((name.as_str(), header.algorithm.name()), (text(key, "slot"), text(key, "algorithm")), "{what}");
        assert_eq!(header.key_ref, key_ref(key), "{what} {name}");
        let aad = wrapper.slot_aad(header.slot).unwrap();
        assert_eq!(aad, bytes(&v["slot_aad"], &name), "{what} {name}");
        let share = Share::copy_from(&bytes(&v["shares"], &name)).unwrap();
        assert!(wrapper.share_is_committed(header.slot, &share), "{what} {name}");
        if header.algorithm.is_kem() {
            let private = PrivateKey::from_seed(header.algorithm, &bytes(key, "key")).unwrap();
            let ek = bytes(key, "encapsulation_key");
            assert_eq!((private.encapsulation_key(), header.ek_sha256), (ek.clone(), Some(kdf::sha256(&[&ek]))), "{what} {name}");
            let (ciphertext, _) = slot::split_layer_blob(header.algorithm, &container.blob).unwrap();
            let secret = private.decapsulate(ciphertext).unwrap();
            assert_eq!(secret.expose(), &array(&v["kem_shared_secrets"], &name), "{what} {name}");
        }
        match kms.ask(&wrapper, header.slot) {
            Outcome::Share(opened) => assert_eq!(opened.expose(), share.expose(), "{what} {name}"),
            Outcome::Failed | Outcome::Missing => panic!("{what} {name} does not open"),
        }
    }
    for (path, leader) in v["paths"].as_array().unwrap().iter().zip(row.leaders()) {
        check_path(v, path, &row, leader);
    }
    assert_eq!(v["paths"].as_array().unwrap().len(), row.leaders().len(), "{what}");
    assert_eq!(kms.open(&row, Reach::All), Ok(bytes(v, "dek")), "{what}");
}

/// From the shares to the DEK by primitives alone.
fn check_path(v: &Value, path: &Value, row: &Row, leader: SlotNo) {
    let what = text(v, "description");
    let data = row.path(leader);
    let header = data.header.encode(&row.uuid);
    assert_eq!(header, bytes(path, "header"), "{what}");
    let names: Vec<_> = data.header.slots.iter().map(|e| Value::from(e.slot.name())).collect();
    assert_eq!(Some(&names), path["slots"].as_array(), "{what}");
    let okm = okm(&header, names.iter().map(|name| bytes(&v["shares"], name.as_str().unwrap())));
    assert_eq!(okm.as_slice(), bytes(path, "okm"), "{what}");
    let (key, nonce) = (okm[..32].try_into().unwrap(), okm[32..44].try_into().unwrap());
    assert_eq!(data.commit, okm[44..], "{what}");
    let sealed = aead::gcm_open(&key, &nonce, &header, &data.seal).unwrap();
    assert_eq!(sealed.as_slice(), [bytes(v, "dek"), bytes(v, "opening")].concat(), "{what}");
    let dek = Dek::from_bytes(Zeroizing::new(bytes(v, "dek"))).unwrap();
    let commit = dek_commit(&row.uuid, &dek, &Secret::copy_from(&bytes(v, "opening")).unwrap()).unwrap();
    assert_eq!((commit, &commit[..16]), (data.header.dek_commit, row.dek_fingerprint.as_slice()), "{what}");
}

fn okm(header: &[u8], shares: impl Iterator<Item = Vec<u8>>) -> [u8; 76] {
    let hash = kdf::sha384(&[header]);
    let mut okm = [0; 76];
    kdf::hkdf_sha384(Some(&hash), &shares.collect::<Vec<_>>().concat(), &[b"kms_wrap/v1/kek\0", &hash], &mut okm).unwrap();
    okm
}

/// How the file was made: `KMS_WRAP_WRITE_VECTORS=tests/vectors/wrappers_v1.json cargo test --no-default-features --test core frozen`.
#[test]
fn write_frozen_wrappers() {
    assert!(FILE.contains("kms_wrap wrappers, format 1"), "the frozen file is there");
    let Some(path) = std::env::var_os("KMS_WRAP_WRITE_VECTORS") else { return };
    let [ml_kem_768, ml_kem_1024, x_wing] = KEMS;
    let tenant = json!({"tenant": "acme"});
    let several = json!({"tenant": "acme", "Tenant": "", "ort": "K\u{f6}ln", "\u{df}": "\u{1f511}", "a": "b"});
    let wrappers = [
        generate("split, no layer, empty context", Mode::Split, &[], 32, &json!({})),
        generate("redundant, no layer, DEK of 16 bytes", Mode::Redundant, &[], 16, &tenant),
        generate("split, ML-KEM-768", Mode::Split, &[ml_kem_768], 32, &tenant),
        generate("redundant, ML-KEM-768, DEK of 64 bytes", Mode::Redundant, &[ml_kem_768], 64, &tenant),
        generate("split, ML-KEM-1024, DEK of 24 bytes", Mode::Split, &[ml_kem_1024], 24, &tenant),
        generate("redundant, X-Wing", Mode::Redundant, &[x_wing], 32, &tenant),
        generate("split, three layers, DEK of 64 bytes, context beyond ASCII", Mode::Split, &KEMS, 64, &several),
        generate("redundant, three layers, kms2 and layer2 rewrapped", Mode::Redundant, &KEMS, 32, &several),
    ];
    let about = "kms_wrap wrappers, format 1, suite KW1-A256GCM-HS384. All bytes are hex. `key` is an XAES-256-GCM key, an ML-KEM seed d | z, or an \
                 X-Wing seed. `opening` is the r that is sealed with the DEK. `okm` is key, nonce and commitment of a path.";
    let file = json!({ "about": about, "wrappers": wrappers });
    std::fs::write(path, format!("{file:#}\n")).unwrap();
}

/// Names as real ones look: an empty tenant, an empty version.
fn real_key_ref(slot: SlotNo, age: &str) -> KeyRef {
    let name = format!("{}{age}", slot.name());
    let fields = match slot.layer_no() {
        None if slot == SlotNo::KMS1 => ["local", "site-a", "", &name, ""],
        None => ["openbao", "bao.example", "payments", &name, "3"],
        Some(_) => ["local", "site-b", "acme", &name, "1"],
    };
    let [kind, location, project_tenant, external_key_ref, key_version] = fields.map(str::to_owned);
    KeyRef { kind, location, project_tenant, external_key_ref, key_version }
}

fn generate(description: &str, mode: Mode, layers: &[Algorithm], dek_len: usize, context: &Value) -> Value {
    let mut entropy = Stream::new(description);
    let mut kms = Kms::default();
    let mut secrets: Vec<(KeyRef, Vec<u8>)> = Vec::new();
    let slots = fixtures::slot_algorithms(layers);
    for age in ["", "-2"] {
        for (slot, algorithm) in &slots {
            let secret = entropy.bytes(kem::sizes(*algorithm).map_or(32, |s| s.seed));
            kms.add(real_key_ref(*slot, age), *algorithm, &secret);
            secrets.push((real_key_ref(*slot, age), secret));
        }
    }
    let dek = entropy.bytes(dek_len);
    let ctx_sha256 = Context::from_json(context).unwrap().sha256();
    let specs: Vec<_> = slots.iter().map(|(slot, a)| kms.spec(*slot, *a, real_key_ref(*slot, ""))).collect();
    let mut row = fixtures::wrap(&kms, mode, &specs, &dek, ctx_sha256, &mut entropy);
    if description.contains("rewrapped") {
        for slot in [SlotNo::KMS2, SlotNo::layer(2).unwrap()] {
            let share = kms.share(&row, slot);
            row = rewrap_to(&kms, &row, slot, &real_key_ref(slot, "-2"), &share);
        }
        assert!(row.generation > GENERATION);
    }
    describe(description, context, &kms, &secrets, &row, &dek)
}

fn describe(description: &str, context: &Value, kms: &Kms, secrets: &[(KeyRef, Vec<u8>)], row: &Row, dek: &[u8]) -> Value {
    let wrapper = Wrapper::parse(&row.stored()).unwrap();
    let (mut keys, mut aads, mut shares, mut kem_secrets) = (Vec::new(), Map::new(), Map::new(), Map::new());
    for container in wrapper.slots() {
        let header = &container.header;
        let (name, r) = (header.slot.name(), &header.key_ref);
        let secret = &secrets.iter().find(|(known, _)| known == r).unwrap().1;
        let private = PrivateKey::from_seed(header.algorithm, secret);
        keys.push(json!({
            "slot": name,
            "key_ref": [r.kind, r.location, r.project_tenant, r.external_key_ref, r.key_version],
            "algorithm": header.algorithm.name(),
            "key": hex::encode(secret),
            "encapsulation_key": private.as_ref().map(|p| hex::encode(p.encapsulation_key())),
        }));
        aads.insert(name.clone(), hex::encode(wrapper.slot_aad(header.slot).unwrap()).into());
        shares.insert(name.clone(), hex::encode(kms.share(row, header.slot).expose()).into());
        if let Some(private) = private {
            let (ciphertext, _) = slot::split_layer_blob(header.algorithm, &container.blob).unwrap();
            kem_secrets.insert(name, hex::encode(private.decapsulate(ciphertext).unwrap().expose()).into());
        }
    }
    let mut opening = Vec::new();
    let mut paths = Vec::new();
    for leader in row.leaders() {
        let data = row.path(leader);
        let header = data.header.encode(&row.uuid);
        let slots: Vec<_> = data.header.slots.iter().map(|e| e.slot).collect();
        let okm = okm(&header, slots.iter().map(|s| kms.share(row, *s).expose().to_vec()));
        let sealed = aead::gcm_open(okm.first_chunk().unwrap(), okm[32..44].try_into().unwrap(), &header, &data.seal).unwrap();
        opening = sealed[dek.len()..].to_vec();
        paths.push(json!({
            "path": data.header.path,
            "slots": slots.iter().map(|s| s.name()).collect::<Vec<_>>(),
            "header": hex::encode(&header),
            "okm": hex::encode(okm),
        }));
    }
    let layer = |(n, bytes): &(u8, Vec<u8>)| json!({ "layer_no": n, "kem_ciphertext": hex::encode(bytes) });
    json!({
        "description": description,
        "composition": wrapper.mode().name(),
        "uuid": hex::encode(row.uuid),
        "policy_uuid": hex::encode(row.policy_uuid),
        "context": context,
        "ctx_sha256": hex::encode(wrapper.ctx_sha256()),
        "epoch": row.epoch,
        "generation": row.generation,
        "dek_fingerprint": hex::encode(&row.dek_fingerprint),
        "dek_wrap1": hex::encode(&row.dek_wrap1),
        "dek_wrap2": hex::encode(&row.dek_wrap2),
        "layers": row.layers.iter().map(layer).collect::<Vec<_>>(),
        "keys": keys,
        "slot_aad": aads,
        "shares": shares,
        "kem_shared_secrets": kem_secrets,
        "paths": paths,
        "opening": hex::encode(opening),
        "dek": hex::encode(dek),
    })
}
