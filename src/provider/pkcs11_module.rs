//! PKCS#11 modules in this process, and tokens in their slots.
//!
//! A module is state of the process by its nature: it is loaded and initialised once, whoever uses it, and is not unloaded, since modules do
//! not reckon with that. It is never touched before the first use of a key, so never in a process that others are forked from.

use super::{ProviderError, pkcs11_error::Fault};
use cryptoki::{
    context::{CInitializeArgs, CInitializeFlags, Pkcs11},
    error::{Error, RvError},
    slot::{Slot, TokenInfo},
};
use std::{
    path::{Path, PathBuf},
    process,
    sync::{Mutex, PoisonError},
    time::Duration,
};

/// How often a token that fails is asked for its name.
const INFO_TRIES: u32 = 4;

/// How long to wait before it is asked again: longer than a small file takes to be written.
const INFO_PAUSE: Duration = Duration::from_millis(2);

struct Loaded {
    path: PathBuf,
    context: Pkcs11,
    /// The process that it is initialised in; a fork's child has to do it again.
    initialized_in: Option<u32>,
}

static MODULES: Mutex<Vec<Loaded>> = Mutex::new(Vec::new());

/// The module, loaded and initialised in this process.
///
/// # Errors
/// [`Fault`] when it does not load or does not want to be initialised without making threads.
pub fn context(path: &Path) -> Result<Pkcs11, Fault> {
    let mut modules = MODULES.lock().unwrap_or_else(PoisonError::into_inner);
    if !modules.iter().any(|module| module.path == path) {
        let context = Pkcs11::new(path)?;
        modules.push(Loaded { path: path.to_owned(), context, initialized_in: None });
    }
    let module = modules.iter_mut().find(|module| module.path == path).ok_or(Error::InvalidValue)?;
    if module.initialized_in != Some(process::id()) {
        // A backend of PostgreSQL is one thread, and must stay that.
        let flags = CInitializeFlags::OS_LOCKING_OK | CInitializeFlags::LIBRARY_CANT_CREATE_OS_THREADS;
        match module.context.initialize(CInitializeArgs::new(flags)) {
            // Another user of the module in this process has done it, or this process is a child that inherited it.
            Ok(()) | Err(Error::Pkcs11(RvError::CryptokiAlreadyInitialized, _)) => module.initialized_in = Some(process::id()),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(module.context.clone())
}

/// Notes that a module says that it is not initialised, whatever was known of it.
pub fn forget_initialization(path: &Path) {
    let mut modules = MODULES.lock().unwrap_or_else(PoisonError::into_inner);
    for module in modules.iter_mut().filter(|module| module.path == path) {
        module.initialized_in = None;
    }
}

/// Which token a configuration means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenName {
    /// Its label.
    pub label: Option<String>,
    /// Its serial number.
    pub serial: Option<String>,
}

impl TokenName {
    /// The token in messages.
    #[must_use]
    pub fn show(&self) -> String {
        match (&self.label, &self.serial) {
            (Some(label), Some(serial)) => format!("PKCS#11 token \"{label}\" with serial number \"{serial}\""),
            (Some(label), None) => format!("PKCS#11 token \"{label}\""),
            (None, serial) => format!("The PKCS#11 token with serial number \"{}\"", serial.as_deref().unwrap_or_default()),
        }
    }

    fn fits(&self, info: &TokenInfo) -> bool {
        // Both fields are padded with blanks on the token.
        self.label.as_deref().is_none_or(|label| info.label().trim_end() == label)
            && self.serial.as_deref().is_none_or(|serial| info.serial_number().trim_end() == serial)
    }

    /// Finds the one token of this name.
    ///
    /// # Errors
    /// [`ProviderError::Unavailable`] when there is none: it may be put in, or its driver have the wrong rights; [`ProviderError::Denied`]
    /// when several fit.
    pub fn find(&self, context: &Pkcs11, module: &Path) -> Result<(Slot, TokenInfo), Fault> {
        let mut found = None;
        let mut unread = None;
        for slot in context.get_slots_with_token()? {
            let info = match info(context, slot) {
                Ok(info) => info,
                // A token in trouble must not keep others from being used.
                Err(error) => {
                    unread = Some(error);
                    continue;
                }
            };
            if self.fits(&info) && found.replace((slot, info)).is_some() {
                let text = format!("{} is ambiguous in \"{}\": give label and serial number.", self.show(), module.display());
                return Err(ProviderError::Denied(text).into());
            }
        }
        if let (None, Some(error)) = (&found, unread) {
            return Err(error.into());
        }
        let absent = || ProviderError::Unavailable(format!("{} is not present in \"{}\".", self.show(), module.display()));
        found.ok_or_else(|| absent().into())
    }
}

/// What a token says of itself. SoftHSM fails for a moment while another process writes to the token.
fn info(context: &Pkcs11, slot: Slot) -> Result<TokenInfo, Error> {
    for _ in 0..INFO_TRIES {
        match context.get_token_info(slot) {
            Err(Error::Pkcs11(RvError::GeneralError | RvError::FunctionFailed, _)) => std::thread::sleep(INFO_PAUSE),
            answer => return answer,
        }
    }
    context.get_token_info(slot)
}
