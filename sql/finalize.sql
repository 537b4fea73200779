-- What \df+ shows. Without argument lists: no name is overloaded.
COMMENT ON FUNCTION kms_wrap.kw_create_root_key IS
    'Makes a root key file of 32 random bytes in kms_wrap.key_directory and returns its fingerprint, 16 bytes as 32 hex digits. Never overwrites or deletes a file; a roll-back leaves it. Superusers only. 42501, 22023 name, 42710 a file of that name, 58000 or 38000 directory missing or unfit.';
COMMENT ON FUNCTION kms_wrap.kw_rotate_root_key IS
    'Seals every key of a local provider under another root key file, which must exist on every standby too, and points the provider to it; returns the number of keys. The old file stays: remove it by hand when kw_health() says that nothing needs it. Superusers only. 42501, 42704, 22023 in use already, 58000 or 38000 root key file missing or unfit.';
COMMENT ON FUNCTION kms_wrap.kw_add_provider IS
    'Registers a key provider and returns the id of its row. config has no secret: for kind local {"root_key": "<file name>"}; for remote kinds endpoint or module, and names of credential files. Asks no remote provider. 22023 kind or config, naming the field; 42710 name or place taken; 55000 pkcs11 without preload; 58000 or 38000 root key file missing or unfit.';
COMMENT ON FUNCTION kms_wrap.kw_set_provider_config IS
    'Gives a remote provider another configuration, in force in all sessions when the transaction commits. What wrappers know it by stays. 22023 config, naming the field, or a local provider; 42704 provider.';
COMMENT ON FUNCTION kms_wrap.kw_create_local_key IS
    'Makes a key of a local provider, sealed under its root key, and returns its id in kms_keys. Algorithms: XAES-256-GCM for kms1 and kms2; ML-KEM-768, ML-KEM-1024 or X-Wing for layers. 22023 algorithm, 42704 provider or algorithm, 42710 key_id taken, 58000 or 38000 root key file missing or unfit.';
COMMENT ON FUNCTION kms_wrap.kw_add_kms_key IS
    'Registers a key that exists at a provider and returns its id in kms_keys. A remote provider is asked what the key is; its name (aliases resolved), version and public key are pinned, and a share is wrapped and opened. Once a wrapper uses it nothing of that can change but the version, by kw_set_key_version(). 22023, 42704 provider or key, 42710, 38000 the provider has no such key or refuses, 58000 it cannot be reached.';
COMMENT ON FUNCTION kms_wrap.kw_set_key_version IS
    'Lets new shares go under another version of a key, NULL: its provider''s latest, and returns the version that is set. The provider is asked whether it exists, and a share is wrapped and opened. Waits for transactions that have just written wrappers under the key. What is wrapped opens as before; kw_schedule_rewrap(from_key => k, target_kms1 => k) moves it. 22023, 42704 key or version, 55000 the kind has no versions, another public key or status, 40001, 38000, 58000.';
COMMENT ON FUNCTION kms_wrap.kw_set_key_status IS
    'Sets the status of a key: active (wraps and opens), retired (opens), compromised (opens only to be rewrapped away), disabled (nothing), destroyed (nothing, final, only without live wrappers). 42704, 22023, 55000 change not allowed.';
COMMENT ON FUNCTION kms_wrap.kw_create_policy IS
    'Makes a policy and returns its id. composition has no default: split (all slots together open) or redundant (kms1 or kms2, with the layers). Layers 0..32, min_nist_level 1..5. 22023, 42710.';
COMMENT ON FUNCTION kms_wrap.kw_policy_add_key IS
    'Lets a policy use a key for a slot: kms1, kms2 or layer. Higher priority is preferred, weight shares among equals. 22023, 42704, 42710.';
COMMENT ON FUNCTION kms_wrap.kw_policy_remove_key IS
    'Takes a key from a policy. Wrappers under it stay as they are; kw_schedule_rewrap() moves them. 42704.';
COMMENT ON FUNCTION kms_wrap.kw_grant IS
    'Gives a role a privilege on a policy and EXECUTE on the functions of it: encrypt, decrypt, unwrap, import, index or manage. False if it has it already. For the extension''s owner and superusers. 22023, 42501, 42704.';
COMMENT ON FUNCTION kms_wrap.kw_revoke IS
    'Takes a privilege on a policy from a role, and EXECUTE on functions that it needs no more; works in running sessions at their next statement or within 64 calls. False if it did not have it. 22023, 42501, 42704.';
COMMENT ON FUNCTION kms_wrap.kw_column_settle_index IS
    'Ends a rotation of a protected column''s blind index, when no row has an old entry any more. For the table''s owner; a step of kw_encrypt_column.';
COMMENT ON FUNCTION kms_wrap.kw_rotate_column_index IS
    'Begins a new generation of a protected column''s blind index, with a key of its own, and returns its number; new and changed rows get entries of it, kw_blind_index() gives both, and kw_encrypt_column() makes the old ones anew. Needs manage on the column''s policy. 42501, 42704, 55000.';
COMMENT ON FUNCTION kms_wrap.kw_rotate_dek IS
    'Makes a new DEK, in a new wrapper, of the same policy and scope, and returns its uuid; the old wrapper becomes rotated: opens values, encrypts none. Values under it are not touched: kw_encrypt_column() moves those of a protected column. Not for a wrapper of kw_wrap_dek. Needs manage on the policy. 40001, 42501, 42704, 55000, 58000, 38000.';
COMMENT ON FUNCTION kms_wrap.kw_quickstart IS
    'Sets up two local root keys, providers, keys with a post-quantum layer and the policy default, and returns what it did step by step. For trying out: both root keys are on this host. Superusers only. 42501, 42710.';
COMMENT ON FUNCTION kms_wrap.kw_wrap_dek IS
    'Wraps a data key by a policy and returns the uuid of the new wrapper. dek: 16, 24, 32 or 64 bytes, as a bind parameter only; NULL makes 32 random bytes inside. context: object of strings, at most 64 pairs of 1024 bytes, authenticated, needed again to unwrap. 22023, 42704, 54000, 55000, 58000, 38000.';
COMMENT ON FUNCTION kms_wrap.kw_unwrap IS
    'Opens a wrapper and returns its data key (16, 24, 32 or 64 bytes). 39000 if it does not open, whatever the cause; 22P03 not a container; 42704, 55000 status, 58000 provider out of reach, 38000 refused.';
COMMENT ON FUNCTION kms_wrap.kw_rewrap IS
    'Moves slots of a wrapper to other keys of the same class, or to the version that their own key is set to, and returns the new generation; the data key stays. target_layers: {"1": 1007}. Heals nothing that leaked. 40001 changed meanwhile; 22023, 39000, 42704, 55000, 58000, 38000.';
COMMENT ON FUNCTION kms_wrap.kw_key_version_of IS
    'The key version that a container (dek_wrap1, dek_wrap2 or kem_ciphertext) names, empty for a key without versions; NULL for what is no container, or names no ASCII text. Parses only: that the version is true shows when the container opens.';
COMMENT ON FUNCTION kms_wrap.kw_describe_wrapper IS
    'Says in rows of item and value what a wrapper''s bytes and rows tell without opening it: composition, slots, keys, trust domains, levels, generation. 22P03, 42704.';
COMMENT ON FUNCTION kms_wrap.kw_verify IS
    'Opens every selected wrapper, as far as that goes without the caller''s context, and returns a row for each with the SQLSTATE and text of what is wrong. The selectors that are given must all match; none: all wrappers. 42704.';
COMMENT ON FUNCTION kms_wrap.kw_health IS
    'State of root keys, providers, keys, wrappers, worker and settings: component, name, status, detail and what to do about it.';
COMMENT ON FUNCTION kms_wrap.kw_check_health IS
    'Probes a provider, or all that are enabled, and each of their active and retired keys now: wraps and opens a random share; where wrapping is refused, opens the share of a stored wrapper. Returns and keeps a row for each, kms_key_id NULL for the provider itself; on a standby it only returns them. status: up, degraded (slow, or only one of wrapping and unwrapping is allowed), down. latency_ms: of the calls that came to a good end. error: class, colon, sentence. A provider whose circuit breaker is open is down without being asked. 42501, 42704.';
COMMENT ON FUNCTION kms_wrap.kw_suspend_provider IS
    'Takes a provider out of use for new wrappers and as a target of rewraps until ttl is over, and returns when that is; what it has wrapped still opens. reason: 1 to 255 characters, not beginning with health:. ttl: more than 0 and at most a year. A worker''s probes do not end it. 22004, 22023, 42501, 42704.';
COMMENT ON FUNCTION kms_wrap.kw_resume_provider IS
    'Ends the suspension of a provider, whoever has made it; false if it was not suspended. A worker suspends it again if it is down. 22004, 42501, 42704.';
COMMENT ON FUNCTION kms_wrap.kw_schedule_rewrap IS
    'Queues a rewrap of all wrappers that every given selector matches, and returns the campaign''s id; dry_run makes none. Needs manage on the policy, which must then be given, or the extension''s owner. Wrappers that have the targets already, in the version that the key is set to, are counted only. At most rate_per_second wrappers a second. 22023, 42704, 55000 from_key is still picked by a policy and no target itself.';
COMMENT ON FUNCTION kms_wrap.kw_pause IS 'Pauses a campaign; jobs being worked on end. 42704, 55000 not running.';
COMMENT ON FUNCTION kms_wrap.kw_resume IS 'Lets a paused campaign go on. 42704, 55000 not paused.';
COMMENT ON FUNCTION kms_wrap.kw_cancel IS 'Ends a campaign; jobs not begun are cancelled, those being worked on end. 42704, 55000 ended already.';
COMMENT ON FUNCTION kms_wrap.kw_jobs_claim IS
    'Leases up to batch_size jobs to this session and returns how many; ends campaigns that have nothing left. A step of kw_run_jobs, which commits after it.';
COMMENT ON FUNCTION kms_wrap.kw_jobs_work IS
    'Does the jobs leased to this session and records how each ended. A step of kw_run_jobs, which commits after it.';
COMMENT ON FUNCTION kms_wrap.kw_jobs_wait IS
    'Seconds until a running campaign''s jobs may be claimable: 0 or more, NULL if none is due soon. A step of kw_run_jobs.';
COMMENT ON PROCEDURE kms_wrap.kw_run_jobs IS
    'Does rewrap jobs in batches of batch_size, each in transactions of its own, until none is due or max_batches are done; waits for a rate limit. Not inside a transaction block (2D000). 22023.';
COMMENT ON FUNCTION kms_wrap.kw_protect_column IS
    'Encrypts a column from now on: values that are written, by a trigger; those that are there, by kw_encrypt_column() afterwards. Makes a decrypting view and, if asked, a blind index. For the table''s owner, with encrypt on the policy; dry_run says what it would do and what is in the way. 22004, 22023 table, type or argument, 42501, 42701, 42703, 42704 policy, 42710 protected already, 42P07 view exists, 55000 no primary key or dependents.';
COMMENT ON PROCEDURE kms_wrap.kw_encrypt_column IS
    'Encrypts the values of a protected column that are still plain, in batches of batch_size rows with a commit each, going on where an earlier call stopped; then proves that none is left and, with rewrite, rewrites the table under an exclusive lock so that dead rows are gone. Waits at most max_wait for others'' locks and snapshots. Not inside a transaction block (2D000). 22004, 22023, 42501, 55000 not protected, trigger disabled or rows locked.';
COMMENT ON FUNCTION kms_wrap.kw_unprotect_column IS
    'Gives a column back as it was, decrypted and of its old type, in one transaction that rewrites the table under an exclusive lock. For the table''s owner, with decrypt on the policy. 22004, 39000, 42501, 55000 not protected or dependents.';
COMMENT ON FUNCTION kms_wrap.kw_column_tables IS 'The table, and its partitions of every level if it has some.';
COMMENT ON FUNCTION kms_wrap.kw_column_check_table IS 'Refuses tables whose columns cannot be protected (22023) or that are another''s (42501). A step of kw_protect_column.';
COMMENT ON FUNCTION kms_wrap.kw_column_check_type IS 'Refuses columns that cannot be protected (22023, 42703). A step of kw_protect_column.';
COMMENT ON FUNCTION kms_wrap.kw_column_row_key IS
    'Names of the columns that values are bound to: those of the primary key, then the tenant column. 22023 a type with several byte forms, 42703, 55000 no primary key.';
COMMENT ON FUNCTION kms_wrap.kw_column_obstacles IS 'What depends on a column and could not work on encrypted values, and what to do about each. A step of kw_protect_column.';
COMMENT ON FUNCTION kms_wrap.kw_column_view_text IS 'The statement that makes the decrypting view of a table; NULL if no column is protected. A step of kw_protect_column.';
COMMENT ON FUNCTION kms_wrap.kw_column_check_view IS 'Refuses a decrypting view with options, conditions or tables of its own (55000). A step of kw_protect_column.';
COMMENT ON FUNCTION kms_wrap.kw_column_view_keep IS 'Statements that give a view made anew its owner, rights and comments. A step of kw_protect_column.';
COMMENT ON FUNCTION kms_wrap.kw_column_derived_name IS 'A name and a suffix, cut to fit 63 bytes. A step of kw_protect_column.';
COMMENT ON FUNCTION kms_wrap.kw_column_trigger_name IS 'The name of a column''s seal trigger, which fires last. A step of kw_protect_column.';
COMMENT ON FUNCTION kms_wrap.kw_column_statements IS 'The statements that protect a column, but for the decrypting view. A step of kw_protect_column.';
COMMENT ON FUNCTION kms_wrap.kw_column_notes IS 'What is good to know of a column that is protected: other triggers, a blind index over few values. A step of kw_protect_column.';
COMMENT ON FUNCTION kms_wrap.kw_column_count_unknown IS 'Counts envelopes of a column that were stored although their wrappers are not here. A step of the seal trigger.';
COMMENT ON FUNCTION kms_wrap.kw_column_check_index IS 'Refuses wrong arguments of a blind index (22004, 22023, 42701). A step of kw_protect_column.';
COMMENT ON FUNCTION kms_wrap.kw_column_size IS 'Rows of a table, its bytes, and an estimate of its bytes once a column is encrypted. A step of kw_protect_column.';
COMMENT ON FUNCTION kms_wrap.kw_column_plan IS 'State of a protected column and the statements that encrypt its rows. A step of kw_encrypt_column.';
COMMENT ON FUNCTION kms_wrap.kw_column_rewrites IS 'Statements that rewrite a table, one row for each partition. A step of kw_encrypt_column.';
COMMENT ON FUNCTION kms_wrap.kw_column_check_rights IS 'Fails unless the caller owns the table (42501) and has encrypt on the policy (42501, 42704).';
COMMENT ON FUNCTION kms_wrap.kw_column_register IS 'Writes the row of a column in protected_columns. A step of kw_protect_column; needs ownership and encrypt.';
COMMENT ON FUNCTION kms_wrap.kw_column_new_keys IS
    'Makes a uuid for a column that is to be protected, and its data key and blind index key as asked. A step of kw_protect_column; needs ownership and encrypt. 42501, 42704, 55000, 58000, 38000.';
COMMENT ON FUNCTION kms_wrap.kw_column_check IS 'Refuses a column that cannot be protected, or is already (42710). A step of kw_protect_column.';
COMMENT ON FUNCTION kms_wrap.kw_column_lookup IS
    'Protected columns of a table of the caller''s, found by the constraints on it. 42501, 55000 a copy of another table''s definition.';
COMMENT ON FUNCTION kms_wrap.kw_column_progress IS
    'Records how far kw_encrypt_column is; a status only when the validated constraint proves it (55000). Needs ownership and encrypt.';
COMMENT ON FUNCTION kms_wrap.kw_column_unregister IS
    'Removes the row of a column of which no table has the constraint any more (55000), as after DROP TABLE. Tables of other owners that have it are returned, and keep the row. Needs decrypt on its policy. A step of kw_unprotect_column.';
COMMENT ON FUNCTION kms_wrap.kw_column_drop_statistics IS 'Removes the statistics of a column, which hold its most common values. Needs ownership.';
COMMENT ON FUNCTION kms_wrap.kw_column_no_block IS 'Fails inside a transaction block (2D000). A step of kw_encrypt_column.';
COMMENT ON FUNCTION kms_wrap.kw_column_is_past IS
    'Whether nothing can see rows of a table any more that were dead before a transaction. A step of kw_encrypt_column.';

-- Their statements are short and always the same: planning them again, or compiling them, costs more than it saves.
ALTER FUNCTION kms_wrap.kw_wrap_dek SET plan_cache_mode = force_generic_plan;
ALTER FUNCTION kms_wrap.kw_unwrap SET plan_cache_mode = force_generic_plan;
ALTER FUNCTION kms_wrap.kw_jobs_work SET plan_cache_mode = force_generic_plan;
ALTER FUNCTION kms_wrap.kw_jobs_work SET jit = off;
ALTER FUNCTION kms_wrap.kw_jobs_work SET enable_memoize = off;
ALTER FUNCTION kms_wrap.kw_schedule_rewrap SET jit = off;
ALTER FUNCTION kms_wrap.kw_verify SET jit = off;
ALTER FUNCTION kms_wrap.kw_check_health SET jit = off;
ALTER FUNCTION kms_wrap.kw_column_lookup SET jit = off;
ALTER FUNCTION kms_wrap.kw_column_progress SET jit = off;
ALTER FUNCTION kms_wrap.kw_column_obstacles SET jit = off;
-- Statistics from before a campaign know of no open job, and make reading and sorting all of them for each batch look cheap.
ALTER FUNCTION kms_wrap.kw_jobs_claim SET plan_cache_mode = force_generic_plan;
ALTER FUNCTION kms_wrap.kw_jobs_claim SET jit = off;
ALTER FUNCTION kms_wrap.kw_jobs_claim SET enable_sort = off;
ALTER FUNCTION kms_wrap.kw_jobs_claim SET enable_bitmapscan = off;

-- New functions are everybody's until this; only the parser stays so, since CHECK constraints call it.
REVOKE ALL ON ALL FUNCTIONS IN SCHEMA kms_wrap FROM PUBLIC;
GRANT EXECUTE ON FUNCTION kms_wrap.kw_is_sealed(bytea), kms_wrap.kw_is_sealed(text) TO PUBLIC;
REVOKE ALL ON ALL PROCEDURES IN SCHEMA kms_wrap FROM PUBLIC;
REVOKE ALL ON ALL TABLES IN SCHEMA kms_wrap FROM PUBLIC;
REVOKE ALL ON ALL SEQUENCES IN SCHEMA kms_wrap FROM PUBLIC;
