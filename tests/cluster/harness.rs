//! Throw-away PostgreSQL clusters for tests.
//!
//! ```text
//! let cluster = Cluster::start(&[("shared_preload_libraries", "kms_wrap")]);
//! cluster.psql("CREATE EXTENSION kms_wrap")?;
//!
//! let mut other = cluster.session("postgres");        // a second connection that stays open
//! other.query("BEGIN")?;
//! other.send("SELECT pg_sleep(60)");                  // does not wait
//! cluster.kill_backend(other.pid());                  // kill -9: the server restarts itself
//! cluster.wait_until_ready();
//!
//! cluster.crash();                                    // kill -9 of everything
//! cluster.up();                                       // recovery
//! let dump = cluster.dump("postgres", &[]);
//! let copy = cluster.base_backup();                   // not started
//! ```
//!
//! A cluster listens on a unix socket only and has a directory of its own in `/tmp` (a socket's path must be
//! short) that is removed on drop. As root everything of PostgreSQL runs as user `postgres`
//! (`KMS_WRAP_SERVER_USER` names another one). No wait is longer than [`PATIENCE`].

use std::ffi::OsStr;
use std::fs;
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::channel;
use std::thread;
use std::time::{Duration, Instant};

pub(crate) use crate::process::{PATIENCE, wait_until};
use crate::process::{is_alive, kill, postgres, text_of};
pub(crate) use crate::psql::{PsqlError, Session};

/// A cluster with its own directory. Dropped, it is stopped and removed.
pub(crate) struct Cluster {
    dir: PathBuf,
}

impl Cluster {
    /// A new cluster with these settings (`("name", "value")`), started. The database is `postgres`, the superuser
    /// too.
    pub(crate) fn start(settings: &[(&str, &str)]) -> Self {
        let cluster = Self::empty_with(settings);
        cluster.up();
        cluster
    }

    /// The same, not started yet.
    pub(crate) fn empty_with(settings: &[(&str, &str)]) -> Self {
        let cluster = Self::empty();
        cluster.run("initdb", &["-U", "postgres", "-A", "trust", "--encoding=UTF8", "--locale=C", "--no-sync", "-D", &cluster.data()]);
        cluster.set(&[
            ("listen_addresses", ""),
            ("fsync", "off"),
            ("timezone", "UTC"),
            ("max_connections", "50"),
            ("log_line_prefix", "%m [%p] "),
        ]);
        cluster.set(settings);
        cluster
    }

    /// A directory that only the server's user may enter: that is what makes `trust` safe.
    fn empty() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let parent = std::env::var("KW_TMP").unwrap_or_else(|_| "/tmp".to_owned());
        let dir = loop {
            let number = NUMBER.fetch_add(1, Ordering::Relaxed);
            let dir = Path::new(&parent).join(format!("kmsw-{}-{number}", std::process::id()));
            match fs::create_dir(&dir) {
                Ok(()) => break dir,
                // Left by a process of the same number that was killed.
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                Err(error) => panic!("{}: {error}", dir.display()),
            }
        };
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o700)).expect("its permissions");
        if let Some((uid, gid)) = postgres().user {
            chown(&dir, Some(uid), Some(gid)).expect("its owner");
        }
        Self { dir }
    }

    /// The data directory.
    pub(crate) fn data(&self) -> String {
        self.dir.join("data").display().to_string()
    }

    /// Where the extension keeps root key files: beside the data directory, so that a backup has none of them.
    pub(crate) fn key_dir(&self) -> PathBuf {
        self.dir.join("data.kms_wrap")
    }

    /// A path in the cluster's directory, which server and client programs may write to.
    pub(crate) fn path(&self, name: &str) -> String {
        self.dir.join(name).display().to_string()
    }

    /// The server's log so far.
    pub(crate) fn log(&self) -> String {
        fs::read(self.dir.join("log")).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
    }

    /// Where PostgreSQL's programs are.
    pub(crate) fn bindir() -> String {
        postgres().bindir.display().to_string()
    }

    /// Adds settings to postgresql.conf; they count from the next start, or [`Cluster::reload`].
    pub(crate) fn set(&self, settings: &[(&str, &str)]) {
        let mut file = fs::OpenOptions::new().append(true).open(self.dir.join("data/postgresql.conf")).expect("postgresql.conf");
        for (name, value) in settings {
            writeln!(file, "{name} = '{}'", value.replace('\'', "''")).expect("to write a setting");
        }
    }

    /// Makes the server read its settings again (SIGHUP).
    pub(crate) fn reload(&self) {
        self.run("pg_ctl", &["reload", "-s", "-D", &self.data()]);
    }

    /// Starts it, and waits until it takes connections.
    pub(crate) fn up(&self) {
        assert!(self.try_up(), "the server did not start:\n{}", self.log());
    }

    /// Tries to start it where that should fail; gives the log of the attempt.
    pub(crate) fn up_fails(&self) -> String {
        let before = self.log().len();
        assert!(!self.try_up(), "the server did start");
        self.log().split_off(before)
    }

    fn try_up(&self) -> bool {
        // The socket's directory is given here, because a copy of a cluster has the original's in its settings.
        let options = format!("-c unix_socket_directories='{}'", self.dir.display());
        let mut command = self.command("pg_ctl");
        command.args(["start", "-s", "-w", "-t", "60", "-D", &self.data(), "-l", &self.path("log"), "-o", &options]);
        // The server inherits these, so the end of a pipe would never come.
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command.status().is_ok_and(|status| status.success())
    }

    /// An orderly shutdown.
    pub(crate) fn down(&self) {
        self.run("pg_ctl", &["stop", "-s", "-w", "-t", "60", "-m", "fast", "-D", &self.data()]);
    }

    /// An orderly shutdown and a start, with more settings.
    pub(crate) fn restart(&self, settings: &[(&str, &str)]) {
        self.down();
        self.set(settings);
        self.up();
    }

    /// The postmaster's process id, when it has one.
    pub(crate) fn postmaster(&self) -> Option<u32> {
        let file = fs::read_to_string(self.dir.join("data/postmaster.pid")).ok()?;
        file.lines().next()?.trim().parse().ok()
    }

    /// The server's processes besides the postmaster.
    pub(crate) fn children(&self) -> Vec<u32> {
        let Some(parent) = self.postmaster() else { return Vec::new() };
        let mut children = Vec::new();
        for entry in fs::read_dir("/proc").expect("/proc").flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
            let stat = fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
            // The name in parentheses can hold anything; the state and the parent come after it.
            let after = stat.rsplit_once(") ").map(|(_, rest)| rest).unwrap_or_default();
            if after.split(' ').nth(1).and_then(|ppid| ppid.parse().ok()) == Some(parent) {
                children.push(pid);
            }
        }
        children
    }

    /// `kill -9` of all of the server's processes at once, as when the machine loses power. Start it with
    /// [`Cluster::up`].
    pub(crate) fn crash(&self) {
        let mut pids = vec![self.postmaster().expect("a running server")];
        pids.extend(self.children());
        kill("KILL", &pids);
        wait_until("the killed processes are gone", || !pids.iter().any(|pid| is_alive(*pid)));
        // Until its new parent collects it the postmaster is a zombie, and the next one would take the process id
        // in these files for a running server. A machine that lost power has no such process.
        for name in ["data/postmaster.pid", ".s.PGSQL.5432.lock"] {
            drop(fs::remove_file(self.dir.join(name)));
        }
    }

    /// `kill -9` of one backend. The server ends all sessions, recovers and goes on: see
    /// [`Cluster::wait_until_ready`].
    pub(crate) fn kill_backend(&self, pid: u32) {
        assert!(self.children().contains(&pid), "{pid} is no process of this server");
        kill("KILL", &[pid]);
        wait_until("the killed backend is gone", || !is_alive(pid));
    }

    /// Waits until the server takes connections, also as a standby.
    pub(crate) fn wait_until_ready(&self) {
        wait_until("the server is ready", || self.psql("SELECT 1").is_ok());
    }

    /// Waits until a query of database `postgres` gives this.
    pub(crate) fn wait_for(&self, sql: &str, expected: &str) {
        wait_until(&format!("{sql} gives {expected}"), || self.psql(sql).is_ok_and(|answer| answer == expected));
    }

    /// Runs SQL in database `postgres`; see [`Cluster::psql_in`].
    pub(crate) fn psql(&self, sql: &str) -> Result<String, PsqlError> {
        self.psql_in("postgres", sql)
    }

    /// Runs a script of SQL, each statement a transaction of its own, up to the first error. The answer is `psql -At`'s:
    /// rows are lines, columns are separated by `|`. Psql's own commands work too.
    pub(crate) fn psql_in(&self, database: &str, sql: &str) -> Result<String, PsqlError> {
        self.psql_as("postgres", database, sql)
    }

    /// As [`Cluster::psql_in`], logged in as this role.
    pub(crate) fn psql_as(&self, role: &str, database: &str, sql: &str) -> Result<String, PsqlError> {
        let output = self.psql_output(role, database, sql);
        if output.status.success() {
            Ok(String::from_utf8_lossy(&output.stdout).trim_end().to_owned())
        } else {
            Err(PsqlError::parse(&String::from_utf8_lossy(&output.stderr)))
        }
    }

    /// All that the server tells a client beside rows.
    pub(crate) fn psql_says(&self, sql: &str) -> String {
        String::from_utf8_lossy(&self.psql_output("postgres", "postgres", sql).stderr).into_owned()
    }

    fn psql_output(&self, role: &str, database: &str, sql: &str) -> Output {
        let mut command = self.command("psql");
        command.args(["-X", "-At", "-q", "-v", "ON_ERROR_STOP=1", "-v", "VERBOSITY=verbose", "-U", role, "-d", database]);
        self.feed(&mut command, sql.as_bytes())
    }

    /// Opens a connection that stays open.
    pub(crate) fn session(&self, database: &str) -> Session {
        Session::open(self, "postgres", database)
    }

    /// As [`Cluster::session`], logged in as this role.
    pub(crate) fn session_as(&self, role: &str, database: &str) -> Session {
        Session::open(self, role, database)
    }

    /// `pg_dump` of a database, as text.
    pub(crate) fn dump(&self, database: &str, options: &[&str]) -> String {
        let mut arguments = vec!["-d", database];
        arguments.extend(options);
        self.run("pg_dump", &arguments)
    }

    /// Makes a database and restores a text dump into it; any error counts.
    pub(crate) fn restore(&self, database: &str, dump: &str) -> Result<(), PsqlError> {
        self.psql(&format!("CREATE DATABASE \"{database}\" TEMPLATE template0"))?;
        self.psql_in(database, dump).map(|_| ())
    }

    /// A copy made by `pg_basebackup`, as a cluster that is not started. Root key files do not come along.
    pub(crate) fn base_backup(&self) -> Self {
        let copy = Self::empty();
        self.run("pg_basebackup", &["-D", &copy.data(), "-X", "stream", "-c", "fast", "--no-sync"]);
        copy
    }

    /// A streaming standby, started. Root key files do not come along.
    pub(crate) fn standby(&self) -> Self {
        let copy = Self::empty();
        self.run("pg_basebackup", &["-D", &copy.data(), "-X", "stream", "-c", "fast", "--no-sync", "-R"]);
        copy.up();
        copy
    }

    /// Waits until a standby has replayed what this cluster has written so far.
    pub(crate) fn wait_for_replay(&self, standby: &Self) {
        let position = self.psql("SELECT pg_current_wal_flush_lsn()").expect("the primary's position");
        standby.wait_for(&format!("SELECT pg_last_wal_replay_lsn() >= '{position}'"), "t");
    }

    /// Copies the root key files from another cluster, as whoever restores a backup has to.
    pub(crate) fn copy_keys_from(&self, other: &Self) {
        self.copy(&other.key_dir(), &self.key_dir());
    }

    /// Copies a file or directory as the server's user.
    pub(crate) fn copy(&self, from: &Path, to: &Path) {
        self.run_program(Path::new("cp"), &["-a", &from.display().to_string(), &to.display().to_string()]);
    }

    /// Makes a directory that belongs to the server's user, in the cluster's own.
    pub(crate) fn make_dir(&self, name: &str) -> String {
        let path = self.path(name);
        self.run_program(Path::new("mkdir"), &["-m", "700", &path]);
        path
    }

    /// Runs one of PostgreSQL's programs against this cluster; it has to succeed. Gives what it printed.
    pub(crate) fn run(&self, program: &str, arguments: &[&str]) -> String {
        self.run_program(&postgres().bindir.join(program), arguments)
    }

    /// As [`Cluster::run`], in this directory instead of `/`.
    pub(crate) fn run_in(&self, directory: &str, program: &str, arguments: &[&str]) -> String {
        let mut command = self.command(program);
        command.current_dir(directory).args(arguments);
        let output = self.feed(&mut command, b"");
        text_of(&command, &output)
    }

    /// Runs any program as the server's user; it has to succeed. Gives what it printed.
    pub(crate) fn run_program(&self, program: &Path, arguments: &[&str]) -> String {
        let mut command = self.command_of(program);
        command.args(arguments);
        let output = self.feed(&mut command, b"");
        text_of(&command, &output)
    }

    /// One of PostgreSQL's programs as the server's user, with the environment that leads it to this cluster.
    pub(crate) fn command(&self, program: &str) -> Command {
        self.command_of(postgres().bindir.join(program))
    }

    /// Another program as that user.
    pub(crate) fn command_of(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("PG") {
                command.env_remove(name);
            }
        }
        command
            .current_dir("/")
            .env_remove("RUST_BACKTRACE")
            .env_remove("RUST_LIB_BACKTRACE")
            .env("HOME", &self.dir)
            .env("LC_ALL", "C")
            .env("PGHOST", &self.dir)
            .env("PGPORT", "5432")
            .env("PGUSER", "postgres")
            .env("PGDATABASE", "postgres")
            .env("PGCONNECT_TIMEOUT", "10");
        if let Some((uid, gid)) = postgres().user {
            command.uid(uid).gid(gid);
        }
        command
    }

    /// Runs a command with this as its input, not longer than [`PATIENCE`].
    fn feed(&self, command: &mut Command, input: &[u8]) -> Output {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let mut stdin = child.stdin.take().expect("a pipe");
        let input = input.to_vec();
        // A thread, because the child may print much before it has read everything. A child that ends early
        // closes the pipe, which is no error of ours.
        thread::spawn(move || drop(stdin.write_all(&input)));
        let pid = child.id();
        let (sender, receiver) = channel();
        thread::spawn(move || drop(sender.send(child.wait_with_output())));
        let Ok(output) = receiver.recv_timeout(PATIENCE) else {
            kill("KILL", &[pid]);
            panic!("{command:?} took more than {} s; the log:\n{}", PATIENCE.as_secs(), self.log());
        };
        output.expect("the output of a command")
    }

    /// Whose file this is and who may read it: `(uid, mode)`.
    pub(crate) fn owner_and_mode(path: &Path) -> (u32, u32) {
        let metadata = fs::metadata(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        (metadata.uid(), metadata.mode() & 0o7777)
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if thread::panicking() {
            let log = self.log();
            let tail: Vec<&str> = log.lines().rev().take(40).collect();
            eprintln!("--- the end of the server's log:");
            for line in tail.iter().rev() {
                eprintln!("{line}");
            }
        }
        if let Some(postmaster) = self.postmaster() {
            // The immediate shutdown; whoever does not obey is killed.
            let mut pids = vec![postmaster];
            pids.extend(self.children());
            kill("QUIT", &[postmaster]);
            let start = Instant::now();
            while pids.iter().any(|pid| is_alive(*pid)) {
                if start.elapsed() > Duration::from_secs(10) {
                    kill("KILL", &pids);
                    break;
                }
                thread::sleep(Duration::from_millis(10));
            }
        }
        drop(fs::remove_dir_all(&self.dir));
    }
}
