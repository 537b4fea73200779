-- CREATE EXTENSION uses a schema of this name that is already there. Whoever owns it, or may create in it, could plant
-- overloads that callers resolve to instead of ours. A superuser's schema is accepted: a restored dump creates the schema
-- under its old owner first, and any superuser may run the restore.
DO $guard$
BEGIN
    IF EXISTS (
        SELECT FROM pg_catalog.pg_namespace n
        JOIN pg_catalog.pg_roles o ON o.oid = n.nspowner
        WHERE n.nspname = 'kms_wrap' AND o.rolname <> current_user AND NOT o.rolsuper
    ) THEN
        RAISE EXCEPTION 'schema "kms_wrap" is owned by another role'
            USING ERRCODE = '42501', HINT = 'Drop or rename that schema; CREATE EXTENSION makes its own.';
    END IF;
    IF EXISTS (
        SELECT FROM pg_catalog.pg_namespace n
        CROSS JOIN LATERAL pg_catalog.aclexplode(n.nspacl) a
        WHERE n.nspname = 'kms_wrap' AND a.privilege_type = 'CREATE' AND a.grantee <> n.nspowner
    ) THEN
        RAISE EXCEPTION 'other roles may create objects in schema "kms_wrap"'
            USING ERRCODE = '42501', HINT = 'Revoke CREATE on the schema from every role but its owner.';
    END IF;
END
$guard$;

-- CHECK constraints and column defaults name our objects, so whoever may write a table must be able to look into the schema.
GRANT USAGE ON SCHEMA kms_wrap TO PUBLIC;
