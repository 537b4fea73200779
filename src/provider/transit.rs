//! Kinds `openbao` and `vault`: the transit secrets engine, which both have with the same interface.
//!
//! A share is encrypted with the slot's AAD as associated data (`aes256-gcm96`), or here under the pinned public key by RSA-OAEP with SHA-256,
//! which has no associated data. The blob is the engine's own text, `vault:v1:...`.
//!
//! Encryption under an unknown name makes a key of that name, unless the policy or the engine's configuration forbids it. Every request
//! therefore names a type for that key which does not exist: the engine ignores it for a key that is there, and refuses to make one.
//!
//! Keys that derive another key for each context are refused. Whether a key may be exported or backed up in plaintext is its owner's decision.

use super::{
    Answer, Capabilities, Description, Provider, ProviderError, ProviderKey, ToOpen, ToWrap,
    config::{ConfigError, Environment, Fields},
    credentials::CredentialDirectory,
    endpoint::Endpoint,
    http::{Http, Reply, Tls},
    oaep,
    root_key::Stamp,
    transit_auth::Auth,
    transit_wire::{self as wire, BATCH, KeyInfo, Refusal},
};
use crate::core::{secret::Share, suite::Algorithm};
use futures_util::{StreamExt, TryStreamExt, stream};
use reqwest::Method;
use rustls::pki_types::{SubjectPublicKeyInfoDer, pem::PemObject};
use serde_json::{Map, Value};
use std::{cell::RefCell, future::Future, rc::Rc};
use zeroize::Zeroizing;

/// What they can do.
pub const CAPABILITIES: Capabilities = Capabilities { binds_context: true, shows_version: true, batches: true, interruptible: true };

/// Requests of one call that wait for their answers at the same time.
const IN_FLIGHT: usize = 4;

/// The stamps of the files of [`Tls`] when they were read.
type Stamps = [Option<Stamp>; 3];

/// A transit engine with one set of credentials.
pub struct Transit {
    endpoint: Endpoint,
    mount: String,
    tls: Tls,
    credentials: CredentialDirectory,
    auth: Auth,
    http: RefCell<Option<(Stamps, Rc<Http>)>>,
}

/// Makes the provider of a configuration.
///
/// # Errors
/// [`ConfigError`] naming the field.
pub fn configure(kind: &str, config: &Map<String, Value>, environment: &Environment) -> Result<Rc<dyn Provider>, ConfigError> {
    let mut fields = Fields::new(config);
    let endpoint = fields.endpoint("endpoint", environment)?.ok_or_else(|| ConfigError::new("endpoint", "It is required."))?;
    let mount = mount(&mut fields, "mount", "transit")?;
    let namespace = fields.text("namespace")?;
    if namespace.is_some_and(|text| !text.chars().all(|c| c.is_ascii_graphic())) {
        return Err(ConfigError::new("namespace", "It must be made of ASCII characters other than spaces."));
    }
    let mut tls_file = |field| fields.file(field).map(|name| name.map(str::to_owned));
    let tls = Tls {
        ca_file: tls_file("ca_file")?,
        client_cert_file: tls_file("client_cert_file")?,
        client_key_file: tls_file("client_key_file")?,
    };
    if tls.client_cert_file.is_some() != tls.client_key_file.is_some() {
        return Err(ConfigError::new("client_key_file", "Either both of client_cert_file and client_key_file are given, or neither."));
    }
    let credentials = environment.credentials.clone();
    let auth = Auth::read(&mut fields, namespace.map(str::to_owned), environment)?;
    fields.finish(kind)?;
    Ok(Rc::new(Transit { endpoint, mount, tls, credentials, auth, http: RefCell::new(None) }))
}

/// Reads the path of a mount.
pub(super) fn mount(fields: &mut Fields<'_>, field: &'static str, default: &str) -> Result<String, ConfigError> {
    let path = fields.text(field)?.unwrap_or(default);
    if path.split('/').all(is_segment) {
        return Ok(path.to_owned());
    }
    Err(ConfigError::new(field, "It must be a path of the characters A-Z a-z 0-9 _ . - without a / at either end."))
}

/// Whether a name can be one segment of a path, here and at the server: it decodes `%2F` before it looks for a route.
fn is_segment(name: &str) -> bool {
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
    !matches!(name, "" | "." | "..") && name.chars().all(fits)
}

impl Provider for Transit {
    fn capabilities(&self) -> Capabilities {
        CAPABILITIES
    }

    fn wraps_here(&self, algorithm: Algorithm) -> bool {
        matches!(algorithm, Algorithm::RsaOaepSha256)
    }

    fn wrap<'a>(&'a self, key: ProviderKey<'a>, items: &'a [ToWrap<'a>]) -> Answer<'a, Vec<Vec<u8>>> {
        Box::pin(async move {
            let path = self.path("encrypt", key.name)?;
            let is_rsa = !self.authenticates(key)?;
            let unpinned = || ProviderError::Denied(format!("{} is registered without a version number.", self.said(key.name)));
            let version = wire::parse_version(key.version).ok_or_else(unpinned)?;
            if is_rsa {
                // It needs nobody for wrapping. Whether there is such a key is told by opening only.
                return items.iter().map(|(share, _)| Ok(wire::blob(version, &oaep::wrap(key, share)?))).collect();
            }
            let mut blobs = Vec::with_capacity(items.len());
            let requests = items.chunks(BATCH).map(|batch| self.post(&path, wire::encrypt_body(batch, version)));
            for (batch, reply) in items.chunks(BATCH).zip(self.side_by_side(requests).await?) {
                for item in self.items(&reply, batch.len(), key.name)? {
                    if let Some(refusal) = item.refusal() {
                        return Err(self.refused(refusal, reply.status, key));
                    }
                    let blob = item.blob().filter(|(_, made_with)| *made_with == version);
                    let (blob, _) = blob.ok_or_else(|| self.malformed("wrapped under another version", key.name))?;
                    blobs.push(blob.as_bytes().to_vec());
                }
            }
            Ok(blobs)
        })
    }

    fn unwrap<'a>(&'a self, key: ProviderKey<'a>, items: &'a [ToOpen<'a>]) -> Answer<'a, Vec<Option<Share>>> {
        Box::pin(async move {
            let path = self.path("decrypt", key.name)?;
            let with_aad = self.authenticates(key)?;
            let mut shares: Vec<Option<Share>> = items.iter().map(|_| None).collect();
            let (places, blobs): (Vec<_>, Vec<_>) = wire::sendable(items).into_iter().unzip();
            let mut too_old = 0_usize;
            let requests = blobs.chunks(BATCH).map(|batch| self.post(&path, wire::decrypt_body(batch, with_aad)));
            for ((places, batch), reply) in places.chunks(BATCH).zip(blobs.chunks(BATCH)).zip(self.side_by_side(requests).await?) {
                for (place, item) in places.iter().zip(self.items(&reply, batch.len(), key.name)?) {
                    match item.refusal() {
                        None => {
                            if let Some(slot) = shares.get_mut(*place) {
                                *slot = item.share();
                            }
                        }
                        Some(Refusal::TooOld) => too_old = too_old.saturating_add(1),
                        Some(refusal @ Refusal::Disabled) => return Err(self.refused(refusal, reply.status, key)),
                        // A server that fails says so of each item.
                        Some(refusal @ Refusal::Other) if reply.status >= 500 => return Err(self.refused(refusal, reply.status, key)),
                        Some(Refusal::Blob | Refusal::NoVersion | Refusal::Other) => {}
                    }
                }
            }
            // One old blob among others is that item's fault; nothing but old ones means that the version was closed.
            if too_old > 0 && too_old == items.len() {
                return Err(self.refused(Refusal::TooOld, 400, key));
            }
            Ok(shares)
        })
    }

    fn describe<'a>(&'a self, name: &'a str, version: Option<&'a str>, algorithm: Algorithm) -> Answer<'a, Description> {
        Box::pin(async move {
            let reply = self.call(Method::GET, &self.path("keys", name)?, None).await?;
            if reply.status != 200 {
                return Err(wire::failure(&reply, &self.said(name)));
            }
            let info = KeyInfo::read(&reply.body).ok_or_else(|| self.malformed("described in a way that makes no sense", name))?;
            if info.name != name {
                return Err(self.malformed("asked for, and another key described", name));
            }
            self.check_type(&info, algorithm)?;
            let version = self.version(&info, version)?;
            let public_key = match algorithm {
                Algorithm::RsaOaepSha256 => {
                    let der = info.public_key(version).and_then(|pem| SubjectPublicKeyInfoDer::from_pem_slice(pem.as_bytes()).ok());
                    let der = der.filter(|der| oaep::is_valid_public_key(der));
                    Some(der.ok_or_else(|| self.malformed("described without a usable public key", name))?.as_ref().to_vec())
                }
                _ => None,
            };
            Ok(Description { name: info.name, version: version.to_string(), algorithm, public_key })
        })
    }

    fn health(&self) -> Answer<'_, ()> {
        Box::pin(async move {
            let http = self.http()?;
            // Not within the namespace, and by standbys too: they hand requests on.
            let reply = http.send(Method::GET, "/v1/sys/health?standbyok=true&perfstandbyok=true", &[], None).await?;
            let origin = self.endpoint.origin();
            if reply.status != 200 {
                return Err(wire::status_error(reply.status, &origin));
            }
            let reply = self.call(Method::GET, "/v1/auth/token/lookup-self", None).await?;
            match reply.status {
                200 => self.auth.renew_file_token(&http, &reply).await,
                status => Err(wire::status_error(status, &format!("The token at {origin}"))),
            }
        })
    }
}

impl Transit {
    /// Sends one request with a token that is good, as far as one can know; once more with a new one when it was not.
    async fn call(&self, method: Method, path: &str, body: Option<Zeroizing<Vec<u8>>>) -> Result<Reply, ProviderError> {
        let http = self.http()?;
        let session = self.auth.session(&http).await?;
        let reply = self.auth.send(&http, method.clone(), path, Some(&session), body.clone()).await?;
        if reply.status != 403 || !self.auth.can_log_in() || self.auth.is_accepted(&http, &session).await? {
            return Ok(reply);
        }
        self.auth.forget(&session);
        let session = self.auth.session(&http).await?;
        self.auth.send(&http, method, path, Some(&session), body).await
    }

    async fn post(&self, path: &str, body: Zeroizing<Vec<u8>>) -> Result<Reply, ProviderError> {
        self.call(Method::POST, path, Some(body)).await
    }

    /// Makes a few requests at a time, so that the server works on one while others are written and read. Answers stand in the order of the
    /// requests.
    async fn side_by_side(
        &self,
        requests: impl ExactSizeIterator<Item = impl Future<Output = Result<Reply, ProviderError>>>,
    ) -> Result<Vec<Reply>, ProviderError> {
        if requests.len() > 1 {
            // Logged in once, and not by each of them.
            self.auth.session(&*self.http()?).await?;
        }
        stream::iter(requests).buffered(IN_FLIGHT).try_collect().await
    }

    /// The client, made anew when one of its files has changed.
    fn http(&self) -> Result<Rc<Http>, ProviderError> {
        let files = [&self.tls.ca_file, &self.tls.client_cert_file, &self.tls.client_key_file];
        let stamps = files.map(|file| file.as_ref().and_then(|file| self.credentials.stamp(file)));
        if let Some((held, http)) = &*self.http.borrow()
            && *held == stamps
        {
            return Ok(Rc::clone(http));
        }
        let http = Rc::new(Http::new(self.endpoint.clone(), &self.tls, &self.credentials)?);
        *self.http.borrow_mut() = Some((stamps, Rc::clone(&http)));
        Ok(http)
    }

    /// The address of an operation with a key.
    fn path(&self, operation: &str, key: &str) -> Result<String, ProviderError> {
        if is_segment(key) {
            return Ok(format!("/v1/{}/{operation}/{key}", self.mount));
        }
        Err(ProviderError::NotFound(format!("{} cannot exist: names are made of A-Z a-z 0-9 _ . -", self.said(key)) + "."))
    }

    /// Whether the key's cipher authenticates associated data.
    fn authenticates(&self, key: ProviderKey<'_>) -> Result<bool, ProviderError> {
        match key.algorithm {
            Algorithm::Aes256Gcm => Ok(true),
            Algorithm::RsaOaepSha256 => Ok(false),
            other => Err(self.unsupported(key.name, other)),
        }
    }

    fn items<'r>(&self, reply: &'r Reply, count: usize, key: &str) -> Result<Vec<wire::Item<'r>>, ProviderError> {
        // A batch with a bad item has status 400, and with one that RSA does not decrypt 500.
        match wire::read_batch(&reply.body, count).filter(|_| matches!(reply.status, 200 | 400 | 500)) {
            Some(items) => Ok(items),
            None if reply.status == 200 => Err(self.malformed("answered with something that is no batch of as many items", key)),
            None => Err(wire::failure(reply, &self.said(key))),
        }
    }

    fn check_type(&self, info: &KeyInfo, algorithm: Algorithm) -> Result<(), ProviderError> {
        const TYPES: [&str; 12] = [
            "aes128-gcm96",
            "aes256-gcm96",
            "chacha20-poly1305",
            "xchacha20-poly1305",
            "rsa-2048",
            "rsa-3072",
            "rsa-4096",
            "ed25519",
            "ecdsa-p256",
            "ecdsa-p384",
            "ecdsa-p521",
            "hmac",
        ];
        let (fits, wanted) = match algorithm {
            Algorithm::Aes256Gcm => (info.kind == "aes256-gcm96", "aes256-gcm96"),
            Algorithm::RsaOaepSha256 => {
                (matches!(info.kind.as_str(), "rsa-2048" | "rsa-3072" | "rsa-4096"), "rsa-2048, rsa-3072 or rsa-4096")
            }
            other => return Err(self.unsupported(&info.name, other)),
        };
        let said = self.said(&info.name);
        if !fits {
            let kind = TYPES.into_iter().find(|known| *known == info.kind).unwrap_or("a type that is not known here");
            return Err(ProviderError::Malformed(format!("{said} is of type {kind}, not {wanted}.")));
        }
        if info.derived {
            return Err(ProviderError::Denied(format!("{said} derives a key for each context, which is not supported.")));
        }
        if info.soft_deleted {
            return Err(ProviderError::Denied(format!("{said} is soft-deleted.")));
        }
        Ok(())
    }

    /// The version that was asked for, or else the latest.
    fn version(&self, info: &KeyInfo, asked: Option<&str>) -> Result<u32, ProviderError> {
        let said = self.said(&info.name);
        let least = info.min_decryption_version.max(info.min_encryption_version);
        let version = asked.map_or(Some(info.latest_version), wire::parse_version);
        match version.filter(|version| (1..=info.latest_version).contains(version)) {
            None => Err(ProviderError::NotFound(format!("{said} has no such version; its latest is {}.", info.latest_version))),
            Some(version) if version < least => {
                Err(ProviderError::Denied(format!("{said} allows no version below {least}, so version {version} cannot be used.")))
            }
            Some(version) if !info.has(version) => Err(self.malformed("described without its latest versions", &info.name)),
            Some(version) => Ok(version),
        }
    }

    /// The error of an item that stands for its whole batch.
    fn refused(&self, refusal: Refusal, status: u16, key: ProviderKey<'_>) -> ProviderError {
        let said = self.said(key.name);
        match refusal {
            Refusal::Disabled => ProviderError::Denied(format!("{said} is soft-deleted.")),
            Refusal::NoVersion => ProviderError::NotFound(format!("{said} has no version {}.", key.version)),
            Refusal::TooOld => ProviderError::Denied(format!("{said} no longer allows the version: its least one was raised.")),
            Refusal::Blob | Refusal::Other if status >= 500 => wire::status_error(status, &said),
            Refusal::Blob | Refusal::Other => {
                ProviderError::Denied(format!("{said} refused to wrap: it may not be of algorithm {}.", key.algorithm.name()))
            }
        }
    }

    fn unsupported(&self, key: &str, algorithm: Algorithm) -> ProviderError {
        ProviderError::Denied(format!("{} cannot be of algorithm {}: transit does not have it.", self.said(key), algorithm.name()))
    }

    fn malformed(&self, what: &str, key: &str) -> ProviderError {
        ProviderError::Malformed(format!("{} was {what}.", self.said(key)))
    }

    /// Key and place, as the beginning of a sentence.
    fn said(&self, key: &str) -> String {
        format!("Key \"{key}\" of mount \"{}\" at {}", self.mount, self.endpoint.origin())
    }
}
