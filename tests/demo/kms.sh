# shellcheck shell=bash
# shellcheck disable=SC2154  # what tests/demo/run and tests/lib/kms.sh set
# The demo's part on two real KMS. Sourced by tests/demo/run, whose functions it
# uses.

# show SQL: the statement, and what it gives in SHOWN.
show() {
    statement "$1"
    SHOWN=$(value "$1")
}

# setting NAME VALUE: for the running server.
setting() {
    value "ALTER SYSTEM SET $1 = '$2'"
    value 'SELECT pg_reload_conf()' >/dev/null
}

is_setting() { [[ $(value "SHOW $1") == "$2" ]]; }

kms_register() {
    local slot
    title 'Two real KMS: OpenBao, and an HSM behind PKCS#11'
    # This section decides when they are asked; the worker looks at them in the next but one.
    setting kms_wrap.health_interval 0
    setting kms_wrap.kms_timeout 1s
    kms_start
    tell "The demo has started an OpenBao of its own at $BAO_URL, and made a token of SoftHSM2. What they are reached with lies in files that only the server's user reads:"
    claim 'CA, token and PIN, mode 0600' 'bao-ca.pem 600, bao-token 600, hsm-pin 600' \
        "$(cd "$CLUSTER/credentials" && stat -c '%n %a' ./* | sed 's/^..//' | paste -sd, | sed 's/,/, /g')"
    tell 'Two settings say what may be registered: these endpoints, and keys of this name.'
    statement "ALTER SYSTEM SET kms_wrap.allowed_endpoints = 'https://127.0.0.1:*'
ALTER SYSTEM SET kms_wrap.allowed_keys = 'app'"
    setting kms_wrap.allowed_endpoints 'https://127.0.0.1:*'
    setting kms_wrap.allowed_keys app
    kms_until 'the settings are in force' is_setting kms_wrap.allowed_keys app
    refused 22023 "SELECT kms_wrap.kw_add_provider('elsewhere', 'openbao', '{\"endpoint\": \"https://kms.example\", \"token_file\": \"bao-token\"}')"
    show "SELECT kms_wrap.kw_add_provider('bao', 'openbao', '$BAO_CONFIG')"
    show "SELECT kms_wrap.kw_add_provider('hsm', 'pkcs11', '$HSM_CONFIG')"
    show "SELECT kms_wrap.kw_add_kms_key('bao', 'app', 'AES-256-GCM')"
    BAO_KEY=$SHOWN
    show "SELECT kms_wrap.kw_add_kms_key('hsm', 'app', 'AES-256-GCM')"
    HSM_KEY=$SHOWN
    LAYER_KEY=$(value "SELECT kms_key_id FROM kms_wrap.vw_kms_key_dependents WHERE slot = 'layer' AND live > 0")
    tell "Two policies: wrappers of one open with both, those of the other with either."
    show "SELECT kms_wrap.kw_create_policy('both', 'split'), kms_wrap.kw_create_policy('either', 'redundant')"
    for slot in "'kms1', $BAO_KEY" "'kms2', $HSM_KEY" "'layer', $LAYER_KEY"; do
        show "SELECT kms_wrap.kw_policy_add_key('both', $slot), kms_wrap.kw_policy_add_key('either', $slot)"
    done
    show "SELECT kms_wrap.kw_wrap_dek('both')"
    BOTH=$SHOWN
    show "SELECT kms_wrap.kw_wrap_dek('either')"
    EITHER=$SHOWN EITHER_SHA256=$(value "SELECT sha256(kms_wrap.kw_unwrap('$SHOWN'))")
    statement "SELECT * FROM kms_wrap.kw_describe_wrapper('$BOTH')"
    pairs "SELECT * FROM kms_wrap.kw_describe_wrapper('$BOTH')"
    statement 'SELECT * FROM kms_wrap.kw_check_health()'
    run_psql -c 'CREATE TABLE checked AS SELECT * FROM kms_wrap.kw_check_health()'
    table "SELECT provider_name, key_ref, status, latency_ms FROM checked WHERE provider_name IN ('bao', 'hsm') ORDER BY provider_name, key_ref NULLS FIRST"
    claim 'both answer, and wrap and open with their keys' '4 up' "$(value "SELECT count(*) || ' ' || string_agg(DISTINCT status, ',') FROM checked WHERE provider_name IN ('bao', 'hsm')")"
}

kms_move() {
    local local_key
    title 'From local keys to the two KMS'
    local_key=$(value "SELECT id FROM kms_wrap.kms_keys WHERE external_key_ref = 'local-b-kek-1'")
    tell 'The policy that everything is under gets their keys, the local ones retire, and the worker moves every wrapper.'
    show "SELECT kms_wrap.kw_policy_add_key('default', 'kms1', $BAO_KEY), kms_wrap.kw_policy_add_key('default', 'kms2', $HSM_KEY)"
    show "SELECT kms_wrap.kw_set_key_status($NEW_KEY, 'retired'), kms_wrap.kw_set_key_status($local_key, 'retired')"
    campaign "kms_wrap.kw_schedule_rewrap(policy => 'default', target_kms1 => $BAO_KEY, target_kms2 => $HSM_KEY)"
    claim 'OpenBao and the token hold the keys of all of them' "$WRAPPERS" \
        "$(value "SELECT count(*) FROM kms_wrap.key_wrappers w JOIN kms_wrap.encryption_policies p ON p.id = w.policy_id
            WHERE p.policy_name = 'default' AND (kms1_key_id, kms2_key_id) = ($BAO_KEY, $HSM_KEY)")"
    prove_deks
    show "SELECT kms_wrap.kw_set_key_status($NEW_KEY, 'destroyed'), kms_wrap.kw_set_key_status($local_key, 'destroyed')"
    claim 'without the local keys, the persons read as before' "$(value 'SELECT count(name) FROM persons')" "$(value 'SELECT count(name) FROM persons_decrypted')"
}

# provider_state NAME: its color in kw_health.
provider_state() { value "SELECT status FROM kms_wrap.kw_health() WHERE component = 'provider' AND name = '$1'"; }
is_state() { [[ $(provider_state "$1") == "$2" ]]; }
show_state() {
    statement "SELECT * FROM kms_wrap.kw_health() WHERE component = 'provider'"
    pairs "SELECT name, concat(status, ': ' || detail, '. ' || action) FROM kms_wrap.kw_health() WHERE component = 'provider' AND name IN ('bao', 'hsm')"
}
suspended() { [[ $(value "SELECT suspended_until > clock_timestamp() FROM kms_wrap.kms_providers WHERE name = '$1'") == t ]]; }

kms_outage() {
    local first
    title 'One KMS fails'
    tell 'OpenBao hangs: it takes connections, and answers nothing. A wrapper that needs both cannot be opened. The first query waits kms_wrap.kms_timeout, here 1 s:'
    bao_signal STOP
    refused 58000 "SELECT kms_wrap.kw_unwrap('$BOTH')"
    first=$REFUSED_MS
    claim "refused after $first ms, one deadline" yes "$(awk -v ms="$first" 'BEGIN { print (ms >= 900 && ms < 2000 ? "yes" : "no") }')"
    tell 'All other sessions know it now:'
    refused 58000 "SELECT kms_wrap.kw_unwrap('$BOTH')"
    claim "refused after $REFUSED_MS ms, without asking" yes "$(awk -v ms="$REFUSED_MS" -v first="$first" 'BEGIN { print (ms < first / 4 ? "yes" : "no") }')"
    tell 'The wrapper that either KMS opens does not mind:'
    show "SELECT sha256(kms_wrap.kw_unwrap('$EITHER'))"
    claim 'SoftHSM opened it, and the DEK is the same' "$EITHER_SHA256" "$SHOWN"

    tell "Then OpenBao is killed (SIGKILL). The worker's probes, here one a second, find it and suspend it: nothing new is wrapped with it."
    bao_kill
    setting kms_wrap.health_interval 1
    kms_until 'the worker has suspended OpenBao' suspended bao
    show_state
    claim 'OpenBao is red, the token green' 'red green' "$(provider_state bao) $(provider_state hsm)"
    refused 55000 "SELECT kms_wrap.kw_wrap_dek('both')"

    tell 'OpenBao is started again, and nobody does anything in PostgreSQL.'
    first=$(now)
    bao_start
    kms_until 'OpenBao is green again' is_state bao green
    claim "$(seconds "$first") s later it is green again and no longer suspended" green "$(provider_state bao)"
    show "SELECT length(kms_wrap.kw_unwrap('$BOTH'))"
    claim 'the wrapper that needs both opens' 32 "$SHOWN"
    show "SELECT kms_wrap.kw_wrap_dek('both')"
    claim 'and new ones are made' 32 "$(value "SELECT length(kms_wrap.kw_unwrap('$SHOWN'))")"
    setting kms_wrap.health_interval 60
}
