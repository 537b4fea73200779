# shellcheck shell=bash
# Makes a machine ready: packages, cargo-pgrx and pgrx's configuration, and
# says which PostgreSQL is used. Everything is skipped when it is there.
# shellcheck disable=SC2034  # what is set here is used by the files that source this one

# shellcheck source=tests/lib/common.sh
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

KW_DEBIAN_PG_CONFIG=/usr/lib/postgresql/15/bin/pg_config
KW_PGRX_VERSION=$(sed -n 's/^pgrx = .*"=\([0-9.]*\)".*/\1/p' "$KW_ROOT/Cargo.toml")

# setup: all of it. Afterwards PG_CONFIG, PG_BINDIR, PG_MAJOR and PG_PGXS_DIR are set.
setup() {
    make_tmp
    find_cargo
    mkdir -p "$KW_CACHE"
    # Two runs at once must not install the same thing twice.
    exec {KW_LOCK}>"$KW_CACHE/lock"
    flock -w 3600 "$KW_LOCK" || die "another run has held $KW_CACHE/lock for an hour"
    install_packages
    PG_CONFIG=${PG_CONFIG:-$(default_pg_config)}
    select_postgres "$PG_CONFIG"
    check_tools
    check_server_user
    install_cargo_pgrx
    exec {KW_LOCK}>&-
}

find_cargo() {
    command -v cargo >/dev/null || PATH=$HOME/.cargo/bin:$PATH
    command -v cargo >/dev/null || die "cargo is missing: install Rust $(rust_version) first"
}

rust_version() { sed -n 's/^rust-version = "\(.*\)"/\1/p' "$KW_ROOT/Cargo.toml"; }

# Root on Debian gets the packages; everybody else brings a PostgreSQL.
uses_apt() { ((EUID == 0)) && [[ -z ${PG_CONFIG:-} ]] && command -v apt-get >/dev/null; }

default_pg_config() {
    if [[ -x $KW_DEBIAN_PG_CONFIG ]]; then
        echo "$KW_DEBIAN_PG_CONFIG"
    else
        command -v pg_config || die "pg_config is missing: set PG_CONFIG to the pg_config of a PostgreSQL 15 to 18 with its headers"
    fi
}

install_packages() {
    uses_apt || return 0
    apt_install postgresql-15 postgresql-server-dev-15 libclang-dev clang gcc libc6-dev make pkg-config libssl-dev
}

# apt_install PACKAGE...: those that are missing, without asking anything.
apt_install() {
    local package missing=()
    for package; do
        [[ $(dpkg-query -W -f='${db:Status-Status}' "$package" 2>/dev/null) == installed ]] || missing+=("$package")
    done
    ((${#missing[@]})) || return 0
    no_main_cluster
    say "installing packages: ${missing[*]}"
    export DEBIAN_FRONTEND=noninteractive
    run_logged apt-get apt-get update -qq || die "apt-get update failed"
    run_logged apt-get apt-get install -y -qq --no-install-recommends "${missing[@]}" || die "apt-get install failed"
}

# Debian's package makes a cluster on TCP port 5432 and starts it. A machine
# that had no PostgreSQL must not get a server just because tests ran on it.
no_main_cluster() {
    local conf=/etc/postgresql-common/createcluster.conf
    [[ -e $conf ]] && return 0
    mkdir -p "${conf%/*}"
    printf '# Written by the tests of kms_wrap, so that installing PostgreSQL starts no server.\n%s\n' \
        'create_main_cluster = false' >"$conf"
}

# select_postgres PG_CONFIG: makes this one the current PostgreSQL.
select_postgres() {
    [[ -x $1 ]] || die "no such program: PG_CONFIG=$1"
    PG_CONFIG=$(realpath -s "$1")
    local version
    version=$("$PG_CONFIG" --version)
    version=${version#PostgreSQL }
    PG_MAJOR=${version%%[!0-9]*}
    ((PG_MAJOR >= 15 && PG_MAJOR <= 18)) || die "PostgreSQL 15 to 18 is needed, $PG_CONFIG is of $version"
    PG_BINDIR=$("$PG_CONFIG" --bindir)
    PG_PGXS_DIR=$(dirname "$("$PG_CONFIG" --pgxs)")/../..
    KMS_WRAP_PG_CONFIG=$PG_CONFIG
    export PG_CONFIG PG_MAJOR PG_BINDIR KMS_WRAP_PG_CONFIG
    select_pgrx_home
}

# What is missing is said at once, all of it, before a long build.
check_tools() {
    local missing=() libclang
    command -v cc >/dev/null || missing+=("a C compiler (cc)")
    [[ -f $("$PG_CONFIG" --includedir-server)/postgres.h ]] || missing+=("the server's headers of $PG_CONFIG")
    [[ -x $PG_BINDIR/initdb && -x $PG_BINDIR/psql ]] || missing+=("initdb and psql in $PG_BINDIR")
    if [[ -z ${LIBCLANG_PATH:-} ]]; then
        libclang=$(find /usr/lib /usr/lib64 /usr/local/lib -name 'libclang*.so*' -print -quit 2>/dev/null || true)
        [[ -n $libclang ]] || missing+=("libclang (or LIBCLANG_PATH)")
    fi
    ((${#missing[@]} == 0)) || {
        local item
        say "missing on this machine:"
        for item in "${missing[@]}"; do say "  - $item"; done
        exit 1
    }
}

check_server_user() {
    ((EUID == 0)) || return 0
    id -u "$KW_SERVER_USER" >/dev/null 2>&1 ||
        die "a server can't run as root and there is no user $KW_SERVER_USER: make one, or name one in KMS_WRAP_SERVER_USER"
    can_read "$PG_BINDIR/postgres" || die "user $KW_SERVER_USER can't read $PG_BINDIR/postgres"
}

# can_read FILE: whether the server's user can.
can_read() {
    if ((EUID == 0)); then (cd / && runuser -u "$KW_SERVER_USER" -- test -r "$1"); else [[ -r $1 ]]; fi
}

# cargo-pgrx has to be of pgrx's own version and of the compiler in use, so both are in the folder's name.
install_cargo_pgrx() {
    local rust dir
    [[ -n $KW_PGRX_VERSION ]] || die "Cargo.toml names no exact version of pgrx"
    rust=$(rustc --version | cut -d' ' -f2)
    dir=$KW_CACHE/cargo-pgrx-$KW_PGRX_VERSION-rust-$rust
    PATH=$dir/bin:$PATH
    export PATH
    [[ $(cargo pgrx --version 2>/dev/null) == "cargo-pgrx $KW_PGRX_VERSION" ]] && return 0
    say "installing cargo-pgrx $KW_PGRX_VERSION (some minutes, once)"
    (
        unset CARGO_TARGET_DIR
        # Unoptimised: it builds in half the time and waits for rustc anyhow.
        run_logged "cargo install" cargo install --locked --debug --root "$dir" cargo-pgrx --version "=$KW_PGRX_VERSION"
    ) || die "cargo-pgrx did not install"
}

# pgrx's configuration is one line. It is written by hand because `cargo pgrx
# init` also makes data directories, and only when it changed because its time
# stamp decides whether the bindings are generated again.
select_pgrx_home() {
    local text
    PGRX_HOME=$KW_CACHE/pgrx/pg$PG_MAJOR-$(cksum <<<"$PG_CONFIG" | cut -d' ' -f1)
    export PGRX_HOME
    text="[configs]
pg$PG_MAJOR = \"$PG_CONFIG\""
    [[ -f $PGRX_HOME/config.toml && $(<"$PGRX_HOME/config.toml") == "$text" ]] && return 0
    mkdir -p "$PGRX_HOME"
    printf '%s\n' "$text" >"$PGRX_HOME/config.toml"
}

# install_extension PROFILE: builds for the current PostgreSQL and installs, once a run.
install_extension() {
    local profile=$1 done_mark
    done_mark=$KW_TMP/installed-$(cksum <<<"$PG_CONFIG$profile" | cut -d' ' -f1)
    [[ -e $done_mark ]] && return 0
    local dir
    for dir in "$("$PG_CONFIG" --pkglibdir)" "$("$PG_CONFIG" --sharedir)/extension"; do
        [[ -w $dir ]] || {
            say "no right to write to $dir: run as its owner, or set PG_CONFIG to a PostgreSQL of your own"
            return 1
        }
    done
    say "building and installing for PostgreSQL $PG_MAJOR (some minutes when it is the first time)"
    run_logged "cargo pgrx install" build_and_install "$profile" || return 1
    : >"$done_mark"
}

# The versions of the matrix share one target directory: cargo keeps their
# bindings apart by feature, and the other crates are built once for all.
build_and_install() (
    cd "$KW_ROOT" || exit 1
    if [[ $1 == release ]]; then CARGO_TARGET_DIR=$KW_TARGET/pg$PG_MAJOR; else CARGO_TARGET_DIR=$KW_TARGET/$1; fi
    export CARGO_TARGET_DIR
    cargo pgrx install --profile "$1" --pg-config "$PG_CONFIG" --no-default-features --features "pg$PG_MAJOR $KW_FEATURES"
)

uninstall_extension() {
    rm -f "$("$PG_CONFIG" --pkglibdir)/kms_wrap.so" "$("$PG_CONFIG" --sharedir)/extension/kms_wrap.control" \
        "$("$PG_CONFIG" --sharedir)"/extension/kms_wrap--*.sql
}
