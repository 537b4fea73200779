-- kw_quickstart makes everything that a first wrapper needs, and can be repeated.
\setenv PGDATABASE :DBNAME
\pset footer off
\pset null '-'

-- What it prints. Fingerprints differ from run to run, and so does the key directory.
\! psql -X -q -c 'SELECT * FROM kms_wrap.kw_quickstart()' --csv 2>&1 | sed -E 's/[0-9a-f]{32}/<fingerprint>/g; s#/[^ ]*data.kms_wrap#<key directory>#'

-- What it made.
SELECT id, name, provider, location, is_enabled FROM kms_wrap.kms_providers ORDER BY id;
SELECT id, external_key_ref, purpose, algorithm, status FROM kms_wrap.kms_keys ORDER BY id;
SELECT policy_name, mode, composition, layer_selection, min_layers, max_layers, min_nist_level, require_origin, allow_same_trust_domain, is_enabled
FROM kms_wrap.encryption_policies;
SELECT slot, kms_key_id, priority, weight FROM kms_wrap.policy_kms_keys ORDER BY slot;

-- Two root keys are two trust domains.
SELECT count(DISTINCT trust_domain) AS trust_domains FROM kms_wrap.kms_providers;
-- The fingerprint that it printed is the one that the configuration insists on.
SELECT count(*) AS health_agrees
FROM kms_wrap.provider_config c JOIN kms_wrap.kw_health() h ON h.component = 'root key' AND h.name = c.config ->> 'root_key'
WHERE h.detail LIKE 'fingerprint ' || (c.config ->> 'fingerprint') || ';%';

-- Good for a wrapper at once, with defaults only.
SELECT octet_length(kms_wrap.kw_unwrap(kms_wrap.kw_wrap_dek())) AS dek_bytes;

-- Again: nothing happens.
SELECT * FROM kms_wrap.kw_quickstart();
SELECT (SELECT count(*) FROM kms_wrap.kms_providers) AS providers, (SELECT count(*) FROM kms_wrap.kms_keys) AS keys,
    (SELECT count(*) FROM kms_wrap.encryption_policies) AS policies;

-- Root key files survive a roll-back and DROP EXTENSION; nobody here uses them then, so they are adopted.
SET client_min_messages = warning;
DROP EXTENSION kms_wrap CASCADE;
CREATE EXTENSION kms_wrap;
RESET client_min_messages;
\! psql -X -q -c 'BEGIN' -c 'SELECT count(*) FROM kms_wrap.kw_quickstart()' -c 'ROLLBACK' -c 'SELECT count(*) FROM kms_wrap.kms_providers' 2>&1 | sed -E 's/[0-9a-f]{32}/<fingerprint>/g'
\! psql -X -q -c 'SELECT count(*) FROM kms_wrap.kw_quickstart()' 2>&1 | sed -E 's/[0-9a-f]{32}/<fingerprint>/g'
SELECT octet_length(kms_wrap.kw_unwrap(kms_wrap.kw_wrap_dek())) AS dek_bytes;

-- It completes nobody's half-done set-up.
BEGIN;
DELETE FROM kms_wrap.key_wrappers;
DELETE FROM kms_wrap.encryption_policies;
SELECT * FROM kms_wrap.kw_quickstart();
\echo :LAST_ERROR_SQLSTATE
ROLLBACK;

-- A root key file that is no good is not adopted.
SET client_min_messages = warning;
DROP EXTENSION kms_wrap CASCADE;
CREATE EXTENSION kms_wrap;
\setenv KEYDIR :keydir
\! chmod 0644 "$KEYDIR"/quickstart-b
\! psql -X -q -c 'SELECT count(*) FROM kms_wrap.kw_quickstart()' 2>&1 | sed -E 's/[0-9a-f]{32}/<fingerprint>/g; s#/[^ ]*data.kms_wrap#<key directory>#'
SELECT count(*) AS providers FROM kms_wrap.kms_providers;
\! chmod 0600 "$KEYDIR"/quickstart-b
\! psql -X -q -c 'SELECT count(*) FROM kms_wrap.kw_quickstart()' 2>&1 | sed -E 's/[0-9a-f]{32}/<fingerprint>/g'
