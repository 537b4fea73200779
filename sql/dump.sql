-- pg_dump leaves an extension's rows out unless told otherwise, and a sequence behind an identity column has to be named too.
-- Shipped rows come back with CREATE EXTENSION.
SELECT pg_catalog.pg_extension_config_dump('kms_wrap.provider_config', '');
SELECT pg_catalog.pg_extension_config_dump('kms_wrap.kms_providers', '');
SELECT pg_catalog.pg_extension_config_dump('kms_wrap.kms_providers_id_seq', '');
SELECT pg_catalog.pg_extension_config_dump('kms_wrap.kms_keys', '');
SELECT pg_catalog.pg_extension_config_dump('kms_wrap.kms_keys_id_seq', '');
SELECT pg_catalog.pg_extension_config_dump('kms_wrap.crypto_algorithms', 'WHERE id >= 1000');
SELECT pg_catalog.pg_extension_config_dump('kms_wrap.crypto_algorithms_id_seq', '');
SELECT pg_catalog.pg_extension_config_dump('kms_wrap.crypto_standard_aliases', 'WHERE NOT is_shipped');
SELECT pg_catalog.pg_extension_config_dump('kms_wrap.sym_key', '');
SELECT pg_catalog.pg_extension_config_dump('kms_wrap.asym_key', '');
SELECT pg_catalog.pg_extension_config_dump('kms_wrap.encryption_policies', '');
SELECT pg_catalog.pg_extension_config_dump('kms_wrap.encryption_policies_id_seq', '');
SELECT pg_catalog.pg_extension_config_dump('kms_wrap.policy_kms_keys', '');
SELECT pg_catalog.pg_extension_config_dump('kms_wrap.policy_algorithms', '');
SELECT pg_catalog.pg_extension_config_dump('kms_wrap.wrapper_generation_seq', '');
SELECT pg_catalog.pg_extension_config_dump('kms_wrap.key_wrappers', '');
SELECT pg_catalog.pg_extension_config_dump('kms_wrap.key_wrappers_id_seq', '');
SELECT pg_catalog.pg_extension_config_dump('kms_wrap.key_wrapper_layers', '');
SELECT pg_catalog.pg_extension_config_dump('kms_wrap.key_wrapper_layers_id_seq', '');
SELECT pg_catalog.pg_extension_config_dump('kms_wrap.encryption_bindings', '');
SELECT pg_catalog.pg_extension_config_dump('kms_wrap.encryption_bindings_id_seq', '');
SELECT pg_catalog.pg_extension_config_dump('kms_wrap.rewrap_campaigns', '');
SELECT pg_catalog.pg_extension_config_dump('kms_wrap.rewrap_campaigns_id_seq', '');
SELECT pg_catalog.pg_extension_config_dump('kms_wrap.rewrap_jobs', '');
SELECT pg_catalog.pg_extension_config_dump('kms_wrap.rewrap_jobs_id_seq', '');
SELECT pg_catalog.pg_extension_config_dump('kms_wrap.kms_health_checks', '');
SELECT pg_catalog.pg_extension_config_dump('kms_wrap.kms_health_checks_id_seq', '');
