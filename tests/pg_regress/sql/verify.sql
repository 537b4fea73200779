-- kw_verify opens every selected wrapper and reports each, stopping at none.
\pset footer off
\pset null '-'
\set SHOW_CONTEXT never
SELECT kms_wrap.kw_create_root_key(:'testname' || '-a') AS root_a, kms_wrap.kw_create_root_key(:'testname' || '-b') AS root_b \gset
SELECT kms_wrap.kw_add_provider('a', 'local', jsonb_build_object('root_key', :'testname' || '-a')) AS a,
    kms_wrap.kw_add_provider('b', 'local', jsonb_build_object('root_key', :'testname' || '-b')) AS b \gset
SELECT kms_wrap.kw_create_local_key('a', 'a1', 'XAES-256-GCM') AS a1, kms_wrap.kw_create_local_key('b', 'b1', 'XAES-256-GCM') AS b1,
    kms_wrap.kw_create_local_key('b', 'b2', 'XAES-256-GCM') AS b2, kms_wrap.kw_create_local_key('a', 'm1', 'ML-KEM-768') AS m1 \gset
SELECT kms_wrap.kw_create_policy(c, c), kms_wrap.kw_policy_add_key(c, 'kms1', :a1), kms_wrap.kw_policy_add_key(c, 'kms2', key),
    kms_wrap.kw_policy_add_key(c, 'layer', :m1) FROM (VALUES ('split', :b1), ('redundant', :b2)) v (c, key) \g /dev/null
-- More than one batch of it; the context need not be known to verify.
SELECT count(kms_wrap.kw_wrap_dek('split', context => jsonb_build_object('n', n::text))) FROM generate_series(1, 205) n \g /dev/null
SELECT count(kms_wrap.kw_wrap_dek('redundant')) FROM generate_series(1, 5) n \g /dev/null
SELECT ok, sqlstate, message, count(*), count(DISTINCT wrapper) AS wrappers FROM kms_wrap.kw_verify() GROUP BY 1, 2, 3;

-- One bad wrapper of each kind; all others stay good.
UPDATE kms_wrap.key_wrappers SET dek_wrap1 = '\x4b57' WHERE id = 1001;
UPDATE kms_wrap.key_wrappers SET dek_wrap1 = set_byte(dek_wrap1, octet_length(dek_wrap1) - 1, get_byte(dek_wrap1, octet_length(dek_wrap1) - 1) # 1) WHERE id = 1002;
UPDATE kms_wrap.key_wrappers SET crypto_suite = crypto_suite || '{"composition": "redundant"}' WHERE id = 1003;
DELETE FROM kms_wrap.key_wrapper_layers WHERE key_wrapper_id = 1004;
UPDATE kms_wrap.key_wrappers SET status = 'rotated' WHERE id IN (1005, 1006);
-- A retired wrapper doesn't open for use, but can be set back: it is checked like the others.
UPDATE kms_wrap.key_wrappers SET status = 'retired' WHERE id = 1005;
UPDATE kms_wrap.key_wrappers SET status = 'invalid' WHERE id = 1007;
UPDATE kms_wrap.key_wrappers SET dek_wrap1 = set_byte(dek_wrap1, 4, 9) WHERE id = 1008;
-- A redundant wrapper of which only the second path is bad: it opens, but it is not what it should be.
UPDATE kms_wrap.key_wrappers SET dek_wrap2 = set_byte(dek_wrap2, octet_length(dek_wrap2) - 1, get_byte(dek_wrap2, octet_length(dek_wrap2) - 1) # 1) WHERE id = 1206;
SELECT octet_length(kms_wrap.kw_unwrap(wrapper_uuid::uuid)) AS opens FROM kms_wrap.key_wrappers WHERE id = 1206;
SELECT w.id, v.ok, v.sqlstate, replace(v.message, v.wrapper::text, '<uuid>') AS message FROM kms_wrap.kw_verify() v JOIN kms_wrap.key_wrappers w ON w.wrapper_uuid = v.wrapper::text WHERE NOT v.ok ORDER BY w.id;
SELECT ok, count(*) FROM kms_wrap.kw_verify() GROUP BY 1 ORDER BY 1;
-- kw_verify changes nothing: a bad wrapper stays active until somebody decides.
SELECT status, count(*) FROM kms_wrap.key_wrappers GROUP BY 1 ORDER BY 1;

-- Selectors, joined by AND.
SELECT count(*) FROM kms_wrap.kw_verify(policy => 'redundant');
SELECT count(*) FROM kms_wrap.kw_verify(from_key => :b2);
SELECT count(*) FROM kms_wrap.kw_verify(from_key => :m1, policy => 'redundant');
SELECT count(*) FROM kms_wrap.kw_verify(from_key => :b1, policy => 'redundant');
SELECT count(*) FROM kms_wrap.kw_verify(from_provider => 'b');
SELECT count(*) FROM kms_wrap.kw_verify(older_than => '1 day');
SELECT count(*) FROM kms_wrap.kw_verify(wrapper => (SELECT wrapper_uuid::uuid FROM kms_wrap.key_wrappers WHERE id = 1000));
-- What doesn't exist.
SELECT * FROM kms_wrap.kw_verify(policy => 'nope');
SELECT * FROM kms_wrap.kw_verify(from_key => 1);
SELECT * FROM kms_wrap.kw_verify(from_provider => 'nope');
SELECT * FROM kms_wrap.kw_verify(wrapper => '00000000-0000-7000-8000-000000000000');
\echo :LAST_ERROR_SQLSTATE

-- An outage is reported with the provider; a disabled key with the key.
\setenv KEYDIR :keydir
\setenv TESTNAME :testname
\! mv "$KEYDIR/$TESTNAME-b" "$KEYDIR/$TESTNAME-b.away"
SELECT ok, sqlstate, message, count(*) FROM kms_wrap.kw_verify(policy => 'redundant') GROUP BY 1, 2, 3 ORDER BY 1, 2;
\! mv "$KEYDIR/$TESTNAME-b.away" "$KEYDIR/$TESTNAME-b"
SELECT kms_wrap.kw_set_key_status(:b2, 'disabled') \g /dev/null
SELECT ok, sqlstate, message, count(*) FROM kms_wrap.kw_verify(policy => 'redundant') GROUP BY 1, 2, 3 ORDER BY 1, 2;
