#!/usr/bin/env python3
"""Opens the frozen wrappers from the format alone: a second implementation that shares no code with the first.

Usage: open_wrappers.py [wrappers_v1.json]

Needs the package "cryptography". Layers are opened too when that has ML-KEM (and OpenSSL 3.5 or AWS-LC below it); otherwise their
shares come from the file, and are checked against the commitments like all others.
"""

import hashlib
import hmac
import json
import os
import struct
import sys

from cryptography.exceptions import InvalidTag, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

try:
    from cryptography.hazmat.primitives.asymmetric import mlkem
except ImportError:
    mlkem = None

ALGORITHMS = {0x0101: "XAES-256-GCM", 0x0301: "ML-KEM-768", 0x0302: "ML-KEM-1024", 0x0401: "X-Wing"}
CIPHERTEXT = {"ML-KEM-768": 1088, "ML-KEM-1024": 1568, "X-Wing": 1120}
MODES = {2: "redundant", 3: "split"}
SUITE = 0x0001


def require(condition, what):
    if not condition:
        raise ValueError(what)


def sha256(*parts):
    return hashlib.sha256(b"".join(parts)).digest()


def sha384(*parts):
    return hashlib.sha384(b"".join(parts)).digest()


def hkdf(salt, ikm, info, length):
    return HKDF(hashes.SHA384(), length, salt, info).derive(ikm)


def fields(data, tags):
    """tag u8 | length u32 | value: exactly these tags in this order, nothing left over."""
    values = []
    for tag in tags:
        found, length = struct.unpack_from(">BI", data)
        require(found == tag and len(data) >= 5 + length, f"field {tag:#x}")
        values.append(data[5 : 5 + length])
        data = data[5 + length :]
    require(data == b"", "bytes left over")
    return values


def encode(label, values):
    return label + b"".join(struct.pack(">BI", tag, len(value)) + value for tag, value in values)


def slot_name(number):
    return {1: "kms1", 2: "kms2"}.get(number) or f"layer{number - 0x10}"


def context_hash(context):
    encoded = struct.pack(">H", len(context))
    for key, value in sorted((k.encode(), v.encode()) for k, v in context.items()):
        encoded += struct.pack(">H", len(key)) + key + struct.pack(">H", len(value)) + value
    return sha256(b"kms_wrap/v1/ctx\0", encoded)


class Container:
    """ "KWRP" format kind, slot header, blob and, in kind 2, a path's data."""

    def __init__(self, data):
        require(data[:5] == b"KWRP\x01" and data[5] in (1, 2, 3), "container")
        tags = [0x03, 0x04, 0x05, 0x06, 0x08, 0x09] + ([0x0A] if data[5] == 2 else [])
        self.slot, self.alg, self.key_ref, self.ek_sha256, self.generation, self.blob, *path = fields(data[6:], tags)
        self.name = slot_name(self.slot[0])
        self.algorithm = ALGORITHMS[int.from_bytes(self.alg, "big")]
        self.path = Path(path[0]) if path else None

    def aad(self, uuid, epoch, ctx_sha256):
        values = [uuid, epoch, self.slot, self.alg, self.key_ref, self.ek_sha256, ctx_sha256, self.generation]
        return encode(b"kms_wrap/v1/slot\0", zip(range(1, 9), values))


class Path:
    """Header fields 02..0b, seal, commitment."""

    def __init__(self, data):
        *self.header, self.seal, self.commit = fields(data, range(0x02, 0x0E))
        mode, number, suite, self.epoch, _salt, dek_len, self.policy, self.ctx_sha256, self.dek_commit, slots = self.header
        require(int.from_bytes(suite, "big") == SUITE, "suite")
        require(len(slots) % 34 == 0, "slot list")
        self.mode, self.number, self.dek_len = MODES[mode[0]], number[0], int.from_bytes(dek_len, "big")
        self.slots = [(slot_name(slots[i]), slots[i + 1], slots[i + 2 : i + 34]) for i in range(0, len(slots), 34)]

    def encode_header(self, uuid):
        return encode(b"kms_wrap/v1/path\0", zip(range(0x01, 0x0C), [uuid, *self.header]))

    def open(self, uuid, shares):
        header = self.encode_header(uuid)
        digest = sha384(header)
        okm = hkdf(digest, b"".join(shares[name] for name, _, _ in self.slots), b"kms_wrap/v1/kek\0" + digest, 76)
        require(hmac.compare_digest(okm[44:], self.commit), "key commitment")
        opened = AESGCM(okm[:32]).decrypt(okm[32:44], self.seal, header)
        require(len(opened) == self.dek_len + 32, "length of the DEK")
        dek, opening = opened[: self.dek_len], opened[self.dek_len :]
        tag = hmac.digest(opening, b"kms_wrap/v1/dek\0" + uuid + dek, "sha384")
        require(hmac.compare_digest(tag[:32], self.dek_commit), "DEK commitment")
        return header, okm, dek, opening


def xaes_open(key, sealed, aad):
    """c2sp.org/XAES-256-GCM: a key for each 12-byte prefix of the nonce, by CMAC's subkey and two blocks of AES."""
    nonce, ciphertext = sealed[:24], sealed[24:]
    aes = Cipher(algorithms.AES(key), modes.ECB()).encryptor()
    zero = int.from_bytes(aes.update(bytes(16)), "big")
    k1 = (zero << 1 & (1 << 128) - 1) ^ (0x87 if zero >> 127 else 0)
    blocks = b""
    for counter in (1, 2):
        message = bytes([0, counter]) + b"X\0" + nonce[:12]
        blocks += aes.update((int.from_bytes(message, "big") ^ k1).to_bytes(16, "big"))
    return AESGCM(blocks).decrypt(nonce[12:], ciphertext, aad)


def decapsulate(algorithm, seed, ciphertext):
    """The shared secret, or None where this Python has no ML-KEM."""
    if mlkem is None:
        return None
    try:
        if algorithm == "ML-KEM-1024":
            return mlkem.MLKEM1024PrivateKey.from_seed_bytes(seed).decapsulate(ciphertext)
        if algorithm == "ML-KEM-768":
            return mlkem.MLKEM768PrivateKey.from_seed_bytes(seed).decapsulate(ciphertext)
        # X-Wing (draft-connolly-cfrg-xwing-kem, sections 5.2 to 5.5).
        expanded = hashlib.shake_256(seed).digest(96)
        secret_m = mlkem.MLKEM768PrivateKey.from_seed_bytes(expanded[:64]).decapsulate(ciphertext[:1088])
        private_x = X25519PrivateKey.from_private_bytes(expanded[64:])
        secret_x = private_x.exchange(X25519PublicKey.from_public_bytes(ciphertext[1088:]))
        public_x = private_x.public_key().public_bytes_raw()
        return hashlib.sha3_256(secret_m + secret_x + ciphertext[1088:] + public_x + b"\\.//^\\").digest()
    except (UnsupportedAlgorithm, AttributeError):
        return None


def layer_open(container, key, ek, aad):
    split = CIPHERTEXT[container.algorithm]
    ciphertext, sealed = container.blob[:split], container.blob[split:]
    shared = decapsulate(container.algorithm, key, ciphertext)
    if shared is None:
        return None, None
    info = b"kms_wrap/v1/kem\0" + sha384(ciphertext, ek) + sha384(aad)
    return shared, AESGCM(hkdf(None, shared, info, 32)).decrypt(bytes(12), sealed, aad)


def check(vector):
    """Opens one wrapper and compares every value on the way. Returns how many layers it could open itself."""
    hexed = lambda name: bytes.fromhex(vector[name])
    uuid = hexed("uuid")
    blobs = [hexed("dek_wrap1"), hexed("dek_wrap2")] + [bytes.fromhex(layer["kem_ciphertext"]) for layer in vector["layers"]]
    containers = [Container(blob) for blob in blobs]
    paths = [c.path for c in containers if c.path]
    first = paths[0]
    require(first.mode == vector["composition"], "composition")
    require(first.policy == hexed("policy_uuid"), "policy")
    require(int.from_bytes(first.epoch, "big") == vector["epoch"], "epoch")
    require(max(int.from_bytes(c.generation, "big") for c in containers) == vector["generation"], "generation")
    require(first.ctx_sha256 == hexed("ctx_sha256") == context_hash(vector["context"]), "context")
    require(first.dek_commit[:16] == hexed("dek_fingerprint"), "fingerprint")

    shares, opened_layers = {}, 0
    for container, key in zip(containers, vector["keys"], strict=True):
        name = container.name
        require((name, container.algorithm) == (key["slot"], key["algorithm"]), f"{name}: slot and algorithm")
        require(container.key_ref == b"".join(part.encode() + b"\0" for part in key["key_ref"]), f"{name}: key_ref")
        ek = bytes.fromhex(key["encapsulation_key"] or "")
        require(container.ek_sha256 == (sha256(ek) if ek else b""), f"{name}: ek_sha256")
        aad = container.aad(uuid, first.epoch, first.ctx_sha256)
        require(aad.hex() == vector["slot_aad"][name], f"{name}: slot_aad")
        secret, frozen = bytes.fromhex(key["key"]), bytes.fromhex(vector["shares"][name])
        if name.startswith("kms"):
            shares[name] = xaes_open(secret, container.blob, aad)
        else:
            shared, share = layer_open(container, secret, ek, aad)
            opened_layers += share is not None
            require(shared is None or shared.hex() == vector["kem_shared_secrets"][name], f"{name}: KEM shared secret")
            shares[name] = frozen if share is None else share
        require(shares[name] == frozen, f"{name}: share")
        commit = sha256(b"kms_wrap/v1/share\0", uuid, first.epoch, container.slot, frozen)
        entries = [entry for path in paths for entry in path.slots if entry[0] == name]
        require(entries and all(entry[1:] == (container.alg[0], commit) for entry in entries), f"{name}: class and share_commit")

    for path, expected in zip(paths, vector["paths"], strict=True):
        require([name for name, _, _ in path.slots] == expected["slots"], "slots of a path")
        header, okm, dek, opening = path.open(uuid, shares)
        require((path.number, header.hex(), okm.hex()) == (expected["path"], expected["header"], expected["okm"]), "header and OKM")
        require((dek, opening) == (hexed("dek"), hexed("opening")), "DEK and opening")
    return opened_layers


def main():
    default = os.path.join(os.path.dirname(os.path.abspath(__file__)), "wrappers_v1.json")
    with open(sys.argv[1] if len(sys.argv) > 1 else default, encoding="utf-8") as file:
        vectors = json.load(file)["wrappers"]
    failed = 0
    for vector in vectors:
        try:
            opened = check(vector)
            print(f"ok      {vector['description']} ({opened} of {len(vector['layers'])} layers decapsulated)")
        except (ValueError, KeyError, IndexError, struct.error, InvalidTag) as error:
            failed += 1
            print(f"FAILED  {vector['description']}: {error!r}")
    print(f"{len(vectors) - failed} opened, {failed} failed")
    return 1 if failed or not vectors else 0


if __name__ == "__main__":
    sys.exit(main())
