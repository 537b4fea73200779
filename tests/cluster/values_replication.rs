//! Protected tables in logical replication: what arrives is what was sent, whether or not the subscriber can open it.

use std::fs;

use crate::columns::protect;
use crate::fixture::{install, quickstarted};
use crate::harness::{Cluster, wait_until};

const DB: &str = "postgres";
const TABLE: &str = "CREATE TABLE people (id bigint PRIMARY KEY, name text)";
const OPEN: &str = "SELECT count(*), count(*) FILTER (WHERE name = 'name ' || id) FROM people_decrypted";
const STORED: &str = "SELECT * FROM people ORDER BY id";
const UNKNOWN: &str = "SELECT unknown_envelopes FROM kms_wrap.protected_columns";

fn publisher() -> Cluster {
    let cluster = quickstarted(&[("shared_preload_libraries", "kms_wrap"), ("wal_level", "logical")]);
    cluster.psql(TABLE).unwrap();
    cluster
}

fn protect_people(cluster: &Cluster) {
    protect(cluster, DB, "people", "name", ", blind_index => 'index'");
}

fn subscribe(subscriber: &Cluster, publisher: &Cluster, options: &str) {
    publisher.psql("CREATE PUBLICATION people FOR TABLE people").unwrap();
    let sql = format!(
        "CREATE SUBSCRIPTION people CONNECTION 'host={} user=postgres dbname=postgres' PUBLICATION people {options}",
        publisher.path("")
    );
    subscriber.psql(&sql).unwrap();
}

/// Waits until the subscriber has everything that was committed so far, the first copy too.
fn caught_up(subscriber: &Cluster, publisher: &Cluster) {
    subscriber.wait_for("SELECT count(*) FROM pg_subscription_rel WHERE srsubstate NOT IN ('r', 's')", "0");
    let position = publisher.psql("SELECT pg_current_wal_lsn()").unwrap();
    publisher
        .wait_for(&format!("SELECT bool_and(replay_lsn >= '{position}') FROM pg_stat_replication WHERE application_name = 'people'"), "t");
}

/// Every kind of change: rows that were there before, insert, update of value and of key, delete, NULL.
fn change(publisher: &Cluster) {
    publisher
        .psql(
            "INSERT INTO people SELECT i, 'name ' || i FROM generate_series(101, 200) i;
             UPDATE people SET name = 'name ' || id WHERE id <= 50;
             UPDATE people SET id = id + 1000, name = 'name ' || id + 1000 WHERE id BETWEEN 51 AND 60;
             UPDATE people SET name = 'name 2061', id = 2061 WHERE id = 61;
             DELETE FROM people WHERE id BETWEEN 62 AND 70;
             INSERT INTO people VALUES (3000, NULL);
             BEGIN; INSERT INTO people VALUES (4000, 'undone'); ROLLBACK",
        )
        .unwrap();
}

#[test]
fn a_subscriber_with_the_same_wrappers_keeps_and_opens_envelopes() {
    let publisher = publisher();
    protect_people(&publisher);
    publisher.psql("INSERT INTO people SELECT i, 'name ' || i FROM generate_series(1, 100) i").unwrap();
    // Two subscribers that were made from a dump: one copies the rows, the other has them.
    for (number, (options, dump)) in
        [("", ["--exclude-table-data=people"].as_slice()), ("WITH (copy_data = false)", &[])].into_iter().enumerate()
    {
        let subscriber = Cluster::start(&[("shared_preload_libraries", "kms_wrap")]);
        subscriber.psql_in(DB, &publisher.dump(DB, dump)).unwrap();
        subscriber.copy_keys_from(&publisher);
        subscribe(&subscriber, &publisher, options);
        caught_up(&subscriber, &publisher);
        change(&publisher);
        caught_up(&subscriber, &publisher);
        assert_eq!(subscriber.psql(STORED).unwrap(), publisher.psql(STORED).unwrap(), "subscriber {number}");
        assert_eq!(subscriber.psql(OPEN).unwrap(), "192|191");
        assert_eq!(subscriber.psql(UNKNOWN).unwrap(), "0");
        assert_eq!(
            subscriber
                .psql("SELECT id FROM people WHERE name_bidx = ANY (kms_wrap.kw_blind_index('people', 'name', 'name 1055'))")
                .unwrap(),
            "1055"
        );
        // A DEK that the publisher makes later is unknown here until it is brought over.
        publisher.psql("SELECT kms_wrap.kw_rotate_dek(kms_wrap.kw_wrapper_of(name)) FROM people WHERE id = 1; UPDATE people SET name = 'name ' || id WHERE id = 1").unwrap();
        caught_up(&subscriber, &publisher);
        assert_eq!(subscriber.psql(UNKNOWN).unwrap(), "1");
        assert_eq!(subscriber.psql(STORED).unwrap(), publisher.psql(STORED).unwrap());
        assert_eq!(subscriber.psql(OPEN).unwrap_err().sqlstate, "42704");
        assert_eq!(subscriber.psql(&format!("{OPEN} WHERE id > 1")).unwrap(), "191|190");
        // The next one starts as the first one did.
        subscriber.psql("DROP SUBSCRIPTION people").unwrap();
        publisher
            .psql(
                "DROP PUBLICATION people; TRUNCATE people;
                 INSERT INTO people SELECT i, 'name ' || i FROM generate_series(1, 100) i",
            )
            .unwrap();
    }
}

#[test]
fn a_subscriber_without_the_wrappers_stores_and_counts_envelopes() {
    let publisher = publisher();
    protect_people(&publisher);
    publisher.psql("INSERT INTO people SELECT i, 'name ' || i FROM generate_series(1, 100) i").unwrap();
    // Keys of its own, and a column of its own.
    let subscriber = Cluster::start(&[("shared_preload_libraries", "kms_wrap")]);
    install(&subscriber, DB);
    subscriber.psql(TABLE).unwrap();
    protect_people(&subscriber);
    subscribe(&subscriber, &publisher, "");
    caught_up(&subscriber, &publisher);
    change(&publisher);
    caught_up(&subscriber, &publisher);
    assert_eq!(subscriber.psql(STORED).unwrap(), publisher.psql(STORED).unwrap());
    // One for each sealed value that came in: 100 at first, then 100 new ones, 50 changed ones and 11 with another key.
    assert_eq!(subscriber.psql(UNKNOWN).unwrap(), "261");
    let health = subscriber.psql("SELECT status FROM kms_wrap.kw_health() WHERE detail LIKE '%261%'").unwrap();
    assert_eq!(health, "yellow", "{}", subscriber.psql("SELECT * FROM kms_wrap.kw_health()").unwrap());
    let error = subscriber.psql(OPEN).unwrap_err();
    assert_eq!(error.sqlstate, "42704", "{error}");
    // What is written here is sealed with its own DEK, and opens.
    subscriber.psql("INSERT INTO people VALUES (5000, 'name 5000')").unwrap();
    assert_eq!(subscriber.psql(&format!("{OPEN} WHERE id = 5000")).unwrap(), "1|1");
    // An ordinary session can't bring in what the replica could.
    let foreign = subscriber.psql("SELECT name FROM people WHERE id = 1").unwrap();
    let error = subscriber.psql(&format!("INSERT INTO people VALUES (6000, '{foreign}')")).unwrap_err();
    assert_eq!(error.sqlstate, "22023", "{error}");
}

#[test]
fn a_subscriber_seals_what_an_unprotected_publisher_sends() {
    let publisher = publisher();
    publisher.psql("INSERT INTO people SELECT i, 'name ' || i FROM generate_series(1, 100) i").unwrap();
    let subscriber = quickstarted(&[("shared_preload_libraries", "kms_wrap")]);
    subscriber.psql(TABLE).unwrap();
    protect_people(&subscriber);
    subscribe(&subscriber, &publisher, "");
    caught_up(&subscriber, &publisher);
    change(&publisher);
    caught_up(&subscriber, &publisher);
    assert_eq!(subscriber.psql(OPEN).unwrap(), "192|191");
    assert_eq!(subscriber.psql("SELECT count(*) FROM people WHERE kms_wrap.kw_is_sealed(name)").unwrap(), "191");
    assert_eq!(
        subscriber.psql("SELECT id FROM people WHERE name_bidx = ANY (kms_wrap.kw_blind_index('people', 'name', 'name 2061'))").unwrap(),
        "2061"
    );
    // A key that changes on the publisher takes its value along; one whose value stays is sealed for its new row.
    publisher.psql("UPDATE people SET id = 9000 WHERE id = 7").unwrap();
    caught_up(&subscriber, &publisher);
    assert_eq!(subscriber.psql("SELECT name FROM people_decrypted WHERE id = 9000").unwrap(), "name 7");
    assert_eq!(subscriber.psql(UNKNOWN).unwrap(), "0");

    // With the keys out of reach nothing is stored in plain: it waits, and goes on when they are back.
    subscriber.restart(&[]);
    let (here, aside) = (subscriber.key_dir(), subscriber.path("aside"));
    fs::rename(&here, &aside).unwrap();
    subscriber.psql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type = 'logical replication worker'").unwrap();
    publisher.psql("INSERT INTO people VALUES (9001, 'name 9001')").unwrap();
    wait_until("the worker says what it misses", || subscriber.log().contains("could not reach key provider"));
    assert_eq!(subscriber.psql("SELECT count(*) FROM people WHERE id = 9001").unwrap(), "0");
    fs::rename(&aside, &here).unwrap();
    subscriber.wait_for("SELECT count(*) FROM people WHERE id = 9001 AND kms_wrap.kw_is_sealed(name)", "1");
    assert_eq!(subscriber.psql("SELECT name FROM people_decrypted WHERE id = 9001").unwrap(), "name 9001");
}
