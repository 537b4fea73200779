-- kw_protect_column: what it shows, what it makes, what it refuses.
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
CREATE TABLE person (id bigint PRIMARY KEY, name varchar(20) NOT NULL DEFAULT 'nobody', note text, photo bytea, seen date);
INSERT INTO person VALUES (1, 'Ada', 'first', '\x01', '2024-01-01'), (2, 'Bob', NULL, NULL, '2024-01-02'), (3, '', 'ż😀', '\x', NULL);
ANALYZE person;

-- A dry run says everything and changes nothing.
SELECT step, detail FROM kms_wrap.kw_protect_column('person', 'name', dry_run => true) WHERE step NOT IN ('size', 'time');
SELECT step, regexp_replace(detail, '[0-9]+ (bytes|kB)', 'N kB', 'g') AS detail FROM kms_wrap.kw_protect_column('person', 'name', dry_run => true) WHERE step IN ('size', 'time');
SELECT step, detail FROM kms_wrap.kw_protect_column('person', 'note', dry_run => true, blind_index => 'unique', index_column => 'note_index', view_name => 'person_plain') WHERE step IN ('type', 'statement');
SELECT (SELECT count(*) FROM kms_wrap.protected_columns) AS registered, (SELECT count(*) FROM pg_trigger WHERE tgrelid = 'person'::regclass) AS triggers,
    (SELECT count(*) FROM pg_attribute WHERE attrelid = 'person'::regclass AND attnum > 0) AS columns, to_regclass('person_decrypted') AS view;

-- For real.
SELECT step, masked(detail) AS detail FROM kms_wrap.kw_protect_column('person', 'name');
SELECT format_type(atttypid, atttypmod) AS type, attstorage AS storage, attnotnull, COALESCE(attstattarget, -1) AS statistics FROM pg_attribute WHERE attrelid = 'person'::regclass AND attname = 'name';
SELECT masked(conname) AS name, convalidated, pg_get_constraintdef(oid) AS definition FROM pg_constraint WHERE conrelid = 'person'::regclass AND contype = 'c';
SELECT masked(tgname) AS name, tgenabled, masked(pg_get_triggerdef(oid)) AS definition FROM pg_trigger WHERE tgrelid = 'person'::regclass;
SELECT reloptions FROM pg_class WHERE oid = 'person_decrypted'::regclass;
SELECT attname, format_type(atttypid, atttypmod) AS type FROM pg_attribute WHERE attrelid = 'person_decrypted'::regclass AND attnum > 0 ORDER BY attnum;
SELECT schema_name, table_name, column_name, policy_id, tenant_column, original_type, storage, status, index_column, index_bytes, view_schema, view_name, rows_total, rows_done, finished_at FROM kms_wrap.protected_columns;
SELECT relation, column_name, policy_name, status, percent, original_type, decrypting_view, trigger_state, is_validated, has_primary_key, has_copies FROM kms_wrap.kw_protected_columns;
-- Rows from before are plain, and the view says so; new ones are not.
INSERT INTO person (id) VALUES (4);
INSERT INTO person VALUES (5, 'Eve', 'fifth', NULL, NULL);
UPDATE person SET seen = '2024-01-03' WHERE id = 2;
SELECT id, kms_wrap.kw_is_sealed(name) AS is_sealed FROM person ORDER BY id;
SELECT id, name, pg_typeof(name), note, photo, seen, kw_plain_columns FROM person_decrypted ORDER BY id;
-- No statistics are kept of what was plain, and ANALYZE makes no new ones.
SELECT attname FROM pg_stats WHERE tablename = 'person' AND attname = 'name';
ANALYZE person;
SELECT attname FROM pg_stats WHERE tablename = 'person' AND attname = 'name';

-- A second column: one view for both, with what was granted on it and said about it.
GRANT SELECT ON person_decrypted TO pg_monitor WITH GRANT OPTION;
GRANT SELECT (id, name) ON person_decrypted TO pg_read_all_stats;
COMMENT ON VIEW person_decrypted IS 'It''s the plain one.';
COMMENT ON COLUMN person_decrypted.name IS 'Of the person.';
SELECT step, masked(detail) AS detail FROM kms_wrap.kw_protect_column('person', 'photo', blind_index => 'index', index_bytes => 8);
SELECT a.grantee::regrole, a.privilege_type, a.is_grantable FROM pg_class c, aclexplode(c.relacl) a WHERE c.oid = 'person_decrypted'::regclass AND a.grantee <> c.relowner;
SELECT attname, attacl, col_description(attrelid, attnum) AS comment FROM pg_attribute WHERE attrelid = 'person_decrypted'::regclass AND attnum > 0 ORDER BY attnum;
SELECT obj_description('person_decrypted'::regclass, 'pg_class') AS comment;
INSERT INTO person VALUES (6, 'Fay', 'sixth', '\x06', NULL);
SELECT id, name, note, photo, kw_plain_columns FROM person_decrypted ORDER BY id;
SELECT column_name, storage, index_column, index_bytes, index_normalisation, index_unique, status, trigger_state FROM kms_wrap.kw_protected_columns ORDER BY column_name;
SELECT i.indisunique, pg_get_indexdef(i.indexrelid) AS definition FROM pg_index i WHERE i.indrelid = 'person'::regclass AND NOT i.indisprimary;
SELECT masked(conname) AS name, pg_get_constraintdef(oid) AS definition FROM pg_constraint WHERE conrelid = 'person'::regclass AND contype = 'c' ORDER BY 2;

-- An empty table is protected at once; one that has been emptied by DELETE still has its blocks.
CREATE TABLE fresh (id integer PRIMARY KEY, secret text);
SELECT step, masked(detail) AS detail FROM kms_wrap.kw_protect_column('fresh', 'secret') WHERE step = 'next' OR detail LIKE '%kw_sealed_%';
CREATE TABLE emptied (id integer PRIMARY KEY, secret text);
INSERT INTO emptied VALUES (1, 'x');
DELETE FROM emptied;
SELECT step, masked(detail) AS detail FROM kms_wrap.kw_protect_column('emptied', 'secret') WHERE step = 'next' OR detail LIKE '%kw_sealed_%';
SELECT table_name, status, is_validated, percent, finished_at IS NOT NULL AS finished FROM kms_wrap.kw_protected_columns WHERE table_name IN ('fresh', 'emptied') ORDER BY 1;
INSERT INTO fresh VALUES (1, 'one'), (2, NULL);
SELECT * FROM fresh_decrypted ORDER BY id;

-- One data key a tenant: the tenant column is part of what a value is bound to.
CREATE TABLE account (id integer PRIMARY KEY, tenant uuid, iban text);
INSERT INTO account VALUES (1, 'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11', 'DE89'), (2, NULL, 'NL91');
SELECT step, detail FROM kms_wrap.kw_protect_column('account', 'iban', tenant_column => 'tenant', dry_run => true) WHERE step IN ('key', 'data key', 'obstacle', 'next');
SELECT * FROM kms_wrap.kw_protect_column('account', 'iban', tenant_column => 'tenant');
UPDATE account SET tenant = 'b0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11' WHERE id = 2;
SELECT step, masked(detail) AS detail FROM kms_wrap.kw_protect_column('account', 'iban', tenant_column => 'tenant');
SELECT masked(conname) AS name, convalidated, pg_get_constraintdef(oid) AS definition FROM pg_constraint WHERE conrelid = 'account'::regclass AND contype = 'c' ORDER BY 3;
INSERT INTO account VALUES (3, 'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11', 'FR14');
SELECT * FROM account_decrypted ORDER BY id;
SELECT tenant_column FROM kms_wrap.kw_protected_columns WHERE table_name = 'account';

-- Other BEFORE triggers are told about.
CREATE FUNCTION nothing() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
CREATE TABLE triggered (id integer PRIMARY KEY, secret text);
CREATE TRIGGER audit BEFORE INSERT ON triggered FOR EACH ROW EXECUTE FUNCTION nothing();
CREATE TRIGGER after_all AFTER INSERT ON triggered FOR EACH ROW EXECUTE FUNCTION nothing();
CREATE TRIGGER zzzz BEFORE UPDATE ON triggered FOR EACH ROW EXECUTE FUNCTION nothing();
SELECT detail FROM kms_wrap.kw_protect_column('triggered', 'secret', dry_run => true) WHERE step = 'note';

-- Wrong arguments.
SELECT * FROM kms_wrap.kw_protect_column(NULL, 'note');
SELECT * FROM kms_wrap.kw_protect_column('person', NULL);
SELECT * FROM kms_wrap.kw_protect_column('person', 'note', policy => NULL);
SELECT * FROM kms_wrap.kw_protect_column('person', 'note', dry_run => NULL);
SELECT * FROM kms_wrap.kw_protect_column('nowhere', 'note');
SELECT * FROM kms_wrap.kw_protect_column(1::oid, 'note');
SELECT * FROM kms_wrap.kw_protect_column('person', 'nothing');
SELECT * FROM kms_wrap.kw_protect_column('person', 'ctid');
SELECT * FROM kms_wrap.kw_protect_column('person', 'name');
SELECT * FROM kms_wrap.kw_protect_column('person', 'note', policy => 'nothing');
SELECT * FROM kms_wrap.kw_protect_column('person', 'note', tenant_column => 'nothing');
SELECT * FROM kms_wrap.kw_protect_column('person', 'note', view_name => 'other');
SELECT * FROM kms_wrap.kw_protect_column('triggered', 'secret', view_name => 'person');
SELECT * FROM kms_wrap.kw_protect_column('triggered', 'secret', blind_index => 'btree');
SELECT * FROM kms_wrap.kw_protect_column('triggered', 'secret', index_column => 'x');
SELECT * FROM kms_wrap.kw_protect_column('triggered', 'secret', blind_index => 'index', index_column => 'id');
SELECT * FROM kms_wrap.kw_protect_column('triggered', 'secret', blind_index => 'index', index_bytes => 0);
SELECT * FROM kms_wrap.kw_protect_column('triggered', 'secret', blind_index => 'index', index_bytes => 33);
SELECT * FROM kms_wrap.kw_protect_column('triggered', 'secret', blind_index => 'index', index_bytes => NULL);
SELECT * FROM kms_wrap.kw_protect_column('triggered', 'secret', blind_index => 'unique', index_bytes => 15);
SELECT * FROM kms_wrap.kw_protect_column('triggered', 'secret', blind_index => 'index', index_normalisation => 'upper');
ALTER TABLE triggered ADD raw bytea;
SELECT * FROM kms_wrap.kw_protect_column('triggered', 'raw', blind_index => 'index', index_normalisation => 'lower');
START TRANSACTION ISOLATION LEVEL REPEATABLE READ;
SELECT * FROM kms_wrap.kw_protect_column('triggered', 'secret');
ROLLBACK;

-- A roll-back takes all of it back.
BEGIN;
SELECT count(*) > 0 AS did FROM kms_wrap.kw_protect_column('triggered', 'secret', blind_index => 'index');
ROLLBACK;
SELECT (SELECT count(*) FROM kms_wrap.kw_protected_columns WHERE table_name = 'triggered') AS registered,
    (SELECT count(*) FROM pg_trigger WHERE tgrelid = 'triggered'::regclass AND tgname LIKE 'zzz\_kw%') AS triggers, to_regclass('triggered_decrypted') AS view;
