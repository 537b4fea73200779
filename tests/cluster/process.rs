//! What the harness needs of the system: which PostgreSQL, signals, and waits that end.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output};
use std::sync::OnceLock;
use std::thread;
use std::time::{Duration, Instant};

/// The longest that anything here waits before the test fails.
pub(crate) const PATIENCE: Duration = Duration::from_mins(2);

/// A PostgreSQL installation: that of `KMS_WRAP_PG_CONFIG`, or of the first `pg_config` in `PATH`.
pub(crate) struct Postgres {
    /// Where its programs are.
    pub(crate) bindir: PathBuf,
    /// Who runs servers, when we are root.
    pub(crate) user: Option<(u32, u32)>,
}

/// The one that the tests use.
pub(crate) fn postgres() -> &'static Postgres {
    static POSTGRES: OnceLock<Postgres> = OnceLock::new();
    POSTGRES.get_or_init(|| {
        let pg_config = std::env::var("KMS_WRAP_PG_CONFIG").unwrap_or_else(|_| "pg_config".to_owned());
        let bindir = PathBuf::from(output_of(Command::new(pg_config).arg("--bindir")));
        let is_root = output_of(Command::new("id").arg("-u")) == "0";
        let user = is_root.then(|| {
            let name = std::env::var("KMS_WRAP_SERVER_USER").unwrap_or_else(|_| "postgres".to_owned());
            let id = |what: &str| output_of(Command::new("id").args([what, name.as_str()])).parse().expect("a number from id");
            (id("-u"), id("-g"))
        });
        Postgres { bindir, user }
    })
}

/// The output of a command that has to succeed, without the last line end.
fn output_of(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    text_of(command, &output)
}

/// The output of a command that has to have succeeded.
pub(crate) fn text_of(command: &Command, output: &Output) -> String {
    assert!(
        output.status.success(),
        "{command:?}: {}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).trim_end().to_owned()
}

/// `sh`'s own kill, because a bare system has no program of that name.
pub(crate) fn kill(signal: &str, pids: &[u32]) {
    let pids: Vec<String> = pids.iter().map(ToString::to_string).collect();
    // A process that is gone already is what we want.
    let _ = Command::new("sh").args(["-c", &format!("kill -{signal} {} 2>/dev/null", pids.join(" "))]).status();
}

/// A zombie counts as gone: it holds nothing any more.
pub(crate) fn is_alive(pid: u32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z')))
}

/// Calls `done` until it says yes.
pub(crate) fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < PATIENCE, "waited {} s in vain until {what}", PATIENCE.as_secs());
        thread::sleep(Duration::from_millis(20));
    }
}
