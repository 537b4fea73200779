# shellcheck shell=bash
# Python programs that tests use, from the Python registry into the cache.

# python_env NAME PACKAGE...: an environment with these packages and no others, made when it is not there. A package is pinned, with all that it
# needs: another version is a change of the name. Says in PYTHON_ENV where it is.
python_env() {
    local name=$1 dir=$KW_CACHE/$1
    shift
    if [[ ! -e $dir/complete ]]; then
        # The system's Python: one of a user's own may lie where others can't read.
        if ((EUID == 0)) && command -v apt-get >/dev/null; then apt_install python3 python3-venv; fi
        [[ -x /usr/bin/python3 ]] || die "missing on this machine: /usr/bin/python3"
        say "fetching $name"
        rm -rf "$dir"
        mkdir -p "$KW_CACHE"
        run_logged "python3 -m venv" /usr/bin/python3 -m venv "$dir" || die "no Python environment for $name: is python3-venv installed?"
        run_logged "pip install" "$dir/bin/python" -m pip install -q --no-deps --only-binary=:all: "$@" || die "$name could not be fetched"
        : >"$dir/complete"
    fi
    [[ -x $dir/bin/python ]] || die "$dir has no python: remove it, and run again"
    # shellcheck disable=SC2034 # read by whoever asked for it
    PYTHON_ENV=$dir
}
