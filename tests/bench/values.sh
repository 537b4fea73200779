# shellcheck shell=bash
# Values and protected columns, measured against a floor that does nothing but
# one AES-256-GCM a row (floor/). Sourced by tests/bench/run, whose functions
# it uses.

VALUE_ROUNDS=5
INSERT_ROUNDS=3

# Both sides run without parallel workers and without compiling expressions.
values_psql() { PGOPTIONS='-c client_min_messages=warning -c jit=off -c max_parallel_workers_per_gather=0' psql -XAtq -v ON_ERROR_STOP=1 "$@"; }

# timed_warm WARM STATEMENT: milliseconds of STATEMENT in a session that has done WARM.
timed_warm() {
    values_psql -c "$1" -c '\timing on' -c "$2" | awk '/^Time: / { print $2; n++ } END { exit n != 1 }'
}

# The floor is loaded from where it was built; PostgreSQL's own directories stay as they are.
build_floor() {
    local built=$CARGO_TARGET_DIR/release/libkms_wrap_floor.so
    step "building the floor of values"
    cargo build -q --release --manifest-path tests/bench/floor/Cargo.toml --features "pg$PG_MAJOR" 2>"$WORK/floor.err" ||
        { cat "$WORK/floor.err" >&2; die "the floor did not build"; }
    install -m 755 "$built" "$CLUSTER/floor.so"
}

set_up_values() {
    N_VALUES=$(scaled 1000000) N_FEW=$(scaled 10000) N_ALONE=$(scaled 100000) N_TENANTS=$(scaled 10000) N_PGP=3000
    build_floor
    step "making $N_VALUES values, and $N_TENANTS tenants"
    values_psql -o /dev/null -v n="$N_VALUES" -v few="$N_FEW" -v n_alone="$N_ALONE" -v tenants="$N_TENANTS" -v floor="$CLUSTER/floor" \
        -f tests/bench/values.sql
    HAS_PGCRYPTO=$(sql "SELECT count(*) FROM pg_available_extensions WHERE name = 'pgcrypto'")
    ((HAS_PGCRYPTO == 0)) || values_psql -o /dev/null -v n_pgp="$N_PGP" -f tests/bench/pgcrypto.sql
}

# insert_round NAME TABLE STATEMENT: into the empty table.
insert_round() {
    sql "TRUNCATE $2"
    sql CHECKPOINT
    note "$1" "$(timed_warm "SELECT kms_wrap.kw_decrypt(b) FROM bench.few LIMIT 1" "$3")"
}

time_encrypt() {
    local round
    for ((round = 1; round <= INSERT_ROUNDS; round++)); do
        step "encrypting $N_VALUES values, round $round of $INSERT_ROUNDS"
        insert_round v_floor_encrypt bench.by_floor 'INSERT INTO bench.by_floor SELECT id, bench.floor_encrypt(b) FROM bench.plain'
        insert_round v_encrypt bench.by_kms_wrap 'INSERT INTO bench.by_kms_wrap SELECT id, kms_wrap.kw_encrypt(b) FROM bench.plain'
    done
    sql 'VACUUM (ANALYZE) bench.by_floor, bench.by_kms_wrap'
    [[ $(sql "SELECT pg_relation_size('bench.by_floor') = pg_relation_size('bench.by_kms_wrap')") == t ]] ||
        die "the floor did not write rows of the same size"
    [[ $(sql "SELECT count(*) FROM bench.plain p JOIN bench.by_floor f USING (id) JOIN bench.by_kms_wrap k USING (id)
              WHERE bench.floor_decrypt(f.b) = p.b AND kms_wrap.kw_decrypt(k.b) = p.b") == "$N_VALUES" ]] ||
        die "not every value decrypts to what it was"
}

# decrypt_round NAME TABLE EXPRESSION: all rows of a table, with the DEKs opened before.
decrypt_round() { note "$1" "$(timed_warm "SELECT count($3) FROM $2" "SELECT count($3) FROM $2")"; }

time_decrypt() {
    local round
    for ((round = 1; round <= VALUE_ROUNDS; round++)); do
        step "decrypting $N_VALUES values, round $round of $VALUE_ROUNDS"
        decrypt_round v_scan bench.by_kms_wrap b
        decrypt_round v_floor_decrypt bench.by_floor 'bench.floor_decrypt(b)'
        decrypt_round v_decrypt bench.by_kms_wrap 'kms_wrap.kw_decrypt(b)'
        decrypt_round v_few bench.few 'kms_wrap.kw_decrypt(b)'
        decrypt_round v_alone bench.written_alone 'kms_wrap.kw_decrypt(b)'
        decrypt_round v_context bench.by_context 'kms_wrap.kw_decrypt(b, context)'
        decrypt_round v_tenants bench.by_tenant 'kms_wrap.kw_decrypt(b, context)'
        ((HAS_PGCRYPTO == 0)) || {
            decrypt_round v_cbc bench.cbc "decrypt_iv(b, '\\x0707070707070707070707070707070707070707070707070707070707070707', iv, 'aes')"
            note v_pgp "$(timed_warm "SELECT 1" "SELECT count(pgp_sym_decrypt_bytea(b, 'a passphrase of a few words')) FROM bench.pgp")"
        }
    done
}

# insert_pair KIND COLUMN: the same rows into an unprotected table and into a protected one.
insert_pair() {
    insert_round "v_$1_plain" "bench.$1_plain" "INSERT INTO bench.$1_plain SELECT id, $2 FROM bench.plain"
    insert_round "v_$1_protected" "bench.$1_protected" "INSERT INTO bench.$1_protected SELECT id, $2 FROM bench.plain"
}

time_columns() {
    local round
    step "making tables with protected columns"
    values_psql -o /dev/null -f tests/bench/columns.sql
    for ((round = 1; round <= INSERT_ROUNDS; round++)); do
        step "inserting $N_VALUES rows with a protected column, round $round of $INSERT_ROUNDS"
        insert_round v_insert_few bench.text_protected 'INSERT INTO bench.text_protected SELECT id, v FROM bench.plain_few'
        insert_pair text v
        insert_pair bytea b
        insert_round v_bytea_floor bench.bytea_floor 'INSERT INTO bench.bytea_floor SELECT id, b FROM bench.plain'
    done
    sql 'VACUUM (ANALYZE) bench.text_plain, bench.text_protected, bench.bytea_plain, bench.bytea_protected'
    [[ $(sql "SELECT count(*) FROM bench.plain p JOIN bench.text_protected_decrypted t USING (id) JOIN bench.bytea_protected_decrypted b USING (id)
              WHERE t.v = p.v AND b.v = p.b") == "$N_VALUES" ]] || die "not every protected value is what it was"
    for ((round = 1; round <= VALUE_ROUNDS; round++)); do
        step "reading $N_VALUES rows by the decrypting view, round $round of $VALUE_ROUNDS"
        decrypt_round v_view_text bench.text_protected_decrypted v
        decrypt_round v_view_bytea bench.bytea_protected_decrypted v
    done
}

# point_client NAME QUERY: microseconds that a client waits for a row, by pgbench with a prepared statement.
point_client() {
    local us
    printf '\\set k random(1, :n)\n%s\n' "$2" >"$WORK/pgbench.sql"
    us=$(PGOPTIONS='-c jit=off' "$PG_BINDIR/pgbench" -n -M prepared -T 3 -D "n=$N_VALUES" -f "$WORK/pgbench.sql" 2>"$WORK/pgbench.err" |
        awk '/^latency average/ { print $4 * 1000 }')
    [[ $us ]] || { cat "$WORK/pgbench.err" >&2; die "pgbench did not run"; }
    note "$1" "$us"
}

# point_loop NAME FUNCTION: in a loop inside the server, with nothing around the look-ups.
point_loop() {
    note "$1" "$(timed_warm "SELECT bench.$2(keys) FROM bench.keys" "SELECT bench.$2(keys) FROM bench.keys")"
    [[ $(sql "SELECT bench.$2(keys) FROM bench.keys") == 20000 ]] || die "not every row was found"
}

time_points() {
    local round blind="kms_wrap.kw_blind_index('bench.people', 'v', bench.value_of(:k))"
    sql "CREATE TABLE bench.keys AS SELECT array_agg(bench.value_of(1 + (n * 7919) % $N_VALUES)) AS keys FROM generate_series(1, 20000) n"
    for ((round = 1; round <= VALUE_ROUNDS; round++)); do
        step "point queries, round $round of $VALUE_ROUNDS"
        point_client v_point_plain 'SELECT id FROM bench.people_plain WHERE v = bench.value_of(:k);'
        point_client v_point_blind "SELECT id FROM bench.people WHERE v_bidx = ANY ((SELECT $blind)::bytea[]);"
        point_client v_point_read "SELECT v FROM bench.people_decrypted WHERE v_bidx = ANY ((SELECT $blind)::bytea[]);"
        point_client v_point_planned "SELECT id FROM bench.people WHERE v_bidx = ANY ($blind);"
        point_loop v_loop_plain find_plain
        point_loop v_loop_blind find_blind
    done
}

values_table() {
    local decrypt floor
    floor=$(each v_floor_decrypt "$N_VALUES") decrypt=$(each v_decrypt "$N_VALUES")
    printf '\n%d values of 16 to 64 bytes; microseconds are for one row of a whole statement, reading or writing it included\n\n' "$N_VALUES"
    heading
    row 'kw_decrypt, one DEK' "$floor" "$decrypt" 1.4 us
    row '... each value under a nonce prefix of its own' "$floor" "$(each v_alone "$N_ALONE")" - us
    row '... protected column of bytea, by its view' "$floor" "$(each v_view_bytea "$N_VALUES")" - us
    row '... protected column of text, by its view' "$floor" "$(each v_view_text "$N_VALUES")" - us
    row "... $N_TENANTS contexts, one DEK, in no order" "$floor" "$(each v_context "$N_VALUES")" - us
    row "$N_TENANTS tenants with a DEK each, against one DEK" "$decrypt" "$(each v_tenants "$N_VALUES")" 2 us
    row '... against one DEK and the same contexts' "$(each v_context "$N_VALUES")" "$(each v_tenants "$N_VALUES")" - us
    row 'kw_encrypt in INSERT ... SELECT' "$(each v_floor_encrypt "$N_VALUES")" "$(each v_encrypt "$N_VALUES")" 1.7 us
    row 'INSERT, protected text against plain' "$(each v_text_plain "$N_VALUES")" "$(each v_text_protected "$N_VALUES")" 1.6 us
    row 'INSERT, protected bytea against plain' "$(each v_bytea_plain "$N_VALUES")" "$(each v_bytea_protected "$N_VALUES")" 1.6 us
    row '... against a bare trigger with one AES-GCM' "$(each v_bytea_floor "$N_VALUES")" "$(each v_bytea_protected "$N_VALUES")" - us
    row 'point query by blind index against plain index' "$(median v_point_plain)" "$(median v_point_blind)" 1.3 us
    row '... that reads the decrypted value too' "$(median v_point_plain)" "$(median v_point_read)" - us
    row '... not in a sub-select, planned at each call' "$(median v_point_plain)" "$(median v_point_planned)" - us
    row '... in a loop in the server, with generic plans' "$(each v_loop_plain 20000)" "$(each v_loop_blind 20000)" - us
    row "kw_decrypt, $N_VALUES against $N_FEW values" "$(each v_few "$N_FEW")" "$decrypt" 1.25 us
    row "protected INSERT, $N_VALUES against $N_FEW rows" "$(each v_insert_few "$N_FEW")" "$(each v_text_protected "$N_VALUES")" 1.25 us
    if ((HAS_PGCRYPTO)); then
        row 'kw_decrypt against pgp_sym_decrypt' "$(each v_pgp "$N_PGP")" "$decrypt" 0.005 us
        row 'kw_decrypt against decrypt_iv (AES-CBC, no tag)' "$(each v_cbc "$N_VALUES")" "$decrypt" - us
    else
        printf 'pgcrypto is not available\n'
    fi
    printf '\nReading a row without decrypting takes %s us. pgp_sym_decrypt was timed on %d rows.\n' \
        "$(figure "$(each v_scan "$N_VALUES")")" "$N_PGP"
}

bench_values() {
    set_up_values
    time_encrypt
    time_decrypt
    time_columns
    time_points
}
