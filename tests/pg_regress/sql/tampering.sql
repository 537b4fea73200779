-- Rows edited by somebody who may write tables: kw_unwrap says the one error, kw_verify reports the wrapper.
\pset footer off
\pset null '-'
SELECT kms_wrap.kw_create_root_key(:'testname' || '-a') AS root_a, kms_wrap.kw_create_root_key(:'testname' || '-b') AS root_b \gset
SELECT kms_wrap.kw_add_provider('a', 'local', jsonb_build_object('root_key', :'testname' || '-a')) AS a,
    kms_wrap.kw_add_provider('b', 'local', jsonb_build_object('root_key', :'testname' || '-b')) AS b \gset
SELECT kms_wrap.kw_create_local_key('a', 'a1', 'XAES-256-GCM') AS a1, kms_wrap.kw_create_local_key('a', 'a2', 'XAES-256-GCM') AS a2,
    kms_wrap.kw_create_local_key('b', 'b1', 'XAES-256-GCM') AS b1, kms_wrap.kw_create_local_key('b', 'b2', 'XAES-256-GCM') AS b2,
    kms_wrap.kw_create_local_key('a', 'm1', 'ML-KEM-768') AS m1, kms_wrap.kw_create_local_key('b', 'm2', 'ML-KEM-768') AS m2 \gset
SELECT kms_wrap.kw_create_policy(c, c, min_layers => 2, max_layers => 2), kms_wrap.kw_policy_add_key(c, 'kms1', :a1, 1), kms_wrap.kw_policy_add_key(c, 'kms1', :a2),
    kms_wrap.kw_policy_add_key(c, 'kms2', :b1, 1), kms_wrap.kw_policy_add_key(c, 'kms2', :b2), kms_wrap.kw_policy_add_key(c, 'layer', :m1, 1), kms_wrap.kw_policy_add_key(c, 'layer', :m2)
FROM unnest('{split,redundant}'::text[]) c \g /dev/null
-- Wrappers 1000 and 1001 are split, 1002 and 1003 redundant. Layers have ids from 1000 on, two each.
SELECT kms_wrap.kw_wrap_dek(p) FROM unnest('{split,split,redundant,redundant}'::text[]) p \g /dev/null
-- Row 1000 as it was before a rewrap, for putting back.
CREATE TABLE old_wrapper AS SELECT * FROM kms_wrap.key_wrappers WHERE id = 1000;
CREATE TABLE old_layers AS SELECT * FROM kms_wrap.key_wrapper_layers WHERE key_wrapper_id = 1000;
SELECT kms_wrap.kw_rewrap(wrapper_uuid::uuid, :a2, target_layers => jsonb_build_object('1', :m2)) AS generation FROM kms_wrap.key_wrappers WHERE id = 1000;

-- Our own guards are off meanwhile: who gets past them must not get further.
CREATE FUNCTION tampered(wrapper bigint, statement text) RETURNS TABLE (kw_unwrap text, kw_verify text) LANGUAGE plpgsql AS $$
DECLARE
    dek bytea := (SELECT kms_wrap.kw_unwrap(wrapper_uuid::uuid) FROM kms_wrap.key_wrappers WHERE id = wrapper);
BEGIN
    SET LOCAL session_replication_role = replica;
    EXECUTE statement;
    SET LOCAL session_replication_role = origin;
    BEGIN
        kw_unwrap := CASE WHEN kms_wrap.kw_unwrap((SELECT wrapper_uuid::uuid FROM kms_wrap.key_wrappers WHERE id = wrapper)) = dek THEN 'opens' ELSE 'ANOTHER DEK' END;
    EXCEPTION WHEN OTHERS THEN kw_unwrap := SQLSTATE || ': ' || SQLERRM;
    END;
    SELECT CASE WHEN v.ok THEN 'ok' ELSE v.sqlstate || ': ' || v.message END INTO kw_verify
    FROM kms_wrap.kw_verify() v JOIN kms_wrap.key_wrappers w ON w.wrapper_uuid = v.wrapper::text WHERE w.id = tampered.wrapper;
    RAISE EXCEPTION USING ERRCODE = 'UNDO1';
EXCEPTION WHEN SQLSTATE 'UNDO1' THEN RETURN NEXT;
END
$$;
CREATE TABLE attacks (n serial, wrapper bigint DEFAULT 1000, what text, statement text);
CREATE VIEW results AS SELECT a.what, t.* FROM attacks a, LATERAL tampered(a.wrapper, a.statement) t ORDER BY a.n;

-- Columns of key_wrappers.
INSERT INTO attacks (what, statement) VALUES
    ('nothing', 'SELECT 1'),
    ('wrapper_uuid', 'UPDATE kms_wrap.key_wrappers SET wrapper_uuid = ''00000000-0000-7000-8000-000000000000'' WHERE id = 1000'),
    ('policy_id', 'UPDATE kms_wrap.key_wrappers SET policy_id = (SELECT id FROM kms_wrap.encryption_policies WHERE policy_name = ''redundant'') WHERE id = 1000'),
    ('kms1_key_id: another key', 'UPDATE kms_wrap.key_wrappers SET kms1_key_id = 1000 WHERE id = 1000'),
    ('kms2_key_id: another key', 'UPDATE kms_wrap.key_wrappers SET kms2_key_id = 1003 WHERE id = 1000'),
    ('kms1_key_id and kms2_key_id swapped', 'UPDATE kms_wrap.key_wrappers SET kms1_key_id = kms2_key_id, kms2_key_id = kms1_key_id WHERE id = 1000'),
    ('kms1_key_id: a KEM key', 'UPDATE kms_wrap.key_wrappers SET kms1_key_id = 1004 WHERE id = 1000'),
    ('dek_wrap1 of another wrapper', 'UPDATE kms_wrap.key_wrappers SET dek_wrap1 = (SELECT dek_wrap1 FROM kms_wrap.key_wrappers WHERE id = 1001) WHERE id = 1000'),
    ('dek_wrap2 of another wrapper', 'UPDATE kms_wrap.key_wrappers SET dek_wrap2 = (SELECT dek_wrap2 FROM kms_wrap.key_wrappers WHERE id = 1001) WHERE id = 1000'),
    ('dek_wrap1 and dek_wrap2 swapped', 'UPDATE kms_wrap.key_wrappers SET dek_wrap1 = dek_wrap2, dek_wrap2 = dek_wrap1 WHERE id = 1000'),
    ('dek_wrap2 is dek_wrap1', 'UPDATE kms_wrap.key_wrappers SET dek_wrap2 = dek_wrap1 WHERE id = 1000'),
    ('everything of another wrapper but its uuid', 'UPDATE kms_wrap.key_wrappers w SET dek_wrap1 = o.dek_wrap1, dek_wrap2 = o.dek_wrap2, kms1_key_id = o.kms1_key_id, generation = o.generation, dek_fingerprint = o.dek_fingerprint
        FROM (SELECT * FROM kms_wrap.key_wrappers WHERE id = 1001) o WHERE w.id = 1000; DELETE FROM kms_wrap.key_wrapper_layers WHERE key_wrapper_id = 1000;
        UPDATE kms_wrap.key_wrapper_layers SET key_wrapper_id = 1000 WHERE key_wrapper_id = 1001'),
    ('dek_wrap1 and generation from before the rewrap', 'UPDATE kms_wrap.key_wrappers w SET dek_wrap1 = o.dek_wrap1, generation = o.generation, kms1_key_id = o.kms1_key_id FROM old_wrapper o WHERE w.id = 1000'),
    ('dek_wrap1 from before the rewrap', 'UPDATE kms_wrap.key_wrappers w SET dek_wrap1 = o.dek_wrap1 FROM old_wrapper o WHERE w.id = 1000'),
    ('epoch', 'UPDATE kms_wrap.key_wrappers SET epoch = 2 WHERE id = 1000'),
    ('generation, higher', 'UPDATE kms_wrap.key_wrappers SET generation = generation + 1 WHERE id = 1000'),
    ('generation, lower', 'UPDATE kms_wrap.key_wrappers SET generation = 1 WHERE id = 1000'),
    ('dek_fingerprint', 'UPDATE kms_wrap.key_wrappers SET dek_fingerprint = set_byte(dek_fingerprint, 0, get_byte(dek_fingerprint, 0) # 1) WHERE id = 1000'),
    ('dek_fingerprint of another wrapper', 'UPDATE kms_wrap.key_wrappers SET dek_fingerprint = (SELECT dek_fingerprint FROM kms_wrap.key_wrappers WHERE id = 1001) WHERE id = 1000'),
    ('crypto_suite: composition', 'UPDATE kms_wrap.key_wrappers SET crypto_suite = crypto_suite || ''{"composition": "redundant"}'' WHERE id = 1000'),
    ('crypto_suite: suite', 'UPDATE kms_wrap.key_wrappers SET crypto_suite = crypto_suite || ''{"suite": "none"}'' WHERE id = 1000'),
    ('crypto_suite: a slot''s algorithm', 'UPDATE kms_wrap.key_wrappers SET crypto_suite = jsonb_set(crypto_suite, ''{slots,layer1}'', ''"X-Wing"'') WHERE id = 1000'),
    ('crypto_suite: one word more', 'UPDATE kms_wrap.key_wrappers SET crypto_suite = crypto_suite || ''{"fips": true}'' WHERE id = 1000'),
    ('crypto_suite: NULL', 'UPDATE kms_wrap.key_wrappers SET crypto_suite = NULL WHERE id = 1000');
SELECT * FROM results;

-- Columns of key_wrapper_layers.
TRUNCATE attacks;
INSERT INTO attacks (what, statement) VALUES
    ('a layer stripped', 'DELETE FROM kms_wrap.key_wrapper_layers WHERE key_wrapper_id = 1000 AND layer_no = 2'),
    ('the first layer stripped', 'DELETE FROM kms_wrap.key_wrapper_layers WHERE key_wrapper_id = 1000 AND layer_no = 1'),
    ('all layers stripped', 'DELETE FROM kms_wrap.key_wrapper_layers WHERE key_wrapper_id = 1000'),
    ('a layer added', 'INSERT INTO kms_wrap.key_wrapper_layers (key_wrapper_id, layer_no, kms_key_id, kem_algo_id, kem_ciphertext, aad, meta) SELECT 1000, 3, kms_key_id, kem_algo_id, kem_ciphertext, aad, meta FROM kms_wrap.key_wrapper_layers WHERE key_wrapper_id = 1000 AND layer_no = 2'),
    ('layer_no: renumbered', 'UPDATE kms_wrap.key_wrapper_layers SET layer_no = 3 WHERE key_wrapper_id = 1000 AND layer_no = 2'),
    ('layer_no: in another order', 'UPDATE kms_wrap.key_wrapper_layers SET layer_no = 30 WHERE key_wrapper_id = 1000 AND layer_no = 1; UPDATE kms_wrap.key_wrapper_layers SET layer_no = 1 WHERE key_wrapper_id = 1000 AND layer_no = 2;
        UPDATE kms_wrap.key_wrapper_layers SET layer_no = 2 WHERE key_wrapper_id = 1000 AND layer_no = 30'),
    ('key_wrapper_id: the layer of another wrapper', 'DELETE FROM kms_wrap.key_wrapper_layers WHERE key_wrapper_id = 1000 AND layer_no = 2; UPDATE kms_wrap.key_wrapper_layers SET key_wrapper_id = 1000 WHERE key_wrapper_id = 1001 AND layer_no = 2'),
    ('kem_ciphertext of another wrapper', 'UPDATE kms_wrap.key_wrapper_layers SET kem_ciphertext = (SELECT kem_ciphertext FROM kms_wrap.key_wrapper_layers WHERE key_wrapper_id = 1001 AND layer_no = 2) WHERE key_wrapper_id = 1000 AND layer_no = 2'),
    ('kem_ciphertext of the other layer', 'UPDATE kms_wrap.key_wrapper_layers SET kem_ciphertext = (SELECT kem_ciphertext FROM kms_wrap.key_wrapper_layers WHERE key_wrapper_id = 1000 AND layer_no = 1) WHERE key_wrapper_id = 1000 AND layer_no = 2'),
    ('kem_ciphertext is dek_wrap2', 'UPDATE kms_wrap.key_wrapper_layers SET kem_ciphertext = (SELECT dek_wrap2 FROM kms_wrap.key_wrappers WHERE id = 1000) WHERE key_wrapper_id = 1000 AND layer_no = 2'),
    ('kem_ciphertext: its last byte', 'UPDATE kms_wrap.key_wrapper_layers SET kem_ciphertext = set_byte(kem_ciphertext, octet_length(kem_ciphertext) - 1, get_byte(kem_ciphertext, octet_length(kem_ciphertext) - 1) # 1) WHERE key_wrapper_id = 1000 AND layer_no = 2'),
    ('kem_ciphertext: a byte of the encapsulation', 'UPDATE kms_wrap.key_wrapper_layers SET kem_ciphertext = set_byte(kem_ciphertext, 500, get_byte(kem_ciphertext, 500) # 1) WHERE key_wrapper_id = 1000 AND layer_no = 2'),
    ('kms_key_id: another key', 'UPDATE kms_wrap.key_wrapper_layers SET kms_key_id = 1004 WHERE key_wrapper_id = 1000 AND layer_no = 1'),
    ('kms_key_id: NULL', 'UPDATE kms_wrap.key_wrapper_layers SET kms_key_id = NULL WHERE key_wrapper_id = 1000 AND layer_no = 1'),
    ('kem_algo_id: another KEM', 'UPDATE kms_wrap.key_wrapper_layers SET kem_algo_id = 2 WHERE key_wrapper_id = 1000 AND layer_no = 1'),
    ('aad: ctx_sha256', 'UPDATE kms_wrap.key_wrapper_layers SET aad = aad || ''{"ctx_sha256": "00"}'' WHERE key_wrapper_id = 1000 AND layer_no = 1'),
    ('aad: key_ref', 'UPDATE kms_wrap.key_wrapper_layers SET aad = jsonb_set(aad, ''{key_ref,3}'', ''"m1"'') WHERE key_wrapper_id = 1000 AND layer_no = 1'),
    ('aad: NULL', 'UPDATE kms_wrap.key_wrapper_layers SET aad = NULL WHERE key_wrapper_id = 1000 AND layer_no = 1'),
    ('meta: nist_level', 'UPDATE kms_wrap.key_wrapper_layers SET meta = meta || ''{"nist_level": 5}'' WHERE key_wrapper_id = 1000 AND layer_no = 1'),
    ('meta: NULL', 'UPDATE kms_wrap.key_wrapper_layers SET meta = NULL WHERE key_wrapper_id = 1000 AND layer_no = 1'),
    ('encap_pubkey: another key''s', 'UPDATE kms_wrap.key_wrapper_layers SET encap_pubkey = (SELECT public_key FROM kms_wrap.kms_keys WHERE id = 1004) WHERE key_wrapper_id = 1000 AND layer_no = 1');
SELECT * FROM results;

-- Keys, providers and the policy that it hangs on.
TRUNCATE attacks;
INSERT INTO attacks (what, statement) VALUES
    ('kms_keys.external_key_ref', 'UPDATE kms_wrap.kms_keys SET external_key_ref = ''x'' WHERE id = 1001'),
    ('kms_keys.external_key_ref swapped', 'UPDATE kms_wrap.kms_keys SET external_key_ref = ''x'' WHERE id = 1000; UPDATE kms_wrap.kms_keys SET external_key_ref = ''a1'' WHERE id = 1001'),
    ('kms_keys.provider_id', 'UPDATE kms_wrap.kms_keys SET provider_id = 1001 WHERE id = 1001'),
    ('kms_keys.algorithm', 'UPDATE kms_wrap.kms_keys SET algorithm = ''ML-KEM-768'' WHERE id = 1001'),
    ('kms_keys.public_key', 'UPDATE kms_wrap.kms_keys SET (public_key, public_key_sha256) = (SELECT public_key, public_key_sha256 FROM kms_wrap.kms_keys WHERE id = 1004) WHERE id = 1005'),
    ('kms_keys.public_key of a symmetric key', 'UPDATE kms_wrap.kms_keys SET (public_key, public_key_sha256) = (SELECT public_key, public_key_sha256 FROM kms_wrap.kms_keys WHERE id = 1004) WHERE id = 1001'),
    ('kms_keys: row of kms1 deleted', 'DELETE FROM kms_wrap.kms_keys WHERE id = 1001'),
    ('kms_providers.location', 'UPDATE kms_wrap.kms_providers SET location = ''x'' WHERE id = 1000'),
    ('kms_providers.project_tenant', 'UPDATE kms_wrap.kms_providers SET project_tenant = ''x'' WHERE id = 1000'),
    ('kms_providers.provider', 'UPDATE kms_wrap.kms_providers SET provider = ''openbao'' WHERE id = 1000'),
    ('encryption_policies.policy_uuid', 'UPDATE kms_wrap.encryption_policies SET policy_uuid = gen_random_uuid() WHERE policy_name = ''split''');
SELECT * FROM results;

-- Redundant wrappers: two paths that do not belong together, and a path that was altered to force the other.
TRUNCATE attacks;
INSERT INTO attacks (wrapper, what, statement) VALUES
    (1002, 'nothing', 'SELECT 1'),
    (1002, 'path 2 of another wrapper', 'UPDATE kms_wrap.key_wrappers SET dek_wrap2 = (SELECT dek_wrap2 FROM kms_wrap.key_wrappers WHERE id = 1003) WHERE id = 1002'),
    (1002, 'path 1 of another wrapper', 'UPDATE kms_wrap.key_wrappers SET dek_wrap1 = (SELECT dek_wrap1 FROM kms_wrap.key_wrappers WHERE id = 1003) WHERE id = 1002'),
    (1002, 'paths swapped', 'UPDATE kms_wrap.key_wrappers SET dek_wrap1 = dek_wrap2, dek_wrap2 = dek_wrap1 WHERE id = 1002'),
    (1002, 'paths and keys swapped', 'UPDATE kms_wrap.key_wrappers SET dek_wrap1 = dek_wrap2, dek_wrap2 = dek_wrap1, kms1_key_id = kms2_key_id, kms2_key_id = kms1_key_id WHERE id = 1002'),
    (1002, 'path 1: last byte', 'UPDATE kms_wrap.key_wrappers SET dek_wrap1 = set_byte(dek_wrap1, octet_length(dek_wrap1) - 1, get_byte(dek_wrap1, octet_length(dek_wrap1) - 1) # 1) WHERE id = 1002'),
    (1002, 'path 1: last byte, and the one key that could tell is disabled', 'UPDATE kms_wrap.key_wrappers SET dek_wrap1 = set_byte(dek_wrap1, octet_length(dek_wrap1) - 1, get_byte(dek_wrap1, octet_length(dek_wrap1) - 1) # 1) WHERE id = 1002; UPDATE kms_wrap.kms_keys SET status = ''disabled'' WHERE id = 1000'),
    (1002, 'a layer stripped', 'DELETE FROM kms_wrap.key_wrapper_layers WHERE key_wrapper_id = 1002 AND layer_no = 2');
SELECT * FROM results;

-- Bytes that are no container, or of a version that this one does not know.
TRUNCATE attacks;
INSERT INTO attacks (what, statement) VALUES
    ('dek_wrap1: one byte', 'UPDATE kms_wrap.key_wrappers SET dek_wrap1 = ''\x00'' WHERE id = 1000'),
    ('dek_wrap1: cut by one byte', 'UPDATE kms_wrap.key_wrappers SET dek_wrap1 = substr(dek_wrap1, 1, octet_length(dek_wrap1) - 1) WHERE id = 1000'),
    ('dek_wrap1: one byte more', 'UPDATE kms_wrap.key_wrappers SET dek_wrap1 = dek_wrap1 || ''\x00'' WHERE id = 1000'),
    ('dek_wrap2: cut in half', 'UPDATE kms_wrap.key_wrappers SET dek_wrap2 = substr(dek_wrap2, 1, octet_length(dek_wrap2) / 2) WHERE id = 1000'),
    ('kem_ciphertext: cut in half', 'UPDATE kms_wrap.key_wrapper_layers SET kem_ciphertext = substr(kem_ciphertext, 1, octet_length(kem_ciphertext) / 2) WHERE key_wrapper_id = 1000 AND layer_no = 1'),
    ('dek_wrap1: format 2', 'UPDATE kms_wrap.key_wrappers SET dek_wrap1 = set_byte(dek_wrap1, 4, 2) WHERE id = 1000'),
    ('dek_wrap1: unknown algorithm', 'UPDATE kms_wrap.key_wrappers SET dek_wrap1 = overlay(dek_wrap1 PLACING ''\x040000000200ff'' FROM position(''\x0400000002''::bytea IN dek_wrap1)) WHERE id = 1000'),
    ('dek_wrap1: unknown suite', 'UPDATE kms_wrap.key_wrappers SET dek_wrap1 = decode(regexp_replace(encode(dek_wrap1, ''hex''), ''^(.*)04000000020001'', ''\1040000000200ff''), ''hex'') WHERE id = 1000');
SELECT * FROM results;
-- Cut at every length: never a DEK, and never another error than these.
CREATE TABLE cuts (kw_unwrap text);
DO $$
DECLARE
    r record;
BEGIN
    FOR r IN SELECT n FROM kms_wrap.key_wrappers w, generate_series(1, octet_length(dek_wrap1) - 1) n WHERE w.id = 1000 LOOP
        INSERT INTO cuts SELECT t.kw_unwrap FROM tampered(1000, format('UPDATE kms_wrap.key_wrappers SET dek_wrap1 = substr(dek_wrap1, 1, %s) WHERE id = 1000', r.n)) t;
    END LOOP;
END
$$;
SELECT DISTINCT kw_unwrap FROM cuts ORDER BY 1;

-- What is no part of the bytes: it says nothing about the DEK, and editing it changes none.
TRUNCATE attacks;
INSERT INTO attacks (what, statement) VALUES
    ('created_at', 'UPDATE kms_wrap.key_wrappers SET created_at = ''2000-01-01'' WHERE id = 1000'),
    ('rotated_at', 'UPDATE kms_wrap.key_wrappers SET rotated_at = now() WHERE id = 1000'),
    ('wrap_version', 'UPDATE kms_wrap.key_wrappers SET wrap_version = 77 WHERE id = 1000'),
    ('successor_id', 'UPDATE kms_wrap.key_wrappers SET successor_id = 1001 WHERE id = 1000'),
    ('encap_pubkey: the right one', 'UPDATE kms_wrap.key_wrapper_layers l SET encap_pubkey = k.public_key FROM kms_wrap.kms_keys k WHERE k.id = l.kms_key_id AND key_wrapper_id = 1000'),
    ('kms_keys.key_version', 'UPDATE kms_wrap.kms_keys SET key_version = ''7'' WHERE id = 1001'),
    ('kms_providers.name', 'UPDATE kms_wrap.kms_providers SET name = ''x'' WHERE id = 1000');
SELECT * FROM results;
-- Nor can the database see that a whole old row was put back while its keys live: of a layer, or of everything.
SELECT * FROM tampered(1000, 'UPDATE kms_wrap.key_wrapper_layers l SET kms_key_id = o.kms_key_id, kem_ciphertext = o.kem_ciphertext, aad = o.aad, meta = o.meta FROM old_layers o WHERE l.id = o.id AND l.layer_no = 1');
SELECT * FROM tampered(1000, 'DELETE FROM kms_wrap.key_wrapper_layers WHERE key_wrapper_id = 1000; DELETE FROM kms_wrap.key_wrappers WHERE id = 1000;
    INSERT INTO kms_wrap.key_wrappers SELECT * FROM old_wrapper; INSERT INTO kms_wrap.key_wrapper_layers (id, key_wrapper_id, layer_no, kms_key_id, kem_algo_id, kem_ciphertext, aad, meta)
    SELECT id, key_wrapper_id, layer_no, kms_key_id, kem_algo_id, kem_ciphertext, aad, meta FROM old_layers');
-- After all this it is what it was.
SELECT ok, count(*) FROM kms_wrap.kw_verify() GROUP BY ok;
