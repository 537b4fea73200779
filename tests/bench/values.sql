-- Rows and functions for the benchmarks on values. psql variables: n rows, tenants, floor (path of the library without its ending).
CREATE FUNCTION bench.floor_encrypt(bytea) RETURNS bytea LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE COST 100 AS :'floor', 'floor_encrypt';
CREATE FUNCTION bench.floor_decrypt(bytea) RETURNS bytea LANGUAGE c STABLE STRICT PARALLEL SAFE COST 100 AS :'floor', 'floor_decrypt';
CREATE FUNCTION bench.floor_seal() RETURNS trigger LANGUAGE c AS :'floor', 'floor_seal';

-- Values of 16 to 64 bytes, all different.
CREATE FUNCTION bench.value_of(n integer) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN substr(md5(n::text) || md5((-n)::text), 1, 16 + n * 31 % 49);
CREATE TABLE bench.plain AS
SELECT n AS id, bench.value_of(n) AS v, bench.value_of(n)::bytea AS b FROM generate_series(1, :n) n;
ALTER TABLE bench.plain ADD PRIMARY KEY (id);
CREATE TABLE bench.plain_few AS SELECT * FROM bench.plain ORDER BY id LIMIT :few;

CREATE TABLE bench.by_floor (id integer NOT NULL, b bytea);
CREATE TABLE bench.by_kms_wrap (id integer NOT NULL, b bytea);
CREATE TABLE bench.few (id integer NOT NULL, b bytea);
INSERT INTO bench.few SELECT id, kms_wrap.kw_encrypt(b) FROM bench.plain_few;

-- Each value in a transaction of its own, as applications write them: each has a nonce prefix of its own.
CREATE TABLE bench.written_alone (id integer NOT NULL, b bytea);
CREATE PROCEDURE bench.write_alone(n integer) LANGUAGE plpgsql AS $$
BEGIN
    FOR i IN 1 .. n LOOP
        INSERT INTO bench.written_alone SELECT id, kms_wrap.kw_encrypt(b) FROM bench.plain WHERE id = i;
        COMMIT;
    END LOOP;
END
$$;
SET synchronous_commit = off;
CALL bench.write_alone(:n_alone);
RESET synchronous_commit;

-- A DEK a tenant; rows of all tenants in no order.
SELECT kms_wrap.kw_create_policy('tenants', 'split');
SELECT kms_wrap.kw_policy_add_key('tenants', slot, kms_key_id) FROM kms_wrap.policy_kms_keys p
JOIN kms_wrap.encryption_policies e ON e.id = p.policy_id WHERE e.policy_name = 'default';
UPDATE kms_wrap.encryption_policies SET dek_scope = '{tenant}' WHERE policy_name = 'tenants';
CREATE TABLE bench.by_tenant AS
SELECT id, context, kms_wrap.kw_encrypt(b, 'tenants', context) AS b
FROM bench.plain, jsonb_build_object('tenant', ((hashint4(id) & 2147483647) % :tenants)::text) context;

-- The same rows with the same contexts under one DEK, to tell what the contexts cost.
CREATE TABLE bench.by_context AS SELECT id, context, kms_wrap.kw_encrypt(p.b, 'default', context) AS b 
FROM bench.by_tenant t JOIN bench.plain p USING (id) ORDER BY id;

VACUUM (ANALYZE) bench.by_tenant, bench.plain, bench.plain_few, bench.few, bench.written_alone, bench.by_context;
