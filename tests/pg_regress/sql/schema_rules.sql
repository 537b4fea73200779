-- Rules that hold whoever writes the tables, row by row. Errors show their SQLSTATE.
\set VERBOSITY sqlstate
\set SHOW_CONTEXT never
\pset null '-'
SET client_min_messages = warning;

-- RESTRICT has a code of its own from PostgreSQL 18 on.
CREATE FUNCTION pg_temp.try(statement text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    violated text;
BEGIN
    EXECUTE statement;
    RETURN 'accepted';
EXCEPTION WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS violated = CONSTRAINT_NAME;
    RETURN concat_ws(' ', CASE WHEN SQLSTATE IN ('23001', '23503') THEN 'still referenced' ELSE SQLSTATE END, violated);
END
$$;

-- Rows to break. Fingerprints and blobs are dummies.
INSERT INTO kms_wrap.provider_config (id, provider_name, manager, config) VALUES
    ('00000000-0000-0000-0000-000000000001', 'a', 'kms_wrap/local', '{"root_key": "a.root", "fingerprint": "00112233445566778899aabbccddeeff"}'),
    ('00000000-0000-0000-0000-000000000002', 'b', 'kms_wrap/local', '{"root_key": "b.root", "fingerprint": "ffeeddccbbaa99887766554433221100"}'),
    ('00000000-0000-0000-0000-000000000003', 'c', 'other', '{}');
INSERT INTO kms_wrap.kms_providers (id, name, provider, location, trust_domain, provider_config_id) VALUES
    (1, 'a', 'local', 'a', 'da', '00000000-0000-0000-0000-000000000001'),
    (2, 'b', 'local', 'b', 'db', '00000000-0000-0000-0000-000000000002'),
    (3, 'spare', 'aws', 'eu-1', 'dc', NULL);
INSERT INTO kms_wrap.kms_keys (id, provider_id, external_key_ref, algorithm) VALUES
    (11, 1, 'a1', 'XAES-256-GCM'), (12, 1, 'a2', 'XAES-256-GCM'), (13, 1, 'layer', 'ML-KEM-768'), (14, 1, 'dead', 'XAES-256-GCM'),
    (15, 1, 'dead layer', 'ML-KEM-768'), (21, 2, 'b1', 'XAES-256-GCM'), (22, 2, 'b2', 'XAES-256-GCM'), (31, 3, 'spare', NULL), (32, 3, 'spare2', NULL);
INSERT INTO kms_wrap.encryption_policies (id, policy_name, mode, composition) VALUES (1, 'p', 'multi-kms', 'split'), (2, 'q', 'kms', 'redundant');
INSERT INTO kms_wrap.key_wrappers
    (id, wrapper_uuid, kms1_key_id, kms2_key_id, dek_wrap1, dek_wrap2, wrap_version, policy_id, purpose, generation, dek_fingerprint, status)
VALUES
    (1, '00000000-0000-0000-0000-0000000000aa', 11, 21, '\x01', '\x02', 1, 1, 'caller', 1, decode(repeat('00', 16), 'hex'), 'active'),
    (2, '00000000-0000-0000-0000-0000000000bb', 14, 21, '\x01', '\x02', 2, 1, 'caller', 2, decode(repeat('00', 16), 'hex'), 'invalid');
INSERT INTO kms_wrap.key_wrapper_layers (id, key_wrapper_id, layer_no, kms_key_id, kem_algo_id, kem_ciphertext) VALUES
    (1, 1, 1, 13, 1, '\x03'), (2, 2, 1, 15, 1, '\x03');

-- Each line is tried alone and undone, so that an accidental success shows as INSERT 0 1 and disturbs nothing.
\set QUIET off

-- provider_config: an object; kind local has exactly a file name and a fingerprint
BEGIN; INSERT INTO kms_wrap.provider_config (provider_name, manager, config) VALUES ('x', 'other', '[]'); ROLLBACK;
BEGIN; INSERT INTO kms_wrap.provider_config (provider_name, manager, config) VALUES ('a', 'other', '{}'); ROLLBACK;
BEGIN; INSERT INTO kms_wrap.provider_config (provider_name, manager, config) VALUES ('x', 'kms_wrap/local', '{"root_key": "x"}'); ROLLBACK;
BEGIN; INSERT INTO kms_wrap.provider_config (provider_name, manager, config) VALUES ('x', 'kms_wrap/local', '{"root_key": "x", "fingerprint": "00112233445566778899aabbccddeeff", "secret": "y"}'); ROLLBACK;
BEGIN; INSERT INTO kms_wrap.provider_config (provider_name, manager, config) VALUES ('x', 'kms_wrap/local', '{"root_key": "../x", "fingerprint": "00112233445566778899aabbccddeeff"}'); ROLLBACK;
BEGIN; INSERT INTO kms_wrap.provider_config (provider_name, manager, config) VALUES ('x', 'kms_wrap/local', '{"root_key": "..", "fingerprint": "00112233445566778899aabbccddeeff"}'); ROLLBACK;
BEGIN; INSERT INTO kms_wrap.provider_config (provider_name, manager, config) VALUES ('x', 'kms_wrap/local', '{"root_key": null, "fingerprint": "00112233445566778899aabbccddeeff"}'); ROLLBACK;
BEGIN; INSERT INTO kms_wrap.provider_config (provider_name, manager, config) VALUES ('x', 'kms_wrap/local', '{"root_key": "x", "fingerprint": "00112233445566778899AABBCCDDEEFF"}'); ROLLBACK;

-- kms_providers
BEGIN; INSERT INTO kms_wrap.kms_providers (name, provider, trust_domain) VALUES ('x', 'acme', 'd'); ROLLBACK;
BEGIN; INSERT INTO kms_wrap.kms_providers (name, provider, trust_domain) VALUES ('x', 'vault', 'd'); ROLLBACK;
BEGIN; INSERT INTO kms_wrap.kms_providers (name, provider, trust_domain) VALUES ('x', 'aws', 'd'); ROLLBACK;
BEGIN; INSERT INTO kms_wrap.kms_providers (name, provider, location, trust_domain) VALUES ('x', 'local', 'x', 'd'); ROLLBACK;
BEGIN; INSERT INTO kms_wrap.kms_providers (name, provider, location, trust_domain, provider_config_id) VALUES ('x', 'local', 'a', 'd', '00000000-0000-0000-0000-000000000003'); ROLLBACK;
BEGIN; INSERT INTO kms_wrap.kms_providers (name, provider, location, trust_domain) VALUES ('x', 'aws', 'eu-1', 'd'); ROLLBACK;
BEGIN; INSERT INTO kms_wrap.kms_providers (name, provider, trust_domain) VALUES ('', 'aws', 'd'); ROLLBACK;
BEGIN; INSERT INTO kms_wrap.kms_providers (name, provider, trust_domain) VALUES (E'x\ny', 'aws', 'd'); ROLLBACK;
BEGIN; INSERT INTO kms_wrap.kms_providers (name, provider, location, trust_domain) VALUES ('x', 'aws', '', 'd'); ROLLBACK;
BEGIN; INSERT INTO kms_wrap.kms_providers (name, provider, project_tenant, trust_domain) VALUES ('x', 'aws', E'\x7f', 'd'); ROLLBACK;
BEGIN; INSERT INTO kms_wrap.kms_providers (name, provider, trust_domain) VALUES ('x', 'aws', ''); ROLLBACK;
BEGIN; INSERT INTO kms_wrap.kms_providers (name, provider) VALUES ('x', 'aws'); ROLLBACK;
BEGIN; INSERT INTO kms_wrap.kms_providers (name, provider, trust_domain) VALUES ('a', 'aws', 'd'); ROLLBACK;
BEGIN; SELECT pg_temp.try('DELETE FROM kms_wrap.provider_config WHERE provider_name = ''a'''); ROLLBACK;

-- kms_keys
BEGIN; INSERT INTO kms_wrap.kms_keys (provider_id, external_key_ref, status) VALUES (3, 'x', 'expired'); ROLLBACK;
BEGIN; INSERT INTO kms_wrap.kms_keys (provider_id, external_key_ref, purpose) VALUES (3, 'x', 'sign'); ROLLBACK;
BEGIN; INSERT INTO kms_wrap.kms_keys (provider_id, external_key_ref) VALUES (3, ''); ROLLBACK;
BEGIN; INSERT INTO kms_wrap.kms_keys (provider_id, external_key_ref) VALUES (3, E'x\t'); ROLLBACK;
BEGIN; INSERT INTO kms_wrap.kms_keys (provider_id, external_key_ref, key_version) VALUES (3, 'x', ''); ROLLBACK;
BEGIN; INSERT INTO kms_wrap.kms_keys (provider_id, external_key_ref) VALUES (3, 'spare'); ROLLBACK;
BEGIN; INSERT INTO kms_wrap.kms_keys (provider_id, external_key_ref, public_key) VALUES (3, 'x', '\x01'); ROLLBACK;
BEGIN; INSERT INTO kms_wrap.kms_keys (provider_id, external_key_ref, public_key_sha256) VALUES (3, 'x', sha256('\x01')); ROLLBACK;
BEGIN; INSERT INTO kms_wrap.kms_keys (provider_id, external_key_ref, public_key, public_key_sha256) VALUES (3, 'x', '\x01', sha256('\x02')); ROLLBACK;
BEGIN; INSERT INTO kms_wrap.kms_keys (provider_id, external_key_ref, public_key, public_key_sha256) VALUES (3, 'x', '\x01', sha256('\x01')); ROLLBACK;

-- crypto_algorithms and aliases: shipped rows don't change
BEGIN; INSERT INTO kms_wrap.crypto_algorithms (class, name) VALUES ('cipher', 'x'); ROLLBACK;
BEGIN; INSERT INTO kms_wrap.crypto_algorithms (class, name, nist_level) VALUES ('kem', 'x', 6); ROLLBACK;
BEGIN; INSERT INTO kms_wrap.crypto_algorithms (class, name) VALUES ('kem', 'ML-KEM-768'); ROLLBACK;
BEGIN; INSERT INTO kms_wrap.crypto_algorithms (class, name) VALUES ('kem', 'x') RETURNING id >= 1000 AS own; ROLLBACK;
BEGIN; UPDATE kms_wrap.crypto_algorithms SET status = 'deprecated' WHERE id = 1; ROLLBACK;
BEGIN; DELETE FROM kms_wrap.crypto_algorithms WHERE id = 21; ROLLBACK;
BEGIN; TRUNCATE kms_wrap.crypto_standard_aliases; ROLLBACK;
BEGIN; TRUNCATE kms_wrap.crypto_algorithms CASCADE; ROLLBACK;
BEGIN; UPDATE kms_wrap.crypto_standard_aliases SET algo_id = 2 WHERE alias = 'kyber768'; ROLLBACK;
BEGIN; DELETE FROM kms_wrap.crypto_standard_aliases WHERE alias = 'kyber768'; ROLLBACK;
BEGIN; INSERT INTO kms_wrap.crypto_standard_aliases (alias, algo_id) VALUES ('mine', 1); UPDATE kms_wrap.crypto_standard_aliases SET notes = 'x' WHERE alias = 'mine'; DELETE FROM kms_wrap.crypto_standard_aliases WHERE alias = 'mine'; ROLLBACK;
BEGIN; INSERT INTO kms_wrap.crypto_standard_aliases (alias, algo_id) VALUES ('mine', 1); UPDATE kms_wrap.crypto_standard_aliases SET is_shipped = true WHERE alias = 'mine'; ROLLBACK;

-- sym_key: sealed bytes only (24 + 32 + 16 at least)
BEGIN; INSERT INTO kms_wrap.sym_key (key_id, key_status, key_mode, key_value, provider_config_id, algorithm) VALUES ('x', 1, 1, decode(repeat('00', 32), 'hex'), '00000000-0000-0000-0000-000000000001', 'XAES-256-GCM'); ROLLBACK;
BEGIN; INSERT INTO kms_wrap.sym_key (key_id, key_status, key_mode, key_value, provider_config_id, algorithm) VALUES ('x', 1, 1, decode(repeat('00', 71), 'hex'), '00000000-0000-0000-0000-000000000001', 'XAES-256-GCM'); ROLLBACK;
BEGIN; INSERT INTO kms_wrap.sym_key (key_id, key_status, key_mode, key_value, provider_config_id, algorithm) VALUES ('x', 1, 1, decode(repeat('00', 72), 'hex'), '00000000-0000-0000-0000-000000000001', 'XAES-256-GCM'); ROLLBACK;
BEGIN; INSERT INTO kms_wrap.sym_key (key_id, key_status, key_mode, key_value, algorithm) VALUES ('x', 1, 1, decode(repeat('00', 72), 'hex'), 'XAES-256-GCM'); ROLLBACK;
BEGIN; INSERT INTO kms_wrap.sym_key (key_id, key_status, key_mode, provider_config_id, algorithm) VALUES ('x', 1, 1, '00000000-0000-0000-0000-000000000001', 'XAES-256-GCM'); ROLLBACK;
BEGIN; INSERT INTO kms_wrap.sym_key (key_id, key_status, key_mode, key_value, provider_config_id, algorithm) VALUES ('x', 1, 2, decode(repeat('00', 24), 'hex'), '00000000-0000-0000-0000-000000000001', 'XAES-256-GCM'); ROLLBACK;
BEGIN; INSERT INTO kms_wrap.sym_key (key_id, key_status, key_mode, provider_config_id, algorithm) VALUES ('x', 1, 3, '00000000-0000-0000-0000-000000000001', 'XAES-256-GCM'); ROLLBACK;
BEGIN; INSERT INTO kms_wrap.sym_key (key_id, key_status, key_mode, provider_config_id, algorithm) VALUES ('x', 3, 3, '00000000-0000-0000-0000-000000000001', 'XAES-256-GCM'); ROLLBACK;
BEGIN; INSERT INTO kms_wrap.sym_key (key_id, key_status, key_mode, provider_config_id, algorithm) VALUES ('x', 1, 4, '00000000-0000-0000-0000-000000000001', 'XAES-256-GCM'); ROLLBACK;

-- asym_key: one statement for all cases, with what it says for each
CREATE FUNCTION pg_temp.try_asym(mode integer, public jsonb, private jsonb, config boolean DEFAULT true, algorithm integer DEFAULT 20, status integer DEFAULT 1)
RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    violated text;
BEGIN
    INSERT INTO kms_wrap.asym_key (key_id, key_algorithm, key_status, key_mode, public_key_ctx, private_key_ctx, provider_config_id)
    VALUES ('t', algorithm, status, mode, public, private, CASE WHEN config THEN '00000000-0000-0000-0000-000000000001'::uuid END);
    DELETE FROM kms_wrap.asym_key WHERE key_id = 't';
    RETURN 'accepted';
EXCEPTION WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS violated = CONSTRAINT_NAME;
    RETURN concat_ws(' ', SQLSTATE, violated);
END
$$;
CREATE FUNCTION pg_temp.b64(bytes bytea) RETURNS text LANGUAGE sql AS $$ SELECT translate(encode(bytes, 'base64'), E'\n', '') $$;
CREATE FUNCTION pg_temp.wrapped(bytes bytea) RETURNS jsonb LANGUAGE sql AS $$ SELECT jsonb_build_object('key_id', 'a.root', 'wrapped_key', pg_temp.b64(bytes)) $$;
SELECT what, pg_temp.try_asym(mode, public, private, config, algorithm, status)
FROM (VALUES
    (1, 'mode 1, sealed', 1, '{"pem": "QUJD"}'::jsonb, pg_temp.wrapped(decode(repeat('aa', 104), 'hex')), true, 20, 1),
    (2, 'mode 1, sealed, no provider', 1, '{"pem": "QUJD"}', pg_temp.wrapped(decode(repeat('aa', 104), 'hex')), false, 20, 1),
    (3, 'mode 1, too short to be sealed', 1, '{"pem": "QUJD"}', pg_temp.wrapped(decode(repeat('aa', 71), 'hex')), true, 20, 1),
    (4, 'mode 1, bare 64-byte seed', 1, '{"pem": "QUJD"}', pg_temp.wrapped(decode(repeat('aa', 64), 'hex')), true, 20, 1),
    (5, 'mode 2, bare 32-byte seed', 2, '{"pem": "QUJD"}', pg_temp.wrapped(decode(repeat('aa', 32), 'hex')), true, 6, 1),
    (6, 'mode 1, bare decapsulation key', 1, '{"pem": "QUJD"}', pg_temp.wrapped(decode(repeat('aa', 2400), 'hex')), true, 20, 1),
    (7, 'mode 1, PEM', 1, '{"pem": "QUJD"}', pg_temp.wrapped(convert_to(E'-----BEGIN PRIVATE KEY-----\n' || repeat('A', 100), 'UTF8')), true, 20, 1),
    (8, 'mode 1, PKCS#8', 1, '{"pem": "QUJD"}', pg_temp.wrapped(decode('308204be020100300d' || repeat('aa', 200), 'hex')), true, 1, 1),
    (9, 'mode 1, SEC 1', 1, '{"pem": "QUJD"}', pg_temp.wrapped(decode('30770201010420' || repeat('aa', 114), 'hex')), true, 3, 1),
    (10, 'mode 2, PKCS#8', 2, '{"pem": "QUJD"}', pg_temp.wrapped(decode('3081bc020100' || repeat('aa', 185), 'hex')), true, 4, 1),
    (11, 'mode 1, not base64', 1, '{"pem": "QUJD"}', '{"key_id": "k", "wrapped_key": "*"}', true, 20, 1),
    (12, 'mode 1, nothing wrapped', 1, '{"pem": "QUJD"}', '{"key_id": "k"}', true, 20, 1),
    (13, 'mode 1, wrapped is no string', 1, '{"pem": "QUJD"}', '{"key_id": "k", "wrapped_key": 1}', true, 20, 1),
    (14, 'mode 1, no key_id', 1, '{"pem": "QUJD"}', pg_temp.wrapped(decode(repeat('aa', 104), 'hex')) - 'key_id', true, 20, 1),
    (15, 'mode 1, no private part', 1, '{"pem": "QUJD"}', NULL, true, 20, 1),
    (16, 'mode 2, no provider', 2, '{"pem": "QUJD"}', pg_temp.wrapped(decode(repeat('aa', 104), 'hex')), false, 20, 1),
    (17, 'mode 3', 3, '{"pem": "QUJD"}', '{"key_id": "k"}', true, 20, 1),
    (18, 'mode 3, empty wrapped_key', 3, '{"pem": "QUJD"}', '{"key_id": "k", "wrapped_key": ""}', true, 20, 1),
    (19, 'mode 3, something wrapped', 3, '{"pem": "QUJD"}', pg_temp.wrapped(decode(repeat('aa', 104), 'hex')), true, 20, 1),
    (20, 'mode 3, no provider', 3, '{"pem": "QUJD"}', '{"key_id": "k"}', false, 20, 1),
    (21, 'mode 4', 4, '{"pem": "QUJD"}', NULL, false, 20, 1),
    (22, 'mode 4, private part', 4, '{"pem": "QUJD"}', '{"key_id": "k"}', false, 20, 1),
    (23, 'mode 4, provider', 4, '{"pem": "QUJD"}', NULL, true, 20, 1),
    (24, 'mode 5', 5, '{"pem": "QUJD"}', '{"key_id": "k"}', true, 20, 1),
    (25, 'no public part', 4, NULL, NULL, false, 20, 1),
    (26, 'no pem', 4, '{}', NULL, false, 20, 1),
    (27, 'empty pem', 4, '{"pem": ""}', NULL, false, 20, 1),
    (28, 'pem not base64', 4, '{"pem": "-----BEGIN PUBLIC KEY-----"}', NULL, false, 20, 1),
    (29, 'a private key as pem', 4, jsonb_build_object('pem', pg_temp.b64('-----BEGIN RSA PRIVATE KEY-----')), NULL, false, 20, 1),
    (30, 'algorithm 9', 4, '{"pem": "QUJD"}', NULL, false, 9, 1),
    (31, 'status 3', 4, '{"pem": "QUJD"}', NULL, false, 20, 3)
) AS t (n, what, mode, public, private, config, algorithm, status)
ORDER BY n;

-- encryption_policies and what belongs to them
BEGIN; INSERT INTO kms_wrap.encryption_policies (policy_name, mode) VALUES ('x', 'kms'); ROLLBACK;
BEGIN; INSERT INTO kms_wrap.encryption_policies (policy_name, mode, composition) VALUES ('x', 'kms', 'nested'); ROLLBACK;
BEGIN; INSERT INTO kms_wrap.encryption_policies (policy_name, mode, composition) VALUES ('x', 'cloud', 'split'); ROLLBACK;
BEGIN; INSERT INTO kms_wrap.encryption_policies (policy_name, mode, composition) VALUES ('p', 'kms', 'split'); ROLLBACK;
BEGIN; INSERT INTO kms_wrap.encryption_policies (policy_name, mode, composition, min_layers, max_layers) VALUES ('x', 'kms', 'split', 9, 1); ROLLBACK;
BEGIN; INSERT INTO kms_wrap.encryption_policies (policy_name, mode, composition, max_layers) VALUES ('x', 'kms', 'split', 33); ROLLBACK;
BEGIN; INSERT INTO kms_wrap.encryption_policies (policy_name, mode, composition, min_layers) VALUES ('x', 'kms', 'split', -1); ROLLBACK;
BEGIN; INSERT INTO kms_wrap.encryption_policies (policy_name, mode, composition, min_nist_level) VALUES ('x', 'kms', 'split', 0); ROLLBACK;
BEGIN; INSERT INTO kms_wrap.encryption_policies (policy_name, mode, composition, layer_selection) VALUES ('x', 'kms', 'split', 'first'); ROLLBACK;
BEGIN; INSERT INTO kms_wrap.encryption_policies (policy_name, mode, composition, value_cipher) VALUES ('x', 'kms', 'split', 'AES-128-CBC'); ROLLBACK;
BEGIN; INSERT INTO kms_wrap.encryption_policies (policy_name, mode, composition, cache_ttl) VALUES ('x', 'kms', 'split', '-1 s'); ROLLBACK;
BEGIN; INSERT INTO kms_wrap.encryption_policies (policy_name, mode, composition, outage) VALUES ('x', 'kms', 'split', 'ignore'); ROLLBACK;
BEGIN; INSERT INTO kms_wrap.encryption_policies (policy_name, mode, composition, dek_scope) VALUES ('x', 'kms', 'split', '{a,NULL}'); ROLLBACK;
BEGIN; INSERT INTO kms_wrap.encryption_policies (policy_name, mode, composition, dek_scope) VALUES ('x', 'kms', 'split', '{{a},{b}}'); ROLLBACK;
BEGIN; INSERT INTO kms_wrap.policy_kms_keys (policy_id, kms_key_id, slot) VALUES (1, 11, 'kms3'); ROLLBACK;
BEGIN; INSERT INTO kms_wrap.policy_kms_keys (policy_id, kms_key_id, slot, weight) VALUES (1, 11, 'kms1', 0); ROLLBACK;
BEGIN; INSERT INTO kms_wrap.policy_algorithms (policy_id, algo_id, role) VALUES (1, 1, 'x'); ROLLBACK;
BEGIN; INSERT INTO kms_wrap.policy_algorithms (policy_id, algo_id, role, weight) VALUES (1, 1, 'kem', 0); ROLLBACK;

-- key_wrappers: a second wrapper under changes of the first
CREATE FUNCTION pg_temp.try_wrapper(change text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    violated text;
BEGIN
    CREATE TEMPORARY TABLE row_tried ON COMMIT DROP AS SELECT * FROM kms_wrap.key_wrappers WHERE id = 1;
    UPDATE row_tried SET id = 3, wrapper_uuid = '00000000-0000-0000-0000-0000000000cc', wrap_version = 3;
    IF change <> '' THEN
        EXECUTE 'UPDATE row_tried SET ' || change;
    END IF;
    INSERT INTO kms_wrap.key_wrappers SELECT * FROM row_tried;
    DELETE FROM kms_wrap.key_wrappers WHERE id = 3;
    DROP TABLE row_tried;
    RETURN 'accepted';
EXCEPTION WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS violated = CONSTRAINT_NAME;
    RETURN concat_ws(' ', SQLSTATE, violated);
END
$$;
SELECT change, pg_temp.try_wrapper(change)
FROM unnest(ARRAY[
    '', 'wrap_version = 1', 'wrap_version = 0', 'wrapper_uuid = ''00000000-0000-0000-0000-0000000000aa''', 'wrapper_uuid = ''not-a-uuid''',
    'wrapper_uuid = ''00000000-0000-0000-0000-0000000000CC''', 'kms2_key_id = kms1_key_id', 'kms1_key_id = 99', 'policy_id = 99',
    'dek_wrap1 = ''''', 'dek_wrap2 = ''''', 'status = ''unknown''', 'purpose = ''test''', 'scope_key = ''\x00''', 'scope_key = sha256('''')',
    'epoch = 0', 'generation = 0', 'dek_fingerprint = ''\x00''', 'dek_fingerprint = NULL', 'policy_id = NULL'
]) WITH ORDINALITY AS t (change, n)
ORDER BY n;

-- One current wrapper of purpose values for each policy and scope.
BEGIN;
INSERT INTO kms_wrap.key_wrappers (wrapper_uuid, kms1_key_id, kms2_key_id, dek_wrap1, dek_wrap2, wrap_version, policy_id, purpose, generation, dek_fingerprint, scope_key)
SELECT format('00000000-0000-0000-0000-0000000001%s', lpad(n::text, 2, '0')), 11, 21, '\x01', '\x02', n, 1, 'values', n, decode(repeat('00', 16), 'hex'), CASE WHEN n > 10 THEN sha256('s') END
FROM unnest(ARRAY[10, 11]) n;
SAVEPOINT s;
INSERT INTO kms_wrap.key_wrappers (wrapper_uuid, kms1_key_id, kms2_key_id, dek_wrap1, dek_wrap2, wrap_version, policy_id, purpose, generation, dek_fingerprint)
VALUES ('00000000-0000-0000-0000-000000000112', 11, 21, '\x01', '\x02', 12, 1, 'values', 12, decode(repeat('00', 16), 'hex'));
ROLLBACK TO s;
UPDATE kms_wrap.key_wrappers SET status = 'rotated' WHERE wrap_version = 10;
INSERT INTO kms_wrap.key_wrappers (wrapper_uuid, kms1_key_id, kms2_key_id, dek_wrap1, dek_wrap2, wrap_version, policy_id, purpose, generation, dek_fingerprint)
VALUES ('00000000-0000-0000-0000-000000000112', 11, 21, '\x01', '\x02', 12, 1, 'values', 12, decode(repeat('00', 16), 'hex'));
ROLLBACK;

-- key_wrapper_layers
BEGIN; INSERT INTO kms_wrap.key_wrapper_layers (key_wrapper_id, layer_no, kem_algo_id, kem_ciphertext) VALUES (1, 0, 1, '\x01'); ROLLBACK;
BEGIN; INSERT INTO kms_wrap.key_wrapper_layers (key_wrapper_id, layer_no, kem_algo_id, kem_ciphertext) VALUES (1, 33, 1, '\x01'); ROLLBACK;
BEGIN; INSERT INTO kms_wrap.key_wrapper_layers (key_wrapper_id, layer_no, kem_algo_id, kem_ciphertext) VALUES (1, 1, 1, '\x01'); ROLLBACK;
BEGIN; INSERT INTO kms_wrap.key_wrapper_layers (key_wrapper_id, layer_no, kem_algo_id, kem_ciphertext) VALUES (1, 2, 1, ''); ROLLBACK;
BEGIN; INSERT INTO kms_wrap.key_wrapper_layers (key_wrapper_id, layer_no, kem_algo_id, kem_ciphertext) VALUES (1, 2, 10, '\x01'); ROLLBACK;
BEGIN; INSERT INTO kms_wrap.key_wrapper_layers (key_wrapper_id, layer_no, kem_algo_id, kem_ciphertext, kem_class) VALUES (1, 2, 10, '\x01', 'symmetric'); ROLLBACK;
BEGIN; INSERT INTO kms_wrap.key_wrapper_layers (key_wrapper_id, layer_no, kem_algo_id, kem_ciphertext) VALUES (1, 32, 1, '\x01'); ROLLBACK;

-- encryption_bindings: the upsert works for whole rows too, and keeps the wrapper alive
BEGIN;
INSERT INTO kms_wrap.encryption_bindings (entity_table, entity_pk, key_wrapper_id) VALUES ('t', '1', 1)
ON CONFLICT (entity_table, entity_pk, field_name_norm) DO UPDATE SET key_wrapper_id = excluded.key_wrapper_id;
INSERT INTO kms_wrap.encryption_bindings (entity_table, entity_pk, key_wrapper_id) VALUES ('t', '1', 2)
ON CONFLICT (entity_table, entity_pk, field_name_norm) DO UPDATE SET key_wrapper_id = excluded.key_wrapper_id;
SELECT entity_table, entity_pk, field_name, key_wrapper_id FROM kms_wrap.encryption_bindings;
SELECT pg_temp.try('DELETE FROM kms_wrap.key_wrappers WHERE id = 2');
ROLLBACK;

-- rewrap_campaigns and rewrap_jobs
BEGIN; INSERT INTO kms_wrap.rewrap_campaigns (verb) VALUES ('drop'); ROLLBACK;
BEGIN; INSERT INTO kms_wrap.rewrap_campaigns (status) VALUES ('failed'); ROLLBACK;
BEGIN; INSERT INTO kms_wrap.rewrap_campaigns (rate_per_second) VALUES (0); ROLLBACK;
BEGIN; INSERT INTO kms_wrap.rewrap_campaigns (window_start) VALUES ('01:00'); ROLLBACK;
BEGIN; INSERT INTO kms_wrap.rewrap_campaigns (window_start, window_end) VALUES ('01:00', '01:00'); ROLLBACK;
BEGIN; INSERT INTO kms_wrap.rewrap_campaigns (target_kms1_key_id, target_kms2_key_id) VALUES (12, 12); ROLLBACK;
BEGIN; INSERT INTO kms_wrap.rewrap_campaigns (target_layers) VALUES ('[1]'); ROLLBACK;
BEGIN; INSERT INTO kms_wrap.rewrap_campaigns (target_layers) VALUES ('{"0": 1}'); ROLLBACK;
BEGIN; INSERT INTO kms_wrap.rewrap_campaigns (target_layers) VALUES ('{"33": 1}'); ROLLBACK;
BEGIN; INSERT INTO kms_wrap.rewrap_campaigns (target_layers) VALUES ('{"1": "1"}'); ROLLBACK;
BEGIN; INSERT INTO kms_wrap.rewrap_campaigns (target_layers) VALUES ('{"1": 13, "32": 15}'); ROLLBACK;
BEGIN; INSERT INTO kms_wrap.rewrap_campaigns (done) VALUES (-1); ROLLBACK;
BEGIN; INSERT INTO kms_wrap.rewrap_jobs (key_wrapper_id) VALUES (1), (1); ROLLBACK;
BEGIN; INSERT INTO kms_wrap.rewrap_jobs (key_wrapper_id, status) VALUES (1, 'done'), (1, 'failed'), (1, 'cancelled'), (1, 'pending'); ROLLBACK;
BEGIN; INSERT INTO kms_wrap.rewrap_jobs (key_wrapper_id, status) VALUES (1, 'lost'); ROLLBACK;
BEGIN; INSERT INTO kms_wrap.rewrap_jobs (key_wrapper_id, status) VALUES (1, 'running'); ROLLBACK;
BEGIN; INSERT INTO kms_wrap.rewrap_jobs (key_wrapper_id, status, lease_owner) VALUES (1, 'running', 'me'); ROLLBACK;
BEGIN; INSERT INTO kms_wrap.rewrap_jobs (key_wrapper_id, lease_owner, lease_until) VALUES (1, 'me', now()); ROLLBACK;
BEGIN; INSERT INTO kms_wrap.rewrap_jobs (key_wrapper_id, status, lease_owner, lease_until) VALUES (1, 'running', 'me', now()); ROLLBACK;
BEGIN; INSERT INTO kms_wrap.rewrap_jobs (key_wrapper_id, attempts) VALUES (1, -1); ROLLBACK;
BEGIN; INSERT INTO kms_wrap.rewrap_jobs (key_wrapper_id, max_attempts) VALUES (1, 0); ROLLBACK;
BEGIN; INSERT INTO kms_wrap.rewrap_jobs (key_wrapper_id, verb) VALUES (1, 'drop'); ROLLBACK;
BEGIN; INSERT INTO kms_wrap.rewrap_jobs (key_wrapper_id, target_layers) VALUES (1, '1'); ROLLBACK;

-- kms_health_checks: a target, kept by name when it is deleted
BEGIN; INSERT INTO kms_wrap.kms_health_checks (status) VALUES ('up'); ROLLBACK;
BEGIN; INSERT INTO kms_wrap.kms_health_checks (status, provider_id) VALUES ('fine', 1); ROLLBACK;
BEGIN; INSERT INTO kms_wrap.kms_health_checks (status, provider_id, latency_ms) VALUES ('up', 1, -1); ROLLBACK;
BEGIN;
INSERT INTO kms_wrap.kms_health_checks (status, provider_id, kms_key_id) VALUES ('up', 3, NULL), ('up', NULL, 31), ('up', 3, 31);
DELETE FROM kms_wrap.kms_providers WHERE id = 3;
SELECT provider_id, kms_key_id, provider_name, key_ref FROM kms_wrap.kms_health_checks ORDER BY id;
ROLLBACK;
