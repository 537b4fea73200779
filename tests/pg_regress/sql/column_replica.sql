-- Envelopes whose wrappers are not here are counted once a transaction, not once a row, and not when their rows were undone.
\pset footer off
\set SHOW_CONTEXT never
SELECT kms_wrap.kw_create_root_key(:'testname' || '-a'), kms_wrap.kw_create_root_key(:'testname' || '-b') \g /dev/null
SELECT kms_wrap.kw_add_provider(p, 'local', jsonb_build_object('root_key', :'testname' || '-' || p)) FROM unnest(ARRAY['a', 'b']) p \g /dev/null
SELECT kms_wrap.kw_create_local_key('a', 'a1', 'XAES-256-GCM'), kms_wrap.kw_create_local_key('b', 'b1', 'XAES-256-GCM') \g /dev/null
SELECT kms_wrap.kw_create_policy('default', 'split', min_layers => 0) \g /dev/null
SELECT kms_wrap.kw_policy_add_key('default', 'kms1', 1000), kms_wrap.kw_policy_add_key('default', 'kms2', 1001) \g /dev/null
CREATE TABLE t (id integer PRIMARY KEY, a bytea, b bytea);
SELECT count(*) FROM unnest('{a,b}'::name[]) c, kms_wrap.kw_protect_column('t', c) \g /dev/null
-- An envelope by its form, of a wrapper that nobody has.
CREATE FUNCTION foreign_envelope(n integer) RETURNS bytea LANGUAGE sql IMMUTABLE AS
    $$ SELECT '\x4b570101'::bytea || decode(repeat('ab', 16) || lpad(to_hex(n), 80, '0'), 'hex') $$;
CREATE VIEW counts AS SELECT column_name, unknown_envelopes FROM kms_wrap.protected_columns ORDER BY 1;
SET session_replication_role = replica;
INSERT INTO t SELECT n, foreign_envelope(n), CASE WHEN n % 2 = 0 THEN foreign_envelope(n) END FROM generate_series(1, 2000) n;
TABLE counts;
-- A version of the row for each envelope would not fit one page.
SELECT pg_relation_size('kms_wrap.protected_columns') AS bytes;
-- Nothing of what was undone.
BEGIN;
INSERT INTO t VALUES (3001, foreign_envelope(1), NULL);
ROLLBACK;
BEGIN;
SAVEPOINT one;
INSERT INTO t VALUES (3002, foreign_envelope(1), NULL);
SAVEPOINT two;
INSERT INTO t VALUES (3003, foreign_envelope(1), NULL);
RELEASE two;
ROLLBACK TO one;
INSERT INTO t VALUES (3004, foreign_envelope(1), foreign_envelope(2));
SAVEPOINT two;
INSERT INTO t VALUES (3005, foreign_envelope(1), NULL);
RELEASE two;
RELEASE one;
INSERT INTO t VALUES (3006, foreign_envelope(1), NULL);
COMMIT;
TABLE counts;
DO $$
BEGIN
    FOR n IN 4001 .. 4010 LOOP
        BEGIN
            INSERT INTO t VALUES (n, foreign_envelope(n), NULL);
            IF n % 2 = 0 THEN
                RAISE EXCEPTION 'undone';
            END IF;
        EXCEPTION WHEN raise_exception THEN
            NULL;
        END;
    END LOOP;
END
$$;
TABLE counts;
-- A commit within a procedure.
DO $$
BEGIN
    INSERT INTO t VALUES (5001, NULL, foreign_envelope(1));
    COMMIT;
    INSERT INTO t VALUES (5002, NULL, foreign_envelope(1));
    ROLLBACK;
END
$$;
TABLE counts;
-- An ordinary role writes the table; the count is the extension's.
SELECT :'testname' || '_role' AS role \gset
RESET session_replication_role;
SET client_min_messages = warning;
DROP ROLE IF EXISTS :role;
RESET client_min_messages;
CREATE ROLE :role;
SELECT kms_wrap.kw_grant('encrypt', 'default', :'role') \g /dev/null
GRANT INSERT ON t TO :role;
SET session_replication_role = replica;
SET ROLE :role;
INSERT INTO t VALUES (6001, '\x4b570101abababababababababababababababab000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000', NULL);
RESET ROLE;
TABLE counts;
RESET session_replication_role;
DROP OWNED BY :role;
DROP ROLE :role;
