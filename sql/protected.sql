-- What triggers and decrypting views of protected columns call once a row.

CREATE FUNCTION kms_wrap.kw_seal_column() RETURNS trigger
LANGUAGE c AS 'MODULE_PATHNAME', 'kw_seal_column';

CREATE FUNCTION kms_wrap.kw_open_column(column_uuid uuid, sealed bytea, VARIADIC row_key "any") RETURNS bytea
LANGUAGE c STABLE PARALLEL SAFE COST 100 AS 'MODULE_PATHNAME', 'kw_open_column';

CREATE FUNCTION kms_wrap.kw_open_column_text(column_uuid uuid, sealed text, VARIADIC row_key "any") RETURNS text
LANGUAGE c STABLE PARALLEL SAFE COST 100 AS 'MODULE_PATHNAME', 'kw_open_column_text';

CREATE FUNCTION kms_wrap.kw_is_current(column_uuid uuid, sealed bytea, VARIADIC row_key "any") RETURNS boolean
LANGUAGE c STABLE PARALLEL SAFE COST 100 AS 'MODULE_PATHNAME', 'kw_is_current_bytea';

CREATE FUNCTION kms_wrap.kw_is_current(column_uuid uuid, sealed text, VARIADIC row_key "any") RETURNS boolean
LANGUAGE c STABLE PARALLEL SAFE COST 100 AS 'MODULE_PATHNAME', 'kw_is_current_text';

CREATE FUNCTION kms_wrap.kw_belongs(column_uuid uuid, sealed bytea, VARIADIC row_key "any") RETURNS boolean
LANGUAGE c STABLE PARALLEL SAFE COST 100 AS 'MODULE_PATHNAME', 'kw_belongs_bytea';

CREATE FUNCTION kms_wrap.kw_belongs(column_uuid uuid, sealed text, VARIADIC row_key "any") RETURNS boolean
LANGUAGE c STABLE PARALLEL SAFE COST 100 AS 'MODULE_PATHNAME', 'kw_belongs_text';

CREATE FUNCTION kms_wrap.kw_wrapper_of(sealed bytea) RETURNS uuid
LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE COST 10 AS 'MODULE_PATHNAME', 'kw_wrapper_of_bytea';

CREATE FUNCTION kms_wrap.kw_wrapper_of(sealed text) RETURNS uuid
LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE COST 10 AS 'MODULE_PATHNAME', 'kw_wrapper_of_text';

CREATE FUNCTION kms_wrap.kw_blind_index(relation regclass, column_name text, value text) RETURNS bytea[]
LANGUAGE c STABLE PARALLEL SAFE COST 100 AS 'MODULE_PATHNAME', 'kw_blind_index';

CREATE FUNCTION kms_wrap.kw_blind_index_bytea(relation regclass, column_name text, value bytea) RETURNS bytea[]
LANGUAGE c STABLE PARALLEL SAFE COST 100 AS 'MODULE_PATHNAME', 'kw_blind_index_bytea';

COMMENT ON FUNCTION kms_wrap.kw_seal_column IS
    'Trigger of a protected column, whose uuid is its argument: seals plain values for their row, fills the blind index, keeps what is sealed for this row already, refuses what is not (22023). Needs encrypt on the column''s policy. 22001, 22004, 39P01, 42501, 54000, 55000, 58000, 38000.';
COMMENT ON FUNCTION kms_wrap.kw_open_column IS
    'Opens a value of a protected bytea column. row_key: the columns of the primary key in its order, then the tenant column if the DEKs are one a tenant. Needs decrypt on the column''s policy. For decrypting views. 39000 if it does not decrypt, 22P03 not an envelope, 42501, 42704, 55000, 58000, 38000.';
COMMENT ON FUNCTION kms_wrap.kw_open_column_text IS 'As kw_open_column, for a text column; 22021 if the bytes are no text of the database''s encoding.';
COMMENT ON FUNCTION kms_wrap.kw_is_current(uuid, bytea, "any") IS
    'Whether a value of a protected column is encrypted with the DEK that new values of its row get. Arguments as of kw_open_column.';
COMMENT ON FUNCTION kms_wrap.kw_is_current(uuid, text, "any") IS
    'Whether a value of a protected column is encrypted with the DEK that new values of its row get. Arguments as of kw_open_column_text.';
COMMENT ON FUNCTION kms_wrap.kw_belongs(uuid, bytea, "any") IS
    'Whether a value of a protected column is plain, in one that is being encrypted, or opens for its row; shows nothing of it. Arguments as of kw_open_column. Needs encrypt on the column''s policy. 42501, 42704, 55000, 58000, 38000.';
COMMENT ON FUNCTION kms_wrap.kw_belongs(uuid, text, "any") IS
    'Whether a value of a protected column is plain, in one that is being encrypted, or opens for its row; shows nothing of it. Arguments as of kw_open_column_text.';
COMMENT ON FUNCTION kms_wrap.kw_wrapper_of(bytea) IS 'The wrapper whose DEK encrypted a value. Parses only. 22P03 not an envelope.';
COMMENT ON FUNCTION kms_wrap.kw_wrapper_of(text) IS 'The wrapper whose DEK encrypted a value. Parses only. 22P03 not an armoured envelope.';
COMMENT ON FUNCTION kms_wrap.kw_blind_index IS
    'Entries of a protected text column''s blind index for a value: one, or two while the index''s key is being rotated. To be compared with = ANY. Needs index on the column''s policy, for it answers guesses. 22004, 22023, 42501, 42704, 55000, 58000, 38000.';
COMMENT ON FUNCTION kms_wrap.kw_blind_index_bytea IS 'As kw_blind_index, for a bytea column.';
