//! SQL functions on campaigns and jobs. Their reference is COMMENT ON FUNCTION in `sql/finalize.sql`.

use super::{
    catalog::{
        campaign::{self, Change, NewCampaign, Selector},
        job, key, policy, setup, wrapper,
    },
    deks,
    grants::{self, Privilege},
    jobs,
    json_arg::JsonArg,
    owner, remote,
    report::{Failure, required},
    revocation,
    rewrap::Targets,
};
use pgrx::{
    Uuid,
    datum::{Interval, Time, TimestampWithTimeZone},
    default, notice, pg_extern,
    pg_sys::panic::ErrorReport,
    search_path,
};

#[pg_extern(parallel_unsafe, cost = 1000)]
#[search_path(pg_catalog, pg_temp)]
#[allow(clippy::too_many_arguments)] // SQL calls it by argument name
fn kw_schedule_rewrap(
    wrapper: default!(Option<Uuid>, "NULL"),
    from_key: default!(Option<i64>, "NULL"),
    from_provider: default!(Option<&str>, "NULL"),
    policy: default!(Option<&str>, "NULL"),
    older_than: default!(Option<Interval>, "NULL"),
    target_kms1: default!(Option<i64>, "NULL"),
    target_kms2: default!(Option<i64>, "NULL"),
    target_layers: default!(Option<JsonArg>, "NULL"),
    verb: default!(Option<&str>, "'rewrap'"),
    scheduled_at: default!(Option<TimestampWithTimeZone>, "NULL"),
    rate_per_second: default!(Option<i32>, "NULL"),
    dry_run: default!(Option<bool>, "false"),
    window_start: default!(Option<Time>, "NULL"),
    window_end: default!(Option<Time>, "NULL"),
    priority: default!(Option<i32>, "0"),
) -> Result<Option<i64>, ErrorReport> {
    if required("verb", verb)? != "rewrap" {
        return Err(Failure::bad_argument("invalid value for argument \"verb\"", "It must be rewrap.").into());
    }
    if rate_per_second.is_some_and(|rate| rate < 1) {
        return Err(Failure::bad_argument(
            "invalid value for argument \"rate_per_second\"",
            "It must be at least 1, or NULL for no limit.",
        )
        .into());
    }
    let window = match (window_start, window_end) {
        (None, None) => None,
        (Some(start), Some(end)) if start != end => Some((start, end)),
        _ => return Err(Failure::bad_argument("invalid time window", "window_start and window_end go together and must differ.").into()),
    };
    let target_layers = target_layers.map(|json| json.value("target_layers")).transpose()?;
    let targets = Targets::new(target_kms1, target_kms2, target_layers.as_ref())?;
    let schedule = || {
        let selector = selector(wrapper, from_key, from_provider, policy, older_than)?;
        check_targets(&targets, selector.policy)?;
        // To its own new version a key's wrappers move while it is in use: new ones have that version.
        if let Some(key) = selector.from_key.filter(|key| !targets.iter().any(|(_, target)| target == *key)) {
            check_source(key)?;
        }
        let priority = required("priority", priority)?;
        let new = NewCampaign { selector, target_kms1, target_kms2, target_layers, scheduled_at, rate_per_second, window, priority };
        if required("dry_run", dry_run)? {
            let counts = campaign::dry_run(&new)?;
            notice!("would rewrap {} wrappers; {} have these keys already", counts.queued, counts.current);
            return Ok(None);
        }
        let (id, counts) = campaign::schedule(new)?;
        notice!(
            "campaign {id}: {} wrappers queued, {} have these keys already, {} wait for another campaign",
            counts.queued,
            counts.current,
            counts.blocked
        );
        Ok(Some(id))
    };
    Ok(managing(policy, schedule)?)
}

/// Runs `f` for whoever may manage the policy, as the extension's owner; its owner and superusers need not name one.
fn managing<T>(policy: Option<&str>, f: impl FnOnce() -> Result<T, Failure>) -> Result<T, Failure> {
    if grants::is_owner()? {
        return f();
    }
    let name = policy.ok_or_else(|| {
        let limit = "Roles with the privilege \"manage\" on a policy schedule rewraps of its wrappers.";
        Failure::bad_argument("argument \"policy\" must be given", limit)
    })?;
    revocation::poll();
    let policy = deks::policy(name)?;
    grants::require(policy.id, &policy.name, Privilege::Manage)?;
    owner::as_owner(f)
}

/// At least one condition, and each names something that exists.
pub(super) fn selector(
    wrapper: Option<Uuid>,
    from_key: Option<i64>,
    from_provider: Option<&str>,
    policy: Option<&str>,
    older_than: Option<Interval>,
) -> Result<Selector, Failure> {
    if wrapper.is_none() && from_key.is_none() && from_provider.is_none() && policy.is_none() && older_than.is_none() {
        return Err(Failure::bad_argument(
            "no selector given",
            "At least one of wrapper, from_key, from_provider, policy and older_than must say which wrappers.",
        ));
    }
    if let Some(wrapper) = wrapper {
        let row = wrapper::by_uuid(wrapper)?;
        super::open::check_status(&row)?;
    }
    Ok(Selector {
        wrapper,
        from_key: from_key.map(|id| key::by_id(id).map(|key| key.id)).transpose()?,
        from_provider: from_provider.map(setup::provider_id).transpose()?,
        policy: policy.map(|name| policy::by_name(name).map(|p| p.id)).transpose()?,
        older_than,
    })
}

/// Refused now rather than in every job: a target that cannot take shares, or that the selected policy does not list.
fn check_targets(targets: &Targets, policy: Option<i64>) -> Result<(), Failure> {
    let members = policy.map(|id| policy::members(&[id])).transpose()?;
    for (slot, id) in targets.iter() {
        let key = key::by_id(id)?;
        if key.algorithm.is_kem() != slot.layer_no().is_some() {
            return Err(Failure::bad_argument(
                format!("key {} of algorithm {} does not fit slot {}", key.label(), key.algorithm.name(), slot.name()),
                "Slots kms1 and kms2 take symmetric and RSA keys, layers take keys of a KEM algorithm.",
            ));
        }
        if !key.is_usable() {
            return Err(Failure::state(
                format!("KMS key {} cannot take new shares", key.label()),
                "It must be active, for wrapping, and its provider enabled and not suspended.",
            ));
        }
        let part = if slot.layer_no().is_some() { "layer".to_owned() } else { slot.name() };
        if let (Some(policy), Some(members)) = (policy, &members)
            && !members.contains(&(policy, id, part.clone()))
        {
            return Err(Failure::bad_argument(
                format!("key {} is not a key of the policy for slot \"{part}\"", key.label()),
                "A rewrap target must be one of the policy's keys for that slot; kms_wrap.kw_policy_add_key adds one.",
            ));
        }
    }
    let kms: Vec<i64> = targets.iter().filter(|(slot, _)| slot.layer_no().is_none()).map(|(_, id)| id).collect();
    if matches!(kms.as_slice(), [a, b] if a == b) {
        return Err(Failure::bad_argument("target_kms1 and target_kms2 are the same key", "A wrapper needs two different KMS keys."));
    }
    Ok(())
}

/// A key that a policy still picks would get new wrappers while its old ones move away.
fn check_source(key: i64) -> Result<(), Failure> {
    let picking = setup::policies_that_pick(key)?;
    let Some(policy) = picking.first() else { return Ok(()) };
    Err(Failure::state(
        format!("KMS key {key} is still picked by policy \"{policy}\""),
        format!("Retire it first with kms_wrap.kw_set_key_status({key}, 'retired'), or take it out with kms_wrap.kw_policy_remove_key."),
    ))
}

#[pg_extern(parallel_unsafe, cost = 100)]
#[search_path(pg_catalog, pg_temp)]
fn kw_pause(campaign: Option<i64>) -> Result<(), ErrorReport> {
    Ok(campaign::change(required("campaign", campaign)?, Change::Pause)?)
}

#[pg_extern(parallel_unsafe, cost = 100)]
#[search_path(pg_catalog, pg_temp)]
fn kw_resume(campaign: Option<i64>) -> Result<(), ErrorReport> {
    Ok(campaign::change(required("campaign", campaign)?, Change::Resume)?)
}

#[pg_extern(parallel_unsafe, cost = 100)]
#[search_path(pg_catalog, pg_temp)]
fn kw_cancel(campaign: Option<i64>) -> Result<(), ErrorReport> {
    Ok(campaign::change(required("campaign", campaign)?, Change::Cancel)?)
}

#[pg_extern(parallel_unsafe, cost = 1000)]
#[search_path(pg_catalog, pg_temp)]
fn kw_jobs_claim(batch_size: Option<i32>) -> Result<i32, ErrorReport> {
    let batch_size = required("batch_size", batch_size)?;
    if !(1..=10_000).contains(&batch_size) {
        return Err(Failure::bad_argument("invalid value for argument \"batch_size\"", "It must be 1 to 10000.").into());
    }
    Ok(i32::try_from(job::claim(batch_size)?.len()).unwrap_or(i32::MAX))
}

#[pg_extern(parallel_unsafe, cost = 1000)]
#[search_path(pg_catalog, pg_temp)]
fn kw_jobs_work() -> Result<i32, ErrorReport> {
    let recorded = remote::wait(jobs::load(job::leased()?)?.run())?.store()?;
    Ok(i32::try_from(recorded).unwrap_or(i32::MAX))
}
