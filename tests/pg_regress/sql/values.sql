-- kw_encrypt, kw_decrypt and their text forms: what goes in comes out, under whose DEK, and what the states of policy, wrapper and key allow.
\pset footer off
\pset null '-'
\set SHOW_CONTEXT never
SELECT kms_wrap.kw_create_root_key(:'testname' || '-a') AS root_a, kms_wrap.kw_create_root_key(:'testname' || '-b') AS root_b \gset
SELECT kms_wrap.kw_add_provider('a', 'local', jsonb_build_object('root_key', :'testname' || '-a')) AS a,
    kms_wrap.kw_add_provider('b', 'local', jsonb_build_object('root_key', :'testname' || '-b')) AS b \gset
SELECT kms_wrap.kw_create_local_key('a', 'a1', 'XAES-256-GCM') AS a1, kms_wrap.kw_create_local_key('b', 'b1', 'XAES-256-GCM') AS b1,
    kms_wrap.kw_create_local_key('a', 'm1', 'ML-KEM-768') AS m1, kms_wrap.kw_create_local_key('a', 'a2', 'XAES-256-GCM') AS a2 \gset
SELECT kms_wrap.kw_create_policy('default', 'split') \g /dev/null
SELECT kms_wrap.kw_policy_add_key('default', slot, key) FROM (VALUES ('kms1', :a1), ('kms2', :b1), ('layer', :m1)) v (slot, key) \g /dev/null
SELECT kms_wrap.kw_create_policy(p, 'split', min_layers => 0), kms_wrap.kw_policy_add_key(p, 'kms1', :a2), kms_wrap.kw_policy_add_key(p, 'kms2', :b1) FROM unnest(ARRAY['padded', 'tenants', 'other']) p \g /dev/null
-- How a statement ends. What differs from run to run is replaced.
CREATE FUNCTION try(statement text) RETURNS SETOF text LANGUAGE plpgsql AS $$
DECLARE
    message text;
    detail text;
    hint text;
    line text;
BEGIN
    EXECUTE statement INTO line;
    RETURN NEXT COALESCE(line, 'NULL');
EXCEPTION WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS message = MESSAGE_TEXT, detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
    FOREACH line IN ARRAY ARRAY[SQLSTATE || ': ' || message, 'DETAIL: ' || nullif(detail, ''), 'HINT: ' || nullif(hint, '')] LOOP
        line := regexp_replace(line, '[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}', '<uuid>', 'g');
        line := regexp_replace(line, 'Failing row contains .*', 'Failing row contains ...');
        IF line IS NOT NULL THEN
            RETURN NEXT line;
        END IF;
    END LOOP;
END
$$;

-- What the planner is told: encrypting is new each time and writes a DEK, decrypting reads and may run in workers, looking at the form uses no key.
SELECT p.oid::regprocedure AS function, p.provolatile, p.proparallel, p.procost, p.proisstrict, p.proleakproof
FROM pg_proc p WHERE p.pronamespace = 'kms_wrap'::regnamespace AND p.proname ~ '^kw_(encrypt|decrypt|encrypt_text|decrypt_text|is_sealed|wrapper_of)$' ORDER BY p.proname COLLATE "C", 1;

-- There and back. The first value makes the policy's DEK.
SELECT count(*) AS wrappers FROM kms_wrap.key_wrappers;
CREATE TABLE v (what text, plain text, sealed_text text, sealed bytea);
INSERT INTO v (what, plain) VALUES ('empty', ''), ('one', 'x'), ('emoji', '🔑👩‍👩‍👧 naïve Ж 漢字'), ('an envelope''s prefix', 'kw1.'), ('new line', E'a\nb\t'), ('1 MB', repeat('🔑', 262144)), ('null', NULL);
UPDATE v SET sealed_text = kms_wrap.kw_encrypt_text(plain), sealed = kms_wrap.kw_encrypt(convert_to(plain, 'UTF8'));
SELECT what, octet_length(plain) AS bytes, octet_length(sealed) - octet_length(plain) AS more, length(sealed_text) = 4 + ceil((octet_length(plain) + 60) * 4 / 3.0) AS armour_is_minimal,
    kms_wrap.kw_decrypt_text(sealed_text) IS NOT DISTINCT FROM plain AS text_comes_back, kms_wrap.kw_decrypt(sealed) IS NOT DISTINCT FROM convert_to(plain, 'UTF8') AS bytes_come_back,
    kms_wrap.kw_is_sealed(sealed_text) AS text_is_sealed, kms_wrap.kw_is_sealed(sealed) AS is_sealed, kms_wrap.kw_is_sealed(plain) AS plain_is_sealed,
    kms_wrap.kw_wrapper_of(sealed) = kms_wrap.kw_wrapper_of(sealed_text) AS one_wrapper
FROM v ORDER BY bytes, what;
SELECT purpose, status, scope_key, count(*) FROM kms_wrap.key_wrappers GROUP BY 1, 2, 3;
-- The two forms are one: armour is base64url of the raw envelope.
SELECT bool_and(kms_wrap.kw_decrypt(decode(rpad(translate(substr(sealed_text, 5), '-_', '+/'), (length(sealed_text) - 4 + 3) / 4 * 4, '='), 'base64')) = convert_to(plain, 'UTF8')) AS same
FROM v WHERE plain IS NOT NULL;
SELECT substr(sealed, 1, 4) AS head, encode(substr(sealed, 5, 16), 'hex') = replace(kms_wrap.kw_wrapper_of(sealed)::text, '-', '') AS wrapper FROM v WHERE what = 'one';
-- Every value of a wide range of lengths.
SELECT count(*) FILTER (WHERE kms_wrap.kw_decrypt(kms_wrap.kw_encrypt(b)) = b) AS same FROM generate_series(0, 600) n, LATERAL (SELECT decode(repeat('5a', n), 'hex') AS b) b;
-- Equal values never look alike: each has a nonce of its own, within a statement and between transactions.
CREATE TABLE many AS SELECT kms_wrap.kw_encrypt('\x01') AS e FROM generate_series(1, 1000);
INSERT INTO many SELECT kms_wrap.kw_encrypt('\x01');
INSERT INTO many SELECT kms_wrap.kw_encrypt('\x01');
SELECT count(*) AS values, count(DISTINCT substr(e, 21, 24)) AS nonces, count(DISTINCT substr(e, 21, 12)) AS runs, count(DISTINCT substr(e, 45, 1)) > 100 AS ciphertexts_differ FROM many;
-- A default is computed for each row, in a generic plan too.
CREATE TABLE d (n integer, e bytea DEFAULT kms_wrap.kw_encrypt('\x01'));
INSERT INTO d SELECT generate_series(1, 50);
PREPARE e AS INSERT INTO d (n) VALUES ($1);
CREATE FUNCTION fifty() RETURNS void LANGUAGE plpgsql AS $$ BEGIN FOR n IN 1..50 LOOP INSERT INTO d VALUES (n, kms_wrap.kw_encrypt('\x01')); END LOOP; END $$;
SELECT fifty();
SELECT count(*), count(DISTINCT e) FROM d;
-- A constant is not decrypted by the planner, so EXPLAIN does not show it.
SELECT sealed_text AS t FROM v WHERE what = 'one' \gset
CREATE TABLE plan (line text);
DO $do$
DECLARE
    line text;
    t text := (SELECT sealed_text FROM v WHERE what = 'one');
BEGIN
    FOR line IN EXECUTE format('EXPLAIN (VERBOSE, COSTS off) SELECT kms_wrap.kw_decrypt_text(%L)', t) LOOP INSERT INTO plan VALUES (replace(line, t, '<envelope>')); END LOOP;
END
$do$;
SELECT * FROM plan;

-- NULL in, NULL out; NULL for anything else is an error.
SELECT kms_wrap.kw_encrypt(NULL), kms_wrap.kw_encrypt_text(NULL), kms_wrap.kw_decrypt(NULL), kms_wrap.kw_decrypt_text(NULL), kms_wrap.kw_is_sealed(NULL::text), kms_wrap.kw_is_sealed(NULL::bytea), kms_wrap.kw_wrapper_of(NULL::text);
\pset tuples_only
\pset format unaligned
SELECT try($$SELECT kms_wrap.kw_encrypt('', NULL)$$), try($$SELECT kms_wrap.kw_encrypt_text('', context => NULL)$$);
SELECT try(format($$SELECT kms_wrap.kw_decrypt(%L, NULL)$$, sealed)), try(format($$SELECT kms_wrap.kw_decrypt_text(%L, NULL)$$, sealed_text)) FROM v WHERE what = 'one';
-- No such policy, no such wrapper.
SELECT try($$SELECT kms_wrap.kw_encrypt('', 'nope')$$);
SELECT try($$SELECT kms_wrap.kw_encrypt('', wrapper => '00000000-0000-7000-8000-000000000000')$$);

-- Padding: every length of a bucket looks the same, and comes off again. Of what is there already nothing changes.
UPDATE kms_wrap.encryption_policies SET value_pad_to = 32 WHERE policy_name = 'padded';
SELECT string_agg(octet_length(e)::text, ' ' ORDER BY n), bool_and(kms_wrap.kw_decrypt(e) = decode(repeat('80', n), 'hex') AND get_byte(e, 3) = 129), count(*)
FROM (SELECT n, kms_wrap.kw_encrypt(decode(repeat('80', n), 'hex'), 'padded') AS e FROM generate_series(0, 64) n) e;
SELECT bool_and(kms_wrap.kw_decrypt_text(kms_wrap.kw_encrypt_text(p, 'padded')) = p) FROM (VALUES (''), (E'\u0001'), ('漢字'), (repeat('x', 31)), (repeat('x', 32))) v (p);
CREATE TABLE padded AS SELECT kms_wrap.kw_encrypt('\x0000', 'padded') AS e;
UPDATE kms_wrap.encryption_policies SET value_pad_to = 1 WHERE policy_name = 'padded';
SELECT octet_length(e), kms_wrap.kw_decrypt(e), octet_length(kms_wrap.kw_encrypt('\x0000', 'padded')) FROM padded;
UPDATE kms_wrap.encryption_policies SET value_pad_to = 65536 WHERE policy_name = 'padded';
SELECT octet_length(kms_wrap.kw_encrypt('', 'padded')), octet_length(kms_wrap.kw_encrypt(decode(repeat('00', 65536), 'hex'), 'padded'));
SELECT try('UPDATE kms_wrap.encryption_policies SET value_pad_to = 0');
SELECT try('UPDATE kms_wrap.encryption_policies SET value_pad_to = 65537');

-- The context is authenticated, whatever the order of its pairs.
CREATE TABLE c AS SELECT kms_wrap.kw_encrypt_text('secret', context => '{"row": "1", "table": "t"}') AS e;
SELECT kms_wrap.kw_decrypt_text(e, '{"table": "t",   "row": "1"}') FROM c;
SELECT context, try(format('SELECT kms_wrap.kw_decrypt_text(%L, %L)', e, context))
FROM c, unnest(ARRAY['{}', '{"row": "2", "table": "t"}', '{"row": "1"}', '{"row": "1", "table": "t", "x": ""}', '{"Row": "1", "table": "t"}']) context;

-- A caller's wrapper by its uuid: its DEK, its context, and no other policy than its own. DEKs of 16 and 24 bytes are too short.
CREATE TABLE w (bytes integer, wrapper uuid);
PREPARE import (bytea) AS INSERT INTO w SELECT octet_length($1), kms_wrap.kw_wrap_dek(dek => $1, context => '{"a": "b"}');
EXECUTE import (decode(repeat('a1', 16), 'hex'));
EXECUTE import (decode(repeat('a2', 24), 'hex'));
EXECUTE import (decode(repeat('a3', 32), 'hex'));
EXECUTE import (decode(repeat('a4', 64), 'hex'));
SELECT bytes, try(format('SELECT kms_wrap.kw_decrypt(kms_wrap.kw_encrypt(%L, wrapper => %L, context => %L), %L)', '\x0102'::bytea, wrapper, '{"a": "b"}', '{"a": "b"}')) FROM w ORDER BY bytes;
SELECT bytes, try(format('SELECT kms_wrap.kw_encrypt(%L, wrapper => %L)', '\x0102'::bytea, wrapper)) FROM w WHERE bytes = 32;
SELECT bytes, try(format('SELECT kms_wrap.kw_encrypt(%L, wrapper => %L, context => %L)', '\x0102'::bytea, wrapper, '{"a": "b", "c": "d"}')) FROM w WHERE bytes = 32;
-- policy is not looked at then.
SELECT kms_wrap.kw_wrapper_of(kms_wrap.kw_encrypt('', 'nope', '{"a": "b"}', wrapper)) = wrapper FROM w WHERE bytes = 64;
-- What a caller wrapped never becomes the policy's own DEK, not even as its only one.
SELECT count(*) FROM w WHERE wrapper = kms_wrap.kw_wrapper_of(kms_wrap.kw_encrypt('x'));
SELECT kms_wrap.kw_wrap_dek('other', decode(repeat('a5', 32), 'hex')) AS planted \gset
SELECT kms_wrap.kw_wrapper_of(kms_wrap.kw_encrypt('x', 'other')) <> :'planted';
SELECT count(*), count(*) FILTER (WHERE purpose = 'values')
FROM kms_wrap.key_wrappers w JOIN kms_wrap.encryption_policies p ON p.id = w.policy_id WHERE policy_name = 'other';
-- Whoever can write the table may relabel it; the wrapper's own bytes still say what it was made for.
SELECT kms_wrap.kw_wrap_dek('tenants', decode(repeat('a6', 32), 'hex')) AS planted \gset
SELECT try('UPDATE kms_wrap.key_wrappers SET purpose = $$values$$ WHERE wrapper_uuid = ' || quote_literal(:'planted'));
ALTER TABLE kms_wrap.key_wrappers DISABLE TRIGGER kw_guard_update;
UPDATE kms_wrap.key_wrappers SET purpose = 'values' WHERE wrapper_uuid = :'planted';
SELECT try($$SELECT kms_wrap.kw_encrypt('x', 'tenants')$$);
SELECT try(format('SELECT kms_wrap.kw_encrypt(%L, wrapper => %L)', 'x', :'planted'));
\c
SELECT try($$SELECT kms_wrap.kw_encrypt('x', 'tenants')$$);
SELECT try(format('SELECT kms_wrap.kw_encrypt(%L, wrapper => %L)', 'x', :'planted'));
-- Nor is a policy's own DEK handed out, by its uuid or as a caller's.
SELECT kms_wrap.kw_wrapper_of(sealed) AS own FROM v WHERE what = 'one' \gset
SELECT try(format('SELECT kms_wrap.kw_unwrap(%L)', :'own'));
UPDATE kms_wrap.key_wrappers SET purpose = 'caller' WHERE wrapper_uuid = :'own';
SELECT try(format('SELECT kms_wrap.kw_unwrap(%L)', :'own'));
\c
SELECT try(format('SELECT kms_wrap.kw_unwrap(%L)', :'own'));
SELECT try(format('SELECT kms_wrap.kw_decrypt(%L)', sealed)) FROM v WHERE what = 'one';
UPDATE kms_wrap.key_wrappers SET purpose = 'values' WHERE wrapper_uuid = :'own';
DELETE FROM kms_wrap.key_wrappers WHERE wrapper_uuid = :'planted';
ALTER TABLE kms_wrap.key_wrappers ENABLE TRIGGER kw_guard_update;
\c
SELECT kms_wrap.kw_decrypt(sealed) FROM v WHERE what = 'one';

-- Named by its uuid it encrypts too, as it does by policy.
SELECT kms_wrap.kw_decrypt_text(kms_wrap.kw_encrypt_text('by uuid', wrapper => :'own', context => '{"x": "y"}'), '{"x": "y"}');

-- DEKs by tenant: the pairs that dek_scope names choose one, the others are authenticated all the same.
UPDATE kms_wrap.encryption_policies SET dek_scope = ARRAY['tenant'] WHERE policy_name = 'tenants';
CREATE TABLE t AS SELECT n, n % 3 AS tenant, kms_wrap.kw_encrypt_text('value ' || n, 'tenants', jsonb_build_object('tenant', (n % 3)::text, 'row', n::text)) AS e FROM generate_series(1, 9) n;
SELECT tenant, count(DISTINCT kms_wrap.kw_wrapper_of(e)), string_agg(kms_wrap.kw_decrypt_text(e, jsonb_build_object('tenant', tenant::text, 'row', n::text)), ', ' ORDER BY n) FROM t GROUP BY tenant ORDER BY tenant;
SELECT count(*), count(DISTINCT scope_key), bool_and(octet_length(scope_key) = 32) FROM kms_wrap.key_wrappers w JOIN kms_wrap.encryption_policies p ON p.id = w.policy_id WHERE policy_name = 'tenants';
SELECT context, try(format('SELECT kms_wrap.kw_decrypt_text(%L, %L)', e, context)) FROM t, unnest(ARRAY['{"tenant": "2", "row": "1"}', '{"tenant": "1", "row": "2"}', '{"row": "1"}', '{"tenant": "1"}', '{}']) context WHERE n = 1;
-- A context without the tenant would put its values under one DEK for all.
SELECT try($$SELECT kms_wrap.kw_encrypt('x', 'tenants', '{"row": "1"}')$$);
SELECT try($$SELECT kms_wrap.kw_encrypt('x', 'tenants')$$);
-- A tenant's wrapper by its uuid is for that tenant.
SELECT try(format('SELECT kms_wrap.kw_encrypt(%L, wrapper => %L, context => %L)', 'x', kms_wrap.kw_wrapper_of(e), '{"tenant": "2"}')) FROM t WHERE n = 1;
SELECT kms_wrap.kw_decrypt(kms_wrap.kw_encrypt('\x78', wrapper => kms_wrap.kw_wrapper_of(e), context => '{"tenant": "1"}'), '{"tenant": "1"}') FROM t WHERE n = 1;
-- Another scope would not find them any more.
SELECT try($$UPDATE kms_wrap.encryption_policies SET dek_scope = '{}' WHERE policy_name = 'tenants'$$);
SELECT try($$UPDATE kms_wrap.encryption_policies SET dek_scope = '{tenant,row}' WHERE policy_name = 'tenants'$$);
SELECT try($$UPDATE kms_wrap.encryption_policies SET dek_scope = dek_scope, notes = 'x' WHERE policy_name = 'tenants' RETURNING 'nothing changed'$$);

-- A new DEK: new values take it at once, old ones open until their wrapper is retired.
SELECT kms_wrap.kw_rotate_dek(:'own') AS new \gset
SELECT o.status, n.status, o.successor_id = n.id, o.rotated_at IS NOT NULL, n.purpose FROM kms_wrap.key_wrappers o, kms_wrap.key_wrappers n WHERE o.wrapper_uuid = :'own' AND n.wrapper_uuid = :'new';
SELECT kms_wrap.kw_wrapper_of(kms_wrap.kw_encrypt('x')) = :'new', (SELECT count(kms_wrap.kw_decrypt(sealed)) FROM v);
SELECT try(format('SELECT kms_wrap.kw_encrypt(%L, wrapper => %L)', 'x', :'own'));
SELECT try(format('SELECT kms_wrap.kw_rotate_dek(%L)', :'own'));
SELECT try(format('SELECT kms_wrap.kw_rotate_dek(%L)', wrapper)) FROM w WHERE bytes = 32;
SELECT try('SELECT kms_wrap.kw_rotate_dek(NULL)');
SELECT try('SELECT kms_wrap.kw_rotate_dek($$00000000-0000-7000-8000-000000000000$$)');
-- A tenant's new DEK stays that tenant's.
SELECT kms_wrap.kw_rotate_dek(kms_wrap.kw_wrapper_of(e)) AS new1 FROM t WHERE n = 1 \gset
SELECT tenant, count(*) FILTER (WHERE kms_wrap.kw_wrapper_of(kms_wrap.kw_encrypt_text('', 'tenants', jsonb_build_object('tenant', tenant::text))) = :'new1') FROM t GROUP BY tenant ORDER BY tenant;
SELECT kms_wrap.kw_decrypt_text(e, '{"tenant": "1", "row": "1"}') FROM t WHERE n = 1;
UPDATE kms_wrap.key_wrappers SET status = 'retired' WHERE wrapper_uuid = :'own';
SELECT try(format('SELECT kms_wrap.kw_decrypt(%L)', sealed)) FROM v WHERE what = 'one';
SELECT try(format('SELECT kms_wrap.kw_encrypt(%L, wrapper => %L)', 'x', :'own'));
UPDATE kms_wrap.key_wrappers SET status = 'rotated' WHERE wrapper_uuid = :'own';
SELECT kms_wrap.kw_decrypt(sealed) FROM v WHERE what = 'one';
UPDATE kms_wrap.key_wrappers SET status = 'invalid' WHERE wrapper_uuid = :'new';
SELECT try(format('SELECT kms_wrap.kw_encrypt(%L, wrapper => %L)', 'x', :'new'));
-- A policy whose DEK became invalid makes another.
SELECT kms_wrap.kw_wrapper_of(kms_wrap.kw_encrypt('x')) NOT IN (:'new', :'own');

-- A disabled policy: nothing new, what is there opens.
UPDATE kms_wrap.encryption_policies SET is_enabled = false WHERE policy_name = 'default';
SELECT try($$SELECT kms_wrap.kw_encrypt('x')$$);
SELECT try(format('SELECT kms_wrap.kw_encrypt(%L, wrapper => %L, context => %L)', 'x', wrapper, '{"a": "b"}')) FROM w WHERE bytes = 32;
SELECT kms_wrap.kw_decrypt(sealed) FROM v WHERE what = 'one';
UPDATE kms_wrap.encryption_policies SET is_enabled = true WHERE policy_name = 'default';
SELECT kms_wrap.kw_decrypt(kms_wrap.kw_encrypt('\x78'));

-- States of a KMS key: retired opens and goes on encrypting under the DEK that is there; disabled nothing, until it is back; compromised nothing.
CREATE FUNCTION states() RETURNS SETOF text LANGUAGE sql AS $$
    SELECT 'decrypt ' || try('SELECT convert_from(kms_wrap.kw_decrypt(sealed), $u$UTF8$u$) FROM v WHERE what = $u$one$u$') UNION ALL SELECT 'encrypt ' || try($u$SELECT kms_wrap.kw_is_sealed(kms_wrap.kw_encrypt('x'))$u$)
$$;
SELECT states();
SELECT kms_wrap.kw_set_key_status(:a1, 'retired');
SELECT states();
SELECT kms_wrap.kw_set_key_status(:a1, 'disabled');
SELECT states();
\c
SELECT states();
SELECT kms_wrap.kw_set_key_status(:a1, 'compromised');
SELECT states();
SELECT kms_wrap.kw_set_key_status(:a1, 'disabled');
SELECT kms_wrap.kw_set_key_status(:a1, 'active');
SELECT states();
SELECT kms_wrap.kw_set_key_status(:m1, 'disabled');
SELECT states();
SELECT kms_wrap.kw_set_key_status(:m1, 'active');
UPDATE kms_wrap.kms_providers SET is_enabled = false WHERE name = 'b';
SELECT states();
UPDATE kms_wrap.kms_providers SET is_enabled = true WHERE name = 'b';
SELECT try(format('SELECT kms_wrap.kw_set_key_status(%s, %L)', :a1, 'destroyed'));
UPDATE kms_wrap.key_wrappers SET status = 'invalid' WHERE status = 'active' AND kms1_key_id = :a1;
UPDATE kms_wrap.key_wrappers SET status = 'invalid' WHERE status = 'rotated' AND kms1_key_id = :a1;
SELECT kms_wrap.kw_set_key_status(:a1, 'destroyed');
SELECT states();

-- A rewrap keeps the DEK: what was encrypted before opens after, here and in a new session.
CREATE TABLE r AS SELECT kms_wrap.kw_encrypt('\x01', 'other') AS e;
SELECT kms_wrap.kw_create_local_key('a', 'a3', 'XAES-256-GCM') AS a3 \gset
SELECT kms_wrap.kw_policy_add_key('other', 'kms1', :a3);
SELECT kms_wrap.kw_rewrap(kms_wrap.kw_wrapper_of(e), target_kms1 => :a3) > 0 FROM r;
SELECT kms_wrap.kw_decrypt(e) FROM r;
\c
SELECT kms_wrap.kw_decrypt(e), kms_wrap.kw_wrapper_of(kms_wrap.kw_encrypt('x', 'other')) = kms_wrap.kw_wrapper_of(e) FROM r;
