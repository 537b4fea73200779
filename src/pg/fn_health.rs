//! SQL functions that probe providers, and take them out of use for a while. Their reference is COMMENT ON FUNCTION in `sql/finalize.sql`.

use super::{
    catalog::health,
    gucs,
    probe::{Probed, Round},
    report::{Failure, name as checked, required},
    revocation, spi,
};
use pgrx::{
    datum::{Interval, TimestampWithTimeZone},
    default,
    iter::TableIterator,
    name, pg_extern,
    pg_sys::panic::ErrorReport,
    search_path,
};

#[pg_extern(parallel_unsafe, cost = 1000)]
#[search_path(pg_catalog, pg_temp)]
fn kw_check_health(
    provider: default!(Option<&str>, "NULL"),
) -> Result<
    TableIterator<
        'static,
        (
            name!(provider_name, String),
            name!(kms_key_id, Option<i64>),
            name!(key_ref, Option<String>),
            name!(status, String),
            name!(latency_ms, Option<i32>),
            name!(error, Option<String>),
        ),
    >,
    ErrorReport,
> {
    revocation::take_in();
    let mut rounds = Vec::new();
    let targets = match provider {
        Some(name) => vec![health::by_name(name)?],
        None => health::enabled()?.into_iter().map(health::by_id).collect::<Result<Vec<_>, _>>()?.into_iter().flatten().collect(),
    };
    for target in targets {
        rounds.push(Round::load(target)?);
    }
    let mut probed = Vec::new();
    for mut round in rounds {
        while round.step()? {}
        probed.extend(round.finish());
    }
    // After all calls: rows of providers and keys are locked from here to the end of the transaction.
    if !spi::in_recovery() {
        health::record(&probed, gucs::probes_count())?;
    }
    let row = |p: Probed| {
        let latency = p.latency_ms();
        let (key, key_ref) = p.key.unzip();
        (p.provider_name, key, key_ref, p.verdict.status.name().to_owned(), latency, p.verdict.error)
    };
    Ok(TableIterator::new(probed.into_iter().map(row)))
}

#[pg_extern(parallel_unsafe, cost = 100)]
#[search_path(pg_catalog, pg_temp)]
fn kw_suspend_provider(
    provider: Option<&str>,
    reason: Option<&str>,
    ttl: default!(Option<Interval>, "'1 hour'"),
) -> Result<TimestampWithTimeZone, ErrorReport> {
    let (provider, reason) = (required("provider", provider)?, checked("reason", reason, 255)?);
    if reason.starts_with(health::BY_WORKER) {
        let limit = format!("It must not begin with \"{}\": the worker ends suspensions of such a reason.", health::BY_WORKER);
        return Err(Failure::bad_argument("invalid value for argument \"reason\"", limit).into());
    }
    Ok(health::suspend_by_hand(provider, reason, required("ttl", ttl)?)?)
}

#[pg_extern(parallel_unsafe, cost = 100)]
#[search_path(pg_catalog, pg_temp)]
fn kw_resume_provider(provider: Option<&str>) -> Result<bool, ErrorReport> {
    Ok(health::resume(required("provider", provider)?)?)
}
