"""Microsoft's own client library against the double of a Managed HSM. The last lines of the output are blobs of the library's."""

import sys

from azure.core.credentials import AccessToken
from azure.core.exceptions import HttpResponseError, ResourceNotFoundError
from azure.core.pipeline.transport import RequestsTransport
from azure.keyvault.keys import KeyClient
from azure.keyvault.keys.crypto import CryptographyClient, EncryptionAlgorithm, KeyWrapAlgorithm

url, token, symmetric, rsa, disabled, sealed, wrapped, share, aad = sys.argv[1:]
sealed, wrapped, share, aad = (bytes.fromhex(text) for text in (sealed, wrapped, share, aad))


class Plain(RequestsTransport):
    """The double has no TLS, and the library wants it: the one thing that differs from the real service."""

    def send(self, request, **named):
        address = request.url
        request.url = address.replace("https://", "http://", 1)
        try:
            return super().send(request, **named)
        finally:
            request.url = address


class Credential:
    def get_token(self, *scopes, **named):
        assert scopes == ("https://managedhsm.azure.net/.default",), scopes
        return AccessToken(token, 2**33)


common = {"credential": Credential(), "verify_challenge_resource": False, "api_version": "7.4", "retry_total": 0}
client = KeyClient(url.replace("http://", "https://"), transport=Plain(), **common)


def refused(status, call, *arguments, **named):
    try:
        call(*arguments, **named)
    except HttpResponseError as error:
        assert error.status_code == status, error
        return
    raise AssertionError(f"no error {status}")


def crypto(key):
    # By its address, so that the library asks the service for what it could do itself.
    return CryptographyClient(key.id.replace("http://", "https://"), transport=Plain(), **common)


key = client.get_key(symmetric)
assert key.name == symmetric and key.key_type == "oct-HSM" and key.properties.enabled, key
assert client.get_key(symmetric, key.properties.version).id == key.id
version, rest = sealed.split(b"\0", 1)
assert version.decode() == key.properties.version
iv, tag, value = rest[:12], rest[12:28], rest[28:]
arguments = {"iv": iv, "authentication_tag": tag, "additional_authenticated_data": aad}
assert crypto(key).decrypt(EncryptionAlgorithm.a256_gcm, value, **arguments).plaintext == share
refused(400, crypto(key).decrypt, EncryptionAlgorithm.a256_gcm, value, **arguments | {"additional_authenticated_data": b"x"})
made = crypto(key).encrypt(EncryptionAlgorithm.a256_gcm, share, additional_authenticated_data=aad)
assert made.key_id == key.id and len(made.iv) == 12 and len(made.tag) == 16, made
print((version + b"\0" + made.iv + made.tag + made.ciphertext).hex())

key = client.get_key(rsa)
assert key.key_type == "RSA-HSM" and "unwrapKey" in key.key_operations, key
version, value = wrapped.split(b"\0", 1)
assert version.decode() == key.properties.version
assert crypto(key).unwrap_key(KeyWrapAlgorithm.rsa_oaep_256, value).key == share
refused(400, crypto(key).unwrap_key, KeyWrapAlgorithm.rsa_oaep_256, value[::-1])
print((version + b"\0" + crypto(key).wrap_key(KeyWrapAlgorithm.rsa_oaep_256, share).encrypted_key).hex())

key = client.get_key(disabled)
assert not key.properties.enabled
refused(403, crypto(key).unwrap_key, KeyWrapAlgorithm.rsa_oaep_256, value)
try:
    client.get_key(rsa + "x")
except ResourceNotFoundError:
    sys.exit(0)
raise AssertionError("no error")
