//! Logging in to a token, so that a wrong PIN is tried once and never locks the token.
//!
//! Tokens count wrong PINs, over all processes that try. So a PIN file that was refused is remembered where all processes of the server see
//! it, and one process at a time logs in, which the kernel's lock on the PIN file itself makes sure of: it ends with its holder.

use super::{
    ProviderError,
    credentials::CredentialDirectory,
    pkcs11_error::{Fault, blames_pin},
    root_key::Stamp,
};
use crate::core::kdf;
use cryptoki::{
    error::{Error, RvError},
    session::{Session, UserType},
    slot::TokenInfo,
    types::AuthPin,
};
use std::{fmt, fs::File, rc::Rc, time::Duration};

const LABEL_ATTEMPT: &[u8] = b"kms_wrap/v1/pkcs11-pin\0";

/// How often the lock of a PIN file is tried for: ten seconds in all.
const LOCK_TRIES: u32 = 500;

/// How long to wait between two tries. A login takes a few milliseconds, at a network HSM tens of them.
const LOCK_PAUSE: Duration = Duration::from_millis(20);

/// One state of a PIN file, tried at one token. Says nothing about the PIN: it is a hash of the file's place and times, and of the token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct PinAttempt(pub [u8; 32]);

impl PinAttempt {
    fn new(token: &TokenInfo, stamp: Stamp) -> Self {
        let mut parts: Vec<&[u8]> = vec![LABEL_ATTEMPT];
        // Not the module: two modules may lead to one token, which counts for both.
        for field in [token.manufacturer_id(), token.model(), token.serial_number(), token.label()] {
            parts.extend([field.trim_end().as_bytes(), b"\0"]);
        }
        let digest = stamp.digest();
        parts.push(&digest);
        Self(kdf::sha256(&parts))
    }
}

/// Remembers which PINs were refused, for all processes that may log in to the same tokens.
///
/// The two calls of one login need no common lock: who makes them holds the lock of the PIN file. Each has to be atomic by itself, and what
/// [`Self::refused`] has noted must show in every process when it returns.
pub trait PinLedger {
    /// Whether this attempt was made before and refused.
    fn was_refused(&self, attempt: &PinAttempt) -> bool;

    /// Notes that it was refused.
    fn refused(&self, attempt: &PinAttempt);
}

/// The ledger of the caller; without one nothing logs in.
#[derive(Clone, Default)]
pub struct Pins(pub Option<Rc<dyn PinLedger>>);

impl fmt::Debug for Pins {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "Pins(ledger)" } else { "Pins(none)" })
    }
}

impl PartialEq for Pins {
    fn eq(&self, other: &Self) -> bool {
        match (&self.0, &other.0) {
            (None, None) => true,
            (Some(a), Some(b)) => Rc::ptr_eq(a, b),
            _ => false,
        }
    }
}

impl Eq for Pins {}

/// The right to log in with a PIN file, held by one process of the machine at a time.
pub struct Turn {
    _file: File,
    stamp: Stamp,
}

/// Waits for the turn to log in with a PIN file.
///
/// # Errors
/// [`ProviderError::Unavailable`] when others log in for too long; [`ProviderError::Denied`] about the file.
pub async fn turn(credentials: &CredentialDirectory, pin_file: &str) -> Result<Turn, ProviderError> {
    for _ in 0..LOCK_TRIES {
        if let Some((file, stamp)) = credentials.try_lock(pin_file)? {
            return Ok(Turn { _file: file, stamp });
        }
        tokio::time::sleep(LOCK_PAUSE).await;
    }
    Err(ProviderError::Unavailable(format!("Other processes have been logging in with PIN file \"{pin_file}\" for too long.")))
}

/// Logs a session in, unless the PIN was refused before. `place` is the token in messages.
///
/// # Errors
/// [`ProviderError::Denied`] when the PIN is wrong or was, the token is locked or one wrong PIN away from that, or the file is not fit;
/// [`Fault::Token`] for anything else that the token answers.
pub fn log_in(
    session: &Session,
    token: &TokenInfo,
    (credentials, pin_file, turn): (&CredentialDirectory, &str, &Turn),
    pins: &Pins,
    place: &str,
) -> Result<(), Fault> {
    let denied = |why: String| Err(ProviderError::Denied(why).into());
    let Some(ledger) = &pins.0 else {
        return denied(format!("{place} is not logged in to: nothing here remembers refused PINs."));
    };
    let credential = credentials.secret(pin_file)?;
    let pin = AuthPin::from(credential.text(pin_file)?.as_str());
    if credential.stamp != turn.stamp {
        let text = format!("PIN file \"{pin_file}\" is being replaced.");
        return Err(ProviderError::Unavailable(text).into());
    }
    let attempt = PinAttempt::new(token, credential.stamp);
    let again = "Write the file again when it holds the right one.";
    if ledger.was_refused(&attempt) {
        return denied(format!("{place} has refused the PIN in file \"{pin_file}\" before. {again}"));
    }
    if !token.user_pin_initialized() {
        return denied(format!("{place} has no user PIN."));
    }
    if token.user_pin_locked() {
        return denied(format!("{place} has locked its user PIN."));
    }
    if token.user_pin_final_try() {
        let hint = "Log in with a tool of the token's maker first.";
        return denied(format!("{place} would lock its user PIN if the one in file \"{pin_file}\" were wrong. {hint}"));
    }
    match session.login(UserType::User, Some(&pin)) {
        // Logged in is the process, not the session, so another session may have done it.
        Ok(()) | Err(Error::Pkcs11(RvError::UserAlreadyLoggedIn, _)) => Ok(()),
        Err(Error::Pkcs11(code, _)) if blames_pin(code) => {
            ledger.refused(&attempt);
            denied(format!("{place} refuses the PIN in file \"{pin_file}\". {again}"))
        }
        Err(error) => Err(error.into()),
    }
}
