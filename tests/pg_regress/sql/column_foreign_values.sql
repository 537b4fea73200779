-- Envelopes that nobody sealed for their rows, and plain values that are left where no row is: found before a column counts as protected.
\pset footer off
\pset null '-'
\set SHOW_CONTEXT never
SELECT kms_wrap.kw_create_root_key(:'testname' || '-a') AS root_a, kms_wrap.kw_create_root_key(:'testname' || '-b') AS root_b \gset
SELECT kms_wrap.kw_add_provider('a', 'local', jsonb_build_object('root_key', :'testname' || '-a')) AS a,
    kms_wrap.kw_add_provider('b', 'local', jsonb_build_object('root_key', :'testname' || '-b')) AS b \gset
SELECT kms_wrap.kw_create_local_key('a', 'a1', 'XAES-256-GCM') AS a1, kms_wrap.kw_create_local_key('b', 'b1', 'XAES-256-GCM') AS b1 \gset
SELECT kms_wrap.kw_create_policy('default', 'split', min_layers => 0) \g /dev/null
SELECT kms_wrap.kw_policy_add_key('default', 'kms1', :a1), kms_wrap.kw_policy_add_key('default', 'kms2', :b1) \g /dev/null
-- Values that kw_encrypt_text() made are envelopes already; the plain ones have to take their place.
CREATE TABLE free (id integer PRIMARY KEY, secret text, scan bytea);
INSERT INTO free SELECT i, kms_wrap.kw_encrypt_text('secret ' || i), kms_wrap.kw_encrypt('\x01') FROM generate_series(1, 3) i;
SELECT step, detail FROM kms_wrap.kw_protect_column('free', 'secret', dry_run => true) WHERE step IN ('obstacle', 'next');
SELECT * FROM kms_wrap.kw_protect_column('free', 'scan');
UPDATE free SET secret = kms_wrap.kw_decrypt_text(secret);
SELECT count(*) > 0 AS protected FROM kms_wrap.kw_protect_column('free', 'secret');
CALL kms_wrap.kw_encrypt_column('free', 'secret');
SELECT id, secret FROM free_decrypted ORDER BY id;

-- One among many, copied from elsewhere by somebody with no right but to write the table. Nothing is changed before it is found, and named.
CREATE TABLE many (id integer PRIMARY KEY, secret text, n integer);
INSERT INTO many SELECT i, 'secret ' || i FROM generate_series(1, 10000) i;
INSERT INTO many SELECT 20000, secret FROM free WHERE id = 1;
SELECT count(*) > 0 AS protected FROM kms_wrap.kw_protect_column('many', 'secret');
CALL kms_wrap.kw_encrypt_column('many', 'secret');
SELECT count(*) AS sealed FROM many WHERE kms_wrap.kw_is_sealed(secret);
UPDATE many SET secret = 'mine' WHERE id = 20000;
CALL kms_wrap.kw_encrypt_column('many', 'secret', batch_size => 10000);
SELECT id, secret FROM many_decrypted WHERE id > 9999 ORDER BY id;
DROP TABLE many CASCADE;
-- With no DEK of its tenant yet it is no better.
CREATE TABLE tenants (id integer PRIMARY KEY, tenant integer NOT NULL, secret text);
INSERT INTO tenants SELECT i, 1, NULL FROM generate_series(1, 10000) i;
INSERT INTO tenants SELECT 20000, 2, secret FROM free WHERE id = 1;
SELECT count(*) > 0 AS protected FROM kms_wrap.kw_protect_column('tenants', 'secret', tenant_column => 'tenant');
CALL kms_wrap.kw_encrypt_column('tenants', 'secret');
DROP TABLE tenants CASCADE;
-- Attached with a partition, which no trigger sees.
CREATE TABLE parts (id integer PRIMARY KEY, secret text) PARTITION BY RANGE (id);
CREATE TABLE parts_1 PARTITION OF parts FOR VALUES FROM (1) TO (10);
SELECT count(*) > 0 AS protected FROM kms_wrap.kw_protect_column('parts', 'secret');
INSERT INTO parts VALUES (1, 'one'), (2, 'two');
CREATE TABLE parts_2 (LIKE parts INCLUDING CONSTRAINTS INCLUDING INDEXES);
INSERT INTO parts_2 SELECT id + 10, secret FROM parts;
ALTER TABLE parts ATTACH PARTITION parts_2 FOR VALUES FROM (10) TO (20);
CALL kms_wrap.kw_encrypt_column('parts', 'secret');
DELETE FROM parts WHERE id = 12;
CALL kms_wrap.kw_encrypt_column('parts', 'secret');
UPDATE parts SET secret = 'eleven' WHERE id = 11;
CALL kms_wrap.kw_encrypt_column('parts', 'secret');
SELECT id, secret FROM parts_decrypted ORDER BY id;

-- Those that came by replication before their wrappers only have to wait for them.
SET session_replication_role = replica;
INSERT INTO parts VALUES (3, 'kw1.' || translate(rtrim(encode(decode('4b570101', 'hex') || decode(repeat('ab', 60), 'hex'), 'base64'), '='), E'+/\n', '-_'));
RESET session_replication_role;
CALL kms_wrap.kw_encrypt_column('parts', 'secret');
DELETE FROM parts WHERE id = 3;

-- Rows that are gone may be left in the TOAST table when none is in the table's own file.
CREATE TABLE emptied (id integer PRIMARY KEY, secret text) WITH (autovacuum_enabled = off, toast.autovacuum_enabled = off);
ALTER TABLE emptied ALTER secret SET STORAGE EXTERNAL;
INSERT INTO emptied SELECT i, repeat('plain', 2000) FROM generate_series(1, 50) i;
DELETE FROM emptied;
VACUUM (PROCESS_TOAST false) emptied;
SELECT pg_relation_size('emptied') AS file, pg_relation_size(reltoastrelid) > 0 AS toast FROM pg_class WHERE oid = 'emptied'::regclass;
SELECT detail FROM kms_wrap.kw_protect_column('emptied', 'secret') WHERE step = 'next';
CALL kms_wrap.kw_encrypt_column('emptied', 'secret');
SELECT pg_relation_size('emptied') AS file, pg_relation_size(reltoastrelid) AS toast FROM pg_class WHERE oid = 'emptied'::regclass;
-- So may a default that old rows were given without being written.
CREATE TABLE defaulted (id integer PRIMARY KEY);
INSERT INTO defaulted VALUES (1);
ALTER TABLE defaulted ADD secret text DEFAULT 'plain default';
ALTER TABLE defaulted ALTER secret DROP DEFAULT;
DELETE FROM defaulted;
VACUUM defaulted;
SELECT pg_relation_size('defaulted') AS file, attmissingval FROM pg_attribute WHERE attrelid = 'defaulted'::regclass AND attname = 'secret';
SELECT detail FROM kms_wrap.kw_protect_column('defaulted', 'secret') WHERE step = 'next';
CALL kms_wrap.kw_encrypt_column('defaulted', 'secret');
SELECT attmissingval FROM pg_attribute WHERE attrelid = 'defaulted'::regclass AND attname = 'secret';
