//! What `crypto_suite`, `aad` and `meta` say about the bytes, for people and queries. Computed from the bytes, compared on opening, never read
//! for a decision: a disagreement means that a row was edited.
//!
//! Each is written as jsonb prints it (keys by length, then by bytes), so that what was stored compares as text, without being parsed.

use super::{
    slot::{Container, FORMAT},
    suite::{Algorithm, SUITE_1_NAME},
    wrapper::Wrapper,
};
use serde_json::Value;
use std::fmt::Write;

/// `key_wrappers.crypto_suite`.
#[must_use]
pub fn crypto_suite(wrapper: &Wrapper) -> String {
    let mut text = String::with_capacity(320);
    text.push_str("{\"paths\": [");
    for (i, (_, slots)) in wrapper.path_slots().into_iter().enumerate() {
        text.push_str(if i == 0 { "[" } else { ", [" });
        for (j, slot) in slots.into_iter().enumerate() {
            text.push_str(if j == 0 { "\"" } else { ", \"" });
            text.push_str(&slot.header.slot.name());
            text.push('"');
        }
        text.push(']');
    }
    text.push_str("], \"slots\": {");
    for (i, slot) in wrapper.slots().iter().enumerate() {
        text.push_str(if i == 0 { "\"" } else { ", \"" });
        text.push_str(&slot.header.slot.name());
        text.push_str("\": \"");
        text.push_str(slot.header.algorithm.name());
        text.push('"');
    }
    let (mode, dek_len) = (wrapper.mode().name(), wrapper.dek_len());
    // Writing to a string does not fail.
    let _ =
        write!(text, "}}, \"suite\": \"{SUITE_1_NAME}\", \"format\": {FORMAT}, \"dek_bytes\": {dek_len}, \"composition\": \"{mode}\"}}");
    text
}

/// `key_wrapper_layers.aad`: what the layer's AAD holds beyond uuid, slot and algorithm.
#[must_use]
pub fn layer_aad(wrapper: &Wrapper, layer: &Container) -> String {
    let (r, h) = (&layer.header.key_ref, &layer.header);
    let mut text = String::with_capacity(384);
    let _ = write!(text, "{{\"epoch\": {}, \"key_ref\": [", wrapper.epoch());
    for (i, field) in [&r.kind, &r.location, &r.project_tenant, &r.external_key_ref, &r.key_version].into_iter().enumerate() {
        let _ = write!(text, "{}{}", if i == 0 { "" } else { ", " }, Value::from(field.as_str()));
    }
    let quote = if h.ek_sha256.is_some() { "\"" } else { "" };
    let ek = h.ek_sha256.map_or_else(|| "null".to_owned(), hex::encode);
    let ctx = hex::encode(wrapper.ctx_sha256());
    let _ = write!(text, "], \"ek_sha256\": {quote}{ek}{quote}, \"ctx_sha256\": \"{ctx}\", \"generation\": {}}}", h.generation);
    text
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
