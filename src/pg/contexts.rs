//! Context arguments of functions that are called once a row: read once, then known by the bytes of the `jsonb`.
#![allow(unsafe_code)]

use super::{catalog::policy::Policy, fn_wrap::checked_context, gucs, json_arg::JsonArg, report::Failure, revocation, varlena};
use crate::core::{context::Context, scope, value::ValueContext};
use pgrx::{FromDatum, pg_sys};
use std::{cell::RefCell, collections::HashMap, rc::Rc};

/// A caller's context with what follows from it.
pub(crate) struct CallerContext {
    context: Context,
    /// What a value's tag authenticates.
    pub(crate) value: ValueContext,
    /// What a wrapper of kw_wrap_dek is bound to.
    pub(crate) sha256: [u8; 32],
    /// Its scope under a policy, by the policy's id. As of an epoch, since it follows from a row.
    scopes: RefCell<(u64, Vec<(i64, [u8; 32])>)>,
}

impl CallerContext {
    fn new(context: Context) -> Self {
        let value = ValueContext::free(&context.encode());
        let sha256 = context.sha256();
        Self { context, value, sha256, scopes: RefCell::default() }
    }

    /// What a wrapper of a policy's values is bound to.
    pub(crate) fn scope(&self, policy: &Policy) -> Result<[u8; 32], Failure> {
        let mut scopes = self.scopes.borrow_mut();
        let epoch = revocation::epoch();
        if scopes.0 != epoch {
            *scopes = (epoch, Vec::new());
        }
        if let Some((_, scope)) = scopes.1.iter().find(|(id, _)| *id == policy.id) {
            return Ok(*scope);
        }
        // Without one of them another DEK would be chosen than the caller means.
        if let Some(missing) = policy.dek_scope.iter().find(|name| !self.context.has(name)) {
            let limit = format!("Policy \"{}\" chooses the DEK by these pairs: {}.", policy.name, policy.dek_scope.join(", "));
            return Err(Failure::bad_argument(format!("argument \"context\" lacks \"{missing}\""), limit));
        }
        let scope = scope::of_context(&self.context, &policy.dek_scope);
        scopes.1.push((policy.id, scope));
        Ok(scope)
    }
}

#[derive(Default)]
struct Known {
    last: Option<(Box<[u8]>, Rc<CallerContext>)>,
    all: HashMap<Box<[u8]>, Rc<CallerContext>>,
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
        let context = known.all.get(bytes)?;
        known.last = Some((bytes.into(), Rc::clone(context)));
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
        known.all.insert(bytes.into(), Rc::clone(&context));
        known.last = Some((bytes.into(), Rc::clone(&context)));
    });
    Ok(context)
}
