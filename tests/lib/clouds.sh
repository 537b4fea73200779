# shellcheck shell=bash
# The client libraries of Google and Microsoft, which judge the doubles of
# their services, from the Python registry into the cache.

# Pinned with all that they need.
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
    local dir=$KW_CACHE/cloud-sdks-$KW_CLOUD_SDKS_VERSION
    if [[ ! -e $dir/complete ]]; then
        # The system's Python: one of a user's own may lie where others can't read.
        if ((EUID == 0)) && command -v apt-get >/dev/null; then apt_install python3 python3-venv; fi
        [[ -x /usr/bin/python3 ]] || die "missing on this machine: /usr/bin/python3"
        say "fetching the client libraries of Google and Microsoft"
        rm -rf "$dir"
        mkdir -p "$KW_CACHE"
        run_logged "python3 -m venv" /usr/bin/python3 -m venv "$dir" || die "no Python environment: is python3-venv installed?"
        run_logged "pip install" "$dir/bin/python" -m pip install -q --no-deps --only-binary=:all: "${KW_CLOUD_SDKS_PACKAGES[@]}" ||
            die "the client libraries could not be fetched"
        : >"$dir/complete"
    fi
    [[ -x $dir/bin/python ]] || die "$dir has no python: remove it, and run again"
    export KMS_WRAP_CLOUD_SDKS=$dir/bin/python
}
