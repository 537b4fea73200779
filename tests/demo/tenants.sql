-- The demo's application: tenants, the wrapper of each one's DEK, and what the DEK was when it was made.
CREATE TABLE tenants (
    n               integer PRIMARY KEY,
    name            text NOT NULL UNIQUE,
    context         jsonb NOT NULL,
    wrapper         uuid NOT NULL UNIQUE,
    dek_sha256      bytea,
    dek_fingerprint bytea
);

-- In transactions of 250, only so that the demo can watch it; one statement for all is quicker.
CREATE PROCEDURE wrap_tenants(tenants integer) LANGUAGE plpgsql AS $$
BEGIN
    FOR done IN 0 .. tenants - 1 BY 250 LOOP
        INSERT INTO tenants (n, name, context, wrapper)
        SELECT n, 'tenant-' || n, c, kms_wrap.kw_wrap_dek(context => c)
        FROM generate_series(done + 1, least(done + 250, tenants)) n, jsonb_build_object('tenant', 'tenant-' || n) c;
        COMMIT;
    END LOOP;
END
$$;

CREATE PROCEDURE remember_deks(tenants integer) LANGUAGE plpgsql AS $$
BEGIN
    FOR done IN 0 .. tenants - 1 BY 250 LOOP
        UPDATE tenants t
        SET dek_sha256 = sha256(kms_wrap.kw_unwrap(t.wrapper, t.context)), dek_fingerprint = w.dek_fingerprint
        FROM kms_wrap.key_wrappers w
        WHERE w.wrapper_uuid = t.wrapper::text AND t.n BETWEEN done + 1 AND done + 250;
        COMMIT;
    END LOOP;
END
$$;
