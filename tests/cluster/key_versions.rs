//! A key that is rotated at its KMS: new shares go under the version that is set, old ones open and move, and the old version is closed.

use crate::harness::wait_until;
use crate::psql::Session;
use crate::servers::Site;
use serde_json::{Value, json};
use std::time::Duration;

const WRAP: &str = "SELECT kms_wrap.kw_wrap_dek('split')";

/// Makes a new version of a transit key.
fn rotate(site: &Site, key: &str) {
    site.bao.api("POST", &format!("transit/keys/{key}/rotate"), &Value::Null);
}

fn set(version: &str) -> String {
    format!("SELECT kms_wrap.kw_set_key_version(1003, {version})")
}

/// Live wrappers under each version of the transit key: `1|400`.
fn versions(site: &Site) -> String {
    site.value("SELECT key_version, live FROM kms_wrap.vw_kms_key_versions WHERE kms_key_id = 1003 ORDER BY 1")
}

fn version_of(site: &Site, wrapper: &str) -> String {
    site.value(&format!("SELECT kms_wrap.kw_key_version_of(dek_wrap1) FROM kms_wrap.key_wrappers WHERE wrapper_uuid = '{wrapper}'"))
}

fn wrap(session: &mut Session) -> String {
    session.query(WRAP).unwrap()
}

#[test]
fn a_transit_key_is_rotated_in_place() {
    let site = Site::start(&[("kms_wrap.worker_databases", "postgres")]);
    site.value(
        "CREATE TABLE deks AS SELECT kms_wrap.kw_wrap_dek('split') AS wrapper FROM generate_series(1, 400);
         ALTER TABLE deks ADD sha256 bytea;
         UPDATE deks SET sha256 = sha256(kms_wrap.kw_unwrap(wrapper))",
    );
    let sealed = site.value("SELECT kms_wrap.kw_encrypt('x', 'split')");
    let mut session = site.cluster.session("postgres");
    let first = wrap(&mut session);
    assert_eq!(versions(&site), "1|402");

    // Nothing changes by the rotation alone.
    rotate(&site, "app");
    assert_eq!(version_of(&site, &wrap(&mut session)), "1");

    assert_eq!(site.value(&format!("BEGIN; {}; ROLLBACK", set("NULL"))), "2");
    assert_eq!(version_of(&site, &wrap(&mut session)), "1");
    assert_eq!(site.value(&set("NULL")), "2");
    // The session goes under it at its next statement, and opens both.
    let second = wrap(&mut session);
    assert_eq!(version_of(&site, &second), "2");
    for wrapper in [&first, &second] {
        assert_eq!(session.query(&format!("SELECT length(kms_wrap.kw_unwrap('{wrapper}'))")).unwrap(), "32");
    }
    assert_eq!(versions(&site), "1|404\n2|1");
    let described = |wrapper: &str| site.value(&format!("SELECT value FROM kms_wrap.kw_describe_wrapper('{wrapper}') WHERE item = 'kms1'"));
    assert!(described(&first).contains("key version 1 (new shares: 2)"), "{}", described(&first));
    assert!(described(&second).contains("key version 2, binds"), "{}", described(&second));

    // One by itself. A second time there is nothing to do.
    let rewrap = format!("SELECT kms_wrap.kw_rewrap('{first}', target_kms1 => 1003)");
    let generation = site.value(&rewrap);
    assert_eq!(version_of(&site, &first), "2");
    assert_eq!(site.value(&rewrap), generation);

    // All, while a session opens and another makes new ones.
    let mut reader = site.cluster.session("postgres");
    reader.send(
        "DO $$ BEGIN FOR i IN 1..20 LOOP
             IF (SELECT count(*) FROM deks WHERE sha256(kms_wrap.kw_unwrap(wrapper)) = sha256) <> 400 THEN RAISE EXCEPTION 'one is missing'; END IF;
             COMMIT;
         END LOOP; END $$",
    );
    let schedule = "SELECT kms_wrap.kw_schedule_rewrap(from_key => 1003, target_kms1 => 1003)";
    let campaign = site.value(schedule);
    wrap(&mut session);
    let progress = |campaign: &str| {
        let sql = "SELECT status, total, already_current, done, failed FROM kms_wrap.kw_rewrap_progress WHERE campaign_id = ";
        site.value(&format!("{sql}{campaign}"))
    };
    wait_until("the campaign ends", || progress(&campaign).starts_with("done|"));
    assert_eq!(progress(&campaign), "done|403|2|403|0");
    reader.finish().unwrap();
    assert_eq!(versions(&site), "2|406");
    let again = site.value(schedule);
    wait_until("the campaign ends", || progress(&again).starts_with("done|"));
    assert_eq!(progress(&again), "done|0|406|0|0");

    // The old version is not needed any more.
    site.bao.api("POST", "transit/keys/app/config", &json!({"min_decryption_version": 2, "min_encryption_version": 2}));
    assert_eq!(site.value("SELECT count(*) FROM deks WHERE sha256(kms_wrap.kw_unwrap(wrapper)) = sha256"), "400");
    assert_eq!(site.value("SELECT count(*) FILTER (WHERE ok), count(*) FILTER (WHERE NOT ok) FROM kms_wrap.kw_verify()"), "406|0");
    assert_eq!(site.value(&format!("SELECT convert_from(kms_wrap.kw_decrypt('{sealed}'), 'UTF8')")), "x");
    let refused = site.cluster.psql(&set("'1'")).unwrap_err();
    assert_eq!(refused.sqlstate, "38000");
    assert!(refused.detail.contains("allows no version below 2"), "{}", refused.detail);
}

#[test]
fn versions_that_cannot_be_set() {
    let site = Site::start(&[]);
    site.value(WRAP);
    for version in ["9", "01", "x", "-1", "4294967297"] {
        let refused = site.cluster.psql(&set(&format!("'{version}'"))).unwrap_err();
        assert_eq!(refused.sqlstate, "42704", "{version}");
        assert_eq!(refused.message, format!("version of KMS key 1003 (\"app\" at \"bao\") \"{version}\" does not exist"));
        assert!(refused.detail.contains("its latest is 1"), "{}", refused.detail);
    }
    assert_eq!(site.sqlstate(&set("''")), "22023");
    assert_eq!(site.value(&set("'1'")), "1", "it has that");
    assert_eq!(site.value(&set("NULL")), "1");
    // A kind without versions.
    assert_eq!(site.sqlstate("SELECT kms_wrap.kw_set_key_version(1004)"), "55000");

    // A token that may not wrap under it: what cannot be used is not set.
    rotate(&site, "app");
    let token = |encrypt: &str| {
        let rules = [("encrypt", encrypt), ("decrypt", "update"), ("keys", "read")];
        let rules = rules.map(|(path, capability)| format!("path \"transit/{path}/app\" {{ capabilities = [\"{capability}\"] }}"));
        site.credential("token", site.bao.token(&rules.join(" "), "1h").as_bytes());
    };
    token("deny");
    assert_eq!(site.sqlstate(&set("'2'")), "38000");
    token("update");
    assert_eq!(site.value("SELECT key_version FROM kms_wrap.kms_keys WHERE id = 1003"), "1");
    assert_eq!(site.value(&set("'2'")), "2");
    assert_eq!(site.value(&set("'1'")), "1", "and back");
    // A key that wraps nothing is not asked for.
    site.value("SELECT kms_wrap.kw_set_key_status(1003, 'disabled')");
    assert_eq!(site.sqlstate(&set("'2'")), "55000");
    // What is gone at the KMS.
    site.value("SELECT kms_wrap.kw_set_key_status(1003, 'active')");
    site.bao.api("POST", "transit/keys/app/config", &json!({"deletion_allowed": true}));
    site.bao.api("DELETE", "transit/keys/app", &Value::Null);
    assert_eq!(site.sqlstate(&set("NULL")), "42704");
}

/// A version of an RSA key is another key: its public half stands in wrappers.
#[test]
fn an_rsa_key_keeps_its_version() {
    let site = Site::start(&[]);
    site.bao.key("rsa", "rsa-2048");
    let key = site.value("SELECT kms_wrap.kw_add_kms_key('bao', 'rsa', 'RSA-OAEP-SHA256')");
    site.value(&format!("SELECT kms_wrap.kw_policy_remove_key('split', 1003), kms_wrap.kw_policy_add_key('split', 'kms1', {key})"));
    let both = site.value("SELECT kms_wrap.kw_create_policy('both', 'redundant', min_layers => 0)");
    site.value(&format!(
        "SELECT kms_wrap.kw_policy_add_key('both', slot, kms_key_id) FROM kms_wrap.policy_kms_keys p JOIN kms_wrap.encryption_policies e
         ON e.id = p.policy_id WHERE e.policy_name = 'split' AND slot IN ('kms1', 'kms2') AND {both} > 0"
    ));
    // Everybody can wrap under a public key: alone on its path, it proves nothing about who did.
    let refused = site.cluster.psql("SELECT kms_wrap.kw_wrap_dek('both')").unwrap_err();
    assert_eq!((refused.sqlstate.as_str(), refused.message.as_str()), ("22023", "policy \"both\" requires proof of origin"));
    site.value("UPDATE kms_wrap.encryption_policies SET require_origin = false WHERE policy_name = 'both'");
    let unproved = site.value("SELECT kms_wrap.kw_wrap_dek('both')");
    let unwrap = format!("SELECT length(kms_wrap.kw_unwrap('{unproved}'))");
    assert_eq!(site.value(&unwrap), "32");
    site.cluster.set(&[("kms_wrap.require_origin", "on")]);
    site.cluster.reload();
    site.cluster.wait_for("SHOW kms_wrap.require_origin", "on");
    assert_eq!(site.sqlstate(&unwrap), "55000");
    site.cluster.set(&[("kms_wrap.require_origin", "off")]);
    site.cluster.reload();
    site.cluster.wait_for("SHOW kms_wrap.require_origin", "off");
    assert_eq!(site.value(&unwrap), "32");
    let old = site.value(WRAP);
    rotate(&site, "rsa");
    let refused = site.cluster.psql(&format!("SELECT kms_wrap.kw_set_key_version({key})")).unwrap_err();
    assert_eq!(refused.sqlstate, "55000");
    assert_eq!(refused.message, format!("version \"2\" of KMS key {key} (\"rsa\" at \"bao\") has another public key"));
    assert!(refused.hint.contains("kms_wrap.kw_add_kms_key()"), "{}", refused.hint);
    assert_eq!(site.sqlstate(&format!("UPDATE kms_wrap.kms_keys SET key_version = '2' WHERE id = {key}")), "55000");
    // The one that is registered serves on.
    for wrapper in [old, site.value(WRAP)] {
        assert_eq!(site.value(&format!("SELECT length(kms_wrap.kw_unwrap('{wrapper}'))")), "32");
        assert_eq!(version_of(&site, &wrapper), "1");
    }
}

/// A wrapper on its way to the KMS when another version is set is not stored under the old one, nor is a wrapper missed that is not committed.
#[test]
fn no_wrapper_slips_in_under_the_old_version() {
    let site = Site::start(&[("kms_wrap.kms_timeout", "20s")]);
    let mut writer = site.cluster.session("postgres");
    wrap(&mut writer);
    rotate(&site, "app");
    // Asked under version 1, answered when version 2 is set.
    site.bao.signal("STOP");
    writer.send(WRAP);
    std::thread::sleep(Duration::from_millis(300));
    site.value("UPDATE kms_wrap.kms_keys SET key_version = '2' WHERE id = 1003");
    site.bao.signal("CONT");
    assert_eq!(version_of(&site, &writer.finish().unwrap()), "2");
    assert_eq!(site.value(&set("'1'")), "1");

    // Written and not committed: the change waits for it.
    writer.query("BEGIN").unwrap();
    wrap(&mut writer);
    let mut setter = site.cluster.session("postgres");
    setter.send(&set("'2'"));
    assert!(setter.is_waiting_after(&site.cluster, Duration::from_millis(700)));
    // Nobody waits for the change, but who sets the key's version or status.
    assert_eq!(site.sqlstate(&format!("SET lock_timeout = '1s'; {WRAP}")), "");
    writer.query("COMMIT").unwrap();
    assert_eq!(setter.finish().unwrap(), "2");
    assert_eq!(versions(&site), "1|3\n2|1");

    // No row is locked while the KMS is asked.
    site.bao.signal("STOP");
    setter.send(&set("NULL"));
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(site.sqlstate("SET lock_timeout = '1s'; UPDATE kms_wrap.kms_keys SET purpose = 'both' WHERE id = 1003"), "");
    site.bao.signal("CONT");
    assert_eq!(setter.finish().unwrap(), "2");
}
