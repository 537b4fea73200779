# shellcheck shell=bash
# The golden-file drivers: tests/pg_regress (psql scripts) and tests/isolation
# (isolationtester specs). Both have pg_regress's layout and allow NAME_1.out,
# NAME_2.out, ... as alternatives. Every test has a database of its own, which
# is why the stock drivers are not used: they share one.

KW_TEST_SECONDS=${KMS_WRAP_TEST_SECONDS:-120}

# regress_tier LABEL [PATTERN]: runs tests/pg_regress on the current cluster.
# A script gets the psql variables :testname and :keydir, times in UTC and ISO
# dates. Roles and root key files are the cluster's, so their names begin with
# the test's name.
regress_tier() { golden_tier regress "$1" "${2:-*}" "$KW_ROOT/tests/pg_regress" sql sql 2; }

# isolation_tier LABEL [PATTERN]: runs tests/isolation on the current cluster.
isolation_tier() { golden_tier isolation "$1" "${2:-*}" "$KW_ROOT/tests/isolation" specs spec 1; }

# golden_tier KIND LABEL PATTERN DIRECTORY SUBFOLDER ENDING PARALLEL
golden_tier() {
    local kind=$1 label=$2 pattern=$3 dir=$4 inputs=$4/$5 ending=$6 parallel=$7 input name running=0 results
    results=$(mktemp -d "$KW_TMP/$kind.XXXXXX")
    make_template
    for input in "$inputs"/*."$ending"; do
        [[ -f $input ]] || continue
        name=$(basename "$input" ".$ending")
        # shellcheck disable=SC2053  # the pattern is a pattern
        [[ $name == $pattern ]] || continue
        # Copies are made in turn: a copy while the template is in use elsewhere can be refused.
        run_logged createdb as_server "$PG_BINDIR/createdb" -T kms_wrap_template "${kind}_$name" || {
            fail "$label/$name"
            continue
        }
        ((running < parallel)) || { wait -n || true; running=$((running - 1)); }
        golden_one "$kind" "$label" "$name" "$input" "$dir/expected" "$results" &
        running=$((running + 1))
    done
    wait
    [[ -z $(find "$results" -name '*.result') ]] && say "no test in $inputs matches $pattern"
    # Recorded here, not in the background, so that lines never mix.
    for input in "$results"/*.result; do
        [[ -f $input ]] || continue
        name=$(basename "$input" .result)
        if [[ $(<"$input") == pass* ]]; then
            pass "$label/$name"
            printf '   ok %s (%s)\n' "$label/$name" "$(cut -d' ' -f2- "$input")"
        else
            fail "$label/$name"
            cat "$results/$name.diff"
        fi
    done
    # A crash can hide behind an expected error or hit another session.
    if grep -nE 'PANIC:|was terminated by signal' "$CLUSTER/log"; then
        fail "$label/the server crashed"
        tail -n 50 "$CLUSTER/log"
    fi
}

# The template has the extension, so a test starts with it and costs one copy.
make_template() {
    as_server "$PG_BINDIR/psql" -X -q -v ON_ERROR_STOP=1 -d postgres \
        -c 'CREATE DATABASE kms_wrap_template' -c '\c kms_wrap_template' -c 'CREATE EXTENSION kms_wrap'
}

# golden_one KIND LABEL NAME INPUT EXPECTED-DIRECTORY RESULTS
golden_one() {
    local kind=$1 name=$3 input=$4 expected=$5 results=$6 out=$6/$3.out start=${EPOCHREALTIME/./} code=0 file
    "run_$kind" "${kind}_$name" "$name" <"$input" >"$out" 2>&1 || code=$?
    : >"$results/$name.diff"
    if [[ -n ${KW_ACCEPT:-} ]]; then
        mkdir -p "$expected"
        cp "$out" "$expected/$name.out"
    fi
    ((code != 124)) || printf 'stopped after %s seconds\n' "$KW_TEST_SECONDS" >>"$results/$name.diff"
    for file in "$expected/$name.out" "$expected/$name"_[0-9].out; do
        [[ -f $file ]] || continue
        if cmp -s "$file" "$out" && ((code != 124)); then
            printf 'pass %d ms\n' $(((${EPOCHREALTIME/./} - start) / 1000)) >"$results/$name.result"
            return
        fi
    done
    if [[ -f $expected/$name.out ]]; then
        diff -u "$expected/$name.out" "$out" >>"$results/$name.diff" || true
    else
        printf 'no expected file %s; the output was:\n%s\n' "$expected/$name.out" "$(<"$out")" >>"$results/$name.diff"
    fi
    echo fail >"$results/$name.result"
}

# The exit code of psql says nothing (scripts test errors), but a time-out's 124 does.
run_regress() {
    as_server env PGTZ=UTC PGDATESTYLE='ISO, YMD' PGAPPNAME="$1" LC_MESSAGES=C \
        timeout "$KW_TEST_SECONDS" "$PG_BINDIR/psql" -X -a -q -d "$1" -v testname="$2" -v keydir="$KMS_WRAP_KEY_DIR"
}

run_isolation() {
    as_server env PGTZ=UTC PGDATESTYLE='ISO, YMD' LC_MESSAGES=C PGISOLATIONTIMEOUT="$((KW_TEST_SECONDS / 2))" \
        PG_TEST_TIMEOUT_DEFAULT="$((KW_TEST_SECONDS / 2))" \
        timeout "$KW_TEST_SECONDS" "$PG_PGXS_DIR/src/test/isolation/isolationtester" "dbname=$1"
}
