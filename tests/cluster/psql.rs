//! What psql says: its errors, and connections that stay open for tests in which several sessions meet.

use std::fmt;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use crate::harness::Cluster;
use crate::process::PATIENCE;

/// What a statement that failed said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PsqlError {
    /// Five characters; empty when psql could not reach the server.
    pub(crate) sqlstate: String,
    /// The primary message.
    pub(crate) message: String,
    /// The DETAIL, or nothing.
    pub(crate) detail: String,
    /// The HINT, or nothing.
    pub(crate) hint: String,
}

impl fmt::Display for PsqlError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.sqlstate, self.message)
    }
}

impl PsqlError {
    /// Reads psql's messages at `VERBOSITY=verbose`; takes the last error, which is the one that stopped it.
    pub(crate) fn parse(stderr: &str) -> Self {
        let [mut sqlstate, mut message, mut detail, mut hint] = [""; 4];
        for line in stderr.lines() {
            let after_word = ["ERROR:  ", "FATAL:  ", "PANIC:  "].iter().find_map(|word| line.split_once(word));
            if let Some((code, text)) = after_word.and_then(|(_, rest)| rest.split_once(": ")).filter(|(code, _)| code.len() == 5) {
                (sqlstate, message, detail, hint) = (code, text, "", "");
            } else if let Some(text) = line.strip_prefix("DETAIL:  ") {
                detail = text;
            } else if let Some(text) = line.strip_prefix("HINT:  ") {
                hint = text;
            }
        }
        if sqlstate.is_empty() {
            message = stderr.trim();
        }
        Self { sqlstate: sqlstate.to_owned(), message: message.to_owned(), detail: detail.to_owned(), hint: hint.to_owned() }
    }
}

/// A connection that stays open, for tests with several sessions. Errors do not end it.
pub(crate) struct Session {
    child: Child,
    stdin: ChildStdin,
    stdout: Receiver<String>,
    stderr: Receiver<String>,
    marks: u32,
    pid: u32,
}

impl Session {
    pub(crate) fn open(cluster: &Cluster, role: &str, database: &str) -> Self {
        let mut command = cluster.command("psql");
        command.args(["-X", "-At", "-q", "-v", "VERBOSITY=verbose", "-U", role, "-d", database]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("to start psql");
        let stdin = child.stdin.take().expect("a pipe");
        let stdout = lines_of(child.stdout.take().expect("a pipe"));
        let stderr = lines_of(child.stderr.take().expect("a pipe"));
        let mut session = Self { child, stdin, stdout, stderr, marks: 0, pid: 0 };
        session.pid = session.query("SELECT pg_backend_pid()").expect("a connection").parse().expect("a number");
        session
    }

    /// The backend's process id.
    pub(crate) fn pid(&self) -> u32 {
        self.pid
    }

    /// Runs SQL and waits for its end.
    pub(crate) fn query(&mut self, sql: &str) -> Result<String, PsqlError> {
        self.send(sql);
        self.finish()
    }

    /// Starts SQL and does not wait: [`Session::finish`] does. Several may be started one after the other.
    pub(crate) fn send(&mut self, sql: &str) {
        self.marks = self.marks.wrapping_add(1);
        let mark = self.mark();
        // The semicolon ends a statement that has none, and does nothing after one that has.
        let text = format!("{sql}\n;\n\\echo {mark}\n\\warn {mark}\n");
        // When the server has died psql may be gone too; then finish() reports it.
        drop(self.stdin.write_all(text.as_bytes()));
        drop(self.stdin.flush());
    }

    /// Waits for the end of what was sent last, and gives everything printed since the last time.
    pub(crate) fn finish(&self) -> Result<String, PsqlError> {
        let mark = self.mark();
        let output = until(&self.stdout, &mark);
        let errors = until(&self.stderr, &mark);
        match (output, errors) {
            (Ok(output), Ok(errors)) if !is_error(&errors) => Ok(output),
            (_, Ok(errors) | Err(errors)) => Err(PsqlError::parse(&errors)),
        }
    }

    /// Whether what was sent is still running after this time: it waits for a lock, say.
    pub(crate) fn is_waiting_after(&self, cluster: &Cluster, time: Duration) -> bool {
        thread::sleep(time);
        let sql = format!("SELECT count(*) FROM pg_stat_activity WHERE pid = {} AND state = 'active'", self.pid);
        cluster.psql(&sql).is_ok_and(|count| count == "1")
    }

    fn mark(&self) -> String {
        format!("kmsw-mark-{}", self.marks)
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn is_error(stderr: &str) -> bool {
    stderr.lines().any(|line| line.contains("ERROR:  ") || line.contains("FATAL:  ") || line.contains("connection to server was lost"))
}

/// The lines of a pipe, read by a thread so that waiting for one can have an end.
fn lines_of(pipe: impl std::io::Read + Send + 'static) -> Receiver<String> {
    let (sender, receiver) = channel();
    thread::spawn(move || {
        for line in BufReader::new(pipe).lines() {
            let Ok(line) = line else { break };
            if sender.send(line).is_err() {
                break;
            }
        }
    });
    receiver
}

/// The lines up to the mark, or all of them as an error when psql ended before it.
fn until(lines: &Receiver<String>, mark: &str) -> Result<String, String> {
    let mut text = Vec::new();
    let start = Instant::now();
    loop {
        match lines.recv_timeout(PATIENCE.saturating_sub(start.elapsed())) {
            Ok(line) if line == mark => return Ok(text.join("\n")),
            Ok(line) => text.push(line),
            Err(RecvTimeoutError::Disconnected) => return Err(text.join("\n")),
            Err(RecvTimeoutError::Timeout) => panic!("a session took more than {} s", PATIENCE.as_secs()),
        }
    }
}
