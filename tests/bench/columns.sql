-- Tables with a protected column, and their unprotected twins.
CREATE TABLE bench.text_plain (id integer PRIMARY KEY, v text);
CREATE TABLE bench.text_protected (LIKE bench.text_plain INCLUDING ALL);
CREATE TABLE bench.bytea_plain (id integer PRIMARY KEY, v bytea);
CREATE TABLE bench.bytea_protected (LIKE bench.bytea_plain INCLUDING ALL);
SELECT FROM kms_wrap.kw_protect_column('bench.text_protected', 'v');
SELECT FROM kms_wrap.kw_protect_column('bench.bytea_protected', 'v');

-- What no sealing trigger can do without: the longer row, a call, one AES-256-GCM, a CHECK.
CREATE TABLE bench.bytea_floor (id integer PRIMARY KEY, v bytea CHECK (octet_length(v) >= 60));
CREATE TRIGGER seal BEFORE INSERT ON bench.bytea_floor FOR EACH ROW EXECUTE FUNCTION bench.floor_seal();

-- Point queries: by an ordinary index on the plain value, and by the blind index on the protected one.
CREATE TABLE bench.people_plain (id integer PRIMARY KEY, v text);
CREATE TABLE bench.people (LIKE bench.people_plain INCLUDING ALL);
SELECT FROM kms_wrap.kw_protect_column('bench.people', 'v', blind_index => 'index');
INSERT INTO bench.people_plain SELECT id, v FROM bench.plain;
INSERT INTO bench.people SELECT id, v FROM bench.plain;
CREATE INDEX ON bench.people_plain (v);
VACUUM (ANALYZE) bench.people_plain, bench.people;

-- The same loop twice; returns how many rows were found.
CREATE FUNCTION bench.find_plain(keys text[]) RETURNS bigint
LANGUAGE plpgsql SET plan_cache_mode = force_generic_plan AS $$
DECLARE
    key text;
    found_id integer;
    n bigint := 0;
BEGIN
    FOREACH key IN ARRAY keys LOOP
        SELECT t.id INTO found_id FROM bench.people_plain t WHERE t.v = key;
        n := n + (found_id IS NOT NULL)::integer;
    END LOOP;
    RETURN n;
END
$$;
CREATE FUNCTION bench.find_blind(keys text[]) RETURNS bigint
LANGUAGE plpgsql SET plan_cache_mode = force_generic_plan AS $$
DECLARE
    key text;
    found_id integer;
    n bigint := 0;
BEGIN
    FOREACH key IN ARRAY keys LOOP
        SELECT t.id INTO found_id FROM bench.people t WHERE t.v_bidx = ANY ((SELECT kms_wrap.kw_blind_index('bench.people', 'v', key))::bytea[]);
        n := n + (found_id IS NOT NULL)::integer;
    END LOOP;
    RETURN n;
END
$$;
