-- What pgcrypto does with the same values. psql variable: n_pgp, of which pgp_sym_encrypt takes so long that a few do.
CREATE EXTENSION pgcrypto;
CREATE TABLE bench.pgp AS
SELECT id, pgp_sym_encrypt_bytea(b, 'a passphrase of a few words') AS b FROM bench.plain WHERE id <= :n_pgp;
CREATE TABLE bench.cbc AS
SELECT id, iv, encrypt_iv(b, '\x0707070707070707070707070707070707070707070707070707070707070707', iv, 'aes') AS b
FROM (SELECT id, b, gen_random_bytes(16) AS iv FROM bench.plain OFFSET 0) p;
VACUUM (ANALYZE) bench.pgp, bench.cbc;
