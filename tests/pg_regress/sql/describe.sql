-- kw_describe_wrapper: one wrapper on a screen.
\pset footer off
\pset null '-'
\pset format unaligned
\pset fieldsep ': '
\pset tuples_only
SELECT kms_wrap.kw_create_root_key(:'testname' || '-a') AS root_a, kms_wrap.kw_create_root_key(:'testname' || '-b') AS root_b \gset
SELECT kms_wrap.kw_add_provider('a', 'local', jsonb_build_object('root_key', :'testname' || '-a')) AS a,
    kms_wrap.kw_add_provider('b', 'local', jsonb_build_object('root_key', :'testname' || '-b')) AS b \gset
SELECT kms_wrap.kw_create_local_key('a', 'a1', 'XAES-256-GCM') AS a1, kms_wrap.kw_create_local_key('a', 'a2', 'XAES-256-GCM') AS a2,
    kms_wrap.kw_create_local_key('b', 'b1', 'XAES-256-GCM') AS b1,
    kms_wrap.kw_create_local_key('a', 'm1', 'ML-KEM-768') AS m1, kms_wrap.kw_create_local_key('b', 'x1', 'X-Wing') AS x1 \gset
SELECT kms_wrap.kw_create_policy('split', 'split', min_layers => 2), kms_wrap.kw_create_policy('redundant', 'redundant', max_layers => 1),
    kms_wrap.kw_create_policy('bare', 'redundant', min_layers => 0, allow_same_trust_domain => true) \g /dev/null
SELECT kms_wrap.kw_policy_add_key(p, 'kms1', :a1), kms_wrap.kw_policy_add_key(p, 'kms2', :b1), kms_wrap.kw_policy_add_key(p, 'layer', :m1, 1),
    kms_wrap.kw_policy_add_key(p, 'layer', :x1) FROM unnest('{split,redundant}'::text[]) p \g /dev/null
SELECT kms_wrap.kw_policy_add_key('bare', 'kms1', :a1), kms_wrap.kw_policy_add_key('bare', 'kms2', :a2) \g /dev/null

-- With what differs from run to run replaced.
CREATE FUNCTION described(w uuid) RETURNS TABLE (item text, value text) LANGUAGE sql AS $$
    SELECT item, regexp_replace(regexp_replace(regexp_replace(regexp_replace(value, '[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}', '<uuid>'),
        '\y[0-9a-f]{64}\y', '<sha256>'), '\y[0-9a-f]{32}\y', '<fingerprint>', 'g'), 'public key [0-9a-f]{16}', 'public key <sha256>')
    FROM kms_wrap.kw_describe_wrapper(w)
$$;
SELECT kms_wrap.kw_wrap_dek('split', context => '{"tenant": "7"}') AS split, kms_wrap.kw_wrap_dek('redundant') AS redundant, kms_wrap.kw_wrap_dek('bare') AS bare \gset
SELECT * FROM described(:'split');
SELECT * FROM described(:'redundant');
SELECT * FROM described(:'bare');

-- The DEK's fingerprint is the row's.
SELECT d.value = '32 bytes, fingerprint ' || encode(w.dek_fingerprint, 'hex') FROM kms_wrap.key_wrappers w, kms_wrap.kw_describe_wrapper(:'split') d
WHERE w.wrapper_uuid = :'split' AND d.item = 'DEK';

-- It opens nothing, so it works without root keys and whatever the status.
\setenv KEYDIR :keydir
\setenv TESTNAME :testname
\! mv "$KEYDIR/$TESTNAME-a" "$KEYDIR/$TESTNAME-a.away"
UPDATE kms_wrap.key_wrappers SET status = 'rotated' WHERE wrapper_uuid = :'split';
SELECT * FROM described(:'split') WHERE item = 'status';
UPDATE kms_wrap.key_wrappers SET status = 'retired' WHERE wrapper_uuid = :'split';
SELECT * FROM described(:'split') WHERE item = 'status';
UPDATE kms_wrap.key_wrappers SET status = 'invalid' WHERE wrapper_uuid = :'split';
SELECT * FROM described(:'split') WHERE item = 'status';
\! mv "$KEYDIR/$TESTNAME-a.away" "$KEYDIR/$TESTNAME-a"

-- After a rewrap each slot says when it was written.
SELECT kms_wrap.kw_create_local_key('b', 'b2', 'XAES-256-GCM') AS b2 \gset
SELECT kms_wrap.kw_policy_add_key('redundant', 'kms2', :b2) \g /dev/null
SELECT kms_wrap.kw_rewrap(:'redundant', target_kms2 => :b2) \g /dev/null
SELECT * FROM described(:'redundant') WHERE item IN ('kms1', 'kms2', 'layer1', 'written');

-- A compromised key, and a policy that has become stricter.
SELECT kms_wrap.kw_set_key_status(:b2, 'compromised') \g /dev/null
UPDATE kms_wrap.encryption_policies SET min_nist_level = 5 WHERE policy_name = 'redundant';
SELECT * FROM described(:'redundant') WHERE item IN ('kms2', 'policy', 'action', 'post-quantum');

-- No such wrapper, none at all, and bytes that are none.
\set VERBOSITY terse
SELECT * FROM kms_wrap.kw_describe_wrapper('00000000-0000-7000-8000-000000000000');
\echo :LAST_ERROR_SQLSTATE
SELECT * FROM kms_wrap.kw_describe_wrapper(NULL);
\echo :LAST_ERROR_SQLSTATE
UPDATE kms_wrap.key_wrappers SET dek_wrap1 = 'no container' WHERE wrapper_uuid = :'bare';
SELECT * FROM kms_wrap.kw_describe_wrapper(:'bare');
\echo :LAST_ERROR_SQLSTATE
