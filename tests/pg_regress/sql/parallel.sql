-- kw_decrypt in parallel workers: each opens the wrapper for itself, under the rights of who runs the query.
\pset footer off
\pset null '-'
\pset tuples_only
\pset format unaligned
\set SHOW_CONTEXT never
SELECT kms_wrap.kw_create_root_key(:'testname' || '-a') AS root_a, kms_wrap.kw_create_root_key(:'testname' || '-b') AS root_b \gset
SELECT kms_wrap.kw_add_provider('a', 'local', jsonb_build_object('root_key', :'testname' || '-a')) AS a,
    kms_wrap.kw_add_provider('b', 'local', jsonb_build_object('root_key', :'testname' || '-b')) AS b \gset
SELECT kms_wrap.kw_create_local_key('a', 'a1', 'XAES-256-GCM') AS a1, kms_wrap.kw_create_local_key('b', 'b1', 'XAES-256-GCM') AS b1, kms_wrap.kw_create_local_key('a', 'm1', 'ML-KEM-768') AS m1 \gset
SELECT kms_wrap.kw_create_policy('default', 'split') \g /dev/null
SELECT kms_wrap.kw_policy_add_key('default', slot, key) FROM (VALUES ('kms1', :a1), ('kms2', :b1), ('layer', :m1)) v (slot, key) \g /dev/null
SELECT kms_wrap.kw_create_policy('tenants', 'split', min_layers => 0), kms_wrap.kw_policy_add_key('tenants', 'kms1', :a1), kms_wrap.kw_policy_add_key('tenants', 'kms2', :b1) \g /dev/null
UPDATE kms_wrap.encryption_policies SET dek_scope = '{t}' WHERE policy_name = 'tenants';
SET client_min_messages = warning;
SELECT :'testname' || '_alice' AS alice, :'testname' || '_bob' AS bob, :'testname' || '_group' AS grp \gset
DROP ROLE IF EXISTS :alice, :bob, :grp;
RESET client_min_messages;
CREATE ROLE :alice;
CREATE ROLE :bob;
CREATE ROLE :grp;
GRANT :grp TO :alice;
CREATE TABLE x AS SELECT n, kms_wrap.kw_encrypt_text('value ' || n, context => '{"t": "x"}') AS e, kms_wrap.kw_encrypt(int4send(n), 'tenants', jsonb_build_object('t', (n % 10)::text)) AS b FROM generate_series(1, 20000) n;
GRANT SELECT ON x TO :alice, :bob;
ANALYZE x;
SELECT kms_wrap.kw_grant(p, 'default', :'grp'::regrole), kms_wrap.kw_grant(p, 'tenants', :'grp'::regrole) FROM unnest(ARRAY['decrypt']) p;
-- Workers do all of it: the leader takes no part.
SET parallel_setup_cost = 0;
SET parallel_tuple_cost = 0;
SET min_parallel_table_scan_size = 0;
SET max_parallel_workers_per_gather = 2;
SET parallel_leader_participation = off;
CREATE FUNCTION workers(query text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    line text;
    lines text := '';
BEGIN
    FOR line IN EXECUTE 'EXPLAIN (ANALYZE, COSTS off, TIMING off, SUMMARY off, BUFFERS off) ' || query LOOP
        lines := lines || line || E'\n';
    END LOOP;
    RETURN substring(lines FROM 'Workers Launched: \d+');
END
$$;
SET ROLE :alice;
EXPLAIN (COSTS off) SELECT count(*) FROM x WHERE kms_wrap.kw_decrypt_text(e, '{"t": "x"}') = 'value ' || n;
SELECT count(*) FROM x WHERE kms_wrap.kw_decrypt_text(e, '{"t": "x"}') = 'value ' || n;
SELECT count(*), count(DISTINCT t) FROM (SELECT n % 10 AS t FROM x WHERE kms_wrap.kw_decrypt(b, jsonb_build_object('t', (n % 10)::text)) = int4send(n) OFFSET 0) t;
SELECT workers($$SELECT count(*) FROM x WHERE kms_wrap.kw_decrypt_text(e, '{"t": "x"}') = 'value ' || n$$) <> 'Workers Launched: 0';
-- A value that does not open is an error of the whole query.
SELECT count(kms_wrap.kw_decrypt_text(e, '{"t": "y"}')) FROM x;
\echo :LAST_ERROR_SQLSTATE
-- Without the right: nothing.
SET ROLE :bob;
SELECT count(*) FROM x WHERE kms_wrap.kw_decrypt_text(e, '{"t": "x"}') = 'value ' || n;
RESET ROLE;
GRANT EXECUTE ON FUNCTION kms_wrap.kw_decrypt, kms_wrap.kw_decrypt_text TO :bob;
SET ROLE :bob;
SELECT count(*) FROM x WHERE kms_wrap.kw_decrypt_text(e, '{"t": "x"}') = 'value ' || n;
\echo :LAST_ERROR_SQLSTATE
RESET ROLE;
-- By session authorization instead of SET ROLE.
SET SESSION AUTHORIZATION :alice;
SELECT count(kms_wrap.kw_decrypt_text(e, '{"t": "x"}')) FROM x;
RESET SESSION AUTHORIZATION;
-- Inside a function with its owner's rights.
CREATE FUNCTION total() RETURNS bigint LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$ BEGIN RETURN (SELECT pg_catalog.count(kms_wrap.kw_decrypt_text(e, '{"t": "x"}')) FROM public.x); END $$;
GRANT SELECT ON x TO :grp;
ALTER FUNCTION total() OWNER TO :grp;
SET ROLE :bob;
SELECT total();
RESET ROLE;
-- Revoked, the next query has it no more, however warm the leader is.
SET ROLE :alice;
SELECT kms_wrap.kw_decrypt_text(e, '{"t": "x"}') FROM x WHERE n = 1;
RESET ROLE;
GRANT EXECUTE ON FUNCTION kms_wrap.kw_decrypt, kms_wrap.kw_decrypt_text TO :alice;
REVOKE :grp FROM :alice;
SET ROLE :alice;
SELECT count(kms_wrap.kw_decrypt_text(e, '{"t": "x"}')) FROM x;
RESET ROLE;
SELECT kms_wrap.kw_set_key_status(:m1, 'disabled');
SELECT count(kms_wrap.kw_decrypt_text(e, '{"t": "x"}')) FROM x;
\echo :LAST_ERROR_SQLSTATE
SELECT kms_wrap.kw_set_key_status(:m1, 'active');
SELECT count(kms_wrap.kw_decrypt_text(e, '{"t": "x"}')) FROM x;
-- What this transaction has changed and not committed holds for its workers too.
BEGIN;
SELECT kms_wrap.kw_set_key_status(:m1, 'disabled');
SELECT count(kms_wrap.kw_decrypt_text(e, '{"t": "x"}')) FROM x;
\echo :LAST_ERROR_SQLSTATE
ROLLBACK;
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT count(kms_wrap.kw_decrypt_text(e, '{"t": "x"}')) FROM x;
COMMIT;
BEGIN ISOLATION LEVEL SERIALIZABLE READ ONLY DEFERRABLE;
SELECT count(kms_wrap.kw_decrypt_text(e, '{"t": "x"}')) FROM x;
COMMIT;
-- A first DEK made in this transaction, and values in a table that it made: workers find the wrapper.
BEGIN;
SELECT kms_wrap.kw_rotate_dek(kms_wrap.kw_wrapper_of(e)) IS NOT NULL FROM x WHERE n = 1;
CREATE TABLE y AS SELECT n, kms_wrap.kw_encrypt_text('value ' || n) AS e FROM generate_series(1, 5000) n;
SELECT count(*) FROM y WHERE kms_wrap.kw_decrypt_text(e) = 'value ' || n;
ROLLBACK;
-- Encrypting never runs in a worker.
EXPLAIN (COSTS off) SELECT count(kms_wrap.kw_encrypt_text(e)) FROM x;
DROP FUNCTION total;
DROP OWNED BY :alice, :bob, :grp;
DROP ROLE :alice, :bob, :grp;
