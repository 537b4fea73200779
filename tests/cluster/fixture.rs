//! What most tests start from: a cluster with the extension, keys and wrappers whose DEKs are known.

use crate::harness::{Cluster, PsqlError};

/// A cluster with the extension and what `kw_quickstart` makes: keys 1000 (kms1), 1001 (kms2), 1002 (ML-KEM-768), policy `default`.
pub(crate) fn quickstarted(settings: &[(&str, &str)]) -> Cluster {
    let cluster = Cluster::start(settings);
    install(&cluster, "postgres");
    cluster
}

/// One that has a worker in database `postgres`.
pub(crate) fn with_worker() -> Cluster {
    quickstarted(&[("shared_preload_libraries", "kms_wrap"), ("kms_wrap.worker_databases", "postgres")])
}

/// Makes the extension and its keys in a database.
pub(crate) fn install(cluster: &Cluster, database: &str) {
    cluster.psql_in(database, "CREATE EXTENSION kms_wrap; SELECT FROM kms_wrap.kw_quickstart()").unwrap();
    cluster.psql_in(database, "CREATE TABLE public.deks (wrapper uuid PRIMARY KEY, context jsonb NOT NULL, sha256 bytea)").unwrap();
}

/// Makes wrappers, every other one with a context, and remembers what is in them.
pub(crate) fn wrap(cluster: &Cluster, database: &str, count: u32) {
    let sql = format!(
        "INSERT INTO public.deks (wrapper, context)
         SELECT kms_wrap.kw_wrap_dek('default', NULL, c), c
         FROM (SELECT CASE WHEN i % 2 = 0 THEN jsonb_build_object('row', i::text) ELSE '{{}}' END FROM generate_series(1, {count}) i) s (c);
         UPDATE public.deks SET sha256 = sha256(kms_wrap.kw_unwrap(wrapper, context)) WHERE sha256 IS NULL"
    );
    cluster.psql_in(database, &sql).unwrap();
}

/// A new key for slot kms1 of policy `default`, which takes the place of those that were there. Returns its id.
pub(crate) fn next_key(cluster: &Cluster, database: &str) -> String {
    let sql = "SELECT kms_wrap.kw_create_local_key('local-a', 'local-a-kek-' || (SELECT max(id) + 1 FROM kms_wrap.kms_keys), 'XAES-256-GCM') AS new \\gset
               SELECT FROM kms_wrap.kw_policy_add_key('default', 'kms1', :new);
               SELECT kms_wrap.kw_policy_remove_key('default', m.kms_key_id)
               FROM kms_wrap.policy_kms_keys m JOIN kms_wrap.encryption_policies p ON p.id = m.policy_id
               WHERE p.policy_name = 'default' AND m.slot = 'kms1' AND m.kms_key_id <> :new;
               SELECT :new";
    last_line(cluster.psql_in(database, sql)).unwrap()
}

/// Queues a rewrap of all wrappers of policy `default` to this key, with more arguments of `kw_schedule_rewrap`. Returns the campaign's id.
pub(crate) fn schedule(cluster: &Cluster, database: &str, key: &str, more: &str) -> String {
    let sql = format!("SELECT kms_wrap.kw_schedule_rewrap(policy => 'default', target_kms1 => {key}{more})");
    last_line(cluster.psql_in(database, &sql)).unwrap()
}

fn last_line(answer: Result<String, PsqlError>) -> Result<String, PsqlError> {
    answer.map(|text| text.lines().last().unwrap_or_default().to_owned())
}

/// Every wrapper opens, and every DEK is what it was.
pub(crate) fn assert_all_open(cluster: &Cluster, database: &str) {
    let count = cluster.psql_in(database, "SELECT count(*) FROM public.deks").unwrap();
    let sql = "SELECT wrapper, sqlstate, message FROM kms_wrap.kw_verify() WHERE NOT ok LIMIT 5";
    assert_eq!(cluster.psql_in(database, sql).unwrap(), "", "wrappers that do not open");
    assert_eq!(cluster.psql_in(database, "SELECT count(*) FROM kms_wrap.kw_verify() WHERE ok").unwrap(), count);
    let sql = "SELECT count(*) FROM public.deks WHERE sha256(kms_wrap.kw_unwrap(wrapper, context)) = sha256";
    assert_eq!(cluster.psql_in(database, sql).unwrap(), count, "DEKs that are what they were");
}

/// `status|total|done|failed|cancelled` of a campaign.
pub(crate) fn progress(cluster: &Cluster, database: &str, campaign: &str) -> String {
    let sql = format!("SELECT status, total, done, failed, cancelled FROM kms_wrap.rewrap_campaigns WHERE id = {campaign}");
    cluster.psql_in(database, &sql).unwrap()
}

/// The process id of the worker of this database, once it runs.
pub(crate) fn worker(cluster: &Cluster, database: &str) -> u32 {
    let sql = format!("SELECT pid FROM pg_stat_activity WHERE backend_type = 'kms_wrap worker' AND datname = '{database}'");
    let mut pid = None;
    crate::harness::wait_until("a worker runs", || {
        pid = cluster.psql(&sql).ok().and_then(|text| text.parse().ok());
        pid.is_some()
    });
    pid.unwrap()
}
