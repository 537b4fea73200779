-- The constraints that mark columns belong to the table's owner, who may put others of their names in their place.
\pset footer off
\set SHOW_CONTEXT never
SELECT kms_wrap.kw_create_root_key(:'testname' || '-a'), kms_wrap.kw_create_root_key(:'testname' || '-b') \g /dev/null
SELECT kms_wrap.kw_add_provider(p, 'local', jsonb_build_object('root_key', :'testname' || '-' || p)) FROM unnest(ARRAY['a', 'b']) p \g /dev/null
SELECT kms_wrap.kw_create_local_key('a', 'a1', 'XAES-256-GCM'), kms_wrap.kw_create_local_key('b', 'b1', 'XAES-256-GCM') \g /dev/null
SELECT kms_wrap.kw_create_policy('default', 'split', min_layers => 0) \g /dev/null
SELECT kms_wrap.kw_policy_add_key('default', 'kms1', 1000), kms_wrap.kw_policy_add_key('default', 'kms2', 1001) \g /dev/null
CREATE TABLE t (id bigint PRIMARY KEY, s text, n bigint, b bytea);
SELECT count(*) > 0 FROM kms_wrap.kw_protect_column('t', 's', blind_index => 'index');
SELECT replace(column_uuid::text, '-', '') AS h FROM kms_wrap.protected_columns \gset
INSERT INTO t VALUES (1, 'one');
-- On a number: not read as a pointer.
ALTER TABLE t DROP CONSTRAINT kw_sealed_:h;
ALTER TABLE t ADD CONSTRAINT kw_sealed_:h CHECK (n IS NULL OR true);
INSERT INTO t VALUES (42, 'x', 42);
SET session_replication_role = replica;
INSERT INTO t VALUES (42, 'x', 42);
RESET session_replication_role;
-- On a column of the other kind.
ALTER TABLE t DROP CONSTRAINT kw_sealed_:h;
ALTER TABLE t ADD CONSTRAINT kw_sealed_:h CHECK (b IS NULL OR true);
INSERT INTO t VALUES (42, 'x', 42, 'x');
ALTER TABLE t DROP CONSTRAINT kw_sealed_:h;
ALTER TABLE t ADD CONSTRAINT kw_sealed_:h CHECK (kms_wrap.kw_is_sealed(s));
-- An index mark on a number counts as none.
ALTER TABLE t DROP CONSTRAINT kw_index_:h;
ALTER TABLE t ADD CONSTRAINT kw_index_:h CHECK (n IS NULL OR true);
INSERT INTO t VALUES (42, 'x', 42);
UPDATE t SET b = 'y';
SELECT id, n, s_bidx IS NULL AS no_entry FROM t ORDER BY id;
SELECT id, s FROM t_decrypted ORDER BY id;
-- A disabled policy encrypts nothing new, and leaves what there is.
UPDATE kms_wrap.encryption_policies SET is_enabled = false;
INSERT INTO t VALUES (43, 'x');
UPDATE t SET n = 7 WHERE id = 1;
SELECT id, s FROM t_decrypted ORDER BY id;
