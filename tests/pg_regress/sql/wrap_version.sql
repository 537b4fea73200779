-- wrap_version starts again after 2^31 - 1 writes, generation goes on; a version that a pair of keys has taken is skipped.
\pset footer off
SELECT kms_wrap.kw_create_root_key(:'testname' || '-a') AS root_a, kms_wrap.kw_create_root_key(:'testname' || '-b') AS root_b \gset
SELECT kms_wrap.kw_add_provider('a', 'local', jsonb_build_object('root_key', :'testname' || '-a')) AS a,
    kms_wrap.kw_add_provider('b', 'local', jsonb_build_object('root_key', :'testname' || '-b')) AS b \gset
SELECT kms_wrap.kw_create_local_key('a', 'a1', 'XAES-256-GCM') AS a1, kms_wrap.kw_create_local_key('a', 'a2', 'XAES-256-GCM') AS a2,
    kms_wrap.kw_create_local_key('b', 'b1', 'XAES-256-GCM') AS b1 \gset
SELECT kms_wrap.kw_create_policy('default', 'split', min_layers => 0) \g /dev/null
SELECT kms_wrap.kw_policy_add_key('default', slot, key, priority) FROM (VALUES ('kms1', :a1, 1), ('kms1', :a2, 0), ('kms2', :b1, 0)) v (slot, key, priority) \g /dev/null

-- The first ones have versions 1, 2 and 3, and 1 of the pair is given up.
SELECT count(kms_wrap.kw_wrap_dek()) FROM generate_series(1, 3) \g /dev/null
DELETE FROM kms_wrap.key_wrappers WHERE wrap_version = 1;

-- Over the end: 2^31 - 2, 2^31 - 1, then 1; 2 and 3 are taken, so 4 and 5.
SELECT setval('kms_wrap.wrapper_generation_seq', 2147483645);
SELECT count(kms_wrap.kw_wrap_dek()) FROM generate_series(1, 5);
SELECT generation, wrap_version, octet_length(kms_wrap.kw_unwrap(wrapper_uuid::uuid)) AS dek_bytes FROM kms_wrap.key_wrappers ORDER BY generation;

-- A rewrap to another pair may have a version that is taken in the first pair, and skips one that is taken in its own.
SELECT setval('kms_wrap.wrapper_generation_seq', 2147483647::bigint * 2);
SELECT kms_wrap.kw_rewrap(wrapper_uuid::uuid, :a2) FROM kms_wrap.key_wrappers WHERE generation = 2;
SELECT setval('kms_wrap.wrapper_generation_seq', 2147483647::bigint * 3);
SELECT kms_wrap.kw_rewrap(wrapper_uuid::uuid, :a2) FROM kms_wrap.key_wrappers WHERE generation = 3;
SELECT k.external_key_ref AS kms1, generation, wrap_version, octet_length(kms_wrap.kw_unwrap(wrapper_uuid::uuid)) AS dek_bytes
FROM kms_wrap.key_wrappers w JOIN kms_wrap.kms_keys k ON k.id = w.kms1_key_id ORDER BY generation;

-- A campaign likewise: a job that drew a version that is taken is tried again by itself.
SELECT setval('kms_wrap.wrapper_generation_seq', 2147483647::bigint * 4);
SELECT kms_wrap.kw_schedule_rewrap(policy => 'default', target_kms1 => :a2) AS c \gset
CALL kms_wrap.kw_run_jobs();
SELECT status, total, done, failed FROM kms_wrap.kw_rewrap_progress WHERE campaign_id = :c;
SELECT count(*) AS wrappers, count(DISTINCT wrap_version) AS versions, bool_and(wrap_version = (generation - 1) % 2147483647 + 1) AS versions_follow, min(octet_length(kms_wrap.kw_unwrap(wrapper_uuid::uuid))) AS dek_bytes
FROM kms_wrap.key_wrappers WHERE kms1_key_id = :a2;

-- Far up: bigint's range is not the limit of anything that will happen.
SELECT setval('kms_wrap.wrapper_generation_seq', 9223372036854775000);
SELECT octet_length(kms_wrap.kw_unwrap(kms_wrap.kw_wrap_dek())) AS dek_bytes;
SELECT max(generation) AS generation FROM kms_wrap.key_wrappers;
