-- Who may call and read what. A change of any function's owner, rights, volatility or search_path shows here.
-- Functions in C that are called once a row, on values and protected columns, have no search_path setting, for the time that it would take: their
-- statements name everything with its schema, which the test search_path tries.
\pset footer off
\pset null '-'
\pset format unaligned
\pset fieldsep ' | '
\set SHOW_CONTEXT never
SELECT p.oid::regprocedure::text COLLATE "C" AS function, CASE p.prokind WHEN 'p' THEN 'procedure' ELSE p.provolatile::text END AS volatile, p.proparallel AS parallel,
    p.prosecdef AS definer, p.proisstrict AS strict, p.proleakproof AS leakproof, p.procost AS cost, l.lanname AS language, array_to_string(p.proconfig, '; ') AS settings
FROM pg_proc p JOIN pg_language l ON l.oid = p.prolang WHERE p.pronamespace = 'kms_wrap'::regnamespace ORDER BY 1;
-- Names of arguments and defaults are part of the interface.
SELECT p.proname, pg_get_function_arguments(p.oid) AS arguments, pg_get_function_result(p.oid) AS result
FROM pg_proc p WHERE p.pronamespace = 'kms_wrap'::regnamespace AND p.prorettype <> 'trigger'::regtype ORDER BY p.proname COLLATE "C";

-- Everything belongs to the extension's owner and to the extension; functions are for nobody else, but for the parser, which CHECK constraints call.
SELECT count(*) FILTER (WHERE p.proowner <> e.extowner) AS another_owner,
    count(*) FILTER (WHERE NOT EXISTS (SELECT FROM pg_depend d WHERE d.objid = p.oid AND d.deptype = 'e')) AS not_of_the_extension,
    count(*) FILTER (WHERE p.proacl IS NULL OR EXISTS (SELECT FROM aclexplode(p.proacl) a WHERE a.grantee <> p.proowner)) AS open_to_others
FROM pg_proc p, pg_extension e WHERE e.extname = 'kms_wrap' AND p.pronamespace = 'kms_wrap'::regnamespace;
SELECT p.oid::regprocedure AS function, a.grantee::regrole AS grantee, a.privilege_type FROM pg_proc p, aclexplode(p.proacl) a
WHERE p.pronamespace = 'kms_wrap'::regnamespace AND a.grantee <> p.proowner ORDER BY 1;
SELECT c.relkind, count(*) FILTER (WHERE c.relowner <> e.extowner) AS another_owner,
    count(*) FILTER (WHERE EXISTS (SELECT FROM aclexplode(c.relacl) a WHERE a.grantee <> c.relowner)) AS open_to_others
FROM pg_class c, pg_extension e WHERE e.extname = 'kms_wrap' AND c.relnamespace = 'kms_wrap'::regnamespace AND c.relkind IN ('r', 'v', 'S') GROUP BY 1 ORDER BY 1;
-- The schema can be looked into, since CHECKs name its objects, and not written to.
SELECT a.grantee::regrole, a.privilege_type FROM pg_namespace n, aclexplode(n.nspacl) a WHERE n.nspname = 'kms_wrap' AND a.grantee <> n.nspowner ORDER BY 1, 2;

-- An ordinary role: 42501 from each function and each table, view and sequence.
SELECT :'testname' || '_role' AS role \gset
SET client_min_messages = warning;
DROP ROLE IF EXISTS :role;
RESET client_min_messages;
CREATE ROLE :role;
CREATE FUNCTION call(f regprocedure) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    -- No NULL for a strict function: it would not be called at all.
    arguments text := (SELECT string_agg(CASE WHEN p.proisstrict THEN '''1''::' ELSE 'NULL::' END || format_type(t, NULL), ', ' ORDER BY n) FROM pg_proc p, unnest(p.proargtypes) WITH ORDINALITY u (t, n) WHERE p.oid = f);
    kind text := (SELECT prokind FROM pg_proc WHERE oid = f);
BEGIN
    EXECUTE format('%s kms_wrap.%I(%s)', CASE kind WHEN 'p' THEN 'CALL' ELSE 'SELECT' END, (SELECT proname FROM pg_proc WHERE oid = f), arguments);
    RETURN 'allowed';
EXCEPTION WHEN OTHERS THEN RETURN SQLSTATE || ': ' || SQLERRM;
END
$$;
CREATE FUNCTION read(t regclass) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE format('SELECT FROM %s', t);
    RETURN 'allowed';
EXCEPTION WHEN OTHERS THEN RETURN SQLSTATE;
END
$$;
SET ROLE :role;
SELECT call(p.oid) AS refusal FROM pg_proc p WHERE p.pronamespace = 'kms_wrap'::regnamespace AND p.prorettype <> 'trigger'::regtype ORDER BY p.proname COLLATE "C";
SELECT c.relkind, read(c.oid) AS refusal, count(*) FROM pg_class c WHERE c.relnamespace = 'kms_wrap'::regnamespace AND c.relkind IN ('r', 'v', 'S') GROUP BY 1, 2 ORDER BY 1;
CREATE TABLE kms_wrap.mine (n integer);
CREATE FUNCTION kms_wrap.kw_unwrap(text) RETURNS bytea LANGUAGE sql AS 'SELECT NULL';
-- The settings are the administrator's, and can't be looked at.
RESET ROLE;
LOAD 'kms_wrap';
SET ROLE :role;
-- PostgreSQL 16 has other words for it.
\set VERBOSITY sqlstate
SHOW kms_wrap.key_directory;
SHOW kms_wrap.require_pq;
\set VERBOSITY default
SET kms_wrap.key_directory = '/tmp';
SET kms_wrap.require_pq = off;
SELECT count(*) FROM pg_settings WHERE name LIKE 'kms_wrap.%';
RESET ROLE;
SET kms_wrap.key_directory = '/tmp';
SET kms_wrap.require_origin = on;
SET kms_wrap.typo = on;
-- What the settings are.
SELECT name, context, vartype, boot_val, min_val, max_val FROM pg_settings WHERE name LIKE 'kms_wrap.%' AND name <> 'kms_wrap.worker_databases' ORDER BY name COLLATE "C";

-- EXECUTE alone, granted by hand, is not enough: a right on the policy is asked for, or everything is read with the caller's own rights.
SELECT kms_wrap.kw_create_policy('default', 'split') \g /dev/null
GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA kms_wrap TO :role;
GRANT EXECUTE ON ALL PROCEDURES IN SCHEMA kms_wrap TO :role;
SET ROLE :role;
SELECT kms_wrap.kw_wrap_dek();
SELECT kms_wrap.kw_unwrap('00000000-0000-7000-8000-000000000000');
SELECT * FROM kms_wrap.kw_verify();
SELECT kms_wrap.kw_encrypt('x');
SELECT kms_wrap.kw_encrypt_text('x');
SELECT kms_wrap.kw_rotate_dek('00000000-0000-7000-8000-000000000000');
SELECT kms_wrap.kw_grant('decrypt', 'default', CURRENT_USER::regrole);
SELECT kms_wrap.kw_revoke('decrypt', 'default', CURRENT_USER::regrole);
-- Nor may it try out which root key files there are.
\set VERBOSITY sqlstate
SELECT kms_wrap.kw_create_root_key('x');
SELECT * FROM kms_wrap.kw_quickstart();
SELECT kms_wrap.kw_rotate_root_key('a', 'b');
SELECT kms_wrap.kw_add_provider('x', 'local', '{"root_key": "x"}');
SELECT * FROM kms_wrap.kw_health();
CALL kms_wrap.kw_run_jobs();
\set VERBOSITY default
RESET ROLE;

-- A search_path of the caller's changes nothing: objects of the same names are not ours.
CREATE SCHEMA evil;
CREATE TABLE evil.encryption_policies (id bigint, policy_name text);
CREATE FUNCTION evil.clock_timestamp() RETURNS timestamptz LANGUAGE plpgsql AS 'BEGIN RAISE EXCEPTION $x$taken in$x$; END';
CREATE FUNCTION evil.eq(bigint, bigint) RETURNS boolean LANGUAGE plpgsql AS 'BEGIN RAISE EXCEPTION $x$taken in$x$; END';
CREATE OPERATOR evil.= (LEFTARG = bigint, RIGHTARG = bigint, FUNCTION = evil.eq);
SET search_path = evil, pg_catalog;
SELECT kms_wrap.kw_wrap_dek();
SELECT count(*) OPERATOR(pg_catalog.>) 0 AS has_rows FROM kms_wrap.kw_health();
SELECT count(*) FROM kms_wrap.kw_verify();
CALL kms_wrap.kw_run_jobs();
RESET search_path;
DROP OWNED BY :role;
DROP ROLE :role;
