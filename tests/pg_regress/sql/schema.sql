-- Structure of the schema, from the catalog: what a change of sql/ changes shows here.
\pset null '-'
\pset footer off
-- Unaligned, so that one longer name doesn't change every line.
\pset format unaligned
\pset fieldsep ' | '

-- Columns. The type's default storage isn't shown, another one is.
SELECT c.relname AS table_name, a.attnum AS n, a.attname AS column_name, format_type(a.atttypid, a.atttypmod) AS type,
    a.attnotnull AS not_null, nullif(a.attidentity, '') AS identity, nullif(a.attgenerated, '') AS generated,
    pg_get_expr(d.adbin, d.adrelid) AS default_or_expression,
    CASE WHEN a.attstorage <> t.typstorage THEN a.attstorage END AS storage
FROM pg_class c
JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
JOIN pg_type t ON t.oid = a.atttypid
LEFT JOIN pg_attrdef d ON d.adrelid = c.oid AND d.adnum = a.attnum
WHERE c.relnamespace = 'kms_wrap'::regnamespace AND c.relkind = 'r'
ORDER BY c.relname COLLATE "C", a.attnum;

-- Identity and other sequences.
SELECT c.relname AS sequence_name, format_type(s.seqtypid, NULL) AS type, s.seqstart, s.seqincrement, s.seqmax, s.seqcycle
FROM pg_sequence s
JOIN pg_class c ON c.oid = s.seqrelid
WHERE c.relnamespace = 'kms_wrap'::regnamespace
ORDER BY c.relname COLLATE "C";

-- Constraints. NOT NULL has rows of its own from PostgreSQL 18 on; columns show it above.
SELECT r.conrelid::regclass AS table_name, r.conname, r.contype, pg_get_constraintdef(r.oid, true) AS definition
FROM pg_constraint r
JOIN pg_class c ON c.oid = r.conrelid
WHERE c.relnamespace = 'kms_wrap'::regnamespace AND r.contype NOT IN ('n', 't')
ORDER BY c.relname COLLATE "C", r.contype, r.conname COLLATE "C";

SELECT count(*) FILTER (WHERE NOT r.convalidated) AS not_validated, count(*) FILTER (WHERE r.condeferrable) AS deferrable
FROM pg_constraint r
WHERE r.connamespace = 'kms_wrap'::regnamespace;

-- Indexes without a constraint.
SELECT pg_get_indexdef(i.indexrelid) AS definition
FROM pg_index i
JOIN pg_class c ON c.oid = i.indexrelid
WHERE c.relnamespace = 'kms_wrap'::regnamespace
    AND NOT EXISTS (SELECT FROM pg_constraint r WHERE r.conindid = i.indexrelid AND r.contype IN ('p', 'u'))
ORDER BY c.relname COLLATE "C";

-- Triggers. None may fire on INSERT: a restore would run it.
SELECT c.relname AS table_name, t.tgname, t.tgenabled, pg_get_triggerdef(t.oid) AS definition
FROM pg_trigger t
JOIN pg_class c ON c.oid = t.tgrelid
WHERE c.relnamespace = 'kms_wrap'::regnamespace AND NOT t.tgisinternal
ORDER BY c.relname COLLATE "C", t.tgname COLLATE "C";

SELECT c.relname AS table_name, t.tgname
FROM pg_trigger t
JOIN pg_class c ON c.oid = t.tgrelid
WHERE c.relnamespace = 'kms_wrap'::regnamespace AND NOT t.tgisinternal AND t.tgtype & 4 <> 0;

-- Functions written in SQL files: settings, and whose rights they have.
SELECT p.proname, p.prokind, l.lanname, p.provolatile, p.prosecdef, p.proconfig
FROM pg_proc p
JOIN pg_language l ON l.oid = p.prolang
WHERE p.pronamespace = 'kms_wrap'::regnamespace AND l.lanname IN ('sql', 'plpgsql')
ORDER BY p.proname COLLATE "C";

-- Views, their options and columns.
SELECT c.relname AS view_name, c.reloptions, array_agg(a.attname ORDER BY a.attnum) AS columns
FROM pg_class c
JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0
WHERE c.relnamespace = 'kms_wrap'::regnamespace AND c.relkind = 'v'
GROUP BY c.relname, c.reloptions
ORDER BY c.relname COLLATE "C";

-- No view shows bytes.
SELECT c.relname AS view_name, a.attname
FROM pg_class c
JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0
WHERE c.relnamespace = 'kms_wrap'::regnamespace AND c.relkind = 'v' AND a.atttypid = 'bytea'::regtype;

-- What pg_dump takes along, and what it would forget.
SELECT c.relname, c.relkind, u.condition
FROM pg_extension e
CROSS JOIN LATERAL unnest(e.extconfig, e.extcondition) AS u (rel, condition)
JOIN pg_class c ON c.oid = u.rel
WHERE e.extname = 'kms_wrap'
ORDER BY c.relname COLLATE "C";

-- revocation never has a row.
SELECT c.relname AS not_dumped
FROM pg_class c
WHERE c.relnamespace = 'kms_wrap'::regnamespace AND c.relkind IN ('r', 'S')
    AND NOT EXISTS (SELECT FROM pg_extension e WHERE e.extname = 'kms_wrap' AND c.oid = ANY (e.extconfig))
ORDER BY 1;

-- Everything has a comment.
SELECT c.relname, c.relkind
FROM pg_class c
WHERE c.relnamespace = 'kms_wrap'::regnamespace AND c.relkind IN ('r', 'v')
    AND obj_description(c.oid, 'pg_class') IS NULL
ORDER BY 1;

SELECT c.relname, a.attname
FROM pg_class c
JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
WHERE c.relnamespace = 'kms_wrap'::regnamespace AND c.relkind = 'r' AND col_description(c.oid, a.attnum) IS NULL
ORDER BY 1, 2;

SELECT p.proname
FROM pg_proc p
WHERE p.pronamespace = 'kms_wrap'::regnamespace AND obj_description(p.oid, 'pg_proc') IS NULL
ORDER BY 1;

-- The schema is open to look into; nothing in it belongs to everybody.
SELECT has_schema_privilege('public', 'kms_wrap', 'USAGE') AS usage, has_schema_privilege('public', 'kms_wrap', 'CREATE') AS create;

SELECT c.relname
FROM pg_class c
CROSS JOIN LATERAL aclexplode(c.relacl) x
WHERE c.relnamespace = 'kms_wrap'::regnamespace AND x.grantee <> c.relowner
ORDER BY 1;

-- Shipped rows: ids are never renumbered or reused.
SELECT id, class, name, variant, nist_level, status, params FROM kms_wrap.crypto_algorithms ORDER BY id;
SELECT alias, algo_id, is_shipped FROM kms_wrap.crypto_standard_aliases ORDER BY alias COLLATE "C";
