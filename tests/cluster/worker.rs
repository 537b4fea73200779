//! The background worker: prompt, not to be stopped by errors, quiet when it has nothing to do.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use crate::fixture::{assert_all_open, install, next_key, progress, schedule, with_worker, worker, wrap};
use crate::harness::{Cluster, wait_until};

const DB: &str = "postgres";

fn wait_until_done(cluster: &Cluster, database: &str, campaign: &str) {
    wait_until(&format!("campaign {campaign} is done"), || progress(cluster, database, campaign).starts_with("done|"));
}

/// A campaign over all wrappers to a new key; waits for its end.
fn rewrap_all(cluster: &Cluster, database: &str) {
    let key = next_key(cluster, database);
    let campaign = schedule(cluster, database, &key, "");
    wait_until_done(cluster, database, &campaign);
    let open = format!("SELECT count(*) FROM kms_wrap.key_wrappers WHERE kms1_key_id <> {key}");
    assert_eq!(cluster.psql_in(database, &open).unwrap(), "0");
}

fn done(cluster: &Cluster, campaign: &str) -> u32 {
    let sql = format!("SELECT done FROM kms_wrap.rewrap_campaigns WHERE id = {campaign}");
    cluster.psql(&sql).unwrap().parse().unwrap()
}

#[test]
fn picks_a_job_up_within_two_seconds_of_its_commit() {
    let cluster = with_worker();
    wrap(&cluster, DB, 1);
    worker(&cluster, DB);
    let mut session = cluster.session(DB);
    let times = (0..3).map(|_| {
        let key = next_key(&cluster, DB);
        let start = Instant::now();
        let campaign = schedule(&cluster, DB, &key, "");
        let sql = format!("SELECT done FROM kms_wrap.rewrap_campaigns WHERE id = {campaign}");
        wait_until("the job is done", || session.query(&sql).unwrap() == "1");
        start.elapsed()
    });
    let best = times.min().unwrap();
    // Half a second for a machine that has much else to do.
    assert!(best < Duration::from_millis(2500), "{best:?}");
}

#[test]
fn survives_errors_signals_and_kills() {
    let cluster = with_worker();
    wrap(&cluster, DB, 20);
    rewrap_all(&cluster, DB);

    // Another statement at a time fails, for as long as a column is missing.
    let key = next_key(&cluster, DB);
    for (table, column) in [("rewrap_jobs", "last_error"), ("rewrap_campaigns", "next_claim_at"), ("key_wrapper_layers", "encap_pubkey")] {
        let before = cluster.log().matches("ERROR").count();
        cluster.psql(&format!("ALTER TABLE kms_wrap.{table} RENAME COLUMN {column} TO hidden")).unwrap();
        // Such an INSERT does what kw_schedule_rewrap can't do now.
        let campaign = cluster
            .psql(&format!(
                "INSERT INTO kms_wrap.rewrap_campaigns (policy_id, target_kms1_key_id) SELECT min(id), {key} FROM kms_wrap.encryption_policies
                 RETURNING id"
            ))
            .unwrap();
        wait_until("a statement of the worker fails", || cluster.log().matches("ERROR").count() > before);
        cluster.psql(&format!("ALTER TABLE kms_wrap.{table} RENAME COLUMN hidden TO {column}")).unwrap();
        wait_until_done(&cluster, DB, &campaign);
        rewrap_all(&cluster, DB);
    }

    // SIGHUP: the same worker goes on, with the new settings.
    let pid = worker(&cluster, DB);
    let moved = cluster.path("moved_keys");
    fs::rename(cluster.key_dir(), &moved).unwrap();
    cluster.set(&[("kms_wrap.key_directory", &moved)]);
    cluster.reload();
    cluster.wait_for("SHOW kms_wrap.key_directory", &moved);
    rewrap_all(&cluster, DB);
    assert_eq!(worker(&cluster, DB), pid);

    // An administrator's cancel and terminate.
    for function in ["pg_cancel_backend", "pg_terminate_backend"] {
        cluster.psql(&format!("SELECT {function}({})", worker(&cluster, DB))).unwrap();
        rewrap_all(&cluster, DB);
    }

    // kill -9 of the worker, and of the launcher.
    for kind in ["worker", "launcher"] {
        let sql = format!("SELECT pid FROM pg_stat_activity WHERE backend_type = 'kms_wrap {kind}'");
        cluster.wait_for(&format!("SELECT count(*) FROM ({sql}) s"), "1");
        cluster.kill_backend(cluster.psql(&sql).unwrap().parse().unwrap());
        cluster.wait_until_ready();
        rewrap_all(&cluster, DB);
    }
    assert_all_open(&cluster, DB);
    assert!(!cluster.log().contains("PANIC") && !cluster.log().contains("panicked"), "{}", cluster.log());
}

#[test]
fn idles_quietly_where_database_or_extension_is_missing() {
    let cluster = Cluster::start(&[
        ("shared_preload_libraries", "kms_wrap"),
        ("kms_wrap.worker_databases", " postgres, later ,\"odd name\",, never"),
    ]);
    let lines = || cluster.log().lines().count();
    worker(&cluster, DB);
    let before = lines();
    thread::sleep(Duration::from_secs(5));
    let new: Vec<String> = cluster.log().lines().skip(before).map(str::to_owned).collect();
    // A checkpoint that happens to fall into the time writes its two lines.
    let new: Vec<&String> = new.iter().filter(|line| !line.contains("checkpoint")).collect();
    assert!(new.is_empty(), "{new:?}");

    // It begins when the database, then the extension, appear; and again after DROP EXTENSION under its feet.
    cluster.psql("CREATE DATABASE later").unwrap();
    worker(&cluster, "later");
    install(&cluster, "later");
    wrap(&cluster, "later", 2000);
    rewrap_all(&cluster, "later");
    let pid = worker(&cluster, "later");
    let key = next_key(&cluster, "later");
    schedule(&cluster, "later", &key, "");
    thread::sleep(Duration::from_millis(300));
    cluster.psql_in("later", "DROP EXTENSION kms_wrap CASCADE; DROP TABLE public.deks").unwrap();
    thread::sleep(Duration::from_millis(1500));
    let before = lines();
    thread::sleep(Duration::from_secs(2));
    assert_eq!(lines(), before, "{}", cluster.log());
    install(&cluster, "later");
    wrap(&cluster, "later", 100);
    rewrap_all(&cluster, "later");
    assert_all_open(&cluster, "later");
    assert!(pid > 0 && !cluster.log().contains("PANIC") && !cluster.log().contains("terminated by signal"), "{}", cluster.log());

    // A database that is dropped and made anew.
    cluster.psql("DROP DATABASE later WITH (FORCE)").unwrap();
    cluster.psql("CREATE DATABASE later").unwrap();
    worker(&cluster, "later");
    install(&cluster, "later");
    wrap(&cluster, "later", 10);
    rewrap_all(&cluster, "later");
}

#[test]
fn a_wrapper_that_another_session_is_writing_holds_up_no_other() {
    let cluster = with_worker();
    wrap(&cluster, DB, 300);
    worker(&cluster, DB);
    let (other, key) = (next_key(&cluster, DB), next_key(&cluster, DB));
    cluster.psql(&format!("SELECT kms_wrap.kw_policy_add_key('default', 'kms1', {other})")).unwrap();
    let campaign = schedule(&cluster, DB, &key, ", scheduled_at => now() + interval '1 s'");
    let mut session = cluster.session(DB);
    session.query("BEGIN").unwrap();
    let write = format!("SELECT kms_wrap.kw_rewrap(wrapper_uuid::uuid, target_kms1 => {other}) FROM kms_wrap.key_wrappers WHERE id = 1100");
    session.query(&write).unwrap();
    wait_until("the others are done", || done(&cluster, &campaign) == 299);
    session.query("COMMIT").unwrap();
    wait_until_done(&cluster, DB, &campaign);
    assert_eq!(progress(&cluster, DB, &campaign), "done|300|300|0|0");
    assert_all_open(&cluster, DB);
}

#[test]
fn health_tells_where_the_worker_runs() {
    let cluster = with_worker();
    worker(&cluster, DB);
    let status = "SELECT status FROM kms_wrap.kw_health() WHERE component = 'worker'";
    cluster.wait_for(status, "green");
    cluster.psql("CREATE DATABASE other").unwrap();
    cluster.psql_in("other", "CREATE EXTENSION kms_wrap").unwrap();
    let detail = "SELECT status, detail FROM kms_wrap.kw_health() WHERE component = 'worker'";
    assert_eq!(cluster.psql_in("other", detail).unwrap(), "yellow|not configured for this database");
}

#[test]
fn keeps_the_rate_limit() {
    let cluster = with_worker();
    wrap(&cluster, DB, 3000);
    worker(&cluster, DB);
    let key = next_key(&cluster, DB);
    let slow = schedule(&cluster, DB, &key, ", rate_per_second => 20");
    wait_until("the campaign begins", || done(&cluster, &slow) > 0);
    let (start, first) = (Instant::now(), done(&cluster, &slow));
    let mut most: f64 = 0.0;
    while start.elapsed() < Duration::from_secs(4) {
        thread::sleep(Duration::from_millis(200));
        // One claim more may have been due just then.
        let now = f64::from(done(&cluster, &slow) - first) - 20.0;
        most = most.max(now / start.elapsed().as_secs_f64());
    }
    let moved = f64::from(done(&cluster, &slow) - first);
    assert!(most <= 20.0, "{most} a second instead of 20");
    assert!(moved >= 50.0, "{moved} in 4 s instead of about 80");
    cluster.psql(&format!("SELECT kms_wrap.kw_cancel({slow})")).unwrap();

    // A limit above the size of a batch is reached, not only kept.
    let key = next_key(&cluster, DB);
    let start = Instant::now();
    let quick = schedule(&cluster, DB, &key, ", rate_per_second => 1000");
    wait_until_done(&cluster, DB, &quick);
    let time = start.elapsed().as_secs_f64();
    assert!((2.0..5.5).contains(&time), "{time} s for 3000 wrappers at 1000 a second");

    // Without a worker: kw_run_jobs waits for the limit itself.
    cluster.restart(&[("kms_wrap.worker_databases", "")]);
    let key = next_key(&cluster, DB);
    schedule(&cluster, DB, &key, ", rate_per_second => 20, older_than => '0 s'");
    let start = Instant::now();
    cluster.psql("CALL kms_wrap.kw_run_jobs(max_batches => 5)").unwrap();
    let time = start.elapsed().as_secs_f64();
    assert!((3.8..8.0).contains(&time), "{time} s for five batches of 20 at 20 a second");
    assert_eq!(cluster.psql("SELECT done FROM kms_wrap.rewrap_campaigns ORDER BY id DESC LIMIT 1").unwrap(), "100");
}

#[test]
fn waits_for_the_scheduled_moment() {
    let cluster = with_worker();
    wrap(&cluster, DB, 10);
    worker(&cluster, DB);
    let key = next_key(&cluster, DB);
    let start = Instant::now();
    let campaign = schedule(&cluster, DB, &key, ", scheduled_at => now() + interval '3 s'");
    while start.elapsed() < Duration::from_millis(2500) {
        assert_eq!(progress(&cluster, DB, &campaign), "running|10|0|0|0");
        thread::sleep(Duration::from_millis(100));
    }
    wait_until_done(&cluster, DB, &campaign);
    assert!(start.elapsed() < Duration::from_millis(5500), "{:?}", start.elapsed());
    let early = "SELECT count(*) FROM kms_wrap.rewrap_jobs j JOIN kms_wrap.rewrap_campaigns c ON c.id = campaign_id WHERE j.started_at < c.scheduled_at";
    assert_eq!(cluster.psql(early).unwrap(), "0");
}

#[test]
fn pauses_resumes_and_cancels_at_work() {
    let cluster = with_worker();
    wrap(&cluster, DB, 1000);
    worker(&cluster, DB);
    let key = next_key(&cluster, DB);
    let campaign = schedule(&cluster, DB, &key, ", rate_per_second => 100");
    wait_until("the campaign begins", || done(&cluster, &campaign) > 0);

    cluster.psql(&format!("SELECT kms_wrap.kw_pause({campaign})")).unwrap();
    // What is being worked on ends.
    cluster.wait_for("SELECT count(*) FROM kms_wrap.rewrap_jobs WHERE status = 'running'", "0");
    let paused = done(&cluster, &campaign);
    thread::sleep(Duration::from_millis(2200));
    assert_eq!(done(&cluster, &campaign), paused);
    assert_eq!(cluster.psql(&format!("SELECT kms_wrap.kw_pause({campaign})")).unwrap_err().sqlstate, "55000");

    cluster.psql(&format!("SELECT kms_wrap.kw_resume({campaign})")).unwrap();
    wait_until("the campaign goes on", || done(&cluster, &campaign) > paused);

    cluster.psql(&format!("SELECT kms_wrap.kw_cancel({campaign})")).unwrap();
    cluster.wait_for("SELECT count(*) FROM kms_wrap.rewrap_jobs WHERE status IN ('running', 'pending')", "0");
    let counts = format!(
        "SELECT status, total, failed, done + cancelled, cancelled > 0, finished_at IS NOT NULL,
                done = (SELECT count(*) FROM kms_wrap.rewrap_jobs WHERE status = 'done'),
                done = (SELECT count(*) FROM kms_wrap.key_wrappers WHERE kms1_key_id = {key}),
                cancelled = (SELECT count(*) FROM kms_wrap.rewrap_jobs WHERE status = 'cancelled')
         FROM kms_wrap.rewrap_campaigns WHERE id = {campaign}"
    );
    assert_eq!(cluster.psql(&counts).unwrap(), "cancelled|1000|0|1000|t|t|t|t|t");
    for function in ["kw_resume", "kw_pause", "kw_cancel"] {
        assert_eq!(cluster.psql(&format!("SELECT kms_wrap.{function}({campaign})")).unwrap_err().sqlstate, "55000");
    }
    assert_all_open(&cluster, DB);
    // Another campaign does the rest.
    let campaign = schedule(&cluster, DB, &key, "");
    wait_until_done(&cluster, DB, &campaign);
    assert_all_open(&cluster, DB);
}

#[test]
fn wrappers_that_do_not_open_stop_nobody() {
    let cluster = with_worker();
    wrap(&cluster, DB, 300);
    let id = |offset: u32| cluster.psql(&format!("SELECT id FROM kms_wrap.key_wrappers ORDER BY id LIMIT 1 OFFSET {offset}")).unwrap();
    let bad: Vec<String> = [7, 77, 177, 200, 250].map(id).into();
    let spoil = format!(
        "UPDATE kms_wrap.key_wrappers SET dek_wrap1 = set_byte(dek_wrap1, octet_length(dek_wrap1) / 2, get_byte(dek_wrap1, octet_length(dek_wrap1) / 2) # 1) WHERE id = {};
         UPDATE kms_wrap.key_wrappers SET dek_wrap1 = substr(dek_wrap1, 1, 20) WHERE id = {};
         UPDATE kms_wrap.key_wrappers SET dek_wrap1 = 'x' WHERE id = {};
         DELETE FROM kms_wrap.key_wrapper_layers WHERE key_wrapper_id = {};
         UPDATE kms_wrap.key_wrappers w SET dek_wrap1 = o.dek_wrap1 FROM kms_wrap.key_wrappers o WHERE w.id = {} AND o.id = w.id + 1",
        bad[0], bad[1], bad[2], bad[3], bad[4]
    );
    cluster.psql(&spoil).unwrap();
    let bad = bad.join(",");
    let key = next_key(&cluster, DB);
    let campaign = schedule(&cluster, DB, &key, "");
    wait_until_done(&cluster, DB, &campaign);
    assert_eq!(progress(&cluster, DB, &campaign), "done|300|295|5|0");
    let failed = "SELECT string_agg(key_wrapper_id::text, ',' ORDER BY key_wrapper_id), bool_and(last_error <> ''), max(attempts)
                  FROM kms_wrap.rewrap_jobs WHERE status = 'failed'";
    assert_eq!(cluster.psql(failed).unwrap(), format!("{bad}|t|1"));
    // They stay as they were, and the others are what they were.
    assert_eq!(
        cluster.psql(&format!("SELECT count(*) FROM kms_wrap.key_wrappers WHERE id IN ({bad}) AND kms1_key_id = 1000")).unwrap(),
        "5"
    );
    let others = format!(
        "SELECT count(*) FROM kms_wrap.kw_verify() v JOIN kms_wrap.key_wrappers w ON w.wrapper_uuid = v.wrapper::text WHERE v.ok AND w.id NOT IN ({bad})"
    );
    assert_eq!(cluster.psql(&others).unwrap(), "295");
    let health = "SELECT status, detail FROM kms_wrap.kw_health() WHERE component = 'jobs'";
    assert!(cluster.psql(health).unwrap().starts_with("yellow|"), "{}", cluster.psql(health).unwrap());
}

#[test]
fn a_root_key_file_that_is_away_for_a_while_costs_no_job() {
    let cluster = with_worker();
    wrap(&cluster, DB, 400);
    worker(&cluster, DB);
    let (file, aside) = (cluster.key_dir().join("quickstart-a"), cluster.path("aside"));
    let key = next_key(&cluster, DB);
    let campaign = schedule(&cluster, DB, &key, ", rate_per_second => 100");
    wait_until("the campaign begins", || done(&cluster, &campaign) > 0);
    fs::rename(&file, &aside).unwrap();
    let waiting = "SELECT count(*) > 20 FROM kms_wrap.rewrap_jobs
                   WHERE status = 'pending' AND attempts > 0 AND next_attempt_at > now() - interval '1 s' AND last_error LIKE '%quickstart-a%missing%'";
    cluster.wait_for(waiting, "t");
    let before = done(&cluster, &campaign);
    thread::sleep(Duration::from_millis(1500));
    assert_eq!(done(&cluster, &campaign), before, "rewrapped without the root key");
    fs::rename(&aside, &file).unwrap();
    wait_until_done(&cluster, DB, &campaign);
    assert_eq!(progress(&cluster, DB, &campaign), "done|400|400|0|0");
    assert_all_open(&cluster, DB);
}

#[test]
fn memory_does_not_grow_with_the_number_of_wrappers() {
    let cluster = with_worker();
    wrap(&cluster, DB, 2000);
    rewrap_all(&cluster, DB);
    let pid = worker(&cluster, DB);
    let first = private_memory(pid);
    for _ in 0..5 {
        rewrap_all(&cluster, DB);
    }
    assert_eq!(worker(&cluster, DB), pid);
    let last = private_memory(pid);
    assert!(last < first + 8192, "worker: {first} kB after 2,000 wrappers, {last} kB after 12,000");

    // The same of a session that does the jobs.
    cluster.restart(&[("kms_wrap.worker_databases", "")]);
    let mut session = cluster.session(DB);
    let mut run = || {
        let key = next_key(&cluster, DB);
        let campaign = schedule(&cluster, DB, &key, "");
        session.query("CALL kms_wrap.kw_run_jobs()").unwrap();
        assert_eq!(progress(&cluster, DB, &campaign), "done|2000|2000|0|0");
        private_memory(session.pid())
    };
    let first = run();
    let last = (0..5).map(|_| run()).last().unwrap();
    assert!(last < first + 8192, "session: {first} kB after 2,000 wrappers, {last} kB after 12,000");
}

/// Memory of a process in kB without the buffers that it shares with the others.
fn private_memory(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("RssAnon:")).expect("a line RssAnon");
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}
