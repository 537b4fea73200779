-- A role that may encrypt, and read what is stored, can't have another row's value sealed for a row of its own by a table that
-- looks like the protected one, nor use such a table to ask the blind index.
\pset footer off
\set SHOW_CONTEXT never
SELECT kms_wrap.kw_create_root_key(:'testname' || '-a'), kms_wrap.kw_create_root_key(:'testname' || '-b') \g /dev/null
SELECT kms_wrap.kw_add_provider(p, 'local', jsonb_build_object('root_key', :'testname' || '-' || p)) FROM unnest(ARRAY['a', 'b']) p \g /dev/null
SELECT kms_wrap.kw_create_local_key('a', 'a1', 'XAES-256-GCM'), kms_wrap.kw_create_local_key('b', 'b1', 'XAES-256-GCM') \g /dev/null
SELECT kms_wrap.kw_create_policy('default', 'split', min_layers => 0) \g /dev/null
SELECT kms_wrap.kw_policy_add_key('default', 'kms1', 1000), kms_wrap.kw_policy_add_key('default', 'kms2', 1001) \g /dev/null
SELECT :'testname' || '_role' AS role \gset
SET client_min_messages = warning;
DROP ROLE IF EXISTS :role;
RESET client_min_messages;
CREATE ROLE :role;
CREATE TABLE victim (id bigint PRIMARY KEY, secret text);
SELECT count(*) > 0 FROM kms_wrap.kw_protect_column('victim', 'secret', blind_index => 'index');
INSERT INTO victim VALUES (1, 'bob''s secret'), (2, 'alice''s');
SELECT kms_wrap.kw_grant('encrypt', 'default', :'role');
GRANT SELECT ON victim TO :role;
GRANT CREATE ON SCHEMA public TO :role;
SELECT column_uuid AS u, replace(column_uuid::text, '-', '') AS h FROM kms_wrap.protected_columns \gset
SELECT count(*) FROM kms_wrap.column_relations WHERE relation = 'victim'::regclass;
SET ROLE :role;
CREATE TABLE mine (id bigint PRIMARY KEY, secret text, idx bytea);
ALTER TABLE mine ADD CONSTRAINT kw_sealed_:h CHECK (kms_wrap.kw_is_sealed(secret)), ADD CONSTRAINT kw_index_:h CHECK (idx IS NULL OR true);
CREATE TRIGGER zzz BEFORE INSERT OR UPDATE ON mine FOR EACH ROW EXECUTE FUNCTION kms_wrap.kw_seal_column(:'u');
INSERT INTO mine (id, secret) SELECT id, secret FROM victim WHERE id = 1;
INSERT INTO mine (id, secret) VALUES (77, 'bob''s secret');
SELECT count(*) FROM mine;
RESET ROLE;
-- Renaming changes nothing for the table itself, whatever takes its name.
ALTER TABLE victim RENAME TO people;
ALTER TABLE mine RENAME TO victim;
INSERT INTO victim (id, secret) VALUES (77, 'bob''s secret');
INSERT INTO people VALUES (3, 'carol''s');
SELECT id, secret FROM victim_decrypted ORDER BY id;
-- After a restore nothing is on record: then the name counts, which the last write has noted, or there being no other.
TRUNCATE kms_wrap.column_relations;
INSERT INTO people VALUES (4, 'dave''s');
DROP TABLE victim;
INSERT INTO people VALUES (5, 'erin''s');
SELECT count(*) FROM kms_wrap.column_relations WHERE relation = 'people'::regclass;
DROP OWNED BY :role;
DROP ROLE :role;
