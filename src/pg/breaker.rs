//! Circuit breakers: what this server knows of each remote provider's state, so that an outage costs one wait and not one a query.
//!
//! In shared memory when the library is preloaded, so that all sessions and the worker see one state; else each session has its own.

use super::init;
use crate::provider::ProviderError;
use pgrx::{PGRXSharedMemory, PgLwLock, pg_guard, pg_sys};
use std::{cell::RefCell, time::Duration};

/// Providers whose state is kept, over all databases. Beyond that the one that was asked longest ago makes room.
const PROVIDERS: usize = 64;

/// How long a breaker stays open after the first failure, in microseconds; doubled by every further one.
const FIRST_PAUSE: i64 = 5_000_000;

/// And at most, in microseconds.
const LONGEST_PAUSE: i64 = 60_000_000;

/// How long a provider that wants fewer requests is left alone, in microseconds.
const THROTTLED_PAUSE: i64 = 1_000_000;

/// How long the one call that tries an open breaker has the others wait, in microseconds: past any deadline it is taken for lost.
const PROBE: i64 = 60_000_000;

/// One provider's state. All zero is an unused place.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct State {
    database: u32,
    provider: i64,
    asked: i64,
    /// Failures in a row.
    pub(crate) failures: u32,
    open_until: i64,
    probing_until: i64,
    /// Calls that came to an answer, and the microseconds that they took.
    pub(crate) calls: u64,
    pub(crate) micros: u64,
    /// Wrapped shares that the provider rejected.
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
    fn state(&mut self, database: u32, provider: i64) -> &mut State {
        let known = self.states.iter().position(|s| (s.database, s.provider) == (database, provider));
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

/// How many breakers have opened or closed: whoever holds DEKs looks again when it moves.
pub(crate) fn changes() -> u64 {
    if init::is_preloaded() { SHARED.share().changes } else { OWN.with_borrow(|table| table.changes) }
}

/// One provider's breaker.
pub(crate) struct Breaker {
    database: u32,
    provider: i64,
}

impl Breaker {
    /// By `kms_providers.id` of this database.
    pub(crate) fn of(provider: i64) -> Self {
        // SAFETY: reads a variable of this process, set when it connected.
        #[allow(unsafe_code)]
        let database = unsafe { pg_sys::MyDatabaseId };
        Self { database: database.to_u32(), provider }
    }

    fn with<T>(&self, f: impl FnOnce(&mut State, &mut u64) -> T) -> T {
        with_table(|table| {
            let mut changes = table.changes;
            let result = f(table.state(self.database, self.provider), &mut changes);
            table.changes = changes;
            result
        })
    }

    /// What is known of the provider.
    pub(crate) fn state(&self) -> State {
        self.with(|state, _| *state)
    }

    /// Whether a call would be refused now.
    pub(crate) fn is_open(&self) -> bool {
        let (state, now) = (self.state(), clock());
        state.failures > 0 && now < state.open_until.max(state.probing_until)
    }

    /// Fails while the provider counts as unreachable.
    pub(crate) fn check(&self) -> Result<(), ProviderError> {
        match self.state().failures {
            0 => Ok(()),
            failures => Err(ProviderError::Unavailable(format!("It failed the last {}.", times(failures)))),
        }
    }

    /// Lets a call through, or says why not. After the pause one call tries; the others wait for what it finds.
    pub(crate) fn admit(&self) -> Result<Admitted<'_>, ProviderError> {
        let now = clock();
        let waits = self.with(|state, _| {
            state.asked = now;
            let until = if now < state.open_until { state.open_until } else { state.probing_until };
            if state.failures == 0 {
                return None;
            }
            if now < until {
                return Some((until - now, state.failures));
            }
            state.probing_until = now.saturating_add(PROBE);
            None
        });
        match waits {
            None => Ok(Admitted { breaker: self, recorded: false }),
            Some((micros, failures)) => {
                let seconds = (micros + 999_999) / 1_000_000;
                let times = times(failures);
                Err(ProviderError::Unavailable(format!("It failed the last {times} and is asked again in {seconds} s.")))
            }
        }
    }

    /// Counts shares that the provider rejected.
    pub(crate) fn count_rejected(&self, n: usize) {
        let n = u64::try_from(n).unwrap_or(u64::MAX);
        self.with(|state, _| state.rejected = state.rejected.saturating_add(n));
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
    recorded: bool,
}

impl Admitted<'_> {
    /// Takes note of how it ended. A refusal is an answer too: only an outage opens the breaker.
    pub(crate) fn record(mut self, error: Option<&ProviderError>, took: Duration) {
        self.recorded = true;
        let now = clock();
        self.breaker.with(|state, changes| {
            state.probing_until = 0;
            let Some(outage) = error.filter(|e| e.is_outage()) else {
                *changes = changes.wrapping_add(u64::from(state.failures > 0));
                (state.failures, state.open_until) = (0, 0);
                state.calls = state.calls.saturating_add(1);
                state.micros = state.micros.saturating_add(u64::try_from(took.as_micros()).unwrap_or(u64::MAX));
                return;
            };
            // Many sessions may find the same outage: it counts once.
            if now < state.open_until {
                return;
            }
            *changes = changes.wrapping_add(u64::from(state.failures == 0));
            let longer = FIRST_PAUSE.saturating_mul(1_i64 << state.failures.min(10)).min(LONGEST_PAUSE);
            let pause = if matches!(outage, ProviderError::Throttled(_)) { THROTTLED_PAUSE } else { longer };
            state.failures = state.failures.saturating_add(1);
            state.open_until = now.saturating_add(pause);
        });
    }
}

impl Drop for Admitted<'_> {
    /// A call that was cancelled found out nothing: the next one may try.
    fn drop(&mut self) {
        if !self.recorded {
            self.breaker.with(|state, _| state.probing_until = 0);
        }
    }
}
