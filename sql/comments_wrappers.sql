COMMENT ON TABLE kms_wrap.encryption_policies IS 'What a new wrapper gets: composition, number of layers, floors and cipher.';
COMMENT ON COLUMN kms_wrap.encryption_policies.id IS 'Identifies the policy. Rows of users start at 1000.';
COMMENT ON COLUMN kms_wrap.encryption_policies.policy_name IS 'Name used in calls. Unique, no control characters.';
COMMENT ON COLUMN kms_wrap.encryption_policies.mode IS 'local, kms or multi-kms. Describes; composition is what decides.';
COMMENT ON COLUMN kms_wrap.encryption_policies.layer_selection IS
    'How a key is picked among the usable ones of highest priority in a slot: defined (heaviest, then oldest), round_robin, random or hash_mod (by the context); the last three by weight.';
COMMENT ON COLUMN kms_wrap.encryption_policies.min_layers IS 'A wrapper has at least so many KEM layers, 0..32.';
COMMENT ON COLUMN kms_wrap.encryption_policies.max_layers IS 'And at most so many, 0..32.';
COMMENT ON COLUMN kms_wrap.encryption_policies.aad_template IS 'JSON for people; no effect. JSON is never authenticated, for its bytes aren''t stable.';
COMMENT ON COLUMN kms_wrap.encryption_policies.notes IS 'Free text.';
COMMENT ON COLUMN kms_wrap.encryption_policies.created_at IS 'When the row was made.';
COMMENT ON COLUMN kms_wrap.encryption_policies.policy_uuid IS 'Sealed into every wrapper, 16 bytes there. Cannot change.';
COMMENT ON COLUMN kms_wrap.encryption_policies.composition IS
    'split: all slots together open, so one lost KMS closes everything and one stolen KMS opens nothing. redundant: kms1 or kms2 with the layers opens. A change counts for new wrappers.';
COMMENT ON COLUMN kms_wrap.encryption_policies.min_nist_level IS
    'Every path needs a post-quantum slot of at least this NIST category, 1..5. NULL: no floor. Counts for new wrappers and rewraps.';
COMMENT ON COLUMN kms_wrap.encryption_policies.require_origin IS
    'Every path needs a symmetric KMS slot that binds its context, which shows who made the wrapper. Counts for new wrappers and rewraps.';
COMMENT ON COLUMN kms_wrap.encryption_policies.allow_same_trust_domain IS 'Lets kms1 and kms2 of a split wrapper be of one trust domain.';
COMMENT ON COLUMN kms_wrap.encryption_policies.value_cipher IS 'Cipher of values: XAES-256-GCM (24-byte nonce, 16-byte tag).';
COMMENT ON COLUMN kms_wrap.encryption_policies.cache_ttl IS 'Longest time an opened DEK of values stays in a session''s memory; the setting kms_wrap.cache_ttl may make it shorter. kw_unwrap keeps none.';
COMMENT ON COLUMN kms_wrap.encryption_policies.cache_uses IS 'Most values that a session encrypts or decrypts with an opened DEK before it opens the wrapper again; the setting kms_wrap.cache_uses may make them fewer. NULL: no limit of the policy''s.';
COMMENT ON COLUMN kms_wrap.encryption_policies.outage IS
    'What a session may do with DEKs of values that it holds when a provider that is needed cannot be reached: fail (nothing); cache (use them until cache_ttl); stale (and for stale_for longer). What is not held fails with 58000 in any case.';
COMMENT ON COLUMN kms_wrap.encryption_policies.stale_for IS 'With outage stale: how much longer than cache_ttl a held DEK is used while its provider cannot be reached. At most 7 days.';
COMMENT ON COLUMN kms_wrap.encryption_policies.verify_every_wrap IS
    'Whether each share that a remote provider wraps is opened again by it before the wrapper is stored. false: once a session and key, which saves half the calls of making wrappers. A rewrap always does.';
COMMENT ON COLUMN kms_wrap.encryption_policies.dek_scope IS 'Names of the context pairs that choose the DEK, at most 64. Empty: one DEK for the policy. Cannot change once such a DEK exists.';
COMMENT ON COLUMN kms_wrap.encryption_policies.value_pad_to IS
    'Values are padded to a multiple of so many bytes before they are encrypted, 1..65536, so that their length says less. 1: not padded.';
COMMENT ON COLUMN kms_wrap.encryption_policies.is_enabled IS 'False: no new wrapper. Existing ones are not affected.';

COMMENT ON TABLE kms_wrap.policy_kms_keys IS 'Which keys a policy may use for which slot.';
COMMENT ON COLUMN kms_wrap.policy_kms_keys.policy_id IS 'The policy.';
COMMENT ON COLUMN kms_wrap.policy_kms_keys.kms_key_id IS 'The key.';
COMMENT ON COLUMN kms_wrap.policy_kms_keys.weight IS 'Share of the wrappers among keys of one priority, greater than 0.';
COMMENT ON COLUMN kms_wrap.policy_kms_keys.priority IS 'Higher is preferred.';
COMMENT ON COLUMN kms_wrap.policy_kms_keys.created_at IS 'When the row was made.';
COMMENT ON COLUMN kms_wrap.policy_kms_keys.updated_at IS 'Start of the transaction that last changed the row; kept by a trigger.';
COMMENT ON COLUMN kms_wrap.policy_kms_keys.slot IS 'kms1, kms2 or layer. A key serves one slot of a policy.';

COMMENT ON TABLE kms_wrap.policy_algorithms IS 'Which algorithms the keys of a policy may have: kem for layers, symmetric for kms1 and kms2. A role without a row allows all.';
COMMENT ON COLUMN kms_wrap.policy_algorithms.policy_id IS 'The policy.';
COMMENT ON COLUMN kms_wrap.policy_algorithms.algo_id IS 'The algorithm.';
COMMENT ON COLUMN kms_wrap.policy_algorithms.role IS 'kem, sig, hash or symmetric.';
COMMENT ON COLUMN kms_wrap.policy_algorithms.weight IS 'Share among algorithms of one priority, greater than 0.';
COMMENT ON COLUMN kms_wrap.policy_algorithms.priority IS 'Higher is preferred.';

COMMENT ON TABLE kms_wrap.key_wrappers IS
    'One wrapped DEK a row: shares under kms1, kms2 and the layers together open it. The bytes are the authority; JSON beside them describes.';
COMMENT ON COLUMN kms_wrap.key_wrappers.id IS 'Identifies the row. Rows of users start at 1000.';
COMMENT ON COLUMN kms_wrap.key_wrappers.wrapper_uuid IS 'Stable name of the wrapper, kept by rewraps: 36 characters, lower case. Authenticated, cannot change.';
COMMENT ON COLUMN kms_wrap.key_wrappers.kms1_key_id IS 'Key of slot kms1.';
COMMENT ON COLUMN kms_wrap.key_wrappers.kms2_key_id IS 'Key of slot kms2, another one than kms1''s.';
COMMENT ON COLUMN kms_wrap.key_wrappers.dek_wrap1 IS 'Container of the share of slot kms1, with the path data that opens with it.';
COMMENT ON COLUMN kms_wrap.key_wrappers.dek_wrap2 IS 'Container of the share of slot kms2; in a redundant wrapper with the second path''s data.';
COMMENT ON COLUMN kms_wrap.key_wrappers.crypto_suite IS 'What the bytes say about suite, composition and slots, for people and queries. Never read for a decision.';
COMMENT ON COLUMN kms_wrap.key_wrappers.wrap_version IS
    '(generation - 1) mod (2^31 - 1) + 1, unique for its pair of keys. Not a format version: that is in the bytes.';
COMMENT ON COLUMN kms_wrap.key_wrappers.status IS
    'active: opens, and new values. rotated: opens, superseded. retired: closed, may become rotated again. invalid: closed, final.';
COMMENT ON COLUMN kms_wrap.key_wrappers.created_at IS 'When the wrapper was made.';
COMMENT ON COLUMN kms_wrap.key_wrappers.rotated_at IS 'When it was rotated; set by a trigger.';
COMMENT ON COLUMN kms_wrap.key_wrappers.policy_id IS 'The policy that made it and whose rights guard it. Cannot change.';
COMMENT ON COLUMN kms_wrap.key_wrappers.purpose IS 'values: encrypts column values, DEK made inside. caller: the DEK is handed out. Cannot change.';
COMMENT ON COLUMN kms_wrap.key_wrappers.scope_key IS 'SHA-256 of the context pairs that chose the DEK, 32 bytes. NULL: the policy has no scope.';
COMMENT ON COLUMN kms_wrap.key_wrappers.epoch IS 'Counts reseals, from 1.';
COMMENT ON COLUMN kms_wrap.key_wrappers.generation IS 'Number of the write that made the present bytes, from wrapper_generation_seq. Authenticated; what a writer compares before it writes.';
COMMENT ON COLUMN kms_wrap.key_wrappers.successor_id IS 'id of the wrapper that took over. No foreign key: rows must load in any order.';
COMMENT ON COLUMN kms_wrap.key_wrappers.dek_fingerprint IS
    '16 bytes that stay the same while the DEK does, and tell nothing about it without the secret sealed with it.';

COMMENT ON TABLE kms_wrap.key_wrapper_layers IS 'KEM layers of wrappers: each protects one share, part of every path.';
COMMENT ON COLUMN kms_wrap.key_wrapper_layers.id IS 'Identifies the row. Rows of users start at 1000.';
COMMENT ON COLUMN kms_wrap.key_wrapper_layers.key_wrapper_id IS 'The wrapper. Deleting it deletes its layers.';
COMMENT ON COLUMN kms_wrap.key_wrapper_layers.layer_no IS 'Place in the wrapper, 1..32. Authenticated.';
COMMENT ON COLUMN kms_wrap.key_wrapper_layers.kms_key_id IS 'Key whose public half encapsulates. NULL only in an invalid wrapper whose key was deleted.';
COMMENT ON COLUMN kms_wrap.key_wrapper_layers.kem_algo_id IS 'Algorithm, of class kem.';
COMMENT ON COLUMN kms_wrap.key_wrapper_layers.kem_ciphertext IS 'Container: KEM ciphertext (ML-KEM-768: 1088 bytes), then the share sealed under the encapsulated secret (48 bytes).';
COMMENT ON COLUMN kms_wrap.key_wrapper_layers.encap_pubkey IS 'The encapsulation key itself, only when no key with its fingerprint is registered.';
COMMENT ON COLUMN kms_wrap.key_wrapper_layers.aad IS 'What the layer''s authenticated data says, for people and queries. Never read for a decision.';
COMMENT ON COLUMN kms_wrap.key_wrapper_layers.meta IS 'Class and level of the algorithm, and hybrid_with, for people and queries.';
COMMENT ON COLUMN kms_wrap.key_wrapper_layers.created_at IS 'When the row was made.';
COMMENT ON COLUMN kms_wrap.key_wrapper_layers.kem_class IS 'Always kem: makes the foreign key ask for the algorithm''s class.';

COMMENT ON TABLE kms_wrap.encryption_bindings IS
    'Which wrapper serves which field of which row. Upsert with ON CONFLICT (entity_table, entity_pk, field_name_norm): it works for whole-row bindings too, where field_name is NULL.';
COMMENT ON COLUMN kms_wrap.encryption_bindings.id IS 'Identifies the row. Rows of users start at 1000.';
COMMENT ON COLUMN kms_wrap.encryption_bindings.entity_table IS 'Table of the row.';
COMMENT ON COLUMN kms_wrap.encryption_bindings.entity_pk IS 'Primary key of the row as text.';
COMMENT ON COLUMN kms_wrap.encryption_bindings.field_name IS 'The field. NULL: the whole row.';
COMMENT ON COLUMN kms_wrap.encryption_bindings.field_name_norm IS 'field_name, or empty; part of the upsert key.';
COMMENT ON COLUMN kms_wrap.encryption_bindings.key_wrapper_id IS 'The wrapper. It can''t be deleted while something is bound to it.';
COMMENT ON COLUMN kms_wrap.encryption_bindings.created_at IS 'When the row was made.';

COMMENT ON TABLE kms_wrap.rewrap_campaigns IS 'What one call of kw_schedule_rewrap asked for, and how far it is.';
COMMENT ON COLUMN kms_wrap.rewrap_campaigns.id IS 'Identifies the campaign in kw_pause, kw_resume and kw_cancel. Starts at 1000.';
COMMENT ON COLUMN kms_wrap.rewrap_campaigns.verb IS 'What is done to each wrapper: rewrap.';
COMMENT ON COLUMN kms_wrap.rewrap_campaigns.wrapper_uuid IS 'Selects one wrapper. The selectors that are not NULL must all match.';
COMMENT ON COLUMN kms_wrap.rewrap_campaigns.from_key_id IS 'Selects wrappers with a slot under this key.';
COMMENT ON COLUMN kms_wrap.rewrap_campaigns.from_provider_id IS 'Selects wrappers with a slot under a key of this provider.';
COMMENT ON COLUMN kms_wrap.rewrap_campaigns.policy_id IS 'Selects wrappers of this policy.';
COMMENT ON COLUMN kms_wrap.rewrap_campaigns.older_than IS 'Selects wrappers made longer ago than this.';
COMMENT ON COLUMN kms_wrap.rewrap_campaigns.target_kms1_key_id IS 'New key of slot kms1. NULL: the slot stays.';
COMMENT ON COLUMN kms_wrap.rewrap_campaigns.target_kms2_key_id IS 'New key of slot kms2. NULL: the slot stays.';
COMMENT ON COLUMN kms_wrap.rewrap_campaigns.target_layers IS 'New keys of layers: {"1": 1007}, layer number 1..32 to kms_keys.id. NULL: the layers stay.';
COMMENT ON COLUMN kms_wrap.rewrap_campaigns.scheduled_at IS 'Not before.';
COMMENT ON COLUMN kms_wrap.rewrap_campaigns.rate_per_second IS 'At most so many wrappers a second. NULL: no limit.';
COMMENT ON COLUMN kms_wrap.rewrap_campaigns.next_claim_at IS 'The rate limit allows the next batch from then on.';
COMMENT ON COLUMN kms_wrap.rewrap_campaigns.window_start IS
    'Time of day at which work may begin, by the TimeZone setting of the session that works. NULL, like window_end: always.';
COMMENT ON COLUMN kms_wrap.rewrap_campaigns.window_end IS 'Time of day at which it stops. Before window_start: the window passes midnight.';
COMMENT ON COLUMN kms_wrap.rewrap_campaigns.priority IS 'Higher goes first.';
COMMENT ON COLUMN kms_wrap.rewrap_campaigns.status IS 'running, paused, done or cancelled.';
COMMENT ON COLUMN kms_wrap.rewrap_campaigns.total IS 'Jobs made so far.';
COMMENT ON COLUMN kms_wrap.rewrap_campaigns.already_current IS 'Wrappers that matched and had every target already, so that they got no job.';
COMMENT ON COLUMN kms_wrap.rewrap_campaigns.done IS 'Jobs done.';
COMMENT ON COLUMN kms_wrap.rewrap_campaigns.failed IS 'Jobs given up; rewrap_jobs.last_error says why.';
COMMENT ON COLUMN kms_wrap.rewrap_campaigns.cancelled IS 'Jobs cancelled.';
COMMENT ON COLUMN kms_wrap.rewrap_campaigns.created_by IS 'Session user who scheduled it.';
COMMENT ON COLUMN kms_wrap.rewrap_campaigns.created_at IS 'When it was scheduled.';
COMMENT ON COLUMN kms_wrap.rewrap_campaigns.started_at IS 'When its first batch was claimed.';
COMMENT ON COLUMN kms_wrap.rewrap_campaigns.finished_at IS 'When it ended or was cancelled.';
COMMENT ON COLUMN kms_wrap.rewrap_campaigns.last_error IS 'Last error of any of its jobs.';

COMMENT ON TABLE kms_wrap.rewrap_jobs IS 'One wrapper to be rewrapped a row. At most one open job (pending or running) a wrapper.';
COMMENT ON COLUMN kms_wrap.rewrap_jobs.id IS 'Identifies the job. Starts at 1000.';
COMMENT ON COLUMN kms_wrap.rewrap_jobs.key_wrapper_id IS 'The wrapper. Deleting it deletes its jobs.';
COMMENT ON COLUMN kms_wrap.rewrap_jobs.target_kms1_key_id IS 'New key of slot kms1. NULL: the slot stays, or the key was deleted after the job ended.';
COMMENT ON COLUMN kms_wrap.rewrap_jobs.target_kms2_key_id IS 'New key of slot kms2. NULL: the slot stays, or the key was deleted after the job ended.';
COMMENT ON COLUMN kms_wrap.rewrap_jobs.scheduled_at IS 'Not before; as the campaign was scheduled.';
COMMENT ON COLUMN kms_wrap.rewrap_jobs.started_at IS 'When it was first claimed.';
COMMENT ON COLUMN kms_wrap.rewrap_jobs.finished_at IS 'When it was done, given up or cancelled.';
COMMENT ON COLUMN kms_wrap.rewrap_jobs.status IS 'pending, running, done, failed or cancelled.';
COMMENT ON COLUMN kms_wrap.rewrap_jobs.attempts IS 'How often it was claimed.';
COMMENT ON COLUMN kms_wrap.rewrap_jobs.last_error IS 'Why the last attempt failed.';
COMMENT ON COLUMN kms_wrap.rewrap_jobs.created_at IS 'When the job was made.';
COMMENT ON COLUMN kms_wrap.rewrap_jobs.campaign_id IS 'The campaign. Deleting it deletes its jobs.';
COMMENT ON COLUMN kms_wrap.rewrap_jobs.verb IS 'What is done to the wrapper: rewrap.';
COMMENT ON COLUMN kms_wrap.rewrap_jobs.target_layers IS 'New keys of layers: {"1": 1007}, layer number 1..32 to kms_keys.id. NULL: the layers stay.';
COMMENT ON COLUMN kms_wrap.rewrap_jobs.priority IS 'Higher goes first within the campaign.';
COMMENT ON COLUMN kms_wrap.rewrap_jobs.max_attempts IS 'After so many attempts it is given up.';
COMMENT ON COLUMN kms_wrap.rewrap_jobs.next_attempt_at IS 'Not claimed before then; later after every failed attempt.';
COMMENT ON COLUMN kms_wrap.rewrap_jobs.lease_owner IS 'Session that runs it. NULL unless running.';
COMMENT ON COLUMN kms_wrap.rewrap_jobs.lease_until IS 'When the lease ends and others may claim the job. NULL unless running.';

COMMENT ON TABLE kms_wrap.kms_health_checks IS 'Probes of providers and keys, by a worker every kms_wrap.health_interval and by kw_check_health(). A worker removes those older than kms_wrap.health_retention.';
COMMENT ON COLUMN kms_wrap.kms_health_checks.id IS 'Identifies the probe. Starts at 1000.';
COMMENT ON COLUMN kms_wrap.kms_health_checks.provider_id IS 'Provider asked. NULL after the provider was deleted.';
COMMENT ON COLUMN kms_wrap.kms_health_checks.kms_key_id IS 'Key tried. NULL if none was, or after the key was deleted.';
COMMENT ON COLUMN kms_wrap.kms_health_checks.status IS 'up, degraded or down.';
COMMENT ON COLUMN kms_wrap.kms_health_checks.latency_ms IS 'Time in milliseconds of the calls that came to a good end: of a key, wrapping and unwrapping together. NULL: none did.';
COMMENT ON COLUMN kms_wrap.kms_health_checks.error IS 'What went wrong: unavailable, throttled, denied, not_found, malformed or slow, a colon, and a sentence. Never the provider''s own text.';
COMMENT ON COLUMN kms_wrap.kms_health_checks.checked_at IS 'When it was tried.';
COMMENT ON COLUMN kms_wrap.kms_health_checks.provider_name IS 'Name of the provider; filled by a trigger when the provider is deleted, if it was empty.';
COMMENT ON COLUMN kms_wrap.kms_health_checks.key_ref IS 'external_key_ref of the key; filled by a trigger when the key is deleted, if it was empty.';
