-- Places that keep plain values of protected columns all the same: kw_health and the dry run name them.
\pset footer off
\set SHOW_CONTEXT never
SELECT kms_wrap.kw_create_root_key(:'testname' || '-a'), kms_wrap.kw_create_root_key(:'testname' || '-b') \g /dev/null
SELECT kms_wrap.kw_add_provider(p, 'local', jsonb_build_object('root_key', :'testname' || '-' || p)) FROM unnest(ARRAY['a', 'b']) p \g /dev/null
SELECT kms_wrap.kw_create_local_key('a', 'a1', 'XAES-256-GCM'), kms_wrap.kw_create_local_key('b', 'b1', 'XAES-256-GCM') \g /dev/null
SELECT kms_wrap.kw_create_policy('default', 'split', min_layers => 0) \g /dev/null
SELECT kms_wrap.kw_policy_add_key('default', 'kms1', 1000), kms_wrap.kw_policy_add_key('default', 'kms2', 1001) \g /dev/null
CREATE VIEW said AS SELECT component, name, status, detail FROM kms_wrap.kw_health()
    WHERE component = 'materialized view' OR (component = 'setting' AND name NOT LIKE 'kms_wrap.%');
CREATE TABLE people (id integer PRIMARY KEY, name text, blood text);
SET log_statement = 'mod';
SELECT * FROM said;
SELECT count(*) > 0 FROM kms_wrap.kw_protect_column('people', 'name');
SELECT * FROM said;
SET log_statement = 'ddl';
SELECT * FROM said;
SET log_min_duration_statement = 100000;
SET log_parameter_max_length_on_error = -1;
SELECT * FROM said;
RESET log_statement;
RESET log_min_duration_statement;
RESET log_parameter_max_length_on_error;
-- Of a view over the decrypting view, too; not of what reads other columns of other tables.
CREATE VIEW over AS SELECT name AS n FROM people_decrypted;
CREATE MATERIALIZED VIEW copies AS SELECT upper(n) FROM over;
CREATE MATERIALIZED VIEW counts AS SELECT count(*) FROM people;
SELECT * FROM said;
DROP MATERIALIZED VIEW copies;
SELECT * FROM said;
-- A blind index over few values.
INSERT INTO people SELECT n, 'x', (ARRAY['A', 'B', 'AB', '0'])[n % 4 + 1] FROM generate_series(1, 1000) n;
SELECT detail FROM kms_wrap.kw_protect_column('people', 'blood', blind_index => 'index', dry_run => true) WHERE step = 'note';
ANALYZE people;
SELECT detail FROM kms_wrap.kw_protect_column('people', 'blood', blind_index => 'index', dry_run => true) WHERE step = 'note';
SELECT detail FROM kms_wrap.kw_protect_column('people', 'blood', dry_run => true) WHERE step = 'note';
