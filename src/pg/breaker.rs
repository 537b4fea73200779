//! Circuit breakers: what this server knows of each remote provider's state, so that an outage costs one wait and not one a query.
//!
//! In shared memory when the library is preloaded, so that all sessions and the worker see one state; else each session has its own.

use super::init;
use crate::provider::{
    ProviderError,
    breaker::{Circuit, End},
    patience::Patience,
};
use pgrx::{PGRXSharedMemory, PgLwLock, pg_guard, pg_sys};
use serde_json::Value;
use std::{
    cell::RefCell,
    hash::{DefaultHasher, Hash, Hasher},
    time::Duration,
};

/// Providers whose state is kept, over all databases. Beyond that the one that was asked longest ago makes room.
const PROVIDERS: usize = 64;

/// One provider's state. All zero is an unused place.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct State {
    database: u32,
    provider: i64,
    asked: i64,
    /// The [`fingerprint`] of the configuration that the circuit is about.
    config: u64,
    pub(crate) circuit: Circuit,
    /// Calls that came to an answer, and the microseconds that they took.
    pub(crate) calls: u64,
    pub(crate) micros: u64,
    /// Wrapped shares that the provider's keys rejected, or opened to what does not verify.
    pub(crate) rejected: u64,
}

/// All providers' states.
#[derive(Clone, Copy)]
pub(crate) struct Table {
    /// Counts breakers that opened or closed.
    changes: u64,
    states: [State; PROVIDERS],
}

impl Default for Table {
    fn default() -> Self {
        Self { changes: 0, states: [State::default(); PROVIDERS] }
    }
}

// SAFETY: plain numbers, all processes of one server have the same layout.
#[allow(unsafe_code)]
unsafe impl PGRXSharedMemory for Table {}

// SAFETY: the name is this extension's own.
#[allow(unsafe_code)]
static SHARED: PgLwLock<Table> = unsafe { PgLwLock::new(c"kms_wrap breakers") };

thread_local! {
    static OWN: RefCell<Table> = RefCell::default();
}

/// Asks for the shared memory. Called while the library is preloaded.
#[allow(unsafe_code)]
pub(crate) fn share() {
    pgrx::pg_shmem_init!(SHARED);
}

fn with_table<T>(f: impl FnOnce(&mut Table) -> T) -> T {
    if init::is_preloaded() { f(&mut SHARED.exclusive()) } else { OWN.with_borrow_mut(f) }
}

impl Table {
    fn find(&self, database: u32, provider: i64) -> Option<usize> {
        self.states.iter().position(|s| (s.database, s.provider) == (database, provider))
    }

    fn state(&mut self, database: u32, provider: i64) -> &mut State {
        let known = self.find(database, provider);
        let place = known.unwrap_or_else(|| {
            // The one that was asked longest ago makes room.
            self.states.iter().enumerate().min_by_key(|(_, s)| s.asked).map_or(0, |(place, _)| place)
        });
        #[allow(clippy::indexing_slicing)] // a place that was just found
        let state = &mut self.states[place];
        if known.is_none() {
            *state = State { database, provider, ..State::default() };
        }
        state
    }
}

fn this_database() -> u32 {
    // SAFETY: reads a variable of this process, set when it connected.
    #[allow(unsafe_code)]
    let database = unsafe { pg_sys::MyDatabaseId };
    database.to_u32()
}

/// What is known of a provider by `kms_providers.id` of this database. Looking makes no place for one that nobody has asked.
pub(crate) fn state(provider: i64) -> State {
    let look = |table: &Table| table.find(this_database(), provider).and_then(|place| table.states.get(place).copied());
    let found = if init::is_preloaded() { look(&SHARED.share()) } else { OWN.with_borrow(look) };
    found.unwrap_or_default()
}

/// Counts shares under a provider's keys that did not verify.
pub(crate) fn count_rejected(provider: i64, n: usize) {
    let (now, n) = (clock(), u64::try_from(n).unwrap_or(u64::MAX));
    with_table(|table| {
        let state = table.state(this_database(), provider);
        state.asked = now;
        state.rejected = state.rejected.saturating_add(n);
    });
}

/// What tells one configuration from another, in all processes of this server.
pub(crate) fn fingerprint(config: &Value) -> u64 {
    let mut hasher = DefaultHasher::new();
    config.hash(&mut hasher);
    hasher.finish()
}

/// How many breakers have opened or closed: whoever holds DEKs looks again when it moves.
pub(crate) fn changes() -> u64 {
    if init::is_preloaded() { SHARED.share().changes } else { OWN.with_borrow(|table| table.changes) }
}

/// The breaker of one provider with one configuration: what failed with another says nothing about this one, which may be the remedy.
#[derive(Clone, Copy)]
pub(crate) struct Breaker {
    database: u32,
    provider: i64,
    config: u64,
}

impl Breaker {
    /// By `kms_providers.id` of this database, and the [`fingerprint`] of its configuration.
    pub(crate) fn of(provider: i64, config: u64) -> Self {
        Self { database: this_database(), provider, config }
    }

    fn with<T>(&self, f: impl FnOnce(&mut State, &mut u64) -> T) -> T {
        with_table(|table| {
            let mut changes = table.changes;
            let result = f(table.state(self.database, self.provider), &mut changes);
            table.changes = changes;
            result
        })
    }

    /// The state of its circuit, which is closed as long as nobody has asked with this configuration.
    fn circuit(&self) -> Circuit {
        let state = state(self.provider);
        if state.config == self.config { state.circuit } else { Circuit::default() }
    }

    /// Whether a call would be refused now.
    pub(crate) fn is_open(&self) -> bool {
        // Asked of a copy, so that nobody takes it for the call that tries.
        self.circuit().admit(clock(), 0).is_err()
    }

    /// Failures in a row.
    pub(crate) fn failures(&self) -> u32 {
        self.circuit().failures
    }

    /// Fails while the provider counts as unreachable.
    pub(crate) fn check(&self) -> Result<(), ProviderError> {
        match self.failures() {
            0 => Ok(()),
            failures => Err(ProviderError::Unavailable(format!("It failed the last {}.", times(failures)))),
        }
    }

    /// Lets a call through that may take so long and waits for some time of it, or says why not.
    pub(crate) fn admit(&self, whole: Duration, wait: Duration) -> Result<Admitted<'_>, ProviderError> {
        let (now, micros) = (clock(), i64::try_from(wait.as_micros()).unwrap_or(i64::MAX));
        let admitted = self.with(|state, changes| {
            if state.config != self.config {
                *changes = changes.wrapping_add(u64::from(state.circuit.failures > 0));
                (state.config, state.circuit) = (self.config, Circuit::default());
            }
            state.asked = now;
            state.circuit.admit(now, micros).map_err(|micros| (micros, state.circuit.failures))
        });
        match admitted {
            Ok(()) => Ok(Admitted { breaker: self, whole, patience: Patience::new(wait), recorded: false }),
            Err((micros, failures)) => {
                let seconds = (micros + 999_999) / 1_000_000;
                let times = times(failures);
                Err(ProviderError::Unavailable(format!("It failed the last {times} and is asked again in {seconds} s.")))
            }
        }
    }

    fn end(&self, end: End, took: Option<Duration>) {
        let now = clock();
        self.with(|state, changes| {
            // A call that began before the configuration was changed says nothing about the new one.
            if state.config == self.config {
                *changes = changes.wrapping_add(u64::from(state.circuit.end(end, now)));
            }
            if let Some(took) = took {
                state.calls = state.calls.saturating_add(1);
                state.micros = state.micros.saturating_add(u64::try_from(took.as_micros()).unwrap_or(u64::MAX));
            }
        });
    }
}

/// Microseconds. Of the clock, since the worker asks providers outside of any statement.
fn clock() -> i64 {
    // SAFETY: asks the clock; raises no error.
    #[allow(unsafe_code)]
    unsafe {
        pg_sys::GetCurrentTimestamp()
    }
}

fn times(n: u32) -> String {
    if n == 1 { "time".to_owned() } else { format!("{n} times") }
}

/// A call that was let through.
pub(crate) struct Admitted<'a> {
    breaker: &'a Breaker,
    whole: Duration,
    /// What it may still take.
    pub(crate) patience: Patience,
    recorded: bool,
}

impl Admitted<'_> {
    /// Takes note of how it ended. A refusal is an answer too: only an outage opens the breaker.
    pub(crate) fn record(mut self, error: Option<&ProviderError>) {
        self.recorded = true;
        match error.filter(|e| e.is_outage()) {
            None => self.breaker.end(End::Answered, Some(self.patience.spent())),
            Some(ProviderError::Throttled(_)) => self.breaker.end(End::Throttled, None),
            Some(_) => self.breaker.end(End::Outage, None),
        }
    }
}

impl Drop for Admitted<'_> {
    /// A call that was cancelled, or had little time left, found out nothing, and the next one may try; unless it had waited for long by then.
    /// Statements that give up earlier than calls do would else wait, one after the other, as long as the outage lasts.
    fn drop(&mut self) {
        if !self.recorded {
            let waited_long = self.patience.spent() >= self.whole / 2;
            self.breaker.end(if waited_long { End::Outage } else { End::Abandoned }, None);
        }
    }
}
