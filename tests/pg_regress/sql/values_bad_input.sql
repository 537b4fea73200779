-- Values that are none, or not whole, or another's: refused with a code that says what, and never with a part of the plaintext.
\pset footer off
\pset null '-'
\set SHOW_CONTEXT never
SELECT kms_wrap.kw_create_root_key(:'testname' || '-a') AS root_a, kms_wrap.kw_create_root_key(:'testname' || '-b') AS root_b \gset
SELECT kms_wrap.kw_add_provider('a', 'local', jsonb_build_object('root_key', :'testname' || '-a')) AS a,
    kms_wrap.kw_add_provider('b', 'local', jsonb_build_object('root_key', :'testname' || '-b')) AS b \gset
SELECT kms_wrap.kw_create_local_key('a', 'a1', 'XAES-256-GCM') AS a1, kms_wrap.kw_create_local_key('b', 'b1', 'XAES-256-GCM') AS b1 \gset
SELECT kms_wrap.kw_create_policy(p, 'split', min_layers => 0), kms_wrap.kw_policy_add_key(p, 'kms1', :a1), kms_wrap.kw_policy_add_key(p, 'kms2', :b1) FROM unnest(ARRAY['default', 'padded', 'other']) p \g /dev/null
UPDATE kms_wrap.encryption_policies SET value_pad_to = 16 WHERE policy_name = 'padded';
CREATE FUNCTION try(statement text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    line text;
BEGIN
    EXECUTE statement INTO line;
    RETURN COALESCE(line, 'NULL');
EXCEPTION WHEN OTHERS THEN
    RETURN SQLSTATE || ': ' || regexp_replace(SQLERRM, '[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}', '<uuid>', 'g');
END
$$;
CREATE FUNCTION opened(b bytea) RETURNS text LANGUAGE sql AS $$ SELECT try(format('SELECT kms_wrap.kw_decrypt(%L)', b)) $$;
CREATE FUNCTION opened(t text) RETURNS text LANGUAGE sql AS $$ SELECT try(format('SELECT kms_wrap.kw_decrypt_text(%L)', t)) $$;
CREATE TABLE e AS SELECT kms_wrap.kw_encrypt('plaintext', 'default') AS b, kms_wrap.kw_encrypt_text('plaintext') AS t, kms_wrap.kw_encrypt('plaintext', 'padded') AS p, kms_wrap.kw_encrypt('plaintext', 'other') AS o;
SELECT opened(b), opened(t), opened(p), opened(o) FROM e;

-- Cut at every length: less than a head and a tag is no envelope, more does not decrypt.
SELECT opened(substr(b, 1, n)) AS answer, bool_or(kms_wrap.kw_is_sealed(substr(b, 1, n))) AS sealed, min(n), max(n), count(*) FROM e, generate_series(0, octet_length(b) - 1) n GROUP BY 1 ORDER BY 3;
SELECT opened(substr(p, 1, n)) AS answer, bool_or(kms_wrap.kw_is_sealed(substr(p, 1, n))) AS sealed, min(n), max(n), count(*) FROM e, generate_series(0, octet_length(p) - 1) n GROUP BY 1 ORDER BY 3;
-- Which of both it is depends on the bits that the last character leaves over.
SELECT count(*) AS cuts, count(*) FILTER (WHERE opened(left(t, n)) ~ '^(22P03|39000): ') AS refused FROM e, generate_series(0, length(t) - 1) n;
-- With more behind it.
SELECT opened(b || '\x00'), opened(t || 'A'), opened(t || 'AA'), opened(t || '='), opened(t || E'\n') FROM e;
-- Every bit flipped, one at a time: in the magic, version, cipher, wrapper, nonce, ciphertext or tag.
SELECT opened(set_bit(b, n, 1 - get_bit(b, n))) AS answer, count(*), min(n / 8) AS first_byte, max(n / 8) AS last_byte FROM e, generate_series(0, octet_length(b) * 8 - 1) n GROUP BY 1 ORDER BY 3, 1;
-- The mark of padding is authenticated too.
SELECT opened(set_byte(b, 3, 129)), opened(set_byte(p, 3, 1)) FROM e;
-- Every character changed for another of the alphabet.
SELECT count(*) AS changed, count(*) FILTER (WHERE opened(overlay(t PLACING (CASE substr(t, n, 1) WHEN 'A' THEN 'B' ELSE 'A' END) FROM n)) ~ '^(22P03|39000|42704|55000): ') AS refused FROM e, generate_series(5, length(t)) n;
-- Another wrapper's uuid: one that is there, one that is not.
SELECT opened(overlay(b PLACING substr(o, 5, 16) FROM 5)), opened(overlay(b PLACING '\x00000000000070008000000000000000' FROM 5)) FROM e;
-- Parts of another envelope under the same DEK.
WITH other AS (SELECT kms_wrap.kw_encrypt('otherpart') AS x)
SELECT opened(overlay(b PLACING substr(x, 21, 24) FROM 21)) AS nonce, opened(overlay(b PLACING substr(x, 45, 9) FROM 45)) AS ciphertext, opened(overlay(b PLACING substr(x, 54, 16) FROM 54)) AS tag FROM e, other;
-- Versions and ciphers that do not exist yet; 4b57 and more is a version only up to 15.
SELECT opened(set_byte(b, 2, 2)), opened(set_byte(b, 2, 15)), opened(set_byte(b, 2, 16)), opened(set_byte(b, 2, 0)), opened(set_byte(b, 3, 2)), opened(set_byte(b, 3, 130)), opened(set_byte(b, 3, 0)) FROM e;
SELECT kms_wrap.kw_is_sealed(set_byte(b, 2, 2)), kms_wrap.kw_is_sealed(set_byte(b, 3, 2)) FROM e;

-- One text for one envelope: no padding, white space, other alphabet, other prefix or left-over bits.
SELECT what, opened(x), kms_wrap.kw_is_sealed(x) FROM e, LATERAL (VALUES
    ('=', t || '='), ('space before', ' ' || t), ('space after', t || ' '), ('space within', overlay(t PLACING ' ' FROM 20)), ('KW1.', 'KW1.' || substr(t, 5)), ('kw2.', 'kw2.' || substr(t, 5)), ('no prefix', substr(t, 5)), ('twice', 'kw1.' || t),
    ('standard alphabet', 'kw1.' || rpad('', 80, '+/')), ('empty', ''), ('prefix', 'kw1.'), ('one character', 'kw1.A'), ('bytes as text', b::text), ('emoji', 'kw1.🔑')) v (what, x);
-- 60 bytes are 80 characters, 61 leave 4 bits over in the 82nd, which must be 0.
WITH t AS (SELECT kms_wrap.kw_encrypt_text('x') AS t), a AS (SELECT t, 'ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_' AS alphabet FROM t)
SELECT opened(left(t, -1) || c) AS answer, count(*) FROM a, regexp_split_to_table(alphabet, '') c GROUP BY 1 ORDER BY 1 DESC;

-- Contexts that are none.
\pset tuples_only
\pset format unaligned
SELECT context, try(format('SELECT kms_wrap.kw_decrypt(%L, %L)', b, context)), try(format('SELECT kms_wrap.kw_encrypt(%L, context => %L)', 'x', context))
FROM e, unnest(ARRAY['[]', '"x"', 'null', '{"a": 1}', '{"a": null}', '{"a": {}}']) context;
SELECT try(format('SELECT kms_wrap.kw_encrypt(%L, context => %L)', 'x', jsonb_build_object('a', repeat('x', n)))) FROM unnest(ARRAY[1024]) n;
SELECT try(format('SELECT kms_wrap.kw_is_sealed(kms_wrap.kw_encrypt(%L, context => %L))', 'x', (SELECT jsonb_object_agg(i::text, '') FROM generate_series(1, n) i))) FROM unnest(ARRAY[64, 65]) n;
-- A context of 64 kB, stored out of line, and the same given inline.
CREATE TABLE c AS SELECT jsonb_object_agg(i::text, repeat(md5(i::text), 31)) AS context FROM generate_series(1, 64) i;
SELECT kms_wrap.kw_decrypt_text(kms_wrap.kw_encrypt_text('x', context => context), (context - '1') || jsonb_build_object('1', context -> '1')) FROM c;

-- Bytes that are no text: the error shows none of them.
SELECT try(format('SELECT kms_wrap.kw_decrypt_text(%L)', 'kw1.' || translate(rtrim(replace(encode(kms_wrap.kw_encrypt(b), 'base64'), E'\n', ''), '='), '+/', '-_')))
FROM unnest(ARRAY['\x5ec2e7', '\xff', '\xc0af', '\xeda080', '\x00', '\x6100', '\xf4908080', '\x616263']::bytea[]) b;
SELECT try(format('SELECT kms_wrap.kw_wrapper_of(%L::text)', 'x')), try(format('SELECT kms_wrap.kw_wrapper_of(%L::bytea)', 'x'));
-- NULL policy, with a wrapper too.
SELECT try(format('SELECT kms_wrap.kw_encrypt(%L, NULL, wrapper => kms_wrap.kw_wrapper_of(%L::bytea))', 'x', b)) FROM e;

-- Too large: seen in the TOAST header, before anything is read. A page is made whose pointers claim the length; nothing behind them has it.
CREATE TABLE big (b bytea, t text);
ALTER TABLE big ALTER b SET STORAGE EXTERNAL, ALTER t SET STORAGE EXTERNAL;
INSERT INTO big SELECT decode(repeat('00', 2500), 'hex'), repeat('x', 2600);
CHECKPOINT;
CREATE FUNCTION claim(b_len bigint, t_len bigint) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    page bytea := pg_read_binary_file(pg_relation_filepath('big'), 0, 8192);
    at integer;
    lo oid;
BEGIN
    -- varatt_external: raw size with its header, and stored size; little-endian on the machines that this runs on.
    at := position('\xc8090000'::bytea IN page) - 1;
    FOR i IN 0..3 LOOP page := set_byte(page, at + i, ((b_len + 4) >> (8 * i) & 255)::integer); END LOOP;
    at := position('\x2c0a0000'::bytea IN page) - 1;
    FOR i IN 0..3 LOOP page := set_byte(page, at + i, ((t_len + 4) >> (8 * i) & 255)::integer); END LOOP;
    CREATE TABLE claims (LIKE big INCLUDING STORAGE);
    lo := lo_from_bytea(0, page);
    PERFORM lo_export(lo, current_setting('data_directory') || '/' || pg_relation_filepath('claims'));
    PERFORM lo_unlink(lo);
END
$$;
SELECT claim((1 << 30) - 127, (767 << 20) + 1);
\c
-- Where pages have checksums, as they have by default from PostgreSQL 18 on.
SET ignore_checksum_failure = on;
SET client_min_messages = error;
SELECT try('SELECT kms_wrap.kw_encrypt(b) FROM claims'), try('SELECT kms_wrap.kw_encrypt_text(t) FROM claims');
DROP TABLE claims;
-- As long as is allowed it goes on to be read, which here fails for want of the bytes.
SELECT claim((1 << 30) - 128, 767 << 20);
\c
SET ignore_checksum_failure = on;
SET client_min_messages = error;
SELECT try('SELECT kms_wrap.kw_encrypt(b) FROM claims') !~ '^54000', try('SELECT kms_wrap.kw_encrypt_text(t) FROM claims') !~ '^54000';
DROP TABLE claims;
