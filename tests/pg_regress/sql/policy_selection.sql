-- Which of a policy's keys a new wrapper gets.
\pset footer off
SELECT kms_wrap.kw_create_root_key(:'testname' || '-a') AS root_a, kms_wrap.kw_create_root_key(:'testname' || '-b') AS root_b \gset
SELECT kms_wrap.kw_add_provider('a', 'local', jsonb_build_object('root_key', :'testname' || '-a')) AS a,
    kms_wrap.kw_add_provider('b', 'local', jsonb_build_object('root_key', :'testname' || '-b')) AS b \gset
SELECT kms_wrap.kw_create_local_key('a', 'a1', 'XAES-256-GCM') AS a1, kms_wrap.kw_create_local_key('a', 'a2', 'XAES-256-GCM') AS a2,
    kms_wrap.kw_create_local_key('a', 'a3', 'XAES-256-GCM') AS a3, kms_wrap.kw_create_local_key('b', 'b1', 'XAES-256-GCM') AS b1,
    kms_wrap.kw_create_local_key('b', 'm1', 'ML-KEM-768') AS m1, kms_wrap.kw_create_local_key('b', 'm2', 'ML-KEM-768') AS m2,
    kms_wrap.kw_create_local_key('b', 'm3', 'ML-KEM-768') AS m3 \gset
-- One policy a selection, over the same keys. Two kms1 keys of priority 5, one weighing 3 times the other; one of priority 0.
SELECT kms_wrap.kw_create_policy(s, 'split', min_layers => 1, max_layers => 2, layer_selection => s)
FROM unnest('{defined,round_robin,random,hash_mod}'::text[]) s \g /dev/null
SELECT kms_wrap.kw_policy_add_key(s, slot, key, priority, weight)
FROM unnest('{defined,round_robin,random,hash_mod}'::text[]) s,
    (VALUES ('kms1', :a1, 5, 1), ('kms1', :a2, 5, 3), ('kms1', :a3, 0, 9), ('kms2', :b1, 0, 1),
            ('layer', :m1, 1, 1), ('layer', :m2, 1, 1), ('layer', :m3, 0, 1)) v (slot, key, priority, weight) \g /dev/null

-- What the wrappers of a policy got: kms1, kms2 and layers by name, and how many wrappers.
CREATE FUNCTION got(policy text) RETURNS TABLE (kms1 text, kms2 text, layers text, wrappers bigint) LANGUAGE sql AS $$
    SELECT k1.external_key_ref, k2.external_key_ref, l.layers, count(*)
    FROM kms_wrap.key_wrappers w
    JOIN kms_wrap.encryption_policies p ON p.id = w.policy_id AND p.policy_name = policy
    JOIN kms_wrap.kms_keys k1 ON k1.id = w.kms1_key_id
    JOIN kms_wrap.kms_keys k2 ON k2.id = w.kms2_key_id
    CROSS JOIN LATERAL (
        SELECT string_agg(k.external_key_ref, ' ' ORDER BY l.layer_no) AS layers
        FROM kms_wrap.key_wrapper_layers l JOIN kms_wrap.kms_keys k ON k.id = l.kms_key_id WHERE l.key_wrapper_id = w.id) l
    GROUP BY 1, 2, 3 ORDER BY 1, 2, 3
$$;

-- defined: the highest priority, then the heaviest, then the oldest; always the same.
SELECT count(kms_wrap.kw_wrap_dek('defined')) FROM generate_series(1, 20) \g /dev/null
SELECT * FROM got('defined');

-- round_robin: in turn, as often as the weight says. A session begins somewhere, so multiples of the weights' sum are exact.
SELECT count(kms_wrap.kw_wrap_dek('round_robin')) FROM generate_series(1, 40) \g /dev/null
SELECT kms1, sum(wrappers) AS wrappers FROM got('round_robin') GROUP BY kms1 ORDER BY kms1;
SELECT layers, sum(wrappers) AS wrappers FROM got('round_robin') GROUP BY layers ORDER BY layers;

-- random: in proportion to weight; 3 of 4 on average. Limits at more than 6 standard deviations.
SELECT count(kms_wrap.kw_wrap_dek('random')) FROM generate_series(1, 400) \g /dev/null
SELECT kms1, sum(wrappers) BETWEEN CASE kms1 WHEN 'a1' THEN 45 ELSE 245 END AND CASE kms1 WHEN 'a1' THEN 155 ELSE 355 END AS about_right
FROM got('random') GROUP BY kms1 ORDER BY kms1;

-- hash_mod: one context, one choice; many contexts spread.
SELECT count(kms_wrap.kw_wrap_dek('hash_mod', context => '{"tenant": "7"}')) FROM generate_series(1, 20) \g /dev/null
SELECT * FROM got('hash_mod');
DELETE FROM kms_wrap.key_wrappers;
SELECT count(kms_wrap.kw_wrap_dek('hash_mod', context => jsonb_build_object('tenant', t::text))) FROM generate_series(1, 400) t \g /dev/null
SELECT kms1, sum(wrappers) BETWEEN CASE kms1 WHEN 'a1' THEN 45 ELSE 245 END AND CASE kms1 WHEN 'a1' THEN 155 ELSE 355 END AS about_right
FROM got('hash_mod') GROUP BY kms1 ORDER BY kms1;
-- Without a context the wrapper's own uuid spreads.
DELETE FROM kms_wrap.key_wrappers;
SELECT count(kms_wrap.kw_wrap_dek('hash_mod')) FROM generate_series(1, 400) \g /dev/null
SELECT kms1, sum(wrappers) BETWEEN CASE kms1 WHEN 'a1' THEN 45 ELSE 245 END AND CASE kms1 WHEN 'a1' THEN 155 ELSE 355 END AS about_right
FROM got('hash_mod') GROUP BY kms1 ORDER BY kms1;
DELETE FROM kms_wrap.key_wrappers;

-- A key out of use is skipped: the next of its priority, then the next priority.
SELECT kms_wrap.kw_set_key_status(:a2, 'disabled') \g /dev/null
SELECT kms_wrap.kw_set_key_status(:m1, 'retired') \g /dev/null
SELECT kms_wrap.kw_wrap_dek('defined') \g /dev/null
SELECT * FROM got('defined');
SELECT kms_wrap.kw_set_key_status(:a1, 'retired') \g /dev/null
SELECT kms_wrap.kw_set_key_status(:m2, 'compromised') \g /dev/null
SELECT kms_wrap.kw_wrap_dek('defined') \g /dev/null
SELECT * FROM got('defined');
SELECT kms_wrap.kw_set_key_status(:a2, 'active') \g /dev/null
SELECT kms_wrap.kw_wrap_dek('defined') \g /dev/null
SELECT * FROM got('defined');
DELETE FROM kms_wrap.key_wrappers;

-- No key left: the error names the slot, and nothing is stored.
SELECT kms_wrap.kw_set_key_status(:m3, 'disabled') \g /dev/null
SELECT kms_wrap.kw_wrap_dek('defined');
\echo :LAST_ERROR_SQLSTATE
SELECT kms_wrap.kw_set_key_status(:b1, 'retired') \g /dev/null
SELECT kms_wrap.kw_wrap_dek('defined');
SELECT kms_wrap.kw_set_key_status(key, 'disabled') FROM unnest(ARRAY[:a1, :a2, :a3]) key \g /dev/null
SELECT kms_wrap.kw_wrap_dek('defined');
SELECT kms_wrap.kw_set_key_status(key, 'active') FROM unnest(ARRAY[:a1, :a2, :a3, :b1, :m1, :m3]) key \g /dev/null

-- A disabled provider takes all its keys along, a suspended one until its time.
UPDATE kms_wrap.kms_providers SET is_enabled = false WHERE name = 'a';
SELECT kms_wrap.kw_wrap_dek('defined');
\echo :LAST_ERROR_SQLSTATE
UPDATE kms_wrap.kms_providers SET is_enabled = true, suspended_until = now() + interval '1 hour' WHERE name = 'a';
SELECT kms_wrap.kw_wrap_dek('defined');
\echo :LAST_ERROR_SQLSTATE
UPDATE kms_wrap.kms_providers SET suspended_until = now() - interval '1 second' WHERE name = 'a';
SELECT kms_wrap.kw_wrap_dek('defined') \g /dev/null
SELECT * FROM got('defined');
-- A suspended provider still opens what it has wrapped.
UPDATE kms_wrap.kms_providers SET suspended_until = now() + interval '1 hour';
SELECT octet_length(kms_wrap.kw_unwrap(wrapper_uuid::uuid)) AS dek_bytes FROM kms_wrap.key_wrappers;
UPDATE kms_wrap.kms_providers SET suspended_until = NULL;

-- A key that is only for values wraps nothing.
UPDATE kms_wrap.kms_keys SET purpose = 'encrypt' WHERE external_key_ref = 'b1';
SELECT kms_wrap.kw_wrap_dek('defined');
UPDATE kms_wrap.kms_keys SET purpose = 'both' WHERE external_key_ref = 'b1';
SELECT count(kms_wrap.kw_wrap_dek('defined')) AS wrapped;

-- min_layers and max_layers: as many layers as there are usable keys, within them.
SELECT kms_wrap.kw_create_policy('layers', 'split', min_layers => 0, max_layers => 3) \g /dev/null
SELECT kms_wrap.kw_policy_add_key('layers', 'kms1', :a1), kms_wrap.kw_policy_add_key('layers', 'kms2', :b1) \g /dev/null
SELECT kms_wrap.kw_wrap_dek('layers') \g /dev/null
SELECT kms_wrap.kw_policy_add_key('layers', 'layer', :m1) \g /dev/null
SELECT kms_wrap.kw_wrap_dek('layers') \g /dev/null
SELECT kms_wrap.kw_policy_add_key('layers', 'layer', :m3) \g /dev/null
SELECT kms_wrap.kw_wrap_dek('layers') \g /dev/null
SELECT * FROM got('layers');
UPDATE kms_wrap.encryption_policies SET min_layers = 3 WHERE policy_name = 'layers';
SELECT kms_wrap.kw_wrap_dek('layers');
\echo :LAST_ERROR_SQLSTATE

-- A disabled policy makes nothing; its wrappers open.
UPDATE kms_wrap.encryption_policies SET is_enabled = false WHERE policy_name = 'defined';
SELECT kms_wrap.kw_wrap_dek('defined');
\echo :LAST_ERROR_SQLSTATE
SELECT count(kms_wrap.kw_unwrap(wrapper_uuid::uuid)) AS opened FROM kms_wrap.key_wrappers;
