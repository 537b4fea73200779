-- kw_rewrap moves shares to other keys; the DEK and everything else stays.
\pset footer off
\pset null '-'
SELECT kms_wrap.kw_create_root_key(:'testname' || '-a') AS root_a, kms_wrap.kw_create_root_key(:'testname' || '-b') AS root_b \gset
SELECT kms_wrap.kw_add_provider('a', 'local', jsonb_build_object('root_key', :'testname' || '-a')) AS a,
    kms_wrap.kw_add_provider('b', 'local', jsonb_build_object('root_key', :'testname' || '-b')) AS b \gset
SELECT kms_wrap.kw_create_local_key('a', 'a1', 'XAES-256-GCM') AS a1, kms_wrap.kw_create_local_key('a', 'a2', 'XAES-256-GCM') AS a2,
    kms_wrap.kw_create_local_key('b', 'b1', 'XAES-256-GCM') AS b1, kms_wrap.kw_create_local_key('b', 'b2', 'XAES-256-GCM') AS b2,
    kms_wrap.kw_create_local_key('a', 'm1', 'ML-KEM-768') AS m1, kms_wrap.kw_create_local_key('a', 'm2', 'ML-KEM-1024') AS m2,
    kms_wrap.kw_create_local_key('b', 'x1', 'X-Wing') AS x1, kms_wrap.kw_create_local_key('b', 'x2', 'X-Wing') AS x2 \gset
SELECT kms_wrap.kw_create_policy(c, c, min_layers => 2), kms_wrap.kw_policy_add_key(c, 'kms1', :a1, 1), kms_wrap.kw_policy_add_key(c, 'kms1', :a2),
    kms_wrap.kw_policy_add_key(c, 'kms2', :b1, 1), kms_wrap.kw_policy_add_key(c, 'kms2', :b2), kms_wrap.kw_policy_add_key(c, 'layer', :m1, 9),
    kms_wrap.kw_policy_add_key(c, 'layer', :x1, 8), kms_wrap.kw_policy_add_key(c, 'layer', :m2), kms_wrap.kw_policy_add_key(c, 'layer', :x2)
FROM unnest('{split,redundant}'::text[]) c \g /dev/null
UPDATE kms_wrap.encryption_policies SET max_layers = 2;

CREATE TABLE w (name text PRIMARY KEY, wrapper uuid, dek bytea);
PREPARE import (text, bytea) AS INSERT INTO w VALUES ($1, kms_wrap.kw_wrap_dek($1, $2, '{"tenant": "7"}'), $2);
EXECUTE import ('redundant', sha256('redundant'));
EXECUTE import ('split', sha256('split'));
-- Where the shares are, what kw_unwrap gives, and whether what must not change is what it was.
CREATE TABLE before AS SELECT kw.wrapper_uuid, kw.dek_fingerprint, kw.epoch, kw.status, kw.purpose, kw.policy_id, kw.created_at, kw.crypto_suite - 'slots' AS suite FROM kms_wrap.key_wrappers kw;
CREATE FUNCTION shown() RETURNS TABLE (name text, generation bigint, wrap_version integer, kms1 text, kms2 text, layers text, opens boolean, same boolean)
LANGUAGE sql AS $$
    SELECT w.name, kw.generation, kw.wrap_version, k1.external_key_ref, k2.external_key_ref, l.layers,
        kms_wrap.kw_unwrap(w.wrapper, '{"tenant": "7"}') = w.dek,
        EXISTS (SELECT FROM before b WHERE ROW(b.*) = ROW(kw.wrapper_uuid, kw.dek_fingerprint, kw.epoch, kw.status, kw.purpose, kw.policy_id, kw.created_at, kw.crypto_suite - 'slots'))
    FROM w JOIN kms_wrap.key_wrappers kw ON kw.wrapper_uuid = w.wrapper::text
    JOIN kms_wrap.kms_keys k1 ON k1.id = kw.kms1_key_id
    JOIN kms_wrap.kms_keys k2 ON k2.id = kw.kms2_key_id
    CROSS JOIN LATERAL (
        SELECT string_agg(k.external_key_ref || ' ' || a.name || ' ' || (l.aad ->> 'generation'), ', ' ORDER BY l.layer_no) AS layers
        FROM kms_wrap.key_wrapper_layers l JOIN kms_wrap.kms_keys k ON k.id = l.kms_key_id
        JOIN kms_wrap.crypto_algorithms a ON a.id = l.kem_algo_id WHERE l.key_wrapper_id = kw.id) l
    ORDER BY w.name
$$;
SELECT * FROM shown();

-- One slot after the other; the answer is the new generation.
SELECT name, kms_wrap.kw_rewrap(wrapper, target_kms1 => :a2) AS generation FROM w ORDER BY name;
SELECT * FROM shown();
SELECT name, kms_wrap.kw_rewrap(wrapper, target_kms2 => :b2) AS generation FROM w ORDER BY name;
SELECT name, kms_wrap.kw_rewrap(wrapper, target_layers => jsonb_build_object('2', :x2)) AS generation FROM w ORDER BY name;
SELECT * FROM shown();
-- A key of another algorithm of the same class.
SELECT name, kms_wrap.kw_rewrap(wrapper, target_layers => jsonb_build_object('1', :m2)) AS generation FROM w ORDER BY name;
-- All at once, and back.
SELECT name, kms_wrap.kw_rewrap(wrapper, :a1, :b1, jsonb_build_object('1', :m1, '2', :x1)) AS generation FROM w ORDER BY name;
SELECT * FROM shown();
-- Blobs of slots that did not move stay byte by byte.
SELECT kw.dek_wrap2 AS wrap2, (SELECT kem_ciphertext FROM kms_wrap.key_wrapper_layers l WHERE l.key_wrapper_id = kw.id AND layer_no = 1) AS layer1
FROM kms_wrap.key_wrappers kw JOIN w ON w.wrapper::text = kw.wrapper_uuid AND w.name = 'split' \gset
SELECT kms_wrap.kw_rewrap(wrapper, :a2) AS generation FROM w WHERE name = 'split';
SELECT kw.dek_wrap2 = :'wrap2' AS wrap2_stays, (SELECT kem_ciphertext FROM kms_wrap.key_wrapper_layers l WHERE l.key_wrapper_id = kw.id AND layer_no = 1) = :'layer1' AS layer1_stays
FROM kms_wrap.key_wrappers kw JOIN w ON w.wrapper::text = kw.wrapper_uuid AND w.name = 'split';

-- To the keys that it has: nothing happens, and it says so.
SELECT name, wrapper FROM w WHERE name = 'split' \gset
SELECT md5(string_agg(kw::text || l::text, '' ORDER BY kw.id, l.id)) AS rows FROM kms_wrap.key_wrappers kw JOIN kms_wrap.key_wrapper_layers l ON l.key_wrapper_id = kw.id \gset
\setenv PGDATABASE :DBNAME
\setenv REWRAP 'SELECT kms_wrap.kw_rewrap(wrapper, k.id) AS generation FROM w, kms_wrap.kms_keys k WHERE w.name = $$split$$ AND k.external_key_ref = $$a2$$'
\! psql -X -q -c "$REWRAP" 2>&1 | sed -E 's/[0-9a-f]{8}-[0-9a-f-]{27}/<uuid>/'
SET client_min_messages = warning;
SELECT kms_wrap.kw_rewrap(wrapper, :a2, :b1, jsonb_build_object('1', :m1)) AS generation FROM w WHERE name = 'split' \g /dev/null
SELECT md5(string_agg(kw::text || l::text, '' ORDER BY kw.id, l.id)) = :'rows' AS unchanged FROM kms_wrap.key_wrappers kw JOIN kms_wrap.key_wrapper_layers l ON l.key_wrapper_id = kw.id;

-- Away from a retired key, and from a compromised one that opens nothing any more.
SELECT kms_wrap.kw_set_key_status(:a2, 'retired'), kms_wrap.kw_set_key_status(:m1, 'compromised') \g /dev/null
SELECT kms_wrap.kw_rewrap(wrapper, :a1, target_layers => jsonb_build_object('1', :m2)) AS generation FROM w WHERE name = 'split';
SELECT kms_wrap.kw_unwrap(wrapper, '{"tenant": "7"}') = dek AS opens FROM w WHERE name = 'split';
SELECT kms_wrap.kw_set_key_status(:a2, 'active') \g /dev/null

-- Under a rolled back transaction nothing moved.
BEGIN;
SELECT kms_wrap.kw_rewrap(wrapper, :a2) > 0 AS rewrapped FROM w WHERE name = 'split';
ROLLBACK;
SELECT kms_wrap.kw_unwrap(wrapper, '{"tenant": "7"}') = dek AS opens FROM w WHERE name = 'split';

-- A rotated wrapper moves, a retired or invalid one doesn't.
CREATE FUNCTION rewrapped(status text, key bigint) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    wrapper uuid := (SELECT w.wrapper FROM w WHERE name = 'split');
BEGIN
    UPDATE kms_wrap.key_wrappers kw SET status = rewrapped.status WHERE kw.wrapper_uuid = wrapper::text;
    RETURN CASE WHEN kms_wrap.kw_rewrap(wrapper, key) > 0 THEN 'rewrapped' END;
EXCEPTION WHEN OTHERS THEN
    RETURN SQLSTATE || ': ' || regexp_replace(SQLERRM, '[0-9a-f]{8}-[0-9a-f-]{27}', '<uuid>');
END
$$;
SELECT rewrapped('rotated', :a2);
SELECT rewrapped('retired', :a1);
SELECT rewrapped('invalid', :a1);

-- A layer whose JSON was edited keeps its wrapper shut. Other slots still move; the layer does not, which would make its JSON anew.
CREATE FUNCTION tried(call text) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE call USING (SELECT w.wrapper FROM w WHERE name = 'redundant');
    RETURN 'done';
EXCEPTION WHEN OTHERS THEN
    RETURN SQLSTATE || ': ' || SQLERRM;
END
$$;
UPDATE kms_wrap.key_wrapper_layers l SET aad = l.aad || '{"epoch": 2}' FROM kms_wrap.key_wrappers kw, w
WHERE kw.id = l.key_wrapper_id AND kw.wrapper_uuid = w.wrapper::text AND w.name = 'redundant' AND l.layer_no = 1;
SELECT tried('SELECT kms_wrap.kw_rewrap($1, ' || :a2 || ')') AS kms1, tried('SELECT kms_wrap.kw_rewrap($1, target_layers => ''{"1": ' || :m2 || '}'')') AS layer1,
    tried('SELECT kms_wrap.kw_unwrap($1, ''{"tenant": "7"}'')') AS unwrap;
SELECT kms_wrap.kw_schedule_rewrap(policy => 'redundant', target_layers => jsonb_build_object('1', :m2)) > 0 AS scheduled;
CALL kms_wrap.kw_run_jobs();
SELECT status, attempts, last_error FROM kms_wrap.rewrap_jobs;
