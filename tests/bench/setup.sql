-- What the floors need: tables like the extension's, and the reads of one opening without the opening.
CREATE EXTENSION IF NOT EXISTS kms_wrap;
SELECT FROM kms_wrap.kw_quickstart();

-- The other key of slot kms1, so that campaigns can go to and fro. Lower priority: new wrappers stay with the first.
SELECT kms_wrap.kw_policy_add_key('default', 'kms1', kms_wrap.kw_create_local_key('local-a', 'local-a-kek-2', 'XAES-256-GCM'), -1);

CREATE SCHEMA bench;
CREATE SEQUENCE bench.generation_seq START WITH 1000000000;
CREATE TABLE bench.key_wrappers (LIKE kms_wrap.key_wrappers INCLUDING ALL);
CREATE TABLE bench.key_wrapper_layers (LIKE kms_wrap.key_wrapper_layers INCLUDING ALL);

-- LIKE copies defaults, checks, storage and indexes, but no foreign key.
DO $$
DECLARE
    fk record;
BEGIN
    FOR fk IN
        SELECT c.conname, r.relname, pg_get_constraintdef(c.oid) AS definition
        FROM pg_constraint c JOIN pg_class r ON r.oid = c.conrelid
        WHERE c.contype = 'f' AND c.conrelid IN ('kms_wrap.key_wrappers'::regclass, 'kms_wrap.key_wrapper_layers'::regclass)
    LOOP
        EXECUTE format('ALTER TABLE bench.%I ADD CONSTRAINT %I %s', fk.relname, fk.conname,
                       replace(fk.definition, 'kms_wrap.key_wrappers', 'bench.key_wrappers'));
    END LOOP;
END
$$;

CREATE TABLE bench.sample (round integer, wrapper_uuid text);

-- The three look-ups that opening one wrapper cannot do without, planned once. Returns how many keys were read.
CREATE FUNCTION bench.read_wrappers(sample_round integer) RETURNS bigint
LANGUAGE plpgsql SET plan_cache_mode = force_generic_plan AS $$
DECLARE
    uuids text[] := ARRAY(SELECT s.wrapper_uuid FROM bench.sample s WHERE s.round = sample_round);
    uuid text;
    wrapper record;
    layer record;
    key record;
    keys bigint[];
    n bigint := 0;
BEGIN
    FOREACH uuid IN ARRAY uuids LOOP
        SELECT w.id, w.wrapper_uuid::uuid, w.policy_id, p.policy_uuid, p.policy_name, w.kms1_key_id, w.kms2_key_id, w.dek_wrap1,
            w.dek_wrap2, w.crypto_suite, w.status, w.purpose, w.epoch, w.generation, w.dek_fingerprint
        INTO STRICT wrapper
        FROM kms_wrap.key_wrappers w JOIN kms_wrap.encryption_policies p ON p.id = w.policy_id
        WHERE w.wrapper_uuid = uuid::bpchar;
        keys := ARRAY[wrapper.kms1_key_id, wrapper.kms2_key_id];
        FOR layer IN
            SELECT l.layer_no, l.kms_key_id, a.name, l.kem_ciphertext, l.encap_pubkey, l.aad, l.meta
            FROM kms_wrap.key_wrapper_layers l JOIN kms_wrap.crypto_algorithms a ON a.id = l.kem_algo_id
            WHERE l.key_wrapper_id = wrapper.id ORDER BY l.layer_no
        LOOP
            keys := keys || layer.kms_key_id;
        END LOOP;
        FOR key IN
            SELECT k.*, p.*, c.config, s.key_value, a.private_key_ctx
            FROM kms_wrap.kms_keys k
            JOIN kms_wrap.kms_providers p ON p.id = k.provider_id
            LEFT JOIN kms_wrap.provider_config c ON c.id = p.provider_config_id
            LEFT JOIN kms_wrap.sym_key s ON s.key_id = k.external_key_ref AND s.provider_config_id = c.id
            LEFT JOIN kms_wrap.asym_key a ON a.key_id = k.external_key_ref AND a.provider_config_id = c.id
            WHERE k.id = ANY (keys)
        LOOP
            n := n + 1;
        END LOOP;
    END LOOP;
    RETURN n;
END
$$;
