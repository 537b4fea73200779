//! Campaigns without a worker: `CALL kms_wrap.kw_run_jobs()`.

use std::thread;
use std::time::{Duration, Instant};

use crate::fixture::{assert_all_open, next_key, progress, quickstarted, schedule, wrap};

const DB: &str = "postgres";

#[test]
fn works_without_preload_through_kw_run_jobs() {
    let cluster = quickstarted(&[("shared_preload_libraries", ""), ("kms_wrap.worker_databases", "postgres")]);
    wrap(&cluster, DB, 500);
    let health = "SELECT status, detail, action FROM kms_wrap.kw_health() WHERE component = 'worker'";
    let health = cluster.psql(health).unwrap();
    assert!(health.starts_with("yellow|kms_wrap is not in shared_preload_libraries"), "{health}");
    assert!(health.contains("CALL kms_wrap.kw_run_jobs()"), "{health}");
    let key = next_key(&cluster, DB);
    let campaign = schedule(&cluster, DB, &key, "");
    thread::sleep(Duration::from_millis(2500));
    assert_eq!(progress(&cluster, DB, &campaign), "running|500|0|0|0");
    cluster.psql("CALL kms_wrap.kw_run_jobs(max_batches => 2, batch_size => 100)").unwrap();
    assert_eq!(progress(&cluster, DB, &campaign), "running|500|200|0|0");
    cluster.psql("CALL kms_wrap.kw_run_jobs()").unwrap();
    assert_eq!(progress(&cluster, DB, &campaign), "done|500|500|0|0");
    assert_all_open(&cluster, DB);
    // Nothing to do is no error, and takes no time.
    let start = Instant::now();
    cluster.psql("CALL kms_wrap.kw_run_jobs()").unwrap();
    assert!(start.elapsed() < Duration::from_secs(2));
    assert_eq!(cluster.psql("BEGIN; CALL kms_wrap.kw_run_jobs(); COMMIT").unwrap_err().sqlstate, "2D000");
}

#[test]
fn kw_run_jobs_ends_what_it_began() {
    let cluster = quickstarted(&[]);
    wrap(&cluster, DB, 20);
    for more in [
        "",
        ", rate_per_second => 15",
        ", scheduled_at => now() + interval '2 s'",
        ", scheduled_at => now() + interval '1 s', rate_per_second => 20",
    ] {
        let key = next_key(&cluster, DB);
        let campaign = schedule(&cluster, DB, &key, more);
        cluster.psql("CALL kms_wrap.kw_run_jobs()").unwrap();
        assert_eq!(progress(&cluster, DB, &campaign), "done|20|20|0|0", "{more}");
    }
    // What is far off is not waited for.
    let key = next_key(&cluster, DB);
    let campaign = schedule(&cluster, DB, &key, ", scheduled_at => now() + interval '1 hour'");
    let start = Instant::now();
    cluster.psql("CALL kms_wrap.kw_run_jobs()").unwrap();
    assert!(start.elapsed() < Duration::from_secs(2));
    assert_eq!(progress(&cluster, DB, &campaign), "running|20|0|0|0");
}

#[test]
fn a_cancelled_call_leaves_no_job_behind() {
    let cluster = quickstarted(&[]);
    wrap(&cluster, DB, 4000);
    let key = next_key(&cluster, DB);
    let campaign = schedule(&cluster, DB, &key, "");
    let mut session = cluster.session(DB);
    session.send("CALL kms_wrap.kw_run_jobs(batch_size => 4000)");
    cluster.wait_for("SELECT count(*) FROM kms_wrap.rewrap_jobs WHERE status = 'running'", "4000");
    cluster.psql(&format!("SELECT pg_cancel_backend({})", session.pid())).unwrap();
    assert_eq!(session.finish().unwrap_err().sqlstate, "57014");
    assert_eq!(progress(&cluster, DB, &campaign), "running|4000|0|0|0");
    // The session is still there, in somebody's pool, so its leases are not given to others. It has to take them up itself.
    session.query("CALL kms_wrap.kw_run_jobs()").unwrap();
    assert_eq!(progress(&cluster, DB, &campaign), "done|4000|4000|0|0");
    assert_all_open(&cluster, DB);
}
