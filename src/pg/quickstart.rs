//! kw_quickstart: everything that a first wrapper needs, on one host, in one call that can be repeated.

use super::{
    catalog::{
        policy,
        setup::{self as rows, NewPolicy},
        watch,
    },
    report::Failure,
    setup,
};
use serde_json::json;

/// Root key and provider of each side, its keys, and their slots.
const SIDES: [(&str, &str, &str, &str); 2] =
    [("quickstart-a", "local-a", "local-a-kek-1", "kms1"), ("quickstart-b", "local-b", "local-b-kek-1", "kms2")];
const LAYER_KEY: (&str, &str, &str) = ("local-a", "local-a-mlkem-1", "ML-KEM-768");
const POLICY: &str = "default";

/// Makes what is missing and says what it made.
pub(crate) fn run() -> Result<Vec<(String, String)>, Failure> {
    let mut lines: Vec<(String, String)> = Vec::new();
    let mut line = |step: &str, result: String| lines.push((step.to_owned(), result));
    if watch::policy_names()?.iter().any(|name| name == POLICY) {
        line("policy", format!("\"{POLICY}\" exists already: nothing to do"));
        return Ok(lines);
    }
    let providers: Vec<String> = watch::providers()?.into_iter().map(|p| p.name).collect();
    let mut policy_keys = Vec::new();
    for (root, provider, key_id, slot) in SIDES {
        if providers.iter().any(|name| name == provider) {
            return Err(Failure::state(
                format!("key provider \"{provider}\" exists, but policy \"{POLICY}\" does not"),
                "kw_quickstart starts from nothing; complete the set-up with kms_wrap.kw_create_policy and kms_wrap.kw_policy_add_key.",
            ));
        }
        let fingerprint = root_key(root)?;
        line("root key", format!("\"{root}\", fingerprint {fingerprint}"));
        setup::add_local_provider(provider, &json!({ "root_key": root }), None, None, None)?;
        line("provider", format!("\"{provider}\" over root key \"{root}\""));
        let key = setup::create_local_key(provider, key_id, "XAES-256-GCM")?;
        line("key", format!("{key} \"{key_id}\" at \"{provider}\": XAES-256-GCM, slot {slot}"));
        policy_keys.push((key, slot));
    }
    let (provider, key_id, algorithm) = LAYER_KEY;
    let key = setup::create_local_key(provider, key_id, algorithm)?;
    line("key", format!("{key} \"{key_id}\" at \"{provider}\": {algorithm}, slot layer"));
    policy_keys.push((key, "layer"));
    let new = NewPolicy {
        name: POLICY,
        composition: "split",
        min_layers: 1,
        max_layers: 1,
        layer_selection: "defined",
        mode: "multi-kms",
        min_nist_level: Some(3),
        require_origin: true,
        allow_same_trust_domain: false,
        notes: Some("Made by kw_quickstart."),
    };
    rows::insert_policy(new)?.ok_or_else(|| Failure::duplicate("policy", POLICY))?;
    let policy = policy::by_name(POLICY)?;
    for (key, slot) in policy_keys {
        rows::add_policy_key(policy.id, key, slot, 0, 1)?;
    }
    line("policy", format!("\"{POLICY}\": split between both keys, with one post-quantum layer"));
    let directory = super::kms::key_directory().path.display().to_string();
    line("keep", format!("a copy of {directory} apart from the database's backups: without it nothing opens"));
    Ok(lines)
}

/// Makes a root key, or adopts one that is there and unused: files are not rolled back with a transaction.
fn root_key(name: &str) -> Result<String, Failure> {
    let directory = super::kms::key_directory();
    if directory.names().iter().any(|n| n == name) {
        let root = setup::root_ref("quickstart", name)?;
        pgrx::notice!("root key \"{name}\" (fingerprint {}) exists and no provider of this database uses it: adopted", root.fingerprint);
        return Ok(root.fingerprint.to_string());
    }
    setup::create_root_key(name).map(|fingerprint| fingerprint.to_string())
}
