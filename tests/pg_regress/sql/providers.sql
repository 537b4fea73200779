-- kw_add_provider: what a local provider is made of.
\pset footer off
\pset null '-'
-- How a statement ends. What differs from run to run is replaced.
CREATE FUNCTION try(statement text) RETURNS SETOF text LANGUAGE plpgsql AS $$
DECLARE
    message text;
    detail text;
    hint text;
    line text;
BEGIN
    EXECUTE statement;
    RETURN NEXT 'accepted';
EXCEPTION WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS message = MESSAGE_TEXT, detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
    FOREACH line IN ARRAY ARRAY[SQLSTATE || ': ' || message, 'DETAIL: ' || nullif(detail, ''), 'HINT: ' || nullif(hint, '')] LOOP
        line := regexp_replace(line, '[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}', '<uuid>', 'g');
        line := regexp_replace(line, '\y[0-9a-f]{32}\y', '<fingerprint>', 'g');
        line := regexp_replace(line, '/[^" ]*\.kms_wrap', '<key directory>', 'g');
        IF line IS NOT NULL THEN
            RETURN NEXT line;
        END IF;
    END LOOP;
END
$$;
\pset tuples_only
\pset format unaligned
SELECT kms_wrap.kw_create_root_key(:'testname' || '-a') AS root_a, kms_wrap.kw_create_root_key(:'testname' || '-b') AS root_b \gset

-- Name and root key suffice: the location is the name, the trust domain the root key.
SELECT kms_wrap.kw_add_provider('a', 'local', '{"root_key": "providers-a"}');
SELECT p.name, p.provider, p.location, p.project_tenant, p.is_enabled, p.suspended_until, p.trust_domain = 'local:' || :'root_a', c.provider_name, c.manager,
    c.config - 'fingerprint', c.config ->> 'fingerprint' = :'root_a', c.metadata
FROM kms_wrap.kms_providers p JOIN kms_wrap.provider_config c ON c.id = p.provider_config_id;
-- Everything stated.
SELECT kms_wrap.kw_add_provider(name => 'b', kind => 'local', config => jsonb_build_object('root_key', 'providers-b', 'fingerprint', :'root_b'),
    location => 'cellar', project_tenant => 'north', trust_domain => 'head office');
SELECT name, location, project_tenant, trust_domain FROM kms_wrap.kms_providers WHERE name = 'b';

-- An expected fingerprint that the file hasn't.
SELECT try($$ SELECT kms_wrap.kw_add_provider('c', 'local', '{"root_key": "providers-a", "fingerprint": "00000000000000000000000000000000"}') $$);
SELECT try($$ SELECT kms_wrap.kw_add_provider('c', 'local', '{"root_key": "providers-a", "fingerprint": 7}') $$);
-- Taken: the name, the place.
SELECT try($$ SELECT kms_wrap.kw_add_provider('a', 'local', '{"root_key": "providers-b"}') $$);
SELECT try($$ SELECT kms_wrap.kw_add_provider('c', 'local', '{"root_key": "providers-b"}', location => 'a') $$);
SELECT try($$ SELECT kms_wrap.kw_add_provider('c', 'local', '{"root_key": "providers-b"}', location => 'cellar', project_tenant => 'north') $$);
-- Config: an object with exactly what the kind knows; a secret has no place in it.
SELECT c, try(format('SELECT kms_wrap.kw_add_provider(%L, %L, %L)', 'c', 'local', c))
FROM unnest(ARRAY['{}', '[]', '"x"', 'null', '{"root_key": ""}', '{"root_key": null}', '{"root_key": 7}', '{"root_key": "../x"}', '{"root_key": "providers-a", "secret": "s"}', '{"root_key": "providers-nowhere"}']::jsonb[]) c;
-- Names and places without control characters, not empty, not longer than their columns.
SELECT try($$ SELECT kms_wrap.kw_add_provider('', 'local', '{"root_key": "providers-a"}') $$);
SELECT try($$ SELECT kms_wrap.kw_add_provider(E'a\nb', 'local', '{"root_key": "providers-a"}') $$);
SELECT try($$ SELECT kms_wrap.kw_add_provider(repeat('x', 101), 'local', '{"root_key": "providers-a"}') $$);
SELECT try($$ SELECT kms_wrap.kw_add_provider('c', 'local', '{"root_key": "providers-a"}', location => '') $$);
SELECT try($$ SELECT kms_wrap.kw_add_provider('c', 'local', '{"root_key": "providers-a"}', location => E'\t') $$);
SELECT try($$ SELECT kms_wrap.kw_add_provider('c', 'local', '{"root_key": "providers-a"}', project_tenant => '') $$);
SELECT try($$ SELECT kms_wrap.kw_add_provider('c', 'local', '{"root_key": "providers-a"}', project_tenant => repeat('x', 151)) $$);
SELECT try($$ SELECT kms_wrap.kw_add_provider('c', 'local', '{"root_key": "providers-a"}', trust_domain => '') $$);
SELECT try($$ SELECT kms_wrap.kw_add_provider('c', 'local', '{"root_key": "providers-a"}', trust_domain => repeat('x', 256)) $$);
-- NULL, and kinds.
SELECT try($$ SELECT kms_wrap.kw_add_provider(NULL, 'local', '{"root_key": "providers-a"}') $$);
SELECT try($$ SELECT kms_wrap.kw_add_provider('c', NULL, '{"root_key": "providers-a"}') $$);
SELECT try($$ SELECT kms_wrap.kw_add_provider('c', 'local', NULL) $$);
SELECT k, try(format('SELECT kms_wrap.kw_add_provider(%L, %L, %L)', 'c', k, '{"root_key": "providers-a"}')) FROM unnest('{openbao,pkcs11,kmip,Local,"",x}'::text[]) k;
-- Nothing of it is left.
SELECT count(*), (SELECT count(*) FROM kms_wrap.provider_config) FROM kms_wrap.kms_providers;
