//! Google Cloud KMS: symmetric keys.
//!
//! A key authenticates the slot's AAD. A share is wrapped under the version that is pinned, and the answer names the version that did it; for
//! opening, the API finds the version by the blob. Checksums go both ways, as Google's guidelines for data integrity want it.

use super::{
    Answer, Capabilities, Description, Provider, ProviderError, ProviderKey, ToOpen, ToWrap,
    bearer::{Api, Call, says},
    cloud::Failure,
    crc32c::crc32c,
    gcp_credentials::Identity,
    http::Reply,
    secret_json,
};
use crate::core::{secret::Share, suite::Algorithm};
use base64::{Engine, engine::general_purpose::STANDARD};
use reqwest::Method;
use serde_json::{Map, Value, json};
use zeroize::Zeroizing;

/// Name of this kind in `kms_providers.provider`.
pub const KIND: &str = "gcp";

/// What Cloud KMS can do.
pub const CAPABILITIES: Capabilities = Capabilities { binds_context: true, shows_version: true, batches: false, interruptible: true };

/// Longest blob. That of a share takes some 110 bytes; the API has a limit of about 64 KiB.
const MAX_BLOB: usize = 4096;

/// Cloud KMS with one identity.
pub struct Gcp {
    api: Api<Identity>,
}

impl Gcp {
    /// A provider. Opens no connection and reads no file yet.
    pub(super) fn new(api: Api<Identity>) -> Self {
        Self { api }
    }

    /// Key and endpoint, for errors.
    fn what(&self, key: &str) -> String {
        format!("Key \"{key}\" at {}", self.api.origin())
    }

    /// The name, if it is one that needs no encoding in a path and cannot leave it.
    fn check_name(&self, name: &str) -> Result<(), ProviderError> {
        if is_key_name(name) {
            return Ok(());
        }
        Err(ProviderError::NotFound(format!(
            "{}: the name is not of the form projects/PROJECT/locations/LOCATION/keyRings/RING/cryptoKeys/KEY.",
            self.what(name)
        )))
    }

    fn check_algorithm(&self, key: ProviderKey<'_>) -> Result<(), ProviderError> {
        if key.algorithm == Algorithm::Aes256Gcm {
            return Ok(());
        }
        Err(ProviderError::Denied(format!("{}: {} is not among the algorithms of this kind.", self.what(key.name), key.algorithm.name())))
    }

    async fn wrap_all(&self, key: ProviderKey<'_>, items: &[ToWrap<'_>]) -> Result<Vec<Vec<u8>>, ProviderError> {
        self.check_algorithm(key)?;
        self.check_name(key.name)?;
        let what = self.what(key.name);
        if !is_version(key.version) {
            return Err(ProviderError::Denied(format!("{what} is registered without a version number.")));
        }
        let version = format!("{}/cryptoKeyVersions/{}", key.name, key.version);
        let call = |i: usize| {
            let (share, aad) = items.get(i)?;
            let fields = json!({
                "plaintextCrc32c": crc32c(share.expose()).to_string(),
                "additionalAuthenticatedData": STANDARD.encode(aad),
                "additionalAuthenticatedDataCrc32c": crc32c(aad).to_string(),
            });
            let body = secret_json::with_bytes(&fields, "plaintext", share.expose(), &STANDARD);
            Some(Call { method: Method::POST, path: format!("/v1/{version}:encrypt"), body: Some(body), opens: false })
        };
        let answers = self.api.all(&what, items.len(), &call).await?;
        let malformed = |text: &str| ProviderError::Malformed(format!("{what}: {text}."));
        let blob = |answer: Option<Map<String, Value>>| {
            let answer = answer.ok_or_else(|| malformed("the answer does not fit the request"))?;
            if text(&answer, "name") != Some(&version) {
                return Err(malformed("the answer names another key or version"));
            }
            let verified = |field: &str| answer.get(field) == Some(&Value::Bool(true));
            if !verified("verifiedPlaintextCrc32c") || !verified("verifiedAdditionalAuthenticatedDataCrc32c") {
                return Err(malformed("the answer does not confirm the checksums of the request"));
            }
            let blob = text(&answer, "ciphertext").and_then(|blob| STANDARD.decode(blob).ok());
            let blob = blob.filter(|blob| (1..=MAX_BLOB).contains(&blob.len()));
            let blob = blob.ok_or_else(|| malformed("the answer holds no usable ciphertext"))?;
            if checksum(&answer, "ciphertextCrc32c") != Some(crc32c(&blob)) {
                return Err(malformed("the ciphertext does not have the checksum beside it"));
            }
            Ok(blob)
        };
        answers.into_iter().map(blob).collect()
    }

    async fn open_all(&self, key: ProviderKey<'_>, items: &[ToOpen<'_>]) -> Result<Vec<Option<Share>>, ProviderError> {
        self.check_algorithm(key)?;
        self.check_name(key.name)?;
        let what = self.what(key.name);
        let call = |i: usize| {
            let (blob, aad) = items.get(i)?;
            if !(1..=MAX_BLOB).contains(&blob.len()) {
                return None;
            }
            let fields = json!({
                "ciphertext": STANDARD.encode(blob),
                "ciphertextCrc32c": crc32c(blob).to_string(),
                "additionalAuthenticatedData": STANDARD.encode(aad),
                "additionalAuthenticatedDataCrc32c": crc32c(aad).to_string(),
            });
            let body = Zeroizing::new(fields.to_string().into_bytes());
            Some(Call { method: Method::POST, path: format!("/v1/{}:decrypt", key.name), body: Some(body), opens: true })
        };
        let answers = self.api.all(&what, items.len(), &call).await?;
        let malformed = |text: &str| ProviderError::Malformed(format!("{what}: {text}."));
        let share = |answer: Option<Map<String, Value>>| {
            let Some(mut answer) = answer else { return Ok(None) };
            // Protocol Buffers leave an empty field out; no share is empty.
            let encoded = match answer.get("plaintext") {
                None => Zeroizing::new(String::new()),
                Some(_) => secret_json::take(&mut answer, "plaintext").ok_or_else(|| malformed("the plaintext is no text"))?,
            };
            let bytes = secret_json::decode(&encoded, &STANDARD).ok_or_else(|| malformed("the plaintext is not Base64"))?;
            if checksum(&answer, "plaintextCrc32c") != Some(crc32c(&bytes)) {
                return Err(malformed("the plaintext does not have the checksum beside it"));
            }
            Ok(Share::copy_from(&bytes))
        };
        answers.into_iter().map(share).collect()
    }

    async fn look_up(&self, name: &str, version: Option<&str>, algorithm: Algorithm) -> Result<Description, ProviderError> {
        let what = self.what(name);
        self.check_name(name)?;
        if version.is_some_and(|version| !is_version(version)) {
            return Err(ProviderError::NotFound(format!("{what}: a version is a number from 1 on.")));
        }
        let malformed = |text: &str| ProviderError::Malformed(format!("{what}: {text}."));
        let path = version.map_or_else(|| format!("/v1/{name}"), |version| format!("/v1/{name}/cryptoKeyVersions/{version}"));
        let answer = self.api.one(&what, &path).await.map_err(|failure| failure.into_error(&self.api.origin()))?;
        let primary;
        let found = if version.is_some() {
            &answer
        } else {
            if text(&answer, "purpose") != Some("ENCRYPT_DECRYPT") {
                return Err(malformed(&format!("the purpose of the key is not that of {}", Algorithm::Aes256Gcm.name())));
            }
            let none = || ProviderError::Denied(format!("{what}: the key has no primary version."));
            primary = answer.get("primary").and_then(Value::as_object).ok_or_else(none)?;
            primary
        };
        let full = text(found, "name").and_then(|full| full.split_once("/cryptoKeyVersions/"));
        let (key, number) = full.ok_or_else(|| malformed("the answer names no version of a key"))?;
        if !names(name, key) || !is_version(number) || version.is_some_and(|version| version != number) {
            return Err(malformed("the answer names another key or version"));
        }
        let offered = text(found, "algorithm") == Some("GOOGLE_SYMMETRIC_ENCRYPTION");
        if !offered || algorithm != Algorithm::Aes256Gcm {
            let kind = if offered { Algorithm::Aes256Gcm.name() } else { "another type" };
            return Err(malformed(&format!("the key is of {kind}, not {}", algorithm.name())));
        }
        match text(found, "state") {
            Some("ENABLED") => {}
            Some("DISABLED") => return Err(ProviderError::Denied(format!("{what}: version {number} is disabled."))),
            Some("DESTROYED" | "DESTROY_SCHEDULED") => {
                return Err(ProviderError::Denied(format!("{what}: version {number} is destroyed, or its destruction is scheduled.")));
            }
            _ => return Err(ProviderError::Denied(format!("{what}: version {number} is not enabled."))),
        }
        Ok(Description { name: key.to_owned(), version: number.to_owned(), algorithm, public_key: None })
    }
}

impl Provider for Gcp {
    fn capabilities(&self) -> Capabilities {
        CAPABILITIES
    }

    fn wrap<'a>(&'a self, key: ProviderKey<'a>, items: &'a [ToWrap<'a>]) -> Answer<'a, Vec<Vec<u8>>> {
        Box::pin(self.wrap_all(key, items))
    }

    fn unwrap<'a>(&'a self, key: ProviderKey<'a>, items: &'a [ToOpen<'a>]) -> Answer<'a, Vec<Option<Share>>> {
        Box::pin(self.open_all(key, items))
    }

    fn describe<'a>(&'a self, name: &'a str, version: Option<&'a str>, algorithm: Algorithm) -> Answer<'a, Description> {
        Box::pin(self.look_up(name, version.filter(|version| !version.is_empty()), algorithm))
    }

    fn health(&self) -> Answer<'_, ()> {
        Box::pin(async move {
            let what = format!("Cloud KMS at {}", self.api.origin());
            let token = self.api.token().await?;
            let project = token.project.as_deref().unwrap_or_default();
            match self.api.one(&what, &format!("/v1/projects/{project}/locations?pageSize=1")).await {
                // Rights are looked at after the token was found good, and few identities may list locations.
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
    let status = body.as_ref().and_then(|body| body.get("error")?.get("status")?.as_str()).unwrap_or_default();
    let say = |text: &str| format!("{what}: {text}.");
    let forbidden = || Failure::Forbidden(Denied(say("the identity is not allowed to do this, or there is no such key")));
    let stale = || Failure::Stale(Denied(say("the access token is not accepted")));
    let busy = || Failure::Failed(Throttled(say("fewer requests are wanted")));
    let away = || Failure::Failed(Unavailable(say("the service cannot answer now")));
    let missing = || Failure::Failed(NotFound(say("there is no such key or version")));
    match status {
        // Said of bytes that do not open, and of checksums that do not fit.
        "INVALID_ARGUMENT" if says(reply, "checksum") => Failure::Failed(Malformed(say("the request arrived with other checksums"))),
        "INVALID_ARGUMENT" if opens => Failure::Rejected,
        "FAILED_PRECONDITION" => {
            Failure::Failed(Denied(say("the state or the purpose of the key forbids this; the version may be disabled or destroyed")))
        }
        "UNAUTHENTICATED" => stale(),
        "PERMISSION_DENIED" => forbidden(),
        "NOT_FOUND" => missing(),
        "RESOURCE_EXHAUSTED" => busy(),
        "ABORTED" | "CANCELLED" | "DEADLINE_EXCEEDED" | "INTERNAL" | "UNAVAILABLE" | "UNKNOWN" => away(),
        _ => match reply.status {
            401 => stale(),
            403 => forbidden(),
            429 => busy(),
            500.. => away(),
            status => Failure::Failed(Malformed(say(&format!("the request fails with status {status}")))),
        },
    }
}

fn text<'a>(object: &'a Map<String, Value>, field: &str) -> Option<&'a str> {
    object.get(field).and_then(Value::as_str)
}

/// A checksum in an answer. Protocol Buffers write 64-bit numbers as texts.
fn checksum(object: &Map<String, Value>, field: &str) -> Option<u32> {
    let value = object.get(field)?;
    value.as_str().and_then(|text| text.parse().ok()).or_else(|| u32::try_from(value.as_u64()?).ok())
}

/// Whether a text may be the id of a project: of letters, digits and dashes, with a domain before a colon for old ones.
pub(super) fn is_project(text: &str) -> bool {
    (1..=100).contains(&text.len())
        && !text.starts_with('.')
        && text.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || "-.:".contains(c))
}

fn is_key_name(name: &str) -> bool {
    let parts: Vec<_> = name.split('/').collect();
    let ["projects", project, "locations", location, "keyRings", ring, "cryptoKeys", key] = parts.as_slice() else { return false };
    let is_id = |id: &str| (1..=63).contains(&id.len()) && id.chars().all(|c| c.is_ascii_alphanumeric() || "-_".contains(c));
    is_project(project) && is_id(location) && is_id(ring) && is_id(key)
}

fn is_version(version: &str) -> bool {
    (1..=18).contains(&version.len()) && !version.starts_with('0') && version.chars().all(|c| c.is_ascii_digit())
}

/// Whether an answer's key is the one that was asked for. Where a project's number was, its id may stand.
fn names(asked: &str, key: &str) -> bool {
    let split =
        |name: &'_ str| name.strip_prefix("projects/").and_then(|rest| rest.split_once('/')).map(|(p, k)| (p.to_owned(), k.to_owned()));
    let (Some((asked_project, asked_rest)), Some((project, rest))) = (split(asked), split(key)) else { return false };
    is_key_name(key) && rest == asked_rest && (project == asked_project || asked_project.chars().all(|c| c.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "projects/acme-1/locations/europe-west3/keyRings/ring/cryptoKeys/key_1";

    #[test]
    fn names_cannot_leave_their_path() {
        assert!(is_key_name(KEY));
        assert!(is_key_name("projects/example.com:acme/locations/global/keyRings/R/cryptoKeys/K"));
        for bad in [
            "",
            "projects/../locations/l/keyRings/r/cryptoKeys/k",
            "projects/p/locations/l/keyRings/r/cryptoKeys/",
            "projects/p/locations/l/keyRings/r/cryptoKeys/..",
            "projects/p/locations/l/keyRings/r/cryptoKeys/k/cryptoKeyVersions/1",
            "projects/p/locations/l/keyRings/r/cryptoKeys/k?x",
            "projects/p/locations/l/keyRings/r/cryptoKeys/k:decrypt",
            "projects/p/locations/l/keyRings/%2e/cryptoKeys/k",
            "/projects/p/locations/l/keyRings/r/cryptoKeys/k",
        ] {
            assert!(!is_key_name(bad), "{bad}");
        }
        for (version, good) in
            [("1", true), ("120", true), ("0", false), ("01", false), ("", false), ("-1", false), ("1 ", false), ("../1", false)]
        {
            assert_eq!(is_version(version), good, "{version}");
        }
    }

    #[test]
    fn an_answer_fits_the_name_that_was_asked_for() {
        assert!(names(KEY, KEY));
        assert!(names(&KEY.replace("acme-1", "123456"), KEY));
        for other in [KEY.replace("acme-1", "acme-2"), KEY.replace("key_1", "key_2"), KEY.replace("ring/", "other/"), String::new()] {
            assert!(!names(KEY, &other), "{other}");
        }
    }
}
