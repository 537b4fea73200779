-- kw_unprotect_column: the old table back, from every state.
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
CREATE TABLE t (id integer PRIMARY KEY, a varchar(20) DEFAULT 'none' NOT NULL, b char(5), c text COLLATE "C", d bytea, e text);
COMMENT ON COLUMN t.a IS 'A comment.';
GRANT SELECT (a), UPDATE (b) ON t TO pg_monitor;
ALTER TABLE t ALTER a SET STATISTICS 500, ALTER b SET STATISTICS 0, ALTER c SET STORAGE EXTERNAL, ALTER d SET STORAGE MAIN, ALTER e SET COMPRESSION pglz, ALTER b SET STORAGE PLAIN,
    ALTER a SET (n_distinct = 7);
INSERT INTO t SELECT i, 'a' || i, 'b' || i, 'c' || i, decode(lpad(to_hex(i), 8, '0'), 'hex'), 'e' || i FROM generate_series(1, 50) i;
INSERT INTO t VALUES (51, '', '', '', '', ''), (52, 'ż', 'żó', 'żółw 🐢', '\x00', NULL);
INSERT INTO t SELECT 53, 'long', NULL, string_agg(md5(i::text), ''), decode(string_agg(md5(i::text), ''), 'hex'), repeat('x', 100000) FROM generate_series(1, 3000) i;
CREATE TABLE before AS SELECT * FROM t;
CREATE VIEW definition AS
SELECT a.attnum, a.attname, format_type(a.atttypid, a.atttypmod) AS type, a.attnotnull, a.attstorage, a.attcompression,
    (SELECT array_agg(o) FROM unnest(a.attoptions) o WHERE o LIKE 'n_distinct=%') AS options, COALESCE(a.attstattarget, -1) AS statistics, a.attcollation::regcollation AS collation, a.attacl,
    col_description(a.attrelid, a.attnum) AS comment, pg_get_expr(d.adbin, d.adrelid) AS default
FROM pg_attribute a LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum WHERE a.attrelid = 't'::regclass AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum;
CREATE TABLE definition_before AS SELECT * FROM definition;
-- A view on t would be in the way.
CREATE FUNCTION differences() RETURNS TABLE (rows bigint, columns bigint, checks bigint, triggers bigint, indexes bigint, registered bigint) LANGUAGE plpgsql AS $$
BEGIN
    RETURN QUERY SELECT (SELECT count(*) FROM (TABLE t EXCEPT ALL TABLE before) x) + (SELECT count(*) FROM (TABLE before EXCEPT ALL TABLE t) x),
        (SELECT count(*) FROM (TABLE definition EXCEPT ALL TABLE definition_before) x), (SELECT count(*) FROM pg_constraint WHERE conrelid = 't'::regclass AND contype = 'c'),
        (SELECT count(*) FROM pg_trigger WHERE tgrelid = 't'::regclass), (SELECT count(*) FROM pg_index WHERE indrelid = 't'::regclass), (SELECT count(*) FROM kms_wrap.protected_columns);
END
$$;

-- From 'encrypting', with old and new rows: values that are plain come back as they are.
SELECT count(*) > 0 AS protected FROM kms_wrap.kw_protect_column('t', 'a', blind_index => 'index');
UPDATE t SET e = e WHERE id % 2 = 0;
SELECT kms_wrap.kw_is_sealed(a) AS is_sealed, count(*) FROM t GROUP BY 1 ORDER BY 1;
SELECT step, masked(detail) AS detail FROM kms_wrap.kw_unprotect_column('t', 'a');
SELECT * FROM differences();
SELECT * FROM definition EXCEPT TABLE definition_before;
SELECT to_regclass('t_decrypted') AS view;

-- Protected again, that is another column, with all of them, and from 'protected'.
SELECT count(*) > 0 AS protected FROM unnest('{a,b,c,d,e}'::name[]) c, kms_wrap.kw_protect_column('t', c);
SELECT 'CALL kms_wrap.kw_encrypt_column(''t'', ''' || c || ''', batch_size => 60)' FROM unnest('{a,b,c,d,e}'::name[]) c \gexec
SELECT column_name, status FROM kms_wrap.kw_protected_columns ORDER BY 1;
SELECT count(*) AS same FROM before b JOIN t_decrypted d USING (id, a, c, d) WHERE (b.b, b.e) IS NOT DISTINCT FROM (d.b, d.e);
SELECT count(*) AS plain FROM t WHERE a LIKE 'a%' OR b LIKE 'b%' OR c LIKE 'c%' OR e LIKE 'e%' OR octet_length(d) < 60;
SELECT column_name, count(*) AS steps FROM unnest('{e,b,a,d,c}'::name[]) WITH ORDINALITY u (column_name, n), kms_wrap.kw_unprotect_column('t', column_name) GROUP BY n, 1 ORDER BY n;
SELECT * FROM differences();
-- The default's expression was cast once.
SELECT attname, "default" FROM definition EXCEPT SELECT attname, "default" FROM definition_before;

-- An empty table; a view, a trigger and an index that somebody has dropped already.
CREATE TABLE empty (id integer PRIMARY KEY, secret varchar(9));
SELECT count(*) > 0 AS protected FROM kms_wrap.kw_protect_column('empty', 'secret', blind_index => 'index');
DROP VIEW empty_decrypted;
DROP INDEX empty_secret_bidx_idx;
SELECT tgname AS seal_trigger FROM pg_trigger WHERE tgrelid = 'empty'::regclass \gset
DROP TRIGGER :seal_trigger ON empty;
SELECT decrypting_view, trigger_state FROM kms_wrap.kw_protected_columns;
SELECT masked(detail) AS detail FROM kms_wrap.kw_unprotect_column('empty', 'secret');
INSERT INTO empty VALUES (1, 'plain');
SELECT * FROM empty;
-- The view was dropped and there is another protected column.
SELECT count(*) > 0 AS protected FROM kms_wrap.kw_protect_column('empty', 'secret');
DROP VIEW empty_decrypted;
ALTER TABLE empty ADD other text;
SELECT count(*) > 0 AS protected FROM kms_wrap.kw_protect_column('empty', 'other', view_name => 'empty_plain');
SELECT * FROM empty_plain;
SELECT count(*) > 0 AS given_back FROM kms_wrap.kw_unprotect_column('empty', 'secret');
SELECT * FROM empty_plain;
SELECT count(*) > 0 AS given_back FROM kms_wrap.kw_unprotect_column('empty', 'other');

-- Partitions get what the parent had.
CREATE TABLE parts (id integer, part integer, a text COMPRESSION pglz, PRIMARY KEY (id, part)) PARTITION BY LIST (part);
CREATE TABLE parts_1 PARTITION OF parts FOR VALUES IN (1);
ALTER TABLE parts ALTER a SET STORAGE MAIN, ALTER a SET STATISTICS 7;
SELECT count(*) > 0 AS protected FROM kms_wrap.kw_protect_column('parts', 'a');
SELECT masked(detail) AS detail FROM kms_wrap.kw_unprotect_column('parts', 'a') WHERE detail ~ 'SET ';
SELECT attrelid::regclass, attstorage, attcompression, attstattarget FROM pg_attribute WHERE attrelid IN ('parts'::regclass, 'parts_1'::regclass) AND attname = 'a' ORDER BY 1;

-- A seal trigger under another name goes too.
CREATE TABLE renamed (id integer PRIMARY KEY, a text);
SELECT count(*) > 0 AS protected FROM kms_wrap.kw_protect_column('renamed', 'a');
SELECT tgname AS seal_trigger FROM pg_trigger WHERE tgrelid = 'renamed'::regclass \gset
ALTER TRIGGER :seal_trigger ON renamed RENAME TO zzzzz;
SELECT count(*) > 0 AS given_back FROM kms_wrap.kw_unprotect_column('renamed', 'a');
INSERT INTO renamed VALUES (1, 'plain') RETURNING *;
-- A view that was changed is not made anew without what was changed.
ALTER TABLE renamed ADD b text;
SELECT count(*) > 0 AS protected FROM kms_wrap.kw_protect_column('renamed', 'a');
SELECT pg_get_viewdef('renamed_decrypted') AS definition \gset
SELECT 'CREATE OR REPLACE VIEW renamed_decrypted WITH (security_barrier = true, security_invoker = true) AS ' || rtrim(:'definition', ';') || ' WHERE t.id = 1' AS with_condition \gset
:with_condition;
SELECT * FROM kms_wrap.kw_protect_column('renamed', 'b');
SELECT * FROM kms_wrap.kw_unprotect_column('renamed', 'a');
CREATE OR REPLACE VIEW renamed_decrypted WITH (security_barrier = true, security_invoker = true) AS :definition
ALTER VIEW renamed_decrypted SET (security_invoker = false);
SELECT * FROM kms_wrap.kw_protect_column('renamed', 'b');
ALTER VIEW renamed_decrypted SET (security_invoker = on);
SELECT count(*) > 0 AS protected FROM kms_wrap.kw_protect_column('renamed', 'b');
SELECT count(*) > 0 AS given_back FROM unnest('{a,b}'::name[]) c, kms_wrap.kw_unprotect_column('renamed', c);
-- Constraints of domains mark nothing.
SELECT count(*) > 0 AS protected FROM kms_wrap.kw_protect_column('renamed', 'a');
SELECT replace(column_uuid::text, '-', '') AS hex FROM kms_wrap.kw_protected_columns WHERE table_name = 'renamed' \gset
CREATE DOMAIN planted AS text CONSTRAINT kw_sealed_:hex CHECK (true);
SELECT relation, trigger_state, has_copies FROM kms_wrap.kw_protected_columns WHERE table_name = 'renamed';
SELECT count(*) > 0 AS given_back FROM kms_wrap.kw_unprotect_column('renamed', 'a');
DROP DOMAIN planted;

-- What was said about the blind index's column goes with that; what was said about others stays.
CREATE TABLE two (id integer PRIMARY KEY, a text, b text);
SELECT count(*) > 0 AS protected FROM kms_wrap.kw_protect_column('two', 'a', blind_index => 'index');
SELECT count(*) > 0 AS protected FROM kms_wrap.kw_protect_column('two', 'b');
COMMENT ON COLUMN two_decrypted.a_bidx IS 'gone';
COMMENT ON COLUMN two_decrypted.b IS 'kept';
GRANT SELECT (id, a_bidx) ON two_decrypted TO pg_monitor;
SELECT count(*) > 0 AS given_back FROM kms_wrap.kw_unprotect_column('two', 'a');
SELECT attname, attacl, col_description(attrelid, attnum) AS comment FROM pg_attribute WHERE attrelid = 'two_decrypted'::regclass AND attnum > 0 ORDER BY attnum;
SELECT count(*) > 0 AS given_back FROM kms_wrap.kw_unprotect_column('two', 'b');

-- A roll-back leaves it protected.
SELECT count(*) > 0 AS protected FROM kms_wrap.kw_protect_column('t', 'a');
BEGIN;
SELECT count(*) > 0 AS given_back FROM kms_wrap.kw_unprotect_column('t', 'a');
ROLLBACK;
SELECT trigger_state, status FROM kms_wrap.kw_protected_columns;
SELECT id, a, kw_plain_columns FROM t_decrypted WHERE id = 1;
SELECT count(*) > 0 AS given_back FROM kms_wrap.kw_unprotect_column('t', 'a');

-- What cannot be given back.
SELECT * FROM kms_wrap.kw_unprotect_column(NULL, 'a');
SELECT * FROM kms_wrap.kw_unprotect_column('t', NULL);
SELECT * FROM kms_wrap.kw_unprotect_column('t', 'a');
SELECT * FROM kms_wrap.kw_unprotect_column('t', 'nothing');
SELECT * FROM kms_wrap.kw_unprotect_column('before', 'a');
CREATE TABLE keyless (id integer PRIMARY KEY, secret text);
SELECT count(*) > 0 AS protected FROM kms_wrap.kw_protect_column('keyless', 'secret');
ALTER TABLE keyless DROP CONSTRAINT keyless_pkey;
SELECT * FROM kms_wrap.kw_unprotect_column('keyless', 'secret');
