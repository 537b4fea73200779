-- What a policy demands of every wrapper: post-quantum level, origin, algorithms.
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
SELECT kms_wrap.kw_create_local_key('a', 'a1', 'XAES-256-GCM') AS a1, kms_wrap.kw_create_local_key('a', 'a2', 'XAES-256-GCM') AS a2, kms_wrap.kw_create_local_key('b', 'b1', 'XAES-256-GCM') AS b1,
    kms_wrap.kw_create_local_key('a', 'm768', 'ML-KEM-768') AS m768, kms_wrap.kw_create_local_key('a', 'm1024', 'ML-KEM-1024') AS m1024, kms_wrap.kw_create_local_key('a', 'x', 'X-Wing') AS x \gset
SELECT kms_wrap.kw_create_policy(p, c, min_layers => l, max_layers => l), kms_wrap.kw_policy_add_key(p, 'kms1', :a1, 1), kms_wrap.kw_policy_add_key(p, 'kms2', :b1)
FROM (VALUES ('bare', 'split', 0), ('p3', 'redundant', 1), ('p5', 'split', 1)) v (p, c, l) \g /dev/null
SELECT kms_wrap.kw_policy_add_key('p3', 'layer', :m768, 1), kms_wrap.kw_policy_add_key('p5', 'layer', :m1024, 1), kms_wrap.kw_policy_add_key('p5', 'layer', :m768) \g /dev/null

-- min_nist_level: every path needs a layer of at least that category.
SELECT p, l, try(format('UPDATE kms_wrap.encryption_policies SET min_nist_level = %s WHERE policy_name = %L; SELECT kms_wrap.kw_wrap_dek(%L)', l, p, p))
FROM unnest('{bare,p3,p5}'::text[]) p, unnest('{1,3,4,5}'::int[]) l;
-- A rewrap must not fall below it either, and a wrapper that is below today can't be rewrapped within it.
SELECT kms_wrap.kw_wrap_dek('p5') AS w \gset
SELECT try(format('SELECT kms_wrap.kw_rewrap(%L, target_layers => %L)', :'w', jsonb_build_object('1', :m768)));
UPDATE kms_wrap.encryption_policies SET min_nist_level = NULL;
SELECT try(format('SELECT kms_wrap.kw_rewrap(%L, target_layers => %L)', :'w', jsonb_build_object('1', :m768)));
UPDATE kms_wrap.encryption_policies SET min_nist_level = 5 WHERE policy_name = 'p5';
SELECT kms_wrap.kw_policy_add_key('p5', 'kms1', :a2) \g /dev/null
SELECT try(format('SELECT kms_wrap.kw_rewrap(%L, %s)', :'w', :a2));
-- It counts for what is written. What is there opens.
SELECT octet_length(kms_wrap.kw_unwrap(:'w'));
SELECT try(format('SELECT kms_wrap.kw_rewrap(%L, %s, target_layers => %L)', :'w', :a2, jsonb_build_object('1', :m1024)));
UPDATE kms_wrap.encryption_policies SET min_nist_level = NULL;

-- Nor must a rewrap bring both shares to one owner, at once or in a campaign.
SELECT kms_wrap.kw_create_local_key('b', 'b2', 'XAES-256-GCM') AS b2 \gset
SELECT kms_wrap.kw_wrap_dek('bare') AS bare, kms_wrap.kw_policy_add_key('bare', 'kms1', :b2) \gset
SELECT try(format('SELECT kms_wrap.kw_rewrap(%L, %s)', :'bare', :b2));
SELECT kms_wrap.kw_schedule_rewrap(wrapper => :'bare', target_kms1 => :b2) AS c \gset
CALL kms_wrap.kw_run_jobs();
SELECT status, failed, regexp_replace(last_error, '[0-9a-f]{32}', '<fingerprint>') AS last_error FROM kms_wrap.kw_rewrap_progress WHERE campaign_id = :c;
SELECT octet_length(kms_wrap.kw_unwrap(:'bare'));
SELECT kms_wrap.kw_policy_remove_key('bare', :b2) \g /dev/null

-- require_origin: kind local authenticates the wrapper, so every path of two symmetric keys has it.
SELECT policy_name, require_origin FROM kms_wrap.encryption_policies ORDER BY 1;
SELECT value FROM kms_wrap.kw_describe_wrapper(:'w') WHERE item = 'origin';

-- policy_algorithms narrows what a policy's keys may be; without a row for a role everything is allowed.
INSERT INTO kms_wrap.policy_algorithms (policy_id, algo_id, role) SELECT id, 2, 'kem' FROM kms_wrap.encryption_policies WHERE policy_name IN ('p3', 'p5');
SELECT p, try(format('SELECT kms_wrap.kw_wrap_dek(%L)', p)) FROM unnest('{bare,p3,p5}'::text[]) p;
SELECT try(format('SELECT kms_wrap.kw_rewrap(%L, target_layers => %L)', :'w', jsonb_build_object('1', :m768)));
SELECT try(format('SELECT kms_wrap.kw_schedule_rewrap(policy => %L, target_layers => %L)', 'p5', jsonb_build_object('1', :m768)));
INSERT INTO kms_wrap.policy_algorithms (policy_id, algo_id, role) SELECT id, 10, 'symmetric' FROM kms_wrap.encryption_policies WHERE policy_name = 'p5';
SELECT try('SELECT kms_wrap.kw_wrap_dek($$p5$$)');
INSERT INTO kms_wrap.policy_algorithms (policy_id, algo_id, role) SELECT id, 11, 'symmetric' FROM kms_wrap.encryption_policies WHERE policy_name = 'p5';
SELECT try('SELECT kms_wrap.kw_wrap_dek($$p5$$)');
