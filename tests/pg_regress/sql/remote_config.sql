-- Configurations of remote providers: what is refused, and by which name. Nobody is asked.
\pset format unaligned
\pset tuples_only on
CREATE FUNCTION try(statement text) RETURNS SETOF text LANGUAGE plpgsql AS $$
DECLARE
    detail text;
BEGIN
    EXECUTE statement;
    RETURN NEXT 'done';
EXCEPTION WHEN others THEN
    GET STACKED DIAGNOSTICS detail = PG_EXCEPTION_DETAIL;
    RETURN NEXT sqlstate || ': ' || sqlerrm;
    RETURN NEXT 'DETAIL: ' || detail;
END
$$;
-- Each of these, and nothing is kept of any.
SELECT config, try(format('SELECT kms_wrap.kw_add_provider(%L, %L, %L)', 'bao', 'openbao', config)) FROM (VALUES
    ('{}'),
    ('[]'),
    ('{"endpoint": 1}'),
    ('{"endpoint": ""}'),
    ('{"endpoint": "kms.example"}'),
    ('{"endpoint": "http://kms.example:8200", "token_file": "t"}'),
    ('{"endpoint": "https://user:word@kms.example", "token_file": "t"}'),
    ('{"endpoint": "https://kms.example", "token_file": "t", "tokne": "x"}'),
    ('{"endpoint": "https://kms.example"}'),
    ('{"endpoint": "https://kms.example", "token_file": "../t"}'),
    ('{"endpoint": "https://kms.example", "token_file": "/etc/passwd"}'),
    ('{"endpoint": "https://kms.example", "token_file": ".t"}'),
    ('{"endpoint": "https://kms.example", "token_file": "t", "auth": "password"}'),
    ('{"endpoint": "https://kms.example", "token_file": "t", "auth": "approle"}'),
    ('{"endpoint": "https://kms.example", "auth": "approle", "role_id_file": "r"}'),
    ('{"endpoint": "https://kms.example", "token_file": "t", "client_cert_file": "c"}'),
    ('{"endpoint": "https://kms.example", "token_file": "t", "mount": "a\u0001"}')
) v (config);
SELECT count(*) FROM kms_wrap.kms_providers;
-- A module that no setting names; and a kind of an unknown name.
SELECT try($$ SELECT kms_wrap.kw_add_provider('hsm', 'pkcs11', '{"module": "/usr/lib/x.so", "token_label": "t", "pin_file": "p"}') $$);
SELECT try($$ SELECT kms_wrap.kw_add_provider('k', 'kmip', '{}') $$);
-- A good one. Files and server are looked at when it is used.
SELECT kms_wrap.kw_add_provider('bao', 'openbao', '{"endpoint": "https://127.0.0.1:1", "token_file": "remote-config-no-such-file"}') AS bao \gset
SELECT provider, location, trust_domain FROM kms_wrap.kms_providers;
SELECT sqlstate FROM (SELECT left(try($$ SELECT kms_wrap.kw_add_kms_key('bao', 'k', 'AES-256-GCM') $$), 5)) v (sqlstate) LIMIT 1;
SELECT try($$ SELECT kms_wrap.kw_add_kms_key('bao', 'k', 'SHA-256') $$);
-- Two names of one server are one owner; a configuration that changes takes the trust domain along.
SELECT kms_wrap.kw_add_provider('vault', 'vault', '{"endpoint": "https://127.0.0.1:1", "token_file": "t"}') AS vault \gset
SELECT trust_domain FROM kms_wrap.kms_providers WHERE id = :vault;
SELECT try($$ SELECT kms_wrap.kw_set_provider_config('bao', '{"endpoint": "https://127.0.0.1:2"}') $$);
SELECT try($$ SELECT kms_wrap.kw_set_provider_config('nobody', '{}') $$);
SELECT try($$ SELECT kms_wrap.kw_set_provider_config('bao', NULL) $$);
SELECT kms_wrap.kw_set_provider_config('bao', '{"endpoint": "https://127.0.0.1:2", "token_file": "t2"}');
SELECT p.trust_domain, c.config FROM kms_wrap.kms_providers p JOIN kms_wrap.provider_config c ON c.id = p.provider_config_id WHERE p.name = 'bao';
-- Outage policies.
SELECT kms_wrap.kw_create_policy('p', 'split') AS policy \gset
SELECT outage, stale_for, verify_every_wrap FROM kms_wrap.encryption_policies;
SELECT t FROM try($$ UPDATE kms_wrap.encryption_policies SET outage = 'never' $$) t WHERE t NOT LIKE 'DETAIL%';
SELECT t FROM try($$ UPDATE kms_wrap.encryption_policies SET stale_for = '8 days' $$) t WHERE t NOT LIKE 'DETAIL%';
-- Of no use to an ordinary role.
SELECT :'testname' || '_role' AS role \gset
CREATE ROLE :role;
SET ROLE :role;
SELECT t FROM (VALUES
    ($$ SELECT kms_wrap.kw_add_provider('x', 'openbao', '{"endpoint": "https://127.0.0.1:1", "token_file": "t"}') $$),
    ($$ SELECT kms_wrap.kw_set_provider_config('bao', '{"endpoint": "https://127.0.0.1:1", "token_file": "t"}') $$),
    ($$ SELECT * FROM kms_wrap.provider_config $$),
    ($$ SHOW kms_wrap.allowed_endpoints $$),
    ($$ SHOW kms_wrap.credential_directory $$),
    ($$ SET kms_wrap.allowed_endpoints = '' $$),
    ($$ SET kms_wrap.kms_timeout = 1 $$)) v (s), LATERAL (SELECT left(try(s), 5)) x (t) WHERE t <> 'DETAI';
RESET ROLE;
DROP ROLE :role;
