COMMENT ON SEQUENCE kms_wrap.wrapper_generation_seq IS
    'Numbers every write of wrapper bytes in this database. Feeds key_wrappers.generation; never set back, since a generation is authenticated.';

COMMENT ON TABLE kms_wrap.provider_config IS
    'How to reach a key provider. Endpoints, regions and file names only: no secret belongs here.';
COMMENT ON COLUMN kms_wrap.provider_config.id IS 'Identifies the configuration. Part of what the local provider''s root seal authenticates.';
COMMENT ON COLUMN kms_wrap.provider_config.provider_name IS 'Name of the configuration. Unique.';
COMMENT ON COLUMN kms_wrap.provider_config.manager IS 'Which code reads config: kms_wrap/local here; other values belong to others, as opentdf.io/basic.';
COMMENT ON COLUMN kms_wrap.provider_config.config IS
    'JSON object. For kms_wrap/local exactly root_key (file name in kms_wrap.key_directory: 1 to 64 of A-Z a-z 0-9 _ . -, no dot first) and fingerprint (of that file''s key, 16 bytes as 32 hex digits).';
COMMENT ON COLUMN kms_wrap.provider_config.created_at IS 'When the row was made.';
COMMENT ON COLUMN kms_wrap.provider_config.updated_at IS 'Start of the transaction that last changed the row; kept by a trigger.';
COMMENT ON COLUMN kms_wrap.provider_config.metadata IS 'Free JSON, as {"labels": {...}}.';

COMMENT ON TABLE kms_wrap.kms_providers IS
    'Key providers. Kind, location and project_tenant stand in every wrapper''s authenticated key references and cannot change while one uses the provider.';
COMMENT ON COLUMN kms_wrap.kms_providers.id IS 'Identifies the provider. Rows of users start at 1000.';
COMMENT ON COLUMN kms_wrap.kms_providers.name IS 'Name shown in messages. Unique, no control characters.';
COMMENT ON COLUMN kms_wrap.kms_providers.provider IS 'Kind: local, openbao, vault, aws, gcp, azure, pkcs11 or kmip.';
COMMENT ON COLUMN kms_wrap.kms_providers.location IS
    'Region, or for self-hosted kinds (local, openbao, vault, pkcs11, kmip) what tells this server from others of its kind: required and, with project_tenant, unique there.';
COMMENT ON COLUMN kms_wrap.kms_providers.project_tenant IS 'Project, account or tenant at the provider. NULL if it has none.';
COMMENT ON COLUMN kms_wrap.kms_providers.created_at IS 'When the row was made.';
COMMENT ON COLUMN kms_wrap.kms_providers.is_enabled IS 'False: no key of the provider is used for anything.';
COMMENT ON COLUMN kms_wrap.kms_providers.provider_config_id IS 'How to reach it. Required for kind local, where it also says whose root key seals the keys.';
COMMENT ON COLUMN kms_wrap.kms_providers.trust_domain IS
    'Who can use the provider''s keys without the others'' help. Two slots of one split wrapper need different domains, unless the policy says otherwise.';
COMMENT ON COLUMN kms_wrap.kms_providers.suspended_until IS 'Until then no new wrapper uses the provider and no rewrap leads to it; what it has wrapped opens. NULL: not suspended.';
COMMENT ON COLUMN kms_wrap.kms_providers.suspend_reason IS 'Why it is suspended, for people. A worker''s reasons begin with health: and are the only ones that it ends.';

COMMENT ON TABLE kms_wrap.kms_keys IS
    'References to keys at providers. What stands in a key reference, and the public key, cannot change while a wrapper uses the key; nor can it be deleted while a live one does.';
COMMENT ON COLUMN kms_wrap.kms_keys.id IS 'Identifies the key in calls and in policies. Rows of users start at 1000.';
COMMENT ON COLUMN kms_wrap.kms_keys.provider_id IS 'The provider that holds the key. Deleting the provider deletes its keys, if none is needed.';
COMMENT ON COLUMN kms_wrap.kms_keys.external_key_ref IS 'The provider''s name for the key: id, ARN or path, aliases resolved. For kind local the key_id of sym_key or asym_key.';
COMMENT ON COLUMN kms_wrap.kms_keys.purpose IS 'wrap, encrypt or both. Slots of a wrapper take wrap and both.';
COMMENT ON COLUMN kms_wrap.kms_keys.algorithm IS 'Name of the algorithm, as in crypto_algorithms where that lists it.';
COMMENT ON COLUMN kms_wrap.kms_keys.status IS
    'active: wraps and opens. retired: opens. compromised: opens only to be rewrapped away from. disabled: nothing, reversible. destroyed: nothing, final, only without live wrappers.';
COMMENT ON COLUMN kms_wrap.kms_keys.created_at IS 'When the row was made.';
COMMENT ON COLUMN kms_wrap.kms_keys.key_version IS 'The key version that new shares are wrapped under; what was wrapped opens by the version in its own bytes. Set by kw_set_key_version(). NULL where the provider can''t be asked for one.';
COMMENT ON COLUMN kms_wrap.kms_keys.public_key IS 'Encapsulation or public key, as the algorithm encodes it (ML-KEM-768: 1184 bytes). NULL for symmetric keys.';
COMMENT ON COLUMN kms_wrap.kms_keys.public_key_sha256 IS 'SHA-256 of public_key, 32 bytes; pins it. NULL exactly when public_key is.';
COMMENT ON COLUMN kms_wrap.kms_keys.status_changed_at IS 'Start of the transaction that last changed status; kept by a trigger. NULL: never changed.';

COMMENT ON TABLE kms_wrap.crypto_algorithms IS
    'Algorithms. Rows with an id below 1000 are shipped: what this build implements, unchangeable, not dumped.';
COMMENT ON COLUMN kms_wrap.crypto_algorithms.id IS 'Identifies the algorithm. Below 1000: shipped, never renumbered or reused; those of users start at 1000.';
COMMENT ON COLUMN kms_wrap.crypto_algorithms.class IS 'kem, sig, hash or symmetric.';
COMMENT ON COLUMN kms_wrap.crypto_algorithms.name IS 'Name in its standard, as ML-KEM-768 (FIPS 203).';
COMMENT ON COLUMN kms_wrap.crypto_algorithms.variant IS 'What tells algorithms of one name apart, as hybrid-x25519. NULL: none.';
COMMENT ON COLUMN kms_wrap.crypto_algorithms.variant_norm IS 'variant, or empty; makes class, name and variant unique when variant is NULL.';
COMMENT ON COLUMN kms_wrap.crypto_algorithms.nist_level IS 'NIST security category 1..5 of a post-quantum algorithm, NULL for all others.';
COMMENT ON COLUMN kms_wrap.crypto_algorithms.status IS 'active, deprecated or experimental.';
COMMENT ON COLUMN kms_wrap.crypto_algorithms.params IS
    'Sizes in bytes. kem: ek_len, ct_len, ss_len, seed_len; symmetric: key_len, nonce_len, tag_len; hash: digest_len.';
COMMENT ON COLUMN kms_wrap.crypto_algorithms.created_at IS 'When the row was made.';

COMMENT ON TABLE kms_wrap.crypto_standard_aliases IS 'Other names of algorithms.';
COMMENT ON COLUMN kms_wrap.crypto_standard_aliases.alias IS 'The other name.';
COMMENT ON COLUMN kms_wrap.crypto_standard_aliases.algo_id IS 'The algorithm meant.';
COMMENT ON COLUMN kms_wrap.crypto_standard_aliases.notes IS 'What to know about the name.';
COMMENT ON COLUMN kms_wrap.crypto_standard_aliases.is_shipped IS 'True only for the extension''s own rows, which cannot change and are not dumped.';

COMMENT ON TABLE kms_wrap.sym_key IS
    'Symmetric keys kept in the database, sealed. The local provider finds one by provider_config_id and key_id.';
COMMENT ON COLUMN kms_wrap.sym_key.id IS 'Identifies the row.';
COMMENT ON COLUMN kms_wrap.sym_key.key_id IS 'Name of the key; kms_keys.external_key_ref of the local provider. Unique, authenticated by the seal.';
COMMENT ON COLUMN kms_wrap.sym_key.key_status IS 'OpenTDF''s KeyStatus: 0 unspecified, 1 active, 2 rotated.';
COMMENT ON COLUMN kms_wrap.sym_key.key_mode IS 'OpenTDF''s KeyMode: 1 sealed under a local root key, 2 wrapped by a provider''s key, 3 remote.';
COMMENT ON COLUMN kms_wrap.sym_key.key_value IS
    'The sealed key, never the key: in mode 1 XAES-256-GCM, nonce 24 bytes, ciphertext, tag 16 bytes, 72 bytes for a 32-byte key. NULL in mode 3.';
COMMENT ON COLUMN kms_wrap.sym_key.provider_config_id IS 'Whose root key or provider seals it. Our rule: required, because several root keys can be in use.';
COMMENT ON COLUMN kms_wrap.sym_key.created_at IS 'When the key was made.';
COMMENT ON COLUMN kms_wrap.sym_key.updated_at IS 'Start of the transaction that last changed the row; kept by a trigger.';
COMMENT ON COLUMN kms_wrap.sym_key.metadata IS 'Free JSON, as {"labels": {...}}.';
COMMENT ON COLUMN kms_wrap.sym_key.expiration IS 'When the key is meant to go out of use. Informative.';
COMMENT ON COLUMN kms_wrap.sym_key.algorithm IS 'Name of the key''s algorithm. Authenticated by the seal.';

COMMENT ON TABLE kms_wrap.asym_key IS
    'Key pairs of which the private half is sealed, remote or unknown. The local provider finds one by provider_config_id and key_id.';
COMMENT ON COLUMN kms_wrap.asym_key.id IS 'Identifies the row.';
COMMENT ON COLUMN kms_wrap.asym_key.key_id IS 'Name of the key; kms_keys.external_key_ref of the local provider. Unique, authenticated by the seal.';
COMMENT ON COLUMN kms_wrap.asym_key.key_algorithm IS
    'OpenTDF''s Algorithm: 1 RSA-2048, 2 RSA-4096, 3 P-256, 4 P-384, 5 P-521, 6 X-Wing, 7 P-256 with ML-KEM-768, 8 P-384 with ML-KEM-1024, 20 ML-KEM-768, 21 ML-KEM-1024.';
COMMENT ON COLUMN kms_wrap.asym_key.key_status IS 'OpenTDF''s KeyStatus: 0 unspecified, 1 active, 2 rotated.';
COMMENT ON COLUMN kms_wrap.asym_key.key_mode IS
    'OpenTDF''s KeyMode: 1 private key here, sealed under a local root key; 2 here, wrapped by a provider''s key; 3 remote; 4 public key only.';
COMMENT ON COLUMN kms_wrap.asym_key.public_key_ctx IS '{"pem": "<base64 of the PEM SubjectPublicKeyInfo>"}. Required.';
COMMENT ON COLUMN kms_wrap.asym_key.private_key_ctx IS
    '{"key_id": "<name of the wrapping key>", "wrapped_key": "<base64 of the sealed bytes>"}; for the local provider key_id is the root key''s file name. wrapped_key only in modes 1 and 2; NULL in mode 4.';
COMMENT ON COLUMN kms_wrap.asym_key.expiration IS 'When the key is meant to go out of use. Informative.';
COMMENT ON COLUMN kms_wrap.asym_key.provider_config_id IS
    'The provider. Required in modes 2 and 3, forbidden in 4. OpenTDF forbids it in mode 1 too, our local provider needs it there: it says whose root key seals.';
COMMENT ON COLUMN kms_wrap.asym_key.metadata IS 'Free JSON, as {"labels": {...}}.';
COMMENT ON COLUMN kms_wrap.asym_key.created_at IS 'When the key was made.';
COMMENT ON COLUMN kms_wrap.asym_key.updated_at IS 'Start of the transaction that last changed the row; kept by a trigger.';
