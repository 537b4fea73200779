//! How long others wait: for a trigger that asks several times, and for a session that ends while it tries a provider.

use crate::harness::wait_until;
use crate::servers::Site;
use crate::slow::Slow;
use std::thread::sleep;
use std::time::{Duration, Instant};

/// A tenant's first row makes a DEK: the trigger wraps its shares, and has them opened again.
#[test]
fn a_trigger_waits_once_however_often_it_asks() {
    let site = Site::start(&[("kms_wrap.trigger_timeout", "1s")]);
    let slow = Slow::to(site.bao.port);
    let config = site.bao_config().replace(&site.bao.port.to_string(), &slow.port.to_string());
    site.value(&format!("SELECT kms_wrap.kw_set_provider_config('bao', '{config}')"));
    site.value(
        "CREATE TABLE people (id integer PRIMARY KEY, tenant integer NOT NULL, name text);
         SELECT FROM kms_wrap.kw_protect_column('people', 'name', 'split', tenant_column => 'tenant')",
    );
    let mut session = site.cluster.session("postgres");
    let mut insert = |tenant: u32| {
        let start = Instant::now();
        let state =
            session.query(&format!("INSERT INTO people VALUES ({tenant}, {tenant}, 'x')")).map_or_else(|e| e.sqlstate, |_| String::new());
        (state, start.elapsed())
    };
    assert_eq!(insert(1).0, "");
    slow.set(700);
    let (state, took) = insert(2);
    assert_eq!((state.as_str(), took < Duration::from_millis(1400)), ("58000", true), "{took:?}");
    // What was left of the time says nothing about the provider: nobody is kept from it.
    slow.set(0);
    assert_eq!(insert(3).0, "");
    slow.set(200);
    assert_eq!(insert(4).0, "");
}

/// What is revoked while a KMS is asked counts for the answer: the fill begins anew.
#[test]
fn a_fill_begins_anew_when_keys_change_while_a_kms_answers() {
    // Long enough for the change to be made by a busy machine.
    const MILLIS: u64 = 2500;
    let site = Site::start(&[("kms_wrap.kms_timeout", "30s")]);
    let slow = Slow::to(site.bao.port);
    let config = site.bao_config().replace(&site.bao.port.to_string(), &slow.port.to_string());
    site.value(&format!("SELECT kms_wrap.kw_set_provider_config('bao', '{config}')"));
    site.value(
        "CREATE TABLE sealed AS SELECT policy, kms_wrap.kw_encrypt_text('x', policy) AS body FROM unnest(ARRAY['split', 'redundant']) policy",
    );
    let open = |policy: &str| format!("SELECT kms_wrap.kw_decrypt_text(body) FROM sealed WHERE policy = '{policy}'");
    // With a connection that is there already, so that an opening is one request.
    let opening_during = |change: &str| {
        let mut session = site.cluster.session("postgres");
        assert_eq!(session.query(&open("redundant")).unwrap(), "x");
        slow.set(MILLIS);
        let start = Instant::now();
        session.send(&open("split"));
        sleep(Duration::from_millis(MILLIS / 5));
        site.value(change);
        let outcome = session.finish().map_err(|error| error.sqlstate);
        slow.set(0);
        (outcome, start.elapsed())
    };
    let (outcome, took) = opening_during("UPDATE kms_wrap.kms_keys SET purpose = purpose WHERE id = 1000");
    assert_eq!(outcome.unwrap(), "x");
    assert!(took >= Duration::from_millis(2 * MILLIS), "asked once only, in {took:?}");
    let (outcome, _) = opening_during("SELECT kms_wrap.kw_set_key_status(1002, 'disabled')");
    assert_eq!(outcome.unwrap_err(), "55000");
}

/// A server with a table that is protected under policy `redundant`, and its way to OpenBao, which is the first path.
fn with_redundant_column() -> (Site, Slow) {
    let site = Site::start(&[("kms_wrap.trigger_timeout", "1s")]);
    let slow = Slow::to(site.bao.port);
    let config = site.bao_config().replace(&site.bao.port.to_string(), &slow.port.to_string());
    site.value(&format!("SELECT kms_wrap.kw_set_provider_config('bao', '{config}')"));
    site.value(
        "CREATE TABLE people (id integer PRIMARY KEY, name text);
         SELECT FROM kms_wrap.kw_protect_column('people', 'name', 'redundant');
         INSERT INTO people VALUES (1, 'x')",
    );
    (site, slow)
}

#[test]
fn a_trigger_has_time_for_the_other_path() {
    let (site, slow) = with_redundant_column();
    slow.set(5000);
    let start = Instant::now();
    assert_eq!(site.sqlstate("INSERT INTO people VALUES (2, 'x')"), "");
    let took = start.elapsed();
    assert!(took > Duration::from_millis(450) && took < Duration::from_millis(1400), "{took:?}");
}

#[test]
fn a_trigger_asks_no_other_path_that_it_does_not_need() {
    let (site, _slow) = with_redundant_column();
    // A key of the other path that may not be asked any more.
    site.value("SELECT kms_wrap.kw_set_key_status(kms2_key_id, 'compromised') FROM kms_wrap.key_wrappers WHERE purpose = 'values'");
    assert_eq!(site.sqlstate("INSERT INTO people VALUES (2, 'x')"), "");
}

#[test]
fn a_session_that_ends_while_it_tries_does_not_hold_up_the_others() {
    let site = Site::start(&[("kms_wrap.kms_timeout", "3s")]);
    let wrapper = site.value("SELECT kms_wrap.kw_wrap_dek('split')");
    let unwrap = format!("SELECT length(kms_wrap.kw_unwrap('{wrapper}'))");
    site.bao.signal("STOP");
    assert_eq!(site.sqlstate(&unwrap), "58000");
    // The breaker's first pause.
    sleep(Duration::from_secs(5));
    let mut trying = site.cluster.session("postgres");
    trying.send(&unwrap);
    sleep(Duration::from_millis(500));
    site.value(&format!("SELECT pg_terminate_backend({})", trying.pid()));
    assert_ne!(trying.finish().unwrap_err().sqlstate, "58000");
    site.bao.signal("CONT");
    let start = Instant::now();
    wait_until("another one tries", || site.sqlstate(&unwrap).is_empty());
    assert!(start.elapsed() < Duration::from_secs(6), "{:?}", start.elapsed());
}
