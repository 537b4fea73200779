-- Giving a column back as it was before kw_protect_column(), in one transaction.

CREATE FUNCTION kms_wrap.kw_unprotect_column(relation regclass, column_name name) RETURNS TABLE (step text, detail text)
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $function$
DECLARE
    argument text := CASE WHEN relation IS NULL THEN 'relation' WHEN column_name IS NULL THEN 'column_name' END;
    found_column record;
    hex text;
    arguments text;
    collation_name text;
    problems text;
    constraints text;
    view_schema name;
    view_name name;
    keep text[];
    statements text[] := '{}';
    kept_by text[];
BEGIN
    IF argument IS NOT NULL THEN
        RAISE EXCEPTION 'argument "%" must not be null', argument USING ERRCODE = '22004';
    END IF;
    PERFORM kms_wrap.kw_column_check_table(relation);
    EXECUTE format('LOCK TABLE %s IN ACCESS EXCLUSIVE MODE', relation);
    PERFORM kms_wrap.kw_column_check_table(relation);
    SELECT * INTO found_column FROM kms_wrap.kw_column_lookup(relation, column_name);
    IF NOT FOUND THEN
        RAISE EXCEPTION 'column "%" of table % is not protected', column_name, relation
            USING ERRCODE = '55000', HINT = 'kms_wrap.kw_protected_columns shows what is.';
    END IF;
    hex := replace(found_column.column_uuid::text, '-', '');
    SELECT string_agg(format('%s: %s', o.object, o.remedy), E'\n') INTO problems
    FROM kms_wrap.kw_column_obstacles(relation, column_name, hex, found_column.decrypting_view) o;
    IF problems IS NOT NULL THEN
        RAISE EXCEPTION 'column "%" of table % cannot be given back as things are', column_name, relation
            USING ERRCODE = '55000', DETAIL = problems, HINT = 'Do what is said there first.';
    END IF;

    SELECT string_agg(format('%I', k), ', ' ORDER BY n) INTO arguments
    FROM unnest(kms_wrap.kw_column_row_key(relation, column_name, found_column.tenant_column)) WITH ORDINALITY u (k, n);
    SELECT a.attcollation::regcollation INTO collation_name FROM pg_attribute a
    WHERE a.attrelid = relation AND a.attname = column_name AND a.attcollation NOT IN (0, 'pg_catalog."default"'::regcollation);

    IF found_column.decrypting_view IS NOT NULL THEN
        SELECT n.nspname, c.relname INTO view_schema, view_name
        FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = found_column.decrypting_view;
        PERFORM kms_wrap.kw_column_check_view(relation, found_column.decrypting_view);
        keep := kms_wrap.kw_column_view_keep(relation, found_column.decrypting_view, found_column.index_column);
        statements := statements || format('DROP VIEW %s', found_column.decrypting_view::regclass);
    END IF;
    SELECT statements || array_agg(format('DROP TRIGGER %I ON %s', g.tgname, relation)) INTO statements
    FROM pg_trigger g
    JOIN pg_proc f ON f.oid = g.tgfoid AND f.proname = 'kw_seal_column' AND f.pronamespace = 'kms_wrap'::regnamespace
    WHERE g.tgrelid = relation AND g.tgargs = found_column.column_uuid::text::bytea || '\x00'::bytea;
    SELECT string_agg(format('DROP CONSTRAINT %I', c.conname), ', ' ORDER BY c.conname) INTO constraints
    FROM pg_constraint c
    WHERE c.conrelid = relation AND c.contype = 'c' AND c.conname IN ('kw_sealed_' || hex, 'kw_tenant_' || hex, 'kw_index_' || hex);
    -- In one statement, so that the table is written with the old settings.
    statements := statements || (format(
        'ALTER TABLE %s %s, ALTER COLUMN %I TYPE %s%s USING %s', relation, constraints, column_name, found_column.original_type,
        COALESCE(' COLLATE ' || collation_name, ''),
        format(CASE found_column.storage WHEN 'bytea' THEN 'kms_wrap.kw_open_column(%L, %I, %s)' ELSE 'kms_wrap.kw_open_column_text(%L, %I, %s)' END,
               found_column.column_uuid, column_name, arguments))
        || format(', ALTER COLUMN %I SET STATISTICS %s', column_name, found_column.original_statistics)
        || CASE WHEN found_column.original_storage <> 'extended'
                THEN format(', ALTER COLUMN %I SET STORAGE %s', column_name, upper(found_column.original_storage)) ELSE '' END
        || CASE WHEN found_column.original_compression IS NOT NULL
                THEN format(', ALTER COLUMN %I SET COMPRESSION %s', column_name, found_column.original_compression) ELSE '' END);
    -- That one setting does not reach the partitions.
    SELECT statements || array_agg(format('ALTER TABLE %s ALTER COLUMN %I SET COMPRESSION %s', t.member, column_name, found_column.original_compression))
    INTO statements
    FROM kms_wrap.kw_column_tables(relation) t
    WHERE found_column.original_compression IS NOT NULL AND t.member <> relation;
    IF found_column.index_column IS NOT NULL THEN
        statements := statements || format('ALTER TABLE %s DROP COLUMN %I', relation, found_column.index_column);
    END IF;

    step := 'statement';
    FOREACH detail IN ARRAY statements LOOP
        EXECUTE detail;
        RETURN NEXT;
    END LOOP;
    -- It looks whether any table still has values of the column.
    kept_by := kms_wrap.kw_column_unregister(found_column.column_uuid);
    detail := kms_wrap.kw_column_view_text(relation, view_schema, view_name);
    IF view_name IS NOT NULL AND detail IS NOT NULL THEN
        EXECUTE detail;
        RETURN NEXT;
        FOREACH detail IN ARRAY COALESCE(keep, '{}') LOOP
            EXECUTE detail;
            RETURN NEXT;
        END LOOP;
    END IF;
    IF kept_by <> '{}' THEN
        step := 'note';
        detail := format('it stays registered: %s of another owner may hold values of it. When that is gone: SELECT kms_wrap.kw_column_unregister(%L);',
                         array_to_string(kept_by, ', '), found_column.column_uuid);
        RETURN NEXT;
    END IF;
    step := 'next';
    detail := format('ANALYZE %s;', relation);
    RETURN NEXT;
END
$function$;
