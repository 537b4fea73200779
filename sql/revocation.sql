-- Tells every backend that rights or keys have changed. Row triggers, because only those fire for rows that logical replication
-- applies; ENABLE ALWAYS for the same reason. A rewrap keeps the DEK and tells nobody.

CREATE FUNCTION kms_wrap.kw_revoked() RETURNS trigger
LANGUAGE c AS 'MODULE_PATHNAME', 'kw_revoked';

COMMENT ON FUNCTION kms_wrap.kw_revoked IS 'Makes every session look again at rights and keys, at the end of this transaction. Fired by changes of the tables that decide.';

DO $do$
DECLARE
    decider record;
BEGIN
    FOR decider IN
        SELECT * FROM (VALUES
            ('provider_config', 'UPDATE OR DELETE', 'true'),
            ('kms_providers', 'UPDATE OR DELETE', 'true'),
            ('kms_keys', 'UPDATE OR DELETE', 'true'),
            ('sym_key', 'UPDATE OR DELETE', 'true'),
            ('asym_key', 'UPDATE OR DELETE', 'true'),
            ('encryption_policies', 'UPDATE OR DELETE', 'true'),
            ('policy_kms_keys', 'INSERT OR UPDATE OR DELETE', 'true'),
            ('policy_algorithms', 'INSERT OR UPDATE OR DELETE', 'true'),
            ('policy_grants', 'INSERT OR UPDATE OR DELETE', 'true'),
            ('key_wrappers', 'DELETE', 'true'),
            ('key_wrappers', 'UPDATE', 'OLD.status IS DISTINCT FROM NEW.status'),
            ('protected_columns', 'DELETE', 'true'),
            ('protected_columns', 'UPDATE',
             '(OLD.status, OLD.policy_id, OLD.index_generation, OLD.index_old_generation) IS DISTINCT FROM '
             '(NEW.status, NEW.policy_id, NEW.index_generation, NEW.index_old_generation)')
        ) v (name, events, condition)
    LOOP
        EXECUTE pg_catalog.format('CREATE TRIGGER %I AFTER %s ON kms_wrap.%I FOR EACH ROW WHEN (%s) EXECUTE FUNCTION kms_wrap.kw_revoked()',
            CASE decider.condition WHEN 'true' THEN 'kw_revoke' ELSE 'kw_revoke_update' END, decider.events, decider.name, decider.condition);
        EXECUTE pg_catalog.format('ALTER TABLE kms_wrap.%I ENABLE ALWAYS TRIGGER %I',
            decider.name, CASE decider.condition WHEN 'true' THEN 'kw_revoke' ELSE 'kw_revoke_update' END);
        IF decider.condition = 'true' THEN
            EXECUTE pg_catalog.format('CREATE TRIGGER kw_revoke_all AFTER TRUNCATE ON kms_wrap.%I FOR EACH STATEMENT EXECUTE FUNCTION kms_wrap.kw_revoked()', decider.name);
            EXECUTE pg_catalog.format('ALTER TABLE kms_wrap.%I ENABLE ALWAYS TRIGGER kw_revoke_all', decider.name);
        END IF;
    END LOOP;
END
$do$;
