-- kw_set_key_status: what each status allows, and which changes are legal.
\pset footer off
SELECT kms_wrap.kw_create_root_key(:'testname' || '-a') AS root_a, kms_wrap.kw_create_root_key(:'testname' || '-b') AS root_b \gset
SELECT kms_wrap.kw_add_provider('a', 'local', jsonb_build_object('root_key', :'testname' || '-a')) AS a,
    kms_wrap.kw_add_provider('b', 'local', jsonb_build_object('root_key', :'testname' || '-b')) AS b \gset
-- How a statement ends. What differs from run to run is replaced.
CREATE FUNCTION try(statement text) RETURNS SETOF text LANGUAGE plpgsql AS $$
DECLARE
    message text;
    detail text;
    hint text;
    line text;
BEGIN
    EXECUTE statement;
    RETURN NEXT 'accepted';
EXCEPTION WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS message = MESSAGE_TEXT, detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
    FOREACH line IN ARRAY ARRAY[SQLSTATE || ': ' || message, 'DETAIL: ' || nullif(detail, ''), 'HINT: ' || nullif(hint, '')] LOOP
        line := regexp_replace(line, '[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}', '<uuid>', 'g');
        line := regexp_replace(line, '\y[0-9a-f]{32}\y', '<fingerprint>', 'g');
        line := regexp_replace(line, '/[^" ]*\.kms_wrap', '<key directory>', 'g');
        IF line IS NOT NULL THEN
            RETURN NEXT line;
        END IF;
    END LOOP;
END
$$;
\pset tuples_only
\pset format unaligned
SELECT kms_wrap.kw_create_local_key('a', 'a1', 'XAES-256-GCM') AS a1, kms_wrap.kw_create_local_key('a', 'a2', 'XAES-256-GCM') AS a2,
    kms_wrap.kw_create_local_key('b', 'b1', 'XAES-256-GCM') AS b1, kms_wrap.kw_create_local_key('b', 'm1', 'ML-KEM-768') AS m1,
    kms_wrap.kw_create_local_key('b', 'm2', 'ML-KEM-768') AS m2 \gset
SELECT kms_wrap.kw_create_policy('default', 'split', max_layers => 1) \g /dev/null
SELECT kms_wrap.kw_policy_add_key('default', slot, key, priority) FROM (VALUES ('kms1', :a1, 1), ('kms1', :a2, 0), ('kms2', :b1, 0), ('layer', :m1, 1), ('layer', :m2, 0)) v (slot, key, priority) \g /dev/null
SELECT kms_wrap.kw_wrap_dek() AS w \gset

-- For each status of the kms1 key of a wrapper and of its layer's: new wrappers take the other key, the old one opens or not, and moves or not.
CREATE FUNCTION allows(key bigint, other bigint, layer boolean) RETURNS TABLE (status text, wraps text, opens text, moves text) LANGUAGE plpgsql AS $$
DECLARE
    old uuid := (SELECT wrapper_uuid FROM kms_wrap.key_wrappers ORDER BY id LIMIT 1);
    targets jsonb := jsonb_build_object('1', other);
    new uuid;
BEGIN
    FOREACH status IN ARRAY '{active,retired,compromised,disabled}'::text[] LOOP
        BEGIN
            PERFORM kms_wrap.kw_set_key_status(key, status) WHERE status <> 'active';
            new := kms_wrap.kw_wrap_dek();
            SELECT CASE WHEN key IN (w.kms1_key_id, l.kms_key_id) THEN 'under it' ELSE 'under the other' END INTO wraps
            FROM kms_wrap.key_wrappers w JOIN kms_wrap.key_wrapper_layers l ON l.key_wrapper_id = w.id WHERE w.wrapper_uuid = new::text;
            BEGIN
                opens := octet_length(kms_wrap.kw_unwrap(old)) || ' bytes';
            EXCEPTION WHEN OTHERS THEN opens := SQLSTATE || ': ' || SQLERRM;
            END;
            BEGIN
                PERFORM CASE WHEN layer THEN kms_wrap.kw_rewrap(old, target_layers => targets) ELSE kms_wrap.kw_rewrap(old, other) END;
                moves := 'away: ' || octet_length(kms_wrap.kw_unwrap(old)) || ' bytes';
            EXCEPTION WHEN OTHERS THEN moves := SQLSTATE || ': ' || SQLERRM;
            END;
            RAISE EXCEPTION USING ERRCODE = 'UNDO1';
        EXCEPTION WHEN SQLSTATE 'UNDO1' THEN RETURN NEXT;
        END;
    END LOOP;
END
$$;
\pset tuples_only off
SELECT * FROM allows(:a1, :a2, false);
SELECT * FROM allows(:m1, :m2, true);
\pset tuples_only on
-- It hints at the way out.
SELECT kms_wrap.kw_set_key_status(:a1, 'disabled') \g /dev/null
SELECT try(format('SELECT kms_wrap.kw_unwrap(%L)', :'w'));
SELECT kms_wrap.kw_set_key_status(:a1, 'compromised') \g /dev/null
SELECT try(format('SELECT kms_wrap.kw_unwrap(%L)', :'w'));
SELECT kms_wrap.kw_set_key_status(:a1, 'disabled') \g /dev/null
SELECT kms_wrap.kw_set_key_status(:a1, 'active') \g /dev/null

-- Every change from every status, on a key that nothing needs.
SELECT kms_wrap.kw_create_local_key('a', 'free', 'XAES-256-GCM') AS free \gset
CREATE FUNCTION change(key bigint, "from" text, "to" text) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    PERFORM kms_wrap.kw_set_key_status(key, "from") WHERE "from" <> 'active';
    PERFORM kms_wrap.kw_set_key_status(key, "to");
    RAISE EXCEPTION USING ERRCODE = 'UNDO1';
EXCEPTION WHEN SQLSTATE 'UNDO1' THEN RETURN 'ok';
    WHEN OTHERS THEN RETURN SQLSTATE;
END
$$;
\pset tuples_only off
SELECT f AS "from", change(:free, f, 'active') AS active, change(:free, f, 'retired') AS retired, change(:free, f, 'disabled') AS disabled,
    change(:free, f, 'compromised') AS compromised, change(:free, f, 'destroyed') AS destroyed
FROM unnest('{active,retired,disabled,compromised,destroyed}'::text[]) f;
\pset tuples_only on
-- With the hint of the refusals; the time of the change is kept.
SELECT kms_wrap.kw_set_key_status(:free, 'compromised') \g /dev/null
SELECT try(format('SELECT kms_wrap.kw_set_key_status(%s, %L)', :free, 'active'));
SELECT kms_wrap.kw_set_key_status(:free, 'destroyed') \g /dev/null
SELECT try(format('SELECT kms_wrap.kw_set_key_status(%s, %L)', :free, 'active'));
SELECT status, status_changed_at > created_at FROM kms_wrap.kms_keys WHERE id = :free;

-- Destroyed only without live wrappers; rewrapped away, it may go.
SELECT try(format('SELECT kms_wrap.kw_set_key_status(%s, %L)', :a1, 'destroyed'));
SELECT try(format('SELECT kms_wrap.kw_set_key_status(%s, %L)', :m1, 'destroyed'));
SELECT kms_wrap.kw_rewrap(:'w', :a2) IS NOT NULL;
SELECT try(format('SELECT kms_wrap.kw_set_key_status(%s, %L)', :a1, 'destroyed'));
SELECT octet_length(kms_wrap.kw_unwrap(:'w'));

-- Arguments.
SELECT try('SELECT kms_wrap.kw_set_key_status(1, $$active$$)');
SELECT try(format('SELECT kms_wrap.kw_set_key_status(%s, %L)', :a2, s)) FROM unnest('{Active,unknown,""}'::text[]) s;
SELECT try(format('SELECT kms_wrap.kw_set_key_status(%s, NULL)', :a2));
SELECT try('SELECT kms_wrap.kw_set_key_status(NULL, $$active$$)');
