-- What somebody with write access to the tables can do, and its undoing.
CREATE TABLE kept_wrappers AS SELECT w.* FROM kms_wrap.key_wrappers w JOIN tenants t ON t.wrapper::text = w.wrapper_uuid
WHERE t.name IN ('tenant-7', 'tenant-9');
CREATE TABLE kept_layers AS SELECT l.* FROM kms_wrap.key_wrapper_layers l JOIN kept_wrappers w ON w.id = l.key_wrapper_id;

-- Everything that protects tenant-8's DEK, put into tenant-7's rows: all bytes and all columns that describe them.
UPDATE kms_wrap.key_wrapper_layers l
SET kem_ciphertext = o.kem_ciphertext, aad = o.aad, meta = o.meta
FROM kms_wrap.key_wrapper_layers o, tenants seven, tenants eight, kms_wrap.key_wrappers w7, kms_wrap.key_wrappers w8
WHERE seven.name = 'tenant-7' AND w7.wrapper_uuid = seven.wrapper::text AND l.key_wrapper_id = w7.id
    AND eight.name = 'tenant-8' AND w8.wrapper_uuid = eight.wrapper::text AND o.key_wrapper_id = w8.id;
UPDATE kms_wrap.key_wrappers w
SET dek_wrap1 = o.dek_wrap1, dek_wrap2 = o.dek_wrap2, generation = o.generation, dek_fingerprint = o.dek_fingerprint,
    crypto_suite = o.crypto_suite
FROM kms_wrap.key_wrappers o, tenants seven, tenants eight
WHERE seven.name = 'tenant-7' AND w.wrapper_uuid = seven.wrapper::text
    AND eight.name = 'tenant-8' AND o.wrapper_uuid = eight.wrapper::text;

-- One bit, in the middle of tenant-9's KEM ciphertext.
UPDATE kms_wrap.key_wrapper_layers l
SET kem_ciphertext = set_bit(kem_ciphertext, 4800, 1 - get_bit(kem_ciphertext, 4800))
FROM kms_wrap.key_wrappers w, tenants t
WHERE t.name = 'tenant-9' AND w.wrapper_uuid = t.wrapper::text AND l.key_wrapper_id = w.id;

CREATE PROCEDURE undo_tampering() LANGUAGE sql AS $$
    UPDATE kms_wrap.key_wrappers w
    SET dek_wrap1 = k.dek_wrap1, dek_wrap2 = k.dek_wrap2, generation = k.generation, dek_fingerprint = k.dek_fingerprint,
        crypto_suite = k.crypto_suite
    FROM kept_wrappers k WHERE k.id = w.id;
    UPDATE kms_wrap.key_wrapper_layers l SET kem_ciphertext = k.kem_ciphertext, aad = k.aad, meta = k.meta
    FROM kept_layers k WHERE k.id = l.id;
    DROP TABLE kept_wrappers, kept_layers;
$$;
