-- kw_run_jobs works through campaigns without a worker.
\pset footer off
\pset null '-'
\set SHOW_CONTEXT never
SELECT kms_wrap.kw_create_root_key(:'testname' || '-a') AS root_a, kms_wrap.kw_create_root_key(:'testname' || '-b') AS root_b \gset
SELECT kms_wrap.kw_add_provider('a', 'local', jsonb_build_object('root_key', :'testname' || '-a')) AS a,
    kms_wrap.kw_add_provider('b', 'local', jsonb_build_object('root_key', :'testname' || '-b')) AS b \gset
SELECT kms_wrap.kw_create_local_key('a', 'a1', 'XAES-256-GCM') AS a1, kms_wrap.kw_create_local_key('a', 'a2', 'XAES-256-GCM') AS a2,
    kms_wrap.kw_create_local_key('b', 'b1', 'XAES-256-GCM') AS b1, kms_wrap.kw_create_local_key('a', 'm1', 'ML-KEM-768') AS m1,
    kms_wrap.kw_create_local_key('a', 'm2', 'ML-KEM-768') AS m2 \gset
SELECT kms_wrap.kw_create_policy('default', 'split', max_layers => 1) \g /dev/null
SELECT kms_wrap.kw_policy_add_key('default', slot, key, priority)
FROM (VALUES ('kms1', :a1, 1), ('kms1', :a2, 0), ('kms2', :b1, 0), ('layer', :m1, 1), ('layer', :m2, 0)) v (slot, key, priority) \g /dev/null
CREATE TABLE w AS SELECT kms_wrap.kw_wrap_dek(context => jsonb_build_object('n', n::text)) AS wrapper, n FROM generate_series(1, 450) n;
ALTER TABLE w ADD dek bytea;
UPDATE w SET dek = kms_wrap.kw_unwrap(wrapper, jsonb_build_object('n', n::text));
CREATE TABLE before AS SELECT wrapper_uuid, dek_fingerprint, created_at FROM kms_wrap.key_wrappers;

-- Nothing to do.
CALL kms_wrap.kw_run_jobs();

-- A campaign over all of them, in three batches.
SELECT kms_wrap.kw_set_key_status(:a1, 'retired') \g /dev/null
SELECT kms_wrap.kw_schedule_rewrap(from_key => :a1, target_kms1 => :a2, target_layers => jsonb_build_object('1', :m2)) AS c \gset
SELECT status, total, already_current, done, failed, open, percent, eta, started_at, finished_at FROM kms_wrap.kw_rewrap_progress WHERE campaign_id = :c;
CALL kms_wrap.kw_run_jobs(max_batches => 1, batch_size => 200);
SELECT status, done, failed, open, percent, rate_per_second > 0 AS has_rate, eta >= '0' AS has_eta, started_at IS NOT NULL AS started FROM kms_wrap.kw_rewrap_progress WHERE campaign_id = :c;
SELECT status, attempts, count(*), bool_and((lease_owner IS NULL) = (status <> 'running')) AS leases FROM kms_wrap.rewrap_jobs GROUP BY 1, 2 ORDER BY 1;
CALL kms_wrap.kw_run_jobs();
SELECT status, done, failed, cancelled, open, percent, eta, finished_at >= started_at AS finished, last_error FROM kms_wrap.kw_rewrap_progress WHERE campaign_id = :c;
SELECT status, attempts, last_error, lease_owner, count(*) FROM kms_wrap.rewrap_jobs GROUP BY 1, 2, 3, 4;

-- Every wrapper is under the new keys, every DEK what it was, and nothing depends on the old key.
SELECT count(*) AS same FROM w WHERE kms_wrap.kw_unwrap(wrapper, jsonb_build_object('n', n::text)) = dek;
SELECT kw.kms1_key_id = :a2 AS kms1, l.kms_key_id = :m2 AS layer, count(*), count(DISTINCT kw.generation) AS generations,
    bool_and((kw.dek_fingerprint, kw.created_at) = (b.dek_fingerprint, b.created_at)) AS rest_is_same
FROM kms_wrap.key_wrappers kw JOIN kms_wrap.key_wrapper_layers l ON l.key_wrapper_id = kw.id JOIN before b USING (wrapper_uuid) GROUP BY 1, 2;
SELECT external_key_ref, slot, live FROM kms_wrap.vw_kms_key_dependents WHERE live > 0 OR kms_key_id = :a1 ORDER BY 1, 2;
SELECT kms_wrap.kw_set_key_status(:a1, 'destroyed') \g /dev/null
SELECT count(*) AS failures FROM kms_wrap.kw_verify() WHERE NOT ok;

-- A wrapper that was made under the old key while the campaign ran is found at its end.
SELECT kms_wrap.kw_set_key_status(:m1, 'active') \g /dev/null
SELECT kms_wrap.kw_schedule_rewrap(policy => 'default', target_layers => jsonb_build_object('1', :m2)) AS c \gset
SELECT kms_wrap.kw_wrap_dek() AS late \gset
SELECT k.external_key_ref AS layer_of_late FROM kms_wrap.key_wrapper_layers l JOIN kms_wrap.key_wrappers kw ON kw.id = l.key_wrapper_id JOIN kms_wrap.kms_keys k ON k.id = l.kms_key_id WHERE kw.wrapper_uuid = :'late';
CALL kms_wrap.kw_run_jobs();
SELECT k.external_key_ref AS layer_of_late FROM kms_wrap.key_wrapper_layers l JOIN kms_wrap.key_wrappers kw ON kw.id = l.key_wrapper_id JOIN kms_wrap.kms_keys k ON k.id = l.kms_key_id WHERE kw.wrapper_uuid = :'late';
SELECT status, total, already_current, done, failed FROM kms_wrap.kw_rewrap_progress WHERE campaign_id = :c;

-- A bad row fails once, with its reason, and stops nothing.
SELECT kms_wrap.kw_create_local_key('b', 'b2', 'XAES-256-GCM') AS b2 \gset
SELECT kms_wrap.kw_policy_add_key('default', 'kms2', :b2) \g /dev/null
UPDATE kms_wrap.key_wrappers SET dek_wrap2 = set_byte(dek_wrap2, octet_length(dek_wrap2) - 1, get_byte(dek_wrap2, octet_length(dek_wrap2) - 1) # 1)
WHERE wrapper_uuid IN (SELECT wrapper::text FROM w WHERE n IN (10, 20));
UPDATE kms_wrap.key_wrappers SET dek_wrap1 = 'short' WHERE wrapper_uuid = (SELECT wrapper::text FROM w WHERE n = 30);
SELECT kms_wrap.kw_schedule_rewrap(policy => 'default', target_kms2 => :b2) AS c \gset
CALL kms_wrap.kw_run_jobs();
SELECT status, total, done, failed, percent, last_error FROM kms_wrap.kw_rewrap_progress WHERE campaign_id = :c;
SELECT w.n, j.status, j.attempts, j.last_error FROM kms_wrap.rewrap_jobs j JOIN kms_wrap.key_wrappers kw ON kw.id = j.key_wrapper_id JOIN w ON w.wrapper::text = kw.wrapper_uuid
WHERE j.campaign_id = :c AND j.status <> 'done' ORDER BY w.n;
CALL kms_wrap.kw_run_jobs();
SELECT status, failed FROM kms_wrap.kw_rewrap_progress WHERE campaign_id = :c;

-- An outage is tried again later; after the last try it has failed.
SELECT kms_wrap.kw_create_local_key('b', 'b3', 'XAES-256-GCM') AS b3 \gset
SELECT kms_wrap.kw_policy_add_key('default', 'kms2', :b3) \g /dev/null
\setenv KEYDIR :keydir
\setenv TESTNAME :testname
SELECT wrapper FROM w WHERE n = 1 \gset
SELECT kms_wrap.kw_schedule_rewrap(wrapper => :'wrapper', target_kms2 => :b3) AS c \gset
\! mv "$KEYDIR/$TESTNAME-b" "$KEYDIR/$TESTNAME-b.away"
CALL kms_wrap.kw_run_jobs(max_batches => 1);
SELECT status, attempts, max_attempts, regexp_replace(regexp_replace(last_error, '/[^"]*\.kms_wrap', '<key directory>'), '[0-9a-f]{32}', '<fingerprint>') AS last_error, next_attempt_at > started_at AS later
FROM kms_wrap.rewrap_jobs WHERE campaign_id = :c;
SELECT status, done, failed, open FROM kms_wrap.kw_rewrap_progress WHERE campaign_id = :c;
UPDATE kms_wrap.rewrap_jobs SET next_attempt_at = now(), max_attempts = 2 WHERE campaign_id = :c;
CALL kms_wrap.kw_run_jobs(max_batches => 1);
SELECT status, attempts FROM kms_wrap.rewrap_jobs WHERE campaign_id = :c;
\! mv "$KEYDIR/$TESTNAME-b.away" "$KEYDIR/$TESTNAME-b"
SELECT kms_wrap.kw_unwrap(wrapper, '{"n": "1"}') = dek AS opens FROM w WHERE n = 1;

-- A wrapper retired after it was queued.
SELECT kms_wrap.kw_schedule_rewrap(wrapper => :'wrapper', target_kms2 => :b3) AS c \gset
UPDATE kms_wrap.key_wrappers SET status = 'rotated' WHERE wrapper_uuid = :'wrapper';
UPDATE kms_wrap.key_wrappers SET status = 'retired' WHERE wrapper_uuid = :'wrapper';
CALL kms_wrap.kw_run_jobs();
SELECT status, attempts, regexp_replace(last_error, '[0-9a-f]{8}-[0-9a-f-]{27}', '<uuid>') AS last_error FROM kms_wrap.rewrap_jobs WHERE campaign_id = :c;

-- A lease of a session that is gone is taken over.
UPDATE kms_wrap.key_wrappers SET status = 'rotated' WHERE wrapper_uuid = :'wrapper';
SELECT kms_wrap.kw_schedule_rewrap(wrapper => :'wrapper', target_kms2 => :b3) AS c \gset
\c
SELECT kms_wrap.kw_jobs_claim(10) AS claimed;
SELECT status, attempts FROM kms_wrap.rewrap_jobs WHERE campaign_id = :c;
\c
DO $$
BEGIN
    -- The other session's backend takes a moment to go.
    WHILE (SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND backend_type = 'client backend') > 1 LOOP
        PERFORM pg_sleep(0.01), pg_stat_clear_snapshot();
    END LOOP;
END
$$;
CALL kms_wrap.kw_run_jobs();
SELECT status, attempts, last_error FROM kms_wrap.rewrap_jobs WHERE campaign_id = :c;
SELECT kms_wrap.kw_unwrap(wrapper, '{"n": "1"}') = dek AS opens FROM w WHERE n = 1;

-- It commits, so not inside a transaction; and its arguments are counts.
BEGIN;
CALL kms_wrap.kw_run_jobs();
\echo :LAST_ERROR_SQLSTATE
ROLLBACK;
CALL kms_wrap.kw_run_jobs(0);
\echo :LAST_ERROR_SQLSTATE
CALL kms_wrap.kw_run_jobs(batch_size => 0);
\echo :LAST_ERROR_SQLSTATE
CALL kms_wrap.kw_run_jobs(batch_size => NULL);
\echo :LAST_ERROR_SQLSTATE
CALL kms_wrap.kw_run_jobs(batch_size => 10001);
\echo :LAST_ERROR_SQLSTATE
