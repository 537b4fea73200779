-- A table's owner who is no superuser protects its columns, with the right to encrypt; nobody else does.
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
SELECT :'testname' || '_alice' AS alice, :'testname' || '_bob' AS bob, :'testname' || '_mallory' AS mallory \gset
SET client_min_messages = warning;
DROP ROLE IF EXISTS :alice, :bob, :mallory;
RESET client_min_messages;
CREATE ROLE :alice;
CREATE ROLE :bob IN ROLE :alice;
CREATE ROLE :mallory;
CREATE SCHEMA alice AUTHORIZATION :alice;
CREATE SCHEMA mallory AUTHORIZATION :mallory;
GRANT USAGE ON SCHEMA alice, mallory TO PUBLIC;
SET ROLE :alice;
CREATE TABLE alice.t (id integer PRIMARY KEY, secret varchar(20), second text, third bytea);
INSERT INTO alice.t VALUES (1, 'one', 'uno', '\x01'), (2, 'two', 'due', '\x02');

-- Without a right on any policy nothing can be called; with EXECUTE alone, the policy refuses.
SELECT * FROM kms_wrap.kw_protect_column('alice.t', 'secret');
RESET ROLE;
GRANT EXECUTE ON ALL ROUTINES IN SCHEMA kms_wrap TO :alice, :mallory;
SET ROLE :alice;
SELECT * FROM kms_wrap.kw_protect_column('alice.t', 'secret');
SELECT * FROM kms_wrap.kw_protect_column('alice.t', 'secret', dry_run => true);
RESET ROLE;
REVOKE EXECUTE ON ALL ROUTINES IN SCHEMA kms_wrap FROM :alice, :mallory;
-- Mallory may encrypt, but owns nothing.
SELECT kms_wrap.kw_grant('encrypt', 'default', :'mallory') AS granted;
SET ROLE :mallory;
SELECT * FROM kms_wrap.kw_protect_column('alice.t', 'secret');
SELECT * FROM kms_wrap.kw_protect_column('alice.t', 'secret', dry_run => true);
SELECT * FROM kms_wrap.kw_column_lookup('alice.t'::regclass);
SELECT kms_wrap.kw_column_register(gen_random_uuid(), 'alice.t'::regclass, 'secret', 'default', NULL, 'protected', NULL, NULL, NULL, NULL, 'alice', 'v');
SELECT kms_wrap.kw_column_drop_statistics('alice.t'::regclass, 'secret');
RESET ROLE;

-- The owner, with the grant: all of it, and no right on any table of kms_wrap.
SELECT kms_wrap.kw_grant('encrypt', 'default', :'alice') AS granted;
SET ROLE :alice;
SELECT step, masked(detail) AS detail FROM kms_wrap.kw_protect_column('alice.t', 'secret', blind_index => 'unique');
INSERT INTO alice.t VALUES (3, 'three', 'tre', '\x03');
CALL kms_wrap.kw_encrypt_column('alice.t', 'secret');
SELECT count(*) FROM kms_wrap.protected_columns;
SELECT count(*) FROM kms_wrap.kw_protected_columns;
SELECT column_name, policy, original_type, status, index_column, decrypting_view::regclass, rows_total, rows_done, trigger_state FROM kms_wrap.kw_column_lookup('alice.t'::regclass);
SELECT id, secret <> 'one' AS is_sealed FROM alice.t WHERE id = 1;
-- To encrypt is not to decrypt.
SELECT id, secret FROM alice.t_decrypted;
SELECT * FROM kms_wrap.kw_unprotect_column('alice.t', 'secret');
RESET ROLE;
GRANT EXECUTE ON ALL ROUTINES IN SCHEMA kms_wrap TO :alice;
SET ROLE :alice;
SELECT * FROM kms_wrap.kw_unprotect_column('alice.t', 'secret');
SELECT id, secret FROM alice.t_decrypted;
RESET ROLE;
REVOKE EXECUTE ON ALL ROUTINES IN SCHEMA kms_wrap FROM :alice;
SELECT kms_wrap.kw_revoke('encrypt', 'default', :'alice') AS revoked, kms_wrap.kw_grant('encrypt', 'default', :'alice') AS granted_again, kms_wrap.kw_grant('decrypt', 'default', :'alice') AS granted;
SELECT status, is_validated FROM kms_wrap.kw_protected_columns;

-- A member of the owner's role does as well as the owner, who can go on with what a superuser did.
SET ROLE :bob;
SELECT count(*) > 0 AS protected FROM kms_wrap.kw_protect_column('alice.t', 'second');
RESET ROLE;
SELECT count(*) > 0 AS protected FROM kms_wrap.kw_protect_column('alice.t', 'third');
SELECT relowner::regrole = :'alice'::regrole AS of_alice FROM pg_class WHERE oid IN ('alice.t'::regclass, 'alice.t_decrypted'::regclass);
SET ROLE :alice;
CALL kms_wrap.kw_encrypt_column('alice.t', 'second');
CALL kms_wrap.kw_encrypt_column('alice.t', 'third');
SELECT id, secret, second, third, kw_plain_columns FROM alice.t_decrypted ORDER BY id;
SELECT count(*) > 0 AS given_back FROM kms_wrap.kw_unprotect_column('alice.t', 'third');
SELECT id, secret, second, third, kw_plain_columns FROM alice.t_decrypted ORDER BY id;
RESET ROLE;

-- Mallory copies the constraint, to pass for the owner of the column.
SELECT column_uuid AS uuid, 'kw_sealed_' || replace(column_uuid::text, '-', '') AS constraint FROM kms_wrap.kw_protected_columns WHERE column_name = 'secret' \gset
SELECT kms_wrap.kw_grant('decrypt', 'default', :'mallory') AS granted;
SET ROLE :mallory;
CREATE TABLE mallory.t (id integer PRIMARY KEY, secret text CONSTRAINT :constraint CHECK (kms_wrap.kw_is_sealed(secret)));
\set VERBOSITY terse
SELECT * FROM kms_wrap.kw_column_lookup('mallory.t'::regclass);
SELECT kms_wrap.kw_column_progress('mallory.t'::regclass, 'secret', NULL, 1, 1, NULL);
SELECT * FROM kms_wrap.kw_unprotect_column('mallory.t', 'secret');
CALL kms_wrap.kw_encrypt_column('mallory.t', 'secret');
\set VERBOSITY sqlstate
SELECT kms_wrap.kw_column_unregister(:'uuid');
\set VERBOSITY default
RESET ROLE;
SELECT relation, status, has_copies, has_recorded_name FROM kms_wrap.kw_protected_columns WHERE column_name = 'secret' ORDER BY relation::text;
-- The owner isn't disturbed by it, under whatever name, nor when nothing is on record and the name tells the table.
SET ROLE :alice;
CALL kms_wrap.kw_encrypt_column('alice.t', 'secret');
ALTER TABLE alice.t RENAME TO renamed;
CALL kms_wrap.kw_encrypt_column('alice.renamed', 'secret');
BEGIN;
SELECT count(*) > 0 AS given_back FROM kms_wrap.kw_unprotect_column('alice.renamed', 'secret');
ROLLBACK;
ALTER TABLE alice.renamed RENAME TO t;
RESET ROLE;
TRUNCATE kms_wrap.column_relations;
SET ROLE :alice;
BEGIN READ ONLY;
SELECT column_name FROM kms_wrap.kw_column_lookup('alice.t'::regclass) ORDER BY 1;
COMMIT;
BEGIN;
SELECT count(*) > 0 AS given_back FROM kms_wrap.kw_unprotect_column('alice.t', 'secret');
ROLLBACK;
RESET ROLE;
-- A table of the owner's own with the constraint may have values of the column.
SET ROLE :alice;
CREATE TABLE alice.copy (LIKE alice.t INCLUDING CONSTRAINTS);
\set VERBOSITY terse
SELECT count(*) > 0 AS given_back FROM kms_wrap.kw_unprotect_column('alice.t', 'secret');
\set VERBOSITY default
DROP TABLE alice.copy;
RESET ROLE;
DROP TABLE mallory.t;

-- A partition of somebody else's, row security against the owner, a schema where the owner may not create.
SET ROLE :mallory;
CREATE TABLE mallory.part (id integer PRIMARY KEY, secret text);
RESET ROLE;
CREATE TABLE alice.root (id integer PRIMARY KEY, secret text) PARTITION BY RANGE (id);
ALTER TABLE alice.root ATTACH PARTITION mallory.part DEFAULT;
ALTER TABLE alice.root OWNER TO :alice;
ALTER TABLE mallory.part OWNER TO :mallory;
CREATE TABLE public.closed (id integer PRIMARY KEY, secret text);
ALTER TABLE public.closed OWNER TO :alice;
REVOKE CREATE ON SCHEMA public FROM PUBLIC;
SET ROLE :alice;
SELECT * FROM kms_wrap.kw_protect_column('alice.root', 'secret');
SELECT detail FROM kms_wrap.kw_protect_column('public.closed', 'secret', dry_run => true) WHERE step = 'obstacle';
CREATE TABLE alice.guarded (id integer PRIMARY KEY, secret text);
INSERT INTO alice.guarded VALUES (1, 'one'), (2, 'two');
ALTER TABLE alice.guarded ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
CREATE POLICY odd ON alice.guarded USING (id % 2 = 1);
SELECT count(*) > 0 AS protected FROM kms_wrap.kw_protect_column('alice.guarded', 'secret');
CALL kms_wrap.kw_encrypt_column('alice.guarded', 'secret');
ALTER TABLE alice.guarded NO FORCE ROW LEVEL SECURITY;
CALL kms_wrap.kw_encrypt_column('alice.guarded', 'secret');
SELECT count(*) > 0 AS given_back FROM kms_wrap.kw_unprotect_column('alice.guarded', 'secret');
SELECT * FROM alice.guarded ORDER BY id;
RESET ROLE;

-- A partition that was detached and given away keeps its values readable, and the column registered.
CREATE TABLE alice.log (id integer PRIMARY KEY, secret text) PARTITION BY RANGE (id);
CREATE TABLE alice.log_1 PARTITION OF alice.log FOR VALUES FROM (1) TO (10);
CREATE TABLE alice.log_2 PARTITION OF alice.log DEFAULT;
ALTER TABLE alice.log OWNER TO :alice;
ALTER TABLE alice.log_1 OWNER TO :alice;
ALTER TABLE alice.log_2 OWNER TO :alice;
SET ROLE :alice;
SELECT count(*) > 0 AS protected FROM kms_wrap.kw_protect_column('alice.log', 'secret');
INSERT INTO alice.log VALUES (1, 'one'), (11, 'eleven');
SELECT l.column_uuid AS log_uuid FROM kms_wrap.kw_column_lookup('alice.log'::regclass) l \gset
RESET ROLE;
ALTER TABLE alice.log DETACH PARTITION alice.log_1;
ALTER TABLE alice.log_1 OWNER TO :mallory;
SET ROLE :alice;
SELECT step, masked(detail) AS detail FROM kms_wrap.kw_unprotect_column('alice.log', 'secret') WHERE step = 'note';
SELECT * FROM alice.log;
RESET ROLE;
SELECT kms_wrap.kw_open_column_text(:'log_uuid', secret, id) FROM alice.log_1;
DROP TABLE alice.log_1;
SET ROLE :alice;
SELECT kms_wrap.kw_column_unregister(:'log_uuid');
DROP TABLE alice.log;
RESET ROLE;

-- A table that is gone leaves its row, for whoever may decrypt to remove.
DROP TABLE alice.t CASCADE;
SELECT relation, schema_name, table_name, column_name, status, trigger_state, is_validated, has_primary_key FROM kms_wrap.kw_protected_columns ORDER BY column_name;
SET ROLE :alice;
SELECT kms_wrap.kw_column_unregister(:'uuid');
\set VERBOSITY sqlstate
SELECT kms_wrap.kw_column_unregister(:'uuid');
SELECT kms_wrap.kw_column_unregister(NULL);
\set VERBOSITY default
RESET ROLE;
SELECT column_name FROM kms_wrap.kw_protected_columns;
SELECT kms_wrap.kw_revoke(p, 'default', r::regrole) FROM unnest(ARRAY['encrypt', 'decrypt']) p, unnest(ARRAY[:'alice', :'mallory']) r \g /dev/null
DROP OWNED BY :alice, :mallory CASCADE;
DROP ROLE :bob, :alice, :mallory;
