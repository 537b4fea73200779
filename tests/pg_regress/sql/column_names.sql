-- Names that need quotes, names that are changed, names that are long.
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
CREATE SCHEMA "My ""Schema";
CREATE SCHEMA "other, schema";
CREATE TABLE "My ""Schema"."Table's; DROP" ("The Key" integer, "key'2" text, "Se""cret %s $1" varchar(10), "Tenant" text, PRIMARY KEY ("key'2", "The Key"));
INSERT INTO "My ""Schema"."Table's; DROP" VALUES (1, 'a', 'one', 'x'), (2, 'b', 'two', 'y'), (3, 'it''s "c"', 'three', 'z');
SELECT step, masked(detail) AS detail FROM kms_wrap.kw_protect_column('"My ""Schema"."Table''s; DROP"', 'Se"cret %s $1', tenant_column => 'Tenant', blind_index => 'index', index_column => 'In''dex');
SELECT relation, schema_name, table_name, column_name, tenant_column, index_column, decrypting_view FROM kms_wrap.kw_protected_columns;
CALL kms_wrap.kw_encrypt_column('"My ""Schema"."Table''s; DROP"', 'Se"cret %s $1', batch_size => 2);
SELECT "The Key", "key'2", "Se""cret %s $1", "Tenant", kw_plain_columns FROM "My ""Schema"."Table's; DROP_decrypted" ORDER BY 1;

-- Everything is renamed and moved: nothing changes.
ALTER TABLE "My ""Schema"."Table's; DROP" RENAME TO "New table";
ALTER TABLE "My ""Schema"."New table" SET SCHEMA "other, schema";
ALTER TABLE "other, schema"."New table" RENAME "Se""cret %s $1" TO "New secret";
ALTER TABLE "other, schema"."New table" RENAME "The Key" TO "New key";
ALTER TABLE "other, schema"."New table" RENAME "Tenant" TO "New tenant";
ALTER TABLE "other, schema"."New table" RENAME "In'dex" TO "New index";
ALTER VIEW "My ""Schema"."Table's; DROP_decrypted" RENAME TO "New view";
SELECT relation, schema_name, table_name, column_name, tenant_column, index_column, decrypting_view, trigger_state, has_recorded_name FROM kms_wrap.kw_protected_columns;
INSERT INTO "other, schema"."New table" ("New key", "key'2", "New secret", "New tenant") VALUES (4, 'd', 'four', 'x');
UPDATE "other, schema"."New table" SET "New secret" = 'zwei' WHERE "New key" = 2;
SELECT count(*) AS plain FROM "other, schema"."New table" WHERE NOT kms_wrap.kw_is_sealed("New secret");
SELECT "The Key", "key'2", "Se""cret %s $1", "Tenant", kw_plain_columns FROM "My ""Schema"."New view" ORDER BY 1;
SELECT * FROM kms_wrap.kw_protect_column('"other, schema"."New table"', 'New secret');
CALL kms_wrap.kw_encrypt_column('"other, schema"."New table"', 'New secret');
-- The view that is made anew has today's names. What was granted on a column of another name is gone.
GRANT SELECT ("The Key", "Tenant", "key'2") ON "My ""Schema"."New view" TO pg_monitor;
COMMENT ON COLUMN "My ""Schema"."New view"."The Key" IS 'gone';
COMMENT ON COLUMN "My ""Schema"."New view"."key'2" IS 'kept';
COMMENT ON COLUMN "My ""Schema"."New view".kw_plain_columns IS 'kept too';
ALTER TABLE "other, schema"."New table" ADD "Second" text;
SELECT masked(detail) AS detail FROM kms_wrap.kw_protect_column('"other, schema"."New table"', 'Second') WHERE detail LIKE '%VIEW%';
CALL kms_wrap.kw_encrypt_column('"other, schema"."New table"', 'Second');
SELECT "New key", "key'2", "New secret", "New tenant", "Second", kw_plain_columns FROM "My ""Schema"."New view" ORDER BY 1;
-- A table that takes the old name is not protected.
CREATE TABLE "My ""Schema"."Table's; DROP" ("The Key" integer PRIMARY KEY, "Se""cret %s $1" varchar(10));
SELECT count(*) > 0 AS protected FROM kms_wrap.kw_protect_column('"My ""Schema"."Table''s; DROP"', 'Se"cret %s $1');
SELECT relation, has_copies, has_recorded_name FROM kms_wrap.kw_protected_columns ORDER BY relation::text, column_name;
-- Nor does a table that has taken its place and its constraint get hold of the column.
CREATE TABLE copy (LIKE "other, schema"."New table" INCLUDING CONSTRAINTS);
ALTER TABLE copy ADD PRIMARY KEY ("New key");
SELECT relation, column_name, has_copies, has_recorded_name, trigger_state FROM kms_wrap.kw_protected_columns WHERE has_copies ORDER BY relation::text, column_name;
\set VERBOSITY terse
SELECT * FROM kms_wrap.kw_unprotect_column('copy', 'New secret');
SELECT * FROM kms_wrap.kw_unprotect_column('"other, schema"."New table"', 'New secret');
\set VERBOSITY default
DROP TABLE copy;
SELECT masked(detail) AS detail FROM kms_wrap.kw_unprotect_column('"other, schema"."New table"', 'Second');
SELECT masked(detail) AS detail FROM kms_wrap.kw_unprotect_column('"other, schema"."New table"', 'New secret');
SELECT * FROM "other, schema"."New table" ORDER BY 1;
SELECT format_type(atttypid, atttypmod) AS type FROM pg_attribute WHERE attrelid = '"other, schema"."New table"'::regclass AND attname = 'New secret';

-- Names of 63 bytes, also of characters that have several.
CREATE TABLE aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa (id integer PRIMARY KEY, bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb text);
CREATE TABLE "żżżżżżżżżżżżżżżżżżżżżżżżżżżżżżż" (id integer PRIMARY KEY, "żżżżżżżżżżżżżżżżżżżżżżżżżżżżżżż" text);
SELECT count(*) > 0 AS protected FROM kms_wrap.kw_protect_column('aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa', 'bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb', blind_index => 'index');
SELECT count(*) > 0 AS protected FROM kms_wrap.kw_protect_column('"żżżżżżżżżżżżżżżżżżżżżżżżżżżżżżż"', 'żżżżżżżżżżżżżżżżżżżżżżżżżżżżżżż', blind_index => 'index');
SELECT index_column, decrypting_view FROM kms_wrap.kw_protected_columns WHERE index_column IS NOT NULL ORDER BY 1;

-- Columns and tables called like variables of the functions.
CREATE TABLE step (relation integer, column_name text, detail text, statement text, key text, upto text, plan text, PRIMARY KEY (relation, column_name));
INSERT INTO step VALUES (1, 'a', 'b', 'c', 'd', 'e', 'f');
SELECT count(*) > 0 AS protected FROM kms_wrap.kw_protect_column('step', 'statement');
SELECT count(*) > 0 AS protected FROM kms_wrap.kw_protect_column('step', 'key', tenant_column => 'upto', blind_index => 'index', index_column => 'hex');
CALL kms_wrap.kw_encrypt_column('step', 'key');
CALL kms_wrap.kw_encrypt_column('step', 'statement');
SELECT relation, column_name, detail, statement, key, upto, plan, kw_plain_columns FROM step_decrypted;
SELECT count(*) > 0 AS given_back FROM kms_wrap.kw_unprotect_column('step', 'key');
SELECT count(*) > 0 AS given_back FROM kms_wrap.kw_unprotect_column('step', 'statement');
SELECT * FROM step;
