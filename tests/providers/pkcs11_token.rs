//! Tokens for the tests of the `pkcs11` kind: made once a process, before a module is loaded, since SoftHSM does not see later ones.

use kms_wrap::{
    core::{secret::Share, suite::Algorithm},
    provider::{
        Provider, ProviderKey,
        config::{self, Environment},
        credentials::CredentialDirectory,
        entropy::SystemEntropy,
        pkcs11_pin::{PinAttempt, PinLedger, Pins},
    },
};
use serde_json::json;
use std::{
    env,
    fs::{self, OpenOptions},
    future::Future,
    io::Write,
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    process::Command,
    rc::Rc,
    sync::{
        Mutex, OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

pub(crate) const PIN: &str = "1234";
const SO_PIN: &str = "87654321";

/// Label of the token that most tests share.
pub(crate) const SHARED: &str = "shared";
/// Two tokens have this label.
pub(crate) const TWINS: &str = "twins";
/// Tokens of one test each, since a wrong PIN or another session would disturb the others.
pub(crate) const OWN: [&str; 7] = ["wrong-pin", "crowd", "failing", "lonely", "replaced", "forked", "proxied"];

pub(crate) fn run<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(future)
}

/// What `tests/lib/pkcs11.sh` exports. Without it the tests fail: nothing is skipped.
pub(crate) fn setting(name: &str) -> String {
    env::var(name).unwrap_or_else(|_| panic!("{name} is not set: run `tests/run providers`"))
}

pub(crate) fn softhsm() -> String {
    setting("KMS_WRAP_TEST_SOFTHSM")
}

pub(crate) fn proxy() -> String {
    setting("KMS_WRAP_TEST_P11KIT")
}

pub(crate) fn kryoptic() -> String {
    setting("KMS_WRAP_TEST_KRYOPTIC")
}

pub(crate) fn failing() -> String {
    setting("KMS_WRAP_TEST_FAILING")
}

pub(crate) fn folder(name: &str) -> PathBuf {
    let path = Path::new(&setting("KMS_WRAP_TEST_PKCS11_DIR")).join(name);
    fs::create_dir_all(&path).unwrap();
    path
}

fn command(program: &str, arguments: &[&str]) {
    let output = Command::new(program).args(arguments).output().unwrap();
    assert!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// pkcs11-tool, logged in to a token.
pub(crate) fn tool(module: &str, token: &str, arguments: &[&str]) {
    command("pkcs11-tool", &[&["--module", module, "--token-label", token, "-l", "-p", PIN], arguments].concat());
}

fn keygen(module: &str, token: &str, kind: &str, label: &str, id: &str) {
    let action = if kind.starts_with("AES") { "--keygen" } else { "--keypairgen" };
    let usage: &[&str] = if module == kryoptic() { &["--usage-wrap", "--usage-decrypt"] } else { &[] };
    tool(module, token, &[&[action, "--key-type", kind, "--label", label, "--id", id], usage].concat());
}

/// The SoftHSM tokens. The first process of a run makes them; its children find them.
pub(crate) fn softhsm_tokens() {
    static MADE: OnceLock<()> = OnceLock::new();
    MADE.get_or_init(|| {
        let mark = folder("softhsm").join("made");
        if mark.exists() {
            return;
        }
        let module = softhsm();
        for label in [SHARED, TWINS, TWINS].into_iter().chain(OWN) {
            command("softhsm2-util", &["--init-token", "--free", "--label", label, "--so-pin", SO_PIN, "--pin", PIN]);
        }
        for (kind, label, id) in [
            ("AES:32", "aes", "01"),
            ("AES:32", "other", "02"),
            ("AES:16", "short", "03"),
            ("AES:32", "double", "04"),
            ("AES:32", "double", "05"),
            ("rsa:2048", "rsa", "06"),
            ("rsa:1024", "small", "07"),
        ] {
            keygen(&module, SHARED, kind, label, id);
        }
        for label in OWN {
            keygen(&module, label, "AES:32", "aes", "01");
        }
        fs::write(mark, "").unwrap();
    });
}

/// The Kryoptic tokens: "kryoptic" with keys, "lockable" without any.
pub(crate) fn kryoptic_tokens() {
    static MADE: OnceLock<()> = OnceLock::new();
    MADE.get_or_init(|| {
        let mark = folder("kryoptic").join("made");
        if mark.exists() {
            return;
        }
        let module = kryoptic();
        for (slot, label) in [("42", "kryoptic"), ("43", "lockable")] {
            command("pkcs11-tool", &["--module", &module, "--slot", slot, "--init-token", "--label", label, "--so-pin", SO_PIN]);
            let login = ["--login", "--login-type", "so", "--so-pin", SO_PIN];
            command("pkcs11-tool", &[&["--module", &module, "--slot", slot, "--init-pin", "--pin", PIN], login.as_slice()].concat());
        }
        keygen(&module, "kryoptic", "AES:32", "aes", "01");
        keygen(&module, "kryoptic", "rsa:2048", "rsa", "02");
        fs::write(mark, "").unwrap();
    });
}

/// A ledger in a file, which several processes share. Each refusal is a line.
pub(crate) struct FileLedger(PathBuf);

impl FileLedger {
    pub(crate) fn new(test: &str) -> Rc<Self> {
        Rc::new(Self(folder(test).join("ledger")))
    }

    pub(crate) fn refusals(&self) -> usize {
        fs::read_to_string(&self.0).map_or(0, |text| text.lines().count())
    }
}

impl PinLedger for FileLedger {
    fn was_refused(&self, attempt: &PinAttempt) -> bool {
        fs::read_to_string(&self.0).is_ok_and(|text| text.lines().any(|line| line == hex::encode(attempt.0)))
    }

    fn refused(&self, attempt: &PinAttempt) {
        let mut file = OpenOptions::new().create(true).append(true).open(&self.0).unwrap();
        writeln!(file, "{}", hex::encode(attempt.0)).unwrap();
    }
}

/// A PIN file in the credential directory of a test; a new one takes its place at once.
pub(crate) fn write_pin(test: &str, name: &str, contents: &str) {
    // Tests in several threads may share a file.
    static ONE: AtomicUsize = AtomicUsize::new(0);
    let temporary = folder(test).join(format!(".{}.{}", std::process::id(), ONE.fetch_add(1, Ordering::Relaxed)));
    let mut file = OpenOptions::new().create_new(true).write(true).mode(0o600).open(&temporary).unwrap();
    file.write_all(contents.as_bytes()).unwrap();
    fs::rename(temporary, folder(test).join(name)).unwrap();
}

pub(crate) fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

pub(crate) fn environment(test: &str, pins: Pins) -> Environment {
    Environment {
        credentials: CredentialDirectory(folder(test)),
        allowed_endpoints: Vec::new(),
        pkcs11_modules: vec![softhsm().into(), proxy().into(), kryoptic().into(), failing().into()],
        pins,
        deadline: Duration::from_secs(2),
    }
}

/// A provider that logs in with the PIN file "pin" of a test, which it writes if there is none.
pub(crate) fn provider(test: &str, module: &str, token: &str) -> Rc<dyn Provider> {
    // Tests in several threads may want the same one.
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let guard = ONE_AT_A_TIME.lock();
    if !folder(test).join("pin").exists() {
        write_pin(test, "pin", &format!("{PIN}\n"));
    }
    drop(guard);
    let config = json!({"module": module, "token_label": token, "pin_file": "pin"});
    config::provider("pkcs11", &config, &environment(test, Pins(Some(FileLedger::new(test))))).unwrap()
}

pub(crate) fn aes(name: &str) -> ProviderKey<'_> {
    ProviderKey { name, version: "", algorithm: Algorithm::Aes256Gcm, public_key: None }
}

pub(crate) fn shares(n: usize) -> Vec<Share> {
    (0..n).map(|_| Share::random(&mut SystemEntropy).unwrap()).collect()
}

pub(crate) fn same(a: Option<&Share>, b: &Share) -> bool {
    a.is_some_and(|a| a.expose() == b.expose())
}

/// Wraps a share and opens it again.
pub(crate) fn round_trip(provider: &dyn Provider, key: ProviderKey<'_>) {
    let share = shares(1).remove(0);
    let blobs = run(provider.wrap(key, &[(&share, b"aad")])).unwrap();
    let opened = run(provider.unwrap(key, &[(&blobs[0], b"aad")])).unwrap();
    assert!(same(opened[0].as_ref(), &share));
}
