//! A worker's probes: every provider once an interval, a call at a time between jobs; what they lead to, and how long they are kept.

use super::{
    catalog::{health, watch},
    gucs,
    probe::Round,
    report::Failure,
    worker::transaction,
};
use crate::provider::probe::Status;
use pgrx::pg_sys::panic::{ErrorReport, ErrorReportable};
use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

/// What is going on. Holds no transaction.
#[derive(Default)]
pub(crate) struct Probing {
    /// When the next round over all providers is due; `None` is now.
    due: Option<Instant>,
    /// Providers that the round has not come to.
    providers: VecDeque<i64>,
    current: Option<Round>,
    /// Whether old results are to be removed.
    is_removing: bool,
}

impl Probing {
    /// Whether providers are being asked, each once the step before is done.
    pub(crate) fn is_asking(&self) -> bool {
        self.current.is_some() || !self.providers.is_empty()
    }

    /// Does one piece: reads what to ask, asks once, or writes. `false` when nothing is due.
    pub(crate) fn step(&mut self) -> bool {
        let Some(interval) = gucs::health_interval() else {
            *self = Self::default();
            return false;
        };
        if let Some(round) = &mut self.current {
            let is_over = !round.step().map_err(ErrorReport::from).unwrap_or_report();
            if is_over && let Some(round) = self.current.take() {
                transaction(|| store(round, interval));
            }
            return true;
        }
        if let Some(provider) = self.providers.pop_front() {
            self.current = transaction(|| load(provider));
            return true;
        }
        if self.is_removing {
            self.is_removing =
                transaction(|| if watch::is_installed()? { health::remove_old(gucs::health_retention()) } else { Ok(false) });
            return true;
        }
        let wait = Duration::from_secs(u64::from(interval));
        // A shorter interval than the one before counts at once.
        if self.due.is_some_and(|due| Instant::now() < due && due <= Instant::now() + wait) {
            return false;
        }
        // The extension may not be there yet: then this is looked at again, as jobs are.
        let Some(providers) = transaction(|| if watch::is_installed()? { health::enabled().map(Some) } else { Ok(None) }) else {
            return false;
        };
        self.due = Some(Instant::now() + wait);
        self.providers = providers.into();
        self.is_removing = true;
        true
    }
}

fn load(provider: i64) -> Result<Option<Round>, Failure> {
    if !watch::is_installed()? {
        return Ok(None);
    }
    let Some(target) = health::by_id(provider)? else { return Ok(None) };
    Ok(Some(Round::load(target)?))
}

/// Keeps the results, suspends a provider that is down, and resumes one that was suspended for it.
fn store(round: Round, interval: u32) -> Result<(), Failure> {
    if !watch::is_installed()? {
        return Ok(());
    }
    let provider = round.provider();
    let probed = round.finish();
    health::record(&probed, gucs::probes_count())?;
    let Some(own) = probed.first() else { return Ok(()) };
    let (name, error) = (&own.provider_name, own.verdict.error.as_deref().unwrap_or_default());
    if own.verdict.status != Status::Down {
        if health::release(provider)? {
            pgrx::log!("kms_wrap: key provider \"{name}\" is up again and no longer suspended");
        }
    } else if health::suspend(provider, interval, error)? {
        pgrx::log!("kms_wrap: key provider \"{name}\" is down and suspended for new wrappers: {error}");
    }
    Ok(())
}
