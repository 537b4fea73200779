# shellcheck shell=bash
# shellcheck disable=SC2154  # what tests/bench/run and tests/lib/kms.sh set
# Wrappers under keys of two real KMS, an OpenBao and a SoftHSM token on this
# machine, against bare clients of the same servers (kms.rs) and, for the
# provider alone, against a bare client in its own test (transit_speed.rs).
# Sourced by tests/bench/run, whose functions it uses.

# shellcheck source=tests/lib/kms.sh
. tests/lib/kms.sh

CROWD=100
KMS_DEADLINE=1000

build_bare() {
    step "building the bare clients"
    cargo bench -q --no-default-features --bench kms --no-run 2>"$WORK/bare.err" || { cat "$WORK/bare.err" >&2; die "the bare clients did not build"; }
    cargo test -q --release --no-default-features --test providers --no-run 2>"$WORK/bare.err" || { cat "$WORK/bare.err" >&2; die "the provider tests did not build"; }
}

# The figures of one run of kms.rs.
time_bare() {
    local name us
    cargo bench -q --no-default-features --bench kms -- "$BAO_URL" "$BAO_DIR/ca.pem" "$CLUSTER/credentials/bao-token" "$N_BARE" \
        "$KMS_WRAP_TEST_SOFTHSM" >"$WORK/bare.out" 2>"$WORK/bare.err" || { cat "$WORK/bare.err" >&2; die "the bare clients failed"; }
    while read -r name us; do note "k_$name" "$us"; done <"$WORK/bare.out"
    [[ -s $WORK/k_decrypt && -s $WORK/k_all && -s $WORK/k_batch && -s $WORK/k_proof && -s $WORK/k_c_decrypt ]] || die "no figures of the bare clients"
}

set_up_kms() {
    N_BARE=$(scaled 2000) N_COLD=$(scaled 2000) N_MOVE=$(scaled 20000) N_CROWD=$(scaled 1000)
    build_bare
    kms_start
    bao_key app2
    sql "ALTER SYSTEM SET kms_wrap.kms_timeout = '$KMS_DEADLINE ms'"
    # Calls are counted below: only those of statements.
    sql 'ALTER SYSTEM SET kms_wrap.health_interval = 0'
    sql 'SELECT pg_reload_conf()' >/dev/null
    step "wrapping $N_MOVE DEKs, and moving them to OpenBao and the token"
    run_psql -o /dev/null -v bao="$BAO_CONFIG" -v hsm="$HSM_CONFIG" -v move="$N_MOVE" -v cold="$N_COLD" -v crowd="$N_CROWD" -f tests/bench/kms.sql
    BAO_KEYS=("$(key_id app)" "$(key_id app2)")
    move_to "target_kms1 => ${BAO_KEYS[0]}, target_kms2 => $(sql "SELECT k.id FROM kms_wrap.kms_keys k
        JOIN kms_wrap.kms_providers p ON p.id = k.provider_id WHERE p.name = 'hsm'")" >/dev/null
    copy_rows
}

# key_id REFERENCE: of a key in OpenBao.
key_id() {
    sql "SELECT k.id FROM kms_wrap.kms_keys k JOIN kms_wrap.kms_providers p ON p.id = k.provider_id
        WHERE p.name = 'bao' AND k.external_key_ref = '$1'"
}

# move_to TARGETS: the worker moves all wrappers of the policy; milliseconds without scheduling.
move_to() {
    sql "SELECT kms_wrap.kw_schedule_rewrap(policy => 'default', $1)" >/dev/null
    await_campaign
}

time_provider() {
    local words
    step "unwrapping 10000 shares through the provider"
    cargo test -q --release --no-default-features --test providers -- --ignored --nocapture unwrapping_takes >"$WORK/provider.out" 2>&1 ||
        { cat "$WORK/provider.out" >&2; die "the measurement of the provider failed"; }
    words=$(sed -n 's/^.*transit_speed: .* bare \([0-9]*\) us, provider \([0-9]*\) us$/\1 \2/p' "$WORK/provider.out")
    [[ $words ]] || die "no figures of the provider"
    note k_provider_floor "$(calc "${words% *} / 10000")"
    note k_provider "$(calc "${words#* } / 10000")"
}

# The second run in a session counts: connections are made in the first.
time_cold() {
    local round
    for ((round = 1; round <= ROUNDS; round++)); do
        step "opening $N_COLD wrappers, round $round of $ROUNDS"
        time_bare
        note k_cold "$(timed_warm 'SELECT kms_wrap.kw_unwrap(wrapper) FROM bench.cold LIMIT 1' 'SELECT count(kms_wrap.kw_unwrap(wrapper)) FROM bench.cold')"
    done
}

time_move() {
    local round target
    for ((round = 1; round <= ROUNDS; round++)); do
        step "rewrapping $N_MOVE wrappers through OpenBao, round $round of $ROUNDS"
        target=${BAO_KEYS[round % 2]}
        settle
        note k_move "$(move_to "target_kms1 => $target")"
        [[ $(sql "SELECT count(*) FROM bench.moved JOIN kms_wrap.key_wrappers w ON w.wrapper_uuid = wrapper::text WHERE kms1_key_id = $target") == "$N_MOVE" ]] ||
            die "not every wrapper moved to key $target"
        settle
        note k_update "$(timed "UPDATE bench.key_wrappers b
            SET kms1_key_id = $target, dek_wrap1 = set_byte(dek_wrap1, 100, $round), crypto_suite = crypto_suite,
                generation = nextval('bench.generation_seq'), wrap_version = wrap_version + 1
            FROM bench.moved WHERE b.wrapper_uuid = wrapper::text")"
        [[ $(sql "SELECT count(*) FROM bench.moved JOIN bench.key_wrappers w ON w.wrapper_uuid = wrapper::text WHERE kms1_key_id = $target") == "$N_MOVE" ]] ||
            die "the floor did not update the same rows"
        time_bare
    done
}

# decrypts: requests that OpenBao itself has counted.
decrypts() {
    bao_api GET 'sys/metrics?format=prometheus' | awk '/route_update_transit__count/ { n += $2 } END { printf "%d", n }'
}

restart_server() { as_cluster_user "$PG_BINDIR/pg_ctl" restart -s -w -t 60 -m fast -D "$CLUSTER/data" -l "$CLUSTER/log" </dev/null >/dev/null; }

# Many sessions need the same DEKs at once, twice; nothing is open yet, in no process.
time_crowd() {
    local before start pids=() pid i failed=0 query='SELECT count(kms_wrap.kw_decrypt(b, context)) FROM bench.crowd'
    step "$CROWD sessions open the same $N_CROWD DEKs after a restart"
    # So many on a few cores wait for each other, not for an outage.
    sql "ALTER SYSTEM SET kms_wrap.kms_timeout = '60 s'"
    restart_server
    before=$(decrypts) start=$(date +%s%N)
    for ((i = 0; i < CROWD; i++)); do
        run_psql -c "$query" -c "$query" >"$WORK/crowd.$i" 2>>"$WORK/crowd.err" & pids+=($!)
    done
    for pid in "${pids[@]}"; do wait "$pid" || failed=$((failed + 1)); done
    ((failed == 0)) || { head -n 3 "$WORK/crowd.err" >&2; die "$failed of $CROWD sessions failed"; }
    CROWD_MS=$((($(date +%s%N) - start) / 1000000))
    CROWD_CALLS=$(($(decrypts) - before))
    (($(cat "$WORK"/crowd.[0-9]* | grep -c "^$N_CROWD$") == 2 * CROWD)) || die "not every session decrypted all values"
    # Its rows count calls once a probe has found the provider up; the probes' own are three.
    sql 'SELECT count(*) FROM kms_wrap.kw_check_health()' >/dev/null
    CROWD_PROVIDERS=$(sql "SELECT string_agg(name || ': ' || substring(detail FROM '[0-9]+ calls of [0-9.]+ ms'), ', ' ORDER BY name)
        FROM kms_wrap.kw_health() WHERE component = 'provider' AND name IN ('bao', 'hsm')")
}

# One session, which has a connection that OpenBao has stopped to answer.
time_dead() {
    local i query='SELECT kms_wrap.kw_unwrap(wrapper) FROM bench.cold LIMIT 1' statements=(-c '\timing on')
    step "OpenBao hangs"
    for ((i = 0; i < 12; i++)); do statements+=(-c "$query"); done
    bao_signal STOP
    run_psql -v ON_ERROR_STOP=0 "${statements[@]}" >"$WORK/dead.out" 2>"$WORK/dead.err" || true
    bao_signal CONT
    (($(grep -c 'could not reach key provider "bao"' "$WORK/dead.err") == 12)) || die "not every query was refused"
    note k_dead_first "$(awk '/^Time: / && ++n == 1 { print $2 }' "$WORK/dead.out")"
    awk '/^Time: / && ++n > 1 { print $2 }' "$WORK/dead.out" >"$WORK/k_dead_next"
    kms_until 'OpenBao is asked again' sql "$query"
}

bench_kms() {
    set_up_kms
    time_provider
    time_cold
    time_move
    time_dead
    time_crowd
    kms_stop
}

larger() { awk -v a="$1" -v b="$2" 'BEGIN { print (a > b ? a : b) }'; }

kms_table() {
    local bare move_floor batch proof update one_by_one
    bare=$(larger "$(median k_decrypt)" "$(median k_c_decrypt)")
    batch=$(median k_batch) proof=$(median k_proof) update=$(each k_update "$N_MOVE")
    one_by_one=$(calc "$batch + $proof + $update")
    move_floor=$(larger "$batch" "$update")
    printf '\nA real OpenBao (TLS, raft) and a SoftHSM token on the same %s cores; medians of %d rounds; microseconds (us) for one share or wrapper\n\n' \
        "$(nproc)" "$ROUNDS"
    heading
    row 'provider, unwrap 10000 shares, against bare HTTP' "$(median k_provider_floor)" "$(median k_provider)" 1.43 us
    row 'open a split wrapper, cold, against the slower call' "$bare" "$(each k_cold "$N_COLD")" 1.3 us
    row '... against its three parts at once, bare' "$(median k_all)" "$(each k_cold "$N_COLD")" 1.3 us
    row "rewrap of $N_MOVE through OpenBao" "$move_floor" "$(each k_move "$N_MOVE")" 1.4 us
    # The floor of a campaign between local keys, with requests for its cryptography.
    row '... against UPDATE, requests and proof' "$one_by_one" "$(each k_move "$N_MOVE")" 2.5 us
    row 'OpenBao hangs: first query against its deadline' "$KMS_DEADLINE" "$(median k_dead_first)" 1.1 ms
    row '... the next queries against 1 ms' 1 "$(median k_dead_next)" 1 ms
    row "$CROWD sessions, $N_CROWD DEKs: requests against one a use" "$((CROWD * N_CROWD))" "$CROWD_CALLS" 1.01 req
    printf '\nOne bare decrypt takes OpenBao %s us, one C_Decrypt the token %s us. Rewrapping: bare decrypt and encrypt in batches of 150 %s us,\n' \
        "$(figure "$(median k_decrypt)")" "$(figure "$(median k_c_decrypt)")" "$(figure "$batch")"
    printf 'the decrypt that proves the new share %s us, plain UPDATE %s us. %d sessions that opened the same %d DEKs after a restart took %d ms, each read twice: %s.\n' \
        "$(figure "$proof")" "$(figure "$update")" "$CROWD" "$N_CROWD" "$CROWD_MS" "$CROWD_PROVIDERS"
    printf 'Each session opens a DEK once while its cache holds it (kms_wrap.cache_ttl, cache_entries); sessions share no plaintext keys, so\n'
    printf 'requests are sessions times DEKs. What OpenBao can decrypt on these cores limits them; fewer sessions, as behind a pooler, mean fewer.\n'
}
