-- Pause, resume and cancel; when and how fast a campaign runs.
\pset footer off
\pset null '-'
SELECT kms_wrap.kw_create_root_key(:'testname' || '-a') AS root_a, kms_wrap.kw_create_root_key(:'testname' || '-b') AS root_b \gset
SELECT kms_wrap.kw_add_provider('a', 'local', jsonb_build_object('root_key', :'testname' || '-a')) AS a,
    kms_wrap.kw_add_provider('b', 'local', jsonb_build_object('root_key', :'testname' || '-b')) AS b \gset
SELECT kms_wrap.kw_create_local_key('a', 'a1', 'XAES-256-GCM') AS a1, kms_wrap.kw_create_local_key('a', 'a2', 'XAES-256-GCM') AS a2,
    kms_wrap.kw_create_local_key('b', 'b1', 'XAES-256-GCM') AS b1 \gset
SELECT kms_wrap.kw_create_policy('default', 'split', min_layers => 0) \g /dev/null
SELECT kms_wrap.kw_policy_add_key('default', slot, key, priority) FROM (VALUES ('kms1', :a1, 1), ('kms1', :a2, 0), ('kms2', :b1, 0)) v (slot, key, priority) \g /dev/null
SELECT count(kms_wrap.kw_wrap_dek()) FROM generate_series(1, 30) \g /dev/null
CREATE FUNCTION shown(campaign bigint) RETURNS TABLE (status text, total bigint, done bigint, failed bigint, cancelled bigint, open bigint, percent numeric) LANGUAGE sql AS
    'SELECT p.status, p.total, p.done, p.failed, p.cancelled, p.open, p.percent FROM kms_wrap.kw_rewrap_progress p WHERE p.campaign_id = campaign';

-- A paused campaign waits, a resumed one goes on where it was.
SELECT kms_wrap.kw_schedule_rewrap(policy => 'default', target_kms1 => :a2) AS c \gset
CALL kms_wrap.kw_run_jobs(max_batches => 1, batch_size => 10);
SELECT kms_wrap.kw_pause(:c);
CALL kms_wrap.kw_run_jobs();
SELECT * FROM shown(:c);
SELECT kms_wrap.kw_pause(:c);
\echo :LAST_ERROR_SQLSTATE
SELECT kms_wrap.kw_resume(:c);
SELECT kms_wrap.kw_resume(:c);
\echo :LAST_ERROR_SQLSTATE
CALL kms_wrap.kw_run_jobs(max_batches => 1, batch_size => 10);
SELECT * FROM shown(:c);

-- A cancelled one is over; what is done stays done.
SELECT kms_wrap.kw_cancel(:c);
SELECT * FROM shown(:c);
SELECT status, count(*), bool_and(finished_at IS NOT NULL) AS finished FROM kms_wrap.rewrap_jobs GROUP BY 1 ORDER BY 1;
CALL kms_wrap.kw_run_jobs();
SELECT k.external_key_ref AS kms1, count(*) FROM kms_wrap.key_wrappers w JOIN kms_wrap.kms_keys k ON k.id = w.kms1_key_id GROUP BY 1 ORDER BY 1;
SELECT kms_wrap.kw_cancel(:c);
\echo :LAST_ERROR_SQLSTATE
SELECT kms_wrap.kw_resume(:c);
\echo :LAST_ERROR_SQLSTATE
SELECT kms_wrap.kw_pause(:c);
\echo :LAST_ERROR_SQLSTATE
-- A paused one can be cancelled.
SELECT kms_wrap.kw_schedule_rewrap(policy => 'default', target_kms1 => :a2) AS c \gset
SELECT kms_wrap.kw_pause(:c), kms_wrap.kw_cancel(:c);
SELECT * FROM shown(:c);
-- No such campaign.
SELECT kms_wrap.kw_pause(1), kms_wrap.kw_resume(1), kms_wrap.kw_cancel(1);
\echo :LAST_ERROR_SQLSTATE

-- scheduled_at: not before.
SELECT kms_wrap.kw_schedule_rewrap(policy => 'default', target_kms1 => :a2, scheduled_at => now() + interval '1 hour') AS c \gset
CALL kms_wrap.kw_run_jobs();
SELECT * FROM shown(:c);
UPDATE kms_wrap.rewrap_campaigns SET scheduled_at = now() WHERE id = :c;
CALL kms_wrap.kw_run_jobs();
SELECT * FROM shown(:c);

-- A window of the day, here one that is not now, then one that goes over midnight and is now.
SELECT CASE WHEN LOCALTIME < '12:00' THEN '18:00' ELSE '03:00' END AS far, CASE WHEN LOCALTIME < '12:00' THEN '20:00' ELSE '05:00' END AS far_end,
    CASE WHEN LOCALTIME < '12:00' THEN '20:00' ELSE '11:59' END AS now_start, CASE WHEN LOCALTIME < '12:00' THEN '12:01' ELSE '03:00' END AS now_end \gset
SELECT kms_wrap.kw_schedule_rewrap(policy => 'default', target_kms1 => :a1, window_start => :'far', window_end => :'far_end') AS c \gset
CALL kms_wrap.kw_run_jobs();
SELECT * FROM shown(:c);
UPDATE kms_wrap.rewrap_campaigns SET window_start = :'now_start', window_end = :'now_end' WHERE id = :c;
CALL kms_wrap.kw_run_jobs();
SELECT * FROM shown(:c);

-- rate_per_second: 30 wrappers at 10 a second are three batches, a second apart.
SELECT kms_wrap.kw_schedule_rewrap(policy => 'default', target_kms1 => :a2, rate_per_second => 10) AS c, clock_timestamp() AS start \gset
CALL kms_wrap.kw_run_jobs();
SELECT * FROM shown(:c);
SELECT clock_timestamp() - :'start' BETWEEN interval '2 s' AND interval '20 s' AS took_two_seconds_or_more;

-- Higher priority first, then the older campaign.
CREATE TABLE half AS SELECT wrapper_uuid::uuid AS w, row_number() OVER (ORDER BY id) AS n FROM kms_wrap.key_wrappers;
SELECT kms_wrap.kw_schedule_rewrap(wrapper => (SELECT w FROM half WHERE n = 1), target_kms1 => :a1) AS low,
    kms_wrap.kw_schedule_rewrap(wrapper => (SELECT w FROM half WHERE n = 2), target_kms1 => :a1, priority => 5) AS high,
    kms_wrap.kw_schedule_rewrap(wrapper => (SELECT w FROM half WHERE n = 3), target_kms1 => :a1) AS low_too \gset
CALL kms_wrap.kw_run_jobs(max_batches => 1);
SELECT (SELECT done FROM shown(:low)) AS low, (SELECT done FROM shown(:high)) AS high, (SELECT done FROM shown(:low_too)) AS low_too;
CALL kms_wrap.kw_run_jobs(max_batches => 1);
SELECT (SELECT done FROM shown(:low)) AS low, (SELECT done FROM shown(:high)) AS high, (SELECT done FROM shown(:low_too)) AS low_too;
CALL kms_wrap.kw_run_jobs();
SELECT count(*) AS ended FROM kms_wrap.rewrap_campaigns WHERE id IN (:low, :high, :low_too) AND status = 'done' AND finished_at IS NOT NULL;
SELECT count(*) AS failures FROM kms_wrap.kw_verify() WHERE NOT ok;
