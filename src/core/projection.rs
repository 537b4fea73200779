//! What `crypto_suite`, `aad` and `meta` say about the bytes, for people and queries. Computed from the bytes, compared on opening, never read
//! for a decision: a disagreement means that a row was edited.
//!
//! Each is written as jsonb prints it (keys by length, then by bytes), so that what was stored compares as text, without being parsed.

use super::{
    slot::{Container, FORMAT, SlotNo},
    suite::{Algorithm, SUITE_1_NAME},
    wrapper::Wrapper,
};
use serde_json::Value;
use std::fmt::Write;

/// `key_wrappers.crypto_suite`.
#[must_use]
pub fn crypto_suite(wrapper: &Wrapper) -> String {
    let name = |slot: SlotNo| format!("\"{}\"", slot.name());
    let path = |slots: &[&Container]| list(slots.iter().map(|s| name(s.header.slot)));
    let paths = list(wrapper.path_slots().iter().map(|(_, slots)| format!("[{}]", path(slots))));
    let slots = list(wrapper.slots().iter().map(|s| format!("{}: \"{}\"", name(s.header.slot), s.header.algorithm.name())));
    let (mode, dek_len) = (wrapper.mode().name(), wrapper.dek_len());
    format!(
        "{{\"paths\": [{paths}], \"slots\": {{{slots}}}, \"suite\": \"{SUITE_1_NAME}\", \"format\": {FORMAT}, \"dek_bytes\": {dek_len}, \"composition\": \"{mode}\"}}"
    )
}

/// `key_wrapper_layers.aad`: what the layer's AAD holds beyond uuid, slot and algorithm.
#[must_use]
pub fn layer_aad(wrapper: &Wrapper, layer: &Container) -> String {
    let (r, h) = (&layer.header.key_ref, &layer.header);
    let key_ref = [&r.kind, &r.location, &r.project_tenant, &r.external_key_ref, &r.key_version];
    let key_ref = list(key_ref.into_iter().map(|field| Value::from(field.as_str()).to_string()));
    let ek = h.ek_sha256.map_or_else(|| "null".to_owned(), |hash| format!("\"{}\"", hex::encode(hash)));
    let ctx = hex::encode(wrapper.ctx_sha256());
    format!(
        "{{\"epoch\": {}, \"key_ref\": [{key_ref}], \"ek_sha256\": {ek}, \"ctx_sha256\": \"{ctx}\", \"generation\": {}}}",
        wrapper.epoch(),
        h.generation
    )
}

/// `key_wrapper_layers.meta`.
#[must_use]
pub fn layer_meta(layer: &Container) -> String {
    let algorithm = layer.header.algorithm;
    let level = algorithm.nist_level().map_or_else(|| "null".to_owned(), |level| level.to_string());
    let hybrid = if algorithm == Algorithm::XWing { ", \"hybrid_with\": \"x25519\"" } else { "" };
    format!("{{\"class\": \"{}\", \"nist_level\": {level}{hybrid}}}", algorithm.class().name())
}

/// Whether stored JSON says what was computed. Another server may print the same value in another form, so texts that differ are parsed.
#[must_use]
pub fn agrees(stored: Option<&str>, computed: &str) -> bool {
    let value = |text: &str| serde_json::from_str::<Value>(text).ok();
    stored.is_some_and(|stored| stored == computed || value(stored).is_some_and(|v| Some(v) == value(computed)))
}

fn list(items: impl Iterator<Item = String>) -> String {
    items
        .reduce(|mut all, item| {
            // Writing to a string does not fail.
            let _ = write!(all, ", {item}");
            all
        })
        .unwrap_or_default()
}
