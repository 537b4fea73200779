//! Replacing a credential while the one at hand is still good. The call can do without, so it waits for a part of its deadline only.

use super::ProviderError;
use std::{
    cell::Cell,
    future::Future,
    time::{Duration, Instant},
};
use tokio::time::timeout;

/// A call's deadline is so many times what it may spend on this.
const PARTS: u32 = 4;

/// A login over a new connection takes so long even where all is well.
const LEAST: Duration = Duration::from_millis(500);

/// How long nobody is asked after one did not answer, so that not every call waits for him.
const PAUSE: Duration = Duration::from_secs(30);

/// When and how long to try.
pub(super) struct Ahead {
    part: Duration,
    not_before: Cell<Option<Instant>>,
}

impl Ahead {
    /// For calls with this deadline.
    pub(super) fn new(deadline: Duration) -> Self {
        Self { part: deadline.checked_div(PARTS).unwrap_or_default().max(LEAST.min(deadline)), not_before: Cell::new(None) }
    }

    /// The new credential; `None` while there is none to be had. A refusal is an error, as when there is nothing at hand.
    pub(super) async fn get<T>(&self, fetch: impl Future<Output = Result<T, ProviderError>>) -> Result<Option<T>, ProviderError> {
        if self.not_before.get().is_some_and(|then| Instant::now() < then) {
            return Ok(None);
        }
        match timeout(self.part, fetch).await {
            Ok(Ok(new)) => Ok(Some(new)),
            Ok(Err(error)) if error.is_outage() => Ok(None),
            Ok(Err(error)) => Err(error),
            Err(_) => {
                self.not_before.set(Instant::now().checked_add(PAUSE));
                Ok(None)
            }
        }
    }
}
