-- Protected columns of partitioned tables: every partition, also those that come later.
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
CREATE TABLE visit (id integer, day date, patient varchar(30), note text, PRIMARY KEY (day, id)) PARTITION BY RANGE (day);
CREATE TABLE visit_2023 PARTITION OF visit FOR VALUES FROM ('2023-01-01') TO ('2024-01-01');
CREATE TABLE visit_2024 PARTITION OF visit FOR VALUES FROM ('2024-01-01') TO ('2025-01-01') PARTITION BY LIST (id);
CREATE TABLE visit_2024_even PARTITION OF visit_2024 FOR VALUES IN (2, 4, 6, 8);
-- Its columns stand in another order.
CREATE TABLE visit_2024_rest (note text, gone integer, patient varchar(30), id integer NOT NULL, day date NOT NULL);
ALTER TABLE visit_2024_rest DROP COLUMN gone;
ALTER TABLE visit_2024 ATTACH PARTITION visit_2024_rest DEFAULT;
INSERT INTO visit SELECT i, date '2023-06-01' + i * 60, 'patient ' || i, 'note ' || i FROM generate_series(1, 9) i;
CREATE TABLE before AS SELECT * FROM visit;
ANALYZE visit;
CREATE VIEW triggers AS
SELECT t.tgrelid::regclass AS relation, masked(t.tgname) AS name, t.tgenabled FROM pg_trigger t JOIN pg_partition_tree('visit') p ON p.relid = t.tgrelid ORDER BY t.tgrelid::regclass::text;
CREATE VIEW constraints AS
SELECT c.conrelid::regclass AS relation, masked(c.conname) AS name, c.convalidated, c.conislocal, c.coninhcount FROM pg_constraint c JOIN pg_partition_tree('visit') p ON p.relid = c.conrelid
WHERE c.contype = 'c' ORDER BY c.conrelid::regclass::text, 2;

-- The root is protected, with all of them.
SELECT * FROM kms_wrap.kw_protect_column('visit_2023', 'patient');
SELECT * FROM kms_wrap.kw_protect_column('visit_2024', 'patient');
SELECT * FROM kms_wrap.kw_protect_column('visit', 'patient', blind_index => 'unique');
SELECT detail FROM kms_wrap.kw_protect_column('visit', 'day', dry_run => true);
CREATE INDEX local_index ON visit_2024_even (patient);
CREATE VIEW local_view AS SELECT patient FROM visit_2023;
SELECT detail FROM kms_wrap.kw_protect_column('visit', 'patient', dry_run => true) WHERE step IN ('obstacle', 'rows');
DROP INDEX local_index;
DROP VIEW local_view;
SELECT step, masked(detail) AS detail FROM kms_wrap.kw_protect_column('visit', 'patient', blind_index => 'index');
SELECT * FROM triggers;
SELECT * FROM constraints;
SELECT tablename, attname FROM pg_stats WHERE attname = 'patient' AND tablename LIKE 'visit%';
SELECT relation, status, trigger_state, is_validated, has_copies FROM kms_wrap.kw_protected_columns;
INSERT INTO visit VALUES (10, '2023-12-31', 'patient 10', NULL), (2, '2024-12-31', 'patient 2', NULL);
INSERT INTO visit_2024_rest (id, day, patient) VALUES (11, '2024-12-30', 'patient 11');
SELECT tableoid::regclass, kms_wrap.kw_is_sealed(patient) AS is_sealed, count(*) FROM visit GROUP BY 1, 2 ORDER BY 1, 2;

-- A partition that comes later has all of it; a table that is attached needs the constraint, and brings no plain value in.
CREATE TABLE visit_2025 PARTITION OF visit FOR VALUES FROM ('2025-01-01') TO ('2026-01-01');
CREATE TABLE visit_2026 (LIKE visit);
INSERT INTO visit_2026 (id, day, patient) VALUES (1, '2026-01-01', 'plain');
\set VERBOSITY sqlstate
ALTER TABLE visit ATTACH PARTITION visit_2026 FOR VALUES FROM ('2026-01-01') TO ('2027-01-01');
\set VERBOSITY default
DROP TABLE visit_2026;
INSERT INTO visit VALUES (12, '2025-05-05', 'patient 12', NULL);
SELECT * FROM triggers WHERE relation = 'visit_2025'::regclass;

-- All partitions are encrypted and rewritten.
SELECT relid, pg_relation_filenode(relid) AS filenode INTO TEMP filenodes FROM pg_partition_tree('visit') WHERE isleaf;
CALL kms_wrap.kw_encrypt_column('visit', 'patient', batch_size => 4);
SELECT relid, pg_relation_filenode(relid) <> filenode AS rewritten FROM filenodes ORDER BY relid::text;
SELECT * FROM constraints WHERE name LIKE 'kw_sealed%';
SELECT status, rows_total, rows_done, trigger_state, is_validated FROM kms_wrap.kw_protected_columns;
SELECT count(*) AS same FROM before b JOIN visit_decrypted d USING (id, day, patient, note);
SELECT id, day, patient, kw_plain_columns FROM visit_decrypted WHERE day > '2024-12-01' ORDER BY day;
-- A row that changes its partition.
UPDATE visit SET day = '2023-02-02' WHERE id = 12;
SELECT tableoid::regclass, patient <> 'patient 12' AS is_sealed FROM visit WHERE id = 12;
SELECT patient FROM visit_decrypted WHERE id = 12;

-- One partition's trigger is enough to say so.
SELECT tgname AS seal_trigger FROM pg_trigger WHERE tgrelid = 'visit'::regclass \gset
ALTER TABLE visit_2023 DISABLE TRIGGER :seal_trigger;
SELECT trigger_state FROM kms_wrap.kw_protected_columns;
ALTER TABLE visit_2023 ENABLE ALWAYS TRIGGER :seal_trigger;

-- A partition that is detached keeps its values, and has to go or forget them before the column can be given back.
ALTER TABLE visit DETACH PARTITION visit_2023;
SELECT relation, has_copies, has_recorded_name, trigger_state FROM kms_wrap.kw_protected_columns ORDER BY relation::text;
SELECT kms_wrap.kw_open_column_text(column_uuid, v.patient, v.day, v.id) AS patient FROM visit_2023 v, kms_wrap.protected_columns ORDER BY v.day LIMIT 1;
\set VERBOSITY terse
SELECT * FROM kms_wrap.kw_unprotect_column('visit', 'patient');
\set VERBOSITY default
ALTER TABLE visit ATTACH PARTITION visit_2023 FOR VALUES FROM ('2023-01-01') TO ('2024-01-01');
SELECT * FROM triggers WHERE relation = 'visit_2023'::regclass;

-- And back.
SELECT masked(detail) AS detail FROM kms_wrap.kw_unprotect_column('visit', 'patient');
SELECT count(*) AS same FROM before b JOIN visit v USING (id, day, patient, note);
SELECT * FROM triggers;
SELECT * FROM constraints;
SELECT a.attrelid::regclass AS relation, format_type(a.atttypid, a.atttypmod) AS type, COALESCE(a.attstattarget, -1) AS statistics
FROM pg_partition_tree('visit') p JOIN pg_attribute a ON a.attrelid = p.relid WHERE a.attname IN ('patient', 'patient_bidx') ORDER BY a.attrelid::regclass::text;
SELECT count(*) FROM kms_wrap.protected_columns;
