"""Google's own client library against the double of Cloud KMS. The last line of the output is a blob of the library's."""

import base64
import sys

from google.api_core import exceptions
from google.cloud.kms_v1 import KeyManagementServiceClient
from google.cloud.kms_v1.services.key_management_service.transports.rest import KeyManagementServiceRestTransport
from google.oauth2 import service_account

url, account, key, other, disabled, blob, share, aad = sys.argv[1:]
blob, share, aad = (bytes.fromhex(text) for text in (blob, share, aad))
credentials = service_account.Credentials.from_service_account_file(
    account, scopes=["https://www.googleapis.com/auth/cloudkms"]
)
client = KeyManagementServiceClient(
    transport=KeyManagementServiceRestTransport(
        host=url.removeprefix("http://"), url_scheme="http", credentials=credentials
    )
)


def refused(error, call, *arguments, **named):
    try:
        call(*arguments, **named)
    except error:
        return
    raise AssertionError(f"no {error.__name__}")


def crc32c(data):
    rest = 0xFFFFFFFF
    for byte in data:
        rest ^= byte
        for _ in range(8):
            rest = (rest >> 1) ^ (0x82F63B78 if rest & 1 else 0)
    return rest ^ 0xFFFFFFFF


found = client.get_crypto_key(name=key)
version = found.primary.name
assert found.name == key and version == f"{key}/cryptoKeyVersions/1", found
assert found.purpose.name == "ENCRYPT_DECRYPT" and found.primary.state.name == "ENABLED", found
assert found.primary.algorithm.name == "GOOGLE_SYMMETRIC_ENCRYPTION", found
assert client.get_crypto_key_version(name=version).name == version

# What the provider wrapped is what the library opens. Over REST it tells errors by the status only.
request = {
    "name": key,
    "ciphertext": blob,
    "ciphertext_crc32c": crc32c(blob),
    "additional_authenticated_data": aad,
    "additional_authenticated_data_crc32c": crc32c(aad),
}
answer = client.decrypt(request=request)
assert answer.plaintext == share and answer.plaintext_crc32c == crc32c(share) and answer.used_primary, answer
refused(exceptions.BadRequest, client.decrypt, request=request | {"additional_authenticated_data": b"", "additional_authenticated_data_crc32c": 0})
refused(exceptions.BadRequest, client.decrypt, request=request | {"ciphertext_crc32c": 1})
refused(exceptions.BadRequest, client.decrypt, request=request | {"name": other})
refused(exceptions.NotFound, client.decrypt, request=request | {"name": key + "x"})
refused(exceptions.BadRequest, client.encrypt, name=disabled, plaintext=share)

answer = client.encrypt(
    request={
        "name": version,
        "plaintext": share,
        "plaintext_crc32c": crc32c(share),
        "additional_authenticated_data": aad,
        "additional_authenticated_data_crc32c": crc32c(aad),
    }
)
assert answer.name == version and answer.ciphertext_crc32c == crc32c(answer.ciphertext), answer
assert answer.verified_plaintext_crc32c and answer.verified_additional_authenticated_data_crc32c, answer
assert not client.encrypt(name=key, plaintext=share).verified_plaintext_crc32c
print(base64.b64encode(answer.ciphertext).decode())
