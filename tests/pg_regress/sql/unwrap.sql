-- kw_unwrap: which wrappers open, and that opening changes nothing.
\pset footer off
\pset null '-'
SELECT kms_wrap.kw_create_root_key(:'testname' || '-a') AS root_a, kms_wrap.kw_create_root_key(:'testname' || '-b') AS root_b \gset
SELECT kms_wrap.kw_add_provider('a', 'local', jsonb_build_object('root_key', :'testname' || '-a')) AS a,
    kms_wrap.kw_add_provider('b', 'local', jsonb_build_object('root_key', :'testname' || '-b')) AS b \gset
SELECT kms_wrap.kw_create_local_key('a', 'a1', 'XAES-256-GCM') AS a1, kms_wrap.kw_create_local_key('b', 'b1', 'XAES-256-GCM') AS b1,
    kms_wrap.kw_create_local_key('a', 'm1', 'ML-KEM-768') AS m1 \gset
SELECT kms_wrap.kw_create_policy('default', 'split') \g /dev/null
SELECT kms_wrap.kw_policy_add_key('default', slot, key) FROM (VALUES ('kms1', :a1), ('kms2', :b1), ('layer', :m1)) v (slot, key) \g /dev/null
PREPARE import (bytea) AS SELECT kms_wrap.kw_wrap_dek(dek => $1) AS w;
EXECUTE import ('\x000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f') \gset
SELECT md5(w::text) AS before FROM kms_wrap.key_wrappers w \gset

SELECT kms_wrap.kw_unwrap(:'w');
SELECT kms_wrap.kw_unwrap(wrapper => :'w', context => '{}');
-- As often as one likes, in another session, and after everything was forgotten.
SELECT count(DISTINCT kms_wrap.kw_unwrap(:'w')) AS deks FROM generate_series(1, 20);
DISCARD ALL;
SELECT kms_wrap.kw_unwrap(:'w');
\c
SELECT kms_wrap.kw_unwrap(:'w');
-- In a read-only transaction, a serializable one and a function.
BEGIN READ ONLY;
SELECT octet_length(kms_wrap.kw_unwrap(:'w')) AS bytes;
COMMIT;
BEGIN ISOLATION LEVEL SERIALIZABLE;
SELECT octet_length(kms_wrap.kw_unwrap(:'w')) AS bytes;
COMMIT;
CREATE FUNCTION open(w uuid) RETURNS integer LANGUAGE plpgsql STABLE AS $$ BEGIN RETURN octet_length(kms_wrap.kw_unwrap(w)); END $$;
SELECT open(:'w') AS bytes;
-- NULL in a set is an error, not a NULL that passes for a key.
SELECT kms_wrap.kw_unwrap(u) FROM (VALUES (:'w'::uuid), (NULL)) v (u);
\echo :LAST_ERROR_SQLSTATE
SELECT md5(w::text) = :'before' AS unchanged FROM kms_wrap.key_wrappers w;

-- Status: rotated opens, retired not until it is rotated again, invalid never.
UPDATE kms_wrap.key_wrappers SET status = 'rotated';
SELECT octet_length(kms_wrap.kw_unwrap(:'w')) AS bytes;
UPDATE kms_wrap.key_wrappers SET status = 'retired';
DO $$
BEGIN
    PERFORM kms_wrap.kw_unwrap(wrapper_uuid::uuid) FROM kms_wrap.key_wrappers;
EXCEPTION WHEN OTHERS THEN
    -- The uuid differs from run to run.
    RAISE NOTICE '%: %', SQLSTATE, regexp_replace(SQLERRM, '[0-9a-f-]{36}', '<uuid>');
END
$$;
UPDATE kms_wrap.key_wrappers SET status = 'rotated';
SELECT octet_length(kms_wrap.kw_unwrap(:'w')) AS bytes;
UPDATE kms_wrap.key_wrappers SET status = 'invalid';
DO $$
BEGIN
    PERFORM kms_wrap.kw_unwrap(wrapper_uuid::uuid) FROM kms_wrap.key_wrappers;
EXCEPTION WHEN OTHERS THEN
    RAISE NOTICE '%: %', SQLSTATE, regexp_replace(SQLERRM, '[0-9a-f-]{36}', '<uuid>');
END
$$;

-- No such wrapper.
SELECT kms_wrap.kw_unwrap('00000000-0000-7000-8000-000000000000');
\echo :LAST_ERROR_SQLSTATE
