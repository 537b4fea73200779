-- What depends on a column and would meet encrypted values instead of the plain ones, or keep a plain copy. column_hex: the column's
-- uuid as 32 hex digits if it is protected, to leave out what protects it; the decrypting view is replaced by what depends on that.
CREATE FUNCTION kms_wrap.kw_column_obstacles(relation regclass, column_name name, column_hex text, decrypting_view regclass)
RETURNS TABLE (object text, remedy text)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $function$
DECLARE
    found_object record;
BEGIN
    FOR found_object IN
        WITH members AS (
            SELECT t.member AS relid, a.attnum, c.reltype
            FROM kms_wrap.kw_column_tables(relation) t
            JOIN pg_attribute a ON a.attrelid = t.member AND a.attname = column_name AND NOT a.attisdropped
            JOIN pg_class c ON c.oid = t.member
        ), dependents AS (
            SELECT d.classid, d.objid, d.objsubid
            FROM members m
            JOIN pg_depend d ON d.refclassid = 'pg_class'::regclass AND d.refobjid = m.relid AND d.refobjsubid = m.attnum
            UNION
            -- Whole rows, as in to_jsonb(t): PostgreSQL records that they need the table, and of no column. An object that uses this table and a whole row of
            -- another one is listed too.
            SELECT d.classid, d.objid, d.objsubid
            FROM members m
            JOIN pg_depend d ON d.refclassid = 'pg_class'::regclass AND d.refobjid = m.relid AND d.refobjsubid = 0
            LEFT JOIN pg_rewrite w ON d.classid = 'pg_rewrite'::regclass AND w.oid = d.objid
            LEFT JOIN pg_constraint r ON d.classid = 'pg_constraint'::regclass AND r.oid = d.objid
            LEFT JOIN pg_index i ON d.classid = 'pg_class'::regclass AND i.indexrelid = d.objid
            LEFT JOIN pg_policy y ON d.classid = 'pg_policy'::regclass AND y.oid = d.objid
            LEFT JOIN pg_statistic_ext st ON d.classid = 'pg_statistic_ext'::regclass AND st.oid = d.objid
            LEFT JOIN pg_proc f ON d.classid = 'pg_proc'::regclass AND f.oid = d.objid
            WHERE concat(w.ev_action, r.conbin, i.indexprs, i.indpred, y.polqual, y.polwithcheck, st.stxexprs, f.prosqlbody) ~ '{VAR :varno [0-9]+ :varattno 0 '
            UNION
            SELECT d.classid, d.objid, d.objsubid
            FROM pg_depend d
            WHERE d.refclassid = 'pg_class'::regclass AND d.refobjid = decrypting_view
        )
        -- Of what partitions inherit only the parent's is listed.
        SELECT d.classid::regclass::text AS catalog, d.objid, d.objsubid, pg_describe_object(d.classid, d.objid, d.objsubid) AS description,
            r.contype, r.conname, r.conrelid::regclass AS conrelid, i.indexrelid::regclass AS index_name, x.adrelid::regclass AS adrelid,
            ga.attname AS generated_name, w.ev_class::regclass AS rule_relation, w.rulename, wc.relkind AS rule_relkind,
            y.polname, y.polrelid::regclass AS polrelid, quote_ident(sn.nspname) || '.' || quote_ident(st.stxname) AS statistics_name, tr.tgname,
            tr.tgrelid::regclass AS tgrelid, pb.pubname, pr.prrelid::regclass AS prrelid, f.oid::regprocedure AS function_name
        FROM dependents d
        LEFT JOIN pg_constraint r ON d.classid = 'pg_constraint'::regclass AND r.oid = d.objid
        LEFT JOIN pg_index i ON d.classid = 'pg_class'::regclass AND d.objsubid = 0 AND i.indexrelid = d.objid
        LEFT JOIN pg_attrdef x ON d.classid = 'pg_attrdef'::regclass AND x.oid = d.objid
        LEFT JOIN pg_attribute ga ON ga.attrelid = x.adrelid AND ga.attnum = x.adnum
        LEFT JOIN pg_rewrite w ON d.classid = 'pg_rewrite'::regclass AND w.oid = d.objid
        LEFT JOIN pg_class wc ON wc.oid = w.ev_class
        LEFT JOIN pg_policy y ON d.classid = 'pg_policy'::regclass AND y.oid = d.objid
        LEFT JOIN pg_statistic_ext st ON d.classid = 'pg_statistic_ext'::regclass AND st.oid = d.objid
        LEFT JOIN pg_namespace sn ON sn.oid = st.stxnamespace
        LEFT JOIN pg_trigger tr ON d.classid = 'pg_trigger'::regclass AND tr.oid = d.objid
        LEFT JOIN pg_publication_rel pr ON d.classid = 'pg_publication_rel'::regclass AND pr.oid = d.objid
        LEFT JOIN pg_publication pb ON pb.oid = pr.prpubid
        LEFT JOIN pg_proc f ON d.classid = 'pg_proc'::regclass AND f.oid = d.objid
        WHERE CASE d.classid::regclass::text
            WHEN 'pg_constraint' THEN r.contype <> 'n' AND r.coninhcount = 0 AND r.conparentid = 0
                AND (column_hex IS NULL OR r.conname <> ALL (ARRAY['kw_sealed_' || column_hex, 'kw_index_' || column_hex, 'kw_tenant_' || column_hex]))
            WHEN 'pg_class' THEN i.indexrelid IS NOT NULL
                AND NOT EXISTS (SELECT FROM pg_inherits h WHERE h.inhrelid = i.indexrelid)
            -- The column's own default is an expression like any other value that is written.
            WHEN 'pg_attrdef' THEN ga.attname <> column_name AND ga.attislocal
            WHEN 'pg_rewrite' THEN w.ev_class IS DISTINCT FROM decrypting_view
            WHEN 'pg_trigger' THEN tr.tgparentid = 0 AND NOT tr.tgisinternal
            WHEN 'pg_type' THEN false
            ELSE true
        END
        ORDER BY 1, pg_describe_object(d.classid, d.objid, d.objsubid) COLLATE "C"
    LOOP
        object := CASE found_object.rule_relkind WHEN 'v' THEN format('view %s', found_object.rule_relation)
                      WHEN 'm' THEN format('materialized view %s', found_object.rule_relation) ELSE found_object.description END;
        remedy := CASE found_object.catalog
            WHEN 'pg_constraint' THEN
                format('ALTER TABLE %s DROP CONSTRAINT %I;', found_object.conrelid, found_object.conname)
                || CASE WHEN found_object.contype = 'u' AND column_hex IS NULL THEN ' then protect with blind_index => ''unique''' ELSE '' END
            WHEN 'pg_class' THEN
                format('DROP INDEX %s;', found_object.index_name)
                || CASE WHEN column_hex IS NULL THEN ' then protect with blind_index => ''index''' ELSE '' END
            WHEN 'pg_attrdef' THEN
                format('ALTER TABLE %s ALTER COLUMN %I DROP EXPRESSION; or drop the column', found_object.adrelid, found_object.generated_name)
            WHEN 'pg_rewrite' THEN CASE found_object.rule_relkind
                WHEN 'v' THEN
                    format('DROP VIEW %s; then make it %s', found_object.rule_relation,
                           CASE WHEN column_hex IS NULL THEN 'over the decrypting view' ELSE 'again' END)
                WHEN 'm' THEN format('DROP MATERIALIZED VIEW %s; it keeps plain values', found_object.rule_relation)
                ELSE format('DROP RULE %I ON %s;', found_object.rulename, found_object.rule_relation)
            END
            WHEN 'pg_policy' THEN format('DROP POLICY %I ON %s;', found_object.polname, found_object.polrelid)
            WHEN 'pg_statistic_ext' THEN format('DROP STATISTICS %s;', found_object.statistics_name)
            WHEN 'pg_trigger' THEN
                format('DROP TRIGGER %I ON %s; ', found_object.tgname, found_object.tgrelid)
                || CASE WHEN found_object.tgrelid = decrypting_view THEN 'then make it again' ELSE 'or make it without naming the column' END
            WHEN 'pg_publication_rel' THEN
                format('ALTER PUBLICATION %I DROP TABLE %s; then add it without column list and condition', found_object.pubname, found_object.prrelid)
            WHEN 'pg_proc' THEN format('DROP FUNCTION %s; or write its body as a string', found_object.function_name)
            ELSE 'Drop it.'
        END;
        RETURN NEXT;
    END LOOP;

    FOR object IN
        SELECT DISTINCT format('partition key of table %s', d.objid::regclass)
        FROM kms_wrap.kw_column_tables(relation) t
        JOIN pg_attribute a ON a.attrelid = t.member AND a.attname = column_name
        -- What a table is partitioned by is part of it.
        JOIN pg_depend d ON d.classid = 'pg_class'::regclass AND d.objid = t.member AND d.objsubid = a.attnum
            AND d.refclassid = 'pg_class'::regclass AND d.refobjid = t.member AND d.refobjsubid = 0 AND d.deptype = 'i'
    LOOP
        remedy := 'Partition by another column.';
        RETURN NEXT;
    END LOOP;

    FOR object, remedy IN
        -- Types of whole rows: the tables' own, arrays and domains of them, and composite types that have them.
        WITH RECURSIVE row_types AS (
            SELECT y.oid FROM kms_wrap.kw_column_tables(relation) t JOIN pg_type y ON y.typrelid = t.member
            UNION
            SELECT y.oid
            FROM row_types r
            JOIN pg_type y ON y.typelem = r.oid OR y.typbasetype = r.oid OR EXISTS (
                SELECT FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid AND c.relkind = 'c'
                WHERE a.attrelid = y.typrelid AND a.atttypid = r.oid AND NOT a.attisdropped)
        )
        SELECT format('column %I of table %s', a.attname, a.attrelid::regclass),
            format('ALTER TABLE %s DROP COLUMN %I; it keeps whole rows of the table', a.attrelid::regclass, a.attname)
        FROM row_types y
        JOIN pg_attribute a ON a.atttypid = y.oid AND NOT a.attisdropped
        JOIN pg_class c ON c.oid = a.attrelid AND c.relkind IN ('r', 'p', 'm', 'f')
        ORDER BY 1
    LOOP
        RETURN NEXT;
    END LOOP;

    IF column_hex IS NOT NULL THEN
        FOR object, remedy IN
            SELECT format('table %s', c.conrelid::regclass),
                format('It holds values of the column that would not open any more: drop it, or ALTER TABLE %s DROP CONSTRAINT %I;', c.conrelid::regclass, c.conname)
            FROM pg_constraint c
            JOIN pg_class o ON o.oid = c.conrelid
            JOIN pg_class k ON k.oid = relation
            WHERE c.conname = 'kw_sealed_' || column_hex AND c.contype = 'c'
                AND c.conrelid NOT IN (SELECT t.member FROM kms_wrap.kw_column_tables(relation) t)
                -- Such as a detached partition. Tables of others don't count: anybody may make one with the constraint.
                AND pg_has_role(k.relowner, o.relowner, 'USAGE')
            ORDER BY 1
        LOOP
            RETURN NEXT;
        END LOOP;
    END IF;
END
$function$;
