//! Every statement that the extension sends to its own tables, and the rows that come back. Nothing else in the crate holds SQL on tables.

pub(crate) mod campaign;
pub(crate) mod column;
pub(crate) mod grant;
pub(crate) mod health;
pub(crate) mod job;
pub(crate) mod key;
pub(crate) mod leaks;
pub(crate) mod local;
pub(crate) mod policy;
pub(crate) mod protected;
pub(crate) mod rewritten;
pub(crate) mod setup;
pub(crate) mod watch;
pub(crate) mod wrapper;

/// What becomes of a row that another session holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Held {
    /// It is waited for.
    Wait,
    /// It stays as it is: a job waits for nobody.
    Skip,
}
