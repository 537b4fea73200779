# shellcheck shell=bash
# shellcheck disable=SC2154  # readme, root, work and prefix are set by tests/docs/run
# Takes the SQL out of the README, runs it and compares. Uses the variables and
# functions of tests/docs/run.

# Writes each block to $work/N.sql, its expected output, if any, to $work/N.want,
# and a list to $work/list: "database KIND" starts a database, "block N LINE" runs one.
split_readme() {
    awk -v dir="$1" '
        /^<!-- docs: (fresh|empty) -->$/ { print "database", $3 > (dir "/list"); next }
        /^<!-- docs: skip -->$/ { skip = 1; next }
        fence == "" && /^```/ {
            fence = $0
            if (fence == "```sql") {
                want = ""
                if (skip) skip = 0
                else {
                    n++
                    out = dir "/" n ".sql"
                    printf "" > out
                    print "block", n, NR > (dir "/list")
                }
            } else if (fence == "```text" && want != "") {
                out = want
                printf "" > out
            }
            next
        }
        fence != "" && /^```$/ {
            if (out != "") close(out)
            want = (fence == "```sql" && out != "") ? dir "/" n ".want" : ""
            fence = out = ""
            next
        }
        fence != "" { if (out != "") print > out; next }
        /[^ ]/ { want = "" }
        END { if (fence != "" || skip) { print "README.md ends inside a block or after a skip" > "/dev/stderr"; exit 1 } }
    ' "$2"
}

run_blocks() {
    local word argument line database='' blocks=()
    check "README.md is well formed" split_readme "$work" "$readme"
    while read -r word argument line; do
        if [[ $word == database ]]; then
            run_session "$database" "${blocks[@]}"
            blocks=()
            database=$(new_database "$argument")
        else
            blocks+=("$argument:$line")
        fi
    done <"$work/list"
    run_session "$database" "${blocks[@]}"
}

# Prints the name of a new database.
new_database() {
    local number name
    number=$(sql -c "SELECT count(*) FROM pg_database WHERE starts_with(datname, '$prefix')")
    name=${prefix}_$number
    sql -c "CREATE DATABASE $name" >&2
    [[ $1 == empty ]] || sql -d "$name" -c 'SET client_min_messages = warning' \
        -c 'CREATE EXTENSION kms_wrap' -c 'SELECT kms_wrap.kw_quickstart()' >/dev/null
    echo "$name"
}

# run_session DATABASE N:LINE...: one psql for all of them, so that \gset and SET last as they do for a reader.
run_session() {
    local database=$1 block n line code
    shift
    (($#)) || return 0
    for block; do
        n=${block%%:*}
        printf '\\echo @@block %d\n' "$n"
        cat "$work/$n.sql"
    done >"$work/script"
    timeout 300 psql -X -d "$database" <"$work/script" >"$work/output" 2>&1 || true
    awk -v dir="$work" '/^@@block [0-9]+$/ { out = dir "/" $2 ".got"; printf "" > out; next } out != "" { print > out }' "$work/output"
    for block; do
        n=${block%%:*} line=${block#*:} code=0
        compare "$n" >"$work/why" 2>&1 || code=$?
        verdict "README.md:$line" "$code"
    done
}

# What differs from run to run. A root key file outlives the database it was made for, so a later one adopts it.
steady() {
    sed -E -e '/^NOTICE:  root key .* adopted$/d' \
        -e 's/[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}/UUID/g' \
        -e 's/[0-9a-f]{16,}/HEX/g' -e 's/ +$//' "$1" | sed -e '/./,$!d'
}

compare() {
    local n=$1 got want pattern
    [[ -e $work/$n.got ]] || { echo "psql ended before this block"; return 1; }
    got=$(steady "$work/$n.got")
    if [[ ! -e $work/$n.want ]]; then
        ! grep -nE '^(ERROR|FATAL|PANIC|psql:|invalid command|connection to server|\\)' <<<"$got"
        return
    fi
    want=$(steady "$work/$n.want")
    # Every character but "..." stands for itself.
    pattern=$(sed -e 's/[][\\*?]/\\&/g' -e 's/\.\.\./*/g' <<<"$want")
    # shellcheck disable=SC2053  # it is a pattern
    [[ $got == $pattern ]] && return 0
    diff -u --label README.md --label psql <(printf '%s\n' "$want") <(printf '%s\n' "$got")
    return 1
}
