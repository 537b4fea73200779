-- What this build implements, under FIPS and C2SP names. The ids are part of the interface: never renumbered, never reused.
-- params holds sizes in bytes. kem: ek_len encapsulation key, ct_len ciphertext, ss_len shared secret, seed_len private key seed.
INSERT INTO kms_wrap.crypto_algorithms (id, class, name, variant, nist_level, params) VALUES
    (1, 'kem', 'ML-KEM-768', NULL, 3, '{"ek_len": 1184, "ct_len": 1088, "ss_len": 32, "seed_len": 64}'),
    (2, 'kem', 'ML-KEM-1024', NULL, 5, '{"ek_len": 1568, "ct_len": 1568, "ss_len": 32, "seed_len": 64}'),
    (3, 'kem', 'X-Wing', 'hybrid-x25519', 3, '{"ek_len": 1216, "ct_len": 1120, "ss_len": 32, "seed_len": 32}'),
    (10, 'symmetric', 'AES-256-GCM', NULL, NULL, '{"key_len": 32, "nonce_len": 12, "tag_len": 16}'),
    (11, 'symmetric', 'XAES-256-GCM', NULL, NULL, '{"key_len": 32, "nonce_len": 24, "tag_len": 16}'),
    (20, 'hash', 'SHA-256', NULL, NULL, '{"digest_len": 32}'),
    (21, 'hash', 'SHA-384', NULL, NULL, '{"digest_len": 48}');

INSERT INTO kms_wrap.crypto_standard_aliases (alias, algo_id, notes, is_shipped) VALUES
    ('kyber768', 1, 'Means the standard, FIPS 203; round-3 Kyber is another algorithm and not implemented.', true),
    ('kyber1024', 2, 'Means the standard, FIPS 203; round-3 Kyber is another algorithm and not implemented.', true),
    ('mlkem768', 1, NULL, true),
    ('mlkem1024', 2, NULL, true),
    ('xwing', 3, NULL, true),
    ('aes256gcm', 10, NULL, true),
    ('aesgcm256', 10, NULL, true),
    ('aes-256-gcm', 10, NULL, true),
    ('xaes256gcm', 11, NULL, true),
    ('sha256', 20, NULL, true),
    ('sha384', 21, NULL, true);
