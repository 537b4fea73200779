-- Versions of keys: what may be set, and how wrappers move to a key's new version. A local key has none, so the versions of these are made up by
-- hand, before the first wrapper uses them.
\pset footer off
\pset null '-'
SELECT kms_wrap.kw_create_root_key(:'testname' || '-a') AS root_a, kms_wrap.kw_create_root_key(:'testname' || '-b') AS root_b \gset
SELECT kms_wrap.kw_add_provider('a', 'local', jsonb_build_object('root_key', :'testname' || '-a')) AS a,
    kms_wrap.kw_add_provider('b', 'local', jsonb_build_object('root_key', :'testname' || '-b')) AS b \gset
SELECT kms_wrap.kw_create_local_key('a', 'a1', 'XAES-256-GCM') AS a1, kms_wrap.kw_create_local_key('a', 'a2', 'XAES-256-GCM') AS a2,
    kms_wrap.kw_create_local_key('b', 'b1', 'XAES-256-GCM') AS b1, kms_wrap.kw_create_local_key('b', 'm1', 'ML-KEM-768') AS m1 \gset
UPDATE kms_wrap.kms_keys SET key_version = '1' WHERE id IN (:a1, :m1);
-- a1 is kms1 of the first policy and kms2 of the second.
SELECT kms_wrap.kw_create_policy(p, 'split', max_layers => 1), kms_wrap.kw_policy_add_key(p, 'layer', :m1) FROM unnest('{first,second}'::text[]) p \g /dev/null
SELECT kms_wrap.kw_policy_add_key('first', 'kms1', :a1), kms_wrap.kw_policy_add_key('first', 'kms1', :a2, -1), kms_wrap.kw_policy_add_key('first', 'kms2', :b1),
    kms_wrap.kw_policy_add_key('second', 'kms1', :b1), kms_wrap.kw_policy_add_key('second', 'kms2', :a1) \g /dev/null
SELECT count(kms_wrap.kw_wrap_dek('first')) FROM generate_series(1, 5);
SELECT count(kms_wrap.kw_wrap_dek('second')) FROM generate_series(1, 5);
CREATE TABLE deks AS SELECT w.id, sha256(kms_wrap.kw_unwrap(w.wrapper_uuid::uuid)) AS sha256 FROM kms_wrap.key_wrappers w;

-- What the bytes name; nothing for a key without versions, and NULL for what is no container.
SELECT DISTINCT kms_wrap.kw_key_version_of(dek_wrap1) AS kms1, kms_wrap.kw_key_version_of(dek_wrap2) AS kms2, kms_wrap.kw_key_version_of(kem_ciphertext) AS layer
FROM kms_wrap.key_wrappers w JOIN kms_wrap.key_wrapper_layers l ON l.key_wrapper_id = w.id ORDER BY 1, 2;
SELECT kms_wrap.kw_key_version_of(v) IS NULL AS none FROM (VALUES (NULL::bytea), (''), ('KWRP'), ('\x4b575250ffff')) t (v)
UNION ALL SELECT kms_wrap.kw_key_version_of(substr(dek_wrap1, 1, 60)) IS NULL FROM kms_wrap.key_wrappers WHERE id = 1000;

-- How a statement ends.
CREATE FUNCTION try(statement text) RETURNS SETOF text LANGUAGE plpgsql AS $$
DECLARE
    message text;
    hint text;
BEGIN
    EXECUTE statement;
    RETURN NEXT 'accepted';
    RAISE EXCEPTION USING ERRCODE = 'UNDO1';
EXCEPTION WHEN SQLSTATE 'UNDO1' THEN NULL;
WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS message = MESSAGE_TEXT, hint = PG_EXCEPTION_HINT;
    RETURN NEXT SQLSTATE || ': ' || message;
    IF hint <> '' THEN
        RETURN NEXT 'HINT: ' || hint;
    END IF;
END
$$;
\pset tuples_only
\pset format unaligned
-- A kind that has none says so. 1 is not there, 2000 is of AWS, 2001 of a token.
INSERT INTO kms_wrap.kms_providers (id, name, provider, location, trust_domain) VALUES (2000, 'aws', 'aws', 'eu-west-1', 'aws'), (2001, 'hsm', 'pkcs11', 'hsm', 'hsm');
INSERT INTO kms_wrap.kms_keys (id, provider_id, external_key_ref, algorithm) VALUES (2000, 2000, 'arn', 'AES-256-GCM'), (2001, 2001, 'label', 'AES-256-GCM');
SELECT key, try(format('SELECT kms_wrap.kw_set_key_version(%s, %L)', key, '2')) FROM unnest(ARRAY[1, :a1, :m1, 2000, 2001]) key;
SELECT try('SELECT kms_wrap.kw_set_key_version(NULL)');
SELECT try(format('SELECT kms_wrap.kw_set_key_version(%s, %L)', :a1, v)) FROM (VALUES (''), (repeat('1', 129)), (E'1\n')) t (v);
-- A key that nobody may use is not asked for, nor one whose provider cannot be reached set.
SELECT kms_wrap.kw_add_provider('bao', 'openbao', '{"endpoint": "http://127.0.0.1:9", "token_file": "none"}') AS bao \gset
INSERT INTO kms_wrap.kms_keys (id, provider_id, external_key_ref, algorithm, key_version) VALUES (2002, :bao, 'app', 'AES-256-GCM', '1');
SELECT left(try('SELECT kms_wrap.kw_set_key_version(2002)'), 6);
SELECT kms_wrap.kw_set_key_status(2002, 'compromised') \g /dev/null
SELECT try('SELECT kms_wrap.kw_set_key_version(2002)');
UPDATE kms_wrap.kms_providers SET is_enabled = false WHERE id = :bao;
SELECT try('SELECT kms_wrap.kw_set_key_version(2002)');

-- By hand: a version for another one, and nothing beside it, while wrappers use the key. Not where there is none, nor beside a public key.
SELECT set, try(format('UPDATE kms_wrap.kms_keys SET %s WHERE id = %s', set, key)) FROM (VALUES
    ('key_version = ''2''', :a1), ('key_version = ''2'', status = ''retired''', :a1), ('key_version = NULL', :a1), ('key_version = ''''', :a1),
    ('key_version = ''2'', external_key_ref = ''z''', :a1), ('key_version = ''2'', algorithm = ''AES-256-GCM''', :a1),
    ('key_version = ''1''', :b1), ('key_version = ''2''', :m1), ('key_version = NULL', :m1), ('key_version = ''1''', :a2)) t (set, key);

\pset tuples_only off
\pset format aligned
-- What has been wrapped stays and opens; what comes goes under the new version.
CREATE FUNCTION opens() RETURNS TABLE (wrappers bigint, open bigint) LANGUAGE sql AS $$
    SELECT count(*), count(*) FILTER (WHERE sha256(kms_wrap.kw_unwrap(w.wrapper_uuid::uuid)) = d.sha256) FROM kms_wrap.key_wrappers w JOIN deks d USING (id) WHERE w.status = 'active'
$$;
CREATE FUNCTION versions() RETURNS TABLE (key text, version text, is_set boolean, active bigint, rotated bigint, retired bigint, invalid bigint, live bigint) LANGUAGE sql AS $$
    SELECT external_key_ref, key_version, is_set, active, rotated, retired, invalid, live FROM kms_wrap.vw_kms_key_versions ORDER BY 1, 2
$$;
UPDATE kms_wrap.kms_keys SET key_version = '2' WHERE id = :a1;
SELECT count(kms_wrap.kw_wrap_dek('first')) FROM generate_series(1, 3);
SELECT * FROM opens();
SELECT * FROM versions();
SELECT value FROM (VALUES (1000), (1010)) t (id) JOIN kms_wrap.key_wrappers w USING (id), kms_wrap.kw_describe_wrapper(w.wrapper_uuid::uuid) WHERE item = 'kms1' ORDER BY id;

-- From a key to itself: where the slot has it, in another version. That policies pick it is no hindrance, for they pick the new version.
SELECT kms_wrap.kw_schedule_rewrap(from_key => :a1, target_kms1 => :a1, dry_run => true);
SELECT kms_wrap.kw_schedule_rewrap(from_key => :a1, target_kms2 => :a1, dry_run => true);
SELECT kms_wrap.kw_schedule_rewrap(policy => 'first', target_kms1 => :a1, dry_run => true);
SELECT kms_wrap.kw_schedule_rewrap(from_key => :a1, target_kms1 => :a2, dry_run => true);
\echo :LAST_ERROR_SQLSTATE
-- One by itself, and again.
SELECT kms_wrap.kw_rewrap(wrapper_uuid::uuid, target_kms1 => :a1) > generation AS written FROM kms_wrap.key_wrappers WHERE id = 1000;
SET client_min_messages = warning;
SELECT kms_wrap.kw_rewrap(wrapper_uuid::uuid, target_kms1 => :a1) = generation AS nothing_to_do FROM kms_wrap.key_wrappers WHERE id = 1000;
SELECT kms_wrap.kw_rewrap(wrapper_uuid::uuid, target_layers => jsonb_build_object('1', :m1)) = generation AS nothing_to_do FROM kms_wrap.key_wrappers WHERE id = 1000;
RESET client_min_messages;
-- All: those of the one slot, then those of the other. Retired wrappers stay, and what does not open fails.
UPDATE kms_wrap.key_wrappers SET status = 'rotated' WHERE id IN (1001, 1002);
UPDATE kms_wrap.key_wrappers SET status = 'retired' WHERE id = 1002;
UPDATE kms_wrap.key_wrappers SET dek_wrap1 = 'x' WHERE id = 1003;
SELECT kms_wrap.kw_schedule_rewrap(from_key => :a1, target_kms1 => :a1) AS c \gset
SELECT count(*) AS jobs FROM kms_wrap.rewrap_jobs;
CALL kms_wrap.kw_run_jobs();
SELECT status, total, already_current, done, failed, open FROM kms_wrap.kw_rewrap_progress;
SELECT key_wrapper_id, last_error FROM kms_wrap.rewrap_jobs WHERE status = 'failed';
SELECT * FROM versions();
SELECT kms_wrap.kw_schedule_rewrap(from_key => :a1, target_kms2 => :a1) AS c \gset
CALL kms_wrap.kw_run_jobs();
SELECT status, total, already_current, done, failed, open FROM kms_wrap.kw_rewrap_progress WHERE campaign_id = :c;
SELECT * FROM versions();
DELETE FROM kms_wrap.rewrap_jobs WHERE key_wrapper_id = 1003;
DELETE FROM kms_wrap.key_wrappers WHERE id = 1003;
SELECT * FROM opens();
-- Nothing is left to do.
SELECT kms_wrap.kw_schedule_rewrap(from_key => :a1, target_kms1 => :a1) AS c \gset
CALL kms_wrap.kw_run_jobs();
SELECT status, total, already_current, done, failed, open FROM kms_wrap.kw_rewrap_progress WHERE campaign_id = :c;
-- A version that is set while a campaign runs: each job takes the one that it finds.
UPDATE kms_wrap.kms_keys SET key_version = '3' WHERE id = :a1;
SELECT kms_wrap.kw_schedule_rewrap(from_key => :a1, target_kms1 => :a1) AS c \gset
UPDATE kms_wrap.kms_keys SET key_version = '4' WHERE id = :a1;
CALL kms_wrap.kw_run_jobs();
SELECT * FROM versions();
SELECT * FROM opens();
-- Under an old snapshot too, which sees no more than the lock does.
BEGIN ISOLATION LEVEL REPEATABLE READ;
UPDATE kms_wrap.kms_keys SET key_version = '5' WHERE id = :a1 RETURNING key_version;
SELECT count(kms_wrap.kw_wrap_dek('first'));
ROLLBACK;
-- The wrappers that a restored dump brings are of whatever version they are: nothing looks at them on the way in.
BEGIN;
CREATE TABLE dump AS SELECT * FROM kms_wrap.key_wrappers;
CREATE TABLE dumped_layers AS SELECT * FROM kms_wrap.key_wrapper_layers;
CREATE TABLE dumped_keys AS SELECT * FROM kms_wrap.kms_keys WHERE id = :a1;
UPDATE dumped_keys SET key_version = '7';
DELETE FROM kms_wrap.rewrap_jobs;
DELETE FROM kms_wrap.rewrap_campaigns;
DELETE FROM kms_wrap.key_wrappers;
DELETE FROM kms_wrap.policy_kms_keys WHERE kms_key_id = :a1;
DELETE FROM kms_wrap.kms_keys WHERE id = :a1;
INSERT INTO kms_wrap.kms_keys SELECT * FROM dumped_keys;
INSERT INTO kms_wrap.key_wrappers SELECT * FROM dump;
INSERT INTO kms_wrap.key_wrapper_layers (id, key_wrapper_id, layer_no, kms_key_id, kem_algo_id, kem_ciphertext, encap_pubkey, aad, meta, created_at)
SELECT id, key_wrapper_id, layer_no, kms_key_id, kem_algo_id, kem_ciphertext, encap_pubkey, aad, meta, created_at FROM dumped_layers;
SELECT * FROM opens();
SELECT * FROM versions();
ROLLBACK;
-- A version that is set while a campaign is at work: what it has moved before is left under the older one, and its end says so.
UPDATE kms_wrap.kms_keys SET key_version = '8' WHERE id = :a1;
SELECT kms_wrap.kw_schedule_rewrap(from_key => :a1, target_kms1 => :a1) AS c \gset
CALL kms_wrap.kw_run_jobs(max_batches => 1, batch_size => 1);
UPDATE kms_wrap.kms_keys SET key_version = '9' WHERE id = :a1;
CALL kms_wrap.kw_run_jobs();
SELECT status, done = total AS all_done, failed, last_error FROM kms_wrap.kw_rewrap_progress WHERE campaign_id = :c;
SELECT kms_wrap.kw_schedule_rewrap(from_key => :a1, target_kms1 => :a1) AS c \gset
CALL kms_wrap.kw_run_jobs();
SELECT status, total, done, failed, last_error FROM kms_wrap.kw_rewrap_progress WHERE campaign_id = :c;
