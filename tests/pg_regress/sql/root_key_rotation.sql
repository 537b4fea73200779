-- kw_rotate_root_key seals every key of a provider under another root key; wrappers stay as they are.
\pset footer off
SELECT kms_wrap.kw_create_root_key(:'testname' || '-a') AS root_a, kms_wrap.kw_create_root_key(:'testname' || '-b') AS root_b \gset
SELECT kms_wrap.kw_add_provider('a', 'local', jsonb_build_object('root_key', :'testname' || '-a')) AS a,
    kms_wrap.kw_add_provider('b', 'local', jsonb_build_object('root_key', :'testname' || '-b')) AS b \gset
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
\setenv KEYDIR :keydir
\setenv TESTNAME :testname
SELECT kms_wrap.kw_create_local_key('a', 'a1', 'XAES-256-GCM') AS a1, kms_wrap.kw_create_local_key('a', 'a2', 'XAES-256-GCM') AS a2, kms_wrap.kw_create_local_key('b', 'b1', 'XAES-256-GCM') AS b1,
    kms_wrap.kw_create_local_key('a', 'm1', 'ML-KEM-768') AS m1, kms_wrap.kw_create_local_key('a', 'x1', 'X-Wing') AS x1 \gset
SELECT kms_wrap.kw_create_policy('default', 'split') \g /dev/null
SELECT kms_wrap.kw_policy_add_key('default', slot, key) FROM (VALUES ('kms1', :a1), ('kms2', :b1), ('layer', :m1), ('layer', :x1)) v (slot, key) \g /dev/null
CREATE TABLE w AS SELECT kms_wrap.kw_wrap_dek() AS wrapper FROM generate_series(1, 10);
ALTER TABLE w ADD dek bytea;
UPDATE w SET dek = kms_wrap.kw_unwrap(wrapper);
CREATE TABLE before AS SELECT (SELECT md5(string_agg(kw::text, '' ORDER BY id)) FROM kms_wrap.key_wrappers kw) AS wrappers, (SELECT md5(string_agg(k::text, '' ORDER BY id)) FROM kms_wrap.kms_keys k) AS keys;
CREATE TABLE sealed AS SELECT key_id, encode(key_value, 'base64') AS bytes FROM kms_wrap.sym_key UNION ALL SELECT key_id, private_key_ctx ->> 'wrapped_key' FROM kms_wrap.asym_key;

-- A new file first.
SELECT try($$ SELECT kms_wrap.kw_rotate_root_key('a', 'root_key_rotation-new') $$);
SELECT kms_wrap.kw_create_root_key(:'testname' || '-new') AS new \gset
-- Every key of the provider and none of the other's.
SELECT kms_wrap.kw_rotate_root_key('a', 'root_key_rotation-new');
SELECT s.key_id, s.bytes <> n.bytes AS sealed_anew, n.root
FROM sealed s JOIN (SELECT key_id, encode(key_value, 'base64') AS bytes, '' AS root FROM kms_wrap.sym_key UNION ALL SELECT key_id, private_key_ctx ->> 'wrapped_key', private_key_ctx ->> 'key_id' FROM kms_wrap.asym_key) n USING (key_id)
ORDER BY 1;
SELECT provider_name, config ->> 'root_key', config ->> 'fingerprint' = :'new', p.trust_domain = 'local:' || (config ->> 'fingerprint'), updated_at > c.created_at
FROM kms_wrap.provider_config c JOIN kms_wrap.kms_providers p ON p.provider_config_id = c.id ORDER BY 1;
-- Wrappers and kms_keys have nothing to do with it.
SELECT wrappers = (SELECT md5(string_agg(kw::text, '' ORDER BY id)) FROM kms_wrap.key_wrappers kw), keys = (SELECT md5(string_agg(k::text, '' ORDER BY id)) FROM kms_wrap.kms_keys k) FROM before;
SELECT count(*) FROM w WHERE kms_wrap.kw_unwrap(wrapper) = dek;
-- The old file is nobody's and may go; kw_health says so.
SELECT name, detail LIKE '%no provider of this database needs it' FROM kms_wrap.kw_health() WHERE component = 'root key' AND name LIKE 'root_key_rotation-%' ORDER BY name;
\! rm "$KEYDIR/$TESTNAME-a"
SELECT count(*) FROM w WHERE kms_wrap.kw_unwrap(wrapper) = dek;
SELECT octet_length(kms_wrap.kw_unwrap(kms_wrap.kw_wrap_dek()));
SELECT kms_wrap.kw_create_local_key('a', 'a3', 'XAES-256-GCM') IS NOT NULL;

-- Rolled back: all as before, in this session too.
SELECT kms_wrap.kw_create_root_key(:'testname' || '-third') IS NOT NULL;
BEGIN;
SELECT kms_wrap.kw_rotate_root_key('a', 'root_key_rotation-third');
SELECT count(*) FROM w WHERE kms_wrap.kw_unwrap(wrapper) = dek;
ROLLBACK;
SELECT count(*) FROM w WHERE kms_wrap.kw_unwrap(wrapper) = dek;
SELECT config ->> 'root_key' FROM kms_wrap.provider_config WHERE provider_name = 'a';

-- A trust domain that was stated stays.
SELECT kms_wrap.kw_add_provider('c', 'local', jsonb_build_object('root_key', :'testname' || '-new'), trust_domain => 'head office') \g /dev/null
SELECT kms_wrap.kw_rotate_root_key('c', 'root_key_rotation-third');
SELECT name, trust_domain FROM kms_wrap.kms_providers WHERE name = 'c';

-- Refused, with nothing changed: the same file, no such provider or file, a file that is no good, the old file gone.
CREATE TABLE before_refusals AS SELECT md5(string_agg(s::text, '' ORDER BY id)) AS sealed FROM kms_wrap.sym_key s;
SELECT try($$ SELECT kms_wrap.kw_rotate_root_key('a', 'root_key_rotation-new') $$);
SELECT try($$ SELECT kms_wrap.kw_rotate_root_key('nope', 'root_key_rotation-third') $$);
SELECT try($$ SELECT kms_wrap.kw_rotate_root_key('a', '../x') $$);
SELECT try($$ SELECT kms_wrap.kw_rotate_root_key('a', '') $$);
SELECT try($$ SELECT kms_wrap.kw_rotate_root_key('a', NULL) $$);
SELECT try($$ SELECT kms_wrap.kw_rotate_root_key(NULL, 'root_key_rotation-third') $$);
\! chmod 0640 "$KEYDIR/$TESTNAME-third"
SELECT try($$ SELECT kms_wrap.kw_rotate_root_key('a', 'root_key_rotation-third') $$);
\! chmod 0600 "$KEYDIR/$TESTNAME-third"; mv "$KEYDIR/$TESTNAME-new" "$KEYDIR/$TESTNAME-away"
SELECT try($$ SELECT kms_wrap.kw_rotate_root_key('a', 'root_key_rotation-third') $$);
\! mv "$KEYDIR/$TESTNAME-away" "$KEYDIR/$TESTNAME-new"
SELECT sealed = (SELECT md5(string_agg(s::text, '' ORDER BY id)) FROM kms_wrap.sym_key s) FROM before_refusals;
SELECT count(*) FROM w WHERE kms_wrap.kw_unwrap(wrapper) = dek;

-- A provider without keys can rotate too.
SELECT kms_wrap.kw_add_provider('d', 'local', jsonb_build_object('root_key', :'testname' || '-new')) IS NOT NULL;
SELECT kms_wrap.kw_rotate_root_key('d', 'root_key_rotation-third');
