//! Which PINs of PKCS#11 tokens were refused, for all sessions of the server: in shared memory, since a token counts wrong PINs over all of them.

use super::{init, report::Failure};
use crate::provider::{
    pkcs11,
    pkcs11_pin::{PinAttempt, PinLedger, Pins},
};
use pgrx::{PGRXSharedMemory, PgLwLock, pg_guard, pg_sys};
use std::rc::Rc;

/// Refused attempts that are remembered. There is one more only when somebody has written a wrong PIN into a file again.
const ATTEMPTS: usize = 256;

/// The last refused attempts, in a ring.
#[derive(Clone, Copy)]
pub(crate) struct Refused {
    next: usize,
    attempts: [[u8; 32]; ATTEMPTS],
}

impl Default for Refused {
    fn default() -> Self {
        Self { next: 0, attempts: [[0; 32]; ATTEMPTS] }
    }
}

// SAFETY: plain bytes, all processes of one server have the same layout.
#[allow(unsafe_code)]
unsafe impl PGRXSharedMemory for Refused {}

// SAFETY: the name is this extension's own.
#[allow(unsafe_code)]
static SHARED: PgLwLock<Refused> = unsafe { PgLwLock::new(c"kms_wrap pins") };

/// Asks for the shared memory. Called while the library is preloaded.
#[allow(unsafe_code)]
pub(crate) fn share() {
    pgrx::pg_shmem_init!(SHARED);
}

struct Shared;

impl PinLedger for Shared {
    fn was_refused(&self, attempt: &PinAttempt) -> bool {
        SHARED.share().attempts.contains(&attempt.0)
    }

    fn refused(&self, attempt: &PinAttempt) {
        let mut refused = SHARED.exclusive();
        let place = refused.next % ATTEMPTS;
        if let Some(slot) = refused.attempts.get_mut(place) {
            *slot = attempt.0;
        }
        refused.next = place.wrapping_add(1);
    }
}

thread_local! {
    static PINS: Pins = Pins(Some(Rc::new(Shared)));
}

/// The memory of refused PINs; none without shared memory, and then nothing logs in.
pub(crate) fn pins() -> Pins {
    if init::is_preloaded() { PINS.with(Clone::clone) } else { Pins::default() }
}

/// 55000 for a kind that needs shared memory where there is none.
pub(crate) fn check_kind(kind: &str) -> Result<(), Failure> {
    if kind == pkcs11::KIND && !init::is_preloaded() {
        return Err(Failure::state(
            "key providers of kind \"pkcs11\" need kms_wrap in shared_preload_libraries",
            "Add kms_wrap to shared_preload_libraries and restart: all sessions have to share what PINs a token has refused, or they would lock it.",
        ));
    }
    Ok(())
}
