//! When keys and rights held in memory end: revocation in running statements, two-phase commit, roll-backs, DISCARD ALL, limits, processes.

use std::fs;
use std::time::Duration;

use crate::columns::{OPEN_PEOPLE, SlowRead, TICK, make_people, with_roles};
use crate::harness::{Cluster, Session, wait_until};

const ROWS: u32 = 3000;

fn with_people(settings: &[(&str, &str)]) -> Cluster {
    let cluster = with_roles(settings);
    cluster.psql(TICK).unwrap();
    make_people(&cluster, ROWS);
    cluster
}

fn refused(session: &mut Session, sql: &str) -> String {
    let error = session.query(sql).unwrap_err();
    format!("{} {}", error.sqlstate, error.message)
}

const REVOKE: &str = "SELECT kms_wrap.kw_revoke('decrypt', 'default', 'app')";
const GRANT: &str = "SELECT kms_wrap.kw_grant('decrypt', 'default', 'app')";
const NO_RIGHT: &str = "42501 permission denied for policy \"default\"";

/// What stops readers, what lets them read again, and what they hear.
const STOPS: [(&str, &str, &str); 5] = [
    (REVOKE, GRANT, "42501"),
    (
        "ALTER ROLE app NOLOGIN; DELETE FROM kms_wrap.policy_grants",
        "ALTER ROLE app LOGIN; SELECT kms_wrap.kw_grant('decrypt', 'default', 'app')",
        "42501",
    ),
    ("SELECT kms_wrap.kw_set_key_status(1000, 'disabled')", "SELECT kms_wrap.kw_set_key_status(1000, 'active')", "55000"),
    (
        "SET session_replication_role = replica; UPDATE kms_wrap.kms_keys SET status = 'disabled' WHERE id = 1002",
        "UPDATE kms_wrap.kms_keys SET status = 'active' WHERE id = 1002",
        "55000",
    ),
    ("UPDATE kms_wrap.key_wrappers SET status = 'invalid' WHERE purpose = 'values'", "SELECT 1", "55000"),
];

#[test]
fn a_running_select_stops_within_64_calls() {
    let cluster = with_people(&[]);
    for (number, (stop, restore, sqlstate)) in STOPS.into_iter().enumerate() {
        let mut session = cluster.session_as("app", "postgres");
        if number % 2 == 1 {
            session.query("BEGIN ISOLATION LEVEL REPEATABLE READ").unwrap();
        }
        let read = SlowRead::start(&cluster, &mut session, &format!("primary {number}"));
        cluster.psql(stop).unwrap();
        let then = read.rows();
        let error = session.finish().unwrap_err();
        assert_eq!(error.sqlstate, sqlstate, "{stop}: {error}");
        let more = read.rows() - then;
        assert!(more <= 65, "{stop}: {more} rows came after it was committed");
        cluster.psql(restore).unwrap();
    }
}

#[test]
fn truncating_the_grants_waits_for_readers_and_then_counts() {
    let cluster = with_people(&[]);
    let mut session = cluster.session_as("app", "postgres");
    session.query("BEGIN").unwrap();
    assert_eq!(session.query(OPEN_PEOPLE).unwrap(), ROWS.to_string());
    // A transaction that has read the table holds a lock on it, so TRUNCATE is not the way to revoke anything at once.
    let mut owner = cluster.session("postgres");
    owner.send("TRUNCATE kms_wrap.policy_grants");
    assert!(owner.is_waiting_after(&cluster, Duration::from_millis(300)));
    assert_eq!(session.query(OPEN_PEOPLE).unwrap(), ROWS.to_string());
    session.query("COMMIT").unwrap();
    owner.finish().unwrap();
    assert_eq!(refused(&mut session, OPEN_PEOPLE), NO_RIGHT);
}

#[test]
fn what_is_rolled_back_stops_nobody() {
    let cluster = with_people(&[]);
    let mut session = cluster.session_as("app", "postgres");
    let read = SlowRead::start(&cluster, &mut session, "undisturbed");
    for undone in [REVOKE, "DELETE FROM kms_wrap.policy_grants", "SELECT kms_wrap.kw_set_key_status(1000, 'disabled')"] {
        cluster.psql(&format!("BEGIN; {undone}; ROLLBACK; BEGIN; SAVEPOINT s; {undone}; ROLLBACK TO s; COMMIT")).unwrap();
        let then = read.rows();
        wait_until("it goes on", || read.rows() > then + 130);
    }
    assert_eq!(session.finish().unwrap(), ROWS.to_string());
}

/// A plan with workers, which read rights and open wrappers on their own.
const PARALLEL: &str = "SET parallel_setup_cost = 0; SET parallel_tuple_cost = 0; SET min_parallel_table_scan_size = 0;
    SET max_parallel_workers_per_gather = 2; SET parallel_leader_participation = off";

#[test]
fn parallel_workers_have_the_rights_of_the_caller() {
    let cluster = with_people(&[("max_worker_processes", "8")]);
    let mut session = cluster.session_as("app", "postgres");
    session.query(PARALLEL).unwrap();
    // Each row is opened in a worker: the filter is below Gather.
    let plan = session.query(&format!("EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF, SUMMARY OFF) {OPEN_PEOPLE}")).unwrap();
    assert!(plan.contains("Workers Launched: 2") && plan.contains("Parallel Seq Scan"), "{plan}");
    assert_eq!(session.query(OPEN_PEOPLE).unwrap(), ROWS.to_string());
    assert_eq!(session.query(&format!("BEGIN ISOLATION LEVEL REPEATABLE READ; {OPEN_PEOPLE}; COMMIT")).unwrap(), ROWS.to_string());

    let mut other = cluster.session_as("other", "postgres");
    cluster
        .psql("GRANT SELECT ON people, people_decrypted TO other; GRANT EXECUTE ON FUNCTION kms_wrap.kw_open_column_text TO other")
        .unwrap();
    other.query(PARALLEL).unwrap();
    assert_eq!(refused(&mut other, OPEN_PEOPLE), NO_RIGHT);
    // The rights are those of the role that is set, not of the one that logged in.
    cluster.psql("GRANT other TO app").unwrap();
    session.query("SET ROLE other").unwrap();
    assert_eq!(refused(&mut session, OPEN_PEOPLE), NO_RIGHT);
    session.query("RESET ROLE").unwrap();

    let read = SlowRead::start(&cluster, &mut session, "in parallel");
    cluster.psql(REVOKE).unwrap();
    let then = read.rows();
    assert_eq!(session.finish().unwrap_err().sqlstate, "42501");
    assert!(read.rows() - then <= 2 * 65, "{} rows came afterwards", read.rows() - then);
}

const WRAPPER_OF_NEW: &str = "SELECT kms_wrap.kw_wrapper_of(kms_wrap.kw_encrypt_text('x', 'spare'))";

/// The wrapper whose DEK encrypts values of policy `spare`, as the table has it.
fn current(cluster: &Cluster) -> String {
    let sql = "SELECT w.wrapper_uuid FROM kms_wrap.key_wrappers w JOIN kms_wrap.encryption_policies p ON p.id = w.policy_id
               WHERE p.policy_name = 'spare' AND w.purpose = 'values' AND w.status = 'active'";
    cluster.psql(sql).unwrap()
}

#[test]
fn a_dek_of_a_transaction_that_is_undone_is_not_used_again() {
    let cluster = with_roles(&[]);
    let mut session = cluster.session_as("app", "postgres");
    let undone = [
        format!("BEGIN; {WRAPPER_OF_NEW}; {WRAPPER_OF_NEW}; ROLLBACK"),
        format!("BEGIN; SAVEPOINT s; {WRAPPER_OF_NEW}; {WRAPPER_OF_NEW}; ROLLBACK TO s; COMMIT"),
        // By an error.
        "DO $$ BEGIN PERFORM kms_wrap.kw_encrypt_text('x', 'spare'); PERFORM kms_wrap.kw_encrypt_text('x', 'spare'); PERFORM 1 / 0;
               EXCEPTION WHEN division_by_zero THEN NULL; END $$"
            .to_owned(),
        // Read in the outer transaction, made in the inner one.
        format!("BEGIN; SAVEPOINT s; {WRAPPER_OF_NEW}; RELEASE s; {WRAPPER_OF_NEW}; ROLLBACK"),
    ];
    let mut seen = Vec::new();
    for sql in &undone {
        seen.extend(session.query(sql).unwrap().lines().map(str::to_owned));
        assert_eq!(current(&cluster), "", "{sql}");
    }
    // In one transaction the savepoint's is gone, and a new one is made after it.
    let lines =
        session.query(&format!("BEGIN; SAVEPOINT s; {WRAPPER_OF_NEW}; ROLLBACK TO s; {WRAPPER_OF_NEW}; COMMIT; {WRAPPER_OF_NEW}")).unwrap();
    let lines: Vec<&str> = lines.lines().collect();
    assert!(lines[0] != lines[1] && lines[1] == lines[2], "{lines:?}");
    assert_eq!(current(&cluster), lines[2]);
    assert!(!seen.is_empty() && !seen.iter().any(|wrapper| lines[1..].contains(&wrapper.as_str())), "{seen:?} {lines:?}");

    // A grant and a rotation that are undone.
    cluster.psql("GRANT SELECT ON kms_wrap.key_wrappers TO app").unwrap();
    let mut owner = cluster.session("postgres");
    let undone = format!(
        "BEGIN; SELECT kms_wrap.kw_revoke('encrypt', 'spare', 'app'); SET LOCAL ROLE app; SAVEPOINT s; {WRAPPER_OF_NEW}; ROLLBACK TO s; ROLLBACK"
    );
    assert_eq!(owner.query(&undone).unwrap_err().sqlstate, "42501");
    assert_eq!(owner.query(&format!("SET ROLE app; {WRAPPER_OF_NEW}; RESET ROLE")).unwrap(), lines[2]);
    let rotated = owner
        .query(&format!("BEGIN; SELECT kms_wrap.kw_rotate_dek('{}'); {WRAPPER_OF_NEW}; ROLLBACK; {WRAPPER_OF_NEW}", lines[2]))
        .unwrap();
    let rotated: Vec<&str> = rotated.lines().collect();
    assert!(rotated[0] == rotated[1] && rotated[2] == lines[2], "{rotated:?} {lines:?}");
}

#[test]
fn prepared_transactions_keep_nothing_in_memory() {
    let cluster = with_people(&[("max_prepared_transactions", "5")]);
    let mut session = cluster.session_as("app", "postgres");
    let sealed = "SELECT kms_wrap.kw_encrypt_text('in doubt', 'spare')";
    for commit in [false, true] {
        let envelope = session.query(&format!("BEGIN; {sealed}; {sealed}; PREPARE TRANSACTION 'doubt'")).unwrap();
        let envelope = envelope.lines().last().unwrap().to_owned();
        let open = format!("SELECT kms_wrap.kw_decrypt_text('{envelope}')");
        let wrapper = session.query(&format!("SELECT kms_wrap.kw_wrapper_of('{envelope}'::text)")).unwrap();
        // Its DEK is nobody's until it is decided: it opens nothing, and a new one has to wait.
        assert_eq!(current(&cluster), "");
        for session in [&mut session, &mut cluster.session_as("app", "postgres")] {
            assert_eq!(refused(session, &open), format!("42704 wrapper \"{wrapper}\" does not exist"));
            session.query("SET lock_timeout = '200ms'").unwrap();
            assert_eq!(session.query(sealed).unwrap_err().sqlstate, "55P03");
            session.query("RESET lock_timeout").unwrap();
        }
        if commit {
            session.query("COMMIT PREPARED 'doubt'").unwrap();
            assert_eq!(session.query(&open).unwrap(), "in doubt");
            assert_eq!(session.query(WRAPPER_OF_NEW).unwrap(), wrapper);
        } else {
            session.query("ROLLBACK PREPARED 'doubt'").unwrap();
            assert_eq!(session.query(&open).unwrap_err().sqlstate, "42704");
            let lines = session.query(&format!("BEGIN; {WRAPPER_OF_NEW}; ROLLBACK")).unwrap();
            assert_ne!(lines, wrapper);
        }
        assert_eq!(current(&cluster), if commit { wrapper.as_str() } else { "" });
    }

    // Revocation takes effect with COMMIT PREPARED, for the session that prepared it too.
    let mut owner = cluster.session("postgres");
    let mine = format!("SET ROLE app; {OPEN_PEOPLE}; RESET ROLE");
    for decide in ["ROLLBACK PREPARED 'r'", "COMMIT PREPARED 'r'"] {
        owner.query(&format!("BEGIN; {REVOKE}; PREPARE TRANSACTION 'r'")).unwrap();
        assert_eq!(owner.query(&mine).unwrap(), ROWS.to_string());
        assert_eq!(session.query(OPEN_PEOPLE).unwrap(), ROWS.to_string());
        owner.query(decide).unwrap();
    }
    assert_eq!(refused(&mut session, OPEN_PEOPLE), NO_RIGHT);
    assert_eq!(refused(&mut owner, &mine), NO_RIGHT);

    // A prepared INSERT into a protected table, committed after a crash.
    owner.query("RESET ROLE; BEGIN; INSERT INTO people VALUES (0, 'name 0'); PREPARE TRANSACTION 'row'").unwrap();
    cluster.crash();
    cluster.up();
    cluster.psql("COMMIT PREPARED 'row'").unwrap();
    assert_eq!(cluster.psql(OPEN_PEOPLE).unwrap(), (ROWS + 1).to_string());
}

/// Puts the root key files out of reach, so that only a DEK in memory opens anything.
fn hide_keys(cluster: &Cluster, hidden: bool) {
    let (here, aside) = (cluster.key_dir(), cluster.path("aside"));
    if hidden { fs::rename(here, aside).unwrap() } else { fs::rename(aside, here).unwrap() }
}

#[test]
fn memory_ends_with_discard_all_and_at_its_limits() {
    let cluster = with_people(&[]);
    let one = "SELECT name FROM people_decrypted WHERE id = 1";
    let mut session = cluster.session_as("app", "postgres");
    // DISCARD ALL, and not its parts.
    assert_eq!(session.query(one).unwrap(), "name 1");
    hide_keys(&cluster, true);
    session.query("DISCARD PLANS; DISCARD TEMP; DISCARD SEQUENCES").unwrap();
    assert_eq!(session.query(one).unwrap(), "name 1");
    session.query("DISCARD ALL").unwrap();
    assert_eq!(session.query(one).unwrap_err().sqlstate, "58000");
    hide_keys(&cluster, false);

    for (setting, value, last) in [("cache_uses", "5", 5), ("cache_ttl", "2", 0), ("cache_ttl", "0", 1)] {
        cluster.set(&[(&format!("kms_wrap.{setting}"), value)]);
        cluster.reload();
        cluster.wait_for(
            &format!("SHOW kms_wrap.{setting}"),
            &if setting == "cache_ttl" && value != "0" { format!("{value}s") } else { value.to_owned() },
        );
        let mut session = cluster.session_as("app", "postgres");
        assert_eq!(session.query(one).unwrap(), "name 1");
        hide_keys(&cluster, true);
        if last > 0 {
            for _ in 1..last {
                assert_eq!(session.query(one).unwrap(), "name 1", "{setting}");
            }
        } else {
            session.query("SELECT pg_sleep(2.1)").unwrap();
        }
        assert_eq!(session.query(one).unwrap_err().sqlstate, "58000", "{setting} = {value}");
        hide_keys(&cluster, false);
        assert_eq!(session.query(one).unwrap(), "name 1", "{setting}");
        cluster.set(&[(&format!("kms_wrap.{setting}"), if setting == "cache_uses" { "0" } else { "300" })]);
        cluster.reload();
    }
}

fn threads(pid: u32) -> usize {
    fs::read_dir(format!("/proc/{pid}/task")).unwrap().count()
}

/// Calls of read() and write() and their like, so far.
fn calls(pid: u32) -> u64 {
    let io = fs::read_to_string(format!("/proc/{pid}/io")).unwrap();
    let number = |name: &str| io.lines().find_map(|line| line.strip_prefix(name)?.trim().parse::<u64>().ok()).unwrap();
    number("syscr:") + number("syscw:")
}

#[test]
fn a_backend_stays_one_thread_and_a_warm_call_does_no_io() {
    let cluster = with_people(&[]);
    let mut session = cluster.session("postgres");
    let pid = session.pid();
    for sql in [
        "SELECT kms_wrap.kw_wrap_dek()",
        "SELECT kms_wrap.kw_rewrap((SELECT wrapper_uuid::uuid FROM kms_wrap.key_wrappers WHERE purpose = 'caller'), target_kms1 => 1000)",
        "SELECT count(kms_wrap.kw_decrypt_text(kms_wrap.kw_encrypt_text('x'))) FROM generate_series(1, 10000)",
        "UPDATE people SET name = 'name ' || id",
        OPEN_PEOPLE,
        "SELECT kms_wrap.kw_rotate_dek(kms_wrap.kw_wrapper_of(name)) FROM people WHERE id = 1",
        "SELECT count(*) FROM kms_wrap.kw_verify()",
    ] {
        session.send(sql);
        assert_eq!(threads(pid), 1, "{sql}");
        session.finish().unwrap();
        assert_eq!(threads(pid), 1, "{sql}");
    }
    // While it is at it, too.
    session.send("SELECT count(kms_wrap.kw_decrypt_text(kms_wrap.kw_encrypt_text('x'))) FROM generate_series(1, 200000)");
    for _ in 0..20 {
        assert_eq!(threads(pid), 1);
        std::thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(session.finish().unwrap(), "200000");

    let warm = "SELECT count(kms_wrap.kw_decrypt_text(kms_wrap.kw_encrypt_text('x'))) FROM generate_series(1, 20000)";
    session.query(warm).unwrap();
    let before = calls(pid);
    session.query(warm).unwrap();
    let some = calls(pid) - before;
    assert!(some < 100, "{some} reads and writes for 40,000 calls");
    // The counter does count.
    let before = calls(pid);
    session.query("SELECT count(pg_read_file('PG_VERSION')) FROM generate_series(1, 200)").unwrap();
    assert!(calls(pid) - before >= 200, "the counter counts nothing");
}

/// Which mappings a core dump of a process would have, as bits: 1 for private memory.
fn core_dump_filter(pid: u32) -> u32 {
    let text = fs::read_to_string(format!("/proc/{pid}/coredump_filter")).unwrap();
    u32::from_str_radix(text.trim(), 16).unwrap()
}

#[test]
fn a_core_dump_has_no_keys() {
    let cluster = with_people(&[]);
    let mut session = cluster.session("postgres");
    session.query("SELECT count(*) FROM people").unwrap();
    let before = core_dump_filter(session.pid());
    assert_eq!(before & 1, 1);
    session.query(OPEN_PEOPLE).unwrap();
    // Private memory, and private huge pages.
    assert_eq!(core_dump_filter(session.pid()), before & !0b10_0001);
    // Nor has one of a process that only made a root key.
    let mut maker = cluster.session("postgres");
    assert_eq!(core_dump_filter(maker.pid()), before);
    maker.query("SELECT kms_wrap.kw_create_root_key('another')").unwrap();
    assert_eq!(core_dump_filter(maker.pid()), before & !0b10_0001);
}

#[test]
fn processes_share_no_nonces() {
    let cluster = with_roles(&[]);
    cluster.psql("SELECT kms_wrap.kw_encrypt('x')").unwrap();
    // Version, cipher and wrapper take 20 bytes, the next 12 choose the message key.
    let sql = "SELECT substr(kms_wrap.kw_encrypt('x'), 21, 12) FROM generate_series(1, 3)";
    let mut prefixes = Vec::new();
    for _ in 0..20 {
        let lines = cluster.psql(&format!("{sql}; {sql}")).unwrap();
        let lines: Vec<String> = lines.lines().map(str::to_owned).collect();
        // One run a transaction.
        assert!(lines[0] == lines[1] && lines[0] == lines[2] && lines[3] == lines[4] && lines[0] != lines[3], "{lines:?}");
        prefixes.extend([lines[0].clone(), lines[3].clone()]);
    }
    prefixes.sort();
    prefixes.dedup();
    assert_eq!(prefixes.len(), 40);
}
