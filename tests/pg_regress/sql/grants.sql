-- Rights on policies: each privilege alone, by whom it counts, and what takes it away.
\pset footer off
\pset null '-'
\pset tuples_only
\pset format unaligned
\set SHOW_CONTEXT never
SELECT kms_wrap.kw_create_root_key(:'testname' || '-a') AS root_a, kms_wrap.kw_create_root_key(:'testname' || '-b') AS root_b \gset
SELECT kms_wrap.kw_add_provider('a', 'local', jsonb_build_object('root_key', :'testname' || '-a')) AS a,
    kms_wrap.kw_add_provider('b', 'local', jsonb_build_object('root_key', :'testname' || '-b')) AS b \gset
SELECT kms_wrap.kw_create_local_key('a', 'a1', 'XAES-256-GCM') AS a1, kms_wrap.kw_create_local_key('b', 'b1', 'XAES-256-GCM') AS b1, kms_wrap.kw_create_local_key('a', 'a2', 'XAES-256-GCM') AS a2 \gset
SELECT kms_wrap.kw_create_policy(p, 'split', min_layers => 0), kms_wrap.kw_policy_add_key(p, 'kms1', :a1, 1), kms_wrap.kw_policy_add_key(p, 'kms1', :a2), kms_wrap.kw_policy_add_key(p, 'kms2', :b1) FROM unnest(ARRAY['default', 'other', 'third']) p \g /dev/null
SET client_min_messages = warning;
SELECT :'testname' || '_alice' AS alice, :'testname' || '_bob' AS bob, :'testname' || '_group' AS grp, :'testname' || '_eve' AS eve, :'testname' || '_renamed' AS renamed, :'testname' || '_"odd"; DROP' AS odd \gset
DROP ROLE IF EXISTS :alice, :bob, :grp, :eve, :renamed, :"odd";
RESET client_min_messages;
CREATE ROLE :alice;
CREATE ROLE :bob NOINHERIT;
CREATE ROLE :grp;
CREATE ROLE :eve;
CREATE TABLE x AS SELECT kms_wrap.kw_wrap_dek() AS caller, kms_wrap.kw_encrypt('\x01') AS e, kms_wrap.kw_encrypt_text('a') AS t, kms_wrap.kw_encrypt('\x02', 'other') AS other;
ALTER TABLE x ADD own uuid, ADD other_own uuid;
UPDATE x SET own = kms_wrap.kw_wrapper_of(e), other_own = kms_wrap.kw_wrapper_of(other);
GRANT SELECT ON x TO PUBLIC;
CREATE FUNCTION try(statement text) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE statement;
    -- What was done is undone, so that every role finds the same.
    RAISE EXCEPTION 'done' USING ERRCODE = 'KW000';
EXCEPTION WHEN SQLSTATE 'KW000' THEN RETURN 'done';
WHEN OTHERS THEN
    RETURN SQLSTATE || ': ' || regexp_replace(SQLERRM, '[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}', '<uuid>', 'g');
END
$$;
CREATE VIEW calls (n, call, statement) AS SELECT * FROM (VALUES
    (1, 'kw_encrypt', 'SELECT kms_wrap.kw_encrypt($$\x01$$)'),
    (2, 'kw_encrypt_text', 'SELECT kms_wrap.kw_encrypt_text($$a$$)'),
    (3, 'kw_encrypt wrapper =>', 'SELECT kms_wrap.kw_encrypt($$\x01$$, wrapper => caller) FROM x'),
    (4, 'kw_encrypt other', 'SELECT kms_wrap.kw_encrypt($$\x01$$, $$other$$)'),
    (5, 'kw_decrypt', 'SELECT kms_wrap.kw_decrypt(e) FROM x'),
    (6, 'kw_decrypt_text', 'SELECT kms_wrap.kw_decrypt_text(t) FROM x'),
    (7, 'kw_decrypt other', 'SELECT kms_wrap.kw_decrypt(other) FROM x'),
    (8, 'kw_wrap_dek', 'SELECT kms_wrap.kw_wrap_dek()'),
    (9, 'kw_wrap_dek dek =>', 'SELECT kms_wrap.kw_wrap_dek(dek => sha256($$$$))'),
    (10, 'kw_unwrap', 'SELECT kms_wrap.kw_unwrap(caller) FROM x'),
    (11, 'kw_unwrap own', 'SELECT kms_wrap.kw_unwrap(own) FROM x'),
    (12, 'kw_rewrap', format('SELECT kms_wrap.kw_rewrap(caller, target_kms1 => %s) FROM x', (SELECT id FROM kms_wrap.kms_keys WHERE external_key_ref = 'a2'))),
    (13, 'kw_rotate_dek', 'SELECT kms_wrap.kw_rotate_dek(own) FROM x'),
    (14, 'kw_grant', 'SELECT kms_wrap.kw_grant($$decrypt$$, $$default$$, $$postgres$$)'),
    (15, 'kw_schedule_rewrap', format('SELECT kms_wrap.kw_schedule_rewrap(policy => $$default$$, target_kms1 => %s)', (SELECT id FROM kms_wrap.kms_keys WHERE external_key_ref = 'a2'))),
    (15.1, 'kw_schedule_rewrap other', format('SELECT kms_wrap.kw_schedule_rewrap(policy => $$other$$, target_kms1 => %s)', (SELECT id FROM kms_wrap.kms_keys WHERE external_key_ref = 'a2'))),
    (15.2, 'kw_schedule_rewrap provider', format('SELECT kms_wrap.kw_schedule_rewrap(from_provider => $$a$$, target_kms1 => %s)', (SELECT id FROM kms_wrap.kms_keys WHERE external_key_ref = 'a2'))),
    (15.3, 'kw_schedule_rewrap wrapper', format('SELECT kms_wrap.kw_schedule_rewrap(wrapper => own, target_kms1 => %s) FROM x', (SELECT id FROM kms_wrap.kms_keys WHERE external_key_ref = 'a2'))),
    (15.4, 'kw_schedule_rewrap both', format('SELECT kms_wrap.kw_schedule_rewrap(wrapper => other_own, policy => $$default$$, target_kms1 => %s) FROM x', (SELECT id FROM kms_wrap.kms_keys WHERE external_key_ref = 'a2'))),
    (16, 'read policy_grants', 'SELECT FROM kms_wrap.policy_grants'),
    (17, 'read key_wrappers', 'SELECT FROM kms_wrap.key_wrappers'),
    (18, 'kw_is_sealed', 'SELECT kms_wrap.kw_is_sealed(e) FROM x')) v;
GRANT SELECT ON calls TO PUBLIC;
CREATE FUNCTION may() RETURNS TABLE (line text) LANGUAGE sql AS $$
    SELECT string_agg(call, ', ' ORDER BY n) || ' -> ' || try FROM (SELECT n, call, regexp_replace(try(statement), '(function|procedure) \w+$', '\1 ...') AS try FROM calls) c GROUP BY try ORDER BY min(n)
$$;

-- Nobody but a superuser may anything yet.
SELECT may();
SET ROLE :alice;
SELECT may();
RESET ROLE;
-- Each privilege alone; true, then false since it is there already, and the same back.
-- Steps of the functions on columns, kw_column_..., are left out.
\set privilege encrypt
SELECT kms_wrap.kw_grant(:'privilege', 'default', :'alice'), kms_wrap.kw_grant(:'privilege', 'default', :'alice');
SET ROLE :alice;
SELECT may();
RESET ROLE;
SELECT string_agg(p.proname, ' ' ORDER BY p.proname COLLATE "C") FROM pg_proc p, aclexplode(p.proacl) a WHERE a.grantee = :'alice'::regrole AND p.proname !~ '^kw_column_';
SELECT kms_wrap.kw_revoke(:'privilege', 'default', :'alice'), kms_wrap.kw_revoke(:'privilege', 'default', :'alice');
\set privilege decrypt
SELECT kms_wrap.kw_grant(:'privilege', 'default', :'alice');
SET ROLE :alice;
SELECT may();
RESET ROLE;
SELECT string_agg(p.proname, ' ' ORDER BY p.proname COLLATE "C") FROM pg_proc p, aclexplode(p.proacl) a WHERE a.grantee = :'alice'::regrole AND p.proname !~ '^kw_column_';
SELECT kms_wrap.kw_revoke(:'privilege', 'default', :'alice');
\set privilege unwrap
SELECT kms_wrap.kw_grant(:'privilege', 'default', :'alice');
SET ROLE :alice;
SELECT may();
RESET ROLE;
SELECT string_agg(p.proname, ' ' ORDER BY p.proname COLLATE "C") FROM pg_proc p, aclexplode(p.proacl) a WHERE a.grantee = :'alice'::regrole AND p.proname !~ '^kw_column_';
SELECT kms_wrap.kw_revoke(:'privilege', 'default', :'alice');
\set privilege import
SELECT kms_wrap.kw_grant(:'privilege', 'default', :'alice');
SET ROLE :alice;
SELECT may();
RESET ROLE;
-- A DEK of one's own needs encrypt too.
SELECT kms_wrap.kw_grant('encrypt', 'default', :'alice');
SET ROLE :alice;
SELECT call, try(statement) FROM calls WHERE call ~ '^kw_wrap_dek';
RESET ROLE;
SELECT string_agg(p.proname, ' ' ORDER BY p.proname COLLATE "C") FROM pg_proc p, aclexplode(p.proacl) a WHERE a.grantee = :'alice'::regrole AND p.proname !~ '^kw_column_';
-- kw_wrap_dek serves encrypt as well and stays; without encrypt it is of no use, and without import it goes on.
SELECT kms_wrap.kw_revoke('import', 'default', :'alice');
SET ROLE :alice;
SELECT call, try(statement) FROM calls WHERE call ~ '^kw_wrap_dek';
RESET ROLE;
SELECT kms_wrap.kw_revoke('encrypt', 'default', :'alice');
\set privilege index
SELECT kms_wrap.kw_grant(:'privilege', 'default', :'alice');
SET ROLE :alice;
SELECT may();
RESET ROLE;
SELECT string_agg(p.proname, ' ' ORDER BY p.proname COLLATE "C") FROM pg_proc p, aclexplode(p.proacl) a WHERE a.grantee = :'alice'::regrole AND p.proname !~ '^kw_column_';
SELECT kms_wrap.kw_revoke(:'privilege', 'default', :'alice');
\set privilege manage
SELECT kms_wrap.kw_grant(:'privilege', 'default', :'alice');
SET ROLE :alice;
SELECT may();
RESET ROLE;
SELECT string_agg(p.proname, ' ' ORDER BY p.proname COLLATE "C") FROM pg_proc p, aclexplode(p.proacl) a WHERE a.grantee = :'alice'::regrole AND p.proname !~ '^kw_column_';
SELECT kms_wrap.kw_revoke(:'privilege', 'default', :'alice');
SELECT count(*) FROM pg_proc p, aclexplode(p.proacl) a WHERE a.grantee = :'alice'::regrole;
SELECT count(*) FROM kms_wrap.policy_grants;

-- The same privilege on two policies: EXECUTE stays until the last is gone, the right does not.
SELECT kms_wrap.kw_grant('decrypt', 'default', :'alice'), kms_wrap.kw_grant('decrypt', 'other', :'alice');
SET ROLE :alice;
SELECT call, try(statement) FROM calls WHERE n IN (5, 7);
RESET ROLE;
SELECT kms_wrap.kw_revoke('decrypt', 'default', :'alice');
SET ROLE :alice;
SELECT call, try(statement) FROM calls WHERE n IN (5, 7);
RESET ROLE;
SELECT kms_wrap.kw_revoke('decrypt', 'other', :'alice');
SET ROLE :alice;
SELECT call, try(statement) FROM calls WHERE n IN (5, 7);
-- What is held in memory from one role does not serve another: the DEK is open in this session.
RESET ROLE;
SELECT kms_wrap.kw_decrypt(e) FROM x;
SET ROLE :alice;
SELECT try('SELECT kms_wrap.kw_decrypt(e) FROM x');
RESET ROLE;
-- EXECUTE by hand is no right; nor is the right without EXECUTE.
GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA kms_wrap TO :eve;
SELECT kms_wrap.kw_decrypt(e) FROM x;
SET ROLE :eve;
SELECT may();
RESET ROLE;
REVOKE EXECUTE ON ALL FUNCTIONS IN SCHEMA kms_wrap FROM :eve;

-- By membership: inherited, or not until SET ROLE, and never after it has ended.
SELECT kms_wrap.kw_grant('decrypt', 'default', :'grp');
GRANT :grp TO :alice, :bob;
SET ROLE :alice;
SELECT try('SELECT kms_wrap.kw_decrypt(e) FROM x');
SET ROLE :bob;
SELECT try('SELECT kms_wrap.kw_decrypt(e) FROM x');
SET SESSION AUTHORIZATION :bob;
SELECT try('SELECT kms_wrap.kw_decrypt(e) FROM x');
SET ROLE :grp;
SELECT try('SELECT kms_wrap.kw_decrypt(e) FROM x');
RESET ROLE;
SELECT try('SELECT kms_wrap.kw_decrypt(e) FROM x');
RESET SESSION AUTHORIZATION;
-- EXECUTE of bob's own is there now; the right still is the group's, which he does not inherit.
SELECT kms_wrap.kw_grant('decrypt', 'other', :'bob');
SET ROLE :bob;
SELECT call, try(statement) FROM calls WHERE n IN (5, 7);
RESET ROLE;
SELECT kms_wrap.kw_revoke('decrypt', 'other', :'bob');
REVOKE :grp FROM :alice;
SET ROLE :alice;
SELECT try('SELECT kms_wrap.kw_decrypt(e) FROM x');
RESET ROLE;
-- Dropped while the answer is held, with EXECUTE kept by another right.
SELECT kms_wrap.kw_grant('decrypt', 'other', :'alice');
GRANT :grp TO :alice;
SET ROLE :alice;
SELECT call, try(statement) FROM calls WHERE n IN (5, 7);
RESET ROLE;
REVOKE :grp FROM :alice;
SET ROLE :alice;
SELECT call, try(statement) FROM calls WHERE n IN (5, 7);
RESET ROLE;
SELECT kms_wrap.kw_revoke('decrypt', 'other', :'alice');

-- A SECURITY DEFINER function has its owner's rights, for what it does itself; a view has its reader's.
CREATE FUNCTION reveal() RETURNS bytea LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS 'BEGIN RETURN kms_wrap.kw_decrypt(e) FROM public.x; END';
ALTER FUNCTION reveal() OWNER TO :grp;
CREATE VIEW revealed AS SELECT kms_wrap.kw_decrypt(e) FROM x;
ALTER VIEW revealed OWNER TO :grp;
GRANT SELECT ON revealed TO :alice;
SET ROLE :alice;
SELECT reveal();
SELECT try('SELECT * FROM revealed'), try('SELECT kms_wrap.kw_decrypt(e) FROM x');
RESET ROLE;
-- An owner without the right gives none.
CREATE FUNCTION denied() RETURNS bytea LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS 'BEGIN RETURN kms_wrap.kw_decrypt(e) FROM public.x; END';
ALTER FUNCTION denied() OWNER TO :eve;
SELECT try('SELECT denied()');
DROP FUNCTION reveal, denied;
DROP VIEW revealed;

-- A role that has a right can't be dropped; by DROP OWNED it loses EXECUTE, and kw_health tells of the row that is left.
\set VERBOSITY terse
DROP ROLE :grp;
\set VERBOSITY default
SELECT kms_wrap.kw_revoke('decrypt', 'default', :'grp');
DROP ROLE :grp;
CREATE ROLE :grp;
SELECT kms_wrap.kw_grant('decrypt', 'default', :'grp');
DROP OWNED BY :grp;
DROP ROLE :grp;
SELECT component, name, status, detail FROM kms_wrap.kw_health() WHERE name ~ 'grants_group' OR detail ~ 'grants_group';
-- Whoever is made anew under the name would have the right, once there is EXECUTE from another one; so the row is to go before.
CREATE ROLE :grp;
SELECT component, name, status, detail, action FROM kms_wrap.kw_health() WHERE name ~ 'grants_group' OR detail ~ 'grants_group';
SELECT kms_wrap.kw_grant('decrypt', 'other', :'grp');
SET ROLE :grp;
SELECT call, try(statement) FROM calls WHERE n IN (5, 7);
RESET ROLE;
SELECT kms_wrap.kw_revoke('decrypt', 'default', :'grp');
SELECT kms_wrap.kw_grant('decrypt', 'other', :'grp');
SELECT component, name, status, detail FROM kms_wrap.kw_health() WHERE name ~ 'grants_group' OR detail ~ 'grants_group';
SET ROLE :grp;
SELECT call, try(statement) FROM calls WHERE n IN (5, 7);
RESET ROLE;
DROP OWNED BY :grp;
DROP ROLE :grp;
-- A name that is a role's no more grants nothing, under the old name or the new one.
SELECT kms_wrap.kw_grant('decrypt', 'default', :'alice');
ALTER ROLE :alice RENAME TO :renamed;
SET ROLE :renamed;
SELECT try('SELECT kms_wrap.kw_decrypt(e) FROM x');
RESET ROLE;
ALTER ROLE :renamed RENAME TO :alice;
SET ROLE :alice;
SELECT try('SELECT kms_wrap.kw_decrypt(e) FROM x');
RESET ROLE;
SELECT kms_wrap.kw_revoke('decrypt', 'default', :'alice');
-- A name that has to be quoted.
CREATE ROLE :"odd";
SELECT kms_wrap.kw_grant('decrypt', 'default', quote_ident(:'odd')::regrole), kms_wrap.kw_grant('decrypt', 'default', quote_ident(:'odd')::regrole);
SET ROLE :"odd";
SELECT try('SELECT kms_wrap.kw_decrypt(e) FROM x');
RESET ROLE;
SELECT kms_wrap.kw_revoke('decrypt', 'default', quote_ident(:'odd')::regrole);
DROP ROLE :"odd";

-- Rolled back, a grant was none and a revocation neither.
BEGIN;
SELECT kms_wrap.kw_grant('decrypt', 'default', :'alice');
SET LOCAL ROLE :alice;
SELECT try('SELECT kms_wrap.kw_decrypt(e) FROM x');
ROLLBACK;
SET ROLE :alice;
SELECT try('SELECT kms_wrap.kw_decrypt(e) FROM x');
RESET ROLE;
SELECT kms_wrap.kw_grant('decrypt', 'default', :'alice'), kms_wrap.kw_grant('decrypt', 'other', :'alice');
BEGIN;
SELECT kms_wrap.kw_revoke('decrypt', 'default', :'alice');
SET LOCAL ROLE :alice;
SELECT try('SELECT kms_wrap.kw_decrypt(e) FROM x');
ROLLBACK;
SET ROLE :alice;
SELECT try('SELECT kms_wrap.kw_decrypt(e) FROM x');
RESET ROLE;
-- TRUNCATE and an edit by hand count as well.
TRUNCATE kms_wrap.policy_grants;
SET ROLE :alice;
SELECT try('SELECT kms_wrap.kw_decrypt(e) FROM x');
RESET ROLE;
INSERT INTO kms_wrap.policy_grants (policy_id, role_name, privilege) SELECT id, :'alice', 'decrypt' FROM kms_wrap.encryption_policies WHERE policy_name = 'default';
SET ROLE :alice;
SELECT try('SELECT kms_wrap.kw_decrypt(e) FROM x');
RESET ROLE;
UPDATE kms_wrap.policy_grants SET role_name = 'nobody at all';
SET ROLE :alice;
SELECT try('SELECT kms_wrap.kw_decrypt(e) FROM x');
RESET ROLE;
UPDATE kms_wrap.policy_grants SET role_name = :'alice';
SET ROLE :alice;
SELECT try('SELECT kms_wrap.kw_decrypt(e) FROM x');
RESET ROLE;
-- Under session_replication_role = replica too, as rows come by logical replication.
SET session_replication_role = replica;
DELETE FROM kms_wrap.policy_grants;
RESET session_replication_role;
SET ROLE :alice;
SELECT try('SELECT kms_wrap.kw_decrypt(e) FROM x');
RESET ROLE;
-- A superuser needs no grant, and one that is none any more does.
ALTER ROLE :eve SUPERUSER;
SET ROLE :eve;
SELECT try('SELECT kms_wrap.kw_decrypt(e) FROM x');
RESET ROLE;
GRANT EXECUTE ON FUNCTION kms_wrap.kw_decrypt TO :eve;
ALTER ROLE :eve NOSUPERUSER;
SET ROLE :eve;
SELECT try('SELECT kms_wrap.kw_decrypt(e) FROM x');
RESET ROLE;

-- Wrong arguments.
SELECT try(format('SELECT kms_wrap.kw_grant(%L, %L, %L)', privilege, policy, role)), try(format('SELECT kms_wrap.kw_revoke(%L, %L, %L)', privilege, policy, role))
FROM (VALUES ('read', 'default', 'postgres'), ('', 'default', 'postgres'), ('Decrypt', 'default', 'postgres'), (NULL, 'default', 'postgres'), ('decrypt', 'nope', 'postgres'), ('decrypt', NULL, 'postgres'),
    ('decrypt', 'default', 'no_such_role'), ('decrypt', 'default', NULL), ('decrypt', 'default', '-'), ('decrypt', 'default', '4000000000'), ('decrypt', 'default', 'public')) v (privilege, policy, role);
SELECT count(*) FROM kms_wrap.policy_grants;
SELECT try(format('INSERT INTO kms_wrap.policy_grants VALUES (%s, %L, %L)', id, 'x', 'all')) FROM kms_wrap.encryption_policies WHERE policy_name = 'default';
-- The policy's end is its grants' end.
SELECT kms_wrap.kw_grant('decrypt', 'third', :'alice');
DELETE FROM kms_wrap.encryption_policies WHERE policy_name = 'third';
SELECT count(*) FROM kms_wrap.policy_grants;
DROP OWNED BY :alice, :bob, :eve;
DROP ROLE :alice, :bob, :eve;
