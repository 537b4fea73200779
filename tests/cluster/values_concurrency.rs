//! Many sessions at a time, and sessions and servers that die: one DEK a scope, and everything that was committed opens.

use std::thread;
use std::time::Duration;

use crate::columns::{make_policy, protect, with_roles};
use crate::fixture::quickstarted;
use crate::harness::{Cluster, Session, wait_until};

const SESSIONS: usize = 8;

/// Lets all sessions go at the same time: they wait for a lock that this holds.
fn at_once(cluster: &Cluster, statements: &[String]) -> Vec<Result<String, String>> {
    let mut gate = cluster.session("postgres");
    gate.query("SELECT pg_advisory_lock(1)").unwrap();
    let mut sessions: Vec<Session> = statements.iter().map(|_| cluster.session("postgres")).collect();
    for (session, sql) in sessions.iter_mut().zip(statements) {
        session.send(&format!("SELECT pg_advisory_lock_shared(1) IS NULL; {sql}"));
    }
    cluster.wait_for("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted", &statements.len().to_string());
    gate.query("SELECT pg_advisory_unlock(1)").unwrap();
    sessions.iter().map(|session| session.finish().map_err(|error| format!("{error}"))).collect()
}

/// Wrappers of a policy's values: all, scopes, active.
fn wrappers(cluster: &Cluster, policy: &str) -> String {
    let sql = format!(
        "SELECT count(*), count(DISTINCT COALESCE(scope_key, '')), count(*) FILTER (WHERE w.status = 'active') FROM kms_wrap.key_wrappers w
         JOIN kms_wrap.encryption_policies p ON p.id = w.policy_id WHERE p.policy_name = '{policy}' AND w.purpose = 'values'"
    );
    cluster.psql(&sql).unwrap()
}

fn assert_all_fine(results: &[Result<String, String>]) {
    assert!(results.iter().all(Result::is_ok), "{results:?}");
}

/// Envelopes whose wrappers are not here are counted when a transaction ends, which must not make it fail.
#[test]
fn transactions_that_count_the_same_column_both_commit() {
    let cluster = quickstarted(&[]);
    cluster.psql("CREATE TABLE t (id integer PRIMARY KEY, a bytea)").unwrap();
    protect(&cluster, "postgres", "t", "a", "");
    let mut sessions = [cluster.session("postgres"), cluster.session("postgres")];
    for (n, session) in sessions.iter_mut().enumerate() {
        let insert = format!(
            "SET session_replication_role = replica; BEGIN ISOLATION LEVEL REPEATABLE READ;
             INSERT INTO t VALUES ({n}, '\\x4b570101'::bytea || decode(repeat('ab', 56), 'hex'))"
        );
        session.query(&insert).unwrap();
    }
    for session in &mut sessions {
        session.query("COMMIT").unwrap();
    }
    assert_eq!(cluster.psql("SELECT count(*) FROM t").unwrap(), "2");
    assert_eq!(cluster.psql("SELECT unknown_envelopes FROM kms_wrap.protected_columns").unwrap(), "1");
}

#[test]
fn sessions_that_meet_at_the_first_value_make_one_dek() {
    let cluster = with_roles(&[]);
    for round in 0..5 {
        let (policy, table) = (format!("policy_{round}"), format!("people_{round}"));
        make_policy(&cluster, &policy);
        cluster.psql(&format!("CREATE TABLE {table} (id bigint PRIMARY KEY, tenant text NOT NULL, name text)")).unwrap();
        // Odd rounds have one DEK a tenant, even ones an index as well.
        let more = if round % 2 == 1 { ", tenant_column => 'tenant'" } else { ", blind_index => 'unique'" };
        protect(&cluster, "postgres", &table, "name", &format!(", policy => '{policy}'{more}"));
        let inserts: Vec<String> = (0..SESSIONS)
            .map(|n| {
                let row = |i: usize| format!("INSERT INTO {table} VALUES ({}, 'tenant {i}', 'name {}')", n * 10 + i, n * 10 + i);
                format!("BEGIN; {}; {}; COMMIT; {}", row(1), row(2), row(3))
            })
            .collect();
        assert_all_fine(&at_once(&cluster, &inserts));
        assert_eq!(wrappers(&cluster, &policy), if round % 2 == 1 { "3|3|3" } else { "2|2|2" }, "round {round}");
        let open = format!("SELECT count(*) FROM {table}_decrypted WHERE name = 'name ' || id");
        assert_eq!(cluster.psql(&open).unwrap(), (SESSIONS * 3).to_string());

        // Free values.
        let policy = format!("free_{round}");
        make_policy(&cluster, &policy);
        let results = at_once(&cluster, &vec![format!("SELECT kms_wrap.kw_encrypt_text('x', '{policy}')"); SESSIONS]);
        assert_all_fine(&results);
        assert_eq!(wrappers(&cluster, &policy), "1|1|1");
        for sealed in results {
            let sealed = sealed.unwrap();
            let sealed = sealed.lines().last().unwrap();
            assert_eq!(cluster.psql(&format!("SELECT kms_wrap.kw_decrypt_text('{sealed}')")).unwrap(), "x");
        }
    }
}

#[test]
fn two_transactions_that_make_two_deks_in_opposite_order_end_in_a_deadlock_that_can_be_tried_again() {
    let cluster = with_roles(&[("deadlock_timeout", "100ms")]);
    make_policy(&cluster, "one");
    make_policy(&cluster, "two");
    let encrypt = |policy: &str| format!("SELECT kms_wrap.kw_is_sealed(kms_wrap.kw_encrypt_text('x', '{policy}'))");
    let (mut a, mut b) = (cluster.session("postgres"), cluster.session("postgres"));
    a.query(&format!("BEGIN; {}", encrypt("one"))).unwrap();
    b.query(&format!("BEGIN; {}", encrypt("two"))).unwrap();
    a.send(&encrypt("two"));
    assert!(a.is_waiting_after(&cluster, Duration::from_millis(50)));
    let second = b.query(&encrypt("one"));
    let first = a.finish();
    let (winner, loser, error) = match (first, second) {
        (Ok(_), Err(error)) => (&mut a, &mut b, error),
        (Err(error), Ok(_)) => (&mut b, &mut a, error),
        other => panic!("{other:?}"),
    };
    assert_eq!(error.sqlstate, "40P01");
    winner.query("COMMIT").unwrap();
    loser.query("ROLLBACK").unwrap();
    assert_eq!(loser.query(&format!("{}; {}", encrypt("one"), encrypt("two"))).unwrap(), "t\nt");
    for policy in ["one", "two"] {
        assert_eq!(wrappers(&cluster, policy), "1|1|1");
    }
}

/// Whoever waits for the first DEK of another transaction makes one itself when that one is undone.
#[test]
fn a_session_that_waited_for_a_dek_that_was_undone_makes_it() {
    let cluster = with_roles(&[]);
    let new = "SELECT kms_wrap.kw_wrapper_of(kms_wrap.kw_encrypt_text('x', 'spare'))";
    for end in ["ROLLBACK", "COMMIT"] {
        let (mut first, mut second) = (cluster.session("postgres"), cluster.session("postgres"));
        let made = first.query(&format!("BEGIN; {new}")).unwrap();
        second.send(&if end == "ROLLBACK" { format!("BEGIN; {new}; ROLLBACK") } else { new.to_owned() });
        assert!(second.is_waiting_after(&cluster, Duration::from_millis(300)), "it did not wait");
        first.query(end).unwrap();
        assert_eq!(second.finish().unwrap() == made, end == "COMMIT");
    }
    assert_eq!(wrappers(&cluster, "spare"), "1|1|1");
}

#[test]
fn repeatable_read_uses_a_dek_made_meanwhile_and_can_be_tried_again_if_it_lost() {
    let cluster = with_roles(&[]);
    make_policy(&cluster, "again");
    let encrypt = |policy: &str| format!("SELECT kms_wrap.kw_wrapper_of(kms_wrap.kw_encrypt_text('x', '{policy}'))");
    let mut session = cluster.session("postgres");
    // Made and committed after the snapshot was taken: used all the same.
    session.query("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM pg_class").unwrap();
    let made = cluster.psql(&encrypt("spare")).unwrap();
    assert_eq!(session.query(&encrypt("spare")).unwrap(), made);
    session.query("COMMIT").unwrap();

    // Committed while this one was making its own.
    let mut other = cluster.session("postgres");
    let made = other.query(&format!("BEGIN; {}", encrypt("again"))).unwrap();
    session.query("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM pg_class").unwrap();
    session.send(&encrypt("again"));
    assert!(session.is_waiting_after(&cluster, Duration::from_millis(300)));
    other.query("COMMIT").unwrap();
    assert_eq!(session.finish().unwrap_err().sqlstate, "40001");
    session.query("ROLLBACK").unwrap();
    assert_eq!(session.query(&format!("BEGIN ISOLATION LEVEL REPEATABLE READ; {}; COMMIT", encrypt("again"))).unwrap(), made);
    assert_eq!(wrappers(&cluster, "again"), "1|1|1");
}

/// Writes batches of rows until the server or the backend is gone.
fn writer(cluster: &Cluster, number: usize) -> Session {
    let mut session = cluster.session("postgres");
    session.send(&format!(
        "DO $$ DECLARE first bigint; BEGIN
             SELECT COALESCE(max(id), {number}::bigint << 32) + 1 INTO first FROM people WHERE id >> 32 = {number};
             LOOP
                 INSERT INTO people SELECT i, sha256(i::text::bytea)::text, 'tenant ' || i % 7 FROM generate_series(first, first + 499) i;
                 COMMIT;
                 INSERT INTO batches VALUES ({number}, first);
                 COMMIT;
                 first := first + 500;
             END LOOP;
         END $$"
    ));
    session
}

#[test]
fn killed_writers_and_servers_lose_nothing() {
    let cluster = quickstarted(&[("shared_preload_libraries", "kms_wrap")]);
    cluster
        .psql(
            "CREATE TABLE people (id bigint PRIMARY KEY, name text, tenant text NOT NULL); CREATE TABLE batches (writer int, first bigint)",
        )
        .unwrap();
    protect(&cluster, "postgres", "people", "name", ", tenant_column => 'tenant', blind_index => 'index'");
    for round in 0..6 {
        let before: u64 = cluster.psql("SELECT count(*) FROM batches").unwrap().parse().unwrap();
        // In the first round they die while the first DEKs are made.
        let sessions = [writer(&cluster, 1), writer(&cluster, 2), writer(&cluster, 3)];
        if round > 0 {
            let done =
                || cluster.psql("SELECT count(*) FROM batches").is_ok_and(|count| count.parse::<u64>().is_ok_and(|n| n > before + 3));
            wait_until("some batches are written", done);
        }
        thread::sleep(Duration::from_millis(7 * round));
        if round % 2 == 0 {
            cluster.kill_backend(sessions[1].pid());
        } else {
            cluster.crash();
            cluster.up();
        }
        for session in &sessions {
            assert!(session.finish().is_err(), "a session that was killed said that it was done");
        }
        cluster.wait_until_ready();
        check(&cluster);
    }
    let rows: u64 = cluster.psql("SELECT count(*) FROM people").unwrap().parse().unwrap();
    assert!(rows >= 500 * 15, "{rows} rows are too few to say anything");
    // And it goes on.
    cluster
        .psql("INSERT INTO people SELECT -i, sha256((-i)::text::bytea)::text, 'tenant ' || i % 9 FROM generate_series(1, 100) i")
        .unwrap();
    check(&cluster);
}

/// Every row opens and is what it was, no batch that was reported is missing, and there is one DEK a scope.
fn check(cluster: &Cluster) {
    let query = |sql: &str| cluster.psql(sql).unwrap();
    let good = "SELECT count(*) = count(*) FILTER (WHERE name = sha256(id::text::bytea)::text) FROM people_decrypted";
    assert_eq!(query(good), "t");
    assert_eq!(
        query("SELECT count(*) FROM batches b WHERE 500 <> (SELECT count(*) FROM people p WHERE p.id BETWEEN b.first AND b.first + 499)"),
        "0"
    );
    let found = "SELECT count(*) FROM (SELECT id, name FROM people_decrypted ORDER BY id LIMIT 50) s
                 WHERE NOT EXISTS (SELECT FROM people p WHERE p.id = s.id AND p.name_bidx = ANY (kms_wrap.kw_blind_index('people', 'name', s.name)))";
    assert_eq!(query(found), "0");
    let twice = "SELECT count(*) FROM (SELECT FROM kms_wrap.key_wrappers WHERE purpose = 'values' AND status = 'active'
                 GROUP BY policy_id, scope_key HAVING count(*) > 1) s";
    assert_eq!(query(twice), "0");
    assert_eq!(query("SELECT count(*) FROM kms_wrap.kw_verify() WHERE NOT ok"), "0");
}
