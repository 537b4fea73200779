-- What depends on a column, or keeps plain copies of it: listed by a dry run, refused until it is gone.
\pset footer off
\pset null '-'
\set SHOW_CONTEXT never
SELECT kms_wrap.kw_create_root_key(:'testname' || '-a') AS root_a, kms_wrap.kw_create_root_key(:'testname' || '-b') AS root_b \gset
SELECT kms_wrap.kw_add_provider('a', 'local', jsonb_build_object('root_key', :'testname' || '-a')) AS a,
    kms_wrap.kw_add_provider('b', 'local', jsonb_build_object('root_key', :'testname' || '-b')) AS b \gset
SELECT kms_wrap.kw_create_local_key('a', 'a1', 'XAES-256-GCM') AS a1, kms_wrap.kw_create_local_key('b', 'b1', 'XAES-256-GCM') AS b1 \gset
SELECT kms_wrap.kw_create_policy('default', 'split', min_layers => 0) \g /dev/null
SELECT kms_wrap.kw_policy_add_key('default', 'kms1', :a1), kms_wrap.kw_policy_add_key('default', 'kms2', :b1) \g /dev/null
-- uuids differ from run to run.
CREATE FUNCTION masked(t text) RETURNS text LANGUAGE sql IMMUTABLE AS $$
    SELECT regexp_replace(regexp_replace(regexp_replace(t, '[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}', '<uuid>', 'g'),
        '[0-9a-f]{32}', '<hex>', 'g'), '(zzz_kw_seal)_[0-9a-f]{8}', '\1_<hex>', 'g')
$$;
-- One of everything.
CREATE TABLE t (id integer PRIMARY KEY, secret text DEFAULT 'x' NOT NULL, other text, derived text GENERATED ALWAYS AS (upper(secret)) STORED,
    CONSTRAINT checked CHECK (length(secret) > 0), CONSTRAINT unaffected CHECK (other <> ''), CONSTRAINT uniq UNIQUE (secret), CONSTRAINT excluded EXCLUDE USING btree (secret WITH =));
CREATE INDEX plain_index ON t (secret);
CREATE INDEX expression_index ON t (lower(secret), id);
CREATE INDEX partial_index ON t (id) WHERE secret IS NOT NULL;
CREATE INDEX including_index ON t (id) INCLUDE (secret);
CREATE INDEX unaffected_index ON t (other);
CREATE TABLE parent (name text PRIMARY KEY);
ALTER TABLE t ADD CONSTRAINT refers FOREIGN KEY (secret) REFERENCES parent;
CREATE TABLE child (name text REFERENCES t (secret));
CREATE VIEW a_view AS SELECT id, secret FROM t;
CREATE VIEW unaffected_view AS SELECT id, other FROM t;
CREATE VIEW over_view AS SELECT * FROM a_view;
CREATE MATERIALIZED VIEW copies AS SELECT secret FROM t;
CREATE RULE a_rule AS ON UPDATE TO t WHERE NEW.secret = 'x' DO ALSO NOTHING;
CREATE POLICY a_policy ON t USING (secret <> 'x');
CREATE STATISTICS some_statistics ON secret, other FROM t;
CREATE FUNCTION nothing() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
CREATE TRIGGER of_column AFTER UPDATE OF secret ON t FOR EACH ROW EXECUTE FUNCTION nothing();
CREATE TRIGGER when_column AFTER INSERT ON t FOR EACH ROW WHEN (NEW.secret = 'x') EXECUTE FUNCTION nothing();
CREATE TRIGGER unaffected_trigger AFTER INSERT ON t FOR EACH ROW WHEN (NEW.* IS NOT NULL) EXECUTE FUNCTION nothing();
CREATE FUNCTION reads() RETURNS text LANGUAGE sql BEGIN ATOMIC SELECT secret FROM t; END;
SET client_min_messages = error; -- wal_level
CREATE PUBLICATION with_columns FOR TABLE t (id, secret);
CREATE PUBLICATION with_condition FOR TABLE t WHERE (secret <> '');
CREATE PUBLICATION whole FOR TABLE t;
RESET client_min_messages;
CREATE TABLE keeps (id integer, row_of t, rows_of t[]);
CREATE TYPE holds_rows AS (n integer, rows_of t[]);
CREATE DOMAIN domain_of_rows AS t;
CREATE TABLE keeps_more (id integer, held holds_rows, domain_of domain_of_rows, ids integer[]);
SELECT detail FROM kms_wrap.kw_protect_column('t', 'secret', dry_run => true) WHERE step = 'obstacle';
SELECT * FROM kms_wrap.kw_protect_column('t', 'secret');
-- Other columns, of other dependents.
SELECT detail FROM kms_wrap.kw_protect_column('t', 'other', dry_run => true) WHERE step = 'obstacle';
SELECT detail FROM kms_wrap.kw_protect_column('t', 'derived', dry_run => true) WHERE step = 'obstacle';
-- Doing what is said there is enough.
DROP TABLE child;
DROP VIEW over_view, a_view;
ALTER TABLE t ALTER derived DROP EXPRESSION, DROP CONSTRAINT checked, DROP CONSTRAINT uniq, DROP CONSTRAINT excluded, DROP CONSTRAINT refers;
DROP INDEX plain_index, expression_index, partial_index, including_index;
DROP MATERIALIZED VIEW copies;
DROP RULE a_rule ON t;
DROP POLICY a_policy ON t;
DROP STATISTICS some_statistics;
DROP TRIGGER of_column ON t;
DROP TRIGGER when_column ON t;
DROP FUNCTION reads;
DROP PUBLICATION with_columns, with_condition;
ALTER TABLE keeps DROP row_of, DROP rows_of;
ALTER TABLE keeps_more DROP held, DROP domain_of;
SELECT detail FROM kms_wrap.kw_protect_column('t', 'secret', dry_run => true) WHERE step IN ('obstacle', 'next');
SELECT masked(detail) AS detail FROM kms_wrap.kw_protect_column('t', 'secret', blind_index => 'unique') WHERE step = 'next';
SELECT t.tgname FROM pg_trigger t WHERE t.tgrelid = 't'::regclass AND NOT t.tgisinternal AND t.tgname NOT LIKE 'zzz%';

-- Once a column is protected: what comes to depend on the decrypting view stands in the way of making that anew.
CREATE VIEW over_decrypted AS SELECT id, other FROM t_decrypted;
CREATE TRIGGER instead INSTEAD OF INSERT ON t_decrypted FOR EACH ROW EXECUTE FUNCTION nothing();
SELECT detail FROM kms_wrap.kw_protect_column('t', 'derived', dry_run => true) WHERE step = 'obstacle';
CREATE VIEW on_sealed AS SELECT secret FROM t;
CREATE INDEX on_sealed_index ON t (secret);
CREATE TABLE copy (LIKE t INCLUDING CONSTRAINTS);
\set VERBOSITY terse
SELECT * FROM kms_wrap.kw_unprotect_column('t', 'secret');
\set VERBOSITY default
CREATE FUNCTION why(statement text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE detail text;
BEGIN
    EXECUTE statement;
    RETURN 'done';
EXCEPTION WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS detail = PG_EXCEPTION_DETAIL;
    RETURN SQLSTATE || ': ' || masked(SQLERRM) || E'\n' || masked(detail);
END
$$;
SELECT why('SELECT * FROM kms_wrap.kw_unprotect_column(''t'', ''secret'')');
-- A copy of the definition is not the protected column.
SELECT why('SELECT * FROM kms_wrap.kw_protect_column(''copy'', ''secret'')');
SELECT why('SELECT * FROM kms_wrap.kw_unprotect_column(''copy'', ''secret'')');
SELECT why('CALL kms_wrap.kw_encrypt_column(''copy'', ''secret'')');
SELECT relation, has_copies, has_recorded_name FROM kms_wrap.kw_protected_columns ORDER BY relation;
DROP TABLE copy;
DROP VIEW over_decrypted, on_sealed;
DROP INDEX on_sealed_index;
DROP TRIGGER instead ON t_decrypted;
SELECT masked(detail) AS detail FROM kms_wrap.kw_unprotect_column('t', 'secret') WHERE detail LIKE 'DROP%' OR detail LIKE '%DROP COLUMN%';
SELECT count(*) FROM kms_wrap.protected_columns;

-- Tables that cannot have protected columns.
CREATE VIEW v AS SELECT 1 AS id, 'x'::text AS secret;
CREATE MATERIALIZED VIEW m AS SELECT 1 AS id, 'x'::text AS secret;
CREATE TEMP TABLE temporary (id integer PRIMARY KEY, secret text);
CREATE TABLE ancestor (id integer PRIMARY KEY, secret text);
CREATE TABLE heir (PRIMARY KEY (id)) INHERITS (ancestor);
CREATE TYPE row_type AS (id integer, secret text);
CREATE TABLE typed OF row_type (PRIMARY KEY (id));
CREATE SEQUENCE s;
CREATE FOREIGN DATA WRAPPER w;
CREATE SERVER nowhere FOREIGN DATA WRAPPER w;
CREATE FOREIGN TABLE f (id integer, secret text) SERVER nowhere;
CREATE TABLE part (id integer PRIMARY KEY, secret text) PARTITION BY LIST (id);
CREATE TABLE part_1 PARTITION OF part FOR VALUES IN (1);
CREATE TABLE mixed (id integer, secret text) PARTITION BY LIST (id);
CREATE FOREIGN TABLE mixed_1 PARTITION OF mixed FOR VALUES IN (1) SERVER nowhere;
\set VERBOSITY default
SELECT * FROM kms_wrap.kw_protect_column('v', 'secret');
SELECT * FROM kms_wrap.kw_protect_column('m', 'secret');
SELECT * FROM kms_wrap.kw_protect_column('temporary', 'secret');
SELECT * FROM kms_wrap.kw_protect_column('ancestor', 'secret');
SELECT * FROM kms_wrap.kw_protect_column('heir', 'secret');
SELECT * FROM kms_wrap.kw_protect_column('typed', 'secret');
SELECT * FROM kms_wrap.kw_protect_column('s', 'last_value');
SELECT * FROM kms_wrap.kw_protect_column('f', 'secret');
SELECT * FROM kms_wrap.kw_protect_column('part_1', 'secret');
SELECT * FROM kms_wrap.kw_protect_column('mixed', 'secret');
SELECT * FROM kms_wrap.kw_protect_column('pg_class', 'relname');
SELECT * FROM kms_wrap.kw_protect_column('information_schema.sql_parts', 'feature_name');
SELECT * FROM kms_wrap.kw_protect_column('kms_wrap.sym_key', 'key_id');
CREATE UNLOGGED TABLE unlogged (id integer PRIMARY KEY, secret text);
SELECT detail FROM kms_wrap.kw_protect_column('unlogged', 'secret') WHERE step = 'next';
-- Whole rows, of which PostgreSQL records no column.
CREATE TABLE w (id integer PRIMARY KEY, secret text, CONSTRAINT whole_row CHECK (w IS NOT NULL));
CREATE FUNCTION secret_of(w) RETURNS text LANGUAGE sql IMMUTABLE AS 'SELECT ($1).secret';
CREATE INDEX whole_index ON w (secret_of(w));
CREATE VIEW whole_view AS SELECT to_jsonb(w) FROM w;
CREATE MATERIALIZED VIEW whole_copies AS SELECT to_jsonb(w) FROM w;
CREATE POLICY whole_policy ON w USING (w IS NOT NULL);
CREATE FUNCTION reads_rows() RETURNS text LANGUAGE sql BEGIN ATOMIC SELECT w::text FROM w; END;
CREATE VIEW unaffected_count AS SELECT count(*) FROM w;
CREATE INDEX unaffected_partial ON w (id) WHERE id > 0;
SELECT detail FROM kms_wrap.kw_protect_column('w', 'secret', dry_run => true) WHERE step = 'obstacle';
SELECT * FROM kms_wrap.kw_protect_column('w', 'secret');
DROP VIEW whole_view;
DROP MATERIALIZED VIEW whole_copies;
DROP POLICY whole_policy ON w;
DROP INDEX whole_index;
DROP FUNCTION reads_rows();
ALTER TABLE w DROP CONSTRAINT whole_row;
SELECT count(*) > 0 AS protected FROM kms_wrap.kw_protect_column('w', 'secret');
