-- Wrong arguments: the SQLSTATE, the argument and the limit are said, and nothing changes.
\pset footer off
\pset null '-'
SELECT kms_wrap.kw_create_root_key(:'testname' || '-a') AS root_a, kms_wrap.kw_create_root_key(:'testname' || '-b') AS root_b \gset
SELECT kms_wrap.kw_add_provider('a', 'local', jsonb_build_object('root_key', :'testname' || '-a')) AS a,
    kms_wrap.kw_add_provider('b', 'local', jsonb_build_object('root_key', :'testname' || '-b')) AS b \gset
-- How a statement ends. What differs from run to run is replaced.
CREATE FUNCTION try(statement text) RETURNS SETOF text LANGUAGE plpgsql AS $$
DECLARE
    message text;
    detail text;
    hint text;
    line text;
BEGIN
    EXECUTE statement;
    RETURN NEXT 'accepted';
EXCEPTION WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS message = MESSAGE_TEXT, detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
    FOREACH line IN ARRAY ARRAY[SQLSTATE || ': ' || message, 'DETAIL: ' || nullif(detail, ''), 'HINT: ' || nullif(hint, '')] LOOP
        line := regexp_replace(line, '[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}', '<uuid>', 'g');
        line := regexp_replace(line, '\y[0-9a-f]{32}\y', '<fingerprint>', 'g');
        line := regexp_replace(line, 'Failing row contains .*', 'Failing row contains ...');
        line := regexp_replace(line, '/[^" ]*\.kms_wrap', '<key directory>', 'g');
        IF line IS NOT NULL THEN
            RETURN NEXT line;
        END IF;
    END LOOP;
END
$$;
\pset tuples_only
\pset format unaligned
SELECT kms_wrap.kw_create_local_key('a', 'a1', 'XAES-256-GCM') AS a1, kms_wrap.kw_create_local_key('a', 'a2', 'XAES-256-GCM') AS a2,
    kms_wrap.kw_create_local_key('b', 'b1', 'XAES-256-GCM') AS b1, kms_wrap.kw_create_local_key('b', 'b2', 'XAES-256-GCM') AS b2,
    kms_wrap.kw_create_local_key('b', 'm1', 'ML-KEM-768') AS m1, kms_wrap.kw_create_local_key('b', 'm2', 'ML-KEM-768') AS m2, kms_wrap.kw_create_local_key('b', 'x1', 'X-Wing') AS x1,
    kms_wrap.kw_create_local_key('a', 'elsewhere', 'XAES-256-GCM') AS elsewhere \gset
SELECT kms_wrap.kw_create_policy('default', 'split', max_layers => 1) \g /dev/null
SELECT kms_wrap.kw_policy_add_key('default', slot, key, priority)
FROM (VALUES ('kms1', :a1, 1), ('kms1', :a2, 0), ('kms2', :b1, 1), ('kms2', :b2, 0), ('layer', :m1, 2), ('layer', :m2, 1), ('layer', :x1, 0)) v (slot, key, priority) \g /dev/null
SELECT kms_wrap.kw_wrap_dek() AS w \gset
-- A sum of everything that a call could have changed; sequences may move on.
CREATE VIEW everything AS
SELECT md5(concat((SELECT string_agg(t::text, '' ORDER BY t::text) FROM kms_wrap.kms_providers t), (SELECT string_agg(t::text, '' ORDER BY t::text) FROM kms_wrap.provider_config t),
    (SELECT string_agg(t::text, '' ORDER BY t::text) FROM kms_wrap.kms_keys t), (SELECT string_agg(t::text, '' ORDER BY t::text) FROM kms_wrap.sym_key t), (SELECT string_agg(t::text, '' ORDER BY t::text) FROM kms_wrap.asym_key t),
    (SELECT string_agg(t::text, '' ORDER BY t::text) FROM kms_wrap.encryption_policies t), (SELECT string_agg(t::text, '' ORDER BY t::text) FROM kms_wrap.policy_kms_keys t),
    (SELECT string_agg(t::text, '' ORDER BY t::text) FROM kms_wrap.key_wrappers t), (SELECT string_agg(t::text, '' ORDER BY t::text) FROM kms_wrap.key_wrapper_layers t),
    (SELECT string_agg(t::text, '' ORDER BY t::text) FROM kms_wrap.rewrap_campaigns t), (SELECT string_agg(t::text, '' ORDER BY t::text) FROM kms_wrap.rewrap_jobs t)));
CREATE TABLE before AS SELECT * FROM everything;

-- kw_wrap_dek: policy
SELECT try('SELECT kms_wrap.kw_wrap_dek(NULL)');
SELECT try('SELECT kms_wrap.kw_wrap_dek($$$$)');
SELECT try('SELECT kms_wrap.kw_wrap_dek($$nope$$)');
-- kw_wrap_dek: dek, of 0, 15, 31, 33 and a million bytes
PREPARE import (bytea) AS SELECT kms_wrap.kw_wrap_dek(dek => $1);
EXECUTE import ('');
\echo :LAST_ERROR_SQLSTATE
EXECUTE import (decode(repeat('00', 15), 'hex'));
\echo :LAST_ERROR_SQLSTATE
EXECUTE import (decode(repeat('00', 31), 'hex'));
\echo :LAST_ERROR_SQLSTATE
EXECUTE import (decode(repeat('00', 33), 'hex'));
\echo :LAST_ERROR_SQLSTATE
EXECUTE import (decode(repeat('00', 1000000), 'hex'));
\echo :LAST_ERROR_SQLSTATE
-- kw_wrap_dek and kw_unwrap: context
CREATE TABLE contexts (n serial, what text, context jsonb);
INSERT INTO contexts (what, context) VALUES ('NULL', NULL), ('array', '[]'), ('string', '"x"'), ('number', '1'), ('null', 'null'), ('nested', '{"a": {"b": "c"}}'), ('array inside', '{"a": ["b"]}'),
    ('number inside', '{"a": 1}'), ('true inside', '{"a": true}'), ('null inside', '{"a": null}');
INSERT INTO contexts (what, context) SELECT '65 pairs', jsonb_object_agg('k' || i, '') FROM generate_series(1, 65) i;
INSERT INTO contexts (what, context) VALUES ('1025 bytes in a value', jsonb_build_object('k', repeat('v', 1024))), ('1025 bytes in a key', jsonb_build_object(repeat('k', 1025), '')),
    ('1025 bytes, fewer characters', jsonb_build_object('kk', repeat('€', 341)));
SELECT what, try(format('SELECT kms_wrap.kw_wrap_dek(context => %L)', context)) FROM contexts ORDER BY n;
SELECT what, try(format('SELECT kms_wrap.kw_unwrap(%L, %L)', :'w', context)) FROM contexts ORDER BY n;
-- kw_unwrap: wrapper
SELECT try('SELECT kms_wrap.kw_unwrap(NULL)');
SELECT try('SELECT kms_wrap.kw_unwrap($$00000000-0000-0000-0000-000000000000$$)');
SELECT try('SELECT kms_wrap.kw_unwrap($$no uuid$$)');

-- kw_create_policy
SELECT try('SELECT kms_wrap.kw_create_policy(NULL, $$split$$)');
SELECT try('SELECT kms_wrap.kw_create_policy($$$$, $$split$$)');
SELECT try('SELECT kms_wrap.kw_create_policy(repeat($$x$$, 101), $$split$$)');
SELECT try('SELECT kms_wrap.kw_create_policy($$default$$, $$split$$)');
SELECT try('SELECT kms_wrap.kw_create_policy($$new$$, NULL)');
SELECT try('SELECT kms_wrap.kw_create_policy($$new$$, $$both$$)');
SELECT try('SELECT kms_wrap.kw_create_policy($$new$$, $$split$$, min_layers => -1)');
SELECT try('SELECT kms_wrap.kw_create_policy($$new$$, $$split$$, max_layers => 33)');
SELECT try('SELECT kms_wrap.kw_create_policy($$new$$, $$split$$, min_layers => 33, max_layers => 33)');
SELECT try('SELECT kms_wrap.kw_create_policy($$new$$, $$split$$, max_layers => 1000000)');
SELECT try('SELECT kms_wrap.kw_create_policy($$new$$, $$split$$, min_layers => 2, max_layers => 1)');
SELECT try('SELECT kms_wrap.kw_create_policy($$new$$, $$split$$, min_layers => NULL)');
SELECT try('SELECT kms_wrap.kw_create_policy($$new$$, $$split$$, layer_selection => $$best$$)');
SELECT try('SELECT kms_wrap.kw_create_policy($$new$$, $$split$$, mode => $$all$$)');
SELECT try('SELECT kms_wrap.kw_create_policy($$new$$, $$split$$, min_nist_level => 0)');
SELECT try('SELECT kms_wrap.kw_create_policy($$new$$, $$split$$, min_nist_level => 6)');
SELECT try('SELECT kms_wrap.kw_create_policy($$new$$, $$split$$, require_origin => NULL)');
SELECT try('SELECT kms_wrap.kw_create_policy($$new$$, $$split$$, allow_same_trust_domain => NULL)');

-- kw_policy_add_key and kw_policy_remove_key
SELECT try(format('SELECT kms_wrap.kw_policy_add_key(NULL, %L, %s)', 'kms1', :elsewhere));
SELECT try(format('SELECT kms_wrap.kw_policy_add_key(%L, NULL, %s)', 'default', :elsewhere));
SELECT try('SELECT kms_wrap.kw_policy_add_key($$default$$, $$kms1$$, NULL)');
SELECT try(format('SELECT kms_wrap.kw_policy_add_key(%L, %L, %s)', 'nope', 'kms1', :elsewhere));
SELECT try(format('SELECT kms_wrap.kw_policy_add_key(%L, %L, %s)', 'default', 'kms3', :elsewhere));
SELECT try('SELECT kms_wrap.kw_policy_add_key($$default$$, $$kms1$$, 1)');
SELECT try(format('SELECT kms_wrap.kw_policy_add_key(%L, %L, %s, weight => 0)', 'default', 'kms1', :elsewhere));
SELECT try(format('SELECT kms_wrap.kw_policy_add_key(%L, %L, %s, weight => NULL)', 'default', 'kms1', :elsewhere));
SELECT try(format('SELECT kms_wrap.kw_policy_add_key(%L, %L, %s, priority => NULL)', 'default', 'kms1', :elsewhere));
SELECT try(format('SELECT kms_wrap.kw_policy_add_key(%L, %L, %s)', 'default', 'layer', :elsewhere));
SELECT try(format('SELECT kms_wrap.kw_policy_add_key(%L, %L, %s)', 'default', 'kms2', :m1));
-- The same key for kms1 and kms2.
SELECT try(format('SELECT kms_wrap.kw_policy_add_key(%L, %L, %s)', 'default', 'kms2', :a1));
SELECT try(format('SELECT kms_wrap.kw_policy_remove_key(%L, %s)', 'default', :elsewhere));
SELECT try('SELECT kms_wrap.kw_policy_remove_key($$default$$, NULL)');
SELECT try(format('SELECT kms_wrap.kw_policy_remove_key(%L, %s)', 'nope', :a1));
-- A signature algorithm as a layer: a key of one can be registered by hand only, and is not one that a policy takes.
INSERT INTO kms_wrap.crypto_algorithms (class, name, nist_level) VALUES ('sig', 'ML-DSA-65', 3);
SELECT try('SELECT kms_wrap.kw_create_local_key($$a$$, $$signer$$, $$ML-DSA-65$$)');
SELECT try('INSERT INTO kms_wrap.key_wrapper_layers (key_wrapper_id, layer_no, kem_algo_id, kem_ciphertext) SELECT 1000, 2, id, $$x$$ FROM kms_wrap.crypto_algorithms WHERE class = $$sig$$');
BEGIN;
INSERT INTO kms_wrap.kms_keys (provider_id, external_key_ref, algorithm) SELECT id, 'signer', 'ML-DSA-65' FROM kms_wrap.kms_providers WHERE name = 'a';
SELECT try(format('SELECT kms_wrap.kw_policy_add_key(%L, %L, %s)', 'default', 'layer', id)) FROM kms_wrap.kms_keys WHERE external_key_ref = 'signer';
SELECT try(format('SELECT kms_wrap.kw_rewrap(%L, target_layers => %L)', :'w', jsonb_build_object('1', id))) FROM kms_wrap.kms_keys WHERE external_key_ref = 'signer';
ROLLBACK;
-- The 33rd layer.
SELECT try('INSERT INTO kms_wrap.key_wrapper_layers (key_wrapper_id, layer_no, kem_algo_id, kem_ciphertext) VALUES (1000, 33, 1, $$x$$)');

-- kw_rewrap
SELECT try(format('SELECT kms_wrap.kw_rewrap(NULL, %s)', :a2));
SELECT try(format('SELECT kms_wrap.kw_rewrap(%L)', :'w'));
SELECT try(format('SELECT kms_wrap.kw_rewrap(%L, %s)', '00000000-0000-0000-0000-000000000000', :a2));
SELECT try(format('SELECT kms_wrap.kw_rewrap(%L, 1)', :'w'));
SELECT try(format('SELECT kms_wrap.kw_rewrap(%L, %s)', :'w', :elsewhere));
SELECT try(format('SELECT kms_wrap.kw_rewrap(%L, %s)', :'w', :b2));
SELECT try(format('SELECT kms_wrap.kw_rewrap(%L, %s, %s)', :'w', :a2, :a2));
SELECT try(format('SELECT kms_wrap.kw_rewrap(%L, %s)', :'w', :m2));
SELECT try(format('SELECT kms_wrap.kw_rewrap(%L, target_layers => %L)', :'w', jsonb_build_object('1', :a2)));
-- Another class is a reseal.
SELECT try(format('SELECT kms_wrap.kw_rewrap(%L, target_layers => %L)', :'w', jsonb_build_object('1', :x1)));
SELECT try(format('SELECT kms_wrap.kw_rewrap(%L, target_layers => %L)', :'w', jsonb_build_object('2', :m2)));
SELECT t, try(format('SELECT kms_wrap.kw_rewrap(%L, target_layers => %L)', :'w', t))
FROM unnest(ARRAY['{}', '[]', '7', '{"0": 1004}', '{"33": 1004}', '{"01": 1004}', '{"x": 1004}', '{"1": "1004"}', '{"1": null}', '{"1": 1.5}', '{"1": 1e30}', '{"-1": 1004}']::jsonb[]) t;

-- kw_schedule_rewrap
SELECT try(format('SELECT kms_wrap.kw_schedule_rewrap(target_kms1 => %s)', :a2));
SELECT try('SELECT kms_wrap.kw_schedule_rewrap(policy => $$default$$)');
SELECT try(format('SELECT kms_wrap.kw_schedule_rewrap(policy => %L, target_kms1 => %s)', 'nope', :a2));
SELECT try(format('SELECT kms_wrap.kw_schedule_rewrap(policy => %L, target_kms1 => %s)', '', :a2));
SELECT try(format('SELECT kms_wrap.kw_schedule_rewrap(from_key => 1, target_kms1 => %s)', :a2));
SELECT try(format('SELECT kms_wrap.kw_schedule_rewrap(from_provider => %L, target_kms1 => %s)', 'nope', :a2));
SELECT try(format('SELECT kms_wrap.kw_schedule_rewrap(wrapper => %L, target_kms1 => %s)', '00000000-0000-0000-0000-000000000000', :a2));
SELECT try('SELECT kms_wrap.kw_schedule_rewrap(policy => $$default$$, target_kms1 => 1)');
SELECT try(format('SELECT kms_wrap.kw_schedule_rewrap(policy => %L, target_kms1 => %s)', 'default', :m2));
SELECT try(format('SELECT kms_wrap.kw_schedule_rewrap(policy => %L, target_layers => %L)', 'default', jsonb_build_object('1', :a2)));
SELECT try(format('SELECT kms_wrap.kw_schedule_rewrap(policy => %L, target_kms1 => %s)', 'default', :elsewhere));
SELECT try(format('SELECT kms_wrap.kw_schedule_rewrap(policy => %L, target_kms1 => %s, target_kms2 => %s)', 'default', :a2, :a2));
SELECT try(format('SELECT kms_wrap.kw_schedule_rewrap(policy => %L, target_layers => %L)', 'default', '{"33": 1004}'));
SELECT try(format('SELECT kms_wrap.kw_schedule_rewrap(policy => %L, target_kms1 => %s, verb => %L)', 'default', :a2, 'reseal'));
SELECT try(format('SELECT kms_wrap.kw_schedule_rewrap(policy => %L, target_kms1 => %s, verb => NULL)', 'default', :a2));
SELECT try(format('SELECT kms_wrap.kw_schedule_rewrap(policy => %L, target_kms1 => %s, rate_per_second => 0)', 'default', :a2));
SELECT try(format('SELECT kms_wrap.kw_schedule_rewrap(policy => %L, target_kms1 => %s, window_start => %L)', 'default', :a2, '10:00'));
SELECT try(format('SELECT kms_wrap.kw_schedule_rewrap(policy => %L, target_kms1 => %s, window_start => %L, window_end => %L)', 'default', :a2, '10:00', '10:00'));
SELECT try(format('SELECT kms_wrap.kw_schedule_rewrap(policy => %L, target_kms1 => %s, priority => NULL)', 'default', :a2));
SELECT try(format('SELECT kms_wrap.kw_schedule_rewrap(policy => %L, target_kms1 => %s, dry_run => NULL)', 'default', :a2));
SELECT try(format('SELECT kms_wrap.kw_schedule_rewrap(from_key => %s, target_kms1 => %s)', :a1, :a2));
SELECT try('SELECT kms_wrap.kw_pause(NULL)');
SELECT try('SELECT kms_wrap.kw_resume(NULL)');
SELECT try('SELECT kms_wrap.kw_cancel(NULL)');
SELECT try('SELECT kms_wrap.kw_jobs_claim(0)');
SELECT try('SELECT kms_wrap.kw_jobs_claim(NULL)');

-- After all this nothing has changed, and the wrapper opens.
SELECT everything.* = before.* FROM everything, before;
SELECT octet_length(kms_wrap.kw_unwrap(:'w'));

-- Keys and wrappers out of use.
SELECT kms_wrap.kw_set_key_status(:a2, 'disabled') \g /dev/null
SELECT try(format('SELECT kms_wrap.kw_rewrap(%L, %s)', :'w', :a2));
SELECT try(format('SELECT kms_wrap.kw_schedule_rewrap(policy => %L, target_kms1 => %s)', 'default', :a2));
SELECT kms_wrap.kw_set_key_status(:a2, 'retired') \g /dev/null
SELECT try(format('SELECT kms_wrap.kw_rewrap(%L, %s)', :'w', :a2));
SELECT kms_wrap.kw_set_key_status(:a2, 'active') \g /dev/null
UPDATE kms_wrap.kms_providers SET suspended_until = 'infinity' WHERE name = 'a';
SELECT try(format('SELECT kms_wrap.kw_rewrap(%L, %s)', :'w', :a2));
UPDATE kms_wrap.kms_providers SET suspended_until = NULL WHERE name = 'a';
UPDATE kms_wrap.key_wrappers SET status = 'rotated';
UPDATE kms_wrap.key_wrappers SET status = 'retired';
SELECT try(format('SELECT kms_wrap.kw_rewrap(%L, %s)', :'w', :a2));
SELECT try(format('SELECT kms_wrap.kw_schedule_rewrap(wrapper => %L, target_kms1 => %s)', :'w', :a2));
SELECT try(format('SELECT kms_wrap.kw_unwrap(%L)', :'w'));
SELECT count(*) FROM kms_wrap.rewrap_jobs;
