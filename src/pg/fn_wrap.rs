//! SQL functions on wrappers. Their reference is COMMENT ON FUNCTION in `sql/finalize.sql`.

use super::{
    catalog::wrapper,
    deks, describe,
    grants::{self, Privilege},
    json_arg::JsonArg,
    known, make, open, owner,
    report::{Failure, required},
    revocation,
    rewrap::{self, Targets},
    rotate,
};
use crate::core::{
    context::{Context, ContextError, MAX_PAIR_BYTES, MAX_PAIRS},
    secret::{DEK_LENGTHS, Dek},
    slot::Container,
};
use pgrx::{Uuid, default, iter::TableIterator, name, notice, pg_extern, pg_sys::panic::ErrorReport, search_path};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

#[pg_extern(parallel_unsafe, cost = 1000)]
#[search_path(pg_catalog, pg_temp)]
fn kw_wrap_dek(
    policy: default!(Option<&str>, "'default'"),
    dek: default!(Option<&[u8]>, "NULL"),
    context: default!(Option<JsonArg>, "'{}'"),
) -> Result<Uuid, ErrorReport> {
    let dek = dek.map(checked_dek).transpose()?;
    let context = checked_context(context)?;
    revocation::poll();
    let policy = deks::policy(required("policy", policy)?)?;
    grants::require(policy.id, &policy.name, Privilege::Encrypt)?;
    if dek.is_some() {
        grants::require(policy.id, &policy.name, Privilege::Import)?;
    }
    Ok(Uuid::from_bytes(owner::as_owner(|| make::wrap_dek(&policy, dek, &context))?))
}

#[pg_extern(volatile, parallel_unsafe, cost = 1000)]
#[search_path(pg_catalog, pg_temp)]
fn kw_unwrap(wrapper: Option<Uuid>, context: default!(Option<JsonArg>, "'{}'")) -> Result<Vec<u8>, ErrorReport> {
    let context = checked_context(context)?;
    let wrapper = required("wrapper", wrapper)?;
    revocation::poll();
    let row = owner::reading_now(|| wrapper::by_uuid(wrapper))?;
    grants::require(row.policy_id, &row.policy_name, Privilege::Unwrap)?;
    open::check_status(&row)?;
    if row.purpose != "caller" {
        let hint = "kw_encrypt() and kw_decrypt() use it; a DEK to be handed out is made by kw_wrap_dek().";
        return Err(Failure::state(format!("the DEK of wrapper \"{}\" is for values and not handed out", row.label()), hint).into());
    }
    let parsed = open::parse(&row)?;
    let same_context = bool::from(parsed.ctx_sha256().ct_eq(&context.sha256()));
    let keys = known::keys(row.key_ids().collect())?;
    // Opened in any case, so that a wrong context takes as long as a wrong key; and it wins over a provider that cannot be reached.
    let opened = open::open(&row, &parsed, &keys, false);
    if !same_context {
        return Err(Failure::does_not_open().into());
    }
    Ok(opened?.expose().to_vec())
}

#[pg_extern(parallel_unsafe, cost = 1000)]
#[search_path(pg_catalog, pg_temp)]
fn kw_rewrap(
    wrapper: Option<Uuid>,
    target_kms1: default!(Option<i64>, "NULL"),
    target_kms2: default!(Option<i64>, "NULL"),
    target_layers: default!(Option<JsonArg>, "NULL"),
) -> Result<i64, ErrorReport> {
    let wrapper = required("wrapper", wrapper)?;
    let targets = Targets::new(target_kms1, target_kms2, target_layers.map(|json| json.value("target_layers")).transpose()?.as_ref())?;
    revocation::poll();
    let row = owner::as_owner(|| wrapper::by_uuid(wrapper))?;
    grants::require(row.policy_id, &row.policy_name, Privilege::Manage)?;
    open::check_status(&row)?;
    let (generation, rewritten) = owner::as_owner(|| rewrap::rewrap_one(row, targets))?;
    if !rewritten {
        notice!("wrapper \"{wrapper}\" has these keys already: nothing to do");
    }
    Ok(generation)
}

#[pg_extern(parallel_unsafe, cost = 1000)]
#[search_path(pg_catalog, pg_temp)]
fn kw_rotate_dek(wrapper: Option<Uuid>) -> Result<Uuid, ErrorReport> {
    Ok(Uuid::from_bytes(rotate::rotate_dek(required("wrapper", wrapper)?)?))
}

#[pg_extern(parallel_unsafe, cost = 1000)]
#[search_path(pg_catalog, pg_temp)]
fn kw_describe_wrapper(wrapper: Option<Uuid>) -> Result<TableIterator<'static, (name!(item, String), name!(value, String))>, ErrorReport> {
    Ok(TableIterator::new(describe::describe(required("wrapper", wrapper)?)?))
}

// Without a search_path of its own, which costs more than all the rest: a campaign asks this once a wrapper.
#[pg_extern(immutable, strict, parallel_safe, cost = 10)]
#[allow(clippy::unnecessary_wraps)] // what every function returns
fn kw_key_version_of(container: &[u8]) -> Result<Option<String>, ErrorReport> {
    let version = Container::parse(container).ok().map(|container| container.header.key_ref.key_version);
    // That of every provider is; and a database need not have the bytes' encoding.
    Ok(version.filter(|version| version.is_ascii()))
}

fn checked_dek(dek: &[u8]) -> Result<Dek, Failure> {
    // The length first: a value that is far too long is not copied.
    if dek.len() > 64 {
        return Err(Failure::too_large(
            format!("DEK of {} bytes for argument \"dek\" is too long", dek.len()),
            "It may have 64 bytes; 16, 24, 32 and 64 are possible, NULL makes one of 32.",
        ));
    }
    if !DEK_LENGTHS.contains(&dek.len()) {
        return Err(Failure::bad_argument(
            format!("invalid DEK of {} bytes for argument \"dek\"", dek.len()),
            "It must have 16, 24, 32 or 64 bytes; NULL makes one of 32.",
        ));
    }
    Dek::from_bytes(Zeroizing::new(dek.to_vec())).ok_or_else(|| Failure::internal("DEK length"))
}

/// Reads a `context` argument.
pub(crate) fn checked_context(context: Option<JsonArg>) -> Result<Context, Failure> {
    let context = required("context", context)?.value("context")?;
    let bad = |limit: &str| Failure::bad_argument("invalid value for argument \"context\"", limit);
    Context::from_json(&context).map_err(|error| match error {
        ContextError::NotAnObject => bad("It must be a JSON object of strings, such as {\"tenant\": \"7\"}."),
        ContextError::NotAString => bad("Its values must be strings: no numbers, no nesting, no null."),
        ContextError::TooManyPairs => {
            Failure::too_large("too many pairs in argument \"context\"", format!("It may have {MAX_PAIRS} pairs."))
        }
        ContextError::PairTooLong => Failure::too_large(
            "a pair in argument \"context\" is too long",
            format!("Key and value together may have {MAX_PAIR_BYTES} bytes."),
        ),
    })
}
