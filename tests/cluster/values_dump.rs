//! Protected columns in dumps: whatever order things are restored in, what opens opens, and what cannot yet says so.

use crate::columns::protect;
use crate::fixture::quickstarted;
use crate::harness::Cluster;

const DB: &str = "postgres";
/// Schemas that sort before and after `kms_wrap`, which is the order in which pg_dump writes data.
const SCHEMAS: [&str; 2] = ["app", "zoo"];
const ROWS: &str = "50";

/// Tables in both schemas with protected columns of both kinds, blind index, tenants, a quoted name, and a role that may read.
fn original() -> Cluster {
    let cluster = quickstarted(&[("shared_preload_libraries", "kms_wrap")]);
    cluster.psql("CREATE ROLE reader LOGIN; CREATE ROLE writer LOGIN").unwrap();
    for schema in SCHEMAS {
        cluster
            .psql(&format!(
                "CREATE SCHEMA {schema}; GRANT USAGE ON SCHEMA {schema} TO reader, writer;
                 CREATE TABLE {schema}.\"People\" (id bigint, part text, tenant text NOT NULL, \"Name\" varchar(40), photo bytea, PRIMARY KEY (part, id))"
            ))
            .unwrap();
        let table = format!("{schema}.\"People\"");
        protect(&cluster, DB, &table, "Name", ", blind_index => 'index', index_normalisation => 'lower'");
        protect(&cluster, DB, &table, "photo", ", tenant_column => 'tenant'");
        cluster
            .psql(&format!(
                "GRANT SELECT ON {table}, {schema}.\"People_decrypted\" TO reader; GRANT SELECT, INSERT, UPDATE ON {table} TO writer;
                 INSERT INTO {table} SELECT i, 'p', 'tenant ' || i % 3, 'Name ' || i, convert_to('photo ' || i, 'UTF8') FROM generate_series(1, {ROWS}) i"
            ))
            .unwrap();
    }
    cluster.psql("SELECT kms_wrap.kw_grant(p, 'default', 'reader') FROM unnest(ARRAY['decrypt', 'index']) p; SELECT kms_wrap.kw_grant('encrypt', 'default', 'writer')").unwrap();
    cluster
}

fn roles(copy: &Cluster) {
    copy.psql("CREATE ROLE reader LOGIN; CREATE ROLE writer LOGIN").unwrap();
}

fn opened(schema: &str) -> String {
    format!(
        "SELECT count(*) FROM {schema}.\"People_decrypted\" WHERE \"Name\" = 'Name ' || id AND photo = convert_to('photo ' || id, 'UTF8')
         AND pg_typeof(\"Name\") = 'character varying'::regtype"
    )
}

/// Everything is as it was: values, index, triggers, rights, and it goes on.
fn assert_works(copy: &Cluster, database: &str) {
    let query = |sql: &str| copy.psql_in(database, sql).unwrap();
    let wrappers = query("SELECT count(*) FROM kms_wrap.key_wrappers WHERE purpose = 'values'");
    // One for each Name, one for each index, three tenants of each photo.
    assert_eq!(wrappers, "10");
    assert_eq!(query("SELECT count(*) FROM kms_wrap.encryption_bindings"), "10");
    for schema in SCHEMAS {
        assert_eq!(copy.psql_as("reader", database, &opened(schema)).unwrap(), ROWS, "{schema}");
        let lookup = format!(
            "SELECT id FROM {schema}.\"People\" WHERE \"Name_bidx\" = ANY (kms_wrap.kw_blind_index('{schema}.\"People\"', 'Name', 'NAME 7'))"
        );
        assert_eq!(copy.psql_as("reader", database, &lookup).unwrap(), "7");
        let write = format!(
            "INSERT INTO {schema}.\"People\" VALUES (0, 'p', 'tenant 0', 'Name 0', 'photo 0');
             UPDATE {schema}.\"People\" SET id = -1 WHERE id = 0"
        );
        copy.psql_as("writer", database, &write).unwrap();
        let new = format!("SELECT \"Name\", convert_from(photo, 'UTF8') FROM {schema}.\"People_decrypted\" WHERE id = -1");
        assert_eq!(copy.psql_as("reader", database, &new).unwrap(), "Name 0|photo 0");
        assert_eq!(copy.psql_as("writer", database, &new).unwrap_err().sqlstate, "42501");
        query(&format!("DELETE FROM {schema}.\"People\" WHERE id = -1"));
    }
    let triggers = "SELECT count(*), count(*) FILTER (WHERE tgenabled = 'A') FROM pg_trigger WHERE tgname LIKE 'zzz_kw_seal%'";
    assert_eq!(query(triggers), "4|4");
    assert_eq!(query("SELECT count(*) FROM pg_constraint WHERE conname ~ '^kw_(sealed|index|tenant)_' AND convalidated"), "8");
    let state = "SELECT DISTINCT status, trigger_state, is_validated, has_copies, has_recorded_name, unknown_envelopes FROM kms_wrap.kw_protected_columns";
    assert_eq!(query(state), "protected|always|t|f|t|0");
    // No new wrapper was made: the current ones are used.
    assert_eq!(query("SELECT count(*) FROM kms_wrap.key_wrappers WHERE purpose = 'values'"), wrappers);
    assert_eq!(query("SELECT count(*) FROM kms_wrap.kw_verify() WHERE NOT ok"), "0");
}

/// Sealed values of a table as they are stored.
fn stored(cluster: &Cluster, database: &str, schema: &str) -> String {
    cluster.psql_in(database, &format!("SELECT * FROM {schema}.\"People\" ORDER BY id")).unwrap()
}

#[test]
fn a_dump_restores_in_every_format() {
    let original = original();
    let copy = Cluster::start(&[("shared_preload_libraries", "")]);
    roles(&copy);
    copy.copy_keys_from(&original);
    let archive = original.path("dump");
    original.run("pg_dump", &["-d", DB, "-Fc", "-f", &archive]);
    for format in ["plain", "custom", "in parallel", "sections", "inserts"] {
        let name = format!("copy {format}");
        let into = |options: &[&str]| {
            let mut all = vec!["--exit-on-error"];
            all.extend(options);
            all.push(&archive);
            copy.run("pg_restore", &all);
        };
        match format {
            "plain" => copy.restore(&name, &original.dump(DB, &[])).unwrap(),
            // One statement a row.
            "inserts" => copy.restore(&name, &original.dump(DB, &["--rows-per-insert=7"])).unwrap(),
            "sections" => {
                copy.restore(&name, &original.dump(DB, &["--section=pre-data"])).unwrap();
                copy.psql_in(&name, &original.dump(DB, &["--section=data"])).unwrap();
                copy.psql_in(&name, &original.dump(DB, &["--section=post-data"])).unwrap();
            }
            _ => {
                copy.psql(&format!("CREATE DATABASE \"{name}\" TEMPLATE template0")).unwrap();
                let replica = format!("dbname='{name}' options='-c session_replication_role=replica'");
                into(if format == "custom" { vec!["-d", &name] } else { vec!["-d", &replica, "-j", "3"] }.as_slice());
            }
        }
        for schema in SCHEMAS {
            assert_eq!(stored(&copy, &name, schema), stored(&original, DB, schema), "{format}");
        }
        assert_works(&copy, &name);
    }
    // The original goes on: a dump changes nothing.
    assert_works(&original, DB);
}

/// A database with everything but the rows of the two tables.
fn without_rows(original: &Cluster, copy: &Cluster, database: &str, more: &[&str]) {
    let tables = SCHEMAS.map(|schema| format!("--exclude-table-data={schema}.*"));
    let mut options: Vec<&str> = tables.iter().map(String::as_str).collect();
    options.extend(more);
    copy.restore(database, &original.dump(DB, &options)).unwrap();
}

fn data_of(original: &Cluster, schema: &str) -> String {
    original.dump(DB, &["--data-only", "-t", &format!("{schema}.*")])
}

const REPLICA: &str = "SET session_replication_role = replica;\n";

#[test]
fn data_alone_is_restored_when_its_wrappers_are_there() {
    let original = original();
    let copy = Cluster::start(&[]);
    roles(&copy);
    copy.copy_keys_from(&original);
    without_rows(&original, &copy, "copy", &[]);
    for (schema, before) in SCHEMAS.into_iter().zip(["", REPLICA]) {
        copy.psql_in("copy", &format!("{before}{}", data_of(&original, schema))).unwrap();
        assert_eq!(stored(&copy, "copy", schema), stored(&original, DB, schema));
    }
    assert_works(&copy, "copy");
    // With triggers switched off they come back as ordinary ones; the view says so, and how to get them back is what it says.
    copy.psql_in("copy", "TRUNCATE app.\"People\"").unwrap();
    copy.psql_in("copy", &original.dump(DB, &["--data-only", "--disable-triggers", "-t", "app.*"])).unwrap();
    let states = "SELECT schema_name, trigger_state FROM kms_wrap.kw_protected_columns ORDER BY schema_name, column_name";
    assert_eq!(copy.psql_in("copy", states).unwrap(), "app|not always\napp|not always\nzoo|always\nzoo|always");
    let again = "SELECT format('ALTER TABLE %s ENABLE ALWAYS TRIGGER %I', tgrelid::regclass, tgname) FROM pg_trigger
                 WHERE tgname LIKE 'zzz_kw_seal%' AND tgenabled <> 'A' \\gexec";
    copy.psql_in("copy", again).unwrap();
    assert_works(&copy, "copy");
}

#[test]
fn data_that_comes_before_its_wrappers_waits_for_them() {
    let original = original();
    let copy = Cluster::start(&[]);
    roles(&copy);
    copy.copy_keys_from(&original);
    let wrappers = ["kms_wrap.key_wrappers", "kms_wrap.key_wrapper_layers", "kms_wrap.encryption_bindings"];
    let without: Vec<String> = wrappers.iter().map(|table| format!("--exclude-table-data={table}")).collect();
    let mut without: Vec<&str> = without.iter().map(String::as_str).collect();
    without_rows(&original, &copy, "copy", &without);
    // As an ordinary session: refused, nothing is stored.
    let error = copy.psql_in("copy", &data_of(&original, "app")).unwrap_err();
    assert_eq!((error.sqlstate.as_str(), error.message.as_str()), ("22023", "value is an envelope that does not belong to this row"));
    assert_eq!(stored(&copy, "copy", "app"), "");
    assert_eq!(copy.psql_in("copy", "SELECT sum(unknown_envelopes) FROM kms_wrap.protected_columns").unwrap(), "0");
    // As a replica: stored as it is, and counted.
    for schema in SCHEMAS {
        copy.psql_in("copy", &format!("{REPLICA}{}", data_of(&original, schema))).unwrap();
        assert_eq!(stored(&copy, "copy", schema), stored(&original, DB, schema));
        assert_eq!(copy.psql_in("copy", &opened(schema)).unwrap_err().sqlstate, "42704");
    }
    let counted = "SELECT string_agg(unknown_envelopes::text, ',') FROM kms_wrap.protected_columns";
    assert_eq!(copy.psql_in("copy", counted).unwrap(), format!("{ROWS},{ROWS},{ROWS},{ROWS}"));
    // Then the wrappers.
    let tables: Vec<String> = wrappers.iter().map(|table| format!("--table={table}")).collect();
    without.clear();
    without.extend(["--data-only"]);
    without.extend(tables.iter().map(String::as_str));
    let dump = original.dump(DB, &without);
    if dump.contains("COPY kms_wrap.key_wrappers") {
        copy.psql_in("copy", &dump).unwrap();
    } else {
        // pg_dump leaves an extension's tables out of a dump by name.
        for table in wrappers {
            let list = original
                .psql(&format!(
                    "SELECT string_agg(quote_ident(attname), ', ' ORDER BY attnum) FROM pg_attribute
                WHERE attrelid = '{table}'::regclass AND attnum > 0 AND attgenerated = ''"
                ))
                .unwrap();
            let rows = original.psql(&format!("COPY {table} ({list}) TO STDOUT")).unwrap();
            copy.psql_in("copy", &format!("COPY {table} ({list}) FROM STDIN;\n{rows}\n\\.\n")).unwrap();
        }
    }
    for schema in SCHEMAS {
        assert_eq!(copy.psql_in("copy", &opened(schema)).unwrap(), ROWS);
    }
    copy.psql_in("copy", "UPDATE kms_wrap.protected_columns SET unknown_envelopes = 0").unwrap();
    assert_works(&copy, "copy");
}

/// pg_dump writes `app` before `kms_wrap`, so with the schema restored first the triggers meet rows of columns that they know nothing of.
#[test]
fn schema_first_and_then_all_data_works_as_a_replica() {
    let original = original();
    let copy = Cluster::start(&[]);
    roles(&copy);
    copy.copy_keys_from(&original);
    copy.restore("copy", &original.dump(DB, &["--schema-only"])).unwrap();
    let data = original.dump(DB, &["--data-only"]);
    let (app, keys) = (data.find("COPY app.").unwrap(), data.find("COPY kms_wrap.protected_columns").unwrap());
    assert!(app < keys, "pg_dump has changed its order");
    let error = copy.psql_in("copy", &data).unwrap_err();
    assert_eq!(error.sqlstate, "42704", "{error}");
    copy.psql_in("copy", &format!("{REPLICA}{data}")).unwrap();
    assert_works(&copy, "copy");
}

#[test]
fn a_dump_of_one_schema_needs_the_extension_and_its_rows() {
    let original = original();
    let copy = Cluster::start(&[]);
    roles(&copy);
    copy.copy_keys_from(&original);
    let app = original.dump(DB, &["-n", "app"]);
    assert!(!app.contains("CREATE EXTENSION") && !app.contains("COPY kms_wrap."), "{app}");
    // Without the extension nothing of it fits.
    assert_eq!(copy.restore("bare", &app).unwrap_err().sqlstate, "3F000");
    // With an extension that knows nothing of it rows are there, and do not open; what is written is refused.
    copy.psql("CREATE DATABASE stranger TEMPLATE template0").unwrap();
    copy.psql_in("stranger", &format!("CREATE EXTENSION kms_wrap;\n{app}")).unwrap();
    assert_eq!(stored(&copy, "stranger", "app"), stored(&original, DB, "app"));
    for sql in [opened("app").as_str(), "INSERT INTO app.\"People\" VALUES (0, 'p', 't', 'x', 'y')", "UPDATE app.\"People\" SET id = -id"] {
        let error = copy.psql_in("stranger", sql).unwrap_err();
        assert!(error.sqlstate == "42704" && error.message.starts_with("protected column "), "{sql}: {error}");
    }
    // With the rows of kms_wrap it is whole.
    copy.psql("CREATE DATABASE copy TEMPLATE template0").unwrap();
    let rest = original.dump(DB, &["-N", "app"]);
    copy.psql_in("copy", &rest).unwrap();
    copy.psql_in("copy", &app).unwrap();
    assert_works(&copy, "copy");
}
