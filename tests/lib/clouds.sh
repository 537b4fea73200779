# shellcheck shell=bash
# The client libraries of Google and Microsoft, which judge the doubles of their services.

KW_CLOUD_SDKS_VERSION=1
KW_CLOUD_SDKS_PACKAGES=(
    google-cloud-kms==3.18.0 google-api-core==2.44.0 google-auth==2.62.2 googleapis-common-protos==1.76.0
    grpc-google-iam-v1==0.14.6 grpcio==1.85.1 grpcio-status==1.85.1 proto-plus==1.29.0 protobuf==7.36.2
    pyasn1==0.6.5 pyasn1_modules==0.4.2 azure-core==1.41.0 azure-identity==1.27.0 azure-keyvault-keys==4.11.3
    isodate==0.7.2 msal==1.39.0 msal-extensions==1.3.1 PyJWT==2.15.1 opentelemetry-api==1.45.2
    typing_extensions==4.16.0 certifi==2026.10.18 cffi==2.1.1 charset-normalizer==3.5.2 cryptography==50.0.2
    idna==3.20 pycparser==3.12 requests==2.34.2 urllib3==2.8.0
)

# fetch_cloud_sdks: fetches when needed, and says in KMS_WRAP_CLOUD_SDKS which Python has them.
fetch_cloud_sdks() {
    python_env "cloud-sdks-$KW_CLOUD_SDKS_VERSION" "${KW_CLOUD_SDKS_PACKAGES[@]}"
    export KMS_WRAP_CLOUD_SDKS=$PYTHON_ENV/bin/python
}
