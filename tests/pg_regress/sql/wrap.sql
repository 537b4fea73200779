-- kw_wrap_dek: what it stores for a DEK that it makes or is given.
\pset footer off
\pset null '-'
SELECT kms_wrap.kw_create_root_key(:'testname' || '-a') AS root_a, kms_wrap.kw_create_root_key(:'testname' || '-b') AS root_b \gset
SELECT kms_wrap.kw_add_provider('a', 'local', jsonb_build_object('root_key', :'testname' || '-a')) AS a,
    kms_wrap.kw_add_provider('b', 'local', jsonb_build_object('root_key', :'testname' || '-b')) AS b \gset
SELECT kms_wrap.kw_create_local_key('a', 'a1', 'XAES-256-GCM') AS a1, kms_wrap.kw_create_local_key('b', 'b1', 'XAES-256-GCM') AS b1,
    kms_wrap.kw_create_local_key('a', 'm768', 'ML-KEM-768') AS m768, kms_wrap.kw_create_local_key('b', 'm1024', 'ML-KEM-1024') AS m1024,
    kms_wrap.kw_create_local_key('b', 'xwing', 'X-Wing') AS xwing \gset
SELECT kms_wrap.kw_create_policy('default', 'split', max_layers => 3) \g /dev/null
SELECT kms_wrap.kw_policy_add_key('default', slot, key, priority)
FROM (VALUES ('kms1', :a1, 0), ('kms2', :b1, 0), ('layer', :m768, 9), ('layer', :m1024, 8), ('layer', :xwing, 7)) v (slot, key, priority) \g /dev/null

-- All arguments have defaults: a new DEK of 32 bytes under policy "default", without context.
SELECT kms_wrap.kw_wrap_dek() AS w \gset
SELECT status, purpose, epoch, generation, wrap_version, scope_key, successor_id, rotated_at, octet_length(dek_fingerprint) AS fingerprint_bytes,
    kms1_key_id = :a1 AS kms1, kms2_key_id = :b1 AS kms2, octet_length(dek_wrap1) AS wrap1_bytes, octet_length(dek_wrap2) AS wrap2_bytes
FROM kms_wrap.key_wrappers WHERE wrapper_uuid = :'w';
SELECT jsonb_pretty(crypto_suite) AS crypto_suite FROM kms_wrap.key_wrappers WHERE wrapper_uuid = :'w';
SELECT l.layer_no, k.external_key_ref, a.name, octet_length(l.kem_ciphertext) AS bytes, l.encap_pubkey, l.meta,
    l.aad - 'ctx_sha256' - 'ek_sha256' AS aad, l.aad ->> 'ek_sha256' = encode(k.public_key_sha256, 'hex') AS key_is_pinned
FROM kms_wrap.key_wrapper_layers l JOIN kms_wrap.crypto_algorithms a ON a.id = l.kem_algo_id JOIN kms_wrap.kms_keys k ON k.id = l.kms_key_id
ORDER BY l.layer_no;
-- SHA-256 of label and no pairs.
SELECT DISTINCT aad ->> 'ctx_sha256' = encode(sha256('kms_wrap/v1/ctx\000\000\000'::bytea), 'hex') AS no_context FROM kms_wrap.key_wrapper_layers;
-- The uuid is of version 7, so wrappers of one time lie together.
SELECT :'w' ~ '^[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$' AS version_7,
    abs(extract(epoch FROM now()) - (('x' || replace(left(:'w', 13), '-', ''))::bit(48)::bigint / 1000.0)) < 60 AS of_now;
SELECT octet_length(kms_wrap.kw_unwrap(:'w')) AS dek_bytes;

-- Every call makes another DEK; one statement can make many.
SELECT count(DISTINCT kms_wrap.kw_unwrap(w)) AS deks, count(DISTINCT w) AS wrappers FROM (SELECT kms_wrap.kw_wrap_dek() AS w FROM generate_series(1, 50)) n;
SELECT count(*) AS wrappers, count(DISTINCT generation) AS generations, max(generation) AS last, count(DISTINCT dek_fingerprint) AS fingerprints,
    bool_and(wrap_version = generation) AS version_is_generation
FROM kms_wrap.key_wrappers;

-- A DEK of one's own, as a bind parameter, in each length.
CREATE TABLE imported (dek bytea, wrapper uuid);
PREPARE import (bytea) AS INSERT INTO imported VALUES ($1, kms_wrap.kw_wrap_dek(dek => $1));
EXECUTE import (decode(repeat('a1', 16), 'hex'));
EXECUTE import (decode(repeat('a2', 24), 'hex'));
EXECUTE import (decode(repeat('a3', 32), 'hex'));
EXECUTE import (decode(repeat('a4', 64), 'hex'));
SELECT octet_length(i.dek) AS bytes, kms_wrap.kw_unwrap(i.wrapper) = i.dek AS same, w.crypto_suite -> 'dek_bytes' AS described
FROM imported i JOIN kms_wrap.key_wrappers w ON w.wrapper_uuid = i.wrapper::text ORDER BY bytes;
-- The same DEK twice shares nothing that can be seen.
EXECUTE import (decode(repeat('a3', 32), 'hex'));
SELECT count(*) AS wrappers, count(DISTINCT w.dek_fingerprint) AS fingerprints, count(DISTINCT w.dek_wrap1) AS wrap1, count(DISTINCT w.dek_wrap2) AS wrap2
FROM imported i JOIN kms_wrap.key_wrappers w ON w.wrapper_uuid = i.wrapper::text WHERE octet_length(i.dek) = 32;

-- A rolled back wrapper is gone; the next one works.
BEGIN;
SELECT kms_wrap.kw_wrap_dek() AS gone \gset
SELECT octet_length(kms_wrap.kw_unwrap(:'gone')) AS opens_inside;
ROLLBACK;
SELECT count(*) AS rows FROM kms_wrap.key_wrappers WHERE wrapper_uuid = :'gone';
SELECT octet_length(kms_wrap.kw_unwrap(kms_wrap.kw_wrap_dek())) AS dek_bytes;

-- A policy of its own, by name; no layers when the policy wants none.
SELECT kms_wrap.kw_create_policy('bare', 'split', min_layers => 0, max_layers => 0) \g /dev/null
SELECT kms_wrap.kw_policy_add_key('bare', 'kms1', :a1), kms_wrap.kw_policy_add_key('bare', 'kms2', :b1) \g /dev/null
SELECT kms_wrap.kw_wrap_dek('bare') AS w \gset
SELECT jsonb_pretty(crypto_suite) AS crypto_suite, (SELECT count(*) FROM kms_wrap.key_wrapper_layers l WHERE l.key_wrapper_id = w.id) AS layers
FROM kms_wrap.key_wrappers w WHERE wrapper_uuid = :'w';
SELECT octet_length(kms_wrap.kw_unwrap(:'w')) AS dek_bytes;
