-- Protecting a column. All DDL is the caller's own; what is written to tables of kms_wrap goes through functions that check rights.

-- A name of at most 63 bytes that ends in the suffix.
CREATE FUNCTION kms_wrap.kw_column_derived_name(base name, suffix text) RETURNS name
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $function$
DECLARE
    stem text := base;
BEGIN
    WHILE octet_length(stem || suffix) > 63 LOOP
        stem := left(stem, -1);
    END LOOP;
    RETURN stem || suffix;
END
$function$;

CREATE FUNCTION kms_wrap.kw_column_check(relation regclass, column_name name, policy text) RETURNS void
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $function$
BEGIN
    PERFORM kms_wrap.kw_column_check_table(relation);
    PERFORM kms_wrap.kw_column_check_rights(relation, policy);
    PERFORM FROM kms_wrap.kw_column_lookup(relation, column_name);
    IF FOUND THEN
        RAISE EXCEPTION 'column "%" of table % is already protected', column_name, relation
            USING ERRCODE = '42710', HINT = 'kms_wrap.kw_protected_columns shows its state.';
    END IF;
    PERFORM kms_wrap.kw_column_check_type(relation, column_name);
END
$function$;

CREATE FUNCTION kms_wrap.kw_column_check_index(
    relation regclass, column_name name, blind_index text, index_bytes integer, index_normalisation text, index_column name)
RETURNS void
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $function$
BEGIN
    IF blind_index IS NULL THEN
        IF index_column IS NOT NULL THEN
            RAISE EXCEPTION 'argument "index_column" needs "blind_index"'
                USING ERRCODE = '22023', DETAIL = 'blind_index is ''index'' or ''unique''.';
        END IF;
        RETURN;
    END IF;
    IF blind_index NOT IN ('index', 'unique') THEN
        RAISE EXCEPTION 'invalid value for argument "blind_index"' USING ERRCODE = '22023', DETAIL = 'It must be index or unique, or NULL for none.';
    ELSIF index_bytes IS NULL THEN
        RAISE EXCEPTION 'argument "index_bytes" must not be null' USING ERRCODE = '22004';
    ELSIF index_bytes NOT BETWEEN 1 AND 32 THEN
        RAISE EXCEPTION 'invalid value for argument "index_bytes"' USING ERRCODE = '22023', DETAIL = 'It must be 1 to 32.';
    ELSIF blind_index = 'unique' AND index_bytes < 16 THEN
        RAISE EXCEPTION 'invalid value for argument "index_bytes"'
            USING ERRCODE = '22023', DETAIL = 'A unique index needs at least 16: of fewer bytes, different values can have the same.';
    ELSIF index_normalisation IS NULL OR index_normalisation NOT IN ('none', 'lower') THEN
        RAISE EXCEPTION 'invalid value for argument "index_normalisation"' USING ERRCODE = '22023', DETAIL = 'It must be none or lower.';
    ELSIF index_normalisation = 'lower' AND EXISTS (
        SELECT FROM pg_attribute a WHERE a.attrelid = relation AND a.attname = column_name AND a.atttypid = 'bytea'::regtype)
    THEN
        RAISE EXCEPTION 'invalid value for argument "index_normalisation"' USING ERRCODE = '22023', DETAIL = 'Values of type bytea have no lower case.';
    ELSIF blind_index = 'unique' AND EXISTS (
        SELECT FROM pg_attribute a JOIN pg_collation o ON o.oid = a.attcollation
        WHERE a.attrelid = relation AND a.attname = column_name AND NOT o.collisdeterministic)
    THEN
        RAISE EXCEPTION 'a column of a nondeterministic collation cannot have a unique blind index'
            USING ERRCODE = '22023', DETAIL = 'Values that are equal by the collation have different bytes, and would pass.',
                  HINT = 'Use blind_index => ''index'', which finds values of the same bytes.';
    ELSIF blind_index = 'unique' AND EXISTS (SELECT FROM pg_class c WHERE c.oid = relation AND c.relkind = 'p') THEN
        RAISE EXCEPTION 'a partitioned table cannot have a unique blind index'
            USING ERRCODE = '22023', DETAIL = 'A unique index there contains the partition key, so equal values of two partitions would pass.',
                  HINT = 'Use blind_index => ''index''.';
    END IF;
    PERFORM FROM pg_attribute a WHERE a.attrelid = relation AND a.attname = index_column AND NOT a.attisdropped;
    IF FOUND THEN
        RAISE EXCEPTION 'column "%" of table % already exists', index_column, relation
            USING ERRCODE = '42701', HINT = 'Name another one with index_column => ''...''.';
    END IF;
END
$function$;

-- How many rows there are, and how large table and column are and will be. Envelopes are 60 bytes longer, armoured ones a third more.
CREATE FUNCTION kms_wrap.kw_column_size(relation regclass, column_name name, OUT row_count bigint, OUT bytes_now bigint, OUT bytes_after bigint)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $function$
DECLARE
    pages bigint;
    plain double precision;
    stored double precision;
    share double precision;
    is_text boolean;
BEGIN
    SELECT COALESCE(sum(pg_relation_size(t.member)), 0) / current_setting('block_size')::integer, COALESCE(sum(pg_total_relation_size(t.member)), 0),
        CASE WHEN bool_and(c.reltuples >= 0) THEN sum(c.reltuples)::bigint END
    INTO pages, bytes_now, row_count
    FROM kms_wrap.kw_column_tables(relation) t
    JOIN pg_class c ON c.oid = t.member
    WHERE t.is_leaf;
    -- A small table is counted, of a large one the last estimate is good enough.
    IF pages < 1000 OR row_count IS NULL THEN
        EXECUTE format('SELECT count(*) FROM %s', relation) INTO row_count;
    END IF;
    SELECT a.atttypid <> 'bytea'::regtype INTO is_text FROM pg_attribute a WHERE a.attrelid = relation AND a.attname = column_name;
    EXECUTE format('SELECT avg(octet_length(v)), avg(pg_column_size(v)), avg((v IS NOT NULL)::integer) FROM (SELECT t.%I AS v FROM %s t LIMIT 10000) s',
                   column_name, relation)
    INTO plain, stored, share;
    bytes_after := bytes_now + COALESCE(
        row_count * share * (CASE WHEN is_text THEN 8 + ceil(4 * (60 + plain) / 3) ELSE 64 + plain END - stored), 0);
END
$function$;

-- Triggers fire in the order of their names, and this one has to be the last.
CREATE FUNCTION kms_wrap.kw_column_trigger_name(column_uuid uuid) RETURNS name
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $function$
    SELECT ('zzz_kw_seal_' || left(column_uuid::text, 8))::name
$function$;

-- The DDL that protects a column, but for the decrypting view.
CREATE FUNCTION kms_wrap.kw_column_statements(
    relation regclass, column_name name, column_uuid uuid, tenant_column name, blind_index text, index_column name, old_view regclass, is_filled boolean)
RETURNS text[]
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $function$
DECLARE
    hex text := replace(column_uuid::text, '-', '');
    trigger_name name := kms_wrap.kw_column_trigger_name(column_uuid);
    not_valid text := CASE WHEN is_filled THEN ' NOT VALID' ELSE '' END;
    becomes_text boolean;
    collation_clause text;
    statements text[] := '{}';
BEGIN
    SELECT a.atttypid IN ('varchar'::regtype, 'bpchar'::regtype),
        CASE WHEN a.attcollation NOT IN (0, 'pg_catalog."default"'::regcollation) THEN format(' COLLATE %s', a.attcollation::regcollation) ELSE '' END
    INTO becomes_text, collation_clause
    FROM pg_attribute a
    WHERE a.attrelid = relation AND a.attname = column_name;
    IF old_view IS NOT NULL THEN
        statements := statements || format('DROP VIEW %s', old_view);
    END IF;
    -- No statistics: they would keep plain values now and be of no use later.
    statements := statements || format('ALTER TABLE %s ALTER COLUMN %I SET STATISTICS 0', relation, column_name);
    IF becomes_text THEN
        statements := statements || format('ALTER TABLE %s ALTER COLUMN %I TYPE text%s', relation, column_name, collation_clause);
    END IF;
    -- Trying to compress what is encrypted only costs time.
    statements := statements || format('ALTER TABLE %s ALTER COLUMN %I SET STORAGE EXTERNAL', relation, column_name);
    statements := statements || format('ALTER TABLE %s ADD CONSTRAINT %I CHECK (kms_wrap.kw_is_sealed(%I))%s', relation, 'kw_sealed_' || hex, column_name, not_valid);
    IF tenant_column IS NOT NULL THEN
        statements := statements || format('ALTER TABLE %s ADD CONSTRAINT %I CHECK (%I IS NOT NULL)', relation, 'kw_tenant_' || hex, tenant_column);
    END IF;
    IF index_column IS NOT NULL THEN
        statements := statements || format('ALTER TABLE %s ADD COLUMN %I bytea', relation, index_column)
            || format('ALTER TABLE %s ADD CONSTRAINT %I CHECK (octet_length(%I) > 0)%s', relation, 'kw_index_' || hex, index_column, not_valid)
            || format('CREATE %sINDEX ON %s (%I)', CASE blind_index WHEN 'unique' THEN 'UNIQUE ' ELSE '' END, relation, index_column);
    END IF;
    RETURN statements
        || format('CREATE TRIGGER %I BEFORE INSERT OR UPDATE ON %s FOR EACH ROW EXECUTE FUNCTION kms_wrap.kw_seal_column(%L)',
                  trigger_name, relation, column_uuid)
        || format('ALTER TABLE %s ENABLE ALWAYS TRIGGER %I', relation, trigger_name);
END
$function$;

-- What is allowed, and good to know.
CREATE FUNCTION kms_wrap.kw_column_notes(relation regclass, column_name name, column_uuid uuid, has_index boolean) RETURNS SETOF text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $function$
    (
        SELECT CASE WHEN g.tgname COLLATE "C" < kms_wrap.kw_column_trigger_name(column_uuid)::text THEN format('trigger %s sees the plain value of new rows', g.tgname)
                    ELSE format('trigger %s fires after the value is encrypted: it must leave the column and the key alone', g.tgname) END
        FROM pg_trigger g
        JOIN pg_proc f ON f.oid = g.tgfoid
        -- BEFORE ROW on INSERT or UPDATE, of others.
        WHERE g.tgrelid = relation AND NOT g.tgisinternal AND g.tgtype & 3 = 3 AND g.tgtype & 20 <> 0
            AND (f.proname <> 'kw_seal_column' OR f.pronamespace <> 'kms_wrap'::regnamespace)
        ORDER BY g.tgname
    )
    UNION ALL
    SELECT format('the column has about %s different values: so few can be told from how often their entries in the blind index occur', round(s.n))
    FROM (
        SELECT CASE WHEN v.n_distinct < 0 THEN -v.n_distinct * c.reltuples ELSE v.n_distinct END AS n
        FROM pg_class c
        JOIN pg_namespace n ON n.oid = c.relnamespace
        JOIN pg_stats v ON v.schemaname = n.nspname AND v.tablename = c.relname AND v.attname = column_name AND NOT v.inherited
        WHERE c.oid = relation AND has_index
    ) s
    WHERE s.n BETWEEN 1 AND 100
$function$;

CREATE FUNCTION kms_wrap.kw_protect_column(
    relation regclass, column_name name, policy text DEFAULT 'default', dry_run boolean DEFAULT false, tenant_column name DEFAULT NULL,
    blind_index text DEFAULT NULL, index_bytes integer DEFAULT 16, index_normalisation text DEFAULT 'none', index_column name DEFAULT NULL,
    view_name name DEFAULT NULL)
RETURNS TABLE (step text, detail text)
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $function$
DECLARE
    argument text := CASE WHEN relation IS NULL THEN 'relation' WHEN column_name IS NULL THEN 'column_name'
                          WHEN policy IS NULL THEN 'policy' WHEN dry_run IS NULL THEN 'dry_run' END;
    old_type text;
    is_text boolean;
    is_filled boolean;
    has_envelopes boolean;
    tenant_is_filled boolean := true;
    row_key name[];
    table_schema name;
    table_name name;
    table_owner oid;
    view_schema name;
    old_view regclass;
    keep text[];
    column_uuid uuid := '00000000-0000-0000-0000-000000000000';
    statements text[];
    problems text[];
    size record;
BEGIN
    IF argument IS NOT NULL THEN
        RAISE EXCEPTION 'argument "%" must not be null', argument USING ERRCODE = '22004';
    END IF;
    PERFORM kms_wrap.kw_column_check(relation, column_name, policy);
    IF NOT dry_run THEN
        column_uuid := kms_wrap.kw_column_new_keys(relation, policy, tenant_column IS NULL, blind_index IS NOT NULL);
        -- What counts is what is found under the lock that the DDL needs anyhow.
        EXECUTE format('LOCK TABLE %s IN ACCESS EXCLUSIVE MODE', relation);
        PERFORM kms_wrap.kw_column_check(relation, column_name, policy);
    END IF;
    row_key := kms_wrap.kw_column_row_key(relation, column_name, tenant_column);
    SELECT format_type(a.atttypid, a.atttypmod), a.atttypid <> 'bytea'::regtype, n.nspname, c.relname, c.relowner
    INTO old_type, is_text, table_schema, table_name, table_owner
    FROM pg_attribute a
    JOIN pg_class c ON c.oid = a.attrelid
    JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE a.attrelid = relation AND a.attname = column_name;
    IF blind_index IS NOT NULL THEN
        index_column := COALESCE(index_column, kms_wrap.kw_column_derived_name(column_name, '_bidx'));
    END IF;
    PERFORM kms_wrap.kw_column_check_index(relation, column_name, blind_index, index_bytes, index_normalisation, index_column);

    -- One view shows all protected columns of a table.
    SELECT l.decrypting_view INTO old_view FROM kms_wrap.kw_column_lookup(relation) l WHERE l.decrypting_view IS NOT NULL LIMIT 1;
    IF old_view IS NULL THEN
        view_schema := table_schema;
        view_name := COALESCE(view_name, kms_wrap.kw_column_derived_name(table_name, '_decrypted'));
        IF to_regclass(format('%I.%I', view_schema, view_name)) IS NOT NULL THEN
            RAISE EXCEPTION 'relation % already exists', format('%I.%I', view_schema, view_name)
                USING ERRCODE = '42P07', HINT = 'Name the decrypting view with view_name => ''...''.';
        END IF;
    ELSE
        IF view_name IS NOT NULL THEN
            RAISE EXCEPTION 'table % has the decrypting view % already', relation, old_view
                USING ERRCODE = '22023', DETAIL = 'One view shows all protected columns of a table.', HINT = 'Leave argument "view_name" out.';
        END IF;
        SELECT n.nspname, c.relname INTO view_schema, view_name
        FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = old_view;
        PERFORM kms_wrap.kw_column_check_view(relation, old_view);
        keep := kms_wrap.kw_column_view_keep(relation, old_view, NULL);
    END IF;

    SELECT array_agg(format('%s: %s', o.object, o.remedy)) INTO problems
    FROM kms_wrap.kw_column_obstacles(relation, column_name, NULL, old_view) o;
    IF NOT has_schema_privilege(view_schema, 'CREATE') OR NOT has_schema_privilege(table_schema, 'CREATE') THEN
        problems := problems || format('schema %s: you need CREATE there, for the view and the blind index',
                                       concat_ws(', ', table_schema, nullif(view_schema, table_schema)));
    END IF;
    -- Rows that are gone, and a default that was, are in files and catalog until a rewrite.
    SELECT COALESCE(sum(pg_relation_size(c.oid) + COALESCE(pg_relation_size(nullif(c.reltoastrelid, 0)), 0)), 0) > 0 OR bool_or(a.atthasmissing) INTO is_filled
    FROM kms_wrap.kw_column_tables(relation) t
    JOIN pg_class c ON c.oid = t.member
    JOIN pg_attribute a ON a.attrelid = t.member AND a.attname = column_name
    WHERE t.is_leaf;
    EXECUTE format('SELECT EXISTS (SELECT FROM (SELECT t.%I AS v FROM %s t LIMIT 10000) s WHERE s.v IS NOT NULL AND kms_wrap.kw_is_sealed(s.v))', column_name, relation)
    INTO has_envelopes;
    IF has_envelopes THEN
        problems := problems || 'values that are envelopes already: put the plain ones in their place, as with kms_wrap.kw_decrypt()'::text;
    END IF;
    IF tenant_column IS NOT NULL THEN
        SELECT NOT a.attnotnull INTO tenant_is_filled FROM pg_attribute a WHERE a.attrelid = relation AND a.attname = tenant_column;
        IF tenant_is_filled THEN
            EXECUTE format('SELECT EXISTS (SELECT FROM %s t WHERE t.%I IS NULL)', relation, tenant_column) INTO tenant_is_filled;
            IF tenant_is_filled THEN
                problems := problems || format('rows without a tenant: fill column %I', tenant_column);
            END IF;
            -- The scan that adds the constraint proves it.
        END IF;
    END IF;
    IF NOT dry_run AND problems IS NOT NULL THEN
        RAISE EXCEPTION 'column "%" of table % cannot be protected as things are', column_name, relation
            USING ERRCODE = '55000', DETAIL = array_to_string(problems, E'\n'),
                  HINT = 'Do what is said there first; dry_run => true shows it all.';
    END IF;

    IF NOT dry_run THEN
        PERFORM kms_wrap.kw_column_register(
            column_uuid, relation, column_name, policy, tenant_column, CASE WHEN is_filled THEN 'encrypting' ELSE 'protected' END, index_column,
            index_bytes, index_normalisation, blind_index = 'unique', view_schema, view_name);
    END IF;
    statements := kms_wrap.kw_column_statements(relation, column_name, column_uuid, tenant_column, blind_index, index_column, old_view, is_filled);
    step := 'type';
    detail := CASE WHEN is_text AND old_type <> 'text' THEN format('%s becomes text; the decrypting view shows %s', old_type, old_type)
                   ELSE format('stays %s', old_type) END;
    RETURN NEXT;
    step := 'key';
    detail := format('each value is bound to its row by %s', array_to_string(row_key, ', '));
    RETURN NEXT;
    step := 'data key';
    detail := CASE WHEN tenant_column IS NULL THEN 'one for the column' ELSE format('one for each value of %s', tenant_column) END;
    RETURN NEXT;
    IF dry_run THEN
        SELECT * INTO size FROM kms_wrap.kw_column_size(relation, column_name);
        step := 'rows';
        detail := size.row_count;
        RETURN NEXT;
        step := 'size';
        detail := format('%s now, about %s when all rows are encrypted', pg_size_pretty(size.bytes_now), pg_size_pretty(size.bytes_after));
        RETURN NEXT;
        step := 'time';
        detail := format('about %s s for kms_wrap.kw_encrypt_column(), taking 20,000 rows a second and 50 MB a second for the rewrite',
                         ceil(size.row_count / 20000.0 + size.bytes_after / 5e7));
        RETURN NEXT;
    END IF;
    step := 'statement';
    FOREACH detail IN ARRAY statements LOOP
        IF NOT dry_run THEN
            EXECUTE detail;
        END IF;
        RETURN NEXT;
    END LOOP;
    IF dry_run THEN
        -- It fails where the one for all protected columns would.
        PERFORM kms_wrap.kw_column_view_text(relation, view_schema, view_name);
        detail := format('CREATE VIEW %I.%I WITH (security_barrier = true, security_invoker = true) AS SELECT ... FROM %s', view_schema, view_name, relation);
        RETURN NEXT;
    ELSE
        FOR detail IN
            -- Where a partition has been given the trigger, but not as one that always fires.
            SELECT format('ALTER TABLE %s ENABLE ALWAYS TRIGGER %I', g.tgrelid::regclass, g.tgname)
            FROM kms_wrap.kw_column_tables(relation) t
            JOIN pg_trigger g ON g.tgrelid = t.member AND g.tgname = kms_wrap.kw_column_trigger_name(column_uuid) AND g.tgenabled <> 'A'
        LOOP
            EXECUTE detail;
            RETURN NEXT;
        END LOOP;
        PERFORM kms_wrap.kw_column_drop_statistics(t.member, column_name) FROM kms_wrap.kw_column_tables(relation) t;
        detail := kms_wrap.kw_column_view_text(relation, view_schema, view_name);
        EXECUTE detail;
        RETURN NEXT;
        -- Whoever owns the table must be able to make the view anew.
        IF keep IS NULL AND table_owner <> current_user::regrole THEN
            keep := ARRAY[format('ALTER VIEW %I.%I OWNER TO %I', view_schema, view_name, pg_get_userbyid(table_owner))];
        END IF;
        FOREACH detail IN ARRAY COALESCE(keep, '{}') LOOP
            EXECUTE detail;
            RETURN NEXT;
        END LOOP;
    END IF;
    step := 'note';
    FOR detail IN SELECT * FROM kms_wrap.kw_column_notes(relation, column_name, column_uuid, blind_index IS NOT NULL) LOOP
        RETURN NEXT;
    END LOOP;
    step := 'obstacle';
    FOREACH detail IN ARRAY COALESCE(problems, '{}') LOOP
        RETURN NEXT;
    END LOOP;
    step := 'next';
    detail := CASE WHEN dry_run AND problems IS NOT NULL THEN 'remove the obstacles'
                   WHEN dry_run THEN 'call it without dry_run'
                   WHEN is_filled THEN format('CALL kms_wrap.kw_encrypt_column(%L, %L);', relation, column_name)
                   ELSE 'nothing: the table is empty' END;
    RETURN NEXT;
END
$function$;
