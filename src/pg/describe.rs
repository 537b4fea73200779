//! kw_describe_wrapper: one wrapper on a screen, for a person.

use super::{
    catalog::{
        key::{self, Key},
        policy, wrapper,
        wrapper::{WrapperRow, WrapperStatus},
    },
    open,
    report::Failure,
};
use crate::{
    core::{
        path::Mode,
        slot::Container,
        suite::{Class, SUITE_1_NAME},
        wrapper::Wrapper,
    },
    provider::{binds_aad, local},
};
use pgrx::Uuid;
use std::collections::HashMap;

/// Lines of `item | value`.
pub(crate) fn describe(uuid: Uuid) -> Result<Vec<(String, String)>, Failure> {
    let row = wrapper::by_uuid(uuid)?;
    let keys = key::by_ids(&row.key_ids().collect::<Vec<_>>())?;
    let parsed = open::parse(&row)?;
    let mut lines = Vec::new();
    let mut line = |item: &str, value: String| lines.push((item.to_owned(), value));
    line("wrapper", format!("{} (id {})", row.label(), row.id));
    line("status", status(&row));
    line("policy", format!("\"{}\", purpose {}", row.policy_name, row.purpose));
    line("DEK", format!("{} bytes, fingerprint {}", parsed.dek_len(), hex::encode(&row.dek_fingerprint)));
    line("suite", SUITE_1_NAME.to_owned());
    line("composition", composition(&parsed).to_owned());
    for (no, slots) in parsed.path_slots() {
        let names: Vec<_> = slots.iter().map(|s| s.header.slot.name()).collect();
        line(&format!("path {no}"), names.join(" + "));
    }
    for slot in parsed.slots() {
        line(&slot.header.slot.name(), slot_text(&row, slot, &keys));
    }
    line(
        "context",
        if *parsed.ctx_sha256() == crate::core::context::Context::default().sha256() {
            "none".to_owned()
        } else {
            format!("bound, SHA-256 {}", hex::encode(parsed.ctx_sha256()))
        },
    );
    line("written", format!("epoch {}, generation {}", row.epoch, row.generation));
    line("post-quantum", post_quantum(&parsed));
    line(
        "origin",
        if parsed.has_origin(binds_aad) {
            "proved on every path: only a holder of its symmetric KMS keys can have made it".to_owned()
        } else {
            "not proved: a path has public keys only, and anyone can wrap to those".to_owned()
        },
    );
    line("trust domains", domains(&row, &keys));
    for (what, text) in losses(&row, &parsed, &keys)? {
        line(&what, text);
    }
    Ok(lines)
}

fn status(row: &WrapperRow) -> String {
    let meaning = match row.status {
        WrapperStatus::Active => "opens, serves new values",
        WrapperStatus::Rotated => "opens, superseded for new values",
        WrapperStatus::Retired => "does not open until it is set back to rotated",
        WrapperStatus::Invalid => "never opens again",
    };
    format!("{}: {meaning}", row.status.name())
}

fn composition(wrapper: &Wrapper) -> &'static str {
    match wrapper.mode() {
        Mode::Split => "split: every slot is needed",
        Mode::Redundant => "redundant: kms1 or kms2, and every layer, is needed",
    }
}

fn slot_text(row: &WrapperRow, slot: &Container, keys: &HashMap<i64, Key>) -> String {
    let r = &slot.header.key_ref;
    let facts = format!("{} ({})", slot.header.algorithm.name(), slot.header.algorithm.class().name());
    let ek = slot.header.ek_sha256.map(|h| format!(", public key {}", &hex::encode(h)[..16])).unwrap_or_default();
    let binds = if binds_aad(r) && slot.header.algorithm.class() == Class::KmsSym { ", binds the wrapper's context" } else { "" };
    let version = if r.key_version.is_empty() { String::new() } else { format!(", key version {}", r.key_version) };
    match open::slot_key(row, slot, keys) {
        Ok(key) => format!(
            "{} key {} at \"{}\": {facts}{ek}{version}{}{binds}, {}, written as generation {}",
            r.kind,
            key.label().split(' ').next().map_or_else(String::new, |id| format!("{id} \"{}\"", r.external_key_ref)),
            key.provider,
            if key.key_ref.key_version == r.key_version { String::new() } else { format!(" (new shares: {})", key.key_ref.key_version) },
            key.status.name(),
            slot.header.generation
        ),
        Err(_) => format!(
            "{} key \"{}\" at \"{}\": {facts}{ek}, NOT the key that the catalog has for this slot",
            r.kind, r.external_key_ref, r.location
        ),
    }
}

fn post_quantum(wrapper: &Wrapper) -> String {
    match wrapper.slots().iter().filter_map(|s| s.header.algorithm.nist_level()).max() {
        Some(level) => format!("yes: every path has a KEM layer, the strongest of NIST category {level}"),
        None => "no: no layer".to_owned(),
    }
}

fn domains(row: &WrapperRow, keys: &HashMap<i64, Key>) -> String {
    let (Some(kms1), Some(kms2)) = (keys.get(&row.kms1), keys.get(&row.kms2)) else { return "unknown: a key's row is missing".to_owned() };
    let count = if kms1.trust_domain == kms2.trust_domain { "one" } else { "two" };
    let host = if [kms1, kms2].iter().all(|k| k.key_ref.kind == local::KIND) {
        "; both keys are sealed under root key files of this one host: whoever controls the host holds both"
    } else {
        ""
    };
    format!("{count}: \"{}\" and \"{}\"{host}", kms1.trust_domain, kms2.trust_domain)
}

/// What it would mean to lose a key, and to have one stolen.
fn losses(row: &WrapperRow, wrapper: &Wrapper, keys: &HashMap<i64, Key>) -> Result<Vec<(String, String)>, Failure> {
    let layers = wrapper.slots().len() > 2;
    let (lost_kms, stolen_kms) = match wrapper.mode() {
        Mode::Split => ("the DEK is lost with it", "nothing opens: the other KMS key is still needed"),
        Mode::Redundant => (
            "nothing is lost: the other path opens",
            if layers { "nothing opens without the layer keys too" } else { "the DEK opens: rotate it" },
        ),
    };
    let mut texts =
        vec![("if one KMS key is lost".to_owned(), lost_kms.to_owned()), ("if one KMS key is stolen".to_owned(), stolen_kms.to_owned())];
    if layers {
        texts.push(("if a layer key is lost".to_owned(), "the DEK is lost with it: every path needs every layer".to_owned()));
        texts.push((
            "if a layer key is stolen".to_owned(),
            "nothing opens: KMS keys are still needed, but the post-quantum protection of that layer is gone".to_owned(),
        ));
    }
    let policy = policy::by_ids(&[row.policy_id])?;
    let below = policy.get(&row.policy_id).and_then(|p| p.min_nist_level).is_some_and(|level| !wrapper.is_post_quantum(level));
    if below {
        texts.push(("policy".to_owned(), "the wrapper is below the policy's min_nist_level of today".to_owned()));
    }
    if keys.values().any(|k| k.status == key::KeyStatus::Compromised) {
        texts.push((
            "action".to_owned(),
            "a key is compromised: rewrap, destroy the key, and rotate the DEK where old rows may be held".to_owned(),
        ));
    }
    Ok(texts)
}
