//! Probes of providers and keys, and what they lead to: suspensions.

use crate::{
    pg::{
        probe::Probed,
        report::Failure,
        revocation,
        spi::{self, Row},
    },
    provider::probe::{Status, Verdict},
};
use pgrx::datum::{Interval, TimestampWithTimeZone};

/// What suspensions by a worker have for a reason, before the error. Those of people cannot begin so.
pub(crate) const BY_WORKER: &str = "health:";

/// Rows that one statement removes: some milliseconds.
pub(crate) const REMOVED_AT_ONCE: i32 = 1000;

macro_rules! provider_columns {
    () => {
        "SELECT p.id, p.name::pg_catalog.text, p.provider, COALESCE(c.config, '{}')::pg_catalog.text
         FROM kms_wrap.kms_providers p LEFT JOIN kms_wrap.provider_config c ON c.id OPERATOR(pg_catalog.=) p.provider_config_id "
    };
}

const BY_ID: &str = concat!(provider_columns!(), "WHERE p.id OPERATOR(pg_catalog.=) $1");
const BY_NAME: &str = concat!(provider_columns!(), "WHERE p.name OPERATOR(pg_catalog.=) $1");
const ENABLED: &str = "SELECT id FROM kms_wrap.kms_providers WHERE is_enabled ORDER BY id";

/// A provider to be probed.
pub(crate) struct Target {
    pub(crate) id: i64,
    pub(crate) name: String,
    pub(crate) kind: String,
    /// JSON.
    pub(crate) config: String,
}

fn target(row: &mut Row) -> Result<Target, Failure> {
    Ok(Target { id: row.next()?, name: row.next()?, kind: row.next()?, config: row.next()? })
}

/// One provider; `None` when it is gone.
pub(crate) fn by_id(id: i64) -> Result<Option<Target>, Failure> {
    Ok(spi::first(spi::select(BY_ID, &[id.into()], target)?))
}

/// One provider.
pub(crate) fn by_name(name: &str) -> Result<Target, Failure> {
    spi::first(spi::select(BY_NAME, &[name.into()], target)?).ok_or_else(|| Failure::unknown("key provider", name))
}

/// Ids of the providers that are in use.
pub(crate) fn enabled() -> Result<Vec<i64>, Failure> {
    spi::select(ENABLED, &[], |row| row.next())
}

// What was deleted while it was probed has no history.
const RECORD: &str = "INSERT INTO kms_wrap.kms_health_checks (provider_id, kms_key_id, status, latency_ms, error, checked_at)
     SELECT p.id, k.id, $3, $4, $5, pg_catalog.clock_timestamp()
     FROM kms_wrap.kms_providers p LEFT JOIN kms_wrap.kms_keys k ON k.id OPERATOR(pg_catalog.=) $2
     WHERE p.id OPERATOR(pg_catalog.=) $1 AND ($2 IS NULL OR k.id IS NOT NULL)";

/// Whether the latest probe of key `$key` found it down, less than `$seconds` ago.
macro_rules! is_down {
    ($key:literal, $seconds:literal) => {
        concat!(
            "COALESCE((SELECT h.status OPERATOR(pg_catalog.=) 'down' AND h.checked_at OPERATOR(pg_catalog.>)
                         (pg_catalog.clock_timestamp() OPERATOR(pg_catalog.-) pg_catalog.make_interval(secs => ",
            $seconds,
            ")) FROM kms_wrap.kms_health_checks h WHERE h.kms_key_id OPERATOR(pg_catalog.=) ",
            $key,
            " ORDER BY h.checked_at DESC, h.id DESC LIMIT 1), false)"
        )
    };
}
pub(super) use is_down;

const WAS_DOWN: &str = concat!("SELECT ", is_down!("$1", "$2"));

/// Keeps the results of probes, which count for so many seconds, and tells all sessions of a key that went down: policies pick others meanwhile.
/// That one came up again they find out for themselves, as lists with a key that is down are not kept.
pub(crate) fn record(probed: &[Probed], probes_count: u32) -> Result<(), Failure> {
    for p in probed {
        let Verdict { status, error, .. } = &p.verdict;
        let key = p.key.as_ref().map(|(id, _)| *id);
        if let Some(key) = key {
            let was_down = || spi::select(WAS_DOWN, &[key.into(), f64::from(probes_count).into()], |row| row.next::<bool>());
            if *status == Status::Down && spi::first(was_down()?) == Some(false) {
                revocation::announce()?;
            }
        }
        let args = [p.provider.into(), key.into(), status.name().into(), p.latency_ms().into(), error.as_deref().into()];
        spi::execute(RECORD, &args)?;
    }
    Ok(())
}

// A row that somebody is changing is left for the next probe: a worker waits for no session.
macro_rules! unless_locked {
    () => {
        "WHERE id OPERATOR(pg_catalog.=) (SELECT o.id FROM kms_wrap.kms_providers o WHERE o.id OPERATOR(pg_catalog.=) $1 FOR NO KEY UPDATE SKIP LOCKED) "
    };
}

// A suspension lasts three intervals and is renewed when half of that is over: every second probe writes, and none lets it lapse. One that a person
// has made, and that has not ended, stays.
const SUSPEND: &str = concat!(
    "UPDATE kms_wrap.kms_providers
     SET suspended_until = pg_catalog.clock_timestamp() OPERATOR(pg_catalog.+) pg_catalog.make_interval(secs => 3::pg_catalog.float8 OPERATOR(pg_catalog.*) $2),
         suspend_reason = $3 ",
    unless_locked!(),
    "AND is_enabled
       AND (suspended_until IS NULL
            OR suspended_until OPERATOR(pg_catalog.<=) pg_catalog.clock_timestamp()
            OR (pg_catalog.starts_with(suspend_reason, 'health:') AND suspended_until OPERATOR(pg_catalog.<)
                (pg_catalog.clock_timestamp() OPERATOR(pg_catalog.+) pg_catalog.make_interval(secs => 1.5::pg_catalog.float8 OPERATOR(pg_catalog.*) $2))))"
);
const RELEASE: &str = concat!(
    "UPDATE kms_wrap.kms_providers SET suspended_until = NULL, suspend_reason = NULL ",
    unless_locked!(),
    "AND pg_catalog.starts_with(suspend_reason, 'health:')"
);

/// Suspends a provider that is down, or makes its suspension longer; `false` when there was nothing to write.
pub(crate) fn suspend(provider: i64, interval: u32, error: &str) -> Result<bool, Failure> {
    let reason = format!("{BY_WORKER} {error}");
    Ok(spi::execute(SUSPEND, &[provider.into(), f64::from(interval).into(), reason.as_str().into()])? > 0)
}

/// Ends a suspension that a worker has made; `false` when there was none.
pub(crate) fn release(provider: i64) -> Result<bool, Failure> {
    Ok(spi::execute(RELEASE, &[provider.into()])? > 0)
}

const REMOVE_OLD: &str = "DELETE FROM kms_wrap.kms_health_checks WHERE id OPERATOR(pg_catalog.=) ANY (ARRAY(
       SELECT h.id FROM kms_wrap.kms_health_checks h
       WHERE h.checked_at OPERATOR(pg_catalog.<) (pg_catalog.clock_timestamp() OPERATOR(pg_catalog.-) pg_catalog.make_interval(secs => $1))
       ORDER BY h.checked_at LIMIT $2))";

/// Removes some of the results that are older than so many seconds; `true` when there may be more.
pub(crate) fn remove_old(seconds: i32) -> Result<bool, Failure> {
    let removed = spi::execute(REMOVE_OLD, &[f64::from(seconds).into(), REMOVED_AT_ONCE.into()])?;
    Ok(usize::try_from(REMOVED_AT_ONCE).is_ok_and(|most| removed >= most))
}

const IN_RANGE: &str =
    "SELECT $1 OPERATOR(pg_catalog.>) pg_catalog.make_interval() AND $1 OPERATOR(pg_catalog.<=) pg_catalog.make_interval(years => 1)";
const SUSPEND_BY_HAND: &str = "UPDATE kms_wrap.kms_providers
     SET suspended_until = pg_catalog.clock_timestamp() OPERATOR(pg_catalog.+) $3, suspend_reason = $2
     WHERE name OPERATOR(pg_catalog.=) $1 RETURNING suspended_until";
const RESUME: &str = "UPDATE kms_wrap.kms_providers p SET suspended_until = NULL, suspend_reason = NULL
     FROM (SELECT id, suspended_until FROM kms_wrap.kms_providers WHERE name OPERATOR(pg_catalog.=) $1 FOR NO KEY UPDATE) o
     WHERE p.id OPERATOR(pg_catalog.=) o.id AND (p.suspended_until IS NOT NULL OR p.suspend_reason IS NOT NULL)
     RETURNING COALESCE(o.suspended_until OPERATOR(pg_catalog.>) pg_catalog.clock_timestamp(), false)";

/// Suspends a provider in a person's name; returns until when.
pub(crate) fn suspend_by_hand(name: &str, reason: &str, ttl: Interval) -> Result<TimestampWithTimeZone, Failure> {
    if spi::first(spi::select(IN_RANGE, &[ttl.into()], |row| row.next())?) != Some(true) {
        return Err(Failure::bad_argument("invalid value for argument \"ttl\"", "It must be more than 0 and at most 1 year."));
    }
    let until = spi::write(SUSPEND_BY_HAND, &[name.into(), reason.into(), ttl.into()], |row| row.next())?;
    spi::first(until).ok_or_else(|| Failure::unknown("key provider", name))
}

/// Ends a suspension, whoever has made it; `false` when there was none.
pub(crate) fn resume(name: &str) -> Result<bool, Failure> {
    match spi::first(spi::write(RESUME, &[name.into()], |row| row.next())?) {
        Some(was_suspended) => Ok(was_suspended),
        None => super::setup::provider_id(name).map(|_| false),
    }
}

const LATEST: &str = "SELECT h.status, h.error, h.checked_at::pg_catalog.timestamptz(0)::pg_catalog.text FROM kms_wrap.kms_health_checks h
     WHERE h.provider_id OPERATOR(pg_catalog.=) $1 AND h.kms_key_id IS NULL ORDER BY h.checked_at DESC, h.id DESC LIMIT 1";
const AILING_KEYS: &str = "SELECT k.external_key_ref::pg_catalog.text, h.status, COALESCE(h.error, '') FROM kms_wrap.kms_keys k
     CROSS JOIN LATERAL (SELECT c.status, c.error FROM kms_wrap.kms_health_checks c WHERE c.kms_key_id OPERATOR(pg_catalog.=) k.id
                         ORDER BY c.checked_at DESC, c.id DESC LIMIT 1) h
     WHERE k.provider_id OPERATOR(pg_catalog.=) $1 AND k.status OPERATOR(pg_catalog.=) ANY ('{active,retired}')
       AND h.status OPERATOR(pg_catalog.<>) 'up' ORDER BY h.status DESC, k.id";

/// The latest probe of a provider itself.
pub(crate) struct Latest {
    pub(crate) status: String,
    pub(crate) error: Option<String>,
    pub(crate) checked_at: String,
}

/// The latest probe of a provider itself; `None` when it was never probed.
pub(crate) fn latest(provider: i64) -> Result<Option<Latest>, Failure> {
    let read = |row: &mut Row| Ok(Latest { status: row.next()?, error: row.opt()?, checked_at: row.next()? });
    Ok(spi::first(spi::select(LATEST, &[provider.into()], read)?))
}

/// Keys in use whose latest probe found something: reference, status, error.
pub(crate) fn ailing_keys(provider: i64) -> Result<Vec<(String, String, String)>, Failure> {
    spi::select(AILING_KEYS, &[provider.into()], |row| Ok((row.next()?, row.next()?, row.next()?)))
}
