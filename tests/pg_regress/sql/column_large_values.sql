-- Values over the limit, and long envelopes, in a protected column: sizes are read from TOAST pointers. Pages are made whose pointers claim a length that
-- nothing behind them has.
\pset footer off
\pset null '-'
\set SHOW_CONTEXT never
SELECT kms_wrap.kw_create_root_key(:'testname' || '-a') AS root_a, kms_wrap.kw_create_root_key(:'testname' || '-b') AS root_b \gset
SELECT kms_wrap.kw_add_provider('a', 'local', jsonb_build_object('root_key', :'testname' || '-a')) AS a,
    kms_wrap.kw_add_provider('b', 'local', jsonb_build_object('root_key', :'testname' || '-b')) AS b \gset
SELECT kms_wrap.kw_create_local_key('a', 'a1', 'XAES-256-GCM') AS a1, kms_wrap.kw_create_local_key('b', 'b1', 'XAES-256-GCM') AS b1 \gset
SELECT kms_wrap.kw_create_policy('default', 'split', min_layers => 0) \g /dev/null
SELECT kms_wrap.kw_policy_add_key('default', 'kms1', :a1), kms_wrap.kw_policy_add_key('default', 'kms2', :b1) \g /dev/null
CREATE FUNCTION try(statement text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    detail text;
BEGIN
    EXECUTE statement;
    RETURN 'done';
EXCEPTION WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS detail = PG_EXCEPTION_DETAIL;
    RETURN concat_ws(E'\n', SQLSTATE || ': ' || SQLERRM, nullif(detail, ''));
END
$$;
CREATE TABLE t (id integer PRIMARY KEY, body text, scan bytea, n integer);
SELECT count(*) > 0 AS protected FROM unnest('{body,scan}'::name[]) c, kms_wrap.kw_protect_column('t', c);

-- A page in which a value of so many bytes claims to have others: its varatt_external has raw size with header, and stored size; little-endian on the
-- machines that this runs on.
CREATE FUNCTION claiming(page bytea, len bigint, claimed bigint) RETURNS bytea LANGUAGE plpgsql AS $$
DECLARE
    found bytea := '';
    put bytea := '';
BEGIN
    FOR i IN 0..3 LOOP found := found || set_byte('\x00', 0, ((len + 4) >> (8 * i) & 255)::integer); END LOOP;
    FOR i IN 0..3 LOOP found := found || set_byte('\x00', 0, (len >> (8 * i) & 255)::integer); END LOOP;
    FOR i IN 0..3 LOOP put := put || set_byte('\x00', 0, ((claimed + 4) >> (8 * i) & 255)::integer); END LOOP;
    FOR i IN 0..3 LOOP put := put || set_byte('\x00', 0, (claimed >> (8 * i) & 255)::integer); END LOOP;
    RETURN overlay(page PLACING put FROM position(found IN page));
END
$$;
CREATE FUNCTION put(bytes bytea, relation regclass) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    lo oid := lo_from_bytea(0, bytes);
BEGIN
    PERFORM lo_export(lo, current_setting('data_directory') || '/' || pg_relation_filepath(relation));
    PERFORM lo_unlink(lo);
END
$$;

-- Plain values: refused before anything of them is read, which would fail for want of the bytes.
CREATE TABLE plain (body text, scan bytea);
ALTER TABLE plain ALTER body SET STORAGE EXTERNAL, ALTER scan SET STORAGE EXTERNAL;
INSERT INTO plain SELECT repeat('x', 2600), decode(repeat('00', 2500), 'hex');
CHECKPOINT;
CREATE TABLE over_limit (LIKE plain INCLUDING STORAGE);
CREATE TABLE at_limit (LIKE plain INCLUDING STORAGE);
CREATE TABLE pages AS SELECT pg_read_binary_file(pg_relation_filepath('plain'), 0, 8192) AS page;
SELECT put(claiming(claiming(page, 2600, (767 << 20) + 1), 2500, (1 << 30) - 127), 'over_limit') FROM pages \g /dev/null
SELECT put(claiming(claiming(page, 2600, 767 << 20), 2500, (1 << 30) - 128), 'at_limit') FROM pages \g /dev/null
\c
-- Where pages have checksums, as they have by default from PostgreSQL 18 on.
SET ignore_checksum_failure = on;
SET client_min_messages = error;
SELECT octet_length(body), octet_length(scan) FROM over_limit UNION ALL SELECT octet_length(body), octet_length(scan) FROM at_limit;
SELECT try('INSERT INTO t (id, body) SELECT 1, body FROM over_limit');
SELECT try('INSERT INTO t (id, scan) SELECT 1, scan FROM over_limit');
SELECT try('INSERT INTO t (id, body) SELECT 1, body FROM at_limit') !~ '^(54000|done)' AS is_read;
SELECT try('INSERT INTO t (id, scan) SELECT 1, scan FROM at_limit') !~ '^(54000|done)' AS is_read;
INSERT INTO t VALUES (1, 'short', 'short', 0);
SELECT try('UPDATE t SET body = over_limit.body FROM over_limit');
SELECT try('UPDATE t SET scan = over_limit.scan FROM over_limit');
SELECT * FROM t_decrypted;

-- Envelopes are longer than what is in them: a row keeps its own while other columns change, and one that is given is looked at and not refused for its length.
INSERT INTO t VALUES (2, repeat('x', 3000), decode(repeat('00', 3000), 'hex'), 0);
SELECT octet_length(body), octet_length(scan) FROM t WHERE id = 2;
CHECKPOINT;
CREATE FUNCTION lengthen() RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    toast regclass := (SELECT reltoastrelid FROM pg_class WHERE oid = 't'::regclass);
    chunks bytea := pg_read_binary_file(pg_relation_filepath(toast));
    page bytea := pg_read_binary_file(pg_relation_filepath('t'));
BEGIN
    -- New and empty files, so that no page of them is in memory.
    TRUNCATE t;
    PERFORM put(claiming(claiming(page, 4084, (1 << 30) - 1000), 3060, (1 << 30) - 1000), 't'), put(chunks, toast);
END
$$;
SELECT lengthen() \g /dev/null
\c
SET ignore_checksum_failure = on;
SET client_min_messages = error;
REINDEX TABLE t;
SELECT id, octet_length(body), octet_length(scan) FROM t;
-- The CHECK constraint is what reads it.
SELECT try('UPDATE t SET n = 1 WHERE id = 2') !~ '^(54000|done)' AS is_read;
SELECT try('UPDATE t SET body = body, scan = scan WHERE id = 2') !~ '^(54000|done)' AS is_read;
SELECT try('UPDATE t SET scan = o.scan FROM t o WHERE t.id = 1 AND o.id = 2') !~ '^(54000|done)' AS is_read;
SELECT try('UPDATE t SET body = o.body FROM t o WHERE t.id = 1 AND o.id = 2') !~ '^(54000|done)' AS is_read;
SELECT id, n FROM t ORDER BY id;
