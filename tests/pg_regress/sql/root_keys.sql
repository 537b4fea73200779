-- Root key files: made once, checked at every load, and named with the expected fingerprint when they are not what they should be.
\pset footer off
\pset null '-'
\setenv KEYDIR :keydir
\setenv TESTNAME :testname
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
-- 32 bytes, for the server's user alone. The answer is a fingerprint, not the key.
SELECT kms_wrap.kw_create_root_key(:'testname' || '-a') ~ '^[0-9a-f]{32}$';
\! stat -c '%a %s %F' "$KEYDIR" "$KEYDIR/$TESTNAME-a" | sed -E 's/^700 [0-9]+ /700 /'
\! ls -A "$KEYDIR" | grep -c "^\.$TESTNAME"
-- SHA-256 over label and key, the first 16 bytes.
\! (printf 'kms_wrap/v1/root-fingerprint\0'; cat "$KEYDIR/$TESTNAME-a") | sha256sum | cut -c1-32 > "$KEYDIR/.$TESTNAME-sum"
SELECT kms_wrap.kw_add_provider('a', 'local', jsonb_build_object('root_key', :'testname' || '-a'));
SELECT trim(pg_read_file(:'keydir' || '/.root_keys-sum'), E'\n') = config ->> 'fingerprint' FROM kms_wrap.provider_config;
\! rm "$KEYDIR/.$TESTNAME-sum"

-- Never overwritten, whatever lies there.
SELECT try($$ SELECT kms_wrap.kw_create_root_key('root_keys-a') $$);
\! : > "$KEYDIR/$TESTNAME-empty"; ln -s nowhere "$KEYDIR/$TESTNAME-link"; mkdir "$KEYDIR/$TESTNAME-dir"
SELECT try($$ SELECT kms_wrap.kw_create_root_key('root_keys-empty') $$);
SELECT try($$ SELECT kms_wrap.kw_create_root_key('root_keys-link') $$);
SELECT try($$ SELECT kms_wrap.kw_create_root_key('root_keys-dir') $$);
\! stat -c '%n %s %F' "$KEYDIR/$TESTNAME-empty" "$KEYDIR/$TESTNAME-link" | sed 's#.*/##'
-- A roll-back leaves the file: nobody can know who uses it by then.
BEGIN;
SELECT kms_wrap.kw_create_root_key(:'testname' || '-rolled-back') IS NOT NULL;
ROLLBACK;
SELECT try($$ SELECT kms_wrap.kw_create_root_key('root_keys-rolled-back') $$);

-- A name can't leave the directory.
SELECT n, try(format('SELECT kms_wrap.kw_create_root_key(%L)', n))
FROM unnest(ARRAY['', '.', '..', '../x', '/etc/x', 'a/b', E'a\\b', '.hidden', 'a b', E'a\nb', 'ä', '~', '$HOME', '*', repeat('x', 65)]) n;
SELECT try('SELECT kms_wrap.kw_create_root_key(NULL)');
-- 64 characters are allowed.
SELECT kms_wrap.kw_create_root_key(:'testname' || repeat('x', 64 - length(:'testname'))) IS NOT NULL;

-- Files that are no root key: a provider over them is not made.
\! head -c 31 /dev/zero > "$KEYDIR/$TESTNAME-31"; head -c 33 /dev/zero > "$KEYDIR/$TESTNAME-33"; head -c 32 /dev/zero > "$KEYDIR/$TESTNAME-shared"; head -c 32 /dev/zero > "$KEYDIR/$TESTNAME-exec"
\! chmod 0600 "$KEYDIR/$TESTNAME-empty" "$KEYDIR/$TESTNAME-31" "$KEYDIR/$TESTNAME-33"; chmod 0644 "$KEYDIR/$TESTNAME-shared"; chmod 0700 "$KEYDIR/$TESTNAME-exec"; ln -s "$TESTNAME-a" "$KEYDIR/$TESTNAME-link2"; chmod 0700 "$KEYDIR/$TESTNAME-dir"; mkfifo -m 0600 "$KEYDIR/$TESTNAME-fifo"
SELECT n, try(format('SELECT kms_wrap.kw_add_provider(%L, %L, %L)', 'x', 'local', jsonb_build_object('root_key', 'root_keys-' || n)))
FROM unnest('{nowhere,empty,31,33,shared,exec,link,link2,dir,fifo}'::text[]) n;
SELECT count(*) FROM kms_wrap.kms_providers;
SELECT count(*) FROM kms_wrap.provider_config;
-- 0400 is as good as 0600.
\! chmod 0400 "$KEYDIR/$TESTNAME-rolled-back"
SELECT kms_wrap.kw_add_provider('b', 'local', jsonb_build_object('root_key', :'testname' || '-rolled-back'));

-- Keys under both, and a wrapper.
SELECT kms_wrap.kw_create_local_key('a', 'a1', 'XAES-256-GCM') AS a1, kms_wrap.kw_create_local_key('b', 'b1', 'XAES-256-GCM') AS b1, kms_wrap.kw_create_local_key('a', 'm1', 'ML-KEM-768') AS m1 \gset
SELECT kms_wrap.kw_create_policy('default', 'split') \g /dev/null
SELECT kms_wrap.kw_policy_add_key('default', slot, key) FROM (VALUES ('kms1', :a1), ('kms2', :b1), ('layer', :m1)) v (slot, key) \g /dev/null
SELECT kms_wrap.kw_wrap_dek() AS w \gset
SELECT generation FROM kms_wrap.key_wrappers;
-- What is done with root key a while its file is not right: kw_wrap_dek, kw_unwrap, kw_create_local_key, kw_rewrap. Each names the file and what is expected.
SELECT kms_wrap.kw_create_local_key('a', 'a2', 'XAES-256-GCM') AS a2 \gset
SELECT kms_wrap.kw_policy_add_key('default', 'kms1', :a2, -1) \g /dev/null
CREATE VIEW all_four AS
    SELECT try('SELECT kms_wrap.kw_wrap_dek()')
    UNION ALL SELECT try(format('SELECT kms_wrap.kw_unwrap(%L)', wrapper_uuid)) FROM kms_wrap.key_wrappers
    UNION ALL SELECT try('SELECT kms_wrap.kw_create_local_key($$a$$, $$new$$, $$XAES-256-GCM$$)')
    UNION ALL SELECT try(format('SELECT kms_wrap.kw_rewrap(%L, %s)', wrapper_uuid, (SELECT id FROM kms_wrap.kms_keys WHERE external_key_ref = 'a2'))) FROM kms_wrap.key_wrappers;
CREATE VIEW state AS SELECT (SELECT md5(string_agg(w::text, '' ORDER BY w.id)) FROM kms_wrap.key_wrappers w) AS wrappers,
    (SELECT count(*) FROM kms_wrap.kms_keys) AS keys, (SELECT count(*) FROM kms_wrap.sym_key) AS sealed;
CREATE TABLE state_before AS SELECT * FROM state;

\! mv "$KEYDIR/$TESTNAME-a" "$KEYDIR/$TESTNAME-a.away"
SELECT * FROM all_four;
\! : > "$KEYDIR/$TESTNAME-a"; chmod 0600 "$KEYDIR/$TESTNAME-a"
SELECT * FROM all_four;
\! head -c 31 "$KEYDIR/$TESTNAME-a.away" > "$KEYDIR/$TESTNAME-a"
SELECT * FROM all_four;
\! ln -sf "$TESTNAME-a.away" "$KEYDIR/$TESTNAME-a"
SELECT * FROM all_four;
\! rm "$KEYDIR/$TESTNAME-a"; head -c 32 /dev/urandom > "$KEYDIR/$TESTNAME-a"; chmod 0600 "$KEYDIR/$TESTNAME-a"
SELECT * FROM all_four;
\! mv "$KEYDIR/$TESTNAME-a.away" "$KEYDIR/$TESTNAME-a"; chmod 0604 "$KEYDIR/$TESTNAME-a"
SELECT * FROM all_four;
\! chmod 0660 "$KEYDIR/$TESTNAME-a"
SELECT * FROM all_four;
-- Nothing changed by any of it, in this session that had opened the keys before; and all is well again with the right file.
\! chmod 0600 "$KEYDIR/$TESTNAME-a"
SELECT state = state_before FROM state, state_before;
SELECT octet_length(kms_wrap.kw_unwrap(:'w'));
SELECT octet_length(kms_wrap.kw_unwrap(kms_wrap.kw_wrap_dek()));
-- The same in a session that has read nothing yet.
\! mv "$KEYDIR/$TESTNAME-a" "$KEYDIR/$TESTNAME-a.away"
\c
SELECT try(format('SELECT kms_wrap.kw_unwrap(%L)', :'w'));
\! mv "$KEYDIR/$TESTNAME-a.away" "$KEYDIR/$TESTNAME-a"
SELECT octet_length(kms_wrap.kw_unwrap(:'w'));
\! rm -r "$KEYDIR/$TESTNAME-dir" "$KEYDIR/$TESTNAME-fifo"
