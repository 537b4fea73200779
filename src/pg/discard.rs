//! DISCARD ALL: a pooled connection is handed on, and takes no opened DEK with it.
#![allow(unsafe_code)]

use super::{cache, revocation};
use pgrx::pg_sys;
use std::ffi::c_char;

/// What was hooked in before.
static mut PREVIOUS: pg_sys::ProcessUtility_hook_type = None;

/// Hooks in. Called once, from _PG_init.
pub(super) fn listen() {
    // SAFETY: a process has one thread, and nothing calls the hook while it is set.
    unsafe {
        PREVIOUS = pg_sys::ProcessUtility_hook;
        pg_sys::ProcessUtility_hook = Some(on_utility);
    }
}

unsafe extern "C-unwind" {
    /// PostgreSQL's own; pgrx's has another calling convention.
    fn standard_ProcessUtility(
        statement: *mut pg_sys::PlannedStmt,
        query: *const c_char,
        #[cfg(not(feature = "pg13"))] read_only_tree: bool,
        context: pg_sys::ProcessUtilityContext::Type,
        params: pg_sys::ParamListInfo,
        environment: *mut pg_sys::QueryEnvironment,
        destination: *mut pg_sys::DestReceiver,
        completion: *mut pg_sys::QueryCompletion,
    );
}

// Without pg_guard, which would catch every error of every such statement and raise it again without the names of constraint and table. An
// ERROR jumps over this frame, which has nothing to drop.
#[allow(clippy::too_many_arguments)] // PostgreSQL's
unsafe extern "C-unwind" fn on_utility(
    statement: *mut pg_sys::PlannedStmt,
    query: *const c_char,
    #[cfg(not(feature = "pg13"))] read_only_tree: bool,
    context: pg_sys::ProcessUtilityContext::Type,
    params: pg_sys::ParamListInfo,
    environment: *mut pg_sys::QueryEnvironment,
    destination: *mut pg_sys::DestReceiver,
    completion: *mut pg_sys::QueryCompletion,
) {
    // SAFETY: the arguments are passed on as they came; a utility statement has a node, whose tag says what it is.
    unsafe {
        let node = (*statement).utilityStmt;
        let is_discard_all = !node.is_null()
            && (*node).type_ == pg_sys::NodeTag::T_DiscardStmt
            && (*node.cast::<pg_sys::DiscardStmt>()).target == pg_sys::DiscardMode::DISCARD_ALL;
        let next = match PREVIOUS {
            Some(previous) => previous,
            None => standard_ProcessUtility,
        };
        #[cfg(not(feature = "pg13"))]
        next(statement, query, read_only_tree, context, params, environment, destination, completion);
        #[cfg(feature = "pg13")]
        next(statement, query, context, params, environment, destination, completion);
        if is_discard_all {
            cache::wipe();
            revocation::bump();
        }
    }
}
