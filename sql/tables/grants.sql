-- Who may use which policy, and how other backends hear of a change.

CREATE TABLE kms_wrap.policy_grants (
    policy_id  bigint         NOT NULL,
    -- A name and not an oid, which would restore as somebody else's.
    role_name  name           NOT NULL,
    privilege  text           NOT NULL,
    created_at timestamptz(6) NOT NULL DEFAULT CURRENT_TIMESTAMP(6),
    CONSTRAINT policy_grants_pkey PRIMARY KEY (policy_id, privilege, role_name),
    CONSTRAINT fk_policy_grants_policy FOREIGN KEY (policy_id)
        REFERENCES kms_wrap.encryption_policies (id) ON DELETE CASCADE,
    CONSTRAINT chk_policy_grants_privilege CHECK (privilege IN ('encrypt', 'decrypt', 'unwrap', 'import', 'index', 'manage'))
);

-- Never has a row. A relcache invalidation of it tells every backend that rights or keys have changed; a table of its own, so
-- that autovacuum of the others says nothing.
CREATE TABLE kms_wrap.revocation ();
