-- Wrappers and values under OpenBao and a token. psql variables: bao, hsm (configurations), move, cold and crowd (how many).
SELECT kms_wrap.kw_add_provider('bao', 'openbao', :'bao');
SELECT kms_wrap.kw_add_provider('hsm', 'pkcs11', :'hsm');
SELECT kms_wrap.kw_add_kms_key('bao', 'app', 'AES-256-GCM') AS app \gset
SELECT kms_wrap.kw_add_kms_key('bao', 'app2', 'AES-256-GCM') AS app2 \gset
SELECT kms_wrap.kw_add_kms_key('hsm', 'app', 'AES-256-GCM') AS hsm \gset

CREATE TABLE bench.moved AS SELECT kms_wrap.kw_wrap_dek() AS wrapper FROM generate_series(1, :move);
CREATE TABLE bench.cold AS SELECT wrapper FROM bench.moved ORDER BY random() LIMIT :cold;
SELECT kms_wrap.kw_policy_add_key('default', 'kms1', :app, -2), kms_wrap.kw_policy_add_key('default', 'kms1', :app2, -3),
    kms_wrap.kw_policy_add_key('default', 'kms2', :hsm, -2);

-- A DEK a context.
SELECT kms_wrap.kw_create_policy('crowd', 'split');
SELECT kms_wrap.kw_policy_add_key('crowd', slot, key) FROM (
    VALUES ('kms1', :app), ('kms2', :hsm)
    UNION ALL SELECT 'layer', kms_key_id FROM kms_wrap.policy_kms_keys WHERE slot = 'layer'
) k (slot, key);
UPDATE kms_wrap.encryption_policies SET dek_scope = '{tenant}' WHERE policy_name = 'crowd';
CREATE TABLE bench.crowd AS
SELECT context, kms_wrap.kw_encrypt(n::text::bytea, 'crowd', context) AS b
FROM generate_series(1, :crowd) n, jsonb_build_object('tenant', n::text) context;
VACUUM (ANALYZE) bench.moved, bench.cold, bench.crowd;
