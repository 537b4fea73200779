//! Scopes and blind index: hashes that must be equal for equal things only.

use super::sealer::{COLUMN, dek};
use kms_wrap::core::{
    blind_index::{IndexKey, Normalisation, ValueType, normalise},
    context::Context,
    error::Error::Invariant,
    kdf, scope,
};
use proptest::{collection::vec, prelude::*};
use serde_json::{Value, json};

fn of_context(context: &Value, names: &[&str]) -> [u8; 32] {
    let names: Vec<_> = names.iter().map(|&name| name.to_owned()).collect();
    scope::of_context(&Context::from_json(context).unwrap(), &names)
}

#[test]
fn scopes_hash_what_the_format_says() {
    let label = b"kms_wrap/v1/scope\0";
    let context = of_context(&json!({"tenant": "7", "row": "1"}), &["tenant", "region"]);
    assert_eq!(context, kdf::sha256(&[label, b"\x01", b"\0\x01\0\x06tenant\0\x017"]));
    assert_eq!(of_context(&json!({"tenant": "7"}), &[]), kdf::sha256(&[label, b"\x01\0\0"]));
    assert_eq!(scope::of_column(&COLUMN, None), kdf::sha256(&[label, b"\x02", &COLUMN]));
    assert_eq!(scope::of_column(&COLUMN, Some(b"\0\0\0\x07")), kdf::sha256(&[label, b"\x03", &COLUMN, b"\0\0\0\x07"]));
    assert_eq!(scope::of_index(&COLUMN, 9), kdf::sha256(&[label, b"\x04", &COLUMN, b"\x09"]));
}

#[test]
fn a_tenant_is_no_generation_and_no_tenant_is_no_empty_one() {
    let generations = (0..=u8::MAX).map(|n| scope::of_index(&COLUMN, n));
    let tenants = (0..=u8::MAX).map(|n| scope::of_column(&COLUMN, Some(&[n])));
    let others = [None, Some(&b""[..])].map(|tenant| scope::of_column(&COLUMN, tenant));
    let all: std::collections::HashSet<_> = generations.chain(tenants).chain(others).collect();
    assert_eq!(all.len(), 2 * 256 + 2);
}

#[test]
fn a_value_of_a_pair_can_not_pass_for_another_pair() {
    let hashes = [
        of_context(&json!({"a": "b"}), &["a", "b"]),
        of_context(&json!({"b": "a"}), &["a", "b"]),
        of_context(&json!({"a": "", "b": ""}), &["a", "b"]),
        of_context(&json!({"ab": ""}), &["ab"]),
        of_context(&json!({"a": "b"}), &["A"]),
    ];
    for (i, hash) in hashes.iter().enumerate() {
        assert!(!hashes[i + 1..].contains(hash), "{i}");
    }
    // The order of names is the policy's affair, and a name that stands twice counts once.
    assert_eq!(of_context(&json!({"a": "1", "b": "2"}), &["b", "a", "b"]), of_context(&json!({"b": "2", "a": "1"}), &["a", "b"]));
}

fn index(bytes: &[u8], generation: u8) -> IndexKey {
    IndexKey::derive(&dek(bytes), &COLUMN, generation).unwrap()
}

#[test]
fn an_entry_is_generation_and_the_start_of_the_whole_hash() {
    let key = index(&[1; 32], 7);
    let whole = key.entry(ValueType::Text, b"value", 32).unwrap();
    assert_eq!(whole.len(), 33);
    assert_eq!(whole[0], 7);
    for len in 0..=40 {
        assert_eq!(key.entry(ValueType::Text, b"value", len).unwrap(), whole[..=len.min(32)], "{len}");
    }
}

/// The type stands before the value, so that no value of one type begins like one of the other.
#[test]
fn types_and_values_do_not_mix() {
    let key = index(&[1; 32], 1);
    let entry = |value_type, value: &[u8]| key.entry(value_type, value, 32).unwrap();
    let entries = [
        entry(ValueType::Text, b""),
        entry(ValueType::Bytea, b""),
        entry(ValueType::Text, b"\x01"),
        entry(ValueType::Text, b"\x02"),
        entry(ValueType::Bytea, b"\x01"),
        entry(ValueType::Bytea, b"\x02"),
        entry(ValueType::Text, b"a"),
        entry(ValueType::Text, b"a\0"),
    ];
    for (i, one) in entries.iter().enumerate() {
        assert!(!entries[i + 1..].contains(one), "{i}");
    }
}

#[test]
fn an_index_key_needs_a_dek_of_values_and_all_of_it() {
    for n in [16, 24] {
        assert!(matches!(IndexKey::derive(&dek(&vec![1; n]), &COLUMN, 1), Err(Invariant(_))), "{n}");
    }
    let entry = |bytes: &[u8]| index(bytes, 1).entry(ValueType::Text, b"value", 32).unwrap();
    let entries = [entry(&[1; 32]), entry(&[1; 64]), entry(&[[1; 32], [0; 32]].concat()), entry(&[[0; 32], [1; 32]].concat())];
    for (i, one) in entries.iter().enumerate() {
        assert!(!entries[i + 1..].contains(one), "{i}");
    }
}

#[test]
fn normalisation_has_two_names() {
    assert_eq!(Normalisation::from_name("none"), Some(Normalisation::None));
    assert_eq!(Normalisation::from_name("lower"), Some(Normalisation::Lower));
    for name in ["", "Lower", "upper", "none "] {
        assert_eq!(Normalisation::from_name(name), None, "{name:?}");
    }
}

/// Frozen in words: another result would hide values that were indexed before.
#[test]
fn lower_is_the_full_mapping_of_unicode() {
    let lower = |text: &str| String::from_utf8(normalise(Normalisation::Lower, text.as_bytes(), true).unwrap().to_vec()).unwrap();
    for (text, expected) in [
        ("", ""),
        (" \t\r\n\u{b}\u{c}\u{85}\u{a0}\u{1680}\u{2003}\u{2028}\u{3000}", ""),
        ("  Ada  Lovelace ", "ada  lovelace"),
        ("STRASSE", "strasse"),
        ("STRA\u{1e9e}E", "stra\u{df}e"),
        // Longer than before, and not Turkish.
        ("\u{130}I", "i\u{307}i"),
        // A sigma at the end of a word is another letter.
        ("\u{39f}\u{394}\u{39f}\u{3a3} \u{3a3}\u{391}", "\u{3bf}\u{3b4}\u{3bf}\u{3c2} \u{3c3}\u{3b1}"),
        // Not composed, not decomposed.
        ("E\u{301}", "e\u{301}"),
        ("\u{c9}", "\u{e9}"),
        // No white space.
        ("\u{200b}A\u{feff}", "\u{200b}a\u{feff}"),
    ] {
        assert_eq!(lower(text), expected, "{text:?}");
        assert_eq!(lower(expected), expected, "a second time");
        assert_eq!(&*normalise(Normalisation::None, text.as_bytes(), true).unwrap(), text.as_bytes());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn text_of_another_encoding_keeps_its_bytes(text in vec(any::<u8>(), 0..40)) {
        let text = [text.as_slice(), b"\xff"].concat();
        let normalised = normalise(Normalisation::Lower, &text, true).unwrap();
        prop_assert_eq!(&*normalised, text.trim_ascii().to_ascii_lowercase());
    }

    #[test]
    fn entries_are_equal_for_equal_values_only(a in "[a-c]{0,3}", b in "[a-c]{0,3}") {
        let key = index(&[1; 32], 1);
        let entry = |value: &str| key.entry(ValueType::Text, value.as_bytes(), 16).unwrap();
        prop_assert_eq!(entry(&a) == entry(&b), a == b);
    }
}
