//! What happens when the library is loaded: settings are defined, DISCARD ALL is listened to and, under
//! shared_preload_libraries, shared memory asked for and the worker registered. No I/O, no keys.

use super::{breaker, discard, gucs, pins, worker};
use pgrx::{pg_guard, pg_sys};
use std::sync::atomic::{AtomicBool, Ordering};

static PRELOADED: AtomicBool = AtomicBool::new(false);

/// Whether the library was loaded by shared_preload_libraries.
pub(crate) fn is_preloaded() -> bool {
    PRELOADED.load(Ordering::Relaxed)
}

#[allow(unsafe_code, missing_docs)]
#[pg_guard]
pub extern "C-unwind" fn _PG_init() {
    // SAFETY: plain flags of the server, set before any library is loaded.
    let (upgrading, preloading) = unsafe { (pg_sys::IsBinaryUpgrade, pg_sys::process_shared_preload_libraries_in_progress) };
    if upgrading {
        return;
    }
    PRELOADED.store(preloading, Ordering::Relaxed);
    gucs::init(preloading);
    discard::listen();
    if preloading {
        breaker::share();
        pins::share();
        worker::register();
    }
}
