//! Where plaintext and DEKs are to be found afterwards: one canary a path into or through a protected column, then a search of everything
//! that the server has written. What is found must be what README leaves to the user, and nothing else.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use crate::columns::protect;
use crate::fixture::quickstarted;
use crate::harness::{Cluster, wait_until};

/// What every canary begins with; a name follows, and a full stop.
const MARK: &str = "kwCANARYx";

fn canary(name: &str) -> String {
    format!("{MARK}{name}.")
}

/// Names of canaries, and where each was found.
type Found = BTreeMap<String, BTreeSet<&'static str>>;

/// Everything that the server has written: its directory without the key files, and the views that show statements and statistics.
fn search(cluster: &Cluster) -> Found {
    cluster.psql("CHECKPOINT").unwrap();
    let mut found = Found::new();
    walk(Path::new(&cluster.path("")), &mut |path, bytes| canaries(bytes, place_of(path), &mut found));
    for (place, sql) in [
        ("pg_stat_activity", "SELECT query FROM pg_stat_activity WHERE pid <> pg_backend_pid()"),
        ("pg_stat_statements", "SELECT query FROM pg_stat_statements"),
        ("pg_stats", "SELECT to_jsonb(s) FROM pg_stats s WHERE schemaname = 'public'"),
        ("pg_prepared_statements", "SELECT statement FROM pg_prepared_statements"),
    ] {
        canaries(cluster.psql(sql).unwrap().as_bytes(), place, &mut found);
    }
    found
}

/// Files of a cluster's directory that hold these bytes.
pub(crate) fn files_with(cluster: &Cluster, wanted: &[u8]) -> Vec<PathBuf> {
    let mut found = Vec::new();
    walk(Path::new(&cluster.path("")), &mut |path, bytes| {
        if places(bytes, wanted).next().is_some() {
            found.push(path.to_owned());
        }
    });
    found
}

fn walk(dir: &Path, look: &mut impl FnMut(&Path, &[u8])) {
    for entry in fs::read_dir(dir).unwrap().flatten() {
        let kind = entry.file_type().unwrap();
        if kind.is_dir() {
            walk(&entry.path(), look);
        } else if kind.is_file() {
            // Files come and go.
            let bytes = fs::read(entry.path()).unwrap_or_default();
            let is_wal = place_of(&entry.path()) == "pg_wal";
            look(&entry.path(), &if is_wal { records_of(&bytes) } else { bytes });
        }
    }
}

/// A WAL segment without the headers of its pages, which may stand in the middle of a word: 40 bytes of the first page (`XLP_LONG_HEADER` is set in
/// `xlp_info`), 24 of the others.
fn records_of(segment: &[u8]) -> Vec<u8> {
    const PAGE: usize = 8192;
    const LONG_HEADER: u8 = 0x02;
    let header = |page: &[u8]| if page.get(2).is_some_and(|info| info & LONG_HEADER != 0) { 40 } else { 24 };
    segment.chunks(PAGE).map(|page| page.get(header(page)..).unwrap_or_default()).collect::<Vec<_>>().concat()
}

#[test]
fn a_word_is_found_across_pages_of_wal() {
    let word = canary("split");
    let (start, end) = word.split_at(word.len() / 2);
    let mut segment = vec![0; 2 * 8192];
    segment[2] = 0x02;
    segment[8192 - start.len()..8192].copy_from_slice(start.as_bytes());
    segment[8192 + 24..][..end.len()].copy_from_slice(end.as_bytes());
    let mut found = Found::new();
    canaries(&records_of(&segment), "pg_wal", &mut found);
    expect(&found, &[("split", &["pg_wal"])]);
}

fn place_of(path: &Path) -> &'static str {
    let path = path.display().to_string();
    let known = [
        ("/pgsql_tmp", "temp files"),
        ("/data/pg_wal/", "pg_wal"),
        ("/data/base/", "tables"),
        ("/data/pg_stat_tmp/", "statement texts"),
        ("/log", "log"),
    ];
    known.iter().find(|(part, _)| path.contains(part)).map_or("elsewhere", |(_, place)| place)
}

/// Also as hexadecimal digits, which is how a `bytea` is printed.
fn canaries(bytes: &[u8], place: &'static str, found: &mut Found) {
    let mut note = |name: &[u8]| {
        let name = name.split(|b| *b == b'.').next().unwrap_or_default();
        found.entry(String::from_utf8_lossy(name).into_owned()).or_default().insert(place);
    };
    for start in places(bytes, MARK.as_bytes()) {
        let rest = &bytes[start + MARK.len()..];
        note(&rest[..rest.len().min(30)]);
    }
    let hex: Vec<u8> = MARK.bytes().flat_map(|b| format!("{b:02x}").into_bytes()).collect();
    for start in places(bytes, &hex) {
        let rest = &bytes[start + hex.len()..];
        let digits = rest[..rest.len().min(60)].chunks_exact(2).map_while(|d| u8::from_str_radix(std::str::from_utf8(d).ok()?, 16).ok());
        note(&digits.collect::<Vec<u8>>());
    }
}

fn places<'a>(bytes: &'a [u8], wanted: &'a [u8]) -> impl Iterator<Item = usize> + 'a {
    // The first byte decides nearly always.
    (0..=bytes.len().saturating_sub(wanted.len())).filter(move |i| bytes.get(*i) == Some(&wanted[0]) && bytes[*i..].starts_with(wanted))
}

/// Runs a statement with bind parameters, as an application does; psql of PostgreSQL 15 cannot. `:v` is the value.
fn with_parameter(cluster: &Cluster, sql: &str, value: &str) -> bool {
    let script = cluster.path("script.sql");
    fs::write(&script, sql).unwrap();
    let mut command = cluster.command("pgbench");
    command.args(["-n", "-t", "1", "-M", "prepared", "-D", &format!("v={value}"), "-f", &script, "postgres"]);
    let output = command.output().unwrap();
    output.status.success() && String::from_utf8_lossy(&output.stdout).contains("actually processed: 1/1")
}

fn has_contrib(cluster: &Cluster) -> bool {
    let libraries = cluster.run("pg_config", &["--pkglibdir"]);
    ["auto_explain.so", "pg_stat_statements.so"].iter().all(|name| Path::new(&libraries).join(name).exists())
}

/// `people (id, name, photo, note)` with `name` and `photo` protected.
fn with_people() -> Cluster {
    let cluster = quickstarted(&[("shared_preload_libraries", "kms_wrap"), ("autovacuum", "off")]);
    assert!(has_contrib(&cluster), "this test needs auto_explain and pg_stat_statements, which come with PostgreSQL");
    // Statistics are kept, so that protecting has something to remove; every statement's time is in the log if it takes long.
    cluster.restart(&[("shared_preload_libraries", "kms_wrap,pg_stat_statements,auto_explain"), ("pg_stat_statements.track", "all")]);
    cluster
        .psql(
            "CREATE EXTENSION pg_stat_statements;
             CREATE TABLE people (id bigint PRIMARY KEY, name text, photo bytea, note text NOT NULL DEFAULT '');
             CREATE TABLE plain (id bigint PRIMARY KEY, name text)",
        )
        .unwrap();
    protect(&cluster, "postgres", "people", "name", ", blind_index => 'unique'");
    protect(&cluster, "postgres", "people", "photo", "");
    cluster
}

/// Rows of `id` and a canary, as COPY takes them.
fn rows(name: &str, ids: std::ops::Range<u32>) -> String {
    let lines: Vec<String> = ids.map(|id| format!("{id}\t{}{id}\n", canary(name))).collect();
    format!("{}\\.\n", lines.concat())
}

fn expect(found: &Found, expected: &[(&str, &[&'static str])]) {
    let expected: Found = expected.iter().map(|(name, places)| ((*name).to_owned(), places.iter().copied().collect())).collect();
    assert_eq!(*found, expected);
}

/// Every path that leaves nothing.
fn through_every_path(cluster: &Cluster) {
    let run = |sql: &str, name: &str| assert!(with_parameter(cluster, sql, &canary(name)), "{name}");
    let fails = |sql: &str, name: &str| assert!(!with_parameter(cluster, sql, &canary(name)), "{name} did not fail");
    run("INSERT INTO people (id, name, photo) VALUES (1, :v, :v::text::bytea);", "insert");
    run("UPDATE people SET name = :v, photo = convert_to(:v, 'UTF8') WHERE id = 1;", "update");
    run("INSERT INTO people (id, name) VALUES (1, :v) ON CONFLICT (id) DO UPDATE SET name = EXCLUDED.name;", "upsert");
    run("INSERT INTO people (id, name) VALUES (2, :v) ON CONFLICT DO NOTHING;", "upsertnew");
    run(
        "MERGE INTO people p USING (SELECT 3 AS id, :v::text AS name) s ON p.id = s.id WHEN NOT MATCHED THEN INSERT (id, name) VALUES (s.id, s.name);",
        "merge",
    );
    run("UPDATE people SET id = 4, name = :v WHERE id = 3;", "key");
    run("DO $$ BEGIN PERFORM 1; END $$; SELECT kms_wrap.kw_decrypt_text(kms_wrap.kw_encrypt_text(:v));", "free");
    run("SELECT count(*) FROM people WHERE name_bidx = ANY (kms_wrap.kw_blind_index('people', 'name', :v));", "lookup");
    run("EXPLAIN (ANALYZE, VERBOSE) SELECT * FROM people_decrypted WHERE name = :v;", "explain");
    run("PREPARE p (text) AS INSERT INTO people (id, name) VALUES (5, $1); SELECT set_config('a.b', 'x', true), :v;", "prepare");
    // Errors: of constraints, of the trigger, of the statement.
    fails("INSERT INTO people (id, name, note) VALUES (6, :v, NULL);", "notnull");
    fails("INSERT INTO people (id, name) VALUES (1, :v);", "duplicatekey");
    assert!(with_parameter(cluster, "INSERT INTO people (id, name) VALUES (7, :v);", &canary("duplicate")));
    fails("INSERT INTO people (id, name) VALUES (8, :v);", "duplicate");
    fails("INSERT INTO people (id, name) SELECT 9, :v FROM (SELECT pg_sleep(1 / 0)) s;", "division");
    fails("SET statement_timeout = '300ms'; INSERT INTO people (id, name) SELECT 10, :v::text || pg_sleep(60);", "cancelled");
    fails("SELECT kms_wrap.kw_encrypt_text(:v, 'no such policy');", "nopolicy");
    fails("SELECT kms_wrap.kw_decrypt_text(:v);", "noenvelope");
    fails("SELECT kms_wrap.kw_blind_index('people', 'photo', :v);", "noindex");
    // COPY has its rows in the protocol, not in the statement.
    let copied = format!("COPY people (id, name) FROM STDIN;\n20\t{}\n21\t{}\n\\.\n", canary("copy"), canary("copytoo"));
    cluster.psql(&copied).unwrap();
    let error = cluster.psql(&format!("COPY people (id, name, note) FROM STDIN;\n22\t{}\t\\N\n\\.\n", canary("copyfails"))).unwrap_err();
    assert_eq!(error.sqlstate, "23502");
    cluster.psql("COPY (SELECT name FROM people_decrypted) TO STDOUT").unwrap();
    // Reading in every way, with statistics.
    cluster.psql("ANALYZE; VACUUM; SELECT count(*) FROM people_decrypted WHERE name LIKE '%a%'; REINDEX TABLE people; CLUSTER people USING people_pkey").unwrap();
}

#[test]
fn plaintext_is_nowhere_but_where_the_caller_writes_it() {
    let cluster = with_people();
    // What the search has to find: a table that is not protected.
    cluster.psql(&format!("INSERT INTO plain SELECT i, '{}' FROM generate_series(1, 10) i; ANALYZE plain", canary("plain"))).unwrap();
    through_every_path(&cluster);
    // COPY's error shows the line that it was at, as PostgreSQL does with every line that fails.
    expect(&search(&cluster), &[("plain", &["tables", "pg_wal", "pg_stats"]), ("copyfails", &["log"])]);

    // A crash with a transaction in progress, whose rows are in WAL and tables already.
    let mut session = cluster.session("postgres");
    session.query("BEGIN").unwrap();
    // psql waits for a statement after COPY.
    session.query(&format!("COPY people (id, name) FROM STDIN;\n{}SELECT 1", rows("crash", 100..2100))).unwrap();
    cluster.psql("CHECKPOINT").unwrap();
    cluster.crash();
    cluster.up();
    expect(&search(&cluster), &[("plain", &["tables", "pg_wal", "pg_stats"]), ("copyfails", &["log"])]);
    assert_eq!(
        cluster.psql("SELECT count(*) > 5 AND count(*) = count(name) FROM people_decrypted WHERE name LIKE 'kwCANARY%'").unwrap(),
        "t"
    );
}

/// What README leaves to the user is found, each where it says.
#[test]
fn what_is_left_to_the_user_is_where_readme_says() {
    let cluster = with_people();
    let literal = |name: &str| format!("'{}'", canary(name));
    // A literal: shown while the session's last statement is that one.
    let mut session = cluster.session("postgres");
    session.query(&format!("INSERT INTO people (id, name) VALUES (1, {})", literal("literal"))).unwrap();
    expect(&search(&cluster), &[("literal", &["pg_stat_activity"])]);
    session.query("SELECT 1").unwrap();
    expect(&search(&cluster), &[]);
    // Statements that fail are logged with their text, and utility statements are not normalised.
    cluster.psql(&format!("INSERT INTO people (id, name, note) VALUES (2, {}, NULL)", literal("failed"))).unwrap_err();
    cluster.psql(&format!("DO $$ BEGIN INSERT INTO people (id, name) VALUES (3, {}); END $$", literal("do"))).unwrap();
    // A cast of the decrypted value quotes it.
    assert!(with_parameter(&cluster, "UPDATE people SET name = :v WHERE id = 1;", &canary("cast")));
    let error = cluster.psql("SELECT name::int FROM people_decrypted WHERE id = 1").unwrap_err();
    assert!(error.sqlstate == "22P02" && error.message.contains(&canary("cast")), "{error}");
    let left: &[(&str, &[&'static str])] = &[("failed", &["log"]), ("do", &["pg_stat_statements", "statement texts"]), ("cast", &["log"])];
    expect(&search(&cluster), left);

    // A sort of decrypted values that does not fit into work_mem.
    cluster.psql(&format!("COPY people (id, name) FROM STDIN;\n{}", rows("sort", 100..20_100))).unwrap();
    expect(&search(&cluster), left);
    session
        .query("SET work_mem = '64kB'; BEGIN; DECLARE c CURSOR FOR SELECT name FROM people_decrypted ORDER BY name; FETCH 1 FROM c")
        .unwrap();
    let sorting = search(&cluster);
    assert_eq!(sorting["sort"], BTreeSet::from(["temp files"]));
    session.query("ROLLBACK").unwrap();
    expect(&search(&cluster), left);

    // auto_explain prints the parameters of a plan made for them as constants.
    cluster.set(&[("auto_explain.log_min_duration", "0"), ("auto_explain.log_verbose", "on"), ("auto_explain.log_analyze", "on")]);
    cluster.reload();
    cluster.wait_for("SHOW auto_explain.log_min_duration", "0");
    assert!(with_parameter(
        &cluster,
        "SELECT count(*) FROM people WHERE name_bidx = ANY (kms_wrap.kw_blind_index('people', 'name', :v));",
        &canary("explained")
    ));
    assert!(with_parameter(
        &cluster,
        "SET plan_cache_mode = force_generic_plan; SELECT count(*) FROM people WHERE name = :v;",
        &canary("generic")
    ));
    let found = search(&cluster);
    assert_eq!(found.get("explained"), Some(&BTreeSet::from(["log"])));
    assert!(!found.contains_key("generic"), "{found:?}");
}

#[test]
fn a_column_that_was_plain_is_only_in_old_files_after_it_was_encrypted() {
    let cluster = with_people();
    cluster
        .psql(&format!("INSERT INTO plain SELECT i, '{}' || i FROM generate_series(1, 3000) i; ANALYZE plain", canary("before")))
        .unwrap();
    assert_eq!(search(&cluster)["before"], BTreeSet::from(["tables", "pg_wal", "pg_stats"]));
    protect(&cluster, "postgres", "plain", "name", "");
    assert!(with_parameter(&cluster, "INSERT INTO plain VALUES (0, :v);", &canary("during")));
    cluster.psql("CALL kms_wrap.kw_encrypt_column('plain', 'name')").unwrap();
    cluster.psql("VACUUM FULL pg_statistic; CHECKPOINT").unwrap();
    // Old WAL has it until it is recycled and overwritten.
    let found = search(&cluster);
    assert_eq!((found.get("before"), found.get("during")), (Some(&BTreeSet::from(["pg_wal"])), None), "{found:?}");
    assert_eq!(cluster.psql("SELECT count(*) FROM plain_decrypted WHERE name LIKE 'kwCANARY%'").unwrap(), "3001");
    // Given back, it is plain again.
    cluster.psql("SELECT FROM kms_wrap.kw_unprotect_column('plain', 'name')").unwrap();
    let found = search(&cluster);
    assert!(found["before"].contains("tables") && found["during"].contains("tables"), "{found:?}");
    assert_eq!(cluster.psql("SELECT count(*) FROM plain WHERE name LIKE 'kwCANARY%'").unwrap(), "3001");
}

/// Which of these keys are in a file, as bytes, as hexadecimal digits or as base64.
fn keys_in_files(cluster: &Cluster, keys: &[(&'static str, Vec<u8>)]) -> Vec<(&'static str, &'static str)> {
    cluster.psql("CHECKPOINT").unwrap();
    let forms: Vec<(&str, Vec<u8>)> = keys
        .iter()
        .flat_map(|(name, key)| {
            let hex = key.iter().map(|b| format!("{b:02x}")).collect::<Vec<String>>().concat();
            [(*name, key.clone()), (name, hex.clone().into_bytes()), (name, hex.to_uppercase().into_bytes())]
        })
        .collect();
    let mut found = BTreeSet::new();
    let key_dir = cluster.key_dir();
    walk(Path::new(&cluster.path("")), &mut |path, bytes| {
        for (name, form) in &forms {
            if !path.starts_with(&key_dir) && places(bytes, form).next().is_some() {
                found.insert((*name, place_of(path)));
            }
        }
    });
    found.into_iter().collect()
}

fn bytes_of(hex: &str) -> Vec<u8> {
    let digits = hex.trim_start_matches("\\x");
    (0..digits.len() / 2).map(|i| u8::from_str_radix(&digits[2 * i..2 * i + 2], 16).unwrap()).collect()
}

#[test]
fn deks_and_root_keys_are_in_no_file() {
    let cluster = with_people();
    let imported = "8f3a51c6e2d94b70a1f8c35d6e7b2049d1c4f6a8b3e5970214c6d8eaf0b29375";
    let stored = "1b7e94d05c3fa862e9d4170b8c6a5f23d7e1904b6c8fa2350d7e19c4b6f8a203";
    assert!(with_parameter(&cluster, "INSERT INTO plain SELECT 1, encode(decode(:v, 'hex'), 'hex');", stored));
    assert!(with_parameter(&cluster, "SELECT kms_wrap.kw_wrap_dek('default', decode(:v, 'hex'));", imported));
    let wrapper = cluster.psql("SELECT wrapper_uuid FROM kms_wrap.key_wrappers WHERE purpose = 'caller'").unwrap();
    let unwrapped = cluster.psql(&format!("SELECT kms_wrap.kw_unwrap('{wrapper}')")).unwrap();
    assert_eq!(unwrapped, format!("\\x{imported}"));
    // Used for values, rewrapped, used again, by sessions that end in every way.
    let value = format!("SELECT kms_wrap.kw_decrypt_text(kms_wrap.kw_encrypt_text('x', wrapper => '{wrapper}'))");
    assert_eq!(cluster.psql(&value).unwrap(), "x");
    let key = crate::fixture::next_key(&cluster, "postgres");
    cluster.psql(&format!("SELECT kms_wrap.kw_rewrap('{wrapper}', target_kms1 => {key})")).unwrap();
    assert_eq!(cluster.psql(&value).unwrap(), "x");
    through_every_path(&cluster);
    let mut session = cluster.session("postgres");
    session.query("BEGIN").unwrap();
    assert_eq!(session.query(&value).unwrap(), "x");
    // One that was made inside, and that nobody but whoever may unwrap ever sees.
    let made = cluster.psql("SELECT kms_wrap.kw_wrap_dek()").unwrap();
    let made = bytes_of(&cluster.psql(&format!("SELECT kms_wrap.kw_unwrap('{made}')")).unwrap());
    let roots = ["quickstart-a", "quickstart-b"].map(|name| (name, fs::read(cluster.key_dir().join(name)).unwrap()));
    cluster.crash();
    cluster.up();
    wait_until("it is ready", || cluster.psql(&value).is_ok());
    let mut keys = vec![("imported", bytes_of(imported)), ("made", made), ("stored", bytes_of(stored))];
    keys.extend(roots);
    // The one that the test stored in plain is found, so the search finds what is there.
    assert_eq!(keys_in_files(&cluster, &keys), [("stored", "pg_wal"), ("stored", "tables")]);
}
