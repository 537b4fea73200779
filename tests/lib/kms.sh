# shellcheck shell=bash
# Two real KMS beside a cluster, for the demo and the benchmarks: an OpenBao
# server that listens on loopback only, and a SoftHSM token of the server's
# user. Sourced by programs that tests/lib/with_cluster runs.
#
#   trap kms_stop EXIT
#   kms_start          # both, each with an AES key "app"; credential files; settings
#   bao_signal STOP    # and CONT, KILL
#   bao_start          # again, after a kill
#   bao_key app2       # one more key, which the providers' token may use
#
# Afterwards BAO_CONFIG and HSM_CONFIG are the configurations of providers.
# shellcheck disable=SC2034  # what is set here is used by the files that source this one

BAO_PID=

kms_die() {
    printf 'error: %s\n' "$*" >&2
    exit 1
}

# kms_until WHAT COMMAND...: calls it until it succeeds, half a minute at most.
kms_until() {
    local what=$1 i
    shift
    for ((i = 0; i < 300; i++)); do
        if "$@" >/dev/null 2>&1; then return 0; fi
        sleep 0.1
    done
    kms_die "waited in vain until $what"
}

kms_start() {
    : "${CLUSTER:?}" "${KMS_WRAP_BAO:?}" "${KMS_WRAP_TEST_SOFTHSM:?}" "${SOFTHSM2_CONF:?}"
    # Who owns the data directory runs the server, and owns what it reads.
    SERVER_USER=$(stat -c %U "$CLUSTER/data")
    BAO_DIR=$CLUSTER/bao
    mkdir -m 700 "$BAO_DIR" "$BAO_DIR/raft"
    as_cluster_user mkdir -m 700 "$CLUSTER/credentials" "$CLUSTER/tokens"
    bao_init
    hsm_init
    psql -XAtq -v ON_ERROR_STOP=1 -v module="$KMS_WRAP_TEST_SOFTHSM" -v credentials="$CLUSTER/credentials" -o /dev/null <<'SQL'
ALTER SYSTEM SET kms_wrap.pkcs11_modules = :'module';
ALTER SYSTEM SET kms_wrap.credential_directory = :'credentials';
SELECT pg_reload_conf();
SQL
    kms_until 'the settings are in force' kms_settings
}

kms_settings() { [[ $(psql -XAtq -c 'SHOW kms_wrap.credential_directory') == "$CLUSTER/credentials" ]]; }

# kms_stop: for the EXIT trap; also when nothing was started.
kms_stop() {
    [[ $BAO_PID ]] || return 0
    kill -KILL "$BAO_PID" 2>/dev/null || true
    BAO_PID=
}

as_cluster_user() {
    if [[ $(id -un) == "$SERVER_USER" ]]; then
        "$@"
    else
        (cd / && exec runuser -u "$SERVER_USER" -- env HOME=/ "$@")
    fi
}

# credential NAME: from standard input, as a file that only the server reads.
credential() {
    (
        umask 077
        as_cluster_user tee "$CLUSTER/credentials/$1" >/dev/null
    )
}

# --- OpenBao -------------------------------------------------------------------

# TLS, storage that survives a kill, and a seal that opens by itself.
bao_init() {
    local port
    port=$(free_ports)
    (
        cd "$BAO_DIR" && umask 077 && certificates && head -c 32 /dev/urandom >seal && cat >bao.hcl <<HCL
storage "raft" {
  path = "$BAO_DIR/raft"
  node_id = "n1"
  performance_multiplier = "1"
}
listener "tcp" {
  address = "127.0.0.1:$port"
  cluster_address = "127.0.0.1:$((port + 1))"
  tls_cert_file = "$BAO_DIR/server.pem"
  tls_key_file = "$BAO_DIR/server.key"
  telemetry {
    unauthenticated_metrics_access = true
  }
}
seal "static" {
  current_key_id = "k1"
  current_key = "file://$BAO_DIR/seal"
}
telemetry {
  disable_hostname = true
  prometheus_retention_time = "24h"
}
api_addr = "https://127.0.0.1:$port"
cluster_addr = "https://127.0.0.1:$((port + 1))"
disable_mlock = true
HCL
    ) 2>"$BAO_DIR/openssl.log" || kms_die "no certificates: $(<"$BAO_DIR/openssl.log")"
    BAO_URL=https://127.0.0.1:$port
    BAO_CONFIG="{\"endpoint\": \"$BAO_URL\", \"ca_file\": \"bao-ca.pem\", \"token_file\": \"bao-token\"}"
    bao_launch
    kms_until 'OpenBao listens' bao_listens
    bao_api PUT sys/init '{"recovery_shares": 1, "recovery_threshold": 1}' | json_text root_token >"$BAO_DIR/root"
    kms_until 'OpenBao is active' bao_active
    bao_api POST sys/mounts/transit '{"type": "transit"}'
    bao_key app
    # The least that the provider needs.
    bao_api PUT sys/policy/kms_wrap '{"policy": "path \"transit/encrypt/app*\" { capabilities = [\"update\"] } path \"transit/decrypt/app*\" { capabilities = [\"update\"] } path \"transit/keys/app*\" { capabilities = [\"read\"] }"}'
    bao_api POST auth/token/create '{"policies": ["kms_wrap"], "ttl": "24h"}' | json_text client_token | credential bao-token
    credential bao-ca.pem <"$BAO_DIR/ca.pem"
}

bao_key() { bao_api POST "transit/keys/$1" '{"type": "aes256-gcm96"}' >/dev/null; }

# A CA of a day, and a certificate for 127.0.0.1.
certificates() {
    local new=(openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 1)
    "${new[@]}" -keyout ca.key -out ca.pem -subj /CN=ca -addext basicConstraints=critical,CA:TRUE -addext keyUsage=critical,keyCertSign &&
        "${new[@]}" -CA ca.pem -CAkey ca.key -keyout server.key -out server.pem -subj /CN=server -addext basicConstraints=critical,CA:FALSE \
        -addext subjectAltName=IP:127.0.0.1 -addext extendedKeyUsage=serverAuth
}

# A port that nobody listens at, with the next one. Below those that the system gives out.
free_ports() {
    local port i
    for ((i = 0; i < 100; i++)); do
        port=$((20000 + RANDOM % 10000))
        if ! is_open "$port" && ! is_open $((port + 1)); then
            echo "$port"
            return
        fi
    done
    kms_die 'no free ports'
}
is_open() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

# json_text FIELD: of the JSON in standard input, which has it once.
json_text() {
    local json
    json=$(cat)
    [[ $json =~ \"$1\":\"([^\"]+)\" ]] || kms_die "OpenBao gave no $1"
    printf '%s\n' "${BASH_REMATCH[1]}"
}

# bao_api METHOD PATH [BODY]: one request as root; fails when it is refused. The token is in a file, so that no list of processes shows it.
bao_api() {
    { [[ ! -s $BAO_DIR/root ]] || printf 'header = "X-Vault-Token: %s"\n' "$(<"$BAO_DIR/root")"; } |
        curl -sf --max-time 10 --cacert "$BAO_DIR/ca.pem" -K - -X "$1" ${3:+-d "$3"} "$BAO_URL/v1/$2"
}
# A server that waits to be initialised answers too, with an error.
bao_listens() { [[ $(curl -s --max-time 2 --cacert "$BAO_DIR/ca.pem" -o /dev/null -w '%{http_code}' "$BAO_URL/v1/sys/health") != 000 ]]; }
bao_active() { bao_api GET sys/health; }

bao_launch() {
    "$KMS_WRAP_BAO" server -config "$BAO_DIR/bao.hcl" </dev/null >>"$BAO_DIR/log" 2>&1 &
    BAO_PID=$!
    # So that the shell does not announce a server that is killed.
    disown "$BAO_PID"
}

bao_start() {
    bao_launch
    kms_until 'OpenBao is active again' bao_active
}

# bao_signal NAME. After STOP each of its threads has stopped, which takes a while on a busy machine.
bao_signal() {
    kill -"$1" "$BAO_PID"
    [[ $1 != STOP ]] || kms_until 'OpenBao has stopped' bao_stopped
}
bao_stopped() {
    local states
    # A thread that ends meanwhile has no file.
    states=$(grep -hs ^State: "/proc/$BAO_PID/task/"*/status || true)
    [[ $states ]] && ! grep -qv $'\tT' <<<"$states"
}
bao_gone() { ! kill -0 "$BAO_PID"; }
bao_kill() {
    bao_signal KILL
    kms_until 'OpenBao is gone' bao_gone
    BAO_PID=
}

# --- SoftHSM -------------------------------------------------------------------

hsm_init() {
    printf 'directories.tokendir = %s\nobjectstore.backend = file\nlog.level = ERROR\n' "$CLUSTER/tokens" |
        as_cluster_user tee "$SOFTHSM2_CONF" >/dev/null
    hsm_do softhsm2-util --init-token --free --label kms --so-pin 87654321 --pin 1234
    hsm_do pkcs11-tool --module "$KMS_WRAP_TEST_SOFTHSM" --token-label kms -l -p 1234 --keygen --key-type AES:32 --label app --id 01
    echo 1234 | credential hsm-pin
    HSM_CONFIG="{\"module\": \"$KMS_WRAP_TEST_SOFTHSM\", \"token_label\": \"kms\", \"pin_file\": \"hsm-pin\"}"
}

hsm_do() {
    as_cluster_user "$@" >"$CLUSTER/softhsm.log" 2>&1 || kms_die "no token: $(<"$CLUSTER/softhsm.log")"
}
