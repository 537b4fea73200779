-- What stands in the way of protecting a column, or of giving it back. All run as the caller.

-- The table, and its partitions of every level if it has some.
CREATE FUNCTION kms_wrap.kw_column_tables(relation regclass) RETURNS TABLE (member regclass, is_leaf boolean)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $function$
    SELECT relation, relkind <> 'p' FROM pg_class WHERE oid = relation
    UNION
    SELECT relid, isleaf FROM pg_partition_tree(relation)
$function$;

CREATE FUNCTION kms_wrap.kw_column_check_table(relation regclass) RETURNS void
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $function$
DECLARE
    found_table record;
    member regclass;
    reason text;
    way_out text;
BEGIN
    -- An old snapshot doesn't show the index or view that a lock waited for.
    IF current_setting('transaction_isolation') NOT IN ('read committed', 'read uncommitted') THEN
        RAISE EXCEPTION 'columns can only be protected in a read committed transaction'
            USING ERRCODE = '55000', HINT = 'Begin with START TRANSACTION ISOLATION LEVEL READ COMMITTED.';
    END IF;
    SELECT c.*, n.nspname INTO found_table FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = relation;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'relation with OID % does not exist', relation::oid USING ERRCODE = '42P01';
    END IF;
    IF found_table.relkind NOT IN ('r', 'p') THEN
        reason := format('It is a %s.', CASE found_table.relkind
            WHEN 'v' THEN 'view' WHEN 'm' THEN 'materialized view' WHEN 'f' THEN 'foreign table' WHEN 'i' THEN 'index'
            WHEN 'I' THEN 'index' WHEN 'S' THEN 'sequence' WHEN 'c' THEN 'composite type' ELSE 'special relation' END);
        way_out := 'Ordinary and partitioned tables can be protected.';
    ELSIF found_table.oid < 16384 OR found_table.nspname LIKE 'pg\_%' AND found_table.relpersistence <> 't' OR found_table.nspname = 'information_schema' THEN
        reason := 'It is a system catalog.';
    ELSIF found_table.nspname = 'kms_wrap' THEN
        reason := 'It belongs to kms_wrap itself.';
    ELSIF EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = relation AND d.deptype = 'e') THEN
        reason := 'It belongs to an extension: a dump would not have its trigger and constraint.';
    ELSIF found_table.relpersistence = 't' THEN
        reason := 'It is a temporary table.';
        way_out := 'Its values can be encrypted with kms_wrap.kw_encrypt().';
    ELSIF found_table.relispartition THEN
        reason := 'It is a partition.';
        way_out := format('Protect the column of %s, with all its partitions.', pg_partition_root(relation));
    ELSIF EXISTS (SELECT FROM pg_inherits i WHERE i.inhrelid = relation OR i.inhparent = relation AND found_table.relkind = 'r') THEN
        reason := 'It inherits from a table, or another table from it, and a trigger is not inherited.';
        way_out := 'Use partitions, or tables that stand alone.';
    ELSIF found_table.reloftype <> 0 THEN
        reason := format('It is a table of type %s, whose columns are the type''s.', found_table.reloftype::regtype);
        way_out := format('ALTER TABLE %s NOT OF;', relation);
    ELSE
        SELECT t.member INTO member FROM kms_wrap.kw_column_tables(relation) t JOIN pg_class c ON c.oid = t.member AND c.relkind = 'f' LIMIT 1;
        reason := 'Its partition ' || member || ' is a foreign table.';
        way_out := 'Detach it, or move its rows into a partition here.';
    END IF;
    IF reason IS NOT NULL THEN
        RAISE EXCEPTION 'columns of % cannot be protected', relation
            USING ERRCODE = '22023', DETAIL = reason, HINT = COALESCE(way_out, 'Protect a column of a table of your own.');
    END IF;
    FOR member IN SELECT t.member FROM kms_wrap.kw_column_tables(relation) t JOIN pg_class c ON c.oid = t.member
                  WHERE NOT pg_has_role(c.relowner, 'USAGE') ORDER BY t.member LOOP
        RAISE EXCEPTION 'must be owner of table %', member USING ERRCODE = '42501';
    END LOOP;
END
$function$;

-- The column itself: type and what it is made from.
CREATE FUNCTION kms_wrap.kw_column_check_type(relation regclass, column_name name) RETURNS void
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $function$
DECLARE
    found_column record;
    reason text;
    way_out text;
BEGIN
    SELECT a.attidentity, a.attgenerated, a.atttypid, t.typtype, format_type(a.atttypid, a.atttypmod) AS type,
        format_type(t.typbasetype, t.typtypmod) AS base_type INTO found_column
    FROM pg_attribute a
    JOIN pg_type t ON t.oid = a.atttypid
    WHERE a.attrelid = relation AND a.attname = column_name AND a.attnum > 0 AND NOT a.attisdropped;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'column "%" of table % does not exist', column_name, relation USING ERRCODE = '42703';
    END IF;
    IF found_column.attgenerated <> '' THEN
        reason := 'It is a generated column: its expression and the columns in it would still show the value.';
        way_out := format('ALTER TABLE %s ALTER COLUMN %I DROP EXPRESSION;', relation, column_name);
    ELSIF found_column.typtype = 'd' THEN
        reason := format('Its type %s is a domain, whose constraints would check encrypted values.', found_column.type);
        way_out := format('ALTER TABLE %s ALTER COLUMN %I TYPE %s;', relation, column_name, found_column.base_type);
    ELSIF found_column.atttypid NOT IN ('text'::regtype, 'varchar'::regtype, 'bpchar'::regtype, 'bytea'::regtype) THEN
        reason := format('Its type is %s; text, character varying, character and bytea can be protected.', found_column.type);
        way_out := format('Make it text first: ALTER TABLE %s ALTER COLUMN %I TYPE text USING %2$I::text;', relation, column_name);
    END IF;
    IF reason IS NOT NULL THEN
        RAISE EXCEPTION 'column "%" of table % cannot be protected', column_name, relation
            USING ERRCODE = '22023', DETAIL = reason, HINT = way_out;
    END IF;
END
$function$;

-- The columns that identify a row, in the order in which each value is bound to them: the primary key's, then the tenant column.
-- Only types of which equal values have one byte form, and always the same: a value is opened by the bytes it was sealed for.
CREATE FUNCTION kms_wrap.kw_column_row_key(relation regclass, column_name name, tenant_column name) RETURNS name[]
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $function$
DECLARE
    part record;
    base record;
    names name[] := '{}';
    reason text;
BEGIN
    FOR part IN
        SELECT a.attname, a.atttypid, a.atttypmod, a.attcollation, a.attgenerated, u.n
        FROM pg_index i
        CROSS JOIN LATERAL unnest(i.indkey) WITH ORDINALITY u (attnum, n)
        JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = u.attnum
        WHERE i.indrelid = relation AND i.indisprimary AND i.indisvalid AND u.n <= i.indnkeyatts
        UNION ALL
        SELECT a.attname, a.atttypid, a.atttypmod, a.attcollation, a.attgenerated, NULL
        FROM pg_attribute a
        WHERE a.attrelid = relation AND a.attname = tenant_column AND a.attnum > 0 AND NOT a.attisdropped
        ORDER BY n
    LOOP
        SELECT part.atttypid AS oid, part.atttypmod AS typmod INTO base;
        WHILE (SELECT typtype = 'd' FROM pg_type WHERE oid = base.oid) LOOP
            SELECT typbasetype AS oid, typtypmod AS typmod INTO base FROM pg_type WHERE oid = base.oid;
        END LOOP;
        IF part.attname = column_name THEN
            reason := 'A value cannot be bound to itself.';
        ELSIF part.attgenerated <> '' THEN
            reason := 'It is a generated column, which a trigger cannot see before the row is written.';
        ELSIF base.oid <> ALL ('{boolean,smallint,integer,bigint,oid,uuid,text,varchar,bpchar,bytea,date,time,timestamp,timestamptz}'::regtype[])
        THEN
            reason := format('Its type is %s: not every two equal values have the same bytes, or not for ever.',
                             format_type(part.atttypid, part.atttypmod));
        ELSIF base.oid = 'bpchar'::regtype AND base.typmod = -1 THEN
            reason := 'Its type is character without a length: equal values can have different bytes.';
        ELSIF EXISTS (SELECT FROM pg_collation c WHERE c.oid = part.attcollation AND NOT c.collisdeterministic) THEN
            reason := 'Its collation is nondeterministic: equal values can have different bytes.';
        END IF;
        IF reason IS NOT NULL THEN
            RAISE EXCEPTION 'values of table % cannot be bound to column "%"', relation, part.attname
                USING ERRCODE = '22023', DETAIL = reason,
                      HINT = 'Primary key and tenant column can be boolean, smallint, integer, bigint, oid, uuid, text, varchar, char(n), '
                             'bytea, date, time, timestamp and timestamptz.';
        END IF;
        names := names || part.attname;
    END LOOP;
    IF NOT EXISTS (SELECT FROM pg_index i WHERE i.indrelid = relation AND i.indisprimary AND i.indisvalid) THEN
        RAISE EXCEPTION 'table % has no primary key', relation
            USING ERRCODE = '55000', DETAIL = 'Each value is bound to its row by the primary key, so that it opens in no other.',
                  HINT = format('ALTER TABLE %s ADD PRIMARY KEY (...);', relation);
    ELSIF tenant_column IS NOT NULL AND tenant_column <> ALL (names) THEN
        RAISE EXCEPTION 'column "%" of table % does not exist', tenant_column, relation USING ERRCODE = '42703';
    END IF;
    PERFORM FROM kms_wrap.kw_column_lookup(relation, column_name) l WHERE NOT l.has_its_key;
    IF FOUND THEN
        RAISE EXCEPTION 'the primary key of a protected table, or the type of a key or tenant column, is not what it was'
            USING ERRCODE = '55000', DETAIL = format('Column "%s" of table %s.', column_name, relation),
                  HINT = 'Change it back: the values are bound to the key, and open under no other. '
                         'If other columns hold the same ones, delete the column''s row in kms_wrap.column_relations.';
    END IF;
    -- A tenant column of the primary key is bound twice, once in each role.
    RETURN names;
END
$function$;

-- Called when a transaction ends. One with a single snapshot for all its statements cannot count after another transaction has, and one with a
-- lock_timeout not beside one that stays open: the other's count has to do, for the transaction must not fail by it.
CREATE FUNCTION kms_wrap.kw_column_count_unknown(counted uuid, envelopes bigint) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $function$
BEGIN
    UPDATE kms_wrap.protected_columns SET unknown_envelopes = unknown_envelopes + envelopes WHERE column_uuid = counted;
EXCEPTION WHEN serialization_failure OR lock_not_available THEN
    NULL;
END
$function$;
