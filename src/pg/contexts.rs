//! Context arguments of functions that are called once a row: read once, then known by the bytes of the `jsonb`.
#![allow(unsafe_code)]

use super::{catalog::policy::Policy, fn_wrap::checked_context, gucs, json_arg::JsonArg, report::Failure, revocation, varlena};
use crate::core::{context::Context, scope, value::ValueContext};
use pgrx::{FromDatum, pg_sys};
use std::{
    borrow::Borrow,
    cell::{Cell, RefCell},
    collections::HashSet,
    hash::{Hash, Hasher},
    rc::Rc,
};

/// What follows from a caller's context. Many thousands may be held, in no order, so that each is small: no map of its pairs beside their encoding.
pub(crate) struct CallerContext {
    /// The `jsonb` that it is known by.
    jsonb: Box<[u8]>,
    /// What a value's tag authenticates.
    pub(crate) value: ValueContext,
    /// What a wrapper of kw_wrap_dek is bound to.
    pub(crate) sha256: [u8; 32],
    /// Its scope under the policy that was asked for last.
    scope: Cell<Option<Scope>>,
}

/// A context's scope under a policy. As of an epoch, since it follows from the policy's row.
#[derive(Clone, Copy)]
struct Scope {
    epoch: u64,
    policy: i64,
    sha256: [u8; 32],
}

impl CallerContext {
    fn new(jsonb: &[u8], context: &Context) -> Self {
        Self { jsonb: jsonb.into(), value: ValueContext::free(&context.encode()), sha256: context.sha256(), scope: Cell::default() }
    }

    /// What a wrapper of a policy's values is bound to.
    pub(crate) fn scope(&self, policy: &Policy) -> Result<[u8; 32], Failure> {
        let epoch = revocation::epoch();
        if let Some(scope) = self.scope.get().filter(|scope| scope.epoch == epoch && scope.policy == policy.id) {
            return Ok(scope.sha256);
        }
        let context = self.value.encoded().and_then(Context::decode).ok_or_else(|| Failure::internal("context"))?;
        // Without one of them another DEK would be chosen than the caller means.
        if let Some(missing) = policy.dek_scope.iter().find(|name| !context.has(name)) {
            let limit = format!("Policy \"{}\" chooses the DEK by these pairs: {}.", policy.name, policy.dek_scope.join(", "));
            return Err(Failure::bad_argument(format!("argument \"context\" lacks \"{missing}\""), limit));
        }
        let sha256 = scope::of_context(&context, &policy.dek_scope);
        self.scope.set(Some(Scope { epoch, policy: policy.id, sha256 }));
        Ok(sha256)
    }
}

/// A context in the set, found by its `jsonb`.
struct ByJsonb(Rc<CallerContext>);

impl Borrow<[u8]> for ByJsonb {
    fn borrow(&self) -> &[u8] {
        &self.0.jsonb
    }
}

impl Hash for ByJsonb {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.jsonb.hash(state);
    }
}

impl PartialEq for ByJsonb {
    fn eq(&self, other: &Self) -> bool {
        self.0.jsonb == other.0.jsonb
    }
}

impl Eq for ByJsonb {}

#[derive(Default)]
struct Known {
    last: Option<Rc<CallerContext>>,
    all: HashSet<ByJsonb>,
}

thread_local! {
    static KNOWN: RefCell<Known> = RefCell::new(Known::default());
}

/// The context of an argument of type `jsonb`.
pub(crate) fn of_argument(datum: Option<pg_sys::Datum>) -> Result<Rc<CallerContext>, Failure> {
    let Some(datum) = datum else { return Err(Failure::null("context")) };
    // SAFETY: an argument of type jsonb, during its call.
    let bytes = unsafe { varlena::bytes_of(datum) };
    let known = KNOWN.with_borrow_mut(|known| {
        if let Some(last) = &known.last
            && *last.jsonb == *bytes
        {
            return Some(Rc::clone(last));
        }
        let found = Rc::clone(&known.all.get(bytes)?.0);
        known.last = Some(Rc::clone(&found));
        Some(found)
    });
    if let Some(context) = known {
        return Ok(context);
    }
    // SAFETY: as above.
    let json = unsafe { JsonArg::from_datum(datum, false) };
    let context = checked_context(json)?;
    let context = Rc::new(CallerContext::new(bytes, &context));
    KNOWN.with_borrow_mut(|known| {
        if known.all.len() >= gucs::cache_entries() {
            known.all.clear();
        }
        known.all.insert(ByJsonb(Rc::clone(&context)));
        known.last = Some(Rc::clone(&context));
    });
    Ok(context)
}
