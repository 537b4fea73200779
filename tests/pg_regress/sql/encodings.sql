-- Values in a database whose encoding is not UTF-8: text is bytes of that encoding, in values and in the blind index.
\pset footer off
\set SHOW_CONTEXT never
\encoding UTF8
SELECT :'testname' || '_latin1' AS database, current_database() AS here \gset
DROP DATABASE IF EXISTS :database;
CREATE DATABASE :database ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0;
\connect :database
SET client_encoding = 'UTF8';
CREATE EXTENSION kms_wrap;
SELECT kms_wrap.kw_create_root_key(:'testname' || '-a'), kms_wrap.kw_create_root_key(:'testname' || '-b') \g /dev/null
SELECT kms_wrap.kw_add_provider(p, 'local', jsonb_build_object('root_key', :'testname' || '-' || p)) FROM unnest(ARRAY['a', 'b']) p \g /dev/null
SELECT kms_wrap.kw_create_local_key('a', 'a1', 'XAES-256-GCM'), kms_wrap.kw_create_local_key('b', 'b1', 'XAES-256-GCM') \g /dev/null
SELECT kms_wrap.kw_create_policy('default', 'split', min_layers => 0) \g /dev/null
SELECT kms_wrap.kw_policy_add_key('default', 'kms1', 1000), kms_wrap.kw_policy_add_key('default', 'kms2', 1001) \g /dev/null
SELECT kms_wrap.kw_decrypt_text(kms_wrap.kw_encrypt_text('Größe für Ægir')) AS text;
SELECT kms_wrap.kw_decrypt(decode(rpad(translate(substr(e, 5), '-_', '+/'), (length(e) - 4 + 3) / 4 * 4, '='), 'base64')) AS bytes
FROM kms_wrap.kw_encrypt_text('Größe') e;
CREATE TABLE people (id integer PRIMARY KEY, name varchar(5), email text);
INSERT INTO people VALUES (1, 'Jürgn', 'JÜRGEN@x');
SELECT count(*) > 0 AS protected FROM kms_wrap.kw_protect_column('people', 'name', blind_index => 'index');
SELECT count(*) > 0 AS protected FROM kms_wrap.kw_protect_column('people', 'email', blind_index => 'unique', index_normalisation => 'lower');
INSERT INTO people VALUES (2, 'Åsa', 'Åsa@x'), (3, 'Renée', 'renée@x');
CALL kms_wrap.kw_encrypt_column('people', 'name');
CALL kms_wrap.kw_encrypt_column('people', 'email');
SELECT id, name, email FROM people_decrypted ORDER BY id;
SELECT id, name FROM people_decrypted WHERE name_bidx = ANY (kms_wrap.kw_blind_index('people', 'name', 'Åsa'));
SELECT id, name FROM people_decrypted WHERE name_bidx = ANY (kms_wrap.kw_blind_index('people', 'name', 'Jürgn'));
-- Lower case is that of ASCII letters.
SELECT id, email FROM people_decrypted WHERE email_bidx = ANY (kms_wrap.kw_blind_index('people', 'email', ' JÜRGEN@X '));
SELECT id, email FROM people_decrypted WHERE email_bidx = ANY (kms_wrap.kw_blind_index('people', 'email', 'RENéE@x'));
SELECT count(*) FROM people_decrypted WHERE email_bidx = ANY (kms_wrap.kw_blind_index('people', 'email', 'åsa@x'));
\set VERBOSITY sqlstate
INSERT INTO people VALUES (4, 'zuläng', 'x');
SELECT kms_wrap.kw_blind_index('people', 'größe', 'x');
SELECT kms_wrap.kw_blind_index(NULL, 'name', 'x');
SELECT kms_wrap.kw_blind_index('people', NULL, 'x');
\set VERBOSITY default
SELECT kms_wrap.kw_blind_index('people', 'name', NULL) IS NULL AS is_null;
\connect :here
DROP DATABASE :database;
