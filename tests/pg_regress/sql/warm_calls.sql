-- A call that has what it needs in memory runs no statement of ours: no table of kms_wrap is scanned, nor is membership of roles looked up.
\pset footer off
\pset null '-'
\set SHOW_CONTEXT never
SELECT kms_wrap.kw_create_root_key(:'testname' || '-a') AS root_a, kms_wrap.kw_create_root_key(:'testname' || '-b') AS root_b \gset
SELECT kms_wrap.kw_add_provider('a', 'local', jsonb_build_object('root_key', :'testname' || '-a')) AS a,
    kms_wrap.kw_add_provider('b', 'local', jsonb_build_object('root_key', :'testname' || '-b')) AS b \gset
SELECT kms_wrap.kw_create_local_key('a', 'a1', 'XAES-256-GCM') AS a1, kms_wrap.kw_create_local_key('b', 'b1', 'XAES-256-GCM') AS b1 \gset
SELECT kms_wrap.kw_create_policy('default', 'split', min_layers => 0) \g /dev/null
SELECT kms_wrap.kw_policy_add_key('default', 'kms1', :a1), kms_wrap.kw_policy_add_key('default', 'kms2', :b1) \g /dev/null
CREATE TABLE people (id integer PRIMARY KEY, tenant integer NOT NULL, name text, scan bytea);
SELECT count(*) > 0 AS protected FROM kms_wrap.kw_protect_column('people', 'name', blind_index => 'index', index_normalisation => 'lower');
SELECT count(*) > 0 AS protected FROM kms_wrap.kw_protect_column('people', 'scan', tenant_column => 'tenant');
CREATE ROLE regress_warm_calls;
GRANT SELECT, INSERT, UPDATE ON people TO regress_warm_calls;
GRANT SELECT ON people_decrypted TO regress_warm_calls;
SELECT kms_wrap.kw_grant(p, 'default', 'regress_warm_calls') FROM unnest('{encrypt,decrypt,index}'::text[]) p \g /dev/null
INSERT INTO people SELECT i, i % 3, 'Name ' || i, convert_to('scan ' || i, 'UTF8') FROM generate_series(1, 300) i;
CREATE FUNCTION scans() RETURNS numeric LANGUAGE sql AS $$
    SELECT COALESCE(sum(COALESCE(seq_scan, 0) + COALESCE(idx_scan, 0)), 0) FROM pg_stat_xact_all_tables
    WHERE schemaname = 'kms_wrap' OR relname = 'pg_auth_members'
$$;
CREATE FUNCTION scans_of(statement text) RETURNS numeric LANGUAGE plpgsql AS $$
DECLARE
    before numeric := scans();
BEGIN
    EXECUTE statement;
    RETURN scans() - before;
END
$$;
CREATE TABLE calls (n integer, what text, statement text);
INSERT INTO calls VALUES
    (1, 'encrypt', $q$SELECT count(kms_wrap.kw_encrypt('\x00', context => '{"a": "b"}')) FROM generate_series(1, 200)$q$),
    (2, 'encrypt and decrypt text', $q$SELECT count(kms_wrap.kw_decrypt_text(kms_wrap.kw_encrypt_text('x'))) FROM generate_series(1, 200)$q$),
    (3, 'insert', $q$INSERT INTO people SELECT (SELECT max(id) FROM people) + i, i % 3, 'Name ' || i, '\x00' FROM generate_series(1, 200) i$q$),
    (4, 'insert of a row that is there', $q$INSERT INTO people SELECT (SELECT min(id) FROM people), 1, 'Name ' || i, '\x00' FROM generate_series(1, 200) i ON CONFLICT DO NOTHING$q$),
    (5, 'update', $q$UPDATE people SET name = upper(name), scan = '\x01'$q$),
    (6, 'update of the key', $q$UPDATE people SET id = id + 10000$q$),
    (7, 'update of nothing', $q$UPDATE people SET name = name, scan = scan$q$),
    (8, 'view', $q$SELECT count(name), count(scan) FROM people_decrypted$q$),
    (9, 'view by blind index', $q$SELECT count(*) FROM generate_series(1, 200) i, people_decrypted d WHERE d.name_bidx = ANY (kms_wrap.kw_blind_index('people', 'name', 'Name ' || i))$q$);
GRANT SELECT ON calls TO regress_warm_calls;

-- The counter counts: a new session has nothing yet.
\c
SET ROLE regress_warm_calls;
SET enable_seqscan = off;
BEGIN;
SELECT what, scans_of(statement) > 0 AS scans FROM calls WHERE n = 1;
SELECT what, scans_of(statement) > 0 AS scans FROM calls WHERE n = 8;
ROLLBACK;
-- All once, and then again. Several times: a role that another database makes has every session look at memberships again.
SELECT count(scans_of(statement)) AS calls FROM calls;
SELECT n, what, min(scans) AS scans
FROM (SELECT n, what, scans_of(statement) AS scans FROM generate_series(1, 10) round, (SELECT * FROM calls ORDER BY n) c ORDER BY round, n) s
GROUP BY n, what ORDER BY n;
-- Making a new tenant's DEK looks at no other tenant's.
INSERT INTO people (id, tenant, scan) SELECT -i, 1000 + i, '\x00' FROM generate_series(1, 300) i;
CREATE TEMP VIEW rows_read AS SELECT sum(COALESCE(seq_tup_read, 0) + COALESCE(idx_tup_fetch, 0)) AS n FROM pg_stat_xact_all_tables WHERE schemaname = 'kms_wrap';
BEGIN;
SELECT n AS before FROM rows_read \gset
INSERT INTO people (id, tenant, scan) SELECT -i, 1000 + i, '\x00' FROM generate_series(301, 310) i;
SELECT n - :before BETWEEN 1 AND 1000 AS few_rows FROM rows_read;
ROLLBACK;
RESET ROLE;
SELECT kms_wrap.kw_revoke(p, 'default', 'regress_warm_calls') FROM unnest('{encrypt,decrypt,index}'::text[]) p \g /dev/null
DROP OWNED BY regress_warm_calls;
DROP ROLE regress_warm_calls;
