-- Values of more transactions than a session keeps message keys for: each has a nonce prefix of its own, and all open in any order.
\pset footer off
\set SHOW_CONTEXT never
SELECT kms_wrap.kw_create_root_key(:'testname' || '-a') AS root_a, kms_wrap.kw_create_root_key(:'testname' || '-b') AS root_b \gset
SELECT kms_wrap.kw_add_provider('a', 'local', jsonb_build_object('root_key', :'testname' || '-a')) AS a,
    kms_wrap.kw_add_provider('b', 'local', jsonb_build_object('root_key', :'testname' || '-b')) AS b \gset
SELECT kms_wrap.kw_create_local_key('a', 'a1', 'XAES-256-GCM') AS a1, kms_wrap.kw_create_local_key('b', 'b1', 'XAES-256-GCM') AS b1 \gset
SELECT kms_wrap.kw_create_policy('default', 'split', min_layers => 0) \g /dev/null
SELECT kms_wrap.kw_policy_add_key('default', slot, key) FROM (VALUES ('kms1', :a1), ('kms2', :b1)) v (slot, key) \g /dev/null
CREATE TABLE v (n integer PRIMARY KEY, x bytea);
CREATE PROCEDURE write_alone(count integer) LANGUAGE plpgsql AS $$
BEGIN
    FOR i IN 1 .. count LOOP
        INSERT INTO v VALUES (i, kms_wrap.kw_encrypt(int4send(i)));
        COMMIT;
    END LOOP;
END
$$;
CALL write_alone(200);
-- Under one DEK, which bytes 5 to 20 name.
SELECT count(DISTINCT substr(x, 5, 16)) AS deks, count(DISTINCT substr(x, 21, 12)) AS prefixes FROM v;
CREATE FUNCTION opened(keys integer[]) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    k integer;
    sealed bytea;
    found bigint := 0;
BEGIN
    FOREACH k IN ARRAY keys LOOP
        SELECT x INTO STRICT sealed FROM v WHERE n = k;
        found := found + (kms_wrap.kw_decrypt(sealed) = int4send(k))::integer;
    END LOOP;
    RETURN found;
END
$$;
-- As written twice over, backwards, to and fro between old and new, one of them again and again, and in no order.
SELECT opened(array_agg(1 + i % 200 ORDER BY i)) AS forth FROM generate_series(0, 399) i;
SELECT opened(array_agg(200 - i % 200 ORDER BY i)) AS back FROM generate_series(0, 399) i;
SELECT opened(array_agg(CASE WHEN i % 2 = 0 THEN 1 + i % 200 ELSE 200 - i % 200 END ORDER BY i)) AS to_and_fro FROM generate_series(0, 399) i;
SELECT opened(array_agg(CASE WHEN i % 2 = 0 THEN 7 ELSE 1 + i % 200 END ORDER BY i)) AS one_again FROM generate_series(0, 399) i;
SELECT opened(array_agg(1 + (i * 7919) % 200 ORDER BY md5(i::text))) AS in_no_order FROM generate_series(0, 399) i;
