-- Rotation of a column's data key and of its blind index: kw_encrypt_column moves what is there.
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
CREATE TABLE t (id integer PRIMARY KEY, tenant integer NOT NULL, secret text, code bytea);
INSERT INTO t SELECT i, i % 3, 'secret ' || i, decode(lpad(to_hex(i), 4, '0'), 'hex') FROM generate_series(1, 30) i;
INSERT INTO t VALUES (31, 0, NULL, NULL);
SELECT count(*) > 0 AS protected FROM kms_wrap.kw_protect_column('t', 'secret', tenant_column => 'tenant', blind_index => 'index');
SELECT count(*) > 0 AS protected FROM kms_wrap.kw_protect_column('t', 'code');
CALL kms_wrap.kw_encrypt_column('t', 'secret');
CALL kms_wrap.kw_encrypt_column('t', 'code');
-- One data key a tenant, one for the column without tenants, one for the blind index.
CREATE VIEW keys AS SELECT count(DISTINCT kms_wrap.kw_wrapper_of(secret)) AS secret, count(DISTINCT kms_wrap.kw_wrapper_of(code)) AS code, count(DISTINCT get_byte(secret_bidx, 0)) AS generations,
    min(get_byte(secret_bidx, 0)) AS oldest FROM t;
SELECT * FROM keys;
SELECT status, count(*) FROM kms_wrap.key_wrappers WHERE purpose = 'values' GROUP BY 1 ORDER BY 1;

-- A new data key for tenant 1: new values have it, the old ones are moved, those of other tenants stay as they are.
CREATE TABLE before AS SELECT * FROM t;
SELECT kms_wrap.kw_wrapper_of(secret) AS old FROM t WHERE id = 1 \gset
SELECT kms_wrap.kw_rotate_dek(:'old') AS new \gset
INSERT INTO t VALUES (34, 1, 'secret 34', NULL);
SELECT kms_wrap.kw_wrapper_of(secret) = :'new' AS is_new, count(*) FROM t WHERE tenant = 1 GROUP BY 1 ORDER BY 1;
CALL kms_wrap.kw_encrypt_column('t', 'secret', batch_size => 10);
SELECT kms_wrap.kw_wrapper_of(secret) = :'new' AS is_new, count(*) FROM t WHERE tenant = 1 GROUP BY 1 ORDER BY 1;
SELECT count(*) AS untouched FROM before b JOIN t USING (id, tenant, secret, code, secret_bidx) WHERE tenant <> 1;
SELECT count(*) AS opened FROM t_decrypted WHERE secret = 'secret ' || id AND (code IS NULL OR code = decode(lpad(to_hex(id), 4, '0'), 'hex'));
SELECT status, rows_total, rows_done, percent FROM kms_wrap.kw_protected_columns WHERE column_name = 'secret';
CALL kms_wrap.kw_encrypt_column('t', 'secret');
-- Nothing needs the old one any more.
SELECT count(*) FROM t WHERE kms_wrap.kw_wrapper_of(secret) = :'old';
UPDATE kms_wrap.key_wrappers SET status = 'retired' WHERE wrapper_uuid = :'old';
SELECT count(*) AS opened FROM t_decrypted WHERE secret = 'secret ' || id;
-- A column of bytes.
SELECT kms_wrap.kw_rotate_dek(kms_wrap.kw_wrapper_of(code)) IS NOT NULL AS rotated FROM t WHERE id = 1;
CALL kms_wrap.kw_encrypt_column('t', 'code');
SELECT * FROM keys;
SELECT count(*) AS opened FROM t_decrypted WHERE code = decode(lpad(to_hex(id), 4, '0'), 'hex');

-- Another key for the blind index: both generations are found while there are both.
SELECT kms_wrap.kw_rotate_column_index('t', 'secret') AS generation;
SELECT index_generation, index_old_generation FROM kms_wrap.kw_protected_columns WHERE column_name = 'secret';
INSERT INTO t VALUES (37, 1, 'secret 1', NULL);
SELECT generations, oldest FROM keys;
SELECT id FROM t WHERE secret_bidx = ANY (kms_wrap.kw_blind_index('t', 'secret', 'secret 1')) ORDER BY 1;
CALL kms_wrap.kw_encrypt_column('t', 'secret', batch_size => 10);
SELECT generations, oldest FROM keys;
SELECT index_generation, index_old_generation FROM kms_wrap.kw_protected_columns WHERE column_name = 'secret';
SELECT id FROM t WHERE secret_bidx = ANY (kms_wrap.kw_blind_index('t', 'secret', 'secret 1')) ORDER BY 1;
-- In a sub-select it is the view's index condition, and a prepared statement keeps its plan.
SET enable_seqscan = off;
SET enable_bitmapscan = off;
PREPARE found(text) AS SELECT id, secret FROM t_decrypted WHERE secret_bidx = ANY ((SELECT kms_wrap.kw_blind_index('t', 'secret', $1))::bytea[]) ORDER BY id;
CREATE FUNCTION index_conditions(statement text) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    line text;
    n bigint := 0;
BEGIN
    FOR line IN EXECUTE 'EXPLAIN ' || statement LOOP
        n := n + (line LIKE '%Index Cond: (secret_bidx = ANY (%')::integer;
    END LOOP;
    RETURN n;
END
$$;
SELECT index_conditions('EXECUTE found(''secret 1'')');
SELECT format('EXECUTE found(%L)', 'secret ' || n) FROM generate_series(1, 7) n \gexec
SELECT generic_plans > 0 AS is_kept FROM pg_prepared_statements WHERE name = 'found';
DEALLOCATE found;
RESET enable_seqscan;
RESET enable_bitmapscan;
CALL kms_wrap.kw_encrypt_column('t', 'secret');
-- A rotation ends also where every row was changed meanwhile.
SELECT kms_wrap.kw_rotate_column_index('t', 'secret') AS generation;
UPDATE t SET tenant = tenant;
SELECT generations, oldest FROM keys;
SELECT kms_wrap.kw_rotate_column_index('t', 'secret') AS generation;
CALL kms_wrap.kw_encrypt_column('t', 'secret');
SELECT index_generation, index_old_generation FROM kms_wrap.kw_protected_columns WHERE column_name = 'secret';
-- Settled too early, it is ended by the next call all the same.
SELECT kms_wrap.kw_rotate_column_index('t', 'secret') AS generation;
SELECT kms_wrap.kw_column_settle_index('t', 'secret');
CALL kms_wrap.kw_encrypt_column('t', 'secret');
SELECT generations, oldest FROM keys;
-- Updates that change nothing come to an end: under a disabled policy none is tried, and a trigger that takes them back is noticed.
SELECT kms_wrap.kw_rotate_dek(kms_wrap.kw_wrapper_of(secret)) IS NOT NULL AS rotated FROM t WHERE tenant = 2 LIMIT 1;
UPDATE kms_wrap.encryption_policies SET is_enabled = false;
CALL kms_wrap.kw_encrypt_column('t', 'secret');
UPDATE kms_wrap.encryption_policies SET is_enabled = true;
CREATE FUNCTION put_back() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.secret := OLD.secret; RETURN NEW; END $$;
CREATE TRIGGER zzzz BEFORE UPDATE ON t FOR EACH ROW EXECUTE FUNCTION put_back();
\set VERBOSITY terse
CALL kms_wrap.kw_encrypt_column('t', 'secret');
\set VERBOSITY default
DROP TRIGGER zzzz ON t;
CALL kms_wrap.kw_encrypt_column('t', 'secret');
-- Back, from under three data keys.
DROP VIEW keys;
SELECT count(*) > 0 AS given_back FROM kms_wrap.kw_unprotect_column('t', 'secret');
SELECT count(*) AS same FROM t WHERE secret = 'secret ' || id;
