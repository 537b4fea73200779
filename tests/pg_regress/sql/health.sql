-- kw_health: one row a component, green or what to do.
\pset footer off
\pset null '-'
\pset format unaligned
\pset fieldsep ' | '
-- What differs from run to run is replaced; root keys of other tests lie in the same directory and are left out, and
-- the worker's row, which depends on shared_preload_libraries.
CREATE FUNCTION health() RETURNS TABLE (component text, name text, status text, detail text, action text) LANGUAGE sql AS $$
    SELECT component, regexp_replace(name, '^/.*\.kms_wrap$', '<key directory>'), status,
        regexp_replace(regexp_replace(regexp_replace(detail, '[0-9a-f]{32}', '<fingerprint>', 'g'), '/[^"]*\.kms_wrap', '<key directory>'),
                       '\d{4}-\d\d-\d\d [0-9:.]+\+00', '<time>'), action
    FROM kms_wrap.kw_health() h WHERE component <> 'worker' AND (component <> 'root key' OR name LIKE 'health-%')
$$;
-- Nothing set up yet. The directory is there when another test has made it.
SELECT * FROM health() WHERE component <> 'key directory';
-- No worker serves this database; jobs can run without.
SELECT status, action LIKE '%CALL kms_wrap.kw_run_jobs()%' AS names_the_way_out FROM kms_wrap.kw_health() WHERE component = 'worker';

SELECT kms_wrap.kw_create_root_key(:'testname' || '-a') AS root_a, kms_wrap.kw_create_root_key(:'testname' || '-b') AS root_b \gset
SELECT kms_wrap.kw_add_provider('a', 'local', jsonb_build_object('root_key', :'testname' || '-a')) AS a,
    kms_wrap.kw_add_provider('b', 'local', jsonb_build_object('root_key', :'testname' || '-b')) AS b \gset
SELECT * FROM health();
SELECT kms_wrap.kw_create_local_key('a', 'a1', 'XAES-256-GCM') AS a1, kms_wrap.kw_create_local_key('b', 'b1', 'XAES-256-GCM') AS b1,
    kms_wrap.kw_create_local_key('a', 'a2', 'XAES-256-GCM') AS a2, kms_wrap.kw_create_local_key('a', 'm1', 'ML-KEM-768') AS m1 \gset
SELECT kms_wrap.kw_create_policy('good', 'split', min_nist_level => 3), kms_wrap.kw_create_policy('empty', 'split'), kms_wrap.kw_create_policy('bare', 'split', min_layers => 0),
    kms_wrap.kw_create_policy('one-owner', 'split', min_layers => 0), kms_wrap.kw_create_policy('weak', 'split', min_nist_level => 5) \g /dev/null
SELECT kms_wrap.kw_policy_add_key(p, 'kms1', :a1), kms_wrap.kw_policy_add_key(p, 'kms2', key)
FROM (VALUES ('good', :b1), ('bare', :b1), ('one-owner', :a2), ('weak', :b1)) v (p, key) \g /dev/null
SELECT kms_wrap.kw_policy_add_key('good', 'layer', :m1), kms_wrap.kw_policy_add_key('weak', 'layer', :m1) \g /dev/null
UPDATE kms_wrap.encryption_policies SET is_enabled = false WHERE policy_name = 'empty';
SELECT * FROM health();
UPDATE kms_wrap.encryption_policies SET is_enabled = true WHERE policy_name = 'empty';
SELECT * FROM health() WHERE name = 'empty';
-- It shows the fingerprints that a backup's files must have.
SELECT count(*) AS agree FROM kms_wrap.kw_health() h JOIN kms_wrap.provider_config c ON c.config ->> 'root_key' = h.name
WHERE h.component = 'root key' AND h.status = 'green' AND h.detail LIKE '%' || (c.config ->> 'fingerprint') || '%';

-- Providers and keys out of use, live wrappers without a layer, failed jobs.
UPDATE kms_wrap.kms_providers SET is_enabled = false WHERE name = 'a';
UPDATE kms_wrap.kms_providers SET suspended_until = now() + interval '1 hour', suspend_reason = 'moving house' WHERE name = 'b';
SELECT * FROM health() WHERE component IN ('provider', 'policy');
UPDATE kms_wrap.kms_providers SET is_enabled = true, suspended_until = NULL, suspend_reason = NULL;
SELECT kms_wrap.kw_wrap_dek('bare') AS w \gset
SELECT kms_wrap.kw_create_local_key('b', 'b2', 'XAES-256-GCM') AS b2 \gset
SELECT kms_wrap.kw_policy_add_key('bare', 'kms2', :b2) \g /dev/null
SELECT kms_wrap.kw_schedule_rewrap(wrapper => :'w', target_kms2 => :b2) AS c \gset
SELECT * FROM health() WHERE component IN ('floors', 'jobs');
SELECT kms_wrap.kw_pause(:c) \g /dev/null
SELECT * FROM health() WHERE component = 'jobs';
SELECT kms_wrap.kw_set_key_status(:b2, 'compromised') \g /dev/null
SELECT kms_wrap.kw_resume(:c) \g /dev/null
CALL kms_wrap.kw_run_jobs();
SELECT * FROM health() WHERE component IN ('key', 'jobs');

-- Root key files: missing, of another key, with rights for others.
\setenv KEYDIR :keydir
\setenv TESTNAME :testname
\! mv "$KEYDIR/$TESTNAME-a" "$KEYDIR/$TESTNAME-a.away"
SELECT * FROM health() WHERE component IN ('root key', 'provider');
\! head -c 32 /dev/urandom > "$KEYDIR/$TESTNAME-a" && chmod 0600 "$KEYDIR/$TESTNAME-a"
SELECT * FROM health() WHERE component IN ('root key', 'provider');
\! mv "$KEYDIR/$TESTNAME-a.away" "$KEYDIR/$TESTNAME-a"; chmod 0640 "$KEYDIR/$TESTNAME-a"; chmod 0400 "$KEYDIR/$TESTNAME-b"; echo too short > "$KEYDIR/$TESTNAME-unused"; chmod 0600 "$KEYDIR/$TESTNAME-unused"
SELECT * FROM health() WHERE component IN ('root key', 'provider');
\! chmod 0600 "$KEYDIR/$TESTNAME-a" "$KEYDIR/$TESTNAME-b"; rm "$KEYDIR/$TESTNAME-unused"
SELECT * FROM health() WHERE component IN ('root key', 'provider');

-- Sealed bytes of a key gone, past our guards.
SET session_replication_role = replica;
DELETE FROM kms_wrap.sym_key WHERE key_id = 'a2';
RESET session_replication_role;
SELECT * FROM health() WHERE component = 'provider';
