# shellcheck shell=bash
# PKCS#11 tokens in software for the provider tests: SoftHSM, the same through
# p11-kit's proxy, which is as strict about fork as modules of hardware are,
# and Kryoptic, which has ML-KEM. Source after tests/lib/setup.sh.

KW_KRYOPTIC_VERSION=1.5.4
KW_LIB_DIR=/usr/lib/$(uname -m)-linux-gnu

# pkcs11_setup: afterwards the environment says which modules there are, and
# where the tests may make tokens. What can't be installed is an error.
pkcs11_setup() {
    local dir=$KW_TMP/pkcs11
    if ((EUID == 0)) && command -v apt-get >/dev/null; then
        apt_install softhsm2 opensc p11-kit p11-kit-modules gcc libc6-dev make perl pkg-config libsqlite3-dev || return 1
    fi
    find_softhsm || return 1
    KMS_WRAP_TEST_P11KIT=$(first_file "$KW_LIB_DIR/p11-kit-proxy.so" /usr/lib64/p11-kit-proxy.so)
    [[ -n $KMS_WRAP_TEST_P11KIT ]] || { say "p11-kit-proxy.so is missing: install p11-kit-modules"; return 1; }
    local program
    for program in softhsm2-util pkcs11-tool; do
        command -v "$program" >/dev/null || { say "$program is missing: install softhsm2 and opensc"; return 1; }
    done
    build_kryoptic || return 1
    build_failing_module || return 1
    # Fresh, and of the user that runs the tests: SoftHSM does not see a token that it may not write.
    rm -rf "$dir"
    mkdir -p "$dir/softhsm/tokens" "$dir/kryoptic"
    chmod -R go= "$dir"
    printf 'directories.tokendir = %s\nobjectstore.backend = file\nlog.level = ERROR\n' "$dir/softhsm/tokens" >"$dir/softhsm/softhsm2.conf"
    local slot
    for slot in 42 43; do
        printf '[[slots]]\nslot = %d\ndbtype = "sqlite"\ndbargs = "%s"\n' "$slot" "$dir/kryoptic/$slot.sql"
    done >"$dir/kryoptic/kryoptic.conf"
    export SOFTHSM2_CONF=$dir/softhsm/softhsm2.conf KRYOPTIC_CONF=$dir/kryoptic/kryoptic.conf
    export KMS_WRAP_TEST_SOFTHSM KMS_WRAP_TEST_P11KIT KMS_WRAP_TEST_KRYOPTIC KMS_WRAP_TEST_FAILING KMS_WRAP_TEST_PKCS11_DIR=$dir
}

# provide_softhsm: the module and its tools, without tokens.
provide_softhsm() {
    need_programs softhsm2-util:softhsm2 pkcs11-tool:opensc
    find_softhsm || die "SoftHSM is needed"
}

# provide_kryoptic: the module, without a token.
provide_kryoptic() {
    if ((EUID == 0)) && command -v apt-get >/dev/null; then
        apt_install gcc libc6-dev make perl pkg-config libsqlite3-dev || die "Kryoptic cannot be built"
    fi
    build_kryoptic || die "Kryoptic is needed"
    export KMS_WRAP_TEST_KRYOPTIC
}

find_softhsm() {
    KMS_WRAP_TEST_SOFTHSM=$(first_file /usr/lib/softhsm/libsofthsm2.so "$KW_LIB_DIR/softhsm/libsofthsm2.so" /usr/lib64/libsofthsm2.so)
    export KMS_WRAP_TEST_SOFTHSM
    [[ -n $KMS_WRAP_TEST_SOFTHSM ]] || { say "libsofthsm2.so is missing: install softhsm2"; return 1; }
}

first_file() {
    local file
    for file; do
        [[ -f $file ]] && { echo "$file"; return 0; }
    done
    return 0
}

# Kryoptic is published as a library to link; this makes the module of it, with
# an OpenSSL of its own, since ML-KEM came with 3.5.
build_kryoptic() {
    local rust dir
    rust=$(rustc --version | cut -d' ' -f2)
    dir=$KW_CACHE/kryoptic-$KW_KRYOPTIC_VERSION-rust-$rust
    KMS_WRAP_TEST_KRYOPTIC=$dir/libkryoptic_pkcs11.so
    [[ -f $KMS_WRAP_TEST_KRYOPTIC ]] && return 0
    say "building Kryoptic $KW_KRYOPTIC_VERSION (some minutes, once)"
    mkdir -p "$dir.build/src" "$dir"
    cat >"$dir.build/Cargo.toml" <<TOML
[package]
name = "kryoptic_pkcs11"
version = "$KW_KRYOPTIC_VERSION"
edition = "2021"
publish = false

[workspace]

[lib]
crate-type = ["cdylib"]

[dependencies]
kryoptic-lib = { version = "=$KW_KRYOPTIC_VERSION", default-features = false, features = ["standard", "pqc", "openssl-sys"] }
ossl = { version = "=$KW_KRYOPTIC_VERSION", default-features = false, features = ["openssl-sys"] }
openssl-sys = { version = "0.9", features = ["vendored"] }
TOML
    cat >"$dir.build/src/lib.rs" <<'RUST'
use kryoptic_lib::{fns::general::*, pkcs11::*};

#[no_mangle]
pub extern "C" fn C_GetFunctionList(list: CK_FUNCTION_LIST_PTR_PTR) -> CK_RV {
    fn_get_function_list(list)
}

#[no_mangle]
pub extern "C" fn C_GetInterfaceList(list: CK_INTERFACE_PTR, count: CK_ULONG_PTR) -> CK_RV {
    fn_get_interface_list(list, count)
}

#[no_mangle]
pub extern "C" fn C_GetInterface(name: CK_UTF8CHAR_PTR, version: CK_VERSION_PTR, list: CK_INTERFACE_PTR_PTR, flags: CK_FLAGS) -> CK_RV {
    fn_get_interface(name, version, list, flags)
}
RUST
    (
        cd "$dir.build" || exit 1
        CARGO_TARGET_DIR=$dir.build/target run_logged "cargo build of Kryoptic" timeout 1800 cargo build --release
    ) || return 1
    cp "$dir.build/target/release/libkryoptic_pkcs11.so" "$KMS_WRAP_TEST_KRYOPTIC.new" || return 1
    # Whole or not at all.
    mv "$KMS_WRAP_TEST_KRYOPTIC.new" "$KMS_WRAP_TEST_KRYOPTIC" || return 1
    rm -rf "$dir.build"
}

# SoftHSM with trouble on demand: see the source.
build_failing_module() {
    KMS_WRAP_TEST_FAILING=$KW_TMP/failing_module.so
    run_logged cc cc -shared -fPIC -O1 -Wall -Werror -DREAL_MODULE="\"$KMS_WRAP_TEST_SOFTHSM\"" \
        -o "$KMS_WRAP_TEST_FAILING" "$KW_ROOT/tests/providers/failing_module.c" -ldl
}
