//! Azure Key Vault and Managed HSM: RSA keys, and symmetric keys of Managed HSM.
//!
//! A share is wrapped for an RSA key here, under the registered public key. A symmetric key authenticates the slot's AAD. Azure opens with the
//! version that a request names, so a blob begins with the version that made it, and a zero byte.

use super::{
    Answer, Capabilities, Description, Provider, ProviderError, ProviderKey, ToOpen, ToWrap,
    azure_credentials::Identity,
    bearer::{Api, Call},
    cloud::Failure,
    http::Reply,
    oaep, secret_json, spki,
};
use crate::core::{secret::Share, suite::Algorithm};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use reqwest::Method;
use serde_json::{Map, Value, json};
use url::Url;

/// Name of this kind in `kms_providers.provider`.
pub const KIND: &str = "azure";

/// What Azure can do. Its only symmetric algorithm here authenticates the AAD.
pub const CAPABILITIES: Capabilities = Capabilities { binds_context: true, shows_version: true, batches: false, interruptible: true };

/// The newest version of the API that vaults and Managed HSMs of all of Azure's clouds have.
const API: &str = "api-version=7.4";

/// Longest ciphertext: that of an RSA key of 4096 bits has 512 bytes.
const MAX_BLOB: usize = 1024;

/// Bytes of a nonce and of a tag of AES-GCM.
const NONCE: usize = 12;
const TAG: usize = 16;

/// A vault or Managed HSM with one identity.
pub struct Azure {
    api: Api<Identity>,
}

impl Azure {
    /// A provider. Opens no connection and reads no file yet.
    pub(super) fn new(api: Api<Identity>) -> Self {
        Self { api }
    }

    /// Key and endpoint, for errors.
    fn what(&self, key: &str) -> String {
        format!("Key \"{key}\" at {}", self.api.origin())
    }

    fn check_name(&self, name: &str) -> Result<(), ProviderError> {
        if is_key_name(name) {
            return Ok(());
        }
        Err(ProviderError::NotFound(format!("{}: the name of a key has 1 to 127 characters out of A-Z a-z 0-9 -.", self.what(name))))
    }

    fn check_algorithm(&self, key: ProviderKey<'_>) -> Result<(), ProviderError> {
        if operation(key.algorithm).is_some() {
            return Ok(());
        }
        Err(ProviderError::Denied(format!("{}: {} is not among the algorithms of this kind.", self.what(key.name), key.algorithm.name())))
    }

    async fn wrap_all(&self, key: ProviderKey<'_>, items: &[ToWrap<'_>]) -> Result<Vec<Vec<u8>>, ProviderError> {
        self.check_algorithm(key)?;
        self.check_name(key.name)?;
        if !is_version(key.version) {
            return Err(ProviderError::Denied(format!("{} is registered without a version.", self.what(key.name))));
        }
        let blob = |ciphertext: &[u8]| [key.version.as_bytes(), &[0], ciphertext].concat();
        if key.algorithm.has_public_key() {
            // RSA takes no AAD, and needs nobody for wrapping. Whether there is such a key is told by opening only.
            return items.iter().map(|(share, _)| Ok(blob(&oaep::wrap(key, share)?))).collect();
        }
        let what = self.what(key.name);
        let call = |i: usize| {
            let (share, aad) = items.get(i)?;
            let fields = json!({"alg": "A256GCM", "aad": URL_SAFE_NO_PAD.encode(aad)});
            let body = secret_json::with_bytes(&fields, "value", share.expose(), &URL_SAFE_NO_PAD);
            Some(Call { method: Method::POST, path: path(key.name, key.version, "/encrypt"), body: Some(body), opens: false })
        };
        let answers = self.api.all(&what, items.len(), &call).await?;
        let malformed = |text: &str| ProviderError::Malformed(format!("{what}: {text}."));
        let sealed = |answer: Option<Map<String, Value>>| {
            let answer = answer.ok_or_else(|| malformed("the answer does not fit the request"))?;
            self.check_key(&answer, key.name, key.version)?;
            let part = |field: &str, len: usize| bytes(&answer, field).filter(|bytes| bytes.len() == len);
            // Of a share the ciphertext has its length.
            let parts = part("iv", NONCE).zip(part("tag", TAG)).zip(part("value", 32));
            let ((nonce, tag), value) = parts.ok_or_else(|| malformed("the answer holds no usable ciphertext"))?;
            Ok(blob(&[nonce, tag, value].concat()))
        };
        answers.into_iter().map(sealed).collect()
    }

    async fn open_all(&self, key: ProviderKey<'_>, items: &[ToOpen<'_>]) -> Result<Vec<Option<Share>>, ProviderError> {
        self.check_algorithm(key)?;
        self.check_name(key.name)?;
        let what = self.what(key.name);
        let call = |i: usize| {
            let (blob, aad) = items.get(i)?;
            let (version, ciphertext) = split(blob)?;
            let encode = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
            let fields = if key.algorithm == Algorithm::Aes256Gcm {
                let (nonce, rest) = ciphertext.split_at_checked(NONCE)?;
                let (tag, value) = rest.split_at_checked(TAG)?;
                json!({"alg": "A256GCM", "aad": encode(aad), "iv": encode(nonce), "tag": encode(tag), "value": encode(value)})
            } else {
                json!({"alg": "RSA-OAEP-256", "value": encode(ciphertext)})
            };
            let body = fields.to_string().into_bytes().into();
            let verb = if key.algorithm == Algorithm::Aes256Gcm { "/decrypt" } else { "/unwrapkey" };
            Some(Call { method: Method::POST, path: path(key.name, version, verb), body: Some(body), opens: true })
        };
        let answers = self.api.all(&what, items.len(), &call).await?;
        // A version never goes while its key is there, so one that is not there was never this key's. But is there the key?
        if answers.iter().zip(items).any(|(answer, (blob, _))| answer.is_none() && split(blob).is_some()) {
            self.get(&what, key.name, "").await?;
        }
        let malformed = |text: &str| ProviderError::Malformed(format!("{what}: {text}."));
        let share = |(answer, (blob, _)): (Option<Map<String, Value>>, &ToOpen<'_>)| {
            let Some(mut answer) = answer else { return Ok(None) };
            let value = secret_json::take(&mut answer, "value").ok_or_else(|| malformed("the answer lacks a field"))?;
            let (version, _) = split(blob).ok_or_else(|| malformed("the answer does not fit the request"))?;
            self.check_key(&answer, key.name, version)?;
            let value = secret_json::decode(&value, &URL_SAFE_NO_PAD).ok_or_else(|| malformed("the answer is not Base64"))?;
            Ok(Share::copy_from(&value))
        };
        answers.into_iter().zip(items).map(share).collect()
    }

    /// Refuses an answer that another key or version gave.
    fn check_key(&self, answer: &Map<String, Value>, name: &str, version: &str) -> Result<(), ProviderError> {
        let kid = answer.get("kid").and_then(Value::as_str).and_then(parse_kid);
        if kid.is_some_and(|(key, of)| key.eq_ignore_ascii_case(name) && of == version) {
            return Ok(());
        }
        Err(ProviderError::Malformed(format!("{}: the answer names another key or version.", self.what(name))))
    }

    async fn get(&self, what: &str, name: &str, version: &str) -> Result<Map<String, Value>, ProviderError> {
        self.api.one(what, &path(name, version, "")).await.map_err(|failure| failure.into_error(&self.api.origin()))
    }

    async fn look_up(&self, name: &str, version: &str, algorithm: Algorithm) -> Result<Description, ProviderError> {
        let what = self.what(name);
        self.check_name(name)?;
        if !version.is_empty() && !is_version(version) {
            return Err(ProviderError::NotFound(format!("{what}: a version has 32 digits out of 0-9 a-f.")));
        }
        let malformed = |text: &str| ProviderError::Malformed(format!("{what}: {text}."));
        let answer = self.get(&what, name, version).await?;
        let part = |field: &str| answer.get(field).and_then(Value::as_object);
        let key = part("key").ok_or_else(|| malformed("the answer describes no key"))?;
        let kid = key.get("kid").and_then(Value::as_str).and_then(parse_kid);
        let (found, of) = kid
            .filter(|(key, of)| key.eq_ignore_ascii_case(name) && (version.is_empty() || of == version))
            .ok_or_else(|| malformed("the answer names another key or version"))?;
        if part("attributes").and_then(|attributes| attributes.get("enabled")) != Some(&Value::Bool(true)) {
            return Err(ProviderError::Denied(format!("{what}: the key is disabled.")));
        }
        let family = match key.get("kty").and_then(Value::as_str) {
            Some("RSA" | "RSA-HSM") => "RSA",
            Some("oct-HSM") => "AES",
            _ => "another kind",
        };
        let (wanted, verbs) = operation(algorithm).unwrap_or(("another", &[]));
        if family != wanted {
            return Err(malformed(&format!("the key is of type {family}, not {}", algorithm.name())));
        }
        let allowed: Vec<_> = key.get("key_ops").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str).collect();
        if let Some(verb) = verbs.iter().find(|verb| !allowed.contains(*verb)) {
            return Err(ProviderError::Denied(format!("{what}: the key does not permit the operation {verb}.")));
        }
        let public_key = if algorithm.has_public_key() {
            let parts = bytes(key, "n").zip(bytes(key, "e"));
            let spki = parts.and_then(|(n, e)| spki::rsa(&n, &e)).filter(|spki| oaep::is_valid_public_key(spki));
            Some(spki.ok_or_else(|| malformed("its public key is not one of RSA"))?)
        } else {
            None
        };
        Ok(Description { name: found, version: of, algorithm, public_key })
    }
}

impl Provider for Azure {
    fn capabilities(&self) -> Capabilities {
        CAPABILITIES
    }

    fn wraps_here(&self, algorithm: Algorithm) -> bool {
        matches!(algorithm, Algorithm::RsaOaepSha256)
    }

    fn wrap<'a>(&'a self, key: ProviderKey<'a>, items: &'a [ToWrap<'a>]) -> Answer<'a, Vec<Vec<u8>>> {
        Box::pin(self.wrap_all(key, items))
    }

    fn unwrap<'a>(&'a self, key: ProviderKey<'a>, items: &'a [ToOpen<'a>]) -> Answer<'a, Vec<Option<Share>>> {
        Box::pin(self.open_all(key, items))
    }

    fn describe<'a>(&'a self, name: &'a str, version: Option<&'a str>, algorithm: Algorithm) -> Answer<'a, Description> {
        Box::pin(self.look_up(name, version.unwrap_or_default(), algorithm))
    }

    fn health(&self) -> Answer<'_, ()> {
        Box::pin(async move {
            let what = format!("Azure at {}", self.api.origin());
            match self.api.one(&what, &format!("/keys?maxresults=1&{API}")).await {
                // Rights are looked at after the token was found good, and few identities may list keys.
                Ok(_) | Err(Failure::Forbidden(_)) => Ok(()),
                Err(failure) => Err(failure.into_error(&self.api.origin())),
            }
        })
    }
}

/// What an answer of the API that is no success means.
pub(super) fn classify(reply: &Reply, opens: bool, what: &str) -> Failure {
    use ProviderError::{Denied, Malformed, NotFound, Throttled, Unavailable};
    let body: Option<Value> = serde_json::from_slice(&reply.body).ok();
    let error = body.as_ref().and_then(|body| body.get("error"));
    let code = error.and_then(|error| error.get("code")?.as_str()).unwrap_or_default();
    let inner = error.and_then(|error| error.get("innererror")?.get("code")?.as_str()).unwrap_or_default();
    let say = |text: &str| format!("{what}: {text}.");
    match (reply.status, code, inner) {
        // Said of bytes that do not open, and of those that no key could have made.
        (400, "BadParameter", _) | (404, "KeyNotFound", _) if opens => Failure::Rejected,
        (404, ..) => Failure::Failed(NotFound(say("there is no such key or version"))),
        (401, ..) => Failure::Stale(Denied(say("the access token is not accepted"))),
        (_, "KeyDisabled", _) | (_, _, "KeyDisabled") => Failure::Failed(Denied(say("the key is disabled"))),
        (_, _, "KeyExpired" | "KeyNotYetValid") => Failure::Failed(Denied(say("the key may not be used at this time"))),
        (_, _, "ForbiddenByFirewall" | "ForbiddenByConnection") => {
            Failure::Failed(Denied(say("the firewall of the vault refuses this server")))
        }
        (403, ..) => Failure::Forbidden(Denied(say("the identity is not allowed to do this"))),
        (429, ..) => Failure::Failed(Throttled(say("fewer requests are wanted"))),
        (408 | 500.., ..) => Failure::Failed(Unavailable(say("the service cannot answer now"))),
        (status, ..) => Failure::Failed(Malformed(say(&format!("the request fails with status {status}")))),
    }
}

/// What a key must be for an algorithm, and which operations it must permit.
fn operation(algorithm: Algorithm) -> Option<(&'static str, &'static [&'static str])> {
    match algorithm {
        Algorithm::Aes256Gcm => Some(("AES", &["encrypt", "decrypt"])),
        Algorithm::RsaOaepSha256 => Some(("RSA", &["unwrapKey"])),
        _ => None,
    }
}

/// Name and version have passed their checks, so that none needs encoding.
fn path(name: &str, version: &str, verb: &str) -> String {
    let version = if version.is_empty() { String::new() } else { format!("/{version}") };
    format!("/keys/{name}{version}{verb}?{API}")
}

fn bytes(object: &Map<String, Value>, field: &str) -> Option<Vec<u8>> {
    URL_SAFE_NO_PAD.decode(object.get(field)?.as_str()?).ok()
}

fn is_key_name(name: &str) -> bool {
    (1..=127).contains(&name.len()) && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-')
}

fn is_version(version: &str) -> bool {
    version.len() == 32 && version.chars().all(|c| matches!(c, '0'..='9' | 'a'..='f'))
}

/// Name and version in the address of a key's version.
fn parse_kid(kid: &str) -> Option<(String, String)> {
    let url = Url::parse(kid).ok()?;
    let parts: Vec<_> = url.path_segments()?.collect();
    let ["keys", name, version] = parts.as_slice() else { return None };
    (is_key_name(name) && is_version(version)).then(|| ((*name).to_owned(), (*version).to_owned()))
}

/// Version and ciphertext of a blob; `None` where it is none.
fn split(blob: &[u8]) -> Option<(&str, &[u8])> {
    let (version, rest) = blob.split_at_checked(32)?;
    let version = std::str::from_utf8(version).ok().filter(|version| is_version(version))?;
    let ciphertext = rest.strip_prefix(&[0])?;
    (1..=MAX_BLOB).contains(&ciphertext.len()).then_some((version, ciphertext))
}

#[cfg(test)]
mod tests {
    use super::*;

    const VERSION: &str = "0123456789abcdef0123456789abcdef";

    #[test]
    fn a_kid_names_key_and_version() {
        let parsed = parse_kid(&format!("https://v.vault.azure.net/keys/k-1/{VERSION}"));
        assert_eq!(parsed, Some(("k-1".to_owned(), VERSION.to_owned())));
        for bad in ["", "k", "https://v/keys/k", "https://v/keys/k/1", "https://v/secrets/k/0123456789abcdef0123456789abcdef"] {
            assert_eq!(parse_kid(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_blob_begins_with_its_version() {
        let blob = [VERSION.as_bytes(), b"\0ct"].concat();
        assert_eq!(split(&blob), Some((VERSION, &b"ct"[..])));
        let long = [VERSION.as_bytes(), &[0; MAX_BLOB + 2]].concat();
        for bad in [&b""[..], &blob[..33], &blob[1..], b"../../../../../../../../../../..\0ct", &long] {
            assert_eq!(split(bad), None);
        }
    }

    #[test]
    fn names_cannot_leave_their_path() {
        assert!(is_key_name("Key-1"));
        for bad in ["", "..", "a/b", "a?b", "a%2f", "a_b", &"a".repeat(128)] {
            assert!(!is_key_name(bad), "{bad}");
        }
    }
}
