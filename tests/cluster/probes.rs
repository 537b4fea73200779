//! The worker's probes: a provider that is down is suspended, others take its place, and it comes back by itself.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use crate::fixture::{assert_all_open, next_key, progress, quickstarted, schedule, worker, wrap};
use crate::harness::{Cluster, wait_until};

const DB: &str = "postgres";
const SUSPENDED: &str = "SELECT count(*) FROM kms_wrap.kms_providers WHERE name = 'local-a' AND suspended_until > clock_timestamp()";

/// A worker that probes every second.
fn with_probes() -> Cluster {
    quickstarted(&[("shared_preload_libraries", "kms_wrap"), ("kms_wrap.worker_databases", "postgres"), ("kms_wrap.health_interval", "1")])
}

/// A third provider, whose keys stand behind those of `local-a`. Returns the id of its key for kms1.
fn with_spare(cluster: &Cluster) -> String {
    let sql = "SELECT FROM kms_wrap.kw_create_root_key('spare');
               SELECT FROM kms_wrap.kw_add_provider('spare', 'local', '{\"root_key\": \"spare\"}');
               SELECT kms_wrap.kw_create_local_key('spare', 'spare-kek', 'XAES-256-GCM') AS kek, kms_wrap.kw_create_local_key('spare', 'spare-kem', 'ML-KEM-768') AS kem \\gset
               SELECT FROM kms_wrap.kw_policy_add_key('default', 'kms1', :kek, -1);
               SELECT FROM kms_wrap.kw_policy_add_key('default', 'layer', :kem, -1);
               SELECT :kek";
    cluster.psql(sql).unwrap().lines().last().unwrap().to_owned()
}

/// The key for kms1 that a new wrapper gets.
fn picked(cluster: &Cluster) -> String {
    wrap(cluster, DB, 1);
    cluster.psql("SELECT kms1_key_id FROM kms_wrap.key_wrappers ORDER BY id DESC LIMIT 1").unwrap()
}

/// Waits until the worker has begun and ended a round over all providers.
fn next_round(cluster: &Cluster) {
    let rounds = "SELECT min(n) FROM (SELECT count(h.id) AS n FROM kms_wrap.kms_providers p LEFT JOIN kms_wrap.kms_health_checks h
                  ON h.provider_id = p.id AND h.kms_key_id IS NULL GROUP BY p.id) s";
    let count = || cluster.psql(rounds).unwrap().parse::<u32>().unwrap();
    let before = count();
    wait_until("two more rounds are over", || count() >= before + 2);
}

#[test]
fn a_provider_that_is_down_is_suspended_replaced_and_resumed() {
    let cluster = with_probes();
    let pid = worker(&cluster, DB);
    let spare = with_spare(&cluster);
    next_round(&cluster);
    let all = "SELECT count(*), count(DISTINCT provider_id), count(DISTINCT kms_key_id), bool_and(status = 'up'), bool_and(error IS NULL)
               FROM kms_wrap.vw_kms_health_latest";
    assert_eq!(cluster.psql(all).unwrap(), "8|3|5|t|t");
    assert_eq!(picked(&cluster), "1000");
    assert_eq!(cluster.psql(SUSPENDED).unwrap(), "0");

    let (file, aside) = (cluster.key_dir().join("quickstart-a"), cluster.path("aside"));
    fs::rename(&file, &aside).unwrap();
    let start = Instant::now();
    cluster.wait_for(SUSPENDED, "1");
    // One interval, one look of an idle worker, and a machine that has much else to do.
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    let reason = cluster.psql("SELECT suspend_reason FROM kms_wrap.kms_providers WHERE name = 'local-a'").unwrap();
    assert!(reason.starts_with("health: unavailable: Root key file ") && reason.contains("quickstart-a"), "{reason}");
    let keys = "SELECT string_agg(DISTINCT h.status || '|' || (h.latency_ms IS NULL), ',') FROM kms_wrap.vw_kms_health_latest h
                JOIN kms_wrap.kms_providers p ON p.id = h.provider_id WHERE p.name = 'local-a'";
    cluster.wait_for(keys, "down|true");
    let made = "SELECT kms_wrap.kw_wrap_dek() AS made \\gset
                SELECT kms1_key_id FROM kms_wrap.key_wrappers WHERE wrapper_uuid = :'made'";
    assert_eq!(cluster.psql(made).unwrap(), spare);

    // It stays suspended, by fewer writes than probes: each makes every session look at its rights again.
    let mut ends = Vec::new();
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(6) {
        assert_eq!(cluster.psql(SUSPENDED).unwrap(), "1", "the suspension lapsed");
        ends.push(cluster.psql("SELECT suspended_until FROM kms_wrap.kms_providers WHERE name = 'local-a'").unwrap());
        thread::sleep(Duration::from_millis(100));
    }
    ends.dedup();
    assert!((2..=5).contains(&ends.len()), "{ends:?}");

    // Without another key: refused, and nothing weaker taken.
    cluster.psql(&format!("SELECT kms_wrap.kw_policy_remove_key('default', {spare})")).unwrap();
    let refused = cluster.psql("SELECT kms_wrap.kw_wrap_dek()").unwrap_err();
    assert_eq!((refused.sqlstate.as_str(), refused.message.contains("no usable key for slot")), ("55000", true), "{}", refused.message);

    fs::rename(&aside, &file).unwrap();
    cluster.wait_for("SELECT suspended_until IS NULL AND suspend_reason IS NULL FROM kms_wrap.kms_providers WHERE name = 'local-a'", "t");
    assert_eq!(picked(&cluster), "1000");
    cluster.wait_for("SELECT status FROM kms_wrap.kw_health() WHERE component = 'provider' AND name = 'local-a'", "green");
    assert_eq!(worker(&cluster, DB), pid);
    let log = cluster.log();
    assert_eq!(log.matches("\"local-a\" is up again and no longer suspended").count(), 1, "{log}");
}

#[test]
fn a_suspension_by_a_person_is_left_alone() {
    let cluster = with_probes();
    worker(&cluster, DB);
    next_round(&cluster);
    let until = cluster.psql("SELECT kms_wrap.kw_suspend_provider('local-a', 'moving house')").unwrap();
    let state = "SELECT suspended_until, suspend_reason, xmin FROM kms_wrap.kms_providers WHERE name = 'local-a'";
    let before = cluster.psql(state).unwrap();
    assert!(before.starts_with(&format!("{until}|moving house|")), "{before}");
    next_round(&cluster);
    let (file, aside) = (cluster.key_dir().join("quickstart-a"), cluster.path("aside"));
    fs::rename(&file, &aside).unwrap();
    cluster.wait_for("SELECT count(*) > 1 FROM kms_wrap.kms_health_checks WHERE status = 'down' AND kms_key_id IS NULL", "t");
    assert_eq!(cluster.psql(state).unwrap(), before);
    fs::rename(&aside, &file).unwrap();
    next_round(&cluster);
    assert_eq!(cluster.psql(state).unwrap(), before);
    assert_eq!(cluster.psql("SELECT kms_wrap.kw_resume_provider('local-a')").unwrap(), "t");
    assert_eq!(picked(&cluster), "1000");
}

/// A transaction that stays open does not keep the worker from its jobs.
#[test]
fn a_provider_that_somebody_is_changing_holds_up_nothing() {
    let cluster = with_probes();
    worker(&cluster, DB);
    next_round(&cluster);
    let mut session = cluster.session(DB);
    session.query("BEGIN").unwrap();
    session.query("SELECT kms_wrap.kw_suspend_provider('local-a', 'moving house')").unwrap();
    let (file, aside) = (cluster.key_dir().join("quickstart-a"), cluster.path("aside"));
    fs::rename(&file, &aside).unwrap();
    cluster.wait_for("SELECT count(*) > 2 FROM kms_wrap.kms_health_checks WHERE status = 'down' AND kms_key_id IS NULL", "t");
    session.query("ROLLBACK").unwrap();
    cluster.wait_for(SUSPENDED, "1");
    session.query("BEGIN; UPDATE kms_wrap.kms_providers SET is_enabled = is_enabled WHERE name = 'local-a'").unwrap();
    fs::rename(&aside, &file).unwrap();
    next_round(&cluster);
    assert_eq!(cluster.psql(SUSPENDED).unwrap(), "1");
    session.query("ROLLBACK").unwrap();
    cluster.wait_for(SUSPENDED, "0");
}

#[test]
fn a_campaign_waits_for_a_suspended_target() {
    let cluster = with_probes();
    wrap(&cluster, DB, 300);
    worker(&cluster, DB);
    let key = next_key(&cluster, DB);
    let campaign = schedule(&cluster, DB, &key, ", rate_per_second => 100");
    wait_until("the campaign begins", || !progress(&cluster, DB, &campaign).starts_with("running|300|0|"));
    let (file, aside) = (cluster.key_dir().join("quickstart-a"), cluster.path("aside"));
    fs::rename(&file, &aside).unwrap();
    cluster.wait_for(SUSPENDED, "1");
    // Jobs that were claimed before it come back; the others are left alone.
    cluster.wait_for("SELECT count(*) FROM kms_wrap.rewrap_jobs WHERE status = 'running'", "0");
    let untouched = "SELECT count(*) FROM kms_wrap.rewrap_jobs WHERE status = 'pending' AND attempts = 0";
    let (before, left) = (progress(&cluster, DB, &campaign), cluster.psql(untouched).unwrap());
    thread::sleep(Duration::from_secs(3));
    assert_eq!((progress(&cluster, DB, &campaign), cluster.psql(untouched).unwrap()), (before, left.clone()));
    assert_ne!(left, "0");
    fs::rename(&aside, &file).unwrap();
    wait_until("the campaign is done", || progress(&cluster, DB, &campaign).starts_with("done|"));
    assert_eq!(progress(&cluster, DB, &campaign), "done|300|300|0|0");
    assert_all_open(&cluster, DB);
}

#[test]
fn results_are_kept_as_long_as_the_settings_say() {
    let cluster = with_probes();
    worker(&cluster, DB);
    let old = "INSERT INTO kms_wrap.kms_health_checks (provider_id, status, checked_at) SELECT 1000, 'up', now() - interval '7 days' - i * interval '1 s' FROM generate_series(1, 2500) i;
               INSERT INTO kms_wrap.kms_health_checks (provider_id, status, checked_at) SELECT 1000, 'degraded', now() - interval '6 days 23 hours'";
    cluster.psql(old).unwrap();
    cluster.wait_for("SELECT count(*) FROM kms_wrap.kms_health_checks WHERE checked_at < now() - interval '7 days'", "0");
    assert_eq!(cluster.psql("SELECT count(*) FROM kms_wrap.kms_health_checks WHERE status = 'degraded'").unwrap(), "1");
    next_round(&cluster);
    cluster.set(&[("kms_wrap.health_retention", "1h")]);
    cluster.reload();
    cluster.wait_for("SELECT count(*) FROM kms_wrap.kms_health_checks WHERE status = 'degraded'", "0");
    assert_ne!(cluster.psql("SELECT count(*) FROM kms_wrap.kms_health_checks").unwrap(), "0");

    // Off: nothing is probed any more.
    cluster.set(&[("kms_wrap.health_interval", "0")]);
    cluster.reload();
    cluster.wait_for("SHOW kms_wrap.health_interval", "0");
    thread::sleep(Duration::from_secs(2));
    let count = "SELECT count(*) FROM kms_wrap.kms_health_checks";
    let before = cluster.psql(count).unwrap();
    thread::sleep(Duration::from_secs(3));
    assert_eq!(cluster.psql(count).unwrap(), before);
    // And on again.
    cluster.set(&[("kms_wrap.health_interval", "1")]);
    cluster.reload();
    next_round(&cluster);
}

#[test]
fn a_standby_probes_and_keeps_nothing() {
    let cluster = quickstarted(&[]);
    let standby = cluster.standby();
    standby.copy_keys_from(&cluster);
    let probe = "SELECT count(*), bool_and(status = 'up') FROM kms_wrap.kw_check_health()";
    assert_eq!(standby.psql(probe).unwrap(), "5|t");
    assert_eq!(standby.psql("SELECT kms_wrap.kw_suspend_provider('local-a', 'x')").unwrap_err().sqlstate, "25006");
    assert_eq!(cluster.psql(probe).unwrap(), "5|t");
    cluster.wait_for_replay(&standby);
    assert_eq!(standby.psql("SELECT count(*) FROM kms_wrap.kms_health_checks").unwrap(), "5");
}
