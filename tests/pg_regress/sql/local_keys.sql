-- kw_create_local_key and kw_add_kms_key: keys that the database keeps, sealed.
\pset footer off
\pset null '-'
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
-- A symmetric key and each KEM, by name or alias; the id of kms_keys is the answer.
SELECT a, kms_wrap.kw_create_local_key('a', 'key ' || a, a) FROM unnest('{XAES-256-GCM,xaes256gcm,ML-KEM-768,kyber768,ML-KEM-1024,MLKEM1024,X-Wing,xwing}'::text[]) a;
SELECT id, external_key_ref, purpose, algorithm, status, key_version, octet_length(public_key), public_key_sha256 = sha256(public_key) FROM kms_wrap.kms_keys ORDER BY id;

-- How they are kept: OpenTDF's columns; sealed bytes are nonce, key and tag; no bare key.
SELECT key_id, key_status, key_mode, algorithm, octet_length(key_value), provider_config_id = (SELECT id FROM kms_wrap.provider_config WHERE provider_name = 'a'), created_at = updated_at, expiration, metadata
FROM kms_wrap.sym_key ORDER BY key_id;
SELECT key_id, key_status, key_mode, key_algorithm, octet_length(decode(private_key_ctx ->> 'wrapped_key', 'base64')), private_key_ctx ->> 'key_id',
    (SELECT array_agg(k ORDER BY k) FROM jsonb_object_keys(private_key_ctx) k), (SELECT array_agg(k ORDER BY k) FROM jsonb_object_keys(public_key_ctx) k)
FROM kms_wrap.asym_key ORDER BY key_id;
-- The public key is a PEM of SubjectPublicKeyInfo, which ends in the key itself.
SELECT a.key_id, split_part(pem, E'\n', 1), right(encode(der, 'hex'), 2 * octet_length(k.public_key)) = encode(k.public_key, 'hex'), encode(substr(der, 1, octet_length(der) - octet_length(k.public_key)), 'hex')
FROM kms_wrap.asym_key a JOIN kms_wrap.kms_keys k ON k.external_key_ref = a.key_id
CROSS JOIN LATERAL (SELECT convert_from(decode(a.public_key_ctx ->> 'pem', 'base64'), 'UTF8') AS pem) p
CROSS JOIN LATERAL (SELECT decode(regexp_replace(pem, '-----[A-Z ]+-----|\s', '', 'g'), 'base64') AS der) d
ORDER BY a.key_id;
-- No two are alike.
SELECT count(DISTINCT key_value), (SELECT count(DISTINCT public_key_ctx) FROM kms_wrap.asym_key) FROM kms_wrap.sym_key;

-- Taken, in whatever provider: sealed keys are found by name.
SELECT try($$ SELECT kms_wrap.kw_create_local_key('a', 'key xwing', 'X-Wing') $$);
SELECT try($$ SELECT kms_wrap.kw_create_local_key('b', 'key xwing', 'X-Wing') $$);
-- Algorithms that protect no share, or that nobody knows.
SELECT a, try(format('SELECT kms_wrap.kw_create_local_key(%L, %L, %L)', 'a', 'new', a)) FROM unnest('{AES-256-GCM,aes256gcm,SHA-256,sha384,ML-DSA-65,ML-KEM-512,Kyber,"",RSA-2048}'::text[]) a;
SELECT try($$ SELECT kms_wrap.kw_create_local_key('nope', 'new', 'X-Wing') $$);
SELECT try($$ SELECT kms_wrap.kw_create_local_key('', 'new', 'X-Wing') $$);
SELECT try($$ SELECT kms_wrap.kw_create_local_key('a', '', 'X-Wing') $$);
SELECT try($$ SELECT kms_wrap.kw_create_local_key('a', repeat('x', 37), 'X-Wing') $$);
SELECT try($$ SELECT kms_wrap.kw_create_local_key('a', E'a\rb', 'X-Wing') $$);
SELECT try($$ SELECT kms_wrap.kw_create_local_key(NULL, 'new', 'X-Wing') $$);
SELECT try($$ SELECT kms_wrap.kw_create_local_key('a', NULL, 'X-Wing') $$);
SELECT try($$ SELECT kms_wrap.kw_create_local_key('a', 'new', NULL) $$);
SELECT count(*), (SELECT count(*) FROM kms_wrap.sym_key), (SELECT count(*) FROM kms_wrap.asym_key) FROM kms_wrap.kms_keys;
-- 36 characters fit.
SELECT kms_wrap.kw_create_local_key('a', repeat('é', 36), 'X-Wing') IS NOT NULL;

-- kw_add_kms_key registers a key that the provider holds: here one whose row of kms_keys was removed.
DELETE FROM kms_wrap.kms_keys WHERE external_key_ref IN ('key XAES-256-GCM', 'key X-Wing');
SELECT kms_wrap.kw_add_kms_key('a', 'key XAES-256-GCM', 'xaes256gcm');
SELECT kms_wrap.kw_add_kms_key('a', 'key X-Wing', 'X-Wing', purpose => 'both');
SELECT id, external_key_ref, purpose, algorithm, status, key_version, octet_length(public_key) FROM kms_wrap.kms_keys WHERE id > 1008 ORDER BY id;
SELECT try($$ SELECT kms_wrap.kw_add_kms_key('a', 'key X-Wing', 'X-Wing') $$);
SELECT try($$ SELECT kms_wrap.kw_add_kms_key('a', 'key X-Wing', 'ML-KEM-768') $$);
SELECT try($$ SELECT kms_wrap.kw_add_kms_key('b', 'key X-Wing', 'X-Wing') $$);
SELECT try($$ SELECT kms_wrap.kw_add_kms_key('a', 'nope', 'X-Wing') $$);
SELECT try($$ SELECT kms_wrap.kw_add_kms_key('nope', 'key X-Wing', 'X-Wing') $$);
SELECT try($$ SELECT kms_wrap.kw_add_kms_key('a', 'key X-Wing', 'nope') $$);
SELECT try($$ SELECT kms_wrap.kw_add_kms_key('a', 'key X-Wing', 'X-Wing', purpose => 'sign') $$);
SELECT try($$ SELECT kms_wrap.kw_add_kms_key('a', 'key X-Wing', 'X-Wing', key_version => '1') $$);
SELECT try($$ SELECT kms_wrap.kw_add_kms_key('a', '', 'X-Wing') $$);
SELECT try($$ SELECT kms_wrap.kw_add_kms_key(NULL, 'key X-Wing', 'X-Wing') $$);
SELECT try($$ SELECT kms_wrap.kw_add_kms_key('a', NULL, 'X-Wing') $$);
SELECT try($$ SELECT kms_wrap.kw_add_kms_key('a', 'key X-Wing', NULL) $$);
SELECT try($$ SELECT kms_wrap.kw_add_kms_key('a', 'key X-Wing', 'X-Wing', purpose => NULL) $$);

-- A sealed row is bound to its name, algorithm, provider, root key and public key: a copy under another identity does not open.
SELECT kms_wrap.kw_create_local_key('a', 'one', 'XAES-256-GCM') AS one, kms_wrap.kw_create_local_key('a', 'two', 'XAES-256-GCM') AS two,
    kms_wrap.kw_create_local_key('b', 'three', 'XAES-256-GCM') AS three \gset
SELECT kms_wrap.kw_create_policy('p', 'split', min_layers => 0), kms_wrap.kw_policy_add_key('p', 'kms1', :one), kms_wrap.kw_policy_add_key('p', 'kms2', :three) \g /dev/null
SELECT octet_length(kms_wrap.kw_unwrap(kms_wrap.kw_wrap_dek('p')));
CREATE TABLE good AS SELECT * FROM kms_wrap.sym_key;
UPDATE kms_wrap.sym_key SET key_value = (SELECT key_value FROM good WHERE key_id = 'two') WHERE key_id = 'one';
SELECT try($$ SELECT kms_wrap.kw_wrap_dek('p') $$);
SELECT try(format('SELECT kms_wrap.kw_unwrap(%L)', wrapper_uuid)) FROM kms_wrap.key_wrappers;
UPDATE kms_wrap.sym_key SET key_value = set_byte((SELECT key_value FROM good WHERE key_id = 'one'), 71, get_byte((SELECT key_value FROM good WHERE key_id = 'one'), 71) # 1) WHERE key_id = 'one';
SELECT try($$ SELECT kms_wrap.kw_wrap_dek('p') $$);
UPDATE kms_wrap.sym_key SET key_value = (SELECT key_value FROM good WHERE key_id = 'one') WHERE key_id = 'one';
SELECT octet_length(kms_wrap.kw_unwrap(kms_wrap.kw_wrap_dek('p')));
-- Another public key than the sealed private one: layers would be made that nobody can open.
SELECT kms_wrap.kw_create_local_key('a', 'm1', 'ML-KEM-768') AS m1, kms_wrap.kw_create_local_key('a', 'm2', 'ML-KEM-768') AS m2 \gset
SELECT kms_wrap.kw_policy_add_key('p', 'layer', :m1) \g /dev/null
UPDATE kms_wrap.kms_keys SET public_key = o.public_key, public_key_sha256 = o.public_key_sha256 FROM (SELECT * FROM kms_wrap.kms_keys WHERE id = :m2) o WHERE kms_keys.id = :m1;
SELECT try($$ SELECT kms_wrap.kw_wrap_dek('p') $$);
