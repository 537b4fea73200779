-- kw_encrypt_column: the rows from before, in batches, resumed after an error, verified, rewritten.
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
CREATE TABLE t (id integer PRIMARY KEY, secret text, other integer);
INSERT INTO t SELECT i, CASE WHEN i % 10 <> 0 THEN 'secret ' || i END, i FROM generate_series(1, 100) i;
CREATE TABLE before AS SELECT * FROM t;
CREATE VIEW progress AS SELECT status, rows_total, rows_done, percent, is_validated, finished_at IS NOT NULL AS finished FROM kms_wrap.kw_protected_columns WHERE relation = 't'::regclass;
SELECT count(*) FROM kms_wrap.kw_protect_column('t', 'secret', blind_index => 'index') \g /dev/null
SELECT * FROM progress;

-- Not where it can't commit.
BEGIN;
CALL kms_wrap.kw_encrypt_column('t', 'secret');
ROLLBACK;
DO $$ BEGIN CALL kms_wrap.kw_encrypt_column('t', 'secret'); EXCEPTION WHEN OTHERS THEN RAISE NOTICE '%: %', SQLSTATE, SQLERRM; END $$;
CREATE FUNCTION in_function() RETURNS void LANGUAGE plpgsql AS $$ BEGIN CALL kms_wrap.kw_encrypt_column('t', 'secret'); END $$;
SELECT in_function();
SELECT kms_wrap.kw_is_sealed(secret) AS is_sealed, count(*) FROM t GROUP BY 1 ORDER BY 1;

-- A batch fails: what was committed before it stays.
CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN IF NEW.id = 55 THEN RAISE 'row 55'; END IF; RETURN NEW; END $$;
CREATE TRIGGER fail BEFORE UPDATE ON t FOR EACH ROW EXECUTE FUNCTION fail();
CALL kms_wrap.kw_encrypt_column('t', 'secret', batch_size => 20);
SELECT * FROM progress;
SELECT last_key FROM kms_wrap.protected_columns;
SELECT kms_wrap.kw_is_sealed(secret) AS is_sealed, count(*) FROM t GROUP BY 1 ORDER BY 1;
-- Rows that come behind it are encrypted by the trigger, those that are changed too.
INSERT INTO t VALUES (-1, 'new', 0);
UPDATE t SET other = other WHERE id = 80;
DROP TRIGGER fail ON t;
-- It goes on where it stopped. Without the rewrite the status says that dead rows are still plain.
CALL kms_wrap.kw_encrypt_column('t', 'secret', batch_size => 20, rewrite => false);
SELECT * FROM progress;
SELECT kms_wrap.kw_is_sealed(secret) AS is_sealed, count(*) FROM t GROUP BY 1 ORDER BY 1;
SELECT masked(conname) AS name, convalidated FROM pg_constraint WHERE conrelid = 't'::regclass AND contype = 'c' ORDER BY 1;
SELECT count(*) AS same FROM before b JOIN t_decrypted d USING (id) WHERE (b.secret, b.other) IS NOT DISTINCT FROM (d.secret, d.other) AND d.kw_plain_columns = '{}';
-- The rewrite, and nothing of it is left behind.
SELECT pg_relation_filenode('t') AS filenode \gset
CALL kms_wrap.kw_encrypt_column('t', 'secret');
SELECT * FROM progress;
SELECT pg_relation_filenode('t') <> :filenode AS rewritten, (SELECT count(*) FROM pg_index WHERE indrelid = 't'::regclass AND indisclustered) AS clustered;
SELECT count(*) AS same FROM before b JOIN t_decrypted d USING (id) WHERE (b.secret, b.other) IS NOT DISTINCT FROM (d.secret, d.other);
CALL kms_wrap.kw_encrypt_column('t', 'secret');

-- All kinds of keys, across batches; a table that is clustered stays so.
CREATE DOMAIN code AS varchar(10);
CREATE TABLE keys (a code, b timestamptz, c uuid, d bytea, e boolean, f char(4), g date, h oid, i bigint, j text, secret text);
INSERT INTO keys SELECT chr(97 + i % 3) || ' "', timestamptz '2024-02-03 04:05:06.789 UTC' + i * interval '1.5 days', md5(i::text)::uuid, decode(md5(i::text), 'hex'), i % 2 = 0,
    chr(65 + i % 26), CASE WHEN i = 7 THEN 'infinity' WHEN i = 8 THEN '-infinity' WHEN i = 9 THEN '0044-03-15 BC' ELSE date '2024-01-01' + i END, i, i * 1000000007::bigint, E'a\tb\\ż' || i % 5, 'secret ' || i FROM generate_series(1, 40) i;
CREATE PROCEDURE by_key(key text) LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE format('ALTER TABLE keys DROP CONSTRAINT IF EXISTS keys_pkey, ADD PRIMARY KEY (%s)', key);
    PERFORM kms_wrap.kw_protect_column('keys', 'secret');
END
$$;
-- Dates, times and bytes are written in forms that depend on settings.
SET client_min_messages = warning;
\pset tuples_only on
SELECT format('CALL by_key(%L)', key), 'SET DateStyle = ''SQL, DMY''', 'SET TimeZone = ''Asia/Kathmandu''', 'SET bytea_output = escape',
    $$CALL kms_wrap.kw_encrypt_column('keys', 'secret', batch_size => 3)$$,
    format($$SELECT %L, count(*) FILTER (WHERE secret = 'secret ' || h), count(*) FILTER (WHERE kw_plain_columns <> '{}') FROM keys_decrypted$$, key),
    $$SELECT rows_total, rows_done, status FROM kms_wrap.kw_protected_columns WHERE table_name = 'keys'$$,
    $$SELECT count(*) > 0 FROM kms_wrap.kw_unprotect_column('keys', 'secret')$$
FROM unnest(ARRAY['b', 'c', 'd', 'g', 'h', 'i', 'j, i', 'a, e, f, g', 'e, b']) key \gexec
\pset tuples_only off
RESET ALL;
CREATE INDEX keys_by_date ON keys (g);
ALTER TABLE keys CLUSTER ON keys_by_date;
SELECT count(*) FROM kms_wrap.kw_protect_column('keys', 'secret') \g /dev/null
CALL kms_wrap.kw_encrypt_column('keys', 'secret');
SELECT indexrelid::regclass AS clustered FROM pg_index WHERE indrelid = 'keys'::regclass AND indisclustered;

-- Somebody else's row locks are not waited for; when they stay too long it says so and goes on later.
CREATE TABLE held (id integer PRIMARY KEY, secret text);
INSERT INTO held SELECT i, 'secret ' || i FROM generate_series(1, 10) i;
SELECT count(*) FROM kms_wrap.kw_protect_column('held', 'secret') \g /dev/null
CREATE FUNCTION discard() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN IF NEW.id = 5 THEN RETURN NULL; END IF; RETURN NEW; END $$;
CREATE TRIGGER discard BEFORE UPDATE ON held FOR EACH ROW EXECUTE FUNCTION discard();
CALL kms_wrap.kw_encrypt_column('held', 'secret', max_wait => '0');
SELECT id, kw_plain_columns FROM held_decrypted WHERE kw_plain_columns <> '{}';
DROP TRIGGER discard ON held;
CALL kms_wrap.kw_encrypt_column('held', 'secret');
SELECT status FROM kms_wrap.kw_protected_columns WHERE table_name = 'held';

-- Old values that look like an envelope of a later version, or of another cipher, are plain; new ones are refused.
CREATE TABLE like_envelopes (id integer PRIMARY KEY, b bytea, t text, n integer);
CREATE FUNCTION alike(version integer, cipher integer) RETURNS bytea LANGUAGE sql IMMUTABLE AS
    $$ SELECT 'KW'::bytea || set_byte('\x00', 0, version) || set_byte('\x00', 0, cipher) || decode(repeat('ab', 60), 'hex') $$;
CREATE FUNCTION armoured(b bytea) RETURNS text LANGUAGE sql IMMUTABLE AS
    $$ SELECT 'kw1.' || rtrim(translate(encode(b, 'base64'), E'+/\n', '-_'), '=') $$;
INSERT INTO like_envelopes SELECT version, alike(version, 1), armoured(alike(version, 1)), 0 FROM generate_series(2, 15) version;
INSERT INTO like_envelopes SELECT 100 + cipher, alike(1, cipher), armoured(alike(1, cipher)), 0 FROM unnest('{0,2,130,255}'::integer[]) cipher;
CREATE TABLE like_envelopes_before AS TABLE like_envelopes;
SELECT count(*) FROM unnest('{b,t}'::name[]) c, kms_wrap.kw_protect_column('like_envelopes', c) \g /dev/null
SELECT count(*) AS plain FROM like_envelopes_decrypted WHERE kw_plain_columns = '{b,t}';
SELECT count(*) AS same FROM like_envelopes_decrypted JOIN like_envelopes_before USING (id, b, t);
UPDATE like_envelopes SET n = 1 WHERE id = 2;
UPDATE like_envelopes SET id = -3 WHERE id = 3;
UPDATE like_envelopes_before SET id = -3 WHERE id = 3;
SELECT kms_wrap.kw_is_sealed(b) AS b, kms_wrap.kw_is_sealed(t) AS t, count(*) FROM like_envelopes GROUP BY 1, 2 ORDER BY 1, 2;
\set VERBOSITY terse
INSERT INTO like_envelopes (id, b) VALUES (1, alike(2, 1));
INSERT INTO like_envelopes (id, t) VALUES (1, armoured(alike(1, 2)));
\set VERBOSITY default
CALL kms_wrap.kw_encrypt_column('like_envelopes', 'b');
CALL kms_wrap.kw_encrypt_column('like_envelopes', 't');
SELECT count(*) AS same FROM like_envelopes_decrypted JOIN like_envelopes_before USING (id, b, t) WHERE kw_plain_columns = '{}';

-- States that forbid it.
CREATE TABLE bad (id integer PRIMARY KEY, secret text);
INSERT INTO bad VALUES (1, 'x');
CALL kms_wrap.kw_encrypt_column('bad', 'secret');
SELECT count(*) FROM kms_wrap.kw_protect_column('bad', 'secret') \g /dev/null
SELECT tgname AS seal_trigger FROM pg_trigger WHERE tgrelid = 'bad'::regclass \gset
\set VERBOSITY terse
ALTER TABLE bad DISABLE TRIGGER ALL;
SELECT trigger_state FROM kms_wrap.kw_protected_columns WHERE table_name = 'bad';
ALTER TABLE bad ENABLE TRIGGER ALL;
SELECT trigger_state FROM kms_wrap.kw_protected_columns WHERE table_name = 'bad';
CALL kms_wrap.kw_encrypt_column('bad', 'secret');
ALTER TABLE bad ENABLE ALWAYS TRIGGER :seal_trigger;
ALTER TABLE bad DROP CONSTRAINT bad_pkey;
SELECT trigger_state, has_primary_key FROM kms_wrap.kw_protected_columns WHERE table_name = 'bad';
CALL kms_wrap.kw_encrypt_column('bad', 'secret');
ALTER TABLE bad ADD PRIMARY KEY (id);
DROP TRIGGER :seal_trigger ON bad;
SELECT trigger_state FROM kms_wrap.kw_protected_columns WHERE table_name = 'bad';
CALL kms_wrap.kw_encrypt_column('bad', 'secret');
SET default_transaction_isolation = 'repeatable read';
CALL kms_wrap.kw_encrypt_column('held', 'secret');
RESET default_transaction_isolation;
CALL kms_wrap.kw_encrypt_column(NULL, 'secret');
CALL kms_wrap.kw_encrypt_column('held', NULL);
CALL kms_wrap.kw_encrypt_column('held', 'secret', batch_size => NULL);
CALL kms_wrap.kw_encrypt_column('held', 'secret', batch_size => 0);
CALL kms_wrap.kw_encrypt_column('held', 'secret', rewrite => NULL);
CALL kms_wrap.kw_encrypt_column('held', 'secret', max_wait => NULL);
CALL kms_wrap.kw_encrypt_column('held', 'nothing');

-- A status is reached only by what proves it.
SELECT kms_wrap.kw_column_progress('bad'::regclass, 'secret', 'protected', NULL, NULL, NULL);
SELECT kms_wrap.kw_column_progress('bad'::regclass, 'secret', 'rewriting', NULL, NULL, NULL);
SELECT kms_wrap.kw_column_progress('held'::regclass, 'secret', 'encrypting', NULL, NULL, NULL);

-- With objects of the same names in the search path nothing changes.
CREATE SCHEMA evil;
CREATE FUNCTION evil.taken(integer, integer) RETURNS boolean LANGUAGE plpgsql AS 'BEGIN RAISE EXCEPTION $x$taken in$x$; END';
CREATE OPERATOR evil.< (LEFTARG = integer, RIGHTARG = integer, FUNCTION = evil.taken);
CREATE OPERATOR evil.= (LEFTARG = integer, RIGHTARG = integer, FUNCTION = evil.taken);
CREATE OPERATOR evil.> (LEFTARG = integer, RIGHTARG = integer, FUNCTION = evil.taken);
CREATE OPERATOR evil.>= (LEFTARG = integer, RIGHTARG = integer, FUNCTION = evil.taken);
CREATE FUNCTION evil.taken(bigint, bigint) RETURNS boolean LANGUAGE plpgsql AS 'BEGIN RAISE EXCEPTION $x$taken in$x$; END';
CREATE OPERATOR evil.= (LEFTARG = bigint, RIGHTARG = bigint, FUNCTION = evil.taken);
CREATE OPERATOR evil.> (LEFTARG = bigint, RIGHTARG = bigint, FUNCTION = evil.taken);
CREATE OPERATOR evil.>= (LEFTARG = bigint, RIGHTARG = bigint, FUNCTION = evil.taken);
CREATE FUNCTION evil.count() RETURNS bigint LANGUAGE plpgsql AS 'BEGIN RAISE EXCEPTION $x$taken in$x$; END';
CREATE FUNCTION evil.clock_timestamp() RETURNS timestamptz LANGUAGE plpgsql AS 'BEGIN RAISE EXCEPTION $x$taken in$x$; END';
CREATE TABLE lured (id integer PRIMARY KEY, secret text);
INSERT INTO lured SELECT i, 'secret ' || i FROM generate_series(1, 10) i;
SELECT count(*) FROM kms_wrap.kw_protect_column('lured', 'secret') \g /dev/null
SET search_path = evil, pg_catalog, public;
CALL kms_wrap.kw_encrypt_column('public.lured', 'secret', batch_size => 4);
RESET search_path;
SELECT status FROM kms_wrap.kw_protected_columns WHERE table_name = 'lured';
