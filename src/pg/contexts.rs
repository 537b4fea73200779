//! Context arguments of functions that are called once a row: read once, then known by the bytes of the `jsonb`.
#![allow(unsafe_code)]

use super::{catalog::policy::Policy, fn_wrap::checked_context, gucs, json_arg::JsonArg, report::Failure, revocation, varlena};
use crate::core::{context::Context, scope, value::ValueContext};
use pgrx::{FromDatum, pg_sys};
use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    rc::Rc,
};

/// A caller's context with what follows from it.
pub(crate) struct CallerContext {
    context: Context,
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
    fn new(context: Context) -> Self {
        let value = ValueContext::free(&context.encode());
        let sha256 = context.sha256();
        Self { context, value, sha256, scope: Cell::default() }
    }

    /// What a wrapper of a policy's values is bound to.
    pub(crate) fn scope(&self, policy: &Policy) -> Result<[u8; 32], Failure> {
        let epoch = revocation::epoch();
        if let Some(scope) = self.scope.get().filter(|scope| scope.epoch == epoch && scope.policy == policy.id) {
            return Ok(scope.sha256);
        }
        // Without one of them another DEK would be chosen than the caller means.
        if let Some(missing) = policy.dek_scope.iter().find(|name| !self.context.has(name)) {
            let limit = format!("Policy \"{}\" chooses the DEK by these pairs: {}.", policy.name, policy.dek_scope.join(", "));
            return Err(Failure::bad_argument(format!("argument \"context\" lacks \"{missing}\""), limit));
        }
        let sha256 = scope::of_context(&self.context, &policy.dek_scope);
        self.scope.set(Some(Scope { epoch, policy: policy.id, sha256 }));
        Ok(sha256)
    }
}

#[derive(Default)]
struct Known {
    last: Option<(Rc<[u8]>, Rc<CallerContext>)>,
    all: HashMap<Rc<[u8]>, Rc<CallerContext>>,
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
        if let Some((last, context)) = &known.last
            && **last == *bytes
        {
            return Some(Rc::clone(context));
        }
        let (bytes, context) = known.all.get_key_value(bytes)?;
        known.last = Some((Rc::clone(bytes), Rc::clone(context)));
        Some(Rc::clone(context))
    });
    if let Some(context) = known {
        return Ok(context);
    }
    // SAFETY: as above.
    let json = unsafe { JsonArg::from_datum(datum, false) };
    let context = Rc::new(CallerContext::new(checked_context(json)?));
    KNOWN.with_borrow_mut(|known| {
        if known.all.len() >= gucs::cache_entries() {
            known.all.clear();
        }
        let bytes: Rc<[u8]> = bytes.into();
        known.all.insert(Rc::clone(&bytes), Rc::clone(&context));
        known.last = Some((bytes, Rc::clone(&context)));
    });
    Ok(context)
}
