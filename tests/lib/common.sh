# shellcheck shell=bash
# What every script of the harness shares: paths, messages, the temporary
# directory and its clean-up, and the counts of passed and failed tests.
# shellcheck disable=SC2034  # what is set here is used by the files that source this one

[[ -n ${KW_ROOT:-} ]] && return 0

KW_ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
KW_TARGET=${KMS_WRAP_TARGET:-$KW_ROOT/target}
if [[ -n ${KMS_WRAP_CACHE:-} ]]; then
    KW_CACHE=$KMS_WRAP_CACHE
elif ((EUID == 0)); then
    KW_CACHE=/var/cache/kms_wrap
else
    KW_CACHE=${XDG_CACHE_HOME:-$HOME/.cache}/kms_wrap
fi

# What is built besides the extension for one PostgreSQL: key providers of clouds.
KW_FEATURES=${KMS_WRAP_FEATURES-clouds}

# The server refuses to run as root, so root hands everything that touches a
# cluster to this user; that user must be able to read what we make for it.
KW_SERVER_USER=${KMS_WRAP_SERVER_USER:-postgres}
umask 022

# Rust puts a backtrace into the client's error message when these are set.
unset RUST_BACKTRACE RUST_LIB_BACKTRACE
# A caller's libpq settings must not redirect a test to another server.
unset PGHOST PGHOSTADDR PGPORT PGUSER PGDATABASE PGPASSWORD PGPASSFILE PGSERVICE PGSERVICEFILE \
    PGOPTIONS PGDATA PGSSLMODE PGAPPNAME PGTZ PGDATESTYLE PGCLIENTENCODING PGCHANNELBINDING

say() { printf '%s\n' "$*" >&2; }
die() {
    say "error: $*"
    exit 1
}

# run_logged NAME COMMAND...: quiet when it works, the whole output when not.
run_logged() {
    local name=$1 log
    shift
    log=$(mktemp "$KW_TMP/log.XXXXXX")
    if "$@" >"$log" 2>&1; then
        rm -f "$log"
        return 0
    fi
    say "--- $name failed: $*"
    cat "$log" >&2
    return 1
}

# The temporary directory has a short path, because a socket's path has to
# stay under about 100 bytes, and lies where the server's user can read.
make_tmp() {
    [[ -n ${KW_TMP:-} ]] && return 0
    KW_TMP=$(mktemp -d /tmp/kmsw.XXXXXX)
    chmod 755 "$KW_TMP"
    export KW_TMP
    trap clean_up EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM HUP
}

# Stops whatever server still has its data directory under KW_TMP, whoever
# started it (a Rust test that was killed can't do it itself).
clean_up() {
    local code=$? pidfile
    trap - EXIT
    set +e
    for pidfile in "$KW_TMP"/*/data/postmaster.pid "$KW_TMP"/*/*/data/postmaster.pid; do
        [[ -f $pidfile ]] && stop_by_pid_file "$pidfile"
    done
    # Nothing but what make_tmp made, whatever a caller has put into KW_TMP.
    [[ $KW_TMP == /tmp/kmsw.?????? ]] && rm -rf "$KW_TMP"
    exit "$code"
}

# SIGQUIT is the immediate shutdown; SIGKILL is for a server that is stuck.
stop_by_pid_file() {
    local pid i
    read -r pid <"$1" || return 0
    [[ $pid =~ ^[0-9]+$ ]] || return 0
    kill -QUIT "$pid" 2>/dev/null || return 0
    for ((i = 0; i < 100; i++)); do
        kill -0 "$pid" 2>/dev/null || return 0
        sleep 0.1
    done
    kill -KILL "$pid" 2>/dev/null
}

# Results are lines in a file: a tier runs in a subshell, and a file survives it.
pass() { printf 'pass %s\n' "$1" >>"$KW_TMP/results"; }
fail() {
    printf 'fail %s\n' "$1" >>"$KW_TMP/results"
    printf 'FAILED: %s\n' "$1"
}
# check NAME COMMAND...: one test that is a command.
check() {
    local name=$1 start=$SECONDS
    shift
    if run_logged "$name" "$@"; then
        pass "$name"
        printf '   ok %s (%d s)\n' "$name" $((SECONDS - start))
    else
        fail "$name"
    fi
}
# count_results WORD: how many lines of results start with it.
count_results() {
    [[ -f $KW_TMP/results ]] || { echo 0; return; }
    awk -v word="$1" '$1 == word { n += ($2 ~ /^\*[0-9]+$/) ? substr($2, 2) : 1 } END { print n + 0 }' "$KW_TMP/results"
}
# add_counts PASSED FAILED: counts that another program made.
add_counts() {
    printf 'pass *%d\nfail *%d\n' "$1" "$2" >>"$KW_TMP/results"
}
