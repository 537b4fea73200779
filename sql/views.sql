-- Views run with their owner's rights, so that SELECT on one can be granted without the table behind it. No view shows wrapped
-- or sealed bytes: *_sha256 is the hex SHA-256 by which they can be compared.

CREATE VIEW kms_wrap.vw_kms_providers WITH (security_barrier) AS
SELECT p.id, p.name, p.provider, p.location, p.project_tenant, p.created_at, p.is_enabled, p.provider_config_id, p.trust_domain,
    p.suspended_until, p.suspend_reason, COALESCE(p.suspended_until > CURRENT_TIMESTAMP, false) AS is_suspended
FROM kms_wrap.kms_providers p;

CREATE VIEW kms_wrap.vw_kms_keys WITH (security_barrier) AS
SELECT k.id, k.provider_id, k.external_key_ref, k.purpose, k.algorithm, k.status, k.created_at, k.key_version,
    encode(k.public_key_sha256, 'hex') AS public_key_sha256, k.status_changed_at
FROM kms_wrap.kms_keys k;

CREATE VIEW kms_wrap.vw_kms_keys_status_by_provider WITH (security_barrier) AS
SELECT p.provider, p.name AS provider_name, count(k.id) AS total,
    count(k.id) FILTER (WHERE k.status = 'active') AS active,
    count(k.id) FILTER (WHERE k.status = 'retired') AS retired,
    count(k.id) FILTER (WHERE k.status = 'disabled') AS disabled,
    count(k.id) FILTER (WHERE k.status = 'compromised') AS compromised,
    count(k.id) FILTER (WHERE k.status = 'destroyed') AS destroyed
FROM kms_wrap.kms_providers p
LEFT JOIN kms_wrap.kms_keys k ON k.provider_id = p.id
GROUP BY p.id, p.provider, p.name;

-- Counted per key, from its indexes: asking for one key doesn't read the others' wrappers.
CREATE VIEW kms_wrap.vw_kms_key_dependents WITH (security_barrier) AS
SELECT k.id AS kms_key_id, p.name AS provider_name, k.external_key_ref, k.status AS key_status, s.slot,
    n.active, n.rotated, n.retired, n.invalid, n.active + n.rotated + n.retired AS live
FROM kms_wrap.kms_keys k
JOIN kms_wrap.kms_providers p ON p.id = k.provider_id
CROSS JOIN (VALUES ('kms1'), ('kms2'), ('layer')) s (slot)
CROSS JOIN LATERAL (
    SELECT count(*) FILTER (WHERE w.status = 'active') AS active, count(*) FILTER (WHERE w.status = 'rotated') AS rotated,
        count(*) FILTER (WHERE w.status = 'retired') AS retired, count(*) FILTER (WHERE w.status = 'invalid') AS invalid
    FROM (
        SELECT w.status FROM kms_wrap.key_wrappers w WHERE s.slot = 'kms1' AND w.kms1_key_id = k.id
        UNION ALL
        SELECT w.status FROM kms_wrap.key_wrappers w WHERE s.slot = 'kms2' AND w.kms2_key_id = k.id
        UNION ALL
        SELECT w.status
        FROM kms_wrap.key_wrapper_layers l
        JOIN kms_wrap.key_wrappers w ON w.id = l.key_wrapper_id
        WHERE s.slot = 'layer' AND l.kms_key_id = k.id
    ) w
) n;

-- For keys that have versions, which no key of a layer does. Reads the containers of all wrappers under them.
CREATE VIEW kms_wrap.vw_kms_key_versions WITH (security_barrier) AS
SELECT k.id AS kms_key_id, p.name AS provider_name, k.external_key_ref, n.key_version, n.key_version IS NOT DISTINCT FROM k.key_version AS is_set,
    n.active, n.rotated, n.retired, n.invalid, n.active + n.rotated + n.retired AS live
FROM kms_wrap.kms_keys k
JOIN kms_wrap.kms_providers p ON p.id = k.provider_id
CROSS JOIN LATERAL (
    SELECT w.key_version, count(*) FILTER (WHERE w.status = 'active') AS active, count(*) FILTER (WHERE w.status = 'rotated') AS rotated,
        count(*) FILTER (WHERE w.status = 'retired') AS retired, count(*) FILTER (WHERE w.status = 'invalid') AS invalid
    FROM (
        SELECT w.status, kms_wrap.kw_key_version_of(w.dek_wrap1) AS key_version FROM kms_wrap.key_wrappers w WHERE w.kms1_key_id = k.id
        UNION ALL
        SELECT w.status, kms_wrap.kw_key_version_of(w.dek_wrap2) FROM kms_wrap.key_wrappers w WHERE w.kms2_key_id = k.id
    ) w
    GROUP BY w.key_version
) n
WHERE k.key_version IS NOT NULL;

CREATE VIEW kms_wrap.vw_crypto_algorithms WITH (security_barrier) AS
SELECT a.id, a.class, a.name, a.variant, a.nist_level, a.status, a.params, a.created_at
FROM kms_wrap.crypto_algorithms a;

CREATE VIEW kms_wrap.vw_crypto_algorithms_deprecation WITH (security_barrier) AS
SELECT a.id, a.class, a.name, a.variant, a.nist_level, a.status, a.params, a.created_at
FROM kms_wrap.crypto_algorithms a
WHERE a.status = 'deprecated';

CREATE VIEW kms_wrap.vw_encryption_policies WITH (security_barrier) AS
SELECT p.id, p.policy_name, p.mode, p.layer_selection, p.min_layers, p.max_layers, p.aad_template, p.notes, p.created_at,
    p.policy_uuid, p.composition, p.min_nist_level, p.require_origin, p.allow_same_trust_domain, p.value_cipher, p.cache_ttl,
    p.cache_uses, p.outage, p.dek_scope, p.is_enabled, p.stale_for, p.verify_every_wrap, p.value_pad_to
FROM kms_wrap.encryption_policies p;

CREATE VIEW kms_wrap.vw_policy_kms_keys WITH (security_barrier) AS
SELECT m.policy_id, m.kms_key_id, m.weight, m.priority, m.created_at, m.updated_at, m.slot, e.policy_name,
    p.name AS provider_name, k.external_key_ref, k.status AS key_status
FROM kms_wrap.policy_kms_keys m
JOIN kms_wrap.encryption_policies e ON e.id = m.policy_id
JOIN kms_wrap.kms_keys k ON k.id = m.kms_key_id
JOIN kms_wrap.kms_providers p ON p.id = k.provider_id;

CREATE VIEW kms_wrap.vw_key_wrappers WITH (security_barrier) AS
SELECT w.id, w.wrapper_uuid, w.kms1_key_id, w.kms2_key_id, w.crypto_suite, w.wrap_version, w.status, w.created_at, w.rotated_at,
    w.policy_id, w.purpose, encode(w.scope_key, 'hex') AS scope_key, w.epoch, w.generation, w.successor_id,
    encode(w.dek_fingerprint, 'hex') AS dek_fingerprint, w.status = 'active' AS is_active, w.status = 'rotated' AS is_rotated,
    encode(sha256(w.dek_wrap1), 'hex') AS dek_wrap1_sha256, encode(sha256(w.dek_wrap2), 'hex') AS dek_wrap2_sha256
FROM kms_wrap.key_wrappers w;

CREATE VIEW kms_wrap.vw_key_wrapper_layers WITH (security_barrier) AS
SELECT l.id, l.key_wrapper_id, l.layer_no, l.kms_key_id, l.kem_algo_id, l.aad, l.meta, l.created_at,
    a.name AS kem_algorithm, encode(sha256(l.kem_ciphertext), 'hex') AS kem_ciphertext_sha256,
    encode(sha256(l.encap_pubkey), 'hex') AS encap_pubkey_sha256
FROM kms_wrap.key_wrapper_layers l
JOIN kms_wrap.crypto_algorithms a ON a.id = l.kem_algo_id;

CREATE VIEW kms_wrap.vw_key_wrapper_layers_summary WITH (security_barrier) AS
SELECT w.id, w.wrapper_uuid, w.status, count(l.id) AS layer_count, min(l.layer_no) AS first_layer_no,
    max(l.layer_no) AS last_layer_no, COALESCE(bool_or(a.nist_level IS NOT NULL), false) AS has_pq_layer
FROM kms_wrap.key_wrappers w
LEFT JOIN kms_wrap.key_wrapper_layers l ON l.key_wrapper_id = w.id
LEFT JOIN kms_wrap.crypto_algorithms a ON a.id = l.kem_algo_id
GROUP BY w.id, w.wrapper_uuid, w.status;

-- A layer is part of every path, so one post-quantum layer makes the wrapper post-quantum.
CREATE VIEW kms_wrap.vw_key_wrappers_missing_pq WITH (security_barrier) AS
SELECT w.id, w.wrapper_uuid, w.status, w.created_at
FROM kms_wrap.key_wrappers w
WHERE NOT EXISTS (
    SELECT FROM kms_wrap.key_wrapper_layers l
    JOIN kms_wrap.crypto_algorithms a ON a.id = l.kem_algo_id
    WHERE l.key_wrapper_id = w.id AND a.nist_level IS NOT NULL);

CREATE VIEW kms_wrap.vw_key_wrapper_layers_pq_readiness_summary WITH (security_barrier) AS
SELECT
    (SELECT count(*) FROM kms_wrap.crypto_algorithms a
     WHERE a.class = 'kem' AND a.status = 'active' AND a.nist_level IS NOT NULL) AS active_pq_kems,
    (SELECT count(*) FROM kms_wrap.crypto_algorithms a
     WHERE a.class = 'sig' AND a.status = 'active' AND a.nist_level IS NOT NULL) AS active_pq_sigs,
    (SELECT count(DISTINCT l.key_wrapper_id) FROM kms_wrap.key_wrapper_layers l
     JOIN kms_wrap.crypto_algorithms a ON a.id = l.kem_algo_id
     WHERE a.nist_level IS NOT NULL) AS wrappers_with_pq_layers,
    (SELECT count(*) FROM kms_wrap.key_wrappers) AS wrappers_total;

CREATE VIEW kms_wrap.vw_encryption_bindings WITH (security_barrier) AS
SELECT b.id, b.entity_table, b.entity_pk, b.field_name, b.key_wrapper_id, b.created_at, w.wrapper_uuid,
    w.status AS wrapper_status
FROM kms_wrap.encryption_bindings b
JOIN kms_wrap.key_wrappers w ON w.id = b.key_wrapper_id;

CREATE VIEW kms_wrap.vw_rewrap_jobs WITH (security_barrier) AS
SELECT j.id, j.key_wrapper_id, j.target_kms1_key_id, j.target_kms2_key_id, j.scheduled_at, j.started_at, j.finished_at,
    j.status, j.attempts, j.last_error, j.created_at, j.campaign_id, j.verb, j.target_layers, j.priority, j.max_attempts,
    j.next_attempt_at, j.lease_owner, j.lease_until, j.status = 'done' AS is_done, j.status = 'running' AS is_running
FROM kms_wrap.rewrap_jobs j;

-- From the campaign's counters alone: watching it every second costs nothing however many jobs it has.
CREATE VIEW kms_wrap.kw_rewrap_progress WITH (security_barrier) AS
SELECT c.id AS campaign_id, c.verb, c.status, c.total, c.already_current, c.done, c.failed, c.cancelled, n.open,
    CASE WHEN c.total > 0 THEN round(100.0 * (c.total - n.open) / c.total, 1) WHEN c.status = 'done' THEN 100.0 END AS percent,
    round(r.rate::numeric, 1) AS rate_per_second,
    CASE WHEN c.status = 'running' AND r.rate > 0 THEN justify_hours(make_interval(secs => round(n.open / r.rate))) END AS eta,
    c.started_at, c.finished_at, c.last_error
FROM kms_wrap.rewrap_campaigns c
CROSS JOIN LATERAL (SELECT greatest(c.total - c.done - c.failed - c.cancelled, 0)) n (open)
CROSS JOIN LATERAL (
    SELECT (c.done + c.failed)
        / nullif(EXTRACT(epoch FROM COALESCE(c.finished_at, clock_timestamp()) - c.started_at)::double precision, 0)
) r (rate);

CREATE VIEW kms_wrap.vw_kms_health_checks WITH (security_barrier) AS
SELECT h.id, h.provider_id, h.kms_key_id, h.status, h.latency_ms, h.error, h.checked_at, h.provider_name, h.key_ref
FROM kms_wrap.kms_health_checks h;

CREATE VIEW kms_wrap.vw_kms_health_latest WITH (security_barrier) AS
SELECT DISTINCT ON (h.kms_key_id, h.provider_id)
    h.id, h.provider_id, h.kms_key_id, h.status, h.latency_ms, h.error, h.checked_at, h.provider_name, h.key_ref
FROM kms_wrap.kms_health_checks h
WHERE num_nonnulls(h.provider_id, h.kms_key_id) > 0
ORDER BY h.kms_key_id, h.provider_id, h.checked_at DESC, h.id DESC;

-- Percentiles are over the probes that have a latency; classes are what error begins with.
CREATE VIEW kms_wrap.vw_kms_health_24h WITH (security_barrier) AS
SELECT h.provider_id, h.kms_key_id, p.name AS provider_name, k.external_key_ref AS key_ref, h.probes, h.up, h.degraded, h.down,
    round(100.0 * (h.probes - h.down) / h.probes, 2) AS availability_percent, h.p50_ms, h.p95_ms, h.p99_ms,
    h.unavailable, h.throttled, h.denied, h.not_found, h.malformed, h.slow, h.last_checked_at
FROM (
    SELECT c.provider_id, c.kms_key_id, count(*) AS probes,
        count(*) FILTER (WHERE c.status = 'up') AS up, count(*) FILTER (WHERE c.status = 'degraded') AS degraded,
        count(*) FILTER (WHERE c.status = 'down') AS down,
        percentile_disc(0.50) WITHIN GROUP (ORDER BY c.latency_ms) AS p50_ms,
        percentile_disc(0.95) WITHIN GROUP (ORDER BY c.latency_ms) AS p95_ms,
        percentile_disc(0.99) WITHIN GROUP (ORDER BY c.latency_ms) AS p99_ms,
        count(*) FILTER (WHERE c.error LIKE 'unavailable:%') AS unavailable,
        count(*) FILTER (WHERE c.error LIKE 'throttled:%') AS throttled,
        count(*) FILTER (WHERE c.error LIKE 'denied:%') AS denied,
        count(*) FILTER (WHERE c.error LIKE 'not\_found:%') AS not_found,
        count(*) FILTER (WHERE c.error LIKE 'malformed:%') AS malformed,
        count(*) FILTER (WHERE c.error LIKE 'slow:%') AS slow,
        max(c.checked_at) AS last_checked_at
    FROM kms_wrap.kms_health_checks c
    WHERE c.checked_at > CURRENT_TIMESTAMP - INTERVAL '24 hours' AND num_nonnulls(c.provider_id, c.kms_key_id) > 0
    GROUP BY c.provider_id, c.kms_key_id
) h
LEFT JOIN kms_wrap.kms_keys k ON k.id = h.kms_key_id
LEFT JOIN kms_wrap.kms_providers p ON p.id = COALESCE(h.provider_id, k.provider_id);
