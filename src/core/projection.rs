//! What `crypto_suite`, `aad` and `meta` say about the bytes, for people and queries. Computed from the bytes, compared on opening, never read
//! for a decision: a disagreement means that a row was edited.

use super::{
    slot::{Container, FORMAT},
    suite::{Algorithm, SUITE_1_NAME},
    wrapper::Wrapper,
};
use serde_json::{Value, json};

/// `key_wrappers.crypto_suite`.
#[must_use]
pub fn crypto_suite(wrapper: &Wrapper) -> Value {
    let names = |slots: &[&Container]| slots.iter().map(|s| s.header.slot.name()).collect::<Vec<_>>();
    let paths: Vec<_> = wrapper.path_slots().iter().map(|(_, slots)| names(slots)).collect();
    let slots: serde_json::Map<_, _> =
        wrapper.slots().iter().map(|s| (s.header.slot.name(), Value::from(s.header.algorithm.name()))).collect();
    json!({
        "suite": SUITE_1_NAME,
        "format": FORMAT,
        "composition": wrapper.mode().name(),
        "dek_bytes": wrapper.dek_len(),
        "paths": paths,
        "slots": slots,
    })
}

/// `key_wrapper_layers.aad`: what the layer's AAD holds beyond uuid, slot and algorithm.
#[must_use]
pub fn layer_aad(wrapper: &Wrapper, layer: &Container) -> Value {
    let r = &layer.header.key_ref;
    json!({
        "epoch": wrapper.epoch(),
        "generation": layer.header.generation,
        "ctx_sha256": hex::encode(wrapper.ctx_sha256()),
        "ek_sha256": layer.header.ek_sha256.map(hex::encode),
        "key_ref": [r.kind, r.location, r.project_tenant, r.external_key_ref, r.key_version],
    })
}

/// `key_wrapper_layers.meta`.
#[must_use]
pub fn layer_meta(layer: &Container) -> Value {
    let algorithm = layer.header.algorithm;
    let mut meta = json!({ "class": algorithm.class().name(), "nist_level": algorithm.nist_level() });
    if let (Algorithm::XWing, Some(map)) = (algorithm, meta.as_object_mut()) {
        map.insert("hybrid_with".to_owned(), Value::from("x25519"));
    }
    meta
}
