//! An OpenBao server of a test's own: TLS, storage that survives a kill, unsealed by itself.

use super::fixture::{Directory, wait_until};
use serde_json::{Value, json};
use std::{
    fs,
    net::{TcpListener, TcpStream},
    path::PathBuf,
    process::{Child, Command, Stdio},
};

/// A running server. Stopped with the test.
pub(crate) struct Bao {
    pub(crate) directory: Directory,
    pub(crate) port: u16,
    root: String,
    server: Child,
}

/// What a listener asks of clients.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Clients {
    Any,
    WithCertificate,
}

impl Bao {
    /// Starts one with a transit engine at `transit`, and its CA and root token as credential files `ca.pem` and `token`.
    pub(crate) fn start() -> Self {
        Self::start_for(Clients::Any)
    }

    pub(crate) fn start_for(clients: Clients) -> Self {
        let directory = Directory::new();
        certificates(&directory);
        fs::create_dir(directory.path().join("raft")).unwrap();
        let mut key = [0; 32];
        getrandom::fill(&mut key).unwrap();
        directory.write("seal", &key);
        let port = free_ports();
        let dir = directory.path().display();
        let ask = if clients == Clients::WithCertificate {
            format!("tls_require_and_verify_client_cert = true\n  tls_client_ca_file = \"{dir}/ca.pem\"")
        } else {
            String::new()
        };
        let config = format!(
            r#"storage "raft" {{
  path = "{dir}/raft"
  node_id = "n1"
  performance_multiplier = "1"
}}
listener "tcp" {{
  address = "127.0.0.1:{port}"
  cluster_address = "127.0.0.1:{}"
  tls_cert_file = "{dir}/server.pem"
  tls_key_file = "{dir}/server.key"
  {ask}
}}
seal "static" {{
  current_key_id = "k1"
  current_key = "file://{dir}/seal"
}}
api_addr = "https://127.0.0.1:{port}"
cluster_addr = "https://127.0.0.1:{}"
disable_mlock = true
"#,
            port + 1,
            port + 1
        );
        directory.write("bao.hcl", config.as_bytes());
        let server = spawn(&directory);
        let mut bao = Self { directory, port, root: String::new(), server };
        bao.wait_for_listener();
        let made = bao.api("PUT", "sys/init", &json!({"recovery_shares": 1, "recovery_threshold": 1}));
        made["root_token"].as_str().expect("a root token").clone_into(&mut bao.root);
        bao.directory.write("token", format!("{}\n", bao.root).as_bytes());
        bao.wait_until_active();
        bao.api("POST", "sys/mounts/transit", &json!({"type": "transit"}));
        bao
    }

    pub(crate) fn config(&self) -> Value {
        json!({"endpoint": format!("https://127.0.0.1:{}", self.port), "ca_file": "ca.pem", "token_file": "token"})
    }

    /// One request as root, by curl, so that what is tested does not test itself. The answer, or null.
    pub(crate) fn api(&self, method: &str, path: &str, body: &Value) -> Value {
        let mut curl = self.curl();
        if !body.is_null() {
            curl.args(["-d", &body.to_string()]);
        }
        let output = curl.args(["-H", &format!("X-Vault-Token: {}", self.root), "-X", method]).arg(self.url(path)).output().unwrap();
        serde_json::from_slice(&output.stdout).unwrap_or(Value::Null)
    }

    /// Makes a key.
    pub(crate) fn key(&self, name: &str, kind: &str) {
        let made = self.api("POST", &format!("transit/keys/{name}"), &json!({"type": kind}));
        assert_eq!(made["data"]["name"], json!(name), "{made}");
    }

    /// Whether there is a key.
    pub(crate) fn has_key(&self, name: &str) -> bool {
        self.api("GET", &format!("transit/keys/{name}"), &Value::Null)["data"].is_object()
    }

    /// A token of a policy, with a time to live.
    pub(crate) fn token(&self, policy: &str, ttl: &str) -> String {
        self.api("PUT", "sys/policy/t", &json!({"policy": policy}));
        let made = self.api("POST", "auth/token/create", &json!({"policies": ["t"], "ttl": ttl}));
        made["auth"]["client_token"].as_str().expect("a token").to_owned()
    }

    /// Sends a signal. After `STOP` each of its threads has stopped: on a busy machine they answer for a while after `kill` has returned.
    pub(crate) fn signal(&self, name: &str) {
        let done = Command::new("sh").args(["-c", &format!("kill -{name} {}", self.server.id())]).status().unwrap();
        assert!(done.success());
        if name == "STOP" {
            wait_until("OpenBao has stopped", || self.has_stopped());
        }
    }

    fn has_stopped(&self) -> bool {
        let threads = fs::read_dir(format!("/proc/{}/task", self.server.id())).unwrap();
        threads.map(|thread| fs::read_to_string(thread.unwrap().path().join("status"))).all(|status| {
            // One that has ended meanwhile has stopped too.
            status.is_err() || status.is_ok_and(|status| status.contains("\nState:\tT"))
        })
    }

    /// As a power cut does.
    pub(crate) fn kill(&mut self) {
        self.server.kill().unwrap();
        self.server.wait().unwrap();
    }

    pub(crate) fn start_again(&mut self) {
        self.server = spawn(&self.directory);
        self.wait_for_listener();
        self.wait_until_active();
    }

    fn url(&self, path: &str) -> String {
        format!("https://127.0.0.1:{}/v1/{path}", self.port)
    }

    fn curl(&self) -> Command {
        let mut curl = Command::new("curl");
        let file = |name: &str| self.directory.path().join(name);
        curl.args(["-s", "--max-time", "20", "--cacert"]).arg(file("ca.pem"));
        curl.arg("--cert").arg(file("client.pem")).arg("--key").arg(file("client.key"));
        curl
    }

    fn wait_for_listener(&self) {
        wait_until("OpenBao listens", || TcpStream::connect(("127.0.0.1", self.port)).is_ok());
    }

    fn wait_until_active(&self) {
        wait_until("OpenBao is active", || {
            let output = self.curl().args(["-o", "/dev/null", "-w", "%{http_code}"]).arg(self.url("sys/health")).output().unwrap();
            output.stdout == b"200"
        });
    }
}

impl Drop for Bao {
    fn drop(&mut self) {
        // Also when it is stopped.
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

fn spawn(directory: &Directory) -> Child {
    let program = std::env::var_os("KMS_WRAP_BAO").map(PathBuf::from).expect("KMS_WRAP_BAO: tests/run providers sets it");
    let log = fs::File::create(directory.path().join("log")).unwrap();
    Command::new(program)
        .args(["server", "-config"])
        .arg(directory.path().join("bao.hcl"))
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .spawn()
        .unwrap()
}

/// A port that is free, with the next one.
pub(crate) fn free_ports() -> u16 {
    for _ in 0..100 {
        let first = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = first.local_addr().unwrap().port();
        if port < u16::MAX && TcpListener::bind(("127.0.0.1", port + 1)).is_ok() {
            return port;
        }
    }
    panic!("no two free ports side by side");
}

/// A CA, a server's and a client's certificate: `ca.pem`, `server.pem`, `server.key`, `client.pem`, `client.key`. And `other.pem`, a CA of
/// someone else.
fn certificates(directory: &Directory) {
    let script = r#"
        set -e
        new() { openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 "$@"; }
        for ca in ca other; do
            new -keyout $ca.key -out $ca.pem -subj "/CN=$ca" -addext basicConstraints=critical,CA:TRUE \
                -addext keyUsage=critical,keyCertSign
        done
        new -CA ca.pem -CAkey ca.key -keyout server.key -out server.pem -subj /CN=server -addext basicConstraints=critical,CA:FALSE \
            -addext subjectAltName=IP:127.0.0.1,DNS:localhost -addext extendedKeyUsage=serverAuth
        new -CA ca.pem -CAkey ca.key -keyout client.key -out client.pem -subj /CN=client -addext basicConstraints=critical,CA:FALSE \
            -addext extendedKeyUsage=clientAuth
    "#;
    let output = Command::new("sh").args(["-c", script]).current_dir(directory.path()).output().unwrap();
    assert!(output.status.success(), "openssl: {}", String::from_utf8_lossy(&output.stderr));
}
