-- Guards. Nothing here fires on INSERT, so that a dump's rows load unchanged and in any order. All run as the caller, who
-- without rights on the tables asked fails closed, and stay off under session_replication_role = replica.

-- Planned for each key: a generic plan expects to meet the key soon, and reads everything for a key that is in no row at all.
CREATE FUNCTION kms_wrap.kw_key_in_use(key bigint, live_only boolean) RETURNS boolean
LANGUAGE plpgsql STABLE STRICT SET search_path = pg_catalog, pg_temp SET plan_cache_mode = force_custom_plan AS $function$
BEGIN
    -- A snapshot from before the lock doesn't show the wrapper that the lock waited for.
    IF current_setting('transaction_isolation') NOT IN ('read committed', 'read uncommitted') THEN
        RAISE EXCEPTION 'whether kms key % is in use can only be seen in a read committed transaction', key
            USING ERRCODE = '55000', HINT = 'Begin with START TRANSACTION ISOLATION LEVEL READ COMMITTED.';
    END IF;
    RETURN EXISTS (
        SELECT FROM kms_wrap.key_wrappers w
        WHERE w.kms1_key_id = key AND (NOT live_only OR w.status IN ('active', 'rotated', 'retired'))
    ) OR EXISTS (
        SELECT FROM kms_wrap.key_wrappers w
        WHERE w.kms2_key_id = key AND (NOT live_only OR w.status IN ('active', 'rotated', 'retired'))
    ) OR EXISTS (
        SELECT FROM kms_wrap.key_wrapper_layers l
        JOIN kms_wrap.key_wrappers w ON w.id = l.key_wrapper_id
        WHERE l.kms_key_id = key AND (NOT live_only OR w.status IN ('active', 'rotated', 'retired'))
    );
END
$function$;

CREATE FUNCTION kms_wrap.kw_guard_key_update() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $function$
DECLARE
    allowed text[];
BEGIN
    IF (OLD.provider_id, OLD.external_key_ref, OLD.algorithm, OLD.key_version, OLD.public_key, OLD.public_key_sha256)
        IS DISTINCT FROM
       (NEW.provider_id, NEW.external_key_ref, NEW.algorithm, NEW.key_version, NEW.public_key, NEW.public_key_sha256)
    THEN
        -- An uncommitted wrapper holds FOR KEY SHARE on its keys: wait for it, then look. Of a new version it makes sure that whoever
        -- sets it sees all wrappers of the old one afterwards: those that come find it when they lock the key.
        PERFORM 1 FROM kms_wrap.kms_keys k WHERE k.id = OLD.id FOR UPDATE;
        -- What was wrapped opens by the version that its own bytes name, so another one may be set for what comes. A key with a public
        -- key is wrapped to by that key: another version of it is another key. And a kind that pins no version gets none.
        IF ((OLD.provider_id, OLD.external_key_ref, OLD.algorithm, OLD.public_key, OLD.public_key_sha256)
            IS DISTINCT FROM
            (NEW.provider_id, NEW.external_key_ref, NEW.algorithm, NEW.public_key, NEW.public_key_sha256)
            OR OLD.public_key IS NOT NULL OR OLD.key_version IS NULL OR NEW.key_version IS NULL)
            AND kms_wrap.kw_key_in_use(OLD.id, false)
        THEN
            RAISE EXCEPTION 'kms key % is used by wrappers and cannot be altered', OLD.id
                USING ERRCODE = '55000',
                      HINT = 'Add the altered key with kms_wrap.kw_add_kms_key() and rewrap to it with kms_wrap.kw_schedule_rewrap().';
        END IF;
    END IF;

    IF OLD.status <> NEW.status THEN
        allowed := CASE OLD.status
            WHEN 'active' THEN ARRAY['retired', 'disabled', 'compromised', 'destroyed']
            WHEN 'retired' THEN ARRAY['active', 'disabled', 'compromised', 'destroyed']
            WHEN 'disabled' THEN ARRAY['active', 'retired', 'compromised', 'destroyed']
            WHEN 'compromised' THEN ARRAY['disabled', 'destroyed']
            ELSE ARRAY[]::text[]
        END;
        IF NEW.status <> ALL (allowed) THEN
            RAISE EXCEPTION 'kms key % cannot change from "%" to "%"', OLD.id, OLD.status, NEW.status
                USING ERRCODE = '55000',
                      HINT = CASE OLD.status
                          WHEN 'destroyed' THEN 'A destroyed key stays so. Add a new one with kms_wrap.kw_add_kms_key().'
                          ELSE format('From "%s", kms_wrap.kw_set_key_status() takes: %s.',
                                      OLD.status, array_to_string(allowed, ', '))
                      END;
        END IF;
        IF NEW.status = 'destroyed' THEN
            PERFORM 1 FROM kms_wrap.kms_keys k WHERE k.id = OLD.id FOR UPDATE;
            IF kms_wrap.kw_key_in_use(OLD.id, true) THEN
                RAISE EXCEPTION 'kms key % is needed by live wrappers', OLD.id
                    USING ERRCODE = '55000',
                          HINT = format('Rewrap them to another key first with kms_wrap.kw_schedule_rewrap(from_key => %s, ...) and a target key (retired wrappers set back to rotated); '
                                        'kms_wrap.vw_kms_key_dependents counts them.', OLD.id);
            END IF;
        END IF;
        NEW.status_changed_at := CURRENT_TIMESTAMP(6);
    END IF;
    RETURN NEW;
END
$function$;

CREATE TRIGGER kw_guard_update BEFORE UPDATE ON kms_wrap.kms_keys
    FOR EACH ROW EXECUTE FUNCTION kms_wrap.kw_guard_key_update();

-- The layer's reference becomes NULL when its key is deleted, by the seed's rule; so the key is what has to be guarded.
CREATE FUNCTION kms_wrap.kw_guard_key_delete() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $function$
DECLARE
    campaign bigint;
BEGIN
    IF kms_wrap.kw_key_in_use(OLD.id, true) THEN
        RAISE EXCEPTION 'kms key % is needed by live wrappers', OLD.id
            USING ERRCODE = '55000',
                  HINT = format('Rewrap them to another key first with kms_wrap.kw_schedule_rewrap(from_key => %s, ...) and a target key (retired wrappers set back to rotated); '
                                'kms_wrap.vw_kms_key_dependents counts them.', OLD.id);
    END IF;

    -- A selector or a target that turns NULL would make the campaign mean something else.
    SELECT c.id INTO campaign
    FROM kms_wrap.rewrap_campaigns c
    WHERE c.status IN ('running', 'paused')
        AND (OLD.id IN (c.from_key_id, c.target_kms1_key_id, c.target_kms2_key_id)
             OR EXISTS (SELECT FROM jsonb_each_text(c.target_layers) t WHERE t.value = OLD.id::text))
    LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION 'kms key % is named by open campaign %', OLD.id, campaign
            USING ERRCODE = '55000', HINT = format('Let it end, or stop it with kms_wrap.kw_cancel(%s).', campaign);
    END IF;
    -- A cancelled campaign's last batch may still be at work.
    IF EXISTS (
        SELECT FROM kms_wrap.rewrap_jobs j
        WHERE j.status = 'running'
            AND (OLD.id IN (j.target_kms1_key_id, j.target_kms2_key_id)
                 OR EXISTS (SELECT FROM jsonb_each_text(j.target_layers) t WHERE t.value = OLD.id::text))
    ) THEN
        RAISE EXCEPTION 'kms key % is the target of a running rewrap job', OLD.id
            USING ERRCODE = '55000', HINT = 'Let the job end; kms_wrap.vw_rewrap_jobs shows it.';
    END IF;

    -- Keeps the name of what is deleted. The reference goes here and not by the foreign key's own action: a row that this
    -- transaction has written is checked for all its references again, and one of them may be half deleted by then.
    UPDATE kms_wrap.kms_health_checks h SET key_ref = COALESCE(h.key_ref, OLD.external_key_ref), kms_key_id = NULL
    WHERE h.kms_key_id = OLD.id;
    RETURN OLD;
END
$function$;

CREATE TRIGGER kw_guard_delete BEFORE DELETE ON kms_wrap.kms_keys
    FOR EACH ROW EXECUTE FUNCTION kms_wrap.kw_guard_key_delete();

CREATE FUNCTION kms_wrap.kw_guard_provider_update() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $function$
BEGIN
    -- As for a key: wait for wrappers that are just being written.
    PERFORM 1 FROM kms_wrap.kms_keys k WHERE k.provider_id = OLD.id ORDER BY k.id FOR UPDATE;
    IF EXISTS (SELECT FROM kms_wrap.kms_keys k WHERE k.provider_id = OLD.id AND kms_wrap.kw_key_in_use(k.id, false)) THEN
        RAISE EXCEPTION 'kms provider "%" is used by wrappers: kind, location and project_tenant cannot change', OLD.name
            USING ERRCODE = '55000',
                  HINT = 'Add the provider under its new place with kms_wrap.kw_add_provider() and rewrap to its keys with '
                         'kms_wrap.kw_schedule_rewrap().';
    END IF;
    RETURN NEW;
END
$function$;

CREATE TRIGGER kw_guard_update BEFORE UPDATE ON kms_wrap.kms_providers
    FOR EACH ROW WHEN ((OLD.provider, OLD.location, OLD.project_tenant)
                       IS DISTINCT FROM (NEW.provider, NEW.location, NEW.project_tenant))
    EXECUTE FUNCTION kms_wrap.kw_guard_provider_update();

CREATE FUNCTION kms_wrap.kw_guard_provider_delete() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $function$
DECLARE
    campaign bigint;
BEGIN
    SELECT c.id INTO campaign FROM kms_wrap.rewrap_campaigns c
    WHERE c.status IN ('running', 'paused') AND c.from_provider_id = OLD.id LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION 'kms provider "%" is named by open campaign %', OLD.name, campaign
            USING ERRCODE = '55000', HINT = format('Let it end, or stop it with kms_wrap.kw_cancel(%s).', campaign);
    END IF;
    -- The keys' references too, before the cascade.
    UPDATE kms_wrap.kms_health_checks h SET provider_name = COALESCE(h.provider_name, OLD.name), provider_id = NULL
    WHERE h.provider_id = OLD.id;
    UPDATE kms_wrap.kms_health_checks h SET key_ref = COALESCE(h.key_ref, k.external_key_ref), kms_key_id = NULL
    FROM kms_wrap.kms_keys k
    WHERE k.provider_id = OLD.id AND h.kms_key_id = k.id;
    RETURN OLD;
END
$function$;

CREATE TRIGGER kw_guard_delete BEFORE DELETE ON kms_wrap.kms_providers
    FOR EACH ROW EXECUTE FUNCTION kms_wrap.kw_guard_provider_delete();

-- Sealing again in place is what a root key's rotation does, so only the row and its name are guarded, not its bytes.
CREATE FUNCTION kms_wrap.kw_guard_stored_key() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $function$
DECLARE
    needed bigint[];
    key bigint;
BEGIN
    -- In id order and locked, for the same reason as above.
    SELECT array_agg(k.id) INTO needed FROM (
        SELECT k.id
        FROM kms_wrap.kms_keys k
        JOIN kms_wrap.kms_providers p ON p.id = k.provider_id
        WHERE p.provider = 'local' AND p.provider_config_id = OLD.provider_config_id AND k.external_key_ref = OLD.key_id
        ORDER BY k.id FOR UPDATE OF k
    ) k;
    FOREACH key IN ARRAY COALESCE(needed, '{}') LOOP
        IF kms_wrap.kw_key_in_use(key, true) THEN
            RAISE EXCEPTION 'stored key "%" is needed by live wrappers', OLD.key_id
                USING ERRCODE = '55000',
                      HINT = format('Rewrap them to another key first with kms_wrap.kw_schedule_rewrap(from_key => %s, ...) and a target key (retired wrappers set back to rotated); '
                                    'kms_wrap.vw_kms_key_dependents counts them.', key);
        END IF;
    END LOOP;
    RETURN CASE TG_OP WHEN 'DELETE' THEN OLD ELSE NEW END;
END
$function$;

CREATE TRIGGER kw_guard_delete BEFORE DELETE ON kms_wrap.sym_key
    FOR EACH ROW EXECUTE FUNCTION kms_wrap.kw_guard_stored_key();
CREATE TRIGGER kw_guard_update BEFORE UPDATE ON kms_wrap.sym_key
    FOR EACH ROW WHEN ((OLD.key_id, OLD.provider_config_id) IS DISTINCT FROM (NEW.key_id, NEW.provider_config_id))
    EXECUTE FUNCTION kms_wrap.kw_guard_stored_key();
CREATE TRIGGER kw_guard_delete BEFORE DELETE ON kms_wrap.asym_key
    FOR EACH ROW EXECUTE FUNCTION kms_wrap.kw_guard_stored_key();
CREATE TRIGGER kw_guard_update BEFORE UPDATE ON kms_wrap.asym_key
    FOR EACH ROW WHEN ((OLD.key_id, OLD.provider_config_id) IS DISTINCT FROM (NEW.key_id, NEW.provider_config_id))
    EXECUTE FUNCTION kms_wrap.kw_guard_stored_key();

CREATE FUNCTION kms_wrap.kw_guard_policy() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $function$
DECLARE
    campaign bigint;
BEGIN
    IF TG_OP = 'UPDATE' THEN
        RAISE EXCEPTION 'the uuid of policy "%" cannot change', OLD.policy_name
            USING ERRCODE = '55000',
                  HINT = 'It is sealed into every wrapper. Make another policy with kms_wrap.kw_create_policy().';
    END IF;
    SELECT c.id INTO campaign FROM kms_wrap.rewrap_campaigns c
    WHERE c.status IN ('running', 'paused') AND c.policy_id = OLD.id LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION 'policy "%" is named by open campaign %', OLD.policy_name, campaign
            USING ERRCODE = '55000', HINT = format('Let it end, or stop it with kms_wrap.kw_cancel(%s).', campaign);
    END IF;
    RETURN OLD;
END
$function$;

-- Which pairs chose a DEK isn't in the bytes: values would be looked for under another scope.
CREATE FUNCTION kms_wrap.kw_guard_scope() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $function$
BEGIN
    IF current_setting('transaction_isolation') NOT IN ('read committed', 'read uncommitted') THEN
        RAISE EXCEPTION 'whether policy "%" has encrypted values can only be seen in a read committed transaction', OLD.policy_name
            USING ERRCODE = '55000', HINT = 'Begin with START TRANSACTION ISOLATION LEVEL READ COMMITTED.';
    END IF;
    -- An uncommitted wrapper holds FOR KEY SHARE on its policy: wait for it, then look.
    PERFORM 1 FROM kms_wrap.encryption_policies p WHERE p.id = OLD.id FOR UPDATE;
    IF EXISTS (SELECT FROM kms_wrap.key_wrappers w WHERE w.policy_id = OLD.id AND w.purpose = 'values') THEN
        RAISE EXCEPTION 'dek_scope of policy "%" cannot change: it has encrypted values', OLD.policy_name
            USING ERRCODE = '55000', HINT = 'Make another policy with kms_wrap.kw_create_policy().';
    END IF;
    RETURN NEW;
END
$function$;

CREATE TRIGGER kw_guard_scope BEFORE UPDATE ON kms_wrap.encryption_policies
    FOR EACH ROW WHEN (OLD.dek_scope IS DISTINCT FROM NEW.dek_scope) EXECUTE FUNCTION kms_wrap.kw_guard_scope();
CREATE TRIGGER kw_guard_update BEFORE UPDATE ON kms_wrap.encryption_policies
    FOR EACH ROW WHEN (OLD.policy_uuid IS DISTINCT FROM NEW.policy_uuid) EXECUTE FUNCTION kms_wrap.kw_guard_policy();
CREATE TRIGGER kw_guard_delete BEFORE DELETE ON kms_wrap.encryption_policies
    FOR EACH ROW EXECUTE FUNCTION kms_wrap.kw_guard_policy();

CREATE FUNCTION kms_wrap.kw_guard_wrapper() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $function$
DECLARE
    allowed text[];
BEGIN
    IF (OLD.wrapper_uuid, OLD.policy_id, OLD.purpose) IS DISTINCT FROM (NEW.wrapper_uuid, NEW.policy_id, NEW.purpose) THEN
        RAISE EXCEPTION 'uuid, policy and purpose of wrapper "%" cannot change', OLD.wrapper_uuid
            USING ERRCODE = '55000', HINT = 'Make another wrapper with kms_wrap.kw_wrap_dek().';
    END IF;
    IF OLD.status <> NEW.status THEN
        allowed := CASE OLD.status
            WHEN 'active' THEN ARRAY['rotated', 'invalid']
            WHEN 'rotated' THEN ARRAY['retired', 'invalid']
            WHEN 'retired' THEN ARRAY['rotated', 'invalid']
            ELSE ARRAY[]::text[]
        END;
        IF NEW.status <> ALL (allowed) THEN
            RAISE EXCEPTION 'wrapper "%" cannot change from "%" to "%"', OLD.wrapper_uuid, OLD.status, NEW.status
                USING ERRCODE = '55000',
                      HINT = CASE OLD.status
                          WHEN 'invalid' THEN 'An invalid wrapper stays so. Make another one with kms_wrap.kw_wrap_dek().'
                          ELSE format('From "%s" it becomes: %s. kms_wrap.kw_describe_wrapper() shows its state.',
                                      OLD.status, array_to_string(allowed, ', '))
                      END;
        END IF;
        IF OLD.status = 'active' AND NEW.status = 'rotated' THEN
            NEW.rotated_at := CURRENT_TIMESTAMP(6);
        END IF;
    END IF;
    RETURN NEW;
END
$function$;

-- A rewrap changes none of these columns, so a campaign over millions of rows runs no trigger code.
CREATE TRIGGER kw_guard_update BEFORE UPDATE ON kms_wrap.key_wrappers
    FOR EACH ROW WHEN (OLD.status IS DISTINCT FROM NEW.status OR OLD.policy_id IS DISTINCT FROM NEW.policy_id
                       OR OLD.wrapper_uuid IS DISTINCT FROM NEW.wrapper_uuid OR OLD.purpose IS DISTINCT FROM NEW.purpose)
    EXECUTE FUNCTION kms_wrap.kw_guard_wrapper();

CREATE FUNCTION kms_wrap.kw_guard_truncate() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $function$
BEGIN
    -- TRUNCATE ... CASCADE fires this for every table that it reaches, before any is emptied.
    IF EXISTS (SELECT FROM kms_wrap.key_wrappers w WHERE w.status IN ('active', 'rotated', 'retired')) THEN
        RAISE EXCEPTION 'cannot truncate "%" while live wrappers exist', TG_TABLE_NAME
            USING ERRCODE = '55000', HINT = 'kms_wrap.vw_kms_key_dependents counts them by key.';
    END IF;
    RETURN NULL;
END
$function$;

CREATE TRIGGER kw_guard_truncate BEFORE TRUNCATE ON kms_wrap.kms_providers
    FOR EACH STATEMENT EXECUTE FUNCTION kms_wrap.kw_guard_truncate();
CREATE TRIGGER kw_guard_truncate BEFORE TRUNCATE ON kms_wrap.kms_keys
    FOR EACH STATEMENT EXECUTE FUNCTION kms_wrap.kw_guard_truncate();
CREATE TRIGGER kw_guard_truncate BEFORE TRUNCATE ON kms_wrap.sym_key
    FOR EACH STATEMENT EXECUTE FUNCTION kms_wrap.kw_guard_truncate();
CREATE TRIGGER kw_guard_truncate BEFORE TRUNCATE ON kms_wrap.asym_key
    FOR EACH STATEMENT EXECUTE FUNCTION kms_wrap.kw_guard_truncate();

-- Shipped rows describe this build and are not dumped: an edit would be lost by the next restore.
CREATE FUNCTION kms_wrap.kw_guard_shipped() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $function$
BEGIN
    RAISE EXCEPTION 'rows of "%" that kms_wrap ships cannot change', TG_TABLE_NAME
        USING ERRCODE = '55000',
              HINT = 'Add a row of your own; an algorithm''s id is then 1000 or more. Remove all with DROP EXTENSION kms_wrap.';
END
$function$;

CREATE TRIGGER kw_guard_update BEFORE UPDATE ON kms_wrap.crypto_algorithms
    FOR EACH ROW WHEN (OLD.id < 1000 OR NEW.id < 1000) EXECUTE FUNCTION kms_wrap.kw_guard_shipped();
CREATE TRIGGER kw_guard_delete BEFORE DELETE ON kms_wrap.crypto_algorithms
    FOR EACH ROW WHEN (OLD.id < 1000) EXECUTE FUNCTION kms_wrap.kw_guard_shipped();
CREATE TRIGGER kw_guard_truncate BEFORE TRUNCATE ON kms_wrap.crypto_algorithms
    FOR EACH STATEMENT EXECUTE FUNCTION kms_wrap.kw_guard_shipped();
CREATE TRIGGER kw_guard_update BEFORE UPDATE ON kms_wrap.crypto_standard_aliases
    FOR EACH ROW WHEN (OLD.is_shipped OR NEW.is_shipped) EXECUTE FUNCTION kms_wrap.kw_guard_shipped();
CREATE TRIGGER kw_guard_delete BEFORE DELETE ON kms_wrap.crypto_standard_aliases
    FOR EACH ROW WHEN (OLD.is_shipped) EXECUTE FUNCTION kms_wrap.kw_guard_shipped();
CREATE TRIGGER kw_guard_truncate BEFORE TRUNCATE ON kms_wrap.crypto_standard_aliases
    FOR EACH STATEMENT EXECUTE FUNCTION kms_wrap.kw_guard_shipped();

CREATE FUNCTION kms_wrap.kw_touch_updated_at() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $function$
BEGIN
    NEW.updated_at := CURRENT_TIMESTAMP(6);
    RETURN NEW;
END
$function$;

CREATE TRIGGER kw_touch BEFORE UPDATE ON kms_wrap.provider_config
    FOR EACH ROW WHEN (OLD.* IS DISTINCT FROM NEW.*) EXECUTE FUNCTION kms_wrap.kw_touch_updated_at();
CREATE TRIGGER kw_touch BEFORE UPDATE ON kms_wrap.sym_key
    FOR EACH ROW WHEN (OLD.* IS DISTINCT FROM NEW.*) EXECUTE FUNCTION kms_wrap.kw_touch_updated_at();
CREATE TRIGGER kw_touch BEFORE UPDATE ON kms_wrap.asym_key
    FOR EACH ROW WHEN (OLD.* IS DISTINCT FROM NEW.*) EXECUTE FUNCTION kms_wrap.kw_touch_updated_at();
CREATE TRIGGER kw_touch BEFORE UPDATE ON kms_wrap.policy_kms_keys
    FOR EACH ROW WHEN (OLD.* IS DISTINCT FROM NEW.*) EXECUTE FUNCTION kms_wrap.kw_touch_updated_at();
