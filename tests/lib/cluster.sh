# shellcheck shell=bash
# Throw-away clusters for tests, demo and benchmarks: on a unix socket only,
# in a temporary directory, stopped and removed when the script ends.
#
#   . tests/lib/cluster.sh
#   setup                                        # machine, PostgreSQL, cargo-pgrx
#   install_extension release                    # build and install, once a run
#   cluster_start shared_preload_libraries=kms_wrap
#   psql -X -c 'CREATE EXTENSION kms_wrap'       # PGHOST, PGUSER, ... are set
#   cluster_restart kms_wrap.worker_databases=postgres
#   cluster_stop
#
# After cluster_start: CLUSTER is the directory, CLUSTER/data the data
# directory, KMS_WRAP_KEY_DIR where the extension keeps root key files,
# CLUSTER/log the server's log, and psql, pg_dump, ... are first in PATH.

# shellcheck source=tests/lib/setup.sh
. "$(dirname "${BASH_SOURCE[0]}")/setup.sh"

# as_server COMMAND...: as the user that owns the cluster, in a directory
# that user may enter.
as_server() {
    if ((EUID == 0)); then
        (cd / && exec runuser -u "$KW_SERVER_USER" -- env HOME=/ "$@")
    else
        (cd / && exec "$@")
    fi
}

# cluster_start [SETTING=VALUE...]: a new cluster, which becomes the current one.
cluster_start() {
    CLUSTER=$(mktemp -d "$KW_TMP/c.XXXXXX")
    if ((EUID == 0)); then chown "$KW_SERVER_USER:" "$CLUSTER"; fi
    run_logged initdb as_server "$PG_BINDIR/initdb" -D "$CLUSTER/data" -U postgres -A trust \
        --encoding=UTF8 --locale=C --no-sync || return 1
    # The socket's directory is closed to other users: that is what makes "trust" safe.
    as_server tee -a "$CLUSTER/data/postgresql.conf" >/dev/null <<CONF
listen_addresses = ''
unix_socket_directories = '$CLUSTER'
fsync = off
timezone = 'UTC'
log_line_prefix = '%m [%p] '
max_connections = 50
CONF
    PGHOST=$CLUSTER PGPORT=5432 PGUSER=postgres PGDATABASE=postgres
    KMS_WRAP_KEY_DIR=$CLUSTER/data.kms_wrap
    [[ :$PATH: == *:"$PG_BINDIR":* && $(command -v psql) == "$PG_BINDIR/psql" ]] || PATH=$PG_BINDIR:$PATH
    # Read by SoftHSM in the server, if a provider has it loaded; need not exist.
    SOFTHSM2_CONF=$CLUSTER/softhsm2.conf
    export CLUSTER PGHOST PGPORT PGUSER PGDATABASE KMS_WRAP_KEY_DIR SOFTHSM2_CONF PATH
    cluster_set "$@"
    cluster_up
}

# cluster_set SETTING=VALUE...: for the next start; '' is an empty value.
cluster_set() {
    local setting value
    for setting; do
        value=${setting#*=}
        printf "%s = '%s'\n" "${setting%%=*}" "${value//\'/\'\'}"
    done | as_server tee -a "$CLUSTER/data/postgresql.conf" >/dev/null
}

cluster_up() {
    as_server "$PG_BINDIR/pg_ctl" start -s -w -t 60 -D "$CLUSTER/data" -l "$CLUSTER/log" </dev/null >/dev/null 2>&1 && return 0
    say "the server did not start; its log:"
    tail -n 50 "$CLUSTER/log" >&2
    return 1
}

cluster_down() {
    as_server "$PG_BINDIR/pg_ctl" stop -s -w -t 60 -m "${1:-fast}" -D "$CLUSTER/data"
}

cluster_restart() {
    cluster_set "$@"
    cluster_down
    cluster_up
}

# cluster_stop: stops and removes the current cluster.
cluster_stop() {
    cluster_down immediate
    rm -rf "$CLUSTER"
    unset CLUSTER PGHOST PGPORT PGUSER PGDATABASE KMS_WRAP_KEY_DIR SOFTHSM2_CONF
}
