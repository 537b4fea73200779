-- Which columns are protected, where they are today, and whether everything that protects them is still in place.
CREATE VIEW kms_wrap.kw_protected_columns WITH (security_barrier) AS
SELECT p.column_uuid, s.conrelid::regclass AS relation, COALESCE(n.nspname, p.schema_name) AS schema_name,
    COALESCE(c.relname, p.table_name) AS table_name, COALESCE(a.attname, p.column_name) AS column_name, e.policy_name, p.status,
    p.rows_total, p.rows_done,
    CASE WHEN p.rows_total > 0 THEN least(round(100.0 * p.rows_done / p.rows_total, 1), 100.0) WHEN p.status <> 'encrypting' THEN 100.0 END AS percent,
    p.original_type, p.storage, ta.attname AS tenant_column, ia.attname AS index_column, p.index_bytes, p.index_normalisation,
    p.index_unique, p.index_generation, p.index_old_generation, v.oid::regclass AS decrypting_view, t.state AS trigger_state, s.convalidated AS is_validated,
    CASE WHEN s.oid IS NOT NULL THEN EXISTS (SELECT FROM pg_index k WHERE k.indrelid = s.conrelid AND k.indisprimary) END AS has_primary_key,
    -- A copy of the table's definition has the constraint too; the table itself is then told by its name.
    count(s.oid) OVER same > 1 AS has_copies, (n.nspname, c.relname) = (p.schema_name, p.table_name) AS has_recorded_name,
    p.unknown_envelopes, p.created_at, p.finished_at
FROM kms_wrap.protected_columns p
JOIN kms_wrap.encryption_policies e ON e.id = p.policy_id
CROSS JOIN LATERAL (SELECT replace(p.column_uuid::text, '-', '')) h (hex)
-- Domains have constraints too.
LEFT JOIN pg_constraint s ON s.conname = ('kw_sealed_' || h.hex)::name AND s.contype = 'c' AND s.coninhcount = 0 AND s.conrelid <> 0
LEFT JOIN pg_class c ON c.oid = s.conrelid
LEFT JOIN pg_namespace n ON n.oid = c.relnamespace
LEFT JOIN pg_attribute a ON a.attrelid = s.conrelid AND a.attnum = s.conkey[1]
LEFT JOIN pg_constraint i ON i.conrelid = s.conrelid AND i.conname = ('kw_index_' || h.hex)::name AND i.contype = 'c'
LEFT JOIN pg_attribute ia ON ia.attrelid = i.conrelid AND ia.attnum = i.conkey[1]
LEFT JOIN pg_constraint o ON o.conrelid = s.conrelid AND o.conname = ('kw_tenant_' || h.hex)::name AND o.contype = 'c'
LEFT JOIN pg_attribute ta ON ta.attrelid = o.conrelid AND ta.attnum = o.conkey[1]
LEFT JOIN LATERAL (
    -- A table without the trigger, or with one that doesn't fire under every session_replication_role, takes plain values.
    SELECT CASE WHEN count(DISTINCT x.tgrelid) < count(DISTINCT r.relid) THEN 'missing'
                WHEN count(DISTINCT x.tgrelid) FILTER (WHERE x.tgenabled = 'A') < count(DISTINCT r.relid) THEN 'not always'
                ELSE 'always' END AS state
    FROM (SELECT s.conrelid AS relid UNION ALL SELECT r.relid FROM pg_partition_tree(s.conrelid) r) r
    LEFT JOIN (
        SELECT x.tgrelid, x.tgenabled, x.tgargs
        FROM pg_trigger x
        JOIN pg_proc f ON f.oid = x.tgfoid AND f.proname = 'kw_seal_column' AND f.pronamespace = 'kms_wrap'::regnamespace
        -- Before each row, on INSERT and UPDATE of whatever column, without a condition.
        WHERE x.tgtype & 87 = 23 AND x.tgqual IS NULL AND x.tgattr::text = ''
    ) x ON x.tgrelid = r.relid AND x.tgargs = p.column_uuid::text::bytea || '\x00'::bytea
) t ON s.oid IS NOT NULL
LEFT JOIN LATERAL (
    SELECT w.oid
    FROM pg_depend d
    JOIN pg_rewrite r ON r.oid = d.objid
    JOIN pg_class w ON w.oid = r.ev_class AND w.relkind = 'v'
    JOIN pg_attribute m ON m.attrelid = w.oid AND m.attname = 'kw_plain_columns'
    WHERE d.classid = 'pg_rewrite'::regclass AND d.refclassid = 'pg_class'::regclass
        AND d.refobjid = s.conrelid AND d.refobjsubid = a.attnum
    -- Anybody may make a view of the table that has such a column.
    ORDER BY w.relnamespace::regnamespace::text = quote_ident(p.view_schema) AND w.relname = p.view_name DESC, w.relowner = c.relowner DESC, w.oid LIMIT 1
) v ON true
WINDOW same AS (PARTITION BY p.id);
