-- Encrypting the rows that were there before a column was protected, and moving values to a new data key.

-- The statements of a run, and where the last one stopped. Their names and operators are all qualified: they run with the caller's
-- search_path, which the table's own triggers may need.
CREATE FUNCTION kms_wrap.kw_column_plan(relation regclass, column_name name)
RETURNS TABLE (
    status text, rows_total bigint, rows_done bigint, last_key text[], policy text, policy_is_enabled boolean, has_old_deks boolean, has_old_index boolean,
    unknown_envelopes bigint, is_partitioned boolean, members regclass[], count_all text, count_todo text, find_foreign text, next_key text, seal text, validate text[])
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $function$
DECLARE
    found_column record;
    arguments text;
    keys text;
    todo text;
    key_texts text;
    from_key text;
    upto_key text;
    match text;
BEGIN
    PERFORM kms_wrap.kw_column_check_table(relation);
    SELECT * INTO found_column FROM kms_wrap.kw_column_lookup(relation, column_name);
    IF NOT FOUND THEN
        RAISE EXCEPTION 'column "%" of table % is not protected', column_name, relation
            USING ERRCODE = '55000', HINT = format('Protect it first: SELECT * FROM kms_wrap.kw_protect_column(%L, %L);', relation, column_name);
    ELSIF found_column.trigger_state = 'missing' THEN
        RAISE EXCEPTION 'the seal trigger of column "%" of table % is missing', column_name, relation
            USING ERRCODE = '55000',
                  HINT = format('CREATE TRIGGER %1$I BEFORE INSERT OR UPDATE ON %2$s FOR EACH ROW EXECUTE FUNCTION kms_wrap.kw_seal_column(%3$L); '
                                'ALTER TABLE %2$s ENABLE ALWAYS TRIGGER %1$I;',
                                kms_wrap.kw_column_trigger_name(found_column.column_uuid), relation, found_column.column_uuid);
    ELSIF found_column.trigger_state <> 'always' THEN
        RAISE EXCEPTION 'the seal trigger of column "%" of table % is disabled', column_name, relation
            USING ERRCODE = '55000',
                  HINT = format('ALTER TABLE %s ENABLE ALWAYS TRIGGER %I;', relation, kms_wrap.kw_column_trigger_name(found_column.column_uuid));
    ELSIF row_security_active(relation) THEN
        RAISE EXCEPTION 'row-level security hides rows of table %', relation
            USING ERRCODE = '55000', HINT = format('ALTER TABLE %s NO FORCE ROW LEVEL SECURITY;', relation);
    END IF;

    SELECT string_agg(format('t.%I', k), ', ' ORDER BY n) INTO arguments
    FROM unnest(kms_wrap.kw_column_row_key(relation, column_name, found_column.tenant_column)) WITH ORDINALITY u (k, n);
    -- Plain, or under an older data key: the trigger seals both anew when the row is updated.
    todo := format('(NOT kms_wrap.kw_is_current(%L, t.%I, %s)', found_column.column_uuid, column_name, arguments);
    IF found_column.index_column IS NOT NULL THEN
        todo := todo || format(' OR (t.%I IS NOT NULL AND (t.%2$I IS NULL OR pg_catalog.get_byte(t.%2$I, 0) OPERATOR(pg_catalog.<>) %3$s))',
                               column_name, found_column.index_column, found_column.index_generation);
    END IF;
    todo := todo || ')';

    -- Keys travel as text, in the form that doesn't depend on settings: JSON's.
    SELECT string_agg(format('t.%I', k.attname), ', ' ORDER BY k.n),
        string_agg(format('pg_catalog.to_jsonb(t.%I) OPERATOR(pg_catalog.#>>) ''{}''', k.attname), ', ' ORDER BY k.n),
        string_agg(format('($1)[%s]::pg_catalog.%I', k.n, k.typname), ', ' ORDER BY k.n),
        string_agg(format('($2)[%s]::pg_catalog.%I', k.n, k.typname), ', ' ORDER BY k.n),
        string_agg(format('t.%1$I OPERATOR(pg_catalog.=) p.%1$I', k.attname), ' AND ' ORDER BY k.n)
    INTO keys, key_texts, from_key, upto_key, match
    FROM (
        WITH RECURSIVE part AS (
            SELECT u.n, a.attname, a.atttypid
            FROM pg_index i
            CROSS JOIN LATERAL unnest(i.indkey) WITH ORDINALITY u (attnum, n)
            JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = u.attnum
            WHERE i.indrelid = relation AND i.indisprimary AND i.indisvalid AND u.n <= i.indnkeyatts
            UNION ALL
            SELECT p.n, p.attname, y.typbasetype FROM part p JOIN pg_type y ON y.oid = p.atttypid AND y.typtype = 'd'
        )
        SELECT p.n, p.attname, y.typname FROM part p JOIN pg_type y ON y.oid = p.atttypid AND y.typtype <> 'd'
    ) k;
    from_key := format('($1 IS NULL OR ROW(%s) OPERATOR(pg_catalog.>) ROW(%s))', keys, from_key);
    upto_key := format('ROW(%s) OPERATOR(pg_catalog.<=) ROW(%s)', keys, upto_key);

    status := found_column.status;
    rows_total := found_column.rows_total;
    rows_done := found_column.rows_done;
    last_key := found_column.last_key;
    policy := found_column.policy;
    policy_is_enabled := found_column.policy_is_enabled;
    has_old_deks := found_column.has_old_deks;
    has_old_index := found_column.has_old_index;
    unknown_envelopes := found_column.unknown_envelopes;
    SELECT array_agg(t.member), bool_or(t.member <> relation) INTO members, is_partitioned FROM kms_wrap.kw_column_tables(relation) t WHERE t.is_leaf;
    count_all := format('SELECT pg_catalog.count(*) FROM %s t', relation);
    count_todo := format('SELECT pg_catalog.count(*) FROM %s t WHERE %s', relation, todo);
    -- Envelopes that nobody sealed for the row: from before the column was protected, or attached with a partition.
    find_foreign := format('SELECT ARRAY[%s] FROM %s t WHERE NOT kms_wrap.kw_belongs(%L, t.%I, %s) LIMIT 1',
                           key_texts, relation, found_column.column_uuid, column_name, arguments);
    next_key := format(
        'SELECT s.key, s.n FROM (SELECT ARRAY[%s] AS key, pg_catalog.row_number() OVER (ORDER BY %s) AS n FROM %s t WHERE %s ORDER BY %2$s LIMIT $2) s '
        'ORDER BY s.n DESC LIMIT 1', key_texts, keys, relation, from_key);
    -- Rows that somebody else has locked are left for later, so that nobody waits for anybody. The limit is more than the range has
    -- of rows to do; it tells the planner how few that are, for of a comparison of rows it expects a third of the table.
    seal := format(
        'UPDATE %1$s t SET %2$I = t.%2$I FROM (SELECT %3$s FROM %1$s t WHERE %4$s AND %5$s AND %6$s ORDER BY %3$s LIMIT $3 FOR UPDATE SKIP LOCKED) p '
        'WHERE %7$s', relation, column_name, keys, from_key, upto_key, todo, match);
    SELECT array_agg(format('ALTER TABLE %s VALIDATE CONSTRAINT %I', relation, c.conname) ORDER BY c.conname) INTO validate
    FROM pg_constraint c
    WHERE c.conrelid = relation AND c.contype = 'c' AND NOT c.convalidated
        AND c.conname IN ('kw_sealed_' || replace(found_column.column_uuid::text, '-', ''),
                          'kw_index_' || replace(found_column.column_uuid::text, '-', ''),
                          'kw_tenant_' || replace(found_column.column_uuid::text, '-', ''));
    RETURN NEXT;
END
$function$;

-- How to rewrite each table, for its dead rows still hold plain values: by the index it is clustered on, else the primary key.
CREATE FUNCTION kms_wrap.kw_column_rewrites(relation regclass) RETURNS TABLE (member regclass, lock_table text, rewrite_table text, clean_up text)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $function$
    SELECT t.member, format('LOCK TABLE %s IN ACCESS EXCLUSIVE MODE', t.member),
        format('CLUSTER %s USING %I', t.member, c.relname),
        CASE WHEN NOT i.indisclustered THEN format('ALTER TABLE %s SET WITHOUT CLUSTER', t.member) END
    FROM kms_wrap.kw_column_tables(relation) t
    CROSS JOIN LATERAL (
        SELECT x.indexrelid, x.indisclustered FROM pg_index x
        WHERE x.indrelid = t.member AND x.indisvalid AND (x.indisclustered OR x.indisprimary)
        ORDER BY x.indisclustered DESC LIMIT 1
    ) i
    JOIN pg_class c ON c.oid = i.indexrelid
    WHERE t.is_leaf
    ORDER BY t.member
$function$;

CREATE PROCEDURE kms_wrap.kw_encrypt_column(
    relation pg_catalog.regclass, column_name pg_catalog.name, batch_size integer DEFAULT 1000, rewrite boolean DEFAULT true,
    max_wait interval DEFAULT '1 min')
LANGUAGE plpgsql AS $procedure$
DECLARE
    argument pg_catalog.text := CASE WHEN relation IS NULL THEN 'relation' WHEN column_name IS NULL THEN 'column_name'
        WHEN batch_size IS NULL THEN 'batch_size' WHEN rewrite IS NULL THEN 'rewrite' WHEN max_wait IS NULL THEN 'max_wait' END;
    plan pg_catalog.record;
    key pg_catalog.text[];
    upto pg_catalog.text[];
    walked pg_catalog.int8;
    sealed pg_catalog.int8;
    total pg_catalog.int8;
    done pg_catalog.int8;
    told pg_catalog.int8;
    remaining pg_catalog.int8;
    waiting_for pg_catalog.int8;
    sealed_in_pass pg_catalog.int8;
    least_remaining pg_catalog.int8;
    futile_passes pg_catalog.int4 := 0;
    foreign_key pg_catalog.text[];
    deadline pg_catalog.timestamptz;
    statement pg_catalog.text;
    boundary pg_catalog.int8;
    members pg_catalog.regclass[];
    locks pg_catalog.text[];
    rewrites pg_catalog.text[];
    clean_ups pg_catalog.text[];
    is_locked pg_catalog.bool;
    is_past pg_catalog.bool;
BEGIN
    IF argument IS NOT NULL THEN
        RAISE EXCEPTION 'argument "%" must not be null', argument USING ERRCODE = '22004';
    ELSIF batch_size OPERATOR(pg_catalog.<) 1 OR batch_size OPERATOR(pg_catalog.>) 100000 THEN
        RAISE EXCEPTION 'invalid value for argument "batch_size"' USING ERRCODE = '22023', DETAIL = 'It must be 1 to 100000.';
    END IF;
    PERFORM kms_wrap.kw_column_no_block();
    SELECT * INTO plan FROM kms_wrap.kw_column_plan(relation, column_name);
    total := plan.rows_total;
    done := plan.rows_done;
    key := plan.last_key;
    -- Every transaction that began before what is to be done now is older than this one.
    boundary := pg_catalog.pg_snapshot_xmax(pg_catalog.pg_current_snapshot())::pg_catalog.text::pg_catalog.int8;
    EXECUTE plan.count_todo INTO remaining;
    -- The trigger lets none into a table that was protected; partitions bring what they have.
    IF remaining OPERATOR(pg_catalog.>) 0 OR plan.status OPERATOR(pg_catalog.<>) 'protected' OR plan.is_partitioned THEN
        EXECUTE plan.find_foreign INTO foreign_key;
    END IF;
    IF foreign_key IS NOT NULL THEN
        RAISE EXCEPTION 'column "%" of table % has values that are envelopes and do not open for their rows', column_name, relation
            USING ERRCODE = '55000', DETAIL = pg_catalog.format('One is that of the row with key (%s).', pg_catalog.array_to_string(foreign_key, ', ')),
                  HINT = CASE WHEN plan.unknown_envelopes OPERATOR(pg_catalog.>) 0 THEN 'Some came before their wrappers: bring these here first.'
                              ELSE 'Put plain values or NULL in their place, with updates of that column alone.' END;
    END IF;
    IF remaining OPERATOR(pg_catalog.=) 0 AND plan.status OPERATOR(pg_catalog.=) 'protected' AND NOT plan.has_old_index AND NOT plan.has_old_deks THEN
        RAISE NOTICE 'nothing to do: all values of column "%" of table % are encrypted', column_name, relation;
        RETURN;
    ELSIF remaining OPERATOR(pg_catalog.>) 0 AND NOT plan.policy_is_enabled THEN
        RAISE EXCEPTION 'policy "%" is disabled', plan.policy USING ERRCODE = '55000', HINT = 'Set its is_enabled to true.';
    END IF;
    COMMIT;

    WHILE remaining OPERATOR(pg_catalog.>) 0 LOOP
        IF key IS NULL THEN
            EXECUTE plan.count_all INTO total;
            done := 0;
        END IF;
        told := done;
        sealed_in_pass := 0;
        LOOP
            EXECUTE plan.next_key INTO upto, walked USING key, batch_size;
            EXIT WHEN upto IS NULL;
            EXECUTE plan.seal USING key, upto, batch_size;
            GET DIAGNOSTICS sealed = ROW_COUNT;
            sealed_in_pass := sealed_in_pass OPERATOR(pg_catalog.+) sealed;
            done := done OPERATOR(pg_catalog.+) walked;
            key := upto;
            PERFORM kms_wrap.kw_column_progress(relation, column_name, NULL, total, done, key);
            COMMIT;
            -- Going over rows again that were locked is nothing to tell of.
            IF waiting_for IS NULL AND (done OPERATOR(pg_catalog.-) told) OPERATOR(pg_catalog.>=) (total OPERATOR(pg_catalog./) 10::pg_catalog.int8) THEN
                told := done;
                RAISE NOTICE 'gone through % of about % rows', done, total;
            END IF;
        END LOOP;
        key := NULL;
        PERFORM kms_wrap.kw_column_progress(relation, column_name, NULL, total, done, NULL);
        COMMIT;
        -- What was locked is left; no new plain value can come, the trigger sees to that.
        EXECUTE plan.count_todo INTO remaining;
        COMMIT;
        IF remaining OPERATOR(pg_catalog.>) 0 THEN
            IF remaining OPERATOR(pg_catalog.<) least_remaining OR least_remaining IS NULL THEN
                least_remaining := remaining;
                futile_passes := 0;
                deadline := NULL;
            ELSIF sealed_in_pass OPERATOR(pg_catalog.>) 0 THEN
                futile_passes := futile_passes OPERATOR(pg_catalog.+) 1;
            END IF;
            deadline := COALESCE(deadline, pg_catalog.clock_timestamp() OPERATOR(pg_catalog.+) max_wait);
            -- Updates that change nothing only leave dead rows.
            IF pg_catalog.clock_timestamp() OPERATOR(pg_catalog.>) deadline OR futile_passes OPERATOR(pg_catalog.>=) 3 THEN
                RAISE EXCEPTION '% values of column "%" of table % could not be encrypted', remaining, column_name, relation
                    USING ERRCODE = '55000', DETAIL = 'Other sessions hold their rows locked, or a trigger discards the update.',
                          HINT = 'Call it again when they are done; what is encrypted stays so.';
            END IF;
            IF futile_passes OPERATOR(pg_catalog.=) 0 AND (waiting_for IS NULL OR waiting_for OPERATOR(pg_catalog.<>) remaining) THEN
                waiting_for := remaining;
                RAISE NOTICE '% rows are locked by others, trying again', remaining;
            END IF;
            PERFORM pg_catalog.pg_sleep(1);
            COMMIT;
        END IF;
    END LOOP;

    IF plan.has_old_index OR plan.has_old_deks THEN
        -- A transaction that was under way when the rotation began can still bring values and entries under the old key.
        deadline := pg_catalog.clock_timestamp() OPERATOR(pg_catalog.+) max_wait;
        LOOP
            is_past := plan.members IS NULL OR kms_wrap.kw_column_is_past(plan.members[1], boundary);
            EXIT WHEN is_past OR pg_catalog.clock_timestamp() OPERATOR(pg_catalog.>) deadline;
            COMMIT;
            PERFORM pg_catalog.pg_sleep(0.5);
            COMMIT;
        END LOOP;
        COMMIT;
        EXECUTE plan.count_todo INTO remaining;
        IF NOT is_past OR remaining OPERATOR(pg_catalog.>) 0 THEN
            RAISE WARNING 'older keys of column "%" of table % stay in use', column_name, relation
                USING DETAIL = 'A transaction from before the rotation is still under way, or has just ended.',
                      HINT = 'Call kms_wrap.kw_encrypt_column() again when it has ended.';
        ELSIF plan.has_old_index THEN
            PERFORM kms_wrap.kw_column_settle_index(relation, column_name);
        END IF;
        COMMIT;
    END IF;
    IF plan.status OPERATOR(pg_catalog.=) 'protected' THEN
        IF is_past IS NOT FALSE AND remaining OPERATOR(pg_catalog.=) 0 THEN
            RAISE NOTICE 'all values of column "%" of table % are under the current keys', column_name, relation;
        END IF;
        RETURN;
    END IF;
    -- What is proved by opening every value before the constraint is.
    EXECUTE plan.find_foreign INTO foreign_key;
    IF foreign_key IS NOT NULL THEN
        RAISE EXCEPTION 'column "%" of table % has values that do not open for their rows', column_name, relation
            USING ERRCODE = '55000', DETAIL = pg_catalog.format('One is that of the row with key (%s).', pg_catalog.array_to_string(foreign_key, ', '));
    END IF;
    COMMIT;
    FOREACH statement IN ARRAY COALESCE(plan.validate, '{}') LOOP
        EXECUTE statement;
        COMMIT;
    END LOOP;
    IF plan.status OPERATOR(pg_catalog.=) 'encrypting' THEN
        PERFORM kms_wrap.kw_column_progress(relation, column_name, 'rewriting', total, done, NULL);
        COMMIT;
        RAISE NOTICE 'all values of column "%" of table % are encrypted', column_name, relation;
    END IF;
    IF NOT rewrite THEN
        RAISE NOTICE 'table % still holds plain values in dead rows: call kms_wrap.kw_encrypt_column() again to rewrite it', relation;
        RETURN;
    END IF;

    RAISE NOTICE 'rewriting table %: nobody can read or write it until that is done', relation;
    SELECT pg_catalog.array_agg(r.member), pg_catalog.array_agg(r.lock_table), pg_catalog.array_agg(r.rewrite_table), pg_catalog.array_agg(r.clean_up)
    INTO members, locks, rewrites, clean_ups
    FROM kms_wrap.kw_column_rewrites(relation) r;
    -- Every transaction that encrypted a plain value is older than this one.
    boundary := pg_catalog.pg_snapshot_xmax(pg_catalog.pg_current_snapshot())::pg_catalog.text::pg_catalog.int8;
    COMMIT;
    deadline := pg_catalog.clock_timestamp() OPERATOR(pg_catalog.+) max_wait;
    FOR i IN 1 .. COALESCE(pg_catalog.array_length(members, 1), 0) LOOP
        LOOP
            is_locked := false;
            -- A rewrite keeps dead rows that an old snapshot can still see.
            IF kms_wrap.kw_column_is_past(members[i], boundary) THEN
                -- Waiting longer would make everybody else wait behind it.
                PERFORM pg_catalog.set_config('lock_timeout', '1s', true);
                BEGIN
                    EXECUTE locks[i];
                    is_locked := true;
                EXCEPTION WHEN lock_not_available THEN
                    NULL;
                END;
                PERFORM pg_catalog.set_config('lock_timeout', '0', true);
            END IF;
            EXIT WHEN is_locked AND kms_wrap.kw_column_is_past(members[i], boundary);
            COMMIT;
            IF pg_catalog.clock_timestamp() OPERATOR(pg_catalog.>) deadline THEN
                RAISE WARNING 'table % was not rewritten: it still holds plain values in dead rows', members[i]
                    USING DETAIL = 'Another session, a prepared transaction or a replication slot uses the table or still sees its old rows.',
                          HINT = 'See pg_stat_activity.backend_xmin, pg_prepared_xacts and pg_replication_slots.xmin, then call kms_wrap.kw_encrypt_column() again.';
                RETURN;
            END IF;
            PERFORM pg_catalog.pg_sleep(0.5);
            COMMIT;
        END LOOP;
        EXECUTE rewrites[i];
        IF clean_ups[i] IS NOT NULL THEN
            EXECUTE clean_ups[i];
        END IF;
        COMMIT;
    END LOOP;
    EXECUTE pg_catalog.format('ANALYZE %s', relation);
    PERFORM kms_wrap.kw_column_progress(relation, column_name, 'protected', NULL, NULL, NULL);
    COMMIT;
    RAISE NOTICE 'column "%" of table % is protected', column_name, relation;
END
$procedure$;
