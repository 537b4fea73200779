-- The view that shows a table with its protected columns decrypted, and blind-index columns as they are: a query of the view has
-- to find rows by them before it decrypts any. It is made anew when another column is protected or given back.

CREATE FUNCTION kms_wrap.kw_column_view_text(relation regclass, view_schema name, view_name name) RETURNS text
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $function$
DECLARE
    shown record;
    row_key name[];
    arguments text;
    expressions text[] := '{}';
    plain text[] := '{}';
BEGIN
    FOR shown IN
        SELECT a.attname, l.column_uuid, l.storage, l.original_type, l.tenant_column,
            CASE WHEN a.attcollation <> 0 THEN format(' COLLATE %I.%I', n.nspname, o.collname) ELSE '' END AS collation_clause
        FROM pg_attribute a
        LEFT JOIN kms_wrap.kw_column_lookup(relation) l ON l.column_name = a.attname
        LEFT JOIN pg_collation o ON o.oid = a.attcollation
        LEFT JOIN pg_namespace n ON n.oid = o.collnamespace
        WHERE a.attrelid = relation AND a.attnum > 0 AND NOT a.attisdropped
        ORDER BY a.attnum
    LOOP
        IF shown.column_uuid IS NULL THEN
            expressions := expressions || format('t.%I', shown.attname);
            CONTINUE;
        END IF;
        row_key := kms_wrap.kw_column_row_key(relation, shown.attname, shown.tenant_column);
        SELECT string_agg(format('t.%I', k), ', ' ORDER BY n) INTO arguments FROM unnest(row_key) WITH ORDINALITY u (k, n);
        -- Arguments of several collations would leave the result without one.
        IF NOT EXISTS (SELECT FROM pg_attribute k WHERE k.attrelid = relation AND k.attname = ANY (row_key || shown.attname)
                       AND k.attcollation NOT IN (0, 'pg_catalog."default"'::regcollation)) THEN
            shown.collation_clause := '';
        END IF;
        expressions := expressions || CASE shown.storage
            WHEN 'bytea' THEN format('kms_wrap.kw_open_column(%L, t.%I, %s) AS %2$I', shown.column_uuid, shown.attname, arguments)
            ELSE format('(kms_wrap.kw_open_column_text(%L, t.%I, %s)%s)::%s AS %2$I', shown.column_uuid, shown.attname, arguments,
                        shown.collation_clause, shown.original_type)
        END;
        plain := plain || format('CASE WHEN NOT kms_wrap.kw_is_sealed(t.%I) THEN %L END', shown.attname, shown.attname);
    END LOOP;
    IF plain = '{}' THEN
        RETURN NULL;
    END IF;
    expressions := expressions || format('array_remove(ARRAY[%s]::text[], NULL) AS kw_plain_columns', array_to_string(plain, ', '));
    RETURN format(E'CREATE VIEW %I.%I WITH (security_barrier = true, security_invoker = true) AS\nSELECT %s\nFROM %s t',
                  view_schema, view_name, array_to_string(expressions, E',\n    '), relation);
END
$function$;

-- Fails if somebody has put conditions or options of their own into a decrypting view, which is to be made anew without them.
CREATE FUNCTION kms_wrap.kw_column_check_view(relation regclass, decrypting_view regclass) RETURNS void
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $function$
DECLARE
    from_table text := format(E'\n   FROM %s t;', relation);
BEGIN
    PERFORM FROM pg_class v
    WHERE v.oid = decrypting_view
        AND (SELECT array_agg(o.option_name ORDER BY o.option_name COLLATE "C") = '{security_barrier,security_invoker}' AND bool_and(o.option_value::boolean)
             FROM pg_options_to_table(v.reloptions) o)
        AND right(pg_get_viewdef(v.oid), length(from_table)) = from_table;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'the decrypting view % of table % has been changed', decrypting_view, relation
            USING ERRCODE = '55000', DETAIL = 'It has options, conditions or tables of its own, which a new one would not have.',
                  HINT = format('DROP VIEW %s; afterwards make what it has of its own a view over the new one.', decrypting_view);
    END IF;
END
$function$;

-- What DROP VIEW loses and a new view of that name needs again: owner, rights and comments, as statements. Where the table's
-- column has been renamed since, so will be the view's: what was granted on it is not granted again. dropped: a column that the
-- table will have no more.
CREATE FUNCTION kms_wrap.kw_column_view_keep(relation regclass, decrypting_view regclass, dropped name) RETURNS text[]
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $function$
    WITH shown AS (
        SELECT c.attnum, c.attname, c.attacl FROM pg_attribute c
        WHERE c.attrelid = decrypting_view AND c.attnum > 0 AND (c.attname = 'kw_plain_columns' OR EXISTS (
            SELECT FROM pg_attribute t
            WHERE t.attrelid = relation AND t.attname = c.attname AND t.attnum > 0 AND NOT t.attisdropped AND t.attname IS DISTINCT FROM dropped))
    )
    SELECT array_agg(k.statement ORDER BY k.place, k.statement) FILTER (WHERE k.statement IS NOT NULL)
    FROM pg_class v
    CROSS JOIN LATERAL (
        SELECT 1, format('ALTER VIEW %s OWNER TO %I', v.oid::regclass, pg_get_userbyid(v.relowner))
        WHERE v.relowner <> current_user::regrole
        UNION ALL
        SELECT 2, format('GRANT %s ON %s TO %s%s', a.privilege_type, v.oid::regclass,
                         CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(a.grantee)) END,
                         CASE WHEN a.is_grantable THEN ' WITH GRANT OPTION' ELSE '' END)
        FROM aclexplode(v.relacl) a WHERE a.grantee <> v.relowner
        UNION ALL
        SELECT 2, format('GRANT %s (%I) ON %s TO %s%s', a.privilege_type, c.attname, v.oid::regclass,
                         CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(a.grantee)) END,
                         CASE WHEN a.is_grantable THEN ' WITH GRANT OPTION' ELSE '' END)
        FROM shown c CROSS JOIN LATERAL aclexplode(c.attacl) a WHERE a.grantee <> v.relowner
        UNION ALL
        SELECT 3, format('COMMENT ON VIEW %s IS %L', v.oid::regclass, obj_description(v.oid, 'pg_class'))
        WHERE obj_description(v.oid, 'pg_class') IS NOT NULL
        UNION ALL
        SELECT 3, format('COMMENT ON COLUMN %s.%I IS %L', v.oid::regclass, c.attname, col_description(v.oid, c.attnum))
        FROM shown c WHERE col_description(v.oid, c.attnum) IS NOT NULL
    ) k (place, statement)
    WHERE v.oid = decrypting_view
$function$;
