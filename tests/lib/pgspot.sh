# shellcheck shell=bash
# pgspot, which reads the extension's script as somebody who plants objects on a search path.

KW_PGSPOT_VERSION=0.9.4
KW_PGSPOT_PACKAGES=("pgspot==$KW_PGSPOT_VERSION" pglast==7.21)

# Procedures that commit, which can't have a search path of their own: their bodies are looked at as others are.
KW_PGSPOT_COMMITTING=(
    'kms_wrap.kw_run_jobs(max_batches integer,batch_size integer)'
    'kms_wrap.kw_encrypt_column(relation pg_catalog.regclass,column_name pg_catalog.name,batch_size integer,rewrite boolean,max_wait interval)'
)

# check_pgspot: whether it finds nothing in the installed script.
check_pgspot() {
    local script path=$KW_TMP/search_path.sql procedures=()
    python_env "pgspot-$KW_PGSPOT_VERSION" "${KW_PGSPOT_PACKAGES[@]}"
    script=$("$PG_CONFIG" --sharedir)/extension/kms_wrap--$(sed -n 's/^version = "\(.*\)"/\1/p' "$KW_ROOT/Cargo.toml").sql
    # CREATE EXTENSION runs it with a path of kms_wrap alone, and sql/guard.sql refuses a schema where somebody else may create: as good as this.
    echo 'SET search_path TO pg_catalog, pg_temp;' >"$path"
    pgspot_finds_nothing --append "$path" "$script" || return 1
    # Those procedures again without that path, since they run with their caller's.
    mapfile -t procedures < <(grep -rl 'CREATE PROCEDURE' "$KW_ROOT/sql")
    pgspot_finds_nothing "${procedures[@]}"
}

# pgspot_finds_nothing ARGUMENT...: files, at least two.
pgspot_finds_nothing() {
    local procedure log=$KW_TMP/pgspot.log arguments=()
    for procedure in "${KW_PGSPOT_COMMITTING[@]}"; do arguments+=(--proc-without-search-path "$procedure"); done
    "$PYTHON_ENV/bin/pgspot" "${arguments[@]}" "$@" | tee "$log"
    grep -q '^TOTAL: Errors: 0 Warnings: 0 Unknown: 0$' "$log"
}
