-- kw_schedule_rewrap: which wrappers a selector names, and what is refused at once.
\pset footer off
\pset null '-'
SELECT kms_wrap.kw_create_root_key(:'testname' || '-a') AS root_a, kms_wrap.kw_create_root_key(:'testname' || '-b') AS root_b \gset
SELECT kms_wrap.kw_add_provider('a', 'local', jsonb_build_object('root_key', :'testname' || '-a')) AS a,
    kms_wrap.kw_add_provider('b', 'local', jsonb_build_object('root_key', :'testname' || '-b')) AS b \gset
SELECT kms_wrap.kw_create_local_key('a', 'a1', 'XAES-256-GCM') AS a1, kms_wrap.kw_create_local_key('a', 'a2', 'XAES-256-GCM') AS a2,
    kms_wrap.kw_create_local_key('b', 'b1', 'XAES-256-GCM') AS b1, kms_wrap.kw_create_local_key('b', 'b2', 'XAES-256-GCM') AS b2,
    kms_wrap.kw_create_local_key('b', 'm1', 'ML-KEM-768') AS m1, kms_wrap.kw_create_local_key('a', 'm2', 'ML-KEM-768') AS m2 \gset
SELECT kms_wrap.kw_create_policy(p, 'split', max_layers => 1), kms_wrap.kw_policy_add_key(p, 'kms1', :a1, 1), kms_wrap.kw_policy_add_key(p, 'kms1', :a2),
    kms_wrap.kw_policy_add_key(p, 'kms2', :b1, 1), kms_wrap.kw_policy_add_key(p, 'kms2', :b2), kms_wrap.kw_policy_add_key(p, 'layer', :m1, 1),
    kms_wrap.kw_policy_add_key(p, 'layer', :m2)
FROM unnest('{first,second}'::text[]) p \g /dev/null
SELECT count(kms_wrap.kw_wrap_dek('first')) FROM generate_series(1, 10) \g /dev/null
SELECT count(kms_wrap.kw_wrap_dek('second')) FROM generate_series(1, 5) \g /dev/null
-- One of each status; only active and rotated wrappers are rewrapped. One is old.
UPDATE kms_wrap.key_wrappers SET status = 'rotated' WHERE id IN (1001, 1002, 1003);
UPDATE kms_wrap.key_wrappers SET status = 'retired' WHERE id = 1002;
UPDATE kms_wrap.key_wrappers SET status = 'invalid' WHERE id = 1003;
UPDATE kms_wrap.key_wrappers SET created_at = now() - interval '100 days' WHERE id IN (1000, 1012);
SELECT p.policy_name, w.status, count(*) FROM kms_wrap.key_wrappers w JOIN kms_wrap.encryption_policies p ON p.id = w.policy_id GROUP BY 1, 2 ORDER BY 1, 2;

-- dry_run counts only, and makes no campaign.
SELECT kms_wrap.kw_schedule_rewrap(policy => 'first', target_kms1 => :a2, dry_run => true);
SELECT kms_wrap.kw_schedule_rewrap(policy => 'second', target_kms1 => :a2, dry_run => true);
SELECT kms_wrap.kw_schedule_rewrap(from_provider => 'a', target_kms1 => :a2, dry_run => true);
SELECT kms_wrap.kw_schedule_rewrap(older_than => '30 days', target_kms1 => :a2, dry_run => true);
SELECT kms_wrap.kw_schedule_rewrap(wrapper => (SELECT wrapper_uuid::uuid FROM kms_wrap.key_wrappers WHERE id = 1001), target_kms1 => :a2, dry_run => true);
-- Selectors are joined by AND.
SELECT kms_wrap.kw_schedule_rewrap(policy => 'first', older_than => '30 days', target_kms1 => :a2, dry_run => true);
SELECT kms_wrap.kw_schedule_rewrap(policy => 'second', from_provider => 'b', older_than => '200 days', target_kms1 => :a2, dry_run => true);
SELECT count(*) AS campaigns FROM kms_wrap.rewrap_campaigns;

-- A source that a policy still picks would get new wrappers all the time.
SELECT kms_wrap.kw_schedule_rewrap(from_key => :a1, target_kms1 => :a2, dry_run => true);
\echo :LAST_ERROR_SQLSTATE
SELECT kms_wrap.kw_set_key_status(:a1, 'retired') \g /dev/null
SELECT kms_wrap.kw_schedule_rewrap(from_key => :a1, target_kms1 => :a2, dry_run => true);
-- A key is a source in whatever slot.
SELECT kms_wrap.kw_set_key_status(:b1, 'retired'), kms_wrap.kw_set_key_status(:m1, 'retired') \g /dev/null
SELECT kms_wrap.kw_schedule_rewrap(from_key => :b1, target_kms2 => :b2, dry_run => true);
SELECT kms_wrap.kw_schedule_rewrap(from_key => :m1, target_layers => jsonb_build_object('1', :m2), dry_run => true);
-- A key that is taken out of its policies is no longer picked either.
SELECT kms_wrap.kw_set_key_status(:a1, 'active'), kms_wrap.kw_policy_remove_key('first', :a1), kms_wrap.kw_policy_remove_key('second', :a1) \g /dev/null
SELECT kms_wrap.kw_schedule_rewrap(from_key => :a1, target_kms1 => :a2, dry_run => true);

-- A campaign and its jobs.
SELECT kms_wrap.kw_schedule_rewrap(from_key => :a1, policy => 'first', target_kms1 => :a2) AS c \gset
SELECT id = :c AS is_c, verb, wrapper_uuid, from_key_id = :a1 AS from_key, from_provider_id, policy_id IS NOT NULL AS policy, older_than, target_kms1_key_id = :a2 AS to_a2, target_kms2_key_id, target_layers,
    rate_per_second, window_start, window_end, priority, status, total, already_current, done, failed, cancelled, created_by, started_at, finished_at
FROM kms_wrap.rewrap_campaigns \gx
SELECT count(*) AS jobs, count(DISTINCT key_wrapper_id) AS wrappers, min(status) AS status, min(attempts) AS attempts, bool_and(target_kms1_key_id = :a2) AS to_a2, bool_and(campaign_id = :c) AS of_c
FROM kms_wrap.rewrap_jobs;
-- Another campaign leaves wrappers with an open job alone, and takes them up when they are free.
SELECT kms_wrap.kw_schedule_rewrap(policy => 'first', target_kms2 => :b2) AS c2 \gset
SELECT count(*) AS jobs FROM kms_wrap.rewrap_jobs WHERE campaign_id = :c2;
CALL kms_wrap.kw_run_jobs();
SELECT campaign_id = :c2 AS is_c2, status, total, already_current, done, failed FROM kms_wrap.kw_rewrap_progress ORDER BY campaign_id;
-- Only wrappers that have every target are current.
SELECT kms_wrap.kw_schedule_rewrap(policy => 'first', target_kms1 => :a2, dry_run => true);
SELECT kms_wrap.kw_schedule_rewrap(policy => 'first', target_kms1 => :a2, target_layers => jsonb_build_object('1', :m2), dry_run => true);
-- Nothing matches: a campaign that is at its end with the next look.
SELECT kms_wrap.kw_schedule_rewrap(from_key => :a1, policy => 'first', target_kms1 => :a2) AS c3 \gset
CALL kms_wrap.kw_run_jobs();
SELECT status, total, percent, finished_at >= started_at AS finished FROM kms_wrap.kw_rewrap_progress WHERE campaign_id = :c3;

-- Rolled back with its transaction.
BEGIN;
SELECT kms_wrap.kw_schedule_rewrap(policy => 'second', target_layers => jsonb_build_object('1', :m2)) > 0 AS scheduled;
ROLLBACK;
SELECT count(*) AS open_jobs FROM kms_wrap.rewrap_jobs WHERE status IN ('pending', 'running');
