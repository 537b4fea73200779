//! What becomes known of remote providers and their keys, and what follows: probes, suspensions, other keys, alarms.

use crate::harness::wait_until;
use crate::leaks::files_with;
use crate::servers::Site;
use serde_json::json;
use std::time::{Duration, Instant};

const WORKER: [(&str, &str); 3] =
    [("kms_wrap.worker_databases", "postgres"), ("kms_wrap.health_interval", "2"), ("kms_wrap.kms_timeout", "1s")];

/// kms1's key of a new wrapper of policy `split`.
fn picked(site: &Site) -> Result<String, String> {
    let made = site.cluster.psql(
        "SELECT kms_wrap.kw_wrap_dek('split') AS made \\gset
         SELECT kms1_key_id FROM kms_wrap.key_wrappers WHERE wrapper_uuid = :'made'",
    );
    made.map_err(|error| error.sqlstate)
}

/// Color and detail of a provider's row in kw_health.
fn health(site: &Site, component: &str, name: &str) -> String {
    site.value(&format!("SELECT status || ': ' || detail FROM kms_wrap.kw_health() WHERE component = '{component}' AND name = '{name}'"))
}

fn unwrap(wrapper: &str) -> String {
    format!("SELECT length(kms_wrap.kw_unwrap('{wrapper}'))")
}

/// Another key of slot kms1 at another provider, after that of OpenBao.
fn with_spare(site: &Site) -> String {
    site.value("SELECT kms_wrap.kw_policy_add_key('split', 'kms1', 1000, -1)");
    "1000".to_owned()
}

#[test]
fn the_worker_suspends_a_provider_that_hangs_and_resumes_it() {
    let site = Site::start(&WORKER);
    let spare = with_spare(&site);
    wait_until("it was probed", || health(&site, "provider", "bao").starts_with("green"));
    assert_eq!(picked(&site).unwrap(), "1003");
    site.bao.signal("STOP");
    wait_until("it is suspended", || {
        site.value("SELECT suspend_reason FROM kms_wrap.kms_providers WHERE name = 'bao'").starts_with("health:")
    });
    assert_eq!(picked(&site).unwrap(), spare);
    let red = health(&site, "provider", "bao");
    assert!(red.starts_with("red: down at ") && red.contains("suspended"), "{red}");
    // What it took before is seen all the same.
    assert!(red.contains(" calls of "), "{red}");
    site.bao.signal("CONT");
    wait_until("it is green again", || health(&site, "provider", "bao").starts_with("green"));
    wait_until("it is resumed", || site.value("SELECT suspended_until IS NULL FROM kms_wrap.kms_providers WHERE name = 'bao'") == "t");
    assert_eq!(picked(&site).unwrap(), "1003");
}

/// The provider answers, and one of its keys is gone: policies pick others, where they have any.
#[test]
fn a_key_that_is_down_is_passed_over() {
    let site = Site::start(&WORKER);
    let spare = with_spare(&site);
    let mut session = site.cluster.session("postgres");
    session.query("SELECT kms_wrap.kw_wrap_dek('split')").unwrap();
    site.bao.api("POST", "transit/keys/app/config", &json!({"deletion_allowed": true}));
    site.bao.api("DELETE", "transit/keys/app", &serde_json::Value::Null);
    let found = "SELECT status, error FROM kms_wrap.vw_kms_health_latest WHERE kms_key_id = 1003";
    wait_until("a probe finds it", || site.value(found).starts_with("down|not_found: "));
    assert_eq!(picked(&site).unwrap(), spare);
    // In a session that has used it, too; and as long as it is down.
    for _ in 0..8 {
        assert_eq!(session.query("SELECT length(kms_wrap.kw_wrap_dek('split')::text)").unwrap(), "36");
        std::thread::sleep(Duration::from_secs(1));
    }
    assert_eq!(site.value("SELECT is_enabled, suspended_until IS NULL FROM kms_wrap.kms_providers WHERE name = 'bao'"), "t|t");
    // Without another one it is asked, and says why not.
    site.value(&format!("SELECT kms_wrap.kw_policy_remove_key('split', {spare})"));
    assert_eq!(picked(&site).unwrap_err(), "38000");
    site.bao.key("app", "aes256-gcm96");
    wait_until("a probe finds the new one", || site.value(found).starts_with("up|"));
    assert_eq!(picked(&site).unwrap(), "1003");
}

/// Without a worker, by probes that come later than they count for: each time, in a session that has had the time to forget.
#[test]
fn a_key_that_stays_down_is_told_of_again() {
    let site = Site::start(&[("kms_wrap.health_interval", "1")]);
    with_spare(&site);
    site.bao.api("POST", "transit/keys/app/config", &json!({"deletion_allowed": true}));
    site.bao.api("DELETE", "transit/keys/app", &serde_json::Value::Null);
    let mut session = site.cluster.session("postgres");
    let wrap = "SELECT length(kms_wrap.kw_wrap_dek('split')::text)";
    for _ in 0..2 {
        assert_eq!(session.query(wrap).unwrap_err().sqlstate, "38000", "nobody knows of it");
        let start = Instant::now();
        assert_eq!(site.value("SELECT status FROM kms_wrap.kw_check_health('bao') WHERE kms_key_id = 1003"), "down");
        let wrapped = session.query(wrap);
        // A machine that was too busy to ask in time proves nothing.
        if start.elapsed() < Duration::from_secs(3) {
            assert_eq!(wrapped.unwrap(), "36");
        }
        std::thread::sleep(Duration::from_secs(4));
    }
}

#[test]
fn tokens_that_may_do_one_thing_only_are_probed_for_it() {
    let site = Site::start(&[]);
    let rule = |operation: &str| format!("path \"transit/{operation}/*\" {{ capabilities = [\"update\"] }} ");
    let probe = "SELECT status, error FROM kms_wrap.kw_check_health('bao') WHERE kms_key_id = 1003";
    site.credential("token", site.bao.token(&rule("decrypt"), "1h").as_bytes());
    let untried = site.value(probe);
    assert!(
        untried.starts_with("degraded|denied: ") && untried.ends_with("Unwrapping was not tried, for there was nothing to unwrap."),
        "{untried}"
    );
    site.credential("token", site.bao.token(&(rule("encrypt") + &rule("decrypt")), "1h").as_bytes());
    assert_eq!(site.value(probe), "up|");
    picked(&site).unwrap();
    // In a session of its own each time, so nothing is remembered: a stored share is what is opened.
    site.credential("token", site.bao.token(&rule("decrypt"), "1h").as_bytes());
    let unwraps = site.value(probe);
    assert!(unwraps.starts_with("degraded|denied: ") && unwraps.ends_with("It unwraps."), "{unwraps}");
    site.credential("token", site.bao.token(&rule("encrypt"), "1h").as_bytes());
    let wraps = site.value(probe);
    assert!(wraps.starts_with("degraded|denied: ") && wraps.ends_with("It wraps."), "{wraps}");
    site.credential("token", site.bao.token(&rule("sign"), "1h").as_bytes());
    let neither = site.value(probe);
    assert!(neither.starts_with("down|denied: "), "{neither}");
}

/// Bytes that do not verify, whatever gave them away: the key, or what the wrapper commits to.
#[test]
fn what_does_not_verify_is_counted_logged_and_shown() {
    let site = Site::start(&[]);
    site.bao.key("rsa", "rsa-2048");
    site.value(
        "SELECT kms_wrap.kw_add_kms_key('bao', 'rsa', 'RSA-OAEP-SHA256') AS rsa \\gset
         SELECT kms_wrap.kw_create_policy('rsa', 'split');
         SELECT kms_wrap.kw_policy_add_key('rsa', s, k) FROM (VALUES ('kms1', :rsa), ('kms2', 1004), ('layer', 1002)) v (s, k)",
    );
    let make = |policy: &str| site.value(&format!("SELECT kms_wrap.kw_wrap_dek('{policy}')"));
    let rejected = |provider: &str| health(&site, "rejected shares", provider);
    assert_eq!((rejected("bao"), rejected("local-a")), (String::new(), String::new()));

    // RSA binds nothing: another wrapper's blob opens, to another share.
    let (one, other) = (make("rsa"), make("rsa"));
    let blob = |wrapper: &str| {
        format!(
            "(SELECT substring(dek_wrap1 FROM position('vault:v1:'::bytea IN dek_wrap1) FOR 353) FROM kms_wrap.key_wrappers WHERE wrapper_uuid = '{wrapper}')"
        )
    };
    let swap = format!(
        "UPDATE kms_wrap.key_wrappers SET dek_wrap1 = decode(replace(encode(dek_wrap1, 'hex'), encode({}, 'hex'), encode({}, 'hex')), 'hex')
         WHERE wrapper_uuid = '{one}' AND dek_wrap1 <> decode(replace(encode(dek_wrap1, 'hex'), encode({}, 'hex'), encode({}, 'hex')), 'hex') RETURNING 1",
        blob(&one),
        blob(&other),
        blob(&one),
        blob(&other)
    );
    assert_eq!(site.value(&swap), "1");
    // Nothing of why, whatever the client wants to hear.
    let told = site.cluster.psql_says(&format!("SET client_min_messages = log; {}", unwrap(&one)));
    assert!(told.contains("39000") && !told.contains("did not verify") && !told.contains("rsa"), "{told}");
    assert_eq!(site.value(&unwrap(&other)), "32");
    assert!(rejected("bao").starts_with("red: wrapped shares did not verify once "), "{}", rejected("bao"));
    assert!(site.cluster.log().contains("(\"rsa\" at \"bao\") did not verify"), "no alarm in the log");

    // A local key, and a byte of its blob, which stands at the end of its container.
    let local = make("default");
    let flip = format!(
        "UPDATE kms_wrap.key_wrappers SET dek_wrap2 = set_byte(dek_wrap2, length(dek_wrap2) - 1, get_byte(dek_wrap2, length(dek_wrap2) - 1) # 1)
         WHERE wrapper_uuid = '{local}' RETURNING 1"
    );
    assert_eq!(site.value(&flip), "1");
    assert_eq!(site.sqlstate(&unwrap(&local)), "39000");
    assert!(rejected("local-b").starts_with("red: wrapped shares did not verify once "), "{}", rejected("local-b"));
    assert_eq!(rejected("local-a"), "");
    // A rewrap looks too.
    site.value(
        "SELECT kms_wrap.kw_create_local_key('local-b', 'next', 'XAES-256-GCM') AS next \\gset
         SELECT kms_wrap.kw_policy_add_key('default', 'kms2', :next)",
    );
    let rewrap =
        format!("SELECT kms_wrap.kw_rewrap('{local}', target_kms2 => (SELECT id FROM kms_wrap.kms_keys WHERE external_key_ref = 'next'))");
    assert_eq!(site.sqlstate(&rewrap), "39000");
    assert!(rejected("local-b").starts_with("red: wrapped shares did not verify 2 times "), "{}", rejected("local-b"));
}

#[test]
fn what_a_provider_wants_less_of_is_throttled_and_not_refused() {
    let site = Site::start(&[("kms_wrap.kms_timeout", "2s")]);
    let made: Vec<String> =
        ["split", "redundant"].iter().map(|policy| site.value(&format!("SELECT kms_wrap.kw_wrap_dek('{policy}')"))).collect();
    site.bao.api("PUT", "sys/quotas/rate-limit/all", &json!({"rate": 1, "interval": "1h", "path": "transit/"}));
    wait_until("the quota is used up", || site.sqlstate(&unwrap(&made[0])) == "58000");
    // The breaker leaves it alone for a second at a time.
    wait_until("it is asked again", || {
        let error = site.cluster.psql(&unwrap(&made[0])).unwrap_err();
        assert_eq!(error.sqlstate, "58000");
        error.detail.contains("too many requests")
    });
    assert_eq!(site.value(&unwrap(&made[1])), "32", "by its other path");
    site.bao.api("DELETE", "sys/quotas/rate-limit/all", &serde_json::Value::Null);
    wait_until("it is asked again", || site.sqlstate(&unwrap(&made[0])).is_empty());
}

#[test]
fn keys_that_a_setting_does_not_name_are_neither_registered_nor_asked() {
    let site = Site::start(&[]);
    let split = site.value("SELECT kms_wrap.kw_wrap_dek('split')");
    site.bao.key("other", "aes256-gcm96");
    site.cluster.set(&[("kms_wrap.allowed_keys", "oth*")]);
    site.cluster.reload();
    wait_until("the setting arrives", || site.value("SHOW kms_wrap.allowed_keys") == "oth*");
    let refused = site.cluster.psql(&unwrap(&split)).unwrap_err();
    assert_eq!((refused.sqlstate.as_str(), refused.detail.contains("does not allow key \"app\"")), ("38000", true), "{}", refused.detail);
    assert_eq!(site.value("SELECT kms_wrap.kw_add_kms_key('bao', 'other', 'AES-256-GCM')"), "1005");
    site.bao.key("third", "aes256-gcm96");
    assert_eq!(site.sqlstate("SELECT kms_wrap.kw_add_kms_key('bao', 'third', 'AES-256-GCM')"), "22023");
}

#[test]
fn a_suspension_ends_by_the_clock() {
    let site = Site::start(&[]);
    let mut session = site.cluster.session("postgres");
    let wrap = "SELECT length(kms_wrap.kw_wrap_dek('split')::text)";
    session.query(wrap).unwrap();
    let start = Instant::now();
    session.query("SELECT kms_wrap.kw_suspend_provider('bao', 'moving house', '3 seconds')").unwrap();
    let refused = session.query(wrap);
    // A machine that was too busy to ask in time proves nothing.
    if start.elapsed() < Duration::from_secs(3) {
        assert_eq!(refused.unwrap_err().sqlstate, "55000");
    }
    std::thread::sleep(Duration::from_millis(3500));
    assert_eq!(session.query(wrap).unwrap(), "36", "nobody has told");
}

/// What opens the KMS is in no message, log, table or WAL.
#[test]
fn a_token_is_nowhere_but_in_its_file() {
    let site = Site::start(&WORKER);
    let token = site.bao.token("path \"transit/decrypt/*\" { capabilities = [\"update\"] }", "1h");
    let wrapper = site.value("SELECT kms_wrap.kw_wrap_dek('split')");
    site.credential("token", format!("{token}\n").as_bytes());
    assert_eq!(picked(&site).unwrap_err(), "38000", "it may not encrypt");
    site.value("SELECT count(*) FROM kms_wrap.kw_check_health()");
    site.credential("token", format!("{token}\n{token}\n").as_bytes());
    assert_eq!(site.sqlstate(&unwrap(&wrapper)), "38000");
    site.value("SELECT count(*) FROM kms_wrap.kw_check_health(); CHECKPOINT");
    std::fs::remove_file(site.cluster.path("credentials/token")).unwrap();
    let found = files_with(&site.cluster, token.as_bytes());
    assert!(found.is_empty(), "{found:?}");
    assert!(!files_with(&site.cluster, b"token_file").is_empty(), "the search finds what is there");
}
