-- Probes: kw_check_health, what it keeps, suspensions by hand, and what kw_health makes of it.
\pset footer off
\pset null '-'
\pset format unaligned
\pset fieldsep ' | '
\set SHOW_CONTEXT never
CREATE FUNCTION try(sql text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    value text;
    detail text;
BEGIN
    EXECUTE sql INTO value;
    RETURN COALESCE(value, 'NULL');
EXCEPTION WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS detail = PG_EXCEPTION_DETAIL;
    RETURN concat_ws(': ', SQLSTATE, SQLERRM, nullif(detail, ''));
END
$$;
-- Without what differs from run to run.
CREATE FUNCTION probes(provider text DEFAULT NULL) RETURNS TABLE (provider_name text, kms_key_id bigint, key_ref text, status text, has_latency boolean, error text) LANGUAGE sql AS $$
    SELECT provider_name, kms_key_id, key_ref, status, latency_ms >= 0,
        regexp_replace(regexp_replace(error, '[0-9a-f]{32}', '<fingerprint>', 'g'), '/[^"]*\.kms_wrap', '<key directory>')
    FROM kms_wrap.kw_check_health(provider)
$$;
-- Nothing to probe.
SELECT * FROM probes();
SELECT kms_wrap.kw_create_root_key(:'testname' || '-a') AS root_a, kms_wrap.kw_create_root_key(:'testname' || '-b') AS root_b \gset
SELECT kms_wrap.kw_add_provider('a', 'local', jsonb_build_object('root_key', :'testname' || '-a')) AS a,
    kms_wrap.kw_add_provider('b', 'local', jsonb_build_object('root_key', :'testname' || '-b')) AS b \gset
SELECT kms_wrap.kw_create_local_key('a', 'a1', 'XAES-256-GCM') AS a1, kms_wrap.kw_create_local_key('b', 'b1', 'XAES-256-GCM') AS b1,
    kms_wrap.kw_create_local_key('a', 'm1', 'ML-KEM-768') AS m1, kms_wrap.kw_create_local_key('a', 'x1', 'X-Wing') AS x1,
    kms_wrap.kw_create_local_key('a', 'a2', 'XAES-256-GCM') AS a2, kms_wrap.kw_create_local_key('a', 'a3', 'XAES-256-GCM') AS a3 \gset
SELECT kms_wrap.kw_set_key_status(:a2, 'retired'), kms_wrap.kw_set_key_status(:a3, 'disabled') \g /dev/null
-- Symmetric and KEM keys, active and retired ones; not those that are out of use.
SELECT * FROM probes();
SELECT * FROM probes('b');
-- One row a probe is kept; a provider's own row has no key.
SELECT p.name, k.external_key_ref, h.status, h.latency_ms >= 0 AS has_latency, h.error, h.checked_at BETWEEN now() - interval '1 minute' AND clock_timestamp() AS now, count(*)
FROM kms_wrap.kms_health_checks h JOIN kms_wrap.kms_providers p ON p.id = h.provider_id LEFT JOIN kms_wrap.kms_keys k ON k.id = h.kms_key_id
GROUP BY 1, 2, 3, 4, 5, 6 ORDER BY 1, 2 NULLS FIRST;
-- A disabled provider is not probed unless it is named.
UPDATE kms_wrap.kms_providers SET is_enabled = false WHERE name = 'b';
SELECT DISTINCT provider_name FROM probes();
SELECT * FROM probes('b');
UPDATE kms_wrap.kms_providers SET is_enabled = true;
SELECT try($$ SELECT count(*) FROM kms_wrap.kw_check_health('c') $$);

-- The root key away: down, with nothing asked of its keys. The other provider is not concerned, and nobody is suspended by a call.
\setenv KEYDIR :keydir
\setenv TESTNAME :testname
\! mv "$KEYDIR/$TESTNAME-a" "$KEYDIR/$TESTNAME-a.away"
SELECT * FROM probes();
SELECT count(*) FROM kms_wrap.kms_providers WHERE suspended_until IS NOT NULL;
-- Another root key in its place.
\! head -c 32 /dev/urandom > "$KEYDIR/$TESTNAME-a" && chmod 0600 "$KEYDIR/$TESTNAME-a"
SELECT * FROM probes('a') WHERE kms_key_id IS NULL;
\! mv "$KEYDIR/$TESTNAME-a.away" "$KEYDIR/$TESTNAME-a"
-- Sealed bytes of one key gone, past our guards: that key alone is down.
SET session_replication_role = replica;
DELETE FROM kms_wrap.sym_key WHERE key_id = 'a2';
RESET session_replication_role;
SELECT * FROM probes('a');
SELECT kms_wrap.kw_set_key_status(:a2, 'destroyed') \g /dev/null

-- The last 24 hours: what is older does not count, nor what belongs to nobody any more.
INSERT INTO kms_wrap.kms_health_checks (provider_id, status, checked_at) VALUES (:a, 'down', now() - interval '25 hours');
SELECT provider_name, key_ref, probes, up, degraded, down, availability_percent, p50_ms >= 0 AND p50_ms <= p95_ms AND p95_ms <= p99_ms AS percentiles,
    unavailable, throttled, denied, not_found, malformed, slow, last_checked_at > now() - interval '1 hour' AS recent
FROM kms_wrap.vw_kms_health_24h ORDER BY provider_id, kms_key_id NULLS FIRST;
TRUNCATE kms_wrap.kms_health_checks;
INSERT INTO kms_wrap.kms_health_checks (provider_id, kms_key_id, status, latency_ms, error)
SELECT :a, :a1, CASE WHEN i <= 2 THEN 'down' WHEN i <= 5 THEN 'degraded' ELSE 'up' END, CASE WHEN i > 2 THEN i END,
    CASE i WHEN 1 THEN 'unavailable: It did not answer in time.' WHEN 2 THEN 'not_found: x' WHEN 3 THEN 'slow: x' WHEN 4 THEN 'denied: x' WHEN 5 THEN 'denied: x' END
FROM generate_series(1, 100) i;
SELECT key_ref, probes, up, degraded, down, availability_percent, p50_ms, p95_ms, p99_ms, unavailable, throttled, denied, not_found, malformed, slow
FROM kms_wrap.vw_kms_health_24h;

-- Suspended by hand: nothing new under it, what is there opens.
SELECT kms_wrap.kw_create_policy('p', 'split', min_layers => 0) \g /dev/null
SELECT kms_wrap.kw_policy_add_key('p', 'kms1', :a1), kms_wrap.kw_policy_add_key('p', 'kms2', :b1) \g /dev/null
SELECT kms_wrap.kw_wrap_dek('p') AS w \gset
SELECT kms_wrap.kw_suspend_provider('a', 'moving house') BETWEEN now() + interval '59 minutes' AND now() + interval '61 minutes' AS an_hour;
SELECT kms_wrap.kw_suspend_provider('a', 'moving house', '2 days') > now() + interval '47 hours' AS longer;
SELECT is_suspended, suspend_reason FROM kms_wrap.vw_kms_providers ORDER BY id;
SELECT component, status, regexp_replace(detail, '\d{4}-\d\d-\d\d [0-9:.]+\+00', '<time>') AS detail, action FROM kms_wrap.kw_health() WHERE component = 'provider' AND name = 'a';
SELECT try($$ SELECT kms_wrap.kw_wrap_dek('p') $$);
SELECT octet_length(kms_wrap.kw_unwrap(:'w'));
-- It is probed all the same.
SELECT DISTINCT provider_name, status FROM probes('a');
-- Jobs that lead to it wait: they neither fail nor give up, and go on at once when the suspension ends, by hand or by the clock.
SELECT kms_wrap.kw_create_local_key('a', 'a4', 'XAES-256-GCM') AS a4 \gset
SELECT kms_wrap.kw_policy_add_key('p', 'kms1', :a4), kms_wrap.kw_resume_provider('a') \g /dev/null
SELECT kms_wrap.kw_schedule_rewrap(wrapper => :'w', target_kms1 => :a4) AS c \gset
SELECT kms_wrap.kw_suspend_provider('a', 'moving house') \g /dev/null
UPDATE kms_wrap.rewrap_jobs SET attempts = 5;
CALL kms_wrap.kw_run_jobs(max_batches => 1);
SELECT status, attempts, last_error FROM kms_wrap.rewrap_jobs;
SELECT try(format('SELECT kms_wrap.kw_rewrap(%L, target_kms1 => %s)', :'w', :a4));
SELECT kms_wrap.kw_resume_provider('a');
SELECT kms_wrap.kw_resume_provider('a');
CALL kms_wrap.kw_run_jobs(max_batches => 1);
SELECT status, attempts FROM kms_wrap.rewrap_jobs;
SELECT kms_wrap.kw_schedule_rewrap(wrapper => :'w', target_kms1 => :a1) AS c \gset
SELECT kms_wrap.kw_suspend_provider('a', 'moving house') \g /dev/null
CALL kms_wrap.kw_run_jobs(max_batches => 1);
UPDATE kms_wrap.kms_providers SET suspended_until = clock_timestamp() WHERE name = 'a';
CALL kms_wrap.kw_run_jobs(max_batches => 1);
SELECT status, attempts FROM kms_wrap.rewrap_jobs WHERE campaign_id = :c;
-- A layer's target counts too.
BEGIN;
UPDATE kms_wrap.kms_providers SET suspended_until = now() + interval '1 h', suspend_reason = 'x' WHERE name = 'a';
INSERT INTO kms_wrap.rewrap_campaigns (id, target_layers) VALUES (1, jsonb_build_object('1', :m1::bigint));
INSERT INTO kms_wrap.rewrap_jobs (key_wrapper_id, campaign_id) SELECT max(id), 1 FROM kms_wrap.key_wrappers;
SELECT kms_wrap.kw_jobs_claim(1), kms_wrap.kw_jobs_wait();
UPDATE kms_wrap.rewrap_campaigns SET target_layers = jsonb_build_object('1', :b1::bigint) WHERE id = 1;
SELECT kms_wrap.kw_jobs_wait(), kms_wrap.kw_jobs_claim(1);
ROLLBACK;
-- One that a worker has made ends by hand too.
UPDATE kms_wrap.kms_providers SET suspended_until = now() + interval '3 minutes', suspend_reason = 'health: unavailable: It did not answer in time.' WHERE name = 'a';
SELECT status, regexp_replace(detail, '\d{4}-\d\d-\d\d [0-9:.]+\+00', '<time>') AS detail, action FROM kms_wrap.kw_health() WHERE component = 'provider' AND name = 'a' AND detail LIKE '%suspended%';
SELECT kms_wrap.kw_resume_provider('a'), (SELECT count(*) FROM kms_wrap.kms_providers WHERE suspended_until IS NOT NULL OR suspend_reason IS NOT NULL);

-- Arguments.
SELECT try(format('SELECT kms_wrap.kw_suspend_provider(%s)', a)) FROM unnest(ARRAY[
    $$NULL, 'x'$$, $$'a', NULL$$, $$'a', 'x', NULL$$, $$'c', 'x'$$, $$'a', ''$$, $$'a', E'x\ny'$$, $$'a', repeat('x', 256)$$, $$'a', 'health: mine'$$,
    $$'a', 'x', '0'$$, $$'a', 'x', '-1 s'$$, $$'a', 'x', '1 year 1 s'$$, $$'a', 'x', '178000000 years'$$]) a;
SELECT try('SELECT kms_wrap.kw_resume_provider(NULL)'), try($$SELECT kms_wrap.kw_resume_provider('c')$$);
SELECT count(*) FROM kms_wrap.kms_providers WHERE suspended_until IS NOT NULL;

-- EXECUTE alone is not enough.
SELECT :'testname' || '_role' AS role \gset
SET client_min_messages = warning;
DROP ROLE IF EXISTS :role;
RESET client_min_messages;
CREATE ROLE :role;
GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA kms_wrap TO :role;
GRANT EXECUTE ON FUNCTION try TO :role;
SET ROLE :role;
SELECT try('SELECT count(*) FROM kms_wrap.kw_check_health()'), try($$SELECT count(*) FROM kms_wrap.kw_check_health('a')$$);
SELECT try($$SELECT kms_wrap.kw_suspend_provider('a', 'x')$$), try($$SELECT kms_wrap.kw_resume_provider('a')$$);
RESET ROLE;
DROP OWNED BY :role;
DROP ROLE :role;

-- A remote provider whose configuration this version cannot use: red, and down without a call. Settings that allow everything are pointed at.
INSERT INTO kms_wrap.provider_config (provider_name, manager, config) VALUES ('r', 'x', '{"endpoint": "https://kmip.example"}') RETURNING id AS config \gset
INSERT INTO kms_wrap.kms_providers (name, provider, location, provider_config_id, trust_domain) VALUES ('r', 'kmip', 'r', :'config', 'r') RETURNING id AS r \gset
INSERT INTO kms_wrap.kms_keys (provider_id, external_key_ref, algorithm) VALUES (:r, 'k', 'AES-256-GCM');
SELECT key_ref, status, has_latency, error FROM probes('r');
SELECT component, name, status, detail, action FROM kms_wrap.kw_health() WHERE component = 'setting' OR name = 'r';
