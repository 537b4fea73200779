#!/usr/bin/env python3
"""Opens the frozen values from the format alone: a second implementation that shares no code with the first.

Usage: open_values.py [values_v1.json]

Needs the package "cryptography".
"""

import base64
import hashlib
import hmac
import json
import os
import struct
import sys

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

# The property White_Space of Unicode: Python's own strip() takes four control characters more.
WHITE_SPACE = "".join(
    [chr(c) for c in (*range(0x09, 0x0E), 0x20, 0x85, 0xA0, 0x1680, *range(0x2000, 0x200B), 0x2028, 0x2029, 0x202F, 0x205F, 0x3000)]
)
TYPES = {"text": 1, "bytea": 2}


def require(condition, what):
    if not condition:
        raise ValueError(what)


def hkdf(salt, ikm, info, length):
    return HKDF(hashes.SHA384(), length, salt, info).derive(ikm)


def unarmour(text):
    """ "kw1." and the one base64url of the bytes: what does not come out again letter by letter is refused."""
    require(text.startswith("kw1."), "armour")
    encoded = text[4:]
    raw = base64.urlsafe_b64decode(encoded + "=" * (-len(encoded) % 4))
    require(base64.urlsafe_b64encode(raw).rstrip(b"=").decode() == encoded, "another spelling")
    return raw


def encode_pairs(pairs):
    encoded = struct.pack(">H", len(pairs))
    for key, value in sorted((k.encode(), v.encode()) for k, v in pairs.items()):
        encoded += struct.pack(">H", len(key)) + key + struct.pack(">H", len(value)) + value
    return encoded


def value_context(context):
    if "pairs" in context:
        return b"\x01" + encode_pairs(context["pairs"])
    encoded = b"\x02" + bytes.fromhex(context["column_uuid"]) + bytes([len(context["keys"])])
    for key in map(bytes.fromhex, context["keys"]):
        encoded += struct.pack(">I", len(key)) + key
    return encoded


def message_key(value_key, prefix):
    """c2sp.org/XAES-256-GCM: CMAC's subkey and two blocks of AES."""
    aes = Cipher(algorithms.AES(value_key), modes.ECB()).encryptor()
    zero = int.from_bytes(aes.update(bytes(16)), "big")
    k1 = (zero << 1 & (1 << 128) - 1) ^ (0x87 if zero >> 127 else 0)
    blocks = b""
    for counter in (1, 2):
        message = bytes([0, counter]) + b"X\0" + prefix
        blocks += aes.update((int.from_bytes(message, "big") ^ k1).to_bytes(16, "big"))
    return blocks


class Opened:
    """A value from its envelope, its DEK and where it belongs."""

    def __init__(self, raw, dek, context):
        require(len(raw) >= 60 and raw[:2] == b"KW", "envelope")
        require(raw[2] == 1, "version")
        require(raw[3] & 0x7F == 1, "cipher")
        require(len(dek) in (32, 64), "length of the DEK")
        head, sealed = raw[:44], raw[44:]
        self.padded, self.wrapper, nonce = raw[3] & 0x80 != 0, raw[4:20], raw[20:44]
        self.value_key = hkdf(self.wrapper, dek, b"kms_wrap/v1/value-key\0" + b"\x01", 32)
        self.message_key = message_key(self.value_key, nonce[:12])
        self.aad = b"kms_wrap/v1/value\0" + head + context
        self.content = AESGCM(self.message_key).decrypt(nonce[12:], sealed, self.aad)
        self.plaintext = self.content
        if self.padded:
            stripped = self.content.rstrip(b"\0")
            require(stripped[-1:] == b"\x80", "padding")
            self.plaintext = stripped[:-1]


def check_value(vector):
    hexed = lambda name: bytes.fromhex(vector[name])
    raw = unarmour(vector["armoured"])
    require(raw == hexed("envelope"), "armour")
    context = value_context(vector["context"])
    require(context == hexed("value_context"), "value context")
    opened = Opened(raw, hexed("dek"), context)
    require((opened.wrapper, opened.padded) == (hexed("wrapper_uuid"), vector["padded"]), "head")
    for name in ("value_key", "message_key", "aad", "content", "plaintext"):
        require(getattr(opened, name) == hexed(name), name)
    for altered in (raw[:-1] + bytes([raw[-1] ^ 1]), raw[:3] + bytes([raw[3] ^ 0x80]) + raw[4:], raw + b"\0"):
        require(not opens(altered, hexed("dek"), context), "an altered value opens")
    require(not opens(raw, hexed("dek"), context + b"\0"), "another context opens")


def opens(raw, dek, context):
    try:
        Opened(raw, dek, context)
    except (ValueError, InvalidTag):
        return False
    return True


def check_scope(vector):
    if "pairs" in vector:
        named = {name: value for name, value in vector["pairs"].items() if name in vector["dek_scope"]}
        content = b"\x01" + encode_pairs(named)
    elif "generation" in vector:
        content = b"\x04" + bytes.fromhex(vector["column_uuid"]) + bytes([vector["generation"]])
    elif "tenant" in vector:
        content = b"\x03" + bytes.fromhex(vector["column_uuid"]) + bytes.fromhex(vector["tenant"])
    else:
        content = b"\x02" + bytes.fromhex(vector["column_uuid"])
    digest = hashlib.sha256(b"kms_wrap/v1/scope\0" + content).hexdigest()
    require(digest == vector["sha256"], "scope")


def normalise(how, value):
    if how == "none":
        return value
    try:
        return value.decode().strip(WHITE_SPACE).lower().encode()
    except UnicodeDecodeError:
        return value.strip(b" \t\n\x0c\r").lower()


def check_index(vector):
    hexed = lambda name: bytes.fromhex(vector[name])
    generation = bytes([vector["generation"]])
    key = hkdf(None, hexed("dek"), b"kms_wrap/v1/bidx\0" + hexed("column_uuid") + generation, 32)
    require(key == hexed("index_key"), "index key")
    normalised = normalise(vector["normalise"], hexed("value"))
    require(normalised == hexed("normalised"), "normalised value")
    tag = hmac.digest(key, bytes([TYPES[vector["type"]]]) + normalised, "sha256")
    require(generation + tag[: vector["bytes"]] == hexed("entry"), "entry")


def main():
    default = os.path.join(os.path.dirname(os.path.abspath(__file__)), "values_v1.json")
    with open(sys.argv[1] if len(sys.argv) > 1 else default, encoding="utf-8") as file:
        vectors = json.load(file)
    checks = {"values": check_value, "scopes": check_scope, "blind_index": check_index}
    counts = {True: 0, False: 0}
    for kind, check in checks.items():
        for number, vector in enumerate(vectors[kind], 1):
            name = f"{kind} {number}: {vector['description']}" if "description" in vector else f"{kind} {number}"
            try:
                check(vector)
                counts[True] += 1
                print(f"ok      {name}")
            except (ValueError, KeyError, IndexError, struct.error, InvalidTag) as error:
                counts[False] += 1
                print(f"FAILED  {name}: {error!r}")
    print(f"{counts[True]} came out, {counts[False]} failed")
    return 1 if counts[False] or not counts[True] else 0


if __name__ == "__main__":
    sys.exit(main())
