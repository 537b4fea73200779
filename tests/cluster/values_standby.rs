//! Values on a streaming standby: read from a cold start, write nothing, obey what is revoked on the primary.

use crate::columns::{OPEN_PEOPLE, SlowRead, TICK, add_people, make_people, make_policy, with_roles};
use crate::harness::Cluster;

const ROWS: u32 = 3000;

/// A primary with `people` and a value of a free call, and its standby, without root key files.
fn pair() -> (Cluster, Cluster) {
    let primary = with_roles(&[]);
    make_people(&primary, ROWS);
    primary
        .psql(&format!(
            "{TICK}; CREATE TABLE free AS SELECT kms_wrap.kw_encrypt_text('free', context => '{{\"row\": \"1\"}}') AS sealed;
             GRANT SELECT ON free TO app"
        ))
        .unwrap();
    let standby = primary.standby();
    primary.wait_for_replay(&standby);
    (primary, standby)
}

/// Does something on the primary and waits until the standby has heard of it.
fn on_primary(primary: &Cluster, standby: &Cluster, sql: &str) {
    primary.psql(sql).unwrap();
    primary.wait_for_replay(standby);
}

const FREE: &str = "SELECT kms_wrap.kw_decrypt_text(sealed, '{\"row\": \"1\"}') FROM free";
const LOOKUP: &str = "SELECT id FROM people WHERE name_bidx = ANY (kms_wrap.kw_blind_index('people', 'name', 'name 7'))";

/// What takes a right or a key away, what gives it back, and what a reader hears.
const REVOCATIONS: [(&str, &str, &str, &str); 4] = [
    (
        "SELECT kms_wrap.kw_revoke('decrypt', 'default', 'app')",
        "SELECT kms_wrap.kw_grant('decrypt', 'default', 'app')",
        "42501",
        "permission denied for policy \"default\"",
    ),
    ("SELECT kms_wrap.kw_set_key_status(1001, 'disabled')", "SELECT kms_wrap.kw_set_key_status(1001, 'active')", "55000", "key"),
    (
        "DELETE FROM kms_wrap.policy_grants WHERE role_name = 'app' AND privilege = 'decrypt' AND policy_id = 1000",
        "SELECT kms_wrap.kw_grant('decrypt', 'default', 'app')",
        "42501",
        "permission denied for policy \"default\"",
    ),
    (
        "UPDATE kms_wrap.kms_keys SET status = 'disabled' WHERE id = 1002",
        "UPDATE kms_wrap.kms_keys SET status = 'active' WHERE id = 1002",
        "55000",
        "key",
    ),
];

#[test]
fn a_standby_reads_from_a_cold_start_and_writes_nothing() {
    let (primary, standby) = pair();
    make_policy(&primary, "unused");
    on_primary(&primary, &standby, "SELECT kms_wrap.kw_grant('encrypt', 'unused', 'app')");
    let all = ROWS.to_string();

    // Without the root key files the error names them.
    let mut session = standby.session_as("app", "postgres");
    for sql in [OPEN_PEOPLE, FREE, LOOKUP, "SELECT kms_wrap.kw_encrypt_text('x')"] {
        let error = session.query(sql).unwrap_err();
        assert_eq!((error.sqlstate.as_str(), error.message.as_str()), ("58000", "could not reach key provider \"local-a\""), "{sql}");
        assert!(error.detail.contains("quickstart-a"), "{sql}: {}", error.detail);
    }
    let health =
        standby.psql("SELECT string_agg(name || ' ' || status, ',' ORDER BY name) FROM kms_wrap.kw_health() WHERE component = 'provider'");
    assert_eq!(health.unwrap(), "local-a red,local-b red");

    standby.copy_keys_from(&primary);
    // The session that failed, and one whose first statement this is.
    for session in [&mut session, &mut standby.session_as("app", "postgres")] {
        assert_eq!(session.query(OPEN_PEOPLE).unwrap(), all);
        assert_eq!(session.query(FREE).unwrap(), "free");
        assert_eq!(session.query(LOOKUP).unwrap(), "7");
    }

    // With a current DEK encrypting only reads; without one it would have to be made.
    let wrappers = "SELECT count(*) FROM kms_wrap.key_wrappers";
    let before = standby.psql(wrappers).unwrap();
    let round =
        "SELECT kms_wrap.kw_decrypt_text(kms_wrap.kw_encrypt_text('made here')), kms_wrap.kw_decrypt(kms_wrap.kw_encrypt('\\x00ff'))";
    assert_eq!(session.query(round).unwrap(), "made here|\\x00ff");
    for sql in ["SELECT kms_wrap.kw_encrypt_text('x', 'unused')", "SELECT kms_wrap.kw_encrypt('x', 'unused')"] {
        let error = session.query(sql).unwrap_err();
        assert_eq!(error.sqlstate, "25006", "{sql}: {error}");
    }
    let error = session.query("INSERT INTO people VALUES (0, 'x')").unwrap_err();
    assert_eq!(error.sqlstate, "25006", "{error}");
    assert_eq!(standby.psql(wrappers).unwrap(), before);

    // What is written on the primary afterwards opens here, under the DEK that is held and under one that isn't.
    add_people(&primary, ROWS + 1, 50);
    let rotate = "SELECT kms_wrap.kw_rotate_dek(w) FROM (SELECT kms_wrap.kw_wrapper_of(name) FROM people WHERE id = 1
                  UNION ALL SELECT kms_wrap.kw_wrapper_of(sealed) FROM free) s (w)";
    on_primary(&primary, &standby, rotate);
    add_people(&primary, ROWS + 51, 50);
    primary.wait_for_replay(&standby);
    assert_eq!(session.query(OPEN_PEOPLE).unwrap(), (ROWS + 100).to_string());
    assert_eq!(session.query(round).unwrap(), "made here|\\x00ff");

    // Promoted, it writes, and makes the DEK that was missing.
    primary.down();
    standby.psql("SELECT pg_promote()").unwrap();
    standby.wait_for("SELECT pg_is_in_recovery()", "f");
    assert_eq!(session.query("SELECT kms_wrap.kw_is_sealed(kms_wrap.kw_encrypt_text('x', 'unused'))").unwrap(), "t");
    assert_eq!(session.query("INSERT INTO people VALUES (0, 'name 0') RETURNING kms_wrap.kw_is_sealed(name)").unwrap(), "t");
    assert_eq!(session.query(OPEN_PEOPLE).unwrap(), (ROWS + 101).to_string());
}

#[test]
fn revocation_reaches_open_sessions_of_a_standby() {
    let (primary, standby) = pair();
    standby.copy_keys_from(&primary);
    let all = ROWS.to_string();
    let mut session = standby.session_as("app", "postgres");
    let mut steady = standby.session_as("app", "postgres");
    for (revoke, restore, sqlstate, message) in REVOCATIONS {
        assert_eq!(session.query(OPEN_PEOPLE).unwrap(), all);
        // A transaction whose snapshot is from before.
        steady.query("BEGIN ISOLATION LEVEL REPEATABLE READ").unwrap();
        assert_eq!(steady.query(OPEN_PEOPLE).unwrap(), all);
        on_primary(&primary, &standby, revoke);
        for session in [&mut session, &mut steady] {
            let error = session.query(OPEN_PEOPLE).unwrap_err();
            assert!(error.sqlstate == sqlstate && error.message.contains(message), "{revoke}: {error}");
        }
        assert_eq!(session.query(FREE).unwrap_err().sqlstate, sqlstate, "{revoke}");
        steady.query("ROLLBACK").unwrap();
        on_primary(&primary, &standby, restore);
        assert_eq!(session.query(FREE).unwrap(), "free", "{restore}");
    }

    // What is rolled back on the primary takes nothing away.
    on_primary(&primary, &standby, "BEGIN; SELECT kms_wrap.kw_revoke('decrypt', 'default', 'app'); ROLLBACK");
    assert_eq!(session.query(OPEN_PEOPLE).unwrap(), all);

    // Membership: a right that comes by a role, and goes with it.
    let mut member = standby.session_as("other", "postgres");
    on_primary(&primary, &standby, "GRANT app TO other");
    assert_eq!(member.query(OPEN_PEOPLE).unwrap(), all);
    on_primary(
        &primary,
        &standby,
        "GRANT SELECT ON people, people_decrypted TO other; GRANT EXECUTE ON FUNCTION kms_wrap.kw_open_column_text TO other",
    );
    assert_eq!(member.query(OPEN_PEOPLE).unwrap(), all);
    on_primary(&primary, &standby, "REVOKE app FROM other");
    let error = member.query(OPEN_PEOPLE).unwrap_err();
    assert_eq!((error.sqlstate.as_str(), error.message.as_str()), ("42501", "permission denied for policy \"default\""));
    assert_eq!(session.query(OPEN_PEOPLE).unwrap(), all);

    // Last, because it is final.
    steady.query("BEGIN ISOLATION LEVEL REPEATABLE READ").unwrap();
    assert_eq!(steady.query(OPEN_PEOPLE).unwrap(), all);
    on_primary(&primary, &standby, "UPDATE kms_wrap.key_wrappers SET status = 'invalid' WHERE purpose = 'values'");
    for session in [&mut session, &mut steady] {
        let error = session.query(OPEN_PEOPLE).unwrap_err();
        assert_eq!(error.sqlstate, "55000", "{error}");
    }
}

#[test]
fn revocation_stops_a_running_select_of_a_standby() {
    let (primary, standby) = pair();
    standby.copy_keys_from(&primary);
    let invalid = ("UPDATE kms_wrap.key_wrappers SET status = 'invalid' WHERE purpose = 'values'", "SELECT 1", "55000", "wrapper");
    for (number, (revoke, restore, sqlstate, message)) in REVOCATIONS.into_iter().chain([invalid]).enumerate() {
        let mut session = standby.session_as("app", "postgres");
        if number % 2 == 1 {
            session.query("BEGIN ISOLATION LEVEL REPEATABLE READ").unwrap();
        }
        let read = SlowRead::start(&standby, &mut session, &format!("standby {number}"));
        on_primary(&primary, &standby, revoke);
        let then = read.rows();
        let error = session.finish().unwrap_err();
        assert!(error.sqlstate == sqlstate && error.message.contains(message), "{revoke}: {error}");
        let more = read.rows() - then;
        assert!(more <= 65, "{revoke}: {more} rows came after it was replayed");
        assert!(read.rows() < usize::try_from(ROWS).unwrap(), "{revoke}: it had read everything");
        on_primary(&primary, &standby, restore);
    }
}
