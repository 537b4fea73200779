-- split needs every slot, redundant either KMS key; only a key that can't be asked makes a redundant wrapper take the other path.
\pset footer off
SELECT kms_wrap.kw_create_root_key(:'testname' || '-a') AS root_a, kms_wrap.kw_create_root_key(:'testname' || '-b') AS root_b \gset
SELECT kms_wrap.kw_add_provider('a', 'local', jsonb_build_object('root_key', :'testname' || '-a')) AS a,
    kms_wrap.kw_add_provider('b', 'local', jsonb_build_object('root_key', :'testname' || '-b')) AS b \gset
SELECT kms_wrap.kw_create_local_key('a', 'a1', 'XAES-256-GCM') AS a1, kms_wrap.kw_create_local_key('b', 'b1', 'XAES-256-GCM') AS b1,
    kms_wrap.kw_create_local_key('a', 'm1', 'ML-KEM-768') AS m1 \gset
SELECT kms_wrap.kw_create_root_key(:'testname' || '-c') AS root_c \gset
SELECT kms_wrap.kw_add_provider('c', 'local', jsonb_build_object('root_key', :'testname' || '-c')) AS c \gset
SELECT kms_wrap.kw_create_local_key('c', 'm2', 'X-Wing') AS m2 \gset
SELECT kms_wrap.kw_create_policy(c, c), kms_wrap.kw_policy_add_key(c, 'kms1', :a1), kms_wrap.kw_policy_add_key(c, 'kms2', :b1),
    kms_wrap.kw_policy_add_key(c, 'layer', :m2) FROM unnest('{split,redundant}'::text[]) c \g /dev/null
\setenv KEYDIR :keydir
\setenv TESTNAME :testname

CREATE TABLE w (name text PRIMARY KEY, wrapper uuid, dek bytea);
PREPARE import (text, bytea) AS INSERT INTO w VALUES ($1, kms_wrap.kw_wrap_dek($1, $2), $2);
EXECUTE import ('split', sha256('split'));
EXECUTE import ('redundant', sha256('redundant'));
SELECT name, kw.crypto_suite ->> 'composition' AS composition, kw.crypto_suite -> 'paths' AS paths, octet_length(kw.dek_wrap1) AS wrap1_bytes, octet_length(kw.dek_wrap2) AS wrap2_bytes
FROM w JOIN kms_wrap.key_wrappers kw ON kw.wrapper_uuid = w.wrapper::text ORDER BY name;

CREATE FUNCTION opens(wrapper uuid, dek bytea) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    RETURN CASE WHEN kms_wrap.kw_unwrap(wrapper) = dek THEN 'opens' ELSE 'another DEK' END;
EXCEPTION WHEN OTHERS THEN
    RETURN SQLSTATE || ': ' || SQLERRM;
END
$$;
SELECT name, opens(wrapper, dek) FROM w ORDER BY name;

-- A KMS key out of use.
SELECT kms_wrap.kw_set_key_status(:a1, 'disabled') \g /dev/null
SELECT name, opens(wrapper, dek) AS without_kms1 FROM w ORDER BY name;
SELECT kms_wrap.kw_set_key_status(:b1, 'disabled') \g /dev/null
SELECT name, opens(wrapper, dek) AS without_either FROM w ORDER BY name;
SELECT kms_wrap.kw_set_key_status(:a1, 'active') \g /dev/null
SELECT name, opens(wrapper, dek) AS without_kms2 FROM w ORDER BY name;
SELECT kms_wrap.kw_set_key_status(:b1, 'active') \g /dev/null
SELECT name, opens(wrapper, dek) FROM w ORDER BY name;

-- Its provider disabled.
UPDATE kms_wrap.kms_providers SET is_enabled = false WHERE name = 'a';
SELECT name, opens(wrapper, dek) AS without_provider_a FROM w ORDER BY name;
UPDATE kms_wrap.kms_providers SET is_enabled = true;

-- Its root key file gone.
\! mv "$KEYDIR/$TESTNAME-a" "$KEYDIR/$TESTNAME-a.away"
SELECT name, opens(wrapper, dek) AS without_root_a FROM w ORDER BY name;
\! mv "$KEYDIR/$TESTNAME-b" "$KEYDIR/$TESTNAME-b.away"
SELECT name, opens(wrapper, dek) AS without_root_a_and_b FROM w ORDER BY name;
\! mv "$KEYDIR/$TESTNAME-a.away" "$KEYDIR/$TESTNAME-a"
SELECT name, opens(wrapper, dek) AS without_root_b FROM w ORDER BY name;
\! mv "$KEYDIR/$TESTNAME-b.away" "$KEYDIR/$TESTNAME-b"
SELECT name, opens(wrapper, dek) FROM w ORDER BY name;

-- A wrong root key file is a refusal, no outage.
\! mv "$KEYDIR/$TESTNAME-a" "$KEYDIR/$TESTNAME-a.away" && head -c 32 /dev/urandom > "$KEYDIR/$TESTNAME-a" && chmod 0600 "$KEYDIR/$TESTNAME-a"
SELECT name, opens(wrapper, dek) AS wrong_root_a FROM w ORDER BY name;
\! mv "$KEYDIR/$TESTNAME-a.away" "$KEYDIR/$TESTNAME-a"

-- A compromised key opens nothing for use, and is no outage either.
SELECT kms_wrap.kw_set_key_status(:a1, 'compromised') \g /dev/null
SELECT name, opens(wrapper, dek) AS kms1_compromised FROM w ORDER BY name;
SELECT kms_wrap.kw_set_key_status(:a1, 'disabled') \g /dev/null
SELECT kms_wrap.kw_set_key_status(:a1, 'active') \g /dev/null

-- A layer is on every path.
SELECT kms_wrap.kw_set_key_status(:m2, 'disabled') \g /dev/null
SELECT name, opens(wrapper, dek) AS without_layer FROM w ORDER BY name;
SELECT kms_wrap.kw_set_key_status(:m2, 'active') \g /dev/null

-- Altered bytes are no outage: nothing falls back to the other path.
CREATE TABLE altered (n integer, opens text);
DO $$
DECLARE
    r record;
BEGIN
    FOR r IN SELECT kw.id, kw.dek_wrap1, w.wrapper, w.dek FROM w JOIN kms_wrap.key_wrappers kw ON kw.wrapper_uuid = w.wrapper::text WHERE name = 'redundant' LOOP
        FOR n IN 0 .. octet_length(r.dek_wrap1) - 1 LOOP
            UPDATE kms_wrap.key_wrappers SET dek_wrap1 = set_byte(r.dek_wrap1, n, get_byte(r.dek_wrap1, n) # 1) WHERE id = r.id;
            INSERT INTO altered VALUES (n, opens(r.wrapper, r.dek));
        END LOOP;
        UPDATE kms_wrap.key_wrappers SET dek_wrap1 = r.dek_wrap1 WHERE id = r.id;
    END LOOP;
END
$$;
SELECT left(opens, 5) AS code, count(*) > 0 AS some FROM altered GROUP BY 1 ORDER BY 1;
SELECT count(*) AS opened FROM altered WHERE opens NOT LIKE '_____: %';
-- Path 2 altered: path 1 doesn't need it, and without path 1 the answer is that it doesn't open, not that a key is out of use.
UPDATE kms_wrap.key_wrappers SET dek_wrap2 = set_byte(dek_wrap2, octet_length(dek_wrap2) - 1, get_byte(dek_wrap2, octet_length(dek_wrap2) - 1) # 1)
WHERE crypto_suite ->> 'composition' = 'redundant';
SELECT name, opens(wrapper, dek) AS path_2_altered FROM w WHERE name = 'redundant';
SELECT kms_wrap.kw_set_key_status(:a1, 'disabled') \g /dev/null
SELECT name, opens(wrapper, dek) AS path_2_altered_kms1_disabled FROM w WHERE name = 'redundant';
UPDATE kms_wrap.key_wrappers SET dek_wrap2 = set_byte(dek_wrap2, octet_length(dek_wrap2) - 1, get_byte(dek_wrap2, octet_length(dek_wrap2) - 1) # 1)
WHERE crypto_suite ->> 'composition' = 'redundant';
SELECT kms_wrap.kw_set_key_status(:a1, 'active') \g /dev/null
SELECT name, opens(wrapper, dek) FROM w ORDER BY name;

-- split asks for two owners; redundant doesn't; the policy may say otherwise.
SELECT kms_wrap.kw_create_local_key('a', 'a2', 'XAES-256-GCM') AS a2 \gset
SELECT kms_wrap.kw_create_policy('one-owner', 'split', min_layers => 0), kms_wrap.kw_policy_add_key('one-owner', 'kms1', :a1),
    kms_wrap.kw_policy_add_key('one-owner', 'kms2', :a2) \g /dev/null
DO $$
DECLARE
    detail text;
BEGIN
    PERFORM kms_wrap.kw_wrap_dek('one-owner');
EXCEPTION WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS detail = PG_EXCEPTION_DETAIL;
    RAISE NOTICE '%: % - %', SQLSTATE, SQLERRM, regexp_replace(detail, '[0-9a-f]{32}', '<fingerprint>');
END
$$;
UPDATE kms_wrap.encryption_policies SET composition = 'redundant' WHERE policy_name = 'one-owner';
SELECT octet_length(kms_wrap.kw_unwrap(kms_wrap.kw_wrap_dek('one-owner'))) AS redundant;
UPDATE kms_wrap.encryption_policies SET composition = 'split', allow_same_trust_domain = true WHERE policy_name = 'one-owner';
SELECT octet_length(kms_wrap.kw_unwrap(kms_wrap.kw_wrap_dek('one-owner'))) AS allowed;
-- Two providers over one root key file are one owner, unless it is stated that they are not.
SELECT kms_wrap.kw_add_provider('a-too', 'local', jsonb_build_object('root_key', :'testname' || '-a')) \g /dev/null
SELECT kms_wrap.kw_create_local_key('a-too', 'a3', 'XAES-256-GCM') AS a3 \gset
SELECT kms_wrap.kw_create_policy('one-root', 'split', min_layers => 0), kms_wrap.kw_policy_add_key('one-root', 'kms1', :a1),
    kms_wrap.kw_policy_add_key('one-root', 'kms2', :a3) \g /dev/null
\set VERBOSITY terse
SELECT kms_wrap.kw_wrap_dek('one-root') \g /dev/null
\echo :LAST_ERROR_SQLSTATE
