-- COMMIT is refused in a procedure with a SET clause or another's rights, so kw_run_jobs has neither and asks the tables through this.
CREATE FUNCTION kms_wrap.kw_jobs_wait() RETURNS double precision
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $function$
DECLARE
    moment timestamptz := clock_timestamp();
BEGIN
    -- A rate limit spaces claims by less than the time a batch takes at that rate; whatever is further off than five minutes was
    -- put there by hand. EXISTS, not min(): the first due job answers, however many there are.
    RETURN (
        SELECT min(greatest(EXTRACT(epoch FROM greatest(c.next_claim_at, c.scheduled_at) - moment), 0))
        FROM kms_wrap.rewrap_campaigns c
        WHERE c.status = 'running'
            AND c.scheduled_at <= moment + interval '5 s'
            AND c.next_claim_at <= moment + interval '5 min'
            AND CASE
                    WHEN c.window_start IS NULL THEN true
                    WHEN c.window_start < c.window_end THEN moment::time >= c.window_start AND moment::time < c.window_end
                    ELSE moment::time >= c.window_start OR moment::time < c.window_end
                END
            -- A limited campaign has its last claim's time to wait before it can be ended.
            AND (c.rate_per_second IS NOT NULL AND NOT EXISTS (
                SELECT FROM kms_wrap.rewrap_jobs j WHERE j.campaign_id = c.id AND j.status IN ('pending', 'running'))
            OR EXISTS (
                SELECT FROM kms_wrap.rewrap_jobs j
                WHERE j.campaign_id = c.id AND j.status = 'pending' AND j.next_attempt_at <= moment + interval '5 s')
            -- Jobs that lead to a suspended provider wait for the suspension's end.
            AND NOT EXISTS (
                SELECT FROM kms_wrap.kms_keys k JOIN kms_wrap.kms_providers p ON p.id = k.provider_id
                WHERE p.suspended_until > moment AND (k.id IN (c.target_kms1_key_id, c.target_kms2_key_id)
                    OR k.id::text IN (SELECT t.value FROM jsonb_each_text(c.target_layers) t))))
    );
END
$function$;

-- It runs with its caller's search_path, where another schema may hold an operator that fits better: hence every operator by its full name.
CREATE PROCEDURE kms_wrap.kw_run_jobs(max_batches integer DEFAULT NULL, batch_size integer DEFAULT 450)
LANGUAGE plpgsql AS $procedure$
DECLARE
    batches pg_catalog.int4 := 0;
    claimed pg_catalog.int4;
    wait pg_catalog.float8;
    idle_until pg_catalog.timestamptz;
BEGIN
    IF batch_size IS NULL THEN
        RAISE EXCEPTION 'argument "batch_size" must not be null' USING ERRCODE = '22004';
    ELSIF batch_size OPERATOR(pg_catalog.<) 1 OR batch_size OPERATOR(pg_catalog.>) 10000 THEN
        RAISE EXCEPTION 'invalid value for argument "batch_size"' USING ERRCODE = '22023', DETAIL = 'It must be 1 to 10000.';
    ELSIF max_batches OPERATOR(pg_catalog.<) 1 THEN
        RAISE EXCEPTION 'invalid value for argument "max_batches"'
            USING ERRCODE = '22023', DETAIL = 'It must be at least 1, or NULL for no limit.';
    END IF;
    WHILE max_batches IS NULL OR batches OPERATOR(pg_catalog.<) max_batches LOOP
        claimed := kms_wrap.kw_jobs_claim(batch_size);
        -- Gives the row locks back before a provider is called; the lease keeps others off.
        COMMIT;
        IF claimed OPERATOR(pg_catalog.>) 0 THEN
            idle_until := NULL;
            batches := batches OPERATOR(pg_catalog.+) 1;
            PERFORM kms_wrap.kw_jobs_work();
            COMMIT;
        ELSE
            wait := kms_wrap.kw_jobs_wait();
            EXIT WHEN wait IS NULL;
            -- Jobs that are due but can't be had are another session's. It may also move the moment on and on; hence the bound.
            idle_until := COALESCE(idle_until, pg_catalog.clock_timestamp() OPERATOR(pg_catalog.+)
                pg_catalog.make_interval(secs => wait OPERATOR(pg_catalog.+) 15::pg_catalog.float8));
            EXIT WHEN pg_catalog.clock_timestamp() OPERATOR(pg_catalog.>) idle_until;
            PERFORM pg_catalog.pg_sleep(LEAST(GREATEST(wait, 0.1::pg_catalog.float8), 1::pg_catalog.float8));
            COMMIT;
        END IF;
    END LOOP;
END
$procedure$;
