# shellcheck shell=bash
# moto, which answers as AWS KMS, STS and IAM do, from the Python registry into the cache.

# Pinned with all that it needs: another version is a change of this file.
KW_MOTO_VERSION=5.2.5
KW_MOTO_PACKAGES=(
    "moto==$KW_MOTO_VERSION" blinker==1.9.0 boto3==1.44.5 botocore==1.44.5 certifi==2026.10.18 cffi==2.1.1
    charset-normalizer==3.5.2 click==8.5.1 cryptography==50.0.2 Flask==3.1.3 flask-cors==6.0.5 idna==3.20
    itsdangerous==2.2.0 Jinja2==3.1.6 jmespath==1.1.0 MarkupSafe==3.0.4 pycparser==3.12 python-dateutil==2.9.0.post0
    PyYAML==6.0.3 requests==2.34.2 responses==0.26.3 s3transfer==0.19.3 six==1.17.0 urllib3==2.8.0 Werkzeug==3.1.9
    xmltodict==1.0.4
)

# fetch_moto: fetches when needed, and says in KMS_WRAP_MOTO where the server is.
fetch_moto() {
    local dir=$KW_CACHE/moto-$KW_MOTO_VERSION
    if [[ ! -e $dir/complete ]]; then
        # The system's Python: one of a user's own may lie where others can't read.
        if ((EUID == 0)) && command -v apt-get >/dev/null; then apt_install python3 python3-venv; fi
        [[ -x /usr/bin/python3 ]] || die "missing on this machine: /usr/bin/python3"
        say "fetching moto $KW_MOTO_VERSION"
        rm -rf "$dir"
        mkdir -p "$KW_CACHE"
        run_logged "python3 -m venv" /usr/bin/python3 -m venv "$dir" || die "no Python environment for moto: is python3-venv installed?"
        run_logged "pip install" "$dir/bin/python" -m pip install -q --no-deps "${KW_MOTO_PACKAGES[@]}" || die "moto could not be fetched"
        : >"$dir/complete"
    fi
    [[ -x $dir/bin/moto_server ]] || die "$dir has no moto_server: remove it, and run again"
    export KMS_WRAP_MOTO=$dir/bin/moto_server
}
