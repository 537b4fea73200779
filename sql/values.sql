-- Functions that are called once a row take their arguments as they come, so they are declared here and not by pgrx. They run
-- with the caller's search_path, which costs less than setting one, and use no name without its schema.

CREATE FUNCTION kms_wrap.kw_is_sealed(value bytea) RETURNS boolean
LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE COST 10 AS 'MODULE_PATHNAME', 'kw_is_sealed_bytea';

CREATE FUNCTION kms_wrap.kw_is_sealed(value text) RETURNS boolean
LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE COST 10 AS 'MODULE_PATHNAME', 'kw_is_sealed_text';

CREATE FUNCTION kms_wrap.kw_encrypt(value bytea, policy text DEFAULT 'default', context jsonb DEFAULT '{}', wrapper uuid DEFAULT NULL) RETURNS bytea
LANGUAGE c VOLATILE PARALLEL UNSAFE COST 100 AS 'MODULE_PATHNAME', 'kw_encrypt';

CREATE FUNCTION kms_wrap.kw_encrypt_text(value text, policy text DEFAULT 'default', context jsonb DEFAULT '{}', wrapper uuid DEFAULT NULL) RETURNS text
LANGUAGE c VOLATILE PARALLEL UNSAFE COST 100 AS 'MODULE_PATHNAME', 'kw_encrypt_text';

CREATE FUNCTION kms_wrap.kw_decrypt(sealed bytea, context jsonb DEFAULT '{}') RETURNS bytea
LANGUAGE c STABLE PARALLEL SAFE COST 100 AS 'MODULE_PATHNAME', 'kw_decrypt';

CREATE FUNCTION kms_wrap.kw_decrypt_text(sealed text, context jsonb DEFAULT '{}') RETURNS text
LANGUAGE c STABLE PARALLEL SAFE COST 100 AS 'MODULE_PATHNAME', 'kw_decrypt_text';

COMMENT ON FUNCTION kms_wrap.kw_is_sealed(bytea) IS
    'Whether the bytes parse as a value envelope. Uses no key: says nothing about who made them. For CHECK constraints; everybody may call it.';
COMMENT ON FUNCTION kms_wrap.kw_is_sealed(text) IS
    'Whether the text parses as an armoured value envelope. Uses no key: says nothing about who made it. For CHECK constraints; everybody may call it.';
COMMENT ON FUNCTION kms_wrap.kw_encrypt IS
    'Encrypts up to 1 GB - 128 bytes by a policy''s current DEK, which the first call makes, or by the DEK of a wrapper; the envelope is 60 bytes longer. context: object of strings, at most 64 pairs of 1024 bytes, authenticated, needed again to decrypt. Needs encrypt on the policy. NULL gives NULL. 22004, 22023, 39000, 42501, 42704, 54000, 55000, 58000, 38000.';
COMMENT ON FUNCTION kms_wrap.kw_encrypt_text IS
    'As kw_encrypt, for text of up to 767 MB; the armoured envelope is base64url, 84 characters and a third longer.';
COMMENT ON FUNCTION kms_wrap.kw_decrypt IS
    'Decrypts an envelope of kw_encrypt. Needs decrypt on the policy of its wrapper. NULL gives NULL. 39000 if it does not decrypt, whatever the cause; 22P03 not an envelope; 42501, 42704 unknown wrapper, 55000 status or version, 58000 provider out of reach, 38000 refused.';
COMMENT ON FUNCTION kms_wrap.kw_decrypt_text IS
    'As kw_decrypt, for an armoured envelope; 22021 if the bytes are no text of the database''s encoding.';
