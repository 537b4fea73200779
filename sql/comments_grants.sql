COMMENT ON TABLE kms_wrap.policy_grants IS 'Who may use the wrappers of a policy, and for what. Written by kw_grant() and kw_revoke(). Members of a role that inherit have its rights.';
COMMENT ON COLUMN kms_wrap.policy_grants.policy_id IS 'The policy.';
COMMENT ON COLUMN kms_wrap.policy_grants.role_name IS 'Name of the role. A name without a role grants nothing, and shows in kw_health().';
COMMENT ON COLUMN kms_wrap.policy_grants.privilege IS
    'encrypt: wrap new DEKs, encrypt values. decrypt: decrypt values. unwrap: have a DEK handed out. import: wrap a DEK of one''s own. index: compute blind index entries. manage: rewrap and rotate.';
COMMENT ON COLUMN kms_wrap.policy_grants.created_at IS 'When it was granted.';

COMMENT ON TABLE kms_wrap.revocation IS 'Never has a row. Its relcache invalidation tells every session that rights or keys have changed.';
