-- Which types can be protected, and which a value can be bound by.
\pset footer off
\pset null '-'
\set SHOW_CONTEXT never
SELECT kms_wrap.kw_create_root_key(:'testname' || '-a') AS root_a, kms_wrap.kw_create_root_key(:'testname' || '-b') AS root_b \gset
SELECT kms_wrap.kw_add_provider('a', 'local', jsonb_build_object('root_key', :'testname' || '-a')) AS a,
    kms_wrap.kw_add_provider('b', 'local', jsonb_build_object('root_key', :'testname' || '-b')) AS b \gset
SELECT kms_wrap.kw_create_local_key('a', 'a1', 'XAES-256-GCM') AS a1, kms_wrap.kw_create_local_key('b', 'b1', 'XAES-256-GCM') AS b1 \gset
SELECT kms_wrap.kw_create_policy('default', 'split', min_layers => 0) \g /dev/null
SELECT kms_wrap.kw_policy_add_key('default', 'kms1', :a1), kms_wrap.kw_policy_add_key('default', 'kms2', :b1) \g /dev/null
-- uuids differ from run to run.
CREATE FUNCTION masked(t text) RETURNS text LANGUAGE sql IMMUTABLE AS $$
    SELECT regexp_replace(regexp_replace(regexp_replace(t, '[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}', '<uuid>', 'g'),
        '[0-9a-f]{32}', '<hex>', 'g'), '(zzz_kw_seal)_[0-9a-f]{8}', '\1_<hex>', 'g')
$$;
CREATE FUNCTION protect(t regclass, c name, tenant name DEFAULT NULL) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    message text; detail text; hint text;
BEGIN
    PERFORM kms_wrap.kw_protect_column(t, c, tenant_column => tenant);
    RETURN 'protected';
EXCEPTION WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS message = MESSAGE_TEXT, detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
    RETURN concat_ws(E'\n', SQLSTATE || ': ' || message, nullif(detail, ''), nullif(hint, ''));
END
$$;

-- Types of the column. Text types become text; the view shows the old one.
CREATE DOMAIN email AS varchar(100) CHECK (VALUE LIKE '%@%');
CREATE TYPE mood AS ENUM ('sad', 'ok');
CREATE TABLE kinds (id integer PRIMARY KEY, a text, b varchar, c varchar(5), d char(5), e bytea, f bpchar, g text COLLATE "C", h integer, i jsonb, j numeric,
    k timestamptz, l email, m mood, n text[], o "char", p name, q xml, r uuid, s text GENERATED ALWAYS AS (a) STORED);
INSERT INTO kinds (id, a, b, c, d, e, f, g) VALUES (1, 'a', 'b', 'c', 'd', '\x65', 'f ', 'g'), (2, NULL, NULL, NULL, NULL, NULL, NULL, NULL), (3, '', '', '', '', '', '', '');
SELECT attname, format_type(atttypid, atttypmod) AS type, protect('kinds', attname) FROM pg_attribute WHERE attrelid = 'kinds'::regclass AND attnum > 2 ORDER BY attnum;
SELECT protect('kinds', 'a');
ALTER TABLE kinds ALTER s DROP EXPRESSION;
SELECT protect('kinds', 'a');
SELECT attname, format_type(atttypid, atttypmod) AS type, attcollation::regcollation AS collation FROM pg_attribute WHERE attrelid = 'kinds'::regclass AND attname = ANY ('{a,b,c,d,e,f,g}') ORDER BY attnum;
SELECT attname, format_type(atttypid, atttypmod) AS type, attcollation::regcollation AS collation FROM pg_attribute WHERE attrelid = 'kinds_decrypted'::regclass AND attname = ANY ('{a,b,c,d,e,f,g}') ORDER BY attnum;
INSERT INTO kinds (id, a, b, c, d, e, f, g) VALUES (4, 'a', 'b', 'c', 'd', '\x65', 'f ', 'g');
SELECT id, quote_nullable(a) AS a, quote_nullable(b) AS b, quote_nullable(c) AS c, quote_nullable(d) AS d, e, quote_nullable(f) AS f, quote_nullable(g) AS g, kw_plain_columns FROM kinds_decrypted ORDER BY id;
SELECT column_name, original_type, storage FROM kms_wrap.kw_protected_columns WHERE table_name = 'kinds' ORDER BY column_name;

-- Blanks at the end are no part of a char, and those that are too many of no varchar: equal values have equal entries in a blind index.
CREATE TABLE padded_values (id integer PRIMARY KEY, c char(5), v varchar(3), u text COLLATE "C");
INSERT INTO padded_values VALUES (1, 'ab', 'v');
SELECT count(*) > 0 AS protected FROM kms_wrap.kw_protect_column('padded_values', 'c', blind_index => 'unique');
SELECT count(*) > 0 AS protected FROM kms_wrap.kw_protect_column('padded_values', 'v', blind_index => 'unique');
CALL kms_wrap.kw_encrypt_column('padded_values', 'c');
CALL kms_wrap.kw_encrypt_column('padded_values', 'v');
\set VERBOSITY sqlstate
INSERT INTO padded_values VALUES (2, 'ab   ', 'x');
INSERT INTO padded_values VALUES (2, 'cd        ', 'xyz    ');
INSERT INTO padded_values VALUES (3, 'ef', 'xyz');
INSERT INTO padded_values VALUES (3, 'toolong', 'x');
INSERT INTO padded_values VALUES (3, 'x', 'too ');
INSERT INTO padded_values VALUES (4, 'y', 'żółw');
INSERT INTO padded_values VALUES (4, 'y', 'żół   ');
INSERT INTO padded_values VALUES (5, '   ', 'v ');
\set VERBOSITY default
SELECT id, octet_length(c) AS c, octet_length(v) AS v, quote_nullable(c) AS quoted, quote_nullable(v) AS quoted_v FROM padded_values_decrypted ORDER BY id;
SELECT id FROM padded_values WHERE c_bidx = ANY (kms_wrap.kw_blind_index('padded_values', 'c', 'ab  '));
-- Types of the key: equal values must have one byte form that stays.
-- Made so by hand: not every server has ICU.
CREATE COLLATION careless (provider = libc, locale = 'C');
UPDATE pg_collation SET collisdeterministic = false WHERE collname = 'careless';
CREATE TABLE careless_values (id integer PRIMARY KEY, v text COLLATE careless);
SELECT * FROM kms_wrap.kw_protect_column('careless_values', 'v', blind_index => 'unique');
SELECT count(*) > 0 AS protected FROM kms_wrap.kw_protect_column('careless_values', 'v', blind_index => 'index');
CREATE DOMAIN number AS integer;
CREATE DOMAIN amount AS numeric;
CREATE DOMAIN padded AS char(3);
CREATE DOMAIN unpadded AS bpchar;
CREATE FUNCTION try_key(type text) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    DROP TABLE IF EXISTS keyed CASCADE;
    EXECUTE format('CREATE TABLE keyed (k %s PRIMARY KEY, secret text)', type);
    RETURN protect('keyed', 'secret');
END
$$;
SET client_min_messages = warning;
SELECT type, try_key(type) FROM unnest(ARRAY['boolean', 'smallint', 'integer', 'bigint', 'oid', 'uuid', 'text', 'varchar', 'varchar(9)', 'char(9)', 'bytea', 'date', 'time', 'timestamp',
    'timestamptz', 'number', 'padded', 'text COLLATE "C"', 'numeric', 'numeric(9)', 'real', 'float8', 'interval', 'timetz', 'jsonb', 'mood', 'inet', 'money', 'integer[]', 'int4range', 'name',
    'bpchar', 'amount', 'unpadded', 'text COLLATE careless', 'bit(3)', 'tid', 'xid8']) WITH ORDINALITY u (type, n) ORDER BY n;
DELETE FROM kms_wrap.protected_columns WHERE table_name = 'keyed';
RESET client_min_messages;
-- No key, or one that cannot be used.
CREATE TABLE keyless (id integer UNIQUE NOT NULL, secret text);
SELECT protect('keyless', 'secret');
CREATE TABLE generated (n integer, id integer GENERATED ALWAYS AS (n + 1) STORED PRIMARY KEY, secret text);
SELECT protect('generated', 'secret');
CREATE TABLE own (id integer, secret text, PRIMARY KEY (id, secret));
SELECT protect('own', 'secret');
-- INCLUDE columns are not the key; an identity column and a deferrable key will do.
CREATE TABLE including (id integer GENERATED ALWAYS AS IDENTITY, n numeric, secret text, PRIMARY KEY (id) INCLUDE (n) DEFERRABLE);
SELECT protect('including', 'secret');
INSERT INTO including (n, secret) VALUES (1, 'one'), (2, 'two');
SELECT * FROM including_decrypted ORDER BY id;
-- A key of several columns is bound in the key's order.
CREATE TABLE composite (a text, b integer, c date, secret text, PRIMARY KEY (c, b));
SELECT detail FROM kms_wrap.kw_protect_column('composite', 'secret', dry_run => true) WHERE step = 'key';
SELECT detail FROM kms_wrap.kw_protect_column('composite', 'secret', tenant_column => 'a', dry_run => true) WHERE step = 'key';
SELECT detail FROM kms_wrap.kw_protect_column('composite', 'secret', tenant_column => 'b', dry_run => true) WHERE step = 'key';
-- The tenant column keeps the same rules.
CREATE TABLE tenants (id integer PRIMARY KEY, ok text, float real, made integer GENERATED ALWAYS AS (id * 2) STORED, secret text);
SELECT t AS tenant, protect('tenants', 'secret', t) FROM unnest('{float,made,secret,ok}'::name[]) t;
