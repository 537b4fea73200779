//! What a dump, a base backup and a standby bring along, and what they must not.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;

use crate::fixture::{assert_all_open, next_key, progress, quickstarted, schedule, wrap};
use crate::harness::{Cluster, wait_until};
use crate::process::postgres;

const DB: &str = "postgres";

/// Calls kw_unwrap and gives the DEK's hash, or the SQLSTATE.
const OPENING: &str = "CREATE FUNCTION public.opening(wrapper text, context jsonb) RETURNS text LANGUAGE plpgsql AS
    'BEGIN RETURN sha256(kms_wrap.kw_unwrap(wrapper::uuid, context)); EXCEPTION WHEN OTHERS THEN RETURN sqlstate; END'";

/// Every wrapper of the database with what opening it gives.
const OPENINGS: &str = "SELECT w.wrapper_uuid, w.status, public.opening(w.wrapper_uuid, COALESCE(d.context, '{}'))
    FROM kms_wrap.key_wrappers w LEFT JOIN public.deks d ON d.wrapper = w.wrapper_uuid::uuid ORDER BY w.id";

/// A database with rows in every legal status, and every table filled.
fn with_every_status() -> Cluster {
    let cluster = quickstarted(&[("shared_preload_libraries", "kms_wrap")]);
    cluster.psql(OPENING).unwrap();
    wrap(&cluster, DB, 40);
    // Campaigns and jobs: one of each status. Nothing works on them but this.
    let run = "CALL kms_wrap.kw_run_jobs()";
    let key = next_key(&cluster, DB);
    let broken = "UPDATE kms_wrap.key_wrappers SET dek_wrap1 = set_byte(dek_wrap1, 120, 255 - get_byte(dek_wrap1, 120))
                  WHERE id = (SELECT max(id) FROM kms_wrap.key_wrappers)";
    cluster.psql(broken).unwrap();
    schedule(&cluster, DB, &key, "");
    cluster.psql(run).unwrap();
    cluster.psql("SELECT kms_wrap.kw_set_key_status(1000, 'retired')").unwrap();
    let key = next_key(&cluster, DB);
    let cancelled = schedule(&cluster, DB, &key, ", rate_per_second => 5");
    cluster.psql("CALL kms_wrap.kw_run_jobs(max_batches => 1)").unwrap();
    cluster.psql(&format!("SELECT kms_wrap.kw_cancel({cancelled})")).unwrap();
    let uuids = cluster.psql("SELECT wrapper_uuid FROM kms_wrap.key_wrappers ORDER BY id LIMIT 7 OFFSET 10").unwrap();
    let uuids: Vec<&str> = uuids.lines().collect();
    let one = |uuid: &str, more: &str| {
        let sql = format!("SELECT kms_wrap.kw_schedule_rewrap(wrapper => '{uuid}', target_kms1 => {key}, priority => 3{more})");
        cluster.psql(&sql).unwrap()
    };
    let paused = one(uuids[0], "");
    cluster.psql(&format!("SELECT kms_wrap.kw_pause({paused})")).unwrap();
    one(uuids[1], ", window_start => '01:00', window_end => '02:30'");
    one(uuids[2], ", scheduled_at => now() + interval '1 day', rate_per_second => 7");
    // A lease that nobody gives back.
    let running = one(uuids[3], "");
    let lease = format!(
        "UPDATE kms_wrap.rewrap_jobs SET status = 'running', lease_owner = '1@1', lease_until = now() + interval '5 min', attempts = 1 WHERE campaign_id = {running}"
    );
    cluster.psql(&lease).unwrap();

    // Wrappers and keys of each status, a redundant policy, and user rows in the tables that have shipped ones.
    let sql = format!(
        "UPDATE kms_wrap.key_wrappers SET status = 'rotated' WHERE wrapper_uuid IN ('{}', '{}');
         UPDATE kms_wrap.key_wrappers SET status = 'retired' WHERE wrapper_uuid = '{}';
         UPDATE kms_wrap.key_wrappers SET status = 'invalid' WHERE wrapper_uuid = '{}';
         SELECT kms_wrap.kw_create_local_key('local-b', 'doomed', 'XAES-256-GCM') AS doomed \\gset
         SELECT kms_wrap.kw_create_local_key('local-b', 'locked', 'XAES-256-GCM') AS locked \\gset
         SELECT kms_wrap.kw_create_local_key('local-b', 'leaked', 'X-Wing') AS leaked \\gset
         SELECT kms_wrap.kw_create_local_key('local-b', 'strong', 'ML-KEM-1024') AS strong \\gset
         SELECT kms_wrap.kw_create_policy('pair', 'redundant', min_layers => 2, max_layers => 2, notes => E'a\\tb\\n\\\\.');
         SELECT kms_wrap.kw_policy_add_key('pair', 'kms1', {key});
         SELECT kms_wrap.kw_policy_add_key('pair', 'kms2', :doomed);
         SELECT kms_wrap.kw_policy_add_key('pair', 'layer', 1002, 2);
         SELECT kms_wrap.kw_policy_add_key('pair', 'layer', :strong, 1);
         INSERT INTO public.deks (wrapper, context) SELECT kms_wrap.kw_wrap_dek('pair', NULL, '{{\"a\": \"\"}}'), '{{\"a\": \"\"}}';
         UPDATE kms_wrap.key_wrappers SET status = 'invalid' WHERE kms2_key_id = :doomed;
         SELECT kms_wrap.kw_set_key_status(:doomed, 'destroyed');
         SELECT kms_wrap.kw_policy_add_key('pair', 'kms2', :locked, 5);
         INSERT INTO public.deks (wrapper, context) SELECT kms_wrap.kw_wrap_dek('pair', NULL, '{{}}'), '{{}}';
         SELECT kms_wrap.kw_set_key_status(:locked, 'disabled');
         SELECT kms_wrap.kw_policy_add_key('pair', 'kms2', 1001, 9);
         SELECT kms_wrap.kw_policy_add_key('pair', 'layer', :leaked, 8);
         INSERT INTO public.deks (wrapper, context) SELECT kms_wrap.kw_wrap_dek('pair', decode(repeat('5c', 64), 'hex')), '{{}}';
         INSERT INTO public.deks (wrapper, context) SELECT kms_wrap.kw_wrap_dek('pair', decode(repeat('5d', 16), 'hex')), '{{}}';
         SELECT kms_wrap.kw_set_key_status(:leaked, 'compromised');
         INSERT INTO kms_wrap.crypto_algorithms (class, name, nist_level, status) VALUES ('sig', 'ML-DSA-65', 3, 'experimental');
         INSERT INTO kms_wrap.crypto_standard_aliases (alias, algo_id) SELECT 'dilithium3', max(id) FROM kms_wrap.crypto_algorithms;
         INSERT INTO kms_wrap.policy_algorithms (policy_id, algo_id, role) SELECT p.id, 1, 'kem' FROM kms_wrap.encryption_policies p;
         INSERT INTO kms_wrap.encryption_bindings (entity_table, entity_pk, field_name, key_wrapper_id)
             SELECT 't', id::text, CASE WHEN id % 2 = 0 THEN 'f' END, id FROM kms_wrap.key_wrappers;
         INSERT INTO kms_wrap.kms_health_checks (provider_id, kms_key_id, status, latency_ms, error) VALUES (1000, NULL, 'up', 1, NULL), (NULL, 1001, 'down', NULL, 'x');
         INSERT INTO kms_wrap.policy_grants (policy_id, role_name, privilege) SELECT p.id, 'Some \"body\"', 'encrypt' FROM kms_wrap.encryption_policies p;
         INSERT INTO kms_wrap.protected_columns (schema_name, table_name, column_name, policy_id, original_type, storage, status, last_key, key_forms)
             SELECT 's', 't', 'c', p.id, 'text', 'text', 'encrypting', ARRAY['1', E'\\t'], ARRAY['integer', 'bytes'] FROM kms_wrap.encryption_policies p;",
        uuids[4], uuids[5], uuids[5], uuids[6]
    );
    cluster.psql(&sql).unwrap();
    for (table, wanted) in [
        ("kms_keys", "active,compromised,destroyed,disabled,retired"),
        ("key_wrappers", "active,invalid,retired,rotated"),
        ("rewrap_campaigns", "cancelled,done,paused,running"),
        ("rewrap_jobs", "cancelled,done,failed,pending,running"),
    ] {
        let sql = format!("SELECT string_agg(DISTINCT status, ',' ORDER BY status) FROM kms_wrap.{table}");
        assert_eq!(cluster.psql(&sql).unwrap(), wanted, "{table}");
    }
    cluster
}

/// The rows of every table of the extension that is dumped, but for shipped ones, and where its sequences stand: a line each, the table in front.
fn contents(cluster: &Cluster, database: &str) -> Vec<String> {
    let members = "FROM pg_depend d JOIN pg_class c ON c.oid = d.objid AND d.classid = 'pg_class'::regclass
         JOIN pg_extension e ON e.oid = d.refobjid AND d.refclassid = 'pg_extension'::regclass AND d.deptype = 'e' AND e.extname = 'kms_wrap'";
    let tables = cluster
        .psql_in(database, &format!("SELECT c.relname {members} WHERE c.relkind = 'r' AND c.oid = ANY (e.extconfig) ORDER BY 1"))
        .unwrap();
    // Identity sequences depend on their column, not on the extension.
    let sequences = cluster.psql_in(database, "SELECT sequencename FROM pg_sequences WHERE schemaname = 'kms_wrap' ORDER BY 1").unwrap();
    let mut lines = Vec::new();
    for table in tables.lines() {
        let shipped = match table {
            "crypto_algorithms" => "WHERE id >= 1000",
            "crypto_standard_aliases" => "WHERE NOT is_shipped",
            _ => "",
        };
        let rows =
            cluster.psql_in(database, &format!("SELECT to_jsonb(t) FROM kms_wrap.{table} t {shipped} ORDER BY to_jsonb(t)::text")).unwrap();
        assert_ne!(rows, "", "{table} has no row to compare");
        lines.extend(rows.lines().map(|row| format!("{table} {row}")));
    }
    for sequence in sequences.lines() {
        let state = cluster.psql_in(database, &format!("SELECT last_value, is_called FROM kms_wrap.{sequence}")).unwrap();
        lines.push(format!("{sequence} {state}"));
    }
    lines
}

fn assert_same_contents(expected: &[String], got: &[String]) {
    let missing: Vec<&String> = expected.iter().filter(|line| !got.contains(line)).collect();
    let new: Vec<&String> = got.iter().filter(|line| !expected.contains(line)).collect();
    assert!(missing.is_empty() && new.is_empty(), "missing: {missing:#?}\nnew: {new:#?}");
    assert_eq!(expected.len(), got.len());
}

fn fingerprint(cluster: &Cluster, provider: &str) -> String {
    let sql = format!("SELECT config ->> 'fingerprint' FROM kms_wrap.provider_config WHERE provider_name = '{provider}'");
    cluster.psql(&sql).unwrap()
}

#[test]
fn a_dump_keeps_everything_in_every_format() {
    let original = with_every_status();
    let (expected, openings) = (contents(&original, DB), original.psql(OPENINGS).unwrap());
    for wanted in ["active|\\x", "rotated|\\x", "retired|55000", "invalid|55000"] {
        assert!(openings.contains(wanted), "{wanted} in {openings}");
    }
    // In a new cluster a dump is restored by a superuser, and into a database that has nothing.
    for format in ["plain", "custom", "in parallel", "schema, then data"] {
        let copy = Cluster::start(&[("shared_preload_libraries", "")]);
        match format {
            "plain" => copy.restore("copy", &original.dump(DB, &[])).unwrap(),
            "custom" | "in parallel" => {
                // Written into the original's directory, which its server's user may write to; that user is the copy's, too.
                let file = original.path("dump");
                original.run("pg_dump", &["-d", DB, "-Fc", "-f", &file]);
                copy.psql("CREATE DATABASE copy TEMPLATE template0").unwrap();
                // An archive does not say which of an extension's tables has to be filled first, so several processes at a time only
                // work with foreign keys switched off.
                let options = match format {
                    "custom" => ["-d", "copy", "--exit-on-error"].as_slice(),
                    _ => &["-d", "dbname=copy options='-c session_replication_role=replica'", "--exit-on-error", "-j", "2"],
                };
                copy.run("pg_restore", &[options, &[&file]].concat());
            }
            _ => {
                copy.restore("copy", &original.dump(DB, &["--schema-only"])).unwrap();
                copy.psql_in("copy", &original.dump(DB, &["--data-only"])).unwrap();
            }
        }
        assert_same_contents(&expected, &contents(&copy, "copy"));
        let without = copy.psql_in("copy", OPENINGS).unwrap();
        assert!(!without.contains("|\\x") && without.contains("active|58000"), "{without}");
        copy.copy_keys_from(&original);
        assert_eq!(copy.psql_in("copy", OPENINGS).unwrap(), openings, "{format}");
        goes_on(&copy, "copy");
    }
    // The original goes on, too: a dump changes nothing.
    assert_same_contents(&expected, &contents(&original, DB));
}

/// Identity values and generations continue, and open campaigns are worked on.
fn goes_on(copy: &Cluster, database: &str) {
    let query = |sql: &str| copy.psql_in(database, sql).unwrap();
    let tops = "SELECT max(id), max(generation) FROM kms_wrap.key_wrappers";
    let (id, generation) = query(tops).split_once('|').map(|(id, g)| (id.parse::<u64>().unwrap(), g.parse::<u64>().unwrap())).unwrap();
    query("INSERT INTO public.deks (wrapper, context) SELECT kms_wrap.kw_wrap_dek(), '{}'");
    let (new_id, new_generation) =
        query(tops).split_once('|').map(|(id, g)| (id.parse::<u64>().unwrap(), g.parse::<u64>().unwrap())).unwrap();
    assert!(new_id == id + 1 && new_generation > generation, "{id} {generation} {new_id} {new_generation}");
    // The job that was running when the dump was made is nobody's now.
    let leased = "SELECT count(*) FROM kms_wrap.rewrap_jobs WHERE status = 'running'";
    assert_eq!(query(leased), "1");
    query("UPDATE kms_wrap.rewrap_campaigns SET window_start = NULL, window_end = NULL, scheduled_at = now(), rate_per_second = NULL");
    query("UPDATE kms_wrap.rewrap_jobs SET next_attempt_at = now(), scheduled_at = now() WHERE status = 'pending'");
    query("SELECT kms_wrap.kw_resume(id) FROM kms_wrap.rewrap_campaigns WHERE status = 'paused'");
    query("CALL kms_wrap.kw_run_jobs()");
    assert_eq!(query("SELECT j FROM kms_wrap.rewrap_jobs j WHERE status IN ('pending', 'running')"), "");
    assert_eq!(query("SELECT c FROM kms_wrap.rewrap_campaigns c WHERE status NOT IN ('done', 'cancelled')"), "");
    let highest: u64 = query("SELECT max(id) FROM kms_wrap.kms_keys").parse().unwrap();
    assert_eq!(next_key(copy, database), (highest + 1).to_string());
}

#[test]
fn missing_and_wrong_root_key_files_are_named() {
    let original = quickstarted(&[]);
    wrap(&original, DB, 10);
    let copy = Cluster::start(&[]);
    copy.restore("copy", &original.dump(DB, &[])).unwrap();
    let (a, b) = (fingerprint(&original, "local-a"), fingerprint(&original, "local-b"));
    let unwrap = "SELECT count(sha256(kms_wrap.kw_unwrap(wrapper, context))) FROM public.deks";
    // One session throughout: it notices files that come and go.
    let mut session = copy.session("copy");
    let key_dir = copy.key_dir();
    let file = |name: &str| key_dir.join(name).display().to_string();

    // No directory, then no file.
    let error = session.query(unwrap).unwrap_err();
    assert_eq!((error.sqlstate.as_str(), error.message.as_str()), ("58000", "could not reach key provider \"local-a\""));
    assert!(error.detail.contains(&key_dir.display().to_string()) && error.detail.contains(&a), "{}", error.detail);
    assert!(error.detail.contains(&file("quickstart-a")), "names no file: {}", error.detail);
    copy.copy_keys_from(&original);
    assert_eq!(session.query(unwrap).unwrap(), "10");
    for (name, provider, fingerprint) in [("quickstart-a", "local-a", &a), ("quickstart-b", "local-b", &b)] {
        let aside = copy.path("aside");
        fs::rename(file(name), &aside).unwrap();
        let error = session.query(unwrap).unwrap_err();
        assert_eq!(
            (error.sqlstate.as_str(), error.message.as_str()),
            ("58000", format!("could not reach key provider \"{provider}\"").as_str())
        );
        assert!(error.detail.contains(&file(name)) && error.detail.contains(fingerprint.as_str()), "{}", error.detail);
        let error = session.query("SELECT kms_wrap.kw_wrap_dek()").unwrap_err();
        assert_eq!(error.sqlstate, "58000");
        assert!(error.detail.contains(&file(name)) && error.detail.contains(fingerprint.as_str()), "{}", error.detail);
        let health = format!("SELECT status, detail FROM kms_wrap.kw_health() WHERE component = 'provider' AND name = '{provider}'");
        let health = session.query(&health).unwrap();
        assert!(health.starts_with("red|") && health.contains(&file(name)) && health.contains(fingerprint.as_str()), "{health}");
        fs::rename(&aside, file(name)).unwrap();
        assert_eq!(session.query(unwrap).unwrap(), "10");
    }

    // The files of the two sides exchanged.
    let exchange = || {
        let aside = copy.path("aside");
        fs::rename(file("quickstart-a"), &aside).unwrap();
        fs::rename(file("quickstart-b"), file("quickstart-a")).unwrap();
        fs::rename(&aside, file("quickstart-b")).unwrap();
    };
    exchange();
    for sql in [unwrap, "SELECT kms_wrap.kw_wrap_dek()"] {
        let error = session.query(sql).unwrap_err();
        assert_eq!((error.sqlstate.as_str(), error.message.as_str()), ("38000", "key provider \"local-a\" refused the request"));
        assert!(error.detail.contains(&file("quickstart-a")) && error.detail.contains(&a) && error.detail.contains(&b), "{}", error.detail);
    }
    exchange();
    assert_eq!(session.query(unwrap).unwrap(), "10");

    // Where others could have put them: a file of another user's, a directory that others may enter.
    if let Some((uid, gid)) = postgres().user {
        fs::set_permissions(file("quickstart-a"), Permissions::from_mode(0o644)).unwrap();
        chown(file("quickstart-a"), Some(0), Some(0)).unwrap();
        let error = session.query(unwrap).unwrap_err();
        assert!(error.detail.contains("belongs to another user than the server's"), "{}", error.detail);
        chown(file("quickstart-a"), Some(uid), Some(gid)).unwrap();
        fs::set_permissions(file("quickstart-a"), Permissions::from_mode(0o600)).unwrap();
    }
    fs::set_permissions(&key_dir, Permissions::from_mode(0o750)).unwrap();
    let error = session.query("SELECT kms_wrap.kw_create_root_key('more')").unwrap_err();
    assert!(error.detail.contains("has mode 0750; it must be 0700"), "{}", error.detail);
    fs::set_permissions(&key_dir, Permissions::from_mode(0o700)).unwrap();
    assert_eq!(session.query(unwrap).unwrap(), "10");
    assert_all_open(&copy, "copy");
}

#[test]
fn a_base_backup_holds_no_root_key() {
    let cluster = quickstarted(&[("shared_preload_libraries", "kms_wrap")]);
    wrap(&cluster, DB, 50);
    let names = ["quickstart-a", "quickstart-b"];
    let keys: Vec<Vec<u8>> = names.iter().map(|name| fs::read(cluster.key_dir().join(name)).unwrap()).collect();
    assert!(keys.iter().all(|key| key.len() == 32));
    let backup = cluster.base_backup();
    assert!(!backup.key_dir().exists());
    let mut files = Vec::new();
    list(Path::new(&backup.path("")), &mut files);
    assert!(files.len() > 500, "{} files", files.len());
    for file in &files {
        let name = file.file_name().unwrap().to_string_lossy();
        assert!(!names.iter().any(|key| name.contains(key)) && !file.to_string_lossy().contains(".kms_wrap/"), "{}", file.display());
        let bytes = fs::read(file).unwrap();
        for key in &keys {
            // The first bytes decide nearly always.
            let found = bytes.windows(key.len()).any(|window| window[0] == key[0] && window == key);
            assert!(!found, "{} holds a root key", file.display());
        }
    }
    // The search finds what is there.
    assert!(fs::read(cluster.key_dir().join(names[0])).unwrap().windows(32).any(|window| window == keys[0]));
    backup.up();
    assert_eq!(backup.psql("SELECT count(*) FROM kms_wrap.kw_verify() WHERE sqlstate = '58000'").unwrap(), "50");
    backup.copy_keys_from(&cluster);
    assert_all_open(&backup, DB);
}

fn list(dir: &Path, files: &mut Vec<std::path::PathBuf>) {
    for entry in fs::read_dir(dir).unwrap().flatten() {
        let kind = entry.file_type().unwrap();
        if kind.is_dir() {
            list(&entry.path(), files);
        } else if kind.is_file() {
            files.push(entry.path());
        }
    }
}

#[test]
fn a_standby_opens_once_it_has_the_files() {
    let primary = quickstarted(&[("shared_preload_libraries", "kms_wrap"), ("kms_wrap.worker_databases", "postgres")]);
    wrap(&primary, DB, 20);
    let standby = primary.standby();
    let opening = "SELECT count(*) FROM public.deks WHERE sha256(kms_wrap.kw_unwrap(wrapper, context)) = sha256";
    let mut session = standby.session(DB);
    let error = session.query(opening).unwrap_err();
    assert_eq!(error.sqlstate, "58000");
    assert!(error.detail.contains(&standby.key_dir().display().to_string()), "{}", error.detail);
    standby.copy_keys_from(&primary);
    assert_eq!(session.query(opening).unwrap(), "20");
    assert_all_open(&standby, DB);

    // It follows: new wrappers, and rewrapped ones.
    wrap(&primary, DB, 20);
    let key = next_key(&primary, DB);
    let campaign = schedule(&primary, DB, &key, "");
    wait_until("the campaign is done", || progress(&primary, DB, &campaign).starts_with("done|40|40|"));
    primary.wait_for_replay(&standby);
    assert_eq!(session.query(opening).unwrap(), "40");
    assert_all_open(&standby, DB);

    // Nothing can be written there, nothing works on jobs, and what only reads works.
    primary.restart(&[("kms_wrap.worker_databases", "")]);
    let key = next_key(&primary, DB);
    let open = schedule(&primary, DB, &key, "");
    primary.wait_for_replay(&standby);
    for sql in [
        "SELECT kms_wrap.kw_wrap_dek()",
        "SELECT kms_wrap.kw_rewrap((SELECT wrapper FROM public.deks LIMIT 1), target_kms1 => 1000)",
        "CALL kms_wrap.kw_run_jobs()",
        "SELECT kms_wrap.kw_create_local_key('local-a', 'new', 'ML-KEM-768')",
    ] {
        let error = standby.psql(sql).unwrap_err();
        assert_eq!(error.sqlstate, "25006", "{sql}: {error}");
    }
    let workers = "SELECT count(*) FROM pg_stat_activity WHERE backend_type LIKE 'kms_wrap%'";
    assert_eq!(standby.psql(workers).unwrap(), "0");
    assert_eq!(standby.psql("SELECT count(*) FROM kms_wrap.kw_health() WHERE status = 'red' AND component <> 'worker'").unwrap(), "0");
    let describe = "SELECT count(*) > 5 FROM kms_wrap.kw_describe_wrapper((SELECT wrapper FROM public.deks LIMIT 1))";
    assert_eq!(standby.psql(describe).unwrap(), "t");

    // Promoted, it goes on by itself.
    primary.down();
    standby.psql("SELECT pg_promote()").unwrap();
    wait_until("the campaign is done", || progress(&standby, DB, &open).starts_with("done|40|40|"));
    wrap(&standby, DB, 5);
    assert_all_open(&standby, DB);
}

#[test]
fn a_key_directory_that_a_backup_would_copy_is_refused() {
    let cluster = quickstarted(&[]);
    wrap(&cluster, DB, 1);
    let space = cluster.make_dir("space");
    cluster.psql(&format!("CREATE TABLESPACE space LOCATION '{space}'")).unwrap();
    let link = cluster.path("link");
    std::os::unix::fs::symlink(cluster.data(), &link).unwrap();
    let unwrap = "SELECT kms_wrap.kw_unwrap(wrapper, context) FROM public.deks";
    let mut session = cluster.session(DB);
    for place in [
        format!("{}/keys", cluster.data()),
        format!("{}/base/keys", cluster.data()),
        format!("{space}/keys"),
        format!("{link}/keys"),
        cluster.data(),
        space.clone(),
    ] {
        cluster.set(&[("kms_wrap.key_directory", &place)]);
        cluster.reload();
        cluster.wait_for("SHOW kms_wrap.key_directory", &place);
        let existed = Path::new(&place).exists();
        let error = session.query("SELECT kms_wrap.kw_create_root_key('inside')").unwrap_err();
        assert_eq!(error.sqlstate, "38000", "{place}: {error} {}", error.detail);
        assert!(error.detail.contains(&place) && error.detail.contains("data directory or a tablespace"), "{}", error.detail);
        assert_eq!(Path::new(&place).exists(), existed, "a refused directory was made");

        // Nor is one used that somebody has put there.
        if !existed {
            cluster.copy(&cluster.key_dir(), Path::new(&place));
            let error = session.query(unwrap).unwrap_err();
            assert_eq!(error.sqlstate, "38000", "{place}: {error} {}", error.detail);
            assert!(error.detail.contains(&place), "{}", error.detail);
            let health = session.query("SELECT status FROM kms_wrap.kw_health() WHERE component = 'key directory'").unwrap();
            assert_eq!(health, "red");
            fs::remove_dir_all(&place).unwrap();
        }
    }
    cluster.set(&[("kms_wrap.key_directory", "")]);
    cluster.reload();
    cluster.wait_for("SHOW kms_wrap.key_directory", "");
    session.query(unwrap).unwrap();
}
