-- Opened DEKs are kept in memory, and for how long. A wrapper whose bytes were spoiled tells: what is held still opens values, what has to be opened
-- again does not. Spoiling changes no status, so nobody is told.
\pset footer off
\pset null '-'
\pset tuples_only
\pset format unaligned
\set SHOW_CONTEXT never
SELECT kms_wrap.kw_create_root_key(:'testname' || '-a') AS root_a, kms_wrap.kw_create_root_key(:'testname' || '-b') AS root_b \gset
SELECT kms_wrap.kw_add_provider('a', 'local', jsonb_build_object('root_key', :'testname' || '-a')) AS a,
    kms_wrap.kw_add_provider('b', 'local', jsonb_build_object('root_key', :'testname' || '-b')) AS b \gset
SELECT kms_wrap.kw_create_local_key('a', 'a1', 'XAES-256-GCM') AS a1, kms_wrap.kw_create_local_key('b', 'b1', 'XAES-256-GCM') AS b1, kms_wrap.kw_create_local_key('a', 'unused', 'XAES-256-GCM') AS unused \gset
SELECT kms_wrap.kw_create_policy(p, 'split', min_layers => 0), kms_wrap.kw_policy_add_key(p, 'kms1', :a1), kms_wrap.kw_policy_add_key(p, 'kms2', :b1) FROM unnest(ARRAY['default', 'short', 'tenants', 'fresh']) p \g /dev/null
UPDATE kms_wrap.encryption_policies SET cache_ttl = '0' WHERE policy_name = 'short';
UPDATE kms_wrap.encryption_policies SET dek_scope = '{t}' WHERE policy_name = 'tenants';
CREATE FUNCTION try(statement text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    line text;
BEGIN
    EXECUTE statement INTO line;
    RETURN COALESCE(line, 'NULL');
EXCEPTION WHEN OTHERS THEN
    RETURN SQLSTATE || ': ' || regexp_replace(SQLERRM, '[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}', '<uuid>', 'g');
END
$$;
CREATE FUNCTION spoil(w uuid) RETURNS integer LANGUAGE sql AS $$
    UPDATE kms_wrap.key_wrappers SET dek_wrap1 = set_bit(dek_wrap1, octet_length(dek_wrap1) * 8 - 1, 1 - get_bit(dek_wrap1, octet_length(dek_wrap1) * 8 - 1)) WHERE wrapper_uuid = w::text RETURNING 1
$$;
CREATE TABLE x AS SELECT 'default' AS policy, kms_wrap.kw_encrypt('\x01') AS e UNION ALL SELECT 'short', kms_wrap.kw_encrypt('\x01', 'short');
CREATE FUNCTION opened(p text) RETURNS text LANGUAGE sql AS $$ SELECT try(format('SELECT kms_wrap.kw_decrypt(%L)', e)) FROM x WHERE policy = p $$;
SELECT kms_wrap.kw_wrapper_of(e) AS w FROM x WHERE policy = 'default' \gset
SELECT kms_wrap.kw_wrapper_of(e) AS short FROM x WHERE policy = 'short' \gset

-- Held from one statement to the next, in a transaction or not. A policy may forbid it.
SELECT opened('default'), opened('short');
SELECT spoil(:'w'), spoil(:'short');
SELECT opened('default'), opened('short');
BEGIN;
SELECT opened('default');
ROLLBACK;
SELECT opened('default');
-- What others change of rights or keys makes it look again, not open again.
UPDATE kms_wrap.kms_keys SET purpose = purpose WHERE id = :unused;
SELECT opened('default');
-- Another session has nothing; neither has this one after DISCARD ALL, which hands it on to somebody else.
DISCARD PLANS;
SELECT opened('default');
DISCARD ALL;
SELECT opened('default');
SELECT spoil(:'w');
SELECT opened('default');
SELECT spoil(:'w');
\c
SELECT opened('default');
SELECT spoil(:'w'), spoil(:'short');
SELECT opened('default'), opened('short');

-- A policy's cache_ttl that is shortened is so for what is held too.
SELECT spoil(:'w');
SELECT opened('default');
UPDATE kms_wrap.encryption_policies SET cache_ttl = '0' WHERE policy_name = 'default';
SELECT opened('default');
UPDATE kms_wrap.encryption_policies SET cache_ttl = '5 min' WHERE policy_name = 'default';
SELECT spoil(:'w');
SELECT opened('default');
UPDATE kms_wrap.encryption_policies SET cache_ttl = '1 s' WHERE policy_name = 'default';
\c
SELECT opened('default');
SELECT spoil(:'w');
SELECT opened('default');
SELECT pg_sleep(1.2);
SELECT opened('default');
SELECT spoil(:'w');
UPDATE kms_wrap.encryption_policies SET cache_ttl = '5 min' WHERE policy_name = 'default';
SELECT opened('default');

-- Changed by others while it is held: the status of wrapper and key, at the next statement; back again likewise.
UPDATE kms_wrap.key_wrappers SET status = 'rotated' WHERE wrapper_uuid = :'w';
SELECT opened('default');
UPDATE kms_wrap.key_wrappers SET status = 'retired' WHERE wrapper_uuid = :'w';
SELECT opened('default');
UPDATE kms_wrap.key_wrappers SET status = 'rotated' WHERE wrapper_uuid = :'w';
SELECT opened('default');
-- Deleted, it is gone. A row of the same uuid put back is opened anew.
CREATE TEMP TABLE kept AS SELECT * FROM kms_wrap.key_wrappers WHERE wrapper_uuid = :'w';
DELETE FROM kms_wrap.key_wrappers WHERE wrapper_uuid = :'w';
SELECT opened('default');
BEGIN;
INSERT INTO kms_wrap.key_wrappers SELECT * FROM kept;
SELECT opened('default');
ROLLBACK;
SELECT opened('default');
INSERT INTO kms_wrap.key_wrappers SELECT * FROM kept;
SELECT opened('default');
TRUNCATE kms_wrap.policy_kms_keys;
SELECT opened('default'), try($$SELECT kms_wrap.kw_encrypt('x')$$);
INSERT INTO kms_wrap.policy_kms_keys (policy_id, kms_key_id, slot) SELECT p.id, k.id, CASE k.id WHEN :a1 THEN 'kms1' ELSE 'kms2' END FROM kms_wrap.encryption_policies p, kms_wrap.kms_keys k WHERE k.id IN (:a1, :b1);

-- The first DEK of a policy, made in a transaction that is rolled back: its values are gone, and so is it. Nothing of it serves the next one.
SET search_path = public;
CREATE FUNCTION wrappers() RETURNS bigint LANGUAGE sql AS $$ SELECT count(*) FROM kms_wrap.key_wrappers w JOIN kms_wrap.encryption_policies p ON p.id = w.policy_id WHERE p.policy_name = 'fresh' $$;
BEGIN;
SELECT kms_wrap.kw_encrypt('\x01', 'fresh') AS lost \gset
SELECT kms_wrap.kw_decrypt(:'lost'), wrappers();
ROLLBACK;
SELECT try(format('SELECT kms_wrap.kw_decrypt(%L)', :'lost')), wrappers();
BEGIN;
SAVEPOINT s;
SELECT kms_wrap.kw_encrypt('\x01', 'fresh') AS lost \gset
SELECT kms_wrap.kw_decrypt(:'lost'), wrappers();
ROLLBACK TO s;
SELECT try(format('SELECT kms_wrap.kw_decrypt(%L)', :'lost')), wrappers();
SELECT kms_wrap.kw_encrypt('\x02', 'fresh') AS second \gset
SELECT kms_wrap.kw_decrypt(:'second'), wrappers();
SAVEPOINT s;
ROLLBACK TO s;
RELEASE s;
SELECT kms_wrap.kw_decrypt(:'second'), wrappers();
ROLLBACK;
SELECT try(format('SELECT kms_wrap.kw_decrypt(%L)', :'second')), wrappers();
-- In plpgsql.
DO $$
DECLARE
    lost bytea;
BEGIN
    BEGIN
        lost := kms_wrap.kw_encrypt('\x01', 'fresh');
        RAISE EXCEPTION USING ERRCODE = 'KW001';
    EXCEPTION WHEN SQLSTATE 'KW001' THEN NULL;
    END;
    RAISE NOTICE '% %', try(format('SELECT kms_wrap.kw_decrypt(%L)', lost)), wrappers();
    lost := kms_wrap.kw_encrypt('\x02', 'fresh');
    RAISE NOTICE '% %', kms_wrap.kw_decrypt(lost), wrappers();
    RAISE EXCEPTION USING ERRCODE = 'KW002', MESSAGE = 'the end';
END
$$;
SELECT wrappers();
-- A statement that fails after its first row.
SELECT kms_wrap.kw_encrypt('\x01', 'fresh') IS NULL OR 1 / (2 - n) = 0 FROM generate_series(1, 3) n;
SELECT wrappers();
SELECT current_setting('max_prepared_transactions')::integer > 0 AS can_prepare \gset
-- A prepared transaction may still be rolled back by anybody, so nothing of it stays here.
BEGIN;
SELECT kms_wrap.kw_encrypt('\x01', 'fresh') AS prepared \gset
\if :can_prepare
PREPARE TRANSACTION 'cache';
\else
ROLLBACK;
\endif
SELECT try(format('SELECT kms_wrap.kw_decrypt(%L)', :'prepared')), wrappers();
\if :can_prepare
ROLLBACK PREPARED 'cache';
\endif
-- Committed, it stays, with what was encrypted before and after the savepoint.
BEGIN;
SELECT kms_wrap.kw_encrypt('\x01', 'fresh') AS kept1 \gset
SAVEPOINT s;
SELECT kms_wrap.kw_encrypt('\x02', 'fresh') AS kept2 \gset
ROLLBACK TO s;
SELECT kms_wrap.kw_encrypt('\x03', 'fresh') AS kept3 \gset
COMMIT;
SELECT kms_wrap.kw_decrypt(:'kept1'), kms_wrap.kw_decrypt(:'kept2'), kms_wrap.kw_decrypt(:'kept3'), wrappers();
-- No nonce twice after a roll-back to a savepoint: the run is not set back.
SELECT substr(:'kept2'::bytea, 21, 24) <> substr(:'kept3'::bytea, 21, 24);
-- A rotation that is rolled back: the old DEK goes on being the current one.
BEGIN;
SELECT kms_wrap.kw_rotate_dek(kms_wrap.kw_wrapper_of(:'kept1'::bytea)) AS new \gset
SELECT kms_wrap.kw_wrapper_of(kms_wrap.kw_encrypt('\x01', 'fresh')) = :'new';
ROLLBACK;
SELECT kms_wrap.kw_wrapper_of(kms_wrap.kw_encrypt('\x01', 'fresh')) = kms_wrap.kw_wrapper_of(:'kept1'::bytea), wrappers();
-- A key that is disabled and back again by a roll-back, seen at once each time.
BEGIN;
SELECT kms_wrap.kw_set_key_status(:b1, 'disabled');
SELECT try(format('SELECT kms_wrap.kw_decrypt(%L)', :'kept1'));
ROLLBACK;
SELECT kms_wrap.kw_decrypt(:'kept1');
-- DROP EXTENSION and a new one in one session: nothing of the old serves. Undone, it does again.
BEGIN;
DROP EXTENSION kms_wrap;
CREATE EXTENSION kms_wrap;
SELECT try(format('SELECT kms_wrap.kw_decrypt(%L)', :'kept1')), try($$SELECT kms_wrap.kw_encrypt('x', 'fresh')$$);
ROLLBACK;
SELECT kms_wrap.kw_decrypt(:'kept1');

-- So many entries, and not more: with one, two tenants in turn open a wrapper each time. The cluster's settings are put back at the end.
CREATE TABLE t AS SELECT n, kms_wrap.kw_encrypt('\x01', 'tenants', jsonb_build_object('t', n::text)) AS e FROM generate_series(1, 20) n;
SELECT count(kms_wrap.kw_decrypt(e, jsonb_build_object('t', n::text))) FROM t, generate_series(1, 3);
SELECT count(spoil(kms_wrap.kw_wrapper_of(e))) FROM t;
SELECT count(kms_wrap.kw_decrypt(e, jsonb_build_object('t', n::text))) FROM t;
SELECT try(format('SELECT kms_wrap.kw_decrypt(%L, %L)', e, '{"t": "2"}')) FROM t WHERE n = 1;
SELECT count(spoil(kms_wrap.kw_wrapper_of(e))) FROM t;
ALTER SYSTEM SET kms_wrap.cache_entries = 3;
SELECT pg_reload_conf();
SELECT pg_sleep(0.5);
\c
SHOW kms_wrap.cache_entries;
SELECT count(kms_wrap.kw_decrypt(e, jsonb_build_object('t', n::text))) FROM t;
SELECT count(spoil(kms_wrap.kw_wrapper_of(e))) FROM t;
SELECT count(*) FILTER (WHERE try(format('SELECT kms_wrap.kw_decrypt(%L, %L)', e, jsonb_build_object('t', n::text))) = '\x01') AS held FROM t;
SELECT count(spoil(kms_wrap.kw_wrapper_of(e))) FROM t;
SELECT count(kms_wrap.kw_decrypt(e, jsonb_build_object('t', n::text))) FROM t;
ALTER SYSTEM RESET kms_wrap.cache_entries;
-- So many uses.
ALTER SYSTEM SET kms_wrap.cache_uses = 5;
SELECT pg_reload_conf();
SELECT pg_sleep(0.5);
\c
SELECT kms_wrap.kw_decrypt(:'kept1');
SELECT spoil(kms_wrap.kw_wrapper_of(:'kept1'::bytea));
SELECT string_agg(try(format('SELECT kms_wrap.kw_decrypt(%L)', :'kept1')), ', ') FROM generate_series(1, 6);
SELECT spoil(kms_wrap.kw_wrapper_of(:'kept1'::bytea));
SELECT count(kms_wrap.kw_decrypt(:'kept1')) FROM generate_series(1, 100);
ALTER SYSTEM RESET kms_wrap.cache_uses;
SELECT pg_reload_conf();
SELECT pg_sleep(0.5);
\c
-- A policy may have fewer, and not more.
SELECT kms_wrap.kw_decrypt(:'kept1');
UPDATE kms_wrap.encryption_policies SET cache_uses = 3 WHERE policy_name = 'fresh';
SELECT spoil(kms_wrap.kw_wrapper_of(:'kept1'::bytea));
SELECT string_agg(try(format('SELECT kms_wrap.kw_decrypt(%L)', :'kept1')), ', ') FROM generate_series(1, 4);
SELECT spoil(kms_wrap.kw_wrapper_of(:'kept1'::bytea));
SELECT kms_wrap.kw_decrypt(:'kept1');
SELECT spoil(kms_wrap.kw_wrapper_of(:'kept1'::bytea));
SELECT string_agg(try(format('SELECT kms_wrap.kw_decrypt(%L)', :'kept1')), ', ') FROM generate_series(1, 3);
SELECT spoil(kms_wrap.kw_wrapper_of(:'kept1'::bytea));
ALTER SYSTEM SET kms_wrap.cache_uses = 2;
SELECT pg_reload_conf();
SELECT pg_sleep(0.5);
\c
SELECT kms_wrap.kw_decrypt(:'kept1');
SELECT spoil(kms_wrap.kw_wrapper_of(:'kept1'::bytea));
SELECT string_agg(try(format('SELECT kms_wrap.kw_decrypt(%L)', :'kept1')), ', ') FROM generate_series(1, 2);
SELECT spoil(kms_wrap.kw_wrapper_of(:'kept1'::bytea));
ALTER SYSTEM RESET kms_wrap.cache_uses;
SELECT try('UPDATE kms_wrap.encryption_policies SET cache_uses = 0');
UPDATE kms_wrap.encryption_policies SET cache_uses = NULL;
-- No time at all: each value opens the wrapper, and all works.
ALTER SYSTEM SET kms_wrap.cache_ttl = 0;
SELECT pg_reload_conf();
SELECT pg_sleep(0.5);
\c
SELECT count(kms_wrap.kw_decrypt(:'kept1')), count(kms_wrap.kw_encrypt('x', 'fresh')) FROM generate_series(1, 100);
SELECT spoil(kms_wrap.kw_wrapper_of(:'kept1'::bytea));
SELECT try(format('SELECT kms_wrap.kw_decrypt(%L)', :'kept1'));
SELECT spoil(kms_wrap.kw_wrapper_of(:'kept1'::bytea));
ALTER SYSTEM RESET kms_wrap.cache_ttl;
SELECT pg_reload_conf();
SELECT pg_sleep(0.5);
SELECT kms_wrap.kw_decrypt(:'kept1');
SELECT spoil(kms_wrap.kw_wrapper_of(:'kept1'::bytea));
SELECT kms_wrap.kw_decrypt(:'kept1');
-- Shortened, the setting holds for what is held already.
ALTER SYSTEM SET kms_wrap.cache_ttl = 0;
SELECT pg_reload_conf();
SELECT pg_sleep(0.5);
SELECT try(format('SELECT kms_wrap.kw_decrypt(%L)', :'kept1'));
ALTER SYSTEM RESET kms_wrap.cache_ttl;
SELECT pg_reload_conf();
-- These settings are nobody's but the administrator's.
SET kms_wrap.cache_ttl = 86400;
ALTER ROLE CURRENT_USER SET kms_wrap.cache_ttl = 86400;
-- PostgreSQL 16 has other words for it.
\set VERBOSITY sqlstate
ALTER SYSTEM SET kms_wrap.cache_ttl = 86401;
ALTER SYSTEM SET kms_wrap.cache_entries = 0;
