//! SQL functions that look and report. Their reference is COMMENT ON FUNCTION in `sql/finalize.sql`.

use super::{
    catalog::{campaign::Selector, key, policy, setup, wrapper},
    health,
    verify::Walk,
};
use pgrx::{
    Uuid,
    datum::Interval,
    default,
    iter::TableIterator,
    name, pg_extern,
    pg_sys::panic::{ErrorReport, ErrorReportable},
    search_path,
};

#[pg_extern(parallel_unsafe, cost = 1000)]
#[search_path(pg_catalog, pg_temp)]
fn kw_verify(
    wrapper: default!(Option<Uuid>, "NULL"),
    from_key: default!(Option<i64>, "NULL"),
    from_provider: default!(Option<&str>, "NULL"),
    policy: default!(Option<&str>, "NULL"),
    older_than: default!(Option<Interval>, "NULL"),
) -> Result<
    TableIterator<'static, (name!(wrapper, Uuid), name!(ok, bool), name!(sqlstate, Option<String>), name!(message, Option<String>))>,
    ErrorReport,
> {
    let mut walk = Walk::new(Selector {
        wrapper: wrapper.map(|uuid| wrapper::by_uuid(uuid).map(|_| uuid)).transpose()?,
        from_key: from_key.map(|id| key::by_id(id).map(|key| key.id)).transpose()?,
        from_provider: from_provider.map(setup::provider_id).transpose()?,
        policy: policy.map(|name| policy::by_name(name).map(|p| p.id)).transpose()?,
        older_than,
    });
    Ok(TableIterator::new(std::iter::from_fn(move || {
        let verdict = walk.step().map_err(ErrorReport::from).unwrap_or_report()?;
        let failure = verdict.failure.as_ref();
        Some((verdict.wrapper, failure.is_none(), failure.map(|f| f.sqlstate()), failure.map(|f| f.message().to_owned())))
    })))
}

#[pg_extern(parallel_unsafe, cost = 1000)]
#[search_path(pg_catalog, pg_temp)]
fn kw_health() -> Result<
    TableIterator<
        'static,
        (name!(component, String), name!(name, String), name!(status, String), name!(detail, String), name!(action, Option<String>)),
    >,
    ErrorReport,
> {
    let findings = health::findings()?;
    Ok(TableIterator::new(findings.into_iter().map(|f| (f.component.to_owned(), f.name, f.status.to_owned(), f.detail, f.action))))
}
