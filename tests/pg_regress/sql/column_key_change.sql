-- The key that values are bound to is changed behind their back, the decrypting view being out of the way: nothing is written until it is changed back.
\pset footer off
\pset null '-'
\set SHOW_CONTEXT never
SELECT kms_wrap.kw_create_root_key(:'testname' || '-a') AS root_a, kms_wrap.kw_create_root_key(:'testname' || '-b') AS root_b \gset
SELECT kms_wrap.kw_add_provider('a', 'local', jsonb_build_object('root_key', :'testname' || '-a')) AS a,
    kms_wrap.kw_add_provider('b', 'local', jsonb_build_object('root_key', :'testname' || '-b')) AS b \gset
SELECT kms_wrap.kw_create_local_key('a', 'a1', 'XAES-256-GCM') AS a1, kms_wrap.kw_create_local_key('b', 'b1', 'XAES-256-GCM') AS b1 \gset
SELECT kms_wrap.kw_create_policy('default', 'split', min_layers => 0) \g /dev/null
SELECT kms_wrap.kw_policy_add_key('default', 'kms1', :a1), kms_wrap.kw_policy_add_key('default', 'kms2', :b1) \g /dev/null
CREATE FUNCTION try(statement text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    detail text;
BEGIN
    EXECUTE statement;
    RETURN 'done';
EXCEPTION WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS detail = PG_EXCEPTION_DETAIL;
    RETURN concat_ws(E'\n', SQLSTATE || ': ' || SQLERRM, nullif(detail, ''));
END
$$;
CREATE FUNCTION health() RETURNS TABLE (status text, detail text, action text) LANGUAGE sql AS $$
    SELECT status, detail, action FROM kms_wrap.kw_health() WHERE component = 'column' AND name = 'public.t.secret'
$$;
CREATE DOMAIN number AS integer CHECK (VALUE > 0);
CREATE TABLE t (id integer, code char(3), name varchar(9), tenant smallint NOT NULL, secret text, other text, PRIMARY KEY (id, code, name));
SELECT count(*) > 0 AS protected FROM kms_wrap.kw_protect_column('t', 'secret', tenant_column => 'tenant');
SELECT key_forms FROM kms_wrap.protected_columns;
INSERT INTO t VALUES (1, 'a', 'a', 1, 'one', 'x');
SELECT secret FROM t_decrypted;
SELECT status, detail FROM health();
-- The view is in the way.
ALTER TABLE t ALTER id TYPE bigint;
DROP VIEW t_decrypted;

CREATE FUNCTION after(change text) RETURNS TABLE (what text, outcome text) LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE change;
    RETURN QUERY VALUES
        ('insert', try($q$INSERT INTO t VALUES (2, 'b', 'b', 1, 'two', 'x')$q$)),
        ('insert without a value', try($q$INSERT INTO t VALUES (3, 'c', 'c', 1, NULL, 'x')$q$)),
        ('update', try('UPDATE t SET other = other')),
        ('open', try($q$SELECT kms_wrap.kw_open_column_text((SELECT column_uuid FROM kms_wrap.protected_columns), secret, id, code, name, tenant) FROM t WHERE id = 1$q$)),
        ('protect', try($q$SELECT kms_wrap.kw_protect_column('t', 'other', dry_run => true)$q$)),
        ('give back', try($q$SELECT kms_wrap.kw_unprotect_column('t', 'secret')$q$)),
        ('health', (SELECT concat_ws(': ', status, detail, action) FROM health()));
END
$$;
BEGIN;
SELECT * FROM after('ALTER TABLE t ALTER id TYPE bigint');
ROLLBACK;
ALTER TABLE t ALTER id TYPE bigint;
CALL kms_wrap.kw_encrypt_column('t', 'secret');
-- A session that has written before sees it at once, and so that it is changed back.
INSERT INTO t VALUES (2, 'b', 'b', 1, 'two', 'x');
ALTER TABLE t ALTER id TYPE integer;
INSERT INTO t VALUES (2, 'b', 'b', 1, 'two', 'x');
DELETE FROM t WHERE id = 2;
BEGIN;
SELECT what, outcome FROM after('ALTER TABLE t ALTER code TYPE char(5)') WHERE what IN ('insert', 'open', 'health');
ROLLBACK;
BEGIN;
SELECT what, outcome FROM after('ALTER TABLE t ALTER tenant TYPE integer') WHERE what IN ('insert', 'open', 'health');
ROLLBACK;
BEGIN;
SELECT what, outcome FROM after('ALTER TABLE t DROP CONSTRAINT t_pkey, ADD PRIMARY KEY (code, id, name)') WHERE what IN ('insert', 'health');
ROLLBACK;
BEGIN;
SELECT what, outcome FROM after('ALTER TABLE t ADD more integer NOT NULL DEFAULT 1, DROP CONSTRAINT t_pkey, ADD PRIMARY KEY (more, code, name)') WHERE what IN ('insert', 'give back', 'health');
ROLLBACK;
BEGIN;
SELECT what, outcome FROM after('ALTER TABLE t ALTER id TYPE numeric') WHERE what IN ('insert', 'health');
ROLLBACK;
BEGIN;
SELECT what, outcome FROM after('ALTER TABLE t DROP CONSTRAINT t_pkey') WHERE what IN ('insert', 'give back', 'health');
ROLLBACK;
-- Made again as it was it is the same key.
ALTER TABLE t DROP CONSTRAINT t_pkey, ADD PRIMARY KEY (id, code, name);
UPDATE t SET other = 'y';
-- Two keys of one type that change places, a partition with other numbers for its columns, and a time that gets a zone.
CREATE TABLE pair (a integer, b integer, at timestamp, secret text, PRIMARY KEY (a, b, at)) PARTITION BY LIST (a);
CREATE TABLE pair_1 (secret text, dropped integer, at timestamp NOT NULL, b integer NOT NULL, a integer NOT NULL);
ALTER TABLE pair_1 DROP dropped;
ALTER TABLE pair ATTACH PARTITION pair_1 FOR VALUES IN (1);
SELECT count(*) > 0 AS protected FROM kms_wrap.kw_protect_column('pair', 'secret');
SELECT relation, key_columns FROM (SELECT relation::regclass::text, key_columns FROM kms_wrap.column_relations) r WHERE relation = 'pair';
INSERT INTO pair VALUES (1, 2, '2026-11-29', 'one');
INSERT INTO pair_1 VALUES ('two', '2026-11-29', 3, 1);
SELECT a, b, secret FROM pair_decrypted ORDER BY b;
DROP VIEW pair_decrypted;
BEGIN;
ALTER TABLE pair DROP CONSTRAINT pair_pkey, ADD PRIMARY KEY (b, a, at);
SELECT try($q$INSERT INTO pair VALUES (1, 4, '2026-11-29', 'x')$q$), try($q$INSERT INTO pair_1 VALUES ('x', '2026-11-29', 4, 1)$q$);
SELECT status, detail FROM kms_wrap.kw_health() WHERE component = 'column' AND name = 'public.pair.secret';
ROLLBACK;
BEGIN;
ALTER TABLE pair ALTER at TYPE timestamptz;
SELECT try($q$INSERT INTO pair VALUES (1, 4, '2026-11-29', 'x')$q$);
ROLLBACK;
INSERT INTO pair VALUES (1, 4, '2026-11-29', 'four');
SELECT count(*) > 0 AS given_back FROM kms_wrap.kw_unprotect_column('pair', 'secret');
SELECT * FROM pair ORDER BY b;
-- What is on record does not survive a restore: then it is what is found first.
UPDATE kms_wrap.column_relations SET key_columns = NULL;
INSERT INTO t VALUES (4, 'd', 'd', 1, 'four', 'x');
SELECT key_columns FROM kms_wrap.column_relations;
DELETE FROM t WHERE id = 4;
-- A look at the table while its key is another one records nothing of that.
DELETE FROM kms_wrap.column_relations;
ALTER TABLE t DROP CONSTRAINT t_pkey, ADD PRIMARY KEY (id, code);
SELECT column_name, has_its_key FROM kms_wrap.kw_column_lookup('t'::regclass);
ALTER TABLE t DROP CONSTRAINT t_pkey, ADD PRIMARY KEY (id, code, name);
UPDATE t SET other = 'z';
SELECT key_columns FROM kms_wrap.column_relations;
-- Other types of the same form, and other names, change nothing.
ALTER TABLE t ALTER id TYPE number, ALTER name TYPE text;
ALTER TABLE t RENAME id TO number;
SELECT status, detail FROM health();
CREATE VIEW t_decrypted AS SELECT number, kms_wrap.kw_open_column_text((SELECT column_uuid FROM kms_wrap.protected_columns), secret, number, code, name, tenant) AS secret FROM t;
INSERT INTO t VALUES (2, 'b', 'b', 1, 'two', 'x');
SELECT * FROM t_decrypted ORDER BY 1;
DROP VIEW t_decrypted;
SELECT count(*) > 0 AS given_back FROM kms_wrap.kw_unprotect_column('t', 'secret');
TABLE t;
