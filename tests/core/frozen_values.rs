//! `tests/vectors/values_v1.json`: envelopes with their keys and every value in between, scopes and entries of blind indexes. The file never
//! changes, and what is sealed today is what it holds. `tests/vectors/open_values.py` opens the same file without this crate.

use super::{
    entropy::{Scripted, Stream},
    sealer::{self, Sealer, armoured, dek, unarmoured},
};
use aes_gcm::{
    KeyInit,
    aes::{Aes256, cipher::BlockCipherEncrypt},
};
use kms_wrap::core::{
    aead,
    blind_index::{IndexKey, Normalisation, ValueType, normalise},
    context::Context,
    kdf, scope,
    value::{Envelope, ValueContext},
};
use serde_json::{Value, json};

const FILE: &str = include_str!("../vectors/values_v1.json");

fn text<'a>(v: &'a Value, name: &str) -> &'a str {
    v[name].as_str().unwrap_or_else(|| panic!("{name} is text"))
}

fn bytes(v: &Value, name: &str) -> Vec<u8> {
    hex::decode(text(v, name)).unwrap()
}

fn array<const N: usize>(v: &Value, name: &str) -> [u8; N] {
    bytes(v, name).try_into().unwrap()
}

fn list<'a>(v: &'a Value, name: &str) -> &'a [Value] {
    v[name].as_array().unwrap()
}

/// `{"pairs": {...}}` or `{"column_uuid": hex, "keys": [hex]}`.
fn value_context(v: &Value) -> ValueContext {
    if v["pairs"].is_object() {
        return sealer::free(&v["pairs"]);
    }
    let keys: Vec<_> = list(v, "keys").iter().map(|key| hex::decode(key.as_str().unwrap()).unwrap()).collect();
    sealer::column(&array(v, "column_uuid"), &keys.iter().map(Vec::as_slice).collect::<Vec<_>>())
}

/// Steps 1 to 5 of C2SP XAES-256-GCM, on numbers.
fn message_key(value_key: &[u8; 32], prefix: &[u8; 12]) -> [u8; 32] {
    let aes = Aes256::new(value_key.into());
    let encrypt = |block: u128| {
        let mut block = block.to_be_bytes();
        aes.encrypt_block((&mut block).into());
        u128::from_be_bytes(block)
    };
    let l = encrypt(0);
    let k1 = if l >> 127 == 1 { (l << 1) ^ 0x87 } else { l << 1 };
    let block = |counter: u128| prefix.iter().fold(counter << 16 | 0x5800, |n, byte| n << 8 | u128::from(*byte));
    let halves = [1, 2].map(|counter| encrypt(block(counter) ^ k1).to_be_bytes());
    halves.concat().try_into().unwrap()
}

fn value_key(dek: &[u8], wrapper: &[u8]) -> [u8; 32] {
    let mut key = [0; 32];
    kdf::hkdf_sha384(Some(wrapper), dek, &[b"kms_wrap/v1/value-key\0\x01"], &mut key).unwrap();
    key
}

#[test]
fn frozen_values_open_and_every_value_comes_out_again() {
    let file: Value = serde_json::from_str(FILE).unwrap();
    let values = list(&file, "values");
    assert_eq!(values.len(), 15);
    values.iter().for_each(check_value);
}

fn check_value(v: &Value) {
    let what = text(v, "description");
    let raw = bytes(v, "envelope");
    assert_eq!(unarmoured(text(v, "armoured").as_bytes()), Ok(raw.clone()), "{what}");
    assert_eq!(armoured(&raw), text(v, "armoured"), "{what}");
    let context = value_context(&v["context"]);
    assert_eq!(context.as_bytes(), bytes(v, "value_context"), "{what}");

    // As the crate does it.
    let mut opener = Sealer::new(what);
    (opener.dek, opener.wrapper) = (bytes(v, "dek"), array(v, "wrapper_uuid"));
    assert_eq!(opener.open(&raw, &context), Ok(bytes(v, "plaintext")), "{what}");

    // By primitives alone.
    let Envelope { head, ciphertext, tag } = Envelope::parse(&raw).unwrap();
    assert_eq!((head.wrapper().as_slice(), head.is_padded()), (bytes(v, "wrapper_uuid").as_slice(), v["padded"] == true), "{what}");
    let value_key = value_key(&bytes(v, "dek"), &bytes(v, "wrapper_uuid"));
    assert_eq!(value_key, array(v, "value_key"), "{what}");
    let message_key = message_key(&value_key, &head.prefix());
    assert_eq!(message_key, array(v, "message_key"), "{what}");
    let aad = sealer::aad(&head, &context);
    assert_eq!(aad, bytes(v, "aad"), "{what}");
    let decrypted = aead::gcm_open(&message_key, &head.gcm_nonce(), &aad, &[ciphertext, tag].concat()).unwrap();
    assert_eq!(decrypted.as_slice(), bytes(v, "content"), "{what}");
}

#[test]
fn frozen_scopes_come_out_again() {
    let file: Value = serde_json::from_str(FILE).unwrap();
    assert_eq!(list(&file, "scopes").len(), 10);
    for v in list(&file, "scopes") {
        assert_eq!(scope_hash(v), array(v, "sha256"), "{v}");
    }
}

fn scope_hash(v: &Value) -> [u8; 32] {
    if let Some(pairs) = v.get("pairs") {
        let names: Vec<_> = list(v, "dek_scope").iter().map(|name| name.as_str().unwrap().to_owned()).collect();
        return scope::of_context(&Context::from_json(pairs).unwrap(), &names);
    }
    let column = array(v, "column_uuid");
    match (v.get("generation"), v.get("tenant")) {
        (Some(generation), _) => scope::of_index(&column, u8::try_from(generation.as_u64().unwrap()).unwrap()),
        (None, Some(_)) => scope::of_column(&column, Some(&bytes(v, "tenant"))),
        (None, None) => scope::of_column(&column, None),
    }
}

#[test]
fn frozen_index_entries_come_out_again() {
    let file: Value = serde_json::from_str(FILE).unwrap();
    assert_eq!(list(&file, "blind_index").len(), 10);
    for v in list(&file, "blind_index") {
        let (normalised, entry) = index_entry(v);
        assert_eq!(normalised, bytes(v, "normalised"), "{v}");
        assert_eq!(entry, bytes(v, "entry"), "{v}");
        assert_eq!(index_key(v), array(v, "index_key"), "{v}");
    }
}

fn index_key(v: &Value) -> [u8; 32] {
    let generation = u8::try_from(v["generation"].as_u64().unwrap()).unwrap();
    let mut key = [0; 32];
    kdf::hkdf_sha384(None, &bytes(v, "dek"), &[b"kms_wrap/v1/bidx\0", &bytes(v, "column_uuid"), &[generation]], &mut key).unwrap();
    key
}

fn index_entry(v: &Value) -> (Vec<u8>, Vec<u8>) {
    let number = |name: &str| usize::try_from(v[name].as_u64().unwrap()).unwrap();
    let value_type = if v["type"] == "text" { ValueType::Text } else { ValueType::Bytea };
    let value = bytes(v, "value");
    let normalised = normalise(Normalisation::from_name(text(v, "normalise")).unwrap(), &value, true).unwrap();
    let generation = u8::try_from(number("generation")).unwrap();
    let key = IndexKey::derive(&dek(&bytes(v, "dek")), &array(v, "column_uuid"), generation).unwrap();
    let entry = key.entry(value_type, &normalised, number("bytes")).unwrap();
    (normalised.to_vec(), entry)
}

/// How the file was made: `KMS_WRAP_WRITE_VALUES=tests/vectors/values_v1.json cargo test --no-default-features --test core frozen_values`.
#[test]
fn what_is_sealed_today_is_what_was_frozen() {
    let about = "kms_wrap values, envelope version 1, cipher 1 = XAES-256-GCM. All bytes are hex. `content` is the plaintext with its padding; \
                 `pairs` is a caller's context, `keys` are key columns in their binary send form; `value` of blind_index is in the database's encoding.";
    let file = json!({ "about": about, "values": values(), "scopes": scopes(), "blind_index": blind_index() });
    let made = format!("{file:#}\n");
    if let Some(path) = std::env::var_os("KMS_WRAP_WRITE_VALUES") {
        std::fs::write(path, &made).unwrap();
    }
    assert!(made == FILE, "values_v1.json never changes");
}

fn values() -> Vec<Value> {
    let none = json!({"pairs": {}});
    let several = json!({"pairs": {"tenant": "acme", "Tenant": "", "ort": "K\u{f6}ln", "\u{df}": "\u{1f511}", "a": "b"}});
    let column = hex::encode(Stream::new("column").bytes(16));
    let row = |keys: &[&[u8]]| json!({"column_uuid": column, "keys": keys.iter().map(hex::encode).collect::<Vec<_>>()});
    let (int4, int8, uuid) = (7_i32.to_be_bytes(), (-1_i64).to_be_bytes(), Stream::new("key").bytes(16));
    let long = vec![b'k'; 300];
    let prose = "Gr\u{fc}\u{df}e, \u{1f511}".as_bytes();
    let mut made = vec![
        generate("free, empty context, empty value", 32, &none, b"", None),
        generate("free, empty context, one byte", 32, &none, b"v", None),
        generate("free, pairs beyond ASCII, DEK of 64 bytes", 64, &several, prose, None),
        generate("free, padded to 16", 32, &several, b"0123456789abcdef", Some(16)),
        generate("free, empty value padded to 1", 32, &none, b"", Some(1)),
        generate("free, empty value padded to 64, DEK of 64 bytes", 64, &none, b"", Some(64)),
        generate("free, value that looks padded", 32, &none, b"value\x80\0\0", None),
        generate("free, value that looks padded, padded to 16", 32, &none, b"value\x80\0\0", Some(16)),
        generate("row with an int4 key", 32, &row(&[&int4]), b"column value", None),
        generate("row with three keys, DEK of 64 bytes", 64, &row(&[&int8, b"", &uuid]), prose, None),
        generate("row with a long key, padded to 32", 32, &row(&[&long]), b"column value", Some(32)),
        generate("row, value of several blocks", 32, &row(&[b"key"]), &(0..=255).collect::<Vec<u8>>(), None),
    ];
    // One run: the first half of the nonce stays, the other passes 2^96.
    let mut start = Stream::new("a run").bytes(24);
    start[12..].fill(0xff);
    start[23] = 0xfe;
    let mut sealer = Sealer::with(Stream::new("DEK of a run").bytes(32), Stream::new("wrapper of a run").array(), &mut Scripted(&start));
    for (n, value) in [b"one".as_slice(), b"one", b"two"].into_iter().enumerate() {
        made.push(describe(&format!("value {} of a run", n + 1), &mut sealer, &none, value, None));
    }
    made
}

fn generate(description: &str, dek_len: usize, context: &Value, plaintext: &[u8], pad_to: Option<usize>) -> Value {
    let mut entropy = Stream::new(description);
    let (dek, wrapper) = (entropy.bytes(dek_len), entropy.array());
    describe(description, &mut Sealer::with(dek, wrapper, &mut entropy), context, plaintext, pad_to)
}

fn describe(description: &str, sealer: &mut Sealer, context: &Value, plaintext: &[u8], pad_to: Option<usize>) -> Value {
    let value_context = value_context(context);
    let raw = match pad_to {
        None => sealer.seal(plaintext, &value_context),
        Some(n) => sealer.seal_padded(plaintext, n, &value_context),
    };
    let Envelope { head, ciphertext, tag } = Envelope::parse(&raw).unwrap();
    let value_key = value_key(&sealer.dek, &sealer.wrapper);
    let message_key = message_key(&value_key, &head.prefix());
    let aad = sealer::aad(&head, &value_context);
    let decrypted = aead::gcm_open(&message_key, &head.gcm_nonce(), &aad, &[ciphertext, tag].concat()).unwrap();
    json!({
        "description": description,
        "dek": hex::encode(&sealer.dek),
        "wrapper_uuid": hex::encode(sealer.wrapper),
        "context": context,
        "value_context": hex::encode(value_context.as_bytes()),
        "padded": pad_to.is_some(),
        "plaintext": hex::encode(plaintext),
        "content": hex::encode(decrypted),
        "value_key": hex::encode(value_key),
        "message_key": hex::encode(message_key),
        "aad": hex::encode(aad),
        "envelope": hex::encode(&raw),
        "armoured": armoured(&raw),
    })
}

fn scopes() -> Vec<Value> {
    let column = hex::encode(Stream::new("column").bytes(16));
    let pairs = json!({"tenant": "acme", "region": "eu", "row": "1", "ort": "K\u{f6}ln"});
    let scopes = [
        json!({"pairs": {}, "dek_scope": []}),
        json!({"pairs": pairs, "dek_scope": []}),
        json!({"pairs": pairs, "dek_scope": ["tenant"]}),
        json!({"pairs": pairs, "dek_scope": ["tenant", "region", "ort"]}),
        json!({"pairs": {"tenant": ""}, "dek_scope": ["tenant", "region"]}),
        json!({"column_uuid": column}),
        json!({"column_uuid": column, "tenant": ""}),
        json!({"column_uuid": column, "tenant": hex::encode(7_i32.to_be_bytes())}),
        json!({"column_uuid": column, "generation": 1}),
        json!({"column_uuid": column, "generation": 255}),
    ];
    scopes
        .map(|mut v| {
            v["sha256"] = hex::encode(scope_hash(&v)).into();
            v
        })
        .into()
}

/// DEK, generation, type, normalisation, value, length of the entry.
type IndexCase<'a> = (&'a [u8], u8, &'a str, &'a str, &'a [u8], u8);

fn blind_index() -> Vec<Value> {
    let mut entropy = Stream::new("blind index");
    let [short, long] = [entropy.bytes(32), entropy.bytes(64)];
    let column = hex::encode(Stream::new("column").bytes(16));
    let entries: [IndexCase<'_>; 10] = [
        (&short, 1, "text", "none", b"ada@example.com", 16),
        (&short, 2, "text", "none", b"ada@example.com", 16),
        (&short, 1, "bytea", "none", b"ada@example.com", 16),
        (&long, 1, "text", "none", b"ada@example.com", 32),
        (&short, 1, "text", "none", b"", 16),
        (&short, 1, "text", "none", b" Ada ", 8),
        (&short, 1, "text", "lower", b" \tAda@Example.COM\n", 16),
        (&short, 1, "text", "lower", "\u{3000}\u{c4}\u{1e9e}\u{130} \u{39f}\u{394}\u{39f}\u{3a3}\u{a0}".as_bytes(), 16),
        (&short, 255, "text", "lower", b"\x0c \xc4B C\xff\n", 16),
        (&short, 1, "bytea", "none", &[0, 255], 4),
    ];
    entries
        .map(|(dek, generation, value_type, normalise, value, len)| {
            let mut v = json!({
                "dek": hex::encode(dek),
                "column_uuid": column,
                "generation": generation,
                "type": value_type,
                "normalise": normalise,
                "value": hex::encode(value),
                "bytes": len,
            });
            let (normalised, entry) = index_entry(&v);
            v["index_key"] = hex::encode(index_key(&v)).into();
            v["normalised"] = hex::encode(normalised).into();
            v["entry"] = hex::encode(entry).into();
            v
        })
        .into()
}
