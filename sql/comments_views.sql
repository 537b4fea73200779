COMMENT ON VIEW kms_wrap.vw_kms_providers IS 'Providers. is_suspended: suspended_until is in the future.';
COMMENT ON VIEW kms_wrap.vw_kms_keys IS 'Keys, with the fingerprint of the public key in its place (SHA-256, 64 hex digits).';
COMMENT ON VIEW kms_wrap.vw_kms_keys_status_by_provider IS 'How many keys of each status a provider has.';
COMMENT ON VIEW kms_wrap.vw_kms_key_dependents IS
    'How many wrappers depend on a key, for each slot (kms1, kms2, layer) and wrapper status; live is active, rotated and retired together. All three rows at 0: nothing needs the key.';
COMMENT ON VIEW kms_wrap.vw_kms_key_versions IS
    'How many wrappers have a share under each version of a key, by status; live is active, rotated and retired together. is_set: new shares go under it. key_version NULL: what is no container. Nothing live but under the version that is set: older ones may be closed at the KMS, as far as no backup needs them. To be read with EXECUTE on kw_key_version_of.';
COMMENT ON VIEW kms_wrap.vw_crypto_algorithms IS 'Algorithms; sizes in params are bytes.';
COMMENT ON VIEW kms_wrap.vw_crypto_algorithms_deprecation IS 'Algorithms of status deprecated.';
COMMENT ON VIEW kms_wrap.vw_encryption_policies IS 'Policies.';
COMMENT ON VIEW kms_wrap.vw_policy_kms_keys IS 'Keys of policies, by name and with the key''s status.';
COMMENT ON VIEW kms_wrap.vw_key_wrappers IS
    'Wrappers without their bytes. dek_wrap1_sha256, dek_wrap2_sha256: SHA-256 of the containers; scope_key (32 bytes) and dek_fingerprint (16 bytes): all in hex.';
COMMENT ON VIEW kms_wrap.vw_key_wrapper_layers IS
    'Layers without their bytes. kem_ciphertext_sha256, encap_pubkey_sha256: SHA-256 in hex.';
COMMENT ON VIEW kms_wrap.vw_key_wrapper_layers_summary IS
    'Layers of each wrapper: how many, from which to which number, and whether one is post-quantum (its algorithm has a NIST level).';
COMMENT ON VIEW kms_wrap.vw_key_wrappers_missing_pq IS 'Wrappers without a post-quantum layer.';
COMMENT ON VIEW kms_wrap.vw_key_wrapper_layers_pq_readiness_summary IS
    'One row: active post-quantum KEMs and signature algorithms in the catalogue, wrappers with a post-quantum layer, all wrappers.';
COMMENT ON VIEW kms_wrap.vw_encryption_bindings IS 'Bindings, with the uuid and status of the wrapper.';
COMMENT ON VIEW kms_wrap.vw_rewrap_jobs IS 'Rewrap jobs.';
COMMENT ON VIEW kms_wrap.kw_rewrap_progress IS
    'How far each campaign is. open: jobs pending or running. percent: of total, ended in any way. rate_per_second: done and failed since it started, pauses included. eta: time left at that rate.';
COMMENT ON VIEW kms_wrap.vw_kms_health_checks IS 'Probes of providers and keys; latency_ms in milliseconds.';
COMMENT ON VIEW kms_wrap.vw_kms_health_latest IS 'The latest probe of each provider and key that still exists.';
COMMENT ON VIEW kms_wrap.vw_kms_health_24h IS
    'Probes of the last 24 hours for each provider (kms_key_id NULL) and key that still exists: how many, of which status, how many failed for which class of error, availability (not down) in per cent, and percentiles of the latency in milliseconds.';

COMMENT ON FUNCTION kms_wrap.kw_key_in_use IS
    'Whether any wrapper has a slot under a key; live_only: any wrapper that is not invalid. Internal, used by the guards. 55000 under repeatable read and serializable.';
COMMENT ON FUNCTION kms_wrap.kw_guard_key_update IS
    'Trigger: refuses a change of a used key''s reference, algorithm or public key, of its version too if it has a public key or gets or loses the version, and illegal changes of status (55000); waits for wrappers that are being written; sets status_changed_at.';
COMMENT ON FUNCTION kms_wrap.kw_guard_key_delete IS
    'Trigger: refuses to delete a key that a live wrapper, an open campaign or a running job needs (55000), by cascade too; keeps its name in health probes.';
COMMENT ON FUNCTION kms_wrap.kw_guard_provider_update IS
    'Trigger: refuses a change of kind, location or project_tenant while a wrapper uses a key of the provider (55000).';
COMMENT ON FUNCTION kms_wrap.kw_guard_provider_delete IS
    'Trigger: refuses to delete a provider that an open campaign selects by (55000); keeps its name in health probes.';
COMMENT ON FUNCTION kms_wrap.kw_guard_stored_key IS
    'Trigger: refuses to delete or rename a sealed key that a live wrapper needs (55000).';
COMMENT ON FUNCTION kms_wrap.kw_guard_policy IS
    'Trigger: refuses a change of policy_uuid, and to delete a policy that an open campaign selects by (55000).';
COMMENT ON FUNCTION kms_wrap.kw_guard_scope IS
    'Trigger: refuses a change of dek_scope once the policy has a DEK for values (55000).';
COMMENT ON FUNCTION kms_wrap.kw_guard_wrapper IS
    'Trigger: refuses a change of uuid, policy or purpose of a wrapper, and illegal changes of status (55000); sets rotated_at.';
COMMENT ON FUNCTION kms_wrap.kw_guard_truncate IS 'Trigger: refuses TRUNCATE, by CASCADE too, while live wrappers exist (55000).';
COMMENT ON FUNCTION kms_wrap.kw_guard_shipped IS 'Trigger: refuses changes of shipped rows (55000).';
COMMENT ON FUNCTION kms_wrap.kw_touch_updated_at IS 'Trigger: sets updated_at to the start of the transaction.';
