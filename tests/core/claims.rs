//! What a wrapper says about itself: post-quantum, origin, the JSON that describes it.

use super::fixtures::{self, Fixture};
use kms_wrap::core::{path::Mode, projection, suite::Algorithm, wrapper::Wrapper};
use serde_json::{Value, json};

fn parsed(f: &Fixture) -> Wrapper {
    Wrapper::parse(&f.row.stored()).unwrap()
}

#[test]
fn post_quantum_by_the_strongest_layer() {
    for f in fixtures::all() {
        let levels = f.row.layer_slots().into_iter().filter_map(|s| f.row.container(s).header.algorithm.nist_level());
        let strongest = levels.max().unwrap_or(0);
        for level in [1, 3, 5] {
            assert_eq!(parsed(f).is_post_quantum(level), strongest >= level, "{} level {level}", f.name);
        }
    }
}

#[test]
fn origin_needs_a_binding_kms_on_every_path() {
    for f in fixtures::all() {
        let binds = |names: &'static [&str]| parsed(f).has_origin(|key| names.contains(&key.external_key_ref.as_str()));
        assert!(binds(&["kms1", "kms2"]), "{}", f.name);
        assert_eq!(binds(&["kms1"]), f.mode == Mode::Split, "{}", f.name);
        assert_eq!(binds(&["kms2"]), f.mode == Mode::Split, "{}", f.name);
        assert!(!binds(&["layer1", "layer2", "layer3"]), "{}: anyone can seal a layer", f.name);
    }
}

#[test]
fn description_of_a_redundant_wrapper() {
    let f = Fixture::new(Mode::Redundant, &[Algorithm::MlKem768, Algorithm::XWing], 64);
    let wrapper = parsed(&f);
    let expected = json!({
        "suite": "KW1-A256GCM-HS384", "format": 1, "composition": "redundant", "dek_bytes": 64,
        "paths": [["kms1", "layer1", "layer2"], ["kms2", "layer1", "layer2"]],
        "slots": {"kms1": "XAES-256-GCM", "kms2": "XAES-256-GCM", "layer1": "ML-KEM-768", "layer2": "X-Wing"},
    });
    assert_eq!(value(&projection::crypto_suite(&wrapper)), expected);
    let layers = &wrapper.slots()[2..];
    assert_eq!(value(&projection::layer_meta(&layers[0])), json!({"class": "kem-pq", "nist_level": 3}));
    assert_eq!(value(&projection::layer_meta(&layers[1])), json!({"class": "kem-hybrid", "nist_level": 3, "hybrid_with": "x25519"}));
    let aad = value(&projection::layer_aad(&wrapper, &layers[0]));
    assert_eq!(aad["key_ref"], json!(["local", "here", "acme", "layer1", "1"]));
    assert_eq!((&aad["epoch"], &aad["generation"]), (&json!(1), &json!(7)));
    assert_eq!(aad["ctx_sha256"], json!(hex::encode(fixtures::context())));
}

fn value(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

/// Of the keys and separators that jsonb prints: the fast way of comparing would only be slow, not wrong, with another form.
#[test]
fn descriptions_are_written_as_jsonb_prints_them() {
    let f = Fixture::new(Mode::Split, &[Algorithm::MlKem768], 32);
    let wrapper = parsed(&f);
    assert_eq!(
        projection::crypto_suite(&wrapper),
        r#"{"paths": [["kms1", "kms2", "layer1"]], "slots": {"kms1": "XAES-256-GCM", "kms2": "XAES-256-GCM", "layer1": "ML-KEM-768"}, "suite": "KW1-A256GCM-HS384", "format": 1, "dek_bytes": 32, "composition": "split"}"#
    );
    let layer = &wrapper.slots()[2];
    assert_eq!(projection::layer_meta(layer), r#"{"class": "kem-pq", "nist_level": 3}"#);
    let aad = projection::layer_aad(&wrapper, layer);
    assert!(aad.starts_with(r#"{"epoch": 1, "key_ref": ["local", "here", "acme", "layer1", "1"], "ek_sha256": ""#), "{aad}");
    assert!(aad.ends_with(r#"", "generation": 7}"#), "{aad}");
}

#[test]
fn a_description_agrees_with_its_value_in_any_form_and_with_no_other() {
    let computed = r#"{"class": "kem-pq", "nist_level": 3}"#;
    assert!(projection::agrees(Some(computed), computed));
    assert!(projection::agrees(Some(r#"{"nist_level":3,"class":"kem-pq"}"#), computed));
    for other in [None, Some(""), Some("null"), Some("{}"), Some(r#"{"class": "kem-pq", "nist_level": 4}"#), Some(r#"{"class": "kem-pq"}"#)]
    {
        assert!(!projection::agrees(other, computed), "{other:?}");
    }
}
