//! Protected columns for tests: tables, roles with rights, and a look at how far a running statement has come.

use crate::fixture::quickstarted;
use crate::harness::{Cluster, Session, wait_until};

/// One line a message: [`SlowRead`] counts them.
const LOGGING: &[(&str, &str)] =
    &[("shared_preload_libraries", "kms_wrap"), ("log_error_verbosity", "terse"), ("log_min_error_statement", "panic")];

/// Two roles that log in, `app` and `other`; `app` may encrypt, decrypt and look up by the policies `default` and `spare`. With a grant on
/// `spare` left it keeps EXECUTE, so that a revoked grant on `default` is refused by the grant and not by PostgreSQL.
pub(crate) fn with_roles(settings: &[(&str, &str)]) -> Cluster {
    let cluster = quickstarted(&[LOGGING, settings].concat());
    make_policy(&cluster, "spare");
    cluster
        .psql(
            "CREATE ROLE app LOGIN; CREATE ROLE other LOGIN;
             SELECT kms_wrap.kw_grant(privilege, policy, 'app')
             FROM unnest(ARRAY['encrypt', 'decrypt', 'index']) privilege, unnest(ARRAY['default', 'spare']) policy",
        )
        .unwrap();
    cluster
}

/// A policy with the same keys as `default`, and no DEK yet.
pub(crate) fn make_policy(cluster: &Cluster, name: &str) {
    let sql = format!(
        "SELECT kms_wrap.kw_create_policy('{name}', 'split');
         SELECT kms_wrap.kw_policy_add_key('{name}', 'kms1', 1000);
         SELECT kms_wrap.kw_policy_add_key('{name}', 'kms2', 1001);
         SELECT kms_wrap.kw_policy_add_key('{name}', 'layer', 1002)"
    );
    cluster.psql(&sql).unwrap();
}

/// Protects a column of a table, with more arguments of `kw_protect_column`.
pub(crate) fn protect(cluster: &Cluster, database: &str, table: &str, column: &str, more: &str) {
    cluster.psql_in(database, &format!("SELECT FROM kms_wrap.kw_protect_column('{table}', '{column}'{more})")).unwrap();
}

/// Table `people (id, name)` of `app` with `name` protected, a blind index on it, and this many rows: `name 1`, `name 2`, ...
pub(crate) fn make_people(cluster: &Cluster, rows: u32) {
    cluster.psql("CREATE TABLE people (id bigint PRIMARY KEY, name text); ALTER TABLE people OWNER TO app").unwrap();
    protect(cluster, "postgres", "people", "name", ", blind_index => 'index'");
    add_people(cluster, 1, rows);
}

/// Rows of `people` from this id on.
pub(crate) fn add_people(cluster: &Cluster, first: u32, rows: u32) {
    let last = first + rows - 1;
    cluster.psql(&format!("INSERT INTO people SELECT i, 'name ' || i FROM generate_series({first}, {last}) i")).unwrap();
}

/// How many rows of `people` open and are what they were.
pub(crate) const OPEN_PEOPLE: &str = "SELECT count(*) FROM people_decrypted WHERE name = 'name ' || id";

/// A function that sleeps, and writes its argument to the server's log: what a standby's sessions can do, too.
pub(crate) const TICK: &str =
    "CREATE FUNCTION public.tick(who text, seconds float8) RETURNS boolean LANGUAGE plpgsql VOLATILE PARALLEL SAFE AS
    'BEGIN PERFORM pg_sleep(seconds); RAISE LOG ''tick %'', who; RETURN true; END'";

/// A statement in another session that decrypts row after row, slowly, and says in the log how far it has come.
pub(crate) struct SlowRead<'a> {
    cluster: &'a Cluster,
    who: String,
}

impl<'a> SlowRead<'a> {
    /// Starts it and waits until it has opened some rows.
    pub(crate) fn start(cluster: &'a Cluster, session: &mut Session, who: &str) -> Self {
        session.send(&format!("SELECT count(name) FILTER (WHERE public.tick('{who}', 0.005)) FROM people_decrypted"));
        let read = Self { cluster, who: who.to_owned() };
        wait_until("some rows were read", || read.rows() > 70);
        read
    }

    /// Rows read so far.
    pub(crate) fn rows(&self) -> usize {
        self.cluster.log().matches(&format!("tick {}\n", self.who)).count()
    }
}
