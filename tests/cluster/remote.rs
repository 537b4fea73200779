//! Wrappers under keys of two real KMS: opened, refused and opened by the other path when one is away, and moved there and back.

use crate::harness::wait_until;
use crate::servers::Site;
use serde_json::json;
use std::time::{Duration, Instant};

/// A wrapper of a policy, made in a session of its own.
fn wrapper(site: &Site, policy: &str) -> String {
    site.value(&format!("SELECT kms_wrap.kw_wrap_dek('{policy}')"))
}

fn unwrap(wrapper: &str) -> String {
    format!("SELECT length(kms_wrap.kw_unwrap('{wrapper}'))")
}

#[test]
fn split_needs_both_and_redundant_either() {
    let site = Site::start(&[("kms_wrap.kms_timeout", "2s")]);
    let (split, redundant) = (wrapper(&site, "split"), wrapper(&site, "redundant"));
    assert_eq!(site.value(&unwrap(&split)), "32");
    let described = site.value(&format!("SELECT string_agg(detail, ' ') FROM kms_wrap.kw_describe_wrapper('{split}') d (topic, detail)"));
    assert!(described.contains("openbao") && described.contains("pkcs11"), "{described}");

    site.bao.signal("STOP");
    let start = Instant::now();
    let error = site.cluster.psql(&unwrap(&split)).unwrap_err();
    assert_eq!((error.sqlstate.as_str(), error.message.as_str()), ("58000", "could not reach key provider \"bao\""));
    assert!(start.elapsed() < Duration::from_secs(4), "one deadline, not more: {:?}", start.elapsed());
    // The breaker is open for all sessions now: nobody waits again.
    let mut session = site.cluster.session("postgres");
    session.query("SELECT 1").unwrap();
    let start = Instant::now();
    assert_eq!(session.query(&unwrap(&split)).unwrap_err().sqlstate, "58000");
    assert!(start.elapsed() < Duration::from_millis(500), "{:?}", start.elapsed());
    assert_eq!(session.query(&unwrap(&redundant)).unwrap(), "32");

    site.bao.signal("CONT");
    wait_until("the breaker tries again", || site.sqlstate(&unwrap(&split)).is_empty());

    // A seal is an outage; a policy that forbids is not, and no other path makes up for it.
    site.bao.api("PUT", "sys/seal", &json!({}));
    assert_eq!(site.sqlstate(&unwrap(&split)), "58000");
    assert_eq!(site.value(&unwrap(&redundant)), "32");
}

#[test]
fn what_does_not_verify_is_no_outage() {
    let site = Site::start(&[]);
    let (redundant, other) = (wrapper(&site, "redundant"), wrapper(&site, "redundant"));
    // Another wrapper's blob: the provider rejects it, since it is bound to another slot.
    let swap = format!(
        "UPDATE kms_wrap.key_wrappers w SET dek_wrap1 = replaced FROM (
             SELECT decode(replace(encode(w.dek_wrap1, 'hex'), encode(a, 'hex'), encode(b, 'hex')), 'hex') AS replaced
             FROM kms_wrap.key_wrappers w,
                  (SELECT substring(dek_wrap1 FROM position('vault:v1:'::bytea IN dek_wrap1) FOR 89) FROM kms_wrap.key_wrappers WHERE wrapper_uuid = '{redundant}') x (a),
                  (SELECT substring(dek_wrap1 FROM position('vault:v1:'::bytea IN dek_wrap1) FOR 89) FROM kms_wrap.key_wrappers WHERE wrapper_uuid = '{other}') y (b)
             WHERE w.wrapper_uuid = '{redundant}') s
         WHERE w.wrapper_uuid = '{redundant}' AND w.dek_wrap1 <> replaced RETURNING 1"
    );
    assert_eq!(site.value(&swap), "1");
    assert_eq!(site.sqlstate(&unwrap(&redundant)), "39000", "the other path is there, and not taken");
    assert_eq!(site.value(&unwrap(&other)), "32");
    assert!(site.cluster.log().contains("1 wrapped share under KMS key 1003 (\"app\" at \"bao\") did not verify"), "no alarm in the log");
    let alarm = "SELECT status, detail FROM kms_wrap.kw_health() WHERE component = 'rejected shares'";
    assert_eq!(site.value(alarm), "red|wrapped shares did not verify once since the server's start");
}

#[test]
fn a_waiting_call_ends_at_once_and_makes_no_thread() {
    let site = Site::start(&[("kms_wrap.kms_timeout", "60s")]);
    // By its name, which has to be resolved.
    let by_name = site.bao_config().replace("127.0.0.1", "localhost");
    site.value(&format!("SELECT kms_wrap.kw_set_provider_config('bao', '{by_name}')"));
    let split = wrapper(&site, "split");
    let threads = |pid: u32| std::fs::read_dir(format!("/proc/{pid}/task")).unwrap().count();
    for stop in ["pg_cancel_backend", "pg_terminate_backend", "timeout"] {
        let mut session = site.cluster.session("postgres");
        assert_eq!(session.query(&unwrap(&split)).unwrap(), "32");
        assert_eq!(threads(session.pid()), 1, "after a call");
        if stop == "timeout" {
            session.query("SET statement_timeout = '300ms'").unwrap();
        }
        site.bao.signal("STOP");
        let start = Instant::now();
        session.send(&unwrap(&split));
        std::thread::sleep(Duration::from_millis(250));
        assert_eq!(threads(session.pid()), 1, "during a call");
        let pid = session.pid();
        let stopped = Instant::now();
        if stop != "timeout" {
            site.value(&format!("SELECT {stop}({pid})"));
        }
        let error = session.finish().unwrap_err();
        let waited = if stop == "timeout" { start.elapsed().saturating_sub(Duration::from_millis(300)) } else { stopped.elapsed() };
        assert!(waited < Duration::from_millis(400), "{stop}: {waited:?}");
        assert_ne!(error.sqlstate, "58000", "{stop}");
        site.bao.signal("CONT");
        // The session whose call was dropped, and others, go on.
        if stop == "pg_cancel_backend" {
            assert_eq!(session.query(&unwrap(&split)).unwrap(), "32");
        }
    }
}

#[test]
fn a_changed_configuration_counts_at_commit() {
    let site = Site::start(&[("kms_wrap.kms_timeout", "1s")]);
    let split = wrapper(&site, "split");
    let mut session = site.cluster.session("postgres");
    assert_eq!(session.query(&unwrap(&split)).unwrap(), "32");
    let set = |config: &str| format!("SELECT kms_wrap.kw_set_provider_config('bao', '{config}')");
    let wrong = site.bao_config().replace(&site.bao.port.to_string(), "1");
    site.value(&format!("BEGIN; {}; ROLLBACK", set(&wrong)));
    assert_eq!(session.query(&unwrap(&split)).unwrap(), "32");
    site.value(&set(&wrong));
    let error = session.query(&unwrap(&split)).unwrap_err();
    assert_eq!((error.sqlstate.as_str(), error.detail.contains(" attempts in ")), ("58000", true), "{}", error.detail);
    // At once, in a session that was there and in a new one: what is known of the wrong endpoint says nothing of the right one.
    site.value(&set(&site.bao_config()));
    assert_eq!(session.query(&unwrap(&split)).unwrap(), "32");
    // Also in one that has slept through the wrong one.
    site.value(&set(&wrong));
    assert_eq!(site.sqlstate(&unwrap(&split)), "58000");
    site.value(&set(&site.bao_config()));
    assert_eq!(session.query(&unwrap(&split)).unwrap(), "32");
    assert_eq!(site.value(&unwrap(&split)), "32");
    // What settings allow counts for what is there already.
    site.cluster.set(&[("kms_wrap.allowed_endpoints", "https://kms.example:*")]);
    site.cluster.reload();
    wait_until("the setting arrives", || site.sqlstate(&unwrap(&split)) == "38000");
}

/// A held DEK and its provider gone: what each policy says.
#[test]
fn an_outage_policy_decides_about_held_deks() {
    let site = Site::start(&[("kms_wrap.kms_timeout", "500ms"), ("kms_wrap.cache_ttl", "2s")]);
    let sealed = site.value("SELECT kms_wrap.kw_encrypt('x', 'split')");
    let open = format!("SELECT convert_from(kms_wrap.kw_decrypt('{sealed}'), 'UTF8')");
    let set = |outage: &str| {
        site.value(&format!("UPDATE kms_wrap.encryption_policies SET outage = '{outage}', stale_for = '1 h' WHERE policy_name = 'split'"));
    };
    let mut holder = site.cluster.session("postgres");
    for (outage, at_once, later) in [("fail", "58000", "58000"), ("cache", "", "58000"), ("stale", "", "")] {
        set(outage);
        wait_until("the provider is back", || site.sqlstate(&open).is_empty());
        let state = |session: &mut crate::harness::Session| session.query(&open).map_or_else(|error| error.sqlstate, |_| String::new());
        wait_until("it opens", || state(&mut holder).is_empty());
        site.bao.signal("STOP");
        // Somebody who holds nothing finds the outage.
        assert_eq!(site.sqlstate(&open), "58000");
        assert_eq!(state(&mut holder), at_once, "{outage}");
        std::thread::sleep(Duration::from_millis(2500));
        assert_eq!(state(&mut holder), later, "{outage}, after the time to live");
        site.bao.signal("CONT");
    }
}

#[test]
fn a_stale_dek_is_served_for_so_long() {
    let site = Site::start(&[("kms_wrap.kms_timeout", "500ms"), ("kms_wrap.cache_ttl", "1s")]);
    site.value("UPDATE kms_wrap.encryption_policies SET outage = 'stale', stale_for = '4 s' WHERE policy_name = 'split'");
    let sealed = site.value("SELECT kms_wrap.kw_encrypt('x', 'split')");
    let open = format!("SELECT convert_from(kms_wrap.kw_decrypt('{sealed}'), 'UTF8')");
    let mut holder = site.cluster.session("postgres");
    let before = Instant::now();
    assert_eq!(holder.query(&open).unwrap(), "x");
    let start = Instant::now();
    site.bao.signal("STOP");
    std::thread::sleep(Duration::from_secs(2).saturating_sub(start.elapsed()));
    let served = holder.query(&open);
    // A machine that was too busy to ask in time proves nothing.
    if before.elapsed() < Duration::from_secs(5) {
        assert_eq!(served.unwrap(), "x");
    }
    std::thread::sleep(Duration::from_secs(6).saturating_sub(start.elapsed()));
    assert_eq!(holder.query(&open).unwrap_err().sqlstate, "58000");
    site.bao.signal("CONT");
    wait_until("the provider is back", || holder.query(&open).is_ok());
}

/// What the provider said last counts: a refusal is not forgotten because nobody can be asked any more.
#[test]
fn a_stale_dek_does_not_outlive_a_refusal() {
    let site = Site::start(&[("kms_wrap.kms_timeout", "500ms"), ("kms_wrap.cache_ttl", "1s")]);
    site.value("UPDATE kms_wrap.encryption_policies SET outage = 'stale', stale_for = '1 h' WHERE policy_name = 'split'");
    let sealed = site.value("SELECT kms_wrap.kw_encrypt('x', 'split')");
    let open = format!("SELECT convert_from(kms_wrap.kw_decrypt('{sealed}'), 'UTF8')");
    let mut holders = [site.cluster.session("postgres"), site.cluster.session("postgres")];
    for holder in &mut holders {
        assert_eq!(holder.query(&open).unwrap(), "x");
    }
    std::thread::sleep(Duration::from_millis(1500));
    let [refused, spared] = &mut holders;
    site.credential("token", b"not-a-token\n");
    assert_eq!(refused.query(&open).unwrap_err().sqlstate, "38000");
    site.bao.signal("STOP");
    assert_eq!(spared.query(&open).unwrap(), "x", "it has heard of no refusal");
    assert_eq!(refused.query(&open).unwrap_err().sqlstate, "58000");
    site.bao.signal("CONT");
}

/// By default every wrapper is opened again before it is stored, also by a session that has made others.
#[test]
fn every_wrapper_is_proved_unless_its_policy_says_otherwise() {
    let site = Site::start(&[]);
    let mut session = site.cluster.session("postgres");
    let wrap = "SELECT length(kms_wrap.kw_wrap_dek('split')::text)";
    assert_eq!(session.query(wrap).unwrap(), "36");
    site.credential("token", site.bao.token("path \"transit/encrypt/*\" { capabilities = [\"update\"] }", "1h").as_bytes());
    assert_eq!(session.query(wrap).unwrap_err().sqlstate, "38000", "nobody could open it");
    assert_eq!(site.value("SELECT count(*) FROM kms_wrap.key_wrappers"), "1");
    site.value("UPDATE kms_wrap.encryption_policies SET verify_every_wrap = false WHERE policy_name = 'split'");
    assert_eq!(session.query(wrap).unwrap(), "36", "it has proved these keys once");
}

/// A policy that has each session prove a key once: again when the provider has other credentials, which may allow less.
#[test]
fn another_configuration_is_proved_anew() {
    let site = Site::start(&[]);
    let rules = "path \"transit/encrypt/*\" { capabilities = [\"update\"] }";
    site.credential("wrap-only", site.bao.token(rules, "1h").as_bytes());
    site.value("UPDATE kms_wrap.encryption_policies SET verify_every_wrap = false WHERE policy_name = 'split'");
    let mut session = site.cluster.session("postgres");
    let wrap = "SELECT length(kms_wrap.kw_wrap_dek('split')::text)";
    assert_eq!(session.query(wrap).unwrap(), "36");
    let config = site.bao_config().replace("\"token\"", "\"wrap-only\"");
    assert_ne!(config, site.bao_config());
    site.value(&format!("SELECT kms_wrap.kw_set_provider_config('bao', '{config}')"));
    assert_eq!(session.query(wrap).unwrap_err().sqlstate, "38000", "nobody could open it");
}

/// Statements that give up before the call's deadline would else wait one after the other, and a stale DEK would never serve.
#[test]
fn statements_that_give_up_early_open_the_breaker_too() {
    let site = Site::start(&[("kms_wrap.kms_timeout", "2s")]);
    let split = wrapper(&site, "split");
    let mut session = site.cluster.session("postgres");
    let mut give_up = |timeout: &str| {
        session.query(&format!("SET statement_timeout = '{timeout}'")).unwrap();
        session.query(&unwrap(&split)).unwrap_err().sqlstate
    };
    site.bao.signal("STOP");
    assert_eq!(give_up("200ms"), "57014");
    assert_eq!(give_up("200ms"), "57014", "so short a wait says nothing");
    assert_eq!(give_up("1500ms"), "57014");
    let start = Instant::now();
    assert_eq!(site.sqlstate(&unwrap(&split)), "58000");
    assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
    site.bao.signal("CONT");
    wait_until("the breaker tries again", || site.sqlstate(&unwrap(&split)).is_empty());
}

/// From local keys to the two KMS and back, both slots at once, while values are written and read and DEKs opened. OpenBao is killed on the way
/// there, and sealed on the way back.
#[test]
fn all_wrappers_move_there_and_back_under_a_workload() {
    let mut site = Site::start(&[("kms_wrap.worker_databases", "postgres"), ("kms_wrap.kms_timeout", "2s")]);
    site.value(
        "CREATE TABLE people (id integer PRIMARY KEY, name text);
         INSERT INTO people SELECT i, 'name ' || i FROM generate_series(1, 200) i;
         SELECT FROM kms_wrap.kw_protect_column('people', 'name');
         CALL kms_wrap.kw_encrypt_column('people', 'name');
         CREATE TABLE deks AS SELECT kms_wrap.kw_wrap_dek() AS wrapper FROM generate_series(1, 400);
         ALTER TABLE deks ADD sha256 bytea;
         UPDATE deks SET sha256 = sha256(kms_wrap.kw_unwrap(wrapper));
         SELECT kms_wrap.kw_policy_add_key('default', 'kms1', 1003), kms_wrap.kw_policy_add_key('default', 'kms2', 1004)",
    );
    let mut writer = site.cluster.session("postgres");
    writer.send(
        "DO $$ BEGIN FOR i IN 1..400 LOOP
             UPDATE people SET name = 'new ' || id WHERE id = 1 + i % 200;
             PERFORM count(*) FROM people_decrypted WHERE name LIKE 'n%' HAVING count(*) <> 200;
             IF FOUND THEN RAISE EXCEPTION 'a row is missing'; END IF;
             PERFORM pg_sleep(0.02);
             COMMIT;
         END LOOP; END $$",
    );
    let mut opener = site.cluster.session("postgres");
    opener.send(
        "DO $$ DECLARE d record; BEGIN FOR d IN SELECT * FROM deks, generate_series(1, 2) ORDER BY random() LOOP
             BEGIN
                 IF sha256(kms_wrap.kw_unwrap(d.wrapper)) <> d.sha256 THEN RAISE EXCEPTION 'another DEK'; END IF;
             EXCEPTION WHEN system_error THEN NULL; -- OpenBao is away
             END;
             COMMIT;
             PERFORM pg_sleep(0.01);
         END LOOP; END $$",
    );
    for (from, to, is_back) in [((1000, 1001), (1003, 1004), false), ((1003, 1004), (1000, 1001), true)] {
        let mut campaigns = Vec::new();
        for (slot, from, to) in [("kms1", from.0, to.0), ("kms2", from.1, to.1)] {
            site.value(&format!("SELECT kms_wrap.kw_set_key_status({from}, 'retired'), kms_wrap.kw_set_key_status({to}, 'active')"));
            campaigns.push(site.value(&format!("SELECT kms_wrap.kw_schedule_rewrap(from_key => {from}, target_{slot} => {to})")));
        }
        if is_back {
            site.bao.api("PUT", "sys/seal", &json!({}));
            std::thread::sleep(Duration::from_millis(300));
        }
        // It opens its seal by itself when it starts.
        site.bao.kill();
        std::thread::sleep(Duration::from_millis(300));
        site.bao.start_again();
        for campaign in campaigns {
            let end = format!("SELECT status FROM kms_wrap.rewrap_campaigns WHERE id = {campaign}");
            wait_until("the campaign ends", || site.value(&end) != "running");
            let failed = format!(
                "SELECT last_error, count(*) FROM kms_wrap.rewrap_jobs WHERE campaign_id = {campaign} AND status = 'failed' GROUP BY 1"
            );
            assert_eq!(site.value(&failed), "", "{from:?} to {to:?}");
        }
        let under = format!(
            "SELECT count(*) FILTER (WHERE (kms1_key_id, kms2_key_id) = ({}, {})) = count(*) FROM kms_wrap.key_wrappers",
            to.0, to.1
        );
        assert_eq!(site.value(&under), "t");
        assert_eq!(site.value("SELECT count(*) FROM deks WHERE sha256(kms_wrap.kw_unwrap(wrapper)) = sha256"), "400");
        assert_eq!(site.value("SELECT count(*) FROM kms_wrap.kw_verify() WHERE NOT ok"), "0");
    }
    writer.finish().unwrap();
    opener.finish().unwrap();
}

/// Many sessions at one token, a wrong PIN among them.
#[test]
fn a_wrong_pin_is_tried_once_by_all_sessions() {
    let site = Site::start(&[]);
    let split = wrapper(&site, "split");
    site.credential("pin", b"9999\n");
    let mut sessions: Vec<_> = (0..8).map(|_| site.cluster.session("postgres")).collect();
    for session in &mut sessions {
        session.send(&unwrap(&split));
    }
    let mut tried = 0;
    for session in &mut sessions {
        let error = session.finish().unwrap_err();
        assert_eq!(error.sqlstate, "38000");
        // The one that asked the token, or one that knows of it.
        let asked = error.detail.contains("refuses the PIN in file \"pin\"");
        assert!(asked || error.detail.contains("has refused the PIN in file \"pin\" before"), "{}", error.detail);
        tried += usize::from(asked);
    }
    assert_eq!(tried, 1);
    site.credential("pin", b"1234\n");
    for session in &mut sessions {
        assert_eq!(session.query(&unwrap(&split)).unwrap(), "32");
    }
}

#[test]
fn without_preload_there_is_no_pkcs11() {
    let site = Site::bare(&[("shared_preload_libraries", "")]);
    site.value("CREATE EXTENSION kms_wrap");
    let add = format!("SELECT kms_wrap.kw_add_provider('hsm', 'pkcs11', '{}')", crate::servers::hsm_config());
    // The library's settings are known once it is loaded.
    assert_eq!(site.sqlstate(&add), "55000");
    // All else works, the breaker in each session for itself.
    site.value(&format!(
        "SELECT kms_wrap.kw_add_provider('bao', 'openbao', '{}'); SELECT kms_wrap.kw_add_kms_key('bao', 'app', 'AES-256-GCM')",
        site.bao_config()
    ));
    site.cluster.set(&[("kms_wrap.kms_timeout", "2s")]);
    site.cluster.reload();
    let ask = "SELECT kms_wrap.kw_add_kms_key('bao', 'none', 'AES-256-GCM')";
    let mut sessions = [site.cluster.session("postgres"), site.cluster.session("postgres")];
    for session in &mut sessions {
        assert_eq!(session.query(ask).unwrap_err().sqlstate, "42704");
    }
    site.bao.signal("STOP");
    for session in &mut sessions {
        let mut took = [0; 2].map(|_| {
            let start = Instant::now();
            assert_eq!(session.query(ask).unwrap_err().sqlstate, "58000");
            start.elapsed()
        });
        assert!(took[0] > Duration::from_millis(1500), "it does not know of the other's wait: {took:?}");
        took.reverse();
        assert!(took[0] < Duration::from_secs(1), "it knows of its own: {took:?}");
    }
    site.bao.signal("CONT");
}
