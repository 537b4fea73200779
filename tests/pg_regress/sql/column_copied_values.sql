-- A role that may encrypt and write rows, and not decrypt, can't have a value that is stored sealed for a row of its own: not by changing a row's
-- key and back within one message, and not by way of the seal under a newer DEK.
\pset footer off
\set SHOW_CONTEXT never
SELECT kms_wrap.kw_create_root_key(:'testname' || '-a'), kms_wrap.kw_create_root_key(:'testname' || '-b') \g /dev/null
SELECT kms_wrap.kw_add_provider(p, 'local', jsonb_build_object('root_key', :'testname' || '-' || p)) FROM unnest(ARRAY['a', 'b']) p \g /dev/null
SELECT kms_wrap.kw_create_local_key('a', 'a1', 'XAES-256-GCM'), kms_wrap.kw_create_local_key('b', 'b1', 'XAES-256-GCM') \g /dev/null
SELECT kms_wrap.kw_create_policy('default', 'split', min_layers => 0) \g /dev/null
SELECT kms_wrap.kw_policy_add_key('default', 'kms1', 1000), kms_wrap.kw_policy_add_key('default', 'kms2', 1001) \g /dev/null
SELECT :'testname' || '_role' AS role \gset
SET client_min_messages = warning;
DROP ROLE IF EXISTS :role;
RESET client_min_messages;
CREATE ROLE :role;
CREATE TABLE people (id bigint PRIMARY KEY, secret text, n integer);
SELECT count(*) > 0 FROM kms_wrap.kw_protect_column('people', 'secret');
INSERT INTO people VALUES (5, 'bob''s secret'), (6, 'alice''s');
SELECT kms_wrap.kw_grant('encrypt', 'default', :'role');
GRANT SELECT, INSERT, UPDATE ON people TO :role;
SET ROLE :role;
DO $$
DECLARE
    v text;
BEGIN
    UPDATE people SET id = -5 WHERE id = 5 RETURNING secret INTO v;
    INSERT INTO people VALUES (777, v);
END
$$;
-- What the role has given itself goes on into another row of the same statement.
INSERT INTO people VALUES (6, 'anna''s') ON CONFLICT (id) DO UPDATE SET secret = EXCLUDED.secret;
RESET ROLE;
SELECT length(kms_wrap.kw_rotate_dek(kms_wrap.kw_wrapper_of(secret))::text) FROM people WHERE id = 5;
SET ROLE :role;
WITH moved AS (UPDATE people SET n = 1 WHERE id = 5 RETURNING secret) INSERT INTO people SELECT 777, secret FROM moved;
UPDATE people SET n = 2 WHERE id = 5;
RESET ROLE;
SELECT id, secret, n FROM people_decrypted ORDER BY id;
REVOKE ALL ON people FROM :role;
DROP OWNED BY :role;
DROP ROLE :role;
