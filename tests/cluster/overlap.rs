//! The worker and a KMS that is far away: the next jobs are claimed and read while the last ones' answers are on their way.

use crate::harness::wait_until;
use crate::servers::Site;
use crate::slow::Slow;
use std::time::Duration;

const WRAPPERS: u32 = 1500;

/// Jobs of one step of the worker.
const BATCH: u32 = 450;

/// A worker, and OpenBao behind a long way as a target of the default policy.
fn start(kms_timeout: &str) -> (Site, Slow) {
    let site = Site::start(&[("kms_wrap.worker_databases", "postgres"), ("kms_wrap.kms_timeout", kms_timeout)]);
    let slow = Slow::to(site.bao.port);
    let config = site.bao_config().replace(&site.bao.port.to_string(), &slow.port.to_string());
    site.value(&format!("SELECT kms_wrap.kw_set_provider_config('bao', '{config}')"));
    // Of low priority: wrappers are made under the local key.
    site.value("SELECT kms_wrap.kw_policy_add_key('default', 'kms1', 1003, -1)");
    (site, slow)
}

/// Ends while a batch is asked for and the next one claimed: no wrapper and no job of either is lost.
#[test]
fn a_worker_that_ends_between_two_batches_loses_neither() {
    let (site, slow) = start("20s");
    site.value(&format!(
        "CREATE TABLE deks AS SELECT kms_wrap.kw_wrap_dek() AS wrapper FROM generate_series(1, {WRAPPERS});
         ALTER TABLE deks ADD sha256 bytea;
         UPDATE deks SET sha256 = sha256(kms_wrap.kw_unwrap(wrapper))"
    ));
    let count = |what: &str| site.value(&format!("SELECT count(*) FROM {what}")).parse::<u32>().unwrap();
    let worker = || site.value("SELECT pid FROM pg_stat_activity WHERE backend_type = 'kms_wrap worker'");
    for (target, kills) in [(1003, false), (1000, true)] {
        slow.set(300);
        let campaign = site.value(&format!("SELECT kms_wrap.kw_schedule_rewrap(policy => 'default', target_kms1 => {target})"));
        wait_until("two batches are claimed", || count("kms_wrap.rewrap_jobs WHERE status = 'running'") > BATCH);
        let (pid, log) = (worker(), site.cluster.log().len());
        if kills {
            site.cluster.kill_backend(pid.parse().unwrap());
            site.cluster.wait_until_ready();
        } else {
            assert_eq!(site.value(&format!("SELECT pg_terminate_backend({pid}, 5000)")), "t");
            assert!(!site.cluster.log()[log..].contains("terminated by signal"), "the server started again");
        }
        wait_until("another worker goes on", || !["", pid.as_str()].contains(&worker().as_str()));
        slow.set(0);
        let end = format!("SELECT status, done, failed FROM kms_wrap.kw_rewrap_progress WHERE campaign_id = {campaign}");
        wait_until("the campaign ends", || !site.value(&end).starts_with("running"));
        assert_eq!(site.value(&end), format!("done|{WRAPPERS}|0"));
        assert_eq!(count(&format!("kms_wrap.key_wrappers WHERE kms1_key_id <> {target}")), 0);
        assert_eq!(count("kms_wrap.rewrap_jobs WHERE status = 'running' OR lease_owner IS NOT NULL"), 0);
        assert_eq!(count("deks WHERE sha256(kms_wrap.kw_unwrap(wrapper)) = sha256"), WRAPPERS);
    }
    assert!(!site.cluster.log().contains("panicked"), "{}", site.cluster.log());
}

/// What the worker does with tables takes no call's time: here a lock holds it up for longer than a KMS may take.
#[test]
fn an_answer_that_came_while_the_worker_waited_for_a_lock_is_in_time() {
    let (site, slow) = start("1s");
    site.value(&format!("SELECT count(kms_wrap.kw_wrap_dek()) FROM generate_series(1, {WRAPPERS})"));
    slow.set(100);
    let mut other = site.cluster.session("postgres");
    other.query("BEGIN").unwrap();
    let campaign = site.value("SELECT kms_wrap.kw_schedule_rewrap(policy => 'default', target_kms1 => 1003)");
    let running = "SELECT count(*) FROM kms_wrap.rewrap_jobs WHERE status = 'running'";
    wait_until("two batches are claimed", || site.value(running).parse::<u32>().unwrap() > BATCH);
    other.query("LOCK TABLE kms_wrap.key_wrappers IN SHARE MODE").unwrap();
    // A batch may take three times the setting: it needs three requests.
    std::thread::sleep(Duration::from_secs(6));
    other.query("COMMIT").unwrap();
    let end = format!("SELECT status, done, failed, last_error FROM kms_wrap.kw_rewrap_progress WHERE campaign_id = {campaign}");
    wait_until("the campaign ends", || !site.value(&end).starts_with("running"));
    assert_eq!(site.value(&end), format!("done|{WRAPPERS}|0|"));
    assert_eq!(site.value("SELECT max(attempts) FROM kms_wrap.rewrap_jobs"), "1");
}
