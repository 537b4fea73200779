-- Secrets show nowhere: not in plans, activity, statistics, errors, logs, nor as bytes in any file of the server.
\pset footer off
\pset null '-'
SELECT kms_wrap.kw_create_root_key(:'testname' || '-a') AS root_a, kms_wrap.kw_create_root_key(:'testname' || '-b') AS root_b \gset
SELECT kms_wrap.kw_add_provider('a', 'local', jsonb_build_object('root_key', :'testname' || '-a')) AS a,
    kms_wrap.kw_add_provider('b', 'local', jsonb_build_object('root_key', :'testname' || '-b')) AS b \gset
SELECT kms_wrap.kw_create_local_key('a', 'a1', 'XAES-256-GCM') AS a1, kms_wrap.kw_create_local_key('b', 'b1', 'XAES-256-GCM') AS b1, kms_wrap.kw_create_local_key('a', 'm1', 'ML-KEM-768') AS m1 \gset
SELECT kms_wrap.kw_create_policy('default', 'split') \g /dev/null
SELECT kms_wrap.kw_policy_add_key('default', slot, key) FROM (VALUES ('kms1', :a1), ('kms2', :b1), ('layer', :m1)) v (slot, key) \g /dev/null
\setenv KEYDIR :keydir
\setenv TESTNAME :testname
\setenv PGDATABASE :DBNAME

-- A DEK that we know, made here and given as no literal: it is the SHA-256 of a sentence.
PREPARE import AS SELECT kms_wrap.kw_wrap_dek(dek => sha256('a DEK that must not be found')) AS w;
EXECUTE import \gset
SELECT kms_wrap.kw_unwrap(:'w') = sha256('a DEK that must not be found') AS opens;
-- Generated DEKs, and all else that works with secrets.
CREATE TABLE w AS SELECT kms_wrap.kw_wrap_dek() AS wrapper FROM generate_series(1, 20);
SELECT count(kms_wrap.kw_unwrap(wrapper)) AS opened FROM w;
SELECT kms_wrap.kw_create_root_key(:'testname' || '-c') IS NOT NULL AS made;
SELECT kms_wrap.kw_rotate_root_key('b', :'testname' || '-c') AS resealed;
SELECT kms_wrap.kw_create_local_key('a', 'a2', 'XAES-256-GCM') AS a2 \gset
SELECT kms_wrap.kw_policy_add_key('default', 'kms1', :a2) \g /dev/null
SELECT kms_wrap.kw_schedule_rewrap(policy => 'default', target_kms1 => :a2) AS c \gset
CALL kms_wrap.kw_run_jobs();
ANALYZE;

-- Not in a plan.
EXPLAIN (VERBOSE, COSTS off) SELECT kms_wrap.kw_unwrap(wrapper) FROM w;
EXPLAIN (VERBOSE, COSTS off) SELECT kms_wrap.kw_wrap_dek(context => '{"tenant": "7"}');

-- As text: hexadecimal, base64 and escaped.
CREATE VIEW shown AS
    SELECT 'pg_stats' AS place, s::text AS text FROM pg_stats s WHERE schemaname IN ('kms_wrap', 'public')
    UNION ALL SELECT 'pg_stat_activity', a::text FROM pg_stat_activity a WHERE datname = current_database()
    UNION ALL SELECT 'pg_prepared_statements', p::text FROM pg_prepared_statements p
    UNION ALL SELECT 'kw_health', h::text FROM kms_wrap.kw_health() h
    UNION ALL SELECT 'kw_describe_wrapper', d::text FROM w, kms_wrap.kw_describe_wrapper(wrapper) d
    UNION ALL SELECT 'kw_verify', v::text FROM kms_wrap.kw_verify() v
    UNION ALL SELECT 'key_wrappers', t::text FROM kms_wrap.key_wrappers t
    UNION ALL SELECT 'key_wrapper_layers', t::text FROM kms_wrap.key_wrapper_layers t
    UNION ALL SELECT 'sym_key', t::text FROM kms_wrap.sym_key t
    UNION ALL SELECT 'asym_key', t::text FROM kms_wrap.asym_key t
    UNION ALL SELECT 'rewrap_jobs', t::text FROM kms_wrap.rewrap_jobs t
    UNION ALL SELECT 'server log', convert_from(pg_read_binary_file(current_setting('data_directory') || '/../log'), 'LATIN1')
    UNION ALL SELECT 'views', t::text FROM kms_wrap.vw_key_wrappers t;
CREATE TEMP TABLE secrets AS
    SELECT 'DEK' AS secret, encode(sha256('a DEK that must not be found'), 'hex') AS hex
    UNION ALL SELECT 'root key', encode(pg_read_binary_file(:'keydir' || '/' || f), 'hex') FROM unnest(ARRAY['leaks-a', 'leaks-b', 'leaks-c']) f
    UNION ALL SELECT 'generated DEK', encode(kms_wrap.kw_unwrap(wrapper), 'hex') FROM w;
SELECT place, count(*) > 0 AS looked_at, count(*) FILTER (WHERE text ILIKE '%' || hex || '%' OR text LIKE '%' || encode(decode(hex, 'hex'), 'base64') || '%' OR text LIKE '%' || encode(decode(hex, 'hex'), 'escape') || '%') AS found
FROM shown, secrets GROUP BY place ORDER BY place;

-- As bytes, in every relation of this database and in the WAL.
SELECT secret, count(*) AS secrets FROM secrets GROUP BY secret ORDER BY secret;
CREATE FUNCTION files_with(secret bytea) RETURNS bigint LANGUAGE sql AS $$
    SELECT count(*) FROM (
        SELECT pg_read_binary_file(pg_relation_filepath(c.oid), 0, 1 << 29, true) AS bytes FROM pg_class c WHERE c.relkind IN ('r', 't', 'i', 'S') AND c.relpersistence = 'p' AND c.relfilenode <> 0
        UNION ALL SELECT pg_read_binary_file('pg_wal/' || name, 0, 1 << 29, true) FROM pg_ls_waldir()) f
    WHERE position(secret IN bytes) > 0
$$;
CHECKPOINT;
-- The search finds what is there: a wrapper's bytes.
SELECT files_with(substr(dek_wrap2, 1, 100)) > 0 AS finds FROM kms_wrap.key_wrappers LIMIT 1;
SELECT secret, sum(files_with(decode(hex, 'hex'))) AS files FROM secrets WHERE secret <> 'generated DEK' OR hex = (SELECT min(hex) FROM secrets WHERE secret = 'generated DEK') GROUP BY secret ORDER BY secret;

-- Not in an error, whatever the DEK or the context; a bad value isn't repeated.
PREPARE wrong (bytea) AS SELECT kms_wrap.kw_wrap_dek(dek => $1);
EXECUTE wrong ('\x5ec2e75ec2e7');
EXECUTE wrong (decode(repeat('5ec2e7', 100), 'hex'));
SELECT kms_wrap.kw_wrap_dek(context => '{"card": 5105105105105100}');
SELECT kms_wrap.kw_unwrap(:'w', '{"card": "5105105105105100"}');
