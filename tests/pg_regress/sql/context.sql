-- The context is part of the wrapper: another one doesn't open it.
\pset footer off
SELECT kms_wrap.kw_create_root_key(:'testname' || '-a') AS root_a, kms_wrap.kw_create_root_key(:'testname' || '-b') AS root_b \gset
SELECT kms_wrap.kw_add_provider('a', 'local', jsonb_build_object('root_key', :'testname' || '-a')) AS a,
    kms_wrap.kw_add_provider('b', 'local', jsonb_build_object('root_key', :'testname' || '-b')) AS b \gset
SELECT kms_wrap.kw_create_local_key('a', 'a1', 'XAES-256-GCM') AS a1, kms_wrap.kw_create_local_key('b', 'b1', 'XAES-256-GCM') AS b1,
    kms_wrap.kw_create_local_key('a', 'm1', 'ML-KEM-768') AS m1 \gset
SELECT kms_wrap.kw_create_policy('default', 'split') \g /dev/null
SELECT kms_wrap.kw_policy_add_key('default', slot, key) FROM (VALUES ('kms1', :a1), ('kms2', :b1), ('layer', :m1)) v (slot, key) \g /dev/null

CREATE FUNCTION opens(wrapper uuid, context jsonb) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    RETURN octet_length(kms_wrap.kw_unwrap(wrapper, context)) || ' bytes';
EXCEPTION WHEN OTHERS THEN
    RETURN SQLSTATE || ': ' || SQLERRM;
END
$$;
SELECT kms_wrap.kw_wrap_dek(context => '{"tenant": "7", "field": "diagnosis"}') AS w \gset

-- The same pairs, in whatever order.
SELECT opens(:'w', '{"field": "diagnosis", "tenant": "7"}');
-- Another value, key, number of pairs, type of character, or none.
SELECT c AS context, opens(:'w', c) FROM (VALUES
    ('{}'::jsonb), ('{"tenant": "7"}'), ('{"tenant": "8", "field": "diagnosis"}'), ('{"tenant": "7", "field": "diagnosis", "x": ""}'),
    ('{"Tenant": "7", "field": "diagnosis"}'), ('{"tenant": "7 ", "field": "diagnosis"}'), ('{"tenant": "diagnosis", "field": "7"}'),
    ('{"tenan": "t7", "field": "diagnosis"}')) v (c);
-- A wrapper without context opens with none only.
SELECT kms_wrap.kw_wrap_dek() AS bare \gset
SELECT opens(:'bare', '{}'), opens(:'bare', '{"": ""}') AS opens_with_empty_pair;

-- Text that looks the same to people and isn't: composed and decomposed, and a letter of another script.
SELECT kms_wrap.kw_wrap_dek(context => U&'{"name": "Zo\00eb"}') AS zoe \gset
SELECT opens(:'zoe', U&'{"name": "Zo\00eb"}'), opens(:'zoe', U&'{"name": "Zoe\0308"}') AS decomposed, opens(:'zoe', U&'{"name": "Z\043e\00eb"}') AS cyrillic;

-- The limits are reached: 64 pairs, 1024 bytes a pair, key and value together, counted in bytes.
SELECT jsonb_object_agg('k' || i, i::text) AS full_context FROM generate_series(1, 64) i \gset
SELECT opens(kms_wrap.kw_wrap_dek(context => :'full_context'), :'full_context') AS pairs_64;
SELECT jsonb_build_object('key', repeat('v', 1021)) AS long_context \gset
SELECT opens(kms_wrap.kw_wrap_dek(context => :'long_context'), :'long_context') AS bytes_1024;
SELECT opens(kms_wrap.kw_wrap_dek(context => jsonb_build_object('k', repeat(U&'\20ac', 341))), jsonb_build_object('k', repeat(U&'\20ac', 341)));

-- Only its hash is stored: the words are nowhere in the row.
SELECT count(*) AS rows_with_the_word FROM kms_wrap.key_wrappers w LEFT JOIN kms_wrap.key_wrapper_layers l ON l.key_wrapper_id = w.id
WHERE w::text LIKE '%diagnosis%' OR l::text LIKE '%diagnosis%' OR position('diagnosis'::bytea IN w.dek_wrap1) > 0;
-- Every layer names the same hash.
SELECT count(DISTINCT l.aad ->> 'ctx_sha256') AS contexts, count(*) AS wrappers FROM kms_wrap.key_wrapper_layers l;
