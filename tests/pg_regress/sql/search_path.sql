-- A caller's search_path changes nothing. Functions that are called once a row have no search_path of their own, and read our tables as their owner:
-- one type, operator or function that they name without its schema would be the caller's, and run with the owner's rights.
\pset footer off
\pset null '-'
\set SHOW_CONTEXT never
SELECT kms_wrap.kw_create_root_key(:'testname' || '-a') AS root_a, kms_wrap.kw_create_root_key(:'testname' || '-b') AS root_b \gset
SELECT kms_wrap.kw_add_provider('a', 'local', jsonb_build_object('root_key', :'testname' || '-a')) AS a,
    kms_wrap.kw_add_provider('b', 'local', jsonb_build_object('root_key', :'testname' || '-b')) AS b \gset
SELECT kms_wrap.kw_create_local_key('a', 'a1', 'XAES-256-GCM') AS a1, kms_wrap.kw_create_local_key('b', 'b1', 'XAES-256-GCM') AS b1,
    kms_wrap.kw_create_local_key('a', 'm1', 'ML-KEM-768') AS m1 \gset
SELECT kms_wrap.kw_create_policy('default', 'split') \g /dev/null
SELECT kms_wrap.kw_policy_add_key('default', slot, key) FROM (VALUES ('kms1', :a1), ('kms2', :b1), ('layer', :m1)) v (slot, key) \g /dev/null
SELECT :'testname' || '_role' AS role \gset
SET client_min_messages = warning;
DROP ROLE IF EXISTS :role;
RESET client_min_messages;
CREATE ROLE :role;
SELECT count(kms_wrap.kw_grant(p, 'default', :'role'::regrole)) AS granted FROM unnest(ARRAY['encrypt', 'decrypt', 'unwrap', 'import', 'index', 'manage']) p;

-- Everything that PostgreSQL brings, once more: types whose use fails, operators and functions that do nothing but fail.
CREATE SCHEMA evil;
GRANT USAGE ON SCHEMA evil TO PUBLIC;
CREATE FUNCTION evil.taken_in() RETURNS pg_catalog.bool LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'taken in as %', current_user; END $$;
DO $do$
DECLARE
    d record;
    made_types integer := 0;
    made_operators integer := 0;
    made_functions integer := 0;
BEGIN
    -- Functions before types, which would stand in their way.
    FOR d IN SELECT p.oid, p.proname, pg_get_function_result(p.oid) AS result,
                 (SELECT string_agg('pg_catalog.' || quote_ident(t.typname), ', ' ORDER BY n) FROM unnest(p.proargtypes) WITH ORDINALITY u (oid, n) JOIN pg_type t ON t.oid = u.oid) AS arguments
             FROM pg_proc p JOIN pg_type r ON r.oid = p.prorettype
             WHERE p.pronamespace = 'pg_catalog'::regnamespace AND p.prokind = 'f' AND r.typtype <> 'p' AND NOT p.proretset AND p.provariadic = 0
                 AND NOT EXISTS (SELECT FROM unnest(p.proargtypes) a JOIN pg_type t ON t.oid = a WHERE t.typtype = 'p')
    LOOP
        EXECUTE format('CREATE FUNCTION evil.%I(%s) RETURNS %s LANGUAGE plpgsql AS $f$ BEGIN PERFORM evil.taken_in(); END $f$', d.proname, d.arguments, d.result);
        made_functions := made_functions + 1;
    END LOOP;
    FOR d IN SELECT o.oprname, l.typname AS l, r.typname AS r, e.typname AS result
             FROM pg_operator o JOIN pg_type l ON l.oid = o.oprleft JOIN pg_type r ON r.oid = o.oprright JOIN pg_type e ON e.oid = o.oprresult
             WHERE o.oprnamespace = 'pg_catalog'::regnamespace AND 'p' NOT IN (l.typtype, r.typtype, e.typtype)
    LOOP
        made_operators := made_operators + 1;
        EXECUTE format('CREATE FUNCTION evil.op_%s(pg_catalog.%I, pg_catalog.%I) RETURNS pg_catalog.%I LANGUAGE plpgsql AS $f$ BEGIN PERFORM evil.taken_in(); END $f$', made_operators, d.l, d.r, d.result);
        EXECUTE format('CREATE OPERATOR evil.%s (LEFTARG = pg_catalog.%I, RIGHTARG = pg_catalog.%I, FUNCTION = evil.op_%s)', d.oprname, d.l, d.r, made_operators);
    END LOOP;
    FOR d IN SELECT typname FROM pg_type WHERE typnamespace = 'pg_catalog'::regnamespace AND typtype = 'b' AND typcategory <> 'A' AND typname NOT IN ('oidvector', 'int2vector')
    LOOP
        EXECUTE format('CREATE DOMAIN evil.%I AS pg_catalog.%I CHECK (evil.taken_in())', d.typname, d.typname);
        made_types := made_types + 1;
    END LOOP;
    RAISE NOTICE '%', made_types > 50 AND made_operators > 500 AND made_functions > 1500;
END
$do$;
CREATE FUNCTION evil.call(statement pg_catalog.text) RETURNS pg_catalog.text LANGUAGE plpgsql AS $$
DECLARE
    answer pg_catalog.text;
BEGIN
    EXECUTE statement INTO answer;
    RETURN 'done';
EXCEPTION WHEN OTHERS THEN RETURN pg_catalog.concat(SQLSTATE, ': ', pg_catalog.regexp_replace(SQLERRM, '[0-9a-f-]{36}', '<uuid>'));
END
$$;
SET ROLE :role;
SET search_path = evil, pg_catalog;
-- It works: this is what an unqualified name comes to.
SELECT evil.call('SELECT 1::text'), evil.call('SELECT 1 = 1'), evil.call('SELECT lower(''A'')');
\c
SET ROLE :role;
SET search_path = evil, pg_catalog;
-- A wrapper, a value and the first DEK of a policy, made and opened with nothing held in memory.
SELECT kms_wrap.kw_wrap_dek() AS w \gset
SELECT kms_wrap.kw_encrypt('\x01') AS v, kms_wrap.kw_encrypt_text('a', context => '{"a": "b"}') AS t \gset
SELECT kms_wrap.kw_encrypt('\x01', wrapper => :'w') AS c \gset
\c
SET ROLE :role;
SET search_path = evil, pg_catalog;
SELECT kms_wrap.kw_decrypt(:'v'), kms_wrap.kw_decrypt_text(:'t', '{"a": "b"}'), kms_wrap.kw_decrypt(:'c');
SELECT kms_wrap.kw_is_sealed(:'v'::pg_catalog.bytea), kms_wrap.kw_is_sealed(:'t'::pg_catalog.text);
SELECT pg_catalog.octet_length(kms_wrap.kw_unwrap(:'w')) AS bytes;
SELECT kms_wrap.kw_rotate_dek(kms_wrap.kw_wrapper_of(:'v'::pg_catalog.bytea)) IS NOT NULL AS rotated;
SET client_min_messages = warning;
SELECT kms_wrap.kw_rewrap(:'w', target_kms1 => :a1) IS NOT NULL AS rewrapped;
SELECT evil.call('SELECT kms_wrap.kw_blind_index(''evil.t'', ''c'', ''v'')'), evil.call('SELECT kms_wrap.kw_open_column(''00000000-0000-0000-0000-000000000000'', ''\x01'', 1)'),
    evil.call('SELECT kms_wrap.kw_rotate_column_index(''kms_wrap.key_wrappers'', ''id'')');
RESET ROLE;
SELECT kms_wrap.kw_encrypt('\x02') IS NOT NULL AS encrypted;
SELECT kms_wrap.kw_revoke('index', 'default', :'role'::pg_catalog.regrole), kms_wrap.kw_grant('index', 'default', :'role'::pg_catalog.regrole);
SELECT pg_catalog.count(*) OPERATOR(pg_catalog.>) 0 AS has_rows FROM kms_wrap.kw_health();
SELECT ok, pg_catalog.count(*) FROM kms_wrap.kw_verify() GROUP BY ok;
CALL kms_wrap.kw_run_jobs();
-- A temporary type comes before all others even without being named in search_path.
RESET search_path;
GRANT TEMPORARY ON DATABASE :DBNAME TO :role;
\c
SET ROLE :role;
CREATE TEMPORARY TABLE t ();
CREATE DOMAIN pg_temp.text AS pg_catalog.text CHECK (evil.taken_in());
CREATE DOMAIN pg_temp.int8 AS pg_catalog.int8 CHECK (evil.taken_in());
CREATE DOMAIN pg_temp.uuid AS pg_catalog.uuid CHECK (evil.taken_in());
SELECT 'a'::text;
SELECT kms_wrap.kw_decrypt(:'v'), kms_wrap.kw_encrypt('\x03') IS NOT NULL AS encrypted, octet_length(kms_wrap.kw_unwrap(:'w')) AS bytes;
RESET ROLE;
SET client_min_messages = warning;
SELECT count(kms_wrap.kw_revoke(p, 'default', :'role'::regrole)) AS revoked FROM unnest(ARRAY['encrypt', 'decrypt', 'unwrap', 'import', 'index', 'manage']) p;
DROP OWNED BY :role;
DROP ROLE :role;
