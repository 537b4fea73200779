-- Guards: transitions, what can't change, what can't be deleted; then the views. Errors show their SQLSTATE.
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

CREATE FUNCTION pg_temp.b64(bytes bytea) RETURNS text LANGUAGE sql AS $$ SELECT translate(encode(bytes, 'base64'), E'\n', '') $$;
CREATE FUNCTION pg_temp.wrapped(bytes bytea) RETURNS jsonb LANGUAGE sql AS $$ SELECT jsonb_build_object('key_id', 'a.root', 'wrapped_key', pg_temp.b64(bytes)) $$;

-- Transitions, all pairs. Keys without a live slot may end as destroyed; those with one may not.
CREATE FUNCTION pg_temp.try_status(relation text, row_id bigint, from_status text, to_status text) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    SET LOCAL session_replication_role = replica;
    EXECUTE format('UPDATE kms_wrap.%I SET status = %L WHERE id = %s', relation, from_status, row_id);
    SET LOCAL session_replication_role = origin;
    EXECUTE format('UPDATE kms_wrap.%I SET status = %L WHERE id = %s', relation, to_status, row_id);
    RAISE EXCEPTION USING ERRCODE = 'XX999';
EXCEPTION
    WHEN SQLSTATE 'XX999' THEN RETURN 'yes';
    WHEN OTHERS THEN RETURN SQLSTATE;
END
$$;
SELECT f.from_status, t.to_status, pg_temp.try_status('kms_keys', 31, from_status, to_status) AS unused,
    pg_temp.try_status('kms_keys', 13, from_status, to_status) AS in_live_layer, pg_temp.try_status('kms_keys', 14, from_status, to_status) AS in_invalid_only
FROM unnest(ARRAY['active', 'retired', 'disabled', 'compromised', 'destroyed']) WITH ORDINALITY f (from_status, fn)
CROSS JOIN unnest(ARRAY['active', 'retired', 'disabled', 'compromised', 'destroyed']) WITH ORDINALITY t (to_status, tn)
WHERE fn <> tn
ORDER BY fn, tn;
SELECT f.from_status, t.to_status, pg_temp.try_status('key_wrappers', 1, from_status, to_status) AS allowed
FROM unnest(ARRAY['active', 'rotated', 'retired', 'invalid']) WITH ORDINALITY f (from_status, fn)
CROSS JOIN unnest(ARRAY['active', 'rotated', 'retired', 'invalid']) WITH ORDINALITY t (to_status, tn)
WHERE fn <> tn
ORDER BY fn, tn;

-- Times that triggers keep.
BEGIN;
UPDATE kms_wrap.key_wrappers SET status = 'rotated' WHERE id = 1 RETURNING rotated_at = now() AS rotated_now;
UPDATE kms_wrap.key_wrappers SET status = 'retired' WHERE id = 1 RETURNING rotated_at = now() AS kept;
UPDATE kms_wrap.kms_keys SET status = 'retired' WHERE id = 31 RETURNING status_changed_at = now() AS changed_now;
UPDATE kms_wrap.kms_keys SET purpose = 'both' WHERE id = 32 RETURNING status_changed_at IS NULL AS unchanged;
UPDATE kms_wrap.provider_config SET metadata = '{}' WHERE provider_name = 'c' RETURNING updated_at = now() AS touched;
ROLLBACK;

-- Texts of refusals.
\set VERBOSITY default
BEGIN; UPDATE kms_wrap.kms_keys SET status = 'compromised' WHERE id = 31; UPDATE kms_wrap.kms_keys SET status = 'active' WHERE id = 31; ROLLBACK;
BEGIN; UPDATE kms_wrap.kms_keys SET status = 'destroyed' WHERE id = 31; UPDATE kms_wrap.kms_keys SET status = 'active' WHERE id = 31; ROLLBACK;
UPDATE kms_wrap.kms_keys SET status = 'destroyed' WHERE id = 11;
UPDATE kms_wrap.key_wrappers SET status = 'retired' WHERE id = 1;
UPDATE kms_wrap.key_wrappers SET status = 'active' WHERE id = 2;

-- What an authenticated key reference holds stays while any wrapper uses the key, invalid ones included.
UPDATE kms_wrap.kms_keys SET external_key_ref = 'z' WHERE id = 11;
UPDATE kms_wrap.kms_keys SET provider_id = 2 WHERE id = 21;
UPDATE kms_wrap.kms_keys SET provider_id = 1 WHERE id = 21;
UPDATE kms_wrap.kms_keys SET key_version = '2' WHERE id = 13;
UPDATE kms_wrap.kms_keys SET algorithm = NULL WHERE id = 14;
UPDATE kms_wrap.kms_keys SET public_key = '\x01', public_key_sha256 = sha256('\x01') WHERE id = 15;
UPDATE kms_wrap.kms_providers SET location = 'z' WHERE id = 1;
UPDATE kms_wrap.kms_providers SET project_tenant = 'z' WHERE id = 2;
BEGIN; UPDATE kms_wrap.kms_keys SET external_key_ref = 'z', algorithm = 'x', key_version = '1' WHERE id = 31 RETURNING id; ROLLBACK;
BEGIN; UPDATE kms_wrap.kms_providers SET location = 'z', provider = 'gcp' WHERE id = 3 RETURNING id; ROLLBACK;
BEGIN; UPDATE kms_wrap.kms_providers SET name = 'z', trust_domain = 'z', is_enabled = false, suspended_until = 'infinity' WHERE id = 1 RETURNING id; ROLLBACK;
UPDATE kms_wrap.encryption_policies SET policy_uuid = gen_random_uuid() WHERE id = 1;
BEGIN; UPDATE kms_wrap.encryption_policies SET composition = 'redundant', require_origin = false, min_nist_level = 5 WHERE id = 1 RETURNING id; ROLLBACK;
UPDATE kms_wrap.key_wrappers SET wrapper_uuid = '00000000-0000-0000-0000-0000000000dd' WHERE id = 1;
UPDATE kms_wrap.key_wrappers SET policy_id = 2 WHERE id = 1;
UPDATE kms_wrap.key_wrappers SET purpose = 'values' WHERE id = 1;
BEGIN; UPDATE kms_wrap.key_wrappers SET kms1_key_id = 12, dek_wrap1 = '\x09', generation = 9, wrap_version = 9 WHERE id = 1 RETURNING id; ROLLBACK;

-- Deletion: by slot kms1, kms2, layer; by cascade; and where only invalid wrappers stand in the way, as the seed has it.
DELETE FROM kms_wrap.kms_keys WHERE id = 11;
DELETE FROM kms_wrap.kms_keys WHERE id = 21;
DELETE FROM kms_wrap.kms_keys WHERE id = 13;
DELETE FROM kms_wrap.kms_providers WHERE id = 2;
\set VERBOSITY sqlstate
SELECT pg_temp.try('DELETE FROM kms_wrap.encryption_policies WHERE id = 1');
SELECT pg_temp.try('DELETE FROM kms_wrap.kms_keys WHERE id = 14');
BEGIN;
INSERT INTO kms_wrap.crypto_algorithms (id, class, name) VALUES (1001, 'kem', 'own');
INSERT INTO kms_wrap.key_wrapper_layers (key_wrapper_id, layer_no, kem_algo_id, kem_ciphertext) VALUES (1, 2, 1001, '\x01');
UPDATE kms_wrap.crypto_algorithms SET status = 'deprecated' WHERE id = 1001 RETURNING status;
SELECT pg_temp.try('UPDATE kms_wrap.crypto_algorithms SET class = ''hash'' WHERE id = 1001');
SELECT pg_temp.try('DELETE FROM kms_wrap.crypto_algorithms WHERE id = 1001') LIKE 'still referenced %' AS still_referenced;
ROLLBACK;
BEGIN; DELETE FROM kms_wrap.kms_keys WHERE id = 15 RETURNING id; SELECT kms_key_id FROM kms_wrap.key_wrapper_layers WHERE id = 2; ROLLBACK;
BEGIN; DELETE FROM kms_wrap.kms_keys WHERE id = 12 RETURNING id; ROLLBACK;
BEGIN; DELETE FROM kms_wrap.kms_providers WHERE id = 3 RETURNING id; SELECT id FROM kms_wrap.kms_keys WHERE provider_id = 3; ROLLBACK;
BEGIN; UPDATE kms_wrap.key_wrappers SET status = 'invalid' WHERE id = 1; DELETE FROM kms_wrap.kms_keys WHERE id = 13 RETURNING id; ROLLBACK;
BEGIN; DELETE FROM kms_wrap.key_wrappers; DELETE FROM kms_wrap.kms_providers RETURNING id; SELECT count(*) FROM kms_wrap.kms_keys; SELECT count(*) FROM kms_wrap.key_wrapper_layers; ROLLBACK;

-- An old snapshot can't tell.
BEGIN ISOLATION LEVEL REPEATABLE READ; DELETE FROM kms_wrap.kms_keys WHERE id = 12; ROLLBACK;
BEGIN ISOLATION LEVEL SERIALIZABLE; UPDATE kms_wrap.kms_keys SET status = 'destroyed' WHERE id = 12; ROLLBACK;
BEGIN ISOLATION LEVEL SERIALIZABLE; UPDATE kms_wrap.kms_keys SET status = 'disabled' WHERE id = 12 RETURNING id; ROLLBACK;

-- Stored keys of the local provider.
BEGIN;
INSERT INTO kms_wrap.sym_key (key_id, key_status, key_mode, key_value, provider_config_id, algorithm)
SELECT key_id, 1, 1, decode(repeat('00', 72), 'hex'), '00000000-0000-0000-0000-000000000001', 'XAES-256-GCM' FROM unnest(ARRAY['a1', 'a2', 'dead', 'loose']) key_id;
INSERT INTO kms_wrap.asym_key (key_id, key_algorithm, key_status, key_mode, public_key_ctx, private_key_ctx, provider_config_id)
VALUES ('layer', 20, 1, 1, '{"pem": "QUJD"}', pg_temp.wrapped(decode(repeat('aa', 104), 'hex')), '00000000-0000-0000-0000-000000000001');
\set VERBOSITY default
SAVEPOINT s;
DELETE FROM kms_wrap.sym_key WHERE key_id = 'a1';
ROLLBACK TO s;
DELETE FROM kms_wrap.asym_key WHERE key_id = 'layer';
ROLLBACK TO s;
UPDATE kms_wrap.sym_key SET key_id = 'z' WHERE key_id = 'a1';
ROLLBACK TO s;
UPDATE kms_wrap.asym_key SET provider_config_id = '00000000-0000-0000-0000-000000000002';
ROLLBACK TO s;
\set VERBOSITY sqlstate
-- Sealing again is what a change of root key does.
UPDATE kms_wrap.sym_key SET key_value = decode(repeat('01', 72), 'hex') WHERE key_id = 'a1' RETURNING key_id, updated_at = now() AS touched;
DELETE FROM kms_wrap.sym_key WHERE key_id <> 'a1' RETURNING key_id;
ROLLBACK;

-- Open campaigns and jobs keep what they name.
BEGIN;
INSERT INTO kms_wrap.rewrap_campaigns (id, from_key_id, from_provider_id, policy_id, target_kms1_key_id, target_layers, status)
VALUES (1, 31, NULL, 2, NULL, NULL, 'running'), (2, NULL, 3, NULL, NULL, '{"1": 32}', 'paused'), (3, NULL, NULL, NULL, 12, NULL, 'done');
\set VERBOSITY default
SAVEPOINT s;
DELETE FROM kms_wrap.kms_keys WHERE id = 31;
ROLLBACK TO s;
DELETE FROM kms_wrap.kms_keys WHERE id = 32;
ROLLBACK TO s;
DELETE FROM kms_wrap.kms_providers WHERE id = 3;
ROLLBACK TO s;
DELETE FROM kms_wrap.encryption_policies WHERE id = 2;
ROLLBACK TO s;
\set VERBOSITY sqlstate
SELECT pg_temp.try('DELETE FROM kms_wrap.kms_keys WHERE id = 12');
ROLLBACK TO s;
UPDATE kms_wrap.rewrap_campaigns SET status = 'cancelled';
DELETE FROM kms_wrap.kms_providers WHERE id = 3 RETURNING id;
SELECT id, from_key_id, from_provider_id, policy_id, target_layers FROM kms_wrap.rewrap_campaigns ORDER BY id;
ROLLBACK;
BEGIN;
INSERT INTO kms_wrap.rewrap_jobs (key_wrapper_id, target_kms2_key_id, status, lease_owner, lease_until) VALUES (1, 22, 'running', 'me', now());
SAVEPOINT s;
DELETE FROM kms_wrap.kms_keys WHERE id = 22;
ROLLBACK TO s;
UPDATE kms_wrap.rewrap_jobs SET status = 'done', lease_owner = NULL, lease_until = NULL;
DELETE FROM kms_wrap.kms_keys WHERE id = 22 RETURNING id;
SELECT status, target_kms2_key_id FROM kms_wrap.rewrap_jobs;
ROLLBACK;
BEGIN;
INSERT INTO kms_wrap.rewrap_campaigns (id) VALUES (1);
INSERT INTO kms_wrap.rewrap_jobs (key_wrapper_id, campaign_id) VALUES (1, 1), (2, 1);
DELETE FROM kms_wrap.key_wrappers WHERE id = 2;
DELETE FROM kms_wrap.rewrap_campaigns WHERE id = 1;
SELECT count(*) FROM kms_wrap.rewrap_jobs;
ROLLBACK;

-- TRUNCATE, by itself and by CASCADE.
\set VERBOSITY default
TRUNCATE kms_wrap.sym_key;
\set VERBOSITY sqlstate
TRUNCATE kms_wrap.asym_key;
TRUNCATE kms_wrap.kms_keys CASCADE;
TRUNCATE kms_wrap.kms_providers CASCADE;
TRUNCATE kms_wrap.provider_config CASCADE;
BEGIN; TRUNCATE kms_wrap.key_wrappers CASCADE; SELECT count(*) FROM kms_wrap.key_wrapper_layers; TRUNCATE kms_wrap.kms_keys CASCADE; SELECT count(*) FROM kms_wrap.kms_keys; ROLLBACK;
BEGIN; UPDATE kms_wrap.key_wrappers SET status = 'invalid' WHERE id = 1; TRUNCATE kms_wrap.provider_config CASCADE; SELECT count(*) FROM kms_wrap.kms_keys; ROLLBACK;

-- Views.
SELECT kms_key_id, slot, active, rotated, retired, invalid, live FROM kms_wrap.vw_kms_key_dependents WHERE kms_key_id IN (11, 13, 14, 31) ORDER BY kms_key_id, slot;
SELECT id, layer_count, first_layer_no, last_layer_no, has_pq_layer FROM kms_wrap.vw_key_wrapper_layers_summary ORDER BY id;
SELECT id, dek_wrap1_sha256 = encode(sha256('\x01'), 'hex') AS fingerprint, is_active, is_rotated FROM kms_wrap.vw_key_wrappers ORDER BY id;
SELECT * FROM kms_wrap.vw_key_wrapper_layers_pq_readiness_summary;
SELECT count(*) FROM kms_wrap.vw_key_wrappers_missing_pq;
SELECT provider, provider_name, total, active FROM kms_wrap.vw_kms_keys_status_by_provider ORDER BY provider_name;
BEGIN;
INSERT INTO kms_wrap.rewrap_campaigns (id, status, total, already_current, done, failed, cancelled, started_at, finished_at) VALUES
    (1, 'done', 100, 7, 95, 5, 0, '2030-01-01', '2030-01-01 00:00:10'), (2, 'running', 0, 0, 0, 0, 0, NULL, NULL),
    (3, 'cancelled', 40, 0, 10, 0, 30, '2030-01-01', '2030-01-01 00:00:10'), (4, 'done', 0, 3, 0, 0, 0, '2030-01-01', '2030-01-01'),
    (5, 'running', 1000, 0, 100, 0, 0, clock_timestamp() - interval '1 day', NULL);
SELECT campaign_id, status, total, open, percent, rate_per_second, eta BETWEEN '8 days 23:00' AND '9 days 01:00' AS about_nine_days
FROM kms_wrap.kw_rewrap_progress ORDER BY campaign_id;
ROLLBACK;

-- When kw_run_jobs waits: a running campaign with a job due within 5 s, not far ahead and in its window.
BEGIN;
INSERT INTO kms_wrap.rewrap_campaigns (id) VALUES (1);
SELECT kms_wrap.kw_jobs_wait();
INSERT INTO kms_wrap.rewrap_jobs (key_wrapper_id, campaign_id) VALUES (1, 1);
SELECT kms_wrap.kw_jobs_wait();
UPDATE kms_wrap.rewrap_campaigns SET rate_per_second = 1, next_claim_at = clock_timestamp() + interval '100 s';
SELECT kms_wrap.kw_jobs_wait() BETWEEN 90 AND 100 AS waits;
UPDATE kms_wrap.rewrap_campaigns SET next_claim_at = 'infinity';
SELECT kms_wrap.kw_jobs_wait();
UPDATE kms_wrap.rewrap_campaigns SET next_claim_at = now(), scheduled_at = now() + interval '1 h';
SELECT kms_wrap.kw_jobs_wait();
UPDATE kms_wrap.rewrap_campaigns SET scheduled_at = now(), status = 'paused';
SELECT kms_wrap.kw_jobs_wait();
UPDATE kms_wrap.rewrap_campaigns SET status = 'running', window_start = (localtime + interval '1 h')::time, window_end = (localtime + interval '2 h')::time;
SELECT kms_wrap.kw_jobs_wait();
UPDATE kms_wrap.rewrap_campaigns SET window_start = (localtime - interval '1 h')::time;
SELECT kms_wrap.kw_jobs_wait();
UPDATE kms_wrap.rewrap_jobs SET next_attempt_at = now() + interval '1 min';
SELECT kms_wrap.kw_jobs_wait();
ROLLBACK;
CALL kms_wrap.kw_run_jobs(0);
CALL kms_wrap.kw_run_jobs(NULL, 0);
BEGIN; CALL kms_wrap.kw_run_jobs(1); ROLLBACK;

-- A role with a grant on a view alone sees its rows, and nobody sees the tables.
CREATE ROLE :"testname";
GRANT SELECT ON kms_wrap.vw_key_wrappers TO :"testname";
SET ROLE :"testname";
SELECT count(*) FROM kms_wrap.vw_key_wrappers;
SELECT count(*) FROM kms_wrap.key_wrappers;
SELECT count(*) FROM kms_wrap.vw_kms_keys;
SELECT kms_wrap.kw_key_in_use(11, true);
CALL kms_wrap.kw_run_jobs();
RESET ROLE;
DROP OWNED BY :"testname";
DROP ROLE :"testname";
