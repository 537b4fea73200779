//! Remote providers of this backend: each made once for its configuration, and asked with retries, a deadline and a circuit breaker.

use super::{
    breaker::{Breaker, fingerprint},
    catalog::key::Key,
    core_dump, gucs,
    interrupt::block_on,
    kms,
    report::Failure,
};
use crate::{
    core::entropy::Entropy,
    provider::{
        Answer, Provider, ProviderError,
        config::{self, ConfigError, Environment},
        endpoint,
        entropy::SystemEntropy,
        patience::Patience,
    },
};
use serde_json::Value;
use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    future::Future,
    rc::Rc,
    time::{Duration, Instant},
};
use tokio::time::sleep;

/// Attempts of one call. Connections that a restart broke are made anew by the second; more would only add to an overload.
const ATTEMPTS: u32 = 3;

/// Longest pause before the second attempt; each later one may be twice as long.
const PAUSE: Duration = Duration::from_millis(100);

/// Shares that one `kms_wrap.kms_timeout` is for.
const SHARES: usize = 150;

/// A provider with what was known when it was made.
pub(crate) struct Remote {
    name: String,
    kind: String,
    config: Value,
    environment: Environment,
    provider: Rc<dyn Provider>,
    breaker: Breaker,
}

thread_local! {
    /// By `kms_providers.id`. Made on first use in a backend, never in the postmaster.
    static REMOTES: RefCell<HashMap<i64, Rc<Remote>>> = RefCell::default();
    /// How long the trigger that is running may still wait.
    static TRIGGER: Cell<Option<Duration>> = const { Cell::new(None) };
}

/// The provider of a key.
pub(crate) fn of_key(key: &Key) -> Result<Rc<Remote>, ProviderError> {
    let name = &key.key_ref.external_key_ref;
    if !is_allowed(name) {
        return Err(ProviderError::Denied(format!("The setting \"kms_wrap.allowed_keys\" does not allow key \"{name}\".")));
    }
    of(key.provider_id, &key.provider, &key.key_ref.kind, key.config.as_deref().unwrap_or("{}"))
}

/// Whether the key's provider failed and would not be asked now. Asks nobody.
pub(crate) fn is_away(key: &Key) -> bool {
    !key.is_local() && Breaker::of(key.provider_id, key.config_fingerprint).is_open()
}

/// Fails unless the last call of the key's provider came to an answer. Asks nobody.
pub(crate) fn check_last_call(key: &Key) -> Result<(), ProviderError> {
    if key.is_local() { Ok(()) } else { Breaker::of(key.provider_id, key.config_fingerprint).check() }
}

/// Whether the setting allows keys of this name.
pub(crate) fn is_allowed(name: &str) -> bool {
    let patterns = gucs::allowed_keys();
    patterns.is_empty() || patterns.iter().any(|pattern| endpoint::matches(pattern, name))
}

/// A provider by its row. One whose row, or what settings allow it, has changed since is made anew.
pub(crate) fn of(id: i64, name: &str, kind: &str, config: &str) -> Result<Rc<Remote>, ProviderError> {
    let unfit = |e: ConfigError| ProviderError::Denied(format!("Its configuration cannot be used: field \"{}\". {}", e.field, e.limit));
    let config: Value = serde_json::from_str(config).map_err(|_| unfit(ConfigError::new("config", "It must be JSON.")))?;
    let environment = gucs::environment();
    let known = REMOTES.with_borrow(|remotes| {
        let remote = remotes.get(&id)?;
        let same = remote.name == name && remote.kind == kind && remote.config == config && remote.environment == environment;
        same.then(|| Rc::clone(remote))
    });
    if let Some(remote) = known {
        return Ok(remote);
    }
    core_dump::leave_keys_out();
    let provider = config::provider(kind, &config, &environment).map_err(unfit)?;
    let (name, kind, breaker) = (name.to_owned(), kind.to_owned(), Breaker::of(id, fingerprint(&config)));
    let remote = Rc::new(Remote { name, kind, config, environment, provider, breaker });
    if REMOTES.with_borrow_mut(|remotes| remotes.insert(id, Rc::clone(&remote))).is_some() {
        kms::forget_proofs();
    }
    Ok(remote)
}

/// Runs what a trigger does: all calls in it together wait for `kms_wrap.trigger_timeout` at most.
pub(crate) fn in_trigger<T>(f: impl FnOnce() -> T) -> T {
    /// Takes the limit away, after an ERROR too.
    struct Restore(Option<Duration>);
    impl Drop for Restore {
        fn drop(&mut self) {
            TRIGGER.set(self.0);
        }
    }
    let _restore = Restore(TRIGGER.replace(Some(gucs::trigger_timeout())));
    f()
}

/// Waits for calls that are made at once. What a trigger has waited for them is gone from what it may wait for others.
pub(crate) fn wait<T>(calls: impl Future<Output = T>) -> Result<T, Failure> {
    let start = Instant::now();
    let result = block_on(calls);
    TRIGGER.set(TRIGGER.get().map(|left| left.saturating_sub(start.elapsed())));
    result
}

/// Runs what has an alternative, which keeps half of the time that a trigger may still wait.
pub(crate) fn leaving_half<T>(f: impl FnOnce() -> T) -> T {
    let Some(left) = TRIGGER.get() else { return f() };
    let half = left / 2;
    TRIGGER.set(Some(left.saturating_sub(half)));
    let result = f();
    TRIGGER.set(TRIGGER.get().map(|rest| rest.saturating_add(half)));
    result
}

/// How long a call for so many shares may take.
fn whole(shares: usize) -> Duration {
    let times = u32::try_from(shares.div_ceil(SHARES).max(1)).unwrap_or(u32::MAX);
    let whole = gucs::kms_timeout().saturating_mul(times);
    if TRIGGER.get().is_some() { whole.min(gucs::trigger_timeout()) } else { whole }
}

impl Remote {
    /// Makes a call for so many shares: again after an outage, within the deadline, and not at all while the breaker is open.
    pub(crate) async fn call<'a, T>(&'a self, shares: usize, ask: impl Fn(&'a dyn Provider) -> Answer<'a, T>) -> Result<T, ProviderError> {
        let whole = whole(shares);
        let wait = TRIGGER.get().map_or(whole, |left| whole.min(left));
        if wait.is_zero() {
            return Err(ProviderError::Unavailable("The trigger has waited for others as long as it may.".to_owned()));
        }
        let admitted = self.breaker.admit(whole, wait)?;
        let (result, attempts) = self.attempt(&admitted.patience, ask).await;
        let took = admitted.patience.spent();
        // What did not answer in the rest of a trigger's time may be none the worse for it.
        let had_little_time = wait < whole && admitted.patience.left().is_zero();
        if had_little_time && result.as_ref().is_err_and(ProviderError::is_outage) {
            drop(admitted);
        } else {
            admitted.record(result.as_ref().err());
        }
        result.map_err(|e| {
            if !e.is_outage() {
                return e;
            }
            let times = if attempts == 1 { String::new() } else { "s".to_owned() };
            let text = format!("{} {attempts} attempt{times} in {:.1} s.", e.detail(), took.as_secs_f64());
            e.with_detail(text)
        })
    }

    async fn attempt<'a, T>(
        &'a self,
        patience: &Patience,
        ask: impl Fn(&'a dyn Provider) -> Answer<'a, T>,
    ) -> (Result<T, ProviderError>, u32) {
        let mut attempt = 1;
        loop {
            let result = patience.wait(ask(&*self.provider)).await;
            let result = result.unwrap_or_else(|| Err(ProviderError::Unavailable("It did not answer in time.".to_owned())));
            if attempt == ATTEMPTS || !result.as_ref().is_err_and(ProviderError::is_outage) {
                return (result, attempt);
            }
            let pause = jittered(PAUSE.saturating_mul(1 << (attempt - 1)));
            if pause >= patience.left() {
                return (result, attempt);
            }
            sleep(pause).await;
            attempt += 1;
        }
    }

    /// Calls in a row that came to no answer.
    pub(crate) fn failures(&self) -> u32 {
        self.breaker.failures()
    }

    /// The provider itself, for what needs no call.
    pub(crate) fn provider(&self) -> &dyn Provider {
        &*self.provider
    }

    /// Whether its calls let others run while they wait.
    pub(crate) fn gives_way(&self) -> bool {
        self.provider.capabilities().interruptible
    }
}

/// Anything up to the pause: sessions that failed together should not come back together.
fn jittered(pause: Duration) -> Duration {
    let mut byte = [0];
    // Without randomness the whole pause is as good.
    let share = SystemEntropy.fill(&mut byte).map_or(255, |()| u32::from(byte[0]));
    pause * share / 255
}
