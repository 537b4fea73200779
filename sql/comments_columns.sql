COMMENT ON TABLE kms_wrap.protected_columns IS
    'Columns whose values are encrypted. Written by kw_protect_column, kw_encrypt_column and kw_unprotect_column; kw_protected_columns shows it with today''s names.';
COMMENT ON COLUMN kms_wrap.protected_columns.id IS 'Identifies the row. Rows start at 1000.';
COMMENT ON COLUMN kms_wrap.protected_columns.column_uuid IS
    'The column''s identity: authenticated in every value of it, and part of the names of the constraints by which the column is found.';
COMMENT ON COLUMN kms_wrap.protected_columns.schema_name IS 'The table''s schema when the column was protected, for people.';
COMMENT ON COLUMN kms_wrap.protected_columns.table_name IS 'The table''s name when the column was protected, for people.';
COMMENT ON COLUMN kms_wrap.protected_columns.column_name IS 'The column''s name when it was protected, for people.';
COMMENT ON COLUMN kms_wrap.protected_columns.policy_id IS 'The policy whose keys encrypt the values, and whose grants say who may.';
COMMENT ON COLUMN kms_wrap.protected_columns.tenant_column IS
    'The column whose value chooses the data key, by its name when the column was protected. NULL: one data key for the column.';
COMMENT ON COLUMN kms_wrap.protected_columns.original_type IS 'The column''s type before, as format_type() writes it; what the view casts to and unprotecting restores.';
COMMENT ON COLUMN kms_wrap.protected_columns.original_statistics IS 'The column''s statistics target before; -1: the default. Unprotecting restores it.';
COMMENT ON COLUMN kms_wrap.protected_columns.original_storage IS 'The column''s storage before: plain, external, extended or main. Unprotecting restores it.';
COMMENT ON COLUMN kms_wrap.protected_columns.original_compression IS 'The column''s compression method before; NULL: the default. Unprotecting restores it.';
COMMENT ON COLUMN kms_wrap.protected_columns.key_forms IS
    'The binary forms of the primary key''s columns, then of the tenant column, when the column was protected: boolean, smallint, integer, bigint, oid, uuid, date, time, timestamp, timestamptz, char(n), bytes (text, varchar and bytea). Values are bound to them, so under other ones no row is written.';
COMMENT ON COLUMN kms_wrap.protected_columns.storage IS 'text: armoured envelopes. bytea: raw envelopes.';
COMMENT ON COLUMN kms_wrap.protected_columns.status IS
    'encrypting: rows from before may be plain. rewriting: all rows are sealed, the table''s old blocks still hold plain values. protected: done.';
COMMENT ON COLUMN kms_wrap.protected_columns.index_column IS 'The blind-index column, by its name when the column was protected. NULL: none.';
COMMENT ON COLUMN kms_wrap.protected_columns.index_bytes IS 'How many bytes of the HMAC the blind index keeps, 1..32.';
COMMENT ON COLUMN kms_wrap.protected_columns.index_normalisation IS 'What happens to a value before its HMAC: none or lower.';
COMMENT ON COLUMN kms_wrap.protected_columns.index_unique IS 'Whether the blind index is unique.';
COMMENT ON COLUMN kms_wrap.protected_columns.index_generation IS 'Generation of the blind index''s key that new values get, 1..255.';
COMMENT ON COLUMN kms_wrap.protected_columns.index_old_generation IS 'The generation before, while a change of the key is under way. NULL: none.';
COMMENT ON COLUMN kms_wrap.protected_columns.view_schema IS 'Schema of the decrypting view when it was made.';
COMMENT ON COLUMN kms_wrap.protected_columns.view_name IS 'Name of the decrypting view when it was made. NULL: none.';
COMMENT ON COLUMN kms_wrap.protected_columns.rows_total IS 'How many rows kw_encrypt_column expected when it began. NULL: it has not.';
COMMENT ON COLUMN kms_wrap.protected_columns.rows_done IS 'How many rows kw_encrypt_column has gone through.';
COMMENT ON COLUMN kms_wrap.protected_columns.last_key IS 'Primary key, as text, of the last row that kw_encrypt_column went through; where it goes on. NULL: at the start.';
COMMENT ON COLUMN kms_wrap.protected_columns.unknown_envelopes IS
    'Values stored as they came under session_replication_role = replica, because no wrapper here opens them.';
COMMENT ON COLUMN kms_wrap.protected_columns.created_at IS 'When the column was protected.';
COMMENT ON COLUMN kms_wrap.protected_columns.finished_at IS 'When the status became protected.';

COMMENT ON VIEW kms_wrap.kw_protected_columns IS
    'Protected columns under today''s names; relation is NULL when the table is gone. percent: of the rows from before. trigger_state: always, or missing or not always when new values may come in plain, on any partition. is_validated: proved that every value is encrypted. has_copies: other tables have the column''s constraint too.';

COMMENT ON TABLE kms_wrap.column_relations IS 'The table that has a protected column, so that no other passes for it. Not dumped; recorded again at the first write.';
COMMENT ON COLUMN kms_wrap.column_relations.column_uuid IS 'The protected column.';
COMMENT ON COLUMN kms_wrap.column_relations.relation IS 'Oid of its table; of the root, if it is partitioned.';
COMMENT ON COLUMN kms_wrap.column_relations.key_columns IS 'Numbers in that table (pg_attribute.attnum) of the primary key''s columns, then of the tenant column. NULL: not known yet.';
