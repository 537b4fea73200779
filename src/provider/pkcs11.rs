//! The `pkcs11` kind: keys of a hardware token or its software likeness, through the module of its maker.
//!
//! Calls are synchronous C: neither a deadline nor a cancel reaches into one. Between the items of a batch the provider gives way.

use super::{
    Answer, Capabilities, Description, Provider, ProviderError, ProviderKey, ToOpen, ToWrap,
    config::{ConfigError, Environment, Fields},
    credentials::CredentialDirectory,
    pkcs11_crypto as crypto,
    pkcs11_error::Fault,
    pkcs11_keys::{Keys, unknown},
    pkcs11_module::{TokenName, context, forget_initialization},
    pkcs11_pin::{Pins, log_in, turn},
};
use crate::core::{kem::SharedSecret, secret::Share, suite::Algorithm};
use cryptoki::session::SessionState;
use serde_json::{Map, Value};
use std::{
    cell::RefCell,
    path::PathBuf,
    process,
    rc::Rc,
    time::{Duration, Instant},
};

/// Name of this kind in `kms_providers.provider`.
pub const KIND: &str = "pkcs11";

/// What tokens can do.
pub const CAPABILITIES: Capabilities = Capabilities { binds_context: true, shows_version: false, batches: false, interruptible: false };

/// How long a batch works before it gives way.
const SLICE: Duration = Duration::from_millis(1);

/// One token.
pub struct Pkcs11Provider {
    module: PathBuf,
    token: TokenName,
    pin_file: String,
    credentials: CredentialDirectory,
    pins: Pins,
    /// The session, and the process that it belongs to.
    opened: RefCell<Option<(u32, Keys)>>,
}

/// Reads the configuration.
///
/// # Errors
/// [`ConfigError`] naming the field.
pub fn configure(object: &Map<String, Value>, environment: &Environment) -> Result<Rc<dyn Provider>, ConfigError> {
    let mut fields = Fields::new(object);
    let module = PathBuf::from(fields.required("module")?);
    if !module.is_absolute() {
        return Err(ConfigError::new("module", "It must be an absolute path."));
    }
    // As text, since a path of other spelling may lead elsewhere.
    if !environment.pkcs11_modules.iter().any(|allowed| allowed.as_os_str() == module.as_os_str()) {
        return Err(ConfigError::new("module", "The setting \"kms_wrap.pkcs11_modules\" does not name it."));
    }
    let token = TokenName { label: fields.text("token_label")?.map(str::to_owned), serial: fields.text("serial")?.map(str::to_owned) };
    if token.label.is_none() && token.serial.is_none() {
        return Err(ConfigError::new("token_label", "It is required where \"serial\" is not given."));
    }
    let pin_file = fields.file("pin_file")?.ok_or_else(|| ConfigError::new("pin_file", "It is required."))?.to_owned();
    fields.finish(KIND)?;
    Ok(Rc::new(Pkcs11Provider {
        module,
        token,
        pin_file,
        credentials: environment.credentials.clone(),
        pins: environment.pins.clone(),
        opened: RefCell::new(None),
    }))
}

impl Pkcs11Provider {
    /// Does one step in a session that is logged in, in a new one once more when the old one turns out to be of the past.
    async fn step<T>(&self, key: Option<&str>, mut work: impl FnMut(&mut Keys) -> Result<T, Fault>) -> Result<T, ProviderError> {
        let mut again = true;
        loop {
            let result = match self.log_in().await {
                Ok(()) => match self.opened.borrow_mut().as_mut() {
                    Some((_, keys)) => work(keys),
                    None => Err(ProviderError::Unavailable(format!("{} was logged out from.", self.token.show())).into()),
                },
                Err(fault) => Err(fault),
            };
            match result {
                Err(fault) if again && fault.is_stale() => {
                    if fault.is_not_initialized() {
                        forget_initialization(&self.module);
                    }
                    self.forget();
                    again = false;
                }
                Err(fault) => return Err(fault.explain(&self.place(), key)),
                Ok(value) => return Ok(value),
            }
        }
    }

    /// Makes sure that there is a session of this process.
    async fn log_in(&self) -> Result<(), Fault> {
        if self.is_open() {
            return Ok(());
        }
        self.forget();
        let turn = turn(&self.credentials, &self.pin_file).await?;
        // Another call of this provider may have had its turn before.
        if self.is_open() {
            return Ok(());
        }
        let context = context(&self.module)?;
        let (slot, info) = self.token.find(&context, &self.module)?;
        // Not closed by the crate: a fork's child must not close a session of its parent.
        let keys = Keys::new(context.open_ro_session_no_drop(slot)?, self.token.show());
        let logged_in = log_in(&keys.session, &info, (&self.credentials, &self.pin_file, &turn), &self.pins, &self.token.show());
        *self.opened.borrow_mut() = Some((process::id(), keys));
        if logged_in.is_err() {
            self.forget();
        }
        logged_in
    }

    fn is_open(&self) -> bool {
        self.opened.borrow().as_ref().is_some_and(|(pid, _)| *pid == process::id())
    }

    /// Closes the session if it is of this process.
    fn forget(&self) {
        if let Some((pid, keys)) = self.opened.borrow_mut().take()
            && pid == process::id()
        {
            // What cannot be closed is gone.
            let _ = keys.session.close();
        }
    }

    fn place(&self) -> String {
        format!("{} of \"{}\"", self.token.show(), self.module.display())
    }
}

impl Drop for Pkcs11Provider {
    fn drop(&mut self) {
        self.forget();
    }
}

impl Provider for Pkcs11Provider {
    fn capabilities(&self) -> Capabilities {
        CAPABILITIES
    }

    fn wrap<'a>(&'a self, key: ProviderKey<'a>, items: &'a [ToWrap<'a>]) -> Answer<'a, Vec<Vec<u8>>> {
        Box::pin(async move {
            refuse_version(key.name, key.version)?;
            let mut pace = Pace::new();
            let mut blobs = Vec::with_capacity(items.len());
            for (share, aad) in items {
                blobs.push(self.step(Some(key.name), |keys| crypto::wrap(keys, key, share, aad)).await?);
                pace.give_way().await;
            }
            Ok(blobs)
        })
    }

    fn unwrap<'a>(&'a self, key: ProviderKey<'a>, items: &'a [ToOpen<'a>]) -> Answer<'a, Vec<Option<Share>>> {
        Box::pin(async move {
            let mut pace = Pace::new();
            let mut shares = Vec::with_capacity(items.len());
            for (blob, aad) in items {
                shares.push(self.step(Some(key.name), |keys| crypto::unwrap(keys, key, blob, aad)).await?);
                pace.give_way().await;
            }
            Ok(shares)
        })
    }

    fn decapsulate<'a>(&'a self, key: ProviderKey<'a>, ciphertexts: &'a [&'a [u8]]) -> Answer<'a, Vec<Option<SharedSecret>>> {
        Box::pin(async move {
            let mut pace = Pace::new();
            let mut secrets = Vec::with_capacity(ciphertexts.len());
            for ciphertext in ciphertexts {
                secrets.push(self.step(Some(key.name), |keys| crypto::decapsulate(keys, key, ciphertext)).await?);
                pace.give_way().await;
            }
            Ok(secrets)
        })
    }

    fn describe<'a>(&'a self, name: &'a str, version: Option<&'a str>, algorithm: Algorithm) -> Answer<'a, Description> {
        Box::pin(async move {
            refuse_version(name, version.unwrap_or_default())?;
            if matches!(algorithm, Algorithm::Xaes256Gcm | Algorithm::XWing) {
                return Err(unknown(name, algorithm));
            }
            self.step(Some(name), |keys| keys.describe(name, algorithm)).await
        })
    }

    fn health(&self) -> Answer<'_, ()> {
        Box::pin(async move {
            let is_logged_in = self.step(None, |keys| {
                let state = keys.session.get_session_info()?.session_state();
                Ok(matches!(state, SessionState::RoUser | SessionState::RwUser))
            });
            if is_logged_in.await? {
                return Ok(());
            }
            // Logged out by another user of the module: a new session logs in again.
            self.forget();
            self.step(None, |_| Ok(())).await
        })
    }
}

/// Objects on a token have no versions.
fn refuse_version(name: &str, version: &str) -> Result<(), ProviderError> {
    if version.is_empty() {
        return Ok(());
    }
    Err(ProviderError::NotFound(format!("Key \"{name}\" has no version \"{version}\": keys on a token have none.")))
}

/// Lets the caller look at its deadline now and then.
struct Pace(Instant);

impl Pace {
    fn new() -> Self {
        Self(Instant::now())
    }

    async fn give_way(&mut self) {
        if self.0.elapsed() >= SLICE {
            tokio::task::yield_now().await;
            self.0 = Instant::now();
        }
    }
}
