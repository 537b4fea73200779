//! Does it install, load both ways, leave nothing behind, and keep off the network?

use crate::harness::Cluster;

const OBJECTS: &str = "SELECT count(*) FROM pg_proc p JOIN pg_namespace n ON n.oid = pronamespace WHERE nspname = 'kms_wrap'";

#[test]
fn installs_and_uninstalls_without_preload() {
    let cluster = Cluster::start(&[("shared_preload_libraries", "")]);
    let before = cluster.psql("SELECT count(*) FROM pg_depend").unwrap();
    cluster.psql("CREATE EXTENSION kms_wrap").unwrap();
    assert_ne!(cluster.psql(OBJECTS).unwrap(), "0");
    let owner = "SELECT r.rolname FROM pg_extension e JOIN pg_roles r ON r.oid = extowner WHERE extname = 'kms_wrap'";
    assert_eq!(cluster.psql(owner).unwrap(), "postgres");

    cluster.psql("DROP EXTENSION kms_wrap").unwrap();
    assert_eq!(cluster.psql(OBJECTS).unwrap(), "0");
    // The schema was made by CREATE EXTENSION and is no member of it, so it stays, empty.
    cluster.psql("DROP SCHEMA IF EXISTS kms_wrap RESTRICT").unwrap();
    assert_eq!(cluster.psql("SELECT count(*) FROM pg_depend").unwrap(), before);
    cluster.psql("CREATE EXTENSION kms_wrap").unwrap();
}

#[test]
fn works_when_preloaded_and_after_a_restart() {
    let cluster = Cluster::start(&[("shared_preload_libraries", "kms_wrap")]);
    cluster.psql("CREATE EXTENSION kms_wrap").unwrap();
    cluster.restart(&[]);
    assert_ne!(cluster.psql(OBJECTS).unwrap(), "0");
    let log = cluster.log();
    assert!(!log.contains("PANIC") && !log.contains("terminated by signal"), "{log}");
    cluster.restart(&[("shared_preload_libraries", "")]);
    assert_ne!(cluster.psql(OBJECTS).unwrap(), "0");
}

#[test]
fn survives_kill_9_of_a_backend_and_of_everything() {
    let cluster = Cluster::start(&[("shared_preload_libraries", "kms_wrap")]);
    cluster.psql("CREATE EXTENSION kms_wrap").unwrap();

    let mut session = cluster.session("postgres");
    session.query("BEGIN").unwrap();
    session.send("SELECT pg_sleep(600)");
    cluster.kill_backend(session.pid());
    assert!(session.finish().is_err());
    cluster.wait_until_ready();

    cluster.crash();
    cluster.up();
    assert_ne!(cluster.psql(OBJECTS).unwrap(), "0");
}

#[test]
fn nothing_listens_on_tcp() {
    let cluster = Cluster::start(&[("shared_preload_libraries", "kms_wrap")]);
    assert_eq!(cluster.psql("SHOW listen_addresses").unwrap(), "");
    let mut pids = cluster.children();
    pids.extend(cluster.postmaster());
    for pid in pids {
        assert_eq!(listening_sockets(pid), Vec::<String>::new(), "process {pid}");
    }
}

/// The TCP sockets on which a process listens, by what /proc says.
fn listening_sockets(pid: u32) -> Vec<String> {
    let mut inodes = Vec::new();
    for table in ["tcp", "tcp6"] {
        let text = std::fs::read_to_string(format!("/proc/{pid}/net/{table}")).unwrap_or_default();
        // Column 3 is the state, 0A is LISTEN; column 9 is the inode.
        for line in text.lines().skip(1) {
            let columns: Vec<&str> = line.split_whitespace().collect();
            if columns.get(3) == Some(&"0A") {
                inodes.push(format!("socket:[{}]", columns[9]));
            }
        }
    }
    let Ok(files) = std::fs::read_dir(format!("/proc/{pid}/fd")) else { return Vec::new() };
    files
        .flatten()
        .filter_map(|file| std::fs::read_link(file.path()).ok())
        .map(|target| target.display().to_string())
        .filter(|target| inodes.contains(target))
        .collect()
}

#[test]
fn a_dump_and_a_base_backup_bring_the_extension_along() {
    let cluster = Cluster::start(&[("shared_preload_libraries", "kms_wrap")]);
    cluster.psql("CREATE EXTENSION kms_wrap").unwrap();
    let dump = cluster.dump("postgres", &[]);
    assert!(dump.contains("CREATE EXTENSION IF NOT EXISTS kms_wrap"));
    cluster.restore("copy", &dump).unwrap();
    assert_ne!(cluster.psql_in("copy", OBJECTS).unwrap(), "0");

    let standby = cluster.standby();
    cluster.psql("CREATE TABLE t AS SELECT 42 AS a").unwrap();
    cluster.wait_for_replay(&standby);
    assert_eq!(standby.psql("SELECT a FROM t").unwrap(), "42");
    let backup = cluster.base_backup();
    backup.up();
    assert_eq!(backup.psql("SELECT a FROM t").unwrap(), "42");
}

#[test]
fn an_error_has_a_sqlstate_and_a_message() {
    let cluster = Cluster::start(&[]);
    let error = cluster.psql("SELECT 1;\nSELECT 1/0;\nSELECT 2").unwrap_err();
    assert_eq!((error.sqlstate.as_str(), error.message.as_str()), ("22012", "division by zero"));
    let mut session = cluster.session("postgres");
    assert_eq!(session.query("SELECT 1/0").unwrap_err().sqlstate, "22012");
    assert_eq!(session.query("SELECT 3; SELECT 4").unwrap(), "3\n4");
}
