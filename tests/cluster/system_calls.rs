//! What calls that have everything in memory ask the operating system for: nothing that grows with their number.

use std::collections::BTreeMap;
use std::fs;
use std::process::Stdio;
use std::thread;

use crate::columns::{make_people, with_roles};
use crate::harness::{Cluster, Session};
use crate::process::postgres;

const FEW: u32 = 1000;
const MANY: u32 = 9000;

/// Starts a cluster with every system call of each of its processes written to a file of its own.
fn start_traced(cluster: &Cluster) {
    let mut command = cluster.command_of("strace");
    command.args(["-ff", "-qq", "-o", &cluster.path("trace")]).arg(postgres().bindir.join("postgres"));
    command.args(["-D", &cluster.data(), "-c", &format!("unix_socket_directories={}", cluster.path(""))]);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    // It ends with the postmaster.
    thread::spawn(move || drop(child.wait()));
    cluster.wait_until_ready();
}

/// The system calls of a process so far, by name.
fn system_calls(cluster: &Cluster, pid: u32) -> BTreeMap<String, usize> {
    let trace = fs::read_to_string(cluster.path(&format!("trace.{pid}"))).unwrap();
    let mut calls = BTreeMap::new();
    for (name, _) in trace.lines().filter_map(|line| line.split_once('(')) {
        *calls.entry(name.to_owned()).or_default() += 1;
    }
    calls
}

/// How many more system calls a statement makes with many rows than with few, and which.
fn growth(cluster: &Cluster, session: &mut Session, statement: &str) -> (usize, String) {
    let pid = session.pid();
    let mut calls_with = |rows: u32| {
        let statement = statement.replace("$1", &rows.to_string());
        // Pages and memory that it needs are there the second time.
        session.query(&statement).unwrap();
        session.query(&statement).unwrap();
        let before = system_calls(cluster, pid);
        session.query(&statement).unwrap();
        let mut calls = system_calls(cluster, pid);
        for (name, n) in &mut calls {
            *n -= before.get(name).unwrap_or(&0);
        }
        calls
    };
    let (few, many) = (calls_with(FEW), calls_with(MANY));
    let total = |calls: &BTreeMap<String, usize>| calls.values().sum::<usize>();
    (total(&many).saturating_sub(total(&few)), format!("{few:?} with {FEW} rows, {many:?} with {MANY}"))
}

#[test]
fn warm_calls_make_no_system_calls() {
    let cluster = with_roles(&[]);
    make_people(&cluster, MANY);
    cluster.psql("GRANT EXECUTE ON FUNCTION pg_read_file(text) TO app; VACUUM people").unwrap();
    cluster.down();
    start_traced(&cluster);
    let mut session = cluster.session_as("app", "postgres");
    for statement in [
        "SELECT count(kms_wrap.kw_decrypt_text(kms_wrap.kw_encrypt_text('x'))) FROM generate_series(1, $1)",
        "SELECT count(kms_wrap.kw_blind_index('people', 'name', 'name ' || i)) FROM generate_series(1, $1) i",
        "SELECT count(name) FROM people_decrypted WHERE id <= $1",
        // Sealed and indexed by the trigger, and then not written.
        "INSERT INTO people SELECT 1, 'name ' || i FROM generate_series(1, $1) i ON CONFLICT DO NOTHING",
    ] {
        let (more, which) = growth(&cluster, &mut session, statement);
        assert!(more < 40, "{statement}: {which}");
    }
    // The counter does count.
    let (more, which) = growth(&cluster, &mut session, "SELECT count(pg_read_file('PG_VERSION')) FROM generate_series(1, $1 / 10)");
    assert!(more > 800, "{which}");
}
